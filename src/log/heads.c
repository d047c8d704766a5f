#include "log/heads.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/must.h"

#define WAYS 8u

struct heads {
    struct head *slots;
    uint64_t     sets;
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
    if (h->slots == NULL) {
        free(h);
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
    free(h);
}

static struct head *
set_of(struct heads *h, struct slice name, uint64_t fp[2])
{
    XXH128_hash_t hash = XXH3_128bits_withSecret(name.data, name.len, h->secret, sizeof h->secret);

    fp[0] = hash.low64;
    fp[1] = hash.high64;
    return &h->slots[((fp[0] >> 32) * h->sets >> 32) * WAYS];
}

static struct head *
find(struct heads *h, struct slice name, uint64_t fp[2], struct head **set)
{
    *set = set_of(h, name, fp);
    for (uint32_t i = 0; i < WAYS; i++) {
        struct head *s = &(*set)[i];
        if (s->live != 0 && s->fp[0] == fp[0] && s->fp[1] == fp[1])
            return s;
    }
    return NULL;
}

struct head *
logi_heads_get(struct heads *h, struct slice name)
{
    uint64_t     fp[2];
    struct head *set, *s = find(h, name, fp, &set);

    if (s != NULL && s->used < UINT16_MAX)
        s->used++;
    return s;
}

struct head *
logi_heads_put(struct heads *h, struct slice name)
{
    uint64_t     fp[2];
    struct head *set, *s = find(h, name, fp, &set);

    if (s == NULL) {
        s = set;
        for (uint32_t i = 0; i < WAYS; i++) {
            if (set[i].live == 0) {
                s = &set[i];
                break;
            }
            if (set[i].used < s->used)
                s = &set[i];
        }
        /* Age the others, so that what was busy long ago goes too. */
        for (uint32_t i = 0; i < WAYS; i++)
            set[i].used /= 2;
    }
    memset(s, 0, sizeof *s);
    s->fp[0] = fp[0];
    s->fp[1] = fp[1];
    s->live = 1;
    s->used = 1;
    return s;
}

/* recent */

struct recent {
    uint64_t *fps, *positions; /* a ring by sequence number */
    uint32_t *table;           /* ring index + 1 */
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

/* Where the ring's entry stands in the table. */
static uint32_t
table_slot(const struct recent *r, uint32_t ring)
{
    uint32_t i = (uint32_t)r->fps[ring] & r->mask;

    while (r->table[i] != ring + 1)
        i = (i + 1) & r->mask;
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
        home = (uint32_t)r->fps[r->table[i] - 1] & r->mask;
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

    while (r->table[i] != 0 && r->fps[r->table[i] - 1] != fp)
        i = (i + 1) & r->mask;
    return i;
}

void
logi_recent_add(struct recent *r, uint64_t stream_id, const uint8_t *event_id, uint64_t pos)
{
    uint32_t ring = (uint32_t)(r->next % r->room), i;

    if (r->next - r->first == r->room) {
        table_remove(r, ring);
        r->first++;
    }
    r->fps[ring] = fingerprint(r, stream_id, event_id);
    r->positions[ring] = pos;
    i = table_find(r, r->fps[ring]);
    /* One place for each fingerprint, or a client that repeats an id would make long runs. */
    if (r->table[i] != 0)
        r->positions[r->table[i] - 1] = 0;
    r->table[i] = ring + 1;
    r->next++;
}

uint64_t
logi_recent_find(const struct recent *r, uint64_t stream_id, const uint8_t *event_id)
{
    uint32_t i = table_find(r, fingerprint(r, stream_id, event_id));

    return r->table[i] == 0 ? 0 : r->positions[r->table[i] - 1];
}

uint32_t
logi_recent_room(const struct recent *r)
{
    return r->room;
}
