/*
 * What one reader reads next, and how it is written: a slice at a time, bounded in bytes written
 * and in bytes of the log looked through.
 */
#include "base/json.h"
#include "base/must.h"
#include "server/access_int.h"
#include "server/feed_int.h"

#define SLICE_OUT (64U << 10)
#define SLICE_EVENTS 1000
#define SLICE_BYTES (1U << 20)
#define BEHIND_BYTES (8U << 20) /* of the log, beyond which a live reader is behind */

/* Which events. */

/* The stream's name goes on with the category's first dash. */
static bool
in_category(struct slice stream, struct slice category)
{
    const char *name = stream.data;

    return stream.len > category.len && slice_starts(stream, category) &&
           name[category.len] == '-' && memchr(name, '-', category.len) == NULL;
}

/* As the log's own filter decides, for events that one iterator reads for many. */
bool
serveri_feed_wants(const struct feed_query *q, const struct log_event *e)
{
    const struct log_filter *filter = &q->read.filter;

    if (e->quiet)
        return false;
    if (!filter->system && e->stream.len != 0 && *(const char *)e->stream.data == '$')
        return false;
    return slice_starts(e->stream, filter->prefix) &&
           (filter->category.len == 0 || in_category(e->stream, filter->category)) &&
           (q->category.len == 0 || in_category(e->stream, q->category)) &&
           (q->type.len == 0 || slice_eq(e->type, q->type)) &&
           (filter->type.len == 0 || slice_eq(e->type, filter->type));
}

/* The version after the last one that a client of this stream has seen. */
static int
find_version(struct feed *f, struct err *err)
{
    struct log_read  read = {.stream = f->query.read.stream,
                             .from = UINT64_MAX,
                             .backwards = true,
                             .at = {f->query.after}};
    struct log_iter *it = NULL;
    struct log_event event;
    int              rc;

    rc = log_iter_open(f->conn->server->log, &read, &it, err);
    if (rc == 0)
        do
            rc = log_iter_next(it, &event, err);
        while (rc == E_MORE);
    if (rc == 0)
        f->query.read.from = event.version + 1;
    log_iter_close(it);
    /* Not there then: everything is new. */
    return rc == E_END || rc == E_NOTFOUND ? 0 : rc;
}

static int
find_end(struct feed *f, struct err *err)
{
    struct log_stream info;
    int               rc = 0;

    if (f->query.all) {
        f->query.read.from = log_end(f->conn->server->log).v;
        return 0;
    }
    TRY(log_stream_info(f->conn->server->log, f->query.read.stream, &info, err));
    f->query.read.from = info.head + 1;
out:
    return rc;
}

static bool
is_open(const struct feed *f)
{
    return f->it != NULL || f->reader != NULL;
}

static struct log_pos
pos_of(const struct feed *f)
{
    return f->reader != NULL ? f->query.ops->pos(f->reader) : log_iter_pos(f->it);
}

/* E_NOTFOUND where a stream is not there. */
static int
open_iter(struct feed *f, struct err *err)
{
    struct feed_query *q = &f->query;
    int                rc = 0;

    if (q->from_end)
        TRY(find_end(f, err));
    else if (q->after != 0 && !q->all)
        TRY(find_version(f, err));
    q->from_end = false;
    q->after = 0;
    f->next_from = q->read.from;
    if (!q->has_start)
        q->read.start = q->read.from;
    q->has_start = true;
    if (q->ops != NULL)
        TRY(q->ops->open(q->ops_arg, q, &f->reader, err));
    else
        TRY(log_iter_open(f->conn->server->log, &q->read, &f->it, err));
    f->there = true;
out:
    return rc;
}

/* Writing. */

/* Where the reader is with this event: where the link to it stands, if there is one. */
static struct log_pos
place_of(const struct log_event *e)
{
    return e->link.stream.len != 0 ? e->link.pos : e->pos;
}

void
serveri_feed_say(const struct feed *f, const char *event, struct buf *out)
{
    buf_printf(out, "event: %s\ndata: {\"position\":%llu}\n\n", event,
               (unsigned long long)f->bound);
}

void
serveri_feed_deleted(struct feed *f, bool gone, struct buf *out)
{
    buf_add_str(out, "event: deleted\ndata: {\"stream\":");
    json_put_string(out, f->query.read.stream);
    buf_add_str(out, gone ? ",\"tombstone\":true}\n\n" : ",\"tombstone\":false}\n\n");
    f->ended = true;
}

static int
begin_event(struct feed *f, struct log_event *event, struct buf *out, struct err *err)
{
    int rc = 0;

    if (!f->query.stored)
        TRY(serveri_upcast(f->conn->server, event, &f->cast, err));
    serveri_event_begin(&f->out, event);
    f->writing = true;
    if (f->query.format == FEED_JSON && f->given != 0)
        buf_add_byte(out, ',');
    if (f->query.format != FEED_SSE)
        goto out;
    buf_add_str(out, "id: ");
    buf_add_u64(out, place_of(event).v);
    if (f->query.read.skip_moved) {
        buf_add_byte(out, '@');
        buf_add_u64(out, f->query.read.start);
    }
    buf_add_str(out, "\ndata: ");
out:
    return rc;
}

static uint64_t
version_of(const struct log_event *e)
{
    return e->link.stream.len != 0 ? e->link.version : e->version;
}

static void
note_next(struct feed *f)
{
    const struct log_event *e = &f->out.event;
    uint64_t                here = f->query.all ? place_of(e).v : version_of(e);

    if (f->query.read.backwards) {
        f->at_end = f->at_end || here == 0;
        f->next_from = here - 1;
    } else {
        f->next_from = f->query.all ? pos_of(f).v : here + 1;
    }
}

static void
end_event(struct feed *f, struct buf *out)
{
    static const char *const ends[] = {"", "\n", "\n\n"};

    buf_add_str(out, ends[f->query.format]);
    f->writing = false;
    f->given++;
    if (f->cast.cap > SERVERI_BUF_KEEP)
        buf_fini(&f->cast);
    f->conn->server->stats.events_out++;
    note_next(f);
    if (f->query.limit != 0 && f->given == f->query.limit)
        f->ended = true;
}

/* The log has no more, for now or for this reader. */
static void
reach_end(struct feed *f, struct buf *out)
{
    if (f->query.all && is_open(f) && !f->query.read.backwards)
        f->next_from = pos_of(f).v;
    if (f->query.format != FEED_SSE) {
        f->ended = f->at_end = true;
        return;
    }
    f->stalled = false;
    if (!f->caught_up)
        serveri_feed_say(f, "caught-up", out);
    f->caught_up = true;
    f->waiting = !serveri_live_join(f);
}

/* A subscriber may be there before its stream, which then begins at its first event. */
static int
not_there(struct feed *f, int rc, struct buf *out, struct err *err)
{
    struct feed_query *q = &f->query;

    if (q->format != FEED_SSE || q->all || (rc != E_NOTFOUND && rc != E_GONE))
        return rc;
    if (f->there || (rc == E_GONE && f->begun)) {
        serveri_feed_deleted(f, rc == E_GONE, out);
        return 0;
    }
    if (rc == E_GONE)
        return rc;
    q->from_end = false;
    q->after = 0;
    reach_end(f, out);
    return 0;
}

static int
next_event(struct feed *f, struct buf *out, uint64_t *bytes, struct err *err)
{
    uint64_t         end = log_end(f->conn->server->log).v;
    struct log_event event;
    int              rc;

    if (!is_open(f) && !f->query.nothing) {
        rc = open_iter(f, err);
        if (rc != 0) {
            f->bound = end;
            return not_there(f, rc, out, err);
        }
    }
    event.link.stream.len = 0;
    event.dangling = false;
    if (f->reader != NULL)
        rc = f->query.ops->next(f->reader, &event, err);
    else
        rc = f->it == NULL ? E_END : log_iter_next(f->it, &event, err);
    if (rc == E_END) {
        f->bound = end; /* read before: what came since is not yet passed over */
        reach_end(f, out);
        return 0;
    }
    if (rc != 0)
        return rc == E_MORE ? rc : not_there(f, rc, out, err);
    *bytes += event.data.len + event.meta.len;
    if (!serveri_may_see(f->conn->server, f->query.who, &event))
        return 0;
    (void)begin_event(f, &event, out, &f->failure); /* said in its turn */
    return 0;
}

/* So far behind that the client should know: its state is not of now. */
static bool
is_behind(const struct feed *f)
{
    return f->stalled ||
           (f->query.all && f->next_from + BEHIND_BYTES < log_end(f->conn->server->log).v);
}

static void
write_first(const struct feed *f, struct buf *out)
{
    if (!f->begun && f->query.format == FEED_JSON)
        buf_add_str(out, "{\"events\":[");
}

static void
write_last(struct feed *f, struct buf *out)
{
    struct log_stream info;
    uint64_t          head = log_end(f->conn->server->log).v;

    if (f->query.format != FEED_JSON)
        return;
    buf_add_str(out, "],\"next\":");
    if (f->query.read.backwards && f->at_end)
        buf_add_str(out, "null");
    else
        buf_add_u64(out, f->next_from);
    if (!f->query.all)
        head = log_stream_info(f->conn->server->log, f->query.read.stream, &info, NULL) == 0
                   ? info.head
                   : 0;
    buf_add_str(out, ",\"head\":");
    buf_add_u64(out, head);
    buf_add_str(out, "}\n");
}

/* What came before an event that cannot be read is given first, where it can be. */
static bool
has_more_to_say(const struct feed *f, const struct buf *out)
{
    if (!f->begun)
        return f->query.format != FEED_JSON && out->len > 0;
    return out->len > 0 || serveri_conn_pending(f->conn) > 0;
}

int
serveri_feed_fill(struct feed *f, struct buf *out, struct err *err)
{
    uint64_t bytes = 0;
    unsigned events = 0;
    int      rc = 0;

    write_first(f, out);
    if (f->caught_up && !f->writing && is_behind(f)) {
        f->caught_up = false;
        serveri_feed_say(f, "fell-behind", out);
    }
    while (!f->ended && !f->waiting && f->group == NULL && out->len < SLICE_OUT) {
        if (f->failure.code != 0) {
            if (has_more_to_say(f, out))
                break;
            err_copy(err, &f->failure);
            return f->failure.code;
        }
        if (f->writing) {
            if (serveri_event_write(&f->out, out, SLICE_OUT - out->len))
                end_event(f, out);
            if (out->failed)
                FAIL(err, E_NOMEM, ERR_RETRY, "no memory for the answer");
            continue;
        }
        if (events++ == SLICE_EVENTS || bytes > SLICE_BYTES)
            break;
        rc = next_event(f, out, &bytes, err);
        if (rc == E_MORE)
            break;
        if (rc != 0)
            return rc;
    }
    rc = 0;
    if (f->ended)
        write_last(f, out);
out:
    return rc;
}
