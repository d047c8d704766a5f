/* Inside src/server only: reading the log for a client, a slice at a time. */
#ifndef OX_SERVER_FEED_INT_H
#define OX_SERVER_FEED_INT_H

#include "log/log.h"
#include "server/server_int.h"

enum feed_format {
    FEED_JSON,   /* one document: events, next, head */
    FEED_NDJSON, /* a line for each event */
    FEED_SSE,    /* live: goes on when the log grows */
};

struct feed_query;

/* A reader by position that is none of the log's own (fields_front.c). */
struct feed_reader_ops {
    const char *const *params; /* of the query, beside from, limit and direction; ends with NULL */
    /* Looks at the request: what is to be kept goes into `key`. */
    int (*prepare)(struct call *call, void *arg, struct feed_query *q, struct err *err);
    int (*open)(void *arg, const struct feed_query *q, void **reader, struct err *err);
    int (*next)(void *reader, struct log_event *out, struct err *err);
    struct log_pos (*pos)(void *reader);
    void (*close)(void *reader); /* NULL is fine */
};

/* What the client asked for; its texts lie in `texts`. */
struct feed_query {
    enum feed_format format;
    struct log_read  read;
    struct user     *who;       /* the call's */
    uint64_t         limit;     /* 0: none */
    uint64_t         after;     /* a stream: events up to this position are known; 0: none */
    bool             all;       /* by position: $all and the native reads; else one stream */
    bool             has_start; /* read.start is known */
    bool             nothing;   /* time travel to before the first commit */
    bool             from_end;
    bool             follow;         /* to where the stream was moved */
    bool             stored;         /* as they are stored: past the upcasters */
    bool             alone;          /* keeps an iterator of its own, also when live */
    struct slice     category, type; /* of a native read */
    struct buf       texts;
    /* where `ops` is given, it reads instead of the log */
    const struct feed_reader_ops *ops;
    void                         *ops_arg;
    struct buf                    key[2];
    struct buf                    moved; /* the stream that a move led to */
};

/* From the request's target and header fields; to be given back in any case. */
int  serveri_query_read(struct call *call, bool all, const struct feed_reader_ops *ops, void *arg,
                        struct feed_query *query, struct err *err);
void serveri_query_fini(struct feed_query *query);

/* Where the writing of one event stands: large ones are written in pieces. */
struct event_out {
    struct log_event event;
    unsigned         part;
    size_t           at;
    bool             data_json, meta_json;
};

void serveri_event_begin(struct event_out *o, const struct log_event *event);

/* upcast.c: the event as it is read now. What was changed is copied into `keep`. */
int serveri_upcast(struct server *s, struct log_event *event, struct buf *keep, struct err *err);

/* Adds at most about `room` bytes of the event's JSON object; true when it is whole. */
bool serveri_event_write(struct event_out *o, struct buf *out, size_t room);

/* One reader of the log. */
struct feed {
    struct conn      *conn;
    struct feed      *prev, *next; /* of those that wait for the log */
    struct feed      *run_next;
    struct feed_query query;
    struct log_iter  *it;
    void             *reader; /* of query.ops */
    struct event_out  out;
    struct buf        cast;      /* what upcasters made of the event that is written */
    struct err        failure;   /* of the next event: said when all before it is out */
    bool              queued;    /* has a turn coming */
    bool              waiting;   /* at the end of the log, with an iterator of its own */
    bool              linked;    /* among those that wait */
    bool              there;     /* its stream was there */
    bool              writing;   /* in the middle of an event */
    bool              begun;     /* the answer's head is out */
    bool              caught_up; /* and the client was told so */
    bool              stalled;   /* its client took too little meanwhile */
    bool              ended;     /* nothing more will come */
    bool              at_end;    /* because the log has no more */
    uint64_t          given;
    uint64_t          next_from; /* a version or a position */
    uint64_t          bound;     /* everything before this position was given or passed over */
    uint64_t          said_ms, checked_ms;

    /* live.c */
    struct live_group *group;
    struct feed       *live_prev, *live_next;
    struct feed       *touched_next;
    size_t             mark; /* of the chunk that this turn's events go into */
    bool               touched;
};

/* feed_read.c: reads and writes until something is used up. */
int  serveri_feed_fill(struct feed *f, struct buf *out, struct err *err);
bool serveri_feed_wants(const struct feed_query *q, const struct log_event *e);
void serveri_feed_say(const struct feed *f, const char *event, struct buf *out);
/* Tells a subscriber that its stream is not there any more, and ends it. */
void serveri_feed_deleted(struct feed *f, bool gone, struct buf *out);

/* feed.c */
/* Answers with the events of a reader that is none of the log's own. */
void serveri_feed_serve(struct call *call, const struct feed_reader_ops *ops, void *arg);
void serveri_feed_enqueue(struct feed *f);
void serveri_feed_finish(struct feed *f); /* ends the answer; the feed is gone afterwards */

/* Output beyond which a reader pauses. */
size_t serveri_feed_pause_mark(const struct server *s);

/*
 * live.c: subscribers that have caught up. One iterator reads the log for all of them; an event is
 * written once and copied to each that wants it.
 */

/* A subscriber whose iterator came to the end; false: it goes on by itself. */
bool serveri_live_join(struct feed *f);
void serveri_live_leave(struct feed *f);

#endif
