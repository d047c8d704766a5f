#include "log/mem.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/lock.h"
#include "base/must.h"

#define NONE UINT32_MAX
#define CHUNK_BITS 14u
#define CHUNK (1u << CHUNK_BITS)
#define CHUNKS_MAX 4096u

struct entry {
    uint64_t version, pos;
    uint32_t prev; /* the stream's entry before this one in this generation */
    uint32_t kind; /* which category and type */
};

struct state {
    uint64_t          pos;
    struct index_head head; /* `last` is not used */
    uint32_t          prev; /* the stream's state before this one in this generation */
};

/* Per stream. */
struct slot {
    uint64_t id;          /* UINT64_MAX: free */
    uint32_t last, state; /* its newest entry and state; NONE */
};

struct name {
    uint64_t hash, id, pos;
    uint32_t off, len;
};

struct kind {
    uint64_t hash;
    uint32_t off, category_len, type_len;
};

struct gen {
    struct entry *chunks[CHUNKS_MAX];
    uint32_t      count;
    struct state *states;
    uint32_t      state_count, state_room;
    uint64_t      last_pos; /* of the last entry or state */
    struct slot  *slots;
    uint32_t      slot_room, slot_count;
    struct name  *names; /* open addressing; len 0: free */
    uint32_t      name_room, name_count;
    struct kind  *kinds;
    uint32_t      kind_room, kind_count;
    uint32_t     *kind_table; /* index + 1 */
    struct buf    text;
    uint64_t      bytes;
    /* of mem_batch */
    struct index_update *updates;
    struct index_event  *events;
    uint64_t            *positions;
};

struct mem {
    struct ox_lock lock;
    struct gen    *active, *frozen;
};

static struct entry *
entry_at(const struct gen *g, uint32_t i)
{
    return &g->chunks[i >> CHUNK_BITS][i & (CHUNK - 1)];
}

static void
gen_free(struct gen *g)
{
    if (g == NULL)
        return;
    for (uint32_t i = 0; i < CHUNKS_MAX && g->chunks[i] != NULL; i++)
        free(g->chunks[i]);
    free(g->states);
    free(g->slots);
    free(g->names);
    free(g->kinds);
    free(g->kind_table);
    free(g->updates);
    free(g->events);
    free(g->positions);
    buf_fini(&g->text);
    free(g);
}

static uint64_t
mix(uint64_t v)
{
    v *= UINT64_C(0x9e3779b97f4a7c15);
    return v ^ (v >> 29);
}

static struct slot *
slot_find(const struct gen *g, uint64_t id)
{
    if (g->slot_room == 0)
        return NULL;
    for (uint32_t i = (uint32_t)mix(id) & (g->slot_room - 1);; i = (i + 1) & (g->slot_room - 1)) {
        struct slot *s = &g->slots[i];
        if (s->id == UINT64_MAX || s->id == id)
            return s;
    }
}

static int
slots_grow(struct gen *g, struct err *err)
{
    struct slot *old = g->slots;
    uint32_t     old_room = g->slot_room, room = old_room == 0 ? 1024 : old_room * 2;

    g->slots = malloc(room * sizeof *g->slots);
    if (g->slots == NULL) {
        g->slots = old;
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    }
    for (uint32_t i = 0; i < room; i++)
        g->slots[i].id = UINT64_MAX;
    g->slot_room = room;
    for (uint32_t i = 0; i < old_room; i++)
        if (old[i].id != UINT64_MAX)
            *slot_find(g, old[i].id) = old[i];
    free(old);
    g->bytes += (uint64_t)(room - old_room) * sizeof *g->slots;
    return 0;
}

static struct name *
name_find(const struct gen *g, struct slice name, uint64_t hash)
{
    if (g->name_room == 0)
        return NULL;
    for (uint32_t i = (uint32_t)hash & (g->name_room - 1);; i = (i + 1) & (g->name_room - 1)) {
        struct name *n = &g->names[i];
        if (n->len == 0)
            return n;
        if (n->hash == hash && n->len == name.len &&
            memcmp(g->text.data + n->off, name.data, name.len) == 0)
            return n;
    }
}

static int
names_grow(struct gen *g, struct err *err)
{
    struct name *old = g->names;
    uint32_t     old_room = g->name_room, room = old_room == 0 ? 256 : old_room * 2;

    g->names = calloc(room, sizeof *g->names);
    if (g->names == NULL) {
        g->names = old;
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    }
    g->name_room = room;
    for (uint32_t i = 0; i < old_room; i++) {
        if (old[i].len == 0)
            continue;
        for (uint32_t k = (uint32_t)old[i].hash & (room - 1);; k = (k + 1) & (room - 1)) {
            if (g->names[k].len == 0) {
                g->names[k] = old[i];
                break;
            }
        }
    }
    free(old);
    g->bytes += (uint64_t)(room - old_room) * sizeof *g->names;
    return 0;
}

static int
name_add(struct gen *g, struct slice name, uint64_t id, uint64_t pos, struct err *err)
{
    uint64_t     hash = XXH3_64bits(name.data, name.len);
    struct name *n;
    int          rc;

    if (g->name_count * 4 >= g->name_room * 3)
        TRY(names_grow(g, err));
    n = name_find(g, name, hash);
    must(n->len == 0);
    if (!buf_reserve(&g->text, name.len))
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    *n = (struct name){hash, id, pos, (uint32_t)g->text.len, (uint32_t)name.len};
    buf_add_slice(&g->text, name);
    g->name_count++;
    g->bytes += name.len;
    rc = 0;
out:
    return rc;
}

static struct slice
category_of(struct slice stream)
{
    const char *dash = memchr(stream.data, '-', stream.len);

    if (dash == NULL)
        return slice_of(NULL, 0);
    return slice_of(stream.data, (size_t)(dash - (const char *)stream.data));
}

static int
kinds_grow(struct gen *g, struct err *err)
{
    uint32_t     room = g->kind_room == 0 ? 64 : g->kind_room * 2;
    struct kind *kinds = realloc(g->kinds, room * sizeof *kinds);
    uint32_t    *table = calloc((size_t)room * 2, sizeof *table);

    if (kinds != NULL)
        g->kinds = kinds;
    if (kinds == NULL || table == NULL) {
        free(table);
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    }
    for (uint32_t i = 0; i < g->kind_count; i++) {
        uint32_t k = (uint32_t)kinds[i].hash & (room * 2 - 1);
        while (table[k] != 0)
            k = (k + 1) & (room * 2 - 1);
        table[k] = i + 1;
    }
    free(g->kind_table);
    g->kind_table = table;
    g->bytes += (uint64_t)(room - g->kind_room) * (sizeof *kinds + 2 * sizeof *table);
    g->kind_room = room;
    return 0;
}

/* The number of this pair of category and type in the generation. */
static int
kind_of(struct gen *g, struct slice category, struct slice type, uint32_t *out, struct err *err)
{
    uint64_t hash = XXH3_64bits(type.data, type.len) ^
                    mix(category.len == 0 ? 0 : XXH3_64bits(category.data, category.len));
    uint32_t mask, i;
    int      rc = 0;

    if (g->kind_count >= g->kind_room)
        TRY(kinds_grow(g, err));
    mask = g->kind_room * 2 - 1;
    for (i = (uint32_t)hash & mask; g->kind_table[i] != 0; i = (i + 1) & mask) {
        const struct kind *k = &g->kinds[g->kind_table[i] - 1];
        const uint8_t     *text = g->text.data + k->off;
        if (k->hash == hash && slice_eq(slice_of(text, k->category_len), category) &&
            slice_eq(slice_of(text + k->category_len, k->type_len), type)) {
            *out = g->kind_table[i] - 1;
            return 0;
        }
    }
    if (!buf_reserve(&g->text, category.len + type.len))
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    g->kinds[g->kind_count] =
        (struct kind){hash, (uint32_t)g->text.len, (uint32_t)category.len, (uint32_t)type.len};
    buf_add_slice(&g->text, category);
    buf_add_slice(&g->text, type);
    *out = g->kind_count;
    g->kind_table[i] = ++g->kind_count;
    g->bytes += category.len + type.len;
out:
    return rc;
}

int
logi_mem_new(struct mem **out, struct err *err)
{
    struct mem *m = calloc(1, sizeof *m);

    *out = m;
    if (m == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    lock_init(&m->lock, LOCK_LOG_MEM);
    return 0;
}

void
logi_mem_free(struct mem *m)
{
    if (m == NULL)
        return;
    gen_free(m->active);
    gen_free(m->frozen);
    lock_fini(&m->lock);
    free(m);
}

static int
active_ready(struct mem *m, struct err *err)
{
    struct gen *g = m->active;

    if (g == NULL) {
        g = m->active = calloc(1, sizeof *g);
        if (g == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
        g->bytes = sizeof *g;
    }
    if (g->count >> CHUNK_BITS >= CHUNKS_MAX)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "too much is not indexed");
    if (g->chunks[g->count >> CHUNK_BITS] == NULL) {
        g->chunks[g->count >> CHUNK_BITS] = malloc(CHUNK * sizeof(struct entry));
        if (g->chunks[g->count >> CHUNK_BITS] == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
        g->bytes += CHUNK * sizeof(struct entry);
    }
    if (g->slot_count * 4 >= g->slot_room * 3)
        return slots_grow(g, err);
    return 0;
}

/* The stream's slot, made where there is none yet. */
static struct slot *
slot_of(struct gen *g, uint64_t id)
{
    struct slot *slot = slot_find(g, id);

    must(id != UINT64_MAX);
    if (slot->id == UINT64_MAX) {
        *slot = (struct slot){id, NONE, NONE};
        g->slot_count++;
    }
    return slot;
}

int
logi_mem_add(struct mem *m, const struct mem_event *e, struct err *err)
{
    struct gen   *g;
    struct slot  *slot;
    struct entry *entry;
    uint32_t      kind;
    int           rc;

    lock_take(&m->lock);
    TRY(active_ready(m, err));
    g = m->active;
    TRY(kind_of(g, category_of(e->stream), e->type, &kind, err));
    if (e->is_new)
        TRY(name_add(g, e->stream, e->id, e->pos, err));
    slot = slot_of(g, e->id);
    entry = entry_at(g, g->count);
    *entry = (struct entry){e->version, e->pos, slot->last, kind};
    must(slot->last == NONE || entry_at(g, slot->last)->version + 1 == e->version);
    slot->last = g->count++;
    g->last_pos = e->pos;
out:
    lock_give(&m->lock);
    return rc;
}

static int
states_grow(struct gen *g, struct err *err)
{
    uint32_t      room = g->state_room == 0 ? 64 : g->state_room * 2;
    struct state *states = realloc(g->states, room * sizeof *states);

    if (states == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    g->states = states;
    g->bytes += (uint64_t)(room - g->state_room) * sizeof *states;
    g->state_room = room;
    return 0;
}

int
logi_mem_add_state(struct mem *m, const struct mem_state *st, struct err *err)
{
    struct gen  *g;
    struct slot *slot;
    int          rc;

    lock_take(&m->lock);
    TRY(active_ready(m, err));
    g = m->active;
    if (g->state_count == g->state_room)
        TRY(states_grow(g, err));
    if (st->is_new)
        TRY(name_add(g, st->stream, st->id, st->pos, err));
    slot = slot_of(g, st->id);
    g->states[g->state_count] = (struct state){st->pos, st->head, slot->state};
    slot->state = g->state_count++;
    g->last_pos = st->pos;
out:
    lock_give(&m->lock);
    return rc;
}

static bool
gen_find(const struct gen *g, struct slice name, uint64_t hash, uint64_t bound, uint64_t *id)
{
    const struct name *n;

    if (g == NULL)
        return false;
    n = name_find(g, name, hash);
    if (n == NULL || n->len == 0 || n->pos >= bound)
        return false;
    *id = n->id;
    return true;
}

bool
logi_mem_find(struct mem *m, struct slice name, uint64_t bound, uint64_t *id)
{
    uint64_t hash = XXH3_64bits(name.data, name.len);
    bool     found;

    lock_take(&m->lock);
    found =
        gen_find(m->active, name, hash, bound, id) || gen_find(m->frozen, name, hash, bound, id);
    lock_give(&m->lock);
    return found;
}

/* The newest entry below bound; NONE. */
static uint32_t
newest(const struct gen *g, uint64_t id, uint64_t bound)
{
    const struct slot *slot;
    uint32_t           i;

    if (g == NULL)
        return NONE;
    slot = slot_find(g, id);
    if (slot == NULL || slot->id == UINT64_MAX)
        return NONE;
    for (i = slot->last; i != NONE && entry_at(g, i)->pos >= bound; i = entry_at(g, i)->prev)
        ;
    return i;
}

/* The newest state below bound; NULL. */
static const struct state *
newest_state(const struct gen *g, const struct slot *slot, uint64_t bound)
{
    for (uint32_t i = slot->state; i != NONE; i = g->states[i].prev)
        if (g->states[i].pos < bound)
            return &g->states[i];
    return NULL;
}

/* What this generation adds to what is `known` from a newer one. */
static unsigned
gen_head(const struct gen *g, uint64_t id, uint64_t bound, unsigned known, struct index_head *head)
{
    const struct slot  *slot = g == NULL ? NULL : slot_find(g, id);
    const struct state *st;
    uint32_t            i;

    if (slot == NULL || slot->id == UINT64_MAX)
        return known;
    i = newest(g, id, bound);
    if (i != NONE && ((known & MEM_NEXT) == 0 || (known & MEM_EMPTY) != 0)) {
        head->next = entry_at(g, i)->version + 1;
        head->last.v = entry_at(g, i)->pos;
        known = (known | MEM_NEXT) & ~(unsigned)MEM_EMPTY;
    }
    st = newest_state(g, slot, bound);
    if (st != NULL && (known & MEM_STATE) == 0) {
        head->truncate = st->head.truncate;
        head->max_count = st->head.max_count;
        head->max_age_us = st->head.max_age_us;
        head->flags = st->head.flags;
        known |= MEM_STATE;
        if ((known & MEM_NEXT) == 0) {
            head->next = st->head.next;
            known |= MEM_NEXT | MEM_EMPTY;
        }
    }
    return known;
}

unsigned
logi_mem_head(struct mem *m, uint64_t id, uint64_t bound, struct index_head *head)
{
    unsigned known;

    lock_take(&m->lock);
    known = gen_head(m->active, id, bound, 0, head);
    known = gen_head(m->frozen, id, bound, known, head);
    lock_give(&m->lock);
    return known;
}

/* Fills out[] with those versions in [low, low + n) that the generation has, by version. */
static void
collect(const struct gen *g, uint64_t id, uint64_t bound, uint64_t low, uint32_t n, uint64_t *out)
{
    for (uint32_t i = newest(g, id, bound); i != NONE; i = entry_at(g, i)->prev) {
        const struct entry *e = entry_at(g, i);
        if (e->version < low)
            return;
        if (e->version - low < n)
            out[e->version - low] = e->pos;
    }
}

bool
logi_mem_positions(struct mem *m, uint64_t id, uint64_t from, bool backwards, uint64_t bound,
                   uint64_t *out, uint32_t max, uint32_t *count)
{
    uint64_t window[256];
    uint32_t n = max < 256 ? max : 256;
    uint64_t low = from;

    must(n > 0);
    *count = 0;
    if (backwards) {
        if (from + 1 < n)
            n = (uint32_t)from + 1;
        low = from - (n - 1);
    }
    memset(window, 0, n * sizeof *window);
    lock_take(&m->lock);
    collect(m->frozen, id, bound, low, n, window);
    collect(m->active, id, bound, low, n, window);
    lock_give(&m->lock);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t pos = window[backwards ? n - 1 - i : i];
        if (pos == 0)
            break;
        out[(*count)++] = pos;
    }
    return *count > 0;
}

uint64_t
logi_mem_bytes(struct mem *m)
{
    uint64_t n;

    lock_take(&m->lock);
    n = (m->active == NULL ? 0 : m->active->bytes) + (m->frozen == NULL ? 0 : m->frozen->bytes);
    lock_give(&m->lock);
    return n;
}

uint32_t
logi_mem_active(struct mem *m)
{
    uint32_t n;

    lock_take(&m->lock);
    n = m->active == NULL ? 0 : m->active->count + m->active->state_count;
    lock_give(&m->lock);
    return n;
}

bool
logi_mem_is_frozen(struct mem *m)
{
    bool is;

    lock_take(&m->lock);
    is = m->frozen != NULL;
    lock_give(&m->lock);
    return is;
}

bool
logi_mem_freeze(struct mem *m, uint64_t *last_pos)
{
    bool some = false;

    lock_take(&m->lock);
    must(m->frozen == NULL);
    if (m->active != NULL && m->active->count + m->active->state_count > 0) {
        m->frozen = m->active;
        m->active = NULL;
        *last_pos = m->frozen->last_pos;
        some = true;
    }
    lock_give(&m->lock);
    return some;
}

/* the frozen generation as a transaction: it does not change any more */

/* What is sorted: an id, and where in its table it stands. */
struct key {
    uint64_t id;
    uint32_t at;
};

#define DIGIT_BITS 11u
#define DIGITS (1u << DIGIT_BITS)

/*
 * By id, digit by digit: ids are given out from 0 on, so that two rounds do
 * for millions of streams. `room` has 2 * n keys; `most` is the highest id.
 */
static struct key *
sort_keys(struct key *room, uint32_t n, uint64_t most)
{
    struct key *from = room, *to = room + n, *swap;
    uint32_t    starts[DIGITS];

    for (unsigned shift = 0; shift < 64 && most >> shift != 0; shift += DIGIT_BITS) {
        uint32_t sum = 0;

        memset(starts, 0, sizeof starts);
        for (uint32_t i = 0; i < n; i++)
            starts[from[i].id >> shift & (DIGITS - 1)]++;
        for (uint32_t d = 0; d < DIGITS; d++) {
            uint32_t count = starts[d];
            starts[d] = sum;
            sum += count;
        }
        for (uint32_t i = 0; i < n; i++)
            to[starts[from[i].id >> shift & (DIGITS - 1)]++] = from[i];
        swap = from;
        from = to;
        to = swap;
    }
    return from;
}

static struct slice
text_at(const struct gen *g, uint32_t off, uint32_t len)
{
    return slice_of(g->text.data + off, len);
}

/* False: nothing of the stream is below the bound. */
static bool
fill_update(struct gen *g, const struct slot *s, uint64_t bound, uint64_t *positions,
            struct index_update *u)
{
    const struct state *st = newest_state(g, s, bound);
    uint32_t            n = 0, last = newest(g, s->id, bound);

    if (last == NONE && st == NULL)
        return false;
    for (uint32_t i = last; i != NONE; i = entry_at(g, i)->prev)
        n++;
    *u = (struct index_update){.id = s->id, .positions = positions, .count = n};
    u->has_state = st != NULL;
    if (st != NULL)
        u->head = st->head;
    if (last != NONE) {
        u->head.next = entry_at(g, last)->version + 1;
        u->head.last.v = entry_at(g, last)->pos;
    }
    for (uint32_t i = last, k = n; i != NONE; i = entry_at(g, i)->prev)
        positions[--k] = entry_at(g, i)->pos;
    return true;
}

/* To the updates of new streams their names: both by id. */
static void
give_names(struct gen *g, struct index_batch *out, struct key *room)
{
    struct key *sorted;
    uint64_t    most = 0;
    uint32_t    n = 0, u = 0;

    for (uint32_t i = 0; i < g->name_room; i++) {
        if (g->names[i].len == 0)
            continue;
        room[n++] = (struct key){g->names[i].id, i};
        if (g->names[i].id > most)
            most = g->names[i].id;
    }
    sorted = sort_keys(room, n, most);
    for (uint32_t i = 0; i < n; i++) {
        const struct name *name = &g->names[sorted[i].at];
        while (u < out->update_count && out->updates[u].id < name->id)
            u++;
        if (u < out->update_count && out->updates[u].id == name->id)
            g->updates[u].name = text_at(g, name->off, name->len);
    }
}

/* The streams of the generation, each with its positions below the bound. */
static void
fill_updates(struct gen *g, uint64_t bound, struct index_batch *out, struct key *room)
{
    struct key *sorted;
    uint64_t    most = 0;
    uint32_t    n = 0, updates = 0, used = 0;

    for (uint32_t i = 0; i < g->slot_room; i++) {
        if (g->slots[i].id == UINT64_MAX)
            continue;
        room[n++] = (struct key){g->slots[i].id, i};
        if (g->slots[i].id > most)
            most = g->slots[i].id;
    }
    must(n == g->slot_count);
    sorted = sort_keys(room, n, most);
    for (uint32_t i = 0; i < n; i++) {
        if (!fill_update(g, &g->slots[sorted[i].at], bound, g->positions + used,
                         &g->updates[updates]))
            continue;
        used += g->updates[updates++].count;
    }
    out->updates = g->updates;
    out->update_count = updates;
}

static void
fill_events(struct gen *g, uint64_t bound, struct index_batch *out)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < g->count; i++) {
        const struct entry *e = entry_at(g, i);
        const struct kind  *k = &g->kinds[e->kind];

        if (e->pos >= bound)
            break;
        g->events[n].pos = e->pos;
        g->events[n].category = text_at(g, k->off, k->category_len);
        g->events[n].type = text_at(g, k->off + k->category_len, k->type_len);
        n++;
    }
    out->events = g->events;
    out->event_count = n;
}

int
logi_mem_batch(struct mem *m, uint64_t bound, struct index_batch *out, struct err *err)
{
    struct gen *g;
    struct key *room = NULL;
    int         rc = 0;

    lock_take(&m->lock);
    g = m->frozen;
    lock_give(&m->lock);
    must(g != NULL);
    must(g->name_count <= g->slot_count);
    free(g->updates);
    free(g->events);
    free(g->positions);
    g->updates = calloc(g->slot_count + 1, sizeof *g->updates);
    g->events = malloc((g->count + 1) * sizeof *g->events);
    g->positions = malloc((g->count + 1) * sizeof *g->positions);
    room = malloc((g->slot_count + 1) * 2 * sizeof *room);
    if (g->updates == NULL || g->events == NULL || g->positions == NULL || room == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the index's transaction");
    fill_updates(g, bound, out, room);
    give_names(g, out, room);
    fill_events(g, bound, out);
out:
    free(room);
    return rc;
}

void
logi_mem_drop(struct mem *m)
{
    struct gen *g;

    lock_take(&m->lock);
    g = m->frozen;
    m->frozen = NULL;
    lock_give(&m->lock);
    gen_free(g);
}
