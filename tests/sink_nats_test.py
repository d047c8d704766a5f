"""The sink nats against a real nats-server with JetStream."""
import json
import unittest

import brokers
from sink_case import Seen, SinkCase

TRACE = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'


class NatsSink(SinkCase):
    @classmethod
    def setUpClass(cls):
        cls.server = brokers.Nats()
        cls.addClassCleanup(cls.server.end)
        cls.server.start()
        cls.number = 0

    def setUp(self):
        super().setUp()
        type(self).number += 1
        self.name = f't{self.number}'
        self.configure_with()

    def configure_with(self, subject='{stream}', **more):
        self.configure(f'    type: nats\n    servers: [{self.server.url}]\n'
                       f'    subject: "{self.name}.{subject}"\n    timeout: 2s\n' +
                       ''.join(f'    {k}: {v}\n' for k, v in more.items()))

    def client(self):
        client = self.server.client()
        self.addCleanup(client.close)
        return client

    def make(self, **more):
        self.client().stream(self.name, f'{self.name}.>', **more)

    def count(self):
        return self.client().count(self.name)

    def seen(self):
        return [Seen(h['ce-subject'], int(h['ce-sequence']), h['ce-id'])
                for h, _ in self.client().read(self.name)]

    def test_message(self):
        self.make()
        self.start()
        self.append('order-1 ü', metadata={'traceparent': TRACE})
        self.delivered()
        (head, body), = self.client().read(self.name)
        self.assertEqual(json.loads(body), {'n': 0})
        self.assertEqual(head['Nats-Msg-Id'], f'{head["ce-id"]}-{head["ce-oxbowposition"]}')
        self.assertEqual(head['ce-subject'], 'order-1%20%C3%BC')
        self.assertEqual((head['ce-type'], head['ce-specversion'], head['ce-source']),
                         ('Updated', '1.0', 'oxbow'))
        self.assertEqual((head['traceparent'], head['ce-traceparent']), (TRACE, TRACE))
        self.assertEqual(head['Content-Type'], 'application/json')
        self.assertIn('order-1%20', self.client().api(f'STREAM.INFO.{self.name}', {
            'subjects_filter': '>'})['state']['subjects'].popitem()[0])
        self.stop()

    def test_structured(self):
        self.configure_with('all', format='structured', headers='{X-Of: "{category}"}')
        self.make()
        self.start()
        self.append('order-1')
        self.delivered()
        (head, body), = self.client().read(self.name)
        whole = json.loads(body)
        self.assertEqual((whole['data'], whole['subject'], head['X-Of'], head['Content-Type']),
                         ({'n': 0}, 'order-1', 'order', 'application/cloudevents+json'))
        self.assertEqual(head['Nats-Msg-Id'], f'{whole["id"]}-{whole["oxbowposition"]}')

    def copies(self, moved):
        """The message ids of three events and their copies."""
        self.configure_with('all', moved=moved)
        self.make()
        self.start()
        self.append('order-1', 3)
        self.delivered()
        self.oxbow('stream', 'copy', 'order-1', '--to', 'copy-1')
        self.append('end-1')
        self.delivered()
        return [h['Nats-Msg-Id'] for h, _ in self.client().read(self.name)
                if h['ce-type'] == 'Updated' and h['ce-subject'] != 'end-1']

    def test_copies(self):
        """A copy has its original's id, and is a message of its own."""
        ids = self.copies('deliver')
        self.assertEqual((len(set(ids)), len({i[:36] for i in ids})), (6, 3))

    def test_copies_skipped(self):
        """Each event once: its id alone says so."""
        ids = self.copies('skip')
        self.assertEqual(([len(i) for i in ids], len(set(ids))), ([36] * 3, 3))

    def test_killed(self):
        """kill -9 of Oxbow: what is sent again is known to JetStream by its id."""
        self.make()
        self.start()
        for at in (300, 900):
            self.fill(30, 40)
            self.until(lambda n=at: self.count() >= n, 'nothing comes')
            self.kill()
            self.start()
        self.delivered()
        self.came(self.seen(), doubles=False)
        self.assertEqual(self.show()['parked'], 0)

    def test_broker_restarted(self):
        self.make()
        self.start()
        self.fill(30, 40)
        self.until(lambda: self.count() >= 300, 'nothing comes')
        self.server.restart()
        self.fill(30, 10)
        self.delivered()
        self.came(self.seen(), doubles=False)
        self.assertEqual(self.show()['parked'], 0)

    def test_restarted_while_idle(self):
        """Nobody looks at a connection that has nothing in flight: the next message finds out."""
        self.make()
        self.start()
        self.append('order-1', 3)
        self.delivered()
        self.server.restart()
        self.append('order-1', 3)
        self.append('order-2', 3)
        self.delivered()
        self.came(self.seen(), doubles=False)

    def test_no_stream(self):
        """Nobody takes the subject: it waits, and only as long as that lasts."""
        self.start()
        self.append('order-1', 3)
        self.complains('no JetStream stream')
        self.make()
        self.delivered()
        self.came(self.seen(), doubles=False)

    def test_stream_is_full(self):
        self.make(max_msgs=2, discard='new')
        self.start()
        self.append('order-1', 4)
        self.complains('JetStream refuses')
        self.assertEqual(self.count(), 2)
        self.client().api(f'STREAM.UPDATE.{self.name}', {
            'name': self.name, 'subjects': [f'{self.name}.>'], 'max_msgs': 100, 'discard': 'new'})
        self.delivered()
        self.came(self.seen(), doubles=False)

    def test_too_large(self):
        """Refused for good: parked with its reason; other streams go on."""
        self.make(max_msg_size=2000)
        self.start()
        self.append('order-1', data={'n': 'x' * 3000})
        self.append('order-1')
        self.append('order-2')
        self.delivered()
        shown = self.show()
        self.assertEqual((shown['parked'], shown['parked_streams']), (2, 1))
        self.assertEqual([s.stream for s in self.seen()], ['order-2'])
        self.assertIn('message size exceeds', shown['error'])

    def test_bad_subject(self):
        self.configure_with('{data.where}')
        self.make()
        self.start()
        self.append('order-1', data={'where': 'a..b'})
        self.append('order-2', data={'n': 1})
        self.append('order-3', data={'where': 'a.b * > c'})
        self.delivered()
        self.assertEqual(self.show()['parked'], 2)
        self.assertEqual([s.stream for s in self.seen()], ['order-3'])


if __name__ == '__main__':
    brokers.skip_without(brokers.Nats)
    unittest.main(verbosity=2)
