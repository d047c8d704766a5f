/* The source `sqlite`: tables of a SQLite database, by triggers into a change table. */
#ifndef OX_SOURCE_SQLITE_SQLITE_H
#define OX_SOURCE_SQLITE_SQLITE_H

#include "source/source.h"

extern const struct source_ops source_sqlite_ops;

#endif
