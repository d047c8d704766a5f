/*
 * The triggers that record changes. They run inside the application's
 * statements, so they use nothing but plain SQL of any SQLite 3, store values
 * as they are, and can violate no constraint: the conflict clause of the
 * application's statement would apply to that.
 *
 * The state after a change is read from the table, not from NEW: a trigger of
 * the application that fired first may have changed the row once more.
 *
 * A row deleted by REPLACE fires no delete trigger unless recursive_triggers
 * is on. So the trigger before a write notes the rows that share a unique key
 * with the new one, under a tag of the new row's key, and the trigger after it
 * records as deleted those that are gone. Notes that no trigger used up (OR
 * IGNORE, an upsert) mean nothing once their statement has ended.
 */
#include "source/sqlite/sqlite_int.h"

/* Milliseconds since 1970; all rows of one statement have the same. */
#define NOW "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
#define MARK "(SELECT mark FROM oxbow_origin)"

enum { BEFORE_INSERT, BEFORE_UPDATE, AFTER_INSERT, AFTER_UPDATE, AFTER_DELETE };

void
sqlitei_trigger_name(struct buf *b, const char *table, unsigned kind)
{
    static const char *const kinds[SQLITEI_TRIGGERS] = {"bi", "bu", "ai", "au", "ad"};

    buf_add_str(b, "oxbow_");
    buf_add_str(b, kinds[kind]);
    buf_add_byte(b, '_');
    buf_add_str(b, table);
}

/* `, b0, b1, …` */
static void
add_targets(struct buf *b, char side, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        sql_add(b, ", %c%u", side, i);
}

/* `, FROM."x", FROM."y", …` */
static void
add_values(struct buf *b, const struct sqlitei_capture *c, const char *from)
{
    for (uint32_t i = 0; i < c->count; i++)
        sql_add(b, ", %s.\"%w\"", from, c->columns[i]);
}

/* The key as one text: for finding notes, not for people. */
static void
add_tag(struct buf *b, const struct sqlitei_capture *c, const char *from)
{
    for (uint32_t i = 0; i < c->key_count; i++)
        sql_add(b, "%shex(%s.\"%w\")", i == 0 ? "" : "||'|'||", from, c->columns[c->key[i]]);
}

/*
 * `t."k" IS OTHER."k" AND …`: first by the column's own collation, which an
 * index serves, then by bytes, which is what tells keys apart.
 */
static void
add_same_key(struct buf *b, const struct sqlitei_capture *c, const char *from, const char *other)
{
    for (uint32_t i = 0; i < c->key_count; i++) {
        const char *name = c->columns[c->key[i]];

        sql_add(b, "%s%s.\"%w\" IS %s.\"%w\" AND %s.\"%w\" IS %s.\"%w\" COLLATE BINARY",
                i == 0 ? "" : " AND ", from, name, other, name, from, name, other, name);
    }
}

static void
add_conflicts(struct buf *b, const struct sqlitei_capture *c)
{
    const struct sql_table *t = c->shape;
    const char             *glue = "(";

    buf_add_byte(b, '(');
    for (uint32_t i = 0; i < t->unique_count; i++) {
        if (t->uniques[i].count == 0)
            continue;
        buf_add_str(b, glue);
        glue = " OR (";
        sql_unique_match(b, t, &t->uniques[i], "t", "NEW");
        buf_add_byte(b, ')');
    }
    buf_add_byte(b, ')');
}

/* INSERT INTO oxbow_notes … of the rows that NEW may replace. */
static void
add_note(struct buf *b, const struct sqlitei_capture *c, bool update)
{
    sql_add(b, "DELETE FROM oxbow_notes WHERE tbl = %lld AND f = ", (long long)c->id);
    add_tag(b, c, "NEW");
    buf_add_str(b, ";\n  INSERT INTO oxbow_notes(tbl, f, k");
    add_targets(b, 'b', c->count);
    sql_add(b, ") SELECT %lld, ", (long long)c->id);
    add_tag(b, c, "NEW");
    buf_add_str(b, ", ");
    add_tag(b, c, "t");
    add_values(b, c, "t");
    sql_add(b, " FROM \"%w\" AS t WHERE ", c->name);
    add_conflicts(b, c);
    if (update) {
        buf_add_str(b, " AND NOT (");
        add_same_key(b, c, "t", "OLD");
        buf_add_byte(b, ')');
    }
    buf_add_str(b, ";\n");
}

/*
 * The notes of this write. The key of a row that gets its number from SQLite
 * is -1 (or NULL) in the trigger before the insert.
 */
static void
add_my_notes(struct buf *b, const struct sqlitei_capture *c, const char *from)
{
    sql_add(b, "%stbl = %lld AND %sf IN (", from, (long long)c->id, from);
    add_tag(b, c, "NEW");
    buf_add_str(b, c->shape->rowid_key ? ", hex(-1))" : ")");
}

static void
add_head(struct buf *b, const struct sqlitei_capture *c, bool before, bool after)
{
    buf_add_str(b, "  INSERT INTO oxbow_changes(tbl, op, origin, at");
    if (before)
        add_targets(b, 'b', c->count);
    if (after)
        add_targets(b, 'a', c->count);
    sql_add(b, ") SELECT %lld, ", (long long)c->id);
}

/* Those that were replaced: noted, and gone. */
static void
add_replaced(struct buf *b, const struct sqlitei_capture *c)
{
    add_head(b, c, true, false);
    buf_add_str(b, "'d', " MARK ", " NOW);
    for (uint32_t i = 0; i < c->count; i++)
        sql_add(b, ", n.b%u", i);
    buf_add_str(b, " FROM oxbow_notes AS n WHERE ");
    add_my_notes(b, c, "n.");
    sql_add(b, " AND NOT EXISTS (SELECT 1 FROM \"%w\" AS t WHERE ", c->name);
    for (uint32_t i = 0; i < c->key_count; i++) {
        const char *name = c->columns[c->key[i]];

        sql_add(b, "%st.\"%w\" IS n.b%u AND t.\"%w\" IS n.b%u COLLATE BINARY",
                i == 0 ? "" : " AND ", name, c->key[i], name, c->key[i]);
    }
    buf_add_str(b, ");\n");
}

static void
add_drop_notes(struct buf *b, const struct sqlitei_capture *c)
{
    buf_add_str(b, "  DELETE FROM oxbow_notes WHERE ");
    add_my_notes(b, c, "");
    buf_add_str(b, ";\n");
}

/* A row replaced by one with the same key is an update. */
static void
add_insert(struct buf *b, const struct sqlitei_capture *c)
{
    add_replaced(b, c);
    add_head(b, c, true, true);
    buf_add_str(b, "CASE WHEN n.tbl IS NULL THEN 'i' ELSE 'u' END, " MARK ", " NOW);
    for (uint32_t i = 0; i < c->count; i++)
        sql_add(b, ", n.b%u", i);
    add_values(b, c, "t");
    sql_add(b, " FROM \"%w\" AS t LEFT JOIN oxbow_notes AS n ON ", c->name);
    add_my_notes(b, c, "n.");
    buf_add_str(b, " AND n.k = ");
    add_tag(b, c, "NEW");
    buf_add_str(b, " WHERE ");
    add_same_key(b, c, "t", "NEW");
    buf_add_str(b, ";\n");
    add_drop_notes(b, c);
}

/* A row whose key changes is one that goes and another that comes. */
static void
add_update(struct buf *b, const struct sqlitei_capture *c)
{
    add_replaced(b, c);
    add_head(b, c, true, false);
    buf_add_str(b, "'d', " MARK ", " NOW);
    add_values(b, c, "OLD");
    buf_add_str(b, " WHERE NOT (");
    add_same_key(b, c, "OLD", "NEW");
    buf_add_str(b, ");\n");
    add_head(b, c, true, true);
    buf_add_str(b, "CASE WHEN ");
    add_same_key(b, c, "OLD", "NEW");
    buf_add_str(b, " THEN 'u' ELSE 'i' END, " MARK ", " NOW);
    add_values(b, c, "OLD");
    add_values(b, c, "t");
    sql_add(b, " FROM \"%w\" AS t WHERE ", c->name);
    add_same_key(b, c, "t", "NEW");
    buf_add_str(b, ";\n");
    add_drop_notes(b, c);
}

static void
add_delete(struct buf *b, const struct sqlitei_capture *c)
{
    add_head(b, c, true, false);
    buf_add_str(b, "'d', " MARK ", " NOW);
    add_values(b, c, "OLD");
    sql_add(b, ";\n  DELETE FROM oxbow_notes WHERE tbl = %lld AND k = ", (long long)c->id);
    add_tag(b, c, "OLD");
    buf_add_str(b, ";\n");
}

/* Only updates of unique columns can replace. A generated one changes with any. */
static void
add_of(struct buf *b, const struct sqlitei_capture *c)
{
    const struct sql_table *t = c->shape;
    struct buf              names = {0};
    bool                    any = true;

    for (uint32_t i = 0; i < t->unique_count; i++) {
        for (uint32_t j = 0; j < t->uniques[i].count; j++) {
            any = any && !t->cols[t->uniques[i].cols[j]].generated;
            sql_add(&names, "%s\"%w\"", names.len == 0 ? "" : ", ",
                    t->cols[t->uniques[i].cols[j]].name);
        }
    }
    if (any) {
        buf_add_str(b, " OF ");
        buf_add_slice(b, buf_slice(&names));
    }
    b->failed = b->failed || names.failed;
    buf_fini(&names);
}

void
sqlitei_trigger_sql(struct buf *b, const struct sqlitei_capture *c, unsigned kind)
{
    static const char *const when[SQLITEI_TRIGGERS] = {
        "BEFORE INSERT", "BEFORE UPDATE", "AFTER INSERT", "AFTER UPDATE", "AFTER DELETE"};
    struct buf name = {0};

    sqlitei_trigger_name(&name, c->name, kind);
    buf_add_byte(&name, 0);
    sql_add(b, "CREATE TRIGGER \"%w\" %s", name.failed ? "" : (const char *)name.data, when[kind]);
    if (kind == BEFORE_UPDATE)
        add_of(b, c);
    sql_add(b, " ON \"%w\" FOR EACH ROW BEGIN\n", c->name);
    if (kind == BEFORE_INSERT || kind == BEFORE_UPDATE)
        add_note(b, c, kind == BEFORE_UPDATE);
    else if (kind == AFTER_INSERT)
        add_insert(b, c);
    else if (kind == AFTER_UPDATE)
        add_update(b, c);
    else
        add_delete(b, c);
    buf_add_str(b, "END");
    b->failed = b->failed || name.failed;
    buf_fini(&name);
}
