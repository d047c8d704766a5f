/*
 * The source `outbox-sqlite`: an outbox that is polled. SQLite lets one writer
 * in at a time and gives a new row a higher rowid than any that is there, so
 * the rows that are left stand in the order of their commits. Rows that the log
 * has are marked or deleted. Whoever holds the lock file beside the database
 * reads.
 */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "source/outbox/outbox.h"
#include "source/outbox/outbox_int.h"
#include "sql/sql.h"

#define BUSY_MS 800
#define NAP_US UINT64_C(2000)

static const char *const after_words[] = {"mark", "delete", NULL};

static const struct conf_field fields[] = {
    {.name = "path",
     .type = {.kind = CONF_PATH, .min = 1},
     .required = true,
     .doc = "the database file"},
    {.name = "table",
     .type = {.kind = CONF_STRING, .min = 1, .max = 130},
     .preset = "outbox",
     .doc = "the table"},
    {.name = "after",
     .type = {.kind = CONF_ENUM, .values = after_words},
     .preset = "delete",
     .doc = "what becomes of rows that the log has: mark or delete"},
    {.name = "sent",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63},
     .preset = "sent_at",
     .doc = "the column that `after: mark` sets"},
    SOURCE_OUTBOX_FIELDS,
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

struct lite_outbox {
    struct source        base;
    const char          *path, *table, *sent, *id;
    enum outboxi_after   after;
    struct sqlite3      *db;
    struct ox_file      *lock;
    int64_t              version; /* of the data, at the last look; -1: never */
    struct outboxi_state state;
    struct outboxi_batch batch;
};

static struct lite_outbox *
mine(struct source *s)
{
    return (struct lite_outbox *)s;
}

static void
let_go(struct lite_outbox *s)
{
    sql_close(s->db);
    s->db = NULL;
    s->base.env->ops->file_close(s->base.env, s->lock);
    s->lock = NULL;
    s->state.leads = false;
}

static void
close_source(struct source *base)
{
    struct lite_outbox *s = mine(base);

    let_go(s);
    buf_fini(&s->state.due);
    outboxi_batch_fini(&s->batch);
}

static int
open_source(struct source *base, const struct conf *conf, struct err *err)
{
    struct lite_outbox *s = mine(base);

    s->path = conf_str(conf, "path");
    s->table = conf_str(conf, "table");
    s->sent = conf_str(conf, "sent");
    s->id = conf_str(conf_child(conf, "columns"), "id");
    s->after = (enum outboxi_after)conf_enum(conf, "after");
    return 0;
}

static int
join_file(struct lite_outbox *s, struct err *err)
{
    struct sql_table *t = NULL;
    int               rc;

    TRY(sql_open(s->path, SQL_WRITE, BUSY_MS, &s->db, err));
    TRY(sql_table_load(s->db, s->table, &t, err));
    if (sql_table_find(t, slice_str(s->id)) < 0)
        FAIL(err, E_SCHEMA, ERR_RETRY, "%s: table %s has no column %s", s->path, s->table, s->id);
    if (s->after == OUTBOXI_MARK && sql_table_find(t, slice_str(s->sent)) < 0)
        FAIL(err, E_SCHEMA, ERR_RETRY, "%s: table %s has no column %s for `after: mark`", s->path,
             s->table, s->sent);
    s->version = -1;
out:
    sql_table_free(t);
    if (rc != 0) {
        sql_close(s->db);
        s->db = NULL;
        err_prefix(err, "source %s", s->base.instance);
        if (err->kind == ERR_FATAL)
            err->kind = ERR_RETRY; /* the application may still make it */
    }
    return rc;
}

static int
check(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    struct lite_outbox *s = mine(base);
    int                 rc = join_file(s, err);

    if (rc == 0)
        say(arg, FINDING_OK, "the outbox is there; its rows come in the order of their commits");
    let_go(s);
    return rc;
}

static int
prepare(struct source *base, bool dry_run, finding_fn *say, void *arg, struct err *err)
{
    say(arg, FINDING_OK, "the table is the application's: `oxbow outbox sql` has a schema for it");
    return check(base, say, arg, err);
}

static int
unprepare(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    say(arg, FINDING_OK, "nothing is kept in the database");
    return 0;
}

/* The lock goes with the process. */
static int
lead(struct lite_outbox *s, struct err *err)
{
    struct ox_env *env = s->base.env;
    struct buf     path = {0};
    int            rc;

    buf_printf(&path, "%s-oxbow-%s", s->path, s->table);
    buf_add_byte(&path, 0);
    if (path.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (s->lock == NULL)
        TRY(env->ops->file_open(env, (const char *)path.data, ENV_WRITE | ENV_CREATE, &s->lock,
                                err));
    rc = env->ops->file_lock(env, s->lock, err);
    s->state.leads = rc == 0;
    if (rc == E_BUSY) {
        env->ops->file_close(env, s->lock);
        s->lock = NULL;
        rc = 0;
    }
out:
    buf_fini(&path);
    return rc;
}

/* settling */

static int
settle_one(void *arg, struct slice id, bool hex, struct err *err)
{
    struct sqlite3_stmt *stmt = arg;
    struct buf           raw = {0};
    int                  rc;

    if (hex) {
        buf_printf(&raw, "{\"$blob\":\"%.*s\"}", SLICE_FMT(id));
        TRY(sql_bind_json(stmt, 1, buf_slice(&raw), err));
    } else {
        sql_bind_slice(stmt, 1, id);
    }
    TRY(sql_finish(stmt, err));
out:
    buf_fini(&raw);
    return rc;
}

/* A text that is a number compares as one where the column is one. */
static int
settle(struct lite_outbox *s, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    uint32_t             count;
    bool                 open = false;
    int                  rc = 0;

    if (s->state.due.len == 0)
        return 0;
    if (s->after == OUTBOXI_MARK)
        TRY(sql_prepare(s->db, &stmt, err,
                        "UPDATE \"%w\" SET \"%w\" = strftime('%%Y-%%m-%%dT%%H:%%M:%%fZ', 'now') "
                        "WHERE \"%w\" = ?1",
                        s->table, s->sent, s->id));
    else
        TRY(sql_prepare(s->db, &stmt, err, "DELETE FROM \"%w\" WHERE \"%w\" = ?1", s->table,
                        s->id));
    TRY(sql_begin_write(s->db, err));
    open = true;
    TRY(outboxi_each_taken(buf_slice(&s->state.due), settle_one, stmt, &count, err));
    open = false;
    TRY(sql_commit(s->db, err));
    buf_clear(&s->state.due);
out:
    (void)sqlite3_finalize(stmt);
    if (open)
        sql_rollback(s->db);
    return rc;
}

/* reading */

static void
put_row(struct lite_outbox *s, struct sqlite3_stmt *stmt)
{
    struct outboxi_batch *b = &s->batch;
    struct outboxi_row   *to = &b->rows[b->count];

    outboxi_row_begin(b);
    for (int c = 0; c < sqlite3_column_count(stmt); c++) {
        const char *column = sqlite3_column_name(stmt, c);
        size_t      at;

        outboxi_member(b, slice_str(column));
        at = b->bytes.len;
        sql_column_json(&b->bytes, stmt, c);
        if (sqlite3_stricmp(column, s->id) == 0)
            to->id = outboxi_value(b, at);
    }
    outboxi_row_end(b);
}

static int
read_rows(struct lite_outbox *s, uint32_t max, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    uint32_t             limit;
    bool                 row;
    int                  rc;

    TRY(outboxi_batch_begin(&s->batch, max, &limit, err));
    if (s->after == OUTBOXI_MARK)
        TRY(sql_prepare(s->db, &stmt, err,
                        "SELECT * FROM \"%w\" WHERE \"%w\" IS NULL ORDER BY rowid LIMIT %u",
                        s->table, s->sent, limit));
    else
        TRY(sql_prepare(s->db, &stmt, err, "SELECT * FROM \"%w\" ORDER BY rowid LIMIT %u", s->table,
                        limit));
    for (;;) {
        TRY(sql_step(stmt, &row, err));
        if (!row)
            break;
        put_row(s, stmt);
    }
    s->state.rows += s->batch.count;
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

static int
start(struct source *base, struct slice checkpoint, struct err *err)
{
    struct lite_outbox *s = mine(base);

    s->version = -1;
    return outboxi_owe(&s->state, checkpoint, err);
}

static void
nap(uint64_t us)
{
    struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

    (void)nanosleep(&t, NULL);
}

/* Until there are rows or the time is over; nothing is asked where nobody has committed. */
static int
gather(struct lite_outbox *s, uint32_t max, uint64_t until, struct err *err)
{
    struct ox_env *env = s->base.env;
    int64_t        version;
    int            rc;

    s->batch.count = 0;
    for (;;) {
        TRY(sql_number(s->db, 0, &version, err, "PRAGMA data_version"));
        if (version != s->version || s->version < 0)
            TRY(read_rows(s, max, err));
        s->version = s->batch.count > 0 ? -1 : version;
        if (s->batch.count > 0 || env->ops->mono_us(env) >= until)
            break;
        nap(NAP_US);
    }
out:
    return rc;
}

static int
poll_source(struct source *base, uint32_t max, uint32_t wait_ms, struct source_batch *batch,
            struct err *err)
{
    struct lite_outbox *s = mine(base);
    uint64_t            until = base->env->ops->mono_us(base->env) + wait_ms * UINT64_C(1000);
    int                 rc = 0;

    if (s->db == NULL)
        TRY(join_file(s, err));
    if (!s->state.leads)
        TRY(lead(s, err));
    if (!s->state.leads) {
        nap(wait_ms * UINT64_C(1000));
        goto out;
    }
    TRY(settle(s, err));
    TRY(gather(s, max, until, err));
    batch->caught_up = s->batch.count == 0;
    if (s->batch.count == 0)
        goto out;
    outboxi_checkpoint_taken(&s->batch);
    TRY(outboxi_batch_end(&s->batch, s->table, batch, err));
out:
    if (rc != 0)
        let_go(s);
    return rc;
}

static int
confirm(struct source *base, struct slice checkpoint, struct err *err)
{
    struct lite_outbox *s = mine(base);
    int                 rc = outboxi_owe(&s->state, checkpoint, err);

    if (rc != 0)
        return rc;
    /* Where it cannot be done now, the next poll does it before it reads. */
    if (s->db != NULL && s->state.leads)
        (void)settle(s, NULL);
    return 0;
}

static int
status(struct source *base, struct buf *out, struct err *err)
{
    struct lite_outbox *s = mine(base);

    return outboxi_status(&s->state, base->env, s->db != NULL, out, err);
}

const struct source_ops source_outbox_sqlite_ops = {
    .name = "outbox-sqlite",
    .size = sizeof(struct lite_outbox),
    .schema = &schema,
    .outbox = true,
    .open = open_source,
    .close = close_source,
    .check = check,
    .prepare = prepare,
    .unprepare = unprepare,
    .start = start,
    .poll = poll_source,
    .confirm = confirm,
    .status = status,
};
