/* The connection: made, prepared, asked; and what its errors mean. */
#include <errmsg.h>
#include <stdlib.h>
#include <strings.h>

#include "base/url.h"
#include "sink/mariadb/mariadb_int.h"

#define ER_WRONG_STRING 1366
#define ER_NO_DEFAULT 1364
#define ER_LOCK_WAIT 1205
#define ER_CONSTRAINT 4025

static bool
is_lost(unsigned code)
{
    return code >= CR_MIN_ERROR && code <= CR_MAX_ERROR;
}

/* MariaDB's own words may quote a row: only what the code means goes on. */
static int
fail(struct sinki_mariadb_sink *s, struct err *err)
{
    unsigned      errnum = mysql_errno(s->conn);
    const char   *state = mysql_sqlstate(s->conn), *what = "refuses the statement";
    int           code = E_REMOTE;
    enum err_kind kind = ERR_RETRY;

    if (is_lost(errnum))
        RETURN_ERR(err, E_REMOTE, s->committing ? ERR_UNSURE : ERR_RETRY,
                   "MariaDB: the connection is lost (%u)", errnum);
    if (memcmp(state, "23", 2) == 0 || errnum == ER_CONSTRAINT) {
        code = E_REJECTED;
        kind = ERR_DATA;
        what = "a constraint refuses the row";
    } else if (memcmp(state, "22", 2) == 0 || errnum == ER_WRONG_STRING ||
               errnum == ER_NO_DEFAULT || memcmp(state, "01", 2) == 0) {
        code = E_REJECTED;
        kind = ERR_DATA;
        what = "the row does not fit the table";
    } else if (memcmp(state, "40", 2) == 0 || errnum == ER_LOCK_WAIT) {
        what = "another transaction was in the way";
    } else if (memcmp(state, "42", 2) == 0) {
        code = E_SCHEMA;
        what = "a table or column is missing, or a right to it, or the statement is wrong";
    }
    RETURN_ERR(err, code, kind, "MariaDB: %s (%u, %s)", what, errnum, state);
}

int
sinki_mariadb_run(struct sinki_mariadb_sink *s, struct slice sql, struct err *err)
{
    if (mysql_real_query(s->conn, sql.data, (unsigned long)sql.len) != 0)
        return fail(s, err);
    if (mysql_field_count(s->conn) > 0) {
        MYSQL_RES *rows = mysql_store_result(s->conn);

        if (rows == NULL)
            return fail(s, err);
        mysql_free_result(rows);
    }
    return 0;
}

static int
ask(struct sinki_mariadb_sink *s, struct slice sql, MYSQL_RES **out, struct err *err)
{
    *out = NULL;
    if (mysql_real_query(s->conn, sql.data, (unsigned long)sql.len) != 0)
        return fail(s, err);
    *out = mysql_store_result(s->conn);
    return *out == NULL ? fail(s, err) : 0;
}

int
sinki_mariadb_number(struct sinki_mariadb_sink *s, struct slice sql, uint64_t none, uint64_t *out,
                     struct err *err)
{
    MYSQL_RES *rows;
    MYSQL_ROW  row;
    int        rc = ask(s, sql, &rows, err);

    *out = none;
    row = rc == 0 ? mysql_fetch_row(rows) : NULL;
    if (row != NULL && row[0] != NULL)
        *out = strtoull(row[0], NULL, 10);
    mysql_free_result(rows);
    return rc;
}

void
sinki_mariadb_text(struct sinki_mariadb_sink *s, struct buf *out, struct slice text)
{
    buf_add_byte(out, '\'');
    if (buf_reserve(out, text.len * 2 + 1))
        out->len += mysql_real_escape_string(s->conn, (char *)out->data + out->len, text.data,
                                             (unsigned long)text.len);
    buf_add_byte(out, '\'');
}

/* columns */

static void
forget_columns(struct sinki_mariadb_sink *s)
{
    for (uint32_t i = 0; i < s->column_count; i++)
        free(s->columns[i].name);
    free(s->columns);
    s->columns = NULL;
    s->column_count = 0;
}

/* WHERE TABLE_SCHEMA = … AND TABLE_NAME = … */
static void
add_where(struct sinki_mariadb_sink *s)
{
    const char *schema = (const char *)s->schema.data, *dot = strchr(schema, '.');

    buf_add_str(&s->sql, " WHERE TABLE_SCHEMA = ");
    if (dot == NULL)
        buf_add_str(&s->sql, "DATABASE()");
    else
        sinki_mariadb_text(s, &s->sql, slice_of(schema, (size_t)(dot - schema)));
    buf_add_str(&s->sql, " AND TABLE_NAME = ");
    sinki_mariadb_text(s, &s->sql, slice_str(dot == NULL ? schema : dot + 1));
}

int
sinki_mariadb_load_columns(struct sinki_mariadb_sink *s, struct err *err)
{
    MYSQL_RES *rows = NULL;
    MYSQL_ROW  row;
    int        rc = 0;

    forget_columns(s);
    if (s->rows.name == NULL)
        return 0;
    buf_clear(&s->sql);
    buf_add_str(&s->sql, "SELECT COLUMN_NAME, DATA_TYPE IN ('datetime', 'timestamp') FROM "
                         "information_schema.COLUMNS");
    add_where(s);
    buf_add_str(&s->sql, " AND IS_GENERATED = 'NEVER' ORDER BY ORDINAL_POSITION");
    TRY(ask(s, buf_slice(&s->sql), &rows, err));
    s->columns = calloc((size_t)mysql_num_rows(rows) + 1, sizeof s->columns[0]);
    if (s->columns == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the table's columns");
    while ((row = mysql_fetch_row(rows)) != NULL) {
        struct sinki_mariadb_column *c = &s->columns[s->column_count];

        if (row[0] == NULL)
            FAIL(err, E_SCHEMA, ERR_RETRY, "the server names a column NULL");
        c->name = strdup(row[0]);
        if (c->name == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the table's columns");
        c->is_time = row[1] != NULL && row[1][0] == '1';
        s->column_count++;
    }
out:
    mysql_free_result(rows);
    return rc;
}

int
sinki_mariadb_find_column(const struct sinki_mariadb_sink *s, struct slice name)
{
    for (uint32_t i = 0; i < s->column_count; i++)
        if (name.len > 0 && strlen(s->columns[i].name) == name.len &&
            strncasecmp(s->columns[i].name, name.data, name.len) == 0)
            return (int)i;
    return -1;
}

/* connecting */

static int
make_table(struct sinki_mariadb_sink *s, struct err *err)
{
    buf_clear(&s->sql);
    buf_printf(&s->sql, "CREATE TABLE IF NOT EXISTS %s(", (const char *)s->table.data);
    if (s->rows.append) {
        buf_add_str(&s->sql, "position BIGINT UNSIGNED PRIMARY KEY, id UUID NOT NULL, stream "
                             "VARCHAR(255) NOT NULL, version BIGINT UNSIGNED NOT NULL, type "
                             "VARCHAR(255) NOT NULL, created DATETIME(6) NOT NULL, data JSON, meta "
                             "JSON");
    } else {
        sink_quote(&s->sql, '`', slice_str(s->rows.key));
        buf_add_str(&s->sql, " VARCHAR(255) COLLATE utf8mb4_bin PRIMARY KEY");
    }
    buf_add_str(&s->sql, ") ENGINE = InnoDB DEFAULT CHARSET = utf8mb4");
    return sinki_mariadb_run(s, buf_slice(&s->sql), err);
}

static int
check_table(struct sinki_mariadb_sink *s, struct err *err)
{
    uint64_t found;
    int      rc;

    buf_clear(&s->sql);
    buf_add_str(&s->sql, "SELECT ENGINE = 'InnoDB' FROM information_schema.TABLES");
    add_where(s);
    TRY(sinki_mariadb_number(s, buf_slice(&s->sql), 2, &found, err));
    if (found == 2)
        FAIL(err, E_SCHEMA, ERR_RETRY, "table %s is missing", s->rows.name);
    if (found == 0)
        FAIL(err, E_SCHEMA, ERR_RETRY, "table %s: its engine has no transactions", s->rows.name);
    for (uint32_t i = 0; i < s->rows.map_count; i++)
        if (sinki_mariadb_find_column(s, slice_str(s->rows.map[i].column)) < 0 && !s->rows.create)
            FAIL(err, E_SCHEMA, ERR_RETRY, "table %s has no column %s", s->rows.name,
                 s->rows.map[i].column);
    if (s->rows.append)
        goto out;
    buf_clear(&s->sql);
    buf_add_str(&s->sql, "SELECT 1 FROM information_schema.STATISTICS");
    add_where(s);
    buf_add_str(&s->sql, " AND NON_UNIQUE = 0 GROUP BY INDEX_NAME HAVING COUNT(*) = 1 AND "
                         "MAX(COLUMN_NAME) = ");
    sinki_mariadb_text(s, &s->sql, slice_str(s->rows.key));
    TRY(sinki_mariadb_number(s, buf_slice(&s->sql), 0, &found, err));
    if (found == 0)
        FAIL(err, E_SCHEMA, ERR_RETRY, "table %s: %s is no primary or unique key", s->rows.name,
             s->rows.key);
out:
    return rc;
}

static int
prepare(struct sinki_mariadb_sink *s, struct err *err)
{
    int rc;

    buf_clear(&s->sql);
    buf_printf(&s->sql,
               "SET SESSION time_zone = '+00:00', sql_mode = 'TRADITIONAL', autocommit = 0, "
               "transaction_isolation = 'READ-COMMITTED', innodb_lock_wait_timeout = %llu",
               (unsigned long long)(conf_duration_us(s->conf, "timeout") + 999999) / 1000000);
    rc = sinki_mariadb_run(s, buf_slice(&s->sql), err);
    if (rc != 0 && err->kind != ERR_UNSURE) { /* before 11.1 it has another name */
        buf_clear(&s->sql);
        buf_printf(&s->sql,
                   "SET SESSION time_zone = '+00:00', sql_mode = 'TRADITIONAL', autocommit = 0, "
                   "tx_isolation = 'READ-COMMITTED', innodb_lock_wait_timeout = %llu",
                   (unsigned long long)(conf_duration_us(s->conf, "timeout") + 999999) / 1000000);
        rc = sinki_mariadb_run(s, buf_slice(&s->sql), err);
    }
    if (rc != 0)
        goto out;
    TRY(sinki_mariadb_run(
        s,
        slice_str("CREATE TABLE IF NOT EXISTS oxbow_sink(name VARCHAR(200) PRIMARY KEY, pos BIGINT "
                  "UNSIGNED NOT NULL) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4"),
        err));
    if (s->rows.name == NULL)
        goto out;
    if (s->rows.create)
        TRY(make_table(s, err));
    TRY(sinki_mariadb_load_columns(s, err));
    rc = check_table(s, err);
out:
    return rc;
}

static void
set_options(struct sinki_mariadb_sink *s)
{
    unsigned connect_s =
        (unsigned)((conf_duration_us(s->conf, "connect_timeout") + 999999) / 1000000);
    unsigned answer_s = (unsigned)((conf_duration_us(s->conf, "timeout") + 999999) / 1000000) + 2;
    my_bool  on = 1, off = 0;

    (void)mysql_optionsv(s->conn, MYSQL_OPT_CONNECT_TIMEOUT, &connect_s);
    (void)mysql_optionsv(s->conn, MYSQL_OPT_READ_TIMEOUT, &answer_s);
    (void)mysql_optionsv(s->conn, MYSQL_OPT_WRITE_TIMEOUT, &answer_s);
    (void)mysql_optionsv(s->conn, MYSQL_OPT_LOCAL_INFILE, NULL);
    (void)mysql_optionsv(s->conn, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    (void)mysql_optionsv(s->conn, MYSQL_OPT_RECONNECT, &off);
    if (conf_bool(s->conf, "tls")) {
        (void)mysql_optionsv(s->conn, MYSQL_OPT_SSL_ENFORCE, &on);
        (void)mysql_optionsv(s->conn, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &on);
        if (conf_has(s->conf, "ca_file"))
            (void)mysql_optionsv(s->conn, MYSQL_OPT_SSL_CA, conf_str(s->conf, "ca_file"));
    }
}

int
sinki_mariadb_connect(struct sinki_mariadb_sink *s, struct err *err)
{
    int rc = 0;

    if (s->conn != NULL)
        return 0;
    s->committing = false;
    s->conn = mysql_init(NULL);
    if (s->conn == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a connection");
    set_options(s);
    if (mysql_real_connect(s->conn, s->host, s->user, conf_str(s->conf, "password"), s->database,
                           s->port, conf_str(s->conf, "socket"), CLIENT_FOUND_ROWS) == NULL)
        FAIL(err, E_REMOTE, ERR_RETRY, "no connection to MariaDB (%u)", mysql_errno(s->conn));
    rc = prepare(s, err);
out:
    if (rc != 0) {
        if (err->kind == ERR_DATA)
            err->kind = ERR_RETRY;
        sinki_mariadb_disconnect(s);
    }
    return rc;
}

void
sinki_mariadb_disconnect(struct sinki_mariadb_sink *s)
{
    if (s->conn != NULL)
        mysql_close(s->conn);
    s->conn = NULL;
    forget_columns(s);
}
