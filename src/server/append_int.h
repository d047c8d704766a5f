/* Inside src/server only: appends on their way from a request to the log. */
#ifndef OX_SERVER_APPEND_INT_H
#define OX_SERVER_APPEND_INT_H

#include "base/json.h"
#include "log/log.h"
#include "server/server_int.h"

#define SERVERI_EVENTS_FEW 4
#define SERVERI_WRITES_MAX 10000
#define SERVERI_LINK_TYPE "$>"

/*
 * Kept by a connection from request to request, so that a small append
 * allocates nothing. What the events point at lies in the connection's input
 * buffer, which stays where it is while the log has the request.
 */
struct append {
    struct message      message; /* first: from the log's task back to the loop */
    struct conn        *conn;
    struct log_req      req;
    uint64_t            submitted_us;
    struct append      *submit_next;
    struct append_trace trace;

    struct log_new_event *events;
    struct log_new_event  few[SERVERI_EVENTS_FEW];
    uint32_t              count, cap;

    struct log_write  one;
    struct log_write *writes; /* of a commit over several streams */
    struct log_check *checks;
    uint32_t          write_count, check_count;

    struct log_change *changes; /* of streams: deleting, truncating and the like */
    struct log_change  change;  /* the only one */
    uint32_t           change_count, append_count; /* writes without those of metadata */
    uint32_t           flags;                      /* of the request to the log */
    struct buf         names;                      /* that are made here; room is made before */
    struct slice       target;                     /* the stream that the path names */
    bool               unnamed_version;            /* no expected version was given */
    bool               follow;                     /* to where the stream was moved */
    bool               atom;                       /* atom.c: with KurrentDB's statuses */
    unsigned           hops;
    struct buf         followed;                         /* the stream that it came to */
    void (*answer)(struct call *call, struct append *a); /* NULL: an append's */

    struct buf scratch; /* for strings with escapes, before they go back in place */
    /* NDJSON, as it arrives. */
    const uint8_t *base;    /* where the input buffer was when the events were read */
    size_t         scanned; /* bytes of the body whose lines are done */
    uint64_t       lines;
    bool           ndjson;
};

/* The connection's append, made ready at the request's first sight. NULL: it was answered. */
struct append *serveri_append_begin(struct call *call);

/* To the log, at the end of the loop's turn. */
void serveri_append_send(struct call *call, struct append *a);

/* moved.c */
/* Is follow=true in the query? */
int serveri_follow_read(const struct call *call, bool *follow, struct err *err);
/* A member `key` with the names that the stream was moved to; nothing where it was not. */
void serveri_moved_put(struct buf *body, struct log *log, struct slice stream, const char *key);
/* 409 stream-moved. */
void serveri_moved_answer(struct call *call, struct slice stream, const struct err *err);
/* Was it refused for a move that it should follow? Then it is to be submitted again. */
bool serveri_moved_follow(struct append *a);

/* The header field Expected-Version; `preset` where there is none. */
int serveri_append_expected(const struct call *call, int64_t preset, int64_t *expected,
                            struct err *err);

/* One more event, empty. */
int serveri_event_new(struct append *a, struct log_new_event **out, struct err *err);

/* Room for the names and links that a commit makes; it does not move afterwards. */
int serveri_names_reserve(struct append *a, size_t bytes, struct err *err);

/* stream.c: one of a commit's "changes". */
int serveri_change_read(struct append *a, struct slice raw, struct err *err);

/* One event from its JSON object; strings are decoded where they lie. */
int serveri_event_read(struct append *a, struct slice raw, struct err *err);

/* An array of events, or a single one. */
int serveri_events_read(struct append *a, struct slice raw, struct err *err);

/* The lines of the body that are whole; `last`: what is left is a line too. */
int serveri_lines_read(struct append *a, uint8_t *body, size_t len, bool last, struct err *err);

/* A raw string, decoded where it lies. */
int serveri_string_read(struct append *a, struct slice raw, const char *what, struct slice *out,
                        struct err *err);

/* Members "stream" and "expected" as json_pick left them. */
int serveri_target_read(struct append *a, const struct json_field *f, struct slice *stream,
                        int64_t *expected, struct err *err);

/* "any", "no-stream", "exists" or a number. */
bool serveri_expected_read(struct slice text, int64_t *out);
void serveri_expected_write(struct buf *out, int64_t expected);

#endif
