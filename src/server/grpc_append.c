/* Streams.Append, Delete and Tombstone: one commit for one call. */
#include <stdio.h>
#include <stdlib.h>

#include "base/must.h"
#include "server/grpc_append_int.h"

struct append_call {
    struct grpc_op *op;
    bool            named, sent;
};

/* The request. */

bool
grpci_read_expected(struct grpc_op *op, const struct pb_field *f)
{
    switch (f->key) {
    case PB_VARINT(2):
        op->expected = (int64_t)f->value;
        break;
    case PB_BYTES(3):
        op->expected = LOG_NO_STREAM;
        break;
    case PB_BYTES(4):
        op->expected = LOG_ANY;
        break;
    case PB_BYTES(5):
        op->expected = LOG_EXISTS;
        break;
    default:
        return true;
    }
    return f->key != PB_VARINT(2) || f->value <= INT64_MAX;
}

static bool
read_options(struct slice message, struct grpc_op *op)
{
    struct pb_in    in;
    struct pb_field f;
    bool            ok = true;

    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1))
            ok = grpci_read_name(f.bytes, &op->stream);
        else
            ok = grpci_read_expected(op, &f);
    }
    return ok && !in.bad;
}

const char *
grpci_check_target(const struct grpc_op *op, bool *denied)
{
    struct slice name = grpci_name(&op->stream);

    *denied = false;
    if (op->stream.too_long)
        return "a stream's name has at most 255 bytes";
    if (name.len == 0 || slice_is(name, "$$"))
        return "the stream's name is empty";
    *denied = grpci_is_reserved(name);
    return *denied ? "names that begin with '$' are the system's" : NULL;
}

bool
grpci_is_tombstone(const struct log_req *req)
{
    return req->rc == E_GONE && (req->gone_flags & LOG_STREAM_TOMBSTONE) != 0;
}

bool
grpci_is_too_large(const struct log_req *req)
{
    return req->rc == E_LIMIT && req->err.kind == ERR_DATA;
}

/* True: the call goes on. */
static bool
take_target(struct rpc *r, const struct grpc_op *op)
{
    bool        denied;
    const char *why = grpci_check_target(op, &denied);

    if (denied)
        grpci_refuse(r, RPC_PERMISSION_DENIED, "access-denied", grpci_name(&op->stream), why);
    else if (why != NULL)
        grpci_bad(r, why);
    return why == NULL;
}

/* Ends that are not the log's. */

static void
put_number(struct rpc *r, const char *name, uint64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    rpc_trailer(r, name, slice_str(text));
}

static void
refuse_size(struct rpc *r)
{
    put_number(r, "maximum-append-size", grpci_server(r)->conf.body_bytes_max);
    grpci_refuse(r, RPC_INVALID_ARGUMENT, "maximum-append-size-exceeded", (struct slice){0},
                 "the append is larger than one commit may be");
}

static void
refuse_event(struct rpc *r, const struct grpc_op *op, const char *why)
{
    const struct log_new_event *e = op->oversized;
    char                        id[ID_TEXT_LEN + 1];

    if (strcmp(why, "missing-required-metadata-property") == 0) {
        rpc_trailer(r, "required-metadata-properties", slice_str("type,content-type"));
        grpci_refuse(r, RPC_INVALID_ARGUMENT, why, (struct slice){0},
                     "a proposed message lacks its type or content-type");
    } else if (e != NULL) {
        id_format(&e->id, id);
        rpc_trailer(r, "event-id", slice_str(id));
        put_number(r, "proposed-append-event-size", e->data.len + e->meta.len);
        put_number(r, "maximum-append-event-size", LOG_EVENT_MAX);
        grpci_refuse(r, RPC_INVALID_ARGUMENT, why, (struct slice){0},
                     "an event has more than 16 MiB");
    } else {
        grpci_bad(r, why);
    }
}

/* What the log said. */

static void
fail(struct rpc *r, const struct grpc_op *op)
{
    const struct log_req *req = &op->req;

    if (grpci_is_too_large(req))
        refuse_size(r);
    else if (req->rc == E_GONE && !grpci_is_tombstone(req))
        rpc_end(r, RPC_FAILED_PRECONDITION, req->err.text);
    else
        grpci_fail(r, &req->err, grpci_name(&op->stream));
}

/* Current, then expected: the older clients' numbers, then the newer ones'. */
static void
put_wrong_version(struct buf *out, const struct grpc_op *op)
{
    struct pb_mark mark = pb_begin(out, 2, 0);
    int64_t        actual = op->req.wrong_actual;

    for (uint32_t n = 1; n <= 6; n += 5) {
        if (actual >= 0)
            pb_put_varint(out, n, (uint64_t)actual);
        else
            pb_put_empty(out, n + 1);
    }
    for (uint32_t n = 3; n <= 8; n += 5) {
        if (op->expected >= 0)
            pb_put_varint(out, n, (uint64_t)op->expected);
        else if (op->expected == LOG_EXISTS)
            pb_put_empty(out, n + 2);
        else if (n == 8 && op->expected == LOG_NO_STREAM)
            pb_put_empty(out, 11);
        else if (op->expected == LOG_ANY)
            pb_put_empty(out, n + 1);
    }
    pb_end(out, mark);
}

static void
put_success(struct buf *out, const struct grpc_op *op)
{
    struct pb_mark mark = pb_begin(out, 1, 0);

    if (op->count == 0 && op->req.wrong_actual < 0)
        pb_put_empty(out, 2);
    else
        pb_put_varint(out, 1,
                      op->count != 0 ? op->write.last_version : (uint64_t)op->req.wrong_actual);
    if (op->req.last.v != 0)
        grpci_put_position(out, 3, op->req.last.v);
    else
        pb_put_empty(out, 4);
    pb_end(out, mark);
}

static void
appended(struct grpc_op *op)
{
    struct rpc *r = op->rpc;
    size_t      mark;
    struct buf *out;

    if (op->req.rc != 0 && op->req.rc != E_WRONG_VERSION) {
        fail(r, op);
        return;
    }
    out = rpc_begin(r, &mark);
    if (op->req.rc == 0)
        put_success(out, op);
    else
        put_wrong_version(out, op);
    rpc_commit(r, mark);
    rpc_end(r, RPC_OK, NULL);
}

/* The calls. */

static struct append_call *
call_of(struct rpc *r)
{
    struct append_call *a = rpc_state(r);

    if (a != NULL)
        return a;
    a = calloc(1, sizeof *a);
    if (a != NULL)
        a->op = grpci_op_new(r);
    if (a == NULL || a->op == NULL) {
        free(a);
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "no memory for the append");
        return NULL;
    }
    rpc_set_state(r, a);
    return a;
}

static void
submit(struct append_call *a, void (*done)(struct grpc_op *))
{
    a->op->done = done;
    a->sent = true;
    grpci_op_send(a->op);
}

static void
on_gone(struct rpc *r)
{
    struct append_call *a = rpc_state(r);

    if (a == NULL)
        return;
    if (a->sent)
        a->op->rpc = NULL;
    else
        grpci_op_free(a->op);
    free(a);
}

static void
take_append(struct rpc *r, struct append_call *a, const struct pb_field *f)
{
    if (f->key == PB_BYTES(1)) {
        if (!read_options(f->bytes, a->op))
            grpci_bad(r, "the options are malformed");
        else if (take_target(r, a->op))
            a->named = true;
    } else if (f->key == PB_BYTES(2)) {
        if (!a->named)
            grpci_bad(r, "the options have to come first");
        else if (!grpci_op_add(a->op, f->bytes))
            refuse_size(r);
        else
            grpci_op_account(a->op);
    }
}

static void
append_message(struct rpc *r, struct slice message)
{
    struct append_call *a = call_of(r);
    struct pb_in        in;
    struct pb_field     f;

    if (a == NULL)
        return;
    pb_in_init(&in, message);
    while (rpc_state(r) != NULL && pb_next(&in, &f))
        take_append(r, a, &f);
    if (rpc_state(r) != NULL && in.bad)
        grpci_bad(r, "a message is malformed");
}

static void
append_end(struct rpc *r)
{
    struct append_call *a = rpc_state(r);
    const char         *why;

    if (a == NULL || !a->named) {
        grpci_bad(r, "the request has no options");
        return;
    }
    why = grpci_op_parse(a->op);
    if (why != NULL) {
        refuse_event(r, a->op, why);
    } else if (a->op->count == 0) {
        grpci_op_check_only(a->op);
        appended(a->op);
    } else {
        submit(a, appended);
    }
}

/* Delete and Tombstone. */

static void
deleted(struct grpc_op *op)
{
    struct rpc *r = op->rpc;
    char        text[24];
    size_t      mark;
    struct buf *out;

    if (op->req.rc == E_WRONG_VERSION) {
        (void)snprintf(text, sizeof text, "%lld", (long long)op->expected);
        rpc_trailer(r, "expected-version", slice_str(text));
        (void)snprintf(text, sizeof text, "%lld", (long long)op->req.wrong_actual);
        rpc_trailer(r, "actual-version", slice_str(text));
        grpci_refuse(r, RPC_FAILED_PRECONDITION, "wrong-expected-version", grpci_name(&op->stream),
                     op->req.err.text);
        return;
    }
    if (op->req.rc != 0) {
        fail(r, op);
        return;
    }
    out = rpc_begin(r, &mark);
    grpci_put_position(out, 1, op->req.last.v);
    rpc_commit(r, mark);
    rpc_end(r, RPC_OK, NULL);
}

static void
change_stream(struct rpc *r, struct slice message, uint32_t what)
{
    struct append_call *a = call_of(r);
    struct pb_in        in;
    struct pb_field     f;
    bool                ok = true;

    if (a == NULL)
        return;
    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f))
        if (f.key == PB_BYTES(1))
            ok = read_options(f.bytes, a->op);
    if (!ok || in.bad) {
        grpci_bad(r, "the request is malformed");
        return;
    }
    if (!take_target(r, a->op))
        return;
    a->op->change = (struct log_change){
        .stream = grpci_name(&a->op->stream), .expected = a->op->expected, .what = what};
    a->op->change_count = 1;
    submit(a, deleted);
}

static void
delete_message(struct rpc *r, struct slice message)
{
    change_stream(r, message, LOG_SET_DELETED);
}

static void
tombstone_message(struct rpc *r, struct slice message)
{
    change_stream(r, message, LOG_SET_TOMBSTONE);
}

const struct rpc_method grpci_streams_append = {
    .path = "/event_store.client.streams.Streams/Append",
    .many = true,
    .message = append_message,
    .half_closed = append_end,
    .gone = on_gone,
};
const struct rpc_method grpci_streams_delete = {
    .path = "/event_store.client.streams.Streams/Delete",
    .message = delete_message,
    .gone = on_gone,
};
const struct rpc_method grpci_streams_tombstone = {
    .path = "/event_store.client.streams.Streams/Tombstone",
    .message = tombstone_message,
    .gone = on_gone,
};
