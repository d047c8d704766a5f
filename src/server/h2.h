/*
 * One HTTP/2 connection with gRPC calls on it. It knows no sockets: bytes in, bytes out, a clock
 * and a table of methods from its host. Everything runs in the host's one thread.
 *
 * Bounded: streams, bytes of headers, a message, what of a stream's answer waits, what a stream
 * sends ahead of who takes it, and how many frames that cost the other side nothing arrive.
 */
#ifndef OX_SERVER_H2_H
#define OX_SERVER_H2_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"
#include "base/trace.h"

struct h2;
struct rpc;
struct rpc_hold;
struct user;

#define H2_STREAMS_MAX 500
#define H2_HEADERS_MAX (16U << 10)            /* bytes of a request's headers */
#define H2_MESSAGE_MAX ((UINT64_C(17) << 20)) /* bytes of one message: an event, and slack */
#define H2_WINDOW (1U << 20)                  /* bytes that a stream may send ahead */
#define H2_OUT_HIGH (256U << 10)              /* producers pause beyond this ... */
#define H2_OUT_LOW (64U << 10)                /* ... and go on below this */

enum rpc_status {
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_UNKNOWN = 2,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE_EXCEEDED = 4,
    RPC_NOT_FOUND = 5,
    RPC_ALREADY_EXISTS = 6,
    RPC_PERMISSION_DENIED = 7,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_FAILED_PRECONDITION = 9,
    RPC_ABORTED = 10,
    RPC_OUT_OF_RANGE = 11,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
    RPC_UNAUTHENTICATED = 16,
};

/* Every slot but `message` may be NULL. `state` is the method's own (rpc_state). */
struct rpc_method {
    const char *path; /* "/package.Service/Method" */
    bool        many; /* the client may send more than one message */
    /* One message, valid during the call. */
    void (*message)(struct rpc *, struct slice message);
    /* The client sends no more. NULL: nothing happens. */
    void (*half_closed)(struct rpc *);
    /* What waited is below H2_OUT_LOW. */
    void (*drained)(struct rpc *);
    /* The server stops: a call that would not end by itself has to. */
    void (*drain)(struct rpc *);
    /* About once a second. */
    void (*tick)(struct rpc *, uint64_t now_ms);
    /* Ended or cancelled: the last call, once. */
    void (*gone)(struct rpc *);
};

struct h2_host {
    const struct rpc_method *(*find)(void *arg, struct slice path);
    /*
     * May the call be made? False: it was ended, or rpc_enter comes. `proof` is what it says of who
     * makes it. NULL: any may.
     */
    bool (*enter)(void *arg, struct rpc *, struct slice path, struct slice proof);
    uint64_t (*now_ms)(void *arg);
    void (*dirty)(void *arg); /* there is something to send */
    bool (*room)(void *arg);  /* false: the memory for requests is used up */
    void    *arg;
    uint32_t body_ms_max; /* for a message to get on */
    uint32_t idle_ms_max; /* without a call, and without a frame */
};

/* NULL where memory is out. The host is copied. */
struct h2 *h2_new(const struct h2_host *host);
void       h2_free(struct h2 *); /* every call ends; NULL is fine */

/* All of it is taken. False: nothing more is to be read; what waits is still to be sent. */
bool h2_input(struct h2 *, struct slice bytes);

/* Adds frames until `out` has `max` bytes or nothing waits. False: the session has failed. */
bool h2_output(struct h2 *, struct buf *out, size_t max);

/* There is something that h2_output would give. */
bool h2_wants_output(const struct h2 *);

/* The client is in the middle of saying something: it may wait for what it sent to be acknowledged.
 */
bool h2_awaits_input(const struct h2 *);

/* Neither side has anything more to say. */
bool h2_is_done(const struct h2 *);

/* Deadlines, requests that do not get on, silence. False: the other side is gone. */
bool h2_tick(struct h2 *);

/* No new calls; h2_is_done when the last one has ended. */
void h2_drain(struct h2 *);

size_t   h2_bytes(const struct h2 *); /* of memory that its calls hold */
unsigned h2_calls(const struct h2 *);
void    *h2_arg(const struct h2 *); /* the host's */
/* More, or less, that somebody holds for this connection. */
void h2_charge(struct h2 *, int64_t bytes);

/* Calls. */

struct h2 *rpc_h2(const struct rpc *);
void      *rpc_state(const struct rpc *);
void       rpc_set_state(struct rpc *, void *state);
/* What the headers say; empty: nothing. */
struct slice rpc_connection_name(const struct rpc *);
struct slice rpc_authority(const struct rpc *);
/* The caller's context; NULL: none. */
const struct trace_context *rpc_trace(const struct rpc *);
uint64_t                    rpc_deadline_ms(const struct rpc *); /* by the host's clock; 0: none */
bool                        rpc_is_half_closed(const struct rpc *);

/* Whose it is; taken over, and given back at its end. NULL: nobody's. */
struct user *rpc_who(const struct rpc *);
void         rpc_set_who(struct rpc *, struct user *who);
/* After host.enter said no: it may. */
void rpc_enter(struct rpc *);

/* Something that outlives the call: finds out whether it is still there. */
struct rpc_hold {
    struct rpc *rpc; /* NULL: it has ended */
};
/* One at a time; NULL lets go. */
void rpc_keep(struct rpc *, struct rpc_hold *);

/* No more messages until rpc_resume, which gives those that have arrived. */
void rpc_pause(struct rpc *);
void rpc_resume(struct rpc *);
void rpc_resume_soon(struct rpc *); /* from `drained` */

/* One message of the answer: what is written between the two. Where memory is out the call ends,
 * and `gone` comes afterwards. */
struct buf *rpc_begin(struct rpc *, size_t *mark);
void        rpc_commit(struct rpc *, size_t mark);
/* Takes back what rpc_begin began. */
void rpc_abandon(struct rpc *, size_t mark);

/* Bytes of the answer that are not in frames yet. */
size_t rpc_pending(const struct rpc *);

/* A trailer, sent at the end; what is no printable ASCII is percent-encoded. */
void rpc_trailer(struct rpc *, const char *name, struct slice value);

/* Ends the call, `gone` is called; what was answered is sent before. Text may be NULL. */
void rpc_end(struct rpc *, enum rpc_status status, const char *text);

#endif
