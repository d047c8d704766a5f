/*
 * What the three databases share: a batch of rows, and the rows that are taken.
 *
 * Where a table has no order of its own to go on from, a checkpoint names the
 * rows of its batch: {"taken":[id…]}. They are marked or deleted when that is
 * durable, and by the next start before anything is read, so that a crash in
 * between doubles nothing.
 */
#ifndef OX_SOURCE_OUTBOX_OUTBOX_INT_H
#define OX_SOURCE_OUTBOX_OUTBOX_INT_H

#include "source/outbox.h"
#include "source/source.h"

enum outboxi_after {
    OUTBOXI_MARK,
    OUTBOXI_DELETE,
    OUTBOXI_KEEP,
    OUTBOXI_DROP,
};

struct outboxi_span {
    size_t at, len;
};

struct outboxi_row {
    struct outboxi_span id, row, position; /* id: raw JSON */
};

struct outboxi_batch {
    struct buf          bytes, checkpoint;
    struct outboxi_row *rows;
    struct change      *changes;
    uint32_t            count, room;
    uint32_t            limit; /* rows to ask for: few of them where they are large */
};

void outboxi_batch_fini(struct outboxi_batch *b);
/* Empties it, with room for max rows; *limit: how many to ask for now. */
int outboxi_batch_begin(struct outboxi_batch *b, uint32_t max, uint32_t *limit, struct err *err);
/* Rows are written member by member between these two; `id` is raw JSON within bytes. */
void                outboxi_row_begin(struct outboxi_batch *b);
void                outboxi_member(struct outboxi_batch *b, struct slice name);
void                outboxi_row_end(struct outboxi_batch *b);
void                outboxi_hex(struct buf *out, struct slice bytes);    /* "68656c…" */
struct outboxi_span outboxi_value(struct outboxi_batch *b, size_t from); /* since */
/* {"taken":[…]} of the rows. */
void outboxi_checkpoint_taken(struct outboxi_batch *b);
/* Fills the changes in; slices live until the next begin. */
int outboxi_batch_end(struct outboxi_batch *b, const char *table, struct source_batch *out,
                      struct err *err);

/* Each id of a checkpoint's "taken": its text, or its bytes where it is {"$blob":hex}. */
typedef int outboxi_id_fn(void *arg, struct slice id, bool hex, struct err *err);
int outboxi_each_taken(struct slice checkpoint, outboxi_id_fn *fn, void *arg, uint32_t *count,
                       struct err *err);

/* A source's settled and unsettled rows, and whether it leads. */
struct outboxi_state {
    struct buf due; /* a durable checkpoint whose rows are to be settled; empty: none */
    bool       leads;
    uint64_t   rows, held_since_us;
};

/* The rows of a durable checkpoint are to be settled from here on. */
int outboxi_owe(struct outboxi_state *s, struct slice checkpoint, struct err *err);
/* {"connected","role","rows","held_ms"}, for people. */
int outboxi_status(const struct outboxi_state *s, struct ox_env *env, bool connected,
                   struct buf *out, struct err *err);

#endif
