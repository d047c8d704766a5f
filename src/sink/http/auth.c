/*
 * What shows the service who is asking: a signature over each body, and a token by OAuth's client
 * credentials (RFC 6749, section 4.4). A token is asked for when one is needed, and thrown away
 * shortly before it ends or when it is refused.
 */
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/url.h"
#include "sink/http/http_int.h"

#define EARLY_US UINT64_C(10000000)        /* before its end a token is not used any more */
#define PRESET_US UINT64_C(300000000)      /* of a token that does not say how long it lives */
#define LIFE_MAX_S (UINT64_C(366) * 86400) /* more is cut to this */

const struct conf_field sinki_http_sign_fields[] = {
    {.name = "secret",
     .type = {.kind = CONF_SECRET, .min = 8, .max = 1024},
     .required = true,
     .doc = "of HMAC-SHA256"},
    {.name = "header",
     .type = {.kind = CONF_STRING, .min = 1, .max = 100, .chars = "A-Za-z0-9_-"},
     .preset = "Oxbow-Signature",
     .doc = "which has t=SECONDS,v1=HEX: the signature of SECONDS.BODY"},
    {.name = NULL},
};

const struct conf_field sinki_http_oauth_fields[] = {
    {.name = "token_url",
     .type = {.kind = CONF_URL},
     .required = true,
     .doc = "which gives tokens for client credentials"},
    {.name = "client_id",
     .type = {.kind = CONF_STRING, .min = 1, .max = 1024},
     .required = true,
     .doc = "of Oxbow there"},
    {.name = "client_secret",
     .type = {.kind = CONF_SECRET, .min = 1, .max = 4096},
     .required = true,
     .doc = "of Oxbow there"},
    {.name = "scope", .type = {.kind = CONF_STRING, .min = 1, .max = 1024}, .doc = "to ask for"},
    {.name = NULL},
};

struct httpi_auth {
    char              *secret, *header; /* NULL: nothing is signed */
    struct net_client *client;          /* NULL: there are no tokens */
    char              *token_url;
    struct buf         form, token; /* "Bearer …" */
    uint64_t           until_us;    /* of the token; 0: there is none */
};

static int
copy_text(const char *text, char **out, struct err *err)
{
    *out = strdup(text);
    if (*out == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    return 0;
}

static void
add_form(struct buf *out, const char *key, const char *value)
{
    if (value == NULL)
        return;
    buf_printf(out, "&%s=", key);
    url_encode(out, slice_str(value));
}

static int
open_tokens(struct httpi_auth *a, struct ox_env *env, const struct conf *conf, struct err *err)
{
    const struct conf *oauth = conf_child(conf, "oauth");
    struct net_def     def = {.connect_ms =
                                  (uint32_t)(conf_duration_us(conf, "connect_timeout") / 1000) + 1,
                              .total_ms = (uint32_t)(conf_duration_us(conf, "timeout") / 1000) + 1,
                              .in_flight_max = 1,
                              .answer_max = 65536,
                              .ca_file = conf_str(conf, "ca_file")};
    int                rc;

    TRY(copy_text(conf_str(oauth, "token_url"), &a->token_url, err));
    buf_add_str(&a->form, "grant_type=client_credentials");
    add_form(&a->form, "client_id", conf_str(oauth, "client_id"));
    add_form(&a->form, "client_secret", conf_str(oauth, "client_secret"));
    add_form(&a->form, "scope", conf_str(oauth, "scope"));
    if (a->form.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    rc = net_client_new(env, &def, &a->client, err);
out:
    return rc;
}

int
sinki_http_auth_open(struct ox_env *env, const struct conf *conf, struct httpi_auth **out,
                     struct err *err)
{
    const struct conf *sign = conf_child(conf, "sign");
    struct httpi_auth *a = calloc(1, sizeof *a);
    int                rc = 0;

    *out = NULL;
    if (a == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    if (sign != NULL) {
        TRY(copy_text(conf_str(sign, "secret"), &a->secret, err));
        TRY(copy_text(conf_str(sign, "header"), &a->header, err));
    }
    if (conf_child(conf, "oauth") != NULL)
        TRY(open_tokens(a, env, conf, err));
    *out = a;
    a = NULL;
out:
    sinki_http_auth_free(a);
    return rc;
}

void
sinki_http_auth_free(struct httpi_auth *a)
{
    if (a == NULL)
        return;
    net_client_free(a->client);
    free(a->secret);
    free(a->header);
    free(a->token_url);
    buf_fini(&a->form);
    buf_fini(&a->token);
    free(a);
}

/* tokens */

bool
sinki_http_auth_is_stale(const struct httpi_auth *a, uint64_t now_us)
{
    return a->client != NULL && now_us >= a->until_us;
}

void
sinki_http_auth_refused(struct httpi_auth *a)
{
    a->until_us = 0;
}

static bool
is_printable(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (((const uint8_t *)s.data)[i] <= ' ' || ((const uint8_t *)s.data)[i] > '~')
            return false;
    return s.len > 0;
}

static int
take_token(struct httpi_auth *a, struct slice body, uint64_t now_us, struct err *err)
{
    struct slice raw;
    uint64_t     life_s, life_us = PRESET_US;
    int          rc = 0;

    if (json_check(body, NULL) != 0 || !json_get(body, "access_token", &raw) ||
        json_type(raw) != JSON_STRING)
        FAIL(err, E_AUTH, ERR_RETRY, "POST of token_url: its answer has no access_token");
    buf_clear(&a->token);
    buf_add_str(&a->token, "Bearer ");
    TRY(json_string_decode(raw, &a->token, err));
    if (a->token.failed || !is_printable(slice_of(a->token.data + 7, a->token.len - 7)))
        FAIL(err, E_AUTH, ERR_RETRY, "POST of token_url: its access_token fits no header");
    if (json_get(body, "expires_in", &raw) && json_uint64(raw, &life_s))
        life_us = (life_s > LIFE_MAX_S ? LIFE_MAX_S : life_s) * 1000000;
    a->until_us = now_us + (life_us > 2 * EARLY_US ? life_us - EARLY_US : life_us / 2 + 1);
out:
    return rc;
}

/* Waits for the answer, as long as any. */
int
sinki_http_auth_renew(struct httpi_auth *a, uint64_t now_us, struct err *err)
{
    struct net_header headers[] = {
        {slice_str("Content-Type"), slice_str("application/x-www-form-urlencoded")},
        {slice_str("Accept"), slice_str("application/json")}};
    struct net_request r = {.method = "POST",
                            .url = slice_str(a->token_url),
                            .headers = headers,
                            .header_count = 2,
                            .body = buf_slice(&a->form),
                            .label = "POST of token_url"};
    struct net_answer  answer = {0};
    int                rc;

    TRY(net_call(a->client, &r, &answer, err));
    TRY(net_status(&answer, r.label, false, err));
    rc = take_token(a, answer.body, now_us, err);
out:
    if (rc != 0 && err->kind != ERR_RETRY)
        err->kind = ERR_RETRY; /* no event is at fault */
    return rc;
}

/* headers */

static int
put_signature(const struct httpi_auth *a, int64_t now_s, struct slice body, struct buf *out)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned      len = 0;
    struct buf    text = {0};
    bool          fine;

    buf_printf(&text, "%" PRId64 ".", now_s);
    buf_add_slice(&text, body);
    fine = !text.failed && HMAC(EVP_sha256(), a->secret, (int)strlen(a->secret), text.data,
                                text.len, digest, &len) != NULL;
    buf_fini(&text);
    buf_clear(out);
    buf_printf(out, "t=%" PRId64 ",v1=", now_s);
    for (unsigned i = 0; i < len; i++)
        buf_printf(out, "%02x", digest[i]);
    return fine && !out->failed ? 0 : E_NOMEM;
}

int
sinki_http_auth_headers(struct httpi_auth *a, int64_t wall_us, struct slice body, struct buf *text,
                        struct net_header *headers, uint32_t *count, struct err *err)
{
    if (a->client != NULL)
        headers[(*count)++] = (struct net_header){slice_str("Authorization"), buf_slice(&a->token)};
    if (a->secret == NULL)
        return 0;
    if (put_signature(a, wall_us / 1000000, body, text) != 0)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a signature");
    headers[(*count)++] = (struct net_header){slice_str(a->header), buf_slice(text)};
    return 0;
}
