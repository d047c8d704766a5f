/* A database in WAL mode whose application does everything that SQL can do to a row. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "contract.h"
#include "env/env_real.h"
#include "source/sqlite/sqlite.h"
#include "sql/sql.h"

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
run(struct world *w, const char *text)
{
    int rc = sqlite3_exec(w->app, text, NULL, NULL, NULL) & 0xff;

    /* An application runs into its own constraints now and then. */
    if (rc == SQLITE_CONSTRAINT)
        sql_rollback(w->app);
    else if (rc != SQLITE_OK)
        fail_msg("%s: %s", sqlite3_errmsg(w->app), text);
}

static struct source *
open_one(void *world)
{
    struct world  *w = world;
    struct source *s;
    struct err     err;

    contract_ok(source_new(env_real(), &source_sqlite_ops, "test", w->conf, &s, &err), &err);
    return s;
}

static void *
setup(void)
{
    struct world  *w = calloc(1, sizeof *w);
    struct source *s;
    struct err     err;

    assert_non_null(w);
    w->folder = contract_folder();
    (void)snprintf(w->path, sizeof w->path, "%s/app.db", w->folder);
    contract_ok(sql_open(w->path, SQL_CREATE, 10000, &w->app, &err), &err);
    run(w, "PRAGMA journal_mode = wal; PRAGMA synchronous = off;"
           "CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT UNIQUE, r REAL, \"odd \"\"name\" BLOB,"
           " twice AS (r * 2), UNIQUE(r));"
           "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
           "INSERT INTO t SELECT i, 'u' || i, i / 7.0, randomblob(3) FROM n");
    w->conf = contract_conf(source_sqlite_ops.schema, "path: %s\ntables: [{name: t}]\n", w->path);
    s = open_one(w);
    contract_ok(s->ops->prepare(s, false, nothing, NULL, &err), &err);
    source_free(s);
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

static void
mutate(void *world, unsigned step)
{
    static const char *const texts[] = {
        "INSERT OR REPLACE INTO t VALUES (%d, 'u%d', %d / 3.0, x'00ff')",
        "UPDATE OR IGNORE t SET r = r + %d, u = 'v%d' WHERE id = %d",
        "UPDATE OR REPLACE t SET u = 'u%d', r = NULL WHERE id = %d + %d",
        "UPDATE OR REPLACE t SET id = %d WHERE id = %d %% 50 + %d %% 40",
        "DELETE FROM t WHERE id = %d OR u = 'u%d' OR r = %d / 3.0",
        "INSERT OR IGNORE INTO t(id, u) VALUES (%d, 'u%d'), (%d + 1, NULL)",
        "INSERT INTO t(id, u, r) VALUES (%d, 'w%d', 0.1) ON CONFLICT DO UPDATE SET r = r + %d, "
        "\"odd \"\"name\" = 'a|b\\' || char(10, 0, 233)",
        "REPLACE INTO t(u, r) VALUES ('u%d', %d), ('u5', %d / 7.0)",
        "BEGIN; INSERT OR REPLACE INTO t(id, u) VALUES (%d, 'x%d'); DELETE FROM t WHERE id = %d; "
        "ROLLBACK",
        "BEGIN; DELETE FROM t WHERE id = %d; INSERT OR REPLACE INTO t(id, u) VALUES (%d, 'y%d'); "
        "COMMIT",
    };
    struct world *w = world;
    uint64_t      seed = step;
    int           n[3];
    char          text[512];

    for (int i = 0; i < 3; i++)
        n[i] = (int)(contract_random(&seed) % 350);
    if (step % 100 == 50)
        run(w, step % 200 == 50 ? "PRAGMA recursive_triggers = on"
                                : "PRAGMA recursive_triggers = off");
    (void)contract_random(&seed);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    (void)snprintf(text, sizeof text, texts[contract_random(&seed) % 10], n[0], n[1], n[2]);
#pragma GCC diagnostic pop
    run(w, text);
}

static void
state(void *world, struct fold *out)
{
    struct world        *w = world;
    struct sqlite3_stmt *stmt;
    struct buf           row = {0};
    struct err           err;
    bool                 more;

    contract_ok(sql_prepare(w->app, &stmt, &err, "SELECT id, u, r, \"odd \"\"name\", twice FROM t"),
                &err);
    for (;;) {
        contract_ok(sql_step(stmt, &more, &err), &err);
        if (!more)
            break;
        buf_clear(&row);
        for (int i = 0; i < 5; i++) {
            static const char *const names[] = {
                "{\"id\":", ",\"u\":", ",\"r\":", ",\"odd \\\"name\":", ",\"twice\":"};
            buf_add_str(&row, names[i]);
            sql_column_json(&row, stmt, i);
        }
        buf_add_byte(&row, '}');
        fold_put(out, sql_column_slice(stmt, 0), buf_slice(&row));
    }
    (void)sqlite3_finalize(stmt);
    buf_fini(&row);
}

const struct source_fixture source_fixture_sqlite = {"sqlite", setup, teardown, open_one,
                                                     mutate,   state, false};
