/*
 * The task of a delivery. One step reads what there is room for, gives the
 * driver what may go, lets it work, and decides about what it reported. The
 * driver's reports are only noted while it runs.
 *
 * What a crash leaves is a checkpoint that is not above anything undone, and a
 * record for each parked event below it.
 */
#include "core/deliver.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "core/deliver_int.h"

#define POLL_WAIT_MS 10u       /* new events wait so long while others are on their way */
#define POLL_WAIT_FULL_MS 100u /* there is no room for new ones, or the far side is silent */
#define SILENT_US UINT64_C(1000000)
#define SPIN_US UINT64_C(1000) /* a driver that came back at once with nothing */
#define STOP_WAIT_US UINT64_C(20000000)
#define SHIFT_MAX 20u
#define GRAIN_MAX_US UINT64_C(10000)
#define AWAY_MAX_US UINT64_C(2000000) /* until a far side that was out of reach is asked after */
#define WINDOW_MIN 1000u              /* items, where the configuration has no word on it */
#define ROOM_FIRST 128u               /* items in the window of a far side that took nothing yet */

const char *
deliver_state_name(enum deliver_state state)
{
    switch (state) {
    case DELIVER_STARTING:
        return "starting";
    case DELIVER_RUNNING:
        return "running";
    case DELIVER_RETRYING:
        return "retrying";
    case DELIVER_PAUSED:
        return "paused";
    case DELIVER_STOPPED:
        return "stopped";
    case DELIVER_FAILED:
        return "failed";
    }
    return "unknown";
}

/* failures */

static void
note_error(struct deliver *d, const struct err *err)
{
    (void)snprintf(d->error, sizeof d->error, "%s", err->text);
}

/* Doubling up to the limit; somewhere in its upper half, so that many do not come at once. */
static uint64_t
backoff_us(struct deliver *d, uint32_t attempt, unsigned at_least_ms)
{
    uint64_t us = (uint64_t)d->conf.retry_min_ms * 1000;
    uint64_t max = (uint64_t)d->conf.retry_max_ms * 1000, random;

    us <<= attempt < SHIFT_MAX ? attempt : SHIFT_MAX;
    if (us > max)
        us = max;
    d->env->ops->random(d->env, &random, sizeof random);
    us = us / 2 + random % (us / 2 + 1);
    return us > (uint64_t)at_least_ms * 1000 ? us : (uint64_t)at_least_ms * 1000;
}

static void
fail_for_good(struct deliver *d, const struct err *err)
{
    d->state = DELIVER_FAILED;
    note_error(d, err);
    deliveri_orders_failed(d, err);
}

static void
failed(struct deliver *d, const struct err *err)
{
    if (err->kind != ERR_RETRY && err->kind != ERR_UNSURE) {
        fail_for_good(d, err);
        return;
    }
    note_error(d, err);
    d->state = DELIVER_RETRYING;
    d->resume_us = d->now_us + backoff_us(d, d->failures, err->retry_ms);
    if (d->failures < SHIFT_MAX)
        d->failures++;
}

static void
restart(struct deliver *d, enum restart how)
{
    must(how != RESTART_NONE);
    if (d->restart < how)
        d->restart = how;
}

/* loading */

static void
close_readers(struct deliver *d)
{
    log_iter_close(d->reader);
    log_iter_close(d->parked_reader);
    d->reader = d->parked_reader = NULL;
    d->holding = d->at_end = false;
}

/* The checkpoint is claimed first: after that nobody else changes the two streams. */
static int
load(struct deliver *d, struct err *err)
{
    int rc;

    if (!d->loaded) {
        close_readers(d);
        deliveri_clear(d, true);
        d->claimed = d->seeking = false;
        d->restart = RESTART_NONE;
        TRY(deliveri_load_mark(d, err));
        TRY(deliveri_commit_mark(d, d->mark, d->range.at, err));
        d->loaded = true;
        return 0;
    }
    must(d->claimed);
    must(d->items == 0);
    must(!d->committing);
    TRY(deliveri_load_parked(d, err));
    TRY(deliveri_load_later(d, err));
    TRY(deliveri_open_reader(d, err));
out:
    return rc;
}

static int
restart_now(struct deliver *d, struct err *err)
{
    int rc = 0;

    must(d->flying == 0);
    must(!d->committing);
    if (d->restart == RESTART_ALL) {
        d->loaded = false;
        close_readers(d);
        d->restart = RESTART_NONE;
        return 0;
    }
    close_readers(d);
    deliveri_clear(d, false);
    if (d->far_side) {
        TRY(d->sink->ops->checkpoint(d->sink, &d->far, err));
        if (d->far.v > d->mark.v)
            d->mark = d->far;
    }
    TRY(deliveri_load_later(d, err));
    TRY(deliveri_open_reader(d, err));
    d->restart = RESTART_NONE;
out:
    return rc;
}

/* giving and taking */

/* Whether what may be tried again has been tried for long enough. */
static bool
is_spent(const struct deliver *d, const struct item *it)
{
    if (it->rc == E_INTERRUPTED || (it->kind != ERR_RETRY && it->kind != ERR_UNSURE))
        return false;
    return (d->conf.attempts_max > 0 && it->base.attempt + 1 >= d->conf.attempts_max) ||
           (d->conf.retry_for_us > 0 && d->now_us >= it->tried_us + d->conf.retry_for_us);
}

static void
note_result(struct deliver *d, struct item *it, int rc, const struct err *err)
{
    struct err own;

    it->rc = rc;
    it->kind = rc == 0 ? ERR_NONE : err->kind;
    it->retry_ms = rc == 0 ? 0 : err->retry_ms;
    if (rc != 0 && is_spent(d, it)) {
        err_copy(&own, err);
        err_prefix(&own, it->kind == ERR_UNSURE ? "given up, it may have arrived" : "given up");
        err = &own;
        it->kind = ERR_DATA;
    }
    if (rc != 0 && rc != E_INTERRUPTED)
        note_error(d, err);
    if (it->kind == ERR_DATA) {
        it->refused = true;
        free(it->reason);
        it->reason = strdup(err->text);
    }
    deliveri_push(&d->finished, it);
}

static bool
is_out_of_reach(int rc)
{
    return rc == E_CONNECT || rc == E_BUSY || rc == E_AUTH;
}

/*
 * A far side that cannot be reached, or takes nothing, is as far from every stream: one item asks
 * after it, at growing intervals, and the others wait for what becomes of that.
 */
static void
note_reach(struct deliver *d, int rc)
{
    uint64_t us;

    if (d->transactional || rc == E_INTERRUPTED)
        return;
    if (!is_out_of_reach(rc)) {
        d->away = 0;
        return;
    }
    if (d->away > 0 && d->now_us < d->away_until_us)
        return; /* it went before that was known */
    us = backoff_us(d, d->away, 0);
    d->away_until_us = d->now_us + (us < AWAY_MAX_US ? us : AWAY_MAX_US);
    if (d->away < SHIFT_MAX)
        d->away++;
}

static void
on_done(struct sink *sink, struct sink_item *item, int rc, const struct err *err)
{
    struct deliver *d = sink->done_arg;
    struct item    *it = (struct item *)item;

    must(d->magic == DELIVERI_MAGIC);
    must(it->state == ITEM_FLYING);
    must(d->flying > 0);
    must(item->owner == d);
    d->flying--;
    d->heard_us = d->now_us;
    __builtin_prefetch(it->lane); /* for deciding, after so many others */
    deliveri_trace_done(d, it, rc);
    note_reach(d, rc);
    note_result(d, it, rc, err);
}

static bool
may_submit(const struct deliver *d)
{
    if (d->away > 0 && (d->flying > 0 || d->now_us < d->away_until_us))
        return false;
    return d->sink->credit > 0 && d->now_us >= d->sink->not_before_us;
}

/* No driver sees it. */
static void
refuse(struct deliver *d, struct item *it)
{
    struct err err;

    note_result(d, it,
                err_set(&err, __FILE__, __LINE__, E_REJECTED, ERR_DATA, "%s",
                        it->reason == NULL ? "the transform failed" : it->reason),
                &err);
}

/* A transaction ends before an item that cannot be given: it must not pass it. */
static void
submit(struct deliver *d, bool *progress)
{
    struct item *it;
    struct err   err;

    while (may_submit(d) && (it = d->ready.head) != NULL) {
        int rc;

        if (it->faulty && !it->skip && d->transactional && d->flying > 0)
            return;
        (void)deliveri_pop(&d->ready);
        must(it->state == ITEM_WAITING);
        must_slow(d->transactional || it->lane->head == it);
        *progress = true;
        if (it->skip) {
            deliveri_unpark(d, it, it->how);
            continue;
        }
        if (it->faulty) {
            refuse(d, it);
            if (d->transactional)
                return;
            continue;
        }
        if (it->tried_us == 0)
            it->tried_us = d->now_us;
        it->state = ITEM_FLYING;
        d->flying++;
        d->heard_us = d->now_us;
        deliveri_trace_sent(d, it);
        rc = sink_submit(d->sink, &it->base, &err);
        if (rc != 0) {
            d->flying--;
            note_result(d, it, rc, &err);
        }
    }
}

static void
wake_sleepers(struct deliver *d)
{
    struct queue sleeping = d->sleeping;
    struct item *it;

    if (d->sleepers == 0 || d->now_us < d->next_due_us)
        return;
    d->sleeping = (struct queue){0};
    d->next_due_us = UINT64_MAX;
    while ((it = deliveri_pop(&sleeping)) != NULL) {
        if (it->due_us > d->now_us) {
            deliveri_push(&d->sleeping, it);
            if (it->due_us < d->next_due_us)
                d->next_due_us = it->due_us;
            continue;
        }
        must(it->state == ITEM_SLEEPING);
        must(d->sleepers > 0);
        d->sleepers--;
        it->state = ITEM_WAITING;
        deliveri_make_ready(d, it->lane);
    }
}

/* Due times are rounded up, so that many that sleep are not looked through for each of them. */
static void
sleep_item(struct deliver *d, struct item *it)
{
    uint64_t us = backoff_us(d, it->base.attempt, it->retry_ms);
    uint64_t grain = us / 8 < GRAIN_MAX_US ? us / 8 + 1 : GRAIN_MAX_US;

    must_slow(it->lane->head == it);
    it->state = ITEM_SLEEPING;
    it->due_us = (d->now_us + us + grain - 1) / grain * grain;
    it->base.attempt++;
    d->retries++;
    if (d->sleepers++ == 0 || it->due_us < d->next_due_us)
        d->next_due_us = it->due_us;
    deliveri_push(&d->sleeping, it);
}

/* deciding */

static void
decide_done(struct deliver *d, struct item *it)
{
    struct lane *lane = it->lane;

    must(it->state == ITEM_FLYING);
    must(d->room <= d->conf.window_items);
    d->delivered++;
    d->failures = 0;
    if (d->room < d->conf.window_items)
        d->room++;
    if (it->replay) {
        deliveri_unpark(d, it, HOW_DELIVERED);
        return;
    }
    deliveri_leave_lane(d, it);
    deliveri_drop(d, it);
    deliveri_make_ready(d, lane);
    deliveri_lane_settle(d, lane);
}

static int
decide_refused(struct deliver *d, struct item *it, struct err *err)
{
    struct item *behind;

    must(it->state == ITEM_WAITING);
    if (it->replay) {
        deliveri_unpark(d, it, it->skip ? HOW_SKIPPED : HOW_REFUSED);
        return 0;
    }
    behind = it->lane_next;
    deliveri_leave_lane(d, it);
    return deliveri_park(d, it, behind, err);
}

static void
decide_again(struct deliver *d, struct item *it)
{
    if (d->away > 0 && is_out_of_reach(it->rc) && it->retry_ms == 0) { /* waits with the others */
        it->state = ITEM_WAITING;
        it->base.attempt++;
        d->retries++;
        deliveri_make_ready(d, it->lane);
        return;
    }
    if (!d->transactional) {
        sleep_item(d, it);
        return;
    }
    it->state = ITEM_WAITING;
    it->base.attempt++;
    d->retries++;
    if (d->restart != RESTART_NONE)
        return;
    if (d->far_side)
        restart(d, RESTART_WINDOW);
    d->resume_us = d->now_us + backoff_us(d, d->failures, it->retry_ms);
    if (d->failures < SHIFT_MAX)
        d->failures++;
}

/* Refusals last: then nothing that stands behind one is in this queue any more. */
static int
decide(struct deliver *d, struct err *err)
{
    struct queue refused = {0};
    struct item *it;
    bool         fatal = false;
    int          rc = 0;

    if (d->finished.head == NULL)
        return 0;
    if (d->transactional)
        d->ready = (struct queue){0};
    while ((it = deliveri_pop(&d->finished)) != NULL) {
        must(it->state == ITEM_FLYING || it->faulty);
        if (it->rc == 0) {
            decide_done(d, it);
        } else if (it->rc == E_INTERRUPTED) {
            it->state = ITEM_WAITING;
            deliveri_make_ready(d, it->lane);
        } else if (it->kind == ERR_DATA) {
            it->state = ITEM_WAITING;
            deliveri_push(&refused, it);
        } else if (it->kind == ERR_RETRY || it->kind == ERR_UNSURE) {
            decide_again(d, it);
        } else {
            it->state = ITEM_WAITING;
            fatal = true;
        }
    }
    while (rc == 0 && (it = deliveri_pop(&refused)) != NULL)
        rc = decide_refused(d, it, err);
    if (d->transactional)
        deliveri_ready_again(d);
    if (rc == 0 && fatal)
        RETURN_ERR(err, E_REMOTE, ERR_FATAL, "%s", d->error);
    return rc;
}

/* the driver's turn */

/* A transaction must not overtake the record of what it leaves out. */
static bool
may_send(const struct deliver *d)
{
    return !d->transactional || (d->records.head == NULL && d->later_records.head == NULL &&
                                 (!d->committing || d->commit_kind == COMMIT_MARK));
}

static int
poll_transaction(struct deliver *d, struct err *err)
{
    struct log_pos upto = d->range.on ? d->far : deliveri_done_upto(d, true);
    bool           far = d->far_side && (d->far_due || upto.v - d->far.v > UINT64_C(1) << 20);
    bool           all = true;
    int            rc;

    must(!d->far_side || upto.v >= d->far.v);
    if (d->flying == 0 && (!far || upto.v == 0))
        return 0;
    rc = d->sink->ops->poll(d->sink, true, upto, POLL_WAIT_FULL_MS, err);
    must(d->sink->in_flight == 0);
    must(d->flying == 0);
    for (struct item *it = d->finished.head; it != NULL; it = (struct item *)it->base.next)
        all = all && it->rc == 0;
    if (rc == 0 && all) {
        d->far = upto;
        d->far_due = false;
    }
    if (rc != 0 && d->far_side)
        restart(d, RESTART_WINDOW);
    return rc;
}

static uint32_t
poll_wait(const struct deliver *d, bool progress)
{
    bool     silent = d->now_us >= d->heard_us + SILENT_US;
    uint32_t ms = d->holding || d->sink->credit == 0 || silent ? POLL_WAIT_FULL_MS : POLL_WAIT_MS;

    if (progress || (d->ready.head != NULL && may_submit(d)) || d->records.head != NULL ||
        d->later_records.head != NULL)
        return 0;
    if (d->sleepers > 0 && d->next_due_us < d->now_us + (uint64_t)ms * 1000)
        ms = d->next_due_us <= d->now_us ? 0 : (uint32_t)((d->next_due_us - d->now_us) / 1000);
    return ms;
}

static int
poll_sink(struct deliver *d, bool *progress, struct err *err)
{
    uint64_t before = d->now_us;
    int      rc = 0;

    if (d->transactional) {
        if (may_send(d) || d->flying > 0)
            rc = poll_transaction(d, err);
    } else if (d->flying > 0) {
        uint32_t wait_ms = poll_wait(d, *progress);
        rc = d->sink->ops->poll(d->sink, true, LOG_POS(0), wait_ms, err);
    }
    d->now_us = d->env->ops->mono_us(d->env);
    must(d->flying == d->sink->in_flight);
    if (d->finished.head != NULL || (rc == 0 && d->flying > 0 && d->now_us >= before + SPIN_US))
        *progress = true;
    return rc;
}

/* commits */

static void
take_commit(struct deliver *d)
{
    struct err err;
    bool       seek = d->seek_committing;

    d->seek_committing = false;
    if (deliveri_committed(d, &err) != 0) {
        if (atomic_load(&d->stopping))
            d->stop_by_us = d->now_us; /* that was the last attempt */
    } else {
        d->log_failed = false;
        if (seek) {
            d->seeking = false;
            d->range = d->next_range;
            restart(d, RESTART_ALL);
            return;
        }
        if (d->commit_kind == COMMIT_MARK && d->reader == NULL && d->restart == RESTART_NONE &&
            load(d, &err) != 0)
            goto again;
        return;
    }
    /* Durable, and no memory to take it over: it is read anew. */
    d->log_failed = true;
    if (err.kind == ERR_UNSURE || !d->claimed || d->req.rc == 0)
        goto again;
    failed(d, &err);
    return;
again:
    if (err.code == E_FENCED)
        err.kind = ERR_RETRY; /* somebody came in between reading and claiming */
    restart(d, RESTART_ALL);
    deliveri_orders_failed(d, &err);
    failed(d, &err);
}

static int
commit(struct deliver *d, struct err *err)
{
    if (d->committing)
        return 0;
    must(d->reader != NULL);
    if (d->records.head != NULL || d->later_records.head != NULL)
        return deliveri_commit_records(d, err);
    if (d->recording.head != NULL)
        return deliveri_commit_orders(d, err);
    if (d->seeking && d->flying == 0 && d->finished.head == NULL && d->restart == RESTART_NONE) {
        struct log_pos to = d->seek_here ? deliveri_live_upto(d) : d->seek;

        d->seek_committing = true;
        return deliveri_commit_mark(d, to, d->next_range.at, err);
    }
    if (deliveri_mark_due(d))
        return deliveri_commit_mark(d, deliveri_live_upto(d), deliveri_done_upto(d, false).v + 1,
                                    err);
    return 0;
}

/* the step */

static void
publish(struct deliver *d)
{
    struct deliver_status *s = &d->shared.status;
    const struct item     *oldest = d->live.head != NULL ? d->live.head : d->again.head;

    must((d->items == 0) == (oldest == NULL));
    must(d->flying + d->sleepers <= d->items);
    must(d->parked >= d->parked_streams);
    must(d->reader == NULL || d->range.on || log_iter_pos(d->reader).v >= d->read_from);
    lock_take(&d->lock);
    s->state = d->state;
    s->caught_up = d->at_end && d->items == 0 && !d->seeking;
    s->checkpoint = d->mark;
    s->delivered = d->delivered;
    s->retries = d->retries;
    s->erased = d->erased;
    s->filtered = d->filtered;
    s->scheduled = d->later.open;
    s->runs = d->runs;
    s->replay_at = LOG_POS(d->range.on ? d->range.at : 0);
    s->replay_to = LOG_POS(d->range.on ? d->range.to : 0);
    s->parked = d->parked;
    s->parked_streams = d->parked_streams;
    s->window_items = d->items;
    s->window_bytes = d->bytes;
    s->in_flight = d->flying;
    s->waiting_retry = d->sleepers;
    memcpy(s->error, d->error, sizeof s->error);
    d->shared.oldest_us = oldest == NULL ? 0 : oldest->read_us;
    s->done = d->reader == NULL ? d->mark : deliveri_live_upto(d);
    d->shared.read = d->reader == NULL || d->range.on ? d->mark : log_iter_pos(d->reader);
    d->shared.positions_read =
        d->shared.read.v - (d->reader == NULL || d->range.on ? d->mark.v : d->read_from);
    d->shared.events_read = d->events_read;
    lock_give(&d->lock);
}

static bool
restart_due(const struct deliver *d)
{
    return d->restart != RESTART_NONE && d->flying == 0 && !d->committing &&
           (d->restart == RESTART_ALL ||
            (d->records.head == NULL && d->later_records.head == NULL));
}

static int
work(struct deliver *d, bool *progress, struct err *err)
{
    int rc = 0;

    if (restart_due(d))
        TRY(restart_now(d, err));
    if (!d->loaded)
        return load(d, err);
    if (d->reader == NULL)
        return 0; /* the claim is being written */
    wake_sleepers(d);
    if (d->paused || d->seeking) {
        d->at_end = false;
    } else if (d->restart == RESTART_NONE) {
        TRY(deliveri_read_live(d, progress, err));
        TRY(deliveri_replay_read(d, progress, err));
        TRY(deliveri_read_later(d, progress, err));
        if (may_send(d))
            submit(d, progress);
    }
    if (d->range_read && !d->seeking && d->live.head == NULL && !d->holding &&
        d->restart == RESTART_NONE) {
        d->next_range.on = false; /* that was all of it */
        d->seeking = d->seek_here = true;
    }
    if (d->restart != RESTART_ALL)
        TRY(commit(d, err));
    rc = poll_sink(d, progress, err);
    if (d->restart == RESTART_ALL) {
        d->finished = (struct queue){0}; /* they go with the window */
    } else {
        struct err own;
        int        mine = decide(d, &own);
        if (mine != 0 && rc == 0) {
            err_copy(err, &own);
            rc = mine;
        }
    }
out:
    return rc;
}

static void
settle_state(struct deliver *d)
{
    must(d->state != DELIVER_STOPPED);
    if (d->state == DELIVER_FAILED || d->reader == NULL)
        return;
    if (d->paused && d->flying == 0 && d->orders == d->orders_marked) {
        d->state = DELIVER_PAUSED;
        return;
    }
    if (d->sleepers > 0 || d->away > 0 || d->restart != RESTART_NONE) {
        d->state = DELIVER_RETRYING;
        return;
    }
    d->state = DELIVER_RUNNING;
    d->failures = 0;
    if (d->parked == 0)
        d->error[0] = '\0';
}

static uint64_t
next_step(const struct deliver *d, bool progress)
{
    uint64_t at = UINT64_MAX, wait;

    if (progress || restart_due(d) || (d->orders != d->orders_marked && !d->committing))
        return ENV_STEP_NOW;
    if (d->flying > 0)
        return SPIN_US;
    if (d->sleepers > 0)
        at = d->next_due_us;
    if (d->ready.head != NULL && d->sink->not_before_us > d->now_us && d->sink->not_before_us < at)
        at = d->sink->not_before_us;
    if (d->ready.head != NULL && d->away > 0 && d->away_until_us < at)
        at = d->away_until_us;
    wait = d->paused ? UINT64_MAX : deliveri_later_wait_us(d);
    if (wait != UINT64_MAX && d->now_us + wait < at)
        at = d->now_us + wait;
    if (d->reader != NULL && !d->committing && d->delivered > d->mark_delivered &&
        d->mark_us + (uint64_t)d->conf.checkpoint_ms * 1000 < at)
        at = d->mark_us + (uint64_t)d->conf.checkpoint_ms * 1000;
    if (at == UINT64_MAX)
        return ENV_STEP_WAIT;
    return at > d->now_us ? at - d->now_us : 1;
}

/* Nothing new is begun; what is with the driver is waited for, within reason. */
static uint64_t
stop_step(struct deliver *d)
{
    struct err err;
    bool       progress = false;

    deliveri_take_commands(d, true);
    if (d->stop_by_us == 0)
        d->stop_by_us = d->now_us + STOP_WAIT_US;
    if (d->now_us < d->stop_by_us) {
        if (d->flying > 0 && poll_sink(d, &progress, &err) != 0 && err.kind != ERR_RETRY &&
            err.kind != ERR_UNSURE)
            d->stop_by_us = d->now_us;
        if (d->reader != NULL && d->restart != RESTART_ALL &&
            (decide(d, &err) != 0 || commit(d, &err) != 0))
            failed(d, &err);
        d->finished = (struct queue){0};
        if (d->flying > 0)
            return progress ? ENV_STEP_NOW : SPIN_US;
        if (d->committing)
            return ENV_STEP_WAIT;
    }
    if (d->committing)
        return ENV_STEP_WAIT;
    (void)err_set(&err, __FILE__, __LINE__, E_STATE, ERR_RETRY,
                  "sink %s was stopped before that was durable", d->name);
    deliveri_orders_failed(d, &err);
    d->state = DELIVER_STOPPED;
    publish(d);
    d->env->ops->gate_open(d->env, &d->stopped);
    return ENV_STEP_WAIT;
}

/* While the far side is waited for; the log, where that is what failed, is not asked sooner. */
static uint64_t
rest_step(struct deliver *d)
{
    struct err err;

    if (!d->log_failed && d->reader != NULL && d->restart != RESTART_ALL &&
        (d->orders != d->orders_marked || d->recording.head != NULL) && commit(d, &err) != 0)
        failed(d, &err);
    publish(d);
    return d->resume_us - d->now_us;
}

static uint64_t
step(void *arg)
{
    struct deliver *d = arg;
    struct err      err;
    bool            progress = false;

    must(d->magic == DELIVERI_MAGIC);
    d->now_us = d->env->ops->mono_us(d->env);
    if (d->committing && atomic_load(&d->commit_done))
        take_commit(d);
    if (atomic_load(&d->stopping))
        return stop_step(d);
    deliveri_take_commands(d, false);
    if (d->state == DELIVER_FAILED) {
        publish(d);
        return ENV_STEP_WAIT;
    }
    if (d->now_us < d->resume_us)
        return rest_step(d);
    if (work(d, &progress, &err) != 0) {
        failed(d, &err);
        publish(d);
        return ENV_STEP_NOW;
    }
    settle_state(d);
    publish(d);
    return next_step(d, progress);
}

/* the contract */

static void
wake(struct log_listener *listener)
{
    struct deliver *d = listener->arg;

    d->env->ops->task_wake(d->env, d->task);
}

static void
take_conf(struct deliver *d, const struct deliver_conf *conf)
{
    struct deliver_conf *c = &d->conf;

    *c = *conf;
    d->steps[0] = conf->filter;
    d->steps[1] = conf->transform;
    c->window_bytes = c->window_bytes == 0 ? UINT64_C(16) << 20 : c->window_bytes;
    c->checkpoint_ms = c->checkpoint_ms == 0 ? 1000 : c->checkpoint_ms;
    c->checkpoint_items = c->checkpoint_items == 0 ? 10000 : c->checkpoint_items;
    c->retry_min_ms = c->retry_min_ms == 0 ? 100 : c->retry_min_ms;
    c->retry_max_ms = c->retry_max_ms == 0 ? 30000 : c->retry_max_ms;
    c->later_max = c->later_max == 0 ? 65536 : c->later_max;
    c->parked_streams_max = c->parked_streams_max == 0 ? 100000 : c->parked_streams_max;
    (void)snprintf(d->name, sizeof d->name, "%s", conf->name);
    (void)snprintf(d->mark_stream, sizeof d->mark_stream, "$sink-%.200s", conf->name);
    (void)snprintf(d->later_stream, sizeof d->later_stream, "$later-sink-%.200s", conf->name);
    (void)snprintf(d->parked_stream, sizeof d->parked_stream, "$parked-sink-%.200s", conf->name);
}

/* What is in flight at most, and as much again that comes next or waits for its stream. */
static void
size_window(struct deliver *d)
{
    uint32_t items = d->transactional ? d->sink->credit : d->sink->credit * 2;

    if (d->conf.window_items == 0)
        d->conf.window_items = items < WINDOW_MIN ? WINDOW_MIN : items;
}

static int
copy_text(const char *from, char **to, struct err *err)
{
    *to = from == NULL ? NULL : strdup(from);
    if (from != NULL && *to == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    return 0;
}

int
deliver_new(struct ox_env *env, struct log *log, const struct deliver_conf *conf,
            struct sink **sink, struct deliver **out, struct err *err)
{
    struct deliver *d = NULL;
    int             rc = 0;

    *out = NULL;
    d = calloc(1, sizeof *d);
    if (d == NULL || strlen(conf->name) > 200) {
        transform_free(conf->filter);
        transform_free(conf->transform);
        free(d);
        d = NULL;
        FAIL(err, E_INVALID, ERR_FATAL, "sink %.20s…: a name has at most 200 bytes", conf->name);
    }
    d->magic = DELIVERI_MAGIC;
    d->env = env;
    d->log = log;
    lock_init(&d->lock, LOCK_CORE);
    take_conf(d, conf);
    TRY(copy_text(conf->category, &d->category, err));
    TRY(copy_text(conf->prefix, &d->prefix, err));
    TRY(copy_text(conf->type, &d->type, err));
    d->later_in_meta = conf->deliver_at != NULL && strncmp(conf->deliver_at, "metadata.", 9) == 0;
    TRY(copy_text(conf->deliver_at == NULL ? NULL : strchr(conf->deliver_at, '.') + 1,
                  &d->later_path, err));
    d->events = calloc(DELIVERI_RECORDS_MAX, sizeof *d->events);
    if (d->events == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    d->state = d->shared.status.state = DELIVER_STOPPED;
    must((*sink)->done == NULL);
    must((*sink)->in_flight == 0);
    d->sink = *sink;
    d->far_side = d->sink->transactional;
    d->transactional = d->far_side || d->sink->whole;
    size_window(d);
    d->sink->once = conf->skip_moved;
    d->sink->done = on_done;
    d->sink->done_arg = d;
    *sink = NULL;
    *out = d;
    d = NULL;
out:
    deliver_free(d);
    return rc;
}

int
deliver_start(struct deliver *d, struct err *err)
{
    struct ox_task_def def = {.name = "ox-deliver", .step = step, .arg = d};
    int                rc;

    if (d->task != NULL)
        return 0;
    if (d->sink->in_flight > 0)
        RETURN_ERR(err, E_STATE, ERR_FATAL,
                   "sink %s: it still holds events of the last run: open it anew", d->name);
    must(d->flying == 0);
    must(!d->committing);
    d->loaded = d->seeking = d->seek_committing = d->log_failed = false;
    d->orders = d->orders_next = d->orders_marked = 0;
    d->range.on = d->range_read = false;
    d->restart = RESTART_NONE;
    d->failures = d->away = 0;
    d->room = d->conf.window_items < ROOM_FIRST ? d->conf.window_items : ROOM_FIRST;
    d->resume_us = d->stop_by_us = 0;
    d->state = DELIVER_STARTING;
    d->error[0] = '\0';
    atomic_store(&d->stopping, false);
    gate_init(&d->stopped);
    d->shared.status.state = DELIVER_STARTING;
    rc = d->env->ops->task_start(d->env, &def, &d->task, err);
    if (rc != 0)
        return rc;
    d->listener.wake = wake;
    d->listener.arg = d;
    log_listen(d->log, &d->listener);
    d->env->ops->task_wake(d->env, d->task); /* for what came before the listening */
    lock_take(&d->lock);
    d->shared.accepting = true;
    lock_give(&d->lock);
    return 0;
}

void
deliver_stop(struct deliver *d)
{
    if (d->task == NULL)
        return;
    atomic_store(&d->stopping, true);
    d->env->ops->task_wake(d->env, d->task);
    (void)d->env->ops->gate_wait(d->env, &d->stopped, UINT64_MAX);
    log_unlisten(d->log, &d->listener);
    d->env->ops->task_stop(d->env, d->task);
    must(d->state == DELIVER_STOPPED);
    must(!d->committing);
    d->task = NULL;
}

void
deliver_free(struct deliver *d)
{
    if (d == NULL)
        return;
    must(d->magic == DELIVERI_MAGIC);
    deliver_stop(d);
    sink_free(d->sink); /* before what it may hold */
    close_readers(d);
    deliveri_clear(d, true);
    deliveri_pool_fini(&d->pool);
    deliveri_shaper_fini(&d->shaper);
    deliveri_shaper_fini(&d->again_shaper);
    for (int i = 0; i < DELIVERI_STEPS; i++)
        transform_free(d->steps[i]);
    buf_fini(&d->text);
    buf_fini(&d->scratch);
    free(d->lanes);
    free(d->events);
    free(d->category);
    free(d->prefix);
    free(d->type);
    free(d->later_path);
    free(d->later.heap);
    lock_fini(&d->lock);
    d->magic = 0;
    free(d);
}

void
deliver_get_status(struct deliver *d, struct deliver_status *out)
{
    uint64_t end = log_end(d->log).v, now = d->env->ops->mono_us(d->env), unread;

    lock_take(&d->lock);
    *out = d->shared.status;
    if (d->shared.oldest_us != 0 && now > d->shared.oldest_us)
        out->oldest_ms = (now - d->shared.oldest_us) / 1000;
    out->behind_estimate = out->window_items;
    unread = end > d->shared.read.v ? end - d->shared.read.v : 0;
    /* What follows the last event that counts is nobody's lag. */
    if (!out->caught_up && end > out->done.v + 1) {
        out->lag_positions = end - out->done.v - 1;
        if (d->shared.positions_read > 0)
            out->behind_estimate += (uint64_t)((double)unread * (double)d->shared.events_read /
                                               (double)d->shared.positions_read);
    }
    lock_give(&d->lock);
}
