/* A set of keys with a small number each, in the order in which they came. */
#ifndef OX_MIGRATE_TRACER_KEYS_H
#define OX_MIGRATE_TRACER_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"

struct traceri_key {
    char    *text; /* NULL: removed */
    uint32_t tries;
    bool     old; /* the user's */
};

/* Zeroed is empty. */
struct traceri_keys {
    struct traceri_key *keys;
    uint32_t           *table; /* index + 1, by hash; 0: none */
    uint32_t            used, room, live, mask;
};

void traceri_keys_fini(struct traceri_keys *);
void traceri_keys_clear(struct traceri_keys *);
/* False only when out of memory. There already: nothing changes. */
bool traceri_keys_add(struct traceri_keys *, struct slice key);
/* NULL where it is not there. */
struct traceri_key *traceri_keys_find(const struct traceri_keys *, struct slice key);
void                traceri_keys_remove(struct traceri_keys *, struct traceri_key *);

#endif
