/* From records to messages. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/base64.h"
#include "base/must.h"
#include "base/utf8.h"
#include "source/kafka/kafka_int.h"

#define POSITION_MAX 320 /* topic/partition/offset@epoch */

void
kafkai_batch_clear(struct kafkai_source *s)
{
    for (uint32_t i = 0; i < s->count; i++)
        rd_kafka_message_destroy(s->records[i]);
    s->count = 0;
}

static bool
grow_handed(struct kafkai_source *s)
{
    uint32_t              room = s->handed_room == 0 ? 1024 : s->handed_room * 2;
    struct kafkai_handed *p = realloc(s->handed, room * sizeof *p);

    if (p == NULL)
        return false;
    s->handed = p;
    s->handed_room = room;
    return true;
}

int
kafkai_batch_add(struct kafkai_source *s, rd_kafka_message_t *m, struct err *err)
{
    struct kafkai_place *place =
        kafkai_place(&s->places, rd_kafka_topic_name(m->rkt), m->partition);

    must(s->count < KAFKAI_BATCH_MAX);
    if (place == NULL || (s->handed_count == s->handed_room && !grow_handed(s))) {
        rd_kafka_message_destroy(m);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a record");
    }
    if (m->offset < place->next) { /* read again after an assignment */
        rd_kafka_message_destroy(m);
        return 0;
    }
    place->next = m->offset + 1;
    s->handed[s->handed_count++] =
        (struct kafkai_handed){(uint32_t)(place - s->places.at), place->next};
    s->records[s->count++] = m;
    return 0;
}

/* What the texts of a record take in s->text, at most; and how many headers it has. */
static size_t
measure(const struct kafkai_source *s, const rd_kafka_message_t *m, uint32_t *headers)
{
    rd_kafka_headers_t *list;
    const char         *name;
    const void         *value;
    size_t              len, sum = POSITION_MAX + (s->hex ? 2 * m->key_len : 0), i = 0;

    if (rd_kafka_message_headers(m, &list) == RD_KAFKA_RESP_ERR_NO_ERROR)
        for (; i < QUEUE_HEADERS_MAX &&
               rd_kafka_header_get_all(list, i, &name, &value, &len) == RD_KAFKA_RESP_ERR_NO_ERROR;
             i++)
            sum += len / 3 * 4 + 8;
    *headers = (uint32_t)i;
    return sum;
}

static struct slice
since(const struct buf *text, size_t at)
{
    return slice_of(text->data + at, text->len - at);
}

static struct slice
hex_of(struct buf *text, const uint8_t *bytes, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    size_t            at = text->len;

    for (size_t i = 0; i < len; i++) {
        buf_add_byte(text, (uint8_t)digits[bytes[i] >> 4]);
        buf_add_byte(text, (uint8_t)digits[bytes[i] & 15]);
    }
    return since(text, at);
}

/* A value that is no text is given as base64. */
static void
add_headers(struct kafkai_source *s, const rd_kafka_message_t *record, struct queue_message *m)
{
    rd_kafka_headers_t *list;
    const char         *name;
    const void         *value;
    size_t              len;

    m->headers = &s->headers[s->header_count];
    if (rd_kafka_message_headers(record, &list) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return;
    for (size_t i = 0;
         i < QUEUE_HEADERS_MAX && rd_kafka_header_get_all(list, i, &name, &value, &len) == 0; i++) {
        struct queue_header *h = &s->headers[s->header_count];
        size_t               at = s->text.len;

        *h = (struct queue_header){slice_str(name), slice_of(value, value == NULL ? 0 : len)};
        if (!utf8_valid(h->name))
            continue;
        if (!utf8_valid(h->value)) {
            base64_encode(&s->text, h->value);
            h->value = since(&s->text, at);
        }
        s->header_count++;
        m->header_count++;
        if (slice_is(h->name, "ce_type"))
            m->type = h->value;
        else if (slice_is(h->name, "content-type"))
            m->content_type = h->value;
    }
}

static void
fill(struct kafkai_source *s, uint32_t i)
{
    const rd_kafka_message_t *record = s->records[i];
    struct queue_message     *m = &s->messages[i];
    const char               *topic = rd_kafka_topic_name(record->rkt);
    int64_t                   ms = rd_kafka_message_timestamp(record, NULL);
    size_t                    at = s->text.len;

    *m = (struct queue_message){.tag = s->first_tag + s->handed_count - s->count + i,
                                .queue = slice_str(topic),
                                .key = slice_of(record->key, record->key_len),
                                .body = slice_of(record->payload, record->len),
                                .time_us = ms > 0 ? ms * 1000 : 0};
    buf_printf(&s->text, "%s/%d/%" PRId64, topic, (int)record->partition, record->offset);
    if (s->places.epoch > 0)
        buf_printf(&s->text, "@%" PRIu64, s->places.epoch);
    m->position = since(&s->text, at);
    if (s->hex)
        m->key = hex_of(&s->text, record->key, record->key_len);
    add_headers(s, record, m);
}

int
kafkai_batch_give(struct kafkai_source *s, struct queue_batch *batch, struct err *err)
{
    size_t   bytes = 1;
    uint32_t headers = 1, n;
    int      rc = 0;

    for (uint32_t i = 0; i < s->count; i++) {
        bytes += measure(s, s->records[i], &n);
        headers += n;
    }
    if (headers > s->header_room) {
        struct queue_header *p = realloc(s->headers, headers * sizeof *p);

        if (p == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for headers");
        s->headers = p;
        s->header_room = headers;
    }
    s->header_count = 0;
    buf_clear(&s->text);
    if (!buf_reserve(&s->text, bytes))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    for (uint32_t i = 0; i < s->count; i++)
        fill(s, i);
    must(s->text.len <= bytes && !s->text.failed); /* it has not moved */
    buf_clear(&s->checkpoint);
    TRY(kafkai_places_put(&s->places, &s->checkpoint, err));
    *batch = (struct queue_batch){
        .messages = s->messages, .count = s->count, .checkpoint = buf_slice(&s->checkpoint)};
    s->tell = false;
out:
    return rc;
}
