/*
 * What a table looked like when its rows were logged, as a change: with the
 * first rows of all, and after each change of its columns.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/json.h"
#include "base/must.h"
#include "source/mariadb/mariadb_int.h"

struct named {
    uint8_t     type;
    const char *name;
};

static const struct named names[] = {
    {MYT_TINY, "tinyint"},
    {MYT_SHORT, "smallint"},
    {MYT_INT24, "mediumint"},
    {MYT_LONG, "int"},
    {MYT_LONGLONG, "bigint"},
    {MYT_FLOAT, "float"},
    {MYT_DOUBLE, "double"},
    {MYT_YEAR, "year"},
    {MYT_DATE, "date"},
    {MYT_NEWDATE, "date"},
    {MYT_TIME2, "time"},
    {MYT_DATETIME2, "datetime"},
    {MYT_TIMESTAMP2, "timestamp"},
    {MYT_BIT, "bit"},
    {MYT_DECIMAL, "decimal"},
    {MYT_VARCHAR, "varchar"},
    {MYT_VAR_STRING, "varchar"},
    {MYT_STRING, "char"},
    {MYT_ENUM, "enum"},
    {MYT_SET, "set"},
    {MYT_BLOB, "blob"},
    {MYT_GEOMETRY, "geometry"},
};

static const char *
name_of(const struct my_column *c, bool binary)
{
    static const char *const hints[] = {[MY_HINT_JSON] = "json",
                                        [MY_HINT_UUID] = "uuid",
                                        [MY_HINT_INET4] = "inet4",
                                        [MY_HINT_INET6] = "inet6"};
    size_t                   i = 0;

    if (c->hint != MY_HINT_NONE)
        return hints[c->hint];
    if (c->type == MYT_BLOB && !binary)
        return "text";
    if ((c->type == MYT_VARCHAR || c->type == MYT_VAR_STRING) && binary)
        return "varbinary";
    if (c->type == MYT_STRING && binary)
        return "binary";
    while (i < sizeof names / sizeof names[0] && names[i].type != c->type)
        i++;
    return i < sizeof names / sizeof names[0] ? names[i].name : "unknown";
}

static void
put_type(const struct my_source *s, const struct my_column *c, struct buf *out)
{
    bool binary =
        c->collation < MARIADBI_COLLATIONS && s->charsets.of[c->collation] == MY_CHARSET_BINARY;

    buf_add_str(out, name_of(c, binary));
    switch (c->type) {
    case MYT_DECIMAL:
        buf_printf(out, "(%u,%u)", c->meta >> 8, c->meta & 0xffu);
        break;
    case MYT_BIT:
        buf_printf(out, "(%u)", (c->meta >> 8) * 8u + (c->meta & 0xffu));
        break;
    case MYT_TIME2:
    case MYT_DATETIME2:
    case MYT_TIMESTAMP2:
        if (c->meta > 0)
            buf_printf(out, "(%u)", c->meta);
        break;
    default:
        break;
    }
    if (c->is_unsigned && c->type != MYT_YEAR)
        buf_add_str(out, " unsigned");
}

static bool
has_bytes(const struct my_column *c)
{
    return c->hint == MY_HINT_NONE &&
           (c->type == MYT_VARCHAR || c->type == MYT_VAR_STRING || c->type == MYT_STRING);
}

/* {"columns":[{"name":…,"type":…,"bytes":N,"key":true}…]} */
static void
put_shape(struct my_source *s, const struct my_table *t, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "columns");
    json_out_array(&o);
    for (uint32_t i = 0; i < t->count; i++) {
        const struct my_column *c = &t->columns[i];
        bool                    key = false;

        for (uint32_t k = 0; k < t->key_count; k++)
            key = key || t->key[k] == i;
        buf_clear(&s->text);
        put_type(s, c, &s->text);
        json_out_object(&o);
        json_out_key(&o, "name");
        json_out_string(&o, c->name);
        json_out_key(&o, "type");
        json_out_string(&o, buf_slice(&s->text));
        if (has_bytes(c)) {
            json_out_key(&o, "bytes");
            json_out_u64(&o, c->meta);
        }
        if (key) {
            json_out_key(&o, "key");
            json_out_bool(&o, true);
        }
        json_out_object_end(&o);
    }
    json_out_array_end(&o);
    json_out_object_end(&o);
}

static uint64_t
hash(uint64_t h, struct slice bytes)
{
    for (size_t i = 0; i < bytes.len; i++)
        h = (h ^ ((const uint8_t *)bytes.data)[i]) * UINT64_C(1099511628211);
    return h;
}

int
mariadbi_shape_take(struct my_source *s, const struct my_map *m, struct err *err)
{
    const struct my_table *t = &m->table;
    uint64_t               h;

    must(m->want < s->want_count);
    buf_clear(&s->shape);
    put_shape(s, t, &s->shape);
    if (s->shape.failed || s->text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    h = hash(UINT64_C(1469598103934665603), buf_slice(&s->shape));
    for (uint32_t i = 0; i < t->count; i++)
        h = hash(h, t->columns[i].labels);
    h = h == 0 ? 1 : h;
    s->shape_due = s->next.shapes[m->want] != h;
    s->shape_want = m->want;
    s->shape_hash = h;
    return 0;
}

/* It takes no number: where a transaction is done in part, the checkpoint has the shape. */
void
mariadbi_shape_put(struct my_source *s)
{
    struct my_draft *d = mariadbi_draft(s, CHANGE_SCHEMA, s->shape_want);

    s->shape_due = false;
    s->next.shapes[s->shape_want] = s->shape_hash;
    d->after.at = s->bytes.len;
    buf_add_slice(&s->bytes, buf_slice(&s->shape));
    d->after.len = s->bytes.len - d->after.at;
    d->position.at = s->bytes.len;
    mariadbi_gtids_write(&s->gtid, 1, &s->bytes);
    buf_printf(&s->bytes, ":schema%" PRIu64 ":%s~%u", s->number, s->wants[s->shape_want].table,
               s->next.era);
    d->position.len = s->bytes.len - d->position.at;
}
