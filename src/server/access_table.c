/*
 * What each route and each method asks for. What is not listed is the admins' alone, and a test
 * says that it was forgotten.
 */
#include "server/access_int.h"

struct route_need {
    const char      *method, *path;
    enum access_need need;
};

static const struct route_need route_needs[] = {
    {"GET", "/", ACCESS_OPEN},
    {"GET", "/ping", ACCESS_OPEN},
    {"GET", "/info", ACCESS_OPEN},
    {"GET", "/gossip", ACCESS_OPEN},
    {"GET", "/health/live", ACCESS_OPEN},
    {"GET", "/health/ready", ACCESS_OPEN},
    {"GET", "/metrics", ACCESS_USER},
    {"GET", "/v1/stats", ACCESS_USER},
    {"GET", "/v1/access", ACCESS_USER},

    {"GET", "/v1/all", ACCESS_USER},      /* each event is looked at */
    {"GET", "/v1/streams", ACCESS_USER},  /* each name */
    {"POST", "/v1/commits", ACCESS_USER}, /* all that it does */
    {"GET", "/v1/streams/{stream}", ACCESS_STREAM_READ},
    {"GET", "/v1/streams/{stream}/info", ACCESS_STREAM_READ},
    {"GET", "/v1/streams/{stream}/metadata", ACCESS_STREAM_META_READ},
    {"POST", "/v1/streams/{stream}", ACCESS_STREAM_WRITE},
    {"POST", "/v1/streams/{stream}/links", ACCESS_STREAM_WRITE},
    {"POST", "/streams/{stream}", ACCESS_STREAM_WRITE},
    {"DELETE", "/v1/streams/{stream}", ACCESS_USER}, /* the commit is looked at */
    {"POST", "/v1/streams/{stream}/truncate", ACCESS_USER},
    {"POST", "/v1/streams/{stream}/close", ACCESS_USER},
    {"POST", "/v1/streams/{stream}/open", ACCESS_USER},
    {"PUT", "/v1/streams/{stream}/metadata", ACCESS_USER},

    {"GET", "/v1/indexes", ACCESS_USER},
    {"PUT", "/v1/indexes/{name}", ACCESS_OPS},
    {"GET", "/v1/indexes/{name}", ACCESS_USER},
    {"DELETE", "/v1/indexes/{name}", ACCESS_OPS},
    {"POST", "/v1/indexes/{name}/rebuild", ACCESS_OPS},
    {"GET", "/v1/indexes/{name}/values", ACCESS_ALL},
    {"GET", "/v1/indexes/{name}/events", ACCESS_USER}, /* each event */

    {"GET", "/v1/groups", ACCESS_OPS},
    {"PUT", "/v1/groups/{stream}/{group}", ACCESS_OPS},
    {"PATCH", "/v1/groups/{stream}/{group}", ACCESS_OPS},
    {"GET", "/v1/groups/{stream}/{group}", ACCESS_OPS},
    {"DELETE", "/v1/groups/{stream}/{group}", ACCESS_OPS},
    {"GET", "/v1/groups/{stream}/{group}/events", ACCESS_GROUP},
    {"POST", "/v1/groups/{stream}/{group}/ack", ACCESS_GROUP},
    {"POST", "/v1/groups/{stream}/{group}/nack", ACCESS_GROUP},
    {"DELETE", "/v1/groups/{stream}/{group}/members/{member}", ACCESS_GROUP},
    {"GET", "/v1/groups/{stream}/{group}/parked", ACCESS_GROUP},
    {"POST", "/v1/groups/{stream}/{group}/replay", ACCESS_OPS},
    {"POST", "/v1/groups/{stream}/{group}/skip", ACCESS_OPS},

    {"GET", "/v1/scavenge", ACCESS_OPS},
    {"POST", "/v1/scavenge", ACCESS_OPS},
    {"DELETE", "/v1/scavenge", ACCESS_OPS},
    {"POST", "/v1/backup", ACCESS_OPS},
    {"GET", "/v1/backup", ACCESS_OPS},
    {"DELETE", "/v1/backup", ACCESS_OPS},
    {"POST", "/v1/verify", ACCESS_OPS},
    {"GET", "/v1/verify", ACCESS_OPS},
    {"DELETE", "/v1/verify", ACCESS_OPS},

    {"GET", "/v1/subjects", ACCESS_ADMIN},
    {"POST", "/v1/subjects/erase", ACCESS_ADMIN},
    {"GET", "/v1/subjects/erase", ACCESS_ADMIN},
    {"DELETE", "/v1/subjects/erase", ACCESS_ADMIN},
    {"POST", "/v1/subjects/show", ACCESS_ADMIN},
    {"GET", "/v1/subjects/show", ACCESS_ADMIN},
    {"DELETE", "/v1/subjects/show", ACCESS_ADMIN},

    {"GET", "/v1/surgeries", ACCESS_OPS},
    {"GET", "/v1/surgeries/{name}", ACCESS_OPS},
    {"POST", "/v1/surgeries/{name}", ACCESS_ADMIN},
    {"POST", "/v1/surgeries/{name}/{command}", ACCESS_ADMIN},

    {"GET", "/v1/sources", ACCESS_OPS},
    {"GET", "/v1/sources/{name}", ACCESS_OPS},
    {"POST", "/v1/sources/{name}/unverified", ACCESS_USER}, /* where each message goes */
    {"POST", "/v1/sources/{name}/{command}", ACCESS_OPS},
    {"GET", "/v1/sinks", ACCESS_OPS},
    {"GET", "/v1/sinks/{name}", ACCESS_OPS},
    {"POST", "/v1/sinks/{name}/{command}", ACCESS_OPS},
    {"GET", "/v1/migrations", ACCESS_OPS},
    {"GET", "/v1/migrations/{name}", ACCESS_OPS},
    {"GET", "/v1/migrations/{name}/route", ACCESS_USER}, /* services ask it for each key */
    {"GET", "/v1/migrations/{name}/report", ACCESS_OPS},
    {"POST", "/v1/migrations/{name}/{command}", ACCESS_OPS},

    {"GET", "/v1/users", ACCESS_ADMIN},
    {"POST", "/v1/users", ACCESS_ADMIN},
    {"GET", "/v1/users/{user}", ACCESS_SELF},
    {"PATCH", "/v1/users/{user}", ACCESS_ADMIN},
    {"DELETE", "/v1/users/{user}", ACCESS_ADMIN},
    {"POST", "/v1/users/{user}/password", ACCESS_SELF},
    {"POST", "/v1/users/{user}/enable", ACCESS_ADMIN},
    {"POST", "/v1/users/{user}/disable", ACCESS_ADMIN},
    {"POST", "/v1/users/{user}/tokens", ACCESS_SELF},
    {"DELETE", "/v1/users/{user}/tokens/{token}", ACCESS_SELF},
};

/* A path that ends with '/' stands for all of a service. */
static const struct {
    const char      *path;
    enum access_need need;
} method_needs[] = {
    {"/event_store.client.server_features.ServerFeatures/", ACCESS_OPEN},
    {"/event_store.client.gossip.Gossip/", ACCESS_OPEN},
    {"/event_store.client.streams.Streams/", ACCESS_USER}, /* each stream is looked at */
    {"/kurrentdb.protocol.v2.streams.StreamsService/", ACCESS_USER},
    {"/event_store.client.persistent_subscriptions.PersistentSubscriptions/Read", ACCESS_USER},
    {"/event_store.client.persistent_subscriptions.PersistentSubscriptions/", ACCESS_OPS},
    {"/event_store.client.operations.Operations/", ACCESS_OPS},
    {"/event_store.client.monitoring.Monitoring/", ACCESS_OPS},
    {"/event_store.client.projections.Projections/", ACCESS_OPS},
    {"/event_store.client.users.Users/ChangePassword", ACCESS_USER}, /* the old one is asked for */
    {"/event_store.client.users.Users/Details", ACCESS_USER},        /* one's own */
    {"/event_store.client.users.Users/", ACCESS_ADMIN},
};

enum access_need
serveri_access_need(const char *method, const char *path)
{
    for (size_t i = 0; i < sizeof route_needs / sizeof route_needs[0]; i++)
        if (strcmp(route_needs[i].method, method) == 0 && strcmp(route_needs[i].path, path) == 0)
            return route_needs[i].need;
    return ACCESS_UNDECIDED;
}

enum access_need
serveri_access_need_grpc(struct slice path)
{
    for (size_t i = 0; i < sizeof method_needs / sizeof method_needs[0]; i++) {
        const char *known = method_needs[i].path;
        size_t      len = strlen(known);

        if (known[len - 1] == '/' ? slice_starts(path, slice_of(known, len))
                                  : slice_is(path, known))
            return method_needs[i].need;
    }
    return ACCESS_UNDECIDED;
}
