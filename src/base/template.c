#include "base/template.h"

#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "base/url.h"

struct part {
    struct slice literal; /* before the placeholder */
    struct slice name;    /* empty: none, only at the end */
    bool         quoted;  /* within a JSON string */
};

struct template
{
    enum template_kind kind;
    size_t             count; /* of placeholders; one part more */
    struct part       *parts;
    char               text[];
};

struct compiler {
    struct template   *t;
    const char        *at, *end, *literal;
    template_known_fn *known;
    void              *arg;
    size_t             room;
    bool               in_string;
};

static bool
is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '$';
}

/* The length of a dotted name at p, 0 where there is none. */
static size_t
name_len(const char *p, const char *end)
{
    const char *start = p;

    for (;;) {
        const char *segment = p;

        while (p < end && is_name_byte(*p))
            p++;
        if (p == segment)
            return 0;
        if (p == end || *p != '.')
            return (size_t)(p - start);
        p++;
    }
}

static int
add_part(struct compiler *c, size_t literal_len, struct slice name, struct err *err)
{
    struct template *t = c->t;

    if (t->count + 1 > c->room) {
        size_t       room = c->room == 0 ? 8 : c->room * 2;
        struct part *parts = reallocarray(t->parts, room, sizeof *parts);

        if (parts == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for a template");
        t->parts = parts;
        c->room = room;
    }
    t->parts[t->count] = (struct part){slice_of(c->literal, literal_len), name, c->in_string};
    return 0;
}

static int
add_placeholder(struct compiler *c, size_t len, struct err *err)
{
    struct slice name = slice_of(c->at + 1, len);
    int          rc;

    if (c->known != NULL && !c->known(c->arg, name))
        FAIL(err, E_SYNTAX, ERR_FATAL, "template, column %zu: there is no {%.*s}",
             (size_t)(c->at - c->t->text) + 1, name.len > 64 ? 64 : (int)name.len,
             (const char *)name.data);
    TRY(add_part(c, (size_t)(c->at - c->literal), name, err));
    c->t->count++;
    c->at += len + 2;
    c->literal = c->at;
out:
    return rc;
}

/* A doubled brace: the first one is kept, as an end of a literal without a name. */
static int
add_brace(struct compiler *c, struct err *err)
{
    int rc;

    TRY(add_part(c, (size_t)(c->at - c->literal) + 1, slice_of(NULL, 0), err));
    c->t->count++;
    c->at += 2;
    c->literal = c->at;
out:
    return rc;
}

/* `at` is on a brace. */
static int
take_brace(struct compiler *c, struct err *err)
{
    const char *p = c->at;
    bool        json = c->t->kind == TEMPLATE_JSON, doubled = c->end - p >= 2 && p[1] == *p;
    size_t      len = *p == '{' ? name_len(p + 1, c->end) : 0;

    if (len > 0 && p + 1 + len < c->end && p[1 + len] == '}')
        return add_placeholder(c, len, err);
    if (doubled && (!json || c->in_string))
        return add_brace(c, err);
    if (json && (c->in_string || *p == '}' || len == 0)) {
        c->at++;
        return 0;
    }
    RETURN_ERR(err, E_SYNTAX, ERR_FATAL, "template, column %zu: %s", (size_t)(p - c->t->text) + 1,
               *p == '{' ? "{ wants a name and }, as in {data.id}; {{ is a plain brace"
                         : "} without {; }} is a plain brace");
}

static int
compile(struct compiler *c, struct err *err)
{
    int rc = 0;

    while (c->at < c->end) {
        if (*c->at == '{' || *c->at == '}') {
            TRY(take_brace(c, err));
            continue;
        }
        if (c->t->kind == TEMPLATE_JSON && *c->at == '"')
            c->in_string = !c->in_string;
        else if (c->in_string && *c->at == '\\' && c->end - c->at >= 2)
            c->at++;
        c->at++;
    }
    TRY(add_part(c, (size_t)(c->at - c->literal), slice_of(NULL, 0), err));
out:
    return rc;
}

static int
probe(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    return 0;
}

/* With every value null, or empty within a string, it must be JSON. */
static int
check_json(const struct template *t, struct err *err)
{
    struct buf scratch = {0}, out = {0};
    int        rc;

    TRY(template_expand(t, probe, NULL, &scratch, &out, err));
    TRY(json_check(buf_slice(&out), err));
out:
    if (rc != 0 && err != NULL) {
        err_prefix(err, "template, with every placeholder as null");
        err->kind = ERR_FATAL;
    }
    buf_fini(&scratch);
    buf_fini(&out);
    return rc;
}

int
template_new(struct slice text, enum template_kind kind, template_known_fn *known, void *arg,
             struct template **out, struct err *err)
{
    struct template *t = NULL;
    struct compiler  c = {.known = known, .arg = arg};
    int              rc;

    *out = NULL;
    if (text.len > TEMPLATE_MAX)
        FAIL(err, E_LIMIT, ERR_FATAL, "a template of more than %zu bytes", TEMPLATE_MAX);
    t = calloc(1, sizeof *t + text.len + 1);
    if (t == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for a template");
    if (text.len > 0)
        memcpy(t->text, text.data, text.len);
    t->kind = kind;
    c.t = t;
    c.at = c.literal = t->text;
    c.end = t->text + text.len;
    TRY(compile(&c, err));
    if (kind == TEMPLATE_JSON)
        TRY(check_json(t, err));
    *out = t;
    t = NULL;
out:
    template_free(t);
    return rc;
}

void
template_free(struct template *t)
{
    if (t == NULL)
        return;
    free(t->parts);
    free(t);
}

size_t
template_count(const struct template *t)
{
    size_t n = 0;

    for (size_t i = 0; i < t->count; i++)
        n += t->parts[i].name.len > 0;
    return n;
}

struct slice
template_name(const struct template *t, size_t i)
{
    const struct part *p = t->parts;

    for (;; p++) {
        must(p < t->parts + t->count);
        if (p->name.len > 0 && i-- == 0)
            return p->name;
    }
}

static int
put_url(struct slice name, struct slice value, struct buf *out, struct err *err)
{
    if (value.len == 0 || slice_is(value, ".") || slice_is(value, ".."))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "{%.*s} is %s, which cannot stand in a URL: it would name something else",
                   SLICE_FMT(name), value.len == 0 ? "empty" : "a dot segment");
    url_encode(out, value);
    return 0;
}

static void
put_quoted(struct slice value, struct buf *out)
{
    size_t at = out->len;

    json_put_string(out, value);
    if (out->failed)
        return;
    memmove(out->data + at, out->data + at + 1, out->len - at - 2);
    out->len -= 2;
}

int
template_expand(const struct template *t, template_lookup_fn *lookup, void *arg,
                struct buf *scratch, struct buf *out, struct err *err)
{
    int rc = 0;

    for (size_t i = 0; i <= t->count; i++) {
        const struct part *p = &t->parts[i];
        bool               raw = t->kind == TEMPLATE_JSON && !p->quoted;

        buf_add_slice(out, p->literal);
        if (p->name.len == 0)
            continue;
        buf_clear(scratch);
        TRY(lookup(arg, p->name, raw, scratch, err));
        out->failed |= scratch->failed;
        if (t->kind == TEMPLATE_URL)
            TRY(put_url(p->name, buf_slice(scratch), out, err));
        else if (raw && scratch->len == 0)
            buf_add_str(out, "null");
        else if (t->kind == TEMPLATE_JSON && p->quoted)
            put_quoted(buf_slice(scratch), out);
        else
            buf_add_slice(out, buf_slice(scratch));
    }
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for an expanded template");
out:
    return rc;
}

int
template_put_json(struct slice json, bool raw, struct buf *value, struct err *err)
{
    if (!raw && json_type(json) == JSON_STRING)
        return json_string_decode(json, value, err);
    if (raw || !json_is_null(json))
        buf_add_slice(value, json);
    return 0;
}
