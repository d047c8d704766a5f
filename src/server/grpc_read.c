/*
 * Streams.Read: what there is, in either direction, and subscriptions, which go on from there. A
 * reader runs on the loop in slices like those over HTTP (feed.c), and not at all while its client
 * takes nothing.
 *
 * A subscriber's place is kept apart from its iterator, so that a stream may be deleted, come back
 * or not be there yet: it goes on with the first event that it has not seen.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/must.h"
#include "server/access_int.h"
#include "server/feed_int.h"
#include "server/grpc_int.h"

#define SLICE_EVENTS 1000
#define SLICE_BYTES (1U << 20)
#define TURN_NS 1000000
#define CATEGORY "$category-"
#define BEHIND_BYTES (8U << 20) /* of the log, beyond which a live reader is behind */

enum native {
    NATIVE_NO,
    NATIVE_LINKS, /* "$ce-…", "$et-…" as streams of links */
    NATIVE_FIRST, /* "$streams": a link to each stream's first event, as the log has it */
    NATIVE_NAMES, /* "$category-…": the same for one category, as names */
    NATIVE_INDEX, /* the same by position, events themselves */
};

struct grpc_reader {
    struct rpc         *rpc;
    struct server      *server;
    struct grpc_reader *run_next, *wait_next, *wait_prev;
    bool                queued, waiting;

    /* What is asked for. */
    struct grpc_name   stream, source; /* source: what the log is asked for */
    bool               all, backwards, from_start, from_end, after, resolve, subscribe, text_ids;
    bool               has_count, has_ids, has_where, commit_below;
    uint64_t           from, limit, compatibility;
    enum native        native;
    struct grpc_filter filter;

    /* How far it is. */
    struct log_iter *it;
    struct buf       cast;          /* what upcasters made of the event in hand */
    uint64_t         given, next;   /* next: version or position of what has not been seen */
    uint64_t         seen;          /* events, since the last checkpoint */
    uint64_t         last, checked; /* positions: of the last event looked at, of the checkpoint */
    bool             any, started, caught_up, stalled, nothing;
};

/* Turns. */

static void
enqueue(struct grpc_reader *x)
{
    struct server *s = x->server;

    if (x->queued)
        return;
    x->queued = true;
    x->run_next = NULL;
    if (s->grpc_runnable == NULL)
        s->grpc_runnable = x;
    else
        s->grpc_runnable_last->run_next = x;
    s->grpc_runnable_last = x;
    serveri_run_soon(s);
}

static void
dequeue(struct grpc_reader *x)
{
    struct server      *s = x->server;
    struct grpc_reader *before = NULL;

    if (!x->queued)
        return;
    for (struct grpc_reader *y = s->grpc_runnable; y != x; y = y->run_next)
        before = y;
    if (before == NULL)
        s->grpc_runnable = x->run_next;
    else
        before->run_next = x->run_next;
    if (s->grpc_runnable_last == x)
        s->grpc_runnable_last = before;
    x->queued = false;
}

static void
start_waiting(struct grpc_reader *x)
{
    struct server *s = x->server;

    if (x->waiting)
        return;
    x->waiting = true;
    x->wait_prev = NULL;
    x->wait_next = s->grpc_waiting;
    if (s->grpc_waiting != NULL)
        s->grpc_waiting->wait_prev = x;
    s->grpc_waiting = x;
}

static void
stop_waiting(struct grpc_reader *x)
{
    if (!x->waiting)
        return;
    x->waiting = false;
    if (x->wait_prev != NULL)
        x->wait_prev->wait_next = x->wait_next;
    else
        x->server->grpc_waiting = x->wait_next;
    if (x->wait_next != NULL)
        x->wait_next->wait_prev = x->wait_prev;
}

void
serveri_grpc_readers_wake(struct server *s)
{
    while (s->grpc_waiting != NULL) {
        struct grpc_reader *x = s->grpc_waiting;

        stop_waiting(x);
        enqueue(x);
    }
}

static void
reader_free(struct grpc_reader *x)
{
    dequeue(x);
    stop_waiting(x);
    log_iter_close(x->it);
    buf_fini(&x->cast);
    grpci_filter_fini(&x->filter);
    free(x);
}

/* Messages other than events. */

static void
put_confirmation(struct grpc_reader *x)
{
    struct ox_id   id = id_new(x->server->env);
    char           text[ID_TEXT_LEN + 1];
    size_t         mark;
    struct buf    *out = rpc_begin(x->rpc, &mark);
    struct pb_mark within = pb_begin(out, 2, ID_TEXT_LEN + 2);

    id_format(&id, text);
    pb_put_str(out, 1, text);
    pb_end(out, within);
    rpc_commit(x->rpc, mark);
}

static void
put_not_found(struct grpc_reader *x)
{
    size_t         mark;
    struct buf    *out = rpc_begin(x->rpc, &mark);
    struct pb_mark within = pb_begin(out, 4, 0);

    grpci_put_name(out, 1, grpci_name(&x->stream));
    pb_end(out, within);
    rpc_commit(x->rpc, mark);
    rpc_end(x->rpc, RPC_OK, NULL);
}

/* At most once for each position, and never backwards. */
static void
put_checkpoint(struct grpc_reader *x)
{
    size_t         mark;
    struct buf    *out;
    struct pb_mark within;

    x->seen = 0;
    if (!x->filter.there || !x->any || x->last <= x->checked)
        return;
    x->checked = x->last;
    out = rpc_begin(x->rpc, &mark);
    within = pb_begin(out, 3, 0);
    pb_put_varint(out, 1, x->last);
    pb_put_varint(out, 2, x->last);
    grpci_put_now(x->rpc, out, 3);
    pb_end(out, within);
    rpc_commit(x->rpc, mark);
}

/* CaughtUp is 8, FellBehind 9: with the place of the last event before it. */
static void
put_place(struct grpc_reader *x, uint32_t number)
{
    size_t         mark;
    struct buf    *out = rpc_begin(x->rpc, &mark);
    struct pb_mark within = pb_begin(out, number, 0);

    grpci_put_now(x->rpc, out, 1);
    if (!x->all && x->next != 0)
        pb_put_varint(out, 2, x->next - 1);
    else if (x->all && x->any)
        grpci_put_position(out, 3, x->last);
    pb_end(out, within);
    rpc_commit(x->rpc, mark);
}

static void
put_number(struct grpc_reader *x, uint32_t number, uint64_t value)
{
    size_t      mark;
    struct buf *out = rpc_begin(x->rpc, &mark);

    pb_put_varint(out, number, value);
    rpc_commit(x->rpc, mark);
}

/* What newer clients are told after the events of a stream. */
static void
put_bounds(struct grpc_reader *x)
{
    struct log_stream info;

    if (x->compatibility == 0 || x->all || x->native != NATIVE_NO ||
        log_stream_info(x->server->log, grpci_name(&x->stream), &info, NULL) != 0)
        return;
    if (x->given == 0 && !x->from_start && x->from != info.first)
        put_number(x, 5, info.first);
    put_number(x, 6, info.head);
}

/* Reading. */

static int
find_end(struct grpc_reader *x, struct err *err)
{
    struct log_stream info;
    int               rc = 0;

    if (x->all || x->native != NATIVE_NO) {
        x->next = log_end(x->server->log).v;
        return 0;
    }
    rc = log_stream_info(x->server->log, grpci_name(&x->stream), &info, err);
    if (rc == 0)
        x->next = info.head + 1;
    return rc;
}

static int
open_iter(struct grpc_reader *x, struct err *err)
{
    struct log_read read = {
        .stream = x->all && x->native == NATIVE_NO ? (struct slice){0} : grpci_name(&x->source),
        .backwards = x->backwards,
        .resolve = x->resolve && (x->native == NATIVE_NO || x->native == NATIVE_FIRST),
        .filter = {.system = true},
        .patience = SLICE_BYTES,
    };
    int rc = 0;

    if (x->native == NATIVE_NAMES)
        read.filter.category =
            slice_of(x->stream.text + sizeof CATEGORY - 1, x->stream.len - (sizeof CATEGORY - 1));
    if (!x->started && x->from_end && !x->backwards) {
        rc = find_end(x, err);
        if (rc == E_NOTFOUND && x->subscribe)
            x->next = 0; /* whatever comes is new */
        else if (rc != 0)
            return rc;
        x->started = true;
    }
    x->started = true;
    read.from = x->next;
    return log_iter_open(x->server->log, &read, &x->it, err);
}

/* Of an event that nobody wrote. */
static struct ox_id
native_id(const struct grpc_reader *x, uint64_t pos)
{
    uint8_t seed[8 + LOG_NAME_MAX];

    put_u64(seed, pos);
    memcpy(seed + 8, x->stream.text, x->stream.len);
    return id_of_bytes(slice_of(seed, 8 + x->stream.len));
}

/* A stream of links that nobody wrote: the number of a link is the position of its event. */
static void
make_link(struct grpc_reader *x, struct log_event *e)
{
    e->link = (struct log_link){
        .pos = e->pos,
        .version = e->pos.v,
        .stream = grpci_name(&x->stream),
        .id = native_id(x, e->pos.v),
        .created_us = e->created_us,
    };
}

static void
put_native(struct grpc_reader *x, struct buf *out, struct log_event *e)
{
    struct grpc_recorded link;
    struct buf           data = {0};

    make_link(x, e);
    if (x->resolve) {
        grpci_put_event(out, e, false, x->text_ids);
    } else {
        grpci_recorded_link(e, &link, &data);
        grpci_put_recorded(out, 1, &link, x->text_ids);
        pb_put_varint(out, 3, e->pos.v);
    }
    out->failed = out->failed || data.failed;
    buf_fini(&data);
}

/* Of "0@NAME" the name. */
static void
put_name(struct grpc_reader *x, struct buf *out, const struct log_event *e)
{
    struct grpc_recorded name;

    grpci_recorded_of(e, &name);
    name.stream = grpci_name(&x->stream);
    name.type = slice_str("$@");
    name.data = slice_of((const char *)e->data.data + 2, e->data.len - 2);
    name.id = native_id(x, e->pos.v);
    grpci_put_recorded(out, 1, &name, x->text_ids);
    pb_put_varint(out, 3, e->pos.v);
}

static void
put_event(struct grpc_reader *x, struct log_event *e)
{
    size_t         mark;
    struct buf    *out = rpc_begin(x->rpc, &mark);
    struct pb_mark within = pb_begin(out, 1, e->data.len + e->meta.len + e->stream.len + 220);

    if (x->native == NATIVE_FIRST)
        *(e->link.stream.len != 0 ? &e->link.id : &e->id) = native_id(x, e->pos.v);
    if (x->native == NATIVE_LINKS)
        put_native(x, out, e);
    else if (x->native == NATIVE_NAMES)
        put_name(x, out, e);
    else
        grpci_put_event(out, e, x->resolve, x->text_ids);
    pb_end(out, within);
    x->given++;
    x->server->stats.events_out++;
    rpc_commit(x->rpc, mark);
}

/* Passes the event, or gives it. */
static void
take_event(struct grpc_reader *x, struct log_event *e)
{
    bool     linked = e->link.stream.len != 0;
    uint64_t pos = linked ? e->link.pos.v : e->pos.v;
    uint64_t here = x->all || x->native != NATIVE_NO ? pos : linked ? e->link.version : e->version;

    x->next = here + 1;
    x->last = pos;
    x->any = true;
    x->seen++;
    if (grpci_filter_wants(&x->filter, e) && serveri_may_see(x->server, rpc_who(x->rpc), e))
        put_event(x, e);
    if (x->subscribe && x->filter.there &&
        x->seen >= (uint64_t)x->filter.window * x->filter.multiplier)
        put_checkpoint(x);
}

static void
finish(struct grpc_reader *x)
{
    if (x->native != NATIVE_NO && !x->all && x->given == 0 && (x->from_start || x->from_end)) {
        put_not_found(x);
        return;
    }
    put_bounds(x);
    rpc_end(x->rpc, RPC_OK, NULL);
}

static void
reach_end(struct grpc_reader *x)
{
    if (!x->subscribe) {
        finish(x);
        return;
    }
    x->stalled = false;
    if (!x->caught_up) {
        x->caught_up = true;
        put_checkpoint(x);
        put_place(x, 8);
    }
    start_waiting(x);
}

/* E_NOTFOUND, E_GONE and failures; the reader may be gone afterwards. */
static void
not_there(struct grpc_reader *x, int rc, const struct err *err)
{
    log_iter_close(x->it);
    x->it = NULL;
    if (rc == E_NOTFOUND && !x->subscribe)
        put_not_found(x);
    else if (rc == E_NOTFOUND)
        reach_end(x);
    else
        grpci_fail(x->rpc, err, grpci_name(&x->stream));
}

/* The next event; 0: one was looked at. */
static int
step(struct grpc_reader *x, uint64_t *bytes, struct err *err)
{
    struct log_event e;
    int              rc = 0;

    if (x->it == NULL)
        TRY(open_iter(x, err));
    e.link.stream.len = 0;
    e.dangling = false;
    TRY(log_iter_next(x->it, &e, err));
    TRY(serveri_upcast(x->server, &e, &x->cast, err));
    *bytes += e.data.len + e.meta.len;
    take_event(x, &e);
out:
    return rc;
}

static bool
is_behind(const struct grpc_reader *x)
{
    return x->stalled || (x->all && x->next + BEHIND_BYTES < log_end(x->server->log).v);
}

/* One slice; afterwards the reader may be gone. */
static void
run(struct grpc_reader *x)
{
    struct rpc *r = x->rpc;
    uint64_t    bytes = 0;
    struct err  err;

    if (x->caught_up && is_behind(x)) {
        x->caught_up = false;
        put_checkpoint(x);
        put_place(x, 9);
    }
    for (unsigned i = 0; i < SLICE_EVENTS && bytes < SLICE_BYTES; i++) {
        int rc;

        if (rpc_pending(r) >= H2_OUT_HIGH) {
            x->stalled = true; /* on_drained comes when there is room */
            return;
        }
        if (x->nothing || x->given == x->limit) {
            finish(x);
            return;
        }
        rc = step(x, &bytes, &err);
        if (rpc_state(r) == NULL)
            return;
        if (rc == 0)
            continue;
        if (rc == E_END)
            reach_end(x);
        else if (rc != E_MORE)
            not_there(x, rc, &err);
        if (rc != E_MORE)
            return;
        break;
    }
    enqueue(x);
}

void
serveri_grpc_readers_run(struct server *s)
{
    struct grpc_reader *last = s->grpc_runnable_last;
    uint64_t            began = uv_hrtime();

    while (s->grpc_runnable != NULL) {
        struct grpc_reader *x = s->grpc_runnable;

        dequeue(x);
        run(x);
        if (x == last || uv_hrtime() - began > TURN_NS)
            break;
    }
}

/* What is asked for. */

static bool
read_stream_options(struct slice message, struct grpc_reader *x)
{
    struct pb_in    in;
    struct pb_field f;

    x->has_where = x->stream.there = true;
    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1) && !grpci_read_name(f.bytes, &x->stream))
            return false;
        if (f.key == PB_VARINT(2)) {
            x->from = f.value;
            x->from_start = x->from_end = false;
        }
        x->from_start = x->from_start || f.key == PB_BYTES(3);
        x->from_end = x->from_end || f.key == PB_BYTES(4);
    }
    return !in.bad;
}

static bool
read_all_options(struct slice message, struct grpc_reader *x)
{
    struct pb_in    in;
    struct pb_field f;
    uint64_t        prepare;

    x->has_where = x->all = true;
    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1)) {
            if (!grpci_read_position(f.bytes, &x->from, &prepare))
                return false;
            x->commit_below = x->from < prepare;
        }
        x->from_start = x->from_start || f.key == PB_BYTES(2);
        x->from_end = x->from_end || f.key == PB_BYTES(3);
    }
    return !in.bad;
}

static bool
read_compatibility(struct slice message, uint64_t *out)
{
    struct pb_in    in;
    struct pb_field f;

    pb_in_init(&in, message);
    while (pb_next(&in, &f))
        if (f.key == PB_VARINT(1))
            *out = f.value;
    return !in.bad;
}

static bool
read_option(struct grpc_reader *x, const struct pb_field *f, const char **why)
{
    switch (f->key) {
    case PB_BYTES(1):
        return read_stream_options(f->bytes, x);
    case PB_BYTES(2):
        return read_all_options(f->bytes, x);
    case PB_VARINT(3):
        x->backwards = f->value == 1;
        return f->value <= 1;
    case PB_VARINT(4):
        x->resolve = f->value != 0;
        return true;
    case PB_VARINT(5):
        x->has_count = true;
        x->limit = f->value;
        return true;
    case PB_BYTES(6):
        x->subscribe = true;
        return true;
    case PB_BYTES(7):
        *why = grpci_filter_read(f->bytes, &x->filter);
        return *why == NULL;
    case PB_BYTES(9):
        x->has_ids = grpci_read_uuid_option(f->bytes, &x->text_ids);
        return x->has_ids;
    case PB_BYTES(10):
        return read_compatibility(f->bytes, &x->compatibility);
    default:
        return true;
    }
}

/* NULL, or what is wrong with it all together. */
static const char *
check_options(const struct grpc_reader *x)
{
    if (!x->has_where)
        return "neither a stream nor $all is asked for";
    if (!x->has_ids)
        return "the UUID option is missing";
    if (!x->has_count && !x->subscribe)
        return "neither a count nor a subscription is asked for";
    if (x->subscribe && x->backwards)
        return "subscriptions go forwards";
    if (x->filter.there && !x->all)
        return "only $all has a filter";
    if (x->filter.there && x->subscribe && x->filter.multiplier == 0)
        return "the interval of checkpoints is 0";
    if (!x->all && (x->stream.len == 0 || slice_is(grpci_name(&x->stream), "$$")))
        return "the stream's name is empty";
    if (x->all && x->commit_below)
        return "Trying to read from an invalid position.";
    return NULL;
}

static enum native
native_of(struct slice name)
{
    if (slice_is(name, "$streams"))
        return NATIVE_FIRST;
    if (name.len > 4 &&
        (slice_starts(name, slice_str("$ce-")) || slice_starts(name, slice_str("$et-"))))
        return NATIVE_LINKS;
    if (name.len >= sizeof CATEGORY && slice_starts(name, slice_str(CATEGORY)))
        return NATIVE_NAMES;
    return NATIVE_NO;
}

/* "$idx-ce-NAME" and the like name an index, where other prefixes name streams. False: unknown. */
static bool
find_index(struct grpc_reader *x)
{
    struct slice prefix;
    char         name[LOG_NAME_MAX + 8];
    int          n;

    if (!x->filter.there || x->filter.by_type || x->filter.has_regex ||
        x->filter.prefix_count != 1 || !slice_starts(x->filter.prefixes[0], slice_str("$idx-")))
        return true;
    prefix = slice_of((const char *)x->filter.prefixes[0].data + 4, x->filter.prefixes[0].len - 4);
    x->filter.prefix_count = 0;
    if (slice_is(prefix, "-all"))
        return true;
    if (prefix.len < 5 ||
        (!slice_starts(prefix, slice_str("-ce-")) && !slice_starts(prefix, slice_str("-et-"))))
        return false;
    n = snprintf(name, sizeof name, "$%.*s", (int)prefix.len - 1, (const char *)prefix.data + 1);
    grpci_set_name(&x->source, slice_of(name, (size_t)n));
    x->native = NATIVE_INDEX;
    return true;
}

/* Where to begin. Subscriptions go on after the place that they name. */
static void
set_start(struct grpc_reader *x)
{
    bool by_position = x->all || x->native != NATIVE_NO;

    if (x->from == GRPCI_END && !x->from_start)
        x->from_end = true;
    x->next = x->from_start || x->from_end ? 0 : x->from;
    if (x->subscribe && !x->from_start && !x->from_end)
        x->next++;
    if (!x->backwards)
        return;
    if (x->from_end)
        x->next = UINT64_MAX;
    else if (by_position && x->next == 0)
        x->nothing = true;
    else if (x->all)
        x->next--; /* backwards, a position is the first that is not wanted */
}

static void
begin(struct rpc *r, struct grpc_reader *x)
{
    const char *why = check_options(x);

    if (why != NULL) {
        grpci_bad(r, why);
        return;
    }
    if (x->stream.too_long) {
        grpci_bad(r, "a stream's name has at most 255 bytes");
        return;
    }
    if (!x->all && native_of(grpci_name(&x->stream)) == NATIVE_NO &&
        !serveri_may(x->server, rpc_who(r), ACCESS_READ, grpci_name(&x->stream))) {
        struct err err;

        (void)serveri_access_refuse(x->server, rpc_who(r), "read", grpci_name(&x->stream), &err);
        grpci_refuse(r, RPC_PERMISSION_DENIED, "access-denied", grpci_name(&x->stream), err.text);
        return;
    }
    x->source = x->stream;
    if (!x->all)
        x->native = native_of(grpci_name(&x->stream));
    if (x->native == NATIVE_NAMES)
        grpci_set_name(&x->source, slice_str("$streams"));
    if (!find_index(x)) {
        rpc_trailer(r, "exception", slice_str("index-not-found"));
        rpc_trailer(r, "index-name", x->filter.prefixes[0]);
        rpc_end(r, RPC_NOT_FOUND, "there is no such index");
        return;
    }
    if (x->has_count && x->limit == 0)
        x->nothing = true;
    if (!x->has_count)
        x->limit = UINT64_MAX;
    set_start(x);
    if (x->subscribe) {
        struct err        err;
        struct log_stream info;

        if (!x->all && x->native == NATIVE_NO &&
            log_stream_info(x->server->log, grpci_name(&x->stream), &info, &err) == E_GONE) {
            grpci_fail(r, &err, grpci_name(&x->stream));
            return;
        }
        put_confirmation(x);
    }
    if (rpc_state(r) != NULL)
        run(x);
}

static void
read_request(struct rpc *r, struct slice message)
{
    struct grpc_reader *x = calloc(1, sizeof *x);
    struct pb_in        in, options;
    struct pb_field     f;
    const char         *why = NULL;
    bool                ok = true;

    if (x == NULL) {
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "no memory for a reader");
        return;
    }
    x->rpc = r;
    x->server = grpci_server(r);
    rpc_set_state(r, x);
    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f)) {
        struct pb_field option;

        if (f.key != PB_BYTES(1))
            continue;
        pb_in_init(&options, f.bytes);
        while (ok && pb_next(&options, &option))
            ok = read_option(x, &option, &why);
        ok = ok && !options.bad;
    }
    if (!ok || in.bad)
        grpci_bad(r, why != NULL ? why : "the request is malformed");
    else
        begin(r, x);
}

static void
on_drained(struct rpc *r)
{
    struct grpc_reader *x = rpc_state(r);

    if (x != NULL && !x->waiting)
        enqueue(x);
}

static void
on_drain(struct rpc *r)
{
    struct grpc_reader *x = rpc_state(r);

    if (x != NULL && x->subscribe)
        rpc_end(r, RPC_UNAVAILABLE, "the server is stopping");
}

static void
on_gone(struct rpc *r)
{
    struct grpc_reader *x = rpc_state(r);

    if (x != NULL)
        reader_free(x);
}

const struct rpc_method grpci_streams_read = {
    .path = "/event_store.client.streams.Streams/Read",
    .message = read_request,
    .drained = on_drained,
    .drain = on_drain,
    .gone = on_gone,
};
