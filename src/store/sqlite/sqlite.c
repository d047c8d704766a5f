/*
 * The store `sqlite`: opening, reading, and the head of the change feed that
 * the source `sqlite` keeps in the same database.
 */
#include "store/sqlite/sqlite.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/conf.h"
#include "base/json.h"
#include "base/must.h"
#include "store/sqlite/sqlite_int.h"

#define BUSY_MS 2000
#define ROW_MAX ((size_t)64 << 20)

static const struct conf_type column_type = {.kind = CONF_STRING, .min = 1, .max = 200};
static const char *const      orders[] = {"integer", "text", NULL};
static const char *const      deletes[] = {"delete", "null_columns", NULL};

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
     .required = true,
     .doc = "its key column"},
    {.name = "key_order",
     .type = {.kind = CONF_ENUM, .values = orders},
     .preset = "integer",
     .doc = "how keys sort, the same way on both sides"},
    {.name = "columns",
     .type = {.kind = CONF_LIST, .of = &column_type, .min = 1, .max = 900},
     .required = true,
     .doc = "the columns that move"},
    {.name = "where",
     .type = {.kind = CONF_STRING, .min = 1, .max = 4000},
     .doc = "which rows move: an SQL condition over the table's columns"},
    {.name = "version_column",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},
     .doc = "a number that grows with each write of a row; Oxbow's writes add 1 to it"},
    {.name = "on_delete",
     .type = {.kind = CONF_ENUM, .values = deletes},
     .doc = "what a deleted row does here; null_columns where the table has other columns too"},
    {.name = "scope",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},
     .doc = "the guard's name in the database; the table's when not given"},
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static int
take_conf(struct sqlitei_store *s, const struct conf *conf, struct err *err)
{
    const struct conf *list = conf_child(conf, "columns"), *c;

    s->path = conf_str(conf, "path");
    s->table = conf_str(conf, "table");
    s->key = conf_str(conf, "key");
    s->where = conf_str(conf, "where");
    s->version_column = conf_str(conf, "version_column");
    s->scope = conf_has(conf, "scope") ? conf_str(conf, "scope") : s->table;
    s->base.key_order = conf_enum(conf, "key_order") == 0 ? STORE_KEY_INTEGER : STORE_KEY_TEXT;
    s->columns = calloc(conf_count(list), sizeof s->columns[0]);
    if (s->columns == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (c = conf_first(list); c != NULL; c = conf_next(c)) {
        for (uint32_t i = 0; i < s->count; i++) {
            must(s->columns[i] != NULL);
            if (strcmp(s->columns[i], conf_text(c)) == 0)
                return conf_fail(c, err, "column %s is named twice", conf_text(c));
        }
        s->columns[s->count++] = conf_text(c);
    }
    return 0;
}

static bool
is_integer(const char *type)
{
    return type != NULL && sqlite3_strlike("%int%", type, 0) == 0;
}

static bool
is_unique(const struct sqlitei_store *s)
{
    for (uint32_t i = 0; i < s->shape->unique_count; i++) {
        const struct sql_unique *u = &s->shape->uniques[i];

        if (u->count == 1 && u->cols[0] == s->key_at)
            return true;
    }
    return false;
}

static int
check_columns(struct sqlitei_store *s, struct err *err)
{
    int at = sql_table_find(s->shape, slice_str(s->key));

    if (at < 0)
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "table %s has no column %s", s->table, s->key);
    s->key_at = (uint32_t)at;
    if (!is_unique(s))
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "table %s: %s alone is no primary or unique key",
                   s->table, s->key);
    if (is_integer(s->shape->cols[at].type) != (s->base.key_order == STORE_KEY_INTEGER))
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "table %s: the type of %s does not fit `key_order`",
                   s->table, s->key);
    for (uint32_t i = 0; i < s->count; i++) {
        at = sql_table_find(s->shape, slice_str(s->columns[i]));
        if (at < 0)
            RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "table %s has no column %s", s->table,
                       s->columns[i]);
        if (s->shape->cols[at].generated)
            RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "table %s: column %s is generated: it cannot move",
                       s->table, s->columns[i]);
    }
    if (s->version_column != NULL && sql_table_find(s->shape, slice_str(s->version_column)) < 0)
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "table %s has no column %s", s->table,
                   s->version_column);
    return 0;
}

/* Whether every column of the table moves, beside its key. */
static bool
moves_all(const struct sqlitei_store *s)
{
    uint32_t others = 0;

    for (uint32_t i = 0; i < s->count; i++)
        others += !sqlitei_is_key(s, i);
    for (uint32_t i = 0; i < s->shape->count; i++)
        others += s->shape->cols[i].generated;
    return others + 1 >= s->shape->count;
}

static void
make_subset(struct sqlitei_store *s)
{
    const char *glue = " AND (";

    sql_add(&s->subset, "(%s)", s->where == NULL ? "1" : s->where);
    if (!s->null_columns)
        return;
    for (uint32_t i = 0; i < s->count; i++) {
        if (sqlitei_is_key(s, i))
            continue;
        sql_add(&s->subset, "%s\"%w\" IS NOT NULL", glue, s->columns[i]);
        glue = " OR ";
    }
    buf_add_str(&s->subset, glue[1] == 'O' ? ")" : "");
}

void
sqlitei_row_select(const struct sqlitei_store *s, struct buf *text)
{
    sql_add(text, "SELECT \"%w\"", s->key);
    for (uint32_t i = 0; i < s->count; i++)
        sql_add(text, ", \"%w\"", s->columns[i]);
    if (s->version_column != NULL)
        sql_add(text, ", \"%w\"", s->version_column);
    sql_add(text, " FROM \"%w\" WHERE ", s->table);
    buf_add_slice(text, buf_slice(&s->subset));
}

static int
prepare_get(struct sqlitei_store *s, struct err *err)
{
    struct buf text = {0};
    int        rc;

    sqlitei_row_select(s, &text);
    sql_add(&text, " AND \"%w\" = ?1 AND \"%w\" = ?1 COLLATE BINARY", s->key, s->key);
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_prepare_text(s->db, buf_slice(&text), &s->get, err));
out:
    buf_fini(&text);
    return rc;
}

static void
close_store(struct store *base)
{
    struct sqlitei_store *s = sqlitei_store(base);

    (void)sqlite3_finalize(s->get);
    sql_close(s->db);
    sql_table_free(s->shape);
    free(s->columns);
    buf_fini(&s->subset);
    buf_fini(&s->row_key);
    buf_fini(&s->row_raw);
    buf_fini(&s->row_fields);
    buf_fini(&s->row_version);
}

static int
open_store(struct store *base, const struct conf *conf, struct err *err)
{
    struct sqlitei_store *s = sqlitei_store(base);
    int                   rc;

    buf_init(&s->row_raw, ROW_MAX);
    buf_init(&s->row_fields, ROW_MAX);
    TRY(take_conf(s, conf, err));
    TRY(sql_open(s->path, SQL_WRITE, BUSY_MS, &s->db, err));
    TRY(sql_run(s->db, err, "PRAGMA synchronous = FULL"));
    TRY(sql_table_load(s->db, s->table, &s->shape, err));
    TRY(check_columns(s, err));
    s->null_columns =
        conf_has(conf, "on_delete") ? conf_enum(conf, "on_delete") == 1 : !moves_all(s);
    base->del_keeps_row = s->null_columns;
    make_subset(s);
    if (s->subset.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(prepare_get(s, err));
out:
    if (rc != 0) {
        err_prefix(err, "store %s", base->instance);
        close_store(base);
    }
    return rc;
}

int
sqlitei_key_bind(struct sqlitei_store *s, struct sqlite3_stmt *stmt, int at, struct slice key,
                 struct err *err)
{
    int64_t number;

    if (s->base.key_order == STORE_KEY_TEXT) {
        sql_bind_slice(stmt, at, key);
        return 0;
    }
    if (!json_int64(key, &number))
        RETURN_ERR(err, E_REJECTED, ERR_DATA, "table %s: a key that is no whole number", s->table);
    (void)sqlite3_bind_int64(stmt, at, number);
    return 0;
}

static void
take_version(struct sqlitei_store *s, struct sqlite3_stmt *stmt)
{
    XXH128_hash_t h;

    buf_clear(&s->row_version);
    if (s->version_column != NULL) {
        sql_column_key(&s->row_version, stmt, (int)s->count + 1, false);
        return;
    }
    h = XXH3_128bits(s->row_fields.data, s->row_fields.len);
    buf_printf(&s->row_version, "%016llx%016llx", (unsigned long long)h.high64,
               (unsigned long long)h.low64);
}

int
sqlitei_row_take(struct sqlitei_store *s, struct sqlite3_stmt *stmt, struct store_row *row,
                 struct err *err)
{
    int want = s->base.key_order == STORE_KEY_INTEGER ? SQLITE_INTEGER : SQLITE_TEXT;
    int rc;

    if (sqlite3_column_type(stmt, 0) != want)
        FAIL(err, E_SCHEMA, ERR_FATAL, "table %s has a key of another type than `key_order` says",
             s->table);
    buf_clear(&s->row_key);
    buf_clear(&s->row_raw);
    buf_clear(&s->row_fields);
    sql_column_key(&s->row_key, stmt, 0, false);
    for (uint32_t i = 0; i < s->count; i++) {
        buf_add_byte(&s->row_raw, i == 0 ? '{' : ',');
        json_put_str(&s->row_raw, s->columns[i]);
        buf_add_byte(&s->row_raw, ':');
        sql_column_json(&s->row_raw, stmt, (int)i + 1);
    }
    buf_add_byte(&s->row_raw, '}');
    if (s->row_key.failed || s->row_raw.failed)
        FAIL(err, E_LIMIT, ERR_FATAL, "table %s has a row of more than %zu bytes", s->table,
             ROW_MAX);
    TRY(json_canonical(buf_slice(&s->row_raw), &s->row_fields, err));
    take_version(s, stmt);
    row->key = buf_slice(&s->row_key);
    row->fields = buf_slice(&s->row_fields);
    row->version = buf_slice(&s->row_version);
out:
    return rc;
}

int
sqlitei_row_get(struct sqlitei_store *s, struct slice key, struct store_row *row, struct err *err)
{
    bool found;
    int  rc;

    TRY(sqlitei_key_bind(s, s->get, 1, key, err));
    TRY(sql_step(s->get, &found, err));
    if (!found)
        FAIL(err, E_NOTFOUND, ERR_DATA, "table %s: no such row", s->table);
    TRY(sqlitei_row_take(s, s->get, row, err));
out:
    (void)sqlite3_reset(s->get);
    return rc;
}

static int
get(struct store *base, struct slice key, struct store_row *row, struct err *err)
{
    return sqlitei_row_get(sqlitei_store(base), key, row, err);
}

static int
scan(struct store *base, struct slice after, uint32_t limit, store_row_fn *fn, void *arg,
     struct err *err)
{
    struct sqlitei_store *s = sqlitei_store(base);
    struct sqlite3_stmt  *stmt = NULL;
    struct store_row      row;
    struct buf            text = {0};
    bool                  more;
    int                   rc;

    sqlitei_row_select(s, &text);
    /* A NULL among the keys would be left out silently: let the type check see it. */
    if (after.len > 0)
        sql_add(&text, " AND \"%w\" COLLATE BINARY > ?1", s->key);
    sql_add(&text, " ORDER BY \"%w\" COLLATE BINARY", s->key);
    if (limit > 0)
        sql_add(&text, " LIMIT %u", limit);
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_prepare_text(s->db, buf_slice(&text), &stmt, err));
    if (after.len > 0)
        TRY(sqlitei_key_bind(s, stmt, 1, after, err));
    for (;;) {
        TRY(sql_step(stmt, &more, err));
        if (!more)
            break;
        TRY(sqlitei_row_take(s, stmt, &row, err));
        TRY(fn(arg, &row, err));
    }
out:
    (void)sqlite3_finalize(stmt);
    buf_fini(&text);
    return rc;
}

static int
position(struct store *base, struct buf *out, struct err *err)
{
    struct sqlitei_store *s = sqlitei_store(base);
    int64_t               there, seq;
    int                   rc;

    TRY(sql_number(s->db, 0, &there, err,
                   "SELECT count(*) FROM main.sqlite_schema WHERE name = 'oxbow_changes'"));
    if (there == 0)
        FAIL(err, E_STATE, ERR_FATAL,
             "store %s: %s has no change table; run `oxbow source prepare` for its source",
             base->instance, s->path);
    TRY(sql_number(s->db, 0, &seq, err, "SELECT max(seq) FROM oxbow_changes"));
    buf_printf(out, "{\"seq\":%lld}", (long long)seq);
out:
    return rc;
}

static int
check(struct store *base, store_finding_fn *say, void *arg, struct err *err)
{
    struct sqlitei_store *s = sqlitei_store(base);
    struct store_guard    g;
    int64_t               nulls;
    int                   rc;

    TRY(sql_number(s->db, 0, &nulls, err, "SELECT count(*) FROM \"%w\" WHERE \"%w\" IS NULL",
                   s->table, s->key));
    if (nulls > 0)
        say(arg, 2, "the table has rows whose key is NULL");
    rc = sqlitei_guard_get(base, &g, err);
    say(arg, rc == 0 ? 0 : 1,
        rc == 0            ? "the guard is installed"
        : rc == E_NOTFOUND ? "no guard is installed yet; the migration does it"
                           : err->text);
    rc = 0;
    err_clear(err);
out:
    return rc;
}

const struct store_ops store_sqlite_ops = {
    .name = "sqlite",
    .size = sizeof(struct sqlitei_store),
    .schema = &schema,
    .open = open_store,
    .close = close_store,
    .check = check,
    .scan = scan,
    .get = get,
    .put = sqlitei_write_put,
    .del = sqlitei_write_del,
    .position = position,
    .guard_install = sqlitei_guard_install,
    .guard_set = sqlitei_guard_set,
    .guard_get = sqlitei_guard_get,
    .guard_remove = sqlitei_guard_remove,
};
