/*
 * Tracer write: moves the truth of a table's subset from an old system to a
 * new one while both stay live, by one durable record in the log.
 *
 * The record is the last event of the stream `$migration-NAME`: phase, epoch,
 * authority, flags, intent. It is changed by compare-and-set only, and the
 * epoch grows with each change of authority, so two controllers of one
 * migration cannot both win. What a crash leaves is the record and the guards
 * at both sides; opening the migration again resumes or rolls back from them.
 *
 * One controller is a task of its own and blocks only there. Commands are
 * handed to it; routes and status are read from published snapshots.
 */
#ifndef OX_MIGRATE_TRACER_TRACER_H
#define OX_MIGRATE_TRACER_TRACER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/conf.h"
#include "base/env.h"
#include "base/err.h"
#include "base/slice.h"
#include "log/log.h"

struct tracer;
struct source_ops;
struct store_ops;

#define TRACER_NAME_MAX 64 /* of a migration: a-z 0-9 _ */

/* The schema of one migration: an object; the keys of a map `migrations` are their names. */
extern const struct conf_type tracer_conf_type;

enum tracer_phase {
    TRACER_DRAFT,
    TRACER_PREFLIGHT,
    TRACER_SYNCING,
    TRACER_BACKFILLING,
    TRACER_CATCHING_UP,
    TRACER_VERIFYING,
    TRACER_READY,
    TRACER_FENCING,
    TRACER_NEW_SOAK,
    TRACER_FALLBACK_KEPT,
    TRACER_RETIRED,
    TRACER_PAUSED,
    TRACER_CANCELLED,
    TRACER_HALTED,
};

enum tracer_command {
    TRACER_START,
    TRACER_PAUSE,
    TRACER_RESUME, /* after a pause or a halt */
    TRACER_VERIFY, /* a whole pass now */
    TRACER_REPAIR, /* the divergent keys that verification named, towards the authority */
    TRACER_SWITCH, /* the new side becomes the authority */
    TRACER_REVERSE,
    TRACER_COMPLETE_FALLBACK, /* the old side is kept up to date */
    TRACER_COMPLETE_RETIRE,   /* the sync ends; nothing is deleted */
    TRACER_CANCEL,
    TRACER_BACKFILL_ON,
    TRACER_BACKFILL_OFF,
};

const char *tracer_phase_name(enum tracer_phase);     /* "SYNCING" */
const char *tracer_command_name(enum tracer_command); /* "switch" */
/* "start", "complete" with the word "fallback" or "retire", "backfill" with "on" or "off". */
bool tracer_command_parse(const char *word, const char *more, enum tracer_command *out);

/* What a migration stands on. It all outlives the migration. */
struct tracer_deps {
    struct ox_env *env;
    struct log    *log;
    /* Drivers by the name that `type` has in the configuration; NULL: none such. */
    const struct source_ops *(*source)(void *arg, const char *type);
    const struct store_ops *(*store)(void *arg, const char *type);
    void *arg;
};

/*
 * Opens the migration's record, makes it (DRAFT) where there is none, and
 * starts the controller, which goes on where the record says.
 */
int tracer_open(const struct tracer_deps *, const char *name, const struct conf *, struct tracer **,
                struct err *);
void tracer_close(struct tracer *); /* stops all tasks; the record stays as it is. NULL is fine */

/* commands */

struct tracer_call {
    enum tracer_command command;
    bool                force; /* `repair` and `verify` without waiting for a phase's end */
    /* On the controller's task, once; must not block. The caller owns the memory until then. */
    void (*done)(struct tracer_call *);
    void      *arg;
    int        rc; /* result: E_STATE: not in this phase; E_BUSY: another command is under way */
    struct err err;
    /* the controller's own */
    struct tracer_call *next;
    struct ox_gate      gate;
};

/*
 * Never blocks. `switch` and `reverse` are answered when the authority has
 * changed, or when it has not (E_TIMEOUT: the lease ran out; nothing changed);
 * the others when the record is durable.
 */
void tracer_submit(struct tracer *, struct tracer_call *);
/* The same and waits. Not on the loop of a server. */
int tracer_command(struct tracer *, enum tracer_command, struct err *);

/* routes */

enum tracer_side { TRACER_OLD, TRACER_NEW, TRACER_HOLD };

struct tracer_route {
    enum tracer_side side;
    uint64_t         epoch;
    uint32_t         retry_after_ms; /* TRACER_HOLD */
};

/* Any thread, cheap: a snapshot. Always an answer: `old` before the first switch. */
void
tracer_route(struct tracer *, struct slice key, struct slice consumer, struct tracer_route *out);
const char *tracer_side_name(enum tracer_side); /* "old", "new", "hold" */

/* Told after the route or the record changed; on any of the tasks: it must only wake somebody. */
struct tracer_listener {
    void (*wake)(struct tracer_listener *);
    void                   *arg;
    struct tracer_listener *next; /* the migration's own */
};
void tracer_listen(struct tracer *, struct tracer_listener *);
void tracer_unlisten(struct tracer *, struct tracer_listener *);

/* status */

struct tracer_status {
    enum tracer_phase phase;
    enum tracer_phase from; /* where PAUSED, HALTED and FENCING came from */
    uint64_t          epoch;
    enum tracer_side  authority; /* the record's; TRACER_HOLD: fenced */
    bool              backfill_on;
    uint64_t          backfill_rows;
    bool              backfill_done;
    uint64_t          lag_events;      /* captured at the authority and not yet applied */
    uint64_t          applied, echoes; /* since opening */
    uint64_t          verified_rows;   /* of the last whole pass */
    uint64_t          scanned_rows;    /* of the one under way, or the last */
    uint64_t          stale, hot, divergent, repaired;
    bool              verified; /* a clean pass that has not decayed */
    uint64_t          switches;
    uint64_t          held_us_last, held_us_p50, held_us_max;
    char error[ERR_TEXT_MAX]; /* HALTED: why; else what is tried again just now, or empty */
};

void tracer_get_status(struct tracer *, struct tracer_status *);
/* The same as one JSON object, with the sources' state: `oxbow migrate show --json`. */
void tracer_status_json(struct tracer *, struct buf *out);
/* The last verification: {"rows","ranges","hot","divergent","keys":[{"key","kind","fields"}…],…}.
 */
void tracer_report_json(struct tracer *, struct buf *out);

const char *tracer_name(const struct tracer *);

/* Without a controller: the last record's JSON as the log has it. E_NOTFOUND where there is none.
 */
int tracer_record_json(struct log *, const char *name, struct buf *out, struct err *);

#endif
