#include "base/base64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void
base64_encode(struct buf *out, struct slice bytes)
{
    const uint8_t *p = bytes.data;
    size_t         left = bytes.len;
    uint8_t       *to;

    if (left == 0 || !buf_reserve(out, (left + 2) / 3 * 4))
        return;
    to = out->data + out->len;
    out->len += (left + 2) / 3 * 4;
    for (; left > 0; p += 3) {
        size_t   n = left < 3 ? left : 3;
        uint32_t v = (uint32_t)p[0] << 16;

        if (n > 1)
            v |= (uint32_t)p[1] << 8;
        if (n > 2)
            v |= p[2];
        *to++ = (uint8_t)alphabet[v >> 18];
        *to++ = (uint8_t)alphabet[v >> 12 & 63];
        *to++ = n > 1 ? (uint8_t)alphabet[v >> 6 & 63] : '=';
        *to++ = n > 2 ? (uint8_t)alphabet[v & 63] : '=';
        left -= n;
    }
}

static int
value_of(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+')
        return 62;
    return c == '/' ? 63 : -1;
}

bool
base64_decode(uint8_t *text, size_t len, size_t *out_len)
{
    size_t pad = 0, to = 0;

    if (len % 4 != 0)
        return false;
    while (pad < 2 && len > pad && text[len - 1 - pad] == '=')
        pad++;
    for (size_t at = 0; at < len; at += 4) {
        uint32_t v = 0;
        size_t   n = at + 4 == len ? 4 - pad : 4;

        for (size_t i = 0; i < 4; i++) {
            int digit = i < n ? value_of(text[at + i]) : 0;

            if (digit < 0)
                return false;
            v = v << 6 | (uint32_t)digit;
        }
        for (size_t i = 0; i + 1 < n; i++)
            text[to++] = (uint8_t)(v >> (16 - 8 * i));
        /* Bits that nobody reads must be zero: one text for one value. */
        if (n < 4 && (v & (n == 2 ? 0xffffU : 0xffU)) != 0)
            return false;
    }
    *out_len = to;
    return true;
}
