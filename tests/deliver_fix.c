#include "deliver_fix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "env/env_real.h"

int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    assert_non_null(f);
    fake_log_open(&f->log);
    f->world = fake_world_new();
    f->conf = (struct deliver_conf){.name = "far", .retry_min_ms = 1, .retry_max_ms = 4};
    *state = f;
    return 0;
}

int
teardown(void **state)
{
    struct fix *f = *state;

    deliver_free(f->d);
    fake_world_free(f->world);
    fake_log_close(&f->log);
    free(f);
    return 0;
}

void
start(struct fix *f)
{
    struct sink *sink = fake_sink(f->world, f->transactional);

    fake_ok(deliver_new(env_real(), f->log.log, &f->conf, &sink, &f->d, &f->err), &f->err);
    fake_ok(deliver_start(f->d, &f->err), &f->err);
}

void
stop(struct fix *f)
{
    deliver_free(f->d);
    f->d = NULL;
}

struct deliver_status
status(struct fix *f)
{
    struct deliver_status s;

    deliver_get_status(f->d, &s);
    return s;
}

bool
caught_up(void *arg)
{
    struct deliver_status s = status(arg);

    if (s.state == DELIVER_FAILED)
        fail_msg("%s", s.error);
    return s.caught_up && s.done.v >= ((struct fix *)arg)->last.v;
}

bool
arrived(void *arg)
{
    struct fix *f = arg;
    return fake_arrived(f->world) >= f->want;
}

bool
is_failed(void *arg)
{
    return status(arg).state == DELIVER_FAILED;
}

bool
is_retrying(void *arg)
{
    return status(arg).retries > 20;
}

bool
parked_as_wanted(void *arg)
{
    struct fix *f = arg;
    return status(f).parked == f->want && status(f).in_flight == 0;
}

bool
tried_as_wanted(void *arg)
{
    struct fix *f = arg;
    uint64_t    tries;

    (void)pthread_mutex_lock(&f->world->lock);
    tries = f->world->tries;
    (void)pthread_mutex_unlock(&f->world->lock);
    return tries >= f->want;
}

void
until_caught_up(struct fix *f)
{
    fake_until(caught_up, f, "everything was delivered");
}

/* n events, round and round over the streams s-0, s-1, … */
void
append(struct fix *f, uint32_t n, uint32_t streams)
{
    char name[32];

    for (uint32_t i = 0; i < n; i++) {
        (void)snprintf(name, sizeof name, "s-%u", i % streams);
        f->last = fake_append(&f->log, name, "{\"a\":1}");
    }
}

void
tell(struct fix *f, enum err_kind (*judge)(struct fake_world *, const struct sink_item *),
     const char *refuse, uint32_t budget)
{
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->judge = judge;
    f->world->budget = budget;
    (void)snprintf(f->world->refuse, sizeof f->world->refuse, "%s", refuse);
    (void)pthread_mutex_unlock(&f->world->lock);
}

static void
on_order(struct deliver_call *c)
{
    env_real()->ops->gate_open(env_real(), c->arg);
}

static int
order(struct deliver *d, struct deliver_call *c, struct err *err)
{
    struct ox_gate gate;

    gate_init(&gate);
    c->done = on_order;
    c->arg = &gate;
    deliver_submit(d, c);
    assert_true(env_real()->ops->gate_wait(env_real(), &gate, UINT64_C(90000000)));
    if (c->rc != 0)
        err_copy(err, &c->err);
    return c->rc;
}

int
order_replay(struct deliver *d, struct slice stream, struct err *err)
{
    return order(d, &(struct deliver_call){.command = DELIVER_REPLAY, .stream = stream}, err);
}

int
order_skip(struct deliver *d, struct slice stream, bool rest, struct err *err)
{
    enum deliver_command command = rest ? DELIVER_DROP : DELIVER_SKIP;

    return order(d, &(struct deliver_call){.command = command, .stream = stream}, err);
}

int
order_pause(struct deliver *d, bool pause, struct err *err)
{
    enum deliver_command command = pause ? DELIVER_PAUSE : DELIVER_RESUME;

    return order(d, &(struct deliver_call){.command = command}, err);
}

int
order_seek(struct deliver *d, struct log_pos pos, struct err *err)
{
    return order(d, &(struct deliver_call){.command = DELIVER_SEEK, .from = pos}, err);
}

int
order_range(struct deliver *d, struct log_pos from, struct log_pos to, struct err *err)
{
    return order(d, &(struct deliver_call){.command = DELIVER_RANGE, .from = from, .to = to}, err);
}

/* Of each stream every version from `from` on, in order; `doubles` allows repeated runs. */
uint64_t
check_order(struct fix *f, bool doubles)
{
    struct fake_world *w = f->world;
    uint64_t           twice = 0;

    for (uint32_t i = 0; i < w->count; i++) {
        uint64_t should = 0;
        bool     known = false, before = false;

        for (uint32_t k = i; k-- > 0 && !known;) {
            if (strcmp(w->arrivals[k].stream, w->arrivals[i].stream) == 0) {
                should = w->arrivals[k].version + 1;
                known = true;
            }
        }
        before = w->arrivals[i].version < should;
        twice += before;
        if (!doubles)
            assert_int_equal(w->arrivals[i].version, should);
        else
            assert_true(w->arrivals[i].version <= should);
    }
    return twice;
}

uint32_t
count_of(struct fix *f, const char *stream)
{
    uint32_t n = 0;

    (void)pthread_mutex_lock(&f->world->lock);
    for (uint32_t i = 0; i < f->world->count; i++)
        n += strcmp(f->world->arrivals[i].stream, stream) == 0;
    (void)pthread_mutex_unlock(&f->world->lock);
    return n;
}

/* judges */

enum err_kind
refuse_stream(struct fake_world *w, const struct sink_item *item)
{
    return slice_is(item->stream, w->refuse) ? ERR_DATA : ERR_NONE;
}

enum err_kind
refuse_first(struct fake_world *w, const struct sink_item *item)
{
    return slice_is(item->stream, w->refuse) && item->version == w->budget ? ERR_DATA : ERR_NONE;
}

enum err_kind
retry_stream(struct fake_world *w, const struct sink_item *item)
{
    if (!slice_is(item->stream, w->refuse) || w->budget == 0)
        return ERR_NONE;
    w->budget--;
    return ERR_RETRY;
}

enum err_kind
anything(struct fake_world *w, const struct sink_item *item)
{
    (void)item;
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    switch (w->random >> 60) {
    case 0:
    case 1:
        return ERR_RETRY;
    case 2:
        return ERR_UNSURE;
    default:
        return ERR_NONE;
    }
}

enum err_kind
fatal(struct fake_world *w, const struct sink_item *item)
{
    (void)w;
    (void)item;
    return ERR_FATAL;
}
