/*
 * What moves hid, and what stands for it: how far down a reader may see that is given what
 * a move hid, and which copies a move made of it. Which range a move hid stands in its
 * MigratedFrom: of a stream rewritten in place at `truncate`, and of the one before at that one's
 * `first`; of a moved stream in the same commit as its StreamMovedTo, before it, or, where it was
 * moved in stages or routed, in that itself. A moved stream may be rewritten too, for what of it
 * was not moved: then its StreamMovedTo is the last version that the mark names.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

#include "base/json.h"
#include "log/copied.h"
#include "log/iter_int.h"

#define MOVES_MAX 1000u /* of one stream; what older ones hid counts as truncated */

static bool
event_at(struct log *log, uint64_t id, uint64_t version, struct record *r, struct frame *f)
{
    uint64_t end = atomic_load(&log->end), pos = 0;

    return logi_position(log, id, version, end, &pos, NULL) == 0 && pos != 0 && pos < end &&
           logi_scan_record_at(log->segs, pos, end, true, r, f) && r->kind == RECORD_EVENT &&
           r->stream_id == id && r->version == version;
}

static bool
is_from(const struct record *r, struct slice stream, uint64_t *first, uint64_t *last)
{
    if (r->kind != RECORD_EVENT || (r->flags & (RECORD_CONTINUED | RECORD_ENCRYPTED)) != 0)
        return false;
    return log_mark_from(slice_of(r->body + r->name_len, r->type_len),
                         slice_of(r->body + r->name_len + r->type_len + r->meta_len, r->data_len),
                         stream, first, last);
}

static struct slice
data_of(const struct record *r)
{
    return slice_of(r->body + r->name_len + r->type_len + r->meta_len, r->data_len);
}

/* Is it the mark of a move in stages? */
static bool
is_staged(const struct record *r, uint64_t *first, uint64_t *pos)
{
    struct log_pos at;

    if ((r->flags & (RECORD_CONTINUED | RECORD_ENCRYPTED)) != 0 ||
        !log_mark_staged(slice_of(r->body + r->name_len, r->type_len), data_of(r), first, &at))
        return false;
    *pos = at.v;
    return at.v < r->pos;
}

static bool
is_routed(const struct record *r, uint64_t *first)
{
    return (r->flags & (RECORD_CONTINUED | RECORD_ENCRYPTED)) == 0 &&
           log_mark_routed(slice_of(r->body + r->name_len, r->type_len), data_of(r), first);
}

/* Records of a commit before `r`, the last one first; until `fn` returns true. */
typedef bool back_fn(void *arg, const struct record *r, const struct frame *f);

static void
go_back(struct log *log, const struct record *r, const struct frame *f, back_fn *fn, void *arg)
{
    uint32_t      seed = logi_segs_seed(log->segs), off = r->frame_off;
    struct frame  at = *f;
    struct record found;

    for (;;) {
        while (off > FRAME_HEADER && logi_scan_record_before(&at, seed, off, true, &found)) {
            off -= found.length;
            must(at.sparse || found.pos < r->pos);
            if (fn(arg, &found, &at))
                return;
        }
        do { /* padding at a segment's end is of no commit */
            if (at.head.pos <= f->head.commit ||
                logi_scan_back(log->segs, at.head.pos, &at) != SCAN_FRAME)
                return;
        } while ((at.head.flags & FRAME_PAD) != 0);
        if (at.head.commit != f->head.commit)
            return;
        off = at.head.length - FRAME_TRAILER;
    }
}

/* The same forwards, behind `r`. */
static void
go_on(struct log *log, const struct record *r, const struct frame *f, back_fn *fn, void *arg)
{
    uint32_t      seed = logi_segs_seed(log->segs), off = r->frame_off + r->length;
    uint64_t      end = atomic_load(&log->end);
    struct frame  at = *f;
    struct record found;

    for (;;) {
        while (off < at.head.length - FRAME_TRAILER &&
               logi_scan_record(&at, seed, off, true, &found)) {
            off += found.length;
            must(at.sparse || found.pos > r->pos);
            if (fn(arg, &found, &at))
                return;
        }
        if ((at.head.flags & FRAME_LAST) != 0)
            return;
        do {
            if (logi_scan_from(log->segs, at.next, end, &at) != SCAN_FRAME)
                return;
        } while ((at.head.flags & FRAME_PAD) != 0);
        if (at.head.commit != f->head.commit)
            return;
        off = FRAME_HEADER;
    }
}

struct find_from {
    struct slice stream;
    uint64_t     first, last;
    bool         found;
};

static bool
find_from(void *arg, const struct record *r, const struct frame *f)
{
    struct find_from *find = arg;

    (void)f;
    find->found = is_from(r, find->stream, &find->first, &find->last);
    return find->found;
}

/* Of the mark of a moved stream: from which version on, and how. *last: of a MigratedFrom that was
 * looked for, the last version that it names. */
static bool
find_first(struct log *log, struct logi_move *move, uint64_t *last)
{
    struct find_from find = {.stream = move->stream};

    must(move->mark.kind == RECORD_EVENT);
    *last = UINT64_MAX;
    move->moved = true;
    move->staged = 0;
    move->routed = false;
    if (is_staged(&move->mark, &move->first, &move->staged))
        return true;
    move->routed = is_routed(&move->mark, &move->first);
    if (move->routed)
        return true;
    go_back(log, &move->mark, &move->frame, find_from, &find);
    move->first = find.first;
    *last = find.last;
    return find.found;
}

/* Where the version says that the stream was moved, that move too. */
static int
moved_before(struct log *log, uint64_t id, uint64_t version, struct logi_move *move,
             logi_move_fn *fn, void *arg)
{
    uint64_t unused;

    if (version == UINT64_MAX || !event_at(log, id, version, &move->mark, &move->frame) ||
        (move->mark.flags & (RECORD_CONTINUED | RECORD_ENCRYPTED)) != 0 ||
        log_mark_of(slice_of(move->mark.body + move->mark.name_len, move->mark.type_len),
                    data_of(&move->mark)) != LOG_MARK_TO ||
        !find_first(log, move, &unused))
        return 0;
    move->last = version;
    return fn(arg, move);
}

int
logi_moves(struct log *log, uint64_t id, struct slice stream, const struct index_head *head,
           logi_move_fn *fn, void *arg)
{
    const bool       gone = (head->flags & INDEX_DELETED) != 0;
    uint64_t         at = head->truncate, last;
    struct logi_move move = {.stream = stream};

    if ((head->flags & INDEX_TOMBSTONE) != 0)
        return 0;
    if ((head->flags & INDEX_MOVED) != 0 && head->moved != 0 && (gone || at + 1 >= head->moved)) {
        if (!event_at(log, id, head->moved - 1, &move.mark, &move.frame) ||
            !find_first(log, &move, &last))
            return 0;
        move.last = head->moved - 1;
        at = move.first;
        if (fn(arg, &move) != 0 || moved_before(log, id, last, &move, fn, arg) != 0)
            return E_MORE;
    } else if (gone) {
        return 0;
    }
    for (unsigned n = 0; n < MOVES_MAX && at > 0; n++) {
        move.moved = move.routed = false;
        move.staged = 0;
        if (!event_at(log, id, at, &move.mark, &move.frame) ||
            !is_from(&move.mark, stream, &move.first, &last) || move.first >= at)
            break;
        move.last = at; /* what stands between its last and the mark is Invalidated */
        at = move.first;
        if (fn(arg, &move) != 0 || moved_before(log, id, last, &move, fn, arg) != 0)
            return E_MORE;
    }
    return 0;
}

static int
lower(void *arg, const struct logi_move *move)
{
    *(uint64_t *)arg = move->first;
    return 0;
}

uint64_t
logi_moved_shown(struct log *log, uint64_t id, struct slice stream, const struct index_head *head,
                 const struct view *v)
{
    uint64_t low = UINT64_MAX;
    uint64_t bound = v->max_count != 0 && v->next > v->max_count ? v->next - v->max_count : 0;

    must(v->low <= v->next);
    (void)logi_moves(log, id, stream, head, lower, &low);
    if (low < bound)
        low = bound;
    return low < v->low ? low : v->low;
}

/* copies */

/* The event that stubs lead to, from one to the next. */
static bool
follow(struct log *log, struct record *r, struct frame *f)
{
    uint64_t end = atomic_load(&log->end);

    for (unsigned n = 0; r->kind == RECORD_STUB && n < MOVES_MAX; n++) {
        uint64_t from = r->pos, to;

        if (r->data_len != sizeof to ||
            (uint64_t)r->name_len + r->type_len + r->meta_len + sizeof to > r->body_len)
            return false;
        to = get_u64(r->body + r->name_len + r->type_len + r->meta_len);
        if (to <= from || !logi_scan_record_at(log->segs, to, end, true, r, f))
            return false;
        must(r->pos == to); /* so it ends */
    }
    return r->kind == RECORD_EVENT;
}

struct collect {
    struct log             *log;
    unsigned                targets; /* whose mark was not met yet */
    const struct logi_move *move;
    logi_copy_fn           *fn;
    void                   *arg;
    struct buf              hold;
    uint64_t                copy, originals;
    int                     rc;
};

static bool
tell(void *arg, const struct log_original *o)
{
    struct collect *c = arg;

    c->rc = c->fn(c->arg, o->pos.v, c->copy);
    return c->rc != 0;
}

static struct slice
meta_of(struct collect *c, const struct record *r, const struct frame *f)
{
    if ((r->flags & RECORD_CONTINUED) == 0)
        return slice_of(r->body + r->name_len + r->type_len, r->meta_len);
    buf_clear(&c->hold);
    if (!buf_reserve(&c->hold, (size_t)r->meta_len + r->data_len) ||
        logi_scan_assemble(c->log->segs, r, f, atomic_load(&c->log->end), c->hold.data, NULL) != 0)
        return slice_of(NULL, 0);
    return slice_of(c->hold.data, r->meta_len);
}

static bool
collect(void *arg, const struct record *r, const struct frame *f)
{
    struct collect *c = arg;
    struct record   event = *r;
    struct frame    at = *f;
    uint64_t        first, last;

    must(c->rc == 0); /* else it was to be stopped */
    if (!c->move->moved && r->stream_id != c->move->mark.stream_id)
        return false;
    c->copy = r->pos;
    if (!follow(c->log, &event, &at))
        return false;
    if (c->move->moved && !c->move->routed && is_from(r, c->move->stream, &first, &last)) {
        must(c->targets > 0);
        return --c->targets == 0;
    }
    if (event.meta_len > 0)
        (void)log_copied_from(meta_of(c, &event, &at), tell, c, NULL);
    return c->rc != 0;
}

/* Where the mark says that the stream went; its data was well formed. */
static bool
streams_of(const struct record *mark, struct json_iter *it)
{
    struct json_field f = {.name = "streams"};

    return (mark->flags & RECORD_CONTINUED) == 0 &&
           json_pick(data_of(mark), &f, 1, JSON_PICK_ANY, NULL) == 0 &&
           json_array_iter(it, f.value, NULL) == 0;
}

static unsigned
targets_of(const struct record *mark)
{
    struct json_iter it;
    struct slice     raw;
    unsigned         n = 0;

    if (!streams_of(mark, &it))
        return UINT_MAX;
    while (json_iter_next(&it, NULL, &raw, NULL) == 0)
        n++;
    return n == 0 ? UINT_MAX : n;
}

static int
by_id(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* The ids of the streams that the mark names, in growing order. */
static void
target_ids(struct log *log, const struct record *mark, struct buf *ids)
{
    struct json_iter  it;
    struct index_head head;
    struct slice      raw, name;
    struct buf        text = {0};
    uint64_t          id;

    if (streams_of(mark, &it)) {
        while (json_iter_next(&it, NULL, &raw, NULL) == 0)
            if (json_string_view(raw, &text, &name, NULL) == 0 &&
                logi_find(log, name, atomic_load(&log->end), &id, &head, NULL) == 0)
                buf_add(ids, &id, sizeof id);
    }
    if (ids->len > 0)
        qsort(ids->data, ids->len / sizeof id, sizeof id, by_id);
    buf_fini(&text);
}

/* The copies of the stages: all that stands in their frames, from the last commit's on back. */
static void
go_through_stages(struct log *log, const struct logi_move *move, struct collect *c)
{
    uint32_t      seed = logi_segs_seed(log->segs);
    uint64_t      pos = move->frame.head.commit;
    struct buf    ids = {0};
    struct record r;
    struct frame  f;

    must(move->moved);
    target_ids(log, &move->mark, &ids);
    while (c->rc == 0 && pos > move->staged && logi_scan_back(log->segs, pos, &f) == SCAN_FRAME) {
        uint32_t off = f.head.length - FRAME_TRAILER;

        must(f.head.pos < pos);
        pos = f.head.pos;
        if ((f.head.flags & FRAME_STAGE) == 0)
            continue;
        while (c->rc == 0 && off > FRAME_HEADER &&
               logi_scan_record_before(&f, seed, off, true, &r)) {
            off -= r.length;
            if (ids.len > 0 && bsearch(&r.stream_id, ids.data, ids.len / sizeof r.stream_id,
                                       sizeof r.stream_id, by_id) != NULL)
                (void)collect(c, &r, &f);
        }
    }
    buf_fini(&ids);
}

/* The same of a routed stream: all that its targets had up to the mark. */
static void
go_through_targets(struct log *log, const struct logi_move *move, struct collect *c)
{
    struct buf    ids = {0};
    struct record r;
    struct frame  f;
    uint64_t      id, pos, end = atomic_load(&log->end);

    must(move->moved);
    target_ids(log, &move->mark, &ids);
    for (size_t i = 0; i < ids.len && c->rc == 0; i += sizeof id) {
        struct index_head head;

        memcpy(&id, ids.data + i, sizeof id);
        if (logi_head(log, id, end, &head, NULL) != 0)
            continue;
        for (uint64_t v = 0; v < head.next && c->rc == 0; v++) {
            if (logi_position(log, id, v, end, &pos, NULL) != 0 || pos >= move->mark.pos)
                break;
            if (pos != 0 && logi_scan_record_at(log->segs, pos, end, true, &r, &f))
                (void)collect(c, &r, &f);
        }
    }
    buf_fini(&ids);
}

int
logi_move_copies(struct log *log, const struct logi_move *move, logi_copy_fn *fn, void *arg)
{
    struct collect c = {.log = log, .move = move, .fn = fn, .arg = arg};

    must(move->staged == 0 || !move->routed);
    if (move->routed) {
        go_through_targets(log, move, &c);
        goto out;
    }
    c.targets = move->staged != 0 ? UINT_MAX : move->moved ? targets_of(&move->mark) : 0;
    if (move->moved)
        go_back(log, &move->mark, &move->frame, collect, &c);
    if (move->staged != 0 && c.rc == 0)
        go_through_stages(log, move, &c);
    if (!move->moved)
        go_on(log, &move->mark, &move->frame, collect, &c);
out:
    buf_fini(&c.hold);
    return c.rc;
}

/* readers */

struct asks {
    const struct log_iter *it;
};

static bool
is_mine(void *arg, const struct log_original *o)
{
    const struct log_iter *it = ((struct asks *)arg)->it;

    if (it->kind == ITER_STREAM)
        return slice_eq(o->stream, it->read.stream) && o->version >= it->read.start;
    return o->pos.v >= it->read.start && logi_filter_holds(&it->read.filter, o->stream, o->type);
}

/* A mark is given only to who asks for its type. */
static bool
mark_wanted(const struct log_iter *it, const struct log_event *ev)
{
    const struct log_filter *f = &it->read.filter;

    return f->type.len > 0 || f->type_prefix.len > 0 || f->type_regex != NULL ||
           log_mark_of(ev->type, ev->data) == LOG_MARK_NONE;
}

int
logi_copied_wanted(struct log_iter *it, const struct record *r, const struct log_event *ev,
                   bool *yes, struct err *err)
{
    struct asks asks = {it};
    struct view v;
    bool        mine;
    int         rc = 0;

    must(it->read.skip_moved);
    *yes = mark_wanted(it, ev);
    if (!*yes || log_copied_from(ev->meta, is_mine, &asks, &mine) == 0)
        return 0;
    *yes = !mine;
    if (mine || !logi_marked(it->log, r->stream_id))
        return 0;
    /* Of a copy that was copied on, only what it was copied to. */
    rc = logi_iter_view(it, r->stream_id, slice_of(r->body, r->name_len), &v, err);
    *yes = rc == 0 && r->version >= v.low;
    return rc;
}

static bool
stands_at(void *arg, const struct log_original *o)
{
    return o->pos.v == *(const uint64_t *)arg;
}

/* Of several originals that one copy stands for, it is given for the first one that is met. */
static bool
given_before(struct log_iter *it, const struct log_event *ev)
{
    if (log_copied_from(ev->meta, NULL, NULL, NULL) < 2)
        return false;
    for (unsigned i = 0; i < ITER_GIVEN; i++)
        if (it->given[i] == ev->pos.v)
            return true;
    it->given[it->given_next++ % ITER_GIVEN] = ev->pos.v;
    return false;
}

int
logi_stub_give(struct log_iter *it, const struct record *stub, const struct frame *frame,
               struct log_event *out, bool *given, struct err *err)
{
    struct record r = *stub;
    struct frame  f = *frame;
    uint64_t      pos = stub->pos;
    bool          first;
    int           rc = 0;

    must(it->read.skip_moved);
    must(stub->kind == RECORD_STUB);
    *given = false;
    if (!logi_iter_wanted(it, stub) || !follow(it->log, &r, &f))
        return 0;
    TRY(logi_iter_visible(it, &r, given, err));
    if (!*given)
        return 0;
    must(r.pos > stub->pos); /* a copy stands behind its original */
    TRY(logi_iter_give(it, &r, &f, out, err));
    /* Where a copy stood that was copied on, nothing is given: its original was, or its copy is. */
    (void)log_copied_from(out->meta, stands_at, &pos, &first);
    if (!first || given_before(it, out)) {
        *given = false;
        return 0;
    }
    out->pos = LOG_POS(stub->pos); /* where the reader is */
    out->commit = LOG_POS(frame->head.commit);
    if (it->kind != ITER_STREAM)
        return 0;
    out->stream = it->read.stream;
    out->version = stub->version;
out:
    return rc;
}
