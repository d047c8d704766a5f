#include "server/http1.h"

#include "base/must.h"

enum state {
    BODY_LENGTH,
    BODY_SIZE,    /* hex digits of a chunk's size */
    BODY_EXT,     /* the rest of that line */
    BODY_SIZE_LF, /* its LF */
    BODY_DATA,
    BODY_DATA_CR, /* after a chunk */
    BODY_DATA_LF,
    BODY_TRAILER,       /* at the start of a trailer's line */
    BODY_TRAILER_FIELD, /* within it */
    BODY_TRAILER_LF,
    BODY_END_LF,
    BODY_DONE,
};

static enum http1_result
refuse(struct http1_body *b, int status, const char *why)
{
    b->status = status;
    b->why = why;
    return HTTP1_BAD;
}

void
http1_body_init(struct http1_body *b, const struct http1_head *h)
{
    memset(b, 0, sizeof *b);
    b->left = h->length;
    b->state = BODY_LENGTH;
    if (h->chunked)
        b->state = BODY_SIZE;
    else if (h->length == 0)
        b->state = BODY_DONE;
}

static int
hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One byte of the line "size[;extension] CR". */
static enum http1_result
read_size(struct http1_body *b, uint8_t c)
{
    int digit = hex_value(c);

    if (digit >= 0) {
        /* Fifteen digits are far beyond any limit and cannot overflow. */
        if (++b->digits > 15)
            return refuse(b, 400, "a chunk's size is far too large");
        b->left = b->left << 4 | (uint64_t)digit;
        return HTTP1_MORE;
    }
    if (b->digits == 0)
        return refuse(b, 400, "a chunk's size is no hexadecimal number");
    if (c == '\r')
        b->state = BODY_SIZE_LF;
    else if (c == ';' || c == ' ' || c == '\t')
        b->state = BODY_EXT;
    else
        return refuse(b, 400, "a chunk's size is no hexadecimal number");
    return HTTP1_MORE;
}

static enum http1_result
read_extension(struct http1_body *b, uint8_t c)
{
    if (c == '\r')
        b->state = BODY_SIZE_LF;
    else if ((c < ' ' && c != '\t') || c == 0x7f)
        return refuse(b, 400, "a chunk's extension has a control character");
    else if (++b->extra > HTTP1_CHUNK_LINE_MAX)
        return refuse(b, 400, "a chunk's extension is too long");
    return HTTP1_MORE;
}

static enum http1_result
read_trailer(struct http1_body *b, uint8_t c)
{
    if (++b->extra > HTTP1_TRAILER_BYTES_MAX)
        return refuse(b, 431, "more than 4 KiB of trailer fields");
    if (c == '\r') {
        b->state = b->state == BODY_TRAILER ? BODY_END_LF : BODY_TRAILER_LF;
        return HTTP1_MORE;
    }
    if ((c < ' ' && c != '\t') || c == 0x7f)
        return refuse(b, 400, "a trailer field has a control character");
    if (b->state == BODY_TRAILER && (c == ' ' || c == '\t'))
        return refuse(b, 400, "a trailer field is folded over two lines");
    b->state = BODY_TRAILER_FIELD;
    return HTTP1_MORE;
}

/* The LF that must follow a CR, and what comes after it. */
static enum http1_result
read_lf(struct http1_body *b, uint8_t c)
{
    if (c != '\n')
        return refuse(b, 400, "a line of a chunked body does not end in CR LF");
    switch (b->state) {
    case BODY_SIZE_LF:
        b->extra = 0;
        b->state = b->left == 0 ? BODY_TRAILER : BODY_DATA;
        return HTTP1_MORE;
    case BODY_DATA_LF:
        b->digits = 0;
        b->state = BODY_SIZE;
        return HTTP1_MORE;
    case BODY_TRAILER_LF:
        b->state = BODY_TRAILER;
        return HTTP1_MORE;
    default:
        must(b->state == BODY_END_LF);
        b->state = BODY_DONE;
        return HTTP1_DONE;
    }
}

static enum http1_result
read_framing(struct http1_body *b, uint8_t c)
{
    switch (b->state) {
    case BODY_SIZE:
        return read_size(b, c);
    case BODY_EXT:
        return read_extension(b, c);
    case BODY_DATA_CR:
        if (c != '\r')
            return refuse(b, 400, "a chunk is not as long as it says");
        b->state = BODY_DATA_LF;
        return HTTP1_MORE;
    case BODY_TRAILER:
    case BODY_TRAILER_FIELD:
        return read_trailer(b, c);
    default:
        return read_lf(b, c);
    }
}

enum http1_result
http1_body_feed(struct http1_body *b, const uint8_t *data, size_t len, size_t *used,
                struct slice *piece)
{
    size_t at = 0;

    *piece = slice_of(NULL, 0);
    *used = 0;
    while (b->state != BODY_DONE && at < len) {
        enum http1_result result;
        uint64_t          n;

        if (b->state != BODY_DATA && b->state != BODY_LENGTH) {
            result = read_framing(b, data[at++]);
            *used = at;
            if (result != HTTP1_MORE)
                return result;
            continue;
        }
        n = len - at < b->left ? len - at : b->left;
        *piece = slice_of(data + at, (size_t)n);
        *used = at + (size_t)n;
        b->left -= n;
        b->total += n;
        if (b->left == 0)
            b->state = b->state == BODY_DATA ? BODY_DATA_CR : BODY_DONE;
        return b->state == BODY_DONE ? HTTP1_DONE : HTTP1_MORE;
    }
    *used = at;
    return b->state == BODY_DONE ? HTTP1_DONE : HTTP1_MORE;
}
