#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "transform/lua_int.h"

#define UNIT ((size_t)16)
#define POOL_BYTES ((size_t)1 << 20)

static size_t
class_of(size_t size)
{
    return (size + UNIT - 1) / UNIT;
}

static void *
take(struct transformi_pool *pool, size_t size)
{
    size_t class = class_of(size);
    void *p;

    if (class > TRANSFORMI_POOL_CLASSES)
        return malloc(size);
    p = pool->free[class];
    if (p != NULL) {
        memcpy(&pool->free[class], p, sizeof p);
        return p;
    }
    if (pool->blocks == NULL)
        pool->blocks = malloc(POOL_BYTES);
    if (pool->blocks == NULL || POOL_BYTES - pool->used < class * UNIT)
        return malloc(class * UNIT); /* of a class all are alike */
    p = pool->blocks + pool->used;
    pool->used += class * UNIT;
    return p;
}

static bool
is_pooled(const struct transformi_pool *pool, const void *p)
{
    uintptr_t at = (uintptr_t)p, from = (uintptr_t)pool->blocks;

    return from != 0 && at >= from && at - from < POOL_BYTES;
}

void
transformi_pool_give(struct transformi_pool *pool, void *p, size_t old)
{
    size_t class = class_of(old);

    if (!is_pooled(pool, p)) {
        free(p);
        return;
    }
    must(class > 0 && class <= TRANSFORMI_POOL_CLASSES);
    memcpy(p, &pool->free[class], sizeof p);
    pool->free[class] = p;
}

void *
transformi_pool_move(struct transformi_pool *pool, void *p, size_t old, size_t size)
{
    void *to;

    must(size > 0);
    if (p == NULL)
        return take(pool, size);
    if (!is_pooled(pool, p) && class_of(size) > TRANSFORMI_POOL_CLASSES)
        return realloc(p, size);
    if (class_of(old) == class_of(size))
        return p;
    to = take(pool, size);
    if (to == NULL)
        return NULL;
    memcpy(to, p, old < size ? old : size);
    transformi_pool_give(pool, p, old);
    return to;
}
