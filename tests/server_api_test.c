/* Appends and reads over HTTP: every status, every format, readers that are slow. */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server_fix.h"

/* What the log is made to answer; 0: its own answer. The linker puts this in between. */
static struct err forced;
void              __real_log_submit(struct log *log, struct log_req *req);
void              __wrap_log_submit(struct log *log, struct log_req *req);
void              __real_log_get_info(struct log *log, struct log_info *out);
void              __wrap_log_get_info(struct log *log, struct log_info *out);

void
__wrap_log_submit(struct log *log, struct log_req *req)
{
    if (forced.code == 0) {
        __real_log_submit(log, req);
        return;
    }
    err_copy(&req->err, &forced);
    req->rc = forced.code;
    req->done(req);
}

void
__wrap_log_get_info(struct log *log, struct log_info *out)
{
    __real_log_get_info(log, out);
    if (forced.code != E_IO)
        return;
    out->failed = true;
    (void)snprintf(out->failed_text, sizeof out->failed_text, "%s", forced.text);
}

static void
test_append(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0};

    assert_int_equal(post(f, "/v1/streams/a-1", "", "{\"type\":\"A\",\"data\":{\"x\":[1,2]}}", &b),
                     201);
    expect_body(&b, "\"first_version\":0,\"last_version\":0}");
    assert_int_equal(
        post(f, "/v1/streams/a-1", "Expected-Version: 0\r\n",
             " [{\"type\":\"\\u0042\\n\",\"data\":null},{\"type\":\"C\",\"data_base64\":"
             "\"AAECAw==\",\"metadata\":{\"m\":1},"
             "\"id\":\"01234567-89ab-cdef-0123-456789abcdef\"}] ",
             &b),
        201);
    expect_body(&b, "\"first_version\":1,\"last_version\":2}");
    assert_int_equal(get(f, "/v1/streams/a-1", "", &b), 200);
    expect_body(&b, "\"stream\":\"a-1\",\"version\":0,\"type\":\"A\",\"id\":\"");
    expect_body(&b, "Z\",\"data\":{\"x\":[1,2]}},{\"position\":");
    expect_body(&b, "\"version\":1,\"type\":\"B\\n\",");
    expect_body(&b, "\"data\":null},");
    expect_body(&b, "\"id\":\"01234567-89ab-cdef-0123-456789abcdef\"");
    expect_body(&b,
                "\"data_base64\":\"AAECAw==\",\"metadata\":{\"m\":1}}],\"next\":3,\"head\":2}\n");
    buf_fini(&b);
}

static void
test_expected_versions(void **state)
{
    static const char event[] = "{\"type\":\"A\",\"data\":1}";
    struct fix       *f = *state;
    struct buf        b = {0};

    assert_int_equal(post(f, "/v1/streams/v", "Expected-Version: exists\r\n", event, &b), 409);
    expect_body(&b, "{\"error\":\"wrong-expected-version\",");
    expect_body(&b, "\"stream\":\"v\",\"expected\":\"exists\",\"actual\":\"no-stream\"}");
    assert_int_equal(post(f, "/v1/streams/v", "Expected-Version: no-stream\r\n", event, &b), 201);
    assert_int_equal(post(f, "/v1/streams/v", "Expected-Version: no-stream\r\n", event, &b), 409);
    expect_body(&b, "\"expected\":\"no-stream\",\"actual\":0}");
    assert_int_equal(post(f, "/v1/streams/v", "Expected-Version: any\r\n", event, &b), 201);
    assert_int_equal(post(f, "/v1/streams/v", "Expected-Version: exists\r\n", event, &b), 201);
    assert_int_equal(post(f, "/v1/streams/v", "Expected-Version: 7\r\n", event, &b), 409);
    expect_body(&b, "\"expected\":7,\"actual\":2}");
    assert_int_equal(post(f, "/v1/streams/v", "Expected-Version: -1\r\n", event, &b), 400);
    assert_int_equal(post(f, "/v1/streams/v", "Expected-Version: some\r\n", event, &b), 400);
    expect_body(&b, "Expected-Version: must be");
    buf_fini(&b);
}

static void
test_idempotency_key(void **state)
{
    static const char events[] = "[{\"type\":\"A\",\"data\":1},{\"type\":\"A\",\"data\":1}]";
    struct fix       *f = *state;
    struct buf        first = {0}, again = {0};
    char              field[400] = "Idempotency-Key: ";

    assert_int_equal(post(f, "/v1/streams/i", "Idempotency-Key: k\r\n", events, &first), 201);
    assert_int_equal(post(f, "/v1/streams/i", "Idempotency-Key: k\r\n", events, &again), 201);
    expect_body(&again, "\"first_version\":0,\"last_version\":1,\"idempotent\":true}");
    assert_int_equal(post(f, "/v1/streams/i", "Idempotency-Key: l\r\n", events, &again), 201);
    expect_body(&again, "\"first_version\":2,\"last_version\":3}");
    memset(field + 17, 'x', 300);
    memcpy(field + 317, "\r\n", 3);
    assert_int_equal(post(f, "/v1/streams/i", field, events, &again), 400);
    buf_fini(&first);
    buf_fini(&again);
}

#define NDJSON "Content-Type: application/x-ndjson\r\n"

static void
test_ndjson(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0}, lines = {0};

    assert_int_equal(post(f, "/v1/streams/n", NDJSON,
                          "{\"type\":\"A\",\"data\":1}\r\n\n{\"type\":\"B\",\"data\":2}", &b),
                     201);
    expect_body(&b, "\"last_version\":1}");
    assert_int_equal(post(f, "/v1/streams/n", NDJSON, "{\"type\":\"A\",\"data\":1}\n\nnope\n", &b),
                     400);
    expect_body(&b, "\"message\":\"line 3: ");
    assert_int_equal(post(f, "/v1/streams/n", NDJSON, "\n \n", &b), 400);
    expect_body(&b, "no event");
    /* Larger than any first buffer, so that what was read moves. */
    for (int i = 0; i < 20000; i++)
        buf_printf(&lines, "{\"type\":\"Type\\u00e4%d\",\"data\":{\"i\":%d},\"metadata\":[%d]}\n",
                   i, i, i);
    assert_int_equal(ask_with(f, "POST", "/v1/streams/large%20one", NDJSON, buf_slice(&lines), &b),
                     201);
    expect_body(&b, "\"first_version\":0,\"last_version\":19999}");
    assert_int_equal(get(f, "/v1/streams/large%20one?from=12345&limit=1", "", &b), 200);
    expect_body(&b, "\"stream\":\"large one\",\"version\":12345,\"type\":\"Type\xc3\xa4"
                    "12345\"");
    expect_body(&b, "\"data\":{\"i\":12345},\"metadata\":[12345]}],\"next\":12346,\"head\":19999}");
    buf_fini(&b);
    buf_fini(&lines);
}

static void
test_commits(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0};

    assert_int_equal(
        post(f, "/v1/commits", "",
             "{\"appends\":[{\"stream\":\"c\\u0031\",\"expected\":\"no-stream\",\"events\":"
             "[{\"type\":\"A\",\"data\":1},{\"type\":\"B\",\"data\":1}]},"
             "{\"stream\":\"c2\",\"events\":[{\"type\":\"A\",\"data\":1}]}],"
             "\"checks\":[{\"stream\":\"c3\",\"expected\":\"no-stream\"}]}",
             &b),
        201);
    expect_body(&b, "\"appends\":[{\"stream\":\"c1\",\"first_version\":0,\"last_version\":1},"
                    "{\"stream\":\"c2\",\"first_version\":0,\"last_version\":0}]}");
    assert_int_equal(post(f, "/v1/commits", "",
                          "{\"appends\":[{\"stream\":\"c1\",\"expected\":1,\"events\":"
                          "[{\"type\":\"A\",\"data\":1}]}],"
                          "\"checks\":[{\"stream\":\"c2\",\"expected\":5}]}",
                          &b),
                     409);
    expect_body(&b, "\"stream\":\"c2\",\"expected\":5,\"actual\":0}");
    assert_int_equal(post(f, "/v1/commits", "", "{\"appends\":[]}", &b), 400);
    assert_int_equal(post(f, "/v1/commits", "", "{\"appends\":{}}", &b), 400);
    assert_int_equal(post(f, "/v1/commits", "", "{\"checks\":[]}", &b), 400);
    assert_int_equal(
        post(f, "/v1/commits", "", "{\"appends\":[{\"stream\":\"c1\",\"events\":[]}]}", &b), 400);
    expect_body(&b, "append 0: ");
    assert_int_equal(
        post(f, "/v1/commits", "",
             "{\"appends\":[{\"stream\":\"c1\",\"events\":[{\"type\":\"A\",\"data\":1}]}],"
             "\"checks\":[{\"stream\":\"c2\",\"expected\":\"maybe\"}]}",
             &b),
        400);
    expect_body(&b, "check 0: ");
    assert_int_equal(
        post(f, "/v1/commits", "",
             "{\"appends\":[{\"stream\":\"c1\",\"events\":[{\"type\":\"A\",\"data\":1}]},"
             "{\"stream\":\"c1\",\"events\":[{\"type\":\"A\",\"data\":1}]}]}",
             &b),
        400);
    assert_int_equal(get(f, "/v1/streams/c1/info", "", &b), 200);
    expect_body(&b, "\"head\":1,");
    buf_fini(&b);
}

static void
test_bad_events(void **state)
{
    static const struct {
        const char *body, *text;
    } cases[] = {
        {"", "JSON"},
        {"{", "JSON"},
        {"[]", "no event"},
        {"1", "error"},
        {"[1]", "event 0: "},
        {"{\"type\":\"A\"}", "\\\"data\\\""},
        {"{\"data\":1}", "type"},
        {"{\"type\":1,\"data\":1}", "must be a string"},
        {"{\"type\":\"\",\"data\":1}", "1 to 255 bytes"},
        {"{\"type\":\"A\",\"data\":1,\"metdata\":1}", "metdata"},
        {"{\"type\":\"A\",\"data\":1,\"data_base64\":\"\"}", "one of"},
        {"{\"type\":\"A\",\"data_base64\":\"AAE\"}", "base64"},
        {"{\"type\":\"A\",\"data_base64\":\"AB==\"}", "base64"},
        {"{\"type\":\"A\",\"data_base64\":\"A*==\"}", "base64"},
        {"{\"type\":\"A\",\"data\":1,\"metadata\":1,\"metadata_base64\":\"\"}", "both"},
        {"{\"type\":\"A\",\"data\":1,\"id\":\"x\"}", "UUID"},
        {"{\"type\":\"A\",\"data\":1,\"id\":\"00000000-0000-0000-0000-000000000000\"}", "UUID"},
        {"[{\"type\":\"A\",\"data\":1},{\"type\":\"A\"}]", "event 1: "},
        {"{\"type\":\"A\",\"data\":\"\xff\"}", "JSON"},
    };
    struct buf b = {0};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(post(*state, "/v1/streams/bad", "", cases[i].body, &b), 400);
        expect_body(&b, cases[i].text);
    }
    assert_int_equal(get(*state, "/v1/streams/bad", "", &b), 404);
    buf_fini(&b);
}

static void
test_bad_names(void **state)
{
    static const char event[] = "{\"type\":\"A\",\"data\":1}";
    char              path[400] = "/v1/streams/";
    struct buf        b = {0};

    memset(path + 12, 'x', 300);
    assert_int_equal(post(*state, path, "", event, &b), 400);
    assert_int_equal(post(*state, "/v1/streams/%ff", "", event, &b), 400);
    assert_int_equal(post(*state, "/v1/streams/$system", "", event, &b), 400);
    assert_int_equal(post(*state, "/v1/streams/", "", event, &b), 405);
    assert_int_equal(post(*state, "/v1/streams//", "", event, &b), 400);
    assert_int_equal(get(*state, path, "", &b), 400);
    buf_fini(&b);
}

static void
add_large_event(struct buf *b, size_t bytes)
{
    buf_add_str(b, "{\"type\":\"L\",\"data\":\"");
    assert_true(buf_reserve(b, bytes));
    memset(b->data + b->len, 'x', bytes - 2);
    b->len += bytes - 2;
    buf_add_str(b, "\"}\n");
}

static void
test_large_events(void **state)
{
    struct fix *f = *state;
    struct buf  text = {0}, b = {0};

    add_large_event(&text, LOG_EVENT_MAX);
    assert_int_equal(ask_with(f, "POST", "/v1/streams/l", "", buf_slice(&text), &b), 201);
    assert_int_equal(get(f, "/v1/streams/l", "", &b), 200);
    assert_true(b.len > LOG_EVENT_MAX);
    expect_body(&b, "xx\"}],\"next\":1,\"head\":0}\n");
    buf_clear(&text);
    add_large_event(&text, LOG_EVENT_MAX + 1);
    assert_int_equal(ask_with(f, "POST", "/v1/streams/l", "", buf_slice(&text), &b), 413);
    expect_body(&b, "{\"error\":\"over-limit\"");
    assert_int_equal(ask_with(f, "POST", "/v1/streams/l", NDJSON, buf_slice(&text), &b), 413);
    expect_body(&b, "line 1: ");
    buf_clear(&text);
    for (int i = 0; i < 65; i++) /* over the commit's limit, but not over the body's */
        add_large_event(&text, 1 << 20);
    text.len -= 100;
    memcpy(text.data + text.len - 3, "\"}\n", 3);
    assert_int_equal(ask_with(f, "POST", "/v1/streams/l", NDJSON, buf_slice(&text), &b), 413);
    buf_fini(&text);
    buf_fini(&b);
}

/* What the log refuses, as a client sees it. */
static void
test_log_refusals(void **state)
{
    static const struct {
        int           code;
        enum err_kind kind;
        int           status;
    } cases[] = {
        {E_NOSPC, ERR_RETRY, 507},  {E_LIMIT, ERR_RETRY, 503},   {E_LIMIT, ERR_DATA, 413},
        {E_IO, ERR_UNSURE, 503},    {E_RDONLY, ERR_FATAL, 503},  {E_GONE, ERR_DATA, 410},
        {E_CLOSED, ERR_RETRY, 503}, {E_DAMAGED, ERR_FATAL, 500},
    };
    struct fix *f = *state;
    struct buf  b = {0};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[80];

        (void)err_set(&forced, __FILE__, __LINE__, cases[i].code, cases[i].kind, "the reason");
        assert_int_equal(post(f, "/v1/streams/r", "", "{\"type\":\"A\",\"data\":1}", &b),
                         cases[i].status);
        (void)snprintf(name, sizeof name, "{\"error\":\"%s\",\"message\":\"the reason\"",
                       err_name(cases[i].code));
        expect_body(&b, name);
        assert_int_equal(buf_has(&b, "\"outcome\":\"unknown\""), cases[i].kind == ERR_UNSURE);
        assert_int_equal(get(f, "/health/ready", "", &b), cases[i].code == E_IO ? 503 : 200);
    }
    err_clear(&forced);
    assert_int_equal(get(f, "/health/live", "", &b), 200);
    buf_fini(&b);
}

static void
test_read_all(void **state)
{
    struct fix  f = {0};
    struct buf  b = {0};
    char        path[100];
    const char *next;

    fix_start(&f, NULL, 0, NULL);
    for (int i = 0; i < 10; i++) {
        (void)snprintf(path, sizeof path, "/v1/streams/s%d-%d", i % 2, i);
        assert_int_equal(post(&f, path, "",
                              i < 5 ? "{\"type\":\"A\",\"data\":1}" : "{\"type\":\"B\",\"data\":1}",
                              NULL),
                         201);
    }
    assert_int_equal(get(&f, "/v1/all?limit=4", "", &b), 200);
    expect_body(&b, "\"s0-0\"");
    expect_body(&b, "\"s1-3\"");
    assert_false(buf_has(&b, "\"s0-4\""));
    buf_add_byte(&b, 0);
    next = strstr((char *)b.data, "\"next\":");
    (void)snprintf(path, sizeof path, "/v1/all?from=%llu", strtoull(next + 7, NULL, 10));
    assert_int_equal(get(&f, path, "", &b), 200);
    expect_body(&b, "{\"events\":[{");
    expect_body(&b, "\"s0-4\"");
    expect_body(&b, "\"s1-9\"");
    assert_false(buf_has(&b, "\"s1-3\""));
    assert_int_equal(get(&f, "/v1/all?category=s1&type=B&direction=backwards", "", &b), 200);
    expect_body(&b, "\"s1-5\"");
    expect_body(&b, "\"next\":null");
    assert_true(!buf_has(&b, "\"s0-") && !buf_has(&b, "\"s1-3\""));
    assert_int_equal(get(&f, "/v1/all?prefix=s0-4", "Accept: application/x-ndjson\r\n", &b), 200);
    assert_ptr_equal(memchr(b.data, '\n', b.len), b.data + b.len - 1);
    assert_int_equal(get(&f, "/v1/all?at=2001-01-01T00:00:00Z", "", &b), 200);
    expect_body(&b, "{\"events\":[],");
    assert_int_equal(get(&f, "/v1/streams/s0-0?at=2001-01-01", "", &b), 404);
    assert_int_equal(get(&f, "/v1/all?at=2101-01-01&limit=1", "", &b), 200);
    expect_body(&b, "\"s0-0\"");
    buf_fini(&b);
    fix_stop(&f);
}

static void
test_bad_queries(void **state)
{
    static const char *const paths[] = {
        "/v1/all?from=x",  "/v1/all?limit=0", "/v1/all?limit=-1",       "/v1/all?direction=up",
        "/v1/all?at=soon", "/v1/all?form=1",  "/v1/streams/a?prefix=b", "/v1/streams?limit=0",
    };
    struct buf b = {0};

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        assert_int_equal(get(*state, paths[i], "", &b), 400);
        expect_body(&b, "{\"error\":\"invalid");
    }
    assert_int_equal(
        get(*state, "/v1/all?direction=backwards", "Accept: text/event-stream\r\n", &b), 400);
    assert_int_equal(
        get(*state, "/v1/all", "Accept: text/event-stream\r\nLast-Event-ID: x\r\n", &b), 400);
    assert_int_equal(get(*state, "/v1/streams/nobody", "", &b), 404);
    assert_int_equal(get(*state, "/v1/streams/nobody/info", "", &b), 404);
    buf_fini(&b);
}

static void
test_lists(void **state)
{
    struct fix f = {0};
    struct buf b = {0};

    fix_start(&f, NULL, 0, NULL);
    for (int i = 0; i < 5; i++) {
        char path[40];

        (void)snprintf(path, sizeof path, "/v1/streams/s-%d", i);
        assert_int_equal(post(&f, path, "", "{\"type\":\"A\",\"data\":1}", NULL), 201);
    }
    assert_int_equal(get(&f, "/v1/streams?prefix=s-&limit=2", "", &b), 200);
    expect_body(&b, "{\"streams\":[{\"stream\":\"s-0\",\"first\":0,\"head\":0,");
    expect_body(&b, "],\"next\":\"s-1\"}");
    assert_int_equal(get(&f, "/v1/streams?prefix=s-&after=s-3", "", &b), 200);
    expect_body(&b, "{\"streams\":[{\"stream\":\"s-4\"");
    expect_body(&b, "],\"next\":null}");
    assert_int_equal(get(&f, "/v1/stats", "", &b), 200);
    expect_body(&b, "\"failed\":null},\"server\":{\"started_s\":");
    assert_int_equal(get(&f, "/metrics", "", &b), 200);
    expect_body(&b, "oxbow_append_seconds_bucket{le=\"+Inf\"} 5\n");
    expect_body(&b, "oxbow_http_answers_total{status=\"201\"} 5\n");
    expect_body(&b, "oxbow_log_events_total 5\n");
    assert_int_equal(get(&f, "/", "", &b), 200);
    assert_int_equal(get(&f, "/health/ready", "", &b), 200);
    buf_fini(&b);
    fix_stop(&f);
}

#define SSE "Accept: text/event-stream\r\n"

static void
test_live(void **state)
{
    struct fix   *f = *state;
    struct client c;
    struct buf    b = {0};
    char          request[200];

    client_open(&c, f);
    client_send(&c, "GET /v1/streams/live HTTP/1.1\r\n" HOST SSE "\r\n");
    client_until(&c, "event: caught-up\ndata: {\"position\":");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(post(f, "/v1/streams/live", "", "{\"type\":\"A\",\"data\":[1,\n2]}", NULL),
                         201);
        (void)snprintf(request, sizeof request, "\"stream\":\"live\",\"version\":%d,", i);
        client_until(&c, request);
        client_until(&c, "\"data\":[1, 2]}\n\n");
    }
    client_close(&c);
    /* On from the second one. */
    assert_int_equal(get(f, "/v1/streams/live?from=1&limit=1", "", &b), 200);
    buf_add_byte(&b, 0);
    (void)snprintf(request, sizeof request,
                   "GET /v1/streams/live HTTP/1.1\r\n" HOST SSE "Last-Event-ID: %llu\r\n\r\n",
                   strtoull(strstr((char *)b.data, "\"position\":") + 11, NULL, 10));
    client_open(&c, f);
    client_send(&c, request);
    client_until(&c, "\r\n\r\n");
    client_until(&c, "\"version\":");
    while (c.in.len == 0)
        assert_true(client_more(&c));
    assert_int_equal(c.in.data[0], '2');
    client_until(&c, "event: caught-up");
    client_close(&c);
    /* The same of all streams. */
    client_open(&c, f);
    memcpy(strstr(request, "/v1/streams/live"), "/v1/all         ", 16);
    (void)snprintf(request, sizeof request,
                   "GET /v1/all?prefix=live HTTP/1.1\r\n" HOST SSE "Last-Event-ID: %llu\r\n\r\n",
                   strtoull(strstr((char *)b.data, "\"position\":") + 11, NULL, 10));
    client_send(&c, request);
    client_until(&c, "\"version\":2");
    client_until(&c, "event: caught-up");
    client_close(&c);
    client_open(&c, f);
    client_send(&c, "GET /v1/all?from=end HTTP/1.1\r\n" HOST SSE "\r\n");
    client_until(&c, "\r\n\r\n");
    client_until(&c, "event: caught-up");
    client_close(&c);
    buf_fini(&b);
}

/* Comments keep a silent stream open. */
static void
test_live_silence(void **state)
{
    struct fix    f = {.conf = {.keepalive_ms = 80}};
    struct client c;

    fix_start(&f, NULL, 0, NULL);
    client_open(&c, &f);
    client_send(&c, "GET /v1/all HTTP/1.1\r\n" HOST SSE "\r\n");
    client_until(&c, "event: caught-up");
    client_until(&c, "\n:\n\n");
    client_until(&c, "\n:\n\n");
    client_close(&c);
    fix_stop(&f);
}

/*
 * Clients that ask for everything and read nothing: what they cost is bounded,
 * others are served, and they get all of it when they do read.
 */
static void
test_slow_readers(void **state)
{
    enum { SLOW = 6, EVENTS = 32 };
    static const char *const accepts[] = {"", "Accept: application/x-ndjson\r\n", SSE};
    struct fix               f = {0};
    struct client            slow[SLOW];
    struct buf               text = {0}, b = {0};
    int                      small = 256 << 10;

    fix_start(&f, NULL, 0, NULL);
    for (int i = 0; i < EVENTS; i++) {
        buf_clear(&text);
        add_large_event(&text, 1 << 20);
        assert_int_equal(ask_with(&f, "POST", "/v1/streams/big", "", buf_slice(&text), NULL), 201);
    }
    for (int i = 0; i < SLOW; i++) {
        char request[200];

        client_open(&slow[i], &f);
        (void)setsockopt(slow[i].fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        (void)snprintf(request, sizeof request, "GET /v1/all HTTP/1.1\r\n" HOST "%s\r\n",
                       accepts[i % 3]);
        client_send(&slow[i], request);
        client_until(&slow[i], "\r\n\r\n");
    }
    for (int i = 0; i < 50; i++) {
        assert_int_equal(post(&f, "/v1/streams/small", "", "{\"type\":\"A\",\"data\":1}", NULL),
                         201);
        assert_int_equal(get(&f, "/v1/streams/small", "", &b), 200);
        /* Two buffers of each, at most a slice beyond the mark at which producers pause. */
        assert_true(metric(&f, "oxbow_buffer_bytes") < SLOW * (uint64_t)(1 << 20));
    }
    for (int i = 0; i < SLOW; i++) {
        size_t all = 0;

        while (all < (size_t)EVENTS << 20) {
            assert_true(client_more(&slow[i]));
            all += slow[i].in.len;
            buf_clear(&slow[i].in);
        }
        client_close(&slow[i]);
    }
    buf_fini(&text);
    buf_fini(&b);
    fix_stop(&f);
}

/* Readers that fill what memory there is still leave room for an append. */
static void
test_many_slow_readers(void **state)
{
    enum { SLOW = 56 };
    struct fix    f = {.conf = {.memory_bytes_max = 16 << 20}};
    struct client slow[SLOW];
    struct buf    text = {0};
    int           small = 256 << 10;

    (void)state;
    fix_start(&f, NULL, 0, NULL);
    add_large_event(&text, 1 << 20);
    for (int i = 0; i < 16; i++)
        assert_int_equal(ask_with(&f, "POST", "/v1/streams/big", "", buf_slice(&text), NULL), 201);
    for (int i = 0; i < SLOW; i++) {
        client_open(&slow[i], &f);
        (void)setsockopt(slow[i].fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        client_send(&slow[i], "GET /v1/all HTTP/1.1\r\n" HOST SSE "\r\n");
        client_until(&slow[i], "data: ");
    }
    for (int i = 0; i < 10; i++) {
        assert_true(metric(&f, "oxbow_buffer_bytes") < 16 << 20);
        assert_int_equal(ask_with(&f, "POST", "/v1/streams/big", "", buf_slice(&text), NULL), 201);
    }
    for (int i = 0; i < SLOW; i++)
        client_close(&slow[i]);
    buf_fini(&text);
    fix_stop(&f);
}

/* A client that takes nothing at all is let go. */
static void
test_stalled_reader(void **state)
{
    struct fix    f = {.conf = {.stall_ms_max = 200}};
    struct client c;
    struct buf    text = {0};

    fix_start(&f, NULL, 0, NULL);
    add_large_event(&text, LOG_EVENT_MAX);
    assert_int_equal(ask_with(&f, "POST", "/v1/streams/big", "", buf_slice(&text), NULL), 201);
    client_open(&c, &f);
    client_send(&c, "GET /v1/all HTTP/1.1\r\n" HOST "\r\n");
    for (int i = 0; i < 500 && metric(&f, "oxbow_readers") == 0; i++)
        (void)poll(NULL, 0, 10);
    for (int i = 0; i < 6000 && metric(&f, "oxbow_readers") != 0; i++)
        (void)poll(NULL, 0, 10);
    assert_int_equal(metric(&f, "oxbow_readers"), 0);
    client_close(&c);
    buf_fini(&text);
    fix_stop(&f);
}

/* Bodies beyond the server's memory are refused, and the memory comes back. */
static void
test_memory_max(void **state)
{
    struct fix f = {.conf = {.memory_bytes_max = 1 << 20}};
    struct buf text = {0}, b = {0};

    fix_start(&f, NULL, 0, NULL);
    add_large_event(&text, 4 << 20);
    assert_int_equal(ask_with(&f, "POST", "/v1/streams/m", "", buf_slice(&text), &b), 503);
    expect_body(&b, "{\"error\":\"overloaded\"");
    assert_int_equal(post(&f, "/v1/streams/m", "", "{\"type\":\"A\",\"data\":1}", NULL), 201);
    buf_fini(&text);
    buf_fini(&b);
    fix_stop(&f);
}

/* Clients that leave while the log has their append: nothing is touched afterwards. */
static void
test_gone_clients(void **state)
{
    struct fix *f = *state;

    for (int i = 0; i < 200; i++) {
        struct linger linger = {.l_onoff = 1};
        struct client c;

        client_open(&c, f);
        client_send(&c, "POST /v1/streams/gone HTTP/1.1\r\n" HOST
                        "Content-Length: 21\r\n\r\n{\"type\":\"A\",\"data\":1}");
        if (i % 2 == 0)
            (void)setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        client_close(&c);
    }
    for (int i = 0; i < 6000 && metric(f, "oxbow_appends_waiting") != 0; i++)
        (void)poll(NULL, 0, 10);
    assert_int_equal(metric(f, "oxbow_appends_waiting"), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_expected_versions),
        cmocka_unit_test(test_idempotency_key),
        cmocka_unit_test(test_ndjson),
        cmocka_unit_test(test_commits),
        cmocka_unit_test(test_bad_events),
        cmocka_unit_test(test_bad_names),
        cmocka_unit_test(test_large_events),
        cmocka_unit_test(test_log_refusals),
        cmocka_unit_test(test_read_all),
        cmocka_unit_test(test_bad_queries),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_live),
        cmocka_unit_test(test_live_silence),
        cmocka_unit_test(test_slow_readers),
        cmocka_unit_test(test_stalled_reader),
        cmocka_unit_test(test_many_slow_readers),
        cmocka_unit_test(test_memory_max),
        cmocka_unit_test(test_gone_clients),
    };

    return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
