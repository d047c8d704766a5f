/*
 * `$copiedFrom`: the last member of a copy's metadata, a list of the first
 * originals that it stands for, through any number of moves.
 */
#include "log/copied.h"
#include "base/json.h"
#include "base/rfc3339.h"
#include "migrate/stream/stream_int.h"

/* The key, or one that an escape hides. */
static bool
may_have_list(struct slice meta)
{
    return meta.len > 0 &&
           (memmem(meta.data, meta.len, LOG_COPIED_KEY, strlen(LOG_COPIED_KEY)) != NULL ||
            memmem(meta.data, meta.len, "\\u", 2) != NULL);
}

static void
put_names(struct slice stream, struct slice type, struct buf *out)
{
    buf_add_str(out, "{\"stream\":");
    json_put_string(out, stream);
    buf_add_str(out, ",\"type\":");
    json_put_string(out, type);
}

static void
put_rest(const struct ox_id *id, int64_t created_us, struct buf *out)
{
    char text[ID_TEXT_LEN + 1], created[TIME_TEXT_MAX];

    id_format(id, text);
    time_format(created_us, created);
    buf_add_str(out, ",\"created\":\"");
    buf_add_str(out, created);
    buf_add_str(out, "\",\"id\":\"");
    buf_add_str(out, text);
    buf_add_str(out, "\"}");
}

int
streami_origin_late(struct slice stream, const struct log_new_event *e, struct buf *out,
                    uint32_t *version_at, uint32_t *pos_at, struct err *err)
{
    put_names(stream, e->type, out);
    buf_add_str(out, ",\"version\":");
    *version_at = (uint32_t)out->len;
    buf_printf(out, "%*s,\"position\":", (int)LOG_LATE_ROOM, "");
    *pos_at = (uint32_t)out->len;
    buf_printf(out, "%*s", (int)LOG_LATE_ROOM, "");
    put_rest(&e->id, e->created_us, out);
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a copy");
    return 0;
}

struct ox_id
streami_route_id(const struct streami_spec *spec, struct slice stream, const struct ox_id *of,
                 uint32_t ordinal, struct buf *scratch)
{
    buf_clear(scratch);
    buf_add_str(scratch, spec->name);
    buf_add_byte(scratch, '\0');
    buf_add_slice(scratch, stream);
    buf_add_byte(scratch, '\0');
    buf_add(scratch, of->b, sizeof of->b);
    buf_printf(scratch, "#%u", ordinal);
    return id_of_bytes(buf_slice(scratch));
}

struct ox_id
streami_link_id(struct slice owner, const struct ox_id *of, struct buf *scratch)
{
    buf_clear(scratch);
    buf_add_str(scratch, "$routed");
    buf_add_byte(scratch, '\0');
    buf_add_slice(scratch, owner);
    buf_add_byte(scratch, '\0');
    buf_add(scratch, of->b, sizeof of->b);
    return id_of_bytes(buf_slice(scratch));
}

/* All members but the list, each as it was written and with a comma behind it. */
static int
put_others(struct slice object, struct buf *out, struct slice *list, struct err *err)
{
    struct json_iter it;
    struct slice     key, value;
    int              rc;

    TRY(json_object_iter(&it, object, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        if (json_key_is(key, slice_str(LOG_COPIED_KEY))) {
            *list = value;
            continue;
        }
        buf_add_byte(out, '"');
        buf_add_slice(out, key);
        buf_add_str(out, "\":");
        buf_add_slice(out, value);
        buf_add_byte(out, ',');
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

bool
streami_carried(struct slice meta, struct buf *out, struct buf *rest, struct slice *own)
{
    struct slice list = {0};

    if (log_copied_alone(meta, &list)) {
        *own = slice_of(NULL, 0);
        buf_add(out, (const char *)list.data + 1, list.len - 2);
        return true;
    }
    *own = meta;
    buf_clear(rest);
    buf_add_byte(rest, '{');
    if (may_have_list(meta) && put_others(meta, rest, &list, NULL) != 0)
        list.len = 0; /* no JSON object */
    if (list.len > 0) {
        if (rest->len > 1)
            rest->data[rest->len - 1] = '}';
        *own = rest->len > 1 ? buf_slice(rest) : slice_of(NULL, 0);
    }
    /* What readers would not take for a copy's list is not carried on either. */
    if (list.len == 0 || log_copied_count(list) == 0)
        return false;
    buf_add(out, (const char *)list.data + 1, list.len - 2);
    return true;
}

int
streami_origin(const struct log_event *e, struct buf *out, struct buf *rest, struct slice *own,
               struct err *err)
{
    if (!streami_carried(e->meta, out, rest, own)) {
        put_names(e->stream, e->type, out);
        buf_add_str(out, ",\"version\":");
        buf_add_u64(out, e->version);
        buf_add_str(out, ",\"position\":");
        buf_add_u64(out, e->pos.v);
        put_rest(&e->id, e->created_us, out);
    }
    if (out->failed || rest->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a copy");
    return 0;
}

int
streami_copied(struct slice meta, struct slice list, struct buf *out, struct err *err)
{
    struct slice raw = {0}, old = {0};
    int          rc = 0;

    if (meta.len > 0 && (json_value(meta, &raw, NULL) != 0 || json_type(raw) != JSON_OBJECT))
        FAIL(err, E_SCHEMA, ERR_DATA,
             "its metadata is no JSON object, so it cannot say what it is a copy of");
    buf_add_byte(out, '{');
    if (raw.len > 0 && !may_have_list(raw)) {
        size_t len = raw.len - 1; /* as it stands, but for the bracket at its end */

        while (strchr(" \t\r\n", ((const char *)raw.data)[len - 1]) != NULL)
            len--;
        buf_add(out, (const char *)raw.data + 1, len - 1);
        if (len > 1)
            buf_add_byte(out, ',');
    } else if (raw.len > 0) {
        TRY(put_others(raw, out, &old, err));
    }
    buf_add_str(out, "\"" LOG_COPIED_KEY "\":[");
    buf_add_slice(out, list);
    buf_add_str(out, "]}");
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a copy");
out:
    return rc;
}
