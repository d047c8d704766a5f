/*
 * Transactions that are sent before they are committed, while they still run
 * or when they are prepared: each waits in a file without a name until its
 * commit, then it is read once; a small one in memory. What a lost connection
 * leaves is nothing: the server sends it again.
 *
 * One that is prepared describes all tables that it changes: what the server
 * says of tables meanwhile is about others. What is said of tables within it
 * counts for others too, and the server does not repeat it: from then on where
 * it was not streamed, from the preparation on where it was, whatever becomes
 * of it. Within one that is streamed and committed it counts from the commit on.
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
#define HELD_BYTES ((size_t)16 << 10) /* of a prepared transaction in memory */

struct numbers {
    uint32_t *at;
    uint32_t  count, room;
};

struct pg_spill {
    struct pg_spill    *next;
    uint32_t            xid;
    bool                streamed; /* its messages have the numbers that they have in a stream */
    bool                prepared;
    int                 fd;       /* -1: none yet */
    uint64_t            size, at; /* written; read */
    struct buf          out;      /* not written yet; then what was read ahead */
    size_t              out_at;
    struct numbers      aborted; /* subtransactions, in the order of their ends */
    struct pg_relations told;    /* that are described in it */
    struct pg_lsn       end;
};

static int
add_number(struct numbers *n, uint32_t number, struct err *err)
{
    if (n->count == n->room) {
        uint32_t  room = n->room == 0 ? 64 : n->room * 2;
        uint32_t *more = realloc(n->at, room * sizeof *more);

        if (more == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        n->at = more;
        n->room = room;
    }
    n->at[n->count++] = number;
    return 0;
}

static void
free_spill(struct pg_spill *p)
{
    if (p == NULL)
        return;
    if (p->fd >= 0)
        (void)close(p->fd);
    buf_fini(&p->out);
    free(p->aborted.at);
    postgresi_relations_fini(&p->told);
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
    s->preparing = false;
}

int
postgresi_spill_start(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    struct pg_spill *p = *find(s, m->xid);

    if (p == NULL) {
        if (s->spill_count == SPILLS_MAX)
            RETURN_ERR(err, E_LIMIT, ERR_FATAL,
                       "source %s: more than %d large or prepared transactions at once",
                       s->base.instance, SPILLS_MAX);
        p = calloc(1, sizeof *p);
        if (p == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        p->xid = m->xid;
        p->streamed = m->kind == PG_STREAM_START;
        p->fd = -1;
        p->next = s->spills;
        s->spills = p;
        s->spill_count++;
    }
    s->filling = p;
    s->preparing = !p->streamed;
    return 0;
}

static int
write_out(struct pg_source *s, struct pg_spill *p, struct err *err)
{
    size_t  done = 0;
    ssize_t n;

    if (p->fd < 0)
        p->fd = open(s->spill_folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (p->fd < 0)
        RETURN_ERR(err, err_of_errno(errno), ERR_RETRY,
                   "source %s: cannot make a file in `spill: %s`: %s", s->base.instance,
                   s->spill_folder, strerror(errno));
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

/* A message of `kind`, the rest of which is `rest`. */
static int
put_message(struct pg_source *s, struct pg_spill *p, uint8_t kind, struct slice rest,
            struct err *err)
{
    uint32_t len = (uint32_t)rest.len + 1;

    buf_add(&p->out, &len, sizeof len);
    buf_add_byte(&p->out, kind);
    buf_add_slice(&p->out, rest);
    if (p->out.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return p->out.len >= WRITE_BYTES ? write_out(s, p, err) : 0;
}

/* The table as the stream described it, unless it is described here. */
static int
describe(struct pg_source *s, struct pg_spill *p, uint32_t oid, struct err *err)
{
    struct pg_relation *r;
    int                 rc;

    if (postgresi_relation_find(&p->told, oid) != NULL)
        return 0;
    r = postgresi_relation_find(&s->relations, oid);
    if (r == NULL)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL,
                   "source %s: a prepared change of table %u, which was not described",
                   s->base.instance, oid);
    TRY(put_message(s, p, PG_RELATION, buf_slice(&r->body), err));
    TRY(postgresi_relation_note(&p->told, oid, buf_slice(&r->body), err));
out:
    return rc;
}

static int
describe_all(struct pg_source *s, struct pg_spill *p, const struct pg_message *m, struct err *err)
{
    struct slice list = m->list;
    uint32_t     oid;
    int          rc = 0;

    switch (m->kind) {
    case PG_RELATION:
        TRY(postgresi_relation_note(&p->told, m->relation, m->body, err));
        if (!p->streamed)
            TRY(postgresi_relation_note(&s->relations, m->relation, m->body, err));
        break;
    case PG_INSERT:
    case PG_UPDATE:
    case PG_DELETE:
        TRY(describe(s, p, m->relation, err));
        break;
    case PG_TRUNCATE:
        while (postgresi_relation_next(&list, &oid))
            TRY(describe(s, p, oid, err));
        break;
    default:
        break;
    }
out:
    return rc;
}

int
postgresi_spill_add(struct pg_source *s, struct slice message, const struct pg_message *m,
                    struct err *err)
{
    struct pg_spill *p = s->filling;
    int              rc;

    must(p != NULL && message.len > 0);
    if (!p->streamed || m->kind == PG_RELATION)
        TRY(describe_all(s, p, m, err));
    TRY(put_message(s, p, (uint8_t)m->kind,
                    slice_of((const char *)message.data + 1, message.len - 1), err));
out:
    return rc;
}

bool
postgresi_spill_there(struct pg_source *s, uint32_t xid)
{
    return *find(s, xid) != NULL;
}

void
postgresi_spill_drop(struct pg_source *s, uint32_t xid)
{
    free_spill(unlink_spill(s, xid));
}

int
postgresi_spill_hold(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    struct pg_spill *p = *find(s, m->xid);
    int              rc = 0;

    if (p == NULL || (s->preparing && p != s->filling))
        RETURN_ERR(err, E_FORMAT, ERR_FATAL,
                   "source %s: a transaction is prepared that did not begin", s->base.instance);
    s->filling = NULL;
    s->preparing = false;
    p->prepared = true;
    for (uint32_t i = 0; i < p->told.count && p->streamed; i++)
        TRY(postgresi_relation_note(&s->relations, p->told.at[i].oid,
                                    buf_slice(&p->told.at[i].body), err));
    postgresi_relations_fini(&p->told);
    if (p->out.len > HELD_BYTES)
        TRY(write_out(s, p, err));
    if (p->out.len == 0)
        buf_fini(&p->out);
out:
    return rc;
}

int
postgresi_spill_abort(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    struct pg_spill *p = *find(s, m->xid);

    if (p == NULL)
        return 0;
    if (m->subxid != m->xid)
        return add_number(&p->aborted, m->subxid, err);
    postgresi_spill_drop(s, m->xid);
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
    if (p->fd >= 0)
        TRY(write_out(s, p, err));
    p->end = m->end;
    if (p->aborted.count > 0)
        qsort(p->aborted.at, p->aborted.count, sizeof p->aborted.at[0], by_number);
    if (p->prepared)
        postgresi_relations_apart(s);
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
        TRY(postgresi_message_parse(slice_of(p->out.data + p->out_at + sizeof len, len),
                                    p->streamed, m, err));
        p->out_at += sizeof len + len;
        /* What a rolled back subtransaction said of tables still holds: the server does not
         * repeat it. */
        if (m->kind == PG_RELATION || m->kind == PG_TYPE || p->aborted.count == 0 ||
            bsearch(&m->xid, p->aborted.at, p->aborted.count, sizeof p->aborted.at[0], by_number) ==
                NULL)
            return 0;
    }
out:
    return rc;
}

struct pg_lsn
postgresi_spill_finish(struct pg_source *s)
{
    struct pg_lsn end = s->replay->end;

    if (s->replay->prepared)
        postgresi_relations_back(s);
    free_spill(s->replay);
    s->replay = NULL;
    return end;
}
