"""A gRPC client at the level of bytes: HTTP/2 frames and protobuf of its own, so that a test can
also send what no library would. Only HPACK's decoder is a library's (nghttp2, by ctypes)."""
import collections
import ctypes
import ctypes.util
import socket
import struct
import urllib.parse

PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PATIENCE = 60


# Protobuf.

def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pb(*fields):
    """A message of (number, value): an int is a varint, bytes, text and lists are what they hold."""
    out = b''
    for number, value in fields:
        if isinstance(value, bool):
            value = int(value)
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
            continue
        if isinstance(value, str):
            value = value.encode()
        out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def zigzag(value):
    return (value << 1) ^ (value >> 63)


def take_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7f) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """{number: [values]}"""
    found = collections.defaultdict(list)
    at = 0
    while at < len(data):
        key, at = take_varint(data, at)
        if key & 7 == 0:
            value, at = take_varint(data, at)
        elif key & 7 == 2:
            size, at = take_varint(data, at)
            value = data[at:at + size]
            assert len(value) == size
            at += size
        elif key & 7 in (1, 5):
            size = 8 if key & 7 == 1 else 4
            value = data[at:at + size]
            at += size
        else:
            raise AssertionError(f'wire type {key & 7}')
        found[key >> 3].append(value)
    return found


def one(data, *path):
    """The last value at a path of numbers; None: it is not there."""
    for number in path:
        values = fields(data).get(number)
        if not values:
            return None
        data = values[-1]
    return data


# HPACK.

class _Pair(ctypes.Structure):
    _fields_ = [('name', ctypes.POINTER(ctypes.c_uint8)), ('value', ctypes.POINTER(ctypes.c_uint8)),
                ('name_len', ctypes.c_size_t), ('value_len', ctypes.c_size_t),
                ('flags', ctypes.c_uint8)]


class Inflater:
    def __init__(self):
        name = ctypes.util.find_library('nghttp2') or 'libnghttp2.so.14'
        self.lib = ctypes.CDLL(name)
        self.lib.nghttp2_hd_inflate_hd2.restype = ctypes.c_ssize_t
        self.lib.nghttp2_hd_inflate_hd2.argtypes = [
            ctypes.c_void_p, ctypes.POINTER(_Pair), ctypes.POINTER(ctypes.c_int), ctypes.c_char_p,
            ctypes.c_size_t, ctypes.c_int]
        self.at = ctypes.c_void_p()
        assert self.lib.nghttp2_hd_inflate_new(ctypes.byref(self.at)) == 0

    def close(self):
        if self.at:
            self.lib.nghttp2_hd_inflate_del(self.at)
            self.at = None

    def inflate(self, block):
        out, pair, flags = [], _Pair(), ctypes.c_int()
        while True:
            used = self.lib.nghttp2_hd_inflate_hd2(self.at, ctypes.byref(pair), ctypes.byref(flags),
                                                   block, len(block), 1)
            assert used >= 0, used
            block = block[used:]
            if flags.value & 2:
                out.append((ctypes.string_at(pair.name, pair.name_len).decode(),
                            ctypes.string_at(pair.value, pair.value_len).decode()))
            if flags.value & 1:
                self.lib.nghttp2_hd_inflate_end_headers(self.at)
                return out
            if not block and not flags.value & 2:
                return out


def literal(name, value):
    """A header as it is, without any table."""
    def text(t):
        t = t.encode()
        return (bytes([len(t)]) if len(t) < 127 else b'\x7f' + varint(len(t) - 127)) + t
    return b'\x00' + text(name) + text(value)


class Status(Exception):
    """A call that did not end with OK."""

    def __init__(self, code, headers):
        super().__init__(f'{code} {headers}')
        self.code = code
        self.headers = headers
        self.exception = headers.get('exception')
        self.message = urllib.parse.unquote(headers.get('grpc-message', ''))


class Call:
    def __init__(self, conn, number):
        self.conn = conn
        self.number = number
        self.data = bytearray()
        self.headers = {}
        self.ended = False
        self.reset = None
        self.window = 65535

    def send(self, message=None, end=False):
        body = b'' if message is None else b'\0' + struct.pack('>I', len(message)) + message
        self.send_bytes(body, end)
        return self

    def send_bytes(self, body, end=False):
        at = 0
        while True:
            room = min(16384, self.window, self.conn.window)
            if room <= 0 and at < len(body):
                self.conn.read_frame()
                if self.ended:
                    return
                continue
            piece = body[at:at + room] if room > 0 else b''
            at += len(piece)
            self.window -= len(piece)
            self.conn.window -= len(piece)
            last = at == len(body)
            if piece or end or not body:
                self.conn.frame(DATA, END_STREAM if end and last else 0, self.number, piece)
            if last:
                return

    def next(self):
        """The next message; None: the call has ended with OK."""
        while True:
            if len(self.data) >= 5:
                size, = struct.unpack_from('>I', self.data, 1)
                if len(self.data) >= 5 + size:
                    message = bytes(self.data[5:5 + size])
                    del self.data[:5 + size]
                    return message
            if self.ended:
                self.check()
                return None
            self.conn.read_frame()

    def check(self):
        code = int(self.headers.get('grpc-status', -1))
        if code != 0:
            raise Status(code, dict(self.headers, reset=self.reset))

    def all(self):
        out = []
        while (message := self.next()) is not None:
            out.append(message)
        return out

    def only(self):
        got = self.all()
        assert len(got) == 1, got
        return got[0]

    def cancel(self, code=8):
        self.conn.frame(RST, 0, self.number, struct.pack('>I', code))


class Conn:
    def __init__(self, port, settings=(), window=1 << 24, tls=None):
        self.sock = socket.create_connection(('127.0.0.1', port), PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname='127.0.0.1')
        self.inflater = Inflater()
        self.calls = {}
        self.next_number = 1
        self.in_bytes = bytearray()
        self.window = 65535
        self.initial = 65535
        self.pongs = []
        self.gone = None
        self.auto = window
        self.answer_window = 65535
        try:
            self.greet([(4, window), *settings], window)
        except OSError:
            self.close()
            raise

    def greet(self, pairs, window):
        self.sock.sendall(PREFACE)
        self.frame(SETTINGS, 0, 0, b''.join(struct.pack('>HI', k, v) for k, v in pairs))
        if window > 65535:
            self.frame(WINDOW, 0, 0, struct.pack('>I', window - 65535))

    def close(self):
        self.inflater.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def frame(self, kind, flags, number, payload=b''):
        self.sock.sendall(struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) +
                          struct.pack('>I', number) + payload)

    def start(self, path, more=(), method='POST', content='application/grpc'):
        call = Call(self, self.next_number)
        call.window = self.initial
        self.next_number += 2
        self.calls[call.number] = call
        head = [(':method', method), (':scheme', 'http'), (':path', path),
                (':authority', 'localhost:2113'), ('te', 'trailers'), ('content-type', content)]
        self.frame(HEADERS, END_HEADERS, call.number,
                   b''.join(literal(k, v) for k, v in [*head, *more]))
        return call

    def call(self, path, *messages, more=()):
        call = self.start(path, more)
        for i, message in enumerate(messages):
            call.send(message, i == len(messages) - 1)
        if not messages:
            call.send_bytes(b'', True)
        return call

    def _more(self):
        got = self.sock.recv(1 << 16)
        if not got:
            raise ConnectionError('closed')
        self.in_bytes += got

    def read_frame(self):
        """Takes one frame; (kind, flags, stream, payload)."""
        while len(self.in_bytes) < 9:
            self._more()
        size = int.from_bytes(self.in_bytes[:3], 'big')
        while len(self.in_bytes) < 9 + size:
            self._more()
        kind, flags = self.in_bytes[3], self.in_bytes[4]
        number = int.from_bytes(self.in_bytes[5:9], 'big') & 0x7fffffff
        payload = bytes(self.in_bytes[9:9 + size])
        del self.in_bytes[:9 + size]
        self._take(kind, flags, number, payload)
        return kind, flags, number, payload

    def _take(self, kind, flags, number, payload):
        call = self.calls.get(number)
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                key, value = struct.unpack_from('>HI', payload, at)
                if key == 4:
                    for c in self.calls.values():
                        c.window += value - self.initial
                    self.initial = value
            self.frame(SETTINGS, ACK, 0)
        elif kind == PING:
            if flags & ACK:
                self.pongs.append(payload)
            else:
                self.frame(PING, ACK, 0, payload)
        elif kind == GOAWAY:
            self.gone = struct.unpack_from('>II', payload)
        elif kind == WINDOW:
            more = int.from_bytes(payload, 'big')
            if number == 0:
                self.window += more
            elif call:
                call.window += more
        elif kind == HEADERS:
            pairs = self.inflater.inflate(payload)
            if call:
                call.headers.update(pairs)
                call.ended = call.ended or bool(flags & END_STREAM)
        elif kind == DATA and call:
            call.data += payload
            call.ended = call.ended or bool(flags & END_STREAM)
            if payload and self.auto > 65535:
                self.frame(WINDOW, 0, 0, struct.pack('>I', len(payload)))
                if not call.ended:
                    self.frame(WINDOW, 0, number, struct.pack('>I', len(payload)))
        elif kind == RST and call:
            call.ended = True
            call.reset = int.from_bytes(payload, 'big')


# The services' messages.

STREAMS = '/event_store.client.streams.Streams/'
EXPECTED = {'no-stream': 3, 'any': 4, 'exists': 5}


def name(stream):
    return pb((3, stream))


def expected(value):
    return (2, value) if isinstance(value, int) else (EXPECTED[value], b'')


def proposed(event_id, kind='t', data=b'{}', meta=b'', content='application/json'):
    pairs = []
    if kind is not None:
        pairs.append((2, pb((1, 'type'), (2, kind))))
    if content is not None:
        pairs.append((2, pb((1, 'content-type'), (2, content))))
    return pb((1, pb((2, str(event_id)))), *pairs, (3, meta), (4, data))


def append(conn, stream, events, expect='any', more=()):
    return conn.call(STREAMS + 'Append', pb((1, pb((1, name(stream)), expected(expect)))),
                     *[pb((2, e)) for e in events], more=more)


def read_request(stream=None, where=None, backwards=False, count=1 << 53, subscribe=False,
                 filter=None, resolve=False, text=True, compat=0, no_ids=False):
    """`where`: a number, 'start' or 'end'; of $all a (commit, prepare)."""
    if where is None:
        where = 'end' if backwards else 'start'
    options = []
    if stream is not None:
        at = {'start': (3, b''), 'end': (4, b'')}.get(where) if isinstance(where, str) else (2, where)
        options.append((1, pb((1, name(stream)), at)))
    else:
        at = ({'start': (2, b''), 'end': (3, b'')}[where] if isinstance(where, str)
              else (1, pb((1, where[0]), (2, where[1]))))
        options.append((2, pb(at)))
    options += [(3, int(backwards)), (4, resolve)]
    options.append((6, b'') if subscribe else (5, count))
    options.append((7, filter) if filter is not None else (8, b''))
    if not no_ids:
        options.append((9, pb((2 if text else 1, b''))))
    if compat:
        options.append((10, pb((1, compat))))
    return pb((1, pb(*options)))


def read(conn, *args, **more):
    return conn.call(STREAMS + 'Read', read_request(*args, **more))


Event = collections.namedtuple('Event', 'id stream revision pos type created content meta data')


def event_of(recorded):
    f = fields(recorded)
    pairs = {one(p, 1).decode(): one(p, 2).decode() for p in f[6]}
    uuid = fields(f[1][0])
    return Event(uuid[2][0].decode() if 2 in uuid else uuid[1][0], one(f[2][0], 3).decode(),
                 f[3][0], f[5][0], pairs['type'], int(pairs['created']), pairs['content-type'],
                 f[7][0], f[8][0])


def kinds(messages):
    """Each ReadResp by what it is: an Event, or (field, message)."""
    out = []
    for message in messages:
        (number, values), = fields(message).items()
        if number != 1:
            out.append((number, values[0]))
            continue
        event = one(values[0], 1)
        out.append(event_of(event) if event is not None else ('link', event_of(one(values[0], 2))))
    return out
