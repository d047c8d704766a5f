"""Messages that are published before their transactions end, against real servers: released,
discarded or parked, whatever becomes of the transaction and the server. OXBOW names the binary."""
import http.server
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request
import uuid

import mariadb_server
import outbox_test
import servers


class Case(outbox_test.Case):
    def serve(self, source):
        self.relay_ = self.relay(source)
        return self.relay_.serve()

    def post(self, relay, *messages, status=202):
        request = urllib.request.Request(
            f'http://127.0.0.1:{relay.port}/v1/sources/{self.name}/unverified',
            json.dumps(list(messages)).encode(), {'Content-Type': 'application/json'}, method='POST')
        try:
            with urllib.request.urlopen(request) as answer:
                self.assertEqual(answer.status, status)
                return json.load(answer)
        except urllib.error.HTTPError as e:
            body = e.read().decode()
            self.assertEqual(e.code, status, body)
            return json.loads(body)

    def message(self, ident, stream, token=None, **more):
        return {'id': ident, 'stream': stream, 'type': 'Done', 'data': {'of': stream},
                'metadata': {'traceparent': '00-x'}, **({'token': token} if token else {}), **more}

    def decided(self, relay, count):
        """Verdicts by id, once there are so many."""
        return {e['data']['id']: e['data'] for e in
                relay.wait_events(count, f'$verified-{self.name}')}

    def undecided(self, relay, count):
        relay.until(lambda s: s['unverified'] == count and s['running'] == count, 'running')


class Postgres(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        try:
            cls.pg = servers.Postgres(os.path.join(cls.top, 'pg')).start()
        except servers.Missing as e:
            raise unittest.SkipTest(f'{e} is not installed') from e
        cls.addClassCleanup(cls.pg.end)

    def setUp(self):
        super().setUp()
        self.pg.psql("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO public;"
                     + outbox_test.outbox_sql('postgres') +
                     "CREATE TABLE orders (id int PRIMARY KEY, v int); INSERT INTO orders VALUES (1, 0);"
                     "DROP ROLE IF EXISTS app; CREATE ROLE app LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO app")

    def source(self, **more):
        # Neither the application nor Oxbow is a superuser.
        return {'type': 'verify-postgres', 'connection': self.pg.connection(user='app'), **more}

    def session(self):
        s = subprocess.Popen([self.pg.bin + '/psql', '-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1', '-d',
                              self.pg.connection(user='app')], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addCleanup(s.communicate)
        self.addCleanup(s.kill)
        return s

    def say(self, session, sql):
        session.stdin.write(sql.encode() + b'\n')
        session.stdin.flush()

    def ask(self, session, sql):
        self.say(session, sql)
        return session.stdout.readline().decode().strip()

    def begin(self, session, ident, more=''):
        return self.ask(session, f"BEGIN; {more} SELECT oxbow_token('{ident}');")

    def test_verdicts(self):
        relay = self.serve(self.source())
        ids = [str(uuid.uuid4()) for _ in range(4)]
        a, b, c = self.session(), self.session(), self.session()
        # An update, a rollback, a savepoint that was rolled back, and a second publication.
        first = self.message(ids[0], 'order-1', self.begin(a, ids[0], 'UPDATE orders SET v = 1;'))
        second = self.message(ids[1], 'order-2', self.begin(b, ids[1]))
        third = self.message(ids[2], 'order-3', self.begin(c, ids[2], 'SAVEPOINT s;'))
        self.post(relay, first, second)
        self.post(relay, third)
        self.undecided(relay, 3)
        self.say(c, 'ROLLBACK TO s; COMMIT;')
        self.say(b, 'ROLLBACK;')
        self.assertEqual(self.decided(relay, 2)[ids[1]]['verdict'], 'discarded')
        self.undecided(relay, 1)
        self.assertEqual(relay.events('order-1'), [])
        self.say(a, 'COMMIT;')
        verdicts = self.decided(relay, 3)
        self.assertEqual([verdicts[i]['verdict'] for i in ids[:3]], ['released', 'discarded', 'discarded'])
        event, = relay.events('order-1')
        self.assertEqual((event['id'], event['type'], event['data'], event['metadata']['traceparent']),
                         (ids[0], 'Done', {'of': 'order-1'}, '00-x'))
        self.assertNotIn('$verify', event['metadata'])
        # Published again, by itself and, by some mistake, among others.
        self.post(relay, first)
        self.post(relay, second, dict(first, id=str(uuid.uuid4())), status=409)
        shown = relay.until(lambda s: s['unverified'] == 0, 'none left')
        self.assertEqual(len(relay.events('order-1')), 1)
        self.assertEqual((shown['released'], shown['discarded'], shown['parked']), (1, 2, 0))
        self.assertIn(f'oxbow_source_released_total{{source="{self.name}"}} 1', relay.get('/metrics'))
        self.assertEqual(self.pg.psql('SELECT count(*) FROM oxbow_proof'), '0\n')

    def test_order_within_a_stream(self):
        relay = self.serve(self.source())
        ids = [str(uuid.uuid4()) for _ in range(3)]
        slow, fast = self.session(), self.session()
        self.post(relay, self.message(ids[0], 'order-1', self.begin(slow, ids[0])))
        for n in (1, 2):
            token = self.begin(fast, ids[n])
            self.post(relay, self.message(ids[n], f'order-{n}', token))
            self.assertEqual(self.ask(fast, 'COMMIT; SELECT 7;'), '7')
        # Another stream's goes ahead; the one behind an undecided one waits.
        self.decided(relay, 1)
        self.assertEqual([e['id'] for e in relay.events('order-2')], [ids[2]])
        self.assertEqual(relay.events('order-1'), [])
        self.say(slow, 'COMMIT;')
        self.decided(relay, 3)
        self.assertEqual([e['id'] for e in relay.events('order-1')], ids[:2])

    def test_reused_transaction_ids(self):
        """Processes of its own are killed: the server recovers, gives the same ids out again, and says
        "committed" of transactions that are lost."""
        relay = self.serve(self.source())
        lost, kept, prepared = (str(uuid.uuid4()) for _ in range(3))
        s, p = self.session(), self.session()
        token = self.begin(p, prepared)
        prepared_token = token
        self.assertEqual(self.ask(p, "PREPARE TRANSACTION 'p'; SELECT 7;"), '7')
        token = self.begin(s, kept)
        self.post(relay, self.message(kept, 'order-2', token))
        self.assertEqual(self.ask(s, 'COMMIT; SELECT 7;'), '7')
        self.decided(relay, 1)
        relay.until(lambda shown: shown['unverified'] == 0, 'its proof is taken away')
        self.pg.psql('CHECKPOINT')
        # Nobody flushes what the transaction wrote: or its id is not given out again.
        flushers = [int(pid) for pid in self.pg.psql(
            "SELECT pid FROM pg_stat_activity WHERE backend_type IN ('background writer', 'walwriter')"
        ).split()]
        self.assertEqual(len(flushers), 2)
        for pid in flushers:
            os.kill(pid, signal.SIGSTOP)
        token = self.begin(s, lost)
        self.post(relay, self.message(lost, 'order-1', token), self.message(prepared, 'order-3', prepared_token))
        self.undecided(relay, 2)
        started = self.pg.psql('SELECT pg_postmaster_start_time()')
        relay.kill()
        for pid in flushers:
            os.kill(pid, signal.SIGKILL)
        while self.ask(s, 'SELECT 7;') == '7':
            pass  # until the server has noticed
        xid = token.split('/')[2]
        end = time.monotonic() + outbox_test.PATIENCE
        while True:
            # Others write until the id has come round again and its transaction has committed.
            said = self.pg.psql(f"UPDATE orders SET v = v + 1; SELECT pg_xact_status('{xid}'::xid8)",
                                check=False)
            if said == 'committed\n':
                break
            self.assertLess(time.monotonic(), end, said)
            time.sleep(0.01)
        self.assertEqual(self.pg.psql('SELECT pg_postmaster_start_time()'), started)
        relay.serve()
        verdicts = self.decided(relay, 2)
        self.assertEqual((verdicts[lost]['verdict'], verdicts[lost]['by']), ('discarded', 'proof'))
        self.assertEqual(relay.events('order-1'), [])
        # A prepared one outlives the server.
        self.undecided(relay, 1)
        self.pg.psql("COMMIT PREPARED 'p'")
        self.assertEqual(self.decided(relay, 3)[prepared]['verdict'], 'released')

    def test_parked(self):
        relay = self.serve(self.source(deadline='50ms'))
        tokens = [None, '1/2/3', 'nonsense']
        ids = [str(uuid.uuid4()) for _ in tokens]
        self.post(relay, *(self.message(i, 'a-1', t) for i, t in zip(ids, tokens)))
        verdicts = self.decided(relay, 3)
        self.assertEqual([verdicts[i]['verdict'] for i in ids], ['parked'] * 3)
        self.assertIn('another server', verdicts[ids[1]]['reason'])
        self.assertEqual(len(relay.events(f'$parked-source-{self.name}')), 3)
        self.assertIn('"type"', self.post(relay, {'id': 'x', 'stream': 'a'}, status=400)['message'])
        self.assertIn('$all', self.post(relay, self.message('x', '$all'), status=400)['message'])

    def test_server_gone_and_relay_killed(self):
        relay = self.serve(self.source(window=5))
        self.pg.stop()
        ids = [str(uuid.uuid4()) for _ in range(20)]
        self.post(relay, *(self.message(i, f'a-{n % 3}') for n, i in enumerate(ids)))
        relay.until(lambda s: s['state'] == 'retrying', 'retrying')
        relay.kill()
        self.pg.start()
        self.pg.psql(''.join(f"INSERT INTO oxbow_proof (id) VALUES ('{i}');" for i in ids))
        relay.serve()
        self.decided(relay, 20)
        self.same_ids(relay.events(), ids)

    def test_query(self):
        relay = self.serve(self.source(query='SELECT FROM orders WHERE id = {data.n} AND v >= {data.v}',
                                       deadline='1h'))
        ids = [str(uuid.uuid4()) for _ in range(2)]
        self.post(relay, *(self.message(i, f'o-{n}', data={'n': 1, 'v': n + 1}) for n, i in enumerate(ids)))
        self.pg.psql('UPDATE orders SET v = 1')
        self.assertEqual(list(self.decided(relay, 1)), ids[:1])
        self.pg.psql('UPDATE orders SET v = 2')
        self.decided(relay, 2)
        self.same_ids(relay.events(), ids)

    def test_stream_of_the_users(self):
        """Messages that any client appends to a stream."""
        relay = self.serve(self.source(stream='incoming'))
        ident = str(uuid.uuid4())
        s = self.session()
        token = self.begin(s, ident)
        subprocess.run([outbox_test.OXBOW, 'append', 'incoming', '--server', f'http://127.0.0.1:{relay.port}'],
                       input=json.dumps({'id': ident, 'type': 'T', 'data': 1, 'metadata': {
                           '$verify': {'stream': 'a-1', 'token': token}}}).encode() + b'\n' +
                       json.dumps({'type': 'T', 'data': 1}).encode(), check=True, capture_output=True)
        self.say(s, 'COMMIT;')
        verdicts = self.decided(relay, 2)
        self.assertEqual(verdicts[ident]['verdict'], 'released')
        self.assertEqual(sorted(v['verdict'] for v in verdicts.values()), ['parked', 'released'])
        self.same_ids(relay.events('a-1'), [ident])


class Mariadb(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not mariadb_server.installed():
            raise unittest.SkipTest('mariadb is not installed')
        folder = os.path.join(cls.top, 'my')
        os.makedirs(folder)
        cls.my = mariadb_server.Server(folder).start()
        cls.addClassCleanup(cls.my.kill)

    def test_locking_probe(self):
        self.my.sql('CREATE DATABASE shop')
        self.my.sql(outbox_test.outbox_sql('mariadb'), 'shop')
        relay = self.serve({'type': 'verify-mariadb', 'socket': self.my.socket, 'user': 'root',
                            'database': 'shop'})
        sessions, ids = [], [str(uuid.uuid4()) for _ in range(3)]
        for ident in ids:
            s = subprocess.Popen(['mariadb', '--no-defaults', '-u', 'root', '-S', self.my.socket, '-N', '-n',
                                  '-B', 'shop'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.my.env)
            self.addCleanup(s.stdout.close)
            s.stdin.write(f"BEGIN; INSERT INTO oxbow_proof (id) VALUES ('{ident}'); SELECT 7;\n".encode())
            s.stdin.flush()
            self.assertEqual(s.stdout.readline(), b'7\n')
            sessions.append(s)
        self.post(relay, *(self.message(i, f'o-{n}') for n, i in enumerate(ids)))
        self.undecided(relay, 3)
        sessions[0].communicate(b'COMMIT;\n')
        sessions[1].communicate(b'ROLLBACK;\n')
        verdicts = self.decided(relay, 2)
        self.assertEqual([verdicts[i]['verdict'] for i in ids[:2]], ['released', 'discarded'])
        self.undecided(relay, 1)
        self.my.kill()
        sessions[2].communicate()
        self.my.start()
        self.assertEqual(self.decided(relay, 3)[ids[2]]['verdict'], 'discarded')
        self.same_ids(relay.events(), ids[:1])


class Sqlite(Case):
    def test_one_writer(self):
        path = os.path.join(self.top, 'shop.db')
        db = sqlite3.connect(path, timeout=outbox_test.PATIENCE, isolation_level=None)
        self.addCleanup(db.close)
        db.executescript('PRAGMA journal_mode = wal;' + outbox_test.outbox_sql('sqlite'))
        relay = self.serve({'type': 'verify-sqlite', 'path': path})
        ids = [str(uuid.uuid4()) for _ in range(2)]
        for ident, end in zip(ids, ('COMMIT', 'ROLLBACK')):
            db.execute('BEGIN IMMEDIATE')
            db.execute('INSERT INTO oxbow_proof (id) VALUES (?)', (ident,))
            self.post(relay, self.message(ident, 'o-1'))
            self.undecided(relay, 1)
            db.execute(end)
            self.decided(relay, ids.index(ident) + 1)
        self.same_ids(relay.events(), ids[:1])


class Http(Case):
    def test_lookup(self):
        there = set()

        class Service(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if self.path.rsplit('/', 1)[1] in there else 404)
                self.send_header('Content-Length', '0')
                self.end_headers()

            def log_message(self, *args):
                pass

        service = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Service)
        threading.Thread(target=service.serve_forever, daemon=True).start()
        self.addCleanup(service.server_close)
        self.addCleanup(service.shutdown)
        relay = self.serve({'type': 'verify-http', 'url': f'http://127.0.0.1:{service.server_port}',
                            'lookup': '/orders/{data.n}', 'deadline': '1s', 'absent': 'discard'})
        ids = [str(uuid.uuid4()) for _ in range(2)]
        there.add('1')
        self.post(relay, *(self.message(i, f'o-{n}', data={'n': n + 1}) for n, i in enumerate(ids)))
        verdicts = self.decided(relay, 2)
        self.assertEqual([verdicts[i]['verdict'] for i in ids], ['released', 'discarded'])
        self.same_ids(relay.events(), ids[:1])


if __name__ == '__main__':
    unittest.main(verbosity=2, argv=[sys.argv[0], *sys.argv[1:]])
