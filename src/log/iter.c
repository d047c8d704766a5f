/*
 * Iterators. They read the mapped segments below the published end and nothing
 * else, so going from what is old to what is live needs no second path: there
 * is no gap and no double to be had.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "log/log_int.h"

#define BATCH 64u

struct log_iter {
    uint32_t        magic;
    struct log     *log;
    struct log_read read;
    char            name[LOG_NAME_MAX + 1];
    struct buf      text; /* copies of the filter's slices */
    struct buf      payload;
    bool            over; /* E_END for good */
    uint64_t        passed;

    /* $all */
    uint64_t     pos; /* a frame's start; backwards a frame's end */
    struct frame frame;
    bool         in_frame;
    uint32_t     off, left;
    uint64_t     known_id; /* filter: the last stream asked about, and the answer */
    bool         known, known_answer;

    /* a stream */
    uint64_t id, version;
    uint64_t positions[BATCH];
    uint32_t count, next;
};

/* the filter */

static bool
regex_holds(const regex_t *re, struct slice s)
{
    regmatch_t m = {.rm_so = 0, .rm_eo = (regoff_t)s.len};

    return regexec(re, s.data, 1, &m, REG_STARTEND) == 0;
}

static bool
in_category(struct slice stream, struct slice category)
{
    return stream.len > category.len && slice_starts(stream, category) &&
           ((const char *)stream.data)[category.len] == '-' &&
           memchr(stream.data, '-', category.len) == NULL;
}

static bool
stream_wanted(const struct log_filter *f, struct slice stream)
{
    if (!f->system && stream.len > 0 && ((const char *)stream.data)[0] == '$')
        return false;
    if (!slice_starts(stream, f->prefix))
        return false;
    if (f->category.len > 0 && !in_category(stream, f->category))
        return false;
    return f->stream_regex == NULL || regex_holds(f->stream_regex, stream);
}

static bool
wanted(struct log_iter *it, const struct record *r)
{
    const struct log_filter *f = &it->read.filter;
    struct slice             type = slice_of(r->body + r->name_len, r->type_len);

    if (!it->known || it->known_id != r->stream_id) {
        it->known_answer = stream_wanted(f, slice_of(r->body, r->name_len));
        it->known_id = r->stream_id;
        it->known = true;
    }
    if (!it->known_answer)
        return false;
    if (f->type.len > 0 && !slice_eq(type, f->type))
        return false;
    if (!slice_starts(type, f->type_prefix))
        return false;
    return f->type_regex == NULL || regex_holds(f->type_regex, type);
}

/* one event */

static int
give(struct log_iter *it, const struct record *r, const struct frame *f, struct log_event *out,
     struct err *err)
{
    uint64_t       bytes = (uint64_t)r->meta_len + r->data_len;
    const uint8_t *payload = r->body + r->name_len + r->type_len;

    if ((r->flags & RECORD_CONTINUED) != 0) {
        int rc;

        buf_clear(&it->payload);
        if (bytes > LOG_EVENT_MAX || !buf_reserve(&it->payload, bytes))
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the event at %" PRIu64, r->pos);
        rc = logi_scan_assemble(it->log->segs, r, f, atomic_load(&it->log->end), it->payload.data,
                                err);
        if (rc != 0)
            return rc;
        payload = it->payload.data;
    } else if (bytes > r->body_len - r->name_len - r->type_len) {
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "damaged record at position %" PRIu64, r->pos);
    }
    out->pos = LOG_POS(r->pos);
    out->commit = LOG_POS(f->head.commit);
    out->stream_id = r->stream_id;
    out->version = r->version;
    out->stream = slice_of(r->body, r->name_len);
    out->type = slice_of(r->body + r->name_len, r->type_len);
    out->meta = slice_of(payload, r->meta_len);
    out->data = slice_of(payload + r->meta_len, r->data_len);
    memcpy(out->id.b, r->id, sizeof out->id.b);
    out->created_us = r->created_us;
    out->time_us = f->head.time_us;
    out->flags = ((r->flags & RECORD_JSON) != 0 ? LOG_JSON : 0u) |
                 ((r->flags & RECORD_LINK) != 0 ? LOG_LINK : 0u);
    out->quiet = (f->head.flags & FRAME_QUIET) != 0;
    return 0;
}

static int
damaged(const struct log_iter *it, uint64_t pos, struct err *err)
{
    RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
               "%s: damaged at position %" PRIu64 ": run oxbow log verify", it->log->dir, pos);
}

/* $all */

static bool
frame_wanted(const struct log_iter *it)
{
    if ((it->frame.head.flags & FRAME_PAD) != 0)
        return false;
    return it->read.filter.quiet || (it->frame.head.flags & FRAME_QUIET) == 0;
}

static int
forward_next(struct log_iter *it, struct log_event *out, struct err *err)
{
    uint64_t      end = atomic_load(&it->log->end);
    uint32_t      seed = logi_segs_seed(it->log->segs);
    struct record r;

    for (;;) {
        if (!it->in_frame) {
            if (it->pos >= end)
                return E_END;
            if (!logi_scan_frame(it->log->segs, it->pos, end, &it->frame))
                return damaged(it, it->pos, err);
            it->in_frame = true;
            it->off = FRAME_HEADER;
            it->left = frame_wanted(it) ? it->frame.head.records : 0;
        }
        for (; it->left > 0;) {
            if (!logi_scan_record(&it->frame, seed, it->off, true, &r))
                return damaged(it, it->frame.head.pos + it->off, err);
            if (it->read.at.v != 0 && r.pos > it->read.at.v) {
                it->over = true;
                return E_END;
            }
            it->off += r.length;
            it->left--;
            if (r.pos < it->read.from || r.kind != RECORD_EVENT)
                continue;
            it->passed = r.pos + 1;
            if (wanted(it, &r))
                return give(it, &r, &it->frame, out, err);
        }
        it->pos += it->frame.head.length;
        if (it->pos > it->passed && it->pos > it->read.from)
            it->passed = it->pos;
        it->in_frame = false;
    }
}

static int
backward_next(struct log_iter *it, struct log_event *out, struct err *err)
{
    uint32_t      seed = logi_segs_seed(it->log->segs);
    struct record r;

    for (;;) {
        if (!it->in_frame) {
            if (it->pos <= logi_segs_first(it->log->segs)) {
                it->over = true;
                it->passed = 0;
                return E_END;
            }
            if (!logi_scan_frame_before(it->log->segs, it->pos, &it->frame))
                return damaged(it, it->pos, err);
            it->in_frame = true;
            it->off = it->frame.head.length - FRAME_TRAILER;
            it->left = frame_wanted(it) ? it->frame.head.records : 0;
        }
        for (; it->left > 0;) {
            if (!logi_scan_record_before(&it->frame, seed, it->off, true, &r))
                return damaged(it, it->frame.head.pos + it->off, err);
            it->off -= r.length;
            it->left--;
            if (r.pos > it->read.from || r.kind != RECORD_EVENT)
                continue;
            it->passed = r.pos - 1;
            if (wanted(it, &r))
                return give(it, &r, &it->frame, out, err);
        }
        it->pos = it->frame.head.pos;
        it->in_frame = false;
    }
}

static int
all_open(struct log_iter *it, struct err *err)
{
    uint64_t     end = atomic_load(&it->log->end);
    struct frame f;
    int          rc;

    if (it->read.backwards) {
        if (it->read.at.v != 0 && it->read.at.v < it->read.from)
            it->read.from = it->read.at.v;
        rc = logi_scan_seek(it->log->segs, it->read.from, end, &it->pos, err);
        if (rc == E_END) {
            it->pos = end;
            return 0;
        }
        if (rc == 0 && !logi_scan_frame(it->log->segs, it->pos, end, &f))
            return damaged(it, it->pos, err);
        if (rc == 0)
            it->pos += f.head.length;
        return rc;
    }
    it->passed = it->read.from;
    rc = logi_scan_seek(it->log->segs, it->read.from, end, &it->pos, err);
    if (rc == E_END) {
        it->pos = end;
        rc = 0;
    }
    return rc;
}

/* a stream */

static int
load_positions(struct log_iter *it, struct err *err)
{
    struct log *log = it->log;
    uint64_t    end = atomic_load(&log->end);

    it->next = 0;
    if (logi_mem_positions(log->mem, it->id, it->version, it->read.backwards, end, it->positions,
                           BATCH, &it->count))
        return 0;
    return log->conf.index->positions(log->index, it->id, it->version, it->read.backwards,
                                      it->positions, BATCH, &it->count, err);
}

static int
stream_next(struct log_iter *it, struct log_event *out, struct err *err)
{
    struct record r;
    struct frame  f;
    uint64_t      pos, end;
    int           rc;

    if (it->next == it->count) {
        rc = load_positions(it, err);
        if (rc != 0)
            return rc;
        if (it->count == 0)
            return E_END;
    }
    pos = it->positions[it->next];
    end = atomic_load(&it->log->end);
    if (pos >= end) {
        it->count = it->next; /* not published yet: ask again */
        return E_END;
    }
    if (it->read.at.v != 0 && !it->read.backwards && pos > it->read.at.v) {
        it->over = true;
        return E_END;
    }
    if (!logi_scan_record_at(it->log->segs, pos, end, true, &r, &f) || r.stream_id != it->id ||
        r.version != it->version)
        return damaged(it, pos, err);
    it->next++;
    it->passed = r.version;
    if (!it->read.backwards)
        it->version++;
    else if (it->version-- == 0)
        it->over = true;
    return give(it, &r, &f, out, err);
}

/* The number of the stream's versions whose position is <= at, by halving. */
static int
versions_at(struct log *log, uint64_t id, uint64_t next, struct log_pos at, uint64_t *out,
            struct err *err)
{
    uint64_t lo = 0, hi = next, pos;

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

/* A reader's view of a stream: what is published. */
static int
stream_head(struct log *log, struct slice name, uint64_t *id, struct index_head *head,
            struct err *err)
{
    uint64_t end = atomic_load(&log->end);
    bool     found = logi_mem_find(log->mem, name, end, id);
    int      rc;

    memset(head, 0, sizeof *head);
    if (!found) {
        rc = log->conf.index->find(log->index, name, id, head, err);
        if (rc == E_NOTFOUND)
            RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "stream \"%.*s\" is not there", SLICE_FMT(name));
        if (rc != 0)
            return rc;
    }
    if (!logi_mem_last(log->mem, *id, end, head)) {
        /* Again: its last events may have gone from memory to the index between the two looks. */
        rc = log->conf.index->head(log->index, *id, head, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int
stream_open(struct log_iter *it, struct err *err)
{
    struct index_head head;
    uint64_t          next;
    int               rc;

    TRY(stream_head(it->log, it->read.stream, &it->id, &head, err));
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
    } else if (it->version < head.truncate) {
        it->version = head.truncate;
    }
    rc = 0;
out:
    return rc;
}

/* the contract */

/* Slices of the filter are the caller's only until open returns. */
static bool
keep(struct log_iter *it, size_t *off, struct slice s)
{
    *off = it->text.len;
    buf_add_slice(&it->text, s);
    return !it->text.failed;
}

static int
keep_filter(struct log_iter *it, struct err *err)
{
    struct log_filter *f = &it->read.filter;
    size_t             at[4];

    if (!keep(it, &at[0], f->prefix) || !keep(it, &at[1], f->category) ||
        !keep(it, &at[2], f->type) || !keep(it, &at[3], f->type_prefix))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a filter");
    f->prefix.data = f->prefix.len > 0 ? it->text.data + at[0] : NULL;
    f->category.data = f->category.len > 0 ? it->text.data + at[1] : NULL;
    f->type.data = f->type.len > 0 ? it->text.data + at[2] : NULL;
    f->type_prefix.data = f->type_prefix.len > 0 ? it->text.data + at[3] : NULL;
    return 0;
}

int
log_iter_open(struct log *log, const struct log_read *read, struct log_iter **out, struct err *err)
{
    struct log_iter *it;
    int              rc;

    *out = NULL;
    must(log->magic == LOGI_MAGIC);
    if (read->stream.len > LOG_NAME_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a stream's name has at most %d bytes", LOG_NAME_MAX);
    it = calloc(1, sizeof *it);
    if (it == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a reader");
    it->magic = LOGI_MAGIC;
    it->log = log;
    it->read = *read;
    if (read->stream.len > 0)
        memcpy(it->name, read->stream.data, read->stream.len);
    it->read.stream.data = it->name;
    TRY(keep_filter(it, err));
    if (read->stream.len > 0)
        TRY(stream_open(it, err));
    else
        TRY(all_open(it, err));
    *out = it;
    it = NULL;
out:
    log_iter_close(it);
    return rc;
}

int
log_iter_next(struct log_iter *it, struct log_event *out, struct err *err)
{
    must(it->magic == LOGI_MAGIC);
    if (it->over)
        return E_END;
    if (it->read.stream.len > 0)
        return stream_next(it, out, err);
    return it->read.backwards ? backward_next(it, out, err) : forward_next(it, out, err);
}

struct log_pos
log_iter_pos(const struct log_iter *it)
{
    return LOG_POS(it->passed);
}

void
log_iter_close(struct log_iter *it)
{
    if (it == NULL)
        return;
    buf_fini(&it->text);
    buf_fini(&it->payload);
    it->magic = 0;
    free(it);
}

int
log_stream_info(struct log *log, struct slice name, struct log_stream *out, struct err *err)
{
    struct index_head head;
    int               rc;

    memset(out, 0, sizeof *out);
    out->name = name;
    TRY(stream_head(log, name, &out->id, &head, err));
    out->head = head.next - 1;
    out->first = head.truncate;
    out->last_pos = head.last;
    TRY(logi_position(log, out->id, out->first, UINT64_MAX, &out->first_pos.v, err));
out:
    return rc;
}

struct listing {
    log_stream_fn *fn;
    void          *arg;
};

static int
list_one(void *arg, struct slice name, uint64_t id, const struct index_head *head, struct err *err)
{
    struct listing   *l = arg;
    struct log_stream s = {.name = name,
                           .id = id,
                           .head = head->next - 1,
                           .first = head->truncate,
                           .last_pos = head->last};

    return l->fn(l->arg, &s, err);
}

int
log_streams(struct log *log, struct slice prefix, struct slice after, log_stream_fn *fn, void *arg,
            struct err *err)
{
    struct listing l = {fn, arg};
    int            rc = logi_flush(log, err);

    if (rc != 0)
        return rc;
    if (log->conf.read_only && logi_mem_active(log->mem) > 0)
        RETURN_ERR(err, E_STATE, ERR_FATAL,
                   "%s: not all streams are in the index: open it for writing once, or run oxbow "
                   "log reindex",
                   log->dir);
    return log->conf.index->streams(log->index, prefix, after, list_one, &l, err);
}
