/*
 * Stream surgery: copies, rewrites, splits and joins streams while everybody
 * goes on writing (docs/surgery.md).
 *
 * One stream's move is one commit that checks the stream's head and the targets'
 * versions, so there is nothing half moved at any time. What a surgery is to do
 * and how far it is stands in the stream `$surgery-NAME`, which is changed by
 * compare-and-set; what is moved says so itself. A surgery that was cut off
 * therefore goes on where it was, and moves nothing twice.
 *
 * A surgery has tasks of its own, which block on the log and on nothing else.
 */
#ifndef OX_MIGRATE_STREAM_STREAM_H
#define OX_MIGRATE_STREAM_STREAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/slice.h"
#include "log/log.h"

#define STREAM_NAME_MAX 64 /* of a surgery: a-z 0-9 _ */
#define STREAM_SPEC_MAX ((size_t)2 << 20)
#define STREAM_WHY_MAX (LOG_NAME_MAX + 2 + ERR_TEXT_MAX)
#define STREAM_MIGRATED_TYPE "MigratedFrom"
#define STREAM_INVALID_TYPE "Invalidated"

struct surgery;

enum stream_state {
    STREAM_RUNNING,
    STREAM_PAUSED,
    STREAM_DONE,
    STREAM_CANCELLED, /* what was moved stays moved */
    STREAM_FAILED,    /* why is in `error`; resume tries again */
    STREAM_ROLLING_BACK,
    STREAM_ROLLED_BACK,
    STREAM_DROPPING, /* the originals */
    STREAM_DROPPED,
    STREAM_CLOSING, /* the old names: nothing is routed any more */
    STREAM_CLOSED,
};

const char *stream_state_name(enum stream_state); /* "RUNNING" */

struct stream_status {
    enum stream_state state;
    char              name[STREAM_NAME_MAX + 1];
    const char       *kind;            /* "copy", … */
    uint64_t          streams, events; /* that were moved; events as they were before */
    uint64_t          copies;          /* events that were written for them */
    uint64_t          skipped;   /* streams that were moved by somebody else, or are targets */
    uint64_t          parked;    /* streams that could not be moved */
    uint64_t          seen, all; /* streams; `all` is an estimate, 0: not known yet */
    uint64_t          lost;      /* moves that were begun again: somebody wrote meanwhile */
    uint64_t          events_per_s, left_s; /* left_s: UINT64_MAX: not known */
    /* Of a stream that is being moved in stages, its events as they were before; "": none is. */
    char     staged[LOG_NAME_MAX + 1];
    uint64_t staged_events, staged_all;
    int64_t  started_us, ended_us;
    uint64_t max_p99_ms, p99_us; /* of the foreground's appends; 0: not looked at */
    uint64_t max_rate;           /* events a second; 0: any */
    char     error[ERR_TEXT_MAX];
    char     parked_why[STREAM_WHY_MAX]; /* of the last one, since it was opened */
};

/* An object of JSON. */
void stream_status_json(const struct stream_status *, struct buf *out);

/*
 * Is this a surgery's name and spec (docs/surgery.md has the members)? `normal` gets the spec as
 * it is kept. E_SYNTAX, E_SCHEMA, E_INVALID.
 */
int stream_spec_check(struct slice name, struct slice json, struct buf *normal, struct err *err);

/* Writes the record and begins. E_EXISTS: a surgery of this name was there. */
int stream_begin(struct ox_env *, struct log *, struct slice name, struct slice spec,
                 struct surgery **, struct err *);
/* One whose record is there; it goes on where it was, if it was running. E_NOTFOUND. */
int stream_open(struct ox_env *, struct log *, struct slice name, struct surgery **, struct err *);
/* Ends its tasks; the record stays as it is. NULL is fine. */
void stream_close(struct surgery *);

/* The names of all surgeries of the log; stops by a non-zero return. */
typedef int stream_name_fn(void *arg, struct slice name, struct err *err);
int         stream_each(struct log *, stream_name_fn *, void *arg, struct err *err);

/* E_STATE: not in this state. They return when the record has it. */
int stream_pause(struct surgery *, struct err *);
int stream_resume(struct surgery *, struct err *);
int stream_cancel(struct surgery *, struct err *);
/* Moves back what was moved: the targets become the moved ones (docs/surgery.md). */
int stream_rollback(struct surgery *, struct err *);
/*
 * Milliseconds of the foreground's appends at the 99th percentile, and events a second; 0: no
 * bound, UINT64_MAX: as it was.
 */
void stream_throttle(struct surgery *, uint64_t max_p99_ms, uint64_t max_rate);
/*
 * Hides the originals of a surgery that is done, but for the event that says where they went;
 * scavenge gives the disk back. E_STATE: it is not done, or its targets are links.
 */
int stream_drop(struct surgery *, struct err *err);

/*
 * Ends the routing of a surgery that is done: the old names take no more events, and say where to.
 * E_STATE: it is not done, or routes nothing.
 */
int stream_end_routing(struct surgery *, struct err *err);

/* Until it is not at work any more, or the time is over. One caller at a time. */
void stream_wait(struct surgery *, uint64_t timeout_us);

void stream_get_status(struct surgery *, struct stream_status *);

struct stream_audit {
    uint64_t streams;             /* that were moved */
    uint64_t events, copies;      /* compared */
    uint64_t newer;               /* events that the targets got since */
    uint64_t gone;                /* streams whose originals are not there any more */
    uint64_t not_moved;           /* selected, and not moved by this surgery */
    uint64_t different;           /* streams */
    char     first[ERR_TEXT_MAX]; /* the first difference */
};

/*
 * Derives the targets of all that was moved from the originals again, and compares. It blocks;
 * E_INTERRUPTED once *stop is true (NULL: never).
 */
int
stream_audit_run(struct surgery *, const atomic_bool *stop, struct stream_audit *, struct err *);
void stream_audit_json(const struct stream_audit *, struct buf *out);

/*
 * What a spec would do, on the first `sample` streams that it selects (0: all). An object of JSON.
 * Of a list of two specs, the second is about what the first would make; it is in `then`.
 * It blocks as an audit does, and writes nothing.
 */
int stream_plan(struct ox_env *, struct log *, struct slice name, struct slice spec,
                uint64_t sample, const atomic_bool *stop, struct buf *out, struct err *err);

/* routing, for a log that takes appends: `old_writers: route` */

struct stream_router;

/* Makes the commits that routed streams need, until the log is closed. */
int  stream_router_new(struct ox_env *, struct log *, struct stream_router **, struct err *);
void stream_router_free(struct stream_router *); /* after log_close; NULL is fine */

#endif
