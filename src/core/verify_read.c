/*
 * Held messages in memory, and the checkpoint:
 *   {"low":N,"done":[versions from low on that are decided]}
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "core/verify_int.h"

#define BYTES_MAX ((size_t)64 << 20)

void
verifyi_held_free(struct verify_held *h)
{
    if (h == NULL)
        return;
    buf_fini(&h->bytes);
    free(h);
}

void
verifyi_forget(struct verify *v)
{
    must(!v->in_flight);
    for (uint32_t i = 0; i < v->count; i++)
        verifyi_held_free(v->open[i]);
    v->count = 0;
    v->bytes = 0;
    log_iter_close(v->it);
    v->it = NULL;
}

static int
read_done(struct verify *v, struct slice list, struct err *err)
{
    struct json_iter it;
    struct slice     raw;
    int              rc;

    v->done_count = 0;
    TRY(json_array_iter(&it, list, err));
    while ((rc = json_iter_next(&it, NULL, &raw, err)) == 0) {
        if (v->done_count == v->done_room) {
            uint32_t  room = v->done_room == 0 ? 64 : v->done_room * 2;
            uint64_t *more = realloc(v->done, room * sizeof *more);

            if (more == NULL)
                FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
            v->done = more;
            v->done_room = room;
        }
        must(v->done_count < v->done_room);
        if (!json_uint64(raw, &v->done[v->done_count++]))
            FAIL(err, E_SCHEMA, ERR_FATAL, "source %s: its checkpoint is none", v->name);
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

int
verifyi_read_checkpoint(struct verify *v, struct err *err)
{
    char             name[LOG_NAME_MAX + 1];
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    struct slice     raw;
    int              rc;

    must(v->count == 0);
    must(v->it == NULL);
    (void)snprintf(name, sizeof name, "$source-%s", v->name);
    read.stream = slice_str(name);
    v->version = LOG_NO_STREAM;
    v->low = 0;
    v->done_count = 0;
    rc = log_iter_open(v->log, &read, &it, err);
    if (rc == E_NOTFOUND) {
        rc = 0;
        goto out;
    }
    TRY(rc);
    TRY(log_iter_next(it, &ev, err));
    v->version = (int64_t)ev.version;
    if (!json_get_path(ev.data, slice_str("checkpoint.low"), &raw) || !json_uint64(raw, &v->low) ||
        !json_get_path(ev.data, slice_str("checkpoint.done"), &raw))
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s: its last event is no checkpoint of a verification",
             name);
    TRY(read_done(v, raw, err));
out:
    v->next = v->low;
    log_iter_close(it);
    return rc;
}

static bool
is_done(const struct verify *v, uint64_t version)
{
    for (uint32_t i = 0; i < v->done_count; i++)
        if (v->done[i] == version)
            return true;
    return false;
}

static struct slice
keep(struct verify_held *h, struct slice from, size_t *at)
{
    *at = h->bytes.len;
    buf_add_slice(&h->bytes, from);
    return slice_of(NULL,
                    from.len); /* its place is filled in once the buffer has stopped growing */
}

/* The metadata without "$verify". */
static void
put_rest(struct verify_held *h, struct slice meta)
{
    struct json_iter it;
    struct json_out  o;
    struct slice     key, value;

    json_out_init(&o, &h->bytes);
    json_out_object(&o);
    if (json_object_iter(&it, meta, NULL) == 0)
        while (json_iter_next(&it, &key, &value, NULL) == 0)
            if (!slice_is(key, "$verify") && !slice_is(key, "$source")) {
                json_out_key_slice(&o, key);
                json_out_raw(&o, value);
            }
    /* Whoever writes the event ends it: where this came from is added. */
}

static int
decode(struct slice raw, struct buf *out, bool *there)
{
    *there = json_type(raw) == JSON_STRING;
    return *there ? json_string_decode(raw, out, NULL) : 0;
}

/* What "$verify" says, decoded behind the rest; false: it is not all there. */
static bool
put_verify(struct verify_held *h, const struct log_event *ev, size_t at[4])
{
    struct slice raw = {0};
    char         text[ID_TEXT_LEN + 1];
    bool         there = false;

    at[0] = h->bytes.len;
    if (!json_get_path(ev->meta, slice_str("$verify.id"), &raw) ||
        decode(raw, &h->bytes, &there) != 0 || !there) {
        id_format(&ev->id, text);
        buf_add_str(&h->bytes, text);
    }
    at[1] = h->bytes.len;
    if (!json_get_path(ev->meta, slice_str("$verify.stream"), &raw) ||
        decode(raw, &h->bytes, &there) != 0 || !there)
        return false;
    at[2] = h->bytes.len;
    if (json_get_path(ev->meta, slice_str("$verify.token"), &raw))
        (void)decode(raw, &h->bytes, &there);
    at[3] = h->bytes.len;
    return at[2] > at[1];
}

static void
put_event(struct verify_held *h, const struct log_event *ev, struct slice key, struct slice stream)
{
    struct json_out o;

    json_out_init(&o, &h->bytes);
    json_out_object(&o);
    json_out_key(&o, "id");
    json_out_string(&o, key);
    json_out_key(&o, "stream");
    json_out_string(&o, stream);
    json_out_key(&o, "type");
    json_out_string(&o, ev->type);
    json_out_key(&o, "data");
    if ((ev->flags & LOG_JSON) != 0)
        json_out_raw(&o, ev->data);
    else
        json_out_null(&o);
    json_out_key(&o, "metadata");
    json_out_raw(&o, ev->meta.len > 0 ? ev->meta : slice_str("{}"));
    json_out_object_end(&o);
}

static uint64_t
hash_of(struct slice name)
{
    uint64_t h = 1469598103934665603u;

    for (size_t i = 0; i < name.len; i++)
        h = (h ^ ((const uint8_t *)name.data)[i]) * 1099511628211u;
    return h | 1;
}

static int
take(struct verify *v, const struct log_event *ev, struct err *err)
{
    struct verify_held *h = calloc(1, sizeof *h);
    struct buf          names = {0};
    size_t              at[4] = {0}, type_at, data_at, meta_at, event_at;
    const uint8_t      *b;
    int                 rc = 0;

    if (h == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    must(v->count < v->window);
    must(v->count == 0 || v->open[v->count - 1]->version < ev->version);
    h->version = ev->version;
    h->id = ev->id;
    h->created_us = ev->created_us;
    h->came_us = ev->time_us;
    h->flags = ev->flags & (LOG_JSON | LOG_SEALED);
    if (!put_verify(h, ev, at)) {
        h->decision = VERIFYI_PARK;
        h->by = "form";
        (void)snprintf(h->why, sizeof h->why, "its metadata has no $verify.stream");
        at[1] = at[2] = at[3] = h->bytes.len;
    }
    must(at[0] <= at[1]);
    must(at[1] <= at[2]);
    must(at[2] <= at[3]);
    /* Copies: what put_event reads must not lie in the buffer that it fills. */
    buf_add(&names, h->bytes.data + at[0], at[3] - at[0]);
    h->type = keep(h, ev->type, &type_at);
    h->data = keep(h, ev->data, &data_at);
    meta_at = h->bytes.len;
    put_rest(h, ev->meta);
    event_at = h->bytes.len;
    if (!names.failed)
        put_event(h, ev, slice_of(names.data, at[1] - at[0]),
                  slice_of(names.data + (at[1] - at[0]), at[2] - at[1]));
    if (h->bytes.failed || names.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    b = h->bytes.data;
    h->key = slice_of(b + at[0], at[1] - at[0]);
    h->stream = slice_of(b + at[1], at[2] - at[1]);
    h->token = slice_of(b + at[2], at[3] - at[2]);
    h->type.data = b + type_at;
    h->data.data = b + data_at;
    h->meta = slice_of(b + meta_at, event_at - meta_at);
    h->event = slice_of(b + event_at, h->bytes.len - event_at);
    h->hash = hash_of(h->stream);
    v->bytes += h->bytes.len;
    v->open[v->count++] = h;
    h = NULL;
out:
    buf_fini(&names);
    verifyi_held_free(h);
    return rc;
}

int
verifyi_fill(struct verify *v, struct err *err)
{
    struct log_read  read = {.stream = slice_str(v->stream), .from = v->next};
    struct log_event ev;
    int              rc = 0;

    must(v->next >= v->low);
    if (v->it == NULL) {
        rc = log_iter_open(v->log, &read, &v->it, err);
        if (rc == E_NOTFOUND)
            return 0;
        TRY(rc);
    }
    while (v->count < v->window && (v->bytes < BYTES_MAX || v->count == 0)) {
        rc = log_iter_next(v->it, &ev, err);
        if (rc == E_END || rc == E_NOTFOUND) {
            rc = 0;
            break;
        }
        TRY(rc);
        must(ev.version >= v->next);
        if (!is_done(v, ev.version))
            TRY(take(v, &ev, err));
        v->next = ev.version + 1;
    }
out:
    if (rc != 0) {
        log_iter_close(v->it);
        v->it = NULL;
    }
    return rc;
}
