"""Clients that mean no good, all at once against the built binary: it goes on serving, and afterwards it
holds neither their connections nor memory for them."""
import http.client
import json
import os
import socket
import struct
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import grpc_client  # noqa: E402
from cli_test import Case  # noqa: E402
from grpc_client import (CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE,  # noqa: E402
                         PRIORITY, RST, SETTINGS, literal)

ROUNDS = 4
GROWTH_MAX = 16 << 20  # of the whole process, over the rounds after the first
SANITIZED = 'ASAN_OPTIONS' in os.environ  # which keeps what was freed


def frame(kind, flags, number, payload=b''):
    return (struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', number) +
            payload)


HEAD = b''.join(literal(k, v) for k, v in [
    (':method', 'POST'), (':scheme', 'http'), (':path', grpc_client.STREAMS + 'Read'),
    (':authority', 'x'), ('content-type', 'application/grpc'), ('te', 'trailers')])
OPEN = PREFACE + frame(SETTINGS, 0, 0)

# What is sent, and how often; each on a connection of its own.
FLOODS = {
    'settings': (OPEN, frame(SETTINGS, 0, 0) * 1000, 40),
    'pings': (OPEN, frame(PING, 0, 0, b'12345678') * 1000, 40),
    'priorities': (OPEN, frame(PRIORITY, 0, 1, b'\0\0\0\0\0') * 1000, 40),
    'empty data': (OPEN + frame(HEADERS, END_HEADERS, 1, HEAD), frame(DATA, 0, 1) * 1000, 40),
    'continuations': (OPEN + frame(HEADERS, 0, 1, HEAD),
                      frame(CONTINUATION, 0, 1, literal('x', 'y' * 100)) * 100, 100),
    'empty continuations': (OPEN + frame(HEADERS, 0, 1, HEAD),
                            frame(CONTINUATION, 0, 1) * 1000, 100),
    'huge headers': (OPEN, b''.join(frame(HEADERS, END_HEADERS | END_STREAM, n,
                                          HEAD + literal('x', 'y' * 12000) + literal('z', 'y' * 3500))
                                    for n in range(1, 99, 2)), 1),
    'rapid resets': (OPEN, b''.join(frame(HEADERS, END_HEADERS, n, HEAD) +
                                    frame(RST, 0, n, b'\0\0\0\x08')
                                    for n in range(1, 40001, 2)), 1),
    'head of a request': (b'GET / HTTP/1.1\r\nHost: x\r\n', b'X-A: ' + b'y' * 1000 + b'\r\n', 100),
    'fields of a request': (b'GET / HTTP/1.1\r\nHost: x\r\n', b'X: y\r\n' * 100, 10),
    'target of a request': (b'GET /', b'x' * 10000, 10),
    'chunks': (b'POST /v1/streams/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n',
               b'1;' + b'x' * 200 + b'\r\na\r\n', 5000),
    'proofs': (b'', b'GET /v1/all HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ' + b'x' * 3000 +
               b'\r\n\r\n', 200),
}
# What is begun and never ended: it is ended by the server, in its time.
LORIS = [
    b'G', b'GET / HTTP/1.1\r\nHost: x\r\nX-A: ',
    b'POST /v1/streams/x HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n{"type":',
    b'POST /v1/streams/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{',
    PREFACE[:10], OPEN + frame(HEADERS, 0, 1, HEAD),
    OPEN + frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, 0, 1, b'\0\0\1\0\0' + b'x' * 1000),
]


class Abuse(Case):
    def send(self, begin, piece, count):
        """Until the server has had enough, or all of it is out; and what it says is not read."""
        sock = socket.create_connection(('127.0.0.1', self.port), 60)
        with sock:
            try:
                sock.sendall(begin)
                for _ in range(count):
                    sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 16):
                    pass
            except (ConnectionError, TimeoutError):
                pass

    def ask(self, path):
        conn = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
        try:
            conn.request('GET', path, headers={'Connection': 'close'})
            answer = conn.getresponse()
            return answer.status, answer.read()
        finally:
            conn.close()

    def figures(self):
        status, body = self.ask('/v1/stats')
        self.assertEqual(status, 200)
        return json.loads(body)['server']

    def calm(self):
        """Nobody else is connected; what the process has of memory."""
        self.until(lambda: (f := self.figures())['connections'] == 1 and
                   f['buffer_bytes'] < 1 << 20)
        with open(f'/proc/{self.process.pid}/statm', encoding='ascii') as f:
            return int(f.read().split()[1]) * os.sysconf('SC_PAGESIZE')

    def test_floods(self):
        with self.server() as (url, self.process):
            self.port = int(url.split(':')[2])
            memory = []
            for _ in range(ROUNDS):
                threads = [threading.Thread(target=self.send, args=flood)
                           for flood in FLOODS.values()]
                for thread in threads:
                    thread.start()
                self.assertEqual(self.ask('/health/ready')[0], 200)
                for thread in threads:
                    thread.join()
                memory.append(self.calm())
            if not SANITIZED:
                self.assertLess(memory[-1] - memory[0], GROWTH_MAX, memory)
            with grpc_client.Conn(self.port) as conn:
                self.assertEqual(grpc_client.append(conn, 's', []).only() is None, False)

    def test_loris(self):
        """Many that begin and never go on hold up nobody, and are gone in the end."""
        with self.server() as (url, self.process):
            self.port = int(url.split(':')[2])
            before = self.calm()
            socks = []
            for i in range(210):
                sock = socket.create_connection(('127.0.0.1', self.port), 120)
                self.addCleanup(sock.close)
                sock.sendall(LORIS[i % len(LORIS)])
                socks.append(sock)
            self.until(lambda: self.figures()['connections'] == 211)
            self.assertEqual(self.ask('/health/ready')[0], 200)
            # A head has 10 s; whoever is in the middle of a body or of a call goes away by himself.
            for i, sock in enumerate(socks):
                if i % len(LORIS) in (0, 1, 4):
                    while sock.recv(1 << 16):
                        pass
                sock.close()
            after = self.calm()
            if not SANITIZED:
                self.assertLess(after - before, GROWTH_MAX)

    def test_too_many(self):
        conf = self.write('c.yaml', 'limits:\n  connections: 300\n  connections_per_address: 20\n'
                                    '  requests_per_s: 50\n')
        with self.server('-c', conf) as (url, self.process):
            self.port = int(url.split(':')[2])
            socks = [socket.create_connection(('127.0.0.1', self.port), 60) for _ in range(40)]
            got = []
            for sock in socks:
                self.addCleanup(sock.close)
                sock.sendall(b'GET /ping HTTP/1.1\r\nHost: x\r\n\r\n')
                try:
                    got.append(sock.recv(100)[9:12])
                except ConnectionError:
                    got.append(b'503')
            self.assertEqual((got.count(b'200'), got.count(b'503')), (20, 20))
            socks[0].sendall(b'GET /ping HTTP/1.1\r\nHost: x\r\n\r\n' * 2000)
            text = b''
            while text.count(b'HTTP/1.1 ') < 1999:
                piece = socks[0].recv(1 << 16)
                self.assertTrue(piece)
                text += piece
            self.assertGreater(text.count(b'HTTP/1.1 429'), 1000)
            self.assertIn(b'Retry-After: 1\r\n', text)
            for sock in socks:
                sock.close()


if __name__ == '__main__':
    unittest.main()
