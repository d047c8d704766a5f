/* A table with a CHECK, which refuses some data for good; each world is a schema of its own. */
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "contract.h"
#include "env/env_real.h"
#include "sink/postgres/postgres.h"

struct world {
    char         schema[32], name[32];
    struct conf *conf;
    PGconn      *conn;
};

static PGresult *
run(struct world *w, const char *sql)
{
    PGresult *r = PQexec(w->conn, sql);

    if (PQresultStatus(r) != PGRES_COMMAND_OK && PQresultStatus(r) != PGRES_TUPLES_OK)
        fail_msg("%s", PQresultErrorMessage(r));
    return r;
}

static void *
setup(void)
{
    static unsigned made;
    struct world   *w = calloc(1, sizeof *w);
    const char     *url = contract_server("PGURL");
    char            sql[256];

    assert_non_null(w);
    (void)snprintf(w->schema, sizeof w->schema, "contract%u", made++);
    (void)snprintf(w->name, sizeof w->name, "%s", w->schema);
    w->conn = PQconnectdb(url);
    assert_int_equal(PQstatus(w->conn), CONNECTION_OK);
    (void)snprintf(sql, sizeof sql,
                   "CREATE SCHEMA %s; CREATE TABLE %s.t(\"the key\" int PRIMARY KEY, a text CHECK "
                   "(a <> 'bad'))",
                   w->schema, w->schema);
    PQclear(run(w, sql));
    w->conf = contract_conf(sink_postgres_ops.schema,
                            "url: %s\ntable: %s.t\nkey: the key\ncreate: true\n", url, w->schema);
    return w;
}

static void
teardown(void *world)
{
    struct world *w = world;

    PQfinish(w->conn);
    conf_free(w->conf);
    free(w);
}

static struct sink *
open_one(void *world)
{
    struct world *w = world;
    struct sink  *s;
    struct err    err;

    contract_ok(sink_new(env_real(), &sink_postgres_ops, w->name, w->conf, &s, &err), &err);
    return s;
}

static void
state(void *world, struct fold *out)
{
    struct world *w = world;
    PGresult     *r;
    char          sql[128];

    (void)snprintf(sql, sizeof sql,
                   "SELECT \"the key\", json_build_object('a', a, 'b', b) FROM %s.t", w->schema);
    r = run(w, sql);
    for (int i = 0; i < PQntuples(r); i++)
        fold_put(out, slice_str(PQgetvalue(r, i, 0)), slice_str(PQgetvalue(r, i, 1)));
    PQclear(r);
}

const struct sink_fixture sink_fixture_postgres = {"postgres", setup, teardown,
                                                   open_one,   state, "{\"a\":\"bad\",\"b\":1}"};
