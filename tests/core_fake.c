#include "core_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/must.h"
#include "env/env_real.h"
#include "log/index.h"
#include "tmp.h"

void
fake_ok(int rc, const struct err *err)
{
    if (rc != 0)
        fail_msg("%s at %s:%d: %s", err_name(rc), err->file, err->line, err->text);
}

void
fake_until(bool (*fn)(void *arg), void *arg, const char *what)
{
    struct timespec wait = {0, 1000000};

    for (int i = 0; i < 90000; i++) {
        if (fn(arg))
            return;
        (void)nanosleep(&wait, NULL);
    }
    fail_msg("it never came that %s", what);
}

/* environments */

static atomic_bool held;

void
fake_log_hold(bool hold)
{
    atomic_store(&held, hold);
}

static int
sync_when_let(struct ox_env *env, struct ox_file *file, struct err *err)
{
    struct timespec wait = {0, 1000000};

    while (atomic_load(&held))
        (void)nanosleep(&wait, NULL);
    return env_real()->ops->file_sync(env, file, err);
}

static struct ox_env *
log_env(void)
{
    static struct ox_env_ops ops;
    static struct ox_env     env;

    if (env.ops == NULL) {
        ops = *env_real()->ops;
        ops.file_sync = sync_when_let;
        env.ops = &ops;
    }
    return &env;
}

struct fake_hand fake_hand;

static int
hand_start(struct ox_env *env, const struct ox_task_def *def, struct ox_task **out, struct err *err)
{
    (void)env;
    (void)err;
    fake_hand.task = *def;
    *out = (struct ox_task *)&fake_hand;
    return 0;
}

static void
hand_wake(struct ox_env *env, struct ox_task *task)
{
    (void)env;
    (void)task;
}

static bool
hand_wait(struct ox_env *env, struct ox_gate *gate, uint64_t timeout_us)
{
    (void)timeout_us;
    while (!env_real()->ops->gate_wait(env, gate, 1000))
        fake_hand_step();
    return true;
}

struct ox_env *
fake_hand_env(void)
{
    fake_hand = (struct fake_hand){.ops = *env_real()->ops};
    fake_hand.ops.task_start = hand_start;
    fake_hand.ops.task_wake = fake_hand.ops.task_stop = hand_wake;
    fake_hand.ops.gate_wait = hand_wait;
    fake_hand.env.ops = &fake_hand.ops;
    return &fake_hand.env;
}

void
fake_hand_step(void)
{
    (void)fake_hand.task.step(fake_hand.task.arg);
}

/* the log */

static void
open_log(struct fake_log *f)
{
    struct err err;

    fake_ok(log_open(log_env(), f->dir, &f->conf, NULL, &f->log, &err), &err);
}

void
fake_log_open(struct fake_log *f)
{
    memset(f, 0, sizeof *f);
    tmp_dir(f->dir, sizeof f->dir);
    f->conf.index = &log_index_lmdb;
    f->conf.segment_bytes = LOG_SEGMENT_MIN * 4;
    f->conf.heads_bytes = 65536;
    open_log(f);
}

void
fake_log_reopen(struct fake_log *f)
{
    log_close(f->log);
    open_log(f);
}

void
fake_log_close(struct fake_log *f)
{
    log_close(f->log);
    tmp_remove(f->dir);
}

struct log_pos
fake_append(struct fake_log *f, const char *stream, const char *data)
{
    struct log_new_event e = {.type = slice_str("t"), .data = slice_str(data), .flags = LOG_JSON};
    struct log_write     w = {
            .stream = slice_str(stream), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req req = {.writes = &w, .write_count = 1};

    fake_ok(log_append(f->log, &req), &req.err);
    return req.pos;
}

uint64_t
fake_count(struct fake_log *f, const char *stream)
{
    struct log_stream s;
    struct err        err;
    int               rc = log_stream_info(f->log, slice_str(stream), &s, &err);

    if (rc == E_NOTFOUND)
        return 0;
    fake_ok(rc, &err);
    return s.head + 1;
}

/* the sink */

#define CREDIT_MAX 2048u

struct fake_driver {
    struct sink        sink;
    struct fake_world *world;
    struct sink_item  *items[CREDIT_MAX];
    uint32_t           count;
};

static struct fake_world *opening; /* open gets no argument of the test's */

struct fake_world *
fake_world_new(void)
{
    struct fake_world *w = calloc(1, sizeof *w);

    assert_non_null(w);
    w->arrivals = calloc(FAKE_ARRIVALS_MAX, sizeof *w->arrivals);
    assert_non_null(w->arrivals);
    assert_int_equal(pthread_mutex_init(&w->lock, NULL), 0);
    assert_int_equal(pthread_mutex_init(&w->stuck, NULL), 0);
    w->credit = 8;
    w->random = 42;
    return w;
}

void
fake_world_free(struct fake_world *w)
{
    assert_int_equal(pthread_mutex_destroy(&w->lock), 0);
    assert_int_equal(pthread_mutex_destroy(&w->stuck), 0);
    free(w->arrivals);
    free(w);
}

uint32_t
fake_arrived(struct fake_world *w)
{
    uint32_t n;

    (void)pthread_mutex_lock(&w->lock);
    n = w->count;
    (void)pthread_mutex_unlock(&w->lock);
    return n;
}

static int
open_sink(struct sink *s, const struct conf *conf, struct err *err)
{
    struct fake_driver *d = (struct fake_driver *)s;

    (void)conf;
    (void)err;
    d->world = opening;
    s->credit = opening->credit;
    assert_true(s->credit <= CREDIT_MAX);
    return 0;
}

static void
close_sink(struct sink *s)
{
    (void)s;
}

static int
check_sink(struct sink *s, finding_line_fn *fn, void *arg, struct err *err)
{
    (void)s;
    (void)fn;
    (void)arg;
    (void)err;
    return 0;
}

static int
checkpoint(struct sink *s, struct log_pos *pos, struct err *err)
{
    struct fake_driver *d = (struct fake_driver *)s;

    (void)err;
    (void)pthread_mutex_lock(&d->world->lock);
    pos->v = s->ops->transactional ? d->world->checkpoint : 0;
    (void)pthread_mutex_unlock(&d->world->lock);
    return 0;
}

static int
submit(struct sink *s, struct sink_item *item, struct err *err)
{
    struct fake_driver *d = (struct fake_driver *)s;
    struct fake_world  *w = d->world;

    (void)err;
    (void)pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < d->count; i++)
        w->overlapped = w->overlapped || slice_eq(d->items[i]->stream, item->stream);
    d->items[d->count++] = item;
    if (d->count > w->peak)
        w->peak = d->count;
    (void)pthread_mutex_unlock(&w->lock);
    return 0;
}

static void
arrive(struct fake_world *w, const struct sink_item *item)
{
    struct fake_arrival *a = &w->arrivals[w->count++];

    assert_true(w->count < FAKE_ARRIVALS_MAX);
    a->pos = item->pos;
    a->version = item->version;
    a->id = item->id;
    a->run = item->run;
    (void)snprintf(a->stream, sizeof a->stream, "%.*s", SLICE_FMT(item->stream));
}

static enum err_kind
judge(struct fake_world *w, const struct sink_item *item)
{
    w->tries++;
    return w->judge == NULL ? ERR_NONE : w->judge(w, item);
}

static int
fault(enum err_kind kind, struct err *err)
{
    RETURN_ERR(err, kind == ERR_DATA ? E_REJECTED : E_REMOTE, kind, "the far side says %s",
               err_kind_name(kind));
}

static void
set_polling(struct fake_world *w, bool polling)
{
    (void)pthread_mutex_lock(&w->lock);
    w->polling = polling;
    (void)pthread_mutex_unlock(&w->lock);
}

/* A client that blocks its task. */
static void
wait_while_stuck(struct fake_world *w)
{
    set_polling(w, true);
    (void)pthread_mutex_lock(&w->stuck);
    (void)pthread_mutex_unlock(&w->stuck);
    set_polling(w, false);
}

/* One of those in hand, in any order. */
static int
poll_plain(struct sink *s, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    struct fake_driver *d = (struct fake_driver *)s;
    struct fake_world  *w = d->world;
    struct timespec     wait = {0, 200000};
    struct sink_item   *item = NULL;
    enum err_kind       kind = ERR_NONE;
    struct err          why;
    bool                down, away;
    int                 rc;

    (void)flush;
    (void)upto;
    wait_while_stuck(w);
    (void)pthread_mutex_lock(&w->lock);
    down = w->down;
    away = w->away;
    if (!w->paused && !down && d->count > 0) {
        uint32_t at;

        w->random = w->random * 6364136223846793005u + 1442695040888963407u;
        at = (uint32_t)(w->random >> 33) % d->count;
        item = d->items[at];
        d->items[at] = d->items[--d->count];
        kind = judge(w, item);
        if (away)
            kind = ERR_RETRY;
        if (kind == ERR_NONE || kind == ERR_UNSURE)
            arrive(w, item);
    }
    (void)pthread_mutex_unlock(&w->lock);
    if (down)
        return fault(ERR_RETRY, err);
    if (item == NULL) {
        if (wait_ms > 0)
            (void)nanosleep(&wait, NULL);
        return 0;
    }
    rc = kind == ERR_NONE ? 0 : fault(kind, &why);
    if (away)
        rc = why.code = E_CONNECT;
    sink_done(s, item, rc, rc == 0 ? NULL : &why);
    return 0;
}

static void
hand_back(struct fake_driver *d, uint32_t except)
{
    for (uint32_t i = 0; i < d->count; i++)
        if (i != except)
            sink_back(&d->sink, d->items[i]);
    d->count = 0;
}

static int
poll_all(struct sink *s, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    struct fake_driver *d = (struct fake_driver *)s;
    struct fake_world  *w = d->world;
    enum err_kind       kind = ERR_NONE;
    struct err          why;
    uint32_t            bad = 0;

    (void)wait_ms;
    assert_true(flush);
    (void)pthread_mutex_lock(&w->lock);
    if (w->down)
        kind = ERR_RETRY;
    for (; kind == ERR_NONE && bad < d->count; bad++)
        if ((kind = judge(w, d->items[bad])) != ERR_NONE)
            break;
    if (kind == ERR_NONE || w->unsure_after) {
        assert_true(upto.v >= w->checkpoint);
        for (uint32_t i = 0; i < d->count; i++)
            arrive(w, d->items[i]);
        w->checkpoint = upto.v;
        if (w->unsure_after)
            kind = ERR_UNSURE;
        w->unsure_after = false;
    }
    (void)pthread_mutex_unlock(&w->lock);
    if (kind == ERR_NONE) {
        for (uint32_t i = 0; i < d->count; i++)
            sink_done(s, d->items[i], 0, NULL);
        d->count = 0;
        return 0;
    }
    if (kind != ERR_DATA) {
        hand_back(d, UINT32_MAX);
        return fault(kind, err);
    }
    sink_done(s, d->items[bad], fault(kind, &why), &why);
    hand_back(d, bad);
    return 0;
}

static const struct sink_ops plain_ops = {
    .name = "fake",
    .size = sizeof(struct fake_driver),
    .open = open_sink,
    .close = close_sink,
    .check = check_sink,
    .checkpoint = checkpoint,
    .submit = submit,
    .poll = poll_plain,
};

static const struct sink_ops transactional_ops = {
    .name = "fake",
    .size = sizeof(struct fake_driver),
    .transactional = true,
    .open = open_sink,
    .close = close_sink,
    .check = check_sink,
    .checkpoint = checkpoint,
    .submit = submit,
    .poll = poll_all,
};

struct sink *
fake_sink(struct fake_world *w, bool transactional)
{
    struct sink *s;
    struct err   err;

    opening = w;
    fake_ok(sink_new(env_real(), transactional ? &transactional_ops : &plain_ops, "fake", NULL, &s,
                     &err),
            &err);
    return s;
}

/* the source */

struct fake_capture {
    struct source     source;
    struct fake_feed *feed;
    uint32_t          at;
    struct change    *changes;
    struct buf        text, checkpoint;
    uint8_t          *row;
};

static struct fake_feed *feeding;

struct fake_feed *
fake_feed_new(uint32_t count, uint32_t keys)
{
    struct fake_feed *f = calloc(1, sizeof *f);

    assert_non_null(f);
    assert_int_equal(pthread_mutex_init(&f->lock, NULL), 0);
    f->count = count;
    f->keys = keys;
    return f;
}

void
fake_feed_free(struct fake_feed *f)
{
    assert_int_equal(pthread_mutex_destroy(&f->lock), 0);
    free(f);
}

#define CHANGES_MAX 1000u
#define HUGE_ROW ((size_t)LOG_EVENT_MAX + 1)

static int
open_source(struct source *s, const struct conf *conf, struct err *err)
{
    struct fake_capture *c = (struct fake_capture *)s;

    (void)conf;
    (void)err;
    c->feed = feeding;
    c->changes = calloc(CHANGES_MAX, sizeof *c->changes);
    c->row = malloc(HUGE_ROW);
    must(c->changes != NULL);
    must(c->row != NULL);
    memset(c->row, ' ', HUGE_ROW);
    memcpy(c->row, "{}", 2);
    return 0;
}

static void
close_source(struct source *s)
{
    struct fake_capture *c = (struct fake_capture *)s;

    buf_fini(&c->text);
    buf_fini(&c->checkpoint);
    free(c->changes);
    free(c->row);
}

static int
check_source(struct source *s, finding_fn *fn, void *arg, struct err *err)
{
    (void)s;
    (void)fn;
    (void)arg;
    (void)err;
    return 0;
}

static int
prepare(struct source *s, bool dry_run, finding_fn *fn, void *arg, struct err *err)
{
    (void)dry_run;
    return check_source(s, fn, arg, err);
}

static int
start(struct source *s, struct slice at, struct err *err)
{
    struct fake_capture *c = (struct fake_capture *)s;
    struct slice         raw;
    uint64_t             v = 0;

    (void)err;
    if (at.len > 0)
        assert_true(json_get(at, "at", &raw) && json_uint64(raw, &v));
    c->at = (uint32_t)v;
    (void)pthread_mutex_lock(&c->feed->lock);
    c->feed->starts++;
    c->feed->went_back = c->feed->went_back || c->at < c->feed->confirmed;
    (void)pthread_mutex_unlock(&c->feed->lock);
    return 0;
}

static struct slice
put(struct buf *b, const char *fmt, uint32_t v)
{
    size_t from = b->len;

    buf_printf(b, fmt[0] == 'k' ? "k%u" : fmt[0] == 'p' ? "p%u" : "{\"n\":%u}", v);
    return slice_of(b->data + from, b->len - from);
}

static int
poll_source(struct source *s, uint32_t max, uint32_t wait_ms, struct source_batch *b,
            struct err *err)
{
    struct fake_capture *c = (struct fake_capture *)s;
    struct fake_feed    *f = c->feed;
    struct timespec      wait = {0, 1000000};
    enum err_kind        kind = ERR_NONE;
    uint32_t             count, huge, bytes;

    (void)pthread_mutex_lock(&f->lock);
    f->polls++;
    if (f->fail_polls > 0) {
        f->fail_polls--;
        kind = f->fail_kind;
    }
    count = f->count;
    huge = f->huge;
    bytes = f->row_bytes;
    (void)pthread_mutex_unlock(&f->lock);
    if (kind != ERR_NONE)
        return fault(kind, err);
    if (c->at == count && wait_ms > 0)
        (void)nanosleep(&wait, NULL);
    buf_clear(&c->text);
    assert_true(buf_reserve(&c->text, (size_t)CHANGES_MAX * 64)); /* slices must not move */
    for (; b->count < max && b->count < CHANGES_MAX && c->at < count; c->at++) {
        struct change *ch = &c->changes[b->count++];

        *ch = (struct change){.op = CHANGE_UPDATE, .table = slice_str("t"), .time_us = 1};
        ch->key = put(&c->text, "k", c->at % f->keys);
        ch->position = put(&c->text, "p", c->at);
        ch->after = put(&c->text, "n", c->at);
        if (bytes > 0)
            ch->after = slice_of(c->row, bytes);
        if (huge != 0 && c->at == huge)
            ch->after = slice_of(c->row, HUGE_ROW);
    }
    b->changes = c->changes;
    b->caught_up = c->at == count;
    buf_clear(&c->checkpoint);
    buf_printf(&c->checkpoint, "{\"at\":%u}", c->at);
    b->checkpoint = buf_slice(&c->checkpoint);
    return 0;
}

static int
confirm(struct source *s, struct slice at, struct err *err)
{
    struct fake_capture *c = (struct fake_capture *)s;
    struct slice         raw;
    uint64_t             v = 0;

    (void)err;
    assert_true(json_get(at, "at", &raw) && json_uint64(raw, &v));
    (void)pthread_mutex_lock(&c->feed->lock);
    c->feed->confirmed = (uint32_t)v;
    (void)pthread_mutex_unlock(&c->feed->lock);
    return 0;
}

static int
unprepare(struct source *s, finding_fn *fn, void *arg, struct err *err)
{
    return check_source(s, fn, arg, err);
}

static int
status(struct source *s, struct buf *out, struct err *err)
{
    (void)s;
    (void)err;
    buf_add_str(out, "{}");
    return 0;
}

static const struct source_ops source_ops = {
    .name = "fake",
    .size = sizeof(struct fake_capture),
    .open = open_source,
    .close = close_source,
    .check = check_source,
    .prepare = prepare,
    .unprepare = unprepare,
    .start = start,
    .poll = poll_source,
    .confirm = confirm,
    .status = status,
};

struct source *
fake_source(struct fake_feed *f)
{
    struct source *s;
    struct err     err;

    feeding = f;
    fake_ok(source_new(env_real(), &source_ops, "fake", NULL, &s, &err), &err);
    return s;
}
