"""The sink kafka against librdkafka's mock cluster, which keeps records and fails when told to, and
neither deduplicates nor fences: what a retry doubles there, a broker would drop."""
import json
import unittest

import brokers
from sink_case import Seen, SinkCase

TRACE = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
PRODUCE = 0
NOT_LEADER, OUT_OF_ORDER, TOO_LARGE = 6, 45, 10
PARTITIONS = 4


class KafkaSink(SinkCase):
    @classmethod
    def setUpClass(cls):
        cls.server = brokers.Kafka()
        cls.addClassCleanup(cls.server.end)
        cls.server.start()
        cls.number = 0

    def setUp(self):
        super().setUp()
        type(self).number += 1
        self.name = f't{self.number}'
        self.configure_with()
        self.server.tell(f'create {self.name} {PARTITIONS}')

    def configure_with(self, **more):
        more = {'topic': self.name, 'timeout': '5s', **more}
        self.configure(f'    type: kafka\n    brokers: "{self.server.brokers}"\n' +
                       ''.join(f'    {k}: {v}\n' for k, v in more.items()))

    def records(self):
        return self.server.dump(self.name, PARTITIONS)

    def seen(self):
        records = self.records()
        where = {}
        for r in records:  # one key, one partition: or there is no order
            self.assertEqual(where.setdefault(r['key'], r['partition']), r['partition'])
        return [Seen(r['key'], int(r['headers']['ce_sequence']), r['headers']['ce_id'])
                for r in records]

    def test_message(self):
        self.start()
        self.append('order-1 ü', metadata={'traceparent': TRACE})
        self.delivered()
        record, = self.records()
        self.assertEqual((record['key'], json.loads(record['value'])), ('order-1 ü', {'n': 0}))
        self.assertEqual((record['headers']['ce_subject'], record['headers']['content-type'],
                          record['headers']['traceparent']),
                         ('order-1 ü', 'application/json', TRACE))
        self.stop()

    def positions(self):
        return [r['value'] for r in self.server.dump(f'{self.name}.at', 1) if r['key'] == 'out']

    def test_transactions(self):
        """Records with the checkpoint behind them; after a kill it goes on from there. The mock keeps
        what a broker would hide, so nothing can be said of doubles that were aborted."""
        self.server.tell(f'create {self.name}.at 1')
        self.configure_with(transactions=f'{{positions: {self.name}.at}}')
        self.start()
        self.fill(10, 20)
        self.delivered()
        self.kill()
        self.start()
        self.append('order-1', 3)
        self.append('order-1', data={'n': 'x' * 1200000})
        self.append('order-2')
        self.delivered()
        self.assertEqual(self.show()['parked'], 1)
        self.assertIn('message_max', self.show()['error'])
        self.appended['order-1'] -= 1
        self.came(self.seen(), doubles=False)
        positions = [int(p) for p in self.positions()]
        self.assertGreaterEqual(positions[-1], self.end_of_log - 1)
        self.assertEqual(positions, sorted(positions))

    def test_transactions_broker_down(self):
        self.server.tell(f'create {self.name}.at 1')
        self.configure_with(transactions=f'{{positions: {self.name}.at}}', timeout='2s')
        self.start()
        self.fill(5, 10)
        self.delivered()
        for broker in (1, 2, 3):
            self.server.tell(f'down {broker}')
        self.fill(5, 10)
        self.complains('Kafka')
        for broker in (1, 2, 3):
            self.server.tell(f'up {broker}')
        self.delivered()
        self.came(self.seen())
        self.assertEqual(self.show()['parked'], 0)

    def test_killed(self):
        self.start()
        for _ in range(2):
            self.fill(30, 40)
            self.until(lambda: self.show()['delivered'] >= 300, 'nothing is delivered')
            self.kill()
            self.start()
        self.delivered()
        self.came(self.seen())
        self.assertEqual(self.show()['parked'], 0)

    def test_brokers_down(self):
        self.start()
        self.fill(30, 20)
        self.until(lambda: self.show()['delivered'] >= 100, 'nothing is delivered')
        for i in range(1, 4):
            self.server.tell(f'down {i}')
        self.fill(30, 10)
        for i in range(1, 4):
            self.server.tell(f'up {i}')
        self.delivered()
        self.came(self.seen())
        self.assertEqual(self.show()['parked'], 0)

    def test_refused(self):
        """What may pass is tried again; what may not is parked."""
        self.start()
        self.server.tell(f'error {PRODUCE} {NOT_LEADER} 3')
        self.append('order-1', 3)
        self.delivered()
        self.came(self.seen())
        self.server.tell(f'error {PRODUCE} {TOO_LARGE} 1')
        self.ask('POST', '/v1/streams/order-2', [{'type': 't', 'data': {}}])
        self.until(lambda: self.show()['parked'] == 1, 'nothing is parked')

    def test_broken_sequence(self):
        """Fatal for the producer: another takes over, and nothing is lost."""
        self.start()
        self.append('order-1', 3)
        self.delivered()
        self.server.tell(f'error {PRODUCE} {OUT_OF_ORDER} 1')
        self.fill(10, 5)
        self.delivered()
        self.came(self.seen())
        self.assertEqual(self.show()['parked'], 0)

    def test_bad_topic(self):
        self.configure_with(topic='"{data.to}"')
        self.start()
        self.append('order-1', data={'to': 'no topic'})
        self.append('order-2', data={'to': self.name})
        self.append('order-3', data={'n': 1})
        self.delivered()
        self.assertEqual(self.show()['parked'], 2)
        self.assertEqual([s.stream for s in self.seen()], ['order-2'])


if __name__ == '__main__':
    brokers.skip_without(brokers.Kafka)
    unittest.main(verbosity=2)
