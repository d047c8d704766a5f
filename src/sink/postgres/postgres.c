/*
 * The sink `postgres`. Items gather until a flush and go in one transaction with the checkpoint:
 * all of them, or none.
 *
 * They go in as few statements as possible. Where one is refused, the transaction is made again
 * with a statement for each item, so that the one at fault shows; it is reported, the others are
 * handed back.
 */
#include "sink/postgres/postgres.h"

#include <stdio.h>
#include <stdlib.h>

#include "sink/postgres/postgres_int.h"

#define STATEMENT_ROWS 1000u /* so that the next one is made while PostgreSQL works */

static const char *const       schemes[] = {"postgresql", "postgres", NULL};
static const struct conf_field fields[] = {
    {.name = "url",
     .type = {.kind = CONF_URL, .values = schemes},
     .required = true,
     .doc = "postgresql://USER@HOST:PORT/DATABASE"},
    {.name = "password", .type = {.kind = CONF_SECRET, .min = 1}, .doc = "of the URL's user"},
    SINK_TABLE_FIELDS,
    SINK_TABLE_MODE,
    {.name = "batch",
     .type = {.kind = CONF_INT, .min = 1, .max = SINK_TABLE_GATHER_MAX},
     .preset = "5000",
     .doc = "events in a transaction, at most"},
    {.name = "connect_timeout",
     .type = {.kind = CONF_DURATION, .min = 1000000, .max = 60000000},
     .preset = "3s",
     .doc = "to wait for a connection"},
    {.name = "timeout",
     .type = {.kind = CONF_DURATION, .min = 10000, .max = 600000000},
     .preset = "30s",
     .doc = "of a statement"},
    {.name = NULL},
};
static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct sinki_postgres_sink *
mine(struct sink *s)
{
    return (struct sinki_postgres_sink *)s;
}

static int
quote_table(struct sinki_postgres_sink *s, const char *name, struct err *err)
{
    struct buf b = {0};
    int        rc = 0;

    sink_quote_table(&b, '"', name);
    if (b.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    must(b.len <= sizeof s->table);
    memcpy(s->table, b.data, b.len);
out:
    buf_fini(&b);
    return rc;
}

static int
take_conf(struct sinki_postgres_sink *s, const struct conf *conf, struct err *err)
{
    int rc = 0;

    s->conf = conf;
    s->arrays = calloc(SINK_TABLE_COLUMNS_MAX + 1, sizeof s->arrays[0]);
    if (s->arrays == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sink_table_open(&s->rows, conf, err));
    s->rows.append = conf_enum(conf, "mode") == 1;
    if (s->rows.name != NULL)
        TRY(quote_table(s, s->rows.name, err));
out:
    return rc;
}

static void
close_sink(struct sink *base)
{
    struct sinki_postgres_sink *s = mine(base);

    sinki_postgres_disconnect(s);
    sink_table_fini(&s->rows);
    buf_fini(&s->json);
    buf_fini(&s->text);
    buf_fini(&s->name);
    buf_fini(&s->list);
    buf_fini(&s->params);
    buf_fini(&s->scratch);
    free(s->arrays);
}

static int
open_sink(struct sink *base, const struct conf *conf, struct err *err)
{
    int rc = take_conf(mine(base), conf, err);

    base->credit = (uint32_t)conf_int(conf, "batch");
    if (rc != 0)
        close_sink(base);
    return rc;
}

static int
check(struct sink *base, finding_line_fn *say, void *arg, struct err *err)
{
    int rc = sinki_postgres_connect(mine(base), err);

    if (rc == 0)
        say(arg, 0,
            mine(base)->rows.name == NULL ? "the database answers"
                                          : "the table is there and has its key");
    return rc;
}

static int
checkpoint(struct sink *base, struct log_pos *pos, struct err *err)
{
    struct sinki_postgres_sink *s = mine(base);
    int64_t                     v = 0;
    int                         rc;

    TRY(sinki_postgres_connect(s, err));
    TRY(sinki_postgres_number(s, "SELECT pos FROM oxbow_sink WHERE name = $1", base->instance, 0,
                              &v, err));
out:
    pos->v = (uint64_t)v;
    return rc;
}

static int
submit(struct sink *base, struct sink_item *item, struct err *err)
{
    sink_table_gather(&mine(base)->rows, item);
    return 0;
}

/* Never back: whoever is behind another one of its name takes nothing. */
static int
store_checkpoint(struct sinki_postgres_sink *s, struct log_pos upto, struct err *err)
{
    char    sql[256];
    int64_t rows;
    int     rc;

    (void)snprintf(sql, sizeof sql,
                   "INSERT INTO oxbow_sink(name, pos) VALUES ($1, %llu) ON CONFLICT (name) DO "
                   "UPDATE SET pos = EXCLUDED.pos WHERE oxbow_sink.pos <= EXCLUDED.pos",
                   (unsigned long long)upto.v);
    TRY(sinki_postgres_run(s, sql, s->base.instance, &rows, err));
    if (rows == 0)
        FAIL(err, E_FENCED, ERR_RETRY, "PostgreSQL: the checkpoint there is further already");
out:
    return rc;
}

/* Each by its own statement. */
static int
run_statements(struct sinki_postgres_sink *s, uint32_t *bad, struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < s->rows.count; i++) {
        rc = sinki_postgres_statement(s, s->rows.items[i], err);
        if (rc != 0 && err->kind == ERR_DATA)
            *bad = i;
        TRY(rc);
    }
out:
    return rc;
}

/* With a limit of 1 the refused statement's items go each by itself, so that it shows which one. */
static int
run_rows(struct sinki_postgres_sink *s, uint32_t limit, uint32_t *bad, struct err *err)
{
    uint32_t next, sent = 0;
    int      rc = 0;

    for (uint32_t i = 0; i < s->rows.count; i = next) {
        bool     one = limit == 1 && i >= s->suspect;
        uint32_t most = one ? 1 : STATEMENT_ROWS;

        if (limit == 1 && !one && most > s->suspect - i)
            most = s->suspect - i;
        if (one)
            TRY(sinki_postgres_await(s, err));
        rc = sinki_postgres_make(s, i, most, &next, err);
        if (rc == 0)
            rc = sinki_postgres_await(s, err);
        if (rc == 0) {
            sent = i;
            rc = sinki_postgres_send(s, err);
        }
        if (rc == 0 && one)
            rc = sinki_postgres_await(s, err);
        if (rc != 0 && err->kind == ERR_DATA && one)
            *bad = i;
        TRY(rc);
    }
    rc = sinki_postgres_await(s, err);
out:
    s->suspect = rc == 0 ? 0 : sent;
    return rc;
}

static int
apply(struct sink *base, uint32_t limit, struct log_pos upto, uint32_t *bad, struct err *err)
{
    struct sinki_postgres_sink *s = mine(base);
    struct err                  ignored;
    bool                        committing = false;
    int                         rc;

    *bad = s->rows.count;
    TRY(sinki_postgres_connect(s, err));
    TRY(sinki_postgres_run(s, "BEGIN", NULL, NULL, err));
    TRY(sinki_postgres_run(s, "SET CONSTRAINTS ALL IMMEDIATE", NULL, NULL, err));
    if (s->rows.name == NULL)
        TRY(run_statements(s, bad, err));
    else
        TRY(run_rows(s, limit, bad, err));
    TRY(store_checkpoint(s, upto, err));
    committing = true;
    rc = sinki_postgres_run(s, "COMMIT", NULL, NULL, err);
out:
    s->sent = false;
    if (rc != 0 && s->conn != NULL) {
        if (committing && PQstatus(s->conn) != CONNECTION_OK)
            err->kind = ERR_UNSURE;
        if (sinki_postgres_run(s, "ROLLBACK", NULL, NULL, &ignored) != 0 ||
            sinki_postgres_load_columns(s, &ignored) != 0) /* those that were made are gone again */
            sinki_postgres_disconnect(s);
    }
    return rc;
}

static int
poll_sink(struct sink *base, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    must(flush);
    return sink_table_poll(base, &mine(base)->rows, apply, upto, err);
}

const struct sink_ops sink_postgres_ops = {
    .name = "postgres",
    .size = sizeof(struct sinki_postgres_sink),
    .schema = &schema,
    .transactional = true,
    .open = open_sink,
    .close = close_sink,
    .check = check,
    .checkpoint = checkpoint,
    .submit = submit,
    .poll = poll_sink,
};
