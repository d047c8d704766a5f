/*
 * A slice: bytes that somebody else owns. A buffer: bytes that grow up to a
 * limit. Both are values; nothing here allocates but struct buf.
 */
#ifndef OX_BASE_SLICE_H
#define OX_BASE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct slice {
    const void *data; /* may be NULL where len is 0 */
    size_t      len;
};

static inline struct slice
slice_of(const void *data, size_t len)
{
    struct slice s = {data, len};
    return s;
}

static inline struct slice
slice_str(const char *text)
{
    return slice_of(text, text == NULL ? 0 : strlen(text));
}

static inline bool
slice_eq(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static inline bool
slice_is(struct slice a, const char *text)
{
    return slice_eq(a, slice_str(text));
}

static inline bool
slice_starts(struct slice a, struct slice prefix)
{
    return a.len >= prefix.len && (prefix.len == 0 || memcmp(a.data, prefix.data, prefix.len) == 0);
}

/* Byte order, shorter first. */
int slice_cmp(struct slice a, struct slice b);

/* printf("%.*s", SLICE_FMT(s)) */
#define SLICE_FMT(s) (int)(s).len, (const char *)((s).data == NULL ? "" : (s).data)

/*
 * Growing bytes. A zeroed struct buf is empty and valid. `limit` 0 is none.
 * A failed growth (out of memory, or over the limit) sets `failed`, keeps what
 * is there and makes every later append a no-op: check once, at the end.
 */
struct buf {
    uint8_t *data;
    size_t   len, cap, limit;
    bool     failed;
};

void buf_init(struct buf *b, size_t limit);
void buf_fini(struct buf *b);  /* frees; leaves it empty */
void buf_clear(struct buf *b); /* keeps the memory; also clears `failed` */
bool buf_reserve(struct buf *b, size_t more);
void buf_add_u64(struct buf *b, uint64_t v); /* decimal */
void buf_add_i64(struct buf *b, int64_t v);  /* decimal */
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Removes the first n bytes (n <= len). */
void buf_consume(struct buf *b, size_t n);

/* Room for n more, which is there nearly always. */
static inline bool
buf_room(struct buf *b, size_t n)
{
    return (!b->failed && n <= b->cap - b->len) || buf_reserve(b, n);
}

static inline void
buf_add(struct buf *b, const void *data, size_t len)
{
    if (len == 0 || !buf_room(b, len))
        return;
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static inline void
buf_add_slice(struct buf *b, struct slice s)
{
    buf_add(b, s.data, s.len);
}

static inline void
buf_add_str(struct buf *b, const char *text)
{
    buf_add(b, text, strlen(text));
}

static inline void
buf_add_byte(struct buf *b, uint8_t byte)
{
    if (!buf_room(b, 1))
        return;
    b->data[b->len++] = byte;
}

static inline struct slice
buf_slice(const struct buf *b)
{
    return slice_of(b->data, b->len);
}

#endif
