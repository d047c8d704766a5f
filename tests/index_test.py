"""Indexes on fields in the built binary: over HTTP, from the command line, with bad input, and through
kill -9 while they are built and while they follow: afterwards an index equals a scan of $all."""
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


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='oxbow-index-')
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
        self.assertNotIn('\n', text['message'])
        return text['message']

    def oxbow(self, *args, status=0, server=False, stdin=None):
        more = ['--server', self.url] if server else []
        done = subprocess.run([OXBOW, *args, *more], capture_output=True, timeout=PATIENCE,
                              check=False, env=self.env, input=stdin)
        self.assertEqual(done.returncode, status, done.stderr.decode() + done.stdout.decode())
        return done.stdout.decode() if status == 0 else done.stderr.decode()

    def lines(self, *args, **more):
        return [json.loads(line) for line in self.oxbow(*args, **more).splitlines()]

    def fill(self, stream, values):
        self.oxbow('append', stream, stdin=''.join(
            json.dumps({'type': 't', 'data': {'c': {'id': v}}}) + '\n' for v in values).encode())

    def wait(self, name, what):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            shown = self.ok('GET', '/v1/indexes/' + name)
            if what(shown):
                return shown
            time.sleep(0.01)
        self.fail(f'{name}: {shown}')

    def wait_live(self, name):
        return self.wait(name, lambda i: i['state'] == 'live')

    def events(self, name, value, more=''):
        """All of them, page by page."""
        found, at = [], 0
        while True:
            page = self.ok('GET', f'/v1/indexes/{name}/events?limit=500&from={at}&value='
                           + urllib.parse.quote(json.dumps(value)) + more)
            found += page['events']
            at = page['next']
            if len(page['events']) < 500:
                return found

    def equal_to_scan(self, name):
        """Every value's events are those of $all."""
        want = collections.defaultdict(list)
        at = 0
        while True:
            page = self.ok('GET', f'/v1/all?limit=1000&from={at}')
            for e in page['events']:
                if 'c' in e['data']:
                    want[e['data']['c']['id']].append(e['position'])
            at = page['next']
            if len(page['events']) < 1000:
                break
        for value, positions in want.items():
            self.assertEqual([e['position'] for e in self.events(name, value)], positions, value)
        return want


class Folder(Case):
    def test_commands(self):
        self.fill('order-1', [1, 2, 'two', None, [1, 3], 1])
        self.fill('other-1', [1])
        made = self.lines('index', 'create', 'by_id', '--category', 'order', '--path', 'c.id')[-1]
        self.assertEqual((made['state'], made['entries'], made['category']), ('live', 7, 'order'))
        self.assertEqual(len(self.lines('index', 'read', 'by_id', '1')), 3)
        self.assertEqual(len(self.lines('index', 'read', 'by_id', '1', '-n', '2')), 2)
        back = self.lines('index', 'read', 'by_id', '1', '--backwards')
        self.assertEqual(back, self.lines('index', 'read', 'by_id', '1')[::-1])
        self.assertEqual(back[:2], self.lines('index', 'read', 'by_id', '1', '--backwards', '--from',
                                              str(back[0]['position']), '--limit', '2'))
        self.assertEqual(self.lines('index', 'read', 'by_id', 'two')[0]['data'], {'c': {'id': 'two'}})
        values = [(v['value'], v['count']) for v in self.lines('index', 'values', 'by_id')]
        self.assertEqual(values, [('two', 1), (1, 3), (2, 1), (3, 1), (None, 1)])
        self.fill('order-2', [1, 9])
        self.assertEqual(len(self.lines('index', 'read', 'by_id', '1')), 4)
        self.assertEqual(self.lines('index', 'rebuild', 'by_id')[-1]['entries'], 9)
        self.assertEqual([i['name'] for i in self.lines('index', 'list')], ['by_id'])
        self.oxbow('index', 'drop', 'by_id')
        self.assertEqual(self.lines('index', 'list'), [])
        self.assertIn('is not there', self.oxbow('index', 'show', 'by_id', status=1))

    def test_entries_are_derived(self):
        self.fill('order-1', range(100))
        self.oxbow('index', 'create', 'x', '--path', 'c.id')
        path = os.path.join(self.env['OXBOW_DATA'], 'indexes')
        with open(os.path.join(path, 'data.mdb'), 'r+b') as f:
            f.write(b'\0' * 8192)
        self.serve()
        self.assertEqual(self.wait_live('x')['entries'], 100)
        self.equal_to_scan('x')
        self.stop()
        shutil.rmtree(path)
        self.serve()
        self.assertEqual(self.wait_live('x')['entries'], 100)
        self.stop()

    def test_bad_input(self):
        self.fill('order-1', [1])
        self.assertIn('--path', self.oxbow('index', 'create', 'x', status=2))
        for args in (['x', '--path', 'a..b'], ['x', '--path', ''], ['x y', '--path', 'a'],
                     ['x', '--path', 'a', '--category', 'a-b'], ['x', '--path', '/~x']):
            self.oxbow('index', 'create', *args, status=1)
        self.oxbow('index', 'create', 'x', '--path', 'c.id')
        self.assertIn('there already', self.oxbow('index', 'create', 'x', '--path', 'c', status=1))
        self.assertIn('not there', self.oxbow('index', 'read', 'y', '1', status=1))
        self.assertIn('value', self.oxbow('index', 'read', 'x', '[1]', status=1))
        self.assertIn('256 bytes', self.oxbow('index', 'read', 'x', 'v' * 255, status=1))
        self.oxbow('index', 'read', 'x', status=2)

    def test_subjects_stay_closed(self):
        self.oxbow('append', 'order-1', stdin=b'{"type":"t","data":{"c":{"id":"secret"}},'
                   b'"metadata":{"m":1},"subject":"ann"}\n')
        made = self.lines('index', 'create', 'x', '--path', 'c.id')[-1]
        self.assertEqual((made['entries'], made['skipped']), (0, 1))
        self.oxbow('index', 'create', 'm', '--path', 'm', '--metadata')
        self.assertEqual(self.lines('index', 'read', 'x', 'secret'), [])
        self.assertEqual(len(self.lines('index', 'read', 'm', '1')), 1)
        with open(os.path.join(self.env['OXBOW_DATA'], 'indexes', 'data.mdb'), 'rb') as f:
            self.assertNotIn(b'secret', f.read())


class Http(Case):
    def test_life(self):
        self.fill('order-1', [n % 10 for n in range(2000)])
        self.serve()
        made = self.ok('PUT', '/v1/indexes/by', {'path': 'c.id', 'category': 'order'}, 201)
        self.assertEqual((made['name'], made['path'], made['in']), ('by', 'c.id', 'data'))
        self.wait_live('by')
        self.assertEqual(len(self.events('by', 3)), 200)
        back = self.ok('GET', '/v1/indexes/by/events?value=3&direction=backwards&limit=5')
        self.assertEqual(back['events'], self.events('by', 3)[:-6:-1])
        self.wait('by', lambda i: i['covers'] == i['end'])
        page = self.ok('GET', '/v1/indexes/by/values?limit=4')
        self.assertEqual(page['values'], [{'value': n, 'count': 200} for n in range(4)])
        rest = self.ok('GET', '/v1/indexes/by/values?after=' + page['next'])
        self.assertEqual((len(rest['values']), rest['next']), (6, None))
        self.assertEqual(len(self.lines('index', 'values', 'by', server=True)), 10)
        self.assertEqual(len(self.lines('index', 'read', 'by', '3', server=True)), 200)
        self.assertEqual(len(self.lines('index', 'read', 'by', '3', '-n', '7', server=True)), 7)
        self.assertEqual([i['name'] for i in self.lines('index', 'list', server=True)], ['by'])
        conn = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)
        conn.request('GET', '/metrics')
        metrics = conn.getresponse().read().decode()
        conn.close()
        self.assertIn('oxbow_index_entries{index="by"} 2000', metrics)
        self.assertIn('oxbow_index_live{index="by"} 1', metrics)
        self.ok('POST', '/v1/indexes/by/rebuild', status=202)
        self.wait_live('by')
        self.equal_to_scan('by')
        self.ok('DELETE', '/v1/indexes/by')
        self.assertEqual(self.ok('GET', '/v1/indexes'), {'indexes': []})
        self.stop()

    def test_live(self):
        self.serve()
        self.ok('PUT', '/v1/indexes/by', {'path': 'c.id'}, 201)
        self.wait_live('by')
        conn = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)
        conn.request('GET', '/v1/indexes/by/events?value=7', headers={'Accept': 'text/event-stream'})
        answer = conn.getresponse()
        self.assertEqual(answer.status, 200)
        for n in range(30):
            self.ok('POST', '/v1/streams/s-1', [{'type': 't', 'data': {'c': {'id': n % 10}, 'n': n}}],
                    201)
        seen = []
        while len(seen) < 3:
            line = answer.readline().decode()
            if line.startswith('data: {') and '"stream"' in line:
                seen.append(json.loads(line[6:])['data']['n'])
        self.assertEqual(seen, [7, 17, 27])
        answer.close()
        conn.close()
        self.stop()

    def test_bad_input(self):
        self.fill('order-1', [1])
        self.serve()
        self.refused('GET', '/v1/indexes/no', 404, 'not-found')
        self.refused('GET', '/v1/indexes/no/events?value=1', 404, 'not-found')
        self.refused('GET', '/v1/indexes/no/values', 404, 'not-found')
        self.refused('DELETE', '/v1/indexes/no', 404, 'not-found')
        self.refused('POST', '/v1/indexes/no/rebuild', 404, 'not-found')
        self.refused('PUT', '/v1/indexes/x', 400, 'invalid', {'path': 'a..b'})
        self.refused('PUT', '/v1/indexes/x', 400, 'invalid', {'path': 'a', 'in': 'body'})
        self.refused('PUT', '/v1/indexes/x', 400, 'invalid', {'path': 'a', 'name': 'y'})
        self.refused('PUT', '/v1/indexes/x', 400, 'schema', {'path': 1})
        self.refused('PUT', '/v1/indexes/x', 400, 'schema', {'path': 'a', 'color': 1})
        self.refused('PUT', '/v1/indexes/x', 400, 'schema', {})
        self.ok('PUT', '/v1/indexes/x', {'path': 'c.id'}, 201)
        self.refused('PUT', '/v1/indexes/x', 409, 'exists', {'path': 'c.id'})
        self.wait_live('x')
        for query in ('', '?value=[1]', '?value=1&limit=0', '?value=1&from=x', '?value=1&at=5',
                      '?value=1&direction=up', '?value=' + 'v' * 255):
            status, text = self.ask('GET', '/v1/indexes/x/events' + query)
            self.assertIn(status, (400, 413), text)
        for query in ('?limit=0', '?limit=1001', '?from=1', '?after=[]'):
            self.refused('GET', '/v1/indexes/x/values' + query, 400, 'invalid')
        self.stop()


class Crash(Case):
    def test_while_building(self):
        """Killed again and again before it is built; reads are refused until then, and say why."""
        for n in range(4):
            self.fill(f'order-{n}', [v % 97 for v in range(7500)])
        self.serve()
        self.ok('PUT', '/v1/indexes/by', {'path': 'c.id'}, 201)
        self.end(self.process)
        self.serve()
        covered, kills = 0, 0
        while True:
            shown = self.ok('GET', '/v1/indexes/by')
            self.assertGreaterEqual(shown['covers'], covered)
            covered = shown['covers']
            if shown['state'] == 'live':
                break
            status, text = self.ask('GET', '/v1/indexes/by/events?value=1')
            if status != 200:
                self.assertEqual((status, text['error']), (409, 'wrong-state'), text)
                self.assertIn('still being built', text['message'])
            if kills < 4:
                kills += 1
                self.end(self.process)
                self.serve()
        self.assertEqual(sum(map(len, self.equal_to_scan('by').values())), 30000)
        self.wait('by', lambda i: i['covers'] == i['end'] and i['entries'] == 30000)
        self.stop()

    def test_while_live(self):
        self.serve()
        self.ok('PUT', '/v1/indexes/by', {'path': 'c.id'}, 201)
        self.wait_live('by')
        for _ in range(4):
            stop = threading.Event()

            def write():
                n = 0
                while not stop.is_set():
                    try:
                        self.ask('POST', f'/v1/streams/s-{n % 5}', [
                            {'type': 't', 'data': {'c': {'id': (n + k) % 13}}} for k in range(20)])
                    except (OSError, http.client.HTTPException):
                        return
                    n += 1

            threads = [threading.Thread(target=write) for _ in range(2)]
            for t in threads:
                t.start()
            before = self.ok('GET', '/v1/indexes/by')['covers']
            self.wait('by', lambda i, b=before: i['covers'] > b)
            self.end(self.process)
            stop.set()
            for t in threads:
                t.join()
            self.serve()
            want = self.equal_to_scan('by')
            self.assertTrue(want)
        total = sum(map(len, want.values()))
        self.wait('by', lambda i: i['covers'] == i['end'] and i['entries'] == total)
        self.stop()


if __name__ == '__main__':
    unittest.main(verbosity=2)
