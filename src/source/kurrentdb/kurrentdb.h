/* Another log of events, followed over gRPC: a KurrentDB, an EventStoreDB, an Oxbow. */
#ifndef OX_SOURCE_KURRENTDB_KURRENTDB_H
#define OX_SOURCE_KURRENTDB_KURRENTDB_H

#include "source/source.h"

extern const struct source_ops source_kurrentdb_ops;

#endif
