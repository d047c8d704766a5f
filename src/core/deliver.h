/*
 * Delivery: what the log holds to a sink, at least once, and in order within a
 * stream. A checkpoint says below which position everything is done; a crash
 * delivers again what came after it, with the same ids. For a sink with
 * transactions the far side keeps the checkpoint with the items, and each item
 * takes effect once.
 *
 * What the far side refuses for good is parked: `$parked-sink-NAME` says which
 * event and why, and later events of its stream are parked behind it until
 * they are replayed or given up. Nothing is dropped. What may pass is tried
 * again for ever, at growing intervals, and holds back its own stream alone. An event whose
 * subject's key was shredded has nothing to deliver: it is passed over and counted.
 *
 * What is to be delivered later has its record in `$later-sink-NAME` and counts as done; it takes
 * its place when its time has come, and what comes after it in its stream does not wait for it.
 *
 * Streams: `$sink-NAME` has the checkpoints (quiet commits, each on the version
 * of the one before: of two deliveries of one name the older is fenced),
 * `$parked-sink-NAME` has Parked {position, stream, version, id, type, reason,
 * attempts}, Ordered {order, stream}, where `order` is replay, skip or drop and no stream means
 * all, Refused {position, stream, version, reason, attempts}, which ends the order, and Unparked
 * {position, stream, how}, where `how` is delivered, skipped or gone. A stream's events are
 * unparked in the order of their parking.
 */
#ifndef OX_CORE_DELIVER_H
#define OX_CORE_DELIVER_H

#include "base/env.h"
#include "base/err.h"
#include "log/log.h"
#include "sink/sink.h"

struct deliver;
struct trace_queue;
struct transform;

enum deliver_from {
    DELIVER_BEGINNING,
    DELIVER_END,      /* what is appended after the first start */
    DELIVER_POSITION, /* `position`, itself included */
    DELIVER_TIME,     /* what was committed at or after `time_us` */
};

/* Zero means the default for every number. */
struct deliver_conf {
    const char *name; /* of the sink in the configuration */

    /* Which events; every part that is given must hold. NULL: all. */
    const char *category, *prefix, *type;
    bool        system; /* also streams whose names begin with '$', its own two excepted */
    /* Each passes transform_deliver_check; NULL: none. The filter sees what is stored, the
     * transform what passes it. An event that either fails at is parked. Taken over, in any case.
     */
    struct transform *filter, *transform;

    bool skip_moved;    /* each event once, through all moves of streams (docs/surgery.md) */
    bool resolve_links; /* deliver what a link points to */
    bool deliver_links; /* else: deliver links as they are; neither: pass them over */

    enum deliver_from from; /* where a first start begins */
    struct log_pos    position;
    int64_t           time_us;

    uint32_t window_items; /* events in memory; twice what the sink takes, at least 1,000 */
    uint64_t window_bytes; /* 16 MiB; one event goes over it where it is larger */
    uint32_t checkpoint_ms, checkpoint_items; /* 1,000 and 10,000: whichever comes first */
    uint32_t retry_min_ms, retry_max_ms;      /* 100 and 30,000 */
    uint32_t parked_streams_max;              /* 100,000: with more the delivery fails */
    /* Where an event says when it is to be delivered, below `data.` or `metadata.`, beside
     * $deliverAt in its metadata; NULL: there alone. */
    const char *deliver_at;
    uint64_t    delay_us;    /* from its commit to its delivery, at least */
    uint32_t    later_max;   /* 65,536: how many scheduled events are in memory */
    bool        parked_pass; /* a stream's later events go on where one is parked; else they wait */
    /* After so many attempts, or so long, an event is parked; 0: it is tried for ever. */
    uint32_t            attempts_max;
    uint64_t            retry_for_us;
    struct trace_queue *traces; /* where spans of traced events go; the caller's. NULL: nowhere */
};

enum deliver_state {
    DELIVER_STARTING,
    DELIVER_RUNNING,
    DELIVER_RETRYING, /* something is being tried again: `error` says what */
    DELIVER_PAUSED,   /* by an order, and durably so */
    DELIVER_STOPPED,  /* by deliver_stop */
    DELIVER_FAILED,   /* somebody has to act: `error` says how */
};

struct deliver_status {
    enum deliver_state state;
    bool               caught_up;       /* nothing wanted is in the log but what is parked */
    struct log_pos     done;            /* everything wanted up to here is delivered or parked */
    struct log_pos     checkpoint;      /* the same, and durably so */
    uint64_t           lag_positions;   /* from what is done to the log's end */
    uint64_t           behind_estimate; /* events not done; those unread by the average so far */
    uint64_t           delivered, retries;
    uint64_t           erased;                 /* passed over: their subject's key was shredded */
    uint64_t           filtered;               /* passed over by the filter or the transform */
    struct log_pos     replay_at, replay_to;   /* of a range; both 0: there is none */
    uint64_t           runs;                   /* of ranges, that one included */
    uint64_t           scheduled;              /* to be delivered later */
    uint64_t           parked, parked_streams; /* now */
    uint32_t           window_items, in_flight, waiting_retry;
    uint64_t           window_bytes;
    uint64_t           oldest_ms; /* age in memory of the oldest event that is not done */
    char               error[ERR_TEXT_MAX];
};

/* Takes the sink over. Names are copied. */
int deliver_new(struct ox_env *env, struct log *log, const struct deliver_conf *conf,
                struct sink **sink, struct deliver **out, struct err *err);
/* Stops it first where it runs; frees the sink too. NULL is fine. */
void deliver_free(struct deliver *);

/* Starts its task; again after deliver_stop is fine (E_STATE: the sink did not let its items go).
 */
int deliver_start(struct deliver *, struct err *err);
/* Returns when nothing is in flight and the checkpoint stands, or when that cannot be had. */
void deliver_stop(struct deliver *);

enum deliver_command {
    /*
     * For a stream's parked events, oldest first; an empty stream means all. E_NOTFOUND: nothing of
     * it is parked. A replay ends at the next refusal.
     */
    DELIVER_REPLAY,
    DELIVER_SKIP, /* gives the oldest one up and replays the rest */
    DELIVER_DROP, /* gives all of them up */
    /* A pause lets what is in flight end. */
    DELIVER_PAUSE,
    DELIVER_RESUME,
    /*
     * From the first event at or after `from` on, forward or back: back delivers again, forward
     * leaves out. What is parked stays so. E_STATE for a sink with transactions: its far side has
     * the checkpoint.
     */
    DELIVER_SEEK,
    /*
     * What stands at or after `from` and before `to` (0: the log's end now) goes to the sink once
     * more; meanwhile the delivery stands where it is, and goes on from there afterwards. Each such
     * run has a number, which the items carry. E_STATE: one is under way. With a `to` before `from`
     * it is ended where it is.
     */
    DELIVER_RANGE,
};

struct deliver_call {
    enum deliver_command command;
    struct slice         stream; /* the caller's until `done` */
    struct log_pos       from, to;
    /*
     * When it is durable, and so outlives any crash, or refused; what comes of it shows in the
     * status. E_STATE: not running; E_BUSY: too many wait. On the delivery's task, on
     * deliver_stop's caller or on deliver_submit's: must not block. The call may be freed there.
     */
    void (*done)(struct deliver_call *);
    void      *arg;
    int        rc;
    struct err err;
    /* the delivery's own */
    struct deliver_call *next;
    uint64_t             number;
};

/* Never blocks; what can be refused at once is. Any thread. */
void deliver_submit(struct deliver *, struct deliver_call *call);

void deliver_get_status(struct deliver *, struct deliver_status *out);

const char *deliver_state_name(enum deliver_state state);

#endif
