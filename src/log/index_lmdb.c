/*
 * The index in LMDB, which index_lmdb*.c alone know. Tables:
 *
 *   meta    "index"          → version, log id, covers, stream count, label count
 *   names   name             → id
 *   ids     id               → name                 (written once, in order)
 *   heads   id               → head, and the positions of the last run of versions
 *   runs    id, version      → positions of a full run that begins with that version
 *   labels  kind, name       → number               (categories and types)
 *   lists   number, position → positions of a block that begins with that position
 *   restricted  id           → nothing              (streams whose state hides or forbids)
 *   firsts  position         → id                   (of the events of version 0)
 *
 * A stream's head and last run are one value, so that an event in a short
 * stream rewrites one small record; a run that is full moves to `runs` and is
 * not touched again, so that long streams' values stay small too.
 *
 * Durability. The index is derived, but one that looks valid and is wrong must
 * not exist, and a rebuild is too slow to be the answer to every crash. So a
 * transaction's pages are synced before the page that names them is written
 * (no MDB_NOSYNC): any crash leaves the last transaction or the one before it.
 * MDB_NOMETASYNC saves the second sync; sync() makes up for it.
 *
 * The pages of a transaction are heap (no MDB_WRITEMAP: each page of a writable
 * map that is synced interrupts every processor that runs one of our threads),
 * and LMDB keeps them for the next one until it is closed: so a large one ends
 * with the file opened again. docs/decisions/0003-index.md has the figures.
 *
 * Indexes on fields have a writable map. Its danger is a full disk, which would
 * be a SIGBUS: a file's blocks are therefore allocated before a map covers them,
 * and a full disk is an error of apply().
 *
 * Threads: one applies. Readers take a transaction from a bounded pool for one
 * call and copy out; the map grows only when none is in use.
 */
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "log/index_lmdb_int.h"

static const struct {
    const char *name;
    unsigned    flags;
} tables[T_COUNT] = {
    [T_META] = {"meta", 0},
    [T_NAMES] = {"names", 0},
    [T_IDS] = {"ids", MDB_INTEGERKEY},
    [T_HEADS] = {"heads", MDB_INTEGERKEY},
    [T_RUNS] = {"runs", 0},
    [T_LABELS] = {"labels", 0},
    [T_LISTS] = {"lists", 0},
    [T_RESTRICTED] = {"restricted", MDB_INTEGERKEY},
    [T_FIRSTS] = {"firsts", MDB_INTEGERKEY},
};

struct ox_index *
logi_lmdb_checked(struct ox_index *ix)
{
    must(ix != NULL);
    must(ix->magic == INDEX_MAGIC);
    return ix;
}

static int
code_of(int mrc)
{
    switch (mrc) {
    case MDB_MAP_FULL:
        return E_LIMIT;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_PANIC:
    case MDB_VERSION_MISMATCH:
    case MDB_INVALID:
    case MDB_INCOMPATIBLE:
    case MDB_BAD_DBI:
    case MDB_BAD_VALSIZE:
        return E_DAMAGED;
    case MDB_READERS_FULL:
        return E_BUSY;
    default:
        return mrc > 0 ? err_of_errno(mrc) : E_IO;
    }
}

int
logi_lmdb_fail(struct err *err, const struct ox_index *ix, const char *what, int mrc)
{
    int           code = code_of(mrc);
    enum err_kind kind = code == E_NOSPC || code == E_NOMEM || code == E_BUSY || code == E_LIMIT
                             ? ERR_RETRY
                             : ERR_FATAL;

    must(mrc != 0);
    must(code != 0);
    return err_set(err, __FILE__, __LINE__, code, kind, "%s: index: %s: %s", ix->dir, what,
                   mdb_strerror(mrc));
}

int
logi_lmdb_damaged(struct err *err, const struct ox_index *ix, const char *what)
{
    return err_set(err, __FILE__, __LINE__, E_DAMAGED, ERR_FATAL, "%s: index: damaged: %s", ix->dir,
                   what);
}

static int
empty_tables(struct ox_index *ix, MDB_txn *txn, struct err *err)
{
    int rc = 0;

    must(!ix->read_only);
    for (int t = 0; t < T_COUNT; t++)
        TRY_MDB(mdb_drop(txn, ix->dbi[t], 0), "empty");
    ix->meta.version = INDEX_VERSION;
    ix->meta.covers = 0;
    ix->meta.stream_count = 0;
    ix->meta.label_count = 0;
    TRY(logi_lmdb_write_meta(ix, txn, &ix->meta, err));
out:
    return rc;
}

static int
sync_index(struct ox_index *ix, struct err *err)
{
    int rc = 0;

    must(!logi_lmdb_checked(ix)->read_only);
    TRY(logi_lmdb_ready(ix, err));
    TRY_MDB(mdb_env_sync(ix->env, 1), "sync");
out:
    return rc;
}

static int
reset_once(struct ox_index *ix, struct err *err)
{
    struct meta before = ix->meta;
    MDB_txn    *txn = NULL;
    MDB_txn    *done;
    int         rc = 0;

    TRY_MDB(mdb_txn_begin(ix->env, NULL, 0, &txn), "begin");
    TRY(empty_tables(ix, txn, err));
    done = txn;
    txn = NULL;
    TRY_MDB(mdb_txn_commit(done), "commit");
    atomic_store(&ix->covers, 0);
    atomic_store(&ix->stream_count, 0);
out:
    if (txn != NULL)
        mdb_txn_abort(txn);
    if (rc != 0)
        ix->meta = before;
    return rc;
}

static int
reset(struct ox_index *ix, struct err *err)
{
    int rc;

    must(!logi_lmdb_checked(ix)->read_only);
    TRY(logi_lmdb_ready(ix, err));
    rc = reset_once(ix, err);
    for (int i = 0; rc == E_LIMIT && i < MAP_GROWTHS_MAX; i++) {
        TRY(logi_lmdb_grow(ix, err));
        rc = reset_once(ix, err);
    }
    TRY(rc);
    TRY(sync_index(ix, err));
out:
    return rc;
}

/* With nobody in it. */
static void
close_env(struct ox_index *ix)
{
    must(ix->in_use == 0);
    must(ix->idle_count == ix->made); /* nobody has one of them */
    while (ix->idle_count > 0)
        mdb_txn_abort(ix->idle[--ix->idle_count]);
    ix->made = 0;
    if (ix->env != NULL)
        mdb_env_close(ix->env);
    ix->env = NULL;
}

void
logi_lmdb_env_free(struct ox_index *ix)
{
    if (ix == NULL)
        return;
    must(!logi_lmdb_checked(ix)->alone);
    close_env(ix);
    must(pthread_cond_destroy(&ix->changed) == 0);
    lock_fini(&ix->lock);
    ix->magic = 0;
    free(ix);
}

/* 0 where there is no file yet. */
static int
file_bytes(struct ox_env *env, const struct ox_index *ix, uint64_t *out, struct err *err)
{
    struct ox_file *file = NULL;
    char            path[4096];
    int             rc;

    *out = 0;
    if ((size_t)snprintf(path, sizeof path, "%s/data.mdb", ix->dir) >= sizeof path)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "%s: index: the path is too long", ix->dir);
    rc = env->ops->file_open(env, path, ENV_READ, &file, err);
    if (rc == E_NOTFOUND && !ix->read_only) {
        err_clear(err);
        return 0;
    }
    TRY(rc);
    TRY(env->ops->file_size(env, file, out, err));
out:
    env->ops->file_close(env, file);
    return rc;
}

static int
open_env(struct ox_index *ix, uint64_t bytes, struct err *err)
{
    uint64_t    map = bytes > MAP_FIRST ? (bytes + 0xfffff) & ~UINT64_C(0xfffff) : MAP_FIRST;
    MDB_envinfo info;
    MDB_stat    stat;
    int         dead = 0;
    int         rc = 0;

    TRY_MDB(mdb_env_create(&ix->env), "open");
    TRY_MDB(mdb_env_set_maxdbs(ix->env, T_COUNT), "open");
    TRY_MDB(mdb_env_set_maxreaders(ix->env, READER_SLOTS), "open");
    TRY_MDB(mdb_env_set_mapsize(ix->env, map), "open");
    TRY_MDB(mdb_env_open(ix->env, ix->dir, MDB_NOTLS | ix->flags, 0600), "open");
    TRY_MDB(mdb_env_info(ix->env, &info), "open");
    TRY_MDB(mdb_env_stat(ix->env, &stat), "open");
    /* LMDB would take the missing end of a file that was cut for empty pages. */
    if (bytes > 0 && (info.me_last_pgno + 1) * (uint64_t)stat.ms_psize > bytes)
        return logi_lmdb_damaged(err, ix, "the file is shorter than it says");
    if (ix->read_only)
        return 0;
    if (info.me_mapsize > bytes)
        TRY(logi_lmdb_allocate(ix, bytes, info.me_mapsize, err));
    TRY_MDB(mdb_reader_check(ix->env, &dead), "open");
out:
    return rc;
}

/* Cheap, and finds what a mixed-up or half copied file would show. */
static int
check_counts(struct ox_index *ix, MDB_txn *txn, struct err *err)
{
    MDB_stat names, ids, heads, labels;
    int      rc = 0;

    TRY_MDB(mdb_stat(txn, ix->dbi[T_NAMES], &names), "open");
    TRY_MDB(mdb_stat(txn, ix->dbi[T_IDS], &ids), "open");
    TRY_MDB(mdb_stat(txn, ix->dbi[T_HEADS], &heads), "open");
    TRY_MDB(mdb_stat(txn, ix->dbi[T_LABELS], &labels), "open");
    if (names.ms_entries != ids.ms_entries || names.ms_entries != heads.ms_entries ||
        names.ms_entries > ix->meta.stream_count || labels.ms_entries != ix->meta.label_count)
        return logi_lmdb_damaged(err, ix, "its tables do not agree");
out:
    return rc;
}

/* Empties an index of another log or version. */
static int
adopt(struct ox_index *ix, MDB_txn *txn, const uint8_t *log_id, struct err *err)
{
    struct meta found = {.version = 0};
    int         rc = logi_lmdb_read_meta(ix, txn, &found, err);

    if (rc == 0 && found.version == INDEX_VERSION && memcmp(found.log_id, log_id, 16) == 0) {
        ix->meta = found;
        return check_counts(ix, txn, err);
    }
    if (rc != 0 && rc != E_NOTFOUND)
        return rc;
    if (ix->read_only)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL, "%s: index: of another log or version", ix->dir);
    memcpy(ix->meta.log_id, log_id, 16);
    return empty_tables(ix, txn, err);
}

static int
open_handles(struct ox_index *ix, MDB_txn *txn, unsigned create, struct err *err)
{
    int rc = 0;

    for (int t = 0; t < T_COUNT; t++) {
        int mrc = mdb_dbi_open(txn, tables[t].name, tables[t].flags | create, &ix->dbi[t]);

        if (mrc == MDB_NOTFOUND)
            FAIL(err, E_FORMAT, ERR_FATAL, "%s: index: has no table %s", ix->dir, tables[t].name);
        TRY_MDB(mrc, "open a table");
    }
out:
    return rc;
}

static int
open_tables(struct ox_index *ix, const uint8_t *log_id, struct err *err)
{
    MDB_txn *txn = NULL;
    MDB_txn *done;
    int      rc = 0;

    TRY_MDB(mdb_txn_begin(ix->env, NULL, ix->read_only ? MDB_RDONLY : 0, &txn), "open");
    TRY(open_handles(ix, txn, ix->read_only ? 0 : MDB_CREATE, err));
    TRY(adopt(ix, txn, log_id, err));
    done = txn;
    txn = NULL;
    TRY_MDB(mdb_txn_commit(done), "open");
    atomic_init(&ix->covers, ix->meta.covers);
    atomic_init(&ix->stream_count, ix->meta.stream_count);
out:
    if (txn != NULL)
        mdb_txn_abort(txn);
    return rc;
}

static int
open_again(struct ox_index *ix, uint64_t bytes, struct err *err)
{
    MDB_txn *txn = NULL;
    MDB_txn *done;
    int      rc = 0;

    TRY(open_env(ix, bytes, err));
    TRY_MDB(mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &txn), "open again");
    TRY(open_handles(ix, txn, 0, err));
    done = txn;
    txn = NULL;
    TRY_MDB(mdb_txn_commit(done), "open again"); /* or the handles would end with it */
out:
    if (txn != NULL)
        mdb_txn_abort(txn);
    return rc;
}

int
logi_lmdb_reopen(struct ox_index *ix, struct err *err)
{
    uint64_t bytes = 0;
    int      rc;

    must(!logi_lmdb_checked(ix)->read_only);
    /* Or the C library would give back each page by itself, with a system call. */
    (void)mallopt(M_TRIM_THRESHOLD, INT_MAX);
    logi_lmdb_begin_alone(ix);
    close_env(ix);
    TRY(file_bytes(ix->os, ix, &bytes, err));
    TRY(open_again(ix, bytes, err));
out:
    if (rc != 0)
        close_env(ix);
    logi_lmdb_end_alone(ix);
    (void)mallopt(M_TRIM_THRESHOLD, TRIM_BYTES);
    (void)malloc_trim(0); /* the pages lay among others that are in use */
    return rc;
}

int
logi_lmdb_env_new(struct ox_env *env, const char *dir, unsigned flags, struct ox_index **out,
                  struct err *err)
{
    bool             read_only = (flags & MDB_RDONLY) != 0;
    size_t           len = strlen(dir) + 1;
    struct ox_index *ix = calloc(1, sizeof *ix + len);
    uint64_t         bytes = 0;
    int              rc = 0;

    *out = NULL;
    if (ix == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "%s: index: no memory", dir);
    ix->magic = INDEX_MAGIC;
    ix->read_only = read_only;
    ix->flags = flags;
    ix->os = env;
    memcpy(ix->dir, dir, len);
    lock_init(&ix->lock, LOCK_INDEX);
    must(pthread_cond_init(&ix->changed, NULL) == 0);
    if (!read_only)
        TRY(env->ops->dir_make(env, dir, err));
    TRY(file_bytes(env, ix, &bytes, err));
    TRY(open_env(ix, bytes, err));
    *out = ix;
    ix = NULL;
out:
    logi_lmdb_env_free(ix);
    return rc;
}

static int
open_index(struct ox_env *env, const char *dir, const uint8_t *log_id, bool read_only,
           struct ox_index **out, struct err *err)
{
    struct ox_index *ix = NULL;
    int              rc;

    *out = NULL;
    TRY(logi_lmdb_env_new(env, dir, read_only ? MDB_RDONLY : MDB_NOMETASYNC, &ix, err));
    TRY(open_tables(ix, log_id, err));
    *out = ix;
    ix = NULL;
out:
    logi_lmdb_env_free(ix);
    return rc;
}

const struct ox_index_ops log_index_lmdb = {
    .name = "lmdb",
    .open = open_index,
    .close = logi_lmdb_env_free,
    .reset = reset,
    .apply = logi_lmdb_apply,
    .sync = sync_index,
    .covers = logi_lmdb_covers,
    .stream_count = logi_lmdb_stream_count,
    .find = logi_lmdb_find,
    .head = logi_lmdb_head,
    .restricted = logi_lmdb_restricted,
    .name_of = logi_lmdb_name_of,
    .positions = logi_lmdb_positions,
    .streams = logi_lmdb_streams,
    .category = logi_lmdb_category,
    .type = logi_lmdb_type,
    .firsts = logi_lmdb_firsts,
};
