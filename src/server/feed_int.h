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

/* What the client asked for; its texts lie in `texts`. */
struct feed_query {
    enum feed_format format;
    struct log_read  read;
    uint64_t         limit;   /* 0: none */
    uint64_t         after;   /* $all: events up to this position are passed over; 0: none */
    bool             all;     /* $all, not one stream */
    bool             nothing; /* time travel to before the first commit */
    bool             from_end;
    struct buf       texts;
};

/* From the request's target and header fields. */
int  serveri_query_read(struct call *call, bool all, struct feed_query *query, struct err *err);
void serveri_query_fini(struct feed_query *query);

/* Where the writing of one event stands: large ones are written in pieces. */
struct event_out {
    struct log_event event;
    unsigned         part;
    size_t           at;
    bool             data_json, meta_json;
};

void serveri_event_begin(struct event_out *o, const struct log_event *event);

/* Adds at most about `room` bytes of the event's JSON object; true when it is whole. */
bool serveri_event_write(struct event_out *o, struct buf *out, size_t room);

#endif
