/*
 * The canonical form, in one pass over the tokens: each object's members are
 * written as they come, and put in order when its bracket closes.
 */
#include <stdlib.h>

#include "base/json.h"
#include "base/json_int.h"
#include "base/must.h"

/*
 * The exponent of the canonical form has at most 17 digits. One more is read:
 * no text is long enough to bring a larger one back under the limit, so equal
 * numbers are refused or taken together, and sums cannot overflow.
 */
#define EXPONENT_DIGITS_MAX 17
#define EXPONENT_END INT64_C(100000000000000000)

/* Decimals with this many places on either side of the point are written in full. */
#define PLAIN_PLACES_MAX 40

struct member {
    struct slice key; /* raw, in the input */
    size_t       at;  /* where the output of this member starts: its key's quote */
    size_t       len;
};

struct canon {
    struct buf *out;
    struct buf  members; /* struct member, of all objects that are open */
    struct buf  scratch;
    size_t      first[JSON_DEPTH_MAX]; /* members' length when this level was opened */
    bool        any[JSON_DEPTH_MAX];
    unsigned    depth;
    bool        after_key;
};

struct decimal {
    const uint8_t *whole, *fraction; /* digits */
    size_t         whole_len, fraction_len;
    int64_t        exponent;
    bool           minus;
};

static bool
read_exponent(const uint8_t *p, const uint8_t *end, int64_t *out)
{
    int64_t v = 0;
    bool    minus = *p == '-';

    if (*p == '-' || *p == '+')
        p++;
    while (p < end && *p == '0')
        p++;
    if (end - p > EXPONENT_DIGITS_MAX + 1)
        return false;
    for (; p < end; p++)
        v = v * 10 + (*p - '0');
    *out = minus ? -v : v;
    return true;
}

static size_t
digits_len(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *start = p;

    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return (size_t)(p - start);
}

/* A checked number into its parts; false where the exponent is over the limit. */
static bool
split_number(struct slice raw, struct decimal *d)
{
    const uint8_t *p = raw.data, *end = p + raw.len;

    memset(d, 0, sizeof *d);
    d->minus = *p == '-';
    if (d->minus)
        p++;
    d->whole = p;
    d->whole_len = digits_len(p, end);
    p += d->whole_len;
    d->fraction = p;
    if (p < end && *p == '.') {
        d->fraction = p + 1;
        d->fraction_len = digits_len(p + 1, end);
        p = d->fraction + d->fraction_len;
    }
    return p == end || read_exponent(p + 1, end, &d->exponent);
}

/* All digits of both parts without zeros at either end; returns the power of the first one. */
static int64_t
significant(const struct decimal *d, struct buf *digits)
{
    size_t zeros = 0;

    buf_clear(digits);
    buf_add(digits, d->whole, d->whole_len);
    buf_add(digits, d->fraction, d->fraction_len);
    while (digits->len > 0 && digits->data[digits->len - 1] == '0')
        digits->len--;
    while (zeros < digits->len && digits->data[zeros] == '0')
        zeros++;
    buf_consume(digits, zeros);
    return (int64_t)d->whole_len - (int64_t)zeros + d->exponent;
}

static void
put_zeros(struct buf *b, int64_t n)
{
    while (n-- > 0)
        buf_add_byte(b, '0');
}

/* 0.DIGITS times ten to the power of `point`: a number has one form only. */
static void
put_decimal(struct buf *out, struct slice digits, int64_t point)
{
    const uint8_t *p = digits.data;
    int64_t        len = (int64_t)digits.len;

    if (point > 0 && point <= PLAIN_PLACES_MAX) {
        buf_add(out, p, (size_t)(len < point ? len : point));
        put_zeros(out, point - len);
        if (len > point) {
            buf_add_byte(out, '.');
            buf_add(out, p + point, (size_t)(len - point));
        }
    } else if (point <= 0 && point > -PLAIN_PLACES_MAX) {
        buf_add_str(out, "0.");
        put_zeros(out, -point);
        buf_add(out, p, digits.len);
    } else {
        buf_add_byte(out, p[0]);
        if (len > 1) {
            buf_add_byte(out, '.');
            buf_add(out, p + 1, digits.len - 1);
        }
        buf_add_byte(out, 'e');
        buf_add_i64(out, point - 1);
    }
}

static int
put_number(struct canon *c, struct slice raw, struct err *err)
{
    struct decimal d;
    int64_t        point;

    bool fits = split_number(raw, &d);

    point = significant(&d, &c->scratch);
    c->out->failed |= c->scratch.failed;
    if (c->scratch.len == 0) {
        buf_add_byte(c->out, '0');
        return 0;
    }
    if (!fits || point > EXPONENT_END || point <= 1 - EXPONENT_END)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "JSON: an exponent of more than %d digits",
                   EXPONENT_DIGITS_MAX);
    if (d.minus)
        buf_add_byte(c->out, '-');
    put_decimal(c->out, buf_slice(&c->scratch), point);
    return 0;
}

/* `inner` is without quotes: only what has to be escaped is. */
static void
put_text(struct canon *c, struct slice inner)
{
    if (inner.len == 0 || memchr(inner.data, '\\', inner.len) == NULL) {
        buf_add_byte(c->out, '"');
        buf_add_slice(c->out, inner);
        buf_add_byte(c->out, '"');
        return;
    }
    buf_clear(&c->scratch);
    basei_json_decode(inner, &c->scratch);
    c->out->failed |= c->scratch.failed;
    json_put_string(c->out, buf_slice(&c->scratch));
}

static int
cmp_member(const void *a, const void *b)
{
    return basei_json_key_cmp(((const struct member *)a)->key, ((const struct member *)b)->key);
}

static void
end_member(struct canon *c, size_t comma)
{
    struct member *m = (struct member *)(void *)(c->members.data + c->members.len) - 1;

    m->len = c->out->len - comma - m->at;
}

/* Puts the members of the object that closes now in order. */
static int
sort_members(struct canon *c, struct err *err)
{
    size_t         from = c->first[c->depth - 1], count, start, i;
    struct member *m;
    bool           sorted = true;

    if (c->members.failed || c->out->failed || c->members.len == from)
        return 0;
    m = (struct member *)(void *)(c->members.data + from);
    count = (c->members.len - from) / sizeof *m;
    start = m[0].at;
    for (i = 1; i < count && sorted; i++)
        sorted = cmp_member(&m[i - 1], &m[i]) < 0;
    c->members.len = from;
    if (sorted)
        return 0;
    qsort(m, count, sizeof *m, cmp_member);
    for (i = 1; i < count; i++) {
        if (cmp_member(&m[i - 1], &m[i]) == 0)
            RETURN_ERR(err, E_SYNTAX, ERR_DATA, "JSON: a key comes twice in one object");
    }
    buf_clear(&c->scratch);
    for (i = 0; i < count; i++) {
        if (i > 0)
            buf_add_byte(&c->scratch, ',');
        buf_add(&c->scratch, c->out->data + m[i].at, m[i].len);
    }
    c->out->failed |= c->scratch.failed;
    if (c->out->failed)
        return 0;
    must(start + c->scratch.len == c->out->len);
    memcpy(c->out->data + start, c->scratch.data, c->scratch.len);
    return 0;
}

static void
begin_item(struct canon *c)
{
    if (c->depth > 0 && !c->after_key) {
        if (c->any[c->depth - 1])
            buf_add_byte(c->out, ',');
        c->any[c->depth - 1] = true;
    }
    c->after_key = false;
}

static void
put_key(struct canon *c, struct slice raw)
{
    bool          first = !c->any[c->depth - 1];
    struct member m = {raw, 0, 0};

    begin_item(c);
    if (!first && !c->members.failed)
        end_member(c, 1);
    m.at = c->out->len;
    buf_add(&c->members, &m, sizeof m);
    put_text(c, raw);
    buf_add_byte(c->out, ':');
    c->after_key = true;
}

static int
put_close(struct canon *c, bool object, struct err *err)
{
    int rc = 0;

    if (object) {
        if (c->any[c->depth - 1] && !c->members.failed)
            end_member(c, 0);
        rc = sort_members(c, err);
    }
    c->depth--;
    buf_add_byte(c->out, object ? '}' : ']');
    return rc;
}

static int
put_token(struct canon *c, enum json_type token, struct slice raw, struct err *err)
{
    if (token == JSON_KEY) {
        put_key(c, raw);
        return 0;
    }
    if (token == JSON_OBJECT_END || token == JSON_ARRAY_END)
        return put_close(c, token == JSON_OBJECT_END, err);
    begin_item(c);
    if (token == JSON_OBJECT || token == JSON_ARRAY) {
        c->first[c->depth] = c->members.len;
        c->any[c->depth] = false;
        c->depth++;
        buf_add_slice(c->out, raw);
    } else if (token == JSON_STRING) {
        put_text(c, slice_of((const uint8_t *)raw.data + 1, raw.len - 2));
    } else if (token == JSON_NUMBER) {
        return put_number(c, raw, err);
    } else {
        buf_add_slice(c->out, raw);
    }
    return 0;
}

int
json_canonical(struct slice text, struct buf *out, struct err *err)
{
    struct json_reader r;
    struct canon       c = {.out = out};
    enum json_type     token;
    struct slice       raw;
    int                rc;

    json_reader_init(&r, text);
    while ((rc = json_next(&r, &token, &raw, err)) == 0)
        TRY(put_token(&c, token, raw, err));
    if (rc != E_END)
        goto out;
    rc = 0;
    if (out->failed || c.members.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for the canonical form");
out:
    buf_fini(&c.members);
    buf_fini(&c.scratch);
    return rc;
}
