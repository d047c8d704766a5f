/*
 * What a stream is, beside its events: listing, metadata, deleting, truncating, closing, links.
 * Whatever changes a stream is a commit like an append.
 */
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "server/access_int.h"
#include "server/append_int.h"

#define STREAMS_PAGE 1000
#define STREAMS_MAX 10000
#define LOOKED_MAX 20000 /* in one answer, also of those that may not be seen */
#define SMALL_BODY 4096

void
serveri_stream_fail(struct call *call, const struct err *err)
{
    if (err->code == E_NOTFOUND)
        call_refuse(call, 404, "stream-not-found", err->text);
    else
        call_fail(call, err);
}

/* GET /v1/streams, GET /v1/streams/{stream}/info */

struct list {
    struct json_out out;
    struct call    *call;
    uint64_t        limit, count, looked;
    struct buf      last; /* the name of the last one looked at, for the next page */
    bool            more;
};

static void
put_number(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_stream(struct json_out *o, const struct log_stream *stream)
{
    json_out_object(o);
    json_out_key(o, "stream");
    json_out_string(o, stream->name);
    put_number(o, "first", stream->first);
    put_number(o, "head", stream->head);
    put_number(o, "count", stream->first > stream->head ? 0 : stream->head - stream->first + 1);
    put_number(o, "last_position", stream->last_pos.v);
    if (stream->max_count != 0)
        put_number(o, "max_count", stream->max_count);
    if (stream->max_age_us != 0)
        put_number(o, "max_age_s", (uint64_t)stream->max_age_us / 1000000);
    if (stream->flags & LOG_STREAM_CLOSED) {
        json_out_key(o, "closed");
        json_out_bool(o, true);
    }
    if (stream->flags & LOG_STREAM_MOVED) {
        json_out_key(o, "moved");
        json_out_bool(o, true);
    }
    if (stream->flags & LOG_STREAM_ROUTED) {
        json_out_key(o, "routed");
        json_out_bool(o, true);
    }
    json_out_object_end(o);
}

static int
list_one(void *arg, const struct log_stream *stream, struct err *err)
{
    struct list *list = arg;

    if (list->count == list->limit || list->looked == LOOKED_MAX) {
        list->more = true;
        return E_END;
    }
    list->looked++;
    buf_clear(&list->last);
    buf_add_slice(&list->last, stream->name);
    if (!serveri_may(list->call->conn->server, list->call->who, ACCESS_READ, stream->name))
        return 0;
    list->count++;
    put_stream(&list->out, stream);
    return 0;
}

static int
check_list_names(const struct call *call, struct err *err)
{
    for (unsigned i = 0; i < call->uri.param_count; i++) {
        struct slice name = call->uri.params[i].name;

        if (!slice_is(name, "prefix") && !slice_is(name, "after") && !slice_is(name, "limit"))
            RETURN_ERR(err, E_INVALID, ERR_DATA,
                       "an unknown parameter; known are prefix, after, limit");
    }
    return 0;
}

static int
list_streams(struct call *call, struct list *list, struct err *err)
{
    struct slice prefix = {0}, after = {0}, text;
    int          rc = 0;

    TRY(check_list_names(call, err));
    (void)call_query(call, "prefix", &prefix);
    (void)call_query(call, "after", &after);
    list->limit = STREAMS_PAGE;
    if (call_query(call, "limit", &text) &&
        (!json_uint64(text, &list->limit) || list->limit == 0 || list->limit > STREAMS_MAX))
        FAIL(err, E_INVALID, ERR_DATA, "limit: must be a number from 1 to %d", STREAMS_MAX);
    json_out_object(&list->out);
    json_out_key(&list->out, "streams");
    json_out_array(&list->out);
    rc = log_streams(call->conn->server->log, prefix, after, list_one, list, err);
    if (rc != 0 && rc != E_END)
        goto out;
    rc = 0;
    json_out_array_end(&list->out);
    json_out_key(&list->out, "next");
    if (list->more)
        json_out_string(&list->out, buf_slice(&list->last));
    else
        json_out_null(&list->out);
    json_out_object_end(&list->out);
out:
    return rc;
}

static void
get_streams(struct call *call, void *arg)
{
    struct buf *body = &call->conn->server->scratch;
    struct list list = {.call = call};
    struct err  err;

    buf_clear(body);
    json_out_init(&list.out, body);
    if (list_streams(call, &list, &err) != 0)
        call_fail(call, &err);
    else
        call_answer(call, 200, CALL_JSON, buf_slice(body));
    buf_fini(&list.last);
}

static void
get_info(struct call *call, void *arg)
{
    struct server    *s = call->conn->server;
    struct log_stream stream;
    struct json_out   o;
    struct err        err;

    if (log_stream_info(s->log, call_param(call, "stream"), &stream, &err) != 0) {
        serveri_stream_fail(call, &err);
        return;
    }
    buf_clear(&s->scratch);
    json_out_init(&o, &s->scratch);
    stream.name = call_param(call, "stream");
    put_stream(&o, &stream);
    if (stream.flags & LOG_STREAM_MOVED) {
        s->scratch.len--;
        serveri_moved_put(&s->scratch, s->log, stream.name, "moved_to");
        buf_add_byte(&s->scratch, '}');
    }
    call_answer(call, 200, CALL_JSON, buf_slice(&s->scratch));
}

/* Changes. */

static void
answer_change(struct call *call, struct append *a)
{
    struct buf *body = &a->scratch;

    buf_clear(body);
    buf_add_str(body, "{\"position\":");
    buf_add_u64(body, a->req.last.v);
    buf_add_str(body, "}\n");
    call_answer(call, 200, CALL_JSON, buf_slice(body));
}

/* The one change that the path and the header ask for; `*a` NULL: it was answered. */
static int
begin_change(struct call *call, uint32_t what, struct append **out, struct err *err)
{
    struct append *a = serveri_append_begin(call);
    struct slice   text;
    int            rc = 0;

    *out = a;
    if (a == NULL)
        return 0;
    a->change = (struct log_change){.stream = call_param(call, "stream"), .what = what};
    a->change_count = 1;
    a->answer = answer_change;
    /* Without an expected version it has to be there: a name may be mistyped. */
    a->unnamed_version = !call_header(call, "expected-version", &text);
    TRY(serveri_append_expected(call, LOG_EXISTS, &a->change.expected, err));
    TRY(log_name_check(a->change.stream, false, err));
out:
    return rc;
}

static void
send_change(struct call *call, uint32_t what)
{
    struct append *a;
    struct err     err;

    if (begin_change(call, what, &a, &err) != 0)
        serveri_stream_fail(call, &err);
    else if (a != NULL)
        serveri_append_send(call, a);
}

static bool
flag_of(const struct call *call, const char *name, bool *out)
{
    struct slice text;

    *out = call_query(call, name, &text);
    if (!*out || slice_is(text, "true"))
        return true;
    *out = false;
    return slice_is(text, "false");
}

/* DELETE /v1/streams/{stream} */
static void
delete_stream(struct call *call, void *arg)
{
    bool for_good, ok = flag_of(call, "tombstone", &for_good);

    for (unsigned i = 0; i < call->uri.param_count; i++)
        ok = ok && slice_is(call->uri.params[i].name, "tombstone");
    if (!ok)
        call_refuse(call, 400, "invalid", "the only parameter is tombstone: true or false");
    else
        send_change(call, for_good ? LOG_SET_TOMBSTONE : LOG_SET_DELETED);
}

static void
close_stream(struct call *call, void *arg)
{
    send_change(call, LOG_SET_CLOSED);
}

static void
open_stream(struct call *call, void *arg)
{
    send_change(call, LOG_SET_OPEN);
}

/* POST /v1/streams/{stream}/truncate */
static void
truncate_stream(struct call *call, void *arg)
{
    struct json_field f[1] = {{.name = "before", .required = true}};
    struct append    *a;
    struct slice      raw;
    struct err        err;
    int               rc = 0;

    TRY(begin_change(call, LOG_SET_TRUNCATE, &a, &err));
    if (a == NULL)
        return;
    TRY(json_value(call_body(call), &raw, &err));
    TRY(json_pick(raw, f, 1, JSON_PICK_ONLY, &err));
    if (!json_uint64(f[0].value, &a->change.truncate) || a->change.truncate > INT64_MAX)
        FAIL(&err, E_INVALID, ERR_DATA, "\"before\": must be a version");
    serveri_append_send(call, a);
    return;
out:
    serveri_stream_fail(call, &err);
}

int
serveri_names_reserve(struct append *a, size_t bytes, struct err *err)
{
    if (buf_reserve(&a->names, bytes))
        return 0;
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for the commit");
}

static struct slice
add_name(struct append *a, const char *before, struct slice name)
{
    const uint8_t *at = a->names.data + a->names.len;

    buf_add_str(&a->names, before);
    buf_add_slice(&a->names, name);
    must(!a->names.failed);
    return slice_of(at, strlen(before) + name.len);
}

/* One event of metadata for a stream; its write lacks the expected version and the events. */
static int
add_metadata(struct append *a, struct slice stream, struct slice json, struct log_write *write,
             struct err *err)
{
    struct log_new_event *event;
    struct log_meta       meta;
    int                   rc = 0;

    TRY(log_name_check(stream, false, err));
    TRY(log_meta_parse(json, &meta, err));
    TRY(serveri_event_new(a, &event, err));
    event->type = slice_str(LOG_META_TYPE);
    event->data = json;
    event->flags = LOG_JSON;
    a->count++;
    write->stream = add_name(a, "$$", stream);
    write->count = 1;
    a->flags |= LOG_SYSTEM;
out:
    return rc;
}

enum change_field {
    CHANGE_STREAM,
    CHANGE_EXPECTED,
    CHANGE_TRUNCATE,
    CHANGE_DELETE,
    CHANGE_TOMBSTONE,
    CHANGE_CLOSED,
    CHANGE_METADATA,
    CHANGE_FIELDS
};

static int
read_flag(struct slice raw, const char *name, bool *out, struct err *err)
{
    *out = false;
    if (raw.data == NULL || json_bool(raw, out))
        return 0;
    RETURN_ERR(err, E_INVALID, ERR_DATA, "\"%s\": must be true or false", name);
}

static int
read_what(const struct json_field *f, struct log_change *change, struct err *err)
{
    bool is_deleted, is_tombstone, is_closed;
    int  rc = 0;

    TRY(read_flag(f[CHANGE_DELETE].value, "delete", &is_deleted, err));
    TRY(read_flag(f[CHANGE_TOMBSTONE].value, "tombstone", &is_tombstone, err));
    TRY(read_flag(f[CHANGE_CLOSED].value, "closed", &is_closed, err));
    if (f[CHANGE_TRUNCATE].value.data != NULL) {
        change->what |= LOG_SET_TRUNCATE;
        if (!json_uint64(f[CHANGE_TRUNCATE].value, &change->truncate) ||
            change->truncate > INT64_MAX)
            FAIL(err, E_INVALID, ERR_DATA, "\"truncate\": must be a version");
    }
    if (is_deleted)
        change->what |= LOG_SET_DELETED;
    if (is_tombstone)
        change->what |= LOG_SET_TOMBSTONE;
    if (f[CHANGE_CLOSED].value.data != NULL)
        change->what |= is_closed ? LOG_SET_CLOSED : LOG_SET_OPEN;
out:
    return rc;
}

int
serveri_change_read(struct append *a, struct slice raw, struct err *err)
{
    struct json_field f[CHANGE_FIELDS] = {
        [CHANGE_STREAM] = {.name = "stream", .required = true},
        [CHANGE_EXPECTED] = {.name = "expected"},
        [CHANGE_TRUNCATE] = {.name = "truncate"},
        [CHANGE_DELETE] = {.name = "delete"},
        [CHANGE_TOMBSTONE] = {.name = "tombstone"},
        [CHANGE_CLOSED] = {.name = "closed"},
        [CHANGE_METADATA] = {.name = "metadata"},
    };
    struct log_change change = {0};
    struct log_write *write = &a->writes[a->write_count];
    int               rc = 0;

    TRY(json_pick(raw, f, CHANGE_FIELDS, JSON_PICK_ONLY, err));
    TRY(serveri_target_read(a, f, &change.stream, &change.expected, err));
    TRY(read_what(f, &change, err));
    if ((f[CHANGE_METADATA].value.data != NULL) == (change.what != 0))
        FAIL(err, E_INVALID, ERR_DATA,
             "needs \"metadata\", or one of \"truncate\", \"delete\", \"tombstone\", \"closed\"");
    if (change.what != 0) {
        TRY(log_name_check(change.stream, false, err));
        a->changes[a->change_count++] = change;
        return 0;
    }
    TRY(add_metadata(a, change.stream, f[CHANGE_METADATA].value, write, err));
    write->expected = change.expected;
    a->write_count++;
out:
    return rc;
}

/* Metadata. */

/* {"stream":…,"version":…,"metadata":{…}}; where there is none: null, {}. */
static void
put_metadata(struct buf *out, struct slice stream, const struct log_event *event)
{
    buf_add_str(out, "{\"stream\":");
    json_put_string(out, stream);
    buf_add_str(out, ",\"version\":");
    if (event == NULL) {
        buf_add_str(out, "null,\"metadata\":{}}\n");
        return;
    }
    buf_add_u64(out, event->version);
    buf_add_str(out, ",\"metadata\":");
    buf_add_slice(out, event->data);
    buf_add_str(out, "}\n");
}

static void
get_metadata(struct call *call, void *arg)
{
    struct server   *s = call->conn->server;
    struct slice     stream = call_param(call, "stream");
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event event;
    struct buf       name = {0};
    struct err       err;
    int              rc = log_name_check(stream, true, &err);

    buf_add_str(&name, "$$");
    buf_add_slice(&name, stream);
    read.stream = buf_slice(&name);
    if (rc == 0)
        rc = log_iter_open(s->log, &read, &it, &err);
    while (rc == 0 && (rc = log_iter_next(it, &event, &err)) == E_MORE)
        rc = 0;
    buf_clear(&s->scratch);
    if (rc == 0)
        put_metadata(&s->scratch, stream, &event);
    else
        put_metadata(&s->scratch, stream, NULL);
    if (rc == 0 || rc == E_NOTFOUND || rc == E_END)
        call_answer(call, 200, CALL_JSON, buf_slice(&s->scratch));
    else
        serveri_stream_fail(call, &err);
    log_iter_close(it);
    buf_fini(&name);
}

static void
answer_metadata(struct call *call, struct append *a)
{
    struct buf *body = &a->scratch;

    buf_clear(body);
    buf_add_str(body, "{\"position\":");
    buf_add_u64(body, a->req.last.v);
    buf_add_str(body, ",\"version\":");
    buf_add_u64(body, a->one.last_version);
    buf_add_str(body, a->req.idempotent ? ",\"idempotent\":true}\n" : "}\n");
    call_answer(call, 200, CALL_JSON, buf_slice(body));
}

static int
read_metadata(struct call *call, struct append *a, struct err *err)
{
    struct slice raw;
    int          rc = 0;

    TRY(json_value(call_body(call), &raw, err));
    TRY(serveri_names_reserve(a, LOG_NAME_MAX + 2, err));
    TRY(serveri_append_expected(call, LOG_ANY, &a->one.expected, err));
    TRY(log_name_check(call_param(call, "stream"), false, err));
    TRY(add_metadata(a, call_param(call, "stream"), raw, &a->one, err));
    a->one.events = a->events;
    a->answer = answer_metadata;
    a->unnamed_version = false;
out:
    return rc;
}

static void
put_metadata_call(struct call *call, void *arg)
{
    struct append *a = serveri_append_begin(call);
    struct err     err;

    if (a == NULL)
        return;
    if (read_metadata(call, a, &err) != 0)
        call_fail(call, &err);
    else
        serveri_append_send(call, a);
}

/* POST /v1/streams/{stream}/links */

static int
add_link(struct append *a, struct slice raw, struct err *err)
{
    struct json_field     f[2] = {{.name = "stream", .required = true},
                                  {.name = "version", .required = true}};
    struct log_new_event *event;
    struct slice          stream;
    uint64_t              version;
    size_t                from = a->names.len;
    int                   rc = 0;

    TRY(json_pick(raw, f, 2, JSON_PICK_ONLY, err));
    TRY(serveri_string_read(a, f[0].value, "\"stream\"", &stream, err));
    TRY(log_name_check(stream, true, err));
    if (!json_uint64(f[1].value, &version) || version > INT64_MAX)
        FAIL(err, E_INVALID, ERR_DATA, "\"version\": must be a version");
    TRY(serveri_event_new(a, &event, err));
    buf_add_u64(&a->names, version);
    (void)add_name(a, "@", stream);
    event->type = slice_str(SERVERI_LINK_TYPE);
    event->data = slice_of(a->names.data + from, a->names.len - from);
    event->flags = LOG_LINK;
    a->count++;
out:
    return rc;
}

static int
read_links(struct call *call, struct append *a, struct err *err)
{
    struct json_iter it;
    struct slice     raw, link;
    size_t           bytes = 0;
    unsigned         number = 0;
    int              rc = 0;

    TRY(json_value(call_body(call), &raw, err));
    TRY(json_array_iter(&it, raw, err));
    while ((rc = json_iter_next(&it, NULL, &link, err)) == 0)
        bytes += link.len + 24; /* a name is never longer than it was written */
    if (rc != E_END)
        goto out;
    TRY(serveri_names_reserve(a, bytes + 1, err));
    TRY(json_array_iter(&it, raw, err));
    for (; (rc = json_iter_next(&it, NULL, &link, err)) == 0; number++) {
        rc = add_link(a, link, err);
        if (rc != 0) {
            err_prefix(err, "link %u", number);
            goto out;
        }
    }
    if (rc != E_END)
        goto out;
    if (a->count == 0)
        FAIL(err, E_INVALID, ERR_DATA, "the body has no link");
    TRY(serveri_append_expected(call, LOG_ANY, &a->one.expected, err));
    a->one.stream = call_param(call, "stream");
    a->one.events = a->events;
    a->one.count = a->count;
    a->unnamed_version = false;
out:
    return rc;
}

static void
post_links(struct call *call, void *arg)
{
    struct append *a = serveri_append_begin(call);
    struct err     err;

    if (a == NULL)
        return;
    if (read_links(call, a, &err) != 0)
        call_fail(call, &err);
    else
        serveri_append_send(call, a);
}

static const struct server_route routes[] = {
    {"GET", "/v1/streams", get_streams, 0},
    {"GET", "/v1/streams/{stream}/info", get_info, 0},
    {"DELETE", "/v1/streams/{stream}", delete_stream, 0},
    {"POST", "/v1/streams/{stream}/truncate", truncate_stream, SMALL_BODY},
    {"POST", "/v1/streams/{stream}/close", close_stream, SMALL_BODY},
    {"POST", "/v1/streams/{stream}/open", open_stream, SMALL_BODY},
    {"GET", "/v1/streams/{stream}/metadata", get_metadata, 0},
    {"PUT", "/v1/streams/{stream}/metadata", put_metadata_call, LOG_META_MAX + SMALL_BODY},
    {"POST", "/v1/streams/{stream}/links", post_links, 4 << 20},
};

int
serveri_stream_routes(struct server *s, struct err *err)
{
    return server_add_routes(s, routes, sizeof routes / sizeof routes[0], NULL, err);
}
