#!/usr/bin/env python3
"""The fulfilment service keeps its contract (README.md)."""
import http.client
import socket
import sqlite3
import threading
import unittest

from harness import Folder, Service, run

ROW = {"restaurant": "Phở Hà Nội", "driver": None, "state": "placed", "note": ""}


class WithService(Folder):
    options = ()

    def setUp(self):
        super().setUp()
        self.service = Service(self.path("f.db"), *self.options)
        self.addCleanup(lambda: self.service.stop())

    def call(self, *args, **headers):
        return self.service.call(*args, **headers)

    def expect(self, status, error, *args, **headers):
        got, body, _ = self.call(*args, **headers)
        self.assertEqual((got, body["error"]), (status, error), body)
        return body

    def put(self, order, row=None, **headers):
        status, body, _ = self.call("PUT", f"/orders/{order}", row or ROW, **headers)
        self.assertIn(status, (200, 201), body)
        return body


class Rows(WithService):
    def test_put_get_delete(self):
        status, body, headers = self.call("PUT", "/orders/7", ROW)
        self.assertEqual((status, headers["ETag"]), (201, '"1"'))
        self.assertEqual(body, {"id": 7, "version": 1, **ROW})
        status, body, _ = self.call("PUT", "/orders/7", {**ROW, "note": None, "id": 7})
        self.assertEqual((status, body["note"], body["version"]), (200, None, 2))
        status, body, headers = self.call("GET", "/orders/7")
        self.assertEqual((status, body["version"], headers["ETag"]), (200, 2, '"2"'))
        self.assertEqual(self.call("DELETE", "/orders/7")[0], 200)
        self.expect(404, "not-found", "GET", "/orders/7")
        self.expect(404, "not-found", "DELETE", "/orders/7")
        self.assertEqual(self.put(7)["version"], 4)  # never used twice

    def test_preconditions(self):
        self.put(1)
        body = self.expect(412, "precondition-failed", "PUT", "/orders/1", ROW, If_None_Match="*")
        self.assertEqual(body["row"]["version"], 1)
        self.expect(412, "precondition-failed", "PUT", "/orders/1", ROW, If_Match='"9"')
        self.expect(412, "precondition-failed", "DELETE", "/orders/1", If_Match='"9"')
        body = self.expect(412, "precondition-failed", "PUT", "/orders/2", ROW, If_Match="*")
        self.assertIsNone(body["row"])
        self.put(1, If_Match='"1"')
        self.put(2, If_None_Match="*")
        self.assertEqual(self.call("DELETE", "/orders/1", If_Match='"2"')[0], 200)

    def test_idempotency(self):
        first = self.put(1, Idempotency_Key="k")
        self.put(1, {**ROW, "state": "ready"})
        status, body, headers = self.call("PUT", "/orders/1", ROW, Idempotency_Key="k")
        self.assertEqual((status, body, headers["Idempotent-Replay"]), (201, first, "true"))
        self.assertEqual(self.call("GET", "/orders/1")[1]["state"], "ready")
        self.expect(422, "idempotency-key-reused", "PUT", "/orders/2", ROW, Idempotency_Key="k")
        # A refusal is not remembered: nothing was done.
        self.expect(412, "precondition-failed", "PUT", "/orders/1", ROW, Idempotency_Key="r",
                    If_None_Match="*")
        self.put(1, Idempotency_Key="r")

    def test_bad_rows(self):
        for bad in ({}, {**ROW, "x": 1}, {**ROW, "state": "gone"}, {**ROW, "restaurant": None},
                    {**ROW, "restaurant": ""}, {**ROW, "restaurant": "x" * 201},
                    {**ROW, "driver": 7}, {**ROW, "note": []}, {**ROW, "id": 8}, [], [ROW],
                    {k: v for k, v in ROW.items() if k != "note"}, {**ROW, "note": "x" * 4001}):
            self.expect(422, "invalid-row", "PUT", "/orders/7", bad)
        for bad in ("", "{", '{"a":1,"a":2}', b'{"note":"\xff"}', "nul", '{"a":1} x'):
            self.expect(400, "bad-json", "PUT", "/orders/7", bad)
        self.assertEqual(self.call("GET", "/position")[1], {"head": 0})

    def test_bad_requests(self):
        self.expect(413, "too-large", "PUT", "/orders/7", b" " * 65537)
        self.expect(400, "bad-header", "PUT", "/orders/7", ROW, If_Match="7")
        self.expect(400, "bad-header", "PUT", "/orders/7", ROW, If_None_Match='"7"')
        self.expect(400, "bad-header", "PUT", "/orders/7", ROW, Oxbow_Epoch="x")
        self.expect(400, "bad-header", "PUT", "/orders/7", ROW, Idempotency_Key="k" * 256)
        self.expect(400, "bad-header", "PUT", "/orders/7", ROW, X_Origin="ö")
        self.expect(400, "bad-query", "GET", "/orders?limit=x")
        self.expect(400, "bad-query", "GET", "/orders?limit=1001")
        for path in ("/", "/orders/0", "/orders/x", "/orders/-1", "/orders/1/2",
                     "/orders/99999999999999999999"):
            self.expect(404, "not-found", "GET", path)
        self.expect(405, "method", "POST", "/orders/1", ROW)
        self.expect(405, "method", "PUT", "/changes", ROW)

    def test_chunked_body_over_the_limit(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=120)
        conn.request("PUT", "/orders/7", iter([b" " * 40000, b" " * 40000]), encode_chunked=True,
                     headers={"Transfer-Encoding": "chunked"})
        self.assertEqual(conn.getresponse().status, 413)
        conn.close()

    def test_scan_by_number(self):
        for order in (10, 9, 100, 2):
            self.put(order)
        body = self.call("GET", "/orders?limit=3")[1]
        self.assertEqual([row["id"] for row in body["orders"]], [2, 9, 10])
        self.assertEqual((body["next"], body["position"]), (10, 4))
        body = self.call("GET", "/orders?after=10&limit=3")[1]
        self.assertEqual(([row["id"] for row in body["orders"]], body["next"]), ([100], None))


class Feed(WithService):
    def test_order_origin_epoch(self):
        self.put(8, X_Origin="oxbow/m", Oxbow_Epoch="3")
        self.put(8)
        self.call("DELETE", "/orders/8")
        body = self.call("GET", "/changes?after=0")[1]
        self.assertEqual((body["next"], body["head"]), (3, 3))
        self.assertEqual([(c["cursor"], c["op"], c["id"], c["origin"], c["epoch"], c["version"])
                          for c in body["changes"]],
                         [(1, "put", 8, "oxbow/m", 3, 1), (2, "put", 8, None, None, 2),
                          (3, "delete", 8, None, None, 3)])
        self.assertEqual(body["changes"][0]["row"], {"id": 8, "version": 1, **ROW})
        self.assertIsNone(body["changes"][2]["row"])
        body = self.call("GET", "/changes?after=1&limit=1")[1]
        self.assertEqual((body["next"], body["head"], len(body["changes"])), (2, 3, 1))
        self.expect(409, "cursor-ahead", "GET", "/changes?after=4")

    def test_long_poll_wakes(self):
        got = []
        poll = threading.Thread(
            target=lambda: got.append(self.call("GET", "/changes?after=0&wait_ms=20000")))
        poll.start()
        self.put(1)
        poll.join(120)
        self.assertEqual(len(got[0][1]["changes"]), 1)
        self.assertEqual(self.call("GET", "/changes?after=1&wait_ms=1")[1]["changes"], [])

    def test_stop_ends_a_long_poll(self):
        poll = socket.create_connection(("127.0.0.1", self.service.port))
        poll.sendall(b"GET /changes?after=0&wait_ms=30000 HTTP/1.1\r\nHost: x\r\n\r\n")
        self.call("GET", "/health")
        self.assertEqual(self.service.stop(), 0)
        poll.close()

    def test_own_cursor_is_never_ahead(self):
        """A page may show a commit that is not announced yet; its cursor is good."""
        db = sqlite3.connect(self.path("f.db"))
        db.execute("INSERT INTO change(op, id) VALUES ('delete', 7)")
        db.commit()
        db.close()
        self.assertEqual(self.call("GET", "/position")[1]["head"], 0)
        cursor = self.call("GET", "/changes?after=0")[1]["next"]
        self.assertEqual(cursor, 1)
        self.assertEqual(self.call("GET", f"/changes?after={cursor}")[0], 200)

    def test_many_writers_leave_no_hole(self):
        def write(base):
            for n in range(50):
                self.put(base + n)

        threads = [threading.Thread(target=write, args=(1 + 1000 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        changes = self.call("GET", "/changes?after=0&limit=1000")[1]["changes"]
        self.assertEqual([c["cursor"] for c in changes], list(range(1, 401)))
        rows = self.call("GET", "/orders?limit=1000")[1]["orders"]
        self.assertEqual({c["id"]: c["version"] for c in changes},
                         {row["id"]: row["version"] for row in rows})


class ShortFeed(WithService):
    options = ("--keep-changes", "3")

    def test_dropped_changes_are_said(self):
        for order in range(1, 6):
            self.put(order)
        self.assertEqual(self.expect(410, "cursor-gone", "GET", "/changes?after=1")["oldest"], 3)
        self.assertEqual(len(self.call("GET", "/changes?after=2")[1]["changes"]), 3)


class Fence(WithService):
    def epoch(self, epoch, authority):
        return self.call("PUT", "/epoch", {"epoch": epoch, "authority": authority})

    def test_only_forwards(self):
        self.assertEqual(self.call("GET", "/epoch")[1], {"epoch": 0, "authority": "new"})
        self.put(1)
        self.assertEqual(self.epoch(3, "old")[:2], (200, {"epoch": 3, "authority": "old",
                                                          "head": 1}))
        self.assertEqual(self.epoch(3, "old")[0], 200)
        for epoch, authority in ((3, "new"), (2, "new"), (2, "old")):
            self.assertEqual(self.epoch(epoch, authority)[0], 409)
        self.assertEqual(self.call("GET", "/epoch")[1], {"epoch": 3, "authority": "old"})
        for bad in ({"epoch": -1, "authority": "old"}, {"epoch": 9, "authority": "x"},
                    {"epoch": 9}, {"epoch": "9", "authority": "old"}, [9, "old"]):
            self.expect(422, "invalid-epoch", "PUT", "/epoch", bad)

    def test_writes_are_fenced(self):
        done = self.put(5, Idempotency_Key="k", Oxbow_Epoch="1")
        self.epoch(2, "old")
        self.expect(409, "not-authority", "PUT", "/orders/1", ROW)
        self.expect(409, "not-authority", "PUT", "/orders/1", ROW, X_Origin="oxbows")
        body = self.expect(409, "stale-epoch", "PUT", "/orders/1", ROW, X_Origin="oxbow",
                           Oxbow_Epoch="1")
        self.assertEqual((body["epoch"], body["authority"]), (2, "old"))
        self.expect(409, "stale-epoch", "DELETE", "/orders/5", Oxbow_Epoch="0")
        for origin in ("oxbow", "oxbow/m", "oxbow:m"):
            self.put(1, X_Origin=origin, Oxbow_Epoch="2")
        self.put(1, Origin="oxbow")
        # What was done before the fence is still answered as done.
        self.assertEqual(self.put(5, Idempotency_Key="k", Oxbow_Epoch="1"), done)
        self.epoch(3, "new")
        self.put(2, Oxbow_Epoch="3")
        self.expect(409, "stale-epoch", "PUT", "/orders/2", ROW, Oxbow_Epoch="2")


class Durable(WithService):
    def test_kill(self):
        for order in range(1, 21):
            self.put(order, Idempotency_Key=f"k{order}")
        self.service.call("PUT", "/epoch", {"epoch": 4, "authority": "new"})
        self.service.kill()
        self.service = Service(self.path("f.db"))
        self.assertEqual(self.call("GET", "/epoch")[1]["epoch"], 4)
        self.assertEqual(self.call("GET", "/position")[1]["head"], 20)
        self.assertEqual(len(self.call("GET", "/orders")[1]["orders"]), 20)
        _, _, headers = self.call("PUT", "/orders/3", ROW, Idempotency_Key="k3")
        self.assertEqual(headers["Idempotent-Replay"], "true")

    def test_cannot_open(self):
        self.assertEqual(run("fulfilment", "--db", self.path("no/such/f.db"))[0], 3)
        self.assertEqual(run("fulfilment", "--db", self.path("g.db"), "--port",
                             str(self.service.port))[0], 3)
        self.assertEqual(run("fulfilment")[0], 2)
        self.assertEqual(run("fulfilment", "--db", "x", "--port", "70000")[0], 2)
        self.assertEqual(run("fulfilment", "--help")[0], 0)


class Faults(WithService):
    def fault(self, mode, **more):
        status, body, _ = self.call("POST", "/fault", {"mode": mode, **more})
        self.assertEqual(status, 200, body)

    def versions(self):
        return self.call("GET", "/position")[1]["head"]

    def test_refusals_do_nothing(self):
        for mode, status in (("500", 500), ("422", 422)):
            self.fault(mode, count=2)
            self.expect(status, "fault", "PUT", "/orders/1", ROW)
            self.expect(status, "fault", "GET", "/orders/1")
            self.expect(404, "not-found", "GET", "/orders/1")
        self.assertEqual(self.versions(), 0)

    def test_done_but_not_said(self):
        self.fault("500-after", count=1)
        self.expect(500, "fault", "PUT", "/orders/1", ROW)
        self.fault("garbage", count=1)
        status, body, _ = self.call("PUT", "/orders/2", ROW)
        self.assertEqual((status, type(body)), (201, bytes))
        self.fault("close-halfway", count=1)
        with self.assertRaises(http.client.IncompleteRead):
            self.call("PUT", "/orders/3", ROW)
        self.assertEqual(self.versions(), 3)

    def test_where(self):
        self.fault("500", on="changes")
        self.put(1)
        self.expect(500, "fault", "GET", "/changes")
        self.fault("500", on="writes")
        self.expect(500, "fault", "PUT", "/orders/1", ROW)
        self.assertEqual(self.call("GET", "/orders/1")[0], 200)
        self.fault("slow", delay_ms=1, on="all")
        self.put(1)
        self.fault("none")
        for bad in ({}, {"mode": "x"}, {"mode": "500", "count": -1}, {"mode": "500", "on": "x"}):
            self.expect(422, "invalid-fault", "POST", "/fault", bad)


class Storage(WithService):
    def test_locked_database_answers_500_and_recovers(self):
        self.put(1)
        other = sqlite3.connect(self.path("f.db"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        self.expect(500, "storage", "PUT", "/orders/2", ROW)
        other.execute("ROLLBACK")
        other.close()
        self.put(2)
        self.assertEqual(self.call("GET", "/changes?after=0")[1]["next"], 2)


if __name__ == "__main__":
    unittest.main()
