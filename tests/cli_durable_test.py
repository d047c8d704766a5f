"""The real binary under strace: no acknowledgement leaves before the fdatasync that covers it has
returned; and where the disk fails, the log takes no more writes, says so, and has everything that
it acknowledged after a restart. kill -9 would prove neither: the page cache outlives it."""
import collections
import contextlib
import http.client
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
PATIENCE = 90
TRACED = 'fdatasync,pwrite64,write,writev,sendto,sendmsg,read,recvfrom,close,openat'


def why_not():
    if shutil.which('strace') is None:
        return 'strace is not installed'
    done = subprocess.run(['strace', '-qq', '-o', '/dev/null', '-e', 'trace=fdatasync', 'true'],
                          capture_output=True, check=False)
    return None if done.returncode == 0 else 'strace may not trace here'


WHY_NOT = why_not()


class Call:
    """A system call: when it began and ended (lines of the trace), and what it was."""
    __slots__ = ('name', 'text', 'begin', 'end', 'result')

    def __init__(self, name, text, begin):
        self.name, self.text, self.begin, self.end, self.result = name, text, begin, None, None

    @property
    def fd(self):
        return int(re.match(r'\d+', self.text).group(0))


def calls_of(path):
    """strace's lines as calls, with those that were interrupted put together again."""
    calls, open_calls = [], {}
    with open(path, encoding='utf-8', errors='replace') as f:
        for number, line in enumerate(f):
            pid, rest = line.split(None, 1)
            begun = re.match(r'(\w+)\((.*)', rest)
            resumed = re.match(r'<\.\.\. (\w+) resumed>(.*)', rest)
            if begun:
                call = Call(begun.group(1), begun.group(2), number)
                calls.append(call)
                if begun.group(2).endswith('<unfinished ...>'):
                    open_calls[pid] = call
                    continue
            elif resumed and pid in open_calls:
                call = open_calls.pop(pid)
                call.text += resumed.group(2)
            else:
                continue
            found = re.search(r'\) += (-?\d+)[^"]*$', rest)
            call.end = number
            call.result = int(found.group(1)) if found else None
    return calls


class Case(unittest.TestCase):
    def setUp(self):
        if WHY_NOT:
            self.skipTest(WHY_NOT)
        self.folder = tempfile.mkdtemp(prefix='oxbow-durable-')
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.data = os.path.join(self.folder, 'data')
        self.trace = os.path.join(self.folder, 'trace')
        self.log = os.path.join(self.folder, 'log')
        self.env = {k: v for k, v in os.environ.items() if not k.startswith('OXBOW_')}
        self.env['OXBOW_DATA'] = self.data
        self.env['ASAN_OPTIONS'] = self.env.get('ASAN_OPTIONS', '') + ':detect_leaks=0'

    def run_oxbow(self, *args, stdin='', before=()):
        return subprocess.run([*before, OXBOW, *args], input=stdin.encode(), capture_output=True,
                              check=False, timeout=PATIENCE, env=self.env)

    def start(self, *args, before=()):
        with open(self.log, 'wb') as log:
            process = subprocess.Popen([*before, OXBOW, 'serve', '--listen', '127.0.0.1:0', *args],
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env=self.env)
        self.addCleanup(self.end, process)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with open(self.log, encoding='utf-8') as f:
                found = re.search(r'msg=listening .*port=(\d+)', f.read())
            if found:
                return process, int(found.group(1))
            if process.poll() is not None:
                break
            time.sleep(0.01)
        with open(self.log, encoding='utf-8') as f:
            self.fail('no server: ' + f.read())

    def stop(self, process):
        """The server itself, also where strace is what was started."""
        children = self.children(process.pid)
        os.kill(children[0] if children else process.pid, signal.SIGTERM)
        process.wait(PATIENCE)

    def end(self, process):
        """Of a test that failed on the way, too."""
        for pid in self.children(process.pid) if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()

    @staticmethod
    def children(pid):
        found = []
        for name in filter(str.isdigit, os.listdir('/proc')):
            with contextlib.suppress(OSError):
                with open(f'/proc/{name}/stat', encoding='utf-8', errors='replace') as f:
                    if int(f.read().rpartition(')')[2].split()[1]) == pid:
                        found.append(int(name))
        return found

    def read(self, stream):
        done = self.run_oxbow('read', stream, '--json')
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.decode().splitlines()]

    def post(self, connection, stream, data):
        body = json.dumps([{'type': 'X', 'data': data}])
        connection.request('POST', '/v1/streams/' + stream, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


class Order(Case):
    """What is acknowledged was written, and a sync that began after the write has returned."""

    def check_acknowledgements(self, calls, acknowledgements):
        """acknowledgements: (marker, call that says so)."""
        written = {}
        for call in calls:
            if call.name == 'pwrite64':
                for marker in re.findall(r'MARK-[\w.]+-', call.text):
                    written.setdefault(marker, call)
        syncs = collections.defaultdict(list)
        for call in calls:
            if call.name == 'fdatasync' and call.result == 0:
                syncs[call.fd].append(call)
        for marker, said in acknowledgements:
            self.assertIn(marker, written)
            write = written[marker]
            covered = [s for s in syncs[write.fd] if s.begin > write.end and s.end < said.begin]
            self.assertTrue(covered, f'{marker}: written at line {write.end}, acknowledged at '
                                     f'{said.begin} of the trace, no fdatasync between them')

    def test_append(self):
        events = ''.join(json.dumps({'type': 'X', 'data': f'MARK-{i}-'}) + '\n' for i in range(30))
        done = self.run_oxbow('append', 's', '--batch', '1', '--json', stdin=events,
                              before=('strace', '-f', '-qq', '-s', '4096', '-e',
                                      'trace=' + TRACED, '-o', self.trace))
        self.assertEqual(done.returncode, 0, done.stderr)
        calls = calls_of(self.trace)
        said = [c for c in calls if c.name == 'write' and c.text.startswith('1, "{\\"position')]
        self.assertEqual(len(said), 30)
        acknowledgements = [(f'MARK-{i}-', c) for i, c in enumerate(said)]
        self.check_acknowledgements(calls, acknowledgements)
        # And the check itself sees one that is left out: of the log, not of the index behind it.
        last = [c for c in calls if c.name == 'pwrite64' and 'MARK-29-' in c.text][0]
        late = [c for c in calls if c.name == 'fdatasync' and c.fd == last.fd and
                last.end < c.begin and c.end < said[-1].begin]
        with self.assertRaises(AssertionError):
            self.check_acknowledgements([c for c in calls if c not in late], acknowledgements)

    def test_serve(self):
        process, port = self.start(before=('strace', '-f', '-qq', '-s', '4096', '-e',
                                           'trace=' + TRACED, '-o', self.trace))
        failures = []

        def client(number):
            connection = http.client.HTTPConnection('127.0.0.1', port, timeout=PATIENCE)
            for i in range(25):
                status, body = self.post(connection, f's-{number}', f'MARK-{number}.{i}-')
                if status != 201:
                    failures.append(body)
            connection.close()

        threads = [threading.Thread(target=client, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.stop(process)
        self.assertEqual(failures, [])
        calls = calls_of(self.trace)
        asked, acknowledgements = {}, []
        for call in calls:
            if call.name in ('read', 'recvfrom'):
                for marker in re.findall(r'MARK-[\w.]+-', call.text):
                    asked[call.fd] = marker
            elif call.name in ('write', 'writev', 'sendto', 'sendmsg') and ' 201 ' in call.text:
                acknowledgements.append((asked[call.fd], call))
        self.assertEqual(len({marker for marker, _ in acknowledgements}), 100)
        self.check_acknowledgements(calls, acknowledgements)


class Faults(Case):
    """A disk that fails at one call, and from then on, for those of the log's own files."""

    CONF = 'log: {segment_bytes: 2MiB}\n'

    def serve_until_refused(self, fault):
        conf = os.path.join(self.folder, 'c.yaml')
        with open(conf, 'w', encoding='utf-8') as f:
            f.write(self.CONF)
        name = fault.split(':')[0]
        process, port = self.start('-c', conf,
                                   before=('strace', '-f', '-qq', '-o', '/dev/null', '-e',
                                           'trace=' + name, '-e', 'inject=' + fault))
        acknowledged, refused = [], None
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=PATIENCE)
        for i in range(300):
            marker = f'{i}:' + 'x' * 50000
            status, body = self.post(connection, 's', marker)
            if status != 201:
                refused = (status, json.loads(body))
                break
            acknowledged.append(marker)
        self.assertIsNotNone(refused, 'nothing failed: ' + fault)
        connection.request('GET', '/health/live')
        live = connection.getresponse()
        live.read()
        self.assertEqual(live.status, 200)
        return process, connection, acknowledged, refused

    def after_restart(self, acknowledged):
        got = [x['data'] for x in self.read('s')]
        self.assertEqual(got[:len(acknowledged)], acknowledged)
        # Of the one that failed it is not known; more there cannot be.
        self.assertLessEqual(len(got), len(acknowledged) + 1)
        done = self.run_oxbow('append', 's', stdin='{"type":"X","data":"after"}\n')
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.run_oxbow('log', 'verify').returncode, 0)

    def check_failed(self, fault, says):
        """The log takes no more writes, and says why."""
        process, connection, acknowledged, (status, body) = self.serve_until_refused(fault)
        self.assertGreaterEqual(status, 500, body)
        self.assertRegex(json.dumps(body), says)
        status, text = self.post(connection, 's', 'more')
        self.assertGreaterEqual(status, 500, text)
        connection.request('GET', '/health/ready')
        ready = connection.getresponse()
        text = ready.read().decode()
        self.assertEqual(ready.status, 503, text)
        self.assertRegex(text, says)
        connection.close()
        self.stop(process)
        self.after_restart(acknowledged)

    def test_fdatasync_eio(self):
        self.check_failed('fdatasync:error=EIO:when=12', 'Input/output error')

    def test_fdatasync_enospc(self):
        self.check_failed('fdatasync:error=ENOSPC:when=12+', 'No space left')

    def test_pwrite_eio(self):
        self.check_failed('pwrite64:error=EIO:when=40+', 'Input/output error')

    def test_pwrite_enospc(self):
        self.check_failed('pwrite64:error=ENOSPC:when=40+', 'No space left')

    def test_fallocate(self):
        """No next segment: appends are refused, the log itself is whole and may go on."""
        for error, says in (('ENOSPC', 'No space left'), ('EIO', 'Input/output error')):
            with self.subTest(error):
                shutil.rmtree(self.data, True)
                process, connection, acknowledged, (status, body) = self.serve_until_refused(
                    f'fallocate:error={error}:when=6+')
                self.assertGreaterEqual(status, 500, body)
                self.assertRegex(json.dumps(body), says)
                connection.close()
                self.stop(process)
                self.after_restart(acknowledged)

    def test_append_says_so(self):
        """The command has a status and one line; all that it had acknowledged is there."""
        events = ''.join(json.dumps({'type': 'X', 'data': i}) + '\n' for i in range(100))
        done = self.run_oxbow('append', 's', '--batch', '1', '--json', stdin=events,
                              before=('strace', '-f', '-qq', '-o', '/dev/null', '-e',
                                      'trace=fdatasync', '-e',
                                      'inject=fdatasync:error=EIO:when=20'))
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertRegex(done.stderr.decode(), r'\Aoxbow: append: s: after \d+ events [^\n]*'
                                               r'Input/output error[^\n]*\n\Z')
        self.after_restart(list(range(len(done.stdout.decode().splitlines()))))


if __name__ == '__main__':
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(unittest.main(verbosity=2))
