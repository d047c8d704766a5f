/*
 * The index follows the log: memory's growing generation is frozen every now
 * and then, and written as one transaction once all of it is durable.
 *
 * A transaction rewrites each page that it touches, and events of random streams
 * touch nearly all pages however few they are: where many come in, it waits for
 * more of them, or its pages would take more of the disk than the log itself.
 */
#include <stdlib.h>

#include "log/log_int.h"

#define INDEX_EVERY_US UINT64_C(500000)
#define INDEX_POLL_US (INDEX_EVERY_US / 5)
#define INDEX_FEW 10000u                /* so many are written at once … */
#define INDEX_MOST_US UINT64_C(2000000) /* … and more than these not later than this */
#define INDEX_ENTRIES 200000u
/* Each entry of a log of more streams than these touches a page of its own, which is heap. */
#define INDEX_MANY_STREAMS 2000000u
#define INDEX_ENTRIES_OF_MANY 50000u
#define RETRY_US UINT64_C(500000)

static void
wake_waiters(struct log *log, bool all)
{
    uint64_t        covers = atomic_load(&log->indexed);
    struct waiter **at;

    lock_take(&log->admin);
    for (at = &log->flush_waiters; *at != NULL;) {
        struct waiter *w = *at;
        if (!all && w->pos > covers) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        log->env->ops->gate_open(log->env, &w->gate);
    }
    if (log->flush_waiters == NULL)
        atomic_store(&log->flush_wanted, false);
    lock_give(&log->admin);
}

/* Writes the frozen generation below `end`, and drops it. */
static int
write_frozen(struct log *log, uint64_t end, struct err *err)
{
    struct index_batch batch = {0};
    int                rc;

    must(end >= atomic_load(&log->indexed));
    must(end <= atomic_load(&log->end)); /* never what is not published */
    must(logi_mem_is_frozen(log->mem));
    TRY(logi_mem_batch(log->mem, end, &batch, err));
    batch.covers = LOG_POS(end);
    batch.stream_count = log->conf.index->stream_count(log->index);
    for (uint32_t i = 0; i < batch.update_count; i++)
        if (batch.updates[i].id >= batch.stream_count)
            batch.stream_count = batch.updates[i].id + 1;
    must(batch.event_count == 0 || batch.events[batch.event_count - 1].pos < end);
    TRY(log->conf.index->apply(log->index, &batch, err));
    must(log->conf.index->covers(log->index).v == end);
    must(log->conf.index->stream_count(log->index) == batch.stream_count);
    logi_mem_drop(log->mem);
    atomic_store(&log->stream_count, batch.stream_count);
out:
    return rc;
}

static void
note_result(struct log *log, int rc, const struct err *err)
{
    must(rc == 0 || err->code == rc);
    lock_take(&log->admin);
    if (rc == 0)
        err_clear(&log->index_error);
    else
        err_copy(&log->index_error, err);
    lock_give(&log->admin);
    atomic_store(&log->index_stuck, rc != 0);
}

static uint32_t
entries_most(struct log *log)
{
    bool many = atomic_load(&log->stream_count) > INDEX_MANY_STREAMS;

    return many ? INDEX_ENTRIES_OF_MANY : INDEX_ENTRIES;
}

static bool
due(struct log *log)
{
    uint64_t age = log->env->ops->mono_us(log->env) - log->last_index_us;
    uint32_t entries = logi_mem_active(log->mem);

    if (entries == 0)
        return false;
    return atomic_load(&log->flush_wanted) || atomic_load(&log->closing) ||
           entries >= entries_most(log) ||
           logi_mem_bytes(log->mem) >= log->conf.memory_bytes_max / 2 ||
           age >= (entries <= INDEX_FEW ? INDEX_EVERY_US : INDEX_MOST_US);
}

uint64_t
logi_index_step(void *arg)
{
    struct log *log = arg;
    struct err  err;
    uint64_t    end;
    int         rc;

    if (!logi_mem_is_frozen(log->mem)) {
        if (!due(log)) {
            end = atomic_load(&log->end);
            must(atomic_load(&log->indexed) <= end);
            if (logi_mem_active(log->mem) == 0)
                atomic_store(&log->indexed, end); /* all below it went through memory */
            if (atomic_load(&log->flush_wanted))
                wake_waiters(log, atomic_load(&log->failed));
            return logi_mem_active(log->mem) == 0 ? INDEX_EVERY_US : INDEX_POLL_US;
        }
        log->last_index_us = log->env->ops->mono_us(log->env);
        if (!logi_mem_freeze(log->mem, &log->frozen_last))
            return ENV_STEP_NOW;
    }
    atomic_store(&log->indexer_waits, true);
    end = atomic_load(&log->end);
    if (end <= log->frozen_last && !atomic_load(&log->failed))
        return ENV_STEP_WAIT; /* publish wakes us */
    atomic_store(&log->indexer_waits, false);
    if (end > log->frozen_last && logi_mem_active(log->mem) > 0)
        end = log->frozen_last + 1; /* the rest below `end` is in the growing generation */
    rc = write_frozen(log, end, &err);
    note_result(log, rc, &err);
    if (rc != 0) {
        wake_waiters(log, true); /* they are told why; the next try is in a while */
        return RETRY_US;
    }
    atomic_store(&log->indexed, end);
    wake_waiters(log, atomic_load(&log->failed));
    log->env->ops->task_wake(log->env, log->task);
    return ENV_STEP_NOW;
}

int
logi_index_all(struct log *log, struct err *err)
{
    uint64_t end = atomic_load(&log->end), last;
    int      rc = 0;

    if (logi_mem_freeze(log->mem, &last)) {
        must(last < end);
        TRY(write_frozen(log, end, err));
    }
    atomic_store(&log->indexed, end);
out:
    return rc;
}

int
logi_flush(struct log *log, struct err *err)
{
    struct waiter w = {.pos = atomic_load(&log->end)};
    int           rc = 0;

    if (log->indexer == NULL)
        return 0;
    do { /* again where it was woken for an error that is over by now */
        gate_init(&w.gate);
        lock_take(&log->admin);
        w.next = log->flush_waiters;
        log->flush_waiters = &w;
        atomic_store(&log->flush_wanted, true);
        lock_give(&log->admin);
        log->env->ops->task_wake(log->env, log->indexer);
        (void)log->env->ops->gate_wait(log->env, &w.gate, UINT64_MAX);
        lock_take(&log->admin);
        if (log->index_error.code != 0) {
            err_copy(err, &log->index_error);
            rc = log->index_error.code;
        }
        lock_give(&log->admin);
    } while (rc == 0 && atomic_load(&log->indexed) < w.pos && !atomic_load(&log->failed));
    return rc;
}
