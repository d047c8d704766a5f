"""The source kurrentdb: another Oxbow followed over gRPC while it is written to, killed and restarted;
and a server of the test's own that says what a KurrentDB says and an Oxbow does not. OXBOW names the
binary."""
import base64
import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import unittest
import uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cli_test  # noqa: E402
import grpc_client as g  # noqa: E402
from cli_test import event  # noqa: E402
from servers import free_port  # noqa: E402
from tls_test import Certificates  # noqa: E402

ROUNDS = int(os.environ.get('ROUNDS', '6'))
READ = '/event_store.client.streams.Streams/Read'
GOSSIP = '/event_store.client.gossip.Gossip/Read'


class Node:
    """An `oxbow serve` with a folder of its own."""

    def __init__(self, case, name, port=None, args=()):
        self.case, self.name, self.args = case, name, list(args)
        self.port = port or free_port()
        self.data = case.path(name)
        self.url = f'http://127.0.0.1:{self.port}'
        self.process = None

    def start(self):
        with open(self.case.path(self.name + '.log'), 'ab') as log:
            start = log.tell()
            self.process = subprocess.Popen(
                [cli_test.OXBOW, 'serve', '--data', self.data, '--listen', f'127.0.0.1:{self.port}',
                 *self.args], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.case.env)
        self.case.until(lambda: b'msg=listening' in self.log()[start:] or self.died())
        return self

    def log(self):
        with open(self.case.path(self.name + '.log'), 'rb') as f:
            return f.read()

    def died(self):
        if self.process.poll() is not None:
            self.case.fail(self.log().decode()[-3000:])

    def end(self):
        """As an operator ends it: it says that all is well."""
        self.kill(signal.SIGTERM)
        self.case.assertEqual(self.process.returncode, 0, self.log().decode()[-3000:])

    def kill(self, signum=signal.SIGKILL):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signum)
        if self.process is not None:
            self.process.wait(cli_test.PATIENCE)


class Case(cli_test.Case):
    def node(self, name, config=None, **more):
        args = more.pop('args', [])
        if config is not None:
            args = [*args, '-c', self.write(name + '.yaml', config)]
        node = Node(self, name, args=args, **more).start()
        self.addCleanup(node.end)
        return node

    def follower(self, port, more='', host='127.0.0.1', options='tls=false', scheme='kurrentdb'):
        """An Oxbow that follows whoever listens at the port."""
        return self.node('new', f'sources:\n  old:\n    type: kurrentdb\n'
                                f'    connection: "{scheme}://{host}:{port}?{options}"\n{more}')

    def on(self, node, *args, **more):
        return self.oxbow(*args, '--server', node.url, **more)

    def shown(self, node):
        return json.loads(self.on(node, 'source', 'show', 'old', '--json').out)

    def in_step(self, node, taken=None):
        """Until the source has nothing more that is not in the log."""
        def look():
            said = self.shown(node)
            self.assertNotEqual(said['state'], 'failed', said)
            detail = said.get('source') or said.get('detail') or said
            return said.get('caught_up') and (taken is None or detail.get('events', 0) >= taken)
        self.until(look)

    def fails(self, node, says):
        said = {}

        def look():
            said.update(self.shown(node))
            return re.search(says, said.get('error') or '')
        try:
            self.until(look)
        except AssertionError:
            self.fail(said)
        return said

    def streams(self, node):
        return [x['stream'] for x in self.on(node, 'stream', 'list', '--json').lines
                if not x['stream'].startswith(('$source-', '$parked-'))]

    def events(self, node, stream, *args):
        out = []
        for x in self.on(node, 'read', stream, '--json', *args).lines:
            x.pop('position')
            out.append(x)
        return out

    def kept(self, node):
        streams = {}
        for args in ((), ('--prefix', '$$')):
            for x in self.events(node, '$all', *args):
                streams.setdefault(x.pop('stream'), []).append(x)
        return streams

    def same(self, old, new):
        """Every stream, event for event, with the metadata of streams; what was just taken may still
        be on its way into the log."""
        want = self.kept(old)
        with contextlib.suppress(AssertionError):
            self.until(lambda: self.kept(new) == want)
        self.assertEqual(want, self.kept(new))
        return sorted(want)

    def write_some(self, node, first, count, streams=7):
        for s in range(streams):
            lines = ''.join(event('T%d' % (i % 3), {'n': i}, metadata={'by': s})
                            for i in range(first, first + count))
            self.on(node, 'append', f'order-{s}', stdin=lines)


class Follow(Case):
    """Another Oxbow."""

    def test_everything(self):
        old = self.node('old')
        self.write_some(old, 0, 40)
        self.on(old, 'append', 'bytes-1', stdin=json.dumps(
            {'type': 'B', 'data_base64': base64.b64encode(bytes(range(256))).decode()}) + '\n')
        self.on(old, 'append', 'large-1', stdin=event('L', {'x': 'x' * 5_000_000}))
        self.on(old, 'stream', 'link', 'links-1', '3@order-1', '7@none')
        self.on(old, 'stream', 'metadata', 'order-2', '{"$maxCount":5,"$acl":{"$r":"ann"},"own":[1]}')
        self.on(old, 'stream', 'metadata', 'order-3', '{"$tb":30}')
        self.on(old, 'stream', 'truncate', 'order-4', '12')
        self.on(old, 'stream', 'delete', 'order-5')
        self.on(old, 'append', 'order-5', stdin=event('Again', {}))
        new = self.follower(old.port)
        self.in_step(new)
        kept = self.same(old, new)
        self.assertTrue({'order-5', '$$order-2', 'bytes-1', 'links-1'} <= set(kept), kept)
        self.assertEqual([x['version'] for x in self.events(new, 'order-5')], [40])
        self.assertEqual(self.events(new, 'order-4')[0]['version'], 12)
        self.assertEqual(self.events(new, 'links-1', '--resolve')[0]['data'], {'n': 3})
        # And in step.
        self.write_some(old, 40, 3)
        self.on(old, 'stream', 'metadata', 'order-1', '{"$maxAge":100000}')
        self.on(old, 'append', 'late-1', stdin=event('Late', {}))
        self.until(lambda: 'late-1' in self.streams(new))
        self.same(old, new)
        said = self.on(new, 'source', 'show', 'old').out
        self.assertIn('running', said)
        self.assertNotIn('password', said)
        config = self.path('new.yaml')
        for command in ('check', 'prepare', 'unprepare'):
            self.assertRegex(self.oxbow('source', command, 'old', '-c', config).out, 'answers|nothing')
        self.assertIn('can be read', self.oxbow('check', '-c', config).out)
        # Who wrote here meanwhile is not written over.
        self.on(new, 'append', 'late-1', stdin=event('Mine', {}))
        self.on(old, 'append', 'late-1', stdin=event('Theirs', {}))
        said = self.fails(new, 'another event at version 1 here')
        self.assertEqual(said['state'], 'failed')

    def test_only_some(self):
        old = self.node('old')
        for name in ('a-1', 'a-2', 'b-1'):
            self.on(old, 'append', name, stdin=event('T', {}))
            self.on(old, 'stream', 'metadata', name, '{"$maxCount":3}')
        new = self.follower(old.port, '    include: ["a-", "b"]\n    exclude: [a-2]\n')
        self.in_step(new)
        self.assertEqual(self.streams(new), ['$$a-1', '$$b-1', 'a-1', 'b-1'])

    def test_killed(self):
        """kill -9 of the follower, at any point, and of the one that it follows."""
        old = self.node('old')
        self.write_some(old, 0, 500)
        new = self.follower(old.port, '    batch: 100\n')
        for i in range(ROUNDS):
            self.write_some(old, 500 + 20 * i, 20)
            new.kill()
            if i % 3 == 2:
                old.kill()
                old.start()
            new.start()
        self.in_step(new, 7 * (500 + 20 * ROUNDS))
        self.same(old, new)

    def test_server_restarts(self):
        """The connection is lost and found again; what came meanwhile is taken too."""
        old = self.node('old')
        self.write_some(old, 0, 10)
        new = self.follower(old.port)
        self.in_step(new, 70)
        for i in range(2):
            old.kill(signal.SIGTERM if i else signal.SIGKILL)
            self.until(lambda: self.shown(new)['state'] == 'retrying')
            old.start()
            self.write_some(old, 10 + i, 1)
            self.in_step(new, 70 + 7 * (i + 1))
        self.same(old, new)

    def test_tls(self):
        with tempfile.TemporaryDirectory() as folder:
            certs = Certificates(folder)
            pem, key = certs.make('server', 'first')
            old = self.node('old', f'tls: {{cert: {pem}, key: {key}}}\n')
            self.env['OXBOW_CA'] = certs.path('ca.pem')
            old.url = old.url.replace('http:', 'https:')
            self.write_some(old, 0, 5)
            new = self.follower(old.port, f'    ca_file: {certs.path("ca.pem")}\n', options='tls=true')
            self.in_step(new, 35)
            self.same(old, new)
            new.kill()
            with open(self.path('new.yaml'), encoding='utf-8') as f:
                self.write('new.yaml', f.read().replace('ca.pem', 'server.pem'))
            new.start()
            self.fails(new, 'TLS: ')

    def test_tls_client(self):
        """The old server asks for a certificate; it is named by keys or in the connection string."""
        with tempfile.TemporaryDirectory() as folder:
            certs = Certificates(folder)
            (pem, key), (own, own_key) = certs.make('server', 'first'), certs.make('client', 'ann')
            ca = certs.path('ca.pem')
            old = self.node('old', f'tls: {{cert: {pem}, key: {key}, client_ca: {ca}}}\n')
            self.env.update(OXBOW_CA=ca, OXBOW_CERT=own, OXBOW_KEY=own_key)
            old.url = old.url.replace('http:', 'https:')
            self.write_some(old, 0, 2)
            new = self.follower(old.port, f'    ca_file: {ca}\n', options='tls=true')
            self.fails(new, 'connection was lost')
            with open(self.path('new.yaml'), encoding='utf-8') as f:
                bare = f.read()
            for config, says, status in (
                    (f'    cert_file: {own}\n', 'needs its key', cli_test.UNREACHABLE),
                    (f'    cert_file: {own}\n    key_file: {key}\n', 'no key', cli_test.REFUSED),
                    (f'    cert_file: {ca}.none\n    key_file: {key}\n', 'no certificate',
                     cli_test.REFUSED)):
                self.refused('source', 'check', 'old', '-c', self.write('bad.yaml', bare + config),
                             says=says, status=status)
            new.kill()
            self.write('new.yaml', bare + f'    cert_file: {own}\n    key_file: {own_key}\n')
            new.start()
            self.in_step(new, 14)
            new.kill()
            self.write('new.yaml', bare.replace(
                'tls=true', f'tls=true&userCertFile={own}&userKeyFile={own_key}'))
            new.start()
            self.write_some(old, 2, 1)
            self.in_step(new, 21)
            self.same(old, new)


# What a KurrentDB says.

def recorded(stream, revision, commit, prepare, data=b'{}', kind='T', event_id=None, created=12345678):
    pairs = [(6, g.pb((1, k), (2, v))) for k, v in
             [('type', kind), ('created', str(created)), ('content-type', 'application/json')]]
    return g.pb((1, g.pb((2, str(event_id or uuid.uuid5(uuid.NAMESPACE_URL, f'{stream}/{revision}'))))),
                (2, g.pb((3, stream))), (3, revision), (4, prepare), (5, commit), *pairs, (7, b''),
                (8, data))


def read_event(*args, **more):
    return g.pb((1, g.pb((1, recorded(*args, **more)), (3, args[2]))))


CAUGHT_UP = g.pb((8, b''))


class Fake:
    """Serves one script: `answer(path, request, headers)` gives messages, then a status or None
    (the call goes on) or 'cut' (the connection ends in the middle of a message)."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = []
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        self.open = []
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.open.append(sock)
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        inflater = g.Inflater()
        with contextlib.suppress(OSError, EOFError), sock:
            self.take(sock, len(g.PREFACE))
            self.frame(sock, g.SETTINGS, 0, 0)
            headers, bodies = {}, {}
            while True:
                head = self.take(sock, 9)
                size, kind, flags = int.from_bytes(head[:3], 'big'), head[3], head[4]
                number = int.from_bytes(head[5:], 'big') & 0x7fffffff
                payload = self.take(sock, size)
                if kind == g.SETTINGS and not flags & g.ACK:
                    self.frame(sock, g.SETTINGS, g.ACK, 0)
                elif kind == g.PING and not flags & g.ACK:
                    self.frame(sock, g.PING, g.ACK, 0, payload)
                elif kind == g.HEADERS:
                    headers[number] = dict(inflater.inflate(payload))
                elif kind == g.DATA:
                    bodies[number] = bodies.get(number, b'') + payload
                if kind in (g.HEADERS, g.DATA) and flags & g.END_STREAM:
                    self.reply(sock, number, headers[number], bodies.get(number, b'')[5:])

    def reply(self, sock, number, headers, request):
        self.calls.append((headers[':path'], request, headers))
        messages, status = self.answer(headers[':path'], request, headers)
        self.frame(sock, g.HEADERS, g.END_HEADERS, number, b'\x88' +
                   g.literal('content-type', 'application/grpc'))
        for message in messages:
            self.frame(sock, g.DATA, 0, number, b'\0' + struct.pack('>I', len(message)) + message)
        if status == 'cut':
            self.frame(sock, g.DATA, 0, number, b'\0\0\0\0\x40half')
            sock.shutdown(socket.SHUT_RDWR)
        elif status is not None:
            self.frame(sock, g.HEADERS, g.END_HEADERS | g.END_STREAM, number, b''.join(
                g.literal(k, v) for k, v in {'grpc-status': str(status[0]), **status[1]}.items()))

    @staticmethod
    def take(sock, size):
        out = b''
        while len(out) < size:
            got = sock.recv(size - len(out))
            if not got:
                raise EOFError
            out += got
        return out

    @staticmethod
    def frame(sock, kind, flags, number, payload=b''):
        sock.sendall(struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) +
                     struct.pack('>I', number) + payload)


def position_of(request):
    """Where a subscription begins: (commit, prepare), or None: from the start."""
    at = g.one(request, 1, 2, 1)
    return None if at is None else (g.one(at, 1), g.one(at, 2))


def is_subscription(request):
    return g.one(request, 1, 6) is not None


class Kurrent(Case):
    """What only a KurrentDB says."""

    def fake(self, answer):
        fake = Fake(answer)
        self.addCleanup(fake.close)
        return fake

    def test_history(self):
        """Scavenged fronts, tombstones, soft deletion, two positions, a place without events."""
        log = [read_event('a-1', 5, 100, 90, b'{"n":5}'), read_event('a-1', 6, 100, 95),
               read_event('b-1', 0, 200, 200), read_event('$$b-1', 3, 210, 210, b'{"$maxCount":2}',
                                                          '$metadata'),
               read_event('b-1', (1 << 63) - 1, 220, 220, b'', '$streamDeleted'),
               read_event('c-1', 0, 230, 230),
               read_event('$$c-1', 0, 240, 240, b'{"$tb":9223372036854775807}', '$metadata'),
               read_event('c-1', 1, 250, 250),
               read_event('$$c-1', 1, 260, 260, b'{"$tb":1}', '$metadata'),
               read_event('link-1', 0, 270, 270, b'5@a-1', '$>'),
               read_event('$stats-x', 0, 280, 280), read_event('odd-1', 0, 290, 290, b'no JSON')]
        place = g.pb((3, g.pb((1, 5000), (2, 5000))))
        fake = self.fake(lambda path, request, headers: (
            [*log, place, CAUGHT_UP] if position_of(request) is None else [CAUGHT_UP], None))
        new = self.follower(fake.port, '    user: ann\n    password: secret\n')
        self.in_step(new)
        self.until(lambda: '"commit":5000' in self.on(new, 'read', '$source-old').out.replace(' ', ''))
        path, request, headers = fake.calls[-1]
        self.assertEqual(path, READ)
        self.assertEqual(g.one(request, 1, 7, 1, 1), rb'^([^$]|\$\$[^$])')
        self.assertEqual(headers['authorization'],
                         'Basic ' + base64.b64encode(b'ann:secret').decode())
        self.assertEqual(self.streams(new),
                         ['$$b-1', '$$c-1', 'a-1', 'c-1', 'link-1', 'odd-1'])
        got = self.events(new, 'a-1')
        self.assertEqual([(x['version'], x['data']) for x in got], [(5, {'n': 5}), (6, {})])
        self.assertEqual(got[0]['id'], str(uuid.uuid5(uuid.NAMESPACE_URL, 'a-1/5')))
        self.assertEqual(got[0]['created'], '1970-01-01T00:00:01.234567Z')
        self.refused('read', 'b-1', '--server', new.url, says='for good')
        self.assertEqual([x['version'] for x in self.events(new, 'c-1')], [1])
        self.assertEqual(self.events(new, 'link-1', '--resolve')[0]['data'], {'n': 5})
        self.assertIn('data_base64', self.events(new, 'odd-1')[0])
        new.kill()
        new.start()
        self.until(lambda: any(position_of(r) == (5000, 5000) for _, r, _ in fake.calls))

    def test_cut_and_resumed(self):
        """A connection that ends in the middle of a message; the next one goes on after the last
        whole event, with both of its positions."""
        def answer(path, request, headers):
            at = position_of(request)
            if not is_subscription(request):
                return [read_event('a-1', at[1] // 10, at[0], at[1])], (0, {})
            first = 0 if at is None else at[1] // 10 + 1
            if first >= 6:
                return [CAUGHT_UP], None
            return [read_event('a-1', i, 1000, 10 * i) for i in range(first, first + 2)], 'cut'
        fake = self.fake(answer)
        new = self.follower(fake.port)
        self.in_step(new, 6)
        self.assertEqual([x['version'] for x in self.events(new, 'a-1')], list(range(6)))
        self.assertEqual([position_of(r) for _, r, _ in fake.calls if is_subscription(r)],
                         [None, (1000, 10), (1000, 30), (1000, 50)])

    def test_another_database(self):
        other = []
        fake = self.fake(lambda path, request, headers: (
            [read_event('a-1', 0, 50, 50, event_id=other[0] if other else None), CAUGHT_UP],
            None if is_subscription(request) else (0, {})))
        new = self.follower(fake.port)
        self.in_step(new, 1)
        new.kill()
        other.append(uuid.uuid4())
        new.start()
        self.assertEqual(self.fails(new, 'another database')['state'], 'failed')

    def test_refusals(self):
        says = [(16, {'grpc-message': 'who%20are you'})]
        fake = self.fake(lambda path, request, headers: ([], says[0]))
        new = self.follower(fake.port)
        self.fails(new, r'Read: status 16: who are you')
        says[0] = (14, {'exception': 'not-leader'})
        self.fails(new, r'status 14 \(not-leader\)')
        says[0] = (3, {'grpc-message': 'Trying to read from an invalid position.'})
        self.assertEqual(self.fails(new, 'invalid position')['state'], 'failed')

    def test_discovery(self):
        """The leader of those that gossip names is read, and none that is not alive."""
        leader = self.fake(lambda path, request, headers: (
            [read_event('a-1', 0, 50, 50), CAUGHT_UP], None))

        def member(state, alive, port):
            return (1, g.pb((3, state), (4, alive), (5, g.pb((1, '127.0.0.1'), (2, port)))))
        seed = self.fake(lambda path, request, headers: (
            [g.pb(member(8, 0, 1), member(6, 1, 2), member(8, 1, leader.port))], (0, {})))
        dead = free_port()
        new = self.follower(seed.port, host=f'127.0.0.1:{dead},127.0.0.1', scheme='esdb+discover')
        self.in_step(new, 1)
        self.assertEqual({path for path, _, _ in seed.calls}, {GOSSIP})
        self.assertEqual(self.events(new, 'a-1')[0]['version'], 0)

    def test_configuration(self):
        for connection, says in [('http://x', 'scheme'), ('kurrentdb://', 'host is missing'),
                                 ('esdb://h:0', 'port'), ('esdb://h:99999', 'port'),
                                 ('esdb://h?tls=maybe', 'true or false'), ('esdb://u%:p@h', '%'),
                                 ('esdb://h/x', 'nothing but options')]:
            config = self.write('bad.yaml', 'sources:\n  old:\n    type: kurrentdb\n'
                                            f'    connection: "{connection}"\n')
            self.refused('source', 'check', 'old', '-c', config, says=says,
                         status=cli_test.UNREACHABLE)
        fake = self.fake(lambda path, request, headers: (
            [read_event('a-1', 0, 50, 50), CAUGHT_UP], None))
        self.fails(self.follower(fake.port, '    category: x\n'), 'keep their names')


if __name__ == '__main__':
    unittest.main()
