/*
 * Readers of the log. Each has its own iterator and runs on the loop in slices, one after the
 * other, each bounded in bytes written and in bytes of the log looked through; a reader whose
 * client takes nothing is not run at all. Subscribers that have caught up go on together (live.c).
 */
#include <stdlib.h>

#include "base/must.h"
#include "base/say.h"
#include "server/access_int.h"
#include "server/append_int.h"
#include "server/feed_int.h"

#define CHECK_MS 1000   /* how often a silent subscriber's stream is looked up */
#define TURN_NS 1000000 /* of one turn of the loop, for all readers together */

static const char *const types[] = {CALL_JSON, "application/x-ndjson", "text/event-stream"};

/* Turns. */

void
serveri_feed_enqueue(struct feed *f)
{
    struct server *s = f->conn->server;

    if (f->queued)
        return;
    f->queued = true;
    f->run_next = NULL;
    if (s->runnable == NULL)
        s->runnable = f;
    else
        s->runnable_last->run_next = f;
    s->runnable_last = f;
    serveri_run_soon(s);
}

static void
dequeue(struct server *s, struct feed *f)
{
    struct feed *before = NULL;

    if (!f->queued)
        return;
    for (struct feed *x = s->runnable; x != f; x = x->run_next)
        before = x;
    if (before == NULL)
        s->runnable = f->run_next;
    else
        before->run_next = f->run_next;
    if (s->runnable_last == f)
        s->runnable_last = before;
    f->queued = false;
}

/* Waiting for the log to grow. */
static void
start_waiting(struct feed *f)
{
    struct server *s = f->conn->server;

    f->linked = true;
    f->prev = NULL;
    f->next = s->feeds;
    if (s->feeds != NULL)
        s->feeds->prev = f;
    s->feeds = f;
}

static void
stop_waiting(struct feed *f)
{
    f->waiting = false;
    if (!f->linked)
        return;
    f->linked = false;
    if (f->prev != NULL)
        f->prev->next = f->next;
    else
        f->conn->server->feeds = f->next;
    if (f->next != NULL)
        f->next->prev = f->prev;
}

void
serveri_feed_free(struct feed *f)
{
    struct server *s = f->conn->server;

    dequeue(s, f);
    stop_waiting(f);
    serveri_live_leave(f);
    s->feed_count--;
    log_iter_close(f->it);
    if (f->query.ops != NULL)
        f->query.ops->close(f->reader);
    serveri_query_fini(&f->query);
    buf_fini(&f->cast);
    free(f);
}

static struct feed *
feed_new(struct conn *c)
{
    struct server *s = c->server;
    struct feed   *f = calloc(1, sizeof *f);

    if (f == NULL)
        return NULL;
    f->conn = c;
    f->said_ms = f->checked_ms = serveri_now_ms(s);
    s->feed_count++;
    c->feed = f;
    return f;
}

/* Gives the request back, without its feed. */
static struct call *
detach(struct feed *f)
{
    struct conn *c = f->conn;

    c->feed = NULL;
    serveri_feed_free(f);
    return &c->call;
}

/* Small answers, which end in their first slice, say how long they are. */
static void
emit(struct feed *f, struct buf *out)
{
    struct conn *c = f->conn;
    size_t       mark;

    if (!f->begun) {
        bool whole = f->ended && !c->call.head_only;

        serveri_answer_head(&c->call, 200, types[f->query.format], whole ? out->len : UINT64_MAX);
        f->begun = true;
    }
    if (c->call.head_only) {
        f->ended = true;
    } else if (out->len != 0) {
        mark = serveri_chunk_begin(&c->call);
        buf_add_slice(&c->out, buf_slice(out));
        serveri_chunk_end(&c->call, mark);
        f->said_ms = serveri_now_ms(c->server);
    }
    serveri_conn_dirty(c);
}

static void
fail(struct feed *f, const struct err *err)
{
    bool         begun = f->begun, stream = f->query.ops == NULL, cast = f->failure.code != 0;
    struct call *call = detach(f);

    if (!begun && cast) /* no fault of the client's */
        call_refuse(call, 500, "upcaster-failed", err->text);
    else if (!begun && stream)
        serveri_stream_fail(call, err);
    else if (!begun)
        call_fail(call, err);
    if (!begun)
        return;
    /* The status is out: only an answer that ends too early says that it is not whole. */
    say(SAY_ERROR, "a reader's answer was cut", "why", err->text, NULL);
    serveri_conn_abort(call->conn);
}

static void
fail_moved(struct feed *f, const struct err *err)
{
    struct buf   stream = f->query.moved;
    struct call *call;

    f->query.moved = (struct buf){0};
    call = detach(f);
    serveri_moved_answer(call, buf_slice(&stream), err);
    buf_fini(&stream);
}

void
serveri_feed_finish(struct feed *f)
{
    struct call *call = detach(f);

    if (!call->head_only)
        serveri_chunk_last(call);
    serveri_call_finish(call);
}

/* Many readers that are slow must leave room for the bodies of appends. */
size_t
serveri_feed_pause_mark(const struct server *s)
{
    return s->charged > s->conf.memory_bytes_max / 2 ? 0 : SERVERI_OUT_HIGH;
}

/* One slice; afterwards the feed may be gone. */
static void
run(struct feed *f)
{
    struct conn *c = f->conn;
    struct buf  *out = &c->server->scratch;
    struct err   err;
    size_t       mark = f->failure.code != 0 ? 0 : serveri_feed_pause_mark(c->server);

    if (f->begun && serveri_conn_pending(c) > mark) {
        f->stalled = true;
        return; /* serveri_feed_wake comes when there is room */
    }
    buf_clear(out);
    if (serveri_feed_fill(f, out, &err) != 0) {
        fail(f, &err);
        return;
    }
    emit(f, out);
    if (f->ended)
        serveri_feed_finish(f);
    else if (f->waiting)
        start_waiting(f);
    else if (f->group == NULL)
        serveri_feed_enqueue(f);
}

void
serveri_feeds_run(struct server *s)
{
    struct feed *last = s->runnable_last;
    uint64_t     began = uv_hrtime();

    /* Each at most once; who is left out comes first in the next turn. */
    while (s->runnable != NULL) {
        struct feed *f = s->runnable;

        dequeue(s, f);
        run(f);
        if (f == last || uv_hrtime() - began > TURN_NS)
            break;
    }
}

void
serveri_feed_wake(struct feed *f)
{
    if (!f->waiting && f->group == NULL)
        serveri_feed_enqueue(f);
}

void
serveri_feeds_wake(struct server *s)
{
    while (s->feeds != NULL) {
        struct feed *f = s->feeds;

        stop_waiting(f);
        serveri_feed_enqueue(f);
    }
    serveri_grpc_readers_wake(s);
    serveri_live_wake(s);
}

bool
serveri_feeds_wait(const struct server *s)
{
    uint64_t count, behind;

    serveri_live_look(s, &count, &behind);
    return s->feeds != NULL || s->grpc_waiting != NULL || count != 0;
}

bool
serveri_feed_is_live(const struct feed *f)
{
    return f->query.format == FEED_SSE;
}

void
serveri_feed_end(struct feed *f)
{
    if (f->query.format == FEED_SSE && !f->writing)
        serveri_feed_finish(f);
    else if (f->query.format == FEED_SSE)
        f->query.limit = f->given + 1;
}

void
serveri_feed_tick(struct feed *f, uint64_t now)
{
    struct conn *c = f->conn;
    size_t       mark;

    if (f->query.who != NULL && !user_is_valid(f->query.who)) {
        serveri_conn_abort(c); /* it comes back, and shows what it may see now */
        return;
    }
    if (f->group != NULL && now - f->checked_ms >= CHECK_MS && !serveri_live_check(f, now))
        return;
    if (!f->begun || f->writing || f->query.format != FEED_SSE ||
        now - f->said_ms < c->server->conf.keepalive_ms)
        return;
    f->said_ms = now;
    if (f->group != NULL)
        serveri_conn_slim(c);
    mark = serveri_chunk_begin(&c->call);
    buf_add_str(&c->out, ":\n\n");
    serveri_chunk_end(&c->call, mark);
    serveri_conn_dirty(c);
}

/* Requests. */

static void
begin(struct call *call, bool all, const struct feed_reader_ops *ops, void *arg)
{
    struct feed *f = feed_new(call->conn);
    struct err   err;

    if (f == NULL) {
        call_refuse(call, 503, "out-of-memory", "no memory for a reader");
        return;
    }
    if (serveri_query_read(call, all, ops, arg, &f->query, &err) != 0) {
        if (err.code == E_MOVED) /* to several */
            fail_moved(f, &err);
        else
            fail(f, &err);
        return;
    }
    run(f);
}

static void
get_all(struct call *call, void *arg)
{
    begin(call, true, NULL, NULL);
}

static void
get_stream(struct call *call, void *arg)
{
    begin(call, false, NULL, NULL);
}

void
serveri_feed_serve(struct call *call, const struct feed_reader_ops *ops, void *arg)
{
    begin(call, true, ops, arg);
}

static const struct server_route routes[] = {
    {"GET", "/v1/all", get_all, 0},
    {"GET", "/v1/streams/{stream}", get_stream, 0},
};

int
serveri_feed_routes(struct server *s, struct err *err)
{
    return server_add_routes(s, routes, sizeof routes / sizeof routes[0], NULL, err);
}
