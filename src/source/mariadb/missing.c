/*
 * Rows that were deleted while nobody looked: keys that were captured are
 * asked for in the table, in a transaction whose place in the log is known,
 * and those that are not there are handed out when the stream stands there.
 * Whether the log has the deletion by then the core knows.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "source/mariadb/mariadb_int.h"

#define KEYS_MAX 1000

struct key {
    struct my_span text; /* in `texts` */
    bool           there;
    uint32_t       next; /* of the same bucket, plus one */
};

struct keys {
    struct buf list, texts, found;
    struct key each[KEYS_MAX];
    uint32_t   count, buckets[2048];
};

static uint32_t *
bucket_of(struct keys *k, struct slice text)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < text.len; i++)
        h = (h ^ ((const uint8_t *)text.data)[i]) * 16777619u;
    return &k->buckets[(h ^ h >> 15) % 2048];
}

static struct slice
text_of(const struct keys *k, uint32_t at)
{
    return slice_of(k->texts.data + k->each[at].text.at, k->each[at].text.len);
}

static int
ask_keys(struct my_source *s, uint32_t want, struct keys *k, struct err *err)
{
    struct json_iter it;
    struct slice     raw;
    int              rc;

    must(s->base.keys != NULL);
    TRY(s->base.keys(s->base.keys_arg, slice_str(s->wants[want].table),
                     buf_slice(&s->next.after_key), KEYS_MAX, &k->list, &s->chunk.last_key, err));
    TRY(json_array_iter(&it, buf_slice(&k->list), err));
    while (k->count < KEYS_MAX && (rc = json_iter_next(&it, NULL, &raw, err)) == 0) {
        struct key *key = &k->each[k->count];

        key->text.at = k->texts.len;
        TRY(json_string_decode(raw, &k->texts, err));
        key->text.len = k->texts.len - key->text.at;
        k->count++;
    }
    if (rc == E_END)
        rc = 0;
    for (uint32_t i = 0; rc == 0 && i < k->count; i++) {
        uint32_t *bucket = bucket_of(k, text_of(k, i));

        k->each[i].next = *bucket;
        *bucket = i + 1;
    }
out:
    return rc;
}

/* One part of a key as it stands in a stream's name as a literal; *key is moved behind it. */
static void
add_part(struct my_source *s, struct slice *key, bool alone, struct buf *sql)
{
    const uint8_t *p = key->data, *end = p + key->len;
    bool           hex = key->len >= 2 && p[0] == '\\' && p[1] == 'x';

    buf_clear(&s->scratch);
    for (p += hex ? 2 : 0; p < end && (alone || *p != '|'); p++) {
        if (!alone && *p == '\\' && p + 1 < end)
            p++;
        buf_add_byte(&s->scratch, *p);
    }
    if (hex)
        buf_add_byte(sql, 'x');
    mariadbi_add_text(s->query, sql, buf_slice(&s->scratch));
    *key = p < end ? slice_of(p + 1, (size_t)(end - p) - 1) : slice_of(end, 0);
}

/* … WHERE (a = '1' AND b = 'x') OR … */
static int
build(struct my_source *s, const struct my_want *w, struct keys *k, struct buf *sql,
      struct err *err)
{
    mariadbi_snapshot_select(w, sql);
    buf_add_str(sql, " WHERE ");
    for (uint32_t i = 0; i < k->count; i++) {
        struct slice key = text_of(k, i);

        buf_add_str(sql, i == 0 ? "(" : " OR (");
        for (uint32_t part = 0; part < w->order_count; part++) {
            buf_add_str(sql, part == 0 ? "" : " AND ");
            mariadbi_add_name(sql, w->fields[w->order[part]].name);
            buf_add_str(sql, " = ");
            add_part(s, &key, w->order_count == 1, sql);
        }
        buf_add_byte(sql, ')');
    }
    if (sql->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

/* The row's key is one of those, if it is spelled the same. */
static void
note_row(struct my_source *s, const struct my_want *w, struct keys *k, MYSQL_ROW row,
         const unsigned long *lens)
{
    struct my_value v;

    buf_clear(&k->found);
    for (uint32_t i = 0; i < w->order_count; i++) {
        uint32_t at = w->order[i];

        if (i > 0)
            buf_add_byte(&k->found, '|');
        v = mariadbi_snapshot_value(s, &w->fields[at], row[at], lens[at]);
        mariadbi_value_key(&k->found, &v, w->order_count > 1);
    }
    for (uint32_t i = *bucket_of(k, buf_slice(&k->found)); i > 0; i = k->each[i - 1].next)
        if (slice_eq(text_of(k, i - 1), buf_slice(&k->found)))
            k->each[i - 1].there = true;
}

static int
look(struct my_source *s, const struct my_want *w, struct keys *k, struct buf *sql, struct err *err)
{
    MYSQL_RES *r;
    MYSQL_ROW  row;
    int        rc = 0;

    if (mysql_real_query(s->query, (const char *)sql->data, (unsigned long)sql->len) != 0)
        return mariadbi_fail(s, s->query, "snapshot", false, err);
    r = mysql_use_result(s->query);
    if (r == NULL)
        return mariadbi_fail(s, s->query, "snapshot", false, err);
    while ((row = mysql_fetch_row(r)) != NULL)
        note_row(s, w, k, row, mysql_fetch_lengths(r));
    if (mysql_errno(s->query) != 0)
        rc = mariadbi_fail(s, s->query, "snapshot", false, err);
    mysql_free_result(r);
    if (rc == 0 && k->found.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return rc;
}

static int
fill_chunk(struct my_source *s, struct keys *k, struct err *err)
{
    struct my_chunk *c = &s->chunk;

    for (uint32_t i = 0; i < k->count; i++) {
        struct my_chunk_row *row = &c->rows[c->count];

        if (k->each[i].there)
            continue;
        *row = (struct my_chunk_row){.key = {c->bytes.len, k->each[i].text.len}};
        buf_add_slice(&c->bytes, text_of(k, i));
        c->count++;
    }
    c->last = c->last_key.len == 0;
    if (c->bytes.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

int
mariadbi_missing_read(struct my_source *s, uint32_t want, struct err *err)
{
    const struct my_want *w = &s->wants[want];
    struct keys          *k = calloc(1, sizeof *k);
    struct buf            sql = {0};
    bool                  seen;
    int                   rc = 0;

    if (k == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(mariadbi_snapshot_room(s, KEYS_MAX, err));
    TRY(ask_keys(s, want, k, err));
    TRY(build(s, w, k, &sql, err));
    TRY(mariadbi_snapshot_begin(s, &seen, err));
    if (!seen)
        goto out;
    if (k->count > 0)
        TRY(look(s, w, k, &sql, err));
    TRY(fill_chunk(s, k, err));
    TRY(mariadbi_run(s, s->query, err, "COMMIT"));
    s->chunk.open = true;
out:
    if (k != NULL) {
        buf_fini(&k->list);
        buf_fini(&k->texts);
        buf_fini(&k->found);
    }
    free(k);
    buf_fini(&sql);
    return rc;
}
