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
};

/* A commit that is whole. */
struct commit {
    uint64_t first, end; /* positions; end is behind its last frame */
    uint64_t durable;    /* all below it was durable before this commit was written */
    int64_t  time_us;
    uint32_t flags; /* FRAME_QUIET, FRAME_STAGE */
    uint32_t frames, records;
};

/* The frame at pos, wholly below `bound`: header, place and trailer are right. */
bool logi_scan_frame(struct segments *, uint64_t pos, uint64_t bound, struct frame *out);

/* The frame that ends at pos. */
bool logi_scan_frame_before(struct segments *, uint64_t pos, struct frame *out);

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

/*
 * The commit that begins at pos (padding before it is passed over), every
 * record of it verified. False: there is no whole commit below `bound`.
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

/* The first frame at or behind pos that begins a commit; pos may be any number. E_END: none. */
int logi_scan_seek(struct segments *, uint64_t pos, uint64_t bound, uint64_t *out, struct err *err);

/*
 * Puts data and metadata of a continued record together: `payload` gets
 * metadata, then data. E_DAMAGED.
 */
int logi_scan_assemble(struct segments *, const struct record *head, const struct frame *,
                       uint64_t bound, uint8_t *payload, struct err *err);

#endif
