/*
 * What commits change of streams beside appending to them, and what readers
 * may therefore see: the oracle's own idea of it, from the events that the last
 * scan found. A rec that changes anything has an event too, so that the scan
 * tells whether it is there.
 */
#include <inttypes.h>

#include "base/must.h"
#include "sim/run_int.h"

bool
state_there(const struct stream *s)
{
    return (s->next > 0 || s->stated) && !s->deleted;
}

bool
state_holds(const struct stream *s, int64_t expected)
{
    switch (expected) {
    case LOG_ANY:
        return true;
    case LOG_NO_STREAM:
        return s->next == 0 || !state_there(s);
    case LOG_EXISTS:
        return state_there(s);
    default:
        return expected >= 0 && s->next == (uint64_t)expected + 1;
    }
}

uint64_t
state_low(const struct stream *s)
{
    uint64_t low = s->low, count = s->meta_of >= 0 ? 1 : s->max_count;

    if (s->deleted || s->tombstone)
        return s->next;
    if (count != 0 && s->next > count && s->next - count > low)
        low = s->next - count;
    return low > s->raised ? low : s->raised;
}

int
state_read_code(const struct stream *s)
{
    return s->tombstone ? E_GONE : s->next == 0 || s->deleted ? E_NOTFOUND : 0;
}

static void
change(struct stream *s, const struct rec_change *c)
{
    s->stated = true;
    if ((c->what & (LOG_SET_DELETED | LOG_SET_TOMBSTONE)) != 0)
        s->low = s->next;
    if ((c->what & LOG_SET_TRUNCATE) != 0) {
        uint64_t low = c->truncate < s->next ? c->truncate : s->next;
        s->low = low > s->low ? low : s->low;
    }
    if ((c->what & LOG_SET_LIMITS) != 0)
        s->max_count = c->max_count;
    if ((c->what & LOG_SET_DELETED) != 0)
        s->deleted = true;
    if ((c->what & LOG_SET_TOMBSTONE) != 0) {
        s->tombstone = true;
        s->deleted = false;
    }
}

static void
note_high(struct stream *s)
{
    uint64_t low = state_low(s);

    if (low > s->high)
        s->high = low;
}

/* The change that metadata makes of the stream that it is about. */
static void
apply_meta(struct run *run, const struct rec *rec, uint32_t w)
{
    int32_t           of = run->streams[rec->w[w].stream].meta_of;
    struct rec_change c = {.what = LOG_SET_LIMITS};
    struct log_meta   m;

    if (of < 0)
        return;
    m = rec_meta(run, rec, w);
    c.max_count = m.max_count;
    c.truncate = m.truncate;
    if (m.deleted)
        c.what |= LOG_SET_DELETED;
    else if (m.has_truncate)
        c.what |= LOG_SET_TRUNCATE;
    change(&run->streams[of], &c);
    note_high(&run->streams[of]);
}

void
state_apply(struct run *run, const struct rec *rec)
{
    for (uint32_t i = 0; i < rec->write_count; i++)
        run->streams[rec->w[i].stream].deleted = false;
    for (uint32_t i = 0; i < rec->change_count; i++)
        change(&run->streams[rec->ch[i].stream], &rec->ch[i]);
    for (uint32_t i = 0; i < rec->write_count; i++)
        apply_meta(run, rec, i);
    for (uint32_t i = 0; i < rec->write_count; i++)
        note_high(&run->streams[rec->w[i].stream]);
    for (uint32_t i = 0; i < rec->change_count; i++)
        note_high(&run->streams[rec->ch[i].stream]);
}

/*
 * Before a scavenge takes what only a limit hides it raises the stream's truncation, by a commit
 * without events. So nothing may be readable that was hidden then; what was never hidden is.
 */
void
state_learn(struct run *run)
{
    for (uint32_t i = 0; i < run->stream_count; i++) {
        struct stream    *s = &run->streams[i];
        struct log_stream info;
        struct err        err;

        if (state_read_code(s) != 0 ||
            log_stream_info(run->log, slice_str(s->name), &info, &err) != 0)
            continue; /* what is wrong is said elsewhere */
        if (info.first > state_low(s) && info.first <= s->high && run->scavenged_recs > 0)
            s->raised = info.first;
    }
    for (size_t i = 0; i < run->seen_count; i++) {
        const struct seen   *e = &run->seen[i];
        const struct stream *s = &run->streams[e->stream];

        if (e->gone && (e->version >= state_low(s) || e->version + 1 >= s->next))
            run_fail(run, "%s version %" PRIu64 " at %" PRIu64 " is gone, and has to be there",
                     s->name, e->version, e->pos);
    }
}

void
state_reset(struct stream *s)
{
    s->next = s->low = s->max_count = s->high = s->raised = 0;
    s->stated = s->deleted = s->tombstone = false;
}

/* Streams that may be deleted: what is appended to them is not repeated, since the log forgets it.
 */
static void
pick_what(struct run *run, struct stream *s, struct rec_change *c)
{
    uint64_t kind = sim_pick(run->sim, 10);

    if (s->mortal && kind < 4) {
        c->what = kind == 0 && sim_pick(run->sim, 4) == 0 ? LOG_SET_TOMBSTONE : LOG_SET_DELETED;
        if (c->what == LOG_SET_TOMBSTONE)
            s->may_be_gone = true;
        s->may_be_deleted = true;
    } else if (kind < 7) {
        c->what = LOG_SET_TRUNCATE;
        c->truncate = sim_pick(run->sim, s->floor + 3);
    } else {
        c->what = LOG_SET_LIMITS;
        c->max_count = sim_pick(run->sim, 6);
    }
}

void
state_pick(struct run *run, struct rec *rec)
{
    if (sim_pick(run->sim, 8) != 0)
        return;
    for (uint32_t n = 1 + (uint32_t)sim_pick(run->sim, REC_CHANGES); n > 0; n--) {
        uint32_t           stream = (uint32_t)sim_pick(run->sim, run->stream_count);
        struct rec_change *c = &rec->ch[rec->change_count];
        bool               twice = false;

        for (uint32_t i = 0; i < rec->change_count; i++)
            twice = twice || rec->ch[i].stream == stream;
        for (uint32_t i = 0; i < rec->write_count; i++)
            twice = twice || run->streams[rec->w[i].stream].meta_of == (int32_t)stream;
        if (twice)
            continue;
        *c = (struct rec_change){.stream = stream, .expected = LOG_ANY};
        if (sim_pick(run->sim, 4) == 0)
            c->expected = rec_pick_expected(run, stream);
        pick_what(run, &run->streams[stream], c);
        rec->change_count++;
    }
}

bool
state_repeatable(const struct run *run, const struct rec *rec)
{
    if (rec->no < run->scavenged_recs)
        return false; /* may be gone */
    for (uint32_t i = 0; i < rec->write_count; i++)
        if (run->streams[rec->w[i].stream].mortal)
            return false;
    return rec->change_count == 0;
}

void
state_answer_gone(struct run *run, struct rec *rec, const struct log_req *req)
{
    for (uint32_t i = 0; i < run->stream_count; i++) {
        if (!slice_is(req->wrong_stream, run->streams[i].name))
            continue;
        if (!run->streams[i].may_be_gone)
            run_fail(run, "rec %" PRIu64 ": %s is said to be gone, and nobody asked for that",
                     rec->no, run->streams[i].name);
        run->streams[i].told_gone = true;
        return;
    }
    run_fail(run, "rec %" PRIu64 ": refused for a stream that is gone, which was not asked for",
             rec->no);
}

void
state_check_told(struct run *run)
{
    for (uint32_t i = 0; i < run->stream_count; i++)
        if (run->streams[i].told_gone && !run->streams[i].tombstone)
            run_fail(run, "%s was said to be gone for good, and is not", run->streams[i].name);
}
