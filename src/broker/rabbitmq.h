/*
 * RabbitMQ over librabbitmq, for the drivers that speak AMQP 0-9-1: the settings
 * of a connection, connecting within seconds, errors mapped to ours. A connection
 * belongs to one thread.
 */
#ifndef OX_BROKER_RABBITMQ_H
#define OX_BROKER_RABBITMQ_H

#include <amqp.h>

#include "base/conf.h"
#include "base/err.h"
#include "base/slice.h"

#define BROKER_RABBITMQ_SHORT_MAX 255 /* bytes of AMQP's short strings */

/* What a connection is made with; texts are the configuration's, which outlives it. */
struct broker_rabbitmq_def {
    char        name[80]; /* shown by the broker */
    char        host[256];
    const char *user, *password, *vhost, *ca_file;
    int         port;
    bool        tls;
    uint64_t    connect_us;
    int         heartbeat_s; /* 0: none; else somebody has to read all the time */
};

extern const char *const broker_rabbitmq_schemes[];

/* Entries of a schema that broker_rabbitmq_def_open reads. */
#define BROKER_RABBITMQ_FIELDS                                                                     \
    {.name = "url",                                                                                \
     .type = {.kind = CONF_URL, .values = broker_rabbitmq_schemes},                                \
     .required = true,                                                                             \
     .doc = "amqp://HOST:PORT or amqps://…"},                                                      \
        {.name = "vhost",                                                                          \
         .type = {.kind = CONF_STRING, .min = 1, .max = BROKER_RABBITMQ_SHORT_MAX},                \
         .preset = "/",                                                                            \
         .doc = "the virtual host"},                                                               \
        {.name = "user",                                                                           \
         .type = {.kind = CONF_STRING, .min = 1, .max = BROKER_RABBITMQ_SHORT_MAX},                \
         .preset = "guest",                                                                        \
         .doc = "who Oxbow is"},                                                                   \
        {.name = "password",                                                                       \
         .type = {.kind = CONF_SECRET, .min = 1, .max = BROKER_RABBITMQ_SHORT_MAX},                \
         .preset = "guest",                                                                        \
         .doc = "of `user`"},                                                                      \
        {.name = "ca_file",                                                                        \
         .type = {.kind = CONF_PATH},                                                              \
         .doc = "certificates to trust, for amqps"},                                               \
    {                                                                                              \
        .name = "connect_timeout", .type = {.kind = CONF_DURATION, .min = 10000, .max = 60000000}, \
        .preset = "3s", .doc = "to wait for a connection and for each step of the login"           \
    }

/* `part`: "sink orders". */
int broker_rabbitmq_def_open(const struct conf *, const char *part, struct broker_rabbitmq_def *,
                             struct err *);

/* Connected and logged in, without a channel. */
int  broker_rabbitmq_connect(const struct broker_rabbitmq_def *, amqp_connection_state_t *,
                             struct err *);
void broker_rabbitmq_disconnect(amqp_connection_state_t); /* NULL is fine; without a farewell */
int  broker_rabbitmq_open_channel(amqp_connection_state_t, amqp_channel_t, struct err *);

/*
 * The answer to what was asked last. E_NOTFOUND, E_AUTH, E_REMOTE; ERR_RETRY. The broker's words
 * are of names and rights, never of messages.
 */
int broker_rabbitmq_reply(amqp_rpc_reply_t, const char *what, struct err *);

/* After E_NOTFOUND, which closes a channel: it is opened again. */
int broker_rabbitmq_reopen_channel(amqp_connection_state_t, amqp_channel_t, struct err *);

/* Whether the broker takes bytes just now. */
bool broker_rabbitmq_is_writable(amqp_connection_state_t);

#endif
