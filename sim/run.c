/*
 * A seed's run: lives of the engine, each opened on what the one before left,
 * worked with, and ended by a crash, a kill or a close.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/must.h"
#include "sim/index_map.h"
#include "sim/run_int.h"

#define LIVES_MAX 12
#define OPENS_MAX 40
#define IN_FLIGHT_MAX 40
#define NOTICE_US UINT64_C(3000000) /* until when the log has seen that there is room again */
#define SETTLE_STEPS UINT64_C(200000)

void
run_fail(struct run *run, const char *fmt, ...)
{
    char    text[1024];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    (void)fflush(stdout);
    (void)fprintf(stderr,
                  "sim: seed %" PRIu64 ", life %" PRIu64 ": %s; again: oxbow-sim --seed %" PRIu64
                  " --verbose\n",
                  run->seed, run->lives, text, run->seed);
    _Exit(1);
}

void
run_say(struct run *run, const char *fmt, ...)
{
    va_list args;

    if (!run->verbose)
        return;
    va_start(args, fmt);
    (void)vprintf(fmt, args);
    va_end(args);
    (void)putchar('\n');
    (void)fflush(stdout);
}

bool
run_excused(struct run *run)
{
    return run->excused || sim_crashed(run->sim) || sim_fault_count(run->sim) != run->faults_before;
}

static uint64_t
pick(struct run *run, uint64_t below)
{
    return sim_pick(run->sim, below);
}

static void
name_streams(struct run *run)
{
    run->stream_count = 2 + (uint32_t)pick(run, STREAMS_MAX - 2);
    for (uint32_t i = 0; i < run->stream_count; i++) {
        struct stream *s = &run->streams[i];
        uint64_t       kind = pick(run, 12);

        s->mortal = pick(run, 4) == 0;
        s->meta_of = -1;
        if (kind == 3 && i > 0 && run->streams[i - 1].meta_of < 0 && !run->streams[i - 1].system &&
            strlen(run->streams[i - 1].name) < LOG_NAME_MAX - 2) {
            (void)snprintf(s->name, sizeof s->name, "$$%s", run->streams[i - 1].name);
            s->system = true;
            s->meta_of = (int32_t)i - 1;
        } else if (kind == 0) {
            (void)snprintf(s->name, sizeof s->name, "$sys-%u", i);
            s->system = true;
        } else if (kind == 1) {
            memset(s->name, 'n', LOG_NAME_MAX);
            (void)snprintf(s->name, 16, "long%u-", i);
            s->name[strlen(s->name)] = 'x';
        } else if (kind == 2) {
            (void)snprintf(s->name, sizeof s->name, "Straße%u", i);
        } else {
            (void)snprintf(s->name, sizeof s->name, "cat%u-%u", (unsigned)pick(run, 3), i);
        }
    }
}

static void
configure(struct run *run)
{
    struct log_conf *c = &run->conf;

    memset(c, 0, sizeof *c);
    c->index = &sim_index_map;
    c->segment_bytes = LOG_SEGMENT_MIN + 4096 * pick(run, 64);
    c->commit_bytes_max = UINT64_C(6) << 20;
    c->free_bytes_min = UINT64_C(1) << 20;
    if (pick(run, 3) == 0)
        c->memory_bytes_max = UINT64_C(64) << 10;
    if (pick(run, 3) == 0)
        c->heads_bytes = 4096;
    if (pick(run, 3) == 0)
        c->sync_delay_us = pick(run, 20000);
    if (pick(run, 4) == 0)
        c->queue_bytes_max = UINT64_C(64) << 10;
    run->big = pick(run, 3) == 0 ? (uint32_t)pick(run, 40) : 0;
    run->middle = 30;
    run->scavenges = pick(run, 3) == 0;
    run->backs_up = pick(run, 4) == 0;
    if (run->scavenges)
        run->middle += 300 + (uint32_t)pick(run, 400); /* enough to seal segments */
}

/* Faults */

static void
plan_faults(struct run *run)
{
    struct sim *sim = run->sim;

    sim_fault_none(sim);
    run->faults_before = sim_fault_count(sim);
    switch (pick(run, 16)) {
    case 0:
        sim_fault_at(sim, SIM_WRITE, pick(run, 2) == 0 ? SIM_EIO : SIM_ENOSPC, pick(run, 60));
        break;
    case 1:
        sim_fault_at(sim, SIM_SYNC, SIM_EIO, pick(run, 60));
        break;
    case 2:
        sim_fault_at(sim, SIM_RESIZE, SIM_ENOSPC, pick(run, 3));
        break;
    case 3:
        sim_fault_at(sim, SIM_DIR_SYNC, SIM_EIO, pick(run, 4));
        break;
    case 4:
        sim_fault_at(sim, SIM_OPEN, SIM_EIO, pick(run, 10));
        break;
    case 5:
        for (int call = 0; call < SIM_CALLS; call++)
            sim_fault_rate(sim, (enum sim_call)call, SIM_EIO, (uint32_t)pick(run, 20000));
        break;
    case 6:
        sim_fault_rate(sim, SIM_WRITE, SIM_ENOSPC, (uint32_t)pick(run, 200000));
        break;
    case 7:
        sim_fault_at(sim, SIM_DIR, SIM_EIO, pick(run, 4));
        break;
    case 8:
        sim_fault_rate(sim, SIM_OTHER, SIM_ENOSPC, (uint32_t)pick(run, 1000000));
        break;
    default:
        break; /* most lives have none */
    }
}

/* Opening */

static void
check_empty_hands(struct run *run, const char *when)
{
    if (sim_open_files(run->sim) + sim_open_maps(run->sim) + sim_tasks(run->sim) > 0)
        run_fail(run, "%s: %u files, %u maps, %u tasks are left", when, sim_open_files(run->sim),
                 sim_open_maps(run->sim), sim_tasks(run->sim));
}

/* What a scavenge has begun to write is gone when it ends, however it ends. */
static void
check_rests(struct run *run)
{
    const char *path;

    if (run_excused(run))
        return;
    for (size_t i = 0; (path = sim_file(run->sim, i)) != NULL; i++)
        if (strncmp(path, RUN_DIR "/", strlen(RUN_DIR "/")) == 0 && strstr(path, ".new") != NULL)
            run_fail(run, "%s is left", path);
}

static void
check_report(struct run *run, const struct log_report *r, bool clean)
{
    if (r->cut_at.v != 0)
        run->cuts++;
    if (clean && !r->clean)
        run_fail(run, "was closed, and does not say so");
    if (clean && (r->cut_at.v != 0 || r->replayed > 0))
        run_fail(run, "was closed, and cuts at %" PRIu64 ", replays %" PRIu64, r->cut_at.v,
                 r->replayed);
    if (r->end.v != log_end(run->log).v)
        run_fail(run, "reports the end %" PRIu64 ", not %" PRIu64, r->end.v, log_end(run->log).v);
}

static enum sim_loss
pick_loss(struct run *run)
{
    switch (pick(run, 5)) {
    case 0:
        return SIM_LOSS_NONE;
    case 1:
        return SIM_LOSS_ALL;
    default:
        return SIM_LOSS_RANDOM;
    }
}

static void
make_home(struct run *run)
{
    struct ox_env *env = sim_env(run->sim);
    struct err     err;

    sim_fault_none(run->sim);
    must(env->ops->dir_make(env, "/sim", &err) == 0);
    must(env->ops->dir_sync(env, "/", &err) == 0);
}

static int
before_index(void *arg, const char *call, struct err *err)
{
    struct run *run = arg;

    if (run->index_broken && strcmp(call, "open") == 0) {
        run->index_broken = false; /* it is made again */
        index_maps_remove(run->maps, RUN_DIR "/index");
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "the index is damaged (simulated)");
    }
    return sim_touch(run->sim, call, err);
}

static uint64_t
pick_index(void *arg, uint64_t below)
{
    return sim_pick(arg, below);
}

static void
reboot(struct run *run)
{
    enum sim_loss loss = pick_loss(run);

    sim_reboot(run->sim, loss);
    if (loss != SIM_LOSS_NONE)
        index_maps_crash(run->maps, loss == SIM_LOSS_ALL ? NULL : pick_index, run->sim);
}

/* A folder that somebody has open is refused, in one line. */
static void
open_twice(struct run *run)
{
    struct log *other = NULL;
    struct err  err;
    int         rc = log_open(sim_env(run->sim), RUN_DIR, &run->conf, NULL, &other, &err);

    if (rc != E_BUSY && !run_excused(run))
        run_fail(run, "opened twice: %s", rc == 0 ? "nobody minds" : err.text);
    if (rc == 0)
        log_close(other);
}

static uint64_t
sum_disk(struct run *run)
{
    const char *path;
    uint64_t    size, sum = 0;

    for (size_t i = 0; (path = sim_file(run->sim, i)) != NULL; i++) {
        const uint8_t *bytes = sim_file_bytes(run->sim, path, &size);

        if (strstr(path, "/LOCK") == NULL)
            sum = sum * 31 + size + crc32c(0, bytes, size) + crc32c(0, path, strlen(path));
    }
    return sum;
}

/* Looking only changes nothing, whatever state the folder is in. */
static void
look_only(struct run *run)
{
    struct log_conf conf = run->conf;
    uint64_t        before = sum_disk(run);
    struct log     *log = NULL;
    struct err      err;

    conf.read_only = true;
    sim_hold(run->sim, true);
    if (log_open(sim_env(run->sim), RUN_DIR, &conf, NULL, &log, &err) == 0)
        log_close(log);
    sim_hold(run->sim, false);
    check_empty_hands(run, "after a look");
    if (sum_disk(run) != before)
        run_fail(run, "a log that was opened read-only has changed");
}

/* What the index holds can be made again at any time. */
static void
lose_index(struct run *run)
{
    struct err err;
    int        rc;

    switch (pick(run, 3)) {
    case 0:
        index_maps_remove(run->maps, RUN_DIR "/index");
        return;
    case 1:
        run->index_broken = true;
        return;
    default:
        break;
    }
    sim_hold(run->sim, true);
    rc = log_reindex(sim_env(run->sim), RUN_DIR, &run->conf, NULL, &err);
    sim_hold(run->sim, false);
    if (rc != 0 && rc != E_NOTFOUND)
        run_fail(run, "cannot be indexed again: %s", err.text);
    check_empty_hands(run, "after indexing again");
}

/* Until it is open; crashes and faults may come on the way. */
static void
open_log(struct run *run, bool clean, bool quietly)
{
    struct log_report report;
    struct err        err;

    for (uint32_t tries = 0;; tries++) {
        int rc;

        plan_faults(run);
        if (quietly || tries > OPENS_MAX)
            sim_fault_none(run->sim);
        else if (pick(run, 5) == 0)
            sim_crash_at(run->sim, pick(run, 60));
        rc = log_open(sim_env(run->sim), RUN_DIR, &run->conf, &report, &run->log, &err);
        if ((rc == 0) != (run->log != NULL))
            run_fail(run, "open says %d and gives %p", rc, (void *)run->log);
        if (rc == 0 && !sim_crashed(run->sim)) {
            check_report(run, &report, clean && tries == 0 && !run_excused(run));
            run_say(run,
                    "life %" PRIu64 ": open, end %" PRIu64 ", cut at %" PRIu64
                    ", replayed %" PRIu64,
                    run->lives, report.end.v, report.cut_at.v, report.replayed);
            return;
        }
        if (rc == 0)
            log_close(run->log);
        else if (!run_excused(run))
            run_fail(run, "cannot be opened: %s", err.text);
        run_say(run, "life %" PRIu64 ": open failed: %s", run->lives,
                rc == 0 ? "crashed" : err.text);
        run->log = NULL;
        check_empty_hands(run, "after a failed open");
        run->crashes++;
        reboot(run);
    }
}

/* Working */

void
run_settle(struct run *run)
{
    uint64_t steps = 0;

    while (run->in_flight > 0) {
        if (steps++ > SETTLE_STEPS)
            run_fail(run, "%u appends are not answered, and the tasks are busy", run->in_flight);
        if (!sim_step(run->sim))
            run_fail(run, "%u appends are not answered, and nobody does anything", run->in_flight);
        if (pick(run, 8) == 0)
            sub_poll(run, false);
    }
}

static bool
log_failed(struct run *run)
{
    struct log_info info;

    log_get_info(run->log, &info);
    if (info.failed && !run_excused(run))
        run_fail(run, "takes no more writes, for no reason: %s", info.failed_text);
    return info.failed;
}

static void
submit_again(struct run *run)
{
    struct rec *rec;
    size_t      back;

    if (run->rec_count == 0)
        return;
    back = pick(run, run->rec_count < 200 ? run->rec_count : 200);
    rec = run->recs[run->rec_count - 1 - back];
    /* A refusal may change its mind: only what was written, or may be, has one answer. */
    if (rec_can_repeat(rec) && rec->check_count == 0 && state_repeatable(run, rec))
        rec_submit(run, rec);
}

static void
care(struct run *run)
{
    if (run->scavenges && pick(run, 2) == 0)
        care_scavenge(run);
    else if (run->backs_up && pick(run, 3) == 0)
        care_back_up(run);
    care_look(run);
}

static void
act(struct run *run)
{
    uint64_t what = pick(run, 100);

    if (run->in_flight >= IN_FLIGHT_MAX)
        what = 99;
    if (what < 3)
        rec_append(run, rec_new(run));
    else if (what < 45)
        rec_submit(run, rec_new(run));
    else if (what < 53)
        submit_again(run);
    else if (what < 55)
        rec_submit_bad(run);
    else if (what < 63)
        sub_poll(run, false);
    else if (what < 70)
        check_some(run);
    else if (what == 70)
        care(run);
    else
        (void)sim_run(run->sim, 1 + pick(run, 20));
}

/* What other threads do while one is blocked on the disk. */
static void
meanwhile(void *arg)
{
    struct run *run = arg;

    if (run->log == NULL || run->closing || run->looking || sim_crashed(run->sim))
        return;
    switch (pick(run, 4)) {
    case 0:
        check_some(run);
        break;
    case 1:
        sub_poll(run, false);
        break;
    default:
        if (run->in_flight < IN_FLIGHT_MAX)
            rec_submit(run, rec_new(run));
        break;
    }
}

static void
fill_disk(struct run *run)
{
    uint64_t    used = 0, size;
    const char *path;

    for (size_t i = 0; (path = sim_file(run->sim, i)) != NULL; i++) {
        (void)sim_file_bytes(run->sim, path, &size);
        used += size;
    }
    sim_set_capacity(run->sim, used + pick(run, UINT64_C(8) << 20));
    run->excused = true;
    run_say(run, "life %" PRIu64 ": the disk is getting full", run->lives);
}

/* There is room again: what was refused for the lack of it must be taken now. */
static void
empty_disk(struct run *run)
{
    struct ox_env *env = sim_env(run->sim);
    struct rec    *rec;
    uint64_t       began;

    if (!sim_crashed(run->sim))
        run_settle(run);
    sim_set_capacity(run->sim, UINT64_C(1) << 40);
    run->excused = false;
    if (sim_crashed(run->sim) || run_excused(run))
        return;
    run->excused = true;
    if (log_failed(run))
        return; /* until it is opened again */
    for (began = env->ops->mono_us(env); env->ops->mono_us(env) < began + NOTICE_US;)
        if (!sim_step(run->sim))
            break;
    run->excused = false;
    if (sim_crashed(run->sim))
        return;
    rec = rec_new(run);
    rec->write_count = 1;
    rec->check_count = rec->change_count = 0;
    rec->w[0].expected = LOG_ANY;
    if (run->streams[rec->w[0].stream].may_be_gone)
        return;
    rec_submit(run, rec);
    run_settle(run);
    if (!rec->known && rec_fits(run, rec) && !run_excused(run))
        run_fail(run, "rec %" PRIu64 " is refused though there is room again", rec->no);
}

static void
work(struct run *run, uint32_t steps)
{
    bool full = pick(run, 8) == 0;

    for (uint32_t i = 0; i < steps && !sim_crashed(run->sim); i++) {
        if (full && i == steps / 3)
            fill_disk(run);
        if (full && i == steps / 3 * 2)
            empty_disk(run);
        act(run);
        if (pick(run, 150) == 0 && !sim_crashed(run->sim)) {
            run_settle(run);
            if (!run_excused(run))
                check_scan(run, false);
        }
    }
    if (full)
        empty_disk(run);
}

/* Ending */

static void
close_log(struct run *run)
{
    care_look(run);
    run->scavenge_run = 0;
    sub_end(run);
    run->closing = true; /* what was submitted is finished, nothing new comes */
    log_close(run->log);
    run->closing = false;
    run->log = NULL;
    if (run->in_flight != 0)
        run_fail(run, "closed with %u appends that were never answered", run->in_flight);
    check_empty_hands(run, "after close");
    check_rests(run);
}

/* One life; true where it was closed properly. */
static bool
live(struct run *run, bool clean, uint32_t steps, bool last)
{
    uint64_t end = pick(run, 10);
    bool     failed, whole;

    run->excused = false;
    run->lives++;
    if (pick(run, 10) == 0)
        look_only(run);
    if (pick(run, 10) == 0) {
        lose_index(run);
        clean = false;
    }
    open_log(run, clean, last);
    if (pick(run, 20) == 0)
        open_twice(run);
    sub_begin(run);
    if (last || pick(run, 3) != 0) {
        sim_fault_none(run->sim);
        run_settle(run);
    }
    if (sim_crashed(run->sim) || run_excused(run))
        run_say(run, "life %" PRIu64 ": in trouble from the start", run->lives);
    else
        check_scan(run, true);
    if (run->scavenges && !sim_crashed(run->sim) && (last || pick(run, 2) == 0))
        care_scavenge(run);
    if (last)
        steps = 0;
    else if (end < 3)
        sim_crash_in(run->sim, pick(run, 2) == 0 ? SIM_WRITE : SIM_SYNC,
                     pick(run, 10 + (uint64_t)steps / 2));
    else if (end < 5)
        sim_crash_at(run->sim, pick(run, 30 + (uint64_t)steps * 2));
    work(run, steps);
    if (end == 5 && !last)
        sim_crash(run->sim);
    if (!sim_crashed(run->sim) && (last || end >= 8)) {
        run_settle(run);
        sub_poll(run, true);
        if (!run_excused(run))
            check_scan(run, false);
    }
    if (end == 6 && !last)
        sim_crash_at(run->sim, pick(run, 40)); /* while it closes */
    failed = !sim_crashed(run->sim) && log_failed(run);
    close_log(run);
    whole = !sim_crashed(run->sim) && !failed && !run_excused(run);
    run->crashes += sim_crashed(run->sim);
    run_say(run, "life %" PRIu64 ": %s, %" PRIu64 " acked, %" PRIu64 " refused, %" PRIu64 " unsure",
            run->lives,
            whole                   ? "closed"
            : sim_crashed(run->sim) ? "crashed"
                                    : "ended in trouble",
            run->acked, run->refused, run->unsure);
    sim_fault_none(run->sim);
    reboot(run);
    return whole;
}

static void
run_free(struct run *run)
{
    sub_free_all(run);
    for (size_t i = 0; i < run->rec_count; i++)
        free(run->recs[i]);
    free(run->recs);
    free(run->seen);
    free(run->old);
    free(run->claims);
    index_maps_free(run->maps);
    sim_free(run->sim);
}

static void
add_totals(const struct run *run, struct run_totals *t)
{
    t->seeds++;
    t->lives += run->lives;
    t->crashes += run->crashes;
    t->cuts += run->cuts;
    t->faults += sim_fault_count(run->sim);
    t->acked += run->acked;
    t->refused += run->refused;
    t->unsure += run->unsure;
    t->scans += run->scans;
    t->rewritten += run->rewritten;
    t->gone += run->gone;
    t->backups += run->backups;
}

void
run_seed(uint64_t seed, uint32_t steps, bool verbose, struct run_totals *totals)
{
    struct run run;
    bool       clean = false;
    uint32_t   lives;

    memset(&run, 0, sizeof run);
    run.seed = seed;
    run.verbose = verbose;
    run.sim = sim_new(seed);
    run.maps = index_maps_new(sim_env(run.sim), before_index, &run);
    make_home(&run);
    name_streams(&run);
    configure(&run);
    sub_new_all(&run);
    sim_set_meanwhile(run.sim, pick(&run, 2) == 0 ? meanwhile : NULL, &run);
    lives = 2 + (uint32_t)pick(&run, LIVES_MAX - 2);
    for (uint32_t i = 0; i < lives; i++)
        clean = live(&run, clean, 1 + (uint32_t)pick(&run, steps / lives * 2), false);
    (void)live(&run, clean, 0, true);
    care_restore(&run);
    if (pick(&run, 4) == 0)
        damage_run(&run);
    run_say(&run,
            "seed %" PRIu64 ": %" PRIu64 " lives, %" PRIu64 " crashes, %" PRIu64 " cuts, %" PRIu64
            " events, %" PRIu64 " acked, %" PRIu64 " refused, %" PRIu64 " unsure",
            seed, run.lives, run.crashes, run.cuts, run.events, run.acked, run.refused, run.unsure);
    add_totals(&run, totals);
    run_free(&run);
}
