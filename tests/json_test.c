/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/utf8.h"

#define BYTES(literal) slice_of(literal, sizeof(literal) - 1)

static const char *const accepted[] = {
    "{}",
    "[]",
    "\"\"",
    "0",
    "-0",
    "-0.0",
    "1e5",
    "1E+5",
    "1e-05",
    "0.10",
    "0e0",
    "true",
    "false",
    "null",
    " \t\r\n null \t\r\n ",
    "[1 , 2,\n3]",
    "{ \"a\" : 1 , \"b\" : [ ] }",
    "{\"a\":{\"b\":[{},[[]],null]},\"a\":2}",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\\u0000\\u001f\\uABCD\\uabcd\"",
    "\"\\ud83d\\ude00\"",
    "\"\\uDBFF\\uDFFF\"",
    "\"\x7f\"",
    "\"\xc2\x80 \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xf0\x90\x80\x80 \xf4\x8f\xbf\xbf\"",
    "123456789012345678901234567890123456789012345678901234567890.5e-400",
    "\"seven..\"",
    "\"eight...\"",
    "\"a longer text that runs over many words of eight bytes, and \xe2\x82\xac too\"",
};

struct refused {
    const char *text;
    size_t      at;
};

static const struct refused refused[] = {
    {"", 0},
    {"  ", 2},
    {"\xef\xbb\xbf{}", 0},
    {"nul", 0},
    {"nulL", 0},
    {"truefalse", 4},
    {"True", 0},
    {"NaN", 0},
    {"-Infinity", 1},
    {"'a'", 0},
    {"01", 1},
    {"-01", 2},
    {"00", 1},
    {"1.", 2},
    {"1.e1", 2},
    {".5", 0},
    {"+1", 0},
    {"-", 1},
    {"--1", 1},
    {"1e", 2},
    {"1e+", 3},
    {"1ex", 2},
    {"1a", 1},
    {"0x10", 1},
    {"1 2", 2},
    {"[1,]", 3},
    {"[,1]", 1},
    {"[1 2]", 3},
    {"[1", 2},
    {"[", 1},
    {"]", 0},
    {"[1}", 2},
    {"[1]]", 3},
    {"{\"a\":1,}", 7},
    {"{,}", 1},
    {"{\"a\"}", 4},
    {"{\"a\" 1}", 5},
    {"{\"a\":}", 5},
    {"{\"a\":1 \"b\":2}", 7},
    {"{a:1}", 1},
    {"{1:1}", 1},
    {"{\"a\":1", 6},
    {"{\"a\":", 5},
    {"{\"a\"", 4},
    {"{\"a", 3},
    {"{", 1},
    {"{\"a\":1]", 6},
    {"}", 0},
    {"\"", 1},
    {"\"abc", 4},
    {"\"a\nb\"", 2},
    {"\"a\tb\"", 2},
    {"\"\x1f\"", 1},
    {"\"12345678\x01\"", 9},
    {"\"\\x41\"", 1},
    {"\"\\", 2},
    {"\"\\u12\"", 1},
    {"\"\\u123g\"", 1},
    {"\"\\u", 1},
    {"\"\\ud800\"", 1},
    {"\"\\ud800x\"", 1},
    {"\"\\ud800\\n\"", 1},
    {"\"\\ud800\\u0041\"", 1},
    {"\"\\ud800\\ud800\"", 1},
    {"\"\\udc00\"", 1},
    {"\"\\udc00\\ud800\"", 1},
    {"\"\x80\"", 1},
    {"\"\xc0\x80\"", 1},
    {"\"\xc1\xbf\"", 1},
    {"\"\xe0\x9f\xbf\"", 1},
    {"\"\xed\xa0\x80\"", 1},
    {"\"\xf0\x8f\xbf\xbf\"", 1},
    {"\"\xf4\x90\x80\x80\"", 1},
    {"\"\xf5\x80\x80\x80\"", 1},
    {"\"\xe2\x82\"", 1},
    {"\"\xff\"", 1},
    {"[\"\xc3\xa9\xc3\"]", 4},
    {"/* c */ 1", 0},
    {"[1] // c", 4},
    {"\x0b[]", 0},
    {"\xc2\xa0[]", 0},
};

/* Reads every token; the result must be that of json_check. */
static int
read_all(struct slice text, struct err *err)
{
    struct json_reader r;
    enum json_type     token;
    struct slice       raw;
    int                rc;

    json_reader_init(&r, text);
    while ((rc = json_next(&r, &token, &raw, err)) == 0)
        assert_true(raw.len > 0 || token == JSON_KEY);
    return rc == E_END ? 0 : rc;
}

static void
accepts(void **state)
{
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        struct err err = {0};

        if (json_check(slice_str(accepted[i]), &err) != 0)
            fail_msg("refused %s: %s", accepted[i], err.text);
        assert_int_equal(read_all(slice_str(accepted[i]), &err), 0);
    }
    assert_int_equal(json_check(BYTES("\"a\" "), NULL), 0);
}

static void
check_refused(const char *text, size_t len, size_t at)
{
    struct err   err = {0};
    char        *copy = malloc(len + 1), want[64]; /* exact size: ASan sees a read beyond it */
    struct slice exact;

    assert_non_null(copy);
    memcpy(copy, text, len);
    exact = slice_of(realloc(copy, len == 0 ? 1 : len), len);
    (void)snprintf(want, sizeof want, "JSON, byte %zu: ", at);
    if (json_check(exact, &err) != E_SYNTAX)
        fail_msg("accepted %s", text);
    if (strncmp(err.text, want, strlen(want)) != 0)
        fail_msg("%s: wanted byte %zu, got %s", text, at, err.text);
    assert_int_equal(err.kind, ERR_DATA);
    assert_int_equal(read_all(exact, &err), E_SYNTAX);
    if (strncmp(err.text, want, strlen(want)) != 0)
        fail_msg("reader: %s: wanted byte %zu, got %s", text, at, err.text);
    free((void *)exact.data);
}

static void
refuses(void **state)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        check_refused(refused[i].text, strlen(refused[i].text), refused[i].at);
    check_refused("\"\0\"", 3, 1);
    check_refused("[1]\0", 4, 3);
    check_refused("\"\\\0\"", 4, 1);
}

static void
limits_depth(void **state)
{
    char       text[2 * (JSON_DEPTH_MAX + 1)];
    struct err err;
    size_t     n = JSON_DEPTH_MAX;

    memset(text, '[', n);
    memset(text + n, ']', n);
    assert_int_equal(json_check(slice_of(text, 2 * n), &err), 0);
    assert_int_equal(read_all(slice_of(text, 2 * n), &err), 0);
    n++;
    memset(text, '[', n);
    memset(text + n, ']', n);
    assert_int_equal(json_check(slice_of(text, 2 * n), &err), E_LIMIT);
    assert_int_equal(err.kind, ERR_DATA);
    assert_int_equal(read_all(slice_of(text, 2 * n), &err), E_LIMIT);
    for (size_t i = 0; i < n; i++) /* {"":{"":… would be longer; a mix of kinds is enough */
        text[i] = i % 2 == 0 ? '[' : '{';
    assert_int_equal(json_check(slice_of(text, n), &err), E_SYNTAX);
}

static void
tokens(void **state)
{
    static const struct {
        enum json_type token;
        const char    *raw;
    } want[] = {
        {JSON_OBJECT, "{"},     {JSON_KEY, "a\\n"},    {JSON_ARRAY, "["},  {JSON_NUMBER, "1"},
        {JSON_ARRAY, "["},      {JSON_ARRAY_END, "]"}, {JSON_OBJECT, "{"}, {JSON_OBJECT_END, "}"},
        {JSON_STRING, "\"x\""}, {JSON_ARRAY_END, "]"}, {JSON_KEY, ""},     {JSON_TRUE, "true"},
        {JSON_KEY, "f"},        {JSON_FALSE, "false"}, {JSON_KEY, "n"},    {JSON_NULL, "null"},
        {JSON_OBJECT_END, "}"},
    };
    struct json_reader r;
    enum json_type     token;
    struct slice       raw;
    struct err         err;

    json_reader_init(&r,
                     BYTES(" {\"a\\n\" : [1, [] ,{ },\"x\"], \"\":true,\"f\":false,\"n\":null} "));
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_int_equal(json_next(&r, &token, &raw, &err), 0);
        assert_int_equal(token, want[i].token);
        assert_true(slice_is(raw, want[i].raw));
    }
    assert_int_equal(json_next(&r, &token, &raw, &err), E_END);
    assert_int_equal(json_next(&r, &token, &raw, &err), E_END);
    assert_string_equal(json_type_name(JSON_OBJECT), "an object");
    assert_string_equal(json_type_name(JSON_OBJECT_END), "end of an object");
}

static void
iterates(void **state)
{
    struct json_iter it;
    struct slice     key, value;
    struct err       err;

    assert_int_equal(json_object_iter(&it, BYTES(" {\"a\": [1, 2] ,\"b\":\"x\"} "), &err), 0);
    assert_int_equal(json_iter_next(&it, &key, &value, &err), 0);
    assert_true(slice_is(key, "a") && slice_is(value, "[1, 2]"));
    assert_int_equal(json_iter_next(&it, &key, &value, &err), 0);
    assert_true(slice_is(key, "b") && slice_is(value, "\"x\""));
    assert_int_equal(json_iter_next(&it, &key, &value, &err), E_END);
    assert_int_equal(json_iter_next(&it, &key, &value, &err), E_END);

    assert_int_equal(json_array_iter(&it, BYTES("[ {\"x\":[]} , 2]"), &err), 0);
    assert_int_equal(json_iter_next(&it, NULL, &value, &err), 0);
    assert_true(slice_is(value, "{\"x\":[]}"));
    assert_int_equal(json_iter_next(&it, NULL, &value, &err), 0);
    assert_true(slice_is(value, "2"));
    assert_int_equal(json_iter_next(&it, NULL, &value, &err), E_END);

    assert_int_equal(json_array_iter(&it, BYTES("{}"), &err), E_SCHEMA);
    assert_int_equal(json_object_iter(&it, BYTES("1"), &err), E_SCHEMA);
    assert_int_equal(json_object_iter(&it, BYTES("x"), &err), E_SYNTAX);
    assert_int_equal(json_object_iter(&it, slice_of(NULL, 0), &err), E_SYNTAX);
    assert_int_equal(json_array_iter(&it, BYTES("[1,2] x"), &err), 0);
    assert_int_equal(json_iter_next(&it, NULL, &value, &err), 0);
    assert_int_equal(json_iter_next(&it, NULL, &value, &err), 0);
    assert_int_equal(json_iter_next(&it, NULL, &value, &err), E_SYNTAX);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct slice text = slice_str(refused[i].text);
        int          rc = json_object_iter(&it, text, &err);

        while (rc == 0)
            rc = json_iter_next(&it, &key, &value, &err);
        assert_true(rc == E_SYNTAX || rc == E_SCHEMA);
        rc = json_array_iter(&it, text, &err);
        while (rc == 0)
            rc = json_iter_next(&it, &key, &value, &err);
        assert_true(rc == E_SYNTAX || rc == E_SCHEMA);
    }
}

static void
gets(void **state)
{
    struct slice doc =
        BYTES("{\"a\":{\"b\":[10,{\"c\":\"x\"}],\"\":0},\"k\\u0065y\":1,\"a2\":1,\"a2\":2}");
    struct slice v;

    assert_true(json_get(doc, "key", &v) && slice_is(v, "1"));
    assert_true(json_get(doc, "a2", &v) && slice_is(v, "2"));
    assert_false(json_get(doc, "ke", &v));
    assert_false(json_get(doc, "keys", &v));
    assert_false(json_get(BYTES("[1]"), "a", &v));
    assert_false(json_get(BYTES("{\"a\":1"), "a", &v));
    assert_true(json_get_path(doc, BYTES("a.b.1.c"), &v) && slice_is(v, "\"x\""));
    assert_true(json_get_path(doc, BYTES("a.b.0"), &v) && slice_is(v, "10"));
    assert_true(json_get_path(doc, slice_of(NULL, 0), &v) && slice_eq(v, doc));
    assert_false(json_get_path(doc, BYTES("a.b.2"), &v));
    assert_false(json_get_path(doc, BYTES("a.b.x"), &v));
    assert_false(json_get_path(doc, BYTES("a.b.1.c.d"), &v));
    assert_true(json_key_is(BYTES("\\ud83d\\ude00"), BYTES("\xf0\x9f\x98\x80")));
    assert_false(json_key_is(BYTES("\\ud83d\\ude00"), BYTES("\xf0\x9f\x98\x81")));
    assert_true(json_key_is(slice_of(NULL, 0), slice_of(NULL, 0)));
}

static void
picks(void **state)
{
    struct json_field f[] = {{"type", true, {0}}, {"data", true, {0}}, {"id", false, {0}}};
    struct err        err;

    assert_int_equal(json_pick(BYTES("{\"data\":{\"type\":0},\"type\":\"x\"}"), f, 3, 0, &err), 0);
    assert_true(slice_is(f[0].value, "\"x\"") && slice_is(f[1].value, "{\"type\":0}"));
    assert_null(f[2].value.data);
    assert_int_equal(json_pick(BYTES("{\"type\":1,\"data\":2,\"typ\\u0065\":1}"), f, 3, 0, &err),
                     E_SYNTAX);
    assert_string_equal(err.text, "JSON: the key \"type\" comes twice");
    assert_int_equal(json_pick(BYTES("{\"type\":1}"), f, 3, 0, &err), E_SCHEMA);
    assert_string_equal(err.text, "JSON: the key \"data\" is missing");
    assert_int_equal(json_pick(BYTES("{\"type\":1,\"data\":2,\"x\":1}"), f, 3, 0, &err), 0);
    assert_int_equal(
        json_pick(BYTES("{\"x\":1,\"type\":1,\"data\":2}"), f, 3, JSON_PICK_ONLY, &err), E_SCHEMA);
    assert_string_equal(err.text, "JSON: unknown key \"x\"");
    assert_int_equal(json_pick(BYTES("{\"type\":1,\"data\":2"), f, 3, 0, &err), E_SYNTAX);
    assert_int_equal(json_pick(BYTES("[]"), f, 3, 0, &err), E_SCHEMA);
}

static void
decodes_strings(void **state)
{
    struct buf   b = {0}, small = {.limit = 4};
    struct slice v;
    struct err   err;

    assert_int_equal(json_string_decode(BYTES("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\""), &b, &err),
                     0);
    assert_true(slice_is(buf_slice(&b), "\"\\/\b\f\n\r\tA"));
    buf_clear(&b);
    assert_int_equal(
        json_string_decode(BYTES("\"\\u00e9\\u20ac\\uD83D\\uDE00\\u0000.\""), &b, &err), 0);
    assert_true(slice_eq(buf_slice(&b), BYTES("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\0.")));
    assert_int_equal(json_string_decode(BYTES("\"\\udead\""), &b, &err), E_SYNTAX);
    assert_int_equal(json_string_decode(BYTES("12"), &b, &err), E_SCHEMA);
    assert_int_equal(json_string_decode(BYTES("\"12345\""), &small, &err), E_NOMEM);
    assert_int_equal(json_string_view(BYTES("\"plain\""), &b, &v, &err), 0);
    assert_true(slice_is(v, "plain"));
    assert_int_equal(json_string_view(BYTES("\"\""), &b, &v, &err), 0);
    assert_int_equal(v.len, 0);
    assert_int_equal(json_string_view(BYTES("\"a\\nb\""), &b, &v, &err), 0);
    assert_true(slice_is(v, "a\nb"));
    assert_int_equal(json_string_view(BYTES("[]"), &b, &v, &err), E_SCHEMA);
    assert_int_equal(json_string_view(BYTES("\"\\n12345\""), &small, &v, &err), E_NOMEM);
    buf_fini(&b);
    buf_fini(&small);
}

static void
decodes_scalars(void **state)
{
    int64_t  i;
    uint64_t u;
    bool     v;

    assert_true(json_int64(BYTES("-9223372036854775808"), &i) && i == INT64_MIN);
    assert_true(json_int64(BYTES("9223372036854775807"), &i) && i == INT64_MAX);
    assert_true(json_int64(BYTES("-0"), &i) && i == 0);
    assert_false(json_int64(BYTES("9223372036854775808"), &i));
    assert_false(json_int64(BYTES("-9223372036854775809"), &i));
    assert_false(json_int64(BYTES("1.0"), &i));
    assert_false(json_int64(BYTES("1e3"), &i));
    assert_false(json_int64(BYTES("\"1\""), &i));
    assert_false(json_int64(BYTES("-"), &i));
    assert_false(json_int64(BYTES("--1"), &i));
    assert_false(json_int64(BYTES(""), &i));
    assert_true(json_uint64(BYTES("18446744073709551615"), &u) && u == UINT64_MAX);
    assert_false(json_uint64(BYTES("18446744073709551616"), &u));
    assert_false(json_uint64(BYTES("184467440737095516150"), &u));
    assert_false(json_uint64(BYTES("01"), &u));
    assert_false(json_uint64(BYTES("-1"), &u));
    assert_true(json_bool(BYTES("true"), &v) && v);
    assert_true(json_bool(BYTES("false"), &v) && !v);
    assert_false(json_bool(BYTES("null"), &v));
    assert_true(json_is_null(BYTES("null")));
    assert_false(json_is_null(BYTES("0")));
    assert_int_equal(json_type(BYTES("-1")), JSON_NUMBER);
    assert_int_equal(json_type(BYTES("x")), JSON_NONE);
    assert_int_equal(json_type(BYTES("")), JSON_NONE);
}

static const char *const canonical[][2] = {
    {" { } ", "{}"},
    {"[ 1 , [ ] , { } ]", "[1,[],{}]"},
    {"{\"b\":1,\"a\":2}", "{\"a\":2,\"b\":1}"},
    {"{\"b\":{\"d\":1,\"c\":[{\"z\":1,\"y\":2}]},\"a\":[true,false,null]}",
     "{\"a\":[true,false,null],\"b\":{\"c\":[{\"y\":2,\"z\":1}],\"d\":1}}"},
    {"{\"ab\":1,\"a\":2,\"\":3}", "{\"\":3,\"a\":2,\"ab\":1}"},
    {"{\"b\":1,\"\\u0061\":2}", "{\"a\":2,\"b\":1}"},
    {"{\"\\n\":1,\"\\t\":2}", "{\"\\t\":2,\"\\n\":1}"},
    {"\"\\u0041\\/\\u00e9\\u0022\\u005c\\u0007\\u000a\\u007f\"",
     "\"A/\xc3\xa9\\\"\\\\\\u0007\\n\x7f\""},
    {"\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\""},
    {"1", "1"},
    {"1.0", "1"},
    {"1e0", "1"},
    {"10e-1", "1"},
    {"0.1e1", "1"},
    {"-0", "0"},
    {"0.000e999999999999999999999", "0"},
    {"0e-5", "0"},
    {"100", "100"},
    {"1e2", "100"},
    {"1.50", "1.5"},
    {"-12.340e1", "-123.4"},
    {"0.001", "0.001"},
    {"1e-3", "0.001"},
    {"123456789012345678901234567890.000000000000000000000001",
     "123456789012345678901234567890.000000000000000000000001"},
    {"9007199254740993", "9007199254740993"},
    {"1e40", "1e40"},
    {"1e39", "1000000000000000000000000000000000000000"},
    {"1000000000000000000000000000000000000000000", "1e42"},
    {"1.25e-60", "1.25e-60"},
    {"1E+400", "1e400"},
    {"1e0000000000000000000000001", "10"},
    {"19e99999999999999998", "1.9e99999999999999999"},
    {"-0.1e-99999999999999998", "-1e-99999999999999999"},
};

static void
canonicalises(void **state)
{
    struct buf b = {0}, again = {0};
    struct err err = {0};

    for (size_t i = 0; i < sizeof canonical / sizeof *canonical; i++) {
        buf_clear(&b);
        buf_clear(&again);
        if (json_canonical(slice_str(canonical[i][0]), &b, &err) != 0)
            fail_msg("%s: %s", canonical[i][0], err.text);
        if (!slice_is(buf_slice(&b), canonical[i][1]))
            fail_msg("%s: got %.*s", canonical[i][0], (int)b.len, (char *)b.data);
        assert_int_equal(json_canonical(buf_slice(&b), &again, &err), 0);
        assert_true(slice_eq(buf_slice(&b), buf_slice(&again)));
    }
    buf_clear(&b);
    assert_int_equal(json_canonical(BYTES("{\"a\":1,\"b\":2,\"\\u0061\":1}"), &b, &err), E_SYNTAX);
    assert_int_equal(json_canonical(BYTES("{\"a\":1,\"a\":1}"), &b, &err), E_SYNTAX);
    assert_int_equal(json_canonical(BYTES("[{\"a\":1,\"a\":2},{}]"), &b, &err), E_SYNTAX);
    assert_int_equal(json_canonical(BYTES("1e999999999999999999"), &b, &err), E_LIMIT);
    assert_int_equal(json_canonical(BYTES("1e9999999999999999999"), &b, &err), E_LIMIT);
    assert_int_equal(json_canonical(BYTES("19e99999999999999999"), &b, &err), E_LIMIT);
    assert_int_equal(json_canonical(BYTES("0.1e-99999999999999999"), &b, &err), E_LIMIT);
    assert_int_equal(json_canonical(BYTES("[1,"), &b, &err), E_SYNTAX);
    buf_fini(&b);
    for (size_t limit = 1; limit < 40; limit++) { /* out of memory anywhere: refused, no crash */
        b = (struct buf){.limit = limit};
        assert_int_equal(
            json_canonical(BYTES("{\"bb\":[1,2.5,{\"y\":\"\\n\",\"x\":0}],\"a\":\"\"}"), &b, &err),
            limit < 38 ? E_NOMEM : 0);
        buf_fini(&b);
    }
    buf_fini(&again);
}

static void
writes_strings(void **state)
{
    struct buf b = {0};

    json_put_string(&b, BYTES("a\"b\\c\n\r\t\b\f\x01\x1f\x7f/\xc3\xa9"));
    assert_true(
        slice_is(buf_slice(&b), "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\\u001f\x7f/\xc3\xa9\""));
    buf_clear(&b);
    json_put_string(&b, BYTES("\0"));
    assert_true(slice_is(buf_slice(&b), "\"\\u0000\""));
    buf_clear(&b);
    json_put_string(&b, BYTES("x\xff\xc3"));
    assert_true(slice_is(buf_slice(&b), "\"x\xef\xbf\xbd\xef\xbf\xbd\""));
    buf_clear(&b);
    json_put_str(&b, "");
    assert_true(slice_is(buf_slice(&b), "\"\""));
    buf_fini(&b);
}

static void
writes(void **state)
{
    struct json_out o;
    struct buf      b = {0};

    json_out_init(&o, &b);
    json_out_object(&o);
    json_out_key(&o, "a");
    json_out_array(&o);
    json_out_u64(&o, UINT64_MAX);
    json_out_i64(&o, INT64_MIN);
    json_out_object(&o);
    json_out_object_end(&o);
    json_out_array(&o);
    json_out_array_end(&o);
    json_out_array_end(&o);
    json_out_key_slice(&o, BYTES("\""));
    json_out_string(&o, BYTES("x"));
    json_out_key(&o, "s");
    json_out_str(&o, NULL);
    json_out_key(&o, "t");
    json_out_str(&o, "t");
    json_out_key(&o, "r");
    json_out_raw(&o, BYTES("[1, 2]"));
    json_out_key(&o, "d");
    json_out_array(&o);
    json_out_double(&o, 0.1);
    json_out_double(&o, 1.0 / 3);
    json_out_double(&o, NAN);
    json_out_double(&o, -HUGE_VAL);
    json_out_bool(&o, true);
    json_out_bool(&o, false);
    json_out_null(&o);
    json_out_array_end(&o);
    json_out_object_end(&o);
    assert_true(slice_is(buf_slice(&b),
                         "{\"a\":[18446744073709551615,-9223372036854775808,{},[]],\"\\\"\":\"x\","
                         "\"s\":null,\"t\":\"t\",\"r\":[1, 2],\"d\":[0.1,0.3333333333333333,null,"
                         "null,true,false,null]}"));
    assert_int_equal(json_check(buf_slice(&b), NULL), 0);
    buf_fini(&b);
}

static void
knows_utf8(void **state)
{
    uint8_t  out[4];
    uint32_t wrong = 0;

    for (uint32_t code = 0; code <= 0x10ffff; code++) {
        size_t n;

        if (code >= 0xd800 && code <= 0xdfff)
            continue;
        n = utf8_encode(code, out);
        wrong += !utf8_valid(slice_of(out, n)) || utf8_char(out, out + n) != n;
        wrong += n > 1 && utf8_valid(slice_of(out, n - 1));
    }
    assert_int_equal(wrong, 0);
    assert_true(utf8_valid(slice_of(NULL, 0)));
    assert_true(utf8_valid(BYTES("12345678\xe2\x82\xac"
                                 "12345678")));
    assert_int_equal(utf8_valid_len(BYTES("12345678abc\xe2\x82"
                                          "12345678")),
                     11);
    assert_false(utf8_valid(BYTES("\xed\xa0\x80")));
    assert_false(utf8_valid(BYTES("\xf8\x88\x80\x80\x80")));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts),         cmocka_unit_test(refuses),
        cmocka_unit_test(limits_depth),    cmocka_unit_test(tokens),
        cmocka_unit_test(iterates),        cmocka_unit_test(gets),
        cmocka_unit_test(picks),           cmocka_unit_test(decodes_strings),
        cmocka_unit_test(decodes_scalars), cmocka_unit_test(canonicalises),
        cmocka_unit_test(writes_strings),  cmocka_unit_test(writes),
        cmocka_unit_test(knows_utf8),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
