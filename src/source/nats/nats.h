/* The queue `nats`: messages of a JetStream stream through a durable pull consumer. */
#ifndef OX_SOURCE_NATS_NATS_H
#define OX_SOURCE_NATS_NATS_H

#include "source/queue.h"

extern const struct queue_ops source_nats_ops;

#endif
