/*
 * Values as JSON, to the last digit: numbers as they stand, json as it is,
 * arrays as arrays; all else is PostgreSQL's own text (dates in ISO, intervals
 * in ISO 8601, bytea in hex), which reads back as the same value.
 */
#include "base/json.h"
#include "source/postgres/postgres_int.h"

struct builtin {
    uint32_t      oid, array;
    enum pg_shape shape;
};

/* Types of pg_catalog, whose OIDs never change, and those of arrays of them. */
static const struct builtin builtins[] = {
    {16, 1000, PG_SHAPE_BOOL},     {17, 1001, PG_SHAPE_TEXT},    {18, 1002, PG_SHAPE_TEXT},
    {19, 1003, PG_SHAPE_TEXT},     {20, 1016, PG_SHAPE_NUMBER},  {21, 1005, PG_SHAPE_NUMBER},
    {23, 1007, PG_SHAPE_NUMBER},   {25, 1009, PG_SHAPE_TEXT},    {26, 1028, PG_SHAPE_NUMBER},
    {114, 199, PG_SHAPE_JSON},     {700, 1021, PG_SHAPE_NUMBER}, {701, 1022, PG_SHAPE_NUMBER},
    {790, 791, PG_SHAPE_TEXT},     {1042, 1014, PG_SHAPE_TEXT},  {1043, 1015, PG_SHAPE_TEXT},
    {1082, 1182, PG_SHAPE_TEXT},   {1083, 1183, PG_SHAPE_TEXT},  {1114, 1115, PG_SHAPE_TEXT},
    {1184, 1185, PG_SHAPE_TEXT},   {1186, 1187, PG_SHAPE_TEXT},  {1266, 1270, PG_SHAPE_TEXT},
    {1700, 1231, PG_SHAPE_NUMBER}, {2950, 2951, PG_SHAPE_TEXT},  {3802, 3807, PG_SHAPE_JSON},
};

bool
postgresi_type_builtin(uint32_t oid, struct pg_type *out)
{
    for (size_t i = 0; i < sizeof builtins / sizeof builtins[0]; i++) {
        if (builtins[i].oid != oid && builtins[i].array != oid)
            continue;
        *out = (struct pg_type){oid, builtins[i].shape, builtins[i].array == oid, ','};
        return true;
    }
    return false;
}

static void
put_scalar(struct buf *out, enum pg_shape shape, struct slice text)
{
    const char *p = text.data;
    bool        plain;

    switch (shape) {
    case PG_SHAPE_BOOL:
        buf_add_str(out, text.len > 0 && p[0] == 't' ? "true" : "false");
        return;
    case PG_SHAPE_NUMBER:
        /* NaN and the infinities are no numbers of JSON's. */
        plain = text.len > 0 && ((p[0] >= '0' && p[0] <= '9') ||
                                 (text.len > 1 && p[0] == '-' && p[1] >= '0' && p[1] <= '9'));
        break;
    case PG_SHAPE_JSON:
        plain = json_value(text, &text, NULL) == 0;
        break;
    default:
        plain = false;
    }
    if (plain)
        buf_add_slice(out, text);
    else
        json_put_string(out, text);
}

/* An array's text: {1,NULL,"a \"b\""}, nested too. */
struct array {
    const char *at, *end;
    char        delim;
    struct buf  item;
};

static bool
take_item(struct array *a, bool *quoted)
{
    buf_clear(&a->item);
    *quoted = a->at < a->end && *a->at == '"';
    if (!*quoted) {
        while (a->at < a->end && *a->at != a->delim && *a->at != '}') {
            if (*a->at == '\\' && ++a->at == a->end)
                return false;
            buf_add_byte(&a->item, (uint8_t)*a->at++);
        }
        return true;
    }
    for (a->at++; a->at < a->end && *a->at != '"'; a->at++) {
        if (*a->at == '\\' && ++a->at == a->end)
            return false;
        buf_add_byte(&a->item, (uint8_t)*a->at);
    }
    return a->at++ < a->end;
}

static bool
put_items(struct buf *out, struct array *a, enum pg_shape shape)
{
    unsigned depth = 0;
    bool     quoted, first = true;

    while (a->at < a->end) {
        if (*a->at == '{') {
            buf_add_str(out, first ? "[" : ",[");
            first = true;
            depth++;
            a->at++;
        } else if (*a->at == '}') {
            buf_add_byte(out, ']');
            first = false;
            a->at++;
            if (--depth == 0)
                return a->at == a->end;
        } else if (*a->at == a->delim && !first) {
            a->at++;
        } else {
            if (!first)
                buf_add_byte(out, ',');
            first = false;
            if (!take_item(a, &quoted))
                return false;
            if (!quoted && slice_is(buf_slice(&a->item), "NULL"))
                buf_add_str(out, "null");
            else
                put_scalar(out, shape, buf_slice(&a->item));
        }
    }
    return false;
}

void
postgresi_value_json(struct buf *out, const struct pg_type *type, struct slice text)
{
    const char  *p = text.data;
    size_t       at = out->len;
    struct array a = {.delim = type->delim};
    bool         done;

    if (!type->array || text.len == 0 || p[0] != '{') {
        /* Arrays that do not begin at 1 say so before the brace: only their text is faithful. */
        put_scalar(out, type->array ? PG_SHAPE_TEXT : type->shape, text);
        return;
    }
    a.at = p;
    a.end = p + text.len;
    done = put_items(out, &a, type->shape) && !a.item.failed;
    buf_fini(&a.item);
    if (!done) {
        out->len = at;
        json_put_string(out, text);
    }
}

void
postgresi_value_key(struct buf *out, struct slice text, bool part)
{
    const uint8_t *p = text.data;

    if (!part) {
        buf_add_slice(out, text);
        return;
    }
    for (size_t i = 0; i < text.len; i++) {
        if (p[i] == '\\' || p[i] == '|')
            buf_add_byte(out, '\\');
        buf_add_byte(out, p[i]);
    }
}
