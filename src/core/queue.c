#include "core/queue.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/must.h"
#include "core/queue_int.h"

#define BATCH_MAX 500u
#define PARKED_MAX 10000u
#define POLL_WAIT_MS 200u
#define BACKOFF_MIN_US UINT64_C(100000)
#define BACKOFF_MAX_US UINT64_C(10000000)
#define DETAIL_US UINT64_C(1000000)

const char *
queue_state_name(enum queue_state state)
{
    static const char *const names[] = {"starting", "running", "retrying", "stopped",
                                        "failed",   "paused",  "dropped"};

    must(state <= QUEUE_DROPPED);
    return names[state];
}

void
queuei_set_state(struct queue *q, enum queue_state state, const struct err *err)
{
    lock_take(&q->lock);
    q->status.state = state;
    q->status.window = q->window.count;
    q->status.parked_open = q->parked_count;
    (void)snprintf(q->status.error, sizeof q->status.error, "%s", err == NULL ? "" : err->text);
    lock_give(&q->lock);
}

void
queuei_let_go(struct queue *q)
{
    source_queue_stop(q->reader);
    q->started = false;
    q->held.count = 0;
}

/* Returns what the step returns: later, or never again. */
static uint64_t
failed(struct queue *q, const struct err *err)
{
    must(q->flying == 0);
    if (err->kind != ERR_RETRY && err->kind != ERR_UNSURE) {
        queuei_let_go(q);
        queuei_set_state(q, QUEUE_FAILED, err);
        return ENV_STEP_WAIT;
    }
    queuei_set_state(q, QUEUE_RETRYING, err);
    q->backoff_us = q->backoff_us == 0 ? BACKOFF_MIN_US : q->backoff_us * 2;
    if (q->backoff_us > BACKOFF_MAX_US)
        q->backoff_us = BACKOFF_MAX_US;
    if ((uint64_t)err->retry_ms * 1000 > q->backoff_us)
        return (uint64_t)err->retry_ms * 1000;
    return q->backoff_us;
}

/* Decided on when nothing is under way any more; `forget`: what was sent is not in the log. */
static uint64_t
fail_later(struct queue *q, const struct err *err, bool forget)
{
    if (!q->failing)
        err_copy(&q->failure, err);
    q->failing = true;
    q->forget = q->forget || forget;
    return q->flying > 0 ? ENV_STEP_WAIT : ENV_STEP_NOW;
}

/* commits that are under way */

static bool
is_own(const struct queue_flight *f)
{
    must(f->req.write_count > 0);
    return f->req.rc == E_WRONG_VERSION &&
           slice_eq(f->req.wrong_stream, f->req.writes[f->req.write_count - 1].stream);
}

/* What the log refused, it refuses again: what is known of it is noted for the next attempt. */
static void
note_refusal(struct queue *q, struct queue_flight *f)
{
    q->refused = true;
    if (f->req.wrong_stream.len > 0) {
        queuei_judge(q, f, f->req.wrong_stream, false);
    } else if (f->messages > 1) {
        q->careful_max = f->messages / 2;
    } else {
        for (uint32_t i = 0; i < f->messages; i++)
            queuei_judge(q, f, queuei_stream_of(f, i), true);
    }
}

/* What failed first decides: those behind it failed because of it. */
static void
note_failure(struct queue *q, struct queue_flight *f)
{
    struct err err = f->req.err;

    must(f->req.rc != 0);
    if (is_own(f))
        (void)err_set(&err, __FILE__, __LINE__, E_FENCED, ERR_FATAL,
                      "source %s: something else consumes it into this log", q->form.name);
    if (!q->lost) {
        q->lost = true;
        if (f->messages > 0 && err.kind == ERR_DATA)
            note_refusal(q, f);
        if (q->failing)
            err_copy(&q->failure, &err);
        (void)fail_later(q, &err, true);
    }
    if (f->closes)
        queuei_closed(q, &err);
    queuei_answer(q, f->call, f->req.rc, &err);
}

static bool
note_parked(struct queue *q, const struct queue_flight *f)
{
    must(q->parked_coming >= f->parked);
    must(f->parked == 0 || f->parked_write < f->req.write_count);
    for (uint32_t i = 0; i < f->parked; i++)
        if (!queuei_parked_add(q, f->req.writes[f->parked_write].first_version + i))
            return false;
    q->parked_coming -= f->parked;
    return true;
}

static void
note_durable(struct queue *q, const struct queue_flight *f)
{
    must(f->closes || f->messages == f->appended + f->duplicates + f->parked);
    lock_take(&q->lock);
    q->status.batches += f->messages > 0;
    q->status.messages += f->messages;
    q->status.appended += f->messages > 0 ? f->appended : 0;
    q->status.duplicates += f->duplicates;
    q->status.parked += f->parked;
    q->status.without_id += f->without_id;
    q->status.redelivered += f->redelivered;
    q->status.window = q->window.count;
    q->status.parked_open = q->parked_count;
    if (f->sent)
        q->status.last = f->req.last;
    lock_give(&q->lock);
}

static void
show_rest(struct queue *q)
{
    queuei_set_state(q, q->rest == QUEUEI_PAUSED ? QUEUE_PAUSED : QUEUE_DROPPED, NULL);
}

/* Of the batch in the driver's hands. */
static void
note_held(struct queue *q, const struct queue_flight *f)
{
    if (q->held.count == 0)
        return;
    must(f->messages == q->held_now);
    q->held_at += f->messages;
    must(q->held_at <= q->held.count);
    q->careful = q->careful > f->messages ? q->careful - f->messages : 0;
    q->careful_max = q->careful_max * 2 > q->batch_max ? q->batch_max : q->careful_max * 2;
    q->refusals = 0;
    if (q->held_at == q->held.count)
        q->held.count = 0;
    if (q->careful == 0)
        q->verdict_count = 0;
}

static void
note_success(struct queue *q, struct queue_flight *f)
{
    struct err err;

    if (f->sent) {
        must(f->req.end.v <= log_end(q->log).v);
        must(q->version < q->sent_version);
        q->version++;
        if (!note_parked(q, f)) {
            (void)err_set(&err, __FILE__, __LINE__, E_NOMEM, ERR_RETRY,
                          "out of memory for the parked messages");
            (void)fail_later(q, &err, true);
        }
    }
    /* Behind one that failed it says nothing of the messages before it. */
    if (f->messages > 0 && !q->lost) {
        source_queue_durable(q->reader, f->tag);
        note_held(q, f);
    }
    if (f->closes) {
        queuei_parked_remove(q, f->closed);
        queuei_closed(q, NULL);
    }
    note_durable(q, f);
    if (f->call != NULL && q->rest != QUEUEI_AWAKE)
        show_rest(q); /* whoever gave the order may look as soon as it is answered */
    queuei_answer(q, f->call, 0, NULL);
}

/* Those that are decided, in their order; the broker hears of what is durable, and of no more. */
static int
land(struct queue *q, struct err *err)
{
    bool news = false;
    int  rc;

    must(q->first_flight < QUEUEI_FLIGHTS);
    must(q->flying <= QUEUEI_FLIGHTS);
    while (q->flying > 0 && atomic_load(&q->flights[q->first_flight].done)) {
        struct queue_flight *f = &q->flights[q->first_flight];

        q->first_flight = (q->first_flight + 1) % QUEUEI_FLIGHTS;
        q->flying--;
        if (f->sent && f->req.rc != 0) {
            note_failure(q, f);
        } else if (f->sent || !q->lost) {
            /* Duplicates of what did not get into the log are as lost as that is. */
            note_success(q, f);
            news = news || f->messages > 0;
        }
    }
    if (!news || !q->started || q->failing)
        return 0;
    rc = source_queue_confirm(q->reader, err);
    if (rc != 0)
        return rc;
    q->backoff_us = 0;
    queuei_set_state(q, QUEUE_RUNNING, NULL);
    return 0;
}

/* The broker is asked for all of it again; or the batch in hand is sent otherwise. */
static uint64_t
after_failure(struct queue *q)
{
    struct err err = q->failure, ignored;
    bool       refused = q->refused && err.kind == ERR_DATA;

    must(q->flying == 0);
    must(q->failing);
    if (q->started)
        (void)source_queue_confirm(q->reader, &ignored); /* what is durable, if it still can */
    if (q->forget)
        q->known = false;
    q->failing = q->forget = q->lost = q->refused = false;
    if (refused && q->held.count > 0) {
        if (++q->refusals <= 2 * q->held.count + 16)
            return ENV_STEP_NOW;
        err.kind = ERR_FATAL;
    }
    if (refused && err.kind == ERR_DATA) {
        must(q->reader->durable <= q->reader->handed);
        q->careful = q->reader->handed - q->reader->durable;
        if (q->careful_max == 0)
            q->careful_max = q->batch_max;
        q->refusals = 0;
    }
    q->held.count = 0;
    q->started = false;
    return refused && err.kind == ERR_DATA ? ENV_STEP_NOW : failed(q, &err);
}

/* the task */

/* What the driver says of itself. */
static void
note_detail(struct queue *q)
{
    uint64_t   now = q->env->ops->mono_us(q->env);
    struct buf text;

    if (q->detail_us != 0 && now - q->detail_us < DETAIL_US)
        return;
    q->detail_us = now;
    buf_init(&text, sizeof q->status.detail - 1);
    if (q->reader->ops->status(q->reader, &text, NULL) == 0 && !text.failed) {
        lock_take(&q->lock);
        (void)snprintf(q->status.detail, sizeof q->status.detail, "%.*s",
                       SLICE_FMT(buf_slice(&text)));
        lock_give(&q->lock);
    }
    buf_fini(&text);
}

/* Nothing came and nothing is under way. */
static uint64_t
note_idle(struct queue *q)
{
    must(q->flying == 0);
    q->backoff_us = 0;
    q->careful = 0;
    q->verdict_count = 0;
    queuei_set_state(q, QUEUE_RUNNING, NULL);
    lock_take(&q->lock);
    q->status.caught_up = true;
    lock_give(&q->lock);
    return ENV_STEP_NOW;
}

/* No message; its place in the queue may have moved all the same, and others wait for that. */
static uint64_t
take_nothing(struct queue *q, const struct queue_batch *batch)
{
    struct err err;

    must(batch->count == 0);
    if (batch->checkpoint.len == 0 || slice_eq(batch->checkpoint, buf_slice(&q->checkpoint)))
        return q->flying > 0 ? ENV_STEP_WAIT : note_idle(q);
    if (queuei_commit(q, NULL, 0, batch->checkpoint, &err) != 0)
        return fail_later(q, &err, true);
    return ENV_STEP_NOW;
}

static int
ask(struct queue *q, struct queue_batch *batch, struct err *err)
{
    bool hurry = q->flying > 0 || q->closing != NULL;
    int  rc;

    lock_take(&q->lock);
    q->status.polls++;
    lock_give(&q->lock);
    rc = source_queue_poll(q->reader, q->batch_max, QUEUEI_BATCH_BYTES, hurry ? 0 : POLL_WAIT_MS,
                           batch, err);
    if (rc != 0)
        return rc;
    note_detail(q);
    if (batch->count > 0) {
        lock_take(&q->lock);
        q->status.caught_up = false;
        lock_give(&q->lock);
    }
    return 0;
}

/* One commit at a time, of a batch that stays in the driver's hands. */
static uint64_t
work_carefully(struct queue *q)
{
    struct err err;

    if (q->flying > 0)
        return ENV_STEP_WAIT;
    if (q->held.count == 0) {
        if (ask(q, &q->held, &err) != 0)
            return fail_later(q, &err, false);
        if (q->held.count == 0)
            return take_nothing(q, &q->held);
        q->held_at = 0;
    }
    must(q->held_at < q->held.count);
    must(q->careful_max > 0);
    q->held_now = q->held.count - q->held_at;
    if (q->held_now > q->careful_max)
        q->held_now = q->careful_max;
    if (queuei_commit(q, &q->held.messages[q->held_at], q->held_now,
                      q->held_at + q->held_now == q->held.count ? q->held.checkpoint
                                                                : slice_of(NULL, 0),
                      &err) != 0)
        return fail_later(q, &err, true);
    return ENV_STEP_NOW;
}

static uint64_t
work_freely(struct queue *q)
{
    struct queue_batch batch;
    struct err         err;

    must(q->held.count == 0);
    if (q->flying == QUEUEI_FLIGHTS)
        return ENV_STEP_WAIT;
    if (ask(q, &batch, &err) != 0)
        return fail_later(q, &err, false);
    if (batch.count == 0)
        return take_nothing(q, &batch);
    if (queuei_commit(q, batch.messages, batch.count, batch.checkpoint, &err) != 0)
        return fail_later(q, &err, true);
    return ENV_STEP_NOW;
}

static uint64_t
work(struct queue *q)
{
    struct err err;

    if (q->status.state == QUEUE_FAILED)
        return ENV_STEP_WAIT;
    if (!q->known) {
        if (q->flying > 0)
            return ENV_STEP_WAIT;
        if (queuei_read(q, &err) != 0)
            return failed(q, &err);
    }
    if (q->rest != QUEUEI_AWAKE) {
        show_rest(q);
        return ENV_STEP_WAIT;
    }
    if (!q->started) {
        if (q->flying > 0)
            return ENV_STEP_WAIT;
        if (source_queue_start(q->reader, buf_slice(&q->checkpoint), q->gap, &err) != 0)
            return failed(q, &err);
        q->started = true;
        q->gap = false;
    }
    return q->careful > 0 || q->held.count > 0 ? work_carefully(q) : work_freely(q);
}

static uint64_t
stop_now(struct queue *q)
{
    struct err ignored;

    if (q->flying > 0)
        return ENV_STEP_WAIT;
    queuei_refuse_calls(q);
    if (q->started)
        (void)source_queue_confirm(q->reader, &ignored);
    queuei_let_go(q);
    q->env->ops->gate_open(q->env, &q->stopped);
    return ENV_STEP_WAIT;
}

static uint64_t
step(void *arg)
{
    struct queue *q = arg;
    struct err    err;
    uint64_t      wait;

    must(q->magic == QUEUEI_MAGIC);
    if (land(q, &err) != 0)
        (void)fail_later(q, &err, false);
    if (atomic_load(&q->stopping))
        return stop_now(q);
    if (q->failing)
        return q->flying > 0 ? ENV_STEP_WAIT : after_failure(q);
    if (queuei_command(q, &wait))
        return wait;
    wait = work(q);
    /* What is being closed takes turns with what comes. */
    return q->closing != NULL && q->flying == 0 && !q->failing ? ENV_STEP_NOW : wait;
}

int
queue_check(const struct queue_conf *conf, struct err *err)
{
    struct queue_form form;
    int               rc = queuei_form_open(&form, conf, err);

    if (rc == 0)
        queuei_form_close(&form);
    return rc;
}

int
queue_new(struct ox_env *env, struct log *log, const struct queue_conf *conf,
          struct queue_reader **reader, struct queue **out, struct err *err)
{
    struct queue *q = calloc(1, sizeof *q);
    int           rc = 0;

    *out = NULL;
    if (q == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    q->magic = QUEUEI_MAGIC;
    q->env = env;
    q->log = log;
    lock_init(&q->lock, LOCK_CORE);
    q->batch_max = conf->batch_max == 0 ? BATCH_MAX : conf->batch_max;
    q->parked_max = conf->parked_max == 0 ? PARKED_MAX : conf->parked_max;
    queuei_window_init(&q->window, conf->window, conf->window_us);
    q->status.state = QUEUE_STOPPED;
    if (strlen(conf->name) > 200)
        FAIL(err, E_INVALID, ERR_FATAL, "source %.20s…: a name has at most 200 bytes", conf->name);
    TRY(queuei_form_open(&q->form, conf, err));
    q->verdicts = calloc(QUEUEI_VERDICTS, sizeof q->verdicts[0]);
    if (q->verdicts == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    must(!(*reader)->started);
    q->reader = *reader;
    *reader = NULL;
    *out = q;
    q = NULL;
out:
    queue_free(q);
    return rc;
}

int
queue_start(struct queue *q, struct err *err)
{
    struct ox_task_def def = {.name = "ox-queue", .step = step, .arg = q};

    if (q->task != NULL)
        return 0;
    must(q->flying == 0);
    must(q->dropping == NULL);
    must(q->closing == NULL);
    q->known = q->started = q->failing = q->forget = q->lost = q->refused = false;
    q->held.count = 0;
    q->gap = false;
    q->backoff_us = q->careful = 0;
    q->verdict_count = 0;
    q->careful_max = q->batch_max;
    atomic_store(&q->stopping, false);
    gate_init(&q->stopped);
    queuei_set_state(q, QUEUE_STARTING, NULL);
    return q->env->ops->task_start(q->env, &def, &q->task, err);
}

void
queue_stop(struct queue *q)
{
    if (q->task == NULL)
        return;
    atomic_store(&q->stopping, true);
    q->env->ops->task_wake(q->env, q->task);
    (void)q->env->ops->gate_wait(q->env, &q->stopped, UINT64_MAX);
    q->env->ops->task_stop(q->env, q->task);
    must(q->flying == 0);
    must(!q->started);
    q->task = NULL;
    queuei_set_state(q, QUEUE_STOPPED, NULL);
    queuei_refuse_calls(q);
}

void
queue_free(struct queue *q)
{
    if (q == NULL)
        return;
    must(q->magic == QUEUEI_MAGIC);
    queue_stop(q);
    source_queue_free(q->reader);
    queuei_form_close(&q->form);
    queuei_window_fini(&q->window);
    for (int i = 0; i < QUEUEI_FLIGHTS; i++)
        queuei_flight_fini(&q->flights[i]);
    free(q->verdicts);
    free(q->parked);
    buf_fini(&q->checkpoint);
    buf_fini(&q->record);
    buf_fini(&q->decoded);
    buf_fini(&q->headers);
    lock_fini(&q->lock);
    free(q);
}

void
queue_get_status(struct queue *q, struct queue_status *out)
{
    lock_take(&q->lock);
    *out = q->status;
    lock_give(&q->lock);
}
