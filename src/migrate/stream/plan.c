/*
 * Before the fact: what a spec would do, and what a second one would do with that. It reads and
 * transforms, and writes nothing.
 */
#include "base/bytes.h"
#include "base/json.h"
#include "migrate/stream/stream_int.h"

struct planning {
    struct planning        *then; /* of what this one would make; NULL: nothing */
    struct streami_auditor *a;
    bool                    all;    /* of `then`: it selects nothing by itself */
    struct buf              joined; /* names of a join's targets, each with its length before it */
    uint64_t streams, targets, events, copies, bytes_before, bytes_after, changed, skipped, refused;
    struct buf samples;
    struct err why;
    struct buf refused_name;
};

#define SAMPLES 5

static void
put_sample(struct planning *p, const struct streami_move *m)
{
    struct json_out o;

    if (p->streams > SAMPLES)
        return;
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
    json_out_object_end(&o);
}

static void
note_refused(struct planning *p, struct slice stream, const struct err *why)
{
    if (p->refused++ > 0)
        return;
    p->why = *why;
    buf_add_slice(&p->refused_name, stream);
}

static void
note_move(struct planning *p, const struct streami_move *m)
{
    p->streams += m->source_count;
    p->targets += m->target_count;
    p->events += m->events;
    p->copies += m->copies;
    p->bytes_after += m->bytes;
    for (uint32_t i = 0; i < m->source_count; i++)
        p->changed += m->sources[i].invalid;
    put_sample(p, m);
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
        note_move(q, &m);
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
    note_move(p, &m);
    return p->then == NULL ? 0 : plan_then(p->then, &m, err);
}

static void
put(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_plan(const struct planning *p, const struct streami_spec *spec, uint64_t looked, bool all,
         uint64_t took_us, struct buf *out)
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
    put(&o, "streams_changed", p->changed); /* consumers see Invalidated */
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
    uint64_t               seen = 0, began = env->ops->mono_us(env), took;
    unsigned               count = 0;
    bool                   whole;
    int                    rc;

    TRY(read_specs(spec, specs, &count, &text, &p[1].all, err));
    for (unsigned i = 0; i < count; i++) {
        TRY(streami_auditor_open(log, name, specs[i], count == 1 ? streami_forget : NULL, &a[i],
                                 err));
        p[i].a = &a[i];
    }
    p[0].then = count > 1 ? &p[1] : NULL;
    TRY(streami_auditor_each(&a[0], sample, plan_each, &p[0], &seen, err));
    took = env->ops->mono_us(env) - began;
    whole = sample == 0 || seen < sample;
    put_plan(&p[0], a[0].spec, seen, whole, took, out);
    if (count > 1 && out->len > 0) {
        out->len--;
        buf_add_str(out, ",\"then\":");
        put_plan(&p[1], a[1].spec, p[0].targets, whole, took, out);
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
    }
    buf_fini(&text);
    return rc;
}
