/*
 * A window: a reader's own copy of a stretch of a plain segment. Who goes through a
 * long stretch from one end to the other reads it in pieces, because touching a map for the
 * first time costs many times what copying the same bytes does. What stands in a window is
 * checked as in a map: window_frame is logi_scan_frame on the copy.
 *
 * One thread's. The frame's bytes are valid until the window's next call. In the window
 * are only positions below the end that was given: what is there never changes.
 */
#ifndef OX_LOG_WINDOW_H
#define OX_LOG_WINDOW_H

#include "log/scan.h"

struct log_window {
    uint8_t        *bytes;
    size_t          room;
    struct seg_view view; /* of `bytes`; first == end: nothing is in it */
    /* window_record: where the one before stood, and where those that follow each other began */
    uint64_t last, run;
};

/*
 * The frame at pos, wholly below `bound`. False: there is none, or it cannot be read this way (a
 * scavenged segment, out of memory, a failed read, a short stretch): then the map has the answer.
 */
bool logi_window_frame(struct log_window *, struct segments *, uint64_t pos, uint64_t bound,
                       struct frame *out);

/* The frame that ends at pos, likewise. */
bool logi_window_before(struct log_window *, struct segments *, uint64_t pos, struct frame *out);

/*
 * The record at pos of the plain segment that a pin holds, with its frame, once a stretch was gone
 * through: who reads a few records here and there has them from the map. False as above.
 */
bool logi_window_record(struct log_window *, struct segments *, const struct seg_view *pinned,
                        uint64_t pos, uint64_t bound, struct record *out, struct frame *);

void logi_window_free(struct log_window *); /* gives the memory back; it may be used again */

#endif
