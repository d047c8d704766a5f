/*
 * What names the rows of each table: {"COLUMN":place…}, in the checkpoint. A
 * key that changes would name the rows that are captured otherwise, and leave
 * their old streams behind as if they were still there. So capture stops, until
 * the table is read again for differences, which ends the old streams.
 */
#include <stdlib.h>

#include "base/json.h"
#include "source/postgres/postgres_int.h"

/* Where the column of this name is; `count`: nowhere. */
static uint32_t
place_of(const struct pg_key_column *columns, uint32_t count, struct slice raw_name)
{
    uint32_t i = 0;

    while (i < count && !json_key_is(raw_name, slice_str(columns[i].name)))
        i++;
    return i;
}

/* A column that is gone by name was renamed where its place still is one of the key's. */
static bool
is_same(struct slice stored, const struct pg_key_column *columns, uint32_t count)
{
    struct json_iter it;
    struct slice     name, value;
    uint64_t         place;
    uint32_t         left = 0, at;

    for (uint32_t i = 0; i < count; i++)
        left += columns[i].key;
    if (json_object_iter(&it, stored, NULL) != 0)
        return false;
    while (json_iter_next(&it, &name, &value, NULL) == 0) {
        at = place_of(columns, count, name);
        if (at == count && json_uint64(value, &place) && place < count)
            at = (uint32_t)place;
        if (at == count || !columns[at].key || left == 0)
            return false;
        left--;
    }
    return left == 0;
}

static void
put_names(struct buf *out, struct slice key)
{
    struct json_iter it;
    struct slice     name, value;
    size_t           at = out->len;

    if (json_object_iter(&it, key, NULL) == 0)
        while (json_iter_next(&it, &name, &value, NULL) == 0) {
            buf_add_str(out, out->len == at ? "" : ", ");
            buf_add_slice(out, name);
        }
    if (out->len == at)
        buf_add_str(out, "none");
}

static int
refuse(struct pg_source *s, uint32_t want, struct slice now, struct err *err)
{
    struct buf  names = {0};
    const char *name = s->base.instance, *table = s->wants[want].table;
    size_t      split;

    put_names(&names, buf_slice(&s->place.keys[want]));
    buf_add_byte(&names, 0);
    split = names.len;
    put_names(&names, now);
    buf_add_byte(&names, 0);
    (void)err_set(err, __FILE__, __LINE__, E_SCHEMA, ERR_FATAL,
                  "source %s: table %s: its key changed from (%s) to (%s), and its rows have other "
                  "names from here on; `oxbow source snapshot %s %s --differences` reads it again "
                  "and goes on",
                  name, table, names.failed ? "?" : (const char *)names.data,
                  names.failed ? "?" : (const char *)names.data + split, name, table);
    buf_fini(&names);
    return E_SCHEMA;
}

int
postgresi_key_note(struct pg_source *s, uint32_t want, const struct pg_key_column *columns,
                   uint32_t count, struct err *err)
{
    struct buf     *stored = &s->place.keys[want], now = {0};
    struct json_out o;
    int             rc = 0;

    json_out_init(&o, &now);
    json_out_object(&o);
    for (uint32_t i = 0; i < count; i++) {
        if (!columns[i].key)
            continue;
        json_out_key_slice(&o, slice_str(columns[i].name));
        json_out_u64(&o, i);
    }
    json_out_object_end(&o);
    if (now.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (stored->len > 0 && !is_same(buf_slice(stored), columns, count))
        TRY(refuse(s, want, buf_slice(&now), err));
    buf_clear(stored);
    buf_add_slice(stored, buf_slice(&now));
    if (stored->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    buf_fini(&now);
    return rc;
}
