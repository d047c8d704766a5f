#include "base/utf8.h"

#include "base/bytes.h"
#include "base/must.h"

#define HIGH_BITS UINT64_C(0x8080808080808080)

size_t
utf8_valid_len(struct slice text)
{
    const uint8_t *start = text.data, *p = start, *end;

    if (text.len == 0)
        return 0;
    end = start + text.len;
    while (p < end) {
        size_t n;

        while (end - p >= 8 && (get_u64(p) & HIGH_BITS) == 0)
            p += 8;
        if (p == end)
            break;
        n = utf8_char(p, end);
        if (n == 0)
            break;
        p += n;
    }
    return (size_t)(p - start);
}

bool
utf8_valid(struct slice text)
{
    return utf8_valid_len(text) == text.len;
}

size_t
utf8_encode(uint32_t code, uint8_t out[4])
{
    must(code <= 0x10ffff);
    must(code < 0xd800 || code > 0xdfff);
    if (code < 0x80) {
        out[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (uint8_t)(0xc0 | code >> 6);
        out[1] = (uint8_t)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (uint8_t)(0xe0 | code >> 12);
        out[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | code >> 18);
    out[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (code & 0x3f));
    return 4;
}
