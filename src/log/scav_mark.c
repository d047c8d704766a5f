/*
 * How far a scavenge has come, in the file SCAVENGE beside the segments
 * (docs/format.md), so that the run after one that was cut short goes on there.
 *
 * It is a hint: never synced, and not believed where anything about it is odd.
 * A crash at any point leaves the run after it a little more to look at.
 */
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "log/scav_int.h"

#define MARK_BYTES 48u
#define MARK_MAGIC "OXSCAVEN"
#define PATH_BYTES 4200

static void
mark_path(const struct log *log, char out[PATH_BYTES])
{
    (void)snprintf(out, PATH_BYTES, "%s/SCAVENGE", log->dir);
}

void
logi_scav_mark(struct scavenge *s)
{
    struct log              *log = s->log;
    const struct ox_env_ops *ops = log->env->ops;
    uint8_t                  bytes[MARK_BYTES] = {0};
    char                     path[PATH_BYTES];
    struct ox_file          *file = NULL;

    if (s->conf.dry_run)
        return;
    must(s->pos > logi_segs_first(log->segs));
    must(s->pos <= s->until);
    must(s->conf.min_share > 0);
    must(s->conf.min_share <= 100);
    memcpy(bytes, MARK_MAGIC, 8);
    put_u32(bytes + 12, s->conf.min_share);
    memcpy(bytes + 16, logi_segs_log_id(log->segs)->b, 16);
    put_u64(bytes + 32, s->pos);
    put_u64(bytes + 40, (uint64_t)s->conf.min_age_us);
    put_u32(bytes + 8, crc32c(0, bytes + 12, MARK_BYTES - 12));
    mark_path(log, path);
    if (ops->file_open(log->env, path, ENV_WRITE | ENV_CREATE, &file, NULL) == 0)
        (void)ops->file_write(log->env, file, bytes, sizeof bytes, 0, NULL);
    ops->file_close(log->env, file);
}

void
logi_scav_unmark(struct scavenge *s)
{
    char path[PATH_BYTES];

    if (s->conf.dry_run)
        return;
    mark_path(s->log, path);
    (void)s->log->env->ops->path_remove(s->log->env, path, NULL);
}

uint64_t
logi_scav_marked(struct log *log, const struct log_scavenge_conf *conf)
{
    const struct ox_env_ops *ops = log->env->ops;
    uint8_t                  bytes[MARK_BYTES];
    char                     path[PATH_BYTES];
    struct ox_file          *file = NULL;
    struct seg_view          view;
    uint64_t                 pos = 0;
    size_t                   got = 0;

    must(conf->min_share > 0); /* the default is in its place: it is compared */
    mark_path(log, path);
    if (conf->dry_run || ops->file_open(log->env, path, ENV_READ, &file, NULL) != 0)
        return 0;
    if (ops->file_read(log->env, file, bytes, sizeof bytes, 0, &got, NULL) == 0 &&
        got == sizeof bytes && memcmp(bytes, MARK_MAGIC, 8) == 0 &&
        get_u32(bytes + 8) == crc32c(0, bytes + 12, MARK_BYTES - 12) &&
        memcmp(bytes + 16, logi_segs_log_id(log->segs)->b, 16) == 0)
        pos = get_u64(bytes + 32);
    ops->file_close(log->env, file);
    /* Another run may find work where that one found none. */
    if (pos == 0 || conf->min_share < get_u32(bytes + 12) ||
        conf->min_age_us < (int64_t)get_u64(bytes + 40))
        return 0;
    return logi_segs_at(log->segs, pos, &view) && view.first == pos ? pos : 0;
}
