/* Connections, and statements on them that wait no longer than they may. */
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/json.h"
#include "source/postgres/postgres_int.h"

#define CONNECT_US UINT64_C(3000000)
#define QUERY_US UINT64_C(20000000)
#define NEAR_BYTES 65536 /* the kernel takes twice as much, for what goes with them */
/* How values are written, whatever the server or the role prefers. */
#define GUCS                                                                                       \
    "-c datestyle=ISO -c intervalstyle=iso_8601 -c extra_float_digits=3 -c bytea_output=hex "      \
    "-c timezone=UTC -c lock_timeout=900"
#define GUCS_QUERY " -c statement_timeout=15000 -c idle_in_transaction_session_timeout=60000"

/* libpq's texts are several lines and end with one. */
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

static int
unreachable(struct pg_source *s, PGconn *conn, struct err *err)
{
    char text[300];

    one_line(conn == NULL ? "out of memory" : PQerrorMessage(conn), text, sizeof text);
    RETURN_ERR(err, E_CONNECT, ERR_RETRY, "source %s: PostgreSQL cannot be reached: %s",
               s->base.instance, text);
}

/* The options that the connection string already gives, with ours behind them. */
static int
gather_options(struct pg_source *s, bool replication, struct buf *out, struct err *err)
{
    char             *why = NULL;
    PQconninfoOption *given = PQconninfoParse(s->connection, &why);
    char              text[200];

    if (given == NULL) {
        one_line(why == NULL ? "out of memory" : why, text, sizeof text);
        PQfreemem(why);
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "source %s: `connection` is none of libpq's: %s",
                   s->base.instance, text);
    }
    for (PQconninfoOption *o = given; o->keyword != NULL; o++) {
        if (strcmp(o->keyword, "options") == 0 && o->val != NULL) {
            buf_add_str(out, o->val);
            buf_add_byte(out, ' ');
        }
    }
    PQconninfoFree(given);
    buf_add_str(out, GUCS);
    if (!replication)
        buf_add_str(out, GUCS_QUERY);
    buf_add_byte(out, 0);
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

/* Waits for what PQconnectPoll or PQflush asks for. */
static bool
wait_for(PGconn *conn, short events, uint64_t us)
{
    struct pollfd p = {.fd = PQsocket(conn), .events = events};

    return p.fd >= 0 && poll(&p, 1, (int)((us + 999) / 1000)) > 0;
}

bool
postgresi_wait(PGconn *conn, uint64_t us)
{
    return wait_for(conn, POLLIN, us);
}

void
postgresi_pause(PGconn *conn, uint64_t us)
{
    (void)wait_for(conn, 0, us);
}

void
postgresi_keep_near(PGconn *conn)
{
    const char *address = PQhostaddr(conn);
    int         room = NEAR_BYTES;

    /* Refused, it is slower. */
    if (address != NULL && (strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0))
        (void)setsockopt(PQsocket(conn), SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
}

static int
finish_connect(struct pg_source *s, PGconn *conn, struct err *err)
{
    struct ox_env            *env = s->base.env;
    uint64_t                  until = env->ops->mono_us(env) + CONNECT_US, now;
    PostgresPollingStatusType next = PGRES_POLLING_WRITING;

    while (PQstatus(conn) != CONNECTION_BAD) {
        now = env->ops->mono_us(env);
        if (now >= until)
            RETURN_ERR(err, E_TIMEOUT, ERR_RETRY, "source %s: PostgreSQL does not answer",
                       s->base.instance);
        (void)wait_for(conn, next == PGRES_POLLING_READING ? POLLIN : POLLOUT, until - now);
        next = PQconnectPoll(conn);
        if (next == PGRES_POLLING_OK)
            return 0;
        if (next == PGRES_POLLING_FAILED)
            break;
    }
    return unreachable(s, conn, err);
}

static void
swallow(void *arg, const PGresult *result)
{
    (void)arg;
    (void)result;
}

int
postgresi_connect(struct pg_source *s, bool replication, PGconn **out, struct err *err)
{
    struct buf  options = {0};
    const char *keys[] = {"dbname",  "client_encoding",  "fallback_application_name",
                          "options", "tcp_user_timeout", replication ? "replication" : NULL,
                          NULL};
    const char *values[] = {s->connection, "UTF8", "oxbow", NULL, "10000", "database", NULL};
    PGconn     *conn = NULL;
    int         rc;

    *out = NULL;
    TRY(gather_options(s, replication, &options, err));
    values[3] = (const char *)options.data;
    conn = PQconnectStartParams(keys, values, 1);
    if (conn == NULL || PQstatus(conn) == CONNECTION_BAD)
        TRY(unreachable(s, conn, err));
    TRY(finish_connect(s, conn, err));
    (void)PQsetNoticeReceiver(conn, swallow, NULL);
    s->version = PQserverVersion(conn);
    if (s->version < 120000)
        FAIL(err, E_INVALID, ERR_FATAL, "source %s: PostgreSQL %d is too old; 12 is the oldest",
             s->base.instance, s->version / 10000);
    *out = conn;
    conn = NULL;
out:
    PQfinish(conn);
    buf_fini(&options);
    return rc;
}

void
postgresi_disconnect(PGconn **conn)
{
    PQfinish(*conn);
    *conn = NULL;
}

int
postgresi_need_query(struct pg_source *s, struct err *err)
{
    if (s->query != NULL && PQstatus(s->query) == CONNECTION_OK)
        return 0;
    postgresi_disconnect(&s->query);
    return postgresi_connect(s, false, &s->query, err);
}

/* Whether the same may go well later: by the class of the SQLSTATE. */
static bool
passes(const char *state)
{
    static const char *const later[] = {"08", "40", "53", "55", "57", "58", "XX", NULL};

    for (int i = 0; later[i] != NULL; i++)
        if (strncmp(state, later[i], 2) == 0)
            return true;
    return false;
}

int
postgresi_fail(struct pg_source *s, const PGresult *result, const char *what, struct err *err)
{
    const char *state = result == NULL ? NULL : PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *said = result == NULL ? NULL : PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    char        text[300];

    one_line(said == NULL ? "the connection was lost" : said, text, sizeof text);
    if (state == NULL || passes(state))
        RETURN_ERR(err, state == NULL ? E_CONNECT : E_REMOTE, ERR_RETRY, "source %s: %s: %s",
                   s->base.instance, what, text);
    RETURN_ERR(err, E_REMOTE, ERR_FATAL, "source %s: %s: %s", s->base.instance, what, text);
}

static bool
is_success(const PGresult *result)
{
    switch (PQresultStatus(result)) {
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
    case PGRES_COPY_BOTH:
        return true;
    default:
        return false;
    }
}

/* The last result of what was sent, NULL where the connection broke or time ran out. */
static PGresult *
gather(struct pg_source *s, PGconn *conn)
{
    struct ox_env *env = s->base.env;
    uint64_t       until = env->ops->mono_us(env) + QUERY_US, now;
    PGresult      *last = NULL, *next;

    for (;;) {
        while (PQisBusy(conn)) {
            now = env->ops->mono_us(env);
            if (now >= until || !postgresi_wait(conn, until - now) || PQconsumeInput(conn) == 0) {
                PQclear(last);
                return NULL;
            }
        }
        next = PQgetResult(conn);
        if (next == NULL)
            return last;
        PQclear(last);
        last = next;
        if (PQresultStatus(last) == PGRES_COPY_BOTH || PQstatus(conn) == CONNECTION_BAD)
            return last;
    }
}

int
postgresi_query(struct pg_source *s, PGconn *conn, const char *sql, PGresult **out, struct err *err)
{
    PGresult *result = NULL;
    char      what[40];
    int       rc = 0;

    if (out != NULL)
        *out = NULL;
    (void)snprintf(what, sizeof what, "%s", sql);
    if (PQsendQuery(conn, sql) != 0)
        result = gather(s, conn);
    if (result == NULL || !is_success(result))
        TRY(postgresi_fail(s, result, what, err));
    if (out != NULL) {
        *out = result;
        result = NULL;
    }
out:
    PQclear(result);
    return rc;
}

int
postgresi_query_buf(struct pg_source *s, PGconn *conn, struct buf *sql, PGresult **out,
                    struct err *err)
{
    buf_add_byte(sql, 0);
    if (sql->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return postgresi_query(s, conn, (const char *)sql->data, out, err);
}

static void
add_escaped(struct buf *sql, char *escaped)
{
    if (escaped == NULL)
        sql->failed = true;
    else
        buf_add_str(sql, escaped);
    PQfreemem(escaped);
}

void
postgresi_add_literal(PGconn *conn, struct buf *sql, const char *text)
{
    add_escaped(sql, PQescapeLiteral(conn, text, strlen(text)));
}

void
postgresi_add_name(PGconn *conn, struct buf *sql, const char *text)
{
    add_escaped(sql, PQescapeIdentifier(conn, text, strlen(text)));
}

struct slice
postgresi_cell(const PGresult *result, int row, int col)
{
    return slice_of(PQgetvalue(result, row, col), (size_t)PQgetlength(result, row, col));
}

bool
postgresi_cell_u64(const PGresult *result, int row, int col, uint64_t *out)
{
    return PQgetisnull(result, row, col) == 0 && json_uint64(postgresi_cell(result, row, col), out);
}
