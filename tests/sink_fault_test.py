"""Faults between Oxbow and real brokers: a proxy that delays, loses confirms and cuts, a queue that is
deleted, the leader of three NATS servers killed, and kill -9 of Oxbow at each of its syncs. Every time
a consumer of the test's own counts: lost 0, what came twice has its id, each stream in order."""
import http.client
import os
import unittest

import brokers
from proxy import Proxy
from sink_case import Seen, SinkCase

KILLER = os.environ.get('KILL_AT_SYNC', '')


class RabbitFaults(SinkCase):
    @classmethod
    def setUpClass(cls):
        cls.server = brokers.Rabbitmq()
        cls.addClassCleanup(cls.server.end)
        cls.server.start()

    def setUp(self):
        super().setUp()
        self.proxy = Proxy(self.server.port)
        self.addCleanup(self.proxy.close)
        self.queue = self._testMethodName
        self.server.queue(self.queue, **{'x-queue-type': 'quorum'})
        self.configure_with('2s')

    def configure_with(self, timeout):
        self.configure(f'    type: rabbitmq\n    url: amqp://127.0.0.1:{self.proxy.port}\n'
                       f'    routing_key: {self.queue}\n    unroutable: retry\n'
                       f'    timeout: {timeout}\n    retry_min: 10ms\n    retry_max: 200ms\n')

    def seen(self):
        return [Seen(p['headers']['cloudEvents_subject'], int(p['headers']['cloudEvents_sequence']),
                     p['message_id']) for p, _ in self.server.read(self.queue)]

    def test_cut(self):
        """Between publish and confirm: what was sent is there, what was said of it is lost."""
        self.start()
        for _ in range(4):
            self.append('order-0')
            self.delivered()  # so there is a connection
            before = self.proxy.lost
            self.proxy.deaf = True
            self.fill(20, 10)
            self.until(lambda b=before: self.proxy.lost > b, 'nothing is confirmed')
            self.proxy.cut()
            self.proxy.deaf = False
        self.delivered()
        seen = self.seen()
        self.came(seen)
        self.assertGreater(len(seen), 804, 'no confirm was lost')

    def test_slow_and_refused(self):
        """Every piece late, then no connection for a while, with cuts in between."""
        self.proxy.delay = 0.005
        self.start()
        self.fill(20, 10)
        self.until(lambda: self.show()['delivered'] > 20, 'nothing is delivered')
        self.proxy.refuse = True
        self.proxy.cut()
        self.fill(20, 10)
        self.until(lambda: self.show()['error'], 'it says nothing')
        self.proxy.refuse = False
        self.delivered()
        self.came(self.seen())
        self.assertEqual(self.show()['parked'], 0)

    def test_queue_deleted(self):
        """It waits until there is one again, and loses nothing on the way."""
        self.configure_with('60s')  # a confirm that is late is none that is lost: nothing comes twice
        self.start()
        self.append('order-1', 5)
        self.delivered()
        first = self.seen()
        self.server.drop('queues', self.queue)
        self.fill(10, 10)
        self.complains('no queue takes it')
        self.server.queue(self.queue, **{'x-queue-type': 'quorum'})
        self.delivered()
        self.came(first + self.seen(), doubles=False)
        self.assertEqual(self.show()['parked'], 0)


class NatsFaults(SinkCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = brokers.NatsCluster()
        cls.addClassCleanup(cls.cluster.end)
        cls.cluster.start()

    def make(self, name):
        self.cluster.ask(lambda c: c.stream(name, f'{name}.>', num_replicas=3))
        self.configure(f'    type: nats\n    servers: {self.cluster.urls()}\n    timeout: 3s\n'
                       f'    subject: "{name}.{{stream}}"\n    retry_max: 500ms\n')

    def seen(self, name):
        return [Seen(h['ce-subject'], int(h['ce-sequence']), h['ce-id'])
                for h, _ in self.cluster.ask(lambda c: c.read(name))]

    def count(self, name):
        return self.cluster.ask(lambda c: c.count(name))

    def test_leader_killed(self):
        """While it publishes; the others choose a new one, and know what they have by its id."""
        self.make('led')
        self.start()
        self.fill(30, 20)
        self.until(lambda: self.count('led') >= 100, 'nothing comes')
        self.cluster.kill_leader('led')
        self.fill(30, 20)
        self.delivered()
        self.came(self.seen('led'), doubles=False)
        self.assertEqual(self.show()['parked'], 0)
        self.cluster.start()

    @unittest.skipUnless(KILLER, 'KILL_AT_SYNC names no library')
    def test_killed_at_syncs(self):
        """kill -9 of Oxbow at one sync after the other: of an append, a checkpoint, a record."""
        self.make('syncs')
        plain = dict(self.env)
        self.start()
        for at in range(1, 15, 2):
            self.fill(3, 5)
            self.stop()
            self.env = {**plain, 'LD_PRELOAD': KILLER, 'KILL_AT': str(at)}
            try:
                self.start()
                self.ask('POST', '/v1/streams/other-1', [{'type': 'X', 'data': {}}])
            except (OSError, AssertionError, http.client.HTTPException):
                pass  # it was killed in the middle
            self.kill()
            self.env = dict(plain)
            self.start()
        self.appended['other-1'] = len(self.ask('GET', '/v1/streams/other-1')['events'])
        self.append('order-0')
        self.delivered()
        self.came(self.seen('syncs'), doubles=False)


if __name__ == '__main__':
    brokers.skip_without(brokers.Rabbitmq, brokers.Nats)
    unittest.main(verbosity=2)
