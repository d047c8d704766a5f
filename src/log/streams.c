/* Streams as a whole: one of them, and the list of all. */
#include "log/iter_int.h"

static void
describe(const struct index_head *head, const struct view *v, struct log_stream *out)
{
    out->head = head->next - 1;
    out->first = v->low;
    out->last_pos = head->last;
    out->flags = head->flags;
    out->moved = head->moved == 0 ? 0 : head->moved - 1;
    out->max_count = v->max_count;
    out->max_age_us = v->max_age_us;
}

int
log_stream_info(struct log *log, struct slice name, struct log_stream *out, struct err *err)
{
    struct retention *retention = logi_retention_get(log);
    struct index_head head;
    struct view       v;
    int               rc;

    memset(out, 0, sizeof *out);
    out->name = name;
    TRY(logi_stream_head(log, name, &out->id, &head, err));
    logi_view(&head, name, logi_retention_of(retention, name), &v);
    if ((head.flags & INDEX_TOMBSTONE) != 0)
        FAIL(err, E_GONE, ERR_DATA, "stream \"%.*s\" was deleted for good", SLICE_FMT(name));
    if (head.next == 0 || (head.flags & (INDEX_DELETED | INDEX_STAGED)) != 0)
        FAIL(err, E_NOTFOUND, ERR_DATA, "stream \"%.*s\" is not there", SLICE_FMT(name));
    describe(&head, &v, out);
    if (v.low < head.next)
        TRY(logi_position(log, out->id, v.low, UINT64_MAX, &out->first_pos.v, err));
out:
    logi_retention_put(retention);
    return rc;
}

struct listing {
    log_stream_fn    *fn;
    void             *arg;
    struct retention *retention;
};

static int
list_one(void *arg, struct slice name, uint64_t id, const struct index_head *head, struct err *err)
{
    struct listing   *l = arg;
    struct log_stream s = {.name = name, .id = id};
    struct view       v;

    if (head->next == 0 || (head->flags & (INDEX_DELETED | INDEX_TOMBSTONE | INDEX_STAGED)) != 0)
        return 0;
    logi_view(head, name, logi_retention_of(l->retention, name), &v);
    describe(head, &v, &s);
    return l->fn(l->arg, &s, err);
}

int
log_streams(struct log *log, struct slice prefix, struct slice after, log_stream_fn *fn, void *arg,
            struct err *err)
{
    struct listing l = {fn, arg, NULL};
    int            rc = logi_flush(log, err);

    if (rc != 0)
        return rc;
    if (log->conf.read_only && logi_mem_active(log->mem) > 0)
        RETURN_ERR(err, E_STATE, ERR_FATAL,
                   "%s: not all streams are in the index: open it for writing once, or run oxbow "
                   "log reindex",
                   log->dir);
    l.retention = logi_retention_get(log);
    rc = log->conf.index->streams(log->index, prefix, after, list_one, &l, err);
    logi_retention_put(l.retention);
    return rc;
}
