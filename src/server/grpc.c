/* The table of methods; the small services: ServerFeatures and Gossip. */
#include <stdlib.h>

#include "server/grpc_int.h"

/* ServerFeatures. */

struct supported {
    const char *service, *method;
    const char *features[2];
};

#define GROUPS_SERVICE "event_store.client.persistent_subscriptions.persistentsubscriptions"
#define V2_SERVICE "kurrentdb.protocol.v2.streams.streamsservice"
#define PROJECTIONS_SERVICE "event_store.client.projections.projections"
#define OPERATIONS_SERVICE "event_store.client.operations.operations"
#define USERS_SERVICE "event_store.client.users.users"
#define STREAMS_SERVICE "event_store.client.streams.streams"

static const struct supported supported[] = {
    {STREAMS_SERVICE, "read", {"position", "events"}},
    {STREAMS_SERVICE, "append", {NULL}},
    {STREAMS_SERVICE, "batchappend", {"deadline_duration"}},
    {STREAMS_SERVICE, "delete", {NULL}},
    {STREAMS_SERVICE, "tombstone", {NULL}},
    {GROUPS_SERVICE, "create", {"stream", "all"}},
    {GROUPS_SERVICE, "update", {"stream", "all"}},
    {GROUPS_SERVICE, "delete", {"stream", "all"}},
    {GROUPS_SERVICE, "read", {"stream", "all"}},
    {GROUPS_SERVICE, "getinfo", {"stream", "all"}},
    {GROUPS_SERVICE, "list", {"stream", "all"}},
    {GROUPS_SERVICE, "replayparked", {"stream", "all"}},
    {GROUPS_SERVICE, "truncateparked", {"stream", "all"}},
    {GROUPS_SERVICE, "restartsubsystem", {"stream", "all"}},
    {USERS_SERVICE, "create", {NULL}},
    {USERS_SERVICE, "update", {NULL}},
    {USERS_SERVICE, "delete", {NULL}},
    {USERS_SERVICE, "enable", {NULL}},
    {USERS_SERVICE, "disable", {NULL}},
    {USERS_SERVICE, "details", {NULL}},
    {USERS_SERVICE, "changepassword", {NULL}},
    {USERS_SERVICE, "resetpassword", {NULL}},
    {V2_SERVICE, "appendsession", {NULL}},
    {V2_SERVICE, "appendrecords", {NULL}},
    {PROJECTIONS_SERVICE, "statistics", {NULL}},
    {PROJECTIONS_SERVICE, "enable", {NULL}},
    {PROJECTIONS_SERVICE, "disable", {NULL}},
    {PROJECTIONS_SERVICE, "state", {NULL}},
    {PROJECTIONS_SERVICE, "result", {NULL}},
    {PROJECTIONS_SERVICE, "reset", {NULL}},
    {PROJECTIONS_SERVICE, "restartsubsystem", {NULL}},
    {OPERATIONS_SERVICE, "startscavenge", {NULL}},
    {OPERATIONS_SERVICE, "stopscavenge", {NULL}},
    {OPERATIONS_SERVICE, "mergeindexes", {NULL}},
    {OPERATIONS_SERVICE, "resignnode", {NULL}},
    {OPERATIONS_SERVICE, "setnodepriority", {NULL}},
    {OPERATIONS_SERVICE, "restartpersistentsubscriptions", {NULL}},
    {"event_store.client.monitoring.monitoring", "stats", {NULL}},
    {"event_store.client.gossip.gossip", "read", {NULL}},
    {"event_store.client.server_features.serverfeatures", "getsupportedmethods", {NULL}},
};

static void
get_supported_methods(struct rpc *r, struct slice message)
{
    size_t      mark;
    struct buf *out = rpc_begin(r, &mark);

    for (size_t i = 0; i < sizeof supported / sizeof supported[0]; i++) {
        const struct supported *s = &supported[i];
        struct pb_mark          one = pb_begin(out, 1, 0);

        pb_put_str(out, 1, s->method);
        pb_put_str(out, 2, s->service);
        for (int k = 0; k < 2 && s->features[k] != NULL; k++)
            pb_put_str(out, 3, s->features[k]);
        pb_end(out, one);
    }
    pb_put_str(out, 2, GRPCI_VERSION);
    rpc_commit(r, mark);
    rpc_end(r, RPC_OK, NULL);
}

/* Gossip: a cluster of one. */

#define STATE_LEADER 8

/* "host:port" as the client named it, so that it finds its way back. */
static void
put_endpoint(struct rpc *r, struct buf *out, uint32_t number)
{
    struct server *s = grpci_server(r);
    struct slice   authority = rpc_authority(r), host = authority;
    uint64_t       port = s->port;
    const char    *p = authority.data;
    struct pb_mark mark = pb_begin(out, number, 0);

    for (size_t i = authority.len; i > 0; i--) {
        if (p[i - 1] == ']')
            break;
        if (p[i - 1] != ':')
            continue;
        host.len = i - 1;
        port = strtoul(p + i, NULL, 10); /* ends in a NUL */
        break;
    }
    if (host.len == 0)
        host = slice_str(s->conf.host);
    pb_put_bytes(out, 1, host);
    pb_put_varint(out, 2, port);
    pb_end(out, mark);
}

static void
read_gossip(struct rpc *r, struct slice message)
{
    struct server  *s = grpci_server(r);
    struct log_info info;
    struct pb_mark  member;
    size_t          mark;
    struct buf     *out = rpc_begin(r, &mark);

    log_get_info(s->log, &info);
    member = pb_begin(out, 1, 0);
    grpci_put_uuid(out, 1, &info.id, false);
    pb_put_varint(out, 2, (uint64_t)s->env->ops->wall_us(s->env) * 10);
    pb_put_varint(out, 3, STATE_LEADER);
    pb_put_varint(out, 4, 1);
    put_endpoint(r, out, 5);
    pb_end(out, member);
    rpc_commit(r, mark);
    rpc_end(r, RPC_OK, NULL);
}

/* The table. */

static const struct rpc_method features = {
    .path = "/event_store.client.server_features.ServerFeatures/GetSupportedMethods",
    .message = get_supported_methods,
};
static const struct rpc_method gossip = {
    .path = "/event_store.client.gossip.Gossip/Read",
    .message = read_gossip,
};

static const struct rpc_method *const methods[] = {
    &grpci_streams_batch,
    &grpci_streams_append,
    &grpci_streams_read,
    &grpci_streams_delete,
    &grpci_streams_tombstone,
    &features,
    &gossip,
    &grpci_v2_session,
    &grpci_v2_records,
};

static const struct rpc_table *const tables[] = {&grpci_admin, &grpci_projections, &grpci_users};

#define METHOD_COUNT (sizeof methods / sizeof methods[0])

const struct rpc_method *
grpci_nth(const struct server *s, size_t n)
{
    if (n < METHOD_COUNT)
        return methods[n];
    n -= METHOD_COUNT;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        if (n < tables[i]->count)
            return &tables[i]->methods[n];
        n -= tables[i]->count;
    }
    return n < s->group_method_count ? s->group_methods[n] : NULL;
}

const struct rpc_method *
grpci_find(const struct server *s, struct slice path)
{
    const struct rpc_method *method;

    for (size_t n = 0; (method = grpci_nth(s, n)) != NULL; n++)
        if (slice_is(path, method->path))
            break;
    return method;
}
