/*
 * The index in LMDB: the only file that knows it. Tables:
 *
 *   meta    "index"          → version, log id, covers, stream count, label count
 *   names   name             → id
 *   ids     id               → name                 (written once, in order)
 *   heads   id               → head, and the positions of the last run of versions
 *   runs    id, version      → positions of a full run that begins with that version
 *   labels  kind, name       → number               (categories and types)
 *   lists   number, position → positions of a block that begins with that position
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
 * MDB_WRITEMAP keeps the pages of a large transaction out of the heap, where
 * they would stay. Its danger is a full disk, which would be a SIGBUS: the
 * file's blocks are therefore allocated before the map covers them, and a full
 * disk is an error of apply(). docs/decisions/0003-index.md has the figures.
 *
 * Threads: one applies. Readers take a transaction from a bounded pool for one
 * call and copy out; the map grows only when none is in use.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/lock.h"
#include "base/must.h"
#include "log/index.h"
#include "log/index_label.h"
#include "log/index_pack.h"

#define INDEX_MAGIC 0x1dbe1dbeU
#define INDEX_VERSION 1

#define READERS_MAX 32   /* read transactions of this process at a time */
#define READER_SLOTS 256 /* of all processes */
#define MAP_FIRST (UINT64_C(16) << 20)
#define MAP_STEP_MAX (UINT64_C(256) << 20) /* doubles up to here, then grows by this */
#define MAP_GROWTHS_MAX 64                 /* for one transaction */

#define RUN_MAX 64       /* versions in a run */
#define BLOCK_BYTES 1900 /* of a list's block: two to a page of LMDB */
#define HEAD_BYTES (4 * INDEX_VARINT_MAX + RUN_MAX * INDEX_VARINT_MAX)
#define NAME_MAX_BYTES 255
#define STREAMS_PAGE 32 /* names copied out in one transaction */

#define META_KEY "index"
#define META_BYTES 44

enum table { T_META, T_NAMES, T_IDS, T_HEADS, T_RUNS, T_LABELS, T_LISTS, T_COUNT };

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
};

struct meta {
    uint32_t version;
    uint8_t  log_id[16];
    uint64_t covers, stream_count, label_count;
};

struct ox_index {
    unsigned         magic;
    bool             read_only;
    MDB_env         *env;
    MDB_dbi          dbi[T_COUNT];
    struct meta      meta; /* the applier's own */
    _Atomic uint64_t covers, stream_count;

    struct ox_lock lock; /* of what follows */
    pthread_cond_t changed;
    MDB_txn       *idle[READERS_MAX];
    unsigned       idle_count, made, in_use;
    bool           growing;

    char dir[];
};

/* A record of `heads`, unpacked. */
struct stream_rec {
    struct index_head head;
    uint64_t          first; /* version of the run's first event */
    uint64_t          last;  /* position of the run's last event; 0 where it is empty */
    uint32_t          count;
    size_t            len; /* of bytes */
    uint8_t           bytes[RUN_MAX * INDEX_VARINT_MAX];
};

static struct ox_index *
checked(struct ox_index *ix)
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

static int
fail_mdb(struct err *err, const struct ox_index *ix, const char *what, int mrc)
{
    int           code = code_of(mrc);
    enum err_kind kind = code == E_NOSPC || code == E_NOMEM || code == E_BUSY || code == E_LIMIT
                             ? ERR_RETRY
                             : ERR_FATAL;

    return err_set(err, __FILE__, __LINE__, code, kind, "%s: index: %s: %s", ix->dir, what,
                   mdb_strerror(mrc));
}

#define TRY_MDB(call, what)                                                                        \
    do {                                                                                           \
        int mrc_ = (call);                                                                         \
        if (mrc_ != 0) {                                                                           \
            rc = fail_mdb(err, ix, (what), mrc_);                                                  \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

static int
fail_damaged(struct err *err, const struct ox_index *ix, const char *what)
{
    return err_set(err, __FILE__, __LINE__, E_DAMAGED, ERR_FATAL, "%s: index: damaged: %s", ix->dir,
                   what);
}

static struct slice
slice_of_val(MDB_val v)
{
    return slice_of(v.mv_data, v.mv_size);
}

/* LMDB does not write through what it is given. */
static MDB_val
val_of(const void *data, size_t len)
{
    MDB_val v = {.mv_size = len, .mv_data = (void *)(uintptr_t)data};

    return v;
}

/* read transactions */

/* Called with the lock held. */
static void
wait_change(struct ox_index *ix)
{
    must(pthread_cond_wait(&ix->changed, &ix->lock.mutex) == 0);
}

static void
begin_growing(struct ox_index *ix)
{
    lock_take(&ix->lock);
    while (ix->growing)
        wait_change(ix);
    ix->growing = true; /* no new readers from here on */
    while (ix->in_use > 0)
        wait_change(ix);
    lock_give(&ix->lock);
}

static void
end_growing(struct ox_index *ix)
{
    lock_take(&ix->lock);
    ix->growing = false;
    (void)pthread_cond_broadcast(&ix->changed);
    lock_give(&ix->lock);
}

/* NULL where the caller has to make a new one; it is counted already. */
static MDB_txn *
take_reader(struct ox_index *ix)
{
    MDB_txn *txn = NULL;

    lock_take(&ix->lock);
    while (ix->growing || (ix->idle_count == 0 && ix->made == READERS_MAX))
        wait_change(ix);
    if (ix->idle_count > 0)
        txn = ix->idle[--ix->idle_count];
    else
        ix->made++;
    ix->in_use++;
    lock_give(&ix->lock);
    return txn;
}

static void
give_reader(struct ox_index *ix, MDB_txn *txn)
{
    lock_take(&ix->lock);
    must(ix->in_use > 0);
    ix->in_use--;
    if (txn != NULL)
        ix->idle[ix->idle_count++] = txn;
    else
        ix->made--;
    if (ix->growing || ix->idle_count == 1 || txn == NULL)
        (void)pthread_cond_broadcast(&ix->changed);
    lock_give(&ix->lock);
}

static int
begin_read_once(struct ox_index *ix, MDB_txn **out)
{
    MDB_txn *txn = take_reader(ix);
    int      mrc;

    if (txn != NULL)
        mrc = mdb_txn_renew(txn);
    else
        mrc = mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &txn);
    if (mrc == 0) {
        *out = txn;
        return 0;
    }
    if (txn != NULL)
        mdb_txn_abort(txn);
    give_reader(ix, NULL);
    return mrc;
}

static int
begin_read(struct ox_index *ix, MDB_txn **out, struct err *err)
{
    int rc = 0;
    int mrc;

    *out = NULL;
    mrc = begin_read_once(checked(ix), out);
    /* Another process has grown the file under a reader. */
    for (int i = 0; mrc == MDB_MAP_RESIZED && i < MAP_GROWTHS_MAX; i++) {
        begin_growing(ix);
        mrc = mdb_env_set_mapsize(ix->env, 0);
        end_growing(ix);
        if (mrc == 0)
            mrc = begin_read_once(ix, out);
    }
    TRY_MDB(mrc, "read");
out:
    return rc;
}

static void
end_read(struct ox_index *ix, MDB_txn *txn)
{
    if (txn == NULL)
        return;
    mdb_txn_reset(txn);
    give_reader(ix, txn);
}

/* records */

static void
pack_meta(const struct meta *meta, uint8_t out[META_BYTES])
{
    put_u32(out, meta->version);
    memcpy(out + 4, meta->log_id, 16);
    put_u64(out + 20, meta->covers);
    put_u64(out + 28, meta->stream_count);
    put_u64(out + 36, meta->label_count);
}

/* E_NOTFOUND where there is none that this version can read. */
static int
read_meta(struct ox_index *ix, MDB_txn *txn, struct meta *out, struct err *err)
{
    MDB_val        key = val_of(META_KEY, strlen(META_KEY));
    MDB_val        val;
    const uint8_t *p;
    int            rc = 0;
    int            mrc = mdb_get(txn, ix->dbi[T_META], &key, &val);

    if (mrc == MDB_NOTFOUND)
        return E_NOTFOUND;
    TRY_MDB(mrc, "meta");
    if (val.mv_size != META_BYTES)
        return E_NOTFOUND;
    p = val.mv_data;
    out->version = get_u32(p);
    memcpy(out->log_id, p + 4, 16);
    out->covers = get_u64(p + 20);
    out->stream_count = get_u64(p + 28);
    out->label_count = get_u64(p + 36);
out:
    return rc;
}

static int
write_meta(struct ox_index *ix, MDB_txn *txn, const struct meta *meta, struct err *err)
{
    uint8_t bytes[META_BYTES];
    MDB_val key = val_of(META_KEY, strlen(META_KEY));
    MDB_val val = val_of(bytes, sizeof bytes);
    int     rc = 0;

    pack_meta(meta, bytes);
    TRY_MDB(mdb_put(txn, ix->dbi[T_META], &key, &val, 0), "meta");
out:
    return rc;
}

static size_t
pack_stream(const struct stream_rec *rec, uint8_t out[HEAD_BYTES])
{
    size_t n = 0;

    must((rec->head.last.v & 7) == 0);
    n += logi_varint_put(out + n, rec->head.next);
    n += logi_varint_put(out + n, rec->head.truncate);
    n += logi_varint_put(out + n, rec->head.flags);
    n += logi_varint_put(out + n, rec->head.last.v >> 3);
    memcpy(out + n, rec->bytes, rec->len);
    return n + rec->len;
}

/* `positions` may be NULL; else it has room for RUN_MAX. */
static bool
unpack_stream(struct slice from, struct stream_rec *out, uint64_t *positions)
{
    uint64_t flags = 0;
    uint64_t last = 0;

    if (!logi_varint_get(&from, &out->head.next) || !logi_varint_get(&from, &out->head.truncate) ||
        !logi_varint_get(&from, &flags) || !logi_varint_get(&from, &last))
        return false;
    if (flags > UINT32_MAX || last > UINT64_MAX >> 3 || from.len > sizeof out->bytes)
        return false;
    out->head.flags = (uint32_t)flags;
    out->head.last = LOG_POS(last << 3);
    if (!logi_pos_list(from, 0, positions, RUN_MAX, &out->count, &out->last))
        return false;
    if (out->count > out->head.next)
        return false;
    out->first = out->head.next - out->count;
    out->len = from.len;
    memcpy(out->bytes, from.data, from.len);
    return true;
}

static void
pair_key(uint8_t out[16], uint64_t major, uint64_t minor)
{
    put_u64be(out, major);
    put_u64be(out + 8, minor);
}

/* The record of `major` with the greatest minor key that is not above; MDB_NOTFOUND: none. */
static int
seek_floor(MDB_cursor *cursor, uint64_t major, uint64_t minor, uint64_t *found, MDB_val *val)
{
    uint8_t bytes[16];
    MDB_val key = val_of(bytes, sizeof bytes);
    int     mrc;

    pair_key(bytes, major, minor);
    mrc = mdb_cursor_get(cursor, &key, val, MDB_SET_RANGE);
    if (mrc == MDB_NOTFOUND)
        mrc = mdb_cursor_get(cursor, &key, val, MDB_LAST);
    else if (mrc == 0 && (key.mv_size != 16 || memcmp(key.mv_data, bytes, 16) != 0))
        mrc = mdb_cursor_get(cursor, &key, val, MDB_PREV);
    if (mrc != 0)
        return mrc;
    if (key.mv_size != 16)
        return MDB_CORRUPTED;
    if (get_u64be(key.mv_data) != major)
        return MDB_NOTFOUND;
    *found = get_u64be((const uint8_t *)key.mv_data + 8);
    return 0;
}

/* applying */

struct apply {
    struct ox_index          *ix;
    const struct index_batch *batch;
    MDB_txn                  *txn;
    MDB_cursor               *heads, *runs, *lists;
    struct meta               meta;
};

static int
put_run(struct apply *a, uint64_t id, struct stream_rec *rec, struct err *err)
{
    struct ox_index *ix = a->ix;
    uint8_t          bytes[16];
    MDB_val          key = val_of(bytes, sizeof bytes);
    MDB_val          val = val_of(rec->bytes, rec->len);
    int              rc = 0;

    pair_key(bytes, id, rec->first);
    TRY_MDB(mdb_cursor_put(a->runs, &key, &val, 0), "write a run");
    rec->first += rec->count;
    rec->count = 0;
    rec->len = 0;
    rec->last = 0;
out:
    return rc;
}

static int
add_positions(struct apply *a, const struct index_update *u, struct stream_rec *rec,
              struct err *err)
{
    int rc = 0;

    /* Versions that a scavenged log has no more leave a hole between two runs. */
    if (rec->head.next != u->head.next - u->count && rec->count > 0)
        TRY(put_run(a, u->id, rec, err));
    if (rec->count == 0)
        rec->first = u->head.next - u->count;
    for (uint32_t i = 0; i < u->count; i++) {
        if (rec->count == RUN_MAX)
            TRY(put_run(a, u->id, rec, err));
        rec->len += logi_pos_put(rec->bytes + rec->len, rec->last, u->positions[i]);
        rec->last = u->positions[i];
        rec->count++;
    }
out:
    return rc;
}

/* Is what the index has what the update goes on from? Else one of them is wrong. */
static bool
goes_on(const struct index_update *u, const struct stream_rec *rec)
{
    if (u->count == 0)
        return u->head.next == rec->head.next;
    return rec->head.next <= u->head.next - u->count &&
           (rec->count == 0 || rec->last < u->positions[0]);
}

static int
put_update(struct apply *a, const struct index_update *u, struct err *err)
{
    struct ox_index  *ix = a->ix;
    struct stream_rec rec = {.count = 0};
    uint8_t           bytes[HEAD_BYTES];
    size_t            id = u->id;
    MDB_val           key = val_of(&id, sizeof id);
    MDB_val           val;
    int               mrc;
    int               rc = 0;

    must(u->count <= u->head.next);
    mrc = mdb_cursor_get(a->heads, &key, &val, MDB_SET);
    if (mrc == 0) {
        if (u->name.len > 0 || !unpack_stream(slice_of_val(val), &rec, NULL))
            return fail_damaged(err, ix, "a new stream's id is taken");
        if (!goes_on(u, &rec))
            return fail_damaged(err, ix, "a stream does not go on from its head");
    } else if (mrc == MDB_NOTFOUND) {
        if (u->name.len == 0)
            return fail_damaged(err, ix, "a stream is missing");
    } else {
        return fail_mdb(err, ix, "find a head", mrc);
    }
    TRY(add_positions(a, u, &rec, err));
    rec.head = u->head;
    key = val_of(&id, sizeof id);
    val = val_of(bytes, pack_stream(&rec, bytes));
    TRY_MDB(mdb_cursor_put(a->heads, &key, &val, mrc == 0 ? MDB_CURRENT : 0), "write a head");
out:
    return rc;
}

static int
cmp_names(const void *a, const void *b)
{
    const struct index_update *const *x = a;
    const struct index_update *const *y = b;

    return slice_cmp((*x)->name, (*y)->name);
}

static int
put_name(struct apply *a, const struct index_update *u, struct err *err)
{
    struct ox_index *ix = a->ix;
    uint8_t          bytes[8];
    MDB_val          key = val_of(u->name.data, u->name.len);
    MDB_val          val = val_of(bytes, sizeof bytes);
    int              rc = 0;
    int              mrc;

    must(u->name.len <= NAME_MAX_BYTES);
    put_u64(bytes, u->id);
    mrc = mdb_put(a->txn, ix->dbi[T_NAMES], &key, &val, MDB_NOOVERWRITE);
    if (mrc == MDB_KEYEXIST)
        return fail_damaged(err, ix, "a new stream's name is taken");
    TRY_MDB(mrc, "write a name");
out:
    return rc;
}

/* In the order of the names, so that neighbours are on one page while it is at hand. */
static int
put_names(struct apply *a, struct err *err)
{
    struct ox_index            *ix = a->ix;
    const struct index_update **sorted = NULL;
    MDB_cursor                 *ids = NULL;
    uint32_t                    count = 0;
    int                         rc = 0;

    for (uint32_t i = 0; i < a->batch->update_count; i++)
        count += a->batch->updates[i].name.len > 0;
    if (count == 0)
        return 0;
    sorted = calloc(count, sizeof *sorted);
    if (sorted == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "%s: index: no memory for %u names", ix->dir, count);
    TRY_MDB(mdb_cursor_open(a->txn, ix->dbi[T_IDS], &ids), "write names");
    count = 0;
    for (uint32_t i = 0; i < a->batch->update_count; i++) {
        const struct index_update *u = &a->batch->updates[i];
        size_t                     id = u->id;
        MDB_val                    key = val_of(&id, sizeof id);
        MDB_val                    val = val_of(u->name.data, u->name.len);
        int                        mrc;

        if (u->name.len == 0)
            continue;
        sorted[count++] = u;
        /* Ids grow: pages are filled whole. A lower one (staged streams) goes the usual way. */
        mrc = mdb_cursor_put(ids, &key, &val, MDB_APPEND);
        if (mrc == MDB_KEYEXIST)
            mrc = mdb_cursor_put(ids, &key, &val, 0);
        TRY_MDB(mrc, "write a name");
    }
    qsort(sorted, count, sizeof *sorted, cmp_names);
    for (uint32_t i = 0; i < count; i++)
        TRY(put_name(a, sorted[i], err));
out:
    if (ids != NULL)
        mdb_cursor_close(ids);
    free(sorted);
    return rc;
}

static size_t
label_key(uint8_t out[1 + NAME_MAX_BYTES], uint32_t kind, struct slice name)
{
    must(name.len <= NAME_MAX_BYTES);
    out[0] = (uint8_t)kind;
    memcpy(out + 1, name.data, name.len);
    return 1 + name.len;
}

/* E_NOTFOUND, without a text, where the label was never used. */
static int
find_label(struct ox_index *ix, MDB_txn *txn, uint32_t kind, struct slice name, uint64_t *number,
           struct err *err)
{
    uint8_t bytes[1 + NAME_MAX_BYTES];
    MDB_val key;
    MDB_val val;
    int     mrc;
    int     rc = 0;

    if (name.len == 0 || name.len > NAME_MAX_BYTES)
        return E_NOTFOUND;
    key = val_of(bytes, label_key(bytes, kind, name));
    mrc = mdb_get(txn, ix->dbi[T_LABELS], &key, &val);
    if (mrc == MDB_NOTFOUND)
        return E_NOTFOUND;
    TRY_MDB(mrc, "find a label");
    if (val.mv_size != 8)
        return fail_damaged(err, ix, "a label's number");
    *number = get_u64(val.mv_data);
out:
    return rc;
}

static int
label_number(struct apply *a, const struct index_label *label, uint64_t *number, struct err *err)
{
    struct ox_index *ix = a->ix;
    uint8_t          bytes[1 + NAME_MAX_BYTES];
    uint8_t          num[8];
    MDB_val          key = val_of(bytes, label_key(bytes, label->kind, label->name));
    MDB_val          val = val_of(num, sizeof num);
    int              rc = find_label(ix, a->txn, label->kind, label->name, number, err);

    if (rc != E_NOTFOUND)
        return rc;
    rc = 0;
    *number = a->meta.label_count++;
    put_u64(num, *number);
    TRY_MDB(mdb_put(a->txn, ix->dbi[T_LABELS], &key, &val, 0), "write a label");
out:
    return rc;
}

struct block {
    uint64_t first, last;
    size_t   len;
    bool     used;
    uint8_t  bytes[BLOCK_BYTES];
};

static int
last_block(struct apply *a, uint64_t number, struct block *out, struct err *err)
{
    struct ox_index *ix = a->ix;
    uint32_t         count = 0;
    MDB_val          val;
    int              rc = 0;
    int              mrc = seek_floor(a->lists, number, UINT64_MAX, &out->first, &val);

    out->used = false;
    out->len = 0;
    if (mrc == MDB_NOTFOUND)
        return 0;
    TRY_MDB(mrc, "find a list");
    if (val.mv_size > BLOCK_BYTES ||
        !logi_pos_list(slice_of_val(val), out->first, NULL, BLOCK_BYTES, &count, &out->last))
        return fail_damaged(err, ix, "a list's block");
    out->used = true;
    out->len = val.mv_size;
    memcpy(out->bytes, val.mv_data, val.mv_size);
out:
    return rc;
}

static int
put_block(struct apply *a, uint64_t number, const struct block *block, struct err *err)
{
    struct ox_index *ix = a->ix;
    uint8_t          bytes[16];
    MDB_val          key = val_of(bytes, sizeof bytes);
    MDB_val          val = val_of(block->bytes, block->len);
    int              rc = 0;

    pair_key(bytes, number, block->first);
    TRY_MDB(mdb_cursor_put(a->lists, &key, &val, 0), "write a list");
out:
    return rc;
}

static int
put_label(struct apply *a, const struct index_label *label, const uint64_t *positions,
          struct err *err)
{
    struct block block;
    uint64_t     number = 0;
    int          rc;

    TRY(label_number(a, label, &number, err));
    TRY(last_block(a, number, &block, err));
    for (uint32_t i = 0; i < label->count; i++) {
        uint8_t step[INDEX_VARINT_MAX];
        size_t  len;

        if (block.used && positions[i] <= block.last)
            return fail_damaged(err, a->ix, "a list has events that are yet to come");
        len = block.used ? logi_pos_put(step, block.last, positions[i]) : 0;
        if (block.used && block.len + len > BLOCK_BYTES) {
            TRY(put_block(a, number, &block, err));
            block.used = false;
        }
        if (block.used) {
            memcpy(block.bytes + block.len, step, len);
            block.len += len;
        } else {
            must((positions[i] & 7) == 0);
            block.first = positions[i];
            block.len = 0;
            block.used = true;
        }
        block.last = positions[i];
    }
    TRY(put_block(a, number, &block, err));
out:
    return rc;
}

static int
write_batch(struct apply *a, const struct index_labels *labels, struct err *err)
{
    struct ox_index *ix = a->ix;
    int              rc = 0;

    TRY_MDB(mdb_cursor_open(a->txn, ix->dbi[T_HEADS], &a->heads), "apply");
    TRY_MDB(mdb_cursor_open(a->txn, ix->dbi[T_RUNS], &a->runs), "apply");
    TRY_MDB(mdb_cursor_open(a->txn, ix->dbi[T_LISTS], &a->lists), "apply");
    for (uint32_t i = 0; i < a->batch->update_count; i++) {
        const struct index_update *u = &a->batch->updates[i];

        must(i == 0 || u->id > u[-1].id);
        TRY(put_update(a, u, err));
    }
    TRY(put_names(a, err));
    for (uint32_t i = 0; i < labels->count; i++) {
        const struct index_label *label = &labels->labels[i];

        TRY(put_label(a, label, labels->positions + label->start, err));
    }
    a->meta.covers = a->batch->covers.v;
    a->meta.stream_count = a->batch->stream_count;
    TRY(write_meta(ix, a->txn, &a->meta, err));
out:
    return rc;
}

/* E_LIMIT: the map is full, and nothing has changed. */
static int
apply_once(struct ox_index *ix, const struct index_batch *batch, const struct index_labels *labels,
           struct err *err)
{
    struct apply a = {.ix = ix, .batch = batch, .meta = ix->meta};
    MDB_txn     *txn = NULL;
    int          rc = 0;

    TRY_MDB(mdb_txn_begin(ix->env, NULL, 0, &a.txn), "begin");
    rc = write_batch(&a, labels, err);
    if (a.heads != NULL)
        mdb_cursor_close(a.heads);
    if (a.runs != NULL)
        mdb_cursor_close(a.runs);
    if (a.lists != NULL)
        mdb_cursor_close(a.lists);
    if (rc != 0)
        goto out;
    txn = a.txn;
    a.txn = NULL; /* the commit frees it, whatever it answers */
    TRY_MDB(mdb_txn_commit(txn), "commit");
    ix->meta = a.meta;
    atomic_store(&ix->covers, a.meta.covers);
    atomic_store(&ix->stream_count, a.meta.stream_count);
out:
    if (a.txn != NULL)
        mdb_txn_abort(a.txn);
    return rc;
}

/* The blocks first, then the map: a page that is mapped always has its block. */
static int
allocate(struct ox_index *ix, uint64_t from, uint64_t to, struct err *err)
{
    int fd = -1;
    int errnum;
    int rc = 0;

    TRY_MDB(mdb_env_get_fd(ix->env, &fd), "allocate");
    do {
        errnum = posix_fallocate(fd, (off_t)from, (off_t)(to - from));
    } while (errnum == EINTR);
    if (errnum != 0 && from > 0)
        (void)!ftruncate(fd, (off_t)from);
    TRY_MDB(errnum, "allocate");
out:
    return rc;
}

static int
grow(struct ox_index *ix, struct err *err)
{
    MDB_envinfo info;
    uint64_t    size;
    uint64_t    step;
    int         dead = 0;
    int         rc = 0;

    begin_growing(ix);
    TRY_MDB(mdb_reader_check(ix->env, &dead), "grow");
    TRY_MDB(mdb_env_info(ix->env, &info), "grow");
    size = info.me_mapsize;
    step = size < MAP_STEP_MAX ? size : MAP_STEP_MAX;
    TRY(allocate(ix, size, size + step, err));
    TRY_MDB(mdb_env_set_mapsize(ix->env, size + step), "grow");
out:
    end_growing(ix);
    return rc;
}

static int
apply(struct ox_index *ix, const struct index_batch *batch, struct err *err)
{
    struct index_labels labels = {.labels = NULL};
    int                 rc;

    must(!checked(ix)->read_only);
    must(batch->covers.v >= ix->meta.covers);
    must(batch->stream_count >= ix->meta.stream_count);
    TRY(logi_labels_init(&labels, batch->events, batch->event_count, err));
    rc = apply_once(ix, batch, &labels, err);
    for (int i = 0; rc == E_LIMIT && i < MAP_GROWTHS_MAX; i++) {
        TRY(grow(ix, err));
        rc = apply_once(ix, batch, &labels, err);
    }
    if (rc == 0)
        err_clear(err);
out:
    logi_labels_fini(&labels);
    return rc;
}

static int
empty_tables(struct ox_index *ix, MDB_txn *txn, struct err *err)
{
    int rc = 0;

    for (int t = 0; t < T_COUNT; t++)
        TRY_MDB(mdb_drop(txn, ix->dbi[t], 0), "empty");
    ix->meta.version = INDEX_VERSION;
    ix->meta.covers = 0;
    ix->meta.stream_count = 0;
    ix->meta.label_count = 0;
    TRY(write_meta(ix, txn, &ix->meta, err));
out:
    return rc;
}

static int
sync_index(struct ox_index *ix, struct err *err)
{
    int rc = 0;

    must(!checked(ix)->read_only);
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

    must(!checked(ix)->read_only);
    rc = reset_once(ix, err);
    for (int i = 0; rc == E_LIMIT && i < MAP_GROWTHS_MAX; i++) {
        TRY(grow(ix, err));
        rc = reset_once(ix, err);
    }
    TRY(rc);
    TRY(sync_index(ix, err));
out:
    return rc;
}

/* opening */

static void
close_index(struct ox_index *ix)
{
    if (ix == NULL)
        return;
    must(checked(ix)->in_use == 0);
    while (ix->idle_count > 0)
        mdb_txn_abort(ix->idle[--ix->idle_count]);
    if (ix->env != NULL)
        mdb_env_close(ix->env);
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
    unsigned    flags = MDB_NOTLS | (ix->read_only ? MDB_RDONLY : MDB_WRITEMAP | MDB_NOMETASYNC);
    uint64_t    map = bytes > MAP_FIRST ? (bytes + 0xfffff) & ~UINT64_C(0xfffff) : MAP_FIRST;
    MDB_envinfo info;
    MDB_stat    stat;
    int         dead = 0;
    int         rc = 0;

    TRY_MDB(mdb_env_create(&ix->env), "open");
    TRY_MDB(mdb_env_set_maxdbs(ix->env, T_COUNT), "open");
    TRY_MDB(mdb_env_set_maxreaders(ix->env, READER_SLOTS), "open");
    TRY_MDB(mdb_env_set_mapsize(ix->env, map), "open");
    TRY_MDB(mdb_env_open(ix->env, ix->dir, flags, 0600), "open");
    TRY_MDB(mdb_env_info(ix->env, &info), "open");
    TRY_MDB(mdb_env_stat(ix->env, &stat), "open");
    /* LMDB would take the missing end of a file that was cut for empty pages. */
    if (bytes > 0 && (info.me_last_pgno + 1) * (uint64_t)stat.ms_psize > bytes)
        return fail_damaged(err, ix, "the file is shorter than it says");
    if (ix->read_only)
        return 0;
    TRY(allocate(ix, 0, info.me_mapsize, err));
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
        return fail_damaged(err, ix, "its tables do not agree");
out:
    return rc;
}

/* Empties an index of another log or version. */
static int
adopt(struct ox_index *ix, MDB_txn *txn, const uint8_t *log_id, struct err *err)
{
    struct meta found = {.version = 0};
    int         rc = read_meta(ix, txn, &found, err);

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
open_tables(struct ox_index *ix, const uint8_t *log_id, struct err *err)
{
    MDB_txn *txn = NULL;
    MDB_txn *done;
    unsigned create = ix->read_only ? 0 : MDB_CREATE;
    int      rc = 0;

    TRY_MDB(mdb_txn_begin(ix->env, NULL, ix->read_only ? MDB_RDONLY : 0, &txn), "open");
    for (int t = 0; t < T_COUNT; t++) {
        int mrc = mdb_dbi_open(txn, tables[t].name, tables[t].flags | create, &ix->dbi[t]);

        if (mrc == MDB_NOTFOUND)
            FAIL(err, E_FORMAT, ERR_FATAL, "%s: index: has no table %s", ix->dir, tables[t].name);
        TRY_MDB(mrc, "open a table");
    }
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
open_index(struct ox_env *env, const char *dir, const uint8_t *log_id, bool read_only,
           struct ox_index **out, struct err *err)
{
    size_t           len = strlen(dir) + 1;
    struct ox_index *ix = calloc(1, sizeof *ix + len);
    uint64_t         bytes = 0;
    int              rc = 0;

    *out = NULL;
    if (ix == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "%s: index: no memory", dir);
    ix->magic = INDEX_MAGIC;
    ix->read_only = read_only;
    memcpy(ix->dir, dir, len);
    lock_init(&ix->lock, LOCK_INDEX);
    must(pthread_cond_init(&ix->changed, NULL) == 0);
    if (!read_only)
        TRY(env->ops->dir_make(env, dir, err));
    TRY(file_bytes(env, ix, &bytes, err));
    TRY(open_env(ix, bytes, err));
    TRY(open_tables(ix, log_id, err));
    *out = ix;
    ix = NULL;
out:
    close_index(ix);
    return rc;
}

/* reading */

/* A reader beside the writing process sees it move on. */
static void
refresh(struct ox_index *ix)
{
    struct meta now = {.version = 0};
    MDB_txn    *txn = NULL;

    if (!ix->read_only || begin_read(ix, &txn, NULL) != 0)
        return;
    if (read_meta(ix, txn, &now, NULL) == 0) {
        atomic_store(&ix->covers, now.covers);
        atomic_store(&ix->stream_count, now.stream_count);
    }
    end_read(ix, txn);
}

static struct log_pos
covers(struct ox_index *ix)
{
    refresh(checked(ix));
    return LOG_POS(atomic_load(&ix->covers));
}

static uint64_t
stream_count(struct ox_index *ix)
{
    refresh(checked(ix));
    return atomic_load(&ix->stream_count);
}

static int
get_stream(struct ox_index *ix, MDB_txn *txn, uint64_t id, struct stream_rec *rec,
           uint64_t *positions, struct err *err)
{
    size_t  number = id;
    MDB_val key = val_of(&number, sizeof number);
    MDB_val val;
    int     rc = 0;
    int     mrc = mdb_get(txn, ix->dbi[T_HEADS], &key, &val);

    if (mrc == MDB_NOTFOUND)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "no stream has the id %llu", (unsigned long long)id);
    TRY_MDB(mrc, "find a head");
    if (!unpack_stream(slice_of_val(val), rec, positions))
        return fail_damaged(err, ix, "a stream's head");
out:
    return rc;
}

static int
find(struct ox_index *ix, struct slice name, uint64_t *id, struct index_head *head, struct err *err)
{
    struct stream_rec rec;
    MDB_txn          *txn = NULL;
    MDB_val           key = val_of(name.data, name.len);
    MDB_val           val;
    int               rc = 0;
    int               mrc = MDB_NOTFOUND;

    TRY(begin_read(ix, &txn, err));
    if (name.len > 0 && name.len <= NAME_MAX_BYTES)
        mrc = mdb_get(txn, ix->dbi[T_NAMES], &key, &val);
    if (mrc == MDB_NOTFOUND)
        FAIL(err, E_NOTFOUND, ERR_DATA, "there is no stream of this name");
    TRY_MDB(mrc, "find a name");
    if (val.mv_size != 8) {
        rc = fail_damaged(err, ix, "a name's id");
        goto out;
    }
    *id = get_u64(val.mv_data);
    TRY(get_stream(ix, txn, *id, &rec, NULL, err));
    *head = rec.head;
out:
    end_read(ix, txn);
    return rc;
}

static int
head_of(struct ox_index *ix, uint64_t id, struct index_head *head, struct err *err)
{
    struct stream_rec rec;
    MDB_txn          *txn = NULL;
    int               rc;

    TRY(begin_read(ix, &txn, err));
    TRY(get_stream(ix, txn, id, &rec, NULL, err));
    *head = rec.head;
out:
    end_read(ix, txn);
    return rc;
}

static int
name_of(struct ox_index *ix, uint64_t id, char out[256], size_t *len, struct err *err)
{
    size_t   number = id;
    MDB_val  key = val_of(&number, sizeof number);
    MDB_val  val;
    MDB_txn *txn = NULL;
    int      mrc;
    int      rc;

    TRY(begin_read(ix, &txn, err));
    mrc = mdb_get(txn, ix->dbi[T_IDS], &key, &val);
    if (mrc == MDB_NOTFOUND)
        FAIL(err, E_NOTFOUND, ERR_DATA, "no stream has the id %llu", (unsigned long long)id);
    TRY_MDB(mrc, "find an id");
    if (val.mv_size > NAME_MAX_BYTES) {
        rc = fail_damaged(err, ix, "a stream's name");
        goto out;
    }
    memcpy(out, val.mv_data, val.mv_size);
    *len = val.mv_size;
out:
    end_read(ix, txn);
    return rc;
}

/* The run that has `version`: its first version and its positions; count 0 where there is none. */
static int
get_run(struct ox_index *ix, MDB_cursor *cursor, uint64_t id, uint64_t version, uint64_t *first,
        uint64_t positions[RUN_MAX], uint32_t *count, struct err *err)
{
    uint64_t last = 0;
    MDB_val  val;
    int      rc = 0;
    int      mrc = seek_floor(cursor, id, version, first, &val);

    *count = 0;
    if (mrc == MDB_NOTFOUND)
        return 0;
    TRY_MDB(mrc, "find a run");
    if (!logi_pos_list(slice_of_val(val), 0, positions, RUN_MAX, count, &last))
        return fail_damaged(err, ix, "a run of positions");
    if (version - *first >= *count)
        *count = 0;
out:
    return rc;
}

static int
get_positions(struct ox_index *ix, MDB_txn *txn, MDB_cursor *runs, uint64_t id, uint64_t from,
              bool backwards, uint64_t *out, uint32_t max, uint32_t *count, struct err *err)
{
    struct stream_rec rec;
    uint64_t          tail[RUN_MAX];
    uint64_t          run[RUN_MAX];
    int               rc;

    TRY(get_stream(ix, txn, id, &rec, tail, err));
    while (*count < max) {
        const uint64_t *have = run;
        uint64_t        first = 0;
        uint32_t        n = 0;

        if (from >= rec.head.next)
            break;
        if (from >= rec.first) {
            have = tail;
            first = rec.first;
            n = rec.count;
        } else {
            TRY(get_run(ix, runs, id, from, &first, run, &n, err));
        }
        if (n == 0)
            break;
        if (backwards) {
            for (uint64_t i = from - first + 1; i > 0 && *count < max; i--)
                out[(*count)++] = have[i - 1];
            if (first == 0)
                break;
            from = first - 1;
        } else {
            for (uint64_t i = from - first; i < n && *count < max; i++)
                out[(*count)++] = have[i];
            from = first + n;
        }
    }
out:
    return rc;
}

static int
positions_of(struct ox_index *ix, uint64_t id, uint64_t from, bool backwards, uint64_t *positions,
             uint32_t max, uint32_t *count, struct err *err)
{
    MDB_txn    *txn = NULL;
    MDB_cursor *runs = NULL;
    int         rc;

    *count = 0;
    TRY(begin_read(ix, &txn, err));
    TRY_MDB(mdb_cursor_open(txn, ix->dbi[T_RUNS], &runs), "read");
    rc = get_positions(ix, txn, runs, id, from, backwards, positions, max, count, err);
    if (rc == E_NOTFOUND) {
        err_clear(err);
        rc = 0;
    }
out:
    if (runs != NULL)
        mdb_cursor_close(runs);
    end_read(ix, txn);
    return rc;
}

struct page {
    uint32_t count;
    struct {
        uint64_t          id;
        struct index_head head;
        uint32_t          len;
        char              name[NAME_MAX_BYTES + 1];
    } streams[STREAMS_PAGE];
};

/* The next names after `after`, copied, so that the callback runs outside of any transaction. */
static int
read_page(struct ox_index *ix, struct slice prefix, struct slice after, struct page *page,
          struct err *err)
{
    struct slice      start = slice_cmp(after, prefix) >= 0 ? after : prefix;
    struct stream_rec rec;
    MDB_txn          *txn = NULL;
    MDB_cursor       *cursor = NULL;
    MDB_val           key = val_of(start.data, start.len);
    MDB_val           val;
    int               mrc;
    int               rc;

    page->count = 0;
    TRY(begin_read(ix, &txn, err));
    TRY_MDB(mdb_cursor_open(txn, ix->dbi[T_NAMES], &cursor), "list");
    mrc = mdb_cursor_get(cursor, &key, &val, start.len == 0 ? MDB_FIRST : MDB_SET_RANGE);
    if (mrc == 0 && after.len > 0 && slice_eq(slice_of_val(key), after))
        mrc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT);
    while (mrc == 0 && page->count < STREAMS_PAGE && slice_starts(slice_of_val(key), prefix)) {
        if (val.mv_size != 8 || key.mv_size > NAME_MAX_BYTES) {
            rc = fail_damaged(err, ix, "a name's id");
            goto out;
        }
        page->streams[page->count].id = get_u64(val.mv_data);
        TRY(get_stream(ix, txn, page->streams[page->count].id, &rec, NULL, err));
        page->streams[page->count].head = rec.head;
        page->streams[page->count].len = (uint32_t)key.mv_size;
        memcpy(page->streams[page->count].name, key.mv_data, key.mv_size);
        page->count++;
        mrc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT);
    }
    if (mrc != MDB_NOTFOUND)
        TRY_MDB(mrc, "list");
out:
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    end_read(ix, txn);
    return rc;
}

static int
list_streams(struct ox_index *ix, struct slice prefix, struct slice after, index_stream_fn *fn,
             void *arg, struct err *err)
{
    struct page page;
    char        last[NAME_MAX_BYTES + 1];
    int         rc = 0;

    if (prefix.len > NAME_MAX_BYTES)
        return 0;
    if (after.len > NAME_MAX_BYTES)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a name is at most %d bytes", NAME_MAX_BYTES);
    do {
        TRY(read_page(ix, prefix, after, &page, err));
        for (uint32_t i = 0; i < page.count; i++)
            TRY(fn(arg, slice_of(page.streams[i].name, page.streams[i].len), page.streams[i].id,
                   &page.streams[i].head, err));
        if (page.count > 0) {
            after = slice_of(last, page.streams[page.count - 1].len);
            memcpy(last, page.streams[page.count - 1].name, after.len);
        }
    } while (page.count == STREAMS_PAGE);
out:
    return rc;
}

/* Unpacks a block and takes what is wanted of it. */
static int
take_block(struct ox_index *ix, uint64_t first, MDB_val val, uint64_t from, bool backwards,
           uint64_t *out, uint32_t max, uint32_t *count, struct err *err)
{
    uint64_t block[BLOCK_BYTES + 1];
    uint64_t last = 0;
    uint32_t n = 0;

    block[0] = first;
    if (!logi_pos_list(slice_of_val(val), first, block + 1, BLOCK_BYTES, &n, &last))
        return fail_damaged(err, ix, "a list's block");
    n++;
    for (uint32_t i = 0; i < n && *count < max; i++) {
        uint64_t pos = block[backwards ? n - 1 - i : i];

        if (backwards ? pos <= from : pos >= from)
            out[(*count)++] = pos;
    }
    return 0;
}

static int
get_list(struct ox_index *ix, MDB_cursor *cursor, uint64_t number, uint64_t from, bool backwards,
         uint64_t *out, uint32_t max, uint32_t *count, struct err *err)
{
    uint8_t  bytes[16];
    uint64_t first = from;
    MDB_val  key = val_of(bytes, sizeof bytes);
    MDB_val  val;
    int      rc = 0;
    int      mrc = seek_floor(cursor, number, from, &first, &val);

    if (mrc == MDB_NOTFOUND && !backwards) {
        pair_key(bytes, number, from);
        mrc = mdb_cursor_get(cursor, &key, &val, MDB_SET_RANGE);
        if (mrc == 0 && get_u64be(key.mv_data) != number)
            mrc = MDB_NOTFOUND;
        if (mrc == 0)
            first = get_u64be((const uint8_t *)key.mv_data + 8);
    }
    while (mrc == 0 && *count < max) {
        TRY(take_block(ix, first, val, from, backwards, out, max, count, err));
        mrc = mdb_cursor_get(cursor, &key, &val, backwards ? MDB_PREV : MDB_NEXT);
        if (mrc == 0 && get_u64be(key.mv_data) != number)
            mrc = MDB_NOTFOUND;
        if (mrc == 0)
            first = get_u64be((const uint8_t *)key.mv_data + 8);
    }
    if (mrc != MDB_NOTFOUND)
        TRY_MDB(mrc, "read a list");
out:
    return rc;
}

static int
list_of(struct ox_index *ix, uint32_t kind, struct slice name, uint64_t from, bool backwards,
        uint64_t *positions, uint32_t max, uint32_t *count, struct err *err)
{
    MDB_txn    *txn = NULL;
    MDB_cursor *cursor = NULL;
    uint64_t    number = 0;
    int         rc;

    *count = 0;
    TRY(begin_read(ix, &txn, err));
    rc = find_label(ix, txn, kind, name, &number, err);
    if (rc == E_NOTFOUND) {
        rc = 0; /* a label that nothing has: an empty list */
        goto out;
    }
    TRY(rc);
    TRY_MDB(mdb_cursor_open(txn, ix->dbi[T_LISTS], &cursor), "read a list");
    rc = get_list(ix, cursor, number, from, backwards, positions, max, count, err);
out:
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    end_read(ix, txn);
    return rc;
}

static int
category(struct ox_index *ix, struct slice name, uint64_t from, bool backwards, uint64_t *positions,
         uint32_t max, uint32_t *count, struct err *err)
{
    return list_of(ix, INDEX_CATEGORY, name, from, backwards, positions, max, count, err);
}

static int
type(struct ox_index *ix, struct slice name, uint64_t from, bool backwards, uint64_t *positions,
     uint32_t max, uint32_t *count, struct err *err)
{
    return list_of(ix, INDEX_TYPE, name, from, backwards, positions, max, count, err);
}

const struct ox_index_ops log_index_lmdb = {
    .name = "lmdb",
    .open = open_index,
    .close = close_index,
    .reset = reset,
    .apply = apply,
    .sync = sync_index,
    .covers = covers,
    .stream_count = stream_count,
    .find = find,
    .head = head_of,
    .name_of = name_of,
    .positions = positions_of,
    .streams = list_streams,
    .category = category,
    .type = type,
};
