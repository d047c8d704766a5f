/*
 * A segment's new file: header, the frames with what stays in them, the offset
 * table. What is kept is verified as it is read, so no damage gets a new
 * checksum. A crash leaves a HEX.seg.new, which the next opening removes.
 */
#include <inttypes.h>

#include "log/scav_int.h"

#define TABLE_PIECE 65536u

static bool
is_dropped(const struct scav_look *look, uint64_t n)
{
    must(n / 8 < look->drop_room);
    return (look->drop[n / 8] & 1u << (n % 8)) != 0;
}

static int
no_room(struct scavenge *s, uint64_t bytes, struct err *err)
{
    RETURN_ERR(err, E_NOSPC, ERR_RETRY,
               "%s: the disk has no room for a segment's new file of %" PRIu64
               " bytes beside the old one: free as much for a while, or move something away",
               s->log->dir, bytes);
}

int
logi_scav_copy_begin(struct scavenge *s, struct err *err)
{
    struct log       *log = s->log;
    struct scav_look *look = &s->look;
    struct scav_copy *c = &s->copy;
    uint64_t          bytes = logi_scav_new_bytes(look);
    int               rc;

    must(c->file == NULL);
    must(look->at.pos == look->end); /* all of it was looked at */
    must(look->end <= atomic_load(&log->end));
    must(look->end <= atomic_load(&log->indexed));
    must(look->kept_bytes % 8 == 0);
    must(bytes < look->old_bytes);
    buf_clear(&c->frames);
    buf_clear(&c->table);
    c->at = (struct scav_place){look->first, 0};
    c->frames_at = SEG_HEADER;
    c->table_at = SEG_HEADER + look->kept_bytes;
    c->entries = 0;
    c->stub = 0;
    c->table_crc = logi_segs_seed(log->segs);
    c->head = (struct seg_head){.version = FMT_VERSION,
                                .kind = SEG_SCAVENGED,
                                .log_id = *logi_segs_log_id(log->segs),
                                .first = look->first,
                                .span = look->end - look->first,
                                .segment_bytes = logi_segs_setting(log->segs),
                                .created_us = log->env->ops->wall_us(log->env),
                                .generation = logi_segs_generation(log->segs, look->first) + 1,
                                .table_at = c->table_at,
                                .table_count = look->kept_frames};
    atomic_store(&s->reserved, bytes);
    rc = logi_segs_new(log->segs, look->first, &c->file, err);
    if (rc == 0) {
        /* All of it now: it does not fail half way, nor take what the log needs. */
        rc = log->env->ops->file_resize(log->env, c->file, bytes, err);
        if (rc != 0)
            logi_segs_new_drop(log->segs, look->first, &c->file);
    }
    return rc == E_NOSPC ? no_room(s, bytes, err) : rc;
}

/* In its place, where record `n` leaves a stub: its length; 0: it leaves none. */
static uint32_t
put_stub(struct scavenge *s, uint64_t n, const struct record *of, uint32_t frame_off, uint8_t *to)
{
    struct scav_copy       *c = &s->copy;
    const struct scav_stub *stub = (const struct scav_stub *)(const void *)s->look.stubs.data;
    struct record           r = *of;

    if (c->stub == s->look.stubs.len / sizeof *stub)
        return 0;
    must(stub[c->stub].record >= n); /* none was passed over */
    if (stub[c->stub].record != n)
        return 0;
    r.kind = RECORD_STUB;
    r.flags &= RECORD_NEW_STREAM;
    r.length = logi_scav_stub_bytes(of);
    r.meta_len = 0;
    r.data_len = sizeof stub->to;
    r.frame_off = frame_off;
    must(r.length <= of->length); /* the room that the record has */
    memset(to, 0, r.length);
    fmt_record_put(to, &r);
    memcpy(to + RECORD_HEADER, of->body, (size_t)of->name_len + of->type_len);
    put_u64(to + RECORD_HEADER + of->name_len + of->type_len, stub[c->stub].to);
    fmt_record_seal(to, r.length, logi_segs_seed(s->log->segs));
    c->stub++;
    return r.length;
}

/* Adds the frame's kept records. */
static int
copy_frame(struct scavenge *s, const struct frame *f, struct err *err)
{
    struct scav_copy *c = &s->copy;
    uint32_t          seed = logi_segs_seed(s->log->segs), off = FRAME_HEADER;
    uint64_t          n = c->at.record;
    size_t            begun = c->frames.len;
    struct frame_head head = f->head;
    struct record     r;
    int               rc = 0;

    if (!buf_reserve(&c->frames, f->head.length) || !buf_reserve(&c->table, SEG_TABLE_ENTRY))
        FAIL(err, E_NOMEM, ERR_RETRY, "scavenge: out of memory");
    c->frames.len += FRAME_HEADER;
    head.records = 0;
    for (uint32_t i = 0; i < f->head.records; i++, off += r.length, n++) {
        uint8_t *to = c->frames.data + c->frames.len;
        bool     drop = is_dropped(&s->look, n);

        if (!logi_scan_record(f, seed, off, !drop, &r))
            FAIL(err, E_DAMAGED, ERR_FATAL, "damaged at position %" PRIu64, f->head.pos + off);
        if (drop) {
            uint32_t stub = put_stub(s, n, &r, (uint32_t)(c->frames.len - begun), to);

            c->frames.len += stub;
            head.records += stub > 0;
            continue;
        }
        memcpy(to, f->bytes + off, r.length);
        if (r.frame_off != c->frames.len - begun) { /* otherwise its checksum is right as it is */
            r.frame_off = (uint32_t)(c->frames.len - begun);
            fmt_record_put(to, &r);
            fmt_record_seal(to, r.length, seed);
        }
        c->frames.len += r.length;
        head.records++;
    }
    c->at.record = n;
    if (head.records == 0) {
        c->frames.len = begun;
        goto out;
    }
    c->frames.len += FRAME_TRAILER;
    head.length = (uint32_t)(c->frames.len - begun);
    must(head.length <= f->head.length);
    must(head.records <= f->head.records);
    must(c->entries < c->head.table_count);
    fmt_frame_put(c->frames.data + begun, &head, seed);
    put_u64(c->table.data + c->table.len, head.pos);
    put_u64(c->table.data + c->table.len + 8, c->frames_at + begun);
    c->table.len += SEG_TABLE_ENTRY;
    c->entries++;
out:
    return rc;
}

static int
write_frames(struct scavenge *s, struct err *err)
{
    const struct ox_env_ops *ops = s->log->env->ops;
    struct scav_copy        *c = &s->copy;
    int                      rc = 0;

    if (c->frames.len == 0)
        return 0;
    must(c->frames_at + c->frames.len <= c->head.table_at); /* not into the table */
    TRY(ops->file_write(s->log->env, c->file, c->frames.data, c->frames.len, c->frames_at, err));
    TRY(ops->file_start(s->log->env, c->file, c->frames_at, c->frames.len, err));
    c->frames_at += c->frames.len;
    buf_clear(&c->frames);
out:
    return rc;
}

static int
write_table(struct scavenge *s, struct err *err)
{
    struct scav_copy *c = &s->copy;
    int               rc = 0;

    if (c->table.len == 0)
        return 0;
    must(c->table.len % SEG_TABLE_ENTRY == 0);
    must(c->table_at >= c->head.table_at);
    c->table_crc = crc32c(c->table_crc, c->table.data, c->table.len);
    TRY(s->log->env->ops->file_write(s->log->env, c->file, c->table.data, c->table.len, c->table_at,
                                     err));
    c->table_at += c->table.len;
    buf_clear(&c->table);
out:
    return rc;
}

/* The table's end and the header. */
static int
finish(struct scavenge *s, struct err *err)
{
    const struct ox_env_ops *ops = s->log->env->ops;
    struct scav_copy        *c = &s->copy;
    uint8_t                  bytes[SEG_HEADER];
    int                      rc;

    TRY(write_table(s, err));
    /* The same answers as in the look, or something is very wrong. */
    must(c->entries == s->look.kept_frames);
    must(c->stub == s->look.stubs.len / sizeof(struct scav_stub));
    must(c->frames_at == c->head.table_at);
    must(c->table_at == c->head.table_at + c->entries * SEG_TABLE_ENTRY);
    must(c->at.record == s->look.at.record);
    put_u32(bytes, c->table_crc);
    put_u32(bytes + 4, 0);
    TRY(ops->file_write(s->log->env, c->file, bytes, SEG_TABLE_END, c->table_at, err));
    fmt_seg_put(bytes, &c->head);
    TRY(ops->file_write(s->log->env, c->file, bytes, sizeof bytes, 0, err));
out:
    return rc;
}

int
logi_scav_copy_on(struct scavenge *s, bool *done, struct err *err)
{
    struct scav_copy *c = &s->copy;
    uint64_t          begun = c->at.pos;
    struct frame      f;
    enum scan         scan = SCAN_FRAME;
    int               rc = 0;

    *done = false;
    logi_segs_pin(s->log->segs, &s->pin);
    while (c->at.pos - begun < LOGI_SCAV_PIECE) {
        scan = logi_scan_from(s->log->segs, c->at.pos, s->look.end, &f);
        if (scan == SCAN_END)
            break;
        if (scan == SCAN_BAD)
            FAIL(err, E_DAMAGED, ERR_FATAL, "damaged at position %" PRIu64, c->at.pos);
        must(f.next > c->at.pos);
        must(f.next <= s->look.end);
        TRY(copy_frame(s, &f, err));
        c->at.pos = f.next;
    }
    s->moved = c->at.pos - begun + c->frames.len;
    TRY(write_frames(s, err));
    if (c->table.len >= TABLE_PIECE)
        TRY(write_table(s, err));
    if (scan == SCAN_END) {
        TRY(finish(s, err));
        *done = true;
    }
out:
    logi_segs_unpin(&s->pin);
    return rc;
}

int
logi_scav_copy_swap(struct scavenge *s, struct err *err)
{
    struct scav_copy *c = &s->copy;
    int               rc;

    must(c->entries == c->head.table_count);
    TRY(s->log->env->ops->file_sync(s->log->env, c->file, err));
    TRY(logi_segs_swap(s->log->segs, &c->head, &c->file, err));
out:
    return rc;
}

void
logi_scav_copy_end(struct scavenge *s)
{
    logi_segs_new_drop(s->log->segs, s->look.first, &s->copy.file);
    atomic_store(&s->reserved, 0);
    buf_fini(&s->copy.frames);
    buf_fini(&s->copy.table);
}
