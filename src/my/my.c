#include "my/my.h"

#include <errmsg.h>
#include <mysql.h>
#include <threads.h>

#define CONNECT_S 3
#define ANSWER_S 15
#define CHARSET_BINARY 63
#define UUID_LEN 36

const char *const my_tls_words[] = {"off", "on", "verify", NULL};

static void
library_start(void)
{
    (void)mysql_server_init(0, NULL, NULL);
}

static int
failed(MYSQL *conn, const char *who, struct err *err)
{
    unsigned no = mysql_errno(conn);

    switch (no) {
    case CR_CONNECTION_ERROR:
    case CR_CONN_HOST_ERROR:
    case CR_UNKNOWN_HOST:
    case CR_SERVER_GONE_ERROR:
    case CR_SERVER_LOST:
    case 0:
        RETURN_ERR(err, E_CONNECT, ERR_RETRY, "source %s: no connection to MariaDB: %.250s", who,
                   no == 0 ? "it ended" : mysql_error(conn));
    default:
        /* Rights and tables may be given later. */
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "source %s: MariaDB: error %u: %.250s", who, no,
                   mysql_error(conn));
    }
}

int
my_connect(const struct conf *conf, const char *who, MYSQL **out, struct err *err)
{
    static once_flag once = ONCE_FLAG_INIT;
    const char      *socket = conf_str(conf, "socket"), *ca = conf_str(conf, "ca_file");
    size_t           tls = conf_enum(conf, "tls");
    unsigned         connect_s = CONNECT_S, answer_s = ANSWER_S;
    my_bool          on = 1, off = 0;
    MYSQL           *m;
    int              rc;

    call_once(&once, library_start);
    *out = NULL;
    m = mysql_init(NULL);
    if (m == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    (void)mysql_optionsv(m, MYSQL_OPT_CONNECT_TIMEOUT, &connect_s);
    (void)mysql_optionsv(m, MYSQL_OPT_READ_TIMEOUT, &answer_s);
    (void)mysql_optionsv(m, MYSQL_OPT_WRITE_TIMEOUT, &answer_s);
    (void)mysql_optionsv(m, MYSQL_OPT_LOCAL_INFILE, NULL);
    (void)mysql_optionsv(m, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    (void)mysql_optionsv(m, MYSQL_OPT_RECONNECT, &off);
    if (tls > 0) {
        (void)mysql_optionsv(m, MYSQL_OPT_SSL_ENFORCE, &on);
        (void)mysql_optionsv(m, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, tls > 1 ? &on : &off);
        if (ca != NULL)
            (void)mysql_optionsv(m, MYSQL_OPT_SSL_CA, ca);
    }
    if (mysql_real_connect(m, socket == NULL ? conf_str(conf, "host") : NULL,
                           conf_str(conf, "user"), conf_str(conf, "password"),
                           conf_str(conf, "database"), (unsigned)conf_int(conf, "port"), socket,
                           0) == NULL)
        rc = failed(m, who, err);
    else
        rc = my_run(m, who,
                    slice_str("SET SESSION time_zone = '+00:00', sql_mode = '', "
                              "tx_isolation = 'READ-COMMITTED', innodb_lock_wait_timeout = 5"),
                    NULL, err);
    if (rc == 0)
        *out = m;
    else
        mysql_close(m);
    return rc;
}

void
my_close(MYSQL **conn)
{
    if (*conn != NULL)
        mysql_close(*conn);
    *conn = NULL;
}

unsigned
my_errno(MYSQL *conn)
{
    return mysql_errno(conn);
}

int
my_run(MYSQL *conn, const char *who, struct slice sql, MYSQL_RES **out, struct err *err)
{
    MYSQL_RES *r;

    if (out != NULL)
        *out = NULL;
    if (mysql_real_query(conn, sql.data, (unsigned long)sql.len) != 0)
        return failed(conn, who, err);
    r = mysql_store_result(conn);
    if (r == NULL && mysql_errno(conn) != 0)
        return failed(conn, who, err);
    if (out != NULL)
        *out = r;
    else
        mysql_free_result(r);
    return 0;
}

int
my_run_buf(MYSQL *conn, const char *who, struct buf *sql, MYSQL_RES **out, struct err *err)
{
    if (sql->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return my_run(conn, who, buf_slice(sql), out, err);
}

int
my_run_many(MYSQL *conn, const char *who, struct buf *sql, struct err *err)
{
    int rc = 0, more;

    if (sql->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (mysql_set_server_option(conn, MYSQL_OPTION_MULTI_STATEMENTS_ON) != 0)
        return failed(conn, who, err);
    more = mysql_real_query(conn, (const char *)sql->data, (unsigned long)sql->len) != 0 ? 1 : 0;
    while (more == 0) {
        mysql_free_result(mysql_store_result(conn));
        more = mysql_next_result(conn);
    }
    if (more > 0)
        rc = failed(conn, who, err);
    (void)mysql_set_server_option(conn, MYSQL_OPTION_MULTI_STATEMENTS_OFF);
    return rc;
}

void
my_free(MYSQL_RES *r)
{
    mysql_free_result(r);
}

unsigned
my_columns(MYSQL_RES *r)
{
    return mysql_num_fields(r);
}

struct slice
my_column(MYSQL_RES *r, unsigned col)
{
    const MYSQL_FIELD *f = mysql_fetch_field_direct(r, col);

    return slice_of(f->name, f->name_length);
}

bool
my_next(MYSQL_RES *r)
{
    return mysql_fetch_row(r) != NULL;
}

bool
my_cell(MYSQL_RES *r, unsigned col, struct slice *out)
{
    unsigned long *lengths = mysql_fetch_lengths(r);

    if (lengths == NULL || r->current_row == NULL || r->current_row[col] == NULL)
        return false;
    *out = slice_of(r->current_row[col], lengths[col]);
    return true;
}

bool
my_is_binary(MYSQL_RES *r, unsigned col)
{
    const MYSQL_FIELD *f = mysql_fetch_field_direct(r, col);

    if (f->charsetnr != CHARSET_BINARY)
        return false;
    switch (f->type) {
    case MYSQL_TYPE_TINY_BLOB:
    case MYSQL_TYPE_MEDIUM_BLOB:
    case MYSQL_TYPE_LONG_BLOB:
    case MYSQL_TYPE_BLOB:
    case MYSQL_TYPE_VAR_STRING:
    case MYSQL_TYPE_BIT:
        return true;
    case MYSQL_TYPE_STRING:
        return f->length != UUID_LEN; /* the type UUID is text to clients */
    default:
        return false;
    }
}

void
my_add_name(struct buf *sql, const char *name)
{
    buf_add_byte(sql, '`');
    for (; *name != '\0'; name++) {
        if (*name == '`')
            buf_add_byte(sql, '`');
        if (*name == '.')
            buf_add_str(sql, "`.`");
        else
            buf_add_byte(sql, (uint8_t)*name);
    }
    buf_add_byte(sql, '`');
}

void
my_add_text(MYSQL *conn, struct buf *sql, struct slice text)
{
    buf_add_byte(sql, '\'');
    if (buf_reserve(sql, text.len * 2 + 1))
        sql->len += mysql_real_escape_string(conn, (char *)sql->data + sql->len, text.data,
                                             (unsigned long)text.len);
    buf_add_byte(sql, '\'');
}
