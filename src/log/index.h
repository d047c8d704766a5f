/*
 * The index: where the events of a stream are. Derived from the log, written
 * lazily in large transactions, each with the position that it covers; thrown
 * away and made again whenever it is in doubt. LMDB on the machine, a map in
 * the simulator.
 *
 * One thread applies; any thread reads. A read sees whole transactions only.
 */
#ifndef OX_LOG_INDEX_H
#define OX_LOG_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/pos.h"
#include "base/slice.h"

struct ox_index;

/* What is known of one stream. */
struct index_head {
    uint64_t       next; /* version that the next event gets = number of events ever */
    struct log_pos last; /* of the last event; 0: none yet */
    /* Its state (docs/format.md): all zero where none was ever written. */
    uint64_t truncate; /* events below this version are not readable */
    uint64_t max_count;
    int64_t  max_age_us;
    uint32_t flags; /* enum index_flags */
    uint64_t moved; /* INDEX_MOVED: 1 + the version that says where to; 0: not known */
};

/* Shared with the STATE record (docs/format.md). */
enum index_flags {
    INDEX_DELETED = 1,   /* soft: recreate goes on numbering */
    INDEX_TOMBSTONE = 2, /* for good */
    INDEX_MOVED = 4,     /* closed by a move; where to is in the last event */
    INDEX_STAGED = 8,    /* being filled by a staged move: hidden */
    INDEX_CLOSED = 16,   /* takes no more writes (links only) */
    INDEX_ROUTED = 32,   /* moved; what is appended is copied on */
    INDEX_FED = 64,      /* copies come from a routed stream, which gets links */
};

/* Does its state hide or forbid anything? */
static inline bool
index_restricted(const struct index_head *h)
{
    return h->truncate != 0 || h->max_count != 0 || h->max_age_us != 0 || h->flags != 0;
}

/* One stream's part of a transaction; entries are of dense versions from head.next - count. */
struct index_update {
    uint64_t          id;
    struct slice      name;      /* of a stream that is new in this transaction; else empty */
    struct index_head head;      /* after this transaction */
    bool              has_state; /* false: the state stays what the index has */
    const uint64_t   *positions;
    uint32_t          count; /* may be 0: only the head changes */
    uint64_t          first; /* where events of before a hole are left out: the first one; else 0 */
};

/* One event for the lists by category and type; in growing order of pos. */
struct index_event {
    uint64_t     pos;
    struct slice category, type; /* empty: not listed */
};

struct index_batch {
    struct log_pos             covers;       /* everything below is in the index now */
    uint64_t                   stream_count; /* ids below this are given out */
    const struct index_update *updates;      /* in growing order of id, each id once */
    uint32_t                   update_count;
    const struct index_event  *events;
    uint32_t                   event_count;
};

typedef int index_stream_fn(void *arg, struct slice name, uint64_t id,
                            const struct index_head *head, struct err *err);

struct ox_index_ops {
    const char *name;

    /*
     * `dir` is the index's own folder (made if missing); `log_id` 16 bytes: an
     * index of another log, or of another version, is emptied. A damaged one is
     * E_DAMAGED (the log then makes it again).
     */
    int (*open)(struct ox_env *env, const char *dir, const uint8_t *log_id, bool read_only,
                struct ox_index **out, struct err *err);
    void (*close)(struct ox_index *); /* NULL is fine */

    /* Throws everything away; covers() is 0 then. */
    int (*reset)(struct ox_index *, struct err *err);

    /* One transaction: all of the batch or nothing; covers may not go back. */
    int (*apply)(struct ox_index *, const struct index_batch *, struct err *err);

    /* Makes what was applied survive a crash of the machine. */
    int (*sync)(struct ox_index *, struct err *err);

    struct log_pos (*covers)(struct ox_index *);
    uint64_t (*stream_count)(struct ox_index *);

    /* E_NOTFOUND. */
    int (*find)(struct ox_index *, struct slice name, uint64_t *id, struct index_head *head,
                struct err *err);
    int (*head)(struct ox_index *, uint64_t id, struct index_head *head, struct err *err);
    /* Ids of restricted streams from `from` on, in growing order, at most max. */
    int (*restricted)(struct ox_index *, uint64_t from, uint64_t *ids, uint32_t max,
                      uint32_t *count, struct err *err);
    /* Writes the name (at most 255 bytes) and its length. */
    int (*name_of)(struct ox_index *, uint64_t id, char out[256], size_t *len, struct err *err);

    /*
     * Positions of versions from, from + 1, … (backwards: from, from - 1, …),
     * as many as there are, at most max; *count 0 where there are none.
     */
    int (*positions)(struct ox_index *, uint64_t id, uint64_t from, bool backwards,
                     uint64_t *positions, uint32_t max, uint32_t *count, struct err *err);

    /* Streams in byte order of their names, with the prefix and after `after` (empty: from the
     * first). */
    int (*streams)(struct ox_index *, struct slice prefix, struct slice after, index_stream_fn *fn,
                   void *arg, struct err *err);

    /*
     * Positions of a category's (type's) events, from the first >= from
     * (backwards: from the last <= from), at most max.
     */
    int (*category)(struct ox_index *, struct slice name, uint64_t from, bool backwards,
                    uint64_t *positions, uint32_t max, uint32_t *count, struct err *err);
    int (*type)(struct ox_index *, struct slice name, uint64_t from, bool backwards,
                uint64_t *positions, uint32_t max, uint32_t *count, struct err *err);

    /* The same for the events of version 0 of any stream, with the streams' ids. */
    int (*firsts)(struct ox_index *, uint64_t from, bool backwards, uint64_t *positions,
                  uint64_t *ids, uint32_t max, uint32_t *count, struct err *err);
};

/* The index on the machine (src/log/index_lmdb.c). */
extern const struct ox_index_ops log_index_lmdb;

#endif
