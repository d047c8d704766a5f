/* Connections, and what their errors mean. */
#include <errmsg.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <threads.h>

#include "base/must.h"
#include "source/mariadb/mariadb_int.h"

#define CONNECT_S 3
#define ANSWER_S 10

/* Of the server's, which mysqld_error.h has not or names otherwise. */
enum {
    ER_MASTER_FATAL = 1236,
    ER_SLAVE_SAME = 4052,
    ER_ACCESS = 1045,
    ER_DB_ACCESS = 1044,
    ER_NEED_PRIVILEGE = 1227,
};

static void
library_start(void)
{
    (void)mysql_server_init(0, NULL, NULL);
}

static void
set_options(const struct my_source *s, MYSQL *m)
{
    unsigned connect_s = CONNECT_S, answer_s = ANSWER_S;
    my_bool  on = 1, off = 0;

    (void)mysql_optionsv(m, MYSQL_OPT_CONNECT_TIMEOUT, &connect_s);
    (void)mysql_optionsv(m, MYSQL_OPT_READ_TIMEOUT, &answer_s);
    (void)mysql_optionsv(m, MYSQL_OPT_WRITE_TIMEOUT, &answer_s);
    (void)mysql_optionsv(m, MYSQL_OPT_LOCAL_INFILE, NULL);
    (void)mysql_optionsv(m, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    (void)mysql_optionsv(m, MYSQL_OPT_RECONNECT, &off);
    if (s->tls > 0) {
        (void)mysql_optionsv(m, MYSQL_OPT_SSL_ENFORCE, &on);
        (void)mysql_optionsv(m, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, s->tls > 1 ? &on : &off);
        if (s->ca_file != NULL)
            (void)mysql_optionsv(m, MYSQL_OPT_SSL_CA, s->ca_file);
    }
}

int
mariadbi_connect(struct my_source *s, MYSQL **out, struct err *err)
{
    static once_flag      once = ONCE_FLAG_INIT;
    const struct my_host *h = &s->hosts[s->host_at];
    const char           *socket = s->host_at == 0 ? s->socket : NULL;
    MYSQL                *m;
    int                   rc = 0;

    call_once(&once, library_start);
    *out = NULL;
    m = mysql_init(NULL);
    if (m == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    set_options(s, m);
    if (mysql_real_connect(m, socket == NULL ? h->name : NULL, s->user, s->password, s->database,
                           h->port, socket, 0) == NULL) {
        rc = mariadbi_fail(s, m, "connect", true, err);
        /* Both connections are dropped after a failure: they always lead to one server. */
        s->host_at = (s->host_at + 1) % s->host_count;
    }
    /* Answers in UTC, with every digit, whatever the server's presets are. */
    if (rc == 0)
        rc = mariadbi_run(s, m, err,
                          "SET SESSION time_zone = '+00:00', sql_mode = '', "
                          "tx_isolation = 'REPEATABLE-READ', net_write_timeout = 10");
    if (rc == 0)
        *out = m;
    else
        mysql_close(m);
    return rc;
}

void
mariadbi_disconnect(MYSQL **conn)
{
    if (*conn != NULL)
        mysql_close(*conn);
    *conn = NULL;
}

int
mariadbi_fail(struct my_source *s, MYSQL *conn, const char *what, bool say, struct err *err)
{
    unsigned    no = mysql_errno(conn);
    const char *text = say ? mysql_error(conn) : mysql_sqlstate(conn);

    switch (no) {
    case ER_MASTER_FATAL:
        RETURN_ERR(
            err, E_STATE, ERR_FATAL,
            "source %s: a gap: the server cannot go on from where this source stands: %.250s; "
            "set `restart:` to a new text to start over with a snapshot",
            s->base.instance, text);
    case ER_SLAVE_SAME:
        RETURN_ERR(err, E_BUSY, ERR_FATAL,
                   "source %s: another client reads the binary log as server_id %u: set "
                   "`server_id` to one that nobody has",
                   s->base.instance, s->server_id);
    case ER_ACCESS:
    case ER_DB_ACCESS:
    case ER_NEED_PRIVILEGE:
        RETURN_ERR(err, E_AUTH, ERR_RETRY, "source %s: %s: not allowed: %.250s", s->base.instance,
                   what, text);
    case CR_CONNECTION_ERROR:
    case CR_CONN_HOST_ERROR:
    case CR_UNKNOWN_HOST:
    case CR_SERVER_GONE_ERROR:
    case CR_SERVER_LOST:
    case 0:
        RETURN_ERR(err, E_CONNECT, ERR_RETRY, "source %s: %s: no connection to the server: %.250s",
                   s->base.instance, what, no == 0 ? "it ended" : text);
    default:
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "source %s: %s: error %u: %.250s", s->base.instance,
                   what, no, text);
    }
}

static int
send_text(struct my_source *s, MYSQL *conn, const char *fmt, va_list args, struct err *err)
{
    char *text;
    int   len = vasprintf(&text, fmt, args), rc = 0;

    if (len < 0)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (mysql_real_query(conn, text, (unsigned long)len) != 0)
        rc = mariadbi_fail(s, conn, "query", true, err);
    free(text);
    return rc;
}

int
mariadbi_run(struct my_source *s, MYSQL *conn, struct err *err, const char *fmt, ...)
{
    va_list args;
    int     rc;

    va_start(args, fmt);
    rc = send_text(s, conn, fmt, args, err);
    va_end(args);
    return rc;
}

int
mariadbi_ask(struct my_source *s, MYSQL *conn, MYSQL_RES **out, struct err *err, const char *fmt,
             ...)
{
    va_list args;
    int     rc;

    *out = NULL;
    va_start(args, fmt);
    rc = send_text(s, conn, fmt, args, err);
    va_end(args);
    if (rc != 0)
        return rc;
    *out = mysql_store_result(conn);
    return *out != NULL ? 0 : mariadbi_fail(s, conn, "query", true, err);
}

int
mariadbi_need_query(struct my_source *s, struct err *err)
{
    return s->query != NULL ? 0 : mariadbi_connect(s, &s->query, err);
}

void
mariadbi_add_name(struct buf *sql, const char *name)
{
    buf_add_byte(sql, '`');
    for (; *name != '\0'; name++) {
        if (*name == '`')
            buf_add_byte(sql, '`');
        buf_add_byte(sql, (uint8_t)*name);
    }
    buf_add_byte(sql, '`');
}

void
mariadbi_add_text(MYSQL *conn, struct buf *sql, struct slice text)
{
    buf_add_byte(sql, '\'');
    if (buf_reserve(sql, text.len * 2 + 1))
        sql->len += mysql_real_escape_string(conn, (char *)sql->data + sql->len, text.data,
                                             (unsigned long)text.len);
    buf_add_byte(sql, '\'');
}

void
mariadbi_drop(struct my_source *s)
{
    if (s->rpl != NULL)
        mariadb_rpl_close(s->rpl);
    s->rpl = NULL;
    mariadbi_disconnect(&s->stream);
    mariadbi_disconnect(&s->query);
    s->in_group = s->half = false;
    s->map = NULL;
    s->shape_due = false;
    s->emptied_left = 0;
    for (uint32_t i = 0; i < s->map_count; i++)
        mariadbi_table_fini(&s->maps[i].table);
    s->map_count = s->map_next = 0;
    s->count = 0;
    buf_clear(&s->chunk.asked); /* the next server may have other logs under the same names */
    mariadbi_snapshot_drop(s);
}
