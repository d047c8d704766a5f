/* The queue `kafka`: records of topics, through a consumer group. */
#ifndef OX_SOURCE_KAFKA_KAFKA_H
#define OX_SOURCE_KAFKA_KAFKA_H

#include "source/queue.h"

extern const struct queue_ops source_kafka_ops;

#endif
