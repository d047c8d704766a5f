/*
 * The network front: one libuv loop that takes HTTP/1.1 connections, turns
 * appends into log_submit, and reads the log for those who ask. It decides
 * nothing: what other parts offer over HTTP they register as routes (call.h).
 *
 * server_new listens; server_run serves in the calling thread until
 * server_stop, SIGTERM or SIGINT, then drains: no new connections, requests in
 * flight are finished within drain_ms, streams end. The log stays the caller's,
 * and must outlive the server.
 */
#ifndef OX_SERVER_SERVER_H
#define OX_SERVER_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

struct call;
struct log;
struct ox_env;
struct server;
struct upcasts;
struct users;

#define SERVER_PORT 2113

/* Files in PEM. The texts are the caller's, as long as the call that is given them. */
struct server_tls {
    const char *cert; /* the server's, then those that vouch for it; NULL: no TLS */
    const char *key;  /* of that certificate */
    const char
        *client_ca; /* clients need a certificate that one of these vouches for; NULL: none */
};

/* Zero means the default for every number but the port. */
struct server_conf {
    const char *host;            /* NULL: 127.0.0.1; the caller's, as long as the server lives */
    uint16_t    port;            /* 0: any free one */
    uint32_t    connections_max; /* 1024; beyond it: 503 */
    uint32_t    address_connections_max; /* of one address; 0: no bound */
    uint32_t    requests_per_s; /* of an address, or of a user where he is known; 0: no bound */
    uint32_t    head_ms_max;    /* 10 s: from the first byte of a request to the end of its head */
    uint32_t    idle_ms_max;    /* 75 s: between two requests */
    uint32_t    body_ms_max;    /* 30 s, and a second more for each KiB that arrived */
    uint32_t    stall_ms_max;   /* 120 s in which a client takes none of its answer */
    uint32_t    drain_ms_max;   /* 10 s */
    uint32_t    keepalive_ms;   /* 15 s between comments on a silent event stream */
    uint64_t    body_bytes_max; /* 65 MiB: one commit, and slack */
    uint64_t    memory_bytes_max; /* 256 MiB: all connections' buffers beyond their first pages */
    uint32_t    slow_ms;          /* a line for each request that took so long; 0: none */
    bool        read_only;        /* of the log: then the server is never ready */
    bool        access_log;       /* a line for each request */
    struct server_tls tls;        /* for server_new only */
    bool              signals;    /* SIGTERM and SIGINT stop, SIGHUP reloads */
    void (*reload)(void *arg);    /* on the loop; may be NULL */
    void *reload_arg;
};

/* E_BUSY: the port is in use. */
int server_new(struct ox_env *env, struct log *log, const struct server_conf *conf,
               struct server **out, struct err *err);

/*
 * How much may be appended in a second to the streams of a category (a name up to its first '-');
 * "*": to those of each other one. 0: no bound. What is over it gets 429 and Retry-After.
 */
struct server_quota {
    struct slice category;
    uint64_t     events_per_s, bytes_per_s; /* at most 10^12 */
};

/* Any thread; replaces what was there, with full buckets. The list is copied. */
int server_set_quotas(struct server *server, const struct server_quota *list, uint32_t count,
                      struct err *err);

/* Who has to say who he is. */
enum server_auth {
    SERVER_AUTH_ASKED, /* everybody, once there is a user */
    SERVER_AUTH_OFF,   /* nobody; what somebody says is not looked at */
    SERVER_AUTH_ON,
    SERVER_AUTH_CLOSED, /* the same: what decides could not be set */
};

/* Before server_run. The users stay the caller's, and outlive the server. */
int server_set_users(struct server *server, struct users *users, enum server_auth mode,
                     struct err *err);

/*
 * Who may read and write the streams of a category (a name up to its first '-'); "*": of those
 * that have no rule; "$all": who may read everything; a native read's name: what groups over it
 * give. Lists are names of users and groups, $admins, $ops and $all (every user), each with a NUL
 * behind it.
 */
struct server_permission {
    struct slice category, read, write;
    bool         has_read, has_write; /* else the roles decide */
};

/* Any thread; replaces what was there. The list is copied. */
int server_set_permissions(struct server *server, const struct server_permission *list,
                           uint32_t count, struct err *err);

/*
 * On the loop, or before server_run: new connections get this certificate. Where it fails the one
 * that was there stays. E_STATE: the server was made without TLS.
 */
int server_set_tls(struct server *server, const struct server_tls *tls, struct err *err);
/* Before server_run: what readers' events go through, unless they ask for raw ones. The set stays
 * the caller's, and outlives the server. */
int server_set_upcasts(struct server *server, const struct upcasts *set, struct err *err);

/* Before server_run: where spans of appends go; the caller's, and outlives the server. */
struct trace_queue;
void server_set_traces(struct server *server, struct trace_queue *queue);

/* The real one, also where any free port was asked for. */
uint16_t server_port(const struct server *server);

/* Serves until stopped; SIGPIPE is ignored from then on. */
int server_run(struct server *server, struct err *err);

/* Any thread, also a signal handler. */
void server_stop(struct server *server);

/* Not while server_run is running. NULL is fine. */
void server_free(struct server *server);

/*
 * A route: `path` has parameters in braces, each a whole segment:
 * "/v1/migrations/{name}/route". A GET route answers HEAD too. The table is the
 * caller's and outlives the server.
 */
struct server_route {
    const char *method; /* "GET", "POST", "PUT", "PATCH", "DELETE" */
    const char *path;
    /* On the loop, with the whole request there: must not block. */
    void (*fn)(struct call *call, void *arg);
    uint64_t body_bytes_max; /* of the request; 0: any body is refused */
};

/* Before server_run. E_EXISTS where a method and path are there already. */
int server_add_routes(struct server *server, const struct server_route *routes, size_t count,
                      void *arg, struct err *err);

/* Called on the loop for each GET /metrics; appends to the text. Before server_run, once. */
typedef void server_metrics_fn(void *arg, struct buf *out);
void         server_set_metrics(struct server *server, server_metrics_fn *fn, void *arg);

#endif
