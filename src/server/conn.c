/*
 * One connection: bytes in, requests out; answers in, bytes out.
 *
 * One request at a time is in a handler's hands; what a client pipelines behind
 * it waits in the input buffer, and then in the client. While a handler has the
 * request the input buffer neither moves nor is overwritten, so that events are
 * handed to the log where they arrived.
 */
#include <stdlib.h>

#include "base/must.h"
#include "base/say.h"
#include "server/access_int.h"

#define LINGER_MS 2000
#define IN_AT_ONCE (256 << 10) /* bodies up to here get their room at once */
#define OVER_LIMIT_MAX 64      /* connections that are told that there are too many */

static void
on_closed(uv_handle_t *handle)
{
    struct conn *c = (struct conn *)handle;

    c->gone = true;
    serveri_conn_release(c);
}

void
serveri_conn_release(struct conn *c)
{
    struct server *s = c->server;

    must(c->users > 0);
    if (--c->users > 0)
        return;
    must(c->gone);
    must(!c->dirty);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    s->conn_count--;
    s->charged -= c->charged;
    user_put(c->call.who);
    serveri_append_free(c->append);
    serveri_tls_free(c->tls);
    free(c->in);
    buf_fini(&c->out);
    buf_fini(&c->sealed);
    buf_fini(&c->flight);
    free(c);
}

void
serveri_conn_abort(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    c->state = CONN_CLOSED;
    serveri_h2_free(c);
    if (c->feed != NULL)
        serveri_feed_free(c->feed);
    c->feed = NULL;
    if (c->call.later != NULL)
        serveri_later_detach(c->call.later);
    c->call.later = NULL;
    uv_close((uv_handle_t *)&c->tcp, on_closed);
}

bool
serveri_charge(struct conn *c)
{
    struct server *s = c->server;
    uint64_t all = c->in_cap + c->out.cap + c->sealed.cap + c->flight.cap + serveri_h2_bytes(c);

    s->charged -= c->charged;
    c->charged = all <= 2 * SERVERI_IN_MIN ? 0 : all;
    s->charged += c->charged;
    return s->charged <= s->conf.memory_bytes_max;
}

/* Output. */

size_t
serveri_conn_pending(const struct conn *c)
{
    return c->out.len + c->sealed.len +
           uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp);
}

void
serveri_conn_dirty(struct conn *c)
{
    struct server *s = c->server;

    if (c->dirty || c->state == CONN_CLOSED)
        return;
    c->dirty = true;
    c->dirty_next = s->dirty;
    s->dirty = c;
}

/* Who takes one answer after the other keeps the room for it, while there is plenty. */
static void
trim(const struct conn *c, struct buf *b)
{
    bool plenty = c->state == CONN_H2 && c->server->charged < c->server->conf.memory_bytes_max / 4;

    buf_clear(b);
    if (b->cap > (plenty ? 2 * SERVERI_OUT_HIGH : SERVERI_BUF_KEEP))
        buf_fini(b);
}

void
serveri_conn_slim(struct conn *c)
{
    if (c->out.len == 0)
        buf_fini(&c->out);
    if (c->sealed.len == 0)
        buf_fini(&c->sealed);
    if (!c->writing)
        buf_fini(&c->flight);
}

static void
on_shutdown(uv_shutdown_t *request, int status)
{
    free(request);
}

/*
 * The last answer is out. Closing a socket that holds unread bytes resets the
 * connection, which may destroy the answer on its way: so the other side is
 * told that nothing more comes, and what it still sends is thrown away.
 */
static void
end_output(struct conn *c)
{
    uv_shutdown_t *request;

    if (c->tls != NULL && !c->tls_closed) {
        c->tls_closed = true;
        serveri_tls_close(c->tls);
        serveri_conn_dirty(c); /* and comes here again */
        return;
    }
    if (c->eof || !c->unread) {
        serveri_conn_abort(c);
        return;
    }
    if (c->shut)
        return;
    c->shut = true;
    request = malloc(sizeof *request);
    if (request == NULL || uv_shutdown(request, (uv_stream_t *)&c->tcp, on_shutdown) != 0) {
        free(request);
        serveri_conn_abort(c);
    }
}

/* Something was taken: producers and waiting requests may go on. */
static void
on_progress(struct conn *c)
{
    size_t pending = serveri_conn_pending(c);

    (void)serveri_charge(c);
    if (c->state == CONN_LINGER && pending == 0) {
        end_output(c);
        return;
    }
    if (pending > SERVERI_OUT_LOW)
        return;
    if (c->state == CONN_H2)
        serveri_h2_go_on(c);
    else if (c->feed != NULL)
        serveri_feed_wake(c->feed);
    else if (c->call.later != NULL)
        serveri_later_drained(c->call.later);
    else if (c->state == CONN_HEAD && c->in_len != 0)
        serveri_conn_process(c);
}

static void
on_written(uv_write_t *write, int status)
{
    struct conn *c = write->data;

    c->writing = false;
    trim(c, &c->flight);
    if (c->state == CONN_CLOSED)
        return;
    if (status != 0) {
        serveri_conn_abort(c);
        return;
    }
    c->progress_ms = serveri_now_ms(c->server);
    serveri_conn_flush(c);
}

/* From `out` to `sealed`, and what TLS has to say by itself. */
static bool
seal(struct conn *c)
{
    if (c->out.len != 0 && serveri_tls_ready(c->tls)) {
        if (serveri_tls_write(c->tls, buf_slice(&c->out)) != TLS_OK)
            return false;
        trim(c, &c->out);
    }
    serveri_tls_take(c->tls, &c->sealed);
    return !c->sealed.failed;
}

void
serveri_conn_flush(struct conn *c)
{
    struct server *s = c->server;
    struct buf    *out = c->tls != NULL ? &c->sealed : &c->out;
    struct buf     swap;
    uv_buf_t       bytes;
    int            n = 0;

    if (c->state == CONN_CLOSED)
        return;
    (void)serveri_charge(c);
    if (c->writing)
        return;
    if (c->state == CONN_H2 && !serveri_h2_fill(c))
        return;
    if (c->out.failed || (c->tls != NULL && !seal(c))) {
        serveri_conn_abort(c);
        return;
    }
    if (out->len != 0) {
        bytes = uv_buf_init((char *)out->data, (unsigned)out->len);
        n = uv_try_write((uv_stream_t *)&c->tcp, &bytes, 1);
        if (n < 0 && n != UV_EAGAIN) {
            serveri_conn_abort(c);
            return;
        }
        n = n < 0 ? 0 : n;
        s->stats.bytes_out += out->len;
        c->progress_ms = serveri_now_ms(s);
    }
    if ((size_t)n == out->len) {
        trim(c, out);
        on_progress(c);
        return;
    }
    swap = c->flight;
    c->flight = *out;
    *out = swap;
    bytes = uv_buf_init((char *)c->flight.data + n, (unsigned)(c->flight.len - (size_t)n));
    c->write.data = c;
    c->writing = true;
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &bytes, 1, on_written) != 0) {
        c->writing = false;
        serveri_conn_abort(c);
    }
}

/* The buffer for input. */

/* The target's parts point into the buffer: they move with it. */
static void
move_slice(struct slice *slice, const uint8_t *to, uintptr_t from)
{
    if (slice->data != NULL)
        slice->data = to + ((uintptr_t)slice->data - from);
}

static void
move_uri(struct uri *uri, const uint8_t *to, uintptr_t from)
{
    for (unsigned i = 0; i < uri->segment_count; i++)
        move_slice(&uri->segments[i], to, from);
    for (unsigned i = 0; i < uri->param_count; i++) {
        move_slice(&uri->params[i].name, to, from);
        move_slice(&uri->params[i].value, to, from);
    }
}

static bool
resize(struct conn *c, size_t cap)
{
    uint8_t *in = malloc(cap);

    must(cap >= c->in_len);
    if (in == NULL)
        return false;
    memcpy(in, c->in, c->in_len);
    if (c->state == CONN_BODY)
        move_uri(&c->call.uri, in, (uintptr_t)c->in);
    free(c->in);
    c->in = in;
    c->in_cap = cap;
    return serveri_charge(c);
}

/* Room for more of this request, as far as it is worth it; false: memory is out. */
static bool
make_room(struct conn *c)
{
    size_t cap = c->in_cap * 2;

    if (c->state == CONN_BODY && c->head.has_length) {
        uint64_t whole = c->body_at + c->head.length;

        if (whole <= c->in_cap)
            return true;
        if (whole < cap || whole <= IN_AT_ONCE)
            cap = (size_t)whole;
        else if (c->in_len < c->in_cap)
            return true;
    } else if (c->in_len < c->in_cap) {
        return true;
    }
    return resize(c, cap);
}

static void
on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *bytes)
{
    struct conn *c = (struct conn *)handle;

    if (c->tls != NULL)
        *bytes = uv_buf_init((char *)c->server->tls_in, SERVERI_TLS_IN);
    else
        *bytes = uv_buf_init((char *)c->in + c->in_len, (unsigned)(c->in_cap - c->in_len));
}

static void
begin_call(struct conn *c)
{
    struct call *call = &c->call;

    call->conn = c;
    call->route = NULL;
    call->later = NULL;
    user_put(call->who);
    call->who = NULL;
    call->reason = NULL;
    call->location = (struct slice){0};
    call->status = 0;
    call->allow = call->retry_after_s = 0;
    call->chunked_out = call->head_only = call->begun = call->pushed = false;
    call->number = c->server->stats.requests;
    call->began_ms = serveri_now_ms(c->server);
    if (c->server->conf.access_log)
        call->began_us = c->server->env->ops->mono_us(c->server->env);
    c->server->stats.requests++;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes);

/* Reads while there is room, or while somebody has to learn that the client left. */
static void
set_reading(struct conn *c)
{
    bool want;

    if (c->state == CONN_CLOSED)
        return;
    if ((c->state == CONN_HEAD || c->state == CONN_BODY) && !make_room(c)) {
        if (c->state == CONN_HEAD)
            begin_call(c);
        call_refuse(&c->call, 503, "overloaded", "the server's memory for requests is used up");
        return;
    }
    want = !c->eof && c->in_len < c->in_cap;
    if (c->state == CONN_H2)
        want = want && serveri_conn_pending(c) <= SERVERI_OUT_HIGH;
    if (want == c->reading)
        return;
    c->reading = want;
    if (!want) {
        (void)uv_read_stop((uv_stream_t *)&c->tcp);
        return;
    }
    if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        serveri_conn_abort(c);
}

static bool
is_live(const struct conn *c)
{
    return (c->feed != NULL && serveri_feed_is_live(c->feed)) ||
           (c->call.later != NULL && serveri_later_is_stream(c->call.later));
}

/* So many more bytes stand behind those that were in the buffer. */
static void
arrived(struct conn *c, size_t n)
{
    if (c->state == CONN_HEAD && c->in_len == 0)
        c->since_ms = serveri_now_ms(c->server);
    if (c->state != CONN_LINGER)
        c->in_len += n;
}

/* Who speaks plain HTTP here is told so in plain HTTP. */
static void
refuse_tls(struct conn *c)
{
    bool plain = !serveri_tls_ready(c->tls) && strcmp(serveri_tls_why(c->tls), "http request") == 0;

    c->server->stats.tls_failed++;
    c->tls_bad = true;
    if (c->state != CONN_HEAD) { /* a handler may have its request */
        serveri_conn_abort(c);
        return;
    }
    if (!plain) {
        serveri_conn_end(c, false);
        return;
    }
    serveri_tls_free(c->tls);
    c->tls = NULL;
    begin_call(c);
    c->head.minor0 = false;
    call_refuse(&c->call, 400, "bad-request", "this port speaks TLS: use https");
}

/* Takes what TLS has, as far as there is room. True: there is something new to look at. */
static bool
pull(struct conn *c)
{
    uint8_t         thrown[4096];
    enum tls_result result = TLS_OK;
    size_t          n;
    bool            some = false;

    if (c->tls == NULL || c->tls_bad || c->state == CONN_CLOSED)
        return false;
    while (result == TLS_OK) {
        bool   away = c->state == CONN_LINGER;
        size_t room = away ? sizeof thrown : c->in_cap - c->in_len;

        if (room == 0)
            break;
        result = serveri_tls_read(c->tls, away ? thrown : c->in + c->in_len, room, &n);
        if (result == TLS_OK) {
            arrived(c, n);
            some = !away;
        }
    }
    if (serveri_tls_has(c->tls) || (c->out.len != 0 && serveri_tls_ready(c->tls)))
        serveri_conn_dirty(c);
    if (result == TLS_END && c->state == CONN_H2) {
        serveri_conn_abort(c);
        return false;
    }
    if (result == TLS_END && !c->eof) {
        c->eof = some = true;
        c->reading = false;
        (void)uv_read_stop((uv_stream_t *)&c->tcp);
    }
    if (result == TLS_BAD)
        refuse_tls(c);
    return some;
}

static void
on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes)
{
    struct conn   *c = (struct conn *)stream;
    struct server *s = c->server;

    if (n == 0 || c->state == CONN_CLOSED)
        return;
    if (n < 0 && n != UV_EOF) {
        serveri_conn_abort(c);
        return;
    }
    if (n == UV_EOF) {
        c->eof = true;
        c->reading = false;
        (void)uv_read_stop(stream);
    } else {
        s->stats.bytes_in += (uint64_t)n;
        if (c->tls == NULL) {
            arrived(c, (size_t)n);
        } else if (!serveri_tls_feed(c->tls, bytes->base, (size_t)n)) {
            serveri_conn_abort(c);
            return;
        }
    }
    (void)pull(c);
    if (c->state == CONN_CLOSED)
        return;
    /* Nobody ends a stream of events by half: who closes has gone. */
    if (c->eof && (c->state == CONN_H2 || (c->state == CONN_WAIT && is_live(c)))) {
        serveri_conn_abort(c);
        return;
    }
    if (c->state == CONN_LINGER) {
        if (c->eof && serveri_conn_pending(c) == 0)
            serveri_conn_abort(c);
        return;
    }
    serveri_conn_process(c);
}

/* From bytes to requests. */

void
serveri_conn_end(struct conn *c, bool unread)
{
    c->state = CONN_LINGER;
    c->last = true;
    c->unread = unread;
    c->in_len = 0;
    c->since_ms = serveri_now_ms(c->server);
    serveri_conn_dirty(c);
}

static const char *
name_of_status(int status)
{
    switch (status) {
    case 413:
        return "too-large";
    case 414:
        return "target-too-long";
    case 417:
        return "expectation-failed";
    case 431:
        return "headers-too-large";
    case 501:
        return "not-implemented";
    case 505:
        return "version-not-supported";
    default:
        return "bad-request";
    }
}

static bool
read_head(struct conn *c)
{
    enum http1_result result;

    if (c->in_len == 0 || serveri_conn_pending(c) > SERVERI_OUT_HIGH) {
        if (c->eof && c->in_len == 0)
            serveri_conn_end(c, false);
        return false;
    }
    result = http1_head_feed(&c->head, c->in, c->in_len);
    switch (result) {
    case HTTP1_MORE:
        if (c->eof)
            serveri_conn_end(c, false);
        return false;
    case HTTP1_DONE:
        begin_call(c);
        return serveri_call_begin(&c->call);
    case HTTP1_PREFACE:
        serveri_h2_begin(c);
        return false;
    case HTTP1_BAD:
    default:
        begin_call(c);
        call_refuse(&c->call, c->head.status, name_of_status(c->head.status), c->head.why);
        return false;
    }
}

/* Takes what has arrived of the body and moves it together. */
static enum http1_result
gather(struct conn *c)
{
    enum http1_result result;

    do {
        uint8_t     *to = c->in + c->body_at + c->body_len;
        struct slice piece;
        size_t       used;

        result = http1_body_feed(&c->body, c->in + c->raw_at, c->in_len - c->raw_at, &used, &piece);
        if (piece.len != 0 && to != piece.data)
            memmove(to, piece.data, piece.len);
        c->body_len += piece.len;
        c->raw_at += used;
    } while (result == HTTP1_MORE && c->raw_at < c->in_len);
    /* What framed the chunks is not needed any more: its room is. */
    if (result == HTTP1_MORE)
        c->in_len = c->raw_at = c->body_at + c->body_len;
    return result;
}

static bool
read_body(struct conn *c)
{
    const struct route *route = c->call.route;
    enum http1_result   result = gather(c);

    if (result == HTTP1_BAD) {
        call_refuse(&c->call, c->body.status, name_of_status(c->body.status), c->body.why);
        return false;
    }
    if (c->body_len > route->def.body_bytes_max) {
        call_refuse(&c->call, 413, "too-large", "the request's body is over the limit");
        return false;
    }
    if (route->part != NULL && !route->part(&c->call))
        return false;
    if (result == HTTP1_MORE) {
        if (c->eof)
            serveri_conn_end(c, false);
        return false;
    }
    c->state = CONN_WAIT;
    route->def.fn(&c->call, route->arg);
    return c->state == CONN_HEAD;
}

void
serveri_conn_process(struct conn *c)
{
    bool more = true;

    if (c->busy)
        return;
    c->busy = true;
    c->users++;
    do {
        while (more) {
            if (c->state == CONN_H2)
                more = serveri_h2_process(c);
            else if (c->state == CONN_HEAD)
                more = read_head(c) || (c->state == CONN_HEAD && c->again) || c->state == CONN_H2;
            else
                more = c->state == CONN_BODY && read_body(c);
            c->again = false;
        }
        c->busy = false;
        set_reading(c); /* which makes room */
        c->busy = true;
        more = pull(c);
    } while (more);
    c->busy = false;
    serveri_conn_release(c);
}

/* The next request moves to the front of the buffer. */
static void
next_request(struct conn *c)
{
    size_t rest = c->in_len - c->raw_at;

    serveri_append_trim(c->append);
    memmove(c->in, c->in + c->raw_at, rest);
    c->in_len = rest;
    if (c->in_cap > SERVERI_BUF_KEEP && rest <= SERVERI_IN_MIN)
        (void)resize(c, SERVERI_IN_MIN);
    http1_head_init(&c->head);
    c->state = CONN_HEAD;
    c->again = true;
    c->since_ms = serveri_now_ms(c->server);
}

/* A line for each request where that is wanted, else for those that failed here or were slow. */
static void
log_access(const struct call *call)
{
    struct server      *s = call->conn->server;
    const struct route *route = call->route;
    uint64_t            ms = serveri_now_ms(s) - call->began_ms;
    bool                slow = !call->pushed && s->conf.slow_ms > 0 && ms >= s->conf.slow_ms;
    bool                failed = call->status >= 500;
    struct say_num      status, took;
    char                id[SERVERI_REQUEST_ID_MAX + 1];

    if (!s->conf.access_log && !slow && !failed)
        return;
    serveri_request_id(call, id);
    if (s->conf.access_log)
        (void)say_u64(&took, s->env->ops->mono_us(s->env) - call->began_us);
    else
        (void)say_u64(&took, ms);
    say(failed ? SAY_WARN : SAY_INFO,
        failed ? "request failed"
        : slow ? "slow request"
               : "request",
        "method", route == NULL ? NULL : route->def.method, "route",
        route == NULL ? NULL : route->def.path, "status", say_u64(&status, (uint64_t)call->status),
        "reason", call->reason, s->conf.access_log ? "us" : "ms", took.text, "request_id", id,
        NULL);
}

void
serveri_call_finish(struct call *call)
{
    struct conn *c = call->conn;
    bool         whole = c->state == CONN_WAIT;

    log_access(call);
    if (c->state == CONN_CLOSED)
        return;
    if (c->last || !whole) {
        serveri_conn_end(c, !whole || c->in_len > c->raw_at);
    } else {
        next_request(c);
        serveri_conn_dirty(c);
    }
    if (!c->busy)
        serveri_conn_process(c);
}

/* Beginning, time-outs, the end. */

void
serveri_conn_drain(struct conn *c)
{
    c->last = true;
    if (c->state == CONN_H2)
        serveri_h2_drain(c);
    else if (c->state == CONN_HEAD && c->in_len == 0)
        serveri_conn_end(c, false);
    else if (c->feed != NULL)
        serveri_feed_end(c->feed);
    else if (c->call.later != NULL)
        serveri_later_drain(c->call.later);
}

static void
tick_input(struct conn *c, uint64_t now)
{
    const struct server_conf *conf = &c->server->conf;
    uint64_t                  age = now - c->since_ms;

    if (c->state == CONN_HEAD && c->in_len == 0 && age > conf->idle_ms_max) {
        serveri_conn_end(c, false);
    } else if (c->tls != NULL && !serveri_tls_ready(c->tls) && age > conf->head_ms_max) {
        serveri_conn_abort(c);
    } else if (c->state == CONN_HEAD && c->in_len != 0 && age > conf->head_ms_max &&
               serveri_conn_pending(c) == 0) {
        begin_call(c);
        call_refuse(&c->call, 408, "timeout", "the request's head came too slowly");
    } else if (c->state == CONN_BODY && age > conf->body_ms_max + c->body_len * 1000 / 1024) {
        call_refuse(&c->call, 408, "timeout", "the request's body came too slowly");
    } else if (c->state == CONN_LINGER && serveri_conn_pending(c) == 0 && age > LINGER_MS) {
        serveri_conn_abort(c);
    }
}

void
serveri_conn_tick(struct conn *c, uint64_t now)
{
    size_t unsent = serveri_conn_pending(c);

    if (unsent == 0 || unsent < c->unsent)
        c->progress_ms = now;
    c->unsent = unsent;
    if (now - c->progress_ms > c->server->conf.stall_ms_max) {
        serveri_conn_abort(c);
        return;
    }
    tick_input(c, now);
    if (c->state == CONN_H2 && unsent == 0)
        serveri_conn_slim(c);
    if (c->state == CONN_H2)
        serveri_h2_tick(c);
    else if (c->state == CONN_WAIT && c->feed != NULL)
        serveri_feed_tick(c->feed, now);
    else if (c->state == CONN_WAIT && c->call.later != NULL)
        serveri_later_tick(c->call.later, now);
}

static struct conn *
conn_new(struct server *s)
{
    struct conn *c = calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    c->in = malloc(SERVERI_IN_MIN);
    c->tls = c->in == NULL || s->tls == NULL ? NULL : serveri_tls_new(s->tls);
    if (c->in == NULL || (s->tls != NULL && c->tls == NULL) ||
        uv_tcp_init(&s->loop, &c->tcp) != 0) {
        serveri_tls_free(c->tls);
        free(c->in);
        free(c);
        return NULL;
    }
    c->in_cap = SERVERI_IN_MIN;
    c->server = s;
    c->users = 1; /* the handle */
    c->next = s->conns;
    if (s->conns != NULL)
        s->conns->prev = c;
    s->conns = c;
    s->conn_count++;
    http1_head_init(&c->head);
    c->since_ms = c->progress_ms = serveri_now_ms(s);
    return c;
}

static void
read_peer(struct conn *c)
{
    struct sockaddr_storage peer;
    int                     len = sizeof peer;

    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&peer, &len) != 0)
        return;
    if (peer.ss_family == AF_INET) {
        c->peer.b[10] = c->peer.b[11] = 0xff;
        memcpy(c->peer.b + 12, &((const struct sockaddr_in *)&peer)->sin_addr, 4);
    } else if (peer.ss_family == AF_INET6) {
        memcpy(c->peer.b, &((const struct sockaddr_in6 *)&peer)->sin6_addr, 16);
        if (!IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)&peer)->sin6_addr) &&
            !IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&peer)->sin6_addr))
            memset(c->peer.b + 8, 0, 8); /* a customer has so many */
    }
}

static bool
has_too_many(const struct conn *c)
{
    uint32_t count = 0, most = c->server->conf.address_connections_max;

    for (const struct conn *x = c->server->conns; most != 0 && x != NULL && count <= most;
         x = x->next)
        count += memcmp(&x->peer, &c->peer, sizeof c->peer) == 0 && x->state != CONN_LINGER;
    return most != 0 && count > most;
}

void
serveri_conn_accept(struct server *s)
{
    struct conn *c = conn_new(s);

    if (c == NULL) {
        say(SAY_ERROR, "no memory for a connection", NULL);
        return;
    }
    s->stats.connections_all++;
    if (uv_accept((uv_stream_t *)&s->listener, (uv_stream_t *)&c->tcp) != 0) {
        serveri_conn_abort(c);
        return;
    }
    (void)uv_tcp_nodelay(&c->tcp, 1);
    read_peer(c);
    if (s->conn_count <= s->conf.connections_max && !has_too_many(c)) {
        set_reading(c);
        return;
    }
    s->stats.connections_refused++;
    if (s->conn_count > s->conf.connections_max + OVER_LIMIT_MAX) {
        serveri_conn_abort(c);
        return;
    }
    begin_call(c);
    call_refuse(&c->call, 503, "overloaded", "too many connections");
}
