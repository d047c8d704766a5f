/*
 * Queue first: a queue's messages into the log, each once within a window.
 *
 * A message's stream, type and id come out of templates over it. Its events, the
 * ids of its batch and whatever was parked are one commit; `$source-NAME` has
 * the ids, written with the version that was read: two readers of one name cannot
 * both win. Only when that commit is durable does the broker hear of the
 * messages. A message whose id is in the window appends nothing. What a crash
 * leaves is the ids of all that the log has: the window is read from them at the
 * start, and what the broker hands out again is known by it.
 *
 * Events of one stream stand in the order in which the broker handed the messages
 * out. Several commits are under way at once, in order; after one that fails the
 * broker is asked for all of it again, and the batches that brought the failure are
 * gone through one commit at a time, so that what the log refuses is parked
 * and the rest flows on.
 *
 * Parked: a record `Parked` in `$parked-source-NAME`, with the reason and the whole
 * message. A replay makes an event of it, by the settings as they are now; that and
 * the record `Unparked` are one commit.
 */
#ifndef OX_CORE_QUEUE_H
#define OX_CORE_QUEUE_H

#include "base/env.h"
#include "base/err.h"
#include "log/log.h"
#include "source/queue.h"

struct queue;

struct queue_conf {
    const char        *name;               /* of the source in the configuration */
    const char        *category;           /* instead of {queue} in the templates; NULL: its own */
    const char        *stream, *type, *id; /* templates; NULL: {queue}-{key}, {type}, {id} */
    bool               park_no_id;         /* what has neither id nor position; else it is taken */
    enum queue_payload payload;
    uint32_t           window;     /* ids that are known */
    uint64_t           window_us;  /* … and how long at most; 0: no bound */
    uint32_t           parked_max; /* one more stops it; 0: 10,000 */
    uint32_t           batch_max;  /* messages of a commit; 0: 500 */
    /* Messages are those of verify_message (core/verify.h), and held here; NULL: they are not. */
    const char *verify_stream;
};

enum queue_state {
    QUEUE_STARTING,
    QUEUE_RUNNING,
    QUEUE_RETRYING, /* after a failure that may pass: `error` says which */
    QUEUE_STOPPED,  /* by queue_stop */
    QUEUE_FAILED,   /* somebody has to act: `error` says how */
    QUEUE_PAUSED,   /* until QUEUE_RESUME, over restarts too */
    QUEUE_DROPPED,  /* its window is forgotten, and what prepare made is gone */
};

struct queue_status {
    enum queue_state state;
    bool             caught_up; /* at the last look nothing was there */
    /* since the start; what is durable only */
    uint64_t       batches, messages, appended, duplicates, parked, without_id, redelivered;
    uint64_t       window;      /* ids that are known now */
    uint64_t       parked_open; /* records that are neither replayed nor dropped */
    uint64_t       polls;       /* begun so far */
    struct log_pos last;        /* position of the last commit */
    char           detail[768]; /* JSON: what the driver says of itself, once a second; or "" */
    char           error[ERR_TEXT_MAX];
};

/* Takes the reader over. Texts are copied. E_SYNTAX: a template. */
int queue_new(struct ox_env *env, struct log *log, const struct queue_conf *conf,
              struct queue_reader **reader, struct queue **out, struct err *err);
/* Stops it first where it runs; frees the reader too. NULL is fine. */
void queue_free(struct queue *);

/* Starts its task; again after queue_stop is fine. */
int  queue_start(struct queue *, struct err *err);
void queue_stop(struct queue *); /* returns when nothing is in flight */

void        queue_get_status(struct queue *, struct queue_status *out);
const char *queue_state_name(enum queue_state state);

/* What no schema can check: the templates. */
int queue_check(const struct queue_conf *conf, struct err *err);

/* commands */

enum queue_command {
    QUEUE_PAUSE,
    QUEUE_RESUME, /* after a pause, a drop or a failure */
    QUEUE_DROP,   /* what was taken stays; a resume begins with an empty window */
    QUEUE_GAP,    /* goes on from where the queue is now, whatever was lost */
    QUEUE_REPLAY, /* of parked messages: `version` of the record, or all */
    QUEUE_SKIP,   /* gives them up, likewise */
};

struct queue_call {
    enum queue_command command;
    uint64_t           version; /* UINT64_MAX: all that are open */
    /* When it is durable, or refused; on the queue's task or on queue_stop's caller: must not
     * block. */
    void (*done)(struct queue_call *);
    void      *arg;
    int        rc;
    struct err err;     /* of a replay: why the first of those failed that did */
    uint64_t   closed;  /* records that were replayed or given up */
    uint64_t   refused; /* records that stay */
    /* the queue's own */
    struct queue_call *next;
};

/* Never blocks; one that is not started answers at once. */
void queue_submit(struct queue *, struct queue_call *call);

#endif
