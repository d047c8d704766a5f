"""Real brokers and databases for tests: started here on 127.0.0.1 at free ports, in a temporary folder
each, ended by their own pids. As root they run as the users that their packages made.

usage: brokers.py NAME... -- COMMAND...     with NATS_URL, AMQP_URL, RABBIT_API, PGURL in its environment"""
import atexit
import base64
import contextlib
import http.client
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import mariadb_server
import servers
from servers import PATIENCE


def free_ports(count):
    return [servers.free_port() for _ in range(count)]


def until(holds, what):
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(what)
        time.sleep(0.01)


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), 1):
        return True
    return False


class Server:
    """A process of its own group, in a folder of its own."""
    user = None
    program = None

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix='oxbow-' + type(self).__name__.lower() + '-')
        self.processes = []
        atexit.register(self.end)
        if self.as_user():
            entry = pwd.getpwnam(self.user)
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)

    @classmethod
    def missing(cls):
        """Why it cannot run here; None: it can."""
        if not shutil.which(cls.program) and not os.access(cls.program, os.X_OK):
            return f'no {os.path.basename(cls.program)}'
        return None

    def as_user(self):
        if os.getuid() != 0 or self.user is None:
            return False
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(self.user) is not None
        return False

    def run(self, args, env=None, name='log'):
        log = open(os.path.join(self.folder, name), 'ab')
        with log:
            self.processes.append(subprocess.Popen(
                args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=env,
                start_new_session=True, **({'user': self.user, 'group': self.user,
                                            'extra_groups': []} if self.as_user() else {})))
        return self.processes[-1]

    def text(self, name='log'):
        with open(os.path.join(self.folder, name), encoding='utf-8', errors='replace') as f:
            return f.read()

    def kill(self):
        """kill -9 of all of it."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes = []

    def restart(self):
        self.kill()
        self.start()

    def end(self):
        self.kill()
        shutil.rmtree(self.folder, True)


class Nats(Server):
    user = 'nobody'
    program = 'nats-server'

    def __init__(self):
        super().__init__()
        self.port, = free_ports(1)
        self.url = f'nats://127.0.0.1:{self.port}'

    def as_user(self):
        return False

    def environment(self):
        return {'NATS_URL': self.url}

    def start(self):
        self.run(['nats-server', '-a', '127.0.0.1', '-p', str(self.port), '-js', '-sd',
                  os.path.join(self.folder, 'js')])
        until(lambda: answers(self.port), 'nats-server does not answer')

    def client(self):
        return NatsClient(self.port)


class NatsCluster(Server):
    """Three servers, each with the others' addresses."""
    user = 'nobody'
    program = 'nats-server'

    def __init__(self):
        super().__init__()
        self.ports = free_ports(6)
        self.nodes = {}

    def as_user(self):
        return False

    def urls(self):
        return json.dumps([f'nats://127.0.0.1:{p}' for p in self.ports[:3]])

    def start(self):
        """Those that do not run."""
        routes = ','.join(f'nats://127.0.0.1:{p}' for p in self.ports[3:])
        for i in range(3):
            if i in self.nodes:
                continue
            self.nodes[i] = self.run([
                'nats-server', '-n', f'n{i}', '-a', '127.0.0.1', '-p', str(self.ports[i]), '-js',
                '-sd', os.path.join(self.folder, f'js{i}'), '--cluster_name', 'c1', '--cluster',
                f'nats://127.0.0.1:{self.ports[3 + i]}', '--routes', routes])
        until(self.has_leader, 'the NATS servers choose no leader')

    def has_leader(self):
        try:
            client = self.client()
            try:
                client.socket.settimeout(1)
                client.api('INFO')
                return True
            finally:
                client.close()
        except (OSError, AssertionError, ValueError):
            return False

    def client(self):
        """Of any that runs."""
        for i in self.nodes:
            with contextlib.suppress(OSError):
                return NatsClient(self.ports[i])
        raise OSError('no NATS server runs')

    def ask(self, fn):
        """What fn(client) gives. While they choose a leader, for themselves or for a stream, nobody
        answers, or a server that knows too few of the others refuses: then it is asked again."""
        got = []

        def answered():
            try:
                client = self.client()
                try:
                    client.socket.settimeout(5)
                    got[:] = [fn(client)]
                finally:
                    client.close()
            except (OSError, AssertionError, KeyError, ValueError):
                return False
            return True
        until(answered, 'the NATS servers do not answer')
        return got[0]

    def kill_leader(self, stream):
        name = self.ask(lambda c: c.api(f'STREAM.INFO.{stream}')['cluster']['leader'])
        process = self.nodes.pop(int(name[1:]))
        self.processes.remove(process)
        process.kill()
        process.wait()


class NatsClient:
    """As much of the protocol as the tests need."""

    def __init__(self, port):
        self.socket = socket.create_connection(('127.0.0.1', port), PATIENCE)
        self.file = self.socket.makefile('rb')
        self.file.readline()
        self.inbox = f'_INBOX.test{secrets.token_hex(8)}'  # no answer to another one comes here
        self.send('CONNECT {"verbose":false,"headers":true}\r\n' + f'SUB {self.inbox}.> 1\r\n')

    def send(self, text, body=b''):
        self.socket.sendall(text.encode() + body)

    def next(self):
        """The body of the next message."""
        while True:
            line = self.file.readline().decode()
            if not line:
                raise ConnectionError('NATS has gone')
            if line.startswith('PING'):
                self.send('PONG\r\n')
            elif line.startswith('-ERR'):
                raise ConnectionError(line)
            elif line.startswith('MSG '):
                return self.file.read(int(line.split()[-1]) + 2)[:-2]

    def api(self, what, body=None):
        text = json.dumps(body or {}).encode()
        self.send(f'PUB $JS.API.{what} {self.inbox}.api {len(text)}\r\n', text + b'\r\n')
        answer = json.loads(self.next())
        if 'error' in answer:
            raise AssertionError(f'{what}: {answer["error"]}')
        return answer

    def stream(self, name, *subjects, **more):
        self.api(f'STREAM.CREATE.{name}', {'name': name, 'subjects': list(subjects),
                                           'storage': 'file', **more})

    def count(self, name):
        return self.api(f'STREAM.INFO.{name}')['state']['messages']

    def read(self, name):
        """All messages of a stream as (headers, body)."""
        state, found = self.api(f'STREAM.INFO.{name}')['state'], []
        for seq in range(state['first_seq'], state['last_seq'] + 1):
            got = self.api(f'STREAM.MSG.GET.{name}', {'seq': seq})['message']
            lines = base64.b64decode(got.get('hdrs', '')).decode().split('\r\n')[1:]
            found.append((dict(x.split(': ', 1) for x in lines if ': ' in x),
                          base64.b64decode(got.get('data', ''))))
        return found

    def close(self):
        self.file.close()
        self.socket.close()


class Rabbitmq(Server):
    user = 'rabbitmq'
    program = '/usr/lib/rabbitmq/bin/rabbitmq-server'

    def __init__(self):
        super().__init__()
        self.port, self.dist, self.epmd, self.http = free_ports(4)
        self.url = f'amqp://127.0.0.1:{self.port}'
        self.write('enabled_plugins', '[rabbitmq_management].\n')
        self.write('rabbitmq.conf', f'listeners.tcp.1 = 127.0.0.1:{self.port}\n'
                   'management.tcp.ip = 127.0.0.1\n'
                   f'management.tcp.port = {self.http}\n'
                   'disk_free_limit.absolute = 10MB\nvm_memory_high_watermark.absolute = 1GB\n'
                   'log.console = true\nlog.console.level = info\nlog.file = false\n')

    def write(self, name, text):
        with open(os.path.join(self.folder, name), 'w', encoding='utf-8') as f:
            f.write(text)
        os.chmod(os.path.join(self.folder, name), 0o644)

    def environment(self):
        return {'AMQP_URL': self.url, 'RABBIT_API': f'http://127.0.0.1:{self.http}'}

    def env(self):
        path = self.folder
        return {'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'HOME': path, 'LANG': 'C.UTF-8',
               'RABBITMQ_NODENAME': f't{self.port}@localhost',
               'RABBITMQ_NODE_PORT': str(self.port), 'RABBITMQ_DIST_PORT': str(self.dist),
               'ERL_EPMD_PORT': str(self.epmd), 'ERL_EPMD_ADDRESS': '127.0.0.1',
               'RABBITMQ_CONFIG_FILE': path + '/rabbitmq.conf',
               'RABBITMQ_ENABLED_PLUGINS_FILE': path + '/enabled_plugins',
               'RABBITMQ_MNESIA_BASE': path + '/mnesia', 'RABBITMQ_LOG_BASE': path + '/log.d',
               'RABBITMQ_CONF_ENV_FILE': '/dev/null', 'RABBITMQ_PID_FILE': path + '/pid',
               'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS':
                   '-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none '
                   '+sbwtdio none'}

    def ctl(self, *args):
        """rabbitmqctl, for what the management API has no words for."""
        subprocess.run([os.path.dirname(self.program) + '/rabbitmqctl', *args], env=self.env(),
                       check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       timeout=PATIENCE, cwd=self.folder, **(
                           {'user': self.user, 'group': self.user} if self.as_user() else {}))

    def start(self):
        path, env = self.folder, self.env()
        open(os.path.join(path, 'log'), 'wb').close()
        self.run(['epmd', '-address', '127.0.0.1', '-port', str(self.epmd)], env, 'epmd.log')
        until(lambda: answers(self.epmd), 'epmd does not answer')
        process = self.run([self.program], env)
        until(lambda: 'Server startup complete' in self.text() or process.poll() is not None,
              'RabbitMQ does not start')
        if process.poll() is not None:
            raise AssertionError('RabbitMQ: ' + self.text())

    def restart(self):
        """In good order: definitions of the last seconds do not survive a kill of the broker."""
        with open(os.path.join(self.folder, 'pid'), encoding='utf-8') as f:
            os.kill(int(f.read()), signal.SIGTERM)
        self.processes[-1].wait(PATIENCE)
        super().restart()

    def api(self, method, path, body=None):
        conn = http.client.HTTPConnection('127.0.0.1', self.http, timeout=PATIENCE)
        secret = base64.b64encode(b'guest:guest').decode()
        conn.request(method, '/api/' + path, None if body is None else json.dumps(body),
                     {'Authorization': 'Basic ' + secret, 'Content-Type': 'application/json'})
        answer = conn.getresponse()
        text = answer.read()
        conn.close()
        if answer.status >= 300:
            raise AssertionError(f'{method} {path}: {answer.status} {text}')
        return json.loads(text) if text else None

    def exchange(self, name, kind='topic'):
        self.api('PUT', 'exchanges/%2F/' + name, {'type': kind, 'durable': True})

    def queue(self, name, exchange=None, key='#', **arguments):
        self.api('PUT', 'queues/%2F/' + name, {'durable': True, 'arguments': arguments})
        if exchange is not None:
            self.api('POST', f'bindings/%2F/e/{exchange}/q/{name}', {'routing_key': key})

    def drop(self, what, name):
        self.api('DELETE', f'{what}/%2F/{name}')

    def read(self, name, count=1000000):
        """Takes the messages of a queue: (properties, body)."""
        got = self.api('POST', f'queues/%2F/{name}/get', {
            'count': count, 'ackmode': 'ack_requeue_false', 'encoding': 'base64'})
        return [(m['properties'], base64.b64decode(m['payload'])) for m in got]


class Postgres:
    """That of servers.py, as a far side."""

    @classmethod
    def missing(cls):
        return None if servers.Postgres.programs() else 'no PostgreSQL'

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix='oxbow-postgres-')
        self.server = servers.Postgres(self.folder)
        self.bin = self.server.bin + '/'
        self.url = f'postgresql://postgres@127.0.0.1:{self.server.port}/postgres'
        self.start, self.kill = self.server.start, self.server.kill

    def environment(self):
        return {'PGURL': self.url}

    def restart(self):
        self.kill()
        self.start()

    def end(self):
        self.kill()
        shutil.rmtree(self.folder, True)

    @contextlib.contextmanager
    def session(self, text):
        """Holds what the statements took until its end."""
        process = subprocess.Popen(['psql', '-X', '-q', '-t', '-A', self.url],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            process.stdin.write(text + "\nSELECT 'held';\n")
            process.stdin.flush()
            while process.stdout.readline().strip() != 'held':
                pass
            yield
        finally:
            process.communicate('ROLLBACK;\n')

    def sql(self, text):
        """Rows of text."""
        done = subprocess.run(['psql', '-X', '-q', '-t', '-A', '-F', '\t', '-v', 'ON_ERROR_STOP=1',
                               self.url, '-c', text], capture_output=True, timeout=PATIENCE,
                              check=False)
        if done.returncode != 0:
            raise AssertionError(done.stderr.decode())
        return [line.split('\t') for line in done.stdout.decode().splitlines()]


class Kafka:
    """librdkafka's mock cluster: tests/kafka_mock.c, which KAFKA_MOCK names."""

    @classmethod
    def missing(cls):
        return None if os.access(os.environ.get('KAFKA_MOCK', ''), os.X_OK) else 'no KAFKA_MOCK'

    def start(self):
        self.process = subprocess.Popen([os.environ['KAFKA_MOCK']], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, encoding='utf-8')
        self.brokers = self.process.stdout.readline().strip()

    def environment(self):
        return {'KAFKA_BROKERS': self.brokers}

    def tell(self, line):
        """The lines of the answer."""
        self.process.stdin.write(line + '\n')
        self.process.stdin.flush()
        said = []
        while not said or said[-1].startswith('{'):
            said.append(self.process.stdout.readline().strip())
        if said.pop() != 'ok':
            raise AssertionError(f'{line}: {said}')
        return said

    def dump(self, topic, partitions):
        return [json.loads(line) for line in self.tell(f'dump {topic} {partitions}')]

    def end(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Mariadb:
    """That of mariadb_server.py, as a far side."""

    @classmethod
    def missing(cls):
        return None if mariadb_server.installed() else 'no MariaDB'

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix='oxbow-mariadb-')
        self.server = mariadb_server.Server(self.folder, 1, '--innodb-lock-wait-timeout=5')
        self.port, self.socket = self.server.port, self.server.socket
        self.start, self.kill, self.sql = self.server.start, self.server.kill, self.server.sql

    def environment(self):
        return {'MARIADB_PORT': str(self.port)}

    def end(self):
        self.server.kill()
        shutil.rmtree(self.folder, True)


KINDS = {'kafka': Kafka, 'mariadb': Mariadb, 'nats': Nats, 'rabbitmq': Rabbitmq, 'postgres': Postgres}


def skip_without(*kinds):
    """Ends the program with the status of a skipped test where one cannot run."""
    for kind in kinds:
        why = kind.missing()
        if why:
            print(f'skip: {why}')
            sys.exit(77)


def main(args):
    cut = args.index('--')
    kinds = [KINDS[name] for name in args[:cut]]
    skip_without(*kinds)
    env = dict(os.environ)
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            server = kind()
            stack.callback(server.end)
            server.start()
            env.update(server.environment())
        return subprocess.run(args[cut + 1:], env=env, check=False).returncode


if __name__ == '__main__':
    if '--' not in sys.argv:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1:]))
