/* A source over an array: the smallest that keeps the contract. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "contract.h"
#include "env/env_real.h"

#define KEYS 50
#define LINES_MAX 65536

struct line {
    unsigned key;
    int      value; /* -1: deleted */
    bool     update;
};

struct world {
    pthread_mutex_t lock;
    int             values[KEYS];
    struct line     lines[LINES_MAX];
    unsigned        count;
};

struct fake {
    struct source  base;
    struct world  *world;
    unsigned       at;
    struct change *changes;
    struct buf     bytes, checkpoint;
};

static struct world *opening; /* open gets no argument of the test's */

static void *
setup(void)
{
    struct world *w = calloc(1, sizeof *w);

    assert_non_null(w);
    assert_int_equal(pthread_mutex_init(&w->lock, NULL), 0);
    for (unsigned i = 0; i < KEYS; i++) {
        w->values[i] = i % 2 == 0 ? (int)i : -1;
        if (w->values[i] >= 0)
            w->lines[w->count++] = (struct line){i, (int)i, false};
    }
    return w;
}

static void
teardown(void *arg)
{
    struct world *w = arg;

    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}

static void
mutate(void *arg, unsigned step)
{
    struct world *w = arg;
    unsigned      key = step * 7 % KEYS;

    (void)pthread_mutex_lock(&w->lock);
    assert_true(w->count < LINES_MAX);
    if (w->values[key] < 0 || step % 5 != 0) {
        w->lines[w->count++] = (struct line){key, (int)step, w->values[key] >= 0};
        w->values[key] = (int)step;
    } else {
        w->lines[w->count++] = (struct line){key, -1, true};
        w->values[key] = -1;
    }
    (void)pthread_mutex_unlock(&w->lock);
}

static void
state(void *arg, struct fold *out)
{
    struct world *w = arg;
    char          key[16], row[32];

    for (unsigned i = 0; i < KEYS; i++) {
        (void)snprintf(key, sizeof key, "%u", i);
        (void)snprintf(row, sizeof row, "{\"v\":%d}", w->values[i]);
        if (w->values[i] >= 0)
            fold_put(out, slice_str(key), slice_str(row));
    }
}

static int
open_fake(struct source *s, const struct conf *conf, struct err *err)
{
    ((struct fake *)s)->world = opening;
    ((struct fake *)s)->changes = calloc(65536, sizeof(struct change));
    return 0;
}

static void
close_fake(struct source *s)
{
    free(((struct fake *)s)->changes);
    buf_fini(&((struct fake *)s)->bytes);
    buf_fini(&((struct fake *)s)->checkpoint);
}

static int
check(struct source *s, finding_fn *say, void *arg, struct err *err)
{
    return 0;
}

static int
prepare(struct source *s, bool dry_run, finding_fn *say, void *arg, struct err *err)
{
    return 0;
}

static int
start(struct source *s, struct slice checkpoint, struct err *err)
{
    struct slice raw;
    uint64_t     at = 0;

    ((struct fake *)s)->at = 0;
    if (json_get(checkpoint, "at", &raw) && json_uint64(raw, &at))
        ((struct fake *)s)->at = (unsigned)at;
    return 0;
}

static int
poll_fake(struct source *s, uint32_t max, uint32_t wait_ms, struct source_batch *b, struct err *err)
{
    struct fake  *f = (struct fake *)s;
    struct world *w = f->world;

    buf_clear(&f->bytes);
    assert_true(buf_reserve(&f->bytes, (size_t)max * 64)); /* the slices must not move */
    (void)pthread_mutex_lock(&w->lock);
    for (; b->count < max && f->at < w->count; f->at++) {
        const struct line *l = &w->lines[f->at];
        struct change     *c = &f->changes[b->count++];
        size_t             from = f->bytes.len;

        *c = (struct change){.op = l->value < 0 ? CHANGE_DELETE
                                   : l->update  ? CHANGE_UPDATE
                                                : CHANGE_INSERT,
                             .table = slice_str("t")};
        buf_printf(&f->bytes, "%u", l->key);
        c->key = slice_of(f->bytes.data + from, f->bytes.len - from);
        from = f->bytes.len;
        buf_printf(&f->bytes, "p%u", f->at);
        c->position = slice_of(f->bytes.data + from, f->bytes.len - from);
        from = f->bytes.len;
        if (l->value >= 0)
            buf_printf(&f->bytes, "{\"v\":%d}", l->value);
        c->after = slice_of(f->bytes.data + from, f->bytes.len - from);
    }
    b->caught_up = f->at == w->count;
    (void)pthread_mutex_unlock(&w->lock);
    buf_clear(&f->checkpoint);
    buf_printf(&f->checkpoint, "{\"at\":%u}", f->at);
    b->changes = f->changes;
    b->checkpoint = buf_slice(&f->checkpoint);
    return 0;
}

static int
confirm(struct source *s, struct slice checkpoint, struct err *err)
{
    return 0;
}

static int
unprepare(struct source *s, finding_fn *say, void *arg, struct err *err)
{
    return 0;
}

static int
status(struct source *s, struct buf *out, struct err *err)
{
    buf_add_str(out, "{}");
    return 0;
}

static const struct source_ops ops = {
    .name = "fake",
    .size = sizeof(struct fake),
    .open = open_fake,
    .close = close_fake,
    .check = check,
    .prepare = prepare,
    .unprepare = unprepare,
    .start = start,
    .poll = poll_fake,
    .confirm = confirm,
    .status = status,
};

static struct source *
open_one(void *world)
{
    struct source *s;
    struct err     err;

    opening = world;
    contract_ok(source_new(env_real(), &ops, "fake", NULL, &s, &err), &err);
    return s;
}

const struct source_fixture source_fixture_fake = {"fake", setup, teardown, open_one,
                                                   mutate, state, false};
