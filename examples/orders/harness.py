"""Starts the example's programs for the tests: own folder, free port, own pid."""
import http.client
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.environ.get("ORDERS_BIN", os.path.join(HERE, "../../build/examples/orders"))


def wait_for(what, seconds=120.0):
    """Polls until `what()` is true; fails the test when it never is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"never became true: {what}")


class Folder(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="orders-")
        self.addCleanup(shutil.rmtree, self.dir, True)

    def path(self, name):
        return os.path.join(self.dir, name)


class Service:
    """One fulfilment process."""

    def __init__(self, db, *options):
        self.proc = subprocess.Popen([os.path.join(BIN, "fulfilment"), "--db", db, *options],
                                     stdout=subprocess.PIPE, text=True)
        ready, _, _ = select.select([self.proc.stdout], [], [], 120)
        line = self.proc.stdout.readline() if ready else ""
        if not line.startswith("listening "):
            self.proc.kill()
            self.proc.wait()
            raise AssertionError(f"the service did not start: {line!r}")
        self.port = int(line.split()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def call(self, method, path, body=None, **headers):
        """(status, parsed body or raw bytes, headers); underscores in names are dashes."""
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            if body is not None and not isinstance(body, (bytes, str)):
                body = json.dumps(body)
            if isinstance(body, str):
                body = body.encode()
            conn.request(method, path, body,
                         {name.replace("_", "-"): value for name, value in headers.items()})
            answer = conn.getresponse()
            raw = answer.read()
            try:
                return answer.status, json.loads(raw), answer.headers
            except ValueError:
                return answer.status, raw, answer.headers
        finally:
            conn.close()

    def stop(self):
        if self.proc.poll() is None:
            self.proc.terminate()
        status = self.proc.wait(120)
        self.proc.stdout.close()
        return status

    def kill(self):
        self.proc.kill()
        self.proc.wait(120)
        self.proc.stdout.close()


def run(*args):
    """(status, output, errors) of one of the programs."""
    done = subprocess.run([os.path.join(BIN, args[0]), *args[1:]], capture_output=True, text=True,
                          timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def compare(*args):
    done = subprocess.run([sys.executable, os.path.join(HERE, "compare.py"), *args],
                          capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr
