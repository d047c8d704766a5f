/*
 * Capture: a source's changes into the log, exactly once. A batch's events and
 * the source's new checkpoint are one commit, and the checkpoint's stream is
 * written with the version that was read: two captures of one source cannot
 * both win. What a crash leaves is the last durable checkpoint, and the source
 * goes on from it.
 *
 * A row of an outbox (core/outbox.h) is the event that it says; of other changes:
 * Streams: `<table>-<key>`, or another category where `category` is given.
 * Types: Inserted, Updated, Deleted, Truncated, Read, SchemaChanged, Message. Data: the row. What
 * else is known of the change stands in the metadata, under "$source".
 *
 * A value that the source did not say again is taken from the stream's last
 * event where that is this source's and whole, else "unchanged" names it.
 *
 * Several commits are under way at once, in order; one that fails takes those behind it along, and
 * the source is asked again from the checkpoint that is durable.
 *
 * A change that cannot be an event (a key too long for a name, a row over
 * 16 MiB) is parked: `$parked-source-NAME` says which and why, the rest flows on.
 */
#ifndef OX_CORE_CAPTURE_H
#define OX_CORE_CAPTURE_H

#include "base/env.h"
#include "base/err.h"
#include "log/log.h"
#include "source/source.h"

struct capture;
struct outbox_conf;

struct capture_conf {
    const char *name;      /* of the source in the configuration; its checkpoint's stream */
    const char *category;  /* instead of the table's name; NULL: the table's */
    uint32_t    batch_max; /* changes in a commit; 0: 500 */
    /* One transaction of the source is one commit; a larger one than CAPTURE_TRANSACTION_MAX
     * changes, or than a commit may be, is several. */
    bool transactions;
    /* Whose rows are events in the application's own words; NULL: none are. Copied. */
    const struct outbox_conf *outbox;
};

#define CAPTURE_TRANSACTION_MAX 50000u

enum capture_state {
    CAPTURE_STARTING,
    CAPTURE_RUNNING,
    CAPTURE_RETRYING, /* after a failure that may pass: `error` says which */
    CAPTURE_STOPPED,  /* by capture_stop */
    CAPTURE_FAILED,   /* a gap or a loss: somebody has to act; `error` says how */
    CAPTURE_PAUSED,   /* until CAPTURE_RESUME, over restarts too */
    CAPTURE_DROPPED,  /* its place is forgotten, and what was made for it at the source is gone */
};

struct capture_status {
    enum capture_state state;
    bool               caught_up; /* with the source, at the last look */
    uint64_t           batches, changes, parked;
    uint64_t           polls; /* begun so far */
    /* Of those that found nothing more, the numbers of the last two, the older one first: all
     * that the source had before the older one began is durable. One poll may still be given an
     * answer to an earlier question; the next one is not. */
    uint64_t       idle[2];
    struct log_pos last;             /* position of the last checkpoint that is durable */
    char           checkpoint[2048]; /* JSON; cut where it is longer */
    char           detail[768]; /* JSON: what the source says of itself, once a second; or "" */
    char           error[ERR_TEXT_MAX];
};

/* Takes the source over. Names are copied. */
int capture_new(struct ox_env *env, struct log *log, const struct capture_conf *conf,
                struct source **source, struct capture **out, struct err *err);
/* Stops it first where it runs; frees the source too. NULL is fine. */
void capture_free(struct capture *);

/* Starts its task; again after capture_stop is fine. */
int  capture_start(struct capture *, struct err *err);
void capture_stop(struct capture *); /* returns when nothing is in flight */

void capture_get_status(struct capture *, struct capture_status *out);

const char *capture_state_name(enum capture_state state);

/* commands */

enum capture_command {
    CAPTURE_PAUSE,
    CAPTURE_RESUME,   /* after a pause, a drop or a failure */
    CAPTURE_DROP,     /* what was captured stays; a resume begins anew */
    CAPTURE_SNAPSHOT, /* `again` says of what; one that failed is started again */
};

struct capture_call {
    enum capture_command command;
    struct source_again  again; /* its table is the caller's until `done` */
    /* When it is durable, or refused; on the capture's task or on capture_stop's caller: must not
     * block. */
    void (*done)(struct capture_call *);
    void      *arg;
    int        rc;
    struct err err;
    /* the capture's own */
    struct capture_call *next;
};

/* Never blocks; one that is not started answers at once. */
void capture_submit(struct capture *, struct capture_call *call);

/* "Inserted", …; and back (0: none of them). */
const char    *capture_type_name(enum change_op op);
enum change_op capture_type_op(struct slice type);

#endif
