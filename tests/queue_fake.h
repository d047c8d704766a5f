/*
 * A broker in memory for the tests of queues: one queue, one consumer at a time.
 * Its driver runs on the source's task, the test looks on from its own thread:
 * hence the lock. It outlives the reader, as a broker outlives a process.
 */
#ifndef OX_TESTS_QUEUE_FAKE_H
#define OX_TESTS_QUEUE_FAKE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "source/queue.h"

struct log;

#define FAKE_MESSAGES_MAX 4096

struct fake_message {
    char     key[300], id[80], position[32], type[32], header[64];
    char    *body; /* NULL: {"n":NUMBER} */
    size_t   body_len;
    bool     acked, out; /* out: with the consumer */
    uint32_t deliveries;
};

/* Shared with processes that are made of this one. */
struct fake_broker {
    pthread_mutex_t     lock;
    struct fake_message messages[FAKE_MESSAGES_MAX];
    uint32_t            count;
    uint32_t            prefetch;
    uint32_t            kill_at; /* calls of the driver until the process is killed; 0: never */
    uint32_t            starts, confirms, stops;
    uint32_t            fail_starts, fail_polls, fail_confirms; /* so many fail first */
    enum err_kind       fail_kind;
    uint32_t            fail_after;    /* calls of the driver until one fails; 0: none */
    bool                lose_confirms; /* takes them and forgets them */
    bool                places;        /* messages have positions, checkpoints are said */
    bool                unprepared;
    char                checkpoint[64]; /* as the last start was given it */
    bool                gap;
    /* Asked with each acknowledgement, on the source's task, the lock held: is it durable? */
    void (*on_ack)(struct fake_broker *b, uint32_t number);
    void *arg;
};

struct fake_broker  *fake_broker_new(void);
void                 fake_broker_free(struct fake_broker *b);
struct queue_reader *fake_reader(struct fake_broker *b);
/* `id` NULL: m0, m1, … by its number; "": none. `body` NULL: {"n":NUMBER}. Returns its number. */
uint32_t fake_publish(struct fake_broker *b, const char *key, const char *id, const char *body);
uint32_t fake_publish_bytes(struct fake_broker *b, const char *key, const char *id,
                            const void *body, size_t len);
uint32_t fake_acked(struct fake_broker *b);

#endif
