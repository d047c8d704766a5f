/*
 * The guard: one line {epoch, writable, moved_to} and triggers that refuse
 * what it forbids, in the database that has the rows. Flipping it takes the
 * write lock first: every earlier writer has committed, every later one meets
 * the new line.
 *
 * Before RAISE took an expression its text had to be a literal, so the
 * triggers are made anew when the guard is set.
 */
#include <sqlite3.h>
#include <stdio.h>

#include "store/sqlite/sqlite_int.h"

#define GUARD_TRIGGERS 4

static void
add_name(struct buf *b, const struct sqlitei_store *s, unsigned kind)
{
    static const char *const kinds[GUARD_TRIGGERS] = {"i", "u", "d", "n"};

    buf_add_str(b, "oxbow_guard_");
    buf_add_str(b, kinds[kind]);
    buf_add_byte(b, '_');
    buf_add_str(b, s->scope);
}

/* The guard says no, and this is none of Oxbow's own writes. */
static void
add_closed(struct buf *b, const struct sqlitei_store *s)
{
    sql_add(b,
            "(SELECT writable FROM oxbow_guard WHERE scope = %Q) = 0 "
            "AND NOT EXISTS (SELECT 1 FROM oxbow_origin)",
            s->scope);
}

/* The row condition over OLD or NEW: the bare names become those of a row of its own. */
static void
add_moves(struct buf *b, const struct sqlitei_store *s, const char *row)
{
    buf_add_str(b, "EXISTS (SELECT 1 FROM (SELECT ");
    for (uint32_t i = 0; i < s->shape->count; i++)
        sql_add(b, "%s%s.\"%w\" AS \"%w\"", i == 0 ? "" : ", ", row, s->shape->cols[i].name,
                s->shape->cols[i].name);
    sql_add(b, ") AS \"%w\" WHERE ", s->table);
    buf_add_slice(b, buf_slice(&s->subset));
    buf_add_byte(b, ')');
}

static void
add_changed(struct buf *b, const struct sqlitei_store *s)
{
    sql_add(b, "(OLD.\"%w\" IS NOT NEW.\"%w\"", s->key, s->key);
    for (uint32_t i = 0; i < s->count; i++)
        sql_add(b, " OR OLD.\"%w\" IS NOT NEW.\"%w\" COLLATE BINARY", s->columns[i], s->columns[i]);
    buf_add_byte(b, ')');
}

/* The rows that move and that an INSERT OR REPLACE of NEW would delete without a trigger. */
static void
add_conflicts(struct buf *b, const struct sqlitei_store *s)
{
    const char *glue = "((";

    for (uint32_t i = 0; i < s->shape->unique_count; i++) {
        if (s->shape->uniques[i].count == 0)
            continue;
        buf_add_str(b, glue);
        sql_unique_match(b, s->shape, &s->shape->uniques[i], "t", "NEW");
        glue = ") OR (";
    }
    buf_add_str(b, "))");
}

static void
add_raise(struct buf *b, const struct sqlitei_store *s, const struct store_guard *g)
{
    char text[512];

    (void)snprintf(text, sizeof text, "oxbow: %.100s is now written at %s (epoch %llu)", s->table,
                   g->moved_to[0] == '\0' ? "another place" : g->moved_to,
                   (unsigned long long)g->epoch);
    sql_add(b, "RAISE(ABORT, %Q)", text);
}

/* Before an insert: notes the keys of rows in the subset that it may replace. */
static void
add_note(struct buf *b, const struct sqlitei_store *s)
{
    sql_add(b, " BEFORE INSERT ON \"%w\" WHEN ", s->table);
    add_closed(b, s);
    sql_add(b,
            " BEGIN DELETE FROM oxbow_guard_notes WHERE scope = %Q; "
            "INSERT INTO oxbow_guard_notes(scope, k) SELECT %Q, t.\"%w\" FROM ",
            s->scope, s->scope, s->key);
    sql_add(b, "(SELECT * FROM \"%w\" WHERE ", s->table);
    buf_add_slice(b, buf_slice(&s->subset));
    buf_add_str(b, ") AS t WHERE ");
    add_conflicts(b, s);
    buf_add_str(b, "; END");
}

/*
 * After an insert: a new row of the subset, or one that has replaced a row of
 * it. Notes of an upsert are left over and mean nothing, since the next insert
 * drops them first; the update triggers see what an upsert does.
 */
static void
add_insert(struct buf *b, const struct sqlitei_store *s, const struct store_guard *g)
{
    sql_add(b, " AFTER INSERT ON \"%w\" WHEN ", s->table);
    add_closed(b, s);
    buf_add_str(b, " AND (");
    add_moves(b, s, "NEW");
    sql_add(b,
            " OR EXISTS (SELECT 1 FROM oxbow_guard_notes AS n WHERE n.scope = %Q AND "
            "(n.k = NEW.\"%w\" OR NOT EXISTS (SELECT 1 FROM \"%w\" AS t WHERE t.\"%w\" = n.k))))",
            s->scope, s->key, s->table, s->key);
    buf_add_str(b, " BEGIN SELECT ");
    add_raise(b, s, g);
    buf_add_str(b, "; END");
}

static void
add_update(struct buf *b, const struct sqlitei_store *s, const struct store_guard *g)
{
    sql_add(b, " BEFORE UPDATE OF \"%w\"", s->key);
    for (uint32_t i = 0; i < s->count; i++)
        sql_add(b, ", \"%w\"", s->columns[i]);
    sql_add(b, " ON \"%w\" WHEN ", s->table);
    add_closed(b, s);
    buf_add_str(b, " AND ");
    add_changed(b, s);
    buf_add_str(b, " AND (");
    add_moves(b, s, "OLD");
    buf_add_str(b, " OR ");
    add_moves(b, s, "NEW");
    buf_add_str(b, ") BEGIN SELECT ");
    add_raise(b, s, g);
    buf_add_str(b, "; END");
}

static void
add_delete(struct buf *b, const struct sqlitei_store *s, const struct store_guard *g)
{
    sql_add(b, " BEFORE DELETE ON \"%w\" WHEN ", s->table);
    add_closed(b, s);
    buf_add_str(b, " AND ");
    add_moves(b, s, "OLD");
    buf_add_str(b, " BEGIN SELECT ");
    add_raise(b, s, g);
    buf_add_str(b, "; END");
}

static int
drop_triggers(struct sqlitei_store *s, struct err *err)
{
    struct buf name = {0};
    int        rc = 0;

    for (unsigned kind = 0; rc == 0 && kind < GUARD_TRIGGERS; kind++) {
        buf_clear(&name);
        add_name(&name, s, kind);
        buf_add_byte(&name, 0);
        if (name.failed)
            rc = err_set(err, __FILE__, __LINE__, E_NOMEM, ERR_RETRY, "out of memory");
        else
            rc = sql_run(s->db, err, "DROP TRIGGER IF EXISTS main.\"%w\"", (const char *)name.data);
    }
    buf_fini(&name);
    return rc;
}

static int
make_triggers(struct sqlitei_store *s, const struct store_guard *g, struct err *err)
{
    struct buf name = {0}, text = {0};
    int        rc;

    TRY(drop_triggers(s, err));
    for (unsigned kind = 0; kind < GUARD_TRIGGERS; kind++) {
        buf_clear(&name);
        buf_clear(&text);
        add_name(&name, s, kind);
        buf_add_byte(&name, 0);
        if (name.failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
        sql_add(&text, "CREATE TRIGGER \"%w\"", (const char *)name.data);
        if (kind == 0)
            add_insert(&text, s, g);
        else if (kind == 1)
            add_update(&text, s, g);
        else if (kind == 2)
            add_delete(&text, s, g);
        else
            add_note(&text, s);
        TRY(sql_run_buf(s->db, &text, err));
    }
out:
    buf_fini(&name);
    buf_fini(&text);
    return rc;
}

static int
is_there(struct sqlitei_store *s, bool *there, struct err *err)
{
    int64_t count;
    int     rc = sql_number(s->db, 0, &count, err,
                            "SELECT count(*) FROM main.sqlite_schema WHERE name = 'oxbow_guard'");

    *there = count > 0;
    return rc;
}

/* E_NOTFOUND where there is no line. */
static int
read_line(struct sqlitei_store *s, struct store_guard *g, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    struct slice         place;
    bool                 there, row;
    int                  rc;

    *g = (struct store_guard){0};
    TRY(is_there(s, &there, err));
    if (!there)
        FAIL(err, E_NOTFOUND, ERR_DATA, "%s has no guard", s->path);
    TRY(sql_prepare(s->db, &stmt, err,
                    "SELECT epoch, writable, moved_to FROM oxbow_guard WHERE scope = %Q",
                    s->scope));
    TRY(sql_step(stmt, &row, err));
    if (!row)
        FAIL(err, E_NOTFOUND, ERR_DATA, "%s has no guard %s", s->path, s->scope);
    g->epoch = (uint64_t)sqlite3_column_int64(stmt, 0);
    g->writable = sqlite3_column_int(stmt, 1) != 0;
    place = sql_column_slice(stmt, 2);
    (void)snprintf(g->moved_to, sizeof g->moved_to, "%.*s", SLICE_FMT(place));
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

static int
write_line(struct sqlitei_store *s, const struct store_guard *g, struct err *err)
{
    int rc;

    TRY(sql_run(s->db, err, "DELETE FROM oxbow_guard WHERE scope = %Q", s->scope));
    TRY(sql_run(s->db, err,
                "INSERT INTO oxbow_guard(scope, epoch, writable, moved_to) "
                "VALUES (%Q, %lld, %d, %Q)",
                s->scope, (long long)g->epoch, g->writable ? 1 : 0, g->moved_to));
    TRY(make_triggers(s, g, err));
out:
    return rc;
}

int
sqlitei_guard_admit(struct sqlitei_store *s, uint64_t epoch, struct err *err)
{
    struct store_guard g;
    int                rc = read_line(s, &g, err);

    if (rc == E_NOTFOUND) {
        err_clear(err);
        return 0;
    }
    if (rc == 0 && epoch < g.epoch)
        RETURN_ERR(err, E_FENCED, ERR_DATA, "table %s is at epoch %llu, the write at %llu",
                   s->table, (unsigned long long)g.epoch, (unsigned long long)epoch);
    return rc;
}

int
sqlitei_guard_install(struct store *base, const struct store_guard *g, struct err *err)
{
    struct sqlitei_store *s = sqlitei_store(base);
    struct store_guard    now;
    int                   rc;

    TRY(sql_begin_write(s->db, err));
    TRY(sql_origin_install(s->db, err));
    TRY(sql_run(s->db, err,
                "CREATE TABLE IF NOT EXISTS oxbow_guard(scope TEXT PRIMARY KEY, epoch INTEGER NOT "
                "NULL, writable INTEGER NOT NULL, moved_to TEXT NOT NULL) WITHOUT ROWID"));
    TRY(sql_run(s->db, err,
                "CREATE TABLE IF NOT EXISTS oxbow_guard_notes(scope TEXT NOT NULL, k)"));
    rc = read_line(s, &now, err);
    if (rc == E_NOTFOUND || (rc == 0 && now.epoch < g->epoch)) {
        err_clear(err);
        now = *g;
        rc = 0;
    }
    TRY(rc);
    TRY(write_line(s, &now, err));
    TRY(sql_commit(s->db, err));
out:
    sql_rollback(s->db);
    return rc;
}

int
sqlitei_guard_set(struct store *base, const struct store_guard *g, struct err *err)
{
    struct sqlitei_store *s = sqlitei_store(base);
    struct store_guard    now;
    int                   rc;

    TRY(sql_begin_write(s->db, err));
    TRY(read_line(s, &now, err));
    if (g->epoch == now.epoch && g->writable == now.writable &&
        strcmp(g->moved_to, now.moved_to) == 0)
        goto out;
    if (g->epoch <= now.epoch)
        FAIL(err, E_FENCED, ERR_FATAL, "guard %s is at epoch %llu: it cannot be set to %llu",
             s->scope, (unsigned long long)now.epoch, (unsigned long long)g->epoch);
    TRY(write_line(s, g, err));
    rc = sql_commit(s->db, err);
    if (rc == E_IO)
        err->kind = ERR_UNSURE;
out:
    sql_rollback(s->db);
    return rc;
}

int
sqlitei_guard_get(struct store *base, struct store_guard *g, struct err *err)
{
    struct sqlitei_store *s = sqlitei_store(base);
    struct buf            name = {0};
    int64_t               there;
    int                   rc;

    TRY(read_line(s, g, err));
    for (unsigned kind = 0; kind < GUARD_TRIGGERS; kind++) {
        buf_clear(&name);
        add_name(&name, s, kind);
        buf_add_byte(&name, 0);
        if (name.failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
        TRY(sql_number(s->db, 0, &there, err,
                       "SELECT count(*) FROM main.sqlite_schema WHERE type = 'trigger' AND name = "
                       "%Q AND tbl_name = %Q COLLATE NOCASE",
                       (const char *)name.data, s->table));
        if (there == 0)
            FAIL(err, E_STATE, ERR_FATAL, "guard %s has lost its trigger %s", s->scope,
                 (const char *)name.data);
    }
out:
    buf_fini(&name);
    return rc;
}

int
sqlitei_guard_remove(struct store *base, struct err *err)
{
    struct sqlitei_store *s = sqlitei_store(base);
    int64_t               left;
    bool                  there;
    int                   rc;

    TRY(sql_begin_write(s->db, err));
    TRY(is_there(s, &there, err));
    if (!there)
        goto out;
    TRY(drop_triggers(s, err));
    TRY(sql_run(s->db, err, "DELETE FROM oxbow_guard WHERE scope = %Q", s->scope));
    TRY(sql_number(s->db, 0, &left, err, "SELECT count(*) FROM oxbow_guard"));
    if (left == 0) {
        TRY(sql_run(s->db, err, "DROP TABLE oxbow_guard"));
        TRY(sql_run(s->db, err, "DROP TABLE IF EXISTS oxbow_guard_notes"));
    }
    TRY(sql_commit(s->db, err));
out:
    sql_rollback(s->db);
    return rc;
}
