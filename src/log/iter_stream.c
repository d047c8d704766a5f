/* One stream by version, in both directions, and its head as readers see it. */
#include <inttypes.h>

#include "log/iter_int.h"

int
logi_stream_head(struct log *log, struct slice name, uint64_t end, uint64_t *id,
                 struct index_head *head, struct err *err)
{
    int rc = logi_find(log, name, end, id, head, err);

    if (rc == E_NOTFOUND)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "stream \"%.*s\" is not there", SLICE_FMT(name));
    return rc;
}

/* Nothing can be read of a deleted stream, or of one that has no events yet. */
static int
refuse_hidden(const struct log_iter *it, const struct view *v, struct err *err)
{
    struct slice name = it->read.stream;

    if (it->read.raw)
        return 0;
    if ((v->flags & INDEX_TOMBSTONE) != 0)
        RETURN_ERR(err, E_GONE, ERR_DATA, "stream \"%.*s\" was deleted for good", SLICE_FMT(name));
    if (v->next == 0 || (v->flags & (INDEX_DELETED | INDEX_STAGED)) != 0)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "stream \"%.*s\" is not there", SLICE_FMT(name));
    return 0;
}

/* What may be seen of the stream, whose head at `end` this is. */
static int
look(struct log_iter *it, const struct index_head *head, uint64_t end, struct err *err)
{
    logi_iter_view_of(it, it->id, it->read.stream, head, &it->view);
    it->view_end = end;
    it->view_epoch = it->epoch;
    if (it->read.raw) {
        it->shown = it->view.low;
        it->view.low = 0;
    } else if (it->read.skip_moved) {
        it->view.low = it->view.shown;
    }
    must(it->view.low <= it->view.next);
    return refuse_hidden(it, &it->view, err);
}

/* Looks again where that may have changed. */
static int
refresh(struct log_iter *it, struct err *err)
{
    uint64_t          end = atomic_load(&it->log->end);
    struct index_head head;
    int               rc;

    if (it->view_epoch == it->epoch && (it->view.max_count == 0 || it->view_end == end))
        return refuse_hidden(it, &it->view, err);
    TRY(logi_head(it->log, it->id, end, &head, err));
    rc = look(it, &head, end, err);
out:
    return rc;
}

static int
load_positions(struct log_iter *it, struct err *err)
{
    struct log *log = it->log;
    uint64_t    end = atomic_load(&log->end);

    it->next = 0;
    if (logi_mem_positions(log->mem, it->id, it->version, it->read.backwards, end, it->positions,
                           ITER_BATCH, &it->count))
        return 0;
    return log->conf.index->positions(log->index, it->id, it->version, it->read.backwards,
                                      it->positions, ITER_BATCH, &it->count, err);
}

/* Where the next version stands; E_END where there is none that may be seen. */
static int
next_position(struct log_iter *it, uint64_t *pos, struct err *err)
{
    int rc;

    if (!it->read.backwards && it->version < it->view.low) {
        it->version = it->view.low;
        it->count = it->next = 0;
    }
    if (it->read.backwards && it->version < it->view.low) {
        it->over = true;
        return E_END;
    }
    if (it->next == it->count) {
        rc = load_positions(it, err);
        if (rc == 0 && it->count == 0 && it->read.raw && !it->read.backwards &&
            it->version < it->shown) {
            it->version = it->shown; /* an index made after a scavenge has holes below that */
            rc = load_positions(it, err);
        }
        if (rc != 0)
            return rc;
        if (it->count == 0)
            return E_END;
    }
    must(it->next < it->count);
    must(it->count <= ITER_BATCH);
    *pos = it->positions[it->next];
    must((*pos & 7) == 0);
    if (*pos >= atomic_load(&it->log->end)) {
        it->count = it->next; /* not published yet: ask again */
        return E_END;
    }
    if (it->read.at.v != 0 && !it->read.backwards && *pos > it->read.at.v) {
        it->over = true;
        return E_END;
    }
    return 0;
}

static void
step(struct log_iter *it)
{
    must(it->version >= it->view.low);
    must(it->next < it->count);
    it->next++;
    it->passed = it->version;
    if (!it->read.backwards)
        it->version++;
    else if (it->version-- == 0)
        it->over = true;
}

/* What a stream's reader passes over beside what is hidden. */
static int
offer(struct log_iter *it, const struct record *r, const struct frame *f, struct log_event *out,
      bool *given, struct err *err)
{
    int rc;

    *given = false;
    if (r->kind == RECORD_STUB)
        return it->read.skip_moved ? logi_stub_give(it, r, f, out, given, err) : 0;
    if (it->read.skip_links && (r->flags & RECORD_LINK) != 0)
        return 0;
    *given = true;
    rc = logi_iter_give(it, r, f, out, err);
    if (rc == 0 && it->read.skip_moved && (r->flags & RECORD_LINK) == 0)
        rc = logi_copied_wanted(it, r, out, given, err);
    return rc;
}

int
logi_stream_next(struct log_iter *it, struct log_event *out, struct err *err)
{
    struct record r;
    struct frame  f;
    uint64_t      pos;
    bool          there;
    int           rc;

    rc = refresh(it, err);
    while (rc == 0 && (rc = it->over ? E_END : next_position(it, &pos, err)) == 0) {
        there = logi_iter_record(it, pos, &r, &f);
        if (there ? r.stream_id != it->id || r.version != it->version
                  : !logi_scan_gone(it->log->segs, pos))
            return logi_iter_damaged(it, pos, err);
        step(it);
        if (!there)
            continue; /* scavenged: the next version */
        if (it->read.raw || !logi_too_old(it->log, it->view.max_age_us, r.created_us)) {
            rc = offer(it, &r, &f, out, &there, err);
            if (rc != 0 || there)
                return rc;
        }
        if (logi_iter_tired(it, r.length))
            return E_MORE;
    }
    return rc;
}

/* The number of the stream's versions whose position is <= at, by halving. */
static int
versions_at(struct log *log, uint64_t id, uint64_t next, struct log_pos at, uint64_t *out,
            struct err *err)
{
    uint64_t lo = 0, hi = next, pos;

    must(at.v != 0); /* says that there is no bound */
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        int      rc = logi_position(log, id, mid, UINT64_MAX, &pos, err);
        if (rc != 0)
            return rc;
        if (pos <= at.v)
            lo = mid + 1;
        else
            hi = mid;
    }
    *out = lo;
    return 0;
}

int
logi_stream_open(struct log_iter *it, struct log_stream *info, struct err *err)
{
    uint64_t          end = atomic_load(&it->log->end), next;
    struct index_head head;
    int               rc;

    TRY(logi_stream_head(it->log, it->read.stream, end, &it->id, &head, err));
    TRY(look(it, &head, end, err));
    must(info == NULL || !(it->read.raw || it->read.skip_moved));
    if (info != NULL)
        logi_describe(it->read.stream, it->id, &head, &it->view, info);
    next = head.next;
    if (it->read.at.v != 0) {
        TRY(versions_at(it->log, it->id, head.next, it->read.at, &next, err));
        if (next == 0)
            FAIL(err, E_NOTFOUND, ERR_DATA,
                 "stream \"%.*s\" was not there yet at position %" PRIu64,
                 SLICE_FMT(it->read.stream), it->read.at.v);
    }
    it->version = it->read.from;
    if (it->read.backwards) {
        if (it->version >= next)
            it->version = next - 1;
        it->over = next == 0;
        must(it->over || it->version < next);
    }
    must(next <= head.next);
    rc = 0;
out:
    return rc;
}
