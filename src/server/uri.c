#include "server/uri.h"

static int
hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

long
uri_decode(char *text, size_t len, bool plus)
{
    size_t to = 0;

    for (size_t at = 0; at < len; at++) {
        char c = text[at];

        if (c == '%') {
            int hi, lo;

            if (len - at < 3)
                return -1;
            hi = hex_value(text[at + 1]);
            lo = hex_value(text[at + 2]);
            if (hi < 0 || lo < 0)
                return -1;
            c = (char)(hi << 4 | lo);
            at += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        text[to++] = c;
    }
    return (long)to;
}

static int
decode(char *text, size_t len, bool plus, struct slice *out, struct err *err)
{
    long n = uri_decode(text, len, plus);

    if (n < 0)
        RETURN_ERR(err, E_SYNTAX, ERR_DATA, "the target has a '%%' without two hex digits");
    *out = slice_of(text, (size_t)n);
    return 0;
}

static int
parse_path(struct uri *uri, char *p, char *end, struct err *err)
{
    int rc = 0;

    while (p < end) {
        char *slash = memchr(p, '/', (size_t)(end - p));
        char *stop = slash == NULL ? end : slash;

        if (uri->segment_count == URI_SEGMENTS_MAX)
            FAIL(err, E_LIMIT, ERR_DATA, "the path has more than %d parts", URI_SEGMENTS_MAX);
        TRY(decode(p, (size_t)(stop - p), false, &uri->segments[uri->segment_count], err));
        uri->segment_count++;
        p = slash == NULL ? end : slash + 1;
    }
out:
    return rc;
}

static int
parse_query(struct uri *uri, char *p, char *end, struct err *err)
{
    int rc = 0;

    while (p < end) {
        struct uri_param *param = &uri->params[uri->param_count];
        char             *amp = memchr(p, '&', (size_t)(end - p));
        char             *stop = amp == NULL ? end : amp, *equals;

        if (uri->param_count == URI_PARAMS_MAX)
            FAIL(err, E_LIMIT, ERR_DATA, "the query has more than %d parameters", URI_PARAMS_MAX);
        equals = memchr(p, '=', (size_t)(stop - p));
        param->value = slice_of(stop, 0);
        if (equals != NULL)
            TRY(decode(equals + 1, (size_t)(stop - equals - 1), true, &param->value, err));
        TRY(decode(p, (size_t)((equals == NULL ? stop : equals) - p), true, &param->name, err));
        if (param->name.len != 0 || equals != NULL)
            uri->param_count++;
        p = amp == NULL ? end : amp + 1;
    }
out:
    return rc;
}

/* "http://host/path" is "/path": RFC 9112 part 3.2.2 wants it taken. */
static size_t
skip_authority(const char *target, size_t len)
{
    const char *slash, *query;
    size_t      at;

    if (len >= 7 && memcmp(target, "http://", 7) == 0)
        at = 7;
    else if (len >= 8 && memcmp(target, "https://", 8) == 0)
        at = 8;
    else
        return 0;
    slash = memchr(target + at, '/', len - at);
    query = memchr(target + at, '?', len - at);
    if (slash == NULL || (query != NULL && query < slash))
        return query == NULL ? len : (size_t)(query - target);
    return (size_t)(slash - target);
}

int
uri_parse(struct uri *uri, char *target, size_t len, struct err *err)
{
    char  *end = target + len, *query;
    size_t skip = skip_authority(target, len);
    int    rc = 0;

    uri->segment_count = uri->param_count = 0;
    if (skip == 0 && (len == 0 || target[0] != '/'))
        FAIL(err, E_SYNTAX, ERR_DATA, "the target must begin with '/'");
    target += skip;
    query = memchr(target, '?', (size_t)(end - target));
    if (target < end && *target == '/')
        target++;
    TRY(parse_path(uri, target, query == NULL ? end : query, err));
    if (query != NULL)
        TRY(parse_query(uri, query + 1, end, err));
out:
    return rc;
}

bool
uri_get(const struct uri *uri, const char *name, struct slice *value)
{
    for (unsigned i = 0; i < uri->param_count; i++) {
        if (!slice_is(uri->params[i].name, name))
            continue;
        *value = uri->params[i].value;
        return true;
    }
    return false;
}
