#include "base/slice.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/must.h"

int
slice_cmp(struct slice a, struct slice b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int    c = n == 0 ? 0 : memcmp(a.data, b.data, n);

    if (c != 0)
        return c;
    return (a.len > b.len) - (a.len < b.len);
}

void
buf_init(struct buf *b, size_t limit)
{
    memset(b, 0, sizeof *b);
    b->limit = limit;
}

void
buf_fini(struct buf *b)
{
    free(b->data);
    buf_init(b, b->limit);
}

void
buf_clear(struct buf *b)
{
    b->len = 0;
    b->failed = false;
}

bool
buf_reserve(struct buf *b, size_t more)
{
    size_t   need, cap;
    uint8_t *data;

    if (b->failed)
        return false;
    if (more <= b->cap - b->len)
        return true;
    if (more > SIZE_MAX / 2 - b->len)
        goto failed;
    need = b->len + more;
    if (b->limit != 0 && need > b->limit)
        goto failed;
    cap = b->cap < 64 ? 64 : b->cap;
    while (cap < need)
        cap *= 2;
    if (b->limit != 0 && cap > b->limit)
        cap = b->limit;
    data = realloc(b->data, cap);
    if (data == NULL)
        goto failed;
    b->data = data;
    b->cap = cap;
    return true;
failed:
    b->failed = true;
    return false;
}

static const char pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233"
                            "34353637383940414243444546474849505152535455565758596061626364656667"
                            "6869707172737475767778798081828384858687888990919293949596979899";

static unsigned
digits_in(uint64_t v)
{
    unsigned n = 1;

    for (; v >= 10000; v /= 10000)
        n += 4;
    return n + (v >= 10) + (v >= 100) + (v >= 1000);
}

/* So many digits. */
static void
write_digits(uint8_t *text, uint64_t v, unsigned n)
{
    for (; v >= 100; v /= 100) {
        n -= 2;
        memcpy(text + n, pairs + v % 100 * 2, 2);
    }
    if (v >= 10)
        memcpy(text, pairs + v * 2, 2);
    else
        text[0] = (uint8_t)('0' + v);
}

void
buf_add_u64(struct buf *b, uint64_t v)
{
    unsigned n = digits_in(v);

    if (!buf_room(b, n))
        return;
    write_digits(b->data + b->len, v, n);
    b->len += n;
}

void
buf_add_i64(struct buf *b, int64_t v)
{
    if (v < 0) {
        buf_add_byte(b, '-');
        buf_add_u64(b, (uint64_t)0 - (uint64_t)v);
        return;
    }
    buf_add_u64(b, (uint64_t)v);
}

void
buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    int     n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    must(n >= 0);
    if (!buf_reserve(b, (size_t)n + 1))
        return;
    va_start(ap, fmt);
    (void)vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

void
buf_consume(struct buf *b, size_t n)
{
    must(n <= b->len);
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}
