/* Between the files of src/source/kurrentdb only. */
#ifndef OX_SOURCE_KURRENTDB_KURRENTDB_INT_H
#define OX_SOURCE_KURRENTDB_KURRENTDB_INT_H

#include "net/grpc.h"
#include "source/source.h"

#define KURRENTDBI_HOSTS_MAX 16
#define KURRENTDBI_PREFIXES_MAX 64
#define KURRENTDBI_MESSAGE_MAX ((size_t)40 << 20) /* an event of 16 MiB and what is around it */

struct kurrentdbi_host {
    char     name[256];
    uint16_t port;
};

/* Where to connect, from the connection string and the keys beside it. */
struct kurrentdbi_where {
    struct kurrentdbi_host hosts[KURRENTDBI_HOSTS_MAX];
    unsigned               host_count;
    bool                   tls, verify, discover;
    char                  *user, *password, *ca_file, *cert_file, *key_file; /* NULL: none */
    uint32_t               connect_ms;
};

/* A place in $all. */
struct kurrentdbi_pos {
    uint64_t commit, prepare;
};

/* What a ReadResp is; slices into the message. */
enum kurrentdbi_kind {
    KURRENTDBI_OTHER, /* of no interest, or newer than this client */
    KURRENTDBI_EVENT,
    KURRENTDBI_PLACE, /* nothing of interest up to `pos` */
    KURRENTDBI_CAUGHT_UP,
    KURRENTDBI_FELL_BEHIND,
};

struct kurrentdbi_answer {
    enum kurrentdbi_kind  kind;
    struct kurrentdbi_pos pos;
    struct change_event   event;
    int64_t               created_us;
};

/* E_INVALID, ERR_FATAL; the text never holds the connection string. */
int  kurrentdbi_parse(struct slice connection, struct kurrentdbi_where *out, struct err *err);
void kurrentdbi_where_fini(struct kurrentdbi_where *w);

/* One of the hosts, or with discovery the node that they say is the leader. */
int kurrentdbi_connect(struct ox_env *env, const struct kurrentdbi_where *w, struct net_grpc **out,
                       struct kurrentdbi_host *node, struct err *err);

/* Requests of Streams/Read of $all, and of others that are empty. */
#define KURRENTDBI_READ "/event_store.client.streams.Streams/Read"
#define KURRENTDBI_GOSSIP "/event_store.client.gossip.Gossip/Read"
#define KURRENTDBI_FEATURES "/event_store.client.server_features.ServerFeatures/GetSupportedMethods"
/* From after `after`; NULL: from the start. */
void kurrentdbi_put_subscribe(struct buf *out, const struct kurrentdbi_pos *after);
/* One event, from `at` on. */
void kurrentdbi_put_read_one(struct buf *out, const struct kurrentdbi_pos *at);

/* False: malformed. */
bool kurrentdbi_read_answer(struct slice message, struct kurrentdbi_answer *out);
/* The node to talk to, of a ClusterInfo. False: malformed, or there is none. */
bool kurrentdbi_read_members(struct slice message, struct kurrentdbi_host *out);
/* The version of the server; empty: not said. */
struct slice kurrentdbi_read_version(struct slice message);

#endif
