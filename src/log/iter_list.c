/*
 * Native reads: the events of a category, of a type, and each stream's version
 * 0, by position. What the index covers comes from its lists; what is behind
 * that is scanned, so that there is no gap between old and live here either.
 */
#include <inttypes.h>
#include <stdio.h>

#include "log/iter_int.h"

/* The next positions of the list, from it->at. */
static int
load_list(struct log_iter *it, struct err *err)
{
    const struct ox_index_ops *ops = it->log->conf.index;
    struct ox_index           *ix = it->log->index;
    bool                       back = it->read.backwards;

    it->next = 0;
    if (it->kind == ITER_FIRSTS)
        return ops->firsts(ix, it->at, back, it->positions, it->ids, ITER_BATCH, &it->count, err);
    must(it->label.len > 0);
    if (it->kind == ITER_CATEGORY)
        return ops->category(ix, it->label, it->at, back, it->positions, ITER_BATCH, &it->count,
                             err);
    must(it->kind == ITER_TYPE);
    return ops->type(ix, it->label, it->at, back, it->positions, ITER_BATCH, &it->count, err);
}

/* Scans from `from` on; backwards from there down to the floor. */
static int
begin_scan(struct log_iter *it, uint64_t from, struct err *err)
{
    it->read.from = from;
    it->scanning = true;
    return logi_all_open(it, err);
}

/*
 * $streams: instead of version 0 itself a link to it, which is there even where that is gone.
 * `out` has what is known of version 0.
 */
static int
link_to_first(struct log_iter *it, struct slice name, struct log_event *out, struct err *err)
{
    int n = snprintf(it->first_text, sizeof it->first_text, "0@%.*s", SLICE_FMT(name));

    out->stream = slice_str("$streams");
    out->version = out->pos.v;
    out->type = slice_str(LINK_TYPE);
    out->data = slice_of(it->first_text, (size_t)n);
    out->meta = slice_of(NULL, 0);
    out->flags = LOG_LINK;
    return it->read.resolve ? logi_iter_resolve(it, out, err) : 0;
}

/* E_MORE: nothing for the caller at this position. */
static int
offer_first(struct log_iter *it, uint64_t pos, uint64_t id, struct log_event *out, struct err *err)
{
    char          name[LOG_NAME_MAX + 1];
    size_t        len;
    struct record r;
    struct frame  f;
    bool          yes;
    int           rc;
    bool          found = logi_iter_record(it, pos, &r, &f) && r.stream_id == id;

    TRY(it->log->conf.index->name_of(it->log->index, id, name, &len, err));
    must(len <= LOG_NAME_MAX);
    if (found && logi_iter_wanted(it, &r))
        TRY(logi_iter_hold(it, &r, &f, err));
    if (it->held)
        return E_MORE;
    TRY(logi_iter_there(it, id, slice_of(name, len), &yes, err));
    if (!yes)
        return E_MORE;
    if (found)
        TRY(logi_iter_give(it, &r, &f, out, err));
    else
        *out = (struct log_event){.pos = LOG_POS(pos), .commit = LOG_POS(pos), .stream_id = id};
    rc = link_to_first(it, slice_of(name, len), out, err);
out:
    return rc;
}

static int
offer_record(struct log_iter *it, uint64_t pos, struct log_event *out, struct err *err)
{
    struct record r;
    struct frame  f;
    bool          yes;
    int           rc;

    if (!logi_iter_record(it, pos, &r, &f))
        return logi_scan_gone(it->log->segs, pos) ? E_MORE : logi_iter_damaged(it, pos, err);
    if ((f.head.flags & FRAME_QUIET) != 0 && !it->read.filter.quiet)
        return E_MORE;
    rc = logi_iter_offer(it, &r, &f, out, &yes, err);
    return rc != 0 || yes ? rc : E_MORE;
}

/* One position further in the list. E_END: the list is at its end. */
static int
list_step(struct log_iter *it, struct log_event *out, struct err *err)
{
    uint64_t pos;
    int      rc;

    if (it->next == it->count) {
        rc = load_list(it, err);
        if (rc != 0)
            return rc;
        if (it->count == 0)
            return E_END;
    }
    must(it->next < it->count);
    must(it->count <= ITER_BATCH);
    pos = it->positions[it->next];
    must(it->read.backwards ? pos <= it->at : pos >= it->at);
    if (!it->read.backwards && it->read.at.v != 0 && pos > it->read.at.v) {
        it->over = true;
        return E_END;
    }
    it->at = it->read.backwards ? pos - 1 : pos + 1;
    it->passed = it->at;
    it->next++;
    rc = it->kind == ITER_FIRSTS ? offer_first(it, pos, it->ids[it->next - 1], out, err)
                                 : offer_record(it, pos, out, err);
    if (it->held) { /* the same one is the next one again */
        it->at = it->passed = pos;
        it->next--;
    }
    return rc;
}

static int
scan_step(struct log_iter *it, struct log_event *out, struct err *err)
{
    int rc = it->read.backwards ? logi_all_backward(it, out, err) : logi_all_forward(it, out, err);

    if (rc != 0 || it->kind != ITER_FIRSTS)
        return rc;
    return link_to_first(it, out->stream, out, err);
}

int
logi_list_next(struct log_iter *it, struct log_event *out, struct err *err)
{
    uint64_t covers;
    int      rc;

    for (;;) {
        if (it->scanning) {
            rc = scan_step(it, out, err);
            if (rc != E_END || !it->read.backwards)
                return rc;
            /* Down to what the index covered; the list has the rest. */
            it->over = it->scanning = false;
            it->at = it->floor == 0 ? 0 : it->floor - 1;
            if (it->at > it->read.from)
                it->at = it->read.from;
        }
        covers = atomic_load(&it->log->indexed);
        rc = list_step(it, out, err);
        if (it->held)
            return rc == E_MORE ? E_END : rc;
        if (rc == E_MORE && !logi_iter_tired(it, RECORD_MIN))
            continue;
        if (rc != E_END || it->over)
            return rc;
        if (it->read.backwards) {
            it->over = true;
            return E_END;
        }
        rc = begin_scan(it, it->at > covers ? it->at : covers, err);
        if (rc != 0)
            return rc;
    }
}

/* A filter of the caller's that the list's label does not meet leaves nothing to give. */
static void
narrow(struct log_iter *it, struct slice *filter)
{
    if (filter->len > 0 && !slice_eq(*filter, it->label))
        it->over = true;
    *filter = it->label;
}

int
logi_list_open(struct log_iter *it, struct err *err)
{
    uint64_t covers = atomic_load(&it->log->indexed);
    int      rc = 0;

    must(it->kind == ITER_FIRSTS || it->read.stream.len > 4); /* "$ce-", "$et-" and a name */
    it->label =
        it->kind == ITER_FIRSTS ? it->read.stream : slice_of(it->name + 4, it->read.stream.len - 4);
    /* The scan finds by the filter what the list has by its label; both have to hold. */
    if (it->kind == ITER_CATEGORY)
        narrow(it, &it->read.filter.category);
    else if (it->kind == ITER_TYPE)
        narrow(it, &it->read.filter.type);
    if (it->kind != ITER_FIRSTS && it->label.len > 0 && it->name[4] == '$')
        it->read.filter.system = true;
    it->at = it->passed = it->read.from;
    /* An index that was made after a scavenge knows no stubs. */
    if (it->read.skip_moved && !it->read.backwards && it->kind != ITER_FIRSTS)
        TRY(begin_scan(it, it->read.from, err));
    if (it->read.backwards) {
        if (it->read.at.v != 0 && it->read.at.v < it->read.from)
            it->read.from = it->at = it->read.at.v;
        if (it->read.from >= covers) {
            TRY(begin_scan(it, it->read.from, err));
            if (covers > it->floor)
                it->floor = covers; /* an empty index covers less than the log's beginning */
        }
    }
out:
    return rc;
}
