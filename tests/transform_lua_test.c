/* Scripts: what they can do, and what they cannot get away with. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <stdio.h>

#include "base/must.h"
#include "transform/transform_int.h"
#include "transform_fix.h"

/* A script as JSON, which is YAML too. */
static const char *
script(const char *text)
{
    static struct buf yaml;

    buf_clear(&yaml);
    buf_add_str(&yaml, "{\"lua\":");
    json_put_str(&yaml, text);
    buf_add_str(&yaml,
                ",\"limits\":{\"instructions\":2000000,\"memory\":\"8MiB\",\"outputs\":10}}");
    buf_add_byte(&yaml, '\0');
    return (const char *)yaml.data;
}

static const char *
body(const char *text)
{
    static char all[16384];

    (void)snprintf(all, sizeof all, "function event(e, state)\n%s\nend", text);
    return script(all);
}

static const char *
one(const char *text, const char *data)
{
    return fix_one(body(text), "A", data, "");
}

/* What the expression gives, as the JSON of data.x. */
static void
gives(const char *expression, const char *data, const char *json)
{
    char        text[4096], wanted[4096];
    const char *out;

    (void)snprintf(text, sizeof text, "e.type = 'B' e.data = {x = %s}", expression);
    out = one(text, data);
    (void)snprintf(wanted, sizeof wanted, "*B {\"x\":%s}  [0]\n", json);
    if (strcmp(out, wanted) != 0)
        fail_msg("%s gives %s not %s", expression, out, wanted);
}

static void
keeps_what_it_does_not_touch(void **state)
{
    static const char *const docs[] = {
        "{}",
        " { } ",
        "{\"a\": 1.10, \"b\" :[1e2 , -0, 0.30], \"c\":{\"\\u0064\":\"\\u0041\\/\"} }",
        "123456789012345678901234567890",
        "[0.1000000000000000055511151231257827, 1E400, -1e-400]",
        "[[],{},[{}],null,true,false,\"\"]",
        "null",
        "\"x\"",
        " 5.0 ",
    };

    for (size_t i = 0; i < sizeof docs / sizeof *docs; i++) {
        char wanted[300];

        (void)snprintf(wanted, sizeof wanted, "A %s {\"m\": 1.0} [0]\n", docs[i]);
        assert_string_equal(fix_one(body(""), "A", docs[i], "{\"m\": 1.0}"), wanted);
        assert_string_equal(fix_one(body("return e"), "A", docs[i], "{\"m\": 1.0}"), wanted);
        assert_string_equal(fix_one(body("return {type = e.type, data = e.data, metadata = "
                                         "e.metadata}"),
                                    "A", docs[i], "{\"m\": 1.0}"),
                            wanted);
    }
}

static void
changes_only_what_it_touches(void **state)
{
    assert_string_equal(one("e.data.a = 2", "{ \"z\": 1.10, \"a\" : 1 , \"n\":1e2 }"),
                        "*A { \"z\": 1.10, \"a\" : 2 , \"n\":1e2 }  [0]\n");
    assert_string_equal(one("e.data.y = 1 e.data.b = 2", "{\"z\":1.10}"),
                        "*A {\"z\":1.10,\"b\":2,\"y\":1}  [0]\n");
    assert_string_equal(one("e.data.a = nil", "{ \"a\":1, \"z\":1.10 }"),
                        "*A { \"z\":1.10 }  [0]\n");
    assert_string_equal(one("e.data.a = nil", "{\"z\":1.10 , \"a\":1}"), "*A {\"z\":1.10}  [0]\n");
    assert_string_equal(one("e.data.l[2] = 9", "{\"l\":[1.0, 2.0, 3.0]}"),
                        "*A {\"l\":[1.0, 9, 3.0]}  [0]\n");
    assert_string_equal(one("table.remove(e.data.l)", "{\"l\":[1.0, 2.0]}"),
                        "*A {\"l\":[1.0]}  [0]\n");
    assert_string_equal(one("table.insert(e.data.l, {})", "{\"l\":[]}"), "*A {\"l\":[{}]}  [0]\n");
    assert_string_equal(
        one("e.data.new = {o = e.data.o, a = array(), l = {1,2}}", "{\"o\":{\"x\": 1.50}}"),
        "*A {\"o\":{\"x\": 1.50},\"new\":{\"a\":[],\"l\":[1,2],\"o\":{\"x\": "
        "1.50}}}  [0]\n");
    assert_string_equal(one("e.metadata.by = 'x'", "{}"), "*A {} {\"by\":\"x\"} [0]\n");
    assert_string_equal(one("e.type = 'B'", "{\"x\":1.0}"), "*B {\"x\":1.0}  [0]\n");
    assert_string_equal(one("e.data = null", "{}"), "*A null  [0]\n");
}

static void
counts_exactly(void **state)
{
    gives("e.data.n + 1", "{\"n\":9007199254740993}", "9007199254740994");
    gives("e.data.n", "{\"n\":100000000000000000001}", "100000000000000000001");
    gives("e.data.n", "{\"n\":0.10}", "0.1");
    gives("e.data.n", "{\"n\":0.30000000000000004}", "0.30000000000000004");
    gives("e.data.n", "{\"n\":0.300000000000000041}", "0.300000000000000041");
    gives("e.data.n * 2", "{\"n\":5.5}", "11.0");
}

static void
has_what_it_needs(void **state)
{
    gives("e.data.n == decimal('1e20')", "{\"n\":1.00000000000000000000001}", "false");
    gives("e.data.n == decimal('100.00000000000000000000001e-2')",
          "{\"n\":1.0000000000000000000000001}", "true");
    gives("decimal('1.50')", "{}", "1.50");
    gives("tostring(e.data.n)", "{\"n\":100000000000000000001}", "\"100000000000000000001\"");
    gives("tonumber(e.data.n)", "{\"n\":100000000000000000001}", "1e+20");
    gives("e.data.n == null", "{\"n\":null}", "true");
    gives("tostring(null) .. type(e.data) .. tostring({}) .. tostring(print)", "{}",
          "\"nulltabletablenil\"");
    gives("string.format('%s %5.2f %d %q', null, 1.5, 3, 'a')", "{}", "\"null  1.50 3 \\\"a\\\"\"");
    gives("('%d'):rep(3, ',')", "{}", "\"%d,%d,%d\"");
    gives("('key = value'):match('^(%w+)%s*=%s*(%w+)$')", "{}", "\"key\"");
    gives("select(2, ('key = value'):match('^(%w+)%s*=%s*(%w+)$'))", "{}", "\"value\"");
    gives("('hello world'):find('o w')", "{}", "5");
    gives("('hello'):find('l', 1, true)", "{}", "3");
    gives("('a.b'):find('.', 2, true)", "{}", "2");
    gives("('abc'):gsub('%w', '%0%0')", "{}", "\"aabbcc\"");
    gives("('hello world'):gsub('o', {o = '0'})", "{}", "\"hell0 w0rld\"");
    gives("('abc'):gsub('', '-')", "{}", "\"-a-b-c-\"");
    gives("('abc'):gsub('b', function(c) return nil end)", "{}", "\"abc\"");
    gives("('abc'):gsub('(a)(b)', '%2%1')", "{}", "\"bac\"");
    gives("('THE (quick) fox'):find('%((%a+)%)')", "{}", "5");
    gives("('f(a(b)c)d'):match('%b()')", "{}", "\"(a(b)c)\"");
    gives("('THE (quick) fox'):gsub('%f[%a]%a+', 'w')", "{}", "\"w (w) w\"");
    gives("('aXbXXc'):match('(X)%1')", "{}", "\"X\"");
    gives("('  trim '):match('^%s*(.-)%s*$')", "{}", "\"trim\"");
    gives("('abc'):match('()b()')", "{}", "2");
    gives("('[]]'):match('[]]+')", "{}", "\"]]\"");
    gives("('a-b'):match('[a%-]+')", "{}", "\"a-\"");
    gives("('x9'):match('[^%d]')", "{}", "\"x\"");
    gives("(function() local t = {} for k, v in ('a=1,b=2'):gmatch('(%w)=(%w)') do t[k] = v end "
          "return t end)()",
          "{}", "{\"a\":\"1\",\"b\":\"2\"}");
    gives("(function() local t = array() for k in pairs({z = 1, a = 2, [3] = 0, [1.5] = 0}) do "
          "t[#t + 1] = tostring(k) end return t end)()",
          "{}", "[\"1.5\",\"3\",\"a\",\"z\"]");
    gives("next({b = 1, a = 2})", "{}", "\"a\"");
    gives("next({}) == nil", "{}", "true");
    gives("(function() local t = {3, 1, 2} table.sort(t) return t end)()", "{}", "[1,2,3]");
    gives("(function() local t = {{1, 'a'}, {0, 'b'}, {1, 'c'}, {0, 'd'}} "
          "table.sort(t, function(x, y) return x[1] < y[1] end) "
          "local s = '' for _, v in ipairs(t) do s = s .. v[2] end return s end)()",
          "{}", "\"bdac\"");
    gives("table.concat({1, 2, 'x'}, '-')", "{}", "\"1-2-x\"");
    gives("select('#', table.unpack({1, 2, 3}))", "{}", "3");
    gives("table.move({1, 2, 3}, 2, 3, 1)", "{}", "[2,3,3]");
    gives("math.floor(2.5) + math.max(1, 2)", "{}", "4");
    gives("utf8.len('\\u{e9}x')", "{}", "2");
    gives("select(2, pcall(error, 'no'))", "{}", "\"no\"");
    gives("select(2, xpcall(error, function(m) return m .. '!' end, 'no'))", "{}", "\"no!\"");
    gives("select(2, pcall(function(a, b) return a + b end, 1, 2))", "{}", "3");
    gives("e.stream .. e.version .. e.position .. e.ordinal .. e.created .. tostring(e.json)", "{}",
          "\"orders-42010000"
          "2023-11-14T22:13:20.000000Ztrue\"");
}

static void
drops_adds_routes(void **state)
{
    assert_string_equal(one("return false", "{}"), "");
    assert_string_equal(one("return {}", "{}"), "");
    assert_string_equal(one("return true", "{}"), "A {}  [0]\n");
    assert_string_equal(one("return {e, {type = 'B', data = {1}}}", "{\"x\": 1.0}"),
                        "A {\"x\": 1.0}  [0]\n*B [1]  [0]\n");
    assert_string_equal(one("e.to = 'a-1' return e", "{}"), "a-1 < A {}  [0]\n");
    assert_string_equal(one("e.to = {'a-1', 'b-1'} return e", "{}"),
                        "a-1 < A {}  [0]\nb-1 < A {}  [0]\n");
}

static int
apply(const char *yaml, size_t count, struct buf *out, struct err *err)
{
    static const struct fix_event events[] = {{"A", "{\"n\":1}", "", false},
                                              {"A", "{\"n\":2}", "", false},
                                              {"B", "{\"n\":3}", "", false},
                                              {"A", "{\"n\":4}", "", false}};

    buf_clear(out);
    return fix_apply(yaml, events, count, out, err);
}

static void
makes_one_of_many(void **state)
{
    struct buf out = {0};
    struct err err = {0};

    assert_int_equal(
        apply(script("function begin(state, stream) state.sum = 0 state.stream = stream end\n"
                     "function event(e, state)\n"
                     "  if e.type ~= 'A' then return e end\n"
                     "  state.sum = state.sum + e.data.n\n"
                     "  return false\n"
                     "end\n"
                     "function finish(state)\n"
                     "  return {type = 'Sum', data = {of = state.stream, sum = state.sum}}\n"
                     "end"),
              4, &out, &err),
        0);
    assert_true(slice_is(buf_slice(&out), "B {\"n\":3}  [2]\n"
                                          "*Sum {\"of\":\"orders-42\",\"sum\":7}  [0 1 3]\n"));
    assert_int_equal(apply(script("function event(e, state)\n"
                                  "  if not state.last then state.last = e return false end\n"
                                  "  local o = state.last.ordinal state.last = nil\n"
                                  "  return {type = 'Pair', data = e.data,\n"
                                  "          origins = {e.ordinal, o, o}}\n"
                                  "end"),
                           4, &out, &err),
                     0);
    assert_true(slice_is(buf_slice(&out), "*Pair {\"n\":2}  [0 1]\n*Pair {\"n\":4}  [2 3]\n"));
    assert_int_equal(
        apply(script("function finish() return {type = 'End', data = null} end"), 2, &out, &err),
        0);
    assert_true(
        slice_is(buf_slice(&out), "A {\"n\":1}  [0]\nA {\"n\":2}  [1]\n*End null  [0 1]\n"));
    assert_int_equal(
        apply(script("function finish() return {type = 'End', data = null} end"), 0, &out, &err),
        E_SCHEMA);
    assert_non_null(
        strstr(err.text, "stream \"orders-42\": t.yml: an event that stands for no input"));
    buf_fini(&out);
}

static int
note(void *arg, const struct transform_out *out, struct err *err)
{
    (void)strncat(arg, (const char *)out->data.data + 5, 1);
    return 0;
}

/* Nothing goes from one stream to the next, whatever the script does to what it was given. */
static void
forgets_between_streams(void **state)
{
    static const char *const scripts[] = {
        "n = 0 function event(e) n = n + 1 e.data.n = n return e end",
        "local n = 0 function event(e) n = n + 1 e.data.n = n return e end",
        "function event(e) string.n = (string.n or 0) + 1 e.data.n = (''):rep(0).n return e end",
        "function event(e) n = (_G.n or 0) + 1 e.data.n = n return e end",
        "function event(e) math.pi = math.pi + 1 e.data.n = math.floor(math.pi) - 3 return e end",
        "function event(e, state) state.n = (state.n or 0) + 1 e.data.n = state.n return e end",
        "local t = {} function event(e) t[#t + 1] = ('x'):rep(1 << 20) e.data.n = #t return e end",
        ("local u = string.upper function event(e) e.data.n = string.upper == u and 1 or 2 "
         "string.upper = error return e end"),
    };

    for (size_t s = 0; s < sizeof scripts / sizeof *scripts; s++) {
        struct transform     *t = fix_compile(script(scripts[s]));
        struct transform_run *run = NULL;
        struct fix_event      e = {"A", "{}", "", false};
        struct err            err = {0};
        char                  seen[8] = "";

        assert_int_equal(transform_run_new(t, &run, &err), 0);
        for (uint64_t i = 0; i < 3; i++) {
            struct transform_event in = fix_event(&e, i);

            assert_int_equal(transform_begin(run, in.stream, note, seen, &err), 0);
            assert_int_equal(transform_event(run, &in, &err), 0);
            assert_int_equal(transform_event(run, &in, &err), 0);
            assert_int_equal(transform_end(run, &err), 0);
            assert_string_equal(seen, "12");
            seen[0] = '\0';
        }
        transform_run_free(run);
        transform_free(t);
    }
}

/* A limit that a stream meets behind others is decided by that stream alone. */
static void
begins_again_at_a_limit(void **state)
{
    struct transform *t =
        fix_compile(script("function event(e) local x = ('x'):rep(e.data.n) end"));
    struct transform_run  *run = NULL;
    struct fix_event       small = {"A", "{\"n\":1}", "", false};
    struct fix_event       large = {"A", "{\"n\":20000000}", "", false};
    struct transform_event in = fix_event(&large, 0);
    struct err             err = {0};
    char                   seen[8] = "";

    assert_int_equal(transform_run_new(t, &run, &err), 0);
    assert_int_equal(transform_begin(run, in.stream, note, seen, &err), 0);
    assert_int_equal(transform_event(run, &in, &err), E_LIMIT);
    assert_false(transform_again(run, E_LIMIT));
    in = fix_event(&small, 0);
    assert_int_equal(transform_begin(run, in.stream, note, seen, &err), 0);
    assert_int_equal(transform_event(run, &in, &err), 0);
    assert_int_equal(transform_end(run, &err), 0);
    assert_int_equal(transform_begin(run, in.stream, note, seen, &err), 0);
    in = fix_event(&large, 0);
    assert_int_equal(transform_event(run, &in, &err), E_LIMIT);
    assert_true(transform_again(run, E_LIMIT));
    assert_int_equal(transform_begin(run, in.stream, note, seen, &err), 0);
    assert_int_equal(transform_event(run, &in, &err), E_LIMIT);
    assert_false(transform_again(run, E_LIMIT));
    transform_run_free(run);
    transform_free(t);
}

static void
stops_what_does_not_end(void **state)
{
    static const char *const bodies[] = {
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "pcall(pcall, function() while true do end end) while true do end",
        "xpcall(function() while true do end end, function() while true do end end)",
        "local function f() return f() end f()",
        "repeat until pcall(error)",
        "local s = 'a' while true do s = s .. 'a' end",
        "for i = 1, math.huge do pcall(string.rep, 'x', 1 << 22) end",
        "for i = 1, 1 << 60 do local t = {} end",
        "table.move({}, 1, 1 << 62, 2)",
        "table.unpack({}, 1, 1 << 30)",
        "while true do pcall(table.move, {}, 1, 1 << 40, 2) end",
        "(('a'):rep(100)):find(('a-'):rep(50) .. 'b')",
        "pcall(string.find, ('a'):rep(200), ('a-'):rep(100) .. 'b') while true do end",
        "(('a'):rep(30000)):match('.-b')",
        "('x'):rep(5000):gsub('.-.-.-y', '')",
        "string.gsub(('x'):rep(100), '.', function() pcall(function() while true do end end) end)",
        "table.sort({3, 2, 1}, function() while true do end end)",
        "for k in pairs(setmetatable and {} or {a = 1}) do while true do end end",
        "local t = {} for i = 1, 20000 do t[i] = i end while true do next(t) end",
        "local t = {} for i = 1, 20000 do t[i] = 1 end while true do table.concat(t) end",
        "local t = {} for i = 1, 20000 do t[i] = 1 end while true do table.sort(t) end",
        "local t = {} for i = 1, 20000 do t[i] = 1 end while true do table.insert(t, 1, 1) end",
        "while true do ('x'):format() end",
        "local s = ('x'):rep(1 << 20) while true do s:upper() end",
        "local s = ('x'):rep(1 << 20) while true do s:find('y', 1, true) end",
        "local s = ('\\\\'):rep(1 << 20) while true do e.data.s = s local x = s:gsub('y', '') end",
        "goto a ::a:: goto a",
    };

    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        const char *text = fix_fails(body(bodies[i]), "{}", E_LIMIT);

        if (strstr(text, "more than 2000000 instructions in one call") == NULL)
            fail_msg("%s: %s", bodies[i], text);
    }
    assert_string_equal(fix_fails(body("\nwhile true do end"), "{}", E_LIMIT),
                        "event 0 of stream \"orders-42\": t.yml: t.yml:3: more than 2000000 "
                        "instructions in one call (limits.instructions)");
}

static void
bounds_memory(void **state)
{
    static const char *const bodies[] = {
        "local s = ('x'):rep(1 << 30)",
        "local s = 'x' for i = 1, 40 do s = s .. s end",
        "local t = {} for i = 1, 1 << 20 do t[i] = {i} end",
        "local t = table.pack(table.unpack({}, 1, 400000)) local u = {t, "
        "table.pack(table.unpack(t, "
        "1, 400000))}",
    };

    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        const char *text = fix_fails(body(bodies[i]), "{}", E_LIMIT);

        if (strstr(text, "memory (limits.memory)") == NULL && strstr(text, "instructions") == NULL)
            fail_msg("%s: %s", bodies[i], text);
    }
    assert_string_equal(fix_fails(body("local s = ('x'):rep(1 << 30)"), "{}", E_LIMIT),
                        "event 0 of stream \"orders-42\": t.yml: more than 8388608 bytes of memory "
                        "(limits.memory)");
}

static void
fails_clearly(void **state)
{
    static const struct {
        const char *body, *text;
    } cases[] = {
        {"error('no')", "t.yml:2: no"},
        {"error({})", "t.yml: an error that is no text but a table"},
        {"error()", "t.yml: an error that is no text but a nil"},
        {"local x = e.data.a.b", "t.yml:2: attempt to index a nil value (field 'a')"},
        {"return e.data.m + 1",
         "t.yml:2: attempt to perform arithmetic on a nil value (field 'm')"},
        {"return 5", "must give nothing, false, an event or a list of events, not a number"},
        {"return {5}", "a list of events with a number in it"},
        {"return {data = {}}", "an event without a type"},
        {"return {type = 'B'}", "an event without data; null is a value"},
        {"return {type = 'B', data = {}, dat = 1}", "an event with the unknown key \"dat\""},
        {"return {type = 'B', data = {}, [1] = 1}", "an event with a key that is no text"},
        {"return {type = 5, data = {}}", "an event whose type is no text but a number"},
        {"return {type = '', data = {}}", "a type must have 1 to 255 bytes of UTF-8, not 0"},
        {"return {type = '$>', data = {}}", "types that begin with '$' are the engine's"},
        {"e.to = '$all' return e", "streams that begin with '$' are the engine's"},
        {"e.to = {} return e", "to: an empty list"},
        {"e.metadata = 5 return e", "an event whose metadata is no table of names"},
        {"e.data.x = 0/0", "a number that JSON has not: nan"},
        {"e.data.x = 1/0", "a number that JSON has not: inf"},
        {"e.data.x = '\\xff'", "a text that is not UTF-8"},
        {"e.data.x = pcall", "a function is no value of JSON"},
        {"e.data[1] = 1", "an object with a key that is no text but a number"},
        {"e.data.x = {1, nil, 3, a = 1}", "an array with a key that is not one of"},
        {"local t = {} t.t = t e.data = t",
         "tables within one another, more than 128 deep, or one within itself"},
        {"e.origins = {1} return e", "origins: must be ordinals of events up to this one"},
        {"e.origins = {} return e", "origins: must not be empty"},
        {"local t = {} for i = 1, 11 do t[i] = e end return t",
         "more than 10 events in one call (limits.outputs)"},
        {"e.data = ('x'):rep(1 << 22) return {e, e, e, e}", "t"},
        {"local function f() return 1 + f() end f()", "more than"},
        {"for k in pairs({[{}] = 1}) do end", "a table with a table as a key has no order"},
        {"string.format('%p', {})", "format: %p would show an address"},
        {"('x'):find('[a')", "a pattern with '[' without ']'"},
        {"('x'):find('%')", "a pattern that ends with '%'"},
        {"('x'):find('(x')", "a pattern with '(' without ')'"},
        {"('x'):match('x)')", "a pattern with ')' without '('"},
        {"('x'):find('%1')", "a pattern with an unknown capture %1"},
        {"('x'):match(('('):rep(40))", "a pattern with more than 32 captures"},
        {"('x'):gsub('x', '%2')", "an unknown capture %2"},
        {"('x'):rep(300):find(('x?'):rep(300) .. 'y')", "a pattern that is too complex"},
        {"decimal('abc')", "decimal: no number of JSON"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text;
        struct err  err = {0};
        struct buf  out = {0};
        int         rc;

        rc = apply(body(cases[i].body), 1, &out, &err);
        text = err.text;
        if (rc == 0)
            fail_msg("%s: no error but %.*s", cases[i].body, SLICE_FMT(buf_slice(&out)));
        if (strstr(text, cases[i].text) == NULL)
            fail_msg("%s: %s", cases[i].body, text);
        assert_int_equal(err.kind, ERR_DATA);
        buf_fini(&out);
    }
    assert_string_equal(fix_fails(body("return e.data.big + 1"), "{\"big\":1e400}", E_SCHEMA),
                        "event 0 of stream \"orders-42\": t.yml:2: attempt to perform arithmetic "
                        "on a decimal value (field 'big')");
    assert_string_equal(
        fix_fails(body(""), "{\"a\":1,\"a\":2}", E_SCHEMA),
        "event 0 of stream \"orders-42\": t.yml: an object with a key that comes twice");
}

/* What of Lua is not there. */
static void
reaches_nothing(void **state)
{
    static const char *const names[] = {
        "os",           "io",           "package",     "require",
        "load",         "loadstring",   "dofile",      "loadfile",
        "debug",        "coroutine",    "print",       "collectgarbage",
        "getmetatable", "setmetatable", "math.random", "math.randomseed",
        "string.dump",  "string.pack",  "math.sin",    "warn",
        "_G._LOADED",
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char expression[100];

        (void)snprintf(expression, sizeof expression, "%s == nil", names[i]);
        gives(expression, "{}", "true");
    }
    gives("('').dump == nil", "{}", "true");
}

static void
refuses_scripts(void **state)
{
    static const struct {
        const char *text, *wanted;
        int         code;
    } cases[] = {
        {"", "t.yml: has no function event(e, state) and no finish(state)", E_SCHEMA},
        {"x =", "t.yml:1: unexpected symbol near <eof>", E_SCHEMA},
        {"\n\nerror('no')", "t.yml:3: no", E_SCHEMA},
        {"while true do end",
         "t.yml: t.yml:1: more than 2000000 instructions in one call (limits.instructions)",
         E_LIMIT},
        {"\x1bLua", "t.yml: attempt to load a binary chunk (mode is 't')", E_SCHEMA},
        {"event = 5", "t.yml: has no function event(e, state) and no finish(state)", E_SCHEMA},
    };
    static const struct {
        const char *yaml, *wanted;
    } settings[] = {
        {"lua: 5", "t.yml:1:6: lua: must be the text of a script"},
        {"{lua: 'function event() end', limits: 5}", "t.yml:1:39: limits: must be a mapping"},
        {"{lua: 'function event() end', limits: {time: 5}}",
         "t.yml:1:40: unknown key \"time\"; known are instructions, memory, outputs"},
        {"{lua: 'function event() end', limits: {memory: 5}}",
         "t.yml:1:48: memory: must be a number from 1048576 to 4294967296, or as in 64MiB"},
        {"{lua: 'function event() end', limits: {memory: 99999999GiB}}",
         "t.yml:1:48: memory: must be a number from 1048576 to 4294967296, or as in 64MiB"},
        {"{lua: 'function event() end', limits: {outputs: 0}}",
         "t.yml:1:49: outputs: must be a number from 1 to 1000000"},
        {"{lua: 'function event() end', may: drop}",
         "t.yml:1:36: may: must be a list of change, drop, add, route, state"},
        {"{lua: 'function event() end', may: [fly]}",
         "t.yml:1:37: unknown key \"fly\"; known are change, drop, add, route, state"},
        {"{lua: 'function finish() end', may: [drop]}",
         "t.yml: has begin or finish, which needs \"may: [state]\""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text = fix_refused(script(cases[i].text), cases[i].code);

        if (strstr(text, cases[i].wanted) == NULL)
            fail_msg("%s: %s", cases[i].text, text);
    }
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        assert_string_equal(fix_refused(settings[i].yaml, E_SCHEMA), settings[i].wanted);
}

static void
may_only_what_it_says(void **state)
{
    static const struct {
        const char *may, *body, *text;
    } cases[] = {
        {"", "e.data.x = 1", "an event is changed, which this script may not"},
        {"change", "return false", "an event is dropped, which this script may not"},
        {"change", "return {e, e}", "an event becomes several, which this script may not"},
        {"change", "e.to = 'x'", "an event is routed, which this script may not"},
        {"change", "n = 1", "the global \"n\" is set: this script may keep no state"},
        {"change", "state.x = 1", "attempt to index a nil value (local 'state')"},
    };
    struct err        err = {0};
    struct transform *t;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char        yaml[500];
        const char *text;

        (void)snprintf(yaml, sizeof yaml, "{may: [%s], lua: \"function event(e, state) %s end\"}",
                       cases[i].may, cases[i].body);
        text = fix_fails(yaml, "{}", E_SCHEMA);
        if (strstr(text, cases[i].text) == NULL)
            fail_msg("%s: %s", cases[i].body, text);
    }
    t = fix_compile("{may: [change, drop], lua: 'function event() end'}");
    assert_int_equal(transform_may(t), TRANSFORM_CHANGE | TRANSFORM_DROP);
    assert_int_equal(transform_upcast_check(t, &err), E_SCHEMA);
    assert_string_equal(err.text, "t.yml: drops events, which is not possible at read time: one "
                                  "event in must be one event out");
    transform_free(t);
    t = fix_compile("lua: 'function event() end function finish() end'");
    assert_int_equal(transform_upcast_check(t, &err), E_SCHEMA);
    transform_free(t);
}

static void
upcasts(void **state)
{
    struct transform *t =
        fix_compile("lua: 'function event(e) if e.type == \"X\" then return false "
                    "end if e.type == \"A\" then e.data.v = 2 end end'");
    struct transform_run *run = NULL;
    struct transform_out  out;
    struct err            err = {0};
    struct fix_event      e[] = {
             {"A", "{\"v\":1.0}", "", false}, {"C", "{\"v\":1.0}", "{}", false}, {"X", "{}", "", false}};
    struct transform_event in;

    assert_int_equal(transform_upcast_check(t, &err), 0);
    assert_int_equal(transform_run_new(t, &run, &err), 0);
    for (int i = 0; i < 3; i++) {
        in = fix_event(&e[0], 1);
        assert_int_equal(transform_upcast(run, &in, &out, &err), 0);
        assert_true(out.changed);
        assert_true(slice_is(out.data, "{\"v\":2}"));
        in = fix_event(&e[1], 2);
        assert_int_equal(transform_upcast(run, &in, &out, &err), 0);
        assert_false(out.changed);
        assert_true(slice_is(out.data, "{\"v\":1.0}"));
        in = fix_event(&e[2], 3);
        assert_int_equal(transform_upcast(run, &in, &out, &err), E_SCHEMA);
        assert_string_equal(err.text,
                            "event 3 of stream \"orders-42\": t.yml: an event is dropped, which "
                            "this script may not");
    }
    transform_run_free(run);
    transform_free(t);
}

static int
read_script(void *arg, const char *path, struct buf *out, struct err *err)
{
    assert_string_equal(path, "dir/x.lua");
    buf_add_str(out, "function event(e)\n e.data.a = 1.5 return e end");
    return 0;
}

static void
keeps_its_script(void **state)
{
    const struct transform_opts opts = {"t.yml", read_script, NULL};
    struct transform           *t = NULL, *again = NULL;
    struct buf                  json = {0};
    struct err                  err = {0};
    struct ox_id                a, b;

    assert_int_equal(
        transform_from_yaml(slice_str("{file: dir/x.lua, may: [change]}"), &opts, &t, &err), 0);
    transform_put_json(t, &json);
    assert_true(slice_is(buf_slice(&json),
                         "{\"lua\":\"function event(e)\\n e.data.a = 1.5 return e end\","
                         "\"name\":\"dir/x.lua\",\"may\":[\"change\"],\"limits\":{"
                         "\"instructions\":10000000,\"memory\":67108864,\"outputs\":1000}}"));
    assert_int_equal(transform_from_json(buf_slice(&json), &opts, &again, &err), 0);
    a = transform_fingerprint(t);
    b = transform_fingerprint(again);
    assert_true(id_eq(&a, &b));
    assert_int_equal(transform_may(again), TRANSFORM_CHANGE);
    transform_free(t);
    transform_free(again);
    buf_fini(&json);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_it_does_not_touch),
        cmocka_unit_test(changes_only_what_it_touches),
        cmocka_unit_test(counts_exactly),
        cmocka_unit_test(has_what_it_needs),
        cmocka_unit_test(drops_adds_routes),
        cmocka_unit_test(makes_one_of_many),
        cmocka_unit_test(forgets_between_streams),
        cmocka_unit_test(begins_again_at_a_limit),
        cmocka_unit_test(stops_what_does_not_end),
        cmocka_unit_test(bounds_memory),
        cmocka_unit_test(fails_clearly),
        cmocka_unit_test(reaches_nothing),
        cmocka_unit_test(refuses_scripts),
        cmocka_unit_test(may_only_what_it_says),
        cmocka_unit_test(upcasts),
        cmocka_unit_test(keeps_its_script),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
