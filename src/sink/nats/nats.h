/* The sink `nats`: events as messages of JetStream streams (docs/sinks.md). */
#ifndef OX_SINK_NATS_NATS_H
#define OX_SINK_NATS_NATS_H

#include "sink/sink.h"

extern const struct sink_ops sink_nats_ops;

#endif
