/*
 * Answers that come afterwards, from any thread: whole ones, and streams of
 * server-sent events. What other threads say travels to the loop as messages.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/must.h"
#include "server/server_int.h"

#define QUEUED_MAX (1 << 20) /* bytes of a stream that its client has not taken */

struct later {
    atomic_uint    refs; /* the holder, and the connection */
    struct server *server;
    struct conn   *conn; /* the loop's; NULL: gone, or answered */
    bool           stream;
    uint64_t       late_ms, said_ms;
    int            late_status; /* 0: 504 */
    const char    *late_type, *late_body;
    atomic_size_t  queued; /* bytes posted and not yet in the output */
    atomic_bool    closed;
    /* For who runs on the loop itself. */
    void (*gone)(void *arg);
    void (*drained)(void *arg);
    void          *hook_arg;
    struct message last; /* the answer, or the end */
    bool           drop;
    int            status;
    const char    *reason; /* of a refusal */
    char           type[64];
    struct buf     body;
};

struct piece {
    struct message message;
    struct later  *later;
    size_t         len;
    char           text[];
};

static void
release(struct later *later)
{
    if (atomic_fetch_sub(&later->refs, 1) != 1)
        return;
    buf_fini(&later->body);
#ifndef __clang_analyzer__ /* which takes any release for the last one */
    free(later);
#endif
}

bool
serveri_later_is_stream(const struct later *later)
{
    return later->stream;
}

void
serveri_later_detach(struct later *later)
{
    void (*gone)(void *) = later->gone;

    atomic_store(&later->closed, true);
    later->conn = NULL;
    later->gone = later->drained = NULL;
    if (gone != NULL)
        gone(later->hook_arg);
    release(later);
}

void
serveri_later_hook(struct later *later, void (*gone)(void *arg), void (*drained)(void *arg),
                   void         *arg)
{
    later->gone = gone;
    later->drained = drained;
    later->hook_arg = arg;
}

void
serveri_later_drained(struct later *later)
{
    if (later->drained != NULL)
        later->drained(later->hook_arg);
}

static struct later *
later_new(struct call *call)
{
    struct later *later = calloc(1, sizeof *later);

    if (later == NULL) {
        call_refuse(call, 503, "out-of-memory", "no memory for the answer");
        return NULL;
    }
    atomic_init(&later->refs, 2);
    later->server = call->conn->server;
    later->conn = call->conn;
    later->said_ms = serveri_now_ms(later->server);
    call->later = later;
    return later;
}

struct later *
call_later(struct call *call, uint32_t timeout_ms)
{
    struct later *later = later_new(call);

    if (later != NULL)
        later->late_ms = later->said_ms + timeout_ms;
    return later;
}

void
later_if_late(struct later *later, int status, const char *type, const char *body)
{
    must(!later->stream);
    later->late_status = status;
    later->late_type = type;
    later->late_body = body;
}

/* Lets go of the connection; the call can be answered then. */
static struct call *
take_call(struct later *later)
{
    struct conn *c = later->conn;

    if (c == NULL)
        return NULL;
    c->call.later = NULL;
    serveri_later_detach(later);
    return &c->call;
}

static void
end_stream(struct call *call)
{
    serveri_chunk_last(call);
    serveri_call_finish(call);
}

static void
on_last(struct message *m)
{
    struct later *later = (struct later *)((char *)m - offsetof(struct later, last));
    bool          stream = later->stream;
    struct call  *call = take_call(later);

    if (call != NULL && stream)
        end_stream(call);
    else if (call != NULL && later->drop)
        serveri_conn_abort(call->conn);
    else if (call != NULL) {
        call->reason = later->reason;
        call_answer(call, later->status, later->type, buf_slice(&later->body));
    }
    release(later);
}

static void
post_last(struct later *later)
{
    later->last.fn = on_last;
    serveri_post(later->server, &later->last);
}

void
later_answer(struct later *later, int status, const char *type, struct slice body)
{
    must(!later->stream);
    later->status = status;
    (void)snprintf(later->type, sizeof later->type, "%s", type);
    buf_add_slice(&later->body, body);
    later->drop = later->body.failed;
    post_last(later);
}

void
later_fail(struct later *later, const struct err *err)
{
    struct buf body = {0};

    later->reason = err_name(err->code);
    serveri_error_json(&body, later->reason, err->text);
    later_answer(later, call_status(err), CALL_JSON, buf_slice(&body));
    buf_fini(&body);
}

void
later_drop(struct later *later)
{
    later->drop = true;
    post_last(later);
}

/* Streams. */

struct later *
call_stream(struct call *call)
{
    struct later *later = later_new(call);

    if (later == NULL)
        return NULL;
    later->stream = true;
    serveri_answer_head(call, 200, "text/event-stream", UINT64_MAX);
    serveri_conn_dirty(call->conn);
    if (call->head_only) {
        (void)take_call(later);
        serveri_call_finish(call);
    }
    return later;
}

static void
put(struct later *later, const char *text, size_t len)
{
    struct call *call = &later->conn->call;
    size_t       mark = serveri_chunk_begin(call);

    buf_add(&later->conn->out, text, len);
    serveri_chunk_end(call, mark);
    serveri_conn_dirty(later->conn);
    later->said_ms = serveri_now_ms(later->server);
}

size_t
serveri_later_put(struct later *later, struct slice text)
{
    if (later->conn == NULL)
        return 0;
    put(later, text.data, text.len);
    return serveri_conn_pending(later->conn);
}

static void
on_piece(struct message *m)
{
    struct piece *piece = (struct piece *)m;
    struct later *later = piece->later;

    atomic_fetch_sub(&later->queued, piece->len);
    if (later->conn != NULL) {
        put(later, piece->text, piece->len);
        if (serveri_conn_pending(later->conn) > QUEUED_MAX) {
            later->server->stats.streams_cut++;
            serveri_conn_abort(later->conn);
        }
    }
    free(piece);
    release(later);
}

static void
add_data(struct buf *b, struct slice data)
{
    const char *p = data.data, *end = p + data.len;

    do {
        const char *lf = p == end ? NULL : memchr(p, '\n', (size_t)(end - p));
        const char *stop = lf == NULL ? end : lf;

        buf_add_str(b, "data: ");
        buf_add(b, p, (size_t)(stop - p));
        buf_add_byte(b, '\n');
        p = lf == NULL ? end : lf + 1;
    } while (p < end);
}

static void
add_field(struct buf *b, const char *name, const char *value)
{
    if (value != NULL)
        buf_printf(b, "%s: %s\n", name, value);
}

int
later_send(struct later *later, const char *event, const char *id, struct slice data,
           struct err *err)
{
    struct buf    text = {0};
    struct piece *piece = NULL;
    int           rc = 0;

    must(later->stream);
    if (atomic_load(&later->closed))
        FAIL(err, E_CLOSED, ERR_RETRY, "the client is gone");
    if (atomic_load(&later->queued) + data.len > QUEUED_MAX)
        FAIL(err, E_LIMIT, ERR_RETRY, "the client reads too slowly");
    add_field(&text, "event", event);
    add_field(&text, "id", id);
    add_data(&text, data);
    buf_add_byte(&text, '\n');
    piece = text.failed ? NULL : malloc(sizeof *piece + text.len);
    if (piece == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for an event of a stream");
    piece->later = later;
    piece->len = text.len;
    piece->message.fn = on_piece;
    memcpy(piece->text, text.data, text.len);
    atomic_fetch_add(&later->queued, piece->len);
    atomic_fetch_add(&later->refs, 1);
    serveri_post(later->server, &piece->message);
out:
    buf_fini(&text);
    return rc;
}

/* The loop's clock. */

static void
answer_late(struct later *later)
{
    int          status = later->late_status;
    const char  *type = later->late_type, *body = later->late_body;
    struct call *call = take_call(later);

    if (status == 0)
        call_refuse(call, 504, "timeout", "no answer in time");
    else
        call_answer(call, status, type, slice_str(body));
}

void
serveri_later_tick(struct later *later, uint64_t now)
{
    if (later->stream) {
        if (now - later->said_ms >= later->server->conf.keepalive_ms)
            put(later, ":\n\n", 3);
    } else if (now > later->late_ms) {
        answer_late(later);
    }
}

void
serveri_later_drain(struct later *later)
{
    if (later->stream)
        end_stream(take_call(later));
}
