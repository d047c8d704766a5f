/* Some columns of a legacy table move, as in the main job; its other columns stay. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "base/json.h"
#include "contract.h"
#include "env/env_real.h"
#include "source/sqlite/sqlite.h"
#include "sql/sql.h"
#include "store/sqlite/sqlite.h"

struct world {
    char           *folder, path[256];
    struct conf    *conf;
    struct sqlite3 *app;
};

static void
nothing(void *arg, enum finding_level level, const char *text)
{
}

static void
prepare_feed(struct world *w)
{
    struct conf *conf =
        contract_conf(source_sqlite_ops.schema, "path: %s\ntables: [{name: t}]\n", w->path);
    struct source *s;
    struct err     err;

    contract_ok(source_new(env_real(), &source_sqlite_ops, "feed", conf, &s, &err), &err);
    contract_ok(s->ops->prepare(s, false, nothing, NULL, &err), &err);
    source_free(s);
    conf_free(conf);
}

static void *
setup(void)
{
    struct world *w = calloc(1, sizeof *w);
    struct err    err;

    assert_non_null(w);
    w->folder = contract_folder();
    (void)snprintf(w->path, sizeof w->path, "%s/app.db", w->folder);
    contract_ok(sql_open(w->path, SQL_CREATE, 10000, &w->app, &err), &err);
    contract_ok(sql_run(w->app, &err, "PRAGMA journal_mode = wal"), &err);
    contract_ok(sql_run(w->app, &err,
                        "CREATE TABLE t(id INTEGER PRIMARY KEY, sale TEXT, a TEXT, b REAL, c, "
                        "ref TEXT UNIQUE)"),
                &err);
    prepare_feed(w);
    w->conf = contract_conf(store_sqlite_ops.schema,
                            "path: %s\ntable: t\nkey: id\ncolumns: [a, b, c]\n"
                            "where: a IS NOT NULL\n",
                            w->path);
    return w;
}

static void
teardown(void *world)
{
    struct world *w = world;

    sql_close(w->app);
    conf_free(w->conf);
    contract_folder_remove(w->folder);
    free(w);
}

static struct store *
open_one(void *world)
{
    struct world *w = world;
    struct store *s;
    struct err    err;

    contract_ok(store_new(env_real(), &store_sqlite_ops, "side", w->conf, &s, &err), &err);
    return s;
}

/* An upsert or a delete, by the application's own connection. */
static int
app_write(void *world, const char *key, const char *row)
{
    struct world        *w = world;
    struct sqlite3_stmt *stmt;
    struct json_field    f[] = {{.name = "a"}, {.name = "b"}, {.name = "c"}};
    struct err           err;
    int                  rc;

    if (row == NULL)
        return sql_run(w->app, &err, "DELETE FROM t WHERE id = %s", key);
    contract_ok(json_pick(slice_str(row), f, 3, JSON_PICK_ONLY, &err), &err);
    contract_ok(sql_prepare(w->app, &stmt, &err,
                            "INSERT INTO t(id, sale, a, b, c) VALUES (%s, 's', ?1, ?2, ?3) ON "
                            "CONFLICT(id) DO UPDATE SET a = ?1, b = ?2, c = ?3",
                            key),
                &err);
    for (int i = 0; i < 3; i++)
        contract_ok(sql_bind_json(stmt, i + 1, f[i].value, &err), &err);
    rc = sql_finish(stmt, &err);
    (void)sqlite3_finalize(stmt);
    return rc;
}

static void
row(void *world, unsigned n, struct buf *out)
{
    static const char *const values[] = {
        "null", "\"\"", "\"x\"", "0.1", "{\"$blob\":\"00ff\"}", "9007199254740993"};
    struct buf text = {0};
    struct err err;

    buf_printf(&text, "{\"a\":\"a%u\\u0000|\",\"b\":%u.5,\"c\":%s}", n, n, values[n % 6]);
    contract_ok(json_canonical(buf_slice(&text), out, &err), &err);
    buf_fini(&text);
}

const struct store_fixture store_fixture_sqlite = {"sqlite",  setup, teardown, open_one,
                                                   app_write, row,   false};
