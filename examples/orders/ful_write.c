/*
 * What the writer thread does with a batch of jobs: one transaction, one sync.
 *
 * Each job has its own savepoint, so that one that is refused half way leaves
 * nothing behind. The order of the checks matters: a repeated key answers as
 * it did the first time even after the authority has moved, because the first
 * write did happen and its change is in the feed.
 */
#include "ful_int.h"
#include <stdlib.h>
#include <string.h>

#define REPLIES_KEPT 100000

static int
step_done(sqlite3_stmt *st)
{
    int rc = sqlite3_step(st);

    (void)sqlite3_reset(st);
    (void)sqlite3_clear_bindings(st);
    return rc == SQLITE_DONE ? 0 : -1;
}

static void
refuse(struct ful_job *job, unsigned status, json_t *body)
{
    job->status = status;
    job->body = body;
}

static bool
from_migrator(const struct ful_store *s, const struct ful_job *job)
{
    size_t len = strlen(s->migrator);

    return job->origin != NULL && strncmp(job->origin, s->migrator, len) == 0 &&
           (job->origin[len] == '\0' || job->origin[len] == '/' || job->origin[len] == ':');
}

/* True when the key was used before: the job is answered. */
static bool
replay(struct ful_store *s, struct ful_job *job)
{
    sqlite3_stmt *st = s->st[ST_REPLY_GET];
    bool          found;

    if (job->key == NULL)
        return false;
    sq_bind_text(st, 1, job->key);
    found = sqlite3_step(st) == SQLITE_ROW;
    if (found && strcmp((const char *)sqlite3_column_text(st, 0), job->request) != 0) {
        refuse(job, 422,
               json_pack("{s:s, s:s}", "error", "idempotency-key-reused", "message",
                         "this Idempotency-Key came before with another request"));
    } else if (found) {
        job->status = (unsigned)sqlite3_column_int(st, 1);
        job->body = json_loads((const char *)sqlite3_column_text(st, 2), 0, NULL);
        job->etag = sqlite3_column_int64(st, 3);
        job->replayed = true;
    }
    (void)sqlite3_reset(st);
    return found;
}

static int
remember(struct ful_store *s, const struct ful_job *job)
{
    sqlite3_stmt *st = s->st[ST_REPLY_PUT];
    char         *body;
    int           rc;

    if (job->key == NULL)
        return 0;
    body = json_dumps(job->body, JSON_COMPACT);
    if (body == NULL)
        return -1;
    sq_bind_text(st, 1, job->key);
    sq_bind_text(st, 2, job->request);
    (void)sqlite3_bind_int(st, 3, (int)job->status);
    sq_bind_text(st, 4, body);
    (void)sqlite3_bind_int64(st, 5, job->etag);
    rc = step_done(st);
    free(body);
    if (rc == 0) {
        st = s->st[ST_REPLY_TRIM];
        (void)sqlite3_bind_int64(st, 1, sqlite3_last_insert_rowid(s->write_db) - REPLIES_KEPT);
        rc = step_done(st);
    }
    return rc;
}

static int
load_fence(struct ful_store *s, int64_t *epoch, bool *is_new)
{
    sqlite3_stmt *st = s->st[ST_FENCE_GET];
    int           rc = -1;

    if (sqlite3_step(st) == SQLITE_ROW) {
        *epoch = sqlite3_column_int64(st, 0);
        *is_new = strcmp((const char *)sqlite3_column_text(st, 1), "new") == 0;
        rc = 0;
    }
    (void)sqlite3_reset(st);
    return rc;
}

static json_t *
stale_epoch(int64_t epoch, bool is_new)
{
    return json_pack("{s:s, s:s, s:I, s:s}", "error", "stale-epoch", "message",
                     "a later epoch has begun: look up the route again", "epoch", (json_int_t)epoch,
                     "authority", is_new ? "new" : "old");
}

static int
check_fence(struct ful_store *s, struct ful_job *job)
{
    int64_t epoch = 0;
    bool    is_new = true;

    if (load_fence(s, &epoch, &is_new) != 0)
        return -1;
    if (job->epoch >= 0 && job->epoch < epoch) {
        refuse(job, 409, stale_epoch(epoch, is_new));
    } else if (!is_new && !from_migrator(s, job)) {
        refuse(job, 409,
               json_pack("{s:s, s:s, s:I}", "error", "not-authority", "message",
                         "this service does not hold the truth now: look up the route again",
                         "epoch", (json_int_t)epoch));
    }
    return 0;
}

/* The row as it is, with id 0 when there is none. */
static int
load_row(struct ful_store *s, int64_t id, struct ful_row *row)
{
    sqlite3_stmt *st = s->st[ST_GET];
    int           rc;

    (void)sqlite3_bind_int64(st, 1, id);
    rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        ful_row_load(st, row);
    (void)sqlite3_reset(st);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : -1;
}

static bool
precondition_holds(const struct ful_job *job, const struct ful_row *now)
{
    bool there = now->id != 0;

    if (job->if_absent && there)
        return false;
    if (job->if_match == FUL_MATCH_ANY)
        return there;
    return job->if_match == FUL_MATCH_NONE || (there && job->if_match == now->version);
}

static void
refuse_precondition(struct ful_job *job, const struct ful_row *now)
{
    bool there = now->id != 0;

    refuse(job, 412,
           json_pack("{s:s, s:s, s:o}", "error", "precondition-failed", "message",
                     there ? "the row is there with another version" : "there is no such row",
                     "row", there ? ful_row_json(now) : json_null()));
    job->etag = there ? now->version : 0;
}

/* The feed's entry; its cursor becomes the row's version. */
static int
log_change(struct ful_store *s, struct ful_job *job, const char *op, int64_t *cursor)
{
    sqlite3_stmt *st = s->st[ST_LOG];

    sq_bind_text(st, 1, op);
    (void)sqlite3_bind_int64(st, 2, job->row.id);
    sq_bind_text(st, 3, job->row.restaurant);
    sq_bind_text(st, 4, job->row.driver);
    sq_bind_text(st, 5, job->row.state);
    sq_bind_text(st, 6, job->row.note);
    sq_bind_text(st, 7, job->origin);
    if (job->epoch >= 0)
        (void)sqlite3_bind_int64(st, 8, job->epoch);
    if (step_done(st) != 0)
        return -1;
    *cursor = sqlite3_last_insert_rowid(s->write_db);
    if (s->keep_changes == 0)
        return 0;
    (void)sqlite3_bind_int64(s->st[ST_TRIM_LOG], 1, *cursor - s->keep_changes);
    return step_done(s->st[ST_TRIM_LOG]);
}

static int
put_row(struct ful_store *s, struct ful_job *job, bool was_there)
{
    sqlite3_stmt *st = s->st[ST_UPSERT];

    if (log_change(s, job, "put", &job->row.version) != 0)
        return -1;
    (void)sqlite3_bind_int64(st, 1, job->row.id);
    sq_bind_text(st, 2, job->row.restaurant);
    sq_bind_text(st, 3, job->row.driver);
    sq_bind_text(st, 4, job->row.state);
    sq_bind_text(st, 5, job->row.note);
    (void)sqlite3_bind_int64(st, 6, job->row.version);
    if (step_done(st) != 0)
        return -1;
    job->status = was_there ? 200 : 201;
    job->body = ful_row_json(&job->row);
    job->etag = job->row.version;
    return 0;
}

static int
delete_row(struct ful_store *s, struct ful_job *job)
{
    sqlite3_stmt *st = s->st[ST_DELETE];

    if (log_change(s, job, "delete", &job->row.version) != 0)
        return -1;
    (void)sqlite3_bind_int64(st, 1, job->row.id);
    if (step_done(st) != 0)
        return -1;
    job->status = 200;
    job->body = json_pack("{s:I, s:b, s:I}", "id", (json_int_t)job->row.id, "deleted", 1, "version",
                          (json_int_t)job->row.version);
    return 0;
}

static int
change_row(struct ful_store *s, struct ful_job *job)
{
    struct ful_row now = {0};
    int            rc = 0;

    if (replay(s, job))
        return 0;
    rc = check_fence(s, job);
    if (rc != 0 || job->status != 0)
        return rc;
    rc = load_row(s, job->row.id, &now);
    if (rc != 0)
        goto out;
    if (!precondition_holds(job, &now)) {
        refuse_precondition(job, &now);
        goto out;
    }
    if (job->kind == FUL_DELETE && now.id == 0) {
        refuse(job, 404,
               json_pack("{s:s, s:s}", "error", "not-found", "message", "there is no such row"));
        goto out;
    }
    rc = job->kind == FUL_PUT ? put_row(s, job, now.id != 0) : delete_row(s, job);
    if (rc == 0)
        rc = remember(s, job);
out:
    ful_row_fini(&now);
    return rc;
}

/* Only forwards; the same step twice is fine, so that a caller may repeat it. */
static int
set_epoch(struct ful_store *s, struct ful_job *job)
{
    sqlite3_stmt *st = s->st[ST_FENCE_SET];
    int64_t       epoch = 0;
    bool          is_new = true;
    bool          want_new = strcmp(job->authority, "new") == 0;

    if (load_fence(s, &epoch, &is_new) != 0)
        return -1;
    if (job->epoch < epoch || (job->epoch == epoch && want_new != is_new)) {
        refuse(job, 409, stale_epoch(epoch, is_new));
        return 0;
    }
    (void)sqlite3_bind_int64(st, 1, job->epoch);
    sq_bind_text(st, 2, job->authority);
    if (step_done(st) != 0)
        return -1;
    job->status = 200; /* the body carries the head, known after the batch */
    return 0;
}

static int
run_job(struct ful_store *s, struct ful_job *job)
{
    int rc;

    if (step_done(s->st[ST_SAVE]) != 0)
        return -1;
    rc = job->kind == FUL_EPOCH ? set_epoch(s, job) : change_row(s, job);
    if (rc != 0) {
        complain("storage: %s", sqlite3_errmsg(s->write_db));
        json_decref(job->body);
        job->body = NULL;
        job->etag = 0;
        job->status = 500;
        if (step_done(s->st[ST_UNDO]) != 0)
            return -1;
    }
    return step_done(s->st[ST_RELEASE]);
}

static void
fail_batch(struct ful_store *s, struct ful_job *jobs)
{
    complain("storage: %s", sqlite3_errmsg(s->write_db));
    if (sqlite3_get_autocommit(s->write_db) == 0)
        (void)step_done(s->st[ST_ROLLBACK]);
    for (struct ful_job *job = jobs; job != NULL; job = job->next) {
        json_decref(job->body);
        job->body = NULL;
        job->etag = 0;
        job->status = 500;
    }
}

int
ful_write_batch(struct ful_store *s, struct ful_job *jobs, int64_t *head)
{
    if (step_done(s->st[ST_BEGIN]) != 0)
        goto fail;
    for (struct ful_job *job = jobs; job != NULL; job = job->next)
        if (run_job(s, job) != 0)
            goto fail;
    if (step_done(s->st[ST_COMMIT]) != 0)
        goto fail;
    for (struct ful_job *job = jobs; job != NULL; job = job->next) {
        if (job->kind != FUL_EPOCH && !job->replayed && job->row.version > *head &&
            (job->status == 200 || job->status == 201))
            *head = job->row.version;
    }
    return 0;
fail:
    fail_batch(s, jobs);
    return -1;
}
