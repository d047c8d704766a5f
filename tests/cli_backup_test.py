"""oxbow log backup, restore and verify: on a folder, through a running server, killed in the middle."""
import json
import os
import pty
import signal
import subprocess
import unittest
import urllib.error
import urllib.request

from cli_test import OXBOW, PATIENCE, UNREACHABLE, USAGE, Case, event

BIG = 'x' * 200000


class Backup(Case):
    def setUp(self):
        super().setUp()
        self.backup = self.path('backup')
        self.restored = self.path('restored')

    def fill(self, count=40, stream='s', where=()):
        self.oxbow('append', stream, *where, stdin=event('X', BIG) * count)

    def events(self, folder):
        return self.oxbow('read', '$all', '--data', folder).out

    def test_round_trip(self):
        self.fill()
        one = self.oxbow('log', 'backup', self.backup).lines[0]
        self.assertEqual(one['events'], 40)
        self.assertEqual(one['copied_bytes'], one['bytes'])
        end = self.oxbow('log', 'info').lines[0]['end']
        self.assertEqual(one['end'], end)
        again = self.oxbow('log', 'backup', self.backup).lines[0]
        self.assertEqual((again['copied_bytes'], again['bytes']), (0, one['bytes']))
        checked = self.oxbow('log', 'restore', self.backup, '--verify-only').lines[0]
        self.assertEqual((checked['end'], checked['events']), (end, 40))
        self.assertFalse(os.path.exists(self.restored))
        back = self.oxbow('log', 'restore', self.backup, '--data', self.restored).lines[0]
        self.assertEqual((back['end'], back['events'], back['log']), (end, 40, one['log']))
        self.assertEqual(self.events(self.restored), self.events(self.data))
        self.oxbow('log', 'verify', '--data', self.restored)
        self.oxbow('append', 's', '--data', self.restored, stdin=event('Y'))

    def test_refusals(self):
        self.fill(3)
        self.refused('log', 'backup', says='something is missing', status=USAGE)
        self.refused('log', 'backup', self.backup, '--rate', '0', says='--rate', status=USAGE)
        self.refused('log', 'backup', self.backup, '--data', self.path('none'), status=UNREACHABLE,
                     says='no data folder')
        self.refused('log', 'backup', self.path('a/b/c'), says='a/b/c')
        self.refused('log', 'backup', self.data, says='no backup|another process|in use')
        self.refused('log', 'restore', self.backup, '--data', self.restored, says='no backup is there')
        self.oxbow('log', 'backup', self.backup)
        self.refused('log', 'restore', self.backup, says='not empty')  # the data folder itself
        self.refused('log', 'restore', self.backup, '--server', 'http://x', status=USAGE,
                     says='works on a data folder')
        self.assertEqual(len(self.oxbow('read', 's').lines), 3)
        with open(os.path.join(self.backup, 'MANIFEST'), 'r+b') as f:
            f.write(b'[')
        self.refused('log', 'restore', self.backup, '--verify-only', says='MANIFEST')
        self.refused('log', 'backup', self.backup, says='MANIFEST')

    def test_damage_is_named(self):
        self.fill(20)
        segments = os.path.join(self.data, 'segments')
        first = os.path.join(segments, sorted(os.listdir(segments))[0])
        with open(first, 'r+b') as f:
            f.seek(500000)
            f.write(b'damage')
        self.refused('log', 'backup', self.backup, says=r'\.seg: damaged at position \d+')
        self.assertFalse(os.path.exists(os.path.join(self.backup, 'MANIFEST')))
        self.refused('log', 'verify', says=r'damaged at position \d+')

    def test_while_it_serves(self):
        self.fill(5)
        with self.server() as (url, _):
            at = ('--server', url)
            one = self.oxbow('log', 'backup', self.backup, *at).lines[0]
            self.assertEqual(one['events'], 5)
            self.fill(10, where=at)
            two = self.oxbow('log', 'backup', self.backup, *at).lines[0]
            self.assertEqual((two['events'], two['copied_segments']), (10, 1))
            self.assertEqual(two['copied_bytes'], two['end'] - one['end'])
            counts = self.oxbow('log', 'verify', *at).lines[0]
            self.assertEqual((counts['events'], counts['index_mismatches']), (15, 0))
            self.refused('log', 'backup', self.path('a/b/c'), *at, says='a/b/c')
            self.refused('log', 'backup', self.data, *at, says='no backup')
            # What no command sends.
            for body, status in ((b'{"dir":"relative"}', 400), (b'{}', 400), (b'[', 400),
                                 (b'{"dir":"/x","rate_mib":-1}', 400)):
                self.assertEqual(self.post(url + '/v1/backup', body), status)
            self.assertEqual(self.post(url + '/v1/backup', b'{"dir":"/x"}', 'text/plain'), 415)
        back = self.oxbow('log', 'restore', self.backup, '--data', self.restored).lines[0]
        self.assertEqual(back['events'], 15)
        self.assertEqual(self.events(self.restored), self.events(self.data))

    def post(self, url, body, kind='application/json'):
        request = urllib.request.Request(url, body, {'Content-Type': kind})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.read()
            return error.code

    def get(self, url):
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.load(answer)

    def test_at_a_pace_and_stopped(self):
        """One at a time; it can be stopped, and a server does not wait for it."""
        self.fill(100)
        with self.server() as (url, _):
            body = json.dumps({'dir': self.backup, 'rate_mib': 1}).encode()
            self.assertEqual(self.post(url + '/v1/backup', body), 202)
            self.assertEqual(self.post(url + '/v1/backup', body), 409)
            self.until(lambda: self.get(url + '/v1/backup')['done'] > 0)
            self.fill(1, where=('--server', url))  # nobody waits for it
            request = urllib.request.Request(url + '/v1/backup', method='DELETE')
            urllib.request.urlopen(request, timeout=PATIENCE).close()
            ended = self.until(lambda: (d := self.get(url + '/v1/backup'))['state'] != 'running' and d)
            self.assertEqual((ended['state'], ended['error']), ('failed', 'interrupted'))
            self.assertEqual(self.post(url + '/v1/backup', body), 202)
        self.refused('log', 'restore', self.backup, '--verify-only', says='no backup is there')

    def test_scavenged(self):
        """A segment that was scavenged since is copied anew, the others are not."""
        self.fill(90, stream='old')
        self.fill(10, stream='kept')
        one = self.oxbow('log', 'backup', self.backup).lines[0]
        self.oxbow('stream', 'delete', 'old')
        self.oxbow('log', 'scavenge')
        two = self.oxbow('log', 'backup', self.backup).lines[0]
        self.assertLess(two['bytes'], one['bytes'])
        again = self.oxbow('log', 'backup', self.backup).lines[0]
        self.assertEqual((again['copied_bytes'], again['bytes']), (0, two['bytes']))
        names = os.listdir(os.path.join(self.backup, 'files'))
        self.assertEqual(len(names), two['segments'])
        self.assertTrue([n for n in names if n.endswith('-1.seg')])
        self.oxbow('log', 'restore', self.backup, '--verify-only')
        self.oxbow('log', 'restore', self.backup, '--data', self.restored)
        self.assertEqual(self.events(self.restored), self.events(self.data))
        self.assertEqual(len(self.oxbow('read', 'kept', '--data', self.restored).lines), 10)
        self.oxbow('log', 'verify', '--data', self.restored)

    def test_killed_in_the_middle(self):
        """SIGKILL while the second backup copies: the first one is there, and a third succeeds."""
        self.fill(10)
        one = self.oxbow('log', 'backup', self.backup).lines[0]
        self.fill(60)
        files = os.path.join(self.backup, 'files')
        for _ in range(3):
            with subprocess.Popen([OXBOW, 'log', 'backup', self.backup, '--rate', '1', '--json'],
                                  env=self.env, stdout=subprocess.PIPE) as process:
                line = json.loads(process.stdout.readline())
                self.assertEqual(line['progress'], 'backup')
                self.assertLess(line['done'], line['all'])
                process.kill()
            checked = self.oxbow('log', 'restore', self.backup, '--verify-only').lines[0]
            self.assertEqual((checked['end'], checked['events']), (one['end'], 10))
        self.oxbow('log', 'backup', self.backup)
        self.assertFalse([n for n in os.listdir(files) if n.endswith('.new')])
        back = self.oxbow('log', 'restore', self.backup, '--data', self.restored).lines[0]
        self.assertEqual(back['events'], 70)
        self.assertEqual(self.events(self.restored), self.events(self.data))

    def test_restore_killed(self):
        """Half of a restored log opens as no log."""
        self.fill(60)
        self.oxbow('log', 'backup', self.backup)
        process = subprocess.Popen([OXBOW, 'log', 'restore', self.backup, '--rate', '1', '--data',
                                    self.restored], env=self.env, stdout=subprocess.DEVNULL)
        segments = os.path.join(self.restored, 'segments')
        self.until(lambda: os.path.isdir(segments) and os.listdir(segments))
        process.kill()
        process.wait()
        self.refused('append', 's', '--data', self.restored, stdin=event('X'), status=UNREACHABLE,
                     says='damaged|missing|header')
        self.refused('log', 'restore', self.backup, '--data', self.restored, says='not empty')

    def test_bar_and_lines(self):
        self.fill(40)
        ours, theirs = pty.openpty()
        process = subprocess.Popen([OXBOW, 'log', 'backup', self.backup, '--rate', '8'],
                                   env=self.env, stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        text = b''
        try:
            while chunk := os.read(ours, 4096):
                text += chunk
        except OSError:
            pass
        os.close(ours)
        self.assertEqual(process.wait(PATIENCE), 0)
        self.assertRegex(text.decode(), r'backup \[#*\.*\] +\d+ %  .* of .*/s  \d+:\d\d left')
        done = self.oxbow('log', 'restore', self.backup, '--json', '--rate', '4', '--data',
                          self.restored)
        self.assertRegex(done.lines[0]['progress'], 'restore')
        self.assertEqual(set(done.lines[0]), {'progress', 'done', 'all', 'per_second', 'left_s'})
        self.assertEqual(done.lines[-1]['events'], 40)

    def test_interrupted(self):
        self.fill(40)
        process = subprocess.Popen([OXBOW, 'log', 'backup', self.backup, '--rate', '1'],
                                   env=self.env, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        self.until(lambda: os.path.isdir(os.path.join(self.backup, 'files')))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.oxbow('log', 'backup', self.backup)


if __name__ == '__main__':
    unittest.main()
