/*
 * Transactions that are streamed while they still run: each waits in a file
 * without a name until its commit, then it is read once. What a lost
 * connection leaves is nothing: the server sends it again.
 *
 * A file is a row of {length in 4 bytes, message}.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "source/postgres/postgres_int.h"

#define SPILLS_MAX 500
#define WRITE_BYTES ((size_t)256 << 10)
#define READ_BYTES ((size_t)256 << 10)

struct pg_spill {
    struct pg_spill *next;
    uint32_t         xid;
    int              fd;
    uint64_t         size, at; /* written; read */
    struct buf       out;      /* not written yet; then what was read ahead */
    size_t           out_at;
    uint32_t        *aborted; /* subtransactions, in the order of their ends */
    uint32_t         aborted_count, aborted_room;
    struct pg_lsn    end;
};

static void
free_spill(struct pg_spill *p)
{
    if (p == NULL)
        return;
    if (p->fd >= 0)
        (void)close(p->fd);
    buf_fini(&p->out);
    free(p->aborted);
    free(p);
}

static struct pg_spill **
find(struct pg_source *s, uint32_t xid)
{
    struct pg_spill **at = &s->spills;

    while (*at != NULL && (*at)->xid != xid)
        at = &(*at)->next;
    return at;
}

static struct pg_spill *
unlink_spill(struct pg_source *s, uint32_t xid)
{
    struct pg_spill **at = find(s, xid), *p = *at;

    if (p != NULL) {
        *at = p->next;
        s->spill_count--;
    }
    return p;
}

void
postgresi_spills_drop(struct pg_source *s)
{
    while (s->spills != NULL)
        free_spill(unlink_spill(s, s->spills->xid));
    free_spill(s->replay);
    s->replay = NULL;
    s->filling = NULL;
}

int
postgresi_spill_start(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    struct pg_spill *p = *find(s, m->xid);

    if (p == NULL) {
        if (s->spill_count == SPILLS_MAX)
            RETURN_ERR(err, E_LIMIT, ERR_FATAL,
                       "source %s: more than %d large transactions at once", s->base.instance,
                       SPILLS_MAX);
        p = calloc(1, sizeof *p);
        if (p == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        p->xid = m->xid;
        p->fd = open(s->spill_folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (p->fd < 0) {
            int code = err_of_errno(errno);

            free(p);
            RETURN_ERR(err, code, ERR_RETRY, "source %s: cannot make a file in `spill: %s`: %s",
                       s->base.instance, s->spill_folder, strerror(errno));
        }
        p->next = s->spills;
        s->spills = p;
        s->spill_count++;
    }
    s->filling = p;
    return 0;
}

static int
write_out(struct pg_source *s, struct pg_spill *p, struct err *err)
{
    size_t  done = 0;
    ssize_t n;

    while (done < p->out.len) {
        n = pwrite(p->fd, p->out.data + done, p->out.len - done, (off_t)(p->size + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            RETURN_ERR(err, err_of_errno(errno), ERR_RETRY,
                       "source %s: cannot write a large transaction into `spill: %s`: %s",
                       s->base.instance, s->spill_folder, strerror(errno));
        done += (size_t)n;
    }
    p->size += done;
    s->spilled_bytes += done;
    buf_clear(&p->out);
    return 0;
}

int
postgresi_spill_add(struct pg_source *s, struct slice message, struct err *err)
{
    struct pg_spill *p = s->filling;
    uint32_t         len = (uint32_t)message.len;

    must(p != NULL);
    buf_add(&p->out, &len, sizeof len);
    buf_add_slice(&p->out, message);
    if (p->out.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return p->out.len >= WRITE_BYTES ? write_out(s, p, err) : 0;
}

int
postgresi_spill_abort(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    struct pg_spill *p = *find(s, m->xid);
    uint32_t         room;

    if (p == NULL)
        return 0;
    if (m->subxid == m->xid) {
        free_spill(unlink_spill(s, m->xid));
        return 0;
    }
    if (p->aborted_count == p->aborted_room) {
        room = p->aborted_room == 0 ? 64 : p->aborted_room * 2;
        uint32_t *more = realloc(p->aborted, room * sizeof *more);

        if (more == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        p->aborted = more;
        p->aborted_room = room;
    }
    p->aborted[p->aborted_count++] = m->subxid;
    return 0;
}

static int
by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

int
postgresi_spill_commit(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    struct pg_spill *p = unlink_spill(s, m->xid);
    int              rc = 0;

    must(s->replay == NULL);
    if (p == NULL)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL,
                   "source %s: the end of a transaction that did not begin", s->base.instance);
    TRY(write_out(s, p, err));
    p->end = m->end;
    if (p->aborted_count > 0)
        qsort(p->aborted, p->aborted_count, sizeof p->aborted[0], by_number);
    s->replay = p;
    p = NULL;
    postgresi_xact_begin(s, m->xid, m->commit, m->time_us);
out:
    free_spill(p);
    return rc;
}

/* At least `want` bytes behind out_at. */
static int
read_ahead(struct pg_source *s, struct pg_spill *p, size_t want, struct err *err)
{
    ssize_t n;

    if (p->out.len - p->out_at >= want)
        return 0;
    buf_consume(&p->out, p->out_at);
    p->out_at = 0;
    if (!buf_reserve(&p->out, want > READ_BYTES ? want : READ_BYTES))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    while (p->out.len < want) {
        n = pread(p->fd, p->out.data + p->out.len, p->out.cap - p->out.len, (off_t)p->at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            RETURN_ERR(err, E_IO, ERR_RETRY, "source %s: cannot read a large transaction back: %s",
                       s->base.instance, n == 0 ? "its file is short" : strerror(errno));
        p->out.len += (size_t)n;
        p->at += (uint64_t)n;
    }
    return 0;
}

int
postgresi_spill_next(struct pg_source *s, struct pg_message *m, struct err *err)
{
    struct pg_spill *p = s->replay;
    uint32_t         len;
    int              rc;

    for (;;) {
        if (p->at == p->size && p->out_at == p->out.len)
            return E_END;
        TRY(read_ahead(s, p, sizeof len, err));
        memcpy(&len, p->out.data + p->out_at, sizeof len);
        TRY(read_ahead(s, p, sizeof len + len, err));
        TRY(postgresi_message_parse(slice_of(p->out.data + p->out_at + sizeof len, len), true, m,
                                    err));
        p->out_at += sizeof len + len;
        /* What a rolled back subtransaction said of tables still holds: the server does not
         * repeat it. */
        if (m->kind == PG_RELATION || m->kind == PG_TYPE || p->aborted_count == 0 ||
            bsearch(&m->xid, p->aborted, p->aborted_count, sizeof p->aborted[0], by_number) == NULL)
            return 0;
    }
out:
    return rc;
}

struct pg_lsn
postgresi_spill_finish(struct pg_source *s)
{
    struct pg_lsn end = s->replay->end;

    free_spill(s->replay);
    s->replay = NULL;
    return end;
}
