/* What the services share: messages both ways, and the ends of calls. */
#include "base/json.h"
#include "server/grpc_int.h"

struct conn *
grpci_conn(const struct rpc *r)
{
    return h2_arg(rpc_h2(r));
}

struct server *
grpci_server(const struct rpc *r)
{
    return grpci_conn(r)->server;
}

/* Reading. */

bool
grpci_options(struct slice message, struct slice *out)
{
    struct pb_in    in;
    struct pb_field f;

    *out = (struct slice){0};
    pb_in_init(&in, message);
    while (pb_next(&in, &f))
        if (f.key == PB_BYTES(1))
            *out = f.bytes;
    return !in.bad;
}

void
grpci_set_name(struct grpc_name *out, struct slice text)
{
    out->there = true;
    out->too_long = text.len > LOG_NAME_MAX;
    out->len = out->too_long ? LOG_NAME_MAX : text.len;
    memcpy(out->text, text.data == NULL ? "" : text.data, out->len);
    out->text[out->len] = '\0';
}

bool
grpci_read_name(struct slice message, struct grpc_name *out)
{
    struct slice name;
    bool         ok = kdb_read_name(message, &name);

    grpci_set_name(out, name);
    return ok;
}

bool
grpci_read_uuid_option(struct slice message, bool *as_text)
{
    struct pb_in    in;
    struct pb_field f;
    bool            there = false;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key != PB_BYTES(1) && f.key != PB_BYTES(2))
            continue;
        there = true;
        *as_text = f.key == PB_BYTES(2);
    }
    return there && !in.bad;
}

/* Writing. */

void
grpci_put_now(struct rpc *r, struct buf *out, uint32_t number)
{
    struct ox_env *env = grpci_server(r)->env;
    uint64_t       us = (uint64_t)env->ops->wall_us(env);
    struct pb_mark mark = pb_begin(out, number, 0);

    pb_put_varint(out, 1, us / 1000000);
    pb_put_varint(out, 2, us % 1000000 * 1000);
    pb_end(out, mark);
}

void
grpci_recorded_of(const struct log_event *e, struct grpc_recorded *out)
{
    *out = (struct grpc_recorded){
        .event = e,
        .stream = e->stream,
        .revision = e->version,
        .pos = e->pos.v,
        .id = e->id,
        .type = e->type,
        .meta = e->meta,
        .data = e->data,
        .created_us = e->created_us,
        .json = (e->flags & LOG_JSON) != 0,
    };
}

void
grpci_recorded_link(const struct log_event *e, struct grpc_recorded *out, struct buf *data)
{
    buf_add_u64(data, e->version);
    buf_add_byte(data, '@');
    buf_add_slice(data, e->stream);
    *out = (struct grpc_recorded){
        .event = e,
        .stream = e->link.stream,
        .revision = e->link.version,
        .pos = e->link.pos.v,
        .id = e->link.id,
        .type = slice_str("$>"),
        .meta = e->link.meta,
        .data = buf_slice(data),
        .created_us = e->link.created_us,
    };
}

void
grpci_put_pair(struct buf *out, uint32_t number, const char *key, struct slice value)
{
    struct pb_mark mark = pb_begin(out, number, value.len + 16);

    pb_put_str(out, 1, key);
    pb_put_bytes(out, 2, value);
    pb_end(out, mark);
}

void
grpci_put_event(struct buf *out, const struct log_event *e, bool resolve, bool text_id)
{
    struct grpc_recorded event, link;
    struct buf           data = {0};
    uint64_t             pos = e->pos.v;
    /* What is no link at all is given as the event that it is. */
    bool dangling = resolve && e->dangling && e->link.stream.len == 0 && e->data.len != 0 &&
                    memchr(e->data.data, '@', e->data.len) != NULL;

    grpci_recorded_of(e, &event);
    if (!dangling)
        grpci_put_recorded(out, 1, &event, text_id);
    else
        grpci_put_recorded(out, 2, &event, text_id);
    if (e->link.stream.len != 0) {
        grpci_recorded_link(e, &link, &data);
        grpci_put_recorded(out, 2, &link, text_id);
        pos = e->link.pos.v;
        if (data.failed)
            out->failed = true;
        buf_fini(&data);
    }
    pb_put_varint(out, 3, pos);
}

/* Ends. */

void
grpci_bad(struct rpc *r, const char *text)
{
    rpc_end(r, RPC_INVALID_ARGUMENT, text);
}

void
grpci_refuse(struct rpc *r, enum rpc_status status, const char *exception, struct slice stream,
             const char *text)
{
    rpc_trailer(r, "exception", slice_str(exception));
    if (stream.len != 0)
        rpc_trailer(r, "stream-name", stream);
    rpc_end(r, status, text);
}

enum rpc_status
grpci_status(const struct err *err)
{
    if (err->kind == ERR_UNSURE)
        return RPC_ABORTED;
    switch (err->code) {
    case E_INVALID:
    case E_SYNTAX:
    case E_SCHEMA:
    case E_USAGE:
        return RPC_INVALID_ARGUMENT;
    case E_AUTH:
        return RPC_PERMISSION_DENIED;
    case E_NOTFOUND:
        return RPC_NOT_FOUND;
    case E_EXISTS:
        return RPC_ALREADY_EXISTS;
    case E_WRONG_VERSION:
    case E_STATE:
    case E_GONE:
        return RPC_FAILED_PRECONDITION;
    case E_LIMIT:
        return err->kind == ERR_RETRY ? RPC_RESOURCE_EXHAUSTED : RPC_INVALID_ARGUMENT;
    case E_NOMEM:
    case E_NOSPC:
        return RPC_RESOURCE_EXHAUSTED;
    case E_TIMEOUT:
        return RPC_ABORTED;
    case E_RDONLY:
    case E_BUSY:
    case E_CLOSED:
    case E_INTERRUPTED:
    case E_IO:
        return RPC_UNAVAILABLE;
    default:
        return RPC_INTERNAL;
    }
}

void
grpci_fail(struct rpc *r, const struct err *err, struct slice stream)
{
    if (err->code == E_GONE)
        grpci_refuse(r, RPC_FAILED_PRECONDITION, "stream-deleted", stream, err->text);
    else if (err->code == E_NOTFOUND)
        grpci_refuse(r, RPC_NOT_FOUND, "stream-not-found", stream, err->text);
    else if (err->code == E_AUTH)
        grpci_refuse(r, RPC_PERMISSION_DENIED, "access-denied", stream, err->text);
    else
        rpc_end(r, grpci_status(err), err->text);
}

void
grpci_answer(struct rpc *r, struct slice message)
{
    size_t      mark;
    struct buf *out = rpc_begin(r, &mark);

    buf_add_slice(out, message);
    rpc_commit(r, mark);
    rpc_end(r, RPC_OK, NULL);
}
