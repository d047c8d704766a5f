/* The sink `sqlite`: a table in a SQLite database, with the checkpoint beside the rows. */
#ifndef OX_SINK_SQLITE_SQLITE_H
#define OX_SINK_SQLITE_SQLITE_H

#include "sink/sink.h"

extern const struct sink_ops sink_sqlite_ops;

#endif
