/* Inside src/server only: the loop, connections, and what hangs on them. */
#ifndef OX_SERVER_SERVER_INT_H
#define OX_SERVER_SERVER_INT_H

#include <stdatomic.h>
#include <uv.h>

#include "base/env.h"
#include "base/hist.h"
#include "base/slice.h"
#include "base/trace.h"
#include "server/call.h"
#include "server/http1.h"
#include "server/server.h"
#include "server/tls.h"
#include "server/uri.h"

struct access;
struct append;
struct audit;
struct auth;
struct conn;
struct feed;
struct front;
struct groups;
struct grpc_op;
struct grpc_reader;
struct h2;
struct live;
struct log_write;
struct quotas;
struct rates;
struct upcast;
struct log_new_event;
struct log_req;
struct upcasts;
struct rpc_method;
struct user;
struct users;

#define SERVERI_ROUTES_MAX 256
#define SERVERI_IN_MIN 4096          /* bytes of a new connection's input buffer */
#define SERVERI_BUF_KEEP (64 << 10)  /* larger buffers are given back between requests */
#define SERVERI_OUT_HIGH (256 << 10) /* producers pause beyond this ... */
#define SERVERI_OUT_LOW (64 << 10)   /* ... and go on below this */
#define SERVERI_TLS_IN (64 << 10)
#define SERVERI_EVENTS_MAX 100000 /* events of one commit */

/* From other threads to the loop. */

/* Pushed by any thread without a lock, taken by the loop all at once, in order. */
struct message {
    struct message *next;
    void (*fn)(struct message *);
};

void serveri_post(struct server *s, struct message *m);

/* Counters. */

#define SERVERI_STATUS_MAX 600
#define SERVERI_REASONS_MAX 64

struct stats {
    uint64_t    connections_all, connections_refused, requests, bytes_in, bytes_out;
    uint64_t    appends, append_events, append_bytes;
    uint64_t    events_out, streams_cut, quota_refused, tls_failed;
    uint64_t    logins_failed, access_denied, rate_refused;
    uint64_t    answers[SERVERI_STATUS_MAX];
    struct hist append_us; /* from the request to the log's answer */
    /* Refusals by the name of the error; names are constants of the program. */
    struct {
        const char *name;
        uint64_t    count;
    } reasons[SERVERI_REASONS_MAX];
};

/* Routes. */

struct route {
    struct server_route def;
    void               *arg;
    enum http1_method   method;
    int                 need; /* enum access_need */
    unsigned            segment_count;
    struct slice        segments[URI_SEGMENTS_MAX]; /* with braces: any */
    /* Told when more of the body is there; returns false when it has answered. */
    bool (*part)(struct call *call);
};

int serveri_route_add(struct server *s, const struct server_route *def, void *arg,
                      struct route **out, struct err *err);

/* The route, or NULL; `allow` gets a bit for each method that the path has. */
const struct route *serveri_route_find(const struct server *s, enum http1_method method,
                                       const struct uri *uri, unsigned *allow);

/* One request. */

struct call {
    struct conn        *conn;
    const struct route *route;
    struct later       *later;
    struct user        *who; /* NULL: nobody said */
    struct uri          uri;
    uint64_t            began_us, began_ms, number;
    const char         *reason;        /* the name of the refusal, a constant; NULL: none */
    int                 status;        /* answered with; 0: not yet */
    uint32_t            retry_after_s; /* with 429 */
    unsigned            allow;         /* with 405: a bit for each method */
    struct slice        location;      /* with 201; empty: none */
    bool                chunked_out;
    bool                head_only; /* HEAD */
    bool                begun;     /* the handler has seen a part of it */
    bool                pushed; /* the answer is a stream of events, as long as the client likes */
};

/* The client's X-Request-Id, or one of the server's own. */
#define SERVERI_REQUEST_ID_MAX 128
void serveri_request_id(const struct call *call, char out[SERVERI_REQUEST_ID_MAX + 1]);

/* Who asks is known now. */
void serveri_call_go_on(struct call *call);

/* A head is there: finds its route. True: go on, with the body or the next request. */
bool serveri_call_begin(struct call *call);

/* Status line and fields; `length` UINT64_MAX: a body of unknown length follows. */
void serveri_answer_head(struct call *call, int status, const char *type, uint64_t length);

/* Once the answer's last byte is in the output: goes on with the next request. */
void serveri_call_finish(struct call *call);

/* Framing of a body of unknown length, around what is put into the output between. */
size_t serveri_chunk_begin(struct call *call);
void   serveri_chunk_end(struct call *call, size_t mark);
void   serveri_chunk_last(struct call *call);

/* {"error":name,"message":text} */
void serveri_error_json(struct buf *out, const char *name, const char *text);

/* Connections. */

enum conn_state {
    CONN_HEAD,   /* reading a head */
    CONN_BODY,   /* reading a body */
    CONN_AUTH,   /* who asks is being looked up */
    CONN_WAIT,   /* a handler has the request */
    CONN_H2,     /* speaks HTTP/2 */
    CONN_LINGER, /* answered for the last time; what still arrives is thrown away */
    CONN_CLOSED, /* the handle is closing or closed */
};

/* IPv4 as IPv6 has it; of others' networks as much as one customer has. */
struct address {
    uint8_t b[16];
};

enum auth_result {
    AUTH_OK,
    AUTH_NONE,  /* says nothing */
    AUTH_BAD,   /* and it does not hold */
    AUTH_LATER, /* the waiter is told */
    AUTH_BUSY,
    AUTH_OFTEN, /* failed too often from there */
};

/* Who waits for a password to be looked at. */
struct auth_waiter {
    struct auth_waiter *next;
    /* `who` is the waiter's to give back. */
    void (*done)(struct auth_waiter *, enum auth_result, struct user *who);
};

struct conn {
    uv_tcp_t        tcp; /* first */
    struct server  *server;
    struct conn    *prev, *next;
    enum conn_state state;
    bool            reading;     /* asked for bytes */
    bool            eof;         /* the client sends no more */
    bool            last;        /* closes after this answer */
    bool            unread;      /* some of the request was never looked at */
    bool            busy, again; /* being processed; has another request to look at */
    bool            dirty, writing, shut, gone;
    struct conn    *dirty_next;

    /* One buffer: the head, the body as far as decoded, what has not been looked at. */
    uint8_t *in;
    size_t   in_len, in_cap;
    size_t   body_at, body_len, raw_at;

    struct http1_head head;
    struct http1_body body;
    struct call       call;

    struct address     peer; /* without its port */
    struct auth_waiter waiter;
    enum conn_state    before_auth;

    struct tls *tls; /* NULL: plain */
    bool        tls_bad, tls_closed;
    struct buf  out, sealed, flight; /* sealed: of `out`, as TLS has it */
    uv_write_t  write;
    size_t      unsent; /* at the last look, to see whether the client takes anything */

    uint64_t       since_ms;    /* when the state, or its first byte, began */
    uint64_t       progress_ms; /* when the client last took something */
    uint64_t       charged;     /* bytes of memory counted against the server's limit */
    struct append *append;      /* kept from request to request */
    struct feed   *feed;
    struct h2     *h2;    /* CONN_H2 only */
    unsigned       users; /* what still points here: append in flight */
};

void serveri_conn_accept(struct server *s);

/* Marks the output as grown: it is sent once per turn of the loop. */
void serveri_conn_dirty(struct conn *c);
void serveri_conn_flush(struct conn *c);

/* Bytes that the client has not taken yet. */
size_t serveri_conn_pending(const struct conn *c);

/* Looks at what has arrived; goes as far as it can. */
void serveri_conn_process(struct conn *c);

/* Gives back what an idle connection needs not. */
void serveri_conn_slim(struct conn *c);

/* Answers nothing more: closes once the output is out. */
void serveri_conn_end(struct conn *c, bool unread);

/* Closes at once, whatever is unsent. */
void serveri_conn_abort(struct conn *c);

/* One reference less; frees when it was the last. */
void serveri_conn_release(struct conn *c);

/* Times out what is too slow. */
void serveri_conn_tick(struct conn *c, uint64_t now_ms);

/* Lets the connection end after the answer in hand, at once when idle. */
void serveri_conn_drain(struct conn *c);

/* Memory beyond what every connection has: false when the server's limit is reached. */
bool serveri_charge(struct conn *c);

/* HTTP/2 (h2_conn.c). */

void     serveri_h2_begin(struct conn *c);   /* the preface has arrived */
bool     serveri_h2_process(struct conn *c); /* always false: all that arrived was taken */
bool     serveri_h2_fill(struct conn *c);  /* frames into the output; false: the connection ended */
void     serveri_h2_go_on(struct conn *c); /* the output has room again */
void     serveri_h2_tick(struct conn *c);
void     serveri_h2_drain(struct conn *c);
void     serveri_h2_free(struct conn *c);
size_t   serveri_h2_bytes(const struct conn *c);
uint64_t serveri_h2_calls(const struct server *s); /* that are open, of all connections */

/* What hangs on a connection. */

void serveri_append_free(struct append *a);
void serveri_append_trim(struct append *a); /* between requests: gives large tables back */
/* The log has answered one that was submitted then. */
void serveri_append_count(struct server *s, uint64_t submitted_us, int rc, uint64_t events);
void serveri_append_submit(struct server *s); /* all that this turn of the loop read */
int  serveri_append_routes(struct server *s, struct err *err);
int  serveri_atom_routes(struct server *s, struct err *err);

void serveri_feed_free(struct feed *f);
void serveri_feed_wake(struct feed *f); /* its output has room again */
bool serveri_feed_is_live(const struct feed *f);
void serveri_feed_end(struct feed *f);                   /* the server stops */
void serveri_feed_tick(struct feed *f, uint64_t now_ms); /* keep-alive comments */
void serveri_feeds_run(struct server *s);                /* a slice of each that can go on */
void serveri_feeds_wake(struct server *s);               /* the log has grown */
bool serveri_feeds_wait(const struct server *s);         /* does anybody wait for it? */
void serveri_grpc_readers_run(struct server *s);         /* likewise, those of gRPC */
void serveri_grpc_readers_wake(struct server *s);
void serveri_grpc_submit(struct server *s); /* all appends over gRPC of this turn */
void serveri_grpc_spares_free(struct server *s);
int  serveri_feed_routes(struct server *s, struct err *err);

bool serveri_live_is_due(const struct server *s);
void serveri_live_run(struct server *s);
void serveri_live_wake(struct server *s); /* the log has grown */
/* How many subscribers share the reading of the log's end, and how many bytes that is behind. */
void serveri_live_look(const struct server *s, uint64_t *count, uint64_t *behind);
void serveri_live_free(struct server *s);
/* Ends the subscriber of a stream that is deleted: false. */
bool serveri_live_check(struct feed *f, uint64_t now_ms);
/* The stream was deleted here. */
void serveri_live_check_stream(struct server *s, struct slice stream);

/* Takes what is appended from the quotas; false: it was answered. */
bool serveri_quota_take(struct call *call, const struct log_write *writes, uint32_t count);
/* The same: 0, or E_LIMIT and in how many seconds it may be tried again. */
int  serveri_quota_try(struct server *s, const struct log_write *writes, uint32_t count,
                       uint64_t *seconds, struct err *err);
void serveri_quotas_free(struct quotas *quotas);

int serveri_stream_routes(struct server *s, struct err *err);
/* As call_fail, for what concerns a stream: 404 is stream-not-found. */
void serveri_stream_fail(struct call *call, const struct err *err);

/* A read that the log serves by position. */
bool serveri_is_native(struct slice name);

int  serveri_api_routes(struct server *s, struct err *err);
int  serveri_user_routes(struct server *s, struct err *err);
int  serveri_scavenge_routes(struct server *s, struct err *err);
void serveri_get_metrics(struct call *call, void *arg);

bool serveri_later_is_stream(const struct later *later);
void serveri_later_detach(struct later *later); /* its connection goes away */
void serveri_later_drain(struct later *later);  /* the server stops: streams end */
void serveri_later_tick(struct later *later, uint64_t now_ms);
/*
 * On the loop: told when the connection goes before the answer came (the later
 * is still the holder's to drop), and when its output has room again. NULL: not.
 */
void serveri_later_hook(struct later *later, void (*gone)(void *arg), void (*drained)(void *arg),
                        void         *arg);
void serveri_later_drained(struct later *later);
/* On the loop, a stream: text that is framed already; how much the client has not taken. */
size_t serveri_later_put(struct later *later, struct slice text);

/* What hangs on the server and is not in every program (group_front.c). */
struct server_extra {
    void (*stop)(struct server_extra *); /* no more messages come afterwards */
    void (*free)(struct server_extra *); /* after the last message was taken */
    void (*metrics)(struct server_extra *, struct buf *out);
    struct server_extra *next;
};

void serveri_extra_add(struct server *s, struct server_extra *extra);

/* The server. */

struct server {
    struct ox_env     *env;
    struct log        *log;
    struct server_conf conf;
    uint16_t           port;

    uv_loop_t    loop;
    uv_tcp_t     listener;
    uv_poll_t    wake; /* not uv_async_t: its loop spins while who woke it is not on a processor */
    int          wake_fd;
    uv_prepare_t prepare;
    uv_check_t   check;
    uv_idle_t    idle;
    uv_timer_t   timer;
    uv_signal_t  signals[3];
    bool         loop_ready, listening, draining, closing;
    uint64_t     drain_ms; /* when draining began */

    _Atomic(struct message *) inbox;
    atomic_bool               stop;
    atomic_bool               log_grew, watched; /* watched: somebody waits for it to grow */

    struct route routes[SERVERI_ROUTES_MAX];
    unsigned     route_count;

    struct conn *conns, *dirty;
    uint32_t     conn_count;
    unsigned     in_flight; /* appends whose answer is due */
    uint64_t     charged;

    struct append *submit, *submit_last; /* what goes to the log at the end of this turn */

    struct grpc_op     *grpc_submit, *grpc_submit_last, *grpc_spares;
    unsigned            grpc_spare_count;
    struct grpc_reader *grpc_waiting, *grpc_runnable, *grpc_runnable_last;
    /* Set where the program has groups: what would need their code otherwise. */
    struct groups                  *groups;
    struct front                   *front;
    const struct rpc_method *const *group_methods;
    size_t                          group_method_count;

    struct feed *feeds, *runnable, *runnable_last; /* feeds: those that wait for the log */
    unsigned     feed_count;
    struct live *live;

    struct tls_context  *tls;    /* NULL: plain */
    uint8_t             *tls_in; /* what a read brings, until it is fed */
    struct server_extra *extras;
    server_metrics_fn   *metrics; /* of who made the server; NULL: none */
    void                *metrics_arg;
    struct quotas       *quotas; /* NULL: none */

    struct users    *users; /* NULL: there can be none */
    enum server_auth auth_mode;
    struct auth     *auth;   /* NULL: nobody has said yet who he is */
    struct access   *access; /* likewise */
    struct audit    *audit;
    struct rates    *rates;
    unsigned         user_jobs; /* under way */

    const struct upcasts *upcasts; /* NULL: none */
    struct trace_queue   *traces;  /* NULL: nobody wants spans */
    struct upcast        *upcast;  /* the loop's */

    struct buf   scratch;   /* for whoever runs on the loop, until it returns */
    char         date[128]; /* "Date: …\r\n" */
    int64_t      date_s;
    char         created[256]; /* the head of most answers to appends, up to the length */
    size_t       created_len;
    int64_t      started_s;
    uint32_t     instance; /* by chance, of this run: in the request ids */
    uint64_t     taken_us; /* when the inbox was last emptied */
    struct stats stats;
};

uint64_t serveri_now_ms(struct server *s);
void     serveri_upcast_free(struct server *s);
void     serveri_run_soon(struct server *s); /* feeds are waiting for their turn */

/* trace.c: the span of an append. */
struct append_trace {
    bool                 on, has_parent;
    struct trace_context context, parent;
    int64_t              began_us;
    struct buf           texts; /* metadata that was given the context; the owner frees it */
};
/* `given`: the caller's, of a header; NULL: none. */
void
serveri_trace_append(struct server *s, struct append_trace *t, const struct trace_context *given,
                     struct log_new_event *events, uint32_t count);
void serveri_trace_done(struct server *s, const struct append_trace *t, uint64_t submitted_us,
                        const struct log_req *req, uint32_t count);

#endif
