/*
 * Lists of positions as bytes: the difference from the one before, divided by
 * 8, seven bits to a byte, low bits first. Positions are multiples of 8 and
 * grow, so that a short stream's list takes a few bytes per event.
 */
#ifndef OX_LOG_INDEX_PACK_H
#define OX_LOG_INDEX_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

#define INDEX_VARINT_MAX 10 /* bytes */

/* Writes at most INDEX_VARINT_MAX bytes and returns how many. */
size_t logi_varint_put(uint8_t *to, uint64_t v);

/* Takes one number off the front; false where the bytes are none. */
bool logi_varint_get(struct slice *from, uint64_t *v);

/* Writes `pos` after `prev` (0 for the first of a list that stands alone); returns the bytes. */
size_t logi_pos_put(uint8_t *to, uint64_t prev, uint64_t pos);

/*
 * Reads a whole list that goes on after `prev`; false where it is malformed,
 * does not grow, or has more than `max`. `out` may be NULL to count only;
 * `last` is prev where the list is empty.
 */
bool logi_pos_list(struct slice bytes, uint64_t prev, uint64_t *out, uint32_t max, uint32_t *count,
                   uint64_t *last);

#endif
