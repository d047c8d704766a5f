/*
 * A source: something whose changes are captured into the log. A driver sees
 * base and this header only; it knows nothing of streams, commits or threads.
 *
 * The core steps a source on a thread of the source's own, so a driver may
 * block, but at most about a second at a time. It turns each batch into one
 * commit of events and the batch's checkpoint: capture is exactly once into
 * the log. Only when that commit is durable does it call `confirm`.
 */
#ifndef OX_SOURCE_SOURCE_H
#define OX_SOURCE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/id.h"
#include "base/must.h"
#include "base/slice.h"

struct conf;      /* the checked configuration (base/conf.h) */
struct conf_type; /* a schema (base/conf.h) */
struct source;

enum change_op {
    CHANGE_READ = 1, /* a row of the initial snapshot */
    CHANGE_INSERT,
    CHANGE_UPDATE,
    CHANGE_DELETE,
    CHANGE_TRUNCATE,
    CHANGE_SCHEMA,  /* of a table's columns; `after` says what they are from here on */
    CHANGE_MESSAGE, /* of no table: what the application wrote into the source's log */
    CHANGE_EVENT,   /* of no table: an event of another log, taken over as it is */
};

/*
 * CHANGE_EVENT: what `event` of the change points to. A batch has these alone, or none. Those of
 * one stream follow one another by version within a batch, and none follows what changed its
 * stream's state there: its tombstone, or metadata written to "$$NAME".
 */
struct change_event {
    struct slice stream, type, data, meta;
    uint64_t     version; /* more than one beyond the last: those between are gone at the source */
    struct ox_id id;
    bool         json, link;
    bool         tombstone; /* the stream was deleted for good; only its name counts */
};

/* One change of one row; all slices live until the next call on the source. */
struct change {
    enum change_op op;
    struct slice   table;     /* or whatever the source calls a kind of row */
    struct slice   key;       /* as it stands in the stream's name */
    struct slice   before;    /* the row as JSON object; empty: not known */
    struct slice   after;     /* the row as JSON object; empty: none (delete, truncate) */
    struct slice   unchanged; /* JSON array: columns that `after` leaves out, since the source did
                                 not say them again; empty: none */
    struct slice origin;      /* the mark of who made it; empty: an application */
    struct slice
            position; /* of this change in the source, text; unique: the event's id is made of it */
    int64_t time_us;  /* when, as the source says; 0: it does not */
    const struct change_event *event; /* CHANGE_EVENT; else NULL */
    /* A row, or a key that has none (CHANGE_DELETE), of a snapshot of which only the differences
     * to what was captured last are wanted. */
    bool compare;
};

struct source_batch {
    const struct change *changes;
    uint32_t             count;
    struct slice         checkpoint; /* JSON object: where to go on after this batch */
    bool                 caught_up;  /* nothing more was there when this was read */
    /* With source.transactions: which one these changes are of, empty: none (a snapshot); a
     * larger one is several batches. */
    struct slice transaction;
    uint32_t     part; /* from 0 */
    bool         last;
};

/*
 * The core's: keys of the table's rows that were captured and not deleted since, at most `max`
 * after `after` (empty: from the first), as a JSON array. *last: where to go on from, empty: that
 * was all.
 */
typedef int source_keys_fn(void *arg, struct slice table, struct slice after, uint32_t max,
                           struct buf *keys, struct buf *last, struct err *err);

/* What is to be read again while streaming goes on. */
struct source_again {
    struct slice table;       /* empty: all */
    bool         differences; /* rows become changes with `compare`, and missing ones too */
    bool         gap;         /* go on from where the source is now, whatever was lost */
};

/* One line of what `check` and `prepare` found. */
enum finding_level {
    FINDING_OK,
    FINDING_WARN,
    FINDING_MISSING, /* has to be set up first; the text says how */
};
typedef void finding_fn(void *arg, enum finding_level level, const char *text);

struct source_ops {
    const char             *name; /* in the configuration: `type: NAME` */
    size_t                  size; /* of the instance; struct source comes first */
    const struct conf_type *schema;
    /* It reads an outbox: its schema has SOURCE_OUTBOX_FIELDS (source/outbox.h), and all of its
     * changes are rows of that. */
    bool outbox;

    /* Connects and checks. */
    int (*open)(struct source *, const struct conf *, struct err *);
    void (*close)(struct source *);

    /* Probes without changing anything. */
    int (*check)(struct source *, finding_fn *, void *arg, struct err *);
    /* Sets up what the source needs (triggers, slots); again is fine. With dry_run it only says. */
    int (*prepare)(struct source *, bool dry_run, finding_fn *, void *arg, struct err *);
    /* Takes away what prepare made; again is fine. */
    int (*unprepare)(struct source *, finding_fn *, void *arg, struct err *);

    /*
     * Where to go on: the last durable checkpoint, empty for a first start.
     * Before the first poll; again goes back to that checkpoint.
     */
    int (*start)(struct source *, struct slice checkpoint, struct err *);

    /*
     * The next batch of at most max changes; count 0 where there is none after
     * waiting at most wait_ms. ERR_RETRY: try later; ERR_FATAL: a gap or a loss,
     * the text says which range and the way out.
     */
    int (*poll)(struct source *, uint32_t max, uint32_t wait_ms, struct source_batch *,
                struct err *);

    /* The checkpoint is durable: what lies before it may be given up at the source. */
    int (*confirm)(struct source *, struct slice checkpoint, struct err *);

    /* A JSON object for people: lag, position, snapshot progress. */
    int (*status)(struct source *, struct buf *, struct err *);

    /*
     * Notes that tables are to be read again: the batch has no change, and the checkpoint that
     * says so. E_NOTFOUND: no such table. NULL: the driver cannot.
     */
    int (*again)(struct source *, const struct source_again *, struct source_batch *, struct err *);
};

struct source {
    const struct source_ops *ops;
    struct ox_env           *env;
    const char              *instance; /* the name in the configuration */
    bool                     started;
    bool                     transactions; /* a batch is one transaction, or a part of one */
    source_keys_fn          *keys;
    void                    *keys_arg;
};

/* The core calls these, never the table. */
int  source_new(struct ox_env *, const struct source_ops *, const char *instance,
                const struct conf *, struct source **, struct err *);
void source_free(struct source *); /* NULL is fine */
int  source_start(struct source *, struct slice checkpoint, struct err *);
int
source_poll(struct source *, uint32_t max, uint32_t wait_ms, struct source_batch *, struct err *);
int source_confirm(struct source *, struct slice checkpoint, struct err *);
/* After source_start, when all that was handed out is durable. */
int source_again(struct source *, const struct source_again *, struct source_batch *, struct err *);

#endif
