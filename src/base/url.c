#include "base/url.h"

static bool
is_alpha(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool
is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static bool
in_set(uint8_t c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

static bool
is_plain(uint8_t c)
{
    return is_alpha(c) || is_digit(c) || in_set(c, "-._~");
}

static int
hex_digit(uint8_t c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Only what RFC 3986 lets stand in a URL, with %XX whole; returns the first offset that is not. */
static size_t
good_len(struct slice text)
{
    const uint8_t *p = text.data;
    size_t         i = 0;

    while (i < text.len) {
        if (p[i] == '%') {
            if (text.len - i < 3 || hex_digit(p[i + 1]) < 0 || hex_digit(p[i + 2]) < 0)
                return i;
            i += 3;
        } else if (is_plain(p[i]) || in_set(p[i], ":/?#[]@!$&'()*+,;=")) {
            i++;
        } else {
            return i;
        }
    }
    return i;
}

/* Cuts off what is before the first byte of `set`; `rest` begins with that byte, or is empty. */
static struct slice
cut(struct slice *rest, const char *set)
{
    const uint8_t *p = rest->data;
    struct slice   head;
    size_t         n = 0;

    while (n < rest->len && !in_set(p[n], set))
        n++;
    head = slice_of(p, n);
    *rest = slice_of(p + n, rest->len - n);
    return head;
}

static struct slice
tail(struct slice s, size_t n)
{
    return slice_of((const uint8_t *)s.data + n, s.len - n);
}

static bool
parse_port(struct slice text, uint16_t *out)
{
    const uint8_t *p = text.data;
    unsigned       v = 0;

    for (size_t i = 0; i < text.len; i++) {
        if (!is_digit(p[i]))
            return false;
        v = v * 10 + (unsigned)(p[i] - '0');
        if (v > 65535)
            return false;
    }
    *out = (uint16_t)v;
    return text.len > 0 && v > 0;
}

static bool
is_host(struct slice host, bool address)
{
    const uint8_t *p = host.data;

    for (size_t i = 0; i < host.len; i++) {
        bool good = address ? hex_digit(p[i]) >= 0 || in_set(p[i], ":.")
                            : is_plain(p[i]) || in_set(p[i], "%!$&'()*+,;=");

        if (!good)
            return false;
    }
    return host.len > 0 && host.len <= 255;
}

/* [user@]host[:port] */
static int
parse_authority(struct slice text, struct url *out, struct err *err)
{
    const uint8_t *at = text.len == 0 ? NULL : memrchr(text.data, '@', text.len);
    bool           address;

    if (at != NULL) {
        size_t n = (size_t)(at - (const uint8_t *)text.data);

        out->user = slice_of(text.data, n);
        text = tail(text, n + 1);
    }
    address = text.len > 0 && *(const uint8_t *)text.data == '[';
    if (address) {
        text = tail(text, 1);
        out->host = cut(&text, "]");
        if (text.len == 0)
            RETURN_ERR(err, E_INVALID, ERR_DATA, "\"[\" without \"]\" in the host");
        text = tail(text, 1);
    } else {
        out->host = cut(&text, ":");
    }
    if (!is_host(out->host, address))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "no valid host");
    if (text.len == 0)
        return 0;
    if (*(const uint8_t *)text.data != ':' || !parse_port(tail(text, 1), &out->port))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "the port must be a number from 1 to 65535");
    return 0;
}

static bool
parse_scheme(struct slice *rest, struct slice *scheme)
{
    const uint8_t *p = rest->data;

    *scheme = cut(rest, ":/?#");
    if (scheme->len == 0 || !is_alpha(p[0]) || !slice_starts(*rest, slice_str("://")))
        return false;
    for (size_t i = 0; i < scheme->len; i++) {
        if (!is_alpha(p[i]) && !is_digit(p[i]) && !in_set(p[i], "+-."))
            return false;
    }
    *rest = tail(*rest, 3);
    return true;
}

int
url_parse(struct slice text, struct url *out, struct err *err)
{
    struct slice rest = text.len == 0 ? slice_str("") : text;
    size_t       good = good_len(rest);
    int          rc = 0;

    memset(out, 0, sizeof *out);
    if (good < text.len)
        FAIL(err, E_INVALID, ERR_DATA, "the character at column %zu does not belong into a URL",
             good + 1);
    if (!parse_scheme(&rest, &out->scheme))
        FAIL(err, E_INVALID, ERR_DATA, "it does not begin with scheme://");
    TRY(parse_authority(cut(&rest, "/?#"), out, err));
    out->path = cut(&rest, "?#");
    if (rest.len > 0 && *(const char *)rest.data == '?') {
        rest = tail(rest, 1);
        out->query = cut(&rest, "#");
    }
    if (rest.len > 0)
        out->fragment = tail(rest, 1);
    out->tls = slice_is(out->scheme, "https");
    if (out->port == 0 && out->tls)
        out->port = 443;
    if (out->port == 0 && slice_is(out->scheme, "http"))
        out->port = 80;
out:
    return rc;
}

int
url_parse_http(struct slice text, struct url *out, struct err *err)
{
    int rc;

    TRY(url_parse(text, out, err));
    if (!out->tls && !slice_is(out->scheme, "http"))
        FAIL(err, E_INVALID, ERR_DATA, "it does not begin with http:// or https://");
    if (out->user.data != NULL)
        FAIL(err, E_INVALID, ERR_DATA, "a user or password does not belong into it");
    if (out->fragment.len > 0)
        FAIL(err, E_INVALID, ERR_DATA, "a fragment (#...) is never sent");
out:
    return rc;
}

void
url_encode(struct buf *out, struct slice text)
{
    static const char hex[] = "0123456789ABCDEF";
    const uint8_t    *p = text.data;

    for (size_t i = 0; i < text.len; i++) {
        uint8_t code[3] = {'%', (uint8_t)hex[p[i] >> 4], (uint8_t)hex[p[i] & 0xf]};

        if (is_plain(p[i]))
            buf_add_byte(out, p[i]);
        else
            buf_add(out, code, sizeof code);
    }
}

bool
url_decode(struct buf *out, struct slice text, bool plus)
{
    const uint8_t *p = text.data;

    for (size_t i = 0; i < text.len; i++) {
        int high, low;

        if (p[i] != '%') {
            buf_add_byte(out, plus && p[i] == '+' ? ' ' : p[i]);
            continue;
        }
        if (text.len - i < 3)
            return false;
        high = hex_digit(p[i + 1]);
        low = hex_digit(p[i + 2]);
        if (high < 0 || low < 0)
            return false;
        buf_add_byte(out, (uint8_t)(high << 4 | low));
        i += 2;
    }
    return true;
}
