/*
 * Reading frames and records off the mapped segments, and believing nothing
 * that a checksum does not cover. The one decoder of the log: readers,
 * recovery, verify and the fuzzer go through here.
 */
#ifndef OX_LOG_SCAN_H
#define OX_LOG_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "log/log_fmt.h"
#include "log/seg.h"

struct frame {
    struct frame_head head;
    const uint8_t    *bytes;
    uint64_t          next;   /* where the next one begins, if it does at once */
    bool              sparse; /* in a scavenged segment: records are missing between others */
};

enum scan {
    SCAN_FRAME, /* there it is */
    SCAN_END,   /* none in these bounds */
    SCAN_BAD,   /* something else stands where one has to be */
};

/* A commit that is whole. */
struct commit {
    uint64_t first, end; /* positions of its first frame here; end is behind its last */
    uint64_t durable;    /* all below it was durable before this commit was written */
    int64_t  time_us;
    uint32_t flags; /* FRAME_QUIET, FRAME_STAGE */
    uint32_t frames, records;
};

/*
 * Does the table of a scavenged segment hold together? Positions and offsets grow,
 * lie in the segment, and its checksum is right.
 */
bool logi_scan_table(const struct seg_view *, uint32_t seed);

/*
 * The first frame at or behind pos that begins below `bound`. Only in scavenged segments
 * it may begin behind pos.
 */
enum scan logi_scan_from(struct segments *, uint64_t pos, uint64_t bound, struct frame *out);

/* The last frame before pos, which ends there or lies in a scavenged segment. */
enum scan logi_scan_back(struct segments *, uint64_t pos, struct frame *out);

/* The frame at pos, wholly below `bound`: header, place and trailer are right. */
bool logi_scan_frame(struct segments *, uint64_t pos, uint64_t bound, struct frame *out);

/*
 * The record at `off` bytes into the frame; `check`: its checksum too. True
 * only where it stands in its place.
 */
bool
logi_scan_record(const struct frame *, uint32_t seed, uint32_t off, bool check, struct record *out);

/* The record that ends at `off` bytes into the frame. */
bool logi_scan_record_before(const struct frame *, uint32_t seed, uint32_t off, bool check,
                             struct record *out);

/* The record at a position, with its frame. */
bool logi_scan_record_at(struct segments *, uint64_t pos, uint64_t bound, bool check,
                         struct record *out, struct frame *frame);

/* … where it is in the segment that is seen. */
bool logi_scan_record_in(const struct seg_view *, uint32_t seed, uint64_t pos, uint64_t bound,
                         bool check, struct record *out, struct frame *frame);

/*
 * … of a plain segment, where it is in the part of it that is seen; its frame may be too long for
 * that, and is then looked at in the whole.
 */
bool logi_scan_record_by(const struct seg_view *part, const struct seg_view *seg, uint32_t seed,
                         uint64_t pos, uint64_t bound, bool check, struct record *out,
                         struct frame *frame);

/* Was the record at pos scavenged? False also where that cannot be known for damage. */
bool logi_scan_gone(struct segments *, uint64_t pos);

/*
 * The commit that begins at pos (padding before it is passed over), every
 * record of it verified. False: there is no whole commit below `bound`. In scavenged
 * segments the next one that has a frame, and it is whole with what is left of it.
 */
bool logi_scan_commit(struct segments *, uint64_t pos, uint64_t bound, struct commit *out);

/* Called for each record of a whole commit, in order. */
typedef int scan_record_fn(void *arg, const struct frame *, const struct record *, struct err *err);
int         logi_scan_commit_records(struct segments *, const struct commit *, scan_record_fn *fn,
                                     void *arg, struct err *err);

/*
 * A frame at or behind `from` that proves that more than `durable` positions
 * were durable; 0: none. `last_byte`: behind the last byte that is not zero.
 */
uint64_t
logi_scan_proof_behind(struct segments *, uint64_t from, uint64_t durable, uint64_t *last_byte);

/* The frame that holds pos, or the first one behind it; pos may be any number. E_END: none. */
int logi_scan_seek(struct segments *, uint64_t pos, uint64_t bound, uint64_t *out, struct err *err);

/*
 * Puts data and metadata of a continued record together: `payload` gets
 * metadata, then data. E_DAMAGED.
 */
int logi_scan_assemble(struct segments *, const struct record *head, const struct frame *,
                       uint64_t bound, uint8_t *payload, struct err *err);

/* The frame at pos in a plain segment's view; nothing from bound on counts. */
bool logi_scan_in(const struct seg_view *, uint32_t seed, uint64_t pos, uint64_t bound,
                  struct frame *out);

#endif
