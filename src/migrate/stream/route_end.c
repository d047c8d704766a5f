/*
 * The end of a stream's routing, in one commit: closed, the old name is moved for good; moved back,
 * the new ones are. Nothing is copied for it: all events stand in both, or a link does.
 */
#include "log/copied.h"
#include "migrate/stream/stream_int.h"

#define TRIES 1000

struct end_target {
    struct slice         stream;
    struct streami_route route;
    struct log_stream    info;
};

struct end {
    struct streami_worker *w;
    struct slice           stream;
    struct streami_route   route;
    struct log_stream      info;
    struct end_target     *targets; /* those that are there */
    uint32_t               target_count;
    struct log_write      *writes;
    struct log_change     *changes;
    uint32_t               write_count, change_count;
};

static int
no_memory(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the end of a routing");
}

static int
gather(struct end *e, struct err *err)
{
    struct streami_worker *w = e->w;
    struct log            *log = w->surgery->log;
    int                    rc = 0;

    e->targets = streami_alloc(&w->arena, (e->route.to.count + (size_t)1) * sizeof *e->targets);
    if (e->targets == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < e->route.to.count; i++) {
        struct end_target *t = &e->targets[e->target_count];

        *t = (struct end_target){.stream = e->route.to.list[i]};
        rc = streami_route_read(log, &w->arena, t->stream, &t->route, err);
        if (rc == 0)
            rc = log_stream_info(log, t->stream, &t->info, err);
        if (rc == 0)
            e->target_count++;
        else if (rc != E_NOTFOUND && rc != E_GONE)
            return rc;
    }
    return 0;
}

/* commits */

static int
put_event(struct end *e, struct slice stream, int64_t expected, const struct log_new_event *event,
          struct err *err)
{
    struct log_new_event *own = streami_alloc(&e->w->arena, sizeof *own);

    if (own == NULL)
        return no_memory(err);
    *own = *event;
    e->writes[e->write_count++] =
        (struct log_write){.stream = stream, .expected = expected, .events = own, .count = 1};
    return 0;
}

static int
put_route(struct end *e, const struct streami_route *r, struct err *err)
{
    struct log_new_event event;
    int                  rc;

    TRY(streami_route_event(&e->w->arena, r, r->doc, &event, err));
    rc = put_event(e, r->stream, r->version, &event, err);
out:
    return rc;
}

/* StreamMovedTo for `from`, which went to `to`. first: of the old name, what of it has copies. */
static int
put_moved(struct end *e, struct slice from, uint64_t head, const uint64_t *first,
          const struct slice *to, uint32_t count, struct err *err)
{
    struct streami_arena     *a = &e->w->arena;
    struct streami_target_of *targets = streami_alloc(a, count * sizeof *targets);
    struct streami_source     source = {.stream = from, .first = first == NULL ? 0 : *first};
    struct streami_move       m = {.sources = &source,
                                   .source_count = 1,
                                   .targets = targets,
                                   .target_count = count,
                                   .routed = first != NULL};
    struct log_new_event      event;
    int                       rc;

    if (targets == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < count; i++)
        targets[i] = (struct streami_target_of){.stream = to[i]};
    TRY(streami_moved_event(a, e->w->surgery->spec, &m, 0, &event, err));
    rc = put_event(e, from, (int64_t)head, &event, err);
out:
    return rc;
}

static void
put_change(struct end *e, struct slice stream, uint32_t what)
{
    e->changes[e->change_count++] =
        (struct log_change){.stream = stream, .expected = LOG_ANY, .what = what};
}

/* The old name is closed. */
static int
put_close(struct end *e, struct err *err)
{
    struct slice *names =
        streami_alloc(&e->w->arena, (e->target_count + (size_t)1) * sizeof *names);
    int rc = 0;

    if (names == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < e->target_count; i++) {
        struct end_target *t = &e->targets[i];

        names[i] = t->stream;
        if (t->route.from.count == 0)
            put_change(e, t->stream, LOG_SET_UNFED);
        TRY(put_route(e, &t->route, err));
    }
    if (e->target_count > 0)
        TRY(put_moved(e, e->stream, e->info.head, &e->info.first, names, e->target_count, err));
    put_change(e, e->stream, e->target_count > 0 ? LOG_SET_MOVED : LOG_SET_UNMOVED);
    rc = put_route(e, &e->route, err);
out:
    return rc;
}

static int
refuse(const struct end_target *t, const char *why, struct err *err)
{
    RETURN_ERR(err, E_REJECTED, ERR_DATA, "its target \"%.*s\" %s", SLICE_FMT(t->stream), why);
}

/* Does the old name have all that the target has? */
static int
is_whole(struct end *e, const struct end_target *t, struct err *err)
{
    struct log_read  read = {.stream = t->stream, .raw = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    bool             ours = false;
    int              rc;

    TRY(log_iter_open(e->w->surgery->log, &read, &it, err));
    rc = log_iter_next(it, &ev, err);
    if (rc == 0)
        ours = log_copied_from(ev.meta, NULL, NULL, NULL) > 0 ||
               streami_is_mark(ev.type, ev.data, e->w->surgery->spec->name);
    else if (rc == E_END)
        rc = 0;
    if (rc == 0 && !ours)
        rc = refuse(t, "was there before: what it had then the old name has not", err);
out:
    log_iter_close(it);
    return rc;
}

/* The new names are closed. */
static int
put_back(struct end *e, struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < e->target_count; i++) {
        struct end_target *t = &e->targets[i];

        if (t->route.from.count > 0)
            return refuse(t, "takes copies of others too", err);
        if ((t->info.flags & (LOG_STREAM_MOVED | LOG_STREAM_ROUTED)) != 0)
            return refuse(t, "was moved on", err);
        if ((t->info.flags & LOG_STREAM_CLOSED) != 0)
            return refuse(t, "is closed", err);
        TRY(is_whole(e, t, err));
        TRY(put_moved(e, t->stream, t->info.head, NULL, &e->stream, 1, err));
        put_change(e, t->stream, LOG_SET_MOVED | LOG_SET_UNFED);
        TRY(put_route(e, &t->route, err));
    }
    put_change(e, e->stream, LOG_SET_UNMOVED);
    rc = put_route(e, &e->route, err);
out:
    return rc;
}

static int
commit(struct end *e, bool back, bool *again, struct err *err)
{
    struct streami_arena *a = &e->w->arena;
    size_t                most = 2 * ((size_t)e->target_count + 1);
    struct log_req        req;
    int                   rc;

    e->writes = streami_alloc(a, most * sizeof *e->writes);
    e->changes = streami_alloc(a, most * sizeof *e->changes);
    if (e->writes == NULL || e->changes == NULL)
        return no_memory(err);
    e->route.surgery = slice_of(NULL, 0);
    e->route.to.count = 0;
    for (uint32_t i = 0; i < e->target_count; i++)
        streami_route_drop(&e->targets[i].route.from, e->stream);
    rc = back ? put_back(e, err) : put_close(e, err);
    if (rc != 0)
        return rc;
    req = (struct log_req){.writes = e->writes,
                           .write_count = e->write_count,
                           .changes = e->changes,
                           .change_count = e->change_count,
                           .flags = LOG_BULK | LOG_MOVED_OK};
    rc = log_append(e->w->surgery->log, &req);
    *again = rc == E_WRONG_VERSION;
    if (rc != 0 && !*again)
        err_copy(err, &req.err);
    return *again ? 0 : rc;
}

/* One try. *done: it is decided, or is none of ours. */
static int
try_end(struct streami_worker *w, struct slice stream, bool back, bool *done,
        struct streami_counts *counts, struct err *err)
{
    struct log *log = w->surgery->log;
    struct end  e = {.w = w, .stream = stream};
    bool        again = false;
    int         rc;

    *done = true;
    streami_reset(&w->arena);
    if (stream.len + 2 > LOG_NAME_MAX)
        return 0;
    TRY(streami_route_read(log, &w->arena, stream, &e.route, err));
    rc = log_stream_info(log, stream, &e.info, err);
    if (rc == E_NOTFOUND || rc == E_GONE)
        return 0;
    if (rc != 0 || (e.info.flags & LOG_STREAM_ROUTED) == 0 ||
        !slice_is(e.route.surgery, w->surgery->spec->name))
        goto out;
    TRY(gather(&e, err));
    TRY(commit(&e, back, &again, err));
    *done = !again;
    counts->streams += *done;
out:
    return rc;
}

int
streami_route_end(struct streami_worker *w, struct slice stream, bool back,
                  struct streami_counts *counts, struct err *err)
{
    bool done = false;
    int  rc = 0;

    for (int i = 0; i < TRIES && !done && rc == 0; i++)
        rc = try_end(w, stream, back, &done, counts, err);
    if (rc == 0 && !done)
        rc = err_set(err, __FILE__, __LINE__, E_REJECTED, ERR_DATA,
                     "it was written to each time that its routing was to end");
    if (rc != 0 && err->kind == ERR_DATA) {
        struct err why = *err;

        counts->parked++;
        rc = streami_park(w->surgery, stream, &why, err);
    }
    return rc;
}
