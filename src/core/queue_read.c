/* What a start reads from the log: the window's ids, and which parked messages are open. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/must.h"
#include "core/queue_int.h"

#define LOOK_MAX 100000 /* events of a stream that an id is looked for in */

static int
open_stream(struct queue *q, const char *prefix, uint64_t from, bool backwards,
            struct log_iter **it, struct err *err)
{
    char            name[LOG_NAME_MAX + 1];
    struct log_read read = {.from = from, .backwards = backwards};

    (void)snprintf(name, sizeof name, "%s%s", prefix, q->form.name);
    read.stream = slice_str(name);
    return log_iter_open(q->log, &read, it, err);
}

/* The ids of one event, as their base64; *count: how many. */
static bool
ids_of(const struct log_event *ev, struct slice *text, uint32_t *count)
{
    struct slice raw;
    size_t       bytes;

    *count = 0;
    if (!json_get(ev->data, "ids", &raw) || json_type(raw) != JSON_STRING)
        return false;
    *text = slice_of((const char *)raw.data + 1, raw.len - 2);
    bytes = text->len / 4 * 3;
    for (size_t i = text->len; i > 0 && ((const char *)text->data)[i - 1] == '='; i--)
        bytes--;
    *count = (uint32_t)(bytes / 16);
    return true;
}

static enum queue_rest
state_of(const struct log_event *ev, bool *is_state)
{
    struct slice raw;

    *is_state = json_get(ev->data, "state", &raw);
    if (!*is_state || slice_is(raw, "\"running\""))
        return QUEUEI_AWAKE;
    return slice_is(raw, "\"paused\"") ? QUEUEI_PAUSED : QUEUEI_DROPPED;
}

/* The last event of $source-NAME. */
static int
take_last(struct queue *q, const struct log_event *ev, enum queue_rest rest, struct err *err)
{
    struct slice raw;

    must(q->version == LOG_NO_STREAM);
    must(q->checkpoint.len == 0);
    q->version = (int64_t)ev->version;
    q->rest = rest;
    if (rest != QUEUEI_DROPPED && json_get(ev->data, "checkpoint", &raw) && !json_is_null(raw))
        buf_add_slice(&q->checkpoint, raw);
    if (q->checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the checkpoint");
    lock_take(&q->lock);
    q->status.last = ev->pos;
    lock_give(&q->lock);
    return 0;
}

/* From the end back: the state, and from which version on the window is to be filled. */
static int
find_start(struct queue *q, uint64_t *from, struct err *err)
{
    int64_t          now = q->env->ops->wall_us(q->env);
    struct log_iter *it = NULL;
    struct log_event ev;
    struct slice     text;
    uint64_t         found = 0;
    uint32_t         n;
    bool             is_state;
    int              rc;

    *from = 0;
    TRY(open_stream(q, "$source-", UINT64_MAX, true, &it, err));
    while ((rc = log_iter_next(it, &ev, err)) == 0) {
        enum queue_rest rest = state_of(&ev, &is_state);

        if (q->version == LOG_NO_STREAM)
            TRY(take_last(q, &ev, rest, err));
        *from = ev.version;
        if (is_state && rest == QUEUEI_DROPPED)
            break;
        if (q->window.time_us > 0 && now - ev.time_us > (int64_t)q->window.time_us)
            break;
        (void)ids_of(&ev, &text, &n);
        found += n;
        if (found >= q->window.max)
            break;
    }
    rc = rc == E_END ? 0 : rc;
out:
    log_iter_close(it);
    return rc == E_NOTFOUND ? 0 : rc;
}

static int
add_ids(struct queue *q, const struct log_event *ev, struct buf *bytes, struct err *err)
{
    struct slice text;
    struct ox_id id;
    size_t       len = 0;
    uint32_t     n;

    if (!ids_of(ev, &text, &n) || n == 0)
        return 0;
    buf_clear(bytes);
    buf_add_slice(bytes, text);
    if (bytes->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the window");
    if (!base64_decode(bytes->data, bytes->len, &len) || len != (size_t)16 * n)
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "$source-%s: event %" PRIu64 " has no ids",
                   q->form.name, ev->version);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(id.b, bytes->data + (size_t)16 * i, 16);
        if (!queuei_window_add(&q->window, &id, ev->time_us, ev->version))
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the window");
    }
    return 0;
}

static int
fill_window(struct queue *q, uint64_t from, struct err *err)
{
    struct log_iter *it = NULL;
    struct log_event ev;
    struct buf       bytes = {0};
    int              rc;

    must(q->window.count == 0);
    must(from <= (uint64_t)q->version);
    TRY(open_stream(q, "$source-", from, false, &it, err));
    while ((rc = log_iter_next(it, &ev, err)) == 0)
        TRY(add_ids(q, &ev, &bytes, err));
    rc = rc == E_END ? 0 : rc;
out:
    log_iter_close(it);
    buf_fini(&bytes);
    return rc;
}

/* parked ones */

bool
queuei_parked_add(struct queue *q, uint64_t version)
{
    must(q->parked_count == 0 || q->parked[q->parked_count - 1] < version);
    if (q->parked_count == q->parked_room) {
        uint32_t  room = q->parked_room == 0 ? 64 : q->parked_room * 2;
        uint64_t *more = reallocarray(q->parked, room, sizeof *more);

        if (more == NULL)
            return false;
        q->parked = more;
        q->parked_room = room;
    }
    must(q->parked_count < q->parked_room);
    q->parked[q->parked_count++] = version;
    return true;
}

void
queuei_parked_remove(struct queue *q, uint64_t version)
{
    uint32_t i = 0;

    while (i < q->parked_count && q->parked[i] != version)
        i++;
    if (i == q->parked_count)
        return;
    q->parked_count--;
    memmove(q->parked + i, q->parked + i + 1, (q->parked_count - i) * sizeof q->parked[0]);
}

static int
read_open(struct queue *q, struct err *err)
{
    struct log_iter *it = NULL;
    struct log_event ev;
    struct slice     raw;
    uint64_t         version = 0;
    int              rc;

    q->parked_count = 0;
    rc = open_stream(q, "$parked-source-", 0, false, &it, err);
    if (rc == E_NOTFOUND)
        return 0;
    while (rc == 0 && (rc = log_iter_next(it, &ev, err)) == 0) {
        if (slice_is(ev.type, "Parked")) {
            if (!queuei_parked_add(q, ev.version))
                rc = err_set(err, __FILE__, __LINE__, E_NOMEM, ERR_RETRY,
                             "out of memory for the parked messages");
        } else if (json_get(ev.data, "version", &raw) && json_uint64(raw, &version)) {
            queuei_parked_remove(q, version);
        }
    }
    log_iter_close(it);
    return rc == E_END ? 0 : rc;
}

int
queuei_read_parked(struct queue *q, uint64_t version, struct buf *out, struct err *err)
{
    struct log_iter *it = NULL;
    struct log_event ev;
    int              rc;

    buf_clear(out);
    TRY(open_stream(q, "$parked-source-", version, false, &it, err));
    TRY(log_iter_next(it, &ev, err));
    if (ev.version != version)
        FAIL(err, E_NOTFOUND, ERR_DATA, "the record %" PRIu64 " is not readable any more", version);
    buf_add_slice(out, ev.data);
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a parked message");
out:
    log_iter_close(it);
    if (rc == E_END)
        rc = err_set(err, __FILE__, __LINE__, E_NOTFOUND, ERR_DATA,
                     "the record %" PRIu64 " is not readable any more", version);
    return rc;
}

int
queuei_read(struct queue *q, struct err *err)
{
    struct log_stream info;
    char              name[LOG_NAME_MAX + 1];
    uint64_t          from;
    int               rc;

    must(q->flying == 0);
    q->version = LOG_NO_STREAM;
    q->rest = QUEUEI_AWAKE;
    q->parked_coming = 0;
    q->truncated = 0;
    queuei_window_clear(&q->window);
    buf_clear(&q->checkpoint);
    TRY(find_start(q, &from, err));
    if (q->version != LOG_NO_STREAM) {
        (void)snprintf(name, sizeof name, "$source-%s", q->form.name);
        TRY(log_stream_brief(q->log, slice_str(name), &info, err));
        q->truncated = info.first;
        if (q->rest != QUEUEI_DROPPED)
            TRY(fill_window(q, from, err));
    }
    TRY(read_open(q, err));
    queuei_window_expire(&q->window, q->env->ops->wall_us(q->env));
    q->sent_version = q->version;
    q->known = true;
out:
    return rc;
}

int
queuei_find(struct queue *q, struct slice stream, const struct ox_id *id, bool *found,
            struct err *err)
{
    struct log_read  read = {.stream = stream, .from = UINT64_MAX, .backwards = true, .raw = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    int              rc;

    *found = false;
    rc = log_iter_open(q->log, &read, &it, err);
    for (uint32_t n = 0; rc == 0 && n < LOOK_MAX && !*found; n++) {
        rc = log_iter_next(it, &ev, err);
        *found = rc == 0 && id_eq(&ev.id, id);
    }
    log_iter_close(it);
    return rc == E_NOTFOUND || rc == E_END || rc == E_GONE ? 0 : rc;
}
