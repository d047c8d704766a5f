/*
 * Values as texts: each becomes its column's type by the very function that PostgreSQL's JSON uses
 * for it, but without the JSON. A statement takes an array for each column, in the binary format.
 *
 * A value lies in s->json behind its length, which has the array's own byte order; a comma between
 * the rows, of sink_table_group.
 */
#include <endian.h>

#include "base/json.h"
#include "sink/postgres/postgres_int.h"

#define LENGTH 4u
#define HEAD 20u /* of an array */
#define TEXT_OID 25u
#define NULL_LENGTH UINT32_MAX

static void
put_be(uint8_t *at, uint32_t v)
{
    v = htobe32(v);
    memcpy(at, &v, sizeof v);
}

static uint32_t
get_be(const uint8_t *at)
{
    uint32_t v;

    memcpy(&v, at, sizeof v);
    return be32toh(v);
}

/* Of the first row: the other ones have the same columns. */
static bool
note_column(struct sinki_postgres_sink *s, int column)
{
    if (column < 0 || s->columns[column].cast == NULL) {
        s->odd = true;
    } else if (s->first) {
        if (s->array_count > SINK_TABLE_COLUMNS_MAX)
            s->odd = true;
        else
            s->arrays[s->array_count++] = (struct sinki_postgres_array){.column = column};
    }
    return !s->odd;
}

static void
put(struct sinki_postgres_sink *s, struct slice text)
{
    uint8_t length[LENGTH];

    if (text.len > INT32_MAX) {
        s->odd = true;
        return;
    }
    put_be(length, (uint32_t)text.len);
    buf_add(&s->json, length, LENGTH);
    buf_add_slice(&s->json, text);
}

void
sinki_postgres_put_null(struct sinki_postgres_sink *s, int column)
{
    uint8_t length[LENGTH];

    put_be(length, NULL_LENGTH);
    if (note_column(s, column))
        buf_add(&s->json, length, LENGTH);
}

void
sinki_postgres_put_text(struct sinki_postgres_sink *s, int column, struct slice text)
{
    if (!note_column(s, column))
        return;
    if (s->columns[column].json)
        s->odd = true;
    else
        put(s, text);
}

int
sinki_postgres_put(struct sinki_postgres_sink *s, int column, struct slice raw, struct err *err)
{
    struct slice text = raw;
    int          rc = 0;

    if (json_is_null(raw)) {
        sinki_postgres_put_null(s, column);
        return 0;
    }
    if (!note_column(s, column))
        return 0;
    /* PostgreSQL says what it thinks of a zero byte, and of one that is none. */
    if (memmem(raw.data, raw.len, "\\u0000", 6) != NULL) {
        s->odd = true;
        return 0;
    }
    if (json_type(raw) == JSON_STRING && !s->columns[column].json)
        TRY(json_string_view(raw, &s->scratch, &text, err));
    put(s, text);
out:
    return rc;
}

/* The lengths of all arrays, and of them together. */
static size_t
measure(struct sinki_postgres_sink *s, uint32_t rows)
{
    const uint8_t *at = s->json.data, *end = at + s->json.len;
    size_t         all = 0;

    for (uint32_t i = 0; i < s->array_count; i++)
        s->arrays[i].len = 0;
    for (uint32_t row = 0; row < rows; row++) {
        at += row > 0; /* the comma */
        for (uint32_t i = 0; i < s->array_count; i++) {
            uint32_t n = get_be(at);
            size_t   len = LENGTH + (n == NULL_LENGTH ? 0 : n);

            s->arrays[i].len += len;
            at += len;
            must(at <= end);
        }
    }
    must(at == end);
    for (uint32_t i = 0; i < s->array_count; i++) {
        s->arrays[i].at = all;
        all += HEAD + s->arrays[i].len;
    }
    return all;
}

int
sinki_postgres_turn(struct sinki_postgres_sink *s, uint32_t rows, struct err *err)
{
    const uint8_t *at = s->json.data;
    size_t         all = measure(s, rows);
    int            rc = 0;

    must(rows > 0);
    must(s->array_count > 0);
    buf_clear(&s->params);
    if (!buf_reserve(&s->params, all))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    s->params.len = all;
    for (uint32_t i = 0; i < s->array_count; i++) {
        const uint32_t head[] = {1, 1, TEXT_OID, rows, 1}; /* one dimension, with NULLs, from 1 */

        for (size_t k = 0; k < sizeof head / sizeof head[0]; k++)
            put_be(s->params.data + s->arrays[i].at + LENGTH * k, head[k]);
        s->arrays[i].len = HEAD; /* so far */
    }
    for (uint32_t row = 0; row < rows; row++) {
        at += row > 0;
        for (uint32_t i = 0; i < s->array_count; i++) {
            struct sinki_postgres_array *a = &s->arrays[i];
            uint32_t                     n = get_be(at);
            size_t                       len = LENGTH + (n == NULL_LENGTH ? 0 : n);

            memcpy(s->params.data + a->at + a->len, at, len);
            a->len += len;
            at += len;
        }
    }
out:
    return rc;
}
