"""Upcasters through the built binary: a folder's reads, a server's, its subscriptions and groups."""
import json
import os
import sys
import threading
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import grpc_client  # noqa: E402
from cli_test import Case, event  # noqa: E402

CONF = '''
upcasters:
  v2:
    category: orders
    type: Placed
    transform:
      - set: {data.total: '{data.amount}', data.v: 2}
        unset: [data.amount]
  v3:
    type: Placed
    transform:
      may: [change]
      lua: |
        function event(e)
          if e.data.boom then error("boom") end
          e.data.n = 1
        end
'''
OLD = '{"amount": 1.50}'
NEW = '{"total":1.50,"v":2,"n":1}'


def old(count=1):
    return '{"type":"Placed","data":%s}\n' % OLD * count


class Subscriber:
    """The data of each event, as bytes; the end where the server cuts it off."""

    def __init__(self, url):
        request = urllib.request.Request(url, headers={'Accept': 'text/event-stream'})
        self.answer = urllib.request.urlopen(request, timeout=60)

    def next(self):
        """The next event, "caught-up" and so on by name, None at the end."""
        name = None
        while True:
            try:
                line = self.answer.readline()
            except OSError:
                return None
            if line in (b'', None):
                return None
            if line.startswith(b'event: '):
                name = line[7:].strip().decode()
            if line.startswith(b'data: '):
                return name or line[6:].decode()

    def close(self):
        self.answer.close()


class Upcasters(Case):
    def conf(self, text=CONF):
        return self.write('oxbow.yaml', text)

    def data_of(self, done):
        return [line[line.index('"data":') + 7:-1] for line in done.out.splitlines()]

    def test_folder(self):
        conf = self.conf()
        self.oxbow('append', 'orders-1', stdin=old() + event('Other'))
        self.assertEqual(self.data_of(self.oxbow('read', 'orders-1')), [OLD, '{}'])
        self.assertEqual(self.data_of(self.oxbow('read', 'orders-1', '-c', conf)), [NEW, '{}'])
        self.assertEqual(self.data_of(self.oxbow('read', 'orders-1', '-c', conf, '--raw')),
                         [OLD, '{}'])
        self.oxbow('append', 'orders-2', stdin=event('Placed', {'amount': 1, 'boom': 1}))
        self.refused('read', 'orders-2', '-c', conf,
                     says='upcaster v3: event 0 of stream "orders-2": .*oxbow.yaml:2: boom')

    def test_refused(self):
        for rule, says in [('[{drop: true}]', 'upcaster x: .*drops events, which is not possible'),
                           ('[{route: a}]', 'routes events'),
                           ('[{route: [a, b]}]', 'several events of one'),
                           ('{lua: "function finish() end"}', 'looks at more than one event'),
                           ('[{drip: true}]', r'oxbow.yaml:3:18: unknown key "drip"'),
                           ('{lua: "x ="}', 'oxbow.yaml:1: unexpected symbol'),
                           ('{file: /nowhere/x.lua}', 'nowhere')]:
            conf = self.conf('upcasters:\n  x:\n    transform: %s\n' % rule)
            self.refused('check', '-c', conf, says=says)
            self.refused('serve', '-c', conf, says=says)

    def test_trial(self):
        rules = self.write('rules.yaml', '- {when: {type: A}, set: {data.n: 1}}\n'
                           '- {when: {type: B}, drop: true}\n'
                           '- {when: {type: C}, route: "c-{data.id}"}\n')
        events = event('A') + event('B') + event('C', {'id': 7}, stream='s-1', version=3)
        self.assertEqual(self.oxbow('transform', 'test', rules, stdin=events).out,
                         'test-1 A {}\n  ~ A {"n":1}\ntest-1 B {}\n  -\n'
                         's-1 C {"id": 7}\n  = c-7 C {"id": 7}\n')
        self.assertEqual(self.oxbow('transform', 'test', rules, '--json', stdin=events).lines,
                         [{'origins': [0], 'changed': True, 'type': 'A', 'data': {'n': 1}},
                          {'origins': [0], 'changed': False, 'stream': 'c-7', 'type': 'C',
                           'data': {'id': 7}}])
        script = self.write('x.lua', 'function event(e, s)\n  if e.type == "B" then error("no") end\n'
                            '  s.n = (s.n or 0) + 1\n  return false\nend\n'
                            'function finish(s) return {type = "N", data = s.n} end\n')
        out = self.oxbow('transform', 'test', script, '--json', stdin=event('A') * 2).lines
        self.assertEqual(out, [{'origins': [0, 1], 'changed': True, 'type': 'N', 'data': 2}])
        self.refused('transform', 'test', script, stdin=event('A') + event('B'),
                     says='event 1 of stream "test-1": .*x.lua:2: no')
        self.refused('transform', 'test', rules, stdin='{}\n', says='line 1: .*"type" is missing')
        self.refused('transform', 'test', '/nowhere.yaml', says='nowhere')
        self.refused('transform', 'test', self.write('bad.yaml', '- {drip: 1}'), says='bad.yaml:1:4')

    def test_server(self):
        with self.server('-c', self.conf()) as (url, _):
            self.oxbow('append', 'orders-1', '--server', url, stdin=old() + event('Other'))
            read = ('read', 'orders-1', '--server', url)
            self.assertEqual(self.data_of(self.oxbow(*read)), [NEW, '{}'])
            self.assertEqual(self.data_of(self.oxbow(*read, '--raw')), [OLD, '{}'])
            self.assertEqual(self.data_of(self.oxbow('read', '$all', '--server', url)), [NEW, '{}'])
            self.assertEqual(self.data_of(self.oxbow('read', '$et-Placed', '--server', url)), [NEW])
            with grpc_client.Conn(int(url.split(':')[2])) as conn:
                events = grpc_client.kinds(grpc_client.read(conn, 'orders-1').all())
                self.assertEqual([e.data.decode() for e in events], [NEW, '{}'])
            self.subscribe(url)
            self.groups(url)
            self.fails(url)

    def subscribe(self, url):
        feeds = [Subscriber(url + '/v1/all'), Subscriber(url + '/v1/streams/orders-1'),
                 Subscriber(url + '/v1/all?raw=true')]
        wanted = [NEW, NEW, OLD]
        for feed, data in zip(feeds, wanted):
            self.assertIn(data, feed.next())
            self.assertIn('Other', feed.next())
            self.assertEqual(feed.next(), 'caught-up')
        self.oxbow('append', 'orders-1', '--server', url, stdin=old(2))
        for feed, data in zip(feeds, wanted):
            self.assertIn(data, feed.next())
            self.assertIn(data, feed.next())
            feed.close()

    def groups(self, url):
        self.oxbow('append', 'orders-3', '--server', url,
                   stdin=old() + event('Placed', {'amount': 1, 'boom': 1}))
        self.oxbow('group', 'create', 'orders-3', 'g', 'from=beginning',
                   '--server', url)
        given = Subscriber(url + '/v1/groups/orders-3/g/events')
        self.assertEqual(given.next(), 'member')
        first, second = given.next(), given.next()
        given.close()
        self.assertIn(NEW, first)
        self.assertNotIn('upcast_error', first)
        self.assertRegex(json.loads(second)['upcast_error'], 'upcaster v3: .*boom')
        self.assertEqual(json.loads(second)['data'], {'amount': 1, 'boom': 1})

    def fails(self, url):
        with self.assertRaises(urllib.error.HTTPError) as failed:
            urllib.request.urlopen(url + '/v1/streams/orders-3?from=1', timeout=60)
        answer = json.load(failed.exception)
        self.assertEqual((failed.exception.code, answer['error']), (500, 'upcaster-failed'))
        self.assertIn('upcaster v3', answer['message'])
        failed.exception.close()
        # A live one is cut off at the event; asked again from there it learns why.
        feed = Subscriber(url + '/v1/streams/live-1')
        self.assertEqual(feed.next(), 'caught-up')
        self.oxbow('append', 'live-1', '--server', url,
                   stdin=event('Placed') + event('Placed', {'boom': 1}))
        self.assertIn('"n":1', feed.next())
        self.assertIsNone(feed.next())
        feed.close()
        feed = Subscriber(url + '/v1/streams/live-1')
        self.assertIn('"n":1', feed.next())
        self.assertIsNone(feed.next())
        feed.close()
        with self.assertRaises(urllib.error.HTTPError) as failed:
            Subscriber(url + '/v1/streams/live-1?from=1')
        self.assertIn('boom', json.load(failed.exception)['message'])
        failed.exception.close()


if __name__ == '__main__':
    unittest.main()
