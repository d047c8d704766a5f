#include "log/mem.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/lock.h"
#include "base/must.h"
#include "log/sort.h"

#define NONE UINT32_MAX
#define CHUNK_BITS 14u
#define CHUNK (1u << CHUNK_BITS)
#define CHUNKS_MAX 4096u
#define KEEP_ENTRIES 400000u /* the memory of a larger generation is given back */
#define NAME_LATER 128u      /* bytes that a new stream takes in its transaction, about */

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
    uint64_t id;
    uint32_t last, state; /* its newest entry and state; NONE */
};

/* Of a stream that began in this generation. */
struct name {
    uint32_t hash, slot; /* a part of the hash; which slot is the stream's */
    uint32_t off, len;
};

struct kind {
    uint64_t hash;
    uint32_t off, category_len, type_len;
};

/*
 * Slots and names stand one after the other, with a table of hash to index + 1
 * beside each: a generation can be emptied and used again without a touch of what it does not
 * need, and pages that are there already cost nothing.
 */
struct gen {
    struct entry *chunks[CHUNKS_MAX];
    uint32_t      count;
    struct state *states;
    uint32_t      state_count, state_room;
    uint64_t      last_pos; /* of the last entry or state */
    struct slot  *slots;
    uint32_t     *slot_table;
    uint32_t      slot_room, slot_count;
    struct name  *names;
    uint32_t     *name_table;
    uint32_t      name_room, name_count;
    struct kind  *kinds;
    uint32_t      kind_room, kind_count;
    uint32_t     *kind_table; /* index + 1 */
    uint32_t      kind_last;  /* the last event's */
    struct buf    text;
};

/* Memory of a transaction, kept for the next one. */
struct scratch {
    struct index_update *updates;
    struct index_event  *events;
    uint64_t            *positions;
    struct key          *keys;             /* only before the events: the same memory */
    uint32_t             streams, entries; /* room for so many */
};

struct mem {
    struct ox_lock   lock;
    struct gen      *active, *frozen, *spare;
    struct scratch   scratch; /* the indexer's */
    _Atomic uint64_t bytes;   /* of active and frozen */
    uint64_t         drops;   /* generations that went to the index */
    bool             own;     /* what is added is this program's own */
};

/* Of the table beside `room` elements, a power of 2: at most half full. */
static size_t
table_room(uint32_t room)
{
    return (size_t)room * 2;
}

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
    free(g->slot_table);
    free(g->names);
    free(g->name_table);
    free(g->kinds);
    free(g->kind_table);
    buf_fini(&g->text);
    free(g);
}

/*
 * Of what is in use: what is only kept for later is no reason to write the index. A new stream
 * counts with what writing it takes.
 */
static uint64_t
gen_bytes(const struct gen *g)
{
    if (g == NULL)
        return 0;
    return sizeof *g + ((g->count >> CHUNK_BITS) + UINT64_C(1)) * CHUNK * sizeof(struct entry) +
           g->state_room * sizeof *g->states +
           g->slot_count * (sizeof *g->slots + 2 * sizeof *g->slot_table) +
           g->name_count * (sizeof *g->names + 2 * sizeof *g->name_table + NAME_LATER) +
           g->kind_room * (sizeof *g->kinds + 2 * sizeof *g->kind_table) + g->text.len;
}

/* Empty, as a new one. */
static void
gen_clear(struct gen *g)
{
    if (g->slot_count > 0)
        memset(g->slot_table, 0, table_room(g->slot_room) * sizeof *g->slot_table);
    if (g->name_count < g->name_room / 4) {
        /* Where streams are many but few are new, the names of the beginning are dead weight. */
        free(g->names);
        free(g->name_table);
        g->names = NULL;
        g->name_table = NULL;
        g->name_room = 0;
    } else if (g->name_count > 0) {
        memset(g->name_table, 0, table_room(g->name_room) * sizeof *g->name_table);
    }
    if (g->kind_count > 0)
        memset(g->kind_table, 0, table_room(g->kind_room) * sizeof *g->kind_table);
    g->count = g->state_count = g->slot_count = g->name_count = g->kind_count = 0;
    buf_clear(&g->text);
}

static uint64_t
mix(uint64_t v)
{
    v *= UINT64_C(0x9e3779b97f4a7c15);
    return v ^ (v >> 29);
}

/* Where the id stands in the table, or the free place for it. */
static uint32_t
slot_place(const struct gen *g, uint64_t id)
{
    uint32_t mask = (uint32_t)table_room(g->slot_room) - 1, i = (uint32_t)mix(id) & mask;

    while (g->slot_table[i] != 0 && g->slots[g->slot_table[i] - 1].id != id)
        i = (i + 1) & mask;
    return i;
}

/* NULL: nothing of the stream is in here. */
static struct slot *
slot_find(const struct gen *g, uint64_t id)
{
    uint32_t n = g->slot_room == 0 ? 0 : g->slot_table[slot_place(g, id)];

    return n == 0 ? NULL : &g->slots[n - 1];
}

static int
slots_grow(struct gen *g, struct err *err)
{
    uint32_t     room = g->slot_room == 0 ? 1024 : g->slot_room * 2;
    struct slot *slots = realloc(g->slots, room * sizeof *slots);
    uint32_t    *table = calloc(table_room(room), sizeof *table);

    must(room > g->slot_room);
    if (slots != NULL)
        g->slots = slots;
    if (slots == NULL || table == NULL) {
        free(table);
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    }
    free(g->slot_table);
    g->slot_table = table;
    g->slot_room = room;
    for (uint32_t i = 0; i < g->slot_count; i++)
        table[slot_place(g, slots[i].id)] = i + 1;
    return 0;
}

/* The stream's slot; a new one has no entry and no state. */
static int
slot_get(struct gen *g, uint64_t id, struct slot **out, struct err *err)
{
    uint32_t i;
    int      rc = 0;

    if (g->slot_count == g->slot_room)
        TRY(slots_grow(g, err));
    i = slot_place(g, id);
    if (g->slot_table[i] == 0) {
        g->slots[g->slot_count] = (struct slot){id, NONE, NONE};
        g->slot_table[i] = ++g->slot_count;
    }
    *out = &g->slots[g->slot_table[i] - 1];
    must((*out)->id == id);
out:
    return rc;
}

static uint32_t
name_place(const struct gen *g, struct slice name, uint32_t hash)
{
    uint32_t mask = (uint32_t)table_room(g->name_room) - 1, i;

    for (i = hash & mask; g->name_table[i] != 0; i = (i + 1) & mask) {
        const struct name *n = &g->names[g->name_table[i] - 1];
        if (n->hash == hash && slice_eq(slice_of(g->text.data + n->off, n->len), name))
            break;
    }
    return i;
}

static int
names_grow(struct gen *g, struct err *err)
{
    uint32_t     room = g->name_room == 0 ? 256 : g->name_room * 2;
    struct name *names = realloc(g->names, room * sizeof *names);
    uint32_t    *table = calloc(table_room(room), sizeof *table);
    uint32_t     mask = (uint32_t)table_room(room) - 1;

    must(room > g->name_room);
    if (names != NULL)
        g->names = names;
    if (names == NULL || table == NULL) {
        free(table);
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    }
    for (uint32_t i = 0; i < g->name_count; i++) {
        uint32_t k = names[i].hash & mask;
        while (table[k] != 0)
            k = (k + 1) & mask;
        table[k] = i + 1;
    }
    free(g->name_table);
    g->name_table = table;
    g->name_room = room;
    return 0;
}

static uint32_t
hash_of(struct slice name)
{
    return (uint32_t)XXH3_64bits(name.data, name.len);
}

static int
name_add(struct gen *g, struct slice name, const struct slot *slot, struct err *err)
{
    uint32_t hash = hash_of(name);
    uint32_t i;
    int      rc = 0;

    must((size_t)(slot - g->slots) < g->slot_count);
    must(g->text.len + name.len <= UINT32_MAX); /* what a place in it is kept in */
    if (g->name_count == g->name_room)
        TRY(names_grow(g, err));
    i = name_place(g, name, hash);
    if (g->name_table[i] != 0)
        FAIL(err, E_DAMAGED, ERR_FATAL, "a stream of this name is there already");
    if (!buf_reserve(&g->text, name.len))
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    g->names[g->name_count] =
        (struct name){hash, (uint32_t)(slot - g->slots), (uint32_t)g->text.len, (uint32_t)name.len};
    buf_add_slice(&g->text, name);
    g->name_table[i] = ++g->name_count;
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
    uint32_t    *table = calloc(table_room(room), sizeof *table);

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
    g->kind_room = room;
    return 0;
}

static bool
kind_is(const struct gen *g, uint32_t number, struct slice category, struct slice type)
{
    const struct kind *k = &g->kinds[number];
    const uint8_t     *text = g->text.data + k->off;

    return slice_eq(slice_of(text, k->category_len), category) &&
           slice_eq(slice_of(text + k->category_len, k->type_len), type);
}

/* The number of this pair of category and type in the generation. */
static int
kind_of(struct gen *g, struct slice category, struct slice type, uint32_t *out, struct err *err)
{
    uint64_t hash;
    uint32_t mask, i;
    int      rc = 0;

    /* Neighbouring events are mostly of one kind. */
    *out = g->kind_last;
    if (g->kind_last < g->kind_count && kind_is(g, g->kind_last, category, type))
        return 0;
    hash = XXH3_64bits(type.data, type.len) ^
           mix(category.len == 0 ? 0 : XXH3_64bits(category.data, category.len));
    if (g->kind_count >= g->kind_room)
        TRY(kinds_grow(g, err));
    mask = g->kind_room * 2 - 1;
    for (i = (uint32_t)hash & mask; g->kind_table[i] != 0; i = (i + 1) & mask) {
        uint32_t n = g->kind_table[i] - 1;
        if (g->kinds[n].hash == hash && kind_is(g, n, category, type)) {
            *out = g->kind_last = n;
            return 0;
        }
    }
    must(g->kind_count < g->kind_room);
    must(g->text.len + category.len + type.len <= UINT32_MAX);
    if (!buf_reserve(&g->text, category.len + type.len))
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    g->kinds[g->kind_count] =
        (struct kind){hash, (uint32_t)g->text.len, (uint32_t)category.len, (uint32_t)type.len};
    buf_add_slice(&g->text, category);
    buf_add_slice(&g->text, type);
    *out = g->kind_last = g->kind_count;
    g->kind_table[i] = ++g->kind_count;
out:
    return rc;
}

static void
scratch_fini(struct scratch *s)
{
    free(s->updates);
    free(s->events);
    free(s->positions);
    *s = (struct scratch){.streams = 0};
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
    gen_free(m->spare);
    scratch_fini(&m->scratch);
    lock_fini(&m->lock);
    free(m);
}

static int
active_ready(struct mem *m, struct err *err)
{
    struct gen *g = m->active;

    if (g == NULL) {
        g = m->spare != NULL ? m->spare : calloc(1, sizeof *g);
        m->spare = NULL;
        m->active = g;
        if (g == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
        must(g->count + g->state_count == 0);
        must(g->slot_count == 0);
    }
    if (g->count >> CHUNK_BITS >= CHUNKS_MAX)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "too much is not indexed");
    if (g->chunks[g->count >> CHUNK_BITS] == NULL) {
        g->chunks[g->count >> CHUNK_BITS] = malloc(CHUNK * sizeof(struct entry));
        if (g->chunks[g->count >> CHUNK_BITS] == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    }
    return 0;
}

void
logi_mem_own(struct mem *m)
{
    lock_take(&m->lock);
    m->own = true;
    lock_give(&m->lock);
}

/*
 * Does the record stand behind all that is in here, and its number above those of its stream? They
 * need not be neighbours: between two of them others may be scavenged.
 */
static bool
follows(const struct gen *g, const struct slot *slot, uint64_t pos, uint64_t version, bool is_new)
{
    const struct state *st = slot->state == NONE ? NULL : &g->states[slot->state];

    if (slot->last != NONE && entry_at(g, slot->last)->version >= version)
        return false;
    if (st != NULL && st->head.next > version)
        return false;
    return pos > g->last_pos && (!is_new || (slot->last == NONE && st == NULL));
}

/* Hints of where these will stand. */
static void
expect(const struct gen *g, const struct mem_event *events, uint32_t count)
{
    const uint32_t slots = (uint32_t)table_room(g->slot_room) - 1;
    const uint32_t names = (uint32_t)table_room(g->name_room) - 1;

    for (uint32_t i = 0; i < count; i++) {
        if (g->slot_room > 0)
            __builtin_prefetch(&g->slot_table[(uint32_t)mix(events[i].id) & slots], 1);
        if (events[i].is_new && g->name_room > 0)
            __builtin_prefetch(&g->name_table[hash_of(events[i].stream) & names], 1);
    }
}

static int
add(struct mem *m, const struct mem_event *e, struct err *err)
{
    struct gen  *g;
    struct slot *slot;
    uint32_t     kind;
    int          rc;

    must(e->pos % 8 == 0);
    must_slow(m->frozen == NULL || m->frozen->last_pos < e->pos);
    TRY(active_ready(m, err));
    g = m->active;
    TRY(kind_of(g, category_of(e->stream), e->type, &kind, err));
    TRY(slot_get(g, e->id, &slot, err));
    if (!follows(g, slot, e->pos, e->version, e->is_new))
        FAIL(err, E_DAMAGED, ERR_FATAL, "it does not follow what stands before it");
    if (e->is_new)
        TRY(name_add(g, e->stream, slot, err));
    *entry_at(g, g->count) = (struct entry){e->version, e->pos, slot->last, kind};
    slot->last = g->count++;
    g->last_pos = e->pos;
out:
    must(rc != E_DAMAGED || !m->own);
    return rc;
}

int
logi_mem_add(struct mem *m, const struct mem_event *events, uint32_t count, struct err *err)
{
    uint64_t before;
    int      rc = 0;

    lock_take(&m->lock);
    before = gen_bytes(m->active);
    if (m->active != NULL && count > 1)
        expect(m->active, events, count);
    for (uint32_t i = 0; i < count; i++)
        TRY(add(m, &events[i], err));
out:
    atomic_fetch_add_explicit(&m->bytes, gen_bytes(m->active) - before, memory_order_relaxed);
    lock_give(&m->lock);
    return rc;
}

static int
states_grow(struct gen *g, struct err *err)
{
    uint32_t      room = g->state_room == 0 ? 64 : g->state_room * 2;
    struct state *states = realloc(g->states, room * sizeof *states);

    must(room > g->state_room);
    if (states == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    g->states = states;
    g->state_room = room;
    return 0;
}

int
logi_mem_add_state(struct mem *m, const struct mem_state *st, struct err *err)
{
    struct gen  *g;
    struct slot *slot;
    uint64_t     before;
    int          rc;

    must(st->pos % 8 == 0);
    lock_take(&m->lock);
    before = gen_bytes(m->active);
    must_slow(m->frozen == NULL || m->frozen->last_pos < st->pos);
    TRY(active_ready(m, err));
    g = m->active;
    if (g->state_count == g->state_room)
        TRY(states_grow(g, err));
    TRY(slot_get(g, st->id, &slot, err));
    if (!follows(g, slot, st->pos, st->head.next, st->is_new))
        FAIL(err, E_DAMAGED, ERR_FATAL, "it does not follow what stands before it");
    if (st->is_new)
        TRY(name_add(g, st->stream, slot, err));
    g->states[g->state_count] = (struct state){st->pos, st->head, slot->state};
    slot->state = g->state_count++;
    g->last_pos = st->pos;
out:
    must(rc != E_DAMAGED || !m->own);
    atomic_fetch_add_explicit(&m->bytes, gen_bytes(m->active) - before, memory_order_relaxed);
    lock_give(&m->lock);
    return rc;
}

/* The newest entry below bound; NONE. */
static uint32_t
newest_of(const struct gen *g, const struct slot *slot, uint64_t bound)
{
    uint32_t i;

    for (i = slot->last; i != NONE && entry_at(g, i)->pos >= bound; i = entry_at(g, i)->prev)
        must_slow(entry_at(g, i)->prev == NONE || entry_at(g, i)->prev < i);
    must(i == NONE || i < g->count);
    return i;
}

static uint32_t
newest(const struct gen *g, uint64_t id, uint64_t bound)
{
    const struct slot *slot = g == NULL ? NULL : slot_find(g, id);

    return slot == NULL ? NONE : newest_of(g, slot, bound);
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

/* Its first record is the stream's first: all of it is in here. */
static bool
gen_find(const struct gen *g, struct slice name, uint32_t hash, uint64_t bound, uint64_t *id)
{
    const struct slot *slot;
    uint32_t           n;

    if (g == NULL || g->name_count == 0)
        return false;
    n = g->name_table[name_place(g, name, hash)];
    if (n == 0)
        return false;
    must(n <= g->name_count);
    slot = &g->slots[g->names[n - 1].slot];
    *id = slot->id;
    return newest_of(g, slot, bound) != NONE || newest_state(g, slot, bound) != NULL;
}

bool
logi_mem_find(struct mem *m, struct slice name, uint64_t bound, uint64_t *id, uint64_t *drops)
{
    uint32_t hash = hash_of(name);
    bool     found;

    lock_take(&m->lock);
    found =
        gen_find(m->active, name, hash, bound, id) || gen_find(m->frozen, name, hash, bound, id);
    *drops = m->drops;
    lock_give(&m->lock);
    return found;
}

static int
add_names(const struct gen *g, struct slice prefix, struct slice after, struct mem_names *out,
          struct err *err)
{
    for (uint32_t i = 0; g != NULL && i < g->name_count; i++) {
        const struct name *n = &g->names[i];
        struct slice       text = slice_of(g->text.data + n->off, n->len);
        struct mem_name   *all;

        must(n->off + n->len <= g->text.len);
        must(n->slot < g->slot_count);
        if (!slice_starts(text, prefix) || slice_cmp(text, after) <= 0)
            continue;
        if (out->count == out->room) {
            uint32_t room = out->room == 0 ? 64 : out->room * 2;

            all = realloc(out->all, room * sizeof *all);
            if (all == NULL)
                RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a list of streams");
            out->all = all;
            out->room = room;
        }
        out->all[out->count++] = (struct mem_name){g->slots[n->slot].id, out->text.len, n->len};
        buf_add_slice(&out->text, text);
    }
    if (out->text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a list of streams");
    return 0;
}

int
logi_mem_names(struct mem *m, struct slice prefix, struct slice after, struct mem_names *out,
               struct err *err)
{
    int rc;

    lock_take(&m->lock);
    rc = add_names(m->frozen, prefix, after, out, err);
    if (rc == 0)
        rc = add_names(m->active, prefix, after, out, err);
    lock_give(&m->lock);
    return rc;
}

/* What this generation adds to what is `known` from a newer one. */
static unsigned
gen_head(const struct gen *g, uint64_t id, uint64_t bound, unsigned known, struct index_head *head)
{
    const struct slot  *slot = g == NULL ? NULL : slot_find(g, id);
    const struct state *st;
    uint32_t            i;

    if (slot == NULL)
        return known;
    i = newest_of(g, slot, bound);
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
        head->moved = st->head.moved;
        known |= MEM_STATE;
        if ((known & MEM_NEXT) == 0) {
            head->next = st->head.next;
            known |= MEM_NEXT | MEM_EMPTY;
        }
    }
    return known;
}

unsigned
logi_mem_head(struct mem *m, uint64_t id, uint64_t bound, struct index_head *head, uint64_t *drops)
{
    unsigned known;

    lock_take(&m->lock);
    *drops = m->drops;
    known = gen_head(m->active, id, bound, 0, head);
    known = gen_head(m->frozen, id, bound, known, head);
    lock_give(&m->lock);
    /* Where only a state is known, that said what is next. */
    must((known & MEM_EMPTY) == 0 || (known & (MEM_NEXT | MEM_STATE)) == (MEM_NEXT | MEM_STATE));
    return known;
}

/* Fills out[] with those versions in [low, low + n) that the generation has, by version. */
static void
collect(const struct gen *g, uint64_t id, uint64_t bound, uint64_t low, uint32_t n, uint64_t *out)
{
    for (uint32_t i = newest(g, id, bound); i != NONE; i = entry_at(g, i)->prev) {
        const struct entry *e = entry_at(g, i);
        must_slow(e->prev == NONE || entry_at(g, e->prev)->version < e->version);
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
    return atomic_load_explicit(&m->bytes, memory_order_relaxed);
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
        must(m->active->slot_count > 0);
        m->frozen = m->active;
        m->active = NULL;
        *last_pos = m->frozen->last_pos;
        some = true;
    }
    lock_give(&m->lock);
    return some;
}

/* the frozen generation as a transaction: it does not change any more */

static_assert(2 * sizeof(struct key) <= sizeof(struct index_event), "keys share the events' room");

static struct slice
text_at(const struct gen *g, uint32_t off, uint32_t len)
{
    return slice_of(g->text.data + off, len);
}

/* False: nothing of the stream is below the bound. */
static bool
fill_update(const struct gen *g, const struct slot *s, uint64_t bound, uint64_t *positions,
            struct index_update *u)
{
    const struct state *st = newest_state(g, s, bound);
    uint32_t            n = 0, last = newest_of(g, s, bound), i;

    if (last == NONE && st == NULL)
        return false;
    /* Before a scavenged version all are hidden. */
    for (i = last; i != NONE; i = entry_at(g, i)->prev, n++)
        if (entry_at(g, i)->version + n != entry_at(g, last)->version)
            break;
    *u = (struct index_update){.id = s->id, .positions = positions, .count = n};
    u->has_state = st != NULL;
    if (st != NULL)
        u->head = st->head;
    if (last != NONE) {
        u->head.next = entry_at(g, last)->version + 1;
        u->head.last.v = entry_at(g, last)->pos;
    }
    for (; i != NONE; i = entry_at(g, i)->prev)
        u->first = entry_at(g, i)->pos; /* of $streams, wherever batches end */
    i = last;
    for (uint32_t k = n; k > 0; i = entry_at(g, i)->prev) {
        positions[--k] = entry_at(g, i)->pos;
        must(k + 1 == n || positions[k] < positions[k + 1]);
    }
    must(n == 0 || positions[n - 1] < bound);
    must(n <= u->head.next);
    return true;
}

/* To the updates of new streams their names: both by id. */
static void
give_names(const struct gen *g, struct index_batch *out, struct scratch *s)
{
    struct key *sorted;
    uint64_t    most = 0;
    uint32_t    n = 0, u = 0;

    for (; n < g->name_count; n++) {
        uint64_t id = g->slots[g->names[n].slot].id;
        s->keys[n] = (struct key){id, n};
        if (id > most)
            most = id;
    }
    sorted = logi_sort_keys(s->keys, n, most);
    for (uint32_t i = 0; i < n; i++) {
        const struct name *name = &g->names[sorted[i].at];
        must(i == 0 || sorted[i - 1].id < sorted[i].id); /* a stream has one name */
        while (u < out->update_count && out->updates[u].id < sorted[i].id)
            u++;
        if (u < out->update_count && out->updates[u].id == sorted[i].id)
            s->updates[u].name = text_at(g, name->off, name->len);
    }
}

/* The streams of the generation, each with its positions below the bound. */
static void
fill_updates(const struct gen *g, uint64_t bound, struct index_batch *out, struct scratch *s)
{
    struct key *sorted;
    uint64_t    most = 0;
    uint32_t    n = 0, updates = 0, used = 0;

    for (; n < g->slot_count; n++) {
        s->keys[n] = (struct key){g->slots[n].id, n};
        if (g->slots[n].id > most)
            most = g->slots[n].id;
    }
    sorted = logi_sort_keys(s->keys, n, most);
    for (uint32_t i = 0; i < n; i++) {
        must(i == 0 || sorted[i - 1].id < sorted[i].id); /* each stream once */
        if (!fill_update(g, &g->slots[sorted[i].at], bound, s->positions + used,
                         &s->updates[updates]))
            continue;
        used += s->updates[updates++].count;
        must(used <= g->count);
    }
    out->updates = s->updates;
    out->update_count = updates;
}

static void
fill_events(const struct gen *g, uint64_t bound, struct index_batch *out, struct scratch *s)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < g->count; i++) {
        const struct entry *e = entry_at(g, i);
        const struct kind  *k = &g->kinds[e->kind];

        if (e->pos >= bound)
            break;
        must(n == 0 || s->events[n - 1].pos < e->pos);
        must(e->kind < g->kind_count);
        s->events[n].pos = e->pos;
        s->events[n].category = text_at(g, k->off, k->category_len);
        s->events[n].type = text_at(g, k->off + k->category_len, k->type_len);
        n++;
    }
    out->events = s->events;
    out->event_count = n;
}

/* Room for a transaction of so many; what was in it is gone. */
static int
scratch_room(struct scratch *s, uint32_t streams, uint32_t entries, struct err *err)
{
    if (streams <= s->streams && entries <= s->entries)
        return 0;
    scratch_fini(s);
    s->updates = malloc(streams * sizeof *s->updates);
    s->events = malloc(entries * sizeof *s->events);
    s->positions = malloc(entries * sizeof *s->positions);
    if (s->updates == NULL || s->events == NULL || s->positions == NULL) {
        scratch_fini(s);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the index's transaction");
    }
    s->keys = (struct key *)(void *)s->events;
    s->streams = streams;
    s->entries = entries;
    return 0;
}

int
logi_mem_batch(struct mem *m, uint64_t bound, struct index_batch *out, struct err *err)
{
    const struct gen *g;
    int               rc;

    lock_take(&m->lock);
    g = m->frozen;
    lock_give(&m->lock);
    must(g != NULL && g->name_count <= g->slot_count);
    must(g->slot_count <= g->count + g->state_count);
    TRY(scratch_room(&m->scratch, g->slot_count, g->count + g->state_count, err));
    fill_updates(g, bound, out, &m->scratch);
    give_names(g, out, &m->scratch);
    fill_events(g, bound, out, &m->scratch);
out:
    return rc;
}

void
logi_mem_drop(struct mem *m)
{
    struct gen *g;

    lock_take(&m->lock);
    g = m->frozen;
    m->frozen = NULL;
    m->drops += g != NULL;
    lock_give(&m->lock);
    if (g == NULL)
        return;
    must(logi_mem_bytes(m) >= gen_bytes(g));
    atomic_fetch_sub_explicit(&m->bytes, gen_bytes(g), memory_order_relaxed);
    if (m->scratch.entries > KEEP_ENTRIES)
        scratch_fini(&m->scratch);
    if (g->count + g->state_count <= KEEP_ENTRIES) {
        gen_clear(g);
        lock_take(&m->lock);
        if (m->spare == NULL) {
            m->spare = g;
            g = NULL;
        }
        lock_give(&m->lock);
    }
    gen_free(g);
}
