/* Between the files of src/sink/kafka only. */
#ifndef OX_SINK_KAFKA_KAFKA_INT_H
#define OX_SINK_KAFKA_KAFKA_INT_H

#include <librdkafka/rdkafka.h>

#include "base/conf.h"
#include "sink/broker.h"

#define SINKI_KAFKA_TOPIC_MAX 249 /* bytes of a topic's name */
#define SINKI_KAFKA_TOPICS 64     /* handles that are kept */

/* The producer's handle of a topic, which it else looks for by name at each record. */
struct sinki_kafka_topic {
    rd_kafka_topic_t *handle; /* NULL: none */
    size_t            len;
    char              name[SINKI_KAFKA_TOPIC_MAX + 1];
};

struct sinki_kafka_sink {
    struct sink               base;
    const struct conf        *conf;
    rd_kafka_t               *producer;
    struct sink_broker        out;
    bool                      broken, closing;
    struct sinki_kafka_topic  topics[SINKI_KAFKA_TOPICS]; /* by a hash of the name */
    struct sinki_kafka_topic *topic;                      /* of the item that was filled last */

    /* txn.c: with transactions */
    const char *positions; /* the topic of the checkpoints; NULL: there are no transactions */
    const char *id;
    char        own_id[256];
    bool        ready;        /* the producer has fenced those before it */
    struct sink_slot **taken; /* of the transaction that gathers, in its order */
    uint32_t           taken_count;
    struct sink_slot  *refused; /* by a report, in this transaction */
};

extern const struct conf_field sinki_kafka_txn_fields[];

/* kafka.c */

int  sinki_kafka_need_producer(struct sinki_kafka_sink *, struct err *);
void sinki_kafka_drop_producer(struct sinki_kafka_sink *);
/* Into s->out; needs the producer. ERR_DATA. */
int sinki_kafka_fill(struct sinki_kafka_sink *, const struct sink_item *, struct err *);
int sinki_kafka_produce(struct sinki_kafka_sink *, struct sink_slot *, struct err *);

/* txn.c */

int sinki_kafka_txn_open(struct sinki_kafka_sink *, const struct conf *, struct err *);
/* Of the transactional producer, before it is made. */
int sinki_kafka_txn_set(struct sinki_kafka_sink *, rd_kafka_conf_t *, struct err *);
int sinki_kafka_txn_checkpoint(struct sinki_kafka_sink *, struct log_pos *, struct err *);
int sinki_kafka_txn_poll(struct sinki_kafka_sink *, struct log_pos upto, struct err *);

#endif
