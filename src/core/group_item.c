/*
 * What a group holds in memory: an item for each event that is read and not
 * settled, in the order of reading, in the lanes of its stream and its
 * correlation id where the group is pinned, and in its bucket while it may go.
 */
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "core/group_int.h"

/* queues */

void
groupi_push(struct item_list *q, struct item *it, bool front)
{
    must((q->count == 0) == (q->head == NULL));
    must(it->q_prev == NULL);
    must(it->q_next == NULL);
    it->q_prev = front ? NULL : q->tail;
    it->q_next = front ? q->head : NULL;
    if (it->q_prev != NULL)
        it->q_prev->q_next = it;
    else
        q->head = it;
    if (it->q_next != NULL)
        it->q_next->q_prev = it;
    else
        q->tail = it;
    q->count++;
}

void
groupi_take(struct item_list *q, struct item *it)
{
    must(q->count > 0);
    must(it->q_prev == NULL ? q->head == it : it->q_prev->q_next == it);
    must(it->q_next == NULL ? q->tail == it : it->q_next->q_prev == it);
    if (it->q_prev != NULL)
        it->q_prev->q_next = it->q_next;
    else
        q->head = it->q_next;
    if (it->q_next != NULL)
        it->q_next->q_prev = it->q_prev;
    else
        q->tail = it->q_prev;
    it->q_prev = it->q_next = NULL;
    q->count--;
}

/* the order of reading */

static struct item_list *
list_of(struct group *g, const struct item *it)
{
    return it->replay ? &g->again : &g->live;
}

static void
link_item(struct group *g, struct item *it)
{
    struct item_list *list = list_of(g, it);

    /* The checkpoint lists them as they stand: by growing numbers. */
    must(it->replay || list->tail == NULL || groupi_number(g, list->tail) <= groupi_number(g, it));
    must(!it->replay || list->tail == NULL || list->tail->parked_version <= it->parked_version);
    it->prev = list->tail;
    if (list->tail == NULL)
        list->head = it;
    else
        list->tail->next = it;
    list->tail = it;
    list->count++;
}

static void
unlink_item(struct group *g, struct item *it)
{
    struct item_list *list = list_of(g, it);

    must(list->count > 0);
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
    list->count--;
}

/* lanes */

static uint64_t
hash(uint8_t which, struct slice s)
{
    uint64_t h = 1469598103934665603u + which;

    for (size_t i = 0; i < s.len; i++)
        h = (h ^ ((const uint8_t *)s.data)[i]) * 1099511628211u;
    return h ^ h >> 32;
}

static bool
grow(struct group *g)
{
    uint32_t      mask = g->lane_mask == 0 ? 255 : g->lane_mask * 2 + 1;
    struct lane **lanes = calloc((size_t)mask + 1, sizeof(struct lane *));
    uint32_t      moved = 0;

    if (lanes == NULL)
        return false;
    for (uint32_t i = 0; g->lanes != NULL && i <= g->lane_mask; i++) {
        for (struct lane *l = g->lanes[i], *next; l != NULL; l = next) {
            next = l->next;
            must_slow((l->hash & g->lane_mask) == i);
            l->next = lanes[l->hash & mask];
            lanes[l->hash & mask] = l;
            moved++;
        }
    }
    free(g->lanes);
    must(moved == g->lane_count);
    g->lanes = lanes;
    g->lane_mask = mask;
    return true;
}

struct lane *
groupi_lane(struct group *g, uint8_t which, struct slice key, bool make)
{
    uint64_t     h = hash(which, key);
    struct lane *l;

    must(key.len <= UINT16_MAX);
    must(which < 2);
    for (l = g->lanes == NULL ? NULL : g->lanes[h & g->lane_mask]; l != NULL; l = l->next)
        if (l->hash == h && l->which == which && slice_eq(slice_of(l->key, l->len), key))
            return l;
    if (!make || ((g->lanes == NULL || g->lane_count > g->lane_mask) && !grow(g)))
        return NULL;
    l = calloc(1, sizeof *l + key.len);
    if (l == NULL)
        return NULL;
    l->hash = h;
    l->which = which;
    l->len = (uint16_t)key.len;
    if (key.len > 0)
        memcpy(l->key, key.data, key.len);
    l->next = g->lanes[h & g->lane_mask];
    g->lanes[h & g->lane_mask] = l;
    g->lane_count++;
    return l;
}

void
groupi_lane_settle(struct group *g, struct lane *lane)
{
    struct lane **at = &g->lanes[lane->hash & g->lane_mask];

    if (lane->head != NULL || lane->open > 0)
        return;
    while (*at != lane) {
        must(*at != NULL);
        at = &(*at)->next;
    }
    *at = lane->next;
    must(lane->tail == NULL);
    must(g->lane_count > 0);
    g->lane_count--;
    free(lane);
}

/* One parked event of the stream more or less. */
void
groupi_lane_open(struct group *g, struct lane *lane, bool more)
{
    if (more) {
        g->open_lanes += lane->open++ == 0;
        return;
    }
    must(lane->open > 0);
    must(g->open_lanes > 0);
    g->open_lanes -= --lane->open == 0;
    groupi_lane_settle(g, lane);
}

static struct item *
next_in(const struct item *it, uint8_t which)
{
    return it->seats[which].next;
}

static void
join_lane(struct lane *lane, struct item *it)
{
    must(it->seats[lane->which].lane == NULL);
    must((lane->head == NULL) == (lane->tail == NULL));
    it->seats[lane->which].lane = lane;
    it->seats[lane->which].next = NULL;
    if (lane->tail == NULL)
        lane->head = it;
    else
        lane->tail->seats[lane->which].next = it;
    lane->tail = it;
}

/* The first of all the lanes that it is in. */
static bool
may_go(const struct item *it)
{
    for (int i = 0; i < 2; i++)
        if (it->seats[i].lane != NULL && it->seats[i].lane->head != it)
            return false;
    return true;
}

/* Only a lane's first leaves it, but for those that are parked behind one. */
static void
leave_lane(struct lane *lane, struct item *it)
{
    struct item *before = NULL, *at = lane->head;

    must(it->seats[lane->which].lane == lane);
    while (at != it) {
        must(at != NULL);
        before = at;
        at = next_in(at, lane->which);
    }
    if (before == NULL)
        lane->head = next_in(it, lane->which);
    else
        before->seats[lane->which].next = next_in(it, lane->which);
    if (lane->tail == it)
        lane->tail = before;
    it->seats[lane->which] = (struct seat){0};
}

void
groupi_leave_lanes(struct group *g, struct item *it)
{
    must(it->state != ITEM_READY);
    must(it->state != ITEM_OUT);
    for (int i = 0; i < 2; i++) {
        struct lane *lane = it->seats[i].lane;

        if (lane == NULL)
            continue;
        leave_lane(lane, it);
        if (lane->head != NULL && lane->head->state == ITEM_BLOCKED && may_go(lane->head))
            groupi_ready(g, lane->head, false);
        groupi_lane_settle(g, lane);
    }
}

/* what may go */

void
groupi_ready(struct group *g, struct item *it, bool front)
{
    struct bucket *b = &g->buckets[it->bucket];

    must(it->state == ITEM_BLOCKED);
    must(g->pinned || it->bucket == 0);
    must_slow(may_go(it));
    it->state = ITEM_READY;
    groupi_push(&b->ready, it, front);
    g->ready++;
    g->retrying += it->attempts > 0;
    groupi_bucket_list(g, b);
}

void
groupi_unready(struct group *g, struct item *it)
{
    struct bucket *b = &g->buckets[it->bucket];

    must(it->state == ITEM_READY);
    groupi_take(&b->ready, it);
    must(g->ready > 0);
    must(it->attempts == 0 || g->retrying > 0);
    g->ready--;
    g->retrying -= it->attempts > 0;
    if (b->ready.count == 0)
        groupi_bucket_unlist(b);
}

/* coming */

static void
keep(struct group *g, struct item *it, const struct log_event *ev)
{
    uint64_t bytes = sizeof *ev + ev->type.len + ev->data.len + ev->meta.len;
    uint8_t *to;

    must(it->kept == NULL);
    if (g->kept_bytes + bytes > GROUPI_KEPT_MAX || (ev->flags & LOG_LINK) != 0)
        return;
    it->kept = malloc(bytes);
    if (it->kept == NULL)
        return; /* it can be read again */
    it->kept_bytes = (uint32_t)bytes;
    g->kept_bytes += bytes;
    memcpy(it->kept, ev, sizeof *ev);
    to = it->kept + sizeof *ev;
    if (ev->type.len > 0)
        memcpy(to, ev->type.data, ev->type.len);
    to += ev->type.len;
    if (ev->data.len > 0)
        memcpy(to, ev->data.data, ev->data.len);
    to += ev->data.len;
    must((size_t)(to - it->kept) + ev->meta.len == bytes);
    if (ev->meta.len > 0)
        memcpy(to, ev->meta.data, ev->meta.len);
}

/* A parked event of its stream comes before it, and the group keeps to that. */
static bool
is_behind(const struct group *g, const struct item *it)
{
    const struct lane *lane = it->seats[0].lane;

    must(lane != NULL);
    if (!g->settings.park_behind || lane->open == 0)
        return false;
    return !it->replay || lane->pass == g->pass;
}

static struct item *
item_new(const struct arrival *a)
{
    const struct log_event *ev = a->event;
    struct item            *it = calloc(1, sizeof *it + ev->stream.len);

    must(ev->stream.len <= LOG_NAME_MAX);
    if (it == NULL)
        return NULL;
    it->touched = a->touched;
    it->replay = a->replay;
    it->parked_version = a->parked_version;
    it->pos = ev->pos;
    it->version = ev->version;
    it->id = ev->id;
    it->time_us = ev->time_us;
    it->name_len = (uint8_t)ev->stream.len;
    memcpy(it->name, ev->stream.data, ev->stream.len);
    return it;
}

int
groupi_admit(struct group *g, const struct arrival *a, struct err *err)
{
    static const char behind[] = "behind a parked event of its stream";
    struct item      *it = item_new(a);
    struct lane      *lanes[2] = {NULL, NULL}, *pin;

    if (it != NULL && g->pinned) {
        lanes[0] = groupi_lane(g, 0, a->order_stream, true);
        if (a->correlation.len > 0)
            lanes[1] = groupi_lane(g, 1, a->correlation, true);
    }
    if (it == NULL ||
        (g->pinned && (lanes[0] == NULL || (a->correlation.len > 0 && lanes[1] == NULL)))) {
        for (int i = 0; i < 2; i++)
            if (lanes[i] != NULL)
                groupi_lane_settle(g, lanes[i]);
        free(it);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for an event");
    }
    link_item(g, it);
    pin = lanes[1] != NULL ? lanes[1] : lanes[0];
    it->bucket = pin == NULL ? 0 : (uint32_t)(pin->hash % GROUPI_BUCKETS);
    for (int i = 0; i < 2; i++)
        if (lanes[i] != NULL)
            join_lane(lanes[i], it);
    if (g->pinned && is_behind(g, it)) {
        groupi_park(g, it, behind, sizeof behind - 1);
        return 0;
    }
    keep(g, it, a->event);
    it->state = ITEM_BLOCKED;
    if (may_go(it))
        groupi_ready(g, it, false);
    return 0;
}

/* going */

static void
forget_kept(struct group *g, struct item *it)
{
    must(g->kept_bytes >= it->kept_bytes);
    g->kept_bytes -= it->kept_bytes;
    free(it->kept);
    it->kept = NULL;
    it->kept_bytes = 0;
}

void
groupi_drop(struct group *g, struct item *it)
{
    unlink_item(g, it);
    forget_kept(g, it);
    free(it->reason);
    free(it);
}

uint64_t
groupi_number(const struct group *g, const struct item *it)
{
    return g->by_version ? it->version : it->pos.v;
}

void
groupi_touch(struct group *g, struct item *it)
{
    it->touched = true;
    if (!it->replay && groupi_number(g, it) > g->touched)
        g->touched = groupi_number(g, it);
}

/* It is with nobody and in no bucket. */
void
groupi_settle(struct group *g, struct item *it)
{
    struct lane *lane = it->seats[0].lane;

    must(it->state == ITEM_BLOCKED);
    must(!g->settings.park_behind || lane != NULL);
    groupi_touch(g, it);
    if (it->replay && g->settings.park_behind && lane->open > 0) {
        must(g->open_lanes > 0);
        g->open_lanes -= --lane->open == 0; /* the lane goes when the item has left it */
    }
    groupi_leave_lanes(g, it);
    groupi_drop(g, it);
    g->settled++;
}

static void
park_one(struct group *g, struct item *it, const char *reason, size_t len)
{
    struct lane *lane = it->seats[0].lane;

    must(it->reason == NULL);
    must(!g->settings.park_behind || lane != NULL);
    if (g->settings.park_behind && it->replay)
        lane->pass = g->pass; /* it is counted as parked already */
    else if (g->settings.park_behind)
        groupi_lane_open(g, lane, true);
    g->pass_failed = g->pass_failed || it->replay;
    groupi_touch(g, it);
    forget_kept(g, it);
    it->reason = strndup(reason, len < GROUP_REASON_MAX ? len : GROUP_REASON_MAX);
    it->state = ITEM_PARKING;
    groupi_push(&g->parking, it, false);
}

/* With `park_behind` also those that stand behind it. It is with nobody and in no bucket. */
void
groupi_park(struct group *g, struct item *it, const char *reason, size_t len)
{
    static const char behind[] = "behind a parked event of its stream";
    struct item      *next = g->settings.park_behind ? next_in(it, 0) : NULL;

    must(it->state == ITEM_BLOCKED);
    must(!g->settings.park_behind || g->pinned);
    park_one(g, it, reason, len);
    for (struct item *at = next; at != NULL; at = next) {
        next = next_in(at, 0);
        must(at->state == ITEM_BLOCKED);
        park_one(g, at, behind, sizeof behind - 1);
        groupi_leave_lanes(g, at);
    }
    groupi_leave_lanes(g, it);
}

void
groupi_clear(struct group *g)
{
    while (g->live.head != NULL)
        groupi_drop(g, g->live.head); /* takes it off: NOLINT(clang-analyzer-unix.Malloc) */
    while (g->again.head != NULL)
        groupi_drop(g, g->again.head); /* NOLINT(clang-analyzer-unix.Malloc) */
    must(g->live.count == 0);
    must(g->again.count == 0);
    must(g->kept_bytes == 0);
    g->parking = (struct item_list){0};
    for (uint32_t i = 0; g->buckets != NULL && i < (g->pinned ? GROUPI_BUCKETS : 1); i++) {
        groupi_bucket_unlist(&g->buckets[i]);
        g->buckets[i].ready = (struct item_list){0};
    }
    for (struct member *m = g->members; m != NULL; m = m->next)
        m->out = (struct item_list){0};
    g->ready = g->out = g->retrying = 0;
    for (uint32_t i = 0; g->lanes != NULL && i <= g->lane_mask; i++) {
        for (struct lane *l = g->lanes[i], *next; l != NULL; l = next) {
            next = l->next;
            free(l);
        }
        g->lanes[i] = NULL;
    }
    g->lane_count = g->open_lanes = 0;
}
