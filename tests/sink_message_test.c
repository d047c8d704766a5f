/* Events as CloudEvents: each binding, each format, and what never goes into a header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/conf.h"
#include "base/json.h"
#include "sink/message.h"

#define TRACE "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

static const struct conf_field fields[] = {SINK_FORM_FIELDS, {.name = NULL}};
static const struct conf_type  schema = {.kind = CONF_OBJECT, .fields = fields};

static struct sink_form *
form(const char *yaml, enum sink_binding binding)
{
    struct conf_opts  opts = {.file = "c.yaml"};
    struct sink_form *f;
    struct conf      *conf;
    struct buf        problems = {0};
    struct err        err;

    if (conf_load(slice_str(yaml), &schema, &opts, &conf, &problems, &err) != 0)
        fail_msg("%s", err.text);
    if (sink_form_open(conf, binding, &f, &err) != 0)
        fail_msg("%s", err.text);
    conf_free(conf);
    buf_fini(&problems);
    return f;
}

static struct sink_item
event(void)
{
    return (struct sink_item){
        .pos = {4711},
        .version = 7,
        .stream = slice_str("order-Zo\xc3\xab 1"),
        .key = slice_str("Zo\xc3\xab 1"),
        .type = slice_str("Order \"Placed\" 5%"),
        .data = slice_str("{\"n\": 1}"),
        .meta = slice_str("{\"traceparent\":\"" TRACE "\",\"tracestate\":\"a=b\"}"),
        .id = {{0xab, [15] = 1}},
        .created_us = 1000000,
        .json = true};
}

static const char *
header(const struct sink_message *m, const char *name)
{
    const char *found = NULL;

    for (uint32_t i = 0; i < m->count; i++) {
        if (strcmp(m->headers[i].name, name) != 0)
            continue;
        assert_null(found);
        found = m->headers[i].value.data;
        assert_int_equal(strlen(found), m->headers[i].value.len);
    }
    return found;
}

static void
has(const struct sink_message *m, const char *name, const char *value)
{
    const char *is = header(m, name);

    if (is == NULL)
        fail_msg("no header %s", name);
    assert_string_equal(is, value);
}

static void
binary(void **state)
{
    static const struct {
        enum sink_binding binding;
        const char       *id, *type, *subject, *type_value, *subject_value;
    } cases[] = {
        {SINK_HTTP, "ce-id", "ce-type", "ce-subject", "Order%20%22Placed%22%205%25",
         "order-Zo%C3%AB%201"},
        {SINK_NATS, "ce-id", "ce-type", "ce-subject", "Order%20%22Placed%22%205%25",
         "order-Zo%C3%AB%201"},
        {SINK_KAFKA, "ce_id", "ce_type", "ce_subject", "Order \"Placed\" 5%", "order-Zo\xc3\xab 1"},
        {SINK_AMQP, "cloudEvents_id", "cloudEvents_type", "cloudEvents_subject",
         "Order \"Placed\" 5%", "order-Zo\xc3\xab 1"},
    };
    struct sink_item    item = event();
    struct sink_message m;
    struct err          err;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sink_form *f = form("{source: '/shops/{category}'}", cases[i].binding);

        assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
        has(&m, cases[i].id, "ab000000-0000-0000-0000-000000000001");
        has(&m, cases[i].type, cases[i].type_value);
        has(&m, cases[i].subject, cases[i].subject_value);
        has(&m, "traceparent", TRACE);
        has(&m, "tracestate", "a=b");
        assert_string_equal(m.content_type, "application/json");
        assert_true(slice_eq(m.body, item.data));
        if (cases[i].binding == SINK_NATS)
            has(&m, "ce-datacontenttype", "application/json");
        if (cases[i].binding == SINK_HTTP) {
            assert_null(header(&m, "ce-datacontenttype"));
            has(&m, "ce-specversion", "1.0");
            has(&m, "ce-source", "/shops/order");
            has(&m, "ce-time", "1970-01-01T00:00:01.000000Z");
            has(&m, "ce-sequence", "00000000000000000007");
            has(&m, "ce-oxbowposition", "4711");
            has(&m, "ce-traceparent", TRACE);
        }
        sink_form_free(f);
    }
}

static void
structured(void **state)
{
    struct sink_form   *f = form("{format: structured, headers: {X-Of: 'v{version}'}}", SINK_AMQP);
    struct sink_item    item = event();
    struct sink_message m;
    struct slice        value;
    struct err          err;

    assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
    assert_int_equal(json_check(m.body, &err), 0);
    assert_string_equal(m.content_type, "application/cloudevents+json");
    assert_true(json_get(m.body, "data", &value));
    assert_true(slice_is(value, "{\"n\": 1}"));
    assert_true(json_get(m.body, "subject", &value));
    assert_true(slice_is(value, "\"order-Zo\xc3\xab 1\""));
    assert_true(json_get(m.body, "datacontenttype", &value));
    assert_true(slice_is(value, "\"application/json\""));
    assert_true(json_get(m.body, "source", &value));
    assert_true(slice_is(value, "\"oxbow\""));
    has(&m, "X-Of", "v7");
    has(&m, "traceparent", TRACE);
    assert_int_equal(m.count, 3);

    item.json = false;
    item.data = slice_str("\x01\x02");
    assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
    assert_int_equal(json_check(m.body, &err), 0);
    assert_false(json_get(m.body, "data", &value));
    assert_true(json_get(m.body, "data_base64", &value));
    assert_true(slice_is(value, "\"AQI=\""));

    item.data = slice_str("");
    assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
    assert_false(json_get(m.body, "data_base64", &value));
    assert_false(json_get(m.body, "datacontenttype", &value));
    sink_form_free(f);
}

static void
raw(void **state)
{
    struct sink_form   *f = form("{format: raw}", SINK_KAFKA);
    struct sink_item    item = event();
    struct sink_message m;
    struct err          err;

    assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
    assert_true(slice_eq(m.body, item.data));
    assert_int_equal(m.count, 2); /* the trace */
    item.data = slice_of(NULL, 0);
    assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
    assert_null(m.body.data);
    assert_null(m.content_type);
    sink_form_free(f);
}

/* What is no trace context is left out, as the recommendation asks; the event goes on. */
static void
bad_traces(void **state)
{
    static const char *const metas[] = {
        "",
        "not json",
        "{\"traceparent\":1}",
        "{\"traceparent\":\"x\"}",
        "{\"traceparent\":\"00-00000000000000000000000000000000-b7ad6b7169203331-01\"}",
        "{\"traceparent\":\"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01\"}",
        "{\"traceparent\":\"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}",
        "{\"traceparent\":\"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01\"}",
        "{\"tracestate\":\"a=b\"}",
    };
    struct sink_form   *f = form("{format: raw}", SINK_HTTP);
    struct sink_item    item = event();
    struct sink_message m;
    struct err          err;

    for (size_t i = 0; i < sizeof metas / sizeof metas[0]; i++) {
        item.meta = slice_str(metas[i]);
        assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
        assert_int_equal(m.count, 0);
    }
    item.meta = slice_str("{\"traceparent\":\"" TRACE "\",\"tracestate\":\"a=b\\r\\nx: y\"}");
    assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
    assert_int_equal(m.count, 1);
    sink_form_free(f);
}

static void
bad_headers(void **state)
{
    struct sink_form   *f = form("{headers: {X-N: '{data.n}'}}", SINK_HTTP);
    struct sink_item    item = event();
    struct sink_message m;
    struct err          err;

    assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
    has(&m, "X-N", "1");
    item.data = slice_str("{\"n\":\"a\\r\\nb: c\"}");
    assert_int_equal(sink_form_fill(f, &item, &m, &err), E_SCHEMA);
    assert_int_equal(err.kind, ERR_DATA);
    item.data = slice_str("{}");
    assert_int_equal(sink_form_fill(f, &item, &m, &err), E_SCHEMA);
    assert_int_equal(err.kind, ERR_DATA);
    sink_form_free(f);
}

static void
test_debezium(void **state)
{
    struct sink_form   *f = form("format: debezium\n", SINK_KAFKA);
    struct sink_item    item = event();
    struct sink_message m;
    struct err          err;

    (void)state;
    assert_int_equal(sink_form_fill(f, &item, &m, &err), E_SCHEMA);
    assert_int_equal(err.kind, ERR_DATA);
    item.type = slice_str("Updated");
    item.meta = slice_str("{\"$source\":{\"name\":\"shop\",\"table\":\"orders\",\"position\":\"7\","
                          "\"time_us\":2500000,\"before\":{\"n\":0}}}");
    assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
    assert_true(slice_is(m.body,
                         "{\"before\":{\"n\":0},\"after\":{\"n\": 1},\"source\":{\"connector\":"
                         "\"oxbow\",\"name\":\"shop\",\"table\":\"orders\",\"position\":\"7\","
                         "\"ts_ms\":2500,\"snapshot\":\"false\"},\"op\":\"u\",\"ts_ms\":1000}"));
    assert_int_equal(m.count, 0);
    item.type = slice_str("Deleted");
    item.data = slice_str("null");
    assert_int_equal(sink_form_fill(f, &item, &m, &err), 0);
    assert_true(slice_starts(m.body, slice_str("{\"before\":{\"n\":0},\"after\":null,")));
    sink_form_free(f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_debezium), cmocka_unit_test(binary),
        cmocka_unit_test(structured),    cmocka_unit_test(raw),
        cmocka_unit_test(bad_traces),    cmocka_unit_test(bad_headers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
