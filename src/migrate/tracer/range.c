#include "migrate/tracer/range.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/json.h"

#define WAIT_US UINT64_C(10000000)
#define HEAD 8        /* of a row in the bytes: lengths of key and fields, which are hashed too */
#define EXTRA_TIMES 4 /* a range ends early where the follower has so many times as many rows */
#define E_ENOUGH E_INTERRUPTED /* stops a scan; E_END is the drivers' own word there */

struct rows {
    struct buf bytes;
    size_t    *at;
    uint32_t   count, room;
};

struct traceri_rows {
    struct rows         lead, follow;
    struct buf          scratch;
    struct traceri_keys changed;
};

struct reading {
    struct tracer   *t;
    struct rows     *rows;
    struct buf      *scratch;
    enum tracer_side side;
    struct slice     last; /* no key after it; empty: no bound */
    uint32_t         max;
};

int
traceri_rows_new(struct traceri_rows **out, struct err *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    return 0;
}

void
traceri_rows_free(struct traceri_rows *r)
{
    if (r == NULL)
        return;
    buf_fini(&r->lead.bytes);
    buf_fini(&r->follow.bytes);
    free(r->lead.at);
    free(r->follow.at);
    buf_fini(&r->scratch);
    traceri_keys_fini(&r->changed);
    free(r);
}

static struct slice
key_at(const struct rows *r, uint32_t i)
{
    const uint8_t *p = r->bytes.data + r->at[i];

    return slice_of(p + HEAD, get_u32(p));
}

static struct slice
fields_at(const struct rows *r, uint32_t i)
{
    const uint8_t *p = r->bytes.data + r->at[i];

    return slice_of(p + HEAD + get_u32(p), get_u32(p + 4));
}

/* reading */

static int
add_row(struct rows *r, struct slice key, struct slice fields, struct err *err)
{
    uint8_t head[HEAD];

    if (r->count == r->room) {
        uint32_t room = r->room == 0 ? 512 : r->room * 2;
        size_t  *at = reallocarray(r->at, room, sizeof *at);

        if (at == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for %u rows", room);
        r->at = at;
        r->room = room;
    }
    put_u32(head, (uint32_t)key.len);
    put_u32(head + 4, (uint32_t)fields.len);
    r->at[r->count++] = r->bytes.len;
    buf_add(&r->bytes, head, HEAD);
    buf_add_slice(&r->bytes, key);
    buf_add_slice(&r->bytes, fields);
    if (r->bytes.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for rows");
    return 0;
}

static int
take_row(void *arg, const struct store_row *row, struct err *err)
{
    struct reading *rd = arg;
    struct slice    fields = row->fields;
    int             order = -1, rc;

    if (rd->last.len > 0)
        order = store_key_cmp(rd->t->ends[rd->side].store->key_order, row->key, rd->last);
    if (order > 0)
        RETURN_ERR(err, E_ENOUGH, ERR_DATA, "beyond the range");
    if (rd->max > 0 && rd->rows->count == rd->max)
        RETURN_ERR(err, E_ENOUGH, ERR_DATA, "enough rows");
    if (row->key.len > TRACERI_KEY_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "a key is over %d bytes", TRACERI_KEY_MAX);
    if (rd->side == TRACER_OLD) {
        TRY(traceri_map_row(rd->t->map, rd->side, row->fields, rd->scratch, err));
        fields = buf_slice(rd->scratch);
    }
    TRY(add_row(rd->rows, row->key, fields, err));
    if (order == 0)
        FAIL(err, E_ENOUGH, ERR_DATA, "the range's last row");
out:
    return rc;
}

static int
read_one(struct reading *rd, struct slice key, struct err *err)
{
    struct store    *s = rd->t->ends[rd->side].store;
    struct store_row row;
    int              rc = s->ops->get(s, key, &row, err);

    if (rc == E_NOTFOUND) {
        err_clear(err);
        return 0;
    }
    if (rc == 0) {
        row.key = key;
        rc = take_row(rd, &row, err);
        must(rc != E_ENOUGH);
    }
    return rc;
}

static int
read_rows(struct reading *rd, struct traceri_range *r, uint32_t limit, struct err *err)
{
    struct store *s = rd->t->ends[rd->side].store;
    int           rc;

    buf_clear(&rd->rows->bytes);
    rd->rows->count = 0;
    if (r->single.len > 0)
        return read_one(rd, r->single, err);
    rc = s->ops->scan(s, r->after, limit, take_row, rd, err);
    if (rc == E_ENOUGH) {
        err_clear(err);
        rc = 0;
    }
    return rc;
}

/* what changed */

static int
note_changed(struct tracer *t, enum tracer_side side, const struct log_event *ev,
             struct traceri_keys *keys, struct buf *scratch, struct err *err)
{
    enum traceri_effect effect;
    struct slice        raw, key;
    int                 rc = 0;

    if (json_get_path(ev->meta, slice_str("$source.origin"), &raw) &&
        json_type(raw) == JSON_STRING &&
        json_key_is(slice_of((const char *)raw.data + 1, raw.len - 2), slice_str(t->mark)))
        goto out;
    TRY(traceri_map_event(t->map, side, ev, scratch, &effect, err));
    if (effect == EFFECT_NONE || !json_get_path(ev->meta, slice_str("$source.key"), &raw))
        goto out;
    TRY(json_string_view(raw, scratch, &key, err));
    if (!traceri_keys_add(keys, key))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for keys");
out:
    return rc;
}

int
traceri_range_changed(struct tracer *t, uint64_t *from, struct traceri_keys *keys, struct err *err)
{
    struct log_pos end = log_end(t->log);
    struct buf     scratch = {0};
    int            rc = 0;

    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++) {
        struct log_read  read = {.from = *from,
                                 .filter = {.category = slice_str(t->ends[side].category)}};
        struct log_iter *it = NULL;
        struct log_event ev;

        TRY(log_iter_open(t->log, &read, &it, err));
        while ((rc = log_iter_next(it, &ev, err)) == 0) {
            if (ev.pos.v >= end.v)
                break;
            rc = note_changed(t, side, &ev, keys, &scratch, err);
            if (rc != 0)
                break;
        }
        log_iter_close(it);
        if (rc == E_END)
            rc = 0;
        TRY(rc);
    }
    *from = end.v;
out:
    buf_fini(&scratch);
    return rc;
}

/* comparing */

/* Count and sum modulo 2^128: independent of the order, and no row cancels another. */
static XXH128_hash_t
fingerprint(const struct rows *r, uint64_t seed)
{
    XXH128_hash_t sum = {0, 0};

    for (uint32_t i = 0; i < r->count; i++) {
        size_t        to = i + 1 < r->count ? r->at[i + 1] : r->bytes.len;
        XXH128_hash_t h = XXH3_128bits_withSeed(r->bytes.data + r->at[i], to - r->at[i], seed);

        sum.low64 += h.low64;
        sum.high64 += h.high64 + (sum.low64 < h.low64);
    }
    return sum;
}

static bool
same(struct traceri_rows *rows, struct traceri_range *r)
{
    struct ox_env *env = r->t->env;
    uint64_t       began = env->ops->mono_us(env);
    XXH128_hash_t  a = fingerprint(&rows->lead, r->t->rec.seed);
    XXH128_hash_t  b = fingerprint(&rows->follow, r->t->rec.seed);

    r->hash_us = env->ops->mono_us(env) - began;
    return rows->lead.count == rows->follow.count && XXH128_isEqual(a, b);
}

static bool
empty_or_null(struct slice raw)
{
    return json_is_null(raw) || slice_is(raw, "\"\"");
}

/* Whether NULL on one side and the empty text on the other is all that differs. */
static bool
null_against_empty(struct slice a, struct slice b)
{
    struct json_iter it;
    struct slice     key, x, y;
    struct buf       name = {0};
    bool             only = true;
    struct err       err;

    if (json_object_iter(&it, a, &err) != 0)
        return false;
    while (only && json_iter_next(&it, &key, &x, &err) == 0) {
        buf_clear(&name);
        buf_add_slice(&name, key);
        buf_add_byte(&name, 0);
        only = !name.failed && json_get(b, (const char *)name.data, &y) &&
               (slice_eq(x, y) || (empty_or_null(x) && empty_or_null(y)));
    }
    buf_fini(&name);
    return only;
}

static int
differ(struct traceri_rows *rows, struct traceri_range *r, const uint32_t *i, const uint32_t *j,
       struct err *err)
{
    struct slice      key = i != NULL ? key_at(&rows->lead, *i) : key_at(&rows->follow, *j);
    enum traceri_kind kind = i == NULL ? KIND_EXTRA : j == NULL ? KIND_MISSING : KIND_DIFFERENT;

    if (traceri_keys_find(&rows->changed, key) != NULL)
        return r->hot(r->arg, key, err);
    buf_clear(&rows->scratch);
    if (kind == KIND_DIFFERENT) {
        struct slice a = fields_at(&rows->lead, *i), b = fields_at(&rows->follow, *j);

        traceri_map_differing(r->t->map, a, b, &rows->scratch);
        if (null_against_empty(a, b))
            kind = KIND_NULL_EMPTY;
    }
    return r->differs(r->arg, key, kind, buf_slice(&rows->scratch), err);
}

static int
compare(struct traceri_rows *rows, struct traceri_range *r, enum store_key_order order,
        struct err *err)
{
    const struct rows *a = &rows->lead, *b = &rows->follow;
    uint32_t           i = 0, j = 0;
    int                rc = 0;

    while (i < a->count || j < b->count) {
        int cmp = i == a->count   ? 1
                  : j == b->count ? -1
                                  : store_key_cmp(order, key_at(a, i), key_at(b, j));

        if (cmp < 0) {
            TRY(differ(rows, r, &i, NULL, err));
            i++;
        } else if (cmp > 0) {
            TRY(differ(rows, r, NULL, &j, err));
            j++;
        } else {
            if (!slice_eq(fields_at(a, i), fields_at(b, j)))
                TRY(differ(rows, r, &i, &j, err));
            i++;
            j++;
        }
    }
out:
    return rc;
}

/* Where the range ends: at the leader's last row, or before, where the follower has far more. */
static void
set_end(struct traceri_rows *rows, struct traceri_range *r, bool full, uint32_t most)
{
    struct slice last = {0};

    r->end = !full;
    if (rows->follow.count == most) {
        enum store_key_order order = r->t->ends[TRACER_OLD].store->key_order;

        last = key_at(&rows->follow, rows->follow.count - 1);
        r->end = false;
        while (rows->lead.count > 0 &&
               store_key_cmp(order, key_at(&rows->lead, rows->lead.count - 1), last) > 0) {
            rows->lead.bytes.len = rows->lead.at[--rows->lead.count];
        }
    } else if (rows->lead.count > 0) {
        last = key_at(&rows->lead, rows->lead.count - 1);
    }
    (void)snprintf(r->last, sizeof r->last, "%.*s", SLICE_FMT(last));
}

/* The follower's rows once the leader's changes until now are there; then what changed. */
static int
read_follower(struct traceri_rows *rows, struct traceri_range *r, bool full, uint64_t began,
              struct err *err)
{
    enum tracer_side lead = traceri_leader(r->t);
    struct store    *s = r->t->ends[lead].store;
    uint64_t         deadline = r->t->env->ops->mono_us(r->t->env) + WAIT_US;
    uint32_t         most = r->limit * EXTRA_TIMES;
    struct reading   rd = {.t = r->t,
                           .rows = &rows->follow,
                           .scratch = &rows->scratch,
                           .side = traceri_other(lead),
                           .max = most};
    struct buf       position = {0};
    struct log_pos   upto;
    int              rc;

    TRY(s->ops->position(s, &position, err));
    TRY(traceri_wait_applied(r->t, lead, buf_slice(&position), deadline, &upto, err));
    if (full)
        rd.last = key_at(&rows->lead, rows->lead.count - 1);
    TRY(read_rows(&rd, r, most + 1, err));
    buf_clear(&position);
    TRY(s->ops->position(s, &position, err));
    TRY(traceri_wait_captured(r->t, lead, buf_slice(&position), deadline, &upto, err));
    traceri_keys_clear(&rows->changed);
    TRY(traceri_range_changed(r->t, &began, &rows->changed, err));
    if (r->single.len == 0)
        set_end(rows, r, full, most);
out:
    buf_fini(&position);
    return rc;
}

int
traceri_range_verify(struct traceri_rows *rows, struct traceri_range *r, struct err *err)
{
    enum tracer_side lead = traceri_leader(r->t);
    uint64_t         began = log_end(r->t->log).v;
    struct reading   rd = {.t = r->t, .rows = &rows->lead, .scratch = &rows->scratch, .side = lead};
    bool             full;
    int              rc;

    r->end = r->compared = false;
    TRY(read_rows(&rd, r, r->limit, err));
    full = r->single.len == 0 && rows->lead.count == r->limit;
    TRY(read_follower(rows, r, full, began, err));
    r->rows = rows->lead.count;
    r->compared = !same(rows, r);
    if (r->compared)
        TRY(compare(rows, r, r->t->ends[lead].store->key_order, err));
out:
    return rc;
}
