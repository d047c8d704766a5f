/* The HTTP/1.1 parser: what is taken, what is refused and with which status. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "server/http1.h"
#include "server/uri.h"

#define HOST "Host: a\r\n"

static enum http1_result
feed(struct http1_head *h, const char *text)
{
    http1_head_init(h);
    return http1_head_feed(h, (const uint8_t *)text, strlen(text));
}

static void
refused(const char *text, int status)
{
    struct http1_head h;

    assert_int_equal(feed(&h, text), HTTP1_BAD);
    assert_int_equal(h.status, status);
    assert_non_null(h.why);
}

static void
test_head(void **state)
{
    static const char text[] =
        "POST /v1/streams/a?x=1 HTTP/1.1\r\nHost: here:2113\r\n"
        "content-LENGTH:  12 \r\nX-Empty:\r\nExpect: 100-Continue\r\n\r\nrest";
    struct http1_head h;
    struct slice      value;

    assert_int_equal(feed(&h, text), HTTP1_DONE);
    assert_int_equal(h.method, HTTP1_POST);
    assert_int_equal(h.size, strlen(text) - 4);
    assert_true(slice_is(slice_of(text + h.target.at, h.target.len), "/v1/streams/a?x=1"));
    assert_true(h.has_length && h.keep_alive && h.expect_continue && !h.chunked && !h.minor0);
    assert_int_equal(h.length, 12);
    assert_int_equal(h.count, 4);
    assert_true(http1_field(&h, (const uint8_t *)text, "host", &value));
    assert_true(slice_is(value, "here:2113"));
    assert_true(http1_field(&h, (const uint8_t *)text, "x-empty", &value));
    assert_int_equal(value.len, 0);
    assert_false(http1_field(&h, (const uint8_t *)text, "x-other", &value));
}

/* Byte by byte: the answer comes with the last one. */
static void
test_head_in_bytes(void **state)
{
    static const char text[] = "\r\nGET / HTTP/1.1\r\n" HOST "A: b\r\n\r\n";
    struct http1_head h;

    http1_head_init(&h);
    for (size_t n = 1; n < strlen(text); n++)
        assert_int_equal(http1_head_feed(&h, (const uint8_t *)text, n), HTTP1_MORE);
    assert_int_equal(http1_head_feed(&h, (const uint8_t *)text, strlen(text)), HTTP1_DONE);
    assert_int_equal(h.count, 2);
}

static void
test_keep_alive(void **state)
{
    static const struct {
        const char *text;
        bool        keep;
    } cases[] = {
        {"GET / HTTP/1.1\r\n" HOST "\r\n", true},
        {"GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", false},
        {"GET / HTTP/1.1\r\n" HOST "Connection: upgrade , Close\r\n\r\n", false},
        {"GET / HTTP/1.0\r\n\r\n", false},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", false},
    };
    struct http1_head h;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(feed(&h, cases[i].text), HTTP1_DONE);
        assert_int_equal(h.keep_alive, cases[i].keep);
    }
}

static void
test_refusals(void **state)
{
    refused("\x16\x03\x01", 400);
    refused("\r\n\r\n", 400);
    refused(" GET / HTTP/1.1\r\n", 400);
    refused("GET / HTTP/1.1\n", 400);
    refused("GET\r\n", 400);
    refused("GET / \r\n", 400);
    refused("GET / HTTP/1.1 \r\n", 400);
    refused("GET  / HTTP/1.1\r\n", 400);
    refused("GET /\xc3\xa4 HTTP/1.1\r\n", 400);
    refused("GET / http/1.1\r\n", 400);
    refused("GET / HTTP/2.0\r\n", 505);
    refused("GET / HTTP/0.9\r\n", 505);
    refused("BREW / HTTP/1.1\r\n", 501);
    refused("get / HTTP/1.1\r\n", 501);
    refused("GET / HTTP/1.1\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\n: a\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\n" HOST " folded\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\n" HOST "A: b\rc\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\n" HOST "A: b\n\r\n", 400);
    refused("POST / HTTP/1.1\r\n" HOST "Expect: tea\r\n\r\n", 417);
}

/* Whatever could be read in two ways ends the connection. */
static void
test_smuggling(void **state)
{
    refused("POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400);
    refused("POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400);
    refused("POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\n", 400);
    refused("POST / HTTP/1.1\r\n" HOST "Content-Length: +1\r\n\r\n", 400);
    refused("POST / HTTP/1.1\r\n" HOST "Content-Length: 0x1\r\n\r\n", 400);
    refused("POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n", 400);
    refused("POST / HTTP/1.1\r\n" HOST "Content-Length: 9999999999999999999\r\n\r\n", 400);
    refused("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n", 501);
    refused("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501);
    refused("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \x0b"
            "chunked\r\n\r\n",
            400);
    refused("POST / HTTP/1.1\r\n" HOST
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            400);
    refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
}

static void
test_limits(void **state)
{
    struct buf b = {0};

    for (int fields = 100; fields <= 101; fields++) {
        struct http1_head h;

        buf_clear(&b);
        buf_add_str(&b, "GET / HTTP/1.1\r\n" HOST);
        for (int i = 1; i < fields; i++)
            buf_add_str(&b, "A: b\r\n");
        buf_add_str(&b, "\r\n");
        http1_head_init(&h);
        assert_int_equal(http1_head_feed(&h, b.data, b.len),
                         fields == 100 ? HTTP1_DONE : HTTP1_BAD);
        assert_true(fields == 100 || h.status == 431);
    }
    for (size_t len = HTTP1_TARGET_MAX; len <= HTTP1_TARGET_MAX + 1; len++) {
        struct http1_head h;

        buf_clear(&b);
        buf_add_str(&b, "GET /");
        for (size_t i = 1; i < len; i++)
            buf_add_byte(&b, 'a');
        buf_add_str(&b, " HTTP/1.1\r\n" HOST "\r\n");
        http1_head_init(&h);
        assert_int_equal(http1_head_feed(&h, b.data, b.len),
                         len == HTTP1_TARGET_MAX ? HTTP1_DONE : HTTP1_BAD);
        assert_true(len == HTTP1_TARGET_MAX || h.status == 414);
    }
    buf_fini(&b);
}

/* A line without an end is refused before it is too long to keep. */
static void
test_endless_lines(void **state)
{
    static const char *const starts[] = {"GET /", "GET / HTTP/1.1\r\nA: "};
    static const int         statuses[] = {414, 431};
    struct buf               b = {0};

    for (int i = 0; i < 2; i++) {
        struct http1_head h;
        enum http1_result result = HTTP1_MORE;

        http1_head_init(&h);
        buf_clear(&b);
        buf_add_str(&b, starts[i]);
        while (result == HTTP1_MORE && b.len < 100000) {
            buf_add_str(&b, "aaaaaaaaaaaaaaaa");
            result = http1_head_feed(&h, b.data, b.len);
        }
        assert_int_equal(result, HTTP1_BAD);
        assert_int_equal(h.status, statuses[i]);
        assert_true(b.len <= HTTP1_HEAD_MAX);
    }
    buf_fini(&b);
}

static void
test_preface(void **state)
{
    static const char text[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct http1_head h;

    http1_head_init(&h);
    for (size_t n = 1; n < strlen(text); n++)
        assert_int_equal(http1_head_feed(&h, (const uint8_t *)text, n), HTTP1_MORE);
    assert_int_equal(http1_head_feed(&h, (const uint8_t *)text, strlen(text)), HTTP1_PREFACE);
    refused("PRI * HTTP/2.0\r\n\r\nXX", 501);
}

/* Decodes `text` in pieces of `step`; the status, 0: complete, -1: more is wanted. */
static int
decode(const char *text, size_t step, struct buf *out)
{
    struct http1_head h = {.chunked = true};
    struct http1_body b;
    size_t            at = 0, len = strlen(text);

    buf_clear(out);
    http1_body_init(&b, &h);
    while (at < len) {
        size_t            n = len - at < step ? len - at : step, used;
        struct slice      piece;
        enum http1_result result =
            http1_body_feed(&b, (const uint8_t *)text + at, n, &used, &piece);

        buf_add_slice(out, piece);
        at += used;
        if (result == HTTP1_DONE)
            return at == len ? 0 : (int)(len - at);
        if (result == HTTP1_BAD)
            return b.status;
    }
    return -1;
}

static void
test_chunks(void **state)
{
    struct buf out = {0};

    for (size_t step = 1; step < 64; step++) {
        assert_int_equal(decode("5\r\nhello\r\n00a;x=\"y\"\r\n, big wor\x01\r\n2\r\nld\r\n0\r\nT: "
                                "x\r\nU: y\r\n\r\n",
                                step, &out),
                         0);
        assert_true(slice_is(buf_slice(&out), "hello, big wor\x01ld"));
        assert_int_equal(decode("0\r\n\r\nGET", step, &out), 3);
    }
    assert_int_equal(decode("5\r\nhel", 3, &out), -1);
    assert_int_equal(decode("\r\n", 3, &out), 400);
    assert_int_equal(decode("5\nhello\n0\n\n", 3, &out), 400);
    assert_int_equal(decode("5\r\nhello0\r\n\r\n", 3, &out), 400);
    assert_int_equal(decode("5\r\nhello\rx", 3, &out), 400);
    assert_int_equal(decode("-5\r\n", 3, &out), 400);
    assert_int_equal(decode("5 5\r\n", 3, &out), -1);
    assert_int_equal(decode("ffffffffffffffff\r\n", 3, &out), 400);
    assert_int_equal(decode("0\r\n folded\r\n\r\n", 3, &out), 400);
    buf_fini(&out);
}

static int
parse(struct uri *uri, const char *text)
{
    static char target[1024];

    (void)snprintf(target, sizeof target, "%s", text);
    return uri_parse(uri, target, strlen(target), NULL);
}

static void
test_uri(void **state)
{
    struct uri   uri;
    struct slice value;

    assert_int_equal(parse(&uri, "/v1/streams/a%2Fb%20+/?from=1&x=%26+y&flag&&=&from=2"), 0);
    assert_int_equal(uri.segment_count, 3);
    assert_true(slice_is(uri.segments[2], "a/b +"));
    assert_true(uri_get(&uri, "from", &value) && slice_is(value, "1"));
    assert_true(uri_get(&uri, "x", &value) && slice_is(value, "& y"));
    assert_true(uri_get(&uri, "flag", &value) && value.len == 0);
    assert_false(uri_get(&uri, "other", &value));
    assert_int_equal(parse(&uri, "http://host:1/a?b=c"), 0);
    assert_true(uri.segment_count == 1 && slice_is(uri.segments[0], "a"));
    assert_int_equal(parse(&uri, "https://host?b=/c"), 0);
    assert_true(uri.segment_count == 0 && uri_get(&uri, "b", &value) && slice_is(value, "/c"));
    assert_int_equal(parse(&uri, "/"), 0);
    assert_int_equal(uri.segment_count, 0);
    assert_int_equal(parse(&uri, "//a"), 0);
    assert_int_equal(uri.segment_count, 2);
    assert_int_equal(parse(&uri, "a"), E_SYNTAX);
    assert_int_equal(parse(&uri, "*"), E_SYNTAX);
    assert_int_equal(parse(&uri, "/%"), E_SYNTAX);
    assert_int_equal(parse(&uri, "/%1"), E_SYNTAX);
    assert_int_equal(parse(&uri, "/%1g"), E_SYNTAX);
    assert_int_equal(parse(&uri, "/?a=%x1"), E_SYNTAX);
    assert_int_equal(parse(&uri, "/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7"), E_LIMIT);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head),          cmocka_unit_test(test_head_in_bytes),
        cmocka_unit_test(test_keep_alive),    cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_smuggling),     cmocka_unit_test(test_limits),
        cmocka_unit_test(test_endless_lines), cmocka_unit_test(test_preface),
        cmocka_unit_test(test_chunks),        cmocka_unit_test(test_uri),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
