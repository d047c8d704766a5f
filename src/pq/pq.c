#include "pq/pq.h"

#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/must.h"

#define OPTIONS                                                                                    \
    "-c datestyle=ISO -c intervalstyle=iso_8601 -c extra_float_digits=3 -c bytea_output=hex "      \
    "-c timezone=UTC -c lock_timeout=1000 -c statement_timeout=15000 "                             \
    "-c idle_in_transaction_session_timeout=60000 -c default_transaction_isolation="               \
    "read\\ committed"

static void
one_line(const char *text, char *out, size_t size)
{
    size_t n = 0;

    for (; *text != '\0' && n + 1 < size; text++)
        out[n++] = *text == '\n' || *text == '\t' ? ' ' : *text;
    while (n > 0 && out[n - 1] == ' ')
        n--;
    out[n] = '\0';
}

static void
swallow(void *arg, const PGresult *result)
{
    (void)arg;
    (void)result;
}

/* The options that the connection string has, with ours behind them. */
static int
gather_options(const char *connection, const char *who, struct buf *out, struct err *err)
{
    char             *why = NULL, text[200];
    PQconninfoOption *given = PQconninfoParse(connection, &why);

    if (given == NULL) {
        one_line(why == NULL ? "out of memory" : why, text, sizeof text);
        PQfreemem(why);
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "source %s: `connection` is none of libpq's: %s", who,
                   text);
    }
    for (PQconninfoOption *o = given; o->keyword != NULL; o++)
        if (strcmp(o->keyword, "options") == 0 && o->val != NULL)
            buf_printf(out, "%s ", o->val);
    PQconninfoFree(given);
    buf_add_str(out, OPTIONS);
    buf_add_byte(out, 0);
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

int
pq_connect(const char *connection, const char *who, struct pg_conn **out, struct err *err)
{
    static const char *const keys[] = {
        "dbname",          "client_encoding",  "options", "fallback_application_name",
        "connect_timeout", "tcp_user_timeout", NULL};
    const char *values[] = {connection, "UTF8", NULL, "oxbow", "3", "10000", NULL};
    struct buf  options = {0};
    PGconn     *conn = NULL;
    char        text[300];
    int         rc;

    *out = NULL;
    TRY(gather_options(connection, who, &options, err));
    values[2] = (const char *)options.data;
    conn = PQconnectdbParams(keys, values, 1);
    if (conn == NULL || PQstatus(conn) != CONNECTION_OK) {
        one_line(conn == NULL ? "out of memory" : PQerrorMessage(conn), text, sizeof text);
        FAIL(err, E_CONNECT, ERR_RETRY, "source %s: PostgreSQL cannot be reached: %s", who, text);
    }
    (void)PQsetNoticeReceiver(conn, swallow, NULL);
    *out = conn;
    conn = NULL;
out:
    PQfinish(conn);
    buf_fini(&options);
    return rc;
}

void
pq_close(struct pg_conn **conn)
{
    PQfinish(*conn);
    *conn = NULL;
}

/* Whether the same may go well later: by the class of the SQLSTATE. */
static bool
passes(const char *state)
{
    static const char *const later[] = {"08", "25", "40", "53", "55", "57", "58", "XX"};

    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++)
        if (strncmp(state, later[i], 2) == 0)
            return true;
    return false;
}

/* Texts of the server's, which speak of names and not of data. */
static int
refused(PGconn *conn, const char *who, const PGresult *r, struct err *err)
{
    const char *state = r == NULL ? NULL : PQresultErrorField(r, PG_DIAG_SQLSTATE);
    const char *said = r == NULL ? NULL : PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);
    char        text[300];

    one_line(said == NULL ? "the connection was lost" : said, text, sizeof text);
    if (state == NULL || PQstatus(conn) != CONNECTION_OK)
        RETURN_ERR(err, E_CONNECT, ERR_RETRY, "source %s: PostgreSQL: %s", who, text);
    RETURN_ERR(err, E_REMOTE, passes(state) ? ERR_RETRY : ERR_FATAL, "source %s: PostgreSQL: %s",
               who, text);
}

int
pq_run(struct pg_conn *conn, const char *who, const char *sql, int count, const char *const *params,
       struct pg_result **out, struct err *err)
{
    PGresult      *r;
    ExecStatusType status;
    int            rc = 0;

    must(count <= PQ_PARAMS_MAX);
    if (out != NULL)
        *out = NULL;
    r = PQexecParams(conn, sql, count, NULL, params, NULL, NULL, 0);
    status = PQresultStatus(r);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        TRY(refused(conn, who, r, err));
    if (out != NULL) {
        *out = r;
        r = NULL;
    }
out:
    PQclear(r);
    return rc;
}

int
pq_run_buf(struct pg_conn *conn, const char *who, struct buf *sql, int count,
           const char *const *params, struct pg_result **out, struct err *err)
{
    buf_add_byte(sql, 0);
    if (sql->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return pq_run(conn, who, (const char *)sql->data, count, params, out, err);
}

void
pq_clear(struct pg_result *r)
{
    PQclear(r);
}

int
pq_rows(const struct pg_result *r)
{
    return PQntuples(r);
}

int
pq_columns(const struct pg_result *r)
{
    return PQnfields(r);
}

const char *
pq_column(const struct pg_result *r, int col)
{
    return PQfname(r, col);
}

bool
pq_is_null(const struct pg_result *r, int row, int col)
{
    return PQgetisnull(r, row, col) != 0;
}

struct slice
pq_cell(const struct pg_result *r, int row, int col)
{
    return slice_of(PQgetvalue(r, row, col), (size_t)PQgetlength(r, row, col));
}

const char *
pq_text(const struct pg_result *r, int row, int col)
{
    return PQgetvalue(r, row, col);
}

bool
pq_true(const struct pg_result *r, int row, int col)
{
    return *PQgetvalue(r, row, col) == 't';
}

uint32_t
pq_type(const struct pg_result *r, int col)
{
    return PQftype(r, col);
}

static void
add_quoted(struct buf *sql, struct slice text, uint8_t quote)
{
    buf_add_byte(sql, quote);
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = ((const uint8_t *)text.data)[i];

        if (c == quote)
            buf_add_byte(sql, quote);
        buf_add_byte(sql, c);
    }
    buf_add_byte(sql, quote);
}

void
pq_add_name(struct buf *sql, const char *name)
{
    const char *dot = strchr(name, '.');

    if (dot != NULL) {
        add_quoted(sql, slice_of(name, (size_t)(dot - name)), '"');
        buf_add_byte(sql, '.');
        name = dot + 1;
    }
    add_quoted(sql, slice_str(name), '"');
}

/* E'…', which reads a backslash alike whatever standard_conforming_strings is. */
void
pq_add_literal(struct buf *sql, struct slice text)
{
    buf_add_str(sql, " E'");
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = ((const uint8_t *)text.data)[i];

        if (c == '\'' || c == '\\')
            buf_add_byte(sql, c);
        buf_add_byte(sql, c);
    }
    buf_add_byte(sql, '\'');
}

bool
pq_wait(struct pg_conn *conn, uint64_t us)
{
    struct pollfd p = {.fd = PQsocket(conn), .events = POLLIN};

    return p.fd >= 0 && poll(&p, 1, (int)((us + 999) / 1000)) > 0;
}

int
pq_notified(struct pg_conn *conn, const char *who, uint32_t *count, struct err *err)
{
    PGnotify *n;

    *count = 0;
    if (PQconsumeInput(conn) == 0)
        RETURN_ERR(err, E_CONNECT, ERR_RETRY, "source %s: the connection to PostgreSQL was lost",
                   who);
    while ((n = PQnotifies(conn)) != NULL) {
        PQfreemem(n);
        (*count)++;
    }
    return 0;
}
