/*
 * The segments of one log: files that follow each other in positions.
 *
 * Invariants: segment n+1 begins where n ends; behind the one that the log's end
 * is in are only empty ones, one or as many as a commit asked for;
 * a header is durable before the first frame is written behind it. A crash
 * leaves at most one segment without a valid header, the last, and nothing in
 * it (docs/format.md, Recovery).
 *
 * Threads: logi_segs_write and logi_segs_sync belong to whoever runs the journal, one
 * at a time; logi_segs_grow and logi_segs_fill to the log's upkeep task; logi_segs_cut
 * and logi_segs_rewrite to whoever opens; logi_segs_new, _swap and _reclaim to the scavenge
 * task; the rest to anybody.
 */
#ifndef OX_LOG_SEG_H
#define OX_LOG_SEG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/id.h"

struct segments;
struct seg_head;

/* A segment, mapped. */
struct seg_view {
    uint64_t       first, end; /* positions */
    const uint8_t *bytes;      /* of position `first`; sparse: of the first frame that is left */
    /* A scavenged one: frames stand one behind the other, and a table says where. */
    bool           sparse;
    bool           whole; /* the table holds together: it can be relied on */
    const uint8_t *table;
    uint64_t       entries;
    uint64_t       length; /* bytes of the frames */
};

/*
 * Who reads through a view announces it, and a segment that was replaced
 * meanwhile stays mapped until he has gone on. The log's own end is never in such a segment.
 */
struct seg_pin {
    _Atomic uint64_t epoch; /* 0: holds none */
    struct seg_pin  *next, *prev;
};

/*
 * Opens the segments in `dir`, or creates them where `may_create`; else E_DAMAGED
 * where there is none. `segment_bytes` is used where the log is new. `created`: it was made.
 */
int  logi_segs_open(struct ox_env *env, const char *dir, uint64_t segment_bytes, bool read_only,
                    bool may_create, struct segments **out, bool *created, struct err *err);
void logi_segs_close(struct segments *); /* NULL is fine; no sync */

struct ox_env      *logi_segs_env(struct segments *);
const struct ox_id *logi_segs_log_id(struct segments *);
uint32_t            logi_segs_seed(struct segments *); /* of every checksum */
uint64_t            logi_segs_setting(struct segments *);
uint32_t            logi_segs_count(struct segments *);
uint64_t            logi_segs_disk_bytes(struct segments *);
uint64_t            logi_segs_first(struct segments *); /* first position */
uint64_t            logi_segs_end(struct segments *);   /* first position without a segment */

/* The segment that holds the position; false where there is none. */
bool logi_segs_at(struct segments *, uint64_t pos, struct seg_view *out);

/*
 * Copies bytes of a plain segment, from pos to its end at most, with one read of the file. False:
 * no plain segment is there, or the read failed. Under a pin where segments may be replaced.
 */
bool logi_segs_read(struct segments *, uint64_t pos, uint8_t *out, size_t len, size_t *got);

/* One thread at a time has a pin. Set again, what was seen through it before is given up. */
void logi_segs_pin_add(struct segments *, struct seg_pin *);
void logi_segs_pin_drop(struct segments *, struct seg_pin *);
void logi_segs_pin(struct segments *, struct seg_pin *);
void logi_segs_unpin(struct seg_pin *);
/* True: nothing was replaced since the pin was set, so what was seen through it still stands. */
bool logi_segs_pin_is_new(struct segments *, const struct seg_pin *);

/* scavenging: one thread at a time */

/* HEX.seg.new beside the segment that begins at `first`, empty. */
int logi_segs_new(struct segments *, uint64_t first, struct ox_file **out, struct err *err);
/* Removes it again; NULL is fine. */
void logi_segs_new_drop(struct segments *, uint64_t first, struct ox_file **file);
/*
 * Puts the synced file in the place of the segment. Takes it over, whatever it returns. An error
 * leaves one of the two in place, and each has all that may be read.
 */
int      logi_segs_swap(struct segments *, const struct seg_head *head, struct ox_file **file,
                        struct err *err);
bool     logi_segs_any_sparse(struct segments *);
uint32_t logi_segs_generation(struct segments *, uint64_t first); /* 0: plain */
uint64_t logi_segs_bytes_at(struct segments *, uint64_t first);   /* of the segment's file */
/* Gives back what nobody sees any more. Bytes of what somebody still does. */
uint64_t logi_segs_reclaim(struct segments *);

/* Adds an empty segment at the end (durable when it returns 0). */
int logi_segs_grow(struct segments *, struct err *);

/*
 * Makes all from `pos` on empty and durable, and the names too. After an end that
 * was not clean this is done even where only zeros can be read: nobody
 * knows whether the syncs of those that wrote them ever returned.
 */
int logi_segs_cut(struct segments *, uint64_t pos, struct err *);

/* Writes once more what is there, for the same reason; not durable before segs_sync. */
int logi_segs_rewrite(struct segments *, uint64_t from, uint64_t upto, struct err *);

/*
 * Writes zeros over the next 256 KiB of the last segment, where no frame is in
 * it yet, so that a sync into it is quick later; not beyond `share` (0 to 1) of
 * it. *more: there is more to do below that.
 */
int logi_segs_fill(struct segments *, double share, bool *more, struct err *);

/* Writes at the position, over segments' borders where it must. Not durable yet. */
int
logi_segs_write(struct segments *, uint64_t pos, const uint8_t *bytes, uint64_t len, struct err *);

/* Makes what was written since the last call durable. */
int logi_segs_sync(struct segments *, struct err *);

#endif
