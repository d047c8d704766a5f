/*
 * What the server is asked before anything is captured: its settings, its
 * character sets, and each table's columns and key. What would lose changes
 * is MISSING, and keeps the source from starting.
 */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "source/mariadb/mariadb_int.h"

struct sayer {
    struct my_source *s;
    finding_fn       *fn;
    void             *arg;
};

static void say(const struct sayer *to, enum finding_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void
say(const struct sayer *to, enum finding_level level, const char *fmt, ...)
{
    char    text[ERR_TEXT_MAX];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    to->fn(to->arg, level, text);
}

static bool
is(const char *value, const char *what)
{
    return value != NULL && strcasecmp(value, what) == 0;
}

static void
judge_settings(const struct sayer *to, MYSQL_ROW v)
{
    if (!is(v[0], "1"))
        say(to, FINDING_MISSING, "log_bin is off: start the server with --log-bin");
    if (!is(v[1], "ROW"))
        say(to, FINDING_MISSING, "binlog_format is %s: set it to ROW", v[1]);
    if (!is(v[2], "FULL") && !to->s->any_images)
        say(to, FINDING_MISSING,
            "binlog_row_image is %s: set it to FULL, or `images: any` to take rows in part", v[2]);
    if (!is(v[3], "FULL"))
        say(to, FINDING_MISSING, "binlog_row_metadata is %s: set it to FULL", v[3]);
    if (!is(v[4], "1"))
        say(to, FINDING_WARN,
            "gtid_strict_mode is off: set it to 1, so that a GTID names one "
            "transaction only");
    if (strtoll(v[5], NULL, 10) == (long long)to->s->server_id)
        say(to, FINDING_MISSING, "server_id %u is the server's own: set `server_id` to another",
            to->s->server_id);
    if (!is(v[6], "1") || !is(v[7], "1"))
        say(to, FINDING_WARN,
            "sync_binlog and innodb_flush_log_at_trx_commit are not both 1: a "
            "crash of the server may undo what was captured");
    if (!is(v[8], "1") && v[9] != NULL && v[9][0] != '\0')
        say(to, FINDING_MISSING,
            "the server is a replica with log_slave_updates off: what comes "
            "from its primary would be missing");
    if (v[10] != NULL && strtod(v[10], NULL) > 0 && strtod(v[10], NULL) < 86400)
        say(to, FINDING_WARN, "binlog_expire_logs_seconds is %s: a longer stop is a gap", v[10]);
}

static int
settings(const struct sayer *to, struct err *err)
{
    struct my_source *s = to->s;
    MYSQL_RES        *r = NULL;
    MYSQL_ROW         row;
    int               rc;

    TRY(mariadbi_ask(s, s->query, &r, err,
                     "SELECT @@log_bin, @@global.binlog_format, @@global.binlog_row_image, "
                     "@@global.binlog_row_metadata, @@global.gtid_strict_mode, @@server_id, "
                     "@@sync_binlog, @@innodb_flush_log_at_trx_commit, @@log_slave_updates, "
                     "@@global.gtid_slave_pos, @@global.binlog_expire_logs_seconds"));
    row = mysql_fetch_row(r);
    if (row != NULL)
        judge_settings(to, row);
    mysql_free_result(r);
    TRY(mariadbi_ask(s, s->query, &r, err, "SHOW MASTER STATUS"));
    row = mysql_fetch_row(r);
    if (row != NULL && mysql_num_fields(r) > 3 &&
        ((row[2] != NULL && row[2][0] != '\0') || (row[3] != NULL && row[3][0] != '\0')))
        say(to, FINDING_WARN,
            "the server logs only some databases (binlog_do_db or "
            "binlog_ignore_db): see that these tables' are among them");
out:
    mysql_free_result(r);
    return rc;
}

static int
grants(const struct sayer *to, struct err *err)
{
    MYSQL_RES *r = NULL;
    MYSQL_ROW  row;
    bool       may = false;
    int        rc;

    TRY(mariadbi_ask(to->s, to->s->query, &r, err, "SHOW GRANTS"));
    while ((row = mysql_fetch_row(r)) != NULL)
        may = may || (row[0] != NULL && strstr(row[0], " ON *.* ") != NULL &&
                      (strstr(row[0], "ALL PRIVILEGES") != NULL ||
                       strstr(row[0], "REPLICATION SLAVE") != NULL));
    if (!may)
        say(to, FINDING_WARN,
            "the user seems to lack a privilege: GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.*");
out:
    mysql_free_result(r);
    return rc;
}

static int
charsets(struct my_source *s, struct err *err)
{
    MYSQL_RES *r = NULL;
    MYSQL_ROW  row;
    int        rc;

    mariadbi_charsets_preset(&s->charsets);
    TRY(mariadbi_ask(s, s->query, &r, err,
                     "SELECT id, character_set_name FROM "
                     "information_schema.collation_character_set_applicability WHERE id > 0"));
    while ((row = mysql_fetch_row(r)) != NULL) {
        long id = row[0] == NULL ? 0 : strtol(row[0], NULL, 10);

        if (id > 0 && id < (long)MARIADBI_COLLATIONS && row[1] != NULL)
            s->charsets.of[id] = (uint8_t)mariadbi_charset_named(slice_str(row[1]));
    }
out:
    mysql_free_result(r);
    return rc;
}

void
mariadbi_want_forget(struct my_want *w)
{
    for (uint32_t i = 0; i < w->field_count; i++)
        free(w->fields[i].name);
    free(w->fields);
    w->fields = NULL;
    w->field_count = w->order_count = 0;
}

/* By information_schema's name of the type; false: not supported. */
static bool
classify(const char *type, struct my_field *f)
{
    static const struct {
        const char      *type;
        enum my_sql_kind kind;
        bool             ordered;
        uint8_t          hint;
    } all[] = {
        {"tinyint", MY_SQL_INTEGER, true, 0},
        {"smallint", MY_SQL_INTEGER, true, 0},
        {"mediumint", MY_SQL_INTEGER, true, 0},
        {"int", MY_SQL_INTEGER, true, 0},
        {"bigint", MY_SQL_INTEGER, true, 0},
        {"decimal", MY_SQL_INTEGER, true, 0},
        {"year", MY_SQL_INTEGER, true, 0},
        {"float", MY_SQL_FLOAT, false, 0},
        {"double", MY_SQL_DOUBLE, false, 0},
        {"bit", MY_SQL_BIT, true, 0},
        {"char", MY_SQL_TEXT, true, 0},
        {"varchar", MY_SQL_TEXT, true, 0},
        {"tinytext", MY_SQL_TEXT, true, 0},
        {"text", MY_SQL_TEXT, true, 0},
        {"mediumtext", MY_SQL_TEXT, true, 0},
        {"longtext", MY_SQL_TEXT, true, 0},
        {"binary", MY_SQL_BYTES, true, 0},
        {"varbinary", MY_SQL_BYTES, true, 0},
        {"tinyblob", MY_SQL_BYTES, true, 0},
        {"blob", MY_SQL_BYTES, true, 0},
        {"mediumblob", MY_SQL_BYTES, true, 0},
        {"longblob", MY_SQL_BYTES, true, 0},
        {"date", MY_SQL_TEXT, true, 0},
        {"time", MY_SQL_TEXT, true, 0},
        {"datetime", MY_SQL_TEXT, true, 0},
        {"timestamp", MY_SQL_TEXT, true, 0},
        {"enum", MY_SQL_TEXT, false, 0},
        {"set", MY_SQL_TEXT, false, 0},
        {"uuid", MY_SQL_TEXT, true, MY_HINT_UUID},
        {"inet6", MY_SQL_TEXT, true, MY_HINT_INET6},
        {"inet4", MY_SQL_TEXT, true, MY_HINT_INET4},
        {"geometry", MY_SQL_BYTES, false, 0},
        {"point", MY_SQL_BYTES, false, 0},
        {"linestring", MY_SQL_BYTES, false, 0},
        {"polygon", MY_SQL_BYTES, false, 0},
        {"multipoint", MY_SQL_BYTES, false, 0},
        {"multilinestring", MY_SQL_BYTES, false, 0},
        {"multipolygon", MY_SQL_BYTES, false, 0},
        {"geometrycollection", MY_SQL_BYTES, false, 0},
    };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (strcasecmp(type, all[i].type) == 0) {
            f->kind = all[i].kind;
            f->ordered = all[i].ordered;
            f->hint = all[i].hint;
            return true;
        }
    }
    return false;
}

/* name, data_type, column_type, character_set_name */
static int
take_field(const struct sayer *to, struct my_want *w, MYSQL_ROW row, struct err *err)
{
    struct my_field *f = &w->fields[w->field_count];

    f->name = strdup(row[0]);
    if (f->name == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    w->field_count++;
    if (!classify(row[1], f) || strcasestr(row[2], "COMPRESSED") != NULL)
        say(to, FINDING_MISSING, "table %s: column %s: the type %.100s is not supported", w->table,
            row[0], row[2]);
    if (row[3] != NULL && mariadbi_charset_named(slice_str(row[3])) == MY_CHARSET_UNKNOWN)
        say(to, FINDING_MISSING,
            "table %s: column %s: the character set %s is not supported: utf8mb4, utf8mb3, ascii, "
            "latin1 and binary are",
            w->table, row[0], row[3]);
    return 0;
}

static int
fields(const struct sayer *to, struct my_want *w, const char *where, struct err *err)
{
    struct my_source *s = to->s;
    MYSQL_RES        *r = NULL;
    MYSQL_ROW         row;
    int               rc;

    mariadbi_want_forget(w);
    TRY(mariadbi_ask(s, s->query, &r, err,
                     "SELECT c.column_name, c.data_type, c.column_type, c.character_set_name "
                     "FROM information_schema.columns c WHERE %s ORDER BY c.ordinal_position",
                     where));
    w->fields = calloc((size_t)mysql_num_rows(r) + 1, sizeof w->fields[0]);
    if (w->fields == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    while ((row = mysql_fetch_row(r)) != NULL)
        TRY(take_field(to, w, row, err));
out:
    mysql_free_result(r);
    return rc;
}

/* JSON is LONGTEXT with a CHECK, and nothing else tells it from one. */
static int
json_columns(const struct sayer *to, struct my_want *w, const char *of_key, struct err *err)
{
    MYSQL_RES *r = NULL;
    MYSQL_ROW  row;
    struct buf clause = {0};
    int        rc;

    TRY(mariadbi_ask(to->s, to->s->query, &r, err,
                     "SELECT c.check_clause FROM information_schema.check_constraints c WHERE %s "
                     "AND c.check_clause LIKE 'json_valid(%%'",
                     of_key));
    while ((row = mysql_fetch_row(r)) != NULL) {
        for (uint32_t i = 0; i < w->field_count; i++) {
            struct my_field *f = &w->fields[i];

            buf_clear(&clause);
            buf_add_str(&clause, "json_valid(");
            mariadbi_add_name(&clause, f->name);
            buf_add_byte(&clause, ')');
            if (f->kind == MY_SQL_TEXT && slice_is(buf_slice(&clause), row[0])) {
                f->kind = MY_SQL_JSON;
                f->hint = MY_HINT_JSON;
            }
        }
    }
out:
    buf_fini(&clause);
    mysql_free_result(r);
    return rc;
}

static void
add_key(const struct sayer *to, struct my_want *w, const char *column)
{
    for (uint32_t i = 0; i < w->field_count; i++) {
        if (strcmp(w->fields[i].name, column) != 0)
            continue;
        if (!w->fields[i].ordered)
            say(to, FINDING_MISSING,
                "table %s: a key with column %s of its type (float, double, enum, set, geometry) "
                "is not supported: name another with `key`",
                w->table, column);
        if (w->order_count < MARIADBI_KEY_MAX)
            w->order[w->order_count++] = i;
        return;
    }
    say(to, FINDING_MISSING, "table %s has no column %s", w->table, column);
}

/* Whether exactly the configured columns are a unique key without NULL. */
static int
judge_key(const struct sayer *to, struct my_want *w, const char *where, struct err *err)
{
    struct my_source *s = to->s;
    MYSQL_RES        *r = NULL;
    MYSQL_ROW         row;
    struct buf        list = {0};
    bool              unique = false;
    int               rc;

    TRY(mariadbi_ask(s, s->query, &r, err,
                     "SELECT group_concat(c.column_name ORDER BY c.column_name SEPARATOR ','), "
                     "max(c.nullable = 'YES'), max(c.sub_part IS NOT NULL) FROM "
                     "information_schema.statistics c WHERE %s AND c.non_unique = 0 "
                     "GROUP BY c.index_name HAVING count(*) = %u",
                     where, w->key_count));
    while ((row = mysql_fetch_row(r)) != NULL) {
        uint32_t found = 0;

        for (uint32_t i = 0; i < w->key_count; i++) {
            buf_clear(&list);
            buf_printf(&list, ",%s,", row[0]);
            buf_add_byte(&list, 0);
            char wanted[300];
            (void)snprintf(wanted, sizeof wanted, ",%s,", w->key[i]);
            found += !list.failed && strcasestr((const char *)list.data, wanted) != NULL;
        }
        unique = unique || (found == w->key_count && is(row[1], "0") && is(row[2], "0"));
    }
    if (!unique)
        say(to, FINDING_MISSING, "table %s: `key` is no UNIQUE key of NOT NULL columns", w->table);
out:
    buf_fini(&list);
    mysql_free_result(r);
    return rc;
}

static int
key(const struct sayer *to, struct my_want *w, const char *where, struct err *err)
{
    struct my_source *s = to->s;
    MYSQL_RES        *r = NULL;
    MYSQL_ROW         row;
    int               rc;

    for (uint32_t i = 0; i < w->key_count; i++)
        add_key(to, w, w->key[i]);
    if (w->key_count > 0)
        return judge_key(to, w, where, err);
    TRY(mariadbi_ask(s, s->query, &r, err,
                     "SELECT c.column_name FROM information_schema.statistics c WHERE %s AND "
                     "c.index_name = 'PRIMARY' ORDER BY c.seq_in_index",
                     where));
    while ((row = mysql_fetch_row(r)) != NULL)
        add_key(to, w, row[0]);
    if (w->order_count == 0)
        say(to, FINDING_MISSING,
            "table %s has no primary key: name a UNIQUE NOT NULL key with `key`", w->table);
out:
    mysql_free_result(r);
    return rc;
}

/* A line of SHOW CREATE TABLE: whether it is a foreign key that changes this table's rows. */
static bool
acts(const char *line, size_t len)
{
    static const char *const actions[] = {
        " ON DELETE CASCADE", " ON DELETE SET NULL", " ON DELETE SET DEFAULT",
        " ON UPDATE CASCADE", " ON UPDATE SET NULL", " ON UPDATE SET DEFAULT",
    };

    if (memmem(line, len, " FOREIGN KEY (", 14) == NULL)
        return false;
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        if (memmem(line, len, actions[i], strlen(actions[i])) != NULL)
            return true;
    }
    return false;
}

/*
 * Rows that InnoDB changes by a foreign key's action are in no log of the
 * server's. information_schema hides foreign keys from whoever may only
 * SELECT; SHOW CREATE TABLE does not.
 */
static int
cascades(const struct sayer *to, struct my_want *w, struct err *err)
{
    MYSQL_RES  *r = NULL;
    MYSQL_ROW   row;
    struct buf  name = {0};
    const char *line = "";
    int         rc = 0;

    mariadbi_add_name(&name, w->db);
    buf_add_byte(&name, '.');
    mariadbi_add_name(&name, w->name);
    buf_add_byte(&name, 0);
    if (name.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(mariadbi_ask(to->s, to->s->query, &r, err, "SHOW CREATE TABLE %s",
                     (const char *)name.data));
    row = mysql_fetch_row(r);
    if (row != NULL && mysql_num_fields(r) > 1 && row[1] != NULL)
        line = row[1];
    while (line[0] != '\0') {
        size_t len = strcspn(line, "\n");

        if (acts(line, len))
            say(to, to->s->any_cascades ? FINDING_WARN : FINDING_MISSING,
                "table %s: a foreign key changes its rows by itself, which MariaDB does not log: "
                "do that in the application, or say `cascades: ignore` (%.*s)",
                w->table, len < 120 ? (int)len : 120, line);
        line += len + (line[len] == '\n');
    }
out:
    buf_fini(&name);
    mysql_free_result(r);
    return rc;
}

static int
look_at(const struct sayer *to, struct my_want *w, struct err *err)
{
    struct my_source *s = to->s;
    MYSQL_RES        *r = NULL;
    MYSQL_ROW         row;
    struct buf        where = {0}, of_key = {0};
    int               rc;

    buf_add_str(&where, "c.table_schema = ");
    mariadbi_add_text(s->query, &where, slice_str(w->db));
    buf_add_str(&of_key, "c.constraint_schema = ");
    mariadbi_add_text(s->query, &of_key, slice_str(w->db));
    buf_add_str(&where, " AND c.table_name = ");
    mariadbi_add_text(s->query, &where, slice_str(w->name));
    buf_add_slice(&of_key, slice_str(" AND c.table_name = "));
    mariadbi_add_text(s->query, &of_key, slice_str(w->name));
    buf_add_byte(&where, 0);
    buf_add_byte(&of_key, 0);
    if (where.failed || of_key.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(mariadbi_ask(s, s->query, &r, err,
                     "SELECT c.table_type, c.engine, c.table_schema, c.table_name FROM "
                     "information_schema.tables c WHERE %s",
                     (const char *)where.data));
    row = mysql_fetch_row(r);
    if (row == NULL) {
        say(to, FINDING_MISSING, "table %s is not there, or the user may not SELECT from it",
            w->table);
        goto out;
    }
    /* The log has these names, and knows no others. */
    if (strcmp(row[2], w->db) != 0 || strcmp(row[3], w->name) != 0)
        say(to, FINDING_MISSING, "table %s is called %s.%s at the server: name it so", w->table,
            row[2], row[3]);
    if (!is(row[0], "BASE TABLE"))
        say(to, FINDING_MISSING, "table %s is a %s: only plain tables are captured", w->table,
            row[0]);
    else if (!is(row[1], "InnoDB"))
        say(to, FINDING_MISSING,
            "table %s: engine %s has no consistent reads: only InnoDB is captured", w->table,
            row[1]);
    TRY(fields(to, w, (const char *)where.data, err));
    TRY(json_columns(to, w, (const char *)of_key.data, err));
    TRY(key(to, w, (const char *)where.data, err));
    TRY(cascades(to, w, err));
    say(to, FINDING_OK, "table %s: %u columns", w->table, w->field_count);
out:
    mysql_free_result(r);
    buf_fini(&where);
    buf_fini(&of_key);
    return rc;
}

static void
say_nothing(void *arg, enum finding_level level, const char *text)
{
}

int
mariadbi_look_again(struct my_source *s, struct my_want *w, struct err *err)
{
    struct sayer to = {s, say_nothing, NULL};
    int          rc;

    TRY(mariadbi_need_query(s, err));
    TRY(look_at(&to, w, err));
out:
    return rc;
}

int
mariadbi_look(struct my_source *s, finding_fn *fn, void *arg, struct err *err)
{
    struct sayer to = {s, fn, arg};
    int          rc;

    TRY(mariadbi_need_query(s, err));
    TRY(settings(&to, err));
    TRY(grants(&to, err));
    TRY(charsets(s, err));
    for (uint32_t i = 0; i < s->want_count; i++)
        TRY(look_at(&to, &s->wants[i], err));
out:
    return rc;
}
