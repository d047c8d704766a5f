/*
 * What the source needs at the server: looked at, set up, taken away. Nothing
 * is made that would harm the application: a table whose updates would fail
 * once they are published is refused before.
 */
#include <libpq-fe.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "source/postgres/postgres_int.h"

struct look {
    struct pg_source *s;
    finding_fn       *say;
    void             *arg;
    uint32_t          missing; /* what no prepare can set up */
};

static void tell(struct look *l, enum finding_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void
tell(struct look *l, enum finding_level level, const char *fmt, ...)
{
    char    text[ERR_TEXT_MAX];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    l->say(l->arg, level, text);
    l->missing += level == FINDING_MISSING;
}

/* the server */

static int
look_at_server(struct look *l, struct err *err)
{
    struct pg_source *s = l->s;
    PGresult         *r = NULL;
    const char       *level;
    int               rc;

    TRY(postgresi_need_query(s, err));
    TRY(postgresi_query(
        s, s->query,
        "SELECT current_setting('wal_level'), "
        "current_setting('max_replication_slots')::int > (SELECT count(*) FROM "
        "pg_catalog.pg_replication_slots), (SELECT rolsuper OR rolreplication FROM "
        "pg_catalog.pg_roles WHERE rolname = current_user), "
        "current_setting('max_slot_wal_keep_size', true), pg_catalog.pg_is_in_recovery()",
        &r, err));
    level = PQgetvalue(r, 0, 0);
    if (strcmp(level, "logical") == 0)
        tell(l, FINDING_OK, "PostgreSQL %d, wal_level is logical", s->version / 10000);
    else
        tell(l, FINDING_MISSING,
             "wal_level is %s: ALTER SYSTEM SET wal_level = logical, then restart", level);
    if (*PQgetvalue(r, 0, 2) != 't')
        tell(l, FINDING_MISSING, "the role may not replicate: ALTER ROLE … REPLICATION");
    if (*PQgetvalue(r, 0, 4) == 't')
        tell(l, FINDING_MISSING, "the server is a standby: capture from the primary");
    if (*PQgetvalue(r, 0, 1) != 't')
        tell(l, FINDING_WARN, "all slots of max_replication_slots are taken");
    if (strcmp(PQgetvalue(r, 0, 3), "-1") == 0)
        tell(
            l, FINDING_WARN,
            "max_slot_wal_keep_size is not set: while this source is not read the server keeps WAL "
            "without limit");
out:
    PQclear(r);
    return rc;
}

/* the tables */

/* Cells: persistence, kind, identity, has a primary key, identity's index is there, may select. */
static int
find_table(struct pg_source *s, const struct pg_want *w, PGresult **out, struct err *err)
{
    struct buf sql = {0};
    int        rc;

    buf_add_str(
        &sql, "SELECT c.relpersistence, c.relkind, c.relreplident, "
              "EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND "
              "i.indisprimary), EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid "
              "AND i.indisreplident), has_table_privilege(c.oid, 'SELECT') FROM "
              "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
              "WHERE n.nspname = ");
    postgresi_add_literal(s->query, &sql, w->schema);
    buf_add_str(&sql, " AND c.relname = ");
    postgresi_add_literal(s->query, &sql, w->name);
    TRY(postgresi_query_buf(s, s->query, &sql, out, err));
out:
    buf_fini(&sql);
    return rc;
}

static void
judge_identity(struct look *l, const struct pg_want *w, const PGresult *r)
{
    char identity = *PQgetvalue(r, 0, 2);
    bool primary = *PQgetvalue(r, 0, 3) == 't', index = *PQgetvalue(r, 0, 4) == 't';

    if (identity == 'f' && !primary && w->key == NULL)
        tell(l, FINDING_WARN,
             "table %s has no primary key: its changes go to one stream, and rows from before are "
             "not read; `key` names columns instead",
             w->table);
    else if (identity == 'f' || (identity == 'd' && primary) || (identity == 'i' && index))
        tell(l, FINDING_OK, "table %s: rows are named by %s", w->table,
             w->key != NULL    ? "`key`"
             : identity == 'i' ? "its replica identity's index"
                               : "the primary key");
    else
        tell(
            l, FINDING_MISSING,
            "table %s has no replica identity: once published, every UPDATE and DELETE of it would "
            "fail; give it a primary key, or ALTER TABLE %s REPLICA IDENTITY FULL",
            w->table, w->table);
}

static int
look_at_table(struct look *l, const struct pg_want *w, struct err *err)
{
    PGresult *r = NULL;
    int       rc;

    TRY(find_table(l->s, w, &r, err));
    if (PQntuples(r) == 0) {
        tell(l, FINDING_MISSING, "there is no table %s.%s", w->schema, w->name);
        goto out;
    }
    if (strchr("rp", *PQgetvalue(r, 0, 1)) == NULL || *PQgetvalue(r, 0, 0) != 'p') {
        tell(l, FINDING_MISSING, "%s is no logged table: its changes are not in the WAL", w->table);
        goto out;
    }
    if (*PQgetvalue(r, 0, 1) == 'p' && l->s->version < 130000)
        tell(l, FINDING_MISSING,
             "table %s is partitioned: PostgreSQL 12 does not publish it as one", w->table);
    if (l->s->snapshot && *PQgetvalue(r, 0, 5) != 't')
        tell(l, FINDING_MISSING, "the role may not read %s: GRANT SELECT ON %s TO …", w->table,
             w->table);
    judge_identity(l, w, r);
out:
    PQclear(r);
    return rc;
}

static int
look_at_all(struct look *l, struct err *err)
{
    int rc;

    TRY(look_at_server(l, err));
    for (uint32_t i = 0; i < l->s->want_count; i++)
        TRY(look_at_table(l, &l->s->wants[i], err));
out:
    return rc;
}

/* publication and slot */

/* *there, and in *lacks how many of the wanted tables it does not publish; names as SQL. */
static int
look_at_publication(struct look *l, bool *there, uint32_t *lacks, struct buf *names,
                    struct err *err)
{
    struct pg_source *s = l->s;
    struct buf        sql = {0};
    PGresult         *r = NULL;
    int               rc = 0;

    *lacks = 0;
    *there = false;
    if (s->want_count == 0) {
        buf_add_str(&sql, "SELECT FROM pg_catalog.pg_publication WHERE pubname = ");
        postgresi_add_literal(s->query, &sql, s->publication);
        TRY(postgresi_query_buf(s, s->query, &sql, &r, err));
        *there = PQntuples(r) > 0;
    }
    for (uint32_t i = 0; i < s->want_count; i++) {
        const struct pg_want *w = &s->wants[i];

        buf_clear(&sql);
        PQclear(r);
        r = NULL;
        buf_add_str(&sql,
                    "SELECT (SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM "
                    "pg_catalog.pg_publication WHERE pubname = p), EXISTS (SELECT FROM "
                    "pg_catalog.pg_publication_tables WHERE pubname = p AND schemaname = ");
        postgresi_add_literal(s->query, &sql, w->schema);
        buf_add_str(&sql, " AND tablename = ");
        postgresi_add_literal(s->query, &sql, w->name);
        buf_add_str(&sql, ") FROM (SELECT ");
        postgresi_add_literal(s->query, &sql, s->publication);
        buf_add_str(&sql, "::name AS p) AS x");
        TRY(postgresi_query_buf(s, s->query, &sql, &r, err));
        *there = PQgetisnull(r, 0, 0) == 0;
        if (*there && i == 0 && *PQgetvalue(r, 0, 0) != 't')
            tell(l, FINDING_WARN, "the publication %s does not publish all kinds of changes",
                 s->publication);
        if (*PQgetvalue(r, 0, 1) == 't')
            continue;
        buf_add_str(names, *lacks == 0 ? "" : ", ");
        postgresi_add_name(s->query, names, w->schema);
        buf_add_byte(names, '.');
        postgresi_add_name(s->query, names, w->name);
        (*lacks)++;
    }
out:
    PQclear(r);
    buf_fini(&sql);
    return rc;
}

enum slot_state {
    SLOT_NONE,
    SLOT_OTHER, /* of another plugin */
    SLOT_LOST,
    SLOT_THERE,
};

static int
look_at_slot(struct pg_source *s, enum slot_state *out, struct err *err)
{
    struct buf sql = {0};
    PGresult  *r = NULL;
    int        rc;

    buf_printf(&sql, "SELECT plugin, %s FROM pg_catalog.pg_replication_slots WHERE slot_name = ",
               s->version >= 130000 ? "wal_status" : "''");
    postgresi_add_literal(s->query, &sql, s->slot);
    TRY(postgresi_query_buf(s, s->query, &sql, &r, err));
    if (PQntuples(r) == 0)
        *out = SLOT_NONE;
    else if (strcmp(PQgetvalue(r, 0, 0), "pgoutput") != 0)
        *out = SLOT_OTHER;
    else
        *out = strcmp(PQgetvalue(r, 0, 1), "lost") == 0 ? SLOT_LOST : SLOT_THERE;
out:
    PQclear(r);
    buf_fini(&sql);
    return rc;
}

int
postgresi_check(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    struct pg_source *s = (struct pg_source *)base;
    struct look       l = {s, say, arg, 0};
    struct buf        names = {0};
    enum slot_state   slot;
    uint32_t          lacks;
    bool              there;
    int               rc;

    TRY(look_at_all(&l, err));
    TRY(look_at_publication(&l, &there, &lacks, &names, err));
    if (!there || lacks > 0)
        tell(&l, FINDING_MISSING, "the publication %s %s: run `oxbow source prepare %s`",
             s->publication, there ? "lacks tables" : "is not there", base->instance);
    else
        tell(&l, FINDING_OK, "the publication %s has all tables", s->publication);
    TRY(look_at_slot(s, &slot, err));
    if (slot == SLOT_THERE)
        tell(&l, FINDING_OK, "the slot %s is there", s->slot);
    else if (slot == SLOT_NONE)
        tell(&l, FINDING_MISSING, "there is no slot %s: run `oxbow source prepare %s`", s->slot,
             base->instance);
    else
        tell(&l, FINDING_MISSING,
             slot == SLOT_LOST ? "the slot %s is lost: the server removed the WAL that it needs"
                               : "the slot %s is one of another plugin than pgoutput",
             s->slot);
out:
    buf_fini(&names);
    return rc;
}

static int
make_publication(struct look *l, bool dry_run, struct err *err)
{
    struct pg_source *s = l->s;
    struct buf        names = {0}, sql = {0};
    uint32_t          lacks;
    bool              there;
    int               rc;

    TRY(look_at_publication(l, &there, &lacks, &names, err));
    if (there && lacks == 0) {
        tell(l, FINDING_OK, "the publication %s has all tables already", s->publication);
        goto out;
    }
    buf_add_str(&sql, there ? "ALTER PUBLICATION " : "CREATE PUBLICATION ");
    postgresi_add_name(s->query, &sql, s->publication);
    if (lacks > 0)
        buf_add_str(&sql, there ? " ADD TABLE " : " FOR TABLE ");
    buf_add_slice(&sql, buf_slice(&names));
    if (!there && s->version >= 130000)
        buf_add_str(&sql, " WITH (publish_via_partition_root = true)");
    if (sql.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    tell(l, FINDING_OK, "%s%.*s", dry_run ? "would run: " : "", SLICE_FMT(buf_slice(&sql)));
    if (!dry_run)
        TRY(postgresi_query_buf(s, s->query, &sql, NULL, err));
out:
    buf_fini(&names);
    buf_fini(&sql);
    return rc;
}

/* A slot waits for all transactions that run while it is made: who they are. */
static void
name_blockers(struct look *l)
{
    static const char sql[] =
        "SELECT 'prepared transaction ' || gid FROM pg_catalog.pg_prepared_xacts UNION ALL "
        "SELECT 'process ' || pid || ', ' || state || ' since ' || date_trunc('second', "
        "xact_start) "
        "FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> "
        "pg_catalog.pg_backend_pid() LIMIT 5";
    PGresult *r = NULL;

    if (postgresi_query(l->s, l->s->query, sql, &r, NULL) == 0)
        for (int i = 0; i < PQntuples(r); i++)
            tell(l, FINDING_WARN, "the slot waits for %s", PQgetvalue(r, i, 0));
    PQclear(r);
}

static int
make_slot(struct look *l, bool dry_run, struct err *err)
{
    struct pg_source *s = l->s;
    struct buf        sql = {0};
    enum slot_state   slot;
    int               rc;

    TRY(look_at_slot(s, &slot, err));
    if (slot == SLOT_THERE) {
        tell(l, FINDING_OK, "the slot %s is there already", s->slot);
        goto out;
    }
    if (slot != SLOT_NONE)
        FAIL(err, E_STATE, ERR_FATAL, "the slot %s is %s; run `oxbow source unprepare %s` first",
             s->slot, slot == SLOT_LOST ? "lost" : "one of another plugin", s->base.instance);
    tell(l, FINDING_OK, "%s the slot %s, plugin pgoutput", dry_run ? "would make" : "making",
         s->slot);
    if (dry_run)
        goto out;
    buf_add_str(&sql, "SELECT pg_catalog.pg_create_logical_replication_slot(");
    postgresi_add_literal(s->query, &sql, s->slot);
    buf_add_str(&sql, ", 'pgoutput', false");
    if (s->failover && s->version >= 170000)
        buf_add_str(&sql, ", false, true"); /* two_phase, failover */
    buf_add_byte(&sql, ')');
    rc = postgresi_query_buf(s, s->query, &sql, NULL, err);
    if (rc != 0)
        name_blockers(l);
out:
    buf_fini(&sql);
    return rc;
}

int
postgresi_prepare(struct source *base, bool dry_run, finding_fn *say, void *arg, struct err *err)
{
    struct pg_source *s = (struct pg_source *)base;
    struct look       l = {s, say, arg, 0};
    int               rc;

    TRY(look_at_all(&l, err));
    if (s->failover && s->version < 170000)
        tell(&l, FINDING_MISSING, "`failover` needs PostgreSQL 17; this is %d", s->version / 10000);
    if (s->two_phase && s->version < 150000)
        tell(&l, FINDING_MISSING, "`two_phase` needs PostgreSQL 15; this is %d",
             s->version / 10000);
    if (l.missing > 0)
        FAIL(err, E_STATE, ERR_FATAL,
             "source %s: nothing was made: %u of the above to set right first", base->instance,
             l.missing);
    /* The publication first: a slot never gets past the point where one is missing. */
    TRY(make_publication(&l, dry_run, err));
    TRY(make_slot(&l, dry_run, err));
out:
    return rc;
}

int
postgresi_unprepare(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    struct pg_source *s = (struct pg_source *)base;
    struct look       l = {s, say, arg, 0};
    struct buf        sql = {0};
    enum slot_state   slot;
    int               rc;

    TRY(postgresi_need_query(s, err));
    TRY(look_at_slot(s, &slot, err));
    if (slot == SLOT_NONE || slot == SLOT_OTHER) {
        tell(&l, FINDING_OK, "there is no slot %s of ours", s->slot);
    } else {
        buf_add_str(&sql, "SELECT pg_catalog.pg_drop_replication_slot(");
        postgresi_add_literal(s->query, &sql, s->slot);
        buf_add_byte(&sql, ')');
        TRY(postgresi_query_buf(s, s->query, &sql, NULL, err));
        tell(&l, FINDING_OK, "the slot %s is gone", s->slot);
    }
    if (s->own_publication) {
        buf_clear(&sql);
        buf_add_str(&sql, "DROP PUBLICATION IF EXISTS ");
        postgresi_add_name(s->query, &sql, s->publication);
        TRY(postgresi_query_buf(s, s->query, &sql, NULL, err));
        tell(&l, FINDING_OK, "the publication %s is gone", s->publication);
    }
out:
    buf_fini(&sql);
    return rc;
}
