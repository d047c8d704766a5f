/*
 * The sink `mariadb`. Items gather until a flush and go in one transaction with the checkpoint: all
 * of them, or none. What it is told of durability is InnoDB's: innodb_flush_log_at_trx_commit = 1.
 */
#include "sink/mariadb/mariadb.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/url.h"
#include "sink/mariadb/mariadb_int.h"

#define PORT 3306

static const char *const schemes[] = {"mariadb", "mysql", NULL};

static const struct conf_field fields[] = {
    {.name = "url",
     .type = {.kind = CONF_URL, .values = schemes},
     .required = true,
     .doc = "mariadb://USER@HOST:PORT/DATABASE"},
    {.name = "password", .type = {.kind = CONF_SECRET, .min = 1}, .doc = "of the URL's user"},
    {.name = "socket",
     .type = {.kind = CONF_PATH, .min = 1},
     .doc = "a Unix socket, instead of the URL's host"},
    {.name = "tls", .type = {.kind = CONF_BOOL}, .preset = "false", .doc = "or no connection"},
    {.name = "ca_file",
     .type = {.kind = CONF_PATH, .min = 1},
     .doc = "certificates to trust instead of the system's"},
    SINK_TABLE_FIELDS,
    SINK_TABLE_MODE,
    {.name = "connect_timeout",
     .type = {.kind = CONF_DURATION, .min = 1000000, .max = 60000000},
     .preset = "3s",
     .doc = "to wait for a connection"},
    {.name = "timeout",
     .type = {.kind = CONF_DURATION, .min = 1000000, .max = 600000000},
     .preset = "30s",
     .doc = "for a lock; a statement has two seconds more"},
    {.name = NULL},
};
static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct sinki_mariadb_sink *
mine(struct sink *s)
{
    return (struct sinki_mariadb_sink *)s;
}

static int
copy_part(struct slice part, char **out, struct err *err)
{
    *out = part.len == 0 ? NULL : strndup(part.data, part.len);
    if (part.len > 0 && *out == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

static int
take_url(struct sinki_mariadb_sink *s, const struct conf *conf, struct err *err)
{
    struct url   url;
    struct slice user;
    const char  *colon;
    int          rc;

    TRY(url_parse(slice_str(conf_str(conf, "url")), &url, err));
    user = url.user;
    colon = user.len == 0 ? NULL : memchr(user.data, ':', user.len);
    if (colon != NULL) {
        rc = conf_fail(conf_child(conf, "url"), err, "the password has a key of its own");
        goto out;
    }
    TRY(copy_part(url.host, &s->host, err));
    TRY(copy_part(user, &s->user, err));
    TRY(copy_part(url.path.len > 1 ? slice_of((const char *)url.path.data + 1, url.path.len - 1)
                                   : slice_of(NULL, 0),
                  &s->database, err));
    s->port = url.port == 0 ? PORT : url.port;
    if (s->database == NULL)
        rc = conf_fail(conf_child(conf, "url"), err, "it has to name a database");
out:
    return rc;
}

static int
quote_table(struct sinki_mariadb_sink *s, struct err *err)
{
    buf_add_str(&s->schema, s->rows.name);
    buf_add_byte(&s->schema, 0);
    sink_quote_table(&s->table, '`', s->rows.name);
    if (s->table.failed || s->schema.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

static void
close_sink(struct sink *base)
{
    struct sinki_mariadb_sink *s = mine(base);
    struct buf                *all[] = {&s->table, &s->schema, &s->sql,    &s->values,
                                        &s->list,  &s->name,   &s->scratch};

    sinki_mariadb_disconnect(s);
    sink_table_fini(&s->rows);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buf_fini(all[i]);
    free(s->host);
    free(s->user);
    free(s->database);
}

static int
open_sink(struct sink *base, const struct conf *conf, struct err *err)
{
    struct sinki_mariadb_sink *s = mine(base);
    int                        rc;

    s->conf = conf;
    base->credit = SINK_TABLE_GATHER;
    TRY(sink_table_open(&s->rows, conf, err));
    s->rows.append = conf_enum(conf, "mode") == 1;
    TRY(take_url(s, conf, err));
    if (s->rows.name != NULL)
        TRY(quote_table(s, err));
out:
    if (rc != 0)
        close_sink(base);
    return rc;
}

static int
check(struct sink *base, finding_line_fn *say, void *arg, struct err *err)
{
    int rc = sinki_mariadb_connect(mine(base), err);

    if (rc == 0)
        say(arg, 0,
            mine(base)->rows.name == NULL ? "the database answers"
                                          : "the table is there and has its key");
    return rc;
}

/* The checkpoint there; `lock`: until the end of the transaction. */
static int
read_checkpoint(struct sinki_mariadb_sink *s, bool lock, uint64_t *out, struct err *err)
{
    buf_clear(&s->sql);
    buf_add_str(&s->sql, "SELECT pos FROM oxbow_sink WHERE name = ");
    sinki_mariadb_text(s, &s->sql, slice_str(s->base.instance));
    if (lock)
        buf_add_str(&s->sql, " FOR UPDATE");
    return sinki_mariadb_number(s, buf_slice(&s->sql), 0, out, err);
}

static int
checkpoint(struct sink *base, struct log_pos *pos, struct err *err)
{
    struct sinki_mariadb_sink *s = mine(base);
    int                        rc;

    pos->v = 0;
    TRY(sinki_mariadb_connect(s, err));
    TRY(read_checkpoint(s, false, &pos->v, err));
    rc = sinki_mariadb_run(s, slice_str("ROLLBACK"), err);
out:
    if (rc != 0)
        sinki_mariadb_disconnect(s);
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
store_checkpoint(struct sinki_mariadb_sink *s, struct log_pos upto, struct err *err)
{
    uint64_t there;
    int      rc;

    TRY(read_checkpoint(s, true, &there, err));
    if (there > upto.v)
        FAIL(err, E_FENCED, ERR_RETRY, "MariaDB: the checkpoint there is further already");
    buf_clear(&s->sql);
    buf_add_str(&s->sql, "REPLACE INTO oxbow_sink(name, pos) VALUES (");
    sinki_mariadb_text(s, &s->sql, slice_str(s->base.instance));
    buf_printf(&s->sql, ", %" PRIu64 ")", upto.v);
    rc = sinki_mariadb_run(s, buf_slice(&s->sql), err);
out:
    return rc;
}

static int
apply(struct sink *base, uint32_t limit, struct log_pos upto, uint32_t *bad, struct err *err)
{
    struct sinki_mariadb_sink *s = mine(base);
    struct err                 ignored;
    uint32_t                   next;
    int                        rc;

    *bad = s->rows.count;
    TRY(sinki_mariadb_connect(s, err));
    TRY(sinki_mariadb_make_columns(s, err));
    for (uint32_t i = 0; i < s->rows.count; i = next) {
        next = i + 1;
        rc = s->rows.name == NULL ? sinki_mariadb_statement(s, s->rows.items[i], err)
                                  : sinki_mariadb_apply(s, i, limit, &next, err);
        if (rc != 0 && err->kind == ERR_DATA && (limit == 1 || s->rows.name == NULL))
            *bad = i;
        TRY(rc);
    }
    TRY(store_checkpoint(s, upto, err));
    s->committing = true;
    rc = sinki_mariadb_run(s, slice_str("COMMIT"), err);
out:
    s->committing = false;
    if (rc != 0 && s->conn != NULL && sinki_mariadb_run(s, slice_str("ROLLBACK"), &ignored) != 0)
        sinki_mariadb_disconnect(s);
    /* A table that was changed meanwhile is looked at again. */
    if (rc == E_SCHEMA)
        sinki_mariadb_disconnect(s);
    return rc;
}

static int
poll_sink(struct sink *base, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    must(flush);
    return sink_table_poll(base, &mine(base)->rows, apply, upto, err);
}

const struct sink_ops sink_mariadb_ops = {
    .name = "mariadb",
    .size = sizeof(struct sinki_mariadb_sink),
    .schema = &schema,
    .transactional = true,
    .open = open_sink,
    .close = close_sink,
    .check = check,
    .checkpoint = checkpoint,
    .submit = submit,
    .poll = poll_sink,
};
