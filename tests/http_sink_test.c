/* The sink http: events become requests, answers decide items. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "http_drivers.h"
#include "http_service.h"
#include "sink/http/http.h"

#define RULES                                                                                      \
    "- {type: OrderPlaced, method: PUT, url: '/orders/{key}', body: '{data}'}\n"                   \
    "- {type: OrderGone, method: DELETE, url: '/orders/{data.id}'}\n"                              \
    "- type_prefix: Note\n"                                                                        \
    "  method: POST\n"                                                                             \
    "  url: /notes?of={key}&n={version}\n"                                                         \
    "  body: '{\"text\":{data.text},\"by\":\"<{meta.by}>\",\"at\":{created},\"raw\":{data.x}}'\n"  \
    "  headers: {X-Stream: '{stream}', X-By: 'by {meta.by}'}\n"                                    \
    "  done: [409]\n"                                                                              \
    "  retry: [423]\n"

struct decided {
    int        rc;
    struct err err;
};

struct world {
    struct http_service *service;
    struct sink         *sink;
    struct sink_item     items[64];
    struct decided       decided[64];
    uint32_t             made, ended, again;
    struct err           err;
};

static int
set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);

    w->service = http_service_new();
    w->sink = http_sink(http_fake_port(http_service_fake(w->service)), RULES);
    *state = w;
    return 0;
}

static int
tear_down(void **state)
{
    struct world *w = *state;

    sink_free(w->sink);
    http_service_free(w->service);
    free(w);
    return 0;
}

static struct sink_item *
make(struct world *w, const char *key, const char *type, const char *data)
{
    struct sink_item *item = &w->items[w->made];

    item->pos.v = ++w->made;
    item->version = 8;
    item->stream = slice_str("order-x");
    item->key = slice_str(key);
    item->type = slice_str(type);
    item->data = slice_str(data);
    item->meta = slice_str("{\"by\":\"Zo\xc3\xab \\\"Z\\\"\"}");
    item->id.b[0] = 0xab;
    item->id.b[15] = (uint8_t)w->made;
    return item;
}

static void
take(struct sink *sink, struct sink_item *item, int rc, const struct err *err)
{
    struct world *w = sink->done_arg;
    size_t        i = (size_t)(item - w->items);

    assert_true(w->decided[i].rc == -1);
    w->decided[i].rc = rc;
    if (rc != 0)
        w->decided[i].err = *err;
    w->ended++;
    if (w->again > 0) { /* credit is there at once */
        w->again--;
        item = make(w, "7", "OrderPlaced", "{\"n\":2}");
        w->decided[item - w->items].rc = -1;
        http_ok(sink_submit(sink, item, &w->err), &w->err);
    }
}

static void
submit(struct world *w, struct sink_item *item)
{
    w->sink->done = take;
    w->sink->done_arg = w;
    w->decided[item - w->items].rc = -1;
    http_ok(sink_submit(w->sink, item, &w->err), &w->err);
}

static void
finish(struct world *w)
{
    for (int i = 0; w->sink->in_flight > 0 && i < 1000; i++)
        http_ok(w->sink->ops->poll(w->sink, true, LOG_POS(0), 50, &w->err), &w->err);
    assert_int_equal(w->sink->in_flight, 0);
}

/* One event, alone: what became of it. */
static int
deliver(struct world *w, const char *key, const char *type, const char *data)
{
    struct sink_item *item = make(w, key, type, data);
    size_t            i = (size_t)(item - w->items);

    submit(w, item);
    finish(w);
    w->err = w->decided[i].err;
    return w->decided[i].rc;
}

static void
test_put_and_delete(void **state)
{
    struct world *w = *state;
    struct buf    row = {0};

    http_ok(deliver(w, "5", "OrderPlaced", " {\"id\":5,\"a\":\"x\"} "), &w->err);
    assert_true(http_fake_last_has(http_service_fake(w->service),
                                   "Idempotency-Key: ab000000-0000-0000-0000-000000000001\r\n"));
    assert_true(http_fake_last_has(http_service_fake(w->service), "\n{\"id\":5,\"a\":\"x\"}"));
    assert_true(http_service_read(w->service, "5", &row));
    buf_fini(&row);
    http_ok(deliver(w, "x", "OrderGone", "{\"id\":5}"), &w->err);
    assert_int_equal(http_service_rows(w->service), 0);
    http_ok(deliver(w, "x", "OrderGone", "{\"id\":5}"), &w->err); /* 404: gone already */
}

static void
test_templates(void **state)
{
    struct world     *w = *state;
    struct http_fake *fake = http_service_fake(w->service);

    http_fake_push(fake, FAKE_ANSWER, 202, NULL, "");
    http_ok(deliver(w, "a/b c", "NoteAdded", "{\"text\":\"q\\\"q\",\"x\":[1, {}]}"), &w->err);
    assert_true(http_fake_last_has(fake, "POST /notes?of=a%2Fb%20c&n=8\n"));
    assert_true(http_fake_last_has(fake, "X-Stream: order-x\r\n"));
    assert_true(http_fake_last_has(fake, "X-By: by Zo\xc3\xab \"Z\"\r\n"));
    assert_true(http_fake_last_has(fake,
                                   "\n{\"text\":\"q\\\"q\",\"by\":\"<Zo\xc3\xab \\\"Z\\\">\","
                                   "\"at\":\"1970-01-01T00:00:00.000000Z\",\"raw\":[1, {}]}"));
}

/* Refused here, before anything is sent, and so for good. */
static void
test_bad_events(void **state)
{
    struct world *w = *state;

    assert_int_equal(deliver(w, "5", "Unknown", "{}"), E_SCHEMA);
    assert_int_equal(w->err.kind, ERR_DATA);
    assert_int_equal(deliver(w, "5", "OrderGone", "{}"), E_SCHEMA);
    assert_int_equal(w->err.kind, ERR_DATA);
    assert_non_null(strstr(w->err.text, "data.id"));
    assert_int_equal(deliver(w, "5", "OrderGone", "{\"id\":null}"), E_SCHEMA);
    assert_int_equal(deliver(w, "5", "OrderGone", "{\"id\":{}}"), E_SCHEMA);
    assert_int_equal(deliver(w, "5", "OrderGone", "{\"id\":\"..\"}"), E_SCHEMA);
    assert_int_equal(deliver(w, "5", "OrderGone", "{\"id\":\"\"}"), E_SCHEMA);
    assert_int_equal(deliver(w, "5", "OrderGone", "not json"), E_SCHEMA);
    assert_int_equal(deliver(w, "5", "OrderPlaced", "not json"), E_SCHEMA);
    assert_int_equal(deliver(w, "", "OrderPlaced", "{}"), E_SCHEMA);
    assert_int_equal(http_fake_count(http_service_fake(w->service)), 0);
    assert_int_equal(w->sink->credit, 16);
}

#define TRACE "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

static void
open_as(struct world *w, const char *rules)
{
    sink_free(w->sink);
    w->sink = http_sink(http_fake_port(http_service_fake(w->service)), rules);
}

static int
traced(struct world *w, const char *data)
{
    struct sink_item *item = make(w, "5", "OrderPlaced", data);

    item->json = true;
    item->meta = slice_str("{\"traceparent\":\"" TRACE "\"}");
    submit(w, item);
    finish(w);
    w->err = w->decided[item - w->items].err;
    return w->decided[item - w->items].rc;
}

static void
test_cloudevents(void **state)
{
    struct world     *w = *state;
    struct http_fake *fake = http_service_fake(w->service);

    http_fake_push_many(fake, 3, false, FAKE_ANSWER, 200, NULL, "");
    http_ok(traced(w, "{\"a\":1}"), &w->err);
    assert_true(http_fake_last_has(fake, "traceparent: " TRACE "\r\n"));
    assert_false(http_fake_last_has(fake, "ce-id"));
    open_as(w, "- {method: POST, url: /events}\ncloudevents: binary\nsource: '/x/{category}'\n");
    http_ok(traced(w, "{\"a\":1}"), &w->err);
    assert_true(http_fake_last_has(fake, "ce-id: ab000000-0000-0000-0000-000000000002\r\n"));
    assert_true(http_fake_last_has(fake, "ce-source: /x/order\r\n"));
    assert_true(http_fake_last_has(fake, "Content-Type: application/json\r\n"));
    assert_true(http_fake_last_has(fake, "\n{\"a\":1}"));
    open_as(w, "- {method: POST, url: /events}\ncloudevents: structured\n");
    http_ok(traced(w, "{\"a\":1}"), &w->err);
    assert_true(http_fake_last_has(fake, "Content-Type: application/cloudevents+json\r\n"));
    assert_true(http_fake_last_has(fake, "\"data\":{\"a\":1}}"));
    assert_true(http_fake_last_has(fake, "traceparent: " TRACE "\r\n"));
}

struct outcome {
    enum fake_mode mode;
    int            status, rc;
    enum err_kind  kind;
};

static void
test_outcomes(void **state)
{
    static const struct outcome outcomes[] = {
        {FAKE_CLOSE, 0, E_REMOTE, ERR_UNSURE},    {FAKE_ANSWER, 200, 0, ERR_NONE},
        {FAKE_ANSWER, 400, E_REJECTED, ERR_DATA}, {FAKE_ANSWER, 404, E_REJECTED, ERR_DATA},
        {FAKE_ANSWER, 409, 0, ERR_NONE},          {FAKE_ANSWER, 412, E_REJECTED, ERR_DATA},
        {FAKE_ANSWER, 422, E_REJECTED, ERR_DATA}, {FAKE_ANSWER, 423, E_REJECTED, ERR_RETRY},
        {FAKE_ANSWER, 429, E_REMOTE, ERR_RETRY},  {FAKE_ANSWER, 500, E_REMOTE, ERR_RETRY},
        {FAKE_ANSWER, 504, E_REMOTE, ERR_UNSURE}, {FAKE_ANSWER, 301, E_REMOTE, ERR_RETRY},
        {FAKE_HALF, 200, E_REMOTE, ERR_UNSURE},   {FAKE_GARBAGE, 0, E_SCHEMA, ERR_UNSURE},
        {FAKE_ANSWER, 401, E_AUTH, ERR_RETRY},
    };
    struct world *w = *state;

    for (size_t i = 0; i < sizeof outcomes / sizeof outcomes[0]; i++) {
        const struct outcome *o = &outcomes[i];

        http_fake_push(http_service_fake(w->service), o->mode, o->status, "Retry-After: 1\r\n",
                       "{\"error\":\"because\"}");
        if (deliver(w, "5", "NoteAdded", "{\"text\":1,\"x\":2}") != o->rc ||
            (o->rc != 0 && w->err.kind != o->kind))
            fail_msg("outcome %zu: %s %s", i, err_kind_name(w->err.kind), w->err.text);
        if (o->status >= 400 && o->kind == ERR_RETRY) {
            assert_int_equal(w->err.retry_ms, 1000);
            assert_non_null(strstr(w->err.text, "POST /notes?of={key}&n={version}: status "));
            assert_non_null(strstr(w->err.text, ": because"));
        }
    }
}

static void
test_many(void **state)
{
    struct world *w = *state;
    char          keys[16][16];

    w->again = 30;
    for (int i = 0; i < 16; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "%d", 100 + i);
        submit(w, make(w, keys[i], "OrderPlaced", "{\"n\":1}"));
    }
    assert_int_equal(w->sink->credit, 0);
    finish(w);
    assert_int_equal(w->ended, 46);
    assert_int_equal(w->sink->credit, 16);
    assert_int_equal(http_service_rows(w->service), 17);
    for (uint32_t i = 0; i < w->made; i++)
        assert_int_equal(w->decided[i].rc, 0);
}

/* Closing with requests on their way forgets them; nothing leaks, nothing is reported. */
static void
test_close_in_flight(void **state)
{
    struct world *w = *state;

    http_fake_push_many(http_service_fake(w->service), 2, false, FAKE_HANG, 0, NULL, NULL);
    submit(w, make(w, "1", "OrderPlaced", "{}"));
    submit(w, make(w, "2", "OrderPlaced", "{}"));
    http_ok(w->sink->ops->poll(w->sink, true, LOG_POS(0), 5, &w->err), &w->err);
    assert_int_equal(w->sink->in_flight, 2);
    sink_free(w->sink);
    w->sink = NULL;
    assert_int_equal(w->ended, 0);
}

static void
ignore_line(void *arg, int level, const char *text)
{
    assert_int_equal(level, 0);
    assert_non_null(strstr(text, "404"));
    (*(int *)arg)++;
}

static void
test_check(void **state)
{
    struct world  *w = *state;
    struct log_pos pos = LOG_POS(9);
    int            n = 0;

    http_ok(w->sink->ops->check(w->sink, ignore_line, &n, &w->err), &w->err);
    assert_int_equal(n, 1);
    http_ok(w->sink->ops->checkpoint(w->sink, &pos, &w->err), &w->err);
    assert_int_equal(pos.v, 0);
}

static void
refused(const char *url, const char *rule)
{
    struct conf *conf = http_conf(sink_http_ops.schema, "url: %s\nrules:\n- %s\n", url, rule);
    struct sink *sink;
    struct err   err = {0};

    assert_int_equal(sink_new(NULL, &sink_http_ops, "x", conf, &sink, &err), E_SCHEMA);
    assert_non_null(strstr(err.text, "test:"));
    assert_null(sink);
    conf_free(conf);
}

static void
test_configuration(void **state)
{
    (void)state;
    refused("http://127.0.0.1", "{url: 'orders'}");
    refused("http://127.0.0.1", "{url: '/orders/{nothing}'}");
    refused("http://127.0.0.1", "{url: '/orders/{key'}");
    refused("http://127.0.0.1", "{url: /x, body: '{\"a\":{b}}'}");
    refused("http://127.0.0.1", "{url: /x, headers: {X-Y: '{data'}}");
    refused("http://127.0.0.1/x?y=1", "{url: /x}");
    refused("http://127.0.0.1", "{url: /x, body: '{}'}\ncloudevents: structured");
    refused("http://127.0.0.1", "{url: /x}\nsource: '{nothing}'");
    http_conf_refused(sink_http_ops.schema, "url", "url: http://me:pw@h\nrules: [{url: /x}]\n");
    http_conf_refused(sink_http_ops.schema, "rules", "url: http://127.0.0.1\nrules: []\n");
    http_conf_refused(sink_http_ops.schema, "url", "rules: [{url: /x}]\n");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_put_and_delete), TEST(test_templates),   TEST(test_bad_events),
        TEST(test_outcomes),       TEST(test_many),        TEST(test_close_in_flight),
        TEST(test_check),          TEST(test_cloudevents), cmocka_unit_test(test_configuration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
