/*
 * Iterators. They read the mapped segments below the published end and nothing
 * else, so going from what is old to what is live needs no second path: there
 * is no gap and no double to be had.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "log/iter_int.h"

int
logi_iter_damaged(const struct log_iter *it, uint64_t pos, struct err *err)
{
    RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
               "%s: damaged at position %" PRIu64 ": run oxbow log verify", it->log->dir, pos);
}

bool
logi_iter_tired(struct log_iter *it, uint64_t bytes)
{
    it->looked += bytes;
    return it->read.patience != 0 && it->looked >= it->read.patience;
}

bool
logi_iter_record(struct log_iter *it, uint64_t pos, struct record *r, struct frame *f)
{
    struct segments *segs = it->log->segs;
    uint64_t         end = atomic_load(&it->log->end);

    must(!it->in_frame); /* what it holds may go with the pin */
    if (!it->seg_held || !logi_segs_pin_is_new(segs, &it->pin) || pos < it->seg.first ||
        pos >= it->seg.end) {
        logi_segs_pin(segs, &it->pin);
        it->seg_held = logi_segs_at(segs, pos, &it->seg);
    }
    if (!it->seg_held || pos >= end)
        return false;
    if (it->read.window != NULL && !it->seg.sparse &&
        logi_window_record(it->read.window, segs, &it->seg, pos, end, r, f))
        return true;
    return logi_scan_record_in(&it->seg, logi_segs_seed(segs), pos, end, true, r, f);
}

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
is_secret(struct slice stream)
{
    return slice_starts(stream, slice_str(LOG_SECRET_PREFIX));
}

static bool
type_wanted(const struct log_filter *f, struct slice type)
{
    if (f->type.len > 0 && !slice_eq(type, f->type))
        return false;
    if (!slice_starts(type, f->type_prefix))
        return false;
    return f->type_regex == NULL || regex_holds(f->type_regex, type);
}

bool
logi_iter_wanted(struct log_iter *it, const struct record *r)
{
    const struct log_filter *f = &it->read.filter;
    struct slice             type = slice_of(r->body + r->name_len, r->type_len);

    if (it->kind == ITER_FIRSTS)
        type = slice_str(LINK_TYPE); /* what is given, and known where version 0 is gone */
    if (!it->known || it->known_id != r->stream_id) {
        struct slice stream = slice_of(r->body, r->name_len);

        it->known_answer = stream_wanted(f, stream) && (it->read.secret || !is_secret(stream));
        it->known_id = r->stream_id;
        it->known = true;
    }
    return it->known_answer && type_wanted(f, type);
}

bool
logi_filter_holds(const struct log_filter *f, struct slice stream, struct slice type)
{
    return stream_wanted(f, stream) && type_wanted(f, type);
}

/* what may be seen */

void
logi_iter_view_of(struct log_iter *it, uint64_t id, struct slice stream,
                  const struct index_head *head, struct view *out)
{
    logi_view(head, stream, logi_retention_of(it->retention, stream), out);
    if (it->read.skip_moved)
        out->shown = logi_moved_shown(it->log, id, stream, head, out);
    must(!it->read.skip_moved || out->shown <= out->low); /* a move hides, and shows nothing */
}

/* … at least as it was at the position `since`. */
static int
view_since(struct log_iter *it, uint64_t id, struct slice stream, uint64_t since, struct view *out,
           struct err *err)
{
    uint64_t          end = atomic_load(&it->log->end);
    struct seen_view *seen;
    struct index_head head;
    int               rc;

    must(since <= end);
    if (it->views == NULL)
        it->views = calloc(ITER_VIEWS, sizeof *it->views);
    if (it->views == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a reader");
    seen = &it->views[id % ITER_VIEWS];
    /* A bound by number moves with each append to the stream, and so maybe with the end. */
    if (seen->epoch != it->epoch || seen->id != id || seen->end < since ||
        (seen->view.max_count != 0 && seen->end != end)) {
        rc = logi_head(it->log, id, end, &head, err);
        if (rc != 0)
            return rc;
        logi_iter_view_of(it, id, stream, &head, &seen->view);
        seen->id = id;
        seen->epoch = it->epoch;
        seen->end = end;
    }
    *out = seen->view;
    return 0;
}

int
logi_iter_view(struct log_iter *it, uint64_t id, struct slice stream, struct view *out,
               struct err *err)
{
    return view_since(it, id, stream, 0, out, err);
}

int
logi_iter_hold(struct log_iter *it, const struct record *r, const struct frame *f, struct err *err)
{
    struct slice stream = slice_of(r->body, r->name_len);
    uint64_t     fp[2];
    struct view  v;
    bool         open;
    int          rc;

    if ((f->head.flags & FRAME_STAGE) == 0 || it->read.raw || it->read.backwards)
        return 0;
    /* First who fills it: a stage that was ended before this look is seen to be. */
    logi_heads_fp(it->log->heads, stream, fp);
    open = logi_staging(it->log, fp, NULL);
    TRY(view_since(it, r->stream_id, stream, r->pos + 1, &v, err));
    if (!open && v.stage != UINT64_MAX)
        TRY(view_since(it, r->stream_id, stream, atomic_load(&it->log->end), &v, err));
    it->held = open && r->version >= v.stage;
out:
    return rc;
}

int
logi_iter_visible(struct log_iter *it, const struct record *r, bool *yes, struct err *err)
{
    struct slice stream = slice_of(r->body, r->name_len);
    struct view  v;
    int          rc;

    *yes = true;
    if (it->read.raw || (!logi_marked(it->log, r->stream_id) && !logi_is_metastream(stream) &&
                         logi_retention_of(it->retention, stream) == NULL))
        return 0;
    rc = logi_iter_view(it, r->stream_id, stream, &v, err);
    *yes = rc == 0 && r->version >= (it->read.skip_moved ? v.shown : v.low) &&
           !logi_too_old(it->log, v.max_age_us, r->created_us);
    return rc;
}

int
logi_iter_there(struct log_iter *it, uint64_t id, struct slice stream, bool *yes, struct err *err)
{
    struct record first = {.stream_id = id, .body = stream.data, .name_len = (uint16_t)stream.len};
    struct view   v;
    int           rc;

    *yes = logi_iter_wanted(it, &first);
    if (!*yes || it->read.raw || !logi_marked(it->log, id))
        return 0;
    rc = logi_iter_view(it, id, stream, &v, err);
    *yes = rc == 0 && (v.flags & (INDEX_DELETED | INDEX_TOMBSTONE | INDEX_STAGED)) == 0;
    return rc;
}

/* one event */

/* Metadata, then data. */
static int
payload_of(struct log_iter *it, const struct record *r, const struct frame *f,
           const uint8_t **payload, struct err *err)
{
    uint64_t bytes = (uint64_t)r->meta_len + r->data_len;

    must((uint32_t)r->name_len + r->type_len <= r->body_len); /* or it was no record */
    *payload = r->body + r->name_len + r->type_len;
    if ((r->flags & RECORD_CONTINUED) == 0) {
        if (bytes > r->body_len - r->name_len - r->type_len)
            RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "damaged record at position %" PRIu64, r->pos);
        return 0;
    }
    buf_clear(&it->payload);
    if (bytes > LOG_EVENT_MAX || !buf_reserve(&it->payload, bytes))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the event at %" PRIu64, r->pos);
    *payload = it->payload.data;
    return logi_scan_assemble(it->log->segs, r, f, atomic_load(&it->log->end), it->payload.data,
                              err);
}

static int
fill(struct log_iter *it, const struct record *r, const struct frame *f, struct log_event *out,
     struct err *err)
{
    const uint8_t *payload;
    int            rc;

    must(atomic_load_explicit(&it->pin.epoch, memory_order_relaxed) != 0); /* it stays mapped */
    memset(out, 0, sizeof *out);
    rc = payload_of(it, r, f, &payload, err);
    if (rc != 0)
        return rc;
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
    out->subject = slice_of(NULL, 0);
    if ((r->flags & RECORD_ENCRYPTED) == 0)
        return 0;
    out->flags |= LOG_SEALED;
    return it->read.sealed ? 0 : logi_seal_open(it->log, out, &it->plain, it->subject, err);
}

int
logi_iter_give(struct log_iter *it, const struct record *r, const struct frame *f,
               struct log_event *out, struct err *err)
{
    int rc = fill(it, r, f, out, err);

    if (rc == 0 && it->read.resolve && it->kind != ITER_FIRSTS && (out->flags & LOG_LINK) != 0)
        rc = logi_iter_resolve(it, out, err);
    return rc;
}

int
logi_iter_offer(struct log_iter *it, const struct record *r, const struct frame *f,
                struct log_event *out, bool *given, struct err *err)
{
    int rc;

    must(!it->held);
    *given = false;
    if (r->kind == RECORD_STUB)
        return it->read.skip_moved ? logi_stub_give(it, r, f, out, given, err) : 0;
    if (!logi_iter_wanted(it, r) || (it->read.skip_links && (r->flags & RECORD_LINK) != 0))
        return 0;
    rc = logi_iter_hold(it, r, f, err);
    if (rc != 0 || it->held)
        return rc;
    rc = it->kind == ITER_FIRSTS
             ? logi_iter_there(it, r->stream_id, slice_of(r->body, r->name_len), given, err)
             : logi_iter_visible(it, r, given, err);
    if (rc == 0 && *given)
        rc = logi_iter_give(it, r, f, out, err);
    if (rc == 0 && *given && it->read.skip_moved && (r->flags & RECORD_LINK) == 0)
        rc = logi_copied_wanted(it, r, out, given, err);
    return rc;
}

/* links */

/* "VERSION@STREAM" */
static bool
parse_link(struct slice data, uint64_t *version, struct slice *stream)
{
    const char *text = data.data, *at = data.len == 0 ? NULL : memchr(text, '@', data.len);
    uint64_t    v = 0;

    if (at == NULL || at == text || (size_t)(at - text) > 19)
        return false;
    for (const char *c = text; c < at; c++) {
        if (*c < '0' || *c > '9')
            return false;
        v = v * 10 + (uint64_t)(*c - '0');
    }
    *version = v;
    *stream = slice_of(at + 1, data.len - (size_t)(at + 1 - text));
    return stream->len > 0 && stream->len <= LOG_NAME_MAX;
}

/* The event that a link names, where readers may see it. */
static int
find_linked(struct log_iter *it, struct slice data, struct record *r, struct frame *f, bool *found,
            struct err *err)
{
    uint64_t          end = atomic_load(&it->log->end), version, id, pos;
    struct slice      stream;
    struct index_head head;
    int               rc;

    *found = false;
    if (!parse_link(data, &version, &stream) || (is_secret(stream) && !it->read.secret))
        return 0;
    rc = logi_find(it->log, stream, end, &id, &head, err);
    if (rc == E_NOTFOUND || (rc == 0 && version >= head.next))
        return 0;
    if (rc == 0)
        rc = logi_position(it->log, id, version, end, &pos, err);
    if (rc != 0 || pos == 0)
        return rc;
    if (!logi_scan_record_at(it->log->segs, pos, end, true, r, f) || r->stream_id != id ||
        r->version != version || r->kind != RECORD_EVENT)
        return 0; /* scavenged */
    return logi_iter_visible(it, r, found, err);
}

int
logi_iter_resolve(struct log_iter *it, struct log_event *out, struct err *err)
{
    struct log_link link = {out->pos,  out->version, out->stream,
                            out->meta, out->id,      out->created_us};
    struct record   r;
    struct frame    f;
    bool            found;
    int             rc = find_linked(it, out->data, &r, &f, &found, err);

    if (rc != 0)
        return rc;
    out->dangling = !found;
    if (!found)
        return 0;
    /* One step only: a link to a link is given as what it is, and circles are none. */
    rc = fill(it, &r, &f, out, err);
    out->link = link;
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

static enum iter_kind
kind_of(struct slice name)
{
    if (name.len == 0)
        return ITER_ALL;
    if (slice_is(name, "$streams"))
        return ITER_FIRSTS;
    if (name.len > 4 && slice_starts(name, slice_str("$ce-")))
        return ITER_CATEGORY;
    if (name.len > 4 && slice_starts(name, slice_str("$et-")))
        return ITER_TYPE;
    return ITER_STREAM;
}

/* What holds for readers has changed since this one looked: it looks again. */
static void
take_retention(struct log_iter *it)
{
    uint64_t epoch = atomic_load(&it->log->state_epoch);

    if (epoch == it->epoch)
        return;
    logi_retention_put(it->retention);
    it->retention = logi_retention_get(it->log);
    it->epoch = epoch;
}

int
log_iter_open_stream(struct log *log, const struct log_read *read, struct log_stream *info,
                     struct log_iter **out, struct err *err)
{
    struct log_iter *it;
    int              rc;

    *out = NULL;
    must(log->magic == LOGI_MAGIC);
    if (read->stream.len > LOG_NAME_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a stream's name has at most %d bytes", LOG_NAME_MAX);
    if (is_secret(read->stream) && !read->secret)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "stream \"%.*s\" is not there",
                   SLICE_FMT(read->stream));
    it = calloc(1, sizeof *it);
    if (it == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a reader");
    it->magic = LOGI_MAGIC;
    it->log = log;
    it->read = *read;
    if (read->stream.len > 0)
        memcpy(it->name, read->stream.data, read->stream.len);
    it->read.stream.data = it->name;
    it->kind = kind_of(it->read.stream);
    must(info == NULL || it->kind == ITER_STREAM);
    logi_segs_pin_add(log->segs, &it->pin);
    logi_segs_pin(log->segs, &it->pin);
    take_retention(it);
    TRY(keep_filter(it, err));
    if (it->kind == ITER_ALL)
        TRY(logi_all_open(it, err));
    else if (it->kind == ITER_STREAM)
        TRY(logi_stream_open(it, info, err));
    else
        TRY(logi_list_open(it, err));
    logi_segs_unpin(&it->pin);
    *out = it;
    it = NULL;
out:
    log_iter_close(it);
    return rc;
}

int
log_iter_open(struct log *log, const struct log_read *read, struct log_iter **out, struct err *err)
{
    return log_iter_open_stream(log, read, NULL, out, err);
}

int
log_iter_next(struct log_iter *it, struct log_event *out, struct err *err)
{
    uint64_t passed = it->passed;
    int      rc;

    must(it->magic == LOGI_MAGIC);
    must(it->next <= it->count);
    must(it->count <= ITER_BATCH);
    it->looked = 0;
    it->held = false;
    if (!it->in_frame && !it->seg_held)
        logi_segs_pin(it->log->segs, &it->pin);
    take_retention(it);
    if (it->over)
        rc = E_END;
    else if (it->kind == ITER_STREAM)
        rc = logi_stream_next(it, out, err);
    else if (it->kind != ITER_ALL)
        rc = logi_list_next(it, out, err);
    else if (it->read.backwards)
        rc = logi_all_backward(it, out, err);
    else
        rc = logi_all_forward(it, out, err);
    must(it->read.backwards || it->passed >= passed); /* whoever reads on meets nothing twice */
    if (it->over && rc != 0)
        it->in_frame = false;
    if (rc == E_END)
        logi_window_free(&it->window);
    if (rc != 0 && !it->in_frame) {
        logi_segs_unpin(&it->pin);
        it->seg_held = false;
    }
    return rc;
}

int
log_iter_at(struct log_iter *it, struct log_pos pos, struct log_event *out, struct err *err)
{
    uint64_t      end = atomic_load(&it->log->end);
    struct record r;
    struct frame  f;
    bool          yes;
    int           rc = 0;

    must(it->magic == LOGI_MAGIC);
    must(it->kind == ITER_ALL);
    it->held = false;
    if (!it->in_frame && !it->seg_held)
        logi_segs_pin(it->log->segs, &it->pin);
    take_retention(it);
    if (!logi_scan_record_at(it->log->segs, pos.v, end, true, &r, &f) ||
        (r.kind != RECORD_EVENT && r.kind != RECORD_STUB))
        FAIL(err, E_GONE, ERR_DATA, "no event is at position %" PRIu64, pos.v);
    yes = (f.head.flags & FRAME_QUIET) == 0 || it->read.filter.quiet;
    if (yes)
        TRY(logi_iter_offer(it, &r, &f, out, &yes, err));
    it->held = false;
    if (!yes)
        FAIL(err, E_NOTFOUND, ERR_DATA, "the event at position %" PRIu64 " is not for this reader",
             pos.v);
out:
    if (rc != 0 && !it->in_frame && !it->seg_held)
        logi_segs_unpin(&it->pin); /* else what was given stays mapped until the next call */
    return rc;
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
    must(it->magic == LOGI_MAGIC);
    logi_segs_pin_drop(it->log->segs, &it->pin);
    logi_window_free(&it->window);
    buf_fini(&it->text);
    buf_fini(&it->payload);
    logi_retention_put(it->retention);
    free(it->views);
    if (it->plain.data != NULL)
        memset(it->plain.data, 0, it->plain.cap);
    buf_fini(&it->plain);
    it->magic = 0;
    free(it);
}
