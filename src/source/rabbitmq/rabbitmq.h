/* The source `rabbitmq`: messages of a queue, by AMQP 0-9-1 (docs/queues.md). */
#ifndef OX_SOURCE_RABBITMQ_RABBITMQ_H
#define OX_SOURCE_RABBITMQ_RABBITMQ_H

#include "source/queue.h"

extern const struct queue_ops source_rabbitmq_ops;

#endif
