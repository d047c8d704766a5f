"""A migration of the real binary between two SQLite databases, while the world does its worst: a
column that vanishes, somebody else's lock that lasts, file systems that take no writes, and a kill
at any durable write. OXBOW names the binary, KILL_AT_SYNC the library of kill_at_sync.c. Stdlib
only; what needs root is skipped without it."""
import contextlib
import http.client
import json
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
KILLER = os.environ.get('KILL_AT_SYNC', 'build/tests/libkill_at_sync.so')
PATIENCE = 120
ROWS = 60
STEPS = int(os.environ.get('STEPS', '24'))  # kills; 0: at every durable write
SECONDS = float(os.environ.get('SECONDS', '60'))  # no further kill after these


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='oxbow-migrate-')
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith('OXBOW_')}
        self.env['ASAN_OPTIONS'] = self.env.get('ASAN_OPTIONS', '') + ':detect_leaks=0'
        self.make()

    def path(self, name):
        return os.path.join(self.folder, name)

    new = 'new.db'

    # the two sides

    def connect(self, name):
        return sqlite3.connect(self.path(name), timeout=PATIENCE, isolation_level=None)

    def database(self, name, *statements):
        with contextlib.closing(self.connect(name)) as db:
            return [row for statement in statements for row in db.execute(statement)]

    def make(self):
        self.database('old.db', 'pragma journal_mode=wal',
                      'create table orders (id integer primary key, item text not null default '
                      "'x', state text, note text)",
                      f'with recursive n(i) as (select 1 union all select i + 1 from n where i < '
                      f"{ROWS}) insert into orders (id, state, note) select i, 'placed' || i, "
                      "case i % 3 when 0 then null when 1 then '' else 'ring' end from n")
        self.database(self.new, 'pragma journal_mode=wal',
                      'create table parts (id integer primary key, status text, memo text)')
        with open(self.path('c.yaml'), 'w', encoding='utf-8') as f:
            f.write(f'data: {self.path("data")}\nlog: {{segment_bytes: 2MiB}}\n'
                    'migrations:\n  orders:\n'
                    '    old:\n' + self.side('old.db', 'orders', 'state, note') +
                    '    new:\n' + self.side(self.new, 'parts', 'status, memo') +
                    '    columns: {state: status, note: memo}\n')

    def side(self, name, table, columns):
        where = 'where: state is not null, ' if table == 'orders' else ''
        return (f'      source: {{type: sqlite, path: {self.path(name)}, snapshot: false, '
                f'tables: [{{name: {table}, columns: [{columns}]}}]}}\n'
                f'      store: {{type: sqlite, path: {self.path(name)}, table: {table}, key: id, '
                f'{where}columns: [{columns}]}}\n')

    def rows(self):
        """What each side holds of the subset, read without Oxbow."""
        return (self.database('old.db', 'select id, state, note from orders where state is not '
                              'null order by id'),
                self.database(self.new, 'select id, status, memo from parts order by id'))

    # the server

    def start(self, **env):
        with open(self.path('server.log'), 'wb') as log:
            process = subprocess.Popen([OXBOW, 'serve', '--listen', '127.0.0.1:0', '-c',
                                        self.path('c.yaml')], stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, env={**self.env, **env})
        self.addCleanup(self.end, process)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = re.search(r'msg=listening .*port=(\d+)', self.server_log())
            if found:
                self.url = f'http://127.0.0.1:{found.group(1)}'
                return process
            if process.poll() is not None:
                return process
            time.sleep(0.01)
        self.fail('no server: ' + self.server_log())

    def server_log(self):
        with open(self.path('server.log'), encoding='utf-8', errors='replace') as f:
            return f.read()

    def stop(self, process):
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0, self.server_log())

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.kill()
        process.wait()

    def ask(self, path, method='GET'):
        request = urllib.request.Request(self.url + '/v1/migrations/orders' + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)

    def status(self):
        return self.ask('')[1]

    def command(self, word):
        code, body = self.ask('/' + word, 'POST')
        self.assertLess(code, 300, body)

    def until(self, condition, what):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        self.fail(f'in vain: {what}: {self.status()}')

    def reach(self, *phases):
        def there():
            status = self.status()
            if status['phase'] == 'HALTED' and 'HALTED' not in phases:
                self.fail(f'halted: {status}')
            return status if status['phase'] in phases else None
        return self.until(there, phases)

    def same(self):
        self.until(lambda: len(set(map(tuple, self.rows()))) == 1, 'both sides the same')


class World(Case):
    """What others do to the databases."""

    def test_column_vanishes(self):
        """Halted with the reason; whatever was written before and after is carried over at last."""
        process = self.start()
        self.command('start')
        self.reach('READY')
        self.database('old.db', "update orders set state = 'before' where id = 7")
        self.until(lambda: self.rows()[1][6][1] == 'before', 'the change before')
        # A change still on its way, and the table made anew without the column, at one stroke.
        with contextlib.closing(self.connect('old.db')) as db:
            triggers = db.execute("select sql from sqlite_schema where type = 'trigger' and "
                                  "tbl_name = 'orders'").fetchall()
            db.execute('begin immediate')
            db.execute("update orders set state = 'with it' where id = 8")
            db.execute('create table anew (id integer primary key, item text not null default '
                       "'x', state text)")
            db.execute('insert into anew select id, item, state from orders')
            db.execute('create table notes as select id, note from orders')
            db.execute('drop table orders')
            db.execute('alter table anew rename to orders')
            db.execute('commit')
        self.database('old.db', "update orders set state = 'unseen' where id = 9")
        halted = self.reach('HALTED')
        self.assertRegex(halted['error'], r'\Athe feed of the old side: .*\bnote\b')
        self.assertNotIn('\n', halted['error'])
        self.assertEqual(halted['authority'], 'old')
        code, body = self.ask('/switch', 'POST')
        self.assertEqual(code, 409, body)
        # Nothing was taken away at the new side, and a restart does not go on by itself.
        self.assertEqual(len(self.rows_new()), ROWS)
        self.stop(process)
        process = self.start()
        self.assertEqual(self.status()['phase'], 'HALTED')
        # The column comes back, with what captures its changes; verification finds what was missed.
        with contextlib.closing(self.connect('old.db')) as db:
            db.execute('begin immediate')
            db.execute('alter table orders add column note text')
            db.execute('update orders set note = (select note from notes where notes.id = '
                       'orders.id)')
            for (sql,) in triggers:
                db.execute(sql)
            db.execute('commit')
        self.command('resume')
        self.until(lambda: self.rows()[1][7][1] == 'with it', 'what was under way')
        self.reach('READY')
        self.command('verify')
        self.until(lambda: self.status()['verify']['divergent'] == 1, 'the one nobody captured')
        self.command('repair')
        self.reach('READY')
        self.same()
        self.stop(process)

    @contextlib.contextmanager
    def locked(self):
        """Somebody has the whole database for himself, and no reader gets in either."""
        with contextlib.closing(self.connect('old.db')) as db:
            db.execute('begin exclusive')
            yield
            db.execute('rollback')

    def test_long_locks(self):
        """Tried again for as long as it takes, said in the status, and gone on with by itself."""
        self.database('old.db', 'pragma journal_mode=delete')
        process = self.start()
        self.command('start')
        self.reach('READY')
        for phase in ('READY', 'NEW_SOAK'):
            # The old side's feed at first; then the writes to it, which wait in their lanes.
            with self.locked():
                if phase == 'NEW_SOAK':
                    self.database(self.new, "update parts set status = 'waits' where id = 5")
                said = self.until(lambda: self.status()['error'], 'the lock in the status')
                self.assertIn('locked', said)
                self.assertNotIn('\n', said)
                time.sleep(6)  # how long the lock is held: beyond every wait of one try
                self.assertEqual(self.status()['phase'], phase)
            self.until(lambda: not self.status()['error'], 'no error any more')
            if phase == 'READY':
                self.database('old.db', "update orders set state = 'after' where id = 3")
            self.same()
            if phase == 'READY':
                self.reach('READY')
                self.locked_switch()
        self.command('reverse')
        self.reach('READY')
        self.same()
        self.stop(process)

    def locked_switch(self):
        """A switch that meets the lock holds no writes back, and goes on when it is gone."""
        answers = []
        with self.locked():
            asked = threading.Thread(target=lambda: answers.append(self.ask('/switch', 'POST')))
            asked.start()
            self.until(lambda: 'locked' in self.status()['error'], 'the lock in the status')
            time.sleep(4)  # beyond the lease
            self.assertEqual(self.status()['phase'], 'READY')
        asked.join(PATIENCE)
        self.assertEqual(answers, [(200, {'command': 'switch', 'done': True})])
        self.reach('NEW_SOAK')

    @contextlib.contextmanager
    def mounted(self, options):
        """A file system of its own, with the new side and the data folder on it."""
        if os.geteuid() != 0:
            self.skipTest('only root can mount a tmpfs')
        target = self.path('mount')
        os.makedirs(target)
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', target],
                              capture_output=True, check=False)
        if done.returncode != 0:
            self.skipTest('no tmpfs can be mounted here: ' + done.stderr.decode().strip())
        self.new = 'mount/new.db'
        try:
            os.remove(self.path('old.db'))
            self.make()
            yield target
        finally:
            subprocess.run(['umount', '-l', target], check=True)

    def test_read_only_mount(self):
        """Halted with the reason while the new side's file system takes no writes."""
        with self.mounted('size=16m') as target:
            process = self.start()
            self.command('start')
            self.reach('READY')
            self.stop(process)
            subprocess.run(['mount', '-o', 'remount,ro', target], check=True)
            self.database('old.db', "update orders set state = 'later' where id = 7")
            process = self.start()
            halted = self.reach('HALTED')
            self.assertRegex(halted['error'], 'new.db: cannot be written: Read-only file system')
            self.assertEqual(halted['authority'], 'old')
            self.stop(process)
            subprocess.run(['mount', '-o', 'remount,rw', target], check=True)
            process = self.start()
            self.assertEqual(self.status()['phase'], 'HALTED')
            self.command('resume')
            self.reach('READY')
            self.same()
            self.stop(process)

    def test_full_disk(self):
        """Tried again and said so while the new side's disk is full; then it goes on by itself."""
        with self.mounted('size=4m') as target:
            process = self.start()
            self.command('start')
            self.reach('READY')
            filler = os.path.join(target, 'filler')
            with contextlib.suppress(OSError), open(filler, 'wb', buffering=0) as f:
                while f.write(b'x' * 4096) > 0:
                    pass
            self.database('old.db', "update orders set state = 'later'")
            self.assertIn('full', self.until(lambda: self.status()['error'], 'a full disk'))
            self.assertEqual(self.status()['phase'], 'READY')
            os.remove(filler)
            self.same()
            self.until(lambda: not self.status()['error'], 'no error any more')
            self.reach('READY')
            self.stop(process)

    def rows_new(self):
        return self.database(self.new, 'select id from parts')


class Application(threading.Thread):
    """Writes one row after another where it is let, and knows what was acknowledged."""

    def __init__(self, case, seed):
        super().__init__()
        self.case, self.random, self.stopping, self.failure = case, random.Random(seed), False, None
        self.last = {}

    def run(self):
        try:
            n = 0
            while not self.stopping:
                n += 1
                self.write(self.random.randrange(1, ROWS), f'w{n}')
                time.sleep(0.005)
        except sqlite3.Error as failure:
            self.failure = failure

    def write(self, key, value):
        """At the old side at first; where the guard refuses, at the other one."""
        sides = (('old.db', 'update orders set state = ? where id = ?'),
                 ('new.db', 'update parts set status = ? where id = ?'))
        for i in range(100000):
            name, statement = sides[i % 2]
            try:
                with contextlib.closing(self.case.connect(name)) as db:
                    # A row that is not there yet is no acknowledgement.
                    if db.execute(statement, (value, key)).rowcount == 1:
                        self.last[key] = value
                        return
            except sqlite3.IntegrityError as refused:
                if 'oxbow: ' not in str(refused):
                    raise
            if self.stopping:
                return
            time.sleep(0.005)


class Kills(Case):
    """SIGKILL at a durable write, a restart, and on to the end: nothing lost, both sides equal."""

    def setUp(self):
        if not os.path.exists(KILLER):
            self.skipTest('KILL_AT_SYNC names no library')
        super().setUp()

    PATH = ('start', 'READY', 'switch', 'NEW_SOAK', 'reverse', 'READY', 'switch', 'NEW_SOAK',
            'complete?with=fallback', 'FALLBACK_KEPT')

    def drive(self, process):
        """The whole way, or until the server dies: whatever fails then is no failure."""
        until = time.monotonic() + PATIENCE
        for word in self.PATH:
            while process.poll() is None:
                with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                    if word.isupper() and self.status()['phase'] == word:
                        break
                    if not word.isupper() and self.ask('/' + word, 'POST')[0] < 300:
                        break
                self.assertLess(time.monotonic(), until, f'in vain: {word}')
                time.sleep(0.02)

    def go_on(self):
        """From wherever the record stands; a switch whose lease ran out is asked for again."""
        words = {'DRAFT': 'start', 'READY': 'switch', 'NEW_SOAK': 'complete?with=fallback'}
        until = time.monotonic() + PATIENCE
        while (phase := self.reach(*words, 'FALLBACK_KEPT')['phase']) != 'FALLBACK_KEPT':
            code, body = self.ask('/' + words[phase], 'POST')
            if code >= 300:
                self.assertLess(time.monotonic(), until, body)

    def records(self):
        """The phases and epochs that the log has of the migration, in order."""
        done = subprocess.run([OXBOW, 'read', '$migration-orders', '--json', '--data',
                               self.path('data')], capture_output=True, check=False, env=self.env,
                              timeout=PATIENCE)
        return [(e['data']['phase'], e['data']['epoch'])
                for e in map(json.loads, done.stdout.decode().splitlines())]

    def check(self, app):
        app.stopping = True
        app.join(PATIENCE)
        self.assertIsNone(app.failure)
        self.same()
        old, new = self.rows()
        self.assertEqual(len(old), ROWS)
        have = {key: state for key, state, _ in new}
        self.assertEqual({key: have[key] for key in app.last}, app.last)

    def begin(self, **killer):
        """A folder of its own, the server that is to die, and the application."""
        shutil.rmtree(self.folder, True)
        os.makedirs(self.folder)
        self.make()
        process = self.start(LD_PRELOAD=KILLER, **killer)
        app = Application(self, 1)
        self.addCleanup(setattr, app, 'stopping', True)
        app.start()
        return process, app

    def count(self):
        """How many durable writes there are on the whole way."""
        process, app = self.begin(KILL_AT='0', KILL_COUNT=self.path('count'))
        self.drive(process)
        self.check(app)
        self.stop(process)
        with open(self.path('count'), encoding='utf-8') as f:
            return int(f.read())

    def one(self, number):
        """Killed at this durable write of the process. What the record said then."""
        process, app = self.begin(KILL_AT=str(number))
        try:
            self.drive(process)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            status = process.wait(PATIENCE)  # a write of its end may be the one
            self.assertIn(status, (0, -signal.SIGKILL), self.server_log())
            records = self.records()
            process = self.start()
            self.go_on()
            self.check(app)
            self.stop(process)
        finally:
            app.stopping = True  # before the next one has the same folder
            app.join(PATIENCE)
        return status != 0, records[-1] if records else ('nothing', 0)

    def test_at_durable_writes(self):
        count = self.count()
        steps = min(STEPS, count) if STEPS else count
        until, killed, seen = time.monotonic() + SECONDS, [], set()
        # Halves, quarters, eighths, …: however soon the time is over, the whole way was tried.
        order = sorted(range(steps), key=lambda i: f'{i:016b}'[::-1])
        for i in order:
            if STEPS and time.monotonic() > until:
                break
            number = 1 + i * count // steps
            with self.subTest(number):
                dead, record = self.one(number)
                if dead:
                    killed.append(number)
                    seen.add(record)
        print(f'{len(killed)} kills at {sorted(killed)} of {count}; the record then: '
              f'{sorted(seen, key=lambda x: x[1])}', flush=True)
        self.assertTrue(killed)


if __name__ == '__main__':
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(unittest.main(verbosity=2))
