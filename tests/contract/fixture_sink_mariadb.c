/* A table with a CHECK, which refuses some data for good; each world is a database of its own. */
#include <mysql.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "contract.h"
#include "env/env_real.h"
#include "sink/mariadb/mariadb.h"

struct world {
    char         database[32];
    struct conf *conf;
    MYSQL       *conn;
};

static void
run(struct world *w, const char *sql)
{
    if (mysql_query(w->conn, sql) != 0)
        fail_msg("%s", mysql_error(w->conn));
}

static void *
setup(void)
{
    static unsigned made;
    struct world   *w = calloc(1, sizeof *w);
    unsigned        port = (unsigned)strtoul(contract_server("MARIADB_PORT"), NULL, 10);
    char            sql[256];

    assert_non_null(w);
    (void)snprintf(w->database, sizeof w->database, "contract%u", made++);
    w->conn = mysql_init(NULL);
    assert_non_null(mysql_real_connect(w->conn, "127.0.0.1", "root", NULL, NULL, port, NULL, 0));
    (void)snprintf(sql, sizeof sql, "CREATE DATABASE %s", w->database);
    run(w, sql);
    (void)snprintf(sql, sizeof sql,
                   "CREATE TABLE %s.t(`the key` INT PRIMARY KEY, a TEXT CHECK (a <> 'bad')) ENGINE "
                   "= InnoDB DEFAULT CHARSET = utf8mb4",
                   w->database);
    run(w, sql);
    w->conf =
        contract_conf(sink_mariadb_ops.schema,
                      "url: mariadb://root@127.0.0.1:%u/%s\ntable: t\nkey: the key\ncreate: true\n",
                      port, w->database);
    return w;
}

static void
teardown(void *world)
{
    struct world *w = world;

    mysql_close(w->conn);
    conf_free(w->conf);
    free(w);
}

static struct sink *
open_one(void *world)
{
    struct world *w = world;
    struct sink  *s;
    struct err    err;

    contract_ok(sink_new(env_real(), &sink_mariadb_ops, w->database, w->conf, &s, &err), &err);
    return s;
}

static void
state(void *world, struct fold *out)
{
    struct world *w = world;
    MYSQL_RES    *rows;
    MYSQL_ROW     row;
    char          sql[128];

    (void)snprintf(sql, sizeof sql, "SELECT `the key`, JSON_OBJECT('a', a, 'b', b) FROM %s.t",
                   w->database);
    run(w, sql);
    rows = mysql_store_result(w->conn);
    assert_non_null(rows);
    while ((row = mysql_fetch_row(rows)) != NULL)
        fold_put(out, slice_str(row[0]), slice_str(row[1]));
    mysql_free_result(rows);
}

const struct sink_fixture sink_fixture_mariadb = {"mariadb", setup, teardown,
                                                  open_one,  state, "{\"a\":\"bad\",\"b\":1}"};
