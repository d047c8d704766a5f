/*
 * POST /streams/{stream}: an append as KurrentDB's clients over HTTP/1.1 ask for it, one event
 * whose type and id stand in header fields, or an array of events.
 */
#include <strings.h>

#include "base/json.h"
#include "base/must.h"
#include "base/url.h"
#include "server/append_int.h"

/* "ES-EventType", or as newer clients write it "Kurrent-EventType". */
static bool
header(const struct call *call, const char *old, const char *now, struct slice *value)
{
    return call_header(call, old, value) || call_header(call, now, value);
}

static bool
is_type(const struct call *call, const char *name)
{
    struct slice type;
    size_t       len = strlen(name);

    return call_header(call, "content-type", &type) && type.len >= len &&
           strncasecmp(type.data, name, len) == 0;
}

/* -1: no stream; -2: any; -4: exists. */
static int
read_expected(const struct call *call, int64_t *out, struct err *err)
{
    struct slice text;

    *out = LOG_ANY;
    if (!header(call, "es-expectedversion", "kurrent-expectedversion", &text) ||
        slice_is(text, "-2"))
        return 0;
    if (slice_is(text, "-1"))
        *out = LOG_NO_STREAM;
    else if (slice_is(text, "-4"))
        *out = LOG_EXISTS;
    else if (!json_int64(text, out) || *out < 0)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "ES-ExpectedVersion: must be -1, -2, -4 or a version");
    return 0;
}

static int
read_id(struct slice text, struct log_new_event *e, struct err *err)
{
    if (!id_parse(text, &e->id) || id_is_zero(&e->id))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "an event's id must be a UUID that is not all zeros");
    return 0;
}

static int
check_event(struct append *a, struct log_new_event *e, struct err *err)
{
    if (e->type.len == 0 || e->type.len > LOG_TYPE_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "an event's type must be 1 to %d bytes", LOG_TYPE_MAX);
    if (e->data.len + e->meta.len > LOG_EVENT_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "the event is larger than 16 MiB");
    if (slice_is(e->type, SERVERI_LINK_TYPE))
        e->flags = LOG_LINK;
    a->count++;
    return 0;
}

/* {"eventId":…,"eventType":…,"data":…,"metadata":…} */
static int
read_event(struct append *a, struct slice raw, struct err *err)
{
    enum { ID, TYPE, DATA, META, FIELDS };
    struct json_field     f[FIELDS] = {[ID] = {.name = "eventId"},
                                       [TYPE] = {.name = "eventType", .required = true},
                                       [DATA] = {.name = "data"},
                                       [META] = {.name = "metadata"}};
    struct log_new_event *e;
    struct slice          id;
    int                   rc = 0;

    TRY(serveri_event_new(a, &e, err));
    TRY(json_pick(raw, f, FIELDS, JSON_PICK_ONLY, err));
    TRY(serveri_string_read(a, f[TYPE].value, "\"eventType\"", &e->type, err));
    if (f[ID].value.data != NULL) {
        TRY(serveri_string_read(a, f[ID].value, "\"eventId\"", &id, err));
        TRY(read_id(id, e, err));
    }
    e->data = f[DATA].value;
    e->meta = f[META].value;
    e->flags = LOG_JSON;
    if (slice_is(e->type, SERVERI_LINK_TYPE))
        TRY(serveri_string_read(a, e->data, "\"data\" of a link", &e->data, err));
    TRY(check_event(a, e, err));
out:
    return rc;
}

static int
read_array(struct call *call, struct append *a, struct err *err)
{
    struct json_iter it;
    struct slice     raw, event;
    int              rc = 0;

    TRY(json_value(call_body(call), &raw, err));
    if (json_type(raw) != JSON_ARRAY)
        FAIL(err, E_SCHEMA, ERR_DATA, "the body must be an array of events");
    TRY(json_array_iter(&it, raw, err));
    while ((rc = json_iter_next(&it, NULL, &event, err)) == 0)
        TRY(read_event(a, event, err));
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* The body is the event's data. */
static int
read_one(struct call *call, struct append *a, struct err *err)
{
    struct log_new_event *e;
    struct slice          id;
    int                   rc = 0;

    TRY(serveri_event_new(a, &e, err));
    if (!header(call, "es-eventtype", "kurrent-eventtype", &e->type))
        FAIL(err, E_INVALID, ERR_DATA, "the header field ES-EventType is missing");
    if (header(call, "es-eventid", "kurrent-eventid", &id))
        TRY(read_id(id, e, err));
    e->data = call_body(call);
    if (is_type(call, "application/json")) {
        TRY(json_check(e->data, err));
        e->flags = LOG_JSON;
    }
    TRY(check_event(a, e, err));
out:
    return rc;
}

static int
read_append(struct call *call, struct append *a, struct err *err)
{
    int rc = 0;

    TRY(read_expected(call, &a->one.expected, err));
    if (is_type(call, "application/vnd.eventstore.events+json") ||
        is_type(call, "application/vnd.kurrent.events+json"))
        TRY(read_array(call, a, err));
    else
        TRY(read_one(call, a, err));
    if (a->count == 0)
        FAIL(err, E_INVALID, ERR_DATA, "the body has no event");
    a->one.stream = call_param(call, "stream");
    a->one.events = a->events;
    a->one.count = a->count;
    a->unnamed_version = false;
    a->atom = true;
out:
    return rc;
}

/* The scratch is free again: the log has what was in it. */
static void
answer_created(struct call *call, struct append *a)
{
    buf_clear(&a->scratch);
    buf_add_str(&a->scratch, "/streams/");
    url_encode(&a->scratch, a->one.stream);
    buf_add_byte(&a->scratch, '/');
    buf_add_u64(&a->scratch, a->one.first_version);
    call->location = buf_slice(&a->scratch);
    call_answer(call, 201, NULL, (struct slice){0});
}

static void
post_stream(struct call *call, void *arg)
{
    struct append *a = serveri_append_begin(call);
    struct err     err;

    if (a == NULL)
        return;
    if (read_append(call, a, &err) != 0) {
        call_fail(call, &err);
        return;
    }
    a->answer = answer_created;
    serveri_append_send(call, a);
}

int
serveri_atom_routes(struct server *s, struct err *err)
{
    struct server_route stream = {"POST", "/streams/{stream}", post_stream, s->conf.body_bytes_max};

    return serveri_route_add(s, &stream, NULL, NULL, err);
}
