/*
 * Inside src/server only: the services of KurrentDB's and EventStoreDB's clients. The wire is in
 * docs/grpc.md's terms; field numbers stand where they are read and written.
 */
#ifndef OX_SERVER_GRPC_INT_H
#define OX_SERVER_GRPC_INT_H

#include <regex.h>

#include "base/kdb.h"
#include "log/log.h"
#include "server/h2.h"
#include "server/server_int.h"

#define GRPCI_VERSION "26.1.0" /* of the server whose protocol this is */
#define GRPCI_PREFIXES_MAX 64
#define GRPCI_REGEX_MAX 1024 /* bytes of a pattern */
#define GRPCI_END UINT64_MAX /* as a revision or position: the end, or unknown */

/* The method of a path; NULL: there is none. */
const struct rpc_method *grpci_find(const struct server *s, struct slice path);
/* All there are, one after the other, then NULL. */
const struct rpc_method *grpci_nth(const struct server *s, size_t n);

struct conn   *grpci_conn(const struct rpc *r);
struct server *grpci_server(const struct rpc *r);

/* Messages that several services share. */

/* The one message of many requests: {1 options}. False: malformed. */
bool grpci_options(struct slice message, struct slice *out);

struct grpc_name {
    char   text[LOG_NAME_MAX + 1];
    size_t len;
    bool   there, too_long;
};

static inline struct slice
grpci_name(const struct grpc_name *name)
{
    return slice_of(name->text, name->len);
}

/* base/kdb.h has what the source kurrentdb speaks too. */
#define grpci_read_uuid kdb_read_uuid
#define grpci_put_uuid kdb_put_uuid
#define grpci_read_position kdb_read_position
#define grpci_put_position kdb_put_position
#define grpci_put_name kdb_put_name

/* StreamIdentifier. False: malformed. */
bool grpci_read_name(struct slice message, struct grpc_name *out);
void grpci_set_name(struct grpc_name *out, struct slice text);

/* Is the UUID option (1 structured, 2 string) for text? False: malformed or none. */
bool grpci_read_uuid_option(struct slice message, bool *as_text);

/* An entry of a map of texts. */
void grpci_put_pair(struct buf *out, uint32_t number, const char *key, struct slice value);
/* google.protobuf.Timestamp of now. */
void grpci_put_now(struct rpc *r, struct buf *out, uint32_t number);

/* What a read event is on the wire: RecordedEvent. */
struct grpc_recorded {
    const struct log_event *event;
    struct slice            stream;
    uint64_t                revision, pos;
    struct ox_id            id;
    struct slice            type, meta, data;
    int64_t                 created_us;
    bool                    json;
};
void grpci_recorded_of(const struct log_event *e, struct grpc_recorded *out);
/* The link through which the event was read; its data goes into `data`. */
void grpci_recorded_link(const struct log_event *e, struct grpc_recorded *out, struct buf *data);
void
grpci_put_recorded(struct buf *out, uint32_t number, const struct grpc_recorded *e, bool text_id);

/*
 * The event (1), its link (2) and the position (3) of a ReadEvent. With `resolve` a link that leads
 * nowhere is given as a link without an event.
 */
void grpci_put_event(struct buf *out, const struct log_event *e, bool resolve, bool text_id);

/* Ends. */

void grpci_bad(struct rpc *r, const char *text); /* INVALID_ARGUMENT */
/* With the trailer `exception`, and the stream's name where it is not empty. */
void grpci_refuse(struct rpc *r, enum rpc_status status, const char *exception, struct slice stream,
                  const char *text);
enum rpc_status grpci_status(const struct err *err);
/* What the log said of this stream. */
void grpci_fail(struct rpc *r, const struct err *err, struct slice stream);
/* One message, and the end. */
void grpci_answer(struct rpc *r, struct slice message);

/* Which events of $all: FilterOptions. */
struct grpc_filter {
    bool         there, by_type, has_regex;
    uint32_t     window, multiplier; /* of checkpoints, in events looked at */
    unsigned     prefix_count;
    struct slice prefixes[GRPCI_PREFIXES_MAX]; /* into `texts` */
    struct buf   texts;
    struct slice pattern; /* as it was given: valid as long as the message */
    regex_t      regex;
};
/* NULL, or what is wrong. */
const char *grpci_filter_read(struct slice message, struct grpc_filter *f);
bool        grpci_filter_wants(const struct grpc_filter *f, const struct log_event *e);
void        grpci_filter_fini(struct grpc_filter *f);

/* Appends. */

/* One commit on its way to the log. It outlives its call; it is freed when the log has answered. */
struct grpc_op {
    struct message message; /* first */
    struct conn   *conn;
    struct rpc    *rpc; /* NULL: gone */
    void (*done)(struct grpc_op *);
    struct grpc_op     *next, *prev; /* the call's own list */
    struct grpc_op     *submit_next;
    uint64_t            submitted_us;
    struct append_trace trace;

    struct grpc_name      stream;
    int64_t               expected;
    struct buf            bytes; /* proposed messages, each with its length before it */
    uint32_t              count;
    struct log_new_event *events, few; /* few: the only one */
    struct log_write      write, *writes;
    struct log_check     *checks;
    struct log_change     change;
    struct log_req        req;
    uint32_t              write_count, check_count, change_count;
    uint32_t             *order;
    struct buf            more; /* what the events point at and is not in `bytes` */
    size_t                charged;

    struct ox_id                correlation; /* BatchAppend */
    bool                        text_id;
    uint64_t                    deadline_us; /* wall clock; 0: none */
    const struct log_new_event *oversized;   /* the event that is too large for the log */
};

struct grpc_op *grpci_op_new(struct rpc *r);
void            grpci_op_free(struct grpc_op *op);
/* One ProposedMessage. False: memory is out or the append is too large. */
bool grpci_op_add(struct grpc_op *op, struct slice message);
/*
 * The events out of the messages. NULL, or the name of what is wrong: "missing-required-metadata-
 * property", "maximum-append-event-size-exceeded", or a text of a malformed one.
 */
const char *grpci_op_parse(struct grpc_op *op);
/* To the log at the end of the loop's turn; `done` is called once unless the call is gone. */
void grpci_op_send(struct grpc_op *op);
void grpci_op_account(struct grpc_op *op);
/* What the log would say to an append of nothing: op->req has it. */
void grpci_op_check_only(struct grpc_op *op);
/* Is it a stream whose events nobody may append from outside? */
bool grpci_is_reserved(struct slice stream);

/* Methods, each in the file of its service. */
extern const struct rpc_method grpci_streams_read, grpci_streams_append, grpci_streams_delete,
    grpci_streams_tombstone, grpci_streams_batch;
extern const struct rpc_method *const grpci_group_methods[];
extern const size_t                   grpci_group_method_count;
extern const struct rpc_method        grpci_v2_session, grpci_v2_records;

struct rpc_table {
    const struct rpc_method *methods;
    size_t                   count;
};
extern const struct rpc_table grpci_admin, grpci_projections, grpci_users;

#endif
