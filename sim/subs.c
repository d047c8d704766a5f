/*
 * Subscribers: they read on when they are woken, and never else, and keep their
 * position over the engine's crashes.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "sim/run_int.h"

enum sub_kind { SUB_ALL, SUB_SYSTEM, SUB_PREFIX, SUB_TYPE, SUB_STREAM, SUB_KINDS };

static struct log_filter
filter_of(const struct sub *sub)
{
    struct log_filter f;

    memset(&f, 0, sizeof f);
    if (sub->kind == SUB_SYSTEM)
        f.system = true;
    else if (sub->kind == SUB_PREFIX)
        f.prefix = slice_str("cat1");
    else if (sub->kind == SUB_TYPE)
        f.type = slice_str("Closed");
    return f;
}

static bool
wants(const struct sub *sub, const struct seen *s)
{
    const struct stream *stream = &sub->run->streams[s->stream];

    if (sub->kind == SUB_STREAM)
        return s->stream == sub->stream;
    if (s->quiet || (stream->system && sub->kind != SUB_SYSTEM))
        return false;
    if (sub->kind == SUB_PREFIX)
        return slice_starts(slice_str(stream->name), slice_str("cat1"));
    return sub->kind != SUB_TYPE || slice_is(rec_type(sub->run, s->rec, s->w, s->e), "Closed");
}

static void
wake(struct log_listener *listener)
{
    struct sub *sub = listener->arg;

    sub->woken = true;
}

void
sub_new_all(struct run *run)
{
    run->sub_count = (uint32_t)sim_pick(run->sim, SUBS_MAX + 1);
    for (uint32_t i = 0; i < run->sub_count; i++) {
        struct sub *sub = &run->subs[i];

        sub->run = run;
        sub->kind = (int)sim_pick(run->sim, SUB_KINDS);
        sub->stream = (uint32_t)sim_pick(run->sim, run->stream_count);
        sub->listener.wake = wake;
        sub->listener.arg = sub;
    }
}

void
sub_begin(struct run *run)
{
    for (uint32_t i = 0; i < run->sub_count; i++) {
        run->subs[i].woken = true;
        run->subs[i].listening = true;
        log_listen(run->log, &run->subs[i].listener);
    }
}

void
sub_end(struct run *run)
{
    for (uint32_t i = 0; i < run->sub_count; i++) {
        struct sub *sub = &run->subs[i];

        if (sub->listening)
            log_unlisten(run->log, &sub->listener);
        sub->listening = false;
        log_iter_close(sub->it);
        sub->it = NULL;
    }
}

static bool
open_iter(struct run *run, struct sub *sub)
{
    struct log_read read;
    struct err      err;
    int             rc;

    memset(&read, 0, sizeof read);
    read.from = sub->resume;
    read.filter = filter_of(sub);
    read.raw = true; /* what it got stays what it got */
    if (sub->kind == SUB_STREAM)
        read.stream = slice_str(run->streams[sub->stream].name);
    rc = log_iter_open(run->log, &read, &sub->it, &err);
    if (rc == E_NOTFOUND && sub->kind == SUB_STREAM && sub->count == 0)
        return false;
    if (rc != 0 && !run_excused(run))
        run_fail(run, "a subscriber cannot go on at %" PRIu64 ": %s", sub->resume, err.text);
    return rc == 0;
}

static void
got(struct sub *sub, uint64_t pos)
{
    if (sub->count == sub->cap) {
        sub->cap = sub->cap == 0 ? 64 : sub->cap * 2;
        sub->got = realloc(sub->got, sub->cap * sizeof *sub->got);
        must(sub->got != NULL);
    }
    sub->got[sub->count++] = pos;
}

static void
poll(struct run *run, struct sub *sub)
{
    struct log_event ev;
    struct err       err;
    uint32_t         w, e;
    int              rc = 0;

    sub->woken = false;
    if (sub->it == NULL && !open_iter(run, sub))
        return;
    while ((rc = log_iter_next(sub->it, &ev, &err)) == 0) {
        if (sub->count > 0 && ev.pos.v <= sub->got[sub->count - 1])
            run_fail(run, "a subscriber got %" PRIu64 " after %" PRIu64, ev.pos.v,
                     sub->got[sub->count - 1]);
        (void)rec_of_event(run, &ev, &w, &e);
        got(sub, ev.pos.v);
        if (sub->kind == SUB_STREAM)
            sub->resume = ev.version + 1;
        else
            sub->resume = log_iter_pos(sub->it).v;
        if (sim_pick(run->sim, 50) == 0) {
            sub->woken = true; /* goes on another time */
            break;
        }
    }
    if (rc == E_END && sub->kind != SUB_STREAM)
        sub->resume = log_iter_pos(sub->it).v;
    if (rc != 0 && rc != E_END) {
        if (!run_excused(run))
            run_fail(run, "a subscriber failed at %" PRIu64 ": %s", sub->resume, err.text);
        log_iter_close(sub->it);
        sub->it = NULL;
        sub->woken = true;
    }
}

void
sub_poll(struct run *run, bool all)
{
    bool again = true;

    while (again) {
        again = false;
        for (uint32_t i = 0; i < run->sub_count; i++) {
            struct sub *sub = &run->subs[i];

            if (!sub->woken || sub->polling || sim_crashed(run->sim))
                continue;
            if (!all && sim_pick(run->sim, 2) == 0)
                continue;
            sub->polling = true;
            poll(run, sub);
            sub->polling = false;
            again = again || (all && sub->woken && sub->it != NULL);
        }
    }
}

void
sub_check(struct run *run)
{
    for (uint32_t i = 0; i < run->sub_count; i++) {
        struct sub *sub = &run->subs[i];
        size_t      n = 0;

        for (size_t k = 0; k < run->seen_count; k++) {
            const struct seen *s = &run->seen[k];

            if (!wants(sub, s) || (sub->kind == SUB_STREAM && s->quiet && n == sub->count))
                continue;
            if (s->was_gone && (n == sub->count || sub->got[n] != s->pos))
                continue; /* it came too late for that */
            if (n == sub->count)
                run_fail(run, "subscriber %u of kind %d was not woken for %" PRIu64, i, sub->kind,
                         s->pos);
            if (sub->got[n] != s->pos)
                run_fail(run, "subscriber %u of kind %d got %" PRIu64 " instead of %" PRIu64, i,
                         sub->kind, sub->got[n], s->pos);
            n++;
        }
        if (n < sub->count)
            run_fail(run, "subscriber %u of kind %d got %" PRIu64 ", which is not in the log", i,
                     sub->kind, sub->got[n]);
    }
}

void
sub_free_all(struct run *run)
{
    for (uint32_t i = 0; i < run->sub_count; i++)
        free(run->subs[i].got);
}
