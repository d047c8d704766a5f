/*
 * PostgreSQL over libpq, for drivers that ask short questions: connecting
 * within seconds, statements that end by themselves, errors mapped to ours. A
 * connection belongs to one thread.
 */
#ifndef OX_PQ_PQ_H
#define OX_PQ_PQ_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

struct pg_conn;   /* libpq's PGconn */
struct pg_result; /* libpq's PGresult */

/* E_CONNECT, ERR_RETRY; E_INVALID where the connection string is none of libpq's. `who` names the
 * part of the configuration in all texts. */
int  pq_connect(const char *connection, const char *who, struct pg_conn **out, struct err *err);
void pq_close(struct pg_conn **conn); /* NULL is fine; leaves NULL */

/* Parameters are texts; NULL is NULL. `out` may be NULL; else the caller clears it. */
#define PQ_PARAMS_MAX 8
int pq_run(struct pg_conn *conn, const char *who, const char *sql, int count,
           const char *const *params, struct pg_result **out, struct err *err);
/* A statement that was gathered; it is ended with a NUL. */
int  pq_run_buf(struct pg_conn *conn, const char *who, struct buf *sql, int count,
                const char *const *params, struct pg_result **out, struct err *err);
void pq_clear(struct pg_result *r); /* NULL is fine */

int          pq_rows(const struct pg_result *r);
int          pq_columns(const struct pg_result *r);
const char  *pq_column(const struct pg_result *r, int col); /* its name */
bool         pq_is_null(const struct pg_result *r, int row, int col);
struct slice pq_cell(const struct pg_result *r, int row, int col);
const char  *pq_text(const struct pg_result *r, int row, int col); /* "" for NULL */
bool         pq_true(const struct pg_result *r, int row, int col);
uint32_t     pq_type(const struct pg_result *r, int col); /* its OID */

/* Quoted; a name may be "schema.table". */
void pq_add_name(struct buf *sql, const char *name);
void pq_add_literal(struct buf *sql, struct slice text);

/* Waits until the server says something (a notification), at most so long; false: it did not. */
bool pq_wait(struct pg_conn *conn, uint64_t us);
/* Takes what has come; how many notifications were among it. E_CONNECT: the connection is gone. */
int pq_notified(struct pg_conn *conn, const char *who, uint32_t *count, struct err *err);

#endif
