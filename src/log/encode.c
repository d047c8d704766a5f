/*
 * From a checked commit to frames (docs/format.md). Positions are given out
 * here; a group's bytes are contiguous in positions, padding included.
 */
#include <stdlib.h>

#include "log/log_int.h"

#define FRAGMENT_MIN (UINT64_C(64) << 10) /* a smaller rest of a segment is padded away */
#define TOLD_MAX 32u
#define RECORD_MAX (LOG_FRAME_MAX - FRAME_MIN)

struct enc {
    struct log       *log;
    struct group     *g;
    uint32_t          seed, number, flags;
    uint64_t          commit; /* position of the commit's first frame; 0: none yet */
    int64_t           time_us;
    size_t            frame_at; /* offset of the open frame; SIZE_MAX: none */
    uint64_t          seg_end;  /* of the segment that the open frame is in */
    uint32_t          records;
    struct mem_event *told; /* what memory is told together: room for TOLD_MAX … */
    struct ox_id     *ids;  /* … and of the same events */
    uint32_t          told_count;
};

uint64_t
logi_room_needed(const struct log_req *req)
{
    /* A segment's end wastes less than a frame, and segments are at least two frames. */
    uint64_t states = (uint64_t)req->write_count * (RECORD_MIN + 8 + LOG_NAME_MAX + STATE_BYTES);

    must(req->bytes > 0);
    return (req->bytes + states) * 2 + 3 * LOG_FRAME_MAX;
}

static uint64_t
enc_pos(const struct enc *e)
{
    return e->g->first + e->g->bytes.len;
}

static void
close_frame(struct enc *e, bool last)
{
    struct frame_head h = {
        .pos = e->g->first + e->frame_at,
        .commit = e->commit,
        .durable = e->g->first,
        .time_us = e->time_us,
        .records = e->records,
        .flags = e->flags | (e->number == 0 ? FRAME_FIRST : 0u) | (last ? FRAME_LAST : 0u),
        .number = e->number++,
    };

    must(e->records > 0);
    must(e->frame_at != SIZE_MAX);
    must(h.number == 0 ? h.commit == h.pos : h.commit < h.pos);
    e->g->bytes.len += FRAME_TRAILER;
    h.length = (uint32_t)(e->g->bytes.len - e->frame_at);
    must(h.length <= LOG_FRAME_MAX);
    must(h.length % 8 == 0);
    must(enc_pos(e) <= e->seg_end);
    must(enc_pos(e) == e->seg_end || e->seg_end - enc_pos(e) >= FRAME_MIN); /* padding has room */
    fmt_frame_put(e->g->bytes.data + e->frame_at, &h, e->seed);
    e->g->frames++;
    e->frame_at = SIZE_MAX;
}

/* Fills the segment to its end. */
static int
pad(struct enc *e, struct err *err)
{
    uint64_t          pos = enc_pos(e), length = e->seg_end - pos;
    struct frame_head h = {.pos = pos,
                           .commit = pos,
                           .durable = e->g->first,
                           .time_us = e->time_us,
                           .length = (uint32_t)length,
                           .flags = FRAME_PAD};

    must(e->frame_at == SIZE_MAX);
    if (length == 0)
        return 0;
    must(length >= FRAME_MIN);
    must(length < LOG_FRAME_MAX + FRAME_MIN); /* else the record had fitted */
    if (!buf_reserve(&e->g->bytes, length))
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory for a group");
    memset(e->g->bytes.data + e->g->bytes.len, 0, length);
    fmt_frame_put(e->g->bytes.data + e->g->bytes.len, &h, e->seed);
    e->g->bytes.len += length;
    e->g->frames++;
    return 0;
}

/* The longest record that may come next into the open frame; 0: none. */
static uint64_t
room(const struct enc *e)
{
    uint64_t cur = enc_pos(e), cap = e->g->first + e->frame_at + LOG_FRAME_MAX;

    must(e->frame_at != SIZE_MAX);
    if (cap > e->seg_end)
        cap = e->seg_end;
    return cur + FRAME_TRAILER + RECORD_MIN > cap ? 0 : cap - cur - FRAME_TRAILER;
}

/* After a record of this length the frame can be closed: padding has room, or nothing is left. */
static bool
fits(const struct enc *e, uint64_t length)
{
    uint64_t left;

    if (length > room(e))
        return false;
    left = e->seg_end - (enc_pos(e) + length + FRAME_TRAILER);
    return left == 0 || left >= FRAME_MIN;
}

static int
open_frame(struct enc *e, struct err *err)
{
    struct seg_view view;

    must(e->frame_at == SIZE_MAX);
    must((enc_pos(e) & 7) == 0);
    must(logi_segs_at(e->log->segs, enc_pos(e), &view)); /* check_room saw to it */
    must(!view.sparse);                                  /* only what is full is scavenged */
    e->seg_end = view.end;
    if (!buf_reserve(&e->g->bytes, FRAME_HEADER))
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory for a group");
    e->frame_at = e->g->bytes.len;
    e->g->bytes.len += FRAME_HEADER;
    e->records = 0;
    return 0;
}

static void
unopen_frame(struct enc *e)
{
    must(e->records == 0);
    e->g->bytes.len = e->frame_at;
    e->frame_at = SIZE_MAX;
}

/* An open frame into which a record of `length` fits, or of at least `least` where it is longer. */
static int
make_room(struct enc *e, uint64_t length, uint64_t least, struct err *err)
{
    int rc;

    for (int tries = 0; tries < 3; tries++) {
        if (e->frame_at != SIZE_MAX && (fits(e, length) || (least < length && room(e) >= least)))
            return 0;
        if (e->frame_at != SIZE_MAX && e->records > 0) {
            close_frame(e, false);
        } else if (e->frame_at != SIZE_MAX) {
            unopen_frame(e);
            TRY(pad(e, err));
        }
        TRY(open_frame(e, err));
        if (e->number == 0)
            e->commit = enc_pos(e) - FRAME_HEADER;
    }
    must(fits(e, length) || (least < length && room(e) >= least));
    rc = 0;
out:
    return rc;
}

/* Writes a record whose body is names and then bytes of metadata and data, from `from` on. */
static int
put_record(struct enc *e, struct record *r, struct slice name, const struct log_new_event *ev,
           uint64_t from, uint64_t payload, struct err *err)
{
    uint64_t used = RECORD_HEADER + r->name_len + r->type_len + payload;
    uint64_t meta = from < ev->meta.len ? ev->meta.len - from : 0;
    uint8_t *p, *at;

    must(from + payload <= ev->meta.len + ev->data.len);
    must(r->name_len == 0 || r->name_len == name.len);
    must(r->type_len == 0 || r->type_len == ev->type.len);
    r->length = (uint32_t)(align8(used) + RECORD_TRAILER);
    must(fits(e, r->length));
    if (!buf_reserve(&e->g->bytes, r->length + FRAME_TRAILER))
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory for a group");
    p = e->g->bytes.data + e->g->bytes.len;
    r->pos = enc_pos(e);
    r->frame_off = (uint32_t)(e->g->bytes.len - e->frame_at);
    fmt_record_put(p, r);
    at = p + RECORD_HEADER;
    if (r->name_len > 0)
        memcpy(at, name.data, r->name_len);
    at += r->name_len;
    if (r->type_len > 0)
        memcpy(at, ev->type.data, r->type_len);
    at += r->type_len;
    if (meta > payload)
        meta = payload;
    if (meta > 0)
        memcpy(at, (const uint8_t *)ev->meta.data + from, meta);
    at += meta;
    if (payload > meta)
        memcpy(at, (const uint8_t *)ev->data.data + (from + meta - ev->meta.len), payload - meta);
    at += payload - meta;
    must((size_t)(p + r->length - RECORD_TRAILER - at) < 8);
    memset(at, 0, (size_t)(p + r->length - RECORD_TRAILER - at));
    fmt_record_seal(p, r->length, e->seed);
    e->g->bytes.len += r->length;
    e->records++;
    return 0;
}

/*
 * The length of a record that fits now and is continued, where one of `length`
 * does not fit. A multiple of 8: a fragment that goes on has no padding.
 */
static uint64_t
fragment_length(const struct enc *e, uint64_t length)
{
    uint64_t most = room(e);

    if (length <= most)
        most = length - 8 - align8(FRAME_MIN);
    if (!fits(e, most))
        most -= align8(FRAME_MIN);
    must(fits(e, most));
    return most;
}

/* An event that is longer than a frame: full frames, then the rest. */
static int
put_fragments(struct enc *e, struct record *r, struct slice name, const struct log_new_event *ev,
              uint64_t *pos, struct err *err)
{
    uint64_t all = ev->meta.len + ev->data.len, done = 0;
    int      rc;

    *pos = 0;
    while (done < all) {
        uint64_t names = (uint64_t)r->name_len + r->type_len;
        uint64_t length = align8(RECORD_HEADER + names + (all - done)) + RECORD_TRAILER, part;

        /* A fragment begins its frame, so that a reader knows where to look for it. */
        if (e->frame_at != SIZE_MAX && e->records > 0)
            close_frame(e, false);
        TRY(make_room(e, length, FRAGMENT_MIN, err));
        part = all - done;
        if (!fits(e, length))
            part = fragment_length(e, length) - RECORD_MIN - names;
        must(part > 0);
        must(part <= all - done);
        r->flags = (uint8_t)(done + part < all ? r->flags | RECORD_CONTINUED
                                               : r->flags & ~RECORD_CONTINUED);
        TRY(put_record(e, r, name, ev, done, part, err));
        if (done == 0)
            *pos = r->pos;
        done += part;
        r->kind = RECORD_CONT;
        r->flags &= (uint8_t)~RECORD_NEW_STREAM;
        r->name_len = r->type_len = 0;
    }
    must((r->flags & RECORD_CONTINUED) == 0);
    rc = 0;
out:
    return rc;
}

/* The number in its place, and what follows it behind it; returns the text's length. */
static size_t
put_late(uint8_t *text, size_t len, uint32_t at, uint64_t number)
{
    uint8_t  digits[LOG_LATE_ROOM];
    unsigned n = 0;

    if (at == UINT32_MAX)
        return len;
    must(at + LOG_LATE_ROOM <= len);
    do
        digits[LOG_LATE_ROOM - ++n] = (uint8_t)('0' + number % 10);
    while ((number /= 10) != 0);
    memcpy(text + at, digits + LOG_LATE_ROOM - n, n);
    memmove(text + at + n, text + at + LOG_LATE_ROOM, len - at - LOG_LATE_ROOM);
    return len - LOG_LATE_ROOM + n;
}

/* The event with what is known of it only now. */
static struct log_new_event
completed(const struct log_new_event *ev)
{
    const struct log_late *l = ev->late;
    struct log_new_event   own = *ev;
    struct slice          *text;

    if (l == NULL)
        return own;
    must(l->of->pos != 0);
    must(l->pos_at > l->version_at || l->version_at == UINT32_MAX); /* the later one first */
    text = l->data ? &own.data : &own.meta;
    must(text->data == l->text);
    text->len = put_late(l->text, text->len, l->pos_at, l->of->pos);
    text->len = put_late(l->text, text->len, l->version_at, l->of->version);
    return own;
}

static int
put_event(struct enc *e, const struct log_write *w, const struct target *t, uint32_t i,
          const uint8_t *id, uint64_t *pos, struct err *err)
{
    const struct log_new_event  own = completed(&w->events[i]);
    const struct log_new_event *ev = &own;
    struct record               r = {
                      .kind = RECORD_EVENT,
                      .flags =
                          (uint8_t)(((ev->flags & LOG_JSON) != 0 ? RECORD_JSON : 0) |
                      ((ev->flags & LOG_LINK) != 0 || slice_is(ev->type, LINK_TYPE) ? RECORD_LINK
                                                                                                  : 0) |
                      ((ev->flags & LOG_SEALED) != 0 ? RECORD_ENCRYPTED : 0) |
                      (t->is_new && i == 0 ? RECORD_NEW_STREAM : 0)),
                      .name_len = (uint16_t)w->stream.len,
                      .type_len = (uint16_t)ev->type.len,
                      .stream_id = t->id,
                      .version = t->next + i,
                      .id = id,
                      .created_us = ev->created_us != 0 ? ev->created_us : e->time_us,
                      .meta_len = (uint32_t)ev->meta.len,
                      .data_len = (uint32_t)ev->data.len,
    };
    uint64_t payload = ev->meta.len + ev->data.len;
    uint64_t length =
        align8(RECORD_HEADER + w->stream.len + ev->type.len + payload) + RECORD_TRAILER;
    int rc;

    must(w->stream.len > 0);
    must(w->stream.len <= LOG_NAME_MAX);
    must(ev->type.len <= LOG_TYPE_MAX);
    must(payload <= LOG_EVENT_MAX);
    if (length > RECORD_MAX)
        return put_fragments(e, &r, w->stream, ev, pos, err);
    TRY(make_room(e, length, length, err));
    TRY(put_record(e, &r, w->stream, ev, 0, payload, err));
    *pos = r.pos;
out:
    return rc;
}

static uint64_t
mix(uint64_t v)
{
    v = (v ^ v >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
    return v ^ v >> 31;
}

/* Unique, not secret: a counter on a random seed of this opening, mixed. */
static struct ox_id
make_id(struct log *log, int64_t us)
{
    uint64_t n = log->id_count++ * UINT64_C(0x9e3779b97f4a7c15);

    return id_v7(us, mix(log->id_seed[0] + n), mix(log->id_seed[1] ^ n));
}

static int
tell_memory(struct enc *e, struct err *err)
{
    struct recent *recent = e->log->recent;
    uint32_t       n = e->told_count;
    int            rc;

    for (uint32_t i = 0; i < n; i++)
        logi_recent_expect(recent, e->told[i].id, e->ids[i].b);
    TRY(logi_mem_add(e->log->mem, e->told, n, err));
    for (uint32_t i = 0; i < n; i++)
        logi_recent_add(recent, e->told[i].id, e->ids[i].b, e->told[i].pos);
    e->told_count = 0;
out:
    return rc;
}

/* The next event of write n. */
static int
encode_event(struct enc *e, struct log_req *req, uint32_t n, struct err *err)
{
    struct log       *log = e->log;
    struct log_write *w = &req->writes[n];
    struct target    *t = &log->targets[n];
    uint32_t          i = t->done++;
    struct ox_id      id = w->events[i].id;
    uint64_t          pos;
    int               rc;

    must(i < w->count);
    must(!t->there); /* nothing is written twice */
    if (i == 0 && t->is_new)
        t->id = log->next_stream_id++;
    if (id_is_zero(&id))
        id = make_id(log, e->time_us);
    TRY(put_event(e, w, t, i, id.b, &pos, err));
    must(pos > req->last.v);
    must(pos < enc_pos(e));
    if (w->events[i].place != NULL)
        *w->events[i].place = (struct log_place){t->next + i, pos};
    e->ids[e->told_count] = id;
    e->told[e->told_count++] = (struct mem_event){
        t->id, t->next + i, pos, w->stream, w->events[i].type, t->is_new && i == 0};
    if (e->told_count == TOLD_MAX)
        TRY(tell_memory(e, err));
    if (req->pos.v == 0)
        req->pos = LOG_POS(pos);
    req->last = LOG_POS(pos);
    e->g->events++;
out:
    return rc;
}

static void
note_head(struct log *log, const struct target *t)
{
    struct head *h = logi_heads_get(log->heads, t->fp);

    if (h == NULL)
        h = logi_heads_put(log->heads, t->fp);
    else
        must(h->id == t->id);
    must(h->next <= t->next + t->done);
    h->id = t->id;
    h->next = t->next + t->done;
    h->truncate = t->truncate;
    h->flags = t->flags;
}

/* What holds for the stream from here on, behind the commit's events. */
static int
put_state(struct enc *e, struct log_req *req, struct slice stream, struct target *t,
          struct err *err)
{
    static const uint8_t no_id[16] = {0};
    struct state_data    s = {t->truncate, t->max_count, t->max_age_us, t->flags,
                              fmt_state_moved_put(t->moved, t->next + t->done)};
    uint8_t              data[STATE_BYTES];
    struct log_new_event ev = {.data = {data, sizeof data}};
    struct record        r = {.kind = RECORD_STATE,
                              .name_len = (uint16_t)stream.len,
                              .id = no_id,
                              .created_us = e->time_us,
                              .data_len = sizeof data};
    struct mem_state     m = {.stream = stream, .is_new = t->is_new && t->done == 0};
    uint64_t             length = align8(RECORD_HEADER + stream.len + sizeof data) + RECORD_TRAILER;
    int                  rc;

    must(t->max_age_us >= 0);
    must((t->flags & INDEX_DELETED) == 0 || (t->flags & INDEX_TOMBSTONE) == 0);
    must(s.moved == 0 || fmt_state_moved(&s, t->next + t->done) == t->moved);
    if (m.is_new)
        t->id = e->log->next_stream_id++;
    TRY(logi_mark(e->log, t->id, err));
    fmt_state_put(data, &s);
    r.stream_id = m.id = t->id;
    r.version = t->next + t->done;
    r.flags = m.is_new ? RECORD_NEW_STREAM : 0;
    TRY(make_room(e, length, length, err));
    TRY(put_record(e, &r, stream, &ev, 0, sizeof data, err));
    m.pos = r.pos;
    m.head = (struct index_head){.next = r.version,
                                 .truncate = s.truncate,
                                 .max_count = s.max_count,
                                 .max_age_us = s.max_age_us,
                                 .flags = s.flags,
                                 .moved = t->moved};
    TRY(logi_mem_add_state(e->log->mem, &m, err));
    if (req->pos.v == 0)
        req->pos = req->last = LOG_POS(r.pos);
    e->g->states++;
out:
    return rc;
}

/* Heads as they are behind the commit, and the states that it changes. */
static int
encode_ends(struct enc *e, struct log_req *req, struct err *err)
{
    struct target *t = e->log->targets;
    int            rc = 0;

    TRY(tell_memory(e, err));
    for (uint32_t n = 0; n < req->write_count; n++, t++) {
        struct log_write *w = &req->writes[n];

        if (n + LOGI_AHEAD < req->write_count)
            logi_heads_prefetch_set(e->log->heads, t[LOGI_AHEAD].fp);
        if (n + LOGI_AHEAD / 2 < req->write_count && t[LOGI_AHEAD / 2].is_new)
            logi_heads_prefetch_put(e->log->heads, t[LOGI_AHEAD / 2].fp);
        must(t->done == w->count);
        if (t->state)
            TRY(put_state(e, req, w->stream, t, err));
        note_head(e->log, t);
        w->first_version = t->next;
        w->last_version = t->next + w->count - 1;
    }
    for (uint32_t i = 0; i < req->own_count; i++, t++) {
        if (t->by_write)
            continue;
        must(t->state);
        must(t->done == 0);
        TRY(put_state(e, req, req->own[i].change.stream, t, err));
        note_head(e->log, t);
    }
out:
    return rc;
}

static int
encode_events(struct enc *e, struct log_req *req, struct err *err)
{
    uint32_t all = 0;
    int      rc = 0;

    for (uint32_t n = 0; n < req->write_count; n++)
        all += req->writes[n].count;
    if (req->order != NULL) {
        for (uint32_t k = 0; k < all; k++)
            TRY(encode_event(e, req, req->order[k], err));
        goto out;
    }
    for (uint32_t n = 0; n < req->write_count; n++)
        for (uint32_t i = 0; i < req->writes[n].count; i++)
            TRY(encode_event(e, req, n, err));
out:
    return rc;
}

int
logi_encode(struct log *log, struct group *g, struct log_req *req, struct err *err)
{
    struct mem_event told[TOLD_MAX];
    struct ox_id     ids[TOLD_MAX];
    struct enc       e = {
              .log = log,
              .told = told,
              .ids = ids,
              .g = g,
              .seed = logi_segs_seed(log->segs),
              .flags = ((req->flags & LOG_QUIET) != 0 ? FRAME_QUIET : 0u) |
                       ((req->flags & LOG_STAGED) != 0 ? FRAME_STAGE : 0u),
              .frame_at = SIZE_MAX,
    };
    uint64_t before = g->bytes.len;
    int64_t  now = req->time_us != 0 ? req->time_us : log->env->ops->wall_us(log->env);
    int      rc;

    if (now > log->last_time_us)
        log->last_time_us = now;
    e.time_us = log->last_time_us;
    must(g->first + g->bytes.len == log->next_pos);
    must(log->target_room >= req->write_count + req->own_count);
    must(req->last.v == 0); /* nothing of it is there */
    req->pos = LOG_POS(0);
    TRY(encode_events(&e, req, err));
    TRY(encode_ends(&e, req, err));
    close_frame(&e, true);
    must(g->bytes.len - before <= logi_room_needed(req));
    must(req->pos.v > e.commit);
    must(g->commits == 0 || g->time_us <= e.time_us);
    g->commits++;
    g->time_us = e.time_us;
    if ((req->flags & (LOG_QUIET | LOG_STAGED)) == 0)
        g->loud = true;
    if ((req->flags & LOG_BULK) != 0)
        g->bulk_bytes += g->bytes.len - before;
    log->next_pos = g->first + g->bytes.len;
    req->end = LOG_POS(log->next_pos);
    must(req->end.v > req->last.v);
    rc = 0;
out:
    return rc;
}
