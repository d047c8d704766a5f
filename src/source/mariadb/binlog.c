#include "source/mariadb/binlog.h"

#include <zlib.h>

#include "base/bytes.h"
#include "base/must.h"

/* FORMAT: version, server version, created, length of headers. */
#define FORMAT_FIXED (2 + 50 + 4 + 1)

void
mariadbi_cursor_init(struct my_cursor *c, struct slice bytes)
{
    static const uint8_t none[1];

    c->at = bytes.data == NULL ? none : bytes.data;
    c->end = c->at + bytes.len;
    c->failed = false;
}

struct slice
mariadbi_cursor_bytes(struct my_cursor *c, size_t len)
{
    struct slice s = slice_of(c->at, len);

    if (c->failed || mariadbi_cursor_left(c) < len) {
        c->failed = true;
        return slice_of(NULL, 0);
    }
    c->at += len;
    return s;
}

uint64_t
mariadbi_cursor_le(struct my_cursor *c, unsigned len)
{
    struct slice   s = mariadbi_cursor_bytes(c, len);
    const uint8_t *p = s.data;
    uint64_t       v = 0;

    must(len <= 8);
    for (size_t i = s.len; i > 0; i--)
        v = v << 8 | p[i - 1];
    return v;
}

uint64_t
mariadbi_cursor_be(struct my_cursor *c, unsigned len)
{
    struct slice   s = mariadbi_cursor_bytes(c, len);
    const uint8_t *p = s.data;
    uint64_t       v = 0;

    must(len <= 8);
    for (size_t i = 0; i < s.len; i++)
        v = v << 8 | p[i];
    return v;
}

uint64_t
mariadbi_cursor_lenenc(struct my_cursor *c)
{
    uint64_t first = mariadbi_cursor_le(c, 1);

    switch (first) {
    case 252:
        return mariadbi_cursor_le(c, 2);
    case 253:
        return mariadbi_cursor_le(c, 3);
    case 254:
        return mariadbi_cursor_le(c, 8);
    case 251:
    case 255:
        c->failed = true;
        return 0;
    default:
        return first;
    }
}

static int
short_of(const char *what, struct err *err)
{
    RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "binlog: %s is shorter than it must be", what);
}

static bool
crc_fits(const uint8_t *p, size_t len)
{
    return crc32_z(0, p, len - 4) == get_u32(p + len - 4);
}

int
mariadbi_event_take(struct slice bytes, bool crc, struct my_event *out, struct err *err)
{
    const uint8_t *p = bytes.data;
    size_t         tail = crc ? 4 : 0;

    *out = (struct my_event){0};
    if (bytes.len < MARIADBI_HEADER)
        return short_of("an event", err);
    out->time = get_u32(p);
    out->type = p[4];
    out->server = get_u32(p + 5);
    out->end = get_u32(p + 13);
    out->flags = get_u16(p + 17);
    if (get_u32(p + 9) != bytes.len)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
                   "binlog: an event of type %u says it has %u bytes, it has %zu", out->type,
                   get_u32(p + 9), bytes.len);
    if (out->type == MY_FORMAT) {
        if (bytes.len < MARIADBI_HEADER + FORMAT_FIXED + 5)
            return short_of("FORMAT_DESCRIPTION", err);
        /* It always has room for a checksum; the byte before that says whether it is one. */
        tail = 4;
        crc = p[bytes.len - 5] == 1;
    }
    if (bytes.len < MARIADBI_HEADER + tail)
        return short_of("an event", err);
    if (crc && !crc_fits(p, bytes.len))
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
                   "binlog: the checksum of an event of type %u does not hold", out->type);
    out->body = slice_of(p + MARIADBI_HEADER, bytes.len - MARIADBI_HEADER - tail);
    return 0;
}

int
mariadbi_format_take(const struct my_event *e, bool *crc, struct err *err)
{
    const uint8_t *p = e->body.data;

    must(e->type == MY_FORMAT);
    must(e->body.len > FORMAT_FIXED);
    if (get_u16(p) != 4 || p[FORMAT_FIXED - 1] != MARIADBI_HEADER)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL, "binlog: version %u is none that is known",
                   get_u16(p));
    if (p[e->body.len - 1] > 1)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL, "binlog: checksum %u is none that is known",
                   p[e->body.len - 1]);
    *crc = p[e->body.len - 1] == 1;
    return 0;
}

int
mariadbi_gtid_take(const struct my_event *e, struct my_gtid *out, uint8_t *flags, struct err *err)
{
    struct my_cursor c;

    mariadbi_cursor_init(&c, e->body);
    out->seq = mariadbi_cursor_le(&c, 8);
    out->domain = (uint32_t)mariadbi_cursor_le(&c, 4);
    out->server = e->server;
    *flags = (uint8_t)mariadbi_cursor_le(&c, 1);
    return c.failed ? short_of("GTID", err) : 0;
}

int
mariadbi_gtid_list_next(const struct my_event *e, uint32_t at, struct my_gtid *out, struct err *err)
{
    struct my_cursor c;
    uint32_t         count;

    mariadbi_cursor_init(&c, e->body);
    count = (uint32_t)mariadbi_cursor_le(&c, 4) & 0x0fffffff;
    if (at >= count && !c.failed)
        return E_END;
    (void)mariadbi_cursor_bytes(&c, (size_t)at * 16);
    out->domain = (uint32_t)mariadbi_cursor_le(&c, 4);
    out->server = (uint32_t)mariadbi_cursor_le(&c, 4);
    out->seq = mariadbi_cursor_le(&c, 8);
    return c.failed ? short_of("GTID_LIST", err) : 0;
}

int
mariadbi_file_take(const struct my_event *e, struct slice *file, uint64_t *position,
                   struct err *err)
{
    struct my_cursor c;

    mariadbi_cursor_init(&c, e->body);
    *position = e->type == MY_ROTATE ? mariadbi_cursor_le(&c, 8) : e->end;
    *file = mariadbi_cursor_bytes(&c, mariadbi_cursor_left(&c));
    return c.failed || file->len == 0 || file->len > 512 ? short_of("a file's name", err) : 0;
}

int
mariadbi_inflate(struct slice packed, struct buf *out, struct err *err)
{
    struct my_cursor c;
    uint64_t         head, len;
    uLongf           got;
    uLong            used;

    mariadbi_cursor_init(&c, packed);
    head = mariadbi_cursor_le(&c, 1);
    /* Bits 4 to 6 are the algorithm: 0 is zlib, the only one there is. */
    if ((head & 0xf0) != 0x80 || (head & 7) == 0 || (head & 7) > 4)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL, "binlog: compressed in a way that is not known");
    len = mariadbi_cursor_be(&c, (unsigned)head & 7);
    if (c.failed)
        return short_of("a compressed event", err);
    /* zlib makes at most about 1,030 bytes of one. */
    if (len > MARIADBI_EVENT_MAX || len > (mariadbi_cursor_left(&c) + 16) * 1040)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "binlog: a compressed event says it has %llu bytes",
                   (unsigned long long)len);
    buf_clear(out);
    if (!buf_reserve(out, (size_t)len + 1))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a compressed event");
    got = (uLongf)len;
    used = (uLong)mariadbi_cursor_left(&c);
    if (uncompress2(out->data, &got, c.at, &used) != Z_OK || got != len)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "binlog: a compressed event is damaged");
    out->len = (size_t)len;
    return 0;
}

int
mariadbi_query_take(const struct my_event *e, struct buf *scratch, struct my_query *out,
                    struct err *err)
{
    struct my_cursor c;
    size_t           db_len, status_len;

    mariadbi_cursor_init(&c, e->body);
    (void)mariadbi_cursor_bytes(&c, 8);
    db_len = (size_t)mariadbi_cursor_le(&c, 1);
    out->error = (uint16_t)mariadbi_cursor_le(&c, 2);
    status_len = (size_t)mariadbi_cursor_le(&c, 2);
    (void)mariadbi_cursor_bytes(&c, status_len);
    out->db = mariadbi_cursor_bytes(&c, db_len);
    (void)mariadbi_cursor_bytes(&c, 1);
    out->sql = mariadbi_cursor_bytes(&c, mariadbi_cursor_left(&c));
    if (c.failed)
        return short_of("QUERY", err);
    if (e->type == MY_QUERY_COMPRESSED) {
        int rc = mariadbi_inflate(out->sql, scratch, err);

        if (rc != 0)
            return rc;
        out->sql = buf_slice(scratch);
    }
    return 0;
}
