/* The store `sqlite`: columns of a table in a SQLite database as one side of a migration. */
#ifndef OX_STORE_SQLITE_SQLITE_H
#define OX_STORE_SQLITE_SQLITE_H

#include "store/store.h"

extern const struct store_ops store_sqlite_ops;

#endif
