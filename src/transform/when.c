/*
 * Conditions on an event. Values are equal as JSON is: 1, 1.0 and 1e0 are one number, and
 * no digit of a long one is rounded away.
 */
#include <regex.h>
#include <stdlib.h>

#include "base/must.h"
#include "transform/transform_int.h"

#define CLAUSES_MAX 10000    /* of one transform's condition, at all depths */
#define DEPTH_MAX 8          /* of any, not */
#define REGEX_MAX 255        /* bytes of a regular expression */
#define REPEATS_MAX 1000     /* what its {n,m} multiply to */
#define MATCH_MAX (64 << 10) /* bytes of a text that is matched */

enum op {
    OP_IN,     /* one of the values; `is` has one */
    OP_EXISTS, /* `flag` */
    OP_MATCHES,
    OP_PREFIX,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_PATH, /* all of the clauses hold for what is at the path */
    OP_ANY,  /* one of them holds */
    OP_ALL,
    OP_NOT, /* the one does not hold */
};

struct clause {
    enum op                op;
    bool                   flag;
    struct clause         *list; /* PATH, ANY, ALL, NOT */
    size_t                 count;
    char                 **values; /* canonical JSON */
    size_t                 value_count;
    regex_t                regex;
    bool                   compiled;
    struct transformi_path path;
};

struct transformi_when {
    struct clause all;
};

struct value {
    bool         there;
    struct slice raw; /* JSON; of the type, the stream and the category `text` instead */
    struct slice text;
    bool         is_text; /* `text` has what the string spells */
};

struct slice
transformi_category(struct slice stream)
{
    const char *dash = stream.len == 0 ? NULL : memchr(stream.data, '-', stream.len);

    return dash == NULL ? stream
                        : slice_of(stream.data, (size_t)(dash - (const char *)stream.data));
}

/* parsing */

struct parser {
    const struct transformi_spec *spec;
    size_t                        clauses;
    unsigned                      depth;
    struct err                   *err;
};

static int parse_event(struct parser *p, struct slice raw, struct clause *c);

static void
clause_fini(struct clause *c)
{
    for (size_t i = 0; i < c->count; i++)
        clause_fini(&c->list[i]); /* at most 2 * DEPTH_MAX deep */
    for (size_t i = 0; i < c->value_count; i++)
        free(c->values[i]);
    if (c->compiled)
        regfree(&c->regex);
    transformi_path_fini(&c->path);
    free(c->values);
    free(c->list);
}

static int
no_memory(struct parser *p)
{
    RETURN_ERR(p->err, E_NOMEM, ERR_FATAL, "no memory for a condition");
}

/* A new clause at the end of the list; NULL: the error is set. */
static struct clause *
add(struct parser *p, struct clause *c, enum op op, struct slice raw)
{
    struct clause *list;

    if (++p->clauses > CLAUSES_MAX) {
        (void)transformi_fail(p->spec, raw.data, E_LIMIT, p->err, "more than %d conditions",
                              CLAUSES_MAX);
        return NULL;
    }
    list = reallocarray(c->list, c->count + 1, sizeof *list);
    if (list == NULL) {
        (void)no_memory(p);
        return NULL;
    }
    c->list = list;
    memset(&list[c->count], 0, sizeof *list);
    list[c->count].op = op;
    return &list[c->count++];
}

static int
add_value(struct parser *p, struct clause *c, struct slice raw)
{
    struct buf canon = {0};
    struct err why = {0};
    char     **values;
    int        rc = 0;

    if (json_canonical(raw, &canon, &why) != 0) {
        rc = transformi_fail_as(p->spec, raw.data, &why, p->err);
        goto out;
    }
    values = reallocarray(c->values, c->value_count + 1, sizeof *values);
    if (values == NULL) {
        rc = no_memory(p);
        goto out;
    }
    c->values = values;
    values[c->value_count] = transformi_copy(buf_slice(&canon));
    if (values[c->value_count] == NULL)
        rc = no_memory(p);
    else
        c->value_count++;
out:
    buf_fini(&canon);
    return rc;
}

static int
add_values(struct parser *p, struct clause *c, struct slice raw)
{
    struct json_iter it;
    struct slice     key, value;
    int              rc;

    if (json_type(raw) != JSON_ARRAY)
        return transformi_fail(p->spec, raw.data, E_SCHEMA, p->err, "in: must be a list, not %s",
                               json_type_name(json_type(raw)));
    must(json_array_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, p->err)) == 0) {
        if (c->value_count == CLAUSES_MAX)
            return transformi_fail(p->spec, value.data, E_LIMIT, p->err, "in: more than %d values",
                                   CLAUSES_MAX);
        TRY(add_value(p, c, value));
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* What makes a matcher slow, or blow up as it is compiled. */
static const char *
refused_regex(const char *text)
{
    unsigned long long repeats = 1;

    for (const char *s = text; *s != '\0'; s++) {
        if (*s == '\\' && s[1] >= '1' && s[1] <= '9')
            return "a back-reference";
        if (*s == '\\' && s[1] != '\0') {
            s++;
            continue;
        }
        if (*s != '{')
            continue;
        while (*++s != '\0' && *s != '}') {
            unsigned long long n = 0;

            while (*s >= '0' && *s <= '9' && n <= REPEATS_MAX)
                n = n * 10 + (unsigned)(*s++ - '0');
            repeats *= n == 0 ? 1 : n;
            if (repeats > REPEATS_MAX)
                return "repeats that multiply to more than 1000";
            if (*s == '\0' || *s == '}')
                break;
        }
        if (*s == '\0')
            break;
    }
    return NULL;
}

static int
add_regex(struct parser *p, struct clause *c, struct slice raw)
{
    char       *text = NULL;
    char        why[120];
    size_t      len = 0;
    const char *refused;
    int         rc, status;

    TRY(transformi_string(p->spec, raw, "matches", REGEX_MAX, &text, &len, p->err));
    refused = refused_regex(text);
    if (refused != NULL || strlen(text) != len) {
        rc = transformi_fail(p->spec, raw.data, E_SCHEMA, p->err,
                             "matches: %s is not possible in a regular expression",
                             refused == NULL ? "a NUL" : refused);
        goto out;
    }
    status = regcomp(&c->regex, text, REG_EXTENDED | REG_NOSUB);
    if (status != 0) {
        (void)regerror(status, &c->regex, why, sizeof why);
        rc = transformi_fail(p->spec, raw.data, E_SCHEMA, p->err,
                             "matches: no regular expression: %s", why);
        goto out;
    }
    c->compiled = true;
out:
    free(text);
    return rc;
}

static int
add_flag(struct parser *p, struct clause *c, struct slice raw)
{
    if (!json_bool(raw, &c->flag))
        return transformi_fail(p->spec, raw.data, E_SCHEMA, p->err,
                               "exists: must be true or false");
    return 0;
}

static int
add_number(struct parser *p, struct clause *c, struct slice raw, const char *name)
{
    if (json_type(raw) != JSON_NUMBER)
        return transformi_fail(p->spec, raw.data, E_SCHEMA, p->err, "%s: must be a number", name);
    return add_value(p, c, raw);
}

static int parse_value(struct parser *p, struct slice raw, struct clause *c);

static int
add_not(struct parser *p, struct clause *c, struct slice raw)
{
    struct clause *all = add(p, c, OP_ALL, raw);
    int            rc;

    if (all == NULL)
        return p->err == NULL ? E_NOMEM : p->err->code;
    if (++p->depth > DEPTH_MAX)
        return transformi_fail(p->spec, raw.data, E_LIMIT, p->err,
                               "conditions within one another, more than %d deep", DEPTH_MAX);
    rc = parse_value(p, raw, all);
    p->depth--;
    return rc;
}

static const char *const op_names[] = {"is", "in", "exists", "matches", "prefix", "lt",
                                       "le", "gt", "ge",     "not",     NULL};
static const enum op     ops[] = {OP_IN, OP_IN, OP_EXISTS, OP_MATCHES, OP_PREFIX,
                                  OP_LT, OP_LE, OP_GT,     OP_GE,      OP_NOT};

static int
parse_op(struct parser *p, struct slice key, struct slice raw, struct clause *to)
{
    struct clause *c;
    size_t         which;
    int            rc;

    TRY(transformi_key(p->spec, key, op_names, &which, p->err));
    c = add(p, to, ops[which], raw);
    if (c == NULL)
        return p->err == NULL ? E_NOMEM : p->err->code;
    switch (c->op) {
    case OP_IN:
        return which == 0 ? add_value(p, c, raw) : add_values(p, c, raw);
    case OP_EXISTS:
        return add_flag(p, c, raw);
    case OP_MATCHES:
        return add_regex(p, c, raw);
    case OP_PREFIX:
        if (json_type(raw) != JSON_STRING)
            return transformi_fail(p->spec, raw.data, E_SCHEMA, p->err, "prefix: must be a text");
        return add_value(p, c, raw);
    case OP_NOT:
        return add_not(p, c, raw);
    default:
        return add_number(p, c, raw, op_names[which]);
    }
out:
    return rc;
}

/* A value, a list of values (one of them), or an object of operators. */
static int
parse_value(struct parser *p, struct slice raw, struct clause *to)
{
    struct json_iter it;
    struct slice     key = {0}, value;
    struct clause   *c;
    size_t           before = to->count;
    int              rc;

    if (json_type(raw) != JSON_OBJECT) {
        c = add(p, to, OP_IN, raw);
        if (c == NULL)
            return p->err == NULL ? E_NOMEM : p->err->code;
        return json_type(raw) == JSON_ARRAY ? add_values(p, c, raw) : add_value(p, c, raw);
    }
    must(json_object_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, p->err)) == 0)
        TRY(parse_op(p, key, value, to));
    if (rc != E_END)
        goto out;
    rc = 0;
    if (to->count == before)
        rc = transformi_fail(p->spec, raw.data, E_SCHEMA, p->err,
                             "an empty condition; {is: {}} is an empty object");
out:
    return rc;
}

/* any: a list of conditions; not: one. */
static int
parse_group(struct parser *p, struct slice raw, struct clause *to, bool any)
{
    struct json_iter it;
    struct slice     key, value;
    struct clause   *c = add(p, to, any ? OP_ANY : OP_NOT, raw), *all;
    int              rc;

    if (c == NULL)
        return p->err == NULL ? E_NOMEM : p->err->code;
    if (++p->depth > DEPTH_MAX)
        return transformi_fail(p->spec, raw.data, E_LIMIT, p->err,
                               "conditions within one another, more than %d deep", DEPTH_MAX);
    if (!any) {
        all = add(p, c, OP_ALL, raw);
        rc = all == NULL ? E_NOMEM : parse_event(p, raw, all);
        goto out;
    }
    if (json_type(raw) != JSON_ARRAY)
        return transformi_fail(p->spec, raw.data, E_SCHEMA, p->err,
                               "any: must be a list of conditions");
    must(json_array_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, p->err)) == 0) {
        all = add(p, c, OP_ALL, value);
        if (all == NULL)
            return p->err == NULL ? E_NOMEM : p->err->code;
        TRY(parse_event(p, value, all));
    }
    if (rc == E_END)
        rc = 0;
out:
    p->depth--;
    return rc;
}

static int
parse_member(struct parser *p, struct slice key, struct slice raw, struct clause *to)
{
    struct clause *c;
    struct buf     name = {0};
    struct err     why = {0};
    const void    *at = (const uint8_t *)key.data - 1;
    int            rc;

    if (json_key_is(key, slice_str("any")) || json_key_is(key, slice_str("not")))
        return parse_group(p, raw, to, json_key_is(key, slice_str("any")));
    c = add(p, to, OP_PATH, raw);
    if (c == NULL)
        return p->err == NULL ? E_NOMEM : p->err->code;
    TRY(json_string_decode(slice_of(at, key.len + 2), &name, p->err));
    if (transformi_path_init(&c->path, buf_slice(&name), true, &why) != 0) {
        rc = transformi_fail_as(p->spec, at, &why, p->err);
        goto out;
    }
    rc = parse_value(p, raw, c);
out:
    buf_fini(&name);
    return rc;
}

static int
parse_event(struct parser *p, struct slice raw, struct clause *c)
{
    struct json_iter it;
    struct slice     key = {0}, value;
    int              rc;

    if (json_type(raw) != JSON_OBJECT)
        return transformi_fail(p->spec, raw.data, E_SCHEMA, p->err,
                               "a condition must be a mapping, as in {type: X}, not %s",
                               json_type_name(json_type(raw)));
    must(json_object_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, p->err)) == 0)
        TRY(parse_member(p, key, value, c));
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

int
transformi_when_new(const struct transformi_spec *spec, struct slice raw,
                    struct transformi_when **out, struct err *err)
{
    struct err              own = {0};
    struct parser           p = {.spec = spec, .err = err == NULL ? &own : err};
    struct transformi_when *w = calloc(1, sizeof *w);
    int                     rc;

    *out = NULL;
    if (w == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for a condition");
    w->all.op = OP_ALL;
    TRY(parse_event(&p, raw, &w->all));
    *out = w;
    w = NULL;
out:
    transformi_when_free(w);
    return rc;
}

void
transformi_when_free(struct transformi_when *w)
{
    if (w == NULL)
        return;
    clause_fini(&w->all);
    free(w);
}

/* holding */

struct holder {
    const struct transform_event *e;
    struct buf                   *scratch;
    struct err                   *err;
};

static void
take(const struct transform_event *e, const struct transformi_path *path, struct value *v)
{
    struct slice doc = path->root == TRANSFORMI_META ? e->meta : e->data;

    memset(v, 0, sizeof *v);
    switch (path->root) {
    case TRANSFORMI_TYPE:
        v->text = e->type;
        break;
    case TRANSFORMI_STREAM:
        v->text = e->stream;
        break;
    case TRANSFORMI_CATEGORY:
        v->text = transformi_category(e->stream);
        break;
    default:
        v->there = (path->root == TRANSFORMI_META || e->json) && transformi_get(doc, path, &v->raw);
        return;
    }
    v->is_text = v->there = true;
}

static bool
is_string(const struct value *v)
{
    return v->is_text || json_type(v->raw) == JSON_STRING;
}

/* What a string spells; `scratch` may hold it. */
static int
text_of(struct holder *h, const struct value *v, struct slice *out)
{
    *out = v->text;
    return v->is_text ? 0 : json_string_view(v->raw, h->scratch, out, h->err);
}

/* Its canonical form in `scratch`, cleared first. */
static int
canon_of(struct holder *h, const struct value *v)
{
    buf_clear(h->scratch);
    if (!v->is_text)
        return json_canonical(v->raw, h->scratch, h->err);
    json_put_string(h->scratch, v->text);
    if (h->scratch->failed)
        RETURN_ERR(h->err, E_NOMEM, ERR_RETRY, "no memory for a condition");
    return 0;
}

/* A canonical number as 0.DIGITS * 10^point. */
struct number {
    const char *at;
    int64_t     point;
    bool        minus, zero;
};

static struct number
number_of(const char *s)
{
    struct number n = {.minus = *s == '-'};
    const char   *dot, *e;

    s += n.minus;
    n.zero = strcmp(s, "0") == 0;
    dot = strchr(s, '.');
    e = strchr(s, 'e');
    if (dot == NULL)
        n.point = (int64_t)(e == NULL ? strlen(s) : (size_t)(e - s));
    else
        n.point = dot - s;
    if (e != NULL)
        n.point += strtoll(e + 1, NULL, 10);
    if (s[0] == '0' && s[1] == '.') {
        for (n.point = 0, s += 2; *s == '0'; s++)
            n.point--;
    }
    n.at = s;
    return n;
}

/* The next digit, '0' where there are no more. */
static char
digit(const char **s)
{
    if (**s == '.')
        (*s)++;
    return **s >= '0' && **s <= '9' ? *(*s)++ : '0';
}

static bool
more_digits(const char *s)
{
    return (*s >= '0' && *s <= '9') || *s == '.';
}

static int
compare_numbers(const char *a, const char *b)
{
    struct number x = number_of(a), y = number_of(b);
    int           sign, cmp = 0;

    if (x.zero || y.zero)
        return (x.zero ? 0 : x.minus ? -1 : 1) - (y.zero ? 0 : y.minus ? -1 : 1);
    if (x.minus != y.minus)
        return x.minus ? -1 : 1;
    sign = x.minus ? -1 : 1;
    if (x.point != y.point)
        return x.point < y.point ? -sign : sign;
    while (cmp == 0 && (more_digits(x.at) || more_digits(y.at)))
        cmp = digit(&x.at) - digit(&y.at);
    return cmp < 0 ? -sign : cmp > 0 ? sign : 0;
}

static int
holds_in(struct holder *h, const struct clause *c, const struct value *v, bool *out)
{
    int rc;

    *out = false;
    if (!v->there || c->value_count == 0)
        return 0;
    rc = canon_of(h, v);
    for (size_t i = 0; rc == 0 && i < c->value_count && !*out; i++)
        *out = slice_is(buf_slice(h->scratch), c->values[i]);
    return rc;
}

static int
holds_number(struct holder *h, const struct clause *c, const struct value *v, bool *out)
{
    int cmp, rc;

    *out = false;
    if (!v->there || v->is_text || json_type(v->raw) != JSON_NUMBER)
        return 0;
    TRY(canon_of(h, v));
    buf_add_byte(h->scratch, '\0');
    if (h->scratch->failed)
        FAIL(h->err, E_NOMEM, ERR_RETRY, "no memory for a condition");
    cmp = compare_numbers((const char *)h->scratch->data, c->values[0]);
    *out = c->op == OP_LT   ? cmp < 0
           : c->op == OP_LE ? cmp <= 0
           : c->op == OP_GT ? cmp > 0
                            : cmp >= 0;
out:
    return rc;
}

static int
holds_prefix(struct holder *h, const struct clause *c, const struct value *v, bool *out)
{
    size_t len = strlen(c->values[0]) - 1; /* without the closing quote */
    int    rc;

    *out = false;
    if (!v->there || !is_string(v))
        return 0;
    rc = canon_of(h, v);
    if (rc == 0)
        *out = slice_starts(buf_slice(h->scratch), slice_of(c->values[0], len));
    return rc;
}

static int
holds_regex(struct holder *h, const struct clause *c, const struct value *v, bool *out)
{
    struct slice text;
    regmatch_t   span;
    int          rc, status;

    *out = false;
    if (!v->there || !is_string(v))
        return 0;
    TRY(text_of(h, v, &text));
    if (text.len > MATCH_MAX)
        FAIL(h->err, E_LIMIT, ERR_DATA, "matches: a text of more than %d bytes", MATCH_MAX);
    span.rm_so = 0;
    span.rm_eo = (regoff_t)text.len;
    status = regexec(&c->regex, text.len == 0 ? "" : text.data, 1, &span, REG_STARTEND);
    if (status != 0 && status != REG_NOMATCH)
        FAIL(h->err, E_NOMEM, ERR_RETRY, "matches: no memory");
    *out = status == 0;
out:
    return rc;
}

static int holds(struct holder *h, const struct clause *c, const struct value *v, bool *out);

static int
holds_list(struct holder *h, const struct clause *c, const struct value *v, bool *out)
{
    int rc = 0;

    *out = c->op != OP_ANY;
    for (size_t i = 0; rc == 0 && i < c->count && *out != (c->op == OP_ANY); i++)
        rc = holds(h, &c->list[i], v, out); /* as deep as it was parsed */
    return rc;
}

static int
holds(struct holder *h, const struct clause *c, const struct value *v, bool *out)
{
    struct value here;
    int          rc;

    switch (c->op) {
    case OP_IN:
        return holds_in(h, c, v, out);
    case OP_EXISTS:
        *out = v->there == c->flag;
        return 0;
    case OP_MATCHES:
        return holds_regex(h, c, v, out);
    case OP_PREFIX:
        return holds_prefix(h, c, v, out);
    case OP_PATH:
        take(h->e, &c->path, &here);
        return holds_list(h, c, &here, out);
    case OP_ANY:
    case OP_ALL:
        return holds_list(h, c, v, out);
    case OP_NOT:
        rc = holds(h, &c->list[0], v, out);
        *out = !*out;
        return rc;
    default:
        return holds_number(h, c, v, out);
    }
}

int
transformi_when_holds(const struct transformi_when *w, const struct transform_event *e,
                      struct buf *scratch, bool *out, struct err *err)
{
    static const struct value none;
    struct holder             h = {e, scratch, err};
    int                       rc;

    *out = true;
    if (w == NULL)
        return 0;
    rc = holds(&h, &w->all, &none, out);
    buf_clear(scratch);
    return rc;
}
