"""A server that is killed (SIGKILL) under appends over gRPC, again and again: BatchAppend with many
outstanding, Append, and sessions over two streams. What was acknowledged is there, once, where it
was said to be; what was not is there whole or not at all, and once when it is sent again; nothing
else is there.

usage: grpc_kill_test.py [ROUNDS]"""
import collections
import random
import sys
import threading
import unittest
import uuid

from grpc_client import STREAMS, Conn, append, event_of, fields, one, pb, proposed, read
from grpc_server import Server, batch

ROUNDS = 4
OUTSTANDING = 16
SESSION = '/kurrentdb.protocol.v2.streams.StreamsService/AppendSession'

# One append of one or more events. `parts`: the stream and the ids of each of its commits' writes.
Sent = collections.namedtuple('Sent', 'kind parts')


def streams_filter():
    return pb((1, pb((2, 'kill-'))), (4, b''), (5, 1))


def record(event_id):
    return pb((1, str(event_id)), (3, pb((1, 1), (2, 't'))), (4, b'{}'))


class World:
    """What was sent and what was said to it; shared by the writers of a round."""

    def __init__(self, seed):
        self.lock = threading.Lock()
        self.random = random.Random(seed)
        self.sent = {}      # event id: its append
        self.unsure = []    # appends without an answer
        self.acked = {}     # event id: (stream, revision)
        self.left = 0       # acknowledgements until the kill
        self.kill = None

    def begin(self, kind, streams, counts):
        ids = [[str(uuid.uuid4()) for _ in range(n)] for n in counts]
        made = Sent(kind, list(zip(streams, ids)))
        with self.lock:
            for _, some in made.parts:
                self.sent.update(dict.fromkeys(some, made))
            self.unsure.append(made)
        return made

    def acknowledge(self, made, lasts):
        """`lasts`: the revision of each part's last event."""
        with self.lock:
            self.unsure.remove(made)
            for (stream, ids), last in zip(made.parts, lasts):
                for i, event_id in enumerate(ids):
                    self.acked[event_id] = (stream, last - len(ids) + 1 + i)
            self.left -= 1
            if self.left == 0:
                self.kill()


def of_batch(made):
    (stream, ids), = made.parts
    return batch(ids[0], stream, [proposed(i) for i in ids])


def write_batches(world, conn, chance, me):
    """Many outstanding; the answers name the first event's id."""
    call = conn.start(STREAMS + 'BatchAppend')
    waiting = {}
    while True:
        while len(waiting) < OUTSTANDING:
            made = world.begin('batch', [f'kill-{me}-{chance.randrange(4)}'],
                               [chance.choice((1, 1, 3))])
            waiting[made.parts[0][1][0]] = made
            call.send(of_batch(made))
        answer = call.next()
        made = waiting.pop(one(answer, 1, 2).decode())
        world.acknowledge(made, [one(answer, 3, 1)])


def send_append(conn, made):
    (stream, ids), = made.parts
    return one(append(conn, stream, [proposed(i) for i in ids]).only(), 1, 1)


def write_appends(world, conn, chance, me):
    while True:
        made = world.begin('append', [f'kill-{me}-{chance.randrange(4)}'], [1])
        world.acknowledge(made, [send_append(conn, made)])


def send_session(conn, made):
    requests = [pb((1, stream), *[(2, record(i)) for i in ids]) for stream, ids in made.parts]
    answer = fields(conn.call(SESSION, *requests).only())
    return [one(part, 2) >> 1 for part in answer[1]]


def write_sessions(world, conn, chance, me):
    while True:
        made = world.begin('session', [f'kill-{me}-a', f'kill-{me}-b'], [1, 2])
        world.acknowledge(made, send_session(conn, made))


WRITERS = (write_batches, write_batches, write_appends, write_sessions)


class Kill(unittest.TestCase):
    rounds = ROUNDS

    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.close)
        self.world = World(self.rounds)
        self.there = {}     # event id: (stream, revision), of all rounds
        self.heads = collections.Counter()
        self.from_pos = 0

    def load(self):
        """Until the kill; what breaks a writer is only that."""
        world, wrong = self.world, []
        world.left = world.random.randrange(1, 250)
        world.kill = self.server.process.kill

        def work(write, me):
            try:
                with Conn(self.server.port) as conn:
                    write(world, conn, random.Random(world.random.random()), me)
            except OSError:
                pass
            except BaseException as e:  # pylint: disable=broad-except
                wrong.append(repr(e))
                world.kill()
        threads = [threading.Thread(target=work, args=(w, me)) for me, w in enumerate(WRITERS)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])
        self.server.kill()
        self.assertLessEqual(world.left, 0)

    def look(self, conn):
        """What has come since the last look, in the log's order."""
        call = read(conn, where=(self.from_pos, self.from_pos), filter=streams_filter())
        while (message := call.next()) is not None:
            event = event_of(one(message, 1, 1))
            self.from_pos = event.pos
            if event.id in self.there:
                self.assertEqual(self.there[event.id], (event.stream, event.revision), 'twice')
                continue
            self.assertIn(event.id, self.world.sent, 'invented')
            self.assertEqual(event.revision, self.heads[event.stream], event.stream)
            self.heads[event.stream] += 1
            self.there[event.id] = (event.stream, event.revision)

    def check(self):
        lost = {i: at for i, at in self.world.acked.items() if self.there.get(i) != at}
        self.assertEqual(lost, {}, 'acknowledged and lost, or elsewhere')
        for made in self.world.unsure:
            have = {i in self.there for _, ids in made.parts for i in ids}
            self.assertEqual(len(have), 1, 'a part of a commit')

    def send_again(self, conn):
        """The same ids: what is there already is not written once more."""
        for made in list(self.world.unsure):
            lasts = send_session(conn, made) if made.kind == 'session' else [send_append(conn, made)]
            self.world.left = 2  # nobody is killed now
            self.world.acknowledge(made, lasts)

    def test_rounds(self):
        for _ in range(self.rounds):
            self.load()
            self.server.start()
            with Conn(self.server.port) as conn:
                self.look(conn)
                self.check()
                self.send_again(conn)
                self.look(conn)
                self.check()
        self.from_pos, self.heads, seen, self.there = 0, collections.Counter(), self.there, {}
        with Conn(self.server.port) as conn:
            self.look(conn)
        self.assertEqual(self.there, seen)
        self.assertEqual(self.server.stop(), 0)
        print(f'{self.rounds} rounds: {len(self.world.acked)} events acknowledged, none lost')


if __name__ == '__main__':
    if len(sys.argv) > 1 and sys.argv[1].isdigit():
        Kill.rounds = int(sys.argv.pop(1))
    unittest.main()
