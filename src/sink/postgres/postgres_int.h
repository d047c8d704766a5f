/* Between the files of src/sink/postgres only. */
#ifndef OX_SINK_POSTGRES_POSTGRES_INT_H
#define OX_SINK_POSTGRES_POSTGRES_INT_H

#include <libpq-fe.h>

#include "base/conf.h"
#include "sink/sink.h"
#include "sink/table.h"

#define SINKI_POSTGRES_TABLE_MAX 600

struct sinki_postgres_column {
    char *name;
    char *cast; /* of its values' texts, as "::bigint"; NULL: only JSON says how */
    bool  json; /* its values' texts are JSON */
};

/* The values of a column, of the statement that is being made. */
struct sinki_postgres_array {
    int    column;
    size_t at, len; /* in `params` */
};

struct sinki_postgres_sink {
    struct sink        base;
    const struct conf *conf;
    struct sink_table  rows;
    char               table[SINKI_POSTGRES_TABLE_MAX]; /* quoted, with its schema */

    PGconn *conn;
    bool    utf8; /* of both sides */
    bool    sent; /* a statement whose answer is due */
    /* of the table, while connected */
    struct sinki_postgres_column *columns;
    uint32_t                      column_count;
    struct buf                    json, text, name, list; /* of the statement that is being made */
    /* Its values are texts in arrays, not JSON: in `json` row by row, then turned into `params`. */
    bool                         texts;
    bool                         first, odd; /* the row that is being made: has no such texts */
    bool                         reloaded;   /* the columns are others meanwhile */
    struct sinki_postgres_array *arrays;     /* SINK_TABLE_COLUMNS_MAX + 1 */
    uint32_t                     array_count;
    struct buf                   params, scratch;
    uint32_t                     suspect; /* the statement that was refused begins with this item */
};

/* link.c: the connection */

int  sinki_postgres_connect(struct sinki_postgres_sink *, struct err *);
void sinki_postgres_disconnect(struct sinki_postgres_sink *);
/* The statement that was made, without its answer; that is due before the next one. */
int sinki_postgres_send(struct sinki_postgres_sink *, struct err *);
/* The answer to what was sent; 0 where nothing was. */
int sinki_postgres_await(struct sinki_postgres_sink *, struct err *);
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

/* Makes a statement of items from `from` on, as many as one takes and no more than `limit`; *next
 * is the first one that is not in it. */
int sinki_postgres_make(struct sinki_postgres_sink *, uint32_t from, uint32_t limit, uint32_t *next,
                        struct err *);

/* arrays.c: values as texts, in arrays of their columns */

/* A value onto s->json. s->odd: it has no such text that means the same. */
int  sinki_postgres_put(struct sinki_postgres_sink *, int column, struct slice raw, struct err *);
void sinki_postgres_put_text(struct sinki_postgres_sink *, int column, struct slice text);
void sinki_postgres_put_null(struct sinki_postgres_sink *, int column);
/* The rows of s->json as arrays in s->params, one behind the other. */
int sinki_postgres_turn(struct sinki_postgres_sink *, uint32_t rows, struct err *);

#endif
