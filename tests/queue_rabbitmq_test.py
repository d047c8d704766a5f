"""Queue first from a real RabbitMQ, in the built binary: order, kills, restarts, cuts, poison.
OXBOW names the binary, AMQP_PUBLISH the publisher of amqp_publish.c."""
import json
import os
import sqlite3
import subprocess
import unittest

import brokers
import outbox_test
import proxy

PUBLISH = os.environ.get('AMQP_PUBLISH', 'build/tests/amqp_publish')


class Rabbitmq(outbox_test.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        missing = brokers.Rabbitmq.missing()
        if missing:
            raise unittest.SkipTest(missing)
        cls.server = brokers.Rabbitmq()
        cls.addClassCleanup(cls.server.end)
        cls.server.start()

    def setUp(self):
        super().setUp()
        self.server.exchange(self.name)
        self.server.queue(self.name, self.name, **{'x-queue-type': 'quorum'})

    def source(self, **more):
        return {'type': 'rabbitmq', 'url': self.server.url, 'queue': self.name,
                'stream': 'order-{key}', **more}

    def publish(self, lines, kind=None):
        done = subprocess.run([PUBLISH, str(self.server.port), self.name, *([kind] if kind else [])],
                              input=''.join('\t'.join(line) + '\n' for line in lines).encode(),
                              capture_output=True, timeout=outbox_test.PATIENCE, check=False)
        self.assertEqual(done.stdout, b'done\n', done.stderr)

    def numbers(self, first, count, keys=7):
        return [(f'k{n % keys}', f'id-{n}', json.dumps({'n': n})) for n in range(first, first + count)]

    def empty(self):
        """Nothing is ready and nothing is out: the broker has all acknowledgements."""
        queue = self.server.api('GET', f'queues/%2F/{self.name}?disable_stats=true&enable_queue_totals=true')
        return queue.get('messages', 0) == 0

    def check_all(self, relay, count, keys=7):
        """Each number once, of each key in order."""
        last, found = {}, []
        for event in relay.events('$all', '--prefix', 'order-'):
            n = event['data']['n']
            self.assertEqual(event['stream'], f'order-k{n % keys}')
            self.assertLess(last.get(event['stream'], -1), n)
            last[event['stream']] = n
            found.append(n)
        self.assertEqual(len(found), len(set(found)))
        self.assertEqual(sorted(found), list(range(count)))

    def test_messages(self):
        relay = self.relay(self.source())
        self.assertIn('queue is there', relay.command('source', 'check', self.name))
        self.publish(self.numbers(0, 500), 'Placed')
        relay.serve()
        relay.until(lambda s: s['appended'] == 500, 'taken')
        self.check_all(relay, 500)
        event = relay.events('order-k1')[0]
        self.assertEqual((event['type'], event['data']), ('Placed', {'n': 1}))
        source = event['metadata']['$source']
        self.assertEqual((source['name'], source['queue'], source['key'], source['id']),
                         (self.name, self.name, 'k1', 'id-1'))
        # Published again: known, and gone from the queue all the same.
        self.publish(self.numbers(0, 200) + self.numbers(500, 100))
        shown = relay.until(lambda s: s['changes'] == 800, 'taken')
        self.assertEqual((shown['appended'], shown['duplicates'], shown['parked']), (600, 200, 0))
        brokers.until(self.empty, 'all is acknowledged')
        self.check_all(relay, 600)
        metrics = relay.get('/metrics')
        self.assertIn(f'oxbow_queue_duplicates_total{{source="{self.name}"}} 200', metrics)
        relay.until(lambda s: s['state'] == 'running', 'running')
        self.assertIn(f'oxbow_queue_running{{source="{self.name}"}} 1', relay.get('/metrics'))

    def test_killed(self):
        relay = self.relay(self.source(prefetch=400, batch=100)).serve()
        for round_ in range(5):
            load = subprocess.Popen([PUBLISH, str(self.server.port), self.name],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.addCleanup(load.kill)
            lines = self.numbers(round_ * 3000, 3000)
            load.stdin.write(''.join('\t'.join(x) + '\n' for x in lines).encode())
            load.stdin.close()
            # While it consumes: some of it is durable, some acknowledged, some neither.
            relay.until(lambda s: s['changes'] >= 300 + 200 * round_, 'consuming')
            relay.kill()
            self.assertEqual(load.stdout.read(), b'done\n')
            load.stdout.close()
            load.wait()
            relay.serve()
        relay.wait_events(15000, '$all', '--prefix', 'order-')
        brokers.until(self.empty, 'all is acknowledged')
        self.check_all(relay, 15000)

    def test_broker_restarted(self):
        relay = self.relay(self.source()).serve()
        self.publish(self.numbers(0, 300))
        relay.until(lambda s: s['appended'] == 300, 'taken')
        self.server.restart()
        self.publish(self.numbers(200, 400))
        relay.until(lambda s: s['appended'] == 600 and s['state'] == 'running', 'taken')
        brokers.until(self.empty, 'all is acknowledged')
        self.check_all(relay, 600)

    def test_connection_cut(self):
        cut = proxy.Proxy(self.server.port)
        self.addCleanup(cut.close)
        relay = self.relay(self.source(url=f'amqp://127.0.0.1:{cut.port}', prefetch=100)).serve()
        for round_ in range(4):
            self.publish(self.numbers(round_ * 500, 500))
            relay.until(lambda s: s['appended'] > round_ * 500, 'consuming')
            cut.cut()
        relay.until(lambda s: s['appended'] == 2000, 'taken')
        brokers.until(self.empty, 'all is acknowledged')
        self.check_all(relay, 2000)

    def test_poison(self):
        relay = self.relay(self.source(payload='json')).serve()
        self.publish(self.numbers(0, 10) + [('k0', 'bad', 'no JSON'), ('k' * 252, 'name', '{}')] +
                     self.numbers(10, 10))
        shown = relay.until(lambda s: s['changes'] == 22 and s['state'] == 'running', 'taken')
        self.assertEqual((shown['appended'], shown['parked']), (20, 2))
        at = ['--server', f'http://127.0.0.1:{relay.port}']
        listed = [json.loads(x) for x in self.oxbow('source', 'parked', 'list', self.name, *at).splitlines()]
        self.assertEqual([(x['version'], x['id']) for x in listed], [(0, 'bad'), (1, 'name')])
        self.assertIn('no JSON', listed[0]['reason'])
        shown = json.loads(self.oxbow('source', 'parked', 'show', self.name, '0', *at))
        self.assertEqual(shown['body'], 'no JSON')
        # The settings are changed, and the configuration read again: one of them is an event now.
        relay.kill()
        relay.configure(self.source(payload='auto'))
        relay.serve()
        relay.until(lambda s: s['state'] == 'running', 'running')
        at = ['--server', f'http://127.0.0.1:{relay.port}']
        self.assertIn('1 done, 1 stay', self.oxbow('source', 'parked', 'replay', self.name, *at))
        self.assertIn('1 done, 0 stay', self.oxbow('source', 'parked', 'drop', self.name, 'all', *at))
        self.assertEqual(self.oxbow('source', 'parked', 'list', self.name, *at), '')
        self.assertEqual([e['id'] for e in relay.events('order-k0')][-1:],
                         [e['id'] for e in relay.events('$parked-' + f'source-{self.name}')][:1])
        self.check_all_but_poison(relay)

    def check_all_but_poison(self, relay):
        found = [e['data']['n'] for e in relay.events('$all', '--prefix', 'order-') if 'data' in e]
        self.assertEqual(sorted(found), list(range(20)))

    def oxbow(self, *args):
        done = subprocess.run([outbox_test.OXBOW, *args], capture_output=True,
                              timeout=outbox_test.PATIENCE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode()

    def test_queue_deleted(self):
        relay = self.relay(self.source()).serve()
        self.publish(self.numbers(0, 20))
        relay.until(lambda s: s['appended'] == 20, 'taken')
        self.server.drop('queues', self.name)
        relay.until(lambda s: s['state'] == 'retrying' and 'no queue' in s['error'], 'retrying')
        self.server.queue(self.name, self.name, **{'x-queue-type': 'quorum'})
        self.publish(self.numbers(20, 20))
        relay.until(lambda s: s['appended'] == 40 and s['state'] == 'running', 'taken')
        self.check_all(relay, 40)

    def test_commands(self):
        self.server.drop('queues', self.name)
        relay = self.relay(self.source())
        self.assertIn('would be declared', relay.command('source', 'prepare', '--dry-run', self.name))
        relay.command('source', 'prepare', self.name)
        self.server.queue(self.name, self.name)
        relay.serve()
        at = ['--server', f'http://127.0.0.1:{relay.port}']
        self.oxbow('source', 'pause', self.name, *at)
        relay.until(lambda s: s['state'] == 'paused', 'paused')
        self.publish(self.numbers(0, 30))
        self.oxbow('source', 'resume', self.name, *at)
        relay.until(lambda s: s['appended'] == 30, 'taken')
        self.oxbow('source', 'drop', self.name, *at)
        relay.until(lambda s: s['state'] == 'dropped', 'dropped')
        self.assertIn(self.name, self.oxbow('source', 'list', *at))
        self.check_all(relay, 30)

    def test_verify_after_publish(self):
        """Messages come by the queue before their transactions end: a proof decides of them."""
        path = os.path.join(self.top, self.name + '.db')
        sql = outbox_test.outbox_sql('sqlite')
        with sqlite3.connect(path, timeout=outbox_test.PATIENCE) as db:
            db.executescript('PRAGMA journal_mode = wal;' + sql)
        relay = self.relay(self.source(verify='shop'))
        with open(relay.conf, encoding='utf-8') as f:
            conf = json.load(f)
        conf['sources']['shop'] = {'type': 'verify-sqlite', 'path': path, 'deadline': '1s',
                                   'absent': 'discard'}
        with open(relay.conf, 'w', encoding='utf-8') as f:
            json.dump(conf, f)
        relay.serve()
        with sqlite3.connect(path, timeout=outbox_test.PATIENCE) as db:
            db.execute("INSERT INTO oxbow_proof (id) VALUES ('yes')")
        db.close()
        for ident in ('yes', 'no', 'yes'):
            self.publish([('k', ident, json.dumps({'id': ident, 'stream': 'order-' + ident,
                                                   'type': 'Paid', 'data': {'n': 1}}))])
        verdicts = [e['data']['verdict'] for e in relay.wait_events(2, '$verified-shop')]
        self.assertEqual(verdicts, ['released', 'discarded'])
        shown = relay.until(lambda s: s['changes'] == 3, 'taken')
        self.assertEqual(shown['duplicates'], 1)
        self.assertEqual([e['data'] for e in relay.events('order-yes')], [{'n': 1}])
        self.assertEqual(relay.events('order-no'), [])


if __name__ == '__main__':
    unittest.main()
