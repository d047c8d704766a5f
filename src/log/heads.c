#include "log/heads.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/must.h"

#define WAYS 8u
#define NEARLY_FULL(slots) ((slots) - (slots) / 32)
#define AHEAD 16u /* entries of the ring: who goes next is looked for in good time */

/* What a look that ends without a head needs of a set's slots, and who goes first: in one line. */
struct set {
    uint16_t tags[WAYS]; /* a bit pattern of each head; 0: the slot is free */
    uint16_t used[WAYS];
};

struct heads {
    struct head *slots; /* of each set WAYS */
    struct set  *sets;
    uint8_t     *lost; /* per set: a head that could be in it went */
    uint64_t     count, live;
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
    h->count = bytes / (WAYS * sizeof *h->slots);
    if (h->count == 0)
        h->count = 1;
    if (h->count > UINT32_MAX)
        h->count = UINT32_MAX;
    h->slots = calloc(h->count * WAYS, sizeof *h->slots);
    h->sets = calloc(h->count, sizeof *h->sets);
    h->lost = calloc(h->count, sizeof *h->lost);
    if (h->slots == NULL || h->sets == NULL || h->lost == NULL) {
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
    free(h->sets);
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
    must_slow(h->count <= UINT32_MAX); /* or the product would not fit */
    return (fp[which] >> 32) * h->count >> 32;
}

static uint16_t
tag_of(const uint64_t fp[2])
{
    return (uint16_t)(fp[0] | 1);
}

static struct head *
find_in(const struct heads *h, uint64_t set, const uint64_t fp[2])
{
    const uint16_t *tags = h->sets[set].tags;
    uint16_t        tag = tag_of(fp);

    for (uint32_t i = 0; i < WAYS; i++) {
        struct head *s = &h->slots[set * WAYS + i];
        if (tags[i] == tag && s->fp[0] == fp[0] && s->fp[1] == fp[1])
            return s;
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
    __builtin_prefetch(&h->sets[set_of(h, fp, 0)], 1);
    __builtin_prefetch(&h->sets[set_of(h, fp, 1)], 1);
}

void
logi_heads_prefetch(const struct heads *h, const uint64_t fp[2])
{
    uint16_t tag = tag_of(fp);

    for (unsigned which = 0; which < 2; which++) {
        uint64_t set = set_of(h, fp, which);
        for (uint32_t i = 0; i < WAYS; i++) {
            const char *s = (const char *)&h->slots[set * WAYS + i];
            if (h->sets[set].tags[i] != tag)
                continue;
            __builtin_prefetch(s, 1);
            __builtin_prefetch(s + sizeof(struct head) - 1, 1);
        }
    }
}

static uint16_t *
tag_at(struct heads *h, uint64_t slot)
{
    return &h->sets[slot / WAYS].tags[slot % WAYS];
}

static uint16_t *
used_at(struct heads *h, uint64_t slot)
{
    return &h->sets[slot / WAYS].used[slot % WAYS];
}

struct head *
logi_heads_get(struct heads *h, const uint64_t fp[2])
{
    struct head *s = find(h, fp);
    uint16_t    *used;

    if (s == NULL)
        return NULL;
    used = used_at(h, (uint64_t)(s - h->slots));
    if (*used < UINT16_MAX)
        ++*used;
    return s;
}

/* How many of the set's slots are taken, and one that is free. */
static uint32_t
taken(const struct heads *h, uint64_t set, uint64_t *slot)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < WAYS; i++) {
        if (h->sets[set].tags[i] != 0)
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
        must(*tag_at(h, to) == 0);
        must(*tag_at(h, from) == tag_of(fp));
        h->slots[to] = h->slots[from];
        *tag_at(h, to) = *tag_at(h, from);
        *used_at(h, to) = *used_at(h, from);
        *slot = from;
        return true;
    }
    return false;
}

/* The slot of the least used head of two sets that are full. */
static uint64_t
least_used(const struct heads *h, const uint64_t sets[2])
{
    uint64_t least = sets[0] * WAYS;
    uint16_t used = UINT16_MAX;

    for (unsigned which = 0; which < 2; which++) {
        for (uint32_t i = 0; i < WAYS; i++) {
            if (h->sets[sets[which]].used[i] < used) {
                used = h->sets[sets[which]].used[i];
                least = sets[which] * WAYS + i;
            }
        }
    }
    return least;
}

/* The slot of the one that goes. */
static uint64_t
push_out(struct heads *h, const uint64_t sets[2])
{
    uint64_t least = least_used(h, sets);

    /* Age the others, so that what was busy long ago goes too. */
    for (unsigned which = 0; which < 2; which++)
        for (uint32_t i = 0; i < WAYS; i++)
            h->sets[sets[which]].used[i] /= 2;
    must(*tag_at(h, least) != 0);
    for (unsigned which = 0; which < 2; which++)
        h->lost[set_of(h, h->slots[least].fp, which)] = 1;
    h->live--;
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

    if (!free_slot(h, sets, &slot))
        slot = least_used(h, sets);
    __builtin_prefetch(&h->slots[slot], 1);
}

static uint64_t
new_slot(struct heads *h, const uint64_t fp[2])
{
    uint64_t sets[2] = {set_of(h, fp, 0), set_of(h, fp, 1)}, slots[2];

    if (free_slot(h, sets, &slots[0]))
        return slots[0];
    /* Where nearly all are taken the look for one that is not costs more than it gives. */
    if (h->live < NEARLY_FULL(h->count * WAYS) &&
        (make_way(h, sets[0], &slots[0]) || make_way(h, sets[1], &slots[0])))
        return slots[0];
    return push_out(h, sets);
}

struct head *
logi_heads_put(struct heads *h, const uint64_t fp[2])
{
    struct head *s = find(h, fp);
    uint64_t     slot = s != NULL ? (uint64_t)(s - h->slots) : new_slot(h, fp);

    h->live += s == NULL;
    must(h->live <= h->count * WAYS);
    must(slot / WAYS == set_of(h, fp, 0) || slot / WAYS == set_of(h, fp, 1));
    s = &h->slots[slot];
    memset(s, 0, sizeof *s);
    s->fp[0] = fp[0];
    s->fp[1] = fp[1];
    *used_at(h, slot) = 1;
    *tag_at(h, slot) = tag_of(fp);
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
