/*
 * A queue: something whose messages are consumed into the log. A driver sees
 * base and this header only (and source.h); it knows nothing of streams,
 * commits, keys or duplicates. It hands messages out in the queue's order and is
 * told up to which of them the log is durable: only then may the broker hear
 * of it.
 *
 * The core calls it on one task of the source's own, so a driver may block, but
 * at most about a second at a time. A driver reconnects by being started again:
 * on any failure it says ERR_RETRY, and the core backs off and calls `start`.
 * What was handed out and not confirmed is then handed out again by the broker,
 * and the core knows it by its id.
 */
#ifndef OX_SOURCE_QUEUE_H
#define OX_SOURCE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/conf.h"
#include "base/env.h"
#include "base/err.h"
#include "base/must.h"
#include "base/slice.h"
#include "source/source.h"

struct queue_reader;

#define QUEUE_HEADERS_MAX 256 /* of a message; a driver leaves out what is beyond */

/* Texts; a value that is none is written as one (numbers, true, nested ones as JSON). */
struct queue_header {
    struct slice name, value;
};

/*
 * All slices live until the next poll, start or stop; `confirm` and `status` leave them alone.
 * Empty: the broker has no such thing, or the message does not.
 */
struct queue_message {
    /* 1, 2, 3, … in the order of handing out since the last start, over all that the reader reads:
     * what confirm names. Each is one more than the one before. */
    uint64_t     tag;
    struct slice queue; /* its queue, topic or stream */
    struct slice key;   /* routing key, record key, subject: what streams are named by */
    struct slice id;    /* the publisher's own id: message-id, Nats-Msg-Id, … */
    /* Where it stands in the queue, as a text that no other message of it will ever have: topic,
     * partition and offset; stream and sequence. Empty where the broker has no such place. */
    struct slice position;
    struct slice type; /* what the publisher calls its kind: a property or the CloudEvents header */
    struct slice content_type;
    struct slice body;
    const struct queue_header *headers;
    uint32_t                   header_count;
    bool                       redelivered; /* the broker says that it was handed out before */
    int64_t                    time_us;     /* when it was published; 0: not known */
};

struct queue_batch {
    const struct queue_message *messages;
    uint32_t                    count;
    /*
     * JSON object of at most QUEUE_CHECKPOINT_MAX bytes: where to go on after this batch; written
     * in the commit of its last message. Lives as the messages do. Empty: the broker keeps the
     * place. With no message it may move too.
     */
    struct slice checkpoint;
};

#define QUEUE_CHECKPOINT_MAX 65536

struct queue_ops {
    const char             *name;   /* in the configuration: `type: NAME` */
    size_t                  size;   /* of the instance; struct queue_reader comes first */
    const struct conf_type *schema; /* with QUEUE_FIELDS */

    /* Reads the configuration, which outlives it; connects to nothing. */
    int (*open)(struct queue_reader *, const struct conf *, struct err *);
    void (*close)(struct queue_reader *);

    /* Probes without changing anything and without taking a message. */
    int (*check)(struct queue_reader *, finding_fn *, void *arg, struct err *);
    /* Makes what consuming needs and is not there (a durable consumer, a group); again is fine.
     * With dry_run it only says. */
    int (*prepare)(struct queue_reader *, bool dry_run, finding_fn *, void *arg, struct err *);
    /* Takes away what prepare made for this source alone, never messages; again is fine. Also of
     * one that is not started. */
    int (*unprepare)(struct queue_reader *, finding_fn *, void *arg, struct err *);

    /*
     * Connects where it is not, and begins to consume; tags begin at 1. Of one that was started:
     * anew, all that was handed out and not confirmed is to come again, in its order.
     * `checkpoint`: the last durable one; empty: there is none. What lies before it need not come
     * again. ERR_RETRY: not now. ERR_FATAL: somebody has to act; the text says what is to be done,
     * as where messages behind the checkpoint are gone, unless with `gap` somebody said to go on
     * all the same.
     */
    int (*start)(struct queue_reader *, struct slice checkpoint, bool gap, struct err *);
    /* Ends consuming and gives back what was not confirmed; the connection too. Never fails. Also
     * of one that is not started. */
    void (*stop)(struct queue_reader *);

    /*
     * The next messages, at most `max`, ending with the one that brings their bodies to `bytes`.
     * Returns as soon as there is one and no more at hand; with none after waiting for at most
     * wait_ms. ERR_RETRY: the connection was lost, the broker cancelled the consumer, the queue
     * is gone: the core starts it again later. What was handed out stays confirmable if the
     * broker would still take it.
     */
    int (*poll)(struct queue_reader *, uint32_t max, uint64_t bytes, uint32_t wait_ms,
                struct queue_batch *, struct err *);

    /*
     * All messages up to this tag are durable in the log: acknowledge them to the broker (offsets
     * are committed, deliveries acked). It need not wait for the broker's word: what the broker
     * does not get to hear comes again. Tags only grow, and each is one that was handed out.
     */
    int (*confirm)(struct queue_reader *, uint64_t tag, struct err *);

    /* A JSON object for people: connected, messages ready, lag, prefetch. At most 700 bytes. No
     * question to the broker that takes long: it is asked every second. */
    int (*status)(struct queue_reader *, struct buf *, struct err *);
};

struct queue_reader {
    const struct queue_ops *ops;
    struct ox_env          *env;
    const char             *instance; /* the name in the configuration */
    /* The core's: tags since the last start. confirmed <= durable <= handed. */
    bool     started;
    uint64_t handed, durable, confirmed;
};

/* The core calls these, never the table. */
int  source_queue_new(struct ox_env *, const struct queue_ops *, const char *instance,
                      const struct conf *, struct queue_reader **, struct err *);
void source_queue_free(struct queue_reader *); /* stops it; NULL is fine */
int  source_queue_start(struct queue_reader *, struct slice checkpoint, bool gap, struct err *);
void source_queue_stop(struct queue_reader *);
int  source_queue_poll(struct queue_reader *, uint32_t max, uint64_t bytes, uint32_t wait_ms,
                       struct queue_batch *, struct err *);
/* The commit that has this message and all before it is durable. */
void source_queue_durable(struct queue_reader *, uint64_t tag);
/* Tells the broker of all that is durable and it was not told of. */
int source_queue_confirm(struct queue_reader *, struct err *);

extern const char *const source_queue_payloads[]; /* enum queue_payload */
extern const char *const source_queue_no_ids[];   /* take, park */

enum queue_payload {
    QUEUE_AUTO,  /* a body that is JSON is JSON, others are bytes */
    QUEUE_JSON,  /* one that is not is parked */
    QUEUE_BYTES, /* never looked into */
};

/* Settings that the core reads; a driver's schema has them. */
#define QUEUE_FIELDS                                                                               \
    {.name = "stream",                                                                             \
     .type = {.kind = CONF_STRING, .min = 1, .max = 400},                                          \
     .preset = "{queue}-{key}",                                                                    \
     .doc = "the stream's name: {queue}, {key}, {id}, {type}, {header.NAME}, {body.a.b}"},         \
        {.name = "event",                                                                          \
         .type = {.kind = CONF_STRING, .min = 1, .max = 400},                                      \
         .preset = "{type}",                                                                       \
         .doc = "the event's type, likewise; Message where that is empty"},                        \
        {.name = "id",                                                                             \
         .type = {.kind = CONF_STRING, .min = 1, .max = 400},                                      \
         .preset = "{id}",                                                                         \
         .doc = "what duplicates are known by, likewise"},                                         \
        {.name = "no_id",                                                                          \
         .type = {.kind = CONF_ENUM, .values = source_queue_no_ids},                               \
         .preset = "take",                                                                         \
         .doc = "what becomes of a message without an id and without a place: take or park"},      \
        {.name = "payload",                                                                        \
         .type = {.kind = CONF_ENUM, .values = source_queue_payloads},                             \
         .preset = "auto",                                                                         \
         .doc = "how bodies are read: auto, json or bytes"},                                       \
        {.name = "window",                                                                         \
         .type = {.kind = CONF_INT, .min = 0, .max = 10000000},                                    \
         .preset = "100000",                                                                       \
         .doc = "messages whose ids are remembered"},                                              \
        {.name = "window_time",                                                                    \
         .type = {.kind = CONF_DURATION, .max = INT64_C(366) * 86400 * 1000000},                   \
         .preset = "0",                                                                            \
         .doc = "how long at most; 0: as long as `window` allows"},                                \
        {.name = "parked_max",                                                                     \
         .type = {.kind = CONF_INT, .min = 1, .max = 1000000},                                     \
         .preset = "10000",                                                                        \
         .doc = "parked messages; at one more the source stops"},                                  \
    {                                                                                              \
        .name = "verify", .type = {.kind = CONF_STRING, .min = 1, .max = 200},                     \
        .doc = "the source verify-… that decides of its messages; they are held until then"      \
    }

#endif
