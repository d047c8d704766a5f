/*
 * Commands: handed over by any thread, taken by the task between two steps, and answered when a
 * commit has them. Those about what is parked take effect there, at the place of their records;
 * the others at once, and the next checkpoint says so.
 */
#include <inttypes.h>

#include "base/must.h"
#include "core/deliver_int.h"

static void
push(struct calls *q, struct deliver_call *c)
{
    c->next = NULL;
    if (q->tail == NULL)
        q->head = c;
    else
        q->tail->next = c;
    q->tail = c;
}

static struct deliver_call *
pop(struct calls *q)
{
    struct deliver_call *c = q->head;

    if (c == NULL)
        return NULL;
    q->head = c->next;
    if (q->head == NULL)
        q->tail = NULL;
    return c;
}

static void
answer(struct deliver *d, struct deliver_call *c, int rc, const struct err *err)
{
    lock_take(&d->lock);
    must(d->shared.open > 0);
    d->shared.open--;
    lock_give(&d->lock);
    c->rc = rc;
    if (rc != 0)
        err_copy(&c->err, err);
    c->done(c);
}

/* on the task */

/* Like a seek that comes back. */
static int
begin_range(struct deliver *d, const struct deliver_call *c, struct err *err)
{
    bool end = c->to.v < c->from.v;

    if (end ? !d->range.on : d->range.on || d->seeking)
        RETURN_ERR(err, E_STATE, ERR_DATA, "sink %s: %s", d->name,
                   end ? "no range is being replayed" : "a range is being replayed already");
    d->seek_here = true;
    d->next_range = (struct range){!end, c->from.v, c->to.v};
    d->runs += !end;
    d->seeking = true;
    return 0;
}

static void
begin_seek(struct deliver *d, const struct deliver_call *c)
{
    d->seeking = true;
    d->next_range.on = d->seek_here = false;
    d->seek = LOG_POS(c->from.v == 0 ? 0 : c->from.v - 1);
    if (c->from.v < d->start)
        d->start = c->from.v; /* these originals are given now */
}

static int
begin(struct deliver *d, struct deliver_call *c, struct err *err)
{
    int rc = 0;

    switch (c->command) {
    case DELIVER_REPLAY:
    case DELIVER_SKIP:
    case DELIVER_DROP:
        if (!deliveri_is_parked(d, c->stream))
            RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "sink %s: nothing of it is parked", d->name);
        push(&d->recording, c);
        return 0;
    case DELIVER_PAUSE:
    case DELIVER_RESUME:
        d->paused = c->command == DELIVER_PAUSE;
        break;
    case DELIVER_SEEK:
        begin_seek(d, c);
        break;
    case DELIVER_RANGE:
        TRY(begin_range(d, c, err));
        break;
    }
    c->number = ++d->orders;
    push(&d->marking, c);
out:
    return rc;
}

/* What would be looked up anew, or is being written, must not change under that. */
static bool
may_take(const struct deliver *d)
{
    return d->reader != NULL && d->restart != RESTART_ALL && !d->seek_committing;
}

void
deliveri_take_commands(struct deliver *d, bool refuse)
{
    struct calls         list;
    struct deliver_call *c;
    struct err           err;
    int                  rc;

    if (!refuse && d->state != DELIVER_FAILED && !may_take(d))
        return;
    lock_take(&d->lock);
    list = d->shared.calls;
    d->shared.calls = (struct calls){0};
    if (refuse)
        d->shared.accepting = false;
    lock_give(&d->lock);
    while ((c = pop(&list)) != NULL) {
        rc = refuse || d->state == DELIVER_FAILED
                 ? err_set(&err, __FILE__, __LINE__, E_STATE, ERR_RETRY, "sink %s is not running",
                           d->name)
                 : begin(d, c, &err);
        if (rc != 0)
            answer(d, c, rc, &err);
    }
}

void
deliveri_orders_marked(struct deliver *d)
{
    d->orders_marked = d->orders_next;
    while (d->marking.head != NULL && d->marking.head->number <= d->orders_marked)
        answer(d, pop(&d->marking), 0, NULL);
}

void
deliveri_orders_recorded(struct deliver *d, uint32_t count)
{
    while (count-- > 0) {
        struct deliver_call *c = pop(&d->recording);

        must(c != NULL);
        deliveri_order(d, c);
        answer(d, c, 0, NULL);
    }
}

/* Those in a commit wait for that. */
void
deliveri_orders_failed(struct deliver *d, const struct err *err)
{
    struct calls recording = d->recording;
    uint32_t     keep = d->committing && d->commit_kind == COMMIT_ORDERS ? d->commit_count : 0;

    d->recording = (struct calls){0};
    for (; keep > 0; keep--)
        push(&d->recording, pop(&recording));
    while (d->marking.head != NULL)
        answer(d, pop(&d->marking), err->code, err);
    while (recording.head != NULL)
        answer(d, pop(&recording), err->code, err);
}

/* on any other */

/* What needs nothing of the task. */
static int
check(struct deliver *d, struct deliver_call *c, struct err *err)
{
    uint64_t end = log_end(d->log).v;

    if (c->command != DELIVER_SEEK && c->command != DELIVER_RANGE)
        return 0;
    if (c->command == DELIVER_SEEK && d->far_side)
        RETURN_ERR(err, E_STATE, ERR_DATA,
                   "sink %s: its checkpoint is on its far side, beside the rows: it is changed "
                   "there while the sink is stopped",
                   d->name);
    if (c->from.v > end || (c->command == DELIVER_RANGE && c->from.v == end))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "the log ends at %" PRIu64, end);
    if (c->command == DELIVER_RANGE && (c->to.v == 0 || c->to.v > end))
        c->to.v = end;
    return 0;
}

void
deliver_submit(struct deliver *d, struct deliver_call *c)
{
    bool taken = false, full;

    c->rc = check(d, c, &c->err);
    if (c->rc != 0) {
        c->done(c);
        return;
    }
    lock_take(&d->lock);
    full = d->shared.open >= DELIVERI_CALLS_MAX;
    if (d->shared.accepting && !full) {
        taken = true;
        push(&d->shared.calls, c);
        d->shared.open++;
        d->env->ops->task_wake(d->env, d->task);
    }
    lock_give(&d->lock);
    if (taken)
        return;
    c->rc =
        err_set(&c->err, __FILE__, __LINE__, full ? E_BUSY : E_STATE, ERR_RETRY,
                full ? "sink %s: too many orders wait for it" : "sink %s is not running", d->name);
    c->done(c);
}
