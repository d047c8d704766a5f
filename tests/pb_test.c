/* Protocol Buffers: what is written reads back, and what is none is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/pb.h"

static void
test_numbers(void **state)
{
    static const uint64_t values[] = {0, 1, 127, 128, 300, UINT32_MAX, INT64_MAX, UINT64_MAX};
    struct buf            out = {0};
    struct pb_in          in;
    struct pb_field       f;

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        pb_put_varint(&out, (uint32_t)(i * 100 + 1), values[i]);
    pb_in_init(&in, buf_slice(&out));
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        assert_true(pb_next(&in, &f));
        assert_int_equal(f.key, PB_VARINT(i * 100 + 1));
        assert_true(f.value == values[i]);
    }
    assert_false(pb_next(&in, &f));
    assert_false(in.bad);
    buf_fini(&out);
}

static void
test_signed(void **state)
{
    static const int64_t values[] = {0, -1, 1, -2, INT64_MAX, INT64_MIN};

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        assert_true(pb_signed(pb_zigzag(values[i])) == values[i]);
    assert_true(pb_zigzag(-1) == 1);
    assert_true(pb_zigzag(1) == 2);
}

static void
test_float(void **state)
{
    struct buf      out = {0};
    struct pb_in    in;
    struct pb_field f;

    pb_put_float(&out, 13, 100);
    pb_put_double(&out, 1, -1);
    pb_in_init(&in, buf_slice(&out));
    assert_true(pb_next(&in, &f));
    assert_int_equal(f.key, PB_FIXED32(13));
    assert_true(f.value == 0x42c80000);
    assert_true(pb_next(&in, &f));
    assert_int_equal(f.key, PB_FIXED64(1));
    assert_true(f.value == UINT64_C(0xbff0000000000000));
    buf_fini(&out);
}

/* However long a message was thought to be, its length is the shortest one. */
static void
test_within(void **state)
{
    static const size_t lengths[] = {0, 1, 127, 128, 16383, 16384, 70000};
    struct buf          text = {0};

    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
            struct buf      out = {0}, plain = {0};
            struct pb_mark  mark = pb_begin(&out, 5, lengths[k]);
            struct pb_in    in;
            struct pb_field f;

            buf_clear(&text);
            while (text.len < lengths[i])
                buf_add_byte(&text, (uint8_t)text.len);
            buf_add_slice(&out, buf_slice(&text));
            pb_end(&out, mark);
            pb_put_bytes(&plain, 5, buf_slice(&text));
            assert_true(slice_eq(buf_slice(&out), buf_slice(&plain)));
            pb_in_init(&in, buf_slice(&out));
            assert_true(pb_next(&in, &f));
            assert_int_equal(f.key, PB_BYTES(5));
            assert_true(slice_eq(f.bytes, buf_slice(&text)));
            buf_fini(&out);
            buf_fini(&plain);
        }
    }
    buf_fini(&text);
}

static void
test_malformed(void **state)
{
    static const struct {
        const char *bytes;
        size_t      len;
    } cases[] = {
        {"\x08", 1}, /* no value */
        {"\x80", 1}, /* half a key */
        {"\x0a\x05"
         "abc",
         5},                                                      /* too short */
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11},     /* far too short */
        {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11},     /* over 64 bits */
        {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, /* eleven bytes */
        {"\x09\1\2\3\4\5\6\7", 8},                                /* seven of eight */
        {"\x0d\1\2\3", 4},                                        /* three of four */
        {"\0\0", 2},                                              /* field 0 */
        {"\x0b\x0c", 2},                                          /* a group */
        {"\x0e\0", 2},                                            /* no such wire type */
        {"\xf8\xff\xff\xff\xff\x01\0", 7},                        /* a number over 32 bits */
    };
    struct pb_in    in;
    struct pb_field f;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pb_in_init(&in, slice_of(cases[i].bytes, cases[i].len));
        assert_false(pb_next(&in, &f));
        assert_true(in.bad);
        assert_false(pb_next(&in, &f));
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),   cmocka_unit_test(test_signed),
        cmocka_unit_test(test_float),     cmocka_unit_test(test_within),
        cmocka_unit_test(test_malformed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
