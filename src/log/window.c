#include "log/window.h"

#include <stdlib.h>

#include "base/must.h"
#include "log/log.h"

#define WINDOW_BYTES (UINT64_C(128) << 10)    /* well within a core's own cache */
#define WINDOW_BYTES_MIN (UINT64_C(32) << 10) /* less is read off the map */
#define WINDOW_BYTES_MAX (LOG_FRAME_MAX)      /* any frame */
#define RECORDS_BYTES (UINT64_C(64) << 10)    /* of records that may stand in runs of a few only */
#define RECORDS_RUN (UINT64_C(8) << 10)       /* gone through before any are read ahead */

/* The positions [from, end) into the window, or what the segment has of them; at least `least`. */
static bool
load(struct window *w, struct segments *segs, uint64_t from, uint64_t end, uint64_t least)
{
    size_t got = 0;

    w->view.first = w->view.end = 0;
    if (end - from < least)
        return false;
    must(end > from);
    must(end - from <= WINDOW_BYTES_MAX);
    if (end - from > w->room) {
        free(w->bytes);
        w->room = 0;
        w->bytes = malloc((size_t)(end - from));
        if (w->bytes == NULL)
            return false;
        w->room = (size_t)(end - from);
    }
    if (!logi_segs_read(segs, from, w->bytes, (size_t)(end - from), &got) || got < least)
        return false;
    must(got <= end - from);
    w->view = (struct seg_view){.first = from, .end = from + got, .bytes = w->bytes};
    return true;
}

bool
logi_window_frame(struct window *w, struct segments *segs, uint64_t pos, uint64_t bound,
                  struct frame *out)
{
    uint32_t seed = logi_segs_seed(segs);

    must(pos <= bound);
    if (pos >= w->view.first && pos < w->view.end &&
        logi_scan_in(&w->view, seed, pos, w->view.end, out) && out->head.length <= bound - pos)
        return true;
    /* Not in it, or only its beginning; and a second look with room for the longest one. */
    for (uint64_t bytes = WINDOW_BYTES; pos < bound; bytes = WINDOW_BYTES_MAX) {
        uint64_t end = bound - pos < bytes ? bound : pos + bytes;

        if (!load(w, segs, pos, end, WINDOW_BYTES_MIN))
            return false;
        if (logi_scan_in(&w->view, seed, pos, w->view.end, out))
            return true;
        if (bytes == WINDOW_BYTES_MAX || w->view.end == bound)
            return false;
    }
    return false;
}

/* The frame that ends at pos, if the window has all of it. */
static bool
before_in(const struct window *w, uint32_t seed, uint64_t pos, struct frame *out)
{
    uint32_t length;

    if (pos > w->view.end || pos < w->view.first || pos - w->view.first < FRAME_MIN)
        return false;
    length = fmt_frame_length_before(w->view.bytes + (pos - w->view.first));
    return length >= FRAME_MIN && length % 8 == 0 && length <= pos - w->view.first &&
           logi_scan_in(&w->view, seed, pos - length, pos, out) && out->head.length == length;
}

bool
logi_window_before(struct window *w, struct segments *segs, uint64_t pos, struct frame *out)
{
    uint32_t        seed = logi_segs_seed(segs);
    struct seg_view seg;

    if (before_in(w, seed, pos, out))
        return true;
    if (pos == 0 || !logi_segs_at(segs, pos - 1, &seg) || seg.sparse)
        return false;
    must(pos <= seg.end);
    for (uint64_t bytes = WINDOW_BYTES;; bytes = WINDOW_BYTES_MAX) {
        uint64_t from = pos - seg.first < bytes ? seg.first : pos - bytes;

        if (!load(w, segs, from, pos, WINDOW_BYTES_MIN) || w->view.end != pos)
            return false;
        if (before_in(w, seed, pos, out))
            return true;
        if (bytes == WINDOW_BYTES_MAX || from == seg.first)
            return false;
    }
}

/* The record in the window, and its frame: a long one is in the map, where its ends are few. */
static bool
record_in(const struct window *w, uint32_t seed, const struct seg_view *seg, uint64_t pos,
          uint64_t bound, struct record *out, struct frame *frame)
{
    uint64_t off;

    if (pos < w->view.first || pos >= w->view.end ||
        !fmt_record_get(w->view.bytes + (pos - w->view.first), w->view.end - pos, seed, true, out))
        return false;
    off = out->frame_off;
    if (out->pos != pos || off % 8 != 0 || off > pos - seg->first)
        return false;
    if (pos - off < w->view.first || !logi_scan_in(&w->view, seed, pos - off, w->view.end, frame))
        if (!logi_scan_in(seg, seed, pos - off, bound, frame))
            return false;
    return off + out->length <= frame->head.length - FRAME_TRAILER;
}

bool
logi_window_record(struct window *w, struct segments *segs, const struct seg_view *seg,
                   uint64_t pos, uint64_t bound, struct record *out, struct frame *frame)
{
    uint32_t seed = logi_segs_seed(segs);
    uint64_t last = w->last;

    must(pos >= seg->first && pos < seg->end && pos < bound);
    must(!seg->sparse); /* so it is the one that was read, if it was: none takes a sparse one's
                           place */
    w->last = pos;
    if (record_in(w, seed, seg, pos, bound, out, frame))
        return true;
    if (pos <= last || pos - last >= RECORDS_BYTES)
        w->run = pos;
    if (pos - w->run < RECORDS_RUN)
        return false;
    if (bound > seg->end)
        bound = seg->end;
    return load(w, segs, pos, bound - pos < RECORDS_BYTES ? bound : pos + RECORDS_BYTES,
                WINDOW_BYTES_MIN) &&
           record_in(w, seed, seg, pos, bound, out, frame);
}

void
logi_window_free(struct window *w)
{
    free(w->bytes);
    *w = (struct window){0};
}
