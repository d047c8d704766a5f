/* Between the files of src/sink/mariadb only. */
#ifndef OX_SINK_MARIADB_MARIADB_INT_H
#define OX_SINK_MARIADB_MARIADB_INT_H

#include <mysql.h>

#include "base/conf.h"
#include "sink/table.h"

struct sinki_mariadb_column {
    char *name;
    bool  is_time; /* datetime or timestamp: RFC 3339 is turned into what it takes */
};

struct sinki_mariadb_sink {
    struct sink        base;
    const struct conf *conf;
    struct sink_table  rows;
    struct buf table, schema; /* quoted, with its database; the plain names; NULs at the end */
    char      *host, *user, *database;
    unsigned   port;

    MYSQL *conn;
    bool   committing; /* a connection that is lost now leaves it open what became of it */
    /* of the table, while connected */
    struct sinki_mariadb_column *columns;
    uint32_t                     column_count;
    struct buf                   sql, values, list, name, scratch;
};

/* link.c: the connection */

int  sinki_mariadb_connect(struct sinki_mariadb_sink *, struct err *);
void sinki_mariadb_disconnect(struct sinki_mariadb_sink *);
/* One statement, with nothing to give or with rows that are thrown away. */
int sinki_mariadb_run(struct sinki_mariadb_sink *, struct slice sql, struct err *);
/* The first column of the first row; `none` where there is no row. */
int sinki_mariadb_number(struct sinki_mariadb_sink *, struct slice sql, uint64_t none,
                         uint64_t *out, struct err *);
int sinki_mariadb_load_columns(struct sinki_mariadb_sink *, struct err *);
/* -1: there is none. Names are compared as MariaDB does with ASCII. */
int  sinki_mariadb_find_column(const struct sinki_mariadb_sink *, struct slice name);
void sinki_mariadb_text(struct sinki_mariadb_sink *, struct buf *out, struct slice text);

/* rows.c: items into statements */

/* The columns that `create` is to make; DDL ends a transaction, so it comes before one. */
int sinki_mariadb_make_columns(struct sinki_mariadb_sink *, struct err *);
/* Items from `from` on, no more than `limit`; *next is the first one that was not in it. */
int sinki_mariadb_apply(struct sinki_mariadb_sink *, uint32_t from, uint32_t limit, uint32_t *next,
                        struct err *);
/* The item's own statement, of the configuration. */
int sinki_mariadb_statement(struct sinki_mariadb_sink *, const struct sink_item *, struct err *);

#endif
