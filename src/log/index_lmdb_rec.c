/* The records of the index in LMDB: bytes to values and back, and how they are found. */
#include "base/bytes.h"
#include "base/must.h"
#include "log/index_label.h"
#include "log/index_lmdb_int.h"

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
int
logi_lmdb_read_meta(struct ox_index *ix, MDB_txn *txn, struct meta *out, struct err *err)
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

int
logi_lmdb_write_meta(struct ox_index *ix, MDB_txn *txn, const struct meta *meta, struct err *err)
{
    uint8_t bytes[META_BYTES];
    MDB_val key = val_of(META_KEY, strlen(META_KEY));
    MDB_val val = val_of(bytes, sizeof bytes);
    int     rc = 0;

    must(meta->version == INDEX_VERSION);
    pack_meta(meta, bytes);
    TRY_MDB(mdb_put(txn, ix->dbi[T_META], &key, &val, 0), "meta");
out:
    return rc;
}

size_t
logi_lmdb_pack_stream(const struct stream_rec *rec, uint8_t out[HEAD_BYTES])
{
    bool   limited = rec->head.max_count != 0 || rec->head.max_age_us != 0;
    size_t n = 0;

    must(rec->count <= RUN_MAX);
    must(rec->first + rec->count == rec->head.next); /* where it begins is not written */
    must(rec->head.max_age_us >= 0);
    must((rec->head.last.v & 7) == 0);
    must((rec->head.flags & HEAD_LIMITED) == 0);
    n += logi_varint_put(out + n, rec->head.next);
    n += logi_varint_put(out + n, rec->head.truncate);
    n += logi_varint_put(out + n, rec->head.flags | (limited ? HEAD_LIMITED : 0u));
    n += logi_varint_put(out + n, rec->head.last.v >> 3);
    if (limited) {
        n += logi_varint_put(out + n, rec->head.max_count);
        n += logi_varint_put(out + n, (uint64_t)rec->head.max_age_us);
    }
    if ((rec->head.flags & INDEX_MOVED) != 0)
        n += logi_varint_put(out + n, rec->head.moved);
    must(n + rec->len <= HEAD_BYTES);
    memcpy(out + n, rec->bytes, rec->len);
    return n + rec->len;
}

/* `positions` may be NULL; else it has room for RUN_MAX. */
bool
logi_lmdb_unpack_stream(struct slice from, struct stream_rec *out, uint64_t *positions)
{
    uint64_t flags = 0;
    uint64_t last = 0;
    uint64_t age = 0;

    if (!logi_varint_get(&from, &out->head.next) || !logi_varint_get(&from, &out->head.truncate) ||
        !logi_varint_get(&from, &flags) || !logi_varint_get(&from, &last))
        return false;
    if (flags > UINT32_MAX || last > UINT64_MAX >> 3)
        return false;
    out->head.max_count = 0;
    if ((flags & HEAD_LIMITED) != 0 &&
        (!logi_varint_get(&from, &out->head.max_count) || !logi_varint_get(&from, &age)))
        return false;
    out->head.moved = 0;
    if ((flags & INDEX_MOVED) != 0 && !logi_varint_get(&from, &out->head.moved))
        return false;
    if (from.len > sizeof out->bytes || age > INT64_MAX)
        return false;
    out->head.max_age_us = (int64_t)age;
    out->head.flags = (uint32_t)flags & ~HEAD_LIMITED;
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

void
logi_lmdb_pair_key(uint8_t out[16], uint64_t major, uint64_t minor)
{
    put_u64be(out, major);
    put_u64be(out + 8, minor);
}

/* The record of `major` with the greatest minor key that is not above; MDB_NOTFOUND: none. */
int
logi_lmdb_seek_floor(MDB_cursor *cursor, uint64_t major, uint64_t minor, uint64_t *found,
                     MDB_val *val)
{
    uint8_t bytes[16];
    MDB_val key = val_of(bytes, sizeof bytes);
    int     mrc;

    logi_lmdb_pair_key(bytes, major, minor);
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

size_t
logi_lmdb_label_key(uint8_t out[1 + NAME_MAX_BYTES], uint32_t kind, struct slice name)
{
    must(kind == INDEX_CATEGORY || kind == INDEX_TYPE);
    must(name.len > 0);
    must(name.len <= NAME_MAX_BYTES);
    out[0] = (uint8_t)kind;
    memcpy(out + 1, name.data, name.len);
    return 1 + name.len;
}

/* E_NOTFOUND, without a text, where the label was never used. */
int
logi_lmdb_find_label(struct ox_index *ix, MDB_txn *txn, uint32_t kind, struct slice name,
                     uint64_t *number, struct err *err)
{
    uint8_t bytes[1 + NAME_MAX_BYTES];
    MDB_val key;
    MDB_val val;
    int     mrc;
    int     rc = 0;

    if (name.len == 0 || name.len > NAME_MAX_BYTES)
        return E_NOTFOUND;
    key = val_of(bytes, logi_lmdb_label_key(bytes, kind, name));
    mrc = mdb_get(txn, ix->dbi[T_LABELS], &key, &val);
    if (mrc == MDB_NOTFOUND)
        return E_NOTFOUND;
    TRY_MDB(mrc, "find a label");
    if (val.mv_size != 8)
        return logi_lmdb_damaged(err, ix, "a label's number");
    *number = get_u64(val.mv_data);
out:
    return rc;
}
