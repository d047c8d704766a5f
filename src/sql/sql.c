/* Connections, statements and errors. */
#include "sql/sql.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/must.h"

#define SQL_TEXT_MAX (8U << 20)

static void
kind_of(int code, int *to, enum err_kind *kind)
{
    static const struct {
        int           from, to;
        enum err_kind kind;
    } map[] = {
        {SQLITE_BUSY, E_BUSY, ERR_RETRY},          {SQLITE_LOCKED, E_BUSY, ERR_RETRY},
        {SQLITE_FULL, E_NOSPC, ERR_RETRY},         {SQLITE_NOMEM, E_NOMEM, ERR_RETRY},
        {SQLITE_READONLY, E_RDONLY, ERR_FATAL},    {SQLITE_PERM, E_RDONLY, ERR_FATAL},
        {SQLITE_IOERR, E_IO, ERR_RETRY},           {SQLITE_CORRUPT, E_DAMAGED, ERR_FATAL},
        {SQLITE_NOTADB, E_FORMAT, ERR_FATAL},      {SQLITE_CANTOPEN, E_CONNECT, ERR_RETRY},
        {SQLITE_CONSTRAINT, E_REJECTED, ERR_DATA}, {SQLITE_TOOBIG, E_LIMIT, ERR_DATA},
        {SQLITE_MISMATCH, E_REJECTED, ERR_DATA},   {SQLITE_INTERRUPT, E_INTERRUPTED, ERR_RETRY},
        {SQLITE_SCHEMA, E_SCHEMA, ERR_RETRY},
    };

    *to = E_SCHEMA;
    *kind = ERR_FATAL;
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        if (map[i].from == (code & 0xff)) {
            *to = map[i].to;
            *kind = map[i].kind;
        }
    }
}

int
sql_fail(struct sqlite3 *db, struct err *err, const char *what)
{
    int           code;
    enum err_kind kind;

    kind_of(sqlite3_errcode(db), &code, &kind);
    return err_set(err, __FILE__, __LINE__, code, kind, "%s: %s", what, sqlite3_errmsg(db));
}

/* The first reading access tells whether this is a database at all. */
static int
probe(struct sqlite3 *db, const char *path, enum sql_mode mode, struct err *err)
{
    int64_t version;
    int     rc;

    rc = sql_number(db, 0, &version, err, "PRAGMA schema_version");
    /* A database in WAL mode cannot even be read where its folder takes no writes. */
    if (rc != 0 && mode != SQL_READ && access(path, W_OK) != 0)
        RETURN_ERR(err, E_RDONLY, ERR_FATAL, "%s: cannot be written: %s", path, strerror(errno));
    if (rc != 0) {
        err_prefix(err, "%s", path);
        return rc;
    }
    if (mode != SQL_READ && sqlite3_db_readonly(db, "main") == 1)
        RETURN_ERR(err, E_RDONLY, ERR_FATAL, "%s: cannot be written; check its permissions", path);
    return 0;
}

int
sql_open(const char *path, enum sql_mode mode, int busy_ms, struct sqlite3 **out, struct err *err)
{
    struct sqlite3 *db = NULL;
    int             flags = SQLITE_OPEN_NOMUTEX;
    int             rc;

    *out = NULL;
    if (mode != SQL_CREATE && access(path, F_OK) != 0)
        FAIL(err, E_NOTFOUND, ERR_FATAL, "%s: no such database file", path);
    flags |= mode == SQL_READ ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
    if (mode == SQL_CREATE)
        flags |= SQLITE_OPEN_CREATE;
    if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK) {
        if (db == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "%s: out of memory", path);
        rc = sql_fail(db, err, path);
        goto out;
    }
    (void)sqlite3_extended_result_codes(db, 1);
    (void)sqlite3_busy_timeout(db, busy_ms);
    /* Else the quoted name of a column that is gone would be a text, silently. */
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
    TRY(probe(db, path, mode, err));
    *out = db;
    db = NULL;
out:
    sql_close(db);
    return rc;
}

void
sql_close(struct sqlite3 *db)
{
    int rc = sqlite3_close(db);

    must(rc == SQLITE_OK);
}

static int
prepare_list(struct sqlite3 *db, struct sqlite3_stmt **stmt, struct err *err, const char *fmt,
             va_list args)
{
    char *text = sqlite3_vmprintf(fmt, args);
    int   rc = 0;

    *stmt = NULL;
    if (text == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (sqlite3_prepare_v3(db, text, -1, SQLITE_PREPARE_PERSISTENT, stmt, NULL) != SQLITE_OK)
        rc = sql_fail(db, err, "preparing a statement");
    sqlite3_free(text);
    return rc;
}

int
sql_prepare(struct sqlite3 *db, struct sqlite3_stmt **stmt, struct err *err, const char *fmt, ...)
{
    va_list args;
    int     rc;

    va_start(args, fmt);
    rc = prepare_list(db, stmt, err, fmt, args);
    va_end(args);
    return rc;
}

int
sql_prepare_text(struct sqlite3 *db, struct slice text, struct sqlite3_stmt **stmt, struct err *err)
{
    *stmt = NULL;
    if (text.len > SQL_TEXT_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "a statement of %zu bytes", text.len);
    if (sqlite3_prepare_v3(db, text.data, (int)text.len, SQLITE_PREPARE_PERSISTENT, stmt, NULL) !=
        SQLITE_OK)
        return sql_fail(db, err, "preparing a statement");
    return 0;
}

int
sql_step(struct sqlite3_stmt *stmt, bool *row, struct err *err)
{
    struct sqlite3 *db = sqlite3_db_handle(stmt);
    int             got = sqlite3_step(stmt);
    int             rc = 0;

    *row = got == SQLITE_ROW;
    if (got != SQLITE_ROW && got != SQLITE_DONE) {
        rc = sql_fail(db, err, "database");
        (void)sqlite3_reset(stmt);
    }
    return rc;
}

int
sql_finish(struct sqlite3_stmt *stmt, struct err *err)
{
    bool row = true;
    int  rc = 0;

    while (rc == 0 && row)
        rc = sql_step(stmt, &row, err);
    (void)sqlite3_reset(stmt);
    return rc;
}

int
sql_run(struct sqlite3 *db, struct err *err, const char *fmt, ...)
{
    struct sqlite3_stmt *stmt;
    va_list              args;
    int                  rc;

    va_start(args, fmt);
    rc = prepare_list(db, &stmt, err, fmt, args);
    va_end(args);
    if (rc == 0)
        rc = sql_finish(stmt, err);
    (void)sqlite3_finalize(stmt);
    return rc;
}

int
sql_number(struct sqlite3 *db, int64_t none, int64_t *out, struct err *err, const char *fmt, ...)
{
    struct sqlite3_stmt *stmt;
    bool                 row;
    va_list              args;
    int                  rc;

    *out = none;
    va_start(args, fmt);
    rc = prepare_list(db, &stmt, err, fmt, args);
    va_end(args);
    TRY(rc);
    TRY(sql_step(stmt, &row, err));
    if (row && sqlite3_column_type(stmt, 0) != SQLITE_NULL)
        *out = sqlite3_column_int64(stmt, 0);
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

int
sql_begin_write(struct sqlite3 *db, struct err *err)
{
    return sql_run(db, err, "BEGIN IMMEDIATE");
}

int
sql_begin_read(struct sqlite3 *db, struct err *err)
{
    return sql_run(db, err, "BEGIN");
}

int
sql_commit(struct sqlite3 *db, struct err *err)
{
    int rc = sql_run(db, err, "COMMIT");

    if (rc != 0)
        sql_rollback(db);
    return rc;
}

void
sql_rollback(struct sqlite3 *db)
{
    /* A failure leaves no transaction either: the connection has ended it already. */
    if (!sqlite3_get_autocommit(db))
        (void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
}

void
sql_add(struct buf *b, const char *fmt, ...)
{
    va_list args;
    char   *text;

    va_start(args, fmt);
    text = sqlite3_vmprintf(fmt, args);
    va_end(args);
    if (text == NULL)
        b->failed = true;
    else
        buf_add_str(b, text);
    sqlite3_free(text);
}

int
sql_run_buf(struct sqlite3 *db, struct buf *text, struct err *err)
{
    buf_add_byte(text, 0);
    if (text->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (sqlite3_exec(db, (const char *)text->data, NULL, NULL, NULL) != SQLITE_OK)
        return sql_fail(db, err, "database");
    return 0;
}

void
sql_bind_slice(struct sqlite3_stmt *stmt, int at, struct slice text)
{
    int rc = sqlite3_bind_text64(stmt, at, text.data == NULL ? "" : text.data, text.len,
                                 SQLITE_TRANSIENT, SQLITE_UTF8);

    /* Out of memory or too big: the parameter is NULL, and NOT NULL or the caller's check sees it.
     */
    must(rc == SQLITE_OK || rc == SQLITE_NOMEM || rc == SQLITE_TOOBIG);
}

struct slice
sql_column_slice(struct sqlite3_stmt *stmt, int col)
{
    const void *text = sqlite3_column_text(stmt, col);

    return slice_of(text, (size_t)sqlite3_column_bytes(stmt, col));
}

int
sql_origin_install(struct sqlite3 *db, struct err *err)
{
    return sql_run(db, err,
                   "CREATE TABLE IF NOT EXISTS oxbow_origin("
                   "one INTEGER PRIMARY KEY CHECK (one = 1), mark TEXT NOT NULL)");
}

int
sql_origin_set(struct sqlite3 *db, struct slice mark, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    int                  rc;

    TRY(sql_run(db, err, "DELETE FROM oxbow_origin"));
    if (mark.len == 0)
        goto out;
    TRY(sql_prepare(db, &stmt, err, "INSERT INTO oxbow_origin(one, mark) VALUES (1, ?1)"));
    sql_bind_slice(stmt, 1, mark);
    TRY(sql_finish(stmt, err));
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}
