/* From the configuration's words to the library's. */
#include "broker/nats.h"

static const char *const schemes[] = {"nats", "tls", NULL};
const struct conf_type   broker_nats_server_type = {.kind = CONF_URL, .values = schemes};

static natsStatus
set_credentials(const struct conf *conf, natsOptions *to)
{
    natsStatus st = NATS_OK;

    if (conf_has(conf, "user"))
        st = natsOptions_SetUserInfo(to, conf_str(conf, "user"),
                                     conf_has(conf, "password") ? conf_str(conf, "password") : "");
    if (st == NATS_OK && conf_has(conf, "token"))
        st = natsOptions_SetToken(to, conf_str(conf, "token"));
    if (st == NATS_OK && conf_has(conf, "credentials"))
        st = natsOptions_SetUserCredentialsFromFiles(to, conf_str(conf, "credentials"), NULL);
    if (st == NATS_OK && conf_has(conf, "ca_file"))
        st = natsOptions_LoadCATrustedCertificates(to, conf_str(conf, "ca_file"));
    return st;
}

int
broker_nats_options(const struct conf *conf, const char *who, uint64_t timeout_us,
                    natsOptions **out, struct err *err)
{
    const char *urls[BROKER_NATS_SERVERS_MAX];
    int         n = 0;
    natsStatus  st = natsOptions_Create(out);

    for (const struct conf *c = conf_first(conf_child(conf, "servers")); c != NULL;
         c = conf_next(c))
        urls[n++] = conf_text(c);
    if (st == NATS_OK)
        st = natsOptions_SetServers(*out, urls, n);
    if (st == NATS_OK)
        st = natsOptions_SetAllowReconnect(*out, false);
    if (st == NATS_OK)
        st = natsOptions_SetTimeout(*out,
                                    (int64_t)(conf_duration_us(conf, "connect_timeout") / 1000));
    if (st == NATS_OK)
        st = natsOptions_SetWriteDeadline(*out, (int64_t)(timeout_us / 1000));
    if (st == NATS_OK)
        st = natsOptions_SetName(*out, "oxbow");
    if (st == NATS_OK)
        st = set_credentials(conf, *out);
    if (st != NATS_OK)
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "%s: its settings: %s", who, natsStatus_GetText(st));
    return 0;
}
