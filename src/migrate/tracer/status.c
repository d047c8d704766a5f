/* What others see: routes, status, and who is told of changes. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "migrate/tracer/tracer_int.h"

#define RETRY_MS 10

void
traceri_publish(struct tracer *t, enum tracer_side side, uint64_t epoch)
{
    struct tracer_listener *l;

    atomic_store(&t->epoch, epoch);
    atomic_store(&t->route, epoch << 2 | (uint64_t)side);
    lock_take(&t->lock);
    for (l = t->listeners; l != NULL; l = l->next)
        l->wake(l);
    lock_give(&t->lock);
}

void
tracer_route(struct tracer *t, struct slice key, struct slice consumer, struct tracer_route *out)
{
    uint64_t route = atomic_load(&t->route);

    (void)key;
    (void)consumer;
    out->side = (enum tracer_side)(route & 3);
    out->epoch = route >> 2;
    out->retry_after_ms = out->side == TRACER_HOLD ? RETRY_MS : 0;
}

void
tracer_listen(struct tracer *t, struct tracer_listener *l)
{
    lock_take(&t->lock);
    l->next = t->listeners;
    t->listeners = l;
    lock_give(&t->lock);
}

void
tracer_unlisten(struct tracer *t, struct tracer_listener *l)
{
    struct tracer_listener **at;

    must(l != NULL);
    lock_take(&t->lock);
    for (at = &t->listeners; *at != NULL && *at != l; at = &(*at)->next)
        continue;
    if (*at == l)
        *at = l->next;
    lock_give(&t->lock);
}

const char *
tracer_name(const struct tracer *t)
{
    return t->name;
}

static int
by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void
fill_held(const struct traceri_record *r, struct tracer_status *out)
{
    uint64_t held[TRACERI_HELD_MAX];
    uint32_t n = r->held_count;

    if (n == 0)
        return;
    memcpy(held, r->held, n * sizeof held[0]);
    qsort(held, n, sizeof held[0], by_value);
    out->held_us_last = r->held[n - 1];
    out->held_us_p50 = held[n / 2];
    out->held_us_max = held[n - 1];
}

void
tracer_get_status(struct tracer *t, struct tracer_status *out)
{
    struct traceri_record r;

    memset(out, 0, sizeof *out);
    lock_take(&t->lock);
    r = t->seen;
    out->lag_events = t->seen_lag;
    out->applied = t->seen_applied;
    out->echoes = t->seen_echoes;
    (void)snprintf(out->error, sizeof out->error, "%s",
                   r.error[0] != '\0'         ? r.error
                   : t->last_error[0] != '\0' ? t->last_error
                   : t->feed_error[0] != '\0' ? t->feed_error
                                              : t->lane_error);
    lock_give(&t->lock);
    out->phase = r.phase;
    out->from = r.from;
    out->epoch = r.epoch;
    out->authority = r.authority;
    out->backfill_on = r.backfill_on;
    out->backfill_rows = r.backfill_rows;
    out->backfill_done = r.backfill_done;
    out->repaired = r.repaired;
    out->verified = r.clean;
    out->switches = r.switches;
    out->verified_rows = r.verified_rows;
    traceri_verify_counts(t->verify, &out->scanned_rows, &out->stale, &out->hot, &out->divergent);
    fill_held(&r, out);
}

static void
put_u64(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_held(struct json_out *o, const struct tracer_status *s)
{
    put_u64(o, "switches", s->switches);
    json_out_key(o, "held");
    json_out_object(o);
    put_u64(o, "last_us", s->held_us_last);
    put_u64(o, "p50_us", s->held_us_p50);
    put_u64(o, "max_us", s->held_us_max);
    json_out_object_end(o);
}

void
tracer_status_json(struct tracer *t, struct buf *out)
{
    struct tracer_status s;
    struct json_out      o;

    tracer_get_status(t, &s);
    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "name");
    json_out_str(&o, t->name);
    json_out_key(&o, "phase");
    json_out_str(&o, tracer_phase_name(s.phase));
    json_out_key(&o, "from");
    json_out_str(&o, tracer_phase_name(s.from));
    put_u64(&o, "epoch", s.epoch);
    json_out_key(&o, "authority");
    json_out_str(&o, s.authority == TRACER_HOLD ? "fenced" : tracer_side_name(s.authority));
    json_out_key(&o, "old");
    json_out_str(&o, t->ends[TRACER_OLD].label);
    json_out_key(&o, "new");
    json_out_str(&o, t->ends[TRACER_NEW].label);
    json_out_key(&o, "backfill");
    json_out_object(&o);
    json_out_key(&o, "on");
    json_out_bool(&o, s.backfill_on);
    json_out_key(&o, "done");
    json_out_bool(&o, s.backfill_done);
    put_u64(&o, "rows", s.backfill_rows);
    json_out_object_end(&o);
    json_out_key(&o, "sync");
    json_out_object(&o);
    put_u64(&o, "lag_events", s.lag_events);
    put_u64(&o, "applied", s.applied);
    put_u64(&o, "echoes", s.echoes);
    json_out_object_end(&o);
    json_out_key(&o, "verify");
    json_out_object(&o);
    json_out_key(&o, "clean");
    json_out_bool(&o, s.verified);
    put_u64(&o, "rows", s.verified_rows);
    put_u64(&o, "scanned", s.scanned_rows);
    put_u64(&o, "stale", s.stale);
    put_u64(&o, "hot", s.hot);
    put_u64(&o, "divergent", s.divergent);
    put_u64(&o, "repaired", s.repaired);
    json_out_object_end(&o);
    put_held(&o, &s);
    json_out_key(&o, "error");
    json_out_str(&o, s.error);
    json_out_object_end(&o);
}

void
tracer_report_json(struct tracer *t, struct buf *out)
{
    traceri_verify_report(t->verify, out);
}
