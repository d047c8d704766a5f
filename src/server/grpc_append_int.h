/* Inside src/server only: what appends over gRPC have in common. */
#ifndef OX_SERVER_GRPC_APPEND_INT_H
#define OX_SERVER_GRPC_APPEND_INT_H

#include "server/grpc_int.h"

/* Of the fields 2 to 5, which every request has alike. False: no such version. */
bool grpci_read_expected(struct grpc_op *op, const struct pb_field *f);

/* NULL, or why this stream cannot be written; `denied`: it is nobody's from outside. */
const char *grpci_check_target(const struct grpc_op *op, bool *denied);

/* Was the stream deleted for good? Other streams that take nothing can still be read. */
bool grpci_is_tombstone(const struct log_req *req);

/* Too much for one commit? */
bool grpci_is_too_large(const struct log_req *req);

#endif
