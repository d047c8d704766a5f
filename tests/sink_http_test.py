"""The sink http with the built binary, against a service of the test's own: batches, signatures, tokens,
the breaker, HTTP/2, kill -9, and a service that fails in the middle."""
import collections
import hashlib
import hmac
import http.server
import json
import shutil
import subprocess
import threading
import time
import unittest
import urllib.parse

from sink_case import PATIENCE, Seen, SinkCase

SECRET = 'a secret of the test'

Request = collections.namedtuple('Request', 'path headers body at')


class Service(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer):
        self.requests, self.lock, self.answer = [], threading.Lock(), answer
        super().__init__(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server_address[1]}'
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients that are killed go away in the middle."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        length = int(self.headers.get('Content-Length', 0))
        body = self.rfile.read(length)
        if len(body) < length:  # of a client that was killed
            self.close_connection = True
            return
        request = Request(self.path, self.headers, body, time.monotonic())
        with self.server.lock:
            status, text = self.server.answer(request)
            self.server.requests.append(request)
        if status == 0:  # half an answer
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf')
            self.close_connection = True
            return
        text = text.encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        """Nothing of it is of interest."""


class HttpSink(SinkCase):
    def setUp(self):
        super().setUp()
        self.answers = lambda request: (200, '{}')
        self.service = Service(lambda request: self.answers(request))
        self.addCleanup(self.service.server_close)
        self.addCleanup(self.service.shutdown)

    def configure_with(self, **more):
        self.configure(f'    type: http\n    url: {self.service.url}\n'
                       '    rules: [{url: /in}]\n' +
                       ''.join(f'    {k}: {v}\n' for k, v in more.items()))

    def asked(self):
        with self.service.lock:
            return list(self.service.requests)

    @staticmethod
    def elements(request):
        text = request.body.decode()
        if request.headers['Content-Type'].endswith('ndjson'):
            return [json.loads(line) for line in text.splitlines()]
        return json.loads(text)

    def test_batches(self):
        """Lines of whole events; the bad one parks, the others arrive, each stream in order."""
        self.answers = lambda r: ((422, '{"error":"no"}') if b'"bad"' in r.body else (200, '{}'))
        self.configure_with(batch='{events: 100, bytes: 64KiB}', cloudevents='structured')
        self.start()
        self.oxbow('sink', 'pause', 'out')
        self.append('order-1', 150)
        self.append('order-2', data={'n': 'bad'})
        self.append('order-2')
        self.append('order-3', 20)
        self.oxbow('sink', 'resume', 'out')
        self.delivered()
        shown = self.show()
        self.assertEqual((shown['parked'], shown['parked_streams']), (2, 1))
        asked = [r for r in self.asked() if b'"bad"' not in r.body]
        self.assertLess(len(asked), 100)
        self.assertEqual(len(self.elements(asked[0])), 100)
        del self.appended['order-2']
        self.came([Seen(e['subject'], int(e['sequence']), e['id'])
                   for r in asked for e in self.elements(r)], doubles=False)
        self.oxbow('sink', 'parked', 'skip', 'out')
        self.until(lambda: self.show()['parked'] == 0, 'not replayed')
        self.assertEqual(self.elements(self.asked()[-1])[0]['data'], {'n': 1})

    def test_array(self):
        self.configure_with(batch='{events: 10, format: array, wait: 1ms}')
        self.start()
        self.append('order-1', 25)
        self.delivered()
        asked = self.asked()
        self.assertEqual([e['n'] for r in asked for e in self.elements(r)], list(range(25)))
        self.assertEqual(asked[0].headers['Content-Type'], 'application/json')

    def test_killed(self):
        """kill -9 in the middle of batches: nothing lost, what comes twice has its id."""
        self.configure_with(batch='{events: 50}', cloudevents='structured')
        self.start()
        for at in (300, 900):
            self.fill(30, 40)
            self.until(lambda n=at: self.show()['delivered'] > 0 and
                       sum(len(self.elements(r)) for r in self.asked()) >= n, 'nothing comes')
            self.kill()
            self.start()
        self.delivered()
        self.came([Seen(e['subject'], int(e['sequence']), e['id'])
                   for r in self.asked() for e in self.elements(r)])

    def test_half_and_failing(self):
        """Half an answer, 500 and 429: sent again under the same key, in order."""
        count = iter(range(1000000))
        self.answers = lambda r: ((0, ''), (500, ''), (429, ''), (200, '{}'))[next(count) % 4]
        self.configure_with(retry_min='1ms', retry_max='2ms')
        self.start()
        self.fill(10, 5)
        self.delivered()
        self.assertEqual(self.show()['parked'], 0)
        keys = collections.defaultdict(list)
        for r in self.asked():
            keys[r.headers['Idempotency-Key']].append(r.body)
        self.assertEqual(len(keys), 50)
        self.assertTrue(all(len(set(bodies)) == 1 for bodies in keys.values()))

    def test_signed(self):
        self.configure_with(sign=f'{{secret: "{SECRET}"}}')
        self.start()
        self.append('order-1', 3)
        self.delivered()
        for r in self.asked():
            stamp, signature = (part.split('=')[1] for part in
                                r.headers['Oxbow-Signature'].split(','))
            wanted = hmac.new(SECRET.encode(), stamp.encode() + b'.' + r.body, hashlib.sha256)
            self.assertEqual(signature, wanted.hexdigest())
            self.assertLess(abs(int(stamp) - time.time()), 3600)

    def test_token(self):
        """A token is asked for once, and once more when it is refused."""
        state = {'token': 0, 'asked': 0}

        def answer(r):
            if r.path == '/token':
                form = urllib.parse.parse_qs(r.body.decode())
                self.assertEqual((form['grant_type'], form['client_id'], form['client_secret']),
                                 (['client_credentials'], ['ox'], ['s&cret']))
                state['token'] += 1
                state['asked'] += 1
                return 200, json.dumps({'access_token': f't{state["token"]}', 'expires_in': 3600})
            fine = r.headers['Authorization'] == f'Bearer t{state["token"]}'
            return (200, '{}') if fine else (401, '')
        self.answers = answer
        self.configure_with(oauth=f'{{token_url: "{self.service.url}/token", client_id: ox, '
                            'client_secret: "s&cret"}')
        self.start()
        self.fill(5, 4)
        self.delivered()
        self.assertEqual(state['asked'], 1)
        with self.service.lock:
            state['token'] = 7  # what was given is not valid any more
        self.append('order-1')
        self.delivered()
        self.assertEqual(state['asked'], 2)
        self.assertEqual(self.show()['parked'], 0)
        shown = json.dumps(self.show())
        self.assertNotIn('s&cret', shown)

    def test_breaker(self):
        """After so many failures it is left alone, then asked by one event alone."""
        state = {'down': True}
        self.answers = lambda r: (503, '') if state['down'] else (200, '{}')
        self.configure_with(breaker='{failures: 20, pause: 300ms}', retry_min='1ms',
                            retry_max='2ms', in_flight=8)
        self.start()
        self.fill(30, 2)
        self.complains('a pause')
        self.until(lambda: len(self.asked()) > 20 + 8 + 3, 'nothing is tried')
        at = [r.at for r in self.asked()][20 + 8:]
        self.assertGreater(min(b - a for a, b in zip(at, at[1:])), 0.1)
        state['down'] = False
        self.delivered()
        self.assertEqual(len({r.headers['Idempotency-Key'] for r in self.asked()}), 60)

    @unittest.skipUnless(shutil.which('node') and shutil.which('openssl'), 'no node')
    def test_http2(self):
        """Under TLS, with a server of Node's: few connections, many streams."""
        subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt',
                        'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj',
                        '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout',
                        self.path('key'), '-out', self.path('cert')], check=True,
                       capture_output=True)
        script = ("const fs = require('fs'), [key, cert] = process.argv.slice(1).map("
                  "(f) => fs.readFileSync(f)); let sessions = 0, n = 0;"
                  "const s = require('http2').createSecureServer({key, cert});"
                  "s.on('session', () => sessions++); s.on('stream', (stream) => {"
                  "stream.resume(); stream.on('end', () => { n++; stream.respond({':status': 200});"
                  "stream.end('{}'); }); });"
                  "s.listen(0, '127.0.0.1', () => console.log(s.address().port));"
                  "process.stdin.on('end', () => process.exit(0)).resume();"
                  "setInterval(() => console.log(JSON.stringify({sessions, n})), 50);")
        node = subprocess.Popen(['node', '-e', script, self.path('key'), self.path('cert')],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(node.stdout.close)
        self.addCleanup(node.wait, PATIENCE)
        self.addCleanup(node.stdin.close)
        self.service.url = f'https://127.0.0.1:{node.stdout.readline().strip()}'
        self.configure_with(ca_file=self.path('cert'))
        self.start()
        self.fill(20, 10)
        self.delivered()
        said = {'n': 0}
        while said['n'] < 200:
            said = json.loads(node.stdout.readline())
        self.assertEqual(said['n'], 200)
        self.assertLess(said['sessions'], 5)


if __name__ == '__main__':
    unittest.main(verbosity=2)
