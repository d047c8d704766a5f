/* oxbow outbox sql --for DATABASE: what an application's database is given, to be copied. */
#include <string.h>

#include "cli/cli_int.h"

static const char postgres_sql[] =
    "-- An outbox: the message is written in the transaction that makes it true.\n"
    "-- xid and seq give polled rows their order (`type: outbox-postgres` with `xid: xid`);\n"
    "-- from the WAL (`type: postgres` with `outbox`) they are not needed.\n"
    "CREATE TABLE outbox (\n"
    "  id            uuid         PRIMARY KEY DEFAULT gen_random_uuid(),\n"
    "  aggregatetype varchar(255) NOT NULL,\n"
    "  aggregateid   varchar(255) NOT NULL,\n"
    "  type          varchar(255) NOT NULL,\n"
    "  payload       jsonb,\n"
    "  headers       jsonb,\n"
    "  xid           xid8         NOT NULL DEFAULT pg_current_xact_id(),\n"
    "  seq           bigint       NOT NULL GENERATED ALWAYS AS IDENTITY,\n"
    "  sent_at       timestamptz\n"
    ");\n"
    "CREATE INDEX outbox_order ON outbox (xid, seq);\n"
    "-- For `after: mark` instead: CREATE INDEX outbox_unsent ON outbox (xid, seq) WHERE sent_at "
    "IS "
    "NULL;\n"
    "\n"
    "-- Wakes whoever polls, once a transaction.\n"
    "CREATE FUNCTION outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$\n"
    "BEGIN\n"
    "  NOTIFY oxbow_outbox;\n"
    "  RETURN NULL;\n"
    "END $$;\n"
    "CREATE TRIGGER outbox_notify AFTER INSERT ON outbox\n"
    "  FOR EACH STATEMENT EXECUTE FUNCTION outbox_notify();\n"
    "\n"
    "-- The insert. Lock the aggregate's row first, and its events stand in its order.\n"
    "-- INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers)\n"
    "--   VALUES ('order', '42', 'OrderPlaced', '{\"total\": 12.50}', '{\"traceparent\": "
    "\"…\"}');\n"
    "\n"
    "-- Without a table (`outbox: {message: outbox}` and `messages: true`):\n"
    "-- SELECT pg_logical_emit_message(true, 'outbox', json_build_object('id', "
    "gen_random_uuid(),\n"
    "--   'aggregatetype', 'order', 'aggregateid', '42', 'type', 'OrderPlaced',\n"
    "--   'payload', '{\"total\": 12.50}'::json)::text);\n"
    "\n"
    "-- For messages that are published before their transaction ends (`type: "
    "verify-postgres`).\n"
    "-- Run this part as a superuser, or as a member of pg_read_all_stats.\n"
    "CREATE TABLE oxbow_proof (\n"
    "  id text        PRIMARY KEY,\n"
    "  at timestamptz NOT NULL DEFAULT now()\n"
    ");\n"
    "-- Which cluster, and which life of it: transaction ids that were not on the disk are used\n"
    "-- again after a crash, and the checkpointer is a new one then.\n"
    "CREATE FUNCTION oxbow_lifetime() RETURNS text\n"
    "  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$\n"
    "  SELECT (SELECT system_identifier FROM pg_control_system()) || '/' ||\n"
    "         (SELECT (extract(epoch FROM backend_start) * 1000000)::bigint\n"
    "            FROM pg_stat_activity WHERE backend_type = 'checkpointer')\n"
    "$$;\n"
    "-- The token of a message: in its transaction, before it is published.\n"
    "CREATE FUNCTION oxbow_token(message_id text) RETURNS text LANGUAGE plpgsql AS $$\n"
    "BEGIN\n"
    "  INSERT INTO oxbow_proof (id) VALUES (message_id);\n"
    "  RETURN oxbow_lifetime() || '/' || pg_current_xact_id();\n"
    "END $$;\n";

static const char mariadb_sql[] =
    "-- An outbox: the message is written in the transaction that makes it true.\n"
    "CREATE TABLE outbox (\n"
    "  id            uuid         NOT NULL DEFAULT uuid() PRIMARY KEY,\n"
    "  aggregatetype varchar(255) NOT NULL,\n"
    "  aggregateid   varchar(255) NOT NULL,\n"
    "  type          varchar(255) NOT NULL,\n"
    "  payload       json,\n"
    "  headers       json,\n"
    "  sent_at       datetime(6),\n"
    "  KEY outbox_unsent (sent_at)\n"
    ") ENGINE=InnoDB;\n"
    "\n"
    "-- The insert.\n"
    "-- INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers)\n"
    "--   VALUES ('order', '42', 'OrderPlaced', '{\"total\": 12.50}', '{\"traceparent\": "
    "\"…\"}');\n"
    "\n"
    "-- For messages that are published before their transaction ends (`type: "
    "verify-mariadb`):\n"
    "-- insert the proof in that transaction, and publish only after the insert.\n"
    "CREATE TABLE oxbow_proof (\n"
    "  id varchar(64) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,\n"
    "  at timestamp NOT NULL DEFAULT current_timestamp()\n"
    ") ENGINE=InnoDB;\n"
    "-- INSERT INTO oxbow_proof (id) VALUES ('the message''s id');\n";

static const char sqlite_sql[] =
    "-- An outbox: the message is written in the transaction that makes it true.\n"
    "CREATE TABLE outbox (\n"
    "  id            TEXT NOT NULL UNIQUE,\n"
    "  aggregatetype TEXT NOT NULL,\n"
    "  aggregateid   TEXT NOT NULL,\n"
    "  type          TEXT NOT NULL,\n"
    "  payload       TEXT,\n"
    "  headers       TEXT,\n"
    "  sent_at       TEXT\n"
    ");\n"
    "CREATE INDEX outbox_unsent ON outbox (sent_at) WHERE sent_at IS NULL;\n"
    "\n"
    "-- The insert; id is a UUID, or whatever else names the message.\n"
    "-- INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, headers)\n"
    "--   VALUES (?, 'order', '42', 'OrderPlaced', '{\"total\": 12.50}', "
    "'{\"traceparent\": \"…\"}');\n"
    "\n"
    "-- For messages that are published before their transaction ends (`type: "
    "verify-sqlite`):\n"
    "-- insert the proof in that transaction, and publish only after the insert.\n"
    "CREATE TABLE oxbow_proof (\n"
    "  id TEXT PRIMARY KEY,\n"
    "  at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))\n"
    ");\n"
    "-- INSERT INTO oxbow_proof (id) VALUES (?);\n";

int
clii_outbox_sql(struct cli *c, struct err *err)
{
    const char *database = c->opt[OPT_FOR] == NULL ? "" : c->opt[OPT_FOR];

    if (strcmp(database, "postgres") == 0)
        clii_put_str(c, postgres_sql);
    else if (strcmp(database, "mariadb") == 0)
        clii_put_str(c, mariadb_sql);
    else if (strcmp(database, "sqlite") == 0)
        clii_put_str(c, sqlite_sql);
    else
        RETURN_ERR(err, E_USAGE, ERR_DATA, "outbox sql: --for must be postgres, mariadb or sqlite");
    return 0;
}
