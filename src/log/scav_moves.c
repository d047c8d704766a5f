/*
 * What scavenge leaves where a move left a copy: a stub at the original's position that says where
 * the copy stands. The copies that a stream's moves made are listed once and remembered for a
 * while, as a stream's events stand together in a segment or all over it.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "log/copied.h"
#include "log/iter_int.h"
#include "log/scav_int.h"

#define STREAMS 1024u        /* remembered; a power of 2 */
#define PAIRS_MAX (1u << 20) /* of all that are remembered, one stream excepted: 16 MiB */

struct pair {
    uint64_t original, copy;
};

/* The copies of the versions first to below last: pairs of `pairs`. */
struct range {
    uint64_t first, last;
    size_t   begin, count;
};

struct known {
    uint64_t    id_plus_1, round;
    struct buf  ranges, pairs;
    struct log *log;
};

struct scav_moves {
    struct known known[STREAMS];
    size_t       pairs;
};

static void
forget(struct scav_moves *m, struct known *k)
{
    must(m->pairs >= k->pairs.len / sizeof(struct pair));
    m->pairs -= k->pairs.len / sizeof(struct pair);
    buf_fini(&k->ranges);
    buf_fini(&k->pairs);
    k->id_plus_1 = 0;
}

void
logi_scav_moves_free(struct scav_moves *m)
{
    if (m == NULL)
        return;
    for (unsigned i = 0; i < STREAMS; i++)
        forget(m, &m->known[i]);
    must(m->pairs == 0);
    free(m);
}

static int
one_is_enough(void *arg, const struct logi_move *move)
{
    (void)arg;
    (void)move;
    return 1;
}

bool
logi_scav_has_moves(struct scavenge *s, uint64_t id, struct slice stream,
                    const struct index_head *head)
{
    return (head->truncate > 0 || (head->flags & INDEX_MOVED) != 0) &&
           logi_moves(s->log, id, stream, head, one_is_enough, NULL) != 0;
}

static int
add_pair(void *arg, uint64_t original, uint64_t copy)
{
    struct known *k = arg;
    struct pair   p = {original, copy};

    buf_add(&k->pairs, &p, sizeof p);
    return k->pairs.failed;
}

static int
by_original(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;

    if (x->original != y->original)
        return x->original < y->original ? -1 : 1;
    return x->copy < y->copy ? -1 : x->copy > y->copy;
}

static int
add_range(void *arg, const struct logi_move *move)
{
    struct known *k = arg;
    struct range  r = {move->first, move->last, k->pairs.len / sizeof(struct pair), 0};

    must(k->ranges.len % sizeof r == 0);
    must(k->pairs.len % sizeof(struct pair) == 0);
    if (logi_move_copies(k->log, move, add_pair, k) != 0)
        return 1;
    r.count = k->pairs.len / sizeof(struct pair) - r.begin;
    if (r.count > 0)
        qsort(k->pairs.data + r.begin * sizeof(struct pair), r.count, sizeof(struct pair),
              by_original);
    buf_add(&k->ranges, &r, sizeof r);
    return k->ranges.failed;
}

static int
known_of(struct scavenge *s, const struct record *r, struct known **out, struct err *err)
{
    struct scav_moves *m = s->moves;
    struct index_head  head;
    struct known      *k;
    int                rc;

    if (m == NULL)
        m = s->moves = calloc(1, sizeof *m);
    if (m == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "scavenge: out of memory");
    k = *out = &m->known[r->stream_id & (STREAMS - 1)];
    if (k->id_plus_1 == r->stream_id + 1 && k->round == s->look.round)
        return 0;
    forget(m, k);
    for (unsigned i = 0; m->pairs > PAIRS_MAX && i < STREAMS; i++)
        forget(m, &m->known[i]);
    k->log = s->log;
    rc = logi_head(s->log, r->stream_id, atomic_load(&s->log->end), &head, err);
    if (rc != 0)
        return rc;
    (void)logi_moves(s->log, r->stream_id, slice_of(r->body, r->name_len), &head, add_range, k);
    m->pairs += k->pairs.len / sizeof(struct pair);
    if (k->ranges.failed || k->pairs.failed) {
        forget(m, k);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "scavenge: out of memory for the copies of a stream");
    }
    k->id_plus_1 = r->stream_id + 1;
    k->round = s->look.round;
    return 0;
}

static bool
first_of(void *arg, const struct log_original *o)
{
    *(uint64_t *)arg = o->pos.v;
    return true;
}

uint32_t
logi_scav_stub_bytes(const struct record *r)
{
    uint32_t bytes = RECORD_HEADER + r->name_len + r->type_len + (uint32_t)sizeof(uint64_t);

    return (bytes + 7) / 8 * 8 + RECORD_TRAILER;
}

/* Under which position the copies name what this event came from. */
static int
origin_of(struct scavenge *s, const struct record *r, const struct frame *f, uint64_t *pos,
          bool *mark, struct err *err)
{
    const uint8_t *payload = r->body + r->name_len + r->type_len;
    struct slice   type = slice_of(r->body + r->name_len, r->type_len), meta;
    struct buf     hold = {0};
    enum log_mark  kind;
    int            rc = 0;

    *pos = r->pos;
    if ((r->flags & RECORD_CONTINUED) != 0) {
        if (!buf_reserve(&hold, (size_t)r->meta_len + r->data_len))
            FAIL(err, E_NOMEM, ERR_RETRY, "scavenge: out of memory");
        TRY(logi_scan_assemble(s->log->segs, r, f, atomic_load(&s->log->end), hold.data, err));
        payload = hold.data;
    }
    meta = slice_of(payload, r->meta_len);
    kind = log_mark_of(type, slice_of(payload + r->meta_len, r->data_len));
    *mark = kind == LOG_MARK_FROM || kind == LOG_MARK_TO;
    (void)log_copied_from(meta, first_of, pos, NULL);
out:
    buf_fini(&hold);
    return rc;
}

int
logi_scav_stub(struct scavenge *s, const struct record *r, const struct frame *f, uint64_t *to,
               bool *stays, struct err *err)
{
    struct known *k;
    uint64_t      origin;
    int           rc;

    *to = 0;
    *stays = false;
    TRY(known_of(s, r, &k, err));
    for (size_t i = 0; i < k->ranges.len / sizeof(struct range) && *to == 0 && !*stays; i++) {
        const struct range *range = (const struct range *)(const void *)k->ranges.data + i;
        const struct pair  *pairs = (const struct pair *)(const void *)k->pairs.data + range->begin;
        size_t              lo = 0, hi = range->count;

        must(range->begin + range->count <= k->pairs.len / sizeof(struct pair));
        if (r->version < range->first || r->version >= range->last)
            continue;
        TRY(origin_of(s, r, f, &origin, stays, err));
        while (lo < hi) {
            size_t mid = lo + (hi - lo) / 2;

            if (pairs[mid].original < origin)
                lo = mid + 1;
            else
                hi = mid;
        }
        if (lo < range->count && pairs[lo].original == origin)
            *to = pairs[lo].copy;
        /* One that saves nothing is not made, nor one that is longer than what it stands for. */
        *stays = *stays || (*to != 0 && logi_scav_stub_bytes(r) >= r->length);
    }
out:
    return rc;
}
