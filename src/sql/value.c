/* Values of columns to JSON and back. */
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/utf8.h"
#include "sql/sql.h"

void
sql_json_real(struct buf *b, double v)
{
    char text[40];

    if (isinf(v)) {
        buf_add_str(b, v > 0 ? "9e999" : "-9e999");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    buf_add_str(b, text);
    if (strpbrk(text, ".e") == NULL)
        buf_add_str(b, ".0");
}

static void
add_hex(struct buf *b, const char *kind, const uint8_t *data, size_t len)
{
    static const char digits[] = "0123456789abcdef";

    buf_printf(b, "{\"%s\":\"", kind);
    if (!buf_reserve(b, len * 2 + 2))
        return;
    for (size_t i = 0; i < len; i++) {
        buf_add_byte(b, (uint8_t)digits[data[i] >> 4]);
        buf_add_byte(b, (uint8_t)digits[data[i] & 15]);
    }
    buf_add_str(b, "\"}");
}

void
sql_column_json(struct buf *b, struct sqlite3_stmt *stmt, int col)
{
    struct slice text;
    const void  *blob;

    switch (sqlite3_column_type(stmt, col)) {
    case SQLITE_INTEGER:
        buf_add_i64(b, sqlite3_column_int64(stmt, col));
        break;
    case SQLITE_FLOAT:
        sql_json_real(b, sqlite3_column_double(stmt, col));
        break;
    case SQLITE_TEXT:
        text = sql_column_slice(stmt, col);
        if (utf8_valid(text))
            json_put_string(b, text);
        else
            add_hex(b, "$text", text.data, text.len);
        break;
    case SQLITE_BLOB:
        blob = sqlite3_column_blob(stmt, col);
        add_hex(b, "$blob", blob, (size_t)sqlite3_column_bytes(stmt, col));
        break;
    default:
        buf_add_str(b, "null");
    }
}

static int
nibble(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* {"$blob":"hex"} or {"$text":"hex"} and nothing else; false for any other object. */
static bool
hex_object(struct slice raw, struct buf *out, bool *blob)
{
    struct json_field fields[] = {{.name = "$blob"}, {.name = "$text"}};
    struct slice      hex;
    const uint8_t    *p;

    if (json_pick(raw, fields, 2, JSON_PICK_ONLY, NULL) != 0)
        return false;
    *blob = fields[0].value.data != NULL;
    hex = *blob ? fields[0].value : fields[1].value;
    if ((fields[0].value.data != NULL) == (fields[1].value.data != NULL))
        return false;
    if (json_type(hex) != JSON_STRING || hex.len % 2 != 0)
        return false;
    p = hex.data;
    for (size_t i = 1; i + 1 < hex.len; i += 2) {
        int hi = nibble(p[i]), lo = nibble(p[i + 1]);

        if (hi < 0 || lo < 0)
            return false;
        buf_add_byte(out, (uint8_t)(hi << 4 | lo));
    }
    return true;
}

static int
bind_number(struct sqlite3_stmt *stmt, int at, struct slice raw)
{
    char    text[64];
    int64_t whole;

    if (json_int64(raw, &whole))
        return sqlite3_bind_int64(stmt, at, whole);
    if (raw.len < sizeof text &&
        (memchr(raw.data, '.', raw.len) != NULL || memchr(raw.data, 'e', raw.len) != NULL ||
         memchr(raw.data, 'E', raw.len) != NULL)) {
        memcpy(text, raw.data, raw.len);
        text[raw.len] = '\0';
        return sqlite3_bind_double(stmt, at, strtod(text, NULL));
    }
    sql_bind_slice(stmt, at, raw);
    return SQLITE_OK;
}

static int
bind_object(struct sqlite3_stmt *stmt, int at, struct slice raw)
{
    struct buf bytes = {0};
    bool       blob = false;
    int        rc = SQLITE_OK;

    if (!hex_object(raw, &bytes, &blob))
        sql_bind_slice(stmt, at, raw);
    else if (bytes.failed)
        rc = SQLITE_NOMEM;
    else if (blob)
        rc = sqlite3_bind_blob64(stmt, at, bytes.len == 0 ? (const void *)"" : bytes.data,
                                 bytes.len, SQLITE_TRANSIENT);
    else
        sql_bind_slice(stmt, at, buf_slice(&bytes));
    buf_fini(&bytes);
    return rc;
}

int
sql_bind_json(struct sqlite3_stmt *stmt, int at, struct slice raw, struct err *err)
{
    struct buf   scratch = {0};
    struct slice text;
    int          got = SQLITE_OK;
    int          rc = 0;

    switch (json_type(raw)) {
    case JSON_NULL:
        got = sqlite3_bind_null(stmt, at);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        got = sqlite3_bind_int(stmt, at, json_type(raw) == JSON_TRUE);
        break;
    case JSON_NUMBER:
        got = bind_number(stmt, at, raw);
        break;
    case JSON_STRING:
        TRY(json_string_view(raw, &scratch, &text, err));
        sql_bind_slice(stmt, at, text);
        break;
    case JSON_OBJECT:
        got = bind_object(stmt, at, raw);
        break;
    default:
        sql_bind_slice(stmt, at, raw);
    }
    if (got != SQLITE_OK)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    buf_fini(&scratch);
    return rc;
}

void
sql_column_key(struct buf *b, struct sqlite3_stmt *stmt, int col, bool part)
{
    const uint8_t *p;
    struct slice   text;

    switch (sqlite3_column_type(stmt, col)) {
    case SQLITE_FLOAT:
        sql_json_real(b, sqlite3_column_double(stmt, col));
        return;
    case SQLITE_NULL:
        buf_add_str(b, "\\0");
        return;
    case SQLITE_BLOB:
        p = sqlite3_column_blob(stmt, col);
        text = slice_of(p, (size_t)sqlite3_column_bytes(stmt, col));
        buf_add_str(b, "\\x");
        for (size_t i = 0; i < text.len; i++)
            buf_printf(b, "%02x", p[i]);
        return;
    default:
        text = sql_column_slice(stmt, col);
    }
    p = text.data;
    for (size_t i = 0; i < text.len; i++) {
        if (part && (p[i] == '|' || p[i] == '\\'))
            buf_add_byte(b, '\\');
        buf_add_byte(b, p[i]);
    }
}
