/*
 * The commit point: what makes a group of commits durable. `local` writes the
 * group into the log's own segments and is done when fdatasync returns; a
 * later `jetstream` publishes the group's frames to a replicated stream first.
 *
 * No code above this seam may assume that a commit was local.
 */
#ifndef OX_LOG_JOURNAL_H
#define OX_LOG_JOURNAL_H

#include <stdint.h>

#include "base/err.h"
#include "base/pos.h"
#include "base/slice.h"

struct ox_journal;
struct segments;

enum journal_verdict {
    JOURNAL_DURABLE = 1, /* the group is and stays part of the log */
    JOURNAL_REFUSED,     /* it is not, and never will be: the log goes on without it */
    JOURNAL_UNSURE,      /* nobody knows: what was prepared on it is undone, the log stops */
};

/* Frames one after the other, padding included; a frame never spans segments. */
struct journal_group {
    struct log_pos first; /* where the bytes go */
    struct log_pos end;   /* first position after the group */
    struct slice   bytes; /* the frames: all from first to end */
    uint32_t       frames;
};

struct ox_journal_ops {
    const char *name;
    int (*open)(struct segments *, struct ox_journal **out, struct err *err);
    void (*close)(struct ox_journal *); /* NULL is fine */
    /* Blocks until it is decided. Groups come in order, one at a time. */
    enum journal_verdict (*commit)(struct ox_journal *, const struct journal_group *,
                                   struct err *err);
};

/* Durable when this machine's disk says so. */
extern const struct ox_journal_ops log_journal_local;

#endif
