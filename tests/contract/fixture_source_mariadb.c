/*
 * A database of a real MariaDB server, whose application does what SQL can do
 * to a row. The server is there already: MARIADB_SOCKET names it.
 */
#include <mysql.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "contract.h"
#include "env/env_real.h"
#include "source/mariadb/mariadb.h"

struct world {
    char         name[32];
    struct conf *conf;
    MYSQL       *app;
};

static MYSQL *
join(const char *database)
{
    MYSQL *m = mysql_init(NULL);

    assert_non_null(m);
    if (mysql_real_connect(m, NULL, "root", "", database, 0, getenv("MARIADB_SOCKET"), 0) == NULL)
        fail_msg("%s", mysql_error(m));
    return m;
}

static void
run(MYSQL *m, const char *text)
{
    /* An application runs into its own constraints now and then. */
    if (mysql_query(m, text) != 0 && mysql_errno(m) != 1062)
        fail_msg("%s: %s", mysql_error(m), text);
}

static struct source *
open_one(void *world)
{
    struct world  *w = world;
    struct source *s;
    struct err     err;

    contract_ok(source_new(env_real(), &source_mariadb_ops, w->name, w->conf, &s, &err), &err);
    return s;
}

static void *
setup(void)
{
    static unsigned number;
    struct world   *w = calloc(1, sizeof *w);
    char            text[64];
    MYSQL          *m = join(NULL);

    assert_non_null(w);
    (void)snprintf(w->name, sizeof w->name, "contract%u", number++);
    (void)snprintf(text, sizeof text, "CREATE DATABASE %s", w->name);
    run(m, text);
    mysql_close(m);
    w->app = join(w->name);
    run(w->app, "CREATE TABLE t (id INT PRIMARY KEY, u VARCHAR(20) UNIQUE, r DOUBLE, f FLOAT, "
                "`odd ``name` BLOB, twice DOUBLE AS (r * 2) VIRTUAL) ENGINE=InnoDB");
    run(w->app, "CREATE TABLE other (id INT PRIMARY KEY AUTO_INCREMENT, x INT) ENGINE=InnoDB");
    run(w->app,
        "INSERT INTO t (id, u, r, f, `odd ``name`) SELECT seq, concat('u', seq), seq / 7e0, "
        "seq / 4, char(seq % 256 USING binary) FROM seq_1_to_300");
    w->conf = contract_conf(source_mariadb_ops.schema,
                            "socket: %s\nuser: root\ndatabase: %s\nsnapshot_rows: 37\n"
                            "tables: [{name: t}]\n",
                            getenv("MARIADB_SOCKET"), w->name);
    return w;
}

static void
teardown(void *world)
{
    struct world *w = world;

    mysql_close(w->app);
    conf_free(w->conf);
    free(w);
}

static void
mutate(void *world, unsigned step)
{
    struct world *w = world;
    char          text[300];
    unsigned      id = step * 7919 % 400;
    const char   *fmt;

    switch (step % 9) {
    case 0:
        fmt = "REPLACE INTO t (id, u, r, f) VALUES (%u, concat('n', %u), %u / 3e0, 0.25)";
        break;
    case 1:
        fmt = "UPDATE t SET r = %2$u, `odd ``name` = NULL WHERE id BETWEEN %1$u AND %1$u + 9";
        break;
    case 2:
        fmt = "DELETE FROM t WHERE id = %u";
        break;
    case 3:
        fmt = "UPDATE t SET id = id + 1000 + %2$u * 10 WHERE id = %1$u";
        break;
    case 4:
        fmt = "INSERT INTO t (id, u) VALUES (%1$u, 'same') ON DUPLICATE KEY UPDATE f = %2$u / 4";
        break;
    case 5:
        fmt = "INSERT INTO other (x) VALUES (%u)";
        break;
    case 6:
        fmt = "UPDATE t SET u = concat('v', id, '-', %2$u) WHERE id %% 50 = %1$u %% 50";
        break;
    case 7:
        fmt = step % 900 == 7 ? "TRUNCATE TABLE other" : "DELETE FROM t WHERE id = %u + 1000";
        break;
    default:
        fmt = "REPLACE INTO t (id, u, r) VALUES (%1$u, 'r%1$u', %2$u), (%1$u + 1, 'r%1$u', %2$u)";
    }
    if (step % 11 == 0) {
        run(w->app, "START TRANSACTION");
        (void)snprintf(text, sizeof text, "INSERT IGNORE INTO t (id) VALUES (%u), (%u)",
                       5000 + step, 5001 + step);
        run(w->app, text);
        run(w->app, "SAVEPOINT a");
        run(w->app, "DELETE FROM t WHERE id < 20");
        run(w->app, "ROLLBACK TO SAVEPOINT a");
    }
    (void)snprintf(text, sizeof text, fmt, id, step, step);
    run(w->app, text);
    if (step % 11 == 0)
        run(w->app, step % 2 == 0 ? "COMMIT" : "ROLLBACK");
}

static void
state(void *world, struct fold *out)
{
    struct world *w = world;
    struct buf    row = {0};
    MYSQL_RES    *r;
    MYSQL_ROW     v;

    run(w->app, "SELECT id, json_quote(u), r, CAST(f AS DOUBLE), lower(hex(`odd ``name`)), twice "
                "FROM t");
    r = mysql_store_result(w->app);
    assert_non_null(r);
    while ((v = mysql_fetch_row(r)) != NULL) {
        buf_clear(&row);
        buf_printf(&row, "{\"id\":%s,\"u\":%s,", v[0], v[1] == NULL ? "null" : v[1]);
        buf_printf(&row, "\"r\":%s,", v[2] == NULL ? "null" : v[2]);
        if (v[3] == NULL)
            buf_add_str(&row, "\"f\":null,");
        else
            buf_printf(&row, "\"f\":%.9g,", (double)strtof(v[3], NULL));
        if (v[4] == NULL)
            buf_add_str(&row, "\"odd `name\":null,");
        else
            buf_printf(&row, "\"odd `name\":{\"$blob\":\"%s\"},", v[4]);
        buf_printf(&row, "\"twice\":%s}", v[5] == NULL ? "null" : v[5]);
        fold_put(out, slice_str(v[0]), buf_slice(&row));
    }
    mysql_free_result(r);
    buf_fini(&row);
}

const struct source_fixture source_fixture_mariadb = {"mariadb", setup, teardown, open_one,
                                                      mutate,    state, false};
