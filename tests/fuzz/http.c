/*
 * HTTP/1.1 requests from outside. However the bytes are cut into pieces, the
 * same requests come out: heads, bodies and refusals alike. Everything that a
 * head points at lies inside it, and a target decodes within its own bytes.
 *
 * The first byte says how long the pieces are; the rest is the connection.
 */
#include <stdlib.h>

#include "base/must.h"
#include "server/http1.h"
#include "server/uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    enum http1_result result;
    int               status;
    size_t            used;
    struct buf        body;
};

static void
check_span(const struct http1_head *h, struct http1_span span)
{
    must((uint32_t)span.at + span.len <= h->size);
}

static void
check_target(const struct http1_head *h, const uint8_t *data)
{
    size_t     len = h->target.len;
    char      *target = malloc(len == 0 ? 1 : len);
    struct uri uri;

    must(target != NULL);
    memcpy(target, data + h->target.at, len);
    if (uri_parse(&uri, target, len, NULL) == 0) {
        struct slice value;

        for (unsigned i = 0; i < uri.segment_count; i++)
            must(uri.segments[i].len <= len);
        (void)uri_get(&uri, "from", &value);
    }
    free(target);
}

static void
check_head(const struct http1_head *h, const uint8_t *data)
{
    struct slice value;

    must(h->size <= HTTP1_HEAD_MAX);
    must(h->count <= HTTP1_HEADERS_MAX);
    must(!h->chunked || !h->has_length);
    check_span(h, h->target);
    for (unsigned i = 0; i < h->count; i++) {
        check_span(h, h->fields[i].name);
        check_span(h, h->fields[i].value);
    }
    must(http1_field(h, data, "host", &value) || h->minor0);
    must(http1_method_name(h->method) != NULL);
    check_target(h, data);
}

static void
read_body(const struct http1_head *h, const uint8_t *data, size_t size, size_t step,
          struct seen *seen)
{
    struct http1_body body;
    size_t            at = 0, end;

    http1_body_init(&body, h);
    do {
        struct slice piece;
        size_t       used;

        end = size - at < step ? size : at + step;
        seen->result = http1_body_feed(&body, data + at, end - at, &used, &piece);
        must(used <= end - at);
        must(piece.len <= used);
        buf_add_slice(&seen->body, piece);
        at += used;
    } while (seen->result == HTTP1_MORE && at < size);
    must(body.total == seen->body.len);
    must(h->chunked || seen->body.len <= h->length);
    if (seen->result == HTTP1_BAD) {
        seen->status = body.status;
        must(body.status >= 400 && body.why != NULL);
    }
    seen->used += at;
}

/* One request, in pieces of `step` bytes. */
static void
read_request(const uint8_t *data, size_t size, size_t step, struct seen *seen)
{
    struct http1_head head;
    size_t            len = 0;

    memset(seen, 0, sizeof *seen);
    http1_head_init(&head);
    do {
        uint8_t *copy;

        len = size - len < step ? size : len + step;
        copy = malloc(len == 0 ? 1 : len); /* so that reading too far is seen */
        must(copy != NULL);
        memcpy(copy, data, len);
        seen->result = http1_head_feed(&head, copy, len);
        if (seen->result == HTTP1_DONE)
            check_head(&head, copy);
        free(copy);
    } while (seen->result == HTTP1_MORE && len < size);
    if (seen->result == HTTP1_BAD) {
        seen->status = head.status;
        must(head.status >= 400 && head.why != NULL);
    }
    if (seen->result != HTTP1_DONE)
        return;
    seen->used = head.size;
    read_body(&head, data + head.size, size - head.size, step, seen);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t step;

    if (size == 0)
        return 0;
    /* Few pieces: each is a copy of all that came before. */
    step = size / 64 + 1 + data[0];
    data++;
    size--;
    while (size > 0) {
        struct seen whole, cut;
        bool        go_on;

        read_request(data, size, size, &whole);
        read_request(data, size, step, &cut);
        must(whole.result == cut.result);
        must(whole.status == cut.status);
        must(whole.used == cut.used);
        must(slice_eq(buf_slice(&whole.body), buf_slice(&cut.body)));
        go_on = whole.result == HTTP1_DONE;
        data += whole.used;
        size -= whole.used;
        buf_fini(&whole.body);
        buf_fini(&cut.body);
        if (!go_on)
            break;
    }
    return 0;
}
