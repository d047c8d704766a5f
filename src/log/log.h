/*
 * The log: one durable, ordered file of commits; every stream is a view of it.
 *
 * A commit is atomic over any number of streams and checks any number of
 * expected versions. It is acknowledged only after the commit point (journal.h)
 * covers it. Readers map the segments and never hold up the log's own task.
 *
 * Threads: log_submit, log_append, the reads and log_end may be called from any
 * thread; one iterator belongs to one thread at a time.
 */
#ifndef OX_LOG_LOG_H
#define OX_LOG_LOG_H

#include <regex.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/hist.h"
#include "base/id.h"
#include "base/pos.h"
#include "base/slice.h"
#include "base/subjects.h"

struct log;
struct ox_index_ops;
struct ox_journal_ops;

/* Limits of the format (docs/format.md). */
/* Streams of the program's own that no reader is given unless it asks (log_read.secret): neither
 * by name nor by position, nor through a link. */
#define LOG_SECRET_PREFIX "$user-"

#define LOG_NAME_MAX 255                    /* bytes of a stream's name */
#define LOG_TYPE_MAX 255                    /* bytes of an event's type */
#define LOG_EVENT_MAX (UINT64_C(16) << 20)  /* bytes of data plus metadata */
#define LOG_FRAME_MAX (UINT64_C(1) << 20)   /* bytes of a frame */
#define LOG_SEGMENT_MIN (UINT64_C(2) << 20) /* bytes of the smallest segment */

/* Expected versions. 0 and above: the number of the stream's last event. */
#define LOG_ANY (-2)
#define LOG_NO_STREAM (-1)
#define LOG_EXISTS (-4)

/* How long the events of a category stay readable; a stream's own metadata comes before it. */
struct log_retention {
    struct slice category;   /* the stream's name up to its first '-' */
    uint64_t     max_count;  /* 0: no bound */
    int64_t      max_age_us; /* of the event's own time; 0: no bound */
};

/* How the log is opened. Zero means the default for every number. */
struct log_conf {
    uint64_t segment_bytes;    /* 256 MiB; a multiple of 4096; fixed when the folder is made */
    uint64_t commit_bytes_max; /* 64 MiB */
    uint64_t memory_bytes_max; /* 18 MiB: what is not indexed yet; beyond it appends wait */
    uint64_t heads_bytes;      /* 48 MiB: cache of streams' heads */
    uint64_t queue_bytes_max; /* 64 MiB: appends waiting for their group; beyond it E_LIMIT/RETRY */
    uint64_t free_bytes_min;  /* 64 MiB: free disk below which appends are refused */
    uint64_t sync_delay_us;   /* 0: sync at once ("always"); else gathers larger groups */
    uint32_t recent_events;   /* 1,000,000: how many event ids are known for `any` */
    bool     read_only; /* no writes, no recovery that cuts; E_BUSY while somebody has it open */
    const struct log_retention  *retention; /* copied */
    uint32_t                     retention_count;
    struct ox_subjects          *subjects; /* keys; the caller's, longer than the log. NULL: none */
    const struct ox_index_ops   *index;    /* required */
    const struct ox_journal_ops *journal;  /* NULL: local */
};

/* What opening found and did. */
struct log_report {
    bool           created;
    bool           clean;  /* the last close was clean */
    struct log_pos end;    /* first free position */
    struct log_pos cut_at; /* where a torn tail was cut; 0: none */
    uint64_t       cut_bytes;
    uint64_t       replayed; /* events put into the index again */
    uint64_t       open_us;
};

/*
 * Opens or creates the log in folder `dir`. E_BUSY: another process has it;
 * E_FORMAT: another format version; E_DAMAGED: bytes below a position that was
 * durable are damaged (the text has the position). `report` may be NULL.
 */
int log_open(struct ox_env *env, const char *dir, const struct log_conf *conf,
             struct log_report *report, struct log **out, struct err *err);

/* Finishes what was submitted, writes the index, gives the folder up. NULL is fine. */
void log_close(struct log *log);

/* appending */

/* What an event is, in log_event.flags and log_new_event.flags. */
enum log_event_flags {
    LOG_JSON = 1, /* data is JSON (validated by whoever took it in) */
    LOG_LINK = 2, /* data is "version@stream", type "$>" */
    /* Data is as sealed under a subject's key: only read so with log_read.sealed, and appended so
     * by whoever copies an event under its id. */
    LOG_SEALED = 4,
    LOG_ERASED = 8, /* reading: was under a subject's key, which was shredded; data is empty */
};

/* Where an event got its place: the log writes it when it gives the place out. */
struct log_place {
    uint64_t version, pos;
};

/*
 * What is not known before the log gives places out: of an event that stands before it in the
 * commit, whose numbers the log writes into the text, which is the event's metadata, or its data.
 * At each offset the text has LOG_LATE_ROOM bytes for a number, of which the log takes back what
 * it does not need. UINT32_MAX: not wanted; `pos_at` is above `version_at`.
 */
#define LOG_LATE_ROOM 20u
struct log_late {
    const struct log_place *of;
    uint8_t                *text;
    bool                    data;
    uint32_t                version_at, pos_at;
};

struct log_new_event {
    struct ox_id id; /* zero: the log makes one */
    struct slice type, data, meta;
    int64_t      created_us; /* 0: the commit's time */
    uint32_t     flags;      /* enum log_event_flags */
    /* Whose data it is: then it is stored under the subject's key. Empty: nobody's. */
    struct slice           subject;
    struct log_place      *place; /* NULL: nobody asks */
    const struct log_late *late;  /* NULL: all of it is known */
};

struct log_write {
    struct slice                stream;
    int64_t                     expected;
    const struct log_new_event *events;
    uint32_t                    count;
    /* results */
    uint64_t first_version, last_version;
};

struct log_check {
    struct slice stream;
    int64_t      expected;
};

/* What a change sets; docs/streams.md has the rules. */
enum log_change_what {
    LOG_SET_TRUNCATE = 1,  /* hides the versions below `truncate`; never goes back */
    LOG_SET_DELETED = 2,   /* hides all there is; the next append brings the stream back */
    LOG_SET_TOMBSTONE = 4, /* the same for good: the stream takes no more events */
    LOG_SET_LIMITS = 8,    /* max_count and max_age_us, 0: no bound */
    LOG_SET_CLOSED = 16,   /* takes no more events, stays readable */
    LOG_SET_OPEN = 32,     /* takes events again */
    /* Closed by a move: the last event of its write in this commit is LOG_MOVED_TYPE. */
    LOG_SET_MOVED = 64,
    LOG_SET_UNMOVED = 128, /* neither moved nor routed any more */
    LOG_SET_ROUTED = 256,  /* moved, and its appends are copied on: it stays open */
    LOG_SET_FED = 512,     /* copies come to it from a routed stream */
    LOG_SET_UNFED = 1024,
    /* Of a stream that is not there: being filled by log_req.stage, hidden and closed to others. */
    LOG_SET_STAGED = 2048,
    LOG_SET_UNSTAGED = 4096, /* all of it is there: the stage's last commit */
};

/*
 * What holds for a stream from this commit on, after its own events in it. A stream may
 * be named once; it need not be there yet. Metadata written to "$$NAME" makes the change of NAME
 * by itself.
 */
struct log_change {
    struct slice stream;
    int64_t      expected;
    uint32_t     what;     /* enum log_change_what */
    uint64_t     truncate; /* a version; beyond the stream's end: the end */
    uint64_t     moved;    /* LOG_SET_MOVED without a write: 1 + the version that says where to */
    uint64_t     max_count;
    int64_t      max_age_us;
};

enum log_req_flags {
    LOG_QUIET = 1,      /* a reader's own state: wakes nobody (DESIGN rule 3) */
    LOG_BULK = 2,       /* takes at most 512 KiB of a group while anyone else waits */
    LOG_SYSTEM = 4,     /* may write streams whose names begin with '$' */
    LOG_MOVED_OK = 8,   /* may write streams that were moved or are routed: who moves them */
    LOG_GENTLE = 16,    /* with LOG_BULK: at most 1 MiB at once, and in no group that others are in
                           or wait behind, unless four such have gone before it */
    LOG_STAGED = 32,    /* all that it writes is in streams that its stage fills */
    LOG_FENCED_OK = 64, /* no fence holds it back: who fences */
};

/*
 * One commit. The caller owns all of it, and what it points at, until `done`
 * is called or, with done NULL, log_append returns. The same stream may be in
 * `writes` once only.
 */
struct log_req {
    struct log_write        *writes;
    uint32_t                 write_count;
    const struct log_check  *checks;
    uint32_t                 check_count;
    const struct log_change *changes; /* may be all that the commit has */
    uint32_t                 change_count;
    /* In which order the events stand in the log: for each event the number of its write.
     * NULL: write by write. Every write's events in their own order, in any case. */
    const uint32_t         *order;
    uint32_t                flags; /* enum log_req_flags */
    const struct log_stage *stage; /* of the streams that it may fill; NULL: none */
    uint32_t asked;   /* of a router's commit: so many of its writes are the caller's; else 0 */
    int64_t  time_us; /* 0: now; else the commit's time where it is not below the last one's */
    /* Called once, on one of the log's tasks: must not block or call log_append. */
    void (*done)(struct log_req *);
    void *arg;
    /* results */
    int            rc; /* 0 or err.code */
    struct err     err;
    struct log_pos pos;        /* of the first event; of the first change where there is none */
    struct log_pos last;       /* of the last event; likewise */
    struct log_pos end;        /* first position after the commit */
    bool           idempotent; /* was there already; nothing was written */
    /* with E_WRONG_VERSION: which stream, and what it has (LOG_NO_STREAM: none); E_GONE and
     * E_MOVED: which */
    struct slice wrong_stream;
    int64_t      wrong_expected, wrong_actual;
    uint32_t     gone_flags; /* with each of them: enum log_stream_flags */
    /* the log's own */
    struct log_own    *own; /* the changes, with those that metadata makes */
    uint32_t           own_count;
    uint32_t           routings; /* how often it was with the router */
    uint32_t           subjects; /* events with one */
    struct log_sealed *sealed;
    struct log_req    *next;
    uint64_t           bytes;
    uint64_t           submitted_us; /* 0: it is not looked at how long it takes */
    uint64_t           fp[2];        /* of the first write's stream */
    struct ox_gate    *gate;
    struct log_req    *wake[2];
};

/* Never blocks. A refusal is answered through `done` too (maybe before this returns). */
void log_submit(struct log *log, struct log_req *req);

/* Submits and waits; `done` must be NULL. Returns req->rc. */
int log_append(struct log *log, struct log_req *req);

/*
 * Is this a name that a user may give a stream? E_INVALID with the reason. `system` allows
 * names that begin with '$' as well, but never the native reads' ($ce-…, $et-…, $streams).
 */
int log_name_check(struct slice name, bool system, struct err *err);

/* reading */

enum log_kind {
    LOG_KIND_EVENT = 1,
};

/* The link through which a resolved event was read. */
struct log_link {
    struct log_pos pos;
    uint64_t       version;
    struct slice   stream; /* empty: no link */
    struct slice   meta;
    struct ox_id   id;
    int64_t        created_us;
};

/* A view; its slices are valid until the iterator's next call. */
struct log_event {
    struct log_pos  pos, commit;
    uint64_t        stream_id, version;
    struct slice    stream, type, data, meta;
    struct slice    subject; /* where the data was under a key; empty: it was not */
    struct ox_id    id;
    int64_t         created_us; /* the event's own */
    int64_t         time_us;    /* the commit's */
    uint32_t        flags;      /* enum log_event_flags */
    bool            quiet;      /* in a commit with LOG_QUIET */
    bool            dangling;   /* resolve: a link whose event cannot be read */
    struct log_link link;       /* resolve: the link that led to this event */
};

/* Which events of $all; every part that is given must hold. Zeroed: all but quiet ones. */
struct log_filter {
    struct slice   prefix;   /* of the stream's name */
    struct slice   category; /* the stream's name up to its first '-' */
    struct slice   type;     /* the whole type */
    struct slice   type_prefix;
    const regex_t *stream_regex; /* POSIX extended; the caller's, kept while the iterator lives */
    const regex_t *type_regex;
    bool           system; /* also streams whose names begin with '$' */
    bool           quiet;  /* also quiet commits */
};

struct log_read {
    /*
     * Empty: $all. Native reads, by position as $all is: "$ce-NAME" the events of a category,
     * "$et-TYPE" those of a type, "$streams" for each stream a link to its version 0.
     */
    struct slice      stream;
    uint64_t          from; /* a version, or a position; backwards UINT64_MAX: the end */
    bool              backwards;
    struct log_pos    at;      /* time travel: nothing after this position; 0: no bound */
    struct log_pos    floor;   /* $all backwards: nothing before this position */
    struct log_filter filter;  /* by position only */
    bool              resolve; /* follow links, one step; one that leads nowhere is given itself */
    bool              skip_links; /* instead: links are passed over */
    /*
     * Each event once, through all moves of streams (docs/surgery.md). A copy is passed over where
     * one of its first originals stands at or after `start` (a position; of one stream a version)
     * and is wanted; what a move hid is given where it stands, what is scavenged of that by its
     * copy, at the original's position. Marks are given only where types are asked for.
     */
    bool     skip_moved;
    uint64_t start;
    bool     sealed;   /* what is under a subject's key is given as it is stored */
    bool     raw;      /* also what is hidden (truncated, deleted, too old) and on the disk */
    bool     secret;   /* also streams that begin with LOG_SECRET_PREFIX */
    uint64_t patience; /* bytes to look through in one call before E_MORE; 0: as many as it takes */
    struct log_window *window; /* of a stream's reader: see log_window_new; NULL: none */
};

struct log_iter;

/*
 * For who reads many streams that stand near each other in the log, one after another: a window of
 * 64 KiB, lent to their readers, saves them the first touch of mapped pages. One reader at a time
 * and one thread; an event is valid until the next one that is read through the same window.
 */
int  log_window_new(struct log_window **out, struct err *err);
void log_window_free(struct log_window *); /* NULL is fine */

/*
 * E_NOTFOUND where the stream is not there or deleted, E_GONE where it is so for good (never by
 * position). Forwards, `from` is the first wanted; backwards, the last wanted, itself included.
 */
int
log_iter_open(struct log *log, const struct log_read *read, struct log_iter **out, struct err *err);

/*
 * E_END: nothing now; forwards it may be asked again later and goes on with no gap. E_MORE:
 * patience ran out, ask again. E_NOTFOUND, E_GONE: the stream was deleted meanwhile.
 */
int log_iter_next(struct log_iter *it, struct log_event *out, struct err *err);

/*
 * The event at this position, as an iterator of $all would give it (its filter, visibility and
 * links included); the iterator stays where it is. E_NOTFOUND: it is not for this reader; E_GONE:
 * there is no event there any more.
 */
int log_iter_at(struct log_iter *it, struct log_pos pos, struct log_event *out, struct err *err);

/* $all: the position to read on from: after the last event given or passed by the filter. */
struct log_pos log_iter_pos(const struct log_iter *it);

void log_iter_close(struct log_iter *it); /* NULL is fine */

/* First position after the last durable commit; the end of what readers see. */
struct log_pos log_end(struct log *log);

/* The last position whose commit's time is <= us; 0 where there is none. */
int log_pos_of_time(struct log *log, int64_t us, struct log_pos *out, struct err *err);

enum log_stream_flags {
    LOG_STREAM_DELETED = 1,
    LOG_STREAM_TOMBSTONE = 2,
    LOG_STREAM_MOVED = 4,
    LOG_STREAM_STAGED = 8,
    LOG_STREAM_CLOSED = 16,
    LOG_STREAM_ROUTED = 32,
    LOG_STREAM_FED = 64, /* copies come to it from a routed stream */
};

struct log_stream {
    struct slice   name; /* valid during the callback, or as given */
    uint64_t       id;
    uint64_t       head;                /* version of the last event */
    uint64_t       first;               /* first readable version; head + 1: none is */
    struct log_pos first_pos, last_pos; /* first_pos: 0 in a listing, or where none is readable */
    uint32_t       flags;               /* enum log_stream_flags */
    uint64_t       moved;               /* with LOG_STREAM_MOVED: the version that says where to */
    uint64_t       max_count;           /* limits that hold, the category's included; 0: none */
    int64_t        max_age_us;
};

/*
 * E_NOTFOUND where there is none or it is deleted, E_GONE where for good: then too *out has the
 * head (UINT64_MAX: there never was an event) and the flags.
 */
int log_stream_info(struct log *log, struct slice name, struct log_stream *out, struct err *err);
/* The same without first_pos, which costs as much again. */
int log_stream_brief(struct log *log, struct slice name, struct log_stream *out, struct err *err);
/* Both at once, at little more than the cost of one: a reader of a stream, neither `raw` nor with
 * `skip_moved`, and what log_stream_brief says of it then; info->name is the reader's. */
int log_iter_open_stream(struct log *log, const struct log_read *read, struct log_stream *info,
                         struct log_iter **out, struct err *err);

/* moves (docs/surgery.md) */

#define LOG_MOVED_TYPE "StreamMovedTo"

/*
 * Adds the names that a moved stream's events go to, as a JSON array. E_STATE: it was not moved;
 * E_NOTFOUND, E_GONE: it, or the event that says so, is not there.
 */
int log_moved_to(struct log *log, struct slice stream, struct buf *array, struct err *err);

/*
 * The stream that takes the events of `stream` now, through at most LOG_HOPS_MAX moves; itself
 * where it was not moved or is not there. E_MOVED: *name went to several, the text names them.
 */
#define LOG_HOPS_MAX 16
int log_moved_follow(struct log *log, struct slice stream, struct buf *name, struct err *err);

/*
 * Routing: what is appended to a stream that is routed, or fed by one, has to stand elsewhere too,
 * in the same commit. The log knows that it has to, and not where: it gives such a commit to the
 * router, on a task of its own, and takes the router's in its place. Where one of the streams
 * that the router looked at has changed meanwhile, the router is asked again.
 */
struct log_router {
    /*
     * Fills `out`: in's writes in their order, each with in's events and maybe more behind them,
     * then writes of its own; all that `in` checks and changes, and checks for all that it looked
     * at. The caller's events come first in the order. What `out` points at is the router's until
     * `release`, or in's. An error is in's answer.
     */
    int (*expand)(void *arg, const struct log_req *in, struct log_req *out, void **hold,
                  struct err *err);
    void (*release)(void *arg, void *hold); /* any thread */
    void *arg;
};

/* Once, after opening; until the log is closed. Without one such appends are refused (E_STATE). */
int log_set_router(struct log *log, const struct log_router *router, struct err *err);

/*
 * A move too large for one commit. What is committed with LOG_STAGED to the streams of a stage is
 * hidden, and who reads by position waits in front of it, until a commit sets LOG_SET_UNSTAGED. A
 * stage that is closed before that, or whose process ends, has never been: the streams are not
 * there. log_stage_add: E_EXISTS where another stage has the stream.
 */
struct log_stage;
int  log_stage_open(struct log *log, struct log_stage **out, struct err *err);
int  log_stage_add(struct log *log, struct log_stage *s, struct slice stream, struct err *err);
void log_stage_close(struct log *log, struct log_stage *s); /* NULL is fine */

/*
 * Holds others' appends to these streams back for at most `us` and LOG_FENCE_MAX: they wait, and
 * are then judged as ever. When it returns, all that came before is durable.
 */
#define LOG_FENCE_MAX UINT64_C(1000000)
struct log_fence;
int  log_fence(struct log *log, const struct slice *streams, uint32_t count, uint64_t us,
               struct log_fence **out, struct err *err);
void log_unfence(struct log *log, struct log_fence *f); /* NULL is fine */

/*
 * In byte order of the names, those with the prefix and after `after`, deleted ones left out;
 * stop by a non-zero return.
 */
typedef int log_stream_fn(void *arg, const struct log_stream *stream, struct err *err);
int         log_streams(struct log *log, struct slice prefix, struct slice after, log_stream_fn *fn,
                        void *arg, struct err *err);
/* The same, and those that are deleted, gone for good, or never had an event (head + 1 is 0). */
int log_streams_all(struct log *log, struct slice prefix, struct slice after, log_stream_fn *fn,
                    void *arg, struct err *err);

/* Replaces the retention of the categories: it holds for every read from now on. */
int log_set_retention(struct log *log, const struct log_retention *list, uint32_t count,
                      struct err *err);

/* metadata (events of type $metadata in "$$NAME") */

#define LOG_META_TYPE "$metadata"
#define LOG_META_MAX (UINT64_C(64) << 10) /* bytes */

/* What the engine knows of a stream's metadata; the rest is the user's. */
struct log_meta {
    bool         has_truncate, deleted; /* deleted: $tb is 2^63 - 1 */
    uint64_t     truncate, max_count;   /* max_count 0: none */
    int64_t      max_age_us;            /* 0: none */
    uint64_t     cache_s;               /* $cacheControl; 0: none */
    struct slice acl;                   /* raw JSON object; empty: none */
};

/* E_INVALID with what is wrong: no JSON object, a value out of its range, too long. */
int log_meta_parse(struct slice json, struct log_meta *out, struct err *err);

/* waking readers */

/*
 * Told after commits become readable (quiet ones excepted). Called on one of
 * the log's tasks, maybe often: it must only wake somebody. The caller owns
 * the memory until log_unlisten has returned.
 */
struct log_listener {
    void (*wake)(struct log_listener *);
    void                *arg;
    struct log_listener *next, *prev; /* the log's own */
};

void log_listen(struct log *log, struct log_listener *listener);
void log_unlisten(struct log *log, struct log_listener *listener);

/* looking after it */

struct log_info {
    struct ox_id   id;
    uint32_t       format;
    uint64_t       segment_bytes;
    uint32_t       segments;
    uint64_t       disk_bytes;
    struct log_pos first, end, indexed;
    uint64_t       streams; /* that ever were */
    int64_t        last_time_us;
    bool           failed; /* takes no writes any more; why is in failed_text */
    char           failed_text[ERR_TEXT_MAX];
    /* since opening */
    uint64_t         commits, events, groups, appended_bytes, syncs;
    uint64_t         memory_bytes; /* of what is not indexed yet */
    struct hist_view sync_us, group_commits;
};

void log_get_info(struct log *log, struct log_info *out);

/*
 * How long appends that are not bulk waited for their answer, since opening: their number in each
 * bucket, of which log_latency_us says the upper bound.
 */
#define LOG_LATENCY_BUCKETS 80
void     log_latency(struct log *log, uint64_t counts[LOG_LATENCY_BUCKETS]);
uint64_t log_latency_us(unsigned bucket);

/* Reads every byte below the end: `fn` is told how far, and may stop by a non-zero return. */
typedef int log_progress_fn(void *arg, uint64_t done_bytes, uint64_t all_bytes);

struct log_counts {
    uint64_t segments, commits, frames, records, events, bytes;
    uint64_t index_mismatches;
};

/* E_DAMAGED with the position of the first damage; also holds the index against the log. */
int log_verify(struct log *log, log_progress_fn *fn, void *arg, struct log_counts *out,
               struct err *err);

/* scavenging: gives the disk back that nobody can read any more (docs/scavenge.md) */

struct log_scavenge_conf {
    uint64_t rate;       /* bytes per second, read or written; 0: as the foreground allows */
    uint32_t min_share;  /* percent of a segment that has to be freed; 0: 10 */
    int64_t  min_age_us; /* segments with younger commits stay as they are; 0: none */
    bool     dry_run;    /* only count */
};

enum log_scavenge_state {
    LOG_SCAVENGE_NONE, /* not since opening */
    LOG_SCAVENGE_RUNNING,
    LOG_SCAVENGE_DONE,
    LOG_SCAVENGE_STOPPED,
    LOG_SCAVENGE_FAILED, /* why is in `error` */
};

struct log_scavenge {
    enum log_scavenge_state state;
    bool                    dry_run;
    uint64_t                run;                 /* how many there were, this one included */
    uint64_t                segments, all_bytes; /* to be looked at, as the run began */
    uint64_t                examined, examined_bytes;
    uint64_t                rewritten;       /* dry run: that would be, and so on below */
    uint64_t                records, events; /* that are gone; events are among the records */
    uint64_t                freed_bytes, written_bytes;
    uint64_t                bytes_per_s; /* examined, over the whole run */
    struct log_pos          pos;         /* how far it is */
    struct log_pos          resumed_at;  /* where the run before was cut short; 0: from the front */
    int64_t                 started_us, ended_us;
    int                     rc; /* of a failed one */
    char                    error[ERR_TEXT_MAX];
};

/*
 * Begins a run and returns; after one that was stopped or ended with its process it goes on where
 * that one was. E_STATE: one is running; E_RDONLY; E_INVALID.
 */
int log_scavenge_start(struct log *log, const struct log_scavenge_conf *conf, struct err *err);
/* Asks the run to end; what it has done stays. */
void log_scavenge_stop(struct log *log);
/* Of the run, or the last one. */
void        log_scavenge_status(struct log *log, struct log_scavenge *out);
const char *log_scavenge_state_name(enum log_scavenge_state state);
/* An object of JSON. */
void log_scavenge_json(const struct log_scavenge *s, struct buf *out);

/* Offline: throws the index of the folder away and makes it again from the log. */
int log_reindex(struct ox_env *env, const char *dir, const struct log_conf *conf,
                struct log_report *report, struct err *err);

#endif
