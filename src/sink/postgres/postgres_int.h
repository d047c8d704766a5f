/* Between the files of src/sink/postgres only. */
#ifndef OX_SINK_POSTGRES_POSTGRES_INT_H
#define OX_SINK_POSTGRES_POSTGRES_INT_H

#include <libpq-fe.h>

#include "base/conf.h"
#include "sink/sink.h"
#include "sink/table.h"

#define SINKI_POSTGRES_TABLE_MAX 600

struct sinki_postgres_sink {
    struct sink        base;
    const struct conf *conf;
    struct sink_table  rows;
    char               table[SINKI_POSTGRES_TABLE_MAX]; /* quoted, with its schema */

    PGconn *conn;
    /* of the table, while connected */
    char     **columns;
    uint32_t   column_count;
    struct buf json, text, name, list; /* of the statement that is being made */
};

/* link.c: the connection */

int  sinki_postgres_connect(struct sinki_postgres_sink *, struct err *);
void sinki_postgres_disconnect(struct sinki_postgres_sink *);
/* One statement of one text parameter, or of none where it is NULL. *rows: how many it changed. */
int sinki_postgres_run(struct sinki_postgres_sink *, const char *sql, const char *param,
                       int64_t *rows, struct err *);
/* The item's own statement, of the configuration. */
int sinki_postgres_statement(struct sinki_postgres_sink *, const struct sink_item *, struct err *);
/* The first column of the first row; `none` where there is no row. */
int sinki_postgres_number(struct sinki_postgres_sink *, const char *sql, const char *param,
                          int64_t none, int64_t *out, struct err *);
int sinki_postgres_load_columns(struct sinki_postgres_sink *, struct err *);
/* -1: there is none. */
int sinki_postgres_find_column(const struct sinki_postgres_sink *, struct slice name);

/* rows.c: items into statements */

/* Items from `from` on, as many as one statement takes and no more than `limit`; *next is the first
 * one that was not in it. */
int sinki_postgres_apply(struct sinki_postgres_sink *, uint32_t from, uint32_t limit,
                         uint32_t *next, struct err *);

#endif
