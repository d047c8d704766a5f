"""TLS at the port of the built binary: what is served over it, who is let in, certificates that change
meanwhile, and those who speak something else."""
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import unittest
import uuid
import warnings

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import grpc_client  # noqa: E402
from cli_test import UNREACHABLE, Case as Base  # noqa: E402


class Certificates:
    """One authority, and certificates of it, by the openssl command."""

    def __init__(self, folder):
        self.folder = folder
        self.run('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
                 '-keyout', self.path('ca.key'), '-out', self.path('ca.pem'), '-days', '2',
                 '-subj', '/CN=authority')

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, *args):
        subprocess.run(['openssl', *args], check=True, capture_output=True, timeout=60)

    def make(self, name, common):
        key, pem, request, extra = (self.path(name + end) for end in ('.key', '.pem', '.csr', '.ext'))
        self.run('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout',
                 key, '-out', request, '-subj', '/CN=' + common)
        with open(extra, 'w', encoding='ascii') as f:
            f.write('subjectAltName=IP:127.0.0.1,DNS:localhost\n')
        self.run('x509', '-req', '-in', request, '-CA', self.path('ca.pem'), '-CAkey',
                 self.path('ca.key'), '-CAcreateserial', '-out', pem, '-days', '2', '-extfile', extra)
        return pem, key


def setUpModule():
    global folder, certs
    folder = tempfile.TemporaryDirectory(prefix='oxbow-tls-')
    certs = Certificates(folder.name)
    certs.make('server', 'first')
    certs.make('second', 'second')
    certs.make('client', 'client')


def tearDownModule():
    folder.cleanup()


class Case(Base):
    def config(self, more='', cert='server'):
        return self.write('c.yaml', f'tls:\n  cert: {certs.path(cert + ".pem")}\n'
                                    f'  key: {certs.path(cert + ".key")}\n{more}')

    def context(self, client=False):
        context = ssl.create_default_context(cafile=certs.path('ca.pem'))
        if client:
            context.load_cert_chain(certs.path('client.pem'), certs.path('client.key'))
        return context

    def connect(self, url, context=None):
        conn = http.client.HTTPSConnection(url.split('//')[1], timeout=60,
                                           context=context or self.context())
        self.addCleanup(conn.close)
        return conn

    def ask(self, conn, method, path, body=None, **headers):
        conn.request(method, path, body, {k.replace('_', '-'): v for k, v in headers.items()})
        answer = conn.getresponse()
        return answer.status, answer.read()

    def raw(self, url):
        host, port = url.split('//')[1].split(':')
        sock = socket.create_connection((host, int(port)), 60)
        self.addCleanup(sock.close)
        return sock


class Served(Case):
    def test_requests(self):
        """Many on one connection, small and large, both ways."""
        with self.server('-c', self.config()) as (url, _):
            conn = self.connect(url)
            for i in range(50):
                status, body = self.ask(conn, 'POST', '/v1/streams/a-1', '{"type":"T","data":%d}' % i)
                self.assertEqual(status, 201, body)
            large = json.dumps({'type': 'L', 'data': 'x' * (8 << 20)})
            self.assertEqual(self.ask(conn, 'POST', '/v1/streams/b-1', large)[0], 201)
            status, body = self.ask(conn, 'GET', '/v1/streams/a-1')
            self.assertEqual([e['data'] for e in json.loads(body)['events']], list(range(50)))
            status, body = self.ask(conn, 'GET', '/v1/streams/b-1')
            self.assertEqual(len(json.loads(body)['events'][0]['data']), 8 << 20)
            self.assertEqual(self.ask(conn, 'GET', '/v1/streams/none')[0], 404)

    def test_pipelined_and_in_pieces(self):
        with self.server('-c', self.config()) as (url, _):
            sock = self.context().wrap_socket(self.raw(url), server_hostname='127.0.0.1')
            one = b'GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n'
            for byte in one:
                sock.sendall(bytes([byte]))
            sock.sendall(one * 200 + one.replace(b'Host', b'Connection: close\r\nHost'))
            got = b''
            while piece := sock.recv(65536):
                got += piece
            self.assertEqual(got.count(b'HTTP/1.1 200 OK'), 202)

    def test_handshake_in_pieces(self):
        with self.server('-c', self.config()) as (url, _):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = self.context().wrap_bio(incoming, outgoing, server_hostname='127.0.0.1')
            sock = self.raw(url)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def exchange(step):
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        for byte in outgoing.read():
                            sock.sendall(bytes([byte]))
                        incoming.write(sock.recv(1))
            exchange(tls.do_handshake)
            tls.write(b'GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n')
            for byte in outgoing.read():
                sock.sendall(bytes([byte]))
            self.assertTrue(exchange(lambda: tls.read(1000)).startswith(b'HTTP/1.1 200'))

    def test_live(self):
        """A subscriber is pushed what others append, and goes away without a word."""
        with self.server('-c', self.config()) as (url, _):
            conn, writer = self.connect(url), self.connect(url)
            conn.request('GET', '/v1/all', headers={'Accept': 'text/event-stream'})
            answer = conn.getresponse()
            for i in range(3):
                self.ask(writer, 'POST', '/v1/streams/a-1', '{"type":"T","data":%d}' % i)
                while '"data":' not in (line := answer.readline().decode()):
                    self.assertTrue(line)
                self.assertEqual(json.loads(line[6:])['data'], i)
            answer.close()

    def test_slow_reader(self):
        with self.server('-c', self.config()) as (url, _):
            conn = self.connect(url)
            event = json.dumps({'type': 'L', 'data': 'x' * (1 << 20)})
            for _ in range(12):
                self.assertEqual(self.ask(conn, 'POST', '/v1/streams/a-1', event)[0], 201)
            slow = self.connect(url)
            slow.request('GET', '/v1/streams/a-1')
            answer = slow.getresponse()
            first = answer.read(10)
            other = self.connect(url)
            self.assertEqual(self.ask(other, 'GET', '/health/live')[0], 200)
            rest = answer.read()
            self.assertEqual(len(json.loads(first + rest)['events']), 12)

    def test_grpc(self):
        """The other protocol of the port; more than either side's windows and buffers hold."""
        with self.server('-c', self.config()) as (url, _):
            context = self.context()
            context.set_alpn_protocols(['h2'])
            with grpc_client.Conn(int(url.split(':')[2]), window=1 << 16, tls=context) as conn:
                data = b'"' + b'x' * (1 << 20) + b'"'
                for _ in range(4):
                    event = grpc_client.proposed(uuid.uuid4(), data=data)
                    got = grpc_client.append(conn, 's', [event]).only()
                    self.assertIsNotNone(grpc_client.one(got, 1))
                events = grpc_client.kinds(grpc_client.read(conn, 's').all())
                self.assertEqual([(e.revision, len(e.data)) for e in events],
                                 [(i, len(data)) for i in range(4)])

    def test_command_line(self):
        with self.server('-c', self.config()) as (url, _):
            secure = url.replace('http:', 'https:')
            ca = {'OXBOW_CA': certs.path('ca.pem')}
            self.oxbow('append', 's', '--server', secure, stdin='{"type":"T","data":1}\n', env=ca)
            self.assertEqual(self.oxbow('read', 's', '--server', secure, env=ca).lines[0]['data'], 1)
            self.refused('read', 's', '--server', secure, says='OXBOW_CA', status=UNREACHABLE)


class LetIn(Case):
    def test_client_certificates(self):
        more = f'  client_ca: {certs.path("ca.pem")}\n'
        with self.server('-c', self.config(more)) as (url, _):
            self.assertEqual(self.ask(self.connect(url, self.context(True)), 'GET', '/health/live')[0],
                             200)
            with self.assertRaises((ssl.SSLError, OSError)):
                self.ask(self.connect(url), 'GET', '/health/live')
            secure = url.replace('http:', 'https:')
            env = {'OXBOW_CA': certs.path('ca.pem'), 'OXBOW_CERT': certs.path('client.pem'),
                   'OXBOW_KEY': certs.path('client.key')}
            self.oxbow('stream', 'list', '--server', secure, env=env)

    def test_old_versions(self):
        with self.server('-c', self.config()) as (url, _):
            for version, good in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True),
                                  (ssl.TLSVersion.TLSv1_3, True)):
                context = self.context()
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore', DeprecationWarning)
                    context.minimum_version = context.maximum_version = version
                context.set_ciphers('DEFAULT:@SECLEVEL=0')
                if good:
                    self.assertEqual(self.ask(self.connect(url, context), 'GET', '/health/live')[0],
                                     200)
                else:
                    with self.assertRaises(ssl.SSLError):
                        self.ask(self.connect(url, context), 'GET', '/health/live')

    def test_protocol_of_the_handshake(self):
        with self.server('-c', self.config()) as (url, _):
            for offered, chosen in ((['http/1.1'], 'http/1.1'), (['h2'], 'h2'),
                                    (['h2', 'http/1.1'], 'http/1.1'), ([], None)):
                context = self.context()
                if offered:
                    context.set_alpn_protocols(offered)
                with context.wrap_socket(self.raw(url), server_hostname='127.0.0.1') as sock:
                    self.assertEqual(sock.selected_alpn_protocol(), chosen)
            context = self.context()
            context.set_alpn_protocols(['nonsense'])
            with self.assertRaises(ssl.SSLError):
                context.wrap_socket(self.raw(url), server_hostname='127.0.0.1')

    def test_plain_words(self):
        with self.server('-c', self.config()) as (url, _):
            sock = self.raw(url)
            sock.sendall(b'GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n')
            got = b''
            while piece := sock.recv(65536):
                got += piece
            self.assertTrue(got.startswith(b'HTTP/1.1 400 '), got)
            self.assertIn(b'use https', got)

    def test_nonsense(self):
        """Bytes that are nothing, a record that was changed on its way, and many at once."""
        with self.server('-c', self.config()) as (url, process):
            for bytes_ in (b'\x00' * 100, b'\x16\x03\x01\xff\xff' + b'\xff' * 70000, b'\x16'):
                sock = self.raw(url)
                try:
                    sock.sendall(bytes_)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
                except OSError:
                    pass
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = self.context().wrap_bio(incoming, outgoing, server_hostname='127.0.0.1')
            sock = self.raw(url)
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
            tls.write(b'POST /v1/streams/a-1 HTTP/1.1\r\nHost: x\r\nContent-Length: 23\r\n\r\n')
            forged = bytearray(outgoing.read())
            forged[-1] ^= 1
            sock.sendall(forged)
            try:
                while sock.recv(65536):
                    pass
            except OSError:
                pass
            self.assertEqual(self.ask(self.connect(url), 'GET', '/health/live')[0], 200)
            self.assertIsNone(process.poll())


class Changing(Case):
    def name(self, url):
        with self.context().wrap_socket(self.raw(url), server_hostname='127.0.0.1') as sock:
            return dict(x[0] for x in sock.getpeercert()['subject'])['commonName']

    def test_reload(self):
        """The next connections get the new certificate; a bad one changes nothing."""
        cert, key = self.path('now.pem'), self.path('now.key')

        def use(name):
            for end, to in (('.pem', cert), ('.key', key)):
                with open(certs.path(name + end), 'rb') as f, open(to + '.new', 'wb') as out:
                    out.write(f.read())
                os.rename(to + '.new', to)
        use('server')
        config = self.write('c.yaml', f'tls: {{cert: {cert}, key: {key}}}\n')
        with self.server('-c', config) as (url, process):
            old = self.connect(url)
            self.assertEqual(self.ask(old, 'GET', '/health/live')[0], 200)
            self.assertEqual(self.name(url), 'first')
            use('second')
            process.send_signal(signal.SIGHUP)
            self.until(lambda: self.name(url) == 'second')
            self.assertEqual(self.ask(old, 'GET', '/health/live')[0], 200)
            os.unlink(cert)
            process.send_signal(signal.SIGHUP)
            self.until(lambda: 'the certificate stays as it was' in self.server_log())
            self.assertEqual(self.name(url), 'second')

    def test_bad_files(self):
        good = certs.path('server.pem'), certs.path('server.key')
        text = self.write('text.pem', 'no certificate\n')
        for cert, key, says in ((self.path('none'), good[1], 'tls.cert .*cannot be read'),
                                (good[0], self.path('none'), 'tls.key .*cannot be read'),
                                (text, good[1], 'tls.cert .*text.pem'),
                                (good[0], certs.path('second.key'), 'tls.key')):
            config = self.write('c.yaml', f'tls: {{cert: {cert}, key: {key}}}\n')
            done = self.oxbow('serve', '--listen', '127.0.0.1:0', '-c', config, status=UNREACHABLE)
            self.assertRegex(done.err, says)
        config = self.write('c.yaml', f'tls: {{cert: {good[0]}}}\n')
        self.refused('serve', '-c', config, says='the key "key" is missing')

    def test_many_handshakes_at_once(self):
        with self.server('-c', self.config()) as (url, _):
            failed = []

            def one():
                try:
                    conn = self.connect(url)
                    for _ in range(5):
                        if self.ask(conn, 'GET', '/health/live')[0] != 200:
                            failed.append('status')
                except Exception as why:  # pylint: disable=broad-except
                    failed.append(why)
            threads = [threading.Thread(target=one) for _ in range(32)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual(failed, [])


if __name__ == '__main__':
    unittest.main(verbosity=1)
