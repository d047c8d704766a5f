/* Capture into the real log, from a source over an array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "core/capture.h"
#include "core_fake.h"
#include "env/env_real.h"

struct fix {
    struct fake_log     log;
    struct fake_feed   *feed;
    struct capture     *c, *other;
    struct capture_conf conf;
    uint32_t            want;
    struct err          err;
};

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    assert_non_null(f);
    fake_log_open(&f->log);
    f->feed = fake_feed_new(2000, 30);
    f->conf = (struct capture_conf){.name = "shop", .batch_max = 50};
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    capture_free(f->c);
    fake_feed_free(f->feed);
    fake_log_close(&f->log);
    free(f);
    return 0;
}

static void
start(struct fix *f)
{
    struct source *source = fake_source(f->feed);

    fake_ok(capture_new(env_real(), f->log.log, &f->conf, &source, &f->c, &f->err), &f->err);
    fake_ok(capture_start(f->c, &f->err), &f->err);
}

static void
stop(struct fix *f)
{
    capture_free(f->c);
    f->c = NULL;
}

static struct capture_status
status(struct fix *f)
{
    struct capture_status s;

    capture_get_status(f->c, &s);
    return s;
}

static bool
confirmed(void *arg)
{
    struct fix *f = arg;
    uint32_t    n;

    if (status(f).state == CAPTURE_FAILED)
        fail_msg("%s", status(f).error);
    (void)pthread_mutex_lock(&f->feed->lock);
    n = f->feed->confirmed;
    (void)pthread_mutex_unlock(&f->feed->lock);
    return n >= f->want;
}

static bool
is_failed(void *arg)
{
    return status(arg).state == CAPTURE_FAILED;
}

static bool
is_retrying(void *arg)
{
    return status(arg).state == CAPTURE_RETRYING;
}

static void
until(struct fix *f, uint32_t n)
{
    f->want = n;
    fake_until(confirmed, f, "so many were captured");
}

/* Every change from 0 on, once, in the source's order, of the right stream and id. */
static uint32_t
check_all(struct fix *f)
{
    struct log_read  read = {0};
    struct log_iter *it;
    struct log_event e = {0};
    struct slice     raw, source;
    char             name[32], position[32];
    uint64_t         v = 0;
    uint32_t         n = 0;
    int              rc;

    fake_ok(log_iter_open(f->log.log, &read, &it, &f->err), &f->err);
    while ((rc = log_iter_next(it, &e, &f->err)) == 0) {
        (void)snprintf(name, sizeof name, "t-k%u", n % f->feed->keys);
        (void)snprintf(position, sizeof position, "\"p%u\"", n);
        assert_true(slice_is(e.stream, name));
        assert_true(slice_is(e.type, "Updated"));
        assert_int_equal(e.version, n / f->feed->keys);
        assert_true(json_get(e.data, "n", &raw) && json_uint64(raw, &v));
        assert_int_equal(v, n);
        assert_true(json_get(e.meta, "$source", &source));
        assert_true(json_get(source, "position", &raw));
        assert_true(slice_is(raw, position));
        n++;
    }
    assert_int_equal(rc, E_END);
    log_iter_close(it);
    return n;
}

static void
test_once(void **state)
{
    struct fix *f = *state;

    start(f);
    until(f, 2000);
    assert_int_equal(status(f).changes, 2000);
    assert_string_equal(status(f).checkpoint, "{\"at\":2000}");
    (void)pthread_mutex_lock(&f->feed->lock);
    f->feed->count = 2100;
    (void)pthread_mutex_unlock(&f->feed->lock);
    until(f, 2100);
    stop(f);
    assert_int_equal(check_all(f), 2100);
}

static void
test_stop_and_start(void **state)
{
    struct fix *f = *state;

    f->conf.batch_max = 7;
    for (uint32_t n = 100; n <= 1000; n += 300) {
        start(f);
        until(f, n);
        capture_stop(f->c);
        assert_int_equal(status(f).state, CAPTURE_STOPPED);
        fake_ok(capture_start(f->c, &f->err), &f->err);
        until(f, n + 100);
        stop(f);
        fake_log_reopen(&f->log);
    }
    start(f);
    until(f, 2000);
    stop(f);
    assert_int_equal(check_all(f), 2000);
    assert_false(f->feed->went_back);
}

/* The process dies after a commit and before the source learns of it. */
static void
test_unconfirmed(void **state)
{
    struct fix *f = *state;

    f->feed->count = 1000;
    start(f);
    until(f, 500);
    stop(f);
    f->feed->confirmed = 0;
    f->feed->count = 2000;
    start(f);
    until(f, 2000);
    stop(f);
    assert_int_equal(check_all(f), 2000);
}

static bool
either_failed(void *arg)
{
    struct fix           *f = arg;
    struct capture_status s;

    capture_get_status(f->other, &s);
    return s.state == CAPTURE_FAILED || is_failed(f);
}

/* Two of one name: whoever comes second with a commit is fenced, and nothing is twice. */
static void
test_fenced(void **state)
{
    struct fix *f = *state;

    f->feed->count = 10;
    start(f);
    until(f, 10);
    (void)pthread_mutex_lock(&f->feed->lock);
    f->feed->fail_polls = UINT32_MAX;
    f->feed->fail_kind = ERR_RETRY;
    (void)pthread_mutex_unlock(&f->feed->lock);
    fake_until(is_retrying, f, "the first was retrying");
    f->other = f->c;
    start(f);
    fake_until(is_retrying, f, "the second was retrying");
    (void)pthread_mutex_lock(&f->feed->lock);
    f->feed->count = 1000;
    f->feed->fail_polls = 0;
    (void)pthread_mutex_unlock(&f->feed->lock);
    fake_until(either_failed, f, "one was fenced");
    if (is_failed(f)) {
        struct capture *loser = f->c;
        f->c = f->other;
        f->other = loser;
    }
    until(f, 1000);
    {
        struct capture_status s;

        capture_get_status(f->other, &s);
        assert_non_null(strstr(s.error, "something else captures"));
    }
    capture_free(f->other);
    stop(f);
    assert_int_equal(check_all(f), 1000);
}

static void
test_retry(void **state)
{
    struct fix *f = *state;

    f->feed->fail_polls = UINT32_MAX; /* until it was seen */
    f->feed->fail_kind = ERR_RETRY;
    start(f);
    fake_until(is_retrying, f, "it was retrying");
    assert_string_equal(status(f).error, "the far side says retry");
    (void)pthread_mutex_lock(&f->feed->lock);
    f->feed->fail_polls = 0;
    (void)pthread_mutex_unlock(&f->feed->lock);
    until(f, 2000);
    assert_int_equal(status(f).state, CAPTURE_RUNNING);
    stop(f);
    assert_int_equal(check_all(f), 2000);
}

struct order {
    struct capture_call call;
    struct fix         *f;
    enum capture_state  shown; /* to whoever looks as soon as it is answered */
    atomic_bool         done;
};

static void
on_done(struct capture_call *call)
{
    struct order *o = call->arg;

    o->shown = status(o->f).state;
    atomic_store(&o->done, true);
}

static bool
is_done(void *arg)
{
    return atomic_load(&((struct order *)arg)->done);
}

static enum capture_state
command(struct fix *f, enum capture_command what)
{
    struct order o = {.call = {.command = what, .done = on_done}, .f = f};

    o.call.arg = &o;
    capture_submit(f->c, &o.call);
    fake_until(is_done, &o, "the command was answered");
    fake_ok(o.call.rc, &o.call.err);
    return o.shown;
}

/* What was ordered shows as soon as it is answered. */
static void
test_commands(void **state)
{
    struct fix *f = *state;

    f->feed->count = 100;
    start(f);
    until(f, 100);
    assert_int_equal(command(f, CAPTURE_PAUSE), CAPTURE_PAUSED);
    (void)pthread_mutex_lock(&f->feed->lock);
    f->feed->count = 200;
    (void)pthread_mutex_unlock(&f->feed->lock);
    (void)command(f, CAPTURE_RESUME);
    until(f, 200);
    assert_int_equal(command(f, CAPTURE_DROP), CAPTURE_DROPPED);
    stop(f);
    assert_int_equal(check_all(f), 200);
}

static void
test_fatal(void **state)
{
    struct fix *f = *state;

    f->feed->fail_polls = 1;
    f->feed->fail_kind = ERR_FATAL;
    start(f);
    fake_until(is_failed, f, "it failed");
    assert_string_equal(status(f).error, "the far side says fatal");
    capture_stop(f->c);
    fake_ok(capture_start(f->c, &f->err), &f->err);
    until(f, 2000);
    stop(f);
    assert_int_equal(check_all(f), 2000);
}

static void
test_parked(void **state)
{
    struct fix      *f = *state;
    struct log_read  read = {.stream = slice_str("$parked-source-shop")};
    struct log_iter *it;
    struct log_event e;
    struct slice     raw;

    f->feed->count = 200;
    f->feed->huge = 77;
    start(f);
    until(f, 200);
    assert_int_equal(status(f).parked, 1);
    assert_int_equal(status(f).changes, 200);
    stop(f);
    assert_int_equal(fake_count(&f->log, "t-k17"), 6); /* the others of its key went by */
    assert_int_equal(fake_count(&f->log, "t-k18"), 7);
    assert_int_equal(fake_count(&f->log, "$parked-source-shop"), 1);
    fake_ok(log_iter_open(f->log.log, &read, &it, &f->err), &f->err);
    fake_ok(log_iter_next(it, &e, &f->err), &f->err);
    assert_true(slice_is(e.type, "Parked"));
    assert_true(json_get(e.data, "position", &raw));
    assert_true(slice_is(raw, "\"p77\""));
    assert_true(json_get(e.data, "reason", &raw));
    assert_true(slice_starts(raw, slice_str("\"the row has 16777217 bytes")));
    log_iter_close(it);
}

/* Rows that are fine one by one, and too much together for one commit. */
static void
test_large_rows(void **state)
{
    struct fix *f = *state;

    f->feed->count = 40;
    f->feed->row_bytes = 3000000;
    start(f);
    until(f, 40);
    assert_int_equal(status(f).changes, 40);
    assert_int_equal(status(f).parked, 0);
    stop(f);
    assert_int_equal(fake_count(&f->log, "t-k0"), 2);
    assert_int_equal(fake_count(&f->log, "t-k29"), 1);
}

/* However large they are, commits under way are not more than the log takes in: none is refused. */
static void
test_large_commits(void **state)
{
    struct fix *f = *state;

    f->log.conf.queue_bytes_max = UINT64_C(32) << 20;
    fake_log_reopen(&f->log);
    f->conf.batch_max = 6;
    f->feed->count = 60;
    f->feed->row_bytes = 2000000;
    start(f);
    until(f, 60);
    stop(f);
    assert_int_equal(f->feed->starts, 1);
    assert_int_equal(fake_count(&f->log, "t-k0"), 2);
}

static void
test_category(void **state)
{
    struct fix *f = *state;

    f->feed->count = 60;
    f->conf.category = "order";
    start(f);
    until(f, 60);
    stop(f);
    assert_int_equal(fake_count(&f->log, "order-k3"), 2);
    assert_int_equal(fake_count(&f->log, "t-k3"), 0);
}

static void
test_names(void **state)
{
    (void)state;
    for (int op = CHANGE_READ; op <= CHANGE_TRUNCATE; op++)
        assert_int_equal(capture_type_op(slice_str(capture_type_name((enum change_op)op))), op);
    assert_int_equal(capture_type_op(slice_str("other")), 0);
    for (int s = CAPTURE_STARTING; s <= CAPTURE_FAILED; s++)
        assert_string_not_equal(capture_state_name((enum capture_state)s), "unknown");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_and_start, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unconfirmed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fenced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fatal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commands, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_commits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_category, setup, teardown),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
