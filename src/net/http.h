/*
 * An HTTP client for drivers: requests in flight up to a limit, each decided
 * exactly once as an answer or as an error whose kind says whether the far
 * side may have acted.
 *
 * What never left this machine is ERR_RETRY. A request that `changes`
 * something and whose answer was lost is ERR_UNSURE: look, or send it again
 * under the same Idempotency-Key. (A kept connection that the server closed
 * before it answered anything is tried once more by itself on a new one.)
 * Redirects are not followed, no protocol but http and https is spoken, no
 * proxy is taken from the environment, and an answer larger than the limit is
 * refused rather than read.
 *
 * A client belongs to one thread at a time. The process must ignore SIGPIPE.
 */
#ifndef OX_NET_HTTP_H
#define OX_NET_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/slice.h"

#define NET_IN_FLIGHT_MAX 1024
#define NET_ETAG_MAX 256
#define NET_RETRY_MS_MAX 3600000 /* longer waits that a server asks for are cut to this */

struct net_client;

/*
 * AUTO: HTTP/2 where the server offers it under TLS. Without TLS it is never spoken: libcurl 7.88
 * fails at the second request of such a connection.
 */
enum net_version { NET_AUTO, NET_1_1 };

struct net_def {
    uint32_t         connect_ms;
    uint32_t         total_ms; /* from the start of a request to the end of its answer */
    uint32_t         in_flight_max;
    size_t           answer_max; /* bytes of an answer's body */
    const char      *ca_file;    /* NULL: the system's */
    enum net_version version;
};

struct net_header {
    struct slice name, value;
};

struct net_request {
    const char              *method;
    struct slice             url;
    const struct net_header *headers;
    uint32_t                 header_count;
    struct slice             body;     /* data NULL: none */
    const char              *label;    /* for error texts: no row data, no secrets */
    uint32_t                 total_ms; /* 0: the client's */
    bool                     changes;
    bool                     head_only; /* the status decides; a long body is cut, not refused */
};

/* The slices live until the next request starts. */
struct net_answer {
    int          status;
    unsigned     retry_ms; /* Retry-After, from seconds or a date; 0: none */
    struct slice etag;     /* as it came, with quotes and W/; empty: none */
    struct slice body;
};

/* rc 0: an answer came, of whatever status. May start another request. */
typedef void
net_done_fn(void *arg, void *tag, int rc, const struct net_answer *, const struct err *);

int  net_client_new(struct ox_env *, const struct net_def *, struct net_client **, struct err *);
void net_client_free(struct net_client *); /* drops what is in flight; NULL is fine */

/* Takes copies; does not block. E_BUSY at the limit; E_INVALID, ERR_DATA for what no server may
 * see. */
int net_start(struct net_client *, const struct net_request *, void *tag, struct err *);
/* Works until something was decided, at most wait_ms. */
int      net_poll(struct net_client *, uint32_t wait_ms, net_done_fn *, void *arg, struct err *);
uint32_t net_in_flight(const struct net_client *);
/* Forgets what is in flight: nobody is told, the far side may have acted. */
void net_drop(struct net_client *);

/* One request from start to end; none other may be in flight. */
int net_call(struct net_client *, const struct net_request *, struct net_answer *, struct err *);

/*
 * The status as an error. 2xx is 0. 401 and 407 E_AUTH, 408, 425, 429, 3xx and
 * 5xx E_REMOTE: all ERR_RETRY with the answer's retry_ms, but 502 and 504 to a
 * request that changes something are ERR_UNSURE, for a gateway says there that
 * it does not know. Any other: E_REJECTED, ERR_DATA. The text has the label,
 * the status and the "error" member of a JSON body, nothing else of it.
 */
int net_status(const struct net_answer *, const char *label, bool changes, struct err *);

#endif
