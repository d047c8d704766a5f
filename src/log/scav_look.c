/*
 * What of a segment is dead. Only what no read can ever show again:
 *
 * - an event below its stream's `truncate` (which never goes back), or of a deleted stream,
 *   or metadata that other metadata followed; with its continuations and the record of its
 *   subject's key; but never a stream's last event, which keeps its name and its next version;
 * - a state record that another one with a higher `truncate` has followed;
 * - padding.
 *
 * Everything else stays: kinds that are not known here too.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "log/scav_int.h"

#define STATE_MIN 12u /* truncate and flags */

static struct slice
name_of(const struct record *r)
{
    return slice_of(r->body, r->name_len);
}

/* Of a stage without an end? Not where one is open, or was between two looks. */
static int
left_over(struct scavenge *s, uint64_t id, struct slice stream, const struct index_head *head,
          bool *yes, struct err *err)
{
    struct index_head again = {0};
    uint64_t          fp[2];
    int               rc = 0;

    must((head->flags & INDEX_STAGED) != 0);
    logi_heads_fp(s->log->heads, stream, fp);
    if (logi_staging(s->log, fp, NULL))
        return 0;
    TRY(logi_head(s->log, id, atomic_load(&s->log->end), &again, err));
    *yes = (again.flags & INDEX_STAGED) != 0 && again.truncate == head->truncate &&
           again.next == head->next;
out:
    return rc;
}

/* As it was the first time that it was asked for in this look: so one answer for all of it. */
static int
state_of(struct scavenge *s, uint64_t id, struct slice stream, struct scav_stream **out,
         struct err *err)
{
    struct scav_stream *st =
        &s->cache[(id * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (LOGI_SCAV_CACHE - 1)];
    struct index_head head;
    bool              left = false;
    int               rc;

    *out = st;
    if (st->id_plus_1 == id + 1 && st->round == s->look.round)
        return 0;
    rc = logi_head(s->log, id, atomic_load(&s->log->end), &head, err);
    if (rc == E_NOTFOUND) {
        /* Not in the index: nothing is known, nothing goes. */
        err_clear(err);
        memset(&head, 0, sizeof head);
        rc = 0;
    }
    if (rc == 0 && (head.flags & INDEX_STAGED) != 0)
        rc = left_over(s, id, stream, &head, &left, err);
    if (rc != 0)
        return rc;
    *st = (struct scav_stream){.id_plus_1 = id + 1,
                               .next = head.next,
                               .truncate = head.truncate,
                               .below = head.truncate,
                               .round = s->look.round};
    if (left || (head.flags & (INDEX_DELETED | INDEX_TOMBSTONE)) != 0)
        st->below = head.next;
    if (logi_is_metastream(stream) && st->next > 0 && st->next - 1 > st->below)
        st->below = st->next - 1;
    st->moves = logi_scav_has_moves(s, id, stream, &head);
    logi_scav_limits(s, stream, &head, st);
    return 0;
}

/* A place for each id, next to those of the streams that began at the same time. */
static struct scav_dead *
dead_of(struct scavenge *s, uint64_t id)
{
    return &s->dead[id & (LOGI_SCAV_DEAD - 1)];
}

static void
remember(struct scavenge *s, const struct scav_stream *st)
{
    uint64_t below = st->below;

    must(st->round == s->look.round); /* it is what this look has found */
    if (st->moves || st->count_low != 0 || st->max_age_us != 0 || s->no_limits ||
        st->id_plus_1 > UINT32_MAX)
        return;
    if (st->next == 0)
        below = 0;
    else if (below > st->next - 1)
        below = st->next - 1; /* the last event stays */
    *dead_of(s, st->id_plus_1 - 1) =
        (struct scav_dead){.id_plus_1 = (uint32_t)st->id_plus_1,
                           .below = below < UINT32_MAX ? (uint32_t)below : UINT32_MAX};
}

/* *to: where a copy of it is, which a stub will name; 0: there is none. */
static int
event_is_dead(struct scavenge *s, const struct record *r, const struct frame *f, bool *dead,
              uint64_t *to, struct err *err)
{
    const struct scav_dead *known = dead_of(s, r->stream_id);
    struct scav_stream     *st;
    bool                    stays;
    int                     rc;

    must(r->kind == RECORD_EVENT);
    *to = 0;
    if (known->id_plus_1 == r->stream_id + 1) {
        *dead = r->version < known->below;
        return 0;
    }
    rc = state_of(s, r->stream_id, name_of(r), &st, err);
    *dead = rc == 0 && r->version < st->below && r->version + 1 < st->next;
    if (*dead && st->moves) {
        rc = logi_scav_stub(s, r, f, to, &stays, err);
        *dead = rc == 0 && !stays;
        return rc;
    }
    if (rc == 0 && !*dead)
        rc = logi_scav_by_limit(s, st, r, dead, err);
    if (rc != 0)
        return rc;
    must(!*dead || r->version + 1 < st->next); /* never the last event */
    remember(s, st);
    return 0;
}

/* The rest of an event goes with its head, and only then: no event is ever left without its rest.
 */
static int
rest_is_dead(struct scavenge *s, const struct record *r, bool *dead, struct err *err)
{
    struct scav_look *look = &s->look;
    uint64_t          pos, to;
    struct record     head;
    struct frame      at;
    bool              there = false; /* an event's head, whole, in an earlier segment */
    int               rc = 0;

    if (!look->head_known || look->head_id != r->stream_id || look->head_version != r->version) {
        rc = logi_position(s->log, r->stream_id, r->version, UINT64_MAX, &pos, err);
        if (rc != 0)
            return rc;
        look->head_known = true;
        look->head_id = r->stream_id;
        look->head_version = r->version;
        if (pos == 0 || pos >= look->first)
            look->head_dropped = false;
        else if (logi_scan_record_at(s->log->segs, pos, look->end, true, &head, &at)) {
            look->head_dropped = head.kind == RECORD_STUB;
            there = head.kind == RECORD_EVENT;
        } else
            look->head_dropped = logi_scan_gone(s->log->segs, pos);
        if (s->conf.dry_run && there)
            rc = event_is_dead(s, &head, &at, &look->head_dropped, &to, err); /* by now */
    }
    *dead = look->head_dropped;
    return rc;
}

static int
state_is_dead(struct scavenge *s, const struct record *r, bool *dead, struct err *err)
{
    const uint8_t      *data = r->body + r->name_len + r->type_len;
    struct scav_stream *st;
    int                 rc;

    *dead = false;
    if (r->data_len < STATE_MIN ||
        (uint64_t)r->name_len + r->type_len + r->meta_len + r->data_len > r->body_len)
        return 0;
    data += r->meta_len;
    rc = state_of(s, r->stream_id, name_of(r), &st, err);
    if (rc == 0 && st->next > 0)
        *dead = get_u64(data) < st->truncate;
    return rc;
}

static int
is_dead(struct scavenge *s, const struct frame *f, uint32_t off, const struct record *r, bool *dead,
        uint64_t *to, struct err *err)
{
    struct scav_look *look = &s->look;
    const uint8_t    *data;
    struct record     next;
    uint64_t          none;
    int               rc = 0;

    *dead = false;
    *to = 0;
    switch (r->kind) {
    case RECORD_EVENT:
        rc = event_is_dead(s, r, f, dead, to, err);
        look->head_known = (r->flags & RECORD_CONTINUED) != 0;
        look->head_id = r->stream_id;
        look->head_version = r->version;
        look->head_dropped = *dead;
        break;
    case RECORD_CONT:
        rc = rest_is_dead(s, r, dead, err);
        break;
    case RECORD_STATE:
        rc = state_is_dead(s, r, dead, err);
        break;
    case RECORD_SUBJECT:
        if (logi_scan_record(f, logi_segs_seed(s->log->segs), off + r->length, true, &next) &&
            next.kind == RECORD_EVENT)
            rc = event_is_dead(s, &next, f, dead, &none, err);
        break;
    case RECORD_STUB:
        data = r->body + r->name_len + r->type_len;
        *dead = r->data_len == sizeof none && logi_scan_gone(s->log->segs, get_u64(data));
        break;
    default:
        break;
    }
    return rc;
}

int
logi_scav_look_begin(struct scavenge *s, const struct seg_view *view, struct err *err)
{
    struct scav_look *look = &s->look;
    uint8_t          *drop = look->drop;
    size_t            room = (size_t)((view->end - view->first) / RECORD_MIN / 8 + 1);
    uint64_t          round = look->round + 1;

    must(view->first == s->pos);
    must(view->end > view->first);
    must(view->end <= atomic_load(&s->log->end));
    must(view->end <= atomic_load(&s->log->indexed)); /* or nobody knows what is hidden */
    if (look->drop_room < room) {
        drop = realloc(drop, room);
        if (drop == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "scavenge: out of memory");
    } else {
        room = look->drop_room;
    }
    memset(drop, 0, room);
    buf_fini(&look->stubs);
    *look = (struct scav_look){.first = view->first,
                               .end = view->end,
                               .round = round,
                               .drop = drop,
                               .drop_room = room,
                               .at = {view->first, 0},
                               .old_bytes = logi_segs_bytes_at(s->log->segs, view->first)};
    return 0;
}

static int
look_at_frame(struct scavenge *s, const struct frame *f, struct err *err)
{
    struct scav_look *look = &s->look;
    uint32_t          seed = logi_segs_seed(s->log->segs), off = FRAME_HEADER;
    uint64_t          kept = 0, n = look->at.record, to;
    struct record     r;
    bool              dead;
    int               rc = 0;

    for (uint32_t i = 0; i < f->head.records; i++, off += r.length, n++) {
        if (!logi_scan_record(f, seed, off, false, &r))
            FAIL(err, E_DAMAGED, ERR_FATAL, "damaged at position %" PRIu64, f->head.pos + off);
        TRY(is_dead(s, f, off, &r, &dead, &to, err));
        if (!dead) {
            kept += r.length;
            continue;
        }
        /* Nothing goes for what a damaged record says. */
        if (!logi_scan_record(f, seed, off, true, &r))
            FAIL(err, E_DAMAGED, ERR_FATAL, "damaged at position %" PRIu64, f->head.pos + off);
        must(n / 8 < look->drop_room);
        must((look->drop[n / 8] & 1u << (n % 8)) == 0);
        look->drop[n / 8] |= (uint8_t)(1u << (n % 8));
        if (to != 0) {
            struct scav_stub stub = {n, to};

            buf_add(&look->stubs, &stub, sizeof stub);
            if (look->stubs.failed)
                FAIL(err, E_NOMEM, ERR_RETRY, "scavenge: out of memory");
            kept += logi_scav_stub_bytes(&r);
        }
        look->dropped++;
        look->dropped_events += r.kind == RECORD_EVENT;
    }
    look->at.record = n;
    if (f->head.records > 0)
        look->last_time_us = f->head.time_us;
    must(kept <= f->head.length - FRAME_MIN);
    if (kept > 0) {
        look->kept_bytes += kept + FRAME_MIN;
        look->kept_frames++;
    }
out:
    return rc;
}

int
logi_scav_look_on(struct scavenge *s, bool *done, struct err *err)
{
    struct scav_look *look = &s->look;
    uint64_t          begun = look->at.pos;
    struct frame      f;
    enum scan         scan;
    int               rc = 0;

    *done = false;
    logi_segs_pin(s->log->segs, &s->pin);
    while (look->at.pos - begun < LOGI_SCAV_PIECE) {
        scan = logi_scan_from(s->log->segs, look->at.pos, look->end, &f);
        if (scan == SCAN_END) {
            look->at.pos = look->end;
            *done = true;
            break;
        }
        if (scan == SCAN_BAD)
            FAIL(err, E_DAMAGED, ERR_FATAL, "damaged at position %" PRIu64, look->at.pos);
        must(f.next > look->at.pos);
        must(f.next <= look->end);
        TRY(look_at_frame(s, &f, err));
        look->at.pos = f.next;
    }
    s->moved = look->at.pos - begun;
out:
    logi_segs_unpin(&s->pin);
    return rc;
}

void
logi_scav_look_end(struct scavenge *s)
{
    free(s->look.drop);
    s->look.drop = NULL;
    s->look.drop_room = 0;
    buf_fini(&s->look.stubs);
}

uint64_t
logi_scav_new_bytes(const struct scav_look *look)
{
    return SEG_HEADER + look->kept_bytes + look->kept_frames * SEG_TABLE_ENTRY + SEG_TABLE_END;
}
