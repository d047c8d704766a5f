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
    d->start = 0;
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
    d->paused = json_get(ev.data, "paused", &raw) && json_bool(raw, &paused) && paused;
    d->mark_version = (int64_t)ev.version;
    d->has_mark = true;
out:
    log_iter_close(it);
    return rc;
}

static struct log_pos
first_position(const struct deliver *d)
{
    uint64_t end = log_end(d->log).v;

    switch (d->conf.from) {
    case DELIVER_BEGINNING:
        break;
    case DELIVER_END:
        return LOG_POS(end == 0 ? 0 : end - 1);
    case DELIVER_POSITION:
        return LOG_POS(d->conf.position.v == 0 ? 0 : d->conf.position.v - 1);
    }
    return LOG_POS(0);
}

static struct log_pos
first_start(struct deliver *d)
{
    struct log_pos before = first_position(d);

    d->start = before.v + 1;
    return before;
}

int
deliveri_load_mark(struct deliver *d, struct err *err)
{
    int rc;

    TRY(read_mark(d, err));
    d->far_due = false;
    if (d->transactional) {
        TRY(d->sink->ops->checkpoint(d->sink, &d->far, err));
        /* Zero: a first start, or the far side began anew. `from: end` has nothing to repeat. */
        d->far_due = d->far.v == 0;
        if (d->far.v != 0)
            d->mark = d->far;
        else if (!d->has_mark || d->conf.from != DELIVER_END)
            d->mark = first_start(d);
    } else if (!d->has_mark) {
        d->mark = first_start(d);
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
deliveri_mark_due(const struct deliver *d)
{
    struct log_pos upto = deliveri_done_upto(d, false);
    uint64_t       news = d->delivered - d->mark_delivered;

    if (d->mark_changed)
        return true;
    if (upto.v <= d->mark.v)
        return false;
    if (news >= d->conf.checkpoint_items || upto.v - d->mark.v > PASSED_MAX)
        return true;
    return news > 0 && (atomic_load(&d->stopping) ||
                        d->now_us >= d->mark_us + (uint64_t)d->conf.checkpoint_ms * 1000);
}

static void
done(struct log_req *req)
{
    struct deliver *d = req->arg;

    atomic_store(&d->commit_done, true);
    d->env->ops->task_wake(d->env, d->task);
}

static void
submit(struct deliver *d, bool mark, uint32_t flags)
{
    must(!d->committing);
    d->write.events = d->events;
    memset(&d->req, 0, sizeof d->req);
    d->req.writes = &d->write;
    d->req.write_count = 1;
    d->req.flags = LOG_SYSTEM | flags;
    d->req.done = done;
    d->req.arg = d;
    if (!mark) {
        d->check = (struct log_check){slice_str(d->mark_stream), d->mark_version};
        d->req.checks = &d->check;
        d->req.check_count = 1;
    }
    d->commit_is_mark = mark;
    d->committing = true;
    atomic_store(&d->commit_done, false);
    log_submit(d->log, &d->req);
}

int
deliveri_commit_mark(struct deliver *d, struct log_pos pos, struct err *err)
{
    buf_clear(&d->text);
    buf_printf(&d->text, "{\"position\":%" PRIu64 ",\"start\":%" PRIu64 "%s}", pos.v, d->start,
               d->paused ? ",\"paused\":true" : "");
    if (d->text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a checkpoint");
    d->events[0] = (struct log_new_event){
        .type = slice_str("$checkpoint"), .data = buf_slice(&d->text), .flags = LOG_JSON};
    d->write = (struct log_write){
        .stream = slice_str(d->mark_stream), .expected = d->mark_version, .count = 1};
    d->next_mark = pos;
    d->next_paused = d->paused;
    d->mark_us = d->now_us;
    d->next_mark_delivered = d->delivered;
    submit(d, true, LOG_QUIET);
    return 0;
}

int
deliveri_commit_records(struct deliver *d, struct err *err)
{
    size_t       ends[DELIVERI_RECORDS_MAX], from = 0;
    struct item *it;
    uint32_t     n = 0;

    buf_clear(&d->text);
    for (it = d->records.head; it != NULL && n < DELIVERI_RECORDS_MAX;
         it = (struct item *)it->base.next) {
        deliveri_write_record(d, it);
        ends[n++] = d->text.len;
    }
    if (d->text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the records of parked events");
    for (uint32_t i = 0; i < n; i++) {
        it = deliveri_pop(&d->records);
        deliveri_push(&d->committed, it);
        d->events[i] = (struct log_new_event){
            .type = slice_str(it->state == ITEM_PARKING ? "Parked" : "Unparked"),
            .data = slice_of(d->text.data + from, ends[i] - from),
            .flags = LOG_JSON};
        from = ends[i];
    }
    d->write = (struct log_write){
        .stream = slice_str(d->parked_stream), .expected = d->parked_version, .count = n};
    d->commit_count = n;
    submit(d, false, 0);
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

int
deliveri_committed(struct deliver *d, struct err *err)
{
    struct item *it;

    must(d->committing);
    d->committing = false;
    if (d->req.rc != 0) {
        /* Those that were to be recorded stand before those that came since. */
        if (d->committed.tail != NULL) {
            d->committed.tail->base.next = d->records.head == NULL ? NULL : &d->records.head->base;
            d->records.head = d->committed.head;
            if (d->records.tail == NULL)
                d->records.tail = d->committed.tail;
            d->committed = (struct queue){0};
        }
        return refused(d, err);
    }
    if (d->commit_is_mark) {
        d->mark = d->next_mark;
        d->mark_delivered = d->next_mark_delivered;
        d->mark_version++;
        d->mark_changed = d->paused != d->next_paused;
        d->claimed = true;
        return 0;
    }
    for (uint64_t version = (uint64_t)(d->parked_version + 1);
         (it = deliveri_pop(&d->committed)) != NULL; version++)
        deliveri_recorded(d, it, version);
    d->parked_version += d->commit_count;
    return 0;
}
