/* Commands: which phase takes which, and what they do to the record. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "migrate/tracer/tracer_int.h"

#define BIT(p) (1u << TRACER_##p)
#define BEFORE_READY                                                                               \
    (BIT(SYNCING) | BIT(BACKFILLING) | BIT(CATCHING_UP) | BIT(VERIFYING) | BIT(READY))
#define AFTER (BIT(NEW_SOAK) | BIT(FALLBACK_KEPT))

/* FENCING is in none: a switch under way is answered before the next command is looked at. */
static const unsigned allowed[] = {
    [TRACER_START] = BIT(DRAFT),
    [TRACER_PAUSE] = BEFORE_READY | AFTER,
    [TRACER_RESUME] = BIT(PAUSED) | BIT(HALTED),
    [TRACER_VERIFY] = BIT(VERIFYING) | BIT(READY) | AFTER,
    [TRACER_REPAIR] = BIT(VERIFYING) | BIT(READY) | AFTER,
    [TRACER_SWITCH] = BIT(READY),
    [TRACER_REVERSE] = AFTER,
    [TRACER_COMPLETE_FALLBACK] = BIT(NEW_SOAK),
    [TRACER_COMPLETE_RETIRE] = AFTER,
    [TRACER_CANCEL] = BIT(DRAFT) | BIT(PREFLIGHT) | BEFORE_READY | BIT(PAUSED) | BIT(HALTED),
    [TRACER_BACKFILL_ON] = BIT(DRAFT) | BIT(PREFLIGHT) | BIT(SYNCING) | BIT(BACKFILLING),
    [TRACER_BACKFILL_OFF] = BIT(DRAFT) | BIT(PREFLIGHT) | BIT(SYNCING) | BIT(BACKFILLING),
};

static const char *
more_of(enum tracer_command c)
{
    return c == TRACER_COMPLETE_FALLBACK ? " fallback"
           : c == TRACER_COMPLETE_RETIRE ? " retire"
           : c == TRACER_BACKFILL_ON     ? " on"
           : c == TRACER_BACKFILL_OFF    ? " off"
                                         : "";
}

static void
list_phases(unsigned bits, char *out, size_t room)
{
    size_t at = 0;

    out[0] = '\0';
    for (unsigned p = 0; p <= TRACER_HALTED; p++) {
        if ((bits & 1u << p) == 0 || at + 32 > room)
            continue;
        at += (size_t)snprintf(out + at, room - at, "%s%s", at == 0 ? "" : ", ",
                               tracer_phase_name((enum tracer_phase)p));
    }
}

static int
permit(struct tracer *t, enum tracer_command c, struct err *err)
{
    char phases[256];

    if ((allowed[c] & 1u << t->rec.phase) == 0) {
        list_phases(allowed[c], phases, sizeof phases);
        RETURN_ERR(err, E_STATE, ERR_DATA, "migration %s is %s; `%s%s` is for %s", t->name,
                   tracer_phase_name(t->rec.phase), tracer_command_name(c), more_of(c), phases);
    }
    if (c == TRACER_CANCEL && t->rec.authority != TRACER_OLD)
        RETURN_ERR(err, E_STATE, ERR_DATA,
                   "migration %s: the new side has the authority; `reverse` before `cancel`",
                   t->name);
    return 0;
}

static int
resume(struct tracer *t, struct err *err)
{
    struct traceri_record next = t->rec;
    int                   rc;

    next.phase = next.from;
    next.error[0] = '\0';
    TRY(traceri_save(t, &next, err));
    /* What could not go on starts anew from its durable place. */
    traceri_run_stop(t);
    t->recovered = false;
    lock_take(&t->lock);
    t->stuck[0] = '\0';
    lock_give(&t->lock);
out:
    return rc;
}

static int
repair(struct tracer *t, struct err *err)
{
    struct traceri_record next;
    uint64_t              repaired;
    int                   rc;

    rc = traceri_verify_repair(t->verify, &repaired, err);
    next = t->rec;
    next.repaired += repaired;
    next.clean = false;
    if (next.phase == TRACER_READY)
        next.phase = TRACER_VERIFYING;
    if (rc == 0)
        next.error[0] = '\0';
    TRY(rc);
    TRY(traceri_save(t, &next, err));
    /* What was repaired counts as unverified until a whole pass has read it. */
    traceri_verify_begin(t->verify);
    t->pass_open = true;
out:
    return rc;
}

static int
set_phase(struct tracer *t, enum tracer_phase phase, struct err *err)
{
    struct traceri_record next = t->rec;

    next.from = next.phase;
    next.phase = phase;
    return traceri_save(t, &next, err);
}

static int
set_backfill(struct tracer *t, bool on, struct err *err)
{
    struct traceri_record next = t->rec;

    next.backfill_on = on;
    return traceri_save(t, &next, err);
}

/* The record says so first; what is left to take away is taken away again after a crash. */
static int
finish(struct tracer *t, enum tracer_phase phase, struct err *err)
{
    struct traceri_record next = t->rec;
    int                   rc;

    next.from = next.phase;
    next.phase = phase;
    next.dismantled = next.epoch == 0; /* nothing was set up yet */
    TRY(traceri_save(t, &next, err));
    if (!next.dismantled)
        TRY(traceri_run_dismantle(t, err));
out:
    return rc;
}

static int
begin_pass(struct tracer *t, struct err *err)
{
    int rc = 0;

    if (t->rec.phase == TRACER_READY)
        TRY(set_phase(t, TRACER_VERIFYING, err));
    traceri_verify_begin(t->verify);
    t->pass_open = true;
out:
    return rc;
}

static int
run(struct tracer *t, enum tracer_command c, struct err *err)
{
    int rc = permit(t, c, err);

    if (rc != 0)
        return rc;
    switch (c) {
    case TRACER_START:
        return set_phase(t, TRACER_PREFLIGHT, err);
    case TRACER_PAUSE:
        rc = set_phase(t, TRACER_PAUSED, err);
        if (rc == 0)
            traceri_run_stop(t);
        return rc;
    case TRACER_RESUME:
        return resume(t, err);
    case TRACER_VERIFY:
        return begin_pass(t, err);
    case TRACER_REPAIR:
        return repair(t, err);
    case TRACER_SWITCH:
        return traceri_cutover(t, TRACER_NEW, err);
    case TRACER_REVERSE:
        return traceri_cutover(t, TRACER_OLD, err);
    case TRACER_COMPLETE_FALLBACK:
        return set_phase(t, TRACER_FALLBACK_KEPT, err);
    case TRACER_COMPLETE_RETIRE:
        return finish(t, TRACER_RETIRED, err);
    case TRACER_CANCEL:
        return finish(t, TRACER_CANCELLED, err);
    case TRACER_BACKFILL_ON:
        return set_backfill(t, true, err);
    case TRACER_BACKFILL_OFF:
        return set_backfill(t, false, err);
    }
    return 0;
}

static struct tracer_call *
next_call(struct tracer *t)
{
    struct tracer_call *call;

    lock_take(&t->lock);
    call = t->first;
    if (call != NULL && (t->first = call->next) == NULL)
        t->last = &t->first;
    lock_give(&t->lock);
    return call;
}

static void
answer(struct tracer *t, struct tracer_call *call)
{
    if (call->done != NULL)
        call->done(call);
    else
        t->env->ops->gate_open(t->env, &call->gate);
}

/* A command that needs the sides waits until they could be opened. */
void
traceri_command_run(struct tracer *t)
{
    struct tracer_call *call;

    while ((call = next_call(t)) != NULL) {
        err_clear(&call->err);
        if (!t->recovered && permit(t, call->command, &call->err) == 0 &&
            (allowed[call->command] & ~(BEFORE_READY | AFTER)) == 0)
            call->rc = err_set(&call->err, __FILE__, __LINE__, E_BUSY, ERR_RETRY,
                               "migration %s cannot reach its sides yet", t->name);
        else
            call->rc = run(t, call->command, &call->err);
        answer(t, call);
    }
}

void
traceri_command_end(struct tracer *t)
{
    struct tracer_call *call;

    while ((call = next_call(t)) != NULL) {
        call->rc = err_set(&call->err, __FILE__, __LINE__, E_CLOSED, ERR_RETRY,
                           "migration %s is being closed", t->name);
        answer(t, call);
    }
}

void
tracer_submit(struct tracer *t, struct tracer_call *call)
{
    call->next = NULL;
    lock_take(&t->lock);
    *t->last = call;
    t->last = &call->next;
    lock_give(&t->lock);
    t->env->ops->task_wake(t->env, t->task);
}

int
tracer_command(struct tracer *t, enum tracer_command command, struct err *err)
{
    struct tracer_call call = {.command = command};

    gate_init(&call.gate);
    tracer_submit(t, &call);
    (void)t->env->ops->gate_wait(t->env, &call.gate, UINT64_MAX);
    if (call.rc != 0)
        err_copy(err, &call.err);
    return call.rc;
}
