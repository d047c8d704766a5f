/*
 * What holds for a stream, and what readers may see of it: its state, its
 * category's retention, and which streams have a state at all. That last one
 * is a bit for each stream, so that a scan of $all asks for no state where
 * there is none. A bit is set before the state is readable, and stays.
 */
#include <stdlib.h>

#include "log/log_int.h"

#define MARK_BITS 19u /* streams of one chunk: 64 KiB */
#define MARK_CHUNKS 65536u
#define RETENTION_MAX 10000u

struct marks {
    _Atomic(_Atomic uint64_t *) chunks[MARK_CHUNKS];
};

int
logi_marks_new(struct marks **out, struct err *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    return 0;
}

void
logi_marks_free(struct marks *m)
{
    if (m == NULL)
        return;
    for (uint32_t i = 0; i < MARK_CHUNKS; i++)
        free((void *)atomic_load(&m->chunks[i]));
    free(m);
}

int
logi_mark(struct log *log, uint64_t id, struct err *err)
{
    uint64_t          chunk = id >> MARK_BITS;
    _Atomic uint64_t *bits;

    if (chunk >= MARK_CHUNKS)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "too many streams to give one a state");
    bits = atomic_load(&log->marks->chunks[chunk]);
    if (bits == NULL) {
        bits = calloc((1u << MARK_BITS) / 64, sizeof *bits);
        if (bits == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        atomic_store(&log->marks->chunks[chunk], bits);
    }
    id &= (1u << MARK_BITS) - 1;
    atomic_fetch_or(&bits[id / 64], UINT64_C(1) << id % 64);
    return 0;
}

bool
logi_marked(struct log *log, uint64_t id)
{
    uint64_t          chunk = id >> MARK_BITS;
    _Atomic uint64_t *bits;

    if (chunk >= MARK_CHUNKS)
        return false;
    bits = atomic_load_explicit(&log->marks->chunks[chunk], memory_order_acquire);
    if (bits == NULL)
        return false;
    id &= (1u << MARK_BITS) - 1;
    return (atomic_load(&bits[id / 64]) >> id % 64 & 1) != 0;
}

int
logi_marks_load(struct log *log, struct err *err)
{
    uint64_t ids[256], from = 0;
    uint32_t n;
    int      rc;

    do {
        TRY(log->conf.index->restricted(log->index, from, ids, 256, &n, err));
        must(n <= 256);
        for (uint32_t i = 0; i < n; i++)
            TRY(logi_mark(log, ids[i], err));
        if (n > 0)
            from = ids[n - 1] + 1;
    } while (n == 256);
out:
    return rc;
}

/* a stream's head */

/* What memory does not know is as the index has it. */
static void
add_below(struct index_head *out, unsigned known, const struct index_head *below)
{
    if ((known & MEM_NEXT) == 0)
        out->next = below->next;
    if ((known & MEM_NEXT) == 0 || (known & MEM_EMPTY) != 0)
        out->last = below->last;
    if ((known & MEM_STATE) == 0) {
        out->truncate = below->truncate;
        out->max_count = below->max_count;
        out->max_age_us = below->max_age_us;
        out->flags = below->flags;
        out->moved = below->moved;
    }
}

int
logi_head(struct log *log, uint64_t id, uint64_t bound, struct index_head *out, struct err *err)
{
    struct index_head below = {0};
    unsigned          known;
    uint64_t          unused;
    int               rc;

    memset(out, 0, sizeof *out);
    must(bound > 0);
    /*
     * Memory first: between the two looks what it has may go to the index, never the other way.
     */
    known = logi_mem_head(log->mem, id, bound, out, &unused);
    if (known == (MEM_NEXT | MEM_STATE))
        return 0;
    rc = log->conf.index->head(log->index, id, &below, err);
    if (rc == E_NOTFOUND && (known & MEM_NEXT) != 0)
        rc = 0; /* it began in memory */
    if (rc == 0)
        add_below(out, known, &below);
    return rc;
}

int
logi_find(struct log *log, struct slice name, uint64_t bound, uint64_t *id, struct index_head *head,
          struct err *err)
{
    struct index_head below;
    uint64_t          before, after;
    unsigned          known;
    int               rc;

    memset(head, 0, sizeof *head);
    if (logi_mem_find(log->mem, name, bound, id, &before))
        return logi_head(log, *id, bound, head, err);
    rc = log->conf.index->find(log->index, name, id, &below, err);
    if (rc != 0)
        return rc;
    known = logi_mem_head(log->mem, *id, bound, head, &after);
    if (after != before) /* it may have been in neither when it was looked for */
        return logi_head(log, *id, bound, head, err);
    add_below(head, known, &below);
    return 0;
}

/* retention of categories */

struct retention {
    atomic_uint          refs;
    uint32_t             count;
    struct log_retention list[]; /* by category; their names follow in the same memory */
};

static int
by_category(const void *a, const void *b)
{
    return slice_cmp(((const struct log_retention *)a)->category,
                     ((const struct log_retention *)b)->category);
}

static int
retention_new(const struct log_retention *list, uint32_t count, struct retention **out,
              struct err *err)
{
    size_t            names = 0;
    struct retention *r;
    uint8_t          *at;

    *out = NULL;
    if (count > RETENTION_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "retention for %u categories, at most %u", count,
                   RETENTION_MAX);
    for (uint32_t i = 0; i < count; i++)
        names += list[i].category.len;
    r = malloc(sizeof *r + count * sizeof *list + names);
    if (r == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the retention");
    atomic_init(&r->refs, 1);
    r->count = count;
    at = (uint8_t *)&r->list[count];
    for (uint32_t i = 0; i < count; i++) {
        r->list[i] = list[i];
        r->list[i].category.data = at;
        if (list[i].category.len > 0)
            memcpy(at, list[i].category.data, list[i].category.len);
        at += list[i].category.len;
    }
    must(at == (uint8_t *)&r->list[count] + names);
    if (count > 0)
        qsort(r->list, count, sizeof *r->list, by_category);
    *out = r;
    return 0;
}

struct retention *
logi_retention_get(struct log *log)
{
    struct retention *r;

    lock_take(&log->admin);
    r = log->retention;
    must(r == NULL || atomic_load(&r->refs) > 0); /* the log's own */
    if (r != NULL)
        atomic_fetch_add(&r->refs, 1);
    lock_give(&log->admin);
    return r;
}

void
logi_retention_put(struct retention *r)
{
    if (r == NULL)
        return;
    must(atomic_load(&r->refs) > 0);
    if (atomic_fetch_sub(&r->refs, 1) == 1)
        free(r);
}

int
log_set_retention(struct log *log, const struct log_retention *list, uint32_t count,
                  struct err *err)
{
    struct retention *r = NULL, *old;
    int               rc = 0;

    if (count > 0)
        TRY(retention_new(list, count, &r, err));
    lock_take(&log->admin);
    old = log->retention;
    log->retention = r;
    lock_give(&log->admin);
    atomic_fetch_add(&log->state_epoch, 1);
    logi_retention_put(old);
out:
    return rc;
}

const struct log_retention *
logi_retention_of(const struct retention *r, struct slice stream)
{
    struct log_retention key = {0};
    const char          *dash;

    if (r == NULL || stream.len == 0)
        return NULL;
    dash = memchr(stream.data, '-', stream.len);
    if (dash == NULL)
        return NULL;
    key.category = slice_of(stream.data, (size_t)(dash - (const char *)stream.data));
    return bsearch(&key, r->list, r->count, sizeof *r->list, by_category);
}

/* what readers may see */

bool
logi_is_metastream(struct slice name)
{
    return name.len > 2 && memcmp(name.data, "$$", 2) == 0;
}

void
logi_view(const struct index_head *head, struct slice stream, const struct log_retention *category,
          struct view *out)
{
    uint64_t count = head->max_count;

    out->next = head->next;
    out->low = head->truncate;
    out->flags = head->flags;
    out->stage = (head->flags & INDEX_STAGED) != 0 ? head->truncate : UINT64_MAX;
    out->max_age_us = head->max_age_us;
    if (category != NULL && count == 0)
        count = category->max_count;
    if (category != NULL && out->max_age_us == 0)
        out->max_age_us = category->max_age_us;
    if (logi_is_metastream(stream))
        count = 1; /* the last metadata is the one that counts */
    out->max_count = count;
    if (count != 0 && head->next > count && head->next - count > out->low)
        out->low = head->next - count;
    if ((head->flags & (INDEX_DELETED | INDEX_TOMBSTONE | INDEX_STAGED)) != 0 ||
        out->low > head->next)
        out->low = head->next;
    must(out->low <= out->next);
}

bool
logi_too_old(struct log *log, int64_t max_age_us, int64_t created_us)
{
    return max_age_us != 0 && created_us <= log->env->ops->wall_us(log->env) - max_age_us;
}
