/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <stdio.h>

#include "base/conf.h"
#include "base/json.h"

static const char *const levels[] = {"debug", "info", "error", NULL};
static const char *const schemes[] = {"postgres", "amqp", NULL};

static const struct conf_field http_fields[] = {
    {.name = "listen", .type = {.kind = CONF_STRING, .max = 20}, .preset = "127.0.0.1"},
    {.name = "port",
     .type = {.kind = CONF_INT, .min = 1, .max = 65535},
     .preset = "2113",
     .doc = "where it listens"},
    {.name = "sync", .type = {.kind = CONF_BOOL}, .preset = "true"},
    {.name = NULL},
};
static const struct conf_field sqlite_fields[] = {
    {.name = "path", .type = {.kind = CONF_PATH}, .required = true, .doc = "the database file"},
    {.name = "poll",
     .type = {.kind = CONF_DURATION, .min = 1000, .max = 60000000},
     .preset = "10ms"},
    {.name = NULL},
};
static const struct conf_field web_fields[] = {
    {.name = "url", .type = {.kind = CONF_URL}, .required = true},
    {.name = "token", .type = {.kind = CONF_SECRET, .min = 1}},
    {.name = NULL},
};
static const struct conf_type   sqlite_type = {.kind = CONF_OBJECT, .fields = sqlite_fields};
static const struct conf_type   web_type = {.kind = CONF_OBJECT, .fields = web_fields};
static const struct conf_driver table[] = {
    {"sqlite", &sqlite_type}, {"http", &web_type}, {NULL, NULL}};
static const struct conf_field common_fields[] = {
    {.name = "streams", .type = {.kind = CONF_STRING}},
    {.name = NULL},
};
static const struct conf_type source_type = {
    .kind = CONF_DRIVER, .fields = common_fields, .drivers = table};
static const struct conf_type  sink_type = {.kind = CONF_DRIVER, .family = "sink"};
static const struct conf_type  tag_type = {.kind = CONF_STRING, .min = 1, .max = 5, .chars = "a-z"};
static const struct conf_field root_fields[] = {
    {.name = "data", .type = {.kind = CONF_PATH}, .required = true, .doc = "the data folder"},
    {.name = "level", .type = {.kind = CONF_ENUM, .values = levels}, .preset = "info"},
    {.name = "memory",
     .type = {.kind = CONF_SIZE, .min = 1024, .max = INT64_MAX},
     .preset = "64MiB"},
    {.name = "http", .type = {.kind = CONF_OBJECT, .fields = http_fields}, .preset = "{}"},
    {.name = "sources",
     .type = {.kind = CONF_MAP, .of = &source_type, .chars = "a-z0-9_-", .max = 3},
     .preset = "{}"},
    {.name = "sinks", .type = {.kind = CONF_MAP, .of = &sink_type}},
    {.name = "tags", .type = {.kind = CONF_LIST, .of = &tag_type, .min = 1, .max = 3}},
    {.name = "broker", .type = {.kind = CONF_URL, .values = schemes}},
    {.name = "free", .type = {.kind = CONF_ANY}},
    {.name = "count", .type = {.kind = CONF_INT}},
    {.name = NULL},
};
static const struct conf_type root_type = {.kind = CONF_OBJECT, .fields = root_fields};

static const char *
fake_getenv(void *arg, const char *name)
{
    if (strcmp(name, "PORT") == 0)
        return "8080";
    if (strcmp(name, "PASSWORD") == 0)
        return "hunter2";
    return strcmp(name, "EMPTY") == 0 ? "" : NULL;
}

static int
fake_read(void *arg, const char *path, struct buf *out, struct err *err)
{
    if (strcmp(path, "/run/secret") == 0)
        buf_add_str(out, "s3cret\r\n");
    else if (strcmp(path, "/run/nul") == 0)
        buf_add(out, "a\0b", 3);
    else if (strcmp(path, "/run/empty") == 0)
        buf_add_str(out, "\n");
    else
        RETURN_ERR(err, E_NOTFOUND, ERR_FATAL, "%s: no such file", path);
    return 0;
}

static bool
fake_driver(void *arg, const char *family, size_t i, struct conf_driver *out)
{
    if (strcmp(family, "sink") != 0 || i > 0)
        return false;
    *out = (struct conf_driver){"http", &web_type};
    return true;
}

static const struct conf_opts opts = {"x.yaml", fake_getenv, fake_read, fake_driver, NULL};

static struct conf *
load(const char *text)
{
    struct conf *c;
    struct buf   problems = {0};
    struct err   err;

    if (conf_load(slice_str(text), &root_type, &opts, &c, &problems, &err) != 0)
        fail_msg("%s\n%.*s", text, SLICE_FMT(buf_slice(&problems)));
    assert_int_equal(problems.len, 0);
    return c;
}

static void
loads(void **state)
{
    struct conf       *c = load("data: /var/lib/oxbow\n"
                                      "level: debug\n"
                                      "memory: 256MiB\n"
                                      "http: {port: \"8113\", sync: false}\n"
                                      "sources:\n"
                                      "  shop:\n"
                                      "    type: sqlite\n"
                                      "    path: shop.db\n"
                                      "    streams: orders-*\n"
                                      "  web:\n"
                                      "    type: http\n"
                                      "    url: http://127.0.0.1:80/changes\n"
                                      "    token: file:/run/secret\n"
                                      "sinks:\n"
                                      "  out: {type: http, url: 'https://h', token: '${PASSWORD}'}\n"
                                      "tags: [a, bcd]\n"
                                      "broker: amqp://u:p@h\n"
                                      "free: {x: [1, {y: z}]}\n"
                                      "count: -5\n");
    const struct conf *s, *e;
    struct buf         json = {0};
    struct json_out    o;
    struct err         err;

    assert_string_equal(conf_str(c, "data"), "/var/lib/oxbow");
    assert_int_equal(conf_enum(c, "level"), 0);
    assert_int_equal(conf_size(c, "memory"), 256 << 20);
    assert_int_equal(conf_int(c, "count"), -5);
    assert_int_equal(conf_int(conf_child(c, "http"), "port"), 8113);
    assert_false(conf_bool(conf_child(c, "http"), "sync"));
    assert_string_equal(conf_str(conf_child(c, "http"), "listen"), "127.0.0.1");
    s = conf_child(c, "sources");
    assert_int_equal(conf_count(s), 2);
    e = conf_first(s);
    assert_string_equal(conf_key(e), "shop");
    assert_string_equal(conf_str(e, "type"), "sqlite");
    assert_string_equal(conf_str(e, "path"), "shop.db");
    assert_string_equal(conf_str(e, "streams"), "orders-*");
    assert_int_equal(conf_duration_us(e, "poll"), 10000);
    assert_int_equal(conf_fail(e, &err, "no table \"%s\"", "orders"), E_SCHEMA);
    assert_string_equal(err.text, "x.yaml:7:5: sources.shop: no table \"orders\"");
    e = conf_next(e);
    assert_string_equal(conf_str(e, "token"), "s3cret");
    assert_false(conf_has(e, "streams"));
    assert_null(conf_str(e, "streams"));
    assert_null(conf_next(e));
    assert_string_equal(conf_str(conf_child(conf_child(c, "sinks"), "out"), "token"), "hunter2");
    e = conf_first(conf_child(c, "tags"));
    assert_string_equal(conf_text(e), "a");
    assert_null(conf_key(e));
    assert_int_equal(conf_number(conf_child(c, "count")), -5);
    json_out_init(&o, &json);
    conf_put_json(c, &o);
    assert_int_equal(json_check(buf_slice(&json), &err), 0);
    buf_add_byte(&json, '\0');
    assert_null(strstr((char *)json.data, "s3cret"));
    assert_null(strstr((char *)json.data, "hunter2"));
    assert_non_null(strstr((char *)json.data, "\"broker\":\"amqp://***@h\""));
    assert_non_null(strstr((char *)json.data, "\"memory\":\"256MiB\""));
    assert_non_null(strstr((char *)json.data, "\"token\":\"***\""));
    assert_non_null(strstr((char *)json.data, "\"free\":{\"x\":[\"1\",{\"y\":\"z\"}]}"));
    buf_fini(&json);
    conf_free(c);
}

static void
presets(void **state)
{
    struct conf *c = load("data: d\nhttp:\nlevel: ~\nmemory: null\n");

    assert_int_equal(conf_enum(c, "level"), 1);
    assert_int_equal(conf_size(c, "memory"), 64 << 20);
    assert_int_equal(conf_int(conf_child(c, "http"), "port"), 2113);
    assert_true(conf_bool(conf_child(c, "http"), "sync"));
    assert_int_equal(conf_count(conf_child(c, "sources")), 0);
    assert_null(conf_child(c, "sinks"));
    assert_null(conf_first(conf_child(c, "sinks")));
    assert_int_equal(conf_count(conf_child(c, "sinks")), 0);
    assert_null(conf_child(conf_child(c, "sinks"), "x"));
    conf_free(c);
    conf_free(NULL);
}

static void
expands(void **state)
{
    struct conf *c = load("data: \"a ${PORT} $${PORT} $PORT ${NONE:-b:-c} ${EMPTY:-d}${EMPTY}$\"\n"
                          "http: {port: '${PORT}'}\n"
                          "free: ['${PORT}']\n");

    assert_string_equal(conf_str(c, "data"), "a 8080 ${PORT} $PORT b:-c d$");
    assert_int_equal(conf_int(conf_child(c, "http"), "port"), 8080);
    assert_string_equal(conf_text(conf_first(conf_child(c, "free"))), "8080");
    conf_free(c);
}

struct quantity {
    const char *text;
    int64_t     value; /* -1: refused */
};

static void
reads_quantities(void **state)
{
    static const struct quantity durations[] = {
        {"1ms", 1000},
        {"2000us", 2000},
        {"5s", 5000000},
        {"1m", 60000000},
        {"2m", -1},
        {"1h", -1},
        {"5", -1},
        {"ms", -1},
        {"-5s", -1},
        {"1.5s", -1},
        {"5 s", -1},
        {"5S", -1},
        {"99999999999999999999s", -1},
        {"999999999999999999d", -1},
        {"0", -1},
        {"999us", -1},
    };
    static const struct quantity sizes[] = {
        {"1024", 1024},
        {"2048B", 2048},
        {"2KB", 2000},
        {"2KiB", 2048},
        {"1MB", 1000000},
        {"1GB", 1000000000},
        {"1GiB", 1 << 30},
        {"3TB", INT64_C(3000000000000)},
        {"1TiB", INT64_C(1) << 40},
        {"1kb", -1},
        {"1023", -1},
        {"9999999999TiB", -1},
        {"x", -1},
    };
    char text[100];

    for (size_t i = 0; i < sizeof durations / sizeof *durations + sizeof sizes / sizeof *sizes;
         i++) {
        bool                   time = i < sizeof durations / sizeof *durations;
        const struct quantity *q =
            time ? &durations[i] : &sizes[i - sizeof durations / sizeof *durations];
        struct conf *c;
        struct buf   problems = {0};
        int          rc;

        if (time)
            (void)snprintf(text, sizeof text,
                           "{data: d, sources: {a: {type: sqlite, path: p, poll: %s}}}", q->text);
        else
            (void)snprintf(text, sizeof text, "{data: d, memory: %s}", q->text);
        rc = conf_load(slice_str(text), &root_type, &opts, &c, &problems, NULL);
        if ((rc == 0) != (q->value >= 0))
            fail_msg("%s: %.*s", text, SLICE_FMT(buf_slice(&problems)));
        if (rc == 0 && time)
            assert_int_equal(conf_duration_us(conf_first(conf_child(c, "sources")), "poll"),
                             q->value);
        else if (rc == 0)
            assert_int_equal(conf_size(c, "memory"), q->value);
        conf_free(c);
        buf_fini(&problems);
    }
}

static void
refused(int line, const char *text, size_t len, int code, const char *want)
{
    struct conf *c = NULL;
    struct buf   problems = {0};
    struct err   err = {0};
    int          rc = conf_load(slice_of(text, len), &root_type, &opts, &c, &problems, &err);

    if (rc != code || !slice_is(buf_slice(&problems), want))
        fail_msg("line %d: %d %s\n%.*s", line, rc, err.text, SLICE_FMT(buf_slice(&problems)));
    assert_null(c);
    assert_int_equal(err.kind, ERR_FATAL);
    assert_int_equal(strncmp(err.text, want, 10), 0); /* the first of them */
    buf_fini(&problems);
}

#define REFUSED(text, code, want) refused(__LINE__, text, sizeof(text) - 1, code, want)

static void
reports_all(void **state)
{
    REFUSED("levle: info\n"
            "level: loud\n"
            "http:\n"
            "  prot: 80\n"
            "  port: 70000\n"
            "  zzz: 1\n"
            "  sync: yes\n"
            "sources:\n"
            "  Shop: {type: sqlite}\n"
            "  a: {type: sqlit, path: x, anything: goes}\n"
            "  b: {path: x}\n"
            "  c: {type: http, url: 'http://h', token: '', nope: 1}\n"
            "tags: [a, '', abcdef, A]\n"
            "broker: http://h\n"
            "memory: 10\n"
            "count: 12x\n",
            E_SCHEMA,
            "x.yaml:1:1: unknown key \"levle\": did you mean \"level\"?\n"
            "x.yaml:1:1: the key \"data\" is missing: the data folder\n"
            "x.yaml:2:8: level: must be one of debug, info, error, not \"loud\"\n"
            "x.yaml:4:3: http: unknown key \"prot\": did you mean \"port\"?\n"
            "x.yaml:5:9: http.port: must be an integer from 1 to 65535, not \"70000\"\n"
            "x.yaml:6:3: http: unknown key \"zzz\"; allowed: listen, port, sync\n"
            "x.yaml:7:9: http.sync: must be true or false, not \"yes\"\n"
            "x.yaml:9:3: sources: must have at most 3, has 4\n"
            "x.yaml:9:3: the name \"Shop\" may only hold the characters a-z0-9_-\n"
            "x.yaml:9:9: sources.Shop: the key \"path\" is missing: the database file\n"
            "x.yaml:10:13: sources.a: unknown type \"sqlit\": did you mean \"sqlite\"?\n"
            "x.yaml:11:6: sources.b: the key \"type\" is missing\n"
            "x.yaml:12:43: sources.c.token: must not be empty\n"
            "x.yaml:12:47: sources.c: unknown key \"nope\"; allowed: type, streams, url, token\n"
            "x.yaml:13:7: tags: must have at most 3, has 4\n"
            "x.yaml:13:11: tags[1]: must not be empty\n"
            "x.yaml:13:15: tags[2]: is longer than 5 bytes\n"
            "x.yaml:13:23: tags[3]: may only hold the characters a-z\n"
            "x.yaml:14:9: broker: must be a URL that begins with one of: postgres, amqp\n"
            "x.yaml:15:9: memory: must be a size of at least 1KiB, not \"10\"\n"
            "x.yaml:16:8: count: must be an integer, not \"12x\"\n");
}

static void
reports_values(void **state)
{
    REFUSED("data: [x]\n", E_SCHEMA, "x.yaml:1:7: data: must be a single value, not a list\n");
    REFUSED("data: d\nhttp: 5\n", E_SCHEMA,
            "x.yaml:2:7: http: must be a mapping of keys to values, not a single value\n");
    REFUSED("data: d\nsources: {a: }\n", E_SCHEMA,
            "x.yaml:2:14: sources.a: must be a mapping of keys to values, not nothing\n");
    REFUSED("data: d\ntags: {}\n", E_SCHEMA,
            "x.yaml:2:7: tags: must be a list, not a mapping of keys to values\n");
    REFUSED("data: d\ntags: []\n", E_SCHEMA, "x.yaml:2:7: tags: must have at least 1, has 0\n");
    REFUSED("", E_SCHEMA, "x.yaml:1:1: the key \"data\" is missing: the data folder\n");
    REFUSED("# only a comment\n", E_SCHEMA,
            "x.yaml:1:1: the key \"data\" is missing: the data folder\n");
    REFUSED("- a\n", E_SCHEMA, "x.yaml:1:1: must be a mapping of keys to values, not a list\n");
    REFUSED("data: ''\n", E_SCHEMA, "x.yaml:1:7: data: must not be empty\n");
    REFUSED("data: ${NONE}\ncount: ${PASSWORD}\n", E_SCHEMA,
            "x.yaml:1:7: data: the environment variable NONE is not set\n"
            "x.yaml:2:8: count: must be an integer\n");
    REFUSED("data: ${NONE\nlevel: ${1}\n", E_SCHEMA,
            "x.yaml:1:7: data: ${ without }; write $${ for the two characters\n"
            "x.yaml:2:8: level: ${...} wants the name of an environment variable, as in ${NAME} "
            "or ${NAME:-default}\n");
    REFUSED("data: d\nsinks:\n"
            "  a: {type: http, url: 'ftp://h', token: file:/run/none}\n"
            "  b: {type: http, url: 'http://u:hunter2@h', token: file:/run/nul}\n"
            "  c: {type: '${PASSWORD}', token: file:/run/empty}\n"
            "  d: {type: [x]}\n"
            "  e: {type: http, url: 'http://h', token: file:/run/empty}\n"
            "  f: {type: zzzzz}\n",
            E_SCHEMA,
            "x.yaml:3:24: sinks.a.url: must be a URL: it does not begin with http:// or https://\n"
            "x.yaml:3:42: sinks.a.token: the secret cannot be read: /run/none: no such file\n"
            "x.yaml:4:24: sinks.b.url: must be a URL: a user or password does not belong into it\n"
            "x.yaml:4:53: sinks.b.token: the file holds a NUL\n"
            "x.yaml:5:13: sinks.c: unknown type \"...\"; allowed: http\n"
            "x.yaml:6:13: sinks.d.type: must be a single value, not a list\n"
            "x.yaml:7:43: sinks.e.token: must not be empty\n"
            "x.yaml:8:13: sinks.f: unknown type \"zzzzz\"; allowed: http\n");
    REFUSED("data: d\nlevle: info\n\"data\": e\n", E_SCHEMA,
            "x.yaml:2:1: unknown key \"levle\": did you mean \"level\"?\n"
            "x.yaml:3:1: the key \"data\" comes twice\n");
    REFUSED("data: d\n\"a\\nb\\e\": 1\n", E_SCHEMA,
            "x.yaml:2:1: unknown key \"a?b?\"; allowed: data, level, memory, http, sources, sinks, "
            "tags, broker, free, count\n");
}

static void
reports_syntax(void **state)
{
    REFUSED("data: &a d\n", E_SYNTAX,
            "x.yaml:1:7: anchors (&name) are not supported: write the value out\n");
    REFUSED("data: *a\n", E_SYNTAX,
            "x.yaml:1:7: aliases (*name) are not supported: write the value out\n");
    REFUSED("data: !!str d\n", E_SYNTAX, "x.yaml:1:7: tags (!name) are not supported\n");
    REFUSED("data: !x [d]\n", E_SYNTAX, "x.yaml:1:7: tags (!name) are not supported\n");
    REFUSED("data: &a {d: 1}\n", E_SYNTAX,
            "x.yaml:1:7: anchors (&name) are not supported: write the value out\n");
    REFUSED("data: d\n---\ndata: e\n", E_SYNTAX,
            "x.yaml:2:1: a second document: only one is read\n");
    REFUSED("[a]: b\n", E_SYNTAX, "x.yaml:1:1: a key must be plain text\n");
    REFUSED("? {a: b}\n: c\n", E_SYNTAX, "x.yaml:1:3: a key must be plain text\n");
    REFUSED("\"\": b\n", E_SYNTAX, "x.yaml:1:1: a key must not be empty or hold a NUL\n");
    REFUSED("\"a\\0b\": b\n", E_SYNTAX, "x.yaml:1:1: a key must not be empty or hold a NUL\n");
    REFUSED("data: \"a\\0b\"\n", E_SYNTAX, "x.yaml:1:7: a value must not hold a NUL\n");
    REFUSED("data: d\n\xc3\xa9: \xff\n", E_SYNTAX, "x.yaml:2:4: not UTF-8\n");
    REFUSED("data: d\n  x: y\n", E_SYNTAX,
            "x.yaml:2:4: not YAML: mapping values are not allowed in this context\n");
    REFUSED("data: [d\n", E_SYNTAX,
            "x.yaml:2:1: not YAML: did not find expected ',' or ']', while parsing a flow "
            "sequence\n");
    REFUSED("data: \x01\n", E_SYNTAX, "x.yaml:1:1: not YAML: control characters are not allowed\n");
}

static void
limits(void **state)
{
    struct buf   text = {0}, problems = {0};
    struct conf *c;
    struct err   err;

    buf_add_str(&text, "free: ");
    for (int i = 0; i < CONF_DEPTH_MAX; i++)
        buf_add_byte(&text, '[');
    assert_int_equal(conf_load(buf_slice(&text), &root_type, &opts, &c, &problems, &err), E_SYNTAX);
    assert_string_equal(err.text, "x.yaml:1:38: nested too deeply");
    buf_clear(&text);
    for (int i = 0; i < CONF_PROBLEMS_MAX + 10; i++)
        buf_printf(&text, "key%d: 1\n", i);
    buf_clear(&problems);
    assert_int_equal(conf_load(buf_slice(&text), &root_type, &opts, &c, &problems, &err), E_SCHEMA);
    assert_non_null(strstr(err.text, " (and 60 more)"));
    buf_add_byte(&problems, '\0');
    assert_non_null(strstr((char *)problems.data, "\nx.yaml: and 11 more\n"));
    buf_clear(&text);
    for (int i = 0; i <= CONF_KEYS_MAX; i++)
        buf_printf(&text, "key%d: 1\n", i);
    assert_int_equal(conf_load(buf_slice(&text), &root_type, &opts, &c, &problems, &err), E_SYNTAX);
    assert_string_equal(err.text, "x.yaml:4097:1: too many keys in one mapping");
    buf_clear(&text);
    buf_add_str(&text, "free: [");
    for (int i = 0; i < CONF_NODES_MAX; i++)
        buf_add_str(&text, "1,");
    assert_int_equal(conf_load(buf_slice(&text), &root_type, &opts, &c, &problems, &err), E_SYNTAX);
    assert_non_null(strstr(err.text, "too many values"));
    buf_clear(&text);
    assert_true(buf_reserve(&text, CONF_FILE_MAX + 1));
    memset(text.data, ' ', CONF_FILE_MAX + 1);
    text.len = CONF_FILE_MAX + 1;
    assert_int_equal(conf_load(buf_slice(&text), &root_type, &opts, &c, &problems, &err), E_LIMIT);
    buf_fini(&text);
    buf_fini(&problems);
}

static void
note_place(void *arg, size_t offset, uint32_t line, uint32_t column)
{
    buf_printf(arg, "%zu=%u:%u ", offset, line, column);
}

static void
says_anything_as_json(void **state)
{
    struct conf *c = load("data: /x\nfree:\n  a: [1.10, -0, 1e400, 01, '1', .5]\n"
                          "  b: {t: true, y: yes, n: , z: ~, l: null, q: \"\\u00e9\\\"\"}\n");
    struct buf   out = {0}, places = {0};

    conf_put_any(conf_child(c, "free"), &out, note_place, &places);
    assert_true(slice_is(buf_slice(&out),
                         "{\"a\":[1.10,-0,1e400,\"01\",\"1\",\".5\"],\"b\":{\"t\":true,"
                         "\"y\":\"yes\",\"n\":null,\"z\":null,\"l\":null,\"q\":\"\u00e9\\\"\"}}"));
    buf_add_byte(&places, '\0');
    assert_memory_equal(places.data, "0=3:3 1=3:3 5=3:6 6=3:7 11=3:13 ", 32);
    assert_string_equal(conf_file(c), "x.yaml");
    buf_fini(&out);
    buf_fini(&places);
    conf_free(c);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads),
        cmocka_unit_test(presets),
        cmocka_unit_test(expands),
        cmocka_unit_test(reads_quantities),
        cmocka_unit_test(reports_all),
        cmocka_unit_test(reports_values),
        cmocka_unit_test(reports_syntax),
        cmocka_unit_test(limits),
        cmocka_unit_test(says_anything_as_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
