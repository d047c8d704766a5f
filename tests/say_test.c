/* Lines on stderr: pairs, quoting, levels, and a bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/say.h"
#include "base/slice.h"

static struct buf lines;

static void
keep(void *arg, const char *line, size_t len)
{
    assert_null(arg);
    buf_add(&lines, line, len);
}

static void
test_lines(void **state)
{
    struct say_num num;

    (void)state;
    say_init(NULL, SAY_INFO);
    say_to(keep, NULL);
    say(SAY_DEBUG, "hidden", NULL);
    say(SAY_INFO, "plain", "port", say_u64(&num, UINT64_MAX), "left-out", NULL, "b", "c", NULL);
    say(SAY_ERROR, "two words", "empty", "", "quoted", "a \"b\" \\ =\n\x7f", NULL);
    assert_true(slice_is(buf_slice(&lines), "level=info msg=plain port=18446744073709551615 b=c\n"
                                            "level=error msg=\"two words\" empty=\"\" "
                                            "quoted=\"a \\\"b\\\" \\\\ =\\x0a\\x7f\"\n"));
    buf_fini(&lines);
}

static void
test_long_line(void **state)
{
    char text[5000];

    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    say_to(keep, NULL);
    say(SAY_WARN, text, "more", text, NULL);
    assert_true(lines.len <= SAY_LINE_MAX);
    assert_memory_equal(lines.data + lines.len - 5, "x\xe2\x80\xa6\n", 5);
    buf_fini(&lines);
    say_to(NULL, NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_long_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
