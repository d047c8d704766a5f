"""What the examples of outboxes share: a shop whose workers write into the table, Oxbow as a process that
is killed, and the question that is asked of each far side.

    ORDERS=300   orders that the shop takes; each changes three times
    WORKERS=4    of the shop"""
import collections
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get('BUILD', ROOT / 'build')).resolve()
OXBOW = next((p for p in (BUILD / 'oxbow', BUILD / 'src/cli/oxbow') if p.exists()), BUILD / 'oxbow')
sys.path.insert(0, str(ROOT / 'tests'))
import brokers  # noqa: E402  the real servers, as the tests start them

ORDERS = int(os.environ.get('ORDERS', '300'))
WORKERS = int(os.environ.get('WORKERS', '4'))
STATES = ['placed', 'paid', 'sent']
PATIENCE = 120


def until(holds, what):
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(what)
        time.sleep(0.02)


class Sqlite:
    def __init__(self, path):
        self.db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)

    def commit(self, *statements):
        for s in ('BEGIN IMMEDIATE', *statements, 'COMMIT'):
            self.db.execute(s)

    def rows(self, text):
        return self.db.execute(text).fetchall()

    def script(self, text):
        self.db.executescript(text)

    def close(self):
        self.db.close()


class Psql:
    """A session of psql's."""

    def __init__(self, server):
        self.server = server
        self.process = subprocess.Popen(['psql', '-X', '-q', '-t', '-A', server.url], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def commit(self, *statements):
        text = '\n'.join(f'{s};' for s in ('BEGIN', *statements, 'COMMIT'))
        self.process.stdin.write(text + "\nSELECT 'done';\n")
        self.process.stdin.flush()
        if self.process.stdout.readline().strip() != 'done':
            raise AssertionError('the shop cannot commit')

    def rows(self, text):
        return self.server.sql(text)

    def script(self, text):
        self.server.sql(text)

    def close(self):
        self.process.communicate()


class Shop:
    """Workers that place orders and advance them: a change and its message in one transaction."""

    def __init__(self, connect, database):
        self.connect, self.committed = connect, []
        self.workers = [threading.Thread(target=self.work, args=(i,)) for i in range(WORKERS)]
        self.db = connect()
        self.db.script('CREATE TABLE orders(id INTEGER PRIMARY KEY, state TEXT NOT NULL)')
        self.db.script(subprocess.run([OXBOW, 'outbox', 'sql', '--for', database], check=True,
                                      capture_output=True).stdout.decode())

    def work(self, first):
        db = self.connect()
        for order in range(first, ORDERS, WORKERS):
            for state in STATES:
                payload = json.dumps({'id': order, 'state': state})
                db.commit(
                    f"INSERT INTO orders VALUES ({order}, '{state}')" if state == STATES[0] else
                    f"UPDATE orders SET state = '{state}' WHERE id = {order}",
                    'INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) '
                    f"VALUES ('{uuid.uuid4()}', 'orders', '{order}', '{state}', '{payload}')")
                self.committed.append((order, state))
        db.close()

    def count(self, where='true'):
        (count,), = self.db.rows(f'SELECT count(*) FROM outbox WHERE {where}')
        return int(count)

    def marked(self):
        """Every row is there, and has the time at which Oxbow's log had it."""
        until(lambda: self.count('sent_at IS NULL') == 0, 'rows are not marked')
        if self.count() != len(self.committed):
            raise AssertionError('the outbox does not have the rows that were committed')


class Oxbow:
    def __init__(self, folder, conf, **env):
        self.folder, self.conf, self.process = folder, conf, None
        self.env = dict(os.environ, OXBOW_DATA=str(folder / 'data'), **env)

    def command(self, *args):
        subprocess.run([OXBOW, *args, '-c', self.conf], env=self.env, check=True,
                       stdout=subprocess.DEVNULL)

    def start(self):
        self.port, = brokers.free_ports(1)
        with open(self.folder / 'oxbow.log', 'ab') as log:
            self.process = subprocess.Popen([OXBOW, 'serve', '-c', self.conf, '--listen',
                                             f'127.0.0.1:{self.port}'], env=self.env,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(lambda: self.process.poll() is not None or brokers.answers(self.port), 'no server')

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def parked(self, sink):
        with urllib.request.urlopen(f'http://127.0.0.1:{self.port}/v1/sinks/{sink}') as answer:
            return json.load(answer)['parked']


def drive(oxbow, shop, came, all_came):
    """The shop at work while Oxbow is killed twice; until everything has come."""
    oxbow.command('source', 'check', 'shop')
    oxbow.start()
    print(f'{WORKERS} workers take {ORDERS} orders; Oxbow is killed twice', flush=True)
    for w in shop.workers:
        w.start()
    for part in (3, 2):
        until(lambda n=part: came() >= ORDERS // n, 'nothing comes')
        oxbow.kill()
        oxbow.start()
    for w in shop.workers:
        w.join()
    until(all_came, 'not all of it comes')


def check(name, got, committed):
    """Of (order, state, id), in the order of coming. Lost 0; of each order the changes in the shop's
    order, at their first coming; how many came twice, which they may under one id."""
    wanted, first, ids = collections.defaultdict(list), collections.defaultdict(list), {}
    for order, state in committed:
        wanted[order].append(state)
    for order, state, key in got:
        if state not in first[order]:
            first[order].append(state)
        if ids.setdefault((order, state), key) != key:
            raise AssertionError(f'{name}: a change came under two ids')
    if first != wanted:
        wrong = [o for o in wanted if first[o] != wanted[o]][:5]
        raise AssertionError(f'{name}: orders {wrong} differ: {[first[o] for o in wrong]}')
    return len(got) - len(committed)


def main(name, run, *kinds):
    """Exit status 1 if anything differs, 77 without a server that is needed."""
    brokers.skip_without(*kinds)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f'oxbow-{name}-'))
    try:
        run(folder)
    except AssertionError as wrong:
        print(f'{name}: {wrong}', file=sys.stderr)
        sys.exit(1)
    finally:
        shutil.rmtree(folder, True)
