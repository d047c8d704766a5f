/*
 * Writes: one transaction each, synced, with the origin mark that triggers
 * see, and read back before the commit: a value that the column would keep as
 * another one (an affinity, a trigger of the application) is refused.
 */
#include <sqlite3.h>
#include <stdlib.h>

#include "base/json.h"
#include "store/sqlite/sqlite_int.h"

/* The condition against the row as it is; *there tells put and del what to do. */
static int
hold(struct sqlitei_store *s, const struct store_write *w, bool *there, struct err *err)
{
    struct store_row row = {0};
    struct buf       expect = {0};
    bool             ok = true;
    int              rc;

    rc = sqlitei_row_get(s, w->key, &row, err);
    *there = rc == 0;
    if (rc == E_NOTFOUND) {
        err_clear(err);
        rc = 0;
    }
    TRY(rc);
    switch (w->cond) {
    case STORE_ANY:
        break;
    case STORE_ABSENT:
        ok = !*there;
        break;
    case STORE_VERSION:
        ok = *there && slice_eq(row.version, w->expect);
        break;
    case STORE_EQUALS:
        TRY(json_canonical(w->expect, &expect, err));
        ok = *there && slice_eq(row.fields, buf_slice(&expect));
        break;
    }
    if (!ok)
        FAIL(err, E_WRONG_VERSION, ERR_DATA, "table %s: the row is %s", s->table,
             w->cond == STORE_ABSENT ? "there already"
             : *there                ? "another than expected"
                                     : "not there");
out:
    buf_fini(&expect);
    return rc;
}

/* Opens the transaction and puts the mark, when epoch and condition allow it. */
static int
begin(struct sqlitei_store *s, const struct store_write *w, bool *there, struct err *err)
{
    int rc;

    TRY(sql_begin_write(s->db, err));
    TRY(sqlitei_guard_admit(s, w->epoch, err));
    TRY(hold(s, w, there, err));
    if (w->origin.len > 0) {
        TRY(sql_origin_install(s->db, err));
        TRY(sql_origin_set(s->db, w->origin, err));
    }
out:
    return rc;
}

static int
end(struct sqlitei_store *s, const struct store_write *w, struct err *err)
{
    int rc;

    if (w->origin.len > 0)
        TRY(sql_origin_set(s->db, slice_str(""), err));
    rc = sql_commit(s->db, err);
    if (rc == E_IO)
        err->kind = ERR_UNSURE;
out:
    return rc;
}

/* A refusal by the guard itself is a fence, not bad data. */
static int
judge(struct sqlitei_store *s, int rc, struct err *err)
{
    if (rc == E_REJECTED && err != NULL && strstr(err->text, ": oxbow: ") != NULL)
        err->code = rc = E_FENCED;
    return rc;
}

static void
add_value(struct buf *b, uint32_t at)
{
    sql_add(b, "?%u", at + 2);
}

/* ?1 is the key, ?2 … the moved columns. */
static void
make_update(const struct sqlitei_store *s, struct buf *b)
{
    const char *glue = "";

    sql_add(b, "UPDATE \"%w\" SET ", s->table);
    for (uint32_t i = 0; i < s->count; i++) {
        if (sqlitei_is_key(s, i))
            continue;
        sql_add(b, "%s\"%w\" = ", glue, s->columns[i]);
        add_value(b, i);
        glue = ", ";
    }
    if (s->version_column != NULL)
        sql_add(b, "%s\"%w\" = coalesce(\"%w\", 0) + 1", glue, s->version_column,
                s->version_column);
    else if (glue[0] == '\0')
        sql_add(b, "\"%w\" = \"%w\"", s->key, s->key);
    sql_add(b, " WHERE \"%w\" = ?1 AND \"%w\" = ?1 COLLATE BINARY", s->key, s->key);
}

static void
make_insert(const struct sqlitei_store *s, struct buf *b)
{
    sql_add(b, "INSERT INTO \"%w\"(\"%w\"", s->table, s->key);
    for (uint32_t i = 0; i < s->count; i++) {
        if (!sqlitei_is_key(s, i))
            sql_add(b, ", \"%w\"", s->columns[i]);
    }
    buf_add_str(b, ") VALUES (?1");
    for (uint32_t i = 0; i < s->count; i++) {
        if (!sqlitei_is_key(s, i)) {
            buf_add_str(b, ", ");
            add_value(b, i);
        }
    }
    buf_add_byte(b, ')');
}

/* Runs the statement for one row; *changed rows. */
static int
run_one(struct sqlitei_store *s, const struct buf *text, struct slice key,
        const struct json_field *values, int *changed, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    int                  rc;

    if (text->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_prepare_text(s->db, buf_slice(text), &stmt, err));
    TRY(sqlitei_key_bind(s, stmt, 1, key, err));
    for (uint32_t i = 0; values != NULL && i < s->count; i++) {
        if (!sqlitei_is_key(s, i))
            TRY(sql_bind_json(stmt, (int)i + 2, values[i].value, err));
    }
    TRY(sql_finish(stmt, err));
    *changed = sqlite3_changes(s->db);
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

static int
read_back(struct sqlitei_store *s, const struct store_write *w, struct err *err)
{
    struct store_row row;
    struct buf       want = {0};
    int              rc;

    TRY(json_canonical(w->fields, &want, err));
    rc = sqlitei_row_get(s, w->key, &row, err);
    if (rc == E_NOTFOUND)
        FAIL(err, E_REJECTED, ERR_DATA,
             "table %s: after the write the row would not be one of those that move (see `where`)",
             s->table);
    TRY(rc);
    if (!slice_eq(row.fields, buf_slice(&want)))
        FAIL(err, E_REJECTED, ERR_DATA,
             "table %s: a column does not keep its value as it is (type affinity, or a trigger)",
             s->table);
out:
    buf_fini(&want);
    return rc;
}

int
sqlitei_write_put(struct store *base, const struct store_write *w, struct err *err)
{
    struct sqlitei_store *s = sqlitei_store(base);
    struct json_field    *values = calloc(s->count, sizeof values[0]);
    struct buf            text = {0};
    bool                  there;
    int                   changed = 0;
    int                   rc;

    if (values == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (uint32_t i = 0; i < s->count; i++)
        values[i] = (struct json_field){.name = s->columns[i], .required = true};
    TRY(json_pick(w->fields, values, s->count, JSON_PICK_ONLY, err));
    TRY(begin(s, w, &there, err));
    make_update(s, &text);
    TRY(run_one(s, &text, w->key, values, &changed, err));
    if (changed == 0) {
        buf_clear(&text);
        make_insert(s, &text);
        TRY(run_one(s, &text, w->key, values, &changed, err));
    }
    TRY(read_back(s, w, err));
    TRY(end(s, w, err));
out:
    sql_rollback(s->db);
    buf_fini(&text);
    free(values);
    return judge(s, rc, err);
}

static void
make_delete(const struct sqlitei_store *s, struct buf *b)
{
    const char *glue = "";

    if (!s->null_columns) {
        sql_add(b, "DELETE FROM \"%w\"", s->table);
    } else {
        sql_add(b, "UPDATE \"%w\" SET ", s->table);
        for (uint32_t i = 0; i < s->count; i++) {
            if (sqlitei_is_key(s, i))
                continue;
            sql_add(b, "%s\"%w\" = NULL", glue, s->columns[i]);
            glue = ", ";
        }
    }
    sql_add(b, " WHERE \"%w\" = ?1 AND \"%w\" = ?1 COLLATE BINARY", s->key, s->key);
}

int
sqlitei_write_del(struct store *base, const struct store_write *w, struct err *err)
{
    struct sqlitei_store *s = sqlitei_store(base);
    struct store_write    any = *w;
    struct store_row      row;
    struct buf            text = {0};
    bool                  there = false;
    int                   changed;
    int                   rc;

    TRY(sql_begin_write(s->db, err));
    TRY(sqlitei_guard_admit(s, w->epoch, err));
    rc = sqlitei_row_get(s, w->key, &row, err);
    if (rc == E_NOTFOUND) {
        err_clear(err);
        rc = 0;
        goto out;
    }
    TRY(rc);
    sql_rollback(s->db);
    TRY(begin(s, &any, &there, err));
    make_delete(s, &text);
    TRY(run_one(s, &text, w->key, NULL, &changed, err));
    rc = sqlitei_row_get(s, w->key, &row, err);
    if (rc == 0)
        FAIL(err, E_REJECTED, ERR_DATA,
             "table %s: the row would still be one of those that move (see `where`)", s->table);
    if (rc != E_NOTFOUND)
        goto out;
    err_clear(err);
    TRY(end(s, w, err));
out:
    sql_rollback(s->db);
    buf_fini(&text);
    return judge(s, rc, err);
}
