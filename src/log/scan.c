#include "log/scan.h"

#include <inttypes.h>
#include <string.h>

#include "base/must.h"

/* The frame at `pos` in its segment, of which nothing from `bound` on counts. */
static bool
frame_in(const struct seg_view *view, uint32_t seed, uint64_t pos, uint64_t bound,
         struct frame *out)
{
    uint64_t end = view->end < bound ? view->end : bound;

    if (end < pos || end - pos < FRAME_MIN)
        return false;
    out->bytes = view->bytes + (pos - view->first);
    if (!fmt_frame_get(out->bytes, seed, &out->head))
        return false;
    if (out->head.pos != pos || out->head.length > end - pos)
        return false;
    if ((out->head.flags & FRAME_PAD) != 0 && out->head.records != 0)
        return false; /* readers pass over padding, so nothing may stand in it */
    return fmt_frame_length_before(out->bytes + out->head.length) == out->head.length;
}

bool
logi_scan_frame(struct segments *segs, uint64_t pos, uint64_t bound, struct frame *out)
{
    struct seg_view view;

    if (pos % 8 != 0 || !logi_segs_at(segs, pos, &view))
        return false;
    return frame_in(&view, logi_segs_seed(segs), pos, bound, out);
}

bool
logi_scan_frame_before(struct segments *segs, uint64_t pos, struct frame *out)
{
    struct seg_view view;
    uint32_t        length;

    if (pos % 8 != 0 || pos < FRAME_MIN || !logi_segs_at(segs, pos - 8, &view))
        return false;
    length = fmt_frame_length_before(view.bytes + (pos - view.first));
    if (length < FRAME_MIN || length % 8 != 0 || length > pos - view.first)
        return false;
    return frame_in(&view, logi_segs_seed(segs), pos - length, pos, out) &&
           out->head.length == length;
}

bool
logi_scan_record(const struct frame *frame, uint32_t seed, uint32_t off, bool check,
                 struct record *out)
{
    uint32_t end = frame->head.length - FRAME_TRAILER;

    if (off < FRAME_HEADER || off >= end || off % 8 != 0)
        return false;
    if (!fmt_record_get(frame->bytes + off, end - off, seed, check, out))
        return false;
    return out->pos == frame->head.pos + off && out->frame_off == off;
}

bool
logi_scan_record_before(const struct frame *frame, uint32_t seed, uint32_t off, bool check,
                        struct record *out)
{
    uint32_t length;

    if (off < FRAME_HEADER + RECORD_MIN || off > frame->head.length - FRAME_TRAILER || off % 8 != 0)
        return false;
    length = get_u32(frame->bytes + off - 4);
    if (length < RECORD_MIN || length > off - FRAME_HEADER)
        return false;
    return logi_scan_record(frame, seed, off - length, check, out) && out->length == length;
}

bool
logi_scan_record_at(struct segments *segs, uint64_t pos, uint64_t bound, bool check,
                    struct record *out, struct frame *frame)
{
    struct seg_view view;
    uint64_t        room;
    uint32_t        off;

    if (pos % 8 != 0 || pos >= bound || !logi_segs_at(segs, pos, &view))
        return false;
    room = (view.end < bound ? view.end : bound) - pos;
    if (!fmt_record_get(view.bytes + (pos - view.first), room, logi_segs_seed(segs), check, out))
        return false;
    off = out->frame_off;
    if (out->pos != pos || off > pos - view.first || off % 8 != 0 ||
        !frame_in(&view, logi_segs_seed(segs), pos - off, bound, frame))
        return false;
    return off + out->length <= frame->head.length - FRAME_TRAILER;
}

/* All records of the frame are right and fill it. */
static bool
frame_whole(const struct frame *frame, uint32_t seed)
{
    uint32_t      off = FRAME_HEADER;
    struct record r;

    for (uint32_t i = 0; i < frame->head.records; i++) {
        if (!logi_scan_record(frame, seed, off, true, &r))
            return false;
        off += r.length;
    }
    return off == frame->head.length - FRAME_TRAILER;
}

bool
logi_scan_commit(struct segments *segs, uint64_t pos, uint64_t bound, struct commit *out)
{
    uint32_t     seed = logi_segs_seed(segs);
    struct frame f;

    memset(out, 0, sizeof *out);
    for (;;) {
        if (!logi_scan_frame(segs, pos, bound, &f))
            return false;
        pos += f.head.length;
        if ((f.head.flags & FRAME_PAD) != 0)
            continue;
        if (out->frames == 0) {
            out->first = f.head.pos;
            out->durable = f.head.durable;
            out->time_us = f.head.time_us;
            out->flags = f.head.flags & (FRAME_QUIET | FRAME_STAGE);
        }
        if (f.head.commit != out->first || f.head.number != out->frames ||
            ((f.head.flags & FRAME_FIRST) != 0) != (out->frames == 0) || !frame_whole(&f, seed))
            return false;
        out->frames++;
        out->records += f.head.records;
        if ((f.head.flags & FRAME_LAST) != 0)
            break;
    }
    out->end = pos;
    return true;
}

int
logi_scan_commit_records(struct segments *segs, const struct commit *commit, scan_record_fn *fn,
                         void *arg, struct err *err)
{
    uint64_t      pos = commit->first;
    struct frame  f;
    struct record r;
    int           rc = 0;

    while (pos < commit->end) {
        uint32_t off = FRAME_HEADER;

        if (!logi_scan_frame(segs, pos, commit->end, &f))
            FAIL(err, E_DAMAGED, ERR_FATAL, "damaged frame at position %" PRIu64, pos);
        for (uint32_t i = 0; i < f.head.records; i++) {
            if (!logi_scan_record(&f, logi_segs_seed(segs), off, false, &r))
                FAIL(err, E_DAMAGED, ERR_FATAL, "damaged record at position %" PRIu64, pos + off);
            TRY(fn(arg, &f, &r, err));
            off += r.length;
        }
        pos += f.head.length;
    }
out:
    return rc;
}

uint64_t
logi_scan_proof_behind(struct segments *segs, uint64_t from, uint64_t durable, uint64_t *last_byte)
{
    struct seg_view   view;
    struct frame_head head;
    uint64_t          pos = align8(from), proof = 0;

    *last_byte = from;
    while (logi_segs_at(segs, pos, &view)) {
        for (; pos < view.end; pos += 8) {
            const uint8_t *p = view.bytes + (pos - view.first);

            if (get_u64(p) == 0)
                continue;
            *last_byte = pos + 8;
            if (proof == 0 && view.end - pos >= FRAME_MIN &&
                fmt_frame_get(p, logi_segs_seed(segs), &head) && head.pos == pos &&
                head.durable > durable)
                proof = pos;
        }
    }
    return proof;
}

/* From the frame at `pos` on, the first that begins a commit at or behind `want`. */
static int
walk_to(struct segments *segs, uint64_t pos, uint64_t want, uint64_t bound, uint64_t *out,
        struct err *err)
{
    struct frame f;

    while (pos < bound) {
        if (!logi_scan_frame(segs, pos, bound, &f))
            RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
                       "damaged frame at position %" PRIu64 ": run oxbow log verify", pos);
        if (pos >= want && (f.head.flags & FRAME_PAD) == 0) {
            *out = pos;
            return 0;
        }
        if (pos < want && want < pos + f.head.length && (f.head.flags & FRAME_PAD) == 0) {
            *out = pos; /* the frame that holds it: the caller passes over what lies before */
            return 0;
        }
        pos += f.head.length;
    }
    return E_END;
}

int
logi_scan_seek(struct segments *segs, uint64_t pos, uint64_t bound, uint64_t *out, struct err *err)
{
    struct seg_view view;
    struct frame    f;
    struct record   r;

    if (pos < logi_segs_first(segs))
        pos = logi_segs_first(segs);
    if (pos >= bound)
        return E_END;
    /* The usual cases: a frame's own position, or that of a record or just behind its first byte.
     */
    if (logi_scan_frame(segs, pos, bound, &f))
        return walk_to(segs, pos, pos, bound, out, err);
    if (logi_scan_record_at(segs, pos, bound, true, &r, &f) ||
        (pos > logi_segs_first(segs) && logi_scan_record_at(segs, pos - 1, bound, true, &r, &f))) {
        *out = f.head.pos;
        return 0;
    }
    must(logi_segs_at(segs, pos, &view));
    return walk_to(segs, view.first, pos, bound, out, err);
}

int
logi_scan_assemble(struct segments *segs, const struct record *head, const struct frame *frame,
                   uint64_t bound, uint8_t *payload, struct err *err)
{
    uint64_t      want = (uint64_t)head->meta_len + head->data_len, have;
    uint32_t      names = (uint32_t)head->name_len + head->type_len;
    struct frame  f = *frame;
    struct record r;

    /* A fragment that is continued is full to its last byte: there is no padding in it. */
    have = head->body_len - names;
    if (have > want)
        have = want;
    memcpy(payload, head->body + names, (size_t)have);
    while (have < want) {
        uint64_t pos = f.head.pos + f.head.length, part;
        bool     whole;

        while ((whole = logi_scan_frame(segs, pos, bound, &f)) && (f.head.flags & FRAME_PAD) != 0)
            pos += f.head.length;
        if (!whole || !logi_scan_record(&f, logi_segs_seed(segs), FRAME_HEADER, true, &r) ||
            r.kind != RECORD_CONT || r.stream_id != head->stream_id || r.version != head->version)
            RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
                       "the event at position %" PRIu64 " is not continued at %" PRIu64, head->pos,
                       pos);
        part = r.body_len < want - have ? r.body_len : want - have;
        memcpy(payload + have, r.body, (size_t)part);
        have += part;
    }
    return 0;
}
