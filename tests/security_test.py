"""Users, and what they may do, by the built binary: over HTTP, over gRPC and on the command line. Much
of it tries to get in: on each path that there is, as each kind of user."""
import base64
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import unittest
import uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import grpc_client  # noqa: E402
from cli_test import OXBOW, PATIENCE, REFUSED, UNREACHABLE, USAGE, Case as Base, event  # noqa: E402
from grpc_client import pb  # noqa: E402
from tls_test import Certificates  # noqa: E402

ADMIN, WRONG = 'correct horse', 'battery staple'
USERS = '/event_store.client.users.Users/'
GROUPS = '/event_store.client.persistent_subscriptions.PersistentSubscriptions/'


def basic(name, password):
    return 'Basic ' + base64.b64encode(f'{name}:{password}'.encode()).decode()


def read(conn, head, *args, **more):
    return conn.call(grpc_client.STREAMS + 'Read', grpc_client.read_request(*args, **more), more=head)


class Case(Base):
    def ask(self, url, method, path, body=None, proof=None, **headers):
        conn = http.client.HTTPConnection(url.split('//')[1], timeout=60)
        headers = {k.replace('_', '-'): v for k, v in headers.items()}
        if proof is not None:
            headers['Authorization'] = proof
        try:
            conn.request(method, path, body if body is None or isinstance(body, str)
                         else json.dumps(body, separators=(',', ':')), headers)
            answer = conn.getresponse()
            return answer.status, answer.read().decode(), answer.headers
        finally:
            conn.close()

    def status(self, *args, **more):
        return self.ask(*args, **more)[0]

    def token(self, url, name, proof):
        status, body, _ = self.ask(url, 'POST', f'/v1/users/{name}/tokens', {'label': 'test'}, proof)
        self.assertEqual(status, 201, body)
        return 'Bearer ' + json.loads(body)['token']


class Kept(Case):
    """Users in a folder."""

    def user(self, *args, password=None, **more):
        env = {} if password is None else {'OXBOW_NEW_PASSWORD': password}
        return self.oxbow('user', *args, env=env, **more)

    def test_users(self):
        self.user('add', 'eve', '--role', 'read', password=ADMIN, status=REFUSED)
        self.user('add', 'root', '--role', 'admin', password='short', status=REFUSED)
        self.user('add', 'root', '--role', 'admin,king', password=ADMIN, status=USAGE)
        self.user('add', 'a:b', '--role', 'admin', password=ADMIN, status=REFUSED)
        self.user('add', 'root', '--role', 'admin', '--full-name', 'Ruth "R"', password=ADMIN)
        self.user('add', 'root', '--role', 'admin', password=ADMIN, status=REFUSED)
        made = self.user('add', 'bob', '--role', 'read,write', '--group', 'billing,ops', '--generate')
        self.assertRegex(made.out, r'^[\w-]{32}\n$')
        self.oxbow('user', 'add', 'carol', '--role', 'ops', stdin=ADMIN + '\n')
        self.oxbow('user', 'add', 'dave', status=USAGE)
        for word in ('delete', 'disable'):
            self.assertIn('last admin', self.user(word, 'root', status=REFUSED).err)
        self.user('change', 'root', '--role', 'read', status=REFUSED)
        self.user('disable', 'bob')
        token = self.user('token', 'add', 'bob', '--label', 'nightly', '--expires', '90d').out
        self.assertRegex(token, r'^oxb_[\w-]{32}\n$')
        bob = self.user('show', 'bob').lines[0]
        self.assertEqual([bob[k] for k in ('roles', 'groups', 'disabled')],
                         [['read', 'write'], ['billing', 'ops'], True])
        self.assertEqual([t['label'] for t in bob['tokens']], ['nightly'])
        self.assertEqual(self.user('token', 'list', 'bob').lines, bob['tokens'])
        self.user('token', 'revoke', 'bob', 'ffffffff', status=REFUSED)
        self.user('token', 'revoke', 'bob', bob['tokens'][0]['id'])
        self.user('enable', 'bob')
        self.user('change', 'bob', '--group', '')
        self.user('delete', 'carol')
        self.user('delete', 'carol', status=REFUSED)
        users = self.user('list').lines
        self.assertEqual([(u['name'], u['groups'], u['disabled'], u['tokens']) for u in users],
                         [('bob', [], False, []), ('root', [], False, [])])
        self.assertEqual(users[1]['full_name'], 'Ruth "R"')
        self.user('add', 'carol', '--role', 'read', password=ADMIN)
        self.assertEqual(self.user('show', 'carol').lines[0]['roles'], ['read'])

    def test_nobody_reads_them(self):
        """Neither by name nor by position, nor through a link; and no secret is in the folder."""
        self.user('add', 'root', '--role', 'admin', password=ADMIN)
        token = self.user('token', 'add', 'root').out.strip()
        self.oxbow('append', 'a-1', stdin=event('T'))
        self.oxbow('stream', 'link', 'b-1', '0@$user-root', '0@a-1')
        self.oxbow('read', '$user-root', status=REFUSED)
        for args in (('$all', '--prefix', '$'), ('$all', '--prefix', '$user-'), ('$ce-$user',),
                     ('$et-$User',), ('$streams', '--prefix', '$')):
            self.assertNotIn('scrypt', self.oxbow('read', *args).out, args)
            self.assertNotIn('user-root', self.oxbow('read', *args, '--resolve').out, args)
        linked = self.oxbow('read', 'b-1', '--resolve').lines
        self.assertEqual([e['stream'] for e in linked], ['b-1', 'a-1'])
        self.assertTrue(linked[0]['dangling'])
        for folder, _, names in os.walk(self.data):
            for name in names:
                with open(os.path.join(folder, name), 'rb') as f:
                    bytes_ = f.read()
                self.assertNotIn(ADMIN.encode(), bytes_, name)
                self.assertNotIn(token.encode(), bytes_, name)
        with self.server() as (url, _):
            proof = basic('root', ADMIN)
            for path in ('/v1/streams/$user-root', '/v1/streams/b-1?resolve=true',
                         '/v1/all?prefix=$', '/v1/all?prefix=$user-', '/v1/streams/$ce-$user',
                         '/v1/streams/$et-$User', '/v1/streams/$streams?resolve=true&prefix=$'):
                body = self.ask(url, 'GET', path, proof=proof)[1]
                self.assertNotIn('scrypt', body, path)
            head = [('authorization', proof)]
            with grpc_client.Conn(int(url.split(':')[2])) as conn:
                got = b''.join(read(conn, head, resolve=True).all())
                self.assertIn(b'a-1', got)
                self.assertNotIn(b'scrypt', got)
                self.assertNotIn(b'scrypt', b''.join(read(conn, head, '$user-root').all()))
            for stream in ('$user-root', '$user-evil', '$audit'):
                self.assertIn(self.status(url, 'POST', '/v1/streams/' + stream, event('$User'),
                                          proof), (400, 403))
                self.assertIn(self.status(url, 'DELETE', '/v1/streams/' + stream, None, proof),
                              (400, 403))
                with grpc_client.Conn(int(url.split(':')[2])) as conn:
                    with self.assertRaises(grpc_client.Status):
                        grpc_client.append(conn, stream, [grpc_client.proposed(uuid.uuid4())],
                                           more=head).only()


class Start(Case):
    def test_exposed(self):
        for args, says in ((('--listen', '0.0.0.0:0'), 'in the clear'),
                           (('--listen', '[::]:0'), 'in the clear')):
            self.refused('serve', *args, says=says, status=USAGE)
        certs = Certificates(self.folder)
        certs.make('server', 'first')
        tls = f'tls:\n  cert: {certs.path("server.pem")}\n  key: {certs.path("server.key")}\n'
        off = self.write('off.yaml', tls + 'auth: off\n')
        self.refused('serve', '--listen', '0.0.0.0:0', '-c', off, says='anybody may do', status=USAGE)
        conf = self.write('c.yaml', tls)
        said = []
        for _ in range(2):
            with self.exposed('-c', conf) as url:
                said.append(dict(re.findall(r'user (\w+) has the password ([\w-]+)',
                                            self.server_log())))
                env = {'OXBOW_CA': certs.path('ca.pem'), 'OXBOW_USER': 'admin',
                       'OXBOW_PASSWORD': said[0]['admin']}
                self.assertEqual([u['name'] for u in
                                  self.oxbow('user', 'list', '--server', url, env=env).lines],
                                 ['admin', 'ops'])
                env['OXBOW_PASSWORD'] = WRONG
                self.oxbow('user', 'list', '--server', url, env=env, status=REFUSED)
        self.assertEqual((sorted(said[0]), said[1]), (['admin', 'ops'], {}))

    def exposed(self, *args):
        """A server on all addresses; its TLS is reached by this machine's."""
        case = self

        class Serving:
            def __enter__(self):
                with open(case.path('server.log'), 'wb') as log:
                    self.process = subprocess.Popen(
                        [OXBOW, 'serve', '--listen', '0.0.0.0:0', *args],
                        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=case.env)
                return case.await_port(self.process).replace('http:', 'https:')

            def __exit__(self, *_):
                self.process.terminate()
                case.assertEqual(self.process.wait(PATIENCE), 0)
        return Serving()

    def test_modes(self):
        """auto: nobody is asked until there is a user; on: at once; off: never."""
        with self.server() as (url, _):
            self.assertEqual(self.status(url, 'GET', '/v1/all', proof=basic('who', 'ever')), 200)
            self.assertEqual(self.status(url, 'POST', '/v1/users', {'name': 'x', 'roles': ['read'],
                                                                   'password': ADMIN}), 409)
            self.assertEqual(self.status(url, 'POST', '/v1/users', {'name': 'x', 'roles': ['admin'],
                                                                   'password': ADMIN}), 201)
            self.assertEqual(self.status(url, 'GET', '/v1/all'), 401)
            self.assertEqual(self.status(url, 'GET', '/v1/all', proof=basic('x', ADMIN)), 200)
        with self.server('-c', self.write('off.yaml', 'auth: off\n')) as (url, _):
            self.assertEqual(self.status(url, 'GET', '/v1/all'), 200)
        self.data = self.env['OXBOW_DATA'] = self.path('other')
        with self.server('-c', self.write('on.yaml', 'auth: on\n')) as (url, _):
            self.assertEqual(self.status(url, 'GET', '/v1/all'), 401)
            self.assertIn('user ops has the password', self.server_log())


class Served(Case):
    """One server, with users of each kind."""

    def setUp(self):
        super().setUp()
        self.env['OXBOW_ADMIN_PASSWORD'] = ADMIN
        self.env['OXBOW_OPS_PASSWORD'] = ADMIN

    def people(self, url):
        proof = {'admin': self.token(url, 'admin', basic('admin', ADMIN)), None: None}
        proof['ops'] = self.token(url, 'ops', proof['admin'])
        for name, roles, groups in (('reader', ['read'], []), ('writer', ['write'], ['billing']),
                                    ('both', ['read', 'write'], []), ('none', [], ['auditors'])):
            self.assertEqual(self.status(url, 'POST', '/v1/users',
                                         {'name': name, 'roles': roles, 'groups': groups},
                                         proof['admin']), 201)
            proof[name] = self.token(url, name, proof['admin'])
        return proof

    def test_logins(self):
        with self.server() as (url, _):
            right = basic('admin', ADMIN)
            for wrong in (basic('admin', WRONG), basic('root', ADMIN), basic('', ''), 'Basic !',
                          'Basic ' + base64.b64encode(b'admin').decode(), 'Bearer oxb_' + 'x' * 32,
                          'Bearer ', 'Digest x', 'x' * 5000):
                status, _, headers = self.ask(url, 'GET', '/v1/all', proof=wrong)
                self.assertEqual(status, 401, wrong)
                self.assertIn('Basic', headers['WWW-Authenticate'])
            body = json.dumps({'type': 'T', 'data': 'x' * 300000})
            # Many at once, with bodies that come meanwhile.
            got = []
            threads = [threading.Thread(target=lambda: got.append(
                self.status(url, 'POST', '/v1/streams/a-1', body, right))) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(got, [201] * 16)
            token = self.token(url, 'admin', right)
            self.assertEqual(self.status(url, 'GET', '/v1/all', proof=token), 200)
            shown = json.loads(self.ask(url, 'GET', '/v1/users/admin', proof=right)[1])
            path = '/v1/users/admin/tokens/' + shown['tokens'][0]['id']
            self.assertEqual(self.status(url, 'DELETE', path, proof=right), 200)
            self.assertEqual(self.status(url, 'GET', '/v1/all', proof=token), 401)
            self.assertEqual(self.status(url, 'POST', '/v1/users/admin/password',
                                         {'password': WRONG}, right), 200)
            self.assertEqual(self.status(url, 'GET', '/v1/all', proof=right), 401)
            self.assertEqual(self.status(url, 'GET', '/v1/all', proof=basic('admin', WRONG)), 200)
            for _ in range(60):
                status, _, headers = self.ask(url, 'GET', '/v1/all', proof='Bearer oxb_guess')
                if status == 429:
                    break
            self.assertEqual(status, 429)
            self.assertGreaterEqual(int(headers['Retry-After']), 1)
            # What was known before goes on.
            self.assertEqual(self.status(url, 'GET', '/v1/all', proof=basic('admin', WRONG)), 200)
            audit = json.loads(self.ask(url, 'GET', '/v1/streams/$audit?limit=1000',
                                        proof=basic('admin', WRONG))[1])['events']
            kinds = [e['type'] for e in audit]
            for kind in ('LoginFailed', 'TokenAdded', 'TokenRevoked', 'PasswordChanged'):
                self.assertIn(kind, kinds)
            self.assertIn({'user': 'root', 'from': '127.0.0.1', 'action': 'password'},
                          [e['data'] for e in audit])
            self.assertNotIn('guess', json.dumps(audit))

    def test_every_route(self):
        """What each route and each method asks for is decided, and holds."""
        may = {'nothing': [None, 'none', 'reader', 'writer', 'both', 'ops', 'admin'],
               'user': ['none', 'reader', 'writer', 'both', 'ops', 'admin'],
               'ops': ['ops', 'admin'], 'admin': ['admin'], 'self': ['admin'],
               'read-all': ['admin'], 'group': ['reader', 'both', 'admin'],
               'stream-read': ['reader', 'both', 'admin'],
               'metadata-read': ['reader', 'both', 'admin'],
               'stream-write': ['writer', 'both', 'admin']}
        with self.server() as (url, _):
            proof = self.people(url)
            access = json.loads(self.ask(url, 'GET', '/v1/access', proof=proof['admin'])[1])
            self.assertTrue(access['demanded'])
            self.assertEqual([r for r in access['routes'] if r['needs'] == 'undecided'], [])
            self.assertGreater(len(access['routes']), 70)
            for route in access['routes']:
                for who, said in proof.items():
                    if route['method'] == 'gRPC':
                        self.try_method(url, route, who, said, may[route['needs']])
                    elif who in may[route['needs']]:
                        continue
                    else:
                        path = re.sub(r'\{\w+\}', 'x-1', route['path'])
                        status, body, _ = self.ask(url, route['method'], path, proof=said)
                        self.assertEqual(status, 401 if who is None else 403,
                                         (route, who, body))

    # What any user may ask for: what it gives is looked at one by one (test_reading), or everybody's.
    FOR_ALL = {'GET /metrics', 'GET /v1/stats', 'GET /v1/access', 'GET /v1/all', 'GET /v1/streams',
               'GET /v1/indexes', 'GET /v1/indexes/{name}', 'GET /v1/indexes/{name}/events',
               'GET /v1/migrations/{name}/route', f'gRPC {USERS}Details'}
    EVENT = {'type': 'T', 'data': 1}
    # And what it does is looked at: what is asked here is not for everybody.
    LOOKED_AT = {
        'POST /v1/commits': {'appends': [{'stream': 'x-1', 'events': [EVENT]}]},
        'DELETE /v1/streams/{stream}': None,
        'POST /v1/streams/{stream}/truncate': {'before': 0},
        'POST /v1/streams/{stream}/close': None,
        'POST /v1/streams/{stream}/open': None,
        'PUT /v1/streams/{stream}/metadata': {},
        'POST /v1/sources/{name}/unverified': {**EVENT, 'id': str(uuid.uuid4()), 'stream': 'x-1'},
    }

    def looked_at_grpc(self):
        stream = grpc_client.name('x-1')
        event_ = grpc_client.proposed(uuid.uuid4())
        target = pb((1, pb((1, stream), (4, b''))))
        record = pb((2, b''), (3, pb((1, 1), (2, 'T'))), (4, b'{}'), (5, 'x-1'))
        streams, v2 = grpc_client.STREAMS, '/kurrentdb.protocol.v2.streams.StreamsService/'
        return {streams + 'Read': [grpc_client.read_request('x-1')],
                streams + 'Append': [target, pb((2, event_))],
                streams + 'Delete': [target], streams + 'Tombstone': [target],
                streams + 'BatchAppend': [pb((1, pb((2, str(uuid.uuid4())))),
                                             (2, pb((1, stream), (4, b''))), (3, event_), (4, 1))],
                v2 + 'AppendSession': [pb((1, 'x-1'), (2, record))],
                v2 + 'AppendRecords': [pb((1, record))],
                GROUPS + 'Read': [pb((1, pb((1, stream), (2, 'g'), (3, 10), (4, pb((2, b''))))))],
                USERS + 'ChangePassword': [pb((1, pb((1, 'admin'), (2, WRONG), (3, WRONG))))]}

    def test_looked_at(self):
        """Where any user may ask, who has no right is refused what he asks for. Each such route and
        method is named here."""
        conf = ('sources:\n  x-1: {type: verify-http, url: "http://127.0.0.1:1", lookup: "/{id}"}\n'
                'permissions:\n  x: {read: [billing], write: [billing]}\n')
        methods = self.looked_at_grpc()
        with self.server('-c', self.write('c.yaml', conf)) as (url, _):
            proof = self.people(url)
            access = json.loads(self.ask(url, 'GET', '/v1/access', proof=proof['admin'])[1])
            self.assertEqual({f'{r["method"]} {r["path"]}' for r in access['routes']
                              if r['needs'] == 'user'},
                             {*self.FOR_ALL, *self.LOOKED_AT, *(f'gRPC {m}' for m in methods)})
            self.assertEqual(self.status(url, 'PUT', '/v1/groups/x-1/g', {'from': 'beginning'},
                                         proof['ops']), 201)
            unverified = 'POST /v1/sources/{name}/unverified'
            self.until(lambda: self.ask_for(url, unverified, proof['admin']) == 202)
            for who in ('none', 'reader', 'both', 'ops'):
                for route in self.LOOKED_AT:
                    with self.subTest(who=who, route=route):
                        self.assertEqual(self.ask_for(url, route, proof[who]), 403)
                for method, messages in methods.items():
                    with self.subTest(who=who, method=method):
                        self.assertEqual(self.code_of(url, method, messages, proof[who]), 7)
            self.assertEqual(self.ask_for(url, unverified, None), 401)
            # Nothing of it was done.
            self.assertEqual(self.status(url, 'GET', '/v1/streams/x-1', proof=proof['admin']), 404)
            # Those who may do so. Of several messages: all or nothing.
            for who in ('writer', 'admin'):
                self.assertEqual(self.ask_for(url, 'POST /v1/commits', proof[who]), 201)
                self.assertEqual(self.ask_for(url, unverified, proof[who]), 202)
            path = '/v1/sources/x-1/unverified'
            several = [{**self.EVENT, 'id': str(uuid.uuid4()), 'stream': s} for s in ('x-1', 'y-1')]
            self.assertEqual(self.status(url, 'POST', path, several, proof['both']), 403)
            self.assertEqual(self.status(url, 'POST', path, several, proof['writer']), 202)
            audit = self.ask(url, 'GET', '/v1/streams/$audit?limit=1000', proof=proof['admin'])[1]
            self.assertIn('x-1', [e['data'].get('target') for e in json.loads(audit)['events']
                                  if e['type'] == 'AccessDenied'])

    def ask_for(self, url, route, said):
        method, path = route.split(' ')
        return self.status(url, method, re.sub(r'\{\w+\}', 'x-1', path), self.LOOKED_AT[route], said)

    def code_of(self, url, method, messages, said):
        """Of the call, or of the answer to an append of a batch. 0: it was not refused."""
        with grpc_client.Conn(int(url.split(':')[2])) as conn:
            call = conn.start(method, [('authorization', said)])
            for message in messages:
                call.send(message)
            try:
                if method.endswith('BatchAppend'):
                    return grpc_client.one(call.next(), 2, 1)
                call.send(end=True)
                call.all()
                return 0
            except grpc_client.Status as status:
                return status.code

    def try_method(self, url, route, who, said, may):
        head = [] if said is None else [('authorization', said)]
        if who in may:
            return
        with grpc_client.Conn(int(url.split(':')[2])) as conn:
            with self.assertRaises(grpc_client.Status) as caught:
                conn.call(route['path'], b'', more=head).all()
        self.assertEqual((caught.exception.code, caught.exception.exception),
                         (16 if who is None else 7, 'access-denied'), (route, who))

    # Streams.

    CONF = '''
permissions:
  orders: {read: [billing], write: [writer]}
  secret: {read: []}
  $ce-orders: {read: [billing]}
'''
    SEES = {'reader': {'a-1'}, 'writer': {'orders-1'}, 'none': {'hidden-1'}, 'both': {'a-1'},
            'ops': set(), 'admin': {'a-1', 'orders-1', 'hidden-1', 'secret-1'}}
    WRITES = {'a-1': {'writer', 'both', 'admin'}, 'orders-1': {'writer', 'admin'},
              'secret-1': {'writer', 'both', 'admin'}, 'hidden-1': {'both', 'admin'}}
    STREAMS = SEES['admin']

    def fill(self, url, proof):
        for stream in sorted(self.STREAMS):
            self.assertEqual(self.status(url, 'POST', '/v1/streams/' + stream,
                                         {'type': 'T', 'data': {'in': stream}}, proof['admin']), 201)
        self.assertEqual(self.status(
            url, 'PUT', '/v1/streams/hidden-1/metadata',
            {'$acl': {'$r': ['auditors'], '$w': 'both', '$mw': []}}, proof['admin']), 200)
        links = [{'stream': s, 'version': 0} for s in sorted(self.STREAMS)]
        self.assertEqual(self.status(url, 'POST', '/v1/streams/a-links/links', links,
                                     proof['both']), 201)

    def seen_http(self, url, path, said, **headers):
        status, body, _ = self.ask(url, 'GET', path, proof=said, **headers)
        return set(re.findall(r'"in":"([\w]+-1)"', body)) if status == 200 else set()

    def test_reading(self):
        with self.server('-c', self.write('c.yaml', self.CONF)) as (url, _):
            proof = self.people(url)
            self.fill(url, proof)
            self.assertEqual(self.status(url, 'PUT', '/v1/indexes/where', {'path': 'in'},
                                         proof['ops']), 201)
            self.until(lambda: json.loads(self.ask(url, 'GET', '/v1/indexes/where', None,
                                                   proof['admin'])[1])['state'] == 'live')
            for who, sees in self.SEES.items():
                with self.subTest(who=who):
                    self.look(url, who, proof[who], sees)

    def look(self, url, who, said, sees):
        for accept in ('application/json', 'application/x-ndjson'):
            one = {s for s in self.STREAMS if self.seen_http(url, '/v1/streams/' + s, said,
                                                             Accept=accept)}
            self.assertEqual(one, sees)
            for path in ('/v1/all', '/v1/all?direction=backwards', '/v1/all?at=2099-01-01T00:00:00Z',
                         '/v1/all?moved=skip', '/v1/streams/$et-T'):
                self.assertEqual(self.seen_http(url, path, said, Accept=accept), sees, path)
        links = self.seen_http(url, '/v1/streams/a-links?resolve=true', said)
        self.assertEqual(links, sees if who in ('reader', 'both', 'admin') else set())
        for stream in self.STREAMS:
            seen = {stream} & sees
            category = stream.split('-')[0]
            self.assertEqual(self.seen_http(url, '/v1/streams/$ce-' + category, said), seen)
            self.assertEqual(self.seen_http(url, '/v1/all?prefix=' + stream, said), seen)
            self.assertEqual(self.seen_http(url, f'/v1/indexes/where/events?value="{stream}"', said),
                             seen)
            for more in ('', '/info'):
                self.assertEqual(self.status(url, 'GET', f'/v1/streams/{stream}{more}', proof=said),
                                 200 if seen else 403)
            self.assertEqual(self.status(url, 'POST', '/v1/commits', {
                'appends': [{'stream': 'a-9', 'events': [{'type': 'T', 'data': 1}]}],
                'checks': [{'stream': stream, 'expected': 77}]}, said),
                409 if who in self.WRITES['a-1'] and (seen or who in self.WRITES[stream]) else 403)
        names = {s['stream'] for s in json.loads(self.ask(
            url, 'GET', '/v1/streams', proof=said)[1])['streams']} & self.STREAMS
        self.assertEqual(names, sees)
        self.assertEqual(who == 'admin', self.status(
            url, 'GET', '/v1/streams/$audit', proof=said) == 200)
        self.look_grpc(int(url.split(':')[2]), [('authorization', said)], sees)

    def look_grpc(self, port, head, sees):
        def seen(*args, **more):
            with grpc_client.Conn(port) as conn:
                try:
                    return set(re.findall(rb'"in":"(\w+-1)"', b''.join(
                        read(conn, head, *args, **more).all())))
                except grpc_client.Status as status:
                    self.assertEqual((status.code, status.exception), (7, 'access-denied'))
                    return set()
        want = {s.encode() for s in sees}
        for stream in self.STREAMS:
            self.assertEqual(seen(stream), {stream.encode()} & want)
        self.assertEqual(seen(), want)
        self.assertEqual(seen(backwards=True), want)
        self.assertEqual(seen('$et-T', resolve=True), want)
        self.assertEqual(seen('$streams', resolve=True), want)
        for stream in self.STREAMS:
            with grpc_client.Conn(port) as conn:
                names = b''.join(read(conn, head, '$category-' + stream.split('-')[0]).all())
            self.assertEqual(stream.encode() in names, stream in sees)
        with grpc_client.Conn(port) as conn:
            call = read(conn, head, subscribe=True)
            got = b''
            while 8 not in grpc_client.fields(message := call.next()):
                got += message
            self.assertEqual(set(re.findall(rb'"in":"(\w+-1)"', got)), want)

    def test_writing(self):
        """Who may append, change and delete, by each way to do so."""
        with self.server('-c', self.write('c.yaml', self.CONF)) as (url, _):
            proof = self.people(url)
            self.fill(url, proof)
            for stream, allowed in self.WRITES.items():
                for who in self.SEES:
                    with self.subTest(who=who, stream=stream):
                        self.try_writes(url, stream, proof[who], who in allowed,
                                        who in allowed and (stream != 'hidden-1' or who == 'admin'))
            # A commit is all or nothing.
            both = {'appends': [{'stream': s, 'events': [{'type': 'T', 'data': 1}]}
                                for s in ('a-1', 'orders-1')]}
            self.assertEqual(self.status(url, 'POST', '/v1/commits', both, proof['both']), 403)
            audit = json.loads(self.ask(url, 'GET', '/v1/streams/$audit?limit=1000',
                                        proof=proof['admin'])[1])['events']
            self.assertIn({'user': 'reader', 'action': 'write', 'target': 'a-1'},
                          [e['data'] for e in audit if e['type'] == 'AccessDenied'])

    def try_writes(self, url, stream, said, may, may_change):
        one = {'type': 'T', 'data': 1}
        head = [('authorization', said)]
        for path, body in ((f'/v1/streams/{stream}', one),
                           (f'/v1/streams/{stream}/links', [{'stream': 'x', 'version': 0}]),
                           ('/v1/commits', {'appends': [{'stream': stream, 'events': [one]}]})):
            self.assertEqual(self.status(url, 'POST', path, body, said), 201 if may else 403, path)
        for path, body in ((f'/v1/streams/{stream}/truncate', {'before': 0}),
                           (f'/v1/streams/{stream}/close', None),
                           (f'/v1/streams/{stream}/open', None),
                           ('/v1/commits', {'changes': [{'stream': stream, 'truncate': 0}]}),
                           ('/v1/commits', {'changes': [{'stream': stream, 'closed': False}]})):
            self.assertIn(self.status(url, 'POST', path, body, said),
                          (200, 201) if may_change else (403,), path)
        with grpc_client.Conn(int(url.split(':')[2])) as conn:
            def attempt(call):
                try:
                    call.all()
                    return True
                except grpc_client.Status as status:
                    self.assertEqual((status.code, status.headers.get('exception', 'access-denied')),
                                     (7, 'access-denied'))
                    return False
            event_ = grpc_client.proposed(uuid.uuid4())
            self.assertEqual(attempt(grpc_client.append(conn, stream, [event_], more=head)), may)
            self.assertEqual(attempt(grpc_client.append(conn, stream, [], more=head)), may)
            record = pb((2, b''), (3, pb((1, 1), (2, 'T'))), (4, b'{}'), (5, stream))
            v2 = '/kurrentdb.protocol.v2.streams.StreamsService/'
            self.assertEqual(attempt(conn.call(v2 + 'AppendRecords', pb((1, record)), more=head)), may)
            self.assertEqual(attempt(conn.call(v2 + 'AppendSession', pb((1, stream), (2, record)),
                                               more=head)), may)
            batch = conn.start(grpc_client.STREAMS + 'BatchAppend', head)
            batch.send(pb((1, pb((2, str(uuid.uuid4())))),
                          (2, pb((1, grpc_client.name(stream)), (4, b''))), (3, event_), (4, 1)),
                       True)
            code = grpc_client.one(batch.next(), 2, 1)
            self.assertEqual(code, None if may else 7)

    def test_settings(self):
        """What $settings presets where no $acl and no permission decides, as KurrentDB has it."""
        conf = self.write('c.yaml', 'permissions:\n  orders: {read: [both]}\n')
        with self.server('-c', conf) as (url, _):
            proof = self.people(url)
            for stream in ('a-1', 'b-1', 'orders-1'):
                self.assertEqual(self.status(url, 'POST', '/v1/streams/' + stream, self.EVENT,
                                             proof['admin']), 201)
            self.assertEqual(self.status(url, 'PUT', '/v1/streams/b-1/metadata',
                                         {'$acl': {'$r': 'both'}}, proof['admin']), 200)

            def may(method, path, body=None):
                return [who for who in ('none', 'reader', 'writer', 'both', 'ops')
                        if self.status(url, method, '/v1/streams/' + path, body, proof[who]) != 403]

            def preset(data, status=201, who='admin'):
                self.assertEqual(self.status(url, 'POST', '/v1/streams/$settings',
                                             {'type': '$settings', 'data': data}, proof[who]), status)
            for who in ('both', 'ops'):
                preset({'$userStreamAcl': {'$w': '$all'}}, 403, who)
            self.assertEqual(may('GET', 'a-1'), ['reader', 'both'])
            preset({'$userStreamAcl': {'$r': ['billing'], '$w': 'reader'},
                    '$systemStreamAcl': {'$r': ['auditors'], '$w': '$all'}})
            self.assertEqual(may('GET', 'a-1'), ['writer'])
            self.assertEqual(may('POST', 'a-1', self.EVENT), ['reader'])
            self.assertEqual(may('POST', 'a-1/truncate', {'before': 0}), ['writer', 'both'])
            self.assertEqual((may('GET', 'b-1'), may('GET', 'orders-1')), (['both'], ['both']))
            self.assertEqual(may('GET', '$audit'), ['none'])
            self.assertEqual(self.status(url, 'POST', '/v1/streams/$audit', self.EVENT,
                                         proof['none']), 400)
            self.assertEqual(may('GET', '$user-admin'), ['none'])
            self.assertNotIn('scrypt', self.ask(url, 'GET', '/v1/streams/$user-admin', None,
                                                proof['none'])[1])
            preset([1])
            self.assertEqual((may('GET', 'a-1'), may('GET', 'b-1')), ([], ['both']))
            with grpc_client.Conn(int(url.split(':')[2])) as conn:
                grpc_client.append(conn, '$settings', [grpc_client.proposed(uuid.uuid4())],
                                   more=[('authorization', proof['admin'])]).only()
            self.assertEqual(may('GET', 'a-1'), ['reader', 'both'])

    def test_live(self):
        """What is taken from a user is taken from the streams that are open."""
        with self.server() as (url, _):
            proof = self.people(url)

            def append(stream):
                self.assertEqual(self.status(url, 'POST', '/v1/streams/' + stream,
                                             {'type': 'T', 'data': {'in': stream}},
                                             proof['admin']), 201)

            append('a-1')
            lives = {}
            for path in ('/v1/all', '/v1/streams/a-1'):
                conn = http.client.HTTPConnection(url.split('//')[1], timeout=60)
                self.addCleanup(conn.close)
                conn.request('GET', path, headers={'Accept': 'text/event-stream',
                                                   'Authorization': proof['reader']})
                lives[path] = conn.getresponse()
                while 'caught-up' not in (line := lives[path].readline().decode()):
                    self.assertTrue(line)

            def next_of(path):
                while line := lives[path].readline().decode():
                    if found := re.search('"in":"([^"]+)"', line):
                        return found.group(1)
                return None
            append('b-1')
            self.assertEqual(next_of('/v1/all'), 'b-1')
            append('a-1')
            self.assertEqual((next_of('/v1/all'), next_of('/v1/streams/a-1')), ('a-1', 'a-1'))
            self.assertEqual(self.status(url, 'PUT', '/v1/streams/a-1/metadata',
                                         {'$acl': {'$r': '$admins'}}, proof['admin']), 200)
            append('a-1')
            append('b-1')
            self.assertEqual(next_of('/v1/all'), 'b-1')
            self.assertEqual(self.status(url, 'POST', '/v1/users/reader/disable', None,
                                         proof['admin']), 200)
            self.assertEqual(self.status(url, 'GET', '/v1/all', proof=proof['reader']), 401)
            for path in lives:
                try:
                    self.assertIsNone(next_of(path))
                except (http.client.HTTPException, OSError):
                    pass

    def test_groups(self):
        with self.server('-c', self.write('c.yaml', self.CONF)) as (url, _):
            proof = self.people(url)
            self.fill(url, proof)
            joins = {'a-1': {'reader', 'both', 'admin'}, 'orders-1': {'writer', 'admin'},
                     'hidden-1': {'none', 'admin'}, '$ce-orders': {'writer', 'admin'},
                     '$all': {'admin'}, '$et-T': {'admin'}}
            for source, allowed in joins.items():
                path = f'/v1/groups/{source}/g'
                self.assertEqual(self.status(url, 'PUT', path, {'from': 'beginning'}, proof['ops']),
                                 201)
                for who in self.SEES:
                    with self.subTest(who=who, source=source):
                        status = self.status(url, 'GET', path + '/events?limit=1&wait_ms=0', proof=proof[who])
                        self.assertEqual(status == 403, who not in allowed, status)
                        self.assertEqual(self.join(url, source, proof[who]), who in allowed)

    def join(self, url, source, said):
        where = (5, b'') if source == '$all' else (1, grpc_client.name(source))
        with grpc_client.Conn(int(url.split(':')[2])) as conn:
            call = conn.start(GROUPS + 'Read', [('authorization', said)])
            call.send(pb((1, pb(where, (2, 'g'), (3, 10), (4, pb((2, b'')))))))
            try:
                return call.next() is not None
            except grpc_client.Status as status:
                self.assertEqual((status.code, status.exception), (7, 'access-denied'))
                return False

    def test_grpc_users(self):
        """The service Users, as KurrentDB's tools call it."""
        with self.server() as (url, _):
            port = int(url.split(':')[2])

            def call(method, *options, proof=basic('admin', ADMIN)):
                with grpc_client.Conn(port) as conn:
                    return conn.call(USERS + method, pb((1, pb(*options))),
                                     more=[('authorization', proof)]).all()

            def fails(code, exception, method, *options, **more):
                with self.assertRaises(grpc_client.Status) as caught:
                    call(method, *options, **more)
                self.assertEqual((caught.exception.code, caught.exception.exception),
                                 (code, exception), method)
                return caught.exception

            def details(name):
                got = grpc_client.fields(grpc_client.one(call('Details', (1, name))[0], 1))
                return ([v.decode() for v in got[1] + got[2] + got[3]], bool(got[5] and got[5][0]))
            call('Create', (1, 'ann'), (2, ADMIN), (3, 'Ann'), (4, 'accounting'), (4, '$ops'))
            self.assertEqual(details('ann'), (['ann', 'Ann', '$ops', 'accounting'], False))
            self.assertEqual(fails(9, 'user-conflict', 'Create', (1, 'ann'), (2, ADMIN),
                                   (3, 'Ann')).headers['login-name'], 'ann')
            fails(3, None, 'Create', (1, 'bob'), (2, 'x'))
            call('Update', (1, 'ann'), (3, 'Anna'), (4, 'sales'))
            self.assertEqual(details('ann'), (['ann', 'Anna', 'sales'], False))
            call('Disable', (1, 'ann'))
            self.assertTrue(details('ann')[1])
            fails(16, 'access-denied', 'Details', (1, 'ann'), proof=basic('ann', ADMIN))
            call('Enable', (1, 'ann'))
            self.assertEqual(len(call('Details', proof=basic('ann', ADMIN))), 1)
            self.assertEqual(len(call('Details')), 3)
            fails(7, 'access-denied', 'ChangePassword', (1, 'ann'), (2, WRONG), (3, WRONG),
                  proof=basic('ann', ADMIN))
            fails(7, 'access-denied', 'ChangePassword', (1, 'admin'), (2, ADMIN), (3, WRONG),
                  proof=basic('ann', ADMIN))
            call('ChangePassword', (1, 'ann'), (2, ADMIN), (3, WRONG), proof=basic('ann', ADMIN))
            fails(16, 'access-denied', 'Details', proof=basic('ann', ADMIN))
            call('ResetPassword', (1, 'ann'), (2, ADMIN))
            fails(7, 'access-denied', 'ResetPassword', (1, 'admin'), (2, WRONG),
                  proof=basic('ann', ADMIN))
            call('Delete', (1, 'ann'))
            for method in ('Delete', 'Disable', 'Enable', 'Details', 'ResetPassword'):
                self.assertEqual(fails(5, 'user-not-found', method, (1, 'ann'),
                                       (2, ADMIN)).headers['login-name'], 'ann')
            fails(9, None, 'Delete', (1, 'admin'))


if __name__ == '__main__':
    unittest.main()
