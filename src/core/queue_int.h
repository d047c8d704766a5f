/* What the files of the queue share. */
#ifndef OX_CORE_QUEUE_INT_H
#define OX_CORE_QUEUE_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "base/template.h"
#include "core/queue.h"
#include "core/writes.h"

#define QUEUEI_MAGIC 0x51756575u
#define QUEUEI_FLIGHTS 8
#define QUEUEI_BATCH_BYTES (UINT64_C(8) << 20) /* of bodies in one commit, about */

/* queue_window.c: the ids that are known, oldest first */

struct queue_known {
    struct ox_id id;
    int64_t      time_us; /* of the commit, or when it was sent to the log */
    uint64_t     version; /* of the event in $source-NAME that has it */
};

struct queue_window {
    struct queue_known *ring;  /* room is a power of two */
    uint32_t           *table; /* 1 + place in the ring; 0: none */
    uint32_t            room, first, count, max;
    uint64_t            time_us; /* 0: no bound */
};

void queuei_window_init(struct queue_window *w, uint32_t max, uint64_t time_us);
void queuei_window_fini(struct queue_window *w);
void queuei_window_clear(struct queue_window *w);
/* Forgets what is too old at `now`. */
void queuei_window_expire(struct queue_window *w, int64_t now);
bool queuei_window_has(const struct queue_window *w, const struct ox_id *id);
/* One that is there becomes the newest. False: no memory. */
bool queuei_window_add(struct queue_window *w, const struct ox_id *id, int64_t time_us,
                       uint64_t version);
/* The version below which no event has an id that is known; `none` where no id is. */
uint64_t queuei_window_low(const struct queue_window *w, uint64_t none);

/* queue_message.c: what a message becomes; nothing is kept from one to the next but memory */

struct queue_form {
    char              *name, *category;
    struct template   *stream, *type, *id;
    bool               park_no_id;
    enum queue_payload payload;
    char              *verify_stream; /* NULL: messages are events */
    struct buf         scratch, value;
};

struct queue_span {
    size_t at, len;
};

/* Spans are of the buffer that it was made in. */
struct queue_event {
    struct queue_span stream, type, data, meta;
    struct ox_id      id;
    int64_t           created_us; /* 0: not said */
    bool              json, has_id;
};

int  queuei_form_open(struct queue_form *f, const struct queue_conf *conf, struct err *err);
void queuei_form_close(struct queue_form *f);
/*
 * Appends to `text`. ERR_DATA: it can be no event; the text says why, without data. The id is in
 * `out` then too, if it has one.
 */
int queuei_message_event(struct queue_form *f, const struct queue_message *m, struct buf *text,
                         struct queue_event *out, struct err *err);
/* The record that stands for one that can be none. ERR_FATAL: it is too large for that too. */
int queuei_message_park(struct queue_form *f, const struct queue_message *m, const char *reason,
                        struct buf *text, struct queue_event *out, struct err *err);
/* The message of such a record; its texts and headers are of the two buffers. */
int queuei_message_parked(struct slice record, struct buf *text, struct buf *headers,
                          struct queue_message *out, struct err *err);

/* what is under way */

enum queue_fate {
    QUEUEI_APPEND,
    QUEUEI_DUPLICATE,
    QUEUEI_PARK,
};

struct queue_item {
    struct queue_event event;
    enum queue_fate    fate;
};

/* A commit on its way; it owns all that it is made of. */
struct queue_flight {
    struct queue      *queue;
    _Atomic bool       done;
    bool               sent; /* false: duplicates alone, there is nothing to commit */
    struct log_req     req;
    struct writes      writes;
    struct queue_item *items;
    uint32_t           room; /* items */
    struct log_change  change;
    struct buf         text;
    uint64_t           tag; /* of its last message */
    uint32_t           messages, appended, duplicates, parked, without_id, redelivered;
    uint32_t           parked_write; /* UINT32_MAX: none */
    bool               closes;       /* the record `closed`, and it has no messages */
    uint64_t           closed;
    struct queue_call *call; /* answered when it is durable */
};

/* What the log said of a stream while a batch is gone through one commit at a time. */
struct queue_verdict {
    char   name[LOG_NAME_MAX];
    size_t len;
    bool   park; /* else its last events are looked through for ids */
    char   why[200];
};

enum queue_rest { /* as the last event of $source-NAME has it */
                  QUEUEI_AWAKE,
                  QUEUEI_PAUSED,
                  QUEUEI_DROPPED,
};

#define QUEUEI_VERDICTS 64

struct queue {
    uint32_t             magic;
    struct ox_env       *env;
    struct log          *log;
    struct queue_reader *reader;
    struct queue_form    form;
    uint32_t             batch_max, parked_max;
    struct ox_task      *task;
    struct ox_lock       lock; /* status, calls */
    struct queue_status  status;
    struct queue_call   *calls; /* oldest first */
    _Atomic bool         stopping;
    struct ox_gate       stopped;

    /* The task's. */
    bool                known;   /* the window and the parked ones were read */
    bool                started; /* the reader */
    enum queue_rest     rest;
    struct queue_window window;
    int64_t             version, sent_version; /* of $source-NAME; LOG_NO_STREAM */
    struct buf          checkpoint;            /* the last that was sent to the log; empty: none */
    bool                gap;                   /* the next start goes on whatever was lost */
    uint64_t            truncated, backoff_us, detail_us;
    struct queue_flight flights[QUEUEI_FLIGHTS];
    uint32_t            first_flight, flying;
    bool                failing, forget; /* forget: what was sent is not in the log: it is read */
    bool                lost;            /* a commit failed: nothing behind it counts */
    bool                refused;         /* the log refused messages for what they are */
    struct err          failure;

    /* One commit at a time, after one that was refused: messages that are to be taken so, and
     * the batch in the driver's hands of which `held_at` are done. */
    uint64_t              careful;
    struct queue_batch    held;
    uint32_t              held_at, held_now; /* held_now: in the commit that is under way */
    uint32_t              careful_max;       /* messages of a commit */
    uint32_t              refusals;          /* of the batch in hand, in a row */
    struct queue_verdict *verdicts;
    uint32_t              verdict_count;

    /* Parked messages: versions of the records that are open, in growing order. */
    uint64_t          *parked;
    uint32_t           parked_count, parked_room;
    uint32_t           parked_coming; /* in commits under way */
    struct queue_call *closing;       /* a replay or a skip that goes on, of the records … */
    uint64_t           closing_from, closing_to; /* … from here to here */
    bool               turn;                     /* it takes turns with what comes */
    struct queue_call *dropping;
    uint64_t           drop_by_us;
    struct buf         record, decoded, headers;
};

/* queue.c */
void queuei_set_state(struct queue *q, enum queue_state state, const struct err *err);
/* The reader gives back what was not confirmed. */
void queuei_let_go(struct queue *q);

/* queue_command.c */
/* NULL is fine. */
void queuei_answer(struct queue *q, struct queue_call *call, int rc, const struct err *err);
void queuei_refuse_calls(struct queue *q);
/* True: it did something, or waits; the step returns *wait. */
bool queuei_command(struct queue *q, uint64_t *wait);
/* A record was closed, or with an error not. */
void queuei_closed(struct queue *q, const struct err *err);

/* queue_commit.c */
/* Sends messages to the log, or notes that there is nothing to send; they are copied. With the
 * last one of a batch its checkpoint. */
int queuei_commit(struct queue *q, const struct queue_message *messages, uint32_t count,
                  struct slice checkpoint, struct err *err);
/* Only says what is to be with the queue from now on. */
int
queuei_commit_state(struct queue *q, const char *state, struct queue_call *call, struct err *err);
/* One parked message: `m` is appended, or with NULL given up. */
int  queuei_commit_closed(struct queue *q, uint64_t version, const struct queue_message *m,
                          struct err *err);
void queuei_flight_fini(struct queue_flight *f);
/* Of a commit that was refused: what the log said of a stream. `park`, or the second time for the
 * same one: its messages are parked; else those that it has already are duplicates. */
void queuei_judge(struct queue *q, const struct queue_flight *f, struct slice stream, bool park);
/* Where message i of it goes. */
struct slice queuei_stream_of(const struct queue_flight *f, uint32_t i);

/* queue_read.c: what the log has */
int queuei_read(struct queue *q, struct err *err);
/* The record; its data is put into `out`. */
int  queuei_read_parked(struct queue *q, uint64_t version, struct buf *out, struct err *err);
bool queuei_parked_add(struct queue *q, uint64_t version);
void queuei_parked_remove(struct queue *q, uint64_t version);
/* Whether the stream's last events have one with this id. */
int queuei_find(struct queue *q, struct slice stream, const struct ox_id *id, bool *found,
                struct err *err);

#endif
