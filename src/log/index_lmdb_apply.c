/* One batch into the index in LMDB: one transaction, again with a larger map when it was full. */
#include <stdlib.h>

#include "base/bytes.h"
#include "base/must.h"
#include "log/index_label.h"
#include "log/index_lmdb_int.h"

struct apply {
    struct ox_index          *ix;
    const struct index_batch *batch;
    MDB_txn                  *txn;
    MDB_cursor               *heads, *runs, *lists;
    struct meta               meta;
    uintptr_t                 page;  /* where it wrote last */
    uint32_t                  pages; /* that it wrote, about */
};

/* Counts the page that the cursor wrote to, where it is another than before: most is in order. */
static int
count_page(struct apply *a, MDB_cursor *at, struct err *err)
{
    struct ox_index *ix = a->ix;
    MDB_val          key, val;
    uintptr_t        page;
    int              rc = 0;

    TRY_MDB(mdb_cursor_get(at, &key, &val, MDB_GET_CURRENT), "count pages");
    page = (uintptr_t)val.mv_data / PAGE_ABOUT;
    a->pages += page != a->page;
    a->page = page;
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
put_run(struct apply *a, uint64_t id, struct stream_rec *rec, struct err *err)
{
    struct ox_index *ix = a->ix;
    uint8_t          bytes[16];
    MDB_val          key = val_of(bytes, sizeof bytes);
    MDB_val          val = val_of(rec->bytes, rec->len);
    int              rc = 0;

    must(rec->count > 0);
    must(rec->count <= RUN_MAX);
    must(rec->len <= sizeof rec->bytes);
    logi_lmdb_pair_key(bytes, id, rec->first);
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
        must(rec->len <= rec->count * INDEX_VARINT_MAX);
        rec->len += logi_pos_put(rec->bytes + rec->len, rec->last, u->positions[i]);
        rec->last = u->positions[i];
        rec->count++;
    }
    must(rec->first + rec->count == u->head.next); /* the head is read so */
    must(u->count == 0 || rec->last < a->batch->covers.v);
out:
    return rc;
}

/* Is what the index has what the update goes on from? Else one of them is wrong. */
static bool
goes_on(const struct index_update *u, const struct stream_rec *rec)
{
    return rec->head.next <= u->head.next - u->count &&
           (u->count == 0 || rec->count == 0 || rec->last < u->positions[0]);
}

/* Reads what the update goes on from, and leaves the cursor there. */
static int
find_update(struct apply *a, const struct index_update *u, struct stream_rec *rec, struct err *err)
{
    struct ox_index *ix = a->ix;
    size_t           id = u->id;
    MDB_val          key = val_of(&id, sizeof id);
    MDB_val          val;
    int              rc = 0;
    int              mrc = mdb_cursor_get(a->heads, &key, &val, MDB_SET);

    if (mrc == MDB_NOTFOUND)
        return logi_lmdb_damaged(err, ix, "a stream is missing");
    TRY_MDB(mrc, "find a head");
    if (!logi_lmdb_unpack_stream(slice_of_val(val), rec, NULL))
        return logi_lmdb_damaged(err, ix, "a stream's head");
    if (!goes_on(u, rec))
        return logi_lmdb_damaged(err, ix, "a stream does not go on from its head");
out:
    return rc;
}

/* Notes whether the stream's state hides or forbids anything. */
static int
put_restricted(struct apply *a, uint64_t number, bool restricted, struct err *err)
{
    struct ox_index *ix = a->ix;
    size_t           id = number;
    MDB_val          key = val_of(&id, sizeof id);
    MDB_val          val = val_of("", 0);
    int              mrc;
    int              rc = 0;

    if (restricted) {
        TRY_MDB(mdb_put(a->txn, ix->dbi[T_RESTRICTED], &key, &val, 0), "note a state");
        return 0;
    }
    mrc = mdb_del(a->txn, ix->dbi[T_RESTRICTED], &key, NULL);
    if (mrc != MDB_NOTFOUND)
        TRY_MDB(mrc, "note a state");
out:
    return rc;
}

/* The state from the update, or what was there before. */
static int
take_head(struct apply *a, const struct index_update *u, struct stream_rec *rec, struct err *err)
{
    struct index_head before = rec->head;

    must(before.next <= u->head.next);
    must(u->count == 0 || u->head.last.v == u->positions[u->count - 1]);
    rec->head = u->head;
    if (u->count == 0)
        rec->head.last = before.last;
    if (u->has_state)
        return put_restricted(a, u->id, index_restricted(&u->head), err);
    rec->head.truncate = before.truncate;
    rec->head.max_count = before.max_count;
    rec->head.max_age_us = before.max_age_us;
    rec->head.flags = before.flags;
    rec->head.moved = before.moved;
    return 0;
}

static uint64_t
first_of(const struct index_update *u)
{
    must(u->count > 0);
    must(u->first == 0 || u->first < u->positions[0]);
    return u->first != 0 ? u->first : u->positions[0];
}

/* Only a state was known of the stream: its first events are scavenged. */
static int
put_first(struct apply *a, const struct index_update *u, struct err *err)
{
    struct ox_index *ix = a->ix;
    size_t           pos = first_of(u), id = u->id;
    MDB_val          key = val_of(&pos, sizeof pos);
    MDB_val          val = val_of(&id, sizeof id);
    int              rc = 0;

    TRY_MDB(mdb_put(a->txn, ix->dbi[T_FIRSTS], &key, &val, 0), "write a first event");
out:
    return rc;
}

static int
put_update(struct apply *a, const struct index_update *u, struct err *err)
{
    struct ox_index  *ix = a->ix;
    struct stream_rec rec = {.count = 0};
    uint8_t           bytes[HEAD_BYTES];
    size_t            id = u->id;
    bool              is_new = u->name.len > 0;
    MDB_val           key = val_of(&id, sizeof id);
    MDB_val           val;
    int               mrc;
    int               rc = 0;

    must(u->count <= u->head.next);
    must(u->id < a->batch->stream_count);
    if (!is_new)
        TRY(find_update(a, u, &rec, err));
    if (!is_new && u->count > 0 && u->head.next != u->count && rec.head.last.v == 0)
        TRY(put_first(a, u, err));
    TRY(add_positions(a, u, &rec, err));
    TRY(take_head(a, u, &rec, err));
    val = val_of(bytes, logi_lmdb_pack_stream(&rec, bytes));
    /* Ids grow, so that a new one is the last nearly always. */
    mrc = mdb_cursor_put(a->heads, &key, &val, is_new ? MDB_APPEND : MDB_CURRENT);
    if (mrc == MDB_KEYEXIST && is_new)
        mrc = mdb_cursor_put(a->heads, &key, &val, MDB_NOOVERWRITE);
    if (mrc == MDB_KEYEXIST)
        return logi_lmdb_damaged(err, ix, "a new stream's id is taken");
    TRY_MDB(mrc, "write a head");
    TRY(count_page(a, a->heads, err));
out:
    return rc;
}

/* A name to sort by: what follows after the part that all of them begin with, as a number. */
struct named {
    uint64_t                   key;
    const struct index_update *update;
};

static int
cmp_names(const void *a, const void *b)
{
    const struct named *x = a, *y = b;

    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return slice_cmp(x->update->name, y->update->name);
}

static size_t
common_bytes(struct slice a, struct slice b, size_t most)
{
    const uint8_t *x = a.data, *y = b.data;
    size_t         n = 0;

    while (n < most && n < a.len && n < b.len && x[n] == y[n])
        n++;
    return n;
}

/* Names in a batch are much alike: most are told apart by eight bytes, without a call. */
static void
sort_names(struct named *names, uint32_t count)
{
    size_t common = names[0].update->name.len;

    for (uint32_t i = 1; i < count; i++)
        common = common_bytes(names[0].update->name, names[i].update->name, common);
    for (uint32_t i = 0; i < count; i++) {
        struct slice   name = names[i].update->name;
        const uint8_t *at = (const uint8_t *)name.data + common;
        size_t         rest = name.len - common;

        names[i].key = 0;
        for (size_t k = 0; k < 8; k++)
            names[i].key = names[i].key << 8 | (k < rest ? at[k] : 0);
    }
    qsort(names, count, sizeof *names, cmp_names);
}

static int
put_name(struct apply *a, MDB_cursor *names, const struct index_update *u, struct err *err)
{
    struct ox_index *ix = a->ix;
    uint8_t          bytes[8];
    MDB_val          key = val_of(u->name.data, u->name.len);
    MDB_val          val = val_of(bytes, sizeof bytes);
    int              rc = 0;
    int              mrc;

    must(u->name.len > 0);
    must(u->name.len <= NAME_MAX_BYTES);
    put_u64(bytes, u->id);
    mrc = mdb_cursor_put(names, &key, &val, MDB_NOOVERWRITE);
    if (mrc == MDB_KEYEXIST)
        return logi_lmdb_damaged(err, ix, "a new stream's name is taken");
    TRY_MDB(mrc, "write a name");
    TRY(count_page(a, names, err));
out:
    return rc;
}

/* In the order of the names, so that neighbours are on one page while it is at hand. */
static int
put_names(struct apply *a, struct err *err)
{
    struct ox_index *ix = a->ix;
    struct named    *sorted = NULL;
    MDB_cursor      *ids = NULL, *names = NULL;
    uint32_t         count = 0;
    int              rc = 0;

    for (uint32_t i = 0; i < a->batch->update_count; i++)
        count += a->batch->updates[i].name.len > 0;
    if (count == 0)
        return 0;
    sorted = calloc(count, sizeof *sorted);
    if (sorted == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "%s: index: no memory for %u names", ix->dir, count);
    TRY_MDB(mdb_cursor_open(a->txn, ix->dbi[T_IDS], &ids), "write names");
    TRY_MDB(mdb_cursor_open(a->txn, ix->dbi[T_NAMES], &names), "write names");
    count = 0;
    for (uint32_t i = 0; i < a->batch->update_count; i++) {
        const struct index_update *u = &a->batch->updates[i];
        size_t                     id = u->id;
        MDB_val                    key = val_of(&id, sizeof id);
        MDB_val                    val = val_of(u->name.data, u->name.len);
        int                        mrc;

        if (u->name.len == 0)
            continue;
        sorted[count++].update = u;
        /* Ids grow: pages are filled whole. A lower one (staged streams) goes the usual way. */
        mrc = mdb_cursor_put(ids, &key, &val, MDB_APPEND);
        if (mrc == MDB_KEYEXIST)
            mrc = mdb_cursor_put(ids, &key, &val, 0);
        TRY_MDB(mrc, "write a name");
        TRY(count_page(a, ids, err));
    }
    sort_names(sorted, count);
    for (uint32_t i = 0; i < count; i++) {
        must_slow(i == 0 || slice_cmp(sorted[i - 1].update->name, sorted[i].update->name) < 0);
        TRY(put_name(a, names, sorted[i].update, err));
    }
out:
    if (names != NULL)
        mdb_cursor_close(names);
    if (ids != NULL)
        mdb_cursor_close(ids);
    free(sorted);
    return rc;
}

/* Ids are given out in the order of positions: nearly all of them come at the end. */
static int
put_firsts(struct apply *a, struct err *err)
{
    struct ox_index *ix = a->ix;
    MDB_cursor      *firsts = NULL;
    int              rc = 0;

    TRY_MDB(mdb_cursor_open(a->txn, ix->dbi[T_FIRSTS], &firsts), "write first events");
    for (uint32_t i = 0; i < a->batch->update_count; i++) {
        const struct index_update *u = &a->batch->updates[i];
        size_t                     pos, id = u->id;
        MDB_val                    key = val_of(&pos, sizeof pos);
        MDB_val                    val = val_of(&id, sizeof id);
        int                        mrc;

        /* A stream whose first events are scavenged begins with what is left. */
        if (u->count == 0 || (u->head.next != u->count && u->name.len == 0))
            continue;
        pos = first_of(u);
        must(pos < a->batch->covers.v);
        mrc = mdb_cursor_put(firsts, &key, &val, MDB_APPEND);
        if (mrc == MDB_KEYEXIST)
            mrc = mdb_cursor_put(firsts, &key, &val, 0);
        TRY_MDB(mrc, "write a first event");
    }
out:
    if (firsts != NULL)
        mdb_cursor_close(firsts);
    return rc;
}

static int
label_number(struct apply *a, const struct index_label *label, uint64_t *number, struct err *err)
{
    struct ox_index *ix = a->ix;
    uint8_t          bytes[1 + NAME_MAX_BYTES];
    uint8_t          num[8];
    MDB_val          key = val_of(bytes, logi_lmdb_label_key(bytes, label->kind, label->name));
    MDB_val          val = val_of(num, sizeof num);
    int              rc = logi_lmdb_find_label(ix, a->txn, label->kind, label->name, number, err);

    if (rc != E_NOTFOUND)
        return rc;
    rc = 0;
    *number = a->meta.label_count++;
    put_u64(num, *number);
    TRY_MDB(mdb_put(a->txn, ix->dbi[T_LABELS], &key, &val, 0), "write a label");
out:
    return rc;
}

static int
last_block(struct apply *a, uint64_t number, struct block *out, struct err *err)
{
    struct ox_index *ix = a->ix;
    uint32_t         count = 0;
    MDB_val          val;
    int              rc = 0;
    int              mrc = logi_lmdb_seek_floor(a->lists, number, UINT64_MAX, &out->first, &val);

    out->used = false;
    out->len = 0;
    if (mrc == MDB_NOTFOUND)
        return 0;
    TRY_MDB(mrc, "find a list");
    if (val.mv_size > BLOCK_BYTES ||
        !logi_pos_list(slice_of_val(val), out->first, NULL, BLOCK_BYTES, &count, &out->last))
        return logi_lmdb_damaged(err, ix, "a list's block");
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

    must(block->used);
    must(block->len <= BLOCK_BYTES);
    must(block->first <= block->last);
    logi_lmdb_pair_key(bytes, number, block->first);
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

    must(label->count > 0);
    TRY(label_number(a, label, &number, err));
    TRY(last_block(a, number, &block, err));
    for (uint32_t i = 0; i < label->count; i++) {
        uint8_t step[INDEX_VARINT_MAX];
        size_t  len;

        if (block.used && positions[i] <= block.last)
            return logi_lmdb_damaged(err, a->ix, "a list has events that are yet to come");
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
    TRY(put_firsts(a, err));
    for (uint32_t i = 0; i < labels->count; i++) {
        const struct index_label *label = &labels->labels[i];

        TRY(put_label(a, label, labels->positions + label->start, err));
    }
    a->meta.covers = a->batch->covers.v;
    a->meta.stream_count = a->batch->stream_count;
    TRY(logi_lmdb_write_meta(ix, a->txn, &a->meta, err));
out:
    return rc;
}

/* E_LIMIT: the map is full, and nothing has changed. */
static int
apply_once(struct ox_index *ix, const struct index_batch *batch, const struct index_labels *labels,
           uint32_t *pages, struct err *err)
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
    must(a.meta.label_count >= ix->meta.label_count); /* their numbers are for ever */
    ix->meta = a.meta;
    *pages = a.pages;
    atomic_store(&ix->covers, a.meta.covers);
    atomic_store(&ix->stream_count, a.meta.stream_count);
out:
    if (a.txn != NULL)
        mdb_txn_abort(a.txn);
    return rc;
}

int
logi_lmdb_apply(struct ox_index *ix, const struct index_batch *batch, struct err *err)
{
    struct index_labels labels = {.labels = NULL};
    uint32_t            pages = 0;
    int                 rc;

    must(!logi_lmdb_checked(ix)->read_only);
    must(batch->covers.v >= ix->meta.covers);
    must(batch->stream_count >= ix->meta.stream_count);
    must(batch->event_count == 0 ||
         batch->events[batch->event_count - 1].pos < batch->covers.v); /* they come in order */
    TRY(logi_lmdb_ready(ix, err));
    TRY(logi_labels_init(&labels, batch->events, batch->event_count, err));
    rc = apply_once(ix, batch, &labels, &pages, err);
    for (int i = 0; rc == E_LIMIT && i < MAP_GROWTHS_MAX; i++) {
        TRY(logi_lmdb_grow(ix, err));
        rc = apply_once(ix, batch, &labels, &pages, err);
    }
    TRY(rc);
    err_clear(err);
    /* The batch is in: where it cannot be opened again, readers and the next one are told. */
    if (pages > HEAP_PAGES && logi_lmdb_reopen(ix, err) != 0)
        err_clear(err);
out:
    logi_labels_fini(&labels);
    return rc;
}
