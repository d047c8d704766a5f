/*
 * Appends over HTTP: POST /v1/streams/{stream} and POST /v1/commits.
 *
 * A request goes to the log as it lies in the input buffer, and is answered
 * from the log's task through the loop's inbox: many at a time when the log
 * commits them as one group.
 */
#include <stdlib.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/must.h"
#include "server/access_int.h"
#include "server/append_int.h"

#define KEY_MAX 255
#define SCRATCH_MAX (24U << 20)
#define SCRATCH_KEEP (64U << 10)
#define EVENTS_KEEP 256

void
serveri_append_free(struct append *a)
{
    if (a == NULL)
        return;
    if (a->events != a->few)
        free(a->events);
    free(a->writes);
    free(a->checks);
    free(a->changes);
    buf_fini(&a->names);
    buf_fini(&a->followed);
    buf_fini(&a->scratch);
    buf_fini(&a->trace.texts);
    free(a);
}

/* Empty for the next request; gives back what a large one took. */
static void
reset(struct append *a)
{
    if (a->cap > EVENTS_KEEP) {
        free(a->events);
        a->events = a->few;
        a->cap = SERVERI_EVENTS_FEW;
    }
    free(a->writes);
    free(a->checks);
    free(a->changes);
    a->writes = NULL;
    a->checks = NULL;
    a->changes = NULL;
    a->answer = NULL;
    a->count = a->write_count = a->check_count = a->change_count = a->append_count = a->flags = 0;
    a->target = (struct slice){0};
    a->follow = a->atom = false;
    a->hops = 0;
    buf_fini(&a->names);
    buf_fini(&a->followed);
    a->base = NULL;
    a->scanned = 0;
    a->lines = 0;
    if (a->scratch.cap > SCRATCH_KEEP)
        buf_fini(&a->scratch);
    buf_fini(&a->trace.texts);
}

void
serveri_append_trim(struct append *a)
{
    if (a != NULL && (a->cap > EVENTS_KEEP || a->scratch.cap > SCRATCH_KEEP || a->writes != NULL ||
                      a->names.cap != 0))
        reset(a);
}

static bool
is_ndjson(const struct call *call)
{
    static const char *const names[] = {"application/x-ndjson", "application/ndjson",
                                        "application/jsonl"};
    struct slice             type;

    if (!call_header(call, "content-type", &type))
        return false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (type.len >= strlen(names[i]) && strncasecmp(type.data, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

struct append *
serveri_append_begin(struct call *call)
{
    struct conn *c = call->conn;

    if (c->append == NULL) {
        c->append = calloc(1, sizeof *c->append);
        if (c->append == NULL) {
            call_refuse(call, 503, "out-of-memory", "no memory for the request");
            return NULL;
        }
        c->append->conn = c;
        c->append->events = c->append->few;
        c->append->cap = SERVERI_EVENTS_FEW;
        buf_init(&c->append->scratch, SCRATCH_MAX);
    }
    if (!call->begun) {
        call->begun = true;
        reset(c->append);
        c->append->ndjson = is_ndjson(call);
    }
    return c->append;
}

/* What the log said. */

void
serveri_append_count(struct server *s, uint64_t submitted_us, int rc, uint64_t events)
{
    hist_add(&s->stats.append_us, s->taken_us - submitted_us);
    s->stats.appends++;
    if (rc == 0)
        s->stats.append_events += events;
}

static void
answer_wrong_version(struct call *call, const struct append *a)
{
    struct buf body = {0};

    call->reason = "wrong-expected-version";
    buf_add_str(&body, "{\"error\":\"wrong-expected-version\",\"message\":");
    json_put_str(&body, a->req.err.text);
    buf_add_str(&body, ",\"stream\":");
    json_put_string(&body, a->req.wrong_stream);
    buf_add_str(&body, ",\"expected\":");
    serveri_expected_write(&body, a->req.wrong_expected);
    buf_add_str(&body, ",\"actual\":");
    serveri_expected_write(&body, a->req.wrong_actual);
    if ((a->req.gone_flags & LOG_STREAM_MOVED) != 0)
        serveri_moved_put(&body, call->conn->server->log, a->req.wrong_stream, "streams");
    buf_add_str(&body, "}\n");
    call_answer(call, a->atom ? 400 : 409, CALL_JSON, buf_slice(&body));
    buf_fini(&body);
}

static void
put_versions(struct buf *body, const struct log_write *write)
{
    buf_add_str(body, "\"first_version\":");
    buf_add_u64(body, write->first_version);
    buf_add_str(body, ",\"last_version\":");
    buf_add_u64(body, write->last_version);
}

static void
put_end(struct buf *body, const struct append *a)
{
    buf_add_str(body, a->req.idempotent ? ",\"idempotent\":true}\n" : "}\n");
}

/* The scratch is free again: the log has what was in it. */
static void
answer_done(struct call *call, struct append *a)
{
    struct buf *body = &a->scratch;

    buf_clear(body);
    buf_add_str(body, "{\"position\":");
    buf_add_u64(body, a->req.last.v);
    buf_add_byte(body, ',');
    if (a->writes == NULL) {
        if (a->hops > 0) {
            buf_add_str(body, "\"stream\":");
            json_put_string(body, a->one.stream);
            buf_add_byte(body, ',');
        }
        put_versions(body, &a->one);
    } else {
        buf_add_str(body, "\"appends\":[");
        for (uint32_t i = 0; i < a->append_count; i++) {
            buf_add_str(body, i == 0 ? "{\"stream\":" : ",{\"stream\":");
            json_put_string(body, a->writes[i].stream);
            buf_add_byte(body, ',');
            put_versions(body, &a->writes[i]);
            buf_add_byte(body, '}');
        }
        buf_add_byte(body, ']');
    }
    put_end(body, a);
    call_answer(call, 201, CALL_JSON, buf_slice(body));
}

/* A stream that takes no more events but can be read is not gone. */
static bool
is_closed(const struct log_req *req)
{
    return req->rc == E_GONE && (req->gone_flags & LOG_STREAM_CLOSED) != 0 &&
           (req->gone_flags & (LOG_STREAM_TOMBSTONE | LOG_STREAM_MOVED)) == 0;
}

static void
answer(struct call *call, struct append *a)
{
    if (a->req.rc == 0 && a->answer != NULL)
        a->answer(call, a);
    else if (a->req.rc == 0)
        answer_done(call, a);
    else if (a->req.rc == E_WRONG_VERSION && a->unnamed_version && a->req.wrong_actual < 0)
        call_refuse(call, 404, "stream-not-found", a->req.err.text);
    else if (a->req.rc == E_WRONG_VERSION)
        answer_wrong_version(call, a);
    else if (a->req.rc == E_MOVED)
        serveri_moved_answer(call, a->req.wrong_stream, &a->req.err);
    else if (is_closed(&a->req))
        call_refuse(call, 409, "stream-closed", a->req.err.text);
    else
        serveri_stream_fail(call, &a->req.err);
}

/* Whoever subscribes to what was deleted is told now. */
static void
note_changes(struct server *s, const struct append *a)
{
    for (uint32_t i = 0; i < a->req.change_count; i++)
        if (a->req.changes[i].what & (LOG_SET_DELETED | LOG_SET_TOMBSTONE))
            serveri_live_check_stream(s, a->req.changes[i].stream);
    serveri_feeds_wake(s);
}

static void
on_answer(struct message *m)
{
    struct append *a = (struct append *)m;
    struct conn   *c = a->conn;

    if (serveri_moved_follow(a)) {
        a->req.rc = serveri_may_commit(c->server, c->call.who, &a->req, &a->req.err);
        if (a->req.rc == 0) {
            log_submit(c->server->log, &a->req);
            return;
        }
    }
    if (a->req.rc == 0)
        serveri_access_note(c->server, &a->req);
    c->server->in_flight--;
    serveri_append_count(c->server, a->submitted_us, a->req.rc, a->count);
    serveri_trace_done(c->server, &a->trace, a->submitted_us, &a->req, a->count);
    if (a->req.rc == 0 && a->req.change_count != 0)
        note_changes(c->server, a);
    if (c->state != CONN_CLOSED)
        answer(&c->call, a);
    serveri_conn_release(c);
}

/* On the log's task. */
static void
on_done(struct log_req *req)
{
    struct append *a = req->arg;

    serveri_post(a->conn->server, &a->message);
}

/* To the log. */

static int
make_ids(struct call *call, struct append *a, struct err *err)
{
    uint8_t      seed[KEY_MAX + 8];
    struct slice key;

    if (!call_header(call, "idempotency-key", &key))
        return 0;
    if (key.len == 0 || key.len > KEY_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "Idempotency-Key: must be 1 to %d bytes", KEY_MAX);
    memcpy(seed + 8, key.data, key.len);
    for (uint32_t i = 0; i < a->count; i++) {
        if (!id_is_zero(&a->events[i].id))
            continue;
        put_u64(seed, i);
        a->events[i].id = id_of_bytes(slice_of(seed, 8 + key.len));
    }
    return 0;
}

static void
trace(struct call *call, struct append *a)
{
    struct trace_context given;
    struct slice         text;
    bool                 has = call_header(call, "traceparent", &text) && trace_read(text, &given);

    serveri_trace_append(call->conn->server, &a->trace, has ? &given : NULL, a->events, a->count);
}

void
serveri_append_send(struct call *call, struct append *a)
{
    struct conn   *c = call->conn;
    struct server *s = c->server;
    struct err     err;

    memset(&a->req, 0, offsetof(struct log_req, err));
    a->req.idempotent = false;
    a->req.writes = a->writes == NULL ? &a->one : a->writes;
    a->req.write_count = a->writes != NULL ? a->write_count : a->count != 0;
    a->req.changes = a->changes == NULL ? &a->change : a->changes;
    a->req.change_count = a->change_count;
    a->req.gone_flags = 0;
    a->req.flags = a->flags;
    if (a->writes == NULL && a->count != 0 && slice_is(a->one.stream, ACCESS_SETTINGS))
        a->req.flags |= LOG_SYSTEM;
    a->req.checks = a->checks;
    a->req.check_count = a->check_count;
    a->req.done = on_done;
    a->req.arg = a;
    if (serveri_may_commit(s, call->who, &a->req, &err) != 0) {
        call_fail(call, &err);
        return;
    }
    trace(call, a);
    if (!serveri_quota_take(call, a->req.writes, a->req.write_count))
        return;
    a->message.fn = on_answer;
    c->users++;
    s->in_flight++;
    s->stats.append_bytes += c->body_len;
    a->submit_next = NULL;
    if (s->submit == NULL)
        s->submit = a;
    else
        s->submit_last->submit_next = a;
    s->submit_last = a;
}

/*
 * All at once: given one by one, between two reads, the log would begin a group
 * with the first and sync it while the others are still being parsed.
 */
void
serveri_append_submit(struct server *s)
{
    uint64_t now = s->submit == NULL ? 0 : s->env->ops->mono_us(s->env);

    while (s->submit != NULL) {
        struct append *a = s->submit;

        s->submit = a->submit_next;
        a->submitted_us = now;
        log_submit(s->log, &a->req);
    }
}

int
serveri_append_expected(const struct call *call, int64_t preset, int64_t *expected, struct err *err)
{
    struct slice text;

    *expected = preset;
    if (!call_header(call, "expected-version", &text) || serveri_expected_read(text, expected))
        return 0;
    RETURN_ERR(err, E_INVALID, ERR_DATA,
               "Expected-Version: must be any, no-stream, exists or a version");
}

static bool
stream_part(struct call *call)
{
    struct append *a = serveri_append_begin(call);
    struct conn   *c = call->conn;
    struct err     err;

    if (a == NULL)
        return false;
    if (!a->ndjson || serveri_lines_read(a, c->in + c->body_at, c->body_len, false, &err) == 0)
        return true;
    call_fail(call, &err);
    return false;
}

static int
read_stream(struct call *call, struct append *a, struct err *err)
{
    struct conn *c = call->conn;
    struct slice raw;
    int          rc = 0;

    TRY(serveri_append_expected(call, LOG_ANY, &a->one.expected, err));
    TRY(serveri_follow_read(call, &a->follow, err));
    if (a->ndjson) {
        TRY(serveri_lines_read(a, c->in + c->body_at, c->body_len, true, err));
    } else {
        TRY(json_value(call_body(call), &raw, err));
        TRY(serveri_events_read(a, raw, err));
    }
    if (a->count == 0)
        FAIL(err, E_INVALID, ERR_DATA, "the body has no event");
    TRY(make_ids(call, a, err));
    a->one.stream = call_param(call, "stream");
    a->one.events = a->events;
    a->one.count = a->count;
    a->unnamed_version = false;
out:
    return rc;
}

static void
post_stream(struct call *call, void *arg)
{
    struct append *a = serveri_append_begin(call);
    struct err     err;

    if (a == NULL)
        return;
    if (read_stream(call, a, &err) != 0)
        call_fail(call, &err);
    else
        serveri_append_send(call, a);
}

/* POST /v1/commits */

static int
count_items(struct slice array, const char *what, uint32_t *count, struct err *err)
{
    struct json_iter it;
    struct slice     item;
    int              rc = 0;

    *count = 0;
    if (array.data == NULL)
        return 0;
    rc = json_array_iter(&it, array, err);
    while (rc == 0 && (rc = json_iter_next(&it, NULL, &item, err)) == 0) {
        if (++*count > SERVERI_WRITES_MAX)
            FAIL(err, E_LIMIT, ERR_DATA, "more than %d", SERVERI_WRITES_MAX);
    }
    if (rc == E_END)
        return 0;
out:
    err_prefix(err, "%s", what);
    return rc;
}

int
serveri_target_read(struct append *a, const struct json_field *f, struct slice *stream,
                    int64_t *expected, struct err *err)
{
    struct slice text = f[1].value;
    int          rc = 0;

    TRY(serveri_string_read(a, f[0].value, "\"stream\"", stream, err));
    *expected = LOG_ANY;
    if (text.data == NULL)
        return 0;
    if (json_type(text) == JSON_STRING)
        TRY(serveri_string_read(a, text, "\"expected\"", &text, err));
    if (!serveri_expected_read(text, expected))
        FAIL(err, E_INVALID, ERR_DATA,
             "\"expected\": must be \"any\", \"no-stream\", \"exists\" or a version");
out:
    return rc;
}

static int
read_write(struct append *a, struct slice raw, struct err *err)
{
    struct json_field f[3] = {{.name = "stream", .required = true},
                              {.name = "expected"},
                              {.name = "events", .required = true}};
    struct log_write *write = &a->writes[a->write_count];
    uint32_t          before = a->count;
    int               rc = 0;

    TRY(json_pick(raw, f, 3, JSON_PICK_ONLY, err));
    TRY(serveri_target_read(a, f, &write->stream, &write->expected, err));
    if (json_type(f[2].value) != JSON_ARRAY)
        FAIL(err, E_SCHEMA, ERR_DATA, "\"events\": must be an array");
    TRY(serveri_events_read(a, f[2].value, err));
    if (a->count == before)
        FAIL(err, E_INVALID, ERR_DATA, "\"events\": is empty; use \"checks\" to check only");
    write->count = a->count - before;
    a->write_count++;
out:
    return rc;
}

static int
read_check(struct append *a, struct slice raw, struct err *err)
{
    struct json_field f[2] = {{.name = "stream", .required = true},
                              {.name = "expected", .required = true}};
    struct log_check *check = &a->checks[a->check_count];
    int               rc = 0;

    TRY(json_pick(raw, f, 2, JSON_PICK_ONLY, err));
    TRY(serveri_target_read(a, f, &check->stream, &check->expected, err));
    a->check_count++;
out:
    return rc;
}

static int
read_items(struct append *a, struct slice array, const char *what,
           int (*fn)(struct append *, struct slice, struct err *), struct err *err)
{
    struct json_iter it;
    struct slice     item;
    unsigned         i = 0;
    int              rc = 0;

    if (array.data == NULL)
        return 0;
    TRY(json_array_iter(&it, array, err));
    for (; (rc = json_iter_next(&it, NULL, &item, err)) == 0; i++) {
        rc = fn(a, item, err);
        if (rc != 0) {
            err_prefix(err, "%s %u", what, i);
            return rc;
        }
    }
    rc = rc == E_END ? 0 : rc;
out:
    return rc;
}

/* What a commit writes besides user's streams allows it more: so their names are checked here. */
static int
check_names(const struct append *a, struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < a->append_count && (a->flags & LOG_SYSTEM) != 0; i++)
        TRY(log_name_check(a->writes[i].stream, false, err));
out:
    return rc;
}

static int
make_tables(struct append *a, const struct json_field *f, struct err *err)
{
    uint32_t writes, checks, changes;
    int      rc = 0;

    TRY(count_items(f[0].value, "\"appends\"", &writes, err));
    TRY(count_items(f[1].value, "\"checks\"", &checks, err));
    TRY(count_items(f[2].value, "\"changes\"", &changes, err));
    if (writes + changes == 0)
        FAIL(err, E_INVALID, ERR_DATA, "\"appends\": is empty, and there are no \"changes\"");
    a->writes = calloc(writes + changes, sizeof *a->writes);
    a->checks = calloc(checks + 1, sizeof *a->checks);
    a->changes = calloc(changes + 1, sizeof *a->changes);
    if (a->writes == NULL || a->checks == NULL || a->changes == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for the commit");
    if (changes != 0)
        TRY(serveri_names_reserve(a, (size_t)changes * (LOG_NAME_MAX + 2), err));
out:
    return rc;
}

static int
read_commit(struct call *call, struct append *a, struct err *err)
{
    struct json_field f[3] = {{.name = "appends"}, {.name = "checks"}, {.name = "changes"}};
    struct slice      raw;
    uint32_t          at = 0;
    int               rc = 0;

    TRY(json_value(call_body(call), &raw, err));
    TRY(json_pick(raw, f, 3, JSON_PICK_ONLY, err));
    TRY(make_tables(a, f, err));
    TRY(read_items(a, f[0].value, "append", read_write, err));
    a->append_count = a->write_count;
    a->unnamed_version = false;
    TRY(read_items(a, f[1].value, "check", read_check, err));
    TRY(read_items(a, f[2].value, "change", serveri_change_read, err));
    TRY(make_ids(call, a, err));
    TRY(check_names(a, err));
    for (uint32_t i = 0; i < a->write_count; i++) {
        a->writes[i].events = a->events + at; /* only now does the table stay where it is */
        at += a->writes[i].count;
    }
out:
    return rc;
}

static void
post_commit(struct call *call, void *arg)
{
    struct append *a = serveri_append_begin(call);
    struct err     err;

    if (a == NULL)
        return;
    if (read_commit(call, a, &err) != 0)
        call_fail(call, &err);
    else
        serveri_append_send(call, a);
}

int
serveri_append_routes(struct server *s, struct err *err)
{
    struct server_route stream = {"POST", "/v1/streams/{stream}", post_stream,
                                  s->conf.body_bytes_max};
    struct server_route commit = {"POST", "/v1/commits", post_commit, s->conf.body_bytes_max};
    struct route       *route;
    int                 rc = 0;

    TRY(serveri_route_add(s, &stream, NULL, &route, err));
    route->part = stream_part;
    TRY(serveri_route_add(s, &commit, NULL, NULL, err));
out:
    return rc;
}
