/*
 * The map of the index in LMDB: read transactions from a bounded pool, and
 * growth, which waits until none of them is in use.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/must.h"
#include "log/index_lmdb_int.h"

/* Called with the lock held. */
static void
wait_change(struct ox_index *ix)
{
    must(lock_held());
    must(pthread_cond_wait(&ix->changed, &ix->lock.mutex) == 0);
}

void
logi_lmdb_begin_alone(struct ox_index *ix)
{
    lock_take(&ix->lock);
    while (ix->alone)
        wait_change(ix);
    ix->alone = true; /* no new readers from here on */
    while (ix->in_use > 0)
        wait_change(ix);
    lock_give(&ix->lock);
}

void
logi_lmdb_end_alone(struct ox_index *ix)
{
    lock_take(&ix->lock);
    must(ix->alone);
    must(ix->in_use == 0); /* nobody came in meanwhile */
    ix->alone = false;
    (void)pthread_cond_broadcast(&ix->changed);
    lock_give(&ix->lock);
}

/* NULL where the caller has to make a new one; it is counted already. */
static MDB_txn *
take_reader(struct ox_index *ix)
{
    MDB_txn *txn = NULL;

    lock_take(&ix->lock);
    while (ix->alone || (ix->idle_count == 0 && ix->made == READERS_MAX))
        wait_change(ix);
    if (ix->idle_count > 0)
        txn = ix->idle[--ix->idle_count];
    else
        ix->made++;
    ix->in_use++;
    must(ix->made <= READERS_MAX);
    must(ix->idle_count + ix->in_use == ix->made);
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
    must(ix->idle_count + ix->in_use == ix->made);
    if (ix->alone || ix->idle_count == 1 || txn == NULL)
        (void)pthread_cond_broadcast(&ix->changed);
    lock_give(&ix->lock);
}

static int
begin_read_once(struct ox_index *ix, MDB_txn **out)
{
    MDB_txn *txn = take_reader(ix);
    int      mrc;

    if (ix->env == NULL)
        mrc = EBUSY;
    else if (txn != NULL)
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

int
logi_lmdb_begin_read(struct ox_index *ix, MDB_txn **out, struct err *err)
{
    int rc = 0;
    int mrc;

    *out = NULL;
    mrc = begin_read_once(logi_lmdb_checked(ix), out);
    /* Another process has grown the file under a reader. */
    for (int i = 0; mrc == MDB_MAP_RESIZED && i < MAP_GROWTHS_MAX; i++) {
        logi_lmdb_begin_alone(ix);
        mrc = mdb_env_set_mapsize(ix->env, 0);
        logi_lmdb_end_alone(ix);
        if (mrc == 0)
            mrc = begin_read_once(ix, out);
    }
    TRY_MDB(mrc, "read");
out:
    return rc;
}

void
logi_lmdb_end_read(struct ox_index *ix, MDB_txn *txn)
{
    if (txn == NULL)
        return;
    mdb_txn_reset(txn);
    give_reader(ix, txn);
}

/* The blocks first, then the map: a page that is mapped always has its block. */
int
logi_lmdb_allocate(struct ox_index *ix, uint64_t from, uint64_t to, struct err *err)
{
    int fd = -1;
    int errnum;
    int rc = 0;

    must(from < to);
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

int
logi_lmdb_grow(struct ox_index *ix, struct err *err)
{
    MDB_envinfo info;
    uint64_t    size;
    uint64_t    step;
    int         dead = 0;
    int         rc = 0;

    logi_lmdb_begin_alone(ix);
    TRY_MDB(mdb_reader_check(ix->env, &dead), "grow");
    TRY_MDB(mdb_env_info(ix->env, &info), "grow");
    size = info.me_mapsize;
    step = size < MAP_STEP_MAX ? size : MAP_STEP_MAX;
    must(step > 0); /* or who calls would try for ever */
    TRY(logi_lmdb_allocate(ix, size, size + step, err));
    TRY_MDB(mdb_env_set_mapsize(ix->env, size + step), "grow");
out:
    logi_lmdb_end_alone(ix);
    return rc;
}
