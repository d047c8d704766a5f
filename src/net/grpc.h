/*
 * A gRPC client for drivers: one HTTP/2 connection, one call on it at a time, a request of one
 * message and answers of any number. Over TCP with prior knowledge, or TLS with ALPN "h2".
 *
 * Bytes are read only when a message is asked for, so what waits is bounded by one message and the
 * sockets' own buffers. A connection that says nothing for ten seconds is asked by a PING; one
 * that does not answer it is given up.
 *
 * Errors of the connection are E_CONNECT, E_TIMEOUT and E_CLOSED, all ERR_RETRY; afterwards it is
 * of no more use. Errors of the call say its status. A client belongs to one thread at a time; the
 * process must ignore SIGPIPE.
 */
#ifndef OX_NET_GRPC_H
#define OX_NET_GRPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/slice.h"

struct net_grpc;

struct net_grpc_def {
    const char *host;
    uint16_t    port;
    bool        tls, verify;          /* verify: the certificate and the host's name in it */
    const char *ca_file;              /* NULL: the system's */
    const char *cert_file, *key_file; /* our own certificate, with those that vouch for it, and its
                                         key; NULL: none */
    const char *user, *password;      /* NULL: none */
    uint32_t    connect_ms;           /* to the end of the handshake */
    size_t      message_max;          /* bytes of a message that is taken */
};

/* gRPC's status codes, as far as somebody decides by them. */
enum net_grpc_status {
    NET_GRPC_OK = 0,
    NET_GRPC_INVALID_ARGUMENT = 3,
    NET_GRPC_NOT_FOUND = 5,
    NET_GRPC_PERMISSION_DENIED = 7,
    NET_GRPC_FAILED_PRECONDITION = 9,
    NET_GRPC_UNIMPLEMENTED = 12,
    NET_GRPC_UNAUTHENTICATED = 16,
};

/* Connects; blocks for at most connect_ms. E_AUTH, ERR_RETRY: no trust in the far side. */
int  net_grpc_open(struct ox_env *, const struct net_grpc_def *, struct net_grpc **, struct err *);
void net_grpc_close(struct net_grpc *); /* NULL is fine */

/* Begins a call; one that still runs is cancelled. */
int net_grpc_call(struct net_grpc *, const char *path, struct slice message, struct err *);

/*
 * The next message, valid until the next call of anything here. E_MORE: none within wait_ms;
 * E_END: the call has ended with OK. INVALID_ARGUMENT and UNIMPLEMENTED are E_REJECTED, ERR_FATAL,
 * UNAUTHENTICATED and PERMISSION_DENIED E_AUTH, NOT_FOUND E_NOTFOUND, others E_REMOTE: ERR_RETRY.
 */
int net_grpc_next(struct net_grpc *, uint32_t wait_ms, struct slice *message, struct err *);

#endif
