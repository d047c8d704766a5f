/*
 * What is in the log and not in the index yet: two generations of entries in
 * memory, one that grows and one that the indexer is writing.
 *
 * The log's task adds an entry when it encodes an event, before the event is
 * durable; whoever reads gives the bound (the published end) below which
 * entries count. All of it is under one lock.
 */
#ifndef OX_LOG_MEM_H
#define OX_LOG_MEM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"
#include "log/index.h"

struct mem;

int  logi_mem_new(struct mem **out, struct err *err);
void logi_mem_free(struct mem *); /* NULL is fine */

/*
 * From now on what is added is this program's own. Before, it is read off the disk, and E_DAMAGED
 * where it does not follow what is in here.
 */
void logi_mem_own(struct mem *);

struct mem_event {
    uint64_t     id, version, pos;
    struct slice stream; /* for its category, and its name where is_new */
    struct slice type;
    bool         is_new; /* the stream's first record */
};

/* In the order of positions. */
int logi_mem_add(struct mem *, const struct mem_event *events, uint32_t count, struct err *err);

/* A state record: `head` has the state, and the stream's next version. */
struct mem_state {
    uint64_t          id, pos;
    struct slice      stream;
    struct index_head head;
    bool              is_new; /* the stream's first record */
};

int logi_mem_add_state(struct mem *, const struct mem_state *, struct err *err);

/* Only a stream that began in here; false: ask the index. *drops: see logi_mem_head. */
bool logi_mem_find(struct mem *, struct slice name, uint64_t bound, uint64_t *id, uint64_t *drops);

/* Streams that began in here, in no order: a part of `text` is the name. */
struct mem_names {
    struct mem_name {
        uint64_t id;
        size_t   at, len;
    } * all;
    uint32_t   count, room;
    struct buf text;
};

/* Those with the prefix and after `after`, by name; the caller frees `all` and `text`. */
int logi_mem_names(struct mem *, struct slice prefix, struct slice after, struct mem_names *out,
                   struct err *err);

/* What memory knows of a stream: the rest is the index's. */
enum mem_known {
    MEM_NEXT = 1,  /* next; last too unless MEM_EMPTY */
    MEM_STATE = 2, /* truncate, flags, limits */
    MEM_EMPTY = 4, /* no event of it is in here: `last` is the index's */
};

/*
 * Fills what its newest entries below bound say; enum mem_known. *drops grows with each generation
 * that is left to the index: what the index said before is not enough then.
 */
unsigned
logi_mem_head(struct mem *, uint64_t id, uint64_t bound, struct index_head *head, uint64_t *drops);

/* Positions of versions from, from ± 1, …; false: `from` is not in here. */
bool logi_mem_positions(struct mem *, uint64_t id, uint64_t from, bool backwards, uint64_t bound,
                        uint64_t *out, uint32_t max, uint32_t *count);

uint64_t logi_mem_bytes(struct mem *);
uint32_t logi_mem_active(struct mem *); /* entries in the growing generation */

/*
 * Makes the growing generation the frozen one (which must be none). False:
 * it is empty. *last_pos: of its last entry.
 */
bool logi_mem_freeze(struct mem *, uint64_t *last_pos);

/*
 * The frozen generation's entries below `bound` as a transaction of the index;
 * valid until mem_drop. `covers` and `stream_count` are the caller's.
 */
int  logi_mem_batch(struct mem *, uint64_t bound, struct index_batch *out, struct err *err);
void logi_mem_drop(struct mem *);
bool logi_mem_is_frozen(struct mem *);

#endif
