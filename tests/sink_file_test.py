"""The sinks file and stdout: whole lines only, through kill -9, rotation and a file that cannot grow."""
import glob
import json
import os
import resource
import subprocess
import unittest
import urllib.request

from sink_case import OXBOW, PATIENCE, Seen, SinkCase


class FileSink(SinkCase):
    def setUp(self):
        super().setUp()
        self.out = self.path('out.ndjson')
        self.configure_with()

    def configure_with(self, **more):
        self.configure(f'    type: file\n    path: {self.out}\n' +
                       ''.join(f'    {k}: {v}\n' for k, v in more.items()))

    def lines(self):
        """Of all files, the oldest first; none where the sink has not yet written any. A write that is
        under way may be seen in part: a line stays torn only if nobody writes the rest."""
        found, text = [], ['']

        def whole(name):
            with open(name, encoding='utf-8', errors='replace') as f:
                text[0] = f.read()
            return text[0] == '' or text[0].endswith('\n')

        for name in sorted(glob.glob(self.out + '.*')) + glob.glob(self.out):
            self.until(lambda n=name: whole(n), 'a torn line')
            found += text[0].splitlines()
        return found

    def seen(self):
        events = map(json.loads, self.lines())
        return [Seen(e['subject'], int(e['sequence']), e['id']) for e in events]

    def test_lines(self):
        self.start()
        self.append('order-1', 2, metadata={'by': 'x'})
        self.delivered()
        first, second = map(json.loads, self.lines())
        self.assertEqual((first['data'], second['data'], first['subject'], first['specversion']),
                         ({'n': 0}, {'n': 1}, 'order-1', '1.0'))
        self.stop()

    def test_raw(self):
        self.configure_with(format='raw')
        self.start()
        self.append('order-1', data={'a': 'x\ny'})
        self.delivered()
        self.assertEqual([json.loads(x) for x in self.lines()], [{'a': 'x\ny'}])

    def test_killed(self):
        self.configure_with(rotate='64KiB')
        self.start()
        for _ in range(3):
            self.fill(20, 40)
            self.until(lambda: self.show()['delivered'] >= 200, 'nothing is delivered')
            self.kill()
            with open(self.out, 'a', encoding='utf-8') as f:
                f.write('{"torn":')  # as a crash within a write leaves it
            self.start()
        self.delivered()
        self.came(self.seen())
        self.assertGreater(len(glob.glob(self.out + '.*')), 3)
        self.assertEqual(self.show()['parked'], 0)

    def test_parked(self):
        """Listed with its reason, replayed when it may, dropped when not."""
        self.configure_with(format='raw', message_max=1024)
        self.start()
        self.assertEqual(self.oxbow('sink', 'parked', 'list', 'out'), '')
        for stream in ('order-1', 'order-"2"'):
            self.append(stream, data={'n': 'x' * 2000})
            self.append(stream)
        self.append('order-3')
        self.delivered()
        self.until(lambda: self.show()['parked'] == 4, 'not parked')
        parked = [json.loads(x) for x in self.oxbow('sink', 'parked', 'list', 'out').splitlines()]
        self.assertEqual([(p['stream'], p['version']) for p in parked],
                         [('order-1', 0), ('order-1', 1), ('order-"2"', 0), ('order-"2"', 1)])
        self.assertIn('message_max', parked[0]['reason'])
        shown = self.oxbow('sink', 'parked', 'show', 'out', str(parked[1]['position'])).splitlines()
        self.assertEqual((json.loads(shown[0]), json.loads(shown[1])['data']),
                         (parked[1], {'n': 1}))
        self.assertIn('nothing is parked', self.fails('sink', 'parked', 'show', 'out', '1'))
        self.oxbow('sink', 'parked', 'skip', 'out', 'order-1')
        self.until(lambda: self.show()['parked'] == 2, 'the first is skipped, the second arrives')
        self.assertEqual(len(self.lines()), 2)
        left = self.oxbow('sink', 'parked', 'list', 'out', 'order-"2"').splitlines()
        self.assertEqual(len(left), 2)
        self.assertEqual(self.oxbow('sink', 'parked', 'list', 'out').splitlines(), left)
        self.oxbow('sink', 'parked', 'drop', 'out', 'order-"2"')
        self.until(lambda: self.show()['parked'] == 0, 'not dropped')
        self.assertEqual(self.oxbow('sink', 'parked', 'list', 'out'), '')
        self.assertIn('no sink', self.fails('sink', 'parked', 'list', 'nobody'))

    def order(self, *args):
        """Killed right behind the answer; the next run's far side takes larger messages."""
        self.assertIn(': done', self.oxbow('sink', *args))
        self.kill()
        self.configure_with(message_max=65536)
        self.start()

    def test_orders_killed(self):
        """An order that was answered holds, whatever comes."""
        self.configure_with(message_max=1024)
        self.start()
        for stream in ('order-1', 'order-2', 'order-3'):
            self.append(stream, data={'n': 'x' * 2000})
            self.append(stream)
        self.append('order-4', 3)
        self.delivered()
        self.until(lambda: self.show()['parked'] == 6, 'not parked')
        self.order('pause', 'out')
        self.until(lambda: self.show()['state'] == 'paused', 'the pause was forgotten')
        self.order('parked', 'replay', 'out', 'order-1')
        self.order('parked', 'skip', 'out', 'order-2')
        self.order('parked', 'drop', 'out', 'order-3')
        self.order('seek', 'out', 'beginning')
        self.assertEqual(len(self.lines()), 3)
        self.order('resume', 'out')
        self.until(lambda: self.show()['parked'] == 0, 'what is parked was forgotten')
        self.delivered()
        came = [(s.stream, s.version) for s in self.seen()]
        self.assertEqual({s for s in came if s[0] != 'order-4'},
                         {('order-1', 0), ('order-1', 1), ('order-2', 1)})
        self.assertEqual({came.count(('order-4', n)) >= 2 for n in range(3)}, {True})
        self.order('replay', 'out', '--from', 'beginning')
        self.until(lambda: len(self.lines()) >= len(came) + 9, 'the range was forgotten')
        self.assertEqual(self.ask('POST', '/v1/sinks/out/pause'), {'taken': True, 'durable': True})

    def metrics(self):
        with urllib.request.urlopen(f'http://127.0.0.1:{self.port}/metrics') as answer:
            return answer.read().decode()

    def test_commands(self):
        """pause, resume, seek and drop, as a person types them."""
        self.start()
        self.append('order-1', 3)
        self.delivered()
        self.oxbow('sink', 'pause', 'out')
        self.until(lambda: self.show()['state'] == 'paused', 'not paused')
        self.append('order-1', 2)
        self.kill()
        self.start()
        self.until(lambda: self.show()['state'] == 'paused', 'a pause outlives a kill')
        self.assertEqual(len(self.lines()), 3)
        self.oxbow('sink', 'resume', 'out')
        self.delivered()
        self.assertEqual([s.version for s in self.seen()], [0, 1, 2, 3, 4])
        self.oxbow('sink', 'seek', 'out', 'beginning')
        self.until(lambda: len(self.lines()) == 10, 'nothing comes again')
        self.came(self.seen())
        self.until(lambda: 'oxbow_sink_delivered_total{sink="out"} 7\n' in self.metrics(),
                   'not counted')
        self.oxbow('sink', 'seek', 'out', 'nowhere', status=1)
        self.oxbow('sink', 'parked', 'drop', 'out', 'order-1', status=1)

    def test_routed(self):
        """The filter by conditions, the rules on what passes, and an event that they fail at."""
        self.configure('    type: file\n    format: raw\n'
                       f'    path: {self.out}\n'
                       '    events: {category: order, when: {data.n: {ge: 2}, type: [Updated, X]}}\n'
                       '    transform:\n'
                       '      - set: {data.of: "{stream}", data.twice: "{data.n}"}\n'
                       '        unset: data.n\n'
                       '      - when: {data.twice: 4}\n'
                       '        set: {data.of.x: 1}\n')
        self.start()
        self.append('order-1', 6)
        self.append('other-1', 6)
        self.append('order-2', 3, type='Deleted')
        self.append('order-3', 4)
        self.delivered()
        lines = [json.loads(x) for x in self.lines()]
        self.assertEqual([x for x in lines if x['of'] == 'order-1'],
                         [{'of': 'order-1', 'twice': n} for n in (2, 3)])
        self.assertEqual(len(lines), 4)
        shown = self.show()
        self.assertEqual((shown['parked'], shown['filtered']), (2, 2 + 3 + 2))
        reason = json.loads(self.oxbow('sink', 'parked', 'list', 'out').splitlines()[0])['reason']
        self.assertIn('event 4 of stream "order-1"', reason)

    def test_script(self):
        """Lua before a sink; what it may not do is said before anything runs."""
        script = ('    transform:\n      lua: |\n        function event(e)\n'
                  '          if e.data.n == 1 then return false end\n'
                  '          e.to = "made-" .. e.data.n\n        end\n')
        self.configure(f'    type: file\n    path: {self.out}\n' + script)
        self.start()
        self.append('order-1', 3)
        self.delivered()
        self.assertEqual([json.loads(x)['subject'] for x in self.lines()], ['made-0', 'made-2'])
        self.stop()
        for bad, word in (('    transform:\n      - route: [a-1, b-1]\n', 'several events of one'),
                          ('    events: {when: {data.x: {near: 1}}}\n', 'unknown key "near"'),
                          ('    from: yesterday\n', 'a position or a time')):
            self.configure(f'    type: file\n    path: {self.out}\n' + bad)
            done = subprocess.run([OXBOW, 'serve', '-c', self.path('c.yaml')], check=False,
                                  capture_output=True, timeout=PATIENCE, env=self.env)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(word, done.stderr.decode())

    def test_from(self):
        """A first start from a time, and one from now."""
        self.start()
        self.append('order-1')
        self.append('order-1')
        between = self.ask('GET', '/v1/streams/order-1')['events'][1]['created']
        self.append('order-1', 2)
        self.delivered()
        self.stop()
        for start, versions in ((between, [1, 2, 3, 4]), ('now', [4])):
            os.unlink(self.out)
            with open(self.path('c.yaml'), 'w', encoding='utf-8') as f:
                f.write(f'data: {self.path("data")}\nlog: {{segment_bytes: 2MiB}}\n'
                        f'sinks:\n  s{len(versions)}:\n    type: file\n    path: {self.out}\n'
                        f'    from: "{start}"\n')
            self.start()
            if start != 'now':
                self.append('order-1')
            self.until(lambda: 's' in self.ask('GET', '/v1/sinks')['sinks'][0]['name'] and
                       self.ask('GET', '/v1/sinks')['sinks'][0]['caught_up'], 'not caught up')
            if start == 'now':
                self.append('order-1')
                versions = [5]
            self.until(lambda v=versions: [s.version for s in self.seen()] == v, 'not those')
            self.stop()

    def test_range(self):
        """A range comes once more, through a kill; live events wait, and come in order."""
        self.start()
        self.append('order-1', 5)
        self.delivered()
        events = self.ask('GET', '/v1/streams/order-1')['events']
        self.oxbow('sink', 'replay', 'out', '--from', str(events[1]['position']),
                   '--to', str(events[3]['position']))
        self.until(lambda: len(self.lines()) == 7, 'nothing comes again')
        self.append('order-1', 1)
        self.delivered()
        self.until(lambda: 'replay' not in self.show(), 'it does not end')
        self.assertEqual([s.version for s in self.seen()], [0, 1, 2, 3, 4, 1, 2, 5])
        self.fill(20, 50)
        self.delivered()
        first = self.seen()[0]
        self.oxbow('sink', 'replay', 'out', '--from', 'beginning')
        self.kill()
        self.start()
        self.append('order-1', 1)
        self.delivered()
        self.until(lambda: 'replay' not in self.show() and
                   self.seen().count(first) >= 2, 'it was forgotten')
        self.assertEqual(self.seen()[-1].stream, 'order-1')
        self.assertIn('must come after', self.fails('sink', 'replay', 'out', '--from', '50', '--to',
                                                   '20'))
        self.assertIn('no range', self.fails('sink', 'replay', 'out', '--from', 'cancel'))

    def test_full(self):
        """A file that cannot grow: it waits, says so, and goes on when there is room."""
        self.configure_with(rotate=0)
        self.start()
        limit = 4 << 20  # above what a file of the log has
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE,
                         (limit, resource.RLIM_INFINITY))
        for _ in range(5):
            self.append('big-1', data={'n': 'x' * 1000000})
        self.complains('write')
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE,
                         (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.delivered()
        self.came(self.seen())

    def test_not_there(self):
        self.configure(f'    type: file\n    path: {self.path("none")}/x\n')
        self.start()
        self.append('order-1')
        self.complains('none/x')


class StdoutSink(SinkCase):
    def test_stdout(self):
        self.configure('    type: stdout\n')
        with open(self.path('log'), 'wb') as log:
            self.process = subprocess.Popen(
                [OXBOW, 'serve', '--listen', '127.0.0.1:0', '-c', self.path('c.yaml')],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self.env)
        self.addCleanup(self.process.stdout.close)
        self.addCleanup(self.end, self.process)
        self.listening()
        self.append('order-1', 3)
        self.delivered()
        self.stop()
        lines = self.process.stdout.read().decode().splitlines()
        self.assertEqual([json.loads(x)['data'] for x in lines], [{'n': 0}, {'n': 1}, {'n': 2}])
        self.assertEqual(self.process.wait(PATIENCE), 0)


if __name__ == '__main__':
    unittest.main(verbosity=2)
