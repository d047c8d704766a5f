/*
 * The writes of a commit whose events come in the order of a source, for many streams: each stream
 * has one write, and the commit's order is that of the events. Begun, then each event's stream
 * added, then laid out, then each event filled in the same order, then the end; kept for the next
 * one.
 */
#ifndef OX_CORE_WRITES_H
#define OX_CORE_WRITES_H

#include <stdbool.h>
#include <stdint.h>

#include "log/log.h"

struct writes {
    struct log_write     *list;
    struct log_new_event *events; /* ordered by write */
    uint32_t             *order;  /* which write each event is in, as they came */
    uint32_t *table; /* writes by stream, + 1; laid out: where each one's next event is */
    uint32_t  count, made, filled; /* writes; events added, and filled */
    uint32_t  room, mask;          /* events; of the table as it is used now */
};

/* Empties it, with room for n events and the one of the end. False: no memory. */
bool writes_begin(struct writes *, uint32_t n);
/* One more event for the stream, whose name stays where it is. Returns which write that is. */
uint32_t writes_add(struct writes *, struct slice stream);
void     writes_lay_out(struct writes *);
/* Where the next one of those that were added belongs. */
struct log_new_event *writes_next(struct writes *);
/* The commit's last write, which has the one event, and all of it into the request. */
void writes_end(struct writes *, struct slice stream, int64_t expected,
                const struct log_new_event *event, struct log_req *req);
void writes_fini(struct writes *);

#endif
