/* Sockets and TLS. */
#include "net/wire.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/must.h"

struct net_wire {
    int         fd;
    SSL_CTX    *context; /* NULL: no TLS */
    SSL        *ssl;
    const char *why;         /* the connection is over; a constant, NULL: not known */
    bool        wants_write; /* TLS: it waits for room in the socket, whatever it was asked for */
};

static int
left_ms(struct ox_env *env, uint64_t until_us)
{
    uint64_t now = env->ops->mono_us(env);

    return now >= until_us ? 0 : (int)((until_us - now + 999) / 1000);
}

static bool
ready(int fd, short events, int wait_ms)
{
    struct pollfd p = {.fd = fd, .events = events};

    return poll(&p, 1, wait_ms) > 0;
}

/* One address. 0 or an errno. */
static int
connect_to(struct ox_env *env, const struct addrinfo *a, uint64_t until_us, int *out)
{
    int       fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int       one = 1, why = 0;
    socklen_t len = sizeof why;

    if (fd < 0)
        return errno;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
        why = errno;
        if (why == EINPROGRESS)
            why = !ready(fd, POLLOUT, left_ms(env, until_us))             ? ETIMEDOUT
                  : getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &len) != 0 ? errno
                                                                          : why;
    }
    if (why != 0) {
        (void)close(fd);
        return why;
    }
    *out = fd;
    return 0;
}

static int
connect_any(struct ox_env *env, const struct net_grpc_def *def, const char *place,
            uint64_t until_us, int *out, struct err *err)
{
    struct addrinfo  hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *all = NULL;
    char             port[8];
    int              why;

    (void)snprintf(port, sizeof port, "%u", def->port);
    why = getaddrinfo(def->host, port, &hints, &all);
    if (why != 0)
        RETURN_ERR(err, E_CONNECT, ERR_RETRY, "%s: %s", place, gai_strerror(why));
    for (const struct addrinfo *a = all; a != NULL; a = a->ai_next) {
        why = connect_to(env, a, until_us, out);
        if (why == 0)
            break;
    }
    freeaddrinfo(all);
    if (why != 0)
        RETURN_ERR(err, E_CONNECT, ERR_RETRY, "%s: %s", place, strerror(why));
    return 0;
}

/* TLS */

static const char *
reason(SSL *ssl)
{
    long          trust = ssl == NULL ? X509_V_OK : SSL_get_verify_result(ssl);
    unsigned long code = ERR_get_error();
    const char   *text = code == 0 ? NULL : ERR_reason_error_string(code);

    ERR_clear_error();
    if (trust != X509_V_OK)
        return X509_verify_cert_error_string(trust);
    return text == NULL ? "the connection was lost" : text;
}

static int
trust(struct net_wire *w, const struct net_grpc_def *def, struct err *err)
{
    SSL_CTX_set_verify(w->context, def->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    if (!def->verify)
        return 0;
    if ((def->ca_file == NULL ? SSL_CTX_set_default_verify_paths(w->context)
                              : SSL_CTX_load_verify_locations(w->context, def->ca_file, NULL)) != 1)
        RETURN_ERR(err, E_NOTFOUND, ERR_FATAL, "%s: no certificates could be read: %s",
                   def->ca_file == NULL ? "the system's" : def->ca_file, reason(NULL));
    return 0;
}

/* Our own certificate, for who asks for one. */
static int
introduce(struct net_wire *w, const struct net_grpc_def *def, struct err *err)
{
    if (def->cert_file == NULL)
        return 0;
    if (SSL_CTX_use_certificate_chain_file(w->context, def->cert_file) != 1)
        RETURN_ERR(err, E_NOTFOUND, ERR_FATAL, "%s: no certificate could be read: %s",
                   def->cert_file, reason(NULL));
    if (SSL_CTX_use_PrivateKey_file(w->context, def->key_file, SSL_FILETYPE_PEM) != 1)
        RETURN_ERR(err, E_NOTFOUND, ERR_FATAL, "%s: no key of the certificate could be read: %s",
                   def->key_file, reason(NULL));
    return 0;
}

/* An address is held against the certificate's addresses, a name against its names. */
static bool
name_peer(SSL *ssl, const char *host)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

    if (X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1)
        return true;
    ERR_clear_error();
    return X509_VERIFY_PARAM_set1_host(param, host, 0) == 1 &&
           SSL_set_tlsext_host_name(ssl, host) == 1;
}

static int
shake_hands(struct ox_env *env, struct net_wire *w, const char *place, uint64_t until_us,
            struct err *err)
{
    for (;;) {
        int done = SSL_connect(w->ssl), left, why;

        if (done == 1)
            return 0;
        why = SSL_get_error(w->ssl, done);
        if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
            RETURN_ERR(err, SSL_get_verify_result(w->ssl) != X509_V_OK ? E_AUTH : E_CONNECT,
                       ERR_RETRY, "%s: TLS: %s", place, reason(w->ssl));
        left = left_ms(env, until_us);
        if (left == 0 || !ready(w->fd, why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, left))
            RETURN_ERR(err, E_TIMEOUT, ERR_RETRY, "%s: no TLS handshake in time", place);
    }
}

static int
start_tls(struct ox_env *env, struct net_wire *w, const struct net_grpc_def *def, const char *place,
          uint64_t until_us, struct err *err)
{
    static const unsigned char protocols[] = "\x02h2";
    const unsigned char       *chosen = NULL;
    unsigned                   len = 0;
    int                        rc = 0;

    must((def->cert_file == NULL) == (def->key_file == NULL));
    ERR_clear_error();
    w->context = SSL_CTX_new(TLS_client_method());
    if (w->context == NULL || SSL_CTX_set_min_proto_version(w->context, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_alpn_protos(w->context, protocols, sizeof protocols - 1) != 0)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for TLS");
    (void)SSL_CTX_set_mode(w->context,
                           SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    TRY(trust(w, def, err));
    TRY(introduce(w, def, err));
    w->ssl = SSL_new(w->context);
    if (w->ssl == NULL || SSL_set_fd(w->ssl, w->fd) != 1 || !name_peer(w->ssl, def->host))
        FAIL(err, E_NOMEM, ERR_RETRY, "%s: TLS: %s", place, reason(NULL));
    TRY(shake_hands(env, w, place, until_us, err));
    SSL_get0_alpn_selected(w->ssl, &chosen, &len);
    if (len != 2 || memcmp(chosen, "h2", 2) != 0)
        FAIL(err, E_CONNECT, ERR_RETRY, "%s: the far side does not speak HTTP/2", place);
out:
    return rc;
}

int
net_wire_open(struct ox_env *env, const struct net_grpc_def *def, const char *place,
              struct net_wire **out, struct err *err)
{
    uint64_t         until_us = env->ops->mono_us(env) + (uint64_t)def->connect_ms * 1000;
    struct net_wire *w = calloc(1, sizeof *w);
    int              rc = 0;

    *out = NULL;
    if (w == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a connection");
    w->fd = -1;
    TRY(connect_any(env, def, place, until_us, &w->fd, err));
    if (def->tls)
        TRY(start_tls(env, w, def, place, until_us, err));
    *out = w;
    w = NULL;
out:
    net_wire_close(w);
    return rc;
}

void
net_wire_close(struct net_wire *w)
{
    if (w == NULL)
        return;
    SSL_free(w->ssl);
    SSL_CTX_free(w->context);
    if (w->fd >= 0)
        (void)close(w->fd);
    free(w);
}

static ssize_t
of_tls(struct net_wire *w, int done)
{
    int why = done > 0 ? SSL_ERROR_NONE : SSL_get_error(w->ssl, done);

    w->wants_write = why == SSL_ERROR_WANT_WRITE;
    if (done > 0)
        return done;
    if (why == SSL_ERROR_SSL)
        w->why = ERR_reason_error_string(ERR_peek_error());
    ERR_clear_error();
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static ssize_t
of_socket(ssize_t n)
{
    if (n >= 0)
        return n;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
}

ssize_t
net_wire_read(struct net_wire *w, void *out, size_t size)
{
    ssize_t n;

    must(size > 0);
    if (w->ssl != NULL) {
        ERR_clear_error();
        return of_tls(w, SSL_read(w->ssl, out, (int)size));
    }
    n = recv(w->fd, out, size, 0);
    return n == 0 ? -1 : of_socket(n);
}

ssize_t
net_wire_write(struct net_wire *w, const void *data, size_t size)
{
    must(size > 0);
    if (w->ssl != NULL) {
        ERR_clear_error();
        return of_tls(w, SSL_write(w->ssl, data, size > INT32_MAX ? INT32_MAX : (int)size));
    }
    return of_socket(send(w->fd, data, size, MSG_NOSIGNAL));
}

const char *
net_wire_why(const struct net_wire *w)
{
    return w->why;
}

void
net_wire_wait(struct net_wire *w, bool write, uint32_t wait_ms)
{
    short events = POLLIN;

    if (write || w->wants_write)
        events |= POLLOUT;
    (void)ready(w->fd, events, (int)wait_ms);
}
