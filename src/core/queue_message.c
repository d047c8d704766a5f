/* A message as the event that it means, or as the record of why it can be none. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/must.h"
#include "base/utf8.h"
#include "core/queue_int.h"
#include "core/verify.h"

#define ID_MAX 1024              /* bytes of a message's id */
#define RECORD_MAX LOG_EVENT_MAX /* bytes of a record */

/* templates */

static bool
is_placeholder(void *arg, struct slice name)
{
    (void)arg;
    return slice_is(name, "queue") || slice_is(name, "key") || slice_is(name, "id") ||
           slice_is(name, "type") || slice_is(name, "position") ||
           slice_starts(name, slice_str("header.")) || slice_starts(name, slice_str("body."));
}

struct look_up {
    const struct queue_form    *form;
    const struct queue_message *message;
};

static struct slice
after(struct slice name, const char *prefix)
{
    size_t n = strlen(prefix);

    must(name.len >= n);
    return slice_of((const char *)name.data + n, name.len - n);
}

static int
put_header(const struct queue_message *m, struct slice name, struct buf *value, struct err *err)
{
    for (uint32_t i = 0; i < m->header_count; i++) {
        if (!slice_eq(m->headers[i].name, name))
            continue;
        buf_add_slice(value, m->headers[i].value);
        return 0;
    }
    RETURN_ERR(err, E_SCHEMA, ERR_DATA, "it has no header %.*s", SLICE_FMT(name));
}

static int
put_member(const struct queue_message *m, struct slice path, struct buf *value, struct err *err)
{
    struct slice raw;

    if (json_check(m->body, NULL) != 0)
        RETURN_ERR(err, E_SYNTAX, ERR_DATA, "its body is no JSON, and {body.%.*s} is asked for",
                   SLICE_FMT(path));
    if (!json_get_path(m->body, path, &raw) || json_is_null(raw))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "its body has no %.*s", SLICE_FMT(path));
    return template_put_json(raw, false, value, err);
}

static int
look_up(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    const struct look_up       *l = arg;
    const struct queue_message *m = l->message;

    must(!raw);
    if (slice_starts(name, slice_str("header.")))
        return put_header(m, after(name, "header."), value, err);
    if (slice_starts(name, slice_str("body.")))
        return put_member(m, after(name, "body."), value, err);
    if (slice_is(name, "queue") && l->form->category != NULL)
        buf_add_str(value, l->form->category);
    else if (slice_is(name, "queue"))
        buf_add_slice(value, m->queue);
    else if (slice_is(name, "key"))
        buf_add_slice(value, m->key);
    else if (slice_is(name, "id"))
        buf_add_slice(value, m->id);
    else if (slice_is(name, "position"))
        buf_add_slice(value, m->position);
    else
        buf_add_slice(value, m->type);
    return 0;
}

static int
compile(const char *text, const char *preset, const struct queue_form *f, const char *what,
        struct template **out, struct err *err)
{
    int rc = template_new(slice_str(text != NULL ? text : preset), TEMPLATE_TEXT, is_placeholder,
                          NULL, out, err);

    if (rc != 0)
        err_prefix(err, "source %s: %s", f->name, what);
    return rc;
}

int
queuei_form_open(struct queue_form *f, const struct queue_conf *conf, struct err *err)
{
    int rc = 0;

    *f = (struct queue_form){.park_no_id = conf->park_no_id, .payload = conf->payload};
    f->name = strdup(conf->name);
    f->category = conf->category == NULL ? NULL : strdup(conf->category);
    f->verify_stream = conf->verify_stream == NULL ? NULL : strdup(conf->verify_stream);
    if (f->name == NULL || (f->category == NULL) != (conf->category == NULL) ||
        (f->verify_stream == NULL) != (conf->verify_stream == NULL))
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    TRY(compile(conf->stream, "{queue}-{key}", f, "stream", &f->stream, err));
    TRY(compile(conf->type, "{type}", f, "event", &f->type, err));
    TRY(compile(conf->id, "{id}", f, "id", &f->id, err));
out:
    if (rc != 0)
        queuei_form_close(f);
    return rc;
}

void
queuei_form_close(struct queue_form *f)
{
    free(f->name);
    free(f->category);
    free(f->verify_stream);
    template_free(f->stream);
    template_free(f->type);
    template_free(f->id);
    buf_fini(&f->scratch);
    buf_fini(&f->value);
    *f = (struct queue_form){0};
}

static int
expand(struct queue_form *f, const struct template *t, const struct queue_message *m,
       struct buf *out, struct err *err)
{
    struct look_up l = {f, m};

    return template_expand(t, look_up, &l, &f->scratch, out, err);
}

static int
put_span(struct queue_form *f, const struct template *t, const struct queue_message *m,
         struct buf *text, struct queue_span *out, struct err *err)
{
    int rc;

    out->at = text->len;
    rc = expand(f, t, m, text, err);
    out->len = text->len - out->at;
    must(text->len >= out->at);
    return rc;
}

static struct slice
text_of(const struct buf *text, struct queue_span s)
{
    must(s.at + s.len <= text->len);
    return s.len == 0 ? slice_str("") : slice_of(text->data + s.at, s.len);
}

/* ids */

/* A UUID is the event's id; another text makes one, the same each time. */
static struct ox_id
id_of_text(struct queue_form *f, struct slice text, const char *kind)
{
    struct ox_id id;

    if (id_parse(text, &id) && !id_is_zero(&id))
        return id;
    buf_clear(&f->scratch);
    buf_add_str(&f->scratch, f->name);
    buf_add_byte(&f->scratch, 0);
    buf_add_str(&f->scratch, kind);
    buf_add_byte(&f->scratch, 0);
    buf_add_slice(&f->scratch, text);
    return id_of_bytes(buf_slice(&f->scratch));
}

/* That of a message to be verified is in its body. */
static int
verify_id(const struct queue_message *m, struct buf *text, struct ox_id *out, struct err *err)
{
    struct log_new_event event;
    struct slice         target;
    int                  rc = verify_message(m->body, text, &event, &target, err);

    *out = event.id;
    return rc;
}

static int
find_id(struct queue_form *f, const struct queue_message *m, struct ox_id *out, struct err *err)
{
    int rc = 0;

    *out = (struct ox_id){{0}};
    buf_clear(&f->value);
    if (f->verify_stream != NULL)
        return verify_id(m, &f->value, out, err);
    TRY(expand(f, f->id, m, &f->value, err));
    if (f->value.len > ID_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "its id has %zu bytes, at most %d are allowed", f->value.len,
             ID_MAX);
    if (f->value.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    if (f->value.len > 0)
        *out = id_of_text(f, buf_slice(&f->value), "id");
    else if (m->position.len > 0)
        *out = id_of_text(f, m->position, "position");
    else if (f->park_no_id)
        FAIL(err, E_SCHEMA, ERR_DATA, "it has no id");
out:
    return rc;
}

/* events */

static void
put_text(struct json_out *o, const char *key, struct slice text)
{
    if (text.len == 0)
        return;
    json_out_key(o, key);
    json_out_string(o, text);
}

/* A name that comes again was said before. */
static bool
is_first(const struct queue_message *m, uint32_t i)
{
    for (uint32_t k = 0; k < i; k++)
        if (slice_eq(m->headers[k].name, m->headers[i].name))
            return false;
    return true;
}

/* Where it came from, and the trace that it belongs to. */
static void
put_metadata(struct queue_form *f, const struct queue_message *m, struct buf *text)
{
    struct json_out o;

    must(m->header_count <= QUEUE_HEADERS_MAX);
    json_out_init(&o, text);
    json_out_object(&o);
    for (uint32_t i = 0; i < m->header_count; i++)
        if ((slice_is(m->headers[i].name, "traceparent") ||
             slice_is(m->headers[i].name, "tracestate")) &&
            is_first(m, i)) {
            json_out_key_slice(&o, m->headers[i].name);
            json_out_string(&o, m->headers[i].value);
        }
    json_out_key(&o, "$source");
    json_out_object(&o);
    put_text(&o, "name", slice_str(f->name));
    put_text(&o, "queue", m->queue);
    put_text(&o, "key", m->key);
    put_text(&o, "id", m->id);
    put_text(&o, "position", m->position);
    put_text(&o, "type", m->type);
    put_text(&o, "content_type", m->content_type);
    if (m->time_us != 0) {
        json_out_key(&o, "time_us");
        json_out_i64(&o, m->time_us);
    }
    if (m->redelivered) {
        json_out_key(&o, "redelivered");
        json_out_bool(&o, true);
    }
    if (m->header_count > 0) {
        json_out_key(&o, "headers");
        json_out_object(&o);
        for (uint32_t i = 0; i < m->header_count; i++) {
            if (!is_first(m, i))
                continue;
            buf_clear(&f->scratch);
            json_put_string(&f->scratch, m->headers[i].name);
            if (f->scratch.len < 2)
                continue;
            json_out_key_slice(&o, slice_of(f->scratch.data + 1, f->scratch.len - 2));
            json_out_string(&o, m->headers[i].value);
        }
        json_out_object_end(&o);
    }
    json_out_object_end(&o);
    json_out_object_end(&o);
}

static int
put_data(const struct queue_form *f, const struct queue_message *m, struct buf *text,
         struct queue_event *e, struct err *err)
{
    struct slice data = m->body, raw;
    struct err   why;

    if (f->payload != QUEUE_BYTES && json_value(m->body, &raw, &why) == 0) {
        data = raw;
        e->json = true;
    } else if (f->payload == QUEUE_JSON) {
        RETURN_ERR(err, E_SYNTAX, ERR_DATA, "its body is no JSON: %s", why.text);
    }
    e->data.at = text->len;
    e->data.len = data.len;
    buf_add_slice(text, data);
    must(text->failed || text->len == e->data.at + e->data.len);
    return 0;
}

/* What the log would refuse it for. */
static int
check_fit(const struct buf *text, const struct queue_event *e, struct err *err)
{
    if (e->type.len > LOG_TYPE_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "its type has %zu bytes, at most %d are allowed",
                   e->type.len, LOG_TYPE_MAX);
    if (e->data.len + e->meta.len > LOG_EVENT_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "it has %zu bytes, an event has at most %" PRIu64,
                   e->data.len + e->meta.len, LOG_EVENT_MAX);
    if (!utf8_valid(text_of(text, e->type)))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "its type is no UTF-8");
    return 0;
}

static void
copy_span(struct buf *text, struct slice s, struct queue_span *out)
{
    out->at = text->len;
    out->len = s.len;
    buf_add_slice(text, s);
    must(text->failed || text->len == out->at + out->len);
}

/* One that is to be verified: the event that is held. */
static int
take_unverified(struct queue_form *f, const struct queue_message *m, struct buf *text,
                struct queue_event *e, struct err *err)
{
    struct log_new_event held;
    struct slice         target;
    int                  rc;

    buf_clear(&f->value);
    rc = verify_message(m->body, &f->value, &held, &target, err);
    if (rc != 0)
        return rc;
    copy_span(text, slice_str(f->verify_stream), &e->stream);
    copy_span(text, held.type, &e->type);
    copy_span(text, held.data, &e->data);
    copy_span(text, held.meta, &e->meta);
    e->id = held.id;
    e->json = true;
    if (text->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    return check_fit(text, e, err);
}

int
queuei_message_event(struct queue_form *f, const struct queue_message *m, struct buf *text,
                     struct queue_event *out, struct err *err)
{
    int rc;

    *out = (struct queue_event){.created_us = m->time_us};
    rc = find_id(f, m, &out->id, err);
    out->has_id = rc == 0 && !id_is_zero(&out->id);
    if (rc != 0)
        goto out;
    if (f->verify_stream != NULL)
        return take_unverified(f, m, text, out, err);
    TRY(put_span(f, f->stream, m, text, &out->stream, err));
    TRY(log_name_check(text_of(text, out->stream), false, err));
    TRY(put_span(f, f->type, m, text, &out->type, err));
    if (out->type.len == 0)
        copy_span(text, slice_str("Message"), &out->type);
    TRY(put_data(f, m, text, out, err));
    out->meta.at = text->len;
    put_metadata(f, m, text);
    out->meta.len = text->len - out->meta.at;
    if (text->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    TRY(check_fit(text, out, err));
out:
    return rc;
}

/* parked ones */

/* The body: as a text where it is one. */
static void
put_body(struct json_out *o, struct slice body)
{
    if (utf8_valid(body)) {
        json_out_key(o, "body");
        json_out_string(o, body);
        return;
    }
    json_out_key(o, "body_base64");
    json_out_raw(o, slice_str("\""));
    base64_encode(o->buf, body);
    buf_add_byte(o->buf, '"');
}

static void
put_headers(struct json_out *o, const struct queue_message *m)
{
    json_out_key(o, "headers");
    json_out_array(o);
    for (uint32_t i = 0; i < m->header_count; i++) {
        json_out_array(o);
        json_out_string(o, m->headers[i].name);
        json_out_string(o, m->headers[i].value);
        json_out_array_end(o);
    }
    json_out_array_end(o);
}

int
queuei_message_park(struct queue_form *f, const struct queue_message *m, const char *reason,
                    struct buf *text, struct queue_event *out, struct err *err)
{
    struct json_out o;
    struct ox_id    id = out->id;
    bool            has_id = out->has_id;

    must(!has_id || !id_is_zero(&id));
    *out = (struct queue_event){.id = id, .has_id = has_id, .created_us = m->time_us, .json = true};
    out->stream.at = text->len;
    buf_printf(text, "$parked-source-%s", f->name);
    out->stream.len = text->len - out->stream.at;
    copy_span(text, slice_str("Parked"), &out->type);
    out->data.at = text->len;
    json_out_init(&o, text);
    json_out_object(&o);
    put_text(&o, "reason", slice_str(reason));
    put_text(&o, "queue", m->queue);
    put_text(&o, "key", m->key);
    put_text(&o, "id", m->id);
    put_text(&o, "position", m->position);
    put_text(&o, "type", m->type);
    put_text(&o, "content_type", m->content_type);
    json_out_key(&o, "time_us");
    json_out_i64(&o, m->time_us);
    put_headers(&o, m);
    put_body(&o, m->body);
    json_out_object_end(&o);
    out->data.len = text->len - out->data.at;
    if (text->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    if (out->data.len > RECORD_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL,
                   "source %s: the next message of queue %.*s has %zu bytes: it can neither be "
                   "appended nor parked; take it out of the queue, then resume",
                   f->name, SLICE_FMT(m->queue), m->body.len);
    return 0;
}

enum {
    R_REASON,
    R_QUEUE,
    R_KEY,
    R_ID,
    R_POSITION,
    R_TYPE,
    R_CONTENT,
    R_TIME,
    R_HEADERS,
    R_BODY,
    R_BODY64,
    R_COUNT
};

/* Offsets first: the text may move while it grows. */
static int
decode(struct slice raw, struct buf *text, struct queue_span *out, struct err *err)
{
    int rc = 0;

    out->at = text->len;
    if (raw.data != NULL && json_type(raw) == JSON_STRING)
        rc = json_string_decode(raw, text, err);
    out->len = text->len - out->at;
    return rc;
}

static int
decode_headers(struct slice raw, struct buf *text, struct queue_span spans[2 * QUEUE_HEADERS_MAX],
               uint32_t *count, struct err *err)
{
    struct json_iter all, one;
    struct slice     pair, value;
    int              rc;

    *count = 0;
    if (raw.data == NULL)
        return 0;
    TRY(json_array_iter(&all, raw, err));
    while ((rc = json_iter_next(&all, NULL, &pair, err)) == 0 && *count < QUEUE_HEADERS_MAX) {
        TRY(json_array_iter(&one, pair, err));
        for (uint32_t k = 0; k < 2; k++) {
            TRY(json_iter_next(&one, NULL, &value, err));
            TRY(decode(value, text, &spans[2 * *count + k], err));
        }
        ++*count;
    }
    must(*count <= QUEUE_HEADERS_MAX);
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

int
queuei_message_parked(struct slice record, struct buf *text, struct buf *headers,
                      struct queue_message *out, struct err *err)
{
    struct json_field f[R_COUNT] = {
        {.name = "reason"},   {.name = "queue"}, {.name = "key"},          {.name = "id"},
        {.name = "position"}, {.name = "type"},  {.name = "content_type"}, {.name = "time_us"},
        {.name = "headers"},  {.name = "body"},  {.name = "body_base64"}};
    struct queue_span    span[R_COUNT], pairs[2 * QUEUE_HEADERS_MAX];
    struct queue_header *h;
    size_t               len = 0;
    uint32_t             count;
    int                  rc;

    buf_clear(text);
    buf_clear(headers);
    *out = (struct queue_message){.tag = 0};
    TRY(json_pick(record, f, R_COUNT, JSON_PICK_ANY, err));
    for (int i = 0; i < R_COUNT; i++)
        TRY(decode(f[i].value, text, &span[i], err));
    TRY(decode_headers(f[R_HEADERS].value, text, pairs, &count, err));
    if (text->failed || !buf_reserve(headers, (size_t)count * sizeof *h + 1))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a parked message");
    must(headers->cap >= (size_t)count * sizeof *h);
    h = (struct queue_header *)(void *)headers->data;
    for (uint32_t i = 0; i < count; i++)
        h[i] = (struct queue_header){text_of(text, pairs[(size_t)2 * i]),
                                     text_of(text, pairs[(size_t)2 * i + 1])};
    if (f[R_BODY64].value.data != NULL) {
        if (!base64_decode(text->data + span[R_BODY64].at, span[R_BODY64].len, &len))
            FAIL(err, E_SCHEMA, ERR_DATA, "the record's body is no base64");
        span[R_BODY] = (struct queue_span){span[R_BODY64].at, len};
    }
    *out = (struct queue_message){.queue = text_of(text, span[R_QUEUE]),
                                  .key = text_of(text, span[R_KEY]),
                                  .id = text_of(text, span[R_ID]),
                                  .position = text_of(text, span[R_POSITION]),
                                  .type = text_of(text, span[R_TYPE]),
                                  .content_type = text_of(text, span[R_CONTENT]),
                                  .body = text_of(text, span[R_BODY]),
                                  .headers = h,
                                  .header_count = count};
    if (f[R_TIME].value.data != NULL)
        (void)json_int64(f[R_TIME].value, &out->time_us);
out:
    return rc;
}
