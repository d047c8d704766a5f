/*
 * The streams that a join moved along with the one whose turn it was. It is an aid: what it does
 * not know is looked up, so it forgets all with the process, and what it has no room for.
 */
#include <stdlib.h>
#include <xxhash.h>

#include "base/lock.h"
#include "base/must.h"
#include "migrate/stream/stream_int.h"

#define SLOTS_MIN (1u << 12)
#define SLOTS_MAX (1u << 21) /* 48 MiB */

struct slot {
    uint64_t hash[2]; /* of the name, with a secret: nobody can make two that are alike */
    uint64_t events;  /* and 1; 0: it is free */
};

struct streami_memo {
    struct ox_lock lock;
    struct slot   *slots;
    uint32_t       room, count; /* room is a power of 2, or 0 */
    uint8_t        secret[XXH3_SECRET_SIZE_MIN];
};

int
streami_memo_new(struct ox_env *env, struct streami_memo **out, struct err *err)
{
    struct streami_memo *m = calloc(1, sizeof *m);

    *out = m;
    if (m == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a join");
    lock_init(&m->lock, LOCK_CORE_PART);
    env->ops->random(env, m->secret, sizeof m->secret);
    return 0;
}

void
streami_memo_free(struct streami_memo *m)
{
    if (m == NULL)
        return;
    lock_fini(&m->lock);
    free(m->slots);
    free(m);
}

void
streami_memo_clear(struct streami_memo *m)
{
    lock_take(&m->lock);
    free(m->slots);
    m->slots = NULL;
    m->room = m->count = 0;
    lock_give(&m->lock);
}

/* The name's slot, or the free one for it. */
static struct slot *
find(const struct streami_memo *m, const uint64_t hash[2])
{
    uint32_t i = (uint32_t)hash[0] & (m->room - 1);

    must(m->count < m->room);
    while (m->slots[i].events != 0 &&
           (m->slots[i].hash[0] != hash[0] || m->slots[i].hash[1] != hash[1]))
        i = (i + 1) & (m->room - 1);
    return &m->slots[i];
}

static void
hash_name(const struct streami_memo *m, struct slice name, uint64_t out[2])
{
    XXH128_hash_t hash = XXH3_128bits_withSecret(name.data, name.len, m->secret, sizeof m->secret);

    out[0] = hash.low64;
    out[1] = hash.high64;
}

/* Room for one more, with a quarter of the slots free. */
static bool
make_room(struct streami_memo *m)
{
    struct slot *old = m->slots;
    uint32_t     room = m->room;

    if (m->count < room / 4 * 3)
        return true;
    if (room == SLOTS_MAX)
        return false;
    m->slots = calloc(room == 0 ? SLOTS_MIN : (size_t)room * 2, sizeof *m->slots);
    if (m->slots == NULL) {
        m->slots = old;
        return false;
    }
    m->room = room == 0 ? SLOTS_MIN : room * 2;
    for (uint32_t i = 0; i < room; i++)
        if (old[i].events != 0)
            *find(m, old[i].hash) = old[i];
    free(old);
    return true;
}

void
streami_memo_add(struct streami_memo *m, struct slice stream, uint64_t events)
{
    uint64_t     hash[2];
    struct slot *slot;

    hash_name(m, stream, hash);
    lock_take(&m->lock);
    if (make_room(m)) {
        slot = find(m, hash);
        m->count += slot->events == 0;
        *slot = (struct slot){{hash[0], hash[1]}, events + 1};
    }
    lock_give(&m->lock);
}

bool
streami_memo_has(struct streami_memo *m, struct slice stream, uint64_t *events)
{
    uint64_t hash[2], is = 0;

    if (m == NULL)
        return false;
    hash_name(m, stream, hash);
    lock_take(&m->lock);
    if (m->room > 0)
        is = find(m, hash)->events;
    lock_give(&m->lock);
    *events = is == 0 ? 0 : is - 1;
    return is != 0;
}
