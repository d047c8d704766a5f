/* What every store has to keep. */
#include <stdio.h>
#include <stdlib.h>

#include "contract.h"

#define ROWS 120

static const struct store_fixture *const fixtures[] = {
#ifdef OX_STORE_SQLITE
    &store_fixture_sqlite,
#endif
#ifdef OX_STORE_HTTP
    &store_fixture_http,
#endif
};

static const char origin[] = "oxbow:test";

/* Each write is a request of its own: a store that remembers them answers each only once. */
static struct slice
next_request(void)
{
    static char     text[16];
    static unsigned n;

    (void)snprintf(text, sizeof text, "r%u", ++n);
    return slice_str(text);
}

static int
put(struct store *s, const char *key, struct slice fields, enum store_cond_kind cond,
    struct slice expect, uint64_t epoch, struct err *err)
{
    struct store_write w = {slice_str(key),    fields,        cond, expect, epoch,
                            slice_str(origin), next_request()};

    return s->ops->put(s, &w, err);
}

static int
del(struct store *s, const char *key, enum store_cond_kind cond, struct slice expect,
    struct err *err)
{
    struct store_write w = {slice_str(key),    slice_str(""), cond, expect, 1,
                            slice_str(origin), next_request()};

    return s->ops->del(s, &w, err);
}

static void
conditions(void **state)
{
    const struct store_fixture *f = *state;
    void                       *world = f->setup();
    struct store               *s = f->open(world);
    struct store_row            row;
    struct buf                  one = {0}, two = {0}, version = {0};
    struct err                  err;

    f->row(world, 1, &one);
    f->row(world, 2, &two);
    assert_int_equal(s->ops->get(s, slice_str("7"), &row, &err), E_NOTFOUND);
    contract_ok(put(s, "7", buf_slice(&one), STORE_ABSENT, slice_str(""), 1, &err), &err);
    assert_int_equal(put(s, "7", buf_slice(&two), STORE_ABSENT, slice_str(""), 1, &err),
                     E_WRONG_VERSION);
    contract_ok(s->ops->get(s, slice_str("7"), &row, &err), &err);
    assert_true(slice_eq(row.fields, buf_slice(&one)));
    assert_true(slice_is(row.key, "7"));
    buf_add_slice(&version, row.version);
    assert_int_equal(put(s, "7", buf_slice(&two), STORE_EQUALS, buf_slice(&two), 1, &err),
                     E_WRONG_VERSION);
    contract_ok(put(s, "7", buf_slice(&two), STORE_EQUALS, buf_slice(&one), 1, &err), &err);
    assert_int_equal(put(s, "7", buf_slice(&one), STORE_VERSION, buf_slice(&version), 1, &err),
                     E_WRONG_VERSION);
    contract_ok(s->ops->get(s, slice_str("7"), &row, &err), &err);
    assert_true(slice_eq(row.fields, buf_slice(&two)));
    buf_clear(&version);
    buf_add_slice(&version, row.version);
    contract_ok(put(s, "7", buf_slice(&one), STORE_VERSION, buf_slice(&version), 1, &err), &err);
    contract_ok(put(s, "7", buf_slice(&one), STORE_ANY, slice_str(""), 1, &err), &err);
    assert_int_equal(del(s, "7", STORE_EQUALS, buf_slice(&two), &err), E_WRONG_VERSION);
    contract_ok(del(s, "7", STORE_EQUALS, buf_slice(&one), &err), &err);
    contract_ok(del(s, "7", STORE_ANY, slice_str(""), &err), &err);
    assert_int_equal(s->ops->get(s, slice_str("7"), &row, &err), E_NOTFOUND);
    assert_int_not_equal(
        put(s, "7", slice_str("{\"no such field\":1}"), STORE_ANY, slice_str(""), 1, &err), 0);
    assert_int_equal(err.kind, ERR_DATA);
    store_free(s);
    buf_fini(&one);
    buf_fini(&two);
    buf_fini(&version);
    f->teardown(world);
}

struct seen {
    struct store *store;
    unsigned      count;
    char          last[32];
    struct fold  *rows;
};

static int
see(void *arg, const struct store_row *row, struct err *err)
{
    struct seen *seen = arg;

    if (seen->last[0] != '\0')
        assert_true(store_key_cmp(seen->store->key_order, slice_str(seen->last), row->key) < 0);
    (void)snprintf(seen->last, sizeof seen->last, "%.*s", SLICE_FMT(row->key));
    fold_put(seen->rows, row->key, row->fields);
    seen->count++;
    return 0;
}

struct stop {
    int rows, with;
};

static int
stop_at_five(void *arg, const struct store_row *row, struct err *err)
{
    struct stop *stop = arg;

    return ++stop->rows == 5 ? stop->with : 0;
}

/* Whatever the callback stops with comes back, E_END too, and nothing is read after it. */
static void
scan_stops(struct store *s, int with)
{
    struct stop stop = {.with = with};
    struct err  err;

    assert_int_equal(s->ops->scan(s, slice_str(""), 0, stop_at_five, &stop, &err), with);
    assert_int_equal(stop.rows, 5);
}

static void
scans(void **state)
{
    const struct store_fixture *f = *state;
    void                       *world = f->setup();
    struct store               *s = f->open(world);
    struct seen                 all = {.store = s, .rows = fold_new()};
    struct fold                *should = fold_new();
    struct buf                  row = {0};
    struct err                  err;

    for (unsigned i = 0; i < ROWS; i++) {
        char key[16];

        (void)snprintf(key, sizeof key, "%u", 1 + i * 7919 % 1000);
        buf_clear(&row);
        f->row(world, i, &row);
        contract_ok(put(s, key, buf_slice(&row), STORE_ANY, slice_str(""), 1, &err), &err);
        fold_put(should, slice_str(key), buf_slice(&row));
    }
    for (unsigned before = UINT32_MAX; before != all.count;) {
        before = all.count;
        contract_ok(s->ops->scan(s, slice_str(all.last), 17, see, &all, &err), &err);
        assert_true(all.count - before <= 17);
    }
    fold_equal(all.rows, should);
    all.last[0] = '\0';
    all.count = 0;
    contract_ok(s->ops->scan(s, slice_str(""), 0, see, &all, &err), &err);
    assert_int_equal(all.count, fold_count(should));
    scan_stops(s, E_INTERRUPTED);
    scan_stops(s, E_END);
    store_free(s);
    fold_free(should);
    fold_free(all.rows);
    buf_fini(&row);
    f->teardown(world);
}

static void
guards(void **state)
{
    const struct store_fixture *f = *state;
    void                       *world = f->setup();
    struct store               *s = f->open(world);
    struct store_guard          g = {1, true, ""}, is;
    struct buf                  one = {0}, two = {0};
    struct err                  err;

    f->row(world, 1, &one);
    f->row(world, 2, &two);
    buf_add_byte(&one, 0);
    buf_add_byte(&two, 0);
    one.len--;
    two.len--;
    contract_ok(s->ops->guard_install(s, &g, &err), &err);
    contract_ok(s->ops->guard_install(s, &g, &err), &err);
    assert_int_equal(f->app_write(world, "5", (const char *)one.data), 0);
    g = (struct store_guard){2, false, "http://there"};
    contract_ok(s->ops->guard_set(s, &g, &err), &err);
    contract_ok(s->ops->guard_set(s, &g, &err), &err);
    contract_ok(s->ops->guard_get(s, &is, &err), &err);
    assert_int_equal(is.epoch, 2);
    assert_false(is.writable);
    assert_int_not_equal(f->app_write(world, "5", (const char *)two.data), 0);
    assert_int_not_equal(f->app_write(world, "6", (const char *)two.data), 0);
    assert_int_not_equal(f->app_write(world, "5", NULL), 0);
    assert_int_equal(put(s, "5", buf_slice(&two), STORE_ANY, slice_str(""), 1, &err), E_FENCED);
    contract_ok(put(s, "5", buf_slice(&two), STORE_ANY, slice_str(""), 2, &err), &err);
    g.epoch = 1;
    assert_int_equal(s->ops->guard_set(s, &g, &err), E_FENCED);
    g = (struct store_guard){2, true, ""};
    assert_int_equal(s->ops->guard_set(s, &g, &err), E_FENCED);
    g.epoch = 3;
    contract_ok(s->ops->guard_set(s, &g, &err), &err);
    assert_int_equal(f->app_write(world, "5", (const char *)one.data), 0);
    contract_ok(s->ops->guard_remove(s, &err), &err);
    contract_ok(s->ops->guard_remove(s, &err), &err);
    if (f->keeps_guard) {
        contract_ok(s->ops->guard_get(s, &is, &err), &err);
        assert_true(is.writable);
    } else {
        assert_int_equal(s->ops->guard_get(s, &is, &err), E_NOTFOUND);
    }
    store_free(s);
    buf_fini(&one);
    buf_fini(&two);
    f->teardown(world);
}

static void
positions(void **state)
{
    const struct store_fixture *f = *state;
    void                       *world = f->setup();
    struct store               *s = f->open(world);
    struct buf                  before = {0}, after = {0}, row = {0};
    struct err                  err;

    f->row(world, 3, &row);
    contract_ok(s->ops->position(s, &before, &err), &err);
    contract_ok(put(s, "9", buf_slice(&row), STORE_ANY, slice_str(""), 1, &err), &err);
    contract_ok(s->ops->position(s, &after, &err), &err);
    assert_false(slice_eq(buf_slice(&before), buf_slice(&after)));
    store_free(s);
    buf_fini(&before);
    buf_fini(&after);
    buf_fini(&row);
    f->teardown(world);
}

static void
key_order(void **state)
{
    static const char *const numbers[] = {"-10", "-9", "-1", "0", "1", "9", "10", "100"};

    for (size_t i = 0; i < 8; i++) {
        for (size_t j = 0; j < 8; j++) {
            int order =
                store_key_cmp(STORE_KEY_INTEGER, slice_str(numbers[i]), slice_str(numbers[j]));

            assert_true(i == j ? order == 0 : (order < 0) == (i < j));
        }
    }
    assert_int_equal(store_key_cmp(STORE_KEY_INTEGER, slice_str("007"), slice_str("7")), 0);
    assert_true(store_key_cmp(STORE_KEY_TEXT, slice_str("10"), slice_str("9")) < 0);
}

int
main(void)
{
    struct CMUnitTest tests[4 * sizeof fixtures / sizeof fixtures[0] + 1];
    char              names[4 * sizeof fixtures / sizeof fixtures[0] + 1][80];
    size_t            n = 0;

    for (size_t i = 0; i < sizeof fixtures / sizeof fixtures[0]; i++) {
        const struct CMUnitTest of_one[] = {
            cmocka_unit_test(conditions),
            cmocka_unit_test(scans),
            cmocka_unit_test(guards),
            cmocka_unit_test(positions),
        };

        for (size_t j = 0; j < 4; j++, n++) {
            tests[n] = of_one[j];
            (void)snprintf(names[n], sizeof names[n], "%s: %s", fixtures[i]->name, of_one[j].name);
            tests[n].name = names[n];
            tests[n].initial_state = (void *)(uintptr_t)fixtures[i];
        }
    }
    tests[n] = (struct CMUnitTest)cmocka_unit_test(key_order);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
