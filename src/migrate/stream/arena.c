/* Memory of one batch: handed out piece by piece, given back all at once. */
#include <stdlib.h>

#include "migrate/stream/stream_int.h"

#define BLOCK ((size_t)256 << 10)

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

void
streami_reset(struct streami_arena *a)
{
    struct streami_block *keep = NULL, *next;

    for (struct streami_block *b = a->blocks; b != NULL; b = next) {
        next = b->next;
        if (keep == NULL && b->room == BLOCK)
            keep = b;
        else
            free(b);
    }
    if (keep != NULL) {
        keep->next = NULL;
        keep->used = 0;
    }
    a->blocks = keep;
    a->bytes = 0;
}

void
streami_arena_fini(struct streami_arena *a)
{
    struct streami_block *next;

    for (struct streami_block *b = a->blocks; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    *a = (struct streami_arena){0};
}
