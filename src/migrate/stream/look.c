/*
 * Which streams a move is made of, and whether they are to be moved at all: what
 * stands in them now, and who moved them before.
 */
#include <inttypes.h>

#include "base/json.h"
#include "log/copied.h"
#include "migrate/stream/stream_int.h"

static int
no_memory(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a move");
}

static int
add_source(struct streami_reader *r, struct slice name, struct err *err)
{
    struct streami_move *m = r->move;

    for (uint32_t i = 0; i < m->source_count; i++)
        if (slice_eq(m->sources[i].stream, name))
            return 0;
    if (m->source_count == STREAMI_PARTS_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "more than %d streams would be joined into one",
                   STREAMI_PARTS_MAX);
    if (!streami_grow(r->arena, &m->sources, m->source_count, &m->source_room, sizeof *m->sources))
        return no_memory(err);
    m->sources[m->source_count] = (struct streami_source){.stream = streami_keep(r->arena, name)};
    if (m->sources[m->source_count].stream.data == NULL)
        return no_memory(err);
    m->source_count++;
    return 0;
}

static int
add_listed(void *arg, const struct log_stream *stream, struct err *err)
{
    struct streami_reader *r = arg;

    return streami_wanted(r->spec, 0, stream->name) ? add_source(r, stream->name, err) : 0;
}

/* All streams that go where the first one goes. */
static int
join_sources(struct streami_reader *r, struct err *err)
{
    const struct streami_spec *spec = r->spec;
    struct slice               first = r->move->sources[0].stream;
    const char                *dash = memchr(first.data, '-', first.len);
    struct buf                 to = {0}, name = {0};
    int                        rc = 0;

    TRY(streami_target(spec, first, &to, err));
    for (uint32_t i = 0; i < spec->set_count; i++) {
        if (spec->prefixes) {
            TRY(log_streams(r->log, slice_str(spec->sets[i]), slice_str(""), add_listed, r, err));
            continue;
        }
        buf_clear(&name);
        buf_add_str(&name, spec->sets[i]);
        if (spec->categories)
            buf_add(&name, dash, (size_t)((const char *)first.data + first.len - dash));
        if (name.len > LOG_NAME_MAX || !streami_wanted(spec, i, buf_slice(&name)))
            continue;
        if (streami_target(spec, buf_slice(&name), &r->scratch, NULL) != 0 ||
            !slice_eq(buf_slice(&r->scratch), buf_slice(&to)))
            continue;
        TRY(add_source(r, buf_slice(&name), err));
    }
out:
    buf_fini(&to);
    buf_fini(&name);
    return rc;
}

/*
 * Is the stream's first readable event of this surgery: is it one of its targets? If not, it is
 * what is moved next, and the source has the reader.
 */
static int
begins_with_mark(struct streami_reader *r, struct streami_source *s, struct log_iter **it,
                 bool *yes, struct err *err)
{
    int rc = log_iter_next(*it, &s->begin, err);

    *yes = false;
    if (rc != 0)
        return rc == E_END ? 0 : rc;
    *yes = slice_is(s->begin.type, STREAM_MIGRATED_TYPE) &&
           streami_is_mark(s->begin.type, s->begin.data, r->spec->name);
    if (!*yes) {
        s->begun = *it;
        *it = NULL;
    }
    return 0;
}

/* How many marks the stream begins with. */
static int
marks_before(struct streami_reader *r, const struct log_stream *info, uint64_t *marks,
             struct err *err)
{
    struct log_read  read = {.stream = info->name, .from = info->first};
    struct log_iter *it = NULL;
    struct log_event e;
    int              rc;

    *marks = 0;
    TRY(log_iter_open(r->log, &read, &it, err));
    while ((rc = log_iter_next(it, &e, err)) == 0 && streami_is_mark(e.type, e.data, NULL))
        ++*marks;
    if (rc == E_END)
        rc = 0;
out:
    log_iter_close(it);
    return rc;
}

/*
 * Did this surgery move it? Then *events is how many there were, but for marks in the middle, which
 * only a rollback leaves there.
 */
int
streami_moved_here(struct streami_reader *r, const struct log_stream *info, bool *yes,
                   uint64_t *events, struct err *err)
{
    struct log_read  read = {.stream = info->name, .from = info->moved, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event e;
    int              rc = 0;

    *yes = false;
    *events = 0;
    TRY(log_iter_open(r->log, &read, &it, err));
    rc = log_iter_next(it, &e, err);
    if (rc == 0 && e.version == info->moved)
        *yes = streami_is_mark(e.type, e.data, r->spec->name);
    if (rc == 0 && *yes && info->moved > info->first) {
        uint64_t marks = 0;

        *events = info->moved - info->first;
        TRY(log_iter_next(it, &e, err));
        marks = streami_is_mark(e.type, e.data, NULL) ? 1 : 0;
        *events -= marks;
        if (*events > 0) {
            TRY(marks_before(r, info, &marks, err));
            *events -= marks < *events ? marks : *events;
        }
    }
    if (rc == E_END)
        rc = 0;
out:
    log_iter_close(it);
    return rc;
}

/*
 * A stream that copies come to: of this surgery it is a target, and of another one it can be
 * moved only where the copies go on with it.
 */
static int
look_at_fed(struct streami_reader *r, const struct streami_source *s, bool *here,
            enum streami_verdict *verdict, struct err *err)
{
    struct streami_route route, owner;
    int                  rc;

    TRY(streami_route_read(r->log, r->arena, s->stream, &route, err));
    for (uint32_t i = 0; i < route.from.count && !*here; i++) {
        TRY(streami_route_read(r->log, r->arena, route.from.list[i], &owner, err));
        *here = slice_is(owner.surgery, r->spec->name);
    }
    if (*here || r->spec->route)
        goto out;
    *verdict = STREAMI_REFUSED;
    (void)err_set(
        err, __FILE__, __LINE__, E_STATE, ERR_DATA,
        "copies come to it from \"%.*s\", which is routed: oxbow stream unroute ends that, "
        "and --old-writers route carries it on",
        SLICE_FMT(route.from.count > 0 ? route.from.list[0] : slice_str("")));
out:
    return rc;
}

int
streami_rewritten(struct streami_reader *r, const struct log_stream *info,
                  struct streami_rewritten *out, bool *yes, struct err *err)
{
    struct log_read read = {
        .stream = info->name, .from = info->first, .backwards = true, .sealed = true, .raw = true};
    struct log_iter *it = NULL;
    struct log_event e;
    struct slice     member;
    int              rc = 0;

    *yes = false;
    if (info->first == 0) /* a rewrite hides what was there */
        return 0;
    TRY(log_iter_open(r->log, &read, &it, err));
    while (!*yes && (rc = streami_next(it, &e, err)) == 0)
        *yes = streami_range_of(&e, r->spec->name, &r->text, &out->first, &out->last) &&
               slice_eq(buf_slice(&r->text), info->name);
    if (*yes) {
        out->version = e.version;
        out->commit = e.commit;
        out->back = json_get(e.data, "rollback", &member);
    }
    if (rc == E_END)
        rc = 0;
out:
    log_iter_close(it);
    return rc;
}

/* The raw event of that version. E_GONE. */
static int
event_at(struct streami_reader *r, struct slice stream, uint64_t version, struct log_iter **it,
         struct log_event *e, struct err *err)
{
    struct log_read read = {.stream = stream, .from = version, .raw = true};
    int             rc;

    log_iter_close(*it);
    *it = NULL;
    TRY(log_iter_open(r->log, &read, it, err));
    rc = log_iter_next(*it, e, err);
    if (rc == E_END || (rc == 0 && e->version != version))
        FAIL(err, E_GONE, ERR_DATA, "the event that says where the stream went is gone");
out:
    return rc;
}

int
streami_moved_range(struct streami_reader *r, struct streami_source *s, uint64_t *from,
                    struct err *err)
{
    struct log_stream info;
    struct log_iter  *it = NULL;
    struct log_event  e;
    struct log_pos    staged;
    struct slice      raw;
    uint64_t          first, moved;
    int               rc;

    TRY(log_stream_info(r->log, s->stream, &info, err));
    moved = info.moved;
    TRY(event_at(r, s->stream, moved, &it, &e, err));
    if (json_get(e.data, "again", &raw) && json_uint64(raw, &moved))
        TRY(event_at(r, s->stream, moved, &it, &e, err));
    *from = e.commit.v;
    if (log_mark_staged(e.type, e.data, &first, &staged)) {
        s->first = first;
        s->head = moved - 1;
        *from = staged.v;
    }
out:
    log_iter_close(it);
    return rc;
}

/* What is to be done with one source as it stands now. */
static int
look_at(struct streami_reader *r, struct streami_source *s, enum streami_verdict *verdict,
        struct err *err)
{
    struct log_read   read = {.stream = s->stream, .sealed = true, .window = s->window};
    struct log_stream info;
    struct log_iter  *it = NULL;
    bool              here = false;
    uint64_t          events = 0;
    int               rc = 0;

    *verdict = STREAMI_DONE;
    if (streami_memo_has(r->memo, s->stream, &events)) {
        r->move->events += events;
        goto out;
    }
    *verdict = STREAMI_SKIP;
    if (r->spec->route) /* before the state, so that the commit finds what came in between */
        TRY(streami_route_read(r->log, r->arena, s->stream, &s->route, err));
    rc = log_iter_open_stream(r->log, &read, &info, &it, err);
    if (rc == E_NOTFOUND || rc == E_GONE)
        return 0;
    if (rc != 0)
        goto out;
    s->first = info.first;
    s->head = info.head;
    if ((info.flags & LOG_STREAM_MOVED) != 0) {
        TRY(streami_moved_here(r, &info, &here, &events, err));
        if (here) {
            *verdict = STREAMI_DONE;
            r->move->events += events;
        }
        goto out;
    }
    if ((info.flags & LOG_STREAM_ROUTED) != 0 && r->spec->route &&
        slice_is(s->route.surgery, r->spec->name)) {
        *verdict = STREAMI_DONE;
        r->move->events += info.head + 1 - info.first;
    }
    if ((info.flags & (LOG_STREAM_ROUTED | LOG_STREAM_STAGED)) != 0)
        goto out;
    if ((info.flags & LOG_STREAM_FED) != 0) {
        TRY(look_at_fed(r, s, &here, verdict, err));
        if (here || *verdict == STREAMI_REFUSED)
            goto out;
    }
    if ((info.flags & LOG_STREAM_CLOSED) != 0) {
        *verdict = STREAMI_REFUSED;
        (void)err_set(err, __FILE__, __LINE__, E_STATE, ERR_DATA,
                      "it is closed; oxbow stream open lets it be moved");
        goto out;
    }
    if (info.first <= info.head)
        TRY(begins_with_mark(r, s, &it, &here, err));
    if (!here)
        *verdict = STREAMI_MOVE;
    else if (r->spec->kind == STREAMI_REWRITE)
        *verdict = STREAMI_DONE;
out:
    log_iter_close(it);
    return rc;
}

void
streami_let_go(struct streami_move *m)
{
    for (uint32_t i = 0; i < m->source_count; i++) {
        log_iter_close(m->sources[i].begun);
        m->sources[i].begun = NULL;
    }
}

/* Those of the sources that are there to be moved. */
static int
choose_sources(struct streami_reader *r, enum streami_verdict *verdict, struct err *err)
{
    struct streami_move *m = r->move;
    uint32_t             kept = 0;
    int                  rc = 0;

    *verdict = STREAMI_SKIP;
    for (uint32_t i = 0; i < m->source_count; i++) {
        enum streami_verdict one;

        m->sources[i].window = i < STREAMI_WINDOWS ? r->windows[i] : NULL;
        TRY(look_at(r, &m->sources[i], &one, err));
        if (one == STREAMI_REFUSED || (i == 0 && one != STREAMI_MOVE)) {
            *verdict = one;
            return 0;
        }
        if (one == STREAMI_MOVE && kept++ != i) {
            m->sources[kept - 1] = m->sources[i];
            m->sources[i].begun = NULL;
        }
    }
    m->source_count = kept;
    *verdict = STREAMI_MOVE;
out:
    return rc;
}

int
streami_move_look(struct streami_reader *r, struct streami_move *m, enum streami_verdict *verdict,
                  struct err *err)
{
    int rc = 0;

    r->move = m;
    m->events = m->bytes = m->copies = 0;
    *verdict = STREAMI_MOVE;
    if (!r->audit) {
        m->source_count = 1;
        m->target_count = m->out_count = 0;
        m->target_room = m->out_room = 0;
        if (r->spec->kind == STREAMI_JOIN)
            TRY(join_sources(r, err));
        TRY(choose_sources(r, verdict, err));
    }
    for (uint32_t i = 0; i < m->source_count; i++) {
        struct streami_source *s = &m->sources[i];

        s->from = s->first;
        s->events = s->ordinal = 0;
        s->invalid = false;
        m->bytes += 2 * STREAMI_EVENT_OVERHEAD + s->stream.len;
    }
out:
    return rc;
}
