/*
 * Live subscribers. Those that have caught up share one iterator over $all: an event is looked at
 * once for each distinct filter, written once, and copied to every connection that wants it. One
 * whose client takes too little falls behind: it goes on by itself until it has caught up again.
 *
 * No gap and no double: whoever joins has passed over everything before `bound`, the shared
 * iterator is nowhere beyond that, and gives it nothing that lies before.
 */
#include <stdlib.h>

#include "base/must.h"
#include "base/say.h"
#include "server/access_int.h"
#include "server/feed_int.h"

#define BUCKETS 8192u
#define TURN_EVENTS 2000
#define TURN_NS 2000000
#define PATIENCE (1U << 20)
#define COPY_MAX (64U << 10)    /* a larger event is read by everyone for himself, in pieces */
#define BEHIND_BYTES (8U << 20) /* of the log: all are behind */

/* Those that want the same: one stream, or one filter over $all. */
struct live_group {
    struct live_group *next, **link; /* of the bucket, or of the filters */
    struct feed_query  query;
    struct feed       *feeds;
};

struct live {
    struct server      *server;
    struct log_iter    *it;
    uint64_t            pos; /* everything before it was given */
    struct live_group  *filters;
    struct live_group **streams; /* by the hash of the name */
    struct feed        *touched;
    struct buf          text;
    uint64_t            count;
    struct buf          cast; /* what upcasters made of the event */
    bool                due, behind, running;
    bool                failed; /* the event cannot be read as it should be */
};

static uint32_t
bucket_of(struct slice name)
{
    const uint8_t *p = name.data;
    uint32_t       h = 2166136261u;

    for (size_t i = 0; i < name.len; i++)
        h = (h ^ p[i]) * 16777619u;
    return (h ^ h >> 15) % BUCKETS;
}

/* Groups. */

static bool
is_same(const struct feed_query *a, const struct feed_query *b)
{
    const struct log_filter *x = &a->read.filter, *y = &b->read.filter;

    return a->who == b->who && a->all == b->all && slice_eq(a->category, b->category) &&
           slice_eq(a->type, b->type) && (a->all || slice_eq(a->read.stream, b->read.stream)) &&
           x->system == y->system && slice_eq(x->prefix, y->prefix) &&
           slice_eq(x->category, y->category) && slice_eq(x->type, y->type);
}

static void
keep(struct buf *texts, struct slice *text)
{
    const uint8_t *to = texts->data + texts->len;

    buf_add_slice(texts, *text);
    *text = slice_of(to, text->len);
}

static struct live_group *
group_new(struct live_group **link, const struct feed_query *q)
{
    struct live_group *g = calloc(1, sizeof *g);

    if (g == NULL)
        return NULL;
    g->query = *q;
    g->query.texts = (struct buf){0};
    if (!buf_reserve(&g->query.texts, q->texts.len + 1)) {
        free(g);
        return NULL;
    }
    keep(&g->query.texts, &g->query.read.stream);
    keep(&g->query.texts, &g->query.read.filter.prefix);
    keep(&g->query.texts, &g->query.read.filter.category);
    keep(&g->query.texts, &g->query.read.filter.type);
    keep(&g->query.texts, &g->query.category);
    keep(&g->query.texts, &g->query.type);
    g->next = *link;
    if (g->next != NULL)
        g->next->link = &g->next;
    g->link = link;
    *link = g;
    return g;
}

static void
group_free(struct live_group *g)
{
    *g->link = g->next;
    if (g->next != NULL)
        g->next->link = g->link;
    buf_fini(&g->query.texts);
    free(g);
}

static struct live_group *
group_of(struct live *l, const struct feed_query *q)
{
    struct live_group **link = q->all ? &l->filters : &l->streams[bucket_of(q->read.stream)];

    for (struct live_group *g = *link; g != NULL; g = g->next)
        if (is_same(&g->query, q))
            return g;
    return group_new(link, q);
}

/* Coming and going. */

static struct live *
live_of(struct server *s)
{
    struct live *l = s->live;

    if (l != NULL)
        return l;
    l = calloc(1, sizeof *l);
    if (l == NULL)
        return NULL;
    l->streams = calloc(BUCKETS, sizeof(struct live_group *));
    if (l->streams == NULL) {
        free(l);
        return NULL;
    }
    l->server = s;
    s->live = l;
    return l;
}

void
serveri_live_free(struct server *s)
{
    struct live *l = s->live;

    if (l == NULL)
        return;
    must(l->count == 0);
    log_iter_close(l->it);
    buf_fini(&l->text);
    buf_fini(&l->cast);
    free(l->streams);
    free(l);
    s->live = NULL;
}

static bool
open_at(struct server *s, struct live *l, uint64_t pos)
{
    struct log_read read = {
        .from = pos, .filter = {.system = true, .quiet = true}, .patience = PATIENCE};
    struct err err;

    log_iter_close(l->it);
    l->it = NULL;
    l->pos = pos;
    if (log_iter_open(s->log, &read, &l->it, &err) == 0)
        return true;
    say(SAY_ERROR, "cannot read the log for subscribers", "why", err.text, NULL);
    return false;
}

bool
serveri_live_join(struct feed *f)
{
    struct server     *s = f->conn->server;
    struct live       *l;
    struct live_group *g;

    if (f->query.alone || s->draining)
        return false;
    l = live_of(s);
    if (l == NULL || (l->count == 0 && !open_at(s, l, f->bound)) || l->pos > f->bound)
        return false;
    g = group_of(l, &f->query);
    if (g == NULL)
        return false;
    f->group = g;
    f->live_prev = NULL;
    f->live_next = g->feeds;
    if (g->feeds != NULL)
        g->feeds->live_prev = f;
    g->feeds = f;
    l->count++;
    log_iter_close(f->it);
    f->it = NULL;
    return true;
}

/* This turn's output of a connection is one chunk. */
static void
touch(struct live *l, struct feed *f)
{
    if (f->touched)
        return;
    f->touched = true;
    f->mark = serveri_chunk_begin(&f->conn->call);
    f->touched_next = l->touched;
    l->touched = f;
}

static void
settle(struct live *l, struct feed *f)
{
    struct feed **link = &l->touched;

    if (!f->touched)
        return;
    while (*link != f)
        link = &(*link)->touched_next;
    *link = f->touched_next;
    f->touched = false;
    serveri_chunk_end(&f->conn->call, f->mark);
    f->said_ms = serveri_now_ms(f->conn->server);
    serveri_conn_dirty(f->conn);
}

static void
stop_reading(struct live *l)
{
    log_iter_close(l->it);
    l->it = NULL;
    l->due = l->behind = false;
}

void
serveri_live_leave(struct feed *f)
{
    struct live       *l = f->conn->server->live;
    struct live_group *g = f->group;

    if (g == NULL)
        return;
    if (f->live_prev != NULL)
        f->live_prev->live_next = f->live_next;
    else
        g->feeds = f->live_next;
    if (f->live_next != NULL)
        f->live_next->live_prev = f->live_prev;
    f->group = NULL;
    if (g->feeds == NULL)
        group_free(g);
    settle(l, f);
    if (--l->count == 0 && !l->running)
        stop_reading(l);
}

/* Giving. */

/* Goes on by itself after everything before `pos`. */
static void
go_alone(struct feed *f, uint64_t pos)
{
    f->bound = pos;
    if (f->query.all)
        f->next_from = pos;
    f->query.read.from = f->next_from;
    serveri_live_leave(f);
    serveri_feed_enqueue(f);
}

static void
give(struct live *l, struct feed *f, const struct log_event *e)
{
    if (e->pos.v < f->bound || (!f->query.all && e->version < f->next_from))
        return;
    if (l->text.len > COPY_MAX || l->failed) { /* each learns by himself why */
        f->stalled = false;
        go_alone(f, e->pos.v);
        return;
    }
    touch(l, f);
    buf_add_slice(&f->conn->out, buf_slice(&l->text));
    f->conn->server->stats.events_out++;
    f->there = true;
    if (!f->query.all)
        f->next_from = e->version + 1;
}

static void
give_group(struct live *l, struct live_group *g, const struct log_event *e)
{
    struct event_out out;
    struct log_event now = *e;

    if (!serveri_may_see(l->server, g->query.who, e))
        return;
    if (l->text.len == 0 && !l->failed)
        l->failed = serveri_upcast(l->server, &now, &l->cast, NULL) != 0;
    if (l->text.len == 0 && !l->failed) {
        buf_add_str(&l->text, "id: ");
        buf_add_u64(&l->text, e->pos.v);
        buf_add_str(&l->text, "\ndata: ");
        serveri_event_begin(&out, &now);
        (void)serveri_event_write(&out, &l->text, COPY_MAX + 1);
        buf_add_str(&l->text, "\n\n");
    }
    for (struct feed *f = g->feeds, *next; f != NULL; f = next) {
        next = f->live_next; /* the last one's leaving frees the group */
        give(l, f, e);
    }
}

static void
give_all(struct live *l, const struct log_event *e)
{
    struct live_group *g, *next;

    buf_clear(&l->text);
    l->failed = false;
    for (g = l->filters; g != NULL; g = next) {
        next = g->next;
        if (serveri_feed_wants(&g->query, e))
            give_group(l, g, e);
    }
    /* One for each user. */
    for (g = l->streams[bucket_of(e->stream)]; g != NULL; g = next) {
        next = g->next;
        if (slice_eq(g->query.read.stream, e->stream))
            give_group(l, g, e);
    }
}

/* Who takes too little reads on for himself; the others' chunks are closed. */
static void
settle_all(struct server *s, struct live *l)
{
    size_t mark = serveri_feed_pause_mark(s);

    while (l->touched != NULL) {
        struct feed *f = l->touched;

        settle(l, f);
        if (f->conn->state == CONN_CLOSED || serveri_conn_pending(f->conn) <= mark)
            continue;
        f->stalled = true;
        go_alone(f, l->pos);
    }
}

/* To everybody; the shared iterator itself is behind, or has caught up again. */
static void
say_all(struct live *l, const char *event)
{
    for (uint32_t i = 0; i <= BUCKETS; i++) {
        for (struct live_group *g = i == BUCKETS ? l->filters : l->streams[i]; g != NULL;
             g = g->next) {
            for (struct feed *f = g->feeds; f != NULL; f = f->live_next) {
                touch(l, f);
                f->bound = l->pos;
                serveri_feed_say(f, event, &f->conn->out);
            }
        }
    }
}

static void
note_lag(struct server *s, struct live *l, bool at_end)
{
    bool behind = !at_end && (l->behind || l->pos + BEHIND_BYTES < log_end(s->log).v);

    if (behind != l->behind)
        say_all(l, behind ? "fell-behind" : "caught-up");
    l->behind = behind;
}

/* Ends those whose reader failed: they come back, and learn why. */
static void
give_up(struct live *l, const struct err *err)
{
    say(SAY_ERROR, "subscribers were cut off", "why", err->text, NULL);
    for (uint32_t i = 0; i <= BUCKETS; i++) {
        struct live_group **link = i == BUCKETS ? &l->filters : &l->streams[i];

        while (*link != NULL)
            serveri_conn_abort((*link)->feeds->conn); /* which makes it leave */
    }
}

void
serveri_live_run(struct server *s)
{
    struct live     *l = s->live;
    struct log_event event = {0};
    struct err       err;
    uint64_t         began = uv_hrtime();
    unsigned         events = 0;
    int              rc = E_MORE;

    l->due = false;
    l->running = true;
    while (l->count != 0 && events++ < TURN_EVENTS) {
        rc = log_iter_next(l->it, &event, &err);
        if (rc != 0)
            break;
        give_all(l, &event);
        l->pos = log_iter_pos(l->it).v;
        if (events % 64 == 0 && uv_hrtime() - began > TURN_NS)
            break;
    }
    l->pos = log_iter_pos(l->it).v;
    if (rc != 0 && rc != E_END && rc != E_MORE)
        give_up(l, &err);
    note_lag(s, l, rc == E_END);
    settle_all(s, l);
    l->running = false;
    if (l->count == 0)
        stop_reading(l);
    else if (rc != E_END)
        serveri_live_wake(s);
}

bool
serveri_live_is_due(const struct server *s)
{
    return s->live != NULL && s->live->due;
}

void
serveri_live_look(const struct server *s, uint64_t *count, uint64_t *behind)
{
    const struct live *l = s->live;
    uint64_t           end = log_end(s->log).v;

    *count = l == NULL ? 0 : l->count;
    *behind = *count == 0 || l->pos >= end ? 0 : end - l->pos;
}

void
serveri_live_wake(struct server *s)
{
    if (s->live == NULL || s->live->count == 0)
        return;
    s->live->due = true;
    serveri_run_soon(s);
}

/* Deleted streams make no events: they are looked up now and then, and when this server did it. */
bool
serveri_live_check(struct feed *f, uint64_t now)
{
    struct server    *s = f->conn->server;
    struct log_stream info;
    struct err        err;
    size_t            mark;
    int               rc;

    f->checked_ms = now;
    /* What is not there yet is waited for. */
    if (f->query.all || !f->there)
        return true;
    rc = log_stream_info(s->log, f->query.read.stream, &info, &err);
    if (rc != E_NOTFOUND && rc != E_GONE)
        return true;
    mark = serveri_chunk_begin(&f->conn->call);
    serveri_feed_deleted(f, rc == E_GONE, &f->conn->out);
    serveri_chunk_end(&f->conn->call, mark);
    serveri_feed_finish(f);
    return false;
}

void
serveri_live_check_stream(struct server *s, struct slice stream)
{
    struct live       *l = s->live;
    struct live_group *g, *after;

    if (l == NULL || l->count == 0)
        return;
    for (g = l->streams[bucket_of(stream)]; g != NULL; g = after) {
        after = g->next; /* the last one's leaving frees the group */
        if (!slice_eq(g->query.read.stream, stream))
            continue;
        for (struct feed *f = g->feeds, *next; f != NULL; f = next) {
            next = f->live_next;
            (void)serveri_live_check(f, serveri_now_ms(s));
        }
    }
}
