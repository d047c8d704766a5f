/* Lists of positions as bytes: there and back, and refused where they are malformed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "log/index_label.h"
#include "log/index_pack.h"

static void
test_varint(void **state)
{
    static const uint64_t values[] = {
        0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX >> 1, UINT64_MAX};
    uint8_t bytes[INDEX_VARINT_MAX + 1];

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        size_t       len = logi_varint_put(bytes, values[i]);
        struct slice from = slice_of(bytes, len);
        uint64_t     got = 99;

        assert_true(len <= INDEX_VARINT_MAX);
        assert_true(logi_varint_get(&from, &got));
        assert_int_equal(got, values[i]);
        assert_int_equal(from.len, 0);
        from = slice_of(bytes, len - 1);
        assert_false(logi_varint_get(&from, &got));
    }
    memset(bytes, 0xff, sizeof bytes);
    for (size_t len = 0; len <= sizeof bytes; len++) {
        struct slice from = slice_of(bytes, len);
        uint64_t     got = 0;

        assert_false(logi_varint_get(&from, &got));
    }
}

static void
test_list(void **state)
{
    static const uint64_t want[] = {4096, 4104, 8 * (UINT64_C(1) << 40), UINT64_MAX - 7};
    uint8_t               bytes[64];
    size_t                len = 0;
    uint64_t              got[4] = {0};
    uint64_t              last = 0;
    uint32_t              count = 0;

    for (int i = 0; i < 4; i++)
        len += logi_pos_put(bytes + len, i == 0 ? 0 : want[i - 1], want[i]);
    assert_true(logi_pos_list(slice_of(bytes, len), 0, got, 4, &count, &last));
    assert_int_equal(count, 4);
    assert_int_equal(last, want[3]);
    assert_memory_equal(got, want, sizeof want);
    assert_false(logi_pos_list(slice_of(bytes, len), 0, got, 3, &count, &last));
    assert_false(logi_pos_list(slice_of(bytes, len - 1), 0, NULL, 4, &count, &last));
    /* One step too far, and one that does not grow. */
    bytes[len] = 1;
    assert_false(logi_pos_list(slice_of(bytes, len + 1), 0, NULL, 9, &count, &last));
    bytes[len] = 0;
    assert_false(logi_pos_list(slice_of(bytes, len + 1), 0, NULL, 9, &count, &last));
    assert_true(logi_pos_list(slice_of(NULL, 0), 64, got, 4, &count, &last));
    assert_int_equal(count, 0);
    assert_int_equal(last, 64);
}

/* More labels than the first table holds, in the order of their first sight. */
static void
test_labels(void **state)
{
    static struct index_event events[3000];
    static char               names[1000][8];
    struct index_labels       set = {.labels = NULL};
    struct err                err;

    for (uint32_t i = 0; i < 3000; i++) {
        char *name = names[i % 1000];

        name[0] = (char)('a' + i % 10);
        name[1] = (char)('a' + i / 10 % 10);
        name[2] = (char)('a' + i / 100 % 10);
        events[i].pos = 8 * (i + 1);
        events[i].category = slice_of(name, i % 1000 == 7 ? 0 : 3);
        events[i].type = slice_str("only");
    }
    assert_int_equal(logi_labels_init(&set, events, 3000, &err), 0);
    assert_int_equal(set.count, 1000); /* one category is empty, one is the type */
    assert_true(slice_is(set.labels[0].name, "aaa"));
    assert_int_equal(set.labels[0].kind, INDEX_CATEGORY);
    assert_int_equal(set.labels[0].count, 3);
    assert_int_equal(set.positions[set.labels[0].start + 2], 8 * 2001);
    assert_int_equal(set.labels[1].kind, INDEX_TYPE);
    assert_int_equal(set.labels[1].count, 3000);
    assert_int_equal(set.positions[set.labels[1].start + 2999], 8 * 3000);
    logi_labels_fini(&set);
    assert_int_equal(logi_labels_init(&set, NULL, 0, &err), 0);
    logi_labels_fini(&set);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_varint),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_labels),
    };

    return cmocka_run_group_tests_name("index_pack", tests, NULL, NULL);
}
