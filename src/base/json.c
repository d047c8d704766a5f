/*
 * Scanning and checking. The walk over a value keeps a bit for each open
 * bracket instead of recursing, so depth costs no stack.
 */
#include "base/json.h"

#include "base/json_int.h"
#include "base/json_plain.h"
#include "base/utf8.h"

static bool
is_digit(const uint8_t *p, const uint8_t *end)
{
    return p < end && *p >= '0' && *p <= '9';
}

static int
hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Four hex digits at p, or -1. */
static int32_t
hex4(const uint8_t *p, const uint8_t *end)
{
    int32_t v = 0;

    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int d = hex_digit(p[i]);

        if (d < 0)
            return -1;
        v = v << 4 | d;
    }
    return v;
}

/* `p` is on the backslash; returns after the escape, NULL after a failure. */
static const uint8_t *
check_escape(struct basei_json_scan *s, const uint8_t *p)
{
    int32_t code, low;

    if (s->end - p < 2)
        goto ended;
    if (p[1] != 'u') {
        if (p[1] == '\0' || strchr("\"\\/bfnrt", p[1]) == NULL)
            goto unknown;
        return p + 2;
    }
    code = hex4(p + 2, s->end);
    if (code < 0)
        goto digits;
    if (code < 0xd800 || code > 0xdfff)
        return p + 6;
    low =
        code < 0xdc00 && s->end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8, s->end) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        goto half;
    return p + 12;
ended:
    (void)basei_json_fail(s, s->end, JSON_WHY_END);
    return NULL;
unknown:
    (void)basei_json_fail(s, p, "unknown escape");
    return NULL;
digits:
    (void)basei_json_fail(s, p, "\\u without four hex digits");
    return NULL;
half:
    (void)basei_json_fail(s, p, "half of a surrogate pair");
    return NULL;
}

bool
basei_json_string(struct basei_json_scan *s)
{
    const uint8_t *p = s->at + 1, *end = s->end;

    for (;;) {
        size_t n;

        p = json_plain(p, end);
        if (p == end)
            return basei_json_fail(s, p, JSON_WHY_END);
        if (*p == '"') {
            s->at = p + 1;
            return true;
        }
        if (*p == '\\') {
            p = check_escape(s, p);
            if (p == NULL)
                return false;
            continue;
        }
        if (*p < 0x20)
            return basei_json_fail(s, p, "control character in a string");
        do {
            n = utf8_char(p, end);
            if (n == 0)
                return basei_json_fail(s, p, "not UTF-8");
            p += n;
        } while (p < end && *p >= 0x80);
    }
}

static bool
check_number(struct basei_json_scan *s)
{
    const uint8_t *p = s->at, *end = s->end;

    if (*p == '-')
        p++;
    if (!is_digit(p, end))
        return basei_json_fail(s, p, p == end ? JSON_WHY_END : "a digit is missing after '-'");
    if (*p++ == '0') {
        if (is_digit(p, end))
            return basei_json_fail(s, p, "a number with a leading zero");
    }
    while (is_digit(p, end))
        p++;
    if (p < end && *p == '.') {
        p++;
        if (!is_digit(p, end))
            return basei_json_fail(s, p, p == end ? JSON_WHY_END : "a digit is missing after '.'");
        while (is_digit(p, end))
            p++;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        if (!is_digit(p, end))
            return basei_json_fail(s, p, p == end ? JSON_WHY_END : "an exponent without digits");
        while (is_digit(p, end))
            p++;
    }
    s->at = p;
    return true;
}

static bool
check_word(struct basei_json_scan *s, const char *word, size_t len)
{
    if ((size_t)(s->end - s->at) < len || memcmp(s->at, word, len) != 0)
        return basei_json_fail(s, s->at, "neither true, false nor null");
    s->at += len;
    return true;
}

bool
basei_json_scalar(struct basei_json_scan *s)
{
    if (s->at == s->end)
        return basei_json_fail(s, s->at, JSON_WHY_END);
    switch (*s->at) {
    case '"':
        return basei_json_string(s);
    case 't':
        return check_word(s, "true", 4);
    case 'f':
        return check_word(s, "false", 5);
    case 'n':
        return check_word(s, "null", 4);
    default:
        if (*s->at == '-' || is_digit(s->at, s->end))
            return check_number(s);
        return basei_json_fail(s, s->at, "a value was expected");
    }
}

bool
basei_json_key(struct basei_json_scan *s, struct slice *raw)
{
    const uint8_t *start;

    basei_json_space(s);
    if (s->at == s->end)
        return basei_json_fail(s, s->at, JSON_WHY_END);
    if (*s->at != '"')
        return basei_json_fail(s, s->at, "a key in quotes was expected");
    start = s->at + 1;
    if (!basei_json_string(s))
        return false;
    *raw = slice_of(start, (size_t)(s->at - start) - 1);
    basei_json_space(s);
    if (s->at == s->end)
        return basei_json_fail(s, s->at, JSON_WHY_END);
    if (*s->at != ':')
        return basei_json_fail(s, s->at, "':' was expected after a key");
    s->at++;
    return true;
}

struct nest {
    uint64_t kinds[JSON_DEPTH_MAX / 64];
    unsigned depth;
};

static bool
nest_push(struct nest *n, bool object)
{
    uint64_t bit = UINT64_C(1) << (n->depth % 64);

    if (n->depth == JSON_DEPTH_MAX)
        return false;
    if (object)
        n->kinds[n->depth / 64] |= bit;
    else
        n->kinds[n->depth / 64] &= ~bit;
    n->depth++;
    return true;
}

static bool
nest_top(const struct nest *n)
{
    return (n->kinds[(n->depth - 1) / 64] >> ((n->depth - 1) % 64) & 1) != 0;
}

/* Opens brackets until a scalar or an empty pair of brackets is passed. */
static bool
walk_down(struct basei_json_scan *s, struct nest *n)
{
    struct slice key;

    for (;;) {
        bool object;

        basei_json_space(s);
        if (s->at == s->end || (*s->at != '{' && *s->at != '['))
            return basei_json_scalar(s);
        object = *s->at == '{';
        if (!nest_push(n, object)) {
            s->limit = true;
            return basei_json_fail(s, s->at, "arrays and objects are nested too deeply");
        }
        s->at++;
        basei_json_space(s);
        if (s->at < s->end && *s->at == (object ? '}' : ']')) {
            s->at++;
            n->depth--;
            return true;
        }
        if (object && !basei_json_key(s, &key))
            return false;
    }
}

/* After a value: closes brackets up to the next comma, and passes a key after it. */
static bool
walk_up(struct basei_json_scan *s, struct nest *n)
{
    struct slice key;

    while (n->depth > 0) {
        bool object = nest_top(n);

        basei_json_space(s);
        if (s->at == s->end)
            return basei_json_fail(s, s->at, JSON_WHY_END);
        if (*s->at == ',') {
            s->at++;
            return object ? basei_json_key(s, &key) : true;
        }
        if (*s->at != (object ? '}' : ']'))
            return basei_json_fail(s, s->at,
                                   object ? "',' or '}' was expected" : "',' or ']' was expected");
        s->at++;
        n->depth--;
    }
    return true;
}

bool
basei_json_value(struct basei_json_scan *s, struct slice *raw)
{
    struct nest    n = {{0}, 0};
    const uint8_t *start;

    basei_json_space(s);
    start = s->at;
    do {
        if (!walk_down(s, &n) || !walk_up(s, &n))
            return false;
    } while (n.depth > 0);
    *raw = slice_of(start, (size_t)(s->at - start));
    return true;
}

int
basei_json_error(const struct basei_json_scan *s, struct err *err)
{
    int code = s->limit ? E_LIMIT : E_SYNTAX;

    return err_set(err, __FILE__, __LINE__, code, ERR_DATA, "JSON, byte %zu: %s",
                   (size_t)(s->at - s->start), s->why);
}

int
json_value(struct slice text, struct slice *raw, struct err *err)
{
    const uint8_t         *p = text.len == 0 ? (const uint8_t *)"" : text.data;
    struct basei_json_scan s = {p, p, p + text.len, NULL, false};

    if (!basei_json_value(&s, raw))
        return basei_json_error(&s, err);
    basei_json_space(&s);
    if (s.at != s.end) {
        (void)basei_json_fail(&s, s.at, "more text after the value");
        return basei_json_error(&s, err);
    }
    return 0;
}

int
json_check(struct slice text, struct err *err)
{
    struct slice raw;

    return json_value(text, &raw, err);
}

const uint8_t *
basei_json_unescape(const uint8_t *p, uint32_t *code)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char       *known;
    uint32_t          high;

    if (p[1] != 'u') {
        known = strchr(from, p[1]);
        *code = known == NULL ? p[1] : (uint8_t)to[known - from];
        return p + 2;
    }
    high = (uint32_t)hex4(p + 2, p + 6);
    if (high < 0xd800 || high > 0xdfff) {
        *code = high;
        return p + 6;
    }
    *code = 0x10000 + ((high - 0xd800) << 10) + ((uint32_t)hex4(p + 8, p + 12) - 0xdc00);
    return p + 12;
}
