/* Memory of one batch: handed out piece by piece, given back all at once. */
#include <stdlib.h>

#include "migrate/stream/stream_int.h"

#define BLOCK ((size_t)256 << 10)
#define SPARE 8u /* blocks: those of a batch are those of the next one */

struct streami_block {
    struct streami_block *next;
    size_t                used, room;
    max_align_t           bytes[];
};

void *
streami_alloc(struct streami_arena *a, size_t len)
{
    struct streami_block *b = a->blocks;
    void                 *out;

    len = (len + 15) & ~(size_t)15;
    if (b == NULL || b->room - b->used < len) {
        size_t room = len > BLOCK ? len : BLOCK;

        b = room == BLOCK ? a->spare : NULL;
        if (b != NULL)
            a->spare = b->next;
        else
            b = malloc(sizeof *b + room);
        if (b == NULL)
            return NULL;
        b->next = a->blocks;
        b->used = 0;
        b->room = room;
        a->blocks = b;
    }
    out = (uint8_t *)b->bytes + b->used;
    b->used += len;
    a->bytes += len;
    return out;
}

struct slice
streami_keep(struct streami_arena *a, struct slice s)
{
    void *to = streami_alloc(a, s.len + 1);

    if (to == NULL)
        return (struct slice){0};
    if (s.len > 0)
        memcpy(to, s.data, s.len);
    return slice_of(to, s.len);
}

bool
streami_grow(struct streami_arena *a, void *list, uint32_t count, uint32_t *room, size_t size)
{
    void *old, *to;

    if (count < *room)
        return true;
    memcpy(&old, list, sizeof old);
    to = streami_alloc(a, (*room == 0 ? 4 : *room * (size_t)2) * size);
    if (to == NULL)
        return false;
    if (count > 0)
        memcpy(to, old, count * size);
    *room = *room == 0 ? 4 : *room * 2;
    memcpy(list, &to, sizeof to);
    return true;
}

static void
free_blocks(struct streami_block *b)
{
    struct streami_block *next;

    for (; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
}

void
streami_reset(struct streami_arena *a)
{
    struct streami_block *next, *large = NULL;
    unsigned              spare = 0;

    for (struct streami_block *b = a->spare; b != NULL; b = b->next)
        spare++;
    for (struct streami_block *b = a->blocks; b != NULL; b = next) {
        struct streami_block **list = b->room == BLOCK && spare < SPARE ? &a->spare : &large;

        next = b->next;
        spare += list == &a->spare;
        b->next = *list;
        *list = b;
    }
    free_blocks(large);
    a->blocks = NULL;
    a->bytes = 0;
}

void
streami_arena_fini(struct streami_arena *a)
{
    free_blocks(a->blocks);
    free_blocks(a->spare);
    *a = (struct streami_arena){0};
}
