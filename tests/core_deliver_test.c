/* Delivery over the real log, to a far side in memory that fails when told to. */
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
#include "tests/moves_fake.h"

/* tests */

static void
test_order(void **state)
{
    struct fix *f = *state;

    append(f, 500, 20);
    start(f);
    append(f, 500, 20);
    f->want = 1000;
    fake_until(arrived, f, "all arrived");
    until_caught_up(f);
    assert_int_equal(fake_arrived(f->world), 1000);
    assert_int_equal(status(f).delivered, 1000);
    assert_int_equal(status(f).lag_positions, 0);
    assert_int_equal(status(f).behind_estimate, 0);
    stop(f);
    (void)check_order(f, false);
    assert_false(f->world->overlapped);
    assert_true(f->world->peak > 1);
}

static void
test_parallel(void **state)
{
    struct fix *f = *state;

    append(f, 100, 50);
    f->world->paused = true;
    f->world->credit = 32;
    start(f);
    while (status(f).in_flight < 32)
        ;
    assert_false(status(f).caught_up);
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->paused = false;
    (void)pthread_mutex_unlock(&f->world->lock);
    until_caught_up(f);
    stop(f);
    assert_int_equal(f->world->count, 100);
    assert_int_equal(f->world->peak, 32);
    assert_false(f->world->overlapped);
}

static bool
flying_as_wanted(void *arg)
{
    struct fix *f = arg;

    return status(f).in_flight >= f->want;
}

/* As deep as the far side takes, and no further ahead than what may go next. */
static void
test_deep(void **state)
{
    enum { CREDIT = 1100, MORE = 2300, AHEAD_MAX = 1001 };
    struct fix *f = *state;

    f->world->credit = CREDIT;
    append(f, CREDIT, CREDIT);
    start(f);
    until_caught_up(f); /* a far side that proves itself is given more and more */
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->paused = true;
    (void)pthread_mutex_unlock(&f->world->lock);
    append(f, MORE, MORE);
    f->want = CREDIT;
    fake_until(flying_as_wanted, f, "as many are in flight as may be");
    for (int i = 0; i < 200; i++)
        assert_true(status(f).window_items <= CREDIT + AHEAD_MAX);
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->paused = false;
    (void)pthread_mutex_unlock(&f->world->lock);
    until_caught_up(f);
    stop(f);
    assert_int_equal(f->world->count, CREDIT + MORE);
    assert_false(f->world->overlapped);
}

/* Events of any size, so that the memory of one is another's later. */
static void
test_sizes(void **state)
{
    struct fix *f = *state;
    char        data[6000];

    f->conf.window_bytes = 20000;
    for (int i = 0; i < 600; i++) {
        size_t len = 2 + (size_t)(i * 397) % (sizeof data - 2);

        memset(data, ' ', len);
        memcpy(data, "{}", 2);
        data[len] = '\0';
        f->last = fake_append(&f->log, i % 3 == 0 ? "s-1" : i % 3 == 1 ? "s-22" : "other", data);
    }
    start(f);
    while (!caught_up(f))
        assert_true(status(f).window_bytes <= 20000);
    stop(f);
    assert_int_equal(f->world->count, 600);
    (void)check_order(f, false);
}

static void
test_bounded(void **state)
{
    struct fix           *f = *state;
    struct deliver_status s;
    char                  data[2000];

    memset(data, ' ', sizeof data);
    memcpy(data, "{}", 2);
    data[sizeof data - 1] = '\0';
    for (int i = 0; i < 300; i++)
        f->last = fake_append(&f->log, i % 2 == 0 ? "s-1" : "s-2", data);
    f->conf.window_items = 50;
    f->conf.window_bytes = 40000;
    f->world->paused = true;
    start(f);
    while (status(f).in_flight < 2)
        ;
    for (int i = 0; i < 200; i++) {
        s = status(f);
        assert_true(s.window_items <= 50);
        assert_true(s.window_bytes <= 40000);
    }
    assert_true(s.behind_estimate > 100);
    assert_true(s.lag_positions > 300 * 2000);
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->paused = false;
    (void)pthread_mutex_unlock(&f->world->lock);
    until_caught_up(f);
    stop(f);
    assert_int_equal(f->world->count, 300);
    (void)check_order(f, false);
}

static void
test_retry_holds_its_stream(void **state)
{
    struct fix *f = *state;

    append(f, 100, 10);
    tell(f, retry_stream, "s-3", UINT32_MAX);
    start(f);
    f->want = 90;
    fake_until(arrived, f, "the others arrived");
    fake_until(is_retrying, f, "it was retried");
    assert_int_equal(count_of(f, "s-3"), 0);
    assert_int_equal(status(f).state, DELIVER_RETRYING);
    assert_int_equal(status(f).parked, 0);
    assert_true(status(f).checkpoint.v < log_end(f->log.log).v);
    assert_string_equal(status(f).error, "the far side says retry");
    tell(f, NULL, "", 0);
    until_caught_up(f);
    stop(f);
    assert_int_equal(f->world->count, 100);
    (void)check_order(f, false);
}

static void
test_any_failure(void **state)
{
    struct fix *f = *state;

    append(f, 1000, 30);
    tell(f, anything, "", 0);
    start(f);
    until_caught_up(f);
    assert_true(status(f).retries > 50);
    stop(f);
    /* UNSURE is sent again: twice, but never out of order. */
    assert_true(check_order(f, true) > 0);
    assert_int_equal(f->world->count, 1000 + check_order(f, true));
}

static void
test_far_side_down(void **state)
{
    struct fix *f = *state;

    append(f, 50, 10);
    f->world->down = true;
    start(f);
    while (status(f).state != DELIVER_RETRYING)
        ;
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->down = false;
    (void)pthread_mutex_unlock(&f->world->lock);
    until_caught_up(f);
    assert_int_equal(status(f).state, DELIVER_RUNNING);
    stop(f);
    (void)check_order(f, false);
    assert_int_equal(f->world->count, 50);
}

/* One asks after a far side that is out of reach; the others are not tried, nor many more read. */
static void
test_out_of_reach(void **state)
{
    struct fix *f = *state;
    uint32_t    peak;

    append(f, 1000, 50);
    f->world->away = true;
    start(f);
    f->want = f->world->credit;
    fake_until(tried_as_wanted, f, "those with the driver were tried");
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->peak = 0;
    (void)pthread_mutex_unlock(&f->world->lock);
    f->want += 30;
    fake_until(tried_as_wanted, f, "it is asked after");
    (void)pthread_mutex_lock(&f->world->lock);
    peak = f->world->peak;
    (void)pthread_mutex_unlock(&f->world->lock);
    assert_int_equal(peak, 1);
    assert_int_equal(status(f).state, DELIVER_RETRYING);
    assert_true(status(f).window_items < 200);
    assert_string_equal(status(f).error, "the far side says retry");
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->away = false;
    (void)pthread_mutex_unlock(&f->world->lock);
    until_caught_up(f);
    assert_int_equal(status(f).state, DELIVER_RUNNING);
    stop(f);
    (void)check_order(f, false);
    assert_int_equal(f->world->count, 1000);
    assert_true(f->world->peak > 1);
}

static void
test_fatal(void **state)
{
    struct fix *f = *state;

    append(f, 10, 10);
    tell(f, fatal, "", 0);
    start(f);
    fake_until(is_failed, f, "it failed");
    assert_string_equal(status(f).error, "the far side says fatal");
    assert_int_equal(order_replay(f->d, slice_str(""), &f->err), E_STATE);
    deliver_stop(f->d);
    assert_int_equal(status(f).state, DELIVER_STOPPED);
    assert_int_equal(order_replay(f->d, slice_str(""), &f->err), E_STATE);
    stop(f);
    tell(f, NULL, "", 0);
    start(f);
    until_caught_up(f);
    stop(f);
    assert_int_equal(f->world->count, 10);
}

static void
check_parked(struct fix *f, uint32_t at, const char *stream, const char *reason)
{
    struct log_read  read = {.stream = slice_str("$parked-sink-far"), .from = at};
    struct log_iter *it;
    struct log_event e;
    struct slice     raw;
    char             should[80];

    fake_ok(log_iter_open(f->log.log, &read, &it, &f->err), &f->err);
    fake_ok(log_iter_next(it, &e, &f->err), &f->err);
    assert_true(slice_is(e.type, "Parked"));
    assert_true(json_get(e.data, "stream", &raw));
    (void)snprintf(should, sizeof should, "\"%s\"", stream);
    assert_true(slice_is(raw, should));
    assert_true(json_get(e.data, "reason", &raw));
    (void)snprintf(should, sizeof should, "\"%s", reason);
    assert_true(slice_starts(raw, slice_str(should)));
    assert_true(json_get(e.data, "attempts", &raw));
    assert_true(slice_is(raw, reason[0] == 'b' ? "0" : "1"));
    log_iter_close(it);
}

static void
test_parking(void **state)
{
    struct fix *f = *state;

    append(f, 100, 10);
    tell(f, refuse_stream, "s-3", 0);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 10);
    assert_int_equal(status(f).parked_streams, 1);
    assert_int_equal(count_of(f, "s-3"), 0);
    f->want = 1; /* only the first was tried */
    assert_int_equal(f->world->tries, 91);
    assert_int_equal(fake_count(&f->log, "$parked-sink-far"), 10);
    check_parked(f, 0, "s-3", "the far side says data");
    check_parked(f, 1, "s-3", "behind position");
    /* Known again after a start, without another try. */
    stop(f);
    fake_log_reopen(&f->log);
    append(f, 10, 10);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 11);
    assert_int_equal(f->world->tries, 100);
    assert_int_equal(order_replay(f->d, slice_str("s-4"), &f->err), E_NOTFOUND);
    /* And back, in order, with what comes meanwhile. */
    tell(f, NULL, "", 0);
    fake_ok(order_replay(f->d, slice_str("s-3"), &f->err), &f->err);
    append(f, 10, 10);
    f->want = 0;
    fake_until(parked_as_wanted, f, "nothing is parked");
    until_caught_up(f);
    append(f, 10, 10);
    f->want = 130;
    fake_until(arrived, f, "the rest arrived");
    assert_int_equal(count_of(f, "s-3"), 13);
    assert_int_equal(order_replay(f->d, slice_str(""), &f->err), E_NOTFOUND);
    stop(f);
    (void)check_order(f, false);
    assert_int_equal(f->world->count, 130);
}

static void
test_replay_refused_again(void **state)
{
    struct fix *f = *state;

    append(f, 60, 10);
    tell(f, refuse_first, "s-3", 0);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 6);
    fake_ok(order_replay(f->d, slice_str(""), &f->err), &f->err);
    f->want = 56;
    fake_until(tried_as_wanted, f, "it was tried again");
    f->want = 6;
    fake_until(parked_as_wanted, f, "it stayed parked");
    /* The first goes through now, the third does not. */
    tell(f, refuse_first, "s-3", 2);
    fake_ok(order_replay(f->d, slice_str("s-3"), &f->err), &f->err);
    f->want = 4;
    fake_until(parked_as_wanted, f, "four were left");
    stop(f);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 4);
    /* Given up, that one; the rest goes. */
    fake_ok(order_skip(f->d, slice_str("s-3"), false, &f->err), &f->err);
    f->want = 0;
    fake_until(parked_as_wanted, f, "the rest went");
    stop(f);
    assert_int_equal(count_of(f, "s-3"), 5);
    assert_int_equal(f->world->count, 59);
}

static void
test_skip_all(void **state)
{
    struct fix *f = *state;

    append(f, 60, 10);
    tell(f, refuse_stream, "s-3", 0);
    start(f);
    until_caught_up(f);
    fake_ok(order_skip(f->d, slice_str(""), true, &f->err), &f->err);
    f->want = 0;
    fake_until(parked_as_wanted, f, "all was given up");
    tell(f, NULL, "", 0);
    append(f, 10, 10);
    f->want = 64;
    fake_until(arrived, f, "the rest arrived");
    stop(f);
    assert_int_equal(count_of(f, "s-3"), 1);
    assert_int_equal(fake_count(&f->log, "$parked-sink-far"), 13); /* the order too */
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 0);
}

static void
test_too_many_parked(void **state)
{
    struct fix *f = *state;

    append(f, 30, 3);
    f->conf.parked_streams_max = 2;
    tell(f, refuse_first, "s-0", 0);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 10);
    tell(f, refuse_stream, "s-1", 0);
    append(f, 3, 3);
    until_caught_up(f);
    tell(f, refuse_stream, "s-2", 0);
    append(f, 3, 3);
    fake_until(is_failed, f, "it failed");
    stop(f);
    /* It is not lost: the next run tries it. */
    f->conf.parked_streams_max = 3;
    tell(f, NULL, "", 0);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 14);
    assert_int_equal(count_of(f, "s-2"), 12);
}

static void
test_restart(void **state)
{
    struct fix *f = *state;

    append(f, 100, 10);
    start(f);
    until_caught_up(f);
    deliver_stop(f->d);
    assert_int_equal(status(f).state, DELIVER_STOPPED);
    append(f, 100, 10);
    fake_ok(deliver_start(f->d, &f->err), &f->err);
    until_caught_up(f);
    stop(f);
    fake_log_reopen(&f->log);
    append(f, 100, 10);
    start(f);
    until_caught_up(f);
    stop(f);
    /* Stopped cleanly: each arrived once. */
    (void)check_order(f, false);
    assert_int_equal(f->world->count, 300);
}

static bool
is_paused(void *arg)
{
    return status(arg).state == DELIVER_PAUSED && status(arg).in_flight == 0;
}

/* Nothing goes out, in the next run neither, until it is told to go on. */
static void
test_pause(void **state)
{
    struct fix *f = *state;

    append(f, 100, 10);
    start(f);
    until_caught_up(f);
    fake_ok(order_pause(f->d, true, &f->err), &f->err);
    fake_until(is_paused, f, "it paused");
    append(f, 100, 10);
    stop(f);
    fake_log_reopen(&f->log);
    append(f, 100, 10);
    start(f);
    fake_until(is_paused, f, "it is paused still");
    assert_false(status(f).caught_up);
    assert_int_equal(f->world->count, 100);
    fake_ok(order_pause(f->d, false, &f->err), &f->err);
    until_caught_up(f);
    assert_int_equal(status(f).state, DELIVER_RUNNING);
    (void)check_order(f, false);
    assert_int_equal(f->world->count, 300);
}

/* Back delivers again, in order; what is parked stays so; forward leaves out. */
static void
test_seek(void **state)
{
    struct fix    *f = *state;
    struct log_pos middle;

    append(f, 50, 10);
    middle = f->last;
    append(f, 50, 10);
    start(f);
    until_caught_up(f);
    fake_ok(order_seek(f->d, middle, &f->err), &f->err);
    f->want = 151; /* the middle one too */
    fake_until(arrived, f, "the second half came again");
    until_caught_up(f);
    assert_int_equal(f->world->count, 151);
    assert_true(check_order(f, true) > 0);
    fake_ok(order_pause(f->d, true, &f->err), &f->err);
    fake_until(is_paused, f, "it paused");
    append(f, 50, 10);
    fake_ok(order_seek(f->d, log_end(f->log.log), &f->err), &f->err);
    append(f, 10, 10);
    fake_ok(order_pause(f->d, false, &f->err), &f->err);
    until_caught_up(f);
    assert_int_equal(f->world->count, 161);
    assert_int_equal(order_seek(f->d, LOG_POS(log_end(f->log.log).v + 1000000), &f->err),
                     E_INVALID);
}

static void
test_seek_transaction(void **state)
{
    struct fix *f = *state;

    f->transactional = true;
    append(f, 10, 10);
    start(f);
    until_caught_up(f);
    assert_int_equal(order_seek(f->d, LOG_POS(0), &f->err), E_STATE);
    fake_ok(order_pause(f->d, true, &f->err), &f->err);
    fake_until(is_paused, f, "it paused");
    append(f, 10, 10);
    fake_ok(order_pause(f->d, false, &f->err), &f->err);
    until_caught_up(f);
    assert_int_equal(f->world->count, 20);
}

/* A run that is cut off: what it delivered since its checkpoint comes again, with the same ids. */
static void
test_crash(void **state)
{
    struct fix     *f = *state;
    struct deliver *first;
    uint32_t        n;

    append(f, 200, 10);
    f->conf.checkpoint_ms = 3600000;
    tell(f, retry_stream, "s-9", UINT32_MAX);
    start(f);
    f->want = 180;
    fake_until(arrived, f, "the others arrived");
    first = f->d;
    n = f->world->count;
    start(f); /* takes the checkpoint over */
    fake_until(arrived, f, "all");
    tell(f, NULL, "", 0);
    until_caught_up(f);
    assert_true(f->world->count > n);
    deliver_free(first);
    stop(f);
    for (uint32_t i = 0; i < f->world->count; i++)
        for (uint32_t k = 0; k < i; k++)
            assert_int_equal(id_eq(&f->world->arrivals[i].id, &f->world->arrivals[k].id),
                             f->world->arrivals[i].pos.v == f->world->arrivals[k].pos.v);
}

static void
test_fenced(void **state)
{
    struct fix     *f = *state;
    struct deliver *first;

    append(f, 10, 10);
    start(f);
    until_caught_up(f);
    first = f->d;
    start(f);
    until_caught_up(f);
    append(f, 10, 10);
    until_caught_up(f);
    stop(f);
    f->d = first;
    f->conf.checkpoint_ms = 1;
    fake_until(is_failed, f, "the older one was fenced");
    assert_non_null(strstr(status(f).error, "something else delivers"));
}

static void
test_from(void **state)
{
    struct fix *f = *state;

    append(f, 10, 10);
    f->conf.from = DELIVER_END;
    start(f);
    until_caught_up(f);
    assert_int_equal(fake_arrived(f->world), 0);
    stop(f);
    append(f, 10, 10); /* after the first start, though it is not running */
    start(f);
    until_caught_up(f);
    stop(f);
    assert_int_equal(f->world->count, 10);
    f->conf.name = "other";
    f->conf.from = DELIVER_POSITION;
    f->conf.position = f->world->arrivals[5].pos;
    f->want = 10;
    for (uint32_t i = 0; i < 10; i++)
        f->want += f->world->arrivals[i].pos.v >= f->conf.position.v;
    start(f);
    fake_until(arrived, f, "those from the position on arrived");
    until_caught_up(f);
    assert_int_equal(fake_arrived(f->world), f->want);
}

static void
test_filter(void **state)
{
    struct fix *f = *state;

    f->conf.category = "s";
    f->conf.prefix = "s-1";
    f->conf.type = "t";
    append(f, 100, 20);
    f->last = fake_append(&f->log, "other-1", "{}");
    start(f);
    until_caught_up(f);
    stop(f);
    assert_int_equal(f->world->count, 55);
}

/* Keys in no keystore: what is sealed is the data itself, until it is erased. */
static bool shredded;

static int
seal(struct ox_subjects *s, struct slice subject, const struct ox_id *event, struct slice data,
     uint8_t *out, struct err *err)
{
    memset(out, 0, SUBJECTS_HEAD);
    memcpy(out + SUBJECTS_HEAD, data.data, data.len);
    memset(out + SUBJECTS_HEAD + data.len, 0, SUBJECTS_TAG);
    return 0;
}

static int
open_sealed(struct ox_subjects *s, const struct ox_id *event, struct slice sealed, uint8_t *out,
            char *name, size_t *name_len, struct err *err)
{
    if (shredded)
        RETURN_ERR(err, E_GONE, ERR_DATA, "the key was shredded");
    memcpy(out, (const uint8_t *)sealed.data + SUBJECTS_HEAD, sealed.len - SUBJECTS_OVERHEAD);
    memcpy(name, "anna", 4);
    *name_len = 4;
    return 0;
}

static int
sync_keys(struct ox_subjects *s, struct err *err)
{
    return 0;
}

static const struct ox_subject_ops subject_ops = {seal, open_sealed, sync_keys};

/* What was erased is passed over, with a note of how many there were; the rest arrives. */
static void
test_erased(void **state)
{
    struct fix               *f = *state;
    static struct ox_subjects keys = {&subject_ops};
    struct log_new_event      e = {.type = slice_str("t"),
                                   .data = slice_str("{\"name\":\"Anna\"}"),
                                   .flags = LOG_JSON,
                                   .subject = slice_str("anna")};
    struct log_write          w = {
                 .stream = slice_str("s-1"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct deliver_status s;

    f->log.conf.subjects = &keys;
    fake_log_reopen(&f->log);
    for (int i = 0; i < 3; i++) {
        struct log_req req = {.writes = &w, .write_count = 1};

        assert_int_equal(log_append(f->log.log, &req), 0);
        append(f, 10, 2);
    }
    shredded = true;
    start(f);
    until_caught_up(f);
    deliver_get_status(f->d, &s);
    assert_int_equal(s.erased, 3);
    assert_int_equal(s.parked, 0);
    assert_int_equal(s.delivered, 30);
    stop(f);
    assert_int_equal(f->world->count, 30);
    shredded = false;
}

static uint64_t
marks(struct fix *f)
{
    return fake_count(&f->log, "$sink-far") + fake_count(&f->log, "$sink-second");
}

/* Two that see each other's commits: both come to rest. */
static void
test_rest(void **state)
{
    struct fix     *f = *state;
    struct deliver *first;
    uint64_t        before;

    f->conf.system = true;
    f->conf.checkpoint_ms = 1;
    append(f, 10, 10);
    tell(f, refuse_stream, "s-3", 0);
    start(f);
    until_caught_up(f);
    first = f->d;
    f->conf.name = "second";
    start(f);
    until_caught_up(f);
    append(f, 10, 10);
    until_caught_up(f);
    deliver_stop(first);
    deliver_stop(f->d);
    before = marks(f);
    fake_ok(deliver_start(first, &f->err), &f->err);
    fake_ok(deliver_start(f->d, &f->err), &f->err);
    until_caught_up(f);
    deliver_stop(first);
    deliver_stop(f->d);
    /* The claims of the two, and a checkpoint for what the other parked at most. */
    assert_true(marks(f) <= before + 4);
    deliver_free(first);
}

static void
test_transaction(void **state)
{
    struct fix *f = *state;

    f->transactional = true;
    append(f, 500, 5);
    start(f);
    append(f, 500, 5);
    f->want = 1000;
    fake_until(arrived, f, "all arrived");
    until_caught_up(f);
    stop(f);
    fake_log_reopen(&f->log);
    append(f, 10, 5);
    start(f);
    until_caught_up(f);
    stop(f);
    (void)check_order(f, false);
    assert_int_equal(f->world->count, 1010);
    for (uint32_t i = 1; i < f->world->count; i++)
        assert_true(f->world->arrivals[i - 1].pos.v < f->world->arrivals[i].pos.v);
}

static void
test_transaction_failures(void **state)
{
    struct fix *f = *state;

    f->transactional = true;
    append(f, 300, 5);
    f->world->down = true;
    start(f);
    while (status(f).state != DELIVER_RETRYING)
        ;
    (void)pthread_mutex_lock(&f->world->lock);
    f->world->down = false;
    f->world->unsure_after = true;
    (void)pthread_mutex_unlock(&f->world->lock);
    until_caught_up(f);
    for (int i = 0; i < 20; i++) {
        (void)pthread_mutex_lock(&f->world->lock);
        f->world->unsure_after = true;
        (void)pthread_mutex_unlock(&f->world->lock);
        append(f, 10, 5);
    }
    f->want = 500;
    fake_until(arrived, f, "all arrived");
    until_caught_up(f);
    stop(f);
    (void)check_order(f, false);
    assert_int_equal(f->world->count, 500);
}

static void
test_transaction_parking(void **state)
{
    struct fix *f = *state;

    f->transactional = true;
    append(f, 100, 10);
    tell(f, refuse_first, "s-3", 2);
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 8);
    assert_int_equal(count_of(f, "s-3"), 2);
    stop(f);
    /* The far side is put back: what was parked is not tried again, the rest is. */
    f->world->checkpoint = f->world->arrivals[0].pos.v;
    f->world->count = 1;
    start(f);
    until_caught_up(f);
    assert_int_equal(status(f).parked, 8);
    tell(f, NULL, "", 0);
    fake_ok(order_replay(f->d, slice_str(""), &f->err), &f->err);
    append(f, 10, 10);
    f->want = 0;
    fake_until(parked_as_wanted, f, "nothing is parked");
    until_caught_up(f);
    append(f, 10, 10);
    f->want = 120;
    fake_until(arrived, f, "the rest arrived");
    stop(f);
    (void)check_order(f, false);
    assert_int_equal(f->world->count, 120);
}

static void
test_far_side_ahead(void **state)
{
    struct fix *f = *state;

    f->transactional = true;
    f->world->checkpoint = UINT64_C(1) << 50;
    start(f);
    fake_until(is_failed, f, "it failed");
    assert_non_null(strstr(status(f).error, "belongs to another log"));
}

static bool
is_running(void *arg)
{
    struct deliver_status s = status(arg);

    return s.state == DELIVER_RUNNING && s.caught_up;
}

/* Each event once: what was parked too, hidden by a move since; and the start is kept. */
static void
test_moved(void **state)
{
    struct fix *f = *state;

    f->conf.skip_moved = true;
    f->conf.from = DELIVER_END;
    append(f, 1, 1); /* before the start */
    start(f);
    fake_until(is_running, f, "it is running");
    append(f, 1, 1);
    until_caught_up(f);
    assert_int_equal(count_of(f, "s-0"), 1);
    tell(f, refuse_stream, "s-0", 0);
    append(f, 2, 1);
    f->want = 2;
    fake_until(parked_as_wanted, f, "two were parked");
    stop(f);
    moves_fake(f->log.log, "s-0", "s-0");
    tell(f, NULL, "", 0);
    start(f);
    f->want = 3; /* the copy of the first one stands behind what is parked */
    fake_until(parked_as_wanted, f, "the copy was parked");
    assert_int_equal(order_replay(f->d, slice_str("s-0"), &f->err), 0);
    f->want = 0;
    fake_until(parked_as_wanted, f, "none is parked any more");
    append(f, 1, 1);
    until_caught_up(f);
    assert_int_equal(count_of(f, "s-0"), 5);
    stop(f);
}

static void
test_links(void **state)
{
    struct fix          *f = *state;
    struct log_new_event e = {
        .type = slice_str("$>"), .data = slice_str("0@s-0"), .flags = LOG_LINK};
    struct log_write w = {.stream = slice_str("l"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req   req = {.writes = &w, .write_count = 1};

    append(f, 1, 1);
    assert_int_equal(log_append(f->log.log, &req), 0);
    append(f, 1, 1);
    start(f);
    until_caught_up(f);
    stop(f);
    assert_int_equal(count_of(f, "l"), 0);
    assert_int_equal(count_of(f, "s-0"), 2);
    f->conf.name = "resolving";
    f->conf.resolve_links = true;
    start(f);
    until_caught_up(f);
    assert_int_equal(count_of(f, "s-0"), 5);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parallel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry_holds_its_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_any_failure, setup, teardown),
        cmocka_unit_test_setup_teardown(test_far_side_down, setup, teardown),
        cmocka_unit_test_setup_teardown(test_out_of_reach, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fatal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parking, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replay_refused_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_skip_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_parked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pause, setup, teardown),
        cmocka_unit_test_setup_teardown(test_seek, setup, teardown),
        cmocka_unit_test_setup_teardown(test_seek_transaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_crash, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fenced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_from, setup, teardown),
        cmocka_unit_test_setup_teardown(test_filter, setup, teardown),
        cmocka_unit_test_setup_teardown(test_erased, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transaction_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transaction_parking, setup, teardown),
        cmocka_unit_test_setup_teardown(test_far_side_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_moved, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
