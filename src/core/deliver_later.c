/*
 * Events that are not to be delivered yet. `$later-sink-NAME` has a record of each, Scheduled
 * {position, stream, version, due}; with that durable the event counts as done. What is due is
 * taken in the order of time, then of position, and the checkpoint says how far that got.
 *
 * In memory are the next ones, up to a limit; the others are found again in the stream when those
 * are done.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "base/rfc3339.h"
#include "core/deliver_int.h"

#define MS_MAX INT64_C(253402300800000) /* the year 10000 */

static bool
before(struct due a, struct due b)
{
    return a.us != b.us ? a.us < b.us : a.pos < b.pos;
}

static int
compare(const void *x, const void *y)
{
    const struct due *a = x, *b = y;

    return before(*a, *b) ? -1 : before(*b, *a) ? 1 : 0;
}

/* the heap */

static void
sift_up(struct due *heap, uint32_t at)
{
    for (uint32_t up; at > 0 && before(heap[at], heap[up = (at - 1) / 2]); at = up) {
        struct due swap = heap[at];

        heap[at] = heap[up];
        heap[up] = swap;
    }
}

static struct due
pop(struct later *l)
{
    struct due first = l->heap[0], last;
    uint32_t   at = 0, down;

    must(l->count > 0);
    last = l->heap[--l->count];
    while ((down = at * 2 + 1) < l->count) {
        if (down + 1 < l->count && before(l->heap[down + 1], l->heap[down]))
            down++;
        if (!before(l->heap[down], last))
            break;
        l->heap[at] = l->heap[down];
        at = down;
    }
    l->heap[at] = last;
    must_slow(l->count == 0 || !before(l->heap[0], first));
    return first;
}

/* When it is full, the later half is left to the stream. */
static int
insert(struct deliver *d, struct due due, struct err *err)
{
    struct later *l = &d->later;

    l->open++;
    if (l->partial && !before(due, l->horizon))
        return 0;
    if (l->heap == NULL)
        l->heap = calloc(d->conf.later_max, sizeof *l->heap);
    if (l->heap == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for scheduled events");
    must(l->count < d->conf.later_max);
    l->heap[l->count++] = due;
    if (l->count < d->conf.later_max) {
        sift_up(l->heap, l->count - 1);
        return 0;
    }
    qsort(l->heap, l->count, sizeof *l->heap, compare);
    l->count /= 2;
    l->horizon = l->heap[l->count];
    l->partial = true;
    return 0;
}

/* the records */

static int
parse(const struct deliver *d, const struct log_event *ev, struct due *out, struct err *err)
{
    struct slice raw;

    if (!json_get(ev->data, "position", &raw) || !json_uint64(raw, &out->pos) ||
        !json_get(ev->data, "due", &raw) || !json_int64(raw, &out->us))
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL,
                   "%s: event %" PRIu64 " is no record of a scheduled event", d->later_stream,
                   ev->version);
    return 0;
}

/* Those that are not done, from the stream. */
int
deliveri_load_later(struct deliver *d, struct err *err)
{
    struct later    *l = &d->later;
    struct log_read  read = {.stream = slice_str(d->later_stream), .from = l->from};
    struct log_iter *it = NULL;
    struct log_event ev;
    struct due       due;
    bool             first = true;
    int              rc;

    /* What a commit brings is not read from the stream as well. */
    must(d->committed.head == NULL || d->commit_kind != COMMIT_LATER);
    l->count = 0;
    l->partial = false;
    l->open = 0;
    l->taken = l->done;
    d->later_version = LOG_NO_STREAM;
    rc = log_iter_open(d->log, &read, &it, err);
    if (rc == E_NOTFOUND)
        return 0;
    while (rc == 0 && (rc = log_iter_next(it, &ev, err)) == 0) {
        d->later_version = (int64_t)ev.version;
        TRY(parse(d, &ev, &due, err));
        if (l->last < due.pos)
            l->last = due.pos;
        if (!before(l->done, due))
            continue;
        if (first)
            l->from = ev.version;
        first = false;
        TRY(insert(d, due, err));
    }
    if (rc == E_END)
        rc = 0;
    must(l->open >= l->count);
    /* One record stays to be read, so that the stream's version is known. */
    if (rc == 0 && first && d->later_version > 0)
        l->from = (uint64_t)d->later_version;
out:
    log_iter_close(it);
    return rc;
}

void
deliveri_write_later(struct deliver *d, const struct item *it)
{
    struct json_out o;

    must(it->state == ITEM_RECORDING);
    must(before(d->later.done, it->due));
    json_out_init(&o, &d->text);
    json_out_object(&o);
    json_out_key(&o, "position");
    json_out_u64(&o, it->base.pos.v);
    json_out_key(&o, "stream");
    json_out_string(&o, slice_of(it->lane->name, it->lane->len));
    json_out_key(&o, "version");
    json_out_u64(&o, it->base.version);
    json_out_key(&o, "due");
    json_out_i64(&o, it->due.us);
    json_out_object_end(&o);
}

/* Its record is durable. */
int
deliveri_scheduled(struct deliver *d, struct item *it, struct err *err)
{
    struct lane *lane = it->lane;
    int          rc = insert(d, it->due, err);

    must(it->state == ITEM_RECORDING);
    must(lane->recording > 0);
    if (d->later.last < it->due.pos)
        d->later.last = it->due.pos;
    lane->recording--;
    deliveri_drop(d, it);
    deliveri_lane_settle(d, lane);
    return rc;
}

/* when */

static bool
read_time(struct slice raw, int64_t *us)
{
    if (json_type(raw) == JSON_NUMBER) {
        if (!json_int64(raw, us) || *us < 0 || *us > MS_MAX)
            return false;
        *us *= 1000;
        return true;
    }
    return json_type(raw) == JSON_STRING && raw.len > 2 &&
           time_parse(slice_of((const char *)raw.data + 1, raw.len - 2), us);
}

/* When the event is due, 0: at once. A value that is no time becomes the event's fault. */
static int64_t
due_of(const struct deliver *d, struct shaped *s)
{
    struct slice raw, doc = d->later_in_meta ? s->ev.meta : s->ev.data;
    int64_t      us = 0;
    bool         there = s->ev.meta.len > 0 && json_get(s->ev.meta, "$deliverAt", &raw);

    if (!there && d->later_path != NULL && doc.len > 0 &&
        (d->later_in_meta || (s->ev.flags & LOG_JSON) != 0))
        there = json_get_path(doc, slice_str(d->later_path), &raw);
    if (there && !json_is_null(raw) && !read_time(raw, &us))
        (void)err_set(&s->fault, __FILE__, __LINE__, E_SCHEMA, ERR_DATA,
                      "when it is to be delivered is neither a time nor milliseconds");
    return us;
}

/* True: it is scheduled, now or before, and not for the window. */
int
deliveri_schedule(struct deliver *d, struct shaped *s, bool *out, struct err *err)
{
    struct due   due = {.pos = s->ev.pos.v};
    struct item *it;
    int          rc = 0;

    *out = false;
    due.us = s->fault.code == 0 ? due_of(d, s) : 0;
    if (due.us == 0)
        return 0;
    if (due.us <= d->env->ops->wall_us(d->env)) {
        /* Its record says that it comes, or came, from there. */
        *out = s->ev.pos.v <= d->later.last && before(d->later.done, due);
        return 0;
    }
    *out = true;
    if (d->range.on || s->ev.pos.v <= d->later.last)
        return 0;
    if (!before(d->later.taken, due))
        due.us = d->later.taken.us + 1; /* the clock went back */
    TRY(deliveri_admit(d, s, ADMIT_TO_PARK, &it, err));
    it->state = ITEM_RECORDING;
    it->lane->recording++;
    it->due = due;
    deliveri_push(&d->later_records, it);
out:
    return rc;
}

/* giving */

static int
load(struct deliver *d, struct due due, struct err *err)
{
    struct log_iter *at = NULL;
    struct log_event ev;
    struct shaped    shaped;
    struct lane     *lane;
    struct item     *it;
    int              rc = deliveri_find_at(d, LOG_POS(due.pos), &at, &ev, err);

    if (rc == E_NOTFOUND || rc == E_GONE || rc == E_END ||
        (rc == 0 && (ev.flags & LOG_ERASED) != 0)) {
        rc = 0; /* nothing is left to deliver */
        goto out;
    }
    if (rc == 0)
        rc = deliveri_shape(d, &d->again_shaper, &ev, &shaped, err);
    if (rc != 0 || shaped.dropped)
        goto out;
    lane = deliveri_lane(d, ev.stream, false);
    if (lane != NULL && lane->open > 0 && !d->conf.parked_pass) {
        TRY(deliveri_admit(d, &shaped, ADMIT_DUE_TO_PARK, &it, err));
        it->due = due;
        TRY(deliveri_park(d, it, NULL, err));
        goto out;
    }
    TRY(deliveri_admit(d, &shaped, ADMIT_DUE, &it, err));
    it->due = due;
out:
    log_iter_close(at);
    return rc;
}

/* The first of those whose records are not durable yet: what is due after it waits for it. */
static struct due
first_coming(const struct deliver *d)
{
    const struct queue *const queues[] = {&d->committed, &d->later_records};
    struct due                first = {INT64_MAX, UINT64_MAX};

    for (int i = 0; i < 2; i++)
        for (const struct item *it = queues[i]->head; it != NULL;
             it = (const struct item *)it->base.next)
            if (it->state == ITEM_RECORDING && before(it->due, first))
                first = it->due;
    return first;
}

int
deliveri_read_later(struct deliver *d, bool *progress, struct err *err)
{
    struct later *l = &d->later;
    struct due    coming = first_coming(d);
    int64_t       now = d->env->ops->wall_us(d->env);
    int           rc = 0;

    for (uint32_t n = 0; n < d->conf.window_items && !d->range.on; n++) {
        if (l->count == 0 && l->partial && l->horizon.us <= now) {
            deliveri_later_settle(d);
            if (before(l->done, l->taken))
                return 0; /* those first that are on their way */
            if (d->commit_kind == COMMIT_LATER && d->committed.head != NULL)
                return 0; /* what is in the stream by then comes in with the commit */
            TRY(deliveri_load_later(d, err));
        }
        if (l->count == 0 || l->heap[0].us > now || before(coming, l->heap[0]) ||
            !deliveri_has_room(d, sizeof(struct item)))
            return 0;
        TRY(load(d, l->heap[0], err));
        must(!before(l->heap[0], l->taken));
        l->taken = pop(l);
        must(l->open > 0);
        l->open--;
        *progress = true;
    }
out:
    return rc;
}

/* How far all that was due is done. */
void
deliveri_later_settle(struct deliver *d)
{
    struct later *l = &d->later;
    struct item  *it = d->again.head;
    struct due    was = l->done;

    while (it != NULL && !it->scheduled)
        it = it->next;
    if (it == NULL)
        l->done = l->taken;
    else if (it->due.pos > 0) /* what is before it, in the order of `before` */
        l->done = (struct due){it->due.us, it->due.pos - 1};
    must(!before(l->done, was));
    must(!before(l->taken, l->done));
}

uint64_t
deliveri_later_wait_us(const struct deliver *d)
{
    const struct later *l = &d->later;
    int64_t             now = d->env->ops->wall_us(d->env), due = INT64_MAX;

    if (l->count > 0)
        due = l->heap[0].us;
    else if (l->partial)
        due = l->horizon.us;
    if (d->delayed_until_us != 0 && d->delayed_until_us < due)
        due = d->delayed_until_us;
    if (due == INT64_MAX)
        return UINT64_MAX;
    return due <= now ? 1 : (uint64_t)(due - now);
}
