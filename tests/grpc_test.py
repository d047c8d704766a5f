"""gRPC in the built binary, byte by byte: the services, and input that no client sends."""
import base64
import json
import struct
import threading
import time
import unittest
import uuid

from grpc_client import (CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST, SETTINGS,
                         STREAMS, Conn, Status, append, event_of, fields, kinds, literal, name, one,
                         pb, proposed, read, read_request, expected, zigzag)
from grpc_server import PATIENCE, Case, Server, batch, begin, end, shared

END = (1 << 64) - 1
setUpModule, tearDownModule = begin, end
FEATURES = '/event_store.client.server_features.ServerFeatures/GetSupportedMethods'


class Streams(Case):
    def test_append_and_read(self):
        first, second = self.append(self.stream, 2, 'no-stream', kind='made', data=b'{"n":1}',
                                    meta=b'm\0')
        events = self.events(self.stream)
        self.assertEqual([(e.id, e.revision, e.type, e.content, e.data, e.meta) for e in events],
                         [(str(first), 0, 'made', 'application/json', b'{"n":1}', b'm\0'),
                          (str(second), 1, 'made', 'application/json', b'{"n":1}', b'm\0')])
        self.assertEqual(events[0].stream, self.stream)
        self.assertLess(abs(events[0].created / 1e7 - time.time()), 600)
        status, body = self.http('GET', '/v1/streams/' + self.stream)
        self.assertEqual((status, body['events'][1]['data']), (200, {'n': 1}))
        raw = self.events(self.stream, text=False)[0].id
        self.assertEqual((one(raw, 1), one(raw, 2)),
                         (int.from_bytes(first.bytes[:8], 'big'),
                          int.from_bytes(first.bytes[8:], 'big')))

    def test_directions_and_limits(self):
        self.append(self.stream, 5)
        def revisions(**more):
            return [e.revision for e in self.events(self.stream, **more)]
        self.assertEqual(revisions(where=2), [2, 3, 4])
        self.assertEqual(revisions(where=2, count=2), [2, 3])
        self.assertEqual(revisions(where=9), [])
        self.assertEqual(revisions(where='end'), [])
        self.assertEqual(revisions(count=0), [])
        self.assertEqual(revisions(backwards=True), [4, 3, 2, 1, 0])
        self.assertEqual(revisions(backwards=True, where=2, count=2), [2, 1])
        self.assertEqual(revisions(backwards=True, where='start'), [0])
        self.assertEqual(revisions(backwards=True, where=END, count=1), [4])

    def test_bounds_for_newer_clients(self):
        self.append(self.stream, 3)
        self.assertEqual(self.events(self.stream, compat=1)[3:], [(6, 2)])
        self.assertEqual(self.events(self.stream, compat=1, where=7), [(5, 0), (6, 2)])

    def test_not_there(self):
        (number, message), = self.events(self.stream)
        self.assertEqual((number, one(message, 1, 3)), (4, self.stream.encode()))

    def test_expected_versions(self):
        table = [('any', True, True), ('no-stream', True, False), ('exists', False, True),
                 (0, False, True), (3, False, False)]
        for expect, on_none, on_one in table:
            for there, passes in ((False, on_none), (True, on_one)):
                with self.subTest(expect=expect, there=there):
                    stream = 'e-' + uuid.uuid4().hex
                    if there:
                        self.append(stream)
                    got = append(self.conn, stream, [proposed(uuid.uuid4())], expect).only()
                    self.assertEqual(one(got, 1) is not None, passes)
                    if passes:
                        self.assertEqual(one(got, 1, 1), int(there))
                        continue
                    wrong = fields(one(got, 2))
                    self.assertEqual(wrong[6 if there else 7][0], 0 if there else b'')
                    number = {'any': 9, 'exists': 10, 'no-stream': 11}.get(expect, 8)
                    self.assertEqual(wrong[number][0], expect if number == 8 else b'')

    def test_nothing_to_append(self):
        got = append(self.conn, self.stream, [], 'any').only()
        self.assertEqual(one(got, 1, 2), b'')
        self.append(self.stream, 2)
        self.assertEqual(one(append(self.conn, self.stream, [], 1).only(), 1, 1), 1)
        self.assertIsNotNone(one(append(self.conn, self.stream, [], 'no-stream').only(), 2))

    def test_the_same_again(self):
        events = [proposed(i) for i in self.ids(2)]
        one_time = append(self.conn, self.stream, events, 'no-stream').only()
        self.assertEqual(append(self.conn, self.stream, events, 'no-stream').only(), one_time)
        self.assertEqual(append(self.conn, self.stream, events, 'any').only(), one_time)
        self.assertEqual(len(self.events(self.stream)), 2)

    def test_bytes_and_false_json(self):
        self.append(self.stream, content='application/octet-stream', data=b'\xff\0')
        self.append(self.stream, data=b'{no')
        self.append(self.stream, data=b'')
        self.assertEqual([(e.content, e.data) for e in self.events(self.stream)],
                         [('application/octet-stream', b'\xff\0'),
                          ('application/octet-stream', b'{no'), ('application/json', b'')])

    def test_refused_appends(self):
        event = proposed(uuid.uuid4())
        self.refused(append(self.conn, '', [event]), 3)
        self.refused(append(self.conn, '$$', [event]), 3)
        self.refused(append(self.conn, 'x' * 256, [event]), 3)
        self.refused(append(self.conn, '$persistentSubscriptionConfig', [event]), 7,
                     'access-denied')
        self.refused(append(self.conn, '$$$x', [event]), 7, 'access-denied')
        self.refused(append(self.conn, '$ce-x', [event]), 7, 'access-denied')
        for lacks in ({'kind': None}, {'content': None}, {'kind': ''}):
            error = self.refused(append(self.conn, self.stream, [proposed(uuid.uuid4(), **lacks)]),
                                 3, 'missing-required-metadata-property')
            self.assertEqual(error.headers['required-metadata-properties'], 'type,content-type')
        self.refused(append(self.conn, self.stream, [proposed(uuid.UUID(int=0))]), 3)
        self.refused(append(self.conn, self.stream, [proposed('nonsense')]), 3)
        self.refused(append(self.conn, self.stream, [b'\xff']), 3)
        self.refused(append(self.conn, self.stream, [event], 1 << 63), 3)
        self.refused(self.conn.call(STREAMS + 'Append', pb((2, event))), 3)
        self.refused(self.conn.call(STREAMS + 'Append'), 3)

    def test_large_events(self):
        size = (16 << 20) - 8
        self.append(self.stream, data=b'x' * size, content='application/octet-stream')
        event, = self.events(self.stream)
        self.assertEqual(event.data, b'x' * size)
        bad = uuid.uuid4()
        error = self.refused(append(self.conn, self.stream, [proposed(bad, data=b'x' * (size + 9))]),
                             3, 'maximum-append-event-size-exceeded')
        self.assertEqual(error.headers['event-id'], str(bad))
        events = [proposed(i, data=b'x' * (14 << 20)) for i in self.ids(5)]
        self.refused(append(self.conn, self.stream, events), 3, 'maximum-append-size-exceeded')
        self.assertEqual(len(self.events(self.stream)), 1)

    def change(self, method, stream, expect='any'):
        return self.conn.call(STREAMS + method, pb((1, pb((1, name(stream)), expected(expect)))))

    def test_delete(self):
        self.append(self.stream, 2)
        error = self.refused(self.change('Delete', self.stream, 4), 9, 'wrong-expected-version')
        self.assertEqual([error.headers[k] for k in
                          ('stream-name', 'expected-version', 'actual-version')],
                         [self.stream, '4', '1'])
        self.assertGreater(one(self.change('Delete', self.stream, 1).only(), 1, 1), 0)
        self.assertEqual([k for k, _ in self.events(self.stream)], [4])
        got = append(self.conn, self.stream, [proposed(uuid.uuid4())], 'no-stream').only()
        self.assertEqual(one(got, 1, 1), 2)
        self.assertEqual([e.revision for e in self.events(self.stream)], [2])
        self.change('Delete', 'not-there-' + self.stream).only()
        self.refused(self.change('Delete', 'not-there2-' + self.stream, 'exists'), 9,
                     'wrong-expected-version')

    def test_tombstone(self):
        self.append(self.stream)
        self.change('Tombstone', self.stream, 0).only()
        error = self.refused(read(self.conn, self.stream), 9, 'stream-deleted')
        self.assertEqual(error.headers['stream-name'], self.stream)
        self.refused(append(self.conn, self.stream, [proposed(uuid.uuid4())]), 9, 'stream-deleted')
        self.refused(self.change('Tombstone', self.stream), 9, 'stream-deleted')
        self.refused(self.change('Delete', self.stream), 9, 'stream-deleted')
        self.refused(read(self.conn, self.stream, subscribe=True), 9, 'stream-deleted')

    def test_names_in_trailers(self):
        stream = 'ünï %-' + self.stream
        self.append(stream)
        self.change('Tombstone', stream).only()
        error = self.refused(read(self.conn, stream), 9, 'stream-deleted')
        self.assertEqual(error.headers['stream-name'], stream.replace('%', '%25').replace(
            'ü', '%C3%BC').replace('ï', '%C3%AF'))

    def test_metadata(self):
        self.append(self.stream, 4)
        self.append('$$' + self.stream, kind='$metadata', data=b'{"$maxCount":2,"own":1}')
        self.assertEqual([e.revision for e in self.events(self.stream)], [2, 3])
        event, = self.events('$$' + self.stream, backwards=True, count=1)
        self.assertEqual((event.type, event.data), ('$metadata', b'{"$maxCount":2,"own":1}'))
        self.refused(append(self.conn, '$$' + self.stream,
                            [proposed(uuid.uuid4(), '$metadata', b'{"$maxCount":-1}')]), 3)

    def test_links(self):
        self.append(self.stream, 2)
        links = 'l-' + self.stream
        self.append(links, kind='$>', data=b'1@' + self.stream.encode())
        self.append(links, kind='$>', data=b'7@' + self.stream.encode())
        self.append(links, kind='$>', data=b'nonsense')
        messages = read(self.conn, links, resolve=True).all()
        event, link = event_of(one(messages[0], 1, 1)), event_of(one(messages[0], 1, 2))
        self.assertEqual((event.stream, event.revision), (self.stream, 1))
        self.assertEqual((link.stream, link.revision, link.type, link.data),
                         (links, 0, '$>', b'1@' + self.stream.encode()))
        self.assertEqual(one(messages[0], 1, 3), link.pos)
        self.assertIsNone(one(messages[1], 1, 1))
        self.assertEqual(event_of(one(messages[1], 1, 2)).revision, 1)
        self.assertEqual(event_of(one(messages[2], 1, 1)).data, b'nonsense')
        self.assertEqual([e.type for e in self.events(links)], ['$>'] * 3)

    def test_native_streams(self):
        category = 'c' + uuid.uuid4().hex
        self.append(category + '-1', 2)
        self.append(category + '-2')
        plain = self.events('$ce-' + category)
        self.assertEqual([(e.type, e.data.decode()) for e in plain],
                         [('$>', f'0@{category}-1'), ('$>', f'1@{category}-1'),
                          ('$>', f'0@{category}-2')])
        self.assertEqual([e.stream for e in self.events('$ce-' + category, resolve=True)],
                         [category + '-1'] * 2 + [category + '-2'])
        self.assertEqual(len(self.events('$ce-' + category, where=plain[1].revision)), 2)
        last, = self.events('$ce-' + category, backwards=True, count=1)
        self.assertEqual(last, plain[2])
        self.assertEqual([k for k, _ in self.events('$ce-none' + category)], [4])
        links = [e for e in self.events('$streams') if category in e.data.decode()]
        self.assertEqual([(e.type, e.data.decode(), e.revision) for e in links],
                         [('$>', f'0@{category}-1', plain[0].revision),
                          ('$>', f'0@{category}-2', plain[2].revision)])
        firsts = [e for e in self.events('$streams', resolve=True)
                  if e[0] != 'link' and e.stream.startswith(category)]
        self.assertEqual([(e.stream, e.revision) for e in firsts],
                         [(category + '-1', 0), (category + '-2', 0)])
        names = self.events('$category-' + category)
        self.assertEqual([(e.stream, e.type, e.data.decode(), e.revision) for e in names],
                         [('$category-' + category, '$@', f'{category}-1', plain[0].revision),
                          ('$category-' + category, '$@', f'{category}-2', plain[2].revision)])
        self.assertEqual(self.events('$category-' + category, resolve=True), names)
        self.assertEqual(len({e.id for e in [*plain, *links, *names]}), 7)
        self.assertEqual([k for k, _ in self.events('$category-none' + category)], [4])
        index = pb((1, pb((2, '$idx-ce-' + category))), (3, 32))
        self.assertEqual([e.revision for e in self.events(filter=index)], [0, 1, 0])
        self.refused(read(self.conn, filter=pb((1, pb((2, '$idx-user-x'))))), 5, 'index-not-found')

    def test_refused_reads(self):
        for request in (b'', b'\xff', pb((1, b'')), pb((1, pb((1, pb((1, name('x')), (3, b'')))))),
                        read_request('x', no_ids=True), read_request(''), read_request('y' * 300),
                        read_request('x', filter=pb((1, pb((2, 'x'))))),
                        read_request('x', subscribe=True, backwards=True),
                        read_request(where=(5, 9)),
                        read_request(filter=pb((1, pb((1, '(')))), subscribe=True),
                        read_request(filter=pb((1, pb((1, 'x' * 2000))))),
                        read_request(filter=pb((1, pb(*[(2, 'x')] * 65)))),
                        pb((1, pb((3, 7))))):
            self.refused(self.conn.call(STREAMS + 'Read', request), 3)


class All(Case):
    def test_positions(self):
        self.append(self.stream, 3)
        mine = [e for e in self.events() if e.stream == self.stream]
        first, second, third = [e.pos for e in mine]
        def there(**more):
            return [e.pos for e in self.events(**more) if e.stream == self.stream]
        self.assertEqual(there(where=(second, second)), [second, third])
        self.assertEqual(there(where=(second, second), backwards=True), [first])
        self.assertEqual(there(backwards=True), [third, second, first])
        self.assertEqual(self.events(where='end'), [])
        self.assertEqual(self.events(where='start', backwards=True), [])
        self.assertEqual(there(where=(END, END), backwards=True, count=1), [third])

    def test_filters(self):
        self.append(self.stream + '-a', kind='A' + self.stream)
        self.append(self.stream + '-b', kind='B' + self.stream)
        self.append('$$' + self.stream, kind='$metadata')
        def streams(filter):
            return [e.stream[len(self.stream):] for e in self.events(filter=filter)
                    if self.stream in e.stream]
        both = ['-a', '-b']
        self.assertEqual(streams(pb((1, pb((2, self.stream))))), both)
        self.assertEqual(streams(pb((1, pb((2, self.stream + '-b'), (2, self.stream + '-a'))))), both)
        self.assertEqual(streams(pb((2, pb((2, 'B' + self.stream))))), ['-b'])
        self.assertEqual(streams(pb((1, pb((1, f'^{self.stream}-[a]$'))))), ['-a'])
        self.assertEqual(streams(pb((2, pb((1, r'^[^$].*'))))), both)
        self.assertEqual(len(streams(pb((2, pb((1, r'^\$')))))), 1)


class Subscriptions(Case):
    def begin(self, *args, **more):
        call = read(self.conn, *args, subscribe=True, **more)
        (number, confirmation), = kinds([call.next()])
        self.assertEqual(number, 2)
        self.assertTrue(one(confirmation, 1))
        return call

    def next(self, call):
        got, = kinds([call.next()])
        return got

    def test_stream(self):
        self.append(self.stream, 2)
        call = self.begin(self.stream)
        self.assertEqual([self.next(call).revision for _ in range(2)], [0, 1])
        number, place = self.next(call)
        self.assertEqual((number, one(place, 2)), (8, 1))
        self.append(self.stream)
        self.assertEqual(self.next(call).revision, 2)
        call.cancel()
        call = self.begin(self.stream, where=1)
        self.assertEqual(self.next(call).revision, 2)
        call = self.begin(self.stream, where='end')
        self.assertEqual(self.next(call)[0], 8)
        self.append(self.stream)
        self.assertEqual(self.next(call).revision, 3)

    def test_before_its_stream(self):
        call = self.begin(self.stream)
        number, place = self.next(call)
        self.assertEqual((number, one(place, 2)), (8, None))
        self.append(self.stream)
        self.assertEqual(self.next(call).revision, 0)
        change = pb((1, pb((1, name(self.stream)), expected('any'))))
        self.conn.call(STREAMS + 'Delete', change).only()
        self.append(self.stream)
        self.assertEqual(self.next(call).revision, 1)
        self.conn.call(STREAMS + 'Tombstone', change).only()
        self.refused(call, 9, 'stream-deleted')

    def test_all(self):
        self.append(self.stream)
        last = self.events(backwards=True, count=1)[0]
        call = self.begin(where=(last.pos, last.pos))
        number, _ = self.next(call)
        self.assertEqual(number, 8)
        self.append(self.stream)
        self.assertEqual(self.next(call).revision, 1)

    def test_checkpoints(self):
        start = self.events(backwards=True, count=1)[:1]
        where = (start[0].pos, start[0].pos) if start else 'start'
        other = 'o-' + self.stream
        self.append(other, 10)
        self.append(self.stream)
        where_now = [e.pos for e in self.events() if e.stream in (other, self.stream)]
        call = self.begin(where=where, filter=pb((1, pb((2, self.stream))), (3, 5), (5, 1)))
        seen = [self.next(call) for _ in range(5)]
        self.assertEqual([s[0] if isinstance(s[0], int) else 'event' for s in seen],
                         [3, 3, 'event', 3, 8])
        self.assertEqual([one(s[1], 1) for s in seen if s[0] == 3],
                         [where_now[4], where_now[9], where_now[10]])
        self.refused(read(self.conn, subscribe=True, filter=pb((1, pb((2, 'x'))), (5, 0))), 3)

    def test_slow_client(self):
        """One that takes nothing costs what was made for it, and misses nothing."""
        slow = Conn(shared().port, window=65535)
        self.addCleanup(slow.close)
        call = read(slow, self.stream, subscribe=True)
        self.assertEqual(kinds([call.next()])[0][0], 2)
        for _ in range(4):
            self.append(self.stream, 8, data=b'x' * 100000, content='application/octet-stream')
        revisions = []
        while len(revisions) < 32:
            while len(call.data) < 5 or len(call.data) < 5 + struct.unpack_from('>I', call.data, 1)[0]:
                kind, _, number, payload = slow.read_frame()
                if kind == DATA:
                    slow.frame(8, 0, 0, struct.pack('>I', len(payload)))
                    slow.frame(8, 0, number, struct.pack('>I', len(payload)))
            got, = kinds([call.next()])
            if hasattr(got, 'revision'):
                revisions.append(got.revision)
        self.assertEqual(revisions, list(range(32)))


class Batch(Case):
    def setUp(self):
        super().setUp()
        self.call = self.conn.start(STREAMS + 'BatchAppend')

    def answer(self):
        got = fields(self.call.next())
        return one(got[1][0], 2).decode(), got

    def error(self, got):
        return one(got[2][0], 1), one(got[2][0], 3, 1).decode().rpartition('.')[2]

    def test_appends(self):
        a, b = str(uuid.uuid4()), str(uuid.uuid4())
        self.call.send(batch(a, self.stream, [proposed(uuid.uuid4())], 'no-stream', False))
        self.call.send(batch(b, self.stream + 'b', [proposed(uuid.uuid4())], 'no-stream'))
        which, got = self.answer()
        self.assertEqual((which, one(got[3][0], 1), one(got[4][0], 3)),
                         (b, 0, (self.stream + 'b').encode()))
        self.call.send(batch(a, '', [proposed(uuid.uuid4())], options=False))
        which, got = self.answer()
        self.assertEqual((which, one(got[3][0], 1)), (a, 1))
        self.assertGreater(one(got[3][0], 3, 1), 0)
        self.assertEqual(got[6], [b''])
        self.assertEqual([e.revision for e in self.events(self.stream)], [0, 1])
        self.call.send_bytes(b'', True)
        self.assertIsNone(self.call.next())

    def test_errors(self):
        self.append(self.stream, 2)
        gone = 'g-' + self.stream
        self.append(gone)
        self.conn.call(STREAMS + 'Tombstone', pb((1, pb((1, name(gone)), expected('any'))))).only()
        event = [proposed(uuid.uuid4())]
        late = (6, pb((1, 1)))
        for message, code, kind in (
                (batch(uuid.uuid4(), self.stream, event, 'no-stream'), 6, 'WrongExpectedVersion'),
                (batch(uuid.uuid4(), gone, event), 5, 'StreamDeleted'),
                (batch(uuid.uuid4(), '$audit', event), 7, 'AccessDenied'),
                (batch(uuid.uuid4(), '', event), 3, 'BadRequest'),
                (batch(uuid.uuid4(), self.stream, [b'\xff']), 3, 'BadRequest'),
                (batch(uuid.uuid4(), self.stream, event, options=False), 3, 'BadRequest'),
                (batch(uuid.uuid4(), self.stream, event, deadline=late), 4, 'Timeout'),
                (batch(uuid.uuid4(), self.stream, [proposed(uuid.uuid4(), kind=None)]), 3,
                 'BadRequest')):
            with self.subTest(kind=kind):
                self.call.send(message)
                _, got = self.answer()
                self.assertEqual(self.error(got), (code, kind))
                self.assertIn(4, got)
        self.assertEqual(len(self.events(self.stream)), 2)

    def test_too_large(self):
        which = uuid.uuid4()
        for i in range(5):
            self.call.send(batch(which, self.stream, [proposed(uuid.uuid4(), data=b'x' * (14 << 20))],
                                 final=i == 4, options=i == 0))
        _, got = self.answer()
        self.assertEqual(self.error(got), (3, 'MaximumAppendSizeExceeded'))
        for i in range(2):
            self.call.send(batch(which, self.stream, [proposed(uuid.uuid4())] if i == 0 else
                                 [], final=i == 1, options=i == 0))
        self.assertEqual(one(self.answer()[1][3][0], 1), 0)

    def test_many_in_order(self):
        for _ in range(300):
            self.call.send(batch(uuid.uuid4(), self.stream, [proposed(uuid.uuid4())]))
        self.call.send_bytes(b'', True)
        got = [fields(m) for m in self.call.all()]
        self.assertEqual([one(g[3][0], 1) for g in got], list(range(300)))

    def test_malformed(self):
        self.call.send(b'\xff')
        self.refused(self.call, 3)


GROUPS = '/event_store.client.persistent_subscriptions.PersistentSubscriptions/'
NO_GROUP = 'persistent-subscription-does-not-exist'


class Groups(Case):
    def settings(self, *more, start=0):
        return pb((2, start), (5, 10), (10, 500), (11, 20), (12, 500), (13, 1), (14, 30000),
                  (15, 2000), *more)

    def make(self, group='g', *more, start=0, method='Create'):
        return self.conn.call(GROUPS + method, pb((1, pb(
            (1, name(self.stream)), (2, group), (3, self.settings(*more, start=start))))))

    def named(self, method, group='g', numbers=(1, 2)):
        return self.conn.call(GROUPS + method, pb((1, pb(
            (numbers[0], name(self.stream)), (numbers[1], group)))))

    def info(self, group='g'):
        return fields(one(self.named('GetInfo', group, (1, 3)).only(), 1))

    def join(self, group='g', buffer=10, stream=None):
        call = self.conn.start(GROUPS + 'Read', [('connection-name', 'me')])
        call.send(pb((1, pb((1, name(stream or self.stream)), (2, group), (3, buffer),
                            (4, pb((2, b'')))))))
        self.assertEqual(one(call.next(), 2, 1).decode(), f'{stream or self.stream}::{group}')
        return call

    def next(self, call):
        got = fields(one(call.next(), 1))
        return event_of(got[1][0]), got[5][0]

    def say(self, call, event, action=None):
        ids = (2, pb((2, event.id)))
        call.send(pb((2, pb(ids))) if action is None else
                  pb((3, pb(ids, (3, action), (4, 'why')))))

    def test_life(self):
        self.append(self.stream, 3)
        self.assertEqual(self.make().only(), b'')
        self.refused(self.make(), 6, 'persistent-subscription-exists')
        call = self.join(buffer=1)
        first, retries = self.next(call)
        self.assertEqual((first.revision, retries), (0, 0))
        self.say(call, first, 2)
        first, retries = self.next(call)
        self.assertEqual((first.revision, retries), (0, 1))
        self.say(call, first)
        second, _ = self.next(call)
        self.say(call, second, 1)
        third, _ = self.next(call)
        info = self.info()
        self.assertEqual((info[1][0].decode(), info[2][0], info[26][0], info[11][0]),
                         (self.stream, b'g', b'RoundRobin', b'0'))
        self.assertEqual((one(info[4][0], 9), one(info[4][0], 8)), (b'me', 1))
        self.say(call, third, 3)
        self.until(lambda: self.info()[28] == [1] and self.info()[24] == [0])
        self.named('ReplayParked', numbers=(2, 1)).only()
        again, _ = self.next(call)
        self.assertEqual(again.revision, 1)
        self.say(call, again)
        self.until(lambda: self.info()[28] == [0])
        self.named('ReplayParked', numbers=(2, 1)).only()
        self.make('g', (5, 3), method='Update', start=77).only()
        self.assertEqual((self.info()[14], self.info()[11]), ([3], [b'0']))
        self.assertEqual(self.named('Delete').only(), b'')
        self.refused(call, 5, NO_GROUP)

    def test_stop(self):
        self.append(self.stream)
        self.make().only()
        call = self.join()
        event, _ = self.next(call)
        self.say(call, event, 4)
        self.refused(call, 1, 'persistent-subscription-dropped')
        call = self.join()
        self.assertEqual(self.next(call)[0].revision, 0)
        call.send_bytes(b'', True)
        self.assertIsNone(call.next())

    def test_of_all(self):
        group = 'a' + uuid.uuid4().hex
        self.append(self.stream, 2)
        many = pb((1, pb((2, self.stream), (2, 'x(')))) if group else b''
        options = pb((2, group), (3, self.settings()), (5, pb((2, b''), (4, many))))
        self.conn.call(GROUPS + 'Create', pb((1, options))).only()
        call = self.conn.start(GROUPS + 'Read')
        call.send(pb((1, pb((5, b''), (2, group), (3, 10), (4, pb((2, b'')))))))
        self.assertIsNotNone(one(call.next(), 2))
        self.assertEqual([self.next(call)[0].revision for _ in range(2)], [0, 1])
        listed = fields(self.conn.call(GROUPS + 'List', pb((1, pb((2, pb((2, b''))))))).only())[1]
        self.assertIn(group.encode(), [one(g, 2) for g in listed])
        self.assertRegex(one(listed[0], 11).decode(), r'^C:-?\d+/P:-?\d+$')
        self.conn.call(GROUPS + 'Delete', pb((1, pb((3, b''), (2, group))))).only()

    def test_links(self):
        self.append(self.stream)
        links = 'l-' + self.stream
        self.append(links, kind='$>', data=b'0@' + self.stream.encode())
        self.stream, target = links, self.stream
        self.make('plain').only()
        got = fields(one(self.join('plain').next(), 1))
        self.assertEqual((event_of(got[1][0]).stream, 2 in got), (links, False))
        self.make('g', (1, 1)).only()
        call = self.join()
        got = fields(one(call.next(), 1))
        event, link = event_of(got[1][0]), event_of(got[2][0])
        self.assertEqual((event.stream, link.stream), (target, links))
        self.say(call, link)
        self.until(lambda: self.info()[24] == [0])

    def test_refused(self):
        for method, numbers in (('Delete', (1, 2)), ('GetInfo', (1, 3)), ('ReplayParked', (2, 1))):
            self.refused(self.named(method, 'none', numbers), 5, NO_GROUP)
        self.refused(self.make('none', method='Update'), 5, NO_GROUP)
        self.refused(self.conn.call(GROUPS + 'List', pb((1, pb((2, pb((1, name(self.stream)))))))), 5,
                     NO_GROUP)
        for method in ('Create', 'Update', 'Delete', 'GetInfo', 'ReplayParked', 'List'):
            self.refused(self.conn.call(GROUPS + method, b'\xff'), 3)
        self.refused(self.make('x' * 300), 3)
        self.refused(self.make('x::y'), 13, 'persistent-subscription-failed')
        self.refused(self.make('x', (14, 1 << 40)), 13, 'persistent-subscription-failed')
        self.refused(self.make('x', (16, 'Nonsense')), 3)
        call = self.conn.start(GROUPS + 'Read')
        call.send(pb((1, pb((1, name(self.stream)), (2, 'none')))))
        self.refused(call, 5, NO_GROUP)
        for message in (b'\xff', pb((2, b'')), pb((1, pb((2, 'g'), (3, 1 << 20))))):
            call = self.conn.start(GROUPS + 'Read')
            call.send(message)
            self.refused(call, 3)
        self.make('one', (9, 1)).only()
        self.join('one')
        call = self.conn.start(GROUPS + 'Read')
        call.send(pb((1, pb((1, name(self.stream)), (2, 'one')))))
        self.refused(call, 9, 'maximum-subscribers-reached')
        self.conn.call(GROUPS + 'RestartSubsystem', b'').only()

    def test_slow_member(self):
        """One that takes nothing is given no more; afterwards it misses nothing."""
        data = b'x' * 100000
        self.append(self.stream, 30, data=data, content='application/octet-stream')
        self.make().only()
        slow = Conn(shared().port, window=65535)
        self.addCleanup(slow.close)
        self.conn = slow
        call = self.join(buffer=30)
        revisions = []
        while len(revisions) < 30:
            while len(call.data) < 5 or len(call.data) < 5 + struct.unpack_from('>I', call.data, 1)[0]:
                kind, _, number, payload = slow.read_frame()
                if kind == DATA:
                    slow.frame(8, 0, 0, struct.pack('>I', len(payload)))
                    slow.frame(8, 0, number, struct.pack('>I', len(payload)))
            revisions.append(self.next(call)[0].revision)
        self.assertEqual(revisions, list(range(30)))


V2 = '/kurrentdb.protocol.v2.streams.StreamsService/'


class Sessions(Case):
    def record(self, stream=None, data=b'{"a":1}', kind='rec', form=1, properties=(), more=()):
        pairs = [(2, pb((1, k), (2, v))) for k, v in properties]
        schema = pb((1, form), *([(2, kind)] if kind else []))
        return pb((1, str(uuid.uuid4())), *pairs, (3, schema), (4, data),
                  *([(5, stream)] if stream else []), *more)

    def session(self, *requests):
        return self.conn.call(V2 + 'AppendSession', *[
            pb((1, stream), *[(2, r) for r in records],
               *([] if expect is None else [(3, zigzag(expect))]))
            for stream, records, expect in requests])

    def records(self, records, checks=()):
        return self.conn.call(V2 + 'AppendRecords', pb(
            *[(1, r) for r in records],
            *[(2, pb((1, pb((1, s), (2, zigzag(v)))))) for s, v in checks]))

    def detail(self, call, code, kind):
        error = self.refused(call, code)
        text = error.headers['grpc-status-details-bin']
        status = base64.b64decode(text + '=' * (-len(text) % 4))
        self.assertEqual(one(status, 1), code)
        self.assertEqual(one(status, 3, 1).decode().rpartition('.')[2], kind)
        return fields(one(status, 3, 2))

    def test_session(self):
        a, b = self.stream + 'a', self.stream + 'b'
        got = fields(self.session((a, [self.record(), self.record()], -1),
                                  (b, [self.record(data=b'\xff', form=4)], None)).only())
        self.assertEqual([(one(x, 1).decode(), one(x, 2)) for x in got[1]],
                         [(a, zigzag(1)), (b, zigzag(0))])
        event = self.events(b)[0]
        self.assertEqual((event.type, event.data, json.loads(event.meta)),
                         ('rec', b'\xff', {'$schema.name': 'rec', '$schema.format': 'Bytes'}))
        self.assertEqual(self.events(a)[0].content, 'application/json')
        wrong = self.detail(self.session((b, [self.record()], 0), (a, [self.record()], 7)), 9,
                            'StreamRevisionConflictErrorDetails')
        self.assertEqual((wrong[1], wrong[2], wrong[3]), ([a.encode()], [zigzag(7)], [zigzag(1)]))
        self.assertEqual(len(self.events(b)), 1)
        twice = self.session((a, [self.record()], None), (a.upper(), [self.record()], None))
        self.detail(twice, 10, 'StreamAlreadyInAppendSessionErrorDetails')
        self.refused(self.session(), 9)
        self.conn.call(STREAMS + 'Tombstone', pb((1, pb((1, name(b)), expected('any'))))).only()
        self.detail(self.session((b, [self.record()], None)), 9, 'StreamTombstonedErrorDetails')

    def test_properties(self):
        inner = pb((5, pb((1, pb((1, 'x'), (2, pb((6, pb((1, pb((4, True))), (1, pb((1, 0))))))))))))
        properties = [('text', pb((3, 'ü"'))), ('number', b'\x11' + struct.pack('<d', 1.5)),
                      ('inner', inner), ('$schema.name', pb((3, 'mine')))]
        self.session((self.stream, [self.record(properties=properties)], None)).only()
        self.assertEqual(json.loads(self.events(self.stream)[0].meta),
                         {'text': 'ü"', 'number': 1.5, 'inner': {'x': [True, None]},
                          '$schema.name': 'rec', '$schema.format': 'Json'})
        deep = pb((3, 'x'))
        for _ in range(20):
            deep = pb((6, pb((1, deep))))
        self.refused(self.session((self.stream, [self.record(properties=[('d', deep)])], None)), 3)

    def test_records(self):
        a, b, c = (self.stream + x for x in 'abc')
        got = fields(self.records([self.record(a), self.record(b), self.record(a)],
                                  [(a, -1), (c, -1)]).only())
        self.assertEqual([(one(x, 1).decode(), one(x, 2)) for x in got[1]],
                         [(a, zigzag(1)), (b, zigzag(0))])
        mine = [(e.stream, e.revision) for e in self.events() if e.stream in (a, b)]
        self.assertEqual(mine, [(a, 0), (b, 0), (a, 1)])
        violation = self.detail(self.records([self.record(c)], [(a, 1), (b, 5)]), 9,
                                'AppendConsistencyViolationErrorDetails')
        state = fields(one(violation[1][0], 2))
        self.assertEqual((one(violation[1][0], 1), state[1], state[2], state[3]),
                         (1, [b.encode()], [zigzag(5)], [zigzag(0)]))
        change = pb((1, pb((1, name(b)), expected('any'))))
        self.conn.call(STREAMS + 'Delete', change).only()
        self.records([self.record(c)], [(b, -5)]).only()
        self.detail(self.records([self.record(c)], [(a, -5)]), 9,
                    'AppendConsistencyViolationErrorDetails')
        self.conn.call(STREAMS + 'Tombstone', change).only()
        self.records([self.record(c)], [(b, -6), (a, -4)]).only()
        self.detail(self.records([self.record(c)], [(b, -1)]), 9,
                    'AppendConsistencyViolationErrorDetails')
        self.detail(self.records([self.record(c)], [(a, -6)]), 9,
                    'AppendConsistencyViolationErrorDetails')
        self.detail(self.records([self.record(b)]), 9, 'StreamTombstonedErrorDetails')
        self.assertEqual(len(self.events(c)), 2)

    def test_refused(self):
        good = self.record(self.stream)
        for records, checks in (([], ()), ([good], [('x', -2)]), ([good], [('x', -9)]),
                                ([good], [('x', 1), ('x', 2)]), ([self.record()], ()),
                                ([self.record(self.stream, kind='')], ()),
                                ([self.record(self.stream, form=9)], ()), ([b'\xff'], ())):
            self.refused(self.records(records, checks), 3)
        self.refused(self.records([self.record('$x')]), 7)
        self.refused(self.conn.call(V2 + 'AppendRecords', b'\xff'), 3)
        self.refused(self.session((self.stream, [], None)), 3)
        self.refused(self.session(('', [self.record()], None)), 3)
        self.detail(self.records([self.record(self.stream, data=b'x' * (16 << 20), form=4)]), 3,
                    'AppendRecordSizeExceededErrorDetails')


class Small(Case):
    def test_features(self):
        got = fields(self.conn.call(FEATURES, b'').only())
        self.assertRegex(got[2][0].decode(), r'^\d+\.\d+\.\d+$')
        methods = {(one(m, 2).decode(), one(m, 1).decode()): fields(m).get(3, []) for m in got[1]}
        self.assertIn(('event_store.client.streams.streams', 'batchappend'), methods)
        self.assertEqual(methods['event_store.client.persistent_subscriptions.'
                                 'persistentsubscriptions', 'create'], [b'stream', b'all'])
        self.assertTrue(all(a == a.lower() and b == b.lower() for a, b in methods))

    def test_gossip(self):
        member = fields(one(self.conn.call('/event_store.client.gossip.Gossip/Read', b'').only(), 1))
        self.assertEqual((member[3], member[4]), ([8], [1]))
        self.assertEqual((one(member[5][0], 1), one(member[5][0], 2)), (b'localhost', 2113))

    def test_http(self):
        self.assertEqual(self.http('GET', '/ping'),
                         (200, {'text': 'Ping request successfully handled'}))
        self.assertEqual(self.http('GET', '/health/live')[0], 200)
        self.assertEqual(self.http('GET', '/info')[1]['state'], 'leader')
        member, = self.http('GET', '/gossip')[1]['members']
        self.assertEqual((member['state'], member['httpEndPointPort']), ('Leader', shared().port))

    def test_unknown(self):
        for path in ('/', '/x/y', STREAMS + 'read', '/event_store.client.users.Users/Nothing'):
            self.refused(self.conn.call(path, b''), 12)


class Frames(Case):
    """What no client sends. The server goes on; the connection may not."""

    def ends(self, conn, error=None):
        with self.assertRaises((ConnectionError, OSError)):
            while True:
                conn.read_frame()
        if error is not None:
            self.assertEqual(conn.gone[1], error)
        self.lives()

    def lives(self):
        self.connect().call(FEATURES, b'').only()

    def test_not_grpc(self):
        for method, content, status in (('GET', 'application/grpc', '405'),
                                        ('POST', 'application/json', '415')):
            call = self.conn.start(FEATURES, method=method, content=content)
            while not call.ended:
                self.conn.read_frame()
            self.assertEqual(call.headers[':status'], status)
        self.lives()

    def test_messages(self):
        start = self.conn.start
        for body, code in ((b'\1\0\0\0\0', 13), (b'\2\0\0\0\0', 13), (b'\0\xff\xff\xff\xff', 8),
                           (b'\0\0\0\0\5abc', 13), (b'\0', 13), (b'', 13),
                           (b'\0\0\0\0\0\0\0\0\0\0', 3)):
            call = start(FEATURES)
            call.send_bytes(body, True)
            self.refused(call, code)
        self.lives()

    def test_deadlines(self):
        def with_timeout(value):
            return self.conn.call(FEATURES, b'', more=[('grpc-timeout', value)])
        for value in ('0n', '5n', '0S', '0m'):
            self.refused(with_timeout(value), 4)
        for value in ('', 'x', '1', 'm', '123456789m', '-1S', '1 S', '1y'):
            self.refused(with_timeout(value), 3)
        for value in ('1H', '99999999H', '10000m', '30S', '99999999u'):
            with_timeout(value).only()
        call = read(self.conn, self.stream, subscribe=True)
        call.cancel()
        timed = self.conn.call(STREAMS + 'Read', read_request(self.stream, subscribe=True),
                               more=[('grpc-timeout', '50m')])
        self.refused(timed, 4)

    def test_cancelled_in_the_middle(self):
        for _ in range(20):
            call = self.conn.start(STREAMS + 'Append')
            call.send(pb((1, pb((1, name(self.stream)), expected('any')))))
            call.cancel()
            call = self.conn.call(STREAMS + 'Append',
                                  pb((1, pb((1, name(self.stream)), expected('any')))),
                                  pb((2, proposed(uuid.uuid4()))))
            call.cancel()
        self.append(self.stream)

    def test_leaving_in_the_middle(self):
        for i in range(10):
            conn = Conn(shared().port)
            call = conn.start(STREAMS + 'BatchAppend')
            call.send(batch(uuid.uuid4(), self.stream, [proposed(uuid.uuid4())], final=False))
            call.send(batch(uuid.uuid4(), self.stream, [proposed(uuid.uuid4())]))
            read(conn, subscribe=True)
            conn.close()
        self.lives()

    def test_large_headers(self):
        call = self.conn.start(FEATURES)
        call.send_bytes(b'', True)
        over = self.conn.start(FEATURES, more=[('x' + str(i), 'y') for i in range(500)])
        over.send(b'', True)
        while not over.ended:
            self.conn.read_frame()
        self.assertIsNotNone(over.reset)
        self.lives()

    def flood(self, kind, flags, number, payload, count=20000):
        conn = self.connect()
        chunk = (struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) +
                 struct.pack('>I', number) + payload) * 100
        try:
            for _ in range(count // 100):
                conn.sock.sendall(chunk)
        except OSError:
            pass
        self.ends(conn)

    def test_floods(self):
        self.flood(PING, 0, 0, b'12345678')
        self.flood(SETTINGS, 0, 0, b'')
        self.flood(2, 0, 1, b'\0\0\0\0\0')

    def test_continuations(self):
        conn = self.connect()
        try:
            conn.frame(HEADERS, 0, 1, literal(':method', 'POST'))
            for _ in range(2000):
                conn.frame(CONTINUATION, 0, 1, literal('x', 'y' * 100))
        except OSError:
            pass
        self.ends(conn)

    def test_rapid_reset(self):
        conn = self.connect()
        head = b''.join(literal(k, v) for k, v in [
            (':method', 'POST'), (':scheme', 'http'), (':path', STREAMS + 'Read'),
            (':authority', 'x'), ('content-type', 'application/grpc'), ('te', 'trailers')])
        try:
            for i in range(1, 40000, 2):
                conn.frame(HEADERS, END_HEADERS, i, head)
                conn.frame(RST, 0, i, b'\0\0\0\x08')
        except OSError:
            pass
        self.ends(conn)

    def test_malformed_frames(self):
        for kind, flags, number, payload in ((DATA, 0, 0, b'x'), (DATA, 0, 7, b'x'),
                                             (HEADERS, END_HEADERS, 2, b''), (SETTINGS, 0, 1, b''),
                                             (PING, 0, 0, b'x'), (HEADERS, END_HEADERS, 1, b'\xff' * 9),
                                             (GOAWAY, 0, 0, b''), (8, 0, 0, b'\0\0\0\0')):
            conn = self.connect()
            conn.frame(kind, flags, number, payload)
            self.ends(conn)

    def test_broken_preface(self):
        conn = self.connect()
        conn.sock.close()
        import socket as plain
        sock = plain.create_connection(('127.0.0.1', shared().port))
        sock.sendall(b'PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n' + b'\0' * 40)
        got = b''
        while True:
            try:
                more = sock.recv(65536)
            except OSError:
                break
            if not more:
                break
            got += more
        sock.close()
        self.lives()

    def test_memory_is_given_back(self):
        """Whatever was cut off, nothing of it stays."""
        def held():
            return self.http('GET', '/v1/stats')[1]['server']
        for _ in range(5):
            conn = Conn(shared().port)
            for _ in range(20):
                call = conn.start(STREAMS + 'Append')
                call.send(pb((1, pb((1, name(self.stream)), expected('any')))))
                call.send_bytes(b'\0\0\x10\0\0' + b'x' * 30000)
            conn.close()
        until = time.monotonic() + PATIENCE
        while held()['buffer_bytes'] > 1 << 20 or held()['connections'] > 12:
            self.assertLess(time.monotonic(), until, held())
            time.sleep(0.02)


class Stopping(unittest.TestCase):
    def test_drains(self):
        server = Server()
        self.addCleanup(server.close)
        conn = Conn(server.port)
        self.addCleanup(conn.close)
        subscriber = read(conn, 'x', subscribe=True)
        appender = conn.start(STREAMS + 'BatchAppend')
        appender.send(batch(uuid.uuid4(), 'x', [proposed(uuid.uuid4())]))
        self.assertIsNotNone(appender.next())
        server.process.terminate()
        for call in (subscriber, appender):
            with self.assertRaises(Status) as caught:
                call.all()
            self.assertEqual(caught.exception.code, 14)
        self.assertEqual(server.process.wait(PATIENCE), 0)


if __name__ == '__main__':
    unittest.main()
