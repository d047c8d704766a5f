#include "server/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/must.h"
#include "server/server.h"

struct tls_context {
    SSL_CTX *ctx;
};

struct tls {
    SSL *ssl;
    BIO *in, *out; /* the SSL's */
    char why[160];
};

/* contexts */

/*
 * Most preferred first; each with its length in front, as the protocol has it (RFC 7301). HTTP/2 is
 * for gRPC alone, whose clients offer nothing else; those that offer both want the other routes.
 */
static const unsigned char protocols[] = "\x08http/1.1\x02h2";

static int
choose(SSL *ssl, const unsigned char **out, unsigned char *len, const unsigned char *in,
       unsigned int in_len, void *arg)
{
    unsigned char *found = NULL;

    (void)ssl;
    (void)arg;
    if (SSL_select_next_proto(&found, len, protocols, sizeof protocols - 1, in, in_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = found;
    return SSL_TLSEXT_ERR_OK;
}

/* The first of OpenSSL's reasons; the others follow from it. */
static const char *
reason(void)
{
    unsigned long code = ERR_get_error();
    const char   *text = code == 0 ? NULL : ERR_reason_error_string(code);

    ERR_clear_error();
    return text == NULL ? "unknown error" : text;
}

static int
fail_file(const char *what, const char *path, struct err *err)
{
    const char *why = reason();

    if (access(path, R_OK) != 0)
        RETURN_ERR(err, E_NOTFOUND, ERR_FATAL, "tls.%s %s: cannot be read", what, path);
    RETURN_ERR(err, E_INVALID, ERR_FATAL, "tls.%s %s: %s", what, path, why);
}

static int
load(SSL_CTX *ctx, const struct server_tls *conf, struct err *err)
{
    if (SSL_CTX_use_certificate_chain_file(ctx, conf->cert) != 1)
        return fail_file("cert", conf->cert, err);
    if (SSL_CTX_use_PrivateKey_file(ctx, conf->key, SSL_FILETYPE_PEM) != 1)
        return fail_file("key", conf->key, err);
    if (SSL_CTX_check_private_key(ctx) != 1) {
        ERR_clear_error();
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "tls.key %s: is not the key of the certificate in %s",
                   conf->key, conf->cert);
    }
    if (conf->client_ca == NULL)
        return 0;
    if (SSL_CTX_load_verify_locations(ctx, conf->client_ca, NULL) != 1)
        return fail_file("client_ca", conf->client_ca, err);
    SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(conf->client_ca));
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return 0;
}

int
serveri_tls_context(const struct server_tls *conf, struct tls_context **out, struct err *err)
{
    static const unsigned char id[] = "oxbow";
    struct tls_context        *context = calloc(1, sizeof *context);
    int                        rc = 0;

    must(conf->cert != NULL);
    must(conf->key != NULL);
    *out = NULL;
    ERR_clear_error();
    if (context == NULL || (context->ctx = SSL_CTX_new(TLS_server_method())) == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for TLS");
    if (SSL_CTX_set_min_proto_version(context->ctx, TLS1_2_VERSION) != 1)
        FAIL(err, E_INVALID, ERR_FATAL, "TLS 1.2 is not to be had: %s", reason());
    /* A renegotiation costs us more than who asks for it; idle connections need no buffers. */
    (void)SSL_CTX_set_options(context->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                                SSL_OP_CIPHER_SERVER_PREFERENCE);
    (void)SSL_CTX_set_mode(context->ctx, SSL_MODE_RELEASE_BUFFERS);
    (void)SSL_CTX_set_session_id_context(context->ctx, id, sizeof id - 1);
    SSL_CTX_set_alpn_select_cb(context->ctx, choose, NULL);
    TRY(load(context->ctx, conf, err));
    *out = context;
    context = NULL;
out:
    serveri_tls_context_free(context);
    return rc;
}

void
serveri_tls_context_free(struct tls_context *context)
{
    if (context == NULL)
        return;
    SSL_CTX_free(context->ctx);
    free(context);
}

/* connections */

struct tls *
serveri_tls_new(struct tls_context *context)
{
    struct tls *tls = calloc(1, sizeof *tls);

    if (tls == NULL)
        return NULL;
    tls->ssl = SSL_new(context->ctx);
    tls->in = BIO_new(BIO_s_mem());
    tls->out = BIO_new(BIO_s_mem());
    if (tls->ssl == NULL || tls->in == NULL || tls->out == NULL) {
        BIO_free(tls->in);
        BIO_free(tls->out);
        SSL_free(tls->ssl);
        free(tls);
        return NULL;
    }
    SSL_set_bio(tls->ssl, tls->in, tls->out);
    SSL_set_accept_state(tls->ssl);
    return tls;
}

void
serveri_tls_free(struct tls *tls)
{
    if (tls == NULL)
        return;
    SSL_free(tls->ssl); /* and the BIOs */
    free(tls);
}

bool
serveri_tls_feed(struct tls *tls, const void *data, size_t len)
{
    size_t done = 0;

    return len == 0 || (BIO_write_ex(tls->in, data, len, &done) == 1 && done == len);
}

static enum tls_result
judge(struct tls *tls, int rc)
{
    switch (SSL_get_error(tls->ssl, rc)) {
    case SSL_ERROR_NONE:
        return TLS_OK;
    case SSL_ERROR_WANT_READ:
        return TLS_MORE;
    case SSL_ERROR_ZERO_RETURN:
        return TLS_END;
    default:
        (void)snprintf(tls->why, sizeof tls->why, "%s", reason());
        return TLS_BAD;
    }
}

enum tls_result
serveri_tls_read(struct tls *tls, void *to, size_t room, size_t *len)
{
    must(room > 0);
    *len = 0;
    ERR_clear_error();
    return judge(tls, SSL_read_ex(tls->ssl, to, room, len));
}

bool
serveri_tls_ready(const struct tls *tls)
{
    return SSL_is_init_finished(tls->ssl) == 1;
}

enum tls_result
serveri_tls_write(struct tls *tls, struct slice plain)
{
    size_t done = 0;

    must(serveri_tls_ready(tls));
    if (plain.len == 0)
        return TLS_OK;
    ERR_clear_error();
    return judge(tls, SSL_write_ex(tls->ssl, plain.data, plain.len, &done));
}

void
serveri_tls_close(struct tls *tls)
{
    ERR_clear_error();
    if (serveri_tls_ready(tls))
        (void)SSL_shutdown(tls->ssl);
    ERR_clear_error();
}

bool
serveri_tls_has(const struct tls *tls)
{
    return BIO_pending(tls->out) > 0;
}

void
serveri_tls_take(struct tls *tls, struct buf *out)
{
    char *data;
    long  len = BIO_get_mem_data(tls->out, &data);

    must(len >= 0);
    buf_add(out, data, (size_t)len);
    (void)BIO_reset(tls->out);
}

const char *
serveri_tls_why(const struct tls *tls)
{
    return tls->why;
}
