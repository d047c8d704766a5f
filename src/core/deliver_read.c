/* Reading for the window: what of the log is for this sink, and as what. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/must.h"
#include "core/deliver_int.h"

#define READ_MAX 1000u           /* events in one step */
#define READ_PATIENCE (4u << 20) /* bytes of the log looked through for one event */

void
deliveri_place(struct log_event *ev)
{
    if (ev->link.stream.len > 0)
        ev->pos = ev->link.pos;
}

int
deliveri_open_reader(struct deliver *d, struct err *err)
{
    uint64_t        from = d->range.on ? d->range.at : d->mark.v + 1;
    struct log_read read = {.from = from,
                            .filter = {.prefix = slice_str(d->prefix),
                                       .category = slice_str(d->category),
                                       .type = slice_str(d->type),
                                       .system = d->conf.system},
                            .patience = READ_PATIENCE,
                            .resolve = d->conf.resolve_links,
                            .skip_links = !d->conf.resolve_links && !d->conf.deliver_links,
                            .skip_moved = d->conf.skip_moved,
                            .start = from < d->start ? from : d->start};

    must(d->reader == NULL);
    d->read_from = read.from;
    d->range_read = false;
    return log_iter_open(d->log, &read, &d->reader, err);
}

/* shaping */

/* One step; its fault is the event's own and no error. */
static int
shape_by(struct transform *step, struct transform_run **run, struct shaped *s, struct err *err)
{
    struct transform_event in = {.stream = s->stream.len > 0 ? s->stream : s->ev.stream,
                                 .type = s->ev.type,
                                 .data = s->ev.data,
                                 .meta = s->ev.meta,
                                 .id = s->ev.id,
                                 .version = s->ev.version,
                                 .position = s->ev.pos.v,
                                 .created_us = s->ev.created_us,
                                 .json = (s->ev.flags & LOG_JSON) != 0 && s->ev.data.len > 0};
    struct transform_out   out;
    int                    rc = 0;

    must(!s->dropped);
    must(s->fault.code == 0);
    if (*run == NULL)
        TRY(transform_run_new(step, run, err));
    rc = transform_one(*run, &in, &out, &s->dropped, err);
    if (rc != 0 && err->kind == ERR_DATA) {
        err_copy(&s->fault, err);
        s->dropped = false;
        return 0;
    }
    if (rc != 0 || s->dropped)
        goto out;
    s->ev.type = out.type;
    s->ev.data = out.data;
    s->ev.meta = out.meta;
    s->ev.flags = (s->ev.flags & ~(uint32_t)LOG_JSON) | (out.json ? LOG_JSON : 0);
    if (out.stream.data != NULL)
        s->stream = out.stream;
out:
    return rc;
}

int
deliveri_shape(struct deliver *d, struct shaper *by, const struct log_event *ev, struct shaped *out,
               struct err *err)
{
    int rc = 0;

    out->ev = *ev;
    out->stream = slice_of(NULL, 0);
    out->dropped = false;
    out->fault.code = 0;
    for (int i = 0; i < DELIVERI_STEPS && !out->dropped && out->fault.code == 0; i++)
        if (d->steps[i] != NULL)
            TRY(shape_by(d->steps[i], &by->runs[i], out, err));
    must(!out->dropped || out->fault.code == 0);
out:
    return rc;
}

void
deliveri_shaper_fini(struct shaper *by)
{
    for (int i = 0; i < DELIVERI_STEPS; i++) {
        transform_run_free(by->runs[i]);
        by->runs[i] = NULL;
    }
}

/* reading */

static bool
own(const struct deliver *d, struct slice stream)
{
    return slice_is(stream, d->mark_stream) || slice_is(stream, d->parked_stream) ||
           slice_is(stream, d->later_stream);
}

/* After a restart an event may have been parked already, or stand before those that were. */
static int
take(struct deliver *d, struct shaped *s, struct err *err)
{
    struct lane *lane;
    struct item *it;
    bool         later, open;
    int          rc = deliveri_schedule(d, s, &later, err);

    must(d->holding);
    if (rc != 0 || later)
        return rc;
    lane = deliveri_lane(d, s->ev.stream, false);
    open = lane != NULL && lane->open > 0;
    if (open && deliveri_was_parked(d, lane, s->ev.pos))
        return 0;
    if (!open || d->conf.parked_pass || s->ev.pos.v < lane->behind.v)
        return deliveri_admit(d, s, ADMIT_LIVE, &it, err);
    rc = deliveri_admit(d, s, ADMIT_TO_PARK, &it, err);
    return rc != 0 ? rc : deliveri_park(d, it, NULL, err);
}

/* The next event, shaped into `held` where it is for this sink; E_END, E_MORE. */
static int
read_one(struct deliver *d, struct err *err)
{
    struct log_event ev;
    int              rc;

    must(!d->holding);
    TRY(log_iter_next(d->reader, &ev, err));
    if (own(d, ev.stream) || ev.dangling)
        return 0;
    if ((ev.flags & LOG_ERASED) != 0) {
        d->erased++; /* there is nothing to deliver of it */
        return 0;
    }
    deliveri_place(&ev);
    must(ev.pos.v >= d->read_from);
    if (d->range.on && ev.pos.v >= d->range.to) {
        d->range_read = true;
        return 0;
    }
    TRY(deliveri_shape(d, &d->shaper, &ev, &d->held, err));
    d->filtered += d->held.dropped;
    d->holding = !d->held.dropped;
    d->events_read++;
out:
    return rc;
}

/* With a delay the reading waits until the next event is old enough. */
static bool
is_early(struct deliver *d)
{
    int64_t due = d->held.ev.time_us + (int64_t)d->conf.delay_us;

    if (d->conf.delay_us == 0 || d->range.on || d->env->ops->wall_us(d->env) >= due)
        return false;
    d->delayed_until_us = due;
    return true;
}

int
deliveri_read_live(struct deliver *d, bool *progress, struct err *err)
{
    uint32_t max = d->far_side && d->sink->credit > READ_MAX ? d->sink->credit : READ_MAX;
    int      rc = 0;

    must(d->reader != NULL);
    must(!d->paused);
    must(!d->seeking);
    must(d->restart == RESTART_NONE);
    d->at_end = false;
    d->delayed_until_us = 0;
    /* What is read now would lie about, and be out of the cache when its turn comes. */
    if (d->sink->credit == 0 && d->ready.head != NULL)
        return 0;
    for (uint32_t n = 0; n < max && !d->range_read; n++) {
        rc = d->holding ? 0 : read_one(d, err);
        if (rc == E_END) {
            d->at_end = !d->range.on;
            d->range_read = d->range.on;
            return 0;
        }
        if (rc == E_MORE) { /* nothing for this sink in a while: look after the rest first */
            *progress = true;
            return 0;
        }
        TRY(rc);
        if (!d->holding)
            continue;
        if (is_early(d) || !deliveri_has_room(d, deliveri_item_bytes(&d->held)))
            return 0;
        TRY(take(d, &d->held, err));
        d->holding = false;
        *progress = true;
    }
    *progress = *progress || !d->range_read;
out:
    return rc;
}
