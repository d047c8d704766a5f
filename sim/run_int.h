/*
 * One seed's run: what the clients asked for, what they were told, and what
 * must therefore be in the log. Private to the simulator.
 *
 * A *rec* is what a client wants written, once, whatever number of attempts it
 * takes; all bytes of its events follow from its number. A rec is *known* when
 * somebody was told that it is durable, by an answer or by reading it, and
 * stays in the log from then on; *maybe* while nobody can know; else absent.
 */
#ifndef OX_SIM_RUN_INT_H
#define OX_SIM_RUN_INT_H

#include <stdbool.h>
#include <stdint.h>

#include "log/log.h"
#include "sim/env_sim.h"

#define REC_WRITES 4
#define REC_CHECKS 3
#define REC_CHANGES 2
#define STREAMS_MAX 40
#define SUBS_MAX 5
#define RUN_DIR "/sim/data"
#define RUN_BACKUP "/sim/backup"
#define RUN_RESTORED "/sim/restored"

struct rec_write {
    uint32_t stream;
    int64_t  expected;
    uint32_t count;
    uint64_t first; /* version; where known */
};

struct rec_check {
    uint32_t stream;
    int64_t  expected;
};

struct rec_change {
    uint32_t stream, what;
    int64_t  expected;
    uint64_t truncate, max_count;
};

struct rec {
    uint64_t          no, seed;
    uint64_t          life;  /* in which it was written */
    uint32_t          flags; /* of the request */
    int64_t           time_us;
    uint32_t          write_count, check_count, change_count;
    struct rec_write  w[REC_WRITES];
    struct rec_check  c[REC_CHECKS];
    struct rec_change ch[REC_CHANGES];
    uint32_t          attempts, in_flight, written;
    bool              known, maybe, told; /* told: `first` is set, too */
    bool              refused;            /* answered: certainly not written */
    bool              placed;             /* pos to end are set */
    bool              found;              /* by the scan that is going on */
    struct log_pos    pos, last, end;
};

/* One event of the log as the last scan found it. */
struct seen {
    uint64_t    pos, commit, version;
    struct rec *rec;
    uint32_t    stream, w, e;
    uint32_t    bytes; /* of data and metadata, where they are in one piece; else 0 */
    int64_t     time_us;
    bool        quiet;
    bool        gone;     /* a scavenge has taken it */
    bool        was_gone; /* in some scan: where a power cut brings the old file back */
};

/* Somebody was told a stream's version by a refusal. */
struct claim {
    uint32_t stream;
    int64_t  actual;
    uint64_t rec_no;
};

struct sub {
    struct run         *run;
    struct log_listener listener;
    struct log_iter    *it;
    bool                woken, listening, polling;
    int                 kind;
    uint32_t            stream; /* of kind SUB_STREAM */
    uint64_t            resume;
    uint64_t           *got;
    size_t              count, cap;
};

struct stream {
    char     name[LOG_NAME_MAX + 1];
    bool     system;
    bool     mortal;  /* may be deleted */
    int32_t  meta_of; /* the stream whose metadata it has; -1: none */
    uint64_t floor;   /* versions that are known to exist, as answers told */
    bool     may_be_deleted, may_be_gone, told_gone;
    /* as of the last scan */
    uint64_t next, low, max_count;
    uint64_t high;   /* what was hidden of it at any time: a scavenge may have made that final */
    uint64_t raised; /* what the log says of that */
    bool     stated, deleted, tombstone;
};

struct run {
    struct sim        *sim;
    uint64_t           seed;
    bool               verbose;
    struct index_maps *maps;
    struct log_conf    conf;
    struct log        *log;
    struct rec       **recs;
    size_t             rec_count, rec_cap;
    struct stream      streams[STREAMS_MAX];
    uint32_t           stream_count;
    struct seen       *seen;
    size_t             seen_count, seen_cap;
    struct seen       *old; /* of the scan before */
    size_t             old_count, old_cap;
    struct claim      *claims;
    size_t             claim_count, claim_cap;
    struct sub         subs[SUBS_MAX];
    uint32_t           sub_count;
    uint32_t           in_flight;
    uint32_t           big, middle;         /* of 1,000 events, how many are large, and not small */
    bool               scavenges, backs_up; /* in this seed */
    uint64_t           scavenged_recs;      /* those before it may have gone */
    uint64_t           scavenge_run;        /* the last one that was looked at */
    uint64_t           backup_end;          /* what there is a backup of at least; 0: none */
    uint64_t           faults_before;
    bool               excused; /* refusals for lack of disk and the like are in order */
    bool               closing;
    bool               index_broken;
    bool               looking; /* a check reads: nobody else does anything new */
    uint64_t           acked, refused, unsure, lives, crashes, cuts, scans, events;
    uint64_t           rewritten, gone, backups;
};

struct run_totals {
    uint64_t seeds, lives, crashes, cuts, faults, acked, refused, unsure, scans;
    uint64_t rewritten, gone, backups;
};

/* Prints what is wrong and how to run it again, and ends the program. */
void
run_fail(struct run *run, const char *fmt, ...) __attribute__((format(printf, 2, 3), __noreturn__));
void run_say(struct run *run, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* rec.c: what is asked for */

struct rec *rec_new(struct run *run);
bool        rec_can_repeat(const struct rec *rec); /* the log knows it again by its events' ids */
void        rec_submit(struct run *run, struct rec *rec);
/* Is it below the limit of a commit, with something to spare? */
bool rec_fits(const struct run *, const struct rec *);
void rec_append(struct run *run, struct rec *rec); /* waits for the answer */
void rec_submit_bad(struct run *run);

/* Which event is this? Holds every field against what was asked for. NULL never. */
struct rec *rec_of_event(struct run *run, const struct log_event *ev, uint32_t *w, uint32_t *e);

struct slice rec_type(const struct run *run, const struct rec *rec, uint32_t w, uint32_t e);
/* What a link leads to; false: it is none. */
bool rec_link(const struct run *run, const struct rec *rec, uint32_t w, uint32_t e,
              uint32_t *stream, uint64_t *version);
/* The metadata that the write ends with. */
struct log_meta rec_meta(const struct run *run, const struct rec *rec, uint32_t w);
bool            version_holds(int64_t expected, uint64_t next);

int64_t rec_pick_expected(struct run *run, uint32_t stream);

/* states.c: what holds for streams */

void     state_reset(struct stream *s);
void     state_apply(struct run *run, const struct rec *rec); /* its events are counted already */
bool     state_there(const struct stream *s);
bool     state_holds(const struct stream *s, int64_t expected);
uint64_t state_low(const struct stream *s);       /* the first version that may be seen */
int      state_read_code(const struct stream *s); /* what opening it answers */
void     state_pick(struct run *run, struct rec *rec);
bool     state_repeatable(const struct run *run, const struct rec *rec);
void     state_answer_gone(struct run *run, struct rec *rec, const struct log_req *req);
void     state_check_told(struct run *run);
void     state_learn(struct run *run); /* what scavenges have hidden for good */

/* subs.c: who reads along */

void sub_new_all(struct run *run);
void sub_begin(struct run *run); /* the log was opened */
void sub_poll(struct run *run, bool all);
void sub_end(struct run *run); /* it is going to be closed */
void sub_check(struct run *run);
void sub_free_all(struct run *run);

/* check.c: the log against what must be in it */

/* Nothing may be in flight. decided: the log was opened since, what was unsure is no more. */
void check_scan(struct run *run, bool decided);
void check_some(struct run *run); /* a few reads; anything may be in flight */
/* The log is another one, made of a backup: all events below `end`, and nothing else. */
void check_restored(struct run *run, struct log *log, uint64_t end);

/* care.c: what an operator does */

void care_scavenge(struct run *run);
void care_back_up(struct run *run);
void care_restore(struct run *run);
bool care_running(struct run *run); /* or was, when somebody last looked */
/* A scavenge that failed has a reason. */
void care_look(struct run *run);

/* damage.c */

/* The log is closed: damages it, and holds that nobody is told anything wrong. */
void damage_run(struct run *run);

/* run.c */

void run_settle(struct run *run);
bool run_excused(struct run *run);
void run_seed(uint64_t seed, uint32_t steps, bool verbose, struct run_totals *totals);

#endif
