"""Traces of the built binary: what a collector of the test's own is given, how contexts go from the
caller through the log to the far side, and what becomes of spans while the collector is away."""
import http.server
import json
import os
import sys
import threading
import unittest
import uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import grpc_client as g  # noqa: E402
from cli_test import event  # noqa: E402
from observe_test import Case as Base  # noqa: E402
from servers import free_port  # noqa: E402

TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
PARENT = f'00-{TRACE}-00f067aa0ba902b7-01'
UNSAMPLED = f'00-{TRACE}-00f067aa0ba902b7-00'


class Collector:
    """Takes OTLP over HTTP in JSON."""

    def __init__(self, status=200):
        self.status = status
        self.spans, self.requests = [], []
        self.lock = threading.Lock()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers['content-length'])))
                with collector.lock:
                    collector.requests.append((self.path, dict(self.headers), body))
                    for resource in body['resourceSpans']:
                        for scope in resource['scopeSpans']:
                            collector.spans += scope['spans']
                self.send_response(collector.status)
                self.send_header('Content-Length', '2')
                self.end_headers()
                self.wfile.write(b'{}')

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_address[1]}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def named(self, name):
        with self.lock:
            return [s for s in self.spans if s['name'] == name]


def attributes(span):
    return {a['key']: a['value'].get('stringValue', a['value'].get('intValue'))
            for a in span['attributes']}


class Tracing(Base):
    def collector(self, **more):
        collector = Collector(**more)
        self.addCleanup(collector.close)
        return collector

    def config(self, collector, more='', **keys):
        url = collector if isinstance(collector, str) else collector.url
        lines = ''.join(f'  {k}: {v}\n' for k, v in keys.items())
        return self.write('c.yaml', f'tracing:\n  endpoint: {url}\n{lines}{more}')

    def append(self, url, stream, event=None, **headers):
        status, _, text = self.ask(url, 'POST', '/v1/streams/' + stream,
                                   json.dumps(event or {'type': 'T', 'data': {}}),
                                   Content_Type='application/json', **headers)
        self.assertEqual(status, 201, text)
        return json.loads(text)['position']

    def metadata(self, url, stream):
        return [x.get('metadata') for x in self.oxbow('read', stream, '--server', url).lines]

    def test_from_the_caller_to_the_far_side(self):
        collector = self.collector()
        out = self.path('out.ndjson')
        config = self.config(collector, f'sinks:\n  away:\n    type: file\n    path: {out}\n',
                             headers='{X-Key: abc}', service='orders', sample=0)
        with self.server('-c', config) as (url, _):
            position = self.append(url, 'a-1', traceparent=PARENT)
            self.append(url, 'a-1', {'type': 'T', 'data': {}, 'metadata': {'own': 1}},
                        traceparent=PARENT)
            own = {'traceparent': f'00-{TRACE}-00f067aa0ba902b8-01', 'x': 'y'}
            self.append(url, 'a-1', {'type': 'T', 'data': {}, 'metadata': own})
            self.until(lambda: len(collector.named('deliver')) == 3 and
                       len(collector.named('append')) == 3)
            meta = self.metadata(url, 'a-1')
        appends, commits = collector.named('append'), collector.named('commit')
        self.assertEqual({s['traceId'] for s in collector.spans}, {TRACE})
        self.assertEqual([s['parentSpanId'] for s in appends],
                         ['00f067aa0ba902b7', '00f067aa0ba902b7', '00f067aa0ba902b8'])
        self.assertEqual([s['parentSpanId'] for s in commits], [s['spanId'] for s in appends])
        # What is stored is the append's own context; what was there stays as it was.
        self.assertEqual(meta, [{'traceparent': f'00-{TRACE}-{appends[0]["spanId"]}-01'},
                                {'own': 1, 'traceparent': f'00-{TRACE}-{appends[1]["spanId"]}-01'},
                                own])
        delivered = collector.named('deliver')
        self.assertEqual([s['links'] for s in delivered[:2]],
                         [[{'traceId': TRACE, 'spanId': s['spanId']}] for s in appends[:2]])
        self.assertEqual(delivered[2]['links'][0]['spanId'], '00f067aa0ba902b8')
        self.assertEqual(attributes(delivered[0]), {'oxbow.sink': 'away', 'oxbow.attempt': '0',
                                                    'oxbow.position': str(position)})
        self.assertEqual(attributes(appends[0]), {'oxbow.events': '1',
                                                  'oxbow.position': str(position)})
        for outer, inner in zip(appends, commits):
            self.assertLessEqual(int(outer['startTimeUnixNano']), int(inner['startTimeUnixNano']))
            self.assertLessEqual(int(inner['startTimeUnixNano']), int(inner['endTimeUnixNano']))
            self.assertLessEqual(int(inner['endTimeUnixNano']), int(outer['endTimeUnixNano']))
        path, headers, body = collector.requests[0]
        self.assertEqual((path, headers['X-Key'], headers['Content-Type']),
                         ('/v1/traces', 'abc', 'application/json'))
        self.assertEqual(attributes(body['resourceSpans'][0]['resource'])['service.name'], 'orders')

    def test_sampling(self):
        """A caller decides for its trace; for those that begin here the share does."""
        collector = self.collector()
        with self.server('-c', self.config(collector)) as (url, _):
            self.append(url, 'a-1', traceparent=UNSAMPLED)
            self.append(url, 'a-1', traceparent='00-nonsense')
            status, _, _ = self.ask(url, 'POST', '/v1/streams/a-1', '{"type":"T","data":{}}',
                                    Content_Type='application/json', Expected_Version='no-stream')
            self.assertEqual(status, 409)
            meta = self.metadata(url, 'a-1')
        # The last ones are sent before the server ends.
        appends = collector.named('append')
        self.assertEqual(len(appends), 2)
        self.assertNotIn('parentSpanId', appends[0])
        self.assertNotEqual(appends[0]['traceId'], appends[1]['traceId'])
        self.assertEqual(meta, [{'traceparent': UNSAMPLED}, None])
        self.assertEqual(appends[1]['status'], {'code': 2, 'message': ''})
        self.assertEqual(attributes(appends[1])['error.type'], 'wrong-expected-version')

    def test_grpc(self):
        collector = self.collector()
        with self.server('-c', self.config(collector, sample=0)) as (url, _):
            with g.Conn(int(url.rsplit(':', 1)[1])) as conn:
                g.append(conn, 'a-1', [g.proposed(uuid.uuid4())],
                         more=[('traceparent', PARENT)]).only()
            meta = self.metadata(url, 'a-1')
        append, = collector.named('append')
        self.assertEqual((append['traceId'], append['parentSpanId']), (TRACE, '00f067aa0ba902b7'))
        self.assertEqual(meta, [{'traceparent': f'00-{TRACE}-{append["spanId"]}-01'}])

    def test_without_tracing(self):
        """The caller's context is stored all the same."""
        with self.server() as (url, _):
            lines = event('T', {}) + event('T', {}, metadata={}) + event('T', {}, metadata=[1])
            status, _, _ = self.ask(url, 'POST', '/v1/streams/a-1', lines, traceparent=PARENT,
                                    Content_Type='application/x-ndjson')
            self.assertEqual(status, 201)
            self.assertEqual(self.metadata(url, 'a-1'),
                             [{'traceparent': PARENT}, {'traceparent': PARENT}, [1]])
            self.assertNotIn('oxbow_trace_spans_total', self.metrics(url))

    def test_collector_away(self):
        """Nobody waits for it; what it did not take is counted; it is tried again."""
        with self.server('-c', self.config(f'http://127.0.0.1:{free_port()}')) as (url, _):
            for _ in range(20):
                self.append(url, 'a-1')
            now = self.until(lambda: (m := self.metrics(url))['oxbow_trace_dropped_total'] == 40 and m)
            self.assertEqual(now['oxbow_trace_spans_total'], 40)
            self.assertEqual(now['oxbow_trace_sent_total'], 0)
            self.until(lambda: 'spans are dropped' in self.server_log())  # said after it is counted
            self.assertEqual(self.server_log().count('spans are dropped'), 1)

    def test_collector_refuses(self):
        collector = self.collector(status=400)
        with self.server('-c', self.config(collector)) as (url, _):
            self.append(url, 'a-1')
            self.until(lambda: self.metrics(url)['oxbow_trace_dropped_total'] == 2)
            collector.status = 200
            self.append(url, 'a-1')
            self.until(lambda: self.metrics(url)['oxbow_trace_sent_total'] == 2)

    def test_configuration(self):
        for more, says in [({'sample': '1.5'}, 'from 0 to 1'), ({'sample': '1.2.3'}, 'from 0 to 1')]:
            config = self.config('http://127.0.0.1:1', **more)
            self.refused('serve', '-c', config, '--listen', '127.0.0.1:0', says=says)


if __name__ == '__main__':
    unittest.main()
