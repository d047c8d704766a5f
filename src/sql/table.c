/* What a table looks like: columns, primary key, unique keys with their collations. */
#include <sqlite3.h>
#include <stdlib.h>

#include "base/must.h"
#include "sql/sql.h"

#define SQL_COLUMNS_MAX 2000
#define SQL_UNIQUES_MAX 64

static char *
copy_text(struct sqlite3_stmt *stmt, int col)
{
    const char *text = (const char *)sqlite3_column_text(stmt, col);

    return text == NULL ? NULL : strdup(text);
}

static bool
same_name(const char *a, const char *b)
{
    return sqlite3_stricmp(a, b) == 0;
}

static int
load_column(struct sqlite3 *db, struct sqlite3_stmt *stmt, struct sql_table *t, struct err *err)
{
    struct sql_column *c = &t->cols[t->count];
    const char        *coll = NULL;

    c->name = copy_text(stmt, 1);
    c->type = copy_text(stmt, 2);
    c->dflt = copy_text(stmt, 4);
    c->not_null = sqlite3_column_int(stmt, 3) != 0;
    c->key_at = sqlite3_column_int(stmt, 5);
    c->generated = sqlite3_column_int(stmt, 6) > 1;
    t->count++;
    if (c->name == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (sqlite3_table_column_metadata(db, "main", t->name, c->name, NULL, &coll, NULL, NULL,
                                      NULL) != SQLITE_OK)
        return sql_fail(db, err, t->name);
    c->coll = strdup(coll == NULL ? "BINARY" : coll);
    if (c->coll == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

static int
load_columns(struct sqlite3 *db, struct sql_table *t, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    bool                 row;
    int                  rc;

    t->cols = calloc(SQL_COLUMNS_MAX, sizeof t->cols[0]);
    t->key = calloc(SQL_COLUMNS_MAX, sizeof t->key[0]);
    if (t->cols == NULL || t->key == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_prepare(db, &stmt, err, "PRAGMA main.table_xinfo(\"%w\")", t->name));
    for (;;) {
        TRY(sql_step(stmt, &row, err));
        if (!row)
            break;
        if (t->count == SQL_COLUMNS_MAX)
            FAIL(err, E_LIMIT, ERR_FATAL, "%s: more than %d columns", t->name, SQL_COLUMNS_MAX);
        TRY(load_column(db, stmt, t, err));
    }
    for (uint32_t i = 0; i < t->count; i++) {
        if (t->cols[i].key_at > 0) {
            t->key[t->cols[i].key_at - 1] = i;
            t->key_count++;
        }
    }
    t->rowid_key = t->key_count == 1 && t->cols[t->key[0]].type != NULL &&
                   same_name(t->cols[t->key[0]].type, "INTEGER");
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

/* The columns of one unique index; an expression among them: left out, and noted. */
static int
load_index(struct sqlite3 *db, struct sql_table *t, const char *index, struct sql_unique *u,
           struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    bool                 row;
    int                  rc;

    must(t->count > 0);
    u->cols = calloc(t->count, sizeof u->cols[0]);
    u->coll = calloc(t->count, sizeof u->coll[0]);
    if (u->cols == NULL || u->coll == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_prepare(db, &stmt, err, "PRAGMA main.index_xinfo(\"%w\")", index));
    for (;;) {
        int cid;

        TRY(sql_step(stmt, &row, err));
        if (!row)
            break;
        cid = sqlite3_column_int(stmt, 1);
        if (sqlite3_column_int(stmt, 5) == 0 || u->count == t->count)
            continue;
        if (cid < 0) {
            t->expressions = true;
            u->count = 0;
            break;
        }
        u->cols[u->count] = (uint32_t)cid;
        if (!same_name((const char *)sqlite3_column_text(stmt, 4), t->cols[cid].coll))
            u->coll[u->count] = copy_text(stmt, 4);
        u->count++;
    }
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

/* An INTEGER PRIMARY KEY has no index of its own. */
static int
add_rowid_key(struct sql_table *t, struct err *err)
{
    struct sql_unique *u = &t->uniques[0];

    u->cols = calloc(1, sizeof u->cols[0]);
    u->coll = calloc(1, sizeof u->coll[0]);
    if (u->cols == NULL || u->coll == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    u->cols[0] = t->key[0];
    u->count = 1;
    u->primary = true;
    t->unique_count = 1;
    return 0;
}

static int
load_uniques(struct sqlite3 *db, struct sql_table *t, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    bool                 row, has_key = false;
    int                  rc;

    t->uniques = calloc(SQL_UNIQUES_MAX, sizeof t->uniques[0]);
    if (t->uniques == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_prepare(db, &stmt, err,
                    "SELECT name, origin = 'pk' FROM pragma_index_list(%Q, 'main') "
                    "WHERE \"unique\" ORDER BY origin <> 'pk', name",
                    t->name));
    for (;;) {
        struct sql_unique *u;

        TRY(sql_step(stmt, &row, err));
        if (!row)
            break;
        has_key = has_key || sqlite3_column_int(stmt, 1) != 0;
        if (!has_key && t->unique_count == 0 && t->key_count == 1)
            TRY(add_rowid_key(t, err));
        if (t->unique_count == SQL_UNIQUES_MAX)
            FAIL(err, E_LIMIT, ERR_FATAL, "%s: more than %d unique keys", t->name, SQL_UNIQUES_MAX);
        u = &t->uniques[t->unique_count];
        u->primary = sqlite3_column_int(stmt, 1) != 0;
        t->unique_count++;
        TRY(load_index(db, t, (const char *)sqlite3_column_text(stmt, 0), u, err));
    }
    if (t->unique_count == 0 && t->key_count == 1)
        TRY(add_rowid_key(t, err));
    if (has_key)
        t->rowid_key = false;
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

/* Gives the name as the schema spells it. */
static int
find_table(struct sqlite3 *db, const char *name, char **out, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    bool                 row;
    int                  rc;

    *out = NULL;
    TRY(sql_prepare(db, &stmt, err,
                    "SELECT name, type, sql FROM main.sqlite_schema WHERE name = %Q COLLATE NOCASE "
                    "AND type IN ('table', 'view')",
                    name));
    TRY(sql_step(stmt, &row, err));
    if (!row)
        FAIL(err, E_NOTFOUND, ERR_FATAL, "no table %s in the database", name);
    if (sqlite3_stricmp((const char *)sqlite3_column_text(stmt, 1), "view") == 0)
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s is a view, not a table", name);
    if (sqlite3_strnicmp((const char *)sqlite3_column_text(stmt, 2), "CREATE VIRTUAL", 14) == 0)
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s is a virtual table: it can have no triggers", name);
    *out = copy_text(stmt, 0);
    if (*out == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

int
sql_table_load(struct sqlite3 *db, const char *name, struct sql_table **out, struct err *err)
{
    struct sql_table *t = calloc(1, sizeof *t);
    int               rc;

    *out = NULL;
    if (t == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(find_table(db, name, &t->name, err));
    TRY(load_columns(db, t, err));
    TRY(load_uniques(db, t, err));
    *out = t;
    t = NULL;
out:
    sql_table_free(t);
    return rc;
}

void
sql_table_free(struct sql_table *t)
{
    if (t == NULL)
        return;
    for (uint32_t i = 0; i < t->count; i++) {
        free(t->cols[i].name);
        free(t->cols[i].type);
        free(t->cols[i].dflt);
        free(t->cols[i].coll);
    }
    for (uint32_t i = 0; i < t->unique_count; i++) {
        for (uint32_t j = 0; t->uniques[i].coll != NULL && j < t->uniques[i].count; j++)
            free(t->uniques[i].coll[j]);
        free(t->uniques[i].coll);
        free(t->uniques[i].cols);
    }
    free(t->uniques);
    free(t->cols);
    free(t->key);
    free(t->name);
    free(t);
}

int
sql_table_find(const struct sql_table *t, struct slice name)
{
    for (uint32_t i = 0; i < t->count; i++) {
        if (strlen(t->cols[i].name) == name.len &&
            sqlite3_strnicmp(t->cols[i].name, name.data, (int)name.len) == 0)
            return (int)i;
    }
    return -1;
}

void
sql_unique_match(struct buf *b, const struct sql_table *t, const struct sql_unique *u,
                 const char *left, const char *right)
{
    for (uint32_t i = 0; i < u->count; i++) {
        const char *name = t->cols[u->cols[i]].name;

        sql_add(b, "%s%s.\"%w\"", i == 0 ? "" : " AND ", left, name);
        if (u->coll[i] != NULL)
            sql_add(b, " COLLATE \"%w\"", u->coll[i]);
        sql_add(b, " = %s.\"%w\"", right, name);
    }
}
