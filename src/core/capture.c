#include "core/capture_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"

#define BATCH_MAX 500u
#define POLL_WAIT_MS 200u
#define BACKOFF_MIN_US UINT64_C(100000)
#define BACKOFF_MAX_US UINT64_C(10000000)
#define DETAIL_US UINT64_C(1000000)
#define DROP_US UINT64_C(10000000) /* how long the source may take to let go */
#define DROP_WAIT_US UINT64_C(100000)

static const char *const types[] = {
    [CHANGE_READ] = "Read",          [CHANGE_INSERT] = "Inserted",
    [CHANGE_UPDATE] = "Updated",     [CHANGE_DELETE] = "Deleted",
    [CHANGE_TRUNCATE] = "Truncated", [CHANGE_SCHEMA] = "SchemaChanged",
    [CHANGE_MESSAGE] = "Message",
};

const char *
capture_type_name(enum change_op op)
{
    must(op >= CHANGE_READ && op <= CHANGE_MESSAGE);
    return types[op];
}

enum change_op
capture_type_op(struct slice type)
{
    for (int op = CHANGE_READ; op <= CHANGE_MESSAGE; op++)
        if (slice_is(type, types[op]))
            return (enum change_op)op;
    return (enum change_op)0;
}

const char *
capture_state_name(enum capture_state state)
{
    switch (state) {
    case CAPTURE_STARTING:
        return "starting";
    case CAPTURE_RUNNING:
        return "running";
    case CAPTURE_RETRYING:
        return "retrying";
    case CAPTURE_STOPPED:
        return "stopped";
    case CAPTURE_FAILED:
        return "failed";
    case CAPTURE_PAUSED:
        return "paused";
    case CAPTURE_DROPPED:
        return "dropped";
    }
    return "unknown";
}

static void
set_state(struct capture *c, enum capture_state state, const struct err *err)
{
    lock_take(&c->lock);
    c->status.state = state;
    (void)snprintf(c->status.error, sizeof c->status.error, "%s", err == NULL ? "" : err->text);
    lock_give(&c->lock);
}

/* Returns what the step returns: later, or never again. */
static uint64_t
failed(struct capture *c, const struct err *err)
{
    if (err->kind != ERR_RETRY && err->kind != ERR_UNSURE) {
        set_state(c, CAPTURE_FAILED, err);
        return ENV_STEP_WAIT;
    }
    set_state(c, CAPTURE_RETRYING, err);
    c->backoff_us = c->backoff_us == 0 ? BACKOFF_MIN_US : c->backoff_us * 2;
    if (c->backoff_us > BACKOFF_MAX_US)
        c->backoff_us = BACKOFF_MAX_US;
    /* The far side may have said how long it wants to be left alone. */
    if ((uint64_t)err->retry_ms * 1000 > c->backoff_us)
        return (uint64_t)err->retry_ms * 1000;
    return c->backoff_us;
}

/* the checkpoint */

static void
checkpoint_stream(const struct capture *c, char out[LOG_NAME_MAX + 1])
{
    (void)snprintf(out, LOG_NAME_MAX + 1, "$source-%s", c->name);
}

/* The durable checkpoint and where it stands, for others. */
static void
note_place(struct capture *c, struct log_pos pos)
{
    struct slice cp = buf_slice(&c->checkpoint);

    lock_take(&c->lock);
    c->status.last = pos;
    (void)snprintf(c->status.checkpoint, sizeof c->status.checkpoint, "%.*s", SLICE_FMT(cp));
    lock_give(&c->lock);
}

static int
read_checkpoint(struct capture *c, struct err *err)
{
    char             stream[LOG_NAME_MAX + 1];
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    struct slice     raw;
    int              rc;

    must(c->flying == 0);
    checkpoint_stream(c, stream);
    read.stream = slice_str(stream);
    c->version = LOG_NO_STREAM;
    c->rest = CAPTUREI_AWAKE;
    buf_clear(&c->checkpoint);
    buf_clear(&c->sent);
    rc = log_iter_open(c->log, &read, &it, err);
    if (rc == E_NOTFOUND) {
        rc = 0;
        goto known;
    }
    if (rc != 0)
        goto out;
    TRY(log_iter_next(it, &ev, err));
    if (!json_get(ev.data, "checkpoint", &raw))
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s: its last event has no checkpoint", stream);
    if (!json_is_null(raw))
        buf_add_slice(&c->checkpoint, raw);
    if (json_get(ev.data, "state", &raw))
        c->rest = slice_is(raw, "\"paused\"") ? CAPTUREI_PAUSED : CAPTUREI_DROPPED;
    c->version = (int64_t)ev.version;
    note_place(c, ev.pos);
known:
    c->sent_version = c->version;
    buf_add_slice(&c->sent, buf_slice(&c->checkpoint));
    if (c->checkpoint.failed || c->sent.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    c->known = true;
out:
    log_iter_close(it);
    return rc;
}

static int
start_source(struct capture *c, struct err *err)
{
    int rc;

    must(!c->started);
    must(c->flying == 0);
    if (!c->known)
        TRY(read_checkpoint(c, err));
    TRY(source_start(c->source, buf_slice(&c->checkpoint), err));
    c->started = true;
out:
    return rc;
}

/* commits that are under way */

static void
note_durable(struct capture *c, const struct capture_flight *f)
{
    lock_take(&c->lock);
    c->status.batches++;
    c->status.changes += f->changes;
    c->status.parked += f->parked;
    c->status.caught_up = f->caught_up;
    lock_give(&c->lock);
    note_place(c, f->req.last);
}

static void
show_rest(struct capture *c)
{
    set_state(c, c->rest == CAPTUREI_PAUSED ? CAPTURE_PAUSED : CAPTURE_DROPPED, NULL);
}

static void
answer(struct capture *c, struct capture_call *call, int rc, const struct err *err)
{
    if (call == NULL)
        return;
    must(rc == 0 || err != NULL);
    call->rc = rc;
    if (rc != 0)
        err_copy(&call->err, err);
    call->done(call);
}

/* What failed first decides: those behind it failed because of it. */
static void
note_failure(struct capture *c, struct capture_flight *f)
{
    must(f->req.rc != 0);
    if (!c->failing || !c->restart) {
        c->failing = c->restart = true;
        err_copy(&c->failure, &f->req.err);
        c->too_large =
            f->req.rc == E_LIMIT && f->req.err.kind == ERR_DATA && f->changes > 1 ? f->changes : 0;
        /* Not our own stream: rows of the outbox that are there already, under their ids. */
        c->again = f->req.rc == E_WRONG_VERSION && !c->looking && c->outbox != NULL &&
                   !slice_eq(f->req.wrong_stream, f->req.writes[f->req.write_count - 1].stream);
        c->looking = c->looking || c->again;
        if (f->req.rc == E_WRONG_VERSION)
            (void)err_set(&c->failure, __FILE__, __LINE__, E_FENCED, ERR_FATAL,
                          "source %s: something else captures it into this log", c->name);
    }
    answer(c, f->call, f->req.rc, &c->failure);
}

static void
note_success(struct capture *c, struct capture_flight *f)
{
    struct buf old = c->checkpoint;

    must(c->version < c->sent_version);
    must(f->req.end.v <= log_end(c->log).v);
    must(c->batch_now <= c->batch_max);
    c->version = c->version == LOG_NO_STREAM ? 0 : c->version + 1;
    c->checkpoint = f->checkpoint;
    f->checkpoint = old;
    c->backoff_us = 0;
    c->looking = false;
    if (c->batch_now < c->batch_max)
        c->batch_now++;
    note_durable(c, f);
    if (f->call != NULL && c->rest != CAPTUREI_AWAKE)
        show_rest(c); /* whoever gave the order may look as soon as it is answered */
    answer(c, f->call, 0, NULL);
}

/* Those that are decided, in their order; the source hears of the last one that is durable. */
static int
land(struct capture *c, struct err *err)
{
    bool news = false;

    must(c->first_flight < CAPTUREI_FLIGHTS);
    while (c->flying > 0 && atomic_load(&c->flights[c->first_flight].done)) {
        struct capture_flight *f = &c->flights[c->first_flight];

        c->first_flight = (c->first_flight + 1) % CAPTUREI_FLIGHTS;
        c->flying--;
        must(f->bytes <= c->flying_bytes);
        c->flying_bytes -= f->bytes;
        if (f->req.rc != 0) {
            note_failure(c, f);
        } else {
            note_success(c, f);
            news = news || f->call == NULL;
        }
        if (f->room > CAPTUREI_ROOM_KEPT)
            capturei_flight_fini(f);
    }
    must(c->flying > 0 || c->flying_bytes == 0);
    if (!news || !c->started || c->checkpoint.len == 0)
        return 0;
    if (!c->failing)
        set_state(c, CAPTURE_RUNNING, NULL);
    return source_confirm(c->source, buf_slice(&c->checkpoint), err);
}

/* Decided on when nothing is under way any more; `restart`: what was handed out is lost. */
static uint64_t
fail_later(struct capture *c, const struct err *err, bool restart)
{
    if (!c->failing) {
        c->failing = true;
        c->restart = restart;
        c->again = false;
        c->too_large = 0;
        err_copy(&c->failure, err);
    }
    return c->flying > 0 ? ENV_STEP_WAIT : ENV_STEP_NOW;
}

static uint64_t
after_failure(struct capture *c)
{
    must(c->flying == 0);
    must(c->failing);
    c->failing = false;
    /* The source is asked again from the checkpoint that is durable. */
    if (c->restart)
        c->known = c->started = c->holding = false;
    if (c->again)
        return ENV_STEP_NOW;
    if (c->too_large == 0)
        return failed(c, &c->failure);
    /* For less at a time: its rows are large. */
    c->batch_now = c->too_large / 2;
    must(c->batch_now > 0);
    return ENV_STEP_NOW;
}

/* import */

static int
note_import(struct capture *c, struct err *err)
{
    struct buf old = c->checkpoint;

    must(c->flying == 0);
    must(c->req.end.v <= log_end(c->log).v);
    c->version = c->version == LOG_NO_STREAM ? 0 : c->version + 1;
    c->sent_version = c->version;
    c->checkpoint = c->next_checkpoint;
    c->next_checkpoint = old;
    buf_clear(&c->sent);
    buf_add_slice(&c->sent, buf_slice(&c->checkpoint));
    c->backoff_us = 0;
    if (c->batch_now < c->batch_max)
        c->batch_now++;
    lock_take(&c->lock);
    c->status.batches++;
    c->status.changes += c->changes;
    c->status.parked += c->parked;
    c->status.caught_up = c->caught_up;
    lock_give(&c->lock);
    note_place(c, c->req.last);
    set_state(c, CAPTURE_RUNNING, NULL);
    return source_confirm(c->source, buf_slice(&c->checkpoint), err);
}

static uint64_t
after_import(struct capture *c)
{
    struct err err = c->req.err;
    bool       filled = c->filling && c->req.rc == 0;

    must(c->in_flight);
    must(c->pending.count > 0);
    c->in_flight = c->filling = false;
    capturei_import_free(c);
    if (filled)
        return ENV_STEP_NOW; /* the rest of the batch follows */
    c->pending.count = 0;
    if (c->req.rc == 0)
        return note_import(c, &err) == 0 ? ENV_STEP_NOW : failed(c, &err);
    /* The source is asked again from the checkpoint that is durable. */
    c->known = c->started = false;
    if (c->req.rc == E_LIMIT && c->req.err.kind == ERR_DATA && c->changes > 1) {
        c->batch_now = c->changes / 2;
        must(c->batch_now > 0);
        return ENV_STEP_NOW;
    }
    if (c->req.rc == E_WRONG_VERSION && slice_starts(c->req.wrong_stream, slice_str("$source-")))
        (void)err_set(&err, __FILE__, __LINE__, E_FENCED, ERR_FATAL,
                      "source %s: something else captures it into this log", c->name);
    return failed(c, &err);
}

/* The next commit of the events that wait; where it fails, the source is asked for them again. */
static uint64_t
go_on(struct capture *c)
{
    struct err err;

    must(c->pending.count > 0);
    must(!c->in_flight);
    if (capturei_import(c, &err) == 0)
        return ENV_STEP_NOW;
    c->pending.count = 0;
    c->known = c->started = false;
    return failed(c, &err);
}

/* commands */

static struct capture_call *
next_call(struct capture *c)
{
    struct capture_call *call;

    lock_take(&c->lock);
    call = c->calls;
    if (call != NULL)
        c->calls = call->next;
    lock_give(&c->lock);
    return call;
}

/* Only says what is to be with the capture from now on. */
static int
commit_mark(struct capture *c, bool keep, const char *state, struct capture_call *call,
            struct err *err)
{
    struct source_batch batch = {0};

    must(c->flying == 0);
    if (keep)
        batch.checkpoint = buf_slice(&c->checkpoint);
    return capturei_commit(c, &batch, state, call, err);
}

/* The source's connections are given back; the next start makes them anew. */
static void
let_go(struct capture *c)
{
    (void)source_start(c->source, buf_slice(&c->checkpoint), NULL);
    c->started = c->holding = false;
    c->backoff_us = 0;
}

static void
swallow(void *arg, enum finding_level level, const char *text)
{
    (void)arg;
    (void)level;
    (void)text;
}

/* It may take a moment until the server sees that nobody reads its slot any more. */
static uint64_t
go_on_dropping(struct capture *c)
{
    struct capture_call *call = c->dropping;
    struct err           err;

    must(c->flying == 0);
    must(!c->started);
    if (c->source->ops->unprepare(c->source, swallow, NULL, &err) != 0) {
        if ((err.kind == ERR_RETRY || err.kind == ERR_UNSURE) &&
            c->env->ops->mono_us(c->env) < c->drop_by_us && !atomic_load(&c->stopping))
            return DROP_WAIT_US;
        c->dropping = NULL;
        answer(c, call, err.code, &err);
        return ENV_STEP_NOW;
    }
    c->dropping = NULL;
    if (commit_mark(c, false, "dropped", call, &err) != 0)
        answer(c, call, err.code, &err);
    else
        c->rest = CAPTUREI_DROPPED;
    return ENV_STEP_NOW;
}

static int
take_snapshot(struct capture *c, struct capture_call *call, struct err *err)
{
    struct source_batch batch;
    int                 rc = 0;

    if (c->rest != CAPTUREI_AWAKE)
        FAIL(err, E_STATE, ERR_DATA, "source %s is %s: resume it first", c->name,
             c->rest == CAPTUREI_PAUSED ? "paused" : "dropped");
    if (!c->started)
        TRY(start_source(c, err));
    TRY(source_again(c->source, &call->again, &batch, err));
    TRY(capturei_commit(c, &batch, NULL, call, err));
    /* What the source has gathered meanwhile may be from before it. */
    c->started = c->holding = false;
    c->backoff_us = 0;
    set_state(c, CAPTURE_STARTING, NULL);
out:
    return rc;
}

static int
take_rest(struct capture *c, struct capture_call *call, struct err *err)
{
    bool pause = call->command == CAPTURE_PAUSE;
    int  rc = 0;

    if (pause && c->rest == CAPTUREI_DROPPED)
        FAIL(err, E_STATE, ERR_DATA, "source %s is dropped", c->name);
    if (pause || c->rest != CAPTUREI_AWAKE)
        TRY(commit_mark(c, true, pause ? "paused" : NULL, call, err));
    else
        answer(c, call, 0, NULL); /* it runs, or is tried again now */
    if (pause)
        let_go(c);
    c->rest = pause ? CAPTUREI_PAUSED : CAPTUREI_AWAKE;
    if (!pause && !c->started) {
        c->backoff_us = 0;
        set_state(c, CAPTURE_STARTING, NULL);
    }
out:
    return rc;
}

/* Nothing is under way. */
static void
take_call(struct capture *c, struct capture_call *call)
{
    struct err err;
    int        rc = 0;

    must(c->flying == 0);
    must(c->dropping == NULL);
    must(c->pending.count == 0);
    if (!c->known)
        TRY(read_checkpoint(c, &err));
    if (call->command == CAPTURE_SNAPSHOT) {
        rc = take_snapshot(c, call, &err);
    } else if (call->command == CAPTURE_DROP) {
        let_go(c);
        c->dropping = call;
        c->drop_by_us = c->env->ops->mono_us(c->env) + DROP_US;
    } else {
        rc = take_rest(c, call, &err);
    }
out:
    if (rc != 0)
        answer(c, call, rc, &err);
}

void
capture_submit(struct capture *c, struct capture_call *call)
{
    struct capture_call **at = &c->calls;
    bool                  taken;

    must(call->done != NULL);
    call->next = NULL;
    call->rc = 0;
    lock_take(&c->lock);
    taken = c->status.state != CAPTURE_STOPPED;
    while (*at != NULL)
        at = &(*at)->next;
    if (taken)
        *at = call;
    lock_give(&c->lock);
    if (taken) {
        c->env->ops->task_wake(c->env, c->task);
        return;
    }
    call->rc = err_set(&call->err, __FILE__, __LINE__, E_STATE, ERR_RETRY,
                       "source %s is not running", c->name);
    call->done(call);
}

static void
refuse_calls(struct capture *c)
{
    struct capture_call *call = c->dropping;
    struct err           err;

    must(c->flying == 0);
    (void)err_set(&err, __FILE__, __LINE__, E_STATE, ERR_RETRY, "source %s is being stopped",
                  c->name);
    c->dropping = NULL;
    if (call == NULL)
        call = next_call(c);
    for (; call != NULL; call = next_call(c))
        answer(c, call, err.code, &err);
}

/* the task */

/* What the source says of itself: its lag, the state of its slot. */
static void
note_detail(struct capture *c)
{
    uint64_t   now = c->env->ops->mono_us(c->env);
    struct buf text;

    if (c->detail_us != 0 && now - c->detail_us < DETAIL_US)
        return;
    c->detail_us = now;
    buf_init(&text, sizeof c->status.detail - 1);
    if (c->source->ops->status(c->source, &text, NULL) == 0 && !text.failed) {
        lock_take(&c->lock);
        (void)snprintf(c->status.detail, sizeof c->status.detail, "%.*s",
                       SLICE_FMT(buf_slice(&text)));
        lock_give(&c->lock);
    }
    buf_fini(&text);
}

/* Nothing came and nothing is under way. */
static void
note_idle(struct capture *c, bool caught_up)
{
    must(c->flying == 0);
    c->backoff_us = 0;
    lock_take(&c->lock);
    c->status.state = CAPTURE_RUNNING;
    c->status.error[0] = '\0';
    c->status.caught_up = caught_up;
    if (caught_up) {
        c->status.idle[0] = c->status.idle[1];
        c->status.idle[1] = c->status.polls;
    }
    lock_give(&c->lock);
}

/* What a batch becomes; the log has to have all before it where it is asked. */
static uint64_t
take_batch(struct capture *c, struct source_batch *batch)
{
    struct err err;
    int        rc = 0;

    must(c->pending.count == 0);
    must(c->sent_version >= c->version);
    /* A position that moved without a change of ours is kept too: others wait for it. */
    if (batch->count == 0 &&
        (batch->checkpoint.len == 0 || slice_eq(batch->checkpoint, buf_slice(&c->sent)))) {
        if (c->flying > 0)
            return ENV_STEP_WAIT;
        note_idle(c, batch->caught_up);
        return ENV_STEP_NOW;
    }
    c->holding =
        capturei_asks(c, batch) || (batch->count > 0 && batch->changes[0].op == CHANGE_EVENT);
    if (c->holding && c->flying > 0) {
        c->held = *batch;
        return ENV_STEP_WAIT;
    }
    if (batch->count > 0 && batch->changes[0].op == CHANGE_EVENT) {
        c->holding = false;
        c->pending = *batch;
        return go_on(c);
    }
    if (c->holding)
        TRY(capturei_complete(c, batch, &err));
    c->holding = false;
    c->small = batch->count < c->batch_now / 4;
    TRY(capturei_commit(c, batch, NULL, NULL, &err));
out:
    capturei_forget(c);
    return rc == 0 ? ENV_STEP_NOW : fail_later(c, &err, true);
}

static uint64_t
ask_source(struct capture *c)
{
    struct source_batch batch = {0};
    struct err          err;

    must(c->batch_now > 0);
    must(!c->holding);
    lock_take(&c->lock);
    c->status.polls++;
    lock_give(&c->lock);
    if (source_poll(c->source, c->batch_now, c->flying > 0 ? 0 : POLL_WAIT_MS, &batch, &err) != 0)
        return fail_later(c, &err, false);
    note_detail(c);
    return take_batch(c, &batch);
}

/* Enough is under way: something has to be durable first. */
static bool
is_full(const struct capture *c)
{
    must(c->flying <= CAPTUREI_FLIGHTS);
    /* A polled outbox would be read again as long as its rows are not confirmed. */
    if (c->source->ops->outbox && c->flying > 0)
        return true;
    return c->flying == CAPTUREI_FLIGHTS || c->flying_bytes >= CAPTUREI_FLYING_BYTES ||
           (c->small && c->flying >= CAPTUREI_SMALL_FLIGHTS);
}

static uint64_t
work(struct capture *c)
{
    struct err err;

    if (c->status.state == CAPTURE_FAILED)
        return ENV_STEP_WAIT;
    if (!c->known && read_checkpoint(c, &err) != 0)
        return failed(c, &err);
    if (c->rest != CAPTUREI_AWAKE) {
        show_rest(c);
        return ENV_STEP_WAIT;
    }
    if (!c->started) {
        if (c->flying > 0)
            return ENV_STEP_WAIT;
        if (start_source(c, &err) != 0)
            return failed(c, &err);
        set_state(c, CAPTURE_RUNNING, NULL);
    }
    if (c->holding) {
        struct source_batch batch = c->held;

        return c->flying > 0 ? ENV_STEP_WAIT : take_batch(c, &batch);
    }
    return is_full(c) ? ENV_STEP_WAIT : ask_source(c);
}

static uint64_t
step(void *arg)
{
    struct capture      *c = arg;
    struct capture_call *call;
    struct err           err;

    must(c->magic == CAPTUREI_MAGIC);
    if (c->in_flight)
        return atomic_load(&c->done) ? after_import(c) : ENV_STEP_WAIT;
    if (land(c, &err) != 0)
        (void)fail_later(c, &err, false);
    if (atomic_load(&c->stopping)) {
        if (c->flying > 0)
            return ENV_STEP_WAIT;
        refuse_calls(c);
        c->env->ops->gate_open(c->env, &c->stopped);
        return ENV_STEP_WAIT;
    }
    if (c->failing)
        return c->flying > 0 ? ENV_STEP_WAIT : after_failure(c);
    if (c->pending.count > 0)
        return go_on(c);
    if (c->dropping != NULL)
        return go_on_dropping(c);
    /* A command waits for what is under way. */
    lock_take(&c->lock);
    call = c->calls;
    lock_give(&c->lock);
    if (call != NULL && c->flying > 0)
        return ENV_STEP_WAIT;
    if (call != NULL) {
        take_call(c, next_call(c));
        return ENV_STEP_NOW;
    }
    return work(c);
}

int
capture_new(struct ox_env *env, struct log *log, const struct capture_conf *conf,
            struct source **source, struct capture **out, struct err *err)
{
    struct capture *c = calloc(1, sizeof *c);
    int             rc = 0;

    *out = NULL;
    if (c == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    c->magic = CAPTUREI_MAGIC;
    c->env = env;
    c->log = log;
    lock_init(&c->lock, LOCK_CORE);
    c->batch_max = conf->batch_max == 0 ? BATCH_MAX : conf->batch_max;
    c->transactions = conf->transactions;
    if (c->transactions && c->batch_max < CAPTURE_TRANSACTION_MAX)
        c->batch_max = CAPTURE_TRANSACTION_MAX;
    c->name = strdup(conf->name);
    c->category = conf->category == NULL ? NULL : strdup(conf->category);
    if (c->name == NULL || (conf->category != NULL && c->category == NULL))
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    if (conf->outbox != NULL)
        TRY(outbox_new(conf->outbox, conf->name, &c->outbox, err));
    if (strlen(conf->name) > 200)
        FAIL(err, E_INVALID, ERR_FATAL, "source %.20s…: a name has at most 200 bytes", conf->name);
    c->status.state = CAPTURE_STOPPED;
    must((*source)->keys == NULL);
    c->source = *source;
    c->source->transactions = c->transactions;
    c->source->keys = capturei_keys;
    c->source->keys_arg = c;
    *source = NULL;
    *out = c;
    c = NULL;
out:
    capture_free(c);
    return rc;
}

int
capture_start(struct capture *c, struct err *err)
{
    struct ox_task_def def = {.name = "ox-capture", .step = step, .arg = c};

    if (c->task != NULL)
        return 0;
    must(c->flying == 0);
    must(!c->in_flight);
    must(c->dropping == NULL);
    c->known = c->started = c->failing = c->holding = false;
    c->pending.count = 0;
    c->backoff_us = 0;
    c->batch_now = c->batch_max;
    atomic_store(&c->stopping, false);
    gate_init(&c->stopped);
    set_state(c, CAPTURE_STARTING, NULL);
    return c->env->ops->task_start(c->env, &def, &c->task, err);
}

void
capture_stop(struct capture *c)
{
    if (c->task == NULL)
        return;
    atomic_store(&c->stopping, true);
    c->env->ops->task_wake(c->env, c->task);
    (void)c->env->ops->gate_wait(c->env, &c->stopped, UINT64_MAX);
    c->env->ops->task_stop(c->env, c->task);
    must(c->flying == 0);
    must(!c->in_flight);
    c->task = NULL;
    set_state(c, CAPTURE_STOPPED, NULL);
    refuse_calls(c);
}

void
capture_free(struct capture *c)
{
    if (c == NULL)
        return;
    must(c->magic == CAPTUREI_MAGIC);
    capture_stop(c);
    source_free(c->source);
    outbox_free(c->outbox);
    capturei_import_free(c);
    buf_fini(&c->checkpoint);
    buf_fini(&c->sent);
    buf_fini(&c->next_checkpoint);
    buf_fini(&c->text);
    buf_fini(&c->scratch);
    buf_fini(&c->meta_head);
    buf_fini(&c->meta_table);
    for (int i = 0; i < CAPTUREI_FLIGHTS; i++)
        capturei_flight_fini(&c->flights[i]);
    capturei_forget(c);
    free(c->completed);
    free(c->whole);
    free(c->name);
    free(c->category);
    lock_fini(&c->lock);
    free(c);
}

void
capture_get_status(struct capture *c, struct capture_status *out)
{
    lock_take(&c->lock);
    *out = c->status;
    lock_give(&c->lock);
}
