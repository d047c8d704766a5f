/*
 * The proof `verify-sqlite`: a row with the message's id, inserted by its
 * transaction before the message is published. There is one writer at a time:
 * whoever has the lock to write sees what has become of all others.
 */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/proof/proof_drivers.h"
#include "source/proof/proof_int.h"
#include "sql/sql.h"

#define BUSY_MS 500

static const struct conf_field fields[] = {
    {.name = "path",
     .type = {.kind = CONF_PATH, .min = 1},
     .required = true,
     .doc = "the database file"},
    {.name = "proof",
     .type = {.kind = CONF_STRING, .min = 1, .max = 130},
     .preset = "oxbow_proof",
     .doc = "the table with a row for each message"},
    {.name = "keep",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "whether proofs stay once their verdict is durable"},
    PROOF_FIELDS,
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

struct lite_proof {
    struct proof    base;
    const char     *path, *table;
    bool            keep;
    struct sqlite3 *db;
};

static struct lite_proof *
mine(struct proof *p)
{
    return (struct lite_proof *)p;
}

static void
close_proof(struct proof *base)
{
    sql_close(mine(base)->db);
    mine(base)->db = NULL;
}

static int
open_proof(struct proof *base, const struct conf *conf, struct err *err)
{
    struct lite_proof *s = mine(base);

    s->path = conf_str(conf, "path");
    s->table = conf_str(conf, "proof");
    s->keep = conf_bool(conf, "keep");
    return 0;
}

static int
look_for_all(struct lite_proof *s, struct proof_item *items, uint32_t count, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    bool                 row;
    int                  rc;

    TRY(sql_prepare(s->db, &stmt, err, "SELECT 1 FROM \"%w\" WHERE id = ?1", s->table));
    for (uint32_t i = 0; i < count; i++) {
        sql_bind_slice(stmt, 1, items[i].id);
        TRY(sql_step(stmt, &row, err));
        items[i].by = "proof";
        items[i].verdict = row ? PROOF_COMMITTED : PROOF_ABORTED;
        (void)sqlite3_reset(stmt);
    }
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

static int
ask(struct proof *base, struct proof_item *items, uint32_t count, struct err *err)
{
    struct lite_proof *s = mine(base);
    int                rc = 0;

    if (s->db == NULL)
        TRY(sql_open(s->path, SQL_WRITE, BUSY_MS, &s->db, err));
    rc = sql_begin_write(s->db, err);
    if (rc == E_BUSY) {
        /* Somebody writes: it may be any of them. */
        for (uint32_t i = 0; i < count; i++) {
            items[i].by = "lock";
            items[i].verdict = PROOF_RUNNING;
        }
        return 0;
    }
    TRY(rc);
    rc = look_for_all(s, items, count, err);
    sql_rollback(s->db);
out:
    if (rc != 0) {
        close_proof(base);
        err_prefix(err, "source %s", base->instance);
        if (err->kind == ERR_FATAL)
            err->kind = ERR_RETRY; /* the application may still make it */
    }
    return rc;
}

static int
forget(struct proof *base, const struct slice *ids, uint32_t count, struct err *err)
{
    struct lite_proof   *s = mine(base);
    struct sqlite3_stmt *stmt = NULL;
    bool                 open = false;
    int                  rc = 0;

    if (s->keep || s->db == NULL)
        return 0;
    TRY(sql_prepare(s->db, &stmt, err, "DELETE FROM \"%w\" WHERE id = ?1", s->table));
    TRY(sql_begin_write(s->db, err));
    open = true;
    for (uint32_t i = 0; i < count; i++) {
        sql_bind_slice(stmt, 1, ids[i]);
        TRY(sql_finish(stmt, err));
    }
    open = false;
    TRY(sql_commit(s->db, err));
out:
    (void)sqlite3_finalize(stmt);
    if (open)
        sql_rollback(s->db);
    return rc;
}

static int
check(struct proof *base, finding_fn *say, void *arg, struct err *err)
{
    struct proof_item none = {.id = slice_str("")};
    int               rc = ask(base, &none, 1, err);

    if (rc == 0)
        say(arg, FINDING_OK, "the proofs can be read");
    close_proof(base);
    return rc;
}

const struct proof_ops proof_sqlite_ops = {
    .name = "verify-sqlite",
    .size = sizeof(struct lite_proof),
    .schema = &schema,
    .open = open_proof,
    .close = close_proof,
    .check = check,
    .ask = ask,
    .forget = forget,
};
