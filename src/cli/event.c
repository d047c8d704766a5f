/* Events as lines of JSON, out and in: the same members as over HTTP. */
#include "base/base64.h"
#include "base/json.h"
#include "base/rfc3339.h"
#include "cli/cli_int.h"
#include "log/log.h"

#define LINK_MAX 300 /* bytes of a link's data: a number, an @, a name */

enum field {
    FIELD_TYPE,
    FIELD_DATA,
    FIELD_DATA64,
    FIELD_META,
    FIELD_META64,
    FIELD_ID,
    FIELD_SUBJECT,
    FIELD_COUNT
};

/* JSON has line ends between its tokens only, where a space says the same. */
static void
add_json(struct buf *out, struct slice json)
{
    size_t from = out->len;

    buf_add_slice(out, json);
    if (out->failed)
        return;
    for (int i = 0; i < 2; i++) {
        uint8_t *p = out->data + from, *end = out->data + out->len;

        while ((p = memchr(p, "\n\r"[i], (size_t)(end - p))) != NULL)
            *p++ = ' ';
    }
}

static void
add_bytes(struct buf *out, const char *name, struct slice bytes, bool json)
{
    buf_printf(out, json ? ",\"%s\":" : ",\"%s_base64\":\"", name);
    if (json) {
        add_json(out, bytes);
    } else {
        base64_encode(out, bytes);
        buf_add_byte(out, '"');
    }
}

static void
add_link(struct buf *out, const struct log_link *link)
{
    char id[ID_TEXT_LEN + 1];

    id_format(&link->id, id);
    buf_add_str(out, ",\"link\":{\"stream\":");
    json_put_string(out, link->stream);
    buf_printf(out, ",\"version\":%llu,\"position\":%llu,\"id\":\"%s\"}",
               (unsigned long long)link->version, (unsigned long long)link->pos.v, id);
}

void
clii_event_line(struct buf *out, const struct log_event *e)
{
    char         id[ID_TEXT_LEN + 1], created[TIME_TEXT_MAX];
    struct slice raw;

    id_format(&e->id, id);
    time_format(e->created_us, created);
    buf_add_str(out, "{\"position\":");
    buf_add_u64(out, e->pos.v);
    buf_add_str(out, ",\"stream\":");
    json_put_string(out, e->stream);
    buf_add_str(out, ",\"version\":");
    buf_add_u64(out, e->version);
    buf_add_str(out, ",\"type\":");
    json_put_string(out, e->type);
    buf_printf(out, ",\"id\":\"%s\",\"created\":\"%s\"", id, created);
    if (e->subject.len > 0) {
        buf_add_str(out, ",\"subject\":");
        json_put_string(out, e->subject);
    }
    if ((e->flags & LOG_ERASED) != 0) {
        buf_add_str(out, ",\"erased\":true,\"data\":null");
    } else if ((e->flags & LOG_LINK) != 0 && e->data.len <= LINK_MAX) {
        buf_add_str(out, ",\"data\":");
        json_put_string(out, e->data);
    } else {
        add_bytes(out, "data", e->data, (e->flags & LOG_JSON) != 0 && e->data.len != 0);
    }
    if (e->meta.len != 0) {
        bool json = json_value(e->meta, &raw, NULL) == 0;

        add_bytes(out, "metadata", json ? raw : e->meta, json);
    }
    if (e->dangling)
        buf_add_str(out, ",\"dangling\":true");
    if (e->link.stream.len != 0)
        add_link(out, &e->link);
    buf_add_byte(out, '}');
}

/* Decodes in place: no text grows by it. */
static int
read_string(struct slice raw, const char *what, struct slice *out, struct err *err)
{
    uint8_t   *at = (uint8_t *)(uintptr_t)raw.data;
    struct buf scratch = {0};
    int        rc = 0;

    if (json_type(raw) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "%s: must be a string", what);
    TRY(json_string_view(raw, &scratch, out, err));
    if (out->data != at + 1 && out->len > 0)
        memcpy(at + 1, out->data, out->len);
    out->data = at + 1;
out:
    buf_fini(&scratch);
    return rc;
}

static int
read_base64(struct slice raw, const char *what, struct slice *out, struct err *err)
{
    int rc = 0;

    TRY(read_string(raw, what, out, err));
    if (!base64_decode((uint8_t *)(uintptr_t)out->data, out->len, &out->len))
        FAIL(err, E_SYNTAX, ERR_DATA, "%s: is no base64", what);
out:
    return rc;
}

static int
read_data(const struct json_field *f, struct log_new_event *event, struct err *err)
{
    int rc = 0;

    if ((f[FIELD_DATA].value.data == NULL) == (f[FIELD_DATA64].value.data == NULL))
        FAIL(err, E_SCHEMA, ERR_DATA, "one of \"data\" and \"data_base64\" must be there");
    if (f[FIELD_META].value.data != NULL && f[FIELD_META64].value.data != NULL)
        FAIL(err, E_SCHEMA, ERR_DATA, "both \"metadata\" and \"metadata_base64\" are there");
    if (f[FIELD_DATA].value.data != NULL) {
        event->data = f[FIELD_DATA].value;
        event->flags = LOG_JSON;
    } else {
        TRY(read_base64(f[FIELD_DATA64].value, "\"data_base64\"", &event->data, err));
    }
    event->meta = f[FIELD_META].value;
    if (f[FIELD_META64].value.data != NULL)
        TRY(read_base64(f[FIELD_META64].value, "\"metadata_base64\"", &event->meta, err));
    if (event->data.len + event->meta.len > LOG_EVENT_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "the event is larger than 16 MiB");
out:
    return rc;
}

/* A link's data is text, whichever way it came. */
static int
read_link(struct log_new_event *event, struct err *err)
{
    const char *at;
    uint64_t    version;
    int         rc = 0;

    if (event->flags & LOG_JSON)
        TRY(read_string(event->data, "\"data\" of a link", &event->data, err));
    at = memchr(event->data.data, '@', event->data.len);
    if (at == NULL ||
        !json_uint64(slice_of(event->data.data, (size_t)(at - (const char *)event->data.data)),
                     &version))
        FAIL(err, E_INVALID, ERR_DATA, "a link: \"data\" must be \"VERSION@STREAM\"");
    event->flags = LOG_LINK;
out:
    return rc;
}

int
clii_event_read(struct slice raw, struct log_new_event *event, struct err *err)
{
    struct json_field f[FIELD_COUNT] = {
        [FIELD_TYPE] = {.name = "type", .required = true},
        [FIELD_DATA] = {.name = "data"},
        [FIELD_DATA64] = {.name = "data_base64"},
        [FIELD_META] = {.name = "metadata"},
        [FIELD_META64] = {.name = "metadata_base64"},
        [FIELD_ID] = {.name = "id"},
        [FIELD_SUBJECT] = {.name = "subject"},
    };
    struct slice id;
    int          rc = 0;

    memset(event, 0, sizeof *event);
    TRY(json_pick(raw, f, FIELD_COUNT, JSON_PICK_ONLY, err));
    TRY(read_string(f[FIELD_TYPE].value, "\"type\"", &event->type, err));
    if (event->type.len == 0 || event->type.len > LOG_TYPE_MAX)
        FAIL(err, E_INVALID, ERR_DATA, "\"type\": must be 1 to %d bytes", LOG_TYPE_MAX);
    if (f[FIELD_SUBJECT].value.data != NULL) {
        TRY(read_string(f[FIELD_SUBJECT].value, "\"subject\"", &event->subject, err));
        if (event->subject.len == 0)
            FAIL(err, E_INVALID, ERR_DATA, "\"subject\": must be 1 to %d bytes", SUBJECTS_NAME_MAX);
    }
    if (f[FIELD_ID].value.data != NULL) {
        TRY(read_string(f[FIELD_ID].value, "\"id\"", &id, err));
        if (!id_parse(id, &event->id) || id_is_zero(&event->id))
            FAIL(err, E_INVALID, ERR_DATA, "\"id\": must be a UUID that is not all zeros");
    }
    TRY(read_data(f, event, err));
    if (slice_is(event->type, "$>"))
        TRY(read_link(event, err));
out:
    return rc;
}

bool
clii_expected_read(struct slice text, int64_t *out)
{
    if (slice_is(text, "any"))
        *out = LOG_ANY;
    else if (slice_is(text, "no-stream"))
        *out = LOG_NO_STREAM;
    else if (slice_is(text, "exists"))
        *out = LOG_EXISTS;
    else
        return json_int64(text, out) && *out >= 0;
    return true;
}

void
clii_expected_write(struct buf *out, int64_t expected)
{
    if (expected == LOG_ANY)
        buf_add_str(out, "any");
    else if (expected == LOG_NO_STREAM)
        buf_add_str(out, "no-stream");
    else if (expected == LOG_EXISTS)
        buf_add_str(out, "exists");
    else
        buf_add_i64(out, expected);
}
