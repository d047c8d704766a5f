/*
 * The entries of the indexes on fields, in LMDB. Tables:
 *
 *   about    "values"       → version, log id
 *   states   index          → covers, entries, skipped, built
 *   entries  index, value   → positions, sorted
 *
 * A value's positions are one sorted set of numbers, so that LMDB knows how many
 * there are. An index's number stands big-endian before the value: its values
 * lie together, in byte order. Durability is as in index_lmdb.c: a crash leaves
 * the last transaction or the one before it, and what an index covers is in the
 * same transaction as its entries. A file that is damaged, of another log or
 * version, is made anew: nothing is lost that the log does not have.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/must.h"
#include "log/index_lmdb_int.h"
#include "log/values.h"

#define VALUES_MAGIC 0x7a1e7a1eU
#define VALUES_VERSION 1
#define ABOUT_KEY "values"
#define ABOUT_BYTES 20
#define STATE_BYTES 32
#define KEY_BYTES (8 + VALUES_BYTES_MAX)

enum { V_ABOUT, V_STATES, V_ENTRIES, V_COUNT };

struct ox_values {
    unsigned         magic;
    struct ox_index *ix; /* the file */
    MDB_dbi          dbi[V_COUNT];
};

static const struct {
    const char *name;
    unsigned    flags;
} tables[V_COUNT] = {
    [V_ABOUT] = {"about", 0},
    [V_STATES] = {"states", MDB_INTEGERKEY},
    [V_ENTRIES] = {"entries", MDB_DUPSORT | MDB_DUPFIXED | MDB_INTEGERDUP},
};

static struct ox_values *
checked(struct ox_values *v)
{
    must(v != NULL);
    must(v->magic == VALUES_MAGIC);
    return v;
}

static size_t
pack_key(uint8_t out[KEY_BYTES], uint64_t index, struct slice value)
{
    uint64_t big = htobe64(index);

    must(value.len <= VALUES_BYTES_MAX);
    memcpy(out, &big, 8);
    if (value.len > 0)
        memcpy(out + 8, value.data, value.len);
    return 8 + value.len;
}

static bool
is_of(MDB_val key, uint64_t index)
{
    uint64_t big = htobe64(index);

    return key.mv_size >= 8 && key.mv_size <= KEY_BYTES && memcmp(key.mv_data, &big, 8) == 0;
}

/* states */

/* E_NOTFOUND, without a text. */
static int
get_state(struct ox_values *v, MDB_txn *txn, uint64_t index, struct values_state *out,
          struct err *err)
{
    struct ox_index *ix = v->ix;
    size_t           number = index;
    MDB_val          key = val_of(&number, sizeof number), val;
    int              mrc = mdb_get(txn, v->dbi[V_STATES], &key, &val), rc = 0;

    *out = (struct values_state){0};
    if (mrc == MDB_NOTFOUND)
        return E_NOTFOUND;
    TRY_MDB(mrc, "find a state");
    if (val.mv_size != STATE_BYTES)
        return logi_lmdb_damaged(err, ix, "a state");
    out->covers = get_u64(val.mv_data);
    out->entries = get_u64((const uint8_t *)val.mv_data + 8);
    out->skipped = get_u64((const uint8_t *)val.mv_data + 16);
    out->built = get_u64((const uint8_t *)val.mv_data + 24) != 0;
out:
    return rc;
}

static int
put_state(struct ox_values *v, MDB_txn *txn, uint64_t index, const struct values_state *s,
          struct err *err)
{
    struct ox_index *ix = v->ix;
    uint8_t          bytes[STATE_BYTES];
    size_t           number = index;
    MDB_val          key = val_of(&number, sizeof number), val = val_of(bytes, sizeof bytes);
    int              rc = 0;

    put_u64(bytes, s->covers);
    put_u64(bytes + 8, s->entries);
    put_u64(bytes + 16, s->skipped);
    put_u64(bytes + 24, s->built);
    TRY_MDB(mdb_put(txn, v->dbi[V_STATES], &key, &val, 0), "write a state");
out:
    return rc;
}

/* opening */

static int
adopt(struct ox_values *v, MDB_txn *txn, const uint8_t *log_id, struct err *err)
{
    struct ox_index *ix = v->ix;
    uint8_t          bytes[ABOUT_BYTES];
    MDB_val          key = val_of(ABOUT_KEY, strlen(ABOUT_KEY)), val;
    int              mrc = mdb_get(txn, v->dbi[V_ABOUT], &key, &val), rc = 0;

    put_u32(bytes, VALUES_VERSION);
    memcpy(bytes + 4, log_id, 16);
    if (mrc == 0 && val.mv_size == ABOUT_BYTES && memcmp(val.mv_data, bytes, ABOUT_BYTES) == 0)
        return 0;
    if (mrc != 0 && mrc != MDB_NOTFOUND)
        TRY_MDB(mrc, "open");
    for (int t = 0; t < V_COUNT; t++)
        TRY_MDB(mdb_drop(txn, v->dbi[t], 0), "empty");
    val = val_of(bytes, sizeof bytes);
    TRY_MDB(mdb_put(txn, v->dbi[V_ABOUT], &key, &val, 0), "open");
out:
    return rc;
}

static int
open_tables(struct ox_values *v, const uint8_t *log_id, struct err *err)
{
    struct ox_index *ix = v->ix;
    MDB_txn         *txn = NULL, *done;
    int              rc = 0;

    TRY_MDB(mdb_txn_begin(ix->env, NULL, 0, &txn), "open");
    for (int t = 0; t < V_COUNT; t++)
        TRY_MDB(mdb_dbi_open(txn, tables[t].name, tables[t].flags | MDB_CREATE, &v->dbi[t]),
                "open a table");
    TRY(adopt(v, txn, log_id, err));
    done = txn;
    txn = NULL;
    TRY_MDB(mdb_txn_commit(done), "open");
out:
    if (txn != NULL)
        mdb_txn_abort(txn);
    return rc;
}

static int
open_once(struct ox_env *env, const char *dir, const uint8_t *log_id, struct ox_values *v,
          struct err *err)
{
    int rc;

    TRY(logi_lmdb_env_new(env, dir, MDB_WRITEMAP | MDB_NOMETASYNC, &v->ix, err));
    TRY(open_tables(v, log_id, err));
out:
    if (rc != 0) {
        logi_lmdb_env_free(v->ix);
        v->ix = NULL;
    }
    return rc;
}

static int
remove_file(struct ox_env *env, const char *dir, const char *name, struct err *err)
{
    char path[4096];
    int  rc;

    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, name) >= sizeof path)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "%s: the path is too long", dir);
    rc = env->ops->path_remove(env, path, err);
    return rc == E_NOTFOUND ? 0 : rc;
}

static int
open_values(struct ox_env *env, const char *dir, const uint8_t *log_id, struct ox_values **out,
            struct err *err)
{
    struct ox_values *v = calloc(1, sizeof *v);
    int               rc;

    *out = NULL;
    if (v == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "%s: index: no memory", dir);
    v->magic = VALUES_MAGIC;
    rc = open_once(env, dir, log_id, v, err);
    if (rc == E_DAMAGED) {
        TRY(remove_file(env, dir, "data.mdb", err));
        TRY(remove_file(env, dir, "lock.mdb", err));
        err_clear(err);
        rc = open_once(env, dir, log_id, v, err);
    }
    TRY(rc);
    *out = v;
    v = NULL;
out:
    free(v);
    return rc;
}

static void
close_values(struct ox_values *v)
{
    if (v == NULL)
        return;
    (void)mdb_env_sync(checked(v)->ix->env, 1);
    logi_lmdb_env_free(v->ix);
    v->magic = 0;
    free(v);
}

/* writing */

static struct values_mark *
mark_of(const struct values_batch *b, uint64_t index)
{
    for (uint32_t i = 0; i < b->mark_count; i++)
        if (b->marks[i].index == index)
            return &b->marks[i];
    must(false);
    return NULL;
}

static int
put_entries(struct ox_values *v, MDB_txn *txn, const struct values_batch *b, struct err *err)
{
    struct ox_index *ix = v->ix;
    uint8_t          bytes[KEY_BYTES];
    int              mrc, rc = 0;

    for (uint32_t i = 0; i < b->entry_count; i++) {
        const struct values_entry *e = &b->entries[i];
        size_t                     pos = e->pos;
        MDB_val                    key = val_of(bytes, pack_key(bytes, e->index, e->value));
        MDB_val                    val = val_of(&pos, sizeof pos);

        mrc = mdb_put(txn, v->dbi[V_ENTRIES], &key, &val, MDB_NODUPDATA);
        if (mrc == MDB_KEYEXIST)
            continue;
        TRY_MDB(mrc, "write an entry");
        must(e->pos < mark_of(b, e->index)->state.covers);
        mark_of(b, e->index)->state.entries++;
    }
out:
    return rc;
}

static int
take_dead(struct ox_values *v, MDB_txn *txn, const struct values_batch *b, struct err *err)
{
    struct ox_index *ix = v->ix;
    uint8_t          bytes[KEY_BYTES];
    int              mrc, rc = 0;

    for (uint32_t i = 0; i < b->dead_count; i++) {
        const struct values_entry *e = &b->dead[i];
        size_t                     pos = e->pos;
        MDB_val                    key = val_of(bytes, pack_key(bytes, e->index, e->value));
        MDB_val                    val = val_of(&pos, sizeof pos);

        mrc = mdb_del(txn, v->dbi[V_ENTRIES], &key, &val);
        if (mrc == MDB_NOTFOUND)
            continue;
        TRY_MDB(mrc, "take an entry out");
        must(mark_of(b, e->index)->state.entries > 0);
        mark_of(b, e->index)->state.entries--;
    }
out:
    return rc;
}

static int
apply_once(struct ox_values *v, const struct values_batch *b, struct err *err)
{
    struct ox_index    *ix = v->ix;
    struct values_state now;
    MDB_txn            *txn = NULL, *done;
    int                 rc = 0;

    TRY_MDB(mdb_txn_begin(ix->env, NULL, 0, &txn), "begin");
    for (uint32_t i = 0; i < b->mark_count; i++) {
        rc = get_state(v, txn, b->marks[i].index, &now, err);
        if (rc != E_NOTFOUND)
            TRY(rc);
        must(mark_of(b, b->marks[i].index) == &b->marks[i]); /* one of each */
        must(b->marks[i].state.covers >= now.covers);
        must(b->marks[i].state.skipped >= now.skipped);
        must(b->marks[i].state.built || !now.built);
        b->marks[i].state.entries = now.entries;
    }
    TRY(put_entries(v, txn, b, err));
    TRY(take_dead(v, txn, b, err));
    for (uint32_t i = 0; i < b->mark_count; i++)
        TRY(put_state(v, txn, b->marks[i].index, &b->marks[i].state, err));
    done = txn;
    txn = NULL;
    TRY_MDB(mdb_txn_commit(done), "commit");
    rc = 0;
out:
    if (txn != NULL)
        mdb_txn_abort(txn);
    return rc;
}

static int
apply(struct ox_values *v, const struct values_batch *b, struct err *err)
{
    int rc;

    must(b->mark_count <= VALUES_MARKS_MAX);
    rc = apply_once(checked(v), b, err);
    for (int i = 0; rc == E_LIMIT && i < MAP_GROWTHS_MAX; i++) {
        TRY(logi_lmdb_grow(v->ix, err));
        rc = apply_once(v, b, err);
    }
    if (rc == 0)
        err_clear(err);
out:
    return rc;
}

static int
drop_some(struct ox_values *v, MDB_txn *txn, uint64_t index, uint32_t most, bool *more,
          struct err *err)
{
    struct ox_index *ix = v->ix;
    MDB_cursor      *cursor = NULL;
    uint8_t          bytes[KEY_BYTES];
    size_t           number = index;
    MDB_val          key, val;
    int              mrc, rc = 0;

    TRY_MDB(mdb_cursor_open(txn, v->dbi[V_ENTRIES], &cursor), "drop");
    *more = false;
    for (uint32_t i = 0;; i++) {
        key = val_of(bytes, pack_key(bytes, index, (struct slice){0}));
        mrc = mdb_cursor_get(cursor, &key, &val, MDB_SET_RANGE);
        if (mrc == MDB_NOTFOUND || (mrc == 0 && !is_of(key, index)))
            break;
        TRY_MDB(mrc, "drop");
        *more = i == most;
        if (*more)
            goto out;
        TRY_MDB(mdb_cursor_del(cursor, MDB_NODUPDATA), "drop");
    }
    key = val_of(&number, sizeof number);
    mrc = mdb_del(txn, v->dbi[V_STATES], &key, NULL);
    if (mrc != MDB_NOTFOUND)
        TRY_MDB(mrc, "drop");
out:
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    return rc;
}

static int
drop_once(struct ox_values *v, uint64_t index, uint32_t most, bool *more, struct err *err)
{
    struct ox_index *ix = v->ix;
    MDB_txn         *txn = NULL, *done;
    int              rc = 0;

    TRY_MDB(mdb_txn_begin(ix->env, NULL, 0, &txn), "begin");
    TRY(drop_some(v, txn, index, most, more, err));
    done = txn;
    txn = NULL;
    TRY_MDB(mdb_txn_commit(done), "commit");
out:
    if (txn != NULL)
        mdb_txn_abort(txn);
    return rc;
}

static int
drop(struct ox_values *v, uint64_t index, uint32_t most, struct err *err)
{
    bool more = false;
    int  rc;

    must(most > 0); /* or it would never be done */
    rc = drop_once(checked(v), index, most, &more, err);
    for (int i = 0; rc == E_LIMIT && i < MAP_GROWTHS_MAX; i++) {
        TRY(logi_lmdb_grow(v->ix, err));
        rc = drop_once(v, index, most, &more, err);
    }
    if (rc == 0)
        rc = more ? E_MORE : 0;
out:
    return rc;
}

/* reading */

static int
state(struct ox_values *v, uint64_t index, struct values_state *out, struct err *err)
{
    MDB_txn *txn = NULL;
    int      rc;

    TRY(logi_lmdb_begin_read(checked(v)->ix, &txn, err));
    rc = get_state(v, txn, index, out, err);
out:
    logi_lmdb_end_read(v->ix, txn);
    return rc;
}

static int
list(struct ox_values *v, uint64_t *indexes, uint32_t most, uint32_t *count, struct err *err)
{
    struct ox_index *ix = checked(v)->ix;
    MDB_txn         *txn = NULL;
    MDB_cursor      *cursor = NULL;
    MDB_val          key, val;
    size_t           number;
    int              mrc, rc;

    *count = 0;
    TRY(logi_lmdb_begin_read(ix, &txn, err));
    TRY_MDB(mdb_cursor_open(txn, v->dbi[V_STATES], &cursor), "list");
    mrc = mdb_cursor_get(cursor, &key, &val, MDB_FIRST);
    for (; mrc == 0 && *count < most; mrc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT)) {
        if (key.mv_size != sizeof number) {
            rc = logi_lmdb_damaged(err, ix, "an index's number");
            goto out;
        }
        memcpy(&number, key.mv_data, sizeof number);
        indexes[(*count)++] = number;
    }
    if (mrc != MDB_NOTFOUND)
        TRY_MDB(mrc, "list");
out:
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    logi_lmdb_end_read(ix, txn);
    return rc;
}

/* The cursor on the first position wanted; MDB_NOTFOUND: there is none. */
static int
seek(MDB_cursor *cursor, MDB_val *key, uint64_t from, bool backwards, uint64_t *pos)
{
    size_t  number = from;
    MDB_val want = *key, val = val_of(&number, sizeof number);
    int     mrc = mdb_cursor_get(cursor, key, &val, MDB_GET_BOTH_RANGE);

    if (mrc == 0 && val.mv_size == sizeof number) {
        memcpy(&number, val.mv_data, sizeof number);
        if (backwards && number > from)
            mrc = mdb_cursor_get(cursor, key, &val, MDB_PREV_DUP);
    } else if (mrc == MDB_NOTFOUND && backwards) {
        mrc = mdb_cursor_get(cursor, &want, &val, MDB_SET);
        if (mrc == 0)
            mrc = mdb_cursor_get(cursor, &want, &val, MDB_LAST_DUP);
    }
    if (mrc != 0)
        return mrc;
    if (val.mv_size != sizeof number)
        return MDB_CORRUPTED;
    memcpy(&number, val.mv_data, sizeof number);
    *pos = number;
    return 0;
}

static int
positions(struct ox_values *v, uint64_t index, struct slice value, uint64_t from, bool backwards,
          uint64_t *out, uint32_t most, uint32_t *count, struct values_state *now, struct err *err)
{
    struct ox_index *ix = checked(v)->ix;
    MDB_txn         *txn = NULL;
    MDB_cursor      *cursor = NULL;
    uint8_t          bytes[KEY_BYTES];
    MDB_val          key, val;
    size_t           number;
    int              mrc, rc;

    must(most > 0); /* the first one is written before it is counted */
    *count = 0;
    TRY(logi_lmdb_begin_read(ix, &txn, err));
    TRY(get_state(v, txn, index, now, err));
    TRY_MDB(mdb_cursor_open(txn, v->dbi[V_ENTRIES], &cursor), "read");
    key = val_of(bytes, pack_key(bytes, index, value));
    mrc = seek(cursor, &key, from, backwards, &out[0]);
    while (mrc == 0 && ++*count < most) {
        mrc = mdb_cursor_get(cursor, &key, &val, backwards ? MDB_PREV_DUP : MDB_NEXT_DUP);
        if (mrc != 0)
            break;
        memcpy(&number, val.mv_data, sizeof number);
        out[*count] = number;
    }
    if (mrc != MDB_NOTFOUND)
        TRY_MDB(mrc, "read");
out:
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    logi_lmdb_end_read(ix, txn);
    return rc;
}

static int
values(struct ox_values *v, uint64_t index, struct slice after, values_fn *fn, void *arg,
       struct err *err)
{
    struct ox_index *ix = checked(v)->ix;
    MDB_txn         *txn = NULL;
    MDB_cursor      *cursor = NULL;
    uint8_t          bytes[KEY_BYTES];
    size_t           len = pack_key(bytes, index, after), count;
    MDB_val          key = val_of(bytes, len), val;
    int              mrc, rc;

    TRY(logi_lmdb_begin_read(ix, &txn, err));
    TRY_MDB(mdb_cursor_open(txn, v->dbi[V_ENTRIES], &cursor), "list values");
    mrc = mdb_cursor_get(cursor, &key, &val, MDB_SET_RANGE);
    if (mrc == 0 && after.len > 0 && key.mv_size == len && memcmp(key.mv_data, bytes, len) == 0)
        mrc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT_NODUP);
    for (; mrc == 0 && is_of(key, index);
         mrc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT_NODUP)) {
        TRY_MDB(mdb_cursor_count(cursor, &count), "count");
        TRY(fn(arg, slice_of((const uint8_t *)key.mv_data + 8, key.mv_size - 8), count, err));
    }
    if (mrc != 0 && mrc != MDB_NOTFOUND)
        TRY_MDB(mrc, "list values");
out:
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    logi_lmdb_end_read(ix, txn);
    return rc;
}

static uint64_t
bytes_of(struct ox_values *v)
{
    MDB_envinfo info;
    MDB_stat    stat;

    if (mdb_env_info(checked(v)->ix->env, &info) != 0 || mdb_env_stat(v->ix->env, &stat) != 0)
        return 0;
    return (info.me_last_pgno + 1) * (uint64_t)stat.ms_psize;
}

const struct ox_values_ops log_values_lmdb = {
    .name = "lmdb",
    .open = open_values,
    .close = close_values,
    .apply = apply,
    .drop = drop,
    .state = state,
    .list = list,
    .positions = positions,
    .values = values,
    .bytes = bytes_of,
};
