/*
 * A move that is too large for one commit. Its copies are committed some at a time to
 * targets that nobody else reads or writes (log_stage_open), what is written to the original
 * meanwhile is read on, and the last commit, behind a fence, has the rest, the
 * event that says where the original went, and opens the targets. Cut off before that, nothing of
 * it has been: it begins again.
 */
#include <stdio.h>

#include "migrate/stream/stream_int.h"

#define TRIES 20u
#define ROUNDS_FREE 3u /* without a fence */
#define ROUNDS_MAX 50u
#define FEW 500u        /* events that are left for the last commit */
#define FENCE_US 50000u /* for each try; it is gone when the last commit is there */
#define HOLD_US 10000u  /* for each round */
#define GENTLE_BYTES (UINT64_C(96) << 10)

/* What was written to a target. */
struct filled {
    int64_t  head;  /* its last version; LOG_NO_STREAM: nothing yet */
    uint32_t round; /* whose marks it has */
};

struct stage {
    struct streami_worker *w;
    struct log            *log;
    struct streami_reader *reader;
    struct streami_move   *m;
    struct log_stage      *open;
    struct filled         *filled; /* of each target */
    uint32_t               filled_count, filled_room;
    uint32_t               round; /* of reading on */
    uint64_t               told;  /* events that it rested for */
    uint32_t               tries;
    struct streami_arena   keep, bulk;
    bool                   lost; /* somebody wrote to the original: once more */
};

/* One commit of it, in the bulk arena. */
struct chunk {
    struct log_write      *writes;
    struct log_change     *changes;
    struct log_check      *checks;
    struct log_new_event **at;    /* where a target's next event goes */
    uint32_t              *write; /* of a target; UINT32_MAX: it has none */
    uint32_t               write_count, change_count, check_count;
};

static int
no_memory(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a move in stages");
}

/* Of a target: how many marks come before its next copies. */
static uint32_t
marks_due(const struct stage *g, uint32_t target)
{
    const struct streami_move *m = g->m;
    uint32_t                   n = 0;

    if (g->filled[target].head == LOG_NO_STREAM)
        return m->source_count;
    if (g->filled[target].round == g->round)
        return 0;
    for (uint32_t i = 0; i < m->source_count; i++)
        n += m->sources[i].from <= m->sources[i].head;
    return n;
}

/* The marks of a target's beginning, or of what was read on. */
static int
put_marks(struct stage *g, uint32_t target, struct log_new_event **at, struct err *err)
{
    bool begins = g->filled[target].head == LOG_NO_STREAM;
    int  rc = 0;

    for (uint32_t i = 0; i < g->m->source_count; i++) {
        struct streami_source s = g->m->sources[i];

        if (!begins && s.from > s.head)
            continue;
        if (!begins)
            s.first = s.from;
        TRY(streami_range_event(&g->bulk, g->reader->spec, STREAM_MIGRATED_TYPE, &s, (*at)++, err));
    }
out:
    return rc;
}

static int
room_for(struct stage *g, struct chunk *c, struct err *err)
{
    const struct streami_move *m = g->m;
    size_t                     streams = (size_t)m->source_count + m->target_count;

    if (g->reader->spec->route)
        streams += (size_t)m->target_count + 1; /* and their metadata */
    c->writes = streami_alloc(&g->bulk, streams * sizeof *c->writes);
    c->changes = streami_alloc(&g->bulk, streams * sizeof *c->changes);
    c->checks = streami_alloc(&g->bulk, streams * sizeof *c->checks);
    c->at = streami_alloc(&g->bulk, m->target_count * sizeof(void *));
    c->write = streami_alloc(&g->bulk, m->target_count * sizeof *c->write);
    if (c->writes == NULL || c->changes == NULL || c->checks == NULL || c->at == NULL ||
        c->write == NULL)
        return no_memory(err);
    for (; g->filled_count < m->target_count; g->filled_count++) {
        if (!streami_grow(&g->keep, &g->filled, g->filled_count, &g->filled_room,
                          sizeof *g->filled))
            return no_memory(err);
        g->filled[g->filled_count] = (struct filled){.head = LOG_NO_STREAM};
    }
    return 0;
}

/* A target's write: its marks first. `last`: it is begun even where nothing is left to be in it. */
static int
add_target(struct stage *g, struct chunk *c, uint32_t t, uint32_t copies, bool last,
           struct err *err)
{
    struct slice          stream = g->m->targets[t].stream;
    const struct filled  *f = &g->filled[t];
    bool                  begins = f->head == LOG_NO_STREAM;
    uint32_t              marks = copies > 0 || (begins && last) ? marks_due(g, t) : 0;
    struct log_new_event *events;
    int                   what = 0, rc = 0;

    c->write[t] = UINT32_MAX;
    if (begins && copies + marks > 0 && !last)
        TRY(log_stage_add(g->log, g->open, stream, err));
    if (last)
        what = (begins ? 0 : LOG_SET_UNSTAGED) | (g->reader->spec->route ? LOG_SET_FED : 0);
    else if (begins && copies + marks > 0)
        what = LOG_SET_STAGED;
    if (what != 0)
        c->changes[c->change_count++] =
            (struct log_change){.stream = stream, .expected = LOG_ANY, .what = (uint32_t)what};
    if (copies + marks == 0)
        goto out;
    events = streami_alloc(&g->bulk, (copies + marks) * sizeof *events);
    if (events == NULL)
        return no_memory(err);
    c->write[t] = c->write_count;
    c->at[t] = events;
    c->writes[c->write_count++] = (struct log_write){
        .stream = stream, .expected = f->head, .events = events, .count = copies + marks};
    if (marks > 0)
        rc = put_marks(g, t, &c->at[t], err);
out:
    return rc;
}

static int
add_targets(struct stage *g, struct chunk *c, bool last, struct err *err)
{
    const struct streami_move *m = g->m;
    uint32_t                  *copies = streami_alloc(&g->bulk, m->target_count * sizeof *copies);
    int                        rc = 0;

    if (copies == NULL)
        return no_memory(err);
    memset(copies, 0, m->target_count * sizeof *copies);
    for (uint32_t i = 0; i < m->out_count; i++)
        copies[m->outs[i].target]++;
    for (uint32_t t = 0; t < m->target_count; t++)
        TRY(add_target(g, c, t, copies[t], last, err));
    for (uint32_t i = 0; i < m->out_count; i++)
        *c->at[m->outs[i].target]++ = m->outs[i].event;
out:
    return rc;
}

/* What a stream's metadata says from the last commit on. */
static int
add_metadata(struct stage *g, struct chunk *c, const struct streami_route *route, struct err *err)
{
    struct log_new_event *e = streami_alloc(&g->bulk, sizeof *e);

    if (e == NULL)
        return no_memory(err);
    c->writes[c->write_count++] = (struct log_write){
        .stream = route->stream, .expected = route->version, .events = e, .count = 1};
    return streami_route_event(&g->bulk, route, route->doc, e, err);
}

/* The original goes on, and says where to; the targets where from. */
static int
add_routes(struct stage *g, struct chunk *c, struct err *err)
{
    const struct streami_source *s = &g->m->sources[0];
    struct streami_route         of, to;
    int                          rc = 0;

    must(g->m->source_count == 1);
    TRY(streami_route_read(g->log, &g->bulk, s->stream, &of, err));
    of.surgery = slice_str(g->reader->spec->name);
    of.to = (struct streami_names){0};
    for (uint32_t t = 0; t < g->m->target_count; t++) {
        TRY(streami_route_add(&g->bulk, &of.to, g->m->targets[t].stream, err));
        TRY(streami_route_read(g->log, &g->bulk, g->m->targets[t].stream, &to, err));
        to.from = (struct streami_names){0};
        TRY(streami_route_add(&g->bulk, &to.from, s->stream, err));
        TRY(add_metadata(g, c, &to, err));
    }
    TRY(add_metadata(g, c, &of, err));
    c->changes[c->change_count++] =
        (struct log_change){.stream = s->stream, .expected = LOG_ANY, .what = LOG_SET_ROUTED};
    c->checks[c->check_count++] = (struct log_check){s->stream, (int64_t)s->head};
    c->checks[c->check_count++] = (struct log_check){s->stream, LOG_EXISTS};
out:
    return rc;
}

/* The originals' last events. */
static int
add_sources(struct stage *g, struct chunk *c, struct err *err)
{
    const struct streami_spec *spec = g->reader->spec;
    int                        rc = 0;

    for (uint32_t i = 0; i < g->m->source_count; i++) {
        const struct streami_source *s = &g->m->sources[i];
        struct log_new_event        *events = streami_alloc(&g->bulk, 2 * sizeof *events);
        uint32_t                     n = 0;

        if (events == NULL)
            return no_memory(err);
        if (s->invalid)
            TRY(streami_range_event(&g->bulk, spec, STREAM_INVALID_TYPE, s, &events[n++], err));
        TRY(streami_moved_event(&g->bulk, spec, g->m, i, &events[n++], err));
        c->writes[c->write_count++] = (struct log_write){
            .stream = s->stream, .expected = (int64_t)s->head, .events = events, .count = n};
        c->changes[c->change_count++] =
            (struct log_change){.stream = s->stream, .expected = LOG_ANY, .what = LOG_SET_MOVED};
        c->checks[c->check_count++] =
            (struct log_check){.stream = s->stream, .expected = LOG_EXISTS};
    }
out:
    return rc;
}

/* What the log refused: is it one of the originals? */
static int
judge(struct stage *g, const struct log_req *req, struct err *err)
{
    err_copy(err, &req->err);
    for (uint32_t i = 0; i < g->m->source_count && req->wrong_stream.len > 0; i++)
        g->lost = g->lost || slice_eq(g->m->sources[i].stream, req->wrong_stream);
    /* Somebody's metadata, of one of them. */
    g->lost = g->lost || slice_starts(req->wrong_stream, slice_str("$$"));
    if (!g->lost && req->rc == E_WRONG_VERSION)
        return err_set(err, __FILE__, __LINE__, E_EXISTS, ERR_DATA,
                       "its target \"%.*s\" is there already", SLICE_FMT(req->wrong_stream));
    return req->rc;
}

static int
commit(struct stage *g, bool last, struct err *err)
{
    struct chunk   c = {0};
    struct log_req req;
    int            rc;

    TRY(room_for(g, &c, err));
    TRY(add_targets(g, &c, last, err));
    if (last)
        TRY(g->reader->spec->route ? add_routes(g, &c, err) : add_sources(g, &c, err));
    if (c.write_count == 0)
        goto out;
    req = (struct log_req){.writes = c.writes,
                           .write_count = c.write_count,
                           .changes = c.changes,
                           .change_count = c.change_count,
                           .checks = c.checks,
                           .check_count = c.check_count,
                           .stage = g->open,
                           .flags = LOG_BULK | LOG_FENCED_OK | (last ? 0u : (uint32_t)LOG_STAGED) |
                                    (g->w->gentle && !last ? (uint32_t)LOG_GENTLE : 0u)};
    rc = log_append(g->log, &req);
    if (rc != 0) {
        rc = judge(g, &req, err);
        goto out;
    }
    if (g->m->staged == 0)
        g->m->staged = req.pos.v;
    for (uint32_t t = 0; t < g->m->target_count; t++)
        if (c.write[t] != UINT32_MAX)
            g->filled[t] = (struct filled){(int64_t)c.writes[c.write[t]].last_version, g->round};
out:
    return rc;
}

/* How far it is, for those who look. */
static void
show(struct stage *g)
{
    struct streami_progress *p = &g->w->progress;
    struct slice             stream = g->m->sources[0].stream;
    uint64_t                 all = 0;

    for (uint32_t i = 0; i < g->m->source_count; i++)
        all += g->m->sources[i].head + 1 - g->m->sources[i].first;
    lock_take(&g->w->surgery->lock);
    (void)snprintf(p->stream, sizeof p->stream, "%.*s", SLICE_FMT(stream));
    p->all = all > g->reader->looked ? all : g->reader->looked;
    p->looked = g->reader->looked;
    lock_give(&g->w->surgery->lock);
}

/* It is moved, or is not. */
static void
show_end(struct streami_worker *w)
{
    lock_take(&w->surgery->lock);
    w->progress.all = w->progress.looked = 0;
    lock_give(&w->surgery->lock);
}

static int
spill(void *arg, struct streami_reader *r, struct err *err)
{
    struct stage *g = arg;
    int           rc;

    TRY(commit(g, false, err));
    show(g);
    rc = streami_rest(g->w, r->move->events - g->told, err);
    g->told = r->move->events;
out:
    return rc;
}

/* Reads on to where the originals are now. *more: how many events that is about. */
static int
extend(struct stage *g, uint64_t *more, struct err *err)
{
    int rc = 0;

    *more = 0;
    for (uint32_t i = 0; i < g->m->source_count; i++) {
        struct streami_source *s = &g->m->sources[i];
        struct log_stream      info;
        bool                   read = s->first <= s->head;

        rc = log_stream_info(g->log, s->stream, &info, err);
        g->lost =
            rc == E_NOTFOUND || rc == E_GONE ||
            (rc == 0 &&
             ((info.flags & (LOG_STREAM_MOVED | LOG_STREAM_ROUTED | LOG_STREAM_CLOSED)) != 0 ||
              (read && info.first > s->head)));
        if (g->lost)
            FAIL(err, E_STATE, ERR_DATA, "it was deleted or moved while it was moved in stages");
        if (rc != 0)
            goto out;
        must(info.head >= s->head);
        s->from = s->head + 1;
        s->head = info.head;
        *more += s->head + 1 - s->from;
    }
    g->round++;
    g->reader->again = true;
out:
    return rc;
}

/* Those who write to the originals wait. */
static int
hold(struct stage *g, uint64_t us, struct log_fence **out, struct err *err)
{
    struct slice *names = streami_alloc(&g->keep, g->m->source_count * sizeof *names);

    if (names == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < g->m->source_count; i++)
        names[i] = g->m->sources[i].stream;
    return log_fence(g->log, names, g->m->source_count, us, out, err);
}

/*
 * All that there is to read but for a few events. Who writes faster than this reads is held back
 * for a part of the time, longer each time.
 */
static int
catch_up(struct stage *g, struct err *err)
{
    struct log_fence *fence = NULL;
    uint64_t          more;
    int               rc;

    TRY(streami_read_on(g->reader, err));
    TRY(streami_spill(g->reader, err));
    for (uint32_t i = 0; i < ROUNDS_MAX; i++) {
        TRY(extend(g, &more, err));
        if (i >= ROUNDS_FREE)
            TRY(hold(g, HOLD_US * i, &fence, err));
        if (more > 0) {
            TRY(streami_read_on(g->reader, err));
            TRY(streami_spill(g->reader, err));
        }
        log_unfence(g->log, fence);
        fence = NULL;
        if (more <= FEW)
            break;
    }
out:
    log_unfence(g->log, fence);
    return rc;
}

/* Behind the fence: the rest, and the commit that ends it. */
static int
end(struct stage *g, struct err *err)
{
    struct log_fence *fence = NULL;
    uint64_t          more;
    int               rc;

    TRY(hold(g, FENCE_US * g->tries, &fence, err));
    TRY(extend(g, &more, err));
    if (more > 0)
        TRY(streami_read_on(g->reader, err));
    TRY(streami_read_end(g->reader, err));
    rc = commit(g, true, err);
out:
    log_unfence(g->log, fence);
    return rc;
}

static int
go(struct stage *g, enum streami_verdict *verdict, struct err *err)
{
    int rc;

    TRY(streami_move_look(g->reader, g->m, verdict, err));
    if (*verdict != STREAMI_MOVE)
        goto out;
    TRY(log_stage_open(g->log, &g->open, err));
    TRY(streami_read_begin(g->reader, err));
    TRY(catch_up(g, err));
    rc = end(g, err);
out:
    streami_let_go(g->m);
    g->lost = g->lost || g->reader->stale ||
              (rc != 0 && g->reader->run != NULL && transform_again(g->reader->run, rc));
    return rc;
}

/* One try. Errors about the stream are in *why, with STREAMI_REFUSED. */
static int
try_once(struct streami_worker *w, struct slice stream, uint32_t tries,
         enum streami_verdict *verdict, bool *lost, struct err *why, struct err *err)
{
    struct streami_move m = {0};
    struct stage        g = {
               .w = w, .log = w->surgery->log, .reader = &w->reader, .m = &m, .tries = tries};
    uint64_t moved = w->counts.events + w->beside;
    int      rc = 0;

    err_clear(why);
    if (!streami_grow(&g.keep, &m.sources, 0, &m.source_room, sizeof *m.sources))
        return no_memory(err);
    m.sources[0] = (struct streami_source){.stream = stream};
    g.reader->arena = &g.keep;
    g.reader->bulk = &g.bulk;
    g.reader->spill = spill;
    g.reader->spill_arg = &g;
    g.reader->spill_bytes = w->gentle ? GENTLE_BYTES : STREAMI_STAGE_BYTES;
    if (g.reader->spill_bytes > g.reader->spec->commit_bytes)
        g.reader->spill_bytes = g.reader->spec->commit_bytes;
    rc = go(&g, verdict, why);
    log_stage_close(g.log, g.open);
    *lost = rc != 0 && g.lost;
    if (rc != 0 || *verdict != STREAMI_MOVE)
        w->paced = moved < w->paced ? moved : w->paced;
    if (rc == 0 && *verdict == STREAMI_MOVE) {
        w->counts.streams++;
        w->counts.events += m.sources[0].events;
        w->counts.copies += m.copies;
    } else if (rc == E_NOTFOUND || rc == E_GONE) {
        *verdict = STREAMI_SKIP; /* deleted meanwhile */
        rc = 0;
    } else if (rc != 0 && (*lost || rc == E_EXISTS || streami_about_stream(rc, why))) {
        *verdict = STREAMI_REFUSED;
        rc = 0;
    } else if (rc != 0) {
        err_copy(err, why);
    }
    show_end(w);
    g.reader->arena = g.reader->bulk = &w->arena;
    g.reader->spill = NULL;
    streami_arena_fini(&g.keep);
    streami_arena_fini(&g.bulk);
    return rc;
}

int
streami_stages(struct streami_worker *w, struct slice stream, struct err *err)
{
    enum streami_verdict verdict = STREAMI_SKIP;
    struct err           why;
    bool                 lost = true;
    int                  rc = 0;

    for (uint32_t i = 0; i < TRIES && lost; i++) {
        w->counts.lost += i > 0;
        TRY(try_once(w, stream, i + 1, &verdict, &lost, &why, err));
        if (lost)
            TRY(streami_rest(w, 0, err));
    }
    if (verdict == STREAMI_SKIP) {
        w->counts.skipped++;
    } else if (verdict == STREAMI_REFUSED) {
        w->counts.parked++;
        rc = streami_park(w->surgery, stream, &why, err);
    }
out:
    return rc;
}
