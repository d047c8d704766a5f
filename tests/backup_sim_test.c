/*
 * Backup and restore where every call to the world can fail, and the machine can stop in any of
 * them: there is always a backup that restores, and never half a log that opens.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "log/backup.h"
#include "log/log.h"
#include "sim/env_sim.h"
#include "sim/index_map.h"

#define DIR "/sim/data"
#define BACKUP "/sim/backup"
#define OTHER "/sim/other"
#define CALLS_MAX 2000

struct story {
    struct sim              *sim;
    struct ox_env           *env;
    struct index_maps       *maps;
    struct log_conf          conf;
    struct log              *log;
    struct log_backup_report report;
    struct err               err;
    uint64_t                 first_end, second_end;
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
append(struct story *t, unsigned count, size_t bytes)
{
    static uint8_t       data[900000];
    struct log_new_event e = {.type = slice_str("Done"), .data = slice_of(data, bytes)};
    struct log_write w = {.stream = slice_str("s"), .expected = LOG_ANY, .events = &e, .count = 1};

    for (unsigned i = 0; i < count; i++) {
        struct log_req req = {.writes = &w, .write_count = 1};

        data[0] = (uint8_t)i;
        if (log_append(t->log, &req) != 0)
            fail_msg("append: %s", req.err.text);
    }
}

static int
back_up(struct story *t)
{
    struct log_backup_conf conf = {.dir = BACKUP};

    return log_backup(t->log, &conf, &t->report, &t->err);
}

static int
restore(struct story *t, const char *to)
{
    struct log_restore_conf conf = {.from = BACKUP, .to = to, .log = &t->conf};

    return log_restore(t->env, &conf, &t->report, &t->err);
}

/* A backup, and more in the log since. */
static void
begin(struct story *t, uint64_t seed)
{
    memset(t, 0, sizeof *t);
    t->sim = sim_new(seed);
    t->env = sim_env(t->sim);
    t->maps = index_maps_new(t->env, touch, t->sim);
    t->conf = (struct log_conf){.index = &sim_index_map,
                                .segment_bytes = LOG_SEGMENT_MIN,
                                .heads_bytes = 64 << 10,
                                .recent_events = 1000};
    assert_int_equal(t->env->ops->dir_make(t->env, "/sim", &t->err), 0);
    assert_int_equal(t->env->ops->dir_sync(t->env, "/", &t->err), 0);
    open_log(t);
    append(t, 3, 900000);
    if (back_up(t) != 0)
        fail_msg("backup: %s", t->err.text);
    t->first_end = log_end(t->log).v;
    append(t, 3, 900000);
    t->second_end = log_end(t->log).v;
}

static void
end(struct story *t)
{
    log_close(t->log);
    index_maps_free(t->maps);
    sim_free(t->sim);
}

/* The backup is that of before or of after. */
static void
one_of_both(struct story *t, bool done)
{
    if (restore(t, NULL) != 0)
        fail_msg("the backup is gone: %s", t->err.text);
    if (done || t->report.end.v != t->first_end)
        assert_int_equal(t->report.end.v, t->second_end);
}

static void
a_fault_at_every_call_of_a_backup(void **state)
{
    for (int call = SIM_OPEN; call <= SIM_DIR_SYNC; call++) {
        bool takes_room = call == SIM_WRITE || call == SIM_RESIZE;

        for (int fault = SIM_EIO; fault <= (takes_room ? SIM_ENOSPC : SIM_EIO); fault++) {
            for (uint64_t nth = 0; nth < CALLS_MAX; nth++) {
                struct story t;
                uint64_t     before;
                int          rc;

                begin(&t, nth);
                before = sim_fault_count(t.sim);
                sim_fault_at(t.sim, (enum sim_call)call, (enum sim_fault)fault, nth);
                rc = back_up(&t);
                sim_fault_none(t.sim);
                one_of_both(&t, rc == 0);
                before = sim_fault_count(t.sim) - before;
                if (back_up(&t) != 0)
                    fail_msg("again: %s", t.err.text);
                assert_int_equal(restore(&t, OTHER), 0);
                assert_int_equal(t.report.end.v, t.second_end);
                end(&t);
                if (before == 0)
                    break; /* there are no more calls of this kind */
                assert_true(nth + 1 < CALLS_MAX);
            }
        }
    }
}

static void
stops_at_every_call_of_a_backup(void **state)
{
    for (int loss = SIM_LOSS_NONE; loss <= SIM_LOSS_RANDOM; loss++) {
        bool stopped = true;

        for (uint64_t nth = 0; stopped; nth++) {
            struct story t;

            begin(&t, nth + 1000);
            sim_crash_at(t.sim, nth);
            (void)back_up(&t);
            stopped = sim_crashed(t.sim);
            sim_crash(t.sim);
            log_close(t.log);
            t.log = NULL;
            sim_reboot(t.sim, (enum sim_loss)loss);
            if (loss != SIM_LOSS_NONE)
                index_maps_crash(t.maps, NULL, NULL);
            one_of_both(&t, !stopped);
            open_log(&t);
            if (back_up(&t) != 0)
                fail_msg("again: %s", t.err.text);
            assert_int_equal(restore(&t, OTHER), 0);
            assert_int_equal(t.report.end.v, t.second_end);
            assert_int_equal(t.report.events, 6);
            end(&t);
            assert_true(nth < CALLS_MAX);
        }
    }
}

/* Whole, or no log. */
static void
all_or_nothing(struct story *t)
{
    struct log_conf conf = t->conf;
    struct log     *log = NULL;

    conf.read_only = true;
    if (log_open(t->env, OTHER, &conf, NULL, &log, &t->err) == 0) {
        assert_int_equal(log_end(log).v, t->first_end);
        log_close(log);
    }
    conf.read_only = false;
    if (t->err.code != E_NOTFOUND && log_open(t->env, OTHER, &conf, NULL, &log, &t->err) == 0) {
        assert_int_equal(log_end(log).v, t->first_end);
        log_close(log);
    }
}

static void
stops_at_every_call_of_a_restore(void **state)
{
    for (int loss = SIM_LOSS_NONE; loss <= SIM_LOSS_RANDOM; loss++) {
        bool stopped = true;

        for (uint64_t nth = 0; stopped; nth++) {
            struct story t;

            begin(&t, nth + 2000);
            log_close(t.log);
            t.log = NULL;
            sim_crash_at(t.sim, nth);
            (void)restore(&t, OTHER);
            stopped = sim_crashed(t.sim);
            sim_crash(t.sim);
            sim_reboot(t.sim, (enum sim_loss)loss);
            if (loss != SIM_LOSS_NONE)
                index_maps_crash(t.maps, NULL, NULL);
            err_clear(&t.err);
            all_or_nothing(&t);
            end(&t);
            assert_true(nth < CALLS_MAX);
        }
    }
}

static void
a_fault_at_every_call_of_a_restore(void **state)
{
    for (int call = SIM_OPEN; call <= SIM_DIR_SYNC; call++) {
        for (uint64_t nth = 0; nth < CALLS_MAX; nth++) {
            struct story t;
            uint64_t     before;

            begin(&t, nth + 3000);
            before = sim_fault_count(t.sim);
            sim_fault_at(t.sim, (enum sim_call)call, SIM_EIO, nth);
            if (restore(&t, OTHER) == 0)
                assert_int_equal(t.report.end.v, t.first_end);
            sim_fault_none(t.sim);
            before = sim_fault_count(t.sim) - before;
            err_clear(&t.err);
            all_or_nothing(&t);
            end(&t);
            if (before == 0)
                break;
            assert_true(nth + 1 < CALLS_MAX);
        }
    }
}

/* Full while it copies; then there is room again. */
static void
the_disk_is_full(void **state)
{
    struct story t;

    for (uint64_t room = 0; room < 6; room++) {
        uint64_t used = 0, size;

        begin(&t, room);
        for (size_t i = 0; sim_file(t.sim, i) != NULL; i++) {
            (void)sim_file_bytes(t.sim, sim_file(t.sim, i), &size);
            used += size;
        }
        sim_set_capacity(t.sim, used + room * 100000);
        assert_int_equal(back_up(&t), E_NOSPC);
        one_of_both(&t, false);
        assert_int_equal(t.report.end.v, t.first_end);
        sim_set_capacity(t.sim, UINT64_MAX);
        assert_int_equal(back_up(&t), 0);
        one_of_both(&t, true);
        sim_set_capacity(t.sim, used + room * 100000);
        assert_int_equal(restore(&t, OTHER), E_NOSPC);
        sim_set_capacity(t.sim, UINT64_MAX);
        assert_int_equal(restore(&t, OTHER), 0);
        end(&t);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fault_at_every_call_of_a_backup),
        cmocka_unit_test(stops_at_every_call_of_a_backup),
        cmocka_unit_test(stops_at_every_call_of_a_restore),
        cmocka_unit_test(a_fault_at_every_call_of_a_restore),
        cmocka_unit_test(the_disk_is_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
