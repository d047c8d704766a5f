"""oxbow log scavenge on a folder and at a server, /v1/scavenge, and the configuration's plan."""
import json
import os
import shutil
import signal
import subprocess
import sys
import unittest
import urllib.error
import urllib.request

from cli_test import OXBOW, REFUSED, UNREACHABLE, USAGE, Case, event


KILLER = os.environ.get('KILL_AT_SYNC', '')


def ask(url, method, body=None):
    """Status and document of /v1/scavenge."""
    request = urllib.request.Request(url + '/v1/scavenge', method=method,
                                     data=None if body is None else body.encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read())


class Scavenge(Case):
    LINES = ''.join(event('Put', {'text': 'x' * 4000, 'n': n}) for n in range(1500))

    def fill(self):
        """More than a segment of 2 MiB, of which most is truncated."""
        config = self.write('oxbow.yaml', 'log: {segment_bytes: 2MiB}\n')
        with self.server('-c', config) as (url, _):
            self.oxbow('append', 'shop-1', '--server', url, '--batch', '20', stdin=self.LINES)
        self.oxbow('stream', 'truncate', 'shop-1', '1490')
        return config

    def versions(self):
        return [e['version'] for e in self.oxbow('read', 'shop-1', '--json').lines]

    def test_folder(self):
        self.fill()
        before = self.oxbow('log', 'info', '--json').lines[0]['disk_bytes']
        dry = self.oxbow('log', 'scavenge', '--dry-run', '--json').lines[0]
        self.assertEqual((dry['state'], dry['dry_run']), ('done', True))
        self.assertGreater(dry['freed_bytes'], 3 << 20)
        self.assertEqual(self.oxbow('log', 'info', '--json').lines[0]['disk_bytes'], before)
        real = self.oxbow('log', 'scavenge', '--json', '--rate', '500').lines[0]
        self.assertEqual(real['freed_bytes'], dry['freed_bytes'])
        self.assertEqual(real['events'], dry['events'])
        after = self.oxbow('log', 'info', '--json').lines[0]['disk_bytes']
        self.assertEqual(after, before - real['freed_bytes'])
        self.assertEqual(self.versions(), list(range(1490, 1500)))
        self.oxbow('log', 'verify')
        self.oxbow('log', 'reindex')
        self.assertEqual(self.versions(), list(range(1490, 1500)))

    def test_server(self):
        config = self.fill()
        with self.server('-c', config) as (url, _):
            self.assertEqual(ask(url, 'GET')[1]['state'], 'none')
            done = self.oxbow('log', 'scavenge', '--server', url, '--json').lines[0]
            self.assertEqual(done['state'], 'done')
            self.assertGreater(done['freed_bytes'], 3 << 20)
            self.assertEqual(ask(url, 'GET')[1]['run'], 1)
            # Enough for seconds at the rate that the next one has.
            self.oxbow('append', 'shop-2', '--server', url, '--batch', '20', stdin=self.LINES)
            self.oxbow('stream', 'truncate', 'shop-2', '1490', '--server', url)
            status, now = ask(url, 'POST', '{"rate":1}')
            self.assertEqual((status, now['run']), (202, 2))
            self.assertEqual(ask(url, 'POST', '')[0], 409)
            self.assertEqual(ask(url, 'DELETE')[0], 202)
            self.oxbow('log', 'scavenge', '--server', url, '--stop')
            self.until(lambda: ask(url, 'GET')[1]['state'] == 'stopped')
            for body in ('{"rate":-1}', '{"min_share":0}', '{"min_share":101}', '{"what":1}', '{',
                         '{"dry_run":1}', '[]'):
                self.assertEqual(ask(url, 'POST', body)[0], 400, body)
            with urllib.request.urlopen(f'{url}/metrics', timeout=60) as answer:
                self.assertIn(b'oxbow_scavenge_runs_total 2', answer.read())

    def test_refusals(self):
        self.refused('log', 'scavenge', says='no data folder', status=UNREACHABLE)
        self.refused('log', 'scavenge', '--stop', says='--server', status=USAGE)
        self.refused('log', 'scavenge', '--min-share', '0', says='1 to 100', status=USAGE)
        self.refused('log', 'scavenge', '--rate', 'x', says='number', status=USAGE)
        for text, says in (('{every: 1d, at: "25:00"}', 'time of day'),
                           ('{every: 1h, at: "03:00"}', 'whole days'),
                           ('{at: "03:00"}', 'whole days'),
                           ('{every: 1d, at: "ab:cd"}', 'at'),
                           ('{min_share: 0}', 'min_share'), ('{often: 1d}', 'often')):
            config = self.write('oxbow.yaml', f'log: {{scavenge: {text}}}\n')
            self.refused('check', '-c', config, says=says, status=REFUSED)

    def test_killed(self):
        """At each of its syncs; the next run goes on where that one was."""
        if not os.path.exists(KILLER):
            self.skipTest('KILL_AT_SYNC names no library')
        self.fill()
        before, kill, resumed = self.path('before'), {'LD_PRELOAD': KILLER}, set()
        shutil.copytree(self.data, before)
        whole = self.oxbow('log', 'scavenge', '--json').lines[0]
        self.assertGreater(whole['segments_rewritten'], 1)
        for number in range(1, 100):
            shutil.rmtree(self.data)
            shutil.copytree(before, self.data)
            kill['KILL_AT'] = str(number)
            status = subprocess.run([OXBOW, 'log', 'scavenge'], env={**self.env, **kill},
                                    capture_output=True, check=False, timeout=60).returncode
            if status == 0:
                break
            self.assertEqual(status, -signal.SIGKILL)
            rest = self.oxbow('log', 'scavenge', '--json').lines[0]
            resumed.add(rest['resumed_at'])
            self.assertEqual(rest['all_bytes'] + max(rest['resumed_at'] - 4096, 0), whole['all_bytes'])
            again = self.oxbow('log', 'scavenge', '--json').lines[0]
            self.assertEqual((again['resumed_at'], again['freed_bytes']), (0, 0))
            self.oxbow('log', 'verify')
        self.assertGreater(len(resumed), whole['segments_rewritten'] - 1)
        self.assertEqual(self.versions(), list(range(1490, 1500)))

    def test_plan(self):
        self.fill()
        config = self.write('oxbow.yaml', 'log: {scavenge: {every: 1s, min_share: 5}}\n')
        with self.server('-c', config) as (url, _):
            self.until(lambda: ask(url, 'GET')[1]['state'] == 'done')
            self.assertGreater(ask(url, 'GET')[1]['run'], 0)
        self.assertEqual(self.versions(), list(range(1490, 1500)))


if __name__ == '__main__':
    unittest.main(argv=[sys.argv[0], '-v', *sys.argv[1:]])
