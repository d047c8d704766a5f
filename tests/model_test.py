"""Random operations over HTTP and on the command line against a plain model of the semantics
(docs/streams.md), with the server stopped and killed on the way.

    OPS=50000 model_test.py                         both fronts
    model_test.py --front http --seed 7 --ops 5000  one of them again
"""
import argparse
import bisect
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
PATIENCE = 120
ANY, NO_STREAM, EXISTS = 'any', 'no-stream', 'exists'
CONFIG = 'retention:\n  keep: {max_count: 4}\n  two: {max_count: 2}\n'
RETENTION = {'keep': 4, 'two': 2}
NAMES = ['a-1', 'a-2', 'a-3', 'b-1', 'b-x-2', 'plain', '-empty', 'keep-1', 'keep-2', 'two-1', 'c/d-1',
         'with space-1', 'ä/ü-1', 'at@x-1', 'q?&=%20#-1', '"quoted"\\-1', 'A-1', '100%-1', '+plus-1',
         'l' * 255, 'L' * 253]
TYPES = ['t', 't', 't', 'u', 't u', 'é', '%2F', '$>x']


class Differs(Exception):
    pass


class Event:
    def __init__(self, stream, version, new):
        self.stream, self.version, self.new = stream, version, new
        self.id, self.type, self.data = new.get('id'), new['type'], new['data']
        self.position = None


class Stream:
    def __init__(self, name):
        self.name, self.events = name, []
        self.truncate, self.max_count, self.max_age = 0, 0, 0
        self.known = self.deleted = self.tombstone = self.closed = False
        self.category = name.split('-', 1)[0] if '-' in name else None

    @property
    def next(self):
        return len(self.events)

    def there(self):
        return self.known and not self.deleted

    def readable(self):
        return bool(self.events) and not self.deleted and not self.tombstone

    def limit(self):
        if self.name.startswith('$$'):
            return 1
        return self.max_count or RETENTION.get(self.category, 0)

    def low(self):
        if self.deleted or self.tombstone:
            return self.next
        limit = self.limit()
        return max(self.truncate, self.next - limit if limit else 0)

    def holds(self, expected):
        if expected == ANY:
            return True
        if expected == NO_STREAM:
            return not self.events or not self.there()
        if expected == EXISTS:
            return self.there()
        return self.next == expected + 1

    def actual(self):
        return self.next - 1 if self.events and self.there() else NO_STREAM


class Refused(Exception):
    """What the model says no with."""

    def __init__(self, status, error, stream=None, expected=None):
        super().__init__(error)
        self.status, self.error, self.expected = status, error, expected
        self.stream = stream and stream.name
        self.actual = stream.actual() if stream else None


class Model:
    def __init__(self):
        self.streams, self.events = {}, []

    def get(self, name):
        return self.streams.get(name) or Stream(name)

    def put(self, name):
        return self.streams.setdefault(name, Stream(name))

    @staticmethod
    def stopped(s):
        return Refused(410, 'gone', s) if s.tombstone else Refused(409, 'stream-closed', s)

    def again(self, s, expected, events):
        """(how many of them stand there, at which version)"""
        ids = [e.get('id') for e in events]
        if s.deleted or None in ids:
            return 0, 0
        if expected in (ANY, EXISTS):
            at = next((e.version for e in reversed(s.events) if e.id == ids[0]), None)
            if at is None:
                return 0, 0
        elif s.holds(expected):
            return 0, 0
        else:
            at = 0 if expected == NO_STREAM else expected + 1
        return sum(e.id == i for e, i in zip(s.events[at:], ids)), at

    def commit(self, writes, changes=(), checks=()):
        """[(first, last)] of the writes, whether it was there before, its last event; or Refused."""
        changes = [(s, x, dict(w)) for s, x, w in changes]
        for name, _, events in writes:
            if name.startswith('$$'):
                changes.append((name[2:], ANY, self.meta_change(events[-1]['data'])))
        names = [w[0] for w in writes]
        if len(set(names)) < len(names) or len({c[0] for c in changes}) < len(changes):
            raise Refused(400, 'invalid')
        there = []
        for name, expected, events in writes:
            s = self.get(name)
            same, at = self.again(s, expected, events)
            there.append((at, at + len(events) - 1) if same == len(events) else None)
            if there[-1]:
                continue
            if s.closed or s.tombstone:
                raise self.stopped(s)
            if not s.holds(expected) or (same and expected in (ANY, EXISTS)):
                raise Refused(409, 'wrong-expected-version', s, expected)
        if there and all(there):
            last = max((self.get(w[0]).events[t[1]] for w, t in zip(writes, there)),
                       key=self.events.index)
            return there, True, last
        for (name, expected, _), t in zip(writes, there):
            s = self.get(name)
            if t and (s.closed or s.tombstone):
                raise self.stopped(s)
            if t:
                raise Refused(409, 'wrong-expected-version', s, expected)
        for name, expected, _ in changes:
            s = self.get(name)
            if s.tombstone:
                raise self.stopped(s)
            if not s.holds(expected):
                raise Refused(409, 'wrong-expected-version', s, expected)
        for name, expected in checks:
            if not self.get(name).holds(expected):
                raise Refused(409, 'wrong-expected-version', self.get(name), expected)
        return self.apply(writes, changes), False, self.events[-1] if writes else None

    def apply(self, writes, changes):
        done = []
        for name, _, events in writes:
            s = self.put(name)
            s.known, s.deleted, first = True, False, s.next
            for new in events:
                s.events.append(Event(s, s.next, new))
                self.events.append(s.events[-1])
            done.append((first, s.next - 1))
        for name, _, what in changes:
            s = self.put(name)
            s.known = True
            if what.get('delete') or what.get('tombstone'):
                s.truncate = s.next
                s.deleted, s.tombstone = not what.get('tombstone'), bool(what.get('tombstone'))
            s.truncate = max(s.truncate, min(what.get('truncate', 0), s.next))
            s.closed = what.get('closed', s.closed)
            if 'limits' in what:
                s.max_count, s.max_age = what['limits']
        return done

    @staticmethod
    def meta_change(meta):
        what = {'limits': (meta.get('$maxCount', 0), meta.get('$maxAge', 0))}
        if meta.get('$tb') == 2**63 - 1:
            what['delete'] = True
        elif '$tb' in meta:
            what['truncate'] = meta['$tb']
        return what

    @staticmethod
    def visible(event):
        return event.version >= event.stream.low()

    def read(self, name, start=None, backwards=False, limit=1000, resolve=False, wanted=None):
        """[(event, link, dangling)]; `start` is a version, or by position a number in self.events"""
        if name is None or name == '$streams' or name[:4] in ('$ce-', '$et-'):
            found = self.of_all(name, start, backwards, wanted)
        else:
            s = self.get(name)
            if s.tombstone:
                raise Refused(410, 'gone')
            if not s.readable():
                raise Refused(404, 'stream-not-found')
            found = [e for e in s.events if self.visible(e) and
                     (start is None or (e.version <= start if backwards else e.version >= start))]
            found = found[::-1] if backwards else found
        return [self.give(name, e, resolve) for e in found[:limit]]

    def of_all(self, name, start, backwards, wanted):
        part = self.events if start is None else (
            self.events[:start + 1] if backwards else self.events[start:])
        found = []
        system = (name or '')[4:5] == '$' or (wanted or {}).get('prefix', '')[:1] == '$'
        for e in part:
            s = e.stream
            kind = '$>' if name == '$streams' else e.type
            if s.name[0] == '$' and not (system and name != '$streams' or
                                         (wanted or {}).get('prefix', '')[:1] == '$'):
                continue
            if name == '$streams':
                if e.version != 0 or not s.readable():
                    continue
            elif not self.visible(e):
                continue
            if name and name[:4] == '$ce-' and s.category != name[4:]:
                continue
            if name and name[:4] == '$et-' and kind != name[4:]:
                continue
            if wanted and not (s.name.startswith(wanted.get('prefix', '')) and
                               wanted.get('category', s.category) == s.category and
                               wanted.get('type', kind) == kind):
                continue
            found.append(e)
        return found[::-1] if backwards else found

    def give(self, name, event, resolve):
        if name == '$streams':
            return (event, '$streams', resolve and not self.visible(event))
        if not resolve or event.type != '$>':
            return (event, None, False)
        version, target = event.data.split('@', 1)
        s = self.get(target)
        if int(version) < s.next and self.visible(s.events[int(version)]):
            return (s.events[int(version)], event, False)
        return (event, None, True)


class Server:
    def __init__(self, folder):
        self.folder, self.process, self.sock = folder, None, None
        self.config = os.path.join(folder, 'oxbow.yaml')
        with open(self.config, 'w', encoding='utf-8') as f:
            f.write(CONFIG)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith('OXBOW_')}
        self.data = os.path.join(folder, 'data')

    def start(self):
        log = os.path.join(self.folder, 'log')
        with open(log, 'wb') as f:
            self.process = subprocess.Popen(
                [OXBOW, 'serve', '--listen', '127.0.0.1:0', '--data', self.data, '-c', self.config],
                stdin=subprocess.DEVNULL, stdout=f, stderr=f, env=self.env)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            with open(log, encoding='utf-8') as f:
                found = re.search(r'msg=listening .*port=(\d+)', f.read())
            if found:
                self.port = int(found.group(1))
                self.url = f'http://127.0.0.1:{self.port}'
                self.sock = socket.create_connection(('127.0.0.1', self.port), PATIENCE)
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.file = self.sock.makefile('rb')
                return
            time.sleep(0.01)
        with open(log, encoding='utf-8') as f:
            raise Differs('no server: ' + f.read())

    def stop(self, how=signal.SIGKILL):
        if self.sock:
            self.file.close()
            self.sock.close()
            self.sock = None
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE)

    def ask(self, requests):
        """[(status, JSON)], all of them sent before the first answer is read"""
        out = bytearray()
        for method, path, headers, body in requests:
            out += f'{method} {path} HTTP/1.1\r\nHost: x\r\n'.encode()
            for k, v in headers.items():
                out += f'{k}: {v}\r\n'.encode()
            body = b'' if body is None else body
            out += b'Content-Length: %d\r\n\r\n' % len(body) + body
        self.sock.sendall(out)
        return [self.answer() for _ in requests]

    def answer(self):
        status, length, chunked = int(self.file.readline().split()[1]), 0, False
        while True:
            line = self.file.readline().strip().lower()
            if not line:
                break
            if line.startswith(b'content-length:'):
                length = int(line[15:])
            chunked = chunked or line.startswith(b'transfer-encoding:')
        if not chunked:
            text = self.file.read(length)
        else:
            text = b''
            while True:
                n = int(self.file.readline(), 16)
                text += self.file.read(n)
                self.file.readline()
                if n == 0:
                    break
        return status, json.loads(text) if text else None


def quoted(name):
    return urllib.parse.quote(name, safe='')


class World:
    """The model, what is asked of both, and how answers are compared."""

    def __init__(self, seed, server):
        self.rng, self.model, self.server = random.Random(seed), Model(), server
        self.tags, self.keys, self.key_ids, self.said = 0, [], {}, []

    # what is asked

    def name(self):
        return self.rng.choice(NAMES) if self.rng.random() < 0.97 else 'nobody-1'

    def expected(self, name):
        s, pick = self.model.get(name), self.rng.random()
        if pick < 0.5:
            return ANY
        if pick < 0.75:
            return s.next - 1 if s.events else NO_STREAM
        if pick < 0.85:
            return EXISTS
        return NO_STREAM if pick < 0.92 else self.rng.randrange(s.next + 2)

    def event(self):
        self.tags += 1
        e = {'type': self.rng.choice(TYPES), 'data': {'n': self.tags, 'ü': 'x' * (self.tags % 7)}}
        if self.rng.random() < 0.08:
            e = {'type': '$>', 'data': f'{self.rng.randrange(8)}@{self.name()}'}
        if self.rng.random() < 0.01:
            e['data'] = {'n': self.tags, 'pad': 'y' * 3000}
            e['type'] = 't'
        if self.rng.random() < 0.5:
            e['id'] = str(uuid.UUID(int=self.rng.getrandbits(128)))
        if self.rng.random() < 0.2:
            e['metadata'] = {'m': self.tags}
        return e

    def write(self):
        name = self.name()
        s = self.model.get(name)
        events = [self.event() for _ in range(1 if self.rng.random() < 0.8 else 3)]
        expected = self.expected(name)
        if s.events and self.rng.random() < 0.15:
            at = self.rng.randrange(s.next)
            for e, old in zip(events, s.events[at:]):
                if isinstance(old.id, str) and self.rng.random() < 0.9:
                    e['id'] = old.id
            expected = self.rng.choice([ANY, EXISTS, NO_STREAM if at == 0 else at - 1])
        return name, expected, events

    def metadata(self, name):
        meta = {'mine': self.tags}
        if self.rng.random() < 0.5:
            meta['$maxCount'] = self.rng.randrange(1, 6)
        if self.rng.random() < 0.2:
            meta['$maxAge'] = 10**10
        pick = self.rng.random()
        if pick < 0.05:
            meta['$tb'] = 2**63 - 1
        elif pick < 0.25:
            meta['$tb'] = self.rng.randrange(self.model.get(name).next + 2)
        return meta

    def change(self, name):
        kind = self.rng.choice(['truncate', 'truncate', 'delete', 'close', 'open', 'open'])
        if self.rng.random() < 0.01:
            kind = 'tombstone'
        if kind == 'truncate':
            return kind, {'truncate': self.rng.randrange(self.model.get(name).next + 3)}
        if kind in ('close', 'open'):
            return kind, {'closed': kind == 'close'}
        return kind, {kind: True}

    def reading(self):
        """(name or None, parameters, the model's answer)"""
        r, backwards, start, wanted = self.rng, self.rng.random() < 0.3, None, {}
        name = r.choice([None, None, '$streams', '$ce-a', '$ce-keep', '$et-t', '$et-t u', '$et-é',
                         '$ce-c/d', '$ce-$$a', '$et-$metadata']) if r.random() < 0.5 else self.name()
        if name and name[0] != '$' and len(name) <= 253 and r.random() < 0.1:
            name = '$$' + name
        limit, resolve = r.randrange(1, 30), r.random() < 0.3
        params = {'limit': limit}
        if name is None or name[:4] in ('$ce-', '$et-') or name == '$streams':
            if r.random() < 0.6 and self.settled:
                start = r.randrange(self.settled)
                params['from'] = self.model.events[start].position
                if params['from'] is None:
                    start = None
                    del params['from']
            for key, some in (('prefix', ['a-', 'b', '$', 'ä', 'with ']), ('category', ['a', 'b']),
                              ('type', ['t', '$>', 'u'])):
                if r.random() < 0.15:
                    wanted[key] = r.choice(some)
        elif r.random() < 0.5:
            start = params['from'] = r.randrange(self.model.get(name).next + 2)
        params.update(wanted)
        if backwards:
            params['direction'] = 'backwards'
        if resolve:
            params['resolve'] = 'true'
        try:
            want = self.model.read(name, start, backwards, limit, resolve, wanted)
        except Refused as no:
            want = no
        return name, params, want

    def foretell(self, *args):
        try:
            return self.model.commit(*args)
        except Refused as no:
            return no

    # how answers are compared

    def same(self, what, got, want):
        if got != want:
            raise Differs(f'{what}: got {got}, expected {want}')

    def check_refused(self, got, no, unnamed=False):
        status, body = got
        if unnamed and no.error == 'wrong-expected-version' and no.actual == NO_STREAM:
            no.status, no.error = 404, 'stream-not-found'
        self.same('refusal', (status, body.get('error')), (no.status, no.error))
        if no.error == 'wrong-expected-version':
            self.same('refusal', (body['stream'], body['expected'], body['actual']),
                      (no.stream, no.expected, no.actual))

    def check_position(self, event, position):
        if event.position is None:
            event.position = position
        self.same(f'position of {event.stream.name}/{event.version}', position, event.position)

    def check_event(self, got, item):
        event, link, dangling = item
        if link == '$streams' and (dangling or 'link' not in got):
            self.same('link', (got['stream'], got['data'], got['type']),
                      ('$streams', '0@' + event.stream.name, '$>'))
            self.check_position(event, got['position'])
            self.same('dangling', got.get('dangling', False), dangling)
            return
        self.same('event', (got['stream'], got['version'], got['type'], got['data'],
                            got.get('metadata'), got.get('dangling', False)),
                  (event.stream.name, event.version, event.type, event.data,
                   event.new.get('metadata'), dangling))
        self.check_position(event, got['position'])
        if isinstance(event.id, tuple):
            self.same('id by key', self.key_ids.setdefault(event.id, got['id']), got['id'])
        else:
            event.id = event.id or got['id']
            self.same('id', got['id'], event.id)
        if isinstance(link, Event):
            self.same('link', (got['link']['stream'], got['link']['version']),
                      (link.stream.name, link.version))
            self.check_position(link, got['link']['position'])
        else:
            self.same('a link', 'link' in got, link == '$streams')

    def check_events(self, got, want):
        for g, w in zip(got, want):
            self.check_event(g, w)
        self.same('number of events', len(got), len(want))

    def check_info(self, got, s, numbers):
        first, head, limit, age, closed = numbers
        self.same(f'info of {s.name}',
                  (got['stream'], got['first'], got['head'], got['count'], got.get('max_count', 0),
                   got.get('max_age_s', 0), got.get('closed', False)),
                  (s.name, first, head, head + 1 - first, limit, age, closed))

    @staticmethod
    def numbers(s):
        return s.low(), s.next - 1, s.limit(), s.max_age, s.closed


class Http(World):
    """Operations over one connection, many at a time."""

    def __init__(self, seed, server):
        super().__init__(seed, server)
        self.settled = 0

    def append(self):
        name, expected, events = self.write()
        headers = {} if expected == ANY else {'Expected-Version': expected}
        wire = [dict(e) for e in events]
        if self.rng.random() < 0.15:
            key = self.rng.choice(self.keys[-20:]) if self.keys and self.rng.random() < 0.5 else (
                f'key {self.tags}')
            self.keys.append(key)
            headers['Idempotency-Key'] = key
            for i, e in enumerate(events):
                e.setdefault('id', ('key', key, i))
        want = self.foretell([(name, expected, events)])
        body = json.dumps(wire, ensure_ascii=False).encode()
        if self.rng.random() < 0.2:
            headers['Content-Type'] = 'application/x-ndjson'
            body = b'\n'.join(json.dumps(e).encode() for e in wire)

        def check(got):
            if isinstance(want, Refused):
                return self.check_refused(got, want)
            (first, last), = want[0]
            self.same('append', (got[0], got[1].get('first_version'), got[1].get('last_version'),
                                 got[1].get('idempotent', False)), (201, first, last, want[1]))
            self.check_position(want[2], got[1]['position'])
        return ('POST', '/v1/streams/' + quoted(name), headers, body), check

    def commit(self):
        r = self.rng
        writes = [self.write() for _ in range(r.randrange(0, 4))]
        checks = [(n, self.expected(n)) for n in [self.name()] if r.random() < 0.3]
        changes, metas, wire = [], [], []
        for _ in range(r.randrange(0 if writes else 1, 2)):
            name = self.name()
            expected = self.expected(name)
            if r.random() < 0.3 and len(name) <= 253:
                meta = self.metadata(name)
                metas.append(('$$' + name, expected, [{'type': '$metadata', 'data': meta}]))
                wire.append({'stream': name, 'expected': expected, 'metadata': meta})
            else:
                what = self.change(name)[1]
                changes.append((name, expected, what))
                wire.append({'stream': name, 'expected': expected, **what})
        body = {'appends': [{'stream': s, 'expected': x, 'events': [dict(e) for e in es]}
                            for s, x, es in writes],
                'checks': [{'stream': s, 'expected': x} for s, x in checks], 'changes': wire}
        want = self.foretell(writes + metas, changes, checks)

        def check(got):
            if isinstance(want, Refused):
                return self.check_refused(got, want)
            self.same('commit', (got[0], got[1].get('idempotent', False)), (201, want[1]))
            self.same('commit', [(a['stream'], (a['first_version'], a['last_version']))
                                 for a in got[1]['appends']],
                      [(w[0], versions) for w, versions in zip(writes, want[0])])
            if want[2]:
                self.check_position(want[2], got[1]['position'])
        return ('POST', '/v1/commits', {}, json.dumps(body).encode()), check

    def change_one(self):
        name = self.name()
        kind, what = self.change(name)
        expected = self.expected(name) if self.rng.random() < 0.5 else None
        headers = {} if expected is None else {'Expected-Version': expected}
        want = self.foretell([], [(name, EXISTS if expected is None else expected, what)])
        path, body = '/v1/streams/' + quoted(name), None
        if kind == 'truncate':
            path, body = path + '/truncate', json.dumps({'before': what['truncate']}).encode()
        elif kind in ('close', 'open'):
            path += '/' + kind
        elif kind == 'tombstone':
            path += '?tombstone=true'
        method = 'DELETE' if kind in ('delete', 'tombstone') else 'POST'

        def check(got):
            if isinstance(want, Refused):
                return self.check_refused(got, want, expected is None)
            self.same(kind, got[0], 200)
        return (method, path, headers, body), check

    def put_metadata(self):
        name = self.name()
        meta = self.metadata(name)
        expected = self.expected('$$' + name)
        headers = {} if expected == ANY else {'Expected-Version': expected}
        if len(name) > 253:
            want = Refused(400, 'invalid')
        else:
            want = self.foretell([('$$' + name, expected, [{'type': '$metadata', 'data': meta}])])

        def check(got):
            if isinstance(want, Refused):
                return self.check_refused(got, want)
            self.same('metadata', (got[0], got[1].get('version')), (200, want[0][0][0]))
            self.check_position(want[2], got[1]['position'])
        return ('PUT', f'/v1/streams/{quoted(name)}/metadata', headers,
                json.dumps(meta).encode()), check

    def get_metadata(self):
        name = self.name()
        s = self.model.get('$$' + name)
        want = (s.next - 1, s.events[-1].data) if s.readable() else (None, {})

        def check(got):
            if len(name) > 253:
                return self.same('metadata', got[0] in (200, 400), True)
            self.same('metadata', (got[0], got[1].get('version'), got[1].get('metadata')),
                      (200, *want))
        return ('GET', f'/v1/streams/{quoted(name)}/metadata', {}, None), check

    def links(self):
        name = self.name()
        targets = [(self.rng.randrange(6), self.name()) for _ in range(self.rng.randrange(1, 3))]
        expected = self.expected(name)
        headers = {} if expected == ANY else {'Expected-Version': expected}
        want = self.foretell([(name, expected,
                               [{'type': '$>', 'data': f'{v}@{t}'} for v, t in targets])])

        def check(got):
            if isinstance(want, Refused):
                return self.check_refused(got, want)
            (first, last), = want[0]
            self.same('links', (got[0], got[1].get('first_version'), got[1].get('last_version')),
                      (201, first, last))
        return ('POST', f'/v1/streams/{quoted(name)}/links', headers,
                json.dumps([{'stream': t, 'version': v} for v, t in targets]).encode()), check

    def read(self):
        name, params, want = self.reading()
        path = '/v1/all' if name is None else '/v1/streams/' + quoted(name)
        head = self.model.get(name).next - 1 if name else None

        def check(got):
            if isinstance(want, Refused):
                return self.check_refused(got, want)
            self.same('read', got[0], 200)
            self.check_events(got[1]['events'], want)
            if name and (name[0] != '$' or name[1] == '$'):
                self.same('head', got[1]['head'], head)
        return ('GET', path + '?' + urllib.parse.urlencode(params), {}, None), check

    def info(self):
        s = self.model.get(self.name())
        gone, there, numbers = s.tombstone, s.readable(), self.numbers(s)

        def check(got):
            if not there:
                return self.same('info', got[0], 410 if gone else 404)
            self.same('info', got[0], 200)
            self.check_info(got[1], s, numbers)
        return ('GET', f'/v1/streams/{quoted(s.name)}/info', {}, None), check

    def list(self):
        prefix = self.rng.choice(['', '', 'a', '$$', 'ä', 'k'])
        after = self.name() if self.rng.random() < 0.3 else ''
        limit = self.rng.randrange(1, 12)
        found = sorted((s for s in self.model.streams.values()
                        if s.readable() and s.name.startswith(prefix) and
                        s.name.encode() > after.encode()), key=lambda s: s.name.encode())
        want = [(s, self.numbers(s)) for s in found[:limit]]
        more = found[limit - 1].name if len(found) > limit else None

        def check(got):
            self.same('list', (got[0], [s['stream'] for s in got[1]['streams']], got[1]['next']),
                      (200, [s.name for s, _ in want], more))
            for g, (s, numbers) in zip(got[1]['streams'], want):
                self.check_info(g, s, numbers)
        return ('GET', '/v1/streams?' + urllib.parse.urlencode(
            {'prefix': prefix, 'after': after, 'limit': limit}), {}, None), check

    KINDS = [(append, 40), (commit, 10), (change_one, 8), (put_metadata, 5), (get_metadata, 3),
             (links, 3), (read, 25), (info, 5), (list, 2)]

    def steps(self, count):
        """As many at once, each held against the model as it is at its place in the order."""
        kinds, weights = zip(*self.KINDS)
        asked = []
        for kind in self.rng.choices(kinds, weights, k=count):
            asked.append(kind(self))
        answers = self.server.ask([a[0] for a in asked])
        for (request, check), got in zip(asked, answers):
            try:
                check(got)
            except Differs as no:
                raise Differs(f'{no}\n  asked: {request}\n  got: {str(got)[:2000]}') from None
        self.settled = len(self.model.events)
        return count

    def turn(self):
        if self.rng.random() < 0.03:
            self.server.stop(self.rng.choice([signal.SIGKILL, signal.SIGTERM]))
            self.server.start()


class Cli(World):
    """One operation at a time: over the server, or on the folder while there is none."""

    def __init__(self, seed, server):
        super().__init__(seed, server)
        self.settled = 0

    def run(self, *args, stdin=''):
        where = ['--server', self.server.url] if self.server.sock else (
            ['--data', self.server.data, '-c', self.server.config])
        done = subprocess.run([OXBOW, args[0], *(args[1:2] if args[0] == 'stream' else []), *where,
                               '--json', *args[2 if args[0] == 'stream' else 1:]], input=stdin.encode(),
                              env=self.server.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=PATIENCE, check=False)
        self.asked = (args, stdin, done.returncode, done.stdout[:2000], done.stderr[:500])
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    def append(self):
        name, expected, events = self.write()
        want = self.foretell([(name, expected, events)])
        code, lines = self.run('append', '--expect', str(expected), '--', name,
                               stdin='\n'.join(json.dumps(e) for e in events) + '\n')
        self.same('exit', code, 1 if isinstance(want, Refused) else 0)
        if code == 0:
            self.same('append', lines[-1]['last_version'], want[0][0][1])
            self.check_position(want[2], lines[-1]['position'])

    def change_one(self):
        name = self.name()
        kind, what = self.change(name)
        expected = self.expected(name) if self.rng.random() < 0.5 else None
        want = self.foretell([], [(name, EXISTS if expected is None else expected, what)])
        more = [str(what['truncate'])] if kind == 'truncate' else []
        code, _ = self.run('stream', kind, *([] if expected is None else ['--expect', str(expected)]),
                           '--', name, *more)
        self.same('exit', code, 1 if isinstance(want, Refused) else 0)

    def set_metadata(self):
        name = self.name()
        meta = self.metadata(name)
        if len(name) > 253:
            return
        want = self.foretell([('$$' + name, ANY, [{'type': '$metadata', 'data': meta}])])
        code, lines = self.run('stream', 'metadata', '--', name, json.dumps(meta))
        self.same('exit', code, 1 if isinstance(want, Refused) else 0)
        if code == 0:
            self.same('metadata', lines[0]['version'], want[0][0][0])

    def read(self):
        name, params, want = self.reading()
        args = ['--limit', str(params['limit'])]
        for key in ('from', 'prefix', 'category', 'type'):
            if key in params:
                args += ['--' + key, str(params[key])]
        args += ['--backwards'] if 'direction' in params else []
        args += ['--resolve'] if 'resolve' in params else []
        code, lines = self.run('read', *args, '--', name or '$all')
        self.same('exit', code, 1 if isinstance(want, Refused) else 0)
        if code == 0:
            self.check_events(lines, want)

    def info(self):
        s = self.model.get(self.name())
        code, lines = self.run('stream', 'info', '--', s.name)
        self.same('exit', code, 0 if s.readable() else 1)
        if code == 0:
            self.check_info(lines[0], s, self.numbers(s))

    def steps(self, _):
        kinds = [self.append] * 8 + [self.change_one] * 3 + [self.set_metadata, self.info]
        try:
            self.rng.choice(kinds + [self.read] * 5)()
        except Differs as no:
            raise Differs(f'{no}\n  {self.asked}') from None
        self.settled = len(self.model.events)
        return 1

    def turn(self):
        if self.rng.random() < 0.02:
            if self.server.sock:
                self.server.stop(self.rng.choice([signal.SIGKILL, signal.SIGTERM]))
            else:
                self.server.start()


def run(front, seed, ops):
    folder = tempfile.mkdtemp(prefix='oxbow-model-', dir=os.environ.get('TMPDIR') or (
        '/dev/shm' if os.access('/dev/shm', os.W_OK) else None))
    server, done = Server(folder), 0
    try:
        server.start()
        world = {'http': Http, 'cli': Cli}[front](seed, server)
        while done < ops:
            done += world.steps(world.rng.randrange(1, 40))
            world.turn()
        return done
    except Differs as no:
        print(f'{front}, seed {seed}, after {done} operations: {no}')
        print(f'again: model_test.py --front {front} --seed {seed} --ops {done + 40}')
        return None
    finally:
        server.stop()
        shutil.rmtree(folder, True)


def main():
    args = argparse.ArgumentParser()
    args.add_argument('--front', choices=['http', 'cli'])
    args.add_argument('--seed', type=int)
    args.add_argument('--ops', type=int)
    args = args.parse_args()
    ops = args.ops or int(os.environ.get('OPS', '4000'))
    for front in [args.front] if args.front else ['http', 'cli']:
        left = ops if front == 'http' or args.front else max(ops // 50, 100)
        each, seed = (ops, args.seed) if args.seed is not None else (4000, 1)
        total = 0
        while total < left:
            done = run(front, seed, min(each, left))
            if done is None:
                return 1
            total, seed = total + done, seed + 1
        print(f'{front}: {total} operations, the last seed {seed - 1}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
