"""oxbow stream copy|split|join|…, in a folder and at a server that is killed; held against a program
that derives the targets from an export."""
import json
import signal
import threading
import unittest
import urllib.error
import urllib.request

from cli_test import DONE, PATIENCE, REFUSED, USAGE, Case, event
from surgery_check import check

SPLIT = ('stream', 'split', 'truck-*', '--to', 'vehicle-{key}')


def by_type(e):
    key = e['stream'].split('-', 1)[1]
    return [('engine-' if e['type'] == 'EngineOn' else 'vehicle-') + key]


def joined(e):
    return ['lorry-' + e['stream'].split('-', 1)[1]]


class Surgery(Case):
    def fill(self, streams, *where, rounds=3):
        for i in range(streams):
            lines = ''.join(event('Drive', {'n': n}) + event('EngineOn', {'n': n}, metadata={'by': 'me'})
                            for n in range(rounds))
            self.oxbow('append', f'truck-{i}', *where, stdin=lines)

    def rules(self):
        return self.write('rules.yaml', '- when: {type: EngineOn}\n  route: "engine-{key}"\n')

    def checked(self, surgery, rule):
        lines = [json.loads(line) for line in self.oxbow('log', 'export').out.splitlines()]
        wrong, copies = check(lines, surgery, rule)
        self.assertEqual(wrong, [])
        return copies, lines

    def test_folder(self):
        self.fill(20)
        rules = self.rules()
        plan = self.oxbow('stream', 'plan', *SPLIT[1:], '--transform', rules).lines[0]
        self.assertEqual((plan['streams'], plan['targets'], plan['events_before'], plan['events_after']),
                         (20, 40, 120, 120))
        done = self.oxbow(*SPLIT, '--transform', rules, '--name', 's1', '--reason', 'two kinds').lines[0]
        self.assertEqual((done['state'], done['streams'], done['events'], done['copies']),
                         ('DONE', 20, 120, 120))
        self.assertEqual(self.checked('s1', by_type)[0], 120)
        audit = self.oxbow('stream', 'audit', 's1').lines[0]
        self.assertEqual((audit['clean'], audit['streams'], audit['copies']), (True, 20, 120))
        self.refused('append', 'truck-1', stdin=event('Drive'), says=r'was moved to \["vehicle-1","engine-1"\]')
        self.refused('append', 'truck-1', '--follow-moves', stdin=event('Drive'), says='was moved to')
        info = self.oxbow('stream', 'info', 'truck-1').lines[0]
        self.assertEqual((info['moved'], info['moved_to']), (True, ['vehicle-1', 'engine-1']))
        self.oxbow('stream', 'join', 'vehicle-*', 'engine-*', '--to', 'lorry-{key}', '--name', 'j1')
        self.assertEqual(self.checked('j1', joined)[0], 120)
        self.oxbow('stream', 'audit', 'j1')
        self.oxbow('append', 'engine-1', '--follow-moves', stdin=event('EngineOn'))
        self.assertEqual(self.oxbow('read', 'vehicle-1', '--follow-moves').lines[-1]['stream'], 'lorry-1')
        self.assertEqual(sorted(self.oxbow('stream', 'surgeries').out.split()), ['j1', 's1'])
        done = self.oxbow('stream', 'rollback', 'j1', status=REFUSED).lines[0]
        self.assertEqual((done['state'], done['parked']), ('ROLLED_BACK', 2))
        self.assertEqual(len(self.oxbow('read', '$surgery-j1-parked').lines), 2)
        self.oxbow('stream', 'drop', 's1')
        self.assertEqual([e['type'] for e in self.oxbow('read', 'truck-1').lines], ['StreamMovedTo'])
        self.oxbow('log', 'verify')

    def test_where(self):
        self.fill(2)
        self.oxbow('append', 'truck-9', stdin=event('Drive'))
        words = ('truck-*', '--to', 'engine-{key}', '--where', '{type: {in: [EngineOn]}}')
        plan = self.oxbow('stream', 'plan', 'copy', *words).lines[0]
        self.assertEqual((plan['streams'], plan['events_after'], plan['skipped']), (2, 6, 1))
        done = self.oxbow('stream', 'copy', *words, '--name', 'w1').lines[0]
        self.assertEqual((done['streams'], done['copies'], done['skipped']), (2, 6, 1))
        self.assertEqual([e['type'] for e in self.oxbow('read', 'engine-1').lines][1:], ['EngineOn'] * 3)
        self.oxbow('append', 'truck-9', stdin=event('Drive'))
        self.oxbow('stream', 'drop', 'w1')
        self.assertEqual([e['type'] for e in self.oxbow('read', 'truck-1').lines],
                         ['MigratedFrom', 'Drive', 'Drive', 'Drive', 'StreamMovedTo'])
        self.assertTrue(self.oxbow('stream', 'audit', 'w1').lines[0]['clean'])
        self.assertEqual(self.oxbow('stream', 'info', 'truck-1').lines[0]['moved_to'], ['engine-1'])
        self.refused('stream', 'copy', 'truck-*', '--to', 'x', '--where', '{colour: red}', says='colour')

    def test_wrong_use(self):
        self.fill(1)
        self.refused('stream', 'copy', 'truck-*', says='needs "to"')
        self.refused('stream', 'copy', 'truck-*', 'x', '--to', 'y', says='do not go together', status=USAGE)
        self.refused('stream', 'copy', 'truck-0', '--to', 'y', '--keep', 'long', says='as in 30d', status=USAGE)
        self.refused('stream', 'audit', 'none', says='no surgery')
        rules = self.write('bad.yaml', '- when: {type: A}\n  wipe: true\n')
        self.refused('stream', 'rewrite', 'truck-0', '--transform', rules, says='bad.yaml:2')

    def post(self, url, path, body, **headers):
        request = urllib.request.Request(url + path, body.encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as e:
            with e:
                return e.code, json.load(e)

    def write_on(self, url, stop, acked):
        """Old software, and new software that follows: each append that was acknowledged is noted."""
        n = 0
        while not stop.is_set():
            n += 1
            old, stream = n % 2 == 0, f'truck-{n % 300}'
            body = json.dumps({'type': 'Drive', 'data': {'w': n}, 'id': f'{n:032x}'[:8] + '-0000-4000-8000-' +
                               f'{n:012x}'})
            try:
                status, answer = self.post(url, f'/v1/streams/{stream}', body)
                if not old and status == 409 and answer['error'] == 'stream-moved':
                    target = next(s for s in answer['streams'] if s.startswith('vehicle'))
                    status, answer = self.post(url, f'/v1/streams/{target}', body)
            except (OSError, ValueError):
                return
            if status == 201:
                acked.append(n)
            else:
                assert status == 409 and answer['error'] == 'stream-moved', answer

    def test_server_killed(self):
        self.fill(1, rounds=400)  # moved in stages
        lines = ''.join(event('Drive', {'n': n}) + event('EngineOn', {'n': n}) for n in range(2))
        with self.server() as (url, _):
            for i in range(1, 300):
                self.post(url, f'/v1/streams/truck-{i}', lines, **{'Content-Type': 'application/x-ndjson'})
        acked, stop = [], threading.Event()
        spec = json.dumps({'kind': 'split', 'category': 'truck', 'to': 'vehicle-{key}', 'workers': 1,
                           'commit_bytes': 65536,
                           'transform': [{'when': {'type': 'EngineOn'}, 'route': 'engine-{key}'}]})
        with self.server(status=-signal.SIGKILL) as (url, process):
            writer = threading.Thread(target=self.write_on, args=(url, stop, acked))
            writer.start()
            self.assertEqual(self.post(url, '/v1/surgeries/live', spec)[0], 201)
            self.assertEqual(self.post(url, '/v1/surgeries/live', spec)[0], 409)
            process.kill()
            writer.join()
        with self.server() as (url, _):
            writer = threading.Thread(target=self.write_on, args=(url, stop, acked))
            writer.start()
            at = ('--server', url)
            self.until(lambda: self.oxbow('stream', 'surgery', 'live', *at).lines[0]['state'] == 'DONE')
            stop.set()
            writer.join()
            done = self.oxbow('stream', 'audit', 'live', *at)
            self.assertEqual(done.out.count('\n'), 1)
            audit = done.lines[0]
            self.assertEqual((audit['clean'], audit['streams'], audit['not_moved']), (True, 300, 0))
            self.oxbow('stream', 'pause', 'live', *at, status=REFUSED)
            self.assertEqual(self.post(url, '/v1/surgeries/live/fly', '')[0], 404)
            self.assertEqual(self.post(url, '/v1/surgeries/x', '{"kind":"copy"}')[0], 400)
        copies, lines = self.checked('live', by_type)
        self.assertGreaterEqual(copies, 300 * 4)
        written = [e['data']['w'] for e in lines
                   if e.get('stream', '').startswith('vehicle-') and 'w' in (e.get('data') or {})]
        self.assertEqual(sorted(set(acked)), sorted(w for w in set(written) if w in set(acked)))
        self.assertEqual(len(written), len(set((e['stream'], e['data']['w']) for e in lines if
                                               e.get('stream', '').startswith('vehicle-') and
                                               'w' in (e.get('data') or {}))))

    def test_pace(self):
        with self.server() as (url, _):
            at = ('--server', url)
            for i in range(200):
                self.post(url, f'/v1/streams/truck-{i}', event('Drive') * 6,
                          **{'Content-Type': 'application/x-ndjson'})

            def state():
                return self.oxbow('stream', 'surgery', 'slow', *at).lines[0]

            self.assertEqual(self.post(url, '/v1/surgeries/slow', json.dumps(
                {'kind': 'copy', 'category': 'truck', 'to': 'vehicle-{key}',
                 'max_foreground_p99_ms': 5, 'max_events_per_s': 1}))[0], 201)
            self.until(lambda: state()['streams'] > 0)
            now = state()
            self.assertEqual((now['state'], now['max_events_per_s']), ('RUNNING', 1))
            self.assertLess(now['streams'], 200)
            self.assertEqual(self.post(url, '/v1/surgeries/slow/throttle?max_events_per_s=x', '')[0], 400)
            self.assertEqual(self.post(url, '/v1/surgeries/slow/throttle?max_events_per_s=0', '')[0], 200)
            self.until(lambda: state()['state'] == 'DONE')
            now = state()
            self.assertEqual((now['streams'], now['max_events_per_s'], now['max_foreground_p99_ms']),
                             (200, 0, 5))


if __name__ == '__main__':
    unittest.main()
