/*
 * Taking a rewrite in place back, in one commit: the originals, which the rewrite hid, come again
 * as copies, and behind them what was appended since. The mark names all that it hides from the
 * originals on, so that readers and scavenge find the originals' copies in this commit, also those
 * of events that the rewrite dropped.
 */
#include "migrate/stream/stream_int.h"

struct here {
    struct streami_worker   *w;
    struct slice             stream;
    struct log_stream        info;
    struct streami_rewritten mark;
    struct streami_again     again;
};

static int
no_memory(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a way back");
}

static int
refuse(const char *why, struct err *err)
{
    RETURN_ERR(err, E_REJECTED, ERR_DATA, "%s", why);
}

/* Is what the rewrite made still what the stream begins with? */
static int
check_state(const struct here *h, struct err *err)
{
    if ((h->info.flags & (LOG_STREAM_MOVED | LOG_STREAM_ROUTED)) != 0)
        return refuse("it was moved on: that is to be rolled back first", err);
    if ((h->info.flags & LOG_STREAM_FED) != 0)
        return refuse("copies come to it from a routed stream: oxbow stream unroute ends that",
                      err);
    if ((h->info.flags & LOG_STREAM_CLOSED) != 0)
        return refuse("it is closed; oxbow stream open lets it be moved", err);
    if (h->info.first != h->mark.version)
        return refuse("it was rewritten or truncated since, which would be undone", err);
    return 0;
}

/* While a scavenge is at work the originals may be gone in the next moment, with nothing that
 * says where their copies are. *run: which one was the last. */
static int
check_scavenge(const struct here *h, uint64_t *run, struct err *err)
{
    struct log_scavenge s;

    log_scavenge_status(h->w->surgery->log, &s);
    *run = s.run;
    if (s.state == LOG_SCAVENGE_RUNNING && !s.dry_run)
        RETURN_ERR(err, E_BUSY, ERR_RETRY, "waits for the end of the scavenge that is at work");
    return 0;
}

static int
read_originals(struct here *h, struct err *err)
{
    struct log_read read = {
        .stream = h->stream, .from = h->mark.first, .sealed = true, .raw = true};
    struct log_iter *it = NULL;
    struct log_event e;
    uint64_t         next = h->mark.first;
    int              rc;

    TRY(log_iter_open(h->w->surgery->log, &read, &it, err));
    while (next <= h->mark.last && (rc = streami_next(it, &e, err)) == 0 && e.version == next) {
        next++;
        if (!streami_is_mark(e.type, e.data, NULL))
            TRY(streami_again_add(&h->w->arena, &h->again, &e, err));
    }
    if (rc == E_END)
        rc = 0;
    if (rc == 0 && next <= h->mark.last)
        rc = refuse("its originals are not all there any more: scavenge gave them back", err);
out:
    log_iter_close(it);
    return rc;
}

/* What was appended after the rewrite. */
static int
read_newer(struct here *h, struct err *err)
{
    struct log_read  read = {.stream = h->stream, .from = h->mark.version + 1, .sealed = true};
    struct log_iter *it = NULL;
    struct log_event e;
    int              rc;

    TRY(log_iter_open(h->w->surgery->log, &read, &it, err));
    while ((rc = streami_next(it, &e, err)) == 0 && e.version <= h->info.head)
        if (e.commit.v != h->mark.commit.v && !streami_is_mark(e.type, e.data, NULL))
            TRY(streami_again_add(&h->w->arena, &h->again, &e, err));
    if (rc == E_END)
        rc = 0;
out:
    log_iter_close(it);
    return rc;
}

/* *again: somebody wrote meanwhile. */
static int
go_back(struct here *h, bool *again, struct err *err)
{
    struct streami_arena      *a = &h->w->arena;
    const struct streami_spec *spec = h->w->surgery->spec;
    struct log_new_event      *events = streami_alloc(a, (h->again.count + 2u) * sizeof *events);
    struct streami_source s = {.stream = h->stream, .first = h->mark.version, .head = h->info.head};
    struct log_change change = {.stream = h->stream, .expected = LOG_ANY, .what = LOG_SET_TRUNCATE};
    struct log_check  check = {.stream = h->stream, .expected = LOG_EXISTS};
    struct log_write  write = {.stream = h->stream, .expected = (int64_t)h->info.head};
    struct log_req    req = {.writes = &write,
                             .write_count = 1,
                             .changes = &change,
                             .change_count = 1,
                             .checks = &check,
                             .check_count = 1,
                             .flags = LOG_BULK};
    uint32_t          n = 0;
    int               rc;

    if (events == NULL)
        return no_memory(err);
    if (h->mark.version > h->mark.last + 1) /* the rewrite changed what consumers had seen */
        TRY(streami_range_event(a, spec, STREAM_INVALID_TYPE, &s, &events[n++], err));
    change.truncate = h->info.head + 1 + n;
    s.first = h->mark.first;
    TRY(streami_back_event(a, spec, &s, &events[n++], err));
    for (uint32_t i = 0; i < h->again.count; i++)
        events[n++] = h->again.outs[i].event;
    write.events = events;
    write.count = n;
    rc = log_append(h->w->surgery->log, &req);
    *again = rc == E_WRONG_VERSION;
    if (*again)
        rc = 0;
    else if (rc != 0)
        err_copy(err, &req.err);
out:
    return rc;
}

int
streami_back_here(struct streami_worker *w, struct slice stream, bool *done,
                  struct streami_counts *counts, struct err *err)
{
    struct here h = {.w = w, .stream = stream};
    uint64_t    run = 0, now = 0;
    bool        ours = false, again = false;
    int         rc;

    *done = true;
    streami_reset(&w->arena);
    rc = log_stream_info(w->surgery->log, stream, &h.info, err);
    if (rc == E_NOTFOUND || rc == E_GONE)
        return 0;
    if (rc == 0)
        rc = streami_rewritten(&w->reader, &h.info, &h.mark, &ours, err);
    if (rc != 0 || !ours || h.mark.back)
        goto out;
    TRY(check_state(&h, err));
    TRY(check_scavenge(&h, &run, err));
    TRY(read_originals(&h, err));
    TRY(read_newer(&h, err));
    TRY(check_scavenge(&h, &now, err));
    if (now == run)
        TRY(go_back(&h, &again, err));
    *done = now == run && !again;
    if (*done) {
        counts->streams++;
        counts->copies += h.again.count;
    }
out:
    return rc;
}
