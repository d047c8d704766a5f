"""The queue nats against a real nats-server with JetStream, which the tests restart."""
import json
import threading
import unittest

import brokers
import proxy
from queue_case import QueueCase


class QueueNats(QueueCase):
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
        self.settle()

    def settle(self, **more):
        self.configure_source(**{'type': 'nats', 'servers': [self.server.url],
                                 'jetstream': self.name, 'stream': '{key}', **more})

    def client(self):
        client = self.server.client()
        self.addCleanup(client.close)
        return client

    def make(self, **more):
        self.client().stream(self.name, f'{self.name}.>', **more)

    def send(self, client, subject, body, headers=None):
        if headers is None:
            client.send(f'PUB {subject} {client.inbox}.ack {len(body)}\r\n', body + b'\r\n')
            return
        head = b'NATS/1.0\r\n' + b''.join(f'{k}: {v}\r\n'.encode() for k, v in headers.items()) + \
            b'\r\n'
        client.send(f'HPUB {subject} {client.inbox}.ack {len(head)} {len(head) + len(body)}\r\n',
                    head + body + b'\r\n')

    def publish(self, keys, each, first=0):
        """Numbers from `first` on under every key, acknowledged by the server."""
        client = self.server.client()
        for n in range(first, first + each):
            for key in range(keys):
                subject = f'{self.name}.k{key}'
                self.send(client, subject, json.dumps({'n': n}).encode())
                self.published[subject].append(n)
        for _ in range(keys * each):
            self.assertIn('seq', json.loads(client.next()))
        client.close()

    def pull(self, count):
        """Takes messages as another client of the consumer would: the subjects to answer."""
        client = self.client()
        inbox = f'{client.inbox}.pull'
        body = json.dumps({'batch': count, 'no_wait': True}).encode()
        client.send(f'PUB $JS.API.CONSUMER.MSG.NEXT.{self.name}.oxbow-in {inbox} {len(body)}\r\n',
                    body + b'\r\n')
        found = []
        while len(found) < count:
            words = client.file.readline().decode().split()
            if words and words[0] == 'MSG':
                found.append(words[3])
                client.file.read(int(words[-1]) + 2)
        return client, found

    def consumer(self):
        return self.client().api(f'CONSUMER.INFO.{self.name}.oxbow-in')

    def left(self):
        """The server has noticed that the client is gone, and gives its requests nothing."""
        self.until(lambda: self.consumer()['num_waiting'] == 0, 'a client still waits')

    def settled(self):
        """All that was delivered is acknowledged."""
        self.until(lambda: self.consumer()['num_ack_pending'] == 0 and
                   self.consumer()['num_pending'] == 0, 'not all is acknowledged')

    def test_message(self):
        self.make()
        self.settle(event='{type}')
        self.start()
        client = self.client()
        self.send(client, f'{self.name}.a', b'{"n": 1}',
                  {'ce-type': 'Paid', 'Nats-Msg-Id': 'm-1', 'X-Of': 'shop'})
        self.send(client, f'{self.name}.a', b'\x00\xff')
        self.published[f'{self.name}.a'] = [1, None]
        self.until(lambda: self.lacks() <= 0, 'it does not come')
        first, second = self.events()[f'{self.name}.a']
        self.assertEqual((first['type'], first['data'], second['type']),
                         ('Paid', {'n': 1}, 'Message'))
        self.settled()
        self.stop()

    def test_duplicates_and_poison(self):
        self.make()
        self.settle(id='{header.X-Id}', payload='json')
        self.start()
        client = self.client()
        for n, one in enumerate(('a', 'b', 'a')):
            self.send(client, f'{self.name}.k', json.dumps({'n': n}).encode(), {'X-Id': one})
        self.send(client, f'{self.name}.k', b'no JSON', {'X-Id': 'c'})
        self.send(client, f'{self.name}.k', b'{"n": 9}', {'X-Id': 'd'})
        self.published[f'{self.name}.k'] = [0, 1, 9]
        self.came()
        self.until(lambda: len(self.parked()) == 1, 'nothing is parked')
        self.settled()
        self.assertEqual(len(self.parked()), 1)

    def test_killed(self):
        """kill -9 of Oxbow under load: what it had is sent again, in order."""
        self.make()
        done = threading.Event()

        def load():
            for first in range(0, 400, 4):
                self.publish(25, 4, first)
            done.set()
        self.start()
        thread = threading.Thread(target=load)
        thread.start()
        for at in (1000, 4000, 7000):
            self.until(lambda n=at: sum(map(len, self.events().values())) >= n, 'nothing comes')
            self.kill()
            self.start()
        thread.join()
        self.assertTrue(done.is_set())
        self.came()
        self.settled()

    def test_handed_to_a_dead_one(self):
        """New messages wait for those that a client which is gone did not acknowledge."""
        self.make()
        self.start()
        self.publish(3, 5)
        self.came()
        self.settled()
        self.kill()
        self.left()
        self.publish(3, 5, 5)
        self.pull(7)[0].close()
        self.publish(3, 5, 10)
        self.start()
        self.came()
        self.settled()
        self.assertEqual(self.consumer()['config']['ack_wait'], 30000000000)

    def test_server_restarted(self):
        self.make()
        self.start()
        self.publish(20, 20)
        self.server.restart()
        self.publish(20, 20, 20)
        self.came()
        self.server.restart()
        self.publish(20, 5, 40)
        self.came()
        self.settled()

    def test_cut(self):
        """Deliveries are lost on the way, and so are acknowledgements."""
        self.make()
        between = proxy.Proxy(self.server.port)
        self.addCleanup(between.close)
        self.settle(servers=[f'nats://127.0.0.1:{between.port}'], in_flight=50)
        self.start()
        for first in range(0, 60, 10):
            self.publish(20, 5, first)
            between.deaf = first % 20 == 0
            lost = between.lost
            self.publish(20, 5, first + 5)
            if between.deaf:
                self.until(lambda n=lost: between.lost > n, 'nothing is lost')
            between.cut()
            between.deaf = False
        self.came()
        self.settled()

    def test_consumer_deleted(self):
        self.make()
        self.start()
        self.publish(5, 20)
        self.came()
        self.client().api(f'CONSUMER.DELETE.{self.name}.oxbow-in')
        self.publish(5, 20, 20)
        self.came()
        self.settled()

    def test_consumer_ahead(self):
        """Somebody acknowledged what the log does not have: it is read all the same."""
        self.make()
        self.start()
        self.publish(2, 5)
        self.came()
        self.settled()
        self.stop()
        self.left()
        self.publish(2, 5, 5)
        client, answers = self.pull(10)
        for answer in answers:
            client.send(f'PUB {answer} 4\r\n', b'+ACK\r\n')
        self.settled()
        self.start()
        self.came()

    def test_stream_made_anew(self):
        self.make()
        self.start()
        self.complains_never_of('gap')
        self.publish(2, 5)
        self.came()
        self.client().api(f'STREAM.DELETE.{self.name}')
        self.complains('there is no')
        self.make()
        self.publish(2, 5, 5)
        self.assertIn('made anew', self.state('failed')['error'])
        self.oxbow('source', 'snapshot', 'in', '--gap')
        self.came()
        self.publish(2, 5, 10)
        self.came()

    def complains_never_of(self, text):
        self.until(lambda: self.show()['state'] == 'running', 'it does not run')
        self.assertNotIn(text, self.show()['error'] or '')

    def test_purged(self):
        """What was removed before it was read is a gap, with its numbers."""
        self.make()
        self.start()
        self.publish(1, 5)
        self.came()
        self.settled()
        self.stop()
        kept = list(self.published[f'{self.name}.k0'])
        self.publish(1, 5, 5)
        self.client().api(f'STREAM.PURGE.{self.name}')
        self.published[f'{self.name}.k0'] = kept
        self.publish(1, 5, 10)
        self.start()
        self.assertIn('messages 6 to 10', self.state('failed')['error'])
        self.oxbow('source', 'snapshot', 'in', '--gap')
        self.came()
        self.kill()
        self.start()
        self.complains_never_of('gap')

    def test_work_queue(self):
        """What is acknowledged leaves the stream."""
        self.make(retention='workqueue')
        self.start()
        self.publish(10, 20)
        self.came()
        self.until(lambda: self.client().count(self.name) == 0, 'the stream keeps messages')
        self.client().api(f'CONSUMER.DELETE.{self.name}.oxbow-in')
        self.publish(10, 20, 20)
        self.came()
        self.until(lambda: self.client().count(self.name) == 0, 'the stream keeps messages')

    def test_no_stream(self):
        self.start()
        self.complains('there is no')
        self.make()
        self.publish(2, 3)
        self.came()


if __name__ == '__main__':
    brokers.skip_without(brokers.Nats)
    unittest.main()
