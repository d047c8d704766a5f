/*
 * Readers of the log. Each has its own iterator and runs on the loop in slices
 * that are bounded in bytes written and in events passed over, one after the
 * other; a reader whose client takes nothing is not run at all.
 *
 * The filter is applied here and not by the iterator, which could otherwise
 * search the whole log for one event in a single call.
 */
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "base/say.h"
#include "server/feed_int.h"

#define SLICE_OUT (64U << 10)
#define SLICE_EVENTS 1000
#define SLICE_BYTES (1U << 20)
#define TURN_NS 1000000 /* of one turn of the loop, for all readers together */

struct feed {
    struct conn      *conn;
    struct feed      *prev, *next;
    struct feed      *run_next;
    struct feed_query query;
    struct log_iter  *it;
    struct event_out  out;
    bool              queued;    /* has a turn coming */
    bool              waiting;   /* at the end of the log */
    bool              writing;   /* in the middle of an event */
    bool              begun;     /* the answer's head is out */
    bool              caught_up; /* and the client was told so */
    bool              ended;     /* nothing more will come */
    bool              at_end;    /* because the log has no more */
    uint64_t          given;
    uint64_t          next_from;
    uint64_t          said_ms;
};

static const char *const types[] = {CALL_JSON, "application/x-ndjson", "text/event-stream"};

/* Turns. */

static void
enqueue(struct feed *f)
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

void
serveri_feed_free(struct feed *f)
{
    struct server *s = f->conn->server;

    dequeue(s, f);
    if (f->prev != NULL)
        f->prev->next = f->next;
    else
        s->feeds = f->next;
    if (f->next != NULL)
        f->next->prev = f->prev;
    s->feed_count--;
    log_iter_close(f->it);
    serveri_query_fini(&f->query);
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
    f->said_ms = serveri_now_ms(s);
    f->next = s->feeds;
    if (s->feeds != NULL)
        s->feeds->prev = f;
    s->feeds = f;
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

/* Which events. */

/* The stream's name goes on with the category's first dash. */
static bool
in_category(struct slice stream, struct slice category)
{
    const char *name = stream.data;

    return stream.len > category.len && slice_starts(stream, category) &&
           name[category.len] == '-' && memchr(name, '-', category.len) == NULL;
}

static bool
is_wanted(const struct feed_query *q, const struct log_event *e)
{
    const struct log_filter *filter = &q->read.filter;

    if (e->pos.v <= q->after && q->after != 0)
        return false;
    if (!q->all)
        return true;
    if (e->quiet || (e->stream.len != 0 && *(const char *)e->stream.data == '$' &&
                     (filter->prefix.len == 0 || *(const char *)filter->prefix.data != '$')))
        return false;
    return slice_starts(e->stream, filter->prefix) &&
           (filter->category.len == 0 || in_category(e->stream, filter->category)) &&
           (filter->type.len == 0 || slice_eq(e->type, filter->type));
}

/* The version after the last one that a client of this stream has seen. */
static int
find_version(struct feed *f, struct err *err)
{
    struct log_read  read = {.stream = f->query.read.stream,
                             .from = UINT64_MAX,
                             .backwards = true,
                             .at = {f->query.after}};
    struct log_iter *it = NULL;
    struct log_event event;
    int              rc;

    rc = log_iter_open(f->conn->server->log, &read, &it, err);
    if (rc == 0)
        rc = log_iter_next(it, &event, err);
    if (rc == 0)
        f->query.read.from = event.version + 1;
    log_iter_close(it);
    /* Not there then: everything is new. */
    return rc == E_END || rc == E_NOTFOUND ? 0 : rc;
}

static int
find_end(struct feed *f, struct err *err)
{
    struct log_stream info;
    int               rc = 0;

    if (f->query.all) {
        f->query.read.from = log_end(f->conn->server->log).v;
        return 0;
    }
    TRY(log_stream_info(f->conn->server->log, f->query.read.stream, &info, err));
    f->query.read.from = info.head + 1;
out:
    return rc;
}

/* E_NOTFOUND where a stream is not there. */
static int
open_iter(struct feed *f, struct err *err)
{
    struct feed_query *q = &f->query;
    struct log_read    read;
    int                rc = 0;

    if (q->from_end)
        TRY(find_end(f, err));
    else if (q->after != 0 && !q->all)
        TRY(find_version(f, err));
    q->from_end = false;
    f->next_from = q->read.from;
    read = q->read;
    memset(&read.filter, 0, sizeof read.filter);
    read.filter.system = read.filter.quiet = true;
    TRY(log_iter_open(f->conn->server->log, &read, &f->it, err));
out:
    /* A subscriber may be there before its stream, which then begins at its first event. */
    if (rc == E_NOTFOUND && q->format == FEED_SSE) {
        q->from_end = false;
        q->after = 0;
        rc = 0;
    }
    return rc;
}

/* Writing. */

static void
begin_event(struct feed *f, const struct log_event *event, struct buf *out)
{
    serveri_event_begin(&f->out, event);
    f->writing = true;
    if (f->query.format == FEED_JSON && f->given != 0)
        buf_add_byte(out, ',');
    if (f->query.format == FEED_SSE)
        buf_printf(out, "id: %llu\ndata: ", (unsigned long long)event->pos.v);
}

static void
note_next(struct feed *f)
{
    const struct log_event *e = &f->out.event;
    uint64_t                here = f->query.all ? e->pos.v : e->version;

    if (f->query.read.backwards) {
        f->at_end = f->at_end || here == 0;
        f->next_from = here - 1;
    } else {
        f->next_from = f->query.all ? log_iter_pos(f->it).v : here + 1;
    }
}

static void
end_event(struct feed *f, struct buf *out)
{
    static const char *const ends[] = {"", "\n", "\n\n"};

    buf_add_str(out, ends[f->query.format]);
    f->writing = false;
    f->given++;
    f->conn->server->stats.events_out++;
    note_next(f);
    if (f->query.limit != 0 && f->given == f->query.limit)
        f->ended = true;
}

/* The log has no more, for now or for this reader. */
static void
reach_end(struct feed *f, struct buf *out)
{
    if (f->query.all && f->it != NULL && !f->query.read.backwards)
        f->next_from = log_iter_pos(f->it).v;
    if (f->query.format != FEED_SSE) {
        f->ended = f->at_end = true;
        return;
    }
    f->waiting = true;
    if (f->caught_up)
        return;
    f->caught_up = true;
    buf_printf(out, "event: caught-up\ndata: {\"position\":%llu}\n\n",
               (unsigned long long)log_end(f->conn->server->log).v);
}

static int
next_event(struct feed *f, struct buf *out, uint64_t *bytes, struct err *err)
{
    struct log_event event;
    int              rc;

    if (f->it == NULL && !f->query.nothing) {
        rc = open_iter(f, err);
        if (rc != 0)
            return rc;
    }
    rc = f->it == NULL ? E_END : log_iter_next(f->it, &event, err);
    if (rc == E_END) {
        reach_end(f, out);
        return 0;
    }
    if (rc != 0)
        return rc;
    *bytes += event.data.len + event.meta.len;
    if (is_wanted(&f->query, &event))
        begin_event(f, &event, out);
    return 0;
}

static void
write_first(const struct feed *f, struct buf *out)
{
    if (!f->begun && f->query.format == FEED_JSON)
        buf_add_str(out, "{\"events\":[");
}

static void
write_last(struct feed *f, struct buf *out)
{
    struct log_stream info;
    uint64_t          head = log_end(f->conn->server->log).v;

    if (f->query.format != FEED_JSON)
        return;
    buf_add_str(out, "],\"next\":");
    if (f->query.read.backwards && f->at_end)
        buf_add_str(out, "null");
    else
        buf_add_u64(out, f->next_from);
    if (!f->query.all)
        head = log_stream_info(f->conn->server->log, f->query.read.stream, &info, NULL) == 0
                   ? info.head
                   : 0;
    buf_add_str(out, ",\"head\":");
    buf_add_u64(out, head);
    buf_add_str(out, "}\n");
}

/* Reads and writes until something is used up. */
static int
fill(struct feed *f, struct buf *out, struct err *err)
{
    uint64_t bytes = 0;
    unsigned events = 0;
    int      rc = 0;

    write_first(f, out);
    while (!f->ended && !f->waiting && out->len < SLICE_OUT) {
        if (f->writing) {
            if (serveri_event_write(&f->out, out, SLICE_OUT - out->len))
                end_event(f, out);
            if (out->failed)
                FAIL(err, E_NOMEM, ERR_RETRY, "no memory for the answer");
            continue;
        }
        if (events++ == SLICE_EVENTS || bytes > SLICE_BYTES)
            break;
        TRY(next_event(f, out, &bytes, err));
    }
    if (f->ended)
        write_last(f, out);
out:
    return rc;
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
    bool         begun = f->begun;
    struct call *call = detach(f);

    if (!begun) {
        call_fail(call, err);
        return;
    }
    /* The status is out: only an answer that ends too early says that it is not whole. */
    say(SAY_ERROR, "a reader's answer was cut", "why", err->text, NULL);
    serveri_conn_abort(call->conn);
}

static void
finish(struct feed *f)
{
    struct call *call = detach(f);

    if (!call->head_only)
        serveri_chunk_last(call);
    serveri_call_finish(call);
}

/* Many readers that are slow must leave room for the bodies of appends. */
static size_t
pause_mark(const struct server *s)
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

    if (f->begun && serveri_conn_pending(c) > pause_mark(c->server))
        return; /* serveri_feed_wake comes when there is room */
    buf_clear(out);
    if (fill(f, out, &err) != 0) {
        fail(f, &err);
        return;
    }
    emit(f, out);
    if (f->ended)
        finish(f);
    else if (!f->waiting)
        enqueue(f);
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
    if (!f->waiting)
        enqueue(f);
}

void
serveri_feeds_wake(struct server *s)
{
    for (struct feed *f = s->feeds; f != NULL; f = f->next) {
        if (!f->waiting)
            continue;
        f->waiting = false;
        enqueue(f);
    }
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
        finish(f);
    else if (f->query.format == FEED_SSE)
        f->query.limit = f->given + 1;
}

void
serveri_feed_tick(struct feed *f, uint64_t now)
{
    struct conn *c = f->conn;
    size_t       mark;

    if (!f->begun || f->writing || f->query.format != FEED_SSE ||
        now - f->said_ms < c->server->conf.keepalive_ms)
        return;
    f->said_ms = now;
    mark = serveri_chunk_begin(&c->call);
    buf_add_str(&c->out, ":\n\n");
    serveri_chunk_end(&c->call, mark);
    serveri_conn_dirty(c);
}

/* Requests. */

static void
begin(struct call *call, bool all)
{
    struct feed *f = feed_new(call->conn);
    struct err   err;

    if (f == NULL) {
        call_refuse(call, 503, "out-of-memory", "no memory for a reader");
        return;
    }
    if (serveri_query_read(call, all, &f->query, &err) != 0) {
        fail(f, &err);
        return;
    }
    run(f);
}

static void
get_all(struct call *call, void *arg)
{
    begin(call, true);
}

static void
get_stream(struct call *call, void *arg)
{
    begin(call, false);
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
