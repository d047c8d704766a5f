"""What the tests of queues share: the built binary with one source `in`, and the question that is asked
of the log after whatever happened: did every message come once, those of a key in order?"""
import collections
import json

from sink_case import SinkCase


class QueueCase(SinkCase):
    def configure_source(self, **settings):
        self.settings = settings
        with open(self.path('c.yaml'), 'w', encoding='utf-8') as f:
            json.dump({'data': self.path('data'), 'log': {'segment_bytes': '2MiB'},
                       'sources': {'in': settings}}, f)

    def setUp(self):
        super().setUp()
        self.published = collections.defaultdict(list)

    def show(self):
        return self.ask('GET', '/v1/sources/in')

    def state(self, state):
        """What it shows when it has come to that."""
        self.until(lambda: self.show()['state'] == state, f'it never is {state}')
        return self.show()

    def events(self):
        """Streams to the data of their events."""
        found = collections.defaultdict(list)
        for line in self.oxbow('read', '$all', '--json').splitlines():
            event = json.loads(line)
            if not event['stream'].startswith('$'):
                found[event['stream']].append(event)
        return found

    def parked(self):
        return [json.loads(line)['data'] for line in
                self.oxbow('read', '$parked-source-in', '--json').splitlines()]

    def lacks(self):
        """How many events are not there yet."""
        return sum(map(len, self.published.values())) - sum(map(len, self.events().values()))

    def came(self):
        """Each message once, in the order of its key. Waits for them."""
        try:
            self.until(lambda: self.lacks() <= 0, '')
        except AssertionError:
            self.fail(f'{self.lacks()} messages are missing: {self.show()}')
        found = {stream: [e['data']['n'] for e in events]
                 for stream, events in self.events().items()}
        self.assertEqual(set(found), set(self.published))
        for stream, numbers in self.published.items():
            self.assertEqual(found[stream], numbers, stream)
