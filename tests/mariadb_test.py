"""The source mariadb against a real server: the contract of sources, every type by snapshot and by
stream, a random workload while Oxbow and the server are killed, and what is refused. OXBOW names
the binary, CONTRACT the suite of tests/contract/source.c. Stdlib only."""
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request

import mariadb_server

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
CONTRACT = os.environ.get('CONTRACT', 'build/tests/contract/contract_source_mariadb')
PATIENCE = 90
SEED = int(os.environ.get('SEED', '7'))
STATEMENTS = int(os.environ.get('STATEMENTS', '150'))  # of a session and a round
ROUNDS = int(os.environ.get('ROUNDS', '3'))
SECONDS = float(os.environ.get('SECONDS', '0'))  # rounds go on until then

TYPES = '''
id int primary key, t1 tinyint, t1u tinyint unsigned, t2 smallint, t3 mediumint,
t3u mediumint unsigned, t4u int unsigned, t8 bigint, t8u bigint unsigned, zf int(6) zerofill,
dc decimal(20,6), dc2 decimal(65,30), dz decimal(5,2) zerofill, fl float, fl2 float(7,2), db double,
bo bool, bi1 bit(1), bi9 bit(9), bi64 bit(64), y year, d date, tm time, tm3 time(3), tm6 time(6),
dt datetime, dt1 datetime(1), dt6 datetime(6), ts timestamp null, ts2 timestamp(2) null,
ch char(4) character set utf8mb4, chl char(100) character set latin1,
vc varchar(20) character set utf8mb3, vcl varchar(300) character set latin1, bin binary(4),
vbin varbinary(4), tt tinytext, tx text character set latin1, lt longtext, bl blob, js json,
en enum('a','b''c','é'), enl enum('x','é') character set latin1, se set('r','g','b','ü'), pt point,
ge geometry, u uuid, i6 inet6, i4 inet4, gv int as (id + 1) virtual, gs int as (id * 2) stored,
inv int invisible default 7, asc1 varchar(5) character set ascii'''
NAMED = ('id,t1,t1u,t2,t3,t3u,t4u,t8,t8u,zf,dc,dc2,dz,fl,fl2,db,bo,bi1,bi9,bi64,y,d,tm,tm3,tm6,dt,dt1,'
         'dt6,ts,ts2,ch,chl,vc,vcl,bin,vbin,tt,tx,lt,bl,js,en,enl,se,pt,ge,u,i6,i4,inv,asc1')
ROWS = r'''
(1,-128,255,-32768,-8388608,16777215,4294967295,-9223372036854775808,18446744073709551615,42,
-12345678901234.567891,'99999999999999999999999999999999999.999999999999999999999999999999',1.5,
1.5e-10,3.14,1e308,1,b'1',b'100000001',x'ffffffffffffffff',2155,'9999-12-31','-838:59:59',
'-12:34:56.789','-00:00:00.000001','9999-12-31 23:59:59','2024-02-29 12:34:56.7',
'2024-02-29 12:34:56.000001','2038-01-19 03:14:07','1970-01-01 00:00:01.25','äö','€ÿ','ß','‰',
x'01000200',x'00ff','tiny','lätin','a"b\\c\n😀',x'00ff7f','{"a": [1, 2.50, "x"]}','é','é','r,ü',
point(1,2),st_geomfromtext('linestring(0 0,1 1)',4326),'f47ac10b-58cc-4372-a567-0e02b2c3d400',
'2001:db8::','10.0.0.0',7,'asc'),
(2,127,0,32767,8388607,0,0,9223372036854775807,0,999999,0.000001,-0.5,0,3.4028235e38,-99999.99,-0.1,0,
b'0',b'0',0,0,'0000-00-00','838:59:59','00:00:00.001','838:59:58.999999','0000-00-00 00:00:00',
'1000-01-01 00:00:00.1','0000-00-00 00:00:00','0000-00-00 00:00:00','2024-01-01 00:00:00','','','',
'','','','','','','','[]','bogus','x','',null,null,'00000000-0000-0000-0000-000000000000','::ffff:1.2.3.4',
'0.0.0.0',0,'')'''


class MariaDB(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not mariadb_server.installed():
            print('skip: mariadb-server-core and mariadb-client-core are not installed')
            raise SystemExit(77)
        cls.folder = tempfile.mkdtemp(prefix='oxbow-mariadb-')
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.server = mariadb_server.Server(os.path.join(cls.folder, 'server'), 1, '--sync-binlog=1')
        cls.addClassCleanup(cls.server.kill)
        cls.server.start()
        # What docs/mariadb.md asks for, and no more.
        cls.server.sql("create user oxbow@localhost identified by 'p'; grant replication slave, "
                       'binlog monitor on *.* to oxbow@localhost; grant select on *.* to oxbow@localhost;')

    def setUp(self):
        self.database = self.id().rsplit('.', 1)[-1]
        self.sql(f'create database {self.database}', None)
        self.place = os.path.join(self.folder, self.database)
        os.mkdir(self.place)
        self.process = None

    def tearDown(self):
        self.kill()

    def sql(self, text, database=''):
        return self.server.sql(text, self.database if database == '' else database)

    # Oxbow

    def configure(self, tables, more=''):
        with open(os.path.join(self.place, 'c.yaml'), 'w', encoding='utf-8') as f:
            f.write(f'data: {self.place}/data\nlog: {{segment_bytes: 2MiB}}\nsources:\n  shop:\n'
                    f'    type: mariadb\n    socket: {self.server.socket}\n    user: oxbow\n    password: p\n'
                    f'    database: {self.database}\n    snapshot_rows: 40\n    batch: 33\n'
                    f'    tables: [{", ".join("{" + t + "}" for t in tables)}]\n{more}')

    def start(self):
        path = os.path.join(self.place, 'server.log')
        with open(path, 'wb') as log:
            self.process = subprocess.Popen([OXBOW, 'serve', '--listen', '127.0.0.1:0', '-c',
                                             os.path.join(self.place, 'c.yaml')], stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            with open(path, encoding='utf-8', errors='replace') as f:
                found = re.search(r'msg=listening .*port=(\d+)', f.read())
            if found:
                self.url = f'http://127.0.0.1:{found.group(1)}'
                return
            time.sleep(0.01)
        self.fail('Oxbow does not start')

    def kill(self, number=signal.SIGKILL):
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.process = None

    def show(self):
        with urllib.request.urlopen(self.url + '/v1/sources/shop', timeout=PATIENCE) as answer:
            return json.load(answer)

    def wait(self, ready):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            shown = self.show()
            if ready(shown):
                return shown
            time.sleep(0.02)
        self.fail(f'not in time: {shown}')

    def reached(self):
        """Until all that the server has now is in the log."""
        server = self.sql('select @@gtid_binlog_pos', None)[0][0]

        def there(shown):
            place = shown['checkpoint']
            if shown['state'] == 'failed':
                self.fail(shown['error'])
            return (isinstance(place, dict) and shown['caught_up'] and not place['part'] and
                    len(place['read']) == len(place['tables']) and
                    int(place['gtid'].rsplit('-', 1)[-1]) >= int(server.rsplit('-', 1)[-1]))
        self.wait(there)

    def events(self):
        done = subprocess.run([OXBOW, 'read', '$all', '--json', '--server', self.url],
                              capture_output=True, check=True, timeout=PATIENCE)
        return [e for e in map(json.loads, done.stdout.splitlines())
                if not e['stream'].startswith('$')]

    def fold(self):
        """Each table as the events say; every before-image is what the events before it made."""
        tables, ids = {}, set()
        for e in self.events():
            table, _, key = e['stream'].partition('-')
            rows, source = tables.setdefault(table, {}), e['metadata']['$source']
            self.assertNotIn(e['id'], ids)
            ids.add(e['id'])
            if e['type'] == 'SchemaChanged':
                continue
            if e['type'] == 'Truncated':
                rows.clear()
                continue
            if 'before' in source and key in rows:
                # Columns that came, went or came again (c0 …) changed rows in no event.
                both = {k for k in source['before'].keys() & rows[key].keys()
                        if not re.fullmatch('c[0-9]', k)}
                self.assertTrue(both)
                self.assertEqual({k: source['before'][k] for k in both},
                                 {k: rows[key][k] for k in both}, e)
            if e['type'] == 'Deleted':
                rows.pop(key, None)
            else:
                rows[key] = e['data']
        return tables

    # tests

    def purge(self):
        """All binary logs but the last one. What a reader has open stays, also of one that is gone as
        long as the server has nothing to send to it."""
        until = time.monotonic() + PATIENCE
        while readers := self.sql("select id from information_schema.processlist where command like 'Binlog Dump%'",
                                  None):
            self.assertLess(time.monotonic(), until)
            for reader, in readers:
                with contextlib.suppress(RuntimeError):  # it is gone by now
                    self.sql(f'kill {reader}', None)
            time.sleep(0.02)
        last = self.sql('show binary logs', None)[-1][0]
        self.sql(f"flush binary logs; purge binary logs to '{last}';", None)

    def test_contract(self):
        done = subprocess.run([CONTRACT], env={**os.environ, 'MARIADB_SOCKET': self.server.socket},
                              capture_output=True, text=True, timeout=3 * PATIENCE)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_types(self):
        self.sql(f"set names utf8mb4, time_zone='+00:00', sql_mode='';"
                 f'create table a ({TYPES}) default character set utf8mb4; create table b like a;'
                 f'insert into a ({NAMED}) values {ROWS}; insert into a (id) values (3);')
        self.configure(['name: a', 'name: b'])
        self.start()
        self.reached()
        self.sql(f"set time_zone='+05:00', sql_mode=''; insert into b ({NAMED}) select {NAMED} from a;"
                 'set global log_bin_compress=1, log_bin_compress_min_len=10;'
                 "update b set lt=repeat('€', 30000) where id < 3;"
                 'set global log_bin_compress=0; delete from b where id=2;'
                 'update b set id=30 where id=3;')
        self.reached()
        a, b = [{}, {}], {}
        for e in self.events():
            if e['type'] in ('Read', 'Inserted'):
                a[e['type'] == 'Inserted'][e['stream'].partition('-')[2]] = e['data']
        self.assertEqual(sorted(a[0]), ['1', '2', '3'])
        self.assertEqual(a[0], {k: a[1][k] for k in a[0]})
        self.assertEqual(a[0]['1']['t8u'], 18446744073709551615)
        self.assertEqual(a[0]['1']['js'], {'a': [1, 2.5, 'x']})
        self.assertEqual(a[0]['1']['ts'], '2038-01-19 03:14:07')
        self.assertEqual(a[0]['1']['bin'], {'$blob': '01000200'})
        self.assertEqual(a[0]['1']['en'], 'é')
        self.assertEqual(a[0]['2']['tm'], '838:59:59')
        b = self.fold()['b']
        self.assertEqual(sorted(b), ['1', '30'])
        self.assertEqual(b['1']['lt'], '€' * 30000)

    def session(self, rng, name, end):
        """A random script of transactions, fed to a client of its own; errors are the application's."""
        lines = []
        for _ in range(STATEMENTS):
            k, n = rng.randrange(120), rng.randrange(1000)
            lines.append(rng.choice([
                f"insert into t values ({k}, '{name}{n}', {n} / 8, null);",
                f"replace into t values ({k}, '{name}{n}', {n} / 8, x'00{n:04d}');",
                f"update t set v='{name}{n}' where id between {k} and {k + rng.randrange(20)};",
                f'update t set id=id + {1000 + n} where id={k};',
                f'delete from t where id={k};', f'delete from t where id > 1000 and id % 7 = {n % 7};',
                f"insert into p values ('{k}', {n % 5}, '{name}') on duplicate key update x='{n}';",
                f"update p set b=b + 10 where a='{k}';", f"delete from p where a='{k}';",
                'start transaction;', 'commit;', 'commit;', 'rollback;', 'savepoint s;',
                'rollback to savepoint s;',
                'insert into other values (1);']))
            if rng.randrange(60) == 0:
                lines.append(rng.choice(
                    ['truncate table p;', f'alter table t add column if not exists c{n % 3} int default {n};',
                     f'alter table t drop column if exists c{n % 3};', 'flush binary logs;',
                     'update t set d=x\'0102\';']))
        lines.append('commit;')
        while not end.is_set():
            # After an error the script goes on, as an application does.
            done = self.server.run('mariadb', '-f', self.database, text='\n'.join(lines),
                                   check=False)
            if 'Lost connection' not in done.stderr and "Can't connect" not in done.stderr:
                return

    def test_kills(self):
        self.sql('create table t (id int primary key, v varchar(20), n double, d varbinary(9));'
                 'create table p (a varchar(9), b int, x text, primary key (a, b));'
                 'create table other (x int);'
                 "insert into t select seq, concat('s', seq), seq / 4, null from seq_1_to_900;"
                 "insert into p select seq, seq % 3, 'p' from seq_1_to_100;")
        self.configure(['name: t', 'name: p'])
        rng = random.Random(SEED)
        stop, turn = time.monotonic() + SECONDS, -1
        while turn + 1 < ROUNDS or time.monotonic() < stop:
            turn += 1
            end = threading.Event()
            threads = [threading.Thread(target=self.session,
                                        args=(random.Random(rng.random()), chr(97 + i), end))
                       for i in range(3)]
            for t in threads:
                t.start()
            for _ in range(3):
                self.start()
                seen = self.show()['changes']
                # A commit or two later, wherever that is.
                with contextlib.suppress(AssertionError):
                    until = time.monotonic() + 0.3
                    while time.monotonic() < until and self.show()['changes'] < seen + rng.randrange(300):
                        time.sleep(0.005)
                self.kill()
            if turn % 2 == 1:
                self.start()
                self.server.kill()
                self.server.start()
                self.kill()
            for t in threads:
                t.join(PATIENCE)
            end.set()
        self.start()
        # The defaults of new columns are in no row event: one update says them.
        self.sql("update t set v='end'; update t set v=concat('end', id); update p set x='end';")
        self.reached()
        tables = self.fold()
        columns = [r[0] for r in self.sql('select column_name from information_schema.columns where '
                                          f"table_schema='{self.database}' and table_name='t' "
                                          'order by ordinal_position')]
        wanted = ', '.join(f"'{c}', " + (f'hex({c})' if c == 'd' else c) for c in columns)
        rows = {str(r['id']): r for r in (json.loads(line[0]) for line in
                                          self.sql(f'select json_object({wanted}) from t'))}
        for r in rows.values():
            r['d'] = None if r['d'] is None else {'$blob': r['d'].lower()}
        self.assertEqual(tables['t'], rows)
        rows = {f"{r['a']}|{r['b']}": r for r in
                (json.loads(line[0]) for line in self.sql("select json_object('a', a, 'b', b, 'x', x) "
                                                          'from p'))}
        self.assertEqual(tables.get('p', {}), rows)

    def order(self, *args, status=0):
        done = subprocess.run([OXBOW, 'source', args[0], 'shop', *args[1:], '--server', self.url],
                              capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)

    def rows(self, table):
        return {str(r['id']): r for r in (json.loads(line[0]) for line in self.sql(
            f"select json_object('id', id, 'v', v) from {table}"))}

    def test_commands(self):
        self.sql('create table t (id int primary key, v int); create table u like t;'
                 'insert into t select seq, seq from seq_1_to_300; insert into u values (1, 1);')
        self.configure(['name: t', 'name: u'])
        self.start()
        self.reached()
        self.order('pause')
        self.assertEqual(self.show()['state'], 'paused')
        self.sql('update t set v = v + 1 where id < 10;')
        self.kill()
        self.start()
        self.wait(lambda s: s['state'] == 'paused')
        self.order('resume')
        self.reached()
        self.order('snapshot', 'nothing', status=1)
        self.order('snapshot', 't')
        self.sql('update t set v = v + 1 where id < 10; delete from t where id > 280;')
        self.reached()
        self.assertEqual(self.fold()['t'], self.rows('t'))
        count = len(self.events())
        self.order('snapshot', 't', '--differences')
        self.reached()
        self.assertEqual(len(self.events()), count)
        # What is purged before it was read: all differences, and the rows that are gone.
        self.order('pause')
        self.sql('delete from t where id % 3 = 0; update t set v = -1 where id % 3 = 1; '
                 'insert into t values (1000, 1); flush binary logs; insert into t values (1001, 1);')
        self.purge()
        self.sql('update t set v = 5 where id = 1001;')
        self.purge()
        self.order('resume')
        self.failed('a gap')
        self.order('snapshot', '--gap')
        self.reached()
        self.assertEqual(self.fold()['t'], self.rows('t'))
        said = [e['type'] for e in self.events()[count:]]
        self.assertEqual((said.count('Deleted'), said.count('Read')), (93, 96))
        self.order('drop')
        self.assertEqual(self.show()['state'], 'dropped')
        self.order('resume')
        self.reached()
        self.assertEqual(self.fold()['u'], self.rows('u'))

    def test_failover(self):
        """The server is gone for good; a replica of it goes on with the same GTIDs."""
        other = mariadb_server.Server(os.path.join(self.folder, 'other'), 2)
        self.addCleanup(other.kill)
        other.start()
        # From here on: earlier logs may be purged.
        at = self.sql('select @@gtid_binlog_pos', None)[0][0]
        other.sql(f"set sql_log_bin = 0; create database if not exists {self.database}; set global gtid_slave_pos='{at}'")
        self.sql("create user relay@'127.0.0.1' identified by 'p'; grant all on *.* to relay@'127.0.0.1';"
                 "create user relay@localhost identified by 'p'; grant all on *.* to relay@localhost;", None)
        other.sql(f"change master to master_host='127.0.0.1', master_port={self.server.port}, "
                  "master_user='relay', master_password='p', master_use_gtid=slave_pos, master_connect_retry=1; start slave;")
        self.sql('create table t (id int primary key, v int); insert into t select seq, seq from seq_1_to_90;')
        self.configure(['name: t'], f'    hosts: ["127.0.0.1:{other.port}"]\n    transactions: true\n')
        with open(os.path.join(self.place, 'c.yaml'), encoding='utf-8') as f:
            text = f.read().replace('user: oxbow', 'user: relay')
        with open(os.path.join(self.place, 'c.yaml'), 'w', encoding='utf-8') as f:
            f.write(text)
        self.start()
        self.reached()
        self.sql('update t set v = 0; alter table t add w varchar(9); start transaction; '
                 "insert into t values (100, 1, 'x'); delete from t where id < 5; commit;")
        at = self.sql('select @@gtid_binlog_pos', None)[0][0]
        self.assertEqual(other.sql(f"select master_gtid_wait('{at}', {PATIENCE})"), [['0']])
        first = self.server
        self.addCleanup(first.start)
        first.kill()
        other.sql('stop slave; insert into t values (101, 2, null); update t set v = 3 where id = 100;',
                  self.database)
        try:
            type(self).server = other
            self.reached()
            self.assertEqual({k: {'id': r['id'], 'v': r['v']} for k, r in self.fold()['t'].items()},
                             self.rows('t'))
            self.assertEqual(self.wait(lambda s: s['source']['port'] == other.port)['state'], 'running')
        finally:
            type(self).server = first
        shapes = [[c['type'] for c in e['data']['columns']] for e in self.events()
                  if e['type'] == 'SchemaChanged']
        self.assertEqual(shapes, [['int', 'int'], ['int', 'int', 'varchar']])
        parts = [e['metadata']['$source']['transaction'] for e in self.events()
                 if e['stream'] in ('t-100', 't-1') and e['type'] in ('Inserted', 'Deleted')]
        self.assertEqual(parts[0], parts[1])
        self.assertTrue(parts[0]['last'])

    def failed(self, text):
        shown = self.wait(lambda s: s['state'] == 'failed')
        self.assertIn(text, shown['error'])

    def test_losses(self):
        self.sql('create table t (id int primary key, v int); insert into t values (1, 1);')
        self.configure(['name: t'])
        self.start()
        self.reached()
        self.sql("set binlog_format='STATEMENT'; update t set v=2;")
        self.failed('statement format')
        self.kill()
        self.configure(['name: t'], '    restart: b\n')
        self.start()
        self.reached()
        self.assertEqual(self.fold(), {'t': {'1': {'id': 1, 'v': 2}}})
        self.sql('set binlog_row_image=MINIMAL; update t set v=3;')
        self.failed('in part')
        self.kill()
        self.configure(['name: t'], '    restart: b\n    images: any\n')
        self.start()
        self.reached()
        self.sql('set binlog_row_image=MINIMAL; update t set v=4; set binlog_row_image=FULL;'
                 'drop table t; create table t (id int primary key); insert into t values (5);')
        self.reached()
        self.assertEqual(self.fold(), {'t': {'5': {'id': 5}}})
        self.sql('rename table t to u, u to t;')
        self.failed('rename')
        self.kill(signal.SIGTERM)
        self.sql('flush binary logs; insert into t values (6);')
        self.purge()
        self.start()
        self.failed('a gap')
        self.kill()
        self.configure(['name: t'], '    restart: c\n')
        self.start()
        self.reached()
        self.assertEqual(self.fold(), {'t': {'5': {'id': 5}, '6': {'id': 6}}})
        self.sql('alter table t drop primary key, add x int default 1, add primary key (id, x);'
                 'insert into t values (7, 7);')
        self.failed('another primary key')
        # A second reader with the same number: the first one stops, and says why.
        self.configure(['name: t'], '    restart: c\n    server_id: 1\n')
        self.kill()
        self.start()
        self.failed("the server's own")

    def test_preflight(self):
        self.sql('create table nokey (x int); create table f (x float primary key);'
                 'create table my (x int primary key) engine=myisam;'
                 'create table g (x varchar(5) primary key) character set greek;'
                 'create table a (x int primary key); create table good (x int primary key, j json);'
                 'create table c (x int primary key, y int, foreign key (y) references a (x) on '
                 'delete cascade);')
        self.configure(['name: nokey', 'name: f', 'name: my', 'name: g', 'name: c', 'name: none',
                        'name: good'])
        done = subprocess.run([OXBOW, 'source', 'check', 'shop', '-c',
                               os.path.join(self.place, 'c.yaml')], capture_output=True, text=True,
                              timeout=PATIENCE)
        self.assertEqual(done.returncode, 1, done.stdout)
        for text in ('table nokey has no primary key', 'table f: a key with column x',
                     'table my: engine MyISAM', 'the character set greek',
                     'table c: a foreign key changes its rows', 'table none is not there', 'table good: 2 columns'):
            self.assertIn(text, done.stdout + done.stderr)


if __name__ == '__main__':
    unittest.main(verbosity=2)
