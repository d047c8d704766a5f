/* The source `mariadb`: tables of MariaDB, by its binary log. */
#ifndef OX_SOURCE_MARIADB_MARIADB_H
#define OX_SOURCE_MARIADB_MARIADB_H

#include "source/source.h"

extern const struct source_ops source_mariadb_ops;

#endif
