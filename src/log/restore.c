/*
 * A log out of a backup. CLEAN is written first: until all segments are there
 * it says that more was durable, so what a crash leaves opens as no log.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "log/backup.h"
#include "log/backup_int.h"
#include "log/log_int.h"

struct restore {
    struct ox_env                 *env;
    const struct log_restore_conf *conf;
    struct log_backup_report      *report;
    struct manifest                m;
    struct copy_counts             counts;
    struct pace                    pace;
    XXH3_state_t                  *sum;
    struct ox_file                *from_lock, *to_lock;
    bool                           began; /* there are files of ours in `to` */
};

static const char *const nothing[] = {NULL};

/* the folders */

/* A backup on a medium that cannot be written has nobody that writes it. */
static int
lock_backup(struct restore *r, struct err *err)
{
    char path[LOGI_BACKUP_PATH];
    int  rc;

    (void)snprintf(path, sizeof path, "%s/LOCK", r->conf->from);
    if (r->env->ops->file_open(r->env, path, ENV_READ, &r->from_lock, NULL) != 0)
        return 0;
    rc = r->env->ops->file_lock(r->env, r->from_lock, err);
    if (rc == E_BUSY)
        FAIL(err, E_BUSY, ERR_RETRY, "%s: a backup or restore is using this folder", r->conf->from);
out:
    return rc;
}

static int
read_manifest(struct restore *r, struct err *err)
{
    int rc;

    if (strlen(r->conf->from) > 4000 || (r->conf->to != NULL && strlen(r->conf->to) > 4000))
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "the folder's path is too long");
    rc = logi_manifest_read(r->env, r->conf->from, &r->m, err);
    if (rc == E_NOTFOUND)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "%s: no backup is there (it would have a MANIFEST)",
                   r->conf->from);
    if (rc == 0)
        rc = lock_backup(r, err);
    return rc;
}

static int
not_empty(const struct restore *r, struct err *err)
{
    RETURN_ERR(err, E_EXISTS, ERR_DATA,
               "%s: is not empty: a log is restored into a folder that is not there, or empty",
               r->conf->to);
}

static int
take_folder(struct restore *r, struct err *err)
{
    static const char *const known[] = {"LOCK", "segments", "index", NULL};
    static const char *const folders[] = {"segments", "index"};
    const struct ox_env_ops *ops = r->env->ops;
    char                     path[LOGI_BACKUP_PATH];
    bool                     other;
    int                      rc;

    must(r->to_lock == NULL);
    must(!r->began); /* what is found there is not ours */
    TRY(ops->dir_make(r->env, r->conf->to, err));
    /* Looked at before anything is written there. */
    TRY(logi_dir_has_other(r->env, r->conf->to, known, &other, err));
    if (other)
        return not_empty(r, err);
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", r->conf->to, folders[i]);
        rc = logi_dir_has_other(r->env, path, nothing, &other, err);
        if (rc == 0 && other)
            return not_empty(r, err);
        if (rc != 0 && rc != E_NOTFOUND)
            goto out;
    }
    (void)snprintf(path, sizeof path, "%s/LOCK", r->conf->to);
    TRY(ops->file_open(r->env, path, ENV_WRITE | ENV_CREATE, &r->to_lock, err));
    rc = ops->file_lock(r->env, r->to_lock, err);
    if (rc == E_BUSY)
        FAIL(err, E_BUSY, ERR_RETRY, "%s: another process has this folder open", r->conf->to);
out:
    return rc;
}

/* one copy */

static int
check_copy(const struct seg_file *f, const struct manifest_seg *s, struct err *err)
{
    if (f->head.first != s->first || f->head.span != s->span || f->head.kind != s->kind ||
        f->head.generation != s->generation)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "%s: is not the segment that the manifest says",
                   f->path);
    if (f->size < s->bytes)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
                   "%s: has %" PRIu64 " bytes, the manifest says %" PRIu64, f->path, f->size,
                   s->bytes);
    return 0;
}

/* Into `to`, or only read where that is NULL. */
static int
copy_verified(struct restore *r, const struct manifest_seg *s, const struct seg_file *f,
              struct ox_file *to, struct err *err)
{
    XXH128_canonical_t canonical;
    int                rc;

    (void)XXH3_128bits_reset(r->sum);
    TRY(logi_copy(f, 0, s->bytes, to, r->sum, &r->counts, &r->pace, err));
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(r->sum));
    if (memcmp(canonical.digest, s->sum, sizeof s->sum) != 0)
        FAIL(err, E_DAMAGED, ERR_FATAL, "%s: the checksum is not the manifest's", f->path);
out:
    return rc;
}

static int
restore_one(struct restore *r, const struct manifest_seg *s, struct err *err)
{
    const struct ox_env_ops *ops = r->env->ops;
    char                     path[LOGI_BACKUP_PATH];
    struct seg_file          f;
    struct ox_file          *to = NULL;
    uint64_t                 size = s->kind == SEG_PLAIN ? SEG_HEADER + s->span : s->bytes;
    int                      rc;

    logi_copy_path(path, r->conf->from, s->first, s->generation, "");
    rc = logi_seg_file_open(r->env, path, &r->m.log_id, &f, err);
    if (rc == E_NOTFOUND)
        FAIL(err, E_DAMAGED, ERR_FATAL, "%s: is in the manifest, but not there", path);
    TRY(rc);
    TRY(check_copy(&f, s, err));
    must(s->bytes <= size);
    if (r->conf->to != NULL) {
        (void)snprintf(path, sizeof path, "%s/segments/%016" PRIx64 ".seg", r->conf->to, s->first);
        TRY(ops->file_open(r->env, path, ENV_WRITE | ENV_CREATE, &to, err));
        TRY(ops->file_resize(r->env, to, size, err));
    }
    TRY(copy_verified(r, s, &f, to, err));
    if (to != NULL)
        TRY(ops->file_sync(r->env, to, err));
    r->report->bytes += s->bytes;
out:
    ops->file_close(r->env, to);
    logi_seg_file_close(&f);
    return rc;
}

/* all of them */

static int
copy_all(struct restore *r, struct err *err)
{
    const struct ox_env_ops *ops = r->env->ops;
    char                     path[LOGI_BACKUP_PATH];
    int                      rc = 0;

    if (r->conf->to != NULL) {
        r->began = true;
        (void)snprintf(path, sizeof path, "%s/segments", r->conf->to);
        TRY(ops->dir_make(r->env, path, err));
        TRY(logi_clean_put(r->env, r->conf->to, &r->m.log_id, r->m.end, r->m.last_time_us, err));
    }
    for (uint32_t i = 0; i < r->m.count; i++)
        r->pace.all += r->m.segs[i].bytes;
    for (uint32_t i = 0; i < r->m.count; i++)
        TRY(restore_one(r, &r->m.segs[i], err));
    must(r->report->bytes == r->pace.all);
    if (r->conf->to != NULL) {
        TRY(ops->dir_sync(r->env, path, err));
        TRY(logi_parent_sync(r->env, r->conf->to, err));
    }
out:
    return rc;
}

/*
 * What was copied before it failed is not left in the way of the next try. CLEAN goes last, as it
 * is what keeps the rest from being taken for a log, and only where the rest is gone for good.
 */
static void
give_up(struct restore *r)
{
    const struct ox_env_ops *ops = r->env->ops;
    char                     path[LOGI_BACKUP_PATH];
    bool                     gone = true;
    int                      rc;

    must(r->began); /* or it would remove what is not ours */
    must(r->conf->to != NULL);
    for (uint32_t i = 0; i < r->m.count; i++) {
        (void)snprintf(path, sizeof path, "%s/segments/%016" PRIx64 ".seg", r->conf->to,
                       r->m.segs[i].first);
        rc = ops->path_remove(r->env, path, NULL);
        gone = gone && (rc == 0 || rc == E_NOTFOUND);
    }
    (void)snprintf(path, sizeof path, "%s/segments", r->conf->to);
    rc = ops->dir_sync(r->env, path, NULL);
    gone = gone && (rc == 0 || rc == E_NOTFOUND);
    (void)snprintf(path, sizeof path, "%s/CLEAN", r->conf->to);
    if (gone)
        (void)ops->path_remove(r->env, path, NULL);
}

static int
open_once(struct restore *r, struct err *err)
{
    struct log_report report;
    struct log_conf   conf = *r->conf->log;
    struct log       *log = NULL;
    int               rc;

    conf.read_only = false;
    TRY(log_open(r->env, r->conf->to, &conf, &report, &log, err));
    if (!report.clean || report.end.v != r->m.end)
        FAIL(err, E_DAMAGED, ERR_FATAL,
             "%s: the restored log ends at position %" PRIu64 ", the backup at %" PRIu64,
             r->conf->to, report.end.v, r->m.end);
out:
    log_close(log);
    return rc;
}

int
log_restore(struct ox_env *env, const struct log_restore_conf *conf, struct log_backup_report *out,
            struct err *err)
{
    struct restore r = {.env = env, .conf = conf, .report = out};
    int            rc;

    memset(out, 0, sizeof *out);
    r.pace = (struct pace){.env = env,
                           .rate = conf->rate,
                           .began_us = env->ops->mono_us(env),
                           .fn = conf->fn,
                           .arg = conf->arg};
    r.sum = XXH3_createState();
    if (r.sum == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(read_manifest(&r, err));
    if (conf->to != NULL)
        TRY(take_folder(&r, err));
    rc = copy_all(&r, err);
    if (rc != 0 && r.began)
        give_up(&r);
    env->ops->file_close(env, r.to_lock);
    r.to_lock = NULL;
    TRY(rc);
    if (conf->to != NULL)
        TRY(open_once(&r, err));
    out->log_id = r.m.log_id;
    out->end = LOG_POS(r.m.end);
    out->time_us = r.m.last_time_us;
    out->segments = out->copied_segments = r.m.count;
    out->copied_bytes = conf->to != NULL ? out->bytes : 0;
    out->commits = r.counts.commits;
    out->events = r.counts.events;
out:
    (void)XXH3_freeState(r.sum);
    logi_manifest_fini(&r.m);
    env->ops->file_close(env, r.from_lock);
    env->ops->file_close(env, r.to_lock);
    return rc;
}
