/*
 * What is appended to a routed stream, or to one that a routed stream feeds, made into the commit
 * that has all of it: copies downwards, by the rules of the surgery that routed it, and links
 * upwards, into the only owner. It runs on the log's router task, one commit at a time.
 *
 * The commit checks the version of the metadata of each stream that was looked at, in which all of
 * the routing stands; so what it was made for is so when it is written.
 */
#include <stdlib.h>

#include "base/json.h"
#include "base/rfc3339.h"
#include "migrate/stream/stream_int.h"

#define SURGERIES 64u    /* whose rules are kept at hand */
#define CHAIN_MAX 16u    /* streams that one event goes through */
#define ADDED_MAX 65536u /* events that are added to one commit */
#define NONE UINT32_MAX

struct rules {
    struct streami_spec  *spec;
    struct transform_run *run;
    uint64_t              used;
};

struct expansion;

struct stream_router {
    struct ox_env              *env;
    struct log                 *log;
    struct rules                rules[SURGERIES];
    uint64_t                    uses;
    struct buf                  text, list, rest, scratch;
    _Atomic(struct expansion *) spare; /* one that is done, for its memory */
};

/* A stream of the commit. */
struct node {
    struct slice          stream;
    struct streami_route  route;
    uint32_t              flags; /* enum log_stream_flags */
    uint32_t              write; /* its number in the commit; NONE: it has none yet */
    struct log_new_event *events;
    uint32_t              count, room;
    bool                  changed, fed; /* its metadata; and its state */
    uint64_t              got;          /* the last event of the caller's whose copy it got */
};

struct expansion {
    struct stream_router *router;
    const struct log_req *in;
    struct streami_arena  arena;
    struct node         **nodes; /* in the order of their numbers, as far as they have one */
    uint32_t              node_count, node_room;
    struct node         **table; /* by name */
    uint32_t              slots;
    uint32_t             *added; /* numbers of writes, in the order of their events */
    uint32_t              added_count, added_room, write_count;
    uint64_t              number; /* of the caller's event at hand, from 1 */
};

/* Where an event stands already, from the last stream to the first. */
struct hop {
    const struct node *node;
    const struct hop  *before;
    uint32_t           depth;
};

/* An event on its way. */
struct item {
    const struct log_new_event *event;
    const struct log_place     *place; /* of the first original, where it is in this commit */
    struct slice                list;  /* what stands for it in `$copiedFrom` */
    struct slice                meta;  /* its own, without that */
    uint32_t                    version_at, pos_at; /* in the list, where `place` is used */
};

static int
no_memory(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a routed commit");
}

/* rules */

static void
rules_fini(struct rules *r)
{
    transform_run_free(r->run);
    streami_spec_free(r->spec);
    *r = (struct rules){0};
}

static int
find_rules(struct stream_router *router, struct slice surgery, struct rules **out, struct err *err)
{
    struct streami_record record = {0};
    struct rules         *r = &router->rules[0];
    struct buf            spec = {0};
    int                   rc = 0;

    for (uint32_t i = 0; i < SURGERIES; i++) {
        *out = &router->rules[i];
        if ((*out)->spec != NULL && slice_is(surgery, (*out)->spec->name)) {
            (*out)->used = ++router->uses;
            return 0;
        }
        if ((*out)->used < r->used)
            r = *out;
    }
    rules_fini(r);
    *out = r;
    TRY(streami_record_load(router->log, surgery, &spec, &record, err));
    TRY(streami_spec_new(surgery, buf_slice(&spec), &r->spec, err));
    if (r->spec->transform != NULL)
        TRY(transform_run_new(r->spec->transform, &r->run, err));
    r->used = ++router->uses;
out:
    if (rc != 0)
        rules_fini(r);
    buf_fini(&record.cursor);
    buf_fini(&spec);
    return rc;
}

/* nodes */

static uint32_t
slot_of(const struct expansion *x, struct slice stream)
{
    uint64_t h = UINT64_C(14695981039346656037);
    uint32_t at;

    for (size_t i = 0; i < stream.len; i++)
        h = (h ^ ((const uint8_t *)stream.data)[i]) * UINT64_C(1099511628211);
    at = (uint32_t)(h ^ h >> 32) & (x->slots - 1);
    while (x->table[at] != NULL && !slice_eq(x->table[at]->stream, stream))
        at = (at + 1) & (x->slots - 1);
    return at;
}

static int
grow_table(struct expansion *x, struct err *err)
{
    if (2 * (x->node_count + 1) <= x->slots)
        return 0;
    x->slots = x->slots == 0 ? 64 : 2 * x->slots;
    x->table = streami_alloc(&x->arena, x->slots * sizeof(void *));
    if (x->table == NULL)
        return no_memory(err);
    memset(x->table, 0, x->slots * sizeof(void *));
    for (uint32_t i = 0; i < x->node_count; i++)
        x->table[slot_of(x, x->nodes[i]->stream)] = x->nodes[i];
    return 0;
}

static int
take_flags(void *arg, const struct log_stream *stream, struct err *err)
{
    struct node *n = arg;

    (void)err;
    if (slice_eq(stream->name, n->stream))
        n->flags = stream->flags;
    return E_END; /* one is enough */
}

/* The metadata first: what the state says is then of the same time or newer. */
static int
look(struct expansion *x, struct node *n, struct err *err)
{
    struct log       *log = x->router->log;
    struct log_stream info;
    int               rc = 0;

    if (n->stream.len + 2 > LOG_NAME_MAX) /* without metadata nothing is routed */
        return 0;
    TRY(streami_route_read(log, &x->arena, n->stream, &n->route, err));
    rc = log_stream_info(log, n->stream, &info, err);
    n->flags = info.flags;
    if (rc == E_GONE) {
        n->flags = LOG_STREAM_TOMBSTONE;
        rc = 0;
    } else if (rc == E_NOTFOUND) { /* a deleted one keeps what it is */
        n->flags = 0;
        rc = log_streams_all(log, n->stream, slice_str(""), take_flags, n, err);
        if (rc == E_END)
            rc = 0;
    }
out:
    return rc;
}

static int
node_of(struct expansion *x, struct slice stream, struct node **out, struct err *err)
{
    uint32_t slot;
    int      rc = 0;

    TRY(grow_table(x, err));
    slot = slot_of(x, stream);
    *out = x->table[slot];
    if (*out != NULL)
        return 0;
    *out = streami_alloc(&x->arena, sizeof **out);
    if (*out == NULL ||
        !streami_grow(&x->arena, &x->nodes, x->node_count, &x->node_room, sizeof(void *)))
        return no_memory(err);
    **out = (struct node){.stream = streami_keep(&x->arena, stream), .write = NONE};
    if ((*out)->stream.data == NULL)
        return no_memory(err);
    TRY(look(x, *out, err));
    x->table[slot] = *out;
    x->nodes[x->node_count++] = *out;
out:
    return rc;
}

/* A place for one more event of the stream. */
static int
add_event(struct expansion *x, struct node *n, struct log_new_event **out, struct err *err)
{
    if (x->added_count == ADDED_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA,
                   "stream \"%.*s\" is routed: a commit would get more "
                   "than %u events more",
                   SLICE_FMT(n->stream), ADDED_MAX);
    if (!streami_grow(&x->arena, &n->events, n->count, &n->room, sizeof *n->events) ||
        !streami_grow(&x->arena, &x->added, x->added_count, &x->added_room, sizeof *x->added))
        return no_memory(err);
    if (n->write == NONE)
        n->write = x->write_count++;
    x->added[x->added_count++] = n->write;
    *out = &n->events[n->count++];
    return 0;
}

/* downwards */

/* A copy that goes on from where it stands, when the rules are through: they may be the same. */
struct pending {
    struct node          *at;
    struct log_new_event *event; /* with the metadata that the list goes into */
};

struct going {
    struct expansion   *x;
    struct node        *from;
    const struct rules *rules;
    const struct item  *item;
    const struct hop   *hop;
    uint32_t            ordinal;
    struct pending     *pending;
    uint32_t            pending_count, pending_room;
};

static bool
stands_in(const struct hop *hop, const struct node *n)
{
    for (; hop != NULL; hop = hop->before)
        if (hop->node == n)
            return true;
    return false;
}

static int
put_copy(struct going *g, const struct transform_out *out, struct log_new_event *e, struct err *err)
{
    struct stream_router       *router = g->x->router;
    struct streami_arena       *a = &g->x->arena;
    const struct log_new_event *from = g->item->event;
    struct log_late            *late;
    int                         rc = 0;

    if ((from->flags & LOG_SEALED) != 0 && out->changed)
        FAIL(err, E_STATE, ERR_DATA,
             "an event is under a subject's key, so it can be copied but not changed");
    *e = (struct log_new_event){
        .id = out->changed ? streami_route_id(g->rules->spec, g->from->stream, &from->id,
                                              g->ordinal, &router->scratch)
                           : from->id,
        .type = streami_keep(a, out->type),
        .data = streami_keep(a, out->data),
        .created_us = from->created_us,
        .flags = (out->json ? (uint32_t)LOG_JSON : 0) |
                 (out->changed ? 0 : from->flags & (uint32_t)(LOG_LINK | LOG_SEALED | LOG_JSON))};
    buf_clear(&router->text);
    TRY(streami_copied(out->meta, g->item->list, &router->text, err));
    e->meta = streami_keep(a, buf_slice(&router->text));
    if (e->type.data == NULL || e->data.data == NULL || e->meta.data == NULL)
        return no_memory(err);
    if (g->item->place == NULL)
        goto out;
    late = streami_alloc(a, sizeof *late);
    if (late == NULL)
        return no_memory(err);
    *late = (struct log_late){
        .of = g->item->place,
        .text = streami_alloc(a, e->meta.len),
        .version_at = (uint32_t)(e->meta.len - 2 - g->item->list.len) + g->item->version_at,
        .pos_at = (uint32_t)(e->meta.len - 2 - g->item->list.len) + g->item->pos_at};
    if (late->text == NULL)
        return no_memory(err);
    memcpy(late->text, e->meta.data, e->meta.len);
    e->meta.data = late->text;
    e->late = late;
out:
    return rc;
}

/* May copies come to it? *take false: it was deleted for good, and what comes to it with it. */
static int
may_take(const struct going *g, struct node *to, bool *take, struct err *err)
{
    int rc = 0;

    *take = (to->flags & LOG_STREAM_TOMBSTONE) == 0;
    if (!*take)
        return 0;
    if ((to->flags & (LOG_STREAM_CLOSED | LOG_STREAM_MOVED | LOG_STREAM_STAGED)) != 0)
        RETURN_ERR(err, E_STATE, ERR_DATA, "its copies go to \"%.*s\", which takes no events now",
                   SLICE_FMT(to->stream));
    if (!streami_route_has(&g->from->route.to, to->stream)) {
        TRY(streami_route_add(&g->x->arena, &g->from->route.to, to->stream, err));
        g->from->changed = true;
    }
    if (!streami_route_has(&to->route.from, g->from->stream)) {
        TRY(streami_route_add(&g->x->arena, &to->route.from, g->from->stream, err));
        to->changed = to->fed = true;
    }
out:
    return rc;
}

static int
note_pending(struct going *g, struct node *at, const struct log_new_event *e, struct slice meta,
             struct err *err)
{
    struct streami_arena *a = &g->x->arena;
    struct pending       *p;

    if ((at->flags & LOG_STREAM_ROUTED) == 0)
        return 0;
    if (!streami_grow(a, &g->pending, g->pending_count, &g->pending_room, sizeof *g->pending))
        return no_memory(err);
    p = &g->pending[g->pending_count++];
    *p = (struct pending){at, streami_alloc(a, sizeof *e)};
    if (p->event == NULL)
        return no_memory(err);
    *p->event = *e;
    p->event->meta = streami_keep(a, meta);
    return p->event->meta.data == NULL ? no_memory(err) : 0;
}

static int
take_out(void *arg, const struct transform_out *out, struct err *err)
{
    struct going         *g = arg;
    struct stream_router *router = g->x->router;
    struct log_new_event *e;
    struct node          *to;
    struct slice          name = out->stream;
    bool                  take;
    int                   rc = 0;

    if (name.data == NULL) {
        TRY(streami_target(g->rules->spec, g->from->stream, &router->scratch, err));
        name = buf_slice(&router->scratch);
    }
    if (slice_eq(name, g->from->stream))
        FAIL(err, E_SCHEMA, ERR_DATA, "it would go to \"%.*s\", where it comes from",
             SLICE_FMT(name));
    TRY(log_name_check(name, false, err));
    TRY(node_of(g->x, name, &to, err));
    if (!stands_in(g->hop, to)) { /* else it has come round */
        TRY(may_take(g, to, &take, err));
        if (take) {
            TRY(add_event(g->x, to, &e, err));
            TRY(put_copy(g, out, e, err));
            to->got = g->x->number;
            TRY(note_pending(g, to, e, out->meta, err));
        }
    }
    g->ordinal++;
out:
    return rc;
}

static int
run_rules(struct going *g, struct rules *rules, struct err *err)
{
    const struct log_new_event *e = g->item->event;
    const uint64_t              origin = 0;
    int                         rc;

    g->rules = rules;
    if (rules->run == NULL)
        return take_out(g,
                        &(struct transform_out){.type = e->type,
                                                .data = e->data,
                                                .meta = g->item->meta,
                                                .json = (e->flags & LOG_JSON) != 0,
                                                .origins = &origin,
                                                .origin_count = 1},
                        err);
    TRY(transform_begin(rules->run, g->from->stream, take_out, g, err));
    TRY(transform_event(rules->run,
                        &(struct transform_event){.stream = g->from->stream,
                                                  .type = e->type,
                                                  .data = e->data,
                                                  .meta = g->item->meta,
                                                  .id = e->id,
                                                  .created_us = e->created_us,
                                                  .json = (e->flags & LOG_JSON) != 0 &&
                                                          (e->flags & LOG_SEALED) == 0},
                        err));
    rc = transform_end(rules->run, err);
out:
    return rc;
}

/* The copies of an event that stands in `from`. */
static int
go_down(struct expansion *x, struct node *from, const struct item *item, const struct hop *hop,
        struct err *err)
{
    struct going  g = {.x = x, .from = from, .item = item, .hop = hop};
    struct rules *rules;
    int           rc = 0;

    if ((from->flags & LOG_STREAM_ROUTED) == 0)
        return 0;
    if (hop->depth == CHAIN_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "it would go through more than %u streams", CHAIN_MAX);
    TRY(find_rules(x->router, from->route.surgery, &rules, err));
    TRY(run_rules(&g, rules, err));
    for (uint32_t i = 0; i < g.pending_count; i++) {
        struct item on = *item;
        struct hop  there = {g.pending[i].at, hop, hop->depth + 1};

        on.event = g.pending[i].event;
        TRY(go_down(x, g.pending[i].at, &on, &there, err));
    }
out:
    return rc;
}

/* upwards */

static int
put_link(struct expansion *x, struct node *at, struct node *owner, const struct log_new_event *from,
         struct err *err)
{
    struct buf           *text = &x->router->text;
    struct log_new_event *e;
    struct log_late      *late;
    int                   rc;

    TRY(add_event(x, owner, &e, err));
    *e = (struct log_new_event){
        .id = streami_link_id(owner->stream, &from->id, text),
        .type = slice_str("$>"),
        .created_us = from->created_us,
        .flags = LOG_LINK,
    };
    if ((from->flags & LOG_LINK) != 0 || slice_is(from->type, "$>")) { /* one step leads there */
        e->data = from->data;
        return 0;
    }
    late = streami_alloc(&x->arena, sizeof *late);
    buf_clear(text);
    buf_printf(text, "%*s@", (int)LOG_LATE_ROOM, "");
    buf_add_slice(text, at->stream);
    if (late == NULL || text->failed)
        return no_memory(err);
    *late = (struct log_late){.of = from->place,
                              .text = streami_alloc(&x->arena, text->len),
                              .data = true,
                              .pos_at = UINT32_MAX};
    if (late->text == NULL)
        return no_memory(err);
    memcpy(late->text, text->data, text->len);
    e->data = slice_of(late->text, text->len);
    e->late = late;
out:
    return rc;
}

/* A link in the only owner, and in its only owner. */
static int
go_up(struct expansion *x, struct node *at, const struct log_new_event *from, struct err *err)
{
    struct node *n = at, *owner;
    struct hop   hops[CHAIN_MAX];
    uint32_t     depth = 0;
    int          rc = 0;

    while ((n->flags & LOG_STREAM_FED) != 0 && n->route.from.count == 1) {
        if (depth == CHAIN_MAX)
            FAIL(err, E_LIMIT, ERR_DATA, "it would go through more than %u streams", CHAIN_MAX);
        hops[depth] = (struct hop){n, depth == 0 ? NULL : &hops[depth - 1], depth};
        TRY(node_of(x, n->route.from.list[0], &owner, err));
        if (stands_in(&hops[depth++], owner) ||
            (owner->flags & (LOG_STREAM_TOMBSTONE | LOG_STREAM_CLOSED)) != 0 ||
            (owner->flags & LOG_STREAM_ROUTED) == 0)
            break;
        if (owner->got != x->number) /* else it has come round */
            TRY(put_link(x, at, owner, from, err));
        n = owner;
    }
out:
    return rc;
}

/* the commit */

/* What stands for the event in its copies: what it carries on, or itself. */
static int
origin_of(struct expansion *x, const struct node *n, struct item *item, struct err *err)
{
    const struct log_new_event *e = item->event;
    struct buf                 *list = &x->router->list;
    struct slice                own;
    int                         rc;

    buf_clear(list);
    item->place = NULL;
    item->version_at = item->pos_at = 0;
    if (streami_carried(e->meta, list, &x->router->rest, &own)) {
        rc = 0;
    } else {
        item->place = e->place;
        rc = streami_origin_late(n->stream, e, list, &item->version_at, &item->pos_at, err);
    }
    item->list = streami_keep(&x->arena, buf_slice(list));
    item->meta = streami_keep(&x->arena, own);
    return rc != 0 ? rc : item->list.data == NULL || item->meta.data == NULL ? no_memory(err) : 0;
}

/* The caller's events with what their copies have to know of them. */
static int
own_events(struct expansion *x, const struct log_write *w, struct log_new_event **out,
           struct err *err)
{
    struct ox_env    *env = x->router->env;
    struct log_place *places = streami_alloc(&x->arena, w->count * sizeof *places);

    *out = streami_alloc(&x->arena, w->count * sizeof **out);
    if (places == NULL || *out == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < w->count; i++) {
        struct log_new_event *e = &(*out)[i];

        *e = w->events[i];
        places[i] = (struct log_place){0};
        e->place = &places[i];
        if ((e->flags & LOG_SEALED) != 0)
            e->subject = slice_of(NULL, 0); /* it is as it is stored */
        if (id_is_zero(&e->id))
            e->id = id_new(env);
        if (e->created_us == 0)
            e->created_us = env->ops->wall_us(env);
    }
    return 0;
}

static int
expand_write(struct expansion *x, struct node *n, const struct log_write *w, struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < w->count; i++) {
        struct hop  hop = {.node = n};
        struct item item = {.event = &w->events[i]};

        x->number++;
        TRY(origin_of(x, n, &item, err));
        TRY(go_down(x, n, &item, &hop, err));
        TRY(go_up(x, n, &w->events[i], err));
    }
out:
    if (rc != 0 && err != NULL && err->kind == ERR_DATA)
        err_prefix(err, "what is written goes on by a surgery's rules");
    return rc;
}

static bool
is_meta(struct slice stream)
{
    return slice_starts(stream, slice_str("$$"));
}

/* Metadata that the caller writes keeps what the routing has there. */
static int
keep_member(struct expansion *x, struct log_write *w, struct err *err)
{
    struct slice          stream = slice_of((const char *)w->stream.data + 2, w->stream.len - 2);
    struct log_new_event *events;
    struct node          *n;
    int                   rc;

    TRY(node_of(x, stream, &n, err));
    n->changed = false; /* what changes is in this write */
    events = streami_alloc(&x->arena, w->count * sizeof *events);
    if (events == NULL)
        return no_memory(err);
    memcpy(events, w->events, w->count * sizeof *events);
    for (uint32_t i = 0; i < w->count; i++) {
        struct log_new_event e;
        struct slice         doc;

        if (!slice_is(events[i].type, LOG_META_TYPE))
            continue;
        TRY(streami_route_doc(&x->arena, events[i].data, true, &doc, err));
        TRY(streami_route_event(&x->arena, &n->route, doc, &e, err));
        events[i].data = e.data;
    }
    w->events = events;
out:
    return rc;
}

struct making {
    struct log_write  *writes;
    struct log_change *changes;
    struct log_check  *checks;
    uint32_t          *order;
    uint32_t           change_count, check_count, order_count;
};

/* Each write's events: the caller's, then those that were added. */
static int
join_events(struct expansion *x, struct making *m, const struct node *n, struct err *err)
{
    struct log_write     *w = &m->writes[n->write];
    struct log_new_event *events;

    if (n->count == 0)
        return 0;
    events = streami_alloc(&x->arena, (w->count + (size_t)n->count) * sizeof *events);
    if (events == NULL)
        return no_memory(err);
    if (w->count > 0)
        memcpy(events, w->events, w->count * sizeof *events);
    memcpy(events + w->count, n->events, n->count * sizeof *events);
    w->events = events;
    w->count += n->count;
    return 0;
}

static void
set_fed(struct making *m, struct slice stream)
{
    for (uint32_t i = 0; i < m->change_count; i++) {
        if (slice_eq(m->changes[i].stream, stream)) {
            m->changes[i].what |= LOG_SET_FED;
            return;
        }
    }
    m->changes[m->change_count++] =
        (struct log_change){.stream = stream, .expected = LOG_ANY, .what = LOG_SET_FED};
}

/* What holds each stream to what was seen of it, and what has changed of it. */
static int
put_nodes(struct expansion *x, struct making *m, struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < x->node_count; i++) {
        struct node          *n = x->nodes[i];
        struct log_new_event *e;

        if (n->fed)
            set_fed(m, n->stream);
        if (n->route.stream.len == 0)
            continue;
        m->checks[m->check_count++] = (struct log_check){n->route.stream, n->route.version};
        if (!n->changed)
            continue;
        e = streami_alloc(&x->arena, sizeof *e);
        if (e == NULL)
            return no_memory(err);
        TRY(streami_route_event(&x->arena, &n->route, n->route.doc, e, err));
        m->order[m->order_count++] = x->write_count;
        m->writes[x->write_count++] = (struct log_write){
            .stream = n->route.stream, .expected = n->route.version, .events = e, .count = 1};
    }
out:
    return rc;
}

static int
make(struct expansion *x, struct making *m, uint64_t asked, struct err *err)
{
    const struct log_req *in = x->in;
    uint64_t              writes = (uint64_t)in->write_count + 2 * (uint64_t)x->node_count;
    uint64_t              events = asked + x->added_count + x->node_count;
    struct log_write     *own = m->writes;
    int                   rc = 0;

    m->writes = streami_alloc(&x->arena, writes * sizeof *m->writes);
    m->changes =
        streami_alloc(&x->arena, (in->change_count + (uint64_t)x->node_count) * sizeof *m->changes);
    m->checks =
        streami_alloc(&x->arena, (in->check_count + (uint64_t)x->node_count) * sizeof *m->checks);
    m->order = streami_alloc(&x->arena, events * sizeof *m->order);
    if (m->writes == NULL || m->changes == NULL || m->checks == NULL || m->order == NULL)
        return no_memory(err);
    memset(m->writes, 0, writes * sizeof *m->writes);
    memcpy(m->writes, own, in->write_count * sizeof *own);
    if (in->change_count > 0)
        memcpy(m->changes, in->changes, in->change_count * sizeof *m->changes);
    if (in->check_count > 0)
        memcpy(m->checks, in->checks, in->check_count * sizeof *m->checks);
    m->change_count = in->change_count;
    m->check_count = in->check_count;
    for (uint32_t i = 0; i < in->write_count && in->order == NULL; i++)
        for (uint32_t k = 0; k < in->writes[i].count; k++)
            m->order[m->order_count++] = i;
    for (uint64_t k = 0; k < asked && in->order != NULL; k++)
        m->order[m->order_count++] = in->order[k];
    for (uint32_t k = 0; k < x->added_count; k++)
        m->order[m->order_count++] = x->added[k];
    for (uint32_t i = 0; i < x->node_count; i++) {
        struct node *n = x->nodes[i];

        if (n->write == NONE)
            continue;
        if (n->write >= in->write_count)
            m->writes[n->write] = (struct log_write){.stream = n->stream, .expected = LOG_ANY};
        TRY(join_events(x, m, n, err));
    }
    rc = put_nodes(x, m, err);
out:
    return rc;
}

static int
expand_all(struct expansion *x, struct making *m, struct err *err)
{
    const struct log_req *in = x->in;
    uint64_t              asked = 0;
    int                   rc = 0;

    x->write_count = in->write_count;
    m->writes = streami_alloc(&x->arena, in->write_count * sizeof *m->writes);
    if (m->writes == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < in->write_count; i++) {
        struct log_new_event *events;
        struct node          *n;

        m->writes[i] = in->writes[i];
        asked += in->writes[i].count;
        if (*(const char *)in->writes[i].stream.data == '$')
            continue;
        TRY(node_of(x, in->writes[i].stream, &n, err));
        n->write = i;
        TRY(own_events(x, &in->writes[i], &events, err));
        m->writes[i].events = events;
    }
    for (uint32_t i = 0; i < in->write_count; i++) {
        struct node *n;

        if (*(const char *)in->writes[i].stream.data == '$')
            continue;
        TRY(node_of(x, in->writes[i].stream, &n, err));
        TRY(expand_write(x, n, &m->writes[i], err));
    }
    for (uint32_t i = 0; i < in->write_count; i++)
        if (is_meta(in->writes[i].stream))
            TRY(keep_member(x, &m->writes[i], err));
    rc = make(x, m, asked, err);
out:
    return rc;
}

static int
expand(void *arg, const struct log_req *in, struct log_req *out, void **hold, struct err *err)
{
    struct stream_router *router = arg;
    struct expansion     *x = atomic_exchange(&router->spare, NULL);
    struct making         m = {0};
    int                   rc;

    if (x == NULL)
        x = calloc(1, sizeof *x);
    *hold = x;
    if (x == NULL)
        return no_memory(err);
    *x = (struct expansion){.router = router, .in = in, .arena = x->arena};
    TRY(expand_all(x, &m, err));
    out->writes = m.writes;
    out->write_count = x->write_count;
    out->changes = m.changes;
    out->change_count = m.change_count;
    out->checks = m.checks;
    out->check_count = m.check_count;
    out->order = m.order;
out:
    return rc;
}

static void
free_expansion(struct expansion *x)
{
    if (x == NULL)
        return;
    streami_arena_fini(&x->arena);
    free(x);
}

static void
release(void *arg, void *hold)
{
    struct stream_router *router = arg;
    struct expansion     *x = hold;

    streami_reset(&x->arena);
    free_expansion(atomic_exchange(&router->spare, x));
}

int
stream_router_new(struct ox_env *env, struct log *log, struct stream_router **out, struct err *err)
{
    struct stream_router *r = calloc(1, sizeof *r);
    int                   rc;

    *out = r;
    if (r == NULL)
        return no_memory(err);
    r->env = env;
    r->log = log;
    rc = log_set_router(log, &(struct log_router){expand, release, r}, err);
    if (rc != 0) {
        stream_router_free(r);
        *out = NULL;
    }
    return rc;
}

void
stream_router_free(struct stream_router *r)
{
    if (r == NULL)
        return;
    free_expansion(atomic_load(&r->spare));
    for (uint32_t i = 0; i < SURGERIES; i++)
        rules_fini(&r->rules[i]);
    buf_fini(&r->text);
    buf_fini(&r->list);
    buf_fini(&r->rest);
    buf_fini(&r->scratch);
    free(r);
}
