/* A delivery of AMQP 0-9-1 as a message of a queue. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "source/rabbitmq/rabbitmq_int.h"

#define TEXT_KEPT ((size_t)1 << 20) /* a larger buffer is given back before the next message */

static struct slice
slice_of_bytes(amqp_bytes_t b)
{
    return slice_of(b.bytes, b.len);
}

static void
put(struct rabbitmqi_slot *s, struct slice bytes, struct rabbitmqi_span *out)
{
    out->at = s->text.len;
    out->len = bytes.len;
    buf_add_slice(&s->text, bytes);
}

static struct slice
text_of(const struct rabbitmqi_slot *s, struct rabbitmqi_span span)
{
    return span.len == 0 ? slice_str("") : slice_of(s->text.data + span.at, span.len);
}

void
rabbitmqi_slot_fini(struct rabbitmqi_slot *s)
{
    buf_fini(&s->text);
    free(s->pairs);
    free(s->headers);
    *s = (struct rabbitmqi_slot){0};
}

/* values of headers */

static void put_value(struct json_out *o, const amqp_field_value_t *v);

static void
put_table(struct json_out *o, const amqp_table_t *t)
{
    struct buf key = {0};

    json_out_object(o);
    for (int i = 0; i < t->num_entries; i++) {
        buf_clear(&key);
        json_put_string(&key, slice_of_bytes(t->entries[i].key));
        if (key.len < 2)
            continue;
        json_out_key_slice(o, slice_of(key.data + 1, key.len - 2));
        put_value(o, &t->entries[i].value);
    }
    json_out_object_end(o);
    buf_fini(&key);
}

static void
put_array(struct json_out *o, const amqp_array_t *a)
{
    json_out_array(o);
    for (int i = 0; i < a->num_entries; i++)
        put_value(o, &a->entries[i]);
    json_out_array_end(o);
}

static void
put_number(struct json_out *o, const amqp_field_value_t *v)
{
    switch (v->kind) {
    case AMQP_FIELD_KIND_I8:
        json_out_i64(o, v->value.i8);
        break;
    case AMQP_FIELD_KIND_U8:
        json_out_u64(o, v->value.u8);
        break;
    case AMQP_FIELD_KIND_I16:
        json_out_i64(o, v->value.i16);
        break;
    case AMQP_FIELD_KIND_U16:
        json_out_u64(o, v->value.u16);
        break;
    case AMQP_FIELD_KIND_I32:
        json_out_i64(o, v->value.i32);
        break;
    case AMQP_FIELD_KIND_U32:
        json_out_u64(o, v->value.u32);
        break;
    case AMQP_FIELD_KIND_I64:
        json_out_i64(o, v->value.i64);
        break;
    case AMQP_FIELD_KIND_F32:
        json_out_double(o, (double)v->value.f32);
        break;
    case AMQP_FIELD_KIND_F64:
        json_out_double(o, v->value.f64);
        break;
    default: /* U64, TIMESTAMP */
        json_out_u64(o, v->value.u64);
    }
}

static void
put_decimal(struct json_out *o, const amqp_decimal_t *d)
{
    char text[32];

    (void)snprintf(text, sizeof text, "%" PRIu32 "e-%u", d->value, (unsigned)d->decimals);
    json_out_raw(o, slice_str(text));
}

/* The library has refused what is nested too deep; what is not of JSON's depth is left out. */
static void
put_value(struct json_out *o, const amqp_field_value_t *v)
{
    bool deep = o->depth + 1 >= JSON_DEPTH_MAX;

    switch (v->kind) {
    case AMQP_FIELD_KIND_BOOLEAN:
        json_out_bool(o, v->value.boolean != 0);
        break;
    case AMQP_FIELD_KIND_UTF8:
    case AMQP_FIELD_KIND_BYTES:
        json_out_string(o, slice_of_bytes(v->value.bytes));
        break;
    case AMQP_FIELD_KIND_TABLE:
        if (!deep)
            put_table(o, &v->value.table);
        else
            json_out_null(o);
        break;
    case AMQP_FIELD_KIND_ARRAY:
        if (!deep)
            put_array(o, &v->value.array);
        else
            json_out_null(o);
        break;
    case AMQP_FIELD_KIND_DECIMAL:
        put_decimal(o, &v->value.decimal);
        break;
    case AMQP_FIELD_KIND_VOID:
        json_out_null(o);
        break;
    default:
        put_number(o, v);
    }
}

static bool
header_room(struct rabbitmqi_slot *s, uint32_t n)
{
    if (s->header_room >= n)
        return true;
    free(s->pairs);
    free(s->headers);
    s->pairs = calloc(n, 2 * sizeof s->pairs[0]);
    s->headers = calloc(n, sizeof s->headers[0]);
    s->header_room = s->pairs == NULL || s->headers == NULL ? 0 : n;
    return s->header_room > 0;
}

/* A text as it is, anything else as JSON. */
static void
add_header(struct rabbitmqi_slot *s, struct slice name, const amqp_field_value_t *v)
{
    struct rabbitmqi_span *pair = &s->pairs[(size_t)2 * s->header_count];
    struct json_out        o;

    if (s->header_count == s->header_room)
        return;
    put(s, name, &pair[0]);
    if (v->kind == AMQP_FIELD_KIND_UTF8 || v->kind == AMQP_FIELD_KIND_BYTES) {
        put(s, slice_of_bytes(v->value.bytes), &pair[1]);
    } else {
        pair[1].at = s->text.len;
        json_out_init(&o, &s->text);
        put_value(&o, v);
        pair[1].len = s->text.len - pair[1].at;
    }
    s->header_count++;
}

static void
add_property(struct rabbitmqi_slot *s, const amqp_basic_properties_t *p, amqp_flags_t flag,
             const char *name, amqp_bytes_t value)
{
    amqp_field_value_t v = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = value};

    if ((p->_flags & flag) != 0)
        add_header(s, slice_str(name), &v);
}

/* CloudEvents' attribute, as the binding of AMQP 1.0 names it. */
static bool
find_attribute(const struct rabbitmqi_slot *s, const char *name, struct rabbitmqi_span *out)
{
    for (uint32_t i = 0; i < s->header_count; i++) {
        struct slice full = text_of(s, s->pairs[(size_t)2 * i]);
        struct slice rest =
            slice_of((const char *)full.data + 12, full.len < 12 ? 0 : full.len - 12);

        if ((slice_starts(full, slice_str("cloudEvents:")) ||
             slice_starts(full, slice_str("cloudEvents_"))) &&
            slice_is(rest, name)) {
            *out = s->pairs[(size_t)2 * i + 1];
            return true;
        }
    }
    return false;
}

static void
take_headers(struct rabbitmqi_slot *s, const amqp_basic_properties_t *p)
{
    int n = (p->_flags & AMQP_BASIC_HEADERS_FLAG) != 0 ? p->headers.num_entries : 0;

    s->header_count = 0;
    if (!header_room(s, n + 8 > QUEUE_HEADERS_MAX ? QUEUE_HEADERS_MAX : (uint32_t)n + 8)) {
        s->failed = true;
        return;
    }
    for (int i = 0; i < n; i++)
        add_header(s, slice_of_bytes(p->headers.entries[i].key), &p->headers.entries[i].value);
    add_property(s, p, AMQP_BASIC_CORRELATION_ID_FLAG, "amqp-correlation-id", p->correlation_id);
    add_property(s, p, AMQP_BASIC_REPLY_TO_FLAG, "amqp-reply-to", p->reply_to);
    add_property(s, p, AMQP_BASIC_APP_ID_FLAG, "amqp-app-id", p->app_id);
    add_property(s, p, AMQP_BASIC_CONTENT_ENCODING_FLAG, "amqp-content-encoding",
                 p->content_encoding);
}

/* frames */

void
rabbitmqi_slot_begin(struct rabbitmqi_slot *s, const amqp_basic_deliver_t *m)
{
    amqp_field_value_t v = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = m->exchange};

    if (s->text.cap > TEXT_KEPT)
        buf_fini(&s->text);
    buf_clear(&s->text);
    s->failed = false;
    s->delivery = m->delivery_tag;
    s->redelivered = m->redelivered != 0;
    put(s, slice_of_bytes(v.value.bytes), &s->exchange);
    put(s, slice_of_bytes(m->routing_key), &s->key);
}

void
rabbitmqi_slot_header(struct rabbitmqi_slot *s, const amqp_basic_properties_t *p,
                      uint64_t body_bytes)
{
    const amqp_bytes_t none = {0};

    take_headers(s, p);
    put(s, slice_of_bytes((p->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) != 0 ? p->message_id : none),
        &s->id);
    put(s, slice_of_bytes((p->_flags & AMQP_BASIC_TYPE_FLAG) != 0 ? p->type : none), &s->type);
    put(s, slice_of_bytes((p->_flags & AMQP_BASIC_CONTENT_TYPE_FLAG) != 0 ? p->content_type : none),
        &s->content_type);
    if (s->id.len == 0)
        (void)find_attribute(s, "id", &s->id);
    if (s->type.len == 0)
        (void)find_attribute(s, "type", &s->type);
    s->time_us =
        (p->_flags & AMQP_BASIC_TIMESTAMP_FLAG) != 0 && p->timestamp < (uint64_t)INT64_MAX / 1000000
            ? (int64_t)p->timestamp * 1000000
            : 0;
    s->body_left = body_bytes;
    s->body = (struct rabbitmqi_span){s->text.len, 0};
}

void
rabbitmqi_slot_body(struct rabbitmqi_slot *s, amqp_bytes_t part)
{
    must(s->body.at + s->body.len == s->text.len || s->text.failed);
    buf_add_slice(&s->text, slice_of_bytes(part));
    s->body.len += part.len;
    s->body_left = part.len > s->body_left ? 0 : s->body_left - part.len;
}

void
rabbitmqi_slot_message(struct rabbitmqi_slot *s, const char *queue, uint64_t tag,
                       struct queue_message *out)
{
    for (uint32_t i = 0; i < s->header_count; i++)
        s->headers[i] = (struct queue_header){text_of(s, s->pairs[(size_t)2 * i]),
                                              text_of(s, s->pairs[(size_t)2 * i + 1])};
    *out = (struct queue_message){.tag = tag,
                                  .queue = slice_str(queue),
                                  .key = text_of(s, s->key),
                                  .id = text_of(s, s->id),
                                  .type = text_of(s, s->type),
                                  .content_type = text_of(s, s->content_type),
                                  .body = text_of(s, s->body),
                                  .headers = s->headers,
                                  .header_count = s->header_count,
                                  .redelivered = s->redelivered,
                                  .time_us = s->time_us};
}
