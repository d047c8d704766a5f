#include "log/scan.h"

#include <inttypes.h>
#include <string.h>

#include "base/must.h"

bool
logi_scan_in(const struct seg_view *view, uint32_t seed, uint64_t pos, uint64_t bound,
             struct frame *out)
{
    uint64_t end = view->end < bound ? view->end : bound;

    must(!view->sparse);
    must(pos >= view->first);
    if (end < pos || end - pos < FRAME_MIN)
        return false;
    out->bytes = view->bytes + (pos - view->first);
    if (!fmt_frame_get(out->bytes, seed, &out->head))
        return false;
    if (out->head.pos != pos || out->head.length > end - pos)
        return false;
    if ((out->head.flags & FRAME_PAD) != 0 && out->head.records != 0)
        return false; /* readers pass over padding, so nothing may stand in it */
    out->next = pos + out->head.length;
    out->sparse = false;
    return fmt_frame_length_before(out->bytes + out->head.length) == out->head.length;
}

/* scavenged segments: entry i of the table, its position and where its frame stands */

static uint64_t
entry_pos(const struct seg_view *view, uint64_t i)
{
    return i == view->entries ? view->end : get_u64(view->table + i * SEG_TABLE_ENTRY);
}

static uint64_t
entry_at(const struct seg_view *view, uint64_t i)
{
    return i == view->entries ? view->length
                              : get_u64(view->table + i * SEG_TABLE_ENTRY + 8) - SEG_HEADER;
}

bool
logi_scan_table(const struct seg_view *view, uint32_t seed)
{
    uint64_t size = view->entries * SEG_TABLE_ENTRY;
    uint64_t pos = view->first, at = SEG_HEADER, end = view->length + SEG_HEADER;

    must(view->sparse);
    if (get_u32(view->table + size) != crc32c(seed, view->table, (size_t)size))
        return false;
    if (view->entries == 0)
        return view->length == 0;
    for (uint64_t i = 0; i < view->entries; i++) {
        const uint8_t *p = view->table + i * SEG_TABLE_ENTRY;

        if (get_u64(p) < pos || get_u64(p) % 8 != 0 || get_u64(p + 8) % 8 != 0)
            return false;
        if (i == 0 ? get_u64(p + 8) != at : get_u64(p + 8) < at)
            return false;
        pos = get_u64(p) + FRAME_MIN;
        at = get_u64(p + 8) + FRAME_MIN;
        if (pos > view->end || at > end)
            return false;
    }
    return true;
}

/* The first entry at or behind pos; `entries` where there is none. */
static uint64_t
entry_from(const struct seg_view *view, uint64_t pos)
{
    uint64_t lo = 0, hi = view->entries;

    must(view->whole);
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;

        if (entry_pos(view, mid) < pos)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool
frame_of_entry(const struct seg_view *view, uint32_t seed, uint64_t i, struct frame *out)
{
    uint64_t pos, at, room;

    must(i < view->entries);
    pos = entry_pos(view, i);
    at = entry_at(view, i);
    room = entry_at(view, i + 1) - at;
    /* As logi_scan_table has found it. */
    must(room >= FRAME_MIN);
    must(at + room <= view->length);
    out->bytes = view->bytes + at;
    out->next = entry_pos(view, i + 1);
    out->sparse = true;
    if (!fmt_frame_get(out->bytes, seed, &out->head))
        return false;
    if (out->head.pos != pos || out->head.length != room || room > out->next - pos)
        return false;
    return fmt_frame_length_before(out->bytes + room) == room;
}

enum scan
logi_scan_from(struct segments *segs, uint64_t pos, uint64_t bound, struct frame *out)
{
    uint32_t        seed = logi_segs_seed(segs);
    struct seg_view view;
    uint64_t        i;

    while (pos < bound) {
        if (pos % 8 != 0 || !logi_segs_at(segs, pos, &view))
            return SCAN_BAD;
        if (!view.sparse)
            return logi_scan_in(&view, seed, pos, bound, out) ? SCAN_FRAME : SCAN_BAD;
        if (!view.whole)
            return SCAN_BAD;
        i = entry_from(&view, pos);
        if (i < view.entries && entry_pos(&view, i) >= bound)
            return SCAN_END;
        if (i < view.entries)
            return frame_of_entry(&view, seed, i, out) && out->head.length <= bound - out->head.pos
                       ? SCAN_FRAME
                       : SCAN_BAD;
        pos = view.end;
    }
    return SCAN_END;
}

enum scan
logi_scan_back(struct segments *segs, uint64_t pos, struct frame *out)
{
    uint32_t        seed = logi_segs_seed(segs), length;
    uint64_t        first = logi_segs_first(segs), i;
    struct seg_view view;

    while (pos > first) {
        if (pos % 8 != 0 || pos - first < 8 || !logi_segs_at(segs, pos - 8, &view))
            return SCAN_BAD;
        if (!view.sparse) {
            length = fmt_frame_length_before(view.bytes + (pos - view.first));
            return length >= FRAME_MIN && length % 8 == 0 && length <= pos - view.first &&
                           logi_scan_in(&view, seed, pos - length, pos, out) &&
                           out->head.length == length
                       ? SCAN_FRAME
                       : SCAN_BAD;
        }
        if (!view.whole)
            return SCAN_BAD;
        i = entry_from(&view, pos);
        if (i > 0)
            return frame_of_entry(&view, seed, i - 1, out) ? SCAN_FRAME : SCAN_BAD;
        pos = view.first;
    }
    return SCAN_END;
}

bool
logi_scan_frame(struct segments *segs, uint64_t pos, uint64_t bound, struct frame *out)
{
    return logi_scan_from(segs, pos, bound, out) == SCAN_FRAME && out->head.pos == pos;
}

bool
logi_scan_record(const struct frame *frame, uint32_t seed, uint32_t off, bool check,
                 struct record *out)
{
    uint32_t end = frame->head.length - FRAME_TRAILER;

    must(frame->head.length >= FRAME_MIN);
    if (off < FRAME_HEADER || off >= end || off % 8 != 0)
        return false;
    if (!fmt_record_get(frame->bytes + off, end - off, seed, check, out))
        return false;
    if (out->frame_off != off)
        return false;
    if (!frame->sparse)
        return out->pos == frame->head.pos + off;
    return out->pos % 8 == 0 && out->pos >= frame->head.pos + off && out->pos < frame->next &&
           out->length + FRAME_TRAILER <= frame->next - out->pos;
}

bool
logi_scan_record_before(const struct frame *frame, uint32_t seed, uint32_t off, bool check,
                        struct record *out)
{
    uint32_t length;

    must(frame->head.length >= FRAME_MIN);
    if (off < FRAME_HEADER + RECORD_MIN || off > frame->head.length - FRAME_TRAILER || off % 8 != 0)
        return false;
    length = get_u32(frame->bytes + off - 4);
    if (length < RECORD_MIN || length > off - FRAME_HEADER)
        return false;
    return logi_scan_record(frame, seed, off - length, check, out) && out->length == length;
}

enum found {
    FOUND,
    FOUND_NONE, /* not there, and that is right */
    FOUND_BAD,
};

/* The record at `pos` in a scavenged segment: its frame is known, its place in it is not. */
static enum found
find_sparse(const struct seg_view *view, uint32_t seed, uint64_t pos, bool check,
            struct record *out, struct frame *frame)
{
    uint32_t off = FRAME_HEADER;
    uint64_t i;

    if (!view->whole)
        return FOUND_BAD;
    i = entry_from(view, pos + 1);
    if (i == 0)
        return FOUND_NONE;
    if (!frame_of_entry(view, seed, i - 1, frame))
        return FOUND_BAD;
    must(frame->head.pos <= pos);
    for (uint32_t n = 0; n < frame->head.records; n++, off += out->length) {
        if (!logi_scan_record(frame, seed, off, false, out))
            return FOUND_BAD;
        if (out->pos > pos)
            break;
        if (out->pos == pos)
            return logi_scan_record(frame, seed, off, check, out) ? FOUND : FOUND_BAD;
    }
    return FOUND_NONE;
}

bool
logi_scan_record_by(const struct seg_view *part, const struct seg_view *seg, uint32_t seed,
                    uint64_t pos, uint64_t bound, bool check, struct record *out,
                    struct frame *frame)
{
    uint64_t end = part->end < bound ? part->end : bound;
    uint32_t off;

    must(!seg->sparse);
    must(pos >= part->first);
    must(pos < end);
    if (!fmt_record_get(part->bytes + (pos - part->first), end - pos, seed, check, out))
        return false;
    off = out->frame_off;
    if (out->pos != pos || off > pos - seg->first || off % 8 != 0)
        return false;
    if ((off > pos - part->first || !logi_scan_in(part, seed, pos - off, bound, frame)) &&
        (part == seg || !logi_scan_in(seg, seed, pos - off, bound, frame)))
        return false;
    return off + out->length <= frame->head.length - FRAME_TRAILER;
}

bool
logi_scan_record_in(const struct seg_view *view, uint32_t seed, uint64_t pos, uint64_t bound,
                    bool check, struct record *out, struct frame *frame)
{
    if (pos % 8 != 0 || pos >= bound)
        return false;
    must(pos >= view->first);
    must(pos < view->end);
    if (view->sparse)
        return find_sparse(view, seed, pos, check, out, frame) == FOUND &&
               out->length + FRAME_TRAILER <= bound - pos;
    return logi_scan_record_by(view, view, seed, pos, bound, check, out, frame);
}

bool
logi_scan_record_at(struct segments *segs, uint64_t pos, uint64_t bound, bool check,
                    struct record *out, struct frame *frame)
{
    struct seg_view view;

    return pos < bound && logi_segs_at(segs, pos, &view) &&
           logi_scan_record_in(&view, logi_segs_seed(segs), pos, bound, check, out, frame);
}

bool
logi_scan_gone(struct segments *segs, uint64_t pos)
{
    struct seg_view view;
    struct record   r;
    struct frame    f;

    return pos % 8 == 0 && logi_segs_at(segs, pos, &view) && view.sparse &&
           find_sparse(&view, logi_segs_seed(segs), pos, true, &r, &f) == FOUND_NONE;
}

/* All records of the frame are right, in order, and fill it. */
static bool
frame_whole(const struct frame *frame, uint32_t seed)
{
    uint64_t      least = frame->head.pos;
    uint32_t      off = FRAME_HEADER;
    struct record r;

    for (uint32_t i = 0; i < frame->head.records; i++) {
        if (!logi_scan_record(frame, seed, off, true, &r) || r.pos < least)
            return false;
        off += r.length;
        least = r.pos + r.length;
    }
    return off == frame->head.length - FRAME_TRAILER;
}

/* May frames of its commit be missing right before it? */
static bool
after_gap(struct segments *segs, const struct frame *f)
{
    struct seg_view view;

    if (f->sparse)
        return true;
    return f->head.pos > logi_segs_first(segs) && logi_segs_at(segs, f->head.pos - 8, &view) &&
           view.sparse;
}

/* Does the frame belong where it stands in its commit? `number`: of the frame before. */
static bool
frame_fits(struct segments *segs, const struct frame *f, const struct commit *c, uint32_t number)
{
    bool first = (f->head.flags & FRAME_FIRST) != 0;

    if (first != (f->head.number == 0) || first != (f->head.commit == f->head.pos) ||
        f->head.commit > f->head.pos)
        return false;
    if (c->frames == 0)
        return first || after_gap(segs, f);
    return f->head.number == number + 1 || (f->head.number > number && after_gap(segs, f));
}

static void
begin_commit(struct commit *c, const struct frame *f)
{
    c->first = f->head.pos;
    c->durable = f->head.durable;
    c->time_us = f->head.time_us;
    c->flags = f->head.flags & (FRAME_QUIET | FRAME_STAGE);
}

/* Is what follows at pos, below the bound, nothing but what a scavenge has left out? */
static bool
before_gap(struct segments *segs, uint64_t pos, uint64_t bound, bool sparse)
{
    struct seg_view view;

    return sparse || (pos < bound && logi_segs_at(segs, pos, &view) && view.sparse);
}

bool
logi_scan_commit(struct segments *segs, uint64_t pos, uint64_t bound, struct commit *out)
{
    uint64_t     commit = 0;
    uint32_t     number = 0;
    struct frame f = {.sparse = false};
    enum scan    scan;

    memset(out, 0, sizeof *out);
    for (;; pos = f.next) {
        bool was_sparse = f.sparse;

        scan = logi_scan_from(segs, pos, bound, &f);
        /* What followed of it is gone: no commit that is not whole reaches a scavenged segment. */
        if (scan == SCAN_END && out->frames > 0 && before_gap(segs, pos, bound, was_sparse))
            break;
        if (scan != SCAN_FRAME || f.next > bound) /* a sealed one says itself where it ended */
            return false;
        if ((f.head.flags & FRAME_PAD) != 0)
            continue;
        if (out->frames > 0 && f.head.commit != commit) {
            if (!was_sparse && !after_gap(segs, &f))
                return false;
            break;
        }
        if (out->frames == 0) {
            commit = f.head.commit;
            begin_commit(out, &f);
        }
        if (!frame_fits(segs, &f, out, number) || !frame_whole(&f, logi_segs_seed(segs)))
            return false;
        number = f.head.number;
        out->frames++;
        out->records += f.head.records;
        out->end = f.next;
        if ((f.head.flags & FRAME_LAST) != 0)
            break;
    }
    must(out->frames > 0);
    must(out->first < out->end);
    must(out->end <= bound);
    return true;
}

int
logi_scan_commit_records(struct segments *segs, const struct commit *commit, scan_record_fn *fn,
                         void *arg, struct err *err)
{
    uint64_t      pos = commit->first;
    struct frame  f;
    struct record r;
    enum scan     scan;
    int           rc = 0;

    must(commit->first < commit->end);
    while ((scan = logi_scan_from(segs, pos, commit->end, &f)) != SCAN_END) {
        uint32_t off = FRAME_HEADER;

        if (scan != SCAN_FRAME)
            FAIL(err, E_DAMAGED, ERR_FATAL, "damaged frame at position %" PRIu64, pos);
        must(f.next > pos);
        for (uint32_t i = 0; i < f.head.records; i++) {
            if (!logi_scan_record(&f, logi_segs_seed(segs), off, false, &r))
                FAIL(err, E_DAMAGED, ERR_FATAL, "damaged record at position %" PRIu64,
                     f.head.pos + off);
            TRY(fn(arg, &f, &r, err));
            off += r.length;
        }
        pos = f.next;
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
        must(view.end > pos);
        if (view.sparse) { /* it would not be, were not all of it durable */
            *last_byte = view.end;
            if (proof == 0 && view.end > durable)
                proof = pos;
            pos = view.end;
            continue;
        }
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
    must(*last_byte >= from);
    return proof;
}

/* From the frame at or behind `pos` on, the first one at or behind `want`, or that holds it. */
static int
walk_to(struct segments *segs, uint64_t pos, uint64_t want, uint64_t bound, uint64_t *out,
        struct err *err)
{
    struct frame f;
    enum scan    scan;

    while ((scan = logi_scan_from(segs, pos, bound, &f)) != SCAN_END) {
        if (scan != SCAN_FRAME)
            RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
                       "damaged frame at position %" PRIu64 ": run oxbow log verify", pos);
        if (want < f.next && (f.head.flags & FRAME_PAD) == 0) {
            *out = f.head.pos; /* the caller passes over what lies before in it */
            return 0;
        }
        must(f.next > pos);
        pos = f.next;
    }
    return E_END;
}

/* Where to walk from to come to a position in a scavenged segment. */
static uint64_t
sparse_start(const struct seg_view *view, uint64_t pos)
{
    uint64_t i = view->whole ? entry_from(view, pos + 1) : 0;

    return i == 0 ? view->first : entry_pos(view, i - 1);
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
    must(logi_segs_at(segs, pos, &view));
    if (view.sparse)
        return walk_to(segs, sparse_start(&view, pos), pos, bound, out, err);
    /* The usual cases: a frame's own position, or that of a record or just behind its first byte.
     */
    if (logi_scan_frame(segs, pos, bound, &f))
        return walk_to(segs, pos, pos, bound, out, err);
    if (logi_scan_record_at(segs, pos, bound, true, &r, &f) ||
        (pos > view.first && logi_scan_record_at(segs, pos - 1, bound, true, &r, &f))) {
        *out = f.head.pos;
        return 0;
    }
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

    must(names <= head->body_len);
    /* A fragment that is continued is full to its last byte: there is no padding in it. */
    have = head->body_len - names;
    if (have > want)
        have = want;
    memcpy(payload, head->body + names, (size_t)have);
    while (have < want) {
        uint64_t  pos = f.next, part;
        enum scan scan;

        while ((scan = logi_scan_from(segs, pos, bound, &f)) == SCAN_FRAME &&
               (f.head.flags & FRAME_PAD) != 0)
            pos = f.next;
        if (scan != SCAN_FRAME ||
            !logi_scan_record(&f, logi_segs_seed(segs), FRAME_HEADER, true, &r) ||
            r.kind != RECORD_CONT || r.stream_id != head->stream_id || r.version != head->version)
            RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
                       "the event at position %" PRIu64 " is not continued at %" PRIu64, head->pos,
                       pos);
        part = r.body_len < want - have ? r.body_len : want - have;
        memcpy(payload + have, r.body, (size_t)part);
        have += part;
    }
    must(have == want);
    return 0;
}
