/* Base64 (RFC 4648 part 4) for event data that is no JSON. */
#ifndef OX_BASE_BASE64_H
#define OX_BASE_BASE64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

/* With padding; a text may be written in parts when all but the last are multiples of 3. */
void base64_encode(struct buf *out, struct slice bytes);

/* In place, padding required; false: it is no base64. */
bool base64_decode(uint8_t *text, size_t len, size_t *out_len);

#endif
