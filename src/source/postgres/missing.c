/*
 * Rows that were deleted while nobody looked: keys that were captured are
 * asked for in the table, in a snapshot as a chunk of rows is, and those that
 * are not there wait for the stream like its rows. Whether the log has the
 * deletion by then the core knows.
 */
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/postgres/postgres_int.h"

#define KEYS_MAX 1000

struct keys {
    struct buf   list, last; /* JSON array; where to go on from, empty: that was all */
    struct slice each[KEYS_MAX];
    uint32_t     count;
    struct buf   scratch;
};

/* One part of a key as it stands in a stream's name, and what is behind it. */
static void
take_part(struct slice *key, bool alone, struct buf *out)
{
    const uint8_t *p = key->data, *end = p + key->len;

    buf_clear(out);
    for (; p < end && (alone || *p != '|'); p++) {
        if (!alone && *p == '\\' && p + 1 < end)
            p++;
        buf_add_byte(out, *p);
    }
    if (p < end)
        p++;
    *key = slice_of(p, (size_t)(end - p));
    buf_add_byte(out, 0);
}

/* Of how many columns it was, when it was captured. */
static int
count_parts(struct slice key)
{
    const uint8_t *p = key.data, *end = p + key.len;
    int            n = 1;

    for (; p < end; p++) {
        if (*p == '\\')
            p++;
        else
            n += *p == '|';
    }
    return n;
}

/* (1, 'a', 'b'), …: each key's number and its columns in the table's order; one of other columns
 * is of no row. */
static int
add_values(struct pg_source *s, struct keys *k, const struct pg_plan *p, struct buf *sql,
           struct err *err)
{
    struct buf   text = {0};
    struct slice key;
    int          rc = 0, parts = PQntuples(p->key);
    bool         other;

    for (uint32_t i = 0; i < k->count; i++) {
        buf_clear(&k->scratch);
        TRY(json_string_decode(k->each[i], &k->scratch, err));
        key = buf_slice(&k->scratch);
        other = parts > 1 && count_parts(key) != parts;
        buf_printf(sql, "%s(%u", i == 0 ? "" : ", ", i);
        for (int part = 0; part < parts && other; part++)
            buf_add_str(sql, ", NULL");
        for (int part = 0; part < parts && !other; part++) {
            take_part(&key, parts == 1, &text);
            if (text.failed)
                FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
            buf_add_str(sql, ", ");
            postgresi_add_literal(s->query, sql, (const char *)text.data);
        }
        buf_add_byte(sql, ')');
    }
out:
    buf_fini(&text);
    return rc;
}

/* The key columns' types, by name. */
static int
find_types(struct pg_source *s, const struct pg_want *w, PGresult **out, struct err *err)
{
    struct buf sql = {0};
    int        rc;

    buf_add_str(&sql, "SELECT a.attname, pg_catalog.format_type(a.atttypid, NULL) FROM "
                      "pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid "
                      "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE a.attnum > 0 "
                      "AND NOT a.attisdropped AND n.nspname = ");
    postgresi_add_literal(s->query, &sql, w->schema);
    buf_add_str(&sql, " AND c.relname = ");
    postgresi_add_literal(s->query, &sql, w->name);
    rc = postgresi_query_buf(s, s->query, &sql, out, err);
    buf_fini(&sql);
    return rc;
}

static void
add_where(struct pg_source *s, const struct pg_plan *p, const PGresult *types, struct buf *sql)
{
    int part = 0;

    for (int i = 0; i < PQntuples(p->columns); i++) {
        const char *name = PQgetvalue(p->columns, i, 0), *type = "text";

        if (!postgresi_plan_is_key(p, name))
            continue;
        for (int t = 0; t < PQntuples(types); t++)
            if (strcmp(PQgetvalue(types, t, 0), name) == 0)
                type = PQgetvalue(types, t, 1);
        buf_add_str(sql, " AND t.");
        postgresi_add_name(s->query, sql, name);
        if (s->by_text)
            buf_printf(sql, "::text = v.c%d", part++);
        else
            buf_printf(sql, " = v.c%d::%s", part++, type);
    }
}

/* SELECT n FROM (VALUES …) v WHERE NOT EXISTS (SELECT FROM t WHERE …): the numbers of those gone.
 */
static int
make_plan(struct pg_source *s, uint32_t want, struct keys *k, struct pg_plan *p, struct err *err)
{
    const struct pg_want *w = &s->wants[want];
    PGresult             *types = NULL;
    int                   rc;

    TRY(postgresi_plan_columns(s, want, p, err));
    if (PQntuples(p->key) == 0)
        goto out;
    TRY(find_types(s, w, &types, err));
    buf_add_str(&p->sql, "SELECT v.n FROM (VALUES ");
    TRY(add_values(s, k, p, &p->sql, err));
    buf_add_str(&p->sql, ") AS v(n");
    for (int i = 0; i < PQntuples(p->key); i++)
        buf_printf(&p->sql, ", c%d", i);
    buf_add_str(&p->sql, ") WHERE NOT EXISTS (SELECT FROM ");
    postgresi_add_name(s->query, &p->sql, w->schema);
    buf_add_byte(&p->sql, '.');
    postgresi_add_name(s->query, &p->sql, w->name);
    buf_add_str(&p->sql, " AS t WHERE (");
    buf_add_str(&p->sql,
                PQgetisnull(p->columns, 0, 1) == 0 ? PQgetvalue(p->columns, 0, 1) : "true");
    buf_add_byte(&p->sql, ')');
    add_where(s, p, types, &p->sql);
    buf_add_byte(&p->sql, ')');
    buf_add_byte(&p->sql, 0);
    if (p->sql.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    PQclear(types);
    return rc;
}

static int
ask_keys(struct pg_source *s, uint32_t want, struct keys *k, struct err *err)
{
    struct json_iter it;
    struct slice     raw;
    int              rc;

    must(s->base.keys != NULL);
    TRY(s->base.keys(s->base.keys_arg, slice_str(s->wants[want].table),
                     buf_slice(&s->place.after_key), KEYS_MAX, &k->list, &k->last, err));
    TRY(json_array_iter(&it, buf_slice(&k->list), err));
    while (k->count < KEYS_MAX && (rc = json_iter_next(&it, NULL, &raw, err)) == 0)
        k->each[k->count++] = raw;
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* A key is a row without anything in it; the last one, dropped, says where to go on. */
static int
put_key(struct pg_source *s, struct keys *k, uint32_t at, struct err *err)
{
    struct pg_chunk *c = &s->chunks[0];
    struct pg_row   *row = &c->rows[c->count++];
    size_t           from = c->bytes.len;
    int              rc = json_string_decode(k->each[at], &c->bytes, err);

    *row = (struct pg_row){.key = {from, c->bytes.len - from}};
    return rc;
}

static int
fetch(struct pg_source *s, const struct pg_plan *p, struct keys *k, struct err *err)
{
    struct pg_chunk *c = &s->chunks[0];
    PGresult        *r = NULL;
    uint64_t         at;
    int              rc = 0;

    if (k->count > 0)
        rc = postgresi_query(s, s->query, (const char *)p->sql.data, &r, err);
    if (rc == E_REMOTE && err->kind == ERR_FATAL && !s->by_text) {
        s->by_text = true;
        err->kind = ERR_RETRY;
    }
    if (rc != 0)
        goto out;
    for (int i = 0; r != NULL && i < PQntuples(r); i++) {
        if (!postgresi_cell_u64(r, i, 0, &at) || at >= k->count)
            FAIL(err, E_FORMAT, ERR_FATAL, "source %s: an answer is not as it should be",
                 s->base.instance);
        TRY(put_key(s, k, (uint32_t)at, err));
    }
    c->last = k->last.len == 0;
    c->rows[c->count] = (struct pg_row){.dropped = true, .place = {c->bytes.len, k->last.len}};
    buf_add_slice(&c->bytes, buf_slice(&k->last));
    for (uint32_t i = 0; i < c->count; i++)
        c->rows[i].place = (struct pg_span){0};
    c->count++;
    if (c->bytes.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    PQclear(r);
    return rc;
}

int
postgresi_missing_read(struct pg_source *s, uint32_t want, struct err *err)
{
    struct keys   *k = calloc(1, sizeof *k);
    struct pg_plan plan = {0};
    int            rc = 0;

    if (k == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(ask_keys(s, want, k, err));
    TRY(make_plan(s, want, k, &plan, err));
    if (plan.sql.len == 0) {
        k->count = 0; /* it has lost its key: nothing can be asked for */
        buf_clear(&k->last);
    }
    TRY(postgresi_chunk_room(&s->chunks[0], k->count, err));
    s->chunks[0].want = want;
    s->chunks[0].keys = true;
    TRY(fetch(s, &plan, k, err));
    TRY(postgresi_chunks_open(s, 1, err));
out:
    postgresi_plan_fini(&plan);
    if (k != NULL) {
        buf_fini(&k->list);
        buf_fini(&k->last);
        buf_fini(&k->scratch);
    }
    free(k);
    return rc;
}
