/*
 * Inside src/log. One task, the *log task*, checks and encodes appends into
 * groups; the journal makes one group durable at a time, on the log task itself
 * where few appends wait, on the *sync task* while the log task goes on with
 * the next group where many do. Whoever made a group durable publishes it:
 * moves `end`, wakes listeners, answers.
 *
 * Invariants: `end` <= what the journal calls durable; an answer leaves after
 * `end` covers it; groups are published in the order of their positions.
 */
#ifndef OX_LOG_LOG_INT_H
#define OX_LOG_LOG_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "base/must.h"
#include "log/heads.h"
#include "log/index.h"
#include "log/journal.h"
#include "log/log.h"
#include "log/log_fmt.h"
#include "log/mem.h"
#include "log/scan.h"
#include "log/seg.h"

#define LOGI_AHEAD 16u /* writes of a commit: what is wanted of them is asked for in good time */
#define LOGI_MAGIC 0x6f784c67u
#define LOGI_GROUP_BYTES (UINT64_C(4) << 20)  /* a group takes no more commits beyond this */
#define LOGI_BULK_BYTES (UINT64_C(512) << 10) /* bulk commits' part of a group */
#define LOGI_GENTLE_BYTES (UINT64_C(1024) << 10)
#define LOGI_GENTLE_PASSED 4u
/* A group with more than so many commits or bytes is synced while the next one is filled. */
#define LOGI_INLINE_MAX 96
#define LOGI_INLINE_BYTES (UINT64_C(128) << 10)

enum group_state {
    GROUP_FREE,
    GROUP_FILLING, /* the log task's */
    GROUP_READY,   /* whoever takes it first: the log task to add, the sync task to write */
    GROUP_SYNCING, /* with the journal */
};

struct group {
    _Atomic int     state;
    struct buf      bytes;
    uint64_t        first, end; /* positions */
    uint64_t        started_us;
    int64_t         time_us; /* of the last commit */
    uint32_t        frames, commits, events, states;
    uint64_t        bulk_bytes;
    bool            loud; /* has a commit that wakes readers */
    struct log_req *reqs, **tail;
    struct log_req *late; /* refused for what this group holds: told when it is durable */
};

struct req_list {
    struct log_req *head, **tail;
};

/* What a commit does to one stream, after the checks. */
struct target {
    uint64_t fp[2]; /* of the stream's name (heads.h) */
    uint64_t id, next, truncate;
    uint32_t flags;
    bool     is_new;   /* nothing of it is in the log: the commit gives it its id */
    bool     there;    /* of a write: these very events are in the stream already */
    bool     by_write; /* of a change: the stream's write has its own target */
    bool     state;    /* a state record is written */
    uint32_t done;     /* events encoded so far */
    /* with `state` */
    uint64_t max_count;
    int64_t  max_age_us;
    uint64_t moved; /* as in struct index_head */
};

/* What readers may see of a stream: versions from `low` to below `next`, if not too old. */
struct view {
    uint64_t low, next, max_count;
    uint64_t shown;      /* the same as `low` for who is given what moves hid */
    int64_t  max_age_us; /* 0: no bound */
    uint32_t flags;      /* enum index_flags */
    uint64_t stage;      /* INDEX_STAGED: its first version that a stage wrote; else UINT64_MAX */
};

/* A change that was asked for or that metadata makes. */
struct log_own {
    struct log_change change;
    uint32_t          write; /* the number of its stream's write; UINT32_MAX: it has none */
    bool              meta;  /* made by metadata alone */
};

struct marks;
struct retention;

struct waiter {
    struct ox_gate gate;
    uint64_t       pos;
    struct waiter *next;
};

struct log {
    uint32_t        magic;
    struct ox_env  *env;
    char           *dir;
    struct log_conf conf;

    struct ox_file    *lock_file;
    struct segments   *segs;
    struct ox_index   *index;
    struct ox_journal *journal;
    struct mem        *mem;
    struct heads      *heads;
    struct recent     *recent;
    struct marks      *marks; /* streams that may have a state */

    /* Any thread. */
    _Atomic(struct log_req *) incoming; /* a stack */
    _Atomic(struct log_req *) to_route; /* the same of what waits for the router */
    _Atomic uint32_t          routing;  /* that are not answered yet */
    _Atomic uint64_t          queue_bytes;
    _Atomic uint64_t          end;         /* published */
    _Atomic int64_t           end_us;      /* the time of the last commit below it */
    _Atomic uint64_t          indexed;     /* what the index covers */
    _Atomic uint64_t          state_epoch; /* grows with each state that becomes readable */
    _Atomic bool              closing, failed, low_disk;
    _Atomic bool              indexer_waits; /* for `end` to move */
    _Atomic uint64_t          want_end;      /* upkeep: segments must reach this position */

    /* The log task's. */
    struct req_list fifo, bulk;
    unsigned        passed; /* groups that went without a commit of `bulk` while one waited */
    struct req_list held;   /* by a fence; before `fifo` once it is gone */
    struct group    groups[2];
    unsigned        cur;    /* the group to fill */
    bool            handed; /* it was given to the sync task */
    bool            full;   /* it takes no more */
    uint64_t        next_pos, next_stream_id;
    int64_t         last_time_us;
    uint64_t        id_seed[2], id_count; /* of the ids that the log makes */
    struct target  *targets;              /* of the writes, then of the changes */
    uint32_t        target_room;
    unsigned        sync_next;    /* the group to commit: groups take turns; of whoever commits */
    struct ox_gate *_Atomic idle; /* opened when nothing is left while closing */

    /* Under `admin`. */
    struct ox_lock       admin;
    struct log_listener *listeners;
    struct retention    *retention; /* NULL: none */
    struct waiter       *flush_waiters;
    struct log_stage    *stages;
    struct log_fence    *fences;
    _Atomic uint32_t     stage_count, fence_count;
    struct err           failure;     /* why `failed` */
    struct err           index_error; /* code 0: none */
    struct err           grow_error;  /* code 0: none */
    _Atomic bool         flush_wanted, index_stuck, grow_stuck;

    struct ox_task   *task, *syncer, *indexer, *upkeep;
    struct log_router router; /* all zero: none */
    struct ox_task   *router_task;
    _Atomic bool      has_router;
    struct scavenge  *scavenge;                     /* NULL: read-only */
    struct seg_pin    pin;                          /* the log task's */
    _Atomic uint64_t  sync_usual_us, sync_worst_us; /* of the commit point; the worst since asked */
    uint64_t          frozen_last; /* indexer: last position of the frozen generation */
    uint64_t          last_index_us, last_disk_us;

    _Atomic uint64_t commits, events, group_count, appended_bytes, syncs, stream_count;
    _Atomic int64_t  durable_time_us;
    struct hist      sync_us, group_commits; /* of the groups since opening */
    _Atomic uint64_t latency[LOG_LATENCY_BUCKETS];
};

/* seal.c: data under a subject's key */

/* The events of the request that name a subject, sealed, in the place of the caller's. */
int logi_seal(struct log *, struct log_req *, struct err *);
/* Puts the caller's events back. */
void logi_unseal(struct log_req *);
/* Makes the keys durable that what is submitted needs. */
int logi_seal_sync(struct log *, struct err *);
/* Opens a sealed event's data into `plain`; name has room for SUBJECTS_NAME_MAX bytes. */
int logi_seal_open(struct log *, struct log_event *, struct buf *plain, char *name, struct err *);

/* append.c: before the log task */
void logi_answer(struct log *, struct log_req *, int rc, const struct err *);
/* Counts how long it took, once. */
void logi_note_latency(struct log *, struct log_req *);

/* check.c */
enum check_result {
    CHECK_OK,      /* targets are filled: encode it */
    CHECK_ANSWER,  /* req->rc (0: idempotent) and results are set */
    CHECK_LATER,   /* depends on what is not durable yet */
    CHECK_NO_ROOM, /* segments have to be prepared first */
    CHECK_ROUTE,   /* the router has to say what else it writes */
};
enum check_result logi_check(struct log *, struct log_req *);
/* The stream as prepared; is_new: there is none. */
int logi_resolve(struct log *, struct slice name, struct target *, struct err *);
/* Does anything readable stand for the stream: is it there for `exists` and `no-stream`? */
static inline bool
logi_there(const struct target *t)
{
    return !t->is_new && (t->flags & (INDEX_DELETED | INDEX_STAGED)) == 0;
}
/* Position of a version below bound; 0: not there. */
int logi_position(struct log *, uint64_t id, uint64_t version, uint64_t bound, uint64_t *pos,
                  struct err *);

/* state.c */
int  logi_marks_new(struct marks **, struct err *);
void logi_marks_free(struct marks *); /* NULL is fine */
/* From what the index has. */
int logi_marks_load(struct log *, struct err *);
/* Says that the stream may have a state. One task at a time. */
int  logi_mark(struct log *, uint64_t id, struct err *);
bool logi_marked(struct log *, uint64_t id);
/* All that is known of a stream below bound. E_NOTFOUND. */
int logi_head(struct log *, uint64_t id, uint64_t bound, struct index_head *, struct err *);
int logi_find(struct log *, struct slice name, uint64_t bound, uint64_t *id, struct index_head *,
              struct err *);
/* A reference to the list as it is now; may be NULL. */
struct retention           *logi_retention_get(struct log *);
void                        logi_retention_put(struct retention *);
const struct log_retention *logi_retention_of(const struct retention *, struct slice stream);
bool                        logi_is_metastream(struct slice name);
/* `category` may be NULL. */
void logi_view(const struct index_head *, struct slice stream, const struct log_retention *category,
               struct view *);
bool logi_too_old(struct log *, int64_t max_age_us, int64_t created_us);

/* stage.c */
/* Is the stream being filled by a stage other than `mine` (NULL: any)? */
bool logi_staging(struct log *, const uint64_t fp[2], const struct log_stage *mine);
/* Does a fence hold the request back? */
bool logi_fenced(struct log *, const struct log_req *);
/* The log task's look at the fences; µs until the next one ends, or ENV_STEP_WAIT. */
uint64_t logi_fences_look(struct log *);

/* moved.c */
/* Where a stream went, as a JSON array; `moved` as in struct index_head. The segments are pinned.
 */
int logi_moved_names(struct log *, uint64_t id, uint64_t moved, struct buf *array, struct err *);

/* route.c */
/* Hands the request to the router, or refuses it. On the log task. */
void logi_route(struct log *, struct log_req *);

/* encode.c */
/* How many bytes a commit takes at most, frames and padding included. */
uint64_t logi_room_needed(const struct log_req *);
/* Adds the checked commit to the group, and to memory. An error is fatal for the log. */
int logi_encode(struct log *, struct group *, struct log_req *, struct err *);

/* group.c */
uint64_t logi_log_step(void *log);
uint64_t logi_sync_step(void *log);
void     logi_fail(struct log *, const struct err *);

/* index_task.c */
uint64_t logi_index_step(void *log);
/* Waits until the index covers all that is published now. */
int logi_flush(struct log *, struct err *);
/* Single-threaded, while opening: writes all of memory below the end. */
int logi_index_all(struct log *, struct err *);

/* upkeep.c */
uint64_t logi_upkeep_step(void *log);

/* scavenge.c */
int              logi_scavenge_new(struct log *, struct err *);
void             logi_scavenge_free(struct log *);
struct ox_task **logi_scavenge_task(struct log *);
void             logi_scavenge_halt(struct log *); /* ends a run, and waits for that */
uint64_t         logi_scavenge_step(void *scavenge);
uint64_t         logi_scavenge_reserved(struct log *); /* bytes of the disk that it gives back */
void             logi_note_sync(struct log *, uint64_t us);

/* recover.c */
int logi_recover(struct log *, struct log_report *, struct err *);
/* Was a log closed here? True also where it cannot be known. */
bool logi_clean_is_there(struct log *);
int  logi_clean_write(struct log *, struct err *);
int  logi_clean_put(struct ox_env *, const char *dir, const struct ox_id *log_id, uint64_t end,
                    int64_t last_time_us, struct err *);
/* Makes the folder's own name durable. */
int logi_parent_sync(struct ox_env *, const char *dir, struct err *);
int logi_clean_remove(struct log *, struct err *);

#endif
