/*
 * oxbow-sim-moves: moves of streams in seeded worlds. Old software writes to s-N, new software to
 * t-N once it is there, two surgeries rewrite streams in place and move them, in one commit or in
 * stages, what was moved is given up and scavenged, and lives end by a close or by a power cut.
 * Held against the log:
 *
 * - nothing acknowledged is lost, nothing stands twice, and order is kept, in the stream where
 *   readers find it;
 * - a reader that skips what moves copied gets each event once and in order whose original
 *   stands at or after its start and passes its filter, and else the copy, wherever it starts;
 * - a live reader of t-N is given what is there in the end, in order, and nothing of a stage that
 *   had no end.
 *
 * In every third world the old names are routed instead, and go on until that is ended: then both
 * names have the same, and new software writes to t-N while old software writes to s-N.
 * In the others a rewrite may be taken back.
 *
 * With a third argument the surgeries do not check the stream's head: that has to be found.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "log/log.h"
#include "migrate/stream/stream.h"
#include "sim/env_sim.h"
#include "sim/index_map.h"

#define DIR "/sim/data"
#define STREAMS 3u
#define NUMBERS 1000u
#define WRITERS 3u
#define MOVERS 2u
#define COPIES 60u
#define DATA 2000u

struct fact {
    struct log_pos pos; /* of the original; 0: it is not there, or not known yet */
    uint64_t       version;
    char           stream[8];
    bool           acked;
};

struct world;

/* Has one request under way at most. */
struct actor {
    struct world        *world;
    struct log_req       req;
    struct log_write     w[4];
    struct log_change    change[2];
    struct log_check     check;
    struct log_stage    *stage;  /* of a move that is under way */
    int64_t              filled; /* the last version that it wrote; LOG_NO_STREAM */
    uint64_t             first, from, staged;
    bool                 last; /* what is under way is its last commit */
    bool                 over; /* the stage is to be closed */
    struct log_new_event e[COPIES + 1], mark, metas[2];
    char                 stream[8], other[8], meta_names[2][10], member[2][100];
    char                 data[COPIES + 1][DATA], meta[COPIES + 1][300], text[160];
    uint32_t             number; /* writer: of its event; 0: none */
    int64_t              expected;
    uint32_t             writes, changes, checks; /* of what is ready */
    uint64_t             run;                     /* scavenge's, when that was made */
    bool                 mover, busy, again, ready;
};

struct world {
    uint64_t              seed, life;
    struct sim           *sim;
    struct index_maps    *maps;
    struct log           *log;
    bool                  routed;
    struct stream_router *router;
    struct fact           facts[NUMBERS];
    uint32_t              numbers;
    bool                  careless;
    struct actor          actors[WRITERS + MOVERS];
    struct log_iter      *live; /* of t-N */
    uint64_t              live_last, live_count[STREAMS], live_sum[STREAMS];
    uint64_t              moves, rewrites, stages, acked, crashes, stubs, routings, ends, backs;
};

static void __attribute__((format(printf, 2, 3), __noreturn__))
fail(const struct world *w, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    (void)fprintf(stderr, "sim-moves: seed %" PRIu64 ", life %" PRIu64 ": ", w->seed, w->life);
    (void)vfprintf(stderr, fmt, args);
    (void)fprintf(stderr, "; again: oxbow-sim-moves %" PRIu64 " %" PRIu64 "\n", w->seed, w->seed);
    va_end(args);
    _Exit(1);
}

static uint64_t
pick(struct world *w, uint64_t below)
{
    return sim_pick(w->sim, below);
}

static uint32_t
number_of(const struct log_event *ev)
{
    uint32_t n = 0;

    for (size_t i = 0; i < ev->data.len && i < 8; i++) {
        uint8_t c = ((const uint8_t *)ev->data.data)[i];
        if (c < '0' || c > '9')
            break;
        n = n * 10 + (uint32_t)(c - '0');
    }
    must(n < NUMBERS);
    return n;
}

static struct log_iter *
open_iter(const struct world *w, const struct log_read *read)
{
    struct log_iter *it;
    struct err       err;
    int              rc = log_iter_open(w->log, read, &it, &err);

    if (rc != 0 && rc != E_NOTFOUND)
        fail(w, "a read: %s", err.text);
    return rc == 0 ? it : NULL;
}

static bool
next(const struct world *w, struct log_iter *it, struct log_event *ev)
{
    struct err err;
    int        rc = it == NULL ? E_END : log_iter_next(it, ev, &err);

    if (rc != 0 && rc != E_END)
        fail(w, "a read: %s", err.text);
    return rc == 0;
}

/* Where the originals are: nothing of that ever changes. */
static void
learn(struct world *w)
{
    struct log_read  read = {.raw = true, .filter.type = slice_str("t")};
    struct log_iter *it = open_iter(w, &read);
    struct log_event ev;

    while (next(w, it, &ev)) {
        struct fact *f = &w->facts[number_of(&ev)];

        if (ev.meta.len > 0)
            continue;
        if (f->pos.v != 0 && f->pos.v != ev.pos.v)
            fail(w, "%" PRIu32 " was written twice", number_of(&ev));
        f->pos = ev.pos;
        f->version = ev.version;
        (void)snprintf(f->stream, sizeof f->stream, "%.*s", SLICE_FMT(ev.stream));
    }
    log_iter_close(it);
}

/* actors */

static void
on_done(struct log_req *req)
{
    struct actor *a = req->arg;
    struct world *w = a->world;

    a->busy = false;
    a->ready = false;
    if (a->stage != NULL && req->rc == 0 && !a->last) {
        a->filled = (int64_t)a->w[0].last_version;
        a->staged = a->staged == 0 ? req->pos.v : a->staged;
    } else if (a->stage != NULL) {
        a->over = true;
    }
    if (a->mover)
        return;
    if (req->rc == 0) {
        w->facts[a->number].acked = true;
        w->acked++;
        a->number = 0;
    } else if (req->rc == E_MOVED ||
               (req->rc == E_WRONG_VERSION && (req->gone_flags & LOG_STREAM_MOVED) != 0)) {
        a->stream[0] = 't';
    }
    a->again = req->rc != 0 && req->rc != E_MOVED && req->rc != E_WRONG_VERSION;
}

static void
submit(struct actor *a, uint32_t writes, uint32_t changes)
{
    a->req = (struct log_req){.writes = a->w,
                              .write_count = writes,
                              .changes = a->change,
                              .change_count = changes,
                              .checks = &a->check,
                              .check_count = a->mover ? a->checks : 0,
                              .stage = a->stage,
                              .flags = a->stage != NULL ? (a->last ? 0 : (uint32_t)LOG_STAGED)
                                       : a->mover && a->checks > 0 ? (uint32_t)LOG_MOVED_OK
                                                                   : 0,
                              .done = on_done,
                              .arg = a};
    a->busy = true;
    log_submit(a->world->log, &a->req);
}

static void
write_one(struct actor *a)
{
    struct world     *w = a->world;
    struct log_stream info;

    if (a->number == 0) {
        if (w->numbers + 1 >= NUMBERS)
            return;
        a->number = ++w->numbers;
        a->again = false;
        (void)snprintf(a->stream, sizeof a->stream, "s-%u", (unsigned)pick(w, STREAMS));
        if (w->routed && a == w->actors) { /* new software */
            a->stream[0] = 't';
            if (log_stream_info(w->log, slice_str(a->stream), &info, NULL) != 0)
                a->stream[0] = 's';
        }
    }
    if (!a->again) /* else nobody knows what came of it: the same once more */
        a->expected = log_stream_info(w->log, slice_str(a->stream), &info, NULL) == 0
                          ? (int64_t)info.head
                          : LOG_NO_STREAM;
    memset(a->data[0], ' ', DATA);
    a->data[0][snprintf(a->data[0], DATA, "%u", a->number)] = ' ';
    a->e[0] = (struct log_new_event){.type = slice_str("t"), .data = slice_of(a->data[0], DATA)};
    a->e[0].id.b[0] = (uint8_t)a->number;
    a->e[0].id.b[1] = (uint8_t)(a->number >> 8);
    a->e[0].id.b[15] = 1;
    a->w[0] = (struct log_write){
        .stream = slice_str(a->stream), .expected = a->expected, .events = a->e, .count = 1};
    submit(a, 1, 0);
}

static void
copy_one(struct actor *a, const struct log_event *ev, uint32_t i)
{
    memcpy(a->data[i], ev->data.data, DATA);
    if (ev->meta.len > 0)
        (void)snprintf(a->meta[i], sizeof a->meta[i], "%.*s", SLICE_FMT(ev->meta));
    else
        (void)snprintf(a->meta[i], sizeof a->meta[i],
                       "{\"$copiedFrom\":[{\"stream\":\"%.*s\",\"type\":\"t\",\"version\":%" PRIu64
                       ",\"position\":%" PRIu64 ",\"created\":\"\",\"id\":\"\"}]}",
                       SLICE_FMT(ev->stream), ev->version, ev->pos.v);
    a->e[i] = (struct log_new_event){.type = slice_str("t"),
                                     .data = slice_of(a->data[i], DATA),
                                     .meta = slice_str(a->meta[i]),
                                     .id = ev->id};
}

/* What the metadata of both says, in w[at] and the next one. */
static void
put_metadata(struct actor *a, uint32_t at, int64_t expected)
{
    const char k = a->stream[2];

    (void)snprintf(a->meta_names[0], sizeof a->meta_names[0], "$$t-%c", k);
    (void)snprintf(a->meta_names[1], sizeof a->meta_names[1], "$$s-%c", k);
    for (uint32_t i = 0; i < 2; i++) {
        a->metas[i] = (struct log_new_event){
            .type = slice_str(LOG_META_TYPE), .data = slice_str(a->member[i]), .flags = LOG_JSON};
        a->w[at + i] = (struct log_write){.stream = slice_str(a->meta_names[i]),
                                          .expected = expected,
                                          .events = &a->metas[i],
                                          .count = 1};
    }
}

static void
put_members(struct actor *a)
{
    (void)snprintf(a->member[0], sizeof a->member[0], "{\"$routed\":{\"from\":[\"s-%c\"]}}",
                   a->stream[2]);
    (void)snprintf(a->member[1], sizeof a->member[1],
                   "{\"$routed\":{\"surgery\":\"x\",\"to\":[\"t-%c\"]}}", a->stream[2]);
}

/* The same move by routing, or the end of one; as src/migrate/stream writes them. */
static void
prepare_routed(struct actor *a, uint64_t last)
{
    struct world     *w = a->world;
    struct log_stream info;
    const bool        routed = log_stream_info(w->log, slice_str(a->stream), &info, NULL) == 0 &&
                        (info.flags & LOG_STREAM_ROUTED) != 0;

    if (routed && pick(w, 4) != 0) {
        a->ready = false;
        return;
    }
    put_members(a);
    if (routed) { /* the mark, and nothing is routed any more */
        a->w[0] = a->w[1];
        (void)snprintf(a->member[0], sizeof a->member[0], "{}");
        (void)snprintf(a->member[1], sizeof a->member[1], "{}");
    }
    put_metadata(a, 1, routed ? 0 : LOG_NO_STREAM);
    a->change[0] = (struct log_change){.stream = slice_str(a->stream),
                                       .expected = LOG_ANY,
                                       .what = routed ? LOG_SET_MOVED : LOG_SET_ROUTED};
    a->change[1] = (struct log_change){.stream = slice_str(a->other),
                                       .expected = LOG_ANY,
                                       .what = routed ? LOG_SET_UNFED : LOG_SET_FED};
    a->check = (struct log_check){slice_str(a->stream), w->careless ? LOG_ANY : (int64_t)last};
    a->writes = 3;
    a->changes = 2;
    a->checks = 1;
    w->routings += !routed;
    w->ends += routed;
}

static uint64_t
scavenge_run(const struct world *w)
{
    struct log_scavenge s;

    log_scavenge_status(w->log, &s);
    return s.run;
}

/* Which versions the mark of a rewrite that was not taken back names. */
static bool
was_rewritten(const struct log_event *ev, uint64_t *first, uint64_t *last)
{
    struct json_field f[] = {
        {.name = "first"}, {.name = "last"}, {.name = "stream"}, {.name = "rollback"}};

    return slice_is(ev->type, "MigratedFrom") &&
           json_pick(ev->data, f, 4, JSON_PICK_ANY, NULL) == 0 && f[3].value.len == 0 &&
           slice_starts(f[2].value, slice_str("\"s-")) && json_uint64(f[0].value, first) &&
           json_uint64(f[1].value, last);
}

/* The originals of a rewrite, to take it back. Not all are there: 0. */
static uint32_t
copy_originals(struct actor *a, uint64_t first, uint64_t last)
{
    struct log_read  read = {.stream = slice_str(a->stream), .from = first, .raw = true};
    struct log_iter *it = open_iter(a->world, &read);
    struct log_event ev;
    uint32_t         n = 1;

    for (; first <= last && n <= COPIES && next(a->world, it, &ev) && ev.version == first; first++)
        if (slice_is(ev.type, "t"))
            copy_one(a, &ev, n++);
    log_iter_close(it);
    return first <= last ? 0 : n;
}

/* Looks at a stream, and makes what it will submit another time. */
static void
prepare(struct actor *a)
{
    struct world    *w = a->world;
    unsigned         k = (unsigned)pick(w, STREAMS);
    bool             here = !w->routed && pick(w, 3) == 0;
    char             from[8], to[8];
    struct log_read  read = {.stream = slice_of(from, 3)};
    struct log_iter *it;
    struct log_event ev;
    uint64_t         first = 0, last = 0, from_first, from_last;
    uint32_t         n = 1, seen = 0;
    bool             moved = false, back = false;
    struct log_pos   rewritten = {0};

    (void)snprintf(from, sizeof from, "s-%u", k);
    (void)snprintf(to, sizeof to, "%c-%u", here ? 's' : 't', k);
    memcpy(a->stream, from, sizeof from);
    memcpy(a->other, to, sizeof to);
    it = open_iter(w, &read);
    for (; n <= COPIES && next(w, it, &ev); seen++) {
        first = seen == 0 ? ev.version : first;
        last = ev.version;
        moved = moved || slice_is(ev.type, LOG_MOVED_TYPE);
        if (seen == 0 && here && was_rewritten(&ev, &from_first, &from_last) && pick(w, 4) != 0) {
            back = true;
            rewritten = ev.commit;
            n = copy_originals(a, from_first, from_last);
            if (n == 0)
                break;
        }
        if (slice_is(ev.type, "t") && !(back && ev.commit.v == rewritten.v))
            copy_one(a, &ev, n++);
    }
    log_iter_close(it);
    a->ready = n > 1 && n <= COPIES && !moved;
    (void)snprintf(a->meta[0], sizeof a->meta[0],
                   "{\"stream\":\"%s\",\"first\":%" PRIu64 ",\"last\":%" PRIu64
                   "%s,\"surgery\":\"x\"}",
                   from, back ? from_first : first, last, back ? ",\"rollback\":true" : "");
    a->e[0] = (struct log_new_event){
        .type = slice_str("MigratedFrom"), .data = slice_str(a->meta[0]), .flags = LOG_JSON};
    (void)snprintf(a->text, sizeof a->text,
                   "{\"streams\":[\"%s\"],\"reason\":\"\",\"surgery\":\"x\"}", to);
    a->mark = (struct log_new_event){
        .type = slice_str(LOG_MOVED_TYPE), .data = slice_str(a->text), .flags = LOG_JSON};
    a->w[0] = (struct log_write){.stream = slice_str(a->other),
                                 .expected = here ? (int64_t)last : LOG_NO_STREAM,
                                 .events = a->e,
                                 .count = n};
    a->w[1] = (struct log_write){
        .stream = slice_str(a->stream), .expected = (int64_t)last, .events = &a->mark, .count = 1};
    if (w->careless)
        a->w[0].expected = a->w[1].expected = LOG_ANY;
    a->change[0] = (struct log_change){.stream = slice_str(a->stream),
                                       .expected = LOG_ANY,
                                       .what = here ? LOG_SET_TRUNCATE : LOG_SET_MOVED,
                                       .truncate = last + 1};
    a->writes = here ? 1 : 2;
    a->changes = 1;
    a->checks = 0;
    a->run = scavenge_run(w);
    w->backs += back && a->ready;
    if (w->routed && a->ready)
        prepare_routed(a, last);
}

/* in stages */

static void
close_stage(struct actor *a)
{
    log_stage_close(a->world->log, a->stage);
    a->stage = NULL;
    a->over = a->last = false;
}

static void
begin_stage(struct actor *a)
{
    struct world     *w = a->world;
    unsigned          k = (unsigned)pick(w, STREAMS);
    struct log_stream info;

    (void)snprintf(a->stream, sizeof a->stream, "s-%u", k);
    (void)snprintf(a->other, sizeof a->other, "t-%u", k);
    if (log_stream_info(w->log, slice_str(a->stream), &info, NULL) != 0 ||
        (info.flags & (LOG_STREAM_MOVED | LOG_STREAM_ROUTED)) != 0)
        return;
    must(log_stage_open(w->log, &a->stage, NULL) == 0);
    a->over = log_stage_add(w->log, a->stage, slice_str(a->other), NULL) != 0;
    a->first = a->from = info.first;
    a->filled = LOG_NO_STREAM;
    a->staged = 0;
}

/* Of the original from a->from on: how many events are copied, the mark of a target in front. */
static uint32_t
read_on(struct actor *a, bool *end)
{
    struct world    *w = a->world;
    struct log_read  read = {.stream = slice_str(a->stream), .from = a->from};
    struct log_iter *it = open_iter(w, &read);
    uint32_t         n = 0, most = 1 + (uint32_t)pick(w, 8);
    uint64_t         from = a->from;
    struct log_event ev;

    *end = it != NULL;
    while (next(w, it, &ev)) {
        if (n == 0 && ev.version > a->from && a->from > a->first)
            a->over = true; /* rewritten meanwhile, and the rest is hidden */
        if (a->from > a->first && slice_is(ev.type, "MigratedFrom"))
            a->over = true;
        if (slice_is(ev.type, LOG_MOVED_TYPE))
            a->over = true;
        if (n == most) {
            *end = false;
            break;
        }
        from = ev.version + 1;
        if (slice_is(ev.type, "t"))
            copy_one(a, &ev, ++n);
    }
    log_iter_close(it);
    if (it == NULL)
        a->over = true;
    a->from = from;
    return n;
}

/* The last commit of one that is routed then, behind the copies that are ready. */
static void
end_routed(struct actor *a, uint32_t writes, uint64_t head)
{
    put_members(a);
    put_metadata(a, writes, LOG_NO_STREAM);
    a->change[0].what |= LOG_SET_FED;
    a->change[1] = (struct log_change){
        .stream = slice_str(a->stream), .expected = LOG_ANY, .what = LOG_SET_ROUTED};
    a->check = (struct log_check){slice_str(a->stream), (int64_t)head};
    a->checks = 1;
    a->world->stages++;
    a->world->routings++;
    submit(a, writes + 2, 2);
}

/* One commit of it: some copies, or the rest and the end. */
static void
stage_on(struct actor *a)
{
    struct log_stream info;
    bool              end, mark = a->filled == LOG_NO_STREAM;
    uint64_t          head;
    uint32_t          n;
    char              from[8], to[8];

    memcpy(from, a->stream, sizeof from);
    memcpy(to, a->other, sizeof to);
    if (log_stream_info(a->world->log, slice_str(a->stream), &info, NULL) != 0 ||
        info.first > a->first) { /* deleted, or rewritten */
        a->over = true;
        return;
    }
    n = read_on(a, &end);
    a->checks = 0;
    head = a->from - 1;
    a->last = end && !mark && pick(a->world, 2) == 0;
    if (a->over || (n == 0 && !a->last))
        return;
    (void)snprintf(a->meta[0], sizeof a->meta[0],
                   "{\"stream\":\"%s\",\"first\":%" PRIu64 ",\"last\":%" PRIu64
                   ",\"surgery\":\"x\"}",
                   from, a->first, head);
    a->e[0] = (struct log_new_event){
        .type = slice_str("MigratedFrom"), .data = slice_str(a->meta[0]), .flags = LOG_JSON};
    a->w[0] = (struct log_write){.stream = slice_str(a->other),
                                 .expected = a->filled,
                                 .events = mark ? a->e : a->e + 1,
                                 .count = mark ? n + 1 : n};
    a->change[0] = (struct log_change){.stream = slice_str(a->other),
                                       .expected = LOG_ANY,
                                       .what = a->last ? LOG_SET_UNSTAGED : LOG_SET_STAGED};
    if (!a->last) {
        submit(a, 1, mark ? 1 : 0);
        return;
    }
    if (a->world->routed) {
        end_routed(a, n > 0 ? 1 : 0, head);
        return;
    }
    (void)snprintf(a->text, sizeof a->text,
                   "{\"streams\":[\"%s\"],\"reason\":\"\",\"surgery\":\"x\",\"first\":%" PRIu64
                   ",\"staged\":%" PRIu64 "}",
                   to, a->first, a->staged);
    a->mark = (struct log_new_event){
        .type = slice_str(LOG_MOVED_TYPE), .data = slice_str(a->text), .flags = LOG_JSON};
    a->w[n > 0 ? 1 : 0] = (struct log_write){
        .stream = slice_str(a->stream), .expected = (int64_t)head, .events = &a->mark, .count = 1};
    a->change[1] = (struct log_change){
        .stream = slice_str(a->stream), .expected = LOG_ANY, .what = LOG_SET_MOVED};
    a->world->stages++;
    submit(a, n > 0 ? 2 : 1, 2);
}

static void
move(struct actor *a)
{
    bool here = a->stream[0] == a->other[0];

    if (a->run != scavenge_run(a->world)) { /* it may have taken what comes back */
        a->ready = false;
        return;
    }
    if (here)
        a->world->rewrites++;
    else
        a->world->moves++;
    submit(a, a->writes, a->changes);
}

/* The retention of a moved stream is over; then the disk is given back. */
static void
clean_up(struct world *w)
{
    static char              pad[300000];
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    struct log_stream        info;
    char                     name[8];
    struct log_new_event     e = {.type = slice_str("pad"), .data = slice_of(pad, sizeof pad)};
    struct log_change        c = {.expected = LOG_ANY, .what = LOG_SET_TRUNCATE};
    struct log_write         write = {
                .stream = slice_str("pad"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req req = {.changes = &c, .change_count = 1};

    (void)snprintf(name, sizeof name, "s-%u", (unsigned)pick(w, STREAMS));
    c.stream = slice_str(name);
    if (!w->routed && log_stream_info(w->log, c.stream, &info, NULL) == 0 &&
        (info.flags & LOG_STREAM_MOVED) != 0) {
        c.truncate = info.moved;
        (void)log_append(w->log, &req);
    }
    if (pick(w, 4) != 0)
        return;
    learn(w);
    for (int i = 0; i < 9; i++) {
        req = (struct log_req){.writes = &write, .write_count = 1};
        (void)log_append(w->log, &req);
    }
    if (sim_crashed(w->sim) || log_scavenge_start(w->log, &conf, NULL) != 0)
        return;
    for (int i = 0; i < 2000; i++) {
        (void)sim_run(w->sim, 20);
        log_scavenge_status(w->log, &s);
        if (s.state != LOG_SCAVENGE_RUNNING)
            break;
    }
    w->stubs += s.events;
}

/* what readers see */

static void
check_stream(struct world *w, unsigned k)
{
    struct log_stream info;
    char              name[8];
    struct log_read   read = {0};
    struct log_iter  *it;
    struct log_event  ev;
    uint64_t          last = 0;
    uint32_t          count = 0, should = 0;

    (void)snprintf(name, sizeof name, "t-%u", k);
    if (log_stream_info(w->log, slice_str(name), &info, NULL) != 0)
        name[0] = 's';
    read.stream = slice_str(name);
    it = open_iter(w, &read);
    while (next(w, it, &ev)) {
        const struct fact *f = &w->facts[slice_is(ev.type, "t") ? number_of(&ev) : 0];

        if (!slice_is(ev.type, "t"))
            continue;
        if (f->pos.v <= last)
            fail(w, "%s: %" PRIu32 " is out of order", name, number_of(&ev));
        last = f->pos.v;
        count++;
    }
    log_iter_close(it);
    for (uint32_t n = 1; n <= w->numbers; n++)
        should += w->facts[n].pos.v != 0 && w->facts[n].stream[2] == name[2];
    if (count != should)
        fail(w, "%s has %" PRIu32 " events, not %" PRIu32, name, count, should);
}

/* The old name of a routed stream: what the new one has, up to where the routing ended. */
static void
check_old_name(struct world *w, unsigned k)
{
    char             name[8];
    struct log_read  read = {.resolve = true};
    struct log_iter *it;
    struct log_event ev;
    uint64_t         last = 0, end = UINT64_MAX;
    uint32_t         count = 0, should = 0;

    (void)snprintf(name, sizeof name, "s-%u", k);
    read.stream = slice_str(name);
    it = open_iter(w, &read);
    while (next(w, it, &ev)) {
        const struct fact *f = &w->facts[slice_is(ev.type, "t") ? number_of(&ev) : 0];

        if (slice_is(ev.type, LOG_MOVED_TYPE))
            end = ev.pos.v;
        if (!slice_is(ev.type, "t"))
            continue;
        if (f->pos.v <= last)
            fail(w, "%s: %" PRIu32 " is out of order", name, number_of(&ev));
        last = f->pos.v;
        count++;
    }
    log_iter_close(it);
    for (uint32_t n = 1; n <= w->numbers; n++)
        should +=
            w->facts[n].pos.v != 0 && w->facts[n].pos.v < end && w->facts[n].stream[2] == name[2];
    if (count != should)
        fail(w, "%s has %" PRIu32 " events, not %" PRIu32, name, count, should);
}

static void
check_reader(struct world *w)
{
    static const char *const filters[] = {"", "s", "t"};
    static uint8_t           seen[NUMBERS];
    const char              *filter = filters[pick(w, 3)];
    struct log_read          read = {
                 .skip_moved = true, .skip_links = true, .filter.category = slice_str(filter)};
    struct log_iter *it;
    struct log_event ev;
    uint64_t         last = 0, upto;

    read.from = read.start = w->numbers == 0 ? 0 : w->facts[1 + pick(w, w->numbers)].pos.v;
    it = open_iter(w, &read);
    memset(seen, 0, sizeof seen);
    while (next(w, it, &ev)) {
        const struct fact *f = &w->facts[slice_is(ev.type, "t") ? number_of(&ev) : 0];
        bool mine = f->pos.v >= read.start && (filter[0] == '\0' || filter[0] == f->stream[0]);

        if (slice_is(ev.type, "pad"))
            continue;
        if (f == w->facts)
            fail(w, "a mark was given");
        if (mine && (seen[number_of(&ev)] > 0 || f->pos.v < last))
            fail(w, "%" PRIu32 " was given twice or out of order, by %.*s version %" PRIu64,
                 number_of(&ev), SLICE_FMT(ev.stream), ev.version);
        last = mine ? f->pos.v : last;
        seen[number_of(&ev)]++;
    }
    upto = log_iter_pos(it).v; /* the end, or where a stage is open */
    log_iter_close(it);
    for (uint32_t n = 1; n <= w->numbers; n++) {
        const struct fact *f = &w->facts[n];
        bool mine = f->pos.v >= read.start && (filter[0] == '\0' || filter[0] == f->stream[0]);

        if (f->pos.v != 0 && f->pos.v < upto && mine && seen[n] != 1)
            fail(w, "%" PRIu32 " was given %u times to \"%s\" from %" PRIu64, n, seen[n], filter,
                 read.start);
    }
}

/* What the live reader was given is what there is. */
static void
check_live(struct world *w)
{
    struct log_event ev;
    bool             open = false;

    while (next(w, w->live, &ev)) {
        unsigned k = (unsigned)(((const char *)ev.stream.data)[2] - '0');

        if (ev.pos.v <= w->live_last)
            fail(w, "live: %" PRIu64 " behind %" PRIu64, ev.pos.v, w->live_last);
        w->live_last = ev.pos.v;
        w->live_count[k]++;
        w->live_sum[k] += ev.pos.v;
    }
    for (uint32_t i = 0; i < WRITERS + MOVERS; i++)
        open = open || w->actors[i].stage != NULL;
    for (unsigned k = 0; k < STREAMS && !open; k++) {
        char             name[8];
        struct log_read  read = {0};
        struct log_iter *it;
        uint64_t         count = 0, sum = 0;

        (void)snprintf(name, sizeof name, "t-%u", k);
        read.stream = slice_str(name);
        it = open_iter(w, &read);
        for (; next(w, it, &ev); count++)
            sum += ev.pos.v;
        log_iter_close(it);
        if (count != w->live_count[k] || sum != w->live_sum[k])
            fail(w, "live: %" PRIu64 " events of %s, not %" PRIu64, w->live_count[k], name, count);
    }
}

static void
check(struct world *w)
{
    learn(w);
    for (uint32_t n = 1; n <= w->numbers; n++)
        if (w->facts[n].acked && w->facts[n].pos.v == 0)
            fail(w, "%" PRIu32 " was acknowledged and is not there", n);
    for (unsigned k = 0; k < STREAMS; k++) {
        check_stream(w, k);
        if (w->routed)
            check_old_name(w, k);
    }
    for (int i = 0; i < 8; i++)
        check_reader(w);
    check_live(w);
}

/* the world */

static void
act(struct world *w)
{
    struct actor *a = &w->actors[pick(w, WRITERS + MOVERS)];
    uint64_t      what = pick(w, 100);

    if (what == 0)
        clean_up(w);
    else if (what == 1)
        check(w);
    else if (what < 50 || a->busy)
        (void)sim_run(w->sim, 1 + pick(w, 8));
    else if (!a->mover)
        write_one(a);
    else if (a->stage != NULL && (a->over || pick(w, 40) == 0))
        close_stage(a);
    else if (a->stage != NULL)
        stage_on(a);
    else if (!w->careless && !a->ready && pick(w, 30) == 0)
        begin_stage(a);
    else if (a->ready)
        move(a);
    else if (pick(w, 12) == 0)
        prepare(a);
}

/* What the router finds of the surgery. */
static void
put_record(struct world *w)
{
    static const char spec[] = "{\"kind\":\"copy\",\"category\":\"s\",\"to\":\"t-{key}\","
                               "\"old_writers\":\"route\"}",
                      state[] =
                          "{\"state\":\"DONE\",\"from\":\"RUNNING\",\"set\":0,\"cursor\":\"\","
                          "\"streams\":0,\"events\":0,\"copies\":0,\"skipped\":0,\"parked\":0,"
                          "\"seen\":0,\"lost\":0,\"started_us\":0,\"ended_us\":0,\"error\":\"\"}";
    const struct log_new_event e[2] = {
        {.type = slice_str("Surgery"), .data = slice_str(spec), .flags = LOG_JSON},
        {.type = slice_str("SurgeryState"), .data = slice_str(state), .flags = LOG_JSON}};
    struct log_write write = {
        .stream = slice_str("$surgery-x"), .expected = LOG_NO_STREAM, .events = e, .count = 2};
    struct log_req req = {.writes = &write, .write_count = 1, .flags = LOG_SYSTEM};

    (void)log_append(w->log, &req); /* it may be there */
}

static void
open_world(struct world *w)
{
    struct log_conf conf = {.index = &sim_index_map,
                            .segment_bytes = LOG_SEGMENT_MIN,
                            .heads_bytes = 65536,
                            .recent_events = 1000};
    struct log_read read = {.filter.category = slice_str("t")};
    struct err      err;

    w->life++;
    if (log_open(sim_env(w->sim), DIR, &conf, NULL, &w->log, &err) != 0)
        fail(w, "the log: %s", err.text);
    if (w->routed && stream_router_new(sim_env(w->sim), w->log, &w->router, &err) != 0)
        fail(w, "the router: %s", err.text);
    if (w->routed)
        put_record(w);
    for (uint32_t i = 0; i < WRITERS + MOVERS; i++)
        w->actors[i].ready = false; /* what a surgery knew is gone; a writer tries again */
    w->live = open_iter(w, &read);
    w->live_last = 0;
    memset(w->live_count, 0, sizeof w->live_count);
    memset(w->live_sum, 0, sizeof w->live_sum);
    check(w);
}

static void
close_world(struct world *w)
{
    log_iter_close(w->live);
    for (uint32_t i = 0; i < WRITERS + MOVERS; i++)
        if (w->actors[i].stage != NULL)
            close_stage(&w->actors[i]);
    log_close(w->log);
    stream_router_free(w->router);
    w->router = NULL;
    for (uint32_t i = 0; i < WRITERS + MOVERS; i++)
        must(!w->actors[i].busy);
    if (sim_open_files(w->sim) + sim_open_maps(w->sim) + sim_tasks(w->sim) > 0)
        fail(w, "files, maps or tasks are left");
}

static uint64_t
pick_index(void *arg, uint64_t below)
{
    return sim_pick(arg, below);
}

static void
run_seed(uint64_t seed, bool careless, struct world *totals)
{
    struct world  *w = calloc(1, sizeof *w);
    struct ox_env *env;
    struct err     err;
    uint64_t       lives;

    must(w != NULL);
    w->seed = seed;
    w->careless = careless;
    w->routed = seed % 3 == 0;
    w->sim = sim_new(seed);
    env = sim_env(w->sim);
    w->maps = index_maps_new(env, NULL, NULL);
    must(env->ops->dir_make(env, "/sim", &err) == 0);
    must(env->ops->dir_sync(env, "/", &err) == 0);
    for (uint32_t i = 0; i < WRITERS + MOVERS; i++) {
        w->actors[i].world = w;
        w->actors[i].mover = i >= WRITERS;
    }
    lives = 2 + pick(w, 4);
    for (uint64_t i = 0; i < lives; i++) {
        uint64_t steps = pick(w, 900);

        open_world(w);
        if (i > 0 && pick(w, 3) != 0)
            sim_crash_at(w->sim, pick(w, 800));
        for (uint64_t k = 0; k < steps && !sim_crashed(w->sim); k++)
            act(w);
        close_world(w);
        w->crashes += sim_crashed(w->sim);
        sim_reboot(w->sim, pick(w, 2) == 0 ? SIM_LOSS_ALL : SIM_LOSS_RANDOM);
        index_maps_crash(w->maps, pick_index, w->sim);
    }
    open_world(w);
    close_world(w);
    totals->life += w->life;
    totals->crashes += w->crashes;
    totals->acked += w->acked;
    totals->moves += w->moves;
    totals->rewrites += w->rewrites;
    totals->routings += w->routings;
    totals->ends += w->ends;
    totals->stages += w->stages;
    totals->stubs += w->stubs;
    totals->backs += w->backs;
    index_maps_free(w->maps);
    sim_free(w->sim);
    free(w);
}

/* oxbow-sim-moves [FROM [UPTO [careless]]] */
int
main(int argc, char **argv)
{
    struct world *totals = calloc(1, sizeof *totals);
    uint64_t      from = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t      upto = argc > 2 ? strtoull(argv[2], NULL, 10) : 100;

    must(totals != NULL);
    for (uint64_t seed = from; seed <= upto; seed++)
        run_seed(seed, argc > 3, totals);
    (void)printf("sim-moves: seeds %" PRIu64 "..%" PRIu64 ": good; %" PRIu64 " lives, %" PRIu64
                 " crashes, %" PRIu64 " events, %" PRIu64 " moves and %" PRIu64
                 " rewrites tried, %" PRIu64 " of these back, %" PRIu64 " in stages, %" PRIu64
                 " routed and %" PRIu64 " ended, %" PRIu64 " events scavenged\n",
                 from, upto, totals->life, totals->crashes, totals->acked, totals->moves,
                 totals->rewrites, totals->backs, totals->stages, totals->routings, totals->ends,
                 totals->stubs);
    free(totals);
    return 0;
}
