/* The scan of $all: frame by frame, in both directions, every record verified. */
#include "log/iter_int.h"

static bool
frame_wanted(const struct log_iter *it)
{
    if ((it->frame.head.flags & FRAME_PAD) != 0)
        return false;
    /* $streams has links of the log's own, whoever began the stream. */
    return it->read.filter.quiet || it->kind == ITER_FIRSTS ||
           (it->frame.head.flags & FRAME_QUIET) == 0;
}

static bool
is_offered(const struct log_iter *it, const struct record *r)
{
    if (r->kind != RECORD_EVENT && (r->kind != RECORD_STUB || !it->read.skip_moved))
        return false;
    return it->kind != ITER_FIRSTS || r->version == 0;
}

/* Frame after frame of one segment is found without asking for the segment again. */
static enum scan
next_frame(struct log_iter *it, uint64_t end, uint32_t seed)
{
    struct segments *segs = it->log->segs;

    if (it->pos >= end)
        return SCAN_END;
    if (!it->seg_held || !logi_segs_pin_is_new(segs, &it->pin) || it->pos < it->seg.first ||
        it->pos >= it->seg.end) {
        logi_segs_pin(segs, &it->pin);
        it->seg_held = logi_segs_at(segs, it->pos, &it->seg);
    }
    if (it->seg_held && !it->seg.sparse)
        return logi_window_frame(&it->window, segs, it->pos, end, &it->frame) ||
                       logi_scan_in(&it->seg, seed, it->pos, end, &it->frame)
                   ? SCAN_FRAME
                   : SCAN_BAD;
    it->seg_held = false;
    return logi_scan_from(segs, it->pos, end, &it->frame);
}

/* The same record is the next one again. */
static int
stay(struct log_iter *it, uint64_t pos)
{
    must(pos > it->frame.head.pos);
    must(pos < it->frame.next);
    it->read.from = it->passed = pos;
    it->pos = it->frame.head.pos;
    it->in_frame = false;
    return E_END;
}

int
logi_all_forward(struct log_iter *it, struct log_event *out, struct err *err)
{
    uint64_t      end = atomic_load(&it->log->end);
    uint32_t      seed = logi_segs_seed(it->log->segs);
    struct record r;
    enum scan     scan;
    bool          given;
    int           rc;

    for (;;) {
        if (!it->in_frame) {
            scan = next_frame(it, end, seed);
            if (scan == SCAN_END)
                return E_END;
            if (scan == SCAN_BAD)
                return logi_iter_damaged(it, it->pos, err);
            must(it->frame.next > it->pos);
            must(it->frame.head.pos >= it->pos); /* further where frames were scavenged */
            it->in_frame = true;
            it->off = FRAME_HEADER;
            it->left = frame_wanted(it) ? it->frame.head.records : 0;
        }
        for (; it->left > 0;) {
            if (!logi_scan_record(&it->frame, seed, it->off, true, &r))
                return logi_iter_damaged(it, it->frame.head.pos + it->off, err);
            if (it->read.at.v != 0 && r.pos > it->read.at.v) {
                it->over = true;
                return E_END;
            }
            it->off += r.length;
            it->left--;
            must(it->off < it->frame.head.length);
            if (r.pos < it->read.from || !is_offered(it, &r))
                continue;
            rc = logi_iter_offer(it, &r, &it->frame, out, &given, err);
            if (it->held)
                return stay(it, r.pos);
            it->passed = r.pos + 1;
            if (rc != 0 || given)
                return rc;
        }
        must(it->frame.next <= end || it->frame.sparse);
        it->pos = it->frame.next;
        if (it->pos > it->passed && it->pos > it->read.from)
            it->passed = it->pos;
        it->in_frame = false;
        if (logi_iter_tired(it, it->frame.head.length))
            return E_MORE;
    }
}

int
logi_all_backward(struct log_iter *it, struct log_event *out, struct err *err)
{
    uint32_t      seed = logi_segs_seed(it->log->segs);
    struct record r;
    enum scan     scan;
    bool          given;
    int           rc;

    for (;;) {
        if (!it->in_frame) {
            logi_segs_pin(it->log->segs, &it->pin);
            it->seg_held = false;
            scan = it->pos <= it->floor ? SCAN_END
                                        : logi_scan_back(it->log->segs, it->pos, &it->frame);
            if (scan == SCAN_END) {
                it->over = true;
                it->passed = 0;
                return E_END;
            }
            if (scan == SCAN_BAD)
                return logi_iter_damaged(it, it->pos, err);
            must(it->frame.head.pos < it->pos);
            it->in_frame = true;
            it->off = it->frame.head.length - FRAME_TRAILER;
            it->left = frame_wanted(it) ? it->frame.head.records : 0;
        }
        for (; it->left > 0;) {
            if (!logi_scan_record_before(&it->frame, seed, it->off, true, &r))
                return logi_iter_damaged(it, it->frame.head.pos + it->off, err);
            it->off -= r.length;
            it->left--;
            must(it->off >= FRAME_HEADER);
            if (r.pos > it->read.from || r.pos < it->floor || !is_offered(it, &r))
                continue;
            it->passed = r.pos - 1;
            rc = logi_iter_offer(it, &r, &it->frame, out, &given, err);
            if (rc != 0 || given)
                return rc;
        }
        it->pos = it->frame.head.pos;
        it->in_frame = false;
        if (logi_iter_tired(it, it->frame.head.length))
            return E_MORE;
    }
}

int
logi_all_open(struct log_iter *it, struct err *err)
{
    uint64_t     end = atomic_load(&it->log->end);
    struct frame f;
    int          rc;

    must(!it->in_frame);
    it->floor = logi_segs_first(it->log->segs);
    must(it->floor <= end);
    if (it->read.backwards) {
        if (it->read.floor.v > it->floor)
            it->floor = it->read.floor.v;
        if (it->read.at.v != 0 && it->read.at.v < it->read.from)
            it->read.from = it->read.at.v;
        rc = logi_scan_seek(it->log->segs, it->read.from, end, &it->pos, err);
        if (rc == E_END) {
            it->pos = end;
            return 0;
        }
        if (rc == 0 && !logi_scan_frame(it->log->segs, it->pos, end, &f))
            return logi_iter_damaged(it, it->pos, err);
        if (rc == 0)
            it->pos = f.next;
        return rc;
    }
    it->passed = it->read.from;
    rc = logi_scan_seek(it->log->segs, it->read.from, end, &it->pos, err);
    if (rc == E_END) {
        it->pos = end;
        rc = 0;
    }
    return rc;
}
