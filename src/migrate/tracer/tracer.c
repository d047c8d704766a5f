/*
 * The controller: one task that takes commands and moves the migration from
 * phase to phase. Each step is a bounded piece of work, and whatever it decides
 * is in the record before it acts on it.
 */
#include "migrate/tracer/tracer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/say.h"
#include "migrate/tracer/tracer_int.h"

#define ROUND_US UINT64_C(300000)
#define RETRY_US UINT64_C(200000)
#define NAP_US UINT64_C(200)
#define MAGIC 0x74726163u
#define PREFLIGHT_TRIES 5u
#define PREFLIGHT_PAUSE_US UINT64_C(500000)

/* the record */

static int
load(struct tracer *t, struct err *err)
{
    char             stream[LOG_NAME_MAX + 1];
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    int              rc;

    traceri_record_stream(t->name, stream);
    read.stream = slice_str(stream);
    rc = log_iter_open(t->log, &read, &it, err);
    if (rc == E_NOTFOUND) {
        t->version = LOG_NO_STREAM;
        return E_NOTFOUND;
    }
    TRY(rc);
    TRY(log_iter_next(it, &ev, err));
    TRY(traceri_record_get(ev.data, &t->rec, err));
    t->version = (int64_t)ev.version;
    lock_take(&t->lock);
    t->seen = t->rec;
    lock_give(&t->lock);
out:
    log_iter_close(it);
    return rc;
}

static void
tell(struct tracer *t)
{
    lock_take(&t->lock);
    t->seen = t->rec;
    for (struct tracer_listener *l = t->listeners; l != NULL; l = l->next)
        l->wake(l);
    lock_give(&t->lock);
}

int
traceri_save(struct tracer *t, const struct traceri_record *next, struct err *err)
{
    char                  stream[LOG_NAME_MAX + 1];
    struct buf            data = {0};
    struct log_new_event  ev = {.type = slice_str("MigrationChanged"), .flags = LOG_JSON};
    struct log_write      w = {.expected = t->version, .events = &ev, .count = 1};
    struct log_req        req = {.writes = &w, .write_count = 1, .flags = LOG_SYSTEM};
    struct traceri_record copy = *next;
    struct err            ignored;
    int                   rc = 0;

    traceri_record_stream(t->name, stream);
    w.stream = slice_str(stream);
    traceri_record_put(&copy, &data);
    if (data.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a record");
    ev.data = buf_slice(&data);
    rc = log_append(t->log, &req);
    if (rc == 0) {
        t->rec = copy;
        t->version = (int64_t)w.last_version;
        tell(t);
        goto out;
    }
    err_copy(err, &req.err);
    if (rc == E_WRONG_VERSION) {
        atomic_store(&t->lost, true);
        say(SAY_ERROR, "another controller has this migration", "migration", t->name, NULL);
    } else {
        (void)load(t, &ignored); /* the outcome may be unknown: what counts is what is there */
    }
out:
    buf_fini(&data);
    return rc;
}

enum tracer_side
traceri_leader(const struct tracer *t)
{
    return t->rec.authority == TRACER_HOLD ? t->rec.fenced : t->rec.authority;
}

/* waiting */

bool
traceri_nap(struct tracer *t, uint64_t us)
{
    struct ox_gate never;

    gate_init(&never);
    (void)t->env->ops->gate_wait(t->env, &never, us);
    return atomic_load(&t->stopping);
}

bool
traceri_wait(struct tracer *t, uint64_t us)
{
    bool stop = traceri_nap(t, us), stuck;

    lock_take(&t->lock);
    stuck = t->stuck[0] != '\0';
    lock_give(&t->lock);
    return stuck || stop;
}

void
traceri_stuck(struct tracer *t, const struct err *err)
{
    lock_take(&t->lock);
    if (t->stuck[0] == '\0')
        (void)snprintf(t->stuck, sizeof t->stuck, "%s", err->text);
    lock_give(&t->lock);
    t->env->ops->task_wake(t->env, t->task);
}

void
traceri_waits(struct tracer *t, const struct err *err)
{
    lock_take(&t->lock);
    (void)snprintf(t->lane_error, sizeof t->lane_error, "%s", err == NULL ? "" : err->text);
    lock_give(&t->lock);
}

int
traceri_wait_captured(struct tracer *t, enum tracer_side side, struct slice position,
                      uint64_t deadline_us, struct log_pos *upto, struct err *err)
{
    uint64_t since = traceri_feed_polls(t->ends[side].feed);

    while (!traceri_feed_captured(t->ends[side].feed, position, since, upto)) {
        if (traceri_wait(t, NAP_US))
            RETURN_ERR(err, E_INTERRUPTED, ERR_RETRY, "the migration stops here");
        if (t->env->ops->mono_us(t->env) > deadline_us)
            RETURN_ERR(err, E_TIMEOUT, ERR_RETRY, "the feed of %s was not read in time",
                       t->ends[side].label);
    }
    return 0;
}

int
traceri_wait_applied(struct tracer *t, enum tracer_side side, struct slice position,
                     uint64_t deadline_us, struct log_pos *upto, struct err *err)
{
    int rc = traceri_wait_captured(t, side, position, deadline_us, upto, err);

    while (rc == 0 && traceri_feed_applied(t->ends[side].feed).v < upto->v) {
        if (traceri_wait(t, NAP_US))
            RETURN_ERR(err, E_INTERRUPTED, ERR_RETRY, "the migration stops here");
        if (t->env->ops->mono_us(t->env) > deadline_us)
            RETURN_ERR(err, E_TIMEOUT, ERR_RETRY, "the changes of %s were not applied in time",
                       t->ends[side].label);
    }
    return rc;
}

/* phases */

static int
set_phase(struct tracer *t, enum tracer_phase phase, struct err *err)
{
    struct traceri_record next = t->rec;

    say(SAY_INFO, "migration", "name", t->name, "phase", tracer_phase_name(phase), NULL);
    next.phase = phase;
    return traceri_save(t, &next, err);
}

static int
halt(struct tracer *t, const char *why, struct err *err)
{
    struct traceri_record next = t->rec;

    say(SAY_ERROR, "migration halted", "name", t->name, "why", why, NULL);
    next.from = next.phase;
    next.phase = TRACER_HALTED;
    (void)snprintf(next.error, sizeof next.error, "%s", why);
    return traceri_save(t, &next, err);
}

static int
preflight(struct tracer *t, uint64_t *next_us, struct err *err)
{
    struct traceri_record next;
    struct err            why;

    *next_us = ENV_STEP_NOW;
    if (traceri_run_preflight(t, &why) == 0) {
        t->preflight_tries = 0;
        return 0;
    }
    if (atomic_load(&t->stopping))
        return 0;
    /* A side that is busy for a moment is asked again before anybody is told to begin anew. */
    if (why.kind == ERR_RETRY && ++t->preflight_tries < PREFLIGHT_TRIES) {
        *next_us = PREFLIGHT_PAUSE_US;
        return 0;
    }
    t->preflight_tries = 0;
    say(SAY_WARN, "preflight failed", "name", t->name, "why", why.text, NULL);
    next = t->rec;
    next.phase = TRACER_DRAFT;
    (void)snprintf(next.error, sizeof next.error, "%s", why.text);
    return traceri_save(t, &next, err);
}

static int
backfill(struct tracer *t, uint64_t *next_us, struct err *err)
{
    bool done = t->rec.backfill_done;
    int  rc = 0;

    *next_us = ENV_STEP_NOW;
    if (!t->rec.backfill_on) {
        *next_us = ENV_STEP_WAIT;
        goto out;
    }
    if (!done)
        TRY(traceri_backfill_step(t, &done, err));
    if (done)
        TRY(set_phase(t, TRACER_CATCHING_UP, err));
out:
    return rc;
}

static int
catch_up(struct tracer *t, struct err *err)
{
    struct store  *s = t->ends[TRACER_OLD].store;
    uint64_t       deadline = t->env->ops->mono_us(t->env) + 1000000;
    struct buf     position = {0};
    struct log_pos upto;
    int            rc;

    TRY(s->ops->position(s, &position, err));
    TRY(traceri_wait_applied(t, TRACER_OLD, buf_slice(&position), deadline, &upto, err));
    TRY(set_phase(t, TRACER_VERIFYING, err));
    traceri_verify_begin(t->verify);
    t->pass_open = true;
out:
    buf_fini(&position);
    return rc;
}

/* One piece of a pass; its end decides between VERIFYING and READY. */
static int
verify(struct tracer *t, uint64_t *next_us, struct err *err)
{
    struct traceri_record next;
    uint64_t              rows, stale, hot, divergent;
    bool                  done;
    int                   rc;

    *next_us = ENV_STEP_NOW;
    TRY(traceri_verify_step(t->verify, &done, err));
    if (!done)
        goto out;
    t->pass_open = false;
    traceri_verify_counts(t->verify, &rows, &stale, &hot, &divergent);
    next = t->rec;
    next.verified_rows = rows;
    next.clean = divergent == 0;
    next.upto = traceri_verify_upto(t->verify);
    next.error[0] = '\0';
    if (next.clean) {
        next.clean_us = t->env->ops->wall_us(t->env);
        if (next.phase == TRACER_VERIFYING)
            next.phase = TRACER_READY;
    } else {
        (void)snprintf(next.error, sizeof next.error,
                       "%" PRIu64 " keys differ: see the report, then `repair`", divergent);
    }
    TRY(traceri_save(t, &next, err));
out:
    return rc;
}

/* Between passes: what changed is looked at again, and a verdict grows old. */
static int
keep_fresh(struct tracer *t, uint64_t *next_us, struct err *err)
{
    struct traceri_record next;
    uint64_t              rows, stale, hot, divergent;
    int64_t               age = t->env->ops->wall_us(t->env) - t->rec.clean_us;
    int                   rc;

    *next_us = ROUND_US;
    TRY(traceri_verify_round(t->verify, err));
    traceri_verify_counts(t->verify, &rows, &stale, &hot, &divergent);
    if (!t->rec.clean || (divergent == 0 && (age < 0 || (uint64_t)age < t->stale_after_us)))
        goto out;
    next = t->rec;
    next.clean = false;
    if (next.phase == TRACER_READY)
        next.phase = TRACER_VERIFYING;
    if (divergent > 0)
        (void)snprintf(next.error, sizeof next.error,
                       "%" PRIu64 " keys differ: see the report, then `repair`", divergent);
    TRY(traceri_save(t, &next, err));
    if (divergent == 0) {
        traceri_verify_begin(t->verify);
        t->pass_open = true;
    }
out:
    return rc;
}

static int
work(struct tracer *t, uint64_t *next_us, struct err *err)
{
    *next_us = ENV_STEP_WAIT;
    switch (t->rec.phase) {
    case TRACER_PREFLIGHT:
        return preflight(t, next_us, err);
    case TRACER_SYNCING:
        *next_us = 10000;
        return traceri_run_caught_up(t) ? set_phase(t, TRACER_BACKFILLING, err) : 0;
    case TRACER_BACKFILLING:
        return backfill(t, next_us, err);
    case TRACER_CATCHING_UP:
        *next_us = ENV_STEP_NOW;
        return catch_up(t, err);
    case TRACER_VERIFYING:
    case TRACER_READY:
    case TRACER_NEW_SOAK:
    case TRACER_FALLBACK_KEPT:
        return t->pass_open ? verify(t, next_us, err) : keep_fresh(t, next_us, err);
    case TRACER_DRAFT:
    case TRACER_FENCING:
    case TRACER_RETIRED:
    case TRACER_PAUSED:
    case TRACER_CANCELLED:
    case TRACER_HALTED:
        break;
    }
    return 0;
}

/* the task */

static bool
moves(enum tracer_phase p)
{
    return p >= TRACER_SYNCING && p <= TRACER_FALLBACK_KEPT;
}

static bool
gone(enum tracer_phase p)
{
    return p == TRACER_RETIRED || p == TRACER_CANCELLED;
}

static uint64_t
failed(struct tracer *t, const struct err *why)
{
    struct err err;

    lock_take(&t->lock);
    (void)snprintf(t->last_error, sizeof t->last_error, "%s", why->text);
    lock_give(&t->lock);
    if (why->kind != ERR_RETRY && why->kind != ERR_UNSURE && moves(t->rec.phase))
        (void)halt(t, why->text, &err);
    return RETRY_US;
}

/* A lane, a feed or a capture that cannot go on. */
static bool
look_for_stuck(struct tracer *t)
{
    char       why[ERR_TEXT_MAX];
    struct err err;

    if (!moves(t->rec.phase))
        return false;
    lock_take(&t->lock);
    (void)snprintf(why, sizeof why, "%s", t->stuck);
    lock_give(&t->lock);
    if (why[0] == '\0' && traceri_run_check(t, &err) != 0)
        (void)snprintf(why, sizeof why, "%s", err.text);
    return why[0] != '\0' && halt(t, why, &err) == 0;
}

/* After opening and resuming: everything runs again, and the authority's side is open. */
static int
recover(struct tracer *t, struct err *err)
{
    int rc;

    TRY(traceri_run_start(t, err));
    TRY(traceri_cutover_recover(t, err));
    t->recovered = true;
    if (!t->rec.clean && t->rec.phase >= TRACER_VERIFYING && !t->pass_open) {
        traceri_verify_begin(t->verify);
        t->pass_open = true;
    }
out:
    return rc;
}

static void
see_feeds(struct tracer *t)
{
    uint64_t              applied = 0, echoes = 0, a, e, lag = 0;
    struct capture_status s;
    char                  waits[ERR_TEXT_MAX] = "";

    for (enum tracer_side side = TRACER_OLD; t->running && side <= TRACER_NEW; side++) {
        traceri_feed_status(t->ends[side].feed, &s, &a, &e);
        if (s.state == CAPTURE_RETRYING && waits[0] == '\0')
            (void)snprintf(waits, sizeof waits, "the feed of %s is tried again: %.400s",
                           t->ends[side].label, s.error);
        applied += a;
        echoes += e;
        if (side == traceri_leader(t))
            lag = traceri_feed_lag(t->ends[side].feed);
    }
    if (!t->running)
        return;
    lock_take(&t->lock);
    t->seen_applied = applied;
    t->seen_echoes = echoes;
    t->seen_lag = lag;
    (void)snprintf(t->feed_error, sizeof t->feed_error, "%s", waits);
    t->last_error[0] = '\0'; /* this step went well */
    lock_give(&t->lock);
}

static uint64_t
step(void *arg)
{
    struct tracer *t = arg;
    struct err     err = {0};
    uint64_t       next_us, now;

    if (atomic_load(&t->stopping))
        return ENV_STEP_WAIT;
    if (atomic_load(&t->lost)) {
        traceri_run_stop(t);
        traceri_command_end(t);
        return ENV_STEP_WAIT;
    }
    if (moves(t->rec.phase) && !t->recovered && recover(t, &err) != 0) {
        traceri_command_run(t);
        return failed(t, &err);
    }
    traceri_command_run(t);
    if (look_for_stuck(t))
        return ENV_STEP_NOW;
    if (moves(t->rec.phase) && !t->recovered)
        return ENV_STEP_NOW;
    if (gone(t->rec.phase) && !t->rec.dismantled) {
        if (traceri_run_dismantle(t, &err) != 0)
            return failed(t, &err);
        return ENV_STEP_NOW;
    }
    now = t->env->ops->mono_us(t->env);
    if (now < t->idle_us && !t->pass_open)
        return t->idle_us - now;
    if (work(t, &next_us, &err) != 0)
        return failed(t, &err);
    see_feeds(t);
    t->idle_us = next_us == ENV_STEP_WAIT ? 0 : t->env->ops->mono_us(t->env) + next_us;
    return next_us;
}

/* opening */

static int
take_end(struct tracer *t, enum tracer_side side, const struct conf *c, struct err *err)
{
    struct traceri_end *e = &t->ends[side];
    const char         *name = conf_str(c, "name"), *type;

    e->source_conf = conf_child(c, "source");
    e->store_conf = conf_child(c, "store");
    (void)snprintf(e->label, sizeof e->label, "%s",
                   name != NULL         ? name
                   : side == TRACER_OLD ? "the old side"
                                        : "the new side");
    (void)snprintf(e->source, sizeof e->source, "%s_%s", t->name, tracer_side_name(side));
    (void)snprintf(e->category, sizeof e->category, "%s_%s", t->name, tracer_side_name(side));
    type = conf_str(e->source_conf, "type");
    e->source_ops = t->deps.source(t->deps.arg, type);
    if (e->source_ops == NULL)
        return conf_fail(e->source_conf, err, "there is no source of type %s", type);
    type = conf_str(e->store_conf, "type");
    e->store_ops = t->deps.store(t->deps.arg, type);
    if (e->store_ops == NULL)
        return conf_fail(e->store_conf, err, "there is no store of type %s", type);
    return 0;
}

static int
take_conf(struct tracer *t, const struct conf *conf, struct err *err)
{
    const struct conf *v = conf_child(conf, "verify");
    int                rc;

    t->lease_us = conf_duration_us(conf, "lease");
    t->canary = conf_bool(conf, "canary");
    t->canary_key = conf_str(conf, "canary_key");
    t->workers = (uint32_t)conf_int(conf, "workers");
    t->retries = (uint32_t)conf_int(conf, "retries");
    t->chunk = (uint32_t)conf_int(v, "chunk");
    t->stale_after_us = conf_duration_us(v, "stale_after");
    t->stale_max = (uint32_t)conf_int(v, "stale_max");
    t->attempts = (uint32_t)conf_int(v, "attempts");
    TRY(take_end(t, TRACER_OLD, conf_child(conf, "old"), err));
    TRY(take_end(t, TRACER_NEW, conf_child(conf, "new"), err));
    TRY(traceri_map_new(conf, &t->map, err));
out:
    return rc;
}

static int
take_name(struct tracer *t, const char *name, struct err *err)
{
    size_t n = strlen(name);

    if (n == 0 || n > TRACER_NAME_MAX || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != n)
        RETURN_ERR(err, E_INVALID, ERR_FATAL,
                   "a migration's name has 1 to %d characters of a-z, 0-9 and _", TRACER_NAME_MAX);
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    (void)snprintf(t->mark, sizeof t->mark, "oxbow:%s", name);
    return 0;
}

/* The last record, or a first one. */
static int
find_record(struct tracer *t, const struct conf *conf, struct err *err)
{
    struct traceri_record first = {.backfill_on = conf_bool(conf, "backfill")};
    int                   rc = load(t, err);

    if (rc != E_NOTFOUND)
        goto out;
    t->env->ops->random(t->env, &first.seed, sizeof first.seed);
    TRY(traceri_save(t, &first, err));
out:
    if (rc == 0)
        traceri_publish(t, t->rec.authority, t->rec.epoch);
    return rc;
}

int
tracer_open(const struct tracer_deps *deps, const char *name, const struct conf *conf,
            struct tracer **out, struct err *err)
{
    struct tracer     *t = calloc(1, sizeof *t);
    struct ox_task_def def = {.name = "ox-migrate", .step = step, .arg = t};
    int                rc = 0;

    *out = NULL;
    if (t == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    t->deps = *deps;
    t->env = deps->env;
    t->log = deps->log;
    t->last = &t->first;
    lock_init(&t->lock, LOCK_CORE);
    t->batch = calloc(TRACERI_BATCH, sizeof t->batch[0]);
    if (t->batch == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    TRY(take_name(t, name, err));
    TRY(take_conf(t, conf, err));
    TRY(find_record(t, conf, err));
    TRY(traceri_verify_new(t, &t->verify, err));
    TRY(t->env->ops->task_start(t->env, &def, &t->task, err));
    *out = t;
    t = NULL;
out:
    tracer_close(t);
    return rc;
}

void
tracer_close(struct tracer *t)
{
    if (t == NULL)
        return;
    atomic_store(&t->stopping, true);
    t->env->ops->task_stop(t->env, t->task);
    t->task = NULL;
    traceri_command_end(t);
    traceri_run_stop(t);
    traceri_verify_free(t->verify);
    traceri_map_free(t->map);
    for (uint32_t i = 0; t->batch != NULL && i < TRACERI_BATCH; i++)
        buf_fini(&t->batch[i].row);
    free(t->batch);
    lock_fini(&t->lock);
    free(t);
}
