/* The contract of queue sources: a broker in memory, the real log, and every way to fail. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "core/queue_int.h"
#include "core_fake.h"
#include "env/env_real.h"
#include "moves_fake.h"
#include "queue_fake.h"

struct fix {
    struct fake_log     log;
    struct fake_broker *broker;
    struct queue       *q, *other;
    struct queue_conf   conf;
    uint64_t            want;
    struct err          err;
};

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    assert_non_null(f);
    fake_log_open(&f->log);
    f->broker = fake_broker_new();
    f->conf = (struct queue_conf){.name = "shop", .batch_max = 50, .window = 10000};
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    queue_free(f->other);
    queue_free(f->q);
    fake_broker_free(f->broker);
    fake_log_close(&f->log);
    free(f);
    return 0;
}

static void
start(struct fix *f)
{
    struct queue_reader *reader = fake_reader(f->broker);

    fake_ok(queue_new(env_real(), f->log.log, &f->conf, &reader, &f->q, &f->err), &f->err);
    fake_ok(queue_start(f->q, &f->err), &f->err);
}

static void
stop(struct fix *f)
{
    queue_free(f->q);
    f->q = NULL;
}

static void
restart(struct fix *f)
{
    stop(f);
    fake_log_reopen(&f->log);
    start(f);
}

static struct queue_status
status(struct fix *f)
{
    struct queue_status s;

    queue_get_status(f->q, &s);
    return s;
}

static void
no_failure(struct fix *f)
{
    if (status(f).state == QUEUE_FAILED)
        fail_msg("%s", status(f).error);
}

static bool
acked(void *arg)
{
    struct fix *f = arg;

    no_failure(f);
    return fake_acked(f->broker) >= f->want;
}

static bool
taken(void *arg)
{
    struct fix *f = arg;

    no_failure(f);
    return status(f).messages >= f->want;
}

static bool
is_failed(void *arg)
{
    return status(arg).state == QUEUE_FAILED;
}

static bool
is_retrying(void *arg)
{
    return status(arg).state == QUEUE_RETRYING;
}

static bool
is_running(void *arg)
{
    return status(arg).state == QUEUE_RUNNING;
}

static bool
is_paused(void *arg)
{
    return status(arg).state == QUEUE_PAUSED;
}

static void
until_acked(struct fix *f, uint32_t n)
{
    f->want = n;
    fake_until(acked, f, "so many were acknowledged");
}

static void
publish(struct fix *f, uint32_t n, uint32_t keys)
{
    char key[16];

    for (uint32_t i = 0; i < n; i++) {
        (void)snprintf(key, sizeof key, "k%u", f->broker->count % keys);
        (void)fake_publish(f->broker, key, NULL, NULL);
    }
}

/* Is the message's number among the events of its stream? Called as it is acknowledged. */
static void
must_be_durable(struct fake_broker *b, uint32_t number)
{
    struct fix      *f = b->arg;
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it;
    struct log_event e;
    struct slice     raw;
    char             name[80];
    uint64_t         n = 0;
    struct err       err;

    (void)snprintf(name, sizeof name, "orders-%s", b->messages[number].key);
    read.stream = slice_str(name);
    must(log_iter_open(f->log.log, &read, &it, &err) == 0);
    do {
        must(log_iter_next(it, &e, &err) == 0);
        must(json_get(e.data, "n", &raw) && json_uint64(raw, &n));
        must(n >= number);
    } while (n != number);
    log_iter_close(it);
}

/* Each number of 0 to count - 1 once, of each key in the order of the queue. */
static void
check_all(struct fix *f, uint32_t count, uint32_t keys)
{
    struct log_read  read = {0};
    struct log_iter *it;
    struct log_event e = {0};
    struct slice     raw;
    char             name[32];
    uint64_t         n = 0, last[64] = {0};
    uint32_t         found = 0;
    int              rc;

    assert_true(keys <= 64);
    fake_ok(log_iter_open(f->log.log, &read, &it, &f->err), &f->err);
    while ((rc = log_iter_next(it, &e, &f->err)) == 0) {
        assert_true(json_get(e.data, "n", &raw) && json_uint64(raw, &n));
        (void)snprintf(name, sizeof name, "orders-k%u", (unsigned)(n % keys));
        assert_true(slice_is(e.stream, name));
        assert_true(last[n % keys] <= n); /* 1 + the last one */
        last[n % keys] = n + 1;
        found++;
    }
    assert_int_equal(rc, E_END);
    log_iter_close(it);
    assert_int_equal(found, count);
}

/* An event of a stream; its slices live until the iterator is closed. */
static struct log_iter *
event_at(struct fix *f, const char *stream, uint64_t version, struct log_event *e)
{
    struct log_read  read = {.stream = slice_str(stream), .from = version};
    struct log_iter *it;

    fake_ok(log_iter_open(f->log.log, &read, &it, &f->err), &f->err);
    fake_ok(log_iter_next(it, e, &f->err), &f->err);
    assert_int_equal(e->version, version);
    return it;
}

static void
expect_member(struct slice object, const char *path, const char *raw)
{
    struct slice value;

    assert_true(json_get_path(object, slice_str(path), &value));
    if (!slice_is(value, raw))
        fail_msg("%s is %.*s, not %s", path, SLICE_FMT(value), raw);
}

static void
expect_reason(struct fix *f, uint64_t version, const char *begins)
{
    struct log_event e;
    struct log_iter *it = event_at(f, "$parked-source-shop", version, &e);
    struct slice     raw;

    assert_true(slice_is(e.type, "Parked"));
    assert_true(json_get(e.data, "reason", &raw));
    if (!slice_starts(raw, slice_str(begins)))
        fail_msg("the reason is %.*s", SLICE_FMT(raw));
    log_iter_close(it);
}

/* commands */

struct order {
    struct queue_call call;
    struct fix       *f;
    enum queue_state  shown; /* to whoever looks as soon as it is answered */
    atomic_bool       done;
};

static void
on_done(struct queue_call *call)
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

static struct queue_call
command(struct fix *f, enum queue_command what, uint64_t version)
{
    struct order o = {.call = {.command = what, .version = version, .done = on_done}, .f = f};

    o.call.arg = &o;
    queue_submit(f->q, &o.call);
    fake_until(is_done, &o, "the command was answered");
    if (o.call.rc == 0 && what == QUEUE_PAUSE)
        assert_int_equal(o.shown, QUEUE_PAUSED);
    if (o.call.rc == 0 && what == QUEUE_DROP)
        assert_int_equal(o.shown, QUEUE_DROPPED);
    return o.call;
}

/* the tests */

static void
test_once(void **state)
{
    struct fix      *f = *state;
    struct log_event e;
    struct log_iter *it;

    f->broker->on_ack = must_be_durable;
    f->broker->arg = f;
    publish(f, 2000, 30);
    start(f);
    until_acked(f, 2000);
    publish(f, 50, 30);
    until_acked(f, 2050);
    f->want = 2050;
    fake_until(taken, f, "all were counted");
    assert_int_equal(status(f).appended, 2050);
    assert_int_equal(status(f).duplicates + status(f).parked + status(f).without_id, 0);
    stop(f);
    check_all(f, 2050, 30);
    it = event_at(f, "orders-k1", 0, &e);
    assert_true(slice_is(e.type, "Message"));
    assert_true((e.flags & LOG_JSON) != 0);
    expect_member(e.meta, "$source.name", "\"shop\"");
    expect_member(e.meta, "$source.queue", "\"orders\"");
    expect_member(e.meta, "$source.key", "\"k1\"");
    expect_member(e.meta, "$source.id", "\"m1\"");
    log_iter_close(it);
}

/* Templates, headers, a type, bytes that are no JSON, an id that is a UUID. */
static void
test_form(void **state)
{
    struct fix      *f = *state;
    struct log_event e;
    struct log_iter *it;
    char             id[ID_TEXT_LEN + 1];

    f->conf.stream = "{body.kind}-{header.h}-{key}";
    f->conf.category = "order";
    f->conf.type = "{type}{header.h}";
    (void)fake_publish(f->broker, "7", "0191d8a0-0000-7000-8000-00000000000a",
                       " {\"kind\":\"a\"} ");
    (void)snprintf(f->broker->messages[0].header, 64, "x");
    (void)snprintf(f->broker->messages[0].type, 32, "Placed");
    start(f);
    until_acked(f, 1);
    stop(f);
    it = event_at(f, "a-x-7", 0, &e);
    assert_true(slice_is(e.type, "Placedx"));
    assert_true(slice_is(e.data, "{\"kind\":\"a\"}"));
    id_format(&e.id, id);
    assert_string_equal(id, "0191d8a0-0000-7000-8000-00000000000a");
    expect_member(e.meta, "$source.headers.h", "\"x\"");
    log_iter_close(it);
    f->conf.stream = "{queue}-{key}";
    f->conf.type = NULL;
    (void)fake_publish_bytes(f->broker, "8", NULL, "\x00\xff", 2);
    start(f);
    until_acked(f, 2);
    stop(f);
    it = event_at(f, "order-8", 0, &e);
    assert_int_equal(e.flags & LOG_JSON, 0);
    assert_true(slice_eq(e.data, slice_of("\x00\xff", 2)));
    log_iter_close(it);
    f->conf.stream = "{nothing}";
    assert_int_equal(queue_check(&f->conf, &f->err), E_SYNTAX);
    assert_string_equal(f->err.text,
                        "source shop: stream: template, column 1: there is no {nothing}");
}

/* In one batch, in the next one, after a start, and under another key. */
static void
test_duplicates(void **state)
{
    struct fix *f = *state;

    publish(f, 100, 5);
    for (int i = 0; i < 100; i++) {
        char key[16], id[16];

        (void)snprintf(key, sizeof key, "k%d", i % 5);
        (void)snprintf(id, sizeof id, "m%d", i);
        (void)fake_publish(f->broker, i % 2 == 0 ? key : "other", id, NULL);
    }
    f->conf.batch_max = 130;
    start(f);
    until_acked(f, 200);
    f->want = 200;
    fake_until(taken, f, "all were counted");
    assert_int_equal(status(f).duplicates, 100);
    restart(f);
    (void)fake_publish(f->broker, "k3", "m3", NULL);
    (void)fake_publish(f->broker, "other", "m99", NULL);
    until_acked(f, 202);
    f->want = 2;
    fake_until(taken, f, "both were counted");
    assert_int_equal(status(f).duplicates, 2);
    assert_int_equal(status(f).window, 100);
    stop(f);
    check_all(f, 100, 5);
}

/* The window's edge, before and after a start: so many ids and not one more. */
static void
test_window(void **state)
{
    struct fix *f = *state;

    f->conf.window = 100;
    publish(f, 300, 7);
    start(f);
    until_acked(f, 300);
    (void)fake_publish(f->broker, "again", "m200", NULL);
    until_acked(f, 301);
    assert_int_equal(fake_count(&f->log, "orders-again"), 0);
    (void)fake_publish(f->broker, "again", "m199", NULL);
    until_acked(f, 302);
    assert_int_equal(fake_count(&f->log, "orders-again"), 1);
    restart(f);
    (void)fake_publish(f->broker, "again", "m201", NULL); /* the oldest that is known now */
    until_acked(f, 303);
    assert_int_equal(fake_count(&f->log, "orders-again"), 1);
    (void)fake_publish(f->broker, "again", "m200", NULL);
    until_acked(f, 304);
    assert_int_equal(fake_count(&f->log, "orders-again"), 2);
    stop(f);
}

static void
test_window_time(void **state)
{
    struct fix *f = *state;

    f->conf.window_us = 1;
    publish(f, 10, 3);
    start(f);
    until_acked(f, 10);
    (void)fake_publish(f->broker, "again", "m9", NULL);
    until_acked(f, 11);
    restart(f);
    (void)fake_publish(f->broker, "again2", "m9", NULL);
    until_acked(f, 12);
    stop(f);
    assert_int_equal(fake_count(&f->log, "orders-again"), 1);
    assert_int_equal(fake_count(&f->log, "orders-again2"), 1);
}

/* Beyond the window the log itself refuses what a stream has: it is looked up, and passed over. */
static void
test_known_to_the_log(void **state)
{
    struct fix *f = *state;

    f->conf.window = 1;
    publish(f, 120, 1);
    start(f);
    until_acked(f, 120);
    for (int i = 0; i < 60; i++) {
        char id[16];

        (void)snprintf(id, sizeof id, "m%d", i);
        (void)fake_publish(f->broker, "k0", id, NULL);
    }
    publish(f, 20, 1);
    until_acked(f, 200);
    stop(f);
    assert_int_equal(fake_count(&f->log, "orders-k0"), 140);
}

/* The process dies after a commit and before the broker learns of it. */
static void
test_lost_acks(void **state)
{
    struct fix *f = *state;

    publish(f, 500, 9);
    f->broker->lose_confirms = true;
    start(f);
    f->want = 500;
    fake_until(taken, f, "all were taken");
    stop(f);
    f->broker->lose_confirms = false;
    fake_log_reopen(&f->log);
    start(f);
    until_acked(f, 500);
    f->want = 500;
    fake_until(taken, f, "all were counted");
    assert_int_equal(status(f).duplicates, 500);
    assert_int_equal(status(f).redelivered, 500);
    stop(f);
    check_all(f, 500, 9);
}

/* The driver fails at its first call, its second one, … */
static void
test_fail_at_every_call(void **state)
{
    struct fix *f = *state;
    uint32_t    all = 0;

    f->broker->on_ack = must_be_durable;
    f->broker->arg = f;
    f->conf.batch_max = 10;
    for (uint32_t at = 1; at <= 24; at++) {
        (void)pthread_mutex_lock(&f->broker->lock);
        f->broker->fail_after = at;
        (void)pthread_mutex_unlock(&f->broker->lock);
        publish(f, 60, 4);
        start(f);
        until_acked(f, all += 60);
        stop(f);
    }
    check_all(f, all, 4);
}

/* The whole process is killed at that call; what it leaves is found by the next one. */
static void
kill_at(struct fix *f, uint32_t at, uint32_t want)
{
    int   status_of = 0;
    pid_t pid;

    log_close(f->log.log);
    f->log.log = NULL;
    f->broker->kill_at = at;
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (log_open(env_real(), f->log.dir, &f->log.conf, NULL, &f->log.log, &f->err) != 0)
            _exit(2);
        start(f);
        while (fake_acked(f->broker) < want)
            ;
        _exit(0); /* it needed fewer calls */
    }
    assert_int_equal(waitpid(pid, &status_of, 0), pid);
    assert_true((WIFSIGNALED(status_of) && WTERMSIG(status_of) == SIGKILL) ||
                (WIFEXITED(status_of) && WEXITSTATUS(status_of) == 0));
    assert_int_equal(pthread_mutex_init(&f->broker->lock, NULL), 0);
    f->broker->kill_at = 0;
    for (uint32_t i = 0; i < f->broker->count; i++)
        f->broker->messages[i].out = false;
    fake_ok(log_open(env_real(), f->log.dir, &f->log.conf, NULL, &f->log.log, &f->err), &f->err);
}

static void
test_kill_at_every_call(void **state)
{
    struct fix *f = *state;
    uint32_t    all = 0;

    f->conf.batch_max = 10;
    for (uint32_t at = 1; at <= 16; at++) {
        publish(f, 60, 4);
        all += 60;
        kill_at(f, at, all);
        check_all(f,
                  (uint32_t)(fake_count(&f->log, "orders-k0") + fake_count(&f->log, "orders-k1") +
                             fake_count(&f->log, "orders-k2") + fake_count(&f->log, "orders-k3")),
                  4);
    }
    start(f);
    until_acked(f, all);
    stop(f);
    check_all(f, all, 4);
}

static void
test_retry(void **state)
{
    struct fix *f = *state;

    publish(f, 300, 3);
    f->broker->fail_starts = UINT32_MAX; /* until it was seen */
    start(f);
    fake_until(is_retrying, f, "it was retrying");
    assert_string_equal(status(f).error, "the broker says retry");
    (void)pthread_mutex_lock(&f->broker->lock);
    f->broker->fail_starts = 0;
    (void)pthread_mutex_unlock(&f->broker->lock);
    until_acked(f, 300);
    fake_until(is_running, f, "it ran again");
    (void)pthread_mutex_lock(&f->broker->lock);
    f->broker->fail_polls = 1;
    f->broker->fail_kind = ERR_FATAL;
    (void)pthread_mutex_unlock(&f->broker->lock);
    fake_until(is_failed, f, "it failed");
    publish(f, 30, 3);
    assert_int_equal(command(f, QUEUE_RESUME, 0).rc, 0);
    until_acked(f, 330);
    stop(f);
    check_all(f, 330, 3);
}

static bool
either_failed(void *arg)
{
    struct fix         *f = arg;
    struct queue_status s;

    queue_get_status(f->other, &s);
    return s.state == QUEUE_FAILED || is_failed(f);
}

static bool
acked_or_failed(void *arg)
{
    struct fix *f = arg;

    return either_failed(f) || fake_acked(f->broker) == f->broker->count;
}

/* Two of one name in one log: whoever comes second with a commit is fenced. */
static void
test_fenced(void **state)
{
    struct fix         *f = *state;
    struct queue_status s;

    publish(f, 10, 2);
    start(f);
    until_acked(f, 10);
    f->other = f->q;
    start(f);
    fake_until(is_running, f, "the second ran");
    /* One at a time: whichever did not take the one before is fenced by the next that it takes. */
    while (!either_failed(f)) {
        publish(f, 1, 2);
        fake_until(acked_or_failed, f, "it was decided");
    }
    if (is_failed(f)) {
        struct queue *loser = f->q;

        f->q = f->other;
        f->other = loser;
    }
    until_acked(f, f->broker->count);
    queue_get_status(f->other, &s);
    assert_non_null(strstr(s.error, "something else consumes"));
    queue_free(f->other);
    f->other = NULL;
    stop(f);
}

/* parked ones */

static void
publish_poison(struct fix *f)
{
    char key[290];

    memset(key, 'k', sizeof key - 1);
    key[sizeof key - 1] = '\0';
    publish(f, 3, 3);
    (void)fake_publish(f->broker, "k0", "bad", "{\"n\":");
    (void)fake_publish(f->broker, key, "long", "{\"n\":1}");
    (void)fake_publish_bytes(f->broker, "k1", "bytes", "\xff\x00z", 3);
    publish(f, 3, 3);
}

static void
test_parked(void **state)
{
    struct fix       *f = *state;
    struct queue_call call;
    struct log_event  e;
    struct log_iter  *it;

    f->conf.payload = QUEUE_JSON;
    publish_poison(f);
    start(f);
    until_acked(f, 9);
    f->want = 9;
    fake_until(taken, f, "all were counted");
    assert_int_equal(status(f).parked, 3);
    assert_int_equal(status(f).parked_open, 3);
    assert_int_equal(status(f).appended, 6);
    expect_reason(f, 0, "\"its body is no JSON");
    expect_reason(f, 1, "\"");
    expect_reason(f, 2, "\"its body is no JSON");
    it = event_at(f, "$parked-source-shop", 2, &e);
    expect_member(e.data, "body_base64", "\"/wB6\"");
    expect_member(e.data, "key", "\"k1\"");
    log_iter_close(it);
    (void)fake_publish(f->broker, "k0", "bad", "{\"n\":"); /* the same again */
    until_acked(f, 10);
    assert_int_equal(fake_count(&f->log, "$parked-source-shop"), 3);
    call = command(f, QUEUE_REPLAY, UINT64_MAX);
    assert_int_equal(call.rc, E_SYNTAX);
    assert_int_equal(call.refused, 3);
    f->conf.payload = QUEUE_AUTO;
    restart(f);
    call = command(f, QUEUE_REPLAY, 2);
    fake_ok(call.rc, &call.err);
    it = event_at(f, "orders-k1", 2, &e);
    assert_true(slice_eq(e.data, slice_of("\xff\x00z", 3)));
    log_iter_close(it);
    call = command(f, QUEUE_REPLAY, UINT64_MAX);
    fake_ok(call.rc, &call.err);
    assert_int_equal(call.closed, 1);
    assert_int_equal(call.refused, 1);
    restart(f);
    assert_int_equal(command(f, QUEUE_REPLAY, 2).rc, E_NOTFOUND);
    call = command(f, QUEUE_SKIP, 1);
    fake_ok(call.rc, &call.err);
    assert_int_equal(command(f, QUEUE_SKIP, UINT64_MAX).rc, E_NOTFOUND);
    assert_int_equal(status(f).parked_open, 0);
    stop(f);
    it = event_at(f, "$parked-source-shop", 5, &e);
    assert_true(slice_is(e.type, "Unparked"));
    assert_true(slice_is(e.data, "{\"version\":1,\"how\":\"dropped\"}"));
    log_iter_close(it);
}

static void
test_parked_max(void **state)
{
    struct fix       *f = *state;
    struct queue_call call;

    f->conf.payload = QUEUE_JSON;
    f->conf.parked_max = 2;
    f->conf.batch_max = 1;
    publish_poison(f);
    start(f);
    fake_until(is_failed, f, "it stopped");
    assert_non_null(strstr(status(f).error, "2 messages are parked: replay or drop them"));
    assert_int_equal(fake_acked(f->broker), 5);
    call = command(f, QUEUE_SKIP, UINT64_MAX);
    fake_ok(call.rc, &call.err);
    assert_int_equal(call.closed, 2);
    assert_int_equal(command(f, QUEUE_RESUME, 0).rc, 0);
    until_acked(f, 9);
    stop(f);
}

/* Without an id and a place duplicates cannot be told: taken, or parked. */
static void
test_no_id(void **state)
{
    struct fix *f = *state;

    (void)fake_publish(f->broker, "k", "", NULL);
    (void)fake_publish(f->broker, "k", "", NULL);
    start(f);
    until_acked(f, 2);
    f->want = 2;
    fake_until(taken, f, "both were counted");
    assert_int_equal(status(f).without_id, 2);
    assert_int_equal(fake_count(&f->log, "orders-k"), 2);
    f->conf.park_no_id = true;
    restart(f);
    (void)fake_publish(f->broker, "k", "", NULL);
    until_acked(f, 3);
    stop(f);
    expect_reason(f, 0, "\"it has no id");
}

/* A stream that was moved is followed; one that is gone for good parks its messages. */
static void
test_streams(void **state)
{
    struct fix       *f = *state;
    struct log_change change = {
        .stream = slice_str("orders-k0"), .expected = LOG_ANY, .what = LOG_SET_TOMBSTONE};
    struct log_req req = {.changes = &change, .change_count = 1};

    publish(f, 9, 3);
    start(f);
    until_acked(f, 9);
    moves_fake(f->log.log, "orders-k1", "elsewhere-1");
    fake_ok(log_append(f->log.log, &req), &req.err);
    publish(f, 9, 3);
    until_acked(f, 18);
    f->want = 18;
    fake_until(taken, f, "all were counted");
    assert_int_equal(status(f).parked, 3);
    stop(f);
    assert_int_equal(fake_count(&f->log, "orders-k2"), 6);
    expect_reason(f, 0, "\"");
    assert_true(fake_count(&f->log, "elsewhere-1") >= 6);
}

/* Together too much for one commit, one by one not. */
static void
test_large(void **state)
{
    struct fix *f = *state;
    char       *body = malloc(400001);

    assert_non_null(body);
    memset(body, '1', 400000);
    body[400000] = '\0';
    log_close(f->log.log);
    f->log.conf.commit_bytes_max = 1 << 20;
    fake_ok(log_open(env_real(), f->log.dir, &f->log.conf, NULL, &f->log.log, &f->err), &f->err);
    for (int i = 0; i < 12; i++)
        (void)fake_publish(f->broker, "k", NULL, body);
    free(body);
    start(f);
    until_acked(f, 12);
    stop(f);
    assert_int_equal(fake_count(&f->log, "orders-k"), 12);
}

static void
test_pause(void **state)
{
    struct fix *f = *state;

    publish(f, 50, 2);
    start(f);
    until_acked(f, 50);
    assert_int_equal(command(f, QUEUE_PAUSE, 0).rc, 0);
    restart(f);
    fake_until(is_paused, f, "it was paused");
    publish(f, 50, 2);
    assert_int_equal(command(f, QUEUE_RESUME, 0).rc, 0);
    until_acked(f, 100);
    assert_int_equal(command(f, QUEUE_DROP, 0).rc, 0);
    assert_true(f->broker->unprepared);
    assert_int_equal(command(f, QUEUE_PAUSE, 0).rc, E_STATE);
    restart(f);
    assert_int_equal(command(f, QUEUE_GAP, 0).rc, E_STATE);
    assert_int_equal(command(f, QUEUE_RESUME, 0).rc, 0);
    (void)fake_publish(f->broker, "other", "m99", NULL); /* forgotten with the window */
    until_acked(f, 101);
    assert_int_equal(fake_count(&f->log, "orders-other"), 1);
    assert_int_equal(command(f, QUEUE_GAP, 0).rc, 0);
    publish(f, 1, 1);
    until_acked(f, 102);
    assert_true(f->broker->gap);
    queue_stop(f->q);
    assert_int_equal(command(f, QUEUE_PAUSE, 0).rc, E_STATE);
    stop(f);
}

/* A queue with places: the checkpoint is in the commit, and duplicates are known by them. */
static void
test_places(void **state)
{
    struct fix *f = *state;

    f->broker->places = true;
    for (int i = 0; i < 100; i++)
        (void)fake_publish(f->broker, "k", "", NULL);
    f->broker->lose_confirms = true;
    start(f);
    f->want = 100;
    fake_until(taken, f, "all were taken");
    stop(f);
    f->broker->lose_confirms = false;
    fake_log_reopen(&f->log);
    start(f);
    f->want = 100;
    fake_until(taken, f, "all came again");
    assert_int_equal(status(f).duplicates, 100);
    assert_int_equal(status(f).without_id, 0);
    stop(f);
    assert_string_equal(f->broker->checkpoint, "{\"next\":100}");
    assert_int_equal(fake_count(&f->log, "orders-k"), 100);
}

static void
test_verify(void **state)
{
    static const char good[] = "{\"id\":\"v1\",\"stream\":\"order-1\",\"type\":\"Paid\","
                               "\"data\":{\"a\":1},\"token\":\"t\"}";
    struct fix       *f = *state;
    struct log_event  e;
    struct log_iter  *it;

    f->conf.verify_stream = "$unverified-pub";
    (void)fake_publish(f->broker, "k", "a", good);
    (void)fake_publish(f->broker, "k", "b", good); /* the id in the body counts */
    (void)fake_publish(f->broker, "k", "c", "{\"id\":\"v2\"}");
    start(f);
    until_acked(f, 3);
    f->want = 3;
    fake_until(taken, f, "all were counted");
    assert_int_equal(status(f).duplicates, 1);
    assert_int_equal(status(f).parked, 1);
    stop(f);
    it = event_at(f, "$unverified-pub", 0, &e);
    assert_true(slice_is(e.type, "Paid"));
    assert_true(slice_is(e.data, "{\"a\":1}"));
    expect_member(e.meta, "$verify.stream", "\"order-1\"");
    log_iter_close(it);
    assert_int_equal(fake_count(&f->log, "$unverified-pub"), 1);
}

/* One that there is no memory for is tried again. */
static void
test_verify_without_memory(void **state)
{
    struct fix          *f = *state;
    struct queue_message m = {
        .body = slice_str("{\"id\":\"v1\",\"stream\":\"order-1\",\"type\":\"Paid\"}")};
    struct queue_form  form;
    struct queue_event e;
    struct buf         text;

    f->conf.verify_stream = "$unverified-pub";
    buf_init(&text, 4);
    fake_ok(queuei_form_open(&form, &f->conf, &f->err), &f->err);
    assert_int_equal(queuei_message_event(&form, &m, &text, &e, &f->err), E_NOMEM);
    assert_int_equal(f->err.kind, ERR_RETRY);
    queuei_form_close(&form);
    buf_fini(&text);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_once),
        TEST(test_form),
        TEST(test_duplicates),
        TEST(test_window),
        TEST(test_window_time),
        TEST(test_known_to_the_log),
        TEST(test_lost_acks),
        TEST(test_fail_at_every_call),
        TEST(test_kill_at_every_call),
        TEST(test_retry),
        TEST(test_fenced),
        TEST(test_parked),
        TEST(test_parked_max),
        TEST(test_no_id),
        TEST(test_streams),
        TEST(test_large),
        TEST(test_pause),
        TEST(test_places),
        TEST(test_verify),
        TEST(test_verify_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
