"""The built binary, driven as people and scripts do: every command, every exit status, every
kind of bad input. OXBOW names the binary. Stdlib only; what needs root is skipped without it."""
import contextlib
import json
import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
DONE, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3
PATIENCE = 120


def event(kind, data=None, **more):
    return json.dumps({'type': kind, 'data': data if data is not None else {}, **more}) + '\n'


class Done:
    def __init__(self, done):
        self.status = done.returncode
        self.out = done.stdout.decode()
        self.err = done.stderr.decode()
        self.lines = [json.loads(line) for line in self.out.splitlines() if line.startswith('{')]


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='oxbow-cli-')
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.data = os.path.join(self.folder, 'data')
        self.env = {k: v for k, v in os.environ.items() if not k.startswith('OXBOW_')}
        self.env['OXBOW_DATA'] = self.data

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), 'w', encoding='utf-8') as f:
            f.write(text)
        return self.path(name)

    def oxbow(self, *args, stdin='', status=DONE, env=None):
        if isinstance(stdin, str):
            stdin = stdin.encode()
        done = Done(subprocess.run([OXBOW, *args], input=stdin, capture_output=True, check=False,
                                   timeout=PATIENCE, env={**self.env, **(env or {})}))
        self.assertEqual(done.status, status, (args, done.out[-500:], done.err[-500:]))
        if status in (REFUSED, USAGE, UNREACHABLE):
            self.assertRegex(done.err, r'oxbow: [^\n]+\n\Z')
        return done

    def refused(self, *args, says, status=REFUSED, **more):
        """It fails so, with one line that says this."""
        done = self.oxbow(*args, status=status, **more)
        self.assertEqual(done.err.count('\n'), 1, done.err)
        self.assertRegex(done.err, says)
        return done

    @contextlib.contextmanager
    def server(self, *args, status=0, stop=signal.SIGTERM):
        with open(self.path('server.log'), 'wb') as log:
            process = subprocess.Popen([OXBOW, 'serve', '--listen', '127.0.0.1:0', *args],
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env=self.env)
        try:
            yield self.await_port(process), process
        finally:
            if process.poll() is None:
                process.send_signal(stop)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.assertEqual(process.returncode, status, self.server_log())

    def server_log(self):
        with open(self.path('server.log'), encoding='utf-8') as f:
            return f.read()

    def await_port(self, process):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = re.search(r'msg=listening .*port=(\d+)', self.server_log())
            if found:
                return f'http://127.0.0.1:{found.group(1)}'
            if process.poll() is not None:
                break
            time.sleep(0.01)
        self.fail('no server: ' + self.server_log())

    def until(self, condition):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        self.fail('in vain')


class Words(Case):
    """The command line itself."""

    def test_help_and_version(self):
        self.assertRegex(self.oxbow('--version').out, r'^oxbow \d+\.\d+\.\d+\n$')
        whole = self.oxbow('--help').out
        self.assertEqual(self.oxbow().out, whole)
        names = re.findall(r'^  ((?:log|stream|group|subject|index|transform|source|sink|outbox|migrate|user) \w+|\w+)', whole, re.M)
        self.assertIn('append', names)
        self.assertIn('migrate switch', names)
        for name in names:
            text = self.oxbow(*name.split(), '--help').out
            self.assertTrue(text.startswith(f'usage: oxbow {name}'), text)
            self.assertIn('Exit status', text)
        self.assertIn('log verify', self.oxbow('log', '--help').out)

    def test_unknown_words_have_a_nearest(self):
        for args, says in [(('raed',), 'did you mean oxbow read'),
                           (('log', 'verfy'), 'did you mean oxbow log verify'),
                           (('read', '--limt', '1', 's'), 'did you mean --limit'),
                           (('append', '--excpect', 'any', 's'), 'did you mean --expect'),
                           (('read', '--expect', 'any', 's'), 'takes no such option'),
                           (('read', '-z', 's'), 'takes no such option'),
                           (('quux',), 'no such command'), (('log',), 'needs a word more')]:
            self.refused(*args, says=says, status=USAGE)

    def test_wrong_use(self):
        for args, says in [(('append',), 'something is missing'),
                           (('read', 'a', 'b'), 'b: one word too many'),
                           (('read', 's', '--limit'), 'needs N'),
                           (('read', 's', '--limit', 'x'), 'must be a number'),
                           (('read', 's', '--limit', '0'), 'at least 1'),
                           (('read', 's', '--limit', '1', '--limit', '2'), 'given twice'),
                           (('read', 's', '--json=1'), 'takes no value'),
                           (('read', 's', '--prefix', 'x'), r'is for \$all'),
                           (('read', 's', '--follow', '--backwards'), 'forwards only'),
                           (('append', 's', '--expect', 'never'), 'any, no-stream, exists or'),
                           (('append', 's', '--expect', '-7'), 'any, no-stream, exists or'),
                           (('append', 's', '--batch', '0'), 'must be 1 to'),
                           (('completion', 'fish'), 'bash or zsh'), (('check',), 'needs -c FILE'),
                           (('serve', '--listen', 'here'), 'HOST:PORT'),
                           (('serve', '--listen', 'here:99999'), 'HOST:PORT'),
                           (('log', 'info', '--server', 'ftp://x'), '--server'),
                           (('log', 'reindex', '--server', 'http://x'), 'works on a data folder')]:
            self.refused(*args, says=says, status=USAGE)

    def test_completion(self):
        for shell in ('bash', 'zsh'):
            self.assertIn('_oxbow', self.oxbow('completion', shell).out)
        if shutil.which('bash') is None:
            self.skipTest('no bash here')
        script = self.oxbow('completion', 'bash').out + '''
            COMP_WORDS=(oxbow log ve) COMP_CWORD=2; _oxbow; echo "${COMPREPLY[@]}"
            COMP_WORDS=(oxbow append --exp) COMP_CWORD=2; _oxbow; echo "${COMPREPLY[@]}"'''
        done = subprocess.run(['bash', '-c', script], capture_output=True, check=True, text=True)
        self.assertEqual(done.stdout, 'verify\n--expect\n')


class Folder(Case):
    """Commands on a data folder."""

    def test_append_and_read(self):
        said = self.oxbow('append', 'a-1', '--expect', 'no-stream',
                          stdin=event('X', {'n': 1}, metadata={'m': True}) + '\n' +
                          event('Y', [2], id='01a200e1-af71-70b0-9220-7b877c869311'))
        self.assertIn('2 events appended to a-1: version 0 to 1', said.out)
        said = self.oxbow('append', 'b-1', '--json', stdin=event('X', 'ü\n') * 5).lines
        self.assertEqual([(x['first_version'], x['last_version']) for x in said], [(0, 4)])
        events = self.oxbow('read', '$all').lines
        self.assertEqual([(x['stream'], x['version'], x['type'], x['data']) for x in events],
                         [('a-1', 0, 'X', {'n': 1}), ('a-1', 1, 'Y', [2])] +
                         [('b-1', i, 'X', 'ü\n') for i in range(5)])
        self.assertEqual(events[0]['metadata'], {'m': True})
        self.assertEqual(events[1]['id'], '01a200e1-af71-70b0-9220-7b877c869311')
        for args, want in [(('a-1', '--backwards'), [1, 0]), (('b-1', '--from', '3'), [3, 4]),
                           (('b-1', '--limit', '2'), [0, 1]), (('b-1', '--from', 'end'), []),
                           (('b-1', '--backwards', '--from', '2', '-n', '2'), [2, 1]),
                           (('a-1', '--type', 'Y'), [1]), (('$all', '--type', 'Y'), [1]),
                           (('$all', '--prefix', 'a-'), [0, 1]),
                           (('$all', '--category', 'b', '-n', '1'), [0]),
                           (('$all', '--at', str(events[1]['position'])), [0, 1]),
                           (('$all', '--at', events[1]['created']), [0, 1]),
                           (('$all', '--at', '1999-01-01'), []),
                           (('$all', '--from', str(events[5]['position'])), [3, 4])]:
            got = self.oxbow('read', *args).lines
            self.assertEqual([x['version'] for x in got], want, args)
        self.refused('read', 'nope', says='is not there')
        self.refused('read', 'a-1', '--at', '1999-01-01', says='was not there yet')
        self.refused('read', 'a-1', '--at', 'noon', says='must be a position or a time',
                     status=USAGE)

    def test_expected_versions(self):
        self.oxbow('append', 's', '--expect', 'no-stream', stdin=event('X'))
        self.refused('append', 's', '--expect', 'no-stream', stdin=event('X'), says='version 0')
        self.refused('append', 's', '--expect', '5', stdin=event('X'), says='at version 0')
        self.refused('append', 't', '--expect', 'exists', stdin=event('X'), says='t')
        self.oxbow('append', 's', '--expect', '0', stdin=event('X'))
        self.oxbow('append', 's', '--expect', 'exists', stdin=event('X'))
        self.oxbow('append', 's', '--expect', 'any', stdin=event('X'))
        self.assertEqual(len(self.oxbow('read', 's').lines), 4)

    def test_batches_and_again(self):
        """A large input becomes several commits, which a second run recognises by their ids."""
        ids = [f'00000000-0000-7000-8000-{i:012d}' for i in range(1, 26)]
        text = ''.join(event('X', i, id=x) for i, x in enumerate(ids))
        for _ in range(2):
            said = self.oxbow('append', 's', '--batch', '10', '--expect', 'no-stream', '--json',
                              stdin=text).lines
            self.assertEqual([x['last_version'] for x in said], [9, 19, 24])
        self.assertTrue(all(x['idempotent'] for x in said))
        self.assertEqual([x['data'] for x in self.oxbow('read', 's').lines], list(range(25)))

    def test_bytes_are_kept(self):
        text = '{"type":"B","data_base64":"AP/+","metadata_base64":"//8="}\n'
        self.oxbow('append', 's', stdin=text)
        got = self.oxbow('read', 's').lines[0]
        self.assertEqual((got['data_base64'], got['metadata_base64']), ('AP/+', '//8='))

    def test_streams(self):
        for name in ('b-2', 'a-1', 'b-1'):
            self.oxbow('append', name, stdin=event('X') * 2)
        names = [x['stream'] for x in self.oxbow('stream', 'list').lines]
        self.assertEqual(names, ['a-1', 'b-1', 'b-2'])
        names = [x['stream'] for x in self.oxbow('stream', 'list', 'b', '--limit', '1').lines]
        self.assertEqual(names, ['b-1'])
        info = self.oxbow('stream', 'info', 'b-2').lines[0]
        self.assertEqual((info['stream'], info['first'], info['head']), ('b-2', 0, 1))
        self.refused('stream', 'info', 'x', says='is not there')
        self.assertEqual(self.oxbow('log', 'info').lines[0]['streams'], 3)

    def test_export_and_import(self):
        self.oxbow('append', 'a-1', stdin=event('X', {'n': 1.50}) * 3)
        self.oxbow('append', 'b-1', stdin='{"type":"B","data_base64":"AA=="}\n')
        text = self.oxbow('log', 'export').out
        self.assertEqual(len({x['commit'] for x in map(json.loads, text.splitlines())}), 2)
        other = self.path('other')
        for _ in range(2):  # the second time nothing is new
            done = self.oxbow('log', 'import', '--data', other, stdin=text).lines[0]
            self.assertEqual((done['events'], done['commits']), (4, 2))
            self.assertEqual(self.oxbow('log', 'export', '--data', other).out, text)
        gap = '\n'.join(line for line in text.splitlines() if '"version":1' not in line)
        self.refused('log', 'import', '--data', self.path('third'), stdin=gap, says='version 2')
        self.refused('log', 'import', '--data', self.path('third'), stdin='{"stream":"s"}',
                     says='line 1: ')

    def test_verify_and_reindex(self):
        self.oxbow('append', 's', stdin=event('X', 'y' * 100) * 500)
        counts = self.oxbow('log', 'verify').lines[0]
        self.assertEqual((counts['events'], counts['index_mismatches']), (500, 0))
        before = self.oxbow('log', 'export').out
        shutil.rmtree(os.path.join(self.data, 'index'))
        self.assertEqual(self.oxbow('log', 'reindex').lines[0]['events'], 500)
        self.assertEqual(self.oxbow('log', 'export').out, before)

    def test_no_folder(self):
        for args in (('read', 's'), ('stream', 'list'), ('log', 'info'), ('log', 'verify'),
                     ('log', 'reindex'), ('log', 'export')):
            self.refused(*args, says='no data folder', status=UNREACHABLE)
        self.assertFalse(os.path.exists(self.data))

    def test_closed_pipe(self):
        """head takes one line: no error, and the status that a shell knows."""
        self.oxbow('append', 's', stdin=event('X', 'y' * 1000) * 3000)
        process = subprocess.Popen([OXBOW, 'read', 's'], env=self.env, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.stderr.read(), b'')
        process.stderr.close()
        self.assertEqual(process.wait(PATIENCE), -signal.SIGPIPE)

    def test_follow_and_interrupt(self):
        self.oxbow('append', 's', stdin=event('X', 1))
        process = subprocess.Popen([OXBOW, 'read', 's', '--follow'], env=self.env,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(json.loads(process.stdout.readline())['data'], 1)
        self.oxbow('append', 's', stdin=event('X', 2))
        self.assertEqual(json.loads(process.stdout.readline())['data'], 2)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.communicate(timeout=PATIENCE), (b'', b''))
        self.assertEqual(process.returncode, -signal.SIGINT)

    def test_terminal(self):
        """A table on a terminal, where nothing that was stored steers it."""
        self.oxbow('append', 's', stdin=event('X', 'a\x1b[31mb') + event('\u009bY', 1))
        ours, theirs = pty.openpty()
        process = subprocess.Popen([OXBOW, 'read', 's'], env=self.env, stdout=theirs)
        os.close(theirs)
        text = b''
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 4096):
                text += chunk
        os.close(ours)
        self.assertEqual(process.wait(PATIENCE), 0)
        lines = text.decode().splitlines()
        self.assertRegex(lines[0], r'^version +type +created +data$')
        self.assertRegex(lines[1], r'^0 +X +20\S+ +"a\\u001b\[31mb"$')
        self.assertNotIn('\u009b', text.decode())

    def test_one_owner(self):
        self.oxbow('append', 's', stdin=event('X'))
        with self.server():
            self.refused('append', 's', stdin=event('X'), says='another process has this data',
                         status=UNREACHABLE)
            self.refused('serve', '--listen', '127.0.0.1:0', says='another process',
                         status=UNREACHABLE)


class BadInput(Case):
    """Every one is one line, has its status, and loses nothing."""

    def setUp(self):
        super().setUp()
        self.oxbow('append', 'kept', stdin=event('X', 1) * 3)

    def tearDown(self):
        self.assertEqual(len(self.oxbow('read', 'kept').lines), 3)

    def test_lines(self):
        good = event('X')
        for bad, says in [('{"type":"X","data":}', 'JSON'), ('nonsense', 'JSON'), ('{}', '"type"'),
                          ('{"type":"X"}', '"data"'), ('{"type":"","data":1}', '1 to 255'),
                          ('{"type":7,"data":1}', 'must be a string'), ('[]', 'an array'),
                          ('{"type":"X","data":1,"typo":2}', 'typo|unknown|key'),
                          ('{"type":"X","data":1,"id":"no"}', 'UUID'),
                          ('{"type":"X","data":1,"data_base64":""}', 'one of'),
                          ('{"type":"X","data_base64":"?"}', 'base64'),
                          ('{"type":"%s","data":1}' % ('x' * 256), '1 to 255'),
                          ('{"type":"X","data":1,"data":2}', 'twice|again|data'),
                          ('{"type":"X","data":%s1%s}' % ('[' * 200, ']' * 200), 'deep|nest|128')]:
            done = self.refused('append', 'kept', stdin=good + '\n' + bad + '\n' + good,
                                says='line 3: ')
            self.assertRegex(done.err, says)
        self.refused('append', 'kept', stdin=b'{"type":"X\xff","data":1}\n', says='line 1: .*UTF-8')
        self.refused('append', 'kept', stdin=b'{"type":"X","data":"\xc3"}\n', says='line 1: ')
        self.refused('append', 'kept', stdin='', says='no event')
        self.refused('append', 'kept', stdin='\n\n', says='no event')

    def test_what_came_before_stays(self):
        done = self.refused('append', 'more', '--batch', '2', stdin=event('X') * 5 + '{bad\n',
                            says='after 4 events in 2 commits, up to version 3: line 6: ')
        self.assertEqual(done.out, '')
        self.assertEqual(len(self.oxbow('read', 'more').lines), 4)

    def test_limits(self):
        big = 'x' * (16 << 20)
        self.refused('append', 'kept', stdin=event('X', big), says='line 1: .*16 MiB')
        self.refused('append', 'kept', stdin='{"type":"X","data":"' + big * 3,
                     says='line|limit|long')
        fits = 'x' * ((16 << 20) - 2)
        self.oxbow('append', 'big', stdin=event('X', fits))
        self.assertEqual(self.oxbow('read', 'big').lines[0]['data'], fits)

    def test_commit_limit(self):
        conf = self.write('c.yaml', 'log: {commit_bytes_max: 1MiB}\n')
        with self.server('-c', conf) as (url, _):
            self.refused('append', 'kept', '--server', url, stdin=event('X', 'y' * 2000) * 900,
                         says='commit')
            self.oxbow('append', 'other', '--server', url, stdin=event('X', 'y' * 2000) * 100)

    def test_names(self):
        for name, says in [('', 'empty|1 to 255'), ('x' * 300, '255'), ('$mine', r'\$|reserved'),
                           (b'a\xff', 'UTF-8'), (b'\xc3(', 'UTF-8')]:
            self.refused('append', name, stdin=event('X'), says=says)
        with self.server() as (url, _):
            for name in ('', 'x' * 300, '$mine'):
                self.refused('append', name, '--server', url, stdin=event('X'), says='.')
            self.refused('read', 'nope', '--server', url, says='is not there')

    def test_other_format(self):
        segment = self.segment()
        with open(segment, 'r+b') as f:
            head = bytearray(f.read(64))
            at = head.index(b'\x01\x00\x00\x00', 8)
            head[at] = 99
            f.seek(0)
            f.write(head)
        try:
            self.refused('read', 'kept', says='.', status=UNREACHABLE)
            self.refused('serve', '--listen', '127.0.0.1:0', says='.', status=UNREACHABLE)
        finally:
            with open(segment, 'r+b') as f:
                f.seek(at)
                f.write(b'\x01')

    def segment(self):
        folder = os.path.join(self.data, 'segments')
        return os.path.join(folder, sorted(os.listdir(folder))[0])

    def test_damage(self):
        self.oxbow('append', 'marked', stdin=event('X', 'FIND-ME' * 20) + event('X', 'after'))
        self.oxbow('append', 'marked', stdin=event('X', 'later'))
        with open(self.segment(), 'r+b') as f:
            at = f.read().index(b'FIND-ME') + 3
            f.seek(at)
            old = f.read(1)
            f.seek(at)
            f.write(bytes([old[0] ^ 0x20]))
        self.refused('log', 'verify', says=r'\d+')
        with open(self.segment(), 'r+b') as f:
            f.seek(at)
            f.write(old)
        self.oxbow('log', 'verify')

    def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(('127.0.0.1', 0))
            taken.listen()
            self.refused('serve', '--listen', '127.0.0.1:%d' % taken.getsockname()[1],
                         says='in use', status=UNREACHABLE)

    def test_read_only_folder(self):
        if os.geteuid() == 0:
            self.skipTest('root may write anywhere: see test_read_only_disk')
        os.chmod(self.data, 0o500)
        self.addCleanup(os.chmod, self.data, 0o700)
        self.refused('append', 'kept', stdin=event('X'), says='.', status=UNREACHABLE)

    @contextlib.contextmanager
    def mounted(self, options):
        if os.geteuid() != 0:
            self.skipTest('only root can mount a tmpfs')
        target = self.path('mount')
        os.makedirs(target, exist_ok=True)
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', target],
                              capture_output=True, check=False)
        if done.returncode != 0:
            self.skipTest('no tmpfs can be mounted here: ' + done.stderr.decode().strip())
        try:
            yield target
        finally:
            subprocess.run(['umount', '-l', target], check=True)

    def test_full_disk(self):
        """Refused while the disk is full; all that was acknowledged stays."""
        with self.mounted('size=128m') as target:
            data = os.path.join(target, 'data')
            text = event('X', 'y' * 10000) * 400
            done = None
            acknowledged = 0
            for _ in range(100):
                run = subprocess.run([OXBOW, 'append', 's', '--json', '--data', data],
                                     input=text.encode(), capture_output=True, check=False,
                                     env=self.env, timeout=PATIENCE)
                done = Done(run)
                if done.lines:
                    acknowledged = done.lines[-1]['last_version'] + 1
                if done.status != 0:
                    break
            self.assertIn(done.status, (REFUSED, UNREACHABLE))
            self.assertRegex(done.err, r'\Aoxbow: [^\n]*(space|full|free)[^\n]*\n\Z')
            got = self.oxbow('read', 's', '--data', data).lines
            self.assertGreaterEqual(len(got), acknowledged)
            self.assertEqual([x['version'] for x in got], list(range(len(got))))

    def test_read_only_disk(self):
        with self.mounted('size=300m') as target:
            data = os.path.join(target, 'data')
            self.oxbow('append', 's', '--data', data, stdin=event('X', 1))
            subprocess.run(['mount', '-o', 'remount,ro', target], check=True)
            self.refused('append', 's', '--data', data, stdin=event('X'), says='[Rr]ead-only',
                         status=UNREACHABLE)
            self.assertEqual(len(self.oxbow('read', 's', '--data', data).lines), 1)


class Server(Case):
    """The same commands at a running server."""

    def test_same_output(self):
        self.oxbow('append', 'a-1', stdin=event('X', 1, metadata={'m': 1}) + event('Y', 'ü'))
        self.oxbow('append', 'b-1', stdin='{"type":"B","data_base64":"AP8="}\n')
        commands = [('read', 'a-1'), ('read', '$all', '--backwards'), ('read', 'a-1', '--type', 'Y'),
                    ('read', '$all', '--category', 'a', '--limit', '1'), ('stream', 'list'),
                    ('stream', 'list', 'b'), ('stream', 'info', 'a-1'),
                    ('read', '$all', '--at', '2999-01-01')]
        before = [self.oxbow(*command).out for command in commands]
        with self.server() as (url, _):
            for command, text in zip(commands, before):
                self.assertEqual(self.oxbow(*command, '--server', url).out, text, command)
            self.assertEqual(self.oxbow(*commands[0], env={'OXBOW_SERVER': url,
                                                           'OXBOW_DATA': ''}).out, before[0])
            self.assertEqual(self.oxbow('log', 'info', '--server', url).lines[0]['streams'], 2)
            self.refused('append', 'a-1', '--server', url, '--expect', '7', stdin=event('X'),
                         says='at version 1')
            self.refused('stream', 'info', 'x', '--server', url, says='is not there')
            self.refused('read', 'x', '--server', url, says='is not there')
            said = self.oxbow('append', 'a-1', '--server', url, '--expect', '1', '--batch', '2',
                              '--json', stdin=event('Z') * 5).lines
            self.assertEqual([x['last_version'] for x in said], [3, 5, 6])
        self.refused('read', 'a-1', '--server', url, says='is the server running',
                     status=UNREACHABLE)

    def test_follow(self):
        with self.server() as (url, _):
            self.oxbow('append', 's', '--server', url, stdin=event('X', 1))
            process = subprocess.Popen([OXBOW, 'read', '$all', '--follow', '--server', url],
                                       env=self.env, stdout=subprocess.PIPE)
            self.assertEqual(json.loads(process.stdout.readline())['data'], 1)
            self.oxbow('append', 's', '--server', url, stdin=event('X', 2))
            self.assertEqual(json.loads(process.stdout.readline())['data'], 2)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
            self.assertEqual(process.returncode, -signal.SIGINT)

    def test_drains(self):
        """SIGTERM in the midst of appends: what was acknowledged is there, the next start clean."""
        with self.server() as (url, process):
            append = subprocess.Popen([OXBOW, 'append', 's', '--server', url, '--batch', '1',
                                       '--json'], env=self.env, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            feed = threading.Thread(target=self.feed, args=(append.stdin,))
            feed.start()
            for _ in range(20):
                append.stdout.readline()
            process.terminate()
            rest = append.stdout.read().decode().splitlines()
            append.wait(PATIENCE)
            feed.join()
            for stream in (append.stdout, append.stderr):
                stream.close()
            process.wait(PATIENCE)
        got = self.oxbow('read', 's').lines
        self.assertGreaterEqual(len(got), 20 + len(rest))
        with self.server():
            self.assertIn('clean=yes', self.server_log())

    @staticmethod
    def feed(stream):
        with contextlib.suppress(OSError, ValueError):
            for i in range(100000):
                stream.write(event('X', i).encode())
        with contextlib.suppress(OSError):
            stream.close()

    def answering(self, respond):
        """A server that is none of ours."""
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                respond(self)
            do_POST = do_GET

            def log_message(self, *args):
                pass
        server = HTTPServer(('127.0.0.1', 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        return 'http://127.0.0.1:%d' % server.server_port

    def test_other_servers(self):
        def with_body(status, body):
            def respond(handler):
                handler.send_response(status)
                handler.send_header('Content-Length', str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)
            return respond

        def half(handler):
            handler.send_response(200)
            handler.send_header('Content-Length', '1000')
            handler.end_headers()
            handler.wfile.write(b'{"log":')

        for respond, status, says in [
                (with_body(500, b'oh'), REFUSED, 'answered 500'),
                (with_body(422, b'{"error":"no","message":"not \\u001b[1m so"}'), REFUSED, r'not .\[1m'),
                (with_body(200, b'garbage'), REFUSED, "not one of Oxbow's"),
                (with_body(200, b''), REFUSED, "not one of Oxbow's"), (half, UNREACHABLE, '.')]:
            url = self.answering(respond)
            self.refused('log', 'info', '--server', url, status=status, says=says)
            self.refused('append', 's', '--server', url, stdin=event('X'), status=status, says='.')


class Configuration(Case):
    def test_all_problems_at_once(self):
        conf = self.write('c.yaml', 'listen: 7\nlog: {segment_bytes: tiny}\nsorces: {}\n'
                                    'sources: {shop: {type: oracle}}\n')
        for command in ('check', 'serve'):
            done = self.oxbow(command, '-c', conf, status=REFUSED)
            for place in ('c.yaml:1:', 'c.yaml:2:', 'c.yaml:3:', 'c.yaml:4:'):
                self.assertIn(place, done.err)
        self.refused('check', '-c', self.write('d.yaml', 'a: [\n'), says=r'd\.yaml:\d+:\d+: ')
        self.refused('check', '-c', self.path('none'), says='No such file', status=UNREACHABLE)

    def test_check_probes(self):
        conf = self.write('c.yaml', f'data: {self.data}\nsources:\n  shop:\n    type: sqlite\n'
                                    f'    path: {self.path("shop.db")}\n'
                                    '    tables: [{name: orders}]\n')
        done = self.oxbow('check', '-c', conf, status=UNREACHABLE)
        self.assertIn('fails    sources.shop: ', done.out)
        self.sqlite('create table orders (id integer primary key, state text)')
        done = self.oxbow('check', '-c', conf, '--json', status=REFUSED)
        found = [x for x in done.lines if x['level'] == 'missing']
        self.assertEqual([x['part'] for x in found], ['sources.shop'])
        self.assertIn('oxbow source prepare shop', found[0]['text'])
        self.oxbow('source', 'prepare', 'shop', '-c', conf, '--dry-run')
        self.oxbow('check', '-c', conf, status=REFUSED)
        self.oxbow('source', 'prepare', 'shop', '-c', conf)
        self.oxbow('check', '-c', conf)
        self.oxbow('source', 'check', 'shop', '-c', conf)
        self.oxbow('source', 'unprepare', 'shop', '-c', conf)
        self.oxbow('source', 'check', 'shop', '-c', conf, status=REFUSED)
        self.refused('source', 'check', 'shp', '-c', conf, says='no such source')

    def test_table_without_a_key(self):
        self.sqlite('create table orders (state text)')
        conf = self.write('c.yaml', 'sources:\n  shop: {type: sqlite, path: '
                                    f'{self.path("shop.db")}, tables: [{{name: orders}}]}}\n')
        done = subprocess.run([OXBOW, 'check', '-c', conf], capture_output=True, env=self.env,
                              check=False, timeout=PATIENCE)
        self.assertIn(done.returncode, (REFUSED, UNREACHABLE))
        self.assertRegex(done.stdout.decode(), 'primary key|a key')

    def sqlite(self, *statements):
        import sqlite3
        with contextlib.closing(sqlite3.connect(self.path('shop.db'), timeout=PATIENCE)) as db:
            for statement in statements:
                db.execute(statement)
            db.commit()

    def test_capture_and_reload(self):
        self.sqlite('create table orders (id integer primary key, state text)',
                    "insert into orders values (1, 'placed')")
        empty = f'data: {self.data}\n'
        full = empty + ('sources:\n  shop: {type: sqlite, path: ' + self.path('shop.db') +
                        ', tables: [{name: orders}]}\n')
        conf = self.write('c.yaml', full)
        self.oxbow('source', 'prepare', 'shop', '-c', conf)
        self.write('c.yaml', empty)
        del self.env['OXBOW_DATA']
        with self.server('-c', conf) as (url, process):
            self.assertEqual(self.oxbow('source', 'list', '--server', url).lines, [])
            self.assertEqual(self.oxbow('sink', 'list', '--server', url).lines, [])
            self.assertEqual(self.oxbow('migrate', 'list', '--server', url).lines, [])
            self.refused('source', 'show', 'shop', '--server', url, says='no source')
            self.refused('migrate', 'start', 'm', '--server', url, says='m: ')
            self.write('c.yaml', full)
            process.send_signal(signal.SIGHUP)
            self.until(lambda: self.oxbow('source', 'list', '--server', url).lines)
            self.sqlite("insert into orders values (2, 'placed')",
                        "update orders set state = 'paid' where id = 1")
            self.until(lambda: [x['type'] for x in self.oxbow(
                'read', '$all', '--category', 'orders', '--server', url).lines]
                [-2:] == ['Inserted', 'Updated'])
            shown = self.oxbow('source', 'show', 'shop', '--server', url).lines[0]
            self.assertEqual((shown['state'], shown['config']['type']), ('running', 'sqlite'))
            self.write('c.yaml', 'nonsense: 1\n')
            process.send_signal(signal.SIGHUP)
            self.until(lambda: 'was not taken over' in self.server_log())
            self.assertEqual(len(self.oxbow('source', 'list', '--server', url).lines), 1)
            self.write('c.yaml', empty)
            process.send_signal(signal.SIGHUP)
            self.until(lambda: not self.oxbow('source', 'list', '--server', url).lines)


class Migration(Case):
    """The migrate commands, between two SQLite databases."""

    def database(self, name, *statements):
        import sqlite3
        with contextlib.closing(sqlite3.connect(self.path(name), timeout=PATIENCE)) as db:
            db.execute('pragma journal_mode=wal')
            rows = [row for statement in statements for row in db.execute(statement)]
            db.commit()
            return rows

    def side(self, name, table, state):
        return (f'      source: {{type: sqlite, path: {self.path(name)}, snapshot: false, '
                f'tables: [{{name: {table}, columns: [{state}]}}]}}\n'
                f'      store: {{type: sqlite, path: {self.path(name)}, table: {table}, key: id, '
                f'columns: [{state}]}}\n')

    def setUp(self):
        super().setUp()
        self.database('old.db', 'create table orders (id integer primary key, item text not null '
                      "default 'x', state text)",
                      'with recursive n(i) as (select 1 union all select i + 1 from n where i < 50)'
                      " insert into orders (id, state) select i, 'placed' || i from n")
        self.database('new.db', 'create table parts (id integer primary key, status text)')
        self.conf = self.write('c.yaml', 'migrations:\n  orders:\n    old:\n' +
                               self.side('old.db', 'orders', 'state') + '    new:\n' +
                               self.side('new.db', 'parts', 'status') +
                               '    columns: {state: status}\n')

    def get(self, url, accept='application/json'):
        request = urllib.request.Request(url, headers={'Accept': accept})
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def route(self, url, query=''):
        with self.get(f'{url}/v1/migrations/orders/route?key=1&consumer=t{query}') as answer:
            return json.load(answer)

    def pushed(self, stream):
        """The next route that is pushed."""
        while True:
            line = stream.readline().decode()
            self.assertNotEqual(line, '')
            if line.startswith('data: '):
                return json.loads(line[6:])['side']

    def phase(self, url):
        return self.oxbow('migrate', 'show', 'orders', '--server', url).lines[0]['phase']

    def test_there_and_back(self):
        self.oxbow('check', '-c', self.conf, status=REFUSED)
        with self.server('-c', self.conf) as (url, _):
            def migrate(*words, **more):
                return self.oxbow('migrate', *words, '--server', url, **more)
            self.assertEqual([x['name'] for x in migrate('list').lines], ['orders'])
            self.refused('migrate', 'switch', 'orders', '--server', url, says='orders: ')
            self.refused('migrate', 'complete', 'orders', 'nonsense', '--server', url,
                         says='no such command')
            self.assertEqual(self.route(url)['side'], 'old')
            with self.get(f'{url}/v1/migrations/orders/route?key=1', 'text/event-stream') as push:
                self.assertEqual(self.pushed(push), 'old')
                phases = [x['phase'] for x in migrate('start', 'orders', '--watch', '--json').lines
                          if 'phase' in x]
                self.until(lambda: self.phase(url) == 'READY')
                self.assertNotIn('HALTED', phases)
                self.assertEqual(
                    self.database('new.db', 'select id, status from parts order by id'),
                    self.database('old.db', 'select id, state from orders order by id'))
                migrate('switch', 'orders')
                while self.pushed(push) != 'new':
                    pass
            self.assertEqual(self.route(url, '&wait_ms=1000')['side'], 'new')
            self.database('new.db', "update parts set status = 'moved' where id = 7")
            self.until(lambda: self.database('old.db', 'select state from orders where id = 7') ==
                       [('moved',)])
            migrate('reverse', 'orders')
            self.assertEqual(self.route(url)['side'], 'old')
            self.until(lambda: self.phase(url) == 'READY')
            migrate('verify', 'orders')
            self.until(lambda: self.phase(url) == 'READY')
            self.assertEqual(migrate('report', 'orders').lines[0]['divergent'], 0)
            migrate('pause', 'orders')
            self.assertEqual(self.phase(url), 'PAUSED')
            migrate('resume', 'orders')
            self.until(lambda: self.phase(url) == 'READY')
            migrate('cancel', 'orders')
            self.until(lambda: self.phase(url) == 'CANCELLED')
        with self.server('-c', self.conf) as (url, _):
            self.assertEqual(self.phase(url), 'CANCELLED')


if __name__ == '__main__':
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(unittest.main(verbosity=2))
