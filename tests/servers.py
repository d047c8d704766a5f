"""Real servers for tests: each in a folder of its own, on a free port of 127.0.0.1, as a plain user
also where the tests are root's, ended by their process ids."""
import atexit
import contextlib
import glob
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PATIENCE = 120

# A test that is told to stop takes its servers with it.
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def free_port():
    """One that stays this process's own until it ends, whether or not it listens there: others of
    these tests see that it is taken by a socket of its name, and the system gives ports below its own
    range to nobody."""
    with open('/proc/sys/net/ipv4/ip_local_port_range', encoding='ascii') as f:
        first = int(f.read().split()[0])
    chance = random.SystemRandom()
    for _ in range(10000):
        port = chance.randrange(first - 12000, first) if first > 16000 else chance.randrange(20000, 60000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            with claim:
                claim.bind(f'\0oxbow-tests-port-{port}')
                probe.bind(('127.0.0.1', port))
                claim.detach()  # held until the process ends
                return port
    raise RuntimeError('no port is free')


class Missing(Exception):
    """The server's program is not installed."""


class Server:
    """A process with a folder. `demote` runs what it starts as another user where we are root."""

    user = 'nobody'

    def __init__(self, folder):
        self.folder = folder
        self.process = None
        atexit.register(self.end)
        os.makedirs(folder, exist_ok=True)
        if os.geteuid() == 0:
            who = pwd.getpwnam(self.user)
            self.ids = {'user': who.pw_uid, 'group': who.pw_gid, 'extra_groups': []}
            os.chown(folder, who.pw_uid, who.pw_gid)
            above = os.path.dirname(folder)
            while above.startswith(tempfile.gettempdir() + '/'):
                os.chmod(above, os.stat(above).st_mode | 0o011)
                above = os.path.dirname(above)
        else:
            self.ids = {}

    env = None

    def once(self, *args):
        done = subprocess.run(args, cwd=self.folder, capture_output=True, check=False, env=self.env,
                              stdin=subprocess.DEVNULL, **self.ids)
        if done.returncode != 0:
            raise RuntimeError(f'{args[0]}: {done.stdout.decode()}{done.stderr.decode()}')
        return done.stdout.decode()

    def spawn(self, *args):
        """Where its part of the log begins."""
        with open(os.path.join(self.folder, 'log'), 'ab') as log:
            begin = len(self.text())
            self.process = subprocess.Popen(args, cwd=self.folder, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True,
                                            env=self.env, **self.ids)
        return begin

    def text(self):
        with open(os.path.join(self.folder, 'log'), encoding='utf-8', errors='replace') as f:
            return f.read()

    def wait_until(self, ready):
        until = time.monotonic() + PATIENCE
        while not ready():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError('no server: ' + self.text()[-3000:])
            time.sleep(0.02)

    def end(self, signum=signal.SIGKILL):
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signum)
            self.process.wait(PATIENCE)
            self.process = None

    def kill(self):
        """kill -9 of all of it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.end()


class Postgres(Server):
    """PostgreSQL, with logical decoding; fsync is off, since only processes are killed here.
    `native`: a folder of tools/postgres-servers, for the server's own programs."""

    user = 'postgres' if os.path.exists('/usr/lib/postgresql') else 'nobody'

    @staticmethod
    def programs():
        return next(iter(sorted(glob.glob('/usr/lib/postgresql/*/bin'))[-1:]), None)

    def __init__(self, folder, native=None, **settings):
        self.bin = self.programs()
        if self.bin is None:
            raise Missing('postgresql')
        self.own = self.bin
        if native is not None:
            self.own = native + '/bin'
            self.env = {**os.environ, 'LD_LIBRARY_PATH': native + '/lib'}
        super().__init__(folder)
        if native is not None and self.ids:
            # What lies in root's own folders the server's user cannot read.
            self.own = os.path.join(folder, 'native')
            shutil.copytree(native, self.own, symlinks=True)
            self.env = {**os.environ, 'LD_LIBRARY_PATH': self.own + '/lib'}
            self.own += '/bin'
        self.port = free_port()
        self.settings = {'wal_level': 'logical', 'max_wal_senders': 10, 'max_replication_slots': 10,
                         'max_prepared_transactions': 5, 'fsync': 'off', 'shared_buffers': '16MB',
                         'autovacuum': 'off',
                         # In its folder: what a killed server leaves goes with that.
                         'dynamic_shared_memory_type': 'mmap', **settings}
        self.once(self.own + '/initdb', '-D', 'data', '-A', 'trust', '-U', 'postgres', '--no-sync',
                  '--no-locale', '-E', 'UTF8')

    def ready(self):
        return subprocess.run([self.bin + '/pg_isready', '-q', '-h', '127.0.0.1', '-p',
                               str(self.port)], check=False).returncode == 0

    def start(self, **settings):
        self.settings.update(settings)
        args = [x for k, v in self.settings.items() for x in ('-c', f'{k}={v}')]
        until = time.monotonic() + PATIENCE
        while True:
            before = self.spawn(self.own + '/postgres', '-D', 'data', '-c',
                                'listen_addresses=127.0.0.1', '-c', f'port={self.port}', '-c',
                                f'unix_socket_directories={self.folder}', *args)
            try:
                self.wait_until(self.ready)
                return self
            except RuntimeError:
                # Those that a killed server left behind may still be there.
                if (time.monotonic() > until or
                        'pre-existing shared memory block' not in self.text()[before:]):
                    raise
                self.end()

    def stop(self):
        """At once, as after a failure of the machine; it recovers when it is started again."""
        self.end(signal.SIGQUIT)

    def connection(self, port=None, **more):
        given = {'host': '127.0.0.1', 'port': port or self.port, 'user': 'postgres',
                 'dbname': 'postgres', 'sslmode': 'disable', **more}
        return ' '.join(f'{k}={v}' for k, v in given.items())

    def psql(self, sql, check=True):
        """Unaligned rows, as text."""
        done = subprocess.run([self.bin + '/psql', '-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1',
                               '-d', self.connection()], input=sql.encode(), capture_output=True,
                              check=False, env={**os.environ, 'PGTZ': 'UTC'})
        if check and done.returncode != 0:
            raise RuntimeError(done.stderr.decode())
        return done.stdout.decode() if done.returncode == 0 else None

    def session(self):
        """psql that reads statements until its stdin is closed."""
        return subprocess.Popen([self.bin + '/psql', '-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1',
                                 '-d', self.connection()], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)
