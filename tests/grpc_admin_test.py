"""gRPC in the built binary: what operators' tools call, compressed messages, upcasters, appends over
HTTP as KurrentDB takes them, and that nothing stays of calls that end badly."""
import contextlib
import gzip
import http.client
import json
import struct
import unittest
import uuid
import zlib

from grpc_client import (DATA, END_HEADERS, HEADERS, STREAMS, Conn, Status, append, event_of, expected,
                         fields, literal, name, one, pb, proposed, read, read_request)
from grpc_server import Case, batch, begin, end, shared

OPERATIONS = '/event_store.client.operations.Operations/'
MONITORING = '/event_store.client.monitoring.Monitoring/Stats'
PROJECTIONS = '/event_store.client.projections.Projections/'
GROUPS = '/event_store.client.persistent_subscriptions.PersistentSubscriptions/'
FEATURES = '/event_store.client.server_features.ServerFeatures/GetSupportedMethods'
CONFIG = '''
upcasters:
  v2:
    type: old
    transform:
      - rename: new
        set: {data.currency: EUR}
'''


def setUpModule():
    begin(CONFIG)


tearDownModule = end


def options(*some):
    return pb((1, pb(*some)))


class Operating(Case):
    def ask(self, method, message=b''):
        return self.conn.call(OPERATIONS + method, message)

    def test_scavenge(self):
        started = self.ask('StartScavenge', options((1, 1), (2, 0))).only()
        self.assertEqual(one(started, 2), 0)
        self.until(lambda: self.http('GET', '/v1/scavenge')[1]['state'] != 'running')
        self.assertEqual(self.http('GET', '/v1/scavenge')[1]['state'], 'done')
        again = self.ask('StartScavenge').only()
        self.assertNotEqual(one(again, 1), one(started, 1))
        self.until(lambda: self.http('GET', '/v1/scavenge')[1]['state'] != 'running')
        for wanted in (one(started, 1), b'', 'x\xe9'.encode()):
            self.refused(self.ask('StopScavenge', options((1, wanted))), 5, 'scavenge-not-found')
        self.refused(self.ask('StartScavenge', options((2, 7))), 3)
        self.refused(self.ask('StartScavenge', b'\x0a\xff'), 3)
        self.refused(self.ask('StopScavenge', b'\x0a\xff'), 3)

    def test_others(self):
        for method in ('MergeIndexes', 'ResignNode', 'RestartPersistentSubscriptions'):
            self.assertEqual(self.ask(method).only(), b'')
        self.assertEqual(self.ask('SetNodePriority', pb((1, 5))).only(), b'')
        self.refused(self.ask('Shutdown'), 7, 'access-denied')
        self.refused(self.ask('Nothing'), 12)

    def test_stats(self):
        def figures(message):
            return {one(pair, 1).decode(): one(pair, 2).decode() for pair in fields(message)[1]}
        self.append(self.stream)
        call = self.conn.call(MONITORING, pb((1, 0), (4, 1)))
        first = figures(call.next())
        self.append(self.stream)
        self.until(lambda: figures(call.next())['oxbow-appends'] != first['oxbow-appends'])
        for key in ('proc-id', 'proc-mem', 'es-checksum', 'oxbow-events', 'proc-tcp-connections'):
            self.assertGreater(int(first[key]), 0)
        self.assertRegex(first['proc-startTime'], r'^\d{4}-\d\d-\d\dT')
        call.cancel()
        self.refused(self.conn.call(MONITORING, b'\x0a\xff'), 3)


class Projections(Case):
    NATIVE = ('$by_category', '$by_event_type', '$streams', '$stream_by_category')
    OTHER = ('$by_correlation_id',)

    def ask(self, method, *some):
        return self.conn.call(PROJECTIONS + method, options(*some))

    def shown(self, *some):
        return {one(d, 10).decode(): one(d, 8).decode()
                for d in (one(m, 1) for m in self.ask('Statistics', *some).all())}

    def test_statistics(self):
        want = {**dict.fromkeys(self.NATIVE, 'Running'), **dict.fromkeys(self.OTHER, 'Stopped')}
        self.assertEqual(self.shown((2, b'')), want)
        self.assertEqual(self.shown((4, b'')), want)
        self.assertEqual((self.shown((3, b'')), self.shown((5, b''))), ({}, {}))
        self.append(self.stream)

        def whole():
            details = one(self.ask('Statistics', (1, '$by_category')).only(), 1)
            self.assertEqual((one(details, 4), one(details, 11)), (b'$by_category', b'Continuous'))
            self.assertRegex(one(details, 12).decode(), r'^C:\d+/P:\d+$')
            return fields(details)[13] == [struct.pack('<f', 100)]
        self.until(whole)
        self.refused(self.ask('Statistics', (1, 'mine')), 5)
        self.refused(self.ask('Statistics'), 3)
        self.refused(self.conn.call(PROJECTIONS + 'Statistics', b'\x0a\xff'), 3)

    def test_commands(self):
        for projection in self.NATIVE:
            for method in ('Enable', 'Reset'):
                self.assertEqual(self.ask(method, (1, projection)).only(), b'')
            self.refused(self.ask('Disable', (1, projection), (2, True)), 9)
        for projection in self.OTHER:
            self.refused(self.ask('Enable', (1, projection)), 9)
            self.assertEqual(self.ask('Disable', (1, projection)).only(), b'')
        for method in ('State', 'Result'):
            self.assertEqual(self.ask(method, (1, '$streams'), (2, 'p')).only(), pb((1, pb((5, b'')))))
        for method in ('Update', 'Delete'):
            self.refused(self.ask(method, (1, '$streams')), 9)
        for method in ('Enable', 'Disable', 'Reset', 'State', 'Result', 'Update', 'Delete'):
            self.refused(self.ask(method, (1, 'mine')), 5)
            self.refused(self.conn.call(PROJECTIONS + method, b'\x0a\xff'), 3)
        self.refused(self.ask('Create', (1, b''), (4, 'fromAll()')), 12)
        self.assertEqual(self.ask('RestartSubsystem').only(), b'')

    def test_advertised(self):
        got = fields(self.conn.call(FEATURES, b'').only())
        methods = {(one(m, 2).decode(), one(m, 1).decode()) for m in got[1]}
        self.assertIn(('event_store.client.projections.projections', 'enable'), methods)
        self.assertIn(('event_store.client.operations.operations', 'startscavenge'), methods)
        for service, method in methods:
            self.assertEqual((service, method), (service.lower(), method.lower()))


class Groups(Case):
    def make(self, start=0):
        self.conn.call(GROUPS + 'Create', options((1, name(self.stream)), (2, 'g'), (
            3, pb((2, start), (5, 10), (14, 30000), (10, 500), (11, 20), (12, 500), (15, 2000),
                  (7, 10), (8, 1000))))).only()

    def join(self):
        call = self.conn.start(GROUPS + 'Read')
        call.send(options((1, name(self.stream)), (2, 'g'), (3, 10), (4, pb((2, b'')))))
        self.assertIsNotNone(one(call.next(), 2))
        return call

    def parked(self):
        info = self.conn.call(GROUPS + 'GetInfo', options((1, name(self.stream)), (3, 'g'))).only()
        return one(info, 1, 28)

    def truncate(self, *more, group='g'):
        return self.conn.call(GROUPS + 'TruncateParked',
                              options((1, group), (2, name(self.stream)), *more))

    def test_truncate_parked(self):
        self.append(self.stream, 4)
        self.make()
        call = self.join()
        for _ in range(4):
            event = event_of(one(call.next(), 1, 1))
            call.send(pb((3, pb((2, pb((2, event.id))), (3, 1), (4, 'bad')))))
        self.until(lambda: self.parked() == 4)
        self.assertEqual(self.truncate((4, 1)).only(), b'')
        self.until(lambda: self.parked() == 3)
        self.assertEqual(self.truncate((5, b'')).only(), b'')
        self.until(lambda: self.parked() == 0)
        self.assertEqual(self.truncate((5, b'')).only(), b'')
        self.refused(self.truncate(group='none'), 5, 'persistent-subscription-does-not-exist')
        self.refused(self.conn.call(GROUPS + 'TruncateParked', b'\x0a\xff'), 3)

    def test_upcast(self):
        append(self.conn, self.stream, [proposed(uuid.uuid4(), kind='old', data=b'{"n":1}'),
                                        proposed(uuid.uuid4(), kind='else', data=b'{"n":2}')]).only()
        self.make()
        call = self.join()
        got = [event_of(one(call.next(), 1, 1)) for _ in range(2)]
        self.assertEqual([(e.type, json.loads(e.data), e.revision) for e in got],
                         [('new', {'n': 1, 'currency': 'EUR'}, 0), ('else', {'n': 2}, 1)])
        self.assertEqual([e.type for e in self.events(self.stream)], ['new', 'else'])


class Compressed(Case):
    def call(self, *bodies, encoding='gzip'):
        more = [] if encoding is None else [('grpc-encoding', encoding)]
        call = self.conn.start(STREAMS + 'Append', more)
        for flag, body in bodies:
            call.send_bytes(bytes([flag]) + struct.pack('>I', len(body)) + body)
        call.send_bytes(b'', True)
        return call

    def messages(self, data=b'{}'):
        return [pb((1, pb((1, name(self.stream)), expected('any')))),
                pb((2, proposed(uuid.uuid4(), data=data)))]

    def test_gzip(self):
        data = json.dumps(['x' * 1000] * 1000).encode()
        first, second = self.messages(data)
        small = pb((2, proposed(uuid.uuid4())))
        self.call((1, gzip.compress(first)), (1, gzip.compress(second))).only()
        self.call((0, first), (1, gzip.compress(small, 0))).only()
        self.assertEqual([e.data for e in self.events(self.stream)], [data, b'{}'])
        self.call((1, gzip.compress(first)), (0, second)).only()  # the same again, by its id
        self.assertEqual(len(self.events(self.stream)), 2)

    def test_refused(self):
        first, second = self.messages()
        whole = gzip.compress(first)
        for bad in (b'', b'x', whole[:-1], whole[:10], whole + b'x', whole + whole, zlib.compress(first),
                    whole[:-8] + b'\0' * 8):
            self.refused(self.call((1, bad), (0, second)), 13)
        self.refused(self.call((1, whole), encoding=None), 13)
        self.refused(self.call((1, whole), encoding='identity'), 13)
        error = self.refused(self.call((1, whole), encoding='snappy'), 12)
        self.assertEqual(error.headers['grpc-accept-encoding'], 'identity,gzip')
        self.call((0, first), (0, second), encoding='snappy').only()
        bomb = gzip.compress(b'\0' * (18 << 20))
        self.refused(self.call((1, bomb)), 8)
        self.refused(self.call((1, gzip.compress(b'\x0a\xff'))), 3)


class Http(Case):
    def post(self, body, kind='application/json', stream=None, **headers):
        conn = http.client.HTTPConnection('127.0.0.1', shared().port)
        headers = {k.replace('_', '-'): v for k, v in headers.items()}
        conn.request('POST', '/streams/' + (stream or self.stream), body,
                     {'Content-Type': kind, **headers})
        answer = conn.getresponse()
        text = answer.read()
        conn.close()
        return answer.status, answer.getheader('Location'), text

    def test_one(self):
        event_id = str(uuid.uuid4())
        got = self.post('{"a":1}', ES_EventType='made', ES_EventId=event_id, ES_ExpectedVersion='-1')
        self.assertEqual(got, (201, f'/streams/{self.stream}/0', b''))
        again = self.post('{"a":1}', ES_EventType='made', ES_EventId=event_id,
                          ES_ExpectedVersion='-1')
        self.assertEqual(again[:2], got[:2])
        got = self.post(b'\0\xff', 'application/octet-stream', Kurrent_EventType='raw',
                        Kurrent_ExpectedVersion='0')
        self.assertEqual(got[:2], (201, f'/streams/{self.stream}/1'))
        events = self.events(self.stream)
        self.assertEqual([(e.type, e.data, e.content) for e in events],
                         [('made', b'{"a":1}', 'application/json'),
                          ('raw', b'\0\xff', 'application/octet-stream')])
        self.assertEqual(events[0].id, event_id)
        odd = self.stream + '%2Fa%20%C3%BC'
        self.assertEqual(self.post('{}', stream=odd, ES_EventType='t')[:2],
                         (201, f'/streams/{odd}/0'))

    def test_many(self):
        some = [{'eventId': str(uuid.uuid4()), 'eventType': 'a', 'data': {'n': n},
                 'metadata': {'m': n}} for n in range(3)]
        for kind in ('application/vnd.eventstore.events+json', 'application/vnd.kurrent.events+json'):
            self.assertEqual(self.post(json.dumps(some), kind, ES_ExpectedVersion='-1')[:2],
                             (201, f'/streams/{self.stream}/0'))
        events = self.events(self.stream)
        self.assertEqual([(e.id, json.loads(e.data), json.loads(e.meta)) for e in events],
                         [(e['eventId'], e['data'], e['metadata']) for e in some])

    def test_refused(self):
        many = 'application/vnd.eventstore.events+json'
        for status, body, kind, headers in (
                (400, '{}', 'application/json', {}),
                (400, '{', 'application/json', {'ES_EventType': 't'}),
                (400, '{}', 'application/json', {'ES_EventType': ''}),
                (400, '{}', 'application/json', {'ES_EventType': 't', 'ES_EventId': 'x'}),
                (400, '{}', 'application/json', {'ES_EventType': 't', 'ES_ExpectedVersion': 'x'}),
                (400, '{}', 'application/json', {'ES_EventType': 't', 'ES_ExpectedVersion': '-3'}),
                (400, '{}', 'application/json', {'ES_EventType': 't', 'ES_ExpectedVersion': '7'}),
                (400, '{}', 'application/json', {'ES_EventType': 't', 'ES_ExpectedVersion': '-4'}),
                (400, '[]', many, {}), (400, '{}', many, {}), (400, '[1]', many, {}),
                (400, '[{"eventType":1}]', many, {}), (400, '[{"data":{}}]', many, {}),
                (400, '[{"eventType":"t","eventId":"x"}]', many, {}),
                (400, '[{"eventType":"t","more":1}]', many, {})):
            self.assertEqual(self.post(body, kind, **headers)[0], status, (body, headers))
        self.append(self.stream)
        self.conn.call(STREAMS + 'Tombstone',
                       pb((1, pb((1, name(self.stream)), expected('any'))))).only()
        self.assertEqual(self.post('{}', ES_EventType='t')[0], 410)
        self.assertIn(self.post('{}', stream='$audit', ES_EventType='t')[0], (400, 403))


class Leaks(Case):
    """Every way for a call to end badly; then what the server holds is what it held before."""

    def held(self):
        server = self.http('GET', '/v1/stats')[1]['server']
        return {key: server[key] for key in ('connections', 'calls', 'appends_waiting',
                                             'buffer_bytes', 'readers')}

    def setUp(self):
        super().setUp()
        self.append(self.stream, 3)
        self.conn.call(GROUPS + 'Create', options((1, name(self.stream)), (2, 'g'), (
            3, pb((5, 10), (14, 30000), (10, 500), (11, 20), (12, 500))))).only()

    def open_all(self, conn, more=()):
        """Calls that last, each in the middle of something."""
        calls = [conn.start(STREAMS + 'BatchAppend', more)]
        calls[0].send(batch(uuid.uuid4(), self.stream, [proposed(uuid.uuid4())], final=False))
        calls[0].send(batch(uuid.uuid4(), self.stream, [proposed(uuid.uuid4())]))
        calls.append(conn.start(STREAMS + 'Append', more))
        calls[1].send(pb((1, pb((1, name(self.stream)), expected('any')))))
        calls[1].send_bytes(b'\0\0\x10\0\0' + b'x' * 30000)
        for request in (read_request(self.stream, subscribe=True), read_request(subscribe=True)):
            calls.append(conn.call(STREAMS + 'Read', request, more=more))
        calls.append(conn.start(GROUPS + 'Read', more))
        calls[4].send(options((1, name(self.stream)), (2, 'g'), (3, 10), (4, pb((2, b'')))))
        calls.append(conn.call(MONITORING, pb((4, 1)), more=more))
        for call in calls[2:]:
            with contextlib.suppress(Status) if more else contextlib.nullcontext():
                call.next()
        return calls

    def vanish(self):
        with Conn(shared().port) as conn:
            self.open_all(conn)

    def cancel(self):
        with Conn(shared().port) as conn:
            for call in self.open_all(conn):
                call.cancel()
            conn.call(FEATURES, b'').only()

    def half_close(self):
        with Conn(shared().port) as conn:
            calls = self.open_all(conn)
            for call in (calls[0], calls[1], calls[4]): # the others are that already
                call.send_bytes(b'', True)
            for path in (STREAMS + 'Append', STREAMS + 'Read', STREAMS + 'BatchAppend',
                         GROUPS + 'Read', GROUPS + 'Create', MONITORING, FEATURES):
                call = conn.start(path)
                call.send_bytes(b'\0\0\0\0\x09half', True)
                self.refused(call, 13)

    def expire(self):
        with Conn(shared().port) as conn:
            for call in self.open_all(conn, [('grpc-timeout', '200m')]):
                self.refused(call, 4)

    def too_large(self):
        with Conn(shared().port) as conn:
            over = conn.start(STREAMS + 'Append')
            over.send_bytes(b'\0\xff\xff\xff\xff' + b'x' * 60000)
            self.refused(over, 8)
            bomb = conn.start(STREAMS + 'BatchAppend', [('grpc-encoding', 'gzip')])
            packed = gzip.compress(b'\0' * (18 << 20))
            bomb.send_bytes(b'\1' + struct.pack('>I', len(packed)) + packed)
            self.refused(bomb, 8)
            event = conn.call(STREAMS + 'Append', pb((1, pb((1, name(self.stream)), expected('any')))),
                              pb((2, proposed(uuid.uuid4(), data=b'x' * ((16 << 20) + 1)))))
            self.refused(event, 3, 'maximum-append-event-size-exceeded')
            head = conn.start(FEATURES, more=[(f'x{i}', 'y') for i in range(500)])
            while not head.ended:
                conn.read_frame()

    def malformed(self):
        for kind, flags, number, payload in ((DATA, 0, 0, b'x'), (HEADERS, END_HEADERS, 2, b''),
                                             (HEADERS, END_HEADERS, 99, b'\xff' * 9),
                                             (8, 0, 0, b'\0\0\0\0')):
            with Conn(shared().port) as conn:
                self.open_all(conn)
                conn.frame(kind, flags, number, payload)
                with self.assertRaises(OSError):
                    while True:
                        conn.read_frame()

    def not_a_message(self):
        with Conn(shared().port) as conn:
            for path in (STREAMS + 'Append', STREAMS + 'Read', STREAMS + 'BatchAppend', GROUPS + 'Read',
                         GROUPS + 'Create', GROUPS + 'GetInfo', STREAMS + 'Delete', MONITORING):
                self.refused(conn.call(path, b'\x0a\xff\xff'), 3)

    def test_nothing_stays(self):
        before = self.held()
        for bad in (self.vanish, self.cancel, self.half_close, self.expire, self.too_large,
                    self.malformed, self.not_a_message):
            with self.subTest(bad.__name__):
                for _ in range(1 if bad == self.expire else 3):
                    bad()
                self.until(lambda: all(n <= before[key] for key, n in self.held().items()))
        info = self.conn.call(GROUPS + 'GetInfo', options((1, name(self.stream)), (3, 'g'))).only()
        self.assertNotIn(4, fields(one(info, 1)), 'members')
        self.append(self.stream)


if __name__ == '__main__':
    unittest.main()
