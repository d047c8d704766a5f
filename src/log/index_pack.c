#include "log/index_pack.h"

#include "base/must.h"

size_t
logi_varint_put(uint8_t *to, uint64_t v)
{
    size_t n = 0;

    while (v >= 0x80) {
        to[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    to[n++] = (uint8_t)v;
    must(n <= INDEX_VARINT_MAX);
    return n;
}

bool
logi_varint_get(struct slice *from, uint64_t *v)
{
    const uint8_t *p = from->data;
    uint64_t       sum = 0;

    for (size_t i = 0; i < from->len && i < INDEX_VARINT_MAX; i++) {
        /* The tenth byte has room for one bit only. */
        if (i == INDEX_VARINT_MAX - 1 && p[i] > 1)
            return false;
        sum |= (uint64_t)(p[i] & 0x7f) << (7 * i);
        if ((p[i] & 0x80) == 0) {
            *v = sum;
            *from = slice_of(p + i + 1, from->len - i - 1);
            return true;
        }
    }
    return false;
}

size_t
logi_pos_put(uint8_t *to, uint64_t prev, uint64_t pos)
{
    must((pos & 7) == 0);
    must(pos > prev || prev == 0);
    return logi_varint_put(to, (pos - prev) >> 3);
}

bool
logi_pos_list(struct slice bytes, uint64_t prev, uint64_t *out, uint32_t max, uint32_t *count,
              uint64_t *last)
{
    uint32_t n = 0;

    while (bytes.len > 0) {
        uint64_t step = 0;

        if (n == max || !logi_varint_get(&bytes, &step))
            return false;
        if (step > (UINT64_MAX - prev) >> 3 || (step == 0 && prev != 0))
            return false;
        prev += step << 3;
        if (out != NULL)
            out[n] = prev;
        n++;
    }
    *count = n;
    *last = prev;
    return true;
}
