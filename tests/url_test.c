/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "base/json.h"
#include "base/template.h"
#include "base/url.h"

#define BYTES(literal) slice_of(literal, sizeof(literal) - 1)

static void
parses(void **state)
{
    static const struct {
        const char *text, *scheme, *user, *host, *path, *query, *fragment;
        unsigned    port;
        bool        http;
    } cases[] = {
        {"http://h", "http", "", "h", "", "", "", 80, true},
        {"https://h.example/", "https", "", "h.example", "/", "", "", 443, true},
        {"http://127.0.0.1:8080/a/b?c=d&e=%20/?", "http", "", "127.0.0.1", "/a/b", "c=d&e=%20/?",
         "", 8080, true},
        {"http://[::1]:2113/x", "http", "", "::1", "/x", "", "", 2113, true},
        {"http://[2001:db8::1]", "http", "", "2001:db8::1", "", "", "", 80, true},
        {"http://h?q", "http", "", "h", "", "q", "", 80, true},
        {"http://h/#f", "http", "", "h", "/", "", "f", 80, false},
        {"postgres://u:p@h:5432/db", "postgres", "u:p", "h", "/db", "", "", 5432, false},
        {"amqp://h", "amqp", "", "h", "", "", "", 0, false},
        {"http://u@h/", "http", "u", "h", "/", "", "", 80, false},
        {"http://@h/", "http", "", "h", "/", "", "", 80, false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct url u;
        struct err err = {0};

        if (url_parse(slice_str(cases[i].text), &u, &err) != 0)
            fail_msg("%s: %s", cases[i].text, err.text);
        assert_true(slice_is(u.scheme, cases[i].scheme));
        assert_true(slice_is(u.user, cases[i].user));
        assert_true(slice_is(u.host, cases[i].host));
        assert_true(slice_is(u.path, cases[i].path));
        assert_true(slice_is(u.query, cases[i].query));
        assert_true(slice_is(u.fragment, cases[i].fragment));
        assert_int_equal(u.port, cases[i].port);
        assert_int_equal(url_parse_http(slice_str(cases[i].text), &u, &err) == 0, cases[i].http);
    }
}

static void
refuses(void **state)
{
    static const char *const cases[] = {
        "",
        "h",
        "http:",
        "http:/h",
        "http://",
        "http:///x",
        "http://:80",
        "://h",
        "1http://h",
        "ht_tp://h",
        "http://h:",
        "http://h:0",
        "http://h:65536",
        "http://h:80x",
        "http://h:99999999999",
        "http://[::1",
        "http://[]",
        "http://[g::]",
        "http://[::1]80",
        "http://h/ x",
        "http://h/%",
        "http://h/%2",
        "http://h/%zz",
        "http://h/\xc3\xa9",
        "http://h/{x}",
        "http://h/\"",
        "http://a[b]/",
    };
    struct url u;
    struct err err;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (url_parse(slice_str(cases[i]), &u, &err) != E_INVALID)
            fail_msg("accepted %s", cases[i]);
    }
    assert_int_equal(url_parse(slice_of(NULL, 0), &u, &err), E_INVALID);
    assert_int_equal(url_parse(BYTES("http://h/\0"), &u, &err), E_INVALID);
    assert_int_equal(url_parse_http(BYTES("ftp://h/"), &u, &err), E_INVALID);
}

static void
codes(void **state)
{
    struct buf b = {0};

    url_encode(&b, BYTES("aZ09-._~ /%\xc3\xa9\0"));
    assert_true(slice_is(buf_slice(&b), "aZ09-._~%20%2F%25%C3%A9%00"));
    buf_clear(&b);
    assert_true(url_decode(&b, BYTES("aZ%20%2f%2F%C3%a9+%00"), false));
    assert_true(slice_eq(buf_slice(&b), BYTES("aZ //\xc3\xa9+\0")));
    buf_clear(&b);
    assert_true(url_decode(&b, BYTES("a+b"), true));
    assert_true(slice_is(buf_slice(&b), "a b"));
    assert_false(url_decode(&b, BYTES("%"), false));
    assert_false(url_decode(&b, BYTES("%4"), false));
    assert_false(url_decode(&b, BYTES("%4g"), false));
    assert_false(url_decode(&b, BYTES("%g4"), false));
    buf_fini(&b);
}

#define EVENT                                                                                      \
    "{\"key\":\"a/b \\u00e9\",\"n\":12,\"empty\":\"\",\"dots\":\"..\",\"null\":null,"              \
    "\"data\":{\"state\":{\"x\":[1,\"q\\\"\"]},\"s\":\"line\\nbreak\",\"a-b\":true}}"

static int
lookup(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    struct slice json;

    if (!json_get_path(BYTES(EVENT), name, &json))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "{%.*s} is not there", SLICE_FMT(name));
    return template_put_json(json, raw, value, err);
}

static bool
known(void *arg, struct slice name)
{
    return !slice_is(name, "nobody");
}

struct expansion {
    enum template_kind kind;
    const char        *text, *want; /* want NULL: refused when expanded */
};

static const struct expansion expansions[] = {
    {TEMPLATE_TEXT, "", ""},
    {TEMPLATE_TEXT, "plain", "plain"},
    {TEMPLATE_TEXT, "{key}", "a/b \xc3\xa9"},
    {TEMPLATE_TEXT, "<{key}|{n}>{n}", "<a/b \xc3\xa9|12>12"},
    {TEMPLATE_TEXT, "{{{n}}}", "{12}"},
    {TEMPLATE_TEXT, "{{n}}", "{n}"},
    {TEMPLATE_TEXT, "[{null}{empty}]", "[]"},
    {TEMPLATE_TEXT, "{data.state}", "{\"x\":[1,\"q\\\"\"]}"},
    {TEMPLATE_TEXT, "{missing}", NULL},
    {TEMPLATE_URL, "http://h/orders/{key}?n={n}", "http://h/orders/a%2Fb%20%C3%A9?n=12"},
    {TEMPLATE_URL, "http://h/{data.a-b}/{{}}", "http://h/true/{}"},
    {TEMPLATE_URL, "http://h/{empty}", NULL},
    {TEMPLATE_URL, "http://h/{null}", NULL},
    {TEMPLATE_URL, "http://h/{dots}", NULL},
    {TEMPLATE_JSON, "{\"state\":{data.state}}", "{\"state\":{\"x\":[1,\"q\\\"\"]}}"},
    {TEMPLATE_JSON, "{\"a\":{\"b\":[{n},{key},{null},{}]}}",
     "{\"a\":{\"b\":[12,\"a/b \\u00e9\",null,{}]}}"},
    {TEMPLATE_JSON, "{\"id\":\"order-{n}\",\"t\":\"{data.s} {{n}} {x \\\"{n}\\\" {empty}\"}",
     "{\"id\":\"order-12\",\"t\":\"line\\nbreak {n} {x \\\"12\\\" \"}"},
    {TEMPLATE_JSON, "{data.state}", "{\"x\":[1,\"q\\\"\"]}"},
};

static void
expands(void **state)
{
    for (size_t i = 0; i < sizeof expansions / sizeof *expansions; i++) {
        const struct expansion *e = &expansions[i];
        struct template        *t;
        struct buf              scratch = {0}, out = {0};
        struct err              err = {0};
        int                     rc;

        if (template_new(slice_str(e->text), e->kind, known, NULL, &t, &err) != 0)
            fail_msg("%s: %s", e->text, err.text);
        for (int again = 0; again < 2; again++) {
            buf_clear(&out);
            rc = template_expand(t, lookup, NULL, &scratch, &out, &err);
            if (e->want == NULL) {
                assert_int_equal(rc, E_SCHEMA);
                assert_int_equal(err.kind, ERR_DATA);
            } else if (rc != 0 || !slice_is(buf_slice(&out), e->want)) {
                fail_msg("%s: %.*s %s", e->text, SLICE_FMT(buf_slice(&out)), err.text);
            }
        }
        if (e->kind == TEMPLATE_JSON)
            assert_int_equal(json_check(buf_slice(&out), &err), 0);
        template_free(t);
        buf_fini(&scratch);
        buf_fini(&out);
    }
}

static void
refuses_templates(void **state)
{
    static const struct {
        enum template_kind kind;
        const char        *text, *want;
    } cases[] = {
        {TEMPLATE_TEXT, "a{", "template, column 2: { wants a name"},
        {TEMPLATE_TEXT, "ab{}", "template, column 3: { wants a name"},
        {TEMPLATE_TEXT, "{a", "template, column 1: { wants a name"},
        {TEMPLATE_TEXT, "{a.}", "template, column 1: { wants a name"},
        {TEMPLATE_TEXT, "{.a}", "template, column 1: { wants a name"},
        {TEMPLATE_TEXT, "{a b}", "template, column 1: { wants a name"},
        {TEMPLATE_TEXT, "a}", "template, column 2: } without {"},
        {TEMPLATE_URL, "http://h/{nobody}", "template, column 10: there is no {nobody}"},
        {TEMPLATE_JSON, "{\"a\":{n", "template, column 6: { wants a name"},
        {TEMPLATE_JSON, "{\"a\":{n}", "template, with every placeholder as null: JSON, byte"},
        {TEMPLATE_JSON, "{ {key}:1}", "template, with every placeholder as null: JSON, byte"},
        {TEMPLATE_JSON, "{n}{n}", "template, with every placeholder as null: JSON, byte"},
        {TEMPLATE_JSON, "\"{n}", "template, with every placeholder as null: JSON, byte"},
    };
    static char      big[TEMPLATE_MAX + 1];
    struct template *t;
    struct err       err;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rc = template_new(slice_str(cases[i].text), cases[i].kind, known, NULL, &t, &err);

        if (rc != E_SYNTAX || strncmp(err.text, cases[i].want, strlen(cases[i].want)) != 0)
            fail_msg("%s: %d %s", cases[i].text, rc, err.text);
        assert_int_equal(err.kind, ERR_FATAL);
        assert_null(t);
    }
    assert_int_equal(template_new(slice_of(big, sizeof big), TEMPLATE_TEXT, NULL, NULL, &t, &err),
                     E_LIMIT);
    template_free(NULL);
}

static void
names_placeholders(void **state)
{
    struct template *t;
    struct buf       scratch = {0}, out = {.limit = 8};
    struct err       err;

    assert_int_equal(template_new(BYTES("{{{a}{b.c}}}{$d}{1}{2}{3}{4}{5}{6}{7}{8}{9}"),
                                  TEMPLATE_TEXT, NULL, NULL, &t, &err),
                     0);
    assert_int_equal(template_count(t), 12);
    assert_true(slice_is(template_name(t, 0), "a"));
    assert_true(slice_is(template_name(t, 1), "b.c"));
    assert_true(slice_is(template_name(t, 2), "$d"));
    assert_true(slice_is(template_name(t, 11), "9"));
    template_free(t);
    assert_int_equal(template_new(BYTES("\"{key}{key}\""), TEMPLATE_JSON, NULL, NULL, &t, &err), 0);
    assert_int_equal(template_expand(t, lookup, NULL, &scratch, &out, &err), E_NOMEM);
    template_free(t);
    buf_fini(&scratch);
    buf_fini(&out);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses),
        cmocka_unit_test(refuses),
        cmocka_unit_test(codes),
        cmocka_unit_test(expands),
        cmocka_unit_test(refuses_templates),
        cmocka_unit_test(names_placeholders),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
