/*
 * The session: nghttp2 takes frames apart and puts them together; here is what it is told, and
 * what a connection may do. nghttp2 itself bounds acknowledgements that wait, CONTINUATION frames,
 * and streams that are reset as fast as they are made; the bucket below bounds all frames that
 * make work and say nothing.
 */
#include "server/h2.h"

#include <stdlib.h>

#include "base/must.h"
#include "server/h2_int.h"

#define CONNECTION_WINDOW (8 << 20)
#define CHEAP_MAX 4000   /* frames at once ... */
#define CHEAP_PER_S 1000 /* ... and in each second */
#define PING_MS 30000    /* of silence, while calls are open */
#define DEAD_MS 90000

static void
give_up(struct h2 *h2, uint32_t error)
{
    if (h2->failed)
        return;
    h2->failed = true;
    (void)nghttp2_session_terminate_session(h2->session, error);
    h2->host.dirty(h2->host.arg);
}

/* False: too many frames that make work and say nothing. */
static bool
count_cheap(struct h2 *h2)
{
    uint64_t now = h2->host.now_ms(h2->host.arg);
    uint64_t leaked = (now - h2->cheap_ms) * CHEAP_PER_S / 1000;

    if (leaked != 0) {
        h2->cheap = leaked < h2->cheap ? h2->cheap - leaked : 0;
        h2->cheap_ms = now;
    }
    return ++h2->cheap <= CHEAP_MAX;
}

/* What nghttp2 calls. */

static int
on_frame_header(nghttp2_session *session, const nghttp2_frame_hd *hd, void *arg)
{
    struct h2 *h2 = arg;
    bool       cheap;

    switch (hd->type) {
    case NGHTTP2_DATA:
        cheap = hd->length == 0 && (hd->flags & NGHTTP2_FLAG_END_STREAM) == 0;
        break;
    case NGHTTP2_HEADERS:
    case NGHTTP2_WINDOW_UPDATE:
        cheap = false;
        break;
    default:
        cheap = true;
    }
    if (cheap && !count_cheap(h2)) {
        give_up(h2, NGHTTP2_ENHANCE_YOUR_CALM);
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

static int
on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct h2  *h2 = arg;
    struct rpc *r;

    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    r = h2->host.room(h2->host.arg) ? h2i_rpc_new(h2, frame->hd.stream_id) : NULL;
    if (r == NULL)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    (void)nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, r);
    return 0;
}

static int
on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
          size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *arg)
{
    struct rpc *r = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    if (r == NULL || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    r->header_bytes += (uint32_t)(name_len + value_len) + 32;
    if (r->header_bytes > H2_HEADERS_MAX)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    h2i_rpc_header(r, slice_of(name, name_len), slice_of(value, value_len));
    return 0;
}

static int
on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct rpc *r;

    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;
    r = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (r == NULL)
        return 0;
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
        r->half_closed = true;
        h2i_rpc_said(r);
    }
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        h2i_rpc_start(r);
    h2i_rpc_deliver(r);
    return 0;
}

static int
on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
        void *arg)
{
    struct rpc *r = nghttp2_session_get_stream_user_data(session, id);

    if (r == NULL)
        return nghttp2_session_consume(session, id, len);
    h2i_rpc_data(r, slice_of(data, len));
    return 0;
}

/* An answer that is whole needs no more of the request. */
static int
on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct rpc *r;

    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0 ||
        (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
        return 0;
    r = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (r != NULL && !r->half_closed)
        return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, r->id, NGHTTP2_NO_ERROR);
    return 0;
}

static int
on_stream_close(nghttp2_session *session, int32_t id, uint32_t error, void *arg)
{
    struct h2  *h2 = arg;
    struct rpc *r = nghttp2_session_get_stream_user_data(session, id);

    if (r == NULL)
        return 0;
    /* Who resets streams makes the server begin work for nothing. */
    if (error != NGHTTP2_NO_ERROR && !r->ended && !count_cheap(h2))
        give_up(h2, NGHTTP2_ENHANCE_YOUR_CALM);
    (void)nghttp2_session_set_stream_user_data(session, id, NULL);
    h2i_rpc_free(r);
    return 0;
}

/* Making it. */

static nghttp2_session *
session_new(struct h2 *h2)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option            *option = NULL;
    nghttp2_session           *session = NULL;

    if (nghttp2_session_callbacks_new(&callbacks) != 0 || nghttp2_option_new(&option) != 0)
        goto out;
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_frame_header);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    if (nghttp2_session_server_new2(&session, callbacks, h2, option) != 0)
        session = NULL;
out:
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return session;
}

struct h2 *
h2_new(const struct h2_host *host)
{
    static const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, H2_STREAMS_MAX},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, H2_HEADERS_MAX},
    };
    struct h2 *h2 = calloc(1, sizeof *h2);

    if (h2 == NULL)
        return NULL;
    h2->host = *host;
    h2->heard_ms = h2->used_ms = h2->cheap_ms = host->now_ms(host->arg);
    h2->session = session_new(h2);
    if (h2->session == NULL ||
        nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, settings,
                                sizeof settings / sizeof settings[0]) != 0 ||
        nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0,
                                              CONNECTION_WINDOW) != 0) {
        h2_free(h2);
        return NULL;
    }
    return h2;
}

void
h2_free(struct h2 *h2)
{
    if (h2 == NULL)
        return;
    must(!h2->inside);
    while (h2->rpcs != NULL)
        h2i_rpc_free(h2->rpcs);
    h2i_spare_free(h2);
    nghttp2_session_del(h2->session);
    free(h2);
}

/* Bytes. */

bool
h2_input(struct h2 *h2, struct slice bytes)
{
    ssize_t used;

    h2->heard_ms = h2->host.now_ms(h2->host.arg);
    if (h2->failed)
        return false;
    h2->inside = true;
    used = nghttp2_session_mem_recv(h2->session, bytes.data, bytes.len);
    h2->inside = false;
    if (used < 0 && !h2->failed)
        give_up(h2, used == NGHTTP2_ERR_FLOODED || used == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS
                        ? NGHTTP2_ENHANCE_YOUR_CALM
                        : NGHTTP2_PROTOCOL_ERROR);
    if (h2_wants_output(h2) || h2_is_done(h2))
        h2->host.dirty(h2->host.arg);
    return !h2->failed && nghttp2_session_want_read(h2->session) != 0;
}

/* Calls whose output has room again. */
static void
resume_due(struct h2 *h2)
{
    h2->due = false;
    for (struct rpc *r = h2->rpcs; r != NULL; r = r->next) {
        if (!r->due)
            continue;
        r->due = false;
        rpc_resume(r);
    }
}

bool
h2_output(struct h2 *h2, struct buf *out, size_t max)
{
    while (out->len < max) {
        const uint8_t *frames;
        ssize_t        len;

        if (h2->due)
            resume_due(h2);
        h2->inside = true;
        len = nghttp2_session_mem_send(h2->session, &frames);
        h2->inside = false;
        if (len < 0)
            return false;
        if (len == 0)
            break;
        buf_add(out, frames, (size_t)len);
    }
    return true;
}

bool
h2_wants_output(const struct h2 *h2)
{
    return nghttp2_session_want_write(h2->session) != 0;
}

bool
h2_awaits_input(const struct h2 *h2)
{
    return h2->unsaid != 0 || h2->partial;
}

bool
h2_is_done(const struct h2 *h2)
{
    bool reads = !h2->failed && nghttp2_session_want_read(h2->session) != 0 &&
                 !(h2->draining && h2->rpc_count == 0);

    return !reads && nghttp2_session_want_write(h2->session) == 0;
}

bool
h2_tick(struct h2 *h2)
{
    uint64_t    now = h2->host.now_ms(h2->host.arg);
    struct rpc *next;

    for (struct rpc *r = h2->rpcs; r != NULL; r = next) {
        next = r->next;
        h2i_rpc_tick(r, now);
    }
    if (h2->rpc_count != 0)
        h2->used_ms = now;
    else
        h2i_spare_free(h2);
    if (now - h2->used_ms > h2->host.idle_ms_max && now - h2->heard_ms > h2->host.idle_ms_max)
        h2_drain(h2);
    if (h2->rpc_count != 0 && now - h2->heard_ms > PING_MS && now - h2->pinged_ms > PING_MS) {
        h2->pinged_ms = now;
        (void)nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, NULL);
        h2->host.dirty(h2->host.arg);
    }
    return now - h2->heard_ms <= DEAD_MS || h2->rpc_count == 0;
}

void
h2_drain(struct h2 *h2)
{
    struct rpc *next;

    if (h2->draining)
        return;
    h2->draining = true;
    (void)nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE,
                                nghttp2_session_get_last_proc_stream_id(h2->session),
                                NGHTTP2_NO_ERROR, NULL, 0);
    for (struct rpc *r = h2->rpcs; r != NULL; r = next) {
        next = r->next;
        if (!r->ended && r->method != NULL && r->method->drain != NULL)
            r->method->drain(r);
    }
    h2->host.dirty(h2->host.arg);
}

size_t
h2_bytes(const struct h2 *h2)
{
    return h2->bytes;
}

unsigned
h2_calls(const struct h2 *h2)
{
    return h2->rpc_count;
}

void *
h2_arg(const struct h2 *h2)
{
    return h2->host.arg;
}

void
h2_charge(struct h2 *h2, int64_t bytes)
{
    h2->bytes = (size_t)((int64_t)h2->bytes + bytes);
}
