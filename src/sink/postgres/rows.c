/*
 * Items into statements. Rows go as one JSON array, which PostgreSQL itself turns into the columns'
 * types; so a statement takes as many items as have the same columns and different keys. Types are
 * PostgreSQL's affair: numbers keep their digits, a text becomes whatever its column is.
 */
#include <stdlib.h>

#include "base/json.h"
#include "base/rfc3339.h"
#include "sink/postgres/postgres_int.h"

#define ROWS_BYTES ((size_t)8 << 20) /* of one statement, or one row that is larger */

static const char *
type_for(struct slice value)
{
    switch (json_type(value)) {
    case JSON_NUMBER:
        return "numeric";
    case JSON_TRUE:
    case JSON_FALSE:
        return "boolean";
    case JSON_OBJECT:
    case JSON_ARRAY:
        return "jsonb";
    default:
        return "text";
    }
}

/* Whether the field has a column, which `create` may make now. `name` ends with NUL. */
static int
need_column(struct sinki_postgres_sink *s, struct slice name, struct slice value, struct err *err)
{
    struct buf sql = {0};
    int        rc = 0;

    if (sinki_postgres_find_column(s, name) >= 0)
        return 0;
    if (!s->rows.create)
        FAIL(err, E_REJECTED, ERR_DATA, "table %s has no column for a field of the event",
             s->table);
    if (s->column_count >= SINK_TABLE_COLUMNS_MAX)
        FAIL(err, E_REJECTED, ERR_DATA, "table %s has %d columns already", s->table,
             SINK_TABLE_COLUMNS_MAX);
    buf_printf(&sql, "ALTER TABLE %s ADD COLUMN ", s->table);
    sink_quote(&sql, '\"', name);
    buf_printf(&sql, " %s", type_for(value));
    buf_add_byte(&sql, 0);
    if (sql.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    TRY(sinki_postgres_run(s, (const char *)sql.data, NULL, NULL, err));
    rc = sinki_postgres_load_columns(s, err);
out:
    buf_fini(&sql);
    return rc;
}

/* A field into the row that is being made, and its column into the list. */
static int
add_field(void *arg, struct slice column, struct slice value, struct err *err)
{
    struct sinki_postgres_sink *s = arg;
    int                         rc;

    if (s->rows.create && json_is_null(value) && sinki_postgres_find_column(s, column) < 0)
        return 0; /* a value that comes later says of what type it is */
    TRY(need_column(s, column, value, err));
    buf_add_byte(&s->json, ',');
    json_put_string(&s->json, column);
    buf_add_byte(&s->json, ':');
    buf_add_slice(&s->json, value);
    buf_add_str(&s->list, ", ");
    sink_quote(&s->list, '\"', column);
out:
    return rc;
}

/* {"KEY":"…","a":1,…} onto s->json, its columns onto s->list. */
static int
add_fields(struct sinki_postgres_sink *s, const struct sink_item *item, struct err *err)
{
    int rc = 0;

    buf_add_byte(&s->json, '{');
    json_put_str(&s->json, s->rows.key);
    buf_add_byte(&s->json, ':');
    json_put_string(&s->json, item->key);
    if (!sink_table_deletes(&s->rows, item->type))
        rc = sink_table_fields(&s->rows, item, &s->name, add_field, s, err);
    buf_add_byte(&s->json, '}');
    return rc;
}

static void
add_raw(struct json_out *o, const char *key, struct slice json)
{
    json_out_key(o, key);
    if (json.len == 0)
        json_out_null(o);
    else
        json_out_raw(o, json);
}

static int
add_event(struct sinki_postgres_sink *s, const struct sink_item *item, struct err *err)
{
    struct json_out o;
    struct slice    meta;
    char            text[TIME_TEXT_MAX];

    if (item->data.len > 0 && !item->json)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "its data is no JSON");
    if (item->meta.len == 0 || json_value(item->meta, &meta, NULL) != 0)
        meta = slice_of(NULL, 0);
    json_out_init(&o, &s->json);
    json_out_object(&o);
    json_out_key(&o, "position");
    json_out_u64(&o, item->pos.v);
    id_format(&item->id, text);
    json_out_key(&o, "id");
    json_out_str(&o, text);
    json_out_key(&o, "stream");
    json_out_string(&o, item->stream);
    json_out_key(&o, "version");
    json_out_u64(&o, item->version);
    json_out_key(&o, "type");
    json_out_string(&o, item->type);
    time_format(item->created_us, text);
    json_out_key(&o, "created");
    json_out_str(&o, text);
    add_raw(&o, "data", item->data);
    add_raw(&o, "meta", meta);
    json_out_object_end(&o);
    return 0;
}

static int
add_row(struct sink *base, const struct sink_item *item, struct err *err)
{
    struct sinki_postgres_sink *s = (struct sinki_postgres_sink *)base;

    return s->rows.append ? add_event(s, item, err) : add_fields(s, item, err);
}

/* statements */

static void
make_statement(struct sinki_postgres_sink *s, bool gone)
{
    static const char of[] = "FROM json_populate_recordset(NULL::%s, $1::json) r";

    buf_clear(&s->text);
    buf_clear(&s->name);
    sink_quote(&s->name, '\"', slice_str(s->rows.key));
    if (s->rows.append) {
        buf_printf(
            &s->text,
            "INSERT INTO %s(position, id, stream, version, type, created, data, meta) SELECT "
            "position, id, stream, version, type, created, data, meta ",
            s->table);
        buf_printf(&s->text, of, s->table);
    } else if (gone) {
        buf_printf(&s->text, "DELETE FROM %s WHERE %.*s IN (SELECT r.%.*s ", s->table,
                   SLICE_FMT(buf_slice(&s->name)), SLICE_FMT(buf_slice(&s->name)));
        buf_printf(&s->text, of, s->table);
        buf_add_byte(&s->text, ')');
    } else {
        buf_printf(&s->text, "INSERT INTO %s(%.*s%.*s) SELECT %.*s%.*s ", s->table,
                   SLICE_FMT(buf_slice(&s->name)), SLICE_FMT(buf_slice(&s->list)),
                   SLICE_FMT(buf_slice(&s->name)), SLICE_FMT(buf_slice(&s->list)));
        buf_printf(&s->text, of, s->table);
        buf_printf(&s->text, " ON CONFLICT (%.*s) ", SLICE_FMT(buf_slice(&s->name)));
        if (s->list.len > 0) {
            buf_add_str(&s->text, "DO UPDATE SET ");
            sink_quote_updates(&s->text, '"', buf_slice(&s->list), "EXCLUDED.", "");
        } else {
            buf_add_str(&s->text, "DO NOTHING");
        }
    }
    buf_add_byte(&s->text, 0);
}

int
sinki_postgres_apply(struct sinki_postgres_sink *s, uint32_t from, uint32_t limit, uint32_t *next,
                     struct err *err)
{
    struct sink_group group = {&s->json, &s->list, ROWS_BYTES, true};
    int               rc;

    buf_clear(&s->json);
    buf_add_byte(&s->json, '[');
    TRY(sink_table_group(&s->base, &s->rows, &group, add_row, from, limit, next, err));
    buf_add_byte(&s->json, ']');
    buf_add_byte(&s->json, 0);
    make_statement(s, sink_table_deletes(&s->rows, s->rows.items[from]->type));
    if (s->text.failed || s->name.failed || s->json.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    rc = sinki_postgres_run(s, (const char *)s->text.data, (const char *)s->json.data, NULL, err);
out:
    return rc;
}
