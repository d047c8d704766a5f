/* Holds the whole log against what must be in it, through every way of reading. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "sim/run_int.h"

#define WHOLE_MAX 50000 /* bytes: never spread over frames */

/* Becomes the list of before; a new one begins. */
static void
turn_seen(struct run *run)
{
    struct seen *all = run->old;
    size_t       cap = run->old_cap;

    run->old = run->seen;
    run->old_count = run->seen_count;
    run->old_cap = run->seen_cap;
    run->seen = all;
    run->seen_cap = cap;
    run->seen_count = 0;
}

static struct seen *
add_seen(struct run *run)
{
    if (run->seen_count == run->seen_cap) {
        run->seen_cap = run->seen_cap == 0 ? 256 : run->seen_cap * 2;
        run->seen = realloc(run->seen, run->seen_cap * sizeof *run->seen);
        must(run->seen != NULL);
    }
    return &run->seen[run->seen_count++];
}

/* The first event of a commit: what the commit expected held just before it. */
static void
check_expected(struct run *run, const struct rec *rec)
{
    for (uint32_t i = 0; i < rec->write_count; i++)
        if (!state_holds(&run->streams[rec->w[i].stream], rec->w[i].expected))
            run_fail(run, "rec %" PRIu64 " expected %" PRId64 " of %s, which had %" PRIu64, rec->no,
                     rec->w[i].expected, run->streams[rec->w[i].stream].name,
                     run->streams[rec->w[i].stream].next);
    for (uint32_t i = 0; i < rec->check_count; i++)
        if (!state_holds(&run->streams[rec->c[i].stream], rec->c[i].expected))
            run_fail(run, "rec %" PRIu64 " checked %" PRId64 " of %s, which had %" PRIu64, rec->no,
                     rec->c[i].expected, run->streams[rec->c[i].stream].name,
                     run->streams[rec->c[i].stream].next);
    for (uint32_t i = 0; i < rec->change_count; i++)
        if (!state_holds(&run->streams[rec->ch[i].stream], rec->ch[i].expected))
            run_fail(run, "rec %" PRIu64 " changed %s at %" PRId64 ", which had %" PRIu64, rec->no,
                     run->streams[rec->ch[i].stream].name, rec->ch[i].expected,
                     run->streams[rec->ch[i].stream].next);
    for (uint32_t i = 0; i < rec->write_count; i++) {
        const struct stream *s = &run->streams[rec->w[i].stream];

        if (s->tombstone || (s->meta_of >= 0 && run->streams[s->meta_of].tombstone))
            run_fail(run, "rec %" PRIu64 " wrote to %s, which is gone for good", rec->no, s->name);
    }
}

/* The event follows the one before it, in its commit and in its stream. */
static void
check_order(struct run *run, const struct seen *s, const struct seen *before)
{
    const struct rec *rec = s->rec;
    bool              inside = before != NULL && before->rec == rec;

    if (before != NULL && s->pos <= before->pos)
        run_fail(run, "%" PRIu64 " comes after %" PRIu64, s->pos, before->pos);
    if (before != NULL && s->time_us < before->time_us)
        run_fail(run, "the time of %" PRIu64 " is below that of the commit before", s->pos);
    if (inside != (before != NULL && before->commit == s->commit))
        run_fail(run, "rec %" PRIu64 " is not one commit, at %" PRIu64, rec->no, s->pos);
    if (!inside && before != NULL &&
        (before->w + 1 != before->rec->write_count ||
         before->e + 1 != before->rec->w[before->w].count))
        run_fail(run, "rec %" PRIu64 " ends at %" PRIu64 " in its middle", before->rec->no,
                 before->pos);
    if (!inside) {
        if (s->w != 0 || s->e != 0)
            run_fail(run, "rec %" PRIu64 " begins at %" PRIu64 " in its middle", rec->no, s->pos);
        if (rec->found)
            run_fail(run, "rec %" PRIu64 " is there twice, again at %" PRIu64, rec->no, s->pos);
        check_expected(run, rec);
    } else if (before->w == s->w ? s->e != before->e + 1
                                 : s->w != before->w + 1 || s->e != 0 ||
                                       before->e + 1 != rec->w[before->w].count) {
        run_fail(run, "rec %" PRIu64 " is out of order at %" PRIu64, rec->no, s->pos);
    }
    if (s->version != run->streams[s->stream].next)
        run_fail(run, "%s has %" PRIu64 " after %" PRIu64 " events, at %" PRIu64,
                 run->streams[s->stream].name, s->version, run->streams[s->stream].next, s->pos);
}

static void
place(struct run *run, struct rec *rec, const struct seen *s, bool last)
{
    if (rec->placed && s->w == 0 && s->e == 0 && rec->pos.v != s->pos)
        run_fail(run, "rec %" PRIu64 " was at %" PRIu64 ", and is at %" PRIu64, rec->no, rec->pos.v,
                 s->pos);
    if (rec->placed && last && rec->last.v != s->pos)
        run_fail(run, "rec %" PRIu64 " ended at %" PRIu64 ", and ends at %" PRIu64, rec->no,
                 rec->last.v, s->pos);
    if (!rec->placed && s->w == 0 && s->e == 0)
        rec->pos.v = s->pos;
    if (!rec->placed)
        rec->last.v = s->pos;
    rec->placed = rec->placed || last;
    if (last && rec->written == 0)
        rec->written = 1;
}

static void
begin_scan(struct run *run)
{
    turn_seen(run);
    for (uint32_t i = 0; i < run->stream_count; i++)
        state_reset(&run->streams[i]);
    for (size_t i = 0; i < run->rec_count; i++)
        run->recs[i]->found = false;
}

static struct log_iter *
open_iter(struct run *run, const struct log_read *read)
{
    struct log_iter *it = NULL;
    struct err       err;
    int              rc = log_iter_open(run->log, read, &it, &err);

    if (rc != 0)
        run_fail(run, "cannot read from %" PRIu64 ": %s", read->from, err.text);
    return it;
}

/* The next event; false at the end. */
static bool
next_event(struct run *run, struct log_iter *it, struct log_event *ev)
{
    struct err err;
    int        rc = log_iter_next(it, ev, &err);

    if (rc != 0 && rc != E_END)
        run_fail(run, "reading failed: %s", err.text);
    return rc == 0;
}

static struct log_read
read_all(uint64_t from, bool backwards)
{
    struct log_read read;

    memset(&read, 0, sizeof read);
    read.from = from;
    read.backwards = backwards;
    read.filter.system = true;
    read.filter.quiet = true;
    return read;
}

/* The next event of the log's story, whether it is on the disk or was taken by a scavenge. */
static void
take(struct run *run, struct seen *s)
{
    struct seen *before = run->seen_count == 0 ? NULL : &run->seen[run->seen_count - 1];
    struct rec  *rec = s->rec;
    bool         last = s->w + 1 == rec->write_count && s->e + 1 == rec->w[s->w].count;

    check_order(run, s, before);
    place(run, rec, s, last);
    rec->found = true;
    run->streams[s->stream].next++;
    if (last)
        state_apply(run, rec);
    *add_seen(run) = *s;
}

/* What was there in the last scan, stands before `upto`, and is there no more. */
static void
take_gone(struct run *run, size_t *next, uint64_t upto)
{
    for (; *next < run->old_count && run->old[*next].pos < upto; ++*next) {
        struct seen s = run->old[*next];

        if (run->scavenged_recs <= s.rec->no)
            run_fail(run, "the event at %" PRIu64 " (rec %" PRIu64 ") is gone", s.pos, s.rec->no);
        s.gone = s.was_gone = true;
        take(run, &s);
    }
}

static void
scan_forwards(struct run *run)
{
    struct log_read  read = read_all(0, false);
    struct log_iter *it;
    struct log_event ev;
    size_t           next = 0;

    read.raw = true;
    it = open_iter(run, &read);
    while (next_event(run, it, &ev)) {
        struct seen s = {.pos = ev.pos.v, .commit = ev.commit.v, .version = ev.version};

        take_gone(run, &next, s.pos);
        s.rec = rec_of_event(run, &ev, &s.w, &s.e);
        s.stream = s.rec->w[s.w].stream;
        s.time_us = ev.time_us;
        s.quiet = ev.quiet;
        s.bytes = ev.data.len + ev.meta.len < WHOLE_MAX ? (uint32_t)(ev.data.len + ev.meta.len) : 0;
        if (next < run->old_count && run->old[next].pos == s.pos)
            s.was_gone = run->old[next++].was_gone;
        take(run, &s);
    }
    take_gone(run, &next, UINT64_MAX);
    if (run->seen_count > 0) {
        const struct seen *s = &run->seen[run->seen_count - 1];

        if (s->w + 1 != s->rec->write_count || s->e + 1 != s->rec->w[s->w].count)
            run_fail(run, "the last commit, rec %" PRIu64 ", is not whole", s->rec->no);
        if (log_end(run->log).v <= s->pos)
            run_fail(run, "the end %" PRIu64 " is not behind %" PRIu64, log_end(run->log).v,
                     s->pos);
    }
    log_iter_close(it);
}

/* Everything promised is there; what is not there now never comes. */
static void
check_recs(struct run *run, bool decided)
{
    for (size_t i = 0; i < run->rec_count; i++) {
        struct rec *rec = run->recs[i];

        must(rec->in_flight == 0);
        if (rec->known && !rec->found)
            run_fail(run, "rec %zu at %" PRIu64 " was durable, and is not there", i, rec->pos.v);
        if (!decided)
            continue;
        if (!rec->found) {
            rec->written = 0;
            rec->placed = false;
        }
        rec->maybe = false;
    }
    for (size_t i = 0; i < run->claim_count; i++) {
        const struct claim *c = &run->claims[i];

        if (c->actual >= 0 && run->streams[c->stream].next <= (uint64_t)c->actual)
            run_fail(run,
                     "rec %" PRIu64 " was told that %s has version %" PRId64 ", which is not there",
                     c->rec_no, run->streams[c->stream].name, c->actual);
    }
    state_check_told(run);
    run->claim_count = 0;
    for (uint32_t i = 0; i < run->stream_count; i++)
        run->streams[i].floor = run->streams[i].next;
}

typedef bool want_fn(const struct run *run, const struct log_read *read, const struct seen *s);

static bool
want_filter(const struct run *run, const struct log_read *read, const struct seen *s)
{
    const struct log_filter *f = &read->filter;
    struct slice             name = slice_str(run->streams[s->stream].name);
    struct slice             type = rec_type(run, s->rec, s->w, s->e);
    const char              *dash = strchr(name.data, '-');

    if (s->quiet && !f->quiet)
        return false;
    if (run->streams[s->stream].system && !f->system)
        return false;
    if (!slice_starts(name, f->prefix) || !slice_starts(type, f->type_prefix))
        return false;
    if (f->type.len > 0 && !slice_eq(type, f->type))
        return false;
    if (f->category.len > 0) {
        size_t len = dash == NULL ? name.len : (size_t)(dash - (const char *)name.data);

        return slice_eq(slice_of(name.data, len), f->category);
    }
    return true;
}

/* "$ce-…" and "$et-…" are read by position, as $all is. */
static bool
is_native(struct slice stream)
{
    return slice_starts(stream, slice_str("$ce-")) || slice_starts(stream, slice_str("$et-"));
}

static bool
want_native(const struct run *run, const struct log_read *read, const struct seen *s)
{
    struct log_read all = *read;
    struct slice    label = slice_of((const char *)read->stream.data + 4, read->stream.len - 4);

    all.stream = slice_str("");
    all.filter.system = all.filter.system || slice_starts(label, slice_str("$"));
    if (slice_starts(read->stream, slice_str("$ce-")))
        all.filter.category = label;
    else
        all.filter.type = label;
    return want_filter(run, &all, s);
}

static bool
want(const struct run *run, const struct log_read *read, const struct seen *s)
{
    bool     native = is_native(read->stream);
    uint64_t where = read->stream.len > 0 && !native ? s->version : s->pos;

    if (s->gone)
        return false;
    if (read->at.v != 0 && s->pos > read->at.v)
        return false;
    if (!read->raw && s->version < state_low(&run->streams[s->stream]))
        return false;
    if (read->backwards ? where > read->from : where < read->from)
        return false;
    if (native)
        return want_native(run, read, s);
    if (read->stream.len > 0)
        return slice_is(read->stream, run->streams[s->stream].name);
    return want_filter(run, read, s);
}

/* Was there at the time of the read; maybe: nobody can know any more, since a scavenge took it. */
static bool
check_unseen(struct run *run, const struct log_read *read)
{
    struct log_iter *it;
    struct log_event ev;
    struct err       err;
    bool             maybe = false;
    int              rc;

    if (read->stream.len == 0 || read->at.v == 0 || is_native(read->stream))
        return false;
    for (size_t i = 0; i < run->seen_count; i++) {
        const struct seen *s = &run->seen[i];

        if (!slice_is(read->stream, run->streams[s->stream].name))
            continue;
        if (s->pos <= read->at.v && !s->gone)
            return false;
        maybe = maybe || s->gone;
    }
    rc = log_iter_open(run->log, read, &it, &err);
    if (rc != E_NOTFOUND && !maybe)
        run_fail(run, "%.*s was not there at %" PRIu64 ", and can be read", SLICE_FMT(read->stream),
                 read->at.v);
    if (rc == 0 && next_event(run, it, &ev))
        run_fail(run, "%.*s had nothing at %" PRIu64 ", and is read at %" PRIu64,
                 SLICE_FMT(read->stream), read->at.v, ev.pos.v);
    if (rc == 0)
        log_iter_close(it);
    return true;
}

/* Hidden, and behind it something is gone: an index that was made since need not know of it. */
static bool
may_be_unknown(const struct run *run, const struct seen *s)
{
    return run->scavenged_recs > 0 && s->version < state_low(&run->streams[s->stream]);
}

/* The event that the link leads to, where it may be read; else NULL. */
static const struct seen *
linked(const struct run *run, const struct log_read *read, const struct seen *s)
{
    uint32_t stream;
    uint64_t version;

    if (!rec_link(run, s->rec, s->w, s->e, &stream, &version))
        return NULL;
    for (size_t i = 0; i < run->seen_count; i++) {
        const struct seen *t = &run->seen[i];

        if (t->stream == stream && t->version == version)
            return !t->gone && (read->raw || version >= state_low(&run->streams[stream])) ? t
                                                                                          : NULL;
    }
    return NULL;
}

/* The event is the one that was found, or the one that it leads to. */
static void
check_event(struct run *run, const struct log_read *read, const struct seen *s,
            const struct log_event *ev)
{
    const struct seen *t = read->resolve ? linked(run, read, s) : NULL;
    uint64_t           want_pos, place, version;
    uint32_t           w, e;
    bool               link = rec_link(run, s->rec, s->w, s->e, &w, &version);

    if (t != NULL && ev->link.stream.len == 0 && may_be_unknown(run, t))
        t = NULL;
    want_pos = t != NULL ? t->pos : s->pos;
    place = t != NULL ? ev->link.pos.v : ev->pos.v;
    if (ev->pos.v != want_pos || place != s->pos)
        run_fail(run,
                 "%" PRIu64 " (%" PRIu64 ") instead of %" PRIu64
                 " in a read of \"%.*s\" from %" PRIu64 "%s",
                 ev->pos.v, place, s->pos, SLICE_FMT(read->stream), read->from,
                 read->backwards ? " backwards" : "");
    if (ev->dangling != (read->resolve && link && t == NULL))
        run_fail(run, "the link at %" PRIu64 " %s", s->pos,
                 t == NULL ? "leads nowhere" : "is said to lead nowhere");
    (void)rec_of_event(run, ev, &w, &e);
}

static bool
is_optional(const struct run *run, const struct log_read *read, const struct seen *s)
{
    return read->raw && read->stream.len > 0 && may_be_unknown(run, s);
}

static uint64_t
place_of(const struct log_event *ev)
{
    return ev->link.stream.len > 0 ? ev->link.pos.v : ev->pos.v;
}

/* Reads and holds each event against the list of what is there. */
static void
check_read(struct run *run, const struct log_read *read)
{
    struct log_iter *it;
    struct log_event ev;
    size_t           limit = sim_pick(run->sim, 4) == 0 ? 5 : SIZE_MAX;
    bool             have = false;

    if (check_unseen(run, read))
        return;
    it = open_iter(run, read);
    for (size_t i = 0; i < run->seen_count && limit > 0; i++) {
        const struct seen *s = &run->seen[read->backwards ? run->seen_count - 1 - i : i];

        if (!want(run, read, s))
            continue;
        have = have || next_event(run, it, &ev);
        if (is_optional(run, read, s) && (!have || place_of(&ev) != s->pos))
            continue;
        if (!have)
            run_fail(run, "%" PRIu64 " is missing from a read of \"%.*s\" from %" PRIu64 "%s%s",
                     s->pos, SLICE_FMT(read->stream), read->from,
                     read->backwards ? " backwards" : "", read->raw ? ", raw" : "");
        check_event(run, read, s, &ev);
        have = false;
        limit--;
    }
    if (limit > 0 && (have || next_event(run, it, &ev)))
        run_fail(run, "%" PRIu64 " is too much in a read from %" PRIu64 "%s", ev.pos.v, read->from,
                 read->backwards ? " backwards" : "");
    log_iter_close(it);
}

static void
check_stream(struct run *run, uint32_t n)
{
    struct log_read   read = {.stream = slice_str(run->streams[n].name)};
    struct log_stream info;
    struct log_iter  *it;
    struct err        err;
    uint64_t          next = run->streams[n].next;
    int               rc = log_stream_info(run->log, read.stream, &info, &err);

    if (state_read_code(&run->streams[n]) != 0) {
        if (rc != state_read_code(&run->streams[n]))
            run_fail(run, "%s is not there, and there is one: %d", run->streams[n].name, rc);
        if (log_iter_open(run->log, &read, &it, &err) != rc)
            run_fail(run, "%s is not there, and can be read", run->streams[n].name);
        return;
    }
    if (rc != 0 || info.head != next - 1 || info.first != state_low(&run->streams[n]))
        run_fail(run, "%s: %d, head %" PRIu64 " of %" PRIu64, run->streams[n].name, rc, info.head,
                 next);
    read.resolve = sim_pick(run->sim, 3) == 0;
    read.raw = sim_pick(run->sim, 4) == 0;
    read.backwards = sim_pick(run->sim, 2) == 0;
    read.from = read.backwards ? UINT64_MAX : 0;
    if (sim_pick(run->sim, 3) == 0)
        read.from = sim_pick(run->sim, next + 2);
    if (sim_pick(run->sim, 4) == 0 && run->seen_count > 0)
        read.at.v = run->seen[sim_pick(run->sim, run->seen_count)].pos;
    check_read(run, &read);
}

static uint64_t
some_pos(struct run *run)
{
    uint64_t pos;

    if (run->seen_count == 0)
        return sim_pick(run->sim, 10000);
    pos = run->seen[sim_pick(run->sim, run->seen_count)].pos;
    switch (sim_pick(run->sim, 4)) {
    case 0:
        return pos + 1;
    case 1:
        return pos - 1;
    case 2:
        return sim_pick(run->sim, log_end(run->log).v + 1000);
    default:
        return pos;
    }
}

static void
check_all(struct run *run)
{
    bool            backwards = sim_pick(run->sim, 2) == 0;
    struct log_read read = read_all(backwards ? UINT64_MAX : 0, backwards);

    if (sim_pick(run->sim, 2) == 0)
        read.from = some_pos(run);
    if (sim_pick(run->sim, 3) == 0)
        read.at.v = some_pos(run);
    if (sim_pick(run->sim, 3) == 0)
        read.filter.system = false;
    if (sim_pick(run->sim, 3) == 0)
        read.filter.quiet = false;
    read.raw = sim_pick(run->sim, 4) == 0;
    read.resolve = sim_pick(run->sim, 3) == 0;
    switch (sim_pick(run->sim, 10)) {
    case 0:
        read.filter.prefix = slice_str("cat1");
        break;
    case 1:
        read.filter.category = slice_str("cat2");
        break;
    case 2:
        read.filter.type = slice_str("Closed");
        break;
    case 3:
        read.filter.type_prefix = slice_str("W");
        break;
    case 4:
        read.stream = slice_str("$ce-cat1");
        break;
    case 5:
        read.stream = slice_str("$et-$>");
        break;
    default:
        break;
    }
    check_read(run, &read);
}

static void
check_times(struct run *run)
{
    struct log_pos pos;
    struct err     err;
    uint64_t       best = 0;
    int64_t        us;
    int            rc;

    if (run->seen_count == 0)
        return;
    us =
        run->seen[sim_pick(run->sim, run->seen_count)].time_us + (int64_t)sim_pick(run->sim, 3) - 1;
    for (size_t i = 0; i < run->seen_count; i++)
        if (run->seen[i].time_us <= us && !run->seen[i].gone)
            best = run->seen[i].pos;
    rc = log_pos_of_time(run->log, us, &pos, &err);
    if (rc != 0)
        run_fail(run, "no position of a time: %s", err.text);
    /* Any position between that event and the next one is as good. */
    for (size_t i = 0; i < run->seen_count; i++)
        if (!run->seen[i].gone && (run->seen[i].pos <= pos.v) != (run->seen[i].pos <= best))
            run_fail(run, "time %" PRId64 " is at %" PRIu64 ", not %" PRIu64, us, pos.v, best);
}

struct listing {
    struct run  *run;
    char         last[LOG_NAME_MAX + 1];
    uint32_t     count;
    struct slice prefix;
};

static int
listed(void *arg, const struct log_stream *stream, struct err *err)
{
    struct listing *l = arg;

    (void)err;
    if (slice_cmp(stream->name, slice_str(l->last)) <= 0 && l->count > 0)
        run_fail(l->run, "streams are listed out of order at %.*s", SLICE_FMT(stream->name));
    if (!slice_starts(stream->name, l->prefix))
        run_fail(l->run, "%.*s has not the prefix", SLICE_FMT(stream->name));
    memcpy(l->last, stream->name.data, stream->name.len);
    l->last[stream->name.len] = '\0';
    for (uint32_t i = 0; i < l->run->stream_count; i++)
        if (slice_is(stream->name, l->run->streams[i].name)) {
            if (stream->head + 1 != l->run->streams[i].next)
                run_fail(l->run, "%s is listed with version %" PRIu64 ", not %" PRIu64, l->last,
                         stream->head, l->run->streams[i].next - 1);
            l->count++;
            return 0;
        }
    run_fail(l->run, "%s is listed, and nobody made it", l->last);
}

static void
check_listing(struct run *run)
{
    struct listing l = {.run = run};
    struct err     err;
    uint32_t       there = 0;
    int            rc;

    if (sim_pick(run->sim, 2) == 0)
        l.prefix = slice_str("cat1");
    for (uint32_t i = 0; i < run->stream_count; i++)
        there += state_read_code(&run->streams[i]) == 0 &&
                 slice_starts(slice_str(run->streams[i].name), l.prefix);
    rc = log_streams(run->log, l.prefix, slice_str(""), listed, &l, &err);
    if (rc != 0)
        run_fail(run, "listing streams: %s", err.text);
    if (l.count != there)
        run_fail(run, "%u streams are listed, not %u", l.count, there);
}

/* "$streams" has a link for each stream that is there, by position, and no other. */
static void
check_firsts(struct run *run)
{
    struct log_read  read = read_all(0, false);
    struct log_iter *it;
    struct log_event ev;
    uint64_t         before = 0;
    bool             listed_here[STREAMS_MAX] = {false};
    uint32_t         i;

    read.stream = slice_str("$streams");
    it = open_iter(run, &read);
    while (next_event(run, it, &ev)) {
        const char *name = memchr(ev.data.data, '@', ev.data.len);
        size_t      len;

        if (name == NULL || ev.pos.v <= before)
            run_fail(run, "$streams has %.*s at %" PRIu64 " after %" PRIu64, SLICE_FMT(ev.data),
                     ev.pos.v, before);
        name++;
        before = ev.pos.v;
        len = ev.data.len - (size_t)(name - (const char *)ev.data.data);
        for (i = 0; i < run->stream_count; i++)
            if (slice_is(slice_of(name, len), run->streams[i].name))
                break;
        if (i == run->stream_count || listed_here[i] || state_read_code(&run->streams[i]) != 0)
            run_fail(run, "$streams has %.*s, which is not there, or twice", SLICE_FMT(ev.data));
        listed_here[i] = true;
    }
    log_iter_close(it);
    for (i = 0; i < run->stream_count; i++)
        if (!listed_here[i] && state_read_code(&run->streams[i]) == 0)
            run_fail(run, "$streams does not have %s", run->streams[i].name);
}

static void
check_verify(struct run *run)
{
    uint64_t          there = 0;
    struct log_counts counts;
    struct err        err;
    int               rc = log_verify(run->log, NULL, NULL, &counts, &err);

    if (rc != 0)
        run_fail(run, "verify: %s", err.text);
    for (size_t i = 0; i < run->seen_count; i++)
        there += !run->seen[i].gone;
    /* A scavenge may go on while it waits for the index. */
    if (counts.events != there && (counts.events > there || !care_running(run)))
        run_fail(run, "verify counts %" PRIu64 " events, not %" PRIu64, counts.events, there);
    if (counts.index_mismatches != 0)
        run_fail(run, "verify: %" PRIu64 " places where the index is not the log",
                 counts.index_mismatches);
}

void
check_scan(struct run *run, bool decided)
{
    bool was_looking = run->looking;

    must(run->in_flight == 0);
    sim_hold(run->sim, true);
    run->looking = true;
    run->scans++;
    begin_scan(run);
    scan_forwards(run);
    state_learn(run);
    check_recs(run, decided);
    sub_poll(run, true);
    sub_check(run);
    run->events = run->seen_count;
    for (uint32_t i = 0; i < run->stream_count; i++)
        check_stream(run, i);
    for (uint32_t i = 0; i < 4; i++)
        check_all(run);
    check_times(run);
    check_listing(run);
    check_firsts(run);
    check_verify(run);
    run->looking = was_looking;
    sim_hold(run->sim, false);
}

/* A short read of something while anything goes on: each event must be one that may be there. */
void
check_some(struct run *run)
{
    uint32_t         n = (uint32_t)sim_pick(run->sim, run->stream_count), w, e;
    struct log_read  read = read_all(UINT64_MAX, true);
    struct log_iter *it = NULL;
    struct log_event ev;
    struct err       err;
    uint64_t         before = UINT64_MAX;
    int              rc;

    if (sim_pick(run->sim, 2) == 0)
        read.stream = slice_str(run->streams[n].name);
    rc = log_iter_open(run->log, &read, &it, &err);
    if (rc == E_NOTFOUND && read.stream.len > 0 &&
        (run->streams[n].floor == 0 || run->streams[n].may_be_deleted))
        return;
    if (rc == E_GONE && run->streams[n].may_be_gone)
        return;
    for (uint32_t i = 0; rc == 0 && i < 5; i++) {
        rc = log_iter_next(it, &ev, &err);
        if (rc == 0 && ev.pos.v >= before)
            run_fail(run, "backwards, %" PRIu64 " comes after %" PRIu64, ev.pos.v, before);
        if (rc == 0 && i == 0 && read.stream.len > 0 && ev.version + 1 < run->streams[n].floor)
            run_fail(run, "%s ends with version %" PRIu64 " though %" PRIu64 " was told",
                     run->streams[n].name, ev.version, run->streams[n].floor - 1);
        if (rc == 0) {
            before = ev.pos.v;
            (void)rec_of_event(run, &ev, &w, &e);
        }
    }
    if ((rc == E_NOTFOUND || rc == E_GONE) && run->streams[n].may_be_deleted)
        rc = E_END; /* while it was read */
    if (rc != 0 && rc != E_END && !run_excused(run))
        run_fail(run, "reading %s: %s", run->streams[n].name, err.text);
    log_iter_close(it);
}

void
check_restored(struct run *run, struct log *log, uint64_t end)
{
    struct log_read  read = read_all(0, false);
    struct log      *own = run->log;
    struct log_iter *it;
    struct log_event ev;
    size_t           next = 0;
    uint32_t         w, e;

    run->log = log;
    read.raw = true;
    it = open_iter(run, &read);
    while (next_event(run, it, &ev)) {
        while (next < run->seen_count && run->seen[next].pos < ev.pos.v && run->seen[next].was_gone)
            next++;
        if (next == run->seen_count || run->seen[next].pos != ev.pos.v || ev.pos.v >= end)
            run_fail(run, "the backup up to %" PRIu64 " has an event at %" PRIu64, end, ev.pos.v);
        (void)rec_of_event(run, &ev, &w, &e);
        next++;
    }
    log_iter_close(it);
    for (; next < run->seen_count && run->seen[next].pos < end; next++)
        if (!run->seen[next].was_gone)
            run_fail(run, "the backup up to %" PRIu64 " has no event at %" PRIu64, end,
                     run->seen[next].pos);
    run->log = own;
}
