/*
 * A round: up to `snapshot_parallel` chunks of rows, of one table or of several
 * that follow one another, are read at once, each in a transaction of its own
 * on a connection of its own. While a round is read nothing is taken of the
 * stream, so each chunk's snapshot is judged by the same transactions.
 *
 * Where a chunk ends is asked for before: every n-th key. That moves nothing:
 * whatever happens at the borders meanwhile, each key lies in one chunk. The
 * last chunk of a table has no end, and tells whether it is the last one. One
 * that takes more than its share of memory is cut, and those behind it go.
 */
#include <inttypes.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/postgres/postgres_int.h"

#define ROUND_BYTES ((size_t)16 << 20)
#define ROUND_US UINT64_C(20000000) /* between two signs of life of its servers */
#define FETCH_FIRST 100             /* rows, until it is known how large they are */
#define FETCH_MAX 1000
#define FETCH_BYTES ((size_t)512 << 10) /* of one answer, about */

struct chunk_columns {
    int             count, key_count;
    struct pg_type *types;
    struct buf     *members; /* `{"first":`, then `,"next":` */
    bool           *is_key;
    int            *key_at; /* in the index's order */
};

enum reader_state {
    READER_ROWS,
    READER_END, /* COMMIT is sent */
    READER_DONE,
};

struct reader {
    PGconn              *conn;
    struct pg_chunk     *chunk;
    const PGresult      *key; /* the plan's */
    struct buf           sql; /* what is sent first */
    enum reader_state    state;
    bool                 seen;    /* what its snapshot sees is known */
    bool                 bounded; /* it ends at a key */
    uint32_t             room;    /* rows that it may have */
    uint32_t             asked;   /* rows of the last fetch … */
    uint32_t             got;     /* … and those that came */
    PGresult            *rows;    /* … until all of the answer is there */
    struct chunk_columns columns;
};

struct round {
    struct reader  readers[POSTGRESI_READERS_MAX];
    struct pg_plan plans[POSTGRESI_READERS_MAX];
    uint32_t       count, plan_count, conns;
    size_t         bytes; /* that a chunk may have */
};

/* the statements */

static void
add_names(struct pg_source *s, struct buf *sql, const PGresult *names)
{
    for (int i = 0; i < PQntuples(names); i++) {
        buf_add_str(sql, i == 0 ? "" : ", ");
        postgresi_add_name(s->query, sql, PQgetvalue(names, i, 0));
    }
}

static void
add_table(struct pg_source *s, struct buf *sql, uint32_t want)
{
    postgresi_add_name(s->query, sql, s->wants[want].schema);
    buf_add_byte(sql, '.');
    postgresi_add_name(s->query, sql, s->wants[want].name);
}

/* ('1','x') of the last key that was read. */
static int
add_after(struct pg_source *s, struct buf *sql, struct err *err)
{
    struct json_iter it;
    struct slice     raw;
    int              rc;

    buf_add_byte(sql, '(');
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

/* The same of a row of borders. */
static void
add_border(struct pg_source *s, struct buf *sql, const PGresult *borders, int row)
{
    buf_add_byte(sql, '(');
    for (int i = 0; i < PQnfields(borders); i++) {
        buf_add_str(sql, i == 0 ? "" : ", ");
        postgresi_add_literal(s->query, sql, PQgetvalue(borders, row, i));
    }
    buf_add_byte(sql, ')');
}

/* FROM t WHERE filter AND (key) > … */
static int
add_from(struct pg_source *s, struct buf *sql, uint32_t want, const struct pg_plan *p,
         const PGresult *borders, int after, struct err *err)
{
    bool filter = PQgetisnull(p->columns, 0, 1) == 0;
    int  rc = 0;

    buf_add_str(sql, " FROM ");
    add_table(s, sql, want);
    buf_printf(sql, " WHERE (%s)", filter ? PQgetvalue(p->columns, 0, 1) : "true");
    if (after < 0 && s->place.after.len == 0)
        return 0;
    if (after < 0 && s->place.reading != want)
        return 0;
    buf_add_str(sql, " AND (");
    add_names(s, sql, p->key);
    buf_add_str(sql, ") > ");
    if (after < 0)
        TRY(add_after(s, sql, err));
    else
        add_border(s, sql, borders, after);
out:
    return rc;
}

/* Every n-th key from where the table is to be read on, at most `max` of them. */
static int
find_borders(struct pg_source *s, uint32_t want, const struct pg_plan *p, uint32_t step,
             uint32_t max, PGresult **out, struct err *err)
{
    struct buf sql = {0};
    int        rc;

    buf_add_str(&sql, "SELECT ");
    add_names(s, &sql, p->key);
    buf_add_str(&sql, " FROM (SELECT ");
    add_names(s, &sql, p->key);
    buf_add_str(&sql, ", pg_catalog.row_number() OVER () AS oxbow_number FROM (SELECT ");
    add_names(s, &sql, p->key);
    TRY(add_from(s, &sql, want, p, NULL, -1, err));
    buf_add_str(&sql, " ORDER BY ");
    add_names(s, &sql, p->key);
    buf_printf(&sql,
               " LIMIT %" PRIu64 ") AS a) AS b WHERE oxbow_number %% %" PRIu32 " = 0 ORDER BY "
               "oxbow_number",
               (uint64_t)step * max, step);
    TRY(postgresi_query_buf(s, s->query, &sql, out, err));
out:
    buf_fini(&sql);
    return rc;
}

/* For people who wait: how many rows there are, about. */
static int
estimate(struct pg_source *s, uint32_t want, uint64_t *about, struct err *err)
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
    if (!postgresi_cell_u64(r, 0, 0, about))
        *about = 0;
out:
    PQclear(r);
    buf_fini(&sql);
    return rc;
}

/*
 * The lock is there before the snapshot: to an older one a table that is written anew, as some
 * forms of ALTER TABLE do, looks empty.
 */
static void
add_begin(struct pg_source *s, struct buf *sql, uint32_t want)
{
    buf_add_str(sql, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE ");
    add_table(s, sql, want);
    buf_add_str(sql, " IN ACCESS SHARE MODE; ");
}

/* One chunk: behind border `at` - 1 up to border `at`, if there are these. */
static int
add_chunk(struct pg_source *s, struct round *r, uint32_t want, const struct pg_plan *p,
          const PGresult *borders, int at, uint32_t step, struct err *err)
{
    struct reader *rd = &r->readers[r->count];
    int            rc;

    rd->chunk = &s->chunks[r->count];
    rd->chunk->want = want;
    rd->key = p->key;
    rd->bounded = borders != NULL && at < PQntuples(borders);
    rd->room = rd->bounded ? step + step / 4 + 1 : step;
    rd->asked = FETCH_FIRST;
    if (r->conns > 1)
        add_begin(s, &rd->sql, want);
    buf_add_str(&rd->sql, POSTGRESI_SEES "; DECLARE oxbow_chunk NO SCROLL CURSOR FOR SELECT ");
    add_names(s, &rd->sql, p->columns);
    TRY(add_from(s, &rd->sql, want, p, borders, at - 1, err));
    if (rd->bounded) {
        buf_add_str(&rd->sql, " AND (");
        add_names(s, &rd->sql, p->key);
        buf_add_str(&rd->sql, ") <= ");
        add_border(s, &rd->sql, borders, at);
    }
    buf_add_str(&rd->sql, " ORDER BY ");
    add_names(s, &rd->sql, p->key);
    if (!rd->bounded)
        buf_printf(&rd->sql, " LIMIT %" PRIu32, step);
    buf_printf(&rd->sql, "; FETCH %d FROM oxbow_chunk", FETCH_FIRST);
    buf_add_byte(&rd->sql, 0);
    if (rd->sql.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(postgresi_chunk_room(rd->chunk, rd->room, err));
    r->count++;
out:
    return rc;
}

/* The chunks of one table that there are connections for; *all: none is left. */
static int
plan_table(struct pg_source *s, struct round *r, uint32_t want, bool *all, struct err *err)
{
    struct pg_plan *p = &r->plans[r->plan_count++];
    uint32_t        first = r->count, left = r->conns - r->count, step = s->chunk_rows;
    PGresult       *borders = NULL;
    int             rc;

    *all = true;
    TRY(postgresi_plan_columns(s, want, p, err));
    if (PQntuples(p->key) == 0)
        goto out;
    if (s->fit_want != want)
        s->fit = 0;
    if (s->fit > 0 && s->fit < step)
        step = s->fit;
    if (r->conns > 1)
        TRY(find_borders(s, want, p, step, left, &borders, err));
    for (int at = 0; r->count < r->conns; at++) {
        TRY(add_chunk(s, r, want, p, borders, at, step, err));
        if (!r->readers[r->count - 1].bounded)
            break;
    }
    *all = !r->readers[r->count - 1].bounded;
    if (s->place.after.len == 0 || s->place.reading != want || s->about == 0)
        TRY(estimate(s, want, &s->chunks[first].about, err));
out:
    PQclear(borders);
    return rc;
}

/* reading */

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
put_row(struct buf *b, const struct chunk_columns *c, const PGresult *rows, int i,
        struct pg_row *out)
{
    size_t at;

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

static int
take_rows(struct pg_source *s, struct reader *rd, struct err *err)
{
    struct pg_chunk *c = rd->chunk;
    int              rc = 0;

    if (rd->rows == NULL)
        return 0;
    rd->got = (uint32_t)PQntuples(rd->rows);
    if (rd->columns.types == NULL)
        TRY(describe(s, rd->key, rd->rows, &rd->columns, err));
    for (uint32_t i = 0; i < rd->got && c->count < rd->room; i++)
        put_row(&c->bytes, &rd->columns, rd->rows, (int)i, &c->rows[c->count++]);
    if (c->bytes.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    PQclear(rd->rows);
    rd->rows = NULL;
    return rc;
}

/* Owns the result. */
static int
take_result(struct pg_source *s, struct reader *rd, PGresult *result, struct err *err)
{
    int rc = 0;

    if (PQresultStatus(result) == PGRES_TUPLES_OK && rd->seen) {
        PQclear(rd->rows);
        rd->rows = result;
        return 0;
    }
    if (PQresultStatus(result) == PGRES_TUPLES_OK) {
        rd->seen = true;
        TRY(postgresi_chunk_sees(s, rd->chunk, result, err));
    } else if (PQresultStatus(result) != PGRES_COMMAND_OK) {
        TRY(postgresi_fail(s, result, "a chunk of the snapshot", err));
    }
out:
    PQclear(result);
    return rc;
}

static int
send_sql(struct pg_source *s, struct reader *rd, const char *sql, struct err *err)
{
    if (PQsendQuery(rd->conn, sql) == 0)
        RETURN_ERR(err, E_CONNECT, ERR_RETRY, "source %s: a connection of the snapshot was lost",
                   s->base.instance);
    return 0;
}

static bool
is_full(const struct round *r, const struct reader *rd)
{
    return rd->chunk->count == rd->room || rd->chunk->bytes.len >= r->bytes;
}

/* As many more as fit, by the size of those that are there; `got` rows are still to be taken. */
static int
fetch_more(struct pg_source *s, const struct round *r, struct reader *rd, uint32_t got,
           struct err *err)
{
    const struct pg_chunk *c = rd->chunk;
    size_t                 each = c->bytes.len / c->count + 1;
    size_t                 fit = (r->bytes - c->bytes.len) / each + 1 - got;
    char                   sql[60];

    must(fit > 0);
    fit = fit < FETCH_BYTES / each + 1 ? fit : FETCH_BYTES / each + 1;
    rd->asked = fit < FETCH_MAX ? (uint32_t)fit : FETCH_MAX;
    (void)snprintf(sql, sizeof sql, "FETCH %" PRIu32 " FROM oxbow_chunk", rd->asked);
    return send_sql(s, rd, sql, err);
}

/* The next rows are asked for before these are taken, where there is surely room for both. */
static int
fetch_ahead(struct pg_source *s, const struct round *r, struct reader *rd, bool *ahead,
            struct err *err)
{
    const struct pg_chunk *c = rd->chunk;
    uint32_t               got = rd->rows == NULL ? 0 : (uint32_t)PQntuples(rd->rows);

    *ahead = got > 0 && got == rd->asked && c->count > 0 && got < rd->room - c->count &&
             c->bytes.len + (size_t)got * (c->bytes.len / c->count + 1) < r->bytes;
    return *ahead ? fetch_more(s, r, rd, got, err) : 0;
}

/* What was sent is answered. */
static int
go_on(struct pg_source *s, const struct round *r, struct reader *rd, struct err *err)
{
    bool ahead;
    int  rc = 0;

    if (rd->state == READER_END) {
        rd->state = READER_DONE;
        return 0;
    }
    TRY(fetch_ahead(s, r, rd, &ahead, err));
    TRY(take_rows(s, rd, err));
    if (ahead)
        return 0;
    if (rd->got == rd->asked && !is_full(r, rd))
        return fetch_more(s, r, rd, 0, err);
    rd->state = READER_END;
    TRY(send_sql(s, rd, "COMMIT", err));
out:
    return rc;
}

/* What is there of it; *moved: something was. */
static int
advance(struct pg_source *s, const struct round *r, struct reader *rd, bool *moved, struct err *err)
{
    int rc = 0;

    while (rd->state != READER_DONE && PQisBusy(rd->conn) == 0) {
        PGresult *result = PQgetResult(rd->conn);

        *moved = true;
        TRY(result == NULL ? go_on(s, r, rd, err) : take_result(s, rd, result, err));
    }
out:
    return rc;
}

static int
wait_any(struct pg_source *s, struct round *r, struct err *err)
{
    struct pollfd  fds[POSTGRESI_READERS_MAX];
    struct reader *of[POSTGRESI_READERS_MAX];
    nfds_t         n = 0;

    for (uint32_t i = 0; i < r->count; i++) {
        if (r->readers[i].state == READER_DONE)
            continue;
        of[n] = &r->readers[i];
        fds[n++] = (struct pollfd){.fd = PQsocket(r->readers[i].conn), .events = POLLIN};
    }
    if (poll(fds, n, (int)(ROUND_US / 1000)) <= 0)
        RETURN_ERR(err, E_TIMEOUT, ERR_RETRY, "source %s: the server does not answer a snapshot",
                   s->base.instance);
    for (nfds_t i = 0; i < n; i++)
        if (fds[i].revents != 0 && PQconsumeInput(of[i]->conn) == 0)
            RETURN_ERR(err, E_CONNECT, ERR_RETRY,
                       "source %s: a connection of the snapshot was lost", s->base.instance);
    return 0;
}

static int
read_all(struct pg_source *s, struct round *r, struct err *err)
{
    bool moved, busy = true;
    int  rc = 0;

    for (uint32_t i = 0; i < r->count; i++)
        TRY(send_sql(s, &r->readers[i], (const char *)r->readers[i].sql.data, err));
    while (busy) {
        moved = busy = false;
        for (uint32_t i = 0; i < r->count; i++) {
            TRY(advance(s, r, &r->readers[i], &moved, err));
            busy = busy || r->readers[i].state != READER_DONE;
        }
        if (busy && !moved)
            TRY(wait_any(s, r, err));
    }
out:
    return rc;
}

/* rounds */

void
postgresi_readers_close(struct pg_source *s)
{
    for (uint32_t i = 0; i < POSTGRESI_READERS_MAX; i++)
        postgresi_disconnect(&s->readers[i]);
    postgresi_chunks_free(s);
}

/* As many connections as can be had, for one the one that is there. */
static void
connect_readers(struct pg_source *s, struct round *r)
{
    struct err err;

    while (s->parallel > 1 && r->conns < s->parallel) {
        PGconn **conn = &s->readers[r->conns];

        if (*conn != NULL && PQstatus(*conn) != CONNECTION_OK)
            postgresi_disconnect(conn);
        if (*conn == NULL && postgresi_connect(s, false, conn, &err) != 0)
            break;
        r->conns++;
    }
    r->conns = r->conns == 0 ? 1 : r->conns;
    for (uint32_t i = 0; i < r->conns; i++)
        r->readers[i].conn = r->conns == 1 ? s->query : s->readers[i];
}

/* Until the round is read no table changes its columns. */
static int
lock(struct pg_source *s, struct round *r, uint32_t want, struct err *err)
{
    struct buf sql = {0};
    int        rc;

    if (r->plan_count == 0) {
        add_begin(s, &sql, want);
    } else {
        buf_add_str(&sql, "LOCK TABLE ");
        add_table(s, &sql, want);
        buf_add_str(&sql, " IN ACCESS SHARE MODE");
    }
    TRY(postgresi_query_buf(s, s->query, &sql, NULL, err));
out:
    buf_fini(&sql);
    return rc;
}

/* A table whose missing rows are looked for next has none behind it. */
static int
plan(struct pg_source *s, struct round *r, uint32_t want, struct err *err)
{
    bool all = true;
    int  rc = 0;

    while (all && want < s->want_count && r->count < r->conns) {
        uint32_t before = r->count;

        TRY(lock(s, r, want, err));
        TRY(plan_table(s, r, want, &all, err));
        if (r->count == before || s->place.again[want] == PG_AGAIN_DIFFERENCES)
            break;
        want = postgresi_snapshot_next(s, want + 1);
    }
out:
    return rc;
}

/* How many of them follow one another without a hole. */
static uint32_t
judge(struct pg_source *s, struct round *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        struct reader *rd = &r->readers[i];
        bool           whole = rd->got < rd->asked && !is_full(r, rd);

        rd->chunk->last = !rd->bounded && whole;
        if (rd->chunk->bytes.len >= r->bytes && rd->chunk->count > 0) {
            s->fit = rd->chunk->count - rd->chunk->count / 4;
            s->fit_want = rd->chunk->want;
        }
        if (!whole)
            return i + 1;
    }
    return r->count;
}

static void
end_round(struct round *r)
{
    for (uint32_t i = 0; i < POSTGRESI_READERS_MAX; i++) {
        struct reader *rd = &r->readers[i];

        postgresi_plan_fini(&r->plans[i]);
        PQclear(rd->rows);
        buf_fini(&rd->sql);
        forget_columns(&rd->columns);
    }
}

int
postgresi_rows_read(struct pg_source *s, uint32_t want, struct err *err)
{
    struct round r = {.bytes = ROUND_BYTES / s->parallel};
    int          rc;

    connect_readers(s, &r);
    TRY(plan(s, &r, want, err));
    /* A table without a key has no order to go by: its rows from before are left out. */
    if (r.count == 0)
        TRY(postgresi_snapshot_end(s, want, STEP_LOOKED, err));
    TRY(read_all(s, &r, err));
    if (r.conns > 1 || r.count == 0)
        TRY(postgresi_query(s, s->query, "COMMIT", NULL, err));
    if (r.count > 0 && postgresi_chunks_good(s, r.count))
        TRY(postgresi_chunks_open(s, judge(s, &r), err));
out:
    if (rc != 0)
        postgresi_readers_close(s);
    end_round(&r);
    return rc;
}
