/* What the files of the consumer groups share. The lock covers all of it but what is marked. */
#ifndef OX_CORE_GROUP_INT_H
#define OX_CORE_GROUP_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "core/group.h"

#define GROUPI_MAGIC 0x47727073u
#define GROUPI_BUCKETS 1024u
#define GROUPI_RECORDS_MAX 100u /* parked events in one commit */
#define GROUPI_STREAM_MAX (LOG_NAME_MAX + 1)
#define GROUPI_SETTINGS_MAX 16384u           /* bytes of a group's settings as JSON */
#define GROUPI_KEPT_MAX (UINT64_C(16) << 20) /* bytes of events that are kept until they go */
#define GROUPI_PARKED_STREAMS_MAX 100000u    /* park_behind: streams of which something is parked */

struct item;
struct lane;
struct member;

enum item_state {
    ITEM_BLOCKED, /* not the first of its lanes */
    ITEM_READY,   /* in its bucket */
    ITEM_OUT,     /* with `member` */
    ITEM_PARKING, /* its record is to be written; in no lane */
};

struct item_list {
    struct item *head, *tail;
    uint32_t     count;
};

/* A place in a lane. */
struct seat {
    struct lane *lane; /* NULL: in none */
    struct item *next; /* in that lane */
};

/* An event that is read and not settled: what is needed to give it, and to read it again. */
struct item {
    struct item    *prev, *next;     /* in `live` or `again`, in the order of reading */
    struct item    *q_prev, *q_next; /* in its bucket, with its member, or in `parking` */
    struct seat     seats[2];        /* by stream; by correlation */
    enum item_state state;
    uint32_t        bucket, attempts; /* attempts that failed */
    bool            touched;          /* was handed out, or has to be named by a checkpoint */
    bool            recording;        /* parking: its record is in the commit in flight */
    bool            replay;           /* stands in the parked stream as `parked_version` */
    uint64_t        parked_version;
    struct log_pos  pos;
    uint64_t        version;
    struct ox_id    id;
    int64_t         time_us;
    uint64_t        out_us;
    struct member  *member;
    char           *reason; /* parking; NULL for want of memory */
    uint8_t        *kept;   /* a copy of the event until it goes out first; NULL: read it */
    uint32_t        kept_bytes;
    uint8_t         name_len;
    char            name[]; /* the stream's */
};

/* Events of one stream, or with one correlation id, of which the first may go. */
struct lane {
    struct lane *next; /* in its bucket of the table */
    uint64_t     hash;
    struct item *head, *tail;
    uint64_t     open; /* park_behind: parked events of the stream */
    uint64_t     pass; /* the replay in which one of them was parked again */
    uint16_t     len;
    uint8_t      which; /* the number of the seats */
    char         key[];
};

/* Where events wait for a member: one for all, or those that are pinned to one member together. */
struct bucket {
    struct item_list ready;
    struct member   *owner;
    struct bucket   *prev, *next; /* of the owner's that have something ready */
    bool             listed;
};

struct member {
    uint32_t                 magic;
    struct groups           *groups;
    struct group            *group; /* NULL: it was ended */
    struct member           *prev, *next;
    struct group_member_conf conf;
    char                     name[GROUP_MEMBER_NAME_MAX + 1], from[GROUP_MEMBER_NAME_MAX + 1];
    uint32_t                 want;
    struct item_list         out; /* in the order of handing out */
    struct bucket           *ready_head, *ready_tail;
    uint32_t                 buckets;
    bool                     unflushed;
    bool                     stalled; /* until group_want */
    uint64_t                 delivered, acked, joined_us;
};

/* What a checkpoint says; the numbers are versions or positions (group.by_version). */
struct mark {
    uint64_t       created; /* version of the group's creation in the configuration */
    struct log_pos done;
    uint64_t       next;        /* number of the first event that is not looked at */
    uint64_t       parked_from; /* records from here on are parked */
    uint64_t       start; /* where the group began, for ever: moved events before it are its own */
};

struct group {
    struct groups        *groups;
    struct group         *next;
    char                  source[GROUPI_STREAM_MAX], name[GROUP_NAME_MAX + 1];
    char                  mark_stream[GROUPI_STREAM_MAX], parked_stream[GROUPI_STREAM_MAX];
    struct group_settings settings;
    struct buf            texts; /* of the settings */
    uint64_t              created;
    bool                  by_version, pinned, regexes[2];
    regex_t               regex[2]; /* of streams, of types */

    enum group_state state;
    char             error[ERR_TEXT_MAX];
    bool             loaded;
    bool             closing;   /* no commit is begun any more, and nobody joins */
    bool             paused;    /* nothing is handed out, nor written but what is wanted at once */
    uint64_t         resume_us; /* after a failure */
    uint32_t         failures;

    /* What is in memory. */
    struct item_list live, again; /* by the reader; out of the parked stream */
    struct item_list parking;
    uint64_t         kept_bytes;
    uint32_t         ready, out, retrying; /* of the items: so many are ready, out … */
    struct lane    **lanes;
    uint32_t         lane_count, lane_mask, open_lanes;
    struct bucket   *buckets; /* GROUPI_BUCKETS where pinned, else one */
    struct member   *members, *member_last, *turn;
    uint32_t         member_count;

    /* The task's own: the readers. */
    struct log_iter *reader;
    bool             at_end;
    struct buf       scratch;

    uint64_t  next_number; /* what the reader gives next is not below it */
    uint64_t  touched;     /* the highest number of an event that was handed out or settled */
    uint64_t  read_from, read_events;
    uint64_t *pending; /* from the last life: to be read before the reader goes on */
    uint64_t *parked_pending;
    uint32_t  pending_count, pending_at, parked_pending_count, parked_pending_at;

    /* What is parked. */
    int64_t  parked_version;           /* of the last event in the stream */
    uint64_t parked_from, parked_upto; /* to be replayed: from … below upto */
    uint64_t pass;
    bool     pass_failed, pass_all;

    /* Counters. */
    uint64_t delivered, acked, retries, timeouts, skipped, settled;
    uint64_t rate_us, rate_settled, rate;

    /* The checkpoint. */
    int64_t        mark_version;
    struct mark    mark; /* that is durable */
    uint64_t       mark_us, mark_settled;
    bool           mark_wanted; /* at once */
    struct log_pos read_pos;    /* of the last event that was read */

    /* The commit in flight. */
    atomic_bool           commit_done;
    bool                  committing;
    struct mark           next_mark;
    uint64_t              next_mark_settled;
    struct log_req        req;
    struct log_write      writes[2];
    struct log_change     change;     /* what of the parked stream is not needed any more */
    uint64_t              parked_cut; /* the records below that are hidden */
    struct log_new_event *events;     /* GROUPI_RECORDS_MAX + 1 */
    struct buf            text;
    uint32_t              commit_count; /* of `parking`, from its head */
};

struct groups {
    uint32_t            magic;
    struct ox_env      *env;
    struct log         *log;
    struct ox_task     *task;
    struct log_listener listener;
    struct ox_lock      lock;
    atomic_bool         stopping;
    atomic_bool         listening; /* there are groups that want what the log gets */
    bool                stopped_said;
    struct ox_gate      stopped;
    uint64_t            now_us; /* of the step */

    struct group *list;
    uint32_t      count;

    /* The configuration. */
    int64_t config_version;

    /* Commands: one at a time. */
    struct group_command *commands, *command_last;
    bool                  refusing;
    struct group_command *running; /* the task's own, and what follows */
    bool                  committing;
    atomic_bool           commit_done;
    struct group         *subject; /* of the command */
    struct mark           first;   /* create */
    uint64_t              skip_upto;
    struct log_req        req;
    struct log_write      writes[2];
    struct log_change     changes[2];
    struct log_new_event  events[2];
    struct buf            text, text_2;
};

/* group_item.c: lists, lanes, what may go */

void         groupi_push(struct item_list *q, struct item *it, bool front);
void         groupi_take(struct item_list *q, struct item *it);
struct lane *groupi_lane(struct group *g, uint8_t which, struct slice key, bool make);
void         groupi_lane_settle(struct group *g, struct lane *lane);
void         groupi_lane_open(struct group *g, struct lane *lane, bool more);

/* How an event comes in. */
struct arrival {
    const struct log_event *event; /* of the source */
    struct slice            order_stream, correlation;
    bool                    touched, replay;
    uint64_t                parked_version;
};

/* E_NOMEM leaves nothing behind. */
int  groupi_admit(struct group *g, const struct arrival *a, struct err *err);
void groupi_ready(struct group *g, struct item *it, bool front);
void groupi_unready(struct group *g, struct item *it);
/* Out of its lanes; those behind it may go. */
void groupi_leave_lanes(struct group *g, struct item *it);
/* A checkpoint has to name it, or what comes after it. */
void     groupi_touch(struct group *g, struct item *it);
uint64_t groupi_number(const struct group *g, const struct item *it);
void     groupi_settle(struct group *g, struct item *it);
void     groupi_park(struct group *g, struct item *it, const char *reason, size_t len);
void     groupi_drop(struct group *g, struct item *it);
/* All that is in memory, and the lanes. */
void groupi_clear(struct group *g);

/* group_member.c: who does the work */

void groupi_take_back(struct group *g, struct item *it, bool failed, const char *why);
void groupi_timeouts(struct group *g, uint64_t *next_us);
/* Hands out at most `budget`; false: nothing more can go. Failures are of reading. */
int  groupi_hand_out(struct group *g, uint32_t budget, bool *more, struct err *err);
void groupi_end_members(struct group *g, const struct err *why);
void groupi_share_anew(struct group *g);
void groupi_bucket_list(struct group *g, struct bucket *b);
void groupi_bucket_unlist(struct bucket *b);

/* group_read.c: without the lock, but for what they admit */

/* Compiles the filter and says how the source is read. */
int  groupi_read_init(struct group *g, struct err *err);
void groupi_read_fini(struct group *g);
void groupi_read_close(struct group *g);
int  groupi_read(struct group *g, bool *progress, struct err *err);
int  groupi_replay_read(struct group *g, bool *progress, struct err *err);
/* The record as it is now; E_NOTFOUND: it is gone. */
int groupi_find(struct group *g, const struct item *it, struct log_iter **iter,
                struct log_event *out, struct err *err);
/* What a link points to; E_NOTFOUND: nothing that is there. */
int  groupi_resolve(struct group *g, const struct log_event *link, struct log_iter **iter,
                    struct log_event *out, struct err *err);
bool groupi_link_parse(struct slice data, struct slice *stream, uint64_t *version);
/* Versions of the parked stream that are to be skipped: of which streams they are. */
int
groupi_parked_streams(struct group *g, uint64_t from, uint64_t upto, bool open, struct err *err);

/* group_mark.c: what is in the log of a group */

int  groupi_load(struct group *g, struct err *err);
bool groupi_mark_due(const struct group *g);
int  groupi_commit(struct group *g, struct err *err);
int  groupi_committed(struct group *g, struct err *err);
void groupi_mark_write(struct buf *out, const struct group *g, const struct mark *m);
/* The last version of a stream, LOG_NO_STREAM where there is none. */
int groupi_head(struct groups *gs, const char *stream, int64_t *version, struct err *err);

/* group.c */

struct group *groupi_group(struct groups *gs, struct slice source, struct slice name);
void          groupi_wake(struct groups *gs);

/* group_set.c: the configuration, commands */

int           groupi_load_config(struct groups *gs, struct err *err);
bool          groupi_commands(struct groups *gs); /* one step of them; true: there is more */
void          groupi_refuse_commands(struct groups *gs);
struct group *groupi_new(struct groups *gs, struct slice source, struct slice name,
                         const struct group_settings *settings, uint64_t created, struct err *err);
void          groupi_free(struct group *g);

#endif
