#!/usr/bin/env python3
"""The auditor: reads both databases and the shop's journal, and says whether
every order is on both sides, equal, and as last acknowledged.

It believes the journal, not either database, and shares nothing with the
programs that moved the data. Run it when the traffic has stopped.
"""
import argparse
import json
import sqlite3
import sys

FIELDS = ("restaurant", "driver", "state", "note")
SWITCH_GAP_US = 500_000


class Unreadable(Exception):
    pass


def read_rows(path, sql):
    """{id: (restaurant, driver, state, note)}, as of one moment."""
    try:
        open(path, "rb").close()  # connect() would make a missing file
        db = sqlite3.connect(path, timeout=10)
        # Text that is no UTF-8 must differ, not stop the audit.
        db.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        db.execute("PRAGMA query_only=1")
        rows = {row[0]: tuple(row[1:]) for row in db.execute(sql)}
        db.close()
        return rows
    except (OSError, sqlite3.Error) as why:
        raise Unreadable(f"{path}: {why}") from why


class Journal:
    """What the shop was told is done."""

    def __init__(self):
        self.last = {}  # id: (seq, state) of the last acknowledged write
        self.given_up = {}  # id: [(seq, state)]
        self.complete = False  # `init` is in it, so it knows every order
        self.lines = 0
        self.acked = {"old": 0, "new": 0}
        self.surprises = []
        self.stubborn_refused = 0
        self.held = []  # (from, to, microseconds, side)

    def add(self, line):
        self.lines += 1
        order, seq = line["id"], line["seq"]
        state = tuple(line[name] for name in FIELDS)
        if line["surprise"]:
            self.surprises.append(order)
        if not line["acked"]:
            self.given_up.setdefault(order, []).append((seq, state))
            return
        if line["op"] == "init":
            self.complete = True
        else:
            self.acked[line["side"]] += 1
        if order not in self.last or self.last[order][0] <= seq:
            self.last[order] = (seq, state)
        if line["stubborn"]:
            self.stubborn_refused += line["refusals"] > 0
        elif line["held_us"] > 0:
            end = line["end_us"]
            self.held.append((end - line["held_us"], end, line["held_us"], line["side"]))

    def switches(self):
        """Held writes that overlap, or nearly, belong to one switch."""
        found = []
        for begin, end, held, side in sorted(self.held):
            if not found or begin > found[-1]["until"] + SWITCH_GAP_US:
                found.append({"at": begin, "until": end, "held": [], "to": side, "last": end})
            group = found[-1]
            group["until"] = max(group["until"], end)
            group["held"].append(held)
            if end >= group["last"]:
                group["last"], group["to"] = end, side
        return [
            {
                "to": group["to"],
                "at_us": group["at"],
                "held": len(group["held"]),
                "held_p50_ms": round(sorted(group["held"])[len(group["held"]) // 2] / 1000, 3),
                "held_max_ms": round(max(group["held"]) / 1000, 3),
            }
            for group in found
        ]


def read_journal(path):
    journal = Journal()
    number = 0
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                journal.add(json.loads(line))
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise Unreadable(f"{path}: line {number}: {why!r}") from why
    return journal


class Verdict:
    def __init__(self, limit):
        self.limit = limit
        self.counts = dict.fromkeys(
            ("equal", "divergent", "missing_service", "missing_shop", "lost", "invented",
             "unfinished", "surprises", "unsure"), 0)
        self.examples = []

    def note(self, kind, order, why):
        self.counts[kind] += 1
        if self.counts[kind] <= self.limit:
            self.examples.append({"kind": kind, "id": order, "why": why})

    def differs(self):
        return any(n for kind, n in self.counts.items() if kind not in ("equal", "unsure"))


def show(state):
    return None if state is None else dict(zip(FIELDS, state))


def compare_sides(shop, service, verdict):
    for order in sorted(shop.keys() | service.keys()):
        ours, theirs = shop.get(order), service.get(order)
        has_part = ours is not None and ours != (None,) * len(FIELDS)
        if has_part and theirs is not None:
            if ours == theirs:
                verdict.counts["equal"] += 1
            else:
                verdict.note("divergent", order,
                             [f"{name}: {a!r} in the shop, {b!r} in the service"
                              for name, a, b in zip(FIELDS, ours, theirs) if a != b])
        elif has_part:
            verdict.note("missing_service", order, "not in the service")
        elif theirs is not None:
            verdict.note("missing_shop", order, "not in the shop" if ours is None
                         else "the shop has the sale without its fulfilment part")
        else:
            verdict.note("unfinished", order, "a sale without a fulfilment part on either side")


def compare_journal(shop, service, journal, verdict):
    for order, (seq, state) in sorted(journal.last.items()):
        later = [s for n, s in journal.given_up.get(order, ()) if n > seq]
        for name, side in (("shop", shop), ("service", service)):
            there = side.get(order)
            if there == state:
                continue
            if there in later:
                verdict.counts["unsure"] += 1
                break
            verdict.note("lost", order, {"side": name, "acknowledged": show(state),
                                         "there": show(there)})
            break
    if journal.complete:
        for order in sorted(shop.keys() | service.keys()):
            if order not in journal.last and order not in journal.given_up:
                verdict.note("invented", order, "the shop never placed it")
    for order in journal.surprises:
        verdict.note("surprises", order, "a write did not find the last acknowledged state")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shop", required=True, metavar="DB")
    parser.add_argument("--service", required=True, metavar="DB")
    parser.add_argument("--journal", metavar="FILE")
    parser.add_argument("--limit", type=int, default=10, metavar="N")
    options = parser.parse_args()
    try:
        shop = read_rows(options.shop, "SELECT id, restaurant, driver, delivery_state, "
                                       "delivery_note FROM orders")
        service = read_rows(options.service, "SELECT id, restaurant, driver, state, note "
                                             "FROM fulfilment")
        journal = read_journal(options.journal) if options.journal else Journal()
    except Unreadable as why:
        print(f"compare.py: {why}", file=sys.stderr)
        return 3
    verdict = Verdict(options.limit)
    compare_sides(shop, service, verdict)
    compare_journal(shop, service, journal, verdict)
    print(json.dumps({
        "orders_shop": sum(row != (None,) * len(FIELDS) for row in shop.values()),
        "orders_service": len(service),
        **verdict.counts,
        "journal_lines": journal.lines,
        "acked_old": journal.acked["old"],
        "acked_new": journal.acked["new"],
        "stubborn_refused": journal.stubborn_refused,
        "switches": journal.switches(),
        "examples": verdict.examples,
    }, ensure_ascii=True))
    return 1 if verdict.differs() else 0


if __name__ == "__main__":
    sys.exit(main())
