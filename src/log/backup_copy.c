/*
 * One segment's file, read apart from the log and believed nothing: what is
 * copied was verified frame by frame, record by record, in the same mapping.
 */
#include <inttypes.h>
#include <stdio.h>
#include <xxhash.h>

#include "base/must.h"
#include "log/backup_int.h"
#include "log/scan.h"

#define STRETCH (UINT64_C(1) << 20)
#define NAP_US_MAX UINT64_C(500000)

void
logi_seg_file_close(struct seg_file *f)
{
    if (f->map != NULL)
        f->env->ops->file_unmap(f->env, f->map, (size_t)f->size);
    if (f->file != NULL)
        f->env->ops->file_close(f->env, f->file);
    f->map = NULL;
    f->file = NULL;
}

static int
check_head(struct seg_file *f, const struct ox_id *log_id, struct err *err)
{
    if (f->size < SEG_HEADER || !fmt_seg_get(f->map, &f->head))
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "%s: the segment's header is damaged", f->path);
    if (f->head.version != FMT_VERSION || f->head.kind > SEG_SCAVENGED)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL,
                   "%s: a segment of version %u and kind %u is not known here: use a newer oxbow",
                   f->path, f->head.version, f->head.kind);
    if (!id_eq(&f->head.log_id, log_id))
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "%s: belongs to another log", f->path);
    if (f->head.kind == SEG_PLAIN)
        return 0;
    if (f->head.table_at < SEG_HEADER || f->head.table_at % 8 != 0 || f->head.table_at > f->size ||
        f->head.table_count > (f->size - f->head.table_at) / SEG_TABLE_ENTRY ||
        f->size - f->head.table_at - f->head.table_count * SEG_TABLE_ENTRY < SEG_TABLE_END)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "%s: the segment's header says what cannot be",
                   f->path);
    return 0;
}

int
logi_seg_file_open(struct ox_env *env, const char *path, const struct ox_id *log_id,
                   struct seg_file *out, struct err *err)
{
    int rc;

    memset(out, 0, sizeof *out);
    out->env = env;
    (void)snprintf(out->path, sizeof out->path, "%s", path);
    TRY(env->ops->file_open(env, path, ENV_READ, &out->file, err));
    TRY(env->ops->file_size(env, out->file, &out->size, err));
    if (out->size < SEG_HEADER)
        FAIL(err, E_DAMAGED, ERR_FATAL, "%s: is too short for a segment", path);
    TRY(env->ops->file_map(env, out->file, (size_t)out->size, &out->map, err));
    TRY(check_head(out, log_id, err));
out:
    if (rc != 0)
        logi_seg_file_close(out);
    return rc;
}

uint64_t
logi_seg_file_bytes(const struct seg_file *f, uint64_t end)
{
    uint64_t span = f->head.span;

    if (f->head.kind != SEG_PLAIN)
        return f->head.table_at + f->head.table_count * SEG_TABLE_ENTRY + SEG_TABLE_END;
    must(end >= f->head.first);
    if (end - f->head.first < span)
        span = end - f->head.first;
    return SEG_HEADER + span;
}

uint64_t
logi_seg_file_mark(const struct seg_file *f, uint64_t bytes)
{
    uint64_t hash = XXH3_64bits(f->map, SEG_HEADER), back = FRAME_HEADER;
    uint32_t length;

    must(bytes <= f->size);
    if (bytes < SEG_HEADER + FRAME_MIN)
        return hash;
    length = f->head.kind == SEG_PLAIN ? fmt_frame_length_before(f->map + bytes) : 0;
    if (length >= FRAME_MIN && length <= bytes - SEG_HEADER)
        back = length;
    return XXH3_64bits_withSeed(f->map + bytes - back, FRAME_HEADER, hash);
}

bool
logi_seg_file_last_time(const struct seg_file *f, uint64_t bytes, int64_t *us)
{
    uint32_t          seed = fmt_seed(&f->head.log_id), length;
    uint64_t          at = f->head.kind == SEG_PLAIN ? bytes : f->head.table_at;
    struct frame_head head;

    must(at <= f->size);
    for (; at >= SEG_HEADER + FRAME_MIN; at -= length) {
        length = fmt_frame_length_before(f->map + at);
        if (length < FRAME_MIN || length > at - SEG_HEADER ||
            !fmt_frame_get(f->map + at - length, seed, &head))
            return false;
        *us = head.time_us;
        if ((head.flags & FRAME_PAD) == 0)
            return true;
    }
    return false;
}

/* verifying */

static int
bad(const struct seg_file *f, uint64_t at, struct err *err)
{
    must(at >= SEG_HEADER);
    if (f->head.kind == SEG_PLAIN)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "%s: damaged at position %" PRIu64, f->path,
                   f->head.first + (at - SEG_HEADER));
    RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
               "%s: damaged at offset %" PRIu64 ", behind position %" PRIu64, f->path, at,
               f->head.first);
}

static bool
records_hold(const struct seg_file *f, const struct frame *frame, uint32_t seed,
             struct copy_counts *counts)
{
    uint32_t      off = FRAME_HEADER, end = frame->head.length - FRAME_TRAILER;
    struct record r;

    must(frame->head.length >= FRAME_MIN);
    for (uint32_t i = 0; i < frame->head.records; i++) {
        if (off >= end || !fmt_record_get(frame->bytes + off, end - off, seed, true, &r))
            return false;
        /* Where some are gone the others keep their positions. */
        if (f->head.kind == SEG_PLAIN && (r.pos != frame->head.pos + off || r.frame_off != off))
            return false;
        counts->events += r.kind == RECORD_EVENT;
        off += r.length;
        must(off <= end);
    }
    return (frame->head.flags & FRAME_PAD) != 0 || off == end;
}

static int
check_frame(const struct seg_file *f, uint64_t *at, uint64_t upto, struct copy_counts *counts,
            struct err *err)
{
    uint32_t     seed = fmt_seed(&f->head.log_id);
    struct frame frame = {.bytes = f->map + *at};

    must(*at < upto);
    must(upto <= f->size);
    if (upto - *at < FRAME_MIN || !fmt_frame_get(frame.bytes, seed, &frame.head) ||
        frame.head.length > upto - *at ||
        fmt_frame_length_before(frame.bytes + frame.head.length) != frame.head.length)
        return bad(f, *at, err);
    if (f->head.kind == SEG_PLAIN ? frame.head.pos != f->head.first + (*at - SEG_HEADER)
                                  : frame.head.pos - f->head.first >= f->head.span)
        return bad(f, *at, err);
    if (!records_hold(f, &frame, seed, counts))
        return bad(f, *at, err);
    counts->commits += (frame.head.flags & FRAME_LAST) != 0;
    *at += frame.head.length;
    return 0;
}

static int
check_table(const struct seg_file *f, uint64_t *at, uint64_t upto, struct err *err)
{
    uint64_t len = f->head.table_count * SEG_TABLE_ENTRY;
    uint32_t seed = fmt_seed(&f->head.log_id);

    must(f->head.kind == SEG_SCAVENGED);
    must(*at >= f->head.table_at);
    must(*at < upto);
    if (upto - *at < len + SEG_TABLE_END ||
        get_u32(f->map + *at + len) != crc32c(seed, f->map + *at, (size_t)len))
        return bad(f, *at, err);
    *at += len + SEG_TABLE_END;
    return 0;
}

int
logi_seg_file_check(const struct seg_file *f, uint64_t *at, uint64_t upto, uint64_t stretch,
                    struct copy_counts *counts, struct err *err)
{
    uint64_t from = *at, frames_end = f->head.kind == SEG_PLAIN ? upto : f->head.table_at;
    int      rc = 0;

    if (upto > f->size)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "%s: has %" PRIu64 " bytes, expected %" PRIu64,
                   f->path, f->size, upto);
    while (rc == 0 && *at < upto && *at - from < stretch) {
        if (*at == 0)
            *at = SEG_HEADER;
        else if (*at < frames_end)
            rc = check_frame(f, at, frames_end, counts, err);
        else
            rc = check_table(f, at, upto, err);
    }
    must(rc != 0 || *at <= f->size);
    return rc;
}

/* pace */

static void
nap(struct ox_env *env, uint64_t us)
{
    struct ox_gate gate;

    gate_init(&gate);
    (void)env->ops->gate_wait(env, &gate, us < NAP_US_MAX ? us : NAP_US_MAX);
}

int
logi_pace(struct pace *p, uint64_t len, uint64_t read)
{
    must(read <= len);
    p->done += len;
    p->paid += read;
    if (p->all < p->done) /* it was a guess */
        p->all = p->done;
    for (;;) {
        uint64_t due, now = p->env->ops->mono_us(p->env) - p->began_us;
        int      rc = p->fn == NULL ? 0 : p->fn(p->arg, p->done, p->all);

        if (rc != 0 || p->rate == 0)
            return rc;
        due = (uint64_t)((double)p->paid * 1e6 / (double)p->rate);
        if (due <= now)
            return 0;
        nap(p->env, due - now);
    }
}

int
logi_copy(const struct seg_file *f, uint64_t from, uint64_t upto, struct ox_file *to, void *sum,
          struct copy_counts *counts, struct pace *pace, struct err *err)
{
    uint64_t at = from, len;
    int      rc = 0;

    for (; from < upto; from = at) {
        TRY(logi_seg_file_check(f, &at, upto, STRETCH, counts, err));
        must(at > from);
        len = at - from;
        if (to != NULL)
            TRY(f->env->ops->file_write(f->env, to, f->map + from, (size_t)len, from, err));
        (void)XXH3_128bits_update(sum, f->map + from, (size_t)len);
        TRY(logi_pace(pace, len, len));
    }
out:
    return rc;
}

struct look {
    const char *const *names;
    bool              *found;
};

static int
look_at(void *arg, const char *name, struct err *err)
{
    struct look *l = arg;

    for (const char *const *n = l->names; *n != NULL; n++)
        if (strcmp(*n, name) == 0)
            return 0;
    *l->found = true;
    return 0;
}

int
logi_dir_has_other(struct ox_env *env, const char *dir, const char *const *names, bool *found,
                   struct err *err)
{
    struct look l = {names, found};

    *found = false;
    return env->ops->dir_list(env, dir, look_at, &l, err);
}
