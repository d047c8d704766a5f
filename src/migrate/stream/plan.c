/*
 * Before the fact: what a spec would do, and what a second one would do with that. It reads and
 * transforms, and writes nothing.
 */
#include "base/bytes.h"
#include "base/json.h"
#include "migrate/stream/stream_int.h"

#define SAMPLES 5u
#define SHOWN 5u          /* events of a sample */
#define SHOWN_BYTES 2000u /* of an event's data */

struct planning {
    struct planning        *then; /* of what this one would make; NULL: nothing */
    struct streami_auditor *a;
    bool                    all;    /* of `then`: it selects nothing by itself */
    struct buf              joined; /* names of a join's targets, each with its length before it */
    uint64_t streams, targets, events, copies, bytes_before, bytes_after, changed, skipped, refused;
    struct buf samples;
    struct buf after; /* of the stream at hand: its first events, as they would be */
    uint32_t   shown; /* how many these are */
    uint64_t   marks; /* that moves would write */
    struct err why;
    struct buf refused_name;
};

static void
put_event(struct json_out *o, struct slice type, struct slice data, uint32_t flags)
{
    json_out_key(o, "type");
    json_out_string(o, type);
    json_out_key(o, "data");
    if ((flags & LOG_JSON) != 0 && (flags & LOG_SEALED) == 0 && data.len <= SHOWN_BYTES)
        json_out_raw(o, data);
    else
        json_out_null(o);
}

/* The first of what is made of a stream. */
static void
note_after(struct planning *p, const struct streami_move *m)
{
    struct json_out o;

    for (uint32_t i = 0; i < m->out_count && p->shown < SHOWN && p->streams < SAMPLES; i++) {
        const struct log_new_event *e = &m->outs[i].event;

        if (p->shown++ > 0)
            buf_add_byte(&p->after, ',');
        json_out_init(&o, &p->after);
        json_out_object(&o);
        json_out_key(&o, "stream");
        json_out_string(&o, m->targets[m->outs[i].target].stream);
        put_event(&o, e->type, e->data, e->flags);
        json_out_object_end(&o);
    }
}

/* What a plan reads is forgotten, but for the first of it. */
static int
forget(void *arg, struct streami_reader *r, struct err *err)
{
    struct streami_auditor *a = arg;

    note_after(a->arg, r->move);
    return streami_forget(a, r, err);
}

/* The first events of the stream, as they are. */
static int
put_before(struct planning *p, struct json_out *o, struct slice stream, struct err *err)
{
    struct log_read  read = {.stream = stream, .sealed = true};
    struct log_iter *it = NULL;
    struct log_event e;
    int              rc = log_iter_open(p->a->log, &read, &it, err);

    if (rc != 0) /* it is not there yet, or not any more */
        return rc == E_NOTFOUND || rc == E_GONE ? 0 : rc;
    for (uint32_t n = 0; n < SHOWN && (rc = streami_next(it, &e, err)) == 0;) {
        if (streami_is_mark(e.type, e.data, NULL))
            continue;
        json_out_object(o);
        json_out_key(o, "version");
        json_out_u64(o, e.version);
        put_event(o, e.type, e.data, e.flags);
        json_out_object_end(o);
        n++;
    }
    log_iter_close(it);
    return rc == E_END ? 0 : rc;
}

static int
put_sample(struct planning *p, const struct streami_move *m, struct err *err)
{
    struct json_out o;
    int             rc;

    if (p->streams > SAMPLES)
        return 0;
    if (p->samples.len > 0)
        buf_add_byte(&p->samples, ',');
    json_out_init(&o, &p->samples);
    json_out_object(&o);
    json_out_key(&o, "stream");
    json_out_string(&o, m->sources[0].stream);
    json_out_key(&o, "events");
    json_out_u64(&o, m->events);
    json_out_key(&o, "targets");
    json_out_array(&o);
    for (uint32_t t = 0; t < m->target_count && t < SAMPLES; t++) {
        json_out_object(&o);
        json_out_key(&o, "stream");
        json_out_string(&o, m->targets[t].stream);
        json_out_key(&o, "events");
        json_out_u64(&o, m->targets[t].count);
        json_out_object_end(&o);
    }
    json_out_array_end(&o);
    json_out_key(&o, "before");
    json_out_array(&o);
    rc = put_before(p, &o, m->sources[0].stream, err);
    json_out_array_end(&o);
    json_out_key(&o, "after");
    json_out_array(&o);
    if (p->after.len > 0)
        json_out_raw(&o, buf_slice(&p->after));
    json_out_array_end(&o);
    json_out_object_end(&o);
    return rc;
}

static void
note_refused(struct planning *p, struct slice stream, const struct err *why)
{
    if (p->refused++ > 0)
        return;
    p->why = *why;
    buf_add_slice(&p->refused_name, stream);
}

static int
note_move(struct planning *p, const struct streami_move *m, struct err *err)
{
    const struct streami_spec *spec = p->a->spec;
    int                        rc;

    note_after(p, m); /* where all of it is held */

    p->streams += m->source_count;
    p->targets += m->target_count;
    p->events += m->events;
    p->copies += m->copies;
    p->bytes_after += m->bytes;
    for (uint32_t i = 0; i < m->source_count; i++)
        p->changed += m->sources[i].invalid;
    p->marks += (uint64_t)m->source_count * m->target_count;
    if (spec->kind != STREAMI_REWRITE && !spec->route)
        p->marks += m->source_count;
    rc = put_sample(p, m, err);
    buf_clear(&p->after);
    p->shown = 0;
    return rc;
}

/* the second of two */

static bool
selects(const struct planning *q, struct slice stream)
{
    const struct streami_spec *spec = q->a->spec;

    for (uint32_t i = 0; i < spec->set_count && !q->all; i++) {
        bool here = spec->listed
                        ? slice_is(stream, spec->sets[i])
                        : spec->categories || slice_starts(stream, slice_str(spec->sets[i]));

        if (here && streami_wanted(spec, i, stream))
            return true;
    }
    return q->all;
}

/* A join changes nothing: its targets are all that there is to find out. */
static int
then_join(struct planning *q, struct slice stream, uint32_t count, struct err *err)
{
    struct buf *to = &q->a->text;
    uint8_t     len[2];
    int         rc;

    rc = streami_target(q->a->spec, stream, to, err);
    if (rc != 0)
        return rc;
    q->streams++;
    q->events += count;
    q->copies += count;
    for (size_t at = 0; at < q->joined.len; at += 2 + get_u16(q->joined.data + at))
        if (slice_eq(buf_slice(to),
                     slice_of(q->joined.data + at + 2, get_u16(q->joined.data + at))))
            return 0;
    q->targets++;
    put_u16(len, (uint16_t)to->len);
    buf_add(&q->joined, len, 2);
    buf_add_slice(&q->joined, buf_slice(to));
    return 0;
}

static int
then_target(struct planning *q, const struct streami_move *first, uint32_t target, struct err *err)
{
    struct slice          stream = first->targets[target].stream;
    struct streami_source source = {.stream = stream};
    struct streami_move   m = {.sources = &source, .source_count = 1};
    struct log_event     *events;
    uint32_t              n = 0;
    int                   rc;

    if (q->a->spec->kind == STREAMI_JOIN)
        return then_join(q, stream, first->targets[target].count, err);
    events =
        streami_alloc(&q->a->arena, (first->targets[target].count + (size_t)1) * sizeof *events);
    if (events == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a plan");
    for (uint32_t i = 0; i < first->out_count; i++) {
        const struct log_new_event *e = &first->outs[i].event;

        if (first->outs[i].target != target)
            continue;
        events[n] = (struct log_event){.stream = stream,
                                       .version = n + first->source_count, /* behind the marks */
                                       .pos = LOG_POS(first->outs[i].pos),
                                       .type = e->type,
                                       .data = e->data,
                                       .meta = e->meta,
                                       .id = e->id,
                                       .created_us = e->created_us,
                                       .flags = e->flags};
        n++;
    }
    rc = streami_move_events(&q->a->reader, &m, events, n, err);
    if (rc == 0)
        rc = note_move(q, &m, err);
    return rc;
}

static int
plan_then(struct planning *q, const struct streami_move *first, struct err *err)
{
    struct err why;
    int        rc = 0;

    for (uint32_t t = 0; t < first->target_count && rc == 0; t++) {
        if (!selects(q, first->targets[t].stream)) {
            q->skipped++;
            continue;
        }
        err_clear(&why);
        rc = then_target(q, first, t, &why);
        if (rc != 0 && why.kind == ERR_DATA) {
            note_refused(q, first->targets[t].stream, &why);
            rc = 0;
        } else if (rc != 0) {
            err_copy(err, &why);
        }
        streami_reset(&q->a->arena);
    }
    return rc;
}

static int
plan_each(struct streami_auditor *a, void *arg, struct slice stream, struct err *err)
{
    struct planning     *p = arg;
    struct streami_move  m = {0};
    enum streami_verdict verdict;
    struct err           why;
    int                  rc;

    if (!streami_grow(&a->arena, &m.sources, 0, &m.source_room, sizeof *m.sources))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a plan");
    m.sources[0] = (struct streami_source){.stream = stream};
    m.source_count = 1;
    err_clear(&why);
    buf_clear(&p->after);
    p->shown = 0;
    rc = streami_move_build(&a->reader, &m, &verdict, &why);
    if (rc != 0) {
        err_copy(err, &why);
        return rc;
    }
    if (verdict == STREAMI_REFUSED) {
        note_refused(p, stream, &why);
        return 0;
    }
    if (verdict == STREAMI_STAGES) { /* a second one would need all of it at once */
        (void)err_set(&why, __FILE__, __LINE__, E_LIMIT, ERR_DATA,
                      "is too large to be planned through two surgeries");
        note_refused(p, stream, &why);
        return 0;
    }
    if (verdict != STREAMI_MOVE || !slice_eq(m.sources[0].stream, stream)) {
        p->skipped++;
        return 0;
    }
    rc = note_move(p, &m, err);
    return rc != 0 || p->then == NULL ? rc : plan_then(p->then, &m, err);
}

static void
put(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

/* What those who read by position are given for it: nothing of it comes to who skips copies. */
static void
put_consumers(struct json_out *o, const struct planning *p, const struct streami_spec *spec)
{
    json_out_key(o, "consumers");
    json_out_object(o);
    json_out_key(o, "deliver");
    json_out_object(o);
    put(o, spec->link ? "links" : "copies", p->copies);
    put(o, "marks", p->marks);
    put(o, "invalidated", p->changed);
    json_out_object_end(o);
    json_out_key(o, "skip");
    json_out_object(o);
    put(o, "copies", 0);
    json_out_object_end(o);
    json_out_object_end(o);
}

/* All that is selected at the rate of this plan, and as long again for the writing. */
static void
put_time(struct json_out *o, const struct planning *p, const struct streami_spec *spec,
         uint64_t looked, uint64_t all_streams, uint64_t took_us)
{
    double share = looked == 0 || all_streams < looked ? 1 : (double)all_streams / (double)looked;
    double s = 2 * share * (double)took_us / 1e6, least = 0;

    if (spec->max_rate > 0)
        least = share * (double)p->events / (double)spec->max_rate;
    put(o, "streams_selected", all_streams > looked ? all_streams : looked);
    put(o, "seconds", (uint64_t)((s > least ? s : least) + 1));
}

static void
put_plan(const struct planning *p, const struct streami_spec *spec, uint64_t looked, bool all,
         uint64_t all_streams, uint64_t took_us, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "kind");
    json_out_str(&o, spec->word);
    json_out_key(&o, "whole");
    json_out_bool(&o, all);
    put(&o, "looked_at", looked);
    put(&o, "streams", p->streams);
    put(&o, "targets", p->targets);
    put(&o, "events_before", p->events);
    put(&o, "events_after", p->copies);
    put(&o, "bytes_written", p->bytes_after);
    put(&o, "streams_changed", p->changed);
    put(&o, "skipped", p->skipped);
    put(&o, "refused", p->refused);
    json_out_key(&o, "first_refused");
    if (p->refused > 0) {
        json_out_object(&o);
        json_out_key(&o, "stream");
        json_out_string(&o, buf_slice(&p->refused_name));
        json_out_key(&o, "reason");
        json_out_str(&o, p->why.text);
        json_out_object_end(&o);
    } else {
        json_out_null(&o);
    }
    put(&o, "events_per_s", took_us == 0 ? 0 : p->events * 1000000 / took_us);
    put_consumers(&o, p, spec);
    put_time(&o, p, spec, looked, all_streams, took_us);
    json_out_key(&o, "samples");
    json_out_array(&o);
    if (p->samples.len > 0)
        json_out_raw(&o, buf_slice(&p->samples));
    json_out_array_end(&o);
    json_out_object_end(&o);
}

/* One spec, or two in a list, of which the second need not say of what. */
static int
read_specs(struct slice json, struct slice specs[2], unsigned *count, struct buf *text, bool *all,
           struct err *err)
{
    static const char *const selects[] = {"stream", "streams", "prefix", "category"};
    struct slice             raw, value;
    struct json_iter         it;
    int                      rc;

    *count = 1;
    specs[0] = json;
    TRY(json_value(json, &raw, err));
    if (json_type(raw) != JSON_ARRAY)
        goto out;
    *count = 0;
    TRY(json_array_iter(&it, raw, err));
    while ((rc = json_iter_next(&it, NULL, &value, err)) == 0 && *count < 2)
        specs[(*count)++] = value;
    if (rc != 0 && rc != E_END)
        goto out;
    if (rc == 0 || *count != 2 || json_type(specs[1]) != JSON_OBJECT)
        FAIL(err, E_SCHEMA, ERR_DATA, "a plan is of one surgery, or of a list of two");
    rc = 0;
    *all = true;
    for (unsigned i = 0; i < 4; i++)
        *all = *all && !json_get(specs[1], selects[i], &value);
    if (!*all)
        goto out;
    buf_add_str(text, "{\"prefix\":\"-\""); /* it has to have one */
    if (specs[1].len > 2)
        buf_add_byte(text, ',');
    buf_add(text, (const char *)specs[1].data + 1, specs[1].len - 1);
    specs[1] = buf_slice(text);
out:
    return rc;
}

int
stream_plan(struct ox_env *env, struct log *log, struct slice name, struct slice spec,
            uint64_t sample, const atomic_bool *stop, struct buf *out, struct err *err)
{
    struct planning        p[2] = {0};
    struct streami_auditor a[2] = {{.stop = stop}, {.stop = stop}};
    struct slice           specs[2];
    struct buf             text = {0};
    uint64_t               selected = 0, seen = 0, began = env->ops->mono_us(env), took;
    unsigned               count = 0;
    bool                   whole;
    int                    rc;

    TRY(read_specs(spec, specs, &count, &text, &p[1].all, err));
    for (unsigned i = 0; i < count; i++) {
        TRY(streami_auditor_open(log, name, specs[i], count == 1 ? forget : NULL, &a[i], err));
        p[i].a = &a[i];
        a[i].arg = &p[i];
    }
    p[0].then = count > 1 ? &p[1] : NULL;
    TRY(streami_auditor_each(&a[0], sample, plan_each, &p[0], &seen, err));
    took = env->ops->mono_us(env) - began;
    whole = sample == 0 || seen < sample;
    TRY(streami_page_estimate(log, a[0].spec, &selected, err));
    put_plan(&p[0], a[0].spec, seen, whole, whole ? seen : selected, took, out);
    if (count > 1 && out->len > 0) {
        out->len--;
        buf_add_str(out, ",\"then\":");
        put_plan(&p[1], a[1].spec, p[0].targets, whole, p[0].targets, took, out);
        buf_add_byte(out, '}');
    }
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a plan");
out:
    for (unsigned i = 0; i < 2; i++) {
        streami_auditor_close(&a[i]);
        buf_fini(&p[i].samples);
        buf_fini(&p[i].refused_name);
        buf_fini(&p[i].joined);
        buf_fini(&p[i].after);
    }
    buf_fini(&text);
    return rc;
}
