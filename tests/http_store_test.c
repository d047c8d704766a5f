/* The store http: conditions, fences, lost answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "http_drivers.h"
#include "http_service.h"
#include "store/http/http.h"

struct world {
    struct http_service *service;
    struct store        *store;
    struct store_row     row;
    struct buf           text;
    struct err           err;
    uint16_t             port;
};

static int
set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);

    w->service = http_service_new();
    w->port = http_fake_port(http_service_fake(w->service));
    w->store = http_store(w->port, "[a, b]", "version: version\n");
    *state = w;
    return 0;
}

static int
tear_down(void **state)
{
    struct world *w = *state;

    store_free(w->store);
    http_service_free(w->service);
    buf_fini(&w->text);
    free(w);
    return 0;
}

static void
reopen(struct world *w, const char *more)
{
    store_free(w->store);
    w->store = http_store(w->port, "[a, b]", more);
}

static int
get(struct world *w, const char *key)
{
    return w->store->ops->get(w->store, slice_str(key), &w->row, &w->err);
}

static int
put(struct world *w, const char *fields, enum store_cond_kind cond, const char *expect)
{
    struct store_write write = {.key = slice_str("5"),
                                .fields = slice_str(fields),
                                .cond = cond,
                                .expect = slice_str(expect),
                                .epoch = 3,
                                .origin = slice_str("oxbow:m"),
                                .request_id = slice_of(NULL, 0)};

    if (fields == NULL)
        return w->store->ops->del(w->store, &write, &w->err);
    return w->store->ops->put(w->store, &write, &w->err);
}

static bool
holds(struct world *w, const char *row)
{
    bool there = http_service_read(w->service, "5", &w->text);

    return row == NULL ? !there : there && slice_is(buf_slice(&w->text), row);
}

static void
test_get(void **state)
{
    struct world *w = *state;

    assert_int_equal(get(w, "5"), E_NOTFOUND);
    http_service_write(w->service, "5", "{\"b\":2.50,\"other\":[],\"a\":\"\\u00e4\"}");
    http_ok(get(w, "5"), &w->err);
    assert_true(slice_is(w->row.key, "5"));
    assert_true(slice_is(w->row.fields, "{\"a\":\"\xc3\xa4\",\"b\":2.5}"));
    assert_true(slice_is(w->row.version, "1"));
    http_service_hide_versions(w->service, true);
    reopen(w, "");
    http_ok(get(w, "5"), &w->err);
    assert_true(slice_is(w->row.version, "\"1\"")); /* of the ETag */
    http_service_write(w->service, "5", "{\"a\":1}");
    assert_int_equal(get(w, "5"), E_SCHEMA); /* b has vanished */
    assert_int_equal(w->err.kind, ERR_FATAL);
    reopen(w, "missing_is_null: true\n");
    http_ok(get(w, "5"), &w->err);
    assert_true(slice_is(w->row.fields, "{\"a\":1,\"b\":null}"));
}

static void
conditions(struct world *w, bool etag_only)
{
    char version[32];

    http_service_reset(w->service);
    http_service_hide_versions(w->service, etag_only);
    reopen(w, etag_only ? "" : "version: version\n");
    http_ok(put(w, "{\"a\":1,\"b\":1}", STORE_ABSENT, ""), &w->err);
    assert_true(http_fake_last_has(http_service_fake(w->service), "Oxbow-Epoch: 3\r\n"));
    assert_true(http_fake_last_has(http_service_fake(w->service), "Origin: oxbow:m\r\n"));
    assert_int_equal(put(w, "{\"a\":1,\"b\":2}", STORE_ABSENT, ""), E_WRONG_VERSION);
    http_ok(get(w, "5"), &w->err);
    (void)snprintf(version, sizeof version, "%.*s", SLICE_FMT(w->row.version));
    http_ok(put(w, "{\"a\":1,\"b\":3}", STORE_VERSION, version), &w->err);
    assert_int_equal(put(w, "{\"a\":1,\"b\":4}", STORE_VERSION, version), E_WRONG_VERSION);
    assert_int_equal(w->err.kind, ERR_DATA);
    assert_int_equal(put(w, NULL, STORE_VERSION, version), E_WRONG_VERSION);
    http_ok(put(w, "{\"a\":1,\"b\":5}", STORE_EQUALS, "{\"a\":1,\"b\":3}"), &w->err);
    assert_int_equal(put(w, "{\"a\":1,\"b\":6}", STORE_EQUALS, "{\"a\":1,\"b\":3}"),
                     E_WRONG_VERSION);
    assert_int_equal(put(w, NULL, STORE_EQUALS, "{\"a\":1,\"b\":3}"), E_WRONG_VERSION);
    http_ok(put(w, "{\"a\":1,\"b\":7}", STORE_ANY, ""), &w->err);
    assert_true(holds(w, "{\"a\":1,\"b\":7}"));
    http_ok(put(w, NULL, STORE_EQUALS, "{\"a\":1,\"b\":7}"), &w->err);
    assert_true(holds(w, NULL));
    http_ok(put(w, NULL, STORE_EQUALS, "{\"a\":1,\"b\":7}"), &w->err); /* gone already */
    http_ok(put(w, NULL, STORE_VERSION, version), &w->err);
    http_ok(put(w, NULL, STORE_ANY, ""), &w->err);
    assert_int_equal(put(w, "{\"a\":1,\"b\":8}", STORE_EQUALS, "{\"a\":1,\"b\":7}"),
                     E_WRONG_VERSION);
    assert_int_equal(put(w, "{\"a\":1,\"b\":8}", STORE_VERSION, version), E_WRONG_VERSION);
    assert_true(holds(w, NULL));
}

static void
test_conditions(void **state)
{
    conditions(*state, false);
    conditions(*state, true);
}

static int
collect(void *arg, const struct store_row *row, struct err *err)
{
    struct world *w = arg;

    (void)err;
    buf_printf(&w->text, "%.*s@%.*s=%.*s ", SLICE_FMT(row->key), SLICE_FMT(row->version),
               SLICE_FMT(row->fields));
    return w->text.len > 4000 ? E_END : 0;
}

static int
scan(struct world *w, const char *after, uint32_t limit)
{
    buf_clear(&w->text);
    return w->store->ops->scan(w->store, slice_str(after), limit, collect, w, &w->err);
}

static void
test_scan(void **state)
{
    struct world *w = *state;
    char          key[16];

    http_ok(scan(w, "", 0), &w->err);
    assert_int_equal(w->text.len, 0);
    for (int i = 1; i <= 10; i++) { /* pages of 3, keys that sort otherwise as text */
        (void)snprintf(key, sizeof key, "%d", i);
        http_service_write(w->service, key, "{\"a\":1,\"b\":2}");
    }
    http_ok(scan(w, "", 0), &w->err);
    assert_int_equal(strncmp((char *)w->text.data, "1@1={\"a\":1,\"b\":2} 2@2=", 22), 0);
    buf_add_byte(&w->text, 0);
    assert_non_null(strstr((char *)w->text.data, " 9@9={\"a\":1,\"b\":2} 10@10={"));
    http_ok(scan(w, "8", 0), &w->err);
    assert_int_equal(strncmp((char *)w->text.data, "9@9", 3), 0);
    http_ok(scan(w, "2", 5), &w->err);
    buf_add_byte(&w->text, 0);
    assert_non_null(strstr((char *)w->text.data, "7@7"));
    assert_null(strstr((char *)w->text.data, "8@8"));
    http_ok(scan(w, "10", 0), &w->err);
    assert_int_equal(w->text.len, 0);
}

/* Pages that would never end, and pages that are none. */
static void
test_bad_pages(void **state)
{
    struct world     *w = *state;
    struct http_fake *fake = http_service_fake(w->service);
    const char       *page = "{\"orders\":[{\"id\":1,\"version\":1,\"a\":1,\"b\":1}],\"next\":1}";

    http_fake_push_many(fake, 2, false, FAKE_ANSWER, 200, NULL, page);
    assert_int_equal(scan(w, "", 0), E_SCHEMA);
    assert_int_equal(w->err.kind, ERR_FATAL);
    http_fake_push(fake, FAKE_ANSWER, 200, NULL, "{\"rows\":[]}");
    assert_int_equal(scan(w, "", 0), E_SCHEMA);
    assert_int_equal(w->err.kind, ERR_RETRY);
    http_fake_push(fake, FAKE_ANSWER, 200, NULL, "{\"orders\":[1],\"next\":null}");
    assert_int_equal(scan(w, "", 0), E_SCHEMA);
    http_fake_push(fake, FAKE_ANSWER, 200, NULL, "so so");
    assert_int_equal(scan(w, "", 0), E_SYNTAX);
    assert_int_equal(w->err.kind, ERR_RETRY);
    http_fake_push(fake, FAKE_ANSWER, 503, "Retry-After: 3\r\n", "");
    assert_int_equal(scan(w, "", 0), E_REMOTE);
    assert_int_equal(w->err.retry_ms, 3000);
}

static void
test_fence(void **state)
{
    struct world      *w = *state;
    struct store_guard guard = {.epoch = 4, .writable = false}, there;

    http_ok(w->store->ops->guard_install(w->store, &guard, &w->err), &w->err);
    http_ok(w->store->ops->guard_install(w->store, &guard, &w->err), &w->err);
    http_ok(w->store->ops->guard_get(w->store, &there, &w->err), &w->err);
    assert_int_equal(there.epoch, 4);
    assert_false(there.writable);
    assert_int_equal(put(w, "{\"a\":1,\"b\":1}", STORE_ANY, ""), E_FENCED); /* with epoch 3 */
    assert_int_equal(w->err.kind, ERR_FATAL);
    assert_int_equal(put(w, NULL, STORE_ANY, ""), E_FENCED);
    guard.epoch = 3;
    assert_int_equal(w->store->ops->guard_set(w->store, &guard, &w->err), E_FENCED);
    guard.epoch = 5;
    guard.writable = true;
    http_ok(w->store->ops->guard_set(w->store, &guard, &w->err), &w->err);
    http_ok(w->store->ops->guard_set(w->store, &guard, &w->err), &w->err);
    http_ok(w->store->ops->guard_get(w->store, &there, &w->err), &w->err);
    assert_int_equal(there.epoch, 5);
    assert_true(there.writable);
    guard.writable = false;
    guard.epoch = 6;
    http_ok(w->store->ops->guard_set(w->store, &guard, &w->err), &w->err);
    http_ok(w->store->ops->guard_remove(w->store, &w->err), &w->err);
    http_ok(w->store->ops->guard_remove(w->store, &w->err), &w->err);
    http_ok(w->store->ops->guard_get(w->store, &there, &w->err), &w->err);
    assert_true(there.writable);
}

static int
put_as(struct world *w, const char *request_id, enum store_cond_kind cond, const char *expect)
{
    struct store_write write = {.key = slice_str("5"),
                                .fields = slice_str("{\"a\":9,\"b\":9}"),
                                .cond = cond,
                                .expect = slice_str(expect),
                                .request_id = slice_str(request_id)};

    return w->store->ops->put(w->store, &write, &w->err);
}

/* The write was done and its answer lost: sent again under its key it is done once. */
static void
test_lost_answers(void **state)
{
    struct world     *w = *state;
    struct http_fake *fake = http_service_fake(w->service);

    http_fake_push_many(fake, 1, true, FAKE_HALF, 201, NULL, "{\"a\":9,\"b\":9}");
    http_ok(put_as(w, "r1", STORE_ABSENT, ""), &w->err);
    assert_int_equal(http_service_head(w->service), 1);
    http_fake_push_many(fake, 1, true, FAKE_GARBAGE, 0, NULL, "hm");
    http_ok(put_as(w, "r2", STORE_VERSION, "1"), &w->err);
    assert_int_equal(http_service_head(w->service), 2);
    http_fake_push_many(fake, 2, false, FAKE_HALF, 201, NULL, "{\"a\":9,\"b\":9}");
    http_ok(put_as(w, "r3", STORE_VERSION, "2"), &w->err); /* not done, then done */
    assert_int_equal(http_service_head(w->service), 3);
    http_fake_push_many(fake, 3, true, FAKE_HALF, 201, NULL, "{\"a\":9,\"b\":9}");
    assert_int_equal(put_as(w, "r4", STORE_VERSION, "3"), E_REMOTE);
    assert_int_equal(w->err.kind, ERR_UNSURE);
    assert_int_equal(http_service_head(w->service), 4);
    http_ok(put_as(w, "r4", STORE_VERSION, "3"), &w->err); /* by the caller, later */
    assert_int_equal(http_service_head(w->service), 4);
}

/* Without a key nothing is sent twice, and a service without a memory is not believed. */
static void
test_no_memory(void **state)
{
    struct world     *w = *state;
    struct http_fake *fake = http_service_fake(w->service);
    uint32_t          before;

    before = http_fake_count(fake);
    http_fake_push(fake, FAKE_HALF, 201, NULL, "{\"a\":9,\"b\":9}");
    assert_int_equal(put_as(w, NULL, STORE_ABSENT, ""), E_REMOTE);
    assert_int_equal(w->err.kind, ERR_UNSURE);
    assert_int_equal(http_fake_count(fake), before + 1);
    http_fake_push(fake, FAKE_HALF, 201, NULL, "{\"a\":9,\"b\":9}");
    http_fake_push(fake, FAKE_ANSWER, 412, NULL, "{}");
    assert_int_equal(put_as(w, "r1", STORE_ABSENT, ""), E_REMOTE);
    assert_int_equal(w->err.kind, ERR_UNSURE);
    http_fake_push(fake, FAKE_HALF, 201, NULL, "{\"a\":9,\"b\":9}");
    http_fake_push_many(fake, 2, false, FAKE_ANSWER, 503, NULL, "{}");
    assert_int_equal(put_as(w, "r1", STORE_ABSENT, ""), E_REMOTE);
    assert_int_equal(w->err.kind, ERR_UNSURE); /* the first may have been done */
}

static void
test_refusals(void **state)
{
    struct world     *w = *state;
    struct http_fake *fake = http_service_fake(w->service);

    http_fake_push(fake, FAKE_ANSWER, 422, NULL, "{\"error\":\"invalid-row\"}");
    assert_int_equal(put_as(w, "r", STORE_ANY, ""), E_REJECTED);
    assert_int_equal(w->err.kind, ERR_DATA);
    assert_string_equal(w->err.text, "PUT /orders/{key}: status 422: invalid-row");
    http_fake_push(fake, FAKE_ANSWER, 409, NULL, "{\"error\":\"something-else\"}");
    assert_int_equal(put_as(w, "r", STORE_ANY, ""), E_REJECTED);
    http_fake_push(fake, FAKE_ANSWER, 500, NULL, "");
    assert_int_equal(put_as(w, "r", STORE_ANY, ""), E_REMOTE);
    assert_int_equal(w->err.kind, ERR_RETRY);
    http_fake_push(fake, FAKE_ANSWER, 500, NULL, "");
    assert_int_equal(get(w, "5"), E_REMOTE);
    http_fake_push(fake, FAKE_ANSWER, 200, NULL, "[");
    assert_int_equal(get(w, "5"), E_SYNTAX);
    assert_int_equal(w->err.kind, ERR_RETRY);
}

/* A row that changes between being read and being written, but not in what counts. */
static void
test_equals_races(void **state)
{
    struct world     *w = *state;
    struct http_fake *fake = http_service_fake(w->service);
    const char       *row = "{\"id\":5,\"a\":1,\"b\":1,\"version\":7}";

    http_service_write(w->service, "5", "{\"a\":1,\"b\":1}");
    http_fake_push(fake, FAKE_ANSWER, 200, NULL, row); /* then its PUT meets version 1: 412 */
    http_ok(put_as(w, "r", STORE_EQUALS, "{\"a\":1,\"b\":1}"), &w->err);
    assert_true(holds(w, "{\"a\":9,\"b\":9}"));
    for (int i = 0; i < 5; i++) {
        http_fake_push(fake, FAKE_ANSWER, 200, NULL, row);
        http_fake_push(fake, FAKE_ANSWER, 412, NULL, "{}");
    }
    assert_int_equal(put_as(w, "s", STORE_EQUALS, "{\"a\":1,\"b\":1}"), E_BUSY);
    assert_int_equal(w->err.kind, ERR_RETRY);
}

static void
count_findings(void *arg, int level, const char *text)
{
    (void)level;
    (void)text;
    (*(int *)arg)++;
}

static void
test_position_and_check(void **state)
{
    struct world *w = *state;
    struct buf    at = {0};
    int           n = 0;

    http_service_write(w->service, "5", "{\"a\":1,\"b\":1}");
    http_ok(w->store->ops->position(w->store, &at, &w->err), &w->err);
    assert_true(slice_is(buf_slice(&at), "{\"cursor\":1}"));
    buf_fini(&at);
    http_ok(w->store->ops->check(w->store, count_findings, &n, &w->err), &w->err);
    assert_int_equal(n, 3);
    http_service_write(w->service, "5", "{\"a\":1}");
    assert_int_equal(w->store->ops->check(w->store, count_findings, &n, &w->err), E_SCHEMA);
}

static void
test_configuration(void **state)
{
    struct world *w = *state;
    const char   *rest = "fields: [a]\nscan: {url: /rows, rows: rows}\n";

    http_conf_refused(store_http_ops.schema, "url", "item: /x\n%s", rest);
    http_conf_refused(store_http_ops.schema, "item", "url: http://127.0.0.1\n%s", rest);
    http_conf_refused(store_http_ops.schema, "fields",
                      "url: http://127.0.0.1\nitem: /x\nscan: {url: /rows}\n");
    assert_int_equal(http_fake_count(http_service_fake(w->service)), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_get),           TEST(test_conditions),
        TEST(test_scan),          TEST(test_bad_pages),
        TEST(test_fence),         TEST(test_lost_answers),
        TEST(test_no_memory),     TEST(test_refusals),
        TEST(test_equals_races),  TEST(test_position_and_check),
        TEST(test_configuration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
