/* The gRPC client: a session of nghttp2 over a socket that never blocks. */
#include "net/grpc.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base64.h"
#include "base/must.h"
#include "base/url.h"
#include "net/wire.h"

#define WINDOW (4 << 20)
#define READ_BYTES 65536
#define QUIET_US UINT64_C(10000000) /* without a byte: ask */
#define DEAD_US UINT64_C(25000000)  /* and give up */
#define HEADERS_MAX 8

struct net_grpc {
    struct ox_env   *env;
    struct net_wire *wire;
    nghttp2_session *session;
    struct buf       out; /* frames that the socket did not take yet */
    size_t           out_at;
    char             place[300]; /* HOST:PORT, for texts */
    struct buf       authority, authorization;
    size_t           message_max;
    bool             tls, broken, asked;
    uint64_t         heard_us;

    /* The call. */
    int32_t     stream; /* 0: none */
    const char *method; /* the last part of its path */
    struct buf  request, in;
    size_t      request_at, in_at;
    bool        ended;
    int         http_status, status; /* -1: not said */
    char        text[256], exception[64];
};

/* What the far side says into ours: one line of what can be shown. */
static void
copy_text(char *out, size_t size, struct slice value)
{
    struct buf plain = {0};
    size_t     n = 0;

    if (url_decode(&plain, value, false) && !plain.failed)
        value = buf_slice(&plain);
    for (size_t i = 0; i < value.len && n + 1 < size; i++) {
        uint8_t b = ((const uint8_t *)value.data)[i];

        out[n++] = b < 0x20 || b == 0x7f ? ' ' : (char)b;
    }
    out[n] = '\0';
    buf_fini(&plain);
}

static int
number_of(struct slice text)
{
    int n = 0;

    if (text.len == 0 || text.len > 4)
        return -1;
    for (size_t i = 0; i < text.len; i++) {
        uint8_t b = ((const uint8_t *)text.data)[i];

        if (b < '0' || b > '9')
            return -1;
        n = n * 10 + (b - '0');
    }
    return n;
}

/* what nghttp2 tells */

static int
on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
          size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *arg)
{
    struct net_grpc *g = arg;
    struct slice     key = slice_of(name, name_len), is = slice_of(value, value_len);

    (void)session;
    (void)flags;
    if (frame->hd.stream_id != g->stream)
        return 0;
    if (slice_is(key, ":status"))
        g->http_status = number_of(is);
    else if (slice_is(key, "grpc-status"))
        g->status = number_of(is);
    else if (slice_is(key, "grpc-message"))
        copy_text(g->text, sizeof g->text, is);
    else if (slice_is(key, "exception"))
        copy_text(g->exception, sizeof g->exception, is);
    return 0;
}

static int
on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t len,
        void *arg)
{
    struct net_grpc *g = arg;

    (void)session;
    (void)flags;
    if (stream == g->stream)
        buf_add(&g->in, data, len);
    return 0;
}

static int
on_end(nghttp2_session *session, int32_t stream, uint32_t code, void *arg)
{
    struct net_grpc *g = arg;

    (void)session;
    if (stream != g->stream)
        return 0;
    g->ended = true;
    if (code != NGHTTP2_NO_ERROR && g->status < 0)
        (void)snprintf(g->text, sizeof g->text, "the stream was reset: %s",
                       nghttp2_http2_strerror(code));
    return 0;
}

static ssize_t
give_request(nghttp2_session *session, int32_t stream, uint8_t *out, size_t size, uint32_t *flags,
             nghttp2_data_source *source, void *arg)
{
    struct net_grpc *g = arg;
    size_t           n = g->request.len - g->request_at;

    (void)session;
    (void)source;
    if (stream != g->stream)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (n > size)
        n = size;
    memcpy(out, g->request.data + g->request_at, n);
    g->request_at += n;
    if (g->request_at == g->request.len)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

/* the connection */

static int
lost(struct net_grpc *g, int code, const char *why, struct err *err)
{
    g->broken = true;
    RETURN_ERR(err, code, ERR_RETRY, "%s: %s", g->place, why);
}

/* The far side may have said why, before it went away. */
static int
wire_lost(struct net_grpc *g, struct err *err)
{
    uint8_t     bytes[4096];
    const char *why;

    for (int i = 0; i < 16 && net_wire_read(g->wire, bytes, sizeof bytes) > 0; i++)
        ;
    why = net_wire_why(g->wire);
    if (why == NULL)
        return lost(g, E_CLOSED, "the connection was lost", err);
    g->broken = true;
    RETURN_ERR(err, E_CLOSED, ERR_RETRY, "%s: the connection was lost: TLS: %s", g->place, why);
}

static int
make_session(struct net_grpc *g, struct err *err)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_settings_entry     settings[] = {
            {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
            {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW},
    };
    int made = nghttp2_session_callbacks_new(&callbacks);

    if (made == 0) {
        nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_end);
        made = nghttp2_session_client_new(&g->session, callbacks, g);
        nghttp2_session_callbacks_del(callbacks);
    }
    if (made == 0)
        made = nghttp2_submit_settings(g->session, NGHTTP2_FLAG_NONE, settings, 2);
    if (made == 0)
        made = nghttp2_session_set_local_window_size(g->session, NGHTTP2_FLAG_NONE, 0, WINDOW);
    if (made != 0)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a connection");
    return 0;
}

static int
make_authorization(struct net_grpc *g, const struct net_grpc_def *def)
{
    struct buf pair = {0};

    if (def->user == NULL)
        return 0;
    buf_add_str(&pair, def->user);
    buf_add_byte(&pair, ':');
    buf_add_str(&pair, def->password == NULL ? "" : def->password);
    buf_add_str(&g->authorization, "Basic ");
    base64_encode(&g->authorization, buf_slice(&pair));
    if (pair.failed)
        g->authorization.failed = true;
    buf_fini(&pair);
    return 0;
}

int
net_grpc_open(struct ox_env *env, const struct net_grpc_def *def, struct net_grpc **out,
              struct err *err)
{
    struct net_grpc *g = calloc(1, sizeof *g);
    bool             six = strchr(def->host, ':') != NULL;
    int              rc = 0;

    *out = NULL;
    if (g == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a connection");
    g->env = env;
    g->tls = def->tls;
    g->message_max = def->message_max;
    (void)snprintf(g->place, sizeof g->place, six ? "[%s]:%u" : "%s:%u", def->host, def->port);
    buf_add_str(&g->authority, g->place);
    make_authorization(g, def);
    if (g->authority.failed || g->authorization.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a connection");
    TRY(net_wire_open(env, def, g->place, &g->wire, err));
    TRY(make_session(g, err));
    g->heard_us = env->ops->mono_us(env);
    *out = g;
    g = NULL;
out:
    net_grpc_close(g);
    return rc;
}

void
net_grpc_close(struct net_grpc *g)
{
    if (g == NULL)
        return;
    nghttp2_session_del(g->session);
    net_wire_close(g->wire);
    buf_fini(&g->out);
    buf_fini(&g->authority);
    buf_fini(&g->authorization);
    buf_fini(&g->request);
    buf_fini(&g->in);
    free(g);
}

/* Gives the socket what the session has to say, as much as it takes. */
static int
flush(struct net_grpc *g, struct err *err)
{
    for (;;) {
        const uint8_t *data;
        ssize_t        n;

        if (g->out_at < g->out.len) {
            n = net_wire_write(g->wire, g->out.data + g->out_at, g->out.len - g->out_at);
            if (n < 0)
                return wire_lost(g, err);
            g->out_at += (size_t)n;
            if (g->out_at < g->out.len)
                return 0;
        }
        buf_clear(&g->out);
        g->out_at = 0;
        n = nghttp2_session_mem_send(g->session, &data);
        if (n < 0)
            return lost(g, E_CLOSED, nghttp2_strerror((int)n), err);
        if (n == 0)
            return 0;
        buf_add(&g->out, data, (size_t)n);
        if (g->out.failed)
            return lost(g, E_NOMEM, "out of memory for a frame", err);
    }
}

/* Takes what the socket has; *any: something came. */
static int
take(struct net_grpc *g, bool *any, struct err *err)
{
    uint8_t bytes[READ_BYTES];
    ssize_t n = net_wire_read(g->wire, bytes, sizeof bytes), used;

    *any = n > 0;
    if (n < 0)
        return wire_lost(g, err);
    if (n == 0)
        return 0;
    g->heard_us = g->env->ops->mono_us(g->env);
    g->asked = false;
    used = nghttp2_session_mem_recv(g->session, bytes, (size_t)n);
    if (used < 0)
        return lost(g, E_CLOSED, nghttp2_strerror((int)used), err);
    if (g->in.failed)
        return lost(g, E_NOMEM, "out of memory for a message", err);
    return 0;
}

/* Works for at most wait_ms, less where something came. */
static int
work(struct net_grpc *g, uint32_t wait_ms, bool *any, struct err *err)
{
    uint64_t quiet;
    int      rc = 0;

    *any = false;
    TRY(flush(g, err));
    TRY(take(g, any, err));
    if (!*any && wait_ms > 0) {
        net_wire_wait(g->wire, g->out_at < g->out.len, wait_ms);
        TRY(take(g, any, err));
    }
    TRY(flush(g, err));
    quiet = g->env->ops->mono_us(g->env) - g->heard_us;
    if (quiet > DEAD_US)
        return lost(g, E_TIMEOUT, "nothing was heard for 25 s", err);
    if (quiet > QUIET_US && !g->asked) {
        g->asked = true;
        (void)nghttp2_submit_ping(g->session, NGHTTP2_FLAG_NONE, NULL);
        TRY(flush(g, err));
    }
out:
    return rc;
}

/* calls */

static void
add_header(nghttp2_nv *all, size_t *count, const char *name, struct slice value)
{
    must(*count < HEADERS_MAX);
    all[(*count)++] = (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                                   .value = (uint8_t *)(uintptr_t)value.data,
                                   .namelen = strlen(name),
                                   .valuelen = value.len};
}

int
net_grpc_call(struct net_grpc *g, const char *path, struct slice message, struct err *err)
{
    nghttp2_data_provider provider = {.read_callback = give_request};
    nghttp2_nv            headers[HEADERS_MAX];
    size_t                n = 0;
    uint8_t prefix[5] = {0, (uint8_t)(message.len >> 24), (uint8_t)(message.len >> 16),
                         (uint8_t)(message.len >> 8), (uint8_t)message.len};

    must(message.len <= UINT32_MAX);
    if (g->broken)
        return lost(g, E_CLOSED, "the connection was lost", err);
    if (g->stream != 0 && !g->ended)
        (void)nghttp2_submit_rst_stream(g->session, NGHTTP2_FLAG_NONE, g->stream, NGHTTP2_CANCEL);
    buf_clear(&g->request);
    buf_add(&g->request, prefix, sizeof prefix);
    buf_add_slice(&g->request, message);
    buf_clear(&g->in);
    g->request_at = g->in_at = 0;
    g->ended = false;
    g->http_status = g->status = -1;
    g->text[0] = g->exception[0] = '\0';
    g->method = strrchr(path, '/') + 1;
    add_header(headers, &n, ":method", slice_str("POST"));
    add_header(headers, &n, ":scheme", slice_str(g->tls ? "https" : "http"));
    add_header(headers, &n, ":path", slice_str(path));
    add_header(headers, &n, ":authority", buf_slice(&g->authority));
    add_header(headers, &n, "te", slice_str("trailers"));
    add_header(headers, &n, "content-type", slice_str("application/grpc"));
    add_header(headers, &n, "user-agent", slice_str("oxbow"));
    if (g->authorization.len > 0)
        add_header(headers, &n, "authorization", buf_slice(&g->authorization));
    g->stream = nghttp2_submit_request(g->session, NULL, headers, n, &provider, NULL);
    if (g->request.failed || g->stream < 0)
        return lost(g, E_NOMEM, "no room for a call", err);
    return flush(g, err);
}

/* A whole message of the buffer. 0: there is none. */
static int
cut_message(struct net_grpc *g, struct slice *out, bool *found, struct err *err)
{
    const uint8_t *p;
    size_t         have = g->in.len - g->in_at, len;

    *found = false;
    if (have < 5)
        return 0;
    p = g->in.data + g->in_at;
    len = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    if (p[0] != 0)
        return lost(g, E_REMOTE, "a compressed message, which nobody asked for", err);
    if (len > g->message_max) {
        g->broken = true;
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "%s: a message of %zu bytes, at most %zu are taken",
                   g->place, len, g->message_max);
    }
    if (have < 5 + len)
        return 0;
    *out = slice_of(p + 5, len);
    g->in_at += 5 + len;
    *found = true;
    return 0;
}

static int
how_it_ended(struct net_grpc *g, struct err *err)
{
    static const char said[] = "";
    int               code = E_REMOTE;
    enum err_kind     kind = ERR_RETRY;

    if (g->status == NET_GRPC_OK && g->in_at == g->in.len)
        return E_END;
    switch (g->status) {
    case NET_GRPC_INVALID_ARGUMENT:
    case NET_GRPC_UNIMPLEMENTED:
        code = E_REJECTED;
        kind = ERR_FATAL;
        break;
    case NET_GRPC_UNAUTHENTICATED:
    case NET_GRPC_PERMISSION_DENIED:
        code = E_AUTH;
        break;
    case NET_GRPC_NOT_FOUND:
        code = E_NOTFOUND;
        break;
    default:
        break;
    }
    if (g->status < 0 && g->http_status != 200 && g->http_status > 0)
        (void)snprintf(g->text, sizeof g->text, "HTTP status %d", g->http_status);
    RETURN_ERR(err, code, kind, "%s: %s: status %d%s%s%s%s%s", g->place, g->method, g->status,
               g->exception[0] != '\0' ? " (" : said, g->exception,
               g->exception[0] != '\0' ? ")" : said, g->text[0] != '\0' ? ": " : said, g->text);
}

int
net_grpc_next(struct net_grpc *g, uint32_t wait_ms, struct slice *message, struct err *err)
{
    uint64_t until = g->env->ops->mono_us(g->env) + (uint64_t)wait_ms * 1000;
    bool     found = false, any;
    int      rc = 0;

    must(g->stream > 0);
    for (;;) {
        uint64_t now;

        TRY(cut_message(g, message, &found, err));
        if (found)
            return 0;
        buf_consume(&g->in, g->in_at);
        g->in_at = 0;
        if (g->ended)
            return how_it_ended(g, err);
        if (g->broken)
            return lost(g, E_CLOSED, "the connection was lost", err);
        now = g->env->ops->mono_us(g->env);
        TRY(work(g, now < until ? (uint32_t)((until - now + 999) / 1000) : 0, &any, err));
        if (!any && g->env->ops->mono_us(g->env) >= until)
            return E_MORE;
    }
out:
    return rc;
}
