/*
 * HTTP/1.1 requests (RFC 9112) as bytes: the head is parsed where it lies, the
 * body is handed out in the pieces that arrived. No allocation, no system call.
 *
 * Strict where leniency lets two parties disagree about where a request ends:
 * lines end in CR LF, no folded headers, no blank before a colon, one
 * Content-Length or one "Transfer-Encoding: chunked" and never both.
 */
#ifndef OX_SERVER_HTTP1_H
#define OX_SERVER_HTTP1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

#define HTTP1_TARGET_MAX 8192
#define HTTP1_HEADERS_MAX 100
#define HTTP1_HEADER_BYTES_MAX 16384
/* No head that is accepted is longer: method, target, version, headers. */
#define HTTP1_HEAD_MAX (HTTP1_TARGET_MAX + 64 + HTTP1_HEADER_BYTES_MAX)
#define HTTP1_TRAILER_BYTES_MAX 4096
#define HTTP1_CHUNK_LINE_MAX 256

enum http1_result {
    HTTP1_MORE,    /* more bytes are needed */
    HTTP1_DONE,    /* it is complete */
    HTTP1_BAD,     /* `status` and `why` have the answer */
    HTTP1_PREFACE, /* the client speaks HTTP/2 */
};

enum http1_method {
    HTTP1_GET,
    HTTP1_HEAD,
    HTTP1_POST,
    HTTP1_PUT,
    HTTP1_PATCH,
    HTTP1_DELETE,
    HTTP1_OPTIONS,
    HTTP1_METHOD_COUNT
};

/* Where something lies, counted from the first byte of the head. */
struct http1_span {
    uint16_t at, len;
};

struct http1_field {
    struct http1_span name, value;
};

struct http1_head {
    enum http1_method  method;
    struct http1_span  target;
    bool               minor0; /* HTTP/1.0 */
    bool               keep_alive, chunked, has_length, expect_continue;
    uint64_t           length; /* Content-Length */
    uint32_t           size;   /* bytes of the head, with the empty line */
    uint16_t           count;
    struct http1_field fields[HTTP1_HEADERS_MAX];
    int                status; /* of the refusal */
    const char        *why;
    /* the parser's own */
    uint32_t line, scanned, fields_at;
    bool     begun, has_host, close, keep;
};

void http1_head_init(struct http1_head *h);

/*
 * `data` begins at the head's first byte at every call and has grown since the
 * last one; it may have moved. Each byte is looked at once.
 */
enum http1_result http1_head_feed(struct http1_head *h, const uint8_t *data, size_t len);

/* The value of the first field of this name (any case; `name` in lower case). */
bool
http1_field(const struct http1_head *h, const uint8_t *data, const char *name, struct slice *value);

const char *http1_method_name(enum http1_method method);

struct http1_body {
    uint64_t    left;  /* of the chunk, or of the whole */
    uint64_t    total; /* decoded bytes handed out */
    uint32_t    extra; /* bytes of this chunk line, or of the trailer */
    uint8_t     state, digits;
    int         status; /* of the refusal */
    const char *why;
};

void http1_body_init(struct http1_body *b, const struct http1_head *h);

/*
 * Takes `*used` bytes of `data` and gives at most one piece of the body, which
 * points into `data`. Call again with what is left until HTTP1_DONE, or until
 * HTTP1_MORE comes with everything used.
 */
enum http1_result http1_body_feed(struct http1_body *b, const uint8_t *data, size_t len,
                                  size_t *used, struct slice *piece);

#endif
