/* From the configuration's words to the library's. */
#include "broker/kafka.h"

#include <stdio.h>

#define SAID_MAX 256
#define SOCKET_TIMEOUT_MAX_US UINT64_C(20000000)

const char *const broker_kafka_mechanisms[] = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", NULL};

/* What matters comes with reports and errors. */
static void
on_log(const rd_kafka_t *client, int level, const char *facility, const char *text)
{
}

int
broker_kafka_set(rd_kafka_conf_t *to, const char *name, const char *value, struct err *err)
{
    char why[SAID_MAX];

    if (value == NULL)
        return 0;
    if (rd_kafka_conf_set(to, name, value, why, sizeof why) != RD_KAFKA_CONF_OK)
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "Kafka: %s is not taken", name);
    return 0;
}

int
broker_kafka_set_ms(rd_kafka_conf_t *to, const char *name, uint64_t us, struct err *err)
{
    char text[32];

    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)(us / 1000));
    return broker_kafka_set(to, name, text, err);
}

int
broker_kafka_set_client(const struct conf *conf, uint64_t timeout_us, rd_kafka_conf_t *to,
                        struct err *err)
{
    bool tls = conf_bool(conf, "tls"), sasl = conf_has(conf, "user");
    int  rc;

    TRY(broker_kafka_set(to, "bootstrap.servers", conf_str(conf, "brokers"), err));
    TRY(broker_kafka_set(to, "client.id", "oxbow", err));
    TRY(broker_kafka_set(to, "reconnect.backoff.max.ms", "1000", err)); /* not ten seconds */
    TRY(broker_kafka_set_ms(to, "socket.timeout.ms",
                            timeout_us > SOCKET_TIMEOUT_MAX_US ? SOCKET_TIMEOUT_MAX_US : timeout_us,
                            err));
    rd_kafka_conf_set_log_cb(to, on_log);
    if (tls || sasl)
        TRY(broker_kafka_set(to, "security.protocol",
                             tls && sasl ? "SASL_SSL"
                             : tls       ? "SSL"
                                         : "SASL_PLAINTEXT",
                             err));
    if (tls)
        TRY(broker_kafka_set(to, "ssl.ca.location", conf_str(conf, "ca_file"), err));
    if (sasl) {
        TRY(broker_kafka_set(to, "sasl.mechanisms",
                             broker_kafka_mechanisms[conf_enum(conf, "mechanism")], err));
        TRY(broker_kafka_set(to, "sasl.username", conf_str(conf, "user"), err));
        TRY(broker_kafka_set(to, "sasl.password", conf_str(conf, "password"), err));
    }
out:
    return rc;
}
