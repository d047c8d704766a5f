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
#include "sql/sql.h"

#define BUSY_MS 900
#define GATHER_MAX 1000
#define COLUMNS_MAX 500

struct mapped {
    const char *column, *field; /* the field as a path: "a.b" */
};

struct sqlite_sink {
    struct sink        base;
    struct sqlite3    *db;
    const char        *path, *table, *key;
    const char       **deletes;
    uint32_t           delete_count;
    struct mapped     *map; /* NULL: every field of the data has a column of its name */
    uint32_t           map_count;
    bool               create;
    struct sql_table  *shape;
    struct sink_item **items;
    uint32_t           count;
};

static const struct conf_type text_type = {.kind = CONF_STRING, .min = 1, .max = 200};

static const struct conf_field fields[] = {
    {.name = "path",
     .type = {.kind = CONF_PATH, .min = 1},
     .required = true,
     .doc = "the database file"},
    {.name = "table",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},
     .required = true,
     .doc = "the table"},
    {.name = "key",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},
     .preset = "key",
     .doc = "its key column, which takes the key of the event's stream"},
    {.name = "columns",
     .type = {.kind = CONF_MAP, .of = &text_type, .min = 1, .max = COLUMNS_MAX},
     .doc = "column: field of the data; without it each field goes to the column of its name"},
    {.name = "deletes",
     .type = {.kind = CONF_LIST, .of = &text_type, .max = 50},
     .doc = "event types that delete the row; [Deleted] when not given"},
    {.name = "create",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "make the database, the table and columns that are missing"},
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct sqlite_sink *
mine(struct sink *s)
{
    return (struct sqlite_sink *)s;
}

static int
take_conf(struct sqlite_sink *s, const struct conf *conf, struct err *err)
{
    static const char *const preset = "Deleted";
    const struct conf       *map = conf_child(conf, "columns"), *c;
    const struct conf       *deletes = conf_child(conf, "deletes");

    s->path = conf_str(conf, "path");
    s->table = conf_str(conf, "table");
    s->key = conf_str(conf, "key");
    s->create = conf_bool(conf, "create");
    s->items = calloc(GATHER_MAX, sizeof(struct sink_item *));
    s->deletes = calloc(conf_count(deletes) + 1, sizeof s->deletes[0]);
    s->map = map == NULL ? NULL : calloc(conf_count(map), sizeof s->map[0]);
    if (s->items == NULL || s->deletes == NULL || (map != NULL && s->map == NULL))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (c = conf_first(deletes); c != NULL; c = conf_next(c))
        s->deletes[s->delete_count++] = conf_text(c);
    if (deletes == NULL)
        s->deletes[s->delete_count++] = preset;
    for (c = s->map == NULL ? NULL : conf_first(map); c != NULL; c = conf_next(c))
        s->map[s->map_count++] = (struct mapped){conf_key(c), conf_text(c)};
    return 0;
}

static int
load_shape(struct sqlite_sink *s, struct err *err)
{
    sql_table_free(s->shape);
    return sql_table_load(s->db, s->table, &s->shape, err);
}

static int
make_table(struct sqlite_sink *s, struct err *err)
{
    int rc;

    TRY(sql_run(s->db, err, "CREATE TABLE IF NOT EXISTS \"%w\"(\"%w\" TEXT NOT NULL PRIMARY KEY)",
                s->table, s->key));
    TRY(load_shape(s, err));
    for (uint32_t i = 0; i < s->map_count; i++) {
        if (sql_table_find(s->shape, slice_str(s->map[i].column)) < 0)
            TRY(sql_run(s->db, err, "ALTER TABLE \"%w\" ADD COLUMN \"%w\"", s->table,
                        s->map[i].column));
    }
    TRY(load_shape(s, err));
out:
    return rc;
}

static int
check_shape(struct sqlite_sink *s, struct err *err)
{
    bool unique = false;
    int  at = sql_table_find(s->shape, slice_str(s->key));

    for (uint32_t i = 0; at >= 0 && i < s->shape->unique_count; i++) {
        unique = unique ||
                 (s->shape->uniques[i].count == 1 && s->shape->uniques[i].cols[0] == (uint32_t)at);
    }
    if (!unique)
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "table %s: %s is no primary or unique key", s->table,
                   s->key);
    for (uint32_t i = 0; i < s->map_count; i++) {
        if (sql_table_find(s->shape, slice_str(s->map[i].column)) < 0)
            RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "table %s has no column %s", s->table,
                       s->map[i].column);
    }
    return 0;
}

static void
close_sink(struct sink *base)
{
    struct sqlite_sink *s = mine(base);

    sql_close(s->db);
    sql_table_free(s->shape);
    free(s->items);
    free(s->deletes);
    free(s->map);
}

static int
open_sink(struct sink *base, const struct conf *conf, struct err *err)
{
    struct sqlite_sink *s = mine(base);
    int                 rc;

    TRY(take_conf(s, conf, err));
    TRY(sql_open(s->path, s->create ? SQL_CREATE : SQL_WRITE, BUSY_MS, &s->db, err));
    TRY(sql_run(s->db, err, "PRAGMA synchronous = FULL"));
    TRY(sql_begin_write(s->db, err));
    TRY(sql_run(s->db, err,
                "CREATE TABLE IF NOT EXISTS oxbow_sink(name TEXT PRIMARY KEY, pos INTEGER NOT "
                "NULL) WITHOUT ROWID"));
    if (s->create)
        TRY(make_table(s, err));
    else
        TRY(load_shape(s, err));
    TRY(check_shape(s, err));
    TRY(sql_commit(s->db, err));
    base->credit = GATHER_MAX;
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
    struct sqlite_sink *s = mine(base);

    must(s->count < GATHER_MAX);
    s->items[s->count++] = item;
    return 0;
}

static bool
is_delete(const struct sqlite_sink *s, struct slice type)
{
    for (uint32_t i = 0; i < s->delete_count; i++) {
        if (slice_is(type, s->deletes[i]))
            return true;
    }
    return false;
}

static int
delete_row(struct sqlite_sink *s, const struct sink_item *item, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    int                  rc;

    TRY(sql_prepare(s->db, &stmt, err, "DELETE FROM \"%w\" WHERE \"%w\" = ?1", s->table, s->key));
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
    if (!s->create)
        FAIL(err, E_REJECTED, ERR_DATA, "table %s has no column for a field of the event",
             s->table);
    if (s->shape->count >= COLUMNS_MAX)
        FAIL(err, E_REJECTED, ERR_DATA, "table %s has %d columns already", s->table, COLUMNS_MAX);
    TRY(sql_run(s->db, err, "ALTER TABLE \"%w\" ADD COLUMN \"%w\"", s->table,
                (const char *)name->data));
    TRY(load_shape(s, err));
    *at = sql_table_find(s->shape, slice_str((const char *)name->data));
    must(*at >= 0);
out:
    return rc;
}

/* Gathers one value per column of the table; those without one have no data. */
static int
take_fields(struct sqlite_sink *s, struct slice data, struct slice *values, struct err *err)
{
    struct json_iter it;
    struct slice     name, value;
    struct buf       text = {0};
    int              at = -1, rc;

    TRY(json_object_iter(&it, data, err));
    while ((rc = json_iter_next(&it, &name, &value, err)) == 0) {
        char quoted = '"';

        if (s->map != NULL)
            continue;
        buf_clear(&text);
        buf_add_byte(&text, (uint8_t)quoted);
        buf_add_slice(&text, name);
        buf_add_byte(&text, (uint8_t)quoted);
        {
            struct buf plain = {0};

            rc = json_string_decode(buf_slice(&text), &plain, err);
            buf_add_byte(&plain, 0);
            if (rc == 0 && !plain.failed)
                rc = find_column(s, &plain, &at, err);
            buf_fini(&plain);
        }
        TRY(rc);
        values[at] = value;
    }
    if (rc != E_END)
        goto out;
    rc = 0;
    for (uint32_t i = 0; i < s->map_count; i++) {
        must(s->map != NULL);
        must(values != NULL);
        at = sql_table_find(s->shape, slice_str(s->map[i].column));
        if (at >= 0 && json_get_path(data, slice_str(s->map[i].field), &value))
            values[at] = value;
    }
out:
    buf_fini(&text);
    return rc;
}

/* An update of the columns that the event has; never REPLACE, which deletes other rows. */
static void
make_upsert(const struct sqlite_sink *s, const struct slice *values, uint32_t key, struct buf *b)
{
    const char *glue = "";

    sql_add(b, "INSERT INTO \"%w\"(\"%w\"", s->table, s->key);
    for (uint32_t i = 0; i < s->shape->count; i++) {
        if (values[i].data != NULL && i != key)
            sql_add(b, ", \"%w\"", s->shape->cols[i].name);
    }
    buf_add_str(b, ") VALUES (?1");
    for (uint32_t i = 0; i < s->shape->count; i++) {
        if (values[i].data != NULL && i != key)
            sql_add(b, ", ?%u", i + 2);
    }
    sql_add(b, ") ON CONFLICT(\"%w\") DO UPDATE SET ", s->key);
    for (uint32_t i = 0; i < s->shape->count; i++) {
        if (values[i].data != NULL && i != key) {
            sql_add(b, "%s\"%w\" = ?%u", glue, s->shape->cols[i].name, i + 2);
            glue = ", ";
        }
    }
    if (glue[0] == '\0')
        sql_add(b, "\"%w\" = \"%w\"", s->key, s->key);
}

static int
upsert_row(struct sqlite_sink *s, const struct sink_item *item, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    struct slice        *values = calloc(COLUMNS_MAX * 5, sizeof values[0]);
    struct buf           text = {0};
    uint32_t             key;
    int                  rc;

    if (values == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(take_fields(s, item->data, values, err));
    key = (uint32_t)sql_table_find(s->shape, slice_str(s->key));
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

/* *bad: which item was refused; count where none was. */
static int
apply(struct sqlite_sink *s, struct log_pos upto, uint32_t *bad, struct err *err)
{
    int rc;

    *bad = s->count;
    TRY(sql_begin_write(s->db, err));
    for (uint32_t i = 0; i < s->count; i++) {
        const struct sink_item *item = s->items[i];

        rc = is_delete(s, item->type) ? delete_row(s, item, err) : upsert_row(s, item, err);
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
    return rc;
}

/* Nothing stays here: the core alone knows what may go in the next transaction. */
static void
hand_back(struct sqlite_sink *s, uint32_t except)
{
    uint32_t count = s->count;

    s->count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (i != except)
            sink_back(&s->base, s->items[i]);
    }
}

static int
poll_sink(struct sink *base, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    struct sqlite_sink *s = mine(base);
    struct err          own, shape;
    uint32_t            bad, count = s->count;
    int                 rc;

    must(flush);
    rc = apply(s, upto, &bad, &own);
    if (rc == 0) {
        s->count = 0;
        for (uint32_t i = 0; i < count; i++)
            sink_done(base, s->items[i], 0, NULL);
        return 0;
    }
    if (bad < count)
        sink_done(base, s->items[bad], rc, &own);
    hand_back(s, bad);
    /* Columns that were made are gone again. */
    if (load_shape(s, &shape) != 0) {
        err_copy(err, &shape);
        return shape.code;
    }
    if (bad < count)
        return 0;
    err_copy(err, &own);
    return rc;
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
