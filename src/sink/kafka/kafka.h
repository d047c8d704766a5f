/* The sink `kafka`: events as records of topics (docs/sinks.md). */
#ifndef OX_SINK_KAFKA_KAFKA_H
#define OX_SINK_KAFKA_KAFKA_H

#include "sink/sink.h"

extern const struct sink_ops sink_kafka_ops;

#endif
