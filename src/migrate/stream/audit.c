/*
 * After the fact: the targets derived again from the originals and compared, byte
 * for byte.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/json.h"
#include "migrate/stream/stream_int.h"

void
streami_differs(struct streami_auditor *a, struct slice stream, const char *what, uint64_t version)
{
    if (a->out->different++ == 0)
        (void)snprintf(a->out->first, sizeof a->out->first,
                       "stream \"%.*s\", version %" PRIu64 ": %.200s", SLICE_FMT(stream), version,
                       what);
}

const char *
streami_compare(const struct log_event *is, const struct log_new_event *should)
{
    if (!slice_eq(is->type, should->type))
        return "another type";
    if (!slice_eq(is->data, should->data))
        return "other data";
    if (!slice_eq(is->meta, should->meta))
        return "other metadata";
    if (!id_eq(&is->id, &should->id))
        return "another id";
    if (should->created_us != 0 && is->created_us != should->created_us)
        return "another time";
    return NULL;
}

int
streami_next(struct log_iter *it, struct log_event *e, struct err *err)
{
    int rc;

    do
        rc = log_iter_next(it, e, err);
    while (rc == E_MORE);
    return rc;
}

static int
add_source(struct streami_auditor *a, struct streami_move *m, uint64_t first, uint64_t last,
           struct err *err)
{
    for (uint32_t i = 0; i < m->source_count; i++)
        if (slice_eq(m->sources[i].stream, buf_slice(&a->text)))
            return 0;
    if (!streami_grow(&a->arena, &m->sources, m->source_count, &m->source_room, sizeof *m->sources))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for an audit");
    m->sources[m->source_count++] = (struct streami_source){
        .stream = streami_keep(&a->arena, buf_slice(&a->text)), .first = first, .head = last};
    return 0;
}

/*
 * At which version a routed target was begun, for the last time: stages that had no end may stand
 * before. What was read on later names versions behind those of the mark before it.
 */
static int
begin_of(struct streami_auditor *a, struct slice stream, uint64_t *from, bool *begun,
         struct err *err)
{
    struct log_read  read = {.stream = stream, .sealed = true, .raw = true};
    struct log_iter *it = NULL;
    struct log_event e;
    uint64_t         first, last, before = 0;
    int              rc;

    *from = 0;
    *begun = false;
    TRY(log_iter_open(a->log, &read, &it, err));
    while ((rc = streami_next(it, &e, err)) == 0) {
        if (!streami_range_of(&e, a->spec->name, &a->text, &first, &last))
            continue;
        if (!*begun || first <= before)
            *from = e.version;
        *begun = true;
        before = last;
    }
    if (rc == E_END)
        rc = 0;
out:
    log_iter_close(it);
    return rc;
}

/* Opens a target and reads its MigratedFrom events; as sources where the move has none yet. */
static int
open_target(struct streami_auditor *a, struct slice stream, struct streami_move *m,
            struct log_iter **it, struct err *err)
{
    struct log_read  read = {.stream = stream, .sealed = true, .raw = true};
    bool             fill = m->source_count == 0;
    struct log_event e;
    uint32_t         marks = 0;
    uint64_t         first, last;
    bool             begun = true;
    int              rc = 0;

    if (a->spec->route)
        TRY(begin_of(a, stream, &read.from, &begun, err));
    TRY(log_iter_open(a->log, &read, it, err));
    while (begun && (fill || marks < m->source_count) && (rc = streami_next(*it, &e, err)) == 0) {
        if (e.pos.v < a->from || !streami_range_of(&e, a->spec->name, &a->text, &first, &last)) {
            if (marks == 0)
                continue; /* of before the stream was deleted, of a stage without an end, … */
            break;
        }
        marks++;
        if (fill)
            TRY(add_source(a, m, first, last, err));
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* The targets of the move that is being read, opened; one that is not there differs. */
static int
open_targets(struct streami_auditor *a, struct streami_move *m, struct err *err)
{
    int rc = 0;

    for (; a->target_count < m->target_count; a->target_count++) {
        struct streami_target *t;

        if (!streami_grow(&a->arena, &a->targets, a->target_count, &a->target_room,
                          sizeof *a->targets))
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for an audit");
        t = &a->targets[a->target_count];
        *t = (struct streami_target){.it = NULL};
        rc = open_target(a, m->targets[a->target_count].stream, m, &t->it, err);
        if (rc == E_NOTFOUND || rc == E_GONE) {
            streami_differs(a, m->targets[a->target_count].stream, "is not there", 0);
            t->differs = true;
            rc = 0;
        }
        if (rc != 0) {
            log_iter_close(t->it);
            break;
        }
    }
    return rc;
}

bool
streami_is_between(struct streami_auditor *a, const struct log_event *e)
{
    return slice_is(e->type, STREAM_MIGRATED_TYPE) &&
           streami_is_mark(e->type, e->data, a->spec->name);
}

int
streami_forget(void *arg, struct streami_reader *r, struct err *err)
{
    struct streami_auditor *a = arg;

    (void)r;
    if (a->stop != NULL && atomic_load(a->stop))
        RETURN_ERR(err, E_INTERRUPTED, ERR_RETRY, "it was stopped");
    return 0;
}

/* What was derived so far against what the targets have. */
static int
compare_some(void *arg, struct streami_reader *r, struct err *err)
{
    struct streami_auditor    *a = arg;
    const struct streami_move *m = r->move;
    struct log_event           e;
    int                        rc;

    TRY(streami_forget(a, r, err));
    TRY(open_targets(a, r->move, err));
    for (uint32_t i = 0; i < m->out_count; i++) {
        struct streami_target *t = &a->targets[m->outs[i].target];
        const char            *why;

        if (t->differs)
            continue;
        do
            rc = streami_next(t->it, &e, err);
        while (rc == 0 && streami_is_between(a, &e));
        if (rc != 0 && rc != E_END)
            goto out;
        why = rc == E_END ? "copies are missing" : streami_compare(&e, &m->outs[i].event);
        if (why != NULL) {
            streami_differs(a, m->targets[m->outs[i].target].stream, why,
                            rc == E_END ? 0 : e.version);
            t->differs = true;
            continue;
        }
        a->out->copies++;
    }
    rc = 0;
out:
    return rc;
}

/* What the targets have beside it. */
static int
count_newer(struct streami_auditor *a, struct err *err)
{
    struct log_event e;
    int              rc = 0;

    for (uint32_t i = 0; i < a->target_count; i++) {
        if (a->targets[i].differs)
            continue;
        while ((rc = streami_next(a->targets[i].it, &e, err)) == 0)
            a->out->newer += !streami_is_between(a, &e);
        if (rc != E_END)
            return rc;
        rc = 0;
    }
    return rc;
}

/* Of a routed move, whose copies were compared: what came since, also in targets that it got
 * since. */
static int
compare_routed(struct streami_auditor *a, struct streami_move *m, struct err *err)
{
    struct streami_reader *r = &a->reader;
    streami_spill_fn      *spill = r->spill;
    uint32_t               moved = m->target_count;
    int                    rc;

    TRY(streami_audit_added(a, m, err));
    TRY(open_targets(a, m, err));
    /* Event by event, each of them whole. */
    r->arena = r->bulk;
    r->spill = NULL;
    for (uint32_t t = 0; t < m->target_count && rc == 0; t++)
        if (!a->targets[t].differs)
            rc = streami_audit_tail(a, a->targets[t].it, m, t, t < moved, err);
    r->arena = &a->arena;
    r->spill = spill;
out:
    return rc;
}

/* Which streams the move was made of, and what of them. False: it is none to look at now. */
static int
find_sources(struct streami_auditor *a, struct slice stream, struct slice first_target,
             struct streami_move *m, bool *look, struct err *err)
{
    struct streami_source one = {.stream = stream};
    struct log_iter      *it = NULL;
    int                   rc = 0;

    *look = false;
    a->from = 0;
    a->target_count = a->target_room = 0;
    if (a->spec->kind != STREAMI_REWRITE && !a->spec->route)
        TRY(streami_moved_range(&a->reader, &one, &a->from, err));
    TRY(open_target(a, first_target, m, &it, err));
    if (m->source_count == 0) {
        if (a->spec->kind != STREAMI_REWRITE) /* else it was none of it */
            streami_differs(a, first_target, "does not say what it was made of", 0);
        goto out;
    }
    *look = slice_eq(m->sources[0].stream, stream); /* a join is looked at with its first stream */
    /* Of a move in stages the marks of the beginning do not know the end. */
    for (uint32_t i = 0; i < m->source_count && one.head > 0 && rc == 0; i++)
        rc = streami_moved_range(&a->reader, &m->sources[i], &a->from, err);
out:
    log_iter_close(it);
    return rc;
}

static int
audit_move(struct streami_auditor *a, struct slice stream, struct slice first_target,
           struct err *err)
{
    struct streami_move  m = {0};
    enum streami_verdict verdict;
    struct err           why;
    bool                 look;
    int                  rc;

    TRY(find_sources(a, stream, first_target, &m, &look, err));
    if (!look)
        goto out;
    a->reader.audit = true;
    rc = streami_move_build(&a->reader, &m, &verdict, &why);
    if (rc == E_INTERRUPTED) {
        err_copy(err, &why);
        goto out;
    }
    if (rc == E_GONE) {
        a->out->gone++;
    } else if (rc != 0) {
        streami_differs(a, stream, why.text, 0);
    } else {
        a->out->streams += m.source_count;
        a->out->events += m.events;
        TRY(a->spec->route ? compare_routed(a, &m, err) : count_newer(a, err));
    }
    rc = 0;
out:
    for (uint32_t i = 0; i < a->target_count; i++)
        log_iter_close(a->targets[i].it);
    a->target_count = 0;
    return rc;
}

static int
audit_from(struct streami_auditor *a, struct slice stream, struct slice target, struct err *err)
{
    int rc = audit_move(a, stream, target, err);

    if (rc != E_NOTFOUND && rc != E_GONE)
        return rc;
    streami_differs(a, target, "is not there", 0);
    return 0;
}

/* One whose old name goes on. */
static int
audit_routed(struct streami_auditor *a, struct slice stream, struct err *err)
{
    struct streami_route route;
    int                  rc;

    TRY(streami_route_read(a->log, &a->arena, stream, &route, err));
    if (slice_is(route.surgery, a->spec->name) && route.to.count > 0)
        rc = audit_from(a, stream, route.to.list[0], err);
    else
        a->out->not_moved++;
out:
    return rc;
}

static int
audit_here(struct streami_auditor *a, const struct log_stream *info, struct err *err)
{
    struct streami_rewritten mark;
    bool                     ours = false;
    int                      rc;

    TRY(streami_rewritten(&a->reader, info, &mark, &ours, err));
    if (ours && !mark.back)
        rc = audit_move(a, info->name, info->name, err);
    else
        a->out->not_moved++;
out:
    return rc;
}

static int
audit_one(struct streami_auditor *a, struct slice stream, struct err *err)
{
    struct log_stream info;
    struct buf        names = {0}, first = {0};
    struct json_iter  it;
    struct slice      raw;
    bool              here = false;
    uint64_t          events;
    int               rc;

    rc = log_stream_info(a->log, stream, &info, err);
    if (rc == E_NOTFOUND || rc == E_GONE)
        return 0;
    if (rc == 0 && (info.flags & LOG_STREAM_MOVED) != 0)
        rc = streami_moved_here(&a->reader, &info, &here, &events, err);
    if (rc != 0)
        return rc;
    if (a->spec->kind == STREAMI_REWRITE)
        return audit_here(a, &info, err);
    if ((info.flags & LOG_STREAM_ROUTED) != 0)
        return audit_routed(a, stream, err);
    if (!here) {
        a->out->not_moved++;
        return 0;
    }
    TRY(log_moved_to(a->log, stream, &names, err));
    TRY(json_array_iter(&it, buf_slice(&names), err));
    TRY(json_iter_next(&it, NULL, &raw, err));
    TRY(json_string_decode(raw, &first, err));
    rc = audit_from(a, stream, buf_slice(&first), err);
out:
    buf_fini(&names);
    buf_fini(&first);
    return rc;
}

int
streami_auditor_open(struct log *log, struct slice name, struct slice json, streami_spill_fn *spill,
                     struct streami_auditor *a, struct err *err)
{
    int rc;

    a->log = log;
    TRY(streami_spec_new(name, json, &a->spec, err));
    a->reader = (struct streami_reader){.log = log,
                                        .spec = a->spec,
                                        .arena = &a->arena,
                                        .bulk = &a->bulk,
                                        .spill = spill,
                                        .spill_arg = a,
                                        .spill_bytes = STREAMI_STAGE_BYTES};
    if (a->spec->transform != NULL)
        rc = transform_run_new(a->spec->transform, &a->reader.run, err);
out:
    return rc;
}

void
streami_auditor_close(struct streami_auditor *a)
{
    streami_reader_fini(&a->reader);
    streami_arena_fini(&a->arena);
    streami_arena_fini(&a->bulk);
    streami_spec_free(a->spec);
    buf_fini(&a->text);
}

int
streami_auditor_each(struct streami_auditor *a, uint64_t most, streami_each_fn *fn, void *arg,
                     uint64_t *seen, struct err *err)
{
    struct streami_page page = {0};
    struct buf          after = {0};
    struct slice        name = {0};
    uint64_t            n = 0;
    int                 rc = 0;

    for (uint32_t set = 0; set < a->spec->set_count; set++) {
        buf_clear(&after);
        do {
            TRY(streami_page_fill(a->log, a->spec, set, buf_slice(&after), &page, err));
            while (streami_page_next(&page, &name) && (most == 0 || n < most)) {
                if (a->stop != NULL && atomic_load(a->stop))
                    FAIL(err, E_INTERRUPTED, ERR_RETRY, "it was stopped");
                TRY(fn(a, arg, name, err));
                streami_reset(&a->arena);
                streami_reset(&a->bulk);
                n++;
            }
            buf_clear(&after);
            buf_add_slice(&after, name);
        } while (!page.last && (most == 0 || n < most));
    }
out:
    *seen = n;
    buf_fini(&page.names);
    buf_fini(&after);
    return rc;
}

static int
audit_each(struct streami_auditor *a, void *arg, struct slice stream, struct err *err)
{
    (void)arg;
    return audit_one(a, stream, err);
}

int
stream_audit_run(struct surgery *s, const atomic_bool *stop, struct stream_audit *out,
                 struct err *err)
{
    struct streami_auditor a = {.out = out, .stop = stop};
    uint64_t               seen;
    int                    rc;

    memset(out, 0, sizeof *out);
    a.end = log_end(s->log);
    TRY(streami_auditor_open(s->log, slice_str(s->spec->name), buf_slice(&s->spec->text),
                             compare_some, &a, err));
    rc = streami_auditor_each(&a, 0, audit_each, NULL, &seen, err);
out:
    streami_auditor_close(&a);
    return rc;
}
