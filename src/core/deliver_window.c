/*
 * What the delivery holds in memory: items in the order of reading, each in
 * the lane of its stream. Only a lane's first item is ever with the driver,
 * unless the sink has transactions.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/must.h"
#include "core/deliver_int.h"

#ifdef __has_feature
#define HAS_FEATURE(x) __has_feature(x)
#else
#define HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
#define SPARE_NONE true /* what is used after it was given back shows */
#else
#define SPARE_NONE false
#endif

void
deliveri_push(struct queue *q, struct item *it)
{
    must((q->head == NULL) == (q->tail == NULL));
    it->base.next = NULL;
    if (q->tail == NULL)
        q->head = it;
    else
        q->tail->base.next = &it->base;
    q->tail = it;
}

struct item *
deliveri_pop(struct queue *q)
{
    struct item *it = q->head;

    if (it == NULL)
        return NULL;
    q->head = (struct item *)it->base.next;
    must(q->head != NULL || q->tail == it);
    if (q->head == NULL)
        q->tail = NULL;
    it->base.next = NULL;
    return it;
}

/* memory */

static size_t
room_of(size_t bytes)
{
    return (bytes + DELIVERI_POOL_GRAIN - 1) / DELIVERI_POOL_GRAIN * DELIVERI_POOL_GRAIN;
}

/* Where spare blocks of this room are; NULL: none are kept. */
static void **
spares_of(struct deliver *d, size_t room)
{
    size_t i = room / DELIVERI_POOL_GRAIN;

    return SPARE_NONE || i >= DELIVERI_POOL_CLASSES ? NULL : &d->pool.spare[i];
}

/* Not cleared. */
static void *
take_block(struct deliver *d, size_t bytes)
{
    size_t room = room_of(bytes);
    void **spares = spares_of(d, room), *block = spares == NULL ? NULL : *spares;

    if (block == NULL) {
        if (d->bytes + d->pool.bytes + room > d->conf.window_bytes)
            deliveri_pool_fini(&d->pool); /* they are of other sizes */
        return malloc(room);
    }
    must(d->pool.bytes >= room);
    memcpy(spares, block, sizeof block);
    d->pool.bytes -= room;
    return block;
}

static void
give_block(struct deliver *d, void *block, size_t bytes)
{
    size_t room = room_of(bytes);
    void **spares = spares_of(d, room);

    if (spares == NULL || d->bytes + d->pool.bytes + room > d->conf.window_bytes) {
        free(block);
        return;
    }
    memcpy(block, spares, sizeof block);
    *spares = block;
    d->pool.bytes += room;
}

void
deliveri_pool_fini(struct pool *p)
{
    for (size_t i = 0; i < DELIVERI_POOL_CLASSES; i++) {
        for (void *block = p->spare[i], *next; block != NULL; block = next) {
            memcpy(&next, block, sizeof next);
            free(block);
        }
    }
    *p = (struct pool){0};
}

/* lanes */

static bool
grow(struct deliver *d)
{
    uint32_t      mask = d->lane_mask == 0 ? 255 : d->lane_mask * 2 + 1;
    struct lane **lanes = calloc((size_t)mask + 1, sizeof(struct lane *));
    uint32_t      moved = 0;

    if (lanes == NULL)
        return false;
    for (uint32_t i = 0; d->lanes != NULL && i <= d->lane_mask; i++) {
        for (struct lane *l = d->lanes[i], *next; l != NULL; l = next) {
            next = l->next;
            must_slow((l->hash & d->lane_mask) == i);
            l->next = lanes[l->hash & mask];
            lanes[l->hash & mask] = l;
            moved++;
        }
    }
    free(d->lanes);
    must(moved == d->lane_count);
    d->lanes = lanes;
    d->lane_mask = mask;
    return true;
}

struct lane *
deliveri_lane(struct deliver *d, struct slice stream, bool make)
{
    uint64_t     h = XXH3_64bits(stream.data, stream.len);
    struct lane *l;

    must(stream.len <= LOG_NAME_MAX);
    for (l = d->lanes == NULL ? NULL : d->lanes[h & d->lane_mask]; l != NULL; l = l->next)
        if (l->hash == h && slice_eq(slice_of(l->name, l->len), stream))
            return l;
    if (!make || ((d->lanes == NULL || d->lane_count > d->lane_mask) && !grow(d)))
        return NULL;
    l = take_block(d, sizeof *l + stream.len);
    if (l == NULL)
        return NULL;
    memset(l, 0, sizeof *l);
    l->hash = h;
    l->len = (uint8_t)stream.len;
    memcpy(l->name, stream.data, stream.len);
    l->next = d->lanes[h & d->lane_mask];
    d->lanes[h & d->lane_mask] = l;
    d->lane_count++;
    return l;
}

void
deliveri_lane_settle(struct deliver *d, struct lane *lane)
{
    struct lane **at = &d->lanes[lane->hash & d->lane_mask];

    if (lane->head != NULL || lane->open > 0 || lane->recording > 0)
        return;
    while (*at != lane) {
        must(*at != NULL);
        at = &(*at)->next;
    }
    *at = lane->next;
    must(lane->tail == NULL);
    must(lane->queued == 0);
    must(lane->mode == LANE_HOLD);
    must(d->lane_count > 0);
    d->lane_count--;
    free(lane->positions);
    give_block(d, lane, sizeof *lane + lane->len);
}

/* items */

/* Where it was routed to, else its own. */
static struct slice
stream_of(const struct shaped *s)
{
    return s->stream.len > 0 ? s->stream : s->ev.stream;
}

uint64_t
deliveri_item_bytes(const struct shaped *s)
{
    return sizeof(struct item) + stream_of(s).len + s->ev.type.len + s->ev.data.len +
           s->ev.meta.len;
}

bool
deliveri_has_room(const struct deliver *d, uint64_t bytes)
{
    if (d->items == 0)
        return true;
    return d->items < d->room && d->bytes + bytes <= d->conf.window_bytes;
}

static struct slice
copy(uint8_t **to, struct slice s)
{
    struct slice is = slice_of(*to, s.len);

    if (s.len > 0)
        memcpy(*to, s.data, s.len);
    *to += s.len;
    return is;
}

static struct items *
list_of(struct deliver *d, const struct item *it)
{
    return it->replay || it->scheduled ? &d->again : &d->live;
}

static void
link_item(struct deliver *d, struct item *it)
{
    struct items *list = list_of(d, it);

    /* What is read is read in the order of positions: the checkpoint says so. */
    must(list->tail == NULL || list != &d->live || list->tail->base.pos.v <= it->base.pos.v);
    must((list->head == NULL) == (list->tail == NULL));
    it->prev = list->tail;
    if (list->tail == NULL)
        list->head = it;
    else
        list->tail->next = it;
    list->tail = it;
    d->items++;
    d->bytes += it->bytes;
}

static void
unlink_item(struct deliver *d, struct item *it)
{
    struct items *list = list_of(d, it);

    must(it->prev == NULL ? list->head == it : it->prev->next == it);
    must(it->next == NULL ? list->tail == it : it->next->prev == it);
    if (it->prev == NULL)
        list->head = it->next;
    else
        it->prev->next = it->next;
    if (it->next == NULL)
        list->tail = it->prev;
    else
        it->next->prev = it->prev;
    must(d->items > 0);
    must(d->bytes >= it->bytes);
    d->items--;
    d->bytes -= it->bytes;
}

static void
join_lane(struct lane *lane, struct item *it)
{
    must((lane->head == NULL) == (lane->tail == NULL));
    it->lane_next = NULL;
    if (lane->tail == NULL)
        lane->head = it;
    else
        lane->tail->lane_next = it;
    lane->tail = it;
}

int
deliveri_admit(struct deliver *d, const struct shaped *s, enum admit how, struct item **out,
               struct err *err)
{
    const struct log_event *ev = &s->ev;
    uint64_t                bytes = deliveri_item_bytes(s);
    struct lane            *lane = deliveri_lane(d, ev->stream, true);
    struct item            *it = lane == NULL ? NULL : take_block(d, bytes);
    struct slice            stream = stream_of(s);
    const char             *dash = memchr(stream.data, '-', stream.len);
    uint8_t                *to;

    *out = NULL;
    if (it == NULL) {
        if (lane != NULL)
            deliveri_lane_settle(d, lane);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for an event");
    }
    must(how != ADMIT_REPLAY || lane->open > lane->queued);
    memset(it, 0, sizeof *it);
    to = it->text;
    it->base.pos = ev->pos;
    it->base.version = ev->version;
    it->base.stream = copy(&to, stream);
    it->base.type = copy(&to, ev->type);
    it->base.data = copy(&to, ev->data);
    it->base.meta = copy(&to, ev->meta);
    must(to <= (uint8_t *)it + bytes);
    it->base.id = ev->id;
    it->base.json = (ev->flags & LOG_JSON) != 0;
    it->base.created_us = ev->created_us;
    it->base.owner = d;
    it->base.run = d->range.on && how == ADMIT_LIVE ? (uint32_t)d->runs : 0;
    if (s->fault.code != 0) {
        it->faulty = true;
        it->reason = strdup(s->fault.text);
    }
    if (dash != NULL) {
        size_t cut = (size_t)(dash + 1 - (const char *)stream.data);
        it->base.key = slice_of((const char *)it->base.stream.data + cut, stream.len - cut);
    }
    it->lane = lane;
    it->replay = how == ADMIT_REPLAY;
    it->scheduled = how == ADMIT_DUE || how == ADMIT_DUE_TO_PARK;
    it->bytes = bytes;
    it->read_us = d->now_us;
    link_item(d, it);
    if (how != ADMIT_TO_PARK && how != ADMIT_DUE_TO_PARK) {
        join_lane(lane, it);
        if (d->transactional && how == ADMIT_LIVE)
            deliveri_push(&d->ready, it);
        else if (lane->head == it)
            deliveri_make_ready(d, lane);
    }
    *out = it;
    return 0;
}

/* Its first item may go. A transaction takes live ones as they come. */
void
deliveri_make_ready(struct deliver *d, struct lane *lane)
{
    struct item *it = lane->head;

    if (it != NULL && it->state == ITEM_WAITING &&
        (it->replay || it->scheduled || !d->transactional))
        deliveri_push(&d->ready, it);
}

/* Sinks with transactions: all that waits, in the order of reading. */
void
deliveri_ready_again(struct deliver *d)
{
    must(d->transactional);
    d->ready = (struct queue){0};
    for (struct item *it = d->live.head; it != NULL; it = it->next)
        if (it->state == ITEM_WAITING)
            deliveri_push(&d->ready, it);
    for (struct item *it = d->again.head; it != NULL; it = it->next)
        if (it->state == ITEM_WAITING && it->lane->head == it)
            deliveri_push(&d->ready, it);
}

/*
 * From the middle only where a transaction's items are decided in another order, or where a replay
 * ends among items that pass it.
 */
void
deliveri_leave_lane(struct deliver *d, struct item *it)
{
    struct lane  *lane = it->lane;
    struct item **at = &lane->head, *before = NULL;

    while (*at != it) {
        must(*at != NULL);
        before = *at;
        at = &(*at)->lane_next;
    }
    *at = it->lane_next;
    if (lane->tail == it)
        lane->tail = before;
    it->lane_next = NULL;
    must(d->transactional || d->conf.parked_pass || before == NULL);
}

void
deliveri_drop(struct deliver *d, struct item *it)
{
    unlink_item(d, it);
    free(it->reason);
    give_block(d, it, it->bytes);
}

/* Parked streams stay known unless `lanes`, and what is to be given up is. No driver has any of it.
 */
void
deliveri_clear(struct deliver *d, bool lanes)
{
    struct item *it;

    for (it = d->again.head; it != NULL; it = it->next)
        if (it->replay && it->skip && it->lane->head == it && it->lane->mode == LANE_REPLAY)
            it->lane->mode = LANE_SKIP_ONE;
    while ((it = d->live.head) != NULL || (it = d->again.head) != NULL)
        deliveri_drop(d, it); /* takes it off its queue: NOLINT(clang-analyzer-unix.Malloc) */
    must(d->items == 0);
    must(d->bytes == 0);
    d->ready = d->sleeping = d->finished = d->records = d->committed = (struct queue){0};
    d->later_records = (struct queue){0};
    d->flying = d->sleepers = 0;
    d->holding = false;
    if (lanes)
        d->replaying = 0;
    for (uint32_t i = 0; d->lanes != NULL && i <= d->lane_mask; i++) {
        for (struct lane *l = d->lanes[i], *next; l != NULL; l = next) {
            next = l->next;
            l->head = l->tail = NULL;
            l->queued = 0;
            l->recording = 0;
            if (lanes) {
                l->open = 0;
                l->mode = LANE_HOLD;
            }
            deliveri_lane_settle(d, l);
        }
    }
}

struct log_pos
deliveri_done_upto(const struct deliver *d, bool flying)
{
    uint64_t     read = log_iter_pos(d->reader).v;
    struct item *it = d->live.head;

    must(!d->holding || d->held.ev.pos.v <= read);
    if (d->holding)
        read = d->held.ev.pos.v;
    while (flying && it != NULL && it->state == ITEM_FLYING)
        it = it->next;
    if (it != NULL)
        read = it->base.pos.v;
    return LOG_POS(read == 0 ? 0 : read - 1);
}

struct log_pos
deliveri_live_upto(const struct deliver *d)
{
    return d->range.on ? d->mark : deliveri_done_upto(d, false);
}
