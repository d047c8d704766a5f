"""The source postgres in the built binary, against a real server: what the log holds afterwards,
folded stream by stream, is the table. OXBOW names the binary, KILL_AT_SYNC the library of
kill_at_sync.c. SEED repeats a workload."""
import collections
import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request

import servers

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
KILLER = os.environ.get('KILL_AT_SYNC', '')
SEED = int(os.environ.get('SEED', '1'))
SECONDS = float(os.environ.get('SECONDS', '5'))  # of each differential test
PATIENCE = 90


def exact(text):
    """JSON with every number as its own text."""
    return json.loads(text, parse_float=str, parse_int=str)


def without_nulls(rows):
    """A column that was added is not in the rows from before."""
    return {key: {k: v for k, v in row.items() if v is not None} for key, row in rows.items()}


class Cutter:
    """A TCP proxy that cuts each connection after so many bytes from the server, while there are
    numbers left; then it lets all through."""

    def __init__(self, port, after):
        self.target, self.after, self.cuts, self.open = port, list(after), 0, []
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def drop(self):
        """Ends what is connected now."""
        for s in self.open:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(('127.0.0.1', self.target))
            except OSError:
                client.close()
                continue
            self.open = [s for s in self.open if s.fileno() >= 0] + [client, server]
            limit = self.after.pop(0) if self.after else None
            threading.Thread(target=self.pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, limit), daemon=True).start()

    def pump(self, a, b, limit):
        try:
            while True:
                data = a.recv(65536)
                if limit is not None and len(data) >= limit:
                    b.sendall(data[:limit])
                    self.cuts += 1
                    break
                if not data:
                    break
                b.sendall(data)
                limit = None if limit is None else limit - len(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        a.close()

    def close(self):
        self.listener.close()


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.top = tempfile.mkdtemp(prefix='oxbow-postgres-')
        cls.addClassCleanup(shutil.rmtree, cls.top, True)
        try:
            cls.pg = servers.Postgres(os.path.join(cls.top, 'pg'),
                                      logical_decoding_work_mem='64kB').start()
        except servers.Missing as e:
            raise unittest.SkipTest(f'{e} is not installed') from e
        cls.addClassCleanup(cls.pg.end)

    def setUp(self):
        self.name = self.id().split('.')[-1][5:]
        self.folder = os.path.join(self.top, self.name)
        os.makedirs(self.folder)
        self.process = None

    def configure(self, tables, connection=None, **settings):
        """tables: names, or dicts as in the configuration."""
        self.conf = os.path.join(self.folder, 'conf.yaml')
        source = {'type': 'postgres', 'connection': connection or self.pg.connection(),
                  'tables': [t if isinstance(t, dict) else {'name': t} for t in tables],
                  'spill': self.folder, 'idle': '200ms', **settings}
        with open(self.conf, 'w', encoding='utf-8') as f:
            json.dump({'data': os.path.join(self.folder, 'data'), 'listen': '127.0.0.1:0',
                       'sources': {self.name: source}}, f)

    def oxbow(self, *args, status=0):
        done = subprocess.run([OXBOW, *args], capture_output=True, timeout=PATIENCE, check=False)
        text = done.stdout.decode() + done.stderr.decode()
        self.assertEqual(done.returncode, status, text)
        return text

    def prepare(self, *args, status=0):
        text = self.oxbow('source', 'prepare', self.name, '-c', self.conf, *args, status=status)
        self.addCleanup(subprocess.run, [OXBOW, 'source', 'unprepare', self.name, '-c', self.conf],
                        capture_output=True, check=False)
        return text

    def serve(self, **env):
        log = os.path.join(self.folder, 'log')
        with open(log, 'wb') as f:
            self.process = subprocess.Popen([OXBOW, 'serve', '-c', self.conf], stdout=f, stderr=f,
                                            stdin=subprocess.DEVNULL, env={**os.environ, **env})
        self.addCleanup(self.kill, self.process)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            with open(log, encoding='utf-8') as f:
                found = re.search(r'msg=listening .*port=(\d+)', f.read())
            if found:
                self.port = found.group(1)
                return
            time.sleep(0.01)
        if not env:
            with open(log, encoding='utf-8') as f:
                self.fail(f.read())

    def kill(self, process=None):
        process = process or self.process
        if process.poll() is None:
            process.kill()
        process.wait()

    def dies(self, busy=lambda: False):
        """By itself; or it is killed when it has nothing to do any more, and nothing more will come."""
        while self.process.poll() is None:
            try:
                if not busy() and self.show()['caught_up']:
                    break
            except (OSError, ValueError, http.client.HTTPException):
                pass  # it is dead by now
            time.sleep(0.01)
        self.kill()

    def show(self):
        with urllib.request.urlopen(f'http://127.0.0.1:{self.port}/v1/sources/{self.name}',
                                    timeout=PATIENCE) as answer:
            return json.load(answer)

    def until(self, wanted, what):
        end = time.monotonic() + PATIENCE
        while True:
            shown = self.show()
            if wanted(shown):
                return shown
            if time.monotonic() > end or (shown['state'] == 'failed' and 'failed' not in what):
                self.fail(f'{what}: {shown}')
            time.sleep(0.02)

    def caught_up(self):
        """All that was committed before this call is in the log."""
        lsn = self.pg.psql('SELECT pg_current_wal_insert_lsn() - \'0/0\'').strip()

        def done(shown):
            at = shown['checkpoint'] and shown['checkpoint']['lsn'].split('/')
            return shown['caught_up'] and at and int(at[0], 16) << 32 | int(at[1], 16) >= int(lsn)
        return self.until(done, 'caught up')

    def failed(self):
        return self.until(lambda shown: shown['state'] == 'failed', 'failed')['error']

    def events(self, *args):
        where = ['--server', f'http://127.0.0.1:{self.port}'] if self.process.poll() is None \
            else ['--data', os.path.join(self.folder, 'data')]
        done = subprocess.run([OXBOW, 'read', *args, '--json', *where], capture_output=True,
                              timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [exact(line) for line in done.stdout.decode().splitlines()]

    def fold(self):
        """table -> stream's key -> row; and that no event is there twice."""
        tables, ids = collections.defaultdict(dict), {}
        for e in self.events('$all'):
            source = (e.get('metadata') or {}).get('$source')
            if not source:
                continue
            self.assertIsNone(ids.get(e['id']), e)
            ids[e['id']] = e
            rows, kind = tables[source['table']], e['type']
            if kind == 'Deleted':
                self.assertTrue(source['key'] in rows or self.late, e)
                rows.pop(source['key'], None)
            elif kind == 'Truncated':
                rows.clear()
            elif kind in ('Read', 'Inserted', 'Updated'):
                self.assertTrue(kind != 'Updated' or source['key'] in rows or self.late, e)
                row = dict(e['data'])
                for name in source.get('unchanged', []):
                    row[name] = rows.get(source['key'], {}).get(name)
                rows[source['key']] = row
        return tables

    def tell(self, session, text):
        session.stdin.write((text + "\\echo done\n").encode())
        session.stdin.flush()
        self.assertEqual(session.stdout.readline(), b'done\n')

    def end(self, session):
        session.stdin.close()
        session.stdout.close()
        session.wait()

    maxDiff = 3000
    late = False  # changes may come before the row's Read

    def table(self, name, key='id'):
        """The same by the table itself."""
        lines = self.pg.psql(f'SELECT row_to_json(t) FROM {name} t').splitlines()
        return {row[key]: row for row in map(exact, lines)}

    def same(self, name, key='id'):
        self.caught_up()
        self.assertEqual(without_nulls(self.fold()[name]), without_nulls(self.table(name, key)))


class Basics(Case):
    def test_dry_run_makes_nothing(self):
        self.pg.psql('CREATE TABLE dry (id int PRIMARY KEY); CREATE TABLE nokey (v int)')
        self.configure(['dry'])
        text = self.prepare('--dry-run')
        self.assertIn('would run: CREATE PUBLICATION', text)
        self.assertIn('would make the slot', text)
        self.assertEqual(self.pg.psql("SELECT count(*) FROM pg_publication WHERE pubname LIKE '%dry%'"),
                         '0\n')
        self.configure(['dry', 'nokey', 'nothing'])
        text = self.prepare(status=1)
        self.assertIn('every UPDATE and DELETE of it would fail', text)
        self.assertIn('there is no table public.nothing', text)
        self.assertEqual(self.pg.psql("SELECT count(*) FROM pg_publication WHERE pubname LIKE '%dry%'"),
                         '0\n')

    def test_not_prepared(self):
        self.pg.psql('CREATE TABLE bare (id int PRIMARY KEY)')
        self.configure(['bare'])
        self.serve()
        self.assertIn('run `oxbow source prepare not_prepared`', self.failed())

    def test_table_written_anew(self):
        """To a snapshot from before a change that writes the table anew, it would be empty."""
        self.pg.psql('CREATE TABLE anew (id int PRIMARY KEY, n int); INSERT INTO anew SELECT i, i '
                     'FROM generate_series(1, 50) i')
        self.configure(['anew'])
        self.prepare()
        session = self.pg.session()
        self.tell(session, 'BEGIN; ALTER TABLE anew ALTER n TYPE bigint;\n')
        self.serve()
        until = time.monotonic() + PATIENCE
        while self.pg.psql('SELECT count(*) FROM pg_locks WHERE NOT granted') == '0\n':
            self.assertLess(time.monotonic(), until)
            time.sleep(0.02)
        self.tell(session, 'COMMIT;\n')
        self.end(session)
        self.same('anew')

    def test_changes(self):
        self.pg.psql('CREATE TABLE c (id int PRIMARY KEY, v text, n numeric);'
                     "INSERT INTO c SELECT i, 'v' || i, i * 1.50 FROM generate_series(1, 20) i")
        self.configure(['c'], messages=True)
        self.prepare()
        self.serve()
        self.caught_up()
        self.pg.psql("BEGIN; INSERT INTO c VALUES (30, NULL, 'NaN'); UPDATE c SET v = 'x' WHERE id = 1;"
                     "SELECT pg_logical_emit_message(true, 'note', '{\"a\": 1.10}');"
                     'DELETE FROM c WHERE id = 2; UPDATE c SET id = 103 WHERE id = 3; COMMIT;'
                     "BEGIN; INSERT INTO c VALUES (99, 'gone', 0); ROLLBACK;"
                     'ALTER TABLE c ADD COLUMN more bool; UPDATE c SET more = true WHERE id = 4')
        self.same('c')
        said = self.until(lambda shown: shown['source'] and shown['source']['snapshot']['read'] == 1,
                          'detail')['source']
        self.assertTrue(said['connected'] and said['slot'] == 'oxbow_changes' and
                        said['wal'] == 'reserved', said)
        self.assertEqual([(e['type'], e['data']) for e in self.events('c-3')],
                         [('Read', {'id': '3', 'v': 'v3', 'n': '4.50'}), ('Deleted', None)])
        self.assertEqual([e['type'] for e in self.events('c-103')], ['Inserted'])
        self.assertEqual([(e['type'], len(e['data']['columns'])) for e in self.events('c')],
                         [('SchemaChanged', 3), ('SchemaChanged', 4)])
        self.assertEqual([e['data'] for e in self.events('note')], [{'content': {'a': '1.10'}}])
        self.pg.psql('TRUNCATE c; INSERT INTO c VALUES (1, \'again\', 1)')
        self.same('c')
        self.process.terminate()
        self.assertEqual(self.process.wait(PATIENCE), 0)

    def test_idle_database_holds_no_wal(self):
        self.pg.psql('CREATE TABLE quiet (id int PRIMARY KEY); CREATE TABLE busy (id int)')
        self.configure(['quiet'])
        self.prepare()
        self.serve()
        self.caught_up()
        self.pg.psql('INSERT INTO busy SELECT generate_series(1, 5000); CHECKPOINT')
        self.caught_up()
        lsn = self.pg.psql('SELECT pg_current_wal_flush_lsn()').strip()
        end = time.monotonic() + PATIENCE
        while self.pg.psql("SELECT confirmed_flush_lsn >= '" + lsn + "' FROM pg_replication_slots "
                           f"WHERE slot_name = 'oxbow_{self.name}'") != 't\n':
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)

    def test_lost_slot_is_a_gap(self):
        self.pg.psql('CREATE TABLE gap (id int PRIMARY KEY); INSERT INTO gap VALUES (1)')
        self.configure(['gap'])
        self.prepare()
        self.serve()
        self.same('gap')
        self.kill()
        self.oxbow('source', 'unprepare', self.name, '-c', self.conf)
        self.pg.psql('INSERT INTO gap VALUES (2)')
        self.serve()
        self.assertIn('gap: the slot', self.failed())
        self.kill()
        self.prepare()
        self.pg.psql('INSERT INTO gap VALUES (3)')
        self.serve()
        found = re.search(r'`accept: ([0-9A-F/]+)`', self.failed())
        self.kill()
        self.configure(['gap'], accept=found.group(1))
        self.serve()
        self.same('gap')

    def test_unpublished_table_is_a_gap(self):
        self.pg.psql('CREATE TABLE unpub (id int PRIMARY KEY)')
        self.configure(['unpub'])
        self.prepare()
        self.serve()
        self.caught_up()
        self.pg.psql('ALTER TABLE unpub RENAME TO other; INSERT INTO other VALUES (1)')
        self.assertIn('gap: table public.unpub is not in the publication', self.failed())

    def test_keys(self):
        self.pg.psql('CREATE SCHEMA s; CREATE TABLE s."odd.name" (b int, a text, v text, PRIMARY KEY (a, b));'
                     'CREATE TABLE whole (id int, v text); ALTER TABLE whole REPLICA IDENTITY FULL;'
                     'CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);'
                     'CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);'
                     'CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);'
                     "INSERT INTO part VALUES (1, 'a'), (11, 'b');"
                     "INSERT INTO s.\"odd.name\" VALUES (1, 'x|y', 'v')")
        self.configure(['s.odd.name', {'name': 'whole', 'key': ['id']}, 'part'])
        self.prepare()
        self.serve()
        self.caught_up()
        self.pg.psql("UPDATE part SET id = 12 WHERE id = 1; INSERT INTO part VALUES (2, 'c');"
                     "INSERT INTO whole VALUES (1, 'a'), (2, 'b'); UPDATE whole SET v = 'c';"
                     "DELETE FROM whole WHERE id = 2; UPDATE s.\"odd.name\" SET v = 'w'")
        self.same('part')
        self.assertEqual(self.fold()['whole'], self.table('whole'))
        self.assertEqual(self.fold()['s.odd.name'],
                         {'1|x\\|y': {'b': '1', 'a': 'x|y', 'v': 'w'}})


class Commands(Case):
    late = True

    def order(self, *args, status=0):
        return self.oxbow('source', args[0], self.name, *args[1:], '--server',
                          f'http://127.0.0.1:{self.port}', status=status)

    def begin(self, rows, **more):
        self.pg.psql(f'CREATE TABLE {self.name} (id int PRIMARY KEY, n int, v text);'
                     f'ALTER TABLE {self.name} ALTER v SET STORAGE EXTERNAL;'
                     f"INSERT INTO {self.name} SELECT i, 0, 'r' FROM generate_series(1, {rows}) i")
        self.configure([self.name], **{'chunk': 150, 'batch': 40, **more})
        self.prepare()
        self.serve()
        self.caught_up()

    def kinds(self):
        """How many events of each type there are of rows."""
        return collections.Counter(e['type'] for e in self.events('$all')
                                   if e['stream'].startswith(self.name + '-'))

    def test_pause(self):
        self.begin(10)
        self.order('pause')
        self.assertEqual(self.show()['state'], 'paused')
        self.pg.psql(f'UPDATE {self.name} SET n = 1')
        self.assertIn('resume it first', self.order('snapshot', self.name, status=1))
        self.kill()
        self.serve()
        self.until(lambda shown: shown['state'] == 'paused', 'paused')
        self.assertEqual(self.kinds(), {'Read': 10})
        self.order('resume')
        self.same(self.name)
        self.order('resume')
        self.order('pause')
        self.process.terminate()
        self.assertEqual(self.process.wait(PATIENCE), 0)

    def test_drop(self):
        self.begin(10)
        self.order('drop')
        self.assertEqual(self.show()['state'], 'dropped')
        self.assertEqual(self.pg.psql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = "
                                      f"'oxbow_{self.name}'"), '0\n')
        self.order('pause', status=1)
        self.kill()
        self.serve()
        self.until(lambda shown: shown['state'] == 'dropped', 'dropped')
        self.prepare()
        self.pg.psql(f'UPDATE {self.name} SET n = 1')
        self.order('resume')
        self.same(self.name)
        self.assertEqual(self.kinds()['Read'], 20)

    def test_snapshot_on_demand(self):
        self.begin(2000)
        self.assertIn('has no table other', self.order('snapshot', 'other', status=1))
        self.order('snapshot', status=1)
        works = [Workload(self.pg, self.name, SEED + 30 + i, 60) for i in range(3)]
        for work in works:
            work.start()
        self.order('snapshot', self.name)
        for work in works:
            work.join()
        self.same(self.name)
        before = self.kinds()['Read']
        self.assertGreater(before, 2000)
        self.order('snapshot', self.name, '--differences')
        self.same(self.name)
        self.assertEqual(self.kinds()['Read'], before)

    def gap(self):
        """Changes that nobody captures."""
        self.kill()
        self.oxbow('source', 'unprepare', self.name, '-c', self.conf)
        self.pg.psql(f'DELETE FROM {self.name} WHERE id % 3 = 0; UPDATE {self.name} SET n = 7 WHERE id % 3 = 1;'
                     f"INSERT INTO {self.name} VALUES (5001, 1, 'new')")
        self.serve()
        self.assertIn(f'oxbow source snapshot {self.name} --gap', self.failed())
        self.prepare()

    def test_gap_differences(self):
        self.begin(900)
        self.gap()
        self.order('snapshot', '--gap')
        self.same(self.name)
        self.assertEqual(self.kinds(), {'Read': 900 + 301, 'Deleted': 300})
        self.pg.psql(f'TRUNCATE {self.name}')
        self.same(self.name)
        self.order('snapshot', self.name, '--differences')
        self.same(self.name)
        self.assertEqual(self.kinds(), {'Read': 900 + 301, 'Deleted': 300})

    def test_gap_beside_writers(self):
        """Killed at each step on the way, while others write."""
        self.begin(900)
        self.gap()
        self.order('snapshot', '--gap')
        works = [Workload(self.pg, self.name, SEED + 40 + i, 60) for i in range(2)]
        for work in works:
            work.start()
        for n in [2, 4, 7, 12, 20]:
            if not os.path.exists(KILLER):
                break
            self.kill()
            self.serve(LD_PRELOAD=KILLER, KILL_AT=str(n))
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                break
        for work in works:
            work.join()
        self.kill()
        self.serve()
        self.same(self.name)


class Types(Case):
    COLUMNS = [
        ('smallint', "'-32768'", '-32768'), ('bigint', "'9223372036854775807'", '9223372036854775807'),
        ('numeric', "'-123456789012345678901234567890.123456789012345678900'",
         '-123456789012345678901234567890.123456789012345678900'),
        ('numeric', "'NaN'", 'NaN'), ('real', "'-Infinity'", '-Infinity'),
        ('double precision', "'0.1'", '0.1'), ('double precision', "'1e300'", '1e+300'),
        ('money', "'12.34'", '$12.34'), ('boolean', "'f'", False), ('boolean', 'NULL', None),
        ('text', "E'a\"b\\n\\u00e9'", 'a"b\né'), ('char(4)', "'ab'", 'ab  '), ('varchar(9)', "''", ''),
        ('bytea', "'\\x00ff'", '\\x00ff'), ('date', "'0044-03-15 BC'", '0044-03-15 BC'),
        ('date', "'infinity'", 'infinity'), ('time', "'24:00'", '24:00:00'),
        ('timetz', "'01:02:03.000004+05:30'", '01:02:03.000004+05:30'),
        ('timestamp', "'294276-12-31 23:59:59.999999'", '294276-12-31 23:59:59.999999'),
        ('timestamptz', "'2000-01-01 01:00+01'", '2000-01-01 00:00:00+00'),
        ('timestamptz', "'-infinity'", '-infinity'), ('interval', "'1 year -2 days 3.5s'", 'P1Y-2DT3.5S'),
        ('uuid', "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
        ('json', "'{\"a\" : 1.10, \"a\":2}'", {'a': '2'}),
        ('jsonb', "'[1.10, null, \"x\"]'", ['1.10', None, 'x']), ('jsonb', "'null'", None),
        ('int[]', "'{1,NULL,3}'", ['1', None, '3']), ('int[]', "'{{1,2},{3,4}}'", [['1', '2'], ['3', '4']]),
        ('int[]', "'[0:1]={1,2}'", '[0:1]={1,2}'), ('int[]', "'{}'", []),
        ('text[]', "ARRAY['NULL', 'a,\"b\\', NULL, '{}']", ['NULL', 'a,"b\\', None, '{}']),
        ('bool[]', "'{t,f}'", [True, False]), ('numeric[]', "'{1.00,NaN}'", ['1.00', 'NaN']),
        ('jsonb[]', "ARRAY['{\"a\": [1]}'::jsonb]", [{'a': ['1']}]),
        ('box[]', "'{(1,1),(0,0);(2,2),(0,0)}'", ['(1,1),(0,0)', '(2,2),(0,0)']),
        ('mood', "'sad'", 'sad'), ('mood[]', "'{sad,ok}'", ['sad', 'ok']),
        ('pair', "ROW(1, 'a,b')", '(1,"a,b")'), ('posint', "'7'", '7'), ('posint[]', "'{7}'", ['7']),
        ('int4range', "'[1,5)'", '[1,5)'), ('tstzrange', "'[2000-01-01 00:00+00,)'",
                                            '["2000-01-01 00:00:00+00",)'),
        ('point', "'(1.5,2)'", '(1.5,2)'), ('line', "'{1,2,3}'", '{1,2,3}'),
        ('polygon', "'((0,0),(1,1))'", '((0,0),(1,1))'), ('circle', "'<(0,0),1>'", '<(0,0),1>'),
        ('inet', "'10.0.0.1/8'", '10.0.0.1/8'), ('cidr', "'10.0.0.0/8'", '10.0.0.0/8'),
        ('macaddr', "'08:00:2b:01:02:03'", '08:00:2b:01:02:03'), ('bit(3)', "B'101'", '101'),
        ('varbit', "B'1'", '1'), ('tsvector', "'a:1 b'", "'a':1 'b'"), ('tsquery', "'a & b'", "'a' & 'b'"),
        ('xml', "'<a/>'", '<a/>'), ('oid', "'4294967295'", '4294967295'), ('pg_lsn', "'16/B374D848'",
                                                                          '16/B374D848'),
        ('int4multirange', "'{[1,2),[4,5)}'", '{[1,2),[4,5)}'), ('int2vector', "'1 2'", '1 2'),
    ]

    def test_each_type(self):
        cols = ', '.join(f'c{i} {t}' for i, (t, _, _) in enumerate(self.COLUMNS))
        values = ', '.join(v for _, v, _ in self.COLUMNS)
        self.pg.psql("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);"
                     'CREATE DOMAIN posint AS int CHECK (VALUE > 0);'
                     f'CREATE TABLE types (id int PRIMARY KEY, {cols}); SET standard_conforming_strings = on;'
                     f'INSERT INTO types VALUES (1, {values})')
        self.configure(['types'])
        self.prepare()
        self.serve()
        self.caught_up()
        self.pg.psql(f"SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'; INSERT INTO types SELECT 2, "
                     f"{', '.join(f'c{i}' for i in range(len(self.COLUMNS)))} FROM types")
        self.caught_up()
        rows = self.fold()['types']
        for key in '1', '2':
            for i, (t, v, want) in enumerate(self.COLUMNS):
                self.assertEqual(rows[key][f'c{i}'], want, (key, t, v))

    def test_unchanged_toast(self):
        self.pg.psql("CREATE TABLE toast (id int PRIMARY KEY, n int, big text);"
                     'ALTER TABLE toast ALTER big SET STORAGE EXTERNAL;'
                     "INSERT INTO toast VALUES (1, 0, repeat('x', 9000)), (2, 0, repeat('y', 9000));"
                     'CREATE TABLE toastf (LIKE toast INCLUDING ALL); ALTER TABLE toastf REPLICA IDENTITY FULL;'
                     'INSERT INTO toastf SELECT * FROM toast')
        self.configure(['toast', 'toastf'])
        self.prepare()
        self.serve()
        self.caught_up()
        self.pg.psql('UPDATE toast SET n = 1; UPDATE toastf SET n = 1; UPDATE toast SET n = 2 WHERE id = 1;'
                     'UPDATE toast SET big = NULL WHERE id = 2')
        self.same('toast')
        self.same('toastf')
        last = self.events('toast-1')[-1]
        self.assertNotIn('unchanged', last['metadata']['$source'])
        self.assertEqual((last['data']['n'], len(last['data']['big'])), ('2', 9000))
        last = self.events('toastf-1')[-1]
        self.assertNotIn('unchanged', last['metadata']['$source'])
        self.assertEqual(len(last['data']['big']), 9000)


class Large(Case):
    def test_streamed_transactions(self):
        """Larger than the server's memory for it: streamed before the commit, with what is rolled
        back in between, beside small ones."""
        self.pg.psql('CREATE TABLE big (id int PRIMARY KEY, v text)')
        self.configure(['big'])
        self.prepare()
        self.serve()
        self.caught_up()
        a, b = self.pg.session(), self.pg.session()
        fill = "INSERT INTO big SELECT i, repeat('a', 50) FROM generate_series({}, {}) i;\n"

        self.tell(a, 'BEGIN;' + fill.format(1, 3000) + 'SAVEPOINT s;\n')
        self.tell(b, 'BEGIN;' + fill.format(10001, 13000))
        self.tell(a, fill.format(3001, 6000) + 'UPDATE big SET v = \'lost\';\nROLLBACK TO s;\n')
        self.tell(a, 'DELETE FROM big WHERE id % 3 = 0; UPDATE big SET id = -id WHERE id < 100;\n')
        self.pg.psql("INSERT INTO big VALUES (50000, 'small')")
        self.tell(b, 'ROLLBACK;\n' + 'BEGIN;' + fill.format(20001, 22000))
        self.tell(b, 'COMMIT;\n')
        self.tell(a, 'ALTER TABLE big ADD COLUMN more int; UPDATE big SET more = 1 WHERE id < 9;\n'
                  "PREPARE TRANSACTION 'two';\n")
        self.caught_up()
        self.assertEqual(len(self.fold()['big']), 2001)
        self.tell(a, "COMMIT PREPARED 'two';\n")
        for session in a, b:
            self.end(session)
        self.same('big')
        self.assertGreater(int(self.pg.psql('SELECT sum(stream_txns) FROM pg_stat_replication_slots')), 0)

    def test_parallel_snapshot(self):
        """Of several tables at once, killed on the way: each row is there once."""
        self.pg.psql('CREATE TABLE pa (id int PRIMARY KEY, v text); CREATE TABLE pb (id int PRIMARY KEY, v text);'
                     'CREATE TABLE pc (a text, b int, PRIMARY KEY (b, a)); CREATE TABLE pd (id int PRIMARY KEY);'
                     'CREATE TABLE pe (v int); ALTER TABLE pe REPLICA IDENTITY FULL; INSERT INTO pe VALUES (1);'
                     "INSERT INTO pa SELECT i, repeat('x', 300000) FROM generate_series(1, 60) i;"
                     "INSERT INTO pb SELECT i, 'v' FROM generate_series(1, 2005) i;"
                     "INSERT INTO pc SELECT 'k' || i % 7, i / 7 FROM generate_series(1, 900) i")
        tables = {'pa': 60, 'pb': 2005, 'pc': 900}
        self.configure([*tables, 'pd', 'pe'], snapshot_parallel=4, chunk=50, batch=70)
        self.prepare()
        for n in [2, 4, 7, 11] if os.path.exists(KILLER) else []:
            self.serve(LD_PRELOAD=KILLER, KILL_AT=str(n))
            self.dies()
        self.serve()
        self.caught_up()
        seen = collections.Counter(e['stream'].split('-')[0] for e in self.events('$all')
                                   if e['type'] == 'Read')
        self.assertEqual(seen, tables)
        self.same('pb')
        self.assertEqual(sorted(self.fold()['pc']), sorted(
            line for line in self.pg.psql("SELECT a || '|' || b FROM pc").splitlines()))

    def test_snapshot_of_many_answers(self):
        """Chunks that the server gives in several answers, of which large rows fill more than one."""
        self.pg.psql('CREATE TABLE wide (id int PRIMARY KEY, v text); CREATE TABLE thin (id int PRIMARY KEY);'
                     "INSERT INTO wide SELECT i, repeat('x', i % 3 * 9000) FROM generate_series(1, 900) i;"
                     'INSERT INTO thin SELECT generate_series(1, 3333)')
        self.configure(['wide', 'thin'], snapshot_parallel=4)
        self.prepare()
        self.serve()
        self.caught_up()
        seen = collections.Counter(e['stream'] for e in self.events('$all') if e['type'] == 'Read')
        self.assertEqual(len(seen), 900 + 3333)
        self.assertEqual(max(seen.values()), 1)
        self.same('wide')
        self.same('thin')

    def test_columns_rolled_back(self):
        """What a rolled back part of a streamed transaction did to the columns was never there."""
        self.pg.psql('CREATE TABLE cols (id int PRIMARY KEY, v text); INSERT INTO cols VALUES (0)')
        self.configure(['cols'], batch=100)
        self.prepare()
        self.serve()
        self.caught_up()
        self.pg.psql("INSERT INTO cols VALUES (-1)")
        fill = "INSERT INTO cols SELECT i, repeat('a', 50) FROM generate_series({}, {}) i;"
        self.pg.psql('BEGIN;' + fill.format(1, 3000) + 'SAVEPOINT s; ALTER TABLE cols ADD COLUMN more int;' +
                     fill.format(3001, 6000) + 'ROLLBACK TO s;' + fill.format(3001, 3010) +
                     'ALTER TABLE cols ADD COLUMN less int; INSERT INTO cols VALUES (9000, NULL, 1); COMMIT')
        self.same('cols')
        said = [len(e['data']['columns']) for e in self.events('$all') if e['type'] == 'SchemaChanged']
        self.assertEqual(said, [2, 3])


class TwoPhase(Case):
    """Prepared transactions, which the server sends when they are prepared."""

    def begin(self):
        self.pg.psql(f'CREATE TABLE {self.name} (id int PRIMARY KEY, v text);'
                     f'CREATE TABLE {self.name}_b (id int PRIMARY KEY)')
        self.configure([self.name, self.name + '_b'], two_phase=True, batch=100)
        self.prepare()
        self.addCleanup(self.undo)
        self.serve()
        self.caught_up()

    def undo(self):
        """One that is left would hold up the next slot."""
        for gid in self.pg.psql('SELECT gid FROM pg_prepared_xacts').split():
            self.pg.psql(f"ROLLBACK PREPARED '{gid}'")

    def prepared(self, gid, *statements):
        self.pg.psql('BEGIN;' + ';'.join(statements) + f"; PREPARE TRANSACTION '{gid}'")

    def insert(self, *ids):
        return f'INSERT INTO {self.name} (id) VALUES ' + ', '.join(f'({i})' for i in ids)

    def fill(self, first, last):
        return f"INSERT INTO {self.name} SELECT i, repeat('a', 50) FROM generate_series({first}, {last}) i"

    def keys(self):
        self.caught_up()
        return sorted(map(int, self.fold()[self.name]))

    def test_outcomes(self):
        self.begin()
        # What describes the table comes with the one that is rolled back, and not again.
        self.prepared('a', self.insert(1))
        self.pg.psql(self.insert(2))
        self.assertEqual(self.keys(), [2])
        self.pg.psql("ROLLBACK PREPARED 'a'")
        self.prepared('b', self.insert(3), 'SAVEPOINT s', self.insert(4), 'ROLLBACK TO s')
        self.pg.psql(self.insert(5))
        self.assertEqual(self.keys(), [2, 5])
        self.pg.psql("COMMIT PREPARED 'b'")
        self.same(self.name)
        self.assertEqual([e['stream'] for e in self.events('$all') if e['type'] == 'Inserted'],
                         [f'{self.name}-{i}' for i in (2, 5, 3)])
        # The same within one that is streamed: a connection anew, since the table is described.
        for gid, outcome in ('c', 'ROLLBACK'), ('d', 'COMMIT'):
            self.kill()
            self.serve()
            self.caught_up()
            self.prepared(gid, self.fill(1000, 2500))
            self.pg.psql(f'UPDATE {self.name} SET v = 1')
            self.caught_up()
            self.pg.psql(f"{outcome} PREPARED '{gid}'; UPDATE {self.name} SET v = 2 WHERE id < 10")
            self.same(self.name)

    def test_large_with_columns(self):
        self.begin()
        column = f'ALTER TABLE {self.name} ADD COLUMN more int'
        for gid, first in ('no', 100), ('yes', 5000):
            self.prepared(gid, self.insert(first), column, self.fill(first + 1, first + 2000), 'SAVEPOINT s',
                          self.fill(first + 2001, first + 3000), 'ROLLBACK TO s',
                          f'UPDATE {self.name} SET more = 1 WHERE id = {first}')
            self.pg.psql(f'INSERT INTO {self.name}_b VALUES ({first})')
            self.caught_up()
            said = self.until(lambda shown: shown['source'] and shown['source']['prepared'] == 1, 'held')
            self.assertGreater(said['source']['spilled_bytes'], 0)
            self.pg.psql(('COMMIT' if gid == 'yes' else 'ROLLBACK') + f" PREPARED '{gid}'")
            self.pg.psql(self.insert(first + 4000))
            self.same(self.name)
        self.assertEqual([len(e['data']['columns']) for e in self.events(self.name)
                          if e['type'] == 'SchemaChanged'], [2, 3])

    def test_killed_and_restarted(self):
        self.begin()
        self.prepared('small', self.insert(1, 2))
        self.prepared('large', self.fill(1000, 4000))
        self.prepared('no', self.insert(3))
        self.pg.psql(self.insert(4))
        self.assertEqual(self.keys(), [4])
        held = self.until(lambda shown: 'held' in shown['checkpoint'], 'held')['checkpoint']['held']
        self.assertEqual(self.pg.psql(f"SELECT confirmed_flush_lsn <= '{held}' FROM pg_replication_slots "
                                      f"WHERE slot_name = 'oxbow_{self.name}'"), 't\n')
        self.kill()
        self.serve()
        self.assertEqual(self.keys(), [4])
        self.kill()
        self.pg.stop()
        self.pg.start()
        self.pg.psql("COMMIT PREPARED 'small'; ROLLBACK PREPARED 'no'")
        self.serve()
        self.assertEqual(self.keys(), [1, 2, 4])
        self.pg.stop()
        self.pg.start()
        self.pg.psql(f"COMMIT PREPARED 'large'; {self.insert(5)}")
        self.same(self.name)
        self.until(lambda shown: 'held' not in shown['checkpoint'], 'nothing held')

    def test_lost(self):
        """What was prepared went to another reader of the slot."""
        self.begin()
        self.prepared('x', self.insert(1))
        self.caught_up()
        self.kill()
        slot = f"'oxbow_{self.name}'"
        self.pg.psql(f'SELECT pg_replication_slot_advance({slot}, pg_current_wal_insert_lsn())')
        self.serve()
        self.assertIn(f'oxbow source snapshot {self.name} --gap', self.failed())
        self.pg.psql("COMMIT PREPARED 'x'")
        self.oxbow('source', 'snapshot', self.name, '--gap', '--server', f'http://127.0.0.1:{self.port}')
        self.same(self.name)


class Gaps(Case):
    """What must not go on silently: each is named, and the way out that it names is gone."""
    late = True

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pg.psql("ALTER SYSTEM SET max_wal_size = '32MB'; ALTER SYSTEM SET min_wal_size = '32MB';"
                    'SELECT pg_reload_conf()')

    def order(self, *args):
        return self.oxbow('source', args[0], self.name, *args[1:], '--server', f'http://127.0.0.1:{self.port}')

    def begin(self, columns='id int PRIMARY KEY, v text', **settings):
        self.pg.psql(f'CREATE TABLE {self.name} ({columns})')
        self.insert(1, 100)
        self.configure([self.name], chunk=30, **settings)
        self.prepare()
        self.serve()
        self.same(self.name)

    def insert(self, first, last):
        self.pg.psql(f"INSERT INTO {self.name} SELECT i, 'v' || i FROM generate_series({first}, {last}) i")

    def write_wal(self, segments):
        for _ in range(segments):
            self.pg.psql("SELECT pg_logical_emit_message(false, 'wal', ''); SELECT pg_switch_wal()")

    def again(self):
        """The slot anew, and what was missed read."""
        self.oxbow('source', 'unprepare', self.name, '-c', self.conf)
        self.prepare()
        self.order('snapshot', '--gap')
        self.same(self.name)

    def test_slot_invalidated(self):
        """A prepared transaction holds the slot back until there is more than the server keeps."""
        self.begin(two_phase=True)
        self.pg.psql("ALTER SYSTEM SET max_slot_wal_keep_size = '64MB'; SELECT pg_reload_conf();")
        self.addCleanup(self.pg.psql, 'ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()')
        self.pg.psql(f"BEGIN; INSERT INTO {self.name} VALUES (900, 'p'); PREPARE TRANSACTION 'gap'")
        self.addCleanup(self.pg.psql, "ROLLBACK PREPARED 'gap'", False)
        self.write_wal(4)
        said = self.until(lambda shown: shown['source'] and 'warning' in shown['source'], 'warned')['source']
        self.assertLess(said['safe_wal_bytes'], 64 << 20)
        self.write_wal(4)
        self.pg.psql('CHECKPOINT')
        self.assertIn('the server removed the WAL that the slot', self.failed())
        self.pg.psql("ROLLBACK PREPARED 'gap'; " f'DELETE FROM {self.name} WHERE id < 10')
        self.again()

    def swap(self, copy):
        """The server's folder becomes the copy that was made of it."""
        self.kill()
        self.pg.stop()
        data = os.path.join(self.pg.folder, 'data')
        os.rename(data, os.path.join(self.folder, 'newer'))
        os.rename(copy, data)

    def copy(self):
        copy = os.path.join(self.pg.folder, 'copy')
        self.pg.stop()
        subprocess.run(['cp', '-a', os.path.join(self.pg.folder, 'data'), copy], check=True)
        self.pg.start()
        self.insert(101, 200)
        self.pg.psql(f'DELETE FROM {self.name} WHERE id <= 10')
        self.same(self.name)
        return copy

    def test_older_copy(self):
        self.begin()
        self.swap(self.copy())
        self.pg.start()
        self.serve()
        self.assertIn('it is an older copy', self.failed())
        self.order('snapshot', '--gap')
        self.same(self.name)

    def test_older_copy_that_went_on(self):
        """On a timeline of its own, and already past what was captured."""
        self.begin()
        self.swap(self.copy())
        with open(os.path.join(self.pg.folder, 'data', 'recovery.signal'), 'w', encoding='utf-8'):
            pass
        self.pg.start(restore_command='/bin/false')
        end = time.monotonic() + PATIENCE
        while self.pg.psql('SELECT pg_is_in_recovery()') != 'f\n':
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        self.write_wal(3)
        self.serve()
        self.assertRegex(self.failed(), r'on timeline 2 now, left timeline 1 before it')
        self.order('snapshot', '--gap')
        self.same(self.name)
        self.kill()
        self.serve()
        self.same(self.name)

    def test_published_again(self):
        self.begin()
        self.kill()
        self.pg.psql(f'ALTER PUBLICATION oxbow_{self.name} DROP TABLE {self.name}')
        self.insert(300, 310)
        self.serve()
        self.assertIn('is not in the publication', self.failed())
        self.prepare()
        self.order('snapshot', self.name, '--differences')
        self.same(self.name)

    def test_key_changed(self):
        self.begin('id int PRIMARY KEY, v text NOT NULL')
        self.pg.psql(f'ALTER TABLE {self.name} RENAME v TO w; ALTER TABLE {self.name} RENAME id TO ident;'
                     f"INSERT INTO {self.name} VALUES (300, 'x')")
        self.caught_up()
        self.pg.psql(f'ALTER TABLE {self.name} DROP CONSTRAINT {self.name}_pkey, ADD PRIMARY KEY (ident, w);'
                     f"UPDATE {self.name} SET w = 'y' WHERE ident = 1; DELETE FROM {self.name} WHERE ident = 2")
        self.assertIn('its key changed from (ident) to (ident, w)', self.failed())
        self.kill()
        self.serve()
        self.failed()
        self.order('snapshot', self.name, '--differences')
        self.caught_up()
        self.assertEqual(self.fold()[self.name], {f'{r["ident"]}|{r["w"]}': r
                                                  for r in self.table(self.name, 'ident').values()})
        self.pg.psql(f'ALTER TABLE {self.name} DROP CONSTRAINT {self.name}_pkey, ADD PRIMARY KEY (ident);'
                     f"UPDATE {self.name} SET w = 'z' WHERE ident = 3")
        self.assertIn('its key changed from (ident, w) to (ident)', self.failed())
        self.order('snapshot', self.name, '--differences')
        self.same(self.name, 'ident')

    def test_key_gone(self):
        self.begin()
        self.pg.psql(f"ALTER TABLE {self.name} DROP CONSTRAINT {self.name}_pkey;"
                     f"INSERT INTO {self.name} VALUES (300, 'x')")
        self.assertIn('it has no key any more', self.failed())
        self.pg.psql(f'ALTER TABLE {self.name} ADD PRIMARY KEY (id)')
        self.again()

    def test_columns_within_a_transaction(self):
        self.begin('id int PRIMARY KEY, v text, gone int')
        t = self.name
        self.pg.psql(f"BEGIN; INSERT INTO {t} VALUES (201, 'a', 1);"
                     f"ALTER TABLE {t} ADD COLUMN more int DEFAULT 5; INSERT INTO {t} VALUES (202, 'b', 2);"
                     f"ALTER TABLE {t} RENAME v TO w; INSERT INTO {t} VALUES (203, 'c', 3);"
                     f"ALTER TABLE {t} DROP COLUMN gone; INSERT INTO {t} VALUES (204, 'd');"
                     f"ALTER TABLE {t} ALTER more TYPE text USING 'm' || more; INSERT INTO {t} VALUES (205, 'e');"
                     f'UPDATE {t} SET w = w || id; COMMIT')
        self.same(t)
        first = {e['stream'].split('-')[1]: e['data'] for e in self.events('$all')
                 if e['type'] == 'Inserted' and e['stream'].startswith(t + '-')}
        self.assertEqual(first, {
            '201': {'id': '201', 'v': 'a', 'gone': '1'},
            '202': {'id': '202', 'v': 'b', 'gone': '2', 'more': '5'},
            '203': {'id': '203', 'w': 'c', 'gone': '3', 'more': '5'},
            '204': {'id': '204', 'w': 'd', 'more': '5'},
            '205': {'id': '205', 'w': 'e', 'more': '5'}})


class Workload(threading.Thread):
    """A session of random statements, which goes on after an error."""

    def __init__(self, pg, table, seed, rounds):
        super().__init__(daemon=True)
        self.pg, self.table, self.random, self.rounds = pg, table, random.Random(seed), rounds

    def statement(self):
        r, t = self.random, self.table
        key, other = r.randrange(1, 400), r.randrange(1, 400)
        return r.choice([
            f"INSERT INTO {t} VALUES ({key}, {other}, repeat('i', {r.randrange(80)})) ON CONFLICT DO NOTHING",
            f"INSERT INTO {t} VALUES ({key}, {other}, 'u') ON CONFLICT (id) DO UPDATE SET n = {t}.n + 1",
            f'UPDATE {t} SET n = n + 1 WHERE id BETWEEN {key} AND {key + 5}',
            f'UPDATE {t} SET id = {other} WHERE id = {key} AND NOT EXISTS '
            f'(SELECT FROM {t} WHERE id = {other})',
            f'DELETE FROM {t} WHERE id = {key}',
            f"INSERT INTO {t} SELECT i, 1, repeat('b', 30) FROM generate_series(500, "
            f'{r.randrange(500, 1800)}) i ON CONFLICT DO NOTHING',
            f'DELETE FROM {t} WHERE id >= 500',
            f'UPDATE {t} SET n = n - 1',
        ])

    def script(self):
        r, out = self.random, []
        for i in range(self.rounds):
            kind = r.randrange(12)
            if kind < 6:
                out.append(self.statement())
                continue
            out.append('BEGIN')
            for _ in range(r.randrange(1, 6)):
                out.append(self.statement())
                if r.random() < 0.3:
                    out += ['SAVEPOINT s', self.statement(), r.choice(['ROLLBACK TO s', 'RELEASE s'])]
            if kind == 6 and r.random() < 0.2:
                out.append(f'TRUNCATE {self.table}')
            if kind == 7:
                out += [f"PREPARE TRANSACTION 'p{i}'", r.choice(['COMMIT', 'ROLLBACK']) + f" PREPARED 'p{i}'"]
            else:
                out.append('ROLLBACK' if kind == 8 else 'COMMIT')
        return ';\n'.join(out) + ';\n'

    def run(self):
        subprocess.run([self.pg.bin + '/psql', '-X', '-q', '-At', '-d', self.pg.connection()],
                       input=self.script().encode(), capture_output=True, check=False)


class Faults(Case):
    late = True

    def begin(self, rows, value="'r'", **more):
        self.pg.psql(f'CREATE TABLE {self.name} (id int PRIMARY KEY, n int, v text);'
                     f'ALTER TABLE {self.name} ALTER v SET STORAGE EXTERNAL;'
                     f'INSERT INTO {self.name} SELECT i, 0, {value} FROM generate_series(1, {rows}) i')
        self.configure([self.name], **{'chunk': 150, 'batch': 40, **more})
        self.prepare()

    def test_killed_at_each_step(self):
        """At every durable write of the first ones: through the snapshot and the stream."""
        if not os.path.exists(KILLER):
            self.skipTest('KILL_AT_SYNC names no library')
        self.begin(600, two_phase=True)
        work = Workload(self.pg, self.name, SEED, 250)
        work.start()
        for n in [1, 2, 3, 5, 8, 13, 21, 40]:
            self.serve(LD_PRELOAD=KILLER, KILL_AT=str(n))
            self.dies(work.is_alive)  # there may be too little left to write
        work.join()
        self.kill()
        self.serve()
        self.same(self.name)

    def test_connection_cut(self):
        r = random.Random(SEED)
        cutter = Cutter(self.pg.port, [5, 400] + [r.randrange(300, 60000) for _ in range(4)])
        self.addCleanup(cutter.close)
        self.begin(600)
        self.configure([self.name], chunk=150, batch=40, connection=self.pg.connection(cutter.port))
        work = Workload(self.pg, self.name, SEED + 1, 120)
        self.serve()
        work.start()
        work.join()
        self.same(self.name)
        self.assertGreater(cutter.cuts, 2)

    def test_server_restarts(self):
        self.begin(600)
        self.serve()
        for i in range(3):
            work = Workload(self.pg, self.name, SEED + 10 + i, 60)
            work.start()
            time.sleep(0.3)
            self.pg.stop()
            work.join()
            self.pg.start()
        for gid in self.pg.psql('SELECT gid FROM pg_prepared_xacts').split():
            self.pg.psql(f"ROLLBACK PREPARED '{gid}'")
        self.same(self.name)

    def test_snapshot_beside_writers(self):
        """Four sessions write while the table is read in small chunks, three at once."""
        self.begin(3000, snapshot_parallel=3)
        works = [Workload(self.pg, self.name, SEED + 20 + i, 60) for i in range(4)]
        for work in works:
            work.start()
        self.serve()
        for work in works:
            work.join()
        self.same(self.name)


    def update(self, seed):
        r = random.Random(seed)
        self.pg.psql(''.join(f'UPDATE {self.name} SET n = n + 1 WHERE id = {r.randrange(1500)};\n'
                             for _ in range(3000)))

    def test_large_values_beside_writers(self):
        """Updates that leave a large value out while the snapshot reads it."""
        self.begin(1500, "repeat('x', 3000) || i", chunk=250, snapshot_parallel=2)
        works = [threading.Thread(target=self.update, args=(SEED + i,)) for i in range(3)]
        for work in works:
            work.start()
        self.serve()
        for work in works:
            work.join()
        self.same(self.name)


class Session(threading.Thread):
    """Random transactions, DDL among them, until told to stop; after an error, or without a server,
    it goes on."""

    def __init__(self, pg, table, seed, end):
        super().__init__(daemon=True)
        self.pg, self.table, self.random, self.end = pg, table, random.Random(seed), end
        self.number, self.seed = 0, seed

    def change(self):
        r, t = self.random, self.table
        key, other = r.randrange(1, 600), r.randrange(1, 600)
        column = f'c{r.randrange(3)}'
        ddl = [f'ALTER TABLE {t} ADD COLUMN IF NOT EXISTS {column} int',
               f'ALTER TABLE {t} DROP COLUMN IF EXISTS {column}',
               f'ALTER TABLE {t} ALTER {column} TYPE text',
               f'ALTER TABLE {t} ALTER {column} TYPE bigint USING NULL',
               f'ALTER TABLE {t} RENAME {column} TO d{r.randrange(2)}',
               f'ALTER TABLE {t} DROP COLUMN IF EXISTS d{r.randrange(2)}']
        return r.choice([
            f"INSERT INTO {t} (id, n, v) VALUES ({key}, {other}, repeat('i', {r.randrange(4000)})) "
            'ON CONFLICT DO NOTHING',
            f"INSERT INTO {t} (id, n, v) VALUES ({key}, {other}, 'u') ON CONFLICT (id) DO UPDATE SET n = {t}.n + 1",
            f'UPDATE {t} SET n = n + 1 WHERE id BETWEEN {key} AND {key + 5}',
            f'UPDATE {t} SET id = {other} WHERE id = {key} AND NOT EXISTS (SELECT FROM {t} WHERE id = {other})',
            f'DELETE FROM {t} WHERE id = {key}', f'DELETE FROM {t} WHERE id = {key}',
            f'UPDATE {t} SET {column} = {other} WHERE id = {key}',
            f"INSERT INTO {t} (id, n, v) SELECT i, 1, repeat('b', 30) FROM generate_series(1000, "
            f'{r.randrange(1000, 6000)}) i ON CONFLICT DO NOTHING' if r.random() < 0.3
            else f'DELETE FROM {t} WHERE id >= 1000',
            f'UPDATE {t} SET n = n - 1' if r.random() < 0.2 else f'UPDATE {t} SET n = n - 1 WHERE id < 20',
            r.choice(ddl) if r.random() < 0.3 else f'UPDATE {t} SET n = 0 WHERE id = {key}',
        ])

    def transaction(self):
        r, out = self.random, ['BEGIN']
        for _ in range(r.choice([1, 1, 2, 5, 20])):
            out.append(self.change())
            if r.random() < 0.2:
                out += ['SAVEPOINT s', self.change(), r.choice(['ROLLBACK TO s', 'RELEASE s'])]
        if r.random() < 0.02:
            out.append(f'TRUNCATE {self.table}')
        self.number += 1
        gid = f"'s{self.seed}_{self.number}'"
        if r.random() < 0.1:
            return out + [f'PREPARE TRANSACTION {gid}', r.choice(['COMMIT', 'ROLLBACK']) + f' PREPARED {gid}']
        return out + [r.choice(['ROLLBACK', 'COMMIT', 'COMMIT', 'COMMIT', 'COMMIT'])]

    def run(self):
        while not self.end.is_set():
            lines = [line for _ in range(20) for line in self.transaction()]
            done = subprocess.run([self.pg.bin + '/psql', '-X', '-q', '-At', '-d', self.pg.connection()],
                                  input=(';\n'.join(lines) + ';\n').encode(), capture_output=True,
                                  check=False)
            if done.returncode == 2:
                time.sleep(0.05)


class Differential(Case):
    """Four sessions at once, while Oxbow is killed, the server restarts, connections are cut and
    snapshots are asked for; then what was captured is the table. SECONDS says how long."""
    late = True

    def disturb(self, r, cutter, end):
        while time.monotonic() < end:
            time.sleep(r.uniform(0.1, 1.5))
            what = r.randrange(10)
            if what < 4:
                self.kill()
                self.serve()
            elif what < 7:
                cutter.after += [r.randrange(300, 200000) for _ in range(4)]
                cutter.drop()
            elif what < 8:
                self.pg.stop()
                self.pg.start()
            else:
                subprocess.run([OXBOW, 'source', 'snapshot', self.name, self.name,
                                *(['--differences'] if what == 9 else []), '--server',
                                f'http://127.0.0.1:{self.port}'], capture_output=True, check=False,
                               timeout=PATIENCE)

    def compare(self, captured, table):
        """With all that was captured of the first row that is not the same."""
        wrong = sorted(k for k in {*captured, *table} if captured.get(k) != table.get(k))
        if not wrong:
            return
        said = [(e['pos'], e['type'], e['metadata']['$source'].get('position'), e['data']) for e in self.events('$all')
                if (e.get('metadata') or {}).get('$source', {}).get('key') == wrong[0] or e['type'] == 'Truncated']
        xmin = self.pg.psql(f'SELECT xmin, txid_current() FROM {self.name} WHERE id = {wrong[0]}')
        self.fail(f'SEED={SEED}: {len(wrong)} rows differ: {wrong[:20]}\n{captured.get(wrong[0])} is not '
                  f'{table.get(wrong[0])} of {xmin}' + '\n'.join(str(s)[:300] for s in said[-12:]) +
                  f'\n{self.show()}')

    def run_it(self, **settings):
        r = random.Random(SEED)
        cutter = Cutter(self.pg.port, [])
        self.addCleanup(cutter.close)
        self.pg.psql(f'CREATE TABLE {self.name} (id int PRIMARY KEY, n int, v text);'
                     f'ALTER TABLE {self.name} ALTER v SET STORAGE EXTERNAL;'
                     f"INSERT INTO {self.name} SELECT i, 0, repeat('r', 20) FROM generate_series(1, 900) i")
        self.configure([self.name], chunk=150, batch=40, connection=self.pg.connection(cutter.port),
                       **settings)
        self.prepare()
        self.serve()
        end = threading.Event()
        sessions = [Session(self.pg, self.name, SEED * 100 + i, end) for i in range(4)]
        for session in sessions:
            session.start()
        self.disturb(r, cutter, time.monotonic() + SECONDS)
        end.set()
        for session in sessions:
            session.join()
        cutter.after = []
        for gid in self.pg.psql('SELECT gid FROM pg_prepared_xacts').split():
            self.pg.psql(f"ROLLBACK PREPARED '{gid}'")
        self.caught_up()
        steady = [{key: {c: row[c] for c in ('id', 'n', 'v')} for key, row in rows.items()}
                  for rows in (self.fold()[self.name], self.table(self.name))]
        self.compare(*steady)
        # What a change of columns made of the rows is in no change: one update says it.
        self.pg.psql(f'UPDATE {self.name} SET n = n + 1')
        self.same(self.name)

    def test_differential(self):
        self.run_it()

    def test_differential_transactions(self):
        self.run_it(transactions=True, two_phase=True, snapshot_parallel=2)
        seen = {}
        for e in self.events('$all'):
            part = (e.get('metadata') or {}).get('$source', {}).get('transaction')
            if part is None:
                continue
            last = seen.get(part['id'])
            if last is not None and last != part:
                self.assertEqual((int(part['part']), last['last']), (int(last['part']) + 1, False))
            seen[part['id']] = part
        self.assertTrue(all(part['last'] for part in seen.values()))
        self.assertGreater(len(seen), 10)


def find_versions():
    done = subprocess.run([os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools',
                                        'postgres-servers'), '--found'],
                          capture_output=True, text=True, check=False)
    return [line.split(' ', 1) for line in done.stdout.splitlines()]


class Versions(Case):
    """The same in short against each server of tools/postgres-servers that is there."""

    @classmethod
    def setUpClass(cls):
        cls.versions = find_versions()
        if not cls.versions:
            print('skip: no PostgreSQL of other versions is there; tools/postgres-servers fetches them')
            raise SystemExit(77)
        cls.top = tempfile.mkdtemp(prefix='oxbow-postgres-')
        cls.addClassCleanup(shutil.rmtree, cls.top, True)

    def test_versions(self):
        for version, native in self.versions:
            with self.subTest(version):
                self.one(int(version.split('.')[0]), native)

    def one(self, major, native):
        self.late = False
        self.pg = servers.Postgres(os.path.join(self.top, f'pg{major}'), native,
                                   **({'logical_decoding_work_mem': '64kB'} if major >= 13 else {})).start()
        self.addCleanup(self.pg.end)
        self.folder = os.path.join(self.top, f'oxbow{major}')
        os.makedirs(self.folder)
        self.pg.psql('CREATE TABLE t (id int PRIMARY KEY, n numeric, v text, a int[], j jsonb, z date);'
                     "INSERT INTO t SELECT i, i * 1.10, 'v', ARRAY[i, NULL], '{\"k\": 1.50}', now() "
                     'FROM generate_series(1, 500) i')
        self.configure(['t'], chunk=150, messages=major >= 14, transactions=True,
                       failover=major == 17, two_phase=major >= 15 and major != 17)
        self.prepare()
        self.serve()
        self.same('t')
        self.pg.psql('BEGIN; INSERT INTO t (id, n) SELECT i, 2 FROM generate_series(1000, 4000) i; SAVEPOINT s;'
                     'DELETE FROM t; ROLLBACK TO s; UPDATE t SET id = -id WHERE id < 10; COMMIT;'
                     "BEGIN; UPDATE t SET v = 'two' WHERE id < 100; PREPARE TRANSACTION 'a';")
        self.caught_up()
        self.kill()
        self.serve()
        self.pg.psql("INSERT INTO t (id) VALUES (9000); BEGIN; DELETE FROM t WHERE id > 3900;"
                     "PREPARE TRANSACTION 'b'; COMMIT PREPARED 'a'; ROLLBACK PREPARED 'b';")
        self.same('t')
        self.pg.psql('ALTER TABLE t ADD COLUMN more int; UPDATE t SET more = id')
        self.same('t')
        before = len(self.events('$all'))
        self.oxbow('source', 'snapshot', self.name, 't', '--differences', '--server',
                   f'http://127.0.0.1:{self.port}')
        self.until(lambda shown: 'differences' not in shown['checkpoint'], 'read again')
        self.same('t')
        self.assertEqual(len(self.events('$all')), before)
        self.kill()
        self.pg.end()
        shutil.rmtree(self.pg.folder)


if __name__ == '__main__':
    unittest.main()
