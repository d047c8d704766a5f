/*
 * The audit of what was appended after a routed move: in the old name's order, each of its events
 * has its copies in the targets, and each event that a target got by itself has its link.
 */
#include <inttypes.h>

#include "base/json.h"
#include "log/copied.h"
#include "migrate/stream/stream_int.h"

/* One target against the old name. */
struct tail {
    struct streami_auditor    *a;
    const struct streami_move *m;
    struct slice               target;
    struct log_iter           *it;          /* of the target */
    struct log_event           now;         /* its next one, where it has one */
    bool                       has, strict; /* strict: all that it has is the old name's */
    bool                       differs;
};

static int
advance(struct tail *t, struct err *err)
{
    int rc;

    do
        rc = streami_next(t->it, &t->now, err);
    while (rc == 0 && streami_is_between(t->a, &t->now));
    t->has = rc == 0 && t->now.pos.v < t->a->end.v;
    return rc == E_END ? 0 : rc;
}

static void
differ(struct tail *t, const char *what, uint64_t version)
{
    streami_differs(t->a, t->target, what, version);
    t->differs = true;
}

static int
expect_copy(struct tail *t, const struct log_new_event *should, struct err *err)
{
    const char *why;
    int         rc = 0;

    while (!t->strict && t->has && !id_eq(&t->now.id, &should->id)) {
        t->a->out->newer++;
        TRY(advance(t, err));
    }
    why = t->has ? streami_compare(&t->now, should) : "copies are missing";
    if (why != NULL) {
        differ(t, why, t->has ? t->now.version : 0);
        goto out;
    }
    t->a->out->copies++;
    rc = advance(t, err);
out:
    return rc;
}

/* The event that the link names stands next in the target. */
static int
expect_own(struct tail *t, uint64_t version, struct err *err)
{
    int rc = 0;

    while (!t->strict && t->has && t->now.version != version) {
        t->a->out->newer++;
        TRY(advance(t, err));
    }
    if (!t->has || t->now.version != version ||
        log_copied_from(t->now.meta, NULL, NULL, NULL) > 0) {
        differ(t, "is not in the order of the old name", version);
        goto out;
    }
    t->a->out->newer++;
    rc = advance(t, err);
out:
    return rc;
}

/* Is it a link that routing left? Then where it leads; one that a user made is an event. */
static int
routed_link(struct tail *t, const struct log_event *e, struct slice *stream, uint64_t *version,
            bool *yes, struct err *err)
{
    struct log_read  read = {.raw = true};
    struct log_iter *it = NULL;
    struct log_event of;
    struct ox_id     id;
    const char      *at;
    int              rc = 0;

    *yes = false;
    if ((e->flags & LOG_LINK) == 0 || (at = memchr(e->data.data, '@', e->data.len)) == NULL)
        return 0;
    if (!json_uint64(slice_of(e->data.data, (size_t)(at - (const char *)e->data.data)), version))
        return 0;
    read.stream = slice_of(at + 1, e->data.len - (size_t)(at + 1 - (const char *)e->data.data));
    read.from = *version;
    rc = log_iter_open(t->a->log, &read, &it, err);
    if (rc == 0)
        rc = log_iter_next(it, &of, err);
    if (rc == 0 && of.version == *version) {
        id = streami_link_id(t->m->sources[0].stream, &of.id, &t->a->text);
        *yes = id_eq(&id, &e->id);
    }
    if (rc == E_NOTFOUND || rc == E_GONE || rc == E_END)
        rc = 0;
    log_iter_close(it);
    *stream = streami_keep(t->a->reader.bulk, read.stream);
    return rc;
}

static int
hold(struct tail *t, const struct log_event *e, struct err *err)
{
    struct streami_source source = {.stream = t->m->sources[0].stream};
    struct streami_move   one = {.sources = &source, .source_count = 1};
    struct slice          stream;
    uint64_t              version;
    bool                  link;
    int                   rc;

    TRY(routed_link(t, e, &stream, &version, &link, err));
    if (link) {
        if (slice_eq(stream, t->target))
            rc = expect_own(t, version, err);
        goto out;
    }
    if (slice_eq(t->target, t->m->targets[0].stream))
        t->a->out->events++;
    rc = streami_move_events(&t->a->reader, &one, e, 1, err);
    if (rc != 0) {
        differ(t, "an event of the old name's goes nowhere by the rules", e->version);
        rc = 0;
    }
    for (uint32_t i = 0; i < one.out_count && !t->differs; i++)
        if (slice_eq(one.targets[one.outs[i].target].stream, t->target))
            TRY(expect_copy(t, &one.outs[i].event, err));
out:
    streami_reset(t->a->reader.bulk);
    return rc;
}

/* Is all that the target has the old name's too? */
static int
is_strict(struct tail *t, struct err *err)
{
    struct streami_route route;
    int                  rc;

    TRY(streami_route_read(t->a->log, &t->a->arena, t->target, &route, err));
    t->strict = route.from.count == 1 && slice_eq(route.from.list[0], t->m->sources[0].stream);
out:
    return rc;
}

int
streami_audit_tail(struct streami_auditor *a, struct log_iter *it, const struct streami_move *m,
                   uint32_t target, bool moved, struct err *err)
{
    const struct streami_source *s = &m->sources[0];
    struct tail      t = {.a = a, .m = m, .target = m->targets[target].stream, .it = it};
    struct log_read  read = {.stream = s->stream, .from = s->head + 1, .sealed = true, .raw = true};
    struct log_iter *old = NULL;
    struct log_event e;
    int              rc;

    TRY(is_strict(&t, err));
    if (!moved)
        t.strict = false; /* it may have been there before the first copy came */
    TRY(advance(&t, err));
    TRY(log_iter_open(a->log, &read, &old, err));
    while ((rc = streami_next(old, &e, err)) == 0 && e.pos.v < a->end.v && !t.differs &&
           !(slice_is(e.type, LOG_MOVED_TYPE) && streami_is_mark(e.type, e.data, a->spec->name)))
        TRY(hold(&t, &e, err));
    if (rc == E_END)
        rc = 0;
    while (rc == 0 && t.has && !t.differs) {
        if (t.strict)
            differ(&t, "has an event that the old name has not", t.now.version);
        a->out->newer++;
        rc = advance(&t, err);
    }
out:
    log_iter_close(old);
    return rc;
}

/* Where the stream goes, or went when its routing ended. */
static int
names_of(struct streami_auditor *a, struct slice stream, struct streami_route *route,
         struct err *err)
{
    struct json_iter it;
    struct slice     raw, name;
    struct buf       names = {0};
    int              rc;

    TRY(streami_route_read(a->log, &a->arena, stream, route, err));
    if (route->to.count > 0)
        goto out;
    rc = log_moved_to(a->log, stream, &names, err);
    if (rc == 0)
        rc = json_array_iter(&it, buf_slice(&names), err);
    while (rc == 0 && (rc = json_iter_next(&it, NULL, &raw, err)) == 0) {
        TRY(json_string_view(raw, &a->text, &name, err));
        TRY(streami_route_add(&a->arena, &route->to, name, err));
    }
    if (rc == E_END || rc == E_STATE)
        rc = 0;
out:
    buf_fini(&names);
    return rc;
}

int
streami_audit_added(struct streami_auditor *a, struct streami_move *m, struct err *err)
{
    struct streami_route route;
    int                  rc;

    TRY(names_of(a, m->sources[0].stream, &route, err));
    for (uint32_t i = 0; i < route.to.count; i++) {
        bool there = false;

        for (uint32_t t = 0; t < m->target_count && !there; t++)
            there = slice_eq(m->targets[t].stream, route.to.list[i]);
        if (there)
            continue;
        if (!streami_grow(&a->arena, &m->targets, m->target_count, &m->target_room,
                          sizeof *m->targets))
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for an audit");
        m->targets[m->target_count++] = (struct streami_target_of){.stream = route.to.list[i]};
    }
out:
    return rc;
}
