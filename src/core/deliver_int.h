/* What the files of the delivery share. All of it but `shared` is the task's. */
#ifndef OX_CORE_DELIVER_INT_H
#define OX_CORE_DELIVER_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "core/deliver.h"

#define DELIVERI_MAGIC 0x44656c69u
#define DELIVERI_RECORDS_MAX 100u /* parked and unparked events in one commit */

enum item_state {
    ITEM_WAITING,   /* in its lane; and in `ready` where it may go */
    ITEM_FLYING,    /* the driver has it */
    ITEM_SLEEPING,  /* until due_us */
    ITEM_PARKING,   /* its record is being made; in no lane */
    ITEM_UNPARKING, /* likewise */
};

/* Reading begins anew when the driver has nothing and no commit is in flight. */
enum restart {
    RESTART_NONE,
    RESTART_WINDOW, /* from the checkpoint; what is parked stays known */
    RESTART_ALL,    /* what is durable has to be looked up */
};

enum admit { ADMIT_LIVE, ADMIT_TO_PARK, ADMIT_REPLAY };

enum how { HOW_DELIVERED, HOW_SKIPPED, HOW_GONE };

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
    uint64_t         read_us, due_us;
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

    /* Parked: the first `closed` of its records since `first_record` were unparked. */
    uint64_t       open;           /* parked and not unparked, those without a durable record too */
    uint64_t       closed, queued; /* queued: of the open ones, in memory for a replay */
    uint64_t       first_record;   /* version in the parked stream */
    bool           recorded;       /* first_record is known */
    struct log_pos behind, last;   /* the first and the last parked since it is open */
    enum lane_mode mode;
    uint64_t       pass, pass_index;

    uint8_t len;
    char    name[];
};

enum command_kind { COMMAND_LANE, COMMAND_PAUSE, COMMAND_RESUME, COMMAND_SEEK };

struct command {
    struct command   *next;
    enum command_kind kind;
    struct log_pos    pos;
    struct slice      stream;
    enum lane_mode    mode;
    struct ox_gate    gate;
    int               rc;
};

struct deliver {
    uint32_t            magic;
    struct ox_env      *env;
    struct log         *log;
    struct sink        *sink;
    bool                transactional;
    struct deliver_conf conf;
    char                name[LOG_NAME_MAX + 1], mark_stream[LOG_NAME_MAX + 1];
    char                parked_stream[LOG_NAME_MAX + 1];
    char               *category, *prefix, *type;
    struct ox_task     *task;
    struct log_listener listener;
    _Atomic bool        stopping;
    struct ox_gate      stopped;

    struct ox_lock lock;
    struct {
        struct deliver_status status;
        struct command       *commands;
        bool                  accepting;
        struct log_pos        read; /* everything before it was looked at */
        uint64_t              positions_read, events_read, oldest_us;
    } shared;

    enum deliver_state state;
    bool               loaded, claimed;
    bool               paused, next_paused; /* next_paused: as the checkpoint in flight has it */
    bool               mark_changed;        /* the checkpoint does not say yet what is so now */
    bool               seeking, seek_committing;
    struct log_pos     seek; /* the checkpoint to go on from */
    enum restart       restart;
    uint64_t           now_us, resume_us; /* nothing is done before resume_us */
    uint32_t           failures;
    uint64_t           stop_by_us;
    char               error[ERR_TEXT_MAX];

    /* The window. */
    struct items   live, again;
    struct queue   ready, sleeping, finished, records;
    uint32_t       items, flying, sleepers;
    bool           failing; /* something was not taken since this was cleared */
    uint64_t       bytes, next_due_us;
    struct lane  **lanes;
    uint32_t       lane_count, lane_mask;
    uint64_t       delivered, retries, erased, parked, parked_streams;
    struct log_pos parked_last; /* of all that were parked */

    /* The readers. */
    struct log_iter *reader, *parked_reader;
    struct log_event held; /* read, and no room for it yet */
    bool             holding, at_end;
    uint64_t         pass;
    uint64_t         read_from; /* where this run began */
    uint64_t         events_read;
    uint32_t         replaying; /* lanes whose mode is not LANE_HOLD */
    struct buf       scratch;

    /* The records. */
    int64_t        mark_version, parked_version; /* of the last event in the two streams */
    bool           has_mark;
    uint64_t       start; /* the first position that it was ever to deliver; in each checkpoint */
    struct log_pos mark;  /* the checkpoint that is durable */
    struct log_pos far;   /* transactional: the checkpoint on the far side */
    bool           far_due;
    uint64_t       mark_us, mark_delivered, next_mark_delivered;

    /* The commit in flight. */
    _Atomic bool          commit_done;
    bool                  committing, commit_is_mark;
    struct log_pos        next_mark;
    struct log_req        req;
    struct log_write      write;
    struct log_check      check;
    struct log_new_event *events;
    struct buf            text;
    struct queue          committed;
    uint32_t              commit_count;
};

/* deliver_window.c */
void         deliveri_push(struct queue *q, struct item *it);
struct item *deliveri_pop(struct queue *q);
struct lane *deliveri_lane(struct deliver *d, struct slice stream, bool make);
bool         deliveri_has_room(const struct deliver *d, uint64_t bytes);
uint64_t     deliveri_item_bytes(const struct log_event *ev);
/* Copies the event; the item stands at the end of its lane, unless it is to be parked. */
int deliveri_admit(struct deliver *d, const struct log_event *ev, enum admit how, struct item **out,
                   struct err *err);
void deliveri_make_ready(struct deliver *d, struct lane *lane);
/* Out of the window, and freed; its lane too where nothing needs it. */
void deliveri_drop(struct deliver *d, struct item *it);
void deliveri_leave_lane(struct deliver *d, struct item *it);
void deliveri_lane_settle(struct deliver *d, struct lane *lane);
void deliveri_clear(struct deliver *d, bool lanes);
void deliveri_ready_again(struct deliver *d);
/* Everything up to here is done; with `flying`, or is with the driver. */
struct log_pos deliveri_done_upto(const struct deliver *d, bool flying);

/* deliver_parked.c */
int  deliveri_park(struct deliver *d, struct item *it, struct err *err);
void deliveri_unpark(struct deliver *d, struct item *it, enum how how);
int  deliveri_load_parked(struct deliver *d, struct err *err);
int  deliveri_replay_read(struct deliver *d, bool *progress, struct err *err);
int  deliveri_command(struct deliver *d, const struct command *c);
void deliveri_replay_refused(struct deliver *d, struct item *it);
void deliveri_write_record(struct deliver *d, const struct item *it);
void deliveri_recorded(struct deliver *d, struct item *it, uint64_t version);

/* deliver.c */
/* Of a resolved link the position that counts is where the link stands. */
void deliveri_place(struct log_event *ev);

/* deliver_mark.c */
int  deliveri_load_mark(struct deliver *d, struct err *err);
bool deliveri_mark_due(const struct deliver *d);
int  deliveri_commit_mark(struct deliver *d, struct log_pos pos, struct err *err);
int  deliveri_commit_records(struct deliver *d, struct err *err);
/* After the commit: takes over what is durable now, or says what went wrong. */
int deliveri_committed(struct deliver *d, struct err *err);

#endif
