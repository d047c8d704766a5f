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
#define CONF "workers: 3\nverify: {chunk: 64, stale_max: 200}\n"

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
    f->conf = fake_conf(CONF "lease: 60s\n"); /* a slow machine's, too */
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

static void
reopen_with(struct fix *f, const char *conf)
{
    tracer_close(f->t);
    f->t = NULL;
    conf_free(f->conf);
    f->conf = fake_conf(conf);
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

    for (int i = 0; i < 120000; i++) {
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
    for (int i = 0; i < 120000 && fake_differing() > 0; i++)
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

/* commands and phases */

static const unsigned taken[] = {
    [TRACER_DRAFT] = 1u << TRACER_START | 1u << TRACER_CANCEL | 1u << TRACER_BACKFILL_ON |
                     1u << TRACER_BACKFILL_OFF,
    [TRACER_BACKFILLING] = 1u << TRACER_PAUSE | 1u << TRACER_CANCEL | 1u << TRACER_BACKFILL_ON |
                           1u << TRACER_BACKFILL_OFF,
    [TRACER_READY] = 1u << TRACER_PAUSE | 1u << TRACER_VERIFY | 1u << TRACER_REPAIR |
                     1u << TRACER_SWITCH | 1u << TRACER_CANCEL,
    [TRACER_NEW_SOAK] = 1u << TRACER_PAUSE | 1u << TRACER_VERIFY | 1u << TRACER_REPAIR |
                        1u << TRACER_REVERSE | 1u << TRACER_COMPLETE_FALLBACK |
                        1u << TRACER_COMPLETE_RETIRE,
    [TRACER_FALLBACK_KEPT] = 1u << TRACER_PAUSE | 1u << TRACER_VERIFY | 1u << TRACER_REPAIR |
                             1u << TRACER_REVERSE | 1u << TRACER_COMPLETE_RETIRE,
    [TRACER_RETIRED] = 0,
    [TRACER_PAUSED] = 1u << TRACER_RESUME | 1u << TRACER_CANCEL,
    [TRACER_CANCELLED] = 0,
};

static void
refuses_the_rest(struct fix *f)
{
    enum tracer_phase p = phase(f);

    for (unsigned c = 0; c <= TRACER_BACKFILL_OFF; c++) {
        if ((taken[p] & 1u << c) != 0)
            continue;
        assert_int_equal(tracer_command(f->t, (enum tracer_command)c, &f->err), E_STATE);
        assert_non_null(strstr(f->err.text, tracer_phase_name(p)));
        assert_int_equal(phase(f), p);
    }
}

static void
commands(void **state)
{
    struct fix         *f = *state;
    enum tracer_command c;

    refuses_the_rest(f);
    command(f, TRACER_BACKFILL_OFF);
    command(f, TRACER_START);
    await(f, TRACER_BACKFILLING);
    refuses_the_rest(f);
    command(f, TRACER_PAUSE);
    refuses_the_rest(f);
    reopen(f);
    assert_int_equal(phase(f), TRACER_PAUSED);
    command(f, TRACER_RESUME);
    await(f, TRACER_BACKFILLING);
    command(f, TRACER_BACKFILL_ON);
    await(f, TRACER_READY);
    refuses_the_rest(f);
    command(f, TRACER_VERIFY);
    await(f, TRACER_READY);
    command(f, TRACER_SWITCH);
    refuses_the_rest(f);
    assert_int_equal(tracer_command(f->t, TRACER_CANCEL, &f->err), E_STATE);
    command(f, TRACER_COMPLETE_FALLBACK);
    refuses_the_rest(f);
    command(f, TRACER_REVERSE);
    assert_int_equal(phase(f), TRACER_READY);
    command(f, TRACER_CANCEL);
    refuses_the_rest(f);
    assert_true(tracer_command_parse("complete", "retire", &c));
    assert_int_equal(c, TRACER_COMPLETE_RETIRE);
    assert_false(tracer_command_parse("complete", NULL, &c));
    assert_false(tracer_command_parse("switch", "back", &c));
}

/* verification */

static uint32_t
count_of(struct fix *f, const char *what)
{
    struct buf report = {0};
    uint32_t   n = 0;

    tracer_report_json(f->t, &report);
    buf_add_byte(&report, 0);
    for (const char *p = (const char *)report.data; (p = strstr(p, what)) != NULL; p++)
        n++;
    buf_fini(&report);
    return n;
}

static void
await_divergent(struct fix *f, uint64_t want)
{
    struct tracer_status s;

    for (int i = 0; i < 120000; i++) {
        tracer_get_status(f->t, &s);
        if (s.divergent == want && s.error[0] != '\0')
            return;
        nap();
    }
    fail_msg("%llu differ, not %llu: %s", (unsigned long long)s.divergent, (unsigned long long)want,
             s.error);
}

static void
divergences(void **state)
{
    struct fix     *f = *state;
    struct fake_row a, b, stale = {"d3", NULL, "old"}, swapped;

    to_ready(f);
    for (uint32_t k = 10; k < 15; k++)
        fake_damage(FAKE_NEW, k, NULL); /* missing */
    for (uint32_t k = 1000; k < 1005; k++)
        fake_damage(FAKE_NEW, k, &stale); /* extra */
    assert_true(fake_read(FAKE_NEW, 21, &a));
    assert_true(fake_read(FAKE_NEW, 22, &b));
    swapped = (struct fake_row){strdup(b.driver), a.note == NULL ? NULL : "", a.state};
    b = (struct fake_row){strdup(a.driver), "ring", "placed"};
    a = swapped;
    a.note = "ring";
    a.state = "placed";
    fake_damage(FAKE_NEW, 21, &a);
    fake_damage(FAKE_NEW, 22, &b);
    free((char *)a.driver);
    free((char *)b.driver);
    stale.driver = "d40";
    stale.note = "";
    fake_damage(FAKE_NEW, 40, &stale);
    stale = (struct fake_row){"d30", "", "placed"}; /* NULL became empty */
    fake_damage(FAKE_NEW, 30, &stale);
    command(f, TRACER_VERIFY);
    await_divergent(f, 14);
    assert_int_equal(phase(f), TRACER_VERIFYING);
    assert_int_equal(count_of(f, "\"missing\""), 5);
    assert_int_equal(count_of(f, "\"extra\""), 5);
    assert_int_equal(count_of(f, "\"null_empty\""), 1);
    assert_int_equal(count_of(f, "\"different\""), 3);
    assert_int_equal(tracer_command(f->t, TRACER_SWITCH, &f->err), E_STATE);
    command(f, TRACER_REPAIR);
    await(f, TRACER_READY);
    assert_int_equal(fake_differing(), 0);
    for (int i = 0; i < 20; i++) {
        command(f, TRACER_VERIFY);
        await(f, TRACER_READY);
        assert_int_equal(count_of(f, "\"kind\""), 0);
    }
}

/* applications that keep writing, as the examples do */

struct app {
    pthread_t              thread;
    struct tracer *_Atomic t;
    _Atomic bool           stop;
    uint32_t               first, last;
    uint64_t               done, refused;
    char want[KEYS][32]; /* the last acknowledged driver of each key; "": deleted */
};

static void *
app_run(void *arg)
{
    struct app         *a = arg;
    struct tracer_route r = {0};
    uint32_t            n = 0;

    while (!atomic_load(&a->stop)) {
        uint32_t        key = a->first + n * 7 % (a->last - a->first);
        struct fake_row row = {a->want[key], n % 2 == 0 ? NULL : "", "ready"};
        bool            gone = n % 11 == 3, ok = false;

        (void)snprintf(a->want[key], sizeof a->want[key], "w%u", n);
        for (int tries = 0; !ok && !atomic_load(&a->stop); tries++) {
            struct tracer *t = atomic_load(&a->t);

            if (t != NULL)
                tracer_route(t, slice_str("k"), slice_str("app"), &r);
            /* Every fifth write is stubborn at first. */
            if (tries == 0 && n % 5 == 0)
                ok = fake_write(FAKE_OLD, key, gone ? NULL : &row, 0);
            else if (r.side != TRACER_HOLD)
                ok = fake_write(r.side == TRACER_OLD ? FAKE_OLD : FAKE_NEW, key, gone ? NULL : &row,
                                r.epoch);
            if (!ok) {
                a->refused++;
                nap();
            }
        }
        if (!ok) { /* it was never acknowledged: what is there is right */
            struct fake_row now;
            bool there = fake_read(r.side == TRACER_NEW ? FAKE_NEW : FAKE_OLD, key, &now);

            (void)snprintf(a->want[key], sizeof a->want[key], "%s", there ? now.driver : "");
        } else if (gone) {
            a->want[key][0] = '\0';
        }
        a->done += ok;
        n++;
        nap(); /* slower than the slowest build applies */
    }
    return NULL;
}

static void
app_start(struct app *a, struct fix *f)
{
    a->first = 100;
    a->last = 200;
    for (uint32_t k = a->first; k < a->last; k++) {
        struct fake_row now;

        if (fake_read(FAKE_OLD, k, &now))
            (void)snprintf(a->want[k], sizeof a->want[k], "%s", now.driver);
    }
    atomic_store(&a->t, f->t);
    assert_int_equal(pthread_create(&a->thread, NULL, app_run, a), 0);
}

static void
app_stop(struct app *a)
{
    atomic_store(&a->stop, true);
    (void)pthread_join(a->thread, NULL);
}

/* Both sides have each key's last acknowledged state. */
static void
nothing_lost(struct app *a)
{
    await_equal();
    for (uint32_t k = a->first; k < a->last; k++) {
        struct fake_row row;
        bool            there = fake_read(FAKE_NEW, k, &row);

        if (there != (a->want[k][0] != '\0') || (there && strcmp(row.driver, a->want[k]) != 0))
            fail_msg("key %u: %s, not %s", k, there ? row.driver : "nothing", a->want[k]);
    }
}

static void
under_load(void **state)
{
    struct fix          *f = *state;
    struct app           a = {0};
    struct tracer_status s;

    app_start(&a, f);
    to_ready(f);
    for (int i = 0; i < 10; i++) {
        command(f, TRACER_SWITCH);
        command(f, TRACER_VERIFY);
        nap();
        command(f, TRACER_REVERSE);
        nap();
    }
    command(f, TRACER_SWITCH);
    app_stop(&a);
    nothing_lost(&a);
    tracer_get_status(f->t, &s);
    assert_int_equal(s.divergent, 0);
    assert_int_equal(s.switches, 21);
    assert_true(s.held_us_max > 0);
    assert_true(a.done > 0);
}

static void
missed_deadline(void **state)
{
    struct fix         *f = *state;
    struct tracer_route r, before;
    struct store_guard  g;
    struct fake_row     row = {"x", "", "ready"};

    reopen_with(f, CONF "lease: 1s\n");
    to_ready(f);
    tracer_route(f->t, slice_str("1"), slice_str("x"), &before);
    fake_feed_stop(FAKE_OLD, true);
    assert_true(fake_write(FAKE_OLD, 3, &row, 0));
    assert_int_equal(tracer_command(f->t, TRACER_SWITCH, &f->err), E_TIMEOUT);
    tracer_route(f->t, slice_str("1"), slice_str("x"), &r);
    assert_int_equal(r.side, TRACER_OLD);
    assert_true(r.epoch > before.epoch);
    fake_guard(FAKE_OLD, &g);
    assert_true(g.writable);
    assert_int_equal(g.epoch, r.epoch);
    assert_true(fake_write(FAKE_OLD, 4, &row, 0));
    assert_false(fake_write(FAKE_NEW, 4, &row, r.epoch));
    fake_feed_stop(FAKE_OLD, false);
    await(f, TRACER_READY);
    reopen_with(f, CONF "lease: 60s\n");
    await(f, TRACER_READY);
    command(f, TRACER_SWITCH);
    await_equal();
}

/* What a side wrote before the other one had the authority is not applied once more. */
static void
read_again(void **state)
{
    struct fix         *f = *state;
    struct tracer_route r;
    struct fake_row     row = {"old's", "", "ready"};

    fake_forget_applied(true);
    to_ready(f);
    assert_true(fake_write(FAKE_OLD, 3, &row, 0));
    await_equal();
    command(f, TRACER_SWITCH);
    tracer_route(f->t, slice_str("1"), slice_str("x"), &r);
    row.driver = "new's";
    assert_true(fake_write(FAKE_NEW, 3, &row, r.epoch));
    await_equal();
    command(f, TRACER_REVERSE);
    row.driver = "old's last";
    assert_true(fake_write(FAKE_OLD, 4, &row, 0));
    await_equal();
    reopen(f);
    await(f, TRACER_READY);
    command(f, TRACER_SWITCH); /* all that it reads again is applied */
    assert_int_equal(fake_differing(), 0);
}

static void
no_ping_pong(void **state)
{
    struct fix *f = *state;
    uint64_t    news, olds;

    to_ready(f);
    command(f, TRACER_SWITCH);
    for (int i = 0; i < 200; i++)
        nap();
    news = fake_applied(FAKE_NEW);
    olds = fake_applied(FAKE_OLD);
    for (int i = 0; i < 400; i++)
        nap();
    assert_int_equal(fake_applied(FAKE_NEW), news);
    assert_int_equal(fake_applied(FAKE_OLD), olds);
    assert_int_equal(olds, 0);
}

static void
delete_behind(uint32_t key)
{
    if (key % 4 == 0)
        (void)fake_write(FAKE_OLD, key, NULL, 0);
}

/* A row that is deleted between the backfill's read and its write does not come back. */
static void
backfill_race(void **state)
{
    struct fix *f = *state;

    fake_before_insert(delete_behind);
    to_ready(f);
    await_equal();
    for (uint32_t k = 0; k < KEYS; k += 4) {
        struct fake_row row;

        assert_false(fake_read(FAKE_NEW, k, &row));
    }
}

static void
failing_writes(void **state)
{
    struct fix     *f = *state;
    struct fake_row row = {"y", NULL, "ready"};

    to_ready(f);
    fake_fail_writes(FAKE_NEW, 5, ERR_RETRY);
    assert_true(fake_write(FAKE_OLD, 3, &row, 0));
    await_equal();
    fake_fail_writes(FAKE_NEW, 2, ERR_UNSURE);
    row.driver = "z";
    assert_true(fake_write(FAKE_OLD, 3, &row, 0));
    await_equal();
    fake_fail_writes(FAKE_NEW, 1000000, ERR_DATA);
    row.driver = "refused";
    assert_true(fake_write(FAKE_OLD, 3, &row, 0));
    await(f, TRACER_HALTED);
    assert_int_equal(tracer_command(f->t, TRACER_SWITCH, &f->err), E_STATE);
    fake_fail_writes(FAKE_NEW, 0, ERR_RETRY);
    command(f, TRACER_RESUME);
    await_equal();
    await(f, TRACER_READY);
}

/* A crash at every call of a migration, a switch and a reverse; then it goes on. */

static struct tracer_call crashed_call;
static _Atomic bool       answered;

static void
on_answer(struct tracer_call *call)
{
    atomic_store(&answered, true);
}

/* A dead controller never answers before it is closed. */
static bool
try_command(struct fix *f, enum tracer_command c)
{
    crashed_call = (struct tracer_call){.command = c, .done = on_answer};
    atomic_store(&answered, false);
    tracer_submit(f->t, &crashed_call);
    while (!atomic_load(&answered) && !fake_crashed())
        nap();
    return atomic_load(&answered) && crashed_call.rc == 0;
}

static void
drive(struct fix *f, int *stage)
{
    if (*stage == 0 && phase(f) == TRACER_DRAFT)
        (void)try_command(f, TRACER_START);
    for (int i = 0; i < 4000 && !fake_crashed() && phase(f) != TRACER_READY &&
                    phase(f) != TRACER_NEW_SOAK && phase(f) != TRACER_DRAFT;
         i++)
        nap();
    for (; *stage < 4 && !fake_crashed(); (*stage)++) {
        if (!try_command(f, *stage % 2 == 0 ? TRACER_SWITCH : TRACER_REVERSE))
            return;
    }
}

static void
crash_once(struct fix *f, uint64_t nth)
{
    struct app a = {0};
    int        stage = 0;

    app_start(&a, f);
    fake_crash_at(nth);
    drive(f, &stage);
    atomic_store(&a.t, NULL);
    for (int i = 0; i < 20; i++)
        nap(); /* nobody asks the dead one's route */
    tracer_close(f->t);
    f->t = NULL;
    fake_crash_at(UINT64_MAX);
    open_tracer(f);
    atomic_store(&a.t, f->t);
    if (phase(f) == TRACER_DRAFT)
        command(f, TRACER_START);
    for (int i = 0; i < 120000 && phase(f) != TRACER_READY && phase(f) != TRACER_NEW_SOAK; i++)
        nap();
    for (int i = 0; i < 100; i++) { /* until the authority's side is open */
        struct store_guard old, new;

        fake_guard(FAKE_OLD, &old);
        fake_guard(FAKE_NEW, &new);
        assert_false(old.writable && new.writable);
        nap();
    }
    if (phase(f) == TRACER_READY)
        command(f, TRACER_SWITCH);
    await(f, TRACER_NEW_SOAK);
    app_stop(&a);
    nothing_lost(&a);
}

static void
crashes(void **state)
{
    static const uint64_t steps[] = {0, 3, 6, 9, 12, 14, 20, 80, 400, 1200};
    struct fix           *f = *state;

    for (uint64_t i = 0; i < 10; i++) {
        crash_once(f, steps[i]);
        (void)teardown(state);
        (void)setup(state);
        f = *state;
    }
}

/* In a switch itself: at each call from its beginning on. */
static void
crashes_in_switches(void **state)
{
    struct fix *f = *state;

    for (uint64_t nth = 0; nth < 40; nth++) {
        struct app a = {0};
        bool       forth;

        if (phase(f) == TRACER_DRAFT)
            to_ready(f);
        forth = phase(f) == TRACER_READY;
        app_start(&a, f);
        fake_crash_at(nth);
        (void)try_command(f, forth ? TRACER_SWITCH : TRACER_REVERSE);
        fake_crash_at(0);
        atomic_store(&a.t, NULL);
        nap();
        tracer_close(f->t);
        f->t = NULL;
        fake_crash_at(UINT64_MAX);
        open_tracer(f);
        atomic_store(&a.t, f->t);
        for (int i = 0; i < 120000; i++) {
            enum tracer_phase   p = phase(f);
            struct tracer_route r;

            tracer_route(f->t, slice_str("1"), slice_str("x"), &r);
            if ((p == TRACER_READY || p == TRACER_NEW_SOAK) && r.side != TRACER_HOLD)
                break;
            nap();
        }
        for (int i = 0; i < 20; i++)
            nap();
        app_stop(&a);
        nothing_lost(&a);
        for (uint32_t k = a.first; k < a.last; k++)
            a.want[k][0] = '\0';
    }
}

/* the canary */

static bool
canary_there(void)
{
    struct fake_row row;

    return fake_read(FAKE_NEW, FAKE_KEYS, &row) || fake_read(FAKE_OLD, FAKE_KEYS, &row);
}

static _Atomic uint32_t canary_puts, canary_gets, canary_dels;
static struct fake_row  canary_damage;
static const char      *canary_call;
static enum err_kind    canary_kind;
static uint32_t         canary_fails;

/* Before the nth call of that name at the new side: writes from then on fail, or the row changes.
 */
static void
meddle(const char *call, enum fake_side side)
{
    struct fake_row row;
    bool            there = side == FAKE_NEW && fake_read(FAKE_NEW, FAKE_KEYS, &row);

    (void)atomic_fetch_add(&canary_puts, side == FAKE_NEW && strcmp(call, "put") == 0);
    (void)atomic_fetch_add(&canary_gets, there && strcmp(call, "get") == 0);
    (void)atomic_fetch_add(&canary_dels, there && strcmp(call, "del") == 0);
    if (canary_call == NULL || strcmp(call, canary_call) != 0 || side != FAKE_NEW)
        return;
    if (canary_fails > 0)
        fake_fail_writes(FAKE_NEW, canary_fails, canary_kind);
    if (canary_damage.driver != NULL && there)
        fake_damage(FAKE_NEW, FAKE_KEYS, &canary_damage);
}

static void
canary_world(struct fix *f, const char *call, uint32_t fails, enum err_kind kind)
{
    atomic_store(&canary_puts, 0);
    atomic_store(&canary_gets, 0);
    atomic_store(&canary_dels, 0);
    canary_damage = (struct fake_row){0};
    canary_call = call;
    canary_fails = fails;
    canary_kind = kind;
    fake_before_call(meddle);
    command(f, TRACER_BACKFILL_OFF);
}

static void
await_preflight_error(struct fix *f, const char *says)
{
    struct tracer_status s;

    for (int i = 0; i < 120000; i++) {
        tracer_get_status(f->t, &s);
        if (s.phase == TRACER_DRAFT && s.error[0] != '\0')
            break;
        nap();
    }
    if (s.phase != TRACER_DRAFT || strstr(s.error, says) == NULL)
        fail_msg("%s, not \"%s\": %s", tracer_phase_name(s.phase), says, s.error);
}

/* The new side is as it was: nobody's guard, and no row. */
static void
nothing_left(void)
{
    uint32_t rows = 0;

    assert_false(fake_guarded(FAKE_NEW));
    for (uint32_t i = 0; i <= FAKE_KEYS; i++) {
        struct fake_row row;

        rows += fake_read(FAKE_NEW, i, &row);
    }
    assert_int_equal(rows, 0);
}

static void
canary(void **state)
{
    struct fix *f = *state;

    canary_world(f, NULL, 0, ERR_NONE);
    command(f, TRACER_START);
    await(f, TRACER_BACKFILLING);
    assert_int_equal(canary_gets, 1);
    assert_int_equal(canary_dels, 1);
    assert_false(canary_there());
    command(f, TRACER_BACKFILL_ON);
    await(f, TRACER_READY);
    assert_int_equal(fake_differing(), 0);
}

static void
canary_off(void **state)
{
    struct fix *f = *state;

    reopen_with(f, "canary: false\n");
    canary_world(f, NULL, 0, ERR_NONE);
    command(f, TRACER_START);
    await(f, TRACER_BACKFILLING);
    assert_int_equal(canary_dels, 0);
    command(f, TRACER_BACKFILL_ON);
    await(f, TRACER_READY);
}

/* A write that is refused, or whose outcome is not known: nothing stays, and the next try passes.
 */
static void
canary_refused(void **state)
{
    struct fix *f = *state;

    canary_world(f, "put", 1, ERR_DATA);
    command(f, TRACER_START);
    await_preflight_error(f, "preflight, the canary row -");
    nothing_left();
    fake_before_call(NULL);
    canary_world(f, "put", 1, ERR_UNSURE);
    command(f, TRACER_START);
    await_preflight_error(f, "planted");
    assert_int_equal(canary_dels, 1);
    nothing_left();
    fake_before_call(NULL);
    canary_world(f, NULL, 0, ERR_NONE);
    command(f, TRACER_START);
    await(f, TRACER_BACKFILLING);
    assert_false(canary_there());
}

/* A side that keeps another value than it was given. */
static void
canary_altered(void **state)
{
    struct fix *f = *state;

    canary_world(f, "get", 0, ERR_NONE);
    canary_damage = (struct fake_row){"somebody", "", "else"};
    command(f, TRACER_START);
    await_preflight_error(f, "it is read back with other values in \"driver\"");
    nothing_left();
}

/* Where it cannot be taken away the error says so; the next start does it. */
static void
canary_stays(void **state)
{
    struct fix *f = *state;

    canary_world(f, "del", 1, ERR_RETRY);
    command(f, TRACER_START);
    await_preflight_error(f, "may still be at fresh: the next `start` or `cancel` takes it away");
    assert_true(canary_there());
    fake_before_call(NULL);
    fake_fail_writes(FAKE_NEW, 0, ERR_RETRY);
    reopen(f);
    command(f, TRACER_START);
    await(f, TRACER_BACKFILLING);
    assert_false(canary_there());
}

static void
canary_cancelled(void **state)
{
    struct fix *f = *state;

    canary_world(f, "del", 1, ERR_RETRY);
    command(f, TRACER_START);
    await_preflight_error(f, "may still be at fresh");
    assert_true(canary_there());
    fake_before_call(NULL);
    fake_fail_writes(FAKE_NEW, 0, ERR_RETRY);
    command(f, TRACER_CANCEL);
    for (int i = 0; i < 120000 && canary_there(); i++)
        nap();
    nothing_left();
}

/* A row that is there already is nobody's canary. */
static void
canary_taken(void **state)
{
    struct fix     *f = *state;
    struct fake_row row = {"real", NULL, "placed"}, now;

    fake_damage(FAKE_NEW, FAKE_KEYS, &row);
    canary_world(f, NULL, 0, ERR_NONE);
    command(f, TRACER_START);
    await_preflight_error(f, "fresh has a row with this key");
    assert_int_equal(canary_puts, 0);
    assert_true(fake_read(FAKE_NEW, FAKE_KEYS, &now));
    assert_string_equal(now.driver, "real");
}

/* Killed at every call of preflight: the next one starts with taking away what is left. */
static void
canary_crashes(void **state)
{
    struct fix *f = *state;
    bool        left = false;

    for (uint64_t nth = 0; nth < 60; nth++) {
        uint64_t calls;

        command(f, TRACER_BACKFILL_OFF);
        fake_crash_at(nth);
        (void)try_command(f, TRACER_START);
        for (int i = 0; i < 40000 && !fake_crashed() && phase(f) == TRACER_PREFLIGHT; i++)
            nap();
        calls = fake_crashed();
        fake_crash_at(0);
        left = left || canary_there();
        tracer_close(f->t);
        f->t = NULL;
        fake_crash_at(UINT64_MAX);
        open_tracer(f);
        if (phase(f) == TRACER_DRAFT)
            command(f, TRACER_START);
        await(f, TRACER_BACKFILLING);
        assert_false(canary_there());
        (void)teardown(state);
        (void)setup(state);
        f = *state;
        if (!calls)
            break;
    }
    assert_true(left); /* or it was never killed in between */
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(canary, setup, teardown),
        cmocka_unit_test_setup_teardown(canary_off, setup, teardown),
        cmocka_unit_test_setup_teardown(canary_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(canary_altered, setup, teardown),
        cmocka_unit_test_setup_teardown(canary_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(canary_cancelled, setup, teardown),
        cmocka_unit_test_setup_teardown(canary_taken, setup, teardown),
        cmocka_unit_test_setup_teardown(canary_crashes, setup, teardown),
        cmocka_unit_test_setup_teardown(happy, setup, teardown),
        cmocka_unit_test_setup_teardown(commands, setup, teardown),
        cmocka_unit_test_setup_teardown(divergences, setup, teardown),
        cmocka_unit_test_setup_teardown(under_load, setup, teardown),
        cmocka_unit_test_setup_teardown(missed_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(read_again, setup, teardown),
        cmocka_unit_test_setup_teardown(no_ping_pong, setup, teardown),
        cmocka_unit_test_setup_teardown(backfill_race, setup, teardown),
        cmocka_unit_test_setup_teardown(failing_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(crashes, setup, teardown),
        cmocka_unit_test_setup_teardown(crashes_in_switches, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
