/* Streams in the order of their ids, for the index. */
#ifndef OX_LOG_SORT_H
#define OX_LOG_SORT_H

#include <stdint.h>

/* What is sorted: an id, and where in its array it stands. */
struct key {
    uint64_t id;
    uint32_t at;
};

/*
 * Sorts by id, digit by digit: ids are given out from 0 on, so that two rounds do
 * for millions of streams, and new ones are in order already. `room` has 2 * n
 * keys; `most` is the highest id.
 */
struct key *logi_sort_keys(struct key *room, uint32_t n, uint64_t most);

#endif
