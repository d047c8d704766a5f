/* Inside src/migrate/stream only. */
#ifndef OX_MIGRATE_STREAM_INT_H
#define OX_MIGRATE_STREAM_INT_H

#include <regex.h>
#include <stdatomic.h>

#include "base/lock.h"
#include "base/must.h"
#include "base/template.h"
#include "migrate/stream/stream.h"
#include "transform/transform.h"

#define STREAMI_PARTS_MAX 1000 /* streams of a join's target, targets of a stream */
#define STREAMI_LIST_MAX 10000 /* streams that a spec lists */
#define STREAMI_WORKERS_MAX 16
#define STREAMI_WINDOWS 2 /* of a worker; a join's further sources are read without */
/* Bytes of a commit that is one stream's whole move; a larger one is made in stages. */
#define STREAMI_MOVE_MAX (UINT64_C(48) << 20)
#define STREAMI_EVENT_OVERHEAD 160u /* bytes of a record beside names, data and metadata */
#define STREAMI_MOVE_USUAL (UINT64_C(16) << 20)
#define STREAMI_MOVE_MIN (UINT64_C(64) << 10)
#define STREAMI_STAGE_BYTES (UINT64_C(512) << 10) /* of a stage, at most */
#define STREAMI_READ_MAX (UINT64_C(96) << 20)     /* memory of a move in one commit */

/* memory that is given back all at once */

struct streami_block;

struct streami_arena {
    struct streami_block *blocks; /* the newest first */
    struct streami_block *spare;
    uint64_t              bytes; /* handed out */
};

void *streami_alloc(struct streami_arena *, size_t len); /* NULL: no memory. Not cleared */
/* A copy; .data NULL: no memory. */
struct slice streami_keep(struct streami_arena *, struct slice);
/* Room for one more in a list of `size` each; false: no memory. */
bool streami_grow(struct streami_arena *, void *list, uint32_t count, uint32_t *room, size_t size);
void streami_reset(struct streami_arena *); /* keeps a few blocks */
void streami_arena_fini(struct streami_arena *);

/* spec.c */

enum streami_kind { STREAMI_COPY, STREAMI_REWRITE, STREAMI_SPLIT, STREAMI_JOIN };

struct streami_spec {
    enum streami_kind kind;
    const char       *word; /* what it is called: "copy", …, "link" */
    bool              link, route;
    char              name[STREAM_NAME_MAX + 1];
    /* Which streams: sets are gone through one after the other. */
    char                  **sets; /* names, prefixes or categories */
    uint32_t                set_count;
    bool                    listed, prefixes, categories; /* what `sets` are */
    regex_t                 regex;
    bool                    has_regex;
    struct template        *to; /* NULL: none */
    struct transform       *transform;
    struct transform_where *where; /* the events that it is about; NULL: all */
    char                   *reason;
    uint64_t                max_p99_ms, max_rate, keep_s; /* 0: none; UINT64_MAX: for ever */
    uint64_t                commit_bytes;                 /* what is larger is moved in stages */
    uint32_t                workers;
    struct buf              text; /* as it is kept */
};

int  streami_spec_new(struct slice name, struct slice json, struct streami_spec **, struct err *);
void streami_spec_free(struct streami_spec *); /* NULL is fine */

/* Is it one of those that the set's enumeration is about? */
bool streami_wanted(const struct streami_spec *, uint32_t set, struct slice stream);
/* The default target of a stream, into `out`. E_SCHEMA, ERR_DATA where there is none. */
int streami_target(const struct streami_spec *, struct slice stream, struct buf *out, struct err *);

/* copied.c: `$copiedFrom` */

/*
 * What stands for one original, or for those that it carries on: elements with commas. *own: the
 * event's metadata without that member, as it is or in `rest`.
 */
int streami_origin(const struct log_event *, struct buf *out, struct buf *rest, struct slice *own,
                   struct err *);
/* The copy's metadata: `meta` without the member, and `list` in it as the last one. */
int streami_copied(struct slice meta, struct slice list, struct buf *out, struct err *);

/* The same in two steps: what the metadata carries on (false: nothing, it is no copy) … */
bool streami_carried(struct slice meta, struct buf *out, struct buf *rest, struct slice *own);
/* … or what stands for an event that has no place yet: offsets of room for the two numbers. */
int streami_origin_late(struct slice stream, const struct log_new_event *, struct buf *out,
                        uint32_t *version_at, uint32_t *pos_at, struct err *);
/* Of a copy that a routed move changed: by the original's id, for its version is not known yet. */
struct ox_id streami_route_id(const struct streami_spec *, struct slice stream,
                              const struct ox_id *of, uint32_t ordinal, struct buf *scratch);
/* Of the link that stands in the owner for an event. */
struct ox_id streami_link_id(struct slice owner, const struct ox_id *of, struct buf *scratch);

/* route_meta.c: `$routed` in a stream's metadata */

struct streami_names {
    struct slice *list;
    uint32_t      count, room;
};

struct streami_route {
    struct slice         stream;  /* of the metadata; empty: the name is too long for one */
    int64_t              version; /* of the metadata, for those who change it */
    struct slice         doc;     /* the rest of it; empty: there is none */
    struct slice         surgery; /* that routed it; empty: none did */
    struct streami_names to, from;
};

int streami_meta_name(struct streami_arena *, struct slice stream, struct slice *out, struct err *);
int streami_route_read(struct log *, struct streami_arena *, struct slice stream,
                       struct streami_route *, struct err *);
/* A document without the member; and without a deletion, but where it is `asked` for now. */
int streami_route_doc(struct streami_arena *, struct slice raw, bool asked, struct slice *doc,
                      struct err *);
int streami_route_event(struct streami_arena *, const struct streami_route *, struct slice doc,
                        struct log_new_event *out, struct err *);
int
streami_route_add(struct streami_arena *, struct streami_names *, struct slice name, struct err *);
bool streami_route_has(const struct streami_names *, struct slice name);
void streami_route_drop(struct streami_names *, struct slice name);

/* move.c: one stream's move (a join's: of all that go into one target), in memory */

struct streami_source {
    struct slice         stream;
    uint64_t             first, head; /* readable versions; head is what the commit checks */
    uint64_t             from;        /* what is to be read now: from here to the head */
    uint64_t             events;
    uint32_t             ordinal; /* of the next output */
    bool                 invalid; /* what consumers saw has changed */
    struct log_window   *window;  /* that it is read through; NULL: none */
    struct log_iter     *begun;   /* behind its first event, which is `begin`; NULL */
    struct log_event     begin;
    struct streami_route route; /* of a routed move */
};

struct streami_out {
    struct log_new_event event;
    uint32_t             target;
    uint64_t             pos; /* of the first original, to merge by */
};

struct streami_target_of {
    struct slice         stream;
    uint32_t             count; /* copies */
    struct streami_route route; /* of a routed move */
};

enum streami_verdict {
    STREAMI_MOVE,    /* to be committed */
    STREAMI_DONE,    /* was moved by this surgery */
    STREAMI_SKIP,    /* is none of its: moved by somebody else, a target, gone */
    STREAMI_REFUSED, /* why is in err */
    STREAMI_STAGES,  /* too large for one commit */
};

struct streami_move {
    struct streami_move      *next;
    struct streami_source    *sources; /* these lists are in the arena */
    uint32_t                  source_count, source_room;
    struct streami_target_of *targets;
    uint32_t                  target_count, target_room;
    struct streami_out       *outs;
    uint32_t                  out_count, out_room;
    uint64_t                  events, bytes, copies;
    uint64_t                  staged; /* where its first stage stands; 0: none */
    bool                      routed; /* up to here: its copies stand all over its targets */
    uint32_t                  losses;
};

/* What is known of an input while its stream is read. */
struct streami_input {
    struct slice list; /* for `$copiedFrom` */
    struct ox_id id;
    int64_t      created_us;
    uint64_t     version, pos;
    uint32_t     flags; /* enum log_event_flags */
};

struct streami_reader;

/* What was read so far is done with: its outputs may be forgotten. */
typedef int streami_spill_fn(void *arg, struct streami_reader *, struct err *);

struct streami_reader {
    struct log                *log;
    const struct streami_spec *spec;
    struct transform_run      *run; /* NULL: no transform */
    struct streami_arena      *arena;
    struct streami_arena      *bulk;  /* of inputs and outputs, reset after each spill */
    bool                       audit; /* the sources are given, hidden or not */
    streami_spill_fn          *spill; /* NULL: all of the move is held in memory */
    void                      *spill_arg;
    uint64_t                   spill_bytes;
    /* the streams that are being read */
    struct streami_move  *move;
    uint32_t              source;
    struct streami_input *inputs; /* the last ones */
    uint32_t              input_count, input_room;
    uint64_t              input_base; /* how many are not in the list any more */
    uint64_t              spilled;    /* bytes of the move */
    uint64_t              looked;     /* events that were read */
    uint64_t              named;      /* those that the surgery's condition names */
    uint32_t              target;     /* the default one's number, once it is known */
    bool                  has_target;
    bool                  changed, too_large;
    bool                  again; /* reading on; the stream was rewritten meanwhile: stale */
    bool                  stale;
    struct streami_memo  *memo; /* streams that were moved as one of several; NULL */
    struct log_window    *windows[STREAMI_WINDOWS]; /* of the first sources; NULL: none */
    struct buf            covered; /* a bit for each input: some output stands for it */
    struct buf            runs;    /* struct streami_run: which versions the inputs are */
    struct buf            scratch, text, id_text, rest;
};

/*
 * Fills `m`, whose sources[0].stream is given, and for an audit all sources with their ranges. With
 * STREAMI_DONE `events` is how many there were; STREAMI_REFUSED has the reason in err. Anything
 * else that fails is an error and not about this stream.
 */
/* memo.c: which streams a join moved along with others, so that their own turn costs nothing. */

struct streami_memo;

int  streami_memo_new(struct ox_env *, struct streami_memo **out, struct err *);
void streami_memo_free(struct streami_memo *); /* NULL is fine */
/* Where there is no room it is forgotten. */
void streami_memo_add(struct streami_memo *, struct slice stream, uint64_t events);
/* False: nothing is known; memo may be NULL. *events: how many it had. */
bool streami_memo_has(struct streami_memo *, struct slice stream, uint64_t *events);
void streami_memo_clear(struct streami_memo *);

int  streami_move_build(struct streami_reader *, struct streami_move *, enum streami_verdict *,
                        struct err *);
void streami_reader_fini(struct streami_reader *);
/* What is made of these events of sources[0], wherever they stand. */
int streami_move_events(struct streami_reader *, struct streami_move *, const struct log_event *,
                        uint32_t count, struct err *);
/* The same in pieces. Looks at the sources; STREAMI_MOVE: they are to be moved. */
int streami_move_look(struct streami_reader *, struct streami_move *, enum streami_verdict *,
                      struct err *);
/* Closes what a look left open at the sources. */
void streami_let_go(struct streami_move *);
int  streami_read_begin(struct streami_reader *, struct err *);
/* Each source from `from` to its head, in the log's order. */
int streami_read_on(struct streami_reader *, struct err *);
/* The transform's end; each move has a target then. */
int streami_read_end(struct streami_reader *, struct err *);
/* Gives what is read away. */
int streami_spill(struct streami_reader *, struct err *);
/* Does the surgery's condition name the event? */
int streami_is_named(struct streami_reader *, const struct log_event *, bool *yes, struct err *);
/* Is the error about the stream, and not about the log or the machine? */
bool streami_about_stream(int rc, const struct err *);
/* The event that says where a moved stream went: of a move in stages what was moved of it, into
 * *s. *from: all that the move wrote stands at or behind this position. */
int streami_moved_range(struct streami_reader *, struct streami_source *s, uint64_t *from,
                        struct err *);
/* Was the moved stream moved by this surgery? *events: how many it had. */
int streami_moved_here(struct streami_reader *, const struct log_stream *, bool *yes,
                       uint64_t *events, struct err *err);

/* Where this surgery rewrote the stream in place, or took that back: its newest MigratedFrom. */
struct streami_rewritten {
    uint64_t       version, first, last; /* of the mark, and what it names */
    struct log_pos commit;
    bool           back;
};
int streami_rewritten(struct streami_reader *, const struct log_stream *,
                      struct streami_rewritten *, bool *yes, struct err *err);

/* The event of a move that the engine wrote: its type, and which surgery it names. */
bool streami_is_mark(struct slice type, struct slice data, const char *surgery);
/* The range that MigratedFrom names. False: it is none of this surgery. */
bool streami_range_of(const struct log_event *, const char *surgery, struct buf *stream,
                      uint64_t *first, uint64_t *last);

/* commit.c */

/*
 * Commits the moves, each of them wholly. Those that lost against somebody's write come back in
 * *lost, those that cannot be in *refused with `why` set to the last one's reason.
 */
struct streami_batch {
    struct log                *log;
    const struct streami_spec *spec;
    struct streami_arena      *arena;
    struct streami_move       *moves, *done, *lost, *refused;
    struct err                 why;
    bool                       gentle; /* others are waited for */
};

int streami_commit(struct streami_batch *, struct err *);

/* The move's own events, in the arena: those of a source around the copies, of a target before. */
int streami_moved_event(struct streami_arena *, const struct streami_spec *,
                        const struct streami_move *, uint32_t source, struct log_new_event *out,
                        struct err *err);
int streami_range_event(struct streami_arena *, const struct streami_spec *, const char *type,
                        const struct streami_source *, struct log_new_event *out, struct err *err);
/* StreamMovedTo once more, behind what of the stream was not moved; the first one is `version`. */
int streami_moved_again(struct streami_arena *, const struct streami_spec *, struct slice stream,
                        uint64_t version, const struct log_new_event *was,
                        struct log_new_event *out, struct err *err);
/* MigratedFrom of a rewrite that is taken back. */
int streami_back_event(struct streami_arena *, const struct streami_spec *,
                       const struct streami_source *, struct log_new_event *out, struct err *err);

/* stage.c */

struct streami_worker;

/* A move that is too large for one commit, from its beginning to its end, or parked. */
int streami_stages(struct streami_worker *, struct slice stream, struct err *);

/* record.c */

struct surgery;

struct streami_record {
    enum stream_state state;
    enum stream_state from;   /* FAILED: what it was at */
    uint32_t          set;    /* of the spec's, that it is in */
    struct buf        cursor; /* all streams of the set up to this one are decided */
    uint64_t          streams, events, copies, skipped, parked, seen, lost;
    int64_t           started_us, ended_us;
    char              error[ERR_TEXT_MAX];
    uint64_t          version; /* of its event */
};

int streami_record_begin(struct log *, const struct streami_spec *, struct streami_record *,
                         struct err *);
/* The spec as it was kept, and the newest state. */
int streami_record_load(struct log *, struct slice name, struct buf *spec, struct streami_record *,
                        struct err *);
int streami_record_save(struct log *, const char *name, struct streami_record *, bool quiet,
                        struct err *);
int streami_park(struct surgery *, struct slice stream, const struct err *why, struct err *err);

/* page.c: which streams, in order */

#define STREAMI_PAGE 8192u

struct streami_page {
    struct buf names; /* each with its length before it */
    uint32_t   count;
    size_t     at;
    bool       last; /* of the set */
};

/* The next streams of the set behind `after`. */
int  streami_page_fill(struct log *, const struct streami_spec *, uint32_t set, struct slice after,
                       struct streami_page *, struct err *);
bool streami_page_next(struct streami_page *, struct slice *name);
/* How many streams there are to go through; some of them may be none of ours. */
int streami_page_estimate(struct log *, const struct streami_spec *, uint64_t *all, struct err *);

/* run.c */

struct streami_counts {
    uint64_t streams, events, copies, skipped, parked, seen, lost;
};

/* Of a stream that is being moved in stages; all of it under the surgery's lock. */
struct streami_progress {
    char     stream[LOG_NAME_MAX + 1];
    uint64_t looked, all; /* its events; all 0: there is none */
};

struct streami_worker {
    struct surgery       *surgery;
    struct ox_task       *task;
    struct streami_reader reader;
    struct streami_arena  arena;
    struct buf            names; /* that it has taken, as a page has them */
    bool                  busy;
    bool                  failed; /* busy, and waits to try again */
    bool                  gentle; /* there is a bound for the others' latency */
    uint64_t              paced;  /* events of the names that it needs no rest for any more */
    uint64_t              beside; /* moved with those of the names, and counted at their own turn */
    struct streami_counts counts; /* of what it has taken */
    struct streami_progress progress;
};

struct surgery {
    struct ox_env         *env;
    struct log            *log;
    struct streami_spec   *spec;
    struct streami_record  record; /* as it was saved, with the page before the one at hand */
    struct streami_worker *workers;
    struct streami_memo   *memo; /* of a join */

    struct ox_lock        lock; /* all that follows */
    enum stream_state     state;
    struct streami_page   page;
    struct buf            page_end;    /* its last stream */
    bool                  turned;      /* the page at hand is in the record already */
    struct streami_counts live;        /* since the record */
    uint32_t              outstanding; /* workers that have taken names */
    bool                  turning;     /* a worker turns the page */
    bool                  stopping, begun, started;
    struct ox_gate       *ended; /* opened when it is not at work any more */
    struct ox_gate       *idle;  /* opened when nobody is at work any more */
    uint64_t              all;
    char                  error[ERR_TEXT_MAX];
    char                  parked_why[STREAM_WHY_MAX]; /* of the last one, since it was opened */
    /* pace */
    uint64_t max_p99_ms, p99_us, pause_us, looked_us;
    uint64_t max_rate, due_us; /* events a second, 0: any; when the next may be begun */
    int64_t  debt;             /* of 1,000 appends a look: above the bound, beyond what may be */
    uint64_t latency[LOG_LATENCY_BUCKETS];
    uint64_t moved; /* events, since it was opened */
    uint64_t rate_us, rate_moved, events_per_s;
    uint64_t work_us; /* that moves took, of all workers, since rate_us */
    uint32_t at_work; /* the first so many workers take names */
};

/* Under the lock: how long a worker rests after it moved so many events, in µs; pace.c. */
uint64_t streami_pace(struct surgery *, uint64_t moved);

/* ways.c: what a worker does with the names that it has taken, in the other states */
int streami_back_names(struct streami_worker *, struct err *);
int streami_close_names(struct streami_worker *, struct err *);
int streami_drop_names(struct streami_worker *, struct err *);

/* The end of one stream's routing: closed, or back to where it was; route_end.c. */
int streami_route_end(struct streami_worker *, struct slice stream, bool back,
                      struct streami_counts *, struct err *err);

/* audit.c, audit_route.c */

/* A target that is read along with what it should have. */
struct streami_target {
    struct log_iter *it;
    bool             differs;
};

struct streami_auditor {
    struct log           *log;
    struct streami_spec  *spec;
    struct streami_reader reader;
    struct streami_arena  arena, bulk;
    struct stream_audit  *out;
    void                 *arg; /* the spill function's */
    const atomic_bool    *stop;
    struct log_pos        end; /* what is appended meanwhile is not looked at */
    struct buf            text;
    /* of the move that is compared */
    uint64_t               from;    /* all that it wrote stands at or behind this position */
    struct streami_target *targets; /* in the arena */
    uint32_t               target_count, target_room;
};

/* `spill` NULL: each move is held in memory. */
int              streami_auditor_open(struct log *, struct slice name, struct slice json,
                                      streami_spill_fn *spill, struct streami_auditor *, struct err *);
streami_spill_fn streami_forget; /* of a struct streami_auditor; E_INTERRUPTED */
void             streami_auditor_close(struct streami_auditor *);
/* Each stream that is selected, at most `most`; 0: all. */
typedef int streami_each_fn(struct streami_auditor *, void *arg, struct slice stream, struct err *);
int streami_auditor_each(struct streami_auditor *, uint64_t most, streami_each_fn *, void *arg,
                         uint64_t *seen, struct err *);

void
streami_differs(struct streami_auditor *, struct slice stream, const char *what, uint64_t version);
/* What of it is different; NULL: nothing. */
const char *streami_compare(const struct log_event *is, const struct log_new_event *should);
/* The next event of a target; E_END: there is none. */
int streami_next(struct log_iter *, struct log_event *, struct err *);
/* Adds the targets that a routed stream got since the move. */
int streami_audit_added(struct streami_auditor *, struct streami_move *, struct err *);
/* What came after the move's copies, in a target (of the move itself, or one that came to it) and
 * in the stream that it is fed by. */
int streami_audit_tail(struct streami_auditor *, struct log_iter *, const struct streami_move *,
                       uint32_t target, bool moved, struct err *);
/* A mark between copies: of what a move in stages read later. */
bool streami_is_between(struct streami_auditor *, const struct log_event *);

static inline bool
streami_is_working(enum stream_state state)
{
    return state == STREAM_RUNNING || state == STREAM_ROLLING_BACK || state == STREAM_DROPPING ||
           state == STREAM_CLOSING;
}

/* pace.c: between two commits of a move; E_INTERRUPTED: it is to stop. */
int streami_rest(struct streami_worker *, uint64_t moved, struct err *);

/* rollback.c, rollback_here.c */

/* Events on their way back, as they are. */
struct streami_again {
    struct streami_out *outs;
    uint32_t            count, room;
    uint64_t            bytes;
};
/* E_REJECTED: it cannot be a copy, or they are too many for one commit. */
int streami_again_add(struct streami_arena *, struct streami_again *, const struct log_event *,
                      struct err *err);
/* One stream, back to where it was. */
int streami_back(struct streami_worker *, struct slice stream, struct streami_counts *,
                 struct err *err);
/* One try of a stream that was rewritten in place. *done: it is decided, or is none of ours. */
int streami_back_here(struct streami_worker *, struct slice stream, bool *done,
                      struct streami_counts *, struct err *err);

#endif
