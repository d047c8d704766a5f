/*
 * The schema, looked at whenever SQLite says that it is another one, in the
 * same transaction as the changes: what was recorded under a schema is never
 * read under another.
 */
#include <sqlite3.h>
#include <stdlib.h>

#include "source/sqlite/sqlite_int.h"

void
sqlitei_schema_forget(struct sqlitei_source *s)
{
    s->verified = false;
    (void)sqlite3_finalize(s->select);
    s->select = NULL;
    for (uint32_t i = 0; i < s->want_count; i++)
        sqlitei_capture_fini(&s->plans[i]);
    for (uint32_t i = 0; i < s->old_count; i++)
        sqlitei_capture_fini(&s->olds[i]);
    s->old_count = 0;
}

static int
judge(struct sqlitei_source *s, uint32_t at, bool *refresh, struct err *err)
{
    enum sqlitei_verdict verdict;
    struct err           why;
    const char          *name = s->wants[at].name;
    int                  rc;

    rc = sqlitei_capture_plan(s->db, &s->wants[at], &s->plans[at], err);
    if (rc == E_NOTFOUND || rc == E_SCHEMA) {
        err_prefix(
            err,
            "source %s: changes of %s after %lld may be missing; put it right and run `oxbow "
            "source prepare %s`, which takes a new snapshot",
            s->base.instance, name, (long long)s->place.seq, s->base.instance);
        goto out;
    }
    TRY(rc);
    TRY(sqlitei_capture_judge(s->db, &s->plans[at], &verdict, &why, err));
    switch (verdict) {
    case CAPTURE_SAME:
        break;
    case CAPTURE_CHANGED:
        *refresh = true;
        break;
    case CAPTURE_NEW:
        FAIL(err, E_STATE, ERR_FATAL,
             "source %s: table %s is not prepared; run `oxbow source "
             "prepare %s`",
             s->base.instance, name, s->base.instance);
    case CAPTURE_BROKEN:
        FAIL(err, why.code, ERR_FATAL,
             "source %s: %s: its changes after %lld may be missing; run `oxbow source prepare %s`, "
             "which takes a new snapshot of it",
             s->base.instance, why.text, (long long)s->place.seq, s->base.instance);
    }
out:
    return rc;
}

/* The statement that reads changes; its columns are seq, tbl, op, origin, at, b0…, a0… */
static int
prepare_select(struct sqlitei_source *s, struct err *err)
{
    struct buf text = {0};
    int64_t    width;
    int        rc;

    TRY(sql_number(s->db, 0, &width, err,
                   "SELECT count(*) FROM pragma_table_info('oxbow_changes') "
                   "WHERE name GLOB 'b[0-9]*'"));
    s->width = (uint32_t)width;
    buf_add_str(&text, "SELECT seq, tbl, op, origin, at");
    for (uint32_t i = 0; i < s->width; i++)
        sql_add(&text, ", b%u", i);
    for (uint32_t i = 0; i < s->width; i++)
        sql_add(&text, ", a%u", i);
    buf_add_str(&text, " FROM oxbow_changes WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(sql_prepare_text(s->db, buf_slice(&text), &s->select, err));
out:
    buf_fini(&text);
    return rc;
}

static int
read_feed_id(struct sqlitei_source *s, struct err *err)
{
    struct sqlite3_stmt *stmt = NULL;
    struct slice         id;
    bool                 row;
    int                  rc;

    TRY(sql_prepare(s->db, &stmt, err, "SELECT id FROM oxbow_feed"));
    TRY(sql_step(stmt, &row, err));
    id = row ? sql_column_slice(stmt, 0) : slice_str("");
    if (id.len == 0 || id.len >= sizeof s->feed)
        FAIL(err, E_DAMAGED, ERR_FATAL, "%s: oxbow_feed has no id", s->path);
    if (s->feed[0] != '\0' && !slice_is(id, s->feed))
        FAIL(err, E_STATE, ERR_FATAL,
             "source %s: the change table was made anew after change %lld, and changes between are "
             "unknown; to go on with a new snapshot set `feed: %.*s`",
             s->base.instance, (long long)s->place.seq, SLICE_FMT(id));
    memcpy(s->feed, id.data, id.len);
    s->feed[id.len] = '\0';
out:
    (void)sqlite3_finalize(stmt);
    return rc;
}

int
sqlitei_schema_check(struct sqlitei_source *s, bool *refresh, struct err *err)
{
    int64_t version;
    bool    there;
    int     rc;

    *refresh = false;
    TRY(sql_number(s->db, 0, &version, err, "PRAGMA schema_version"));
    if (s->verified && version == s->schema)
        return 0;
    sqlitei_schema_forget(s);
    TRY(sqlitei_feed_there(s->db, &there, err));
    if (!there)
        FAIL(err, E_STATE, ERR_FATAL,
             "source %s: %s has no change table; run `oxbow source prepare "
             "%s`",
             s->base.instance, s->path, s->base.instance);
    TRY(read_feed_id(s, err));
    for (uint32_t i = 0; i < s->want_count; i++)
        TRY(judge(s, i, refresh, err));
    TRY(prepare_select(s, err));
    s->schema = version;
    s->verified = !*refresh;
out:
    if (rc != 0)
        sqlitei_schema_forget(s);
    return rc;
}

int
sqlitei_schema_refresh(struct sqlitei_source *s, struct err *err)
{
    enum sqlitei_verdict verdict;
    struct err           why;
    int                  rc;

    sqlitei_schema_forget(s);
    TRY(sql_begin_write(s->db, err));
    for (uint32_t i = 0; i < s->want_count; i++) {
        TRY(sqlitei_capture_plan(s->db, &s->wants[i], &s->plans[i], err));
        TRY(sqlitei_capture_judge(s->db, &s->plans[i], &verdict, &why, err));
        if (verdict == CAPTURE_CHANGED)
            TRY(sqlitei_capture_install(s->db, &s->plans[i], err));
    }
    TRY(sql_commit(s->db, err));
out:
    if (rc != 0)
        sql_rollback(s->db);
    sqlitei_schema_forget(s);
    return rc;
}
