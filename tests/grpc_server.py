"""What the tests of gRPC share: a server of the built binary, a case with a connection to it."""
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import unittest
import uuid

from grpc_client import Conn, Status, append, expected, fields, kinds, name, one, pb, proposed, read

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
PATIENCE = 90


class Server:
    """`oxbow serve` on a free port, over a folder of its own."""

    def __init__(self, config=None):
        self.folder = tempfile.mkdtemp(prefix='oxbow-grpc-')
        self.args = []
        if config is not None:
            self.args = ['-c', os.path.join(self.folder, 'oxbow.yaml')]
            with open(self.args[1], 'w', encoding='utf-8') as f:
                f.write(config)
        self.log = os.path.join(self.folder, 'log')
        self.start()

    def start(self):
        """Over what is there, from an empty log of the process on."""
        env = {k: v for k, v in os.environ.items() if not k.startswith('OXBOW_')}
        env['OXBOW_DATA'] = os.path.join(self.folder, 'data')
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen([OXBOW, 'serve', '--listen', '127.0.0.1:0',
                                             *self.args],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=env)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            with open(self.log, encoding='utf-8') as f:
                found = re.search(r'msg=listening .*port=(\d+)', f.read())
            if found:
                self.port = int(found.group(1))
                return
            time.sleep(0.01)
        self.close()
        raise AssertionError('no server')

    def stop(self):
        """0, also under a sanitizer that looks for what was never freed."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, True)


SHARED = []


def shared():
    """The one of the whole file: streams have names of their own."""
    return SHARED[0]


def begin(config=None):
    SHARED.append(Server(config))


def end():
    server = SHARED.pop()
    status = server.stop()
    with open(server.log, encoding='utf-8') as f:
        text = f.read()
    server.close()
    assert status == 0, text[-5000:]


class Case(unittest.TestCase):
    def setUp(self):
        self.conn = self.connect()
        self.stream = 's-' + uuid.uuid4().hex

    def connect(self, **more):
        conn = Conn(shared().port, **more)
        self.addCleanup(conn.close)
        return conn

    def refused(self, call, code, exception=None):
        with self.assertRaises(Status) as caught:
            call.all()
        self.assertEqual((caught.exception.code, caught.exception.exception), (code, exception),
                         caught.exception)
        return caught.exception

    def ids(self, count):
        return [uuid.uuid4() for _ in range(count)]

    def append(self, stream, count=1, expect='any', **more):
        """Ids of what was appended."""
        ids = self.ids(count)
        got = append(self.conn, stream, [proposed(i, **more) for i in ids], expect).only()
        self.assertIsNotNone(one(got, 1), got)
        return ids

    def events(self, *args, **more):
        return kinds(read(self.conn, *args, **more).all())

    def http(self, method, path, body=None):
        conn = http.client.HTTPConnection('127.0.0.1', shared().port, timeout=PATIENCE)
        conn.request(method, path, body)
        answer = conn.getresponse()
        text = answer.read()
        conn.close()
        return answer.status, json.loads(text) if text else None


    def until(self, holds):
        """Looks again until it holds."""
        limit = time.monotonic() + PATIENCE
        while not (got := holds()):
            self.assertLess(time.monotonic(), limit)
            time.sleep(0.01)
        return got


def batch(correlation, stream, events=(), expect='any', final=True, options=True, deadline=None):
    head = [(1, pb((2, str(correlation))))]
    if options:
        more = [] if deadline is None else [deadline]
        head.append((2, pb((1, name(stream)), expected(expect), *more)))
    return pb(*head, *[(3, e) for e in events], (4, final))
