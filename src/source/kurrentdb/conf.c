/* The connection string, as KurrentDB's clients have it, and the way to a node. */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/url.h"
#include "source/kurrentdb/kurrentdb_int.h"

#define PORT 2113
#define CONNECT_MS 2000
#define GOSSIP_MS 2000

static struct slice
tail(struct slice s, size_t n)
{
    return slice_of((const char *)s.data + n, s.len - n);
}

/* What stands before the first of `ends`, which stays in *rest. */
static struct slice
cut(struct slice *rest, const char *ends)
{
    struct slice part = *rest;

    for (part.len = 0; part.len < rest->len; part.len++)
        if (strchr(ends, ((const char *)rest->data)[part.len]) != NULL)
            break;
    *rest = tail(*rest, part.len);
    return part;
}

static bool
take(struct slice *rest, const char *prefix)
{
    bool is = slice_starts(*rest, slice_str(prefix));

    if (is)
        *rest = tail(*rest, strlen(prefix));
    return is;
}

static char *
decoded(struct slice text)
{
    struct buf b = {0};

    if (!url_decode(&b, text, false))
        b.failed = true;
    buf_add_byte(&b, '\0');
    if (b.failed) {
        buf_fini(&b);
        return NULL;
    }
    return (char *)b.data;
}

static int
bad(struct err *err, const char *why)
{
    RETURN_ERR(err, E_INVALID, ERR_FATAL, "connection: %s", why);
}

static int
parse_scheme(struct slice *rest, struct kurrentdbi_where *out, struct err *err)
{
    static const char *const schemes[] = {"kurrentdb", "kurrent", "kdb", "esdb"};
    struct slice             scheme = cut(rest, ":+");

    out->discover = take(rest, "+discover");
    if (!take(rest, "://"))
        return bad(err, "it does not begin with kurrentdb:// or esdb://");
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++)
        if (slice_is(scheme, schemes[i]))
            return 0;
    return bad(err, "its scheme has to be kurrentdb, kurrent, kdb or esdb, maybe with +discover");
}

static int
parse_user(struct slice *rest, struct kurrentdbi_where *out, struct err *err)
{
    struct slice after = *rest, user = cut(&after, "@/?"), name;

    if (after.len == 0 || *(const char *)after.data != '@')
        return 0;
    *rest = tail(after, 1);
    name = cut(&user, ":");
    out->user = decoded(name);
    out->password = decoded(user.len > 0 ? tail(user, 1) : user);
    if (out->user == NULL || out->password == NULL)
        return bad(err, "the user's name or password has a % without two digits");
    return 0;
}

static int
parse_host(struct slice text, struct kurrentdbi_where *out, struct err *err)
{
    struct kurrentdbi_host *h = &out->hosts[out->host_count];
    struct slice            name;
    unsigned                port = 0;

    if (out->host_count == KURRENTDBI_HOSTS_MAX)
        return bad(err, "too many hosts");
    if (take(&text, "[")) {
        name = cut(&text, "]");
        (void)take(&text, "]");
    } else {
        name = cut(&text, ":");
    }
    if (name.len == 0 || name.len >= sizeof h->name || memchr(name.data, '\0', name.len) != NULL)
        return bad(err, "a host is missing");
    (void)snprintf(h->name, sizeof h->name, "%.*s", SLICE_FMT(name));
    h->port = PORT;
    if (text.len > 0) {
        char number[8];

        (void)snprintf(number, sizeof number, "%.*s", (int)text.len - 1,
                       (const char *)text.data + 1);
        port = (unsigned)strtoul(number, NULL, 10);
        if (*(const char *)text.data != ':' || text.len > 6 || port == 0 || port > UINT16_MAX)
            return bad(err, "a port has to be a number from 1 to 65535");
        h->port = (uint16_t)port;
    }
    out->host_count++;
    return 0;
}

static bool
is_word(struct slice text, const char *word)
{
    return text.len == strlen(word) && strncasecmp(text.data, word, text.len) == 0;
}

/* One that names a file. */
static int
parse_file(struct slice value, const char *key, char **to, struct err *err)
{
    free(*to);
    *to = decoded(value);
    if (*to == NULL)
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "connection: %s has a %% without two digits", key);
    return 0;
}

/* Options of the clients that mean nothing here are passed over. */
static int
parse_option(struct slice text, struct kurrentdbi_where *out, struct err *err)
{
    struct {
        const char *key;
        char      **to;
    } files[] = {{"tlsCAFile", &out->ca_file},
                 {"userCertFile", &out->cert_file},
                 {"userKeyFile", &out->key_file}};
    struct slice value = text, key = cut(&value, "=");

    if (value.len > 0)
        value = tail(value, 1);
    if (is_word(key, "tls") || is_word(key, "tlsVerifyCert")) {
        bool *to = is_word(key, "tls") ? &out->tls : &out->verify;

        if (!is_word(value, "true") && !is_word(value, "false"))
            return bad(err, "tls and tlsVerifyCert have to be true or false");
        *to = is_word(value, "true");
        return 0;
    }
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (is_word(key, files[i].key))
            return parse_file(value, files[i].key, files[i].to, err);
    return 0;
}

int
kurrentdbi_parse(struct slice connection, struct kurrentdbi_where *out, struct err *err)
{
    struct slice rest = connection, part;
    int          rc = 0;

    *out = (struct kurrentdbi_where){.tls = true, .verify = true, .connect_ms = CONNECT_MS};
    TRY(parse_scheme(&rest, out, err));
    TRY(parse_user(&rest, out, err));
    do {
        TRY(parse_host(cut(&rest, ",/?"), out, err));
    } while (take(&rest, ","));
    (void)take(&rest, "/");
    if (take(&rest, "?")) {
        do {
            part = cut(&rest, "&");
            TRY(parse_option(part, out, err));
        } while (take(&rest, "&"));
    }
    if (rest.len > 0)
        TRY(bad(err, "nothing but options can follow the hosts"));
    if (out->host_count > 1)
        out->discover = true;
out:
    return rc;
}

void
kurrentdbi_where_fini(struct kurrentdbi_where *w)
{
    free(w->user);
    free(w->password);
    free(w->ca_file);
    free(w->cert_file);
    free(w->key_file);
    *w = (struct kurrentdbi_where){0};
}

static int
connect_to(struct ox_env *env, const struct kurrentdbi_where *w, const struct kurrentdbi_host *h,
           struct net_grpc **out, struct err *err)
{
    struct net_grpc_def def = {
        .host = h->name,
        .port = h->port,
        .tls = w->tls,
        .verify = w->verify,
        .ca_file = w->ca_file,
        .cert_file = w->cert_file,
        .key_file = w->key_file,
        .user = w->user,
        .password = w->password,
        .connect_ms = w->connect_ms,
        .message_max = KURRENTDBI_MESSAGE_MAX,
    };

    return net_grpc_open(env, &def, out, err);
}

/* Asks a host for the nodes of its cluster. */
static int
ask(struct net_grpc *g, struct kurrentdbi_host *node, struct err *err)
{
    struct slice message;
    int          rc;

    TRY(net_grpc_call(g, KURRENTDBI_GOSSIP, slice_str(""), err));
    rc = net_grpc_next(g, GOSSIP_MS, &message, err);
    if (rc == E_MORE || rc == E_END)
        FAIL(err, E_TIMEOUT, ERR_RETRY, "no answer about the cluster's nodes");
    TRY(rc);
    if (!kurrentdbi_read_members(message, node))
        FAIL(err, E_REMOTE, ERR_RETRY, "the cluster has no node that can be read from now");
out:
    return rc;
}

int
kurrentdbi_connect(struct ox_env *env, const struct kurrentdbi_where *w, struct net_grpc **out,
                   struct kurrentdbi_host *node, struct err *err)
{
    int rc = E_CONNECT;

    *out = NULL;
    for (unsigned i = 0; i < w->host_count && rc != 0; i++) {
        *node = w->hosts[i];
        rc = connect_to(env, w, node, out, err);
        if (rc != 0 || !w->discover)
            continue;
        rc = ask(*out, node, err);
        net_grpc_close(*out);
        *out = NULL;
        if (rc == 0)
            rc = connect_to(env, w, node, out, err);
    }
    return rc;
}
