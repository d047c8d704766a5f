/*
 * Orders to a delivery: answered when they are durable, so that a run which takes over from there
 * has them; and never at the cost of who gives them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "deliver_fix.h"

static const struct log_pos all = {0};

static void
ok(struct fix *f, int rc)
{
    fake_ok(rc, &f->err);
}

static bool
is_paused(void *arg)
{
    return status(arg).state == DELIVER_PAUSED;
}

static bool
is_flying(void *arg)
{
    return status(arg).in_flight == ((struct fix *)arg)->want;
}

static bool
records_as_wanted(void *arg)
{
    struct fix *f = arg;

    return fake_count(&f->log, "$parked-sink-far") == f->want;
}

static void
hold(struct fake_world *w, bool paused)
{
    (void)pthread_mutex_lock(&w->lock);
    w->paused = paused;
    (void)pthread_mutex_unlock(&w->lock);
}

struct run {
    struct deliver    *d;
    struct fake_world *world;
};

/* Another run takes over from what is durable, with a far side to which nothing came yet. */
static struct run
crash(struct fix *f)
{
    struct run dead = {f->d, f->world};

    f->world = fake_world_new();
    f->world->checkpoint = dead.world->checkpoint;
    start(f);
    return dead;
}

static void
bury(struct run dead)
{
    hold(dead.world, false);
    deliver_free(dead.d);
    fake_world_free(dead.world);
}

/* 20 events are delivered, and 5 are with a far side that says nothing. */
static void
get_under_way(struct fix *f)
{
    append(f, 20, 5);
    start(f);
    until_caught_up(f);
    hold(f->world, true);
    append(f, 5, 5);
    f->want = 5;
    fake_until(is_flying, f, "all are under way");
}

static void
test_pause(void **state)
{
    struct fix *f = *state;
    struct run  dead;

    get_under_way(f);
    ok(f, order_pause(f->d, true, &f->err));
    assert_int_equal(status(f).in_flight, 5);
    dead = crash(f);
    fake_until(is_paused, f, "it is paused");
    assert_int_equal(fake_arrived(f->world), 0);
    bury(dead);
    ok(f, order_pause(f->d, false, &f->err));
    dead = crash(f);
    append(f, 5, 5);
    until_caught_up(f);
    assert_int_equal(fake_count(&f->log, "s-0"), 6);
    assert_true(fake_arrived(f->world) >= 5);
    bury(dead);
}

/* It waits for nobody, and where it leads to stands before what is under way has come back. */
static void
test_seek(void **state)
{
    struct fix *f = *state;
    struct run  dead;

    get_under_way(f);
    ok(f, order_seek(f->d, all, &f->err));
    assert_int_equal(status(f).in_flight, 5);
    dead = crash(f);
    until_caught_up(f);
    assert_int_equal(fake_arrived(f->world), 25);
    (void)check_order(f, false);
    bury(dead);
    /* And of two the later one. */
    hold(f->world, true);
    append(f, 5, 5);
    f->want = 5;
    fake_until(is_flying, f, "all are under way");
    ok(f, order_seek(f->d, all, &f->err));
    ok(f, order_seek(f->d, f->last, &f->err));
    dead = crash(f);
    until_caught_up(f);
    assert_int_equal(fake_arrived(f->world), 1);
    bury(dead);
}

static void
test_range(void **state)
{
    struct fix *f = *state;
    struct run  dead;

    get_under_way(f);
    ok(f, order_range(f->d, all, all, &f->err));
    assert_int_equal(order_range(f->d, all, all, &f->err), E_STATE);
    dead = crash(f);
    append(f, 5, 5);
    until_caught_up(f);
    assert_int_equal(fake_arrived(f->world), 25 + 5 + 5);
    for (uint32_t i = 0; i < 35; i++)
        assert_int_equal(f->world->arrivals[i].run, i < 25);
    bury(dead);
    /* The end of one, too. */
    hold(f->world, true);
    ok(f, order_range(f->d, all, all, &f->err));
    f->want = 5;
    fake_until(is_flying, f, "it is under way");
    ok(f, order_range(f->d, LOG_POS(2), LOG_POS(1), &f->err));
    dead = crash(f);
    append(f, 5, 5);
    until_caught_up(f);
    assert_int_equal(fake_arrived(f->world), 5);
    bury(dead);
}

/* Four of s-1 are parked, and a pause keeps what is ordered about them from being done. */
static void
get_parked(struct fix *f)
{
    append(f, 8, 2);
    tell(f, refuse_stream, "s-1", 0);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 4);
    ok(f, order_pause(f->d, true, &f->err));
}

static void
go_on(struct fix *f, uint32_t parked, uint32_t arrived_after)
{
    ok(f, order_pause(f->d, false, &f->err));
    f->want = parked;
    fake_until(parked_as_wanted, f, "they came back");
    until_caught_up(f);
    assert_int_equal(count_of(f, "s-1"), arrived_after);
}

static void
test_parked(void **state)
{
    struct fix *f = *state;
    struct run  dead;

    get_parked(f);
    ok(f, order_replay(f->d, slice_str("s-1"), &f->err));
    dead = crash(f);
    go_on(f, 0, 4);
    bury(dead);
}

static void
test_parked_all(void **state)
{
    struct fix *f = *state;
    struct run  dead;

    get_parked(f);
    ok(f, order_replay(f->d, slice_str(""), &f->err));
    dead = crash(f);
    go_on(f, 0, 4);
    bury(dead);
}

static void
test_skipped(void **state)
{
    struct fix *f = *state;
    struct run  dead;

    get_parked(f);
    ok(f, order_skip(f->d, slice_str("s-1"), false, &f->err));
    dead = crash(f);
    go_on(f, 0, 3);
    assert_int_equal(f->world->arrivals[0].version, 1);
    bury(dead);
}

static void
test_dropped(void **state)
{
    struct fix *f = *state;
    struct run  dead;

    get_parked(f);
    ok(f, order_skip(f->d, slice_str(""), true, &f->err));
    dead = crash(f);
    go_on(f, 0, 0);
    bury(dead);
}

/* What a refusal has ended is not begun again by the next run, nor is another one given up. */
static void
test_refused(void **state)
{
    struct fix *f = *state;
    struct run  dead;

    get_parked(f);
    ok(f, order_pause(f->d, false, &f->err));
    ok(f, order_replay(f->d, slice_str("s-1"), &f->err));
    f->want = 6; /* Ordered, Refused */
    fake_until(records_as_wanted, f, "the refusal is durable");
    ok(f, order_skip(f->d, slice_str("s-1"), false, &f->err));
    f->want = 9; /* Ordered, Unparked, Refused */
    fake_until(records_as_wanted, f, "the second refusal is durable");
    dead = crash(f);
    append(f, 2, 2);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 4);
    assert_int_equal(count_of(f, "s-1"), 0);
    bury(dead);
    ok(f, order_replay(f->d, slice_str("s-1"), &f->err));
    f->want = 0;
    fake_until(parked_as_wanted, f, "they came back");
    assert_int_equal(count_of(f, "s-1"), 4);
}

/* A far side that is down for long holds no order back. */
static void
test_down(void **state)
{
    struct fix *f = *state;
    struct run  dead;

    f->transactional = true;
    f->conf.retry_min_ms = f->conf.retry_max_ms = 3600000;
    append(f, 10, 2);
    tell(f, refuse_stream, "s-1", 0);
    start(f);
    until_caught_up(f);
    f->world->down = true;
    append(f, 10, 1);
    while (status(f).state != DELIVER_RETRYING)
        ;
    ok(f, order_pause(f->d, true, &f->err));
    ok(f, order_skip(f->d, slice_str(""), true, &f->err));
    dead = crash(f);
    fake_until(is_paused, f, "it is paused");
    go_on(f, 0, 0);
    bury(dead);
}

/* a driver that blocks */

static atomic_uint answered, refused;

static void
on_answer(struct deliver_call *c)
{
    atomic_fetch_add(&refused, c->rc != 0);
    free(c);
    atomic_fetch_add(&answered, 1);
}

static void
submit(struct fix *f, enum deliver_command command)
{
    struct deliver_call *c = calloc(1, sizeof *c);

    assert_non_null(c);
    *c = (struct deliver_call){.command = command, .done = on_answer};
    deliver_submit(f->d, c);
}

static bool
is_polling(void *arg)
{
    struct fix *f = arg;
    bool        polling;

    (void)pthread_mutex_lock(&f->world->lock);
    polling = f->world->polling;
    (void)pthread_mutex_unlock(&f->world->lock);
    return polling;
}

static bool
all_answered(void *arg)
{
    return atomic_load(&answered) == ((struct fix *)arg)->want;
}

/* Whoever gives an order goes on, however long the far side takes; there is a limit to how many. */
static void
test_stuck(void **state)
{
    struct fix *f = *state;

    atomic_store(&answered, 0);
    atomic_store(&refused, 0);
    start(f);
    until_caught_up(f);
    (void)pthread_mutex_lock(&f->world->stuck);
    append(f, 1, 1);
    fake_until(is_polling, f, "the driver is stuck");
    for (unsigned i = 0; i < 256; i++)
        submit(f, i % 2 == 0 ? DELIVER_PAUSE : DELIVER_RESUME);
    assert_int_equal(atomic_load(&answered), 0);
    assert_int_equal(status(f).parked, 0);
    submit(f, DELIVER_PAUSE);
    assert_int_equal(atomic_load(&refused), 1);
    (void)pthread_mutex_unlock(&f->world->stuck);
    f->want = 257;
    fake_until(all_answered, f, "all are answered");
    assert_int_equal(atomic_load(&refused), 1);
    /* One that is being stopped leaves none without an answer. */
    submit(f, DELIVER_PAUSE);
    stop(f);
    assert_int_equal(atomic_load(&answered), 258);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_pause),      TEST(test_seek),    TEST(test_range),   TEST(test_parked),
        TEST(test_parked_all), TEST(test_skipped), TEST(test_dropped), TEST(test_refused),
        TEST(test_down),       TEST(test_stuck),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
