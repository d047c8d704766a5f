/*
 * Events out of a request's body. Everything is read where it lies: strings
 * with escapes and base64 only shrink, so they are decoded in place.
 */
#include <stdlib.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/must.h"
#include "server/append_int.h"

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

int
serveri_string_read(struct append *a, struct slice raw, const char *what, struct slice *out,
                    struct err *err)
{
    uint8_t *at = (uint8_t *)(uintptr_t)raw.data; /* the request's buffer is ours to write */
    int      rc = 0;

    if (json_type(raw) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "%s: must be a string", what);
    if (memchr(raw.data, '\\', raw.len) == NULL) {
        *out = slice_of(at + 1, raw.len - 2);
        return 0;
    }
    TRY(json_string_view(raw, &a->scratch, out, err));
    memcpy(at + 1, out->data, out->len);
    out->data = at + 1;
out:
    return rc;
}

static int
read_base64(struct append *a, struct slice raw, const char *what, struct slice *out,
            struct err *err)
{
    uint8_t *at;
    int      rc = 0;

    TRY(serveri_string_read(a, raw, what, out, err));
    at = (uint8_t *)(uintptr_t)out->data;
    if (!base64_decode(at, out->len, &out->len))
        FAIL(err, E_SYNTAX, ERR_DATA, "%s: is no base64", what);
out:
    return rc;
}

static int
grow(struct append *a, struct err *err)
{
    uint32_t              cap = a->cap * 2;
    struct log_new_event *events;

    must(cap > 0);
    if (a->count >= SERVERI_EVENTS_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "more than %d events in one commit", SERVERI_EVENTS_MAX);
    events = malloc(cap * sizeof *events);
    if (events == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for the events");
    memcpy(events, a->events, a->count * sizeof *events);
    if (a->events != a->few)
        free(a->events);
    a->events = events;
    a->cap = cap;
    return 0;
}

int
serveri_event_new(struct append *a, struct log_new_event **out, struct err *err)
{
    int rc = 0;

    if (a->count == a->cap)
        TRY(grow(a, err));
    *out = &a->events[a->count];
    memset(*out, 0, sizeof **out);
out:
    return rc;
}

/* A link's data is text, whichever way it came. */
static int
read_link(struct append *a, struct log_new_event *event, struct err *err)
{
    const char *at;
    uint64_t    version;
    int         rc = 0;

    if (event->flags & LOG_JSON)
        TRY(serveri_string_read(a, event->data, "\"data\" of a link", &event->data, err));
    at = memchr(event->data.data, '@', event->data.len);
    if (at == NULL ||
        !json_uint64(slice_of(event->data.data, (size_t)(at - (const char *)event->data.data)),
                     &version) ||
        version > INT64_MAX)
        FAIL(err, E_INVALID, ERR_DATA, "a link: \"data\" must be \"VERSION@STREAM\"");
    at++;
    TRY(log_name_check(
        slice_of(at, event->data.len - (size_t)(at - (const char *)event->data.data)), true, err));
    event->flags = LOG_LINK;
out:
    return rc;
}

static int
read_data(struct append *a, const struct json_field *f, struct log_new_event *event,
          struct err *err)
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
        TRY(read_base64(a, f[FIELD_DATA64].value, "\"data_base64\"", &event->data, err));
    }
    event->meta = f[FIELD_META].value;
    if (f[FIELD_META64].value.data != NULL)
        TRY(read_base64(a, f[FIELD_META64].value, "\"metadata_base64\"", &event->meta, err));
    if (event->data.len + event->meta.len > LOG_EVENT_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "the event is larger than 16 MiB");
out:
    return rc;
}

int
serveri_event_read(struct append *a, struct slice raw, struct err *err)
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
    struct log_new_event *event;
    struct slice          id;
    int                   rc = 0;

    TRY(serveri_event_new(a, &event, err));
    TRY(json_pick(raw, f, FIELD_COUNT, JSON_PICK_ONLY, err));
    TRY(serveri_string_read(a, f[FIELD_TYPE].value, "\"type\"", &event->type, err));
    if (event->type.len == 0 || event->type.len > LOG_TYPE_MAX)
        FAIL(err, E_INVALID, ERR_DATA, "\"type\": must be 1 to %d bytes", LOG_TYPE_MAX);
    if (f[FIELD_ID].value.data != NULL) {
        TRY(serveri_string_read(a, f[FIELD_ID].value, "\"id\"", &id, err));
        if (!id_parse(id, &event->id) || id_is_zero(&event->id))
            FAIL(err, E_INVALID, ERR_DATA, "\"id\": must be a UUID that is not all zeros");
    }
    if (f[FIELD_SUBJECT].value.data != NULL) {
        TRY(serveri_string_read(a, f[FIELD_SUBJECT].value, "\"subject\"", &event->subject, err));
        if (event->subject.len == 0)
            FAIL(err, E_INVALID, ERR_DATA, "\"subject\": must be 1 to %d bytes", SUBJECTS_NAME_MAX);
    }
    TRY(read_data(a, f, event, err));
    if (slice_is(event->type, SERVERI_LINK_TYPE))
        TRY(read_link(a, event, err));
    a->count++;
out:
    return rc;
}

int
serveri_events_read(struct append *a, struct slice raw, struct err *err)
{
    struct json_iter it;
    struct slice     event;
    uint64_t         number = 0;
    int              rc = 0;

    if (json_type(raw) != JSON_ARRAY)
        return serveri_event_read(a, raw, err);
    TRY(json_array_iter(&it, raw, err));
    while ((rc = json_iter_next(&it, NULL, &event, err)) == 0) {
        rc = serveri_event_read(a, event, err);
        if (rc != 0) {
            err_prefix(err, "event %llu", (unsigned long long)number);
            goto out;
        }
        number++;
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* The buffer has moved since the events were read: so have they. */
static void
rebase(struct append *a, const uint8_t *base)
{
    for (uint32_t i = 0; a->base != base && i < a->count; i++) {
        struct log_new_event *e = &a->events[i];
        struct slice         *slices[4] = {&e->type, &e->data, &e->meta, &e->subject};

        for (int k = 0; k < 4; k++)
            if (slices[k]->data != NULL)
                slices[k]->data = base + ((uintptr_t)slices[k]->data - (uintptr_t)a->base);
    }
    a->base = base;
}

static bool
is_blank(const uint8_t *p, const uint8_t *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r'))
        p++;
    return p == end;
}

int
serveri_lines_read(struct append *a, uint8_t *body, size_t len, bool last, struct err *err)
{
    int rc = 0;

    rebase(a, body);
    while (a->scanned < len) {
        uint8_t *line = body + a->scanned, *lf = memchr(line, '\n', len - a->scanned);
        uint8_t *end = lf == NULL ? body + len : lf;

        if (lf == NULL && !last) {
            if (len - a->scanned > 2 * LOG_EVENT_MAX)
                FAIL(err, E_LIMIT, ERR_DATA, "line %llu: is too long",
                     (unsigned long long)a->lines + 1);
            break;
        }
        a->lines++;
        a->scanned = (size_t)(end - body) + (lf != NULL);
        if (is_blank(line, end))
            continue;
        rc = serveri_event_read(a, slice_of(line, (size_t)(end - line)), err);
        if (rc != 0) {
            err_prefix(err, "line %llu", (unsigned long long)a->lines);
            break;
        }
    }
out:
    return rc;
}

bool
serveri_expected_read(struct slice text, int64_t *out)
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
serveri_expected_write(struct buf *out, int64_t expected)
{
    switch (expected) {
    case LOG_ANY:
        buf_add_str(out, "\"any\"");
        break;
    case LOG_NO_STREAM:
        buf_add_str(out, "\"no-stream\"");
        break;
    case LOG_EXISTS:
        buf_add_str(out, "\"exists\"");
        break;
    default:
        buf_add_i64(out, expected);
    }
}
