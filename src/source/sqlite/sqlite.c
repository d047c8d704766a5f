/*
 * The source `sqlite`. Nothing is kept outside of the application's database
 * and the checkpoint: an instance that is abandoned at any point is replaced by
 * a new one that starts from the last durable checkpoint.
 */
#include "source/sqlite/sqlite.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/conf.h"
#include "base/json.h"
#include "source/sqlite/sqlite_int.h"

#define BUSY_MS 800
#define BATCH_BYTES_MAX ((size_t)1 << 30)
#define TRIM_ROWS 500    /* confirmed changes are deleted when there are so many … */
#define TRIM_US 1000000U /* … or after so long */
#define TRIM_CHUNK 1000
#define TRIM_CHUNKS_MAX 8
#define TRIM_BUSY_MS 20
#define NAP_US 2000U       /* between looks for a commit, soon after the last one … */
#define NAP_LONG_US 10000U /* … and when it has been quiet */
#define QUIET_US 200000U

static const struct conf_type name_type = {.kind = CONF_STRING, .min = 1, .max = 200};

static const struct conf_field table_fields[] = {
    {.name = "name",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},
     .required = true,
     .doc = "the table"},
    {.name = "columns",
     .type = {.kind = CONF_LIST, .of = &name_type, .min = 1, .max = 900},
     .doc = "which columns to capture; all when not given; the key always is"},
    {.name = "key",
     .type = {.kind = CONF_LIST, .of = &name_type, .min = 1, .max = 32},
     .doc = "columns of a UNIQUE NOT NULL key to use instead of the primary key"},
    {0},
};

static const struct conf_type table_type = {.kind = CONF_OBJECT, .fields = table_fields};

static const struct conf_field fields[] = {
    {.name = "path",
     .type = {.kind = CONF_PATH, .min = 1},
     .required = true,
     .doc = "the database file"},
    {.name = "tables",
     .type = {.kind = CONF_LIST, .of = &table_type, .min = 1, .max = SQLITEI_TABLES_MAX},
     .required = true,
     .doc = "which tables to capture"},
    {.name = "snapshot",
     .type = {.kind = CONF_BOOL},
     .preset = "true",
     .doc = "whether to read the rows that are there already"},
    {.name = "feed",
     .type = {.kind = CONF_STRING, .max = 31},
     .doc = "accepts a change table that was made anew, by the id that the refusal names"},
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct sqlitei_source *
mine(struct source *s)
{
    return (struct sqlitei_source *)s;
}

static int
take_names(const struct conf *list, const char ***out, uint32_t *count, struct err *err)
{
    const struct conf *c;

    if (conf_count(list) == 0)
        return 0;
    *out = calloc(conf_count(list), sizeof **out);
    if (*out == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (c = conf_first(list); c != NULL; c = conf_next(c))
        (*out)[(*count)++] = conf_text(c);
    return 0;
}

static int
take_conf(struct sqlitei_source *s, const struct conf *conf, struct err *err)
{
    const struct conf *tables = conf_child(conf, "tables"), *c;
    size_t             count = conf_count(tables);
    int                rc = 0;

    s->path = conf_str(conf, "path");
    s->snapshot = conf_bool(conf, "snapshot");
    s->accept = conf_str(conf, "feed");
    s->wants = calloc(count, sizeof s->wants[0]);
    s->plans = calloc(count, sizeof s->plans[0]);
    s->olds = calloc(64, sizeof s->olds[0]);
    if (s->wants == NULL || s->plans == NULL || s->olds == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (c = conf_first(tables); c != NULL; c = conf_next(c)) {
        struct sqlitei_want *w = &s->wants[s->want_count++];

        w->name = conf_str(c, "name");
        TRY(take_names(conf_child(c, "columns"), &w->columns, &w->column_count, err));
        TRY(take_names(conf_child(c, "key"), &w->key, &w->key_count, err));
        for (uint32_t i = 0; i + 1 < s->want_count; i++) {
            if (sqlite3_stricmp(s->wants[i].name, w->name) == 0)
                TRY(conf_fail(c, err, "table %s is named twice", w->name));
        }
    }
    TRY(sqlitei_place_init(&s->place, s->want_count, err));
    TRY(sqlitei_place_init(&s->next, s->want_count, err));
out:
    return rc;
}

static int
inode_of(const struct sqlitei_source *s, uint64_t *out, struct err *err)
{
    struct stat st;

    if (stat(s->path, &st) != 0)
        RETURN_ERR(err, E_NOTFOUND, ERR_FATAL, "%s: the database file is gone", s->path);
    *out = st.st_ino;
    return 0;
}

static void
close_source(struct source *base)
{
    struct sqlitei_source *s = mine(base);

    if (s->plans != NULL && s->olds != NULL)
        sqlitei_schema_forget(s);
    sql_close(s->db);
    for (uint32_t i = 0; i < s->want_count; i++) {
        free(s->wants[i].columns);
        free(s->wants[i].key);
    }
    free(s->wants);
    free(s->plans);
    free(s->olds);
    free(s->changes);
    free(s->drafts);
    sqlitei_place_fini(&s->place);
    sqlitei_place_fini(&s->next);
    buf_fini(&s->bytes);
    buf_fini(&s->checkpoint);
}

static int
open_source(struct source *base, const struct conf *conf, struct err *err)
{
    struct sqlitei_source *s = mine(base);
    int                    rc;

    buf_init(&s->bytes, BATCH_BYTES_MAX);
    TRY(take_conf(s, conf, err));
    TRY(sql_open(s->path, SQL_WRITE, BUSY_MS, &s->db, err));
    TRY(inode_of(s, &s->file, err));
    /* All that this connection writes is bookkeeping that may be lost. It leaves checkpoints of
     * the WAL, which cost time, to others. */
    TRY(sql_run(s->db, err, "PRAGMA synchronous = NORMAL"));
    TRY(sql_run(s->db, err, "PRAGMA wal_autocheckpoint = 0"));
out:
    if (rc != 0)
        close_source(base);
    return rc;
}

static int
check_table(struct sqlitei_source *s, uint32_t at, finding_fn *say, void *arg, struct err *err)
{
    struct sqlitei_capture plan = {0};
    enum sqlitei_verdict   verdict;
    struct err             why;
    char                   text[ERR_TEXT_MAX + 64];
    int                    rc;

    rc = sqlitei_capture_plan(s->db, &s->wants[at], &plan, err);
    if (rc != 0 && err->kind == ERR_FATAL) {
        say(arg, FINDING_MISSING, err->text);
        err_clear(err);
        return 0;
    }
    TRY(rc);
    TRY(sqlitei_capture_judge(s->db, &plan, &verdict, &why, err));
    if (verdict == CAPTURE_SAME)
        (void)snprintf(text, sizeof text, "table %s is captured", plan.name);
    else if (verdict == CAPTURE_NEW)
        (void)snprintf(text, sizeof text, "table %s is not captured: run `oxbow source prepare %s`",
                       plan.name, s->base.instance);
    else
        (void)snprintf(text, sizeof text, "%s: run `oxbow source prepare %s`", why.text,
                       s->base.instance);
    say(arg, verdict == CAPTURE_SAME ? FINDING_OK : FINDING_MISSING, text);
out:
    sqlitei_capture_fini(&plan);
    return rc;
}

static int
check(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    struct sqlitei_source *s = mine(base);
    int64_t                wal;
    int                    rc;

    TRY(sql_begin_read(s->db, err));
    TRY(sql_number(s->db, 0, &wal, err, "SELECT journal_mode = 'wal' FROM pragma_journal_mode"));
    if (wal == 0)
        say(arg, FINDING_WARN, "the database is not in WAL mode: reading it makes writers wait");
    for (uint32_t i = 0; i < s->want_count; i++)
        TRY(check_table(s, i, say, arg, err));
out:
    sql_rollback(s->db);
    return rc;
}

static int
prepare_table(struct sqlitei_source *s, uint32_t at, finding_fn *say, void *arg, struct err *err)
{
    struct sqlitei_capture plan = {0};
    enum sqlitei_verdict   verdict;
    struct err             why;
    char                   text[ERR_TEXT_MAX + 160];
    int                    rc;

    TRY(sqlitei_capture_plan(s->db, &s->wants[at], &plan, err));
    TRY(sqlitei_capture_judge(s->db, &plan, &verdict, &why, err));
    if (verdict != CAPTURE_SAME)
        TRY(sqlitei_capture_install(s->db, &plan, err));
    if (verdict == CAPTURE_SAME)
        (void)snprintf(text, sizeof text, "table %s is captured already", plan.name);
    else if (verdict == CAPTURE_NEW)
        (void)snprintf(text, sizeof text, "table %s: five triggers record its changes", plan.name);
    else if (verdict == CAPTURE_CHANGED)
        (void)snprintf(text, sizeof text, "%s: captured anew, with a new snapshot", why.text);
    else
        (void)snprintf(text, sizeof text,
                       "%s: captured anew, with a new snapshot; rows deleted in between stay "
                       "unknown until they are verified",
                       why.text);
    say(arg, verdict == CAPTURE_BROKEN ? FINDING_WARN : FINDING_OK, text);
out:
    sqlitei_capture_fini(&plan);
    return rc;
}

static int
prepare(struct source *base, bool dry_run, finding_fn *say, void *arg, struct err *err)
{
    struct sqlitei_source *s = mine(base);
    int                    rc;

    TRY(sql_begin_write(s->db, err));
    TRY(sqlitei_feed_install(s->db, base->env, base->instance, err));
    for (uint32_t i = 0; i < s->want_count; i++)
        TRY(prepare_table(s, i, say, arg, err));
    if (!dry_run)
        TRY(sql_commit(s->db, err));
out:
    sql_rollback(s->db);
    s->verified = false;
    return rc;
}

static int
unprepare(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    struct sqlitei_source *s = mine(base);
    int64_t                readers;
    bool                   there;
    int                    rc;

    sqlitei_schema_forget(s);
    TRY(sql_begin_write(s->db, err));
    TRY(sqlitei_feed_there(s->db, &there, err));
    if (!there) {
        say(arg, FINDING_OK, "nothing was prepared");
        goto out;
    }
    for (uint32_t i = 0; i < s->want_count; i++)
        TRY(sqlitei_capture_remove(s->db, s->wants[i].name, err));
    TRY(sql_run(s->db, err, "DELETE FROM oxbow_readers WHERE name = %Q", base->instance));
    TRY(sql_number(s->db, 0, &readers, err, "SELECT count(*) FROM oxbow_readers"));
    if (readers == 0)
        TRY(sqlitei_feed_remove(s->db, err));
    TRY(sql_commit(s->db, err));
    say(arg, FINDING_OK,
        readers == 0 ? "triggers and change table are gone"
                     : "triggers are gone; the change table has other readers");
out:
    sql_rollback(s->db);
    return rc;
}

/* The feed's id that a checkpoint was made under, if it is not the one that the operator accepts.
 */
static void
take_feed(struct sqlitei_source *s, struct slice checkpoint)
{
    struct slice raw;

    if (json_get(checkpoint, "feed", &raw) && json_type(raw) == JSON_STRING &&
        raw.len - 2 < sizeof s->feed) {
        memcpy(s->feed, (const char *)raw.data + 1, raw.len - 2);
        s->feed[raw.len - 2] = '\0';
    }
}

static int
start_anew(struct sqlitei_source *s, struct err *err)
{
    int64_t seq;
    int     rc;

    TRY(sql_number(s->db, -1, &seq, err, "SELECT seq FROM oxbow_readers WHERE name = %Q",
                   s->base.instance));
    if (seq < 0)
        FAIL(err, E_STATE, ERR_FATAL, "source %s is not prepared; run `oxbow source prepare %s`",
             s->base.instance, s->base.instance);
    s->place.seq = seq;
out:
    return rc;
}

static int
start(struct source *base, struct slice checkpoint, struct err *err)
{
    struct sqlitei_source *s = mine(base);
    bool                   refresh, anew;
    int                    rc;

    sqlitei_schema_forget(s);
    sqlitei_place_fini(&s->place);
    TRY(sqlitei_place_init(&s->place, s->want_count, err));
    s->feed[0] = '\0';
    take_feed(s, checkpoint);
    anew = checkpoint.len == 0 || (s->accept != NULL && strcmp(s->accept, s->feed) != 0);
    if (anew)
        s->feed[0] = '\0';
    else
        TRY(sqlitei_place_read(s, checkpoint, err));
    TRY(sql_begin_read(s->db, err));
    TRY(sqlitei_schema_check(s, &refresh, err));
    if (anew && s->accept != NULL && strcmp(s->accept, s->feed) != 0)
        FAIL(err, E_STATE, ERR_FATAL,
             "source %s: `feed: %s` is not the change table's id, which is %s", base->instance,
             s->accept, s->feed);
    if (anew)
        TRY(start_anew(s, err));
    s->trimmed = s->place.seq;
    s->trimmed_us = base->env->ops->mono_us(base->env);
out:
    sql_rollback(s->db);
    return rc;
}

static int
make_room(struct sqlitei_source *s, uint32_t max, struct err *err)
{
    if (s->room >= max)
        return 0;
    free(s->changes);
    free(s->drafts);
    s->room = 0;
    s->changes = calloc(max, sizeof s->changes[0]);
    s->drafts = calloc(max, sizeof s->drafts[0]);
    if (s->changes == NULL || s->drafts == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    s->room = max;
    return 0;
}

/* One look: gathers into s->next, which becomes the place only when all went well. */
static int
look(struct sqlitei_source *s, uint32_t max, bool *caught_up, struct err *err)
{
    bool refresh = false;
    int  rc;

    s->count = 0;
    buf_clear(&s->bytes);
    *caught_up = false;
    TRY(sqlitei_place_copy(&s->next, &s->place, s->want_count, err));
    TRY(sql_begin_read(s->db, err));
    TRY(sqlitei_schema_check(s, &refresh, err));
    if (!refresh)
        TRY(sqlitei_read_batch(s, max, caught_up, err));
    sql_rollback(s->db);
    if (refresh)
        TRY(sqlitei_schema_refresh(s, err));
    else
        TRY(sqlitei_place_copy(&s->place, &s->next, s->want_count, err));
out:
    if (rc != 0) {
        if (s->select != NULL)
            (void)sqlite3_reset(s->select);
        sql_rollback(s->db);
    }
    return rc;
}

static struct slice
text_of(const struct sqlitei_source *s, struct sqlitei_span span)
{
    return span.len == 0 ? slice_of(NULL, 0) : slice_of(s->bytes.data + span.at, span.len);
}

static int
hand_out(struct sqlitei_source *s, bool caught_up, struct source_batch *batch, struct err *err)
{
    for (uint32_t i = 0; i < s->count; i++) {
        const struct sqlitei_draft *d = &s->drafts[i];

        s->changes[i] = (struct change){
            .op = d->op,
            .time_us = d->time_us,
            .table = text_of(s, d->table),
            .key = text_of(s, d->key),
            .before = text_of(s, d->before),
            .after = text_of(s, d->after),
            .origin = text_of(s, d->origin),
            .position = text_of(s, d->position),
        };
    }
    buf_clear(&s->checkpoint);
    sqlitei_place_write(s, &s->place, &s->checkpoint);
    if (s->checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    batch->changes = s->changes;
    batch->count = s->count;
    batch->checkpoint = buf_slice(&s->checkpoint);
    batch->caught_up = caught_up;
    return 0;
}

/* Until another connection has committed, or the time is over (false). */
static int
wait_for_commit(struct sqlitei_source *s, int64_t seen, uint64_t until, bool *more, struct err *err)
{
    struct ox_env *env = s->base.env;
    uint64_t       began = env->ops->mono_us(env), now = began;
    struct ox_gate never;
    uint64_t       inode;
    int64_t        version = seen;
    int            rc = 0;

    gate_init(&never);
    while (version == seen && now < until) {
        uint64_t nap = now - began < QUIET_US ? NAP_US : NAP_LONG_US;

        (void)env->ops->gate_wait(env, &never, nap < until - now ? nap : until - now);
        TRY(sql_number(s->db, 0, &version, err, "PRAGMA data_version"));
        now = env->ops->mono_us(env);
    }
    *more = version != seen;
    TRY(inode_of(s, &inode, err));
    if (inode != s->file)
        FAIL(err, E_STATE, ERR_FATAL, "%s: another file was put in its place", s->path);
out:
    return rc;
}

static int
poll_source(struct source *base, uint32_t max, uint32_t wait_ms, struct source_batch *batch,
            struct err *err)
{
    struct sqlitei_source *s = mine(base);
    uint64_t               until = base->env->ops->mono_us(base->env) + wait_ms * UINT64_C(1000);
    bool                   caught_up = false, more = true;
    int64_t                seen;
    int                    rc;

    max = max < 65536 ? max : 65536;
    TRY(make_room(s, max, err));
    while (more) {
        /* Taken before the look: a commit in between is noticed, once too often at worst. */
        TRY(sql_number(s->db, 0, &seen, err, "PRAGMA data_version"));
        TRY(look(s, max, &caught_up, err));
        if (s->count > 0)
            break;
        if (caught_up)
            TRY(wait_for_commit(s, seen, until, &more, err));
        else
            more = base->env->ops->mono_us(base->env) < until;
    }
    TRY(hand_out(s, caught_up, batch, err));
out:
    return rc;
}

/* One short transaction; *more: there is still something to delete. */
static int
trim_chunk(struct sqlitei_source *s, int64_t seq, bool *more, struct err *err)
{
    int rc;

    TRY(sql_begin_write(s->db, err));
    TRY(sql_run(s->db, err, "UPDATE oxbow_readers SET seq = %lld WHERE name = %Q AND seq < %lld",
                (long long)seq, s->base.instance, (long long)seq));
    TRY(sql_run(s->db, err,
                "DELETE FROM oxbow_changes WHERE seq <= (SELECT min(seq) FROM oxbow_readers) "
                "AND seq < (SELECT max(seq) FROM oxbow_changes) "
                "AND seq < (SELECT min(seq) FROM oxbow_changes) + %d",
                TRIM_CHUNK));
    *more = sqlite3_changes(s->db) == TRIM_CHUNK;
    /* No statement of the application is under way: these are left over, and mean nothing. */
    TRY(sql_run(s->db, err, "DELETE FROM oxbow_notes"));
    TRY(sql_commit(s->db, err));
out:
    sql_rollback(s->db);
    return rc;
}

/* Never makes the application wait: where it is busy the next confirm tries again. */
static int
confirm(struct source *base, struct slice checkpoint, struct err *err)
{
    struct sqlitei_source *s = mine(base);
    uint64_t               now = base->env->ops->mono_us(base->env);
    bool                   more = true;
    int64_t                seq;
    int                    rc;

    TRY(sqlitei_place_seq(checkpoint, &seq, err));
    if (seq <= s->trimmed || (seq - s->trimmed < TRIM_ROWS && now - s->trimmed_us < TRIM_US))
        return 0;
    (void)sqlite3_busy_timeout(s->db, TRIM_BUSY_MS);
    for (int i = 0; i < TRIM_CHUNKS_MAX && rc == 0 && more; i++)
        rc = trim_chunk(s, seq, &more, err);
    (void)sqlite3_busy_timeout(s->db, BUSY_MS);
    if (rc == 0) {
        s->trimmed = more ? s->trimmed : seq;
        s->trimmed_us = now;
    } else if (rc == E_BUSY) {
        err_clear(err);
        rc = 0;
    }
out:
    return rc;
}

static int
status(struct source *base, struct buf *out, struct err *err)
{
    struct sqlitei_source *s = mine(base);
    struct json_out        o;
    int64_t                head = 0, first = 0;
    int                    rc;

    TRY(sql_number(s->db, 0, &head, err, "SELECT max(seq) FROM oxbow_changes"));
    TRY(sql_number(s->db, 0, &first, err, "SELECT min(seq) FROM oxbow_changes"));
    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "seq");
    json_out_i64(&o, s->place.seq);
    json_out_key(&o, "head");
    json_out_i64(&o, head);
    json_out_key(&o, "behind");
    json_out_i64(&o, head > s->place.seq ? head - s->place.seq : 0);
    json_out_key(&o, "kept");
    json_out_i64(&o, head - first + 1);
    json_out_key(&o, "snapshot");
    if (s->place.table < s->want_count)
        json_out_str(&o, s->wants[s->place.table].name);
    else
        json_out_str(&o, s->snapshot ? "done" : "off");
    json_out_key(&o, "rows_read");
    json_out_u64(&o, s->rows_read);
    json_out_object_end(&o);
out:
    return rc;
}

const struct source_ops source_sqlite_ops = {
    .name = "sqlite",
    .size = sizeof(struct sqlitei_source),
    .schema = &schema,
    .open = open_source,
    .close = close_source,
    .check = check,
    .prepare = prepare,
    .unprepare = unprepare,
    .start = start,
    .poll = poll_source,
    .confirm = confirm,
    .status = status,
};
