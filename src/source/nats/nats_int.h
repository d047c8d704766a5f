/* Between the files of src/source/nats only. */
#ifndef OX_SOURCE_NATS_NATS_INT_H
#define OX_SOURCE_NATS_NATS_INT_H

#include <nats/nats.h>

#include "base/conf.h"
#include "source/queue.h"

/* What the reply subject of a delivery says. */
struct natsi_place {
    uint64_t sequence;  /* in the stream */
    uint64_t delivery;  /* of the consumer, one more with each */
    uint64_t delivered; /* how often this message was, with this time */
    int64_t  time_us;
    uint64_t pending; /* behind this one */
};

struct natsi_held {
    uint64_t           sequence, touched_us;
    struct natsi_place place;
    natsMsg           *msg;
};

/*
 * All that the server waits for an acknowledgement of, as far as it is here: first those that were
 * handed out, then the others by their sequence.
 */
struct natsi_hold {
    struct natsi_held *at;
    uint32_t           count, room, out;
    uint64_t           last; /* the highest since it was empty */
};

struct natsi_source {
    struct queue_reader base;
    const struct conf  *conf;
    const char         *stream, *consumer, *filter;
    char                own_consumer[256];
    uint64_t            timeout_us, in_flight;
    bool                from_new;

    /* The checkpoint: up to here the log has it. created: when the stream was, in ns. */
    bool     known;
    int64_t  created_ns;
    uint64_t durable;

    natsOptions      *options;
    natsConnection   *conn; /* NULL: not connected */
    jsCtx            *js;
    natsSubscription *sub;
    natsInbox        *inbox;
    struct buf        pull_subject, pull_body;
    int64_t           ack_wait_ns; /* as the consumer has it */
    bool              may_hurry, hurried;
    uint64_t          asked, asked_until_us; /* deliveries that the server was asked for */
    uint64_t          average;               /* bytes of a message, of late */

    /* Nothing below what is held is with the server or lost on the way. Else what is held waits,
     * since the server sends new messages before those that it has to send again. */
    bool     sure;
    uint64_t next_delivery; /* 0: not known */
    uint64_t look_at_us, progress_us;
    uint64_t missing; /* at the last look */

    struct natsi_hold     hold;
    uint64_t              first_tag; /* of hold.at[0] */
    uint32_t              confirmed; /* of hold.out; they go with the next call */
    bool                  tell;      /* the checkpoint was moved over what is gone */
    struct queue_message *messages;
    uint32_t              message_room;
    struct queue_header  *headers;
    uint32_t              header_count, header_room;
    struct buf            text, checkpoint;
    uint64_t              doubled, again, pending;
};

static inline uint64_t
natsi_now_us(const struct natsi_source *s)
{
    return s->base.env->ops->mono_us(s->base.env);
}

/* hold.c */

/* False: it is no delivery of JetStream's. */
bool natsi_place_parse(const char *reply, struct natsi_place *out);
/* Takes the message over, also where it fails. *added: false where it was held already. */
int  natsi_hold_put(struct natsi_hold *, const struct natsi_place *, uint64_t now_us, natsMsg *msg,
                    bool *added, struct err *err);
void natsi_hold_drop(struct natsi_hold *, uint32_t first, uint32_t count);
void natsi_hold_fini(struct natsi_hold *);

/* link.c */

/* Connects and finds the consumer, or makes it. `gap`: goes on where messages are missing. */
int  natsi_connect(struct natsi_source *, bool gap, struct err *err);
void natsi_disconnect(struct natsi_source *);
/* Only the connection and the JetStream context. */
int natsi_dial(struct natsi_source *, struct err *err);
/* E_NOTFOUND, ERR_RETRY. */
int natsi_stream_info(struct natsi_source *, jsStreamInfo **, struct err *err);
int natsi_consumer_info(struct natsi_source *, jsConsumerInfo **, struct err *err);
int natsi_consumer_make(struct natsi_source *, const jsStreamInfo *, struct err *err);
int natsi_consumer_delete(struct natsi_source *, struct err *err);
/* That it is one that can be consumed through. */
int natsi_consumer_fits(const struct natsi_source *, const jsConsumerInfo *, struct err *err);
int natsi_fail(natsStatus st, jsErrCode code, const char *what, struct err *err);
/* +ACK, -NAK or +WPI. */
void natsi_answer(struct natsi_source *, const natsMsg *msg, const char *word);
int  natsi_pull(struct natsi_source *, struct err *err);
/* Asks the server, not often, whether all that it waits for is here. */
int natsi_look(struct natsi_source *, struct err *err);

#endif
