/* The request as handlers see it, and the writing of answers. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "server/server_int.h"

/* The request. */

struct slice
call_param(const struct call *call, const char *name)
{
    const struct route *route = call->route;
    size_t              len = strlen(name);

    for (unsigned i = 0; i < route->segment_count; i++) {
        struct slice segment = route->segments[i];

        if (segment.len == len + 2 && memcmp((const char *)segment.data + 1, name, len) == 0 &&
            *(const char *)segment.data == '{')
            return call->uri.segments[i];
    }
    must(false); /* the handler and its route disagree */
    return slice_of(NULL, 0);
}

bool
call_query(const struct call *call, const char *name, struct slice *value)
{
    return uri_get(&call->uri, name, value);
}

bool
call_header(const struct call *call, const char *name, struct slice *value)
{
    return http1_field(&call->conn->head, call->conn->in, name, value);
}

struct slice
call_body(const struct call *call)
{
    return slice_of(call->conn->in + call->conn->body_at, call->conn->body_len);
}

bool
call_is_local(const struct call *call)
{
    static const uint8_t    mapped[13] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127};
    struct sockaddr_storage peer;
    int                     len = sizeof peer;

    if (uv_tcp_getpeername(&call->conn->tcp, (struct sockaddr *)&peer, &len) != 0)
        return false;
    if (peer.ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)&peer)->sin_addr.s_addr) >> 24 == 127;
    if (peer.ss_family == AF_INET6) {
        const uint8_t *a = ((const struct sockaddr_in6 *)&peer)->sin6_addr.s6_addr;

        return memcmp(a, &in6addr_loopback, 16) == 0 || memcmp(a, mapped, sizeof mapped) == 0;
    }
    return false;
}

/* Answers. */

static const char *
reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 201:
        return "Created";
    case 202:
        return "Accepted";
    case 204:
        return "No Content";
    case 304:
        return "Not Modified";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 406:
        return "Not Acceptable";
    case 408:
        return "Request Timeout";
    case 409:
        return "Conflict";
    case 410:
        return "Gone";
    case 413:
        return "Content Too Large";
    case 414:
        return "URI Too Long";
    case 415:
        return "Unsupported Media Type";
    case 417:
        return "Expectation Failed";
    case 422:
        return "Unprocessable Content";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 502:
        return "Bad Gateway";
    case 503:
        return "Service Unavailable";
    case 504:
        return "Gateway Timeout";
    case 505:
        return "HTTP Version Not Supported";
    case 507:
        return "Insufficient Storage";
    default:
        return "Answer";
    }
}

static void
add_allow(struct buf *out, unsigned allow)
{
    const char *comma = "";

    if (allow & 1U << HTTP1_GET)
        allow |= 1U << HTTP1_HEAD;
    buf_add_str(out, "Allow: ");
    for (int m = 0; m < HTTP1_METHOD_COUNT; m++) {
        if (!(allow & 1U << m))
            continue;
        buf_add_str(out, comma);
        buf_add_str(out, http1_method_name((enum http1_method)m));
        comma = ", ";
    }
    buf_add_str(out, "\r\n");
}

/* The client's, where it can stand in a line of the log as it is. */
static bool
their_id(const struct call *call, struct slice *id)
{
    static const char extra[] = "._:/+=@-";

    if (call->route == NULL || !call_header(call, "x-request-id", id) || id->len == 0 ||
        id->len > SERVERI_REQUEST_ID_MAX)
        return false;
    for (size_t i = 0; i < id->len; i++) {
        char ch = ((const char *)id->data)[i];

        if ((ch < '0' || ch > '9') && ((ch | 0x20) < 'a' || (ch | 0x20) > 'z') &&
            (ch == '\0' || strchr(extra, ch) == NULL))
            return false;
    }
    return true;
}

void
serveri_request_id(const struct call *call, char out[SERVERI_REQUEST_ID_MAX + 1])
{
    struct slice id;

    if (their_id(call, &id)) {
        memcpy(out, id.data, id.len);
        out[id.len] = '\0';
    } else {
        (void)snprintf(out, SERVERI_REQUEST_ID_MAX, "%08x-%llu", call->conn->server->instance,
                       (unsigned long long)call->number);
    }
}

/* What is counted of a refusal: a name that is new when the table is full goes to its last row. */
static void
count_reason(struct stats *stats, const char *name)
{
    unsigned i = 0;

    while (i < SERVERI_REASONS_MAX - 1 && stats->reasons[i].name != NULL &&
           strcmp(stats->reasons[i].name, name) != 0)
        i++;
    if (stats->reasons[i].name == NULL)
        stats->reasons[i].name = i < SERVERI_REASONS_MAX - 1 ? name : "other";
    stats->reasons[i].count++;
}

void
serveri_answer_head(struct call *call, int status, const char *type, uint64_t length)
{
    struct conn   *c = call->conn;
    struct server *s = c->server;
    struct buf    *out = &c->out;
    bool           endless = length == UINT64_MAX, theirs;
    char           text[SERVERI_REQUEST_ID_MAX + 1];
    struct slice   id;

    must(call->status == 0);
    must(status >= 200);
    must(status < SERVERI_STATUS_MAX);
    call->status = status;
    call->pushed = type != NULL && strcmp(type, "text/event-stream") == 0;
    s->stats.answers[status]++;
    if (status >= 400)
        count_reason(&s->stats, call->reason != NULL ? call->reason : "other");
    theirs = their_id(call, &id);
    /* HTTP/1.0 knows no chunks: its answer ends with the connection. */
    call->chunked_out = endless && !c->head.minor0 && !call->head_only;
    if (c->state != CONN_WAIT || (endless && c->head.minor0) || s->draining)
        c->last = true;
    if (status == 201 && !theirs && type != NULL && !endless && !c->last && !c->head.minor0 &&
        strcmp(type, CALL_JSON) == 0) {
        buf_add(out, s->created, s->created_len);
        buf_add_u64(out, length);
        buf_add(out, "\r\n\r\n", 4);
        return;
    }
    buf_add_str(out, "HTTP/1.1 ");
    buf_add_u64(out, (uint64_t)status);
    buf_add_byte(out, ' ');
    buf_add_str(out, reason(status));
    buf_add_str(out, "\r\n");
    buf_add_str(out, s->date);
    if (type != NULL) {
        buf_add_str(out, "Content-Type: ");
        buf_add_str(out, type);
        buf_add_str(out, "\r\n");
    }
    if (call->chunked_out)
        buf_add_str(out, "Transfer-Encoding: chunked\r\n");
    if (!endless && status != 204) {
        buf_add_str(out, "Content-Length: ");
        buf_add_u64(out, length);
        buf_add_str(out, "\r\n");
    }
    if (theirs || status >= 400) {
        serveri_request_id(call, text);
        buf_add_str(out, "X-Request-Id: ");
        buf_add_str(out, text);
        buf_add_str(out, "\r\n");
    }
    if (status == 401)
        buf_add_str(out, "WWW-Authenticate: Basic realm=\"oxbow\", charset=\"UTF-8\"\r\n");
    if (status == 503)
        buf_add_str(out, "Retry-After: 1\r\n");
    if (status == 429) {
        buf_add_str(out, "Retry-After: ");
        buf_add_u64(out, call->retry_after_s);
        buf_add_str(out, "\r\n");
    }
    if (call->location.len != 0) {
        buf_add_str(out, "Location: ");
        buf_add_slice(out, call->location);
        buf_add_str(out, "\r\n");
    }
    if (call->allow != 0)
        add_allow(out, call->allow);
    if (c->last)
        buf_add_str(out, "Connection: close\r\n");
    else if (c->head.minor0)
        buf_add_str(out, "Connection: keep-alive\r\n");
    buf_add_str(out, "\r\n");
}

void
call_answer(struct call *call, int status, const char *type, struct slice body)
{
    struct conn *c = call->conn;

    serveri_answer_head(call, status, type, body.len);
    if (!call->head_only)
        buf_add_slice(&c->out, body);
    serveri_call_finish(call);
}

/* Refusals. */

void
serveri_error_json(struct buf *out, const char *name, const char *text)
{
    buf_add_str(out, "{\"error\":");
    json_put_str(out, name);
    buf_add_str(out, ",\"message\":");
    json_put_str(out, text);
    buf_add_str(out, "}\n");
}

void
call_refuse(struct call *call, int status, const char *name, const char *message)
{
    struct buf body = {0};

    call->reason = name;
    serveri_error_json(&body, name, message);
    call_answer(call, status, CALL_JSON, buf_slice(&body));
    buf_fini(&body);
}

int
call_status(const struct err *err)
{
    switch (err->code) {
    case E_INVALID:
    case E_SYNTAX:
    case E_SCHEMA:
    case E_USAGE:
        return 400;
    case E_AUTH:
        return 403;
    case E_NOTFOUND:
        return 404;
    case E_EXISTS:
    case E_WRONG_VERSION:
    case E_STATE:
    case E_DIVERGED:
    case E_FENCED:
    case E_MOVED:
        return 409;
    case E_GONE:
        return 410;
    case E_LIMIT:
        return err->kind == ERR_RETRY ? 503 : 413;
    case E_REJECTED:
        return 422;
    case E_CONNECT:
    case E_REMOTE:
        return 502;
    case E_TIMEOUT:
        return 504;
    case E_NOSPC:
        return 507;
    case E_NOMEM:
    case E_IO:
    case E_RDONLY:
    case E_BUSY:
    case E_CLOSED:
    case E_INTERRUPTED:
        return 503;
    default:
        return 500;
    }
}

void
call_fail(struct call *call, const struct err *err)
{
    struct buf body = {0};

    call->reason = err_name(err->code);
    buf_add_str(&body, "{\"error\":");
    json_put_str(&body, call->reason);
    buf_add_str(&body, ",\"message\":");
    json_put_str(&body, err->text);
    /* A client must look before it sends again. */
    if (err->kind == ERR_UNSURE)
        buf_add_str(&body, ",\"outcome\":\"unknown\"");
    buf_add_str(&body, "}\n");
    call_answer(call, call_status(err), CALL_JSON, buf_slice(&body));
    buf_fini(&body);
}

/* Bodies of unknown length. */

/* The size goes in front of what it counts: eight digits are kept free for it. */
#define CHUNK_HEAD 10

size_t
serveri_chunk_begin(struct call *call)
{
    struct buf *out = &call->conn->out;
    size_t      mark = out->len;

    if (call->chunked_out)
        buf_add(out, "00000000\r\n", CHUNK_HEAD);
    return mark;
}

void
serveri_chunk_end(struct call *call, size_t mark)
{
    static const char digits[] = "0123456789abcdef";
    struct buf       *out = &call->conn->out;
    size_t            len;

    if (!call->chunked_out || out->failed)
        return;
    len = out->len - mark - CHUNK_HEAD;
    if (len == 0) { /* an empty chunk would end the body */
        out->len = mark;
        return;
    }
    must(len <= UINT32_MAX);
    for (int i = 7; i >= 0; i--, len >>= 4)
        out->data[mark + (size_t)i] = (uint8_t)digits[len & 15];
    buf_add_str(out, "\r\n");
}

void
serveri_chunk_last(struct call *call)
{
    if (call->chunked_out)
        buf_add_str(&call->conn->out, "0\r\n\r\n");
}
