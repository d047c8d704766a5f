/*
 * Expected versions, and the answer to a commit that was there before.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "log/log_int.h"

/* With t->fp set already. */
static int
resolve(struct log *log, struct slice name, struct target *t, struct err *err)
{
    struct head      *h = logi_heads_get(log->heads, t->fp);
    struct index_head head;
    uint64_t          id;
    int               rc;

    if (h == NULL && logi_heads_know(log->heads, t->fp)) {
        *t = (struct target){.fp = {t->fp[0], t->fp[1]}, .is_new = true};
        return 0;
    }
    if (h == NULL) {
        rc = logi_find(log, name, UINT64_MAX, &id, &head, err);
        if (rc == E_NOTFOUND) {
            *t = (struct target){.fp = {t->fp[0], t->fp[1]}, .is_new = true};
            return 0;
        }
        if (rc != 0)
            return rc;
        h = logi_heads_put(log->heads, t->fp);
        h->id = id;
        h->next = head.next;
        h->truncate = head.truncate;
        h->flags = head.flags;
    }
    *t = (struct target){.fp = {h->fp[0], h->fp[1]},
                         .id = h->id,
                         .next = h->next,
                         .truncate = h->truncate,
                         .flags = h->flags};
    return 0;
}

int
logi_resolve(struct log *log, struct slice name, struct target *t, struct err *err)
{
    logi_heads_fp(log->heads, name, t->fp);
    return resolve(log, name, t, err);
}

int
logi_position(struct log *log, uint64_t id, uint64_t version, uint64_t bound, uint64_t *pos,
              struct err *err)
{
    uint32_t n = 0;
    int      rc;

    *pos = 0;
    if (logi_mem_positions(log->mem, id, version, false, bound, pos, 1, &n)) {
        must(n == 1);
        must(*pos < bound);
        return 0;
    }
    rc = log->conf.index->positions(log->index, id, version, false, pos, 1, &n, err);
    if (rc != 0)
        return rc;
    if (n == 0 || *pos >= bound)
        *pos = 0;
    return 0;
}

static bool
holds(int64_t expected, const struct target *t)
{
    switch (expected) {
    case LOG_ANY:
        return true;
    case LOG_NO_STREAM:
        return t->next == 0 || !logi_there(t);
    case LOG_EXISTS:
        return logi_there(t);
    default:
        return expected >= 0 && t->next == (uint64_t)expected + 1;
    }
}

static int64_t
actual(const struct target *t)
{
    return t->next == 0 || !logi_there(t) ? LOG_NO_STREAM : (int64_t)(t->next - 1);
}

#define CLOSED ((uint32_t)(INDEX_TOMBSTONE | INDEX_MOVED | INDEX_CLOSED))

enum same {
    SAME_NONE,  /* not there */
    SAME_ALL,   /* these very events, in this order */
    SAME_SOME,  /* some of them */
    SAME_LATER, /* not durable yet: ask again */
    SAME_ERROR,
};

/* Are the write's events those that stand at `version` and on? */
static enum same
same_at(struct log *log, const struct log_write *w, const struct target *t, uint64_t version,
        uint64_t *first_pos, uint64_t *last_pos, struct err *err)
{
    uint64_t      end = atomic_load(&log->end), pos;
    uint32_t      same = 0;
    struct record r;
    struct frame  f;

    must(!t->is_new);
    must(w->count > 0);
    if (t->next <= version)
        return SAME_NONE;
    for (uint32_t i = 0; i < w->count && version + i < t->next; i++) {
        if (logi_position(log, t->id, version + i, UINT64_MAX, &pos, err) != 0)
            return SAME_ERROR;
        if (pos >= end)
            return SAME_LATER;
        if (pos == 0 || !logi_scan_record_at(log->segs, pos, end, true, &r, &f))
            return SAME_NONE; /* truncated away: it cannot be known any more */
        if ((f.head.flags & FRAME_STAGE) != 0 && version + i < t->truncate)
            return SAME_NONE; /* of a stage that may have had no end */
        if (memcmp(r.id, w->events[i].id.b, 16) == 0)
            same++;
        if (i == 0)
            *first_pos = pos;
        *last_pos = pos;
    }
    must(same <= w->count);
    return same == w->count ? SAME_ALL : same > 0 ? SAME_SOME : SAME_NONE;
}

static enum same
written_before(struct log *log, const struct log_write *w, const struct target *t,
               uint64_t *version, uint64_t *first_pos, uint64_t *last_pos, struct err *err)
{
    uint64_t      end = atomic_load(&log->end), pos;
    struct record r;
    struct frame  f;

    if ((t->flags & (INDEX_DELETED | INDEX_STAGED)) != 0)
        return SAME_NONE; /* what was there went with the stream, or never took effect */
    for (uint32_t i = 0; i < w->count; i++)
        if (id_is_zero(&w->events[i].id))
            return SAME_NONE;
    if (w->expected >= 0 || w->expected == LOG_NO_STREAM) {
        *version = (uint64_t)w->expected + 1; /* LOG_NO_STREAM: 0 */
        return same_at(log, w, t, *version, first_pos, last_pos, err);
    }
    pos = logi_recent_find(log->recent, t->id, w->events[0].id.b);
    if (pos == 0)
        return SAME_NONE;
    if (pos >= end)
        return SAME_LATER;
    if (!logi_scan_record_at(log->segs, pos, end, true, &r, &f) || r.stream_id != t->id ||
        memcmp(r.id, w->events[0].id.b, 16) != 0)
        return SAME_NONE;
    *version = r.version;
    return same_at(log, w, t, *version, first_pos, last_pos, err);
}

static enum check_result
wrong_version(struct log_req *req, struct slice stream, int64_t expected, const struct target *t)
{
    req->wrong_stream = stream;
    req->wrong_expected = expected;
    req->wrong_actual = actual(t);
    req->gone_flags = t->flags;
    req->rc = err_set(&req->err, __FILE__, __LINE__, E_WRONG_VERSION, ERR_DATA,
                      actual(t) == LOG_NO_STREAM ? "stream \"%.*s\" is not there"
                                                 : "stream \"%.*s\" is at version %" PRId64,
                      SLICE_FMT(stream), actual(t));
    return CHECK_ANSWER;
}

/* Some of the commit's events stand already and some do not: neither new nor a repetition. */
static enum check_result
partly_there(struct log_req *req, struct slice stream, int64_t expected, const struct target *t)
{
    (void)wrong_version(req, stream, expected, t);
    req->rc = err_set(&req->err, __FILE__, __LINE__, E_WRONG_VERSION, ERR_DATA,
                      "stream \"%.*s\" has only a part of these events already: nothing is written "
                      "twice, and this is no repetition",
                      SLICE_FMT(stream));
    return CHECK_ANSWER;
}

static enum check_result
closed_stream(struct log_req *req, struct slice stream, const struct target *t)
{
    must((t->flags & (INDEX_TOMBSTONE | INDEX_CLOSED)) != 0);
    req->wrong_stream = stream;
    req->gone_flags = t->flags;
    req->rc = err_set(&req->err, __FILE__, __LINE__, E_GONE, ERR_DATA,
                      (t->flags & INDEX_TOMBSTONE) != 0 ? "stream \"%.*s\" was deleted for good"
                                                        : "stream \"%.*s\" takes no more events",
                      SLICE_FMT(stream));
    return CHECK_ANSWER;
}

/* Is it being filled by somebody else's stage? What nobody fills any more is not there. */
static bool
filled_by_others(struct log *log, const struct log_req *req, const struct target *t)
{
    return (t->flags & INDEX_STAGED) != 0 && logi_staging(log, t->fp, req->stage);
}

static enum check_result
staged_stream(struct log_req *req, struct slice stream)
{
    req->rc = err_set(&req->err, __FILE__, __LINE__, E_BUSY, ERR_RETRY,
                      "stream \"%.*s\" is being filled by a move: try again when that is done",
                      SLICE_FMT(stream));
    return CHECK_ANSWER;
}

/* What of the stream's state forbids this commit to write to it. */
static uint32_t
closed_by(const struct log_req *req, const struct target *t)
{
    return t->flags & CLOSED & ~((req->flags & LOG_MOVED_OK) != 0 ? (uint32_t)INDEX_MOVED : 0);
}

/* What is written to it has to stand elsewhere too, and nobody has said yet where. */
static bool
routed(const struct log_req *req, const struct target *t)
{
    return (t->flags & (INDEX_ROUTED | INDEX_FED)) != 0 && req->asked == 0 &&
           (req->flags & LOG_MOVED_OK) == 0;
}

/* The answer names the streams, so it waits until the event that does is readable. */
static enum check_result
moved_stream(struct log *log, struct log_req *req, struct slice stream, const struct target *t)
{
    struct index_head head;
    uint64_t          pos = 0;
    struct buf        names = {0};

    must((t->flags & INDEX_MOVED) != 0);
    must(!t->is_new);
    req->wrong_stream = stream;
    req->gone_flags = t->flags;
    if (logi_head(log, t->id, UINT64_MAX, &head, NULL) == 0 && head.moved != 0 &&
        logi_position(log, t->id, head.moved - 1, UINT64_MAX, &pos, NULL) == 0 &&
        pos >= atomic_load(&log->end))
        return CHECK_LATER;
    (void)logi_moved_names(log, t->id, head.moved, &names, NULL);
    req->rc = err_set(&req->err, __FILE__, __LINE__, E_MOVED, ERR_DATA,
                      "stream \"%.*s\" was moved to %.*s", SLICE_FMT(stream),
                      SLICE_FMT(names.len > 0 ? buf_slice(&names) : slice_str("others")));
    buf_fini(&names);
    return CHECK_ANSWER;
}

static bool
targets_room(struct log *log, uint32_t count)
{
    struct target *t;

    if (count <= log->target_room)
        return true;
    t = realloc(log->targets, count * sizeof *t);
    if (t == NULL)
        return false;
    log->targets = t;
    log->target_room = count;
    return true;
}

/* The target's whole state, so that a part of it can be changed. */
static enum check_result
load_state(struct log *log, struct log_req *req, struct target *t)
{
    struct index_head head = {0};

    must(!t->by_write); /* the write's target has the state of both */
    if (t->state)
        return CHECK_OK;
    if (!t->is_new && logi_marked(log, t->id)) {
        req->rc = logi_head(log, t->id, UINT64_MAX, &head, &req->err);
        if (req->rc != 0)
            return CHECK_ANSWER;
        must_slow(head.next == t->next); /* the cache says what memory and index do */
        must_slow(head.truncate == t->truncate);
        must_slow(head.flags == t->flags);
    }
    t->state = true;
    t->max_count = head.max_count;
    t->max_age_us = head.max_age_us;
    t->moved = head.moved;
    return CHECK_OK;
}

/* An append to a deleted stream, or to one that a stage without an end left: it goes on numbering,
 * and what was there stays hidden. */
static enum check_result
revive(struct log *log, struct log_req *req, struct target *t)
{
    enum check_result result;

    must((t->flags & (INDEX_DELETED | INDEX_STAGED)) != 0);
    must((t->flags & INDEX_TOMBSTONE) == 0);
    result = load_state(log, req, t);
    if ((t->flags & INDEX_STAGED) != 0)
        t->truncate = t->next;
    t->flags &= ~(uint32_t)(INDEX_DELETED | INDEX_STAGED);
    return result;
}

static void
change_target(const struct log_change *c, uint64_t next, struct target *t)
{
    const uint64_t before = t->truncate;

    must(t->state);
    must(next >= t->next);
    if ((c->what & (LOG_SET_DELETED | LOG_SET_TOMBSTONE)) != 0) {
        t->truncate = next;
        t->flags &= ~(uint32_t)INDEX_STAGED;
    }
    if ((c->what & LOG_SET_STAGED) != 0) {
        t->truncate = t->next;
        t->flags |= INDEX_STAGED;
    }
    if ((c->what & LOG_SET_UNSTAGED) != 0)
        t->flags &= ~(uint32_t)INDEX_STAGED;
    if ((c->what & LOG_SET_TRUNCATE) != 0) {
        uint64_t low = c->truncate < next ? c->truncate : next;
        t->truncate = low > t->truncate ? low : t->truncate;
    }
    if ((c->what & LOG_SET_DELETED) != 0)
        t->flags |= INDEX_DELETED;
    if ((c->what & LOG_SET_TOMBSTONE) != 0)
        t->flags = (t->flags | INDEX_TOMBSTONE) & ~(uint32_t)INDEX_DELETED;
    if ((c->what & LOG_SET_CLOSED) != 0)
        t->flags |= INDEX_CLOSED;
    if ((c->what & LOG_SET_OPEN) != 0)
        t->flags &= ~(uint32_t)INDEX_CLOSED;
    if ((c->what & LOG_SET_UNMOVED) != 0) {
        t->flags &= ~(uint32_t)(INDEX_MOVED | INDEX_ROUTED);
        t->moved = 0;
    }
    if ((c->what & LOG_SET_ROUTED) != 0)
        t->flags |= INDEX_ROUTED;
    if ((c->what & LOG_SET_FED) != 0)
        t->flags |= INDEX_FED;
    if ((c->what & LOG_SET_UNFED) != 0)
        t->flags &= ~(uint32_t)INDEX_FED;
    if ((c->what & LOG_SET_MOVED) != 0) {
        t->flags = (t->flags | INDEX_MOVED) & ~(uint32_t)INDEX_ROUTED;
        t->moved = c->moved != 0 ? c->moved : next; /* its version, and 1 */
        must(t->moved > 0);
        must(t->moved <= next);
    }
    if ((c->what & LOG_SET_LIMITS) != 0) {
        t->max_count = c->max_count;
        t->max_age_us = c->max_age_us;
    }
    must(t->truncate >= before || before > t->next); /* what is hidden stays hidden */
}

/* The target that change `i` is about: its own, or that of the write to its stream. */
static struct target *
target_of_change(struct log *log, struct log_req *req, uint32_t i, uint64_t *next)
{
    uint32_t n = req->own[i].write;

    must(i < req->own_count);
    must(n == UINT32_MAX || n < req->write_count);
    if (n != UINT32_MAX) {
        *next = log->targets[n].next + req->writes[n].count;
        return &log->targets[n];
    }
    *next = log->targets[req->write_count + i].next;
    return &log->targets[req->write_count + i];
}

static enum check_result
check_change(struct log *log, struct log_req *req, uint32_t i)
{
    const struct log_change *c = &req->own[i].change;
    struct target           *own = &log->targets[req->write_count + i], *t;
    uint64_t                 next;

    req->rc = logi_resolve(log, c->stream, own, &req->err);
    if (req->rc != 0)
        return CHECK_ANSWER;
    if ((own->flags & INDEX_TOMBSTONE) != 0)
        return closed_stream(req, c->stream, own);
    if (filled_by_others(log, req, own))
        return staged_stream(req, c->stream);
    if (req->own[i].meta && routed(req, own))
        return CHECK_ROUTE; /* the metadata says where to */
    if (!holds(c->expected, own))
        return wrong_version(req, c->stream, c->expected, own);
    t = target_of_change(log, req, i, &next);
    own->by_write = t != own;
    must(t->next == own->next); /* one stream */
    must(t->is_new == own->is_new);
    if (c->moved > next) {
        req->rc =
            err_set(&req->err, __FILE__, __LINE__, E_INVALID, ERR_DATA,
                    "stream \"%.*s\" has no version %" PRIu64, SLICE_FMT(c->stream), c->moved - 1);
        return CHECK_ANSWER;
    }
    if (load_state(log, req, t) != CHECK_OK)
        return CHECK_ANSWER;
    change_target(c, next, t);
    return CHECK_OK;
}

/* What a later write's stream is known by, and a hint that its head is wanted soon. */
static void
look_ahead(struct log *log, const struct log_req *req, uint32_t i)
{
    struct target *t;

    if (i >= req->write_count)
        return;
    t = &log->targets[i];
    if (i == 0)
        memcpy(t->fp, req->fp, sizeof t->fp);
    else
        logi_heads_fp(log->heads, req->writes[i].stream, t->fp);
    logi_heads_prefetch_set(log->heads, t->fp);
}

/* One write, with its target's fp set: CHECK_OK to write it, CHECK_ANSWER with rc 0 where it is
 * there already. */
static enum check_result
check_write(struct log *log, struct log_req *req, uint32_t i)
{
    struct log_write *w = &req->writes[i];
    struct target    *t = &log->targets[i];
    uint64_t          version = 0, first_pos = 0, last_pos = 0;
    enum same         same = SAME_NONE;
    bool              ok;

    must(w->count > 0);
    req->rc = resolve(log, w->stream, t, &req->err);
    if (req->rc != 0)
        return CHECK_ANSWER;
    if (filled_by_others(log, req, t))
        return staged_stream(req, w->stream);
    ok = holds(w->expected, t);
    /* What a router added is written or is not, as the caller's part is. */
    if (!t->is_new && (!ok || w->expected < 0) && (req->asked == 0 || i < req->asked))
        same = written_before(log, w, t, &version, &first_pos, &last_pos, &req->err);
    if (same == SAME_LATER)
        return CHECK_LATER;
    if (same == SAME_ERROR) {
        req->rc = req->err.code;
        return CHECK_ANSWER;
    }
    if (same == SAME_ALL) {
        must(!t->is_new);
        must(version + w->count <= t->next);
        must(first_pos <= last_pos);
        t->there = true;
        w->first_version = version;
        w->last_version = version + w->count - 1;
        if (req->pos.v == 0 || first_pos < req->pos.v)
            req->pos = LOG_POS(first_pos);
        if (last_pos > req->last.v)
            req->last = LOG_POS(last_pos);
        return CHECK_ANSWER;
    }
    if ((closed_by(req, t) & ~(uint32_t)INDEX_MOVED) != 0)
        return closed_stream(req, w->stream, t);
    if (routed(req, t))
        return CHECK_ROUTE; /* before the version is looked at: others may be with the router */
    if (!ok)
        return wrong_version(req, w->stream, w->expected, t);
    if (same == SAME_SOME && w->expected < 0)
        return partly_there(req, w->stream, w->expected, t);
    if (closed_by(req, t) != 0)
        return moved_stream(log, req, w->stream, t);
    if ((t->flags & INDEX_DELETED) != 0 ||
        ((t->flags & INDEX_STAGED) != 0 && (req->stage == NULL || w->expected < 0)))
        return revive(log, req, t);
    return CHECK_OK;
}

static enum check_result
check_others(struct log *log, struct log_req *req)
{
    struct target t;

    for (uint32_t i = 0; i < req->check_count; i++) {
        req->rc = logi_resolve(log, req->checks[i].stream, &t, &req->err);
        if (req->rc != 0)
            return CHECK_ANSWER;
        if (!holds(req->checks[i].expected, &t))
            return wrong_version(req, req->checks[i].stream, req->checks[i].expected, &t);
    }
    return CHECK_OK;
}

/* All segments that the commit may reach are there, or it has to wait or be refused. */
static enum check_result
check_room(struct log *log, struct log_req *req)
{
    uint64_t want = log->next_pos + logi_room_needed(req), end = logi_segs_end(log->segs);

    must(log->next_pos <= end);
    if (atomic_load(&log->low_disk)) {
        req->rc = err_set(&req->err, __FILE__, __LINE__, E_NOSPC, ERR_RETRY,
                          "%s: free disk is below the watermark of %" PRIu64 " bytes", log->dir,
                          log->conf.free_bytes_min);
        return CHECK_ANSWER;
    }
    if (end >= want)
        return CHECK_OK;
    if (atomic_load(&log->grow_stuck)) {
        lock_take(&log->admin);
        err_copy(&req->err, &log->grow_error);
        lock_give(&log->admin);
        req->rc = req->err.code;
        if (req->rc != 0) /* 0: it has grown meanwhile, and the mark is about to go */
            return CHECK_ANSWER;
    }
    atomic_store(&log->want_end, want);
    log->env->ops->task_wake(log->env, log->upkeep);
    return CHECK_NO_ROOM;
}

/* The commit is there: its end is that of the commit which holds the last event. */
static enum check_result
answer_again(struct log *log, struct log_req *req)
{
    uint64_t      end = atomic_load(&log->end);
    struct record r;
    struct frame  f;
    struct commit c;

    must(req->pos.v != 0);
    must(req->pos.v <= req->last.v);
    must(req->last.v < end);
    if (!logi_scan_record_at(log->segs, req->last.v, end, true, &r, &f) ||
        !logi_scan_commit(log->segs, f.head.commit, end, &c) || c.end <= req->last.v) {
        req->rc = err_set(&req->err, __FILE__, __LINE__, E_DAMAGED, ERR_FATAL,
                          "%s: damaged at position %" PRIu64, log->dir, req->last.v);
        return CHECK_ANSWER;
    }
    req->idempotent = true;
    req->end = LOG_POS(c.end);
    return CHECK_ANSWER;
}

enum check_result
logi_check(struct log *log, struct log_req *req)
{
    const uint32_t    asked = req->asked != 0 ? req->asked : req->write_count;
    uint32_t          there = 0;
    enum check_result result;

    must(asked <= req->write_count);
    must(req->write_count + req->own_count > 0);
    if (!targets_room(log, req->write_count + req->own_count)) {
        req->rc = err_set(&req->err, __FILE__, __LINE__, E_NOMEM, ERR_RETRY, "out of memory");
        return CHECK_ANSWER;
    }
    for (uint32_t i = 0; i < LOGI_AHEAD; i++)
        look_ahead(log, req, i);
    for (uint32_t i = 0; i < req->write_count; i++) {
        look_ahead(log, req, i + LOGI_AHEAD);
        result = check_write(log, req, i);
        if (result == CHECK_LATER || result == CHECK_ROUTE ||
            (result == CHECK_ANSWER && req->rc != 0))
            return result;
        if (result == CHECK_ANSWER)
            there++;
        if (there == asked && i + 1 == asked)
            return answer_again(log, req);
    }
    must(there <= asked);
    if (there > 0) {
        /* Part of it was written by something else: it cannot be this commit again, and what is
         * there is not written twice, whatever was expected. */
        for (uint32_t i = 0; i < req->write_count; i++) {
            const struct target *t = &log->targets[i];

            if (t->there && (closed_by(req, t) & ~(uint32_t)INDEX_MOVED) != 0)
                return closed_stream(req, req->writes[i].stream, t);
            if (t->there)
                return partly_there(req, req->writes[i].stream, req->writes[i].expected, t);
        }
    }
    must(there == 0);
    req->pos = req->last = LOG_POS(0);
    for (uint32_t i = 0; i < req->own_count; i++) {
        result = check_change(log, req, i);
        if (result != CHECK_OK)
            return result;
    }
    result = check_others(log, req);
    return result == CHECK_OK ? check_room(log, req) : result;
}
