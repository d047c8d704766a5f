/* A whole migration between two sides in memory, phase by phase. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/say.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "tests/tmp.h"
#include "tests/tracer_fake.h"

#define KEYS 300

struct fix {
    char           dir[64];
    struct log    *log;
    struct conf   *conf;
    struct tracer *t;
    struct err     err;
};

static void
quiet(void *arg, const char *line, size_t len)
{
}

static void
nap(void)
{
    struct ox_gate never;

    gate_init(&never);
    (void)env_real()->ops->gate_wait(env_real(), &never, 500);
}

static void
open_log(struct fix *f)
{
    struct log_conf conf = {.index = &log_index_lmdb,
                            .segment_bytes = LOG_SEGMENT_MIN,
                            .recent_events = 1000,
                            .heads_bytes = 65536};

    if (log_open(env_real(), f->dir, &conf, NULL, &f->log, &f->err) != 0)
        fail_msg("log: %s", f->err.text);
}

static void
open_tracer(struct fix *f)
{
    struct tracer_deps deps = {
        .env = env_real(), .log = f->log, .source = fake_source, .store = fake_store};

    if (tracer_open(&deps, "orders", f->conf, &f->t, &f->err) != 0)
        fail_msg("tracer: %s", f->err.text);
}

static void
fill(uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        char            driver[32];
        struct fake_row row = {driver, i % 3 == 0 ? NULL : i % 3 == 1 ? "" : "ring", "placed"};

        (void)snprintf(driver, sizeof driver, "d%u", i);
        if (i % 10 == 9)
            row = (struct fake_row){NULL, NULL, NULL};
        assert_true(fake_write(FAKE_OLD, i, &row, 0));
    }
}

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    say_to(quiet, NULL);
    tmp_dir(f->dir, sizeof f->dir);
    open_log(f);
    fake_world_new();
    f->conf = fake_conf("workers: 3\nverify: {chunk: 64, stale_max: 200}\nlease: 1s\n");
    fill(0, KEYS);
    open_tracer(f);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    tracer_close(f->t);
    conf_free(f->conf);
    log_close(f->log);
    fake_world_free();
    tmp_remove(f->dir);
    free(f);
    return 0;
}

static void
reopen(struct fix *f)
{
    tracer_close(f->t);
    f->t = NULL;
    open_tracer(f);
}

static enum tracer_phase
phase(struct fix *f)
{
    struct tracer_status s;

    tracer_get_status(f->t, &s);
    return s.phase;
}

static void
await(struct fix *f, enum tracer_phase want)
{
    struct tracer_status s;

    for (int i = 0; i < 40000; i++) {
        tracer_get_status(f->t, &s);
        if (s.phase == want)
            return;
        nap();
    }
    fail_msg("phase %s, not %s: %s", tracer_phase_name(s.phase), tracer_phase_name(want), s.error);
}

static void
command(struct fix *f, enum tracer_command c)
{
    if (tracer_command(f->t, c, &f->err) != 0)
        fail_msg("%s: %s", tracer_command_name(c), f->err.text);
}

static void
await_equal(void)
{
    for (int i = 0; i < 40000 && fake_differing() > 0; i++)
        nap();
    assert_int_equal(fake_differing(), 0);
}

static void
to_ready(struct fix *f)
{
    command(f, TRACER_START);
    await(f, TRACER_READY);
}

static void
happy(void **state)
{
    struct fix         *f = *state;
    struct tracer_route r;
    struct store_guard  g;
    struct fake_row     row = {"anna", "", "ready"};

    assert_int_equal(phase(f), TRACER_DRAFT);
    to_ready(f);
    assert_int_equal(fake_differing(), 0);
    tracer_route(f->t, slice_str("1"), slice_str("x"), &r);
    assert_int_equal(r.side, TRACER_OLD);
    assert_true(fake_write(FAKE_OLD, 5, &row, 0));
    assert_false(fake_write(FAKE_NEW, 5, &row, r.epoch));
    await_equal();
    for (int i = 0; i < 3; i++) {
        uint64_t epoch = r.epoch;

        command(f, TRACER_SWITCH);
        tracer_route(f->t, slice_str("1"), slice_str("x"), &r);
        assert_int_equal(r.side, TRACER_NEW);
        assert_true(r.epoch > epoch);
        fake_guard(FAKE_OLD, &g);
        assert_false(g.writable);
        row.driver = i == 0 ? "bert" : i == 1 ? "carl" : "dora";
        assert_false(fake_write(FAKE_OLD, 7, &row, 0));
        assert_true(fake_write(FAKE_NEW, 7, &row, r.epoch));
        assert_true(fake_write(FAKE_NEW, 8, NULL, r.epoch));
        await_equal();
        epoch = r.epoch;
        command(f, TRACER_REVERSE);
        assert_int_equal(phase(f), TRACER_READY);
        tracer_route(f->t, slice_str("1"), slice_str("x"), &r);
        assert_int_equal(r.side, TRACER_OLD);
        assert_false(fake_write(FAKE_NEW, 7, &row, epoch));
        row.note = NULL;
        assert_true(fake_write(FAKE_OLD, 8, &row, 0));
        await_equal();
    }
    command(f, TRACER_SWITCH);
    command(f, TRACER_COMPLETE_FALLBACK);
    tracer_route(f->t, slice_str("1"), slice_str("x"), &r);
    assert_true(fake_write(FAKE_NEW, 9, &row, r.epoch));
    await_equal();
    command(f, TRACER_COMPLETE_RETIRE);
    assert_int_equal(phase(f), TRACER_RETIRED);
    reopen(f);
    assert_int_equal(phase(f), TRACER_RETIRED);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(happy, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
