/*
 * The source `outbox-mariadb`: an outbox that is polled. There is nothing to
 * order rows by that is not given out before their transactions commit, so
 * rows are taken that are not marked or deleted yet, in no order; the binary log
 * has one. Whoever holds the named lock of the table reads; the lock belongs to
 * the connection that reads and settles, and goes with it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "my/my.h"
#include "source/outbox/outbox.h"
#include "source/outbox/outbox_int.h"

static const char *const after_words[] = {"mark", "delete", NULL};

static const struct conf_field fields[] = {
    MY_FIELDS,
    {.name = "table",
     .type = {.kind = CONF_STRING, .min = 1, .max = 130},
     .preset = "outbox",
     .doc = "TABLE or DATABASE.TABLE"},
    {.name = "after",
     .type = {.kind = CONF_ENUM, .values = after_words},
     .preset = "delete",
     .doc = "what becomes of rows that the log has: mark or delete"},
    {.name = "sent",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63},
     .preset = "sent_at",
     .doc = "the timestamp column that `after: mark` sets"},
    {.name = "poll",
     .type = {.kind = CONF_DURATION, .min = 1000, .max = 200000},
     .preset = "20ms",
     .doc = "between looks for rows"},
    SOURCE_OUTBOX_FIELDS,
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

struct my_outbox {
    struct source        base;
    const struct conf   *conf;
    const char          *table, *sent, *id;
    enum outboxi_after   after;
    uint64_t             poll_us;
    struct st_mysql     *conn;
    struct outboxi_state state;
    struct outboxi_batch batch;
};

static struct my_outbox *
mine(struct source *s)
{
    return (struct my_outbox *)s;
}

static const char *
who(const struct my_outbox *s)
{
    return s->base.instance;
}

static void
close_source(struct source *base)
{
    struct my_outbox *s = mine(base);

    my_close(&s->conn);
    buf_fini(&s->state.due);
    outboxi_batch_fini(&s->batch);
}

static int
open_source(struct source *base, const struct conf *conf, struct err *err)
{
    struct my_outbox *s = mine(base);

    s->conf = conf;
    s->table = conf_str(conf, "table");
    s->sent = conf_str(conf, "sent");
    s->id = conf_str(conf_child(conf, "columns"), "id");
    s->after = (enum outboxi_after)conf_enum(conf, "after");
    s->poll_us = conf_duration_us(conf, "poll");
    return 0;
}

/* E_REMOTE with the server's words where the table or a column is not there. */
static int
look(struct my_outbox *s, struct err *err)
{
    struct buf sql = {0};
    int        rc;

    buf_add_str(&sql, "SELECT ");
    my_add_name(&sql, s->id);
    if (s->after == OUTBOXI_MARK) {
        buf_add_byte(&sql, ',');
        my_add_name(&sql, s->sent);
    }
    buf_add_str(&sql, " FROM ");
    my_add_name(&sql, s->table);
    buf_add_str(&sql, " LIMIT 0");
    rc = my_run_buf(s->conn, who(s), &sql, NULL, err);
    buf_fini(&sql);
    return rc;
}

static int
check(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    struct my_outbox *s = mine(base);
    int               rc;

    TRY(my_connect(s->conf, who(s), &s->conn, err));
    TRY(look(s, err));
    say(arg, FINDING_OK,
        "the outbox is there; its rows come in no order: the source mariadb has "
        "them in the order of the binary log");
out:
    my_close(&s->conn);
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
    say(arg, FINDING_OK, "nothing is kept at the server");
    return 0;
}

static int
lead(struct my_outbox *s, struct err *err)
{
    struct st_mysql_res *r = NULL;
    struct slice         cell;
    struct buf           sql = {0}, lock = {0};
    int                  rc;

    buf_printf(&lock, "oxbow-outbox %s", s->table);
    buf_add_str(&sql, "SELECT GET_LOCK(CONCAT(LEFT(DATABASE(), 20), '.', ");
    my_add_text(s->conn, &sql, slice_of(lock.data, lock.len < 40 ? lock.len : 40));
    buf_add_str(&sql, "), 0)");
    TRY(my_run_buf(s->conn, who(s), &sql, &r, err));
    s->state.leads = my_next(r) && my_cell(r, 0, &cell) && slice_is(cell, "1");
out:
    my_free(r);
    buf_fini(&sql);
    buf_fini(&lock);
    return rc;
}

/* settling */

struct list {
    struct my_outbox *s;
    struct buf       *sql;
};

/* One statement a row: it looks the id up, where a list of few rows may be a scan, which waits for
 * rows of transactions that still run. */
static int
add_row(void *arg, struct slice id, bool hex, struct err *err)
{
    struct list      *l = arg;
    struct my_outbox *s = l->s;

    if (s->after == OUTBOXI_MARK) {
        buf_add_str(l->sql, "UPDATE ");
        my_add_name(l->sql, s->table);
        buf_add_str(l->sql, " SET ");
        my_add_name(l->sql, s->sent);
        buf_add_str(l->sql, " = UTC_TIMESTAMP(6) WHERE ");
    } else {
        buf_add_str(l->sql, "DELETE FROM ");
        my_add_name(l->sql, s->table);
        buf_add_str(l->sql, " WHERE ");
    }
    my_add_name(l->sql, s->id);
    buf_add_str(l->sql, " = ");
    if (hex)
        buf_printf(l->sql, "x'%.*s'", SLICE_FMT(id));
    else
        my_add_text(s->conn, l->sql, id);
    buf_add_byte(l->sql, ';');
    return 0;
}

static int
settle(struct my_outbox *s, struct err *err)
{
    struct buf  sql = {0};
    struct list l = {s, &sql};
    uint32_t    count;
    int         rc = 0;

    if (s->state.due.len == 0)
        return 0;
    buf_add_str(&sql, "BEGIN;");
    TRY(outboxi_each_taken(buf_slice(&s->state.due), add_row, &l, &count, err));
    buf_add_str(&sql, "COMMIT");
    if (count > 0)
        TRY(my_run_many(s->conn, who(s), &sql, err));
    buf_clear(&s->state.due);
out:
    buf_fini(&sql);
    return rc;
}

/* reading */

static void
put_row(struct my_outbox *s, struct st_mysql_res *r, unsigned cols)
{
    struct outboxi_batch *b = &s->batch;
    struct outboxi_row   *to = &b->rows[b->count];
    struct slice          cell;

    outboxi_row_begin(b);
    for (unsigned c = 0; c < cols; c++) {
        struct slice column = my_column(r, c);
        size_t       at;

        outboxi_member(b, column);
        at = b->bytes.len;
        if (!my_cell(r, c, &cell)) {
            buf_add_str(&b->bytes, "null");
        } else if (my_is_binary(r, c)) {
            buf_add_str(&b->bytes, "{\"$blob\":");
            outboxi_hex(&b->bytes, cell);
            buf_add_byte(&b->bytes, '}');
        } else {
            json_put_string(&b->bytes, cell);
        }
        if (slice_is(column, s->id))
            to->id = outboxi_value(b, at);
    }
    outboxi_row_end(b);
}

static int
read_rows(struct my_outbox *s, uint32_t max, struct err *err)
{
    struct st_mysql_res *r = NULL;
    struct buf           sql = {0};
    uint32_t             limit;
    int                  rc;

    TRY(outboxi_batch_begin(&s->batch, max, &limit, err));
    buf_add_str(&sql, "SELECT * FROM ");
    my_add_name(&sql, s->table);
    if (s->after == OUTBOXI_MARK) {
        buf_add_str(&sql, " WHERE ");
        my_add_name(&sql, s->sent);
        buf_add_str(&sql, " IS NULL");
    }
    buf_printf(&sql, " LIMIT %u", limit);
    TRY(my_run_buf(s->conn, who(s), &sql, &r, err));
    while (my_next(r))
        put_row(s, r, my_columns(r));
    s->state.rows += s->batch.count;
out:
    my_free(r);
    buf_fini(&sql);
    return rc;
}

static int
start(struct source *base, struct slice checkpoint, struct err *err)
{
    struct my_outbox *s = mine(base);

    return outboxi_owe(&s->state, checkpoint, err);
}

static void
nap(uint64_t us)
{
    struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

    (void)nanosleep(&t, NULL);
}

static int
join_server(struct my_outbox *s, struct err *err)
{
    int rc;

    s->state.leads = false;
    TRY(my_connect(s->conf, who(s), &s->conn, err));
    TRY(look(s, err));
out:
    return rc;
}

static int
poll_source(struct source *base, uint32_t max, uint32_t wait_ms, struct source_batch *batch,
            struct err *err)
{
    struct my_outbox *s = mine(base);
    struct ox_env    *env = base->env;
    uint64_t          until = env->ops->mono_us(env) + wait_ms * UINT64_C(1000), now;
    int               rc = 0;

    if (s->conn == NULL)
        TRY(join_server(s, err));
    if (!s->state.leads)
        TRY(lead(s, err));
    if (!s->state.leads) {
        nap(wait_ms * UINT64_C(1000));
        goto out;
    }
    TRY(settle(s, err));
    for (;;) {
        TRY(read_rows(s, max, err));
        now = env->ops->mono_us(env);
        if (s->batch.count > 0 || now >= until)
            break;
        nap(until - now < s->poll_us ? until - now : s->poll_us);
    }
    batch->caught_up = s->batch.count == 0;
    if (s->batch.count == 0)
        goto out;
    outboxi_checkpoint_taken(&s->batch);
    TRY(outboxi_batch_end(&s->batch, s->table, batch, err));
out:
    if (rc != 0) {
        my_close(&s->conn);
        s->state.leads = false;
    }
    return rc;
}

static int
confirm(struct source *base, struct slice checkpoint, struct err *err)
{
    struct my_outbox *s = mine(base);
    int               rc = outboxi_owe(&s->state, checkpoint, err);

    if (rc != 0)
        return rc;
    /* Where it cannot be done now, the next poll does it before it reads. */
    if (s->conn != NULL && s->state.leads && settle(s, err) != 0) {
        my_close(&s->conn);
        s->state.leads = false;
        err_clear(err);
    }
    return 0;
}

static int
status(struct source *base, struct buf *out, struct err *err)
{
    struct my_outbox *s = mine(base);

    return outboxi_status(&s->state, base->env, s->conn != NULL, out, err);
}

const struct source_ops source_outbox_mariadb_ops = {
    .name = "outbox-mariadb",
    .size = sizeof(struct my_outbox),
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
