/*
 * Moves into commits: many streams in one, each wholly in it. Who lost against
 * a writer is taken out, and the rest is tried again.
 */
#include <inttypes.h>

#include "base/json.h"
#include "migrate/stream/stream_int.h"

/* One commit being put together; all of it is in the arena. */
struct plan {
    struct streami_batch *b;
    struct log_write     *writes;
    struct log_change    *changes;
    struct log_check     *checks;
    uint32_t             *order;
    uint32_t              write_count, change_count, check_count, order_count;
};

static int
no_memory(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a commit");
}

/* the move's own events */

static int
mark_event(struct streami_arena *a, const struct streami_spec *spec, const char *type,
           struct slice stream, struct buf *data, struct log_new_event *out, struct err *err)
{
    struct buf id = {0};

    buf_add_str(&id, spec->name);
    buf_add_byte(&id, '\0');
    buf_add_str(&id, type);
    buf_add_byte(&id, '\0');
    buf_add_slice(&id, stream);
    buf_add_byte(&id, '\0');
    buf_add_slice(&id, buf_slice(data));
    *out = (struct log_new_event){.id = id_of_bytes(buf_slice(&id)),
                                  .type = slice_str(type),
                                  .data = streami_keep(a, buf_slice(data)),
                                  .flags = LOG_JSON};
    if (out->data.data == NULL || id.failed || data->failed)
        (void)no_memory(err);
    buf_fini(&id);
    buf_fini(data);
    return out->data.data == NULL ? E_NOMEM : 0;
}

static void
put_surgery(struct buf *data, const struct streami_spec *spec)
{
    buf_add_str(data, ",\"surgery\":\"");
    buf_add_str(data, spec->name);
    buf_add_str(data, "\"}");
}

static void
put_range(struct buf *data, const struct streami_source *s)
{
    buf_add_str(data, "{\"stream\":");
    json_put_string(data, s->stream);
    buf_add_str(data, ",\"first\":");
    buf_add_u64(data, s->first);
    buf_add_str(data, ",\"last\":");
    buf_add_u64(data, s->head);
}

int
streami_range_event(struct streami_arena *a, const struct streami_spec *spec, const char *type,
                    const struct streami_source *s, struct log_new_event *out, struct err *err)
{
    struct buf data = {0};

    put_range(&data, s);
    put_surgery(&data, spec);
    return mark_event(a, spec, type, s->stream, &data, out, err);
}

int
streami_back_event(struct streami_arena *a, const struct streami_spec *spec,
                   const struct streami_source *s, struct log_new_event *out, struct err *err)
{
    struct buf data = {0};

    put_range(&data, s);
    buf_add_str(&data, ",\"rollback\":true");
    put_surgery(&data, spec);
    return mark_event(a, spec, STREAM_MIGRATED_TYPE, s->stream, &data, out, err);
}

int
streami_moved_event(struct streami_arena *a, const struct streami_spec *spec,
                    const struct streami_move *m, uint32_t source, struct log_new_event *out,
                    struct err *err)
{
    struct buf data = {0};

    buf_add_str(&data, "{\"streams\":[");
    for (uint32_t i = 0; i < m->target_count; i++) {
        if (i > 0)
            buf_add_byte(&data, ',');
        json_put_string(&data, m->targets[i].stream);
    }
    buf_add_str(&data, "],\"reason\":");
    json_put_str(&data, spec->reason == NULL ? spec->word : spec->reason);
    if (m->routed)
        buf_printf(&data, ",\"first\":%" PRIu64 ",\"routed\":true", m->sources[source].first);
    if (m->staged != 0)
        buf_printf(&data, ",\"first\":%" PRIu64 ",\"staged\":%" PRIu64, m->sources[source].first,
                   m->staged);
    put_surgery(&data, spec);
    return mark_event(a, spec, LOG_MOVED_TYPE, m->sources[source].stream, &data, out, err);
}

int
streami_moved_again(struct streami_arena *a, const struct streami_spec *spec, struct slice stream,
                    uint64_t version, const struct log_new_event *was, struct log_new_event *out,
                    struct err *err)
{
    struct buf data = {0};

    buf_printf(&data, "{\"again\":%" PRIu64, version);
    if (was->data.len > 2)
        buf_add_byte(&data, ',');
    buf_add(&data, (const char *)was->data.data + 1, was->data.len - 1);
    return mark_event(a, spec, LOG_MOVED_TYPE, stream, &data, out, err);
}

/* one move's part */

static int
add_write(struct plan *p, struct slice stream, int64_t expected, uint32_t room,
          struct log_new_event **events, struct err *err)
{
    *events = streami_alloc(p->b->arena, room * sizeof **events);
    if (*events == NULL)
        return no_memory(err);
    p->writes[p->write_count++] =
        (struct log_write){.stream = stream, .expected = expected, .events = *events};
    return 0;
}

/* The next event of a write, in the commit's order. */
static struct log_new_event *
next_event(struct plan *p, uint32_t write, struct log_new_event *events)
{
    p->order[p->order_count++] = write;
    return &events[p->writes[write].count++];
}

static void
add_change(struct plan *p, const struct streami_source *s, uint32_t what, uint64_t truncate)
{
    p->changes[p->change_count++] = (struct log_change){
        .stream = s->stream, .expected = LOG_ANY, .what = what, .truncate = truncate};
    /* Deleted meanwhile? Its head would not say so. */
    p->checks[p->check_count++] = (struct log_check){.stream = s->stream, .expected = LOG_EXISTS};
}

static void
add_copies(struct plan *p, const struct streami_move *m, uint32_t target, uint32_t write,
           struct log_new_event *events)
{
    for (uint32_t i = 0; i < m->out_count; i++)
        if (m->outs[i].target == target)
            *next_event(p, write, events) = m->outs[i].event;
}

static int
add_rewrite(struct plan *p, const struct streami_move *m, struct err *err)
{
    const struct streami_spec   *spec = p->b->spec;
    const struct streami_source *s = &m->sources[0];
    struct log_new_event        *events;
    uint32_t                     write = p->write_count;
    int                          rc;

    TRY(add_write(p, s->stream, (int64_t)s->head, m->out_count + 2, &events, err));
    if (s->invalid)
        TRY(streami_range_event(p->b->arena, spec, STREAM_INVALID_TYPE, s,
                                next_event(p, write, events), err));
    TRY(streami_range_event(p->b->arena, spec, STREAM_MIGRATED_TYPE, s,
                            next_event(p, write, events), err));
    add_copies(p, m, 0, write, events);
    add_change(p, s, LOG_SET_TRUNCATE, s->head + 1 + s->invalid);
out:
    return rc;
}

static int
add_targets(struct plan *p, const struct streami_move *m, struct err *err)
{
    struct log_new_event *events;
    int                   rc = 0;

    for (uint32_t t = 0; t < m->target_count; t++) {
        uint32_t write = p->write_count;

        TRY(add_write(p, m->targets[t].stream, LOG_NO_STREAM, m->targets[t].count + m->source_count,
                      &events, err));
        for (uint32_t i = 0; i < m->source_count; i++)
            TRY(streami_range_event(p->b->arena, p->b->spec, STREAM_MIGRATED_TYPE, &m->sources[i],
                                    next_event(p, write, events), err));
        add_copies(p, m, t, write, events);
    }
out:
    return rc;
}

/* One more change of a stream, and what its metadata says then. */
static int
add_route(struct plan *p, struct slice stream, uint32_t what, const struct streami_route *route,
          struct err *err)
{
    struct log_new_event *event;
    uint32_t              write = p->write_count;
    int                   rc;

    p->changes[p->change_count++] =
        (struct log_change){.stream = stream, .expected = LOG_ANY, .what = what};
    TRY(add_write(p, route->stream, route->version, 1, &event, err));
    rc = streami_route_event(p->b->arena, route, route->doc, next_event(p, write, event), err);
out:
    return rc;
}

/* The move stands in the head and the metadata: the old name goes on as it is. */
static int
add_routed(struct plan *p, const struct streami_move *m, struct err *err)
{
    struct streami_arena        *a = p->b->arena;
    const struct streami_source *s = &m->sources[0];
    struct streami_route         route = s->route;
    int                          rc = 0;

    must(m->source_count == 1);
    p->checks[p->check_count++] = (struct log_check){s->stream, (int64_t)s->head};
    p->checks[p->check_count++] = (struct log_check){s->stream, LOG_EXISTS};
    TRY(add_targets(p, m, err));
    route.surgery = slice_str(p->b->spec->name);
    route.to = (struct streami_names){0};
    for (uint32_t t = 0; t < m->target_count; t++) {
        struct streami_route to = m->targets[t].route;

        TRY(streami_route_add(a, &route.to, m->targets[t].stream, err));
        to.from = (struct streami_names){0};
        TRY(streami_route_add(a, &to.from, s->stream, err));
        TRY(add_route(p, m->targets[t].stream, LOG_SET_FED, &to, err));
    }
    rc = add_route(p, s->stream, LOG_SET_ROUTED, &route, err);
out:
    return rc;
}

static int
add_move(struct plan *p, const struct streami_move *m, struct err *err)
{
    const struct streami_spec *spec = p->b->spec;
    struct log_new_event     **own;
    uint32_t                   first = p->write_count;
    int                        rc = 0;

    if (spec->kind == STREAMI_REWRITE)
        return add_rewrite(p, m, err);
    if (spec->route)
        return add_routed(p, m, err);
    own = streami_alloc(p->b->arena, m->source_count * sizeof(void *));
    if (own == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < m->source_count; i++) {
        const struct streami_source *s = &m->sources[i];

        TRY(add_write(p, s->stream, (int64_t)s->head, 2, &own[i], err));
        if (s->invalid)
            TRY(streami_range_event(p->b->arena, spec, STREAM_INVALID_TYPE, s,
                                    next_event(p, first + i, own[i]), err));
        add_change(p, s, LOG_SET_MOVED, 0);
    }
    TRY(add_targets(p, m, err));
    for (uint32_t i = 0; i < m->source_count; i++)
        TRY(streami_moved_event(p->b->arena, spec, m, i, next_event(p, first + i, own[i]), err));
out:
    return rc;
}

static int
make_plan(struct plan *p, const struct streami_move *moves, struct err *err)
{
    size_t writes = 0, changes = 0, events = 0;
    int    rc = 0;

    for (const struct streami_move *m = moves; m != NULL; m = m->next) {
        writes += m->source_count + m->target_count;
        changes += m->source_count;
        events += m->out_count + (size_t)m->source_count * (2 + m->target_count);
        if (p->b->spec->route) { /* and the metadata of each */
            writes += m->target_count;
            changes += m->target_count + 1u;
            events += m->target_count;
        }
    }
    p->writes = streami_alloc(p->b->arena, writes * sizeof *p->writes);
    p->changes = streami_alloc(p->b->arena, changes * sizeof *p->changes);
    p->checks = streami_alloc(p->b->arena, changes * sizeof *p->checks);
    p->order = streami_alloc(p->b->arena, events * sizeof *p->order);
    if (p->writes == NULL || p->changes == NULL || p->checks == NULL || p->order == NULL)
        return no_memory(err);
    for (const struct streami_move *m = moves; m != NULL; m = m->next)
        TRY(add_move(p, m, err));
out:
    return rc;
}

/* what the log said */

/* Takes the move out that has the stream; *source: as one of its sources. */
static struct streami_move *
take_out(struct streami_move **list, struct slice stream, bool *source)
{
    for (struct streami_move **at = list; *at != NULL; at = &(*at)->next) {
        struct streami_move *m = *at;
        bool                 here = false;

        *source = false;
        for (uint32_t i = 0; i < m->source_count && !here; i++)
            here = *source = slice_eq(m->sources[i].stream, stream);
        for (uint32_t i = 0; i < m->target_count && !here; i++)
            here = slice_eq(m->targets[i].stream, stream);
        if (here) {
            *at = m->next;
            m->next = NULL;
            return m;
        }
    }
    return NULL;
}

static void
refuse(struct streami_batch *b, struct streami_move *m, const struct err *why)
{
    m->next = b->refused;
    b->refused = m;
    b->why = *why;
}

/* One of the moves is the reason. False: it is none of theirs. */
static bool
blame(struct streami_batch *b, struct streami_move **moves, const struct log_req *req)
{
    struct streami_move *m;
    struct err           why;
    bool                 source;

    if (req->rc != E_WRONG_VERSION && req->rc != E_GONE && req->rc != E_MOVED)
        return false;
    m = take_out(moves, req->wrong_stream, &source);
    if (m == NULL && slice_starts(req->wrong_stream, slice_str("$$"))) {
        /* Its routing or the rest of its metadata is another by now. */
        m = take_out(moves,
                     slice_of((const char *)req->wrong_stream.data + 2, req->wrong_stream.len - 2),
                     &source);
        source = true;
    }
    if (m == NULL)
        return false;
    if (source) {
        m->losses++;
        m->next = b->lost;
        b->lost = m;
        return true;
    }
    err_copy(&why, &req->err);
    if (req->rc == E_WRONG_VERSION)
        (void)err_set(&why, __FILE__, __LINE__, E_EXISTS, ERR_DATA,
                      "its target \"%.*s\" is there already", SLICE_FMT(req->wrong_stream));
    refuse(b, m, &why);
    return true;
}

static int
commit_list(struct streami_batch *b, struct streami_move *moves, struct err *err)
{
    int rc = 0;

    while (moves != NULL) {
        struct plan    p = {.b = b};
        struct log_req req;

        TRY(make_plan(&p, moves, err));
        req = (struct log_req){.writes = p.writes,
                               .write_count = p.write_count,
                               .changes = p.changes,
                               .change_count = p.change_count,
                               .checks = p.checks,
                               .check_count = p.check_count,
                               .order = p.order,
                               .flags = LOG_BULK | LOG_FENCED_OK | (b->gentle ? LOG_GENTLE : 0)};
        rc = log_append(b->log, &req);
        if (rc == 0) {
            while (moves != NULL) {
                struct streami_move *m = moves;

                moves = m->next;
                m->next = b->done;
                b->done = m;
            }
            break;
        }
        if (blame(b, &moves, &req)) {
            rc = 0;
            continue;
        }
        if (req.err.kind != ERR_DATA) {
            err_copy(err, &req.err);
            goto out;
        }
        if (moves->next == NULL) { /* too large, or a name that no stream may have */
            refuse(b, moves, &req.err);
            rc = 0;
            break;
        }
        /* Two of them have a stream in common, or they are too much together. */
        while (moves != NULL) {
            struct streami_move *m = moves;

            moves = m->next;
            m->next = NULL;
            TRY(commit_list(b, m, err));
        }
    }
out:
    return rc;
}

int
streami_commit(struct streami_batch *b, struct err *err)
{
    struct streami_move *moves = b->moves;

    b->moves = b->done = b->lost = b->refused = NULL;
    err_clear(&b->why);
    return commit_list(b, moves, err);
}
