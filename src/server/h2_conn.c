/* Between a connection and its HTTP/2 session: bytes both ways, the clock, the methods. */
#include "server/h2.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>

#include "server/access_int.h"
#include "server/grpc_int.h"
#include "server/server_int.h"

#define IN_CAP (64U << 10)
#define IDLE_FACTOR 4 /* a client keeps its connection longer than one of HTTP/1.1 */

static uint64_t
now_ms(void *arg)
{
    struct conn *c = arg;

    return serveri_now_ms(c->server);
}

static void
dirty(void *arg)
{
    serveri_conn_dirty(arg);
}

static bool
has_room(void *arg)
{
    return serveri_charge(arg);
}

static const struct rpc_method *
find(void *arg, struct slice path)
{
    struct conn *c = arg;

    c->server->stats.requests++;
    return grpci_find(c->server, path);
}

struct user *
grpci_who(const struct rpc *r)
{
    return rpc_who(r);
}

/* Who asks is known: may he? */
static bool
may_enter(struct conn *c, struct rpc *r, struct slice path, struct user *who)
{
    struct server   *s = c->server;
    enum access_need need = serveri_access_need_grpc(path);
    struct err       err;

    rpc_set_who(r, who);
    if (!serveri_rate_take(s, &c->peer, who)) {
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "more calls in a second than are taken");
        return false;
    }
    if (serveri_may_do(s, who, need)) {
        if (serveri_access_on(s) && (need == ACCESS_OPS || need == ACCESS_ADMIN))
            serveri_audit(s, "Administered", &c->peer, slice_str(user_name(who)), slice_str("gRPC"),
                          path);
        return true;
    }
    rpc_trailer(r, "exception", slice_str("access-denied"));
    if (who == NULL) {
        rpc_end(r, RPC_UNAUTHENTICATED, "say who you are: a name and password, or a token");
        return false;
    }
    (void)serveri_access_refuse(s, who, "call", path, &err);
    rpc_end(r, RPC_PERMISSION_DENIED, err.text);
    return false;
}

static void
refuse_proof(struct rpc *r, enum auth_result result)
{
    if (result == AUTH_BAD)
        rpc_trailer(r, "exception", slice_str("access-denied"));
    if (result == AUTH_BAD)
        rpc_end(r, RPC_UNAUTHENTICATED, "the name and password, or the token, do not hold");
    else if (result == AUTH_OFTEN)
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "too many failed logins from this address");
    else
        rpc_end(r, RPC_UNAVAILABLE, "too many logins wait to be looked at");
}

/* A call whose password is looked at. */
struct entering {
    struct auth_waiter waiter; /* first */
    struct rpc_hold    hold;
    struct conn       *conn;
    struct buf         path;
};

static void
on_known(struct auth_waiter *w, enum auth_result result, struct user *who)
{
    struct entering *e = (struct entering *)w;
    struct rpc      *r = e->hold.rpc;

    if (r != NULL)
        rpc_keep(r, NULL);
    if (r != NULL && result != AUTH_OK) {
        refuse_proof(r, result);
    } else if (r != NULL && may_enter(e->conn, r, buf_slice(&e->path), user_hold(who))) {
        rpc_enter(r);
    }
    user_put(who);
    serveri_conn_release(e->conn);
    buf_fini(&e->path);
    free(e);
}

static bool
enter(void *arg, struct rpc *r, struct slice path, struct slice proof)
{
    struct conn     *c = arg;
    struct entering *e;
    struct user     *who = NULL;
    enum auth_result result;

    if (!serveri_access_on(c->server))
        return may_enter(c, r, path, NULL);
    e = calloc(1, sizeof *e);
    if (e == NULL) {
        refuse_proof(r, AUTH_BUSY);
        return false;
    }
    e->waiter.done = on_known;
    e->conn = c;
    result = serveri_auth(c->server, proof, &c->peer, &who, &e->waiter);
    if (result == AUTH_LATER) {
        buf_add_slice(&e->path, path);
        rpc_keep(r, &e->hold);
        c->users++;
        return false;
    }
    free(e);
    if (result == AUTH_OK || result == AUTH_NONE)
        return may_enter(c, r, path, who);
    refuse_proof(r, result);
    return false;
}

/* A client that sends headers and data apart waits for the acknowledgement in between. */
static void
acknowledge_soon(struct conn *c)
{
    uv_os_fd_t fd;
    int        on = 1;

    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) == 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

void
serveri_h2_begin(struct conn *c)
{
    struct h2_host host = {
        .find = find,
        .enter = enter,
        .now_ms = now_ms,
        .dirty = dirty,
        .room = has_room,
        .arg = c,
        .body_ms_max = c->server->conf.body_ms_max,
        .idle_ms_max = c->server->conf.idle_ms_max * IDLE_FACTOR,
    };
    size_t   cap = c->in_cap > IN_CAP ? c->in_cap : IN_CAP;
    uint8_t *in = realloc(c->in, cap);

    if (in != NULL) {
        c->in = in;
        c->in_cap = cap;
    }
    c->h2 = in == NULL ? NULL : h2_new(&host);
    if (c->h2 == NULL) {
        serveri_conn_end(c, true);
        return;
    }
    c->state = CONN_H2;
    if (c->server->draining)
        h2_drain(c->h2);
}

bool
serveri_h2_process(struct conn *c)
{
    size_t len = c->in_len;

    c->in_len = 0;
    if (len == 0)
        return false;
    (void)h2_input(c->h2, slice_of(c->in, len));
    if (h2_awaits_input(c->h2))
        acknowledge_soon(c);
    (void)serveri_charge(c);
    return false;
}

bool
serveri_h2_fill(struct conn *c)
{
    if (!h2_output(c->h2, &c->out, SERVERI_OUT_HIGH)) {
        serveri_conn_abort(c);
        return false;
    }
    if (h2_is_done(c->h2)) {
        serveri_h2_free(c);
        serveri_conn_end(c, true);
    }
    return true;
}

void
serveri_h2_go_on(struct conn *c)
{
    serveri_conn_process(c);
    if (c->h2 != NULL && h2_wants_output(c->h2))
        serveri_conn_dirty(c);
}

void
serveri_h2_tick(struct conn *c)
{
    if (!h2_tick(c->h2))
        serveri_conn_abort(c);
    else
        (void)serveri_charge(c);
}

void
serveri_h2_drain(struct conn *c)
{
    h2_drain(c->h2);
}

void
serveri_h2_free(struct conn *c)
{
    struct h2 *h2 = c->h2;

    c->h2 = NULL;
    h2_free(h2);
}

size_t
serveri_h2_bytes(const struct conn *c)
{
    return c->h2 == NULL ? 0 : h2_bytes(c->h2);
}

uint64_t
serveri_h2_calls(const struct server *s)
{
    uint64_t count = 0;

    for (const struct conn *c = s->conns; c != NULL; c = c->next)
        if (c->h2 != NULL)
            count += h2_calls(c->h2);
    return count;
}
