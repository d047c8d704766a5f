/*
 * Scavenging where the machine stops in any call, and where the disk is full:
 * what may be read is there with its old position, old and new segment alike are
 * whole, nothing is left lying about, and the next run ends the work.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>
#include <string.h>

#include "base/crc32c.h"
#include "log/log.h"
#include "sim/env_sim.h"
#include "sim/index_map.h"

#define DIR "/sim/data"
#define STREAMS 6u
#define COMMITS 330u
#define HIDDEN 40u /* versions of each stream */
#define EVENTS_MAX 1200u
#define CALLS_MAX 400u

struct seen {
    uint64_t pos, version, stream_id;
    uint32_t sum;
};

struct story {
    struct sim        *sim;
    struct ox_env     *env;
    struct index_maps *maps;
    struct log_conf    conf;
    struct log        *log;
    struct err         err;
    struct seen        seen[EVENTS_MAX];
    size_t             count;
    uint64_t           used; /* bytes of the disk, all there */
};

static int
touch(void *arg, const char *call, struct err *err)
{
    return sim_touch(arg, call, err);
}

static void
open_log(struct story *t)
{
    if (log_open(t->env, DIR, &t->conf, NULL, &t->log, &t->err) != 0)
        fail_msg("open: %s", t->err.text);
}

static void
fill(struct story *t)
{
    static uint8_t       bytes[1200000];
    struct log_new_event e[3];
    char                 name[16];

    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 31);
    for (unsigned i = 0; i < COMMITS; i++) {
        struct log_write w = {.expected = LOG_ANY, .events = e, .count = 1 + i % 3};
        struct log_req   req = {.writes = &w, .write_count = 1};

        memset(e, 0, sizeof e);
        (void)snprintf(name, sizeof name, "a-%u", i % STREAMS);
        w.stream = slice_str(name);
        for (unsigned k = 0; k < w.count; k++) {
            e[k].type = slice_str("t");
            /* Some are longer than a frame. */
            e[k].data = slice_of(bytes + i, i % 110 == 50 ? 1100000 : 7000 + k * 100);
        }
        assert_int_equal(log_append(t->log, &req), 0);
    }
}

/* All events with what makes them the same. */
static size_t
look(struct story *t, struct seen *out)
{
    struct log_read  read = {.raw = true, .filter = {.system = true, .quiet = true}};
    struct log_iter *it;
    struct log_event e;
    size_t           n = 0;
    int              rc;

    assert_int_equal(log_iter_open(t->log, &read, &it, &t->err), 0);
    while ((rc = log_iter_next(it, &e, &t->err)) == 0) {
        assert_true(n < EVENTS_MAX);
        out[n++] =
            (struct seen){e.pos.v, e.version, e.stream_id, crc32c(0, e.data.data, e.data.len)};
    }
    if (rc != E_END)
        fail_msg("read: %s", t->err.text);
    log_iter_close(it);
    return n;
}

static uint64_t
used(struct story *t, bool *unfinished)
{
    const char *path;
    uint64_t    size, sum = 0;

    *unfinished = false;
    for (size_t i = 0; (path = sim_file(t->sim, i)) != NULL; i++) {
        (void)sim_file_bytes(t->sim, path, &size);
        sum += size;
        *unfinished |= strstr(path, ".new") != NULL;
    }
    return sum;
}

/* From now on nobody may read the first versions of each stream. */
static void
hide(struct story *t)
{
    for (unsigned i = 0; i < STREAMS; i++) {
        char              name[16];
        struct log_change change = {
            .expected = LOG_ANY, .what = LOG_SET_TRUNCATE, .truncate = HIDDEN};
        struct log_req req = {.changes = &change, .change_count = 1};

        (void)snprintf(name, sizeof name, "a-%u", i);
        change.stream = slice_str(name);
        assert_int_equal(log_append(t->log, &req), 0);
    }
}

static void
begin(struct story *t, uint64_t seed)
{
    bool unfinished;

    memset(t, 0, sizeof *t);
    t->sim = sim_new(seed);
    t->env = sim_env(t->sim);
    t->maps = index_maps_new(t->env, touch, t->sim);
    t->conf = (struct log_conf){.index = &sim_index_map,
                                .segment_bytes = LOG_SEGMENT_MIN,
                                .heads_bytes = 4096,
                                .free_bytes_min = 4096,
                                .recent_events = 100};
    assert_int_equal(t->env->ops->dir_make(t->env, "/sim", &t->err), 0);
    assert_int_equal(t->env->ops->dir_sync(t->env, "/", &t->err), 0);
    open_log(t);
    fill(t);
    t->count = look(t, t->seen);
    hide(t);
    t->used = used(t, &unfinished);
}

static void
end(struct story *t)
{
    log_close(t->log);
    index_maps_free(t->maps);
    sim_free(t->sim);
}

static void
cut_power(struct story *t, enum sim_loss loss)
{
    sim_crash(t->sim);
    log_close(t->log);
    t->log = NULL;
    sim_reboot(t->sim, loss);
    if (loss != SIM_LOSS_NONE)
        index_maps_crash(t->maps, NULL, NULL);
}

static struct log_scavenge
scavenge(struct story *t)
{
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s = {.state = LOG_SCAVENGE_NONE};

    if (log_scavenge_start(t->log, &conf, &t->err) != 0)
        return s;
    do {
        if (!sim_step(t->sim))
            fail_msg("the scavenge does not go on");
        log_scavenge_status(t->log, &s);
    } while (s.state == LOG_SCAVENGE_RUNNING);
    return s;
}

/* By its name, too, all of a stream is there that was not hidden, whatever the index knows. */
static void
check_by_name(struct story *t)
{
    for (unsigned i = 0; i < STREAMS; i++) {
        char              name[16];
        struct log_read   read = {.raw = true};
        struct log_stream info;
        struct log_iter  *it;
        struct log_event  e;
        uint64_t          wanted = HIDDEN;

        (void)snprintf(name, sizeof name, "a-%u", i);
        read.stream = slice_str(name);
        assert_int_equal(log_stream_info(t->log, read.stream, &info, &t->err), 0);
        assert_int_equal(log_iter_open(t->log, &read, &it, &t->err), 0);
        while (log_iter_next(it, &e, &t->err) == 0)
            if (e.version >= HIDDEN)
                assert_int_equal(e.version, wanted++);
        log_iter_close(it);
        assert_int_equal(wanted, info.head + 1);
    }
}

static bool
is_same(const struct seen *a, const struct seen *b)
{
    return a->pos == b->pos && a->version == b->version && a->stream_id == b->stream_id &&
           a->sum == b->sum;
}

/* How many are gone, none of which may be read. */
static size_t
check(struct story *t)
{
    static struct seen now[EVENTS_MAX];
    size_t             n = look(t, now), k = 0;

    for (size_t i = 0; i < t->count; i++) {
        if (k < n && is_same(&now[k], &t->seen[i]))
            k++;
        else
            assert_true(t->seen[i].version < HIDDEN);
    }
    assert_int_equal(k, n);
    return t->count - n;
}

static void
check_counts(struct story *t, size_t gone)
{
    struct log_counts counts;

    if (log_verify(t->log, NULL, NULL, &counts, &t->err) != 0)
        fail_msg("verify: %s", t->err.text);
    assert_int_equal(counts.events, t->count - gone);
}

/* To its end now: all that is hidden in the sealed segments is gone, and so is its disk. */
static struct log_scavenge
finish(struct story *t)
{
    struct log_scavenge s;
    bool                unfinished;
    size_t              gone;

    s = scavenge(t);
    if (s.state != LOG_SCAVENGE_DONE)
        fail_msg("scavenge: %s", s.error);
    gone = check(t);
    assert_true(gone >= (HIDDEN - 1) * STREAMS / 2);
    check_counts(t, gone);
    for (unsigned i = 0; i < 2000 && used(t, &unfinished) >= t->used; i++)
        (void)sim_step(t->sim);
    assert_true(used(t, &unfinished) < t->used);
    assert_false(unfinished);
    return s;
}

static void
the_machine_may_stop_in_any_call(void **state)
{
    static struct story t;
    unsigned            crashes = 0, resumes = 0, others = 0;

    for (uint64_t nth = 0; nth < CALLS_MAX; nth++) {
        struct log_scavenge s;
        bool                unfinished;
        uint64_t            was_at;

        begin(&t, nth);
        sim_crash_at(t.sim, nth);
        s = scavenge(&t);
        was_at = s.examined == 0 ? 0 : s.pos.v;
        if (!sim_crashed(t.sim)) {
            assert_int_equal(s.state, LOG_SCAVENGE_DONE);
            end(&t);
            break;
        }
        crashes++;
        cut_power(&t, nth % 3 == 0 ? SIM_LOSS_NONE : nth % 3 == 1 ? SIM_LOSS_ALL : SIM_LOSS_RANDOM);
        open_log(&t);
        (void)used(&t, &unfinished);
        assert_false(unfinished);
        check_counts(&t, check(&t));
        s = finish(&t);
        /* Where it was; but it may have stopped in saying so. */
        assert_true(s.resumed_at.v <= was_at);
        if (nth % 3 == 0 && was_at > 0)
            s.resumed_at.v == was_at ? resumes++ : others++;
        /* With another index, made from what is left. */
        log_close(t.log);
        index_maps_remove(t.maps, DIR "/index");
        open_log(&t);
        check_counts(&t, check(&t));
        check_by_name(&t);
        end(&t);
    }
    assert_true(crashes > 40);
    assert_true(resumes >= crashes / 6);
    assert_true(others < resumes / 4);
    assert_true(crashes < CALLS_MAX);
    (void)state;
}

static void
any_call_may_fail(void **state)
{
    static const struct {
        enum sim_call  call;
        enum sim_fault fault;
    } faults[] = {{SIM_WRITE, SIM_EIO}, {SIM_WRITE, SIM_ENOSPC}, {SIM_SYNC, SIM_EIO},
                  {SIM_OPEN, SIM_EIO},  {SIM_RESIZE, SIM_EIO},   {SIM_MAP, SIM_EIO},
                  {SIM_DIR, SIM_EIO},   {SIM_DIR_SYNC, SIM_EIO}};
    static struct story t;
    unsigned            failed = 0;

    for (unsigned i = 0; i < sizeof faults / sizeof faults[0]; i++)
        for (uint64_t nth = 0; nth < 4; nth++) {
            struct log_scavenge s;
            struct log_info     info;

            begin(&t, nth);
            (void)sim_run(t.sim, 3000); /* what the log itself still has to write */
            sim_fault_at(t.sim, faults[i].call, faults[i].fault, nth);
            s = scavenge(&t);
            failed += s.state == LOG_SCAVENGE_FAILED;
            sim_fault_none(t.sim);
            log_get_info(t.log, &info);
            assert_false(info.failed);
            check_counts(&t, check(&t));
            (void)finish(&t);
            end(&t);
        }
    assert_true(failed > 10);
    (void)state;
}

static void
a_full_disk_ends_the_run_and_nothing_else(void **state)
{
    static struct story  t;
    struct log_new_event e = {.type = slice_str("t"), .data = slice_str("x")};
    struct log_write     w = {
            .stream = slice_str("b-1"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req      req = {.writes = &w, .write_count = 1};
    struct log_scavenge s;
    bool                unfinished;

    begin(&t, 3);
    (void)sim_run(t.sim, 3000);
    sim_set_capacity(t.sim, used(&t, &unfinished) + 1000);
    s = scavenge(&t);
    assert_int_equal(s.state, LOG_SCAVENGE_FAILED);
    assert_int_equal(s.rc, E_NOSPC);
    assert_non_null(strstr(s.error, "no room for a segment's new file"));
    (void)used(&t, &unfinished);
    assert_false(unfinished);
    assert_int_equal(check(&t), 0);
    /* Below the watermark, once the log has looked, appends are refused as ever; it is well. */
    (void)sim_run(t.sim, 3000);
    assert_int_equal(log_append(t.log, &req), E_NOSPC);
    sim_set_capacity(t.sim, UINT64_C(1) << 40);
    (void)sim_run(t.sim, 3000);
    assert_int_equal(log_append(t.log, &req), 0);
    t.seen[t.count++] = (struct seen){req.pos.v, 0, STREAMS, crc32c(0, "x", 1)};
    (void)finish(&t);
    end(&t);
    (void)state;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_machine_may_stop_in_any_call),
        cmocka_unit_test(any_call_may_fail),
        cmocka_unit_test(a_full_disk_ends_the_run_and_nothing_else),
    };

    return cmocka_run_group_tests_name("scavenge_sim", tests, NULL, NULL);
}
