/* A table with a CHECK, which refuses some data for good. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "contract.h"
#include "env/env_real.h"
#include "sink/sqlite/sqlite.h"
#include "sql/sql.h"

struct world {
    char           *folder, path[256];
    struct conf    *conf;
    struct sqlite3 *db;
};

static void *
setup(void)
{
    struct world *w = calloc(1, sizeof *w);
    struct err    err;

    assert_non_null(w);
    w->folder = contract_folder();
    (void)snprintf(w->path, sizeof w->path, "%s/out.db", w->folder);
    contract_ok(sql_open(w->path, SQL_CREATE, 10000, &w->db, &err), &err);
    contract_ok(sql_run(w->db, &err, "PRAGMA journal_mode = wal"), &err);
    contract_ok(sql_run(w->db, &err,
                        "CREATE TABLE t(\"the key\" TEXT PRIMARY KEY, a TEXT CHECK (a <> 'bad'))"),
                &err);
    w->conf = contract_conf(sink_sqlite_ops.schema,
                            "path: %s\ntable: t\nkey: the key\ncreate: true\n", w->path);
    return w;
}

static void
teardown(void *world)
{
    struct world *w = world;

    sql_close(w->db);
    conf_free(w->conf);
    contract_folder_remove(w->folder);
    free(w);
}

static struct sink *
open_one(void *world)
{
    struct world *w = world;
    struct sink  *s;
    struct err    err;

    contract_ok(sink_new(env_real(), &sink_sqlite_ops, "out", w->conf, &s, &err), &err);
    return s;
}

static void
state(void *world, struct fold *out)
{
    struct world        *w = world;
    struct sqlite3_stmt *stmt;
    struct buf           row = {0};
    struct err           err;
    bool                 more;

    contract_ok(sql_prepare(w->db, &stmt, &err, "SELECT \"the key\", a, b FROM t"), &err);
    for (;;) {
        contract_ok(sql_step(stmt, &more, &err), &err);
        if (!more)
            break;
        buf_clear(&row);
        buf_add_str(&row, "{\"a\":");
        sql_column_json(&row, stmt, 1);
        buf_add_str(&row, ",\"b\":");
        sql_column_json(&row, stmt, 2);
        buf_add_byte(&row, '}');
        fold_put(out, sql_column_slice(stmt, 0), buf_slice(&row));
    }
    (void)sqlite3_finalize(stmt);
    buf_fini(&row);
}

const struct sink_fixture sink_fixture_sqlite = {"sqlite", setup, teardown,
                                                 open_one, state, "{\"a\":\"bad\",\"b\":1}"};
