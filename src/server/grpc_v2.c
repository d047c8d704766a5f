/*
 * kurrentdb.protocol.v2.streams: AppendSession and AppendRecords, one commit over any number of
 * streams. Requests are kept as they came until the last one is there.
 *
 * Refusals carry a google.rpc.Status in the trailer grpc-status-details-bin, with one detail.
 */
#include <stdlib.h>
#include <strings.h>

#include "base/base64.h"
#include "base/json.h"
#include "server/access_int.h"
#include "server/grpc_append_int.h"

#define STREAMS_MAX 1000
#define RECORDS_MAX 10000
#define VALUE_DEPTH 16
#define DELETED (-5)
#define TOMBSTONED (-6)
#define ERRORS "type.googleapis.com/kurrentdb.protocol.v2.streams.errors."

struct v2_check {
    struct slice stream;
    int64_t      expected;
};

struct v2_call {
    struct grpc_op *op;
    bool            sent, session;
    uint32_t        requests, record_count, check_count;
    uint32_t       *number; /* of each record's write */
    struct v2_check checks[STREAMS_MAX];
    /* What is wrong, and how it is said. */
    enum rpc_status status;
    const char     *why, *detail_name;
    struct buf      detail;
};

/* Refusals. */

static void
end_with(struct rpc *r, enum rpc_status status, const char *text, const char *name,
         struct slice detail)
{
    struct buf     whole = {0}, encoded = {0}, url = {0};
    struct pb_mark any;

    buf_add_str(&url, ERRORS);
    buf_add_str(&url, name);
    pb_put_varint(&whole, 1, status);
    pb_put_str(&whole, 2, text);
    any = pb_begin(&whole, 3, 0);
    pb_put_bytes(&whole, 1, buf_slice(&url));
    pb_put_bytes(&whole, 2, detail);
    pb_end(&whole, any);
    base64_encode(&encoded, buf_slice(&whole));
    rpc_trailer(r, "grpc-status-details-bin", buf_slice(&encoded));
    buf_fini(&whole);
    buf_fini(&encoded);
    buf_fini(&url);
    rpc_end(r, status, text);
}

static bool
refuse(struct v2_call *v, enum rpc_status status, const char *why)
{
    v->status = status;
    v->why = why;
    return false;
}

/* With a detail whose first field is the stream's name. */
static bool
refuse_stream(struct v2_call *v, enum rpc_status status, const char *why, const char *name,
              struct slice stream)
{
    v->detail_name = name;
    buf_clear(&v->detail);
    pb_put_bytes(&v->detail, 1, stream);
    return refuse(v, status, why);
}

static void
end_refused(struct rpc *r, struct v2_call *v)
{
    if (v->detail_name != NULL)
        end_with(r, v->status, v->why, v->detail_name, buf_slice(&v->detail));
    else
        rpc_end(r, v->status, v->why);
}

/* Properties become the event's metadata, as JSON. */

static bool put_value(struct json_out *o, struct slice message, unsigned depth);

static bool
put_fields(struct json_out *o, struct slice message, unsigned depth)
{
    struct pb_in    in, pair;
    struct pb_field f, part;
    bool            ok = true;

    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f)) {
        struct slice key = {0}, value = {0};

        if (f.key != PB_BYTES(1))
            continue;
        pb_in_init(&pair, f.bytes);
        while (pb_next(&pair, &part)) {
            if (part.key == PB_BYTES(1))
                key = part.bytes;
            else if (part.key == PB_BYTES(2))
                value = part.bytes;
        }
        json_out_key_slice(o, key);
        ok = !pair.bad && put_value(o, value, depth);
    }
    return ok && !in.bad;
}

static bool
put_list(struct json_out *o, struct slice message, unsigned depth)
{
    struct pb_in    in;
    struct pb_field f;
    bool            ok = true;

    json_out_array(o);
    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f))
        if (f.key == PB_BYTES(1))
            ok = put_value(o, f.bytes, depth);
    json_out_array_end(o);
    return ok && !in.bad;
}

/* google.protobuf.Value */
static bool
put_value(struct json_out *o, struct slice message, unsigned depth)
{
    struct pb_in    in;
    struct pb_field f;
    double          number;
    bool            ok = depth < VALUE_DEPTH;

    pb_in_init(&in, message);
    if (!ok || !pb_next(&in, &f)) {
        json_out_null(o);
        return ok && !in.bad;
    }
    if (f.key == PB_FIXED64(2)) {
        memcpy(&number, &f.value, sizeof number);
        json_out_double(o, number);
    } else if (f.key == PB_BYTES(3)) {
        json_out_string(o, f.bytes);
    } else if (f.key == PB_VARINT(4)) {
        json_out_bool(o, f.value != 0);
    } else if (f.key == PB_BYTES(5)) {
        json_out_object(o);
        ok = put_fields(o, f.bytes, depth + 1);
        json_out_object_end(o);
    } else if (f.key == PB_BYTES(6)) {
        ok = put_list(o, f.bytes, depth + 1);
    } else {
        json_out_null(o);
    }
    return ok && !pb_next(&in, &f) && !in.bad;
}

struct v2_record {
    struct slice stream, id, data, schema, schema_name, schema_id;
    uint64_t     format;
};

static bool
read_schema(struct slice message, struct v2_record *rec)
{
    struct pb_in    in;
    struct pb_field f;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_VARINT(1))
            rec->format = f.value;
        else if (f.key == PB_BYTES(2))
            rec->schema_name = f.bytes;
        else if (f.key == PB_BYTES(3))
            rec->schema_id = f.bytes;
    }
    return !in.bad;
}

static bool
read_record(struct slice message, struct v2_record *rec)
{
    struct pb_in    in;
    struct pb_field f;
    bool            ok = true;

    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1))
            rec->id = f.bytes;
        else if (f.key == PB_BYTES(3))
            ok = read_schema(f.bytes, rec);
        else if (f.key == PB_BYTES(4))
            rec->data = f.bytes;
        else if (f.key == PB_BYTES(5))
            rec->stream = f.bytes;
    }
    return ok && !in.bad;
}

/* The properties of a record, and what its schema is. */
static bool
put_metadata(struct buf *out, struct slice record, const struct v2_record *rec)
{
    static const char *const formats[] = {NULL, "Json", "Protobuf", "Avro", "Bytes"};
    struct json_out          o;
    struct pb_in             in, pair;
    struct pb_field          f, part;
    bool                     ok = true;

    json_out_init(&o, out);
    json_out_object(&o);
    pb_in_init(&in, record);
    while (ok && pb_next(&in, &f)) {
        struct slice key = {0}, value = {0};

        if (f.key != PB_BYTES(2))
            continue;
        pb_in_init(&pair, f.bytes);
        while (pb_next(&pair, &part)) {
            if (part.key == PB_BYTES(1))
                key = part.bytes;
            else if (part.key == PB_BYTES(2))
                value = part.bytes;
        }
        if (slice_starts(key, slice_str("$schema.")))
            continue;
        json_out_key_slice(&o, key);
        ok = put_value(&o, value, 0);
    }
    json_out_key(&o, "$schema.name");
    json_out_string(&o, rec->schema_name);
    json_out_key(&o, "$schema.format");
    json_out_str(&o, formats[rec->format]);
    if (rec->schema_id.len != 0) {
        json_out_key(&o, "$schema.id");
        json_out_string(&o, rec->schema_id);
    }
    json_out_object_end(&o);
    return ok;
}

/* Records. */

static bool
take_size(struct v2_call *v, const struct log_new_event *e, struct slice stream)
{
    char id[ID_TEXT_LEN + 1];

    if (e->data.len + e->meta.len <= LOG_EVENT_MAX)
        return true;
    (void)refuse_stream(v, RPC_INVALID_ARGUMENT, "a record has more than 16 MiB",
                        "AppendRecordSizeExceededErrorDetails", stream);
    id_format(&e->id, id);
    pb_put_str(&v->detail, 2, id);
    pb_put_varint(&v->detail, 3, e->data.len + e->meta.len);
    pb_put_varint(&v->detail, 4, LOG_EVENT_MAX);
    return false;
}

/* One record; its metadata goes to the end of op->more, where the texts of all are one by one. */
static bool
take_record(struct v2_call *v, struct slice message, struct slice *stream, uint32_t write)
{
    struct grpc_op       *op = v->op;
    struct log_new_event *e = &op->events[op->count];
    struct v2_record      rec = {0};
    size_t                before = op->more.len;

    if (!read_record(message, &rec))
        return refuse(v, RPC_INVALID_ARGUMENT, "a record is malformed");
    if (rec.format < 1 || rec.format > 4 || rec.schema_name.len == 0)
        return refuse(v, RPC_INVALID_ARGUMENT, "a record's schema lacks its format or name");
    if (rec.id.len != 0 && (!id_parse(rec.id, &e->id) || id_is_zero(&e->id)))
        return refuse(v, RPC_INVALID_ARGUMENT, "a record's id is no UUID");
    if (!put_metadata(&op->more, message, &rec))
        return refuse(v, RPC_INVALID_ARGUMENT, "a record's properties are malformed");
    if (op->more.failed)
        return refuse(v, RPC_RESOURCE_EXHAUSTED, "no memory for the records");
    if (stream->len == 0)
        *stream = rec.stream;
    e->type = rec.schema_name;
    e->data = rec.data;
    e->meta.len = op->more.len - before;
    if (rec.format == 1 && (rec.data.len == 0 || json_check(rec.data, NULL) == 0))
        e->flags = LOG_JSON;
    v->number[op->count] = write;
    op->count++;
    return take_size(v, e, *stream);
}

/* The write of a stream; a new one where it has none. -1: too many. */
static int64_t
write_of(struct grpc_op *op, struct slice stream)
{
    if (op->write_count != 0 && slice_eq(op->writes[op->write_count - 1].stream, stream))
        return op->write_count - 1;
    for (uint32_t i = 0; i < op->write_count; i++)
        if (slice_eq(op->writes[i].stream, stream))
            return i;
    if (op->write_count == STREAMS_MAX)
        return -1;
    op->writes[op->write_count] = (struct log_write){.stream = stream, .expected = LOG_ANY};
    return op->write_count++;
}

/* But for case: KurrentDB's clients are told the same. */
static bool
is_same_name(struct slice a, struct slice b)
{
    return a.len == b.len && a.data != NULL && b.data != NULL &&
           strncasecmp(a.data, b.data, a.len) == 0;
}

static bool
check_name(struct v2_call *v, struct slice stream)
{
    struct err err;

    if (grpci_is_reserved(stream))
        return refuse(v, RPC_PERMISSION_DENIED, "names that begin with '$' are the system's");
    if (log_name_check(stream, true, &err) != 0)
        return refuse(v, RPC_INVALID_ARGUMENT, "a stream's name is empty or none");
    return true;
}

/* AppendRequest {1 stream, 2 records, 3 expected revision} */
static bool
take_session_request(struct v2_call *v, struct slice message)
{
    struct grpc_op  *op = v->op;
    struct pb_in     in;
    struct pb_field  f;
    struct log_write w = {.expected = LOG_ANY};
    uint32_t         write = op->write_count;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1))
            w.stream = f.bytes;
        else if (f.key == PB_VARINT(3))
            w.expected = pb_signed(f.value);
    }
    if (in.bad || !check_name(v, w.stream))
        return in.bad ? refuse(v, RPC_INVALID_ARGUMENT, "a request is malformed") : false;
    for (uint32_t i = 0; i < write; i++)
        if (is_same_name(op->writes[i].stream, w.stream))
            return refuse_stream(v, RPC_ABORTED, "a stream is in the session twice",
                                 "StreamAlreadyInAppendSessionErrorDetails", w.stream);
    if (write == STREAMS_MAX)
        return refuse(v, RPC_INVALID_ARGUMENT, "more than 1000 streams");
    w.events = op->events + op->count;
    op->writes[op->write_count++] = w;
    pb_in_init(&in, message);
    while (pb_next(&in, &f))
        if (f.key == PB_BYTES(2) && !take_record(v, f.bytes, &w.stream, write))
            return false;
    op->writes[write].count = (uint32_t)(op->events + op->count - w.events);
    if (op->writes[write].count == 0)
        return refuse(v, RPC_INVALID_ARGUMENT, "a request has no records");
    return true;
}

/* ConsistencyCheck {1 stream_state {1 stream, 2 expected state}} */
static bool
take_check(struct v2_call *v, struct slice message)
{
    struct pb_in    in, state;
    struct pb_field f, part;
    struct v2_check c = {.expected = 0};

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key != PB_BYTES(1))
            continue;
        pb_in_init(&state, f.bytes);
        while (pb_next(&state, &part)) {
            if (part.key == PB_BYTES(1))
                c.stream = part.bytes;
            else if (part.key == PB_VARINT(2))
                c.expected = pb_signed(part.value);
        }
        in.bad = in.bad || state.bad;
    }
    if (in.bad || v->check_count == STREAMS_MAX)
        return refuse(v, RPC_INVALID_ARGUMENT, "a check is malformed, or there are more than 1000");
    if (c.expected == LOG_ANY || c.expected < TOMBSTONED || c.expected == -3)
        return refuse(v, RPC_INVALID_ARGUMENT, "a check expects no state that there is");
    for (uint32_t i = 0; i < v->check_count; i++)
        if (slice_eq(v->checks[i].stream, c.stream))
            return refuse(v, RPC_INVALID_ARGUMENT, "two checks are of one stream");
    v->checks[v->check_count++] = c;
    return true;
}

/* {1 records, 2 checks} */
static bool
take_records_request(struct v2_call *v, struct slice message)
{
    struct grpc_op *op = v->op;
    struct pb_in    in;
    struct pb_field f;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        struct slice stream = {0};
        int64_t      write;

        if (f.key == PB_BYTES(2) && !take_check(v, f.bytes))
            return false;
        if (f.key != PB_BYTES(1))
            continue;
        if (!take_record(v, f.bytes, &stream, 0) || !check_name(v, stream))
            return false;
        write = write_of(op, stream);
        if (write < 0)
            return refuse(v, RPC_INVALID_ARGUMENT, "more than 1000 streams");
        v->number[op->count - 1] = (uint32_t)write;
        op->writes[write].count++;
    }
    if (in.bad)
        return refuse(v, RPC_INVALID_ARGUMENT, "the request is malformed");
    return true;
}

/* Records in the order of the request, as the log wants them: write by write, and that order. */
static bool
sort_records(struct grpc_op *op, const uint32_t *number)
{
    struct log_new_event *sorted = calloc(op->count + 1, sizeof *sorted);
    uint32_t             *at = calloc(op->write_count + 1, sizeof *at);
    uint32_t              first = 0;

    op->order = calloc(op->count + 1, sizeof *op->order);
    if (sorted == NULL || at == NULL || op->order == NULL) {
        free(sorted);
        free(at);
        return false;
    }
    for (uint32_t i = 0; i < op->write_count; first += op->writes[i++].count) {
        at[i] = first;
        op->writes[i].events = sorted + first;
    }
    for (uint32_t i = 0; i < op->count; i++) {
        sorted[at[number[i]]++] = op->events[i];
        op->order[i] = number[i];
    }
    free(op->events);
    free(at);
    op->events = sorted;
    return true;
}

static struct log_write *
find_write(struct grpc_op *op, struct slice stream)
{
    for (uint32_t i = 0; i < op->write_count; i++)
        if (slice_eq(op->writes[i].stream, stream))
            return &op->writes[i];
    return NULL;
}

static bool
violated(struct v2_call *v, uint32_t index, struct slice stream, int64_t expected, int64_t actual)
{
    struct pb_mark violation, state;

    v->detail_name = "AppendConsistencyViolationErrorDetails";
    buf_clear(&v->detail);
    violation = pb_begin(&v->detail, 1, 0);
    pb_put_varint(&v->detail, 1, index);
    state = pb_begin(&v->detail, 2, 0);
    pb_put_bytes(&v->detail, 1, stream);
    pb_put_signed(&v->detail, 2, expected);
    pb_put_signed(&v->detail, 3, actual);
    pb_end(&v->detail, state);
    pb_end(&v->detail, violation);
    return refuse(v, RPC_FAILED_PRECONDITION, "a check does not hold");
}

/*
 * What the log checks with the commit; a tombstone is for good, so that looking before is enough,
 * and a deleted stream is to the log one that is not there.
 */
static bool
set_checks(struct v2_call *v)
{
    struct grpc_op   *op = v->op;
    struct log_stream info;

    op->checks = calloc(v->check_count + 1, sizeof *op->checks);
    if (op->checks == NULL)
        return refuse(v, RPC_RESOURCE_EXHAUSTED, "no memory for the checks");
    for (uint32_t i = 0; i < v->check_count; i++) {
        const struct v2_check *c = &v->checks[i];
        struct log_write      *w = find_write(op, c->stream);
        int64_t                expected = c->expected;
        struct server         *s = op->conn->server;
        int                    rc;

        if (!serveri_may(s, rpc_who(op->rpc), ACCESS_READ, c->stream) &&
            !serveri_may(s, rpc_who(op->rpc), ACCESS_WRITE, c->stream))
            return refuse(v, RPC_PERMISSION_DENIED, "a check is of a stream that may not be read");
        rc = log_stream_info(s->log, c->stream, &info, NULL);

        if (expected == TOMBSTONED && rc == E_GONE)
            continue;
        if (rc == E_GONE && w == NULL)
            return violated(v, i, c->stream, expected, TOMBSTONED);
        if (expected == TOMBSTONED || (expected == DELETED && (rc != E_NOTFOUND || info.id == 0)))
            return violated(v, i, c->stream, expected,
                            rc == 0        ? (int64_t)info.head
                            : info.id != 0 ? DELETED
                                           : LOG_NO_STREAM);
        if (expected == DELETED)
            expected = LOG_NO_STREAM;
        if (w != NULL)
            w->expected = expected;
        else
            op->checks[op->check_count++] =
                (struct log_check){.stream = c->stream, .expected = expected};
    }
    return true;
}

/* The answer. */

static void
put_streams(struct buf *out, const struct v2_call *v)
{
    const struct grpc_op *op = v->op;

    for (uint32_t i = 0; i < op->write_count; i++) {
        struct pb_mark one = pb_begin(out, 1, 0);

        pb_put_bytes(out, 1, op->writes[i].stream);
        pb_put_signed(out, 2, (int64_t)op->writes[i].last_version);
        pb_end(out, one);
    }
    pb_put_signed(out, 2, (int64_t)op->req.last.v);
}

static void
end_wrong_version(struct rpc *r, struct v2_call *v)
{
    const struct log_req *req = &v->op->req;
    uint32_t              index = 0;

    if (!v->session) {
        while (index + 1 < v->check_count && !slice_eq(v->checks[index].stream, req->wrong_stream))
            index++;
        (void)violated(v, index, req->wrong_stream,
                       v->check_count == 0 ? req->wrong_expected : v->checks[index].expected,
                       req->wrong_actual);
    } else {
        (void)refuse_stream(v, RPC_FAILED_PRECONDITION, req->err.text,
                            "StreamRevisionConflictErrorDetails", req->wrong_stream);
        pb_put_signed(&v->detail, 2, req->wrong_expected);
        pb_put_signed(&v->detail, 3, req->wrong_actual);
    }
    end_refused(r, v);
}

static void
appended(struct grpc_op *op)
{
    struct rpc           *r = op->rpc;
    struct v2_call       *v = rpc_state(r);
    const struct log_req *req = &op->req;
    size_t                mark;

    if (req->rc == E_WRONG_VERSION) {
        end_wrong_version(r, v);
    } else if (grpci_is_tombstone(req)) {
        (void)refuse_stream(v, RPC_FAILED_PRECONDITION, req->err.text,
                            "StreamTombstonedErrorDetails", req->wrong_stream);
        end_refused(r, v);
    } else if (grpci_is_too_large(req)) {
        v->detail_name = "AppendTransactionSizeExceededErrorDetails";
        pb_put_varint(&v->detail, 1, op->bytes.len);
        pb_put_varint(&v->detail, 2, op->conn->server->conf.body_bytes_max);
        (void)refuse(v, RPC_ABORTED, req->err.text);
        end_refused(r, v);
    } else if (req->rc != 0) {
        rpc_end(r, grpci_status(&req->err), req->err.text);
    } else {
        put_streams(rpc_begin(r, &mark), v);
        rpc_commit(r, mark);
        rpc_end(r, RPC_OK, NULL);
    }
}

/* The calls. */

static struct v2_call *
call_of(struct rpc *r, bool session)
{
    struct v2_call *v = rpc_state(r);

    if (v != NULL)
        return v;
    v = calloc(1, sizeof *v);
    if (v != NULL)
        v->op = grpci_op_new(r);
    if (v == NULL || v->op == NULL) {
        free(v);
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "no memory for the append");
        return NULL;
    }
    v->session = session;
    rpc_set_state(r, v);
    return v;
}

static void
on_gone(struct rpc *r)
{
    struct v2_call *v = rpc_state(r);

    if (v == NULL)
        return;
    if (v->sent)
        v->op->rpc = NULL;
    else
        grpci_op_free(v->op);
    free(v->number);
    buf_fini(&v->detail);
    free(v);
}

/* Keeps a request, and counts its records. */
static void
keep(struct rpc *r, struct slice message, bool session)
{
    struct v2_call *v = call_of(r, session);
    struct pb_in    in;
    struct pb_field f;

    if (v == NULL)
        return;
    pb_in_init(&in, message);
    while (pb_next(&in, &f))
        v->record_count += f.key == PB_BYTES(session ? 2 : 1);
    v->requests++;
    if (v->record_count > RECORDS_MAX || v->requests > RECORDS_MAX) {
        grpci_bad(r, "more than 10,000 records");
    } else if (!grpci_op_add(v->op, message)) {
        v->detail_name = "AppendTransactionSizeExceededErrorDetails";
        pb_put_varint(&v->detail, 1, v->op->bytes.len + message.len);
        pb_put_varint(&v->detail, 2, v->op->bytes.limit);
        (void)refuse(v, RPC_ABORTED, "the append is larger than one commit may be");
        end_refused(r, v);
    } else {
        grpci_op_account(v->op);
    }
}

/* Requests to events; what they point at stays where it is from now on. */
static bool
parse(struct v2_call *v)
{
    struct grpc_op *op = v->op;
    const uint8_t  *p = op->bytes.data;
    uint32_t        requests = op->count;
    size_t          len, at = 0;

    op->count = 0;
    op->events = calloc(v->record_count + 1, sizeof *op->events);
    op->writes = calloc(STREAMS_MAX, sizeof *op->writes);
    v->number = calloc(v->record_count + 1, sizeof *v->number);
    if (op->events == NULL || op->writes == NULL || v->number == NULL)
        return refuse(v, RPC_RESOURCE_EXHAUSTED, "no memory for the append");
    for (uint32_t i = 0; i < requests; i++, p += sizeof len + len) {
        memcpy(&len, p, sizeof len);
        if (!(v->session ? take_session_request
                         : take_records_request)(v, slice_of(p + sizeof len, len)))
            return false;
    }
    for (uint32_t i = 0; i < op->count; at += op->events[i++].meta.len)
        op->events[i].meta.data = op->more.data + at;
    if (op->count == 0)
        return refuse(v, v->session ? RPC_FAILED_PRECONDITION : RPC_INVALID_ARGUMENT,
                      "there are no records");
    if (v->session)
        return true;
    if (!sort_records(op, v->number))
        return refuse(v, RPC_RESOURCE_EXHAUSTED, "no memory for the append");
    return set_checks(v);
}

static void
finish(struct rpc *r)
{
    struct v2_call *v = rpc_state(r);

    if (v == NULL) {
        rpc_end(r, RPC_FAILED_PRECONDITION, "the session has no requests");
        return;
    }
    if (!parse(v)) {
        end_refused(r, v);
        return;
    }
    grpci_op_account(v->op);
    v->op->done = appended;
    v->sent = true;
    grpci_op_send(v->op);
}

static void
session_message(struct rpc *r, struct slice message)
{
    keep(r, message, true);
}

static void
records_message(struct rpc *r, struct slice message)
{
    keep(r, message, false);
    if (rpc_state(r) != NULL)
        finish(r);
}

const struct rpc_method grpci_v2_session = {
    .path = "/kurrentdb.protocol.v2.streams.StreamsService/AppendSession",
    .many = true,
    .message = session_message,
    .half_closed = finish,
    .gone = on_gone,
};
const struct rpc_method grpci_v2_records = {
    .path = "/kurrentdb.protocol.v2.streams.StreamsService/AppendRecords",
    .message = records_message,
    .gone = on_gone,
};
