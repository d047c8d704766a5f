/* The HTTP client against a server that behaves and misbehaves as told. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/must.h"
#include "env/env_real.h"
#include "http_fake.h"
#include "net/http.h"

struct fixture {
    struct http_fake  *fake;
    struct net_client *client;
    struct net_answer  answer;
    struct err         err;
    char               url[128];
};

static struct net_client *
new_client(uint32_t total_ms, uint32_t in_flight, size_t answer_max)
{
    struct net_def     def = {60000, total_ms, in_flight, answer_max, NULL, NET_AUTO};
    struct net_client *client;

    assert_int_equal(net_client_new(env_real(), &def, &client, NULL), 0);
    return client;
}

static int
set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    f->fake = http_fake_new(NULL, NULL);
    f->client = new_client(60000, 1, 4096);
    (void)snprintf(f->url, sizeof f->url, "http://127.0.0.1:%u/a?b=1", http_fake_port(f->fake));
    *state = f;
    return 0;
}

static int
tear_down(void **state)
{
    struct fixture *f = *state;

    net_client_free(f->client);
    http_fake_free(f->fake);
    free(f);
    return 0;
}

static int
call(struct fixture *f, const char *method, const char *body, struct net_client *client)
{
    struct net_header  header = {slice_str("X-Test"), slice_str("yes")};
    struct net_request r = {.method = method,
                            .url = slice_str(f->url),
                            .headers = &header,
                            .header_count = 1,
                            .body = slice_str(body),
                            .label = "TEST",
                            .changes = body != NULL};

    return net_call(client != NULL ? client : f->client, &r, &f->answer, &f->err);
}

static void
test_get(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 3; i++) {
        http_fake_push(f->fake, FAKE_ANSWER, 200, "ETag: \"v7\"\r\nX: y\r\n", "{\"a\":1}");
        assert_int_equal(call(f, "GET", NULL, NULL), 0);
        assert_int_equal(f->answer.status, 200);
        assert_true(slice_is(f->answer.body, "{\"a\":1}"));
        assert_true(slice_is(f->answer.etag, "\"v7\""));
        assert_true(http_fake_last_has(f->fake, "GET /a?b=1\n"));
        assert_true(http_fake_last_has(f->fake, "X-Test: yes\r\n"));
    }
    assert_int_equal(http_fake_connections(f->fake), 1); /* it was kept */
    assert_int_equal(net_status(&f->answer, "TEST", false, &f->err), 0);
}

static void
test_methods_and_bodies(void **state)
{
    struct fixture *f = *state;

    http_fake_push(f->fake, FAKE_ANSWER, 201, NULL, "");
    assert_int_equal(call(f, "PUT", "{\"x\":2}", NULL), 0);
    assert_int_equal(f->answer.status, 201);
    assert_int_equal(f->answer.etag.len, 0);
    assert_true(http_fake_last_has(f->fake, "PUT /a?b=1\n"));
    assert_true(http_fake_last_has(f->fake, "\n{\"x\":2}"));
    assert_false(http_fake_last_has(f->fake, "Expect"));
    http_fake_push(f->fake, FAKE_ANSWER, 204, NULL, NULL);
    assert_int_equal(call(f, "DELETE", NULL, NULL), 0);
    assert_true(http_fake_last_has(f->fake, "DELETE /a"));
    assert_false(http_fake_last_has(f->fake, "Content-Length"));
    http_fake_push(f->fake, FAKE_ANSWER, 200, NULL, NULL);
    assert_int_equal(call(f, "PUT", "", NULL), 0);
    assert_true(http_fake_last_has(f->fake, "Content-Length: 0\r\n"));
}

static void
expect_failure(struct fixture *f, const char *body, int code, enum err_kind kind)
{
    assert_int_equal(call(f, body != NULL ? "PUT" : "GET", body, NULL), code);
    assert_int_equal(f->err.kind, kind);
    assert_int_equal(strncmp(f->err.text, "TEST: ", 6), 0);
}

static void
test_lost_answers(void **state)
{
    struct fixture *f = *state;

    http_fake_push(f->fake, FAKE_CLOSE, 0, NULL, NULL);
    expect_failure(f, NULL, E_REMOTE, ERR_RETRY);
    http_fake_push(f->fake, FAKE_CLOSE, 0, NULL, NULL);
    expect_failure(f, "{}", E_REMOTE, ERR_UNSURE);
    http_fake_push(f->fake, FAKE_HALF, 200, NULL, "{\"a\":123456789}");
    expect_failure(f, NULL, E_REMOTE, ERR_RETRY);
    http_fake_push(f->fake, FAKE_HALF, 200, NULL, "{\"a\":123456789}");
    expect_failure(f, "{}", E_REMOTE, ERR_UNSURE);
    http_fake_push(f->fake, FAKE_GARBAGE, 0, NULL, "\x16\x03\x01 what is this");
    expect_failure(f, NULL, E_SCHEMA, ERR_RETRY);
    http_fake_push(f->fake, FAKE_GARBAGE, 0, NULL, "220 mail.example ESMTP\r\n");
    expect_failure(f, "{}", E_SCHEMA, ERR_UNSURE);
    http_fake_push(f->fake, FAKE_ANSWER, 200, NULL, "fine");
    assert_int_equal(call(f, "GET", NULL, NULL), 0); /* and on it goes */
}

static void
test_slow(void **state)
{
    struct fixture    *f = *state;
    struct net_client *hasty = new_client(500, 1, 4096);

    http_fake_push(f->fake, FAKE_HANG, 0, NULL, NULL);
    assert_int_equal(call(f, "GET", NULL, hasty), E_TIMEOUT);
    assert_int_equal(f->err.kind, ERR_RETRY);
    http_fake_push(f->fake, FAKE_HANG, 0, NULL, NULL);
    assert_int_equal(call(f, "PUT", "{}", hasty), E_TIMEOUT);
    assert_int_equal(f->err.kind, ERR_UNSURE);
    net_client_free(hasty);
}

static void
test_nobody_there(void **state)
{
    struct fixture    *f = *state;
    struct sockaddr_in addr = {.sin_family = AF_INET};
    socklen_t          len = sizeof addr;
    int                fd = socket(AF_INET, SOCK_STREAM, 0);

    /* Bound, but nobody listens: no other process can take the port meanwhile. */
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    (void)snprintf(f->url, sizeof f->url, "http://127.0.0.1:%u/", ntohs(addr.sin_port));
    expect_failure(f, NULL, E_CONNECT, ERR_RETRY);
    expect_failure(f, "{}", E_CONNECT, ERR_RETRY); /* never sent, so no doubt */
    (void)close(fd);
}

static void
test_limits(void **state)
{
    struct fixture    *f = *state;
    struct net_request r = {.method = "PUT", .url = slice_str(f->url), .label = "TEST"};
    char               big[8192];

    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    http_fake_push(f->fake, FAKE_ANSWER, 200, NULL, big);
    expect_failure(f, NULL, E_LIMIT, ERR_RETRY);
    http_fake_push(f->fake, FAKE_ANSWER, 200, NULL, big);
    r.head_only = true;
    assert_int_equal(net_call(f->client, &r, &f->answer, &f->err), 0);
    assert_int_equal(f->answer.status, 200);
    assert_int_equal(f->answer.body.len, 4096);
    big[4096] = '\0';
    http_fake_push(f->fake, FAKE_ANSWER, 200, NULL, big);
    assert_int_equal(call(f, "GET", NULL, NULL), 0);
}

static void
test_bad_requests(void **state)
{
    struct fixture    *f = *state;
    struct net_header  header = {slice_str("X"), slice_str("a\r\nEvil: 1")};
    struct net_request r = {
        .method = "GET", .url = slice_str(f->url), .headers = &header, .header_count = 1};

    assert_int_equal(net_call(f->client, &r, &f->answer, &f->err), E_INVALID);
    assert_int_equal(f->err.kind, ERR_DATA);
    header.value = slice_str("fine");
    header.name = slice_str("no good");
    assert_int_equal(net_call(f->client, &r, &f->answer, &f->err), E_INVALID);
    r.header_count = 0;
    r.url = slice_str("ftp://127.0.0.1/");
    assert_int_equal(net_call(f->client, &r, &f->answer, &f->err), E_INVALID);
    r.url = slice_str("http://127.0.0.1/a b");
    assert_int_equal(net_call(f->client, &r, &f->answer, &f->err), E_INVALID);
    r.url = slice_str("http://");
    assert_int_not_equal(net_call(f->client, &r, &f->answer, &f->err), 0);
    assert_int_equal(http_fake_count(f->fake), 0);
    assert_int_equal(net_in_flight(f->client), 0);
}

static void
expect_status(struct fixture *f, int status, bool changes, int code, enum err_kind kind)
{
    struct net_answer answer = {.status = status, .retry_ms = 7};

    assert_int_equal(net_status(&answer, "L", changes, &f->err), code);
    if (code != 0)
        assert_int_equal(f->err.kind, kind);
    if (code != 0 && kind == ERR_RETRY)
        assert_int_equal(f->err.retry_ms, 7);
}

static void
test_statuses(void **state)
{
    struct fixture   *f = *state;
    struct net_answer answer = {.status = 422};

    expect_status(f, 200, true, 0, ERR_NONE);
    expect_status(f, 299, true, 0, ERR_NONE);
    for (int i = 0; i < 4; i++)
        expect_status(f, ((const int[]){408, 425, 429, 500})[i], true, E_REMOTE, ERR_RETRY);
    expect_status(f, 503, true, E_REMOTE, ERR_RETRY);
    expect_status(f, 502, true, E_REMOTE, ERR_UNSURE);
    expect_status(f, 504, false, E_REMOTE, ERR_RETRY);
    expect_status(f, 302, true, E_REMOTE, ERR_RETRY);
    expect_status(f, 401, true, E_AUTH, ERR_RETRY);
    expect_status(f, 403, true, E_REJECTED, ERR_DATA);
    expect_status(f, 404, true, E_REJECTED, ERR_DATA);
    expect_status(f, 422, true, E_REJECTED, ERR_DATA);
    answer.body = slice_str("{\"error\":\"invalid-row\",\"message\":\"secret\"}");
    assert_int_equal(net_status(&answer, "PUT /x/{key}", true, &f->err), E_REJECTED);
    assert_string_equal(f->err.text, "PUT /x/{key}: status 422: invalid-row");
    answer.body = slice_str("{\"error\":\"two\\nlines\\u0007\"}");
    (void)net_status(&answer, "L", true, &f->err);
    assert_string_equal(f->err.text, "L: status 422: two lines ");
    answer.body = slice_str("<html>secret</html>");
    (void)net_status(&answer, "L", true, &f->err);
    assert_string_equal(f->err.text, "L: status 422");
}

static void
test_retry_after(void **state)
{
    struct fixture *f = *state;
    char            header[128], date[64];
    time_t          then = time(NULL) + 100;
    struct tm       tm;

    http_fake_push(f->fake, FAKE_ANSWER, 503, "Retry-After: 2\r\n", NULL);
    assert_int_equal(call(f, "GET", NULL, NULL), 0);
    assert_int_equal(f->answer.retry_ms, 2000);
    (void)gmtime_r(&then, &tm);
    (void)strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    (void)snprintf(header, sizeof header, "retry-after: %s\r\n", date);
    http_fake_push(f->fake, FAKE_ANSWER, 429, header, NULL);
    assert_int_equal(call(f, "GET", NULL, NULL), 0);
    assert_in_range(f->answer.retry_ms, 50000, 100000);
    for (int i = 0; i < 3; i++) {
        (void)snprintf(header, sizeof header, "Retry-After: %s\r\n",
                       ((const char *[]){"Sun, 06 Nov 1994 08:49:37 GMT", "soon", "-5"})[i]);
        http_fake_push(f->fake, FAKE_ANSWER, 429, header, NULL);
        assert_int_equal(call(f, "GET", NULL, NULL), 0);
        assert_int_equal(f->answer.retry_ms, 0);
    }
    http_fake_push(f->fake, FAKE_ANSWER, 429, "Retry-After: 99999999\r\n", NULL);
    assert_int_equal(call(f, "GET", NULL, NULL), 0);
    assert_int_equal(f->answer.retry_ms, NET_RETRY_MS_MAX);
}

struct many {
    struct fixture    *f;
    struct net_client *client;
    uint32_t           done, more;
};

static int
start(struct many *m)
{
    struct net_request r = {
        .method = "PUT", .url = slice_str(m->f->url), .body = slice_str("{}"), .changes = true};

    return net_start(m->client, &r, m, &m->f->err);
}

static void
count_done(void *arg, void *tag, int rc, const struct net_answer *answer, const struct err *err)
{
    struct many *m = arg;

    (void)err;
    assert_ptr_equal(tag, m);
    assert_int_equal(rc, 0);
    assert_int_equal(answer->status, 200);
    if (m->more > 0) {
        m->more--;
        assert_int_equal(start(m), 0);
    }
    assert_true(slice_is(answer->body, "ok")); /* the new one has not taken its place */
    m->done++;
}

static void
test_many(void **state)
{
    struct fixture *f = *state;
    struct many     m = {f, new_client(60000, 8, 4096), 0, 50};

    http_fake_push_many(f->fake, 58, false, FAKE_ANSWER, 200, NULL, "ok");
    for (int i = 0; i < 8; i++)
        assert_int_equal(start(&m), 0);
    assert_int_equal(start(&m), E_BUSY);
    assert_int_equal(net_in_flight(m.client), 8);
    while (m.done < 58)
        assert_int_equal(net_poll(m.client, 1000, count_done, &m, &f->err), 0);
    assert_int_equal(http_fake_count(f->fake), 58);
    assert_in_range(http_fake_connections(f->fake), 1, 9);
    assert_int_equal(net_in_flight(m.client), 0);
    http_fake_push(f->fake, FAKE_HANG, 0, NULL, NULL);
    assert_int_equal(start(&m), 0);
    assert_int_equal(net_poll(m.client, 0, count_done, &m, &f->err), 0);
    net_client_free(m.client); /* with one in flight */
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_get),          TEST(test_methods_and_bodies), TEST(test_lost_answers),
        TEST(test_slow),         TEST(test_nobody_there),       TEST(test_limits),
        TEST(test_bad_requests), TEST(test_statuses),           TEST(test_retry_after),
        TEST(test_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
