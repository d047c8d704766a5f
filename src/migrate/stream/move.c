/*
 * One stream's move in memory: what is read of the sources, what the transform
 * makes of it, and where it goes. The same code builds a move to commit it, to
 * plan it, and to audit it later.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/must.h"
#include "log/copied.h"
#include "migrate/stream/stream_int.h"

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
    m->bytes += 2 * STREAMI_EVENT_OVERHEAD + name.len;
    *out = m->target_count++;
    return 0;
}

static int
default_target(struct streami_reader *r, uint32_t *out, struct err *err)
{
    struct slice stream = r->move->sources[r->source].stream;
    int          rc = 0;

    if (r->has_target) { /* that of a join's first source is that of all */
        *out = r->target;
        return 0;
    }
    if (r->spec->kind != STREAMI_REWRITE) {
        TRY(streami_target(r->spec, stream, &r->scratch, err));
        stream = buf_slice(&r->scratch);
    }
    TRY(find_target(r, stream, &r->target, err));
    *out = r->target;
    r->has_target = true;
out:
    return rc;
}

/* Of inputs whose versions follow each other, the first one. */
struct streami_run {
    uint64_t ordinal, version;
};

/* Which version the input was. */
static uint64_t
version_of(const struct streami_reader *r, uint64_t ordinal)
{
    const struct streami_run *runs = (const void *)r->runs.data;
    size_t                    lo = 0, hi = r->runs.len / sizeof *runs;

    must(hi > 0);
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;

        if (runs[mid].ordinal <= ordinal)
            lo = mid;
        else
            hi = mid;
    }
    return runs[lo].version + (ordinal - runs[lo].ordinal);
}

/* One that is not in the list any more, read again. */
static int
old_input(struct streami_reader *r, uint64_t ordinal, struct streami_input **out, struct err *err)
{
    struct log_read  read = {.stream = r->move->sources[r->source].stream,
                             .from = version_of(r, ordinal),
                             .sealed = true,
                             .raw = true};
    struct log_iter *it = NULL;
    struct log_event e;
    struct buf       list = {0}, rest = {0};
    struct slice     meta;
    int              rc;

    *out = streami_alloc(r->bulk, sizeof **out);
    if (*out == NULL)
        return no_memory(err);
    TRY(log_iter_open(r->log, &read, &it, err));
    rc = log_iter_next(it, &e, err);
    if (rc == E_END || (rc == 0 && e.version != read.from))
        FAIL(err, E_GONE, ERR_DATA, "stream \"%.*s\": its event %" PRIu64 " went while it was read",
             SLICE_FMT(read.stream), read.from);
    if (rc != 0)
        goto out;
    TRY(streami_origin(&e, &list, &rest, &meta, err));
    **out = (struct streami_input){.list = streami_keep(r->bulk, buf_slice(&list)),
                                   .id = e.id,
                                   .created_us = e.created_us,
                                   .version = e.version,
                                   .pos = e.pos.v,
                                   .flags = e.flags};
    if ((*out)->list.data == NULL)
        rc = no_memory(err);
out:
    log_iter_close(it);
    buf_fini(&list);
    buf_fini(&rest);
    return rc;
}

static int
input_of(struct streami_reader *r, uint64_t ordinal, struct streami_input **out, struct err *err)
{
    if (ordinal < r->input_base)
        return old_input(r, ordinal, out, err);
    must(ordinal - r->input_base < r->input_count);
    *out = &r->inputs[ordinal - r->input_base];
    return 0;
}

/* The inputs that an output stands for; `one` has room for a list of one. */
static int
inputs_of(struct streami_reader *r, const struct transform_out *out, struct streami_input **one,
          struct streami_input ***list, struct err *err)
{
    int rc = 0;

    *list = one;
    *one = NULL;
    if (out->origin_count > 1)
        *list = streami_alloc(r->bulk, out->origin_count * sizeof **list);
    if (*list == NULL)
        return no_memory(err);
    for (size_t i = 0; i < out->origin_count; i++)
        TRY(input_of(r, out->origins[i], &(*list)[i], err));
out:
    return rc;
}

/* What a copy that is not the event itself is known by: the same in every run. */
static struct ox_id
derived_id(struct streami_reader *r, const struct transform_out *out,
           struct streami_input *const *ins)
{
    struct slice stream = r->move->sources[r->source].stream;
    struct buf  *b = &r->id_text;

    if (r->spec->route)
        return streami_route_id(r->spec, stream, &ins[0]->id, r->move->sources[r->source].ordinal,
                                b);
    buf_clear(b);
    buf_add_str(b, r->spec->name);
    buf_add_byte(b, '\0');
    buf_add_slice(b, stream);
    buf_add_byte(b, '\0');
    for (size_t i = 0; i < out->origin_count; i++) {
        buf_add_u64(b, ins[i]->version);
        buf_add_byte(b, ',');
    }
    buf_add_byte(b, '#');
    buf_add_u64(b, r->move->sources[r->source].ordinal);
    return id_of_bytes(buf_slice(b));
}

static int
put_meta(struct streami_reader *r, const struct transform_out *out,
         struct streami_input *const *ins, struct slice *meta, struct err *err)
{
    struct slice list = {0};
    int          rc;

    buf_clear(&r->text);
    if (out->origin_count == 1) {
        list = ins[0]->list;
    } else {
        buf_clear(&r->scratch);
        for (size_t i = 0; i < out->origin_count; i++) {
            if (i > 0)
                buf_add_byte(&r->scratch, ',');
            buf_add_slice(&r->scratch, ins[i]->list);
        }
        list = buf_slice(&r->scratch);
    }
    TRY(streami_copied(out->meta, list, &r->text, err));
    *meta = streami_keep(r->bulk, buf_slice(&r->text));
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
    e->data = streami_keep(r->bulk, buf_slice(&r->text));
    e->meta = slice_of(NULL, 0);
    e->flags = LOG_LINK;
    return e->data.data == NULL ? no_memory(err) : 0;
}

/* Some output stands for these. */
static int
cover(struct streami_reader *r, const struct transform_out *out, struct streami_input *const *ins,
      bool same, struct err *err)
{
    for (size_t i = 0; i < out->origin_count; i++) {
        size_t byte = (size_t)(out->origins[i] / 8);

        while (r->covered.len <= byte && !r->covered.failed)
            buf_add_byte(&r->covered, 0);
        if (r->covered.failed)
            return no_memory(err);
        r->covered.data[byte] |= (uint8_t)(1u << out->origins[i] % 8);
        must(ins[i] != NULL);
        if ((ins[i]->flags & LOG_SEALED) != 0 && !same)
            RETURN_ERR(err, E_STATE, ERR_DATA,
                       "event %" PRIu64
                       " is under a subject's key, so it can be moved but not changed",
                       ins[i]->version);
    }
    return 0;
}

/* It is more than one commit should have, or than memory. */
static int
check_size(struct streami_reader *r, struct err *err)
{
    const struct streami_move *m = r->move;
    bool                       whole = r->spec->kind == STREAMI_REWRITE || r->audit;
    uint64_t                   most = whole ? STREAMI_MOVE_MAX : r->spec->commit_bytes;

    if (r->spill != NULL)
        return m->bytes - r->spilled < r->spill_bytes && r->bulk->bytes < STREAMI_READ_MAX / 16
                   ? 0
                   : streami_spill(r, err);
    if (m->bytes <= most && r->bulk->bytes <= STREAMI_READ_MAX)
        return 0;
    r->too_large = !whole;
    RETURN_ERR(err, E_LIMIT, ERR_DATA,
               "its rewrite takes more than %" PRIu64
               " MiB, larger than one commit may be: a copy, split or join to new streams is made "
               "in stages",
               STREAMI_MOVE_MAX >> 20);
}

static int
choose_target(struct streami_reader *r, const struct transform_out *out, uint32_t *target,
              struct err *err)
{
    if (out->stream.data == NULL)
        return default_target(r, target, err);
    if (r->spec->kind != STREAMI_SPLIT)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "the transform routes to \"%.*s\": only a split does",
                   SLICE_FMT(out->stream));
    return find_target(r, out->stream, target, err);
}

static int
take_out(void *arg, const struct transform_out *out, struct err *err)
{
    struct streami_reader *r = arg;
    struct streami_move   *m = r->move;
    struct streami_out    *o;
    struct streami_input  *one, **ins, *in;
    bool                   same;
    int                    rc;

    TRY(inputs_of(r, out, &one, &ins, err));
    in = out->origin_count == 0 ? NULL : ins[0];
    same = in != NULL && out->origin_count == 1 && !out->changed;
    if (!streami_grow(r->bulk, &m->outs, m->out_count, &m->out_room, sizeof *m->outs))
        return no_memory(err);
    o = &m->outs[m->out_count];
    memset(o, 0, sizeof *o);
    TRY(choose_target(r, out, &o->target, err));
    TRY(cover(r, out, ins, same, err));
    r->changed = r->changed || !same;
    o->event = (struct log_new_event){
        .id = same && !r->spec->link ? in->id : derived_id(r, out, ins),
        .type = streami_keep(r->bulk, out->type),
        .data = streami_keep(r->bulk, out->data),
        .created_us = in == NULL ? 0 : in->created_us,
        .flags = (out->json ? (uint32_t)LOG_JSON : 0) |
                 (same ? in->flags & (uint32_t)(LOG_LINK | LOG_SEALED | LOG_JSON) : 0),
    };
    TRY(put_meta(r, out, ins, &o->event.meta, err));
    if (r->spec->link && in != NULL)
        TRY(link_event(r, in, &o->event, err));
    if (o->event.type.data == NULL || o->event.data.data == NULL)
        return no_memory(err);
    m->sources[r->source].ordinal++;
    m->targets[o->target].count++;
    m->out_count++;
    m->copies++;
    m->bytes += STREAMI_EVENT_OVERHEAD + o->event.type.len + o->event.data.len + o->event.meta.len +
                m->targets[o->target].stream.len;
    rc = check_size(r, err);
out:
    return rc;
}

int
streami_spill(struct streami_reader *r, struct err *err)
{
    int rc = r->spill(r->spill_arg, r, err);

    r->spilled = r->move->bytes;
    r->input_base += r->input_count;
    r->inputs = NULL;
    r->input_count = r->input_room = 0;
    r->move->outs = NULL;
    r->move->out_count = r->move->out_room = 0;
    streami_reset(r->bulk);
    return rc;
}

/* inputs */

static int
note_version(struct streami_reader *r, uint64_t ordinal, uint64_t version, struct err *err)
{
    struct streami_run run = {ordinal, version};

    if (r->runs.len > 0 && version_of(r, ordinal) == version)
        return 0;
    buf_add(&r->runs, &run, sizeof run);
    return r->runs.failed ? no_memory(err) : 0;
}

static struct transform_event
as_input(const struct streami_reader *r, const struct log_event *e)
{
    return (struct transform_event){.stream = e->stream,
                                    .type = e->type,
                                    .data = e->data,
                                    .meta = e->meta,
                                    .id = e->id,
                                    .version = r->spec->route ? 0 : e->version,
                                    .position = r->spec->route ? 0 : e->pos.v,
                                    .created_us = e->created_us,
                                    .json =
                                        (e->flags & LOG_JSON) != 0 && (e->flags & LOG_SEALED) == 0};
}

int
streami_is_named(struct streami_reader *r, const struct log_event *e, bool *yes, struct err *err)
{
    struct transform_event in = as_input(r, e);

    *yes = true;
    return r->spec->where == NULL ? 0
                                  : transform_where_holds(r->spec->where, &in, &r->text, yes, err);
}

/* Does the surgery's condition name it? A rewrite takes a stream whole, of which it names one. */
static int
is_named(struct streami_reader *r, const struct transform_event *in, bool *yes, struct err *err)
{
    int rc;

    *yes = true;
    if (r->spec->where == NULL || (r->named > 0 && r->spec->kind == STREAMI_REWRITE))
        return 0;
    rc = transform_where_holds(r->spec->where, in, &r->text, yes, err);
    r->named += rc == 0 && *yes;
    *yes = *yes || r->spec->kind == STREAMI_REWRITE;
    return rc;
}

static int
take_input(struct streami_reader *r, const struct log_event *e, struct err *err)
{
    const uint64_t         origin = r->input_base + r->input_count;
    struct transform_event event = as_input(r, e);
    struct streami_input  *in;
    bool                   named;
    int                    rc;

    r->looked++;
    TRY(is_named(r, &event, &named, err));
    if (!named)
        goto out;
    if (!streami_grow(r->bulk, &r->inputs, r->input_count, &r->input_room, sizeof *r->inputs))
        return no_memory(err);
    buf_clear(&r->text);
    TRY(streami_origin(e, &r->text, &r->rest, &event.meta, err));
    in = &r->inputs[r->input_count++];
    *in = (struct streami_input){.list = streami_keep(r->bulk, buf_slice(&r->text)),
                                 .id = e->id,
                                 .created_us = e->created_us,
                                 .version = e->version,
                                 .pos = e->pos.v,
                                 .flags = e->flags};
    if (in->list.data == NULL)
        return no_memory(err);
    r->move->events++;
    r->move->sources[r->source].events++;
    if (r->spec->route) /* each event by itself, wherever it stands */
        r->move->sources[r->source].ordinal = 0;
    if (r->run == NULL)
        return take_out(r,
                        &(struct transform_out){.type = e->type,
                                                .data = e->data,
                                                .meta = event.meta,
                                                .json = (e->flags & LOG_JSON) != 0,
                                                .origins = &origin,
                                                .origin_count = 1},
                        err);
    TRY(note_version(r, origin, e->version, err));
    TRY(transform_event(r->run, &event, err));
    rc = check_size(r, err); /* of inputs that give nothing */
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

/* A source on its way from `from` to its head. */
struct cursor {
    struct log_iter *it;
    struct log_event e; /* the next one */
    uint64_t         next;
    uint32_t         source;
};

/* Rewritten in place while it was read: what was read of it does not hold. */
static bool
was_rewritten(struct streami_reader *r, const struct log_event *e)
{
    uint64_t first, last;

    return r->again && streami_range_of(e, NULL, &r->text, &first, &last) &&
           slice_eq(buf_slice(&r->text), e->stream);
}

/* To the next event that is no mark. E_END: that was the last one. */
static int
advance(struct streami_reader *r, struct cursor *c, struct err *err)
{
    const struct streami_source *s = &r->move->sources[c->source];
    int                          rc;

    while ((rc = log_iter_next(c->it, &c->e, err)) == 0 && c->e.version <= s->head) {
        if (r->audit && c->e.version != c->next)
            return gone(s, err);
        c->next = c->e.version + 1;
        if (!streami_is_mark(c->e.type, c->e.data, NULL))
            return 0;
        if (was_rewritten(r, &c->e)) {
            r->stale = true;
            RETURN_ERR(err, E_STATE, ERR_DATA, "it was rewritten while it was read");
        }
    }
    if (rc != 0 && rc != E_END)
        return rc;
    return r->audit && c->next <= s->head ? gone(s, err) : E_END;
}

/* The first of the heap's cursors is where it belongs, the one whose event stands first. */
static void
sift(struct cursor **heap, uint32_t count)
{
    for (uint32_t i = 0;;) {
        uint32_t       low = i;
        struct cursor *swap;

        for (uint32_t k = 2 * i + 1; k <= 2 * i + 2 && k < count; k++)
            if (heap[k]->e.pos.v < heap[low]->e.pos.v)
                low = k;
        if (low == i)
            return;
        swap = heap[i];
        heap[i] = heap[low];
        heap[low] = swap;
        i = low;
    }
}

/* Opens the source; it is in the heap where it has events. */
static int
add_cursor(struct streami_reader *r, struct cursor *c, struct cursor **heap, uint32_t *count,
           struct err *err)
{
    struct streami_source *s = &r->move->sources[c->source];
    struct log_read        read = {
               .stream = s->stream, .from = s->from, .sealed = true, .raw = r->audit, .window = s->window};
    uint32_t i = *count;
    int      rc = 0;

    if (s->from > s->head)
        return 0;
    c->next = s->from;
    if (s->begun != NULL && s->from == s->first) { /* its first event was looked at */
        c->it = s->begun;
        c->e = s->begin;
        s->begun = NULL;
        if (c->e.version > s->head)
            return 0;
        if (streami_is_mark(c->e.type, c->e.data, NULL))
            rc = advance(r, c, err);
    } else {
        TRY(log_iter_open(r->log, &read, &c->it, err));
        rc = advance(r, c, err);
    }
    if (rc == E_END)
        return 0;
    if (rc != 0)
        goto out;
    for (; i > 0 && heap[(i - 1) / 2]->e.pos.v > c->e.pos.v; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = c;
    ++*count;
out:
    return rc;
}

int
streami_read_on(struct streami_reader *r, struct err *err)
{
    const uint32_t  sources = r->move->source_count;
    struct cursor  *all = streami_alloc(r->arena, sources * sizeof *all);
    struct cursor **heap = streami_alloc(r->arena, sources * sizeof(void *));
    uint32_t        count = 0;
    int             rc = 0;

    if (all == NULL || heap == NULL)
        return no_memory(err);
    memset(all, 0, sources * sizeof *all);
    for (uint32_t i = 0; i < sources; i++) {
        all[i].source = i;
        TRY(add_cursor(r, &all[i], heap, &count, err));
    }
    while (count > 0) {
        r->source = heap[0]->source;
        TRY(take_input(r, &heap[0]->e, err));
        rc = advance(r, heap[0], err);
        if (rc == E_END)
            heap[0] = heap[--count];
        else if (rc != 0)
            goto out;
        sift(heap, count);
    }
    rc = 0;
out:
    for (uint32_t i = 0; i < sources; i++)
        log_iter_close(all[i].it);
    return rc;
}

static void
begin_reading(struct streami_reader *r)
{
    r->source = 0;
    r->has_target = false;
    r->inputs = NULL;
    r->input_count = r->input_room = 0;
    r->input_base = 0;
    r->spilled = 0;
    r->changed = r->too_large = r->again = r->stale = false;
    r->looked = r->named = 0;
    buf_clear(&r->covered);
    buf_clear(&r->runs);
}

int
streami_read_begin(struct streami_reader *r, struct err *err)
{
    begin_reading(r);
    must(r->run == NULL || r->move->source_count == 1);
    return r->run == NULL ? 0
                          : transform_begin(r->run, r->move->sources[0].stream, take_out, r, err);
}

/* Does some output stand for each input? */
static bool
all_covered(const struct streami_reader *r)
{
    uint64_t count = r->input_base + r->input_count, full = count / 8;

    if (r->covered.len * 8 < count)
        return false;
    for (uint64_t i = 0; i < full; i++)
        if (r->covered.data[i] != 0xff)
            return false;
    return count % 8 == 0 || r->covered.data[full] == (1u << count % 8) - 1;
}

static int
end_inputs(struct streami_reader *r, struct err *err)
{
    int rc = 0;

    r->source = 0;
    if (r->run != NULL)
        TRY(transform_end(r->run, err));
    r->move->sources[0].invalid =
        (r->changed || !all_covered(r)) && !r->spec->route &&
        (r->spec->kind == STREAMI_COPY || r->spec->kind == STREAMI_REWRITE);
out:
    return rc;
}

int
streami_read_end(struct streami_reader *r, struct err *err)
{
    struct streami_move *m = r->move;
    uint32_t             target;
    int                  rc;

    TRY(end_inputs(r, err));
    /* A copy has its target even where nothing is left to be in it. */
    if (m->target_count == 0 && (r->spec->kind != STREAMI_SPLIT || r->spec->to != NULL))
        TRY(default_target(r, &target, err));
    if (m->target_count == 0)
        FAIL(err, E_SCHEMA, ERR_DATA, "none of its events goes anywhere, so it stays as it is");
out:
    return rc;
}

int
streami_move_events(struct streami_reader *r, struct streami_move *m,
                    const struct log_event *events, uint32_t count, struct err *err)
{
    int rc = 0;

    r->move = m;
    m->outs = NULL;
    m->out_count = m->out_room = 0;
    m->bytes = m->copies = 0;
    m->sources[0].ordinal = 0;
    m->sources[0].events = 0;
    begin_reading(r);
    if (r->run != NULL)
        TRY(transform_begin(r->run, m->sources[0].stream, take_out, r, err));
    for (uint32_t i = 0; i < count; i++)
        TRY(take_input(r, &events[i], err));
    TRY(end_inputs(r, err));
out:
    return rc;
}

bool
streami_about_stream(int rc, const struct err *err)
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
    int rc;

    TRY(streami_move_look(r, m, verdict, err));
    if (*verdict != STREAMI_MOVE)
        goto out;
    TRY(streami_read_begin(r, err));
    TRY(streami_read_on(r, err));
    if (r->spec->where != NULL && r->named == 0 && !r->audit) {
        *verdict = STREAMI_SKIP;
        goto out;
    }
    TRY(streami_read_end(r, err));
    for (uint32_t t = 0; t < m->target_count && r->spec->route && !r->audit; t++)
        TRY(streami_route_read(r->log, r->arena, m->targets[t].stream, &m->targets[t].route, err));
    if (r->spill != NULL)
        rc = streami_spill(r, err);
out:
    return rc;
}

int
streami_move_build(struct streami_reader *r, struct streami_move *m, enum streami_verdict *verdict,
                   struct err *err)
{
    int rc;

    do {
        r->too_large = false;
        rc = build(r, m, verdict, err);
        streami_let_go(m);
    } while (rc != 0 && r->run != NULL && !r->too_large && transform_again(r->run, rc));
    if (rc == E_LIMIT && r->too_large) {
        *verdict = STREAMI_STAGES;
        return 0;
    }
    if (rc != 0 && !r->audit && streami_about_stream(rc, err)) {
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
    for (uint32_t i = 0; i < STREAMI_WINDOWS; i++) {
        log_window_free(r->windows[i]);
        r->windows[i] = NULL;
    }
    buf_fini(&r->covered);
    buf_fini(&r->runs);
    buf_fini(&r->scratch);
    buf_fini(&r->text);
    buf_fini(&r->id_text);
    buf_fini(&r->rest);
}
