/* PostgreSQL's logical replication, taken in by pgoutput (docs/postgres.md). */
#ifndef OX_SOURCE_POSTGRES_POSTGRES_H
#define OX_SOURCE_POSTGRES_POSTGRES_H

#include "source/source.h"

extern const struct source_ops source_postgres_ops;

#endif
