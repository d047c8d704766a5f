/* A client of NATS': how it is configured. */
#ifndef OX_BROKER_NATS_H
#define OX_BROKER_NATS_H

#include <nats/nats.h>
#include <stdint.h>

#include "base/conf.h"
#include "base/err.h"

#define BROKER_NATS_SERVERS_MAX 16

#define BROKER_NATS_FIELDS                                                                         \
    {.name = "servers",                                                                            \
     .type = {.kind = CONF_LIST,                                                                   \
              .of = &broker_nats_server_type,                                                      \
              .min = 1,                                                                            \
              .max = BROKER_NATS_SERVERS_MAX},                                                     \
     .required = true,                                                                             \
     .doc = "nats://HOST:PORT or tls://…, those of one cluster"},                                  \
        {.name = "user", .type = {.kind = CONF_STRING, .min = 1}, .doc = "with `password`"},       \
        {.name = "password", .type = {.kind = CONF_SECRET, .min = 1}, .doc = "of `user`"},         \
        {.name = "token", .type = {.kind = CONF_SECRET, .min = 1}, .doc = "instead of a user"},    \
        {.name = "credentials",                                                                    \
         .type = {.kind = CONF_PATH},                                                              \
         .doc = "a .creds file, instead of a user"},                                               \
        {.name = "ca_file",                                                                        \
         .type = {.kind = CONF_PATH},                                                              \
         .doc = "certificates to trust instead of the system's"},                                  \
    {                                                                                              \
        .name = "connect_timeout", .type = {.kind = CONF_DURATION, .min = 10000, .max = 60000000}, \
        .preset = "2s", .doc = "to wait for a server"                                              \
    }

extern const struct conf_type broker_nats_server_type;

/* All of BROKER_NATS_FIELDS, with the library's reconnecting off. `who`: "sink NAME", for errors.
 */
int broker_nats_options(const struct conf *conf, const char *who, uint64_t timeout_us,
                        natsOptions **out, struct err *err);

#endif
