/* The sink `rabbitmq`: events as messages of an exchange, by AMQP 0-9-1 (docs/sinks.md). */
#ifndef OX_SINK_RABBITMQ_RABBITMQ_H
#define OX_SINK_RABBITMQ_RABBITMQ_H

#include "sink/sink.h"

extern const struct sink_ops sink_rabbitmq_ops;

#endif
