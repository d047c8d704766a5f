/*
 * The rows that are there, without a lock. A chunk is read in a transaction
 * with a consistent snapshot, whose exact place in the binary log the server
 * tells. It is handed out when the stream stands at that place: after all that
 * it sees, before all that it does not. Each chunk has a place of its own, so
 * nothing is held open, and a crash costs one chunk.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "source/mariadb/mariadb_int.h"

#define PLACE_TRIES 8u /* of transactions, for one that sees the log's end */
#define CHUNK_BYTES ((size_t)8 << 20)

void
mariadbi_snapshot_drop(struct my_source *s)
{
    s->chunk.open = false;
    s->chunk.count = s->chunk.given = 0;
}

uint32_t
mariadbi_snapshot_due_of(const struct my_source *s, const struct my_place *p)
{
    uint32_t i = 0;

    if (p->after.len > 0 || p->missing)
        return p->reading;
    while (i < s->want_count && (p->read[i] || (!s->snapshot && p->again[i] == MY_AGAIN_NOT)))
        i++;
    return i;
}

uint32_t
mariadbi_snapshot_due(const struct my_source *s)
{
    return mariadbi_snapshot_due_of(s, &s->next);
}

/* One value of the checkpoint's as an SQL literal. */
static int
add_literal(struct my_source *s, struct buf *sql, struct slice raw, struct err *err)
{
    struct slice inner, text;
    int          rc = 0;

    switch (json_type(raw)) {
    case JSON_NUMBER:
        buf_add_slice(sql, raw);
        break;
    case JSON_STRING:
        TRY(json_string_view(raw, &s->scratch, &text, err));
        mariadbi_add_text(s->query, sql, text);
        break;
    default:
        if (!json_get(raw, "$blob", &inner) ||
            json_string_view(inner, &s->scratch, &text, NULL) != 0 ||
            strspn(text.data, "0123456789abcdef") < text.len)
            FAIL(err, E_INVALID, ERR_FATAL, "the checkpoint's key cannot be read");
        buf_add_str(sql, "x'");
        buf_add_slice(sql, text);
        buf_add_byte(sql, '\'');
    }
out:
    return rc;
}

/* `(a > 1 OR (a = 1 AND b > 2))`, which an index serves where `(a, b) > (1, 2)` is not served. */
static int
add_after(struct my_source *s, const struct my_want *w, struct buf *sql, struct err *err)
{
    struct json_iter it;
    struct slice     values[MARIADBI_KEY_MAX];
    uint32_t         n = 0;
    int              rc;

    TRY(json_array_iter(&it, buf_slice(&s->next.after), err));
    while (n < w->order_count && json_iter_next(&it, NULL, &values[n], NULL) == 0)
        n++;
    if (n != w->order_count)
        FAIL(err, E_INVALID, ERR_FATAL,
             "source %s: the checkpoint's key does not fit table %s: set `restart:` to a new text "
             "to start over",
             s->base.instance, w->table);
    buf_add_str(sql, " WHERE (");
    for (uint32_t last = 0; last < n; last++) {
        buf_add_str(sql, last == 0 ? "(" : " OR (");
        for (uint32_t i = 0; i <= last; i++) {
            buf_add_str(sql, i == 0 ? "" : " AND ");
            mariadbi_add_name(sql, w->fields[w->order[i]].name);
            buf_add_str(sql, i == last ? " > " : " = ");
            TRY(add_literal(s, sql, values[i], err));
        }
        buf_add_byte(sql, ')');
    }
    buf_add_byte(sql, ')');
out:
    return rc;
}

void
mariadbi_snapshot_select(const struct my_want *w, struct buf *sql)
{
    buf_add_str(sql, "SELECT ");
    for (uint32_t i = 0; i < w->field_count; i++) {
        bool single = w->fields[i].kind == MY_SQL_FLOAT;

        /* As text a FLOAT has six digits only. */
        buf_add_str(sql, i == 0 ? "" : ", ");
        buf_add_str(sql, single ? "CAST(" : "");
        mariadbi_add_name(sql, w->fields[i].name);
        buf_add_str(sql, single ? " AS DOUBLE)" : "");
    }
    buf_add_str(sql, " FROM ");
    mariadbi_add_name(sql, w->db);
    buf_add_byte(sql, '.');
    mariadbi_add_name(sql, w->name);
}

static int
build(struct my_source *s, const struct my_want *w, struct buf *sql, struct err *err)
{
    int rc = 0;

    mariadbi_snapshot_select(w, sql);
    if (s->next.after.len > 0)
        TRY(add_after(s, w, sql, err));
    for (uint32_t i = 0; i < w->order_count; i++) {
        buf_add_str(sql, i == 0 ? " ORDER BY " : ", ");
        mariadbi_add_name(sql, w->fields[w->order[i]].name);
    }
    buf_printf(sql, " LIMIT %u", s->chunk_rows);
    if (sql->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    return rc;
}

struct my_value
mariadbi_snapshot_value(struct my_source *s, const struct my_field *f, const char *text,
                        unsigned long len)
{
    struct my_value v = {0};

    if (text != NULL)
        mariadbi_sql_value(f->kind, slice_of(text, len), &s->scratch, &v);
    return v;
}

static void
take_row(struct my_source *s, const struct my_want *w, MYSQL_ROW row, const unsigned long *lens)
{
    struct my_chunk     *c = &s->chunk;
    struct buf          *b = &c->bytes;
    struct my_chunk_row *r = &c->rows[c->count++];
    struct my_value      v;

    r->row.at = b->len;
    for (uint32_t i = 0; i < w->field_count; i++) {
        buf_add_byte(b, i == 0 ? '{' : ',');
        json_put_str(b, w->fields[i].name);
        buf_add_byte(b, ':');
        v = mariadbi_snapshot_value(s, &w->fields[i], row[i], lens[i]);
        mariadbi_value_json(b, &v);
    }
    buf_add_byte(b, '}');
    r->row.len = b->len - r->row.at;
    r->key.at = b->len;
    for (uint32_t i = 0; i < w->order_count; i++) {
        uint32_t at = w->order[i];

        if (i > 0)
            buf_add_byte(b, '|');
        v = mariadbi_snapshot_value(s, &w->fields[at], row[at], lens[at]);
        mariadbi_value_key(b, &v, w->order_count > 1);
    }
    r->key.len = b->len - r->key.at;
    r->after.at = b->len;
    for (uint32_t i = 0; i < w->order_count; i++) {
        uint32_t at = w->order[i];

        buf_add_byte(b, i == 0 ? '[' : ',');
        v = mariadbi_snapshot_value(s, &w->fields[at], row[at], lens[at]);
        mariadbi_value_json(b, &v);
    }
    buf_add_byte(b, ']');
    r->after.len = b->len - r->after.at;
}

static int
take_rows(struct my_source *s, const struct my_want *w, struct buf *sql, struct err *err)
{
    struct my_chunk *c = &s->chunk;
    MYSQL_RES       *r;
    MYSQL_ROW        row = NULL;
    int              rc = 0;

    if (mysql_real_query(s->query, (const char *)sql->data, (unsigned long)sql->len) != 0)
        return mariadbi_fail(s, s->query, "snapshot", false, err);
    r = mysql_use_result(s->query);
    if (r == NULL)
        return mariadbi_fail(s, s->query, "snapshot", false, err);
    while (c->count < s->chunk_rows && c->bytes.len < CHUNK_BYTES &&
           (row = mysql_fetch_row(r)) != NULL)
        take_row(s, w, row, mysql_fetch_lengths(r));
    if (row == NULL && mysql_errno(s->query) != 0)
        rc = mariadbi_fail(s, s->query, "snapshot", false, err);
    c->last = row == NULL && c->count < s->chunk_rows && c->bytes.len < CHUNK_BYTES;
    mysql_free_result(r);
    if (rc == 0 && c->bytes.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a row");
    return rc;
}

/*
 * Where the log ends at this place, nothing has been logged since the transaction saw the tables,
 * and the server's own position is that of the place. It is asked for first: a group that it has
 * and the tables have not is written before the server can say where the log ends, and moves that.
 */
static int
take_end(struct my_source *s, const char *file, const char *position, bool *is, struct err *err)
{
    MYSQL_RES *r = NULL;
    MYSQL_ROW  row;
    int        rc;

    TRY(mariadbi_ask_position(s, s->chunk.at, &s->chunk.at_count, err));
    TRY(mariadbi_ask(s, s->query, &r, err, "SHOW MASTER STATUS"));
    row = mysql_fetch_row(r);
    *is = row != NULL && row[0] != NULL && row[1] != NULL && strcmp(row[0], file) == 0 &&
          strcmp(row[1], position) == 0;
out:
    mysql_free_result(r);
    return rc;
}

/*
 * What GTIDs the place stands for. Only where it is not the log's end the server reads the file up
 * to there to answer, a second for a GB: it is not asked twice, and with `again` not at all.
 * *again: another transaction may have more luck.
 */
static int
take_gtids(struct my_source *s, const char *file, const char *position, bool *again,
           struct err *err)
{
    struct my_chunk *c = &s->chunk;
    struct buf       place = {0};
    MYSQL_RES       *r = NULL;
    MYSQL_ROW        row;
    bool             end = false, may = *again;
    int              rc = 0;

    *again = false;
    buf_printf(&place, "%s:%s", file, position);
    if (c->asked.len > 0 && slice_eq(buf_slice(&c->asked), buf_slice(&place)))
        goto out;
    buf_clear(&c->asked);
    TRY(take_end(s, file, position, &end, err));
    *again = !end && may;
    if (*again)
        goto out;
    if (end) {
        buf_add_slice(&c->asked, buf_slice(&place));
        goto out;
    }
    TRY(mariadbi_ask(s, s->query, &r, err, "SELECT binlog_gtid_pos('%s', %s)", file, position));
    row = mysql_fetch_row(r);
    if (row == NULL || row[0] == NULL)
        FAIL(err, E_REMOTE, ERR_RETRY, "source %s: the snapshot's binary log is gone already",
             s->base.instance);
    TRY(mariadbi_gtids_read(slice_str(row[0]), c->at, &c->at_count, err));
    buf_add_slice(&c->asked, buf_slice(&place));
out:
    mysql_free_result(r);
    buf_fini(&place);
    return rc;
}

/* Where the transaction that was just begun stands in the log. */
static int
take_position(struct my_source *s, bool *again, struct err *err)
{
    struct my_chunk *c = &s->chunk;
    MYSQL_RES       *r = NULL;
    MYSQL_ROW        row;
    char             file[256] = "", position[32] = "";
    int              rc;

    TRY(mariadbi_ask(s, s->query, &r, err, "SHOW STATUS LIKE 'binlog_snapshot_%%'"));
    while ((row = mysql_fetch_row(r)) != NULL) {
        if (strcasecmp(row[0], "binlog_snapshot_file") == 0)
            (void)snprintf(file, sizeof file, "%s", row[1]);
        else if (strcasecmp(row[0], "binlog_snapshot_position") == 0)
            (void)snprintf(position, sizeof position, "%s", row[1]);
    }
    mysql_free_result(r);
    r = NULL;
    if (file[0] == '\0' || strspn(position, "0123456789") != strlen(position) ||
        position[0] == '\0')
        FAIL(err, E_STATE, ERR_FATAL,
             "source %s: the server does not say where a snapshot stands (binlog_snapshot_file)",
             s->base.instance);
    TRY(take_gtids(s, file, position, again, err));
    buf_clear(&c->position);
    buf_printf(&c->position, "s%s:%s:%s", s->restart, file, position);
    if (s->next.era > 0)
        buf_printf(&c->position, "~%u", s->next.era);
out:
    mysql_free_result(r);
    return rc;
}

int
mariadbi_snapshot_room(struct my_source *s, uint32_t rows, struct err *err)
{
    struct my_chunk *c = &s->chunk;

    buf_clear(&c->bytes);
    if (c->room >= rows)
        return 0;
    free(c->rows);
    c->room = 0;
    c->rows = calloc(rows, sizeof c->rows[0]);
    if (c->rows == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    c->room = rows;
    return 0;
}

int
mariadbi_snapshot_begin(struct my_source *s, bool *seen, struct err *err)
{
    struct my_chunk *c = &s->chunk;
    bool             again = true;
    int              rc;

    for (uint32_t tries = 1; again; tries++) {
        TRY(mariadbi_run(s, s->query, err,
                         "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"));
        again = tries < PLACE_TRIES;
        TRY(take_position(s, &again, err));
    }
    /* A transaction is seen in the log a moment before it is seen in the tables. */
    *seen = mariadbi_gtids_reach(c->at, c->at_count, s->next.gtids, s->next.gtid_count);
    if (!*seen)
        TRY(mariadbi_run(s, s->query, err, "COMMIT"));
out:
    return rc;
}

int
mariadbi_snapshot_read(struct my_source *s, struct err *err)
{
    struct my_chunk *c = &s->chunk;
    struct buf       sql = {0};
    uint32_t         want = mariadbi_snapshot_due(s);
    bool             seen;
    int              rc;

    must(want < s->want_count);
    mariadbi_snapshot_drop(s);
    c->want = want;
    c->keys = s->next.missing;
    c->compare = s->next.again[want] == MY_AGAIN_DIFFERENCES;
    TRY(mariadbi_need_query(s, err));
    if (c->keys) {
        TRY(mariadbi_missing_read(s, want, err));
        goto out;
    }
    TRY(mariadbi_snapshot_room(s, s->chunk_rows, err));
    TRY(build(s, &s->wants[want], &sql, err));
    TRY(mariadbi_snapshot_begin(s, &seen, err));
    if (!seen)
        goto out;
    TRY(take_rows(s, &s->wants[want], &sql, err));
    TRY(mariadbi_run(s, s->query, err, "COMMIT"));
    c->open = true;
out:
    buf_fini(&sql);
    return rc;
}

bool
mariadbi_snapshot_ripe(const struct my_source *s)
{
    const struct my_chunk *c = &s->chunk;

    return c->open && !s->in_group &&
           mariadbi_gtids_reach(s->next.gtids, s->next.gtid_count, c->at, c->at_count);
}

static struct my_span
put(struct my_source *s, const uint8_t *data, size_t len)
{
    struct my_span span = {s->bytes.len, len};

    buf_add(&s->bytes, data, len);
    return span;
}

static void
end_table(struct my_place *p, uint32_t want, bool keys)
{
    buf_clear(&p->after);
    p->reading = want;
    p->missing = !keys && p->again[want] == MY_AGAIN_DIFFERENCES;
    if (p->missing)
        return;
    p->read[want] = true;
    p->again[want] = MY_AGAIN_NOT;
    buf_clear(&p->after_key);
    p->rows = 0;
}

static void
give_row(struct my_source *s, const struct my_chunk_row *r)
{
    struct my_chunk *c = &s->chunk;
    struct my_draft *d = mariadbi_draft(s, c->keys ? CHANGE_DELETE : CHANGE_READ, c->want);
    size_t           at;

    d->compare = c->compare;
    d->time_us = 0;
    d->key = put(s, c->bytes.data + r->key.at, r->key.len);
    if (!c->keys)
        d->after = put(s, c->bytes.data + r->row.at, r->row.len);
    at = s->bytes.len;
    buf_add_slice(&s->bytes, buf_slice(&c->position));
    buf_add_byte(&s->bytes, ':');
    buf_add_str(&s->bytes, s->wants[c->want].table);
    buf_add_byte(&s->bytes, ':');
    buf_add(&s->bytes, c->bytes.data + r->key.at, r->key.len);
    d->position = (struct my_span){at, s->bytes.len - at};
    if (c->keys)
        return;
    s->next.reading = c->want;
    buf_clear(&s->next.after);
    buf_add(&s->next.after, c->bytes.data + r->after.at, r->after.len);
    s->next.rows++;
    s->rows_read++;
}

int
mariadbi_snapshot_give(struct my_source *s, uint32_t max, struct err *err)
{
    struct my_chunk *c = &s->chunk;

    while (c->given < c->count && s->count < max && s->bytes.len < MARIADBI_BYTES_SOFT)
        give_row(s, &c->rows[c->given++]);
    if (s->next.after.failed || s->bytes.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (c->given < c->count)
        return 0;
    if (c->keys) {
        buf_clear(&s->next.after_key);
        buf_add_slice(&s->next.after_key, buf_slice(&c->last_key));
    }
    if (c->last)
        end_table(&s->next, c->want, c->keys);
    mariadbi_snapshot_drop(s);
    return 0;
}
