/*
 * Items into statements, as many in one as have the same columns and different keys. Rows go as
 * arrays of texts where all columns are of types that PostgreSQL reads out of a text as out of
 * JSON; else as one JSON array, which PostgreSQL itself turns into the columns' types. Types are
 * its affair: numbers keep their digits, a text becomes whatever its column is.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/rfc3339.h"
#include "sink/postgres/postgres_int.h"

#define ROWS_BYTES ((size_t)2 << 20) /* of one statement, or one row that is larger */

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
    TRY(sinki_postgres_await(s, err));
    TRY(sinki_postgres_run(s, (const char *)sql.data, NULL, NULL, err));
    s->reloaded = true;
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
    if (s->texts) {
        TRY(sinki_postgres_put(s, sinki_postgres_find_column(s, column), value, err));
    } else {
        buf_add_byte(&s->json, ',');
        json_put_string(&s->json, column);
        buf_add_byte(&s->json, ':');
        buf_add_slice(&s->json, value);
    }
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

    if (s->texts) {
        sinki_postgres_put_text(s, sinki_postgres_find_column(s, slice_str(s->rows.key)),
                                item->key);
    } else {
        buf_add_byte(&s->json, '{');
        json_put_str(&s->json, s->rows.key);
        buf_add_byte(&s->json, ':');
        json_put_string(&s->json, item->key);
    }
    if (!sink_table_deletes(&s->rows, item->type))
        rc = sink_table_fields(&s->rows, item, &s->name, add_field, s, err);
    if (!s->texts)
        buf_add_byte(&s->json, '}');
    return rc;
}

static const char *const event_columns[] = {"position", "id",      "stream", "version",
                                            "type",     "created", "data",   "meta"};
#define EVENT_COLUMNS (sizeof event_columns / sizeof event_columns[0])
#define EVENT_JSON 6u /* from here on they are JSON */

static int
add_value(struct sinki_postgres_sink *s, struct json_out *o, size_t i, struct slice value,
          struct err *err)
{
    int column;

    if (s->texts) {
        column = sinki_postgres_find_column(s, slice_str(event_columns[i]));
        if (i < EVENT_JSON)
            sinki_postgres_put_text(s, column, value);
        else
            return sinki_postgres_put(s, column, value.len == 0 ? slice_str("null") : value, err);
        return 0;
    }
    json_out_key(o, event_columns[i]);
    if (i < EVENT_JSON)
        json_out_string(o, value);
    else if (value.len == 0)
        json_out_null(o);
    else
        json_out_raw(o, value);
    return 0;
}

static int
add_event(struct sinki_postgres_sink *s, const struct sink_item *item, struct err *err)
{
    struct json_out o;
    struct slice    meta, values[EVENT_COLUMNS];
    char            id[TIME_TEXT_MAX], created[TIME_TEXT_MAX], position[24], version[24];
    int             rc = 0;

    if (item->data.len > 0 && !item->json)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "its data is no JSON");
    if (item->meta.len == 0 || json_value(item->meta, &meta, NULL) != 0)
        meta = slice_of(NULL, 0);
    id_format(&item->id, id);
    time_format(item->created_us, created);
    (void)snprintf(position, sizeof position, "%" PRIu64, item->pos.v);
    (void)snprintf(version, sizeof version, "%" PRIu64, item->version);
    memcpy(values,
           ((struct slice[]){slice_str(position), slice_str(id), item->stream, slice_str(version),
                             item->type, slice_str(created), item->data, meta}),
           sizeof values);
    json_out_init(&o, &s->json);
    if (!s->texts)
        json_out_object(&o);
    for (size_t i = 0; i < EVENT_COLUMNS; i++)
        TRY(add_value(s, &o, i, values[i], err));
    if (!s->texts)
        json_out_object_end(&o);
out:
    return rc;
}

static int
add_row(struct sink *base, const struct sink_item *item, struct err *err)
{
    struct sinki_postgres_sink *s = (struct sinki_postgres_sink *)base;
    int                         rc;

    s->odd = false;
    s->first = s->json.len == 0;
    if (s->first)
        s->array_count = 0;
    rc = s->rows.append ? add_event(s, item, err) : add_fields(s, item, err);
    if (s->odd)
        buf_add_byte(&s->list, '?'); /* the columns of no other row */
    return rc;
}

/* statements */

/* Rows of these columns, "r" by name, or in their order. */
static void
add_source(struct sinki_postgres_sink *s, struct slice columns)
{
    buf_add_str(&s->text, "SELECT ");
    for (uint32_t i = 0; s->texts && i < s->array_count; i++)
        buf_printf(&s->text, "%sunnest($%u::text[])%s", i > 0 ? ", " : "", i + 1,
                   s->columns[s->arrays[i].column].cast);
    if (!s->texts)
        buf_printf(&s->text, "%.*s FROM json_populate_recordset(NULL::%s, $1::json) r",
                   SLICE_FMT(columns), s->table);
}

static void
make_statement(struct sinki_postgres_sink *s, bool gone)
{
    struct slice key;

    buf_clear(&s->text);
    buf_clear(&s->name);
    sink_quote(&s->name, '\"', slice_str(s->rows.key));
    key = buf_slice(&s->name);
    if (s->rows.append) {
        static const char columns[] = "position, id, stream, version, type, created, data, meta";

        buf_printf(&s->text, "INSERT INTO %s(%s) ", s->table, columns);
        add_source(s, slice_str(columns));
    } else if (gone) {
        buf_printf(&s->text, "DELETE FROM %s WHERE %.*s IN (", s->table, SLICE_FMT(key));
        add_source(s, key);
        buf_add_byte(&s->text, ')');
    } else {
        buf_add_slice(&s->name, buf_slice(&s->list));
        buf_printf(&s->text, "INSERT INTO %s(%.*s) ", s->table, SLICE_FMT(buf_slice(&s->name)));
        add_source(s, buf_slice(&s->name));
        buf_printf(&s->text, " ON CONFLICT (%.*s) ", (int)key.len, (const char *)s->name.data);
        if (s->list.len > 0) {
            buf_add_str(&s->text, "DO UPDATE SET ");
            sink_quote_updates(&s->text, '"', buf_slice(&s->list), "EXCLUDED.", "");
        } else {
            buf_add_str(&s->text, "DO NOTHING");
        }
    }
    buf_add_byte(&s->text, 0);
}

/* As texts where that goes for the first of them. */
static int
gather(struct sinki_postgres_sink *s, uint32_t from, uint32_t limit, uint32_t *next,
       struct err *err)
{
    struct sink_group group = {&s->json, &s->list, ROWS_BYTES, true};
    int               rc = 0;

    do {
        s->reloaded = false;
        buf_clear(&s->json);
        buf_clear(&s->list);
        s->texts = s->utf8;
        if (s->utf8) {
            TRY(add_row(&s->base, s->rows.items[from], err));
            s->texts = !s->odd;
            buf_clear(&s->json);
        }
        if (!s->texts)
            buf_add_byte(&s->json, '[');
        TRY(sink_table_group(&s->base, &s->rows, &group, add_row, from, limit, next, err));
    } while (s->reloaded);
out:
    return rc;
}

int
sinki_postgres_make(struct sinki_postgres_sink *s, uint32_t from, uint32_t limit, uint32_t *next,
                    struct err *err)
{
    int rc;

    TRY(gather(s, from, limit, next, err));
    make_statement(s, sink_table_deletes(&s->rows, s->rows.items[from]->type));
    if (!s->texts) {
        buf_add_byte(&s->json, ']');
        buf_add_byte(&s->json, 0);
    }
    if (s->text.failed || s->name.failed || s->json.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    if (s->texts)
        rc = sinki_postgres_turn(s, *next - from, err);
out:
    return rc;
}
