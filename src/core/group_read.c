/*
 * How a group reads the log: its source from where it was, what the last life
 * left unsettled, and what is parked and to be tried again. A source that is
 * not one stream is read in pieces, so that a filter that lets little through
 * keeps nobody else from the task for long.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "core/group_int.h"

#define PIECE_BYTES (UINT64_C(4) << 20)
#define READ_MAX 256u     /* events in one step */
#define PIECES_MAX 4u     /* in one step */
#define STRIDE_MAX 65536u /* positions: nearer than that it is read through, not looked up */
#define CORRELATION_MAX 1000u

static bool
is_source(const struct group *g, const char *prefix)
{
    return strncmp(g->source, prefix, strlen(prefix)) == 0;
}

static int
compile(struct group *g, int which, struct slice text, struct err *err)
{
    char  pattern[GROUPI_SETTINGS_MAX];
    int   status;
    char *why = pattern;

    must(!g->regexes[which]);
    if (text.len == 0)
        return 0;
    if (text.len >= sizeof pattern)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a regular expression is too long");
    memcpy(pattern, text.data, text.len);
    pattern[text.len] = '\0';
    status = regcomp(&g->regex[which], pattern, REG_EXTENDED | REG_NOSUB);
    if (status != 0) {
        (void)regerror(status, &g->regex[which], why, sizeof pattern);
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: no regular expression: %.100s",
                   which == 0 ? "stream_regex" : "type_regex", why);
    }
    g->regexes[which] = true;
    return 0;
}

int
groupi_read_init(struct group *g, struct err *err)
{
    int rc = 0;

    must(!g->regexes[0]);
    must(!g->regexes[1]);
    must(g->reader == NULL);
    g->by_version =
        strcmp(g->source, "$all") != 0 && !is_source(g, "$ce-") && !is_source(g, "$et-");
    g->pinned = g->settings.strategy == GROUP_PINNED || g->settings.strategy == GROUP_CORRELATION;
    TRY(compile(g, 0, g->settings.stream_regex, err));
    TRY(compile(g, 1, g->settings.type_regex, err));
out:
    return rc;
}

void
groupi_read_close(struct group *g)
{
    log_iter_close(g->reader);
    g->reader = NULL;
    g->at_end = false;
}

void
groupi_read_fini(struct group *g)
{
    groupi_read_close(g);
    for (int i = 0; i < 2; i++)
        if (g->regexes[i])
            regfree(&g->regex[i]);
    g->regexes[0] = g->regexes[1] = false;
    buf_fini(&g->scratch);
}

/* links */

bool
groupi_link_parse(struct slice data, struct slice *stream, uint64_t *version)
{
    const char *at = data.len == 0 ? NULL : memchr(data.data, '@', data.len);

    if (at == NULL ||
        !json_uint64(slice_of(data.data, (size_t)(at - (const char *)data.data)), version))
        return false;
    *stream = slice_of(at + 1, data.len - (size_t)(at + 1 - (const char *)data.data));
    return stream->len > 0 && stream->len <= LOG_NAME_MAX;
}

static int
read_one(struct group *g, struct slice stream, uint64_t version, struct log_iter **iter,
         struct log_event *out, struct err *err)
{
    /* It was wanted: what a move has hidden since is given nonetheless. */
    struct log_read read = {.stream = stream,
                            .from = version,
                            .skip_moved = g->settings.skip_moved,
                            .start = UINT64_MAX};
    int             rc = log_iter_open(g->groups->log, &read, iter, err);

    if (rc == 0)
        rc = log_iter_next(*iter, out, err);
    if (rc == E_END || rc == E_GONE || (rc == 0 && out->version != version))
        rc = E_NOTFOUND;
    return rc;
}

int
groupi_find(struct group *g, const struct item *it, struct log_iter **iter, struct log_event *out,
            struct err *err)
{
    int rc = read_one(g, slice_of(it->name, it->name_len), it->version, iter, out, err);

    if (rc != 0 || out->pos.v == it->pos.v)
        return rc;
    /* A copy that was given at its original's position is found at its own. */
    if (!g->settings.skip_moved)
        return E_NOTFOUND;
    out->pos = it->pos;
    return 0;
}

int
groupi_resolve(struct group *g, const struct log_event *link, struct log_iter **iter,
               struct log_event *out, struct err *err)
{
    struct slice stream;
    uint64_t     version;

    if (!groupi_link_parse(link->data, &stream, &version))
        return E_NOTFOUND;
    return read_one(g, stream, version, iter, out, err);
}

/* admitting */

static struct slice
correlation_of(struct group *g, struct slice meta)
{
    struct slice raw, text;

    if (!json_get(meta, "$correlationId", &raw) || json_type(raw) != JSON_STRING ||
        json_string_view(raw, &g->scratch, &text, NULL) != 0)
        return (struct slice){0};
    return slice_of(text.data, text.len < CORRELATION_MAX ? text.len : CORRELATION_MAX);
}

/* Takes the event over; `a` is filled but for what follows from the event. */
static int
admit(struct group *g, struct arrival *a, struct err *err)
{
    struct log_iter *iter = NULL;
    struct log_event target;
    uint64_t         version;
    struct slice     meta = a->event->meta;
    int              rc = 0;

    a->order_stream = a->event->stream;
    if (g->settings.resolve_links && (a->event->flags & LOG_LINK) != 0) {
        (void)groupi_link_parse(a->event->data, &a->order_stream, &version);
        if (g->settings.strategy == GROUP_CORRELATION) {
            rc = groupi_resolve(g, a->event, &iter, &target, err);
            if (rc == 0)
                meta = target.meta;
            if (rc != 0 && rc != E_NOTFOUND)
                goto out;
        }
    }
    if (g->settings.strategy == GROUP_CORRELATION)
        a->correlation = correlation_of(g, meta);
    lock_take(&g->groups->lock);
    rc = groupi_admit(g, a, err);
    lock_give(&g->groups->lock);
out:
    log_iter_close(iter);
    return rc;
}

static bool
has_room(const struct group *g)
{
    uint32_t most = g->settings.live_buffer_size > g->settings.history_buffer_size
                        ? g->settings.live_buffer_size
                        : g->settings.history_buffer_size;

    must(g->ready <= g->live.count + g->again.count);
    return g->ready < most && g->live.count + g->again.count < GROUP_HELD_MAX;
}

static bool
has_room_locked(struct group *g)
{
    bool room;

    lock_take(&g->groups->lock);
    room = has_room(g);
    lock_give(&g->groups->lock);
    return room;
}

/* what the last life left */

static void
set_moves(const struct group *g, struct log_read *read)
{
    read->skip_links = !g->settings.resolve_links && !g->settings.deliver_links;
    read->skip_moved = g->settings.skip_moved;
    read->start = g->mark.start;
}

static int
open_all(struct group *g, uint64_t from, bool everything, struct err *err)
{
    struct log_read read = {.from = from};

    must(g->reader == NULL);
    set_moves(g, &read);
    if (everything) { /* what was wanted before is wanted still */
        read.skip_links = false;
        read.start = UINT64_MAX;
    }
    read.filter.system = read.filter.quiet = everything;
    read.patience = PIECE_BYTES;
    if (!everything && strcmp(g->source, "$all") != 0) {
        read.stream = slice_str(g->source); /* $ce-NAME, $et-TYPE */
    } else if (!everything) {
        read.filter.prefix = g->settings.prefix;
        read.filter.category = g->settings.category;
        read.filter.type = g->settings.type;
        read.filter.type_prefix = g->settings.type_prefix;
        read.filter.stream_regex = g->regexes[0] ? &g->regex[0] : NULL;
        read.filter.type_regex = g->regexes[1] ? &g->regex[1] : NULL;
        read.filter.system = g->settings.system;
    }
    return log_iter_open(g->groups->log, &read, &g->reader, err);
}

/* The event at a position, E_NOTFOUND where there is none any more. */
static int
read_at(struct group *g, uint64_t pos, struct log_event *ev, struct err *err)
{
    int rc = 0;

    if (g->reader != NULL &&
        (log_iter_pos(g->reader).v > pos || pos - log_iter_pos(g->reader).v > STRIDE_MAX))
        groupi_read_close(g);
    if (g->reader == NULL)
        TRY(open_all(g, pos, true, err));
    do {
        rc = log_iter_next(g->reader, ev, err);
    } while (rc == E_MORE || (rc == 0 && ev->pos.v < pos));
    if (rc == E_END || (rc == 0 && ev->pos.v != pos))
        rc = E_NOTFOUND;
out:
    if (rc != 0)
        groupi_read_close(g);
    return rc;
}

static int
read_pending(struct group *g, bool *progress, struct err *err)
{
    struct log_iter *iter = NULL;
    struct log_event ev;
    struct arrival   a = {.event = &ev, .touched = true};
    int              rc = 0;

    must(g->pending_at <= g->pending_count);
    for (uint32_t n = 0; g->pending_at < g->pending_count && n < READ_MAX; n++) {
        uint64_t number = g->pending[g->pending_at];

        if (!has_room_locked(g))
            return 0;
        rc = g->by_version ? read_one(g, slice_str(g->source), number, &iter, &ev, err)
                           : read_at(g, number, &ev, err);
        if (rc == 0)
            rc = admit(g, &a, err);
        log_iter_close(iter);
        iter = NULL;
        if (rc != 0 && rc != E_NOTFOUND)
            return rc;
        lock_take(&g->groups->lock);
        g->pending_at++;
        lock_give(&g->groups->lock);
        *progress = true;
    }
    if (g->pending_at == g->pending_count)
        groupi_read_close(g);
    return 0;
}

/* what is new */

static int
open_reader(struct group *g, struct err *err)
{
    struct log_read read = {.stream = slice_str(g->source), .from = g->next_number};

    set_moves(g, &read);
    if (g->by_version)
        return log_iter_open(g->groups->log, &read, &g->reader, err);
    return open_all(g, g->next_number, false, err);
}

/* Those that groups write themselves: they would feed on one another. */
static bool
is_own(struct slice stream)
{
    return slice_starts(stream, slice_str("$persistentsubscription-")) ||
           slice_is(stream, GROUP_CONFIG_STREAM);
}

static void
set_next(struct group *g, uint64_t number)
{
    lock_take(&g->groups->lock);
    must(number >= g->next_number);
    g->next_number = number;
    lock_give(&g->groups->lock);
}

/* E_END: nothing now; else 0 with or without an event. */
static int
read_next(struct group *g, struct log_event *ev, bool *got, struct err *err)
{
    int rc = 0;

    *got = false;
    if (g->reader == NULL)
        rc = open_reader(g, err);
    if (rc == 0)
        rc = log_iter_next(g->reader, ev, err);
    *got = rc == 0;
    if ((rc == E_END || rc == E_MORE) && !g->by_version &&
        log_iter_pos(g->reader).v > g->next_number)
        set_next(g, log_iter_pos(g->reader).v);
    if (rc == E_NOTFOUND || rc == E_GONE) { /* not there yet, or deleted: it may come */
        groupi_read_close(g);
        rc = E_END;
    }
    return rc == E_MORE ? 0 : rc;
}

static int
read_live(struct group *g, bool *progress, struct err *err)
{
    struct log_event ev;
    struct arrival   a = {.event = &ev};
    uint32_t         events = 0, pieces = 0;
    bool             got;
    int              rc = 0;

    while (has_room_locked(g)) {
        if (events++ == READ_MAX || pieces == PIECES_MAX) {
            *progress = true;
            return 0;
        }
        rc = read_next(g, &ev, &got, err);
        g->at_end = rc == E_END;
        if (rc != 0)
            return rc == E_END ? 0 : rc;
        pieces += !got;
        if (!got)
            continue;
        a.correlation = (struct slice){0};
        if (!is_own(ev.stream))
            rc = admit(g, &a, err);
        if (rc != 0) {
            groupi_read_close(g); /* it is read again */
            return rc;
        }
        *progress = true;
        g->read_events++;
        g->read_pos = ev.pos;
        set_next(g, g->by_version ? ev.version + 1 : ev.pos.v + 1);
    }
    return 0;
}

int
groupi_read(struct group *g, bool *progress, struct err *err)
{
    must(!g->closing);
    must(!g->paused);
    if (g->pending_at < g->pending_count)
        return read_pending(g, progress, err);
    return read_live(g, progress, err);
}

/* what is parked */

/* Which event a record is of; E_NOTFOUND: it says nothing of use. */
static int
read_record(struct group *g, uint64_t record, struct log_iter **iter, struct slice *stream,
            uint64_t *version, struct err *err)
{
    struct log_event link;
    int              rc = read_one(g, slice_str(g->parked_stream), record, iter, &link, err);

    if (rc == 0 && !groupi_link_parse(link.data, stream, version))
        rc = E_NOTFOUND;
    return rc;
}

static int
replay_one(struct group *g, uint64_t record, struct err *err)
{
    struct log_iter *iter = NULL, *iter_2 = NULL;
    struct log_event ev;
    struct arrival   a = {.event = &ev, .touched = true, .replay = true, .parked_version = record};
    struct slice     stream = {0};
    uint64_t         version;
    struct lane     *lane;
    int              rc = read_record(g, record, &iter, &stream, &version, err);

    if (rc == 0)
        rc = read_one(g, stream, version, &iter_2, &ev, err);
    if (rc == 0)
        rc = admit(g, &a, err);
    if (rc == E_NOTFOUND) {
        lock_take(&g->groups->lock);
        g->skipped++;
        g->settled++;
        lane = g->settings.park_behind && stream.len > 0 ? groupi_lane(g, 0, stream, false) : NULL;
        if (lane != NULL && lane->open > 0)
            groupi_lane_open(g, lane, false);
        lock_give(&g->groups->lock);
        rc = 0;
    }
    log_iter_close(iter_2);
    log_iter_close(iter);
    return rc;
}

int
groupi_replay_read(struct group *g, bool *progress, struct err *err)
{
    int rc = 0;

    must(g->parked_from <= g->parked_upto);
    must(g->parked_pending_at <= g->parked_pending_count);
    for (uint32_t n = 0; n < READ_MAX && has_room_locked(g); n++) {
        bool     left = g->parked_pending_at < g->parked_pending_count;
        uint64_t record = left ? g->parked_pending[g->parked_pending_at] : g->parked_from;

        if (!left && g->parked_from >= g->parked_upto)
            break;
        rc = replay_one(g, record, err);
        if (rc != 0)
            return rc;
        lock_take(&g->groups->lock);
        if (left)
            g->parked_pending_at++;
        else
            g->parked_from++;
        lock_give(&g->groups->lock);
        *progress = true;
    }
    return 0;
}

int
groupi_parked_streams(struct group *g, uint64_t from, uint64_t upto, bool open, struct err *err)
{
    struct log_iter *iter = NULL;
    struct slice     stream;
    uint64_t         version;
    int              rc = 0;

    must(g->settings.park_behind);
    for (; from < upto; from++) {
        struct lane *lane = NULL;

        rc = read_record(g, from, &iter, &stream, &version, err);
        lock_take(&g->groups->lock);
        if (rc == 0)
            lane = groupi_lane(g, 0, stream, open);
        if (lane != NULL && (open || lane->open > 0))
            groupi_lane_open(g, lane, open);
        lock_give(&g->groups->lock);
        log_iter_close(iter);
        iter = NULL;
        if (rc == E_NOTFOUND)
            continue;
        if (rc != 0)
            return rc;
        if (open && (lane == NULL || g->open_lanes > GROUPI_PARKED_STREAMS_MAX))
            RETURN_ERR(err, E_LIMIT, ERR_FATAL,
                       "events of more than %u streams are parked: replay or skip them",
                       GROUPI_PARKED_STREAMS_MAX);
    }
    return 0;
}
