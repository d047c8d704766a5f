"""A migration of the real binary between two SQLite databases, while the world does its worst: a
column that vanishes, somebody else's lock that lasts, file systems that take no writes, and a kill
at any durable write. OXBOW names the binary. Stdlib only; what needs root or strace is skipped
without it."""
import contextlib
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
PATIENCE = 90
ROWS = 60
STEPS = int(os.environ.get('STEPS', '24'))  # kills; 0: at every durable write


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='oxbow-migrate-')
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith('OXBOW_')}
        self.env['ASAN_OPTIONS'] = self.env.get('ASAN_OPTIONS', '') + ':detect_leaks=0'
        self.make()

    def path(self, name):
        return os.path.join(self.folder, name)

    # the two sides

    def connect(self, name):
        return sqlite3.connect(self.path(name), timeout=PATIENCE, isolation_level=None)

    def database(self, name, *statements):
        with contextlib.closing(self.connect(name)) as db:
            return [row for statement in statements for row in db.execute(statement)]

    def make(self, journal='wal', more=''):
        self.database('old.db', f'pragma journal_mode={journal}',
                      'create table orders (id integer primary key, item text not null default '
                      "'x', state text, note text)",
                      f'with recursive n(i) as (select 1 union all select i + 1 from n where i < '
                      f"{ROWS}) insert into orders (id, state, note) select i, 'placed' || i, "
                      "case i % 3 when 0 then null when 1 then '' else 'ring' end from n")
        self.database('new.db', 'pragma journal_mode=wal',
                      'create table parts (id integer primary key, status text, memo text)')
        with open(self.path('c.yaml'), 'w', encoding='utf-8') as f:
            f.write(f'data: {self.path("data")}\nlog: {{segment_bytes: 2MiB}}\n'
                    'migrations:\n  orders:\n'
                    '    old:\n' + self.side('old.db', 'orders', 'state, note') +
                    '    new:\n' + self.side('new.db', 'parts', 'status, memo') +
                    '    columns: {state: status, note: memo}\n' + more)

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
                self.database('new.db', 'select id, status, memo from parts order by id'))

    # the server

    def start(self, *before):
        with open(self.path('server.log'), 'wb') as log:
            process = subprocess.Popen([*before, OXBOW, 'serve', '--listen', '127.0.0.1:0', '-c',
                                        self.path('c.yaml')], stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, env=self.env)
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

    def rows_new(self):
        return self.database('new.db', 'select id from parts')


if __name__ == '__main__':
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(unittest.main(verbosity=2))
