/*
 * The backfill: the old side's keys in their order, chunk by chunk; each row
 * is copied in the lane of its key (lanes.c says why nothing comes back that
 * was deleted), and only where the new side has none. The cursor is in the
 * record: after a crash a chunk is done again, which changes nothing.
 *
 * The controller's batch lives here too: jobs for many keys at once.
 */
#include <stdio.h>
#include <stdlib.h>

#include "migrate/tracer/tracer_int.h"

static bool
batch_done(const struct tracer *t)
{
    for (uint32_t i = 0; i < t->batch_count; i++)
        if (!atomic_load(&t->batch[i].done))
            return false;
    return true;
}

int
traceri_batch_key(struct tracer *t, uint32_t at, struct slice key, struct err *err)
{
    struct traceri_item *it = &t->batch[at];
    struct ox_id         id = id_new(t->env);

    must(at < TRACERI_BATCH);
    if (at == 0 && !batch_done(t))
        RETURN_ERR(err, E_BUSY, ERR_RETRY, "keys of an earlier look are still being worked on");
    if (key.len > TRACERI_KEY_MAX || memchr(key.data, 0, key.len) != NULL)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "a key is over %d bytes, or has a NUL", TRACERI_KEY_MAX);
    if (at == 0)
        t->batch_count = 0;
    memcpy(it->key, key.data, key.len);
    it->key[key.len] = '\0';
    id_format(&id, it->request);
    it->equal = it->copied = it->del = false;
    it->wake = NULL;
    return 0;
}

int
traceri_batch_run(struct tracer *t, uint32_t count, uint64_t deadline_us, struct err *err)
{
    t->batch_count = count;
    for (uint32_t i = 0; i < count; i++)
        traceri_lanes_add(t->lanes, &t->batch[i]);
    while (!batch_done(t)) {
        if (traceri_wait(t, 200))
            RETURN_ERR(err, E_INTERRUPTED, ERR_RETRY, "the migration stops here");
        if (deadline_us != 0 && t->env->ops->mono_us(t->env) > deadline_us)
            RETURN_ERR(err, E_TIMEOUT, ERR_RETRY, "%u keys were not done in time", count);
    }
    return 0;
}

static int
take_key(void *arg, const struct store_row *row, struct err *err)
{
    struct tracer *t = arg;

    /* Nothing else uses the batch now, so its count may say how many there are. */
    return traceri_batch_key(t, t->batch_count, row->key, err) != 0 ? err->code
                                                                    : ((void)t->batch_count++, 0);
}

int
traceri_backfill_step(struct tracer *t, bool *done, struct err *err)
{
    struct store         *old = t->ends[TRACER_OLD].store;
    struct traceri_record next = t->rec;
    uint32_t              limit = t->chunk < TRACERI_BATCH ? t->chunk : TRACERI_BATCH, n;
    int                   rc;

    *done = false;
    if (!batch_done(t))
        FAIL(err, E_BUSY, ERR_RETRY, "the last chunk is still being copied");
    t->batch_count = 0;
    rc = old->ops->scan(old, slice_str(t->rec.cursor), limit, take_key, t, err);
    n = t->batch_count;
    t->batch_count = 0;
    TRY(rc);
    for (uint32_t i = 0; i < n; i++) {
        t->batch[i].job = JOB_COPY;
        t->batch[i].to = TRACER_NEW;
    }
    TRY(traceri_batch_run(t, n, 0, err));
    for (uint32_t i = 0; i < n; i++)
        next.backfill_rows += t->batch[i].copied;
    if (n > 0)
        (void)snprintf(next.cursor, sizeof next.cursor, "%s", t->batch[n - 1].key);
    *done = next.backfill_done = n < limit;
    TRY(traceri_save(t, &next, err));
out:
    return rc;
}
