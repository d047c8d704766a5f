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

static void
put_origin(const struct log_event *e, struct buf *out)
{
    char id[ID_TEXT_LEN + 1], created[TIME_TEXT_MAX];

    id_format(&e->id, id);
    time_format(e->created_us, created);
    buf_add_str(out, "{\"stream\":");
    json_put_string(out, e->stream);
    buf_add_str(out, ",\"type\":");
    json_put_string(out, e->type);
    buf_add_str(out, ",\"version\":");
    buf_add_u64(out, e->version);
    buf_add_str(out, ",\"position\":");
    buf_add_u64(out, e->pos.v);
    buf_add_str(out, ",\"created\":\"");
    buf_add_str(out, created);
    buf_add_str(out, "\",\"id\":\"");
    buf_add_str(out, id);
    buf_add_str(out, "\"}");
}

int
streami_origin(const struct log_event *e, struct buf *out, struct buf *rest, struct slice *meta,
               struct err *err)
{
    struct slice list = {0};

    *meta = e->meta;
    buf_clear(rest);
    buf_add_byte(rest, '{');
    if (may_have_list(e->meta) && put_others(e->meta, rest, &list, NULL) != 0)
        list.len = 0; /* no JSON object */
    if (list.len > 0) {
        if (rest->len > 1)
            rest->data[rest->len - 1] = '}';
        *meta = rest->len > 1 ? buf_slice(rest) : slice_of(NULL, 0);
    }
    /* What readers would not take for a copy's list is not carried on either. */
    if (list.len > 0 && log_copied_count(list) > 0)
        buf_add(out, (const char *)list.data + 1, list.len - 2);
    else
        put_origin(e, out);
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
