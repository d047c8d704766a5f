/*
 * What an index holds is the outcome of its transactions, so those are what is
 * kept: the power cut forgets the last ones and the rest is done again. All
 * lists are sorted arrays. Out of memory ends the simulation.
 */
#include "sim/index_map.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"

#define MAP_MAGIC 0x5eed1dbeU

struct words {
    uint64_t *items;
    uint32_t  count, cap;
};

struct event_at {
    uint64_t version, pos;
};

struct stream {
    uint64_t          id;
    struct slice      name; /* owned */
    struct index_head head;
    struct event_at  *events; /* in growing order of version */
    uint32_t          count, cap;
    uint64_t          first; /* position of the first event that it was told of */
};

struct label {
    char         kind; /* 'c' or 't' */
    struct slice name; /* owned */
    struct words positions;
};

/* What the transactions so far have made. */
struct content {
    uint64_t       covers, stream_count;
    struct stream *streams; /* in growing order of id */
    uint32_t       count, cap;
    uint32_t      *by_name; /* numbers of `streams`, in order of the names */
    uint32_t       by_name_cap;
    struct label  *labels; /* in order of kind, then name */
    uint32_t       label_count, label_cap;
};

/* A transaction, with memory of its own; with `reset` it is the emptying. */
struct done {
    bool               reset;
    struct index_batch batch;
};

struct disk {
    char          *dir;
    uint8_t        log_id[16];
    struct done   *done;
    uint32_t       done_count, done_cap, synced;
    struct content now;
    unsigned       open;
    struct disk   *next;
};

struct index_maps {
    struct ox_env     *env;
    index_maps_fn     *before;
    void              *arg;
    struct disk       *disks;
    struct index_maps *next;
};

struct ox_index {
    unsigned           magic;
    bool               read_only;
    struct index_maps *maps;
    struct disk       *disk;
};

/* Several simulations may run in one process, each on its own thread. */
static pthread_mutex_t    sets_lock = PTHREAD_MUTEX_INITIALIZER;
static struct index_maps *sets;

static void *
room(void *items, uint32_t count, uint32_t *cap, size_t size)
{
    void *more;

    if (count < *cap)
        return items;
    *cap = *cap == 0 ? 16 : *cap * 2;
    more = realloc(items, *cap * size);
    must(more != NULL);
    return more;
}

static void *
copy(const void *data, size_t len)
{
    void *own = malloc(len == 0 ? 1 : len);

    must(own != NULL);
    if (len > 0)
        memcpy(own, data, len);
    return own;
}

static struct slice
copy_slice(struct slice s)
{
    return slice_of(copy(s.data, s.len), s.len);
}

static void
free_slice(struct slice s)
{
    free((void *)(uintptr_t)s.data);
}

/* what it holds */

static void
empty(struct content *c)
{
    for (uint32_t i = 0; i < c->count; i++) {
        free_slice(c->streams[i].name);
        free(c->streams[i].events);
    }
    for (uint32_t i = 0; i < c->label_count; i++) {
        free_slice(c->labels[i].name);
        free(c->labels[i].positions.items);
    }
    free(c->streams);
    free(c->by_name);
    free(c->labels);
    *c = (struct content){.covers = 0};
}

/* Where the id is, or would be. */
static uint32_t
place_of(const struct content *c, uint64_t id)
{
    uint32_t low = 0;
    uint32_t high = c->count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;

        if (c->streams[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct stream *
stream_of(const struct content *c, uint64_t id)
{
    uint32_t at = place_of(c, id);

    return at < c->count && c->streams[at].id == id ? &c->streams[at] : NULL;
}

/* The first name that is not below `name`. */
static uint32_t
name_place(const struct content *c, struct slice name)
{
    uint32_t low = 0;
    uint32_t high = c->count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;

        if (slice_cmp(c->streams[c->by_name[mid]].name, name) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct stream *
add_stream(struct content *c, uint64_t id, struct slice name)
{
    uint32_t at = place_of(c, id);
    uint32_t order = name_place(c, name);

    must(order == c->count || !slice_eq(c->streams[c->by_name[order]].name, name));
    c->streams = room(c->streams, c->count, &c->cap, sizeof *c->streams);
    c->by_name = room(c->by_name, c->count, &c->by_name_cap, sizeof *c->by_name);
    memmove(c->streams + at + 1, c->streams + at, (c->count - at) * sizeof *c->streams);
    for (uint32_t i = 0; i < c->count; i++)
        c->by_name[i] += c->by_name[i] >= at;
    memmove(c->by_name + order + 1, c->by_name + order, (c->count - order) * sizeof *c->by_name);
    c->by_name[order] = at;
    c->streams[at] = (struct stream){.id = id, .name = copy_slice(name)};
    c->count++;
    return &c->streams[at];
}

/* Where the label is, or would be. */
static uint32_t
label_place(const struct content *c, char kind, struct slice name)
{
    uint32_t low = 0;
    uint32_t high = c->label_count;

    while (low < high) {
        uint32_t            mid = low + (high - low) / 2;
        const struct label *label = &c->labels[mid];
        int                 order = label->kind - kind;

        if (order == 0)
            order = slice_cmp(label->name, name);
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct label *
label_of(const struct content *c, char kind, struct slice name)
{
    uint32_t at = label_place(c, kind, name);

    if (at == c->label_count || c->labels[at].kind != kind || !slice_eq(c->labels[at].name, name))
        return NULL;
    return &c->labels[at];
}

static void
add_label(struct content *c, char kind, struct slice name, uint64_t pos)
{
    struct label *label = label_of(c, kind, name);
    uint32_t      at;
    struct words *list;

    if (name.len == 0)
        return;
    if (label == NULL) {
        at = label_place(c, kind, name);
        c->labels = room(c->labels, c->label_count, &c->label_cap, sizeof *c->labels);
        memmove(c->labels + at + 1, c->labels + at, (c->label_count - at) * sizeof *c->labels);
        c->label_count++;
        c->labels[at] = (struct label){.kind = kind, .name = copy_slice(name)};
        label = &c->labels[at];
    }
    list = &label->positions;
    must(list->count == 0 || list->items[list->count - 1] < pos);
    list->items = room(list->items, list->count, &list->cap, sizeof *list->items);
    list->items[list->count++] = pos;
}

static void
add_update(struct content *c, const struct index_update *u)
{
    struct stream    *s = stream_of(c, u->id);
    struct index_head before;

    must((s == NULL) == (u->name.len > 0));
    must(u->count <= u->head.next);
    if (s == NULL)
        s = add_stream(c, u->id, u->name);
    else
        must(s->head.next <= u->head.next - u->count); /* what was scavenged leaves a hole */
    if (s->count == 0 && u->count > 0)
        s->first = u->first != 0 ? u->first : u->positions[0];
    for (uint32_t i = 0; i < u->count; i++) {
        must((u->positions[i] & 7) == 0);
        must(s->count == 0 || s->events[s->count - 1].pos < u->positions[i]);
        s->events = room(s->events, s->count, &s->cap, sizeof *s->events);
        s->events[s->count].version = u->head.next - u->count + i;
        s->events[s->count++].pos = u->positions[i];
    }
    before = s->head;
    s->head = u->head;
    if (u->count == 0)
        s->head.last = before.last;
    if (!u->has_state) {
        s->head.truncate = before.truncate;
        s->head.max_count = before.max_count;
        s->head.max_age_us = before.max_age_us;
        s->head.flags = before.flags;
        s->head.moved = before.moved;
    }
}

static void
add_batch(struct content *c, const struct index_batch *b)
{
    must(b->covers.v >= c->covers);
    must(b->stream_count >= c->stream_count);
    for (uint32_t i = 0; i < b->update_count; i++) {
        must(i == 0 || b->updates[i - 1].id < b->updates[i].id);
        must(b->updates[i].id < b->stream_count);
        add_update(c, &b->updates[i]);
    }
    for (uint32_t i = 0; i < b->event_count; i++) {
        must(i == 0 || b->events[i - 1].pos < b->events[i].pos);
        add_label(c, 'c', b->events[i].category, b->events[i].pos);
        add_label(c, 't', b->events[i].type, b->events[i].pos);
    }
    c->covers = b->covers.v;
    c->stream_count = b->stream_count;
}

/* transactions */

static struct index_batch
copy_batch(const struct index_batch *b)
{
    struct index_batch   own = *b;
    struct index_update *updates = copy(b->updates, b->update_count * sizeof *updates);
    struct index_event  *events = copy(b->events, b->event_count * sizeof *events);

    for (uint32_t i = 0; i < b->update_count; i++) {
        updates[i].name = copy_slice(updates[i].name);
        updates[i].positions =
            copy(updates[i].positions, updates[i].count * sizeof *updates[i].positions);
    }
    for (uint32_t i = 0; i < b->event_count; i++) {
        events[i].category = copy_slice(events[i].category);
        events[i].type = copy_slice(events[i].type);
    }
    own.updates = updates;
    own.events = events;
    return own;
}

static void
free_done(struct done *done)
{
    struct index_batch *b = &done->batch;

    for (uint32_t i = 0; i < b->update_count; i++) {
        free_slice(b->updates[i].name);
        free((void *)(uintptr_t)b->updates[i].positions);
    }
    for (uint32_t i = 0; i < b->event_count; i++) {
        free_slice(b->events[i].category);
        free_slice(b->events[i].type);
    }
    free((void *)(uintptr_t)b->updates);
    free((void *)(uintptr_t)b->events);
}

static void
forget(struct disk *d, uint32_t from)
{
    while (d->done_count > from)
        free_done(&d->done[--d->done_count]);
    if (d->synced > from)
        d->synced = from;
}

static void
note_done(struct disk *d, const struct index_batch *b)
{
    struct done done = {.reset = b == NULL};

    if (b != NULL)
        done.batch = copy_batch(b);
    d->done = room(d->done, d->done_count, &d->done_cap, sizeof *d->done);
    d->done[d->done_count++] = done;
}

static void
do_again(struct disk *d)
{
    empty(&d->now);
    for (uint32_t i = 0; i < d->done_count; i++) {
        if (d->done[i].reset)
            empty(&d->now);
        else
            add_batch(&d->now, &d->done[i].batch);
    }
}

static void
free_disk(struct disk *d)
{
    forget(d, 0);
    empty(&d->now);
    free(d->done);
    free(d->dir);
    free(d);
}

/* the set */

struct index_maps *
index_maps_new(struct ox_env *env, index_maps_fn *before, void *arg)
{
    struct index_maps *maps = calloc(1, sizeof *maps);

    must(maps != NULL);
    maps->env = env;
    maps->before = before;
    maps->arg = arg;
    must(pthread_mutex_lock(&sets_lock) == 0);
    maps->next = sets;
    sets = maps;
    must(pthread_mutex_unlock(&sets_lock) == 0);
    return maps;
}

void
index_maps_free(struct index_maps *maps)
{
    if (maps == NULL)
        return;
    must(index_maps_open(maps) == 0);
    must(pthread_mutex_lock(&sets_lock) == 0);
    for (struct index_maps **at = &sets; *at != NULL; at = &(*at)->next) {
        if (*at == maps) {
            *at = maps->next;
            break;
        }
    }
    must(pthread_mutex_unlock(&sets_lock) == 0);
    while (maps->disks != NULL) {
        struct disk *d = maps->disks;

        maps->disks = d->next;
        free_disk(d);
    }
    free(maps);
}

static struct index_maps *
set_of(const struct ox_env *env)
{
    struct index_maps *maps;

    must(pthread_mutex_lock(&sets_lock) == 0);
    for (maps = sets; maps != NULL && maps->env != env; maps = maps->next)
        ;
    must(pthread_mutex_unlock(&sets_lock) == 0);
    return maps;
}

static struct disk *
disk_of(const struct index_maps *maps, const char *dir)
{
    struct disk *d;

    for (d = maps->disks; d != NULL && strcmp(d->dir, dir) != 0; d = d->next)
        ;
    return d;
}

uint32_t
index_maps_unsynced(const struct index_maps *maps, const char *dir)
{
    const struct disk *d = disk_of(maps, dir);

    return d == NULL ? 0 : d->done_count - d->synced;
}

void
index_maps_crash(struct index_maps *maps, index_maps_pick_fn *pick, void *arg)
{
    must(index_maps_open(maps) == 0);
    for (struct disk *d = maps->disks; d != NULL; d = d->next) {
        uint32_t unsynced = d->done_count - d->synced;
        uint64_t left = pick == NULL ? 0 : pick(arg, (uint64_t)unsynced + 1);

        must(left <= unsynced);
        forget(d, d->synced + (uint32_t)left);
        d->synced = d->done_count; /* what the machine finds is on its disk */
        do_again(d);
    }
}

void
index_maps_remove(struct index_maps *maps, const char *dir)
{
    for (struct disk **at = &maps->disks; *at != NULL; at = &(*at)->next) {
        struct disk *d = *at;

        if (strcmp(d->dir, dir) != 0)
            continue;
        must(d->open == 0);
        *at = d->next;
        free_disk(d);
        return;
    }
}

unsigned
index_maps_open(const struct index_maps *maps)
{
    unsigned open = 0;

    for (const struct disk *d = maps->disks; d != NULL; d = d->next)
        open += d->open;
    return open;
}

/* the table of functions */

static int
before(const struct index_maps *maps, const char *call, struct err *err)
{
    return maps->before == NULL ? 0 : maps->before(maps->arg, call, err);
}

static struct content *
content_of(struct ox_index *ix)
{
    must(ix->magic == MAP_MAGIC);
    return &ix->disk->now;
}

static struct disk *
make_disk(struct index_maps *maps, const char *dir)
{
    struct disk *d = calloc(1, sizeof *d);

    must(d != NULL);
    d->dir = copy(dir, strlen(dir) + 1);
    d->next = maps->disks;
    maps->disks = d;
    return d;
}

static int
map_open(struct ox_env *env, const char *dir, const uint8_t *log_id, bool read_only,
         struct ox_index **out, struct err *err)
{
    struct index_maps *maps = set_of(env);
    struct disk       *d;
    struct ox_index   *ix;
    int                rc = 0;

    *out = NULL;
    must(maps != NULL);
    TRY(before(maps, "open", err));
    d = disk_of(maps, dir);
    if (d == NULL && read_only)
        FAIL(err, E_NOTFOUND, ERR_FATAL, "%s: index: there is none", dir);
    if (d == NULL)
        d = make_disk(maps, dir);
    if (d->done_count == 0)
        memcpy(d->log_id, log_id, sizeof d->log_id);
    if (memcmp(d->log_id, log_id, sizeof d->log_id) != 0) {
        if (read_only)
            FAIL(err, E_FORMAT, ERR_FATAL, "%s: index: of another log", dir);
        must(d->open == 0);
        forget(d, 0);
        empty(&d->now);
        memcpy(d->log_id, log_id, sizeof d->log_id);
    }
    ix = calloc(1, sizeof *ix);
    must(ix != NULL);
    ix->magic = MAP_MAGIC;
    ix->read_only = read_only;
    ix->maps = maps;
    ix->disk = d;
    d->open++;
    *out = ix;
out:
    return rc;
}

static void
map_close(struct ox_index *ix)
{
    if (ix == NULL)
        return;
    must(ix->magic == MAP_MAGIC);
    must(ix->disk->open > 0);
    ix->disk->open--;
    ix->magic = 0;
    free(ix);
}

static int
map_reset(struct ox_index *ix, struct err *err)
{
    int rc;

    must(!ix->read_only);
    TRY(before(ix->maps, "reset", err));
    empty(content_of(ix));
    note_done(ix->disk, NULL);
    ix->disk->synced = ix->disk->done_count;
out:
    return rc;
}

static int
map_apply(struct ox_index *ix, const struct index_batch *batch, struct err *err)
{
    int rc;

    must(!ix->read_only);
    TRY(before(ix->maps, "apply", err));
    add_batch(content_of(ix), batch);
    note_done(ix->disk, batch);
out:
    return rc;
}

static int
map_sync(struct ox_index *ix, struct err *err)
{
    int rc;

    must(!ix->read_only);
    TRY(before(ix->maps, "sync", err));
    must(content_of(ix) != NULL);
    ix->disk->synced = ix->disk->done_count;
out:
    return rc;
}

static struct log_pos
map_covers(struct ox_index *ix)
{
    return LOG_POS(content_of(ix)->covers);
}

static uint64_t
map_stream_count(struct ox_index *ix)
{
    return content_of(ix)->stream_count;
}

static int
map_find(struct ox_index *ix, struct slice name, uint64_t *id, struct index_head *head,
         struct err *err)
{
    const struct content *c = content_of(ix);
    const struct stream  *s;
    uint32_t              at = name_place(c, name);
    int                   rc;

    TRY(before(ix->maps, "find", err));
    if (at == c->count || !slice_eq(c->streams[c->by_name[at]].name, name))
        FAIL(err, E_NOTFOUND, ERR_DATA, "there is no stream of this name");
    s = &c->streams[c->by_name[at]];
    *id = s->id;
    *head = s->head;
out:
    return rc;
}

static int
map_head(struct ox_index *ix, uint64_t id, struct index_head *head, struct err *err)
{
    const struct stream *s = stream_of(content_of(ix), id);
    int                  rc;

    TRY(before(ix->maps, "head", err));
    if (s == NULL)
        FAIL(err, E_NOTFOUND, ERR_DATA, "no stream has the id %llu", (unsigned long long)id);
    *head = s->head;
out:
    return rc;
}

static int
map_restricted(struct ox_index *ix, uint64_t from, uint64_t *ids, uint32_t max, uint32_t *count,
               struct err *err)
{
    const struct content *c = content_of(ix);
    int                   rc;

    *count = 0;
    TRY(before(ix->maps, "restricted", err));
    for (uint32_t i = place_of(c, from); i < c->count && *count < max; i++)
        if (index_restricted(&c->streams[i].head))
            ids[(*count)++] = c->streams[i].id;
out:
    return rc;
}

static int
map_name_of(struct ox_index *ix, uint64_t id, char out[256], size_t *len, struct err *err)
{
    const struct stream *s = stream_of(content_of(ix), id);
    int                  rc;

    TRY(before(ix->maps, "name_of", err));
    if (s == NULL)
        FAIL(err, E_NOTFOUND, ERR_DATA, "no stream has the id %llu", (unsigned long long)id);
    must(s->name.len <= 255);
    memcpy(out, s->name.data, s->name.len);
    *len = s->name.len;
out:
    return rc;
}

/* The first event whose version is not below. */
static uint32_t
event_place(const struct stream *s, uint64_t version)
{
    uint32_t low = 0;
    uint32_t high = s->count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;

        if (s->events[mid].version < version)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int
map_positions(struct ox_index *ix, uint64_t id, uint64_t from, bool backwards, uint64_t *positions,
              uint32_t max, uint32_t *count, struct err *err)
{
    const struct stream *s = stream_of(content_of(ix), id);
    uint32_t             at = 0;
    int                  rc;

    *count = 0;
    TRY(before(ix->maps, "positions", err));
    if (s != NULL)
        at = event_place(s, from);
    while (s != NULL && *count < max && at < s->count && s->events[at].version == from) {
        positions[(*count)++] = s->events[at].pos;
        if (backwards && at == 0)
            break;
        at = backwards ? at - 1 : at + 1;
        from = backwards ? from - 1 : from + 1;
    }
out:
    return rc;
}

static int
map_streams(struct ox_index *ix, struct slice prefix, struct slice after, index_stream_fn *fn,
            void *arg, struct err *err)
{
    const struct content *c = content_of(ix);
    int                   rc;

    TRY(before(ix->maps, "streams", err));
    for (uint32_t i = 0; i < c->count; i++) {
        const struct stream *s = &c->streams[c->by_name[i]];

        if (!slice_starts(s->name, prefix) || (after.len > 0 && slice_cmp(s->name, after) <= 0))
            continue;
        TRY(fn(arg, s->name, s->id, &s->head, err));
    }
out:
    return rc;
}

/* The first that is not below. */
static uint32_t
word_place(const struct words *words, uint64_t value)
{
    uint32_t low = 0;
    uint32_t high = words->count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;

        if (words->items[mid] < value)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int
list(struct ox_index *ix, char kind, struct slice name, uint64_t from, bool backwards,
     uint64_t *positions, uint32_t max, uint32_t *count, struct err *err)
{
    const struct label *label = label_of(content_of(ix), kind, name);
    uint32_t            at;
    int                 rc;

    *count = 0;
    TRY(before(ix->maps, "list", err));
    if (label == NULL)
        goto out;
    at = word_place(&label->positions, from);
    if (backwards && (at == label->positions.count || label->positions.items[at] > from))
        at--; /* below 0 it is beyond the end too */
    for (; at < label->positions.count && *count < max; at = backwards ? at - 1 : at + 1)
        positions[(*count)++] = label->positions.items[at];
out:
    return rc;
}

static int
map_category(struct ox_index *ix, struct slice name, uint64_t from, bool backwards,
             uint64_t *positions, uint32_t max, uint32_t *count, struct err *err)
{
    return list(ix, 'c', name, from, backwards, positions, max, count, err);
}

static int
map_type(struct ox_index *ix, struct slice name, uint64_t from, bool backwards, uint64_t *positions,
         uint32_t max, uint32_t *count, struct err *err)
{
    return list(ix, 't', name, from, backwards, positions, max, count, err);
}

/* The stream whose first event here comes next behind (before) the position; NULL. */
static const struct stream *
next_first(const struct content *c, uint64_t from, bool backwards)
{
    const struct stream *best = NULL;

    for (uint32_t i = 0; i < c->count; i++) {
        const struct stream *s = &c->streams[i];
        uint64_t             pos;

        if (s->count == 0)
            continue;
        pos = s->first;
        if (backwards ? pos > from : pos < from)
            continue;
        if (best == NULL || (backwards ? pos > best->first : pos < best->first))
            best = s;
    }
    return best;
}

static int
map_firsts(struct ox_index *ix, uint64_t from, bool backwards, uint64_t *positions, uint64_t *ids,
           uint32_t max, uint32_t *count, struct err *err)
{
    const struct content *c = content_of(ix);
    int                   rc;

    *count = 0;
    TRY(before(ix->maps, "firsts", err));
    while (*count < max) {
        const struct stream *s = next_first(c, from, backwards);

        if (s == NULL)
            break;
        positions[*count] = s->first;
        ids[(*count)++] = s->id;
        from = backwards ? s->first - 1 : s->first + 1;
    }
out:
    return rc;
}

const struct ox_index_ops sim_index_map = {
    .name = "map",
    .open = map_open,
    .close = map_close,
    .reset = map_reset,
    .apply = map_apply,
    .sync = map_sync,
    .covers = map_covers,
    .stream_count = map_stream_count,
    .find = map_find,
    .head = map_head,
    .restricted = map_restricted,
    .name_of = map_name_of,
    .positions = map_positions,
    .streams = map_streams,
    .category = map_category,
    .type = map_type,
    .firsts = map_firsts,
};
