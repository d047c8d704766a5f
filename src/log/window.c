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
load(struct log_window *w, struct segments *segs, uint64_t from, uint64_t end, uint64_t least)
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

static bool
holds(const struct log_window *w, uint64_t pos)
{
    return pos >= w->view.first && pos < w->view.end;
}

bool
logi_window_frame(struct log_window *w, struct segments *segs, uint64_t pos, uint64_t bound,
                  struct frame *out)
{
    uint32_t seed = logi_segs_seed(segs);

    must(pos <= bound);
    if (holds(w, pos) && logi_scan_in(&w->view, seed, pos, w->view.end, out) &&
        out->head.length <= bound - pos)
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
before_in(const struct log_window *w, uint32_t seed, uint64_t pos, struct frame *out)
{
    uint32_t length;

    if (pos > w->view.end || pos < w->view.first || pos - w->view.first < FRAME_MIN)
        return false;
    length = fmt_frame_length_before(w->view.bytes + (pos - w->view.first));
    return length >= FRAME_MIN && length % 8 == 0 && length <= pos - w->view.first &&
           logi_scan_in(&w->view, seed, pos - length, pos, out) && out->head.length == length;
}

bool
logi_window_before(struct log_window *w, struct segments *segs, uint64_t pos, struct frame *out)
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

bool
logi_window_record(struct log_window *w, struct segments *segs, const struct seg_view *seg,
                   uint64_t pos, uint64_t bound, struct record *out, struct frame *frame)
{
    uint32_t seed = logi_segs_seed(segs);
    uint64_t last = w->last;

    must(pos >= seg->first);
    must(pos < seg->end);
    must(pos < bound);
    must(!seg->sparse); /* what is plain now was so when it was read */
    w->last = pos;
    if (holds(w, pos) && logi_scan_record_by(&w->view, seg, seed, pos, bound, true, out, frame))
        return true;
    if (pos <= last || pos - last >= RECORDS_BYTES)
        w->run = pos;
    if (pos - w->run < RECORDS_RUN)
        return false;
    if (bound > seg->end)
        bound = seg->end;
    return load(w, segs, pos, bound - pos < RECORDS_BYTES ? bound : pos + RECORDS_BYTES,
                WINDOW_BYTES_MIN) &&
           logi_scan_record_by(&w->view, seg, seed, pos, bound, true, out, frame);
}

void
logi_window_free(struct log_window *w)
{
    free(w->bytes);
    *w = (struct log_window){0};
}

int
log_window_new(struct log_window **out, struct err *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a window");
    return 0;
}

void
log_window_free(struct log_window *w)
{
    if (w != NULL)
        logi_window_free(w);
    free(w);
}
