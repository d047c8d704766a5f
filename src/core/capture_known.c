/*
 * What the log has already of a change's row: values that a source did not say
 * again are filled in from there, and of a snapshot's rows those are left out
 * that it has as they are. Asked only when nothing is under way.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "core/capture_int.h"

#define NONE UINT32_MAX

void
capturei_add_name(const struct capture *c, const struct change *ch, struct buf *out)
{
    if (c->category != NULL)
        buf_add_str(out, c->category);
    else
        buf_add_slice(out, ch->table);
    if (ch->key.len > 0) {
        buf_add_byte(out, '-');
        buf_add_slice(out, ch->key);
    }
}

bool
capturei_asks(const struct capture *c, const struct source_batch *batch)
{
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct change *ch = &batch->changes[i];

        if (ch->unchanged.len > 0 || ch->compare ||
            (c->outbox != NULL && (c->looking || ch->op == CHANGE_READ)))
            return true;
    }
    return false;
}

void
capturei_forget(struct capture *c)
{
    must(c->completed_room == 0 || c->whole != NULL);
    for (uint32_t i = 0; i < c->completed_room; i++)
        buf_fini(&c->whole[i]);
}

/* the batch by itself */

struct known {
    struct capture *c;
    struct change  *changes;
    uint32_t       *slots, mask;
    bool            parked, truncates; /* there are parked changes; the batch has truncations */
    struct slice    table;             /* whose last truncation … */
    struct log_pos  truncated;         /* … stands here; 0: none */
};

static uint32_t *
slot_of(struct known *k, const struct change *ch)
{
    uint64_t h = 1469598103934665603u;
    uint32_t at;

    for (size_t i = 0; i < ch->key.len; i++)
        h = (h ^ ((const uint8_t *)ch->key.data)[i]) * 1099511628211u;
    for (at = (uint32_t)(h >> 32) & k->mask; k->slots[at] != 0; at = (at + 1) & k->mask) {
        const struct change *other = &k->changes[k->slots[at] - 1];

        if (slice_eq(other->key, ch->key) && slice_eq(other->table, ch->table))
            break;
    }
    return &k->slots[at];
}

/* The change of the same row before this one, where no truncation lies between; NONE. */
static uint32_t
before_in_batch(struct known *k, uint32_t at, uint32_t *slot)
{
    uint32_t prev = *slot == 0 ? NONE : *slot - 1;

    must(prev == NONE || prev < at);
    for (uint32_t i = at; k->truncates && i > (prev == NONE ? 0 : prev + 1); i--)
        if (k->changes[i - 1].op == CHANGE_TRUNCATE &&
            slice_eq(k->changes[i - 1].table, k->changes[at].table))
            return i - 1;
    return prev;
}

/* the log */

static bool
said_by(const struct capture *c, const struct log_event *ev, struct slice table)
{
    struct slice raw;
    char         quoted[256];

    (void)snprintf(quoted, sizeof quoted, "\"%s\"", c->name);
    return json_get_path(ev->meta, slice_str("$source.name"), &raw) && slice_is(raw, quoted) &&
           json_get_path(ev->meta, slice_str("$source.table"), &raw) &&
           json_type(raw) == JSON_STRING &&
           json_key_is(slice_of((const char *)raw.data + 1, raw.len - 2), table);
}

/* Where the table's last truncation stands. */
static int
find_truncated(struct known *k, struct slice table, struct err *err)
{
    struct capture  *c = k->c;
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    struct change    whole = {.table = table};
    int              rc;

    if (slice_eq(k->table, table))
        return 0;
    k->table = table;
    k->truncated = LOG_POS(0);
    buf_clear(&c->text);
    capturei_add_name(c, &whole, &c->text);
    read.stream = buf_slice(&c->text);
    rc = log_iter_open(c->log, &read, &it, err);
    while (rc == 0 && (rc = log_iter_next(it, &ev, err)) == 0) {
        if (!slice_is(ev.type, capture_type_name(CHANGE_TRUNCATE)) || !said_by(c, &ev, table))
            continue;
        k->truncated = ev.pos;
        break;
    }
    log_iter_close(it);
    return rc == E_NOTFOUND || rc == E_END ? 0 : rc;
}

struct last_event {
    struct log_iter *it;
    struct slice     row; /* empty: none that this source put there, or it is deleted */
    bool             whole;
};

static int
last_in_log(struct known *k, const struct change *ch, struct last_event *out, struct err *err)
{
    struct capture  *c = k->c;
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_event ev;
    struct slice     raw;
    int              rc;

    must(out->it == NULL);
    TRY(find_truncated(k, ch->table, err));
    buf_clear(&c->text);
    capturei_add_name(c, ch, &c->text);
    read.stream = buf_slice(&c->text);
    rc = log_iter_open(c->log, &read, &out->it, err);
    if (rc == E_NOTFOUND || (rc == 0 && (rc = log_iter_next(out->it, &ev, err)) == E_END))
        return 0;
    TRY(rc);
    if (said_by(c, &ev, ch->table) && ev.pos.v > k->truncated.v &&
        json_type(ev.data) == JSON_OBJECT) {
        out->row = ev.data;
        out->whole = !json_get_path(ev.meta, slice_str("$source.unchanged"), &raw);
    }
out:
    return rc;
}

/* The row as it was before this change. */
static int
find_last(struct known *k, uint32_t at, uint32_t *slot, struct last_event *out, struct err *err)
{
    uint32_t prev = before_in_batch(k, at, slot);

    if (prev == NONE)
        return last_in_log(k, &k->changes[at], out, err);
    out->row = k->changes[prev].after;
    out->whole = k->changes[prev].unchanged.len == 0;
    return 0;
}

/* One that was parked is not in its stream: what stands there may be older than what is meant. */
static int
look_for_parked(struct capture *c, bool *found, struct err *err)
{
    char             stream[LOG_NAME_MAX + 1];
    struct log_read  read = {.from = 0};
    struct log_iter *it = NULL;
    int              rc;

    (void)snprintf(stream, sizeof stream, "$parked-source-%s", c->name);
    read.stream = slice_str(stream);
    rc = log_iter_open(c->log, &read, &it, err);
    log_iter_close(it);
    *found = rc == 0;
    return rc == E_NOTFOUND ? 0 : rc;
}

/* values that a source did not say again */

/* Whether all of the names are members of the row; they are put behind `out`. */
static bool
add_members(struct slice row, struct slice names, struct buf *out)
{
    struct json_iter it;
    struct slice     name, value;
    char             text[512];
    int              rc = json_array_iter(&it, names, NULL);

    while (rc == 0 && (rc = json_iter_next(&it, NULL, &name, NULL)) == 0) {
        if (json_type(name) != JSON_STRING)
            return false;
        (void)snprintf(text, sizeof text, "%.*s", (int)name.len - 2, (const char *)name.data + 1);
        if (name.len >= sizeof text || memchr(name.data, '\\', name.len) != NULL ||
            !json_get(row, text, &value))
            return false;
        buf_add_byte(out, ',');
        buf_add_slice(out, name);
        buf_add_byte(out, ':');
        buf_add_slice(out, value);
    }
    return rc == E_END;
}

/* Fills in what `unchanged` names; else it stays marked. */
static int
fill_in(struct capture *c, struct change *ch, struct slice row, struct buf *whole, struct err *err)
{
    must(ch->unchanged.len > 0);
    if (row.len < 2 || ch->after.len <= 2)
        return 0;
    buf_clear(whole);
    buf_add(whole, ch->after.data, ch->after.len - 1);
    if (!add_members(row, ch->unchanged, whole))
        return 0;
    buf_add_byte(whole, '}');
    if (whole->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "source %s: out of memory for a batch", c->name);
    ch->after = buf_slice(whole); /* until the next batch */
    ch->unchanged = slice_of(NULL, 0);
    return 0;
}

/* *keep: false where the log has it as it is. */
static int
look_at(struct known *k, uint32_t at, bool *keep, struct err *err)
{
    struct change    *ch = &k->changes[at];
    struct last_event last = {0};
    uint32_t         *slot = slot_of(k, ch);
    int               rc = 0;

    must(at < k->c->completed_room);
    *keep = true;
    if (ch->compare) {
        TRY(find_last(k, at, slot, &last, err));
        *keep = ch->op == CHANGE_DELETE ? last.row.len > 0
                                        : !last.whole || !slice_eq(last.row, ch->after);
    } else if (ch->unchanged.len > 0 && !k->parked) {
        TRY(find_last(k, at, slot, &last, err));
        if (last.whole)
            TRY(fill_in(k->c, ch, last.row, &k->c->whole[at], err));
    }
    *slot = at + 1;
out:
    log_iter_close(last.it);
    return rc;
}

static int
make_room(struct capture *c, uint32_t n, struct err *err)
{
    if (c->completed_room >= n)
        return 0;
    capturei_forget(c);
    free(c->completed);
    free(c->whole);
    c->completed_room = 0;
    c->completed = calloc(n, sizeof c->completed[0]);
    c->whole = calloc(n, sizeof c->whole[0]);
    if (c->completed == NULL || c->whole == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "source %s: out of memory for a batch", c->name);
    c->completed_room = n;
    return 0;
}

int
capturei_complete(struct capture *c, struct source_batch *batch, struct err *err)
{
    struct known k = {.c = c, .mask = 1};
    uint32_t     left = 0;
    bool         keep;
    int          rc;

    must(c->flying == 0);
    must(!c->in_flight); /* it would need c->text */
    while (k.mask < batch->count * 2)
        k.mask *= 2;
    TRY(make_room(c, batch->count, err));
    k.slots = calloc(k.mask--, sizeof k.slots[0]);
    if (k.slots == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "source %s: out of memory for a batch", c->name);
    TRY(look_for_parked(c, &k.parked, err));
    memcpy(c->completed, batch->changes, batch->count * sizeof c->completed[0]);
    k.changes = c->completed;
    for (uint32_t i = 0; i < batch->count; i++)
        k.truncates = k.truncates || batch->changes[i].op == CHANGE_TRUNCATE;
    for (uint32_t i = 0; i < batch->count; i++) {
        TRY(look_at(&k, i, &keep, err));
        c->completed[i].compare = !keep; /* from here on: it is left out */
    }
    for (uint32_t i = 0; i < batch->count; i++)
        if (!c->completed[i].compare)
            c->completed[left++] = c->completed[i];
    must(left <= batch->count);
    batch->changes = c->completed;
    batch->count = left;
out:
    free(k.slots);
    return rc;
}

/* keys */

struct names {
    struct buf text; /* one after the other, each with a zero */
    uint32_t   count, max;
};

static int
take_name(void *arg, const struct log_stream *stream, struct err *err)
{
    struct names *n = arg;

    must(n->count < n->max);
    buf_add_slice(&n->text, stream->name);
    buf_add_byte(&n->text, 0);
    if (n->text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return ++n->count == n->max ? E_END : 0;
}

/* The key as the stream's last event has it, where that is a row of the table. */
static int
take_key(struct capture *c, struct slice name, struct slice table, struct buf *keys,
         struct err *err)
{
    struct log_read  read = {.stream = name, .from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    struct slice     raw;
    int              rc = log_iter_open(c->log, &read, &it, err);

    if (rc == 0)
        rc = log_iter_next(it, &ev, err);
    if (rc == 0 && said_by(c, &ev, table) && json_type(ev.data) == JSON_OBJECT &&
        json_get_path(ev.meta, slice_str("$source.key"), &raw)) {
        buf_add_byte(keys, keys->len == 1 ? ' ' : ',');
        buf_add_slice(keys, raw);
    }
    log_iter_close(it);
    return rc == E_NOTFOUND || rc == E_GONE || rc == E_END ? 0 : rc;
}

int
capturei_keys(void *arg, struct slice table, struct slice after, uint32_t max, struct buf *keys,
              struct buf *last, struct err *err)
{
    struct capture *c = arg;
    struct names    n = {.max = max};
    struct change   whole = {.table = table};
    const char     *p;
    int             rc;

    must(max > 0);
    must(!c->in_flight);
    buf_clear(&c->text);
    capturei_add_name(c, &whole, &c->text);
    buf_add_byte(&c->text, '-');
    buf_clear(keys);
    buf_clear(last);
    buf_add_byte(keys, '[');
    rc = log_streams(c->log, buf_slice(&c->text), after, take_name, &n, err);
    if (rc == 0 || rc == E_END)
        rc = 0;
    TRY(rc);
    p = (const char *)n.text.data;
    for (uint32_t i = 0; i < n.count; i++, p += strlen(p) + 1) {
        TRY(take_key(c, slice_str(p), table, keys, err));
        if (i + 1 == n.count && n.count == max)
            buf_add_str(last, p);
    }
    buf_add_byte(keys, ']');
    if (keys->failed || last->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "source %s: out of memory", c->name);
out:
    buf_fini(&n.text);
    return rc;
}
