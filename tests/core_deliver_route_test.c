/* Delivery of what is left out, put off, given once more, or let past what is parked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "deliver_fix.h"
#include "env/env_real.h"
#include "transform/transform.h"

static struct transform *
rules(const char *json)
{
    const struct transform_opts opts = {.name = "t"};
    struct transform           *t;
    struct err                  err;

    fake_ok(transform_from_json(slice_str(json), &opts, &t, &err), &err);
    return t;
}

static void
command(struct fix *f, int rc)
{
    fake_ok(rc, &f->err);
}

static bool
in_range(void *arg)
{
    return status(arg).replay_to.v > 0;
}

static bool
no_range(void *arg)
{
    return status(arg).replay_to.v == 0 && caught_up(arg);
}

static void
append_data(struct fix *f, const char *stream, const char *format, unsigned long long n)
{
    char data[128];

    (void)snprintf(data, sizeof data, format, n);
    f->last = fake_append(&f->log, stream, data);
}

/* What a filter leaves out passes, what a transform fails at is parked, in its place. */
static void
shaped(struct fix *f, bool transactional)
{
    f->transactional = transactional;
    for (unsigned n = 0; n < 300; n++)
        append_data(f, n % 3 == 0 ? "s-1" : "s-2", "{\"n\":%llu}", n);
    f->conf.filter = rules("[{\"when\":{\"data.n\":{\"lt\":100}},\"drop\":true}]");
    f->conf.transform = rules("[{\"when\":{\"data.n\":200},\"set\":{\"data.n.x\":1}},"
                              "{\"set\":{\"data.of\":\"{stream}\"},\"route\":\"to-{key}\"}]");
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).filtered, 100);
    assert_int_equal(status(f).parked, 67); /* 200 and what follows it in s-2 */
    assert_int_equal(status(f).parked_streams, 1);
    assert_int_equal(count_of(f, "to-1"), 66);
    assert_int_equal(count_of(f, "to-2"), 67);
    assert_int_equal(f->world->count, 133);
    stop(f);
    assert_false(f->world->overlapped && !transactional);
    /* Without what was at fault the replay gives them in order. */
    f->conf.filter = NULL;
    f->conf.transform = rules("[{\"route\":\"to-{key}\"}]");
    start(f);
    until_caught_up(f);
    command(f, order_replay(f->d, slice_str("s-2"), &f->err));
    f->want = 0;
    fake_until(parked_as_wanted, f, "all were replayed");
    assert_int_equal(f->world->count, 200);
    stop(f);
}

static void
test_shaped(void **state)
{
    shaped(*state, false);
}

static void
test_shaped_in_transactions(void **state)
{
    shaped(*state, true);
}

/* parked: pass. The others of the stream go on, a restart knows which are parked, a replay ends. */
static void
test_pass(void **state)
{
    struct fix *f = *state;

    append(f, 60, 3);
    f->conf.parked_pass = true;
    tell(f, refuse_first, "s-1", 7);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 1);
    assert_int_equal(f->world->count, 59);
    stop(f);
    start(f);
    append(f, 30, 3);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 1);
    assert_int_equal(f->world->count, 89);
    command(f, order_replay(f->d, slice_str(""), &f->err)); /* it is refused again */
    append(f, 30, 3);
    until_caught_up(f);
    assert_int_equal(f->world->count, 119);
    /* What is parked is not given by a seek, what passed it is. */
    command(f, order_seek(f->d, LOG_POS(0), &f->err));
    f->want = 238;
    fake_until(arrived, f, "all came again");
    until_caught_up(f);
    assert_int_equal(f->world->count, 238);
    tell(f, NULL, "", 0);
    command(f, order_replay(f->d, slice_str("s-1"), &f->err));
    f->want = 0;
    fake_until(parked_as_wanted, f, "it was replayed");
    assert_int_equal(f->world->count, 239);
    stop(f);
}

/* In a transaction with those before it in its stream: they are not parked with it. */
static void
test_refused_in_the_middle(void **state)
{
    struct fix *f = *state;

    f->transactional = true;
    append(f, 20, 2);
    tell(f, refuse_first, "s-1", 4);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 6);
    assert_int_equal(count_of(f, "s-1"), 4);
    assert_int_equal(f->world->count, 14);
    tell(f, NULL, "", 0);
    command(f, order_replay(f->d, slice_str("s-1"), &f->err));
    f->want = 0;
    fake_until(parked_as_wanted, f, "all were replayed");
    stop(f);
    assert_int_equal(f->world->count, 20);
    (void)check_order(f, false);
}

/* A budget of attempts ends in parking, with the reason. */
static void
test_budget(void **state)
{
    struct fix *f = *state;

    append(f, 30, 3);
    f->conf.attempts_max = 3;
    tell(f, retry_stream, "s-1", UINT32_MAX);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 10);
    assert_int_equal(status(f).retries, 2);
    assert_non_null(strstr(status(f).error, "given up: "));
    assert_int_equal(f->world->count, 20);
    stop(f);
}

static void
test_time_budget(void **state)
{
    struct fix *f = *state;

    append(f, 30, 3);
    f->conf.retry_for_us = 20000;
    tell(f, retry_stream, "s-1", UINT32_MAX);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 10);
    stop(f);
}

/* A range is given once more, with its number, and then the rest in its order. */
static void
ranged(struct fix *f, bool transactional)
{
    struct log_pos from, to;
    uint32_t       at;

    f->transactional = transactional;
    append(f, 100, 5);
    from = f->last;
    append(f, 100, 5);
    to = f->last;
    append(f, 100, 5);
    start(f);
    until_caught_up(f);
    command(f, order_range(f->d, from, to, &f->err));
    append(f, 50, 5);
    fake_until(no_range, f, "the range ended");
    until_caught_up(f);
    stop(f);
    assert_int_equal(f->world->count, 450);
    for (at = 300; at < 400; at++) {
        assert_true(f->world->arrivals[at].pos.v >= from.v);
        assert_true(f->world->arrivals[at].pos.v < to.v);
        assert_int_equal(f->world->arrivals[at].run, 1);
    }
    for (; at < 450; at++) {
        assert_true(f->world->arrivals[at].pos.v > to.v);
        assert_int_equal(f->world->arrivals[at].run, 0);
    }
}

static void
test_range(void **state)
{
    ranged(*state, false);
}

static void
test_range_in_transactions(void **state)
{
    ranged(*state, true);
}

/* It stands in the checkpoint, and ends when told to. */
static void
test_range_goes_on(void **state)
{
    struct fix *f = *state;

    append(f, 300, 5);
    start(f);
    until_caught_up(f);
    tell(f, retry_stream, "s-1", UINT32_MAX);
    command(f, order_range(f->d, LOG_POS(0), LOG_POS(0), &f->err));
    f->want = 301;
    fake_until(arrived, f, "the range began");
    assert_int_equal(order_range(f->d, LOG_POS(0), LOG_POS(0), &f->err), E_STATE);
    stop(f);
    start(f);
    fake_until(in_range, f, "it goes on");
    tell(f, NULL, "", 0);
    fake_until(no_range, f, "it ends");
    assert_true(f->world->count >= 600);
    assert_int_equal(order_range(f->d, LOG_POS(2), LOG_POS(1), &f->err), E_STATE);
    append(f, 5, 5);
    until_caught_up(f);
    stop(f);
}

static bool
range_moved(void *arg)
{
    struct fix *f = arg;

    return status(f).replay_at.v > f->last.v;
}

/* How far one from the log's beginning got is in the checkpoint as well. */
static void
test_range_from_the_beginning(void **state)
{
    struct fix    *f = *state;
    struct log_pos middle;

    f->conf.checkpoint_items = 10;
    append(f, 200, 5);
    middle = f->last;
    append_data(f, "z-1", "{\"n\":%llu}", 1);
    start(f);
    until_caught_up(f);
    tell(f, retry_stream, "z-1", UINT32_MAX);
    command(f, order_range(f->d, LOG_POS(0), LOG_POS(0), &f->err));
    f->last = middle;
    fake_until(range_moved, f, "the range's checkpoint moved");
    tell(f, NULL, "", 0);
    stop(f);
}

/* The delivery stepped by hand, under a clock that jumps after the first look at it. */
static struct {
    int64_t          first_us, us;
    bool             asked;
    uint64_t         records; /* so many are in the log before the time is told */
    struct fake_log *log;
} clock_of;

static int64_t
wall_us(struct ox_env *env)
{
    (void)env;
    while (clock_of.asked && clock_of.records > 0 &&
           fake_count(clock_of.log, "$later-sink-far") < clock_of.records)
        ;
    if (clock_of.asked)
        return clock_of.us;
    clock_of.asked = true;
    return clock_of.first_us;
}

static void
start_by_hand(struct fix *f, int64_t us)
{
    struct sink   *sink = fake_sink(f->world, f->transactional);
    struct ox_env *env = fake_hand_env();

    clock_of.first_us = clock_of.us = us;
    clock_of.records = 0;
    clock_of.log = &f->log;
    fake_hand.ops.wall_us = wall_us;
    f->conf.deliver_at = "data.at";
    f->conf.checkpoint_ms = 3600000; /* nothing is in the way of the records' commits */
    fake_ok(deliver_new(env, f->log.log, &f->conf, &sink, &f->d, &f->err), &f->err);
    fake_ok(deliver_start(f->d, &f->err), &f->err);
}

/* From the next step on it is `first_us` once, and then `us`. */
static void
set_clock(int64_t first_us, int64_t us)
{
    clock_of.first_us = first_us;
    clock_of.us = us;
    clock_of.asked = false;
}

static bool
step_scheduled(void *arg)
{
    struct fix *f = arg;

    fake_hand_step();
    return status(f).scheduled == f->want;
}

static bool
step_arrived(void *arg)
{
    fake_hand_step();
    if (is_failed(arg))
        fail_msg("%s", status(arg).error);
    return arrived(arg);
}

#define HAND_US INT64_C(10000000000)

/* One whose record is still on its way when its time comes goes before what is due after it. */
static void
test_due_while_recorded(void **state)
{
    struct fix *f = *state;

    f->world->credit = 1;
    append_data(f, "s-0", "{\"at\":%llu}", HAND_US / 1000 + 1000);
    start_by_hand(f, HAND_US);
    f->want = 1;
    fake_until(step_scheduled, f, "the first is recorded");
    append_data(f, "s-1", "{\"at\":%llu}", HAND_US / 1000 + 500);
    set_clock(HAND_US, HAND_US + 2000000);
    f->want = 2;
    fake_until(step_arrived, f, "both came");
    assert_string_equal(f->world->arrivals[0].stream, "s-1");
    assert_string_equal(f->world->arrivals[1].stream, "s-0");
    stop(f);
}

static int64_t
last_due(struct fix *f)
{
    struct log_read read = {
        .stream = slice_str("$later-sink-far"), .from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    struct slice     raw;
    int64_t          us = 0;

    fake_ok(log_iter_open(f->log.log, &read, &it, &f->err), &f->err);
    fake_ok(log_iter_next(it, &ev, &f->err), &f->err);
    assert_true(json_get(ev.data, "due", &raw) && json_int64(raw, &us));
    log_iter_close(it);
    return us;
}

static bool
step_tried(void *arg)
{
    fake_hand_step();
    return status(arg).in_flight == 1;
}

/* Where the clock goes back, nothing gets in before what was given already: the checkpoint says
 * how far that was. */
static void
test_clock_goes_back(void **state)
{
    struct fix *f = *state;

    append_data(f, "s-0", "{\"at\":%llu}", HAND_US / 1000 + 1000);
    start_by_hand(f, HAND_US);
    f->want = 1;
    fake_until(step_scheduled, f, "the first is recorded");
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->paused = true;
    (void)pthread_mutex_unlock(&f->world->lock);
    set_clock(HAND_US + 2000000, HAND_US + 2000000);
    fake_until(step_tried, f, "it was given");
    append_data(f, "s-1", "{\"at\":%llu}", HAND_US / 1000 + 500);
    set_clock(HAND_US, HAND_US);
    fake_until(step_scheduled, f, "the second is recorded");
    assert_true(last_due(f) > HAND_US + 1000000);
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->paused = false;
    (void)pthread_mutex_unlock(&f->world->lock);
    set_clock(HAND_US + 2000000, HAND_US + 2000000);
    f->want = 2;
    fake_until(step_arrived, f, "both came");
    stop(f);
}

/* Those that have no place in memory are not read while a commit brings more of them. */
static void
test_read_again_while_recorded(void **state)
{
    struct fix *f = *state;

    f->conf.later_max = 2;
    for (unsigned n = 1; n <= 2; n++)
        append_data(f, "s-0", "{\"at\":%llu}", HAND_US / 1000 + n * 1000);
    start_by_hand(f, HAND_US);
    f->want = 2;
    fake_until(step_scheduled, f, "two are recorded");
    set_clock(HAND_US + 1000000, HAND_US + 1000000);
    f->want = 1;
    fake_until(step_arrived, f, "the first came");
    append_data(f, "s-1", "{\"at\":%llu}", HAND_US / 1000 + 3000);
    fake_hand_step();     /* its record is on its way … */
    clock_of.records = 3; /* … and in the log before the time is known */
    set_clock(HAND_US + 2000000, HAND_US + 2000000);
    clock_of.asked = true;
    f->want = 2;
    fake_until(step_arrived, f, "the second came");
    append_data(f, "s-2", "{\"at\":%llu}", HAND_US / 1000 + 2500);
    set_clock(HAND_US + 2000000, HAND_US + 4000000);
    f->want = 4;
    fake_until(step_arrived, f, "all came");
    assert_int_equal(f->world->count, 4);
    stop(f);
}

static unsigned long long
now_ms(void)
{
    return (unsigned long long)(env_real()->ops->wall_us(env_real()) / 1000);
}

/* A time that is not over when what is appended now was read, also where all is slow: it begins and
 * stops once, and adds many times what that took. */
static unsigned long long
later_ms(struct fix *f, unsigned least_ms)
{
    unsigned long long before = now_ms(), took;

    start(f);
    until_caught_up(f);
    stop(f);
    took = now_ms() - before;
    return now_ms() + least_ms + took * 20;
}

static bool
one_later(void *arg)
{
    return status(arg).scheduled == 1;
}

static bool
nothing_later(void *arg)
{
    return status(arg).scheduled == 0 && status(arg).window_items == 0;
}

/* More than fit in memory, appended in another order than they are due; with a restart. */
static void
scheduled(struct fix *f, bool transactional)
{
    unsigned long long start_ms;

    f->transactional = transactional;
    f->conf.later_max = 8;
    f->conf.deliver_at = "data.at";
    append_data(f, "s-0", "{\"n\":%llu}", 1);
    start_ms = later_ms(f, 1000);
    for (unsigned n = 0; n < 60; n++)
        append_data(f, "s-1", "{\"at\":%llu}", start_ms + (n * 37) % 60);
    append_data(f, "s-1", "{\"at\":%llu}", 0);
    append_data(f, "s-1", "{\"at\":%llu}", now_ms() + 3600000);
    append_data(f, "s-2", "{\"at\":\"yesterday %llu\"}", 1);
    start(f);
    until_caught_up(f);
    assert_int_equal(f->world->arrivals[1].version, 60); /* it waits for none of them */
    assert_int_equal(status(f).parked, 1);
    stop(f);
    start(f);
    f->want = 62;
    fake_until(arrived, f, "all that is due came");
    fake_until(one_later, f, "one was left"); /* shown when the step is over in which they came */
    stop(f);
    assert_int_equal(f->world->count, 62);
    for (unsigned n = 0; n < 60; n++) /* in the order of their times */
        assert_int_equal(f->world->arrivals[n + 2].version * 37 % 60, n);
    start(f);
    append(f, 1, 1);
    until_caught_up(f);
    assert_int_equal(f->world->count, 63); /* none twice */
    assert_false(nothing_later(f));
    stop(f);
}

static void
test_scheduled(void **state)
{
    scheduled(*state, false);
}

static void
test_scheduled_in_transactions(void **state)
{
    scheduled(*state, true);
}

/* One that is refused when its time has come holds its stream like any other. */
static void
test_scheduled_and_refused(void **state)
{
    struct fix *f = *state;

    f->conf.deliver_at = "data.at";
    append_data(f, "s-0", "{\"n\":%llu}", 1);
    append_data(f, "s-1", "{\"at\":%llu}", later_ms(f, 50));
    append_data(f, "s-1", "{\"n\":%llu}", 1);
    tell(f, refuse_first, "s-1", 0);
    start(f);
    f->want = 1;
    fake_until(parked_as_wanted, f, "it was refused");
    append_data(f, "s-1", "{\"n\":%llu}", 2);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 2);
    tell(f, NULL, "", 0);
    command(f, order_replay(f->d, slice_str(""), &f->err));
    f->want = 0;
    fake_until(parked_as_wanted, f, "both were replayed");
    assert_int_equal(f->world->count, 4);
    stop(f);
}

/* A delay keeps the order, and what is not old enough stays in the log. */
static void
test_delay(void **state)
{
    struct fix *f = *state;

    int64_t before = env_real()->ops->wall_us(env_real());

    f->conf.delay_us = 200000;
    append(f, 300, 3);
    start(f);
    until_caught_up(f);
    assert_true(env_real()->ops->wall_us(env_real()) >= before + 200000);
    stop(f);
    assert_int_equal(f->world->count, 300);
    (void)check_order(f, false);
}

static void
test_from_a_time(void **state)
{
    struct fix *f = *state;
    int64_t     now;

    append(f, 10, 2);
    for (now = env_real()->ops->wall_us(env_real()) + 2000;
         env_real()->ops->wall_us(env_real()) < now;)
        ;
    f->conf.from = DELIVER_TIME;
    f->conf.time_us = now - 1000;
    append(f, 10, 2);
    start(f);
    until_caught_up(f);
    assert_int_equal(f->world->count, 10);
    assert_int_equal(f->world->arrivals[0].version, 5);
    stop(f);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_shaped),
        TEST(test_shaped_in_transactions),
        TEST(test_pass),
        TEST(test_refused_in_the_middle),
        TEST(test_budget),
        TEST(test_time_budget),
        TEST(test_range),
        TEST(test_range_in_transactions),
        TEST(test_range_goes_on),
        TEST(test_range_from_the_beginning),
        TEST(test_due_while_recorded),
        TEST(test_clock_goes_back),
        TEST(test_read_again_while_recorded),
        TEST(test_scheduled),
        TEST(test_scheduled_in_transactions),
        TEST(test_scheduled_and_refused),
        TEST(test_delay),
        TEST(test_from_a_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
