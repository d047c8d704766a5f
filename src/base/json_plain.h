#ifndef OX_BASE_JSON_PLAIN_H
#define OX_BASE_JSON_PLAIN_H

#include "base/bytes.h"

/*
 * Where the bytes from p end that need no attention in a JSON string: no quote, no backslash, no
 * control character, nothing above ASCII. Eight bytes at a time; borrows
 * only run upwards, so the lowest bit that is set is exact.
 */
static inline const uint8_t *
json_plain(const uint8_t *p, const uint8_t *end)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = ones << 7;

    while (end - p >= 8) {
        uint64_t w = get_u64(p), quote = w ^ (ones * '"'), slash = w ^ (ones * '\\');
        uint64_t hit =
            (w | (w - ones * 0x20) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash)) & highs;

        if (hit != 0)
            return p + (__builtin_ctzll(hit) >> 3);
        p += 8;
    }
    while (p < end && *p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\')
        p++;
    return p;
}

#endif
