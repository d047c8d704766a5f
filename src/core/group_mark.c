/*
 * What is in the log of a group: its checkpoint, which says below which number
 * everything is settled and which ones are not, and the records of what it
 * parked. Both are written in one commit, so that an event is parked when it
 * is settled and never before or after.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "base/rfc3339.h"
#include "core/group_int.h"

/* A checkpoint for what was only passed by: so far apart that it costs nothing. */
#define PASSED_MAX (UINT64_C(1) << 20)

/* A deliberate bug, for the simulator to find: what is not settled is not listed. */
#ifdef OX_BUG_GROUP_MARK
#define FORGETS true
#else
#define FORGETS false
#endif

/* writing */

/* The first of those at the end that nobody has ever had, nor anything after them. */
static const struct item *
untouched(const struct group *g)
{
    const struct item *first = NULL;

    for (const struct item *it = g->live.tail;
         it != NULL && !it->touched && groupi_number(g, it) > g->touched; it = it->prev)
        first = it;
    return first;
}

static struct mark
current(const struct group *g)
{
    const struct item *tail = untouched(g), *oldest = g->live.head;
    struct mark m = {.created = g->created, .parked_from = g->parked_from, .start = g->mark.start};

    while (oldest != NULL && oldest->recording)
        oldest = oldest->next;
    m.next = tail != NULL ? groupi_number(g, tail) : g->next_number;
    m.done = g->mark.done;
    if (g->pending_at < g->pending_count)
        return m; /* those that are left are below all that is in memory */
    if (oldest != NULL)
        m.done = LOG_POS(oldest->pos.v - 1);
    else if (g->by_version && g->read_pos.v != 0)
        m.done = g->read_pos;
    else if (!g->by_version && g->next_number > 0)
        m.done = LOG_POS(g->next_number - 1);
    if (m.done.v < g->mark.done.v)
        m.done = g->mark.done;
    return m;
}

/* The first number, and then how much larger each one is than the one before. */
struct deltas {
    struct buf *out;
    uint64_t    last;
    bool        begun;
};

static void
put_delta(struct deltas *d, uint64_t number)
{
    if (d->begun)
        buf_add_byte(d->out, ',');
    must(number >= d->last);
    buf_add_u64(d->out, number - d->last);
    d->last = number;
    d->begun = true;
}

static void
put_pending(struct buf *out, const struct group *g)
{
    const struct item *end = untouched(g);
    struct deltas      d = {.out = out};

    for (const struct item *it = g->live.head; it != end; it = it->next)
        if (!it->recording && !FORGETS)
            put_delta(&d, groupi_number(g, it));
    for (uint32_t i = g->pending_at; i < g->pending_count; i++)
        put_delta(&d, g->pending[i]);
}

static void
put_parked_pending(struct buf *out, const struct group *g)
{
    struct deltas d = {.out = out};

    for (const struct item *it = g->again.head; it != NULL; it = it->next)
        if (!it->recording)
            put_delta(&d, it->parked_version);
    for (uint32_t i = g->parked_pending_at; i < g->parked_pending_count; i++)
        put_delta(&d, g->parked_pending[i]);
}

/* `g` NULL: of a group that is only being made. */
void
groupi_mark_write(struct buf *out, const struct group *g, const struct mark *m)
{
    buf_printf(out,
               "{\"created\":%" PRIu64 ",\"start\":%" PRIu64 ",\"position\":%" PRIu64
               ",\"next\":%" PRIu64 ",\"pending\":[",
               m->created, m->start, m->done.v, m->next);
    if (g != NULL)
        put_pending(out, g);
    buf_printf(out, "],\"parked_from\":%" PRIu64 ",\"parked_pending\":[", m->parked_from);
    if (g != NULL)
        put_parked_pending(out, g);
    buf_add_str(out, "]}");
}

/* reading */

static int
bad(const struct group *g, struct err *err)
{
    RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "%s: its last event is no checkpoint of this group",
               g->mark_stream);
}

static int
read_deltas(const struct group *g, struct slice list, uint64_t **out, uint32_t *count,
            struct err *err)
{
    struct json_iter it;
    struct slice     raw;
    uint64_t         last = 0, delta;
    uint32_t         cap = 0;
    int              rc;

    free(*out);
    *out = NULL;
    *count = 0;
    rc = json_array_iter(&it, list, err);
    while (rc == 0 && (rc = json_iter_next(&it, NULL, &raw, err)) == 0) {
        if (!json_uint64(raw, &delta))
            return bad(g, err);
        if (*count == cap) {
            uint64_t *more = realloc(*out, (cap = cap == 0 ? 64 : cap * 2) * sizeof *more);
            if (more == NULL)
                RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a checkpoint");
            *out = more;
        }
        last += delta;
        (*out)[(*count)++] = last;
    }
    return rc == E_END ? 0 : rc;
}

static int
parse(struct group *g, struct slice text, struct err *err)
{
    struct json_field f[] = {
        {.name = "created", .required = true},
        {.name = "position", .required = true},
        {.name = "next", .required = true},
        {.name = "pending", .required = true},
        {.name = "parked_from", .required = true},
        {.name = "parked_pending", .required = true},
        {.name = "start"}}; /* an older one has none: all there was is the group's */
    struct mark *m = &g->mark;
    int          rc;

    m->start = 0;
    if (json_pick(text, f, 7, JSON_PICK_ANY, NULL) != 0 || !json_uint64(f[0].value, &m->created) ||
        !json_uint64(f[1].value, &m->done.v) || !json_uint64(f[2].value, &m->next) ||
        !json_uint64(f[4].value, &m->parked_from) || m->created != g->created ||
        (f[6].value.data != NULL && !json_uint64(f[6].value, &m->start)))
        return bad(g, err);
    TRY(read_deltas(g, f[3].value, &g->pending, &g->pending_count, err));
    TRY(read_deltas(g, f[5].value, &g->parked_pending, &g->parked_pending_count, err));
    g->pending_at = g->parked_pending_at = 0;
out:
    return rc;
}

int
groupi_head(struct groups *gs, const char *stream, int64_t *version, struct err *err)
{
    struct log_stream s;
    int               rc = log_stream_info(gs->log, slice_str(stream), &s, err);

    *version = rc == 0 ? (int64_t)s.head : LOG_NO_STREAM;
    return rc == E_NOTFOUND ? 0 : rc;
}

static int
read_mark(struct group *g, struct err *err)
{
    struct log_read read = {
        .stream = slice_str(g->mark_stream), .from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    int              rc;

    TRY(log_iter_open(g->groups->log, &read, &it, err));
    TRY(log_iter_next(it, &ev, err));
    g->mark_version = (int64_t)ev.version;
    TRY(parse(g, ev.data, err));
out:
    log_iter_close(it);
    return rc;
}

int
groupi_load(struct group *g, struct err *err)
{
    int rc;

    must(!g->committing);
    TRY(read_mark(g, err));
    TRY(groupi_head(g->groups, g->parked_stream, &g->parked_version, err));
    if (g->mark.done.v > log_end(g->groups->log).v)
        FAIL(err, E_DIVERGED, ERR_FATAL,
             "its checkpoint is position %" PRIu64 ", but the log ends at %" PRIu64
             ": it belongs to another log, or the log was restored from an older copy",
             g->mark.done.v, log_end(g->groups->log).v);
    lock_take(&g->groups->lock);
    g->next_number = g->read_from = g->mark.next;
    g->touched = 0;
    g->parked_cut = g->mark.parked_from; /* at most; what is replayed keeps more */
    g->parked_from = g->parked_upto = g->mark.parked_from;
    g->pass = 1;
    g->pass_all = g->pass_failed = false;
    g->read_pos = LOG_POS(0);
    g->mark_settled = g->settled;
    g->mark_us = g->groups->now_us;
    lock_give(&g->groups->lock);
    if (g->settings.park_behind) {
        TRY(groupi_parked_streams(g, g->parked_from, (uint64_t)(g->parked_version + 1), true, err));
        for (uint32_t i = 0; i < g->parked_pending_count; i++)
            TRY(groupi_parked_streams(g, g->parked_pending[i], g->parked_pending[i] + 1, true,
                                      err));
    }
    g->loaded = true;
out:
    return rc;
}

/* committing */

bool
groupi_mark_due(const struct group *g)
{
    uint64_t news = g->settled - g->mark_settled, most = g->settings.max_checkpoint_count;
    uint64_t listed =
        g->live.count + g->again.count - g->ready; /* a long list is not written often */

    must(g->settled >= g->mark_settled);
    must(g->live.count + g->again.count >= g->ready);
    if (!g->loaded || g->committing || g->closing || (g->paused && g->groups->committing))
        return false;
    if (g->parking.count > 0 || g->mark_wanted)
        return true;
    if (news >= (most > listed ? most : listed) && news > 0)
        return true;
    if (atomic_load(&g->groups->stopping))
        return news > 0;
    if (!g->by_version && g->live.count == 0 && g->next_number > g->mark.next + PASSED_MAX)
        return true;
    return news > 0 &&
           g->groups->now_us >= g->mark_us + (uint64_t)g->settings.checkpoint_after_ms * 1000 &&
           (news >= g->settings.min_checkpoint_count || g->out + g->ready == 0);
}

static void
put_record(struct buf *out, const struct group *g, const struct item *it, size_t *meta_at)
{
    char added[TIME_TEXT_MAX];

    must(it->state == ITEM_PARKING);
    buf_printf(out, "%" PRIu64 "@", it->version);
    buf_add(out, it->name, it->name_len);
    *meta_at = out->len;
    time_format(g->groups->env->ops->wall_us(g->groups->env), added);
    buf_printf(out, "{\"added\":\"%s\",\"reason\":", added);
    json_put_str(out, it->reason == NULL ? "" : it->reason);
    buf_printf(out, ",\"position\":%" PRIu64 ",\"stream\":", it->pos.v);
    json_put_string(out, slice_of(it->name, it->name_len));
    buf_printf(out, ",\"version\":%" PRIu64 ",\"attempts\":%" PRIu32 "}", it->version,
               it->attempts);
}

static void
done(struct log_req *req)
{
    struct group *g = req->arg;

    must(!atomic_load(&g->commit_done));
    env_tell(g->groups->env, g->groups->task, &g->commit_done);
}

/* The first record that is still parked. */
static uint64_t
first_parked(const struct group *g)
{
    for (const struct item *it = g->again.head; it != NULL; it = it->next)
        if (!it->recording)
            return it->parked_version;
    return g->parked_pending_at < g->parked_pending_count ? g->parked_pending[g->parked_pending_at]
                                                          : g->parked_from;
}

static void
cut_parked(struct group *g)
{
    uint64_t first = first_parked(g);

    if (first <= g->parked_cut)
        return;
    must(g->req.change_count == 0);
    g->parked_cut = first;
    g->change = (struct log_change){.stream = slice_str(g->parked_stream),
                                    .expected = LOG_ANY,
                                    .what = LOG_SET_TRUNCATE,
                                    .truncate = first};
    g->req.changes = &g->change;
    g->req.change_count = 1;
}

static void
submit(struct group *g, uint32_t records)
{
    must(records <= GROUPI_RECORDS_MAX);
    g->writes[0] = (struct log_write){.stream = slice_str(g->mark_stream),
                                      .expected = g->mark_version,
                                      .events = g->events,
                                      .count = 1};
    g->writes[1] = (struct log_write){.stream = slice_str(g->parked_stream),
                                      .expected = g->parked_version,
                                      .events = g->events + 1,
                                      .count = records};
    memset(&g->req, 0, sizeof g->req);
    g->req.writes = g->writes;
    g->req.write_count = records > 0 ? 2 : 1;
    cut_parked(g);
    g->req.flags = LOG_SYSTEM | (records > 0 ? 0u : LOG_QUIET);
    g->req.done = done;
    g->req.arg = g;
    g->commit_count = records;
    g->committing = true;
    g->mark_wanted = false;
    g->mark_us = g->groups->now_us;
    atomic_store(&g->commit_done, false);
    log_submit(g->groups->log, &g->req);
}

/* With the lock. */
int
groupi_commit(struct group *g, struct err *err)
{
    size_t       ends[2 * GROUPI_RECORDS_MAX + 1], from = 0;
    uint32_t     n = 0;
    struct item *it;

    must(!g->committing);
    must(g->loaded);
    buf_clear(&g->text);
    for (it = g->parking.head; it != NULL && n < GROUPI_RECORDS_MAX; it = it->q_next, n++) {
        it->recording = true;
        put_record(&g->text, g, it, &ends[2 * n]);
        ends[2 * n + 1] = g->text.len;
    }
    g->next_mark = current(g);
    must(g->next_mark.done.v >= g->mark.done.v);
    must(g->next_mark.next >= g->mark.next);
    must(g->next_mark.parked_from >= g->mark.parked_from);
    g->next_mark_settled = g->settled;
    groupi_mark_write(&g->text, g, &g->next_mark);
    ends[2 * n] = g->text.len;
    if (g->text.failed) {
        for (it = g->parking.head; it != NULL; it = it->q_next)
            it->recording = false;
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a checkpoint");
    }
    for (uint32_t i = 0; i < n; i++) {
        g->events[i + 1] = (struct log_new_event){
            .type = slice_str("$>"),
            .data = slice_of(g->text.data + from, ends[2 * i] - from),
            .meta = slice_of(g->text.data + ends[2 * i], ends[2 * i + 1] - ends[2 * i]),
            .flags = LOG_LINK};
        from = ends[2 * i + 1];
    }
    g->events[0] = (struct log_new_event){.type = slice_str("$SubscriptionCheckpoint"),
                                          .data = slice_of(g->text.data + from, ends[2 * n] - from),
                                          .flags = LOG_JSON};
    submit(g, n);
    return 0;
}

/* With the lock. What is parked now leaves the memory. */
int
groupi_committed(struct group *g, struct err *err)
{
    must(g->committing);
    g->committing = false;
    if (g->req.rc != 0) {
        g->parked_cut = 0;
        for (struct item *it = g->parking.head; it != NULL; it = it->q_next)
            it->recording = false;
        err_copy(err, &g->req.err);
        if (g->req.rc == E_WRONG_VERSION)
            RETURN_ERR(err, E_FENCED, ERR_FATAL,
                       "something else wrote its checkpoint or its parked stream");
        return g->req.rc;
    }
    must(g->req.end.v <= log_end(g->groups->log).v);
    must(g->writes[0].last_version == (uint64_t)(g->mark_version + 1));
    must(g->commit_count <= g->parking.count);
    g->mark = g->next_mark;
    g->mark_settled = g->next_mark_settled;
    g->mark_version = (int64_t)g->writes[0].last_version;
    if (g->commit_count > 0) {
        must((int64_t)g->writes[1].last_version == g->parked_version + g->commit_count);
        g->parked_version = (int64_t)g->writes[1].last_version;
    }
    for (uint32_t i = 0; i < g->commit_count; i++) {
        struct item *it = g->parking.head;

        must(it->recording);
        must(it->state == ITEM_PARKING);
        groupi_take(&g->parking, it);
        groupi_drop(g, it);
        g->settled++;
        g->mark_settled++; /* the checkpoint has it */
    }
    return 0;
}
