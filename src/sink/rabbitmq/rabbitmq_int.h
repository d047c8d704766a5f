/* Between the files of src/sink/rabbitmq only. */
#ifndef OX_SINK_RABBITMQ_RABBITMQ_INT_H
#define OX_SINK_RABBITMQ_RABBITMQ_INT_H

#include <amqp.h>

#include "base/err.h"
#include "base/slice.h"
#include "base/url.h"

#define RABBITMQI_CHANNEL 1 /* messages, with confirms */

struct conf;

/* What a connection is made with; of the configuration, which outlives it. */
struct rabbitmqi_def {
    const char *name; /* shown by the broker */
    const char *host, *user, *password, *vhost, *ca_file;
    int         port;
    bool        tls;
    uint64_t    connect_us;
};

/* Connected, and its channel takes confirmed messages. */
int  rabbitmqi_connect(const struct rabbitmqi_def *, amqp_connection_state_t *, struct err *);
void rabbitmqi_disconnect(amqp_connection_state_t); /* NULL is fine; without a farewell */

/* E_NOTFOUND, ERR_RETRY: there is none. Any other error: the connection is of no more use. */
int rabbitmqi_find_exchange(amqp_connection_state_t, const char *name, struct err *);

/* Whether the broker takes bytes just now. */
bool rabbitmqi_is_writable(amqp_connection_state_t);

#endif
