"""Consumer groups in the built binary: over HTTP, from the command line, with bad input, and through
kill -9 under load: nothing lost, the order of each stream kept, doubles only of what was not
acknowledged."""
import collections
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
PATIENCE = 90


class Stream:
    """A member over server-sent events, or any GET that does not end."""

    def __init__(self, port, path):
        self.conn = http.client.HTTPConnection('127.0.0.1', port, timeout=PATIENCE)
        try:
            self.conn.request('GET', path, headers={'Accept': 'text/event-stream'})
            self.answer = self.conn.getresponse()
        except Exception:
            self.conn.close()
            raise
        self.status = self.answer.status

    def next(self):
        """(name, data) of the next event; None: the stream ended."""
        name, data = 'message', None
        while True:
            line = self.answer.readline()
            if not line:
                return None
            line = line.decode().rstrip('\n')
            if line.startswith('event: '):
                name = line[7:]
            elif line.startswith('data: '):
                data = json.loads(line[6:])
            elif not line and data is not None:
                return name, data

    def close(self):
        self.answer.close()
        self.conn.close()


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='oxbow-group-')
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.log = os.path.join(self.folder, 'log')
        self.env = {k: v for k, v in os.environ.items() if not k.startswith('OXBOW_')}
        self.env['OXBOW_DATA'] = os.path.join(self.folder, 'data')
        self.process = None

    def serve(self):
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen([OXBOW, 'serve', '--listen', '127.0.0.1:0'],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.env)
        self.addCleanup(self.end, self.process)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            with open(self.log, encoding='utf-8') as f:
                found = re.search(r'msg=listening .*port=(\d+)', f.read())
            if found:
                self.port = int(found.group(1))
                self.url = f'http://127.0.0.1:{self.port}'
                return
            time.sleep(0.01)
        with open(self.log, encoding='utf-8') as f:
            self.fail('no server: ' + f.read())

    def end(self, process):
        if process.poll() is None:
            process.kill()
            process.wait()

    def stop(self):
        self.process.terminate()
        self.assertEqual(self.process.wait(PATIENCE), 0)

    def ask(self, method, path, body=None):
        """(status, JSON)"""
        conn = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)
        conn.request(method, path, None if body is None else json.dumps(body))
        answer = conn.getresponse()
        text = answer.read()
        conn.close()
        return answer.status, json.loads(text) if text else None

    def ok(self, method, path, body=None, status=200):
        got, text = self.ask(method, path, body)
        self.assertEqual(got, status, text)
        return text

    def refused(self, method, path, status, name, body=None):
        got, text = self.ask(method, path, body)
        self.assertEqual((got, text['error']), (status, name), text)
        self.assertTrue(text['message'])
        self.assertNotIn('\n', text['message'])

    def append(self, stream, count=1):
        self.ok('POST', '/v1/streams/' + urllib.parse.quote(stream, safe=''),
                [{'type': 't', 'data': {'n': n}} for n in range(count)], 201)

    def oxbow(self, *args, status=0, server=True):
        more = ['--server', self.url] if server else []
        done = subprocess.run([OXBOW, *args, *more], capture_output=True, timeout=PATIENCE,
                              check=False, env=self.env)
        self.assertEqual(done.returncode, status, done.stderr.decode() + done.stdout.decode())
        return done.stdout.decode() if status == 0 else done.stderr.decode()

    def until(self, holds, what):
        end = time.monotonic() + PATIENCE
        while not holds():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.005)


class Http(Case):
    def setUp(self):
        super().setUp()
        self.serve()

    def test_push(self):
        self.append('orders/ü 1', 3)
        path = '/v1/groups/orders%2F%C3%BC%201/work'
        made = self.ok('PUT', path, {'from': 'beginning', 'strategy': 'pinned'}, 201)
        self.assertEqual(made['stream'], 'orders/ü 1')
        self.assertEqual(made['settings']['max_retry_count'], 10)
        member = Stream(self.port, path + '/events?buffer=2&name=me')
        name, hello = member.next()
        self.assertEqual(name, 'member')
        for version in range(3):
            name, event = member.next()
            self.assertEqual((name, event['version'], event['retry_count']), ('message', version, 0))
            self.assertEqual(event['data'], {'n': version})
            self.until(lambda: (shown := self.ok('GET', path))['in_flight'] == 1 and
                       shown['members'][0]['name'] == 'me', 'it is in flight')
            said = self.ok('POST', path + '/ack', {'member': hello['member'],
                                                   'positions': [event['ack'], 7]})
            self.assertEqual(said, {'taken': 1, 'unknown': [7]})
        self.until(lambda: [self.ok('GET', path)[k] for k in ('lag_events', 'acked', 'state')] ==
                   [0, 3, 'live'], 'all is settled')
        # What it has when it goes is given to another one.
        self.append('orders/ü 1')
        _, event = member.next()
        member.close()
        other = Stream(self.port, path + '/events')
        other.next()
        _, again = other.next()
        self.assertEqual((again['ack'], again['retry_count']), (event['ack'], 1))
        # Deleted under its members.
        self.ok('DELETE', path)
        name, why = other.next()
        self.assertEqual((name, why['error']), ('ended', 'gone'))
        self.assertIsNone(other.next())
        other.close()
        self.refused('GET', path, 404, 'not-found')

    def test_pull(self):
        self.append('s', 5)
        path = '/v1/groups/s/g'
        self.ok('PUT', path, {'from': 'beginning', 'max_retry_count': 0}, 201)
        first = self.ok('GET', path + '/events?max=2&wait_ms=60000')
        me = first['member']
        self.assertEqual(len(first['events']), 2)
        ids = [e['id'] for e in first['events']]
        self.assertEqual(self.ok('POST', path + '/ack', {'member': me, 'ids': ids})['taken'], 2)
        more = self.ok('GET', f'{path}/events?max=9&wait_ms=60000&member={me}')['events']
        self.assertEqual([e['version'] for e in more], [2, 3, 4])
        self.ok('POST', path + '/nack', {'member': me, 'positions': [more[0]['ack']],
                                         'action': 'park', 'reason': 'no "good"'})
        self.ok('POST', path + '/nack', {'member': me, 'positions': [more[1]['ack']],
                                         'action': 'skip'})
        self.ok('POST', path + '/nack', {'member': me, 'positions': [more[2]['ack']],
                                         'action': 'retry', 'reason': 'later'})
        self.until(lambda: self.ok('GET', path)['parked'] == 2, 'two are parked')
        parked = self.ok('GET', path + '/parked')
        self.assertEqual([(p['version'], p['reason']) for p in parked['parked']],
                         [(2, 'no "good"'), (4, 'later; 1 attempts')])
        page = self.ok('GET', path + '/parked?limit=1')
        self.assertEqual((len(page['parked']), page['next']), (1, 1))
        self.assertEqual(self.ok('POST', path + '/replay?limit=1', status=202)['events'], 1)
        again = self.ok('GET', f'{path}/events?wait_ms=60000&member={me}')['events']
        self.assertEqual([e['version'] for e in again], [2])
        self.ok('POST', path + '/ack', {'member': me, 'positions': [again[0]['ack']]})
        self.assertEqual(self.ok('POST', path + '/skip')['events'], 1)
        self.until(lambda: self.ok('GET', path)['parked'] == 0, 'none is parked')
        self.assertEqual(self.ok('GET', f'{path}/events?max=1&member={me}')['events'], [])
        # One that leaves, and one whose lease is over.
        self.append('s')
        self.assertEqual(len(self.ok('GET', f'{path}/events?wait_ms=60000&member={me}')['events']), 1)
        self.ok('DELETE', f'{path}/members/{me}', status=204)
        self.refused('GET', f'{path}/events?member={me}', 404, 'not-found')
        self.ok('PATCH', path, {'max_retry_count': 5})
        self.append('s')
        first = self.ok('GET', path + '/events?wait_ms=60000&lease_ms=1000')
        second = self.ok('GET', path + '/events?wait_ms=60000')
        self.assertEqual([e['ack'] for e in second['events']], [e['ack'] for e in first['events']])

    def test_bad_input(self):
        path = '/v1/groups/s/g'
        self.refused('GET', path, 404, 'not-found')
        self.refused('GET', path + '/events', 404, 'not-found')
        self.refused('DELETE', path, 404, 'not-found')
        self.refused('PATCH', path, 404, 'not-found', {})
        self.refused('POST', path + '/replay', 404, 'not-found')
        self.ok('PUT', path, status=201)
        self.refused('PUT', path, 409, 'exists')
        self.refused('PUT', '/v1/groups/s/h', 400, 'schema', {'colour': 1})
        self.refused('PUT', '/v1/groups/s/h', 400, 'invalid', {'strategy': 'best'})
        self.refused('PUT', '/v1/groups/s/a%3A%3Ab', 400, 'invalid')
        self.refused('PUT', '/v1/groups/s/' + 'g' * 200, 400, 'invalid')
        self.refused('PUT', '/v1/groups/%24all/h', 400, 'invalid',
                     {'filter': {'stream_regex': '['}})
        self.refused('PATCH', path, 400, 'invalid', {'from': 'beginning'})
        self.refused('GET', path + '/events?buffer=0', 400, 'invalid')
        self.refused('GET', path + '/events?max=9999999', 400, 'invalid')
        self.refused('GET', path + '/events?color=1', 400, 'invalid')
        self.refused('GET', path + '/events?member=nobody', 404, 'not-found')
        self.refused('GET', path + '/parked?limit=0', 400, 'invalid')
        self.refused('POST', path + '/ack', 404, 'not-found', {'member': 'x', 'positions': [1]})
        me = self.ok('GET', path + '/events')['member']
        for body, name in (({'member': me}, 'invalid'), ({'positions': [1]}, 'schema'),
                           ({'member': me, 'positions': ['x']}, 'invalid'),
                           ({'member': me, 'ids': ['x']}, 'invalid'),
                           ({'member': me, 'positions': [0]}, 'invalid'),
                           ({'member': me, 'positions': [1], 'more': 1}, 'schema')):
            self.refused('POST', path + '/ack', 400, name, body)
        self.refused('POST', path + '/nack', 400, 'invalid', {'member': me, 'positions': [1]})
        self.refused('POST', path + '/nack', 400, 'invalid',
                     {'member': me, 'positions': [1], 'action': 'eat'})
        # Never delivered.
        self.refused('POST', path + '/ack', 404, 'not-found', {'member': me, 'positions': [4711]})
        self.refused('POST', path + '/replay', 404, 'not-found')
        self.ok('PATCH', path, {'max_subscriber_count': 1})
        self.refused('GET', path + '/events', 503, 'over-limit')

    def test_stop_and_figures(self):
        self.append('s', 2)
        path = '/v1/groups/s/g'
        self.ok('PUT', path, {'from': 'beginning'}, 201)
        member = Stream(self.port, path + '/events')
        _, hello = member.next()
        _, event = member.next()
        member.next()
        # The events go back, the member is ended.
        self.ok('POST', path + '/nack', {'member': hello['member'], 'positions': [event['ack']],
                                         'action': 'stop'})
        name, why = member.next()
        self.assertEqual((name, why['error']), ('ended', 'interrupted'))
        member.close()
        conn = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)
        conn.request('GET', '/metrics')
        text = conn.getresponse().read().decode()
        conn.close()
        self.assertIn('oxbow_group_lag_events{stream="s",group="g"} 2\n', text)
        self.assertIn('oxbow_group_delivered_total{stream="s",group="g"} 2\n', text)
        listed = self.ok('GET', '/v1/groups')['groups']
        self.assertEqual([(g['stream'], g['group'], g['member_count']) for g in listed],
                         [('s', 'g', 0)])
        self.assertEqual(self.ok('GET', '/v1/groups?stream=other')['groups'], [])

    def test_large_events(self):
        """More than waits for a client at once, and none of it is lost."""
        self.ok('PUT', '/v1/groups/big/g', {'from': 'beginning', 'strategy': 'single'}, 201)
        for n in range(12):
            self.ok('POST', '/v1/streams/big', [{'type': 't', 'data': {'n': n, 'x': 'y' * 700000}}],
                    201)
        member = Stream(self.port, '/v1/groups/big/g/events?buffer=20')
        member.next()
        got = [member.next()[1]['data']['n'] for _ in range(12)]
        self.assertEqual(got, list(range(12)))
        member.close()


class CommandLine(Case):
    def test_all(self):
        folder = {'server': False}
        self.oxbow('group', 'create', 's', 'g', 'from=beginning', 'strategy=pinned', **folder)
        self.oxbow('group', 'create', '$all', 'filtered', 'filter.category=a', **folder)
        self.assertIn('is there already', self.oxbow('group', 'create', 's', 'g', status=1,
                                                     **folder))
        self.assertIn('SETTING=VALUE', self.oxbow('group', 'create', 's', 'h', 'x', status=2,
                                                  **folder))
        self.oxbow('group', 'update', 's', 'g', 'max_retry_count=0', **folder)
        shown = json.loads(self.oxbow('group', 'show', 's', 'g', **folder))
        self.assertEqual((shown['settings']['strategy'], shown['settings']['max_retry_count']),
                         ('pinned', 0))
        lines = self.oxbow('group', 'list', **folder).splitlines()
        self.assertEqual([json.loads(x)['group'] for x in lines], ['g', 'filtered'])
        self.oxbow('group', 'delete', '$all', 'filtered', **folder)
        self.serve()
        self.append('s', 150)
        lines = self.oxbow('group', 'consume', 's', 'g', '--limit', '120').splitlines()
        self.assertEqual([json.loads(x)['version'] for x in lines], list(range(120)))
        pulled = json.loads(self.oxbow('group', 'pull', 's', 'g', '--limit', '1'))
        where = str(pulled['events'][0]['ack'])
        self.assertEqual(pulled['events'][0]['version'], 120)
        self.assertIn('never delivered', self.oxbow('group', 'ack', 's', 'g', pulled['member'],
                                                    '1', status=1))
        self.oxbow('group', 'nack', 's', 'g', pulled['member'], 'park', where)
        self.until(lambda: self.oxbow('group', 'parked', 's', 'g') != '', 'it is parked')
        self.assertEqual(json.loads(self.oxbow('group', 'parked', 's', 'g'))['version'], 120)
        self.oxbow('group', 'replay', 's', 'g')
        got = []
        while 120 not in got: # it stands behind those of its stream that were read before
            pulled = json.loads(self.oxbow('group', 'pull', 's', 'g', pulled['member']))
            got += [e['version'] for e in pulled['events']]
            for event in pulled['events']:
                self.oxbow('group', 'ack', 's', 'g', pulled['member'], str(event['ack']))
        self.until(lambda: json.loads(self.oxbow('group', 'show', 's', 'g'))['parked'] == 0,
                   'nothing is parked any more')
        self.assertIn('nothing is parked', self.oxbow('group', 'skip', 's', 'g', status=1))
        self.assertIn('is not there', self.oxbow('group', 'show', 's', 'no', status=1))
        self.stop()
        shown = json.loads(self.oxbow('group', 'show', 's', 'g', **folder))
        self.assertEqual(shown['member_count'], 0)


class Worker(threading.Thread):
    """A member that notes what it got and what was acknowledged, and joins again for ever."""

    def __init__(self, case, world):
        super().__init__(daemon=True)
        self.case, self.world = case, world

    def run(self):
        while not self.world.over.is_set():
            try:
                self.work(self.world.port)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.01)

    def work(self, port):
        path = '/v1/groups/%24ce-acct/work'
        conn = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
        member = None
        try:
            member = Stream(port, path + '/events?buffer=20')
            if member.status == 200:
                self.consume(member, conn, path)
        finally:
            conn.close()
            if member is not None:
                member.close()

    def consume(self, member, conn, path):
        _, hello = member.next()
        while not self.world.over.is_set():
            event = member.next()
            if event is None or event[0] != 'message':
                return
            event = event[1]
            self.world.take(event)
            conn.request('POST', path + '/ack', json.dumps({'member': hello['member'],
                                                            'positions': [event['ack']]}))
            answer = conn.getresponse()
            answer.read()
            if answer.status == 200:
                self.world.settle(event)


class World:
    def __init__(self):
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.port = None
        self.seen = collections.defaultdict(int)  # (stream, version): times
        self.next = collections.defaultdict(int)  # stream: the next version never seen
        self.settled = set()
        self.wrong = []

    def take(self, event):
        key = event['stream'], event['version']
        with self.lock:
            self.seen[key] += 1
            if event['version'] > self.next[event['stream']]:
                self.wrong.append(('hole', key))
            if event['version'] == self.next[event['stream']]:
                self.next[event['stream']] += 1
            elif key in self.settled and key in self.durable:
                self.wrong.append(('settled for good, and came again', key))

    durable = frozenset()

    def settle(self, event):
        with self.lock:
            self.settled.add((event['stream'], event['version']))


class Killed(Case):
    def test_kill(self):
        """Lives that end by kill -9 while members work; then all of it has come."""
        world = World()
        self.serve()
        world.port = self.port
        self.ok('PUT', '/v1/groups/%24ce-acct/work',
                {'from': 'beginning', 'strategy': 'pinned', 'checkpoint_after_ms': 20,
                 'min_checkpoint_count': 1}, 201)
        workers = [Worker(self, world) for _ in range(4)]
        for worker in workers:
            worker.start()
        written = collections.Counter()
        for life in range(4):
            for n in range(40):
                commit = [{'stream': f'acct-{s}', 'expected': 'any',
                           'events': [{'type': 't', 'data': n}]} for s in range(10)]
                self.ok('POST', '/v1/commits', {'appends': commit}, 201)
                for s in range(10):
                    written[f'acct-{s}'] += 1
            wanted = sum(written.values()) * 3 // 4
            self.until(lambda: len(world.settled) >= wanted or life == 3, 'most of it is done')
            if life == 3:
                break
            # What a checkpoint has by now stays settled for ever.
            with world.lock:
                settled = set(world.settled)
            before = self.ok('GET', '/v1/groups/%24ce-acct/work')['acked']
            self.until(lambda: self.marked(settled), 'a checkpoint')
            self.assertGreater(before, 0)
            world.durable = world.durable | settled
            self.process.kill()
            self.process.wait()
            self.serve()
            world.port = self.port
        self.until(lambda: all(world.next[s] == n for s, n in written.items()), 'all of it came')
        self.until(lambda: self.ok('GET', '/v1/groups/%24ce-acct/work')['lag_events'] == 0,
                   'all of it is settled')
        world.over.set()
        self.stop() # who waits for an event learns that it is over
        for worker in workers:
            worker.join(PATIENCE)
        self.assertEqual(world.wrong, [])
        self.assertEqual({s: world.next[s] for s in written}, dict(written))

    def marked(self, settled):
        """Does the last checkpoint cover them? It names what is not settled below its end."""
        status, page = self.ask('GET', '/v1/streams/' + urllib.parse.quote(
            '$persistentsubscription-$ce-acct::work-checkpoint', safe='') +
            '?direction=backwards&limit=1')
        if status != 200:
            return False
        mark, pending, at = page['events'][0]['data'], set(), 0
        for delta in mark['pending']:
            at += delta
            pending.add(at)
        where = {}
        after = 0
        while True:
            _, page = self.ask('GET', f'/v1/all?category=acct&from={after}&limit=1000')
            for event in page['events']:
                where[event['stream'], event['version']] = event['position']
            if not page['events']:
                break
            after = page['next']
        return all(where[key] < mark['next'] and where[key] not in pending for key in settled)


if __name__ == '__main__':
    unittest.main(verbosity=1)
