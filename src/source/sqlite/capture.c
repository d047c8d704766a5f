/*
 * Captures: what of a table is recorded. Each has its line in oxbow_tables and
 * five triggers, whose texts tell whether it is still what it was.
 */
#include <sqlite3.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "source/sqlite/sqlite_int.h"

void
sqlitei_capture_fini(struct sqlitei_capture *c)
{
    for (uint32_t i = 0; c->columns != NULL && i < c->count; i++)
        free(c->columns[i]);
    free(c->columns);
    free(c->key);
    free(c->name);
    sql_table_free(c->shape);
    *c = (struct sqlitei_capture){0};
}

static int
make_room(struct sqlitei_capture *c, const char *name, size_t columns, struct err *err)
{
    if (columns > SQLITEI_COLUMNS_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "%s: more than %d columns to capture", name,
                   SQLITEI_COLUMNS_MAX);
    c->name = strdup(name);
    c->columns = calloc(columns + 1, sizeof c->columns[0]);
    c->key = calloc(columns + 1, sizeof c->key[0]);
    if (c->name == NULL || c->columns == NULL || c->key == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

static bool
has_column(const struct sql_unique *u, uint32_t col)
{
    for (uint32_t i = 0; i < u->count; i++) {
        if (u->cols[i] == col)
            return true;
    }
    return false;
}

/* The unique key with exactly the columns that the configuration gives. */
static int
find_key(const struct sqlitei_want *want, const struct sql_table *t, const struct sql_unique **out,
         struct err *err)
{
    for (uint32_t i = 0; i < t->unique_count; i++) {
        const struct sql_unique *u = &t->uniques[i];
        uint32_t                 found = 0;

        if (want->key == NULL ? !u->primary : u->count != want->key_count)
            continue;
        for (uint32_t k = 0; k < want->key_count; k++) {
            int at;

            must(want->key != NULL);
            at = sql_table_find(t, slice_str(want->key[k]));
            found += at >= 0 && has_column(u, (uint32_t)at) && (u->primary || t->cols[at].not_null);
        }
        if (found == want->key_count && u->count > 0) {
            *out = u;
            return 0;
        }
    }
    if (want->key == NULL)
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL,
                   "table %s has no primary key: give it one, or name the columns of a UNIQUE NOT "
                   "NULL key in `key`",
                   t->name);
    RETURN_ERR(err, E_SCHEMA, ERR_FATAL,
               "table %s: the columns in `key` are no UNIQUE NOT NULL key of it", t->name);
}

static bool
is_wanted(const struct sqlitei_want *want, const char *column)
{
    for (uint32_t i = 0; i < want->column_count; i++) {
        if (sqlite3_stricmp(want->columns[i], column) == 0)
            return true;
    }
    return want->columns == NULL;
}

static int
take_columns(const struct sqlitei_want *want, struct sqlitei_capture *c, struct err *err)
{
    const struct sql_table *t = c->shape;

    for (uint32_t i = 0; i < t->count; i++) {
        bool key = has_column(c->unique, i);

        if (!key && !is_wanted(want, t->cols[i].name))
            continue;
        c->columns[c->count] = strdup(t->cols[i].name);
        if (c->columns[c->count] == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        c->count++;
    }
    for (uint32_t k = 0; k < c->unique->count; k++) {
        const char *name = t->cols[c->unique->cols[k]].name;

        for (uint32_t i = 0; i < c->count; i++) {
            must(c->columns[i] != NULL);
            if (strcmp(c->columns[i], name) == 0)
                c->key[c->key_count++] = i;
        }
    }
    must(c->key_count == c->unique->count);
    return 0;
}

int
sqlitei_capture_plan(struct sqlite3 *db, const struct sqlitei_want *want,
                     struct sqlitei_capture *out, struct err *err)
{
    struct sqlitei_capture c = {0};
    int                    rc;

    TRY(sql_table_load(db, want->name, &c.shape, err));
    TRY(find_key(want, c.shape, &c.unique, err));
    if (c.shape->expressions)
        FAIL(err, E_SCHEMA, ERR_FATAL,
             "table %s has a unique index over an expression: rows that REPLACE deletes through it "
             "cannot be seen",
             c.shape->name);
    for (uint32_t i = 0; i < want->column_count; i++) {
        if (sql_table_find(c.shape, slice_str(want->columns[i])) < 0)
            FAIL(err, E_SCHEMA, ERR_FATAL, "table %s has no column %s", c.shape->name,
                 want->columns[i]);
    }
    TRY(make_room(&c, c.shape->name, c.shape->count, err));
    TRY(take_columns(want, &c, err));
    *out = c;
    c = (struct sqlitei_capture){0};
out:
    sqlitei_capture_fini(&c);
    return rc;
}

/* ["a","b"]: the columns, and which of them are the key. */
static int
read_names(struct slice columns, struct slice key, struct sqlitei_capture *c, struct err *err)
{
    struct json_iter it;
    struct slice     value;
    struct buf       text = {0};
    int64_t          at;
    int              rc;

    TRY(json_array_iter(&it, columns, err));
    while ((rc = json_iter_next(&it, NULL, &value, err)) == 0) {
        if (c->count == SQLITEI_COLUMNS_MAX)
            FAIL(err, E_DAMAGED, ERR_FATAL, "oxbow_tables: too many columns");
        buf_clear(&text);
        TRY(json_string_decode(value, &text, err));
        c->columns[c->count] = strndup(text.len == 0 ? "" : (const char *)text.data, text.len);
        if (c->columns[c->count] == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
        c->count++;
    }
    if (rc != E_END)
        goto out;
    TRY(json_array_iter(&it, key, err));
    while ((rc = json_iter_next(&it, NULL, &value, err)) == 0) {
        if (!json_int64(value, &at) || at < 0 || at >= c->count || c->key_count == c->count)
            FAIL(err, E_DAMAGED, ERR_FATAL, "oxbow_tables: a key column that is not there");
        c->key[c->key_count++] = (uint32_t)at;
    }
    if (rc == E_END)
        rc = 0;
out:
    buf_fini(&text);
    return rc;
}

int
sqlitei_capture_load(struct sqlite3 *db, int64_t id, struct sqlitei_capture *out, struct err *err)
{
    struct sqlite3_stmt   *stmt = NULL;
    struct sqlitei_capture c = {.id = id};
    bool                   row;
    int                    rc;

    TRY(sql_prepare(db, &stmt, err, "SELECT name, columns, key FROM oxbow_tables WHERE id = %lld",
                    (long long)id));
    TRY(sql_step(stmt, &row, err));
    if (!row)
        FAIL(err, E_NOTFOUND, ERR_FATAL, "oxbow_tables has no capture %lld", (long long)id);
    TRY(make_room(&c, (const char *)sqlite3_column_text(stmt, 0), SQLITEI_COLUMNS_MAX, err));
    TRY(read_names(sql_column_slice(stmt, 1), sql_column_slice(stmt, 2), &c, err));
    *out = c;
    c = (struct sqlitei_capture){0};
out:
    (void)sqlite3_finalize(stmt);
    sqlitei_capture_fini(&c);
    return rc;
}

static int
find_live(struct sqlite3 *db, const char *name, int64_t *id, struct err *err)
{
    return sql_number(db, 0, id, err, "SELECT max(id) FROM oxbow_tables WHERE name = %Q AND live",
                      name);
}

static bool
captures(const struct sqlitei_capture *c, const char *column)
{
    for (uint32_t i = 0; i < c->count; i++) {
        if (strcmp(c->columns[i], column) == 0)
            return true;
    }
    return false;
}

/* Sets *verdict to CAPTURE_BROKEN where a recorded column or the key is not what it was. */
static void
compare_columns(const struct sqlitei_capture *old, const struct sqlitei_capture *plan,
                enum sqlitei_verdict *verdict, struct err *why)
{
    for (uint32_t i = 0; i < old->count; i++) {
        if (sql_table_find(plan->shape, slice_str(old->columns[i])) < 0) {
            (void)err_set(why, __FILE__, __LINE__, E_SCHEMA, ERR_FATAL,
                          "table %s has lost its column %s", plan->name, old->columns[i]);
            *verdict = CAPTURE_BROKEN;
            return;
        }
    }
    for (uint32_t i = 0; i < old->key_count || i < plan->key_count; i++) {
        if (old->key_count != plan->key_count ||
            strcmp(old->columns[old->key[i]], plan->columns[plan->key[i]]) != 0) {
            (void)err_set(why, __FILE__, __LINE__, E_SCHEMA, ERR_FATAL,
                          "table %s has another key than it had", plan->name);
            *verdict = CAPTURE_BROKEN;
            return;
        }
    }
    for (uint32_t i = 0; i < plan->count; i++) {
        if (!captures(old, plan->columns[i])) {
            (void)err_set(why, __FILE__, __LINE__, E_SCHEMA, ERR_RETRY,
                          "table %s has a new column %s", plan->name, plan->columns[i]);
            *verdict = CAPTURE_CHANGED;
        }
    }
    if (*verdict == CAPTURE_SAME && old->count != plan->count)
        *verdict = CAPTURE_CHANGED;
}

/* Each trigger's text against what it would be now. */
static int
compare_triggers(struct sqlite3 *db, const struct sqlitei_capture *plan,
                 enum sqlitei_verdict *verdict, struct err *why, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    struct buf           text = {0};
    bool                 row;
    int                  rc;

    TRY(sql_prepare(db, &stmt, err,
                    "SELECT sql FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1"));
    for (unsigned kind = 0; kind < SQLITEI_TRIGGERS; kind++) {
        buf_clear(&text);
        sqlitei_trigger_name(&text, plan->name, kind);
        sql_bind_slice(stmt, 1, buf_slice(&text));
        TRY(sql_step(stmt, &row, err));
        if (!row) {
            (void)err_set(why, __FILE__, __LINE__, E_STATE, ERR_FATAL,
                          "table %s has lost the trigger %.*s", plan->name,
                          SLICE_FMT(buf_slice(&text)));
            *verdict = CAPTURE_BROKEN;
            break;
        }
        buf_clear(&text);
        sqlitei_trigger_sql(&text, plan, kind);
        if (!slice_eq(buf_slice(&text), sql_column_slice(stmt, 0)) && *verdict == CAPTURE_SAME) {
            (void)err_set(why, __FILE__, __LINE__, E_SCHEMA, ERR_RETRY,
                          "table %s has other unique keys", plan->name);
            *verdict = CAPTURE_CHANGED;
        }
        (void)sqlite3_reset(stmt);
    }
out:
    (void)sqlite3_finalize(stmt);
    buf_fini(&text);
    return rc;
}

int
sqlitei_capture_judge(struct sqlite3 *db, struct sqlitei_capture *plan,
                      enum sqlitei_verdict *verdict, struct err *why, struct err *err)
{
    struct sqlitei_capture old = {0};
    bool                   there;
    int                    rc;

    *verdict = CAPTURE_NEW;
    err_clear(why);
    TRY(sqlitei_feed_there(db, &there, err));
    if (!there)
        goto out;
    TRY(find_live(db, plan->name, &plan->id, err));
    if (plan->id == 0)
        goto out;
    TRY(sqlitei_capture_load(db, plan->id, &old, err));
    *verdict = CAPTURE_SAME;
    compare_columns(&old, plan, verdict, why);
    if (*verdict != CAPTURE_BROKEN)
        TRY(compare_triggers(db, plan, verdict, why, err));
out:
    sqlitei_capture_fini(&old);
    return rc;
}

static int
drop_triggers(struct sqlite3 *db, const char *table, struct err *err)
{
    struct buf name = {0};
    int        rc = 0;

    for (unsigned kind = 0; rc == 0 && kind < SQLITEI_TRIGGERS; kind++) {
        buf_clear(&name);
        sqlitei_trigger_name(&name, table, kind);
        buf_add_byte(&name, 0);
        if (name.failed)
            rc = err_set(err, __FILE__, __LINE__, E_NOMEM, ERR_RETRY, "out of memory");
        else
            rc = sql_run(db, err, "DROP TRIGGER IF EXISTS main.\"%w\"", (const char *)name.data);
    }
    buf_fini(&name);
    return rc;
}

/* The change table and the notes have a place for every column of the widest capture. */
static int
widen(struct sqlite3 *db, const char *table, const char *sides, uint32_t count, struct err *err)
{
    int64_t have;
    int     rc;

    for (; *sides != '\0'; sides++) {
        TRY(sql_number(db, 0, &have, err,
                       "SELECT count(*) FROM pragma_table_info(%Q) WHERE name GLOB '%c[0-9]*'",
                       table, *sides));
        for (int64_t i = have; i < count; i++)
            TRY(sql_run(db, err, "ALTER TABLE \"%w\" ADD COLUMN %c%lld", table, *sides,
                        (long long)i));
    }
out:
    return rc;
}

static int
record(struct sqlite3 *db, struct sqlitei_capture *c, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    struct buf           columns = {0}, key = {0};
    struct json_out      o;
    int                  rc;

    json_out_init(&o, &columns);
    json_out_array(&o);
    for (uint32_t i = 0; i < c->count; i++)
        json_out_str(&o, c->columns[i]);
    json_out_array_end(&o);
    json_out_init(&o, &key);
    json_out_array(&o);
    for (uint32_t i = 0; i < c->key_count; i++)
        json_out_u64(&o, c->key[i]);
    json_out_array_end(&o);
    if (columns.failed || key.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_run(db, err, "UPDATE oxbow_tables SET live = 0 WHERE name = %Q", c->name));
    TRY(sql_prepare(db, &stmt, err,
                    "INSERT INTO oxbow_tables(name, columns, key, live) VALUES (?1, ?2, ?3, 1)"));
    sql_bind_slice(stmt, 1, slice_str(c->name));
    sql_bind_slice(stmt, 2, buf_slice(&columns));
    sql_bind_slice(stmt, 3, buf_slice(&key));
    TRY(sql_finish(stmt, err));
    c->id = sqlite3_last_insert_rowid(db);
out:
    (void)sqlite3_finalize(stmt);
    buf_fini(&columns);
    buf_fini(&key);
    return rc;
}

int
sqlitei_capture_install(struct sqlite3 *db, struct sqlitei_capture *plan, struct err *err)
{
    struct buf text = {0};
    int        rc;

    TRY(widen(db, "oxbow_changes", "ba", plan->count, err));
    TRY(widen(db, "oxbow_notes", "b", plan->count, err));
    TRY(record(db, plan, err));
    TRY(drop_triggers(db, plan->name, err));
    for (unsigned kind = 0; kind < SQLITEI_TRIGGERS; kind++) {
        buf_clear(&text);
        sqlitei_trigger_sql(&text, plan, kind);
        TRY(sql_run_buf(db, &text, err));
    }
out:
    buf_fini(&text);
    return rc;
}

int
sqlitei_capture_remove(struct sqlite3 *db, const char *table, struct err *err)
{
    int rc;

    TRY(drop_triggers(db, table, err));
    TRY(sql_run(db, err, "UPDATE oxbow_tables SET live = 0 WHERE name = %Q", table));
out:
    return rc;
}

int
sqlitei_feed_there(struct sqlite3 *db, bool *there, struct err *err)
{
    int64_t count;
    int     rc;

    TRY(sql_number(db, 0, &count, err,
                   "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' "
                   "AND name = 'oxbow_changes'"));
    *there = count > 0;
out:
    return rc;
}

int
sqlitei_feed_install(struct sqlite3 *db, struct ox_env *env, const char *reader, struct err *err)
{
    static const char *const made[] = {
        "CREATE TABLE IF NOT EXISTS oxbow_changes("
        "seq INTEGER PRIMARY KEY, tbl INTEGER NOT NULL, op TEXT NOT NULL, origin TEXT, at INTEGER)",
        "CREATE TABLE IF NOT EXISTS oxbow_notes(tbl INTEGER NOT NULL, f TEXT, k TEXT)",
        "CREATE INDEX IF NOT EXISTS oxbow_notes_f ON oxbow_notes(tbl, f)",
        "CREATE INDEX IF NOT EXISTS oxbow_notes_k ON oxbow_notes(tbl, k)",
        "CREATE TABLE IF NOT EXISTS oxbow_tables(id INTEGER PRIMARY KEY AUTOINCREMENT, "
        "name TEXT NOT NULL, columns TEXT NOT NULL, key TEXT NOT NULL, live INTEGER NOT NULL)",
        "CREATE TABLE IF NOT EXISTS oxbow_readers(name TEXT PRIMARY KEY, seq INTEGER NOT NULL) "
        "WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS oxbow_feed(one INTEGER PRIMARY KEY CHECK (one = 1), "
        "id TEXT NOT NULL)",
    };
    uint64_t id;
    int      rc;

    TRY(sql_origin_install(db, err));
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++)
        TRY(sql_run(db, err, "%s", made[i]));
    env->ops->random(env, &id, sizeof id);
    TRY(sql_run(db, err,
                "INSERT INTO oxbow_feed(one, id) SELECT 1, '%016llx' WHERE NOT EXISTS "
                "(SELECT 1 FROM oxbow_feed)",
                (unsigned long long)id));
    /* The first line, so that the table is never empty. */
    TRY(sql_run(db, err,
                "INSERT INTO oxbow_changes(seq, tbl, op) SELECT 1, 0, 'p' WHERE NOT EXISTS "
                "(SELECT 1 FROM oxbow_changes)"));
    TRY(sql_run(db, err,
                "INSERT INTO oxbow_readers(name, seq) SELECT %Q, (SELECT max(seq) FROM "
                "oxbow_changes) WHERE NOT EXISTS (SELECT 1 FROM oxbow_readers WHERE name = %Q)",
                reader, reader));
out:
    return rc;
}

int
sqlitei_feed_remove(struct sqlite3 *db, struct err *err)
{
    static const char *const gone[] = {"oxbow_changes", "oxbow_notes", "oxbow_tables",
                                       "oxbow_readers", "oxbow_feed"};
    int                      rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof gone / sizeof gone[0]; i++)
        rc = sql_run(db, err, "DROP TABLE IF EXISTS main.\"%w\"", gone[i]);
    return rc;
}
