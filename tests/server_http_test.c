/* The network front as HTTP: framing, limits, time-outs, and clients that behave badly. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server_fix.h"

#define LIVE "GET /health/live HTTP/1.1\r\n" HOST "\r\n"

static void
test_keep_alive(void **state)
{
    struct client c;
    struct answer a;

    client_open(&c, *state);
    for (int i = 0; i < 3; i++) {
        client_send(&c, LIVE);
        client_answer(&c, &a, true);
        assert_int_equal(a.status, 200);
        assert_true(answer_has(&a, "Date: ") && answer_has(&a, "Content-Type: application/json"));
        assert_true(buf_has(&a.body, "live"));
        answer_fini(&a);
    }
    client_send(&c, "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    client_answer(&c, &a, true);
    assert_true(answer_has(&a, "Connection: close"));
    answer_fini(&a);
    client_expect_end(&c);
    client_close(&c);
}

/* Answers come in order, whatever arrives in one piece. */
static void
test_pipelining(void **state)
{
    static const char append[] = "POST /v1/streams/p HTTP/1.1\r\n" HOST
                                 "Content-Length: 21\r\n\r\n{\"type\":\"A\",\"data\":1}";
    struct client c;
    struct answer a;
    struct buf    all = {0};

    client_open(&c, *state);
    for (int i = 0; i < 50; i++) {
        buf_add_str(&all, append);
        buf_add_str(&all, LIVE);
    }
    client_send_bytes(&c, all.data, all.len);
    for (int i = 0; i < 50; i++) {
        char version[40];

        client_answer(&c, &a, true);
        assert_int_equal(a.status, 201);
        (void)snprintf(version, sizeof version, "\"last_version\":%d}", i);
        assert_true(buf_has(&a.body, version));
        answer_fini(&a);
        client_answer(&c, &a, true);
        assert_int_equal(a.status, 200);
        answer_fini(&a);
    }
    buf_fini(&all);
    client_close(&c);
}

static void
test_byte_by_byte(void **state)
{
    static const char text[] =
        "POST /v1/streams/bytes HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
        "a\r\n{\"type\":\"A\r\nB;x=y\r\n\",\"data\":1}\r\n0\r\n\r\n" LIVE;
    struct client c;
    struct answer a;

    client_open(&c, *state);
    for (size_t i = 0; i < sizeof text - 1; i++)
        client_send_bytes(&c, text + i, 1);
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 201);
    answer_fini(&a);
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 200);
    answer_fini(&a);
    client_close(&c);
}

/* The client has nothing more to send, but wants its answer. */
static void
test_half_closed(void **state)
{
    struct client c;
    struct answer a;

    client_open(&c, *state);
    client_send(&c, "POST /v1/streams/half HTTP/1.1\r\n" HOST
                    "Content-Length: 21\r\n\r\n{\"type\":\"A\",\"data\":1}" LIVE);
    assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 201);
    answer_fini(&a);
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 200);
    answer_fini(&a);
    client_expect_end(&c);
    client_close(&c);
}

static void
test_cut_requests(void **state)
{
    static const char *const texts[] = {
        "",
        "GET / HT",
        "GET / HTTP/1.1\r\nHost",
        "POST /v1/streams/cut HTTP/1.1\r\n" HOST "Content-Length: 100\r\n\r\n{",
    };

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct client c;

        client_open(&c, *state);
        client_send(&c, texts[i]);
        assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
        client_expect_end(&c);
        client_close(&c);
    }
    assert_int_equal(ask(*state, LIVE, NULL), 200);
}

static void
test_head_and_options(void **state)
{
    struct client c;
    struct answer a;

    client_open(&c, *state);
    client_send(&c, "HEAD /health/live HTTP/1.1\r\n" HOST "\r\n");
    client_answer(&c, &a, false);
    assert_true(a.status == 200 && answer_has(&a, "Content-Length: 18\r\n"));
    answer_fini(&a);
    client_send(&c, "HEAD /v1/all HTTP/1.1\r\n" HOST "\r\n");
    client_answer(&c, &a, false);
    assert_int_equal(a.status, 200);
    answer_fini(&a);
    client_send(&c, "OPTIONS /v1/streams/a HTTP/1.1\r\n" HOST "\r\n");
    client_answer(&c, &a, true);
    assert_true(a.status == 204 && answer_has(&a, "Allow: GET, HEAD, POST, DELETE\r\n"));
    answer_fini(&a);
    client_send(&c, "OPTIONS * HTTP/1.1\r\n" HOST "\r\n");
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 204);
    answer_fini(&a);
    client_close(&c);
}

static void
test_http10(void **state)
{
    struct client c;
    struct answer a;

    client_open(&c, *state);
    client_send(&c, "GET /health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    client_answer(&c, &a, true);
    assert_true(a.status == 200 && answer_has(&a, "Connection: keep-alive"));
    answer_fini(&a);
    client_send(&c, "GET /health/live HTTP/1.0\r\n\r\n");
    client_answer(&c, &a, true);
    assert_true(a.status == 200 && answer_has(&a, "Connection: close"));
    answer_fini(&a);
    client_expect_end(&c);
    client_close(&c);
}

static void
test_continue(void **state)
{
    struct client c;
    struct answer a;

    client_open(&c, *state);
    client_send(&c, "POST /v1/streams/continue HTTP/1.1\r\n" HOST
                    "Expect: 100-continue\r\nContent-Length: 21\r\n\r\n");
    client_until(&c, "HTTP/1.1 100 Continue\r\n\r\n");
    client_send(&c, "{\"type\":\"A\",\"data\":1}");
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 201);
    answer_fini(&a);
    /* What is refused anyway is not asked for. */
    client_send(&c, "POST /v1/streams/continue HTTP/1.1\r\n" HOST
                    "Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n");
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 413);
    answer_fini(&a);
    client_expect_end(&c);
    client_close(&c);
}

static void
refused(struct fix *f, const char *request, int status, const char *name)
{
    struct client c;
    struct answer a;
    char          error[64];

    client_open(&c, f);
    client_send(&c, request);
    client_answer(&c, &a, true);
    (void)snprintf(error, sizeof error, "{\"error\":\"%s\",\"message\":\"", name);
    assert_int_equal(a.status, status);
    assert_true(buf_has(&a.body, error));
    assert_ptr_equal(memchr(a.body.data, '\n', a.body.len), a.body.data + a.body.len - 1);
    answer_fini(&a);
    client_close(&c);
}

static void
test_refusals(void **state)
{
    struct fix *f = *state;

    refused(f, "\x16\x03\x01\x02", 400, "bad-request");
    refused(f, "GET / HTTP/1.1\r\n\r\n", 400, "bad-request");
    refused(f, "GET /%zz HTTP/1.1\r\n" HOST "\r\n", 400, "bad-request");
    refused(f, "GET /nothing HTTP/1.1\r\n" HOST "\r\n", 404, "not-found");
    refused(f, "DELETE /v1/all HTTP/1.1\r\n" HOST "\r\n", 405, "method-not-allowed");
    refused(f, "BREW / HTTP/1.1\r\n" HOST "\r\n", 501, "not-implemented");
    refused(f, "GET / HTTP/2.0\r\n" HOST "\r\n", 505, "version-not-supported");
    refused(f, "POST / HTTP/1.1\r\n" HOST "Expect: tea\r\n\r\n", 417, "expectation-failed");
    refused(f, "GET / HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\nx", 400, "bad-request");
    refused(f,
            "POST /v1/streams/a HTTP/1.1\r\n" HOST
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400, "bad-request");
    refused(f, "POST /v1/streams/a HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nx\r\n",
            400, "bad-request");
    refused(f, "GET /health/live HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
            413, "too-large");
    refused(f, "POST /v1/streams/a HTTP/1.1\r\n" HOST "Origin: http://evil\r\n\r\n", 403,
            "forbidden");
    refused(f, "POST /v1/streams/a HTTP/1.1\r\n" HOST "Origin: null\r\n\r\n", 403, "forbidden");
    refused(f, "POST /v1/streams/a HTTP/1.1\r\n" HOST "Origin: http://localhost\r\n\r\n", 400,
            "syntax");
}

static void
test_huge_heads(void **state)
{
    static const struct {
        const char *start, *end;
        size_t      fill;
        int         status;
    } cases[] = {
        {"GET /", "", 9000, 414},
        {"GET / HTTP/1.1\r\n" HOST "A: ", "", 17000, 431},
        {"GET /", " HTTP/1.1\r\n" HOST "\r\n", 8191, 404},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct client c;
        struct answer a;
        struct buf    b = {0};

        buf_add_str(&b, cases[i].start);
        for (size_t k = 0; k < cases[i].fill; k++)
            buf_add_byte(&b, 'a');
        buf_add_str(&b, cases[i].end);
        client_open(&c, *state);
        client_send_bytes(&c, b.data, b.len);
        client_answer(&c, &a, true);
        assert_int_equal(a.status, cases[i].status);
        answer_fini(&a);
        buf_fini(&b);
        client_close(&c);
    }
}

/* An answer that comes before the body is read must arrive, although the client still sends. */
static void
test_early_answer(void **state)
{
    static char   junk[4 << 20];
    struct client c;
    struct answer a;

    client_open(&c, *state);
    client_send(&c, "POST /nothing HTTP/1.1\r\n" HOST "Content-Length: 8388608\r\n\r\n");
    client_send_bytes(&c, junk, sizeof junk);
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 404);
    answer_fini(&a);
    client_close(&c);
}

static void
test_too_slow(void **state)
{
    struct fix    silent = {.conf = {.idle_ms_max = 100}};
    struct fix    f = {.conf = {.head_ms_max = 100, .body_ms_max = 100}};
    struct client c;
    struct answer a;

    fix_start(&silent, NULL, 0, NULL);
    client_open(&c, &silent); /* says nothing */
    client_expect_end(&c);
    client_close(&c);
    fix_stop(&silent);
    fix_start(&f, NULL, 0, NULL);
    client_open(&c, &f);
    client_send(&c, "GET / HTTP/1.1\r\n");
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 408);
    answer_fini(&a);
    client_expect_end(&c);
    client_close(&c);
    client_open(&c, &f);
    client_send(&c, "POST /v1/streams/a HTTP/1.1\r\n" HOST "Content-Length: 100\r\n\r\n{");
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 408);
    answer_fini(&a);
    client_close(&c);
    fix_stop(&f);
}

static void
test_connections_max(void **state)
{
    struct fix    f = {.conf = {.connections_max = 4, .access_log = true}};
    struct client c[5];
    struct answer a;

    fix_start(&f, NULL, 0, NULL);
    for (int i = 0; i < 4; i++) {
        client_open(&c[i], &f);
        client_send(&c[i], LIVE);
        client_answer(&c[i], &a, true);
        answer_fini(&a);
    }
    client_open(&c[4], &f);
    client_answer(&c[4], &a, true);
    assert_true(a.status == 503 && answer_has(&a, "Retry-After: "));
    answer_fini(&a);
    client_expect_end(&c[4]);
    for (int i = 0; i < 5; i++)
        client_close(&c[i]);
    fix_stop(&f);
}

static void
test_port_in_use(void **state)
{
    struct fix        *f = *state;
    struct server_conf conf = {.port = server_port(f->server)};
    struct server     *other;
    struct err         err;

    assert_int_equal(server_new(env_real(), f->log, &conf, &other, &err), E_BUSY);
    assert_non_null(strstr(err.text, "in use"));
    assert_null(other);
    conf.host = "not an address";
    assert_int_equal(server_new(env_real(), f->log, &conf, &other, &err), E_INVALID);
}

/* Routes of other parts: answered at once, afterwards from another thread, as a stream. */

struct wired {
    struct later *later;
    pthread_t     thread;
    atomic_int    asked;
};

static void *
answer_afterwards(void *arg)
{
    struct wired *w = arg;

    later_answer(w->later, 202, "text/plain", slice_str("afterwards"));
    return NULL;
}

static void
get_later(struct call *call, void *arg)
{
    struct wired *w = arg;

    assert_true(slice_is(call_param(call, "name"), "a b"));
    w->later = call_later(call, 10000);
    assert_int_equal(pthread_create(&w->thread, NULL, answer_afterwards, w), 0);
}

static void
get_never(struct call *call, void *arg)
{
    ((struct wired *)arg)->later = call_later(call, 50);
}

static void *
send_events(void *arg)
{
    struct wired *w = arg;
    struct err    err;

    for (int i = 0; i < 3; i++)
        assert_int_equal(later_send(w->later, "tick", "7", slice_str("a\nb"), &err), 0);
    later_drop(w->later);
    return NULL;
}

static void
get_events(struct call *call, void *arg)
{
    struct wired *w = arg;

    w->later = call_stream(call);
    assert_int_equal(pthread_create(&w->thread, NULL, send_events, w), 0);
}

/* More than a client that reads nothing may cost. */
static void *
send_too_much(void *arg)
{
    static char   data[64 << 10];
    struct wired *w = arg;
    struct err    err;
    int           rc = 0;

    memset(data, 'x', sizeof data);
    for (int i = 0; i < 100000 && rc == 0; i++)
        rc = later_send(w->later, NULL, NULL, slice_of(data, sizeof data), &err);
    assert_true(rc == E_LIMIT || rc == E_CLOSED);
    later_drop(w->later);
    return NULL;
}

static void
get_flood(struct call *call, void *arg)
{
    struct wired *w = arg;

    w->later = call_stream(call);
    assert_int_equal(pthread_create(&w->thread, NULL, send_too_much, w), 0);
}

static void
get_failed(struct call *call, void *arg)
{
    struct err err;

    (void)arg;
    (void)err_set(&err, __FILE__, __LINE__, E_REMOTE, ERR_RETRY, "the far side said no");
    later_fail(call_later(call, 1000), &err);
}

static void
put_echo(struct call *call, void *arg)
{
    struct slice value;

    (void)arg;
    if (call_query(call, "fail", &value)) {
        struct err err;

        (void)err_set(&err, __FILE__, __LINE__, E_FENCED, ERR_DATA, "an older epoch");
        call_fail(call, &err);
        return;
    }
    call_answer(call, 200, "text/plain", call_body(call));
}

static const struct server_route wired_routes[] = {
    {"GET", "/later/{name}", get_later, 0}, {"GET", "/never", get_never, 0},
    {"GET", "/events", get_events, 0},      {"PUT", "/echo", put_echo, 1 << 20},
    {"GET", "/flood", get_flood, 0},        {"GET", "/failed", get_failed, 0},
};

static void
test_wired_routes(void **state)
{
    struct fix   f = {0};
    struct wired w = {0};
    struct buf   body = {0}, large = {0};

    fix_start(&f, wired_routes, 6, &w);
    assert_int_equal(ask(&f, "GET /later/a%20b HTTP/1.1\r\n" HOST "\r\n", &body), 202);
    (void)pthread_join(w.thread, NULL);
    assert_true(slice_is(buf_slice(&body), "afterwards"));
    assert_int_equal(ask(&f, "GET /never HTTP/1.1\r\n" HOST "\r\n", &body), 504);
    later_drop(w.later);
    assert_int_equal(ask(&f, "GET /events HTTP/1.1\r\n" HOST "\r\n", &body), 200);
    (void)pthread_join(w.thread, NULL);
    assert_true(slice_is(buf_slice(&body), "event: tick\nid: 7\ndata: a\ndata: b\n\n"
                                           "event: tick\nid: 7\ndata: a\ndata: b\n\n"
                                           "event: tick\nid: 7\ndata: a\ndata: b\n\n"));
    for (int i = 0; i < 1 << 20; i++)
        buf_add_byte(&large, (uint8_t)i);
    assert_int_equal(ask_with(&f, "PUT", "/echo", "", buf_slice(&large), &body), 200);
    assert_true(slice_eq(buf_slice(&body), buf_slice(&large)));
    buf_add_byte(&large, 0);
    assert_int_equal(ask_with(&f, "PUT", "/echo", "", buf_slice(&large), &body), 413);
    assert_int_equal(ask_with(&f, "PUT", "/echo?fail", "", slice_str("x"), &body), 409);
    assert_true(buf_has(&body, "\"message\":\"an older epoch\""));
    assert_int_equal(server_add_routes(f.server, wired_routes, 1, NULL, &f.err), E_EXISTS);
    assert_int_equal(ask(&f, "GET /failed HTTP/1.1\r\n" HOST "\r\n", &body), 502);
    assert_true(buf_has(&body, "the far side said no"));
    buf_fini(&body);
    buf_fini(&large);
    fix_stop(&f);
}

static void
test_flooded_stream(void **state)
{
    struct fix    f = {0};
    struct wired  w = {0};
    struct client c;

    (void)state;
    fix_start(&f, wired_routes, 6, &w);
    client_open(&c, &f);
    client_send(&c, "GET /flood HTTP/1.1\r\n" HOST "\r\n");
    client_until(&c, "\r\n\r\n"); /* and nothing more is read */
    (void)pthread_join(w.thread, NULL);
    client_close(&c);
    /* A client that goes away in the middle. */
    client_open(&c, &f);
    client_send(&c, "GET /flood HTTP/1.1\r\n" HOST "\r\n");
    client_until(&c, "data: x");
    client_close(&c);
    (void)pthread_join(w.thread, NULL);
    assert_int_equal(ask(&f, LIVE, NULL), 200);
    fix_stop(&f);
}

/* Stopping: what is in flight is answered, streams end, nobody hangs. */
static void
test_drain(void **state)
{
    struct fix    f = {0};
    struct client idle, stream, half;
    struct answer a;

    fix_start(&f, NULL, 0, NULL);
    client_open(&idle, &f);
    client_send(&idle, LIVE);
    client_answer(&idle, &a, true);
    answer_fini(&a);
    client_open(&stream, &f);
    client_send(&stream, "GET /v1/all HTTP/1.1\r\n" HOST "Accept: text/event-stream\r\n\r\n");
    client_until(&stream, "event: caught-up");
    client_open(&half, &f);
    client_send(&half, "POST /v1/streams/drain HTTP/1.1\r\n" HOST "Content-Length: 21\r\n"
                       "Expect: 100-continue\r\n\r\n");
    client_until(&half, "100 Continue\r\n\r\n");
    server_stop(f.server);
    client_expect_end(&idle);
    client_until(&stream, "\r\n0\r\n\r\n");
    client_expect_end(&stream);
    client_send(&half, "{\"type\":\"A\",\"data\":1}");
    client_answer(&half, &a, true);
    assert_true(a.status == 201 && answer_has(&a, "Connection: close"));
    answer_fini(&a);
    client_expect_end(&half);
    (void)pthread_join(f.thread, NULL);
    f.running = false;
    client_close(&idle);
    client_close(&stream);
    client_close(&half);
    fix_stop(&f);
}

static void
note_reload(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

/* SIGHUP reloads, SIGTERM stops. */
static void
test_signals(void **state)
{
    atomic_int reloads = 0;
    struct fix f = {.conf = {.signals = true, .reload = note_reload, .reload_arg = &reloads}};

    fix_start(&f, NULL, 0, NULL);
    assert_int_equal(ask(&f, LIVE, NULL), 200); /* the handlers are there */
    assert_int_equal(kill(getpid(), SIGHUP), 0);
    for (int i = 0; i < 6000 && atomic_load(&reloads) == 0; i++)
        (void)poll(NULL, 0, 10);
    assert_int_equal(atomic_load(&reloads), 1);
    assert_int_equal(ask(&f, LIVE, NULL), 200);
    assert_int_equal(kill(getpid(), SIGTERM), 0);
    (void)pthread_join(f.thread, NULL);
    f.running = false;
    fix_stop(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keep_alive),      cmocka_unit_test(test_pipelining),
        cmocka_unit_test(test_byte_by_byte),    cmocka_unit_test(test_half_closed),
        cmocka_unit_test(test_cut_requests),    cmocka_unit_test(test_head_and_options),
        cmocka_unit_test(test_http10),          cmocka_unit_test(test_continue),
        cmocka_unit_test(test_refusals),        cmocka_unit_test(test_huge_heads),
        cmocka_unit_test(test_early_answer),    cmocka_unit_test(test_too_slow),
        cmocka_unit_test(test_connections_max), cmocka_unit_test(test_port_in_use),
        cmocka_unit_test(test_wired_routes),    cmocka_unit_test(test_flooded_stream),
        cmocka_unit_test(test_drain),           cmocka_unit_test(test_signals),
    };

    return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
