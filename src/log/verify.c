/*
 * Reading everything: every checksum of the log, and the index against it.
 */
#include <inttypes.h>
#include <stdio.h>

#include "log/log_int.h"

#define PROGRESS_BYTES (UINT64_C(16) << 20)
#define PATH_BYTES 4200

struct verify {
    struct log        *log;
    struct log_counts *counts;
    struct seg_pin     pin;
};

/* An index that was made after a scavenge lacks what is hidden and lies before what is gone. */
static bool
is_hidden(struct log *log, const struct record *r)
{
    struct slice      stream = slice_of(r->body, r->name_len);
    struct retention *retention;
    struct index_head head;
    struct view       v;

    if (log->conf.index->head(log->index, r->stream_id, &head, NULL) != 0)
        return false;
    retention = logi_retention_get(log);
    logi_view(&head, stream, logi_retention_of(retention, stream), &v);
    logi_retention_put(retention);
    return r->version < v.low || logi_too_old(log, v.max_age_us, r->created_us);
}

static int
verify_record(void *arg, const struct frame *f, const struct record *r, struct err *err)
{
    struct verify *v = arg;
    uint64_t       pos;
    int            rc;

    (void)f;
    v->counts->records++;
    if (r->kind != RECORD_EVENT)
        return 0;
    v->counts->events++;
    rc = logi_position(v->log, r->stream_id, r->version, UINT64_MAX, &pos, err);
    if (rc == 0 && pos != r->pos && !(pos == 0 && is_hidden(v->log, r)))
        v->counts->index_mismatches++;
    return rc;
}

int
log_verify(struct log *log, log_progress_fn *fn, void *arg, struct log_counts *out, struct err *err)
{
    struct verify v = {.log = log, .counts = out};
    uint64_t      first = logi_segs_first(log->segs), end, pos = first, told = first;
    struct commit c;
    struct frame  f;
    enum scan     scan;
    int           rc;

    memset(out, 0, sizeof *out);
    logi_segs_pin_add(log->segs, &v.pin);
    TRY(logi_flush(log, err));
    end = atomic_load(&log->end);
    must(first <= end);
    for (;;) {
        logi_segs_pin(log->segs, &v.pin);
        scan = logi_scan_from(log->segs, pos, end, &f);
        if (scan == SCAN_END)
            break;
        /* Where its segment was scavenged meanwhile, nothing need end at `end` any more. */
        if (!logi_scan_commit(log->segs, pos, atomic_load(&log->end), &c))
            FAIL(err, E_DAMAGED, ERR_FATAL, "%s: damaged at position %" PRIu64, log->dir,
                 scan == SCAN_FRAME ? f.head.pos : pos); /* not where scavenged frames stood */
        TRY(logi_scan_commit_records(log->segs, &c, verify_record, &v, err));
        logi_segs_unpin(&v.pin);
        out->commits++;
        out->frames += c.frames;
        must(c.first >= pos);
        must(c.end > c.first);
        pos = c.end < end ? c.end : end;
        if (fn != NULL && (pos - told >= PROGRESS_BYTES || pos == end)) {
            told = pos;
            TRY(fn(arg, pos - first, end - first));
        }
    }
    out->bytes = end - first;
    out->segments = logi_segs_count(log->segs);
    if (out->index_mismatches > 0)
        FAIL(err, E_DIVERGED, ERR_DATA,
             "%s: the index differs from the log at %" PRIu64 " events: run oxbow log reindex",
             log->dir, out->index_mismatches);
out:
    logi_segs_pin_drop(log->segs, &v.pin);
    return rc;
}

struct wipe {
    struct ox_env *env;
    const char    *path;
};

static int
wipe_file(void *arg, const char *name, struct err *err)
{
    struct wipe *w = arg;
    char         path[PATH_BYTES];

    (void)snprintf(path, sizeof path, "%s/%s", w->path, name);
    return w->env->ops->path_remove(w->env, path, err);
}

static int
pass_over(void *arg, const char *name, struct err *err)
{
    return 0;
}

int
log_reindex(struct ox_env *env, const char *dir, const struct log_conf *conf,
            struct log_report *report, struct err *err)
{
    char            lock[PATH_BYTES], path[PATH_BYTES], segments[PATH_BYTES];
    struct wipe     w = {env, path};
    struct ox_file *file = NULL;
    struct log     *log = NULL;
    int             rc;

    (void)snprintf(lock, sizeof lock, "%s/LOCK", dir);
    (void)snprintf(path, sizeof path, "%s/index", dir);
    (void)snprintf(segments, sizeof segments, "%s/segments", dir);
    /* A folder that is no log stays as it is. */
    rc = env->ops->dir_list(env, segments, pass_over, NULL, err);
    if (rc == E_NOTFOUND)
        FAIL(err, E_NOTFOUND, ERR_FATAL, "%s: no log here", dir);
    TRY(rc);
    TRY(env->ops->file_open(env, lock, ENV_WRITE | ENV_CREATE, &file, err));
    TRY(env->ops->file_lock(env, file, err));
    rc = env->ops->dir_list(env, path, wipe_file, &w, err);
    if (rc != 0 && rc != E_NOTFOUND)
        goto out;
    env->ops->file_close(env, file);
    file = NULL;
    TRY(log_open(env, dir, conf, report, &log, err));
    log_close(log);
out:
    env->ops->file_close(env, file);
    return rc;
}
