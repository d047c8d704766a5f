/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "base/ndjson.h"

/* Appends "NUMBER:LINE|" for each line, fed in pieces of `step` bytes. */
static int
split(const char *text, size_t len, size_t step, size_t line_max, struct buf *out, struct err *err)
{
    struct ndjson n;
    struct slice  line;
    uint64_t      number;
    int           rc = E_END;

    ndjson_init(&n, line_max);
    for (size_t at = 0; rc == E_END; at += step) {
        if (at >= len)
            ndjson_finish(&n);
        else
            ndjson_feed(&n, slice_of(text + at, step < len - at ? step : len - at));
        while ((rc = ndjson_next(&n, &line, &number, err)) == 0) {
            buf_add_u64(out, number);
            buf_add_byte(out, ':');
            buf_add_slice(out, line);
            buf_add_byte(out, '|');
        }
        if (at >= len)
            break;
    }
    if (rc != E_END)
        assert_int_equal(ndjson_next(&n, &line, &number, err), rc); /* for good */
    ndjson_fini(&n);
    return rc;
}

static void
splits(void **state)
{
    static const char *const cases[][2] = {
        {"", ""},
        {"\n\n", ""},
        {"a", "1:a|"},
        {"a\n", "1:a|"},
        {"a\nb", "1:a|2:b|"},
        {"a\r\nb\r\n", "1:a|2:b|"},
        {"a\r\n\r\n \t\nb\r", "1:a|4:b|"},
        {"\r", ""},
        {"a\rb\n", "1:a\rb|"},
        {"abcdefgh\n12345678\r\nx", "1:abcdefgh|2:12345678|3:x|"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < 24; step++) {
            struct buf out = {0};
            struct err err;

            assert_int_equal(split(cases[i][0], strlen(cases[i][0]), step, 8, &out, &err), E_END);
            if (!slice_is(buf_slice(&out), cases[i][1]))
                fail_msg("case %zu in pieces of %zu: %.*s", i, step, (int)out.len, out.data);
            buf_fini(&out);
        }
    }
}

static void
limits_lines(void **state)
{
    static const char *const cases[] = {"ok\n123456789\nx", "ok\n123456789", "ok\n123456789\r\n",
                                        "ok\n12345678 \n", "ok\n1234567890123456789"};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < 24; step++) {
            struct buf out = {0};
            struct err err;

            assert_int_equal(split(cases[i], strlen(cases[i]), step, 8, &out, &err), E_LIMIT);
            assert_int_equal(err.kind, ERR_DATA);
            assert_string_equal(err.text, "line 2: longer than 8 bytes");
            assert_true(slice_is(buf_slice(&out), "1:ok|"));
            buf_fini(&out);
        }
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits),
        cmocka_unit_test(limits_lines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
