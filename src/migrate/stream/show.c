/* Status and results as JSON. */
#include <stdio.h>

#include "base/json.h"
#include "base/rfc3339.h"
#include "migrate/stream/stream_int.h"

/* Under the lock: how many events there are to be moved; UINT64_MAX: nobody knows. */
static uint64_t
events_left(const struct surgery *s, const struct stream_status *now)
{
    uint64_t staged = 0, left = 0, streams;

    for (uint32_t i = 0; i < s->spec->workers; i++) {
        const struct streami_progress *p = &s->workers[i].progress;

        staged += p->all > 0;
        left += p->all - p->looked;
    }
    if (now->all < now->seen + staged)
        return staged > 0 ? left : UINT64_MAX;
    streams = now->all - now->seen - staged;
    if (streams == 0)
        return staged > 0 ? left : UINT64_MAX;
    if (now->seen == 0 || now->events == 0)
        return UINT64_MAX;
    return left + (uint64_t)((double)streams * ((double)now->events / (double)now->seen));
}

/* Under the lock: a stream that is being moved in stages. */
static void
put_staged(const struct surgery *s, struct stream_status *out)
{
    for (uint32_t i = 0; i < s->spec->workers; i++) {
        const struct streami_progress *p = &s->workers[i].progress;

        if (p->all <= out->staged_all) /* the largest, where there are several */
            continue;
        memcpy(out->staged, p->stream, sizeof out->staged);
        out->staged_events = p->looked;
        out->staged_all = p->all;
    }
}

void
stream_get_status(struct surgery *s, struct stream_status *out)
{
    struct streami_counts c;

    memset(out, 0, sizeof *out);
    lock_take(&s->lock);
    c = s->live;
    out->state = s->state;
    (void)snprintf(out->name, sizeof out->name, "%s", s->spec->name);
    (void)snprintf(out->error, sizeof out->error, "%s", s->error);
    (void)snprintf(out->parked_why, sizeof out->parked_why, "%s", s->parked_why);
    out->kind = s->spec->word;
    out->streams = s->record.streams + c.streams;
    out->events = s->record.events + c.events;
    out->copies = s->record.copies + c.copies;
    out->skipped = s->record.skipped + c.skipped;
    out->parked = s->record.parked + c.parked;
    out->seen = s->record.seen + c.seen;
    out->lost = s->record.lost + c.lost;
    out->all = streami_is_working(s->state) || s->all > out->seen ? s->all : out->seen;
    out->events_per_s = streami_is_working(s->state) ? s->events_per_s : 0;
    out->left_s = UINT64_MAX;
    put_staged(s, out);
    if (out->events_per_s > 0 && events_left(s, out) != UINT64_MAX)
        out->left_s = events_left(s, out) / out->events_per_s;
    out->started_us = s->record.started_us;
    out->ended_us = s->record.ended_us;
    out->max_p99_ms = s->max_p99_ms;
    out->max_rate = s->max_rate;
    out->p99_us = s->p99_us;
    lock_give(&s->lock);
}

static void
put(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_time(struct json_out *o, const char *key, int64_t us)
{
    char text[TIME_TEXT_MAX];

    json_out_key(o, key);
    if (us == 0) {
        json_out_null(o);
        return;
    }
    time_format(us, text);
    json_out_str(o, text);
}

static void
put_text(struct json_out *o, const char *key, const char *text)
{
    json_out_key(o, key);
    json_out_str(o, text[0] == '\0' ? NULL : text);
}

void
stream_status_json(const struct stream_status *s, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    put_text(&o, "name", s->name);
    put_text(&o, "kind", s->kind);
    put_text(&o, "state", stream_state_name(s->state));
    put(&o, "streams", s->streams);
    put(&o, "events", s->events);
    put(&o, "copies", s->copies);
    put(&o, "skipped", s->skipped);
    put(&o, "parked", s->parked);
    put(&o, "lost", s->lost);
    put(&o, "seen", s->seen);
    put(&o, "all", s->all);
    put(&o, "events_per_s", s->events_per_s);
    json_out_key(&o, "left_s");
    if (s->left_s == UINT64_MAX)
        json_out_null(&o);
    else
        json_out_u64(&o, s->left_s);
    json_out_key(&o, "staged");
    if (s->staged_all > 0) {
        json_out_object(&o);
        put_text(&o, "stream", s->staged);
        put(&o, "events", s->staged_events);
        put(&o, "all", s->staged_all);
        json_out_object_end(&o);
    } else {
        json_out_null(&o);
    }
    put(&o, "max_foreground_p99_ms", s->max_p99_ms);
    put(&o, "max_events_per_s", s->max_rate);
    put(&o, "foreground_p99_us", s->p99_us);
    put_time(&o, "started", s->started_us);
    put_time(&o, "ended", s->ended_us);
    put_text(&o, "parked_why", s->parked_why);
    put_text(&o, "error", s->error);
    json_out_object_end(&o);
}

void
stream_audit_json(const struct stream_audit *a, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "clean");
    json_out_bool(&o, a->different == 0 && a->gone == 0);
    put(&o, "streams", a->streams);
    put(&o, "events", a->events);
    put(&o, "copies", a->copies);
    put(&o, "newer", a->newer);
    put(&o, "not_moved", a->not_moved);
    put(&o, "gone", a->gone);
    put(&o, "different", a->different);
    put_text(&o, "first_difference", a->first);
    json_out_object_end(&o);
}
