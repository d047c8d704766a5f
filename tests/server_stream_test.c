/* Streams over HTTP: deleting, truncating, metadata, links, native reads, listing, quotas. */
#include <stdio.h>

#include "server_fix.h"

#define EVENT "{\"type\":\"A\",\"data\":1}"

static void
append(const struct fix *f, const char *stream, int count)
{
    char path[100];

    (void)snprintf(path, sizeof path, "/v1/streams/%s", stream);
    for (int i = 0; i < count; i++)
        assert_int_equal(post(f, path, "", EVENT, NULL), 201);
}

static int
send_as(const struct fix *f, const char *method, const char *path, const char *fields,
        const char *text, struct buf *body)
{
    return ask_with(f, method, path, fields, slice_str(text), body);
}

static int
del(const struct fix *f, const char *path, const char *fields, struct buf *body)
{
    return send_as(f, "DELETE", path, fields, "", body);
}

static unsigned
count_of(const struct buf *b, const char *text)
{
    const uint8_t *p = b->data, *end = p + b->len;
    unsigned       n = 0;

    while (p < end && (p = memmem(p, (size_t)(end - p), text, strlen(text))) != NULL) {
        p++;
        n++;
    }
    return n;
}

static void
test_delete(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0};

    append(f, "del-1", 3);
    assert_int_equal(del(f, "/v1/streams/del-1", "Expected-Version: 7\r\n", &b), 409);
    expect_body(&b, "\"expected\":7,\"actual\":2}");
    assert_int_equal(del(f, "/v1/streams/del-1", "Expected-Version: 2\r\n", &b), 200);
    expect_body(&b, "{\"position\":");
    assert_int_equal(get(f, "/v1/streams/del-1", "", &b), 404);
    expect_body(&b, "{\"error\":\"stream-not-found\"");
    assert_int_equal(get(f, "/v1/streams/del-1/info", "", &b), 404);
    assert_int_equal(get(f, "/v1/all?prefix=del-1", "", &b), 200);
    assert_int_equal(count_of(&b, "\"version\""), 0);
    assert_int_equal(get(f, "/v1/streams?prefix=del-", "", &b), 200);
    expect_body(&b, "{\"streams\":[],\"next\":null}");
    assert_int_equal(del(f, "/v1/streams/del-1", "", &b), 404);
    /* It comes back with its numbers. */
    assert_int_equal(post(f, "/v1/streams/del-1", "Expected-Version: no-stream\r\n", EVENT, &b),
                     201);
    expect_body(&b, "\"first_version\":3,");
    assert_int_equal(get(f, "/v1/streams/del-1", "", &b), 200);
    assert_int_equal(count_of(&b, "\"version\""), 1);
    assert_int_equal(get(f, "/v1/streams/del-1/info", "", &b), 200);
    expect_body(&b, "\"first\":3,\"head\":3,\"count\":1,");
    buf_fini(&b);
}

/* As a surgery does it: the last event and the state, in one commit. */
static void
move_stream(const struct fix *f, const char *stream, const char *data)
{
    struct log_new_event e = {
        .type = slice_str(LOG_MOVED_TYPE), .data = slice_str(data), .flags = LOG_JSON};
    struct log_write w = {
        .stream = slice_str(stream), .expected = LOG_EXISTS, .events = &e, .count = 1};
    struct log_change c = {
        .stream = slice_str(stream), .expected = LOG_EXISTS, .what = LOG_SET_MOVED};
    struct log_req req = {.writes = &w, .write_count = 1, .changes = &c, .change_count = 1};

    assert_int_equal(log_append(f->log, &req), 0);
}

static void
test_moved(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0};

    append(f, "mv-1", 2);
    append(f, "mv-4", 1);
    move_stream(f, "mv-1", "{\"streams\":[\"mv-2\"]}");
    append(f, "mv-2", 1);
    move_stream(f, "mv-2", "{\"streams\":[\"mv-3\"]}");
    move_stream(f, "mv-4", "{\"streams\":[\"mv-5\",\"mv-6\"]}");
    assert_int_equal(post(f, "/v1/streams/mv-1", "", EVENT, &b), 409);
    expect_body(&b, "{\"error\":\"stream-moved\",");
    expect_body(&b, "\"stream\":\"mv-1\",\"streams\":[\"mv-2\"]}");
    assert_int_equal(post(f, "/v1/streams/mv-1", "Expected-Version: 1\r\n", EVENT, &b), 409);
    expect_body(&b, "{\"error\":\"wrong-expected-version\",");
    expect_body(&b, "\"expected\":1,\"actual\":2,\"streams\":[\"mv-2\"]}");
    assert_int_equal(get(f, "/v1/streams/mv-1/info", "", &b), 200);
    expect_body(&b, "\"moved\":true,\"moved_to\":[\"mv-2\"]}");
    assert_int_equal(get(f, "/v1/streams?prefix=mv-", "", &b), 200);
    assert_int_equal(count_of(&b, "\"moved\":true}"), 3);

    assert_int_equal(post(f, "/v1/streams/mv-1?follow=true", "", EVENT, &b), 201);
    expect_body(&b, "\"stream\":\"mv-3\",\"first_version\":0,");
    assert_int_equal(post(f, "/v1/streams/mv-3?follow=true", "", EVENT, &b), 201);
    assert_false(buf_has(&b, "\"stream\""));
    assert_int_equal(get(f, "/v1/streams/mv-1?follow=true", "", &b), 200);
    assert_int_equal(count_of(&b, "\"stream\":\"mv-3\""), 2);
    assert_int_equal(get(f, "/v1/streams/mv-1", "", &b), 200);
    expect_body(&b, "\"type\":\"StreamMovedTo\"");

    assert_int_equal(post(f, "/v1/streams/mv-4?follow=true", "", EVENT, &b), 409);
    expect_body(&b, "\"streams\":[\"mv-5\",\"mv-6\"]}");
    assert_int_equal(get(f, "/v1/streams/mv-4?follow=true", "", &b), 409);
    expect_body(&b, "\"error\":\"stream-moved\"");
    expect_body(&b, "\"stream\":\"mv-4\",\"streams\":[\"mv-5\",\"mv-6\"]}");
    assert_int_equal(get(f, "/v1/streams/mv-4?follow=yes", "", &b), 400);
    assert_int_equal(get(f, "/v1/all?follow=true", "", &b), 400);
    buf_fini(&b);
}

static void
test_tombstone(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0};

    append(f, "tomb-1", 2);
    assert_int_equal(del(f, "/v1/streams/tomb-1?tombstone=maybe", "", &b), 400);
    assert_int_equal(del(f, "/v1/streams/tomb-1?hard=true", "", &b), 400);
    assert_int_equal(del(f, "/v1/streams/tomb-1?tombstone=true", "", &b), 200);
    assert_int_equal(get(f, "/v1/streams/tomb-1", "", &b), 410);
    expect_body(&b, "{\"error\":\"gone\"");
    assert_int_equal(get(f, "/v1/streams/tomb-1/info", "", &b), 410);
    assert_int_equal(post(f, "/v1/streams/tomb-1", "", EVENT, &b), 410);
    assert_int_equal(get(f, "/v1/all?prefix=tomb-", "", &b), 200);
    assert_int_equal(count_of(&b, "\"version\""), 0);
    assert_int_equal(del(f, "/v1/streams/never-was?tombstone=true", "", &b), 404);
    assert_int_equal(
        del(f, "/v1/streams/never-was?tombstone=true", "Expected-Version: any\r\n", &b), 200);
    assert_int_equal(post(f, "/v1/streams/never-was", "", EVENT, &b), 410);
    assert_int_equal(del(f, "/v1/streams/$system", "", &b), 400);
    buf_fini(&b);
}

static void
test_truncate(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0};

    append(f, "cut-1", 5);
    assert_int_equal(post(f, "/v1/streams/cut-1/truncate", "", "{\"before\":3}", &b), 200);
    assert_int_equal(get(f, "/v1/streams/cut-1", "", &b), 200);
    assert_int_equal(count_of(&b, "\"version\""), 2);
    expect_body(&b, "\"version\":3,");
    assert_int_equal(get(f, "/v1/streams/cut-1/info", "", &b), 200);
    expect_body(&b, "\"first\":3,\"head\":4,\"count\":2,");
    assert_int_equal(get(f, "/v1/all?prefix=cut-", "", &b), 200);
    assert_int_equal(count_of(&b, "\"version\""), 2);
    /* It never goes back; beyond the end is the end. */
    assert_int_equal(post(f, "/v1/streams/cut-1/truncate", "", "{\"before\":1}", &b), 200);
    assert_int_equal(post(f, "/v1/streams/cut-1/truncate", "", "{\"before\":99}", &b), 200);
    assert_int_equal(get(f, "/v1/streams/cut-1/info", "", &b), 200);
    expect_body(&b, "\"first\":5,\"head\":4,\"count\":0,");
    append(f, "cut-1", 1);
    assert_int_equal(get(f, "/v1/streams/cut-1", "", &b), 200);
    expect_body(&b, "\"version\":5,");
    assert_int_equal(post(f, "/v1/streams/cut-1/truncate", "", "{\"before\":-1}", &b), 400);
    assert_int_equal(post(f, "/v1/streams/cut-1/truncate", "", "{}", &b), 400);
    assert_int_equal(post(f, "/v1/streams/cut-1/truncate", "", "{\"before\":1,\"x\":1}", &b), 400);
    assert_int_equal(post(f, "/v1/streams/nothing/truncate", "", "{\"before\":1}", &b), 404);
    buf_fini(&b);
}

static void
test_close(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0};

    append(f, "closed-1", 1);
    assert_int_equal(post(f, "/v1/streams/closed-1/close", "", "", &b), 200);
    assert_int_equal(post(f, "/v1/streams/closed-1", "", EVENT, &b), 409);
    expect_body(&b, "{\"error\":\"stream-closed\"");
    assert_int_equal(get(f, "/v1/streams/closed-1", "", &b), 200);
    assert_int_equal(get(f, "/v1/streams/closed-1/info", "", &b), 200);
    expect_body(&b, "\"closed\":true}");
    assert_int_equal(post(f, "/v1/streams/closed-1/open", "", "", &b), 200);
    append(f, "closed-1", 1);
    buf_fini(&b);
}

static void
test_metadata(void **state)
{
    static const char meta[] = "{\"$maxCount\":2,\"owner\":[\"x\"]}";
    struct fix       *f = *state;
    struct buf        b = {0};

    append(f, "meta-1", 5);
    assert_int_equal(get(f, "/v1/streams/meta-1/metadata", "", &b), 200);
    expect_body(&b, "{\"stream\":\"meta-1\",\"version\":null,\"metadata\":{}}");
    assert_int_equal(send_as(f, "PUT", "/v1/streams/meta-1/metadata",
                             "Expected-Version: no-stream\r\n", meta, &b),
                     200);
    expect_body(&b, ",\"version\":0}");
    assert_int_equal(get(f, "/v1/streams/meta-1/metadata", "", &b), 200);
    expect_body(&b, "{\"stream\":\"meta-1\",\"version\":0,\"metadata\":"
                    "{\"$maxCount\":2,\"owner\":[\"x\"]}}");
    assert_int_equal(get(f, "/v1/streams/meta-1", "", &b), 200);
    assert_int_equal(count_of(&b, "\"version\""), 2);
    assert_int_equal(get(f, "/v1/streams/meta-1/info", "", &b), 200);
    expect_body(&b, "\"first\":3,\"head\":4,\"count\":2,");
    expect_body(&b, "\"max_count\":2");
    assert_int_equal(
        send_as(f, "PUT", "/v1/streams/meta-1/metadata", "Expected-Version: 7\r\n", meta, &b), 409);
    expect_body(&b, "\"stream\":\"$$meta-1\",\"expected\":7,\"actual\":0}");
    assert_int_equal(
        send_as(f, "PUT", "/v1/streams/meta-1/metadata", "Expected-Version: 0\r\n", "{}", &b), 200);
    assert_int_equal(get(f, "/v1/streams/$$meta-1", "", &b), 200);
    expect_body(&b, "\"type\":\"$metadata\"");
    buf_fini(&b);
}

static void
test_bad_metadata(void **state)
{
    static const char *const bodies[] = {
        "",
        "1",
        "[]",
        "{",
        "{\"$maxCount\":0}",
        "{\"$maxCount\":-1}",
        "{\"$maxCount\":1.5}",
        "{\"$maxAge\":\"1d\"}",
        "{\"$tb\":18446744073709551615}",
        "{\"$acl\":1}",
        "{\"$maxCount\":1,\"$maxCount\":2}",
    };
    struct fix *f = *state;
    struct buf  b = {0}, large = {0};

    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        assert_int_equal(send_as(f, "PUT", "/v1/streams/bad-1/metadata", "", bodies[i], &b), 400);
    buf_add_str(&large, "{\"x\":\"");
    for (int i = 0; i < 70000; i++)
        buf_add_byte(&large, 'x');
    buf_add_str(&large, "\"}");
    assert_int_equal(ask_with(f, "PUT", "/v1/streams/bad-1/metadata", "", buf_slice(&large), &b),
                     413);
    assert_int_equal(send_as(f, "PUT", "/v1/streams/$$bad-1/metadata", "", "{}", &b), 400);
    assert_int_equal(send_as(f, "PUT", "/v1/streams/$ce-bad/metadata", "", "{}", &b), 400);
    assert_int_equal(get(f, "/v1/streams/bad-1/metadata", "", &b), 200);
    expect_body(&b, "\"version\":null");
    buf_fini(&large);
    buf_fini(&b);
}

/* Links by their own path, as events, in circles and into nothing. */
static void
test_links(void **state)
{
    static const char *const bad[] = {
        "[]",
        "{}",
        "[1]",
        "[{\"stream\":\"t-1\"}]",
        "[{\"stream\":\"t-1\",\"version\":-1}]",
        "[{\"stream\":\"\",\"version\":0}]",
        "[{\"stream\":\"t-1\",\"version\":0,\"x\":1}]",
        "[{\"stream\":1,\"version\":0}]",
    };
    struct fix *f = *state;
    struct buf  b = {0};

    append(f, "t-1", 2);
    assert_int_equal(
        post(f, "/v1/streams/l-1/links", "Expected-Version: no-stream\r\n",
             "[{\"stream\":\"t-1\",\"version\":1},{\"version\":4,\"stream\":\"no\\u0065\"}]", &b),
        201);
    expect_body(&b, "\"first_version\":0,\"last_version\":1}");
    assert_int_equal(post(f, "/v1/streams/l-1", "", "{\"type\":\"$>\",\"data\":\"2@l-1\"}", &b),
                     201);
    assert_int_equal(get(f, "/v1/streams/l-1", "", &b), 200);
    expect_body(&b, "\"data\":\"1@t-1\"}");
    expect_body(&b, "\"data\":\"4@noe\"}");
    assert_int_equal(get(f, "/v1/streams/l-1?resolve=true", "", &b), 200);
    expect_body(&b, "\"stream\":\"t-1\",\"version\":1,\"type\":\"A\"");
    expect_body(&b, "\"data\":1,\"link\":{\"stream\":\"l-1\",\"version\":0,\"position\":");
    expect_body(&b, "\"data\":\"4@noe\",\"dangling\":true}");
    /* One step: to itself, and no further. */
    expect_body(&b, "\"data\":\"2@l-1\"");
    expect_body(&b, "\"next\":3,");
    assert_int_equal(get(f, "/v1/streams/l-1?resolve=yes", "", &b), 400);
    assert_int_equal(get(f, "/v1/streams/l-1?resolve=true&direction=backwards&limit=2", "", &b),
                     200);
    expect_body(&b, "\"next\":0,");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(post(f, "/v1/streams/l-1/links", "", bad[i], &b), 400);
    assert_int_equal(post(f, "/v1/streams/l-1", "", "{\"type\":\"$>\",\"data\":{\"a\":1}}", &b),
                     400);
    assert_int_equal(post(f, "/v1/streams/l-1", "", "{\"type\":\"$>\",\"data\":\"x@t-1\"}", &b),
                     400);
    assert_int_equal(post(f, "/v1/streams/l-1", "", "{\"type\":\"$>\",\"data\":\"1\"}", &b), 400);
    /* The target goes: the link dangles. */
    assert_int_equal(del(f, "/v1/streams/t-1", "", &b), 200);
    assert_int_equal(get(f, "/v1/streams/l-1?resolve=true", "", &b), 200);
    expect_body(&b, "\"data\":\"1@t-1\",\"dangling\":true}");
    buf_fini(&b);
}

static void
test_native_reads(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0};
    char        path[100];
    const char *next;

    for (int i = 0; i < 4; i++) {
        (void)snprintf(path, sizeof path, "/v1/streams/nat%d-%d", i % 2, i);
        assert_int_equal(post(f, path, "", i < 3 ? "{\"type\":\"Nat\",\"data\":1}" : EVENT, NULL),
                         201);
    }
    assert_int_equal(get(f, "/v1/streams/$ce-nat1", "", &b), 200);
    assert_int_equal(count_of(&b, "\"stream\":\"nat1-"), 2);
    assert_int_equal(count_of(&b, "\"version\""), 2);
    assert_int_equal(get(f, "/v1/streams/$et-Nat", "", &b), 200);
    assert_int_equal(count_of(&b, "\"version\""), 3);
    assert_int_equal(get(f, "/v1/streams/$ce-nat1?type=Nat&limit=1", "", &b), 200);
    assert_int_equal(count_of(&b, "\"version\""), 1);
    buf_add_byte(&b, 0);
    next = strstr((char *)b.data, "\"next\":");
    (void)snprintf(path, sizeof path, "/v1/streams/$ce-nat1?from=%llu",
                   strtoull(next + 7, NULL, 10));
    assert_int_equal(get(f, path, "", &b), 200);
    expect_body(&b, "\"nat1-3\"");
    assert_int_equal(count_of(&b, "\"version\""), 1);
    assert_int_equal(get(f, "/v1/streams/$streams?prefix=nat", "", &b), 200);
    assert_int_equal(count_of(&b, "@nat"), 4);
    assert_int_equal(get(f, "/v1/streams/$streams?prefix=nat&resolve=true", "", &b), 200);
    assert_int_equal(count_of(&b, "\"stream\":\"nat"), 4);
    assert_int_equal(get(f, "/v1/streams/$ce-none", "", &b), 200);
    expect_body(&b, "{\"events\":[],");
    assert_int_equal(post(f, "/v1/streams/$ce-nat1", "", EVENT, &b), 400);
    buf_fini(&b);
}

static void
test_list(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0};

    append(f, "page-a", 1);
    append(f, "page-b", 2);
    append(f, "page-c", 1);
    assert_int_equal(get(f, "/v1/streams?prefix=page-&limit=2", "", &b), 200);
    expect_body(&b, "{\"stream\":\"page-b\",\"first\":0,\"head\":1,\"count\":2,");
    expect_body(&b, "\"next\":\"page-b\"}");
    assert_int_equal(get(f, "/v1/streams?prefix=page-&after=page-b", "", &b), 200);
    expect_body(&b, "{\"streams\":[{\"stream\":\"page-c\",");
    assert_int_equal(get(f, "/v1/streams?page=2", "", &b), 400);
    buf_fini(&b);
}

/* Everything at once, or nothing. */
static void
test_commit_changes(void **state)
{
    struct fix *f = *state;
    struct buf  b = {0};

    append(f, "chg-1", 3);
    append(f, "chg-2", 3);
    assert_int_equal(post(f, "/v1/commits", "",
                          "{\"appends\":[{\"stream\":\"chg-3\",\"events\":[" EVENT "]}],"
                          "\"changes\":[{\"stream\":\"chg-1\",\"expected\":9,\"delete\":true}]}",
                          &b),
                     409);
    assert_int_equal(get(f, "/v1/streams/chg-3", "", &b), 404);
    assert_int_equal(post(f, "/v1/commits", "",
                          "{\"appends\":[{\"stream\":\"chg-3\",\"events\":[" EVENT "]}],"
                          "\"changes\":[{\"stream\":\"chg-1\",\"expected\":2,\"delete\":true},"
                          "{\"stream\":\"chg-2\",\"truncate\":2},"
                          "{\"stream\":\"chg-3\",\"metadata\":{\"$maxCount\":7}}]}",
                          &b),
                     201);
    expect_body(&b, "\"appends\":[{\"stream\":\"chg-3\",\"first_version\":0,\"last_version\":0}]}");
    assert_int_equal(get(f, "/v1/streams/chg-1", "", &b), 404);
    assert_int_equal(get(f, "/v1/streams/chg-2/info", "", &b), 200);
    expect_body(&b, "\"first\":2,");
    assert_int_equal(get(f, "/v1/streams/chg-3/info", "", &b), 200);
    expect_body(&b, "\"max_count\":7");
    assert_int_equal(
        post(f, "/v1/commits", "", "{\"changes\":[{\"stream\":\"chg-2\",\"tombstone\":true}]}", &b),
        201);
    assert_int_equal(get(f, "/v1/streams/chg-2", "", &b), 410);
    buf_fini(&b);
}

static void
test_bad_changes(void **state)
{
    static const char *const bad[] = {
        "{\"changes\":[]}",
        "{\"changes\":[1]}",
        "{\"changes\":[{\"stream\":\"x\"}]}",
        "{\"changes\":[{\"stream\":\"x\",\"delete\":1}]}",
        "{\"changes\":[{\"stream\":\"x\",\"delete\":false}]}",
        "{\"changes\":[{\"stream\":\"x\",\"truncate\":-1}]}",
        "{\"changes\":[{\"stream\":\"x\",\"delete\":true,\"metadata\":{}}]}",
        "{\"changes\":[{\"stream\":\"x\",\"metadata\":{\"$maxCount\":0}}]}",
        "{\"changes\":[{\"stream\":\"$x\",\"metadata\":{}}]}",
        "{\"changes\":[{\"stream\":\"$x\",\"delete\":true}]}",
        /* Metadata in the commit gives no right to write the system's streams. */
        "{\"appends\":[{\"stream\":\"$x\",\"events\":[" EVENT "]}],"
        "\"changes\":[{\"stream\":\"x\",\"metadata\":{}}]}",
    };
    struct buf b = {0};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (post(*state, "/v1/commits", "", bad[i], &b) != 400)
            fail_msg("%s: %.*s", bad[i], (int)b.len, (const char *)b.data);
    buf_fini(&b);
}

static void
test_quotas(void **state)
{
    struct server_quota list[] = {
        {slice_str("slow"), 2, 0}, {slice_str("thin"), 0, 1000}, {slice_str("*"), 1000000, 0}};
    struct fix    f = {0};
    struct buf    b = {0}, large = {0};
    struct client c;
    struct answer a;

    (void)state;
    fix_start(&f, NULL, 0, NULL);
    assert_int_equal(server_set_quotas(f.server, list, 3, &f.err), 0);
    /* More than a second's worth gets through once, and is owed. */
    assert_int_equal(post(&f, "/v1/streams/slow-1", "",
                          "[" EVENT "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT
                          "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT
                          "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT
                          "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT "," EVENT
                          "," EVENT "," EVENT "," EVENT "," EVENT "]",
                          &b),
                     201);
    client_open(&c, &f);
    client_send(&c, "POST /v1/streams/slow-2 HTTP/1.1\r\n" HOST
                    "Content-Length: 21\r\n\r\n{\"type\":\"A\",\"data\":1}");
    client_answer(&c, &a, true);
    assert_int_equal(a.status, 429);
    assert_true(answer_has(&a, "HTTP/1.1 429 Too Many Requests\r\n"));
    assert_true(answer_has(&a, "\r\nRetry-After: 1"));
    expect_body(&a.body,
                "{\"error\":\"over-quota\",\"message\":\"the quota of category \\\"slow\\\"");
    answer_fini(&a);
    client_close(&c);
    assert_int_equal(post(&f, "/v1/commits", "",
                          "{\"appends\":[{\"stream\":\"ok-1\",\"events\":[" EVENT "]},"
                          "{\"stream\":\"slow-1\",\"events\":[" EVENT "]}]}",
                          &b),
                     429);
    assert_int_equal(get(&f, "/v1/streams/ok-1", "", &b), 404);
    assert_int_equal(metric(&f, "oxbow_append_quota_refused_total"), 2);
    buf_add_str(&large, "{\"type\":\"A\",\"data\":\"");
    for (int i = 0; i < 100000; i++)
        buf_add_byte(&large, 'x');
    buf_add_str(&large, "\"}");
    assert_int_equal(ask_with(&f, "POST", "/v1/streams/thin-1", "", buf_slice(&large), &b), 201);
    assert_int_equal(ask_with(&f, "POST", "/v1/streams/thin-1", "", buf_slice(&large), &b), 429);
    append(&f, "other-1", 10);
    append(&f, "plain", 10);
    /* Without quotas nothing is refused. */
    assert_int_equal(server_set_quotas(f.server, NULL, 0, &f.err), 0);
    append(&f, "slow-1", 10);
    buf_fini(&b);
    buf_fini(&large);
    fix_stop(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_delete),         cmocka_unit_test(test_tombstone),
        cmocka_unit_test(test_moved),          cmocka_unit_test(test_truncate),
        cmocka_unit_test(test_close),          cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_bad_metadata),   cmocka_unit_test(test_links),
        cmocka_unit_test(test_native_reads),   cmocka_unit_test(test_list),
        cmocka_unit_test(test_commit_changes), cmocka_unit_test(test_bad_changes),
        cmocka_unit_test(test_quotas),
    };

    return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
