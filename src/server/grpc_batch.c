/*
 * Streams.BatchAppend: one call for all of a client's appends, which come in pieces under ids of
 * the client's. Each is a commit of its own and is answered by itself; refusals too.
 */
#include <stdlib.h>

#include "base/must.h"
#include "server/grpc_append_int.h"

#define OPEN_MAX 1000             /* appends that have begun and are not whole */
#define WAITING_BYTES (32U << 20) /* of appends with the log; beyond it the client waits */
#define WAITING_MAX 10000

struct batch {
    struct rpc     *rpc;
    struct grpc_op *open, *sent;
    uint32_t        open_count, sent_count;
    uint64_t        open_bytes, sent_bytes;
    bool            paused, ends, drains;
};

static void
link_op(struct grpc_op **list, struct grpc_op *op)
{
    op->prev = NULL;
    op->next = *list;
    if (*list != NULL)
        (*list)->prev = op;
    *list = op;
}

static void
unlink_op(struct grpc_op **list, struct grpc_op *op)
{
    if (op->prev != NULL)
        op->prev->next = op->next;
    else
        *list = op->next;
    if (op->next != NULL)
        op->next->prev = op->prev;
}

/* Answers. */

/* What went wrong, with the name that its class has in the protocol. */
static void
put_error(struct buf *out, uint64_t code, const char *name, struct slice detail)
{
    struct pb_mark status = pb_begin(out, 2, 0), any;
    struct buf     url = {.limit = 128};

    buf_add_str(&url, "type.googleapis.com/event_store.client.");
    buf_add_str(&url, name);
    pb_put_varint(out, 1, code);
    pb_put_str(out, 2, name);
    any = pb_begin(out, 3, 0);
    pb_put_bytes(out, 1, buf_slice(&url));
    pb_put_bytes(out, 2, detail);
    pb_end(out, any);
    pb_end(out, status);
    buf_fini(&url);
}

static void
put_wrong_version(struct buf *detail, const struct grpc_op *op)
{
    if (op->req.wrong_actual >= 0)
        pb_put_varint(detail, 1, (uint64_t)op->req.wrong_actual);
    else
        pb_put_empty(detail, 2);
    if (op->expected >= 0)
        pb_put_varint(detail, 3, (uint64_t)op->expected);
    else
        pb_put_empty(detail, op->expected == LOG_ANY ? 4 : op->expected == LOG_EXISTS ? 5 : 6);
}

static void
put_failure(struct buf *out, const struct grpc_op *op)
{
    const struct log_req *req = &op->req;
    struct buf            detail = {0};
    char                  id[ID_TEXT_LEN + 1];

    if (req->rc == E_WRONG_VERSION) {
        put_wrong_version(&detail, op);
        put_error(out, 6, "WrongExpectedVersion", buf_slice(&detail));
    } else if (grpci_is_tombstone(req)) {
        grpci_put_name(&detail, 1, grpci_name(&op->stream));
        put_error(out, 5, "StreamDeleted", buf_slice(&detail));
    } else if (op->oversized != NULL) {
        id_format(&op->oversized->id, id);
        pb_put_str(&detail, 1, id);
        pb_put_varint(&detail, 2, op->oversized->data.len + op->oversized->meta.len);
        pb_put_varint(&detail, 3, LOG_EVENT_MAX);
        put_error(out, 3, "MaximumAppendEventSizeExceeded", buf_slice(&detail));
    } else if (grpci_is_too_large(req)) {
        pb_put_varint(&detail, 1, op->conn->server->conf.body_bytes_max);
        put_error(out, 3, "MaximumAppendSizeExceeded", buf_slice(&detail));
    } else if (req->err.kind == ERR_UNSURE || req->rc == E_TIMEOUT) {
        put_error(out, 4, "Timeout", (struct slice){0});
    } else if (req->rc == E_AUTH) {
        put_error(out, 7, "AccessDenied", (struct slice){0});
    } else if (req->rc == E_INVALID || req->rc == E_SYNTAX || req->rc == E_SCHEMA ||
               req->rc == E_GONE) {
        pb_put_str(&detail, 1, req->err.text);
        put_error(out, 3, "BadRequest", buf_slice(&detail));
    } else {
        put_error(out, 2, "Unknown", (struct slice){0});
    }
    buf_fini(&detail);
}

static void
put_success(struct buf *out, const struct grpc_op *op)
{
    struct pb_mark mark = pb_begin(out, 3, 0);

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

/* Which append it was. */
static void
put_which(struct buf *out, const struct grpc_op *op)
{
    grpci_put_name(out, 4, grpci_name(&op->stream));
    if (op->expected >= 0)
        pb_put_varint(out, 5, (uint64_t)op->expected);
    else
        pb_put_empty(out, op->expected == LOG_NO_STREAM ? 6 : op->expected == LOG_ANY ? 7 : 8);
}

static void
answer(struct grpc_op *op)
{
    size_t      mark;
    struct buf *out = rpc_begin(op->rpc, &mark);

    grpci_put_uuid(out, 1, &op->correlation, op->text_id);
    if (op->req.rc == 0)
        put_success(out, op);
    else
        put_failure(out, op);
    put_which(out, op);
    rpc_commit(op->rpc, mark);
}

static void
end_if_due(struct batch *b)
{
    if (b->sent_count != 0)
        return;
    if (b->ends)
        rpc_end(b->rpc, RPC_OK, NULL);
    else if (b->drains)
        rpc_end(b->rpc, RPC_UNAVAILABLE, "the server is stopping");
}

/* On the loop: the log has answered. */
static void
appended(struct grpc_op *op)
{
    struct batch *b = rpc_state(op->rpc);

    answer(op);
    unlink_op(&b->sent, op);
    b->sent_count--;
    b->sent_bytes -= op->bytes.len;
    if (b->paused && b->sent_bytes < WAITING_BYTES / 2 && b->sent_count < WAITING_MAX / 2 &&
        rpc_pending(b->rpc) < H2_OUT_HIGH) {
        b->paused = false;
        rpc_resume(b->rpc); /* the call may be gone afterwards */
        return;
    }
    end_if_due(b);
}

/* Answered without the log. */
static void
refuse(struct batch *b, struct grpc_op *op, int code, const char *text)
{
    op->req.rc = err_set(&op->req.err, __FILE__, __LINE__, code, ERR_DATA, "%s", text);
    answer(op);
    grpci_op_free(op);
}

/* The request. */

static uint64_t
read_time(struct slice message)
{
    struct pb_in    in;
    struct pb_field f;
    uint64_t        us = 0;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_VARINT(1) && f.value < UINT32_MAX)
            us += f.value * 1000000;
        else if (f.key == PB_VARINT(2) && f.value < 1000000000)
            us += f.value / 1000;
    }
    return us;
}

static bool
read_options(struct slice message, struct grpc_op *op)
{
    struct ox_env  *env = op->conn->server->env;
    struct pb_in    in;
    struct pb_field f;
    bool            ok = true;

    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1))
            ok = grpci_read_name(f.bytes, &op->stream);
        else if (f.key == PB_BYTES(6))
            op->deadline_us = read_time(f.bytes);
        else if (f.key == PB_BYTES(7))
            op->deadline_us = (uint64_t)env->ops->wall_us(env) + read_time(f.bytes);
        else
            ok = grpci_read_expected(op, &f);
    }
    return ok && !in.bad;
}

struct piece {
    struct ox_id correlation;
    bool         has_id, text_id, has_options, is_final;
    struct slice options;
};

static bool
read_piece(struct slice message, struct piece *p)
{
    struct pb_in    in, uuid;
    struct pb_field f, form;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1)) {
            p->has_id = grpci_read_uuid(f.bytes, &p->correlation);
            pb_in_init(&uuid, f.bytes);
            while (pb_next(&uuid, &form))
                p->text_id = form.key == PB_BYTES(2);
        } else if (f.key == PB_BYTES(2)) {
            p->has_options = true;
            p->options = f.bytes;
        } else if (f.key == PB_VARINT(4)) {
            p->is_final = f.value != 0;
        }
    }
    return !in.bad && p->has_id;
}

static struct grpc_op *
find(struct batch *b, const struct piece *p)
{
    for (struct grpc_op *op = b->open; op != NULL; op = op->next)
        if (id_eq(&op->correlation, &p->correlation))
            return op;
    return NULL;
}

/* A whole append: to the log, or back. */
static void
submit(struct batch *b, struct grpc_op *op)
{
    struct ox_env *env = op->conn->server->env;
    bool           denied;
    const char    *why = grpci_check_target(op, &denied);

    if (why == NULL && op->bytes.failed) {
        refuse(b, op, E_LIMIT, "the append is larger than one commit may be");
        return;
    }
    if (why == NULL)
        why = grpci_op_parse(op);
    if (why != NULL) {
        refuse(b, op, denied ? E_AUTH : E_INVALID, why);
    } else if (op->deadline_us != 0 && op->deadline_us < (uint64_t)env->ops->wall_us(env)) {
        refuse(b, op, E_TIMEOUT, "the deadline has passed");
    } else if (op->count == 0) {
        grpci_op_check_only(op);
        answer(op);
        grpci_op_free(op);
    } else {
        op->done = appended;
        link_op(&b->sent, op);
        b->sent_count++;
        b->sent_bytes += op->bytes.len;
        grpci_op_send(op);
    }
}

static struct grpc_op *
begin(struct batch *b, const struct piece *p)
{
    struct grpc_op *op;

    if (b->open_count == OPEN_MAX) {
        rpc_end(b->rpc, RPC_RESOURCE_EXHAUSTED, "more than 1000 appends have begun");
        return NULL;
    }
    op = grpci_op_new(b->rpc);
    if (op == NULL) {
        rpc_end(b->rpc, RPC_RESOURCE_EXHAUSTED, "no memory for the append");
        return NULL;
    }
    op->correlation = p->correlation;
    op->text_id = p->text_id;
    link_op(&b->open, op);
    b->open_count++;
    return op;
}

/* The proposed messages of one piece; what is too large says so when the append is whole. */
static void
add_messages(struct grpc_op *op, struct slice message)
{
    struct pb_in    in;
    struct pb_field f;

    pb_in_init(&in, message);
    while (pb_next(&in, &f))
        if (f.key == PB_BYTES(3) && !grpci_op_add(op, f.bytes))
            op->bytes.failed = true;
    if (op->bytes.failed) {
        buf_fini(&op->bytes);
        op->bytes.failed = true;
        op->count = 0;
    }
    grpci_op_account(op);
}

static void
take_piece(struct batch *b, struct slice message, const struct piece *p)
{
    struct grpc_op *op = find(b, p);
    bool            is_new = op == NULL;

    if (is_new)
        op = begin(b, p);
    if (op == NULL)
        return;
    if (is_new && (!p->has_options || !read_options(p->options, op))) {
        unlink_op(&b->open, op);
        b->open_count--;
        refuse(b, op, E_INVALID, "the options of the append are missing or malformed");
        return;
    }
    add_messages(op, message);
    if (!p->is_final)
        return;
    unlink_op(&b->open, op);
    b->open_count--;
    submit(b, op);
}

static void
batch_message(struct rpc *r, struct slice message)
{
    struct batch *b = rpc_state(r);
    struct piece  p = {0};

    if (b == NULL) {
        b = calloc(1, sizeof *b);
        if (b == NULL) {
            rpc_end(r, RPC_RESOURCE_EXHAUSTED, "no memory for appends");
            return;
        }
        b->rpc = r;
        rpc_set_state(r, b);
    }
    if (!read_piece(message, &p)) {
        grpci_bad(r, "a message is malformed, or has no correlation id");
        return;
    }
    take_piece(b, message, &p);
    if (rpc_state(r) == NULL)
        return;
    if (b->sent_bytes > WAITING_BYTES || b->sent_count > WAITING_MAX ||
        rpc_pending(r) >= H2_OUT_HIGH) {
        b->paused = true;
        rpc_pause(r);
    }
}

static void
batch_end(struct rpc *r)
{
    struct batch *b = rpc_state(r);

    if (b == NULL) {
        rpc_end(r, RPC_OK, NULL);
        return;
    }
    b->ends = true;
    end_if_due(b);
}

/* The client has taken what kept it waiting. */
static void
batch_drained(struct rpc *r)
{
    struct batch *b = rpc_state(r);

    if (b == NULL || !b->paused || b->sent_count != 0)
        return;
    b->paused = false;
    rpc_resume_soon(r);
}

static void
batch_drain(struct rpc *r)
{
    struct batch *b = rpc_state(r);

    if (b == NULL) {
        rpc_end(r, RPC_UNAVAILABLE, "the server is stopping");
        return;
    }
    b->drains = true;
    end_if_due(b);
}

static void
batch_gone(struct rpc *r)
{
    struct batch *b = rpc_state(r);

    if (b == NULL)
        return;
    while (b->open != NULL) {
        struct grpc_op *op = b->open;

        unlink_op(&b->open, op);
        grpci_op_free(op);
    }
    for (struct grpc_op *op = b->sent; op != NULL; op = op->next)
        op->rpc = NULL;
    free(b);
}

const struct rpc_method grpci_streams_batch = {
    .path = "/event_store.client.streams.Streams/BatchAppend",
    .many = true,
    .message = batch_message,
    .half_closed = batch_end,
    .drained = batch_drained,
    .drain = batch_drain,
    .gone = batch_gone,
};
