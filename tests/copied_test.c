/* What moves leave in events: which are copies, and of what; which are marks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "log/copied.h"

#define ORIGINAL(stream, version, pos)                                                             \
    "{\"stream\":\"" stream "\",\"type\":\"T\\u0041\",\"version\":" #version ",\"position\":" #pos \
    ",\"created\":\"2026-01-01T00:00:00Z\",\"id\":\"x\"}"

struct seen {
    struct log_original last;
    char                stream[16];
    unsigned            count, stop_at;
};

static bool
see(void *arg, const struct log_original *o)
{
    struct seen *s = arg;

    s->last = *o;
    assert_true(o->stream.len < sizeof s->stream);
    memcpy(s->stream, o->stream.data, o->stream.len);
    s->stream[o->stream.len] = '\0';
    assert_true(slice_is(o->type, "TA"));
    return ++s->count == s->stop_at;
}

static void
reads_originals(void **state)
{
    const struct slice one = slice_str("{\"a\":1,\"$copiedFrom\":[" ORIGINAL("s\\n", 3, 4096) "]}");
    const struct slice two = slice_str("{\"$copiedFrom\":[" ORIGINAL("a", 0, 5000) "," ORIGINAL(
        "b", 18446744073709551615, 18446744073709551615) "]}");
    struct seen        s = {0};
    bool               stopped;

    (void)state;
    assert_int_equal(log_copied_from(one, see, &s, &stopped), 1);
    assert_false(stopped);
    assert_string_equal(s.stream, "s\n");
    assert_int_equal(s.last.version, 3);
    assert_int_equal(s.last.pos.v, 4096);

    s = (struct seen){.stop_at = 1};
    assert_int_equal(log_copied_from(two, see, &s, &stopped), 2);
    assert_true(stopped);
    assert_int_equal(s.count, 1);
    assert_string_equal(s.stream, "a");

    s = (struct seen){0};
    assert_int_equal(log_copied_from(two, see, &s, NULL), 2);
    assert_int_equal(s.count, 2);
    assert_true(s.last.pos.v == UINT64_MAX);
}

static void
half_a_list_is_no_copy(void **state)
{
    static const char *const metas[] = {
        "",
        "{}",
        "[\"$copiedFrom\"]",
        "{\"x\":\"$copiedFrom\"}",
        "{\"x\":{\"$copiedFrom\":[" ORIGINAL("s", 0, 1) "]}}",
        "{\"$copiedFrom\":{}}",
        "{\"$copiedFrom\":[]}",
        "{\"$copiedFrom\":[" ORIGINAL("s", 0, 1) ",1]}",
        "{\"$copiedFrom\":[" ORIGINAL("s", 0, 0) "]}",
        "{\"$copiedFrom\":[" ORIGINAL("", 0, 1) "]}",
        "{\"$copiedFrom\":[" ORIGINAL("s", -1, 1) "]}",
        "{\"$copiedFrom\":[" ORIGINAL("s", 0, 1.5) "]}",
        "{\"$copiedFrom\":[" ORIGINAL("s", 0, 18446744073709551616) "]}",
        "{\"$copiedFrom\":[{\"stream\":\"s\",\"version\":0,\"position\":1}]}",
        "{\"$copiedFrom\":[{\"stream\":7,\"type\":\"\",\"version\":0,\"position\":1}]}",
        "{\"$copiedFrom\":[" ORIGINAL("s", 0, 1) "]",
    };
    struct seen s = {0};

    (void)state;
    for (size_t i = 0; i < sizeof metas / sizeof *metas; i++)
        if (log_copied_from(slice_str(metas[i]), see, &s, NULL) != 0 || s.count != 0)
            fail_msg("a copy: %s", metas[i]);
}

static void
knows_marks(void **state)
{
    static const struct {
        const char   *type, *data;
        enum log_mark mark;
    } cases[] = {
        {"StreamMovedTo", "{\"streams\":[\"t\"],\"surgery\":\"x\"}", LOG_MARK_TO},
        {"StreamMovedTo", "{\"streams\":\"t\",\"surgery\":\"x\"}", LOG_MARK_NONE},
        {"MigratedFrom", "{\"stream\":\"s\",\"first\":0,\"last\":9,\"surgery\":\"x\"}",
         LOG_MARK_FROM},
        {"Invalidated", "{\"stream\":\"s\",\"first\":0,\"last\":9,\"surgery\":\"x\"}",
         LOG_MARK_INVALIDATED},
        {"Invalidated", "{\"ticket\":7}", LOG_MARK_NONE},
        {"Invalidated", "no JSON", LOG_MARK_NONE},
        {"Invalidated", "", LOG_MARK_NONE},
        {"Other", "{\"stream\":\"s\",\"surgery\":\"x\"}", LOG_MARK_NONE},
    };
    const struct slice from = slice_str("MigratedFrom");
    const struct slice s = slice_str("s");
    uint64_t           first, last;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(log_mark_of(slice_str(cases[i].type), slice_str(cases[i].data)),
                         cases[i].mark);
    assert_true(log_mark_from(from, slice_str(cases[2].data), s, &first, &last));
    assert_int_equal(first, 0);
    assert_int_equal(last, 9);
    assert_false(log_mark_from(from, slice_str(cases[2].data), slice_str("t"), &first, &last));
    assert_false(log_mark_from(slice_str("T"), slice_str(cases[2].data), s, &first, &last));
    assert_false(log_mark_from(
        from, slice_str("{\"stream\":\"s\",\"first\":9,\"last\":0,\"surgery\":\"x\"}"), s, &first,
        &last));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_originals),
        cmocka_unit_test(half_a_list_is_no_copy),
        cmocka_unit_test(knows_marks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
