/*
 * Lanes: every key belongs to one, and a lane does one thing after another,
 * with stores of its own. So all that is done to a key is in one order, and
 * keys of different lanes do not wait for each other.
 *
 * Nothing is passed over. An item whose write fails stays at the head of its
 * lane: a failure that may pass is tried again under the same request id, with
 * a growing pause; one that may not is tried a few times and then halts the
 * migration, while the lane goes on trying at its slowest pace. What follows a
 * failed write of the same key can therefore never overtake it.
 *
 * Backfill goes through the lanes as well, and reads the row anew there. Why a
 * row that was deleted meanwhile cannot come back: let D be the row's deletion
 * at the old side and C the copy in the lane. If D comes before C's read, the
 * read finds nothing and C does nothing. If D comes after it, then D's event
 * was captured after it, so the lane gets that event after C and deletes what
 * C has put. And what C puts is never older than what sync has put, since C
 * puts only where nothing is; an older event that the lane gets after C is
 * followed by that of the state that C has read.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/say.h"
#include "migrate/tracer/tracer_int.h"

#define BACKOFF_MIN_US UINT64_C(5000)
#define BACKOFF_MAX_US UINT64_C(2000000)

struct lane {
    struct tracer       *t;
    struct ox_task      *task;
    struct store        *stores[2];
    struct ox_lock       lock; /* the queue */
    struct traceri_item *first, **last;
    bool                 closed; /* what is added now is never done */
    uint64_t             backoff_us;
    struct buf           a, b;
};

struct traceri_lanes {
    uint32_t    count;
    struct lane lanes[];
};

static int
need_store(struct lane *l, enum tracer_side side, struct err *err)
{
    const struct traceri_end *e = &l->t->ends[side];

    if (l->stores[side] != NULL)
        return 0;
    return store_new(l->t->env, e->store_ops, e->label, e->store_conf, &l->stores[side], err);
}

static struct slice
key_of(const struct traceri_item *it)
{
    return slice_str(it->key);
}

/* The row of one side under the new side's names; empty where there is none. */
static int
read_row(struct lane *l, enum tracer_side side, struct slice key, struct buf *out, struct err *err)
{
    struct store_row row;
    int              rc;

    buf_clear(out);
    TRY(need_store(l, side, err));
    rc = l->stores[side]->ops->get(l->stores[side], key, &row, err);
    if (rc == E_NOTFOUND) {
        err_clear(err);
        return 0;
    }
    TRY(rc);
    if (side == TRACER_OLD)
        TRY(traceri_map_row(l->t->map, side, row.fields, out, err));
    else
        buf_add_slice(out, row.fields);
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a row");
out:
    return rc;
}

static struct store_write
write_of(struct lane *l, const struct traceri_item *it, struct slice row)
{
    return (struct store_write){.key = key_of(it),
                                .fields = row,
                                .cond = STORE_ANY,
                                .epoch = atomic_load(&l->t->epoch),
                                .origin = slice_str(l->t->mark),
                                .request_id = slice_str(it->request)};
}

static int
apply(struct lane *l, struct traceri_item *it, struct err *err)
{
    struct store_write w = write_of(l, it, buf_slice(&it->row));
    struct store      *s;
    int                rc;

    TRY(need_store(l, it->to, err));
    s = l->stores[it->to];
    rc = it->del ? s->ops->del(s, &w, err) : s->ops->put(s, &w, err);
out:
    return rc;
}

static int
copy(struct lane *l, struct traceri_item *it, struct err *err)
{
    struct store_write w;
    struct store      *s;
    int                rc;

    TRY(need_store(l, TRACER_NEW, err));
    TRY(read_row(l, TRACER_OLD, key_of(it), &l->a, err));
    if (l->a.len == 0)
        goto out;
    s = l->stores[TRACER_NEW];
    w = write_of(l, it, buf_slice(&l->a));
    w.cond = STORE_ABSENT;
    rc = s->ops->put(s, &w, err);
    it->copied = rc == 0;
    if (rc == E_WRONG_VERSION && err->kind != ERR_UNSURE) {
        err_clear(err); /* sync was there first */
        rc = 0;
    }
    /* What is sent next may be another row: the old request id would be answered as before. */
    if (rc != 0 && err->kind != ERR_UNSURE) {
        struct ox_id id = id_new(l->t->env);

        id_format(&id, it->request);
    }
out:
    return rc;
}

/* Equal to what the leader has before or after the follower was read. */
static int
check(struct lane *l, struct traceri_item *it, struct err *err)
{
    enum tracer_side leads = traceri_other(it->to);
    int              rc;

    TRY(read_row(l, leads, key_of(it), &l->a, err));
    TRY(read_row(l, it->to, key_of(it), &l->b, err));
    it->equal = slice_eq(buf_slice(&l->a), buf_slice(&l->b));
    if (it->equal)
        goto out;
    TRY(read_row(l, leads, key_of(it), &l->a, err));
    it->equal = slice_eq(buf_slice(&l->a), buf_slice(&l->b));
out:
    return rc;
}

/* 0: done. Else in so many µs again. */
static uint64_t
failed(struct lane *l, struct traceri_item *it, struct err *err)
{
    bool passes = err->kind == ERR_RETRY || err->kind == ERR_UNSURE;

    l->backoff_us = l->backoff_us == 0 ? BACKOFF_MIN_US : l->backoff_us * 2;
    if (l->backoff_us > BACKOFF_MAX_US)
        l->backoff_us = BACKOFF_MAX_US;
    if (l->backoff_us < (uint64_t)err->retry_ms * 1000)
        l->backoff_us = (uint64_t)err->retry_ms * 1000;
    traceri_waits(l->t, err);
    if (!passes && ++it->tries > l->t->retries)
        traceri_stuck(l->t, err);
    return l->backoff_us;
}

static uint64_t
step(void *arg)
{
    struct lane         *l = arg;
    struct traceri_item *it;
    struct err           err = {0};
    void (*wake)(void *);
    void *wake_arg;
    int   rc;

    lock_take(&l->lock);
    it = l->first;
    lock_give(&l->lock);
    if (it == NULL)
        return ENV_STEP_WAIT;
    rc = it->job == JOB_APPLY  ? apply(l, it, &err)
         : it->job == JOB_COPY ? copy(l, it, &err)
                               : check(l, it, &err);
    if (rc != 0)
        return failed(l, it, &err);
    if (l->backoff_us > 0)
        traceri_waits(l->t, NULL);
    l->backoff_us = 0;
    lock_take(&l->lock);
    l->first = it->next;
    if (l->first == NULL)
        l->last = &l->first;
    lock_give(&l->lock);
    wake = it->wake;
    wake_arg = it->arg;
    atomic_store(&it->done, true); /* its owner may free it from here on */
    if (wake != NULL)
        wake(wake_arg);
    return ENV_STEP_NOW;
}

void
traceri_lanes_add(struct traceri_lanes *ls, struct traceri_item *it)
{
    uint32_t     h = 2166136261u;
    struct lane *l;

    for (const char *p = it->key; *p != '\0'; p++)
        h = (h ^ (uint8_t)*p) * 16777619u;
    l = &ls->lanes[(h ^ h >> 15) % ls->count];
    it->next = NULL;
    it->tries = 0;
    atomic_store(&it->done, false);
    lock_take(&l->lock);
    if (!l->closed) {
        *l->last = it;
        l->last = &it->next;
        l->t->env->ops->task_wake(l->t->env, l->task);
    }
    lock_give(&l->lock);
}

int
traceri_lanes_new(struct tracer *t, struct traceri_lanes **out, struct err *err)
{
    struct traceri_lanes *ls = calloc(1, sizeof *ls + t->workers * sizeof ls->lanes[0]);
    struct ox_task_def    def = {.name = "ox-lane", .step = step, .arg = NULL};
    int                   rc = 0;

    *out = NULL;
    if (ls == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    for (uint32_t i = 0; i < t->workers; i++) {
        struct lane *l = &ls->lanes[i];

        l->t = t;
        l->last = &l->first;
        lock_init(&l->lock, LOCK_CORE);
        def.arg = l;
        ls->count++;
        TRY(t->env->ops->task_start(t->env, &def, &l->task, err));
    }
    *out = ls;
    ls = NULL;
out:
    traceri_lanes_free(ls);
    return rc;
}

void
traceri_lanes_stop(struct traceri_lanes *ls)
{
    for (uint32_t i = 0; ls != NULL && i < ls->count; i++) {
        struct lane    *l = &ls->lanes[i];
        struct ox_task *task = l->task;

        lock_take(&l->lock);
        l->closed = true;
        l->task = NULL;
        lock_give(&l->lock);
        l->t->env->ops->task_stop(l->t->env, task);
    }
}

void
traceri_lanes_free(struct traceri_lanes *ls)
{
    if (ls == NULL)
        return;
    traceri_lanes_stop(ls);
    for (uint32_t i = 0; i < ls->count; i++) {
        struct lane *l = &ls->lanes[i];

        store_free(l->stores[TRACER_OLD]);
        store_free(l->stores[TRACER_NEW]);
        buf_fini(&l->a);
        buf_fini(&l->b);
        lock_fini(&l->lock);
    }
    free(ls);
}
