/*
 * `$copiedFrom`: the last member of a copy's metadata, a list of the first
 * originals that it stands for, through any number of moves.
 */
#include "log/copied.h"
#include "base/json.h"
#include "base/rfc3339.h"
#include "migrate/stream/stream_int.h"

/* What readers would not take for a copy's list is not carried on either. */
static bool
carried(struct slice meta, struct slice *list)
{
    return log_copied_from(meta, NULL, NULL, NULL) > 0 && json_get(meta, LOG_COPIED_KEY, list);
}

int
streami_origin(const struct log_event *e, struct buf *out, struct err *err)
{
    char         id[ID_TEXT_LEN + 1], created[TIME_TEXT_MAX];
    struct slice list;

    if (carried(e->meta, &list)) {
        buf_add(out, (const char *)list.data + 1, list.len - 2);
    } else {
        id_format(&e->id, id);
        time_format(e->created_us, created);
        buf_add_str(out, "{\"stream\":");
        json_put_string(out, e->stream);
        buf_add_str(out, ",\"type\":");
        json_put_string(out, e->type);
        buf_printf(out, ",\"version\":%llu,\"position\":%llu,\"created\":\"%s\",\"id\":\"%s\"}",
                   (unsigned long long)e->version, (unsigned long long)e->pos.v, created, id);
    }
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a copy");
    return 0;
}

/* All members but the list, each as it was written. */
static int
put_others(struct slice object, struct buf *out, struct err *err)
{
    struct json_iter it;
    struct slice     key, value;
    bool             first = true;
    int              rc;

    TRY(json_object_iter(&it, object, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        if (json_key_is(key, slice_str(LOG_COPIED_KEY)))
            continue;
        if (!first)
            buf_add_byte(out, ',');
        first = false;
        buf_add_byte(out, '"');
        buf_add_slice(out, key);
        buf_add_str(out, "\":");
        buf_add_slice(out, value);
    }
    if (rc == E_END)
        rc = 0;
    if (rc == 0 && !first)
        buf_add_byte(out, ',');
out:
    return rc;
}

int
streami_copied(struct slice meta, struct slice list, struct buf *out, struct err *err)
{
    struct slice raw = {0}, old;
    int          rc = 0;

    if (meta.len > 0 && (json_value(meta, &raw, NULL) != 0 || json_type(raw) != JSON_OBJECT))
        FAIL(err, E_SCHEMA, ERR_DATA,
             "its metadata is no JSON object, so it cannot say what it is a copy of");
    buf_add_byte(out, '{');
    if (raw.len > 0 && !json_get(raw, LOG_COPIED_KEY, &old)) {
        size_t len = raw.len - 1; /* as it stands, but for the bracket at its end */

        while (strchr(" \t\r\n", ((const char *)raw.data)[len - 1]) != NULL)
            len--;
        buf_add(out, (const char *)raw.data + 1, len - 1);
        if (len > 1)
            buf_add_byte(out, ',');
    } else if (raw.len > 0) {
        TRY(put_others(raw, out, err));
    }
    buf_add_str(out, "\"" LOG_COPIED_KEY "\":[");
    buf_add_slice(out, list);
    buf_add_str(out, "]}");
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a copy");
out:
    return rc;
}
