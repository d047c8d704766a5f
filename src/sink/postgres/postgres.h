/* The sink `postgres`: a table in PostgreSQL, with the checkpoint beside the rows (docs/sinks.md).
 */
#ifndef OX_SINK_POSTGRES_POSTGRES_H
#define OX_SINK_POSTGRES_POSTGRES_H

#include "sink/sink.h"

extern const struct sink_ops sink_postgres_ops;

#endif
