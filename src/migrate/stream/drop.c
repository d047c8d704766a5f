/*
 * The originals of what was moved are hidden, but for the event that says where they went. Where a
 * condition named what was moved, the rest comes again behind the originals, as a rewrite in
 * place: the stream ends with the same StreamMovedTo once more, and readers and scavenge find the
 * first one as the last version that the mark names.
 */
#include "base/bytes.h"
#include "migrate/stream/stream_int.h"

struct drop {
    struct streami_worker *w;
    struct log_stream      info;
    struct streami_again   rest;
    struct log_new_event   moved; /* the event that says where it went */
};

static int
no_memory(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a stream's rest");
}

static int
truncate_at(struct drop *d, struct err *err)
{
    struct log_change c = {.stream = d->info.name,
                           .expected = LOG_EXISTS,
                           .what = LOG_SET_TRUNCATE,
                           .truncate = d->info.moved};
    struct log_req    req = {.changes = &c, .change_count = 1, .flags = LOG_BULK};
    int               rc = log_append(d->w->surgery->log, &req);

    if (rc != 0)
        err_copy(err, &req.err);
    return rc;
}

/* What the condition does not name, and the mark at the end. *done: the rest came again before. */
static int
read_rest(struct drop *d, bool *done, struct err *err)
{
    struct streami_arena  *a = &d->w->arena;
    struct streami_reader *r = &d->w->reader;
    struct log_read        read = {.stream = d->info.name, .from = d->info.first, .sealed = true};
    struct log_iter       *it = NULL;
    struct log_event       e;
    uint64_t               first, last;
    bool                   named;
    int                    rc;

    *done = false;
    TRY(log_iter_open(r->log, &read, &it, err));
    while ((rc = streami_next(it, &e, err)) == 0 && e.version < d->info.moved && !*done) {
        *done = e.version == d->info.first &&
                streami_range_of(&e, r->spec->name, &r->text, &first, &last) &&
                slice_eq(buf_slice(&r->text), d->info.name);
        if (*done || streami_is_mark(e.type, e.data, NULL))
            continue;
        TRY(streami_is_named(r, &e, &named, err));
        if (!named)
            TRY(streami_again_add(a, &d->rest, &e, err));
    }
    if (rc != 0)
        goto out;
    d->moved = (struct log_new_event){
        .type = slice_str(LOG_MOVED_TYPE), .data = streami_keep(a, e.data), .flags = LOG_JSON};
    if (d->moved.data.data == NULL)
        rc = no_memory(err);
out:
    log_iter_close(it);
    return rc;
}

static int
put_rest(struct drop *d, struct err *err)
{
    struct streami_arena *a = &d->w->arena;
    struct log_new_event *events = streami_alloc(a, (d->rest.count + 2u) * sizeof *events);
    struct streami_source s = {
        .stream = d->info.name, .first = d->info.first, .head = d->info.moved};
    struct log_change c = {.stream = d->info.name,
                           .expected = LOG_EXISTS,
                           .what = LOG_SET_TRUNCATE | LOG_SET_MOVED,
                           .truncate = d->info.head + 1};
    struct log_write  w = {.stream = d->info.name,
                           .expected = (int64_t)d->info.head,
                           .events = events,
                           .count = d->rest.count + 2};
    struct log_req    req = {.writes = &w,
                             .write_count = 1,
                             .changes = &c,
                             .change_count = 1,
                             .flags = LOG_BULK | LOG_MOVED_OK};
    int               rc;

    if (events == NULL)
        return no_memory(err);
    TRY(streami_range_event(a, d->w->surgery->spec, STREAM_MIGRATED_TYPE, &s, &events[0], err));
    for (uint32_t i = 0; i < d->rest.count; i++)
        events[i + 1] = d->rest.outs[i].event;
    TRY(streami_moved_again(a, d->w->surgery->spec, d->info.name, d->info.moved, &d->moved,
                            &events[d->rest.count + 1], err));
    rc = log_append(d->w->surgery->log, &req);
    if (rc != 0)
        err_copy(err, &req.err);
out:
    return rc;
}

static int
drop_one(struct streami_worker *w, struct slice name, struct err *err)
{
    struct drop d = {.w = w};
    bool        here = false, done = false;
    uint64_t    events = 0;
    int         rc;

    streami_reset(&w->arena);
    rc = log_stream_info(w->surgery->log, name, &d.info, err);
    if (rc == E_NOTFOUND || rc == E_GONE)
        return 0;
    if (rc == 0 && (d.info.flags & LOG_STREAM_MOVED) != 0)
        rc = streami_moved_here(&w->reader, &d.info, &here, &events, err);
    if (rc != 0 || !here || d.info.first >= d.info.moved)
        return rc;
    if (w->surgery->spec->where != NULL)
        TRY(read_rest(&d, &done, err));
    if (done)
        goto out;
    TRY(d.rest.count > 0 ? put_rest(&d, err) : truncate_at(&d, err));
    w->counts.streams++;
    w->counts.events += d.info.moved - d.info.first - d.rest.count;
    w->counts.copies += d.rest.count;
out:
    return rc;
}

int
streami_drop_names(struct streami_worker *w, struct err *err)
{
    int rc = 0;

    for (size_t at = 0; at < w->names.len;) {
        struct slice name = slice_of(w->names.data + at + 2, get_u16(w->names.data + at));
        struct err   why;

        at += 2 + name.len;
        w->counts.seen++;
        rc = drop_one(w, name, &why);
        if (rc == E_NOTFOUND || rc == E_GONE || rc == E_WRONG_VERSION) {
            rc = 0; /* deleted meanwhile */
        } else if (rc != 0 && (rc == E_REJECTED || streami_about_stream(rc, &why))) {
            w->counts.parked++;
            TRY(streami_park(w->surgery, name, &why, err));
        } else if (rc != 0) {
            err_copy(err, &why);
            goto out;
        }
    }
out:
    streami_reset(&w->arena);
    return rc;
}
