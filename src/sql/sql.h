/*
 * SQLite, as the drivers use it: opening with clear refusals, error codes
 * mapped to ours, SQL text with quoted names, values to JSON and back, and
 * what a table looks like. A connection belongs to one thread at a time.
 *
 * SQL texts are formats of sqlite3_mprintf: %w between double quotes is a name
 * ("%w"), %Q a string with its quotes or NULL, %lld an int64_t.
 */
#ifndef OX_SQL_SQL_H
#define OX_SQL_SQL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

struct sqlite3;
struct sqlite3_stmt;

enum sql_mode {
    SQL_READ,   /* must be there */
    SQL_WRITE,  /* must be there and take writes */
    SQL_CREATE, /* made when missing */
};

/* E_NOTFOUND, E_FORMAT (no database), E_RDONLY, E_BUSY; waits at most busy_ms for locks. */
int
sql_open(const char *path, enum sql_mode mode, int busy_ms, struct sqlite3 **db, struct err *err);
void sql_close(struct sqlite3 *db); /* NULL is fine; statements must be finalised */

/* The connection's last error as ours; never 0. `what` says what was being done. */
int sql_fail(struct sqlite3 *db, struct err *err, const char *what);

int sql_run(struct sqlite3 *db, struct err *err, const char *fmt, ...);
int
sql_prepare(struct sqlite3 *db, struct sqlite3_stmt **stmt, struct err *err, const char *fmt, ...);
/* A statement of text that is complete already. */
int sql_prepare_text(struct sqlite3 *db, struct slice text, struct sqlite3_stmt **stmt,
                     struct err *err);
/* The first column of the first row; `none` where there is no row or it is NULL. */
int
sql_number(struct sqlite3 *db, int64_t none, int64_t *out, struct err *err, const char *fmt, ...);

/* One step. A failed step resets the statement. */
int sql_step(struct sqlite3_stmt *stmt, bool *row, struct err *err);
/* Steps until there is no row, then resets. */
int sql_finish(struct sqlite3_stmt *stmt, struct err *err);

/* BEGIN IMMEDIATE: earlier writers have committed when it returns 0. */
int  sql_begin_write(struct sqlite3 *db, struct err *err);
int  sql_begin_read(struct sqlite3 *db, struct err *err);
int  sql_commit(struct sqlite3 *db, struct err *err); /* rolls back where it fails */
void sql_rollback(struct sqlite3 *db);                /* no transaction: nothing */

/* Appends formatted SQL; a failure stays in the buffer. */
void sql_add(struct buf *b, const char *fmt, ...);
/* Runs what was gathered in the buffer, any number of statements. */
int sql_run_buf(struct sqlite3 *db, struct buf *text, struct err *err);

void         sql_bind_slice(struct sqlite3_stmt *stmt, int at, struct slice text);
struct slice sql_column_slice(struct sqlite3_stmt *stmt, int col); /* until the next step */

/* Values. */

/*
 * Exactly what stands in the column: integers and text as such, reals in the
 * fewest digits that read back as the same number and with a point or an
 * exponent, infinities as 9e999; {"$blob":"hex"} and, for text that is no
 * UTF-8, {"$text":"hex"}.
 */
void sql_column_json(struct buf *b, struct sqlite3_stmt *stmt, int col);
void sql_json_real(struct buf *b, double v);

/*
 * The way back from one raw JSON value. true and false are 1 and 0, whole
 * numbers beyond 64 bits and other objects and arrays their own text.
 */
int sql_bind_json(struct sqlite3_stmt *stmt, int at, struct slice raw, struct err *err);

/* A key column's value as part of a key's text: parts escape '\' and '|'. */
void sql_column_key(struct buf *b, struct sqlite3_stmt *stmt, int col, bool part);

/* Tables. */

struct sql_column {
    char *name, *type, *dflt; /* dflt: an SQL expression or NULL */
    char *coll;               /* its own collation */
    int   key_at;             /* place in the primary key from 1; 0: not in it */
    bool  not_null, generated;
};

struct sql_unique {
    uint32_t  count;
    uint32_t *cols; /* places in sql_table.cols */
    char    **coll; /* the index's; NULL: the column's own */
    bool      primary;
};

struct sql_table {
    char              *name;
    struct sql_column *cols;
    uint32_t           count;
    uint32_t          *key; /* places of the primary key's columns, in its order */
    uint32_t           key_count;
    struct sql_unique *uniques; /* the primary key first */
    uint32_t           unique_count;
    bool               rowid_key;   /* INTEGER PRIMARY KEY */
    bool               expressions; /* a unique index over an expression is not among uniques */
};

/* E_NOTFOUND: no such table; E_SCHEMA: a view or a virtual table. */
int  sql_table_load(struct sqlite3 *db, const char *name, struct sql_table **out, struct err *err);
void sql_table_free(struct sql_table *t);
/* The place of a column, by name as SQLite compares names; -1. */
int sql_table_find(const struct sql_table *t, struct slice name);

/* Appends `LEFT."c" = RIGHT."c" AND …` for the columns of one unique key, by its collations. */
void sql_unique_match(struct buf *b, const struct sql_table *t, const struct sql_unique *u,
                      const char *left, const char *right);

/* The one-row table that carries the mark of Oxbow's own writes to triggers. */
int sql_origin_install(struct sqlite3 *db, struct err *err);
/* Within a transaction; an empty mark takes it away again. */
int sql_origin_set(struct sqlite3 *db, struct slice mark, struct err *err);

#endif
