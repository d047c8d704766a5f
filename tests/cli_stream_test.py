"""What changes streams, driven through the built binary: in a folder and at a server, with the same
output; export and import of all of it; retention and quotas of the configuration."""
import json
import os
import signal
import sys
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cli_test import REFUSED, USAGE, Case, event  # noqa: E402


class Both(Case):
    """The same steps in a folder and at a server."""

    def steps(self, *where):
        def run(*args, **more):
            return self.oxbow(*args, *where, **more)

        def refused(*args, **more):
            return self.refused(*args, *where, **more)

        run('append', 'a-1', stdin=event('A') * 5)
        run('append', 'b-1', stdin=event('B') * 2)
        run('stream', 'truncate', 'a-1', '2')
        self.assertEqual([e['version'] for e in run('read', 'a-1').lines], [2, 3, 4])
        info = run('stream', 'info', 'a-1', '--json').lines[0]
        self.assertEqual((info['first'], info['head'], info['count']), (2, 4, 3))
        refused('stream', 'truncate', 'a-1', 'x', status=USAGE, says='must be a version')
        refused('stream', 'truncate', 'nope', '2', says='"nope" is not there')
        # metadata
        self.assertEqual(run('stream', 'metadata', 'a-1').lines,
                         [{'stream': 'a-1', 'version': None, 'metadata': {}}])
        run('stream', 'metadata', 'a-1', '{"$maxCount":2,"x":1}', '--expect', 'no-stream')
        self.assertEqual(run('stream', 'metadata', 'a-1').lines,
                         [{'stream': 'a-1', 'version': 0, 'metadata': {'$maxCount': 2, 'x': 1}}])
        self.assertEqual([e['version'] for e in run('read', 'a-1').lines], [3, 4])
        refused('stream', 'metadata', 'a-1', '{"$maxCount":0}', says=r'\$maxCount')
        refused('stream', 'metadata', 'a-1', 'nonsense', says='metadata')
        refused('stream', 'metadata', 'a-1', '{}', '--expect', 'no-stream', says='is at version 0')
        refused('stream', 'metadata', '$x', '{}', says="begin with '\\$'")
        # links
        run('stream', 'link', 'l-1', '4@a-1', '0@a-1', '0@l-1')
        self.assertEqual([e['data'] for e in run('read', 'l-1').lines],
                         ['4@a-1', '0@a-1', '0@l-1'])
        one, two, three = run('read', 'l-1', '--resolve').lines
        self.assertEqual((one['stream'], one['version'], one['link']['stream']), ('a-1', 4, 'l-1'))
        self.assertTrue(two['dangling'])
        self.assertEqual((three['stream'], three['type'], three['link']['version']), ('l-1', '$>', 2))
        refused('stream', 'link', 'l-1', 'a-1', status=USAGE, says='VERSION@STREAM')
        # by category, type and stream
        self.assertEqual([e['stream'] for e in run('read', '$ce-b').lines], ['b-1', 'b-1'])
        self.assertEqual([e['version'] for e in run('read', '$et-A').lines], [3, 4])
        self.assertEqual([e['data'] for e in run('read', '$streams').lines if '$' not in e['data']],
                         ['0@a-1', '0@b-1', '0@l-1'])
        # closing
        run('stream', 'close', 'b-1')
        refused('append', 'b-1', stdin=event('B'), says='b-1')
        run('stream', 'open', 'b-1')
        run('append', 'b-1', stdin=event('B'))
        # deleting
        refused('stream', 'delete', 'b-1', '--expect', '7', says='is at version 2')
        run('stream', 'delete', 'b-1', '--expect', '2')
        refused('read', 'b-1', says='is not there')
        refused('stream', 'delete', 'b-1', says='is not there')
        self.assertEqual([s['stream'] for s in run('stream', 'list', '--json').lines
                          if s['stream'][0] != '$'], ['a-1', 'l-1'])
        run('append', 'b-1', '--expect', 'no-stream', stdin=event('B'))
        self.assertEqual([e['version'] for e in run('read', 'b-1').lines], [3])
        run('stream', 'tombstone', 'l-1')
        refused('read', 'l-1', says='for good')
        refused('append', 'l-1', stdin=event('B'), says='for good')
        return [line for args in (('read', '$all'), ('read', '$et-$metadata'),
                                  ('stream', 'list', '--json'))
                for line in run(*args).lines]

    def plain(self, lines):
        for line in lines:
            for key in ('id', 'created', 'position', 'last_position', 'link'):
                line.pop(key, None)
        return lines

    def test_folder_and_server(self):
        here = self.plain(self.steps())
        self.data = self.path('other')
        self.env['OXBOW_DATA'] = self.data
        with self.server() as (url, _):
            there = self.plain(self.steps('--server', url))
        self.assertEqual(here, there)


class Export(Case):
    def visible(self):
        lines = []
        for args in (('read', '$all'), ('read', '$all', '--prefix', '$'),
                     ('stream', 'list', '--json')):
            lines += self.oxbow(*args).lines
        for line in lines:
            line.pop('position', None)
            line.pop('last_position', None)
        return lines

    def test_states(self):
        for stream, count in (('cut-1', 5), ('gone-1', 3), ('back-1', 3), ('tomb-1', 2),
                              ('shut-1', 1), ('few-1', 9)):
            self.oxbow('append', stream, stdin=event('A') * count)
        self.oxbow('stream', 'truncate', 'cut-1', '3')
        self.oxbow('stream', 'delete', 'gone-1')
        self.oxbow('stream', 'delete', 'back-1')
        self.oxbow('append', 'back-1', stdin=event('B'))
        self.oxbow('stream', 'tombstone', 'tomb-1')
        self.oxbow('stream', 'close', 'shut-1')
        self.oxbow('stream', 'metadata', 'few-1', '{"$maxCount":2}')
        self.oxbow('stream', 'link', 'link-1', '8@few-1')
        self.oxbow('stream', 'tombstone', 'never-1', '--expect', 'no-stream')
        self.oxbow('stream', 'metadata', 'early-1', '{"$maxCount":2}')
        before = self.visible()
        exported = self.oxbow('log', 'export').out
        self.env['OXBOW_DATA'] = self.path('copy')
        done = self.oxbow('log', 'import', '--json', stdin=exported).lines[0]
        self.assertEqual(done['states'], 6)
        self.assertEqual(self.visible(), before)
        for name in ('tomb-1', 'never-1'):
            self.refused('append', name, stdin=event('A'), says='for good')
        self.oxbow('append', 'early-1', '--expect', 'exists', stdin=event('A') * 3)
        self.assertEqual(len(self.oxbow('read', 'early-1').lines), 2)
        self.refused('append', 'shut-1', stdin=event('A'), says='no more events')
        self.refused('read', 'gone-1', says='is not there')
        self.oxbow('append', 'gone-1', '--expect', '2', stdin=event('A'))
        self.assertEqual(self.oxbow('read', 'link-1', '--resolve').lines[0]['stream'], 'few-1')
        # What the limit hid is there as well.
        self.oxbow('stream', 'metadata', 'few-1', '{}')
        self.assertEqual(len(self.oxbow('read', 'few-1').lines), 9)

    def test_left_out(self):
        self.oxbow('append', 'a-1', stdin=event('A') * 3)
        lines = self.oxbow('log', 'export').out.splitlines(True)
        self.env['OXBOW_DATA'] = self.path('copy')
        self.refused('log', 'import', stdin=''.join(lines[1:]), says='oxbow log backup keeps')
        self.refused('log', 'import', stdin='{"state":{"stream":"x","deleted":1}}\n',
                     says='line 1: .*true or false')


class Limits(Case):
    def conf(self, text):
        return self.write('oxbow.yaml', text)

    def test_retention(self):
        conf = self.conf('retention: {orders: {max_count: 1}}\n')
        with self.server('-c', conf) as (url, process):
            self.oxbow('append', 'orders-1', '--server', url, stdin=event('A') * 3)
            self.oxbow('append', 'plain-1', '--server', url, stdin=event('A') * 3)
            self.assertEqual([e['version'] for e in
                              self.oxbow('read', 'orders-1', '--server', url).lines], [2])
            self.assertEqual(len(self.oxbow('read', 'plain-1', '--server', url).lines), 3)
            info = self.oxbow('stream', 'info', 'orders-1', '--server', url, '--json').lines[0]
            self.assertEqual(info['max_count'], 1)
            self.conf('retention: {plain: {max_count: 2, max_age: 30d}}\n')
            process.send_signal(signal.SIGHUP)
            self.until(lambda: len(self.oxbow('read', 'plain-1', '--server', url).lines) == 2)
            self.assertEqual(len(self.oxbow('read', 'orders-1', '--server', url).lines), 3)

    def test_quotas(self):
        conf = self.conf('quotas: {orders: {events_per_s: 1}}\nlimits: {connections: 50}\n')
        with self.server('-c', conf) as (url, process):
            self.oxbow('append', 'orders-1', '--server', url, stdin=event('A') * 1000)
            with self.assertRaises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(url + '/v1/streams/orders-2', event('A').encode())
            self.assertEqual(refused.exception.code, 429)
            self.assertGreater(int(refused.exception.headers['Retry-After']), 1)
            self.assertEqual(json.loads(refused.exception.read())['error'], 'over-quota')
            self.refused('append', 'orders-2', '--server', url, stdin=event('A'),
                         says='quota of category "orders"')
            self.conf('quotas: {}\n')
            process.send_signal(signal.SIGHUP)
            self.until(lambda: 'configuration reloaded' in self.server_log())
            self.oxbow('append', 'orders-2', '--server', url, stdin=event('A'))

    def test_bad(self):
        for text, says in (('retention: {a: {max_count: 0}}', 'retention.a.max_count'),
                           ('retention: {a: {max_age: 5}}', 'retention.a.max_age'),
                           ('retention: {a: {max: 5}}', 'max'),
                           ('quotas: {a: {events_per_s: 0}}', 'quotas.a.events_per_s'),
                           ('quotas: {a: {bytes_per_s: x}}', 'quotas.a.bytes_per_s'),
                           ('limits: {connections: 0}', 'limits.connections')):
            self.refused('check', '-c', self.conf(text + '\n'), status=REFUSED, says=says)


if __name__ == '__main__':
    unittest.main(verbosity=2)
