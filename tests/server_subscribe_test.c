/* Subscriptions over HTTP: what they survive, and what they are told. */
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#include "server_fix.h"
#include "tests/moves_fake.h"

#define EVENT "{\"type\":\"A\",\"data\":1}"
#define SSE "Accept: text/event-stream\r\n"

static void
append(const struct fix *f, const char *stream, int count)
{
    char path[100];

    (void)snprintf(path, sizeof path, "/v1/streams/%s", stream);
    for (int i = 0; i < count; i++)
        assert_int_equal(post(f, path, "", EVENT, NULL), 201);
}

static void
subscribe(struct client *c, const struct fix *f, const char *path, uint64_t last)
{
    char request[300], field[60] = "";

    if (last != 0)
        (void)snprintf(field, sizeof field, "Last-Event-ID: %llu\r\n", (unsigned long long)last);
    (void)snprintf(request, sizeof request, "GET %s HTTP/1.1\r\n" HOST SSE "%s\r\n", path, field);
    client_open(c, f);
    client_send(c, request);
    client_until(c, "HTTP/1.1 200 ");
}

/* The next event's id. */
static uint64_t
next_id(struct client *c)
{
    client_until(c, "\nid: ");
    while (c->in.len == 0 || memchr(c->in.data, '\n', c->in.len) == NULL)
        assert_true(client_more(c));
    return strtoull((const char *)c->in.data, NULL, 10);
}

static void
until_version(struct client *c, unsigned version)
{
    char text[40];

    (void)snprintf(text, sizeof text, "\"version\":%u,", version);
    client_until(c, text);
}

/* Many at once, each given what it asked for and nothing else. */
static void
test_sharing(void **state)
{
    static const char *const paths[] = {
        "/v1/all?prefix=sh-",
        "/v1/all?category=sh&type=B",
        "/v1/streams/sh-1",
        "/v1/streams/$ce-sh",
        "/v1/streams/$et-B",
        "/v1/all?prefix=sh-&from=end",
        "/v1/all?prefix=sh-&resolve=true",
    };
    enum { COUNT = sizeof paths / sizeof paths[0] };
    static const unsigned wanted[COUNT] = {4, 2, 2, 4, 2, 4, 4};
    struct fix           *f = *state;
    struct client         c[COUNT];

    for (int i = 0; i < COUNT; i++) {
        subscribe(&c[i], f, paths[i], 0);
        client_until(&c[i], "event: caught-up\n");
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(post(f, "/v1/streams/sh-1", "", EVENT, NULL), 201);
        assert_int_equal(post(f, "/v1/streams/sh-2", "", "{\"type\":\"B\",\"data\":1}", NULL), 201);
    }
    assert_int_equal(post(f, "/v1/streams/sh-end", "", "{\"type\":\"B\",\"data\":2}", NULL), 201);
    assert_int_equal(post(f, "/v1/streams/sh-1", "", "{\"type\":\"C\",\"data\":2}", NULL), 201);
    for (int i = 0; i < COUNT; i++) {
        unsigned n = 0;

        for (;;) {
            client_until(&c[i], "\ndata: {\"position\"");
            while (memchr(c[i].in.data, '}', c[i].in.len) == NULL)
                assert_true(client_more(&c[i]));
            if (memmem(c[i].in.data, c[i].in.len, "\"data\":", 7) != NULL &&
                ((const uint8_t *)memmem(c[i].in.data, c[i].in.len, "\"data\":", 7))[7] == '2')
                break;
            n++;
        }
        assert_int_equal(n, wanted[i]);
        client_close(&c[i]);
    }
}

/* By its position, and over a restart of the server: no gap and no double. */
static void
test_reconnect(void **state)
{
    struct fix    f = {0};
    struct client c;
    uint64_t      id;

    (void)state;
    fix_start(&f, NULL, 0, NULL);
    append(&f, "re-1", 3);
    subscribe(&c, &f, "/v1/streams/re-1", 0);
    until_version(&c, 0);
    id = next_id(&c);
    until_version(&c, 1);
    client_close(&c);
    subscribe(&c, &f, "/v1/streams/re-1", id);
    client_until(&c, "\"version\":");
    assert_int_equal(c.in.data[0], '2');
    client_close(&c);
    fix_restart(&f);
    append(&f, "re-1", 1);
    subscribe(&c, &f, "/v1/streams/re-1", id);
    client_until(&c, "\"version\":");
    assert_int_equal(c.in.data[0], '2');
    until_version(&c, 3);
    client_close(&c);
    subscribe(&c, &f, "/v1/all?prefix=re-", id);
    client_until(&c, "\"version\":");
    assert_int_equal(c.in.data[0], '2');
    id = next_id(&c);
    client_close(&c);
    subscribe(&c, &f, "/v1/streams/$ce-re", id);
    client_until(&c, "event: caught-up\n");
    append(&f, "re-1", 1);
    until_version(&c, 4);
    client_close(&c);
    fix_stop(&f);
}

/* The server stops: the stream ends, and what was appended meanwhile comes after the restart. */
static void
test_restart_while_live(void **state)
{
    struct fix    f = {0};
    struct client c;
    uint64_t      id;

    (void)state;
    fix_start(&f, NULL, 0, NULL);
    subscribe(&c, &f, "/v1/streams/up-1", 0);
    client_until(&c, "event: caught-up\n");
    append(&f, "up-1", 1);
    id = next_id(&c);
    client_until(&c, "\n\n");
    fix_restart(&f);
    client_until(&c, "0\r\n\r\n");
    client_expect_end(&c);
    client_close(&c);
    append(&f, "up-1", 1);
    subscribe(&c, &f, "/v1/streams/up-1", id);
    until_version(&c, 1);
    client_until(&c, "event: caught-up\n");
    client_close(&c);
    fix_stop(&f);
}

static void
test_deleted(void **state)
{
    struct fix   *f = *state;
    struct client c, resolved;
    uint64_t      id;

    append(f, "gone-1", 1);
    subscribe(&c, f, "/v1/streams/gone-1", 0);
    id = next_id(&c);
    client_until(&c, "event: caught-up\n");
    subscribe(&resolved, f, "/v1/streams/gone-1?resolve=true", 0);
    client_until(&resolved, "event: caught-up\n");
    assert_int_equal(ask_with(f, "DELETE", "/v1/streams/gone-1", "", slice_str(""), NULL), 200);
    client_until(&c, "event: deleted\ndata: {\"stream\":\"gone-1\",\"tombstone\":false}\n\n");
    client_until(&c, "0\r\n\r\n");
    client_close(&c);
    client_until(&resolved, "event: deleted\n");
    client_until(&resolved, "0\r\n\r\n");
    client_close(&resolved);
    /* It is waited for, and goes on with its numbers. */
    subscribe(&c, f, "/v1/streams/gone-1", id);
    client_until(&c, "event: caught-up\n");
    append(f, "gone-1", 1);
    client_until(&c, "\"version\":");
    assert_int_equal(c.in.data[0], '1');
    assert_int_equal(
        ask_with(f, "DELETE", "/v1/streams/gone-1?tombstone=true", "", slice_str(""), NULL), 200);
    client_until(&c, "event: deleted\ndata: {\"stream\":\"gone-1\",\"tombstone\":true}\n\n");
    client_until(&c, "0\r\n\r\n");
    client_close(&c);
    assert_int_equal(get(f, "/v1/streams/gone-1", SSE, NULL), 410);
}

/* The first readable event is next when what came before it is cut off. */
static void
test_truncated(void **state)
{
    struct fix   *f = *state;
    struct client c;

    append(f, "cut-1", 6);
    assert_int_equal(post(f, "/v1/streams/cut-1/truncate", "", "{\"before\":4}", NULL), 200);
    subscribe(&c, f, "/v1/streams/cut-1?from=1", 0);
    client_until(&c, "\"version\":");
    assert_int_equal(c.in.data[0], '4');
    client_until(&c, "event: caught-up\n");
    assert_int_equal(post(f, "/v1/streams/cut-1/truncate", "", "{\"before\":6}", NULL), 200);
    append(f, "cut-1", 1);
    client_until(&c, "\"version\":");
    assert_int_equal(c.in.data[0], '6');
    client_close(&c);
}

/* A client that takes too little is told that it is behind, and when it is not any more. */
static void
test_fell_behind(void **state)
{
    enum { EVENTS = 300 };
    struct fix    f = {0};
    struct client c, quick;
    struct buf    text = {0};
    int           small = 64 << 10;
    unsigned      next = 0;

    (void)state;
    fix_start(&f, NULL, 0, NULL);
    subscribe(&c, &f, "/v1/streams/much", 0);
    (void)setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    client_until(&c, "event: caught-up\n");
    subscribe(&quick, &f, "/v1/all?prefix=mu", 0);
    client_until(&quick, "event: caught-up\n");
    buf_add_str(&text, "{\"type\":\"A\",\"data\":\"");
    for (int i = 0; i < 50000; i++)
        buf_add_byte(&text, 'x');
    buf_add_str(&text, "\"}");
    for (unsigned i = 0; i < EVENTS; i++) {
        assert_int_equal(ask_with(&f, "POST", "/v1/streams/much", "", buf_slice(&text), NULL), 201);
        until_version(&quick, i); /* the other one is not held up, and never behind */
        assert_false(buf_has(&quick.in, "fell-behind"));
    }
    client_until(&c, "\"version\":0,");
    while (!buf_has(&c.in, "event: caught-up\n"))
        assert_true(client_more(&c));
    buf_add_byte(&c.in, 0);
    assert_true(buf_has(&c.in, "event: fell-behind\ndata: {\"position\":"));
    for (const char *p = (const char *)c.in.data; next + 1 < EVENTS; next++) {
        p = strstr(p, "\"version\":");
        assert_non_null(p);
        p += 10;
        assert_int_equal(strtoul(p, NULL, 10), next + 1);
    }
    buf_fini(&text);
    client_close(&c);
    client_close(&quick);
    fix_stop(&f);
}

/* An event too large to be copied for everyone comes in pieces, in its place. */
static void
test_large(void **state)
{
    struct fix   *f = *state;
    struct client c[3];
    struct buf    text = {0};

    buf_add_str(&text, "{\"type\":\"A\",\"data\":\"");
    for (int i = 0; i < 3 << 20; i++)
        buf_add_byte(&text, 'x');
    buf_add_str(&text, "\"}");
    for (int i = 0; i < 3; i++) {
        subscribe(&c[i], f, i == 0 ? "/v1/streams/large" : "/v1/all?prefix=large", 0);
        client_until(&c[i], "event: caught-up\n");
    }
    append(f, "large", 1);
    assert_int_equal(ask_with(f, "POST", "/v1/streams/large", "", buf_slice(&text), NULL), 201);
    append(f, "large", 1);
    for (int i = 0; i < 3; i++) {
        until_version(&c[i], 0);
        until_version(&c[i], 1);
        until_version(&c[i], 2);
        assert_false(buf_has(&c[i].in, "fell-behind"));
        client_close(&c[i]);
    }
    buf_fini(&text);
}

/* Coming and going while events come: nothing is lost and nothing comes twice. */
static void
test_coming_and_going(void **state)
{
    enum { ROUNDS = 60 };
    struct fix   *f = *state;
    struct client all;
    uint64_t      last = 0;

    subscribe(&all, f, "/v1/all?prefix=cg-", 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct client c;

        append(f, "cg-1", 1);
        subscribe(&c, f, i % 2 == 0 ? "/v1/streams/cg-1" : "/v1/all?category=cg", last);
        append(f, "cg-1", 1);
        client_until(&c, "\"version\":");
        while (memchr(c.in.data, ',', c.in.len) == NULL)
            assert_true(client_more(&c));
        assert_int_equal(strtoul((const char *)c.in.data, NULL, 10), last == 0 ? 0 : 2 * i);
        until_version(&c, 2 * i + 1);
        client_close(&c);
        until_version(&all, 2 * i);
        last = next_id(&all);
        until_version(&all, 2 * i + 1);
    }
    client_close(&all);
    for (int i = 0; i < 6000 && metric(f, "oxbow_readers") != 0; i++)
        (void)poll(NULL, 0, 10);
    assert_int_equal(metric(f, "oxbow_readers"), 0);
}

/* Each event once through a move; an id says where it began, so that coming back needs no more. */
static void
test_moved(void **state)
{
    struct fix   *f = *state;
    struct client c;
    char          request[300];
    uint64_t      id;

    append(f, "mv-1", 2);
    subscribe(&c, f, "/v1/all?prefix=mv-&moved=skip", 0);
    until_version(&c, 0);
    id = next_id(&c);
    client_until(&c, "@0\n");
    until_version(&c, 1);
    client_until(&c, "event: caught-up\n");
    client_close(&c);
    moves_fake(f->log, "mv-1", "mv-2");
    append(f, "mv-2", 1);
    (void)snprintf(request, sizeof request,
                   "GET /v1/all?prefix=mv-&moved=skip&from=end HTTP/1.1\r\n" HOST SSE
                   "Last-Event-ID: %llu@0\r\n\r\n",
                   (unsigned long long)id);
    client_open(&c, f);
    client_send(&c, request);
    client_until(&c, "\"stream\":\"mv-");
    while (memchr(c.in.data, '\n', c.in.len) == NULL)
        assert_true(client_more(&c));
    assert_memory_equal(c.in.data, "2\",\"version\":3,", 15);
    client_close(&c);
    subscribe(&c, f, "/v1/all?prefix=mv-&moved=skip", id); /* no start in the id: from's */
    client_until(&c, "\"stream\":\"mv-2\",\"version\":");
    assert_int_equal(c.in.data[0], '3');
    client_close(&c);
    subscribe(&c, f, "/v1/streams/mv-2?moved=skip", 0);
    until_version(&c, 1);
    until_version(&c, 2);
    until_version(&c, 3);
    client_close(&c);
    assert_int_equal(get(f, "/v1/all?moved=maybe", "", NULL), 400);
    assert_int_equal(get(f, "/v1/all?start=1", "", NULL), 400);
    assert_int_equal(get(f, "/v1/all?links=deliver", "", NULL), 400);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sharing),
        cmocka_unit_test(test_reconnect),
        cmocka_unit_test(test_restart_while_live),
        cmocka_unit_test(test_fell_behind),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_coming_and_going),
        cmocka_unit_test(test_deleted),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_moved),
    };

    return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
