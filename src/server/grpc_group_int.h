/* Inside src/server only: what the two files of PersistentSubscriptions share. */
#ifndef OX_SERVER_GRPC_GROUP_INT_H
#define OX_SERVER_GRPC_GROUP_INT_H

#include "core/group.h"
#include "server/grpc_int.h"

#define GRPCI_GROUPS "/event_store.client.persistent_subscriptions.PersistentSubscriptions/"

struct group_target {
    struct grpc_name source, name;
};

/* With the trailers stream-name and group-name. */
void grpci_group_refuse(struct rpc *r, enum rpc_status status, const char *exception,
                        const struct group_target *target, const char *text);
/* What the groups said. */
void grpci_group_fail(struct rpc *r, const struct err *err, const struct group_target *target);

/* The member's output has room. */
void grpci_member_go_on(struct rpc *r);

extern const struct rpc_method grpci_group_read;

#endif
