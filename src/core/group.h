/*
 * Consumer groups: what a stream, a category, a type or all of the log holds,
 * shared out among the members of a group, each event until one of them says
 * that it is done with it. At least once: an event that is not acknowledged in
 * time goes out again, one that fails too often is parked with its reason.
 *
 * A group is (source, name). Sources: a stream's name, "$all", "$ce-CATEGORY",
 * "$et-TYPE". Strategies: with the pinned ones an event is handed out only when
 * the one before it in its stream (and with its correlation id) is settled, and
 * a stream stays with its member; so an event that fails holds up its own
 * stream and nothing else. With the others no order is promised.
 *
 * State is in the log: `$persistentSubscriptionConfig` has a change of the set
 * of groups in each event, `$persistentsubscription-SOURCE::NAME-checkpoint`
 * what is settled, and `…-parked` a link to each parked event. What is parked
 * and what that settles is one commit. What a crash leaves is the last
 * checkpoint: what was settled after it goes out again, nothing else does.
 *
 * Threads: all entries from any thread, but for group_close, which comes last.
 * The callbacks run on the groups' task or in one of the entries, with the
 * groups' lock held: they must only queue, wake, and call nothing here.
 */
#ifndef OX_CORE_GROUP_H
#define OX_CORE_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/id.h"
#include "base/json.h"
#include "base/pos.h"
#include "base/slice.h"
#include "log/log.h"

struct groups;
struct group_member;

#define GROUPS_MAX 1000           /* groups of a log */
#define GROUP_NAME_MAX 128        /* bytes of a group's name */
#define GROUP_MEMBERS_MAX 1000    /* of one group */
#define GROUP_BUFFER_MAX 5000     /* events with one member */
#define GROUP_HELD_MAX 20000      /* events of a group that are read and not settled */
#define GROUP_REASON_MAX 500      /* bytes of a reason that are kept */
#define GROUP_MEMBER_NAME_MAX 100 /* bytes */

#define GROUP_CONFIG_STREAM "$persistentSubscriptionConfig"

enum group_strategy {
    GROUP_SINGLE,      /* one member as long as it has room, then the next */
    GROUP_ROUND_ROBIN, /* each in its turn */
    GROUP_PINNED,      /* by stream */
    GROUP_CORRELATION, /* by "$correlationId" of the metadata; else by stream */
};

enum group_from {
    GROUP_BEGINNING,
    GROUP_END, /* what is appended after the group is made */
    GROUP_AT,  /* `at`, itself included */
};

/* Texts are the caller's in calls and the group's in answers. */
struct group_settings {
    enum group_strategy strategy;
    enum group_from     from;
    uint64_t            at; /* a version of the stream; for other sources a position */

    uint32_t message_timeout_ms;   /* 30,000; 0: none */
    uint32_t max_retry_count;      /* 10: more and it is parked */
    uint32_t checkpoint_after_ms;  /* 2,000 */
    uint32_t min_checkpoint_count; /* 10: settled events for a checkpoint at that time */
    uint32_t max_checkpoint_count; /* 1,000: so many bring one at once */
    uint32_t max_subscriber_count; /* 0: GROUP_MEMBERS_MAX */
    uint32_t live_buffer_size;     /* 500 */
    uint32_t read_batch_size;      /* 20 */
    uint32_t history_buffer_size;  /* 500: the larger of the two counts: events ready to go */

    bool resolve_links;    /* give what a link points to */
    bool deliver_links;    /* else: give links as they are; neither: pass them over */
    bool skip_moved;       /* each event once, through all moves of streams (docs/surgery.md) */
    bool extra_statistics; /* kept for those who ask for it */
    bool park_behind;      /* pinned: later events of a stream are parked behind a parked one */

    /* Which events of "$all"; every part that is given must hold. */
    struct slice prefix, category, type, type_prefix;
    struct slice stream_regex, type_regex; /* POSIX extended */
    bool         system;                   /* also streams whose names begin with '$' */
};

void group_settings_init(struct group_settings *s);

/*
 * What a JSON object names into `s`; its texts into `texts`, which lives as
 * long as `s`. E_SCHEMA, E_INVALID with the member's name.
 */
int group_settings_read(struct slice json, struct group_settings *s, struct buf *texts,
                        struct err *err);

/* Are the values within their limits, and do they fit together and the source? */
int group_settings_check(const struct group_settings *s, struct slice source, struct err *err);

/* The members of an object that is open. */
void group_settings_write(const struct group_settings *s, struct json_out *o);

/* "round-robin", …; and back, also KurrentDB's names. */
const char *group_strategy_name(enum group_strategy strategy);
bool        group_strategy_of(struct slice name, enum group_strategy *out);

/* the set */

/* Reads what groups there are and starts their task. */
int group_open(struct ox_env *env, struct log *log, struct groups **out, struct err *err);

/* Ends all members, writes the checkpoints. Every member must have left. NULL is fine. */
void group_close(struct groups *);

/* changing it */

enum group_verb {
    GROUP_CREATE, /* E_EXISTS */
    GROUP_UPDATE, /* E_NOTFOUND; source, start and filter must be as they are */
    GROUP_DELETE, /* E_NOTFOUND; its members are ended */
    GROUP_REPLAY, /* hands parked events out again, the oldest first; E_NOTFOUND: none is parked */
    GROUP_SKIP,   /* gives parked events up, the oldest first */
};

/* The caller's, and what it points at, until `done` was called. */
struct group_command {
    enum group_verb              verb;
    struct slice                 source, name;
    const struct group_settings *settings; /* create, update */
    uint64_t                     limit;    /* replay, skip: so many events at most; 0: all */
    void (*done)(struct group_command *);  /* on the groups' task, without the lock */
    void *arg;
    /* results; durable where rc is 0 (a replay's progress is at the next checkpoint) */
    int        rc;
    struct err err;
    uint64_t   count; /* replay, skip: how many */
    /* the groups' own */
    struct group_command *next;
    struct ox_gate       *gate;
};

/* Never blocks; `done` may come before this returns. */
void group_submit(struct groups *, struct group_command *);

/* The same, waiting; `done` must be NULL. Returns rc. */
int group_run(struct groups *, struct group_command *);

/* members */

/* A view, valid during the callback. */
struct group_event {
    const struct log_event *event;
    const struct log_event *link; /* resolve_links: what pointed to it; else NULL */
    uint32_t                retry_count;
};

struct group_member_conf {
    struct slice name;   /* for people; may be empty */
    struct slice from;   /* where it is: an address; may be empty */
    uint32_t     buffer; /* at most so many events with it; 0: 10 */
    bool         pull;   /* gets as many as group_want said, not as many as fit */
    void        *arg;
    /* False: no more until group_want is called, whatever would fit. */
    bool (*deliver)(void *arg, const struct group_event *);
    void (*flush)(void *arg);                        /* that is all for now */
    void (*ended)(void *arg, const struct err *why); /* the member got its last event */
};

/* E_NOTFOUND: no such group; E_LIMIT: too many members, or a buffer too large. */
int group_join(struct groups *, struct slice source, struct slice name,
               const struct group_member_conf *, struct group_member **out, struct err *err);

/* Gives its work back and frees it; no callback comes afterwards. Also after `ended`. NULL is fine.
 */
void group_leave(struct group_member *);

/* The member takes events again; pull: so many from now on, whatever was wanted before. */
void group_want(struct group_member *, uint32_t count);

/* Which event: by the position that it (or its link) has, or where that is 0 by its id. */
struct group_ref {
    struct log_pos pos;
    struct ox_id   id;
    bool           known; /* out: it was with the member */
};

/*
 * E_NOTFOUND where none of them is with the member: never delivered to it,
 * settled, or handed out again after its time; E_GONE: the member was ended.
 */
int group_ack(struct group_member *, struct group_ref *refs, uint32_t count, struct err *err);

enum group_action {
    GROUP_PARK,
    GROUP_RETRY,
    GROUP_DROP, /* skip: settled without being done */
    GROUP_STOP, /* give it back and end the member */
};

int group_nack(struct group_member *, struct group_ref *refs, uint32_t count,
               enum group_action action, struct slice reason, struct err *err);

/* looking */

enum group_state {
    GROUP_LOADING,
    GROUP_BEHIND, /* reading what is there */
    GROUP_LIVE,   /* all there was is read */
    GROUP_FAILED, /* hands nothing out: `error` says why */
};

struct group_member_info {
    struct slice name, from;
    uint32_t     buffer, in_flight;
    uint64_t     delivered, acked;
    bool         pull;
    uint64_t     joined_ms; /* ago */
};

struct group_info {
    struct slice                    source, name;
    const struct group_settings    *settings;
    enum group_state                state;
    const char                     *error; /* NULL: none */
    const struct group_member_info *members;
    uint32_t                        member_count;
    uint32_t                        in_flight; /* with members */
    uint32_t                        ready;     /* read and free to go */
    uint32_t                        waiting;   /* read, and behind another one of their stream */
    uint32_t                        retrying;  /* of those ready, that were out before */
    uint64_t                        delivered, acked, retries, timeouts, skipped;
    uint64_t                        settled_per_s;
    uint64_t                        parked; /* now */
    bool                            replaying;
    struct log_pos                  done;       /* everything wanted up to here is settled */
    struct log_pos                  checkpoint; /* the same, durably */
    uint64_t                        next;       /* number of the next event to be read */
    bool                            numbers_are_versions; /* of the stream; else positions */
    struct log_pos                  end;                  /* of the log */
    uint64_t                        lag_events; /* exact for streams, else by the average so far */
    uint64_t                        lag_positions;
    uint64_t                        lag_ms; /* age of the oldest event that is not settled */
};

typedef void group_info_fn(void *arg, const struct group_info *);

/* As a JSON object; `whole` with its members and settings. */
void group_info_write(const struct group_info *, bool whole, struct json_out *o);

/* Each group, or each of the source where it is not empty. */
void group_each(struct groups *, struct slice source, group_info_fn *, void *arg);

/* E_NOTFOUND. */
int group_get(struct groups *, struct slice source, struct slice name, group_info_fn *, void *arg,
              struct err *err);

/* One parked event: the link as it is in the parked stream, whose version is its number. */
typedef int group_parked_fn(void *arg, const struct log_event *link, struct err *err);

/* As a JSON object: number, and what the link's metadata says. */
void group_parked_write(const struct log_event *link, struct json_out *o);

/* Those with a number from `from` on, at most `limit`; `next`: where to go on, 0: that was all. */
int group_parked(struct groups *, struct slice source, struct slice name, uint64_t from,
                 uint32_t limit, group_parked_fn *, void *arg, uint64_t *next, struct err *err);

#endif
