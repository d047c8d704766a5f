/* The source http: what a feed says, and what it says when it is not well. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/json.h"
#include "http_drivers.h"
#include "http_service.h"
#include "source/http/http.h"

struct world {
    struct http_service *service;
    struct source       *source;
    struct source_batch  batch;
    struct err           err;
    uint16_t             port;
};

static int
set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);

    w->service = http_service_new();
    w->port = http_fake_port(http_service_fake(w->service));
    *state = w;
    return 0;
}

static int
tear_down(void **state)
{
    struct world *w = *state;

    source_free(w->source);
    http_service_free(w->service);
    free(w);
    return 0;
}

static void
restart(struct world *w, bool snapshot, const char *checkpoint, const char *more)
{
    source_free(w->source);
    w->source = http_source(w->port, snapshot, more);
    http_ok(source_start(w->source, slice_str(checkpoint), &w->err), &w->err);
}

/* The next batch that says something, or an error. */
static int
next(struct world *w, uint32_t max)
{
    int rc = 0;

    for (int i = 0; i < 1200; i++) {
        rc = source_poll(w->source, max, 50, &w->batch, &w->err);
        if (rc != 0 || w->batch.count > 0 || w->batch.caught_up)
            return rc;
    }
    fail_msg("nothing came");
    return rc;
}

static void
expect(const struct world *w, uint32_t i, enum change_op op, const char *key, const char *after,
       const char *origin, const char *position)
{
    const struct change *c = &w->batch.changes[i];

    assert_true(i < w->batch.count);
    assert_int_equal(c->op, op);
    assert_true(slice_is(c->table, "orders"));
    assert_true(slice_is(c->key, key));
    assert_true(slice_is(c->after, after));
    assert_true(slice_is(c->origin, origin));
    assert_true(slice_is(c->position, position));
}

static void
test_feed(void **state)
{
    struct world *w = *state;

    http_service_write(w->service, "7", "{\"name\": \"x\"}");
    http_service_write(w->service, "7", "{\"name\":null}");
    http_service_write(w->service, "7", NULL);
    restart(w, false, "", "");
    http_ok(next(w, 2), &w->err);
    assert_int_equal(w->batch.count, 2);
    assert_false(w->batch.caught_up);
    expect(w, 0, CHANGE_UPDATE, "7", "{\"id\":7,\"name\":\"x\"}", "", "1");
    expect(w, 1, CHANGE_UPDATE, "7", "{\"id\":7,\"name\":null}", "", "2");
    assert_true(slice_is(w->batch.checkpoint, "{\"cursor\":2}"));
    http_ok(next(w, 2), &w->err);
    assert_int_equal(w->batch.count, 1);
    assert_true(w->batch.caught_up);
    expect(w, 0, CHANGE_DELETE, "7", "", "", "3");
    http_ok(next(w, 2), &w->err);
    assert_int_equal(w->batch.count, 0);
    assert_true(w->batch.caught_up);
    restart(w, false, "{\"cursor\":2}", "");
    http_ok(next(w, 100), &w->err);
    expect(w, 0, CHANGE_DELETE, "7", "", "", "3");
}

static void
test_fields_and_origin(void **state)
{
    struct world *w = *state;

    http_fake_push(http_service_fake(w->service), FAKE_ANSWER, 200, NULL,
                   "{\"changes\":[{\"cursor\":\"c-1\",\"op\":\"put\",\"id\":\"k/1\",\"origin\":"
                   "\"oxbow:m\",\"row\":{\"b\":1.0,\"a\":\"\\u0041\",\"rest\":[1]},"
                   "\"more\":{\"at\":\"2024-02-03T04:05:06Z\"}}],\"next\":\"c-1\","
                   "\"head\":\"c-9\"}");
    restart(w, false, "", "fields: [a, b]\n");
    http_ok(next(w, 10), &w->err);
    expect(w, 0, CHANGE_UPDATE, "k/1", "{\"a\":\"A\",\"b\":1}", "oxbow:m", "c-1");
    assert_true(slice_is(w->batch.checkpoint, "{\"cursor\":\"c-1\"}"));
    assert_false(w->batch.caught_up);
}

static void
test_snapshot(void **state)
{
    struct world *w = *state;
    char          key[16], row[32], checkpoint[128];

    for (int i = 1; i <= 10; i++) {
        (void)snprintf(key, sizeof key, "%d", i);
        (void)snprintf(row, sizeof row, "{\"n\":%d}", i);
        http_service_write(w->service, key, row);
    }
    restart(w, true, "", "");
    http_ok(next(w, 4), &w->err);
    assert_int_equal(w->batch.count, 4);
    assert_false(w->batch.caught_up);
    expect(w, 3, CHANGE_READ, "4", "{\"id\":4,\"n\":4,\"version\":4}", "", "scan:10:4");
    (void)snprintf(checkpoint, sizeof checkpoint, "%.*s", SLICE_FMT(w->batch.checkpoint));
    assert_string_equal(checkpoint, "{\"cursor\":10,\"scan_after\":\"4\",\"scanned\":4}");
    http_service_write(w->service, "2", "{\"n\":22}"); /* behind the scan */
    http_service_write(w->service, "9", NULL);         /* before it */
    restart(w, true, checkpoint, "");
    http_ok(next(w, 100), &w->err);
    assert_int_equal(w->batch.count, 5);
    expect(w, 4, CHANGE_READ, "10", "{\"id\":10,\"n\":10,\"version\":10}", "", "scan:10:10");
    assert_true(slice_is(w->batch.checkpoint, "{\"cursor\":10}"));
    http_ok(next(w, 100), &w->err);
    assert_int_equal(w->batch.count, 2);
    expect(w, 0, CHANGE_UPDATE, "2", "{\"id\":2,\"n\":22}", "", "11");
    expect(w, 1, CHANGE_DELETE, "9", "", "", "12");
    assert_true(w->batch.caught_up);
}

static void
test_empty_snapshot(void **state)
{
    struct world *w = *state;

    restart(w, true, "", "");
    http_ok(next(w, 4), &w->err);
    assert_int_equal(w->batch.count, 0);
    assert_true(w->batch.caught_up);
}

static void
test_gap(void **state)
{
    struct world *w = *state;

    http_service_write(w->service, "1", "{\"n\":1}");
    http_service_write(w->service, "1", "{\"n\":2}");
    http_service_forget(w->service);
    restart(w, false, "{\"cursor\":1}", "");
    assert_int_equal(next(w, 10), E_GONE);
    assert_int_equal(w->err.kind, ERR_FATAL);
    assert_non_null(strstr(w->err.text, "gap"));
    assert_non_null(strstr(w->err.text, "cursor 1 "));
    restart(w, false, "{\"cursor\":99}", "");
    assert_int_equal(next(w, 10), E_GONE); /* 409: never given out */
}

struct trouble {
    enum fake_mode mode;
    int            status;
    const char    *body;
    int            code;
};

/* Whatever comes, the cursor stays, and the changes come afterwards. */
static void
test_troubles(void **state)
{
    static const struct trouble troubles[] = {
        {FAKE_CLOSE, 0, "", E_REMOTE}, /* on a new connection: a kept one is tried again */
        {FAKE_ANSWER, 500, "{\"error\":\"storage\"}", E_REMOTE},
        {FAKE_ANSWER, 404, "", E_REJECTED},
        {FAKE_ANSWER, 302, "", E_REMOTE},
        {FAKE_ANSWER, 401, "", E_AUTH},
        {FAKE_HALF, 200, "{\"changes\":[],\"next\":1,\"head\":1}", E_REMOTE},
        {FAKE_GARBAGE, 0, "hello", E_SCHEMA},
        {FAKE_ANSWER, 200, "<html>", E_SYNTAX},
        {FAKE_ANSWER, 200, "", E_SYNTAX},
        {FAKE_ANSWER, 200, "[]", E_SCHEMA},
        {FAKE_ANSWER, 200, "{\"changes\":{}}", E_SCHEMA},
        {FAKE_ANSWER, 200, "{\"changes\":[]}", E_SCHEMA},
        {FAKE_ANSWER, 200, "{\"changes\":[],\"next\":{}}", E_SCHEMA},
        {FAKE_ANSWER, 200, "{\"changes\":[{}],\"next\":1}", E_SCHEMA},
        {FAKE_ANSWER, 200, "{\"changes\":[7],\"next\":1}", E_SCHEMA},
        {FAKE_ANSWER, 200, "{\"changes\":[{\"op\":\"put\",\"id\":1,\"cursor\":1}],\"next\":1}",
         E_SCHEMA},
        {FAKE_ANSWER, 200, "{\"changes\":[{\"op\":\"delete\",\"id\":1}],\"next\":1}", E_SCHEMA},
        {FAKE_ANSWER, 200,
         "{\"changes\":[{\"op\":\"delete\",\"id\":1,\"cursor\":0}],\"next\":0,\"head\":4}",
         E_SCHEMA},
    };
    struct world *w = *state;

    http_service_write(w->service, "1", "{\"n\":1}");
    restart(w, false, "", "");
    for (size_t i = 0; i < sizeof troubles / sizeof troubles[0]; i++) {
        http_fake_push(http_service_fake(w->service), troubles[i].mode, troubles[i].status, NULL,
                       troubles[i].body);
        if (next(w, 10) != troubles[i].code || w->err.kind != ERR_RETRY)
            fail_msg("trouble %zu: %s, %s: %s", i, err_name(w->err.code),
                     err_kind_name(w->err.kind), w->err.text);
    }
    http_ok(next(w, 10), &w->err);
    expect(w, 0, CHANGE_UPDATE, "1", "{\"id\":1,\"n\":1}", "", "1");
}

static void
test_unknown_op(void **state)
{
    struct world *w = *state;

    restart(w, false, "", "");
    http_fake_push(http_service_fake(w->service), FAKE_ANSWER, 200, NULL,
                   "{\"changes\":[{\"op\":\"merge\",\"id\":1,\"cursor\":1}],\"next\":1}");
    assert_int_equal(next(w, 10), E_SCHEMA);
    assert_int_equal(w->err.kind, ERR_FATAL);
}

/* A service that ignores the limit is read in pieces, each with a cursor of its own. */
static void
test_more_than_asked(void **state)
{
    struct world *w = *state;

    restart(w, false, "", "");
    http_fake_push(http_service_fake(w->service), FAKE_ANSWER, 200, NULL,
                   "{\"changes\":[{\"op\":\"delete\",\"id\":1,\"cursor\":1},{\"op\":\"delete\","
                   "\"id\":2,\"cursor\":2}],\"next\":2,\"head\":2}");
    http_ok(next(w, 1), &w->err);
    assert_int_equal(w->batch.count, 1);
    assert_false(w->batch.caught_up);
    assert_true(slice_is(w->batch.checkpoint, "{\"cursor\":1}"));
}

/* A service that does not answer holds nobody; its answer is taken when it comes. */
static void
test_slow(void **state)
{
    struct world *w = *state;

    restart(w, false, "", "timeout: 1500ms\n");
    http_fake_push(http_service_fake(w->service), FAKE_HANG, 0, NULL, NULL);
    for (int i = 0; i < 2; i++) {
        http_ok(source_poll(w->source, 10, 5, &w->batch, &w->err), &w->err);
        assert_int_equal(w->batch.count, 0);
        assert_false(w->batch.caught_up);
    }
    assert_int_equal(next(w, 10), E_TIMEOUT);
    assert_int_equal(w->err.kind, ERR_RETRY);
    http_ok(next(w, 10), &w->err);
    assert_true(w->batch.caught_up);
}

/* Back to a checkpoint, with an answer from beyond it still on its way. */
static void
test_start_again(void **state)
{
    struct world *w = *state;

    http_service_write(w->service, "1", "{\"n\":1}");
    http_service_write(w->service, "1", "{\"n\":2}");
    restart(w, false, "", "");
    http_ok(next(w, 1), &w->err);
    expect(w, 0, CHANGE_UPDATE, "1", "{\"id\":1,\"n\":1}", "", "1");
    http_fake_push(http_service_fake(w->service), FAKE_HANG, 0, NULL, NULL);
    http_ok(source_poll(w->source, 1, 5, &w->batch, &w->err), &w->err);
    http_ok(source_start(w->source, slice_str("{\"cursor\":0}"), &w->err), &w->err);
    http_ok(next(w, 1), &w->err);
    expect(w, 0, CHANGE_UPDATE, "1", "{\"id\":1,\"n\":1}", "", "1");
    http_ok(next(w, 1), &w->err);
    expect(w, 0, CHANGE_UPDATE, "1", "{\"id\":1,\"n\":2}", "", "2");
}

static void
count_findings(void *arg, enum finding_level level, const char *text)
{
    (void)text;
    assert_true(level != FINDING_MISSING);
    (*(int *)arg)++;
}

static void
test_check_and_status(void **state)
{
    struct world *w = *state;
    struct buf    text = {0};
    struct slice  raw;
    int           n = 0;

    w->source = http_source(w->port, false, "");
    http_ok(w->source->ops->check(w->source, count_findings, &n, &w->err), &w->err);
    http_ok(w->source->ops->prepare(w->source, true, count_findings, &n, &w->err), &w->err);
    assert_int_equal(n, 3);
    http_fake_push(http_service_fake(w->service), FAKE_ANSWER, 200, NULL, "[1]");
    assert_int_equal(w->source->ops->check(w->source, count_findings, &n, &w->err), E_SCHEMA);
    http_ok(source_start(w->source, slice_str(""), &w->err), &w->err);
    http_ok(next(w, 1), &w->err);
    http_ok(w->source->ops->status(w->source, &text, &w->err), &w->err);
    assert_int_equal(json_check(buf_slice(&text), &w->err), 0);
    assert_true(json_get(buf_slice(&text), "caught_up", &raw));
    buf_fini(&text);
}

static void
test_bad_checkpoints(void **state)
{
    static const char *const bad[] = {"{}", "{\"cursor\":{}}", "x",
                                      "{\"cursor\":1,\"scan_after\":\"3\"}"};
    struct world            *w = *state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        source_free(w->source);
        w->source = http_source(w->port, false, "");
        assert_int_not_equal(source_start(w->source, slice_str(bad[i]), &w->err), 0);
        assert_int_equal(w->err.kind, ERR_FATAL);
    }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_start_again),
        TEST(test_feed),
        TEST(test_fields_and_origin),
        TEST(test_snapshot),
        TEST(test_gap),
        TEST(test_empty_snapshot),
        TEST(test_troubles),
        TEST(test_unknown_op),
        TEST(test_more_than_asked),
        TEST(test_slow),
        TEST(test_bad_checkpoints),
        TEST(test_check_and_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
