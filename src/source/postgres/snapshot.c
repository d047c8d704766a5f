/*
 * The rows that were there before, in chunks by key, while the stream goes on.
 *
 * A chunk and what its snapshot sees are read in one transaction, and where
 * the server's log ended after that: each transaction that the snapshot sees
 * ended there or before. The chunk waits until the stream has passed that
 * point, so all that it contains was streamed; a row whose key a transaction
 * touched meanwhile that the snapshot does not see is dropped, since the
 * stream has something newer. A position in the log alone would not do: a
 * transaction may be streamed while snapshots do not see it yet. A chunk that
 * does not see all that was streamed before it was read is read again.
 *
 * A crash leaves the last key whose row is in the log.
 */
#include <inttypes.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/postgres/postgres_int.h"

#define CHUNK_BYTES ((size_t)16 << 20)
#define FETCH_ROWS 1000
#define NO_ROW UINT32_MAX
#define RECENT_KEPT 65536

static uint32_t
next_table(const struct pg_source *s)
{
    uint32_t i = 0;

    if (s->place.after.len > 0 || s->place.missing)
        return s->place.reading;
    while (i < s->want_count &&
           (s->place.read[i] || (!s->snapshot && s->place.again[i] == PG_AGAIN_NOT)))
        i++;
    return i;
}

bool
postgresi_snapshot_due(const struct pg_source *s)
{
    return next_table(s) < s->want_count;
}

void
postgresi_chunk_close(struct pg_source *s)
{
    struct pg_chunk *c = &s->chunk;

    free(c->rows);
    free(c->buckets);
    free(c->sees.running);
    buf_fini(&c->bytes);
    *c = (struct pg_chunk){0};
}

void
postgresi_snapshot_drop(struct pg_source *s)
{
    postgresi_chunk_close(s);
}

/* what a snapshot sees */

/* "10:20:10,14,15" */
static bool
parse_visible(struct slice text, struct pg_visible *out)
{
    const char *p = text.data, *end = p + text.len;
    uint64_t    v = 0;
    int         colons = 0;

    out->running = calloc(text.len / 2 + 1, sizeof out->running[0]);
    if (out->running == NULL)
        return false;
    for (;; p++) {
        if (p < end && *p >= '0' && *p <= '9') {
            v = v * 10 + (uint64_t)(*p - '0');
            continue;
        }
        if (colons == 0)
            out->low = v;
        else if (colons == 1)
            out->high = v;
        else if (v != 0)
            out->running[out->count++] = v;
        if (p == end)
            return colons >= 1;
        colons += *p == ':';
        v = 0;
    }
}

/* A transaction's number as it stands in messages, in full: the one nearest to the snapshot's. */
static uint64_t
in_full(const struct pg_visible *v, uint32_t xid)
{
    int32_t ahead = (int32_t)(xid - (uint32_t)v->high);

    return v->high + (uint64_t)(int64_t)ahead;
}

static bool
is_seen(const struct pg_visible *v, uint32_t xid)
{
    uint64_t full = in_full(v, xid);

    if (full < v->low)
        return true;
    if (full >= v->high)
        return false;
    for (size_t i = 0; i < v->count; i++)
        if (v->running[i] == full)
            return false;
    return true;
}

void
postgresi_snapshot_remember(struct pg_source *s, uint32_t xid)
{
    size_t room = s->recent_room == 0 ? 1024 : s->recent_room * 2;

    if (s->recent_count == s->recent_room) {
        uint32_t *more = realloc(s->recent, room * sizeof *more);

        if (more == NULL) {
            s->recent_failed = true;
            return;
        }
        s->recent = more;
        s->recent_room = room;
    }
    s->recent[s->recent_count++] = xid;
}

void
postgresi_snapshot_streamed(struct pg_source *s)
{
    /* A snapshot that is asked for later has to see those that were streamed just before. */
    if (!postgresi_snapshot_due(s) && s->recent_count >= RECENT_KEPT) {
        s->recent_count = RECENT_KEPT / 2;
        memmove(s->recent, s->recent + RECENT_KEPT / 2, s->recent_count * sizeof s->recent[0]);
    }
    s->seen = s->chunk.open && is_seen(&s->chunk.sees, s->xid);
    postgresi_snapshot_remember(s, s->xid);
}

/* Forgets those that the snapshot sees; true: there are no others. */
static bool
sees_all_streamed(struct pg_source *s, const struct pg_visible *v)
{
    size_t left = 0;

    for (size_t i = 0; i < s->recent_count; i++)
        if (!is_seen(v, s->recent[i]))
            s->recent[left++] = s->recent[i];
    s->recent_count = left;
    return left == 0;
}

/* the statement */

void
postgresi_plan_fini(struct pg_plan *p)
{
    PQclear(p->key);
    PQclear(p->columns);
    buf_fini(&p->sql);
}

static int
find_columns(struct pg_source *s, const struct pg_want *w, PGresult **out, struct err *err)
{
    struct buf sql = {0};
    int        rc;

    if (s->version >= 150000) {
        buf_add_str(&sql,
                    "SELECT unnest(attnames), rowfilter FROM pg_catalog.pg_publication_tables "
                    "WHERE pubname = ");
        postgresi_add_literal(s->query, &sql, s->publication);
        buf_add_str(&sql, " AND schemaname = ");
        postgresi_add_literal(s->query, &sql, w->schema);
        buf_add_str(&sql, " AND tablename = ");
        postgresi_add_literal(s->query, &sql, w->name);
    } else {
        buf_add_str(&sql,
                    "SELECT a.attname, NULL FROM pg_catalog.pg_attribute a JOIN "
                    "pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace "
                    "n ON n.oid = c.relnamespace WHERE a.attnum > 0 AND NOT a.attisdropped AND "
                    "a.attgenerated = '' AND n.nspname = ");
        postgresi_add_literal(s->query, &sql, w->schema);
        buf_add_str(&sql, " AND c.relname = ");
        postgresi_add_literal(s->query, &sql, w->name);
        buf_add_str(&sql, " ORDER BY a.attnum");
    }
    TRY(postgresi_query_buf(s, s->query, &sql, out, err));
    if (PQntuples(*out) == 0)
        FAIL(err, E_NOTFOUND, ERR_FATAL,
             "source %s: table %s is not in the publication %s; run `oxbow source prepare %s`",
             s->base.instance, w->table, s->publication, s->base.instance);
out:
    buf_fini(&sql);
    return rc;
}

static void
add_names(struct pg_source *s, struct buf *sql, const PGresult *names)
{
    for (int i = 0; i < PQntuples(names); i++) {
        buf_add_str(sql, i == 0 ? "" : ", ");
        postgresi_add_name(s->query, sql, PQgetvalue(names, i, 0));
    }
}

int
postgresi_add_json_text(struct pg_source *s, struct buf *sql, struct slice raw, struct err *err)
{
    struct buf text = {0};
    int        rc;

    TRY(json_string_decode(raw, &text, err));
    buf_add_byte(&text, 0);
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    postgresi_add_literal(s->query, sql, (const char *)text.data);
out:
    buf_fini(&text);
    return rc;
}

/* … > ('1','x'): behind the last key that was read. */
static int
add_after(struct pg_source *s, struct buf *sql, const PGresult *key, struct err *err)
{
    struct json_iter it;
    struct slice     raw;
    int              rc;

    buf_add_byte(sql, '(');
    add_names(s, sql, key);
    buf_add_str(sql, ") > (");
    TRY(json_array_iter(&it, buf_slice(&s->place.after), err));
    for (int i = 0; (rc = json_iter_next(&it, NULL, &raw, err)) == 0; i++) {
        buf_add_str(sql, i == 0 ? "" : ", ");
        TRY(postgresi_add_json_text(s, sql, raw, err));
    }
    if (rc == E_END)
        rc = 0;
    buf_add_byte(sql, ')');
out:
    return rc;
}

int
postgresi_plan_columns(struct pg_source *s, uint32_t want, struct pg_plan *p, struct err *err)
{
    int rc;

    TRY(postgresi_key_columns(s, want, &p->key, err));
    if (PQntuples(p->key) > 0)
        TRY(find_columns(s, &s->wants[want], &p->columns, err));
out:
    return rc;
}

static int
make_plan(struct pg_source *s, uint32_t want, struct pg_plan *p, struct err *err)
{
    const struct pg_want *w = &s->wants[want];
    bool                  filter;
    int                   rc;

    TRY(postgresi_plan_columns(s, want, p, err));
    if (PQntuples(p->key) == 0)
        return 0;
    filter = PQgetisnull(p->columns, 0, 1) == 0;
    buf_add_str(&p->sql, "DECLARE oxbow_chunk NO SCROLL CURSOR FOR SELECT ");
    add_names(s, &p->sql, p->columns);
    buf_add_str(&p->sql, " FROM ");
    postgresi_add_name(s->query, &p->sql, w->schema);
    buf_add_byte(&p->sql, '.');
    postgresi_add_name(s->query, &p->sql, w->name);
    buf_add_str(&p->sql, " WHERE ");
    buf_add_str(&p->sql, filter ? PQgetvalue(p->columns, 0, 1) : "true");
    if (s->place.after.len > 0) {
        buf_add_str(&p->sql, " AND ");
        TRY(add_after(s, &p->sql, p->key, err));
    }
    buf_add_str(&p->sql, " ORDER BY ");
    add_names(s, &p->sql, p->key);
    buf_printf(&p->sql, " LIMIT %" PRIu32, s->chunk_rows);
out:
    return rc;
}

/* rows */

struct chunk_columns {
    int             count, key_count;
    struct pg_type *types;
    struct buf     *members; /* `{"first":`, then `,"next":` */
    bool           *is_key;
    int            *key_at; /* in the index's order */
};

static int
describe(struct pg_source *s, const PGresult *key, const PGresult *rows, struct chunk_columns *c,
         struct err *err)
{
    int rc = 0;

    c->count = PQnfields(rows);
    c->key_count = PQntuples(key);
    c->types = calloc((size_t)c->count + 1, sizeof c->types[0]);
    c->members = calloc((size_t)c->count + 1, sizeof c->members[0]);
    c->is_key = calloc((size_t)c->count + 1, sizeof c->is_key[0]);
    c->key_at = calloc((size_t)c->key_count + 1, sizeof c->key_at[0]);
    if (c->types == NULL || c->members == NULL || c->is_key == NULL || c->key_at == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (int i = 0; i < c->count; i++) {
        buf_add_byte(&c->members[i], i == 0 ? '{' : ',');
        json_put_str(&c->members[i], PQfname(rows, i));
        buf_add_byte(&c->members[i], ':');
        if (c->members[i].failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
        TRY(postgresi_type_find(s, PQftype(rows, i), &c->types[i], err));
    }
    for (int k = 0; k < c->key_count; k++) {
        int at = 0;

        while (at < c->count && strcmp(PQfname(rows, at), PQgetvalue(key, k, 0)) != 0)
            at++;
        if (at == c->count)
            FAIL(err, E_SCHEMA, ERR_FATAL, "source %s: column %s of a key is not published",
                 s->base.instance, PQgetvalue(key, k, 0));
        c->key_at[k] = at;
        c->is_key[at] = true;
    }
out:
    return rc;
}

static void
forget_columns(struct chunk_columns *c)
{
    for (int i = 0; c->members != NULL && i < c->count; i++)
        buf_fini(&c->members[i]);
    free(c->members);
    free(c->types);
    free(c->is_key);
    free(c->key_at);
}

static struct pg_span
span_of(const struct buf *b, size_t at)
{
    return (struct pg_span){at, b->len - at};
}

static void
put_key(struct buf *b, const struct chunk_columns *c, const PGresult *rows, int i,
        struct pg_span *out)
{
    size_t at = b->len;
    bool   first = true;

    for (int col = 0; col < c->count; col++) {
        if (!c->is_key[col])
            continue;
        if (!first)
            buf_add_byte(b, '|');
        first = false;
        postgresi_value_key(b, postgresi_cell(rows, i, col), c->key_count > 1);
    }
    *out = span_of(b, at);
}

static void
put_row(struct pg_source *s, const struct chunk_columns *c, const PGresult *rows, int i,
        struct pg_row *out)
{
    struct buf *b = &s->chunk.bytes;
    size_t      at;

    put_key(b, c, rows, i, &out->key);
    at = b->len;
    for (int col = 0; col < c->count; col++) {
        buf_add_slice(b, buf_slice(&c->members[col]));
        if (PQgetisnull(rows, i, col) != 0)
            buf_add_str(b, "null");
        else
            postgresi_value_json(b, &c->types[col], postgresi_cell(rows, i, col));
    }
    buf_add_byte(b, '}');
    out->row = span_of(b, at);
    at = b->len;
    for (int k = 0; k < c->key_count; k++) {
        buf_add_byte(b, k == 0 ? '[' : ',');
        json_put_string(b, postgresi_cell(rows, i, c->key_at[k]));
    }
    buf_add_byte(b, ']');
    out->place = span_of(b, at);
}

/* Reads on with the cursor until the chunk is full or the table at its end. */
static int
fetch(struct pg_source *s, const struct pg_plan *p, struct err *err)
{
    struct chunk_columns c = {0};
    PGresult            *rows = NULL;
    int                  got = FETCH_ROWS, rc;

    TRY(postgresi_query(s, s->query, (const char *)p->sql.data, NULL, err));
    while (s->chunk.count < s->chunk_rows && s->chunk.bytes.len < CHUNK_BYTES &&
           got == FETCH_ROWS) {
        PQclear(rows);
        TRY(postgresi_query(s, s->query, "FETCH 1000 FROM oxbow_chunk", &rows, err));
        got = PQntuples(rows);
        if (c.types == NULL)
            TRY(describe(s, p->key, rows, &c, err));
        for (int i = 0; i < got && s->chunk.count < s->chunk_rows; i++)
            put_row(s, &c, rows, i, &s->chunk.rows[s->chunk.count++]);
        if (s->chunk.bytes.failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    }
    s->chunk.last = got < FETCH_ROWS && s->chunk.count < s->chunk_rows;
out:
    PQclear(rows);
    forget_columns(&c);
    return rc;
}

static struct slice
chunk_text(const struct pg_chunk *c, struct pg_span span)
{
    return span.len == 0 ? slice_of(NULL, 0) : slice_of(c->bytes.data + span.at, span.len);
}

static int
index_rows(struct pg_chunk *c, struct err *err)
{
    c->bucket_count = 1;
    while (c->bucket_count < c->count)
        c->bucket_count *= 2;
    c->buckets = malloc(c->bucket_count * sizeof c->buckets[0]);
    if (c->buckets == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    memset(c->buckets, 0xff, c->bucket_count * sizeof c->buckets[0]);
    for (uint32_t i = 0; i < c->count; i++) {
        struct pg_row *row = &c->rows[i];
        uint32_t      *bucket;

        row->hash = postgresi_hash(chunk_text(c, row->key));
        bucket = &c->buckets[row->hash & (c->bucket_count - 1)];
        row->next = *bucket;
        *bucket = i;
    }
    return 0;
}

/* What was streamed to an earlier connection, and is not seen yet, waits for a standby. */
static int
settle(struct pg_source *s, struct err *err)
{
    PGresult *r = NULL;
    uint64_t  waiting = 0;
    int       rc = 0;

    if (s->settled)
        return 0;
    TRY(postgresi_query(
        s, s->query,
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE wait_event = 'SyncRep'", &r, err));
    s->settled = postgresi_cell_u64(r, 0, 0, &waiting) && waiting == 0;
out:
    PQclear(r);
    return rc;
}

/*
 * The lock is there before the snapshot: to an older one a table that is written anew, as some
 * forms of ALTER TABLE do, looks empty.
 */
static int
begin(struct pg_source *s, uint32_t want, struct err *err)
{
    struct buf sql = {0};
    int        rc;

    TRY(postgresi_query(s, s->query, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", NULL, err));
    buf_add_str(&sql, "LOCK TABLE ");
    postgresi_add_name(s->query, &sql, s->wants[want].schema);
    buf_add_byte(&sql, '.');
    postgresi_add_name(s->query, &sql, s->wants[want].name);
    buf_add_str(&sql, " IN ACCESS SHARE MODE");
    TRY(postgresi_query_buf(s, s->query, &sql, NULL, err));
out:
    buf_fini(&sql);
    return rc;
}

/* *good: it sees all that was streamed. */
static int
look_at_snapshot(struct pg_source *s, bool *good, struct err *err)
{
    PGresult *r = NULL;
    int       rc;

    TRY(postgresi_query(s, s->query,
                        "SELECT pg_catalog.txid_current_snapshot(), "
                        "pg_catalog.pg_current_wal_insert_lsn()",
                        &r, err));
    if (!parse_visible(postgresi_cell(r, 0, 0), &s->chunk.sees) ||
        !postgresi_lsn_parse(postgresi_cell(r, 0, 1), &s->chunk.upto))
        FAIL(err, E_FORMAT, ERR_FATAL, "source %s: a snapshot is not as it should be",
             s->base.instance);
    *good = sees_all_streamed(s, &s->chunk.sees);
out:
    PQclear(r);
    return rc;
}

int
postgresi_chunk_room(struct pg_source *s, uint32_t rows, struct err *err)
{
    s->chunk.rows = calloc((size_t)rows + 1, sizeof s->chunk.rows[0]);
    if (s->chunk.rows == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

int
postgresi_chunk_open(struct pg_source *s, uint32_t want, struct err *err)
{
    int rc;

    TRY(index_rows(&s->chunk, err));
    s->chunk.want = want;
    s->chunk.compare = s->place.again[want] == PG_AGAIN_DIFFERENCES;
    s->chunk.open = true;
out:
    return rc;
}

/* A table without a key has no order to go by: its rows from before are left out. */
static int
end_table(struct pg_source *s, uint32_t want, enum pg_step_kind kind, struct err *err)
{
    struct pg_step *step = postgresi_step_new(s, kind);

    if (step == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    step->want = want;
    return 0;
}

/* For people who wait: how many rows there are, about. */
static int
estimate(struct pg_source *s, uint32_t want, struct err *err)
{
    struct buf sql = {0};
    PGresult  *r = NULL;
    int        rc;

    buf_add_str(&sql,
                "SELECT greatest(sum(c.reltuples), 0)::bigint FROM pg_catalog.pg_class c "
                "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ");
    postgresi_add_literal(s->query, &sql, s->wants[want].schema);
    buf_add_str(&sql, " AND c.relname = ");
    postgresi_add_literal(s->query, &sql, s->wants[want].name);
    TRY(postgresi_query_buf(s, s->query, &sql, &r, err));
    if (!postgresi_cell_u64(r, 0, 0, &s->about))
        s->about = 0;
out:
    PQclear(r);
    buf_fini(&sql);
    return rc;
}

/* Within a transaction. */
static int
read_rows(struct pg_source *s, uint32_t want, struct err *err)
{
    struct pg_plan plan = {0};
    int            rc;

    TRY(make_plan(s, want, &plan, err));
    if (PQntuples(plan.key) == 0) {
        TRY(end_table(s, want, STEP_LOOKED, err));
        goto out;
    }
    buf_add_byte(&plan.sql, 0);
    if (plan.sql.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (s->place.after.len == 0)
        TRY(estimate(s, want, err));
    TRY(postgresi_chunk_room(s, s->chunk_rows, err));
    TRY(fetch(s, &plan, err));
    TRY(postgresi_chunk_open(s, want, err));
out:
    postgresi_plan_fini(&plan);
    return rc;
}

int
postgresi_snapshot_read(struct pg_source *s, struct err *err)
{
    uint32_t want = next_table(s);
    bool     good = false;
    int      rc;

    must(!s->chunk.open && want < s->want_count);
    postgresi_chunk_close(s);
    if (s->recent_failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(postgresi_need_query(s, err));
    TRY(settle(s, err));
    if (!s->settled)
        goto out;
    TRY(begin(s, want, err));
    TRY(look_at_snapshot(s, &good, err));
    if (good)
        TRY(s->place.missing ? postgresi_missing_read(s, want, err) : read_rows(s, want, err));
    TRY(postgresi_query(s, s->query, "COMMIT", NULL, err));
    if (s->chunk.open)
        TRY(postgresi_mark(s, err));
out:
    if (rc != 0)
        postgresi_disconnect(&s->query); /* it may be within the transaction */
    if (rc != 0 || !s->chunk.open)
        postgresi_chunk_close(s);
    return rc;
}

/* the stream meanwhile */

void
postgresi_snapshot_empty(struct pg_source *s, uint32_t want)
{
    struct pg_chunk *c = &s->chunk;

    for (uint32_t i = 0; c->open && c->want == want && !s->seen && i < c->count; i++)
        c->rows[i].dropped = true;
}

void
postgresi_snapshot_touch(struct pg_source *s, uint32_t want, struct slice key, bool partial)
{
    struct pg_chunk *c = &s->chunk;
    uint64_t         hash;

    if (!c->open || c->want != want || s->seen)
        return;
    hash = postgresi_hash(key);
    for (uint32_t i = c->buckets[hash & (c->bucket_count - 1)]; i != NO_ROW; i = c->rows[i].next) {
        if (c->rows[i].hash != hash || !slice_eq(chunk_text(c, c->rows[i].key), key))
            continue;
        c->rows[i].dropped = true;
        /* What the change leaves out only a later snapshot has together with it. */
        c->spoiled = c->spoiled || partial;
    }
}

bool
postgresi_snapshot_ripe(const struct pg_source *s)
{
    return s->chunk.open && !s->chunk.spoiled && !s->in_xact && s->received.v >= s->chunk.upto.v;
}

static struct pg_span
copy_text(struct pg_source *s, struct pg_span span)
{
    size_t at = s->bytes.len;

    buf_add_slice(&s->bytes, chunk_text(&s->chunk, span));
    return postgresi_span(s, at);
}

int
postgresi_snapshot_give(struct pg_source *s, uint32_t max, struct err *err)
{
    struct pg_chunk *c = &s->chunk;
    struct pg_step  *step;

    while (c->given < c->count && !postgresi_full(s, max)) {
        const struct pg_row *row = &c->rows[c->given];

        step = postgresi_step_new(s, c->keys ? STEP_KEY : STEP_ROW);
        if (step == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        step->want = c->want;
        step->place_after = copy_text(s, row->place);
        if (!row->dropped) {
            step->op = c->keys ? CHANGE_DELETE : CHANGE_READ;
            step->compare = c->compare;
            step->key = copy_text(s, row->key);
            step->after = copy_text(s, row->row);
            step->position = postgresi_position(s, c->upto, c->keys ? "d" : "r", c->given);
            s->waiting++;
        }
        c->given++;
    }
    if (s->bytes.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (c->given < c->count)
        return 0;
    if (c->last && end_table(s, c->want, c->keys ? STEP_LOOKED : STEP_READ, err) != 0)
        return E_NOMEM;
    postgresi_chunk_close(s);
    return 0;
}
