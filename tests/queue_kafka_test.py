"""The queue kafka against librdkafka's mock cluster. What it cannot show: aborted transactions stay
visible, topics are made when they are asked for, and nothing is deleted but the oldest above 5 MB a partition."""
import shutil
import threading
import unittest

import brokers
from queue_case import QueueCase

PARTITIONS = 4


class QueueKafka(QueueCase):
    @classmethod
    def setUpClass(cls):
        cls.server = brokers.Kafka()
        cls.addClassCleanup(cls.server.end)
        cls.server.start()
        cls.lock = threading.Lock()
        cls.number = 0

    def setUp(self):
        super().setUp()
        type(self).number += 1
        self.name = f't{self.number}'
        self.settle()

    def settle(self, **more):
        """The mock gives a group its partitions after 3 s."""
        self.configure_source(**{
            'type': 'kafka', 'brokers': self.server.brokers, 'topics': [self.name],
            'group': f'g-{self.name}', 'stream': '{key}', 'session_timeout': '6s', **more})

    def kill_and_start(self, group):
        """In another group, which knows nothing: the log does. (It need not wait for the dead one.)"""
        self.kill()
        self.settle(**{**self.settings, 'group': f'g-{self.name}-{group}'})
        self.start()

    def tell(self, line):
        with self.lock:
            return self.server.tell(line)

    def make(self):
        self.tell(f'create {self.name} {PARTITIONS}')

    def publish(self, keys, each, first=0, size=0):
        self.tell(f'fill {self.name} {keys} {each} {first} {size}')
        for key in range(keys):
            self.published[f'k{key}'] += range(first, first + each)

    def put(self, key, value, header='', partition=-1):
        self.tell(f'put {self.name} {partition} {key} {value} {header}')

    def caught_up(self):
        def done():
            shown = self.show()['source'] or {}
            return (shown.get('pending'), shown.get('partitions')) == (0, PARTITIONS)
        self.until(done, f'it does not catch up: {self.show()}')

    def test_message(self):
        self.make()
        self.settle(event='{type}', id='{header.x-id}', payload='json')
        self.start()
        self.put('a', '{"n":1}', 'ce_type=Paid x-id=m1')
        self.put('a', '{"n":1}', 'ce_type=Paid x-id=m1')
        self.put('a', 'poison', 'ce_type=Paid x-id=m2')
        self.put('a', '{"n":2}', 'x-id=m3')
        self.published['a'] = [1, 2]
        self.came()
        self.assertEqual([e['type'] for e in self.events()['a']], ['Paid', 'Message'])
        self.until(lambda: len(self.parked()) == 1, 'nothing is parked')
        self.stop()

    def test_killed(self):
        """kill -9 of Oxbow under load: the log has the place of every partition."""
        self.make()
        self.start()

        def load():
            for first in range(0, 400, 4):
                self.publish(25, 4, first)
        thread = threading.Thread(target=load)
        thread.start()
        for at in (1000, 5000):
            self.until(lambda n=at: sum(map(len, self.events().values())) >= n, 'nothing comes')
            self.kill_and_start(at)
        thread.join()
        self.came()

    def test_brokers_down(self):
        self.make()
        self.start()
        self.publish(10, 20)
        self.came()
        for broker in (1, 2, 3):
            self.tell(f'down {broker}')
        self.complains('Kafka')
        for broker in (1, 2, 3):
            self.tell(f'up {broker}')
        self.publish(10, 20, 20)
        self.came()

    def test_group_offsets(self):
        """A log that begins anew goes on where the group is."""
        self.make()
        self.start()
        self.publish(10, 20)
        self.came()
        self.stop()
        self.settle()
        self.folder_anew()
        self.published.clear()
        self.publish(10, 20, 20)
        self.start()
        self.came()

    def folder_anew(self):
        shutil.rmtree(self.path('data'))

    def test_stopped_with_a_backlog(self):
        """Records that were fetched ahead when the group is left are read again."""
        self.make()
        self.publish(10, 500)
        self.settle(batch=1)
        self.start()
        self.until(lambda: self.show()['changes'] > 0, 'nothing comes')
        self.stop()
        self.settle()
        self.start()
        self.came()

    def test_from_new(self):
        self.make()
        self.publish(10, 20)
        self.published.clear()
        self.settle(**{'from': 'new'})
        self.start()
        self.caught_up()
        self.publish(10, 20, 20)
        self.came()
        self.kill_and_start('next')
        self.publish(10, 20, 40)
        self.came()

    def test_rebalanced(self):
        """A second member takes partitions while records are on their way, and gives them back."""
        self.make()
        self.start()
        self.publish(20, 20)
        self.came()
        other = QueueCase('show')  # with a log of its own
        other.setUp()
        self.addCleanup(other.doCleanups)
        other.configure_source(**self.settings)
        other.start()
        self.until(lambda: 0 < self.partitions(other) < PARTITIONS, 'no partition goes over')
        self.publish(20, 20, 20)
        self.until(lambda: 0 < self.partitions(self) < PARTITIONS, 'no partition goes over')
        self.publish(20, 20, 40)
        other.stop()
        self.publish(20, 20, 60)
        self.came()

    @staticmethod
    def partitions(case):
        return (case.show()['source'] or {}).get('partitions', 0)

    def test_gap(self):
        """The mock keeps 5 MB of a partition."""
        self.make()
        self.start()
        self.publish(2, 3)
        self.came()
        self.stop()
        kept = {k: list(v) for k, v in self.published.items()}
        self.publish(2, 90, 3, 100000)
        self.start()
        self.assertIn('gap', self.state('failed')['error'])
        self.oxbow('source', 'snapshot', 'in', '--gap')
        self.published.clear()
        self.publish(2, 3, 93)
        self.until(lambda: all(self.events()[f'k{k}'][-1]['data']['n'] == 95 for k in range(2)),
                   'it does not go on')
        for key, events in self.events().items():
            numbers = [e['data']['n'] for e in events]
            self.assertEqual(numbers[:3], kept[key])
            self.assertEqual(numbers[3:], list(range(numbers[3], 96)))


if __name__ == '__main__':
    brokers.skip_without(brokers.Kafka)
    unittest.main()
