/* Commands: handed over by any thread, taken by the task between two steps. */
#include <inttypes.h>

#include "base/must.h"
#include "core/deliver_int.h"

#define COMMAND_WAIT_US UINT64_C(2000000)

/* on the task */

/* Like a seek that comes back. */
static int
order_range(struct deliver *d, const struct command *c)
{
    bool end = c->to.v < c->pos.v;

    if (end ? !d->range.on : d->range.on || d->seeking)
        return E_EXISTS;
    d->seek_here = true;
    d->next_range = (struct range){!end, c->pos.v, c->to.v};
    d->runs += !end;
    d->seeking = true;
    return 0;
}

static int
order(struct deliver *d, const struct command *c)
{
    if (c->kind == COMMAND_RANGE)
        return order_range(d, c);
    if (c->kind == COMMAND_SEEK) {
        d->seeking = true;
        d->next_range.on = d->seek_here = false;
        d->seek = LOG_POS(c->pos.v == 0 ? 0 : c->pos.v - 1);
        if (c->pos.v < d->start)
            d->start = c->pos.v; /* these originals are given now */
        return 0;
    }
    must(c->kind == COMMAND_PAUSE || c->kind == COMMAND_RESUME);
    d->paused = c->kind == COMMAND_PAUSE;
    d->mark_changed = true;
    return 0;
}

void
deliveri_take_commands(struct deliver *d, bool refuse)
{
    struct command *list, *next;

    lock_take(&d->lock);
    list = d->shared.commands;
    d->shared.commands = NULL;
    if (refuse)
        d->shared.accepting = false;
    lock_give(&d->lock);
    for (; list != NULL; list = next) {
        next = list->next;
        list->rc = refuse || d->reader == NULL || d->state == DELIVER_FAILED ? E_STATE
                   : list->kind == COMMAND_LANE ? deliveri_command(d, list)
                                                : order(d, list);
        d->env->ops->gate_open(d->env, &list->gate);
    }
}

/* on any other */

/* Takes back what the task has not seen yet. */
static bool
withdraw(struct deliver *d, const struct command *c)
{
    struct command **at;
    bool             found;

    lock_take(&d->lock);
    for (at = &d->shared.commands; *at != NULL && *at != c;)
        at = &(*at)->next;
    found = *at != NULL;
    if (found)
        *at = c->next;
    lock_give(&d->lock);
    return found;
}

/* A task that waits for its far side must not keep the caller, which may be the server's loop. */
static int
command(struct deliver *d, struct command *c, struct err *err)
{
    bool taken;

    must(c->kind != COMMAND_LANE || c->mode != LANE_HOLD);
    c->rc = E_STATE;
    gate_init(&c->gate);
    lock_take(&d->lock);
    taken = d->shared.accepting;
    if (taken) {
        c->next = d->shared.commands;
        d->shared.commands = c;
        d->env->ops->task_wake(d->env, d->task);
    }
    lock_give(&d->lock);
    if (taken && !d->env->ops->gate_wait(d->env, &c->gate, COMMAND_WAIT_US)) {
        if (withdraw(d, c))
            RETURN_ERR(err, E_BUSY, ERR_RETRY,
                       "sink %s is busy with its far side: nothing was changed, try again",
                       d->name);
        (void)d->env->ops->gate_wait(d->env, &c->gate, UINT64_MAX);
    }
    if (c->rc == E_NOTFOUND)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "sink %s: nothing of it is parked", d->name);
    if (c->rc == E_EXISTS)
        RETURN_ERR(err, E_STATE, ERR_DATA, "sink %s: %s", d->name,
                   c->to.v < c->pos.v ? "no range is being replayed"
                                      : "a range is being replayed already");
    if (c->rc != 0)
        RETURN_ERR(err, E_STATE, ERR_RETRY, "sink %s is not running", d->name);
    return 0;
}

int
deliver_replay(struct deliver *d, struct slice stream, struct err *err)
{
    return command(d, &(struct command){.stream = stream, .mode = LANE_REPLAY}, err);
}

int
deliver_skip(struct deliver *d, struct slice stream, bool rest, struct err *err)
{
    enum lane_mode mode = rest ? LANE_SKIP_ALL : LANE_SKIP_ONE;

    return command(d, &(struct command){.stream = stream, .mode = mode}, err);
}

int
deliver_pause(struct deliver *d, bool pause, struct err *err)
{
    enum command_kind kind = pause ? COMMAND_PAUSE : COMMAND_RESUME;

    return command(d, &(struct command){.kind = kind}, err);
}

int
deliver_seek(struct deliver *d, struct log_pos pos, struct err *err)
{
    if (d->far_side)
        RETURN_ERR(err, E_STATE, ERR_DATA,
                   "sink %s: its checkpoint is on its far side, beside the rows: it is changed "
                   "there while the sink is stopped",
                   d->name);
    if (pos.v > log_end(d->log).v)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "the log ends at %" PRIu64, log_end(d->log).v);
    return command(d, &(struct command){.kind = COMMAND_SEEK, .pos = pos}, err);
}

int
deliver_range(struct deliver *d, struct log_pos from, struct log_pos to, struct err *err)
{
    uint64_t end = log_end(d->log).v;

    if (to.v == 0 || to.v > end)
        to.v = end;
    if (from.v >= end)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "the log ends at %" PRIu64, end);
    return command(d, &(struct command){.kind = COMMAND_RANGE, .pos = from, .to = to}, err);
}
