/* Scalars: what the environment puts in, and what the type makes of it. */
#include <stdio.h>

#include "base/conf_int.h"
#include "base/json.h"
#include "base/must.h"
#include "base/url.h"

#define VALUE_MAX ((size_t)1 << 20)

struct unit {
    const char *name;
    int64_t     factor;
};

static const struct unit duration_units[] = {
    {"us", 1},
    {"ms", 1000},
    {"s", 1000000},
    {"m", INT64_C(60000000)},
    {"h", INT64_C(3600000000)},
    {"d", INT64_C(86400000000)},
    {NULL, 0},
};

static const struct unit size_units[] = {
    {"", 1},
    {"B", 1},
    {"KB", 1000},
    {"MB", 1000000},
    {"GB", 1000000000},
    {"TB", INT64_C(1000000000000)},
    {"KiB", INT64_C(1) << 10},
    {"MiB", INT64_C(1) << 20},
    {"GiB", INT64_C(1) << 30},
    {"TiB", INT64_C(1) << 40},
    {NULL, 0},
};

/* the environment */

static bool
is_name(struct slice name)
{
    const char *p = name.data;

    for (size_t i = 0; i < name.len; i++) {
        bool letter = (p[i] >= 'A' && p[i] <= 'Z') || (p[i] >= 'a' && p[i] <= 'z') || p[i] == '_';

        if (!letter && (i == 0 || p[i] < '0' || p[i] > '9'))
            return false;
    }
    return name.len > 0;
}

/* `p` is after "${"; returns after the "}", or NULL. */
static const char *
put_variable(struct conf_job *job, const struct conf *c, const char *p, struct buf *out)
{
    const char  *end = strchr(p, '}'), *preset = NULL, *value;
    struct slice name;
    char         text[256];

    if (end == NULL) {
        basei_conf_problem_at(job, c, "${ without }; write $${ for the two characters");
        return NULL;
    }
    name = slice_of(p, (size_t)(end - p));
    preset = memmem(p, name.len, ":-", 2);
    if (preset != NULL)
        name.len = (size_t)(preset - p);
    if (!is_name(name) || name.len >= sizeof text) {
        basei_conf_problem_at(job, c,
                              "${...} wants the name of an environment variable, as in "
                              "${NAME} or ${NAME:-default}");
        return NULL;
    }
    memcpy(text, p, name.len);
    text[name.len] = '\0';
    value = job->opts->getenv(job->opts->arg, text);
    if (preset != NULL && (value == NULL || *value == '\0'))
        buf_add(out, preset + 2, (size_t)(end - preset) - 2);
    else if (value != NULL)
        buf_add_str(out, value);
    else
        basei_conf_problem_at(job, c, "the environment variable %s is not set", text);
    return end + 1;
}

int
basei_conf_expand(struct conf_job *job, struct conf *c, struct err *err)
{
    struct buf  out = {.limit = VALUE_MAX};
    const char *p = c->text, *dollar;
    int         rc = 0;

    if (strstr(p, "${") == NULL)
        return 0;
    while (p != NULL && (dollar = strstr(p, "${")) != NULL) {
        bool escaped = dollar > p && dollar[-1] == '$';

        buf_add(&out, p, (size_t)(dollar - p) - (escaped ? 1 : 0));
        if (escaped) {
            buf_add_str(&out, "${");
            p = dollar + 2;
        } else {
            c->hidden = true;
            p = put_variable(job, c, dollar + 2, &out);
        }
    }
    if (p != NULL)
        buf_add_str(&out, p);
    if (out.failed) {
        basei_conf_problem_at(job, c, "longer than %zu bytes with its variables", VALUE_MAX);
        goto out;
    }
    c->text = basei_conf_copy(job->tree, out.data, out.len);
    if (c->text == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for the configuration");
out:
    buf_fini(&out);
    return rc;
}

/* values */

/* "must be WHAT, not "x"", without the value where it may be a secret. */
static void
refuse(struct conf_job *job, const struct conf *c, const char *what)
{
    if (c->hidden || strlen(c->text) > 100)
        basei_conf_problem_at(job, c, "must be %s", what);
    else
        basei_conf_problem_at(job, c, "must be %s, not \"%s\"", what, c->text);
}

static void
put_quantity(char *out, size_t size, int64_t v, const struct unit *units)
{
    const struct unit *u = units, *best = NULL;

    for (; u != NULL && u->name != NULL; u++) {
        if (v != 0 && v % u->factor == 0)
            best = u;
    }
    (void)snprintf(out, size, "%lld%s", (long long)(best == NULL ? v : v / best->factor),
                   best == NULL ? "" : best->name);
}

static void
check_range(struct conf_job *job, const struct conf *c, const struct conf_type *t, const char *what,
            const struct unit *units)
{
    char min[32], max[32], text[160];

    if ((t->min == 0 && t->max == 0) || (c->number >= t->min && c->number <= t->max))
        return;
    put_quantity(min, sizeof min, t->min, units);
    put_quantity(max, sizeof max, t->max, units);
    if (t->max == INT64_MAX)
        (void)snprintf(text, sizeof text, "%s of at least %s", what, min);
    else
        (void)snprintf(text, sizeof text, "%s from %s to %s", what, min, max);
    refuse(job, c, text);
}

static void
read_int(struct conf_job *job, struct conf *c, const struct conf_type *t)
{
    if (json_int64(slice_str(c->text), &c->number))
        check_range(job, c, t, "an integer", NULL);
    else
        refuse(job, c, "an integer");
}

static void
read_bool(struct conf_job *job, struct conf *c)
{
    c->number = strcmp(c->text, "true") == 0;
    if (c->number == 0 && strcmp(c->text, "false") != 0)
        refuse(job, c, "true or false");
}

/* DIGITS UNIT, in one word. */
static bool
read_quantity(const char *text, const struct unit *units, int64_t *out)
{
    const struct unit *u = units;
    size_t             digits = strspn(text, "0123456789");

    if (!json_int64(slice_of(text, digits), out))
        return false;
    if (*out == 0 && text[digits] == '\0')
        return true;
    while (u->name != NULL && strcmp(u->name, text + digits) != 0)
        u++;
    return u->name != NULL && !__builtin_mul_overflow(*out, u->factor, out);
}

static void
read_with_unit(struct conf_job *job, struct conf *c, const struct conf_type *t)
{
    bool               time = t->kind == CONF_DURATION;
    const struct unit *units = time ? duration_units : size_units;

    if (read_quantity(c->text, units, &c->number))
        check_range(job, c, t, time ? "a duration" : "a size", units);
    else
        refuse(job, c,
               time ? "a duration: a number with us, ms, s, m, h or d"
                    : "a size: a number with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB");
}

static void
put_values(struct buf *out, const char *const *values)
{
    for (size_t i = 0; values[i] != NULL; i++)
        buf_printf(out, "%s%s", i == 0 ? "" : ", ", values[i]);
    buf_add_byte(out, '\0');
}

static void
read_enum(struct conf_job *job, struct conf *c, const struct conf_type *t)
{
    struct buf what = {0};
    size_t     i;

    for (i = 0; t->values[i] != NULL && strcmp(t->values[i], c->text) != 0; i++)
        ;
    c->number = (int64_t)i;
    if (t->values[i] != NULL)
        return;
    buf_add_str(&what, "one of ");
    put_values(&what, t->values);
    refuse(job, c, what.failed ? "another value" : (const char *)what.data);
    buf_fini(&what);
}

static void
read_url(struct conf_job *job, struct conf *c, const struct conf_type *t)
{
    static const char *const http[] = {"http", "https", NULL};
    const char *const       *schemes = t->values == NULL ? http : t->values;
    struct url               url;
    struct err               err = {0};
    struct buf               text = {0};
    size_t                   i;
    int                      rc = t->values == NULL ? url_parse_http(slice_str(c->text), &url, &err)
                                                    : url_parse(slice_str(c->text), &url, &err);

    if (rc != 0) {
        basei_conf_problem_at(job, c, "must be a URL: %s", err.text);
        return;
    }
    for (i = 0; schemes[i] != NULL; i++) {
        if (slice_is(url.scheme, schemes[i]))
            return;
    }
    put_values(&text, schemes);
    basei_conf_problem_at(job, c, "must be a URL that begins with one of: %s",
                          text.failed ? "" : (const char *)text.data);
    buf_fini(&text);
}

bool
basei_conf_chars(const char *text, const char *chars)
{
    for (; *text != '\0'; text++) {
        const char *p = chars;
        bool        in = false;

        while (*p != '\0' && !in) {
            bool range = p[1] == '-' && p[2] != '\0';

            in = range ? *text >= p[0] && *text <= p[2] : *text == *p;
            p += range ? 3 : 1;
        }
        if (!in)
            return false;
    }
    return true;
}

static void
read_text(struct conf_job *job, struct conf *c, const struct conf_type *t)
{
    int64_t len = (int64_t)strlen(c->text);
    int64_t min = t->kind == CONF_PATH && t->min == 0 ? 1 : t->min;

    if (t->chars != NULL && !basei_conf_chars(c->text, t->chars))
        basei_conf_problem_at(job, c, "may only hold the characters %s", t->chars);
    if (len < min)
        basei_conf_problem_at(job, c, min == 1 ? "must not be empty" : "is too short");
    else if (t->max != 0 && len > t->max)
        basei_conf_problem_at(job, c, "is longer than %lld bytes", (long long)t->max);
}

/* file:PATH is read, without the line end that editors leave. */
static int
read_secret(struct conf_job *job, struct conf *c, const struct conf_type *t, struct err *err)
{
    struct buf  out = {.limit = VALUE_MAX};
    struct err  why = {0};
    const char *path = c->text + 5;
    int         rc = 0;

    c->hidden = true;
    if (strncmp(c->text, "file:", 5) == 0) {
        if (job->opts->read_file(job->opts->arg, path, &out, &why) != 0 || out.failed) {
            basei_conf_problem_at(job, c, "the secret cannot be read: %s",
                                  out.failed ? "no memory, or too long" : why.text);
            goto out;
        }
        if (out.len > 0 && out.data[out.len - 1] == '\n')
            out.len--;
        if (out.len > 0 && out.data[out.len - 1] == '\r')
            out.len--;
        if (out.len > 0 && memchr(out.data, '\0', out.len) != NULL)
            basei_conf_problem_at(job, c, "the file holds a NUL");
        c->text = basei_conf_copy(job->tree, out.data, out.len);
        if (c->text == NULL)
            FAIL(err, E_NOMEM, ERR_FATAL, "no memory for the configuration");
    }
    read_text(job, c, t);
out:
    buf_fini(&out);
    return rc;
}

int
basei_conf_value(struct conf_job *job, struct conf *c, const struct conf_type *t, struct err *err)
{
    switch (t->kind) {
    case CONF_INT:
        read_int(job, c, t);
        return 0;
    case CONF_BOOL:
        read_bool(job, c);
        return 0;
    case CONF_DURATION:
    case CONF_SIZE:
        read_with_unit(job, c, t);
        return 0;
    case CONF_ENUM:
        read_enum(job, c, t);
        return 0;
    case CONF_URL:
        read_url(job, c, t);
        return 0;
    case CONF_SECRET:
        return read_secret(job, c, t, err);
    case CONF_STRING:
    case CONF_PATH:
        read_text(job, c, t);
        return 0;
    default:
        must(t->kind == CONF_ANY);
        return 0;
    }
}
