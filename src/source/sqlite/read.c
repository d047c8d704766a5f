/*
 * Reading: changes first, then, in the same read transaction, rows of a
 * snapshot. All changes that this transaction can see were handed out before
 * a row is read, so the row is the state after them and before all later
 * ones: no gap, and each key's order is right.
 */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/sqlite/sqlite_int.h"

#define BYTES_SOFT (4U << 20) /* a batch ends after the change that passes this */
#define OLD_CAPTURES_MAX 64

static struct sqlitei_span
span_from(const struct sqlitei_source *s, size_t at)
{
    return (struct sqlitei_span){at, s->bytes.len - at};
}

static void
put_row(struct sqlitei_source *s, const struct sqlitei_capture *c, struct sqlite3_stmt *stmt,
        uint32_t first, struct sqlitei_span *out)
{
    size_t at = s->bytes.len;

    for (uint32_t i = 0; i < c->count; i++) {
        buf_add_byte(&s->bytes, i == 0 ? '{' : ',');
        json_put_str(&s->bytes, c->columns[i]);
        buf_add_byte(&s->bytes, ':');
        sql_column_json(&s->bytes, stmt, (int)(first + i));
    }
    buf_add_byte(&s->bytes, '}');
    *out = span_from(s, at);
}

static void
put_key(struct sqlitei_source *s, const struct sqlitei_capture *c, struct sqlite3_stmt *stmt,
        uint32_t first, struct sqlitei_span *out)
{
    size_t at = s->bytes.len;

    for (uint32_t i = 0; i < c->key_count; i++) {
        if (i > 0)
            buf_add_byte(&s->bytes, '|');
        sql_column_key(&s->bytes, stmt, (int)(first + c->key[i]), c->key_count > 1);
    }
    *out = span_from(s, at);
}

static void
put_text(struct sqlitei_source *s, struct slice text, struct sqlitei_span *out)
{
    size_t at = s->bytes.len;

    buf_add_slice(&s->bytes, text);
    *out = span_from(s, at);
}

static struct sqlitei_draft *
new_draft(struct sqlitei_source *s)
{
    struct sqlitei_draft *d = &s->drafts[s->count++];

    *d = (struct sqlitei_draft){0};
    return d;
}

/* The capture a change was recorded under, and whether this source wants its table. */
static int
find_capture(struct sqlitei_source *s, int64_t id, const struct sqlitei_capture **out, bool *wanted,
             struct err *err)
{
    int rc;

    *wanted = true;
    for (uint32_t i = 0; i < s->want_count; i++) {
        *out = &s->plans[i];
        if (s->plans[i].id == id)
            return 0;
    }
    *out = NULL;
    for (uint32_t i = 0; i < s->old_count; i++) {
        if (s->olds[i].id == id)
            *out = &s->olds[i];
    }
    if (*out == NULL) {
        if (s->old_count == OLD_CAPTURES_MAX)
            sqlitei_capture_fini(&s->olds[--s->old_count]);
        TRY(sqlitei_capture_load(s->db, id, &s->olds[s->old_count], err));
        *out = &s->olds[s->old_count++];
    }
    *wanted = false;
    for (uint32_t i = 0; i < s->want_count; i++)
        *wanted = *wanted || strcmp(s->plans[i].name, (*out)->name) == 0;
    rc = 0;
out:
    return rc;
}

static int
put_change(struct sqlitei_source *s, const struct sqlitei_capture *c, char op, struct err *err)
{
    struct sqlitei_draft *d;
    struct sqlite3_stmt  *row = s->select;
    uint32_t              before = 5, after = 5 + s->width;
    char                  place[64];

    if (c->count > s->width || (op != 'i' && op != 'u' && op != 'd'))
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "%s: oxbow_changes has a line that is none of ours",
                   s->path);
    d = new_draft(s);
    d->op = op == 'i' ? CHANGE_INSERT : op == 'u' ? CHANGE_UPDATE : CHANGE_DELETE;
    d->time_us = sqlite3_column_int64(row, 4) * 1000;
    put_text(s, slice_str(c->name), &d->table);
    put_key(s, c, row, op == 'd' ? before : after, &d->key);
    if (op != 'i')
        put_row(s, c, row, before, &d->before);
    if (op != 'd')
        put_row(s, c, row, after, &d->after);
    put_text(s, sql_column_slice(row, 3), &d->origin);
    (void)snprintf(place, sizeof place, "%s:%lld", s->feed,
                   (long long)sqlite3_column_int64(row, 0));
    put_text(s, slice_str(place), &d->position);
    return 0;
}

/* The next line must be the one after the last: anything else is a loss. */
static int
check_dense(struct sqlitei_source *s, int64_t seq, struct err *err)
{
    if (seq != s->next.seq + 1)
        RETURN_ERR(err, E_STATE, ERR_FATAL,
                   "source %s: changes %lld to %lld are gone from oxbow_changes unread (is another "
                   "reader named %s?); to start over run `oxbow source unprepare %s` and prepare",
                   s->base.instance, (long long)s->next.seq + 1, (long long)seq - 1,
                   s->base.instance, s->base.instance);
    return 0;
}

static int
check_head(struct sqlitei_source *s, struct err *err)
{
    int64_t head;
    int     rc;

    TRY(sql_number(s->db, 0, &head, err, "SELECT max(seq) FROM oxbow_changes"));
    if (head < s->place.seq)
        FAIL(
            err, E_STATE, ERR_FATAL,
            "source %s: the change table ends at %lld, but %lld was read before: the database went "
            "back to an earlier state; to start over run `oxbow source unprepare %s` and prepare",
            s->base.instance, (long long)head, (long long)s->place.seq, s->base.instance);
out:
    return rc;
}

static int
read_changes(struct sqlitei_source *s, uint32_t max, bool *all, struct err *err)
{
    const struct sqlitei_capture *c;
    bool                          row, wanted;
    uint32_t                      seen = 0;
    int                           rc;

    *all = false;
    (void)sqlite3_reset(s->select);
    (void)sqlite3_bind_int64(s->select, 1, s->next.seq);
    (void)sqlite3_bind_int64(s->select, 2, max);
    while (s->count < max && s->bytes.len < BYTES_SOFT) {
        const unsigned char *op;
        int64_t              tbl;

        TRY(sql_step(s->select, &row, err));
        if (!row) {
            *all = seen < max;
            break;
        }
        TRY(check_dense(s, sqlite3_column_int64(s->select, 0), err));
        s->next.seq++;
        seen++;
        tbl = sqlite3_column_int64(s->select, 1);
        if (tbl == 0)
            continue;
        TRY(find_capture(s, tbl, &c, &wanted, err));
        op = sqlite3_column_text(s->select, 2);
        if (wanted)
            TRY(put_change(s, c, op == NULL ? '?' : (char)op[0], err));
    }
    if (seen == 0)
        TRY(check_head(s, err));
out:
    (void)sqlite3_reset(s->select);
    return rc;
}

/* `"k" COLLATE x, …`: in the order of the unique index. */
static void
add_key_list(struct buf *b, const struct sqlitei_capture *c)
{
    for (uint32_t i = 0; i < c->key_count; i++) {
        const struct sql_column *col = &c->shape->cols[c->unique->cols[i]];

        sql_add(b, "%s\"%w\"", i == 0 ? "" : ", ", col->name);
        if (c->unique->coll[i] != NULL)
            sql_add(b, " COLLATE \"%w\"", c->unique->coll[i]);
    }
}

static int
bind_after(struct sqlite3_stmt *stmt, const struct sqlitei_capture *c, struct slice after,
           struct err *err)
{
    struct json_iter it;
    struct slice     value;
    uint32_t         n = 0;
    int              rc;

    TRY(json_array_iter(&it, after, err));
    while ((rc = json_iter_next(&it, NULL, &value, err)) == 0) {
        if (n == c->key_count)
            break;
        n++;
        TRY(sql_bind_json(stmt, (int)n, value, err));
    }
    if (rc != 0 && rc != E_END)
        goto out;
    rc = 0;
    if (n != c->key_count)
        FAIL(err, E_INVALID, ERR_FATAL, "the checkpoint's key does not fit table %s", c->name);
out:
    return rc;
}

static int
prepare_chunk(struct sqlitei_source *s, const struct sqlitei_capture *c, uint32_t limit,
              struct sqlite3_stmt **stmt, struct err *err)
{
    struct buf text = {0};
    int        rc;

    *stmt = NULL;
    for (uint32_t i = 0; i < c->count; i++)
        sql_add(&text, "%s\"%w\"", i == 0 ? "SELECT " : ", ", c->columns[i]);
    sql_add(&text, " FROM \"%w\"", c->name);
    if (s->next.after.len > 0) {
        buf_add_str(&text, " WHERE (");
        add_key_list(&text, c);
        buf_add_str(&text, ") > (");
        for (uint32_t i = 0; i < c->key_count; i++)
            sql_add(&text, "%s?%u", i == 0 ? "" : ", ", i + 1);
        buf_add_byte(&text, ')');
    }
    buf_add_str(&text, " ORDER BY ");
    add_key_list(&text, c);
    sql_add(&text, " LIMIT %u", limit);
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_prepare_text(s->db, buf_slice(&text), stmt, err));
    if (s->next.after.len > 0)
        TRY(bind_after(*stmt, c, buf_slice(&s->next.after), err));
out:
    buf_fini(&text);
    return rc;
}

static void
put_read(struct sqlitei_source *s, const struct sqlitei_capture *c, struct sqlite3_stmt *stmt)
{
    struct sqlitei_draft *d = new_draft(s);
    size_t                at;

    d->op = CHANGE_READ;
    put_text(s, slice_str(c->name), &d->table);
    put_key(s, c, stmt, 0, &d->key);
    put_row(s, c, stmt, 0, &d->after);
    at = s->bytes.len;
    buf_printf(&s->bytes, "%s:s%lld:", s->feed, (long long)c->id);
    if (buf_reserve(&s->bytes, d->key.len))
        buf_add(&s->bytes, s->bytes.data + d->key.at, d->key.len);
    d->position = span_from(s, at);
    buf_clear(&s->next.after);
    for (uint32_t i = 0; i < c->key_count; i++) {
        buf_add_byte(&s->next.after, i == 0 ? '[' : ',');
        sql_column_json(&s->next.after, stmt, (int)c->key[i]);
    }
    buf_add_byte(&s->next.after, ']');
    s->rows_read++;
}

/* A key that is NULL has no place in the order of keys. */
static int
refuse_null_keys(struct sqlitei_source *s, const struct sqlitei_capture *c, struct err *err)
{
    struct buf text = {0};
    int64_t    found = 0;
    int        rc = 0;

    if (c->shape->rowid_key && c->unique->primary)
        return 0;
    for (uint32_t i = 0; i < c->key_count; i++)
        sql_add(&text, "%s\"%w\" IS NULL", i == 0 ? "" : " OR ", c->columns[c->key[i]]);
    buf_add_byte(&text, 0);
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_number(s->db, 0, &found, err, "SELECT 1 FROM \"%w\" WHERE %s LIMIT 1", c->name,
                   (const char *)text.data));
    if (found != 0)
        FAIL(err, E_SCHEMA, ERR_FATAL, "source %s: table %s has rows whose key is NULL",
             s->base.instance, c->name);
out:
    buf_fini(&text);
    return rc;
}

/* The next table whose present capture has no complete snapshot; want_count: none. */
static uint32_t
next_table(const struct sqlitei_source *s)
{
    for (uint32_t i = 0; s->snapshot && i < s->want_count; i++) {
        if (s->next.done[i] != s->plans[i].id)
            return i;
    }
    return s->want_count;
}

static int
read_chunk(struct sqlitei_source *s, uint32_t max, struct err *err)
{
    const struct sqlitei_capture *c = &s->plans[s->next.table];
    struct sqlite3_stmt          *stmt = NULL;
    uint32_t                      want = max - s->count, got = 0;
    bool                          row;
    int                           rc;

    if (s->next.after.len == 0)
        TRY(refuse_null_keys(s, c, err));
    TRY(prepare_chunk(s, c, want, &stmt, err));
    while (got < want && s->bytes.len < BYTES_SOFT) {
        TRY(sql_step(stmt, &row, err));
        if (!row) {
            s->next.done[s->next.table] = c->id;
            s->next.table = s->want_count;
            buf_clear(&s->next.after);
            break;
        }
        put_read(s, c, stmt);
        got++;
    }
    if (s->next.after.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

int
sqlitei_read_batch(struct sqlitei_source *s, uint32_t max, bool *caught_up, struct err *err)
{
    bool all;
    int  rc;

    TRY(read_changes(s, max, &all, err));
    /* A snapshot of a capture that is no more the present one starts over. */
    if (s->next.table < s->want_count &&
        (!s->snapshot || s->next.capture != s->plans[s->next.table].id))
        s->next.table = s->want_count;
    for (;;) {
        if (s->next.table == s->want_count) {
            s->next.table = next_table(s);
            buf_clear(&s->next.after);
            if (s->next.table == s->want_count)
                break;
            s->next.capture = s->plans[s->next.table].id;
        }
        if (!all || s->count == max || s->bytes.len >= BYTES_SOFT)
            break;
        TRY(read_chunk(s, max, err));
    }
    *caught_up = all && s->next.table == s->want_count;
    if (s->bytes.failed)
        FAIL(err, E_LIMIT, ERR_FATAL, "source %s: a row is too large", s->base.instance);
out:
    return rc;
}
