/*
 * The shop's own database. It knows one thing that a plain application would
 * not: a constraint raised by a trigger on the orders means that the write
 * belongs elsewhere now.
 */
#include "shop.h"
#include <stdlib.h>
#include <string.h>

enum stmt {
    BK_BEGIN,
    BK_COMMIT,
    BK_ROLLBACK,
    BK_INSERT,
    BK_READ,
    BK_UPDATE,
    BK_CORRECT,
    BK_MAX,
    BK_NUMBER,
    BK_LOAD,
    BK_STMTS
};

struct books {
    sqlite3      *db;
    sqlite3_stmt *st[BK_STMTS];
};

static const char schema[] =
    "CREATE TABLE orders("
    "  id INTEGER PRIMARY KEY,"
    "  customer TEXT NOT NULL, items TEXT NOT NULL, amount_cents INTEGER NOT NULL,"
    "  currency TEXT NOT NULL, placed_at TEXT NOT NULL,"
    "  restaurant TEXT, driver TEXT,"
    "  delivery_state TEXT CHECK (delivery_state IN ('placed', 'preparing', 'ready',"
    "    'picked_up', 'delivered', 'cancelled')),"
    "  delivery_note TEXT,"
    "  updated_at TEXT NOT NULL, version INTEGER NOT NULL);"
    "CREATE INDEX orders_state ON orders(delivery_state);";

static const char *const sql[BK_STMTS] = {
    [BK_BEGIN] = "BEGIN IMMEDIATE",
    [BK_COMMIT] = "COMMIT",
    [BK_ROLLBACK] = "ROLLBACK",
    [BK_INSERT] = "INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 1)",
    [BK_READ] =
        "SELECT restaurant, driver, delivery_state, delivery_note FROM orders WHERE id = ?1",
    [BK_UPDATE] = "UPDATE orders SET restaurant = ?2, driver = ?3, delivery_state = ?4, "
                  "delivery_note = ?5, updated_at = ?6, version = version + 1 WHERE id = ?1",
    [BK_CORRECT] = "UPDATE orders SET items = ?2, amount_cents = ?3, updated_at = ?4, "
                   "version = version + 1 WHERE id = ?1",
    [BK_MAX] = "SELECT coalesce(max(id), 0) FROM orders",
    [BK_NUMBER] = "SELECT count(*) FROM orders",
    [BK_LOAD] = "SELECT restaurant, driver, delivery_state, delivery_note, id FROM orders "
                "WHERE id % ?1 = ?2 AND (delivery_state IS NULL "
                "OR delivery_state IN ('placed', 'preparing', 'ready', 'picked_up')) LIMIT 20000",
};

int
books_create(const char *path)
{
    sqlite3 *db = sq_open(path, true);
    int      rc = db != NULL ? sq_exec(db, schema) : -1;

    (void)sqlite3_close(db);
    return rc;
}

struct books *
books_open(const char *path)
{
    struct books *b = calloc(1, sizeof(*b));

    if (b == NULL)
        return NULL;
    b->db = sq_open(path, false);
    for (int i = 0; b->db != NULL && i < BK_STMTS; i++) {
        b->st[i] = sq_prepare(b->db, sql[i]);
        if (b->st[i] == NULL)
            goto fail;
    }
    if (b->db != NULL)
        return b;
fail:
    books_close(b);
    return NULL;
}

void
books_close(struct books *b)
{
    if (b == NULL)
        return;
    for (int i = 0; i < BK_STMTS; i++)
        (void)sqlite3_finalize(b->st[i]);
    (void)sqlite3_close(b->db);
    free(b);
}

static enum outcome
outcome_of(struct books *b, int rc)
{
    if (rc == SQLITE_DONE || rc == SQLITE_ROW)
        return DONE;
    if (rc == SQLITE_CONSTRAINT_TRIGGER)
        return MOVED;
    complain("%s: %s", sqlite3_db_filename(b->db, "main"), sqlite3_errmsg(b->db));
    return (rc & 0xff) == SQLITE_CONSTRAINT ? REJECTED : UNSURE;
}

static enum outcome
run(struct books *b, enum stmt which)
{
    enum outcome out = outcome_of(b, sqlite3_step(b->st[which]));

    (void)sqlite3_reset(b->st[which]);
    (void)sqlite3_clear_bindings(b->st[which]);
    return out;
}

int
books_begin(struct books *b)
{
    return run(b, BK_BEGIN) == DONE ? 0 : -1;
}

int
books_commit(struct books *b)
{
    return run(b, BK_COMMIT) == DONE ? 0 : -1;
}

enum outcome
books_insert(struct books *b, int64_t id, const struct sale *sale, const struct part *part)
{
    sqlite3_stmt *st = b->st[BK_INSERT];
    char         *now = stamp_text(clock_wall_us());
    enum outcome  out;

    (void)sqlite3_bind_int64(st, 1, id);
    sq_bind_text(st, 2, sale->customer);
    sq_bind_text(st, 3, sale->items);
    (void)sqlite3_bind_int64(st, 4, sale->amount_cents);
    sq_bind_text(st, 5, sale->currency);
    sq_bind_text(st, 6, sale->placed_at);
    sq_bind_text(st, 7, part != NULL ? part->restaurant : NULL);
    sq_bind_text(st, 8, part != NULL ? part->driver : NULL);
    sq_bind_text(st, 9, part != NULL ? part->state : NULL);
    sq_bind_text(st, 10, part != NULL ? part->note : NULL);
    sq_bind_text(st, 11, now);
    out = run(b, BK_INSERT);
    free(now);
    return out;
}

static void
load_part(sqlite3_stmt *st, struct part *part)
{
    part->restaurant = sq_text(st, 0);
    part->driver = sq_text(st, 1);
    part->state = sq_text(st, 2);
    part->note = sq_text(st, 3);
}

enum outcome
books_read(struct books *b, int64_t id, struct part *part)
{
    sqlite3_stmt *st = b->st[BK_READ];
    int           rc;

    (void)sqlite3_bind_int64(st, 1, id);
    rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        load_part(st, part);
    (void)sqlite3_reset(st);
    return outcome_of(b, rc);
}

static enum outcome
update_row(struct books *b, int64_t id, const struct part *want)
{
    sqlite3_stmt *st = b->st[BK_UPDATE];
    char         *now = stamp_text(clock_wall_us());
    enum outcome  out;

    (void)sqlite3_bind_int64(st, 1, id);
    sq_bind_text(st, 2, want->restaurant);
    sq_bind_text(st, 3, want->driver);
    sq_bind_text(st, 4, want->state);
    sq_bind_text(st, 5, want->note);
    sq_bind_text(st, 6, now);
    out = run(b, BK_UPDATE);
    free(now);
    return out == DONE && sqlite3_changes(b->db) != 1 ? REJECTED : out;
}

enum outcome
books_update(struct books *b, int64_t id, const struct part *now, const struct part *want,
             bool *surprise)
{
    struct part  there = {0};
    enum outcome out = run(b, BK_BEGIN);

    *surprise = false;
    if (out != DONE)
        return out;
    out = books_read(b, id, &there);
    if (out == DONE)
        out = update_row(b, id, want);
    if (out == DONE)
        out = run(b, BK_COMMIT);
    /* Only where the write counts: on a side that has lost the truth an old
     * row is no wonder. `want` is there when an attempt with no clear answer
     * did succeed. */
    if (out == DONE)
        *surprise = !part_equal(&there, now) && !part_equal(&there, want);
    else if (sqlite3_get_autocommit(b->db) == 0)
        (void)run(b, BK_ROLLBACK);
    part_fini(&there);
    return out;
}

enum outcome
books_correct(struct books *b, int64_t id, const struct sale *sale)
{
    sqlite3_stmt *st = b->st[BK_CORRECT];
    char         *now = stamp_text(clock_wall_us());
    enum outcome  out;

    (void)sqlite3_bind_int64(st, 1, id);
    sq_bind_text(st, 2, sale->items);
    (void)sqlite3_bind_int64(st, 3, sale->amount_cents);
    sq_bind_text(st, 4, now);
    out = run(b, BK_CORRECT);
    free(now);
    return out;
}

static int64_t
read_number(struct books *b, enum stmt which)
{
    int64_t value = -1;

    if (sqlite3_step(b->st[which]) == SQLITE_ROW)
        value = sqlite3_column_int64(b->st[which], 0);
    (void)sqlite3_reset(b->st[which]);
    return value;
}

int64_t
books_max_id(struct books *b)
{
    return read_number(b, BK_MAX);
}

int64_t
books_count(struct books *b)
{
    return read_number(b, BK_NUMBER);
}

int
books_load(struct books *b, unsigned workers, unsigned worker,
           int (*take)(void *cls, int64_t id, struct part *part), void *cls)
{
    sqlite3_stmt *st = b->st[BK_LOAD];
    int           rc = 0;
    int           step = SQLITE_DONE;

    (void)sqlite3_bind_int64(st, 1, workers);
    (void)sqlite3_bind_int64(st, 2, worker);
    while (rc == 0 && (step = sqlite3_step(st)) == SQLITE_ROW) {
        struct part part = {0};

        load_part(st, &part);
        rc = take(cls, sqlite3_column_int64(st, 4), &part);
    }
    (void)sqlite3_reset(st);
    return rc != 0 || step != SQLITE_DONE ? -1 : 0;
}
