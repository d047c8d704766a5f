/* Open addressing over an array; removed keys go when the table grows or is compacted. */
#include "migrate/tracer/keys.h"

#include <stdlib.h>

static uint64_t
hash_of(struct slice key)
{
    const uint8_t *p = key.data;
    uint64_t       h = UINT64_C(14695981039346656037);

    for (size_t i = 0; i < key.len; i++)
        h = (h ^ p[i]) * UINT64_C(1099511628211);
    return h ^ h >> 29;
}

void
traceri_keys_clear(struct traceri_keys *k)
{
    for (uint32_t i = 0; i < k->used; i++)
        free(k->keys[i].text);
    if (k->table != NULL)
        memset(k->table, 0, ((size_t)k->mask + 1) * sizeof k->table[0]);
    k->used = k->live = 0;
}

void
traceri_keys_fini(struct traceri_keys *k)
{
    traceri_keys_clear(k);
    free(k->keys);
    free(k->table);
    *k = (struct traceri_keys){0};
}

static void
place(struct traceri_keys *k, uint32_t index)
{
    uint64_t h = hash_of(slice_str(k->keys[index].text));

    /* The analyser takes the text for the table. */
    while (k->table[h & k->mask] != 0) /* NOLINT(clang-analyzer-unix.Malloc) */
        h++;
    k->table[h & k->mask] = index + 1;
}

/* Room for one more; what was removed goes. */
static bool
make_room(struct traceri_keys *k)
{
    uint32_t            room = k->live * 2 < 64 ? 64 : k->live * 2, n = 0, slots = 128;
    struct traceri_key *keys;
    uint32_t           *table;

    if (k->used < k->room)
        return true;
    while (slots < room * 2)
        slots *= 2;
    keys = calloc(room, sizeof keys[0]);
    table = calloc(slots, sizeof table[0]);
    if (keys == NULL || table == NULL) {
        free(keys);
        free(table);
        return false;
    }
    for (uint32_t i = 0; i < k->used; i++)
        if (k->keys[i].text != NULL)
            keys[n++] = k->keys[i];
    free(k->keys);
    free(k->table);
    *k = (struct traceri_keys){
        .keys = keys, .table = table, .used = n, .live = n, .room = room, .mask = slots - 1};
    for (uint32_t i = 0; i < n; i++)
        place(k, i);
    return true;
}

struct traceri_key *
traceri_keys_find(const struct traceri_keys *k, struct slice key)
{
    uint64_t h = hash_of(key);

    if (k->table == NULL)
        return NULL;
    for (; k->table[h & k->mask] != 0; h++) {
        struct traceri_key *at = &k->keys[k->table[h & k->mask] - 1];

        if (at->text != NULL && slice_is(key, at->text))
            return at;
    }
    return NULL;
}

bool
traceri_keys_add(struct traceri_keys *k, struct slice key)
{
    char *text;

    if (traceri_keys_find(k, key) != NULL)
        return true;
    text = strndup(key.len == 0 ? "" : key.data, key.len);
    if (text == NULL || !make_room(k)) {
        free(text);
        return false;
    }
    k->keys[k->used] = (struct traceri_key){.text = text};
    k->live++;
    place(k, k->used++);
    return true;
}

void
traceri_keys_remove(struct traceri_keys *k, struct traceri_key *at)
{
    free(at->text);
    at->text = NULL;
    k->live--;
}
