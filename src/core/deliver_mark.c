/*
 * The delivery's own commits: its checkpoint, and the records of what it
 * parked. Each holds on to the version of the checkpoint's stream, so that
 * whoever started later wins and the other one learns of it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "core/deliver_int.h"

/* A checkpoint for what was only passed by: so far apart that they feed on nothing. */
#define PASSED_MAX (UINT64_C(1) << 20)

/* A seek that was ordered and not carried out: nothing is in flight that it has to wait for. */
static void
read_order(struct deliver *d, struct slice mark)
{
    struct slice raw;

    if (!json_get(mark, "order", &raw))
        return;
    d->range.on = false;
    if (json_get_path(mark, slice_str("order.position"), &raw))
        (void)json_uint64(raw, &d->mark.v);
    if (json_get_path(mark, slice_str("order.replay.at"), &raw) && json_uint64(raw, &d->range.at) &&
        json_get_path(mark, slice_str("order.replay.to"), &raw))
        d->range.on = json_uint64(raw, &d->range.to);
}

/* Empty: goes on where it stands. */
static void
write_order(struct deliver *d)
{
    buf_add_str(&d->text, ",\"order\":{");
    if (!d->seek_here)
        buf_printf(&d->text, "\"position\":%" PRIu64, d->seek.v);
    else if (d->next_range.on)
        buf_printf(&d->text, "\"replay\":{\"at\":%" PRIu64 ",\"to\":%" PRIu64 "}", d->next_range.at,
                   d->next_range.to);
    buf_add_byte(&d->text, '}');
}

static int
read_mark(struct deliver *d, struct err *err)
{
    struct log_read read = {
        .stream = slice_str(d->mark_stream), .from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    struct slice     raw;
    bool             paused;
    int              rc;

    d->mark_version = LOG_NO_STREAM;
    d->mark = LOG_POS(0);
    d->has_mark = false;
    d->start = d->runs = 0;
    d->range.on = false;
    d->later.done = (struct due){0};
    d->later.from = d->later.last = 0;
    rc = log_iter_open(d->log, &read, &it, err);
    if (rc == E_NOTFOUND)
        return 0;
    if (rc != 0)
        goto out;
    TRY(log_iter_next(it, &ev, err));
    if (!json_get(ev.data, "position", &raw) || !json_uint64(raw, &d->mark.v))
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s: its last event has no position", d->mark_stream);
    if (json_get(ev.data, "start", &raw) && !json_uint64(raw, &d->start))
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s: its last event has no start", d->mark_stream);
    if (json_get(ev.data, "runs", &raw))
        (void)json_uint64(raw, &d->runs);
    if (json_get_path(ev.data, slice_str("replay.at"), &raw) && json_uint64(raw, &d->range.at) &&
        json_get_path(ev.data, slice_str("replay.to"), &raw))
        d->range.on = json_uint64(raw, &d->range.to);
    if (json_get_path(ev.data, slice_str("later.due"), &raw) &&
        json_int64(raw, &d->later.done.us) &&
        json_get_path(ev.data, slice_str("later.position"), &raw) &&
        json_uint64(raw, &d->later.done.pos) &&
        json_get_path(ev.data, slice_str("later.from"), &raw))
        (void)json_uint64(raw, &d->later.from);
    d->later.marked = d->later.done;
    d->paused = json_get(ev.data, "paused", &raw) && json_bool(raw, &paused) && paused;
    read_order(d, ev.data);
    d->mark_version = (int64_t)ev.version;
    d->has_mark = true;
out:
    log_iter_close(it);
    return rc;
}

/* The position before the first one. */
static int
first_start(struct deliver *d, struct err *err)
{
    uint64_t end = log_end(d->log).v;
    int      rc = 0;

    d->mark = LOG_POS(0);
    switch (d->conf.from) {
    case DELIVER_BEGINNING:
        break;
    case DELIVER_END:
        d->mark = LOG_POS(end == 0 ? 0 : end - 1);
        break;
    case DELIVER_POSITION:
        d->mark = LOG_POS(d->conf.position.v == 0 ? 0 : d->conf.position.v - 1);
        break;
    case DELIVER_TIME:
        rc = log_pos_of_time(d->log, d->conf.time_us - 1, &d->mark, err);
        break;
    }
    d->start = d->mark.v + 1;
    return rc;
}

int
deliveri_load_mark(struct deliver *d, struct err *err)
{
    int rc;

    must(d->reader == NULL);
    must(!d->committing);
    TRY(read_mark(d, err));
    d->far_due = false;
    if (d->far_side) {
        TRY(d->sink->ops->checkpoint(d->sink, &d->far, err));
        /* Zero: a first start, or the far side began anew. `from: end` has nothing to repeat. */
        d->far_due = d->far.v == 0;
        if (d->far.v != 0)
            d->mark = d->far;
        else if (!d->has_mark || d->conf.from != DELIVER_END)
            TRY(first_start(d, err));
    } else if (!d->has_mark) {
        TRY(first_start(d, err));
    }
    if (d->mark.v > log_end(d->log).v &&
        (d->has_mark || d->far.v != 0 || d->conf.from != DELIVER_POSITION))
        FAIL(err, E_DIVERGED, ERR_FATAL,
             "sink %s: its checkpoint is position %" PRIu64 ", but the log ends at %" PRIu64
             ": it belongs to another log, or the log was restored from an older copy",
             d->name, d->mark.v, log_end(d->log).v);
out:
    return rc;
}

bool
deliveri_mark_due(struct deliver *d)
{
    struct log_pos upto = deliveri_done_upto(d, false);
    uint64_t       next = d->range.on ? d->range.at : d->mark.v + 1; /* as the last one has it */
    uint64_t       news = d->delivered - d->mark_delivered;

    if (d->orders != d->orders_marked)
        return true;
    deliveri_later_settle(d);
    if (upto.v < next && d->later.marked.us == d->later.done.us &&
        d->later.marked.pos == d->later.done.pos)
        return false;
    if (news >= d->conf.checkpoint_items || (upto.v >= next && upto.v - next >= PASSED_MAX))
        return true;
    return news > 0 && (atomic_load(&d->stopping) ||
                        d->now_us >= d->mark_us + (uint64_t)d->conf.checkpoint_ms * 1000);
}

static void
done(struct log_req *req)
{
    struct deliver *d = req->arg;

    must(!atomic_load(&d->commit_done));
    env_tell(d->env, d->task, &d->commit_done);
}

static void
submit(struct deliver *d, enum commit_kind kind)
{
    must(!d->committing);
    must(d->write.count > 0);
    must(d->write.count <= DELIVERI_RECORDS_MAX);
    d->write.events = d->events;
    memset(&d->req, 0, sizeof d->req);
    d->req.writes = &d->write;
    d->req.write_count = 1;
    d->req.flags = LOG_SYSTEM;
    d->req.done = done;
    d->req.arg = d;
    if (kind == COMMIT_MARK) {
        d->req.flags |= LOG_QUIET;
    } else {
        d->check = (struct log_check){slice_str(d->mark_stream), d->mark_version};
        d->req.checks = &d->check;
        d->req.check_count = 1;
    }
    d->commit_kind = kind;
    d->committing = true;
    atomic_store(&d->commit_done, false);
    log_submit(d->log, &d->req);
}

int
deliveri_commit_mark(struct deliver *d, struct log_pos pos, uint64_t range_at, struct err *err)
{
    const struct range *range = d->seek_committing ? &d->next_range : &d->range;

    /* It goes back only where somebody asked for it. */
    must(d->seek_committing || pos.v >= d->mark.v);
    must(range->at <= range_at || !range->on);
    buf_clear(&d->text);
    buf_printf(&d->text, "{\"position\":%" PRIu64 ",\"start\":%" PRIu64 "%s", pos.v, d->start,
               d->paused ? ",\"paused\":true" : "");
    if (d->runs > 0)
        buf_printf(&d->text, ",\"runs\":%" PRIu64, d->runs);
    if (range->on)
        buf_printf(&d->text, ",\"replay\":{\"at\":%" PRIu64 ",\"to\":%" PRIu64 "}", range_at,
                   range->to);
    d->later.next_done = d->later.done;
    if (d->later.done.us != 0)
        buf_printf(&d->text,
                   ",\"later\":{\"due\":%" PRId64 ",\"position\":%" PRIu64 ",\"from\":%" PRIu64 "}",
                   d->later.done.us, d->later.done.pos, d->later.from);
    if (d->seeking && !d->seek_committing)
        write_order(d);
    buf_add_byte(&d->text, '}');
    d->next_at = range_at;
    if (d->text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a checkpoint");
    d->events[0] = (struct log_new_event){
        .type = slice_str("$checkpoint"), .data = buf_slice(&d->text), .flags = LOG_JSON};
    d->write = (struct log_write){
        .stream = slice_str(d->mark_stream), .expected = d->mark_version, .count = 1};
    d->next_mark = pos;
    d->orders_next = d->orders;
    d->mark_us = d->now_us;
    d->next_mark_delivered = d->delivered;
    submit(d, COMMIT_MARK);
    return 0;
}

static const char *
type_of(const struct item *it)
{
    return it->state == ITEM_PARKING     ? "Parked"
           : it->state != ITEM_UNPARKING ? "Scheduled"
           : it->how == HOW_REFUSED      ? "Refused"
                                         : "Unparked";
}

/* The i-th of those whose texts end there. */
static struct log_new_event
record(const struct deliver *d, const size_t *ends, uint32_t i, const char *type)
{
    size_t from = i == 0 ? 0 : ends[i - 1];

    return (struct log_new_event){.type = slice_str(type),
                                  .data = slice_of(d->text.data + from, ends[i] - from),
                                  .flags = LOG_JSON};
}

/* Of one of the two queues: each has its stream. */
int
deliveri_commit_records(struct deliver *d, struct err *err)
{
    size_t        ends[DELIVERI_RECORDS_MAX];
    bool          later = d->records.head == NULL;
    struct queue *q = later ? &d->later_records : &d->records;
    struct item  *it;
    uint32_t      n = 0;

    must(d->claimed);
    must(q->head != NULL);
    must(d->committed.head == NULL);
    buf_clear(&d->text);
    for (it = q->head; it != NULL && n < DELIVERI_RECORDS_MAX; it = (struct item *)it->base.next) {
        must((it->state == ITEM_RECORDING) == later);
        if (later)
            deliveri_write_later(d, it);
        else
            deliveri_write_record(d, it);
        ends[n++] = d->text.len;
    }
    if (d->text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the records of parked events");
    for (uint32_t i = 0; i < n; i++) {
        it = deliveri_pop(q);
        deliveri_push(&d->committed, it);
        d->events[i] = record(d, ends, i, type_of(it));
    }
    must(n > 0);
    must(ends[n - 1] == d->text.len);
    d->write = (struct log_write){.stream = slice_str(later ? d->later_stream : d->parked_stream),
                                  .expected = later ? d->later_version : d->parked_version,
                                  .count = n};
    d->commit_count = n;
    submit(d, later ? COMMIT_LATER : COMMIT_RECORDS);
    return 0;
}

/* No record waits: what they are about is durable. */
int
deliveri_commit_orders(struct deliver *d, struct err *err)
{
    size_t               ends[DELIVERI_RECORDS_MAX];
    struct deliver_call *c = d->recording.head;
    uint32_t             n = 0;

    must(d->claimed);
    must(c != NULL);
    must(d->records.head == NULL);
    buf_clear(&d->text);
    for (; c != NULL && n < DELIVERI_RECORDS_MAX; c = c->next) {
        deliveri_write_order(d, c);
        ends[n++] = d->text.len;
    }
    if (d->text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the records of orders");
    for (uint32_t i = 0; i < n; i++)
        d->events[i] = record(d, ends, i, "Ordered");
    d->write = (struct log_write){
        .stream = slice_str(d->parked_stream), .expected = d->parked_version, .count = n};
    d->commit_count = n;
    submit(d, COMMIT_ORDERS);
    return 0;
}

static int
refused(struct deliver *d, struct err *err)
{
    err_copy(err, &d->req.err);
    if (d->req.rc == E_WRONG_VERSION)
        RETURN_ERR(err, E_FENCED, ERR_FATAL,
                   "sink %s: something else delivers from this log under the same name", d->name);
    return d->req.rc;
}

static void
take_mark(struct deliver *d)
{
    d->mark = d->next_mark;
    d->range.at = d->next_at;
    d->later.marked = d->later.next_done;
    d->mark_delivered = d->next_mark_delivered;
    d->mark_version++;
    d->claimed = true;
    deliveri_orders_marked(d);
}

/* Those that were to be recorded stand before those that came since. */
static void
put_back(struct deliver *d)
{
    struct queue *q = d->commit_kind == COMMIT_LATER ? &d->later_records : &d->records;

    if (d->committed.tail == NULL)
        return;
    d->committed.tail->base.next = q->head == NULL ? NULL : &q->head->base;
    q->head = d->committed.head;
    if (q->tail == NULL)
        q->tail = d->committed.tail;
    d->committed = (struct queue){0};
}

int
deliveri_committed(struct deliver *d, struct err *err)
{
    uint64_t     version = (uint64_t)(d->parked_version + 1);
    struct item *it;
    int          rc = 0;

    must(d->committing);
    d->committing = false;
    if (d->req.rc != 0) {
        put_back(d);
        return refused(d, err);
    }
    must(d->req.end.v <= log_end(d->log).v);
    switch (d->commit_kind) {
    case COMMIT_MARK:
        take_mark(d);
        break;
    case COMMIT_LATER:
        d->later_version += d->commit_count;
        while ((it = deliveri_pop(&d->committed)) != NULL && rc == 0)
            rc = deliveri_scheduled(d, it, err);
        break;
    case COMMIT_RECORDS:
        must(d->commit_count > 0);
        while ((it = deliveri_pop(&d->committed)) != NULL)
            deliveri_recorded(d, it, version++);
        d->parked_version += d->commit_count;
        must((uint64_t)(d->parked_version + 1) == version);
        break;
    case COMMIT_ORDERS:
        d->parked_version += d->commit_count;
        deliveri_orders_recorded(d, d->commit_count);
        break;
    }
    return rc;
}
