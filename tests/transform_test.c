/* Rules, conditions and the editing of JSON. */
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

/* editing */

static const char *
edit(const char *doc, const char *path, const char *value, struct buf *out, struct err *err)
{
    struct transformi_path p;

    assert_int_equal(transformi_path_init(&p, slice_str(path), false, err), 0);
    if (value != NULL)
        err->code = transformi_set(slice_str(doc), &p, slice_str(value), out, err);
    else
        err->code = transformi_unset(slice_str(doc), &p, out, err);
    buf_add_byte(out, '\0');
    transformi_path_fini(&p);
    return (const char *)out->data;
}

static void
edits_without_touching_the_rest(void **state)
{
    static const char *const cases[][4] = {
        {"{\"a\":1}", "data.a", "2", "{\"a\":2}"},
        {"{ \"a\" : 1.00 , \"b\":2e0 }", "data.b", "3", "{ \"a\" : 1.00 , \"b\":3 }"},
        {"{}", "data.a", "1", "{\"a\":1}"},
        {" { } ", "data.a", "1", " {\"a\":1 } "},
        {"{\"a\":1}", "data.b", "2", "{\"a\":1,\"b\":2}"},
        {"{\"a\":1 }", "data.b.c.d", "2", "{\"a\":1,\"b\":{\"c\":{\"d\":2}} }"},
        {"{\"a\":{\"b\":1}}", "data.a.c", "[]", "{\"a\":{\"b\":1,\"c\":[]}}"},
        {"", "data.a.b", "1", "{\"a\":{\"b\":1}}"},
        {"{\"a\":[1,2]}", "data.a.1", "9", "{\"a\":[1,9]}"},
        {"{\"a\":[1,2]}", "data.a.2", "9", "{\"a\":[1,2,9]}"},
        {"{\"a\":[]}", "data.a.0.b", "9", "{\"a\":[{\"b\":9}]}"},
        {"{\"a.b\":1}", "data.a\\.b", "2", "{\"a.b\":2}"},
        {"{\"\\u0061\":1}", "data.a", "2", "{\"\\u0061\":2}"},
        {"{\"a\":1,\"a\":2}", "data.a", "3", "{\"a\":1,\"a\":3}"},
        {"[1]", "data", "{}", "{}"},
        {"{\"a\":1,\"b\":2}", "data.a", NULL, "{\"b\":2}"},
        {"{\"a\":1,\"b\":2}", "data.b", NULL, "{\"a\":1}"},
        {"{ \"a\":1, \"b\":2, \"c\":3 }", "data.b", NULL, "{ \"a\":1, \"c\":3 }"},
        {"{ \"a\":1 }", "data.a", NULL, "{  }"},
        {"{\"a\":1,\"b\":0,\"a\":2}", "data.a", NULL, "{\"b\":0}"},
        {"{\"b\":0,\"a\":1,\"a\":2,\"c\":1}", "data.a", NULL, "{\"b\":0,\"c\":1}"},
        {"{\"a\":[1,2,3]}", "data.a.1", NULL, "{\"a\":[1,3]}"},
        {"{\"a\":[1,2,3]}", "data.a.x", NULL, "{\"a\":[1,2,3]}"},
        {"{\"a\":{\"b\":{\"c\":1}}}", "data.a.b.c", NULL, "{\"a\":{\"b\":{}}}"},
        {"{\"a\":1}", "data.x.y", NULL, "{\"a\":1}"},
        {"{\"a\":1}", "data.a.y", NULL, "{\"a\":1}"},
        {"", "data.a", NULL, ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = {0};
        struct err err = {0};

        assert_string_equal(edit(cases[i][0], cases[i][1], cases[i][2], &out, &err), cases[i][3]);
        assert_int_equal(err.code, 0);
        buf_fini(&out);
    }
}

static void
refuses_what_is_in_the_way(void **state)
{
    static const char *const cases[][3] = {
        {"{\"a\":1}", "data.a.b", "step 2 of the path is not possible: there is a number"},
        {"[1]", "data.a", "step 1 of the path must be a number up to 1: there is an array"},
        {"[1]", "data.5", "step 1 of the path must be a number up to 1: there is an array"},
        {"\"x\"", "data.a", "step 1 of the path is not possible: there is a string"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = {0};
        struct err err = {0};

        (void)edit(cases[i][0], cases[i][1], "1", &out, &err);
        assert_int_equal(err.code, E_SCHEMA);
        assert_int_equal(err.kind, ERR_DATA);
        assert_string_equal(err.text, cases[i][2]);
        buf_fini(&out);
    }
}

/* conditions */

static bool
holds(const char *when)
{
    char        yaml[1000];
    const char *out;

    (void)snprintf(yaml, sizeof yaml, "[{when: %s, drop: true}]", when);
    out = fix_one(yaml, "Placed",
                  "{\"n\":10,\"f\":1.50,\"s\":\"abc\",\"u\":\"\\u0041\",\"z\":null,\"o\":{\"k\":1},"
                  "\"big\":123456789012345678901234567890,\"l\":[1,2],\"t\":true}",
                  "{\"who\":\"me\"}");
    return *out == '\0';
}

static void
holds_or_does_not(void **state)
{
    static const char *const yes[] = {
        "{}",
        "{type: Placed}",
        "{type: [A, Placed]}",
        "{type: {in: [Placed]}}",
        "{type: {not: Other}}",
        "{type: {not: {prefix: X}}}",
        "{type: {prefix: Pla}}",
        "{type: {matches: '^P.*d$'}}",
        "{stream: orders-42}",
        "{category: orders}",
        "{category: orders, type: Placed}",
        "{data.n: 10}",
        "{data.n: 10.0}",
        "{data.n: 1e1}",
        "{data.f: 1.5}",
        "{data.big: 123456789012345678901234567890}",
        "{data.big: {gt: 123456789012345678901234567889}}",
        "{data.big: {lt: 123456789012345678901234567891}}",
        "{data.n: {ge: 10, le: 10, gt: 9.999, lt: 10.0001}}",
        "{data.n: {gt: -1}}",
        "{data.f: {gt: 0.00001, lt: 1e300}}",
        "{data.u: A}",
        "{data.z: null}",
        "{data.z: {exists: true}}",
        "{data.none: {exists: false}}",
        "{data.none: {not: 1}}",
        "{data.o: {is: {k: 1.0}}}",
        "{data.o.k: 1}",
        "{data.l.1: 2}",
        "{data.l: {is: [1, 2]}}",
        "{data.t: true}",
        "{data.s: {matches: b, prefix: a}}",
        "{metadata.who: me}",
        "{any: [{type: X}, {data.n: 10}]}",
        "{not: {type: X}}",
        "{not: {any: [{type: X}, {type: Y}]}}",
    };
    static const char *const no[] = {
        "{type: placed}",
        "{type: []}",
        "{type: {not: Placed}}",
        "{category: orders-42}",
        "{data.n: \"10\"}",
        "{data.n: {gt: 10}}",
        "{data.n: {lt: -5}}",
        "{data.s: {gt: 1}}",
        "{data.none: 1}",
        "{data.none: null}",
        "{data.none: {exists: true}}",
        "{data.none: {matches: ''x''}}",
        "{data.big: 123456789012345678901234567891}",
        "{data.big: {gt: 123456789012345678901234567890}}",
        "{data.s: {prefix: abcd}}",
        "{data.s: {prefix: ab, matches: z}}",
        "{data.n: {matches: '1'}}",
        "{any: []}",
        "{any: [{type: X}]}",
        "{not: {}}",
        "{metadata.who: you}",
    };

    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (!holds(yes[i]))
            fail_msg("does not hold: %s", yes[i]);
    }
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        if (i != 11 && holds(no[i]))
            fail_msg("holds: %s", no[i]);
    }
}

/* rules */

static void
changes_events(void **state)
{
    assert_string_equal(fix_one("[]", "A", " {\"x\": 1.10}", "{}"), "A  {\"x\": 1.10} {} [0]\n");
    assert_string_equal(fix_one("- {when: {type: A}, rename: B}", "A", "{\"x\": 1.10}", ""),
                        "*B {\"x\": 1.10}  [0]\n");
    assert_string_equal(
        fix_one("- set: {data.y: '{data.x}', data.s: 'n {data.x}', data.k: '{key}', data.v: 5,\n"
                "        data.o: {a: ['{type}', 'pre-{type}', 'a \"{{x}}\"']}, metadata.by: me}\n"
                "  unset: [data.x]\n",
                "A", "{\"x\": 1.10, \"z\": 3}", ""),
        "*A {\"z\": 3,\"y\":1.10,\"s\":\"n 1.10\",\"k\":\"42\",\"v\":5,"
        "\"o\":{\"a\":[\"A\",\"pre-A\",\"a \\\"{x}\\\"\"]}} {\"by\":\"me\"} [0]\n");
    /* All of a rule's templates read the event as the rule found it: values change places. */
    assert_string_equal(fix_one("- set: {data.a: '{data.b}', data.b: '{data.a}'}\n", "A",
                                "{\"a\":1.0,\"b\":\"x\"}", ""),
                        "*A {\"a\":\"x\",\"b\":1.0}  [0]\n");
    assert_string_equal(fix_one("- {rename: B}\n- {when: {type: B}, set: {data: {was: '{type}'}}}\n"
                                "- {when: {type: B}, stop: true}\n- {drop: true}\n",
                                "A", "{\"a\":1}", ""),
                        "*B {\"was\":\"B\"}  [0]\n");
    assert_string_equal(fix_one("- {set: {data.a: 1}}", "A", "{\"a\":1}", ""),
                        "A {\"a\":1}  [0]\n");
    assert_string_equal(fix_one("- {rename: '{type}V2'}", "A", "{}", ""), "*AV2 {}  [0]\n");
    assert_string_equal(
        fix_one("- {set: {data.i: '{id}', data.c: '{created}', data.n: '{version}-{position}'}}",
                "A", "{}", ""),
        "*A {\"i\":\"00000000-0000-0000-0000-000000000000\",\"c\":\"2023-11-14T22:13:20.000000Z\","
        "\"n\":\"0-1000\"}  [0]\n");
}

static void
routes_and_drops(void **state)
{
    assert_string_equal(fix_one("- {route: 'payments-{data.id}'}", "A", "{\"id\":7}", ""),
                        "payments-7 < A {\"id\":7}  [0]\n");
    assert_string_equal(
        fix_one("- {route: ['a-{key}', 'b-{data.id}', 'a-42']}", "A", "{\"id\":\"x\"}", ""),
        "a-42 < A {\"id\":\"x\"}  [0]\nb-x < A {\"id\":\"x\"}  [0]\n");
    assert_string_equal(fix_one("- {route: a}\n- {when: {type: A}, route: b}", "A", "{}", ""),
                        "b < A {}  [0]\n");
    assert_string_equal(fix_one("- {drop: true}", "A", "{}", ""), "");
    assert_string_equal(fix_one("- {when: {type: B}, drop: true}", "A", "{}", ""), "A {}  [0]\n");
    assert_string_equal(fix_fails("- {route: 'x-{data.id}'}", "{}", E_SCHEMA),
                        "event 0 of stream \"orders-42\": t.yml: rule 1: there is no data.id");
    assert_string_equal(fix_fails("- {route: 'x-{data.id}'}", "{\"id\":null}", E_SCHEMA),
                        "event 0 of stream \"orders-42\": t.yml: rule 1: data.id is empty");
    assert_non_null(strstr(fix_fails("- {route: '{data.id}'}", "{\"id\":\"$all\"}", E_SCHEMA),
                           "streams that begin with '$' are the engine's"));
    assert_non_null(strstr(fix_fails("- {rename: '{data.id}'}", "{\"id\":\"$>\"}", E_SCHEMA),
                           "types that begin with '$' are the engine's"));
    assert_non_null(strstr(fix_fails("- {set: {metadata: 5}}", "{}", E_SCHEMA),
                           "metadata must be an object, not a number"));
    assert_non_null(strstr(fix_fails("- {set: {data.a.b: 5}}", "{\"a\":1}", E_SCHEMA),
                           "rule 1: step 2 of the path is not possible: there is a number"));
}

static void
leaves_bytes_alone(void **state)
{
    struct fix_event e = {"A", "\x01\x02", "", true};
    struct buf       out = {0};
    struct err       err = {0};

    assert_int_equal(fix_apply("- {when: {not: {data.x: 1}}, rename: B}", &e, 1, &out, &err), 0);
    assert_true(slice_is(buf_slice(&out), "*B \x01\x02  [0] bytes\n"));
    buf_clear(&out);
    assert_int_equal(fix_apply("- {set: {data.x: 1}}", &e, 1, &out, &err), E_SCHEMA);
    assert_non_null(strstr(err.text, "its data is not JSON"));
    buf_fini(&out);
}

static void
refuses_rules(void **state)
{
    static const struct {
        const char *yaml, *text;
    } cases[] = {
        {"- {whem: {type: X}, drop: true}",
         "t.yml:1:4: unknown key \"whem\"; known are when, drop, rename, set, unset, route, stop"},
        {"- drop: true\n- rename: X\n  then: 1\n",
         "t.yml:3:3: unknown key \"then\"; known are when, drop, rename, set, unset, route, stop"},
        {"- {drop: yes}", "t.yml:1:10: drop: must be true or false"},
        {"- {}",
         "t.yml:1:3: the rule does nothing: it needs drop, rename, set, unset, route or stop"},
        {"- {drop: true, rename: X}",
         "t.yml:1:3: drop: leaves nothing that the rest of the rule could change"},
        {"- x", "t.yml:1:3: a rule must be a mapping, not a string"},
        {"5",
         "t.yml:1:1: a transform is a list of rules, or a mapping with rules, lua or file, not "
         "a number"},
        {"", "t.yml:1:1: needs one of rules, lua and file, and has 0"},
        {"rules: 5", "t.yml:1:8: rules: must be a list, not a number"},
        {"rules: []\nlua: x", "t.yml:1:1: needs one of rules, lua and file, and has 2"},
        {"rules: []\nmay: [drop]", "t.yml:2:6: may: is for scripts; rules need none"},
        {"rule: []",
         "t.yml:1:1: unknown key \"rule\"; known are rules, lua, file, name, may, limits"},
        {"- {set: {x: 1}}", "t.yml:1:10: unknown path \"x\"; a path is data, data.PATH, metadata "
                            "or metadata.PATH"},
        {"- {set: {type: X}}", "t.yml:1:10: unknown path \"type\"; a path is data, data.PATH, "
                               "metadata or metadata.PATH"},
        {"- {set: {data..x: 1}}", "t.yml:1:10: a path with an empty step"},
        {"- {set: [data.x]}", "t.yml:1:9: set: must be a mapping of paths to values"},
        {"- {unset: [data]}",
         "t.yml:1:12: unset: what is taken away needs a path within, as in data.name"},
        {"- {unset: []}", "t.yml:1:11: unset: an empty list"},
        {"- {route: []}", "t.yml:1:11: route: an empty list"},
        {"- {route: 5}", "t.yml:1:11: route: must be a text, not a number"},
        {"- {route: ''}", "t.yml:1:11: route: must not be empty"},
        {"- {route: 'a-{nope}'}", "t.yml:1:11: template, column 3: there is no {nope}"},
        {"- {route: 'a-{'}",
         "t.yml:1:11: template, column 3: { wants a name and }, as in {data.id}; {{ is a plain "
         "brace"},
        {"- {when: X, drop: true}",
         "t.yml:1:10: a condition must be a mapping, as in {type: X}, not a string"},
        {"- {when: {typ: X}, drop: true}",
         "t.yml:1:11: unknown name \"typ\"; known are type, stream, category, data, data.PATH, "
         "metadata, metadata.PATH"},
        {"- {when: {type: {equals: X}}, drop: true}",
         "t.yml:1:18: unknown key \"equals\"; known are is, in, exists, matches, prefix, lt, le, "
         "gt, ge, not"},
        {"- {when: {type: {}}, drop: true}",
         "t.yml:1:17: an empty condition; {is: {}} is an empty object"},
        {"- {when: {data.x: {lt: a}}, drop: true}", "t.yml:1:24: lt: must be a number"},
        {"- {when: {data.x: {in: a}}, drop: true}", "t.yml:1:24: in: must be a list, not a string"},
        {"- {when: {data.x: {exists: 1}}, drop: true}",
         "t.yml:1:28: exists: must be true or false"},
        {"- {when: {any: {type: X}}, drop: true}", "t.yml:1:16: any: must be a list of conditions"},
        {"- {when: {type: {matches: '('}}, drop: true}",
         "t.yml:1:27: matches: no regular expression: Unmatched ( or \\("},
        {"- {when: {type: {matches: '(a)\\1'}}, drop: true}",
         "t.yml:1:27: matches: a back-reference is not possible in a regular expression"},
        {"- {when: {type: {matches: '((a{1,99}){1,99}){1,99}'}}, drop: true}",
         "t.yml:1:27: matches: repeats that multiply to more than 1000 is not possible in a "
         "regular "
         "expression"},
        {"- {when: {not: {not: {not: {not: {not: {not: {not: {not: {not: {}}}}}}}}}}, drop: true}",
         "t.yml:1:64: conditions within one another, more than 8 deep"},
        {"file: x.lua", "t.yml:1:7: file: is not possible here; write the script below lua"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(
            fix_refused(cases[i].yaml, strstr(cases[i].text, "deep") != NULL          ? E_LIMIT
                                       : strstr(cases[i].text, "template, c") != NULL ? E_SYNTAX
                                                                                      : E_SCHEMA),
            cases[i].text);
    assert_string_equal(fix_refused("- [", E_SYNTAX),
                        "t.yml:2:1: not YAML: did not find expected node content, while parsing a "
                        "flow node");
}

static void
bounds_rules(void **state)
{
    struct transform           *t;
    struct err                  err = {0};
    struct buf                  json = {0};
    const struct transform_opts opts = {.name = "t.json"};

    buf_add_byte(&json, '[');
    for (int i = 0; i <= TRANSFORM_RULES_MAX; i++)
        buf_printf(&json, "%s\n{\"drop\":true}", i == 0 ? "" : ",");
    buf_add_byte(&json, ']');
    assert_int_equal(transform_from_json(buf_slice(&json), &opts, &t, &err), E_LIMIT);
    assert_string_equal(err.text, "t.json:1002:1: more than 1000 rules");
    buf_clear(&json);
    while (json.len <= TRANSFORM_TEXT_MAX)
        buf_add_str(&json, "[                                            ");
    assert_int_equal(transform_from_json(buf_slice(&json), &opts, &t, &err), E_LIMIT);
    buf_clear(&json);
    buf_add_str(&json, "[{\"drop\":true,\"drop\":false}]");
    assert_int_equal(transform_from_json(buf_slice(&json), &opts, &t, &err), E_SCHEMA);
    assert_string_equal(err.text, "t.json:1:15: the key \"drop\" comes twice");
    assert_int_equal(transform_from_json(slice_str("[{]"), &opts, &t, &err), E_SYNTAX);
    buf_fini(&json);
}

static void
says_what_it_does(void **state)
{
    static const struct {
        const char *yaml;
        unsigned    may;
    } cases[] = {
        {"[]", 0},
        {"- {stop: true}", 0},
        {"- {drop: true}", TRANSFORM_DROP},
        {"- {rename: X}", TRANSFORM_CHANGE},
        {"- {unset: data.x}", TRANSFORM_CHANGE},
        {"- {route: a}", TRANSFORM_ROUTE},
        {"- {route: [a, b]}", TRANSFORM_ROUTE | TRANSFORM_ADD},
        {"rules: [{set: {data.x: 1}, route: a}]", TRANSFORM_CHANGE | TRANSFORM_ROUTE},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct transform           *t = fix_compile(cases[i].yaml), *again = NULL;
        struct buf                  json = {0};
        struct err                  err = {0};
        struct ox_id                a, b;
        const struct transform_opts opts = {.name = "again"};

        assert_int_equal(transform_may(t), cases[i].may);
        assert_int_equal(transform_upcast_check(t, &err) == 0,
                         (cases[i].may & ~(unsigned)TRANSFORM_CHANGE) == 0);
        transform_put_json(t, &json);
        assert_int_equal(transform_from_json(buf_slice(&json), &opts, &again, &err), 0);
        a = transform_fingerprint(t);
        b = transform_fingerprint(again);
        assert_true(id_eq(&a, &b));
        assert_int_equal(transform_may(again), cases[i].may);
        transform_free(t);
        transform_free(again);
        buf_fini(&json);
    }
}

static void
upcasts(void **state)
{
    struct transform      *t = fix_compile("- {when: {type: A}, rename: B, set: {data.v: 2}}");
    struct transform_run  *run = NULL;
    struct transform_out   out;
    struct err             err = {0};
    struct fix_event       e[] = {{"A", "{\"v\":1}", "", false}, {"C", "{\"v\":1}", "{}", false}};
    struct transform_event in;

    assert_int_equal(transform_run_new(t, &run, &err), 0);
    for (int i = 0; i < 3; i++) {
        in = fix_event(&e[0], 1);
        assert_int_equal(transform_upcast(run, &in, &out, &err), 0);
        assert_true(out.changed);
        assert_true(slice_is(out.type, "B"));
        assert_true(slice_is(out.data, "{\"v\":2}"));
        in = fix_event(&e[1], 2);
        assert_int_equal(transform_upcast(run, &in, &out, &err), 0);
        assert_false(out.changed);
        assert_ptr_equal(out.data.data, in.data.data);
    }
    assert_int_equal(transform_event(run, &in, &err), E_STATE);
    assert_int_equal(transform_end(run, &err), E_STATE);
    transform_interrupt(run);
    assert_int_equal(transform_upcast(run, &in, &out, &err), E_INTERRUPTED);
    transform_run_free(run);
    transform_free(t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(edits_without_touching_the_rest),
        cmocka_unit_test(refuses_what_is_in_the_way),
        cmocka_unit_test(holds_or_does_not),
        cmocka_unit_test(changes_events),
        cmocka_unit_test(routes_and_drops),
        cmocka_unit_test(leaves_bytes_alone),
        cmocka_unit_test(refuses_rules),
        cmocka_unit_test(bounds_rules),
        cmocka_unit_test(says_what_it_does),
        cmocka_unit_test(upcasts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
