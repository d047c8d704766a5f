#include "source/postgres/pgoutput.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/must.h"

#define EPOCH_US INT64_C(946684800000000) /* 2000-01-01 after 1970-01-01 */
#define COLUMNS_MAX 1600                  /* of a table, as PostgreSQL has it */

/* A reader that goes wrong once and then gives nothing but zeros. */
struct reader {
    const uint8_t *at, *end;
    bool           bad;
};

static struct reader
reader_of(struct slice s)
{
    const uint8_t *p = s.data;

    return (struct reader){p, p == NULL ? p : p + s.len, false};
}

static bool
take(struct reader *r, size_t len, const uint8_t **out)
{
    if (r->bad || (size_t)(r->end - r->at) < len) {
        r->bad = true;
        return false;
    }
    *out = r->at;
    r->at += len;
    return true;
}

static uint64_t
take_number(struct reader *r, size_t len)
{
    const uint8_t *p;
    uint64_t       v = 0;

    if (!take(r, len, &p))
        return 0;
    for (size_t i = 0; i < len; i++)
        v = v << 8 | p[i];
    return v;
}

static uint8_t
take_byte(struct reader *r)
{
    return (uint8_t)take_number(r, 1);
}

static uint32_t
take_u32(struct reader *r)
{
    return (uint32_t)take_number(r, 4);
}

static struct pg_lsn
take_lsn(struct reader *r)
{
    return (struct pg_lsn){take_number(r, 8)};
}

static int64_t
take_time(struct reader *r)
{
    int64_t v = (int64_t)take_number(r, 8);

    return v > INT64_MAX - EPOCH_US ? INT64_MAX : v + EPOCH_US;
}

static struct slice
take_text(struct reader *r)
{
    const uint8_t *end;
    struct slice   out;

    if (r->bad)
        return slice_of(NULL, 0);
    end = r->at == r->end ? NULL : memchr(r->at, 0, (size_t)(r->end - r->at));
    if (end == NULL) {
        r->bad = true;
        return slice_of(NULL, 0);
    }
    out = slice_of(r->at, (size_t)(end - r->at));
    r->at = end + 1;
    return out;
}

static struct slice
rest_of(const struct reader *r)
{
    return slice_of(r->at, (size_t)(r->end - r->at));
}

void
postgresi_lsn_format(struct pg_lsn lsn, char out[PG_LSN_TEXT])
{
    (void)snprintf(out, PG_LSN_TEXT, "%" PRIX32 "/%" PRIX32, (uint32_t)(lsn.v >> 32),
                   (uint32_t)lsn.v);
}

static bool
hex_digits(struct slice text, uint64_t *out)
{
    const char *p = text.data;

    *out = 0;
    if (text.len == 0 || text.len > 8)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        char     c = p[i];
        uint64_t digit;

        if (c >= '0' && c <= '9')
            digit = (uint64_t)(c - '0');
        else if (c >= 'A' && c <= 'F')
            digit = (uint64_t)(c - 'A') + 10;
        else if (c >= 'a' && c <= 'f')
            digit = (uint64_t)(c - 'a') + 10;
        else
            return false;
        *out = *out << 4 | digit;
    }
    return true;
}

bool
postgresi_lsn_parse(struct slice text, struct pg_lsn *out)
{
    const char *slash = text.len == 0 ? NULL : memchr(text.data, '/', text.len);
    uint64_t    high, low;
    size_t      first;

    if (slash == NULL)
        return false;
    first = (size_t)(slash - (const char *)text.data);
    if (!hex_digits(slice_of(text.data, first), &high) ||
        !hex_digits(slice_of(slash + 1, text.len - first - 1), &low))
        return false;
    out->v = high << 32 | low;
    return true;
}

int
postgresi_envelope_parse(struct slice bytes, struct pg_envelope *out, struct err *err)
{
    struct reader r = reader_of(bytes);

    *out = (struct pg_envelope){.kind = (char)take_byte(&r)};
    if (out->kind == 'w') {
        (void)take_lsn(&r); /* of the record: no place to go on from */
        out->wal_end = take_lsn(&r);
        out->sent_us = take_time(&r);
        out->payload = rest_of(&r);
    } else if (out->kind == 'k') {
        out->wal_end = take_lsn(&r);
        out->sent_us = take_time(&r);
        out->reply = take_byte(&r) != 0;
    } else {
        r.bad = true;
    }
    if (r.bad)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL, "replication: an envelope that is none");
    return 0;
}

static void
put_u64(uint8_t *p, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        p[i] = (uint8_t)v;
}

void
postgresi_status_build(uint8_t out[PG_STATUS_BYTES], struct pg_lsn received, struct pg_lsn durable,
                       int64_t now_us, bool reply)
{
    out[0] = 'r';
    put_u64(out + 1, received.v);
    put_u64(out + 9, durable.v);
    put_u64(out + 17, durable.v);
    put_u64(out + 25, (uint64_t)(now_us - EPOCH_US));
    out[33] = reply;
}

/* A row, checked; `out` is all of it with its count. */
static void
take_row(struct reader *r, struct slice *out)
{
    const uint8_t *start = r->at, *p;
    uint32_t       count = (uint32_t)take_number(r, 2);

    if (count > COLUMNS_MAX)
        r->bad = true;
    for (uint32_t i = 0; i < count && !r->bad; i++) {
        uint8_t kind = take_byte(r);

        if (kind == 't')
            (void)take(r, take_u32(r), &p);
        else if (kind != 'n' && kind != 'u')
            r->bad = true;
    }
    *out = r->bad ? slice_of(NULL, 0) : slice_of(start, (size_t)(r->at - start));
}

static void
take_columns(struct reader *r, struct pg_message *m)
{
    const uint8_t *start, *p;

    m->count = (uint32_t)take_number(r, 2);
    start = r->at;
    if (m->count > COLUMNS_MAX)
        r->bad = true;
    for (uint32_t i = 0; i < m->count && !r->bad; i++) {
        (void)take_byte(r);
        (void)take_text(r);
        (void)take(r, 8, &p);
    }
    m->list = r->bad ? slice_of(NULL, 0) : slice_of(start, (size_t)(r->at - start));
}

static void
take_change(struct reader *r, struct pg_message *m)
{
    uint8_t kind;

    m->relation = take_u32(r);
    kind = take_byte(r);
    if (m->kind != PG_INSERT && (kind == 'K' || kind == 'O')) {
        m->old_kind = (char)kind;
        take_row(r, &m->old);
        if (m->kind == PG_DELETE)
            return;
        kind = take_byte(r);
    }
    if (kind != 'N' || m->kind == PG_DELETE)
        r->bad = true;
    take_row(r, &m->new);
}

static void
take_truncate(struct reader *r, struct pg_message *m)
{
    const uint8_t *p = NULL;

    m->count = take_u32(r);
    m->flags = take_byte(r);
    if (m->count > UINT32_MAX / 4)
        r->bad = true;
    if (take(r, (size_t)m->count * 4, &p))
        m->list = slice_of(p, (size_t)m->count * 4);
}

static void
take_message(struct reader *r, struct pg_message *m)
{
    const uint8_t *p = NULL;
    uint32_t       len;

    m->flags = take_byte(r);
    m->commit = take_lsn(r);
    m->name = take_text(r);
    len = take_u32(r);
    if (take(r, len, &p))
        m->content = slice_of(p, len);
}

static void
take_commit(struct reader *r, struct pg_message *m)
{
    (void)take_byte(r);
    m->commit = take_lsn(r);
    m->end = take_lsn(r);
    m->time_us = take_time(r);
}

static void
take_prepared(struct reader *r, struct pg_message *m)
{
    if (m->kind != PG_BEGIN_PREPARE)
        (void)take_byte(r);
    m->commit = take_lsn(r);
    m->end = take_lsn(r);
    m->time_us = take_time(r);
    if (m->kind == PG_ROLLBACK_PREPARED)
        m->time_us = take_time(r);
    m->xid = take_u32(r);
    m->name = take_text(r);
}

static void
take_relation(struct reader *r, struct pg_message *m)
{
    m->relation = take_u32(r);
    m->schema = take_text(r);
    m->name = take_text(r);
    m->identity = (char)take_byte(r);
    take_columns(r, m);
}

static void
take_body(struct reader *r, struct pg_message *m)
{
    switch (m->kind) {
    case PG_BEGIN:
        m->commit = take_lsn(r);
        m->time_us = take_time(r);
        m->xid = take_u32(r);
        break;
    case PG_STREAM_COMMIT:
        m->xid = take_u32(r);
        take_commit(r, m);
        break;
    case PG_COMMIT:
        take_commit(r, m);
        break;
    case PG_ORIGIN:
        (void)take_lsn(r);
        m->name = take_text(r);
        break;
    case PG_RELATION:
        take_relation(r, m);
        break;
    case PG_TYPE:
        (void)take_u32(r);
        m->schema = take_text(r);
        m->name = take_text(r);
        break;
    case PG_INSERT:
    case PG_UPDATE:
    case PG_DELETE:
        take_change(r, m);
        break;
    case PG_TRUNCATE:
        take_truncate(r, m);
        break;
    case PG_MESSAGE:
        take_message(r, m);
        break;
    case PG_STREAM_START:
        m->xid = take_u32(r);
        m->flags = take_byte(r);
        break;
    case PG_STREAM_STOP:
        break;
    case PG_STREAM_ABORT:
        m->xid = take_u32(r);
        m->subxid = take_u32(r);
        if (r->at != r->end) { /* streaming 'parallel' */
            (void)take_lsn(r);
            (void)take_time(r);
        }
        break;
    case PG_BEGIN_PREPARE:
    case PG_PREPARE:
    case PG_STREAM_PREPARE:
    case PG_COMMIT_PREPARED:
    case PG_ROLLBACK_PREPARED:
        take_prepared(r, m);
        break;
    default:
        r->bad = true;
    }
}

static bool
has_stream_xid(enum pg_message_kind kind)
{
    return kind == PG_RELATION || kind == PG_TYPE || kind == PG_INSERT || kind == PG_UPDATE ||
           kind == PG_DELETE || kind == PG_TRUNCATE || kind == PG_MESSAGE;
}

int
postgresi_message_parse(struct slice bytes, bool in_stream, struct pg_message *out, struct err *err)
{
    struct reader r = reader_of(bytes);

    *out = (struct pg_message){.kind = (enum pg_message_kind)take_byte(&r)};
    if (in_stream && has_stream_xid(out->kind))
        out->xid = take_u32(&r);
    out->body = rest_of(&r);
    take_body(&r, out);
    if (r.bad || r.at != r.end)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL,
                   "replication: a message of type 0x%02x that is not as "
                   "pgoutput's are",
                   (unsigned)out->kind & 0xff);
    return 0;
}

bool
postgresi_column_next(struct slice *list, struct pg_column *out)
{
    struct reader r = reader_of(*list);

    if (list->len == 0)
        return false;
    out->key = (take_byte(&r) & 1) != 0;
    out->name = take_text(&r);
    out->type = take_u32(&r);
    out->typmod = (int32_t)take_u32(&r);
    must(!r.bad);
    *list = rest_of(&r);
    return true;
}

bool
postgresi_relation_next(struct slice *list, uint32_t *out)
{
    struct reader r = reader_of(*list);

    if (list->len == 0)
        return false;
    *out = take_u32(&r);
    must(!r.bad);
    *list = rest_of(&r);
    return true;
}

uint32_t
postgresi_row_begin(struct slice *row)
{
    struct reader r = reader_of(*row);
    uint32_t      count = (uint32_t)take_number(&r, 2);

    if (r.bad)
        return 0;
    *row = rest_of(&r);
    return count;
}

bool
postgresi_value_next(struct slice *row, struct pg_value *out)
{
    struct reader  r = reader_of(*row);
    const uint8_t *p = NULL;
    uint32_t       len;

    if (row->len == 0)
        return false;
    out->kind = (char)take_byte(&r);
    out->text = slice_of(NULL, 0);
    if (out->kind == 't') {
        len = take_u32(&r);
        (void)take(&r, len, &p);
        out->text = slice_of(p, len);
    }
    must(!r.bad);
    *row = rest_of(&r);
    return true;
}
