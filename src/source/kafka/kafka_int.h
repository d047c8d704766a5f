/* Between the files of src/source/kafka only. */
#ifndef OX_SOURCE_KAFKA_KAFKA_INT_H
#define OX_SOURCE_KAFKA_KAFKA_INT_H

#include <librdkafka/rdkafka.h>

#include "base/conf.h"
#include "source/queue.h"

#define KAFKAI_UNKNOWN INT64_C(-1)
#define KAFKAI_BATCH_MAX 4096u

/* A partition. Offsets are of the next record. */
struct kafkai_place {
    char   *topic;
    int32_t partition;
    bool    assigned;
    int64_t next;    /* to be handed out; KAFKAI_UNKNOWN: none was */
    int64_t durable; /* in the log */
    int64_t told;    /* to the group */
};

struct kafkai_places {
    struct kafkai_place *at;
    uint32_t             count, room;
    uint64_t             epoch; /* how often offsets began anew */
};

/* Of a record that was handed out: tags are dense. */
struct kafkai_handed {
    uint32_t place;
    int64_t  next;
};

struct kafkai_source {
    struct queue_reader base;
    const struct conf  *conf;
    const char         *group;
    char                own_group[256];
    uint64_t            timeout_us;
    bool                from_new, hex;

    rd_kafka_t                      *consumer;
    rd_kafka_topic_partition_list_t *assigned; /* NULL: nothing is */
    struct kafkai_places             places;
    bool                             go_on;  /* over gaps, at the next assignment */
    bool                             broken; /* the consumer can go on no more */
    bool                             down;   /* nothing answers; it is not told when that ends */
    bool                             tell;   /* places moved without a record */
    bool                             failing;
    struct err                       failure; /* for the next poll that has nothing else */

    struct kafkai_handed *handed;
    uint32_t              handed_count, handed_room;
    uint64_t              first_tag; /* of handed[0] */
    uint64_t              commit_at_us;

    rd_kafka_message_t   *records[KAFKAI_BATCH_MAX];
    struct queue_message *messages;
    uint32_t              count;
    struct queue_header  *headers;
    uint32_t              header_count, header_room;
    struct buf            text, checkpoint;
};

/* place.c */

/* NULL: out of memory. A new one is KAFKAI_UNKNOWN. */
struct kafkai_place *kafkai_place(struct kafkai_places *, const char *topic, int32_t partition);
void                 kafkai_places_fini(struct kafkai_places *);
/* {"epoch":N,"topics":{"NAME":{"0":N}}}; durable, or what was handed out. */
int kafkai_places_put(const struct kafkai_places *, struct buf *, struct err *err);
int kafkai_places_get(struct kafkai_places *, struct slice checkpoint, struct err *err);
/* Whether any partition of the topic is known. */
bool kafkai_places_know(const struct kafkai_places *, const char *topic);

/* group.c */

/* Joins the group. */
int  kafkai_join(struct kafkai_source *, struct err *err);
void kafkai_leave(struct kafkai_source *);
/* Reads on from the places. */
int kafkai_assign(struct kafkai_source *, struct err *err);
/* Tells the group what is durable. */
void kafkai_commit(struct kafkai_source *, bool wait);
/* Whether a broker is there again. */
bool kafkai_answers(struct kafkai_source *);
/* A client that belongs to no group. */
int kafkai_client(struct kafkai_source *, rd_kafka_t **, struct err *err);
int
kafkai_error(struct kafkai_source *, rd_kafka_resp_err_t code, const char *what, struct err *err);

/* batch.c */

void kafkai_batch_clear(struct kafkai_source *);
/* Takes the record over. */
int kafkai_batch_add(struct kafkai_source *, rd_kafka_message_t *, struct err *err);
int kafkai_batch_give(struct kafkai_source *, struct queue_batch *, struct err *err);

#endif
