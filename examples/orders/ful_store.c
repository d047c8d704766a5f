/*
 * The service's storage: the writer thread with its queue, and the reads.
 *
 * A crash leaves what was committed: a row and its entry in the feed are one
 * transaction, synced before anybody is answered.
 */
#include "ful_int.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH_MAX 64

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS fulfilment("
    "  id INTEGER PRIMARY KEY, restaurant TEXT NOT NULL, driver TEXT,"
    "  state TEXT NOT NULL, note TEXT, version INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS change("
    "  cursor INTEGER PRIMARY KEY AUTOINCREMENT, op TEXT NOT NULL, id INTEGER NOT NULL,"
    "  restaurant TEXT, driver TEXT, state TEXT, note TEXT, origin TEXT, epoch INTEGER);"
    "CREATE TABLE IF NOT EXISTS reply("
    "  n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, request TEXT NOT NULL,"
    "  status INTEGER NOT NULL, body TEXT NOT NULL, etag INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS fence("
    "  one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL,"
    "  authority TEXT NOT NULL CHECK (authority IN ('old', 'new')));"
    "INSERT OR IGNORE INTO fence VALUES (1, 0, 'new');";

static const char *const sql[ST_COUNT] = {
    [ST_BEGIN] = "BEGIN IMMEDIATE",
    [ST_COMMIT] = "COMMIT",
    [ST_ROLLBACK] = "ROLLBACK",
    [ST_SAVE] = "SAVEPOINT job",
    [ST_RELEASE] = "RELEASE job",
    [ST_UNDO] = "ROLLBACK TO job",
    [ST_GET] = "SELECT id, restaurant, driver, state, note, version FROM fulfilment WHERE id = ?1",
    [ST_UPSERT] = "INSERT INTO fulfilment VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO "
                  "UPDATE SET restaurant = ?2, driver = ?3, state = ?4, note = ?5, version = ?6",
    [ST_DELETE] = "DELETE FROM fulfilment WHERE id = ?1",
    [ST_LOG] = "INSERT INTO change(op, id, restaurant, driver, state, note, origin, epoch) "
               "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [ST_TRIM_LOG] = "DELETE FROM change WHERE cursor <= ?1",
    [ST_REPLY_GET] = "SELECT request, status, body, etag FROM reply WHERE key = ?1",
    [ST_REPLY_PUT] =
        "INSERT INTO reply(key, request, status, body, etag) VALUES (?1, ?2, ?3, ?4, ?5)",
    [ST_REPLY_TRIM] = "DELETE FROM reply WHERE n <= ?1",
    [ST_FENCE_GET] = "SELECT epoch, authority FROM fence",
    [ST_FENCE_SET] = "UPDATE fence SET epoch = ?1, authority = ?2",
};

void
ful_row_load(sqlite3_stmt *st, struct ful_row *row)
{
    row->id = sqlite3_column_int64(st, 0);
    row->restaurant = sq_text(st, 1);
    row->driver = sq_text(st, 2);
    row->state = sq_text(st, 3);
    row->note = sq_text(st, 4);
    row->version = sqlite3_column_int64(st, 5);
}

/* Takes up to BATCH_MAX jobs off the queue, in their order. Under the lock. */
static struct ful_job *
take_batch(struct ful_store *s)
{
    struct ful_job *batch = s->first;
    struct ful_job *last = batch;

    for (int n = 1; n < BATCH_MAX && last->next != NULL; n++)
        last = last->next;
    s->first = last->next;
    if (s->first == NULL)
        s->last = NULL;
    last->next = NULL;
    return batch;
}

static void
finish_batch(struct ful_store *s, struct ful_job *batch, int64_t head)
{
    struct ful_job *next;

    for (struct ful_job *job = batch; job != NULL; job = next) {
        next = job->next; /* the job is its waiter's again once done is set */
        if (job->kind == FUL_EPOCH && job->status == 200)
            job->body = json_pack("{s:I, s:s, s:I}", "epoch", (json_int_t)job->epoch, "authority",
                                  job->authority, "head", (json_int_t)head);
        job->done = true;
    }
    s->head = head;
    (void)pthread_cond_broadcast(&s->done);
    (void)pthread_cond_broadcast(&s->news);
}

static void *
write_all_jobs(void *cls)
{
    struct ful_store *s = cls;

    (void)pthread_mutex_lock(&s->lock);
    for (;;) {
        struct ful_job *batch;
        int64_t         head = s->head;

        while (s->first == NULL && !s->closing)
            (void)pthread_cond_wait(&s->work, &s->lock);
        if (s->first == NULL)
            break;
        batch = take_batch(s);
        (void)pthread_mutex_unlock(&s->lock);
        (void)ful_write_batch(s, batch, &head);
        (void)pthread_mutex_lock(&s->lock);
        finish_batch(s, batch, head);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

void
ful_store_run(struct ful_store *s, struct ful_job *job)
{
    (void)pthread_mutex_lock(&s->lock);
    job->next = NULL;
    job->done = false;
    if (s->last != NULL)
        s->last->next = job;
    else
        s->first = job;
    s->last = job;
    (void)pthread_cond_signal(&s->work);
    while (!job->done)
        (void)pthread_cond_wait(&s->done, &s->lock);
    (void)pthread_mutex_unlock(&s->lock);
}

static int
prepare_all(struct ful_store *s)
{
    for (int i = 0; i < ST_COUNT; i++) {
        s->st[i] = sq_prepare(s->write_db, sql[i]);
        if (s->st[i] == NULL)
            return -1;
    }
    s->read_get = sq_prepare(s->read_db, sql[ST_GET]);
    s->read_scan = sq_prepare(s->read_db,
                              "SELECT id, restaurant, driver, state, note, version FROM fulfilment "
                              "WHERE id > ?1 ORDER BY id LIMIT ?2");
    s->read_changes =
        sq_prepare(s->read_db, "SELECT id, restaurant, driver, state, note, cursor, op, origin, "
                               "epoch FROM change WHERE cursor > ?1 ORDER BY cursor LIMIT ?2");
    s->read_fence = sq_prepare(s->read_db, sql[ST_FENCE_GET]);
    s->read_head = sq_prepare(s->read_db, "SELECT coalesce((SELECT seq FROM sqlite_sequence "
                                          "WHERE name = 'change'), 0)");
    s->read_oldest = sq_prepare(s->read_db, "SELECT min(cursor) FROM change");
    return s->read_get != NULL && s->read_scan != NULL && s->read_changes != NULL &&
                   s->read_fence != NULL && s->read_head != NULL && s->read_oldest != NULL
               ? 0
               : -1;
}

static int64_t
read_number(struct ful_store *s, sqlite3_stmt *st, int64_t otherwise)
{
    int64_t value = otherwise;

    (void)pthread_mutex_lock(&s->read_lock);
    if (sqlite3_step(st) == SQLITE_ROW && sqlite3_column_type(st, 0) != SQLITE_NULL)
        value = sqlite3_column_int64(st, 0);
    (void)sqlite3_reset(st);
    (void)pthread_mutex_unlock(&s->read_lock);
    return value;
}

struct ful_store *
ful_store_open(const char *path, const char *migrator, int64_t keep_changes)
{
    struct ful_store  *s = calloc(1, sizeof(*s));
    pthread_condattr_t monotonic;

    if (s == NULL)
        return NULL;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_mutex_init(&s->read_lock, NULL);
    (void)pthread_cond_init(&s->work, NULL);
    (void)pthread_cond_init(&s->done, NULL);
    (void)pthread_cond_init(&s->news, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    s->closing = true; /* no writer to join yet */
    s->keep_changes = keep_changes;
    s->migrator = strdup(migrator);
    s->write_db = sq_open(path, true);
    if (s->migrator == NULL || s->write_db == NULL || sq_exec(s->write_db, schema) != 0)
        goto fail;
    s->read_db = sq_open(path, false);
    if (s->read_db == NULL || prepare_all(s) != 0)
        goto fail;
    s->head = read_number(s, s->read_head, 0);
    s->closing = false;
    if (pthread_create(&s->writer, NULL, write_all_jobs, s) == 0)
        return s;
    s->closing = true;
    complain("cannot start the writer thread");
fail:
    ful_store_close(s);
    return NULL;
}

void
ful_store_close(struct ful_store *s)
{
    bool running;

    if (s == NULL)
        return;
    (void)pthread_mutex_lock(&s->lock);
    running = !s->closing;
    s->closing = true;
    (void)pthread_cond_signal(&s->work);
    (void)pthread_mutex_unlock(&s->lock);
    if (running)
        (void)pthread_join(s->writer, NULL);
    for (int i = 0; i < ST_COUNT; i++)
        (void)sqlite3_finalize(s->st[i]);
    (void)sqlite3_finalize(s->read_get);
    (void)sqlite3_finalize(s->read_scan);
    (void)sqlite3_finalize(s->read_changes);
    (void)sqlite3_finalize(s->read_fence);
    (void)sqlite3_finalize(s->read_head);
    (void)sqlite3_finalize(s->read_oldest);
    (void)sqlite3_close(s->read_db);
    (void)sqlite3_close(s->write_db);
    (void)pthread_cond_destroy(&s->work);
    (void)pthread_cond_destroy(&s->done);
    (void)pthread_cond_destroy(&s->news);
    (void)pthread_mutex_destroy(&s->lock);
    (void)pthread_mutex_destroy(&s->read_lock);
    free(s->migrator);
    free(s);
}

json_t *
ful_store_get(struct ful_store *s, int64_t id)
{
    struct ful_row row = {0};
    json_t        *out = NULL;
    int            rc;

    (void)pthread_mutex_lock(&s->read_lock);
    (void)sqlite3_bind_int64(s->read_get, 1, id);
    rc = sqlite3_step(s->read_get);
    if (rc == SQLITE_ROW) {
        ful_row_load(s->read_get, &row);
        out = ful_row_json(&row);
    } else if (rc == SQLITE_DONE) {
        out = json_null();
    }
    (void)sqlite3_reset(s->read_get);
    (void)pthread_mutex_unlock(&s->read_lock);
    ful_row_fini(&row);
    return out;
}

/* Steps through a statement that was bound; `make` turns each row into JSON. */
static json_t *
collect(sqlite3_stmt *st, int64_t after, int64_t limit, json_t *(*make)(sqlite3_stmt *))
{
    json_t *list = json_array();
    int     rc;

    (void)sqlite3_bind_int64(st, 1, after);
    (void)sqlite3_bind_int64(st, 2, limit);
    while ((rc = sqlite3_step(st)) == SQLITE_ROW)
        (void)json_array_append_new(list, make(st));
    (void)sqlite3_reset(st);
    if (rc == SQLITE_DONE)
        return list;
    json_decref(list);
    return NULL;
}

static json_t *
make_row(sqlite3_stmt *st)
{
    struct ful_row row = {0};
    json_t        *out;

    ful_row_load(st, &row);
    out = ful_row_json(&row);
    ful_row_fini(&row);
    return out;
}

static json_t *
make_change(sqlite3_stmt *st)
{
    json_int_t  cursor = sqlite3_column_int64(st, 5);
    const char *op = (const char *)sqlite3_column_text(st, 6);
    json_t     *row = strcmp(op, "put") == 0 ? make_row(st) : json_null();
    json_t     *epoch = sqlite3_column_type(st, 8) == SQLITE_NULL
                            ? json_null()
                            : json_integer(sqlite3_column_int64(st, 8));

    return json_pack("{s:I, s:s, s:I, s:o, s:s?, s:o, s:I}", "cursor", cursor, "op", op, "id",
                     (json_int_t)sqlite3_column_int64(st, 0), "row", row, "origin",
                     (const char *)sqlite3_column_text(st, 7), "epoch", epoch, "version", cursor);
}

static json_int_t
last_of(const json_t *list, const char *name, json_int_t otherwise)
{
    size_t n = json_array_size(list);

    return n == 0 ? otherwise
                  : json_integer_value(json_object_get(json_array_get(list, n - 1), name));
}

json_t *
ful_store_scan(struct ful_store *s, int64_t after, int64_t limit)
{
    json_t    *list = NULL;
    json_int_t position = 0;
    bool       full;

    /* One read transaction: the page is the table exactly as of `position`. */
    (void)pthread_mutex_lock(&s->read_lock);
    if (sq_exec(s->read_db, "BEGIN") == 0) {
        list = collect(s->read_scan, after, limit, make_row);
        if (sqlite3_step(s->read_head) == SQLITE_ROW)
            position = sqlite3_column_int64(s->read_head, 0);
        (void)sqlite3_reset(s->read_head);
        (void)sq_exec(s->read_db, "COMMIT");
    }
    (void)pthread_mutex_unlock(&s->read_lock);
    if (list == NULL)
        return NULL;
    full = json_array_size(list) == (size_t)limit;
    return json_pack("{s:o, s:o, s:I}", "orders", list, "next",
                     full ? json_integer(last_of(list, "id", 0)) : json_null(), "position",
                     position);
}

json_t *
ful_store_changes(struct ful_store *s, int64_t after, int64_t limit)
{
    json_t    *list;
    json_int_t head, next;

    (void)pthread_mutex_lock(&s->read_lock);
    list = collect(s->read_changes, after, limit, make_change);
    (void)pthread_mutex_unlock(&s->read_lock);
    if (list == NULL)
        return NULL;
    next = last_of(list, "cursor", after);
    head = ful_store_head(s);
    /* The reader may see a commit that is being announced at this moment. */
    return json_pack("{s:o, s:I, s:I}", "changes", list, "next", next, "head",
                     head > next ? head : next);
}

json_t *
ful_store_epoch(struct ful_store *s)
{
    json_t *out = NULL;

    (void)pthread_mutex_lock(&s->read_lock);
    if (sqlite3_step(s->read_fence) == SQLITE_ROW)
        out = json_pack("{s:I, s:s}", "epoch", (json_int_t)sqlite3_column_int64(s->read_fence, 0),
                        "authority", (const char *)sqlite3_column_text(s->read_fence, 1));
    (void)sqlite3_reset(s->read_fence);
    (void)pthread_mutex_unlock(&s->read_lock);
    return out;
}

int64_t
ful_store_oldest(struct ful_store *s)
{
    return s->keep_changes == 0 ? 1 : read_number(s, s->read_oldest, 1);
}

int64_t
ful_store_head(struct ful_store *s)
{
    int64_t head;

    (void)pthread_mutex_lock(&s->lock);
    head = s->head;
    (void)pthread_mutex_unlock(&s->lock);
    return head;
}

int64_t
ful_store_committed(struct ful_store *s)
{
    return read_number(s, s->read_head, 0);
}

void
ful_store_wait(struct ful_store *s, int64_t after, int64_t wait_ms)
{
    int64_t         until = clock_mono_us() + wait_ms * 1000;
    struct timespec ts = {.tv_sec = until / 1000000, .tv_nsec = (until % 1000000) * 1000};

    (void)pthread_mutex_lock(&s->lock);
    while (s->head <= after && !s->waking)
        if (pthread_cond_timedwait(&s->news, &s->lock, &ts) != 0)
            break;
    (void)pthread_mutex_unlock(&s->lock);
}

void
ful_store_wake(struct ful_store *s)
{
    (void)pthread_mutex_lock(&s->lock);
    s->waking = true;
    (void)pthread_cond_broadcast(&s->news);
    (void)pthread_mutex_unlock(&s->lock);
}
