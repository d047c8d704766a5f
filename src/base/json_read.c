/* Picking values out of a text without building trees. */
#include "base/json.h"
#include "base/json_int.h"
#include "base/must.h"
#include "base/utf8.h"

static struct basei_json_scan
scan_from(const uint8_t *start, const uint8_t *at, const uint8_t *end)
{
    return (struct basei_json_scan){start, at, end, NULL, false};
}

static const uint8_t *
first_byte(struct slice text)
{
    return text.len == 0 ? (const uint8_t *)"" : text.data;
}

enum json_type
json_type(struct slice raw)
{
    if (raw.len == 0)
        return JSON_NONE;
    switch (*(const uint8_t *)raw.data) {
    case 'n':
        return JSON_NULL;
    case 'f':
        return JSON_FALSE;
    case 't':
        return JSON_TRUE;
    case '"':
        return JSON_STRING;
    case '[':
        return JSON_ARRAY;
    case '{':
        return JSON_OBJECT;
    case '-':
        return JSON_NUMBER;
    default:
        return *(const uint8_t *)raw.data >= '0' && *(const uint8_t *)raw.data <= '9' ? JSON_NUMBER
                                                                                      : JSON_NONE;
    }
}

const char *
json_type_name(enum json_type type)
{
    static const char *const names[] = {
        "nothing",          "null",     "false",     "true",  "a number",
        "a string",         "an array", "an object", "a key", "end of an array",
        "end of an object",
    };

    must((size_t)type < sizeof names / sizeof *names);
    return names[type];
}

/* tokens */

void
json_reader_init(struct json_reader *r, struct slice text)
{
    memset(r, 0, sizeof *r);
    r->start = r->at = first_byte(text);
    r->end = r->start + text.len;
    r->value_due = true;
}

static bool
top_is_object(const struct json_reader *r)
{
    return (r->kinds[(r->depth - 1) / 64] >> ((r->depth - 1) % 64) & 1) != 0;
}

/* The key before a value, or the value; `value_due` says which in an object. */
static bool
read_item(struct json_reader *r, struct basei_json_scan *s, enum json_type *token,
          struct slice *raw)
{
    const uint8_t *start;
    uint64_t       bit;

    if (!r->value_due) {
        *token = JSON_KEY;
        r->value_due = true;
        return basei_json_key(s, raw);
    }
    basei_json_space(s);
    start = s->at;
    *token = json_type(slice_of(start, (size_t)(s->end - start)));
    if (*token != JSON_OBJECT && *token != JSON_ARRAY) {
        if (!basei_json_scalar(s))
            return false;
        *raw = slice_of(start, (size_t)(s->at - start));
        r->value_due = false;
        return true;
    }
    if (r->depth == JSON_DEPTH_MAX) {
        s->limit = true;
        return basei_json_fail(s, s->at, "arrays and objects are nested too deeply");
    }
    bit = UINT64_C(1) << (r->depth % 64);
    r->kinds[r->depth / 64] &= ~bit;
    if (*token == JSON_OBJECT)
        r->kinds[r->depth / 64] |= bit;
    r->depth++;
    s->at++;
    *raw = slice_of(start, 1);
    /* Just opened: what may follow is an item or the end, but no comma. */
    r->value_due = *token == JSON_ARRAY;
    return true;
}

static bool
read_close(struct json_reader *r, struct basei_json_scan *s, enum json_type *token,
           struct slice *raw)
{
    *token = top_is_object(r) ? JSON_OBJECT_END : JSON_ARRAY_END;
    *raw = slice_of(s->at, 1);
    s->at++;
    r->depth--;
    r->value_due = false;
    return true;
}

static bool
read_token(struct json_reader *r, struct basei_json_scan *s, enum json_type *token,
           struct slice *raw)
{
    bool opened, object;

    basei_json_space(s);
    if (r->depth == 0) {
        if (r->value_due)
            return read_item(r, s, token, raw);
        if (s->at != s->end)
            return basei_json_fail(s, s->at, "more text after the value");
        r->ended = true;
        return true;
    }
    object = top_is_object(r);
    opened = s->at > s->start && r->at[-1] == (object ? '{' : '[');
    if (object && r->value_due)
        return read_item(r, s, token, raw);
    if (s->at == s->end)
        return basei_json_fail(s, s->at, JSON_WHY_END);
    if (*s->at == (object ? '}' : ']'))
        return read_close(r, s, token, raw);
    if (!opened) {
        if (*s->at != ',')
            return basei_json_fail(s, s->at,
                                   object ? "',' or '}' was expected" : "',' or ']' was expected");
        s->at++;
    }
    r->value_due = !object;
    return read_item(r, s, token, raw);
}

int
json_next(struct json_reader *r, enum json_type *token, struct slice *raw, struct err *err)
{
    struct basei_json_scan s = scan_from(r->start, r->at, r->end);

    *token = JSON_NONE;
    *raw = slice_of(NULL, 0);
    if (!r->ended && !read_token(r, &s, token, raw))
        return basei_json_error(&s, err);
    r->at = s.at;
    return r->ended ? E_END : 0;
}

/* members and elements */

static int
iter_init(struct json_iter *it, struct slice text, bool object, struct err *err)
{
    struct basei_json_scan s;
    enum json_type         type;

    s = scan_from(first_byte(text), first_byte(text), first_byte(text) + text.len);
    basei_json_space(&s);
    *it = (struct json_iter){s.start, s.at, s.end, object, true};
    type = json_type(slice_of(s.at, (size_t)(s.end - s.at)));
    if (type == JSON_NONE) {
        (void)basei_json_scalar(&s);
        (void)basei_json_error(&s, err);
        return E_SYNTAX;
    }
    if (type != (object ? JSON_OBJECT : JSON_ARRAY))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "JSON: %s, where %s was expected", json_type_name(type),
                   json_type_name(object ? JSON_OBJECT : JSON_ARRAY));
    it->at++;
    return 0;
}

int
json_object_iter(struct json_iter *it, struct slice text, struct err *err)
{
    return iter_init(it, text, true, err);
}

int
json_array_iter(struct json_iter *it, struct slice text, struct err *err)
{
    return iter_init(it, text, false, err);
}

static bool
iter_step(struct json_iter *it, struct basei_json_scan *s, bool *ended, struct slice *key,
          struct slice *value)
{
    basei_json_space(s);
    if (s->at == s->end)
        return basei_json_fail(s, s->at, JSON_WHY_END);
    *ended = *s->at == (it->object ? '}' : ']');
    if (*ended) {
        s->at++;
        basei_json_space(s);
        return s->at == s->end ? true : basei_json_fail(s, s->at, "more text after the value");
    }
    if (!it->first) {
        if (*s->at != ',')
            return basei_json_fail(
                s, s->at, it->object ? "',' or '}' was expected" : "',' or ']' was expected");
        s->at++;
    }
    it->first = false;
    if (it->object && !basei_json_key(s, key))
        return false;
    return basei_json_value(s, value);
}

int
json_iter_next(struct json_iter *it, struct slice *key, struct slice *value, struct err *err)
{
    struct basei_json_scan s = scan_from(it->start, it->at, it->end);
    struct slice           no_key = {NULL, 0};
    bool                   ended = false;

    if (!iter_step(it, &s, &ended, it->object ? key : &no_key, value))
        return basei_json_error(&s, err);
    if (ended)
        return E_END; /* `at` stays on the bracket: asking again answers the same */
    it->at = s.at;
    return 0;
}

/* The bytes that a raw key spells, one by one. */
struct spelling {
    const uint8_t *at, *end;
    uint8_t        utf8[4];
    size_t         used, have;
};

static struct spelling
spell(struct slice raw)
{
    return (struct spelling){first_byte(raw), first_byte(raw) + raw.len, {0}, 0, 0};
}

/* -1 at the end. */
static int
spell_next(struct spelling *s)
{
    uint32_t code;

    if (s->used < s->have)
        return s->utf8[s->used++];
    if (s->at == s->end)
        return -1;
    if (*s->at != '\\')
        return *s->at++;
    s->at = basei_json_unescape(s->at, &code);
    s->have = utf8_encode(code, s->utf8);
    s->used = 1;
    return s->utf8[0];
}

static bool
has_escape(struct slice raw)
{
    return raw.len > 0 && memchr(raw.data, '\\', raw.len) != NULL;
}

int
basei_json_key_cmp(struct slice a, struct slice b)
{
    struct spelling sa = spell(a), sb = spell(b);
    int             ca, cb;

    if (!has_escape(a) && !has_escape(b))
        return slice_cmp(a, b);
    do {
        ca = spell_next(&sa);
        cb = spell_next(&sb);
    } while (ca == cb && ca >= 0);
    return ca - cb;
}

bool
json_key_is(struct slice raw_key, struct slice text)
{
    struct spelling s = spell(raw_key);
    const uint8_t  *t = first_byte(text);
    size_t          i = 0;

    if (!has_escape(raw_key))
        return slice_eq(raw_key, text);
    while (i < text.len && spell_next(&s) == t[i])
        i++;
    return i == text.len && spell_next(&s) < 0;
}

static bool
get_member(struct slice object, struct slice name, struct slice *value)
{
    struct json_iter it;
    struct slice     key = {NULL, 0}, raw;
    bool             found = false;
    int              rc;

    if (json_object_iter(&it, object, NULL) != 0)
        return false;
    while ((rc = json_iter_next(&it, &key, &raw, NULL)) == 0) {
        if (json_key_is(key, name)) {
            *value = raw;
            found = true;
        }
    }
    return found && rc == E_END;
}

bool
json_get(struct slice object, const char *key, struct slice *value)
{
    return get_member(object, slice_str(key), value);
}

static bool
get_element(struct slice array, struct slice name, struct slice *value)
{
    struct json_iter it;
    struct slice     key;
    uint64_t         n;

    if (!json_uint64(name, &n) || json_array_iter(&it, array, NULL) != 0)
        return false;
    do {
        if (json_iter_next(&it, &key, value, NULL) != 0)
            return false;
    } while (n-- > 0);
    return true;
}

bool
json_get_path(struct slice value, struct slice path, struct slice *out)
{
    const char *p = path.len == 0 ? "" : path.data, *end = p + path.len;

    while (p < end) {
        const char  *dot = memchr(p, '.', (size_t)(end - p));
        struct slice name = slice_of(p, (size_t)((dot == NULL ? end : dot) - p));
        bool         found;

        found = json_type(value) == JSON_ARRAY ? get_element(value, name, &value)
                                               : get_member(value, name, &value);
        if (!found)
            return false;
        p = dot == NULL ? end : dot + 1;
    }
    *out = value;
    return true;
}

/* For an error text: at most 64 bytes, and no character cut in two. */
static struct slice
shorten(struct slice key)
{
    struct slice head = slice_of(key.data, key.len > 64 ? 64 : key.len);

    return slice_of(key.data, utf8_valid_len(head));
}

int
json_pick(struct slice object, struct json_field *fields, size_t count, unsigned flags,
          struct err *err)
{
    struct json_iter it;
    struct slice     key = {NULL, 0}, value;
    size_t           i;
    int              rc;

    for (i = 0; i < count; i++)
        fields[i].value = slice_of(NULL, 0);
    TRY(json_object_iter(&it, object, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        for (i = 0; i < count && !json_key_is(key, slice_str(fields[i].name)); i++)
            ;
        if (i == count) {
            if ((flags & JSON_PICK_ONLY) != 0)
                FAIL(err, E_SCHEMA, ERR_DATA, "JSON: unknown key \"%.*s\"",
                     SLICE_FMT(shorten(key)));
            continue;
        }
        if (fields[i].value.data != NULL)
            FAIL(err, E_SYNTAX, ERR_DATA, "JSON: the key \"%s\" comes twice", fields[i].name);
        fields[i].value = value;
    }
    if (rc != E_END)
        goto out;
    rc = 0;
    for (i = 0; i < count; i++) {
        if (fields[i].required && fields[i].value.data == NULL)
            FAIL(err, E_SCHEMA, ERR_DATA, "JSON: the key \"%s\" is missing", fields[i].name);
    }
out:
    return rc;
}

/* decoding */

void
basei_json_decode(struct slice raw_key, struct buf *out)
{
    const uint8_t *p = first_byte(raw_key), *end = p + raw_key.len;

    while (p < end) {
        const uint8_t *slash = memchr(p, '\\', (size_t)(end - p));
        uint8_t        utf8[4];
        uint32_t       code;

        buf_add(out, p, (size_t)((slash == NULL ? end : slash) - p));
        if (slash == NULL)
            break;
        p = basei_json_unescape(slash, &code);
        buf_add(out, utf8, utf8_encode(code, utf8));
    }
}

/* Checks a raw string, and leaves what is between its quotes. */
static int
unquote(struct slice raw, struct slice *inner, struct err *err)
{
    struct slice value;
    int          rc;

    TRY(json_value(raw, &value, err));
    if (json_type(value) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "JSON: %s, where a string was expected",
             json_type_name(json_type(value)));
    *inner = slice_of((const uint8_t *)value.data + 1, value.len - 2);
out:
    return rc;
}

int
json_string_decode(struct slice raw, struct buf *out, struct err *err)
{
    struct slice inner;
    int          rc;

    TRY(unquote(raw, &inner, err));
    basei_json_decode(inner, out);
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for a string of %zu bytes", inner.len);
out:
    return rc;
}

int
json_string_view(struct slice raw, struct buf *scratch, struct slice *out, struct err *err)
{
    struct slice inner;
    int          rc;

    TRY(unquote(raw, &inner, err));
    *out = inner;
    if (memchr(inner.data, '\\', inner.len) == NULL)
        goto out;
    buf_clear(scratch);
    basei_json_decode(inner, scratch);
    if (scratch->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for a string of %zu bytes", inner.len);
    *out = buf_slice(scratch);
out:
    return rc;
}

bool
json_uint64(struct slice raw, uint64_t *out)
{
    const uint8_t *p = raw.data;
    uint64_t       v = 0;

    if (raw.len == 0 || (raw.len > 1 && p[0] == '0'))
        return false;
    for (size_t i = 0; i < raw.len; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(p[i] - '0'), &v))
            return false;
    }
    *out = v;
    return true;
}

bool
json_int64(struct slice raw, int64_t *out)
{
    const uint8_t *p = raw.data;
    uint64_t       v;
    bool           minus = raw.len > 0 && p[0] == '-';

    if (minus)
        raw = slice_of(p + 1, raw.len - 1);
    if (!json_uint64(raw, &v) || v > (uint64_t)INT64_MAX + minus)
        return false;
    *out = (int64_t)(minus ? 0 - v : v);
    return true;
}

bool
json_bool(struct slice raw, bool *out)
{
    *out = slice_is(raw, "true");
    return *out || slice_is(raw, "false");
}

bool
json_is_null(struct slice raw)
{
    return slice_is(raw, "null");
}
