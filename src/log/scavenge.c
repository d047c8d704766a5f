/*
 * Scavenging: sealed segments, one at a time and oldest first, are looked
 * through, and written anew without what nobody can ever read again. A task of its
 * own: writers and readers never wait for it, and it goes slower as soon as the
 * syncs of the log's own commits do.
 *
 * It only ever touches segments that lie below the published end and below what the
 * index covers. A crash loses the segment that it was at; what it has done stays, and the
 * next run goes on there.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "log/scav_int.h"

#define SHARE_DEFAULT 10u               /* percent */
#define IDLE_RECLAIM_US UINT64_C(50000) /* while somebody still sees a replaced segment */
#define INDEX_WAIT_US UINT64_C(20000)
#define PACE_FIRST (UINT64_C(16) << 20)
#define PACE_LEAST (UINT64_C(4) << 20)
#define PACE_MOST (UINT64_C(512) << 20)
#define CALM_AFTER_US UINT64_C(100000) /* without a sync: nobody is there to be held up */
#define SYNC_SLOW_US UINT64_C(5000)    /* a sync below this is never too slow */
#define SYNC_FACTOR 4u                 /* … nor one that takes less than so many usual ones */

/* what it costs the foreground */

void
logi_note_sync(struct log *log, uint64_t us)
{
    uint64_t usual = atomic_load_explicit(&log->sync_usual_us, memory_order_relaxed);
    uint64_t worst = atomic_load_explicit(&log->sync_worst_us, memory_order_relaxed);

    /* Down at once, up slowly: what is usual is what the disk does when it is left alone. */
    if (usual == 0 || us < usual)
        usual = usual == 0 ? us : usual - (usual - us + 7) / 8;
    else
        usual += (us - usual) / 1024;
    atomic_store_explicit(&log->sync_usual_us, usual, memory_order_relaxed);
    if (us > worst)
        atomic_store_explicit(&log->sync_worst_us, us, memory_order_relaxed);
}

/* Halved where a sync was slow since the last look, a little more where none was. */
static void
set_pace(struct scavenge *s)
{
    struct log *log = s->log;
    uint64_t    now = log->env->ops->mono_us(log->env), syncs = atomic_load(&log->group_count);
    uint64_t    worst = atomic_exchange(&log->sync_worst_us, 0);
    uint64_t    slow = atomic_load(&log->sync_usual_us) * SYNC_FACTOR;

    must(syncs >= s->seen_syncs);
    if (syncs != s->seen_syncs) {
        s->seen_syncs = syncs;
        s->calm_us = now;
        if (s->pace == 0)
            s->pace = PACE_FIRST;
    } else if (now - s->calm_us >= CALM_AFTER_US) {
        s->pace = 0;
    }
    if (s->pace == 0 || worst == 0)
        return;
    if (slow < SYNC_SLOW_US)
        slow = SYNC_SLOW_US;
    s->pace = worst > slow ? s->pace / 2 : s->pace + s->pace / 16;
    if (s->pace < PACE_LEAST)
        s->pace = PACE_LEAST;
    if (s->pace > PACE_MOST)
        s->pace = PACE_MOST;
}

/* For how long the bytes that were moved just now are enough. */
static uint64_t
pause_us(struct scavenge *s)
{
    uint64_t rate = s->conf.rate;

    set_pace(s);
    if (s->pace != 0 && (rate == 0 || s->pace < rate))
        rate = s->pace;
    return rate == 0 ? ENV_STEP_NOW : s->moved * 1000000 / rate;
}

/* the status */

static void
end_look(struct scavenge *s)
{
    logi_scav_raise_end(s);
    logi_retention_put(s->retention);
    s->retention = NULL;
}

static void
drop_caches(struct scavenge *s)
{
    logi_scav_moves_free(s->moves);
    s->moves = NULL;
    free(s->cache);
    free(s->dead);
    s->cache = NULL;
    s->dead = NULL;
}

static void
end_run(struct scavenge *s, int rc, const struct err *err)
{
    struct log *log = s->log;

    must(rc != 0 || s->pos == s->until);
    must(rc != 0 || s->status.examined == s->status.segments);
    must(s->copy.file == NULL || s->phase == SCAV_COPY);
    logi_scav_copy_end(s);
    logi_scav_look_end(s);
    end_look(s);
    drop_caches(s);
    if (rc != E_INTERRUPTED)
        logi_scav_unmark(s);
    lock_take(&log->admin);
    must(s->status.state == LOG_SCAVENGE_RUNNING);
    s->status.state = rc == 0               ? LOG_SCAVENGE_DONE
                      : rc == E_INTERRUPTED ? LOG_SCAVENGE_STOPPED
                                            : LOG_SCAVENGE_FAILED;
    s->status.ended_us = log->env->ops->wall_us(log->env);
    s->status.rc = rc == E_INTERRUPTED ? 0 : rc;
    if (rc != 0 && rc != E_INTERRUPTED)
        (void)snprintf(s->status.error, sizeof s->status.error, "%s", err->text);
    lock_give(&log->admin);
    atomic_store(&s->wanted, false);
}

/* One segment's result, and how far the run is. */
static void
count_segment(struct scavenge *s, bool rewritten)
{
    struct scav_look *look = &s->look;
    uint64_t          after = logi_scav_new_bytes(look);

    lock_take(&s->log->admin);
    must(s->status.state == LOG_SCAVENGE_RUNNING);
    must(s->status.examined < s->status.segments);
    must(look->end > s->status.pos.v);
    s->status.examined++;
    s->status.examined_bytes += look->end - look->first;
    s->status.pos = LOG_POS(look->end);
    if (rewritten) {
        must(after < look->old_bytes);
        must(look->dropped > 0);
        must(look->dropped >= look->dropped_events);
        s->status.rewritten++;
        s->status.written_bytes += s->conf.dry_run ? 0 : after;
        s->status.freed_bytes += look->old_bytes - after;
        s->status.records += look->dropped;
        s->status.events += look->dropped_events;
    }
    lock_give(&s->log->admin);
}

/* the run */

/*
 * The next segment, where it is sealed. *wait: the index does not cover it yet, and is asked
 * to; without it nobody could tell what is hidden.
 */
static int
next_segment(struct scavenge *s, struct seg_view *view, bool *over, bool *wait, struct err *err)
{
    struct log *log = s->log;

    *wait = false;
    *over = s->pos >= s->until || !logi_segs_at(log->segs, s->pos, view) ||
            view->end > atomic_load(&log->end);
    if (*over || view->end <= atomic_load(&log->indexed))
        return 0;
    *wait = true;
    if (atomic_load(&log->index_stuck)) {
        lock_take(&log->admin);
        err_copy(err, &log->index_error);
        lock_give(&log->admin);
        err_prefix(err, "the index cannot be written");
        return err->code;
    }
    atomic_store(&log->flush_wanted, true);
    log->env->ops->task_wake(log->env, log->indexer);
    return 0;
}

static bool
is_young(const struct scavenge *s)
{
    return s->conf.min_age_us > 0 &&
           s->look.last_time_us + s->conf.min_age_us > s->log->env->ops->wall_us(s->log->env);
}

static bool
is_worth_it(const struct scavenge *s)
{
    uint64_t after = logi_scav_new_bytes(&s->look), before = s->look.old_bytes;

    return s->look.dropped > 0 && after < before &&
           (before - after) * 100 >= before * s->conf.min_share && !is_young(s);
}

static int
begin_segment(struct scavenge *s, bool *over, struct err *err)
{
    struct seg_view view;
    bool            wait;
    int             rc = 0;

    TRY(next_segment(s, &view, over, &wait, err));
    s->waits = wait;
    if (*over || wait)
        goto out;
    must(view.end <= s->until);
    must(s->retention == NULL);
    must(s->raises.count == 0);
    must(!s->raises.begun);
    s->retention = logi_retention_get(s->log);
    TRY(logi_scav_look_begin(s, &view, err));
    s->phase = SCAV_LOOK;
out:
    return rc;
}

static void
to_next(struct scavenge *s, bool rewritten)
{
    must(s->look.first == s->pos);
    must(s->look.end > s->pos);
    must(s->look.end <= s->until);
    count_segment(s, rewritten);
    end_look(s);
    s->no_limits = false;
    s->pos = s->look.end;
    logi_scav_mark(s);
    s->phase = SCAV_NEXT;
}

static int
look_on(struct scavenge *s, struct err *err)
{
    bool done;
    int  rc;

    TRY(logi_scav_look_on(s, &done, err));
    if (!done)
        goto out;
    must(s->look.at.pos == s->look.end);
    if (!is_worth_it(s) || s->conf.dry_run) {
        to_next(s, is_worth_it(s));
        goto out;
    }
    s->phase = SCAV_RAISE;
out:
    return rc;
}

/* Where a stream's state cannot be changed, what only a limit hides stays in this segment. */
static int
raise_on(struct scavenge *s, struct err *err)
{
    bool done;
    int  rc = logi_scav_raise_on(s, &done, err);

    if (rc != 0 && !atomic_load(&s->log->failed)) {
        must(s->raises.count == 0 || !s->no_limits); /* the next look notes none */
        end_look(s);
        s->no_limits = true;
        s->phase = SCAV_NEXT;
        err_clear(err);
        return 0;
    }
    s->waits = rc == 0 && !done;
    if (rc != 0 || !done)
        return rc;
    rc = logi_scav_copy_begin(s, err);
    s->phase = SCAV_COPY;
    return rc;
}

static int
copy_on(struct scavenge *s, struct err *err)
{
    bool done;
    int  rc;

    TRY(logi_scav_copy_on(s, &done, err));
    if (!done)
        goto out;
    TRY(logi_scav_copy_swap(s, err));
    atomic_store(&s->reserved, 0);
    to_next(s, true);
out:
    return rc;
}

static int
step(struct scavenge *s, bool *over, struct err *err)
{
    *over = false;
    s->moved = 0;
    s->waits = false;
    if (atomic_load(&s->raises.waiting)) {
        s->waits = true; /* it is answered, whatever happens */
        return 0;
    }
    if (atomic_load(&s->cancel) || atomic_load(&s->log->closing))
        return E_INTERRUPTED;
    if (atomic_load(&s->log->failed))
        RETURN_ERR(err, E_STATE, ERR_FATAL, "the log takes no more writes");
    switch (s->phase) {
    case SCAV_LOOK:
        return look_on(s, err);
    case SCAV_RAISE:
        return raise_on(s, err);
    case SCAV_COPY:
        return copy_on(s, err);
    default:
        return begin_segment(s, over, err);
    }
}

uint64_t
logi_scavenge_step(void *arg)
{
    struct scavenge *s = arg;
    struct err       err;
    bool             over;
    int              rc;

    if (!atomic_load(&s->wanted) && atomic_load(&s->halt) != NULL)
        s->log->env->ops->gate_open(s->log->env, atomic_exchange(&s->halt, NULL));
    if (!atomic_load(&s->wanted))
        return logi_segs_reclaim(s->log->segs) > 0 ? IDLE_RECLAIM_US : ENV_STEP_WAIT;
    rc = step(s, &over, &err);
    (void)logi_segs_reclaim(s->log->segs);
    if (rc != 0 || over) {
        if (rc != 0 && rc != E_INTERRUPTED)
            err_prefix(&err, "scavenge");
        end_run(s, rc, &err);
        return ENV_STEP_NOW;
    }
    return s->waits ? INDEX_WAIT_US : pause_us(s);
}

/* the contract */

int
logi_scavenge_new(struct log *log, struct err *err)
{
    struct scavenge *s = calloc(1, sizeof *s);

    must(log->scavenge == NULL);
    must(!log->conf.read_only);
    if (s == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    s->log = log;
    logi_segs_pin_add(log->segs, &s->pin);
    log->scavenge = s;
    return 0;
}

void
logi_scavenge_free(struct log *log)
{
    struct scavenge *s = log->scavenge;

    if (s == NULL)
        return;
    logi_scav_copy_end(s);
    logi_scav_look_end(s);
    end_look(s);
    drop_caches(s);
    logi_segs_pin_drop(log->segs, &s->pin);
    free(s);
    log->scavenge = NULL;
}

void
logi_scavenge_halt(struct log *log)
{
    struct ox_gate gate;

    if (log->scavenge == NULL)
        return;
    must(atomic_load(&log->scavenge->halt) == NULL);
    gate_init(&gate);
    atomic_store(&log->scavenge->cancel, true);
    atomic_store(&log->scavenge->halt, &gate);
    log->env->ops->task_wake(log->env, log->scavenge->task);
    (void)log->env->ops->gate_wait(log->env, &gate, UINT64_MAX);
}

struct ox_task **
logi_scavenge_task(struct log *log)
{
    return &log->scavenge->task;
}

uint64_t
logi_scavenge_reserved(struct log *log)
{
    return log->scavenge == NULL ? 0 : atomic_load(&log->scavenge->reserved);
}

static void
reset(struct scavenge *s, const struct log_scavenge_conf *conf, uint64_t resume)
{
    struct log     *log = s->log;
    uint64_t        run = s->status.run + 1;
    struct seg_view view;

    must_slow(lock_held());
    must(!atomic_load(&s->wanted));
    must(s->copy.file == NULL);
    must(s->raises.count == 0);
    s->conf = *conf;
    s->status = (struct log_scavenge){.state = LOG_SCAVENGE_RUNNING,
                                      .run = run,
                                      .dry_run = conf->dry_run,
                                      .resumed_at = LOG_POS(resume),
                                      .started_us = log->env->ops->wall_us(log->env)};
    s->pos = resume != 0 ? resume : logi_segs_first(log->segs);
    s->until = s->pos;
    s->status.pos = LOG_POS(s->pos);
    s->phase = SCAV_NEXT;
    s->no_limits = false;
    s->pace = PACE_FIRST;
    s->calm_us = log->env->ops->mono_us(log->env);
    s->seen_syncs = atomic_load(&log->group_count);
    for (uint64_t pos = s->pos;
         logi_segs_at(log->segs, pos, &view) && view.end <= atomic_load(&log->end);
         pos = view.end) {
        must(view.first == pos);
        s->status.segments++;
        s->status.all_bytes += view.end - view.first;
        s->until = view.end;
    }
}

int
log_scavenge_start(struct log *log, const struct log_scavenge_conf *conf, struct err *err)
{
    struct scavenge         *s = log->scavenge;
    struct log_scavenge_conf own = *conf;
    struct scav_stream      *cache;
    struct scav_dead        *dead;
    uint64_t                 resume;
    int                      rc = 0;

    must(log->magic == LOGI_MAGIC);
    if (conf->min_share > 100)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "scavenge: a share of %u %%: 1 to 100",
                   conf->min_share);
    if (s == NULL)
        RETURN_ERR(err, E_RDONLY, ERR_DATA, "the log was opened read-only");
    if (own.min_share == 0)
        own.min_share = SHARE_DEFAULT;
    resume = logi_scav_marked(log, &own);
    cache = calloc(LOGI_SCAV_CACHE, sizeof *cache);
    dead = calloc(LOGI_SCAV_DEAD, sizeof *dead);
    lock_take(&log->admin);
    if (cache == NULL || dead == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "scavenge: out of memory");
    if (atomic_load(&s->wanted))
        FAIL(err, E_STATE, ERR_RETRY, "a scavenge is running already");
    atomic_store(&s->cancel, false);
    reset(s, &own, resume);
    must(s->cache == NULL); /* the run before has given its own back */
    must(s->dead == NULL);
    s->cache = cache;
    s->dead = dead;
    cache = NULL;
    dead = NULL;
    atomic_store(&s->wanted, true);
out:
    lock_give(&log->admin);
    free(cache);
    free(dead);
    if (rc == 0)
        log->env->ops->task_wake(log->env, s->task);
    return rc;
}

void
log_scavenge_stop(struct log *log)
{
    if (log->scavenge == NULL)
        return;
    atomic_store(&log->scavenge->cancel, true);
    log->env->ops->task_wake(log->env, log->scavenge->task);
}

void
log_scavenge_status(struct log *log, struct log_scavenge *out)
{
    struct scavenge *s = log->scavenge;
    int64_t          upto;

    memset(out, 0, sizeof *out);
    if (s == NULL)
        return;
    lock_take(&log->admin);
    *out = s->status;
    lock_give(&log->admin);
    if (out->run == 0)
        return;
    upto = out->state == LOG_SCAVENGE_RUNNING ? log->env->ops->wall_us(log->env) : out->ended_us;
    if (upto > out->started_us)
        out->bytes_per_s =
            (uint64_t)((double)out->examined_bytes * 1e6 / (double)(upto - out->started_us));
}
