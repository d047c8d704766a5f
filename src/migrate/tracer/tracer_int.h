/* What the files of the tracer write share; nobody else includes this. */
#ifndef OX_MIGRATE_TRACER_INT_H
#define OX_MIGRATE_TRACER_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "base/must.h"
#include "core/capture.h"
#include "migrate/tracer/tracer.h"
#include "source/source.h"
#include "store/store.h"

#define TRACERI_KEY_MAX LOG_NAME_MAX
#define TRACERI_HELD_MAX 256 /* held times that the record keeps */
#define TRACERI_RING 1024    /* events of a feed in flight */
#define TRACERI_PENDING_MAX 100000
#define TRACERI_DIVERGENT_MAX 10000 /* that the report lists; beyond it they are counted */

struct traceri_map;
struct traceri_lanes;
struct traceri_feed;
struct traceri_verify;

/* record.c */

struct traceri_record {
    enum tracer_phase phase, from;
    uint64_t          epoch, seed;
    enum tracer_side  authority; /* TRACER_HOLD: fenced … */
    enum tracer_side  fenced;    /* … at this side, and the other one is to have it */
    uint64_t          since;     /* what the log has before, its feed does not apply (again) */
    bool              backfill_on, backfill_done, clean, dismantled;
    bool              canary; /* its row may be at the new side */
    uint64_t          backfill_rows, verified_rows, repaired;
    uint64_t          upto;     /* every key without an event from this position on is verified */
    int64_t           clean_us; /* when the last clean pass ended */
    uint64_t          switches;
    uint32_t          held_count; /* of `held` */
    uint64_t          held[TRACERI_HELD_MAX];
    char              cursor[TRACERI_KEY_MAX + 1];
    char              error[ERR_TEXT_MAX];
};

void traceri_record_stream(const char *name, char out[LOG_NAME_MAX + 1]);
void traceri_record_put(const struct traceri_record *, struct buf *out);
int  traceri_record_get(struct slice json, struct traceri_record *, struct err *);

/* map.c */

enum traceri_effect { EFFECT_NONE, EFFECT_PUT, EFFECT_DEL };

int  traceri_map_new(const struct conf *, struct traceri_map **, struct err *);
void traceri_map_free(struct traceri_map *);
/* A row of side `from` under the other side's names, canonical; `out` is cleared first. */
int traceri_map_row(const struct traceri_map *, enum tracer_side from, struct slice row,
                    struct buf *out, struct err *);
/* Does a row of the old side move? A column that is missing is an error. */
int traceri_map_moves(const struct traceri_map *, struct slice row, bool *out, struct err *);
/* What a captured event means for the other side; EFFECT_PUT: the row in `out`. */
int traceri_map_event(const struct traceri_map *, enum tracer_side from, const struct log_event *,
                      struct buf *out, enum traceri_effect *, struct err *);
/* The names of the fields (of the new side) in which two rows differ, as JSON strings. */
void
traceri_map_differing(const struct traceri_map *, struct slice a, struct slice b, struct buf *out);

/* lanes.c */

enum traceri_job {
    JOB_APPLY, /* an event: put or delete at `to` */
    JOB_COPY,  /* backfill: read at the old side, put at the new one if nothing is there */
    JOB_CHECK, /* read both sides: equal or not */
};

struct traceri_item {
    enum traceri_job job;
    enum tracer_side to; /* JOB_APPLY; JOB_CHECK: the side that follows */
    bool             del, equal, copied;
    uint64_t         epoch, pos;
    char             key[TRACERI_KEY_MAX + 1];
    char             request[ID_TEXT_LEN + 1];
    struct buf       row;
    uint32_t         tries;
    _Atomic bool     done;
    void (*wake)(void *arg);
    void                *arg;
    struct traceri_item *next;
};

/* Opens nothing yet: each lane opens its stores in its own task. */
int traceri_lanes_new(struct tracer *, struct traceri_lanes **, struct err *);
/* What is in them stays undone; before the owners of items are freed. */
void traceri_lanes_stop(struct traceri_lanes *);
void traceri_lanes_free(struct traceri_lanes *);
/* The lane of its key takes it, after all that it took before. `done` is set at the end. */
void traceri_lanes_add(struct traceri_lanes *, struct traceri_item *);

/* feed.c */

/* Captures one side, and applies to the other one while that follows. */
int  traceri_feed_new(struct tracer *, enum tracer_side, struct traceri_feed **, struct err *);
int  traceri_feed_start(struct traceri_feed *, struct err *);
void traceri_feed_free(struct traceri_feed *);                   /* stops it */
void traceri_feed_follow(struct traceri_feed *, uint64_t since); /* applies from there on */
void traceri_feed_ignore(struct traceri_feed *);                 /* from now on */
/* Everything before this position of the log was dealt with. */
struct log_pos traceri_feed_applied(struct traceri_feed *);
/* Is the log known to have all that the side's feed had at `position`? Then up to *upto. */
/* Or has it been idle since poll number `since`, which had begun before `position` was taken? */
bool     traceri_feed_captured(struct traceri_feed *, struct slice position, uint64_t since,
                               struct log_pos *upto);
uint64_t traceri_feed_polls(struct traceri_feed *);
void     traceri_feed_status(struct traceri_feed *, struct capture_status *, uint64_t *applied,
                             uint64_t *echoes);
uint64_t traceri_feed_lag(struct traceri_feed *); /* changes handed on and not yet done */

/* verify.c */

int  traceri_verify_new(struct tracer *, struct traceri_verify **, struct err *);
void traceri_verify_free(struct traceri_verify *);
void traceri_verify_begin(struct traceri_verify *);
/* One range, or one key of those left over. *done: the pass is over. */
int traceri_verify_step(struct traceri_verify *, bool *done, struct err *);
/* Reads again what has changed since; never more than a bounded piece of work. */
int traceri_verify_round(struct traceri_verify *, struct err *);
/* Under the fence, all events applied: every key that is not verified yet. E_DIVERGED, E_LIMIT. */
int  traceri_verify_final(struct traceri_verify *, uint64_t deadline_us, struct err *);
int  traceri_verify_repair(struct traceri_verify *, uint64_t *repaired, struct err *);
void traceri_verify_counts(struct traceri_verify *, uint64_t *rows, uint64_t *stale, uint64_t *hot,
                           uint64_t *divergent);
/* What the record may keep: see struct traceri_record. */
uint64_t traceri_verify_upto(const struct traceri_verify *);
void     traceri_verify_report(struct traceri_verify *, struct buf *out);

/* backfill.c */

#define TRACERI_BATCH 512
/* The first `count` items of the controller's batch through the lanes. E_BUSY: an earlier one is
 * still there; E_TIMEOUT, E_INTERRUPTED: left behind, see E_BUSY. */
int traceri_batch_run(struct tracer *, uint32_t count, uint64_t deadline_us, struct err *);
/* Its next item, cleared; must be fewer than TRACERI_BATCH. E_BUSY as above. */
int traceri_batch_key(struct tracer *, uint32_t at, struct slice key, struct err *);

int traceri_backfill_step(struct tracer *, bool *done, struct err *);

/* canary.c */

/* A row written to the new side, read back and taken away; the guards are there already. */
int traceri_canary_run(struct tracer *, struct err *);
/* What an earlier run may have left; the new side's store is open. */
int traceri_canary_clear(struct tracer *, struct err *);

/* cutover.c */

int traceri_cutover(struct tracer *, enum tracer_side to, struct err *);
int traceri_cutover_recover(struct tracer *, struct err *);

/* command.c */

void traceri_command_run(struct tracer *);
/* Answers what is left with E_CLOSED. */
void traceri_command_end(struct tracer *);

/* run.c */

int  traceri_run_start(struct tracer *, struct err *); /* stores, lanes, feeds; again is fine */
void traceri_run_stop(struct tracer *);
int  traceri_run_preflight(struct tracer *, struct err *);
/* Takes away what preflight set up; what is gone already is fine. */
int traceri_run_dismantle(struct tracer *, struct err *);
/* Both captures run, and each has seen the end of its feed. */
bool traceri_run_caught_up(struct tracer *);
/* E_STATE where a capture has failed for good. */
int traceri_run_check(struct tracer *, struct err *);

/* tracer.c */

struct traceri_end { /* one side */
    const struct source_ops *source_ops;
    const struct store_ops  *store_ops;
    const struct conf       *source_conf, *store_conf;
    char                     label[64];  /* for people */
    char                     source[96]; /* capture's name and category */
    char                     category[96];
    struct store            *store; /* the controller's own */
    struct traceri_feed     *feed;
};

struct tracer {
    struct tracer_deps     deps;
    struct ox_env         *env;
    struct log            *log;
    char                   name[TRACER_NAME_MAX + 1];
    char                   mark[TRACER_NAME_MAX + 8]; /* "oxbow:NAME" */
    struct traceri_map    *map;
    struct traceri_end     ends[2]; /* by TRACER_OLD, TRACER_NEW */
    struct traceri_lanes  *lanes;
    struct traceri_verify *verify;
    struct traceri_item   *batch;       /* TRACERI_BATCH of them, the controller's */
    uint32_t               batch_count; /* in the lanes, maybe still undone */
    bool                   canary;
    unsigned               preflight_tries; /* since the last one that was decided */
    const char            *canary_key;      /* of the configuration; may be NULL */
    uint64_t               lease_us, stale_after_us;
    uint32_t               workers, retries, chunk, stale_max, attempts;

    struct ox_task       *task;
    struct traceri_record rec; /* the task's; others read `seen` */
    int64_t               version;
    bool                  running, recovered;
    uint64_t              idle_us; /* when the next round is due */
    bool                  pass_open;
    _Atomic bool          stopping;
    _Atomic bool          lost;  /* another controller has it */
    _Atomic uint64_t      route; /* side in the low two bits, epoch above */
    _Atomic uint64_t      epoch; /* for lanes and feeds */

    struct ox_lock          lock; /* what follows */
    struct tracer_call     *first, **last;
    struct tracer_listener *listeners;
    struct traceri_record   seen;
    uint64_t                seen_applied, seen_echoes, seen_lag;
    char                    last_error[ERR_TEXT_MAX]; /* of the controller's last step */
    char                    feed_error[ERR_TEXT_MAX]; /* what a feed waits for */
    char                    lane_error[ERR_TEXT_MAX]; /* what a write waits for */
    char stuck[ERR_TEXT_MAX]; /* a lane or a feed that cannot go on; empty: none */
};

/* The record by compare-and-set; on success it is the present one. */
int  traceri_save(struct tracer *, const struct traceri_record *, struct err *);
void traceri_publish(struct tracer *, enum tracer_side, uint64_t epoch);
/* A lane or feed cannot go on: the controller halts the migration. */
void traceri_stuck(struct tracer *, const struct err *);
/* A lane tries again because of this; NULL: it goes on. */
void traceri_waits(struct tracer *, const struct err *);
/* Waits a little; true when the controller has to stop. */
bool traceri_nap(struct tracer *, uint64_t us);
/* The same, and true also when a lane or a feed is stuck. */
bool traceri_wait(struct tracer *, uint64_t us);
/* Waits until all that the side's feed had at `position` is in the log: up to *upto. */
int traceri_wait_captured(struct tracer *, enum tracer_side, struct slice position,
                          uint64_t deadline_us, struct log_pos *upto, struct err *);
/* … and applied at the other side. */
int traceri_wait_applied(struct tracer *, enum tracer_side, struct slice position,
                         uint64_t deadline_us, struct log_pos *upto, struct err *);
/* The side with the authority; while fenced the one that had it. */
enum tracer_side traceri_leader(const struct tracer *);

static inline enum tracer_side
traceri_other(enum tracer_side side)
{
    must(side != TRACER_HOLD);
    return side == TRACER_OLD ? TRACER_NEW : TRACER_OLD;
}

#endif
