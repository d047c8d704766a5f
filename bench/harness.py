"""What the benchmarks share: scale, a folder on a real disk, servers of one's own, the table,
build/bench/NAME.json. Everything that is started here listens on 127.0.0.1 at a free port,
syncs before it answers, and is stopped by its own process id."""
import atexit
import glob
import json
import os
import pwd
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.abspath(os.environ.get('BUILD', os.path.join(ROOT, 'build')))
SCALE = float(os.environ.get('SCALE', '1'))
KEEP_IN_MEMORY = ('tmpfs', 'ramfs', 'overlay')  # not where durability is measured

started = []


def note(text):
    print(text, file=sys.stderr, flush=True)


def fail(text):
    note(f'bench: {text}')
    sys.exit(1)


def seconds(n):
    """A duration at this scale: never so short that it says nothing."""
    return max(1, round(n * SCALE))


def count(n, least=1000):
    return max(least, round(n * SCALE))


def program(name):
    """A program of the build folder, built now."""
    done = subprocess.run(['ninja', '-C', BUILD, name], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        fail(f'cannot build {name}:\n{done.stdout}')
    return os.path.join(BUILD, name)


def filesystem(path):
    return subprocess.run(['stat', '-f', '-c', '%T', path], stdout=subprocess.PIPE,
                          text=True, check=True).stdout.strip()


class Folder:
    """A temporary folder that other users may enter. BENCH_DIR says where; /var/tmp otherwise."""

    def __init__(self, name):
        where = os.environ.get('BENCH_DIR', '/var/tmp')
        self.path = tempfile.mkdtemp(prefix=f'oxbow-bench-{name}-', dir=where)
        os.chmod(self.path, 0o755)
        atexit.register(shutil.rmtree, self.path, True)
        self.kind = filesystem(self.path)
        if self.kind in KEEP_IN_MEMORY:
            note(f'bench: {where} is {self.kind}: the figures say nothing about a disk; '
                 'set BENCH_DIR')

    def new(self, name, user=None):
        path = os.path.join(self.path, name)
        os.mkdir(path)
        if user is not None:
            shutil.chown(path, user)
        return path

    def drop(self, name):
        """Nor does the disk still work on it when the next one is measured."""
        shutil.rmtree(os.path.join(self.path, name), True)
        os.sync()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def run(args, **more):
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode != 0:
        fail(f'{" ".join(map(str, args[:4]))} …: status {done.returncode}\n'
             f'{done.stderr[-2000:]}{done.stdout[-2000:]}')
    return done.stdout


def stop_all():
    for server in list(started):
        server.stop()


atexit.register(stop_all)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Server:
    """One process. `user` is whom it runs as when we are root."""

    def __init__(self, args, log, user=None, term=signal.SIGTERM, **more):
        self.term = term
        self.log = log
        if user is not None:
            entry = pwd.getpwnam(user)
            more.update(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])
        with open(log, 'ab') as out:
            self.proc = subprocess.Popen(args, stdin=subprocess.DEVNULL, stderr=out,
                                         stdout=more.pop('stdout', out), start_new_session=True,
                                         **more)
        self.pid = self.proc.pid
        started.append(self)

    def until(self, ready, what, limit=60):
        end = time.monotonic() + limit
        while not ready():
            if self.proc.poll() is not None or time.monotonic() > end:
                with open(self.log, errors='replace') as f:
                    fail(f'{what} did not start:\n{f.read()[-2000:]}')
            time.sleep(0.02)

    def stop(self, sig=None):
        if self in started:
            started.remove(self)
        if self.proc.poll() is None:
            self.proc.send_signal(sig or self.term)
            try:
                self.proc.wait(120)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()


def other_user(*names):
    """Whom a server runs as: itself when we are not root."""
    if os.geteuid() != 0:
        return None
    for name in names + ('nobody',):
        try:
            pwd.getpwnam(name)
            return name
        except KeyError:
            pass
    return None


def redis(folder, name='redis'):
    """Redis that syncs its log before it answers, and never rewrites it meanwhile."""
    user = other_user('redis')
    path = folder.new(name, user)
    port = free_port()
    server = Server(['redis-server', '--bind', '127.0.0.1', '--port', str(port), '--dir', path,
                     '--appendonly', 'yes', '--appendfsync', 'always', '--save', '',
                     '--auto-aof-rewrite-percentage', '0', '--daemonize', 'no'],
                    os.path.join(folder.path, name + '.log'), user, cwd=path)
    server.port = port
    server.until(lambda: subprocess.run(['redis-cli', '-p', str(port), 'ping'],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True).stdout.strip() == 'PONG', 'redis-server')
    return server


def postgres_bin():
    found = sorted(glob.glob('/usr/lib/postgresql/15/bin'))
    return found[-1] if found else fail('no PostgreSQL 15: run make deps-bench as root')


def postgres(folder, name='postgres', options=()):
    """PostgreSQL as it comes (fsync, full_page_writes, synchronous_commit on), with room in
    memory and between checkpoints."""
    user = other_user('postgres')
    path = folder.new(name, user)
    port = free_port()
    entry = {} if user is None else {'user': pwd.getpwnam(user).pw_uid,
                                     'group': pwd.getpwnam(user).pw_gid, 'extra_groups': []}
    run([postgres_bin() + '/initdb', '-D', path + '/data', '-A', 'trust', '-U', 'postgres',
         '--no-locale', '-E', 'UTF8'], cwd=path, **entry)
    server = Server([postgres_bin() + '/postgres', '-D', path + '/data',
                     '-c', 'listen_addresses=127.0.0.1', '-c', f'port={port}',
                     '-c', 'unix_socket_directories=', '-c', 'max_connections=200',
                     '-c', 'shared_buffers=1GB', '-c', 'max_wal_size=16GB',
                     '-c', 'fsync=on', '-c', 'synchronous_commit=on', *options],
                    os.path.join(folder.path, name + '.log'), user, signal.SIGINT, cwd=path)
    server.port = port
    server.until(lambda: subprocess.run([postgres_bin() + '/pg_isready', '-q', '-h', '127.0.0.1',
                                         '-p', str(port)]).returncode == 0, 'postgres')
    return server


def sql(server, text):
    return run([postgres_bin() + '/psql', '-h', '127.0.0.1', '-p', str(server.port), '-U',
                'postgres', '-qAt', '-v', 'ON_ERROR_STOP=1', '-c', text, 'postgres'])


def oxbow(folder, data):
    """The server over the log in folder `data`."""
    server = Server([program('tests/server_main'), data], os.path.join(folder.path, 'oxbow.log'),
                    stdout=subprocess.PIPE)
    line = server.proc.stdout.readline()
    if not line.strip():
        server.until(lambda: False, 'the server', 1)
    server.port = int(line)
    return server


def rss_anon_mb(pid):
    """Resident memory without mapped files."""
    with open(f'/proc/{pid}/status') as f:
        for line in f:
            if line.startswith('RssAnon:'):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def median(values):
    return statistics.median(values)


def short(value):
    if isinstance(value, str):
        return value
    if abs(value) >= 100:
        return f'{value:,.0f}'
    return f'{value:.3g}'


def table(title, heads, rows):
    cells = [heads] + [[short(c) for c in row] for row in rows]
    wide = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    print(f'\n{title}')
    for n, row in enumerate(cells):
        line = row[0].ljust(wide[0])
        for i in range(1, len(row)):
            line += '  ' + row[i].rjust(wide[i])
        print(line.rstrip())
        if n == 0:
            print('-' * len(line))
    sys.stdout.flush()


def finish(name, figures, ratios, wanted=None):
    """Prints the ratios beside what is wanted of them, and writes build/bench/NAME.json.
    wanted: {name: ('>=' or '<=', number)}"""
    rows = []
    for key, (sign, number) in (wanted or {}).items():
        value = ratios.get(key, figures.get(key))
        if value is None:
            rows.append([key, 'not measured', f'{sign} {number:g}', '-'])
            continue
        met = value >= number if sign == '>=' else value <= number
        rows.append([key, value, f'{sign} {number:g}', 'yes' if met else 'NO'])
    if rows:
        table(f'{name}: what is asked for' + ('' if SCALE == 1 else f' (SCALE={SCALE:g}: a try)'),
              ['', 'measured', 'wanted', 'met'], rows)
    os.makedirs(os.path.join(BUILD, 'bench'), exist_ok=True)
    path = os.path.join(BUILD, 'bench', name + '.json')
    with open(path + '.new', 'w') as f:
        json.dump({'figures': {k: round(v, 4) for k, v in figures.items()},
                   'ratios': {k: round(v, 4) for k, v in ratios.items()}}, f, indent=1)
        f.write('\n')
    os.replace(path + '.new', path)
    print(f'\nwritten: {path}')


def reserve(mb):
    """Memory for what is about to be measured, which is not new to a virtual machine: reserve.c."""
    proc = subprocess.Popen([program('bench/bench_reserve'), str(round(mb))], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(proc.communicate)
    line = proc.stdout.readline()
    if not line:
        fail('no memory to reserve')
    note(f'{int(line):,} MB of memory were touched before, and are given back as the run takes them')


def machine(folder):
    with open('/proc/cpuinfo') as f:
        model = next((line.split(':', 1)[1].strip() for line in f if line.startswith('model name')),
                     'unknown')
    print(f'{os.cpu_count()} x {model}; {folder.kind} at {folder.path}; load now '
          f'{os.getloadavg()[0]:.1f}; SCALE={SCALE:g}', flush=True)


# migrations: what `oxbow serve` is asked over HTTP

class Oxbow(Server):
    """`oxbow serve` with a configuration; `url` once it is ready."""

    def __init__(self, folder, config, name='serve', **env):
        self.url = f'http://127.0.0.1:{free_port()}'
        path = os.path.join(folder.path, name + '.yaml')
        with open(path, 'w') as f:
            f.write(config)
        super().__init__([program_of_all('oxbow'), 'serve', '-c', path],
                         os.path.join(folder.path, name + '.log'),
                         env={**os.environ, **env, 'OXBOW_LISTEN': self.url[7:],
                              'OXBOW_DATA': os.path.join(folder.path, name + '.data')})
        self.until(lambda: self.ask('GET', '/health/ready')[0] == 200, 'oxbow serve')

    def ask(self, method, path, limit=600):
        """(status, what the body says); status 0: no answer."""
        request = urllib.request.Request(self.url + path, method=method,
                                         data=b'' if method == 'POST' else None)
        try:
            with urllib.request.urlopen(request, timeout=limit) as answer:
                return answer.status, read_json(answer.read())
        except urllib.error.HTTPError as refused:
            return refused.code, read_json(refused.read())
        except OSError as gone:
            return 0, {'message': str(gone)}

    def command(self, name, word):
        """'' or why it was refused."""
        status, body = self.ask('POST', f'/v1/migrations/{name}/{word}')
        return '' if 200 <= status < 300 else f'{status}: {body.get("message", "")}'

    def show(self, name):
        status, body = self.ask('GET', f'/v1/migrations/{name}')
        if status != 200:
            fail(f'migration {name}: {status}: {body.get("message", "")}')
        return body

    def wait_phase(self, name, wanted, limit):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            status = self.show(name)
            if status['phase'] == wanted:
                return status
            if status['phase'] in ('HALTED', 'CANCELLED'):
                fail(f'migration {name} is {status["phase"]}: {status.get("error")}')
            time.sleep(0.02)
        fail(f'migration {name} is not {wanted} after {limit} s but {self.show(name)}')


def read_json(text):
    try:
        value = json.loads(text or b'{}')
        return value if isinstance(value, dict) else {'value': value}
    except ValueError:
        return {}


def program_of_all(name):
    """A program that the default build makes."""
    path = os.path.join(BUILD, name)
    if not os.path.exists(path):
        fail(f'{path} is missing: run make build')
    return path
