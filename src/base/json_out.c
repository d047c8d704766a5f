/* Writing JSON into a buffer. Brackets that do not match are a bug of the caller. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/json_int.h"
#include "base/json_plain.h"
#include "base/must.h"
#include "base/utf8.h"

static void
put_escape(struct buf *b, uint8_t c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
    const char       *known = c == '\0' ? NULL : strchr(from, c);
    char              text[6] = {'\\', 'u', '0', '0', hex[c >> 4 & 0xf], hex[c & 0xf]};

    if (known == NULL) {
        buf_add(b, text, sizeof text);
        return;
    }
    text[1] = to[known - from];
    buf_add(b, text, 2);
}

void
json_put_string(struct buf *b, struct slice text)
{
    const uint8_t *p = text.len == 0 ? (const uint8_t *)"" : text.data, *end = p + text.len;

    buf_add_byte(b, '"');
    while (p < end) {
        const uint8_t *plain = json_plain(p, end);
        size_t         n;

        while (plain < end && *plain >= 0x80 && (n = utf8_char(plain, end)) != 0)
            plain = json_plain(plain + n, end);
        buf_add(b, p, (size_t)(plain - p));
        p = plain;
        if (p == end)
            break;
        if (*p >= 0x80)
            buf_add_str(b, "\xef\xbf\xbd");
        else
            put_escape(b, *p);
        p++;
    }
    buf_add_byte(b, '"');
}

void
json_put_str(struct buf *b, const char *text)
{
    json_put_string(b, slice_str(text));
}

void
json_out_init(struct json_out *o, struct buf *buf)
{
    memset(o, 0, sizeof *o);
    o->buf = buf;
}

static bool
inside_object(const struct json_out *o)
{
    return o->depth > 0 && (o->kinds[(o->depth - 1) / 64] >> ((o->depth - 1) % 64) & 1) != 0;
}

/* Before each value: it stands alone, after a key, or after a comma in an array. */
static void
begin_value(struct json_out *o)
{
    must(o->key == inside_object(o));
    if (o->comma && !o->key) {
        must(o->depth > 0);
        buf_add_byte(o->buf, ',');
    }
    o->key = false;
    o->comma = true;
}

static void
open_bracket(struct json_out *o, bool object)
{
    uint64_t bit = UINT64_C(1) << (o->depth % 64);

    begin_value(o);
    must(o->depth < JSON_DEPTH_MAX);
    o->kinds[o->depth / 64] &= ~bit;
    if (object)
        o->kinds[o->depth / 64] |= bit;
    o->depth++;
    o->comma = false;
    buf_add_byte(o->buf, object ? '{' : '[');
}

static void
close_bracket(struct json_out *o, bool object)
{
    must(o->depth > 0);
    must(inside_object(o) == object);
    must(!o->key);
    o->depth--;
    o->comma = true;
    buf_add_byte(o->buf, object ? '}' : ']');
}

void
json_out_object(struct json_out *o)
{
    open_bracket(o, true);
}

void
json_out_object_end(struct json_out *o)
{
    close_bracket(o, true);
}

void
json_out_array(struct json_out *o)
{
    open_bracket(o, false);
}

void
json_out_array_end(struct json_out *o)
{
    close_bracket(o, false);
}

void
json_out_key_slice(struct json_out *o, struct slice key)
{
    must(inside_object(o));
    must(!o->key);
    if (o->comma)
        buf_add_byte(o->buf, ',');
    json_put_string(o->buf, key);
    buf_add_byte(o->buf, ':');
    o->key = true;
}

void
json_out_key(struct json_out *o, const char *key)
{
    json_out_key_slice(o, slice_str(key));
}

void
json_out_string(struct json_out *o, struct slice text)
{
    begin_value(o);
    json_put_string(o->buf, text);
}

void
json_out_str(struct json_out *o, const char *text)
{
    if (text == NULL)
        json_out_null(o);
    else
        json_out_string(o, slice_str(text));
}

void
json_out_u64(struct json_out *o, uint64_t v)
{
    begin_value(o);
    buf_add_u64(o->buf, v);
}

void
json_out_i64(struct json_out *o, int64_t v)
{
    begin_value(o);
    buf_add_i64(o->buf, v);
}

void
json_out_double(struct json_out *o, double v)
{
    char text[40];
    int  digits = 15;

    if (!isfinite(v)) {
        json_out_null(o);
        return;
    }
    begin_value(o);
    do {
        (void)snprintf(text, sizeof text, "%.*g", digits, v);
    } while (digits++ < 17 && strtod(text, NULL) != v);
    buf_add_str(o->buf, text);
}

void
json_out_bool(struct json_out *o, bool v)
{
    begin_value(o);
    buf_add_str(o->buf, v ? "true" : "false");
}

void
json_out_null(struct json_out *o)
{
    begin_value(o);
    buf_add_str(o->buf, "null");
}

void
json_out_raw(struct json_out *o, struct slice raw)
{
    begin_value(o);
    buf_add_slice(o->buf, raw);
}
