/* A client of Kafka's, of whichever kind: how it is configured. */
#ifndef OX_BROKER_KAFKA_H
#define OX_BROKER_KAFKA_H

#include <librdkafka/rdkafka.h>
#include <stdint.h>

#include "base/conf.h"
#include "base/err.h"

#define BROKER_KAFKA_FIELDS                                                                        \
    {.name = "brokers",                                                                            \
     .type = {.kind = CONF_STRING, .min = 1, .max = 4096},                                         \
     .required = true,                                                                             \
     .doc = "HOST:PORT,…: some of the cluster"},                                                   \
        {.name = "user", .type = {.kind = CONF_STRING, .min = 1}, .doc = "of SASL"},               \
        {.name = "password", .type = {.kind = CONF_SECRET, .min = 1}, .doc = "of `user`"},         \
        {.name = "mechanism",                                                                      \
         .type = {.kind = CONF_ENUM, .values = broker_kafka_mechanisms},                           \
         .preset = "SCRAM-SHA-512",                                                                \
         .doc = "of SASL, where there is a user"},                                                 \
        {.name = "tls", .type = {.kind = CONF_BOOL}, .preset = "false", .doc = "to the brokers"},  \
    {                                                                                              \
        .name = "ca_file", .type = {.kind = CONF_PATH},                                            \
        .doc = "certificates to trust instead of the system's"                                     \
    }

extern const char *const broker_kafka_mechanisms[];

/* E_INVALID, ERR_FATAL where the library does not take it. A value of NULL is left as it is. */
int broker_kafka_set(rd_kafka_conf_t *to, const char *name, const char *value, struct err *err);
int broker_kafka_set_ms(rd_kafka_conf_t *to, const char *name, uint64_t us, struct err *err);
/* All of BROKER_KAFKA_FIELDS; the library's log goes nowhere. */
int broker_kafka_set_client(const struct conf *conf, uint64_t timeout_us, rd_kafka_conf_t *to,
                            struct err *err);

#endif
