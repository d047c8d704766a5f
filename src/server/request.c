/* From a parsed head to its route: what can be refused before the body comes. */
#include "base/must.h"
#include "server/access_int.h"

/*
 * A web page of somebody else's can make a browser send requests here, which
 * loopback does not stop. Browsers name the page's origin on those that write.
 */
static bool
is_foreign(const struct call *call)
{
    struct slice origin, host;
    const char  *p, *end;

    if (call->conn->head.method == HTTP1_GET || call->conn->head.method == HTTP1_HEAD)
        return false;
    if (!call_header(call, "origin", &origin))
        return false;
    if (!call_header(call, "host", &host))
        return true;
    p = origin.data;
    end = p + origin.len;
    if (origin.len > 7 && memcmp(p, "http://", 7) == 0)
        p += 7;
    else if (origin.len > 8 && memcmp(p, "https://", 8) == 0)
        p += 8;
    else
        return true;
    return !slice_eq(slice_of(p, (size_t)(end - p)), host);
}

/* True where the request was answered. */
static bool
refuse(struct call *call, int status, const char *name, const char *message)
{
    call_refuse(call, status, name, message);
    return true;
}

static bool
refuse_route(struct call *call, unsigned allow)
{
    if (allow == 0)
        return refuse(call, 404, "not-found", "there is nothing at this path");
    call->allow = allow;
    if (call->conn->head.method == HTTP1_OPTIONS) {
        call_answer(call, 204, NULL, slice_of(NULL, 0));
        return true;
    }
    return refuse(call, 405, "method-not-allowed", "this path does not take this method");
}

static bool
refuse_body(struct call *call)
{
    const struct conn *c = call->conn;
    uint64_t           max = call->route->def.body_bytes_max;

    if (!c->head.has_length || c->head.length <= max)
        return false;
    if (max == 0)
        return refuse(call, 400, "bad-request", "no body is taken here");
    return refuse(call, 413, "too-large", "the request's body is over the limit");
}

static bool
find(struct call *call)
{
    struct conn *c = call->conn;
    struct err   err;
    unsigned     allow;

    if (c->head.target.len == 1 && c->in[c->head.target.at] == '*' &&
        c->head.method == HTTP1_OPTIONS) {
        call_answer(call, 204, NULL, slice_of(NULL, 0));
        return true;
    }
    if (uri_parse(&call->uri, (char *)c->in + c->head.target.at, c->head.target.len, &err) != 0)
        return refuse(call, 400, "bad-request", err.text);
    call->route = serveri_route_find(c->server, c->head.method, &call->uri, &allow);
    if (call->route == NULL)
        return refuse_route(call, allow);
    if (is_foreign(call))
        return refuse(call, 403, "forbidden", "a page of another origin may not write here");
    return refuse_body(call);
}

bool
serveri_call_begin(struct call *call)
{
    struct conn *c = call->conn;
    struct slice none;
    size_t       used;
    bool         whole;

    c->last = !c->head.keep_alive || c->server->draining;
    c->body_at = c->raw_at = c->head.size;
    c->body_len = 0;
    c->since_ms = serveri_now_ms(c->server);
    call->head_only = c->head.method == HTTP1_HEAD;
    http1_body_init(&c->body, &c->head);
    whole = http1_body_feed(&c->body, NULL, 0, &used, &none) == HTTP1_DONE;
    c->state = whole ? CONN_WAIT : CONN_BODY;
    if (find(call) || !serveri_auth_call(call))
        return c->state == CONN_HEAD;
    serveri_call_go_on(call);
    return c->state == CONN_HEAD || c->state == CONN_BODY;
}

void
serveri_call_go_on(struct call *call)
{
    struct conn *c = call->conn;

    if (!serveri_rate_take(c->server, &c->peer, call->who)) {
        call->retry_after_s = 1;
        call_refuse(call, 429, "too-many-requests", "more requests in a second than are taken");
        return;
    }
    if (!serveri_access_route(call))
        return;
    if (c->state == CONN_BODY) {
        /* Where the body is on its way already nobody waits for this line. */
        if (c->head.expect_continue && c->in_len == c->raw_at) {
            buf_add_str(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
            serveri_conn_dirty(c);
        }
        return;
    }
    call->route->def.fn(call, call->route->arg);
}
