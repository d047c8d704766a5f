/* The sink `mariadb`: rows of a table, or statements, with the checkpoint in their transaction. */
#ifndef OX_SINK_MARIADB_MARIADB_H
#define OX_SINK_MARIADB_MARIADB_H

#include "sink/sink.h"

extern const struct sink_ops sink_mariadb_ops;

#endif
