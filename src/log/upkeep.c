/*
 * Upkeep: segments ahead of the log's end, filled with zeros in time, and an eye
 * on the free disk.
 */
#include <inttypes.h>

#include "log/log_int.h"

#define DISK_EVERY_US UINT64_C(1000000)
#define RETRY_US UINT64_C(500000)
#define FILL_PAUSE_US UINT64_C(1000)
#define LOOK_EVERY_US UINT64_C(20000)
/*
 * Zeros are written evenly while the segment before fills up: as a burst they would hold up
 * every sync beside them.
 */
#define GROW_AT 0.25
#define FILLED_AT 0.85

static void
look_at_disk(struct log *log)
{
    uint64_t   now = log->env->ops->mono_us(log->env), bytes;
    struct err err;

    if (log->last_disk_us != 0 && now - log->last_disk_us < DISK_EVERY_US)
        return;
    log->last_disk_us = now;
    if (log->env->ops->disk_free(log->env, log->dir, &bytes, &err) != 0)
        return; /* not known: the writes themselves will say */
    /* What a scavenge has taken it gives back, and more: nobody is refused for it. */
    atomic_store(&log->low_disk, bytes + logi_scavenge_reserved(log) < log->conf.free_bytes_min);
}

/* How much of the segment that the log's end is in is used, 0 to 1; 1 where none is behind it. */
static double
used_share(struct log *log, uint64_t pos)
{
    struct seg_view view;

    if (!logi_segs_at(log->segs, pos, &view))
        return 1;
    return (double)(pos - view.first) / (double)(view.end - view.first);
}

/* The next segment is made when a quarter of the last one is used, or a commit asks for it. */
static bool
grow_due(struct log *log)
{
    struct seg_view last;
    uint64_t        end = logi_segs_end(log->segs), used = atomic_load(&log->end);

    must(used <= end);
    if (end < atomic_load(&log->want_end))
        return true;
    if (!logi_segs_at(log->segs, end - 8, &last) || used < last.first)
        return false;
    return used_share(log, used) >= GROW_AT;
}

static int
grow(struct log *log)
{
    uint64_t   end = logi_segs_end(log->segs);
    struct err err;
    int        rc;

    err_clear(&err);
    rc = logi_segs_grow(log->segs, &err);
    must((rc == 0) == (logi_segs_end(log->segs) > end));
    lock_take(&log->admin);
    err_copy(&log->grow_error, &err);
    lock_give(&log->admin);
    atomic_store(&log->grow_stuck, rc != 0);
    log->env->ops->task_wake(log->env, log->task);
    return rc;
}

uint64_t
logi_upkeep_step(void *arg)
{
    struct log *log = arg;
    struct err  err;
    double      share;
    bool        more = false;

    must(log->magic == LOGI_MAGIC);
    must(!log->conf.read_only);
    look_at_disk(log);
    if (atomic_load(&log->failed))
        return DISK_EVERY_US;
    if (grow_due(log)) {
        if (atomic_load(&log->low_disk) && logi_segs_end(log->segs) >= atomic_load(&log->want_end))
            return RETRY_US;
        return grow(log) != 0 ? RETRY_US : ENV_STEP_NOW;
    }
    /* Zeros that cannot be written are no harm: appends find out. */
    share = (used_share(log, atomic_load(&log->end)) - GROW_AT) / (FILLED_AT - GROW_AT);
    if (logi_segs_fill(log->segs, share, &more, &err) != 0)
        return RETRY_US;
    return more ? FILL_PAUSE_US : LOOK_EVERY_US;
}
