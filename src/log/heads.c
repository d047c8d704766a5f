#include "log/heads.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/must.h"

#define WAYS 8u
#define AHEAD 16u /* entries of the ring: who goes next is looked for in good time */

/* `tags` has a bit pattern of each slot, 0 where it is free: most looks end there. */
struct heads {
    struct head *slots;
    uint16_t    *tags;
    uint8_t     *lost; /* per set: a head that could be in it went */
    uint64_t     sets;
    bool         began; /* with a log that had no stream */
    uint8_t      secret[XXH3_SECRET_SIZE_MIN];
};

int
logi_heads_new(struct ox_env *env, uint64_t bytes, struct heads **out, struct err *err)
{
    struct heads *h = calloc(1, sizeof *h);

    *out = NULL;
    if (h == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    h->sets = bytes / (WAYS * sizeof *h->slots);
    if (h->sets == 0)
        h->sets = 1;
    if (h->sets > UINT32_MAX)
        h->sets = UINT32_MAX;
    h->slots = calloc(h->sets * WAYS, sizeof *h->slots);
    h->tags = calloc(h->sets * WAYS, sizeof *h->tags);
    h->lost = calloc(h->sets, sizeof *h->lost);
    if (h->slots == NULL || h->tags == NULL || h->lost == NULL) {
        logi_heads_free(h);
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory for the cache of heads");
    }
    env->ops->random(env, h->secret, sizeof h->secret);
    *out = h;
    return 0;
}

void
logi_heads_free(struct heads *h)
{
    if (h == NULL)
        return;
    free(h->slots);
    free(h->tags);
    free(h->lost);
    free(h);
}

void
logi_heads_fp(const struct heads *h, struct slice name, uint64_t fp[2])
{
    XXH128_hash_t hash = XXH3_128bits_withSecret(name.data, name.len, h->secret, sizeof h->secret);

    fp[0] = hash.low64;
    fp[1] = hash.high64;
}

/* The sets that may hold the name; they may be one and the same. */
static uint64_t
set_of(const struct heads *h, const uint64_t fp[2], unsigned which)
{
    must_slow(h->sets <= UINT32_MAX); /* or the product would not fit */
    return (fp[which] >> 32) * h->sets >> 32;
}

static uint16_t
tag_of(const uint64_t fp[2])
{
    return (uint16_t)(fp[0] | 1);
}

static struct head *
find_in(const struct heads *h, uint64_t set, const uint64_t fp[2])
{
    const uint16_t *tags = &h->tags[set * WAYS];
    uint16_t        tag = tag_of(fp);

    for (uint32_t i = 0; i < WAYS; i++) {
        struct head *s = &h->slots[set * WAYS + i];
        if (tags[i] == tag && s->fp[0] == fp[0] && s->fp[1] == fp[1]) {
            must(s->live != 0);
            return s;
        }
    }
    return NULL;
}

static struct head *
find(const struct heads *h, const uint64_t fp[2])
{
    struct head *s = find_in(h, set_of(h, fp, 0), fp);

    return s != NULL ? s : find_in(h, set_of(h, fp, 1), fp);
}

void
logi_heads_prefetch_set(const struct heads *h, const uint64_t fp[2])
{
    __builtin_prefetch(&h->tags[set_of(h, fp, 0) * WAYS]);
    __builtin_prefetch(&h->tags[set_of(h, fp, 1) * WAYS]);
}

void
logi_heads_prefetch(const struct heads *h, const uint64_t fp[2])
{
    uint16_t tag = tag_of(fp);

    for (unsigned which = 0; which < 2; which++) {
        uint64_t at = set_of(h, fp, which) * WAYS;
        for (uint32_t i = 0; i < WAYS; i++) {
            const char *s = (const char *)&h->slots[at + i];
            if (h->tags[at + i] != tag)
                continue;
            __builtin_prefetch(s, 1);
            __builtin_prefetch(s + sizeof(struct head) - 1, 1);
        }
    }
}

struct head *
logi_heads_get(struct heads *h, const uint64_t fp[2])
{
    struct head *s = find(h, fp);

    if (s != NULL && s->used < UINT16_MAX)
        s->used++;
    return s;
}

/* How many of the set's slots are taken, and one that is free. */
static uint32_t
taken(const struct heads *h, uint64_t set, uint64_t *slot)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < WAYS; i++) {
        if (h->tags[set * WAYS + i] != 0)
            n++;
        else
            *slot = set * WAYS + i;
    }
    return n;
}

/* Moves one of the set's heads to the other set that may hold it; false: all of those are full. */
static bool
make_way(struct heads *h, uint64_t set, uint64_t *slot)
{
    for (uint64_t from = set * WAYS; from < (set + 1) * WAYS; from++) {
        const uint64_t *fp = h->slots[from].fp;
        uint64_t        other = set_of(h, fp, set_of(h, fp, 0) == set ? 1 : 0), to = 0;

        must(set_of(h, fp, 0) == set || set_of(h, fp, 1) == set); /* it would not be found */
        if (other == set || taken(h, other, &to) == WAYS)
            continue;
        must(h->tags[to] == 0);
        must(h->tags[from] == tag_of(fp));
        h->slots[to] = h->slots[from];
        h->tags[to] = h->tags[from];
        *slot = from;
        return true;
    }
    return false;
}

/* The slot of the least used head of two sets, which goes. */
static uint64_t
push_out(struct heads *h, const uint64_t sets[2])
{
    uint64_t least = sets[0] * WAYS;

    for (unsigned which = 0; which < 2; which++)
        for (uint64_t i = sets[which] * WAYS; i < (sets[which] + 1) * WAYS; i++)
            if (h->slots[i].used < h->slots[least].used)
                least = i;
    /* Age the others, so that what was busy long ago goes too. */
    for (unsigned which = 0; which < 2; which++)
        for (uint64_t i = sets[which] * WAYS; i < (sets[which] + 1) * WAYS; i++)
            h->slots[i].used /= 2;
    must(h->tags[least] != 0);
    for (unsigned which = 0; which < 2; which++)
        h->lost[set_of(h, h->slots[least].fp, which)] = 1;
    return least;
}

/* A free slot in the emptier one of the two sets; false: both are full. */
static bool
free_slot(const struct heads *h, const uint64_t sets[2], uint64_t *slot)
{
    uint64_t slots[2];
    uint32_t n[2];

    for (unsigned which = 0; which < 2; which++)
        n[which] = taken(h, sets[which], &slots[which]);
    if (n[0] == WAYS && n[1] == WAYS)
        return false;
    *slot = n[1] < n[0] ? slots[1] : slots[0];
    return true;
}

void
logi_heads_prefetch_put(const struct heads *h, const uint64_t fp[2])
{
    uint64_t sets[2] = {set_of(h, fp, 0), set_of(h, fp, 1)}, slot;

    if (free_slot(h, sets, &slot))
        __builtin_prefetch(&h->slots[slot], 1);
}

static uint64_t
new_slot(struct heads *h, const uint64_t fp[2])
{
    uint64_t sets[2] = {set_of(h, fp, 0), set_of(h, fp, 1)}, slots[2];

    if (free_slot(h, sets, &slots[0]))
        return slots[0];
    if (make_way(h, sets[0], &slots[0]) || make_way(h, sets[1], &slots[0]))
        return slots[0];
    return push_out(h, sets);
}

struct head *
logi_heads_put(struct heads *h, const uint64_t fp[2])
{
    struct head *s = find(h, fp);
    uint64_t     slot = s != NULL ? (uint64_t)(s - h->slots) : new_slot(h, fp);

    must(slot / WAYS == set_of(h, fp, 0) || slot / WAYS == set_of(h, fp, 1));
    s = &h->slots[slot];
    memset(s, 0, sizeof *s);
    s->fp[0] = fp[0];
    s->fp[1] = fp[1];
    s->live = 1;
    s->used = 1;
    h->tags[slot] = tag_of(fp);
    return s;
}

void
logi_heads_begin(struct heads *h)
{
    must(!h->began);
    h->began = true;
}

bool
logi_heads_know(const struct heads *h, const uint64_t fp[2])
{
    return h->began && (h->lost[set_of(h, fp, 0)] == 0 || h->lost[set_of(h, fp, 1)] == 0);
}

/* recent */

struct recent {
    uint64_t *fps, *positions; /* a ring by sequence number */
    uint64_t *table;           /* ring index + 1, above it what the fingerprint begins with */
    uint32_t  room, mask;
    uint64_t  first, next; /* sequence numbers */
    uint64_t  seed;
};

int
logi_recent_new(struct ox_env *env, uint32_t events, struct recent **out, struct err *err)
{
    struct recent *r = calloc(1, sizeof *r);
    uint32_t       table = 16;

    *out = r;
    if (r == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    must(events > 0 && events <= 1u << 28);
    while (table < events + events / 2)
        table *= 2;
    env->ops->random(env, &r->seed, sizeof r->seed);
    r->room = events;
    r->mask = table - 1;
    r->fps = malloc(events * sizeof *r->fps);
    r->positions = malloc(events * sizeof *r->positions);
    r->table = calloc(table, sizeof *r->table);
    if (r->fps == NULL || r->positions == NULL || r->table == NULL) {
        logi_recent_free(r);
        *out = NULL;
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory for the recent event ids");
    }
    return 0;
}

void
logi_recent_free(struct recent *r)
{
    if (r == NULL)
        return;
    free(r->fps);
    free(r->positions);
    free(r->table);
    free(r);
}

/* Event ids are the clients': with a secret in it nobody can make long runs in the table. */
static uint64_t
fingerprint(const struct recent *r, uint64_t stream_id, const uint8_t *event_id)
{
    uint8_t bytes[24];

    put_u64(bytes, stream_id);
    memcpy(bytes + 8, event_id, 16);
    return XXH3_64bits_withSeed(bytes, sizeof bytes, r->seed);
}

/* An entry of the table: where it belongs is in it, so that a run is read without the ring. */
static uint64_t
entry_of(uint64_t fp, uint32_t ring)
{
    return fp << 32 | (ring + 1);
}

static uint32_t
ring_of(uint64_t entry)
{
    must(entry != 0);
    return (uint32_t)entry - 1;
}

static uint32_t
home_of(const struct recent *r, uint64_t entry)
{
    return (uint32_t)(entry >> 32) & r->mask;
}

/* Where the ring's entry stands in the table. */
static uint32_t
table_slot(const struct recent *r, uint32_t ring)
{
    uint64_t entry = entry_of(r->fps[ring], ring);
    uint32_t i = home_of(r, entry);

    while (r->table[i] != entry) {
        must(r->table[i] != 0); /* a hole before it: it would not be found */
        i = (i + 1) & r->mask;
    }
    return i;
}

/* Deletes with no tombstone: what follows in the run moves up. */
static void
table_remove(struct recent *r, uint32_t ring)
{
    uint32_t hole, i;

    if (r->positions[ring] == 0)
        return; /* a newer event with its fingerprint took its place */
    hole = i = table_slot(r, ring);
    for (;;) {
        uint32_t home;

        i = (i + 1) & r->mask;
        if (r->table[i] == 0)
            break;
        home = home_of(r, r->table[i]);
        if (((i - home) & r->mask) >= ((i - hole) & r->mask)) {
            r->table[hole] = r->table[i];
            hole = i;
        }
    }
    r->table[hole] = 0;
}

/* Where the fingerprint stands in the table, or the free place for it. */
static uint32_t
table_find(const struct recent *r, uint64_t fp)
{
    uint32_t i = (uint32_t)fp & r->mask;

    while (r->table[i] != 0 &&
           (r->table[i] >> 32 != (uint32_t)fp || r->fps[ring_of(r->table[i])] != fp))
        i = (i + 1) & r->mask;
    return i;
}

void
logi_recent_add(struct recent *r, uint64_t stream_id, const uint8_t *event_id, uint64_t pos)
{
    uint32_t ring = (uint32_t)(r->next % r->room), i;

    must(pos != 0); /* says that an entry does not count */
    must(r->next - r->first <= r->room);
    if (r->next - r->first == r->room) {
        __builtin_prefetch(&r->table[(uint32_t)r->fps[(ring + AHEAD) % r->room] & r->mask], 1);
        table_remove(r, ring);
        r->first++;
    }
    r->fps[ring] = fingerprint(r, stream_id, event_id);
    r->positions[ring] = pos;
    i = table_find(r, r->fps[ring]);
    /* One place for each fingerprint, or a client that repeats an id would make long runs. */
    if (r->table[i] != 0) {
        must(r->positions[ring_of(r->table[i])] != 0);
        must(ring_of(r->table[i]) != ring); /* the one that was there is out of the table */
        r->positions[ring_of(r->table[i])] = 0;
    }
    r->table[i] = entry_of(r->fps[ring], ring);
    r->next++;
}

void
logi_recent_expect(const struct recent *r, uint64_t stream_id, const uint8_t *event_id)
{
    __builtin_prefetch(&r->table[(uint32_t)fingerprint(r, stream_id, event_id) & r->mask], 1);
}

uint64_t
logi_recent_find(const struct recent *r, uint64_t stream_id, const uint8_t *event_id)
{
    uint32_t i = table_find(r, fingerprint(r, stream_id, event_id));

    must(r->table[i] == 0 || r->positions[ring_of(r->table[i])] != 0);
    return r->table[i] == 0 ? 0 : r->positions[ring_of(r->table[i])];
}

uint32_t
logi_recent_room(const struct recent *r)
{
    return r->room;
}
