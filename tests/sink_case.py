"""What the tests of sinks share: the built binary with one sink, events appended to it, a kill -9, and
the question that is asked of every destination: what came, in which order, under which ids?"""
import collections
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.parse

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
PATIENCE = int(os.environ.get('PATIENCE', '90'))

# What a consumer saw of one message.
Seen = collections.namedtuple('Seen', 'stream version id')


class SinkCase(unittest.TestCase):
    sink = ''  # its YAML, without the name

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='oxbow-sink-')
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith('OXBOW_')}
        self.env['ASAN_OPTIONS'] = self.env.get('ASAN_OPTIONS', '') + ':detect_leaks=0'
        self.process = None
        self.appended = collections.Counter()
        self.end_of_log = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def configure(self, sink):
        with open(self.path('c.yaml'), 'w', encoding='utf-8') as f:
            f.write(f'data: {self.path("data")}\nlog: {{segment_bytes: 2MiB}}\n'
                    f'sinks:\n  out:\n{sink}')

    def start(self):
        with open(self.path('log'), 'wb') as log:
            self.process = subprocess.Popen([OXBOW, 'serve', '--listen', '127.0.0.1:0', '-c',
                                             self.path('c.yaml')], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env=self.env)
        self.addCleanup(self.end, self.process)
        self.listening()

    def listening(self):
        self.until(lambda: self.process.poll() is not None or 'msg=listening' in self.said(),
                   'no server')
        found = re.search(r'msg=listening .*port=(\d+)', self.said())
        self.assertTrue(found, self.said())
        self.port = int(found.group(1))

    def said(self):
        with open(self.path('log'), encoding='utf-8', errors='replace') as f:
            return f.read()

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.kill()
        process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.process.wait(PATIENCE), 0, self.said())

    def ask(self, method, path, body=None):
        conn = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)
        conn.request(method, path, None if body is None else json.dumps(body))
        answer = conn.getresponse()
        text = answer.read()
        conn.close()
        self.assertLess(answer.status, 300, text)
        return json.loads(text) if text else None

    def append(self, stream, count=1, **more):
        """`count` events {"n": version}, or one with the data given."""
        first = self.appended[stream]
        events = [{'type': 'Updated', 'data': {'n': first + i}, **more} for i in range(count)]
        path = '/v1/streams/' + urllib.parse.quote(stream, safe='')
        self.end_of_log = self.ask('POST', path, events)['position']
        self.appended[stream] += count

    def fill(self, streams, each):
        for i in range(streams):
            self.append(f'order-{i}', each)

    def oxbow(self, *args, status=0):
        done = subprocess.run([OXBOW, *args, '--server', f'http://127.0.0.1:{self.port}'],
                              capture_output=True, timeout=PATIENCE, check=False, env=self.env)
        self.assertEqual(done.returncode, status, done.stderr.decode() + done.stdout.decode())
        return done.stdout.decode()

    def fails(self, *args):
        """What it says on the way out with status 1."""
        done = subprocess.run([OXBOW, *args, '--server', f'http://127.0.0.1:{self.port}'],
                              capture_output=True, timeout=PATIENCE, check=False, env=self.env)
        self.assertEqual(done.returncode, 1)
        return done.stderr.decode()

    def show(self):
        return self.ask('GET', '/v1/sinks/out')

    def complains(self, text):
        self.until(lambda: text in (self.show()['error'] or ''), f'no word of "{text}"')

    def until(self, holds, what):
        end = time.monotonic() + PATIENCE
        while not holds():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.01)

    def delivered(self):
        """Waits until all is delivered or parked."""
        try:
            self.until(lambda: self.show().get('done', 0) >= self.end_of_log, '')
        except AssertionError:
            self.fail(f'the sink does not catch up: {self.show()}')

    def came(self, seen, doubles=True):
        """Lost 0; each stream in order; what came twice has the same id, and comes again in order."""
        ids, first = {}, collections.defaultdict(list)
        for s in seen:
            at = (s.stream, s.version)
            if at in ids:
                self.assertTrue(doubles, f'{at} came twice')
                self.assertEqual(ids[at], s.id, f'{at} came under two ids')
                continue
            ids[at] = s.id
            first[s.stream].append(s.version)
        self.assertEqual(len(set(ids.values())), len(ids))
        for stream, count in self.appended.items():
            self.assertEqual(first[stream], list(range(count)), stream)
        self.assertEqual(set(first), set(self.appended))
