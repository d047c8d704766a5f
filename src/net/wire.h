/* A socket that never blocks, plain or with TLS: for the clients of this folder. */
#ifndef OX_NET_WIRE_H
#define OX_NET_WIRE_H

#include <sys/types.h>

#include "net/grpc.h"

struct net_wire;

/* Connects within def->connect_ms; `place` is for error texts. */
int  net_wire_open(struct ox_env *, const struct net_grpc_def *, const char *place,
                   struct net_wire **, struct err *);
void net_wire_close(struct net_wire *); /* NULL is fine */

/* How many bytes; 0: not now; -1: the connection is over. */
ssize_t net_wire_read(struct net_wire *, void *out, size_t size);
ssize_t net_wire_write(struct net_wire *, const void *data, size_t size);
/* What TLS says of a connection that is over: a constant; NULL: nothing. */
const char *net_wire_why(const struct net_wire *);
/* Until something can be read (or written, where that is wanted), at most wait_ms. */
void net_wire_wait(struct net_wire *, bool write, uint32_t wait_ms);

#endif
