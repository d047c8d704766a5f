/* The window: the ids that were taken last, in a ring, with a hash table over it. */
#include <stdlib.h>

#include "base/must.h"
#include "core/queue_int.h"

#define ROOM_MIN 1024u

void
queuei_window_init(struct queue_window *w, uint32_t max, uint64_t time_us)
{
    *w = (struct queue_window){.max = max, .time_us = time_us};
}

void
queuei_window_fini(struct queue_window *w)
{
    free(w->ring);
    free(w->table);
    w->ring = NULL;
    w->table = NULL;
    w->room = w->first = w->count = 0;
}

void
queuei_window_clear(struct queue_window *w)
{
    queuei_window_fini(w);
}

static uint32_t
slot_of(const struct queue_window *w, const struct ox_id *id)
{
    uint64_t a, b;

    memcpy(&a, id->b, sizeof a);
    memcpy(&b, id->b + 8, sizeof b);
    a = (a ^ (b * UINT64_C(0x9e3779b97f4a7c15))) * UINT64_C(0xd6e8feb86659fd93);
    return (uint32_t)(a >> 32) & (w->room * 2 - 1);
}

/* Where the id is in the table, or would be. */
static uint32_t
find(const struct queue_window *w, const struct ox_id *id)
{
    uint32_t mask = w->room * 2 - 1, i = slot_of(w, id);

    must(w->count <= w->room);
    while (w->table[i] != 0 && !id_eq(&w->ring[w->table[i] - 1].id, id))
        i = (i + 1) & mask;
    return i;
}

bool
queuei_window_has(const struct queue_window *w, const struct ox_id *id)
{
    return w->count > 0 && w->table[find(w, id)] != 0;
}

/* What stands behind it moves up, so that no search ends too early. */
static void
take_out(struct queue_window *w, uint32_t hole)
{
    uint32_t mask = w->room * 2 - 1;

    must(w->table[hole] != 0);
    for (uint32_t i = (hole + 1) & mask; w->table[i] != 0; i = (i + 1) & mask) {
        uint32_t home = slot_of(w, &w->ring[w->table[i] - 1].id);

        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        w->table[hole] = w->table[i];
        hole = i;
    }
    w->table[hole] = 0;
}

/* Out of the table; its place in the ring is as good as empty. */
static void
blank(struct queue_window *w, uint32_t place)
{
    uint32_t at;

    if (id_is_zero(&w->ring[place].id))
        return;
    at = find(w, &w->ring[place].id);
    must(w->table[at] == place + 1);
    take_out(w, at);
    w->ring[place].id = (struct ox_id){{0}};
}

static void
drop_first(struct queue_window *w)
{
    must(w->count > 0);
    blank(w, w->first);
    w->first = (w->first + 1) & (w->room - 1);
    w->count--;
}

static bool
grow(struct queue_window *w)
{
    struct queue_window old = *w;
    uint32_t            room = w->room == 0 ? ROOM_MIN : w->room * 2;
    struct queue_known *ring = malloc(room * sizeof *ring);
    uint32_t           *table = calloc((size_t)room * 2, sizeof *table);

    if (ring == NULL || table == NULL) {
        free(ring);
        free(table);
        return false;
    }
    w->ring = ring;
    w->table = table;
    w->room = room;
    w->first = 0;
    must((room & (room - 1)) == 0);
    must(w->count < room);
    for (uint32_t i = 0; i < w->count; i++) {
        ring[i] = old.ring[(old.first + i) & (old.room - 1)];
        if (!id_is_zero(&ring[i].id))
            table[find(w, &ring[i].id)] = i + 1;
    }
    free(old.ring);
    free(old.table);
    return true;
}

void
queuei_window_expire(struct queue_window *w, int64_t now)
{
    while (w->count > 0 && w->time_us > 0 && now - w->ring[w->first].time_us > (int64_t)w->time_us)
        drop_first(w);
}

bool
queuei_window_add(struct queue_window *w, const struct ox_id *id, int64_t time_us, uint64_t version)
{
    uint32_t at, slot;

    must(!id_is_zero(id));
    must(w->count <= w->max);
    if (w->max == 0)
        return true;
    if (queuei_window_has(w, id))
        blank(w, w->table[find(w, id)] - 1);
    if (w->count == w->max)
        drop_first(w);
    if (w->count == w->room && !grow(w))
        return false;
    /* Oldest first: what nobody has to read any more is told by the first one's version. */
    must(w->count == 0 || w->ring[(w->first + w->count - 1) & (w->room - 1)].version <= version);
    at = (w->first + w->count) & (w->room - 1);
    w->ring[at] = (struct queue_known){*id, time_us, version};
    slot = find(w, id);
    must(w->table[slot] == 0);
    w->table[slot] = at + 1;
    w->count++;
    return true;
}

uint64_t
queuei_window_low(const struct queue_window *w, uint64_t none)
{
    return w->count == 0 ? none : w->ring[w->first].version;
}
