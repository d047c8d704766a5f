/*
 * Values, to the last digit: numbers and decimals as they stand, JSON as it
 * is, text in UTF-8, times as MariaDB prints them (TIMESTAMP in UTC), bytes
 * marked. A cell of the binary log and the answer of a query for the same
 * value give the same.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/must.h"
#include "base/utf8.h"
#include "source/mariadb/rows.h"

#define COLLATION_BINARY 63

void
mariadbi_charsets_preset(struct my_charsets *c)
{
    static const uint16_t latin1[] = {5, 8, 15, 31, 47, 48, 49, 94};
    static const uint16_t utf8[] = {11, 65, 33, 83, 45, 46, 223};

    memset(c, 0, sizeof *c);
    c->of[COLLATION_BINARY] = MY_CHARSET_BINARY;
    for (size_t i = 0; i < sizeof latin1 / sizeof latin1[0]; i++)
        c->of[latin1[i]] = MY_CHARSET_LATIN1;
    for (size_t i = 0; i < sizeof utf8 / sizeof utf8[0]; i++)
        c->of[utf8[i]] = MY_CHARSET_UTF8;
    for (size_t i = 192; i <= 247; i++)
        c->of[i] = MY_CHARSET_UTF8;
}

enum my_charset
mariadbi_charset_named(struct slice name)
{
    if (slice_is(name, "utf8mb4") || slice_is(name, "utf8mb3") || slice_is(name, "utf8") ||
        slice_is(name, "ascii"))
        return MY_CHARSET_UTF8;
    if (slice_is(name, "latin1"))
        return MY_CHARSET_LATIN1;
    return slice_is(name, "binary") ? MY_CHARSET_BINARY : MY_CHARSET_UNKNOWN;
}

/* MariaDB's latin1 is Windows' 1252, with the five holes as themselves. */
static void
add_latin1(struct buf *out, struct slice text)
{
    static const uint16_t high[32] = {
        0x20ac, 0x81,   0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160,
        0x2039, 0x0152, 0x8d,   0x017d, 0x8f,   0x90,   0x2018, 0x2019, 0x201c, 0x201d, 0x2022,
        0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x9d,   0x017e, 0x0178};
    const uint8_t *p = text.data;
    uint8_t        utf8[4];

    for (size_t i = 0; i < text.len; i++) {
        uint32_t code = p[i] >= 0x80 && p[i] < 0xa0 ? high[p[i] - 0x80] : p[i];

        buf_add(out, utf8, utf8_encode(code, utf8));
    }
}

static bool
is_ascii(struct slice text)
{
    const uint8_t *p = text.data;
    size_t         i = 0;

    while (text.len - i >= 8 && (get_u64(p + i) & UINT64_C(0x8080808080808080)) == 0)
        i += 8;
    while (i < text.len && p[i] < 0x80)
        i++;
    return i == text.len;
}

/* Text of a column, in UTF-8. */
static int
put_text(const struct my_charsets *charsets, const struct my_column *col, struct slice text,
         struct buf *scratch, struct slice *out, struct err *err)
{
    enum my_charset set = col->collation < MARIADBI_COLLATIONS
                              ? (enum my_charset)charsets->of[col->collation]
                              : MY_CHARSET_UNKNOWN;

    if (set == MY_CHARSET_LATIN1 && is_ascii(text))
        set = MY_CHARSET_UTF8;
    switch (set) {
    case MY_CHARSET_LATIN1:
        add_latin1(scratch, text);
        *out = buf_slice(scratch);
        return 0;
    case MY_CHARSET_UTF8:
    case MY_CHARSET_BINARY:
        *out = text;
        return 0;
    default:
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL,
                   "column %.*s: its character set (collation %u) is not supported: utf8mb4, "
                   "utf8mb3, ascii, latin1 and binary are",
                   SLICE_FMT(col->name), col->collation);
    }
}

static uint64_t
little(const uint8_t *p, size_t len)
{
    uint64_t v = 0;

    while (len > 0)
        v = v << 8 | p[--len];
    return v;
}

static uint64_t
big(const uint8_t *p, size_t len)
{
    uint64_t v = 0;

    for (size_t i = 0; i < len; i++)
        v = v << 8 | p[i];
    return v;
}

static void
put_integer(const struct my_column *col, const struct my_cell *cell, struct buf *out)
{
    uint64_t v = little(cell->data, cell->len);
    unsigned unused = 64 - 8 * cell->len;

    must(unused < 64);
    if (col->is_unsigned)
        buf_add_u64(out, v);
    else
        buf_add_i64(out, (int64_t)(v << unused) >> unused);
}

/* The last n decimal digits. */
static void
digits_of(char *text, uint64_t v, unsigned n)
{
    while (n > 0) {
        text[--n] = (char)('0' + v % 10);
        v /= 10;
    }
}

/* Groups of nine digits in four bytes, the short group at the outer end. */
static void
put_decimal(const struct my_column *col, const struct my_cell *cell, struct buf *out)
{
    static const uint8_t bytes_of[] = {0, 1, 1, 2, 2, 3, 3, 4, 4, 4};
    unsigned             scale = col->meta & 0xff, whole = (col->meta >> 8) - scale;
    bool                 negative = (cell->data[0] & 0x80) == 0;
    uint8_t              copy[40];
    const uint8_t       *p = copy;
    char                 text[70] = "0", *end = text + 1, *at = text;

    must(cell->len > 0);
    must(cell->len <= sizeof copy);
    must(whole + scale + 2 <= sizeof text);
    for (size_t i = 0; i < cell->len; i++)
        copy[i] = (uint8_t)(cell->data[i] ^ (negative ? 0xff : 0));
    copy[0] ^= 0x80;
    if (negative)
        buf_add_byte(out, '-');
    for (unsigned n; whole > 0; whole -= n, end += n) {
        n = whole % 9 == 0 ? 9 : whole % 9;
        digits_of(end, big(p, bytes_of[n]), n);
        p += bytes_of[n];
    }
    while (at + 1 < end && *at == '0')
        at++;
    if (scale > 0)
        *end++ = '.';
    for (unsigned n; scale > 0; scale -= n, end += n) {
        n = scale < 9 ? scale : 9;
        digits_of(end, big(p, bytes_of[n]), n);
        p += bytes_of[n];
    }
    buf_add(out, at, (size_t)(end - at));
}

/*
 * A number that has no more than 15 digits, as `%.15g` would write it: such a one is what it is
 * read back as, and the quotient of two whole numbers that are exact is that reading. False: it is
 * none, or one that has an exponent.
 */
static bool
put_short(struct buf *out, double v)
{
    double   size = fabs(v), ten = 1;
    uint64_t power = 1, n;
    char     text[15];

    if (!(size >= 1e-4))
        return false;
    for (unsigned digits = 0; digits <= sizeof text && size * ten < 1e15; digits++) {
        n = (uint64_t)(size * ten + 0.5);
        if ((double)n / ten == size) {
            if (v < 0)
                buf_add_byte(out, '-');
            buf_add_u64(out, n / power);
            digits_of(text, n % power, digits);
            if (digits > 0)
                buf_add_byte(out, '.');
            buf_add(out, text, digits);
            return true;
        }
        ten *= 10;
        power *= 10;
    }
    return false;
}

/* The fewest digits that read back as the same number. */
static void
put_real(struct buf *out, double v, bool single)
{
    char text[40];
    int  digits = single ? 6 : 15, most = single ? 9 : 17;

    if (!single && put_short(out, v))
        return;
    for (; digits <= most; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, v);
        if (single ? strtof(text, NULL) == (float)v : strtod(text, NULL) == v)
            break;
    }
    buf_add_str(out, text);
}

static void
put_fraction(struct buf *out, uint64_t fraction, unsigned bytes, unsigned digits)
{
    char text[6];

    if (digits == 0)
        return;
    must(digits <= bytes * 2 && bytes <= 3);
    digits_of(text, fraction, bytes * 2);
    buf_add_byte(out, '.');
    buf_add(out, text, digits);
}

/* Years have four digits, and the widest field has room for eight thousand more. */
static void
put_date(struct buf *out, uint64_t year, unsigned month, unsigned day)
{
    char text[11];

    if (year > 9999) {
        buf_printf(out, "%" PRIu64 "-%02u-%02u", year, month, day);
        return;
    }
    digits_of(text, year, 4);
    text[4] = text[7] = '-';
    digits_of(text + 5, month, 2);
    digits_of(text + 8, day, 2);
    buf_add(out, text, 10);
}

/* Hours may have three digits. */
static void
put_time(struct buf *out, unsigned hour, unsigned minute, unsigned second)
{
    char text[6] = ":mm:ss";

    if (hour < 10)
        buf_add_byte(out, '0');
    buf_add_u64(out, hour);
    digits_of(text + 1, minute, 2);
    digits_of(text + 4, second, 2);
    buf_add(out, text, sizeof text);
}

static void
put_time2(const struct my_column *col, const struct my_cell *cell, struct buf *out)
{
    unsigned bytes = (col->meta + 1u) / 2;
    int64_t  v = (int64_t)big(cell->data, cell->len) - ((int64_t)1 << (8 * cell->len - 1));
    uint64_t size = (uint64_t)(v < 0 ? -v : v), whole = size >> (8 * bytes);

    if (v < 0)
        buf_add_byte(out, '-');
    put_time(out, (unsigned)(whole >> 12) & 0x3ff, (unsigned)(whole >> 6) & 63,
             (unsigned)whole & 63);
    put_fraction(out, size & (((uint64_t)1 << (8 * bytes)) - 1), bytes, col->meta);
}

static void
put_datetime2(const struct my_column *col, const struct my_cell *cell, struct buf *out)
{
    unsigned bytes = (col->meta + 1u) / 2;
    uint64_t v = big(cell->data, 5) & 0x7fffffffff, ymd = v >> 17, time_part = v & 0x1ffff;

    put_date(out, (ymd >> 5) / 13, (unsigned)((ymd >> 5) % 13), (unsigned)ymd & 31);
    buf_add_byte(out, ' ');
    put_time(out, (unsigned)(time_part >> 12), (unsigned)(time_part >> 6) & 63,
             (unsigned)time_part & 63);
    put_fraction(out, big(cell->data + 5, bytes), bytes, col->meta);
}

static void
put_timestamp2(const struct my_column *col, const struct my_cell *cell, struct buf *out)
{
    unsigned  bytes = (col->meta + 1u) / 2;
    time_t    seconds = (time_t)big(cell->data, 4);
    struct tm tm = {0};

    if (seconds == 0) {
        buf_add_str(out, "0000-00-00 00:00:00");
    } else {
        (void)gmtime_r(&seconds, &tm);
        put_date(out, (uint64_t)tm.tm_year + 1900, (unsigned)tm.tm_mon + 1, (unsigned)tm.tm_mday);
        buf_add_byte(out, ' ');
        put_time(out, (unsigned)tm.tm_hour, (unsigned)tm.tm_min, (unsigned)tm.tm_sec);
    }
    put_fraction(out, big(cell->data + 4, bytes), bytes, col->meta);
}

static bool
label_at(const struct my_column *col, uint64_t nth, struct slice *out)
{
    struct my_cursor c;
    uint64_t         n;

    mariadbi_cursor_init(&c, col->labels);
    n = mariadbi_cursor_lenenc(&c);
    for (uint64_t i = 0; i < n && i <= nth; i++)
        *out = mariadbi_cursor_bytes(&c, (size_t)mariadbi_cursor_lenenc(&c));
    return !c.failed && nth < n;
}

static int
no_label(const struct my_column *col, struct err *err)
{
    RETURN_ERR(err, E_SCHEMA, ERR_FATAL,
               "column %.*s: the binary log has no label for its value: set "
               "binlog_row_metadata=FULL",
               SLICE_FMT(col->name));
}

static int
put_labels(const struct my_charsets *charsets, const struct my_column *col,
           const struct my_cell *cell, struct buf *scratch, struct my_value *out, struct err *err)
{
    uint64_t     v = little(cell->data, cell->len);
    struct slice label = {0};
    struct buf   one = {0};
    int          rc = 0;
    bool         first = true;

    out->kind = MY_TEXT;
    if (col->type == MYT_ENUM) {
        if (v > 0 && !label_at(col, v - 1, &label))
            return no_label(col, err);
        return put_text(charsets, col, label, scratch, &out->text, err);
    }
    for (unsigned i = 0; i < 64; i++) {
        if ((v >> i & 1) == 0)
            continue;
        if (!label_at(col, i, &label))
            TRY(no_label(col, err));
        buf_clear(&one);
        TRY(put_text(charsets, col, label, &one, &label, err));
        if (!first)
            buf_add_byte(scratch, ',');
        first = false;
        buf_add_slice(scratch, label);
    }
    out->text = buf_slice(scratch);
out:
    buf_fini(&one);
    return rc;
}

static void
put_uuid(const uint8_t bytes[16], struct buf *out)
{
    for (int i = 0; i < 16; i++)
        buf_printf(out, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", bytes[i]);
}

/* Bytes of a fixed length: zeros at the end are not in the log. */
static int
put_fixed(const struct my_column *col, const struct my_cell *cell, struct buf *scratch,
          struct my_value *out)
{
    char text[INET6_ADDRSTRLEN];

    buf_add(scratch, cell->data, cell->len);
    while (scratch->len < col->meta && !scratch->failed)
        buf_add_byte(scratch, 0);
    *out = (struct my_value){MY_BYTES, buf_slice(scratch)};
    if (scratch->failed || (col->hint == MY_HINT_INET4 ? col->meta != 4 : col->meta != 16))
        return 0;
    if (col->hint == MY_HINT_UUID) {
        uint8_t copy[16];

        memcpy(copy, scratch->data, 16);
        buf_clear(scratch);
        put_uuid(copy, scratch);
    } else if (col->hint == MY_HINT_INET6 || col->hint == MY_HINT_INET4) {
        if (inet_ntop(col->hint == MY_HINT_INET6 ? AF_INET6 : AF_INET, scratch->data, text,
                      sizeof text) == NULL)
            return 0;
        buf_clear(scratch);
        buf_add_str(scratch, text);
    } else {
        return 0;
    }
    *out = (struct my_value){MY_TEXT, buf_slice(scratch)};
    return 0;
}

/* Text that is JSON where it should be; text that is no UTF-8 is bytes. */
static void
finish_text(bool json, struct my_value *out)
{
    struct slice raw;

    if (json && json_value(out->text, &raw, NULL) == 0)
        *out = (struct my_value){MY_JSON, raw};
    else
        out->kind = utf8_valid(out->text) ? MY_TEXT : MY_BYTES;
}

static int
put_string(const struct my_charsets *charsets, const struct my_column *col,
           const struct my_cell *cell, struct buf *scratch, struct my_value *out, struct err *err)
{
    int rc;

    *out = (struct my_value){MY_BYTES, slice_of(cell->data, cell->len)};
    if (col->type == MYT_GEOMETRY)
        return 0;
    if (col->collation == COLLATION_BINARY && col->type == MYT_STRING)
        return put_fixed(col, cell, scratch, out);
    if (col->collation == COLLATION_BINARY)
        return 0;
    rc = put_text(charsets, col, out->text, scratch, &out->text, err);
    if (rc == 0)
        finish_text(col->hint == MY_HINT_JSON, out);
    return rc;
}

static void
put_number(const struct my_column *col, const struct my_cell *cell, struct buf *out)
{
    uint64_t bits = little(cell->data, cell->len);
    uint32_t half = (uint32_t)bits;
    double   d;
    float    f;

    switch (col->type) {
    case MYT_FLOAT:
        memcpy(&f, &half, sizeof f);
        put_real(out, isfinite(f) ? f : 0, true);
        break;
    case MYT_DOUBLE:
        memcpy(&d, &bits, sizeof d);
        put_real(out, isfinite(d) ? d : 0, false);
        break;
    case MYT_YEAR:
        buf_add_u64(out, bits == 0 ? 0 : bits + 1900);
        break;
    case MYT_BIT:
        buf_add_u64(out, big(cell->data, cell->len));
        break;
    case MYT_DECIMAL:
        put_decimal(col, cell, out);
        break;
    default:
        put_integer(col, cell, out);
    }
}

int
mariadbi_cell_value(const struct my_charsets *charsets, const struct my_column *col,
                    const struct my_cell *cell, struct buf *scratch, struct my_value *out,
                    struct err *err)
{
    uint64_t date;
    int      rc = 0;

    buf_clear(scratch);
    *out = (struct my_value){0};
    if (cell->state != MY_CELL_VALUE)
        return 0;
    out->kind = MY_TEXT;
    switch (col->type) {
    case MYT_DATE:
    case MYT_NEWDATE:
        date = little(cell->data, 3);
        put_date(scratch, date >> 9, (unsigned)(date >> 5) & 15, (unsigned)date & 31);
        break;
    case MYT_TIME2:
        put_time2(col, cell, scratch);
        break;
    case MYT_DATETIME2:
        put_datetime2(col, cell, scratch);
        break;
    case MYT_TIMESTAMP2:
        put_timestamp2(col, cell, scratch);
        break;
    case MYT_ENUM:
    case MYT_SET:
        rc = put_labels(charsets, col, cell, scratch, out, err);
        if (rc == 0)
            finish_text(false, out);
        goto done;
    case MYT_VARCHAR:
    case MYT_VAR_STRING:
    case MYT_STRING:
    case MYT_BLOB:
    case MYT_GEOMETRY:
        rc = put_string(charsets, col, cell, scratch, out, err);
        goto done;
    default:
        out->kind = MY_NUMBER;
        put_number(col, cell, scratch);
    }
    out->text = buf_slice(scratch);
done:
    if (rc == 0 && scratch->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a row");
    return rc;
}

/* Whether a value of this type is as put_number writes it, in JSON and as a key. */
static bool
is_number(const struct my_column *col)
{
    return mariadbi_is_numeric(col) || col->type == MYT_BIT;
}

int
mariadbi_cell_json(const struct my_charsets *charsets, const struct my_column *col,
                   const struct my_cell *cell, struct buf *scratch, struct buf *out,
                   struct err *err)
{
    struct my_value v;
    int             rc = 0;

    if (cell->state == MY_CELL_VALUE && is_number(col)) {
        put_number(col, cell, out);
        return 0;
    }
    TRY(mariadbi_cell_value(charsets, col, cell, scratch, &v, err));
    mariadbi_value_json(out, &v);
out:
    return rc;
}

int
mariadbi_cell_key(const struct my_charsets *charsets, const struct my_column *col,
                  const struct my_cell *cell, bool part, struct buf *scratch, struct buf *out,
                  struct err *err)
{
    struct my_value v;
    int             rc = 0;

    if (cell->state == MY_CELL_VALUE && is_number(col)) {
        put_number(col, cell, out);
        return 0;
    }
    TRY(mariadbi_cell_value(charsets, col, cell, scratch, &v, err));
    mariadbi_value_key(out, &v, part);
out:
    return rc;
}

/* ZEROFILL pads with zeros, which are no part of the number. */
static struct slice
without_zeros(struct slice text)
{
    const char *p = text.data;
    size_t      at = 0;

    while (at + 1 < text.len && p[at] == '0' && p[at + 1] >= '0' && p[at + 1] <= '9')
        at++;
    return slice_of(p + at, text.len - at);
}

void
mariadbi_sql_value(enum my_sql_kind kind, struct slice text, struct buf *scratch,
                   struct my_value *out)
{
    double v;

    buf_clear(scratch);
    switch (kind) {
    case MY_SQL_INTEGER:
        *out = (struct my_value){MY_NUMBER, without_zeros(text)};
        break;
    case MY_SQL_FLOAT:
    case MY_SQL_DOUBLE:
        buf_add_slice(scratch, text);
        buf_add_byte(scratch, 0);
        v = scratch->failed ? 0 : strtod((const char *)scratch->data, NULL);
        buf_clear(scratch);
        put_real(scratch, kind == MY_SQL_FLOAT ? (double)(float)v : v, kind == MY_SQL_FLOAT);
        *out = (struct my_value){MY_NUMBER, buf_slice(scratch)};
        break;
    case MY_SQL_BIT:
        buf_add_u64(scratch, big(text.data, text.len < 8 ? text.len : 8));
        *out = (struct my_value){MY_NUMBER, buf_slice(scratch)};
        break;
    case MY_SQL_BYTES:
        *out = (struct my_value){MY_BYTES, text};
        break;
    default:
        *out = (struct my_value){MY_TEXT, text};
        finish_text(kind == MY_SQL_JSON, out);
    }
}

static void
add_hex(struct buf *out, struct slice bytes)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t    *p = bytes.data;

    if (!buf_reserve(out, bytes.len * 2))
        return;
    for (size_t i = 0; i < bytes.len; i++) {
        buf_add_byte(out, (uint8_t)digits[p[i] >> 4]);
        buf_add_byte(out, (uint8_t)digits[p[i] & 15]);
    }
}

void
mariadbi_value_json(struct buf *out, const struct my_value *v)
{
    switch (v->kind) {
    case MY_NULL:
        buf_add_str(out, "null");
        break;
    case MY_TEXT:
        json_put_string(out, v->text);
        break;
    case MY_BYTES:
        buf_add_str(out, "{\"$blob\":\"");
        add_hex(out, v->text);
        buf_add_str(out, "\"}");
        break;
    default:
        buf_add_slice(out, v->text);
    }
}

void
mariadbi_value_key(struct buf *out, const struct my_value *v, bool part)
{
    const uint8_t *p = v->text.data;

    if (v->kind == MY_NULL) {
        buf_add_str(out, "\\0");
        return;
    }
    if (v->kind == MY_BYTES) {
        buf_add_str(out, "\\x");
        add_hex(out, v->text);
        return;
    }
    for (size_t i = 0; i < v->text.len; i++) {
        if (part && (p[i] == '|' || p[i] == '\\'))
            buf_add_byte(out, '\\');
        buf_add_byte(out, p[i]);
    }
}
