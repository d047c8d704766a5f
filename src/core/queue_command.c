/* Commands: pausing, resuming, letting go, and the way back of parked messages. */
#include <inttypes.h>

#include "base/must.h"
#include "core/queue_int.h"

#define DROP_US UINT64_C(10000000) /* how long the broker may take to let go */
#define DROP_WAIT_US UINT64_C(100000)

void
queuei_answer(struct queue *q, struct queue_call *call, int rc, const struct err *err)
{
    (void)q;
    if (call == NULL)
        return;
    must(rc == 0 || err != NULL);
    call->rc = rc;
    if (rc != 0)
        err_copy(&call->err, err);
    call->done(call);
}

static struct queue_call *
next_call(struct queue *q)
{
    struct queue_call *call;

    lock_take(&q->lock);
    call = q->calls;
    if (call != NULL)
        q->calls = call->next;
    lock_give(&q->lock);
    return call;
}

void
queue_submit(struct queue *q, struct queue_call *call)
{
    struct queue_call **at = &q->calls;
    bool                taken;

    must(call->done != NULL);
    call->next = NULL;
    call->rc = 0;
    call->closed = call->refused = 0;
    err_clear(&call->err);
    lock_take(&q->lock);
    taken = q->status.state != QUEUE_STOPPED;
    while (*at != NULL)
        at = &(*at)->next;
    if (taken)
        *at = call;
    lock_give(&q->lock);
    if (taken) {
        q->env->ops->task_wake(q->env, q->task);
        return;
    }
    call->rc = err_set(&call->err, __FILE__, __LINE__, E_STATE, ERR_RETRY,
                       "source %s is not running", q->form.name);
    call->done(call);
}

void
queuei_refuse_calls(struct queue *q)
{
    struct queue_call *open[] = {q->dropping, q->closing}, *call;
    struct err         err;

    must(q->flying == 0);
    (void)err_set(&err, __FILE__, __LINE__, E_STATE, ERR_RETRY, "source %s is being stopped",
                  q->form.name);
    q->dropping = q->closing = NULL;
    for (int i = 0; i < 2; i++)
        queuei_answer(q, open[i], err.code, &err);
    while ((call = next_call(q)) != NULL)
        queuei_answer(q, call, err.code, &err);
}

/* pause, resume, drop */

static void
swallow(void *arg, enum finding_level level, const char *text)
{
    (void)arg;
    (void)level;
    (void)text;
}

static uint64_t
go_on_dropping(struct queue *q)
{
    struct queue_call *call = q->dropping;
    struct err         err;

    must(q->flying == 0);
    must(!q->started);
    if (q->reader->ops->unprepare(q->reader, swallow, NULL, &err) != 0) {
        if ((err.kind == ERR_RETRY || err.kind == ERR_UNSURE) &&
            q->env->ops->mono_us(q->env) < q->drop_by_us)
            return DROP_WAIT_US;
        q->dropping = NULL;
        queuei_answer(q, call, err.code, &err);
        return ENV_STEP_NOW;
    }
    q->dropping = NULL;
    queuei_window_clear(&q->window);
    buf_clear(&q->checkpoint);
    q->rest = QUEUEI_DROPPED;
    if (queuei_commit_state(q, "dropped", call, &err) != 0) {
        q->known = false;
        queuei_answer(q, call, err.code, &err);
    }
    return ENV_STEP_NOW;
}

static int
take_rest(struct queue *q, struct queue_call *call, struct err *err)
{
    bool pause = call->command == QUEUE_PAUSE;
    int  rc = 0;

    if (pause && q->rest == QUEUEI_DROPPED)
        FAIL(err, E_STATE, ERR_DATA, "source %s is dropped", q->form.name);
    if (pause)
        queuei_let_go(q);
    if (pause || q->rest != QUEUEI_AWAKE)
        TRY(queuei_commit_state(q, pause ? "paused" : "running", call, err));
    else
        queuei_answer(q, call, 0, NULL); /* it runs, or is tried again now */
    q->rest = pause ? QUEUEI_PAUSED : QUEUEI_AWAKE;
    if (!pause && !q->started) {
        q->backoff_us = 0;
        queuei_set_state(q, QUEUE_STARTING, NULL);
    }
out:
    return rc;
}

/* the way back of parked messages */

static bool
is_open(const struct queue *q, uint64_t version)
{
    for (uint32_t i = 0; i < q->parked_count; i++)
        if (q->parked[i] == version)
            return true;
    return false;
}

static int
begin_closing(struct queue *q, struct queue_call *call, struct err *err)
{
    must(call->command == QUEUE_REPLAY || call->command == QUEUE_SKIP);
    if (q->parked_count == 0 || (call->version != UINT64_MAX && !is_open(q, call->version)))
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "source %s: no such message is parked", q->form.name);
    if (q->closing != NULL)
        RETURN_ERR(err, E_BUSY, ERR_RETRY, "source %s: others are being replayed or given up",
                   q->form.name);
    q->closing = call;
    q->closing_from = call->version == UINT64_MAX ? 0 : call->version;
    q->closing_to = call->version == UINT64_MAX ? q->parked[q->parked_count - 1] : call->version;
    must(q->closing_from <= q->closing_to);
    return 0;
}

static bool
next_open(const struct queue *q, uint64_t *version)
{
    for (uint32_t i = 0; i < q->parked_count; i++) {
        *version = q->parked[i];
        if (*version >= q->closing_from)
            return *version <= q->closing_to;
    }
    return false;
}

/* The first of them that has to stay says why. */
static void
end_closing(struct queue *q)
{
    struct queue_call *call = q->closing;

    q->closing = NULL;
    if (call->closed == 0 && call->refused > 0)
        call->rc = call->err.code;
    call->done(call);
}

void
queuei_closed(struct queue *q, const struct err *err)
{
    struct queue_call *call = q->closing;

    if (call == NULL)
        return;
    if (err == NULL) {
        call->closed++;
        return;
    }
    if (err->kind != ERR_DATA) {
        q->closing = NULL;
        queuei_answer(q, call, err->code, err);
        return;
    }
    if (call->refused++ == 0)
        err_copy(&call->err, err);
}

/* Nothing is under way. */
static void
go_on_closing(struct queue *q)
{
    struct queue_message m;
    struct err           err;
    uint64_t             version = 0;
    bool                 replay = q->closing->command == QUEUE_REPLAY;
    int                  rc = 0;

    must(q->flying == 0);
    must(q->known);
    if (!next_open(q, &version)) {
        end_closing(q);
        return;
    }
    q->closing_from = version + 1;
    if (replay) {
        TRY(queuei_read_parked(q, version, &q->record, &err));
        TRY(queuei_message_parked(buf_slice(&q->record), &q->decoded, &q->headers, &m, &err));
    }
    TRY(queuei_commit_closed(q, version, replay ? &m : NULL, &err));
out:
    if (rc != 0)
        queuei_closed(q, &err);
}

/* Nothing is under way. */
static void
take_call(struct queue *q, struct queue_call *call)
{
    struct err err;
    int        rc = 0;

    must(q->flying == 0);
    must(q->dropping == NULL);
    if (!q->known)
        TRY(queuei_read(q, &err));
    switch (call->command) {
    case QUEUE_PAUSE:
    case QUEUE_RESUME:
        rc = take_rest(q, call, &err);
        break;
    case QUEUE_GAP:
        if (q->rest != QUEUEI_AWAKE)
            FAIL(&err, E_STATE, ERR_DATA, "source %s is paused or dropped: resume it first",
                 q->form.name);
        queuei_let_go(q);
        q->gap = true;
        rc = take_rest(q, call, &err);
        break;
    case QUEUE_DROP:
        queuei_let_go(q);
        q->dropping = call;
        q->drop_by_us = q->env->ops->mono_us(q->env) + DROP_US;
        break;
    case QUEUE_REPLAY:
    case QUEUE_SKIP:
        rc = begin_closing(q, call, &err);
        break;
    }
out:
    if (rc != 0)
        queuei_answer(q, call, rc, &err);
}

bool
queuei_command(struct queue *q, uint64_t *wait)
{
    bool waiting;

    if (q->dropping != NULL) {
        *wait = go_on_dropping(q);
        return true;
    }
    lock_take(&q->lock);
    waiting = q->calls != NULL;
    lock_give(&q->lock);
    *wait = q->flying > 0 ? ENV_STEP_WAIT : ENV_STEP_NOW;
    if (waiting && q->flying == 0)
        take_call(q, next_call(q));
    if (waiting)
        return true;
    if (q->closing == NULL || !(q->turn = !q->turn))
        return false;
    if (q->flying > 0) {
        q->turn = false;
        return true;
    }
    if (q->known)
        go_on_closing(q);
    return q->known;
}
