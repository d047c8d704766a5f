/* Between the files of src/source/rabbitmq only. */
#ifndef OX_SOURCE_RABBITMQ_RABBITMQ_INT_H
#define OX_SOURCE_RABBITMQ_RABBITMQ_INT_H

#include <amqp.h>

#include "source/queue.h"

struct rabbitmqi_span {
    size_t at, len;
};

/* A message as it comes in, frame by frame; spans are of `text`. */
struct rabbitmqi_slot {
    uint64_t               delivery;
    bool                   redelivered;
    uint64_t               body_left;
    int64_t                time_us;
    struct buf             text;
    struct rabbitmqi_span  exchange, key, id, type, content_type, body;
    struct rabbitmqi_span *pairs; /* of each header its name and its value */
    struct queue_header   *headers;
    uint32_t               header_count, header_room;
    bool                   failed; /* out of memory */
};

void rabbitmqi_slot_begin(struct rabbitmqi_slot *s, const amqp_basic_deliver_t *m);
void rabbitmqi_slot_header(struct rabbitmqi_slot *s, const amqp_basic_properties_t *p,
                           uint64_t body_bytes);
void rabbitmqi_slot_body(struct rabbitmqi_slot *s, amqp_bytes_t part);
void rabbitmqi_slot_fini(struct rabbitmqi_slot *s);
/* All of it is there: the message, whose slices live as long as the slot is left alone. */
void rabbitmqi_slot_message(struct rabbitmqi_slot *s, const char *queue, uint64_t tag,
                            struct queue_message *out);

#endif
