/*
 * Backing up while the log runs. The end is taken once; below it nothing
 * changes any more but by a scavenge, which replaces whole files.
 *
 * What a crash leaves: copies that no manifest names, which the next backup
 * writes over or removes; and behind the bytes that the manifest names of the
 * last copy, bytes that do not count.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "log/backup.h"
#include "log/backup_int.h"
#include "log/log_int.h"

struct backup {
    struct log                   *log;
    struct ox_env                *env;
    const struct log_backup_conf *conf;
    struct log_backup_report     *report;
    uint64_t                      end;
    int64_t                       last_time_us;
    struct manifest               old, now;
    struct copy_counts            counts;
    struct pace                   pace;
    XXH3_state_t                 *sum;
    struct ox_file               *lock;
};

static void
take_sum(const XXH3_state_t *state, uint8_t out[LOGI_SUM_BYTES])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    memcpy(out, canonical.digest, LOGI_SUM_BYTES);
}

/* the folder */

static int
open_folder(struct backup *b, struct err *err)
{
    static const char *const known[] = {"LOCK", "MANIFEST", "MANIFEST.new", "files", NULL};
    const struct ox_env_ops *ops = b->env->ops;
    char                     path[LOGI_BACKUP_PATH];
    bool                     other;
    int                      rc;

    if (strlen(b->conf->dir) > 4000)
        FAIL(err, E_INVALID, ERR_FATAL, "the backup folder's path is too long");
    TRY(ops->dir_make(b->env, b->conf->dir, err));
    TRY(logi_dir_has_other(b->env, b->conf->dir, known, &other, err));
    if (other)
        FAIL(err, E_STATE, ERR_FATAL,
             "%s: holds something that is no backup: name an empty folder, or one that is not "
             "there",
             b->conf->dir);
    (void)snprintf(path, sizeof path, "%s/LOCK", b->conf->dir);
    TRY(ops->file_open(b->env, path, ENV_WRITE | ENV_CREATE, &b->lock, err));
    rc = ops->file_lock(b->env, b->lock, err);
    if (rc == E_BUSY)
        FAIL(err, E_BUSY, ERR_RETRY, "%s: another backup or restore is using this folder",
             b->conf->dir);
    TRY(rc);
    (void)snprintf(path, sizeof path, "%s/files", b->conf->dir);
    TRY(ops->dir_make(b->env, path, err));
    rc = logi_manifest_read(b->env, b->conf->dir, &b->old, err);
    if (rc == E_NOTFOUND)
        rc = 0;
out:
    return rc;
}

static int
check_history(struct backup *b, struct err *err)
{
    if (b->old.count == 0)
        return 0;
    if (!id_eq(&b->old.log_id, logi_segs_log_id(b->log->segs)))
        RETURN_ERR(err, E_STATE, ERR_FATAL,
                   "%s: is a backup of another log: name another folder for this one",
                   b->conf->dir);
    if (b->old.end > b->end)
        RETURN_ERR(err, E_STATE, ERR_FATAL,
                   "%s: has this log up to position %" PRIu64 ", but it ends at %" PRIu64
                   ": it was set back; name another folder, or restore that backup",
                   b->conf->dir, b->old.end, b->end);
    return 0;
}

/* one segment */

static int
other_history(struct backup *b, const struct seg_file *f, struct err *err)
{
    RETURN_ERR(err, E_STATE, ERR_FATAL,
               "%s: has another history of this log from the segment at position %" PRIu64
               " on: it was set back and went on otherwise; name another folder",
               b->conf->dir, f->head.first);
}

/*
 * Does the copy hold what the manifest says? Its bytes go into the sum. *good false: it has to
 * be made anew.
 */
static int
read_copy(struct backup *b, const char *path, const struct manifest_seg *s, bool *good,
          struct err *err)
{
    struct seg_file copy;
    uint8_t         sum[LOGI_SUM_BYTES];
    int             rc;

    *good = false;
    rc = logi_seg_file_open(b->env, path, &b->old.log_id, &copy, err);
    if (rc == E_NOTFOUND || rc == E_DAMAGED || rc == E_FORMAT)
        return 0;
    if (rc != 0)
        return rc;
    if (copy.size >= s->bytes) {
        (void)XXH3_128bits_update(b->sum, copy.map, (size_t)s->bytes);
        take_sum(b->sum, sum);
        *good = memcmp(sum, s->sum, sizeof sum) == 0;
    }
    logi_seg_file_close(&copy);
    return rc;
}

/* A copy of this size is there. Its bytes are looked at by a restore, and by --verify-only. */
static bool
copy_is_there(struct backup *b, const char *path, uint64_t bytes)
{
    struct ox_file *file = NULL;
    uint64_t        size = 0;
    bool            there;

    there = b->env->ops->file_open(b->env, path, ENV_READ, &file, NULL) == 0 &&
            b->env->ops->file_size(b->env, file, &size, NULL) == 0 && size >= bytes;
    b->env->ops->file_close(b->env, file);
    return there;
}

/* What is behind the bytes that the manifest names, into the same file. */
static int
grow_copy(struct backup *b, const struct seg_file *f, const char *path, uint64_t from,
          uint64_t bytes, struct err *err)
{
    struct ox_file *file = NULL;
    int             rc;

    must(from >= SEG_HEADER); /* what the manifest names is not written again */
    must(from < bytes);
    must(bytes <= f->size);
    TRY(b->env->ops->file_open(b->env, path, ENV_WRITE, &file, err));
    TRY(b->env->ops->file_resize(b->env, file, bytes, err));
    TRY(logi_copy(f, from, bytes, file, b->sum, &b->counts, &b->pace, err));
    TRY(b->env->ops->file_sync(b->env, file, err));
    b->report->copied_bytes += bytes - from;
out:
    b->env->ops->file_close(b->env, file);
    return rc;
}

static int
new_copy(struct backup *b, const struct seg_file *f, const char *path, uint64_t bytes,
         struct err *err)
{
    char            new_path[LOGI_BACKUP_PATH];
    struct ox_file *file = NULL;
    int             rc;

    must(bytes >= SEG_HEADER);
    must(bytes <= f->size);
    logi_copy_path(new_path, b->conf->dir, f->head.first, f->head.generation, ".new");
    TRY(b->env->ops->file_open(b->env, new_path, ENV_WRITE | ENV_CREATE, &file, err));
    TRY(b->env->ops->file_resize(b->env, file, 0, err));
    TRY(b->env->ops->file_resize(b->env, file, bytes, err));
    TRY(logi_copy(f, 0, bytes, file, b->sum, &b->counts, &b->pace, err));
    TRY(b->env->ops->file_sync(b->env, file, err));
    TRY(b->env->ops->path_rename(b->env, new_path, path, err));
    b->report->copied_bytes += bytes;
out:
    b->env->ops->file_close(b->env, file);
    if (rc != 0)
        (void)b->env->ops->path_remove(b->env, new_path, NULL);
    return rc;
}

/* `s` is filled but for the sum. */
static int
copy_segment(struct backup *b, const struct seg_file *f, struct manifest_seg *s, struct err *err)
{
    const struct manifest_seg *old = logi_manifest_find(&b->old, f->head.first);
    char                       path[LOGI_BACKUP_PATH];
    bool                       good = false;
    int                        rc = 0;

    must(s->first == f->head.first);
    must(s->generation == f->head.generation);
    must(s->bytes <= f->size);
    logi_copy_path(path, b->conf->dir, s->first, s->generation, "");
    (void)XXH3_128bits_reset(b->sum);
    if (old != NULL && old->generation > s->generation)
        return other_history(b, f, err);
    if (old != NULL && old->generation == s->generation) {
        if (old->bytes > s->bytes || old->mark != logi_seg_file_mark(f, old->bytes))
            return other_history(b, f, err);
        if (old->bytes == s->bytes && copy_is_there(b, path, s->bytes)) {
            memcpy(s->sum, old->sum, sizeof s->sum);
            return logi_pace(&b->pace, s->bytes, 0);
        }
        if (old->bytes < s->bytes)
            TRY(read_copy(b, path, old, &good, err));
    }
    if (good) {
        b->pace.done += old->bytes;
        TRY(grow_copy(b, f, path, old->bytes, s->bytes, err));
    } else {
        (void)XXH3_128bits_reset(b->sum);
        TRY(new_copy(b, f, path, s->bytes, err));
    }
    b->report->copied_segments++;
    take_sum(b->sum, s->sum);
out:
    return rc;
}

static int
backup_segment(struct backup *b, uint64_t first, struct err *err)
{
    struct manifest_seg s = {.first = first};
    struct seg_file     f;
    char                path[LOGI_BACKUP_PATH];
    int                 rc;

    must(first < b->end || b->now.count == 0);
    (void)snprintf(path, sizeof path, "%s/segments/%016" PRIx64 ".seg", b->log->dir, first);
    TRY(logi_seg_file_open(b->env, path, logi_segs_log_id(b->log->segs), &f, err));
    if (f.head.first != first)
        FAIL(err, E_DAMAGED, ERR_FATAL, "%s: the header says another position", path);
    s.span = f.head.span;
    s.kind = f.head.kind;
    s.generation = f.head.generation;
    s.bytes = logi_seg_file_bytes(&f, b->end);
    if (s.bytes > f.size)
        FAIL(err, E_DAMAGED, ERR_FATAL, "%s: has %" PRIu64 " bytes, expected %" PRIu64, path,
             f.size, s.bytes);
    TRY(copy_segment(b, &f, &s, err));
    s.mark = logi_seg_file_mark(&f, s.bytes);
    (void)logi_seg_file_last_time(&f, s.bytes, &b->last_time_us);
    b->report->bytes += s.bytes;
    TRY(logi_manifest_add(&b->now, &s, err));
out:
    logi_seg_file_close(&f);
    return rc;
}

/* all of them */

static void
estimate(struct backup *b)
{
    struct seg_view view;

    for (uint64_t pos = logi_segs_first(b->log->segs);
         pos < b->end && logi_segs_at(b->log->segs, pos, &view); pos = view.end)
        b->pace.all += SEG_HEADER + (view.end < b->end ? view.end : b->end) - view.first;
}

static int
copy_all(struct backup *b, struct err *err)
{
    struct seg_view view;
    uint64_t        pos = logi_segs_first(b->log->segs);
    char            path[LOGI_BACKUP_PATH];
    int             rc = 0;

    /* The first one also where nothing is in it yet: it has the log's id. */
    do {
        must(logi_segs_at(b->log->segs, pos, &view));
        must(view.first == pos); /* segments follow each other without a gap */
        TRY(backup_segment(b, view.first, err));
        pos = view.end;
    } while (pos < b->end);
    (void)snprintf(path, sizeof path, "%s/files", b->conf->dir);
    TRY(b->env->ops->dir_sync(b->env, path, err));
out:
    return rc;
}

/* Copies that the manifest does not name any more; only names that are ours. */
static int
sweep_one(void *arg, const char *name, struct err *err)
{
    struct backup             *b = arg;
    const struct manifest_seg *s;
    char                       path[LOGI_BACKUP_PATH];
    uint64_t                   first;
    uint32_t                   generation;
    int                        used = 0;

    /* 16 hex digits and 9 others cannot overflow. NOLINTNEXTLINE(cert-err34-c) */
    if (sscanf(name, "%16" SCNx64 "-%9" SCNu32 ".seg%n", &first, &generation, &used) != 2 ||
        used == 0)
        return 0;
    s = logi_manifest_find(&b->now, first);
    if (strcmp(name + used, ".new") != 0 &&
        (name[used] != '\0' || (s != NULL && s->generation == generation)))
        return 0;
    (void)snprintf(path, sizeof path, "%s/files/%s", b->conf->dir, name);
    (void)b->env->ops->path_remove(b->env, path, NULL);
    return 0;
}

static int
finish(struct backup *b, struct err *err)
{
    char path[LOGI_BACKUP_PATH];
    int  rc;

    must(b->now.count > 0);
    must(b->old.count == 0 || b->old.end <= b->end); /* never less than before */
    b->now.log_id = *logi_segs_log_id(b->log->segs);
    b->now.segment_bytes = logi_segs_setting(b->log->segs);
    b->now.end = b->end;
    b->now.last_time_us = b->last_time_us;
    b->now.made_us = b->env->ops->wall_us(b->env);
    TRY(logi_parent_sync(b->env, b->conf->dir, err));
    TRY(logi_manifest_write(b->env, b->conf->dir, &b->now, err));
    /* The backup is whole; what cannot be removed now is left to the next one. */
    (void)snprintf(path, sizeof path, "%s/files", b->conf->dir);
    (void)b->env->ops->dir_list(b->env, path, sweep_one, b, NULL);
    b->report->log_id = b->now.log_id;
    b->report->end = LOG_POS(b->end);
    b->report->time_us = b->now.last_time_us;
    b->report->segments = b->now.count;
    b->report->commits = b->counts.commits;
    b->report->events = b->counts.events;
out:
    return rc;
}

int
log_backup(struct log *log, const struct log_backup_conf *conf, struct log_backup_report *out,
           struct err *err)
{
    struct backup b = {.log = log, .env = log->env, .conf = conf, .report = out};
    int           rc;

    must(log->magic == LOGI_MAGIC);
    memset(out, 0, sizeof *out);
    b.end = atomic_load(&log->end);
    b.pace = (struct pace){.env = log->env,
                           .rate = conf->rate,
                           .began_us = log->env->ops->mono_us(log->env),
                           .fn = conf->fn,
                           .arg = conf->arg};
    b.sum = XXH3_createState();
    if (b.sum == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(open_folder(&b, err));
    TRY(check_history(&b, err));
    estimate(&b);
    TRY(copy_all(&b, err));
    TRY(finish(&b, err));
    must(out->copied_segments <= out->segments);
    must(out->copied_bytes <= out->bytes);
out:
    (void)XXH3_freeState(b.sum);
    logi_manifest_fini(&b.old);
    logi_manifest_fini(&b.now);
    b.env->ops->file_close(b.env, b.lock);
    return rc;
}
