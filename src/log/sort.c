#include "log/sort.h"

#include <string.h>

#define DIGIT_BITS 11u
#define DIGITS (1u << DIGIT_BITS)

struct key *
logi_sort_keys(struct key *room, uint32_t n, uint64_t most)
{
    struct key *from = room, *to = room + n, *swap;
    uint32_t    starts[DIGITS], sorted = 1;

    while (sorted < n && from[sorted - 1].id <= from[sorted].id)
        sorted++;
    if (sorted >= n)
        return from;
    for (unsigned shift = 0; shift < 64 && most >> shift != 0; shift += DIGIT_BITS) {
        uint32_t sum = 0;

        memset(starts, 0, sizeof starts);
        for (uint32_t i = 0; i < n; i++)
            starts[from[i].id >> shift & (DIGITS - 1)]++;
        for (uint32_t d = 0; d < DIGITS; d++) {
            uint32_t count = starts[d];
            starts[d] = sum;
            sum += count;
        }
        for (uint32_t i = 0; i < n; i++)
            to[starts[from[i].id >> shift & (DIGITS - 1)]++] = from[i];
        swap = from;
        from = to;
        to = swap;
    }
    return from;
}
