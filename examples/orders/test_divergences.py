"""Plants differences behind everybody's back while the shop works, and holds Oxbow to naming them.

A thousand rows of the service are damaged in its database, past its interface and its feed: gone,
invented, fields swapped between two rows, an older state, NULL against empty. Verification has to
name every one of them with its kind and no other key; repair has to mend them; and a hundred
verifications of clean sides under the same load have to name none."""
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import shutil
import sqlite3
import sys
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
EACH = 200
CLEAN = int(os.environ.get("CLEAN", "100"))

os.environ.setdefault("ORDERS", "4000")
loader = importlib.machinery.SourceFileLoader("main_job", str(HERE / "run"))
main_job = importlib.util.module_from_spec(importlib.util.spec_from_loader("main_job", loader))
loader.exec_module(main_job)


def wait_for(what, seconds=120.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"never became true: {what}")


class Divergences(unittest.TestCase):
    def setUp(self):
        folder = main_job.BUILD / "run" / "divergences"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.job = main_job.Job(folder)
        self.addCleanup(self.job.kill_all)
        main_job.start_all(self.job)
        self.job.oxbow("migrate", "start", "orders")
        main_job.wait_phase(self.job, "READY", 120)

    def report(self):
        return json.loads(self.job.oxbow("migrate", "report", "orders", "--json", check=False).stdout)

    def verify(self):
        """A whole pass from now on, and what it named."""
        self.job.oxbow("migrate", "verify", "orders")
        wait_for(lambda: self.report()["complete"])
        return {entry["key"]: entry["kind"] for entry in self.report()["keys"]}

    def quiet_orders(self):
        """Orders that the shop has finished with, as the service has them."""
        db = sqlite3.connect(self.job.path("fulfilment.db"), timeout=120)
        self.addCleanup(db.close)
        rows = db.execute("SELECT id, restaurant, driver, state, note FROM fulfilment WHERE state IN "
                          "('delivered', 'cancelled') AND id <= 4000 ORDER BY id").fetchall()
        return db, rows

    def plant(self):
        db, rows = self.quiet_orders()
        self.assertGreater(len(rows), 6 * EACH)
        planted = {}
        nothing = [row for row in rows if row[4] is None][:EACH // 2]
        empty = [row for row in rows if row[4] == ""][:EACH // 2]
        used = {row[0] for row in nothing + empty}
        rest = [row for row in rows if row[0] not in used]
        with db:
            for row in nothing:
                db.execute("UPDATE fulfilment SET note = '' WHERE id = ?", (row[0],))
            for row in empty:
                db.execute("UPDATE fulfilment SET note = NULL WHERE id = ?", (row[0],))
            planted.update({str(key): "null_empty" for key in used})
            for row in rest[:EACH]:
                db.execute("DELETE FROM fulfilment WHERE id = ?", (row[0],))
                planted[str(row[0])] = "missing"
            for row in rest[EACH:2 * EACH]:
                db.execute("UPDATE fulfilment SET state = 'placed' WHERE id = ?", (row[0],))
                planted[str(row[0])] = "different"
            swap = rest[2 * EACH:]
            pairs = [(a, b) for a, b in zip(swap[::2], swap[1::2]) if a[1] != b[1]][:EACH // 2]
            for a, b in pairs:
                db.execute("UPDATE fulfilment SET restaurant = ? WHERE id = ?", (b[1], a[0]))
                db.execute("UPDATE fulfilment SET restaurant = ? WHERE id = ?", (a[1], b[0]))
                planted[str(a[0])] = planted[str(b[0])] = "different"
            for n in range(EACH):
                db.execute("INSERT INTO fulfilment(id, restaurant, driver, state, note, version) "
                           "VALUES (?, 'Nowhere', NULL, 'placed', NULL, 1)", (10_000_000 + n,))
                planted[str(10_000_000 + n)] = "extra"
        return planted

    def test_all_are_named_and_mended(self):
        planted = self.plant()
        self.assertGreaterEqual(len(planted), 900)
        named = self.verify()
        # What the shop wrote meanwhile is right again by itself.
        with open(self.job.path("shop.journal")) as journal:
            writes = [json.loads(line) for line in journal]
        touched = {str(write["id"]) for write in writes if write["op"] != "init"}
        missed = {key: kind for key, kind in planted.items()
                  if named.get(key) != kind and key not in touched}
        self.assertEqual(missed, {})
        self.assertEqual(set(named) - set(planted), set())
        self.job.oxbow("migrate", "repair", "orders")
        main_job.wait_phase(self.job, "READY", 120)
        for _ in range(CLEAN):
            self.assertEqual(self.verify(), {})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
