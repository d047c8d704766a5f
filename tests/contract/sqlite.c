/* What is particular to SQLite: schemas that change, hostile triggers, what the guard lets by. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "contract.h"
#include "env/env_real.h"
#include "source/sqlite/sqlite.h"
#include "sql/sql.h"
#include "store/sqlite/sqlite.h"

struct bed {
    char           *folder, path[256];
    struct sqlite3 *app;
    struct conf    *conf;
};

static void
nothing(void *arg, enum finding_level level, const char *text)
{
}

static void
run(struct bed *b, const char *text)
{
    if (sqlite3_exec(b->app, text, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sqlite3_errmsg(b->app), text);
}

static void
refused(struct bed *b, const char *text)
{
    assert_int_not_equal(sqlite3_exec(b->app, text, NULL, NULL, NULL), SQLITE_OK);
    if (strstr(sqlite3_errmsg(b->app), "oxbow: t is now written at there (epoch 2)") == NULL)
        fail_msg("%s: %s", text, sqlite3_errmsg(b->app));
}

static void
make(struct bed *b, const char *tables, const char *sql)
{
    struct err err;

    *b = (struct bed){.folder = contract_folder()};
    (void)snprintf(b->path, sizeof b->path, "%s/app.db", b->folder);
    contract_ok(sql_open(b->path, SQL_CREATE, 5000, &b->app, &err), &err);
    run(b, "PRAGMA journal_mode = wal");
    run(b, sql);
    if (tables != NULL)
        b->conf =
            contract_conf(source_sqlite_ops.schema, "path: %s\ntables: %s\n", b->path, tables);
}

static void
unmake(struct bed *b)
{
    conf_free(b->conf);
    sql_close(b->app);
    contract_folder_remove(b->folder);
}

static struct source *
open_source(struct bed *b)
{
    struct source *s;
    struct err     err;

    contract_ok(source_new(env_real(), &source_sqlite_ops, "src", b->conf, &s, &err), &err);
    return s;
}

static struct source *
prepared(struct bed *b)
{
    struct source *s = open_source(b);
    struct err     err;

    contract_ok(s->ops->prepare(s, false, nothing, NULL, &err), &err);
    contract_ok(source_start(s, slice_str(""), &err), &err);
    return s;
}

/* Polls until caught up; the rows as they are folded, by table and key. */
static int
drain(struct source *s, struct fold *rows, struct buf *checkpoint, struct err *err)
{
    struct source_batch b;
    char                key[300];
    int                 rc;

    for (;;) {
        rc = source_poll(s, 10, 1, &b, err);
        if (rc != 0 || (b.caught_up && b.count == 0))
            return rc;
        for (uint32_t i = 0; i < b.count; i++) {
            (void)snprintf(key, sizeof key, "%.*s/%.*s", SLICE_FMT(b.changes[i].table),
                           SLICE_FMT(b.changes[i].key));
            if (b.changes[i].op == CHANGE_DELETE)
                fold_del(rows, slice_str(key));
            else
                fold_put(rows, slice_str(key), b.changes[i].after);
        }
        if (b.count > 0 && checkpoint != NULL) {
            buf_clear(checkpoint);
            buf_add_slice(checkpoint, b.checkpoint);
        }
    }
}

static void
is_row(const struct fold *rows, const char *key, const char *row)
{
    const char *is = fold_get(rows, slice_str(key));

    if (is == NULL || strcmp(is, row) != 0)
        fail_msg("%s is %s", key, is == NULL ? "missing" : is);
}

static void
every_value(void **state)
{
    struct bed     b;
    struct fold   *rows = fold_new();
    struct source *s;
    struct err     err;

    make(&b, "[{name: 'we\"ird'}, {name: c}, {name: u, key: [n]}]",
         "CREATE TABLE \"we\"\"ird\"(k TEXT PRIMARY KEY, \"a'\"\"b\" , \"é\" REAL) WITHOUT ROWID;"
         "CREATE TABLE c(x TEXT COLLATE NOCASE, y INT, v, PRIMARY KEY(x, y));"
         "CREATE TABLE u(n TEXT NOT NULL UNIQUE, v)");
    s = prepared(&b);
    run(&b, "INSERT INTO \"we\"\"ird\" VALUES ('a|b', 9223372036854775807, 0.1), "
            "('', x'00FF', -1e999), ('n', CAST(x'ff41' AS TEXT), NULL), "
            "('z', 'a' || char(0, 34, 92, 10) || 'b', 1e300), ('5e-324', '', 5e-324)");
    run(&b, "INSERT INTO c VALUES ('a|\\', 1, 1.0), ('B', -2, ''); INSERT INTO u VALUES ('k', 7)");
    contract_ok(drain(s, rows, NULL, &err), &err);
    is_row(rows, "we\"ird/a|b", "{\"a'\\\"b\":9223372036854775807,\"k\":\"a|b\",\"é\":0.1}");
    assert_non_null(strstr(fold_get(rows, slice_str("we\"ird/")), "{\"$blob\":\"00ff\"}"));
    assert_non_null(strstr(fold_get(rows, slice_str("we\"ird/n")), "{\"$text\":\"ff41\"}"));
    assert_non_null(strstr(fold_get(rows, slice_str("we\"ird/z")), "a\\u0000\\\"\\\\\\nb"));
    is_row(rows, "c/a\\|\\\\|1", "{\"v\":1,\"x\":\"a|\\\\\",\"y\":1}");
    is_row(rows, "c/B|-2", "{\"v\":\"\",\"x\":\"B\",\"y\":-2}");
    is_row(rows, "u/k", "{\"n\":\"k\",\"v\":7}");
    run(&b, "UPDATE c SET x = 'b' WHERE x = 'b'");
    contract_ok(drain(s, rows, NULL, &err), &err);
    assert_null(fold_get(rows, slice_str("c/B|-2")));
    is_row(rows, "c/b|-2", "{\"v\":\"\",\"x\":\"b\",\"y\":-2}");
    source_free(s);
    fold_free(rows);
    unmake(&b);
}

/* The application's own triggers change the row again, before ours and after. */
static void
triggers_of_others(void **state)
{
    static const char *const touch = "CREATE TRIGGER %s AFTER UPDATE OF v ON t BEGIN "
                                     "UPDATE t SET w = coalesce(w, 0) + 1 WHERE id = NEW.id; END";
    struct bed               b;
    struct fold             *rows = fold_new();
    struct source           *s;
    struct err               err;

    make(&b, "[{name: t}]", "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w)");
    contract_ok(sql_run(b.app, &err, touch, "first"), &err);
    s = prepared(&b);
    contract_ok(sql_run(b.app, &err, touch, "last"), &err);
    run(&b, "INSERT INTO t(id, v) VALUES (1, 1); UPDATE t SET v = 2");
    contract_ok(drain(s, rows, NULL, &err), &err);
    is_row(rows, "t/1", "{\"id\":1,\"v\":2,\"w\":2}");
    source_free(s);
    fold_free(rows);
    unmake(&b);
}

static void
schema_changes(void **state)
{
    struct bed     b;
    struct fold   *rows = fold_new();
    struct source *s;
    struct buf     checkpoint = {0};
    struct err     err;

    make(&b, "[{name: t}]",
         "CREATE TABLE t(id INTEGER PRIMARY KEY, v); "
         "INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    s = prepared(&b);
    contract_ok(drain(s, rows, &checkpoint, &err), &err);
    run(&b, "UPDATE t SET v = 'c' WHERE id = 1; ALTER TABLE t ADD COLUMN n DEFAULT 5; "
            "UPDATE t SET n = 6 WHERE id = 2");
    contract_ok(drain(s, rows, &checkpoint, &err), &err);
    is_row(rows, "t/1", "{\"id\":1,\"n\":5,\"v\":\"c\"}");
    is_row(rows, "t/2", "{\"id\":2,\"n\":6,\"v\":\"b\"}");
    run(&b, "ALTER TABLE t RENAME COLUMN v TO w");
    assert_int_equal(drain(s, rows, NULL, &err), E_SCHEMA);
    assert_int_equal(err.kind, ERR_FATAL);
    assert_non_null(strstr(err.text, "lost its column v"));
    run(&b, "ALTER TABLE t RENAME COLUMN w TO v");
    contract_ok(drain(s, rows, &checkpoint, &err), &err);
    run(&b, "DROP TRIGGER oxbow_au_t; UPDATE t SET v = 'unseen' WHERE id = 1");
    assert_int_equal(drain(s, rows, NULL, &err), E_STATE);
    assert_non_null(strstr(err.text, "oxbow source prepare"));
    contract_ok(s->ops->prepare(s, false, nothing, NULL, &err), &err);
    contract_ok(drain(s, rows, &checkpoint, &err), &err);
    is_row(rows, "t/1", "{\"id\":1,\"n\":5,\"v\":\"unseen\"}");
    contract_ok(s->ops->unprepare(s, nothing, NULL, &err), &err);
    assert_int_equal(drain(s, rows, NULL, &err), E_STATE);
    contract_ok(s->ops->prepare(s, false, nothing, NULL, &err), &err);
    assert_int_equal(source_start(s, buf_slice(&checkpoint), &err), E_STATE);
    assert_non_null(strstr(err.text, "set `feed: "));
    source_free(s);
    fold_free(rows);
    buf_fini(&checkpoint);
    unmake(&b);
}

static void
lost_changes(void **state)
{
    struct bed     b;
    struct fold   *rows = fold_new();
    struct source *s;
    struct err     err;

    make(&b, "[{name: t}]", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    s = prepared(&b);
    run(&b, "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)");
    run(&b, "DELETE FROM oxbow_changes WHERE seq = 3");
    assert_int_equal(drain(s, rows, NULL, &err), E_STATE);
    assert_int_equal(err.kind, ERR_FATAL);
    assert_non_null(strstr(err.text, "changes 3 to 3 are gone"));
    source_free(s);
    fold_free(rows);
    unmake(&b);
}

static void
clear_refusals(void **state)
{
    char           path[4200];
    struct bed     b;
    struct source *s;
    struct conf   *conf;
    struct err     err;
    FILE          *f;

    make(&b, "[{name: t}]", "CREATE TABLE t(v); CREATE VIEW w AS SELECT 1");
    s = open_source(&b);
    assert_int_equal(s->ops->prepare(s, false, nothing, NULL, &err), E_SCHEMA);
    assert_non_null(strstr(err.text, "no primary key"));
    assert_int_equal(source_start(s, slice_str(""), &err), E_STATE);
    source_free(s);
    conf =
        contract_conf(source_sqlite_ops.schema, "path: %s/none\ntables: [{name: t}]\n", b.folder);
    assert_int_equal(source_new(env_real(), &source_sqlite_ops, "x", conf, &s, &err), E_NOTFOUND);
    conf_free(conf);
    conf =
        contract_conf(source_sqlite_ops.schema, "path: %s/text\ntables: [{name: t}]\n", b.folder);
    (void)snprintf(path, sizeof path, "%s/text", b.folder);
    f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < 200; i++)
        (void)fputs("this is no database\n", f);
    (void)fclose(f);
    assert_int_equal(source_new(env_real(), &source_sqlite_ops, "x", conf, &s, &err), E_FORMAT);
    conf_free(conf);
    unmake(&b);
}

static struct store *
open_store(struct bed *b)
{
    struct store *s;
    struct err    err;

    b->conf = contract_conf(store_sqlite_ops.schema,
                            "path: %s\ntable: t\nkey: id\ncolumns: [a, n]\nwhere: a IS NOT NULL\n",
                            b->path);
    contract_ok(store_new(env_real(), &store_sqlite_ops, "old", b->conf, &s, &err), &err);
    return s;
}

static void
guard_lets_by(void **state)
{
    struct bed         b;
    struct store      *s;
    struct store_guard g = {1, true, ""};
    struct err         err;

    make(&b, NULL,
         "CREATE TABLE t(id INTEGER PRIMARY KEY, sale TEXT, ref TEXT UNIQUE, a TEXT, n); "
         "INSERT INTO t VALUES (1, 's', 'r1', 'x', 1), (2, 's', 'r2', NULL, NULL)");
    s = open_store(&b);
    contract_ok(s->ops->guard_install(s, &g, &err), &err);
    run(&b, "UPDATE t SET n = 2 WHERE id = 1");
    g = (struct store_guard){2, false, "there"};
    contract_ok(s->ops->guard_set(s, &g, &err), &err);
    for (int recursive = 0; recursive < 2; recursive++) {
        run(&b, recursive ? "PRAGMA recursive_triggers = on" : "PRAGMA recursive_triggers = off");
        refused(&b, "UPDATE t SET n = 3 WHERE id = 1");
        refused(&b, "UPDATE t SET a = NULL WHERE id = 1");
        refused(&b, "UPDATE t SET a = 'y' WHERE id = 2");
        refused(&b, "UPDATE t SET id = 9 WHERE id = 1");
        refused(&b, "DELETE FROM t WHERE id = 1");
        refused(&b, "INSERT INTO t(sale, a) VALUES ('s', 'x')");
        refused(&b, "INSERT OR REPLACE INTO t(id, sale) VALUES (1, 's')");
        refused(&b, "INSERT OR REPLACE INTO t(id, ref) VALUES (7, 'r1')");
        refused(&b, "INSERT INTO t(id, a) VALUES (1, 'q') ON CONFLICT DO UPDATE SET a = 'q'");
    }
    run(&b, "UPDATE t SET sale = 'changed', a = a, n = n");
    run(&b, "INSERT INTO t(sale) VALUES ('new')");
    run(&b, "INSERT INTO t(id, sale) VALUES (1, 'up') ON CONFLICT(id) DO UPDATE SET sale = 'up'");
    run(&b, "INSERT OR REPLACE INTO t(id, sale, ref) VALUES (2, 'again', 'r2')");
    run(&b, "DELETE FROM t WHERE id = 2");
    store_free(s);
    unmake(&b);
}

static void
writes_stay_what_they_are(void **state)
{
    struct store_write w = {
        .key = slice_str("1"), .cond = STORE_ANY, .epoch = 1, .origin = slice_str("oxbow:m")};
    struct bed       b;
    struct store    *s;
    struct store_row row;
    struct err       err;

    make(&b, NULL,
         "CREATE TABLE t(id INTEGER PRIMARY KEY, sale TEXT NOT NULL, a TEXT, n INTEGER); "
         "INSERT INTO t VALUES (1, 's', 'x', 1)");
    s = open_store(&b);
    w.fields = slice_str("{\"a\":5,\"n\":1}");
    assert_int_equal(s->ops->put(s, &w, &err), E_REJECTED);
    assert_int_equal(err.kind, ERR_DATA);
    w.fields = slice_str("{\"a\":null,\"n\":1}");
    assert_int_equal(s->ops->put(s, &w, &err), E_REJECTED);
    w.fields = slice_str("{\"a\":\"\",\"n\":null}");
    contract_ok(s->ops->put(s, &w, &err), &err);
    contract_ok(s->ops->get(s, w.key, &row, &err), &err);
    assert_true(slice_eq(row.fields, w.fields));
    contract_ok(s->ops->del(s, &w, &err), &err);
    assert_int_equal(s->ops->get(s, w.key, &row, &err), E_NOTFOUND);
    run(&b, "UPDATE t SET sale = CASE sale WHEN 's' THEN 'kept' ELSE NULL END");
    w.key = slice_str("2");
    assert_int_equal(s->ops->put(s, &w, &err), E_REJECTED);
    assert_non_null(strstr(err.text, "NOT NULL constraint failed: t.sale"));
    assert_int_equal(s->ops->position(s, &(struct buf){0}, &err), E_STATE);
    run(&b, "ALTER TABLE t DROP COLUMN n");
    assert_int_not_equal(s->ops->get(s, w.key, &row, &err), 0);
    assert_int_equal(err.kind, ERR_FATAL);
    store_free(s);
    unmake(&b);
}

static void
numbers_come_back(void **state)
{
    uint64_t   seed = 7;
    struct buf text = {0};

    for (int i = 0; i < 20000; i++) {
        uint64_t bits = (uint64_t)contract_random(&seed) << 33 ^ contract_random(&seed);
        double   v, back;

        memcpy(&v, &bits, sizeof v);
        if (v != v)
            continue;
        buf_clear(&text);
        sql_json_real(&text, v);
        buf_add_byte(&text, 0);
        back = strtod((const char *)text.data, NULL);
        assert_memory_equal(&v, &back, sizeof v);
    }
    buf_fini(&text);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value),       cmocka_unit_test(triggers_of_others),
        cmocka_unit_test(schema_changes),    cmocka_unit_test(lost_changes),
        cmocka_unit_test(clear_refusals),    cmocka_unit_test(guard_lets_by),
        cmocka_unit_test(numbers_come_back), cmocka_unit_test(writes_stay_what_they_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
