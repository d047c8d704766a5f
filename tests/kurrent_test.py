"""The official Node clients of KurrentDB and EventStoreDB, unchanged, against the built binary: what
tests/kurrent/conformance.mjs finds of one server, with one client after the other. Skipped where
there is no Node, or where the clients can neither be found nor fetched."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tls_test import Certificates  # noqa: E402

OXBOW = os.path.abspath(os.environ.get('OXBOW', 'build/src/cli/oxbow'))
HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE = 90
SKIPPED = 77


def find_clients():
    """(folder, None), or (None, why not)."""
    if shutil.which('node') is None:
        return None, 'there is no node'
    done = subprocess.run([os.path.join(HERE, '..', 'tools', 'kurrent-clients')],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None, 'the clients could not be fetched: ' + done.stderr.strip()[-300:]
    return done.stdout.strip(), None


class Conformance(unittest.TestCase):
    clients = None

    def serve(self, *args):
        self.folder = tempfile.mkdtemp(prefix='oxbow-kurrent-')
        self.addCleanup(shutil.rmtree, self.folder, True)
        log_path = os.path.join(self.folder, 'log')
        env = {k: v for k, v in os.environ.items() if not k.startswith('OXBOW_')}
        env['OXBOW_DATA'] = os.path.join(self.folder, 'data')
        with open(log_path, 'wb') as log:
            self.process = subprocess.Popen([OXBOW, 'serve', '--listen', '127.0.0.1:0', *args],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=env)
        self.addCleanup(self.end)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            with open(log_path, encoding='utf-8') as f:
                found = re.search(r'msg=listening .*port=(\d+)', f.read())
            if found:
                self.port = found.group(1)
                return
            time.sleep(0.01)
        self.fail('no server')

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def test_clients(self):
        self.serve()
        self.conform(450)

    def test_tls(self):
        with tempfile.TemporaryDirectory(prefix='oxbow-kurrent-tls-') as folder:
            certs = Certificates(folder)
            cert, key = certs.make('server', 'oxbow')
            config = certs.path('oxbow.yaml')
            with open(config, 'w', encoding='ascii') as f:
                f.write(f'tls: {{cert: {cert}, key: {key}}}\n')
            self.serve('-c', config)
            self.conform(150, certs.path('ca.pem'))

    def test_users(self):
        """With credentials, right and wrong, and what $acl and roles leave of a client's calls."""
        with tempfile.TemporaryDirectory(prefix='oxbow-kurrent-users-') as folder:
            certs = Certificates(folder)
            cert, key = certs.make('server', 'oxbow')
            data = os.path.join(folder, 'data')
            for name, password, *more in (('admin', 'changeit', '--role', 'admin'),
                                          ('reader', 'password', '--role', 'read'),
                                          ('writer', 'password', '--role', 'write'),
                                          ('auditor', 'password', '--group', 'auditors')):
                subprocess.run([OXBOW, 'user', 'add', name, *more, '--data', data], check=True,
                               env={**os.environ, 'OXBOW_NEW_PASSWORD': password}, timeout=PATIENCE)
            config = certs.path('oxbow.yaml')
            with open(config, 'w', encoding='ascii') as f:
                f.write(f'tls: {{cert: {cert}, key: {key}}}\n')
            self.serve('-c', config, '--data', data)
            self.conform(130, certs.path('ca.pem'), script='access.mjs')

    def conform(self, least, *more, script='conformance.mjs'):
        passed = 0
        for which in ('kurrent', 'eventstore'):
            with self.subTest(client=which):
                done = subprocess.run(
                    ['node', os.path.join(HERE, 'kurrent', script), self.clients,
                     self.port, which, *more], capture_output=True, text=True, timeout=300, check=False)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                passed += int(re.search(r': (\d+) ok, 0 failed', done.stdout).group(1))
        self.assertGreaterEqual(passed, least)
        self.process.terminate()
        self.assertEqual(self.process.wait(PATIENCE), 0)


if __name__ == '__main__':
    Conformance.clients, why_not = find_clients()
    if Conformance.clients is None:
        print('skip:', why_not)
        sys.exit(SKIPPED)
    unittest.main()
