/*
 * Between the files of the index in LMDB only; index_lmdb.c says what the
 * tables are and what a crash leaves.
 */
#ifndef OX_LOG_INDEX_LMDB_INT_H
#define OX_LOG_INDEX_LMDB_INT_H

#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/lock.h"
#include "log/index.h"
#include "log/index_pack.h"

#define INDEX_MAGIC 0x1dbe1dbeU
#define INDEX_VERSION 2

#define READERS_MAX 32   /* read transactions of this process at a time */
#define READER_SLOTS 256 /* of all processes */
#define MAP_FIRST (UINT64_C(16) << 20)
#define MAP_STEP_MAX (UINT64_C(128) << 20) /* doubles up to here, then grows by this */
#define MAP_GROWTHS_MAX 64                 /* for one transaction */
#define PAGE_ABOUT 4096u                   /* bytes of LMDB's pages nearly everywhere */
#define TRIM_BYTES (1 << 20)               /* of free heap that the C library keeps */
#define HEAP_PAGES 1024u                   /* a transaction with more of them is a large one */

#define RUN_MAX 64       /* versions in a run */
#define BLOCK_BYTES 1900 /* of a list's block: two to a page of LMDB */
#define HEAD_BYTES (7 * INDEX_VARINT_MAX + RUN_MAX * INDEX_VARINT_MAX)
#define HEAD_LIMITED 0x40000000u /* of the packed flags: the limits follow */
#define NAME_MAX_BYTES 255
#define STREAMS_PAGE 32 /* names copied out in one transaction */

#define META_KEY "index"
#define META_BYTES 44

enum table {
    T_META,
    T_NAMES,
    T_IDS,
    T_HEADS,
    T_RUNS,
    T_LABELS,
    T_LISTS,
    T_RESTRICTED,
    T_FIRSTS,
    T_COUNT
};

struct meta {
    uint32_t version;
    uint8_t  log_id[16];
    uint64_t covers, stream_count, label_count;
};

struct ox_index {
    unsigned         magic;
    bool             read_only;
    unsigned         flags; /* of LMDB's for the file */
    struct ox_env   *os;
    MDB_env         *env; /* NULL: could not be opened again, which apply() tries once more */
    MDB_dbi          dbi[T_COUNT];
    struct meta      meta; /* the applier's own */
    _Atomic uint64_t covers, stream_count;

    struct ox_lock lock; /* of what follows */
    pthread_cond_t changed;
    MDB_txn       *idle[READERS_MAX];
    unsigned       idle_count, made, in_use;
    bool           alone; /* somebody changes the file under it */

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

/* Asserts that it is one. */
struct ox_index *logi_lmdb_checked(struct ox_index *ix);

/* Sets the error for what LMDB answered; MDB_MAP_FULL is E_LIMIT. */
int logi_lmdb_fail(struct err *err, const struct ox_index *ix, const char *what, int mrc);
int logi_lmdb_damaged(struct err *err, const struct ox_index *ix, const char *what);

#define TRY_MDB(call, what)                                                                        \
    do {                                                                                           \
        int mrc_ = (call);                                                                         \
        if (mrc_ != 0) {                                                                           \
            rc = logi_lmdb_fail(err, ix, (what), mrc_);                                            \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

static inline struct slice
slice_of_val(MDB_val v)
{
    return slice_of(v.mv_data, v.mv_size);
}

/* LMDB does not write through what it is given. */
static inline MDB_val
val_of(const void *data, size_t len)
{
    MDB_val v = {.mv_size = len, .mv_data = (void *)(uintptr_t)data};

    return v;
}

/*
 * The file without its tables, which the indexes on fields (index_lmdb_values.c) use too; `flags`
 * are those of mdb_env_open().
 */
int  logi_lmdb_env_new(struct ox_env *env, const char *dir, unsigned flags, struct ox_index **out,
                       struct err *err);
void logi_lmdb_env_free(struct ox_index *ix); /* NULL is fine */

/*
 * Closes the file and opens it again, with nobody reading meanwhile: LMDB gives the pages of its
 * transactions back to the heap then only. After an error it is closed, and reads fail.
 */
int logi_lmdb_reopen(struct ox_index *ix, struct err *err);

/* For whoever writes: opens what could not be opened again. */
static inline int
logi_lmdb_ready(struct ox_index *ix, struct err *err)
{
    return ix->env != NULL ? 0 : logi_lmdb_reopen(ix, err);
}

/* index_lmdb_map.c */

/* Between the two nobody reads, and who wants to waits. */
void logi_lmdb_begin_alone(struct ox_index *ix);
void logi_lmdb_end_alone(struct ox_index *ix);

/* Waits for a place; end_read gives it back (NULL is fine). */
int  logi_lmdb_begin_read(struct ox_index *ix, MDB_txn **out, struct err *err);
void logi_lmdb_end_read(struct ox_index *ix, MDB_txn *txn);

/* The blocks first, then the map: a page that is mapped always has its block. */
int logi_lmdb_allocate(struct ox_index *ix, uint64_t from, uint64_t to, struct err *err);

/* Makes the map larger; waits until nobody reads. */
int logi_lmdb_grow(struct ox_index *ix, struct err *err);

/* index_lmdb_rec.c */

/* E_NOTFOUND, without a text, where there is none that this version can read. */
int logi_lmdb_read_meta(struct ox_index *ix, MDB_txn *txn, struct meta *out, struct err *err);
int
logi_lmdb_write_meta(struct ox_index *ix, MDB_txn *txn, const struct meta *meta, struct err *err);

size_t logi_lmdb_pack_stream(const struct stream_rec *rec, uint8_t out[HEAD_BYTES]);
/* `positions` may be NULL; else it has room for RUN_MAX. */
bool logi_lmdb_unpack_stream(struct slice from, struct stream_rec *out, uint64_t *positions);

void logi_lmdb_pair_key(uint8_t out[16], uint64_t major, uint64_t minor);

/* The record of `major` with the greatest minor key that is not above; MDB_NOTFOUND: none. */
int logi_lmdb_seek_floor(MDB_cursor *cursor, uint64_t major, uint64_t minor, uint64_t *found,
                         MDB_val *val);

size_t logi_lmdb_label_key(uint8_t out[1 + NAME_MAX_BYTES], uint32_t kind, struct slice name);

/* E_NOTFOUND, without a text, where the label was never used. */
int logi_lmdb_find_label(struct ox_index *ix, MDB_txn *txn, uint32_t kind, struct slice name,
                         uint64_t *number, struct err *err);

/* The functions of the table (index.h). */
int logi_lmdb_apply(struct ox_index *ix, const struct index_batch *batch, struct err *err);
struct log_pos logi_lmdb_covers(struct ox_index *ix);
uint64_t       logi_lmdb_stream_count(struct ox_index *ix);
int logi_lmdb_find(struct ox_index *ix, struct slice name, uint64_t *id, struct index_head *head,
                   struct err *err);
int logi_lmdb_head(struct ox_index *ix, uint64_t id, struct index_head *head, struct err *err);
int logi_lmdb_restricted(struct ox_index *ix, uint64_t from, uint64_t *ids, uint32_t max,
                         uint32_t *count, struct err *err);
int
logi_lmdb_name_of(struct ox_index *ix, uint64_t id, char out[256], size_t *len, struct err *err);
int logi_lmdb_positions(struct ox_index *ix, uint64_t id, uint64_t from, bool backwards,
                        uint64_t *positions, uint32_t max, uint32_t *count, struct err *err);
int logi_lmdb_streams(struct ox_index *ix, struct slice prefix, struct slice after,
                      index_stream_fn *fn, void *arg, struct err *err);
int logi_lmdb_category(struct ox_index *ix, struct slice name, uint64_t from, bool backwards,
                       uint64_t *positions, uint32_t max, uint32_t *count, struct err *err);
int logi_lmdb_type(struct ox_index *ix, struct slice name, uint64_t from, bool backwards,
                   uint64_t *positions, uint32_t max, uint32_t *count, struct err *err);
int logi_lmdb_firsts(struct ox_index *ix, uint64_t from, bool backwards, uint64_t *positions,
                     uint64_t *ids, uint32_t max, uint32_t *count, struct err *err);

#endif
