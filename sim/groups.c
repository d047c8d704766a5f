/*
 * oxbow-sim-groups: consumer groups in seeded worlds. Each seed is a few lives
 * of a log with one group and some members that acknowledge, refuse, park,
 * leave and fall silent, ended by a close or by a power cut. Held against
 * what the members saw:
 *
 * - nothing is lost: in the end each event was settled by a member, or is parked;
 * - pinned: within a life the versions of a stream never go back, and none goes
 *   out before all those below it were settled (replays excepted);
 * - after a close without a crash nothing that was settled comes again.
 *
 * In some seeds events are larger, streams are truncated and the log is scavenged meanwhile.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "core/group.h"
#include "sim/env_sim.h"
#include "sim/index_map.h"

#define DIR "/sim/data"
#define STREAMS 7
#define VERSIONS 4000
#define MEMBERS 4
#define OUT_MAX 64
#define SETTLE_STEPS 400000

/* NOW: settled in this life and not out again; FIRM: that in a life that was closed. */
enum mark { DONE = 1, PARKED = 2, FIRM = 4, NOW = 8 };

struct world {
    uint64_t             seed, life;
    struct sim          *sim;
    struct index_maps   *maps;
    struct log          *log;
    struct groups       *groups;
    bool                 pinned, scavenges;
    uint8_t              marks[STREAMS][VERSIONS];
    int64_t              highest[STREAMS]; /* that went out in this life */
    uint64_t             delivered, settled, parked, crashes, doubles, gone;
    struct member_state *members[MEMBERS];
};

struct out {
    uint32_t       stream;
    uint64_t       version;
    struct log_pos pos;
};

struct member_state {
    struct world        *world;
    struct group_member *member;
    struct out           out[OUT_MAX];
    uint32_t             count;
    bool                 ended;
};

static void __attribute__((format(printf, 2, 3), __noreturn__))
fail(const struct world *w, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    (void)fprintf(stderr, "sim-groups: seed %" PRIu64 ", life %" PRIu64 ": ", w->seed, w->life);
    (void)vfprintf(stderr, fmt, args);
    (void)fprintf(stderr, "; again: oxbow-sim-groups %" PRIu64 " %" PRIu64 "\n", w->seed, w->seed);
    va_end(args);
    _Exit(1);
}

static uint64_t
pick(struct world *w, uint64_t below)
{
    return sim_pick(w->sim, below);
}

/* members */

static void
check_order(struct world *w, uint32_t s, uint64_t version)
{
    uint8_t *marks = w->marks[s];

    if (marks[version] & FIRM)
        fail(w, "s-%u version %" PRIu64 " was settled in a life that was closed", s, version);
    w->doubles += (marks[version] & DONE) != 0;
    marks[version] &= (uint8_t)~NOW;
    if (!w->pinned || (marks[version] & PARKED) != 0)
        return;
    if ((int64_t)version < w->highest[s])
        fail(w, "s-%u goes back from %" PRId64 " to %" PRIu64, s, w->highest[s], version);
    w->highest[s] = (int64_t)version;
    for (uint64_t v = 0; v < version; v++)
        if (marks[v] == 0)
            fail(w, "s-%u version %" PRIu64 " comes before %" PRIu64 " is settled", s, version, v);
}

static bool
on_deliver(void *arg, const struct group_event *ge)
{
    struct member_state *m = arg;
    struct world        *w = m->world;
    struct out          *o = &m->out[m->count];

    must(m->count < OUT_MAX);
    o->stream = (uint32_t)(((const char *)ge->event->stream.data)[2] - '0');
    o->version = ge->event->version;
    o->pos = ge->event->pos;
    must(o->stream < STREAMS);
    must(o->version < VERSIONS);
    check_order(w, o->stream, o->version);
    m->count++;
    w->delivered++;
    return m->count < OUT_MAX;
}

static void
on_flush(void *arg)
{
}

static void
on_ended(void *arg, const struct err *why)
{
    struct member_state *m = arg;

    m->ended = true;
}

static void
leave(struct world *w, int i)
{
    if (w->members[i] == NULL)
        return;
    group_leave(w->members[i]->member);
    free(w->members[i]);
    w->members[i] = NULL;
}

static void
join(struct world *w, int i)
{
    struct member_state     *m = calloc(1, sizeof *m);
    struct group_member_conf conf = {.buffer = 1 + (uint32_t)pick(w, 20),
                                     .arg = m,
                                     .deliver = on_deliver,
                                     .flush = on_flush,
                                     .ended = on_ended};
    struct err               err;

    must(m != NULL);
    m->world = w;
    if (group_join(w->groups, slice_str("$ce-s"), slice_str("g"), &conf, &m->member, &err) == 0)
        w->members[i] = m;
    else
        free(m);
}

/* Says something about one of the events that it has; `settle`: only acknowledges. */
static void
say(struct world *w, struct member_state *m, bool settle)
{
    uint32_t         at = (uint32_t)pick(w, m->count);
    struct out       o = m->out[at];
    struct group_ref ref = {.pos = o.pos};
    uint64_t         what = settle ? 0 : pick(w, 20);
    struct err       err;
    int              rc;

    if (what < 15)
        rc = group_ack(m->member, &ref, 1, &err);
    else
        rc = group_nack(m->member, &ref, 1,
                        what < 17   ? GROUP_RETRY
                        : what < 19 ? GROUP_DROP
                                    : GROUP_PARK,
                        slice_str("seeded"), &err);
    m->out[at] = m->out[--m->count];
    group_want(m->member, 0);
    if (rc != 0 && rc != E_NOTFOUND && rc != E_GONE)
        fail(w, "an answer to a member: %s", err.text);
    if (rc != 0 || (what >= 15 && what < 17))
        return;
    w->settled++;
    w->marks[o.stream][o.version] |= DONE | NOW;
    if (what == 19)
        w->marks[o.stream][o.version] |= PARKED;
    w->parked += what == 19;
}

/* the world */

static void
append(struct world *w)
{
    static const uint8_t large[40000];
    struct log_new_event e[3];
    char                 name[8];
    struct log_write     write = {.expected = LOG_ANY, .events = e};
    struct log_req       req = {.writes = &write, .write_count = 1};

    (void)snprintf(name, sizeof name, "s-%d", (int)pick(w, STREAMS));
    write.stream = slice_str(name);
    write.count = 1 + (uint32_t)pick(w, 3);
    for (uint32_t i = 0; i < write.count; i++)
        e[i] = (struct log_new_event){.type = slice_str("t"),
                                      .data = w->scavenges ? slice_of(large, sizeof large)
                                                           : slice_str("{}")};
    (void)log_append(w->log, &req); /* what came of it shows in the log */
}

/* What is hidden is settled. */
static void
truncate_one(struct world *w)
{
    uint32_t          s = (uint32_t)pick(w, STREAMS);
    uint64_t          low = w->highest[s] < 0 ? 0 : (uint64_t)w->highest[s];
    char              name[8];
    struct log_change change = {
        .expected = LOG_ANY, .what = LOG_SET_TRUNCATE, .truncate = low > 3 ? low - pick(w, 3) : 0};
    struct log_req req = {.changes = &change, .change_count = 1};

    (void)snprintf(name, sizeof name, "s-%d", (int)s);
    change.stream = slice_str(name);
    if (change.truncate == 0)
        return;
    for (uint64_t v = 0; v < change.truncate; v++)
        w->marks[s][v] |= DONE;
    (void)log_append(w->log, &req);
}

static void
scavenge(struct world *w)
{
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    struct err               err;

    log_scavenge_status(w->log, &s);
    if (s.state == LOG_SCAVENGE_FAILED && !sim_crashed(w->sim))
        fail(w, "a scavenge: %s", s.error);
    if (s.state != LOG_SCAVENGE_RUNNING && s.run > 0)
        w->gone += s.events;
    if (s.state != LOG_SCAVENGE_RUNNING)
        (void)log_scavenge_start(w->log, &conf, &err);
}

static int
command(struct world *w, enum group_verb verb)
{
    struct group_settings settings;
    struct group_command  c = {
         .verb = verb, .source = slice_str("$ce-s"), .name = slice_str("g"), .settings = &settings};

    group_settings_init(&settings);
    settings.strategy = w->pinned ? GROUP_PINNED : GROUP_ROUND_ROBIN;
    settings.from = GROUP_BEGINNING;
    settings.max_retry_count = 100000;
    settings.checkpoint_after_ms = 10 + (uint32_t)pick(w, 500);
    settings.min_checkpoint_count = 1 + (uint32_t)pick(w, 5);
    settings.max_checkpoint_count = 5 + (uint32_t)pick(w, 50);
    settings.live_buffer_size = settings.history_buffer_size = 1 + (uint32_t)pick(w, 100);
    return group_run(w->groups, &c);
}

static void
act(struct world *w)
{
    uint64_t what = pick(w, 100);
    int      i = (int)pick(w, MEMBERS);

    if (what < 20)
        append(w);
    else if (what < 24)
        leave(w, i);
    else if (what < 30 && w->members[i] == NULL)
        join(w, i);
    else if (what == 30)
        (void)command(w, GROUP_REPLAY);
    else if (w->scavenges && what == 31)
        truncate_one(w);
    else if (w->scavenges && what == 32)
        scavenge(w);
    else if (what < 75 && w->members[i] != NULL && w->members[i]->count > 0)
        say(w, w->members[i], false);
    else
        (void)sim_run(w->sim, 1 + pick(w, 10));
}

static void
open_world(struct world *w)
{
    struct log_conf conf = {.index = &sim_index_map,
                            .segment_bytes = LOG_SEGMENT_MIN,
                            .heads_bytes = 65536,
                            .recent_events = 1000};
    struct err      err;

    w->life++;
    for (int s = 0; s < STREAMS; s++) {
        w->highest[s] = -1;
        for (int v = 0; v < VERSIONS; v++)
            w->marks[s][v] &= (uint8_t)~NOW;
    }
    if (log_open(sim_env(w->sim), DIR, &conf, NULL, &w->log, &err) != 0)
        fail(w, "the log: %s", err.text);
    if (group_open(sim_env(w->sim), w->log, &w->groups, &err) != 0)
        fail(w, "the groups: %s", err.text);
    if (w->life == 1 && command(w, GROUP_CREATE) != 0)
        fail(w, "the group cannot be made");
}

static void
close_world(struct world *w)
{
    for (int i = 0; i < MEMBERS; i++)
        leave(w, i);
    group_close(w->groups);
    log_close(w->log);
    if (!sim_crashed(w->sim))
        for (int s = 0; s < STREAMS; s++)
            for (int v = 0; v < VERSIONS; v++)
                w->marks[s][v] |= w->marks[s][v] == (DONE | NOW) ? FIRM : 0; /* not the parked */
    if (sim_open_files(w->sim) + sim_open_maps(w->sim) + sim_tasks(w->sim) > 0)
        fail(w, "files, maps or tasks are left");
}

static uint64_t
pick_index(void *arg, uint64_t below)
{
    return sim_pick(arg, below);
}

static void
note_info(void *arg, const struct group_info *info)
{
    *(struct group_info *)arg = *info;
}

static int
note_parked(void *arg, const struct log_event *link, struct err *err)
{
    struct world *w = arg;
    const char   *at = memchr(link->data.data, '@', link->data.len);
    uint64_t      version = strtoull(link->data.data, NULL, 10);

    must(at != NULL);
    must(version < VERSIONS);
    w->marks[at[3] - '0'][version] |= DONE;
    return 0;
}

/* A life in which members do all that there is; then the log is gone through. */
static void
finish(struct world *w)
{
    struct group_info info;
    struct log_iter  *it;
    struct log_event  ev;
    uint64_t          next, steps = 0;
    struct err        err;

    open_world(w);
    join(w, 0);
    join(w, 1);
    do {
        if (steps++ > SETTLE_STEPS)
            fail(w, "the group does not come to its end");
        (void)sim_run(w->sim, 5);
        for (int i = 0; i < 2; i++)
            while (w->members[i] != NULL && w->members[i]->count > 0)
                say(w, w->members[i], true);
        must(group_get(w->groups, slice_str("$ce-s"), slice_str("g"), note_info, &info, &err) == 0);
        if (info.state == GROUP_FAILED)
            fail(w, "the group has failed");
    } while (info.state != GROUP_LIVE || info.lag_events > 0 || info.replaying);
    if (group_parked(w->groups, slice_str("$ce-s"), slice_str("g"), 0, 1000, note_parked, w, &next,
                     &err) != 0)
        fail(w, "what is parked: %s", err.text);
    must(log_iter_open(w->log, &(struct log_read){.filter.category = slice_str("s")}, &it, &err) ==
         0);
    while (log_iter_next(it, &ev, &err) == 0)
        if (w->marks[((const char *)ev.stream.data)[2] - '0'][ev.version] == 0)
            fail(w, "%.*s version %" PRIu64 " was never settled", SLICE_FMT(ev.stream), ev.version);
    log_iter_close(it);
    close_world(w);
}

static void
run_seed(uint64_t seed, struct world *totals)
{
    struct world  *w = calloc(1, sizeof *w);
    struct ox_env *env;
    struct err     err;
    uint64_t       lives, steps;

    must(w != NULL);
    w->seed = seed;
    w->sim = sim_new(seed);
    env = sim_env(w->sim);
    w->maps = index_maps_new(env, NULL, NULL);
    must(env->ops->dir_make(env, "/sim", &err) == 0);
    must(env->ops->dir_sync(env, "/", &err) == 0);
    w->pinned = pick(w, 3) != 0;
    w->scavenges = pick(w, 4) == 0;
    lives = 2 + pick(w, 5);
    for (uint64_t i = 0; i < lives; i++) {
        open_world(w);
        if (i > 0 && pick(w, 3) != 0)
            sim_crash_at(w->sim, pick(w, 600));
        steps = pick(w, 600);
        for (uint64_t k = 0; k < steps && !sim_crashed(w->sim); k++)
            act(w);
        if (i > 0 && pick(w, 4) == 0)
            sim_crash(w->sim);
        close_world(w);
        w->crashes += sim_crashed(w->sim);
        sim_reboot(w->sim, pick(w, 2) == 0 ? SIM_LOSS_ALL : SIM_LOSS_RANDOM);
        index_maps_crash(w->maps, pick_index, w->sim);
    }
    finish(w);
    totals->life += w->life;
    totals->crashes += w->crashes;
    totals->delivered += w->delivered;
    totals->settled += w->settled;
    totals->parked += w->parked;
    totals->doubles += w->doubles;
    totals->gone += w->gone;
    index_maps_free(w->maps);
    sim_free(w->sim);
    free(w);
}

/* oxbow-sim-groups [FROM [UPTO]] */
int
main(int argc, char **argv)
{
    struct world *totals = calloc(1, sizeof *totals);
    uint64_t      from = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t      upto = argc > 2 ? strtoull(argv[2], NULL, 10) : 100;

    must(totals != NULL);
    for (uint64_t seed = from; seed <= upto; seed++)
        run_seed(seed, totals);
    (void)printf("sim-groups: seeds %" PRIu64 "..%" PRIu64 ": good; %" PRIu64 " lives, %" PRIu64
                 " crashes, %" PRIu64 " handed out, %" PRIu64 " settled, %" PRIu64
                 " parked, %" PRIu64 " settled ones handed out again, %" PRIu64 " scavenged\n",
                 from, upto, totals->life, totals->crashes, totals->delivered, totals->settled,
                 totals->parked, totals->doubles, totals->gone);
    free(totals);
    return 0;
}
