/*
 * One stream's move in memory: what is read of the sources, what the transform
 * makes of it, and where it goes. The same code builds a move to commit it, to
 * plan it, and to audit it later.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/json.h"
#include "migrate/stream/stream_int.h"

#define EVENT_OVERHEAD 160u /* bytes of a record beside names, data and metadata */

static int
no_memory(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a move");
}

/* marks: the events that moves write */

static bool
names_surgery(struct slice data, const char *surgery)
{
    struct buf   text = {0};
    struct slice raw, name;
    bool         yes;

    if (!json_get(data, "surgery", &raw) || json_type(raw) != JSON_STRING)
        return false;
    yes = surgery == NULL ||
          (json_string_view(raw, &text, &name, NULL) == 0 && slice_is(name, surgery));
    buf_fini(&text);
    return yes;
}

bool
streami_is_mark(struct slice type, struct slice data, const char *surgery)
{
    return (slice_is(type, STREAM_MIGRATED_TYPE) || slice_is(type, STREAM_INVALID_TYPE) ||
            slice_is(type, LOG_MOVED_TYPE)) &&
           names_surgery(data, surgery);
}

bool
streami_range_of(const struct log_event *e, const char *surgery, struct buf *stream,
                 uint64_t *first, uint64_t *last)
{
    struct json_field f[] = {{.name = "stream", .required = true},
                             {.name = "first", .required = true},
                             {.name = "last", .required = true}};

    buf_clear(stream);
    return slice_is(e->type, STREAM_MIGRATED_TYPE) && names_surgery(e->data, surgery) &&
           json_pick(e->data, f, 3, JSON_PICK_ANY, NULL) == 0 &&
           json_string_decode(f[0].value, stream, NULL) == 0 && json_uint64(f[1].value, first) &&
           json_uint64(f[2].value, last);
}

/* outputs */

static int
find_target(struct streami_reader *r, struct slice name, uint32_t *out, struct err *err)
{
    struct streami_move *m = r->move;

    for (uint32_t i = 0; i < m->target_count; i++) {
        if (slice_eq(m->targets[i].stream, name)) {
            *out = i;
            return 0;
        }
    }
    for (uint32_t i = 0; i < m->source_count && r->spec->kind != STREAMI_REWRITE; i++)
        if (slice_eq(m->sources[i].stream, name))
            RETURN_ERR(err, E_SCHEMA, ERR_DATA, "it would go to \"%.*s\", which is moved itself",
                       SLICE_FMT(name));
    if (m->target_count == STREAMI_PARTS_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "more than %d targets", STREAMI_PARTS_MAX);
    if (log_name_check(name, false, err) != 0)
        return err != NULL ? err->code : E_INVALID;
    if (!streami_grow(r->arena, &m->targets, m->target_count, &m->target_room, sizeof *m->targets))
        return no_memory(err);
    m->targets[m->target_count] =
        (struct streami_target_of){.stream = streami_keep(r->arena, name)};
    if (m->targets[m->target_count].stream.data == NULL)
        return no_memory(err);
    m->bytes += 2 * EVENT_OVERHEAD + name.len;
    *out = m->target_count++;
    return 0;
}

static int
default_target(struct streami_reader *r, uint32_t *out, struct err *err)
{
    struct slice stream = r->move->sources[r->source].stream;
    int          rc = 0;

    if (r->spec->kind == STREAMI_REWRITE)
        return find_target(r, stream, out, err);
    TRY(streami_target(r->spec, stream, &r->scratch, err));
    rc = find_target(r, buf_slice(&r->scratch), out, err);
out:
    return rc;
}

/* What a copy that is not the event itself is known by: the same in every run. */
static struct ox_id
derived_id(struct streami_reader *r, const struct transform_out *out)
{
    struct slice stream = r->move->sources[r->source].stream;
    struct buf  *b = &r->id_text;

    if (r->spec->route)
        return streami_route_id(r->spec, stream, &r->inputs[out->origins[0]].id, r->ordinal, b);
    buf_clear(b);
    buf_add_str(b, r->spec->name);
    buf_add_byte(b, '\0');
    buf_add_slice(b, stream);
    buf_add_byte(b, '\0');
    for (size_t i = 0; i < out->origin_count; i++) {
        buf_add_u64(b, r->inputs[out->origins[i]].version);
        buf_add_byte(b, ',');
    }
    buf_add_byte(b, '#');
    buf_add_u64(b, r->ordinal);
    return id_of_bytes(buf_slice(b));
}

static int
put_meta(struct streami_reader *r, const struct transform_out *out, struct slice *meta,
         struct err *err)
{
    struct slice list = {0};
    int          rc;

    buf_clear(&r->text);
    if (out->origin_count == 1) {
        list = r->inputs[out->origins[0]].list;
    } else {
        buf_clear(&r->scratch);
        for (size_t i = 0; i < out->origin_count; i++) {
            if (i > 0)
                buf_add_byte(&r->scratch, ',');
            buf_add_slice(&r->scratch, r->inputs[out->origins[i]].list);
        }
        list = buf_slice(&r->scratch);
    }
    TRY(streami_copied(out->meta, list, &r->text, err));
    *meta = streami_keep(r->arena, buf_slice(&r->text));
    if (meta->data == NULL)
        rc = no_memory(err);
out:
    return rc;
}

static int
link_event(struct streami_reader *r, const struct streami_input *in, struct log_new_event *e,
           struct err *err)
{
    if ((in->flags & LOG_LINK) != 0)
        return 0;
    buf_clear(&r->text);
    buf_add_u64(&r->text, in->version);
    buf_add_byte(&r->text, '@');
    buf_add_slice(&r->text, r->move->sources[r->source].stream);
    e->type = slice_str("$>");
    e->data = streami_keep(r->arena, buf_slice(&r->text));
    e->meta = slice_of(NULL, 0);
    e->flags = LOG_LINK;
    return e->data.data == NULL ? no_memory(err) : 0;
}

static int
take_out(void *arg, const struct transform_out *out, struct err *err)
{
    struct streami_reader *r = arg;
    struct streami_move   *m = r->move;
    struct streami_out    *o;
    struct streami_input  *in = out->origin_count == 0 ? NULL : &r->inputs[out->origins[0]];
    bool                   same = out->origin_count == 1 && !out->changed;
    int                    rc = 0;

    if (!streami_grow(r->arena, &m->outs, m->out_count, &m->out_room, sizeof *m->outs))
        return no_memory(err);
    o = &m->outs[m->out_count];
    memset(o, 0, sizeof *o);
    if (out->stream.data != NULL && r->spec->kind != STREAMI_SPLIT)
        FAIL(err, E_SCHEMA, ERR_DATA, "the transform routes to \"%.*s\": only a split does",
             SLICE_FMT(out->stream));
    if (out->stream.data == NULL)
        TRY(default_target(r, &o->target, err));
    else
        TRY(find_target(r, out->stream, &o->target, err));
    for (size_t i = 0; i < out->origin_count; i++) {
        r->inputs[out->origins[i]].covered = true;
        if ((r->inputs[out->origins[i]].flags & LOG_SEALED) != 0 && !same)
            FAIL(err, E_STATE, ERR_DATA,
                 "event %" PRIu64 " is under a subject's key, so it can be moved but not changed",
                 r->inputs[out->origins[i]].version);
    }
    r->changed = r->changed || !same;
    o->event = (struct log_new_event){
        .id = same && !r->spec->link ? in->id : derived_id(r, out),
        .type = streami_keep(r->arena, out->type),
        .data = streami_keep(r->arena, out->data),
        .created_us = in == NULL ? 0 : in->created_us,
        .flags = (out->json ? (uint32_t)LOG_JSON : 0) |
                 (same ? in->flags & (uint32_t)(LOG_LINK | LOG_SEALED | LOG_JSON) : 0),
    };
    o->pos = in == NULL ? 0 : in->pos;
    TRY(put_meta(r, out, &o->event.meta, err));
    if (r->spec->link && in != NULL)
        TRY(link_event(r, in, &o->event, err));
    if (o->event.type.data == NULL || o->event.data.data == NULL)
        return no_memory(err);
    r->ordinal++;
    m->targets[o->target].count++;
    m->out_count++;
    m->bytes += EVENT_OVERHEAD + o->event.type.len + o->event.data.len + o->event.meta.len +
                m->targets[o->target].stream.len;
    if (m->bytes > STREAMI_MOVE_MAX)
        FAIL(err, E_LIMIT, ERR_DATA,
             "its move takes more than %" PRIu64 " MiB: larger than one commit may be; moves in "
             "stages are not in this version",
             STREAMI_MOVE_MAX >> 20);
out:
    return rc;
}

/* inputs */

static int
take_input(struct streami_reader *r, const struct log_event *e, struct err *err)
{
    const uint64_t        origin = r->input_count;
    struct streami_input *in;
    struct slice          meta;
    int                   rc = 0;

    if (!streami_grow(r->arena, &r->inputs, r->input_count, &r->input_room, sizeof *r->inputs))
        return no_memory(err);
    buf_clear(&r->text);
    TRY(streami_origin(e, &r->text, &r->rest, &meta, err));
    in = &r->inputs[r->input_count++];
    *in = (struct streami_input){.list = streami_keep(r->arena, buf_slice(&r->text)),
                                 .id = e->id,
                                 .created_us = e->created_us,
                                 .version = e->version,
                                 .pos = e->pos.v,
                                 .flags = e->flags};
    if (in->list.data == NULL)
        return no_memory(err);
    r->move->events++;
    if (r->spec->route) /* each event by itself, wherever it stands */
        r->ordinal = 0;
    if (r->run == NULL)
        return take_out(r,
                        &(struct transform_out){.type = e->type,
                                                .data = e->data,
                                                .meta = meta,
                                                .json = (e->flags & LOG_JSON) != 0,
                                                .origins = &origin,
                                                .origin_count = 1},
                        err);
    rc = transform_event(r->run,
                         &(struct transform_event){.stream = e->stream,
                                                   .type = e->type,
                                                   .data = e->data,
                                                   .meta = meta,
                                                   .id = e->id,
                                                   .version = r->spec->route ? 0 : e->version,
                                                   .position = r->spec->route ? 0 : e->pos.v,
                                                   .created_us = e->created_us,
                                                   .json = (e->flags & LOG_JSON) != 0 &&
                                                           (e->flags & LOG_SEALED) == 0},
                         err);
out:
    return rc;
}

/* A version of the range was not there: of an audit, where the original was scavenged. */
static int
gone(const struct streami_source *s, struct err *err)
{
    RETURN_ERR(err, E_GONE, ERR_DATA, "stream \"%.*s\": its originals are not all there any more",
               SLICE_FMT(s->stream));
}

static int
read_range(struct streami_reader *r, struct streami_source *s, struct err *err)
{
    struct log_read read = {.stream = s->stream, .from = s->first, .sealed = true, .raw = r->audit};
    struct log_iter *it = NULL;
    struct log_event e;
    uint64_t         next = s->first;
    int              rc = 0;

    if (s->first > s->head)
        return 0;
    TRY(log_iter_open(r->log, &read, &it, err));
    while ((rc = log_iter_next(it, &e, err)) == 0 && e.version <= s->head) {
        if (r->audit && e.version != next)
            TRY(gone(s, err));
        next = e.version + 1;
        if (!streami_is_mark(e.type, e.data, NULL))
            TRY(take_input(r, &e, err));
    }
    if (rc == E_END)
        rc = 0;
    if (rc == 0 && r->audit && next <= s->head)
        rc = gone(s, err);
out:
    log_iter_close(it);
    return rc;
}

static void
begin_source(struct streami_reader *r)
{
    r->inputs = NULL;
    r->input_count = r->input_room = 0;
    r->ordinal = 0;
    r->changed = false;
}

static int
end_source(struct streami_reader *r, struct streami_source *s, struct err *err)
{
    int rc = 0;

    if (r->run != NULL)
        TRY(transform_end(r->run, err));
    s->events = r->input_count;
    for (uint32_t i = 0; i < r->input_count; i++)
        r->changed = r->changed || !r->inputs[i].covered;
    s->invalid = r->changed && !r->spec->route &&
                 (r->spec->kind == STREAMI_COPY || r->spec->kind == STREAMI_REWRITE);
out:
    return rc;
}

/* One source from its first event to its last, through the transform. */
static int
read_source(struct streami_reader *r, uint32_t n, struct err *err)
{
    struct streami_source *s = &r->move->sources[n];
    int                    rc = 0;

    r->source = n;
    begin_source(r);
    if (r->run != NULL)
        TRY(transform_begin(r->run, s->stream, take_out, r, err));
    TRY(read_range(r, s, err));
    TRY(end_source(r, s, err));
out:
    return rc;
}

int
streami_move_events(struct streami_reader *r, struct streami_move *m,
                    const struct log_event *events, uint32_t count, struct err *err)
{
    int rc = 0;

    r->move = m;
    r->source = 0;
    m->outs = NULL;
    m->out_count = m->out_room = 0;
    m->bytes = 0;
    begin_source(r);
    if (r->run != NULL)
        TRY(transform_begin(r->run, m->sources[0].stream, take_out, r, err));
    for (uint32_t i = 0; i < count; i++)
        TRY(take_input(r, &events[i], err));
    TRY(end_source(r, &m->sources[0], err));
out:
    return rc;
}

/* which streams go together */

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

/* Is the stream's first readable event of this surgery: is it one of its targets? */
static int
begins_with_mark(struct streami_reader *r, const struct streami_source *s, bool *yes,
                 struct err *err)
{
    struct log_read  read = {.stream = s->stream, .from = s->first, .sealed = true};
    struct log_iter *it = NULL;
    int              rc = 0;

    *yes = false;
    TRY(log_iter_open(r->log, &read, &it, err));
    rc = log_iter_next(it, &r->first, err);
    if (rc == 0)
        *yes = streami_is_mark(r->first.type, r->first.data, r->spec->name) &&
               slice_is(r->first.type, STREAM_MIGRATED_TYPE);
    if (rc == 0 && !*yes && r->move->source_count == 1) { /* it is what is moved next */
        r->begun = it;
        it = NULL;
    }
    if (rc == E_END)
        rc = 0;
out:
    log_iter_close(it);
    return rc;
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

/* What is to be done with one source as it stands now. */
static int
look_at(struct streami_reader *r, struct streami_source *s, enum streami_verdict *verdict,
        struct err *err)
{
    struct log_stream info;
    bool              here = false;
    uint64_t          events = 0;
    int               rc;

    *verdict = STREAMI_SKIP;
    if (r->spec->route) /* before the state, so that the commit finds what came in between */
        TRY(streami_route_read(r->log, r->arena, s->stream, &s->route, err));
    rc = log_stream_brief(r->log, s->stream, &info, err);
    if (rc == E_NOTFOUND || rc == E_GONE)
        return 0;
    if (rc != 0)
        return rc;
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
        TRY(begins_with_mark(r, s, &here, err));
    if (!here)
        *verdict = STREAMI_MOVE;
    else if (r->spec->kind == STREAMI_REWRITE)
        *verdict = STREAMI_DONE;
out:
    return rc;
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

        TRY(look_at(r, &m->sources[i], &one, err));
        if (one == STREAMI_REFUSED || (i == 0 && one != STREAMI_MOVE)) {
            *verdict = one;
            return 0;
        }
        if (one == STREAMI_MOVE)
            m->sources[kept++] = m->sources[i];
    }
    m->source_count = kept;
    *verdict = STREAMI_MOVE;
out:
    return rc;
}

static int
by_pos(const void *a, const void *b)
{
    const struct streami_out *x = a, *y = b;

    return (x->pos > y->pos) - (x->pos < y->pos);
}

/* Errors that are about the stream, and not about the log or the machine. */
static bool
about_stream(int rc, const struct err *err)
{
    switch (rc) {
    case E_SCHEMA:
    case E_SYNTAX:
    case E_INVALID:
    case E_LIMIT:
    case E_STATE:
        return err->kind == ERR_DATA;
    default:
        return false;
    }
}

static int
build(struct streami_reader *r, struct streami_move *m, enum streami_verdict *verdict,
      struct err *err)
{
    uint32_t target;
    int      rc = 0;

    *verdict = STREAMI_MOVE;
    if (!r->audit) {
        if (r->spec->kind == STREAMI_JOIN)
            TRY(join_sources(r, err));
        TRY(choose_sources(r, verdict, err));
    }
    if (*verdict != STREAMI_MOVE)
        goto out;
    for (uint32_t i = 0; i < m->source_count; i++) {
        m->bytes += 2 * EVENT_OVERHEAD + m->sources[i].stream.len;
        TRY(read_source(r, i, err));
    }
    if (r->spec->kind == STREAMI_JOIN && m->out_count > 1)
        qsort(m->outs, m->out_count, sizeof *m->outs, by_pos);
    /* A copy has its target even where nothing is left to be in it. */
    r->source = 0;
    if (m->target_count == 0 && (r->spec->kind != STREAMI_SPLIT || r->spec->to != NULL))
        TRY(default_target(r, &target, err));
    if (m->target_count == 0)
        FAIL(err, E_SCHEMA, ERR_DATA, "none of its events goes anywhere, so it stays as it is");
    for (uint32_t t = 0; t < m->target_count && r->spec->route && !r->audit; t++)
        TRY(streami_route_read(r->log, r->arena, m->targets[t].stream, &m->targets[t].route, err));
out:
    return rc;
}

int
streami_move_build(struct streami_reader *r, struct streami_move *m, enum streami_verdict *verdict,
                   struct err *err)
{
    int rc;

    r->move = m;
    do {
        if (!r->audit)
            m->source_count = 1;
        m->target_count = m->out_count = 0;
        m->target_room = m->out_room = 0;
        m->events = m->bytes = 0;
        rc = build(r, m, verdict, err);
        log_iter_close(r->begun);
        r->begun = NULL;
    } while (rc != 0 && r->run != NULL && transform_again(r->run, rc));
    if (rc != 0 && !r->audit && about_stream(rc, err)) {
        *verdict = STREAMI_REFUSED;
        rc = 0;
    }
    if (!r->audit && (rc == E_NOTFOUND || rc == E_GONE)) { /* deleted meanwhile */
        *verdict = STREAMI_SKIP;
        rc = 0;
    }
    return rc;
}

void
streami_reader_fini(struct streami_reader *r)
{
    transform_run_free(r->run);
    r->run = NULL;
    buf_fini(&r->scratch);
    buf_fini(&r->text);
    buf_fini(&r->id_text);
    buf_fini(&r->rest);
}
