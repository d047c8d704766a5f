/*
 * Cutover: the fence at the authority, with a lease.
 *
 *   1  record: FENCING, a new epoch, nobody has the authority      (intent)
 *   2  guard at the leaving side: that epoch, not writable         writes are held from here
 *   3  its position, taken after 2: it covers every write that was let in
 *   4  all of the feed up to there captured and applied
 *   5  every key that is not verified since its last change: equal
 *   6  record: the other side has the authority                    the point of no return
 *      from the log's end on, where nothing of its own is under way
 *   7  its feed becomes active, and only then
 *   8  guard at the other side: that epoch, writable               writes go on
 *
 * Before 6 any failure and a lease that has run out go back: the record gives
 * the authority back under a yet newer epoch, then the guard of the leaving
 * side becomes writable with it. A crash before 6 leaves a record that says
 * FENCING, which a restart takes back in the same way; a crash after 6 leaves
 * one that names the new authority, whose guard a restart sets once more.
 * Setting a guard to what it is changes nothing, and an older one is refused,
 * so a request that was late can undo none of this.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/say.h"
#include "migrate/tracer/tracer_int.h"

#define ROUNDS_MAX 30
#define STALE_FEW 16 /* keys that are quickly looked at under the fence */
#define RETRY_US UINT64_C(50000)
#define RELEASE_RETRY_US UINT64_C(5000)

/* The guard of the side that has the authority, as the record says. */
static int
open_side(struct tracer *t, enum tracer_side side, struct err *err)
{
    struct store      *s = t->ends[side].store;
    struct store_guard g = {.epoch = t->rec.epoch, .writable = true};

    return s->ops->guard_set(s, &g, err);
}

static int
close_side(struct tracer *t, enum tracer_side side, struct err *err)
{
    struct store      *s = t->ends[side].store;
    struct store_guard g = {.epoch = t->rec.epoch, .writable = false};

    (void)snprintf(g.moved_to, sizeof g.moved_to, "%s", t->ends[traceri_other(side)].label);
    return s->ops->guard_set(s, &g, err);
}

/* Until it is done: whoever has the authority must be able to write. False: the task stops. */
static bool
open_surely(struct tracer *t, enum tracer_side side)
{
    struct err err;
    bool       said = false;

    while (open_side(t, side, &err) != 0) {
        if (!said)
            say(SAY_ERROR, "cannot open the authority's side yet", "migration", t->name, "side",
                tracer_side_name(side), "error", err.text, NULL);
        said = true;
        lock_take(&t->lock);
        (void)snprintf(t->last_error, sizeof t->last_error, "%s", err.text);
        lock_give(&t->lock);
        if (traceri_nap(t, RELEASE_RETRY_US))
            return false;
    }
    return true;
}

/* Few keys are left to look at under the fence, or as few as they get. */
static int
shrink(struct tracer *t, struct err *err)
{
    uint64_t rows, stale, hot, divergent;
    int      rc = 0;

    for (int i = 0; i < ROUNDS_MAX; i++) {
        TRY(traceri_verify_round(t->verify, err));
        traceri_verify_counts(t->verify, &rows, &stale, &hot, &divergent);
        if (divergent > 0)
            FAIL(err, E_DIVERGED, ERR_DATA, "%" PRIu64 " keys differ: repair them first",
                 divergent);
        if (stale <= STALE_FEW)
            return 0;
    }
    if (stale > t->stale_max)
        FAIL(err, E_LIMIT, ERR_RETRY,
             "%" PRIu64 " keys change faster than they are verified (verify.stale_max is %u)",
             stale, t->stale_max);
out:
    return rc;
}

/* Steps 2 to 5. */
static int
fence_and_drain(struct tracer *t, enum tracer_side from, uint64_t deadline_us, struct err *err)
{
    struct store  *s = t->ends[from].store;
    struct buf     position = {0};
    struct log_pos upto;
    int            rc;

    TRY(close_side(t, from, err));
    TRY(s->ops->position(s, &position, err));
    TRY(traceri_wait_applied(t, from, buf_slice(&position), deadline_us, &upto, err));
    TRY(traceri_verify_final(t->verify, deadline_us, err));
    if (t->env->ops->mono_us(t->env) > deadline_us)
        FAIL(err, E_TIMEOUT, ERR_RETRY, "the lease has run out");
out:
    buf_fini(&position);
    return rc;
}

/* Until the record is written, or somebody else has written it. */
static bool
save_surely(struct tracer *t, struct traceri_record *next)
{
    struct err err;

    while (traceri_save(t, next, &err) != 0) {
        if (atomic_load(&t->lost) || traceri_nap(t, RETRY_US))
            return false;
    }
    return true;
}

static void
go_back(struct tracer *t, const struct err *why)
{
    struct traceri_record next = t->rec;
    enum tracer_side      side = t->rec.fenced;

    next.authority = side;
    next.phase = t->rec.from;
    next.epoch++;
    (void)snprintf(next.error, sizeof next.error, "%s", why->text);
    if (!save_surely(t, &next) || !open_surely(t, side))
        return;
    traceri_publish(t, side, t->rec.epoch);
    say(SAY_WARN, "switch taken back", "migration", t->name, "side", tracer_side_name(side), "why",
        why->text, NULL);
}

static void
note_held(struct tracer *t, uint64_t held_us)
{
    struct traceri_record next = t->rec;
    struct err            err;

    if (next.held_count == TRACERI_HELD_MAX) {
        memmove(next.held, next.held + 1, (TRACERI_HELD_MAX - 1) * sizeof next.held[0]);
        next.held_count--;
    }
    next.held[next.held_count++] = held_us;
    (void)traceri_save(t, &next, &err);
}

/* Steps 6 to 8; after the record there is no way back. */
static int
hand_over(struct tracer *t, enum tracer_side to, uint64_t began_us, struct err *err)
{
    struct traceri_record next = t->rec;
    enum tracer_side      from = traceri_other(to);
    int                   rc;

    next.authority = to;
    next.phase = to == TRACER_NEW ? TRACER_NEW_SOAK : TRACER_READY;
    next.switches++;
    next.since = log_end(t->log).v;
    next.upto = traceri_verify_upto(t->verify);
    next.error[0] = '\0';
    TRY(traceri_save(t, &next, err));
    traceri_feed_follow(t->ends[to].feed, t->rec.since);
    traceri_feed_ignore(t->ends[from].feed);
    if (!open_surely(t, to))
        FAIL(err, E_INTERRUPTED, ERR_RETRY, "stopped: the next start goes on");
    traceri_publish(t, to, t->rec.epoch);
    note_held(t, t->env->ops->mono_us(t->env) - began_us);
out:
    return rc;
}

int
traceri_cutover(struct tracer *t, enum tracer_side to, struct err *err)
{
    enum tracer_side      from = traceri_other(to);
    struct traceri_record next;
    uint64_t              began;
    int                   rc;

    must(t->rec.authority == from);
    TRY(shrink(t, err));
    next = t->rec;
    next.from = t->rec.phase;
    next.phase = TRACER_FENCING;
    next.authority = TRACER_HOLD;
    next.fenced = from;
    next.epoch++;
    TRY(traceri_save(t, &next, err));
    traceri_publish(t, TRACER_HOLD, t->rec.epoch);
    began = t->env->ops->mono_us(t->env);
    rc = fence_and_drain(t, from, began + t->lease_us, err);
    if (rc == 0)
        rc = hand_over(t, to, began, err);
    /* A save whose outcome was unknown has read the record again: it may have won. */
    if (rc != 0 && t->rec.authority == TRACER_HOLD && !atomic_load(&t->stopping) &&
        !atomic_load(&t->lost))
        go_back(t, err);
    else if (rc != 0 && t->rec.authority == to)
        t->recovered = false; /* steps 7 and 8 are done by the recovery */
out:
    return rc;
}

int
traceri_cutover_recover(struct tracer *t, struct err *err)
{
    struct traceri_record next = t->rec;
    enum tracer_side      side;
    int                   rc;

    if (t->rec.authority == TRACER_HOLD) {
        next.authority = next.fenced;
        next.phase = next.from;
        next.epoch++;
        (void)snprintf(next.error, sizeof next.error, "a switch was interrupted and taken back");
        TRY(traceri_save(t, &next, err));
    }
    side = t->rec.authority;
    traceri_feed_follow(t->ends[side].feed, t->rec.since);
    traceri_feed_ignore(t->ends[traceri_other(side)].feed);
    TRY(open_side(t, side, err));
    traceri_publish(t, side, t->rec.epoch);
out:
    return rc;
}
