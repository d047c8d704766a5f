/* The connection: made, prepared, asked; and what its errors mean. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "sink/postgres/postgres_int.h"

#define SECONDS_MAX 16

/* PostgreSQL's own words may quote a row: only the code's meaning and the constraint's name go on.
 */
static int
fail(struct sinki_postgres_sink *s, const PGresult *r, struct err *err)
{
    const char   *state = r == NULL ? NULL : PQresultErrorField(r, PG_DIAG_SQLSTATE);
    const char   *name = r == NULL ? NULL : PQresultErrorField(r, PG_DIAG_CONSTRAINT_NAME);
    const char   *column = r == NULL ? NULL : PQresultErrorField(r, PG_DIAG_COLUMN_NAME);
    const char   *what = "refuses the statement";
    int           code = E_REMOTE;
    enum err_kind kind = ERR_RETRY;

    if (state == NULL || PQstatus(s->conn) != CONNECTION_OK)
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "PostgreSQL: the connection is lost");
    if (memcmp(state, "22", 2) == 0 || memcmp(state, "23", 2) == 0 || memcmp(state, "54", 2) == 0) {
        code = E_REJECTED;
        kind = ERR_DATA;
        what = state[1] == '3' ? "a constraint refuses the row" : "the row does not fit the table";
    } else if (memcmp(state, "40", 2) == 0 || memcmp(state, "55", 2) == 0) {
        what = "another transaction was in the way";
    } else if (memcmp(state, "42", 2) == 0 || memcmp(state, "3F", 2) == 0) {
        code = E_SCHEMA;
        what = "a schema, table or column is missing, or a right to it";
    } else if (memcmp(state, "53", 2) == 0 || memcmp(state, "57", 2) == 0) {
        what = "it is short of something, or stopping";
    }
    RETURN_ERR(err, code, kind, "PostgreSQL: %s (%s)%s%s", what, state,
               name != NULL     ? ": "
               : column != NULL ? ": column "
                                : "",
               name != NULL     ? name
               : column != NULL ? column
                                : "");
}

int
sinki_postgres_send(struct sinki_postgres_sink *s, struct err *err)
{
    const char *values[SINK_TABLE_COLUMNS_MAX + 1] = {(const char *)s->json.data};
    int         lengths[SINK_TABLE_COLUMNS_MAX + 1], formats[SINK_TABLE_COLUMNS_MAX + 1];
    uint32_t    count = s->texts ? s->array_count : 1;

    must(!s->sent);
    for (uint32_t i = 0; s->texts && i < count; i++) {
        values[i] = (const char *)s->params.data + s->arrays[i].at;
        lengths[i] = (int)s->arrays[i].len;
        formats[i] = 1;
    }
    if (PQsendQueryParams(s->conn, (const char *)s->text.data, (int)count, NULL, values,
                          s->texts ? lengths : NULL, s->texts ? formats : NULL, 0) == 0)
        return fail(s, NULL, err);
    s->sent = true;
    return 0;
}

int
sinki_postgres_await(struct sinki_postgres_sink *s, struct err *err)
{
    PGresult *r;
    int       rc = 0;

    if (!s->sent)
        return 0;
    s->sent = false;
    while ((r = PQgetResult(s->conn)) != NULL) {
        ExecStatusType st = PQresultStatus(r);

        if (rc == 0 && st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK)
            rc = fail(s, r, err);
        PQclear(r);
        if (PQstatus(s->conn) != CONNECTION_OK)
            break;
    }
    if (rc == 0 && PQstatus(s->conn) != CONNECTION_OK)
        rc = fail(s, NULL, err);
    return rc;
}

static int
ask(struct sinki_postgres_sink *s, const char *sql, const char *param, PGresult **out,
    struct err *err)
{
    const char *params[1] = {param};
    PGresult   *r = PQexecParams(s->conn, sql, param == NULL ? 0 : 1, NULL, params, NULL, NULL, 0);
    ExecStatusType st = PQresultStatus(r);
    int            rc = 0;

    *out = NULL;
    if (st == PGRES_COMMAND_OK || st == PGRES_TUPLES_OK)
        *out = r;
    else {
        rc = fail(s, r, err);
        PQclear(r);
    }
    return rc;
}

/* A value of JSON as PostgreSQL reads it in text; NULL for null. `text` has the string's room. */
static const char *
param_of(struct slice raw, struct buf *text, struct err *err)
{
    buf_clear(text);
    if (json_is_null(raw))
        return NULL;
    if (json_type(raw) != JSON_STRING)
        buf_add_slice(text, raw);
    else if (json_string_decode(raw, text, err) != 0)
        return NULL;
    buf_add_byte(text, 0);
    return (const char *)text->data;
}

int
sinki_postgres_statement(struct sinki_postgres_sink *s, const struct sink_item *item,
                         struct err *err)
{
    const struct sink_statement *st;
    const char                 **params = NULL;
    struct buf                  *texts = NULL;
    PGresult                    *r = NULL;
    int                          rc;

    TRY(sink_table_statement(&s->rows, item->type, &st, err));
    params = calloc(st->count + 1, sizeof *params);
    texts = calloc(st->count + 1, sizeof *texts);
    if (params == NULL || texts == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    for (uint32_t i = 0; i < st->count; i++) {
        TRY(sink_statement_value(st, i, item, &s->json, err));
        params[i] = param_of(buf_slice(&s->json), &texts[i], err);
        if (s->json.failed || texts[i].failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
        if (params[i] != NULL && memchr(params[i], 0, texts[i].len - 1) != NULL)
            FAIL(err, E_REJECTED, ERR_DATA, "PostgreSQL takes no text with a zero byte");
    }
    buf_clear(&s->text);
    sink_statement_text(st, '$', &s->text);
    if (s->text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    r = PQexecParams(s->conn, (const char *)s->text.data, (int)st->count, NULL, params, NULL, NULL,
                     0);
    if (PQresultStatus(r) != PGRES_COMMAND_OK && PQresultStatus(r) != PGRES_TUPLES_OK)
        rc = fail(s, r, err);
out:
    PQclear(r);
    for (uint32_t i = 0; texts != NULL && i < st->count; i++)
        buf_fini(&texts[i]);
    free(texts);
    free(params);
    return rc;
}

int
sinki_postgres_run(struct sinki_postgres_sink *s, const char *sql, const char *param, int64_t *rows,
                   struct err *err)
{
    PGresult *r;
    int       rc = ask(s, sql, param, &r, err);

    if (rc == 0 && rows != NULL)
        *rows = strtoll(PQcmdTuples(r), NULL, 10);
    PQclear(r);
    return rc;
}

int
sinki_postgres_number(struct sinki_postgres_sink *s, const char *sql, const char *param,
                      int64_t none, int64_t *out, struct err *err)
{
    PGresult *r;
    int       rc = ask(s, sql, param, &r, err);

    *out = none;
    if (rc == 0 && PQntuples(r) > 0 && !PQgetisnull(r, 0, 0))
        *out = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    PQclear(r);
    return rc;
}

/* columns */

static void
forget_columns(struct sinki_postgres_sink *s)
{
    for (uint32_t i = 0; i < s->column_count; i++) {
        free(s->columns[i].name);
        free(s->columns[i].cast);
    }
    free(s->columns);
    s->columns = NULL;
    s->column_count = 0;
}

static int
take_column(struct sinki_postgres_sink *s, const PGresult *r, int row, struct err *err)
{
    struct sinki_postgres_column *c = &s->columns[s->column_count++];
    bool                          cast = !PQgetisnull(r, row, 1);

    c->name = strdup(PQgetvalue(r, row, 0));
    c->cast = cast ? strdup(PQgetvalue(r, row, 1)) : NULL;
    c->json = *PQgetvalue(r, row, 2) == 't';
    if (c->name == NULL || (cast && c->cast == NULL))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the table's columns");
    return 0;
}

/* Casts are of types whose values JSON's functions read as these texts. The length of a column's
 * type is left to the assignment, which refuses what a cast would cut off. */
int
sinki_postgres_load_columns(struct sinki_postgres_sink *s, struct err *err)
{
    static const char sql[] =
        "SELECT attname, CASE WHEN t.oid = 'text'::regtype THEN '' WHEN t.oid = 'bpchar'::regtype "
        "THEN '::bpchar' WHEN t.oid = ANY ('{varchar,int2,int4,int8,float4,float8,numeric,bool,"
        "date,time,timetz,timestamp,timestamptz,interval,uuid,bytea,jsonb,inet,cidr}'::regtype[]) "
        "OR typtype = 'e' THEN '::' || format_type(t.oid, NULL) END, t.oid = 'jsonb'::regtype FROM "
        "pg_attribute a JOIN pg_type t ON t.oid = atttypid WHERE attrelid = $1::regclass AND "
        "attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum";
    PGresult *r = NULL;
    int       rc;

    forget_columns(s);
    if (s->rows.name == NULL)
        return 0;
    TRY(ask(s, sql, s->table, &r, err));
    s->columns = calloc((size_t)PQntuples(r) + 1, sizeof s->columns[0]);
    if (s->columns == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the table's columns");
    for (int i = 0; i < PQntuples(r); i++)
        TRY(take_column(s, r, i, err));
out:
    PQclear(r);
    return rc;
}

int
sinki_postgres_find_column(const struct sinki_postgres_sink *s, struct slice name)
{
    for (uint32_t i = 0; i < s->column_count; i++)
        if (slice_is(name, s->columns[i].name))
            return (int)i;
    return -1;
}

/* connecting */

static bool
is_utf8(const struct sinki_postgres_sink *s, const char *of)
{
    const char *is = PQparameterStatus(s->conn, of);

    return is != NULL && strcmp(is, "UTF8") == 0;
}

static void
ignore_notice(void *arg, const char *text)
{
}

static int
make_table(struct sinki_postgres_sink *s, struct err *err)
{
    int rc;

    buf_clear(&s->text);
    if (s->rows.append) {
        buf_printf(&s->text,
                   "CREATE TABLE IF NOT EXISTS %s(position bigint PRIMARY KEY, id uuid NOT NULL, "
                   "stream text NOT NULL, version bigint NOT NULL, type text NOT NULL, created "
                   "timestamptz NOT NULL, data jsonb, meta jsonb)",
                   s->table);
    } else {
        buf_printf(&s->text, "CREATE TABLE IF NOT EXISTS %s(", s->table);
        sink_quote(&s->text, '\"', slice_str(s->rows.key));
        buf_add_str(&s->text, " text PRIMARY KEY)");
    }
    buf_add_byte(&s->text, 0);
    if (s->text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    rc = sinki_postgres_run(s, (const char *)s->text.data, NULL, NULL, err);
out:
    return rc;
}

static int
check_table(struct sinki_postgres_sink *s, struct err *err)
{
    struct json_out o;
    int64_t         found;
    int             rc;

    for (uint32_t i = 0; i < s->rows.map_count; i++)
        if (sinki_postgres_find_column(s, slice_str(s->rows.map[i].column)) < 0 && !s->rows.create)
            FAIL(err, E_SCHEMA, ERR_RETRY, "table %s has no column %s", s->table,
                 s->rows.map[i].column);
    if (s->rows.append) {
        rc = 0;
        goto out;
    }
    buf_clear(&s->json);
    json_out_init(&o, &s->json);
    json_out_object(&o);
    json_out_key(&o, "table");
    json_out_str(&o, s->table);
    json_out_key(&o, "key");
    json_out_str(&o, s->rows.key);
    json_out_object_end(&o);
    buf_add_byte(&s->json, 0);
    if (s->json.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    TRY(sinki_postgres_number(
        s,
        "SELECT 1 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = "
        "i.indkey[0], (SELECT $1::json AS j) p WHERE i.indisunique AND i.indpred IS NULL AND "
        "i.indnkeyatts = 1 AND i.indrelid = (p.j->>'table')::regclass AND a.attname = "
        "p.j->>'key'",
        (const char *)s->json.data, 0, &found, err));
    if (found == 0)
        FAIL(err, E_SCHEMA, ERR_RETRY, "table %s: %s is no primary or unique key", s->table,
             s->rows.key);
out:
    return rc;
}

static int
prepare(struct sinki_postgres_sink *s, struct err *err)
{
    char    text[160];
    int64_t ignored;
    int     rc;

    (void)snprintf(text, sizeof text, "SET statement_timeout = %llu",
                   (unsigned long long)(conf_duration_us(s->conf, "timeout") / 1000));
    TRY(sinki_postgres_run(s, text, NULL, NULL, err));
    TRY(sinki_postgres_run(s, "SET standard_conforming_strings = on", NULL, NULL, err));
    /* What is confirmed has to be on disk. */
    TRY(sinki_postgres_number(s,
                              "SELECT length(set_config('synchronous_commit', 'on', false)) WHERE "
                              "current_setting('synchronous_commit') = 'off'",
                              NULL, 0, &ignored, err));
    TRY(sinki_postgres_run(
        s,
        "CREATE TABLE IF NOT EXISTS oxbow_sink(name text PRIMARY KEY, pos bigint "
        "NOT NULL)",
        NULL, NULL, err));
    s->utf8 = is_utf8(s, "server_encoding") && is_utf8(s, "client_encoding");
    if (s->rows.name == NULL)
        goto out;
    if (s->rows.create)
        TRY(make_table(s, err));
    TRY(sinki_postgres_load_columns(s, err));
    rc = check_table(s, err);
out:
    return rc;
}

int
sinki_postgres_connect(struct sinki_postgres_sink *s, struct err *err)
{
    const char *names[] = {"dbname",          "password",         "application_name",
                           "connect_timeout", "tcp_user_timeout", NULL};
    const char *values[6] = {conf_str(s->conf, "url"), NULL, "oxbow", NULL, "30000", NULL};
    char        seconds[SECONDS_MAX];
    int         rc = 0;

    if (s->conn != NULL && PQstatus(s->conn) == CONNECTION_OK)
        return 0;
    sinki_postgres_disconnect(s);
    (void)snprintf(seconds, sizeof seconds, "%llu",
                   (unsigned long long)(conf_duration_us(s->conf, "connect_timeout") + 999999) /
                       1000000);
    values[3] = seconds;
    if (conf_has(s->conf, "password"))
        values[1] = conf_str(s->conf, "password");
    s->conn = PQconnectdbParams(names, values, 1);
    if (s->conn == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a connection");
    if (PQstatus(s->conn) != CONNECTION_OK)
        FAIL(err, E_REMOTE, ERR_RETRY, "no connection to PostgreSQL%s",
             PQconnectionNeedsPassword(s->conn) ? ": it wants a password" : "");
    (void)PQsetNoticeProcessor(s->conn, ignore_notice, NULL);
    rc = prepare(s, err);
out:
    if (rc != 0) {
        if (err->kind == ERR_DATA)
            err->kind = ERR_RETRY; /* two that make the same table at once */
        sinki_postgres_disconnect(s);
    }
    return rc;
}

void
sinki_postgres_disconnect(struct sinki_postgres_sink *s)
{
    PQfinish(s->conn);
    s->conn = NULL;
    s->sent = false;
    forget_columns(s);
}
