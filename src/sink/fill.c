#include "sink/fill.h"

#include "base/json.h"
#include "base/rfc3339.h"

static const char *const names[] = {"key",      "stream",  "category", "type", "id", "version",
                                    "position", "created", "data",     "meta", NULL};

bool
sink_fill_known(void *arg, struct slice name)
{
    (void)arg;
    for (const char *const *n = names; *n != NULL; n++)
        if (slice_is(name, *n))
            return true;
    return slice_starts(name, slice_str("data.")) || slice_starts(name, slice_str("meta."));
}

static void
put_text(struct buf *value, bool raw, struct slice text)
{
    if (raw)
        json_put_string(value, text);
    else
        buf_add_slice(value, text);
}

/* A value from within the event: raw for a body, its text for a URL or a header. */
static int
put_raw(struct buf *value, bool raw, struct slice json, struct slice name, struct err *err)
{
    enum json_type type = json_type(json);

    if (raw) {
        buf_add_slice(value, json);
        return 0;
    }
    if (type == JSON_TRUE || type == JSON_FALSE) {
        buf_add_slice(value, json);
        return 0;
    }
    if (type == JSON_STRING || type == JSON_NUMBER)
        return template_put_json(json, false, value, err);
    RETURN_ERR(err, E_SCHEMA, ERR_DATA, "{%.*s} is %s: only texts and numbers fit there",
               SLICE_FMT(name), json_type_name(type));
}

static int
put_member(struct buf *value, bool raw, struct slice json, struct slice name, struct err *err)
{
    struct slice found, path = slice_of((const char *)name.data + 5, name.len - 5);
    int          rc = 0;

    if (!json_get_path(json, path, &found))
        FAIL(err, E_SCHEMA, ERR_DATA, "the event has no {%.*s}", SLICE_FMT(name));
    TRY(put_raw(value, raw, found, name, err));
out:
    return rc;
}

static int
put_whole(struct buf *value, bool raw, struct slice json, struct slice name, struct err *err)
{
    struct slice found;
    int          rc = 0;

    if (!raw) {
        buf_add_slice(value, json);
        goto out;
    }
    if (json.len == 0 || json_value(json, &found, NULL) != 0)
        FAIL(err, E_SCHEMA, ERR_DATA, "the event's {%.*s} is not JSON", SLICE_FMT(name));
    buf_add_slice(value, found);
out:
    return rc;
}

/* All of the name where it has no key. */
static struct slice
category(const struct sink_item *item)
{
    const char *dash =
        item->stream.len == 0 ? NULL : memchr(item->stream.data, '-', item->stream.len);

    return dash == NULL
               ? item->stream
               : slice_of(item->stream.data, (size_t)(dash - (const char *)item->stream.data));
}

int
sink_fill(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    const struct sink_item *item = arg;
    char                    text[TIME_TEXT_MAX];

    if (slice_starts(name, slice_str("data.")))
        return put_member(value, raw, item->data, name, err);
    if (slice_starts(name, slice_str("meta.")))
        return put_member(value, raw, item->meta, name, err);
    if (slice_is(name, "data"))
        return put_whole(value, raw, item->data, name, err);
    if (slice_is(name, "meta"))
        return put_whole(value, raw, item->meta, name, err);
    if (slice_is(name, "key")) {
        put_text(value, raw, item->key);
    } else if (slice_is(name, "stream")) {
        put_text(value, raw, item->stream);
    } else if (slice_is(name, "category")) {
        put_text(value, raw, category(item));
    } else if (slice_is(name, "type")) {
        put_text(value, raw, item->type);
    } else if (slice_is(name, "version")) {
        buf_add_u64(value, item->version);
    } else if (slice_is(name, "position")) {
        buf_add_u64(value, item->pos.v);
    } else if (slice_is(name, "created")) {
        time_format(item->created_us, text);
        put_text(value, raw, slice_str(text));
    } else {
        must(slice_is(name, "id"));
        id_format(&item->id, text);
        put_text(value, raw, slice_str(text));
    }
    return 0;
}
