/*
 * What moves of streams leave in events (docs/surgery.md): the `$copiedFrom` of a copy's
 * metadata, and the data of the events that say where a stream went. Written by whoever may
 * write metadata: what is not well formed from end to end is no copy and no mark.
 */
#ifndef OX_LOG_COPIED_H
#define OX_LOG_COPIED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/pos.h"
#include "base/slice.h"

#define LOG_COPIED_KEY "$copiedFrom"

/* A first original; its slices are valid during the callback. */
struct log_original {
    struct slice   stream, type;
    uint64_t       version;
    struct log_pos pos;
};

/* True: no more of them. */
typedef bool log_original_fn(void *arg, const struct log_original *original);

/*
 * Tells `fn` (NULL: nobody) of each first original, in their order. How many there are, or 0: it is
 * no copy. *stopped: `fn` returned true; may be NULL.
 */
uint64_t log_copied_from(struct slice meta, log_original_fn *fn, void *arg, bool *stopped);
/* How many the list itself has; 0: it is none. */
uint64_t log_copied_count(struct slice list);
/* Is the list all that the metadata has, and written as moves write it? Quicker than looking for
 * it; false says nothing. */
bool log_copied_alone(struct slice meta, struct slice *list);

enum log_mark {
    LOG_MARK_NONE,
    LOG_MARK_TO,          /* StreamMovedTo */
    LOG_MARK_FROM,        /* MigratedFrom */
    LOG_MARK_INVALIDATED, /* Invalidated */
};

/* A user's event may have such a type too: a mark names its surgery, and streams. */
enum log_mark log_mark_of(struct slice type, struct slice data);

/* Is it MigratedFrom of this stream, and of which versions? */
bool log_mark_from(struct slice type, struct slice data, struct slice stream, uint64_t *first,
                   uint64_t *last);

/*
 * Is it StreamMovedTo of a move in stages? Which version of the stream is the first one that was
 * moved, and where the first stage stands.
 */
bool log_mark_staged(struct slice type, struct slice data, uint64_t *first, struct log_pos *pos);

/*
 * Is it StreamMovedTo of a stream that was routed up to there? From which version on its events
 * have copies, which stand anywhere in the streams that it names.
 */
bool log_mark_routed(struct slice type, struct slice data, uint64_t *first);

#endif
