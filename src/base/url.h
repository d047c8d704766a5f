/* URLs (RFC 3986) into their parts, and percent-encoding. */
#ifndef OX_BASE_URL_H
#define OX_BASE_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

/* Slices of the text that was parsed, still percent-encoded. */
struct url {
    struct slice scheme;
    struct slice user;  /* "name" or "name:password" */
    struct slice host;  /* of an IPv6 address without its brackets */
    struct slice path;  /* empty, or from its first "/" */
    struct slice query; /* without "?" */
    struct slice fragment;
    uint16_t     port; /* 80 and 443 for http and https without one; else 0 */
    bool         tls;  /* https */
};

/* scheme://[user@]host[:port][/path][?query][#fragment]. E_INVALID; the text never holds the URL.
 */
int url_parse(struct slice text, struct url *out, struct err *err);

/* Only http and https, without a user and a fragment. */
int url_parse_http(struct slice text, struct url *out, struct err *err);

/* All bytes but letters, digits and "-._~" become %XX: fit for any part of a URL. */
void url_encode(struct buf *out, struct slice text);

/* False where a % is not followed by two hex digits; `plus` makes "+" a space, as in forms. */
bool url_decode(struct buf *out, struct slice text, bool plus);

#endif
