"""A TCP proxy of the tests': forwards, and delays, loses or cuts when told to."""
import contextlib
import selectors
import socket
import threading
import time


class Proxy:
    """On 127.0.0.1 at a free port, to the port given."""

    def __init__(self, to):
        self.to, self.lock, self.pairs = to, threading.Lock(), set()
        self.deaf = False  # what the far side says is thrown away: confirms are lost
        self.delay = 0.0   # of each piece, either way
        self.refuse = False
        self.lost = 0      # bytes of the far side's that were thrown away
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.refuse:
                near.close()
                continue
            with contextlib.suppress(OSError):
                far = socket.create_connection(('127.0.0.1', self.to), 5)
                with self.lock:
                    self.pairs.add((near, far))
                threading.Thread(target=self.forward, args=(near, far), daemon=True).start()
                continue
            near.close()

    def forward(self, near, far):
        with selectors.DefaultSelector() as poll, contextlib.suppress(OSError, ValueError):
            poll.register(near, selectors.EVENT_READ, far)
            poll.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in poll.select():
                    data = key.fileobj.recv(65536)
                    if not data:
                        return self.drop((near, far))
                    if key.fileobj is far and self.deaf:
                        self.lost += len(data)
                        continue
                    if self.delay:
                        time.sleep(self.delay)
                    key.data.sendall(data)
        return self.drop((near, far))

    def drop(self, pair):
        with self.lock:
            self.pairs.discard(pair)
        for s in pair:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    def cut(self):
        """All connections at once, in the middle of whatever they are at."""
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            for s in pair:
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()
        self.cut()
