/* Reads of the index in LMDB: each in one transaction of the pool, everything copied out. */
#include "base/bytes.h"
#include "base/must.h"
#include "log/index_label.h"
#include "log/index_lmdb_int.h"

struct page {
    uint32_t count;
    struct {
        uint64_t          id;
        struct index_head head;
        uint32_t          len;
        char              name[NAME_MAX_BYTES + 1];
    } streams[STREAMS_PAGE];
};

/* A reader beside the writing process sees it move on. */
static void
refresh(struct ox_index *ix)
{
    struct meta now = {.version = 0};
    MDB_txn    *txn = NULL;

    if (!ix->read_only || logi_lmdb_begin_read(ix, &txn, NULL) != 0)
        return;
    if (logi_lmdb_read_meta(ix, txn, &now, NULL) == 0) {
        atomic_store(&ix->covers, now.covers);
        atomic_store(&ix->stream_count, now.stream_count);
    }
    logi_lmdb_end_read(ix, txn);
}

struct log_pos
logi_lmdb_covers(struct ox_index *ix)
{
    refresh(logi_lmdb_checked(ix));
    return LOG_POS(atomic_load(&ix->covers));
}

uint64_t
logi_lmdb_stream_count(struct ox_index *ix)
{
    refresh(logi_lmdb_checked(ix));
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
    if (!logi_lmdb_unpack_stream(slice_of_val(val), rec, positions))
        return logi_lmdb_damaged(err, ix, "a stream's head");
out:
    return rc;
}

int
logi_lmdb_find(struct ox_index *ix, struct slice name, uint64_t *id, struct index_head *head,
               struct err *err)
{
    struct stream_rec rec;
    MDB_txn          *txn = NULL;
    MDB_val           key = val_of(name.data, name.len);
    MDB_val           val;
    int               rc = 0;
    int               mrc = MDB_NOTFOUND;

    TRY(logi_lmdb_begin_read(ix, &txn, err));
    if (name.len > 0 && name.len <= NAME_MAX_BYTES)
        mrc = mdb_get(txn, ix->dbi[T_NAMES], &key, &val);
    if (mrc == MDB_NOTFOUND)
        FAIL(err, E_NOTFOUND, ERR_DATA, "there is no stream of this name");
    TRY_MDB(mrc, "find a name");
    if (val.mv_size != 8) {
        rc = logi_lmdb_damaged(err, ix, "a name's id");
        goto out;
    }
    *id = get_u64(val.mv_data);
    TRY(get_stream(ix, txn, *id, &rec, NULL, err));
    *head = rec.head;
out:
    logi_lmdb_end_read(ix, txn);
    return rc;
}

int
logi_lmdb_head(struct ox_index *ix, uint64_t id, struct index_head *head, struct err *err)
{
    struct stream_rec rec;
    MDB_txn          *txn = NULL;
    int               rc;

    TRY(logi_lmdb_begin_read(ix, &txn, err));
    TRY(get_stream(ix, txn, id, &rec, NULL, err));
    *head = rec.head;
out:
    logi_lmdb_end_read(ix, txn);
    return rc;
}

int
logi_lmdb_restricted(struct ox_index *ix, uint64_t from, uint64_t *ids, uint32_t max,
                     uint32_t *count, struct err *err)
{
    MDB_txn    *txn = NULL;
    MDB_cursor *cursor = NULL;
    size_t      id = from;
    MDB_val     key = val_of(&id, sizeof id);
    MDB_val     val;
    int         mrc;
    int         rc;

    *count = 0;
    TRY(logi_lmdb_begin_read(ix, &txn, err));
    TRY_MDB(mdb_cursor_open(txn, ix->dbi[T_RESTRICTED], &cursor), "list states");
    mrc = mdb_cursor_get(cursor, &key, &val, MDB_SET_RANGE);
    for (; mrc == 0 && *count < max; mrc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT)) {
        if (key.mv_size != sizeof id) {
            rc = logi_lmdb_damaged(err, ix, "a restricted stream's id");
            goto out;
        }
        memcpy(&id, key.mv_data, sizeof id);
        ids[(*count)++] = id;
    }
    if (mrc != MDB_NOTFOUND)
        TRY_MDB(mrc, "list states");
out:
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    logi_lmdb_end_read(ix, txn);
    return rc;
}

int
logi_lmdb_name_of(struct ox_index *ix, uint64_t id, char out[256], size_t *len, struct err *err)
{
    size_t   number = id;
    MDB_val  key = val_of(&number, sizeof number);
    MDB_val  val;
    MDB_txn *txn = NULL;
    int      mrc;
    int      rc;

    TRY(logi_lmdb_begin_read(ix, &txn, err));
    mrc = mdb_get(txn, ix->dbi[T_IDS], &key, &val);
    if (mrc == MDB_NOTFOUND)
        FAIL(err, E_NOTFOUND, ERR_DATA, "no stream has the id %llu", (unsigned long long)id);
    TRY_MDB(mrc, "find an id");
    if (val.mv_size > NAME_MAX_BYTES) {
        rc = logi_lmdb_damaged(err, ix, "a stream's name");
        goto out;
    }
    memcpy(out, val.mv_data, val.mv_size);
    *len = val.mv_size;
out:
    logi_lmdb_end_read(ix, txn);
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
    int      mrc = logi_lmdb_seek_floor(cursor, id, version, first, &val);

    *count = 0;
    if (mrc == MDB_NOTFOUND)
        return 0;
    TRY_MDB(mrc, "find a run");
    if (!logi_pos_list(slice_of_val(val), 0, positions, RUN_MAX, count, &last))
        return logi_lmdb_damaged(err, ix, "a run of positions");
    if (version - *first >= *count)
        *count = 0;
out:
    return rc;
}

static int
get_positions(struct ox_index *ix, MDB_txn *txn, MDB_cursor *runs, uint64_t id, uint64_t from,
              bool backwards, uint64_t *out, uint32_t max, uint32_t *count, struct err *err)
{
    struct stream_rec rec = {0};
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
        must(n <= RUN_MAX);
        must(from - first < n); /* it is in there */
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

int
logi_lmdb_positions(struct ox_index *ix, uint64_t id, uint64_t from, bool backwards,
                    uint64_t *positions, uint32_t max, uint32_t *count, struct err *err)
{
    MDB_txn    *txn = NULL;
    MDB_cursor *runs = NULL;
    int         rc;

    *count = 0;
    TRY(logi_lmdb_begin_read(ix, &txn, err));
    TRY_MDB(mdb_cursor_open(txn, ix->dbi[T_RUNS], &runs), "read");
    rc = get_positions(ix, txn, runs, id, from, backwards, positions, max, count, err);
    if (rc == E_NOTFOUND) {
        err_clear(err);
        rc = 0;
    }
out:
    if (runs != NULL)
        mdb_cursor_close(runs);
    logi_lmdb_end_read(ix, txn);
    return rc;
}

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
    TRY(logi_lmdb_begin_read(ix, &txn, err));
    TRY_MDB(mdb_cursor_open(txn, ix->dbi[T_NAMES], &cursor), "list");
    mrc = mdb_cursor_get(cursor, &key, &val, start.len == 0 ? MDB_FIRST : MDB_SET_RANGE);
    if (mrc == 0 && after.len > 0 && slice_eq(slice_of_val(key), after))
        mrc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT);
    while (mrc == 0 && page->count < STREAMS_PAGE && slice_starts(slice_of_val(key), prefix)) {
        if (val.mv_size != 8 || key.mv_size > NAME_MAX_BYTES) {
            rc = logi_lmdb_damaged(err, ix, "a name's id");
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
    logi_lmdb_end_read(ix, txn);
    return rc;
}

int
logi_lmdb_streams(struct ox_index *ix, struct slice prefix, struct slice after, index_stream_fn *fn,
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
        return logi_lmdb_damaged(err, ix, "a list's block");
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
    int      mrc = logi_lmdb_seek_floor(cursor, number, from, &first, &val);

    if (mrc == MDB_NOTFOUND && !backwards) {
        logi_lmdb_pair_key(bytes, number, from);
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
    TRY(logi_lmdb_begin_read(ix, &txn, err));
    rc = logi_lmdb_find_label(ix, txn, kind, name, &number, err);
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
    logi_lmdb_end_read(ix, txn);
    return rc;
}

int
logi_lmdb_category(struct ox_index *ix, struct slice name, uint64_t from, bool backwards,
                   uint64_t *positions, uint32_t max, uint32_t *count, struct err *err)
{
    return list_of(ix, INDEX_CATEGORY, name, from, backwards, positions, max, count, err);
}

int
logi_lmdb_type(struct ox_index *ix, struct slice name, uint64_t from, bool backwards,
               uint64_t *positions, uint32_t max, uint32_t *count, struct err *err)
{
    return list_of(ix, INDEX_TYPE, name, from, backwards, positions, max, count, err);
}

int
logi_lmdb_firsts(struct ox_index *ix, uint64_t from, bool backwards, uint64_t *positions,
                 uint64_t *ids, uint32_t max, uint32_t *count, struct err *err)
{
    MDB_txn    *txn = NULL;
    MDB_cursor *cursor = NULL;
    size_t      pos = from;
    MDB_val     key = val_of(&pos, sizeof pos);
    MDB_val     val;
    int         mrc;
    int         rc;

    *count = 0;
    TRY(logi_lmdb_begin_read(ix, &txn, err));
    TRY_MDB(mdb_cursor_open(txn, ix->dbi[T_FIRSTS], &cursor), "list first events");
    mrc = mdb_cursor_get(cursor, &key, &val, MDB_SET_RANGE);
    if (backwards && mrc == MDB_NOTFOUND)
        mrc = mdb_cursor_get(cursor, &key, &val, MDB_LAST);
    else if (backwards && mrc == 0 && memcmp(key.mv_data, &from, sizeof from) != 0)
        mrc = mdb_cursor_get(cursor, &key, &val, MDB_PREV);
    for (; mrc == 0 && *count < max;
         mrc = mdb_cursor_get(cursor, &key, &val, backwards ? MDB_PREV : MDB_NEXT)) {
        if (key.mv_size != sizeof pos || val.mv_size != sizeof pos) {
            rc = logi_lmdb_damaged(err, ix, "a first event");
            goto out;
        }
        memcpy(&positions[*count], key.mv_data, sizeof pos);
        memcpy(&ids[(*count)++], val.mv_data, sizeof pos);
    }
    if (mrc != MDB_NOTFOUND)
        TRY_MDB(mrc, "list first events");
out:
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    logi_lmdb_end_read(ix, txn);
    return rc;
}
