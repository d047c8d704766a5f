/*
 * Events of a binary log, one after another, without checksums: whatever the
 * bytes are, nothing is read beyond them, and each row that is taken is JSON.
 */
#include "source/mariadb/binlog.h"

#include "base/bytes.h"
#include "base/json.h"
#include "base/must.h"
#include "source/mariadb/mariadb_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct my_charsets charsets;
static struct my_cell     cells[2][MARIADBI_COLUMNS_MAX];

static void
values(const struct my_table *t, const struct my_cell *row)
{
    struct buf      scratch = {0}, json = {0}, again = {0};
    struct my_value v;

    for (uint32_t i = 0; i < t->count; i++) {
        struct my_column col = t->columns[i];

        col.hint = (uint8_t)(i % (MY_HINT_INET6 + 1));
        if (mariadbi_cell_value(&charsets, &col, &row[i], &scratch, &v, NULL) != 0)
            continue;
        buf_clear(&json);
        mariadbi_value_json(&json, &v);
        must(json_check(buf_slice(&json), NULL) == 0);
        buf_clear(&again);
        must(mariadbi_cell_json(&charsets, &col, &row[i], &scratch, &again, NULL) == 0);
        must(slice_eq(buf_slice(&json), buf_slice(&again)));
        buf_clear(&json);
        buf_clear(&again);
        must(mariadbi_cell_key(&charsets, &col, &row[i], true, &scratch, &again, NULL) == 0);
        must(mariadbi_cell_value(&charsets, &col, &row[i], &scratch, &v, NULL) == 0);
        mariadbi_value_key(&json, &v, true);
        must(slice_eq(buf_slice(&json), buf_slice(&again)));
        must(json_check(slice_of((const uint8_t *)col.label.data, col.label.len - 1), NULL) == 0);
    }
    buf_fini(&scratch);
    buf_fini(&json);
    buf_fini(&again);
}

static void
rows(const struct my_event *e, const struct my_table *t)
{
    struct buf     scratch = {0};
    struct my_rows r;

    if (mariadbi_rows_take(e, t, &scratch, &r, NULL) == 0) {
        memset(cells, 0, sizeof cells[0][0] * t->count);
        memset(cells[1], 0, sizeof cells[0][0] * t->count);
        for (int n = 0; n < 50 && mariadbi_rows_next(&r, cells[0], cells[1], NULL) == 0; n++) {
            values(t, cells[0]);
            values(t, cells[1]);
        }
    }
    buf_fini(&scratch);
}

static void
other(const struct my_event *e)
{
    struct buf      scratch = {0};
    struct my_gtid  gtid;
    struct my_query query;
    struct slice    file;
    uint64_t        at;
    uint8_t         flags;
    bool            crc;

    if (e->type == MY_FORMAT)
        (void)mariadbi_format_take(e, &crc, NULL);
    (void)mariadbi_gtid_take(e, &gtid, &flags, NULL);
    for (uint32_t i = 0; mariadbi_gtid_list_next(e, i, &gtid, NULL) == 0; i++)
        continue;
    (void)mariadbi_file_take(e, &file, &at, NULL);
    if (mariadbi_query_take(e, &scratch, &query, NULL) == 0)
        (void)mariadbi_effect(query.sql, query.db, "shop", "al");
    buf_fini(&scratch);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct my_table table = {0};
    struct my_event e;
    bool            last;

    mariadbi_charsets_preset(&charsets);
    while (size >= MARIADBI_HEADER) {
        size_t len = get_u32(data + 9);

        if (len < MARIADBI_HEADER || len > size)
            break;
        if (mariadbi_event_take(slice_of(data, len), false, &e, NULL) == 0) {
            other(&e);
            if (e.type == MY_TABLE_MAP)
                (void)mariadbi_table_take(&e, &table, NULL);
            else if (mariadbi_rows_last(&e, &last) && table.count > 0)
                rows(&e, &table);
        }
        data += len;
        size -= len;
    }
    mariadbi_table_fini(&table);
    return 0;
}
