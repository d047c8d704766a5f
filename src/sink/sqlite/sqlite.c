/*
 * The sink `sqlite`. Items gather until a flush and go in one transaction with the checkpoint: all
 * of them, or none.
 *
 * An item that the database refuses for good undoes the transaction and is
 * reported by itself; the others are handed back: the checkpoint must not pass
 * it before the core has parked it.
 */
#include "sink/sqlite/sqlite.h"

#include <sqlite3.h>
#include <stdlib.h>

#include "base/conf.h"
#include "base/json.h"
#include "base/must.h"
#include "sink/table.h"
#include "sql/sql.h"

#define BUSY_MS 900
struct sqlite_sink {
    struct sink       base;
    struct sqlite3   *db;
    const char       *path;
    struct sink_table rows;
    struct sql_table *shape;
};

static const struct conf_field fields[] = {
    {.name = "path",
     .type = {.kind = CONF_PATH, .min = 1},
     .required = true,
     .doc = "the database file"},
    SINK_TABLE_FIELDS,
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct sqlite_sink *
mine(struct sink *s)
{
    return (struct sqlite_sink *)s;
}

static int
load_shape(struct sqlite_sink *s, struct err *err)
{
    sql_table_free(s->shape);
    s->shape = NULL;
    return s->rows.name == NULL ? 0 : sql_table_load(s->db, s->rows.name, &s->shape, err);
}

static int
make_table(struct sqlite_sink *s, struct err *err)
{
    int rc;

    TRY(sql_run(s->db, err, "CREATE TABLE IF NOT EXISTS \"%w\"(\"%w\" TEXT NOT NULL PRIMARY KEY)",
                s->rows.name, s->rows.key));
    TRY(load_shape(s, err));
    for (uint32_t i = 0; i < s->rows.map_count; i++) {
        if (sql_table_find(s->shape, slice_str(s->rows.map[i].column)) < 0)
            TRY(sql_run(s->db, err, "ALTER TABLE \"%w\" ADD COLUMN \"%w\"", s->rows.name,
                        s->rows.map[i].column));
    }
    TRY(load_shape(s, err));
out:
    return rc;
}

static int
check_shape(struct sqlite_sink *s, struct err *err)
{
    bool unique = false;
    int  at = sql_table_find(s->shape, slice_str(s->rows.key));

    must(s->shape != NULL);
    for (uint32_t i = 0; at >= 0 && i < s->shape->unique_count; i++) {
        unique = unique ||
                 (s->shape->uniques[i].count == 1 && s->shape->uniques[i].cols[0] == (uint32_t)at);
    }
    if (!unique)
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "table %s: %s is no primary or unique key",
                   s->rows.name, s->rows.key);
    for (uint32_t i = 0; i < s->rows.map_count; i++) {
        if (sql_table_find(s->shape, slice_str(s->rows.map[i].column)) < 0)
            RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "table %s has no column %s", s->rows.name,
                       s->rows.map[i].column);
    }
    return 0;
}

static void
close_sink(struct sink *base)
{
    struct sqlite_sink *s = mine(base);

    sql_close(s->db);
    sql_table_free(s->shape);
    sink_table_fini(&s->rows);
}

static int
open_sink(struct sink *base, const struct conf *conf, struct err *err)
{
    struct sqlite_sink *s = mine(base);
    int                 rc;

    s->path = conf_str(conf, "path");
    TRY(sink_table_open(&s->rows, conf, err));
    TRY(sql_open(s->path, s->rows.create ? SQL_CREATE : SQL_WRITE, BUSY_MS, &s->db, err));
    TRY(sql_run(s->db, err, "PRAGMA synchronous = FULL"));
    TRY(sql_begin_write(s->db, err));
    TRY(sql_run(s->db, err,
                "CREATE TABLE IF NOT EXISTS oxbow_sink(name TEXT PRIMARY KEY, pos INTEGER NOT "
                "NULL) WITHOUT ROWID"));
    if (s->rows.name != NULL) {
        if (s->rows.create)
            TRY(make_table(s, err));
        else
            TRY(load_shape(s, err));
        TRY(check_shape(s, err));
    }
    TRY(sql_commit(s->db, err));
    base->credit = SINK_TABLE_GATHER;
out:
    if (rc != 0) {
        if (s->db != NULL)
            sql_rollback(s->db);
        err_prefix(err, "sink %s", base->instance);
        close_sink(base);
    }
    return rc;
}

static int
check(struct sink *base, finding_line_fn *say, void *arg, struct err *err)
{
    say(arg, 0, "the table is there and takes writes");
    return 0;
}

static int
checkpoint(struct sink *base, struct log_pos *pos, struct err *err)
{
    int64_t v;
    int rc = sql_number(mine(base)->db, 0, &v, err, "SELECT pos FROM oxbow_sink WHERE name = %Q",
                        base->instance);

    pos->v = (uint64_t)v;
    return rc;
}

static int
submit(struct sink *base, struct sink_item *item, struct err *err)
{
    sink_table_gather(&mine(base)->rows, item);
    return 0;
}

static int
delete_row(struct sqlite_sink *s, const struct sink_item *item, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    int                  rc;

    TRY(sql_prepare(s->db, &stmt, err, "DELETE FROM \"%w\" WHERE \"%w\" = ?1", s->rows.name,
                    s->rows.key));
    sql_bind_slice(stmt, 1, item->key);
    TRY(sql_finish(stmt, err));
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

/* The place of a field's column, which `create` may make now. */
static int
find_column(struct sqlite_sink *s, const struct buf *name, int *at, struct err *err)
{
    int rc = 0;

    *at = sql_table_find(s->shape, slice_str((const char *)name->data));
    if (*at >= 0)
        return 0;
    if (!s->rows.create)
        FAIL(err, E_REJECTED, ERR_DATA, "table %s has no column for a field of the event",
             s->rows.name);
    if (s->shape->count >= SINK_TABLE_COLUMNS_MAX)
        FAIL(err, E_REJECTED, ERR_DATA, "table %s has %d columns already", s->rows.name,
             SINK_TABLE_COLUMNS_MAX);
    TRY(sql_run(s->db, err, "ALTER TABLE \"%w\" ADD COLUMN \"%w\"", s->rows.name,
                (const char *)name->data));
    TRY(load_shape(s, err));
    *at = sql_table_find(s->shape, slice_str((const char *)name->data));
    must(*at >= 0);
out:
    return rc;
}

struct values {
    struct sqlite_sink *s;
    struct slice       *list; /* one for each column of the table; those without data have none */
    struct buf          name;
};

static int
take_field(void *arg, struct slice column, struct slice value, struct err *err)
{
    struct values *v = arg;
    int            at, rc;

    buf_clear(&v->name);
    buf_add_slice(&v->name, column);
    buf_add_byte(&v->name, 0);
    if (v->name.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(find_column(v->s, &v->name, &at, err));
    v->list[at] = value;
out:
    return rc;
}

/* An update of the columns that the event has; never REPLACE, which deletes other rows. */
static void
make_upsert(const struct sqlite_sink *s, const struct slice *values, uint32_t key, struct buf *b)
{
    const char *glue = "";

    sql_add(b, "INSERT INTO \"%w\"(\"%w\"", s->rows.name, s->rows.key);
    for (uint32_t i = 0; i < s->shape->count; i++) {
        if (values[i].data != NULL && i != key)
            sql_add(b, ", \"%w\"", s->shape->cols[i].name);
    }
    buf_add_str(b, ") VALUES (?1");
    for (uint32_t i = 0; i < s->shape->count; i++) {
        if (values[i].data != NULL && i != key)
            sql_add(b, ", ?%u", i + 2);
    }
    sql_add(b, ") ON CONFLICT(\"%w\") DO UPDATE SET ", s->rows.key);
    for (uint32_t i = 0; i < s->shape->count; i++) {
        if (values[i].data != NULL && i != key) {
            sql_add(b, "%s\"%w\" = ?%u", glue, s->shape->cols[i].name, i + 2);
            glue = ", ";
        }
    }
    if (glue[0] == '\0')
        sql_add(b, "\"%w\" = \"%w\"", s->rows.key, s->rows.key);
}

static int
upsert_row(struct sqlite_sink *s, const struct sink_item *item, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    struct slice        *values = calloc(SINK_TABLE_COLUMNS_MAX * 5, sizeof values[0]);
    struct values        to = {.s = s, .list = values};
    struct buf           text = {0}, name = {0};
    uint32_t             key;
    int                  rc;

    if (values == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sink_table_fields(&s->rows, item, &name, take_field, &to, err));
    key = (uint32_t)sql_table_find(s->shape, slice_str(s->rows.key));
    make_upsert(s, values, key, &text);
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_prepare_text(s->db, buf_slice(&text), &stmt, err));
    sql_bind_slice(stmt, 1, item->key);
    for (uint32_t i = 0; i < s->shape->count; i++) {
        if (values[i].data != NULL && i != key)
            TRY(sql_bind_json(stmt, (int)i + 2, values[i], err));
    }
    TRY(sql_finish(stmt, err));
out:
    (void)sqlite3_finalize(stmt);
    buf_fini(&text);
    buf_fini(&name);
    buf_fini(&to.name);
    free(values);
    return rc;
}

static int
store_checkpoint(struct sqlite_sink *s, struct log_pos upto, struct err *err)
{
    return sql_run(s->db, err,
                   "INSERT INTO oxbow_sink(name, pos) VALUES (%Q, %lld) ON CONFLICT(name) DO "
                   "UPDATE SET pos = excluded.pos",
                   s->base.instance, (long long)upto.v);
}

/* Its own statement, of the configuration. */
static int
run_statement(struct sqlite_sink *s, const struct sink_item *item, struct err *err)
{
    const struct sink_statement *st;
    struct sqlite3_stmt         *stmt = NULL;
    struct buf                   text = {0}, value = {0};
    int                          rc;

    TRY(sink_table_statement(&s->rows, item->type, &st, err));
    sink_statement_text(st, '?', &text);
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_prepare_text(s->db, slice_of(text.data, text.len - 1), &stmt, err));
    for (uint32_t i = 0; i < st->count; i++) {
        TRY(sink_statement_value(st, i, item, &value, err));
        TRY(sql_bind_json(stmt, (int)i + 1, buf_slice(&value), err));
    }
    rc = sql_finish(stmt, err);
out:
    (void)sqlite3_finalize(stmt);
    buf_fini(&text);
    buf_fini(&value);
    return rc;
}

static int
apply_item(struct sqlite_sink *s, const struct sink_item *item, struct err *err)
{
    if (s->rows.name == NULL)
        return run_statement(s, item, err);
    return sink_table_deletes(&s->rows, item->type) ? delete_row(s, item, err)
                                                    : upsert_row(s, item, err);
}

static int
apply(struct sink *base, uint32_t limit, struct log_pos upto, uint32_t *bad, struct err *err)
{
    struct sqlite_sink *s = mine(base);
    struct err          shape;
    int                 rc;

    *bad = s->rows.count;
    TRY(sql_begin_write(s->db, err));
    for (uint32_t i = 0; i < s->rows.count; i++) {
        rc = apply_item(s, s->rows.items[i], err);
        if (rc != 0 && err->kind == ERR_DATA)
            *bad = i;
        TRY(rc);
    }
    TRY(store_checkpoint(s, upto, err));
    rc = sql_commit(s->db, err);
    if (rc == E_IO)
        err->kind = ERR_UNSURE;
out:
    sql_rollback(s->db);
    /* Columns that were made are gone again. */
    if (rc != 0 && load_shape(s, &shape) != 0) {
        *bad = s->rows.count;
        rc = shape.code;
        err_copy(err, &shape);
    }
    return rc;
}

static int
poll_sink(struct sink *base, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    must(flush);
    return sink_table_poll(base, &mine(base)->rows, apply, upto, err);
}

const struct sink_ops sink_sqlite_ops = {
    .name = "sqlite",
    .size = sizeof(struct sqlite_sink),
    .schema = &schema,
    .transactional = true,
    .open = open_sink,
    .close = close_sink,
    .check = check,
    .checkpoint = checkpoint,
    .submit = submit,
    .poll = poll_sink,
};
