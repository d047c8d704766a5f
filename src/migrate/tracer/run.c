/* What runs while a migration moves: the sides' stores and feeds, and the lanes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/say.h"
#include "migrate/tracer/tracer_int.h"

#define SAMPLE 100

static int
open_store(struct tracer *t, enum tracer_side side, struct err *err)
{
    struct traceri_end *e = &t->ends[side];

    if (e->store != NULL)
        return 0;
    return store_new(t->env, e->store_ops, e->label, e->store_conf, &e->store, err);
}

int
traceri_run_start(struct tracer *t, struct err *err)
{
    int rc = 0;

    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++)
        TRY(open_store(t, side, err));
    if (t->running)
        goto out;
    TRY(traceri_lanes_new(t, &t->lanes, err));
    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++) {
        TRY(traceri_feed_new(t, side, &t->ends[side].feed, err));
        /* Before it reads anything: what the wrong side's feed drops is lost to nobody. */
        if (side == traceri_leader(t))
            traceri_feed_follow(t->ends[side].feed, t->rec.since);
    }
    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++)
        TRY(traceri_feed_start(t->ends[side].feed, err));
    t->running = true;
out:
    if (rc != 0)
        traceri_run_stop(t);
    return rc;
}

void
traceri_run_stop(struct tracer *t)
{
    traceri_lanes_stop(t->lanes);
    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++) {
        traceri_feed_free(t->ends[side].feed);
        t->ends[side].feed = NULL;
        store_free(t->ends[side].store);
        t->ends[side].store = NULL;
    }
    traceri_lanes_free(t->lanes);
    t->lanes = NULL;
    t->batch_count = 0; /* no lane has them any more */
    t->running = false;
    lock_take(&t->lock); /* and nothing waits */
    t->feed_error[0] = t->lane_error[0] = '\0';
    lock_give(&t->lock);
}

bool
traceri_run_caught_up(struct tracer *t)
{
    struct capture_status s;
    uint64_t              applied, echoes;

    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++) {
        traceri_feed_status(t->ends[side].feed, &s, &applied, &echoes);
        if (s.state != CAPTURE_RUNNING)
            return false;
    }
    return true;
}

int
traceri_run_check(struct tracer *t, struct err *err)
{
    struct capture_status s;
    uint64_t              applied, echoes;

    for (enum tracer_side side = TRACER_OLD; t->running && side <= TRACER_NEW; side++) {
        traceri_feed_status(t->ends[side].feed, &s, &applied, &echoes);
        if (s.state == CAPTURE_FAILED)
            RETURN_ERR(err, E_STATE, ERR_FATAL, "the feed of %s: %.400s", t->ends[side].label,
                       s.error);
    }
    return 0;
}

/* preflight */

struct sampling {
    struct tracer   *t;
    enum tracer_side side;
    struct buf       there, back, own;
};

static void
on_source_finding(void *arg, enum finding_level level, const char *text)
{
    int *missing = arg;

    *missing += level == FINDING_MISSING;
    say(level == FINDING_OK ? SAY_DEBUG : SAY_WARN, "check", "finding", text, NULL);
}

static void
on_store_finding(void *arg, int level, const char *text)
{
    on_source_finding(arg,
                      level == 0   ? FINDING_OK
                      : level == 1 ? FINDING_WARN
                                   : FINDING_MISSING,
                      text);
}

/* The row there and back again must be the same. */
static int
on_sample(void *arg, const struct store_row *row, struct err *err)
{
    struct sampling *s = arg;
    int              rc;

    TRY(traceri_map_row(s->t->map, s->side, row->fields, &s->there, err));
    TRY(traceri_map_row(s->t->map, traceri_other(s->side), buf_slice(&s->there), &s->back, err));
    if (!slice_eq(row->fields, buf_slice(&s->back)))
        FAIL(err, E_SCHEMA, ERR_DATA,
             "%s: a row is not the same after the mapping there and back: the store's columns must "
             "be exactly those of `columns`, and `values` one to one",
             s->t->ends[s->side].label);
out:
    return rc;
}

static int
check_side(struct tracer *t, enum tracer_side side, struct err *err)
{
    struct traceri_end *e = &t->ends[side];
    struct sampling     s = {.t = t, .side = side};
    struct source      *source = NULL;
    struct buf          position = {0};
    struct json_iter    it;
    struct slice        key, value;
    uint64_t            number;
    int                 missing = 0, rc;

    TRY(open_store(t, side, err));
    TRY(source_new(t->env, e->source_ops, e->source, e->source_conf, &source, err));
    TRY(source->ops->prepare(source, false, on_source_finding, &missing, err));
    missing = 0;
    TRY(source->ops->check(source, on_source_finding, &missing, err));
    TRY(e->store->ops->check(e->store, on_store_finding, &missing, err));
    if (missing > 0)
        FAIL(err, E_STATE, ERR_FATAL, "%s: %d things are missing (see the lines before)", e->label,
             missing);
    TRY(e->store->ops->position(e->store, &position, err));
    TRY(json_object_iter(&it, buf_slice(&position), err));
    TRY(json_iter_next(&it, &key, &value, err));
    if (!json_uint64(value, &number))
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s: the feed's position is no whole number", e->label);
    TRY(e->store->ops->scan(e->store, slice_str(""), SAMPLE, on_sample, &s, err));
out:
    source_free(source);
    buf_fini(&position);
    buf_fini(&s.there);
    buf_fini(&s.back);
    if (rc != 0)
        err_prefix(err, "preflight, %s side", tracer_side_name(side));
    return rc;
}

/* The last thing before the feeds start: Oxbow's writes pass the new side's guard and arrive. */
static int
sing(struct tracer *t, struct err *err)
{
    struct err ignored;
    int        rc = traceri_canary_run(t, err);

    if (rc != 0) /* nobody waits for a migration: applications may write there as before */
        (void)t->ends[TRACER_NEW].store->ops->guard_remove(t->ends[TRACER_NEW].store, &ignored);
    return rc;
}

/* The newest epoch that either side has seen, of an earlier migration maybe. */
static int
newest_epoch(struct tracer *t, uint64_t *out, struct err *err)
{
    struct store_guard g;
    int                rc = 0;

    *out = t->rec.epoch;
    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++) {
        struct store *s = t->ends[side].store;

        rc = s->ops->guard_get(s, &g, err);
        if (rc != 0 && rc != E_NOTFOUND)
            goto out;
        if (rc == 0 && g.epoch > *out)
            *out = g.epoch;
        rc = 0;
    }
    err_clear(err);
out:
    return rc;
}

static int
install_guards(struct tracer *t, struct err *err)
{
    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++) {
        struct store      *s = t->ends[side].store;
        struct store_guard g = {.epoch = t->rec.epoch, .writable = side == TRACER_OLD};
        int                rc;

        if (side == TRACER_NEW)
            (void)snprintf(g.moved_to, sizeof g.moved_to, "%s", t->ends[TRACER_OLD].label);
        rc = s->ops->guard_install(s, &g, err);
        if (rc == 0)
            rc = s->ops->guard_set(s, &g, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int
traceri_run_preflight(struct tracer *t, struct err *err)
{
    struct traceri_record next;
    uint64_t              epoch;
    int                   rc;

    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++)
        TRY(check_side(t, side, err));
    if (t->ends[TRACER_OLD].store->key_order != t->ends[TRACER_NEW].store->key_order)
        FAIL(err, E_SCHEMA, ERR_FATAL, "the two stores sort keys in different ways (key_order)");
    TRY(newest_epoch(t, &epoch, err));
    next = t->rec;
    next.epoch = epoch + 1;
    TRY(traceri_save(t, &next, err));
    TRY(install_guards(t, err));
    TRY(sing(t, err));
    next = t->rec;
    next.phase = TRACER_SYNCING;
    next.error[0] = '\0';
    TRY(traceri_save(t, &next, err));
    traceri_publish(t, TRACER_OLD, t->rec.epoch);
out:
    return rc;
}

int
traceri_run_dismantle(struct tracer *t, struct err *err)
{
    struct traceri_record next;
    int                   missing = 0, rc = 0;

    traceri_run_stop(t);
    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++) {
        struct traceri_end *e = &t->ends[side];
        struct source      *source = NULL;

        TRY(open_store(t, side, err));
        if (side == TRACER_NEW)
            TRY(traceri_canary_clear(t, err));
        TRY(e->store->ops->guard_remove(e->store, err));
        TRY(source_new(t->env, e->source_ops, e->source, e->source_conf, &source, err));
        rc = source->ops->unprepare(source, on_source_finding, &missing, err);
        source_free(source);
        TRY(rc);
    }
    next = t->rec;
    next.dismantled = true;
    TRY(traceri_save(t, &next, err));
out:
    traceri_run_stop(t);
    return rc;
}
