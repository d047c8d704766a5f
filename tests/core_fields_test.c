/* Indexes on fields over a log on disk: what is found, in which order, and after what. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/fields.h"
#include "core_fake.h"
#include "env/env_real.h"

struct home {
    struct fake_log f;
    struct fields  *fields;
};

static void
open_fields(struct home *h)
{
    char               dir[96];
    struct fields_conf conf = {.dir = dir, .values = &log_values_lmdb, .eager = true};
    struct err         err;

    (void)snprintf(dir, sizeof dir, "%s/indexes", h->f.dir);
    fake_ok(fields_open(env_real(), h->f.log, &conf, &h->fields, &err), &err);
}

static int
setup(void **state)
{
    struct home *h = calloc(1, sizeof *h);

    assert_non_null(h);
    fake_log_open(&h->f);
    open_fields(h);
    *state = h;
    return 0;
}

static int
teardown(void **state)
{
    struct home *h = *state;

    fields_close(h->fields);
    fake_log_close(&h->f);
    free(h);
    return 0;
}

static void
reopen(struct home *h)
{
    fields_close(h->fields);
    fake_log_reopen(&h->f);
    open_fields(h);
}

static int
command(struct home *h, enum fields_verb verb, const char *name, const char *path,
        const char *category, struct err *err)
{
    struct fields_command c = {
        .verb = verb,
        .def = {.name = slice_str(name), .path = slice_str(path), .category = slice_str(category)}};
    int rc = fields_command(h->fields, &c);

    err_copy(err, &c.err);
    return rc;
}

static void
copy_info(void *arg, const struct fields_info *i)
{
    *(struct fields_info *)arg = *i;
}

static struct fields_info
info(struct home *h, const char *name)
{
    struct fields_info i = {0};
    struct err         err;

    fake_ok(fields_get(h->fields, slice_str(name), copy_info, &i, &err), &err);
    return i;
}

struct wanted {
    struct home *h;
    const char  *name;
};

static bool
is_live(void *arg)
{
    struct wanted *w = arg;

    return info(w->h, w->name).live;
}

static bool
is_level(void *arg)
{
    struct wanted     *w = arg;
    struct fields_info i = info(w->h, w->name);

    return i.live && i.covers.v == i.end.v;
}

static void
make(struct home *h, const char *name, const char *path, const char *category)
{
    struct wanted w = {h, name};
    struct err    err;

    fake_ok(command(h, FIELDS_CREATE, name, path, category, &err), &err);
    fake_until(is_live, &w, "the index was built");
}

static void
make_level(struct home *h, const char *name)
{
    struct wanted w = {h, name};

    fake_until(is_level, &w, "the index covers the log");
}

#define GOT_MAX 4096

/* Positions of a value's events. */
static uint32_t
positions(struct home *h, const char *name, const char *text, bool backwards, uint64_t *out)
{
    struct buf          value = {0};
    struct fields_query q = {.name = slice_str(name), .backwards = backwards};
    struct fields_read *r;
    struct log_event    ev;
    struct err          err;
    uint32_t            count = 0;
    int                 rc;

    fake_ok(fields_value(slice_str(text), &value, &err), &err);
    q.value = buf_slice(&value);
    q.from = backwards ? UINT64_MAX : 0;
    fake_ok(fields_read_open(h->fields, &q, &r, &err), &err);
    while ((rc = fields_read_next(r, &ev, &err)) == 0) {
        assert_true(count < GOT_MAX);
        out[count++] = ev.pos.v;
    }
    if (rc != E_END)
        fake_ok(rc, &err);
    fields_read_close(r);
    buf_fini(&value);
    return count;
}

static void
expect(struct home *h, const char *name, const char *value, uint32_t count)
{
    static uint64_t forth[GOT_MAX], back[GOT_MAX];
    uint32_t        n = positions(h, name, value, false, forth);

    if (n != count)
        fail_msg("%s %s: %u events, not %u", name, value, n, count);
    assert_int_equal(positions(h, name, value, true, back), n);
    for (uint32_t i = 0; i < n; i++) {
        assert_true(i == 0 || forth[i - 1] < forth[i]);
        assert_int_equal(back[n - 1 - i], forth[i]);
    }
}

/* Every kind of value, as a list of what the index covers and as a scan of what it does not. */
static void
kinds(void **state)
{
    struct home *h = *state;

    make(h, "a", "v", NULL);
    for (int pass = 1; pass <= 3; pass++) {
        uint32_t n = (uint32_t)pass;

        (void)fake_append(&h->f, "s-1", "{\"v\":\"abc\"}");
        (void)fake_append(&h->f, "s-1", "{\"v\":\"a\\u0062c\"}");
        (void)fake_append(&h->f, "s-1", "{\"v\":42}");
        (void)fake_append(&h->f, "s-1", "{\"v\":42.0}");
        (void)fake_append(&h->f, "s-1", "{\"v\":\"42\"}");
        (void)fake_append(&h->f, "s-1", "{\"v\":true}");
        (void)fake_append(&h->f, "s-1", "{\"v\":null}");
        (void)fake_append(&h->f, "s-1", "{\"v\":123456789012345678901234567890.10}");
        (void)fake_append(&h->f, "s-1", "{\"v\":1e99999}");
        (void)fake_append(&h->f, "s-1", "{\"v\":[1,2,2,\"x\",[7],{\"v\":8}]}");
        (void)fake_append(&h->f, "s-1", "{\"v\":{\"w\":9}}");
        (void)fake_append(&h->f, "s-1", "{\"w\":\"abc\"}");
        (void)fake_append(&h->f, "s-1", "{\"v\":1,\"v\":5}");
        (void)fake_append(&h->f, "s-1", "[\"abc\"]");
        (void)fake_append(&h->f, "s-1", "{\"v\":\"\"}");
        expect(h, "a", "abc", 2 * n);
        expect(h, "a", "\"abc\"", 2 * n);
        expect(h, "a", "42", 2 * n);
        expect(h, "a", "4.2e1", 2 * n);
        expect(h, "a", "\"42\"", n);
        expect(h, "a", "true", n);
        expect(h, "a", "\"true\"", 0);
        expect(h, "a", "null", n);
        expect(h, "a", "123456789012345678901234567890.1", n);
        expect(h, "a", "123456789012345678901234567890.2", 0);
        expect(h, "a", "1e99999", n);
        expect(h, "a", "1", n);
        expect(h, "a", "2", n);
        expect(h, "a", "x", n);
        expect(h, "a", "7", 0);
        expect(h, "a", "8", 0);
        expect(h, "a", "9", 0);
        expect(h, "a", "5", n);
        expect(h, "a", "\"\"", n);
        if (pass == 1)
            make_level(h, "a");
        else
            reopen(h);
    }
    make_level(h, "a");
    expect(h, "a", "42", 6);
    assert_int_equal(info(h, "a").skipped, 0);
}

static void
paths(void **state)
{
    struct home *h = *state;

    make(h, "deep", "a.b.1.c", NULL);
    make(h, "each", "items.*.sku", NULL);
    make(h, "pointer", "/x.y/ä~1b/~0", NULL);
    make(h, "word", "Straße.🦬", NULL);
    make(h, "cat", "n", "order");
    (void)fake_append(&h->f, "order-1", "{\"a\":{\"b\":[{\"c\":1},{\"c\":2}]},\"n\":1}");
    (void)fake_append(&h->f, "orders-1",
                      "{\"items\":[{\"sku\":\"p\"},{},3,{\"sku\":\"q\"}],\"n\":1}");
    (void)fake_append(&h->f, "order", "{\"x.y\":{\"\\u00e4/b\":{\"~\":3}},\"n\":1}");
    (void)fake_append(&h->f, "s", "{\"Straße\":{\"\\ud83e\\uddac\":\"bison\"}}");
    for (int pass = 0; pass < 2; pass++) {
        expect(h, "deep", "2", 1);
        expect(h, "deep", "1", 0);
        expect(h, "each", "p", 1);
        expect(h, "each", "q", 1);
        expect(h, "each", "3", 0);
        expect(h, "pointer", "3", 1);
        expect(h, "word", "bison", 1);
        expect(h, "cat", "1", 1);
        make_level(h, "deep");
        make_level(h, "cat");
    }
}

static void
limits(void **state)
{
    struct home *h = *state;
    struct buf   text = {0};
    struct err   err;
    char         name[16];

    make(h, "a", "v", NULL);
    buf_add_str(&text, "{\"v\":\"");
    for (int i = 0; i < 255; i++)
        buf_add_byte(&text, 'x');
    buf_add_str(&text, "\"}");
    buf_add_byte(&text, 0);
    (void)fake_append(&h->f, "s", (const char *)text.data); /* 257 bytes with its quotes */
    buf_clear(&text);
    buf_add_str(&text, "{\"v\":[0");
    for (int i = 1; i < 120; i++)
        buf_printf(&text, ",%d", i);
    buf_add_str(&text, "]}");
    buf_add_byte(&text, 0);
    (void)fake_append(&h->f, "s", (const char *)text.data);
    make_level(h, "a");
    assert_int_equal(info(h, "a").skipped, 1 + 20);
    assert_int_equal(info(h, "a").entries, 100);
    expect(h, "a", "99", 1);
    expect(h, "a", "100", 0);

    assert_int_equal(command(h, FIELDS_CREATE, "a", "v", NULL, &err), E_EXISTS);
    assert_int_equal(command(h, FIELDS_DROP, "b", NULL, NULL, &err), E_NOTFOUND);
    assert_int_equal(command(h, FIELDS_REBUILD, "b", NULL, NULL, &err), E_NOTFOUND);
    assert_int_equal(command(h, FIELDS_CREATE, "-b", "v", NULL, &err), E_INVALID);
    assert_int_equal(command(h, FIELDS_CREATE, "", "v", NULL, &err), E_INVALID);
    assert_int_equal(command(h, FIELDS_CREATE, "b", "", NULL, &err), E_INVALID);
    assert_int_equal(command(h, FIELDS_CREATE, "b", "a..b", NULL, &err), E_INVALID);
    assert_int_equal(command(h, FIELDS_CREATE, "b", "a.", NULL, &err), E_INVALID);
    assert_int_equal(command(h, FIELDS_CREATE, "b", "/a~2", NULL, &err), E_INVALID);
    assert_int_equal(
        command(h, FIELDS_CREATE, "b", "1.2.3.4.5.6.7.8.9.0.1.2.3.4.5.6.7", NULL, &err), E_INVALID);
    assert_int_equal(command(h, FIELDS_CREATE, "b", "v", "a-b", &err), E_INVALID);
    buf_clear(&text);
    assert_int_equal(fields_value(slice_str("[1]"), &text, &err), E_INVALID);
    assert_int_equal(fields_value(slice_str("{}"), &text, &err), E_INVALID);
    for (int i = 1; i < FIELDS_MAX; i++) {
        (void)snprintf(name, sizeof name, "n%d", i);
        fake_ok(command(h, FIELDS_CREATE, name, "v", NULL, &err), &err);
    }
    assert_int_equal(command(h, FIELDS_CREATE, "more", "v", NULL, &err), E_LIMIT);
    buf_fini(&text);
}

struct stream_change {
    struct fake_log *f;
    const char      *stream;
    uint32_t         what;
    uint64_t         truncate;
};

static void
apply(const struct stream_change *c)
{
    struct log_change change = {.stream = slice_str(c->stream),
                                .expected = LOG_ANY,
                                .what = c->what,
                                .truncate = c->truncate};
    struct log_req    req = {.changes = &change, .change_count = 1};

    fake_ok(log_append(c->f->log, &req), &req.err);
}

/* Hidden events never show, whether they are in the index already or not. */
static void
hidden(void **state)
{
    struct home *h = *state;

    for (int i = 0; i < 10; i++) {
        (void)fake_append(&h->f, "a-1", "{\"v\":1}");
        (void)fake_append(&h->f, "b-1", "{\"v\":1}");
        (void)fake_append(&h->f, "c-1", "{\"v\":1}");
    }
    apply(&(struct stream_change){&h->f, "a-1", LOG_SET_TRUNCATE, 4});
    make(h, "v", "v", NULL);
    expect(h, "v", "1", 26);
    make_level(h, "v");
    expect(h, "v", "1", 26);
    apply(&(struct stream_change){&h->f, "b-1", LOG_SET_DELETED, 0});
    expect(h, "v", "1", 16);
    apply(&(struct stream_change){&h->f, "c-1", LOG_SET_TOMBSTONE, 0});
    expect(h, "v", "1", 6);
    (void)fake_append(&h->f, "b-1", "{\"v\":1}");
    expect(h, "v", "1", 7);
    make_level(h, "v");
    reopen(h);
    expect(h, "v", "1", 7);
}

/* Dropped, made anew and rebuilt: nothing of an earlier life is left. */
static void
lives(void **state)
{
    struct home        *h = *state;
    struct fields_query q = {.name = slice_str("v"), .value = slice_str("1")};
    struct fields_read *r;
    struct log_event    ev;
    struct err          err;
    struct wanted       w = {h, "v"};

    for (int i = 0; i < 300; i++)
        (void)fake_append(&h->f, "a-1", "{\"v\":1,\"w\":2}");
    make(h, "v", "v", NULL);
    fake_ok(fields_read_open(h->fields, &q, &r, &err), &err);
    fake_ok(fields_read_next(r, &ev, &err), &err);
    fake_ok(command(h, FIELDS_REBUILD, "v", NULL, NULL, &err), &err);
    fake_until(is_live, &w, "the index was built again");
    expect(h, "v", "1", 300);
    {
        int rc = 0;

        for (int i = 0; i < 300 && rc == 0; i++)
            rc = fields_read_next(r, &ev, &err);
        assert_int_equal(rc, E_GONE);
    }
    fields_read_close(r);
    fake_ok(command(h, FIELDS_DROP, "v", NULL, NULL, &err), &err);
    assert_int_equal(fields_read_open(h->fields, &q, &r, &err), E_NOTFOUND);
    make(h, "v", "w", NULL);
    expect(h, "v", "1", 0);
    expect(h, "v", "2", 300);
    assert_int_equal(info(h, "v").entries, 300);
    reopen(h);
    expect(h, "v", "2", 300);
    assert_int_equal(fields_get(h->fields, slice_str("u"), copy_info, &ev, &err), E_NOTFOUND);
}

struct sum {
    uint64_t values, events;
    char     last[300];
};

static int
add_value(void *arg, struct slice value, uint64_t count, struct err *err)
{
    struct sum *s = arg;

    s->values++;
    s->events += count;
    (void)snprintf(s->last, sizeof s->last, "%.*s", SLICE_FMT(value));
    return 0;
}

#define EACH 100

/* EACH events in one commit: their values follow from their numbers. */
static void
append_many(struct home *h, const char *stream, uint32_t first, uint32_t counts[50])
{
    struct log_new_event events[EACH] = {0};
    char                 data[EACH][24];
    struct log_write     w = {
            .stream = slice_str(stream), .expected = LOG_ANY, .events = events, .count = EACH};
    struct log_req req = {.writes = &w, .write_count = 1};

    for (uint32_t i = 0; i < EACH; i++) {
        uint32_t n = ((first + i) * 7919) % 50;

        (void)snprintf(data[i], sizeof data[i], "{\"n\":%u}", n);
        events[i] = (struct log_new_event){
            .type = slice_str("t"), .data = slice_str(data[i]), .flags = LOG_JSON};
        counts[n]++;
    }
    fake_ok(log_append(h->f.log, &req), &req.err);
}

/* Many values and events in many transactions; the index equals a scan of the log. */
static void
many(void **state)
{
    struct home  *h = *state;
    uint32_t      counts[50] = {0};
    struct sum    sum = {0};
    struct err    err;
    char          stream[32], value[16];
    struct wanted w = {h, "late"};

    make(h, "n", "n", NULL);
    for (uint32_t i = 0; i < 3000; i += EACH) {
        (void)snprintf(stream, sizeof stream, "s-%u", i % 7);
        append_many(h, stream, i, counts);
        if (i == 1500)
            fake_ok(command(h, FIELDS_CREATE, "late", "n", NULL, &err), &err);
    }
    fake_until(is_live, &w, "the late index was built");
    for (uint32_t n = 0; n < 50; n++) {
        (void)snprintf(value, sizeof value, "%u", n);
        expect(h, "n", value, counts[n]);
        expect(h, "late", value, counts[n]);
    }
    make_level(h, "n");
    make_level(h, "late");
    fake_ok(fields_values(h->fields, slice_str("late"), slice_str(""), add_value, &sum, &err),
            &err);
    assert_int_equal(sum.values, 50);
    assert_int_equal(sum.events, 3000);
    assert_string_equal(sum.last, "9");
    memset(&sum, 0, sizeof sum);
    fake_ok(fields_values(h->fields, slice_str("n"), slice_str("48"), add_value, &sum, &err), &err);
    assert_int_equal(sum.values, 6); /* 49, 5, 6, 7, 8, 9 */
}

/* log_iter_at, and a floor of a scan backwards. */
static void
at_a_position(void **state)
{
    struct home     *h = *state;
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it;
    struct log_event ev;
    struct err       err;
    struct log_pos   a = fake_append(&h->f, "a-1", "1"), b = fake_append(&h->f, "a-1", "2"),
                   c = fake_append(&h->f, "b-1", "3");

    read.floor = b;
    fake_ok(log_iter_open(h->f.log, &read, &it, &err), &err);
    fake_ok(log_iter_next(it, &ev, &err), &err);
    assert_int_equal(ev.pos.v, c.v);
    fake_ok(log_iter_at(it, a, &ev, &err), &err);
    assert_int_equal(ev.version, 0);
    assert_int_equal(log_iter_at(it, LOG_POS(a.v + 8), &ev, &err), E_GONE);
    assert_int_equal(log_iter_at(it, log_end(h->f.log), &ev, &err), E_GONE);
    fake_ok(log_iter_next(it, &ev, &err), &err);
    assert_int_equal(ev.pos.v, b.v);
    assert_int_equal(log_iter_next(it, &ev, &err), E_END);
    apply(&(struct stream_change){&h->f, "a-1", LOG_SET_TRUNCATE, 1});
    assert_int_equal(log_iter_at(it, a, &ev, &err), E_NOTFOUND);
    fake_ok(log_iter_at(it, b, &ev, &err), &err);
    log_iter_close(it);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(kinds, setup, teardown),
        cmocka_unit_test_setup_teardown(paths, setup, teardown),
        cmocka_unit_test_setup_teardown(limits, setup, teardown),
        cmocka_unit_test_setup_teardown(hidden, setup, teardown),
        cmocka_unit_test_setup_teardown(lives, setup, teardown),
        cmocka_unit_test_setup_teardown(many, setup, teardown),
        cmocka_unit_test_setup_teardown(at_a_position, setup, teardown),
    };

    return cmocka_run_group_tests_name("fields", tests, NULL, NULL);
}
