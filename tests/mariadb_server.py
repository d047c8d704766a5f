"""A real MariaDB server of a test's own, on a Unix socket and a free port of 127.0.0.1. Stdlib only."""
import os
import shutil
import signal
import subprocess
import time

from servers import PATIENCE, free_port


def installed():
    return all(shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin')
               for name in ('mariadbd', 'mariadb', 'mariadb-install-db'))


class Server:
    """Its data live in a folder; start, kill and stop as often as wanted."""

    def __init__(self, folder, server_id=1, *options):
        self.folder, self.process = folder, None
        self.data, self.socket = os.path.join(folder, 'data'), os.path.join(folder, 'my.sock')
        self.tmp = os.path.join(folder, 'tmp')
        self.options = [f'--server-id={server_id}', *options]
        self.port = free_port()
        os.makedirs(self.tmp)
        self.env = {**os.environ, 'TMPDIR': self.tmp,
                    'PATH': os.environ.get('PATH', '') + ':/usr/sbin'}
        self.user = ['--user=root'] if os.geteuid() == 0 else []
        with open(os.path.join(folder, 'install.log'), 'wb') as log:
            subprocess.run(['mariadb-install-db', '--no-defaults', f'--datadir={self.data}',
                            '--auth-root-authentication-method=normal', '--skip-test-db',
                            '--skip-name-resolve', *self.user], env=self.env, stdout=log,
                           stderr=log, check=True)

    def start(self):
        with open(os.path.join(self.folder, 'my.log'), 'ab') as log:
            self.process = subprocess.Popen(
                ['mariadbd', '--no-defaults', f'--datadir={self.data}', f'--socket={self.socket}',
                 f'--pid-file={self.folder}/my.pid', '--bind-address=127.0.0.1',
                 f'--port={self.port}', f'--log-bin={self.data}/binlog', '--binlog-format=ROW',
                 '--binlog-row-metadata=FULL', '--gtid-strict-mode=1', '--skip-name-resolve',
                 '--log-slave-updates', '--max-connections=1000',
                 '--innodb-buffer-pool-size=32M', '--innodb-log-file-size=16M',
                 '--performance-schema=OFF', *self.user, *self.options],
                env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            if self.run('mariadb', '-e', 'select 1', check=False).returncode == 0:
                return self
            time.sleep(0.02)
        raise RuntimeError('no MariaDB: ' + self.log())

    def log(self):
        with open(os.path.join(self.folder, 'my.log'), encoding='utf-8', errors='replace') as f:
            return f.read()[-4000:]

    def run(self, name, *args, check=True, text=None):
        return subprocess.run([name, '--no-defaults', '-u', 'root', '-S', self.socket,
                               '--default-character-set=utf8mb4', *args], env=self.env, input=text,
                              capture_output=True, text=True, check=check, timeout=PATIENCE)

    def sql(self, text, database=None):
        """Rows as lists of texts, NULL as None."""
        done = self.run('mariadb', '-N', '-B', *([database] if database else []), text=text,
                        check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return [[None if cell == 'NULL' else cell for cell in line.split('\t')]
                for line in done.stdout.splitlines()]

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.wait()

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.wait()

    def wait(self):
        if self.process is not None:
            self.process.wait(PATIENCE)
            self.process = None
