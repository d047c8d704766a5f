/*
 * Items into statements: literals of SQL, one statement for as many items as have the same columns.
 * MariaDB takes the rows of one in their order, so a key may come several times.
 */
#include <stdlib.h>

#include "base/json.h"
#include "base/rfc3339.h"
#include "sink/mariadb/mariadb_int.h"

#define ROWS_BYTES ((size_t)1 << 20) /* of one statement, or one row that is larger */
#define WHOLE_DIGITS 18              /* that surely fit 64 bits */

/* values */

/* "2026-11-30T01:02:03Z" as MariaDB has it, in UTC; false: it is no such time. */
static bool
put_time(struct slice text, struct buf *out)
{
    char    as[TIME_TEXT_MAX];
    int64_t us;

    if (text.len < 20 || !time_parse(text, &us))
        return false;
    time_format(us, as);
    as[10] = ' ';
    as[strlen(as) - 1] = '\0'; /* the Z */
    buf_printf(out, "'%s'", as);
    return true;
}

static int
put_value(struct sinki_mariadb_sink *s, struct slice raw, bool is_time, struct buf *out,
          struct err *err)
{
    int rc = 0;

    switch (json_type(raw)) {
    case JSON_NULL:
        buf_add_str(out, "NULL");
        break;
    case JSON_TRUE:
        buf_add_str(out, "TRUE");
        break;
    case JSON_FALSE:
        buf_add_str(out, "FALSE");
        break;
    case JSON_NUMBER:
        buf_add_slice(out, raw);
        break;
    case JSON_STRING:
        buf_clear(&s->scratch);
        TRY(json_string_decode(raw, &s->scratch, err));
        if (!is_time || !put_time(buf_slice(&s->scratch), out))
            sinki_mariadb_text(s, out, buf_slice(&s->scratch));
        break;
    default:
        sinki_mariadb_text(s, out, raw);
    }
out:
    return rc;
}

/* rows */

/* A field into the row that is being made, and its column into the list. */
static int
add_field(void *arg, struct slice column, struct slice value, struct err *err)
{
    struct sinki_mariadb_sink *s = arg;
    int                        at = sinki_mariadb_find_column(s, column);

    if (at < 0 && s->rows.create && json_is_null(value))
        return 0; /* a value that comes later says of what type it is */
    if (at < 0)
        RETURN_ERR(err, E_REJECTED, ERR_DATA, "table %s has no column for a field of the event",
                   s->rows.name);
    buf_add_str(&s->list, ", ");
    sink_quote(&s->list, '`', column);
    buf_add_byte(&s->values, ',');
    return put_value(s, value, s->columns[at].is_time, &s->values, err);
}

static int
add_fields(struct sinki_mariadb_sink *s, const struct sink_item *item, struct err *err)
{
    int rc = 0;

    if (sink_table_deletes(&s->rows, item->type)) {
        sinki_mariadb_text(s, &s->values, item->key);
        return 0;
    }
    buf_add_byte(&s->values, '(');
    sinki_mariadb_text(s, &s->values, item->key);
    rc = sink_table_fields(&s->rows, item, &s->name, add_field, s, err);
    buf_add_byte(&s->values, ')');
    return rc;
}

static int
add_event(struct sinki_mariadb_sink *s, const struct sink_item *item, struct err *err)
{
    struct slice meta;
    char         text[TIME_TEXT_MAX];

    if (item->data.len > 0 && !item->json)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "its data is no JSON");
    id_format(&item->id, text);
    buf_printf(&s->values, "(%llu, '%s', ", (unsigned long long)item->pos.v, text);
    sinki_mariadb_text(s, &s->values, item->stream);
    buf_printf(&s->values, ", %llu, ", (unsigned long long)item->version);
    sinki_mariadb_text(s, &s->values, item->type);
    buf_add_str(&s->values, ", ");
    time_format(item->created_us, text);
    (void)put_time(slice_str(text), &s->values);
    buf_add_str(&s->values, ", ");
    if (item->data.len == 0)
        buf_add_str(&s->values, "NULL");
    else
        sinki_mariadb_text(s, &s->values, item->data);
    buf_add_str(&s->values, ", ");
    if (item->meta.len == 0 || json_value(item->meta, &meta, NULL) != 0)
        buf_add_str(&s->values, "NULL");
    else
        sinki_mariadb_text(s, &s->values, meta);
    buf_add_byte(&s->values, ')');
    return 0;
}

static int
add_row(struct sink *base, const struct sink_item *item, struct err *err)
{
    struct sinki_mariadb_sink *s = (struct sinki_mariadb_sink *)base;

    return s->rows.append ? add_event(s, item, err) : add_fields(s, item, err);
}

static void
make_statement(struct sinki_mariadb_sink *s, bool gone)
{
    const char *table = (const char *)s->table.data;

    buf_clear(&s->sql);
    if (s->rows.append) {
        buf_printf(&s->sql,
                   "INSERT INTO %s(position, id, stream, version, type, created, data, meta) "
                   "VALUES ",
                   table);
        buf_add_slice(&s->sql, buf_slice(&s->values));
        return;
    }
    buf_printf(&s->sql, gone ? "DELETE FROM %s WHERE " : "INSERT INTO %s(", table);
    sink_quote(&s->sql, '`', slice_str(s->rows.key));
    if (gone) {
        buf_add_str(&s->sql, " IN (");
        buf_add_slice(&s->sql, buf_slice(&s->values));
        buf_add_byte(&s->sql, ')');
        return;
    }
    buf_add_slice(&s->sql, buf_slice(&s->list));
    buf_add_str(&s->sql, ") VALUES ");
    buf_add_slice(&s->sql, buf_slice(&s->values));
    buf_add_str(&s->sql, " ON DUPLICATE KEY UPDATE ");
    if (s->list.len > 0) {
        sink_quote_updates(&s->sql, '`', buf_slice(&s->list), "VALUES(", ")");
        return;
    }
    sink_quote(&s->sql, '`', slice_str(s->rows.key));
    buf_add_str(&s->sql, " = VALUES(");
    sink_quote(&s->sql, '`', slice_str(s->rows.key));
    buf_add_byte(&s->sql, ')');
}

int
sinki_mariadb_apply(struct sinki_mariadb_sink *s, uint32_t from, uint32_t limit, uint32_t *next,
                    struct err *err)
{
    struct sink_group group = {&s->values, &s->list, ROWS_BYTES, false};
    int               rc;

    buf_clear(&s->values);
    TRY(sink_table_group(&s->base, &s->rows, &group, add_row, from, limit, next, err));
    make_statement(s, sink_table_deletes(&s->rows, s->rows.items[from]->type));
    if (s->sql.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    rc = sinki_mariadb_run(s, buf_slice(&s->sql), err);
out:
    return rc;
}

/* columns that are missing */

static const char *
type_for(struct slice value)
{
    switch (json_type(value)) {
    case JSON_NUMBER:
        if (value.len <= WHOLE_DIGITS && memchr(value.data, '.', value.len) == NULL &&
            memchr(value.data, 'e', value.len) == NULL &&
            memchr(value.data, 'E', value.len) == NULL)
            return "BIGINT";
        return "DECIMAL(65, 20)";
    case JSON_TRUE:
    case JSON_FALSE:
        return "BOOLEAN";
    case JSON_OBJECT:
    case JSON_ARRAY:
        return "JSON";
    default:
        return "LONGTEXT";
    }
}

static int
make_column(void *arg, struct slice column, struct slice value, struct err *err)
{
    struct sinki_mariadb_sink *s = arg;
    int                        rc = 0;

    if (json_is_null(value) || sinki_mariadb_find_column(s, column) >= 0)
        return 0;
    if (s->column_count >= SINK_TABLE_COLUMNS_MAX)
        return 0; /* it is refused when its turn comes */
    buf_clear(&s->sql);
    buf_printf(&s->sql, "ALTER TABLE %s ADD COLUMN IF NOT EXISTS ", (const char *)s->table.data);
    sink_quote(&s->sql, '`', column);
    buf_printf(&s->sql, " %s", type_for(value));
    if (s->sql.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    TRY(sinki_mariadb_run(s, buf_slice(&s->sql), err));
    rc = sinki_mariadb_load_columns(s, err);
out:
    return rc;
}

int
sinki_mariadb_make_columns(struct sinki_mariadb_sink *s, struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0;
         s->rows.create && s->rows.name != NULL && !s->rows.append && i < s->rows.count; i++) {
        const struct sink_item *item = s->rows.items[i];

        if (sink_table_deletes(&s->rows, item->type))
            continue;
        rc = sink_table_fields(&s->rows, item, &s->name, make_column, s, err);
        if (rc != 0 && err->kind == ERR_DATA)
            rc = 0; /* that shows when its turn comes */
        TRY(rc);
    }
out:
    return rc;
}

/* statements of the configuration */

int
sinki_mariadb_statement(struct sinki_mariadb_sink *s, const struct sink_item *item, struct err *err)
{
    const struct sink_statement *st;
    int                          rc;

    TRY(sink_table_statement(&s->rows, item->type, &st, err));
    buf_clear(&s->sql);
    for (uint32_t i = 0; i <= st->count; i++) {
        buf_add_slice(&s->sql, st->text[i]);
        if (i == st->count)
            break;
        TRY(sink_statement_value(st, i, item, &s->values, err));
        TRY(put_value(s, buf_slice(&s->values), slice_is(st->names[i], "created"), &s->sql, err));
    }
    if (s->sql.failed || s->values.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    rc = sinki_mariadb_run(s, buf_slice(&s->sql), err);
out:
    return rc;
}
