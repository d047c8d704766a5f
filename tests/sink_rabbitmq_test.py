"""The sink rabbitmq against a real broker, which takes seconds to start: once, and once more to be
restarted."""
import json
import unittest
import urllib.parse

import brokers
from sink_case import Seen, SinkCase

TRACE = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'


class RabbitmqSink(SinkCase):
    @classmethod
    def setUpClass(cls):
        cls.server = brokers.Rabbitmq()
        cls.addClassCleanup(cls.server.end)
        cls.server.start()
        cls.number = 0

    def setUp(self):
        super().setUp()
        type(self).number += 1
        self.name = f't{self.number}'
        self.configure_with()

    def configure_with(self, **more):
        more = {'exchange': self.name, 'routing_key': '"{stream}"', **more}
        self.configure(f'    type: rabbitmq\n    url: {self.server.url}\n' +
                       ''.join(f'    {k}: {v}\n' for k, v in more.items()))

    def make(self, **arguments):
        self.server.exchange(self.name)
        self.server.queue(self.name, self.name, **arguments)

    def count(self):
        """Ready ones; the broker's own figures are seconds old."""
        return len(self.server.read(self.name))

    def seen(self):
        return [Seen(p['headers']['cloudEvents_subject'], int(p['headers']['cloudEvents_sequence']),
                     p['message_id']) for p, _ in self.server.read(self.name)]

    def test_message(self):
        self.make()
        self.start()
        self.append('order-1 ü', metadata={'traceparent': TRACE})
        self.delivered()
        (p, body), = self.server.read(self.name)
        self.assertEqual(json.loads(body), {'n': 0})
        self.assertEqual((p['delivery_mode'], p['content_type'], p['type']),
                         (2, 'application/json', 'Updated'))
        head = p['headers']
        self.assertEqual(head['cloudEvents_id'], p['message_id'])
        self.assertEqual((head['cloudEvents_subject'], head['traceparent']), ('order-1 ü', TRACE))
        self.stop()

    def test_killed(self):
        self.make(**{'x-queue-type': 'quorum'})
        self.start()
        seen = []
        for _ in range(2):
            self.fill(20, 40)
            self.until(lambda: seen.extend(self.seen()) or len(seen) >= 100, 'nothing comes')
            self.kill()
            self.start()
        self.delivered()
        self.came(seen + self.seen())
        self.assertEqual(self.show()['parked'], 0)

    def test_unroutable(self):
        """Returned, then confirmed: that is not arrived."""
        self.make()
        self.server.exchange(self.name + 'x')
        self.server.queue(self.name + 'x', self.name + 'x', 'order-1')
        self.configure_with(exchange=self.name + 'x')
        self.start()
        self.append('order-2', 3)
        self.append('order-1')
        self.delivered()
        shown = self.show()
        self.assertEqual((shown['parked'], shown['parked_streams']), (3, 1))
        self.assertIn('312 NO_ROUTE', shown['error'])
        self.assertEqual(len(self.server.read(self.name + 'x')), 1)
        self.server.queue(self.name + 'x', self.name + 'x', 'order-2')
        self.oxbow('sink', 'parked', 'replay', 'out')
        self.until(lambda: self.show()['parked'] == 0, 'still parked')
        self.assertEqual([json.loads(b)['n'] for _, b in self.server.read(self.name + 'x')],
                         [0, 1, 2])

    def test_queue_deleted(self):
        """unroutable: retry waits for the queue to come back."""
        self.configure_with(unroutable='retry')
        self.make()
        self.start()
        self.append('order-1', 2)
        self.delivered()
        seen = self.seen()
        self.server.drop('queues', self.name)
        self.append('order-1', 3)
        self.complains('NO_ROUTE')
        self.server.queue(self.name, self.name)
        self.delivered()
        self.came(seen + self.seen())

    def test_exchange_missing(self):
        """One that is not there stops nobody else; one that goes away is waited for."""
        self.configure_with(exchange='"{data.to}"')
        self.make()
        self.start()
        self.append('order-1', data={'to': self.name})
        self.append('order-2', data={'to': 'nowhere'})
        self.append('order-3', data={'to': self.name})
        self.delivered()
        self.assertEqual(self.show()['parked'], 1)
        self.assertIn('NOT_FOUND', self.show()['error'])
        self.assertEqual(sorted(s.stream for s in self.seen()), ['order-1', 'order-3'])
        self.stop()

    def test_exchange_deleted(self):
        self.make()
        self.start()
        self.append('order-1', 2)
        self.delivered()
        seen = self.seen()
        self.server.drop('exchanges', self.name)
        self.append('order-1', 3)
        self.complains('NOT_FOUND')
        self.server.exchange(self.name)
        self.server.api('POST', f'bindings/%2F/e/{self.name}/q/{self.name}', {'routing_key': '#'})
        self.delivered()
        self.came(seen + self.seen())
        self.assertEqual(self.show()['parked'], 0)

    def connections(self):
        return {c['name'] for c in self.server.api('GET', 'connections') if 'name' in c}

    def test_closed_while_idle(self):
        """Nobody reads a connection that has nothing in flight: the next message finds out."""
        self.make()
        before = self.connections()
        self.start()
        self.append('order-1', 3)
        self.delivered()
        # Those of the tests before it are listed for a while, too.
        self.until(lambda: self.connections() - before, 'no connection shows')
        for name in self.connections() - before:
            self.server.api('DELETE', 'connections/' + urllib.parse.quote(name))
        self.append('order-1', 3)
        self.append('order-2', 3)
        self.delivered()
        self.came(self.seen(), doubles=False)
        self.assertEqual(self.show()['retries'], 0)

    def test_publish_refused(self):
        self.make(**{'x-max-length': 2, 'x-overflow': 'reject-publish'})
        self.start()
        self.append('order-1', 5)
        self.complains('does not take it')
        seen = self.seen()
        self.assertGreaterEqual(len(seen), 2)  # what is taken makes room for what is tried again
        while len(seen) < 5:
            seen += self.seen()
        self.delivered()
        self.came(seen)

    def test_disk_full(self):
        """The broker's disk alarm: it reads no more messages, and confirms none, until there is room."""
        self.configure_with(timeout='1s', retry_min='10ms', retry_max='100ms')
        self.make()
        self.start()
        self.fill(5, 2)
        self.delivered()
        seen = self.seen()
        self.server.ctl('set_disk_free_limit', '1000000GB')
        try:
            self.fill(20, 5)
            self.complains('RabbitMQ')
            self.assertEqual(self.seen(), [])
            self.assertLess(self.show()['done'], self.end_of_log)
        finally:
            self.server.ctl('set_disk_free_limit', '10MB')
        self.delivered()
        self.came(seen + self.seen())
        self.assertEqual(self.show()['parked'], 0)

    def test_zz_broker_restarted(self):
        """The last one: it costs a start of the broker."""
        self.make(**{'x-queue-type': 'quorum'})
        self.start()
        self.fill(30, 40)
        self.until(lambda: self.show()['delivered'] >= 200, 'nothing is delivered')
        self.server.restart()
        self.fill(30, 5)
        self.delivered()
        self.came(self.seen())
        self.assertEqual(self.show()['parked'], 0)


if __name__ == '__main__':
    brokers.skip_without(brokers.Rabbitmq)
    unittest.main(verbosity=2)
