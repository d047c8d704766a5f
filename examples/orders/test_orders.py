#!/usr/bin/env python3
"""Shop, service and auditor together, moved back and forth by a small mover
made here: it proves that the programs can be moved without loss, and that the
auditor would see a loss."""
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness import BIN, HERE, Folder, Service, compare, run, wait_for

sys.path.insert(0, os.path.join(HERE, "../../tests"))
from servers import free_port  # noqa: E402

PARTS = ("restaurant", "driver", "delivery_state", "delivery_note")

GUARD = """
CREATE TABLE guard(epoch INTEGER NOT NULL, authority TEXT NOT NULL, applying INTEGER NOT NULL);
INSERT INTO guard VALUES (1, 'old', 0);
CREATE TABLE noted(n INTEGER PRIMARY KEY AUTOINCREMENT, id INTEGER NOT NULL);
CREATE TRIGGER guard_update BEFORE UPDATE OF restaurant, driver, delivery_state, delivery_note
ON orders WHEN (SELECT authority <> 'old' AND NOT applying FROM guard)
BEGIN SELECT RAISE(ABORT, 'oxbow: fulfilment moved to the service'); END;
CREATE TRIGGER guard_insert BEFORE INSERT
ON orders WHEN coalesce(NEW.restaurant, NEW.driver, NEW.delivery_state, NEW.delivery_note)
  IS NOT NULL AND (SELECT authority <> 'old' AND NOT applying FROM guard)
BEGIN SELECT RAISE(ABORT, 'oxbow: fulfilment moved to the service'); END;
CREATE TRIGGER note_insert AFTER INSERT ON orders WHEN (SELECT NOT applying FROM guard)
BEGIN INSERT INTO noted(id) VALUES (NEW.id); END;
CREATE TRIGGER note_update AFTER UPDATE OF restaurant, driver, delivery_state, delivery_note
ON orders WHEN (SELECT NOT applying FROM guard)
BEGIN INSERT INTO noted(id) VALUES (NEW.id); END;
"""


class Route:
    """Answers where an order is, as the mover says."""

    def __init__(self):
        route = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                route.asked += 1
                body = json.dumps({} if route.asked in route.silent else route.answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.asked = 0
        self.silent = ()  # which of the questions, from 1, it has no answer to
        self.answer = {"side": "old", "epoch": 1}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/route"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Mover:
    """Carries changes between the sides; one thread, or by hand."""

    def __init__(self, shop_db, service, route):
        self.db = sqlite3.connect(shop_db, timeout=120, isolation_level=None,
                                  check_same_thread=False)
        self.service, self.route = service, route
        self.noted, self.cursor, self.epoch, self.side = 0, 0, 1, "old"
        self.lock = threading.Lock()
        self.done = threading.Event()
        self.broken = None
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.executescript("BEGIN IMMEDIATE;" + GUARD + "COMMIT;")
        self.service.call("PUT", "/epoch", {"epoch": 1, "authority": "old"})
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        try:
            while not self.done.wait(0.005):
                with self.lock:
                    self.forward()
        except Exception as why:  # shown by the test
            self.broken = why

    def finish(self):
        self.done.set()
        if self.thread.is_alive():
            self.thread.join(120)

    def stop(self):
        self.finish()
        self.db.close()

    def send(self, order, restaurant, driver, state, note):
        if state is None:
            return  # a sale without a fulfilment part
        status, body, _ = self.service.call(
            "PUT", f"/orders/{order}",
            {"restaurant": restaurant, "driver": driver, "state": state, "note": note},
            X_Origin="oxbow", Oxbow_Epoch=str(self.epoch))
        if status not in (200, 201):
            raise AssertionError((status, body))

    def backfill(self):
        for row in self.db.execute(f"SELECT id, {', '.join(PARTS)} FROM orders").fetchall():
            self.send(*row)

    def forward(self):
        """Whatever is new on the side that has the truth; how much it was."""
        return self.old_to_new() if self.side == "old" else self.new_to_old()

    def old_to_new(self):
        noted = self.db.execute("SELECT n, id FROM noted WHERE n > ? ORDER BY n LIMIT 500",
                                (self.noted,)).fetchall()
        for order in {order for _, order in noted}:
            self.send(*self.db.execute(f"SELECT id, {', '.join(PARTS)} FROM orders WHERE id = ?",
                                       (order,)).fetchone())
        self.noted = noted[-1][0] if noted else self.noted
        return len(noted)

    def new_to_old(self):
        _, body, _ = self.service.call("GET", f"/changes?after={self.cursor}&limit=500")
        mine = [c for c in body["changes"] if c["origin"] is None]
        if mine:
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute("UPDATE guard SET applying = 1")
            for change in mine:
                row = change["row"]
                found = self.db.execute(
                    "UPDATE orders SET restaurant = ?, driver = ?, delivery_state = ?,"
                    " delivery_note = ? WHERE id = ?",
                    (row["restaurant"], row["driver"], row["state"], row["note"], row["id"]))
                if found.rowcount != 1:
                    raise AssertionError(f"no sale for {row}")
            self.db.execute("UPDATE guard SET applying = 0")
            self.db.execute("COMMIT")
        self.cursor = body["next"]
        return len(body["changes"])

    def flip(self, authority):
        self.db.execute("UPDATE guard SET authority = ?, epoch = ?", (authority, self.epoch))
        self.noted_end = self.db.execute("SELECT coalesce(max(n), 0) FROM noted").fetchone()[0]

    def switch(self):
        with self.lock:
            self.epoch += 1
            self.route.answer = {"side": "hold", "epoch": self.epoch, "retry_after_ms": 5}
            self.flip("new")
            while self.old_to_new():
                pass
            head = self.service.call("PUT", "/epoch", {"epoch": self.epoch,
                                                       "authority": "new"})[1]["head"]
            self.cursor, self.side = head, "new"
            self.route.answer = {"side": "new", "epoch": self.epoch}

    def reverse(self):
        with self.lock:
            self.epoch += 1
            self.route.answer = {"side": "hold", "epoch": self.epoch, "retry_after_ms": 5}
            self.service.call("PUT", "/epoch", {"epoch": self.epoch, "authority": "old"})
            while self.new_to_old():
                pass
            self.flip("old")
            self.noted, self.side = self.noted_end, "old"
            self.route.answer = {"side": "old", "epoch": self.epoch}


class WithAll(Folder):
    orders = 300

    def setUp(self):
        super().setUp()
        self.shop_db, self.journal = self.path("shop.db"), self.path("journal")
        status, _, errors = self.make()
        self.assertEqual((status, errors), (0, ""))
        # A port that stays its own, also while it is down: another one comes back to it.
        self.service = Service(self.path("f.db"), "--port", str(free_port()))
        self.addCleanup(lambda: self.service.stop())
        self.route = Route()
        self.addCleanup(self.route.stop)
        self.mover = Mover(self.shop_db, self.service, self.route)
        self.addCleanup(self.mover.stop)
        self.shop = None

    def make(self):
        return run("shop", "init", self.shop_db, "--orders", str(self.orders), "--journal",
                   self.journal)

    def start(self, *options):
        self.shop = self.spawn(*options)
        wait_for(lambda: self.stats("acked") > 20)

    def spawn(self, *options):
        shop = subprocess.Popen(
            [os.path.join(BIN, "shop"), "run", self.shop_db, "--route", self.route.url,
             "--service", self.service.url, "--journal", self.journal, "--stats",
             self.path("stats"), "--stubborn-file", self.path("stubborn"), "--rate", "400",
             *options])
        self.addCleanup(self.end)
        return shop

    def end(self):
        if self.shop.poll() is None:
            self.shop.send_signal(signal.SIGTERM)
        return self.shop.wait(120)

    def stats(self, name):
        try:
            with open(self.path("stats"), encoding="utf-8") as f:
                return json.load(f)[name]
        except FileNotFoundError:
            return 0

    def more(self, name, by=40):
        """Until the shop has done that much more of it."""
        target = self.stats(name) + by
        wait_for(lambda: self.broken() or self.stats(name) >= target)
        self.assertIsNone(self.mover.broken)

    def broken(self):
        return self.mover.broken is not None or self.shop.poll() is not None

    def settle(self):
        self.mover.finish()
        self.assertIsNone(self.mover.broken)
        while self.mover.forward():
            pass

    def audit(self, *options):
        return compare("--shop", self.shop_db, "--service", self.path("f.db"), "--journal",
                       self.journal, *options)

    def expect_clean(self):
        status, report = self.audit()
        self.assertEqual(status, 0, report)
        self.assertEqual(report["equal"], report["orders_shop"])
        return report


class Moves(WithAll):
    def test_there_and_back_and_there(self):
        self.start()
        self.mover.backfill()
        self.mover.thread.start()
        self.more("acked_old")
        open(self.path("stubborn"), "w", encoding="utf-8").close()
        self.mover.switch()
        self.more("acked_new")
        self.more("refused_guard", 5)
        os.unlink(self.path("stubborn"))
        self.mover.reverse()
        self.more("acked_old")
        self.shop.send_signal(signal.SIGUSR1)
        self.mover.switch()
        self.more("acked_new")
        self.more("corrected", 3)
        self.assertEqual(self.end(), 0)
        self.settle()
        report = self.expect_clean()
        self.assertGreater(report["orders_shop"], self.orders)
        self.assertGreater(report["stubborn_refused"], 0)
        self.assertGreater(report["acked_new"], 80)
        # An answer is kept for a while: far fewer lookups than writes.
        self.assertLess(self.route.asked, report["journal_lines"])

    def test_faults_of_the_service_lose_nothing(self):
        self.mover.backfill()
        self.mover.switch()
        self.start()
        for mode in ("500", "500-after", "garbage", "close-halfway"):
            self.service.call("POST", "/fault", {"mode": mode, "count": 10, "on": "writes"})
            self.more("retries", 5)
            self.more("acked_new")
        self.service.call("POST", "/fault", {"mode": "none"})
        self.assertEqual(self.end(), 0)
        self.settle()
        self.expect_clean()

    def test_killed_service_and_lost_route(self):
        self.mover.backfill()
        self.mover.switch()
        self.start()
        port = self.service.port
        self.service.kill()
        self.more("retries", 5)
        self.service = Service(self.path("f.db"), "--port", str(port))
        self.mover.service = self.service
        self.more("acked_new")
        self.route.stop()
        self.more("acked_new")  # the last answer holds
        self.assertEqual(self.end(), 0)
        self.settle()
        self.expect_clean()

    def test_killed_shop_finishes_what_it_began(self):
        self.mover.backfill()
        self.mover.switch()
        self.start()
        self.more("acked_new")
        # Refused for good, a placement leaves a sale without a fulfilment part.
        self.service.call("POST", "/fault", {"mode": "422", "on": "writes"})
        self.more("rejected", 10)
        self.shop.kill()
        self.shop.wait(120)
        self.service.call("POST", "/fault", {"mode": "none"})
        self.settle()
        status, report = self.audit("--limit", "0")
        self.assertEqual((status, report["divergent"]), (1, 0))
        unfinished = report["unfinished"]
        self.assertGreater(unfinished, 0)
        self.start("--seconds", "2")
        self.assertEqual(self.shop.wait(120), 0)
        while self.mover.forward():
            pass
        status, report = self.audit()
        self.assertEqual(report["unfinished"], 0, report)
        self.assertEqual(report["divergent"] + report["missing_shop"] + report["missing_service"]
                         + report["surprises"], 0, report)

    def test_a_shop_that_starts_without_a_route(self):
        """It reads its own database, which lags: nothing of that may reach the service."""
        self.mover.backfill()
        self.mover.switch()
        self.start("--seconds", "1")
        self.assertEqual(self.shop.wait(120), 0)  # its changes are not carried back yet
        os.unlink(self.path("stats"))
        answer, self.route.answer = self.route.answer, {}
        self.shop = self.spawn()
        self.more("refused_guard", 5)
        self.route.answer = answer
        self.more("acked_new")
        self.assertEqual(self.stats("surprises"), 0)
        self.assertEqual(self.end(), 0)
        self.settle()
        self.expect_clean()

    def test_a_route_that_comes_between_reading_and_writing(self):
        """What was read on a guess is not written on an answer.

        The first question is the reading's but where the shop begins with a
        placement, one time in five."""
        self.mover.backfill()
        self.mover.switch()
        self.everywhere_in_the_shop("as of long ago")
        self.route.silent = (1,)
        self.start("--workers", "1", "--route-cache-ms", "0")
        self.more("acked_new")
        self.assertEqual(self.end(), 0)
        self.assertEqual(self.stats("surprises"), 0)

    def everywhere_in_the_shop(self, note):
        self.mover.db.executescript(
            "BEGIN IMMEDIATE; UPDATE guard SET applying = 1;"
            f"UPDATE orders SET delivery_note = '{note}';"
            "UPDATE guard SET applying = 0; COMMIT;")

    def test_a_lost_state_is_a_surprise(self):
        self.start("--workers", "1")
        self.more("acked_old")
        self.everywhere_in_the_shop("not what was acknowledged")
        self.more("surprises", 1)
        self.end()
        status, report = self.audit()
        self.assertEqual(status, 1)
        self.assertGreater(report["surprises"], 0)


class Audits(WithAll):
    """Each kind of difference is named, alone."""

    def setUp(self):
        super().setUp()
        self.mover.backfill()
        self.service.stop()
        self.expect_clean()

    def plant(self, sql, name="f.db"):
        shutil.copy(self.path(name), self.path("kept"))
        db = sqlite3.connect(self.path(name), isolation_level=None)
        changed = db.execute(sql).rowcount
        db.close()
        self.assertGreater(changed, 0)
        status, report = self.audit()
        self.assertEqual(status, 1, report)
        os.replace(self.path("kept"), self.path(name))
        found = {kind: report[kind] for kind in
                 ("divergent", "missing_service", "missing_shop", "lost", "invented", "unfinished",
                  "surprises", "unsure") if report[kind]}
        return changed, found

    def expect_plant(self, sql, *kinds, name="f.db"):
        changed, found = self.plant(sql, name)
        self.assertEqual(found, dict.fromkeys(kinds, changed))

    def test_each_kind(self):
        self.expect_plant("DELETE FROM fulfilment WHERE id = 7", "missing_service", "lost")
        self.expect_plant("INSERT INTO fulfilment VALUES (9000, 'x', NULL, 'placed', NULL, 1)",
                          "missing_shop", "invented")
        self.expect_plant("UPDATE fulfilment SET note = '' WHERE note IS NULL", "divergent", "lost")
        self.expect_plant("UPDATE fulfilment SET note = NULL WHERE note = ''", "divergent", "lost")
        self.expect_plant("UPDATE fulfilment SET driver = NULL WHERE driver IS NOT NULL",
                          "divergent", "lost")
        self.expect_plant("UPDATE fulfilment SET state = 'ready' WHERE id = 5 "
                          "AND state <> 'ready' OR id = 6", "divergent", "lost")
        self.expect_plant("UPDATE fulfilment SET restaurant = other.restaurant FROM (SELECT id, "
                          "restaurant FROM fulfilment) other WHERE fulfilment.id IN (3, 4) AND "
                          "other.id = 7 - fulfilment.id AND "
                          "other.restaurant <> fulfilment.restaurant", "divergent", "lost")
        self.expect_plant("UPDATE fulfilment SET restaurant = restaurant || ' ' WHERE id < 4",
                          "divergent", "lost")

    def test_both_sides_equal_but_not_as_acknowledged(self):
        line = json.dumps({"id": 4, "seq": 9, "op": "note", "acked": True, "side": "old",
                           "epoch": 1, "restaurant": "x", "driver": None, "state": "ready",
                           "note": None, "start_us": 1, "end_us": 2, "held_us": 0, "refusals": 0,
                           "retries": 0, "stubborn": False, "surprise": False})
        with open(self.journal, "a", encoding="utf-8") as f:
            f.write(line + "\n")
        status, report = self.audit()
        self.assertEqual((status, report["divergent"], report["lost"]), (1, 0, 1))
        self.assertEqual(report["examples"][0]["id"], 4)

    def test_unreadable(self):
        self.assertEqual(compare("--shop", self.path("no"), "--service", self.path("f.db"))[0], 3)
        with open(self.journal, "a", encoding="utf-8") as f:
            f.write("{\n")
        self.assertEqual(self.audit()[0], 3)


class Northwind(WithAll):
    """Without the data set: the same columns, and the quoting that CSV allows."""

    files = {
        "orders.csv": "\ufeffOrderID,CustomerID,OrderDate,ShippedDate,ShipVia,ShipName,ShipAddress,"
                      "ShipCity,ShipPostalCode,ShipCountry\r\n"
                      '10,A,1996-07-04,1996-07-16,3,"Vins, ""et"" alcools","59 rue\nde l\'Abbaye",'
                      "Reims,51100,France\r\n"
                      "11,ZZZ,1996-07-05,,1,Toms,Luisenstr. 48,Münster,44087,Germany",
        "order_details.csv": "OrderID,ProductID,UnitPrice,Quantity,Discount\n10,1,9.8,10,0.0\n"
                             "11,2,14,2,0.25\n10,3,0.1,3,0\n",
        "customers.csv": 'CustomerID,CompanyName\nA,"Alfreds\nFutterkiste"\n',
        "shippers.csv": "ShipperID,CompanyName\n3,Federal Shipping\n",
    }

    def make(self):
        for name, text in self.files.items():
            with open(self.path(name), "w", encoding="utf-8", newline="") as f:
                f.write(text)
        return run("shop", "init", self.shop_db, "--northwind", self.dir, "--journal", self.journal)

    def test_rows(self):
        rows = self.mover.db.execute(
            f"SELECT id, customer, amount_cents, {', '.join(PARTS)} FROM orders").fetchall()
        self.assertEqual(rows, [
            (10, "Alfreds\nFutterkiste", 9830, 'Vins, "et" alcools', "Federal Shipping",
             "delivered", "59 rue\nde l'Abbaye, 51100 Reims, France"),
            (11, "ZZZ", 2100, "Toms", None, "placed", "Luisenstr. 48, 44087 Münster, Germany")])
        self.mover.backfill()
        self.expect_clean()

    def test_missing_column(self):
        with open(self.path("shippers.csv"), "w", encoding="utf-8") as f:
            f.write("ID,Name\n1,x\n")
        status, _, errors = run("shop", "init", self.path("other.db"), "--northwind", self.dir)
        self.assertEqual(status, 3)
        self.assertIn("shippers.csv: there is no column ShipperID", errors)


class CommandLine(Folder):
    def test_wrong(self):
        for args in ((), ("init",), ("nonsense", "x"), ("init", "x", "--orders", "-1"),
                     ("init", "x", "--orders"), ("run", "x"),
                     ("run", "x", "--route", "y", "--service", "z", "--rate", "0")):
            self.assertEqual(run("shop", *args)[0], 2, args)
        self.assertEqual(run("shop", "--help")[0], 0)
        self.assertEqual(run("shop", "run", self.path("no"), "--route", "x", "--service", "y")[0], 3)

    def test_same_seed_same_orders(self):
        dumps = []
        for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
            self.assertEqual(run("shop", "init", self.path(name), "--orders", "50", "--seed",
                                 seed)[0], 0)
            db = sqlite3.connect(self.path(name))
            dumps.append(db.execute("SELECT id, customer, items, " + ", ".join(PARTS) +
                                    " FROM orders").fetchall())
            db.close()
        self.assertEqual(dumps[0], dumps[1])
        self.assertNotEqual(dumps[0], dumps[2])
        self.assertEqual(run("shop", "init", self.path("a"))[0], 3)


if __name__ == "__main__":
    unittest.main()
