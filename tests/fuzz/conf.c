/*
 * A configuration that is accepted can be written out as JSON, and every value
 * in it read and found to be what the schema says; one that is refused names at
 * least one problem, each on a line of its own in UTF-8.
 */
#include "base/conf.h"

#include "base/json.h"
#include "base/must.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const words[] = {"one", "two", NULL};
static const char *const schemes[] = {"amqp", NULL};

static const struct conf_field driver_fields[] = {
    {.name = "path", .type = {.kind = CONF_PATH}, .required = true},
    {.name = "poll", .type = {.kind = CONF_DURATION, .min = 1, .max = 60000000}, .preset = "1s"},
    {.name = NULL},
};
static const struct conf_type   driver_type = {.kind = CONF_OBJECT, .fields = driver_fields};
static const struct conf_driver table[] = {{"a", &driver_type}, {NULL, NULL}};
static const struct conf_field  common[] = {
     {.name = "note", .type = {.kind = CONF_STRING, .min = 2, .max = 9, .chars = "a-z_"}},
     {.name = NULL},
};
static const struct conf_type table_type = {
    .kind = CONF_DRIVER, .fields = common, .drivers = table};
static const struct conf_type  family_type = {.kind = CONF_DRIVER, .family = "f"};
static const struct conf_type  word_type = {.kind = CONF_ENUM, .values = words};
static const struct conf_field fields[] = {
    {.name = "int", .type = {.kind = CONF_INT, .min = -5, .max = 5}, .preset = "1"},
    {.name = "bool", .type = {.kind = CONF_BOOL}},
    {.name = "size", .type = {.kind = CONF_SIZE, .min = 1, .max = INT64_MAX}},
    {.name = "url", .type = {.kind = CONF_URL}},
    {.name = "broker", .type = {.kind = CONF_URL, .values = schemes}},
    {.name = "secret", .type = {.kind = CONF_SECRET}},
    {.name = "words", .type = {.kind = CONF_LIST, .of = &word_type, .min = 1, .max = 3}},
    {.name = "map", .type = {.kind = CONF_MAP, .of = &table_type, .chars = "a-z", .max = 3}},
    {.name = "list", .type = {.kind = CONF_LIST, .of = &family_type}},
    {.name = "any", .type = {.kind = CONF_ANY}},
    {.name = "wait", .type = {.kind = CONF_DURATION}},
    {.name = "word", .type = {.kind = CONF_ENUM, .values = words}},
    {.name = NULL},
};
static const struct conf_type root = {.kind = CONF_OBJECT, .fields = fields};

static const char *
get_variable(void *arg, const char *name)
{
    return strcmp(name, "A") == 0 ? "1" : NULL;
}

static int
read_secret(void *arg, const char *path, struct buf *out, struct err *err)
{
    if (*path == '\0')
        RETURN_ERR(err, E_NOTFOUND, ERR_FATAL, "no such file");
    buf_add_str(out, path);
    buf_add_str(out, "\r\n");
    return 0;
}

static bool
driver_at(void *arg, const char *family, size_t i, struct conf_driver *out)
{
    *out = table[0];
    return i == 0;
}

static void
check_problems(struct slice text)
{
    const char *p = text.data, *end = p + text.len;
    size_t      lines = 0;

    must(utf8_valid(text));
    for (; p < end; lines++) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));

        must(lf != NULL);
        must(slice_starts(slice_of(p, (size_t)(lf - p)), slice_str("c.yaml:")));
        p = lf + 1;
    }
    must(lines <= CONF_PROBLEMS_MAX + 1);
}

/* A driver of table[]: what `a` requires is there, its preset too. */
static void
check_driver(const struct conf *c)
{
    const char *note = conf_str(c, "note");

    must(strcmp(conf_str(c, "type"), "a") == 0);
    must(conf_str(c, "path")[0] != '\0');
    must(conf_duration_us(c, "poll") >= 1);
    must(conf_duration_us(c, "poll") <= 60000000);
    must(note == NULL || strlen(note) <= 9);
}

static void
check_lists(const struct conf *c)
{
    const struct conf *words_in = conf_child(c, "words"), *map = conf_child(c, "map");
    const struct conf *list = conf_child(c, "list");
    size_t             n = 0;

    for (const struct conf *e = conf_first(words_in); e != NULL; e = conf_next(e), n++) {
        must(conf_key(e) == NULL);
        must(strcmp(conf_text(e), words[conf_number(e)]) == 0);
    }
    must(n == conf_count(words_in));
    must(n <= 3);
    must(conf_count(map) <= 3);
    for (const struct conf *e = conf_first(map); e != NULL; e = conf_next(e)) {
        must(conf_key(e) != NULL);
        check_driver(e);
    }
    for (const struct conf *e = conf_first(list); e != NULL; e = conf_next(e))
        must(strcmp(conf_str(e, "type"), "a") == 0);
}

static void
check_values(const struct conf *c)
{
    must(conf_has(c, "int")); /* its preset, where the file has none */
    must(conf_int(c, "int") >= -5);
    must(conf_int(c, "int") <= 5);
    must(!conf_has(c, "bool") || conf_bool(c, "bool") || strcmp(conf_str(c, "bool"), "false") == 0);
    must(!conf_has(c, "size") || conf_size(c, "size") >= 1);
    must(!conf_has(c, "wait") || conf_duration_us(c, "wait") <= INT64_MAX);
    must(!conf_has(c, "word") || strcmp(words[conf_enum(c, "word")], conf_str(c, "word")) == 0);
    must(conf_has(c, "url") == (conf_str(c, "url") != NULL));
    must(conf_has(c, "broker") == (conf_child(c, "broker") != NULL));
    must(!conf_has(c, "secret") || conf_text(conf_child(c, "secret")) == conf_str(c, "secret"));
    must(!conf_has(c, "any") || conf_child(c, "any") != NULL);
    check_lists(c);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct conf_opts opts = {"c.yaml", get_variable, read_secret, driver_at, NULL};
    struct conf           *c;
    struct buf             problems = {0}, json = {0};
    struct json_out        o;
    struct err             err;
    int                    rc = conf_load(slice_of(data, size), &root, &opts, &c, &problems, &err);

    if (rc == 0) {
        json_out_init(&o, &json);
        conf_put_json(c, &o);
        must(json_check(buf_slice(&json), NULL) == 0);
        check_values(c);
        must(conf_fail(c, &err, "x") == E_SCHEMA);
    } else {
        must(err.kind == ERR_FATAL);
        must(problems.len > 0);
        check_problems(buf_slice(&problems));
    }
    conf_free(c);
    buf_fini(&problems);
    buf_fini(&json);
    return 0;
}
