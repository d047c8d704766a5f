#include "source/mariadb/rows.h"

#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"

enum tlv {
    TLV_SIGNEDNESS = 1,
    TLV_DEFAULT_CHARSET,
    TLV_COLUMN_CHARSET,
    TLV_COLUMN_NAME,
    TLV_SET_LABELS,
    TLV_ENUM_LABELS,
    TLV_GEOMETRY,
    TLV_KEY,
    TLV_KEY_PREFIX,
    TLV_LABELS_DEFAULT_CHARSET,
    TLV_LABELS_CHARSET,
};

#define ROWS_LAST 1u

static int
bad_map(struct err *err)
{
    RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "binlog: a TABLE_MAP is damaged");
}

bool
mariadbi_is_numeric(const struct my_column *c)
{
    switch (c->type) {
    case MYT_TINY:
    case MYT_SHORT:
    case MYT_LONG:
    case MYT_FLOAT:
    case MYT_DOUBLE:
    case MYT_LONGLONG:
    case MYT_INT24:
    case MYT_YEAR:
    case MYT_DECIMAL:
        return true;
    default:
        return false;
    }
}

static bool
has_charset(const struct my_column *c)
{
    return c->type == MYT_VARCHAR || c->type == MYT_VAR_STRING || c->type == MYT_STRING ||
           c->type == MYT_BLOB || c->type == MYT_GEOMETRY;
}

static bool
has_labels(const struct my_column *c)
{
    return c->type == MYT_ENUM || c->type == MYT_SET;
}

static bool
is_enum(const struct my_column *c)
{
    return c->type == MYT_ENUM;
}

static bool
is_set(const struct my_column *c)
{
    return c->type == MYT_SET;
}

/* The next column from `at` that is of a class; t->count: none. */
static uint32_t
next_of(const struct my_table *t, uint32_t at, bool (*is)(const struct my_column *))
{
    while (at < t->count && !is(&t->columns[at]))
        at++;
    return at;
}

static void
take_meta(struct my_column *col, struct my_cursor *c)
{
    uint32_t b0, b1;

    switch (col->type) {
    case MYT_FLOAT:
    case MYT_DOUBLE:
    case MYT_BLOB:
    case MYT_GEOMETRY:
    case MYT_TIMESTAMP2:
    case MYT_DATETIME2:
    case MYT_TIME2:
        col->meta = (uint16_t)mariadbi_cursor_le(c, 1);
        break;
    case MYT_VARCHAR:
    case MYT_BIT:
        col->meta = (uint16_t)mariadbi_cursor_le(c, 2);
        break;
    case MYT_DECIMAL:
        col->meta = (uint16_t)mariadbi_cursor_be(c, 2);
        break;
    case MYT_ENUM:
    case MYT_SET:
    case MYT_VAR_STRING:
    case MYT_STRING:
        b0 = (uint32_t)mariadbi_cursor_le(c, 1);
        b1 = (uint32_t)mariadbi_cursor_le(c, 1);
        if (b0 == MYT_ENUM || b0 == MYT_SET) {
            col->type = (uint8_t)b0;
            col->meta = (uint16_t)b1;
        } else {
            col->type = MYT_STRING;
            col->meta = (uint16_t)(b1 | ((b0 & 0x30) ^ 0x30) << 4);
        }
        break;
    default:
        break;
    }
}

/* Whether what the map says of a column can be. */
static bool
meta_fits(const struct my_column *c)
{
    unsigned high = c->meta >> 8, low = c->meta & 0xff;

    switch (c->type) {
    case MYT_BLOB:
    case MYT_GEOMETRY:
        return c->meta >= 1 && c->meta <= 4;
    case MYT_TIMESTAMP2:
    case MYT_DATETIME2:
    case MYT_TIME2:
        return c->meta <= 6;
    case MYT_BIT:
        return low < 8 && high <= 8 && high * 8 + low >= 1 && high * 8 + low <= 64;
    case MYT_DECIMAL:
        return high >= 1 && high <= 65 && low <= 38 && low <= high;
    case MYT_ENUM:
        return c->meta == 1 || c->meta == 2;
    case MYT_SET:
        return c->meta >= 1 && c->meta <= 8;
    default:
        return true;
    }
}

static bool
is_known(uint8_t type)
{
    switch (type) {
    case MYT_TINY:
    case MYT_SHORT:
    case MYT_LONG:
    case MYT_FLOAT:
    case MYT_DOUBLE:
    case MYT_LONGLONG:
    case MYT_INT24:
    case MYT_DATE:
    case MYT_YEAR:
    case MYT_NEWDATE:
    case MYT_VARCHAR:
    case MYT_BIT:
    case MYT_TIMESTAMP2:
    case MYT_DATETIME2:
    case MYT_TIME2:
    case MYT_DECIMAL:
    case MYT_ENUM:
    case MYT_SET:
    case MYT_BLOB:
    case MYT_VAR_STRING:
    case MYT_STRING:
    case MYT_GEOMETRY:
        return true;
    default:
        return false;
    }
}

/* One bit a numeric column, the highest first. */
static void
take_signs(struct my_table *t, struct slice data)
{
    const uint8_t *p = data.data;
    uint32_t       at = next_of(t, 0, mariadbi_is_numeric);

    for (size_t i = 0; i < data.len * 8 && at < t->count; i++) {
        t->columns[at].is_unsigned = (p[i / 8] >> (7 - i % 8) & 1) != 0;
        at = next_of(t, at + 1, mariadbi_is_numeric);
    }
}

static void
take_default_charset(struct my_table *t, struct my_cursor *c, bool (*is)(const struct my_column *))
{
    uint32_t preset = (uint32_t)mariadbi_cursor_lenenc(c), at, nth = 0;

    for (at = next_of(t, 0, is); at < t->count; at = next_of(t, at + 1, is))
        t->columns[at].collation = preset;
    at = next_of(t, 0, is);
    while (!c->failed && mariadbi_cursor_left(c) > 0) {
        uint64_t which = mariadbi_cursor_lenenc(c);
        uint32_t collation = (uint32_t)mariadbi_cursor_lenenc(c);

        for (; nth < which && at < t->count; nth++)
            at = next_of(t, at + 1, is);
        if (nth != which || at == t->count) {
            c->failed = true;
            return;
        }
        t->columns[at].collation = collation;
    }
}

static void
take_charsets(struct my_table *t, struct my_cursor *c, bool (*is)(const struct my_column *))
{
    for (uint32_t at = next_of(t, 0, is); at < t->count && mariadbi_cursor_left(c) > 0;
         at = next_of(t, at + 1, is))
        t->columns[at].collation = (uint32_t)mariadbi_cursor_lenenc(c);
}

static void
take_names(struct my_table *t, struct my_cursor *c)
{
    for (uint32_t i = 0; i < t->count; i++)
        t->columns[i].name = mariadbi_cursor_bytes(c, (size_t)mariadbi_cursor_le(c, 1));
}

static void
take_labels(struct my_table *t, struct my_cursor *c, bool (*is)(const struct my_column *))
{
    for (uint32_t at = next_of(t, 0, is); at < t->count && !c->failed;
         at = next_of(t, at + 1, is)) {
        const uint8_t *from = c->at;
        uint64_t       n = mariadbi_cursor_lenenc(c);

        for (uint64_t i = 0; i < n && !c->failed; i++)
            (void)mariadbi_cursor_bytes(c, (size_t)mariadbi_cursor_lenenc(c));
        t->columns[at].labels = slice_of(from, (size_t)(c->at - from));
    }
}

static void
take_key(struct my_table *t, struct my_cursor *c, bool prefixes)
{
    t->key_count = 0;
    while (!c->failed && mariadbi_cursor_left(c) > 0) {
        uint64_t at = mariadbi_cursor_lenenc(c);

        if (prefixes)
            (void)mariadbi_cursor_lenenc(c);
        if (at >= t->count || t->key_count == t->count) {
            c->failed = true;
            return;
        }
        t->key[t->key_count++] = (uint32_t)at;
    }
}

static int
take_tlvs(struct my_table *t, struct my_cursor *c, struct err *err)
{
    while (mariadbi_cursor_left(c) > 0) {
        uint64_t         type = mariadbi_cursor_le(c, 1);
        struct slice     data = mariadbi_cursor_bytes(c, (size_t)mariadbi_cursor_lenenc(c));
        struct my_cursor in;

        if (c->failed)
            return bad_map(err);
        mariadbi_cursor_init(&in, data);
        switch (type) {
        case TLV_SIGNEDNESS:
            take_signs(t, data);
            break;
        case TLV_DEFAULT_CHARSET:
            take_default_charset(t, &in, has_charset);
            break;
        case TLV_COLUMN_CHARSET:
            take_charsets(t, &in, has_charset);
            break;
        case TLV_COLUMN_NAME:
            take_names(t, &in);
            break;
        case TLV_SET_LABELS:
            take_labels(t, &in, is_set);
            break;
        case TLV_ENUM_LABELS:
            take_labels(t, &in, is_enum);
            break;
        case TLV_KEY:
        case TLV_KEY_PREFIX:
            take_key(t, &in, type == TLV_KEY_PREFIX);
            break;
        case TLV_LABELS_DEFAULT_CHARSET:
            take_default_charset(t, &in, has_labels);
            break;
        case TLV_LABELS_CHARSET:
            take_charsets(t, &in, has_labels);
            break;
        default:
            break;
        }
        if (in.failed)
            return bad_map(err);
    }
    return 0;
}

void
mariadbi_table_fini(struct my_table *t)
{
    free(t->columns);
    free(t->key);
    buf_fini(&t->raw);
    buf_fini(&t->json);
    *t = (struct my_table){0};
}

static int
take_columns(struct my_table *t, struct my_cursor *c, struct err *err)
{
    uint64_t         count = mariadbi_cursor_lenenc(c);
    struct slice     types = mariadbi_cursor_bytes(c, (size_t)count);
    struct slice     meta = mariadbi_cursor_bytes(c, (size_t)mariadbi_cursor_lenenc(c));
    struct my_cursor in;

    if (c->failed || count == 0 || count > MARIADBI_COLUMNS_MAX)
        return bad_map(err);
    t->columns = calloc((size_t)count, sizeof t->columns[0]);
    t->key = calloc((size_t)count, sizeof t->key[0]);
    if (t->columns == NULL || t->key == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    t->count = (uint32_t)count;
    mariadbi_cursor_init(&in, meta);
    for (uint32_t i = 0; i < t->count; i++) {
        t->columns[i].type = ((const uint8_t *)types.data)[i];
        if (!is_known(t->columns[i].type))
            RETURN_ERR(err, E_SCHEMA, ERR_FATAL,
                       "table %.*s.%.*s: column %u has type %u, which is not supported (a temporal "
                       "type of before 10.1, or COMPRESSED): ALTER TABLE … FORCE, or MODIFY it",
                       SLICE_FMT(t->db), SLICE_FMT(t->name), i + 1, t->columns[i].type);
        take_meta(&t->columns[i], &in);
        if (!meta_fits(&t->columns[i]))
            return bad_map(err);
    }
    return in.failed ? bad_map(err) : 0;
}

/* What each value of a row is preceded by. */
static int
write_labels(struct my_table *t, struct err *err)
{
    size_t at = 0;

    for (uint32_t i = 0; i < t->count; i++) {
        json_put_string(&t->json, t->columns[i].name);
        buf_add_byte(&t->json, ':');
        t->columns[i].label.len = t->json.len - at;
        at = t->json.len;
    }
    if (t->json.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    at = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        t->columns[i].label.data = t->json.data + at;
        at += t->columns[i].label.len;
    }
    must(at == t->json.len);
    return 0;
}

int
mariadbi_table_take(const struct my_event *e, struct my_table *t, struct err *err)
{
    struct my_cursor c;
    int              rc;

    mariadbi_table_fini(t);
    buf_add_slice(&t->raw, e->body);
    if (t->raw.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    mariadbi_cursor_init(&c, buf_slice(&t->raw));
    t->id = mariadbi_cursor_le(&c, 6);
    (void)mariadbi_cursor_le(&c, 2);
    t->db = mariadbi_cursor_bytes(&c, (size_t)mariadbi_cursor_le(&c, 1));
    (void)mariadbi_cursor_le(&c, 1);
    t->name = mariadbi_cursor_bytes(&c, (size_t)mariadbi_cursor_le(&c, 1));
    (void)mariadbi_cursor_le(&c, 1);
    TRY(take_columns(t, &c, err));
    (void)mariadbi_cursor_bytes(&c, (t->count + 7) / 8);
    if (c.failed)
        TRY(bad_map(err));
    TRY(take_tlvs(t, &c, err));
    TRY(write_labels(t, err));
out:
    if (rc != 0)
        mariadbi_table_fini(t);
    return rc;
}

uint64_t
mariadbi_table_id(const struct my_event *e)
{
    struct my_cursor c;
    uint64_t         id;

    mariadbi_cursor_init(&c, e->body);
    id = mariadbi_cursor_le(&c, 6);
    return c.failed ? UINT64_MAX : id;
}

/* rows */

static int
bad_rows(const struct my_table *t, struct err *err)
{
    RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "binlog: rows of %.*s.%.*s do not fit its TABLE_MAP",
               SLICE_FMT(t->db), SLICE_FMT(t->name));
}

/* The kind without the way it is packed; 0: no rows. */
static uint8_t
rows_op(uint8_t type)
{
    if (type >= MY_WRITE_ROWS && type <= MY_DELETE_ROWS)
        return type;
    if (type >= MY_WRITE_ROWS_V2 && type <= MY_DELETE_ROWS_V2)
        return (uint8_t)(type - MY_WRITE_ROWS_V2 + MY_WRITE_ROWS);
    if (type >= MY_WRITE_ROWS_COMPRESSED && type <= MY_DELETE_ROWS_COMPRESSED)
        return (uint8_t)(type - MY_WRITE_ROWS_COMPRESSED + MY_WRITE_ROWS);
    return 0;
}

bool
mariadbi_rows_last(const struct my_event *e, bool *last)
{
    struct my_cursor c;

    if (rows_op(e->type) == 0)
        return false;
    mariadbi_cursor_init(&c, e->body);
    (void)mariadbi_cursor_le(&c, 6);
    *last = (mariadbi_cursor_le(&c, 2) & ROWS_LAST) != 0;
    return true;
}

static uint32_t
bits_in(const uint8_t *bits, uint32_t count)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < count; i++)
        n += bits[i / 8] >> (i % 8) & 1u;
    return n;
}

int
mariadbi_rows_take(const struct my_event *e, const struct my_table *table, struct buf *scratch,
                   struct my_rows *out, struct err *err)
{
    struct my_cursor c;
    uint64_t         more;
    size_t           bytes = (table->count + 7) / 8;
    int              rc;

    *out = (struct my_rows){.table = table, .op = rows_op(e->type)};
    must(out->op != 0);
    mariadbi_cursor_init(&c, e->body);
    if (mariadbi_cursor_le(&c, 6) != table->id)
        return bad_rows(table, err);
    out->last = (mariadbi_cursor_le(&c, 2) & ROWS_LAST) != 0;
    if (e->type >= MY_WRITE_ROWS_V2 && e->type <= MY_DELETE_ROWS_V2) {
        more = mariadbi_cursor_le(&c, 2);
        (void)mariadbi_cursor_bytes(&c, more < 2 ? 0 : (size_t)more - 2);
    }
    if (mariadbi_cursor_lenenc(&c) != table->count)
        return bad_rows(table, err);
    out->has[0] = mariadbi_cursor_bytes(&c, bytes).data;
    out->has[1] = out->op == MY_UPDATE_ROWS ? mariadbi_cursor_bytes(&c, bytes).data : out->has[0];
    if (c.failed)
        return bad_rows(table, err);
    for (int i = 0; i < 2; i++)
        out->some[i] = bits_in(out->has[i], table->count);
    if (e->type >= MY_WRITE_ROWS_COMPRESSED && mariadbi_cursor_left(&c) > 0) {
        rc = mariadbi_inflate(slice_of(c.at, mariadbi_cursor_left(&c)), scratch, err);
        if (rc != 0)
            return rc;
        mariadbi_cursor_init(&c, buf_slice(scratch));
    }
    out->c = c;
    return 0;
}

static uint32_t
decimal_bytes(unsigned digits)
{
    static const uint8_t rest[] = {0, 1, 1, 2, 2, 3, 3, 4, 4};

    return digits / 9 * 4 + rest[digits % 9];
}

/* Of a value; its own length is taken from the cursor where it has one. */
static size_t
cell_length(const struct my_column *col, struct my_cursor *c)
{
    unsigned high = col->meta >> 8, low = col->meta & 0xff;

    switch (col->type) {
    case MYT_TINY:
    case MYT_YEAR:
        return 1;
    case MYT_SHORT:
        return 2;
    case MYT_INT24:
    case MYT_DATE:
    case MYT_NEWDATE:
        return 3;
    case MYT_LONG:
    case MYT_FLOAT:
        return 4;
    case MYT_DOUBLE:
    case MYT_LONGLONG:
        return 8;
    case MYT_TIMESTAMP2:
        return 4 + (low + 1) / 2;
    case MYT_DATETIME2:
        return 5 + (low + 1) / 2;
    case MYT_TIME2:
        return 3 + (low + 1) / 2;
    case MYT_BIT:
        return high + (low > 0);
    case MYT_DECIMAL:
        return decimal_bytes(high - low) + decimal_bytes(low);
    case MYT_ENUM:
    case MYT_SET:
        return col->meta;
    case MYT_VARCHAR:
    case MYT_STRING:
        return (size_t)mariadbi_cursor_le(c, col->meta > 255 ? 2 : 1);
    default:
        must(col->type == MYT_BLOB || col->type == MYT_GEOMETRY);
        return (size_t)mariadbi_cursor_le(c, col->meta);
    }
}

static int
take_image(struct my_rows *r, int which, struct my_cell *cells, struct err *err)
{
    const struct my_table *t = r->table;
    const uint8_t         *nulls = mariadbi_cursor_bytes(&r->c, (r->some[which] + 7) / 8).data;
    uint32_t               at = 0;

    for (uint32_t i = 0; i < t->count && !r->c.failed; i++) {
        struct slice s;

        cells[i] = (struct my_cell){0};
        if ((r->has[which][i / 8] >> (i % 8) & 1) == 0)
            continue;
        cells[i].state = (nulls[at / 8] >> (at % 8) & 1) != 0 ? MY_CELL_NULL : MY_CELL_VALUE;
        at++;
        if (cells[i].state == MY_CELL_NULL)
            continue;
        s = mariadbi_cursor_bytes(&r->c, cell_length(&t->columns[i], &r->c));
        cells[i].data = s.data;
        cells[i].len = (uint32_t)s.len;
    }
    return r->c.failed ? bad_rows(t, err) : 0;
}

int
mariadbi_rows_next(struct my_rows *r, struct my_cell *before, struct my_cell *after,
                   struct err *err)
{
    int rc = 0;

    if (mariadbi_cursor_left(&r->c) == 0)
        return E_END;
    if (r->some[0] == 0 && r->some[1] == 0)
        return bad_rows(r->table, err);
    if (r->op != MY_WRITE_ROWS)
        TRY(take_image(r, 0, before, err));
    if (r->op == MY_WRITE_ROWS)
        TRY(take_image(r, 0, after, err));
    if (r->op == MY_UPDATE_ROWS)
        TRY(take_image(r, 1, after, err));
out:
    return rc;
}
