"""The sink postgres against a real server: rows and checkpoint together, through kill -9 on either
side. What came is in the table, and how often it was applied is counted there by a trigger."""
import json
import socket
import subprocess
import threading
import unittest

import brokers
from sink_case import Seen, SinkCase


class PostgresSink(SinkCase):
    @classmethod
    def setUpClass(cls):
        cls.server = brokers.Postgres()
        cls.addClassCleanup(cls.server.end)
        cls.server.start()

    def setUp(self):
        super().setUp()
        self.sql('DROP SCHEMA IF EXISTS public CASCADE', 'CREATE SCHEMA public')

    def sql(self, *statements):
        return [row for s in statements for row in self.server.sql(s)][:100000]

    def configure_with(self, **more):
        self.configure(f'    type: postgres\n    url: {self.server.url}\n' +
                       ''.join(f'    {k}: {v}\n' for k, v in more.items()))

    def seen(self):
        return [Seen(stream, int(version), id) for stream, version, id in
                self.sql('SELECT stream, version, id FROM events ORDER BY position')]

    def count(self):
        return int(self.sql('SELECT count(*) FROM events')[0][0])

    def append_conf(self):
        # Without a key, so that what came twice is there twice.
        self.sql('CREATE TABLE events(position bigint, id uuid, stream text, version bigint, '
                 'type text, created timestamptz, data jsonb, meta jsonb)')
        self.configure_with(table='events', mode='append')

    def pause(self):
        """So that what is appended then goes in one transaction."""
        self.until(lambda: self.show()['state'] == 'running', 'it does not run')
        self.oxbow('sink', 'pause', 'out')
        self.until(lambda: self.show()['state'] == 'paused', 'it does not pause')

    def test_killed(self):
        self.append_conf()
        self.start()
        for at in (500, 1500):
            self.fill(30, 40)
            self.until(lambda n=at: self.count() >= n, 'nothing comes')
            self.kill()
            self.start()
        self.delivered()
        self.came(self.seen(), doubles=False)

    def test_server_killed(self):
        self.append_conf()
        self.start()
        self.fill(30, 40)
        self.until(lambda: self.count() >= 500, 'nothing comes')
        self.server.restart()
        self.fill(30, 40)
        self.delivered()
        self.came(self.seen(), doubles=False)
        self.assertEqual(self.show()['parked'], 0)

    def test_upsert(self):
        """Every type as the column has it; only the fields that an event has."""
        self.sql('CREATE TABLE t(id int PRIMARY KEY, n numeric, f float8, b boolean, j jsonb, '
                 "at timestamptz, u uuid, a int[], s text DEFAULT 'kept')")
        self.configure_with(table='public.t', key='id')
        self.start()
        self.append('order-1', data={'n': 1, 's': 'x'})
        self.append('order-2', data={'n': 5})
        conn = self.ask('POST', '/v1/streams/order-1', [{'type': 'Updated', 'data': {
            'n': 12345678901234567890.0, 'f': 0.5, 'b': True, 'j': {'a': [1, None]},
            'at': '2026-11-30T01:02:03Z', 'u': '0af76519-16cd-43dd-8448-eb211c80319c',
            'a': [1, 2]}}])
        self.end_of_log = conn['position']
        self.delivered()
        row, = self.sql("SELECT s, f, b, j->'a'->>0, a[2], extract(year from at)::int, "
                        'u IS NOT NULL FROM t WHERE id = 1')
        self.assertEqual(row, ['x', '0.5', 't', '1', '2', '2026', 't'])
        self.assertEqual(self.sql('SELECT s FROM t WHERE id = 2'), [['kept']])
        self.ask('POST', '/v1/streams/order-1', [{'type': 'Deleted', 'data': {}}])
        self.until(lambda: self.sql('SELECT id FROM t') == [['2']], 'not deleted')

    def test_create(self):
        self.configure_with(table='made', create='true', columns='{amount: data.total, who: by}')
        self.start()
        self.append('order-a"b', data={'data': {'total': 1.50}, 'by': 'Zoë'})
        self.delivered()
        self.assertEqual(self.sql('SELECT key, amount, who FROM made'), [['a"b', '1.5', 'Zoë']])

    def test_refused(self):
        """A constraint parks its event; the others of the transaction arrive, once."""
        self.sql('CREATE TABLE t(key text PRIMARY KEY, n int CHECK (n <> 7))')
        self.configure_with(table='t')
        self.start()
        for i in range(20):
            self.append(f'order-{i}', data={'n': i})
        self.append('order-x', data={'n': 'no number'})
        self.append('order-y', data={'other': 1})
        self.delivered()
        self.assertEqual(self.show()['parked'], 3)
        self.assertEqual(self.sql('SELECT count(*), count(*) FILTER (WHERE n = 7) FROM t'),
                         [['19', '0']])
        reasons = [json.loads(line)['data']['reason'] for line in
                   self.oxbow('read', '$parked-sink-out', '--json').splitlines()]
        self.assertEqual(len(reasons), 3)
        self.assertTrue(any('t_n_check' in r for r in reasons), reasons)

    def test_refused_among_many(self):
        """Several statements in a transaction, the refused row in none of the first; keys come again."""
        self.sql('CREATE TABLE t(key text PRIMARY KEY, n int CHECK (n <> 7777))')
        self.configure_with(table='t')
        self.start()
        self.pause()
        for part in range(3):
            self.ask('POST', '/v1/commits', {'appends': [
                {'stream': f'order-{(part * 900 + i) % 2000}',
                 'events': [{'type': 'Updated', 'data': {'n': part * 900 + i}}]} for i in range(900)]})
        self.append('order-x', data={'n': 7777})
        for _ in range(2):
            self.append('order-y', data={'n': 1})
            self.append('order-y', type='Deleted')
        self.append('order-z', 5)
        self.oxbow('sink', 'resume', 'out')
        self.delivered()
        self.assertEqual(self.show()['parked'], 1)
        self.assertEqual(self.sql("SELECT count(*), min(n), max(n) FROM t WHERE key <> 'z'"),
                         [['2000', '700', '2699']])
        self.assertEqual(self.sql("SELECT n FROM t WHERE key = 'z'"), [['4']])

    def test_as_json(self):
        """A value becomes the same beside an array, where the row goes as JSON; or is refused alike."""
        self.sql("CREATE TYPE mood AS ENUM ('sad', 'glad')", 'CREATE DOMAIN few AS int CHECK (VALUE < 5)',
                 'CREATE TABLE t(key text PRIMARY KEY, list int[], s text, v varchar(3), c char(3), '
                 'n numeric(6,2), i int, f float8, b bool, j jsonb, k json, m mood, d few, at '
                 'timestamptz(0), day date, raw bytea, u uuid)')
        self.configure_with(table='t')
        self.start()
        values = [('s', 'a\\b"c\n{},NULL'), ('s', ''), ('s', None), ('s', 12.50), ('s', True), ('s', 'Zoë'),
                  ('s', {'a': [1, 'x']}), ('s', 'zero\0'), ('s', 'no \\u0000'), ('v', 'abc'), ('v', 'abc '),
                  ('v', 'abcd'), ('c', 'a'), ('c', 'abcd'), ('n', 1234.567), ('n', 12345.6), ('n', '7'),
                  ('i', 5), ('i', '5'), ('i', 5.5), ('i', ''), ('i', 1e20), ('f', 0.1), ('b', 'yes'),
                  ('b', 1), ('b', 2), ('j', 'text'), ('j', {'b': 1, 'a': None}), ('j', 'zero\0'), ('j', None),
                  ('k', {'b': 1, 'a': 2}), ('m', 'glad'), ('m', 'mad'), ('d', 4), ('d', 5),
                  ('at', '2026-11-30T01:02:03.7Z'), ('at', 'once'), ('day', '2026-11-30'),
                  ('raw', '\\x00ff'), ('u', '0af76519-16cd-43dd-8448-eb211c80319c'), ('u', 7)]
        self.pause()
        for i, (column, value) in enumerate(values):
            self.append(f'order-{i}', data={column: value})
            self.append(f'order-{i}j', data={column: value, 'list': [1]})
        self.oxbow('sink', 'resume', 'out')
        self.delivered()
        self.assertEqual(self.sql("SELECT x.key, y.key FROM (SELECT key || 'j' AS key, to_jsonb(t) - 'key' - 'list' "
                                  "AS row FROM t WHERE list IS NULL) x FULL JOIN (SELECT key, to_jsonb(t) - 'key' "
                                  "- 'list' AS row FROM t WHERE list IS NOT NULL) y ON x.key = y.key WHERE "
                                  "x.row IS DISTINCT FROM y.row"), [])
        self.assertEqual(self.sql("SELECT s FROM t WHERE key IN ('0', '5') ORDER BY key"),
                         [['a\\b"c'], ['{},NULL'], ['Zoë']])
        refused = int(self.sql('SELECT count(*) FROM t')[0][0])
        self.assertEqual(self.show()['parked'], 2 * len(values) - refused)

    def test_table_missing(self):
        self.configure_with(table='late')
        self.start()
        self.append('order-1', data={'n': 1})
        self.complains('missing')
        self.sql('CREATE TABLE late(key text PRIMARY KEY, n int)')
        self.delivered()
        self.sql('ALTER TABLE late DROP COLUMN n')
        self.sql('ALTER TABLE late ADD COLUMN n int')
        self.append('order-2', data={'n': 2})
        self.delivered()
        self.assertEqual(self.sql('SELECT n FROM late WHERE key = $$2$$'), [['2']])

    def test_schema_missing(self):
        self.configure_with(table='far.t')
        self.start()
        self.append('order-1', data={'n': 1})
        self.complains('a schema, table or column is missing')
        self.sql('CREATE SCHEMA far', 'CREATE TABLE far.t(key text PRIMARY KEY, n int)')
        self.addCleanup(self.sql, 'DROP SCHEMA far CASCADE')
        self.delivered()
        self.assertEqual(self.sql('SELECT n FROM far.t'), [['1']])
        self.assertEqual(self.show()['parked'], 0)

    def test_silent(self):
        """A server that takes the connection and says nothing keeps nobody else waiting; an order is
        taken, and said not to be durable."""
        with socket.create_server(('127.0.0.1', 0)) as silent:
            self.configure('    type: postgres\n    table: t\n    connect_timeout: 60s\n'
                           f'    url: postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x\n')
            self.start()
            silent.accept()[0].close()
            kept = silent.accept()[0]  # its second attempt
            self.addCleanup(kept.close)
            said = []
            order = threading.Thread(
                target=lambda: said.append(self.oxbow('sink', 'pause', 'out')))
            order.start()
            self.append('order-1')
            self.assertEqual(self.show()['delivered'], 0)
            order.join()
            self.assertIn('not durable', said[0])

    def test_locked(self):
        """A row that somebody else has is waited for, and then taken once."""
        self.sql('CREATE TABLE t(key text PRIMARY KEY, n int)', "INSERT INTO t VALUES ('1', 0)")
        self.configure_with(table='t', timeout='200ms')
        self.start()
        with self.server.session("BEGIN; SELECT * FROM t WHERE key = '1' FOR UPDATE;"):
            self.append('order-1', data={'n': 1})
            self.append('order-2', data={'n': 2})
            self.complains('PostgreSQL')
        self.delivered()
        self.assertEqual(self.sql('SELECT key, n FROM t ORDER BY key'), [['1', '1'], ['2', '2']])
        self.assertEqual(self.show()['parked'], 0)

    def test_deadlock(self):
        """Another transaction holds what this one wants, and wants what it holds."""
        self.sql('CREATE TABLE t(key text PRIMARY KEY, n int)',
                 "INSERT INTO t VALUES ('1', 0), ('2', 0)")
        self.configure_with(table='t', timeout='5s')
        self.start()
        other = subprocess.Popen(['psql', '-X', '-q', '-t', '-A', self.server.url], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL)
        self.addCleanup(other.stdout.close)
        other.stdin.write("SET deadlock_timeout = '10min'; BEGIN; UPDATE t SET n = -1 WHERE key = '2';"
                          " SELECT 'held';\n")
        other.stdin.flush()
        self.assertEqual(other.stdout.readline(), 'held\n')
        # One transaction: it has 1, and waits for 2.
        self.pause()
        self.append('order-1', data={'n': 1})
        self.append('order-2', data={'n': 2})
        self.oxbow('sink', 'resume', 'out')
        self.until(lambda: self.sql('SELECT count(*) FROM pg_locks WHERE NOT granted') == [['1']],
                   'nobody waits')
        other.communicate("UPDATE t SET n = -1 WHERE key = '1'; COMMIT;\n")
        self.delivered()
        self.assertEqual(self.sql('SELECT key, n FROM t ORDER BY key'), [['1', '1'], ['2', '2']])
        self.assertEqual(self.show()['parked'], 0)


if __name__ == '__main__':
    brokers.skip_without(brokers.Postgres)
    unittest.main(verbosity=2)
