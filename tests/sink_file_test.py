"""The sinks file and stdout: whole lines only, through kill -9, rotation and a file that cannot grow."""
import glob
import json
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
        """Of all files, the oldest first."""
        found = []
        for name in sorted(glob.glob(self.out + '.*')) + [self.out]:
            with open(name, encoding='utf-8') as f:
                text = f.read()
            self.assertTrue(text == '' or text.endswith('\n'), 'a torn line')
            found += text.splitlines()
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
        self.assertEqual(self.oxbow('sink', 'parked', 'out'), '')
        for stream in ('order-1', 'order-"2"'):
            self.append(stream, data={'n': 'x' * 2000})
            self.append(stream)
        self.append('order-3')
        self.delivered()
        self.until(lambda: self.show()['parked'] == 4, 'not parked')
        parked = [json.loads(x) for x in self.oxbow('sink', 'parked', 'out').splitlines()]
        self.assertEqual([(p['stream'], p['version']) for p in parked],
                         [('order-1', 0), ('order-1', 1), ('order-"2"', 0), ('order-"2"', 1)])
        self.assertIn('message_max', parked[0]['reason'])
        self.oxbow('sink', 'skip', 'out', 'order-1')
        self.until(lambda: self.show()['parked'] == 2, 'the first is skipped, the second arrives')
        self.assertEqual(len(self.lines()), 2)
        left = self.oxbow('sink', 'parked', 'out', 'order-"2"').splitlines()
        self.assertEqual(len(left), 2)
        self.assertEqual(self.oxbow('sink', 'parked', 'out').splitlines(), left)
        self.oxbow('sink', 'drop', 'out', 'order-"2"')
        self.until(lambda: self.show()['parked'] == 0, 'not dropped')
        self.assertEqual(self.oxbow('sink', 'parked', 'out'), '')
        self.assertIn('no sink', self.fails('sink', 'parked', 'nobody'))

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
        self.oxbow('sink', 'drop', 'out', 'order-1', status=1)

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
