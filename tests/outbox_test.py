"""Outboxes in the built binary, against real servers: from the write-ahead log, the binary log, a
change table, and polled. OXBOW names the binary, KILL_AT_SYNC the library of kill_at_sync.c."""
import contextlib
import http.client
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
import uuid

import mariadb_server
import servers

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
KILLER = os.environ.get('KILL_AT_SYNC', '')
PATIENCE = 120


class Relay:
    """One `oxbow serve` with one source and a data folder of its own."""

    def __init__(self, folder, name, source):
        self.folder, self.name, self.process, self.port = folder, name, None, None
        os.makedirs(folder, exist_ok=True)
        self.conf = os.path.join(folder, 'conf.yaml')
        self.configure(source)

    def configure(self, source):
        with open(self.conf, 'w', encoding='utf-8') as f:
            json.dump({'data': os.path.join(self.folder, 'data'), 'listen': '127.0.0.1:0',
                       'sources': {self.name: source}}, f)

    def command(self, *args, status=0):
        done = subprocess.run([OXBOW, *args, '-c', self.conf], capture_output=True,
                              timeout=PATIENCE, check=False)
        text = done.stdout.decode() + done.stderr.decode()
        if done.returncode != status:
            raise AssertionError(text)
        return text

    def serve(self, **env):
        log = os.path.join(self.folder, 'log')
        with open(log, 'wb') as f:
            self.process = subprocess.Popen([OXBOW, 'serve', '-c', self.conf], stdout=f, stderr=f,
                                            stdin=subprocess.DEVNULL, env={**os.environ, **env})
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            with open(log, encoding='utf-8') as f:
                found = re.search(r'msg=listening .*port=(\d+)', f.read())
            if found:
                self.port = found.group(1)
                return self
            time.sleep(0.01)
        if not env:
            with open(log, encoding='utf-8') as f:
                raise AssertionError(f.read())
        return self

    def kill(self):
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()

    def dies(self):
        """By itself; or it is killed when it has nothing to do any more."""
        while self.process.poll() is None:
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                if self.show()['caught_up']:
                    break
            time.sleep(0.01)
        self.kill()

    def get(self, path):
        with urllib.request.urlopen(f'http://127.0.0.1:{self.port}{path}', timeout=PATIENCE) as a:
            return a.read().decode()

    def show(self):
        return json.loads(self.get(f'/v1/sources/{self.name}'))

    def until(self, wanted, what):
        end = time.monotonic() + PATIENCE
        while True:
            shown = self.show()
            if wanted(shown):
                return shown
            if time.monotonic() > end or (shown['state'] == 'failed' and 'failed' not in what):
                raise AssertionError(f'{what}: {shown}')
            time.sleep(0.01)

    def caught_up(self):
        """What the log has of it now is confirmed, and a look after that found nothing more."""
        end = max((e['position'] for e in self.events()), default=0)
        self.until(lambda shown: shown['caught_up'] and shown['position'] >= end, 'caught up')

    def events(self, stream='$all', *args):
        where = ['--server', f'http://127.0.0.1:{self.port}'] if self.process.poll() is None \
            else ['--data', os.path.join(self.folder, 'data')]
        done = subprocess.run([OXBOW, 'read', stream, *args, '--json', *where], capture_output=True,
                              timeout=PATIENCE, check=False)
        return [json.loads(line) for line in done.stdout.decode().splitlines()]

    def wait_events(self, count, stream='$all', *args):
        end = time.monotonic() + PATIENCE
        while True:
            events = self.events(stream, *args)
            if len(events) >= count:
                return events
            if time.monotonic() > end:
                raise AssertionError(f'{len(events)} events, not {count}: {self.show()}')
            time.sleep(0.02)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.top = tempfile.mkdtemp(prefix='oxbow-outbox-')
        cls.addClassCleanup(shutil.rmtree, cls.top, True)

    def setUp(self):
        self.name = self.id().split('.')[-1][5:]

    def relay(self, source, name=None):
        relay = Relay(os.path.join(self.top, name or self.name), self.name, source)
        self.addCleanup(relay.kill)
        return relay

    def same_ids(self, events, ids):
        self.assertEqual(sorted(e['id'] for e in events), sorted(ids))


def outbox_sql(database):
    done = subprocess.run([OXBOW, 'outbox', 'sql', '--for', database], capture_output=True,
                          check=True)
    return done.stdout.decode()


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
        # What is printed is what is used.
        self.pg.psql('DROP SCHEMA public CASCADE; CREATE SCHEMA public;' + outbox_sql('postgres'))

    def insert(self, *rows, after=''):
        """(id, aggregatetype, aggregateid, type, payload): one transaction."""
        values = ','.join('(' + ','.join('NULL' if v is None else "'" + str(v).replace("'", "''") + "'"
                                         for v in row) + ')' for row in rows)
        return (f'BEGIN; INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES '
                f'{values}; {after} COMMIT;')

    def polled(self, **more):
        return {'type': 'outbox-postgres', 'connection': self.pg.connection(), **more}

    def wal(self, **more):
        return {'type': 'postgres', 'connection': self.pg.connection(), 'idle': '200ms', **more}

    def test_from_the_wal(self):
        relay = self.relay(self.wal(tables=[{'name': 'outbox'}, {'name': 'orders'}], messages=True,
                                    outbox={'message': 'box', 'metadata': ['seq']}))
        self.pg.psql('CREATE TABLE orders (id int PRIMARY KEY, v text)')
        relay.command('source', 'prepare', self.name)
        self.addCleanup(relay.command, 'source', 'unprepare', self.name)
        self.addCleanup(relay.kill)
        relay.serve()
        a, b, c, d = (str(uuid.uuid4()) for _ in range(4))
        # The row is gone again before anybody could poll it: the log has it.
        self.pg.psql(f"BEGIN; INSERT INTO orders VALUES (1, 'new'); INSERT INTO outbox (id, "
                     f"aggregatetype, aggregateid, type, payload, headers) VALUES ('{a}', 'order', "
                     f"'1', 'Placed', '{{\"n\": 1.10}}', '{{\"traceparent\": \"00-x\"}}'); "
                     f'DELETE FROM outbox; COMMIT;')
        self.pg.psql(self.insert((b, 'order', '1', 'Paid', None)))
        self.pg.psql('BEGIN; ' + self.insert((str(uuid.uuid4()), 'order', '1', 'Never', None))
                     .replace('COMMIT', 'ROLLBACK').replace('BEGIN; ', ''))
        self.pg.psql(self.insert((c, 'order', 'x' * 254, 'Poison', None),
                                 (d, 'order', '2', 'Placed', '"text"')))
        self.pg.psql("SELECT pg_logical_emit_message(true, 'box', json_build_object('id', 'm-1', "
                     "'aggregatetype', 'order', 'aggregateid', '3', 'type', 'Told', 'payload', "
                     "'a<b', 'headers', json_build_object('h', 1))::text)")
        self.pg.psql("UPDATE outbox SET sent_at = now() WHERE id = '" + d + "'")
        relay.until(lambda s: s['parked'] >= 2, 'parked')
        one = relay.events('order-1')
        self.assertEqual([(e['id'], e['type'], e['data']) for e in one],
                         [(a, 'Placed', {'n': 1.1}), (b, 'Paid', None)])
        self.assertEqual(one[0]['metadata']['traceparent'], '00-x')
        self.assertEqual(one[0]['metadata']['seq'], 1)
        self.assertEqual(one[0]['metadata']['$source']['key'], a)
        self.assertEqual([e['type'] for e in relay.events('order-2')], ['Placed'])
        told = relay.events('order-3')
        self.assertEqual([(e['type'], e['metadata']['h']) for e in told], [('Told', 1)])
        self.assertEqual([e['type'] for e in relay.events('orders-1')][:1], ['Inserted'])
        reasons = [e['data']['reason'] for e in relay.events(f'$parked-source-{self.name}')]
        self.assertEqual(len(reasons), 2)
        self.assertIn('255', reasons[0])
        self.assertIn('was updated', reasons[1])

    def test_messages_without_a_table(self):
        relay = self.relay(self.wal(messages=True, outbox={'message': 'outbox'}))
        relay.command('source', 'prepare', self.name)
        self.addCleanup(relay.command, 'source', 'unprepare', self.name)
        self.addCleanup(relay.kill)
        relay.serve()
        relay.caught_up()
        for n in range(3):
            self.pg.psql("SELECT pg_logical_emit_message(true, 'outbox', json_build_object('id', "
                         f"gen_random_uuid(), 'aggregatetype', 'a', 'aggregateid', '1', 'type', 'T{n}',"
                         " 'payload', json_build_object('n', 1))::text);"
                         "SELECT pg_logical_emit_message(true, 'other', '{}')")
        self.assertEqual([e['type'] for e in relay.wait_events(3, 'a-1')], ['T0', 'T1', 'T2'])

    def test_polled_in_order_skips_nothing(self):
        relay = self.relay(self.polled(xid='xid', stream='{aggregatetype}-{aggregateid}'))
        relay.command('source', 'prepare', self.name)
        relay.serve()
        # The first transaction is the last to commit; what came after it waits for it.
        slow = self.pg.session()
        ids = [str(uuid.uuid4()) for _ in range(4)]
        slow.stdin.write(self.insert((ids[0], 'a', '1', 'First', '1')).replace('COMMIT;', 'SELECT 7;\n')
                         .encode())
        slow.stdin.flush()
        self.assertEqual(slow.stdout.readline(), b'7\n')
        self.pg.psql(self.insert((ids[1], 'a', '1', 'Second', '2'), (ids[2], 'a', '1', 'Third', '3')))
        relay.until(lambda s: s['source'] and s['source']['held_ms'] > 0, 'held')
        self.assertEqual(relay.events(), [])
        slow.communicate(b'COMMIT;')
        self.pg.psql(self.insert((ids[3], 'a', '1', 'Fourth', '4')))
        events = relay.wait_events(4)
        self.assertEqual([(e['id'], e['data']) for e in events], [(x, n + 1) for n, x in enumerate(ids)])
        relay.caught_up()
        self.assertEqual(self.pg.psql('SELECT count(*) FROM outbox'), '0\n')

    def test_polled_bare(self):
        """Debezium's columns alone, a text payload, an id that is no UUID; marked afterwards."""
        self.pg.psql('DROP TABLE outbox; CREATE TABLE ev (ref bigint PRIMARY KEY, kind text, agg text, '
                     'name text, body text, bin bytea, done timestamptz)')
        relay = self.relay(self.polled(table='public.ev', after='mark', sent='done', columns={
            'id': 'ref', 'aggregatetype': 'kind', 'aggregateid': 'agg', 'type': 'name',
            'payload': 'body'}, stream='{kind}/{agg}', metadata=['bin'])).serve()
        slow = self.pg.session()
        slow.stdin.write(b"BEGIN; INSERT INTO ev VALUES (1, 'k', 'a', 'T', '<x/>', '\\x00ff'); SELECT 7;\n")
        slow.stdin.flush()
        slow.stdout.readline()
        self.pg.psql("INSERT INTO ev VALUES (2, 'k', 'a', 'T', '{\"n\": 2}'), (3, NULL, 'a', 'T', '3')")
        relay.until(lambda s: s['changes'] >= 2 and s['parked'] == 1, 'the rest')
        slow.communicate(b'COMMIT;')
        events = relay.wait_events(2, 'k/a')
        self.assertEqual(events[0]['data'], {'n': 2})
        self.assertEqual(events[1]['data_base64'], 'PHgvPg==')
        self.assertEqual(events[1]['metadata']['bin'], {'$blob': '00ff'})
        relay.caught_up()
        self.assertEqual(self.pg.psql('SELECT count(*) FROM ev WHERE done IS NULL'), '0\n')
        parked = relay.events(f'$parked-source-{self.name}')
        self.assertIn('NULL in its column kind', parked[0]['data']['reason'])

    def killed(self, **source):
        """Killed at each durable write, while rows come: each row once, in the end."""
        if not os.path.exists(KILLER):
            self.skipTest('KILL_AT_SYNC names no library')
        relay, ids = self.relay(self.polled(batch=7, **source)), []
        for n in [3, 2, 4, 5, 3, 6]:
            rows = [(str(uuid.uuid4()), 'a', str(k % 3), 'T', str(k)) for k in range(30)]
            ids += [r[0] for r in rows]
            self.pg.psql(self.insert(*rows))
            relay.serve(LD_PRELOAD=KILLER, KILL_AT=str(n))
            relay.dies()
        relay.serve()
        self.same_ids(relay.wait_events(len(ids)), ids)
        relay.caught_up()
        self.same_ids(relay.events(), ids)

    def test_killed_bare(self):
        self.killed(after='delete')
        self.assertEqual(self.pg.psql('SELECT count(*) FROM outbox'), '0\n')

    def test_killed_in_order(self):
        self.killed(xid='xid', after='keep')

    def test_two_relays(self):
        first = self.relay(self.polled(after='mark'), 'first').serve()
        first.until(lambda s: s['source'] and s['source']['role'] == 'leader', 'leads')
        second = self.relay(self.polled(after='mark'), 'second').serve()
        ids = [str(uuid.uuid4()) for _ in range(40)]
        self.pg.psql(self.insert(*[(x, 'a', '1', 'T', '1') for x in ids[:20]]))
        self.same_ids(first.wait_events(20), ids[:20])
        second.until(lambda s: s['source'] and s['source']['role'] == 'standby', 'stands by')
        first.caught_up()
        first.kill()
        self.pg.psql(self.insert(*[(x, 'a', '1', 'T', '1') for x in ids[20:]]))
        self.same_ids(second.wait_events(20), ids[20:])
        self.same_ids(first.events(), ids[:20])

    def test_partitions_are_dropped(self):
        self.pg.psql("DROP TABLE outbox; CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid "
                     "text, type text, payload jsonb, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), "
                     "seq bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL DEFAULT now()) "
                     'PARTITION BY RANGE (at);'
                     "CREATE TABLE old PARTITION OF outbox FOR VALUES FROM ('2000-01-01') TO ('2000-01-02');"
                     "CREATE TABLE now PARTITION OF outbox FOR VALUES FROM ('2000-01-02') TO ('2999-01-01')")
        ids = [str(uuid.uuid4()) for _ in range(3)]
        self.pg.psql(self.insert(*[(x, 'a', '1', 'T', '1') for x in ids]) +
                     f"UPDATE outbox SET at = '2000-01-01 12:00' WHERE id <> '{ids[2]}'")
        relay = self.relay(self.polled(xid='xid', after='drop')).serve()
        self.same_ids(relay.wait_events(3), ids)
        end = time.monotonic() + PATIENCE
        while self.pg.psql("SELECT to_regclass('old') IS NULL, to_regclass('now') IS NULL") != 't|f\n':
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        self.assertEqual(self.pg.psql('SELECT count(*) FROM outbox'), '1\n')

    def test_server_restarted(self):
        relay = self.relay(self.polled(xid='xid')).serve()
        ids = [str(uuid.uuid4()) for _ in range(20)]
        self.pg.psql(self.insert(*[(x, 'a', '1', 'T', '1') for x in ids[:10]]))
        relay.wait_events(10)
        self.pg.stop()
        relay.until(lambda s: s['state'] == 'retrying', 'retrying')
        self.pg.start()
        self.pg.psql(self.insert(*[(x, 'a', '1', 'T', '1') for x in ids[10:]]))
        self.same_ids(relay.wait_events(20), ids)

    def test_same_id_again(self):
        """The application writes a row's id a second time: told apart by what it says."""
        relay = self.relay(self.polled()).serve()
        ids = [str(uuid.uuid4()) for _ in range(2)]
        self.pg.psql(self.insert((ids[0], 'a', '1', 'T', '1')))
        relay.wait_events(1)
        relay.caught_up()
        self.pg.psql(self.insert((ids[0], 'a', '1', 'T', '1'), (ids[1], 'a', '1', 'T', '2')))
        self.same_ids(relay.wait_events(2), ids)
        relay.caught_up()
        self.pg.psql(self.insert((ids[0], 'a', '1', 'T', '7')))
        relay.until(lambda s: s['parked'] == 1, 'parked')
        self.same_ids(relay.events(), ids)

    def test_large_rows(self):
        """Rows of 3 MB, more of them than are read at once."""
        relay = self.relay(self.polled(xid='xid')).serve()
        ids = [str(uuid.uuid4()) for _ in range(20)]
        self.pg.psql(''.join(f"INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES ('{x}', "
                             f"'a', '1', 'T', to_jsonb(repeat('{n % 10}', 3000000)));"
                             for n, x in enumerate(ids)))
        relay.until(lambda s: s['changes'] == 20 and s['caught_up'], 'taken')
        self.assertEqual(self.pg.psql('SELECT count(*) FROM outbox'), '0\n')

    def test_refusals(self):
        relay = self.relay(self.polled(table='nothing'))
        self.assertIn('there is no table nothing', relay.command('source', 'check', self.name, status=1))
        relay.configure(self.polled(xid='seq', after='mark', sent='nope'))
        text = relay.command('source', 'check', self.name, status=1)
        self.assertIn('no column seq of type xid8', text)
        self.assertIn('no column nope for `after: mark`', text)
        relay.configure(self.polled(after='keep'))
        self.assertIn('after: keep needs `xid`', relay.command('source', 'check', self.name, status=3))
        missing = 'no index of outbox begins with (xid, seq)'
        relay.configure(self.polled(xid='xid'))
        self.assertNotIn(missing, relay.command('source', 'check', self.name))
        self.pg.psql('DROP INDEX outbox_order; CREATE INDEX ON outbox (xid, seq) WHERE sent_at IS NULL')
        self.assertIn(missing, relay.command('source', 'check', self.name))
        relay.configure(self.polled(xid='xid', after='mark'))
        self.assertNotIn(missing, relay.command('source', 'check', self.name))

    def alone(self):
        """What the other sessions did is counted when they are gone, which is after their clients are."""
        end = time.monotonic() + PATIENCE
        others = ("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND "
                  'pid <> pg_backend_pid()')
        while self.pg.psql(others) != '0\n':
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def test_read_and_settled_by_index(self):
        """However many rows there are, only those of the batch are looked at."""
        for after in 'delete', 'mark':
            with self.subTest(after):
                self.setUp()
                self.pg.psql("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) SELECT 'a', i % 9, 'T', "
                             "'{}' FROM generate_series(1, 20000) i")
                self.pg.psql('ANALYZE outbox')
                scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'outbox'"
                self.alone()
                before = self.pg.psql(scans)
                relay = self.relay(self.polled(xid='xid', after=after, batch=2000), self.name + after).serve()
                relay.until(lambda s: s['changes'] == 20000 and s['caught_up'], 'taken')
                relay.kill()
                self.alone()
                read = "SELECT idx_tup_read >= 20000 FROM pg_stat_user_indexes WHERE indexrelname = 'outbox_pkey'"
                self.assertEqual(self.pg.psql(read), 't\n')
                self.assertEqual(self.pg.psql(scans), before)


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

    def setUp(self):
        super().setUp()
        self.my.sql(f'CREATE DATABASE {self.name}')
        self.my.sql(outbox_sql('mariadb'), self.name)

    def source(self, kind, **more):
        return {'type': kind, 'socket': self.my.socket, 'user': 'root', 'database': self.name, **more}

    def insert(self, ids, more=''):
        self.my.sql('BEGIN; ' + ''.join(
            f"INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, headers) VALUES ('{x}', "
            f"'a', '1', 'T', '{{\"n\":{n}}}', '{{\"h\":1}}');" for n, x in enumerate(ids)) + more +
            ' COMMIT', self.name)

    def test_from_the_binlog(self):
        relay = self.relay(self.source('mariadb', tables=[{'name': 'outbox'}], outbox={})).serve()
        ids = [str(uuid.uuid4()) for _ in range(5)]
        relay.caught_up()
        self.insert(ids, 'DELETE FROM outbox;')
        events = relay.wait_events(5, 'a-1')
        self.assertEqual([(e['id'], e['data'], e['metadata']['h']) for e in events],
                         [(x, {'n': n}, 1) for n, x in enumerate(ids)])
        self.assertEqual(len([e for e in relay.events() if e['type'] != 'SchemaChanged']), 5)

    def test_polled(self):
        relay = self.relay(self.source('outbox-mariadb', batch=4)).serve()
        slow = subprocess.Popen(['mariadb', '--no-defaults', '-u', 'root', '-S', self.my.socket, '-N',
                                 '-n', '-B', self.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                env=self.my.env)
        ids = [str(uuid.uuid4()) for _ in range(12)]
        slow.stdin.write(f"BEGIN; INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES "
                         f"('{ids[0]}', 'b', '1', 'T', NULL); SELECT 7;\n".encode())
        slow.stdin.flush()
        self.assertEqual(slow.stdout.readline(), b'7\n')
        self.insert(ids[1:])
        self.same_ids(relay.wait_events(11), ids[1:])
        slow.communicate(b'COMMIT;\n')
        self.same_ids(relay.wait_events(12), ids)
        self.assertEqual(relay.events('b-1')[0]['data'], None)
        relay.caught_up()
        self.assertEqual(self.my.sql('SELECT count(*) FROM outbox', self.name), [['0']])

    def test_relays_and_bytes(self):
        self.my.sql('DROP TABLE outbox; CREATE TABLE outbox (id binary(16) PRIMARY KEY, aggregatetype '
                    'text, aggregateid int, type text, payload blob, sent_at datetime)', self.name)
        first = self.relay(self.source('outbox-mariadb', after='mark'), self.name + '1').serve()
        first.until(lambda s: s['source'] and s['source']['role'] == 'leader', 'leads')
        second = self.relay(self.source('outbox-mariadb', after='mark'), self.name + '2').serve()
        second.until(lambda s: s['source'] and s['source']['role'] == 'standby', 'stands by')
        ids = [uuid.uuid4() for _ in range(2)]
        row = "INSERT INTO outbox VALUES (x'{}', 'a', 1, 'T', x'00ff', NULL)"
        self.my.sql(row.format(ids[0].hex), self.name)
        self.assertEqual(first.wait_events(1)[0]['id'], str(ids[0]))
        first.caught_up()
        first.kill()
        self.my.sql(row.format(ids[1].hex), self.name)
        events = second.wait_events(1)
        self.assertEqual([(e['id'], e['data_base64']) for e in events], [(str(ids[1]), 'AP8=')])
        second.caught_up()
        self.assertEqual(self.my.sql('SELECT count(*) FROM outbox WHERE sent_at IS NULL', self.name), [['0']])


class Sqlite(Case):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.top, self.name + '.db')
        self.db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        self.addCleanup(self.db.close)
        self.db.executescript('PRAGMA journal_mode = wal;' + outbox_sql('sqlite'))

    def insert(self, ids):
        self.db.execute('BEGIN')
        for n, x in enumerate(ids):
            self.db.execute('INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, headers) '
                            "VALUES (?, 'a', '1', 'T', ?, '{\"h\":1}')", (x, json.dumps({'n': n})))
        self.db.execute('COMMIT')

    def test_from_the_change_table(self):
        relay = self.relay({'type': 'sqlite', 'path': self.path, 'tables': [{'name': 'outbox', 'key': ['id']}],
                            'outbox': {}})
        relay.command('source', 'prepare', self.name)
        relay.serve()
        ids = [str(uuid.uuid4()) for _ in range(5)]
        self.insert(ids)
        self.assertEqual([(e['id'], e['metadata']['h']) for e in relay.wait_events(5, 'a-1')],
                         [(x, 1) for x in ids])

    def polled(self, after, left):
        first = self.relay({'type': 'outbox-sqlite', 'path': self.path, 'after': after, 'batch': 7},
                           self.name + '1').serve()
        first.until(lambda s: s['source'] and s['source']['role'] == 'leader', 'leads')
        second = self.relay({'type': 'outbox-sqlite', 'path': self.path, 'after': after},
                            self.name + '2').serve()
        second.until(lambda s: s['source'] and s['source']['role'] == 'standby', 'stands by')
        ids = [str(uuid.uuid4()) for _ in range(40)]
        self.insert(ids[:20])
        self.assertEqual([e['id'] for e in first.wait_events(20)], ids[:20])
        first.caught_up()
        first.kill()
        self.insert(ids[20:])
        self.assertEqual([e['id'] for e in second.wait_events(20)], ids[20:])
        second.caught_up()
        self.assertEqual(self.db.execute(left).fetchone(), (0,))

    def test_polled_marked(self):
        self.polled('mark', 'SELECT count(*) FROM outbox WHERE sent_at IS NULL')

    def test_polled_deleted(self):
        self.polled('delete', 'SELECT count(*) FROM outbox')


if __name__ == '__main__':
    unittest.main(verbosity=2, argv=[sys.argv[0], *sys.argv[1:]])
