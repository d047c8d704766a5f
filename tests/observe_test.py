"""What an operator sees of a running server: metrics, figures as JSON, request ids, lines about slow
and failed requests, `oxbow top`, the dashboard; and where it may listen."""
import http.client
import json
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cli_test import USAGE, Case as Base  # noqa: E402

DASHBOARD = os.environ.get('DASHBOARD', 'share/grafana/oxbow.json')


class Case(Base):
    def ask(self, url, method, path, body=None, **headers):
        """Status, fields and text of one answer."""
        host = url[len('http://'):]
        conn = http.client.HTTPConnection(host, timeout=60)
        try:
            conn.request(method, path, body, {k.replace('_', '-'): v for k, v in headers.items()})
            answer = conn.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            conn.close()

    def append(self, url, stream, **headers):
        return self.ask(url, 'POST', '/v1/streams/' + stream, '{"type":"T","data":{}}',
                        Content_Type='application/json', **headers)

    def metrics(self, url):
        """Every value by its name with labels, after a look at the format."""
        text = self.ask(url, 'GET', '/metrics')[2]
        found, typed = {}, {}
        for line in text.splitlines():
            if line.startswith('# TYPE '):
                name, kind = line.split()[2:]
                self.assertNotIn(name, typed)
                typed[name] = kind
            elif not line.startswith('#'):
                match = re.fullmatch(r'([a-z_]+(?:\{[^}]*\})?) ([0-9.e+-]+)', line)
                self.assertIsNotNone(match, line)
                self.assertNotIn(match.group(1), found)
                found[match.group(1)] = float(match.group(2))
        for name, kind in typed.items():
            if kind == 'histogram':
                self.check_histogram(found, name)
        return found

    def check_histogram(self, found, name):
        buckets = [(k, v) for k, v in found.items() if k.startswith(name + '_bucket{le="')]
        bounds = [float(re.search(r'le="([^"]*)"', k).group(1)) for k, _ in buckets]
        self.assertEqual(bounds, sorted(set(bounds)))
        self.assertEqual(bounds[-1], float('inf'))
        counts = [v for _, v in buckets]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(counts[-1], found[name + '_count'])


class Figures(Case):
    def test_metrics(self):
        with self.server() as (url, _):
            before = self.metrics(url)
            for _ in range(5):
                self.assertEqual(self.append(url, 'a-1')[0], 201)
            self.assertEqual(self.append(url, 'a-1', Expected_Version='no-stream')[0], 409)
            self.assertEqual(self.ask(url, 'GET', '/v1/streams/none')[0], 404)
            now = self.metrics(url)
        self.assertEqual(now['oxbow_append_events_total'], 5)
        self.assertEqual(now['oxbow_append_seconds_count'], 6)
        self.assertGreater(now['oxbow_append_seconds_sum'], 0)
        self.assertEqual(now['oxbow_log_sync_seconds_count'], now['oxbow_log_groups_total'])
        self.assertEqual(now['oxbow_log_group_commits_sum'], now['oxbow_log_commits_total'])
        self.assertEqual(now['oxbow_refusals_total{reason="wrong-expected-version"}'], 1)
        self.assertEqual(now['oxbow_refusals_total{reason="stream-not-found"}'], 1)
        self.assertNotIn('oxbow_refusals_total{reason="stream-not-found"}', before)
        self.assertGreater(now['process_resident_memory_bytes'], 1 << 20)
        self.assertEqual(now['process_start_time_seconds'], before['process_start_time_seconds'])

    def test_stats(self):
        with self.server() as (url, _):
            self.append(url, 'a-1')
            self.ask(url, 'GET', '/nothing')
            stats = json.loads(self.ask(url, 'GET', '/v1/stats')[2])
        self.assertEqual(stats['server']['append_events'], 1)
        self.assertEqual(stats['server']['refusals'], {'not-found': 1})
        self.assertEqual(set(stats['histograms']), {'append_us', 'sync_us', 'group_commits'})
        for h in stats['histograms'].values():
            self.assertEqual(len(h['le']), len(h['count']))
            self.assertIsNone(h['le'][-1])
            self.assertGreaterEqual(sum(h['count']), 1)

    def test_subscribers(self):
        with self.server() as (url, _):
            self.append(url, 'a-1')
            host = url[len('http://'):]
            conn = http.client.HTTPConnection(host, timeout=60)
            conn.request('GET', '/v1/all', headers={'Accept': 'text/event-stream'})
            answer = conn.getresponse()
            self.until(lambda: self.metrics(url)['oxbow_subscriptions_live'] == 1)
            self.until(lambda: self.metrics(url)['oxbow_subscriptions_lag_bytes'] == 0)
            answer.close()
            conn.close()
            self.until(lambda: self.metrics(url)['oxbow_subscriptions_live'] == 0)

    def test_dashboard_names_what_is_there(self):
        with open(DASHBOARD, encoding='utf-8') as f:
            board = json.load(f)
        wanted = {name for panel in board['panels'] for target in panel['targets']
                  for name in re.findall(r'\b(?:oxbow|process)_[a-z_]+', target['expr'])}
        self.assertGreater(len(wanted), 15)
        with self.server() as (url, _):
            self.append(url, 'a-1')
            self.append(url, 'a-1', Expected_Version='no-stream')
            self.oxbow('group', 'create', 'a-1', 'g', '--server', url)
            there = {re.sub(r'\{.*', '', name) for name in self.metrics(url)}
        self.assertEqual(wanted - there, set())


class Requests(Case):
    def test_ids(self):
        with self.server() as (url, _):
            status, fields, _ = self.append(url, 'a-1', X_Request_Id='order/17:a.b-c')
            self.assertEqual((status, fields['x-request-id']), (201, 'order/17:a.b-c'))
            status, fields, _ = self.append(url, 'a-1')
            self.assertEqual((status, fields['x-request-id']), (201, None))
            ids = set()
            for bad in ('a b', 'x' * 129, '"quoted"', ''):
                status, fields, _ = self.ask(url, 'GET', '/nothing', X_Request_Id=bad)
                self.assertEqual(status, 404)
                self.assertRegex(fields['x-request-id'], r'^[0-9a-f]{8}-\d+$')
                ids.add(fields['x-request-id'])
            self.assertEqual(len(ids), 4)

    def test_lines(self):
        config = self.write('c.yaml', 'requests: {log: true}\n')
        with self.server('-c', config) as (url, _):
            self.append(url, 'secret-1', X_Request_Id='id-1')
            self.ask(url, 'GET', '/nothing')
        log = self.server_log()
        self.assertRegex(log, r'msg=request method=POST route=/v1/streams/\S+ status=201 us=\d+ '
                              r'request_id=id-1\n')
        self.assertRegex(log, r'msg=request status=404 reason=not-found us=\d+ request_id=\S+\n')
        self.assertNotIn('secret-1', log)

    def test_slow_lines(self):
        config = self.write('c.yaml', 'requests: {slow: 1ms}\nlog: {sync_delay: 20ms}\n')
        with self.server('-c', config) as (url, _):
            self.append(url, 'a-1', X_Request_Id='id-2')
        log = self.server_log()
        self.assertRegex(log, r'msg="slow request" method=POST .*status=201 ms=\d+ request_id=id-2\n')

    def test_quiet_by_itself(self):
        config = self.write('c.yaml', 'requests: {slow: 0}\n')
        with self.server('-c', config) as (url, _):
            self.append(url, 'a-1')
            self.ask(url, 'GET', '/nothing')
        self.assertNotIn('request', self.server_log())


class Top(Case):
    def test_page(self):
        with self.server() as (url, _):
            self.append(url, 'a-1')
            self.oxbow('group', 'create', 'a-1', 'billing', '--server', url)
            page = self.oxbow('top', '--server', url).out
            for word in ('appends', 'sync p50', 'subscribers', 'connections', 'a-1/billing'):
                self.assertIn(word, page)
            self.assertNotIn('\033', page)

    def test_lines(self):
        with self.server() as (url, _):
            self.append(url, 'a-1')
            lines = self.oxbow('top', '--json', '-n', '2', '--server', url).lines
            self.assertEqual(len(lines), 2)
            self.assertEqual(lines[0]['streams'], 1)
            self.assertGreater(lines[0]['requests_per_s'], 0)

    def test_bad_use(self):
        self.refused('top', '--every', '0', says='must be 1 to', status=USAGE)
        self.refused('top', '--server', 'http://127.0.0.1:1', says='is the server running', status=3)


class Exposure(Case):
    def test_listens_where_nobody_else_comes(self):
        for host in ('0.0.0.0', '[::]', '192.0.2.1'):
            self.refused('serve', '--listen', host + ':0', says='--insecure', status=USAGE)

    def test_insecure(self):
        config = self.write('c.yaml', 'insecure: true\nlisten: "0.0.0.0:0"\n')
        self.assertEqual(self.oxbow('check', '-c', config).status, 0)


if __name__ == '__main__':
    unittest.main(verbosity=1)
