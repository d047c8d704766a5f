/*
 * Moving back: the original takes events again, with copies of what the targets
 * got since; the targets are moved to it. One commit for each move.
 */
#include <stdlib.h>

#include "base/json.h"
#include "migrate/stream/stream_int.h"

#define TRIES 1000

struct part {
    struct slice stream;
    uint64_t     head, first_new; /* first_new > head: nothing new */
};

struct back {
    struct streami_worker *w;
    struct log            *log;
    struct streami_arena  *arena;
    struct slice           stream;
    struct log_stream      info;
    struct log_pos         moved_at;
    struct part           *parts; /* the targets */
    uint32_t               part_count, part_room;
    struct slice          *sources; /* a join's, all of them */
    uint32_t               source_count, source_room;
    struct streami_again   news;
    struct buf             text;
};

static int
no_memory(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a way back");
}

static int
refuse(struct back *b, struct slice target, const char *why, struct err *err)
{
    (void)b;
    RETURN_ERR(err, E_REJECTED, ERR_DATA, "its target \"%.*s\" %s", SLICE_FMT(target), why);
}

int
streami_again_add(struct streami_arena *a, struct streami_again *to, const struct log_event *e,
                  struct err *err)
{
    struct streami_out *o;
    struct buf          list = {0}, meta = {0}, rest = {0};
    struct slice        own;
    int                 rc;

    if (!streami_grow(a, &to->outs, to->count, &to->room, sizeof *to->outs))
        return no_memory(err);
    o = &to->outs[to->count];
    TRY(streami_origin(e, &list, &rest, &own, err));
    rc = streami_copied(own, buf_slice(&list), &meta, err);
    if (rc == E_SCHEMA)
        rc =
            err_set(err, __FILE__, __LINE__, E_REJECTED, ERR_DATA,
                    "\"%.*s\" has an event whose metadata is no JSON object", SLICE_FMT(e->stream));
    if (rc != 0)
        goto out;
    *o = (struct streami_out){
        .pos = e->pos.v,
        .event = {.id = e->id,
                  .type = streami_keep(a, e->type),
                  .data = streami_keep(a, e->data),
                  .meta = streami_keep(a, buf_slice(&meta)),
                  .created_us = e->created_us,
                  .flags = e->flags & (uint32_t)(LOG_JSON | LOG_LINK | LOG_SEALED)}};
    if (o->event.type.data == NULL || o->event.data.data == NULL || o->event.meta.data == NULL)
        return no_memory(err);
    to->count++;
    to->bytes += STREAMI_EVENT_OVERHEAD + e->stream.len + e->type.len + e->data.len + meta.len;
    if (to->bytes > STREAMI_MOVE_MAX)
        FAIL(err, E_REJECTED, ERR_DATA,
             "\"%.*s\" has more than the %llu MiB that one commit may bring back",
             SLICE_FMT(e->stream), (unsigned long long)STREAMI_MOVE_MAX >> 20);
out:
    buf_fini(&list);
    buf_fini(&rest);
    buf_fini(&meta);
    return rc;
}

static int
add_source(struct back *b, struct slice name, struct err *err)
{
    for (uint32_t i = 0; i < b->source_count; i++)
        if (slice_eq(b->sources[i], name))
            return 0;
    if (!streami_grow(b->arena, &b->sources, b->source_count, &b->source_room, sizeof *b->sources))
        return no_memory(err);
    b->sources[b->source_count] = streami_keep(b->arena, name);
    return b->sources[b->source_count++].data == NULL ? no_memory(err) : 0;
}

/* Its marks, and what came to it after the move. */
static int
read_target(struct back *b, struct part *p, struct err *err)
{
    struct log_read  read = {.stream = p->stream, .sealed = true};
    struct log_iter *it = NULL;
    struct log_event e;
    uint64_t         first, last;
    int              rc;

    TRY(log_iter_open(b->log, &read, &it, err));
    while ((rc = log_iter_next(it, &e, err)) == 0 && e.version <= p->head) {
        if (e.pos.v < b->moved_at.v) {
            if (streami_range_of(&e, b->w->surgery->spec->name, &b->text, &first, &last))
                TRY(add_source(b, buf_slice(&b->text), err));
            continue;
        }
        if (p->first_new > p->head)
            p->first_new = e.version;
        if (!streami_is_mark(e.type, e.data, NULL))
            TRY(streami_again_add(b->arena, &b->news, &e, err));
    }
    if (rc == E_END)
        rc = 0;
out:
    log_iter_close(it);
    return rc;
}

static int
add_part(struct back *b, struct slice name, struct err *err)
{
    struct log_stream info;
    struct part      *p;
    int               rc;

    rc = log_stream_info(b->log, name, &info, err);
    if (rc == E_NOTFOUND || rc == E_GONE)
        return refuse(b, name, "was deleted", err);
    if (rc != 0)
        return rc;
    if ((info.flags & (LOG_STREAM_MOVED | LOG_STREAM_ROUTED)) != 0)
        return refuse(b, name, "was moved on", err);
    if ((info.flags & LOG_STREAM_CLOSED) != 0)
        return refuse(b, name, "is closed", err);
    if (!streami_grow(b->arena, &b->parts, b->part_count, &b->part_room, sizeof *b->parts))
        return no_memory(err);
    p = &b->parts[b->part_count++];
    *p = (struct part){streami_keep(b->arena, name), info.head, info.head + 1};
    if (p->stream.data == NULL)
        return no_memory(err);
    return read_target(b, p, err);
}

static int
gather(struct back *b, struct err *err)
{
    struct log_read  read = {.stream = b->stream, .from = b->info.moved};
    struct log_iter *at = NULL;
    struct log_event e;
    struct json_iter it;
    struct buf       names = {0}, name = {0};
    struct slice     raw;
    int              rc;

    TRY(log_iter_open(b->log, &read, &at, err));
    TRY(log_iter_next(at, &e, err));
    b->moved_at = e.pos;
    TRY(log_moved_to(b->log, b->stream, &names, err));
    TRY(json_array_iter(&it, buf_slice(&names), err));
    while ((rc = json_iter_next(&it, NULL, &raw, err)) == 0) {
        buf_clear(&name);
        TRY(json_string_decode(raw, &name, err));
        TRY(add_part(b, buf_slice(&name), err));
    }
    if (rc != E_END)
        goto out;
    rc = 0;
    if (b->source_count == 0)
        TRY(add_source(b, b->stream, err));
    if (b->source_count > 1 && b->news.count > 0)
        rc = refuse(b, b->parts[0].stream,
                    "got events since, and nobody knows which of the joined streams they are of",
                    err);
out:
    log_iter_close(at);
    buf_fini(&names);
    buf_fini(&name);
    return rc;
}

/* The commit: the targets' last events, the original's new ones, and all their states. */
struct way {
    struct log_write     *writes;
    struct log_change    *changes;
    struct log_check     *checks;
    struct log_new_event *events;
    uint32_t              write_count, change_count, check_count;
};

static int
put_targets(struct back *b, struct way *y, struct err *err)
{
    struct streami_target_of *to = streami_alloc(b->arena, b->source_count * sizeof *to);
    struct streami_source    *from = streami_alloc(b->arena, b->part_count * sizeof *from);
    struct streami_move       m = {.sources = from,
                                   .source_count = b->part_count,
                                   .targets = to,
                                   .target_count = b->source_count};
    int                       rc = 0;

    if (to == NULL || from == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < b->source_count; i++)
        to[i] = (struct streami_target_of){.stream = b->sources[i]};
    for (uint32_t i = 0; i < b->part_count; i++) {
        from[i] = (struct streami_source){
            .stream = b->parts[i].stream, .first = b->parts[i].first_new, .head = b->parts[i].head};
        TRY(streami_moved_event(b->arena, b->w->surgery->spec, &m, i, &y->events[i], err));
        y->writes[y->write_count++] = (struct log_write){.stream = b->parts[i].stream,
                                                         .expected = (int64_t)b->parts[i].head,
                                                         .events = &y->events[i],
                                                         .count = 1};
        y->changes[y->change_count++] = (struct log_change){
            .stream = b->parts[i].stream, .expected = LOG_ANY, .what = LOG_SET_MOVED};
    }
out:
    return rc;
}

static int
put_sources(struct back *b, struct way *y, struct err *err)
{
    struct log_new_event *e = &y->events[b->part_count];
    uint32_t              n = 0;
    int                   rc = 0;

    for (uint32_t i = 0; i < b->source_count; i++)
        y->changes[y->change_count++] = (struct log_change){
            .stream = b->sources[i], .expected = LOG_EXISTS, .what = LOG_SET_UNMOVED};
    y->checks[y->check_count++] =
        (struct log_check){.stream = b->stream, .expected = (int64_t)b->info.head};
    if (b->news.count == 0)
        return 0;
    for (uint32_t i = 0; i < b->part_count; i++) {
        struct streami_source s = {
            .stream = b->parts[i].stream, .first = b->parts[i].first_new, .head = b->parts[i].head};

        if (s.first <= s.head)
            TRY(streami_range_event(b->arena, b->w->surgery->spec, STREAM_MIGRATED_TYPE, &s,
                                    &e[n++], err));
    }
    for (uint32_t i = 0; i < b->news.count; i++)
        e[n++] = b->news.outs[i].event;
    y->writes[y->write_count++] = (struct log_write){
        .stream = b->stream, .expected = (int64_t)b->info.head, .events = e, .count = n};
out:
    return rc;
}

static int
by_pos(const void *a, const void *b)
{
    const struct streami_out *x = a, *y = b;

    return (x->pos > y->pos) - (x->pos < y->pos);
}

/* *again: somebody wrote meanwhile. */
static int
go_back(struct back *b, bool *again, struct err *err)
{
    struct way     y = {0};
    struct log_req req;
    size_t         streams = (size_t)b->part_count + b->source_count;
    int            rc;

    if (b->news.count > 1)
        qsort(b->news.outs, b->news.count, sizeof *b->news.outs, by_pos);
    y.writes = streami_alloc(b->arena, (streams + 1) * sizeof *y.writes);
    y.changes = streami_alloc(b->arena, streams * sizeof *y.changes);
    y.checks = streami_alloc(b->arena, sizeof *y.checks);
    y.events =
        streami_alloc(b->arena, (2 * (size_t)b->part_count + b->news.count) * sizeof *y.events);
    if (y.writes == NULL || y.changes == NULL || y.checks == NULL || y.events == NULL)
        return no_memory(err);
    TRY(put_sources(b, &y, err)); /* first, as in any move: MigratedFrom, then StreamMovedTo */
    TRY(put_targets(b, &y, err));
    req = (struct log_req){.writes = y.writes,
                           .write_count = y.write_count,
                           .changes = y.changes,
                           .change_count = y.change_count,
                           .checks = y.checks,
                           .check_count = y.check_count,
                           .flags = LOG_BULK | LOG_MOVED_OK};
    rc = log_append(b->log, &req);
    *again = rc == E_WRONG_VERSION;
    if (*again)
        rc = 0;
    else if (rc != 0)
        err_copy(err, &req.err);
out:
    return rc;
}

/* One try. *done: it is decided, or is none of ours. */
static int
try_back(struct streami_worker *w, struct slice stream, bool *done, struct streami_counts *counts,
         struct err *err)
{
    struct back b = {.w = w, .log = w->surgery->log, .arena = &w->arena, .stream = stream};
    uint64_t    events;
    bool        here = false, again = false;
    int         rc;

    *done = true;
    streami_reset(&w->arena);
    rc = log_stream_info(b.log, stream, &b.info, err);
    if (rc == E_NOTFOUND || rc == E_GONE)
        return 0;
    if (rc != 0 || (b.info.flags & LOG_STREAM_MOVED) == 0)
        return rc;
    TRY(streami_moved_here(&w->reader, &b.info, &here, &events, err));
    if (!here)
        goto out;
    TRY(gather(&b, err));
    TRY(go_back(&b, &again, err));
    *done = !again;
    if (!again) {
        counts->streams += b.source_count;
        counts->copies += b.news.count;
    }
out:
    buf_fini(&b.text);
    return rc;
}

int
streami_back(struct streami_worker *w, struct slice stream, struct streami_counts *counts,
             struct err *err)
{
    bool done = false;
    int  rc = 0;

    if (w->surgery->spec->route)
        TRY(streami_route_end(w, stream, true, counts, err));
    for (int i = 0; i < TRIES && !done && rc == 0; i++)
        rc = w->surgery->spec->kind == STREAMI_REWRITE
                 ? streami_back_here(w, stream, &done, counts, err)
                 : try_back(w, stream, &done, counts, err);
    if (rc == 0 && !done)
        rc = err_set(err, __FILE__, __LINE__, E_REJECTED, ERR_DATA,
                     "it was written to each time that it was to be moved back");
    if (rc != 0 && err->kind == ERR_DATA) {
        struct err why = *err;

        counts->parked++;
        rc = streami_park(w->surgery, stream, &why, err);
    }
out:
    return rc;
}
