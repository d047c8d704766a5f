/* What the files of the delivery share. All of it but `shared` is the task's. */
#ifndef OX_CORE_DELIVER_INT_H
#define OX_CORE_DELIVER_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "base/trace.h"
#include "core/deliver.h"
#include "transform/transform.h"

#define DELIVERI_MAGIC 0x44656c69u
#define DELIVERI_RECORDS_MAX 100u /* parked and unparked events in one commit */
#define DELIVERI_CALLS_MAX 256u   /* orders that are not durable yet */

enum item_state {
    ITEM_WAITING,   /* in its lane; and in `ready` where it may go */
    ITEM_FLYING,    /* the driver has it */
    ITEM_SLEEPING,  /* until due_us */
    ITEM_PARKING,   /* its record is being made; in no lane */
    ITEM_UNPARKING, /* likewise */
    ITEM_RECORDING, /* its schedule; in no lane */
};

/* Reading begins anew when the driver has nothing and no commit is in flight. */
enum restart {
    RESTART_NONE,
    RESTART_WINDOW, /* from the checkpoint; what is parked stays known */
    RESTART_ALL,    /* what is durable has to be looked up */
};

enum admit { ADMIT_LIVE, ADMIT_TO_PARK, ADMIT_REPLAY, ADMIT_DUE, ADMIT_DUE_TO_PARK };

/* Refused: it stays parked, and its lane's order ends. */
enum how { HOW_DELIVERED, HOW_SKIPPED, HOW_GONE, HOW_REFUSED };

/* When a scheduled event is to go, and before which others of that time. */
struct due {
    int64_t  us; /* since 1970 */
    uint64_t pos;
};

/* An event in memory. base.next links whichever one queue it is in. */
struct item {
    struct sink_item base;
    struct item     *prev, *next; /* in `live` or `again`, in the order of reading */
    struct item     *lane_next;
    struct lane     *lane;
    enum item_state  state;
    enum how         how;
    bool             replay, skip; /* skip: to be given up, `how` says why */
    bool             refused;      /* by the driver; else parked behind another */
    bool             scheduled;    /* it has come due; in `again` */
    struct due       due;
    bool             faulty; /* the transform failed at it: `reason`; no driver sees it */
    uint64_t         read_us, due_us, tried_us; /* tried_us: first; 0: not yet */
    int64_t          sent_us;                   /* wall clock, where spans are wanted */
    size_t           bytes;
    char            *reason; /* of the refusal; NULL for want of memory */
    /* What the driver said. */
    int           rc;
    enum err_kind kind;
    unsigned      retry_ms;
    uint8_t       text[]; /* stream, type, data, meta */
};

struct queue {
    struct item *head, *tail;
};

struct items {
    struct item *head, *tail;
};

enum lane_mode { LANE_HOLD, LANE_REPLAY, LANE_SKIP_ONE, LANE_SKIP_ALL };

/* A stream of which something is in memory or parked. */
struct lane {
    struct lane *next; /* in its bucket */
    uint64_t     hash;
    struct item *head, *tail; /* what is neither done nor being parked, in the stream's order */
    uint32_t     recording;   /* items whose schedule is being recorded */
    uint8_t      len;         /* of the name */
    bool         recorded;    /* first_record is known */

    /* Parked: the first `closed` of its records since `first_record` were unparked. Up to `queued`
     * is what each delivery looks at: one line of the cache, or two. */
    uint64_t       open;      /* parked and not unparked, those without a durable record too */
    uint64_t      *positions; /* parked_pass: of the open ones, in their order */
    enum lane_mode mode;
    uint64_t       queued, closed; /* queued: of the open ones, in memory for a replay */
    uint64_t       position_room;
    uint64_t       first_record; /* version in the parked stream */
    struct log_pos behind, last; /* the first and the last parked since it is open */
    uint64_t       pass, pass_index;

    char name[];
};

enum commit_kind {
    COMMIT_MARK,
    COMMIT_RECORDS, /* of what is parked, and is not any more */
    COMMIT_LATER,   /* of what is scheduled */
    COMMIT_ORDERS,  /* about what is parked */
};

/* An event as it is to be given. */
struct shaped {
    struct log_event ev;     /* type, data, metadata as the transform made them */
    struct slice     stream; /* where it was routed to; empty: it was not */
    bool             dropped;
    struct err       fault; /* code 0: none */
};

/* The filter's and the transform's; what one shaped is valid until the next. */
#define DELIVERI_STEPS 2
struct shaper {
    struct transform_run *runs[DELIVERI_STEPS];
};

/* What is scheduled: the next ones, and how far they are done. */
struct later {
    struct due *heap;
    uint32_t    count;
    bool        partial; /* those from `horizon` on are in the stream alone */
    struct due  horizon;
    struct due  taken;     /* the last one that went into the window */
    struct due  done;      /* all up to here */
    struct due  next_done; /* as the checkpoint in flight has it */
    struct due  marked;    /* as the durable one has it */
    uint64_t    from;      /* no record before this version is open */
    uint64_t    last;      /* the highest position of a record */
    uint64_t    open;      /* how many are not in the window yet */
};

/* Positions that are delivered once more, the next one at `at`. */
struct range {
    bool     on;
    uint64_t at, to;
};

/* Oldest first. */
struct calls {
    struct deliver_call *head, *tail;
};

/* Memory of items and lanes that was given back, by its size in grains. */
#define DELIVERI_POOL_GRAIN 64u
#define DELIVERI_POOL_CLASSES 64u
struct pool {
    void    *spare[DELIVERI_POOL_CLASSES];
    uint64_t bytes;
};

struct deliver {
    uint32_t            magic;
    struct ox_env      *env;
    struct log         *log;
    struct sink        *sink;
    bool                transactional; /* many of a stream at once, all decided in one poll */
    bool                far_side;      /* the checkpoint is there too */
    struct deliver_conf conf;
    char                name[LOG_NAME_MAX + 1], mark_stream[LOG_NAME_MAX + 1];
    char                parked_stream[LOG_NAME_MAX + 1], later_stream[LOG_NAME_MAX + 1];
    char               *category, *prefix, *type;
    char               *later_path; /* below the data or the metadata; NULL: none */
    bool                later_in_meta;
    struct ox_task     *task;
    struct log_listener listener;
    _Atomic bool        stopping;
    struct ox_gate      stopped;

    struct ox_lock lock;
    struct {
        struct deliver_status status;
        struct calls          calls; /* the task has not seen them yet */
        uint32_t              open;  /* these, and those that are not durable yet */
        bool                  accepting;
        struct log_pos        read; /* everything before it was looked at */
        uint64_t              positions_read, events_read, oldest_us;
    } shared;

    enum deliver_state state;
    bool               loaded, claimed;
    bool               paused;
    bool               seeking, seek_committing;
    struct log_pos     seek;      /* the checkpoint to go on from … */
    bool               seek_here; /* … or the one that is due then */
    struct range       range, next_range;
    uint64_t           runs;       /* how many ranges there were */
    uint64_t           next_at;    /* of the range, in the checkpoint in flight */
    bool               range_read; /* all of it is in the window, or was */
    /* Orders that the checkpoint says, by number: all that were taken, those in the checkpoint in
     * flight, those in the durable one. */
    uint64_t     orders, orders_next, orders_marked;
    struct calls marking;    /* wait for the checkpoint */
    struct calls recording;  /* about what is parked: in force when their record is durable */
    bool         log_failed; /* what is waited for until resume_us is the log */
    enum restart restart;
    uint64_t     now_us, resume_us; /* nothing is done before resume_us */
    uint32_t     failures;
    uint32_t     away; /* attempts in a row that did not reach the far side */
    uint64_t     away_until_us;
    uint64_t     heard_us; /* when the driver took or decided something last */
    uint64_t     stop_by_us;
    char         error[ERR_TEXT_MAX];

    /* The window. */
    struct items   live, again;
    struct queue   ready, sleeping, finished, records, later_records;
    struct later   later;
    int64_t        delayed_until_us; /* reading waits for that time; 0: it does not */
    uint32_t       items, flying, sleepers;
    uint32_t       room; /* items that it may hold: one more with each delivery, to the limit */
    uint64_t       bytes, next_due_us;
    struct pool    pool; /* with `bytes` it stays below the window's limit */
    struct lane  **lanes;
    uint32_t       lane_count, lane_mask;
    uint64_t       delivered, retries, erased, filtered, parked, parked_streams;
    struct log_pos parked_last; /* of all that were parked */

    /* The readers. */
    struct log_iter  *reader, *parked_reader;
    struct shaped     held;                 /* read, and no room for it yet */
    struct shaper     shaper, again_shaper; /* of what is read live, and of what was parked */
    struct transform *steps[DELIVERI_STEPS];
    bool              holding, at_end;
    uint64_t          pass;
    uint64_t          read_from; /* where this run began */
    uint64_t          events_read;
    uint32_t          replaying; /* lanes whose mode is not LANE_HOLD */
    struct buf        scratch;

    /* The records. */
    /* Of the last event in the three streams. */
    int64_t        mark_version, parked_version, later_version;
    bool           has_mark;
    uint64_t       start; /* the first position that it was ever to deliver; in each checkpoint */
    struct log_pos mark;  /* the checkpoint that is durable */
    struct log_pos far;   /* transactional: the checkpoint on the far side */
    bool           far_due;
    uint64_t       mark_us, mark_delivered, next_mark_delivered;

    /* The commit in flight. */
    _Atomic bool          commit_done;
    bool                  committing;
    enum commit_kind      commit_kind;
    struct log_pos        next_mark;
    struct log_req        req;
    struct log_write      write;
    struct log_check      check;
    struct log_new_event *events;
    struct buf            text;
    struct queue          committed;
    uint32_t              commit_count;
};

/* deliver_trace.c */
void deliveri_trace_sent(struct deliver *d, struct item *it);
void deliveri_trace_done(struct deliver *d, const struct item *it, int rc);

/* deliver_window.c */
void         deliveri_pool_fini(struct pool *);
void         deliveri_push(struct queue *q, struct item *it);
struct item *deliveri_pop(struct queue *q);
struct lane *deliveri_lane(struct deliver *d, struct slice stream, bool make);
bool         deliveri_has_room(const struct deliver *d, uint64_t bytes);
uint64_t     deliveri_item_bytes(const struct shaped *s);
/* Copies the event; the item stands at the end of its lane, unless it is to be parked. */
int  deliveri_admit(struct deliver *d, const struct shaped *s, enum admit how, struct item **out,
                    struct err *err);
void deliveri_make_ready(struct deliver *d, struct lane *lane);
/* Out of the window, and freed; its lane too where nothing needs it. */
void deliveri_drop(struct deliver *d, struct item *it);
void deliveri_leave_lane(struct deliver *d, struct item *it);
void deliveri_lane_settle(struct deliver *d, struct lane *lane);
void deliveri_clear(struct deliver *d, bool lanes);
void deliveri_ready_again(struct deliver *d);
/* Everything that was read up to here is done; with `flying`, or is with the driver. */
struct log_pos deliveri_done_upto(const struct deliver *d, bool flying);
/* What the checkpoint may say: in a range, what it said before. */
struct log_pos deliveri_live_upto(const struct deliver *d);

/* deliver_parked.c */
int  deliveri_park(struct deliver *d, struct item *it, struct item *behind, struct err *err);
void deliveri_unpark(struct deliver *d, struct item *it, enum how how);
int  deliveri_load_parked(struct deliver *d, struct err *err);
int  deliveri_replay_read(struct deliver *d, bool *progress, struct err *err);
bool deliveri_is_parked(struct deliver *d, struct slice stream); /* something of it, or of all */
void deliveri_order(struct deliver *d, const struct deliver_call *call);
void deliveri_write_record(struct deliver *d, const struct item *it);
void deliveri_write_order(struct deliver *d, const struct deliver_call *call);
void deliveri_recorded(struct deliver *d, struct item *it, uint64_t version);
/* Whether what stands there is parked, or was delivered after something that is. */
bool deliveri_was_parked(const struct deliver *d, const struct lane *lane, struct log_pos pos);

/* deliver_read.c */
int  deliveri_open_reader(struct deliver *d, struct err *err);
int  deliveri_read_live(struct deliver *d, bool *progress, struct err *err);
int  deliveri_shape(struct deliver *d, struct shaper *by, const struct log_event *ev,
                    struct shaped *out, struct err *err);
void deliveri_shaper_fini(struct shaper *by);
/* Of a resolved link the position that counts is where the link stands. */
void deliveri_place(struct log_event *ev);

int deliveri_find_at(struct deliver *d, struct log_pos pos, struct log_iter **it,
                     struct log_event *ev, struct err *err);

/* deliver_later.c */
int      deliveri_load_later(struct deliver *d, struct err *err);
void     deliveri_write_later(struct deliver *d, const struct item *it);
int      deliveri_scheduled(struct deliver *d, struct item *it, struct err *err);
int      deliveri_schedule(struct deliver *d, struct shaped *s, bool *out, struct err *err);
int      deliveri_read_later(struct deliver *d, bool *progress, struct err *err);
void     deliveri_later_settle(struct deliver *d);
uint64_t deliveri_later_wait_us(const struct deliver *d); /* UINT64_MAX: nothing is waited for */

/* deliver_command.c */
void deliveri_take_commands(struct deliver *d, bool refuse);
void deliveri_orders_marked(struct deliver *d);
void deliveri_orders_recorded(struct deliver *d, uint32_t count);
void deliveri_orders_failed(struct deliver *d, const struct err *err);

/* deliver_mark.c */
int  deliveri_load_mark(struct deliver *d, struct err *err);
bool deliveri_mark_due(struct deliver *d);
/* `range_at`: where a range goes on, where there is one. */
int deliveri_commit_mark(struct deliver *d, struct log_pos pos, uint64_t range_at, struct err *err);
int deliveri_commit_records(struct deliver *d, struct err *err);
int deliveri_commit_orders(struct deliver *d, struct err *err);
/* After the commit: takes over what is durable now, or says what went wrong. */
int deliveri_committed(struct deliver *d, struct err *err);

#endif
