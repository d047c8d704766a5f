/*
 * Parked events: their records in the log, and the way back. A stream's
 * records are closed in the order in which they were made, so a count says
 * which of them are open.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "core/deliver_int.h"

static const char *const hows[] = {
    [HOW_DELIVERED] = "delivered", [HOW_SKIPPED] = "skipped", [HOW_GONE] = "gone"};
static const char *const words[] = {
    [LANE_REPLAY] = "replay", [LANE_SKIP_ONE] = "skip", [LANE_SKIP_ALL] = "drop"};

static void
set_mode(struct deliver *d, struct lane *lane, enum lane_mode mode)
{
    must(lane->mode == LANE_HOLD || d->replaying > 0);
    d->replaying += (uint32_t)(mode != LANE_HOLD) - (uint32_t)(lane->mode != LANE_HOLD);
    lane->mode = mode;
}

/* parked_pass: which of them are open has to be known. False: no memory. */
static bool
note_position(struct deliver *d, struct lane *lane, struct log_pos pos)
{
    uint64_t room = lane->position_room == 0 ? 8 : lane->position_room * 2, *grown;

    if (!d->conf.parked_pass)
        return true;
    if (lane->open == lane->position_room) {
        grown = reallocarray(lane->positions, room, sizeof *grown);
        if (grown == NULL)
            return false;
        lane->positions = grown;
        lane->position_room = room;
    }
    must(lane->open < lane->position_room);
    lane->positions[lane->open] = pos.v;
    return true;
}

bool
deliveri_was_parked(const struct deliver *d, const struct lane *lane, struct log_pos pos)
{
    must(lane->open > 0);
    if (!d->conf.parked_pass)
        return pos.v >= lane->behind.v && pos.v <= lane->last.v;
    for (uint64_t i = 0; pos.v <= lane->last.v && i < lane->open; i++)
        if (lane->positions[i] == pos.v)
            return true;
    return false;
}

static void
open_one(struct deliver *d, struct lane *lane, struct log_pos pos)
{
    if (lane->open++ == 0) {
        lane->closed = lane->queued = 0;
        lane->recorded = false;
        lane->behind = pos;
        d->parked_streams++;
    }
    if (lane->last.v < pos.v)
        lane->last = pos;
    if (d->parked_last.v < pos.v)
        d->parked_last = pos;
    d->parked++;
}

static void
close_one(struct deliver *d, struct lane *lane)
{
    must(lane->open > 0);
    must(d->parked >= lane->open);
    lane->open--;
    lane->closed++;
    if (lane->positions != NULL)
        memmove(lane->positions, lane->positions + 1, lane->open * sizeof lane->positions[0]);
    d->parked--;
    if (lane->open == 0) {
        set_mode(d, lane, LANE_HOLD);
        must(d->parked_streams > 0);
        lane->last = LOG_POS(0);
        d->parked_streams--;
    }
}

/* parking */

static int
park_one(struct deliver *d, struct item *it, struct err *err)
{
    if (!note_position(d, it->lane, it->base.pos))
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory for the parked events");
    open_one(d, it->lane, it->base.pos);
    it->state = ITEM_PARKING;
    deliveri_push(&d->records, it);
    return 0;
}

/* It is not in its lane any more; `behind`, and what follows that there, is parked too, but for
 * replays. */
int
deliveri_park(struct deliver *d, struct item *it, struct item *behind, struct err *err)
{
    struct lane *lane = it->lane;
    int          rc = 0;

    must(!it->replay);
    must(it->state == ITEM_WAITING);
    must(it->lane_next == NULL);
    if (lane->open == 0 && d->parked_streams >= d->conf.parked_streams_max)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL,
                   "sink %s: events of %" PRIu64 " streams are parked; replay or skip them",
                   d->name, d->parked_streams);
    TRY(park_one(d, it, err));
    if (d->conf.parked_pass) {
        deliveri_make_ready(d, lane);
        return 0;
    }
    for (struct item *next; behind != NULL && !behind->replay; behind = next) {
        next = behind->lane_next;
        must(behind->state == ITEM_WAITING);
        deliveri_leave_lane(d, behind);
        TRY(park_one(d, behind, err));
    }
out:
    return rc;
}

/* It stays the first of its lane until that is durable. */
void
deliveri_unpark(struct deliver *d, struct item *it, enum how how)
{
    must(it->replay);
    must(it->lane->head == it);
    must(it->state != ITEM_UNPARKING);
    must(it->lane->queued > 0);
    it->state = ITEM_UNPARKING;
    it->how = how;
    deliveri_push(&d->records, it);
}

static void
write_reason(struct json_out *o, const struct item *it)
{
    char text[64];

    (void)snprintf(text, sizeof text, "behind position %" PRIu64, it->lane->behind.v);
    json_out_key(o, "reason");
    if (!it->refused)
        json_out_str(o, text);
    else
        json_out_str(o,
                     it->reason == NULL ? "refused; why was lost for want of memory" : it->reason);
    json_out_key(o, "attempts");
    json_out_u64(o, it->refused ? (uint64_t)it->base.attempt + 1 : it->base.attempt);
}

void
deliveri_write_record(struct deliver *d, const struct item *it)
{
    const struct sink_item *e = &it->base;
    struct json_out         o;
    char                    id[ID_TEXT_LEN + 1];

    must(it->state == ITEM_PARKING || it->state == ITEM_UNPARKING);
    json_out_init(&o, &d->text);
    json_out_object(&o);
    json_out_key(&o, "position");
    json_out_u64(&o, e->pos.v);
    json_out_key(&o, "stream");
    json_out_string(&o, slice_of(it->lane->name, it->lane->len));
    json_out_key(&o, "version");
    json_out_u64(&o, e->version);
    if (it->state == ITEM_UNPARKING && it->how != HOW_REFUSED) {
        json_out_key(&o, "how");
        json_out_str(&o, hows[it->how]);
    } else if (it->state == ITEM_UNPARKING) {
        write_reason(&o, it);
    } else {
        id_format(&e->id, id);
        json_out_key(&o, "id");
        json_out_str(&o, id);
        json_out_key(&o, "type");
        json_out_string(&o, e->type);
        write_reason(&o, it);
    }
    json_out_object_end(&o);
}

/* Nothing of it is lost: the records stay open. */
static void
end_replay(struct deliver *d, struct lane *lane)
{
    struct item *next;

    set_mode(d, lane, LANE_HOLD);
    for (struct item *it = lane->head; it != NULL; it = next) {
        next = it->lane_next;
        if (!it->replay)
            continue;
        deliveri_leave_lane(d, it);
        must(lane->queued > 0);
        lane->queued--;
        deliveri_drop(d, it);
    }
    must(lane->queued == 0);
    deliveri_make_ready(d, lane); /* what passes it */
}

/* Its record is durable: the item is done with. */
void
deliveri_recorded(struct deliver *d, struct item *it, uint64_t version)
{
    struct lane *lane = it->lane;

    must(lane->open > 0);
    if (it->state == ITEM_UNPARKING && it->how == HOW_REFUSED) {
        end_replay(d, lane);
        return;
    }
    if (it->state == ITEM_UNPARKING) {
        must(lane->head == it);
        must(lane->queued > 0);
        deliveri_leave_lane(d, it);
        lane->queued--;
        close_one(d, lane);
        deliveri_make_ready(d, lane);
    } else if (!lane->recorded) {
        lane->first_record = version;
        lane->recorded = true;
    } else {
        must(version > lane->first_record);
    }
    deliveri_drop(d, it);
    deliveri_lane_settle(d, lane);
}

/* orders */

/* It may be on its way already: then it is not the refused one; or arrived, and stays so. */
static void
give_up(struct item *it)
{
    it->skip = true;
    if (it->state != ITEM_UNPARKING || it->how == HOW_REFUSED)
        it->how = HOW_SKIPPED;
}

static void
order(struct deliver *d, struct lane *lane, enum lane_mode mode)
{
    struct item *it = lane->head;

    if (lane->open == 0)
        return;
    while (it != NULL && !it->replay)
        it = it->lane_next;
    if (mode == LANE_SKIP_ONE && it != NULL) {
        give_up(it);
        mode = LANE_REPLAY;
    }
    for (; mode == LANE_SKIP_ALL && it != NULL; it = it->lane_next)
        if (it->replay)
            give_up(it);
    set_mode(d, lane, mode);
}

static void
order_lanes(struct deliver *d, struct slice stream, enum lane_mode mode)
{
    struct lane *lane = stream.len == 0 ? NULL : deliveri_lane(d, stream, false);

    if (lane != NULL)
        order(d, lane, mode);
    for (uint32_t i = 0; stream.len == 0 && d->lanes != NULL && i <= d->lane_mask; i++)
        for (lane = d->lanes[i]; lane != NULL; lane = lane->next)
            order(d, lane, mode);
}

static enum lane_mode
mode_of(const struct deliver_call *call)
{
    return call->command == DELIVER_REPLAY ? LANE_REPLAY
           : call->command == DELIVER_SKIP ? LANE_SKIP_ONE
                                           : LANE_SKIP_ALL;
}

bool
deliveri_is_parked(struct deliver *d, struct slice stream)
{
    struct lane *lane;

    if (stream.len == 0 || stream.len > LOG_NAME_MAX)
        return stream.len == 0 && d->parked > 0;
    lane = deliveri_lane(d, stream, false);
    return lane != NULL && lane->open > 0;
}

/* Its record is durable. The reading begins anew: who was asked about earlier goes on as well. */
void
deliveri_order(struct deliver *d, const struct deliver_call *call)
{
    order_lanes(d, call->stream, mode_of(call));
    log_iter_close(d->parked_reader);
    d->parked_reader = NULL;
}

void
deliveri_write_order(struct deliver *d, const struct deliver_call *call)
{
    struct json_out o;

    json_out_init(&o, &d->text);
    json_out_object(&o);
    json_out_key(&o, "order");
    json_out_str(&o, words[mode_of(call)]);
    if (call->stream.len > 0) {
        json_out_key(&o, "stream");
        json_out_string(&o, call->stream);
    }
    json_out_object_end(&o);
}

/* reading the records */

enum record { RECORD_PARKED, RECORD_UNPARKED, RECORD_REFUSED, RECORD_ORDERED };

struct parked_record {
    enum record    kind;
    enum lane_mode mode; /* of an order; its stream may be empty */
    struct slice   stream;
    struct log_pos pos;
    uint64_t       version;
};

static bool
parse_order(const struct log_event *ev, struct buf *scratch, struct parked_record *out)
{
    struct slice raw, word;

    if (!json_get(ev->data, "order", &raw) || json_string_view(raw, scratch, &word, NULL) != 0)
        return false;
    out->mode = LANE_REPLAY;
    while (out->mode < LANE_SKIP_ALL && !slice_is(word, words[out->mode]))
        out->mode++;
    if (!slice_is(word, words[out->mode]))
        return false;
    out->stream = (struct slice){0};
    return !json_get(ev->data, "stream", &raw) ||
           (json_string_view(raw, scratch, &out->stream, NULL) == 0 &&
            out->stream.len <= LOG_NAME_MAX);
}

static int
parse(const struct deliver *d, const struct log_event *ev, struct buf *scratch,
      struct parked_record *out, struct err *err)
{
    struct slice raw;

    out->kind = slice_is(ev->type, "Parked")    ? RECORD_PARKED
                : slice_is(ev->type, "Ordered") ? RECORD_ORDERED
                : slice_is(ev->type, "Refused") ? RECORD_REFUSED
                                                : RECORD_UNPARKED;
    if (out->kind == RECORD_ORDERED) {
        if (parse_order(ev, scratch, out))
            return 0;
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "%s: event %" PRIu64 " is no order", d->parked_stream,
                   ev->version);
    }
    if (!json_get(ev->data, "position", &raw) || !json_uint64(raw, &out->pos.v) ||
        !json_get(ev->data, "version", &raw) || !json_uint64(raw, &out->version) ||
        !json_get(ev->data, "stream", &raw) ||
        json_string_view(raw, scratch, &out->stream, err) != 0 || out->stream.len > LOG_NAME_MAX)
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "%s: event %" PRIu64 " is no record of a parked event",
                   d->parked_stream, ev->version);
    return 0;
}

static int
replay_history(struct deliver *d, const struct log_event *ev, const struct parked_record *r,
               struct err *err)
{
    struct lane *lane;

    if (r->kind == RECORD_ORDERED) {
        order_lanes(d, r->stream, r->mode);
        return 0;
    }
    lane = deliveri_lane(d, r->stream, r->kind == RECORD_PARKED);
    if (lane == NULL && r->kind == RECORD_PARKED)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the parked streams");
    if (lane == NULL)
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "%s: event %" PRIu64 " unparks what was not parked",
                   d->parked_stream, ev->version);
    if (r->kind == RECORD_REFUSED) {
        set_mode(d, lane, LANE_HOLD);
    } else if (r->kind == RECORD_PARKED) {
        if (!note_position(d, lane, r->pos))
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the parked events");
        open_one(d, lane, r->pos);
        if (!lane->recorded) {
            lane->first_record = ev->version;
            lane->recorded = true;
        }
    } else {
        if (lane->mode == LANE_SKIP_ONE) /* that was the one */
            set_mode(d, lane, LANE_REPLAY);
        close_one(d, lane);
        deliveri_lane_settle(d, lane);
    }
    return 0;
}

static int
open_reader(struct deliver *d, uint64_t from, struct log_iter **out, struct err *err)
{
    struct log_read read = {.stream = slice_str(d->parked_stream), .from = from};

    return log_iter_open(d->log, &read, out, err);
}

int
deliveri_load_parked(struct deliver *d, struct err *err)
{
    struct log_iter     *it = NULL;
    struct log_event     ev;
    struct parked_record r;
    struct buf           scratch = {0};
    int                  rc;

    must(d->lane_count == 0);
    d->parked_version = LOG_NO_STREAM;
    d->parked = d->parked_streams = 0;
    rc = open_reader(d, 0, &it, err);
    if (rc == E_NOTFOUND)
        return 0;
    while (rc == 0 && (rc = log_iter_next(it, &ev, err)) == 0) {
        d->parked_version = (int64_t)ev.version;
        rc = parse(d, &ev, &scratch, &r, err);
        if (rc == 0)
            rc = replay_history(d, &ev, &r, err);
    }
    log_iter_close(it);
    buf_fini(&scratch);
    return rc == E_END ? 0 : rc;
}

/* the way back */

/* Where what stands at a position need not be what its stream has there. */
int
deliveri_find_at(struct deliver *d, struct log_pos pos, struct log_iter **it, struct log_event *ev,
                 struct err *err)
{
    struct log_read read = {.from = pos.v,
                            .filter = {.system = true, .quiet = true},
                            .resolve = d->conf.resolve_links,
                            .skip_moved = d->conf.skip_moved,
                            .start = UINT64_MAX};
    int             rc = log_iter_open(d->log, &read, it, err);

    if (rc == 0)
        rc = log_iter_at(*it, pos, ev, err);
    if (rc == 0)
        deliveri_place(ev);
    return rc;
}

static int
find(struct deliver *d, const struct parked_record *r, struct log_iter **it, struct log_event *ev,
     struct err *err)
{
    struct log_read read = {.stream = r->stream, .from = r->version};
    int             rc;

    if (d->conf.skip_moved || d->conf.resolve_links)
        return deliveri_find_at(d, r->pos, it, ev, err);
    rc = log_iter_open(d->log, &read, it, err);
    return rc == 0 ? log_iter_next(*it, ev, err) : rc;
}

/* The event itself; gone where the log does not have it any more. */
static int
load(struct deliver *d, struct lane *lane, const struct parked_record *r, struct err *err)
{
    struct log_iter *it = NULL;
    struct log_event ev;
    struct shaped    shaped;
    struct item     *item;
    enum lane_mode   mode = lane->mode;
    bool             gone;
    int              rc = find(d, r, &it, &ev, err);

    must(mode != LANE_HOLD);
    must(lane->queued < lane->open);
    gone = rc == E_NOTFOUND || rc == E_GONE || rc == E_END ||
           (rc == 0 && (ev.pos.v != r->pos.v || (ev.flags & LOG_ERASED) != 0));
    if (rc != 0 && !gone)
        goto out;
    if (gone)
        ev = (struct log_event){.pos = r->pos, .version = r->version, .stream = r->stream};
    if (mode == LANE_SKIP_ONE)
        set_mode(d, lane, LANE_REPLAY);
    if (gone)
        shaped = (struct shaped){.ev = ev};
    else
        TRY(deliveri_shape(d, &d->again_shaper, &ev, &shaped, err));
    TRY(deliveri_admit(d, &shaped, ADMIT_REPLAY, &item, err));
    lane->queued++;
    item->skip = gone || shaped.dropped || mode == LANE_SKIP_ALL || mode == LANE_SKIP_ONE;
    item->how = gone ? HOW_GONE : HOW_SKIPPED;
out:
    log_iter_close(it);
    return rc;
}

/* A record is wanted where its lane replays, it is open, and it is not in memory already. */
static int
take_record(struct deliver *d, const struct log_event *ev, struct err *err)
{
    struct parked_record r;
    struct lane         *lane;
    uint64_t             k;
    int                  rc = parse(d, ev, &d->scratch, &r, err);

    if (rc != 0 || r.kind != RECORD_PARKED)
        return rc;
    lane = deliveri_lane(d, r.stream, false);
    if (lane == NULL || lane->open == 0 || !lane->recorded || ev->version < lane->first_record)
        return 0;
    if (lane->pass != d->pass) {
        lane->pass = d->pass;
        lane->pass_index = 0;
    }
    k = lane->pass_index++;
    if (lane->mode == LANE_HOLD || k < lane->closed + lane->queued)
        return 0;
    must(k == lane->closed + lane->queued);
    return load(d, lane, &r, err);
}

int
deliveri_replay_read(struct deliver *d, bool *progress, struct err *err)
{
    struct log_event ev;
    int              rc = 0;

    if (d->replaying == 0)
        return 0;
    must(d->reader != NULL);
    /* After a restart, what stands before a parked event goes first. */
    if (log_iter_pos(d->reader).v <= d->parked_last.v ||
        (d->holding && d->held.ev.pos.v <= d->parked_last.v) || d->range.on)
        return 0;
    if (d->parked_reader == NULL) {
        TRY(open_reader(d, 0, &d->parked_reader, err));
        d->pass++;
    }
    for (uint32_t n = 0; d->replaying > 0 && n < d->conf.window_items; n++) {
        /* The event's size is known when it is read; one beyond the limit at a time is fine. */
        if (!deliveri_has_room(d, sizeof(struct item)))
            return 0;
        rc = log_iter_next(d->parked_reader, &ev, err);
        if (rc == E_END)
            return 0;
        TRY(rc);
        TRY(take_record(d, &ev, err));
        *progress = true;
    }
out:
    if (rc != 0 || d->replaying == 0) {
        log_iter_close(d->parked_reader); /* another pass finds what this one has not taken */
        d->parked_reader = NULL;
    }
    return rc;
}
