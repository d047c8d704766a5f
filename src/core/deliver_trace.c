/* A delivery's span: of an event whose metadata says by which append it came. */
#include "core/deliver_int.h"

void
deliveri_trace_sent(struct deliver *d, struct item *it)
{
    if (d->conf.traces != NULL)
        it->sent_us = d->env->ops->wall_us(d->env);
}

void
deliveri_trace_done(struct deliver *d, const struct item *it, int rc)
{
    struct trace_span s;

    if (d->conf.traces == NULL || rc == E_INTERRUPTED || it->sent_us == 0)
        return;
    s = (struct trace_span){
        .kind = TRACE_PRODUCER, .name = "deliver", .has_parent = true, .has_link = true};
    if (!trace_of_metadata(it->base.meta, &s.parent))
        return;
    s.link = s.parent;
    s.begin_us = it->sent_us;
    s.end_us = d->env->ops->wall_us(d->env);
    s.failed = rc != 0;
    trace_begin(d->conf.traces, &s.parent, &s.context);
    trace_attr_text(&s, "oxbow.sink", slice_str(d->name));
    trace_attr_number(&s, "oxbow.position", it->base.pos.v);
    trace_attr_number(&s, "oxbow.attempt", it->base.attempt);
    if (rc != 0)
        trace_attr_text(&s, "error.type", slice_str(err_name(rc)));
    trace_put(d->conf.traces, &s);
}
