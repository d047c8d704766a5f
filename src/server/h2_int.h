/* Inside src/server/h2*.c only. */
#ifndef OX_SERVER_H2_INT_H
#define OX_SERVER_H2_INT_H

#include <nghttp2/nghttp2.h>

#include "server/h2.h"

#define H2_TRAILERS_MAX 8
#define H2_NAME_MAX 100 /* bytes of a header that is kept */

struct h2 {
    struct h2_host   host;
    nghttp2_session *session;
    struct rpc      *rpcs, *spare; /* spare: an ended one, with its buffers, for the next call */
    unsigned         rpc_count;
    unsigned         unsaid; /* calls whose request is not whole, and not answered yet */
    size_t           bytes;
    uint64_t         heard_ms, pinged_ms, used_ms;
    uint64_t         cheap, cheap_ms; /* frames that cost nothing: a bucket that leaks */
    bool             failed, draining, inside, due; /* due: a call goes on */
    bool             partial;                       /* a message lacks its end */
};

enum h2_encoding {
    H2_IDENTITY,
    H2_GZIP,
    H2_UNKNOWN,
};

struct rpc {
    struct h2               *h2;
    struct rpc              *prev, *next;
    int32_t                  id;
    const struct rpc_method *method;
    const struct rpc_method *found; /* not entered yet */
    void                    *state;
    struct user             *who;
    struct rpc_hold         *hold;
    struct buf               path, proof; /* of the request */
    uint32_t                 header_bytes;
    char                     authority[H2_NAME_MAX], connection[H2_NAME_MAX];
    uint64_t                 deadline_ms, progress_ms;
    bool                     is_post, is_grpc, bad_timeout, traced;
    bool                     said; /* is not among h2->unsaid */
    enum h2_encoding         encoding;
    struct trace_context     trace;

    struct buf in;
    struct buf plain; /* of a compressed message, while it is looked at */
    size_t     held;  /* bytes of the window that are not given back yet */
    uint32_t   messages;
    bool       half_closed, told, paused, delivering, due;

    struct buf out;
    size_t     out_at, charged;
    bool       answered; /* headers are out */
    bool       stalled;  /* was above the mark: is told when below */
    bool       ended, went, closed;
    int        status;
    char       text[256];
    unsigned   trailer_count;
    struct buf trailers; /* name NUL value NUL, each */
};

/* h2_rpc.c */
struct rpc *h2i_rpc_new(struct h2 *h2, int32_t id);
void        h2i_rpc_free(struct rpc *r); /* its stream is closed */
void        h2i_spare_free(struct h2 *h2);
void        h2i_rpc_account(struct rpc *r);
void        h2i_rpc_said(struct rpc *r);
void        h2i_rpc_header(struct rpc *r, struct slice name, struct slice value);
void        h2i_rpc_start(struct rpc *r); /* the headers are whole */
void        h2i_rpc_data(struct rpc *r, struct slice bytes);
void        h2i_rpc_deliver(struct rpc *r);
void        h2i_rpc_tick(struct rpc *r, uint64_t now);

/* h2_gzip.c: at most out->limit bytes. False: it is malformed, or out->failed. */
bool h2i_inflate(struct slice in, struct buf *out);

#endif
