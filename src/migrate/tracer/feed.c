/*
 * A feed: one side's changes through the log to the other side. The capture
 * writes them into the log; the feed reads its own category there, in order,
 * and hands each change to the lane of its key.
 *
 * Only the feed of the side that has the authority applies. The other one
 * reads along and drops what it sees: echoes of Oxbow's own writes. It is made
 * active before its side takes its first write as the authority, so that
 * whatever it dropped before was none. Echoes are dropped always.
 *
 * Progress is the position up to which everything was dealt with. It is kept
 * in the stream `$migration-NAME-apply-SIDE`; after a crash the feed reads
 * from there again, in order, with the same request ids. That may be before the
 * other side had the authority: what was applied then is not applied again, as
 * the echoes of what the other one wrote since, which are over it, are dropped.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "migrate/tracer/tracer_int.h"

#define SAVE_US UINT64_C(250000)
#define RETRY_US UINT64_C(100000)

struct traceri_feed {
    struct tracer       *t;
    enum tracer_side     side;
    struct capture      *capture;
    struct ox_task      *task;
    struct log_listener  listener;
    struct log_iter     *iter;
    struct traceri_item *ring; /* in log order, from head on */
    uint32_t             head, count;
    struct log_pos       read; /* dealt with when the ring is empty */
    int64_t              version;
    uint64_t             saved, saved_us;
    struct buf           row;
    bool                 ready, started;
    _Atomic uint64_t     since; /* applies what is from there on; UINT64_MAX: nothing */
    _Atomic uint64_t     done_upto, applied, echoes, flying;
};

static void
stream_of(const struct traceri_feed *f, char out[LOG_NAME_MAX + 1])
{
    (void)snprintf(out, LOG_NAME_MAX + 1, "$migration-%s-apply-%s", f->t->name,
                   tracer_side_name(f->side));
}

static int
load(struct traceri_feed *f, struct err *err)
{
    char             stream[LOG_NAME_MAX + 1];
    struct log_read  last = {.from = UINT64_MAX, .backwards = true};
    struct log_read  read = {.filter = {.category = slice_str(f->t->ends[f->side].category)}};
    struct log_iter *it = NULL;
    struct log_event ev;
    struct slice     raw;
    int              rc;

    stream_of(f, stream);
    last.stream = slice_str(stream);
    f->version = LOG_NO_STREAM;
    rc = log_iter_open(f->t->log, &last, &it, err);
    if (rc == 0) {
        TRY(log_iter_next(it, &ev, err));
        if (!json_get(ev.data, "position", &raw) || !json_uint64(raw, &read.from))
            FAIL(err, E_FORMAT, ERR_FATAL, "%s: its last event has no position", stream);
        f->version = (int64_t)ev.version;
    } else if (rc != E_NOTFOUND) {
        goto out;
    }
    f->saved = read.from;
    f->read = LOG_POS(read.from);
    atomic_store(&f->done_upto, read.from);
    TRY(log_iter_open(f->t->log, &read, &f->iter, err));
    f->ready = true;
out:
    log_iter_close(it);
    return rc;
}

/* A commit of the feed's own state: it wakes nobody. */
static void
save(struct traceri_feed *f)
{
    char                 stream[LOG_NAME_MAX + 1], data[64];
    uint64_t             upto = atomic_load(&f->done_upto);
    struct log_new_event ev = {.type = slice_str("$checkpoint"), .flags = LOG_JSON};
    struct log_write     w = {.expected = f->version, .events = &ev, .count = 1};
    struct log_req       req = {.writes = &w, .write_count = 1, .flags = LOG_SYSTEM | LOG_QUIET};

    stream_of(f, stream);
    w.stream = slice_str(stream);
    ev.data = slice_of(
        data, (size_t)snprintf(data, sizeof data, "{\"position\":%llu}", (unsigned long long)upto));
    if (log_append(f->t->log, &req) == 0) {
        f->version = (int64_t)w.last_version;
        f->saved = upto;
    } else if (req.rc == E_WRONG_VERSION) {
        traceri_stuck(f->t, &req.err);
    }
    f->saved_us = f->t->env->ops->mono_us(f->t->env);
}

static void
wake_feed(void *arg)
{
    struct traceri_feed *f = arg;

    f->t->env->ops->task_wake(f->t->env, f->task);
}

static void
listened(struct log_listener *l)
{
    wake_feed(l->arg);
}

static bool
is_echo(const struct traceri_feed *f, const struct log_event *ev)
{
    struct slice raw;

    return json_get_path(ev->meta, slice_str("$source.origin"), &raw) &&
           json_type(raw) == JSON_STRING &&
           json_key_is(slice_of((const char *)raw.data + 1, raw.len - 2), slice_str(f->t->mark));
}

/* The event's change into the ring and into its lane. */
static int
hand_on(struct traceri_feed *f, const struct log_event *ev, struct err *err)
{
    struct traceri_item *it = &f->ring[(f->head + f->count) % TRACERI_RING];
    enum traceri_effect  effect;
    struct slice         raw, key;
    int                  rc;

    TRY(traceri_map_event(f->t->map, f->side, ev, &it->row, &effect, err));
    if (effect == EFFECT_NONE)
        goto out;
    if (!json_get_path(ev->meta, slice_str("$source.key"), &raw))
        FAIL(err, E_SCHEMA, ERR_DATA, "an event of %s has no key", f->t->ends[f->side].category);
    TRY(json_string_view(raw, &f->row, &key, err));
    if (key.len > TRACERI_KEY_MAX || memchr(key.data, 0, key.len) != NULL)
        FAIL(err, E_LIMIT, ERR_DATA, "a key is over %d bytes", TRACERI_KEY_MAX);
    memcpy(it->key, key.data, key.len);
    it->key[key.len] = '\0';
    id_format(&ev->id, it->request);
    it->job = JOB_APPLY;
    it->to = traceri_other(f->side);
    it->del = effect == EFFECT_DEL;
    it->pos = ev->pos.v;
    it->wake = wake_feed;
    it->arg = f;
    f->count++;
    traceri_lanes_add(f->t->lanes, it);
out:
    return rc;
}

static void
reap(struct traceri_feed *f)
{
    while (f->count > 0 && atomic_load(&f->ring[f->head].done)) {
        f->head = (f->head + 1) % TRACERI_RING;
        f->count--;
        (void)atomic_fetch_add(&f->applied, 1);
    }
    atomic_store(&f->flying, f->count);
    atomic_store(&f->done_upto, f->count == 0 ? f->read.v : f->ring[f->head].pos);
}

/* Reads on while there is room. An event that cannot be mapped is read again: none is skipped. */
static int
read_on(struct traceri_feed *f, struct err *err)
{
    struct log_event ev;
    int              rc = 0;

    while (f->count < TRACERI_RING) {
        rc = log_iter_next(f->iter, &ev, err);
        if (rc == E_END) {
            f->read = log_iter_pos(f->iter);
            return 0;
        }
        TRY(rc);
        if (is_echo(f, &ev))
            (void)atomic_fetch_add(&f->echoes, 1);
        else if (ev.pos.v >= atomic_load(&f->since))
            TRY(hand_on(f, &ev, err));
        f->read = log_iter_pos(f->iter);
    }
out:
    return rc;
}

static void
start_over(struct traceri_feed *f)
{
    log_iter_close(f->iter);
    f->iter = NULL;
    f->ready = false;
}

static uint64_t
step(void *arg)
{
    struct traceri_feed *f = arg;
    struct ox_env       *env = f->t->env;
    struct err           err = {0};
    uint64_t             now;

    reap(f);
    if (!f->ready) {
        if (f->count > 0)
            return ENV_STEP_WAIT; /* until all that was handed on is done */
        if (f->started && atomic_load(&f->done_upto) != f->saved)
            save(f);
        if (load(f, &err) != 0)
            return RETRY_US;
        f->started = true;
    }
    if (read_on(f, &err) != 0) {
        if (err.kind != ERR_RETRY)
            traceri_stuck(f->t, &err);
        start_over(f);
        return RETRY_US;
    }
    reap(f);
    if (atomic_load(&f->done_upto) == f->saved)
        return ENV_STEP_WAIT;
    now = env->ops->mono_us(env);
    /* A sync must not stand in the way of a drain while writes are held. */
    if (now - f->saved_us < SAVE_US || (atomic_load(&f->t->route) & 3) == TRACER_HOLD)
        return SAVE_US;
    save(f);
    return ENV_STEP_WAIT;
}

int
traceri_feed_new(struct tracer *t, enum tracer_side side, struct traceri_feed **out,
                 struct err *err)
{
    struct traceri_feed *f = calloc(1, sizeof *f);
    struct traceri_end  *e = &t->ends[side];
    struct capture_conf  conf = {.name = e->source, .category = e->category};
    struct source       *source = NULL;
    int                  rc = 0;

    *out = NULL;
    if (f == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    f->t = t;
    f->side = side;
    atomic_store(&f->since, UINT64_MAX);
    f->ring = calloc(TRACERI_RING, sizeof f->ring[0]);
    if (f->ring == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    TRY(source_new(t->env, e->source_ops, e->source, e->source_conf, &source, err));
    TRY(capture_new(t->env, t->log, &conf, &source, &f->capture, err));
    *out = f;
    f = NULL;
out:
    source_free(source);
    traceri_feed_free(f);
    return rc;
}

int
traceri_feed_start(struct traceri_feed *f, struct err *err)
{
    struct ox_task_def def = {.name = "ox-apply", .step = step, .arg = f};
    int                rc;

    TRY(capture_start(f->capture, err));
    TRY(f->t->env->ops->task_start(f->t->env, &def, &f->task, err));
    f->listener.wake = listened;
    f->listener.arg = f;
    log_listen(f->t->log, &f->listener);
out:
    return rc;
}

/* The lanes have stopped: nobody wakes it any more but the log. */
void
traceri_feed_free(struct traceri_feed *f)
{
    if (f == NULL)
        return;
    if (f->listener.wake != NULL)
        log_unlisten(f->t->log, &f->listener);
    f->t->env->ops->task_stop(f->t->env, f->task);
    capture_free(f->capture);
    log_iter_close(f->iter);
    for (uint32_t i = 0; f->ring != NULL && i < TRACERI_RING; i++)
        buf_fini(&f->ring[i].row);
    free(f->ring);
    buf_fini(&f->row);
    free(f);
}

void
traceri_feed_follow(struct traceri_feed *f, uint64_t since)
{
    must(since != UINT64_MAX);
    atomic_store(&f->since, since);
    if (f->task != NULL)
        wake_feed(f);
}

void
traceri_feed_ignore(struct traceri_feed *f)
{
    atomic_store(&f->since, UINT64_MAX);
}

struct log_pos
traceri_feed_applied(struct traceri_feed *f)
{
    return LOG_POS(atomic_load(&f->done_upto));
}

/* `position` has one member, which a checkpoint of the source has too, as a whole number. */
static bool
covers(struct slice checkpoint, struct slice position)
{
    struct json_iter it;
    struct slice     key, value, raw;
    struct buf       name = {0};
    uint64_t         have, want;
    struct err       err;
    bool             yes;

    if (json_object_iter(&it, position, &err) != 0 || json_iter_next(&it, &key, &value, &err) != 0)
        return false;
    buf_add_slice(&name, key);
    buf_add_byte(&name, 0);
    yes = !name.failed && json_uint64(value, &want) &&
          (want == 0 || (json_get(checkpoint, (const char *)name.data, &raw) &&
                         json_uint64(raw, &have) && have >= want));
    buf_fini(&name);
    return yes;
}

bool
traceri_feed_captured(struct traceri_feed *f, struct slice position, uint64_t since,
                      struct log_pos *upto)
{
    struct capture_status s;

    capture_get_status(f->capture, &s);
    *upto = s.last;
    return covers(slice_str(s.checkpoint), position) || s.idle[0] > since;
}

uint64_t
traceri_feed_polls(struct traceri_feed *f)
{
    struct capture_status s;

    capture_get_status(f->capture, &s);
    return s.polls;
}

void
traceri_feed_status(struct traceri_feed *f, struct capture_status *s, uint64_t *applied,
                    uint64_t *echoes)
{
    capture_get_status(f->capture, s);
    *applied = atomic_load(&f->applied);
    *echoes = atomic_load(&f->echoes);
}

uint64_t
traceri_feed_lag(struct traceri_feed *f)
{
    return atomic_load(&f->flying);
}
