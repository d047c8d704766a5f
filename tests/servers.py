"""Real servers for tests: each in a folder of its own, on a free port of 127.0.0.1, as a plain user
also where the tests are root's, ended by their process ids."""
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

PATIENCE = 60


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Missing(Exception):
    """The server's program is not installed."""


class Server:
    """A process with a folder. `demote` runs what it starts as another user where we are root."""

    user = 'nobody'

    def __init__(self, folder):
        self.folder = folder
        self.process = None
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
        with open(os.path.join(self.folder, 'log'), 'ab') as log:
            self.process = subprocess.Popen(args, cwd=self.folder, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True,
                                            env=self.env, **self.ids)

    def wait_until(self, ready):
        until = time.monotonic() + PATIENCE
        while not ready():
            if self.process.poll() is not None or time.monotonic() > until:
                with open(os.path.join(self.folder, 'log'), encoding='utf-8', errors='replace') as f:
                    raise RuntimeError('no server: ' + f.read()[-3000:])
            time.sleep(0.02)

    def end(self, signum=signal.SIGKILL):
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signum)
            self.process.wait(PATIENCE)
            self.process = None


class Postgres(Server):
    """PostgreSQL, with logical decoding; fsync is off, since only processes are killed here.
    `native`: a folder of tools/postgres-servers, for the server's own programs."""

    user = 'postgres' if os.path.exists('/usr/lib/postgresql') else 'nobody'

    def __init__(self, folder, native=None, **settings):
        self.bin = next(iter(sorted(glob.glob('/usr/lib/postgresql/*/bin'))[-1:]), None)
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
                         'autovacuum': 'off', **settings}
        self.once(self.own + '/initdb', '-D', 'data', '-A', 'trust', '-U', 'postgres', '--no-sync',
                  '--no-locale', '-E', 'UTF8')

    def start(self, **settings):
        self.settings.update(settings)
        args = [x for k, v in self.settings.items() for x in ('-c', f'{k}={v}')]
        self.spawn(self.own + '/postgres', '-D', 'data', '-c', 'listen_addresses=127.0.0.1',
                   '-c', f'port={self.port}', '-c', f'unix_socket_directories={self.folder}', *args)
        self.wait_until(lambda: subprocess.run(
            [self.bin + '/pg_isready', '-q', '-h', '127.0.0.1', '-p', str(self.port)],
            check=False).returncode == 0)
        return self

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
