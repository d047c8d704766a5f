"""oxbow subject: data under a key, in every way it is read, before and after the key is shredded."""
import json
import os
import signal
import socket
import subprocess
import unittest
import urllib.error
import urllib.request

from cli_test import OXBOW, PATIENCE, UNREACHABLE, USAGE, Case, event

SECRET = 'a very secret thing'


class Subject(Case):
    def append(self, *where, subject='anna', stream='s-1', count=1, **more):
        self.oxbow('append', stream, *where,
                   stdin=event('Bought', {'what': SECRET}, subject=subject, **more) * count)

    def erased(self, line):
        self.assertEqual((line['data'], line['erased'], line['subject']), (None, True, 'anna'))

    def plain(self, line):
        self.assertEqual((line['data'], line['subject']), ({'what': SECRET}, 'anna'))
        self.assertNotIn('erased', line)

    def on_disk(self, text, folder=None):
        for root, _, names in os.walk(folder or self.folder):
            for name in names:
                with open(os.path.join(root, name), 'rb') as f:
                    if text.encode() in f.read():
                        return os.path.join(root, name)
        return None

    def test_folder(self):
        self.append(count=3)
        self.append(stream='t-1', subject='bert')
        self.oxbow('append', 's-1', stdin=event('Plain', 1))
        self.assertIsNone(self.on_disk(SECRET))
        ways = [('read', 's-1'), ('read', 's-1', '--backwards'), ('read', '$all', '--type', 'Bought'),
                ('read', '$all', '--backwards', '--category', 's', '--type', 'Bought'),
                ('read', '$all', '--at', '1000000', '--category', 's', '--type', 'Bought'),
                ('log', 'export')]
        for way in ways:
            lines = [e for e in self.oxbow(*way).lines if e.get('subject') == 'anna']
            self.assertEqual(len(lines), 3, way)
            for line in lines:
                self.plain(line)
        shown = self.oxbow('subject', 'show', 'anna').lines[0]
        self.assertEqual((shown['erased'], shown['events']), (False, 3))
        report = self.oxbow('subject', 'erase', 'anna').lines[0]
        self.assertEqual((report['erased'], report['again'], report['events']), (True, False, 3))
        self.assertEqual(report['streams'], [{'stream': 's-1', 'events': 3}])
        for way in ways:
            lines = [e for e in self.oxbow(*way).lines if e.get('subject') == 'anna']
            self.assertEqual(len(lines), 3, way)
            for line in lines:
                self.erased(line)
        self.assertEqual(self.oxbow('read', 't-1').lines[0]['data'], {'what': SECRET})
        audit = self.oxbow('read', '$subjects').lines
        self.assertEqual([(e['type'], e['data']['subject']) for e in audit],
                         [('$subject-erased', 'anna')])
        again = self.oxbow('subject', 'erase', 'anna').lines[0]
        self.assertTrue(again['again'])
        self.assertEqual(len(self.oxbow('read', '$subjects').lines), 1)
        listed = {s['subject']: s['erased'] for s in self.oxbow('subject', 'list').lines}
        self.assertEqual((listed['bert'], listed['anna'] is not None), (None, True))
        self.oxbow('log', 'verify')

    def test_server(self):
        with self.server() as (url, _):
            at = ('--server', url)
            self.append(*at, count=2)
            self.append(*at, stream='t-1', subject='bert')

            def ways():
                yield from self.oxbow('read', 's-1', *at).lines
                for path in ('/v1/streams/s-1', '/v1/streams/s-1?direction=backwards',
                             '/v1/all?category=s', '/v1/all?direction=backwards&category=s'):
                    yield from self.ndjson(url + path)
                    yield from self.document(url + path)
                yield from self.sse(url + '/v1/streams/s-1?from=0', 2)
                yield from self.sse(url + '/v1/all?from=0&category=s', 2)

            lines = list(ways())
            self.assertEqual(len(lines), 2 * 11)
            for line in lines:
                self.plain(line)
            live = self.open_sse(url + '/v1/streams/s-1?from=0')
            self.plain(self.next_sse(live))
            report = self.oxbow('subject', 'erase', 'anna', *at).lines[0]
            self.assertEqual((report['erased'], report['events']), (True, 2))
            lines = list(ways())
            self.assertEqual(len(lines), 2 * 11)
            for line in lines:
                self.erased(line)
            live.close()
            self.assertEqual(len(self.oxbow('subject', 'list', *at).lines), 2)
            self.assertEqual(self.oxbow('subject', 'show', 'anna', *at).lines[0]['events'], 2)
            self.refused('subject', 'erase', 'nobody', *at, says='no subject of this name')
            self.refused('append', '$x', *at, stdin=event('X', subject='anna'), says=r'\$')
            for body in (b'{"type":"X","data":1,"subject":""}', b'{"type":"X","data":1,"subject":7}',
                         b'{"type":"X","data":1,"subject":"a\\nb"}'):
                request = urllib.request.Request(url + '/v1/streams/q', body)
                with self.assertRaises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(request, timeout=PATIENCE)
                self.assertEqual(caught.exception.code, 400)
                caught.exception.close()

    def ndjson(self, url):
        request = urllib.request.Request(url, headers={'Accept': 'application/x-ndjson'})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return [json.loads(line) for line in answer]

    def document(self, url):
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.load(answer)['events']

    def open_sse(self, url):
        request = urllib.request.Request(url, headers={'Accept': 'text/event-stream'})
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def next_sse(self, answer):
        named = False
        for line in answer:
            if line.startswith(b'event:'):
                named = True
            elif line.startswith(b'data: ') and not named:
                return json.loads(line[6:])
            elif line == b'\n':
                named = False
        self.fail('the stream ended')

    def sse(self, url, count):
        with self.open_sse(url) as answer:
            return [self.next_sse(answer) for _ in range(count)]

    def test_backup_restored_elsewhere(self):
        """A backup from before the erasure has nothing that anybody could read after it."""
        self.append(count=2)
        backup, new = self.path('backup'), self.path('new')
        self.oxbow('log', 'backup', backup)
        self.assertFalse([n for _, _, names in os.walk(backup) for n in names if n == 'subjects'])
        self.oxbow('subject', 'erase', 'anna')
        self.oxbow('log', 'restore', backup, '--data', new)
        self.refused('read', 's-1', '--data', new, says='not in the keystore')
        for line in self.oxbow('read', 's-1', '--data', new, '--keys',
                               os.path.join(self.data, 'keys')).lines:
            self.erased(line)
        self.assertIsNone(self.on_disk(SECRET))

    def test_keys_elsewhere_and_wrapped(self):
        keys = self.path('secrets')
        env = {'OXBOW_KEYS_MASTER': '0123456789abcdef' * 4}
        self.oxbow('append', 's-1', '--keys', keys, env=env,
                   stdin=event('Bought', {'what': SECRET}, subject='anna'))
        self.assertEqual(os.stat(os.path.join(keys, 'subjects')).st_mode & 0o777, 0o600)
        self.plain(self.oxbow('read', 's-1', '--keys', keys, env=env).lines[0])
        self.refused('read', 's-1', '--keys', keys, says='master key', status=UNREACHABLE)
        self.refused('read', 's-1', '--keys', keys, says='not the keystore', status=UNREACHABLE,
                     env={'OXBOW_KEYS_MASTER': 'f' * 64})
        self.refused('read', 's-1', '--keys', keys, says='64 hexadecimal', status=UNREACHABLE,
                     env={'OXBOW_KEYS_MASTER': 'f'})
        self.refused('read', 's-1', says='not in the keystore')
        secret = self.write('master', env['OXBOW_KEYS_MASTER'] + '\n')
        config = self.write('c.yaml', f'keys: {keys}\nkeys_master: file:{secret}\n')
        with self.server('-c', config) as (url, _):
            self.plain(self.oxbow('read', 's-1', '--server', url).lines[0])

    def test_streams(self):
        """What was never under a key goes with its stream."""
        for stream in ('anna-1', 'letters-anna-1', 'letters-anna-2', 'letters-bert'):
            self.oxbow('append', stream, stdin=event('X', 1))
        self.append()
        report = self.oxbow('subject', 'erase', 'anna', '--streams', 'anna-1,letters-anna-*').lines[0]
        self.assertEqual((report['deleted'], report['events']), (3, 1))
        left = [s['stream'] for s in self.oxbow('stream', 'list').lines]
        self.assertEqual([s for s in left if not s.startswith('$')], ['letters-bert', 's-1'])
        self.refused('read', 'anna-1', says='anna-1')
        self.refused('subject', 'erase', 'anna', '--streams', '*', says='every stream')
        self.refused('subject', 'erase', 'anna', '--streams', '$subjects', says='system')
        self.assertEqual(self.oxbow('subject', 'erase', 'carl', '--streams', 'letters-bert').lines[0]
                         ['deleted'], 1)

    def test_export_and_import(self):
        self.append()
        lines = self.oxbow('log', 'export').out
        other = self.path('other')
        self.oxbow('log', 'import', '--data', other, stdin=lines)
        self.plain(self.oxbow('read', 's-1', '--data', other).lines[0])
        self.assertIsNone(self.on_disk(SECRET))
        self.oxbow('subject', 'erase', 'anna', '--data', other)
        self.erased(self.oxbow('read', 's-1', '--data', other).lines[0])
        self.plain(self.oxbow('read', 's-1').lines[0])

    def test_killed_while_erasing(self):
        """Not at all, or for good; and done again it is finished."""
        for delay in range(0, 40, 4):
            self.append(subject='anna', stream=f'k-{delay}')
            process = subprocess.Popen([OXBOW, 'subject', 'erase', 'anna'], env=self.env,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(delay / 1000)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            line = self.oxbow('read', f'k-{delay}').lines[0]
            if 'erased' in line:
                self.erased(line)
            else:
                self.plain(line)
            self.oxbow('subject', 'erase', 'anna')
            self.erased(self.oxbow('read', f'k-{delay}').lines[0])

    def test_bad_input(self):
        self.append()
        self.refused('subject', 'erase', says='something is missing', status=USAGE)
        self.refused('subject', 'erase', 'nobody', says='no subject of this name')
        self.refused('subject', 'show', 'nobody', says='no subject of this name')
        self.refused('subject', 'show', 'x' * 256, says='255')
        self.refused('append', 's', stdin=event('X', subject=''), says='subject')
        self.refused('append', 's', stdin=event('X', subject='x' * 256), says='255')
        store = os.path.join(self.data, 'keys', 'subjects')
        with open(store, 'r+b') as f:
            f.seek(512 + 70)
            f.write(b'damage')
        self.refused('read', 's-1', says='not in the keystore.*damaged records')
        self.refused('subject', 'list', says='cannot be read')
        os.rename(store, store + '.gone')
        self.refused('read', 's-1', says='not in the keystore')


if __name__ == '__main__':
    unittest.main()
