#include "server/http1.h"

#include "base/must.h"

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static const char *const method_names[HTTP1_METHOD_COUNT] = {
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS",
};

static bool
is_token(uint8_t c)
{
    /* RFC 9110 part 5.6.2: letters, digits and these; a bit for each byte below 128. */
    static const uint32_t bits[4] = {0, 0x03ff6cfa, 0xc7fffffe, 0x57ffffff};

    return c < 128 && (bits[c >> 5] >> (c & 31) & 1) != 0;
}

static uint8_t
lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

/* `text` is in lower case. */
static bool
is_text(const uint8_t *p, size_t len, const char *text)
{
    if (strlen(text) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if (lower(p[i]) != (uint8_t)text[i])
            return false;
    return true;
}

static enum http1_result
refuse(struct http1_head *h, int status, const char *why)
{
    h->status = status;
    h->why = why;
    return HTTP1_BAD;
}

void
http1_head_init(struct http1_head *h)
{
    /* Not the table of fields: it is written before it is read. */
    memset(h, 0, offsetof(struct http1_head, fields));
    h->status = 0;
    h->why = NULL;
    h->line = h->scanned = h->fields_at = 0;
    h->begun = h->has_host = h->close = h->keep = false;
}

const char *
http1_method_name(enum http1_method method)
{
    must(method < HTTP1_METHOD_COUNT);
    return method_names[method];
}

bool
http1_field(const struct http1_head *h, const uint8_t *data, const char *name, struct slice *value)
{
    for (unsigned i = 0; i < h->count; i++) {
        const struct http1_field *f = &h->fields[i];

        if (!is_text(data + f->name.at, f->name.len, name))
            continue;
        *value = slice_of(data + f->value.at, f->value.len);
        return true;
    }
    return false;
}

/* The request line. */

static enum http1_result
read_method(struct http1_head *h, const uint8_t *p, size_t len)
{
    if (len == 0)
        return refuse(h, 400, "the request line has no method");
    for (size_t i = 0; i < len; i++)
        if (!is_token(p[i]))
            return refuse(h, 400, "this is no HTTP request");
    for (int m = 0; m < HTTP1_METHOD_COUNT; m++) {
        if (strlen(method_names[m]) != len || memcmp(method_names[m], p, len) != 0)
            continue;
        h->method = (enum http1_method)m;
        return HTTP1_DONE;
    }
    return refuse(h, 501, "unknown method");
}

static enum http1_result
read_version(struct http1_head *h, const uint8_t *p, size_t len)
{
    if (len != 8 || memcmp(p, "HTTP/", 5) != 0 || p[6] != '.' || p[5] < '0' || p[5] > '9' ||
        p[7] < '0' || p[7] > '9')
        return refuse(h, 400, "the request line does not end in an HTTP version");
    if (p[5] != '1')
        return refuse(h, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    h->minor0 = p[7] == '0';
    return HTTP1_DONE;
}

/* From `line` to `end`, the line's CR. */
static enum http1_result
read_request_line(struct http1_head *h, const uint8_t *data, uint32_t end)
{
    const uint8_t    *p = data + h->line, *stop = data + end, *space, *target;
    enum http1_result result;

    space = memchr(p, ' ', (size_t)(stop - p));
    result = read_method(h, p, (size_t)((space == NULL ? stop : space) - p));
    if (result != HTTP1_DONE)
        return result;
    if (space == NULL)
        return refuse(h, 400, "the request line has no target");
    target = space + 1;
    for (p = target; p<stop && * p> ' ' && *p < 0x7f; p++)
        ;
    if (p == target || p == stop || *p != ' ')
        return refuse(h, 400, "the request's target is empty or has bytes that need %-encoding");
    if (p - target > HTTP1_TARGET_MAX)
        return refuse(h, 414, "the request's target is longer than 8 KiB");
    h->target.at = (uint16_t)(target - data);
    h->target.len = (uint16_t)(p - target);
    return read_version(h, p + 1, (size_t)(stop - p - 1));
}

/* Header fields. */

static enum http1_result
read_length(struct http1_head *h, const uint8_t *p, size_t len)
{
    uint64_t v = 0;

    if (h->has_length)
        return refuse(h, 400, "more than one Content-Length");
    if (len == 0 || len > 18)
        return refuse(h, 400, "Content-Length is no number, or far too large");
    for (size_t i = 0; i < len; i++) {
        if (p[i] < '0' || p[i] > '9')
            return refuse(h, 400, "Content-Length is no number");
        v = v * 10 + (uint64_t)(p[i] - '0');
    }
    h->has_length = true;
    h->length = v;
    return HTTP1_DONE;
}

static enum http1_result
read_coding(struct http1_head *h, const uint8_t *p, size_t len)
{
    if (h->chunked)
        return refuse(h, 400, "more than one Transfer-Encoding");
    if (!is_text(p, len, "chunked"))
        return refuse(h, 501, "the only Transfer-Encoding taken is chunked");
    h->chunked = true;
    return HTTP1_DONE;
}

static enum http1_result
read_connection(struct http1_head *h, const uint8_t *p, size_t len)
{
    const uint8_t *end = p + len;

    while (p < end) {
        const uint8_t *comma = memchr(p, ',', (size_t)(end - p));
        const uint8_t *stop = comma == NULL ? end : comma;

        while (p < stop && (*p == ' ' || *p == '\t'))
            p++;
        while (stop > p && (stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        if (is_text(p, (size_t)(stop - p), "close"))
            h->close = true;
        else if (is_text(p, (size_t)(stop - p), "keep-alive"))
            h->keep = true;
        p = comma == NULL ? end : comma + 1;
    }
    return HTTP1_DONE;
}

static enum http1_result
read_host(struct http1_head *h, const uint8_t *p, size_t len)
{
    if (h->has_host)
        return refuse(h, 400, "more than one Host");
    for (size_t i = 0; i < len; i++)
        if (p[i] <= ' ' || p[i] >= 0x7f || strchr(",/?#@\\", p[i]) != NULL)
            return refuse(h, 400, "Host is malformed");
    h->has_host = true;
    return HTTP1_DONE;
}

/* The fields that say where the request ends and what happens after it. */
static enum http1_result
read_known(struct http1_head *h, const uint8_t *name, size_t name_len, const uint8_t *p, size_t len)
{
    switch (name_len) {
    case 4:
        return is_text(name, 4, "host") ? read_host(h, p, len) : HTTP1_DONE;
    case 6:
        if (!is_text(name, 6, "expect"))
            return HTTP1_DONE;
        if (!is_text(p, len, "100-continue"))
            return refuse(h, 417, "the only expectation met is 100-continue");
        h->expect_continue = true;
        return HTTP1_DONE;
    case 10:
        return is_text(name, 10, "connection") ? read_connection(h, p, len) : HTTP1_DONE;
    case 14:
        return is_text(name, 14, "content-length") ? read_length(h, p, len) : HTTP1_DONE;
    case 17:
        return is_text(name, 17, "transfer-encoding") ? read_coding(h, p, len) : HTTP1_DONE;
    default:
        return HTTP1_DONE;
    }
}

static enum http1_result
read_field(struct http1_head *h, const uint8_t *data, uint32_t end)
{
    const uint8_t      *start = data + h->line, *stop = data + end, *p = start, *colon;
    struct http1_field *f;

    if (h->count == HTTP1_HEADERS_MAX)
        return refuse(h, 431, "more than 100 header fields");
    if (*p == ' ' || *p == '\t')
        return refuse(h, 400, "a header field is folded over two lines");
    while (p < stop && is_token(*p))
        p++;
    if (p == stop || *p != ':')
        return refuse(h, 400, "a header field's name is malformed, or no colon follows it");
    if (p == start)
        return refuse(h, 400, "a header field has no name");
    colon = p++;
    while (p < stop && (*p == ' ' || *p == '\t'))
        p++;
    while (stop > p && (stop[-1] == ' ' || stop[-1] == '\t'))
        stop--;
    for (const uint8_t *c = p; c < stop; c++)
        if ((*c < ' ' && *c != '\t') || *c == 0x7f)
            return refuse(h, 400, "a header field has a control character");
    f = &h->fields[h->count++];
    f->name.at = (uint16_t)(start - data);
    f->name.len = (uint16_t)(colon - start);
    f->value.at = (uint16_t)(p - data);
    f->value.len = (uint16_t)(stop - p);
    return read_known(h, start, f->name.len, p, f->value.len);
}

/* The empty line was seen: do the fields agree? */
static enum http1_result
finish_head(struct http1_head *h)
{
    if (h->chunked && h->has_length)
        return refuse(h, 400, "both Content-Length and Transfer-Encoding");
    if (h->chunked && h->minor0)
        return refuse(h, 400, "Transfer-Encoding in HTTP/1.0");
    if (!h->has_host && !h->minor0)
        return refuse(h, 400, "no Host");
    h->keep_alive = !h->close && (!h->minor0 || h->keep);
    if (h->minor0)
        h->expect_continue = false;
    return HTTP1_DONE;
}

/* Lines. */

/* `end` is the line's LF. HTTP1_MORE: go on with the next line. */
static enum http1_result
read_line(struct http1_head *h, const uint8_t *data, uint32_t end)
{
    enum http1_result result;

    if (end == h->line || data[end - 1] != '\r')
        return refuse(h, 400, "a line does not end in CR LF");
    end--;
    if (!h->begun && end == h->line && h->line == 0)
        return HTTP1_MORE; /* one empty line before a request is allowed */
    if (!h->begun) {
        result = read_request_line(h, data, end);
        h->begun = true;
        h->fields_at = end + 2;
        return result == HTTP1_DONE ? HTTP1_MORE : result;
    }
    if (end == h->line)
        return finish_head(h);
    result = read_field(h, data, end);
    return result == HTTP1_DONE ? HTTP1_MORE : result;
}

/*
 * What is wrong with a line before its end is known: the answer must not depend
 * on how the bytes were cut into pieces. `len` bytes are there, its LF aside.
 */
static enum http1_result
check_line(struct http1_head *h, const uint8_t *data, size_t len)
{
    if (h->begun) {
        if (len - h->fields_at >= HTTP1_HEADER_BYTES_MAX)
            return refuse(h, 431, "more than 16 KiB of header fields");
        return HTTP1_MORE;
    }
    if (len > h->line && !is_token(data[h->line]) && data[h->line] != '\r')
        return refuse(h, 400, "this is no HTTP request");
    if (len - h->line > HTTP1_TARGET_MAX + 32)
        return refuse(h, 414, "the request line is longer than 8 KiB");
    return HTTP1_MORE;
}

enum http1_result
http1_head_feed(struct http1_head *h, const uint8_t *data, size_t len)
{
    size_t            sniff = len < sizeof preface - 1 ? len : sizeof preface - 1;
    enum http1_result result;

    if (h->scanned < sizeof preface - 1 && sniff != 0 && memcmp(data, preface, sniff) == 0)
        return sniff == sizeof preface - 1 ? HTTP1_PREFACE : HTTP1_MORE;
    while (h->scanned < len) {
        const uint8_t *lf = memchr(data + h->scanned, '\n', len - h->scanned);
        size_t         end = lf == NULL ? len : (size_t)(lf - data);

        result = check_line(h, data, end);
        if (result != HTTP1_MORE)
            return result;
        must(end < HTTP1_HEAD_MAX);
        h->scanned = (uint32_t)end;
        if (lf == NULL)
            return HTTP1_MORE;
        result = read_line(h, data, (uint32_t)end);
        h->line = h->scanned = h->size = (uint32_t)end + 1;
        if (result != HTTP1_MORE)
            return result;
    }
    return HTTP1_MORE;
}
