/* UTF-8 as RFC 3629 has it: no surrogates, no overlong forms, nothing above U+10FFFF. */
#ifndef OX_BASE_UTF8_H
#define OX_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

bool utf8_valid(struct slice text);

/* How many bytes from the start are valid: text.len where all are. */
size_t utf8_valid_len(struct slice text);

/* The length (1 to 4) of the character at p < end, or 0 where there is none. */
static inline size_t
utf8_char(const uint8_t *p, const uint8_t *end)
{
    size_t left = (size_t)(end - p);

    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || left < 2 || (p[1] & 0xc0) != 0x80)
        return 0;
    if (p[0] < 0xe0)
        return 2;
    if (left < 3 || (p[2] & 0xc0) != 0x80)
        return 0;
    if (p[0] < 0xf0) {
        if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f))
            return 0;
        return 3;
    }
    if (left < 4 || (p[3] & 0xc0) != 0x80)
        return 0;
    if (p[0] > 0xf4 || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return 4;
}

/* Writes the character; `code` must be one (no surrogate, at most 0x10ffff). */
size_t utf8_encode(uint32_t code, uint8_t out[4]);

#endif
