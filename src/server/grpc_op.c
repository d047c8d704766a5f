/*
 * One commit asked for over gRPC. Proposed messages are kept as they came, one after the other;
 * what the log is given points into them. All that a turn of the loop brought goes to the log at
 * once, and answers come back through the loop's inbox.
 */
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "server/access_int.h"
#include "server/grpc_int.h"

/* Small appends come one after the other: each takes the memory of one that is done. */
#define SPARES_MAX 256
#define SPARE_BYTES 4096 /* of its messages */

void
serveri_grpc_spares_free(struct server *s)
{
    while (s->grpc_spares != NULL) {
        struct grpc_op *op = s->grpc_spares;

        s->grpc_spares = op->next;
        buf_fini(&op->bytes);
        free(op);
    }
    s->grpc_spare_count = 0;
}

static bool
keep_spare(struct grpc_op *op)
{
    struct server *s = op->conn->server;
    struct buf     bytes = op->bytes;

    if (s->grpc_spare_count == SPARES_MAX || bytes.cap > SPARE_BYTES)
        return false;
    memset(op, 0, sizeof *op);
    buf_clear(&bytes);
    op->bytes = bytes;
    op->next = s->grpc_spares;
    s->grpc_spares = op;
    s->grpc_spare_count++;
    return true;
}

static struct grpc_op *
take_spare(struct server *s)
{
    struct grpc_op *op = s->grpc_spares;

    if (op == NULL)
        return calloc(1, sizeof *op);
    s->grpc_spares = op->next;
    s->grpc_spare_count--;
    op->next = NULL;
    return op;
}

struct grpc_op *
grpci_op_new(struct rpc *r)
{
    struct conn    *c = grpci_conn(r);
    struct grpc_op *op = take_spare(c->server);

    if (op == NULL)
        return NULL;
    op->rpc = r;
    op->conn = c;
    op->expected = LOG_ANY;
    op->bytes.limit = (size_t)op->conn->server->conf.body_bytes_max;
    grpci_op_account(op);
    return op;
}

/* Counted against the connection as long as that is there. */
void
grpci_op_account(struct grpc_op *op)
{
    size_t now = sizeof *op + op->bytes.cap + op->more.cap + op->count * sizeof *op->events;

    if (op->conn->h2 != NULL)
        h2_charge(op->conn->h2, (int64_t)now - (int64_t)op->charged);
    op->charged = now;
}

void
grpci_op_free(struct grpc_op *op)
{
    if (op == NULL)
        return;
    if (op->conn->h2 != NULL)
        h2_charge(op->conn->h2, -(int64_t)op->charged);
    buf_fini(&op->more);
    buf_fini(&op->trace.texts);
    if (op->events != &op->few)
        free(op->events);
    free(op->writes);
    free(op->checks);
    free(op->order);
    if (keep_spare(op))
        return;
    buf_fini(&op->bytes);
    free(op);
}

bool
grpci_op_add(struct grpc_op *op, struct slice message)
{
    size_t len = message.len;

    if (op->count == SERVERI_EVENTS_MAX)
        return false;
    if (!buf_reserve(&op->bytes, sizeof len + len))
        return false;
    buf_add(&op->bytes, &len, sizeof len);
    buf_add_slice(&op->bytes, message);
    op->count++;
    return true;
}

/* The metadata that the protocol asks for. */
struct proposed {
    struct slice type, content_type;
    bool         has_type, has_content_type, has_id;
};

static bool
read_pair(struct slice message, struct proposed *p)
{
    struct pb_in    in;
    struct pb_field f;
    struct slice    key = {0}, value = {0};

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1))
            key = f.bytes;
        else if (f.key == PB_BYTES(2))
            value = f.bytes;
    }
    if (slice_is(key, "type")) {
        p->type = value;
        p->has_type = true;
    } else if (slice_is(key, "content-type")) {
        p->content_type = value;
        p->has_content_type = true;
    }
    return !in.bad;
}

static const char *
read_proposed(struct slice message, struct log_new_event *e)
{
    struct pb_in    in;
    struct pb_field f;
    struct proposed p = {0};
    bool            ok = true;

    *e = (struct log_new_event){0};
    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1))
            ok = p.has_id = grpci_read_uuid(f.bytes, &e->id);
        else if (f.key == PB_BYTES(2))
            ok = read_pair(f.bytes, &p);
        else if (f.key == PB_BYTES(3))
            e->meta = f.bytes;
        else if (f.key == PB_BYTES(4))
            e->data = f.bytes;
    }
    if (!ok || in.bad)
        return "a proposed message is malformed";
    if (!p.has_id || id_is_zero(&e->id))
        return "a proposed message has no id";
    if (!p.has_type || !p.has_content_type || p.type.len == 0)
        return "missing-required-metadata-property";
    e->type = p.type;
    /* What only says that it is JSON stays what it is: bytes. */
    if (slice_is(p.content_type, "application/json") &&
        (e->data.len == 0 || json_check(e->data, NULL) == 0))
        e->flags |= LOG_JSON;
    if (slice_is(p.type, "$>"))
        e->flags = LOG_LINK;
    if (e->data.len + e->meta.len > LOG_EVENT_MAX)
        return "maximum-append-event-size-exceeded";
    return NULL;
}

const char *
grpci_op_parse(struct grpc_op *op)
{
    const uint8_t *p = op->bytes.data;
    const char    *why = NULL;

    op->events = op->count <= 1 ? &op->few : calloc(op->count, sizeof *op->events);
    if (op->events == NULL)
        return "no memory for the append";
    for (uint32_t i = 0; i < op->count && why == NULL; i++) {
        size_t len;

        memcpy(&len, p, sizeof len);
        why = read_proposed(slice_of(p + sizeof len, len), &op->events[i]);
        p += sizeof len + len;
        if (why != NULL && op->events[i].data.len + op->events[i].meta.len > LOG_EVENT_MAX)
            op->oversized = &op->events[i];
    }
    grpci_op_account(op);
    return why;
}

bool
grpci_is_reserved(struct slice stream)
{
    const char *p = stream.data;

    return stream.len != 0 && p[0] == '$' && !(stream.len > 2 && p[1] == '$' && p[2] != '$') &&
           !slice_is(stream, ACCESS_SETTINGS);
}

void
grpci_op_check_only(struct grpc_op *op)
{
    struct log_req   *req = &op->req;
    struct log_stream info = {0};
    int64_t           actual = LOG_NO_STREAM;
    struct server    *s = op->conn->server;
    int               rc;

    op->write = (struct log_write){.stream = grpci_name(&op->stream)};
    req->writes = &op->write;
    req->write_count = 1;
    req->rc = serveri_may_commit(s, grpci_who(op->rpc), req, &req->err);
    if (req->rc != 0)
        return;
    rc = log_stream_info(s->log, grpci_name(&op->stream), &info, &req->err);
    if (rc == 0)
        actual = (int64_t)info.head;
    req->rc = rc == E_NOTFOUND ? 0 : rc;
    req->idempotent = true;
    op->write.last_version = actual < 0 ? 0 : (uint64_t)actual;
    req->last = info.last_pos;
    if (req->rc != 0 || op->expected == LOG_ANY || op->expected == actual ||
        (op->expected == LOG_EXISTS && actual >= 0)) {
        req->wrong_actual = actual;
        return;
    }
    req->rc = err_set(&req->err, __FILE__, __LINE__, E_WRONG_VERSION, ERR_DATA,
                      "the expected version does not hold");
    req->wrong_expected = op->expected;
    req->wrong_actual = actual;
}

/* To the log and back. */

static void
on_answer(struct message *m)
{
    struct grpc_op *op = (struct grpc_op *)m;
    struct conn    *c = op->conn;
    struct server  *s = c->server;

    s->in_flight--;
    serveri_append_count(s, op->submitted_us, op->req.rc, op->count);
    if (op->req.rc == 0)
        serveri_access_note(s, &op->req);
    serveri_trace_done(s, &op->trace, op->submitted_us, &op->req, op->count);
    if (op->req.rc == 0 && op->change_count != 0) {
        serveri_live_check_stream(s, op->change.stream);
        serveri_feeds_wake(s);
    }
    if (op->rpc != NULL)
        op->done(op);
    grpci_op_free(op);
    serveri_conn_release(c);
}

/* On the log's task. */
static void
on_done(struct log_req *req)
{
    struct grpc_op *op = req->arg;

    serveri_post(op->conn->server, &op->message);
}

static void
refuse_later(struct grpc_op *op)
{
    op->submitted_us = op->conn->server->env->ops->mono_us(op->conn->server->env);
    serveri_post(op->conn->server, &op->message);
}

void
grpci_op_send(struct grpc_op *op)
{
    struct server *s = op->conn->server;
    uint64_t       seconds;

    if (op->writes == NULL && op->count != 0) {
        op->write = (struct log_write){.stream = grpci_name(&op->stream),
                                       .expected = op->expected,
                                       .events = op->events,
                                       .count = op->count};
        op->write_count = 1;
        op->req.flags = slice_is(op->write.stream, ACCESS_SETTINGS) ? LOG_SYSTEM : 0;
    }
    op->req.writes = op->writes != NULL ? op->writes : &op->write;
    op->req.write_count = op->write_count;
    op->req.checks = op->checks;
    op->req.check_count = op->check_count;
    op->req.changes = &op->change;
    op->req.change_count = op->change_count;
    op->req.order = op->order;
    op->req.done = on_done;
    op->req.arg = op;
    /* One call of BatchAppend is many appends; their context stands in their events. */
    serveri_trace_append(s, &op->trace, id_is_zero(&op->correlation) ? rpc_trace(op->rpc) : NULL,
                         op->events, op->count);
    op->message.fn = on_answer;
    op->conn->users++;
    s->in_flight++;
    s->stats.append_bytes += op->bytes.len;
    op->req.rc = serveri_may_commit(s, grpci_who(op->rpc), &op->req, &op->req.err);
    if (op->req.rc == 0)
        op->req.rc =
            serveri_quota_try(s, op->req.writes, op->req.write_count, &seconds, &op->req.err);
    if (op->req.rc != 0) {
        refuse_later(op);
        return;
    }
    op->submit_next = NULL;
    if (s->grpc_submit == NULL)
        s->grpc_submit = op;
    else
        s->grpc_submit_last->submit_next = op;
    s->grpc_submit_last = op;
}

void
serveri_grpc_submit(struct server *s)
{
    uint64_t now = s->grpc_submit == NULL ? 0 : s->env->ops->mono_us(s->env);

    while (s->grpc_submit != NULL) {
        struct grpc_op *op = s->grpc_submit;

        s->grpc_submit = op->submit_next;
        op->submitted_us = now;
        log_submit(s->log, &op->req);
    }
}
