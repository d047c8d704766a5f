/*
 * Opening and closing, facts, listeners, time to position.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "log/log_int.h"

#define MIB (UINT64_C(1) << 20)
#define PATH_BYTES 4200

static void
defaults(struct log_conf *c)
{
    if (c->segment_bytes == 0)
        c->segment_bytes = 256 * MIB;
    if (c->commit_bytes_max == 0)
        c->commit_bytes_max = 64 * MIB;
    if (c->memory_bytes_max == 0)
        c->memory_bytes_max = 18 * MIB;
    if (c->heads_bytes == 0)
        c->heads_bytes = 48 * MIB;
    if (c->queue_bytes_max == 0)
        c->queue_bytes_max = 64 * MIB;
    if (c->free_bytes_min == 0)
        c->free_bytes_min = 64 * MIB;
    if (c->recent_events == 0)
        c->recent_events = 1000000;
    if (c->journal == NULL)
        c->journal = &log_journal_local;
}

static int
check_conf(const struct log_conf *c, struct err *err)
{
    must(c->index != NULL);
    if (c->segment_bytes < LOG_SEGMENT_MIN || c->segment_bytes % SEG_HEADER != 0 ||
        c->segment_bytes > 1024 * MIB)
        RETURN_ERR(err, E_INVALID, ERR_FATAL,
                   "a segment of %" PRIu64 " bytes: 2 MiB to 1 GiB, a multiple of 4096",
                   c->segment_bytes);
    return 0;
}

static int
take_lock(struct log *log, struct err *err)
{
    const struct ox_env_ops *ops = log->env->ops;
    char                     path[PATH_BYTES];
    int                      rc;

    (void)snprintf(path, sizeof path, "%s/LOCK", log->dir);
    rc = ops->file_open(log->env, path, log->conf.read_only ? ENV_READ : ENV_WRITE | ENV_CREATE,
                        &log->lock_file, err);
    if (rc != 0 && log->conf.read_only)
        return 0; /* nobody has ever had it open for writing, or we may not know */
    if (rc != 0)
        return rc;
    rc = ops->file_lock(log->env, log->lock_file, err);
    if (rc == E_BUSY)
        (void)err_set(err, __FILE__, __LINE__, E_BUSY, ERR_RETRY,
                      "%s: another process has this data folder open; talk to it with --server, "
                      "or stop it first",
                      log->dir);
    return rc;
}

static int
remove_entry(void *arg, const char *name, struct err *err)
{
    struct log *log = arg;
    char        path[PATH_BYTES];

    (void)snprintf(path, sizeof path, "%s/index/%s", log->dir, name);
    return log->env->ops->path_remove(log->env, path, err);
}

static int
open_index(struct log *log, struct err *err)
{
    char path[PATH_BYTES];
    int  rc;

    (void)snprintf(path, sizeof path, "%s/index", log->dir);
    if (!log->conf.read_only)
        TRY(log->env->ops->dir_make(log->env, path, err));
    rc = log->conf.index->open(log->env, path, logi_segs_log_id(log->segs)->b, log->conf.read_only,
                               &log->index, err);
    if (rc == E_DAMAGED && !log->conf.read_only) {
        /* Derived: made again from the log. */
        TRY(log->env->ops->dir_list(log->env, path, remove_entry, log, err));
        rc = log->conf.index->open(log->env, path, logi_segs_log_id(log->segs)->b, false,
                                   &log->index, err);
    }
out:
    return rc;
}

static int
start(struct log *log, const char *name, uint64_t (*step)(void *), struct ox_task **out,
      struct err *err)
{
    struct ox_task_def def = {.name = name, .step = step, .arg = log};

    return log->env->ops->task_start(log->env, &def, out, err);
}

static int
start_tasks(struct log *log, struct err *err)
{
    int rc;

    must(atomic_load(&log->end) == log->next_pos);
    must(atomic_load(&log->indexed) <= log->next_pos);
    /*
     * Index and upkeep may have work at once and wake the log task, which has to be there; it
     * wakes others only for requests, and there are none before the log is open.
     */
    TRY(logi_scavenge_new(log, err)); /* upkeep looks at what it has reserved */
    TRY(start(log, "ox-log", logi_log_step, &log->task, err));
    TRY(start(log, "ox-sync", logi_sync_step, &log->syncer, err));
    TRY(start(log, "ox-index", logi_index_step, &log->indexer, err));
    TRY(start(log, "ox-upkeep", logi_upkeep_step, &log->upkeep, err));
    TRY(log->env->ops->task_start(log->env,
                                  &(struct ox_task_def){.name = "ox-scavenge",
                                                        .step = logi_scavenge_step,
                                                        .arg = log->scavenge},
                                  logi_scavenge_task(log), err));
out:
    return rc;
}

static int
new_log(struct ox_env *env, const char *dir, const struct log_conf *conf, struct log **out,
        struct err *err)
{
    struct log *log = calloc(1, sizeof *log);
    int         rc;

    *out = log;
    if (log == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    log->magic = LOGI_MAGIC;
    log->env = env;
    log->conf = *conf;
    defaults(&log->conf);
    env->ops->random(env, log->id_seed, sizeof log->id_seed);
    lock_init(&log->admin, LOCK_LOG_ADMIN);
    log->fifo.tail = &log->fifo.head;
    log->bulk.tail = &log->bulk.head;
    log->held.tail = &log->held.head;
    for (int i = 0; i < 2; i++)
        log->groups[i].tail = &log->groups[i].reqs;
    log->dir = strdup(dir);
    if (log->dir == NULL || strlen(dir) > 4000)
        FAIL(err, E_INVALID, ERR_FATAL, "the folder's path is too long");
    TRY(check_conf(&log->conf, err));
    TRY(logi_mem_new(&log->mem, err));
    TRY(logi_heads_new(env, log->conf.heads_bytes, &log->heads, err));
    TRY(logi_recent_new(env, log->conf.recent_events, &log->recent, err));
    TRY(logi_marks_new(&log->marks, err));
    TRY(log_set_retention(log, conf->retention, conf->retention_count, err));
out:
    return rc;
}

static void
free_log(struct log *log)
{
    if (log == NULL)
        return;
    /* Those that wake others before those that they wake: upkeep may still be growing a file. */
    if (log->scavenge != NULL)
        log->env->ops->task_stop(log->env, *logi_scavenge_task(log));
    log->env->ops->task_stop(log->env, log->router_task);
    log->env->ops->task_stop(log->env, log->upkeep);
    log->env->ops->task_stop(log->env, log->syncer);
    log->env->ops->task_stop(log->env, log->indexer);
    log->env->ops->task_stop(log->env, log->task);
    log->conf.journal->close(log->journal);
    log->conf.index->close(log->index);
    logi_scavenge_free(log);
    if (log->segs != NULL)
        logi_segs_pin_drop(log->segs, &log->pin);
    logi_segs_close(log->segs);
    log->env->ops->file_close(log->env, log->lock_file);
    for (int i = 0; i < 2; i++)
        buf_fini(&log->groups[i].bytes);
    logi_mem_free(log->mem);
    logi_heads_free(log->heads);
    logi_recent_free(log->recent);
    logi_marks_free(log->marks);
    logi_retention_put(log->retention);
    free(log->targets);
    free(log->dir);
    lock_fini(&log->admin);
    log->magic = 0;
    free(log);
}

int
log_open(struct ox_env *env, const char *dir, const struct log_conf *conf,
         struct log_report *report, struct log **out, struct err *err)
{
    struct log_report own = {0};
    struct log       *log;
    uint64_t          began = env->ops->mono_us(env);
    char              path[PATH_BYTES];
    int               rc;

    *out = NULL;
    TRY(new_log(env, dir, conf, &log, err));
    if (!log->conf.read_only)
        TRY(env->ops->dir_make(env, dir, err));
    TRY(take_lock(log, err));
    (void)snprintf(path, sizeof path, "%s/segments", dir);
    TRY(logi_segs_open(env, path, log->conf.segment_bytes, log->conf.read_only,
                       !logi_clean_is_there(log), &log->segs, &own.created, err));
    logi_segs_pin_add(log->segs, &log->pin);
    TRY(open_index(log, err));
    TRY(log->conf.journal->open(log->segs, &log->journal, err));
    TRY(logi_recover(log, &own, err));
    if (own.created)
        logi_heads_begin(log->heads);
    if (!log->conf.read_only) {
        TRY(logi_clean_remove(log, err));
        TRY(start_tasks(log, err));
    }
    own.open_us = env->ops->mono_us(env) - began;
    if (report != NULL)
        *report = own;
    *out = log;
    log = NULL;
out:
    free_log(log);
    return rc;
}

/* Waits until the log task has nothing left. */
static void
wait_idle(struct log *log)
{
    struct ox_gate gate;

    must(!atomic_load(&log->closing)); /* it is closed once */
    gate_init(&gate);
    atomic_store(&log->closing, true);
    atomic_store(&log->idle, &gate);
    log->env->ops->task_wake(log->env, log->task);
    (void)log->env->ops->gate_wait(log->env, &gate, UINT64_MAX);
    must(atomic_load(&log->queue_bytes) == 0); /* all that was submitted is answered */
}

void
log_close(struct log *log)
{
    if (log == NULL)
        return;
    must(log->magic == LOGI_MAGIC);
    must(log->listeners == NULL);
    must(log->stages == NULL);
    must(log->fences == NULL);
    if (!log->conf.read_only) {
        logi_scavenge_halt(log);
        wait_idle(log);
        if (!atomic_load(&log->failed) && logi_flush(log, NULL) == 0 &&
            log->conf.index->sync(log->index, NULL) == 0)
            (void)logi_clean_write(log, NULL);
    }
    free_log(log);
}

struct log_pos
log_end(struct log *log)
{
    return LOG_POS(atomic_load(&log->end));
}

void
log_listen(struct log *log, struct log_listener *l)
{
    must(log->magic == LOGI_MAGIC);
    must(l->wake != NULL);
    lock_take(&log->admin);
    must(l != log->listeners);
    l->prev = NULL;
    l->next = log->listeners;
    if (l->next != NULL)
        l->next->prev = l;
    log->listeners = l;
    lock_give(&log->admin);
}

void
log_unlisten(struct log *log, struct log_listener *l)
{
    must(log->magic == LOGI_MAGIC);
    lock_take(&log->admin);
    must(l->prev == NULL ? log->listeners == l : l->prev->next == l); /* it listens */
    if (l->prev != NULL)
        l->prev->next = l->next;
    else
        log->listeners = l->next;
    if (l->next != NULL)
        l->next->prev = l->prev;
    lock_give(&log->admin);
}

void
log_get_info(struct log *log, struct log_info *out)
{
    memset(out, 0, sizeof *out);
    out->id = *logi_segs_log_id(log->segs);
    out->format = FMT_VERSION;
    out->segment_bytes = logi_segs_setting(log->segs);
    out->segments = logi_segs_count(log->segs);
    out->disk_bytes = logi_segs_disk_bytes(log->segs);
    out->first = LOG_POS(logi_segs_first(log->segs));
    out->end = LOG_POS(atomic_load(&log->end));
    out->indexed = LOG_POS(atomic_load(&log->indexed));
    out->streams = atomic_load(&log->stream_count);
    must(out->first.v <= out->end.v);
    out->last_time_us = atomic_load(&log->end_us);
    out->commits = atomic_load(&log->commits);
    out->events = atomic_load(&log->events);
    out->groups = out->syncs = atomic_load(&log->group_count);
    out->appended_bytes = atomic_load(&log->appended_bytes);
    out->memory_bytes = logi_mem_bytes(log->mem);
    hist_read(&log->sync_us, &out->sync_us);
    hist_read(&log->group_commits, &out->group_commits);
    lock_take(&log->admin);
    out->failed = atomic_load(&log->failed);
    if (out->failed)
        memcpy(out->failed_text, log->failure.text, sizeof out->failed_text);
    lock_give(&log->admin);
}

/* time */

/* The last segment whose first frame is not after `us`. */
static bool
segment_of_time(struct log *log, int64_t us, uint64_t end, struct seg_view *out)
{
    struct seg_view view;
    struct frame    f;
    bool            found = false;

    for (uint64_t pos = logi_segs_first(log->segs);
         pos < end && logi_segs_at(log->segs, pos, &view); pos = view.end) {
        enum scan scan = logi_scan_from(log->segs, pos, view.end < end ? view.end : end, &f);

        must(view.first == pos); /* without a gap */
        if (scan == SCAN_END)
            continue; /* all of it is gone */
        if (scan == SCAN_BAD || f.head.time_us > us)
            break;
        *out = view;
        found = true;
    }
    return found;
}

static int
pos_of_time(struct log *log, int64_t us, struct log_pos *out, struct err *err)
{
    uint64_t        end = atomic_load(&log->end), pos;
    struct seg_view view;
    struct frame    f;
    enum scan       scan;

    if (!segment_of_time(log, us, end, &view))
        return 0;
    if (view.end > end)
        view.end = end;
    for (pos = view.first; (scan = logi_scan_from(log->segs, pos, view.end, &f)) != SCAN_END;
         pos = f.next) {
        if (scan == SCAN_BAD)
            RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "%s: damaged at position %" PRIu64, log->dir,
                       pos);
        if (f.head.time_us > us)
            break;
        must(f.next > pos);
        *out = LOG_POS(f.next - 1);
    }
    return 0;
}

int
log_pos_of_time(struct log *log, int64_t us, struct log_pos *out, struct err *err)
{
    struct seg_pin pin;
    int            rc;

    *out = LOG_POS(0);
    logi_segs_pin_add(log->segs, &pin);
    logi_segs_pin(log->segs, &pin);
    rc = pos_of_time(log, us, out, err);
    logi_segs_pin_drop(log->segs, &pin);
    return rc;
}
