/* Streams as a whole: one of them, and the list of all. */
#include <stdlib.h>

#include "log/iter_int.h"

void
logi_describe(struct slice name, uint64_t id, const struct index_head *head, const struct view *v,
              struct log_stream *out)
{
    must(v->next == head->next); /* of the same moment */
    must(v->low <= v->next);
    memset(out, 0, sizeof *out);
    out->name = name;
    out->id = id;
    out->head = head->next - 1;
    out->first = v->low;
    out->last_pos = head->last;
    out->flags = head->flags;
    out->moved = head->moved == 0 ? 0 : head->moved - 1;
    out->max_count = v->max_count;
    out->max_age_us = v->max_age_us;
}

int
log_stream_brief(struct log *log, struct slice name, struct log_stream *out, struct err *err)
{
    struct retention *retention = logi_retention_get(log);
    struct index_head head;
    struct view       v;
    uint64_t          id;
    int               rc;

    memset(out, 0, sizeof *out);
    out->name = name;
    out->head = UINT64_MAX;
    TRY(logi_stream_head(log, name, atomic_load(&log->end), &id, &head, err));
    logi_view(&head, name, logi_retention_of(retention, name), &v);
    logi_describe(name, id, &head, &v, out);
    if ((head.flags & INDEX_TOMBSTONE) != 0)
        FAIL(err, E_GONE, ERR_DATA, "stream \"%.*s\" was deleted for good", SLICE_FMT(name));
    if (head.next == 0 || (head.flags & (INDEX_DELETED | INDEX_STAGED)) != 0)
        FAIL(err, E_NOTFOUND, ERR_DATA, "stream \"%.*s\" is not there", SLICE_FMT(name));
out:
    logi_retention_put(retention);
    return rc;
}

int
log_stream_info(struct log *log, struct slice name, struct log_stream *out, struct err *err)
{
    int rc;

    TRY(log_stream_brief(log, name, out, err));
    if (out->first <= out->head)
        TRY(logi_position(log, out->id, out->first, UINT64_MAX, &out->first_pos.v, err));
out:
    return rc;
}

/*
 * The list is the index's, and between its streams those that began in memory and are not in it
 * yet; memory is asked first, since what it has may go to the index meanwhile. So nobody waits
 * for the index to be written.
 */
struct listing {
    struct log       *log;
    log_stream_fn    *fn;
    void             *arg;
    struct retention *retention;
    struct mem_names  names;  /* a heap, the lowest name first */
    bool              behind; /* memory has something that the index does not */
    bool              all;    /* also those that no reader finds */
    uint64_t          end;
};

static struct slice
name_at(const struct listing *l, uint32_t i)
{
    must(i < l->names.count);
    must(l->names.all[i].at + l->names.all[i].len <= l->names.text.len);
    return slice_of(l->names.text.data + l->names.all[i].at, l->names.all[i].len);
}

static void
sift(struct listing *l, uint32_t i)
{
    struct mem_names *n = &l->names;

    for (;;) {
        uint32_t        low = i;
        struct mem_name swap;

        for (uint32_t k = 2 * i + 1; k <= 2 * i + 2 && k < n->count; k++)
            if (slice_cmp(name_at(l, k), name_at(l, low)) < 0)
                low = k;
        if (low == i)
            return;
        swap = n->all[i];
        n->all[i] = n->all[low];
        n->all[low] = swap;
        i = low;
    }
}

static void
drop_lowest(struct listing *l)
{
    struct slice was = name_at(l, 0);

    l->names.all[0] = l->names.all[--l->names.count];
    sift(l, 0);
    must_slow(l->names.count == 0 || slice_cmp(was, name_at(l, 0)) <= 0);
}

static int
list_one(struct listing *l, struct slice name, uint64_t id, const struct index_head *head,
         struct err *err)
{
    struct log_stream s;
    struct view       v;

    if (!l->all &&
        (head->next == 0 || (head->flags & (INDEX_DELETED | INDEX_TOMBSTONE | INDEX_STAGED)) != 0))
        return 0;
    logi_view(head, name, logi_retention_of(l->retention, name), &v);
    logi_describe(name, id, head, &v, &s);
    return l->fn(l->arg, &s, err);
}

/* As it is now, whatever the index knows; nothing where nothing of it is published yet. */
static int
list_now(struct listing *l, struct slice name, uint64_t id, struct err *err)
{
    struct index_head head;
    int               rc = logi_head(l->log, id, l->end, &head, err);

    if (rc == E_NOTFOUND) {
        err_clear(err);
        return 0;
    }
    return rc != 0 ? rc : list_one(l, name, id, &head, err);
}

/* Those that began in memory, up to a name; empty: all that are left. */
static int
list_new(struct listing *l, struct slice upto, struct err *err)
{
    int rc = 0;

    while (rc == 0 && l->names.count > 0) {
        struct slice name = name_at(l, 0);
        uint64_t     id = l->names.all[0].id;

        if (upto.len > 0 && slice_cmp(name, upto) >= 0)
            break;
        drop_lowest(l);
        rc = list_now(l, name, id, err);
    }
    return rc;
}

static int
list_indexed(void *arg, struct slice name, uint64_t id, const struct index_head *head,
             struct err *err)
{
    struct listing *l = arg;
    int             rc = list_new(l, name, err);

    if (rc != 0)
        return rc;
    if (l->names.count > 0 && slice_eq(name_at(l, 0), name))
        drop_lowest(l); /* it was written meanwhile */
    return l->behind ? list_now(l, name, id, err) : list_one(l, name, id, head, err);
}

static int
list(struct log *log, struct slice prefix, struct slice after, bool all, log_stream_fn *fn,
     void *arg, struct err *err)
{
    struct listing l = {
        .log = log, .fn = fn, .arg = arg, .all = all, .end = atomic_load(&log->end)};
    int rc;

    l.retention = logi_retention_get(log);
    l.behind = logi_mem_active(log->mem) > 0 || logi_mem_is_frozen(log->mem);
    if (l.behind)
        TRY(logi_mem_names(log->mem, prefix, after, &l.names, err));
    for (uint32_t i = l.names.count / 2; i-- > 0;)
        sift(&l, i);
    TRY(log->conf.index->streams(log->index, prefix, after, list_indexed, &l, err));
    TRY(list_new(&l, slice_str(""), err));
out:
    logi_retention_put(l.retention);
    free(l.names.all);
    buf_fini(&l.names.text);
    return rc;
}

int
log_streams(struct log *log, struct slice prefix, struct slice after, log_stream_fn *fn, void *arg,
            struct err *err)
{
    return list(log, prefix, after, false, fn, arg, err);
}

int
log_streams_all(struct log *log, struct slice prefix, struct slice after, log_stream_fn *fn,
                void *arg, struct err *err)
{
    return list(log, prefix, after, true, fn, arg, err);
}
