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

#define NO_ROW UINT32_MAX
#define RECENT_KEPT 65536

uint32_t
postgresi_snapshot_next(const struct pg_source *s, uint32_t from)
{
    uint32_t i = from;

    if (from == 0 && (s->place.after.len > 0 || s->place.missing))
        return s->place.reading;
    while (i < s->want_count &&
           (s->place.read[i] || (!s->snapshot && s->place.again[i] == PG_AGAIN_NOT)))
        i++;
    return i;
}

bool
postgresi_snapshot_due(const struct pg_source *s)
{
    return postgresi_snapshot_next(s, 0) < s->want_count;
}

/* Its memory stays, for the next one. */
static void
close_chunk(struct pg_chunk *c)
{
    struct pg_chunk empty = {.rows = c->rows, .room = c->room, .bytes = c->bytes};

    free(c->buckets);
    free(c->sees.running);
    buf_clear(&empty.bytes);
    *c = empty;
}

void
postgresi_chunks_free(struct pg_source *s)
{
    for (uint32_t i = s->chunk_count; i < POSTGRESI_READERS_MAX; i++) {
        struct pg_chunk *c = &s->chunks[i];

        close_chunk(c);
        free(c->rows);
        buf_fini(&c->bytes);
        *c = (struct pg_chunk){0};
    }
}

void
postgresi_chunks_cut(struct pg_source *s, uint32_t count)
{
    for (uint32_t i = count; i < POSTGRESI_READERS_MAX; i++)
        close_chunk(&s->chunks[i]);
    s->chunk_count = count < s->chunk_count ? count : s->chunk_count;
}

void
postgresi_snapshot_drop(struct pg_source *s)
{
    postgresi_chunks_cut(s, 0);
    postgresi_readers_close(s);
}

void
postgresi_snapshot_sift(struct pg_source *s)
{
    for (uint32_t i = 0; i < s->chunk_count; i++)
        if (s->chunks[i].spoiled)
            postgresi_chunks_cut(s, i);
}

struct pg_lsn
postgresi_snapshot_upto(const struct pg_source *s)
{
    struct pg_lsn upto = {0};

    for (uint32_t i = 0; i < s->chunk_count; i++)
        if (s->chunks[i].upto.v > upto.v)
            upto = s->chunks[i].upto;
    return upto;
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
    for (uint32_t i = 0; i < s->chunk_count; i++)
        s->chunks[i].seen = is_seen(&s->chunks[i].sees, s->xid);
    postgresi_snapshot_remember(s, s->xid);
}

static bool
all_see(const struct pg_source *s, uint32_t count, uint32_t xid)
{
    for (uint32_t i = 0; i < count; i++)
        if (!is_seen(&s->chunks[i].sees, xid))
            return false;
    return true;
}

/* Forgets those that all of them see. */
bool
postgresi_chunks_good(struct pg_source *s, uint32_t count)
{
    size_t left = 0;

    for (size_t i = 0; i < s->recent_count; i++)
        if (!all_see(s, count, s->recent[i]))
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

/* Whether the table of now is named as its captured rows are. */
static int
check_key(struct pg_source *s, uint32_t want, const struct pg_plan *p, struct err *err)
{
    uint32_t              count = (uint32_t)PQntuples(p->columns);
    struct pg_key_column *columns = calloc((size_t)count + 1, sizeof columns[0]);
    int                   rc = 0;

    if (columns == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (uint32_t i = 0; i < count; i++) {
        columns[i].name = PQgetvalue(p->columns, (int)i, 0);
        columns[i].key = postgresi_plan_is_key(p, columns[i].name);
    }
    TRY(postgresi_key_note(s, want, columns, count, err));
out:
    free(columns);
    return rc;
}

bool
postgresi_plan_is_key(const struct pg_plan *p, const char *column)
{
    for (int i = 0; i < PQntuples(p->key); i++)
        if (strcmp(PQgetvalue(p->key, i, 0), column) == 0)
            return true;
    return false;
}

int
postgresi_plan_columns(struct pg_source *s, uint32_t want, struct pg_plan *p, struct err *err)
{
    int rc;

    TRY(postgresi_key_columns(s, want, &p->key, err));
    if (PQntuples(p->key) > 0) {
        TRY(find_columns(s, &s->wants[want], &p->columns, err));
        TRY(check_key(s, want, p, err));
    }
out:
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

int
postgresi_chunk_sees(struct pg_source *s, struct pg_chunk *c, const PGresult *r, struct err *err)
{
    if (PQntuples(r) != 1 || PQnfields(r) != 2 || c->sees.running != NULL ||
        !parse_visible(postgresi_cell(r, 0, 0), &c->sees) ||
        !postgresi_lsn_parse(postgresi_cell(r, 0, 1), &c->upto))
        RETURN_ERR(err, E_FORMAT, ERR_FATAL, "source %s: a snapshot is not as it should be",
                   s->base.instance);
    return 0;
}

static int
look_at_snapshot(struct pg_source *s, struct pg_chunk *c, struct err *err)
{
    PGresult *r = NULL;
    int       rc;

    TRY(postgresi_query(s, s->query, POSTGRESI_SEES, &r, err));
    TRY(postgresi_chunk_sees(s, c, r, err));
out:
    PQclear(r);
    return rc;
}

int
postgresi_chunk_room(struct pg_chunk *c, uint32_t rows, struct err *err)
{
    uint32_t need = rows + 1;

    must(c->count == 0);
    if (c->room < need) {
        free(c->rows);
        c->rows = malloc((size_t)need * sizeof c->rows[0]);
        c->room = c->rows == NULL ? 0 : need;
    }
    if (c->room < need)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    memset(c->rows, 0, (size_t)need * sizeof c->rows[0]);
    return 0;
}

int
postgresi_chunks_open(struct pg_source *s, uint32_t count, struct err *err)
{
    uint64_t rows = 0;
    int      rc = 0;

    must(count <= POSTGRESI_READERS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        struct pg_chunk *c = &s->chunks[i];

        TRY(index_rows(c, err));
        c->compare = s->place.again[c->want] == PG_AGAIN_DIFFERENCES;
        c->first = rows;
        rows += c->count;
    }
    s->chunk_count = count;
out:
    return rc;
}

int
postgresi_snapshot_end(struct pg_source *s, uint32_t want, enum pg_step_kind kind, struct err *err)
{
    struct pg_step *step = postgresi_step_new(s, kind);

    if (step == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    step->want = want;
    return 0;
}

/* Captured keys whose rows may be gone, in one transaction on the query connection. */
static int
read_missing(struct pg_source *s, uint32_t want, struct err *err)
{
    bool good = false;
    int  rc;

    TRY(begin(s, want, err));
    TRY(look_at_snapshot(s, &s->chunks[0], err));
    good = postgresi_chunks_good(s, 1);
    if (good)
        TRY(postgresi_missing_read(s, want, err));
    TRY(postgresi_query(s, s->query, "COMMIT", NULL, err));
out:
    return rc;
}

int
postgresi_snapshot_read(struct pg_source *s, struct err *err)
{
    uint32_t want = postgresi_snapshot_next(s, 0);
    int      rc;

    must(s->chunk_count == 0 && want < s->want_count);
    if (s->recent_failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(postgresi_need_query(s, err));
    TRY(settle(s, err));
    if (!s->settled)
        goto out;
    TRY(s->place.missing ? read_missing(s, want, err) : postgresi_rows_read(s, want, err));
    if (s->chunk_count > 0)
        TRY(postgresi_mark(s, err));
out:
    if (rc != 0)
        postgresi_disconnect(&s->query); /* it may be within the transaction */
    postgresi_chunks_cut(s, rc != 0 ? 0 : s->chunk_count);
    return rc;
}

/* the stream meanwhile */

void
postgresi_snapshot_empty(struct pg_source *s, uint32_t want)
{
    for (uint32_t k = 0; k < s->chunk_count; k++) {
        struct pg_chunk *c = &s->chunks[k];

        for (uint32_t i = 0; c->want == want && !c->seen && i < c->count; i++)
            c->rows[i].dropped = true;
    }
}

static void
touch(struct pg_chunk *c, uint64_t hash, struct slice key, bool partial)
{
    for (uint32_t i = c->buckets[hash & (c->bucket_count - 1)]; i != NO_ROW; i = c->rows[i].next) {
        if (c->rows[i].hash != hash || !slice_eq(chunk_text(c, c->rows[i].key), key))
            continue;
        c->rows[i].dropped = true;
        /* What the change leaves out only a later snapshot has together with it. */
        c->spoiled = c->spoiled || partial;
    }
}

void
postgresi_snapshot_touch(struct pg_source *s, uint32_t want, struct slice key, bool partial)
{
    uint64_t hash = s->chunk_count == 0 ? 0 : postgresi_hash(key);

    for (uint32_t k = 0; k < s->chunk_count; k++)
        if (s->chunks[k].want == want && !s->chunks[k].seen)
            touch(&s->chunks[k], hash, key, partial);
}

bool
postgresi_snapshot_ripe(const struct pg_source *s)
{
    return s->chunk_count > 0 && !s->chunks[0].spoiled && !s->in_xact &&
           s->received.v >= s->chunks[0].upto.v;
}

static struct pg_span
copy_text(struct pg_source *s, struct pg_span span)
{
    size_t at = s->bytes.len;

    buf_add_slice(&s->bytes, chunk_text(&s->chunks[0], span));
    return postgresi_span(s, at);
}

int
postgresi_snapshot_give(struct pg_source *s, uint32_t max, struct err *err)
{
    struct pg_chunk *c = &s->chunks[0], first;
    struct pg_step  *step;

    if (c->about > 0)
        s->about = c->about;
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
            step->position =
                postgresi_position(s, c->upto, c->keys ? "d" : "r", c->first + c->given);
            s->waiting++;
        }
        c->given++;
    }
    if (s->bytes.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (c->given < c->count)
        return 0;
    if (c->last && postgresi_snapshot_end(s, c->want, c->keys ? STEP_LOOKED : STEP_READ, err) != 0)
        return E_NOMEM;
    close_chunk(c);
    s->chunk_count--;
    first = *c;
    memmove(c, c + 1, (POSTGRESI_READERS_MAX - 1) * sizeof *c);
    s->chunks[POSTGRESI_READERS_MAX - 1] = first;
    return 0;
}
