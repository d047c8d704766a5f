/*
 * Members: who has which event, whose turn it is, and what comes of what was
 * handed out. With pinned groups each of 1,024 buckets of streams belongs to
 * one member; a member that joins takes its share over, and one that leaves
 * gives all of its to the others. The order of a stream does not hang on that:
 * what goes out is the first of its stream, whoever gets it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "core/group_int.h"

#define BUFFER_PRESET 10u
#define STRIDE 389u /* odd: goes through all buckets, and not one beside the other */

/* buckets */

void
groupi_bucket_unlist(struct bucket *b)
{
    struct member *m = b->owner;

    if (!b->listed)
        return;
    must(m != NULL);
    must(b->prev == NULL ? m->ready_head == b : b->prev->next == b);
    must(b->next == NULL ? m->ready_tail == b : b->next->prev == b);
    if (b->prev == NULL)
        m->ready_head = b->next;
    else
        b->prev->next = b->next;
    if (b->next == NULL)
        m->ready_tail = b->prev;
    else
        b->next->prev = b->prev;
    b->prev = b->next = NULL;
    b->listed = false;
}

/* At the end of its owner's; those that are not pinned need no list. */
void
groupi_bucket_list(struct group *g, struct bucket *b)
{
    struct member *m = b->owner;

    if (b->listed || m == NULL || b->ready.count == 0)
        return;
    must(g->pinned);
    b->prev = m->ready_tail;
    b->next = NULL;
    if (m->ready_tail == NULL)
        m->ready_head = b;
    else
        m->ready_tail->next = b;
    m->ready_tail = b;
    b->listed = true;
}

static void
give_bucket(struct group *g, struct bucket *b, struct member *to)
{
    must(to == NULL || to->group == g);
    groupi_bucket_unlist(b);
    if (b->owner != NULL) {
        must(b->owner->buckets > 0);
        b->owner->buckets--;
    }
    b->owner = to;
    if (to != NULL)
        to->buckets++;
    groupi_bucket_list(g, b);
}

static struct member *
poorest(struct group *g)
{
    struct member *least = g->members;

    for (struct member *m = g->members; m != NULL; m = m->next)
        if (m->buckets < least->buckets)
            least = m;
    return least;
}

/* Those that are nobody's, and for `to` its share of what others have, from all over. */
static void
share_out(struct group *g, struct member *to)
{
    uint32_t share = g->member_count == 0 ? 0 : GROUPI_BUCKETS / g->member_count;

    for (uint32_t i = 0; g->pinned && g->members != NULL && i < GROUPI_BUCKETS; i++) {
        struct bucket *b = &g->buckets[i * STRIDE % GROUPI_BUCKETS];

        if (b->owner == NULL)
            give_bucket(g, b, poorest(g));
        else if (to != NULL && to->buckets < share && b->owner->buckets > share)
            give_bucket(g, b, to);
    }
}

/* The buckets are other ones. */
void
groupi_share_anew(struct group *g)
{
    for (struct member *m = g->members; m != NULL; m = m->next) {
        must(m->ready_head == NULL);
        m->buckets = 0;
    }
    share_out(g, NULL);
}

/* what was out */

static void
off_member(struct group *g, struct item *it)
{
    must(it->state == ITEM_OUT);
    must(it->member->group == g);
    groupi_take(&it->member->out, it);
    it->member = NULL;
    it->state = ITEM_BLOCKED;
    must(g->out > 0);
    g->out--;
}

/* It goes again, the first of its bucket, or is parked where it failed too often. */
void
groupi_take_back(struct group *g, struct item *it, bool failed, const char *why)
{
    char text[160];
    int  len;

    off_member(g, it);
    if (failed && it->attempts >= g->settings.max_retry_count) {
        len = snprintf(text, sizeof text, "%s; %" PRIu32 " attempts", why, it->attempts + 1);
        it->attempts++;
        groupi_park(g, it, text, (size_t)len);
        return;
    }
    if (failed) {
        it->attempts++;
        g->retries++;
    }
    groupi_ready(g, it, true);
}

/* Where `next_us` is later than the next time-out, it gets that one. */
void
groupi_timeouts(struct group *g, uint64_t *next_us)
{
    uint64_t limit = (uint64_t)g->settings.message_timeout_ms * 1000, now = g->groups->now_us;

    for (struct member *m = g->members; limit > 0 && m != NULL; m = m->next) {
        struct item *it;

        while ((it = m->out.head) != NULL && it->out_us + limit <= now) {
            g->timeouts++;
            groupi_take_back(g, it, true, "not acknowledged in time");
        }
        if (it != NULL && it->out_us + limit < *next_us)
            *next_us = it->out_us + limit;
    }
}

/* handing out */

static bool
has_room(const struct member *m)
{
    return !m->stalled && m->out.count < m->conf.buffer && (!m->conf.pull || m->want > 0);
}

static void
flush(struct group *g)
{
    for (struct member *m = g->members; m != NULL; m = m->next) {
        if (!m->unflushed)
            continue;
        m->unflushed = false;
        m->conf.flush(m->conf.arg);
    }
}

static struct log_event
kept_event(const struct item *it)
{
    struct log_event ev;
    const uint8_t   *at = it->kept + sizeof ev;

    memcpy(&ev, it->kept, sizeof ev);
    ev.stream = slice_of(it->name, it->name_len);
    ev.type.data = at;
    ev.data.data = at + ev.type.len;
    ev.meta.data = at + ev.type.len + ev.data.len;
    return ev;
}

static void
deliver(struct group *g, struct item *it, struct member *m, const struct group_event *ge)
{
    must(m->out.count < m->conf.buffer);
    must(m->group == g);
    must(!m->stalled);
    must(!m->conf.pull || m->want > 0);
    groupi_unready(g, it);
    it->state = ITEM_OUT;
    groupi_touch(g, it);
    it->member = m;
    it->out_us = g->groups->now_us;
    /* Whose time is over is looked for from the front. */
    must(m->out.tail == NULL || m->out.tail->out_us <= it->out_us);
    groupi_push(&m->out, it, false);
    g->out++;
    g->delivered++;
    m->delivered++;
    m->unflushed = true;
    if (m->conf.pull)
        m->want--;
    m->stalled = !m->conf.deliver(m->conf.arg, ge);
}

static void
settle_gone(struct group *g, struct item *it)
{
    groupi_unready(g, it);
    it->state = ITEM_BLOCKED;
    g->skipped++;
    groupi_settle(g, it);
}

/* One event to one member; one that is not in the log any more is settled. */
static int
hand_out(struct group *g, struct item *it, struct member *m, struct err *err)
{
    struct log_iter   *iters[2] = {NULL, NULL};
    struct log_event   ev, target;
    struct group_event ge = {.event = &ev, .retry_count = it->attempts};
    int                rc = 0;

    must(it->state == ITEM_READY);
    if (it->kept != NULL)
        ev = kept_event(it);
    else
        rc = groupi_find(g, it, &iters[0], &ev, err);
    if (rc == 0 && g->settings.resolve_links && (ev.flags & LOG_LINK) != 0) {
        ge.link = &ev;
        ge.event = &target;
        rc = groupi_resolve(g, &ev, &iters[1], &target, err);
    }
    if (rc == 0) {
        deliver(g, it, m, &ge);
        must(g->kept_bytes >= it->kept_bytes);
        g->kept_bytes -= it->kept_bytes;
        free(it->kept);
        it->kept = NULL;
        it->kept_bytes = 0;
    } else if (rc == E_NOTFOUND) {
        settle_gone(g, it);
        rc = 0;
    }
    log_iter_close(iters[1]);
    log_iter_close(iters[0]);
    return rc;
}

/* Whose turn it is; NULL: nobody has room. */
static struct member *
pick_member(struct group *g)
{
    struct member *m = g->turn != NULL ? g->turn : g->members;

    for (uint32_t n = 0; n < g->member_count; n++) {
        struct member *after = m->next != NULL ? m->next : g->members;

        if (has_room(m)) {
            g->turn = g->settings.strategy == GROUP_SINGLE ? m : after;
            return m;
        }
        m = after;
    }
    return NULL;
}

static int
hand_out_any(struct group *g, uint32_t budget, bool *more, struct err *err)
{
    struct bucket *b = &g->buckets[0];
    struct member *m;
    int            rc = 0;

    must(!g->pinned);
    while (rc == 0 && b->ready.head != NULL && (m = pick_member(g)) != NULL) {
        if (budget-- == 0) {
            *more = true;
            break;
        }
        rc = hand_out(g, b->ready.head, m, err);
    }
    return rc;
}

static int
hand_out_pinned(struct group *g, uint32_t budget, bool *more, struct err *err)
{
    struct member *m = g->turn != NULL ? g->turn : g->members;
    int            rc = 0;

    must(g->pinned);
    if (m != NULL)
        g->turn = m->next; /* another one is the first next time */
    for (uint32_t n = 0; rc == 0 && n < g->member_count; n++, m = m->next) {
        if (m == NULL)
            m = g->members;
        must(m != NULL);
        while (rc == 0 && m->ready_head != NULL && has_room(m)) {
            struct bucket *b = m->ready_head;

            if (budget-- == 0) {
                *more = true;
                return 0;
            }
            must(b->owner == m);
            must(b->ready.count > 0);
            groupi_bucket_unlist(b); /* to the end, where more of it is ready */
            groupi_bucket_list(g, b);
            rc = hand_out(g, b->ready.head, m, err);
        }
    }
    return rc;
}

int
groupi_hand_out(struct group *g, uint32_t budget, bool *more, struct err *err)
{
    int rc = g->pinned ? hand_out_pinned(g, budget, more, err) : hand_out_any(g, budget, more, err);

    flush(g);
    return rc;
}

/* coming and going */

static int
check_join(const struct group *g, const struct group_member_conf *conf, struct err *err)
{
    uint32_t most = g->settings.max_subscriber_count;

    if (conf->buffer > GROUP_BUFFER_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "buffer: at most %u events", GROUP_BUFFER_MAX);
    if (g->member_count >= (most == 0 ? GROUP_MEMBERS_MAX : most))
        RETURN_ERR(err, E_LIMIT, ERR_RETRY, "group %s of %s: has %" PRIu32 " members, all it takes",
                   g->name, g->source, g->member_count);
    return 0;
}

static void
copy_text(char *out, size_t room, struct slice text)
{
    size_t len = text.len < room - 1 ? text.len : room - 1;

    if (len > 0)
        memcpy(out, text.data, len);
    out[len] = '\0';
}

static void
link_member(struct group *g, struct member *m)
{
    must(m->group == g);
    m->prev = g->member_last;
    if (g->member_last == NULL)
        g->members = m;
    else
        g->member_last->next = m;
    g->member_last = m;
    g->member_count++;
    share_out(g, m);
}

static void
unlink_member(struct group *g, struct member *m)
{
    must(g->member_count > 0);
    must(m->prev == NULL ? g->members == m : m->prev->next == m);
    must(m->next == NULL ? g->member_last == m : m->next->prev == m);
    if (g->turn == m)
        g->turn = m->next;
    if (m->prev == NULL)
        g->members = m->next;
    else
        m->prev->next = m->next;
    if (m->next == NULL)
        g->member_last = m->prev;
    else
        m->next->prev = m->prev;
    m->prev = m->next = NULL;
    g->member_count--;
}

/* Its work goes back, in the order in which it was handed out. */
static void
leave(struct member *m, bool failed)
{
    struct group *g = m->group;
    struct item  *it;

    while ((it = m->out.tail) != NULL)
        groupi_take_back(g, it, failed, "given back by members that left");
    must(m->out.count == 0);
    unlink_member(g, m);
    for (uint32_t i = 0; g->pinned && i < GROUPI_BUCKETS; i++)
        if (g->buckets[i].owner == m)
            give_bucket(g, &g->buckets[i], NULL);
    must(m->buckets == 0);
    must(m->ready_head == NULL);
    m->group = NULL;
    share_out(g, NULL);
}

static void
end_member(struct member *m, bool failed, const struct err *why)
{
    leave(m, failed);
    m->conf.ended(m->conf.arg, why);
}

void
groupi_end_members(struct group *g, const struct err *why)
{
    while (g->members != NULL)
        end_member(g->members, false, why);
}

int
group_join(struct groups *gs, struct slice source, struct slice name,
           const struct group_member_conf *conf, struct group_member **out, struct err *err)
{
    struct member *m = calloc(1, sizeof *m);
    struct group  *g;
    int            rc = 0;

    *out = NULL;
    lock_take(&gs->lock);
    if (m == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a member");
    g = groupi_group(gs, source, name);
    if (g == NULL || g->closing)
        FAIL(err, E_NOTFOUND, ERR_DATA, "group %.*s of %.*s is not there", SLICE_FMT(name),
             SLICE_FMT(source));
    TRY(check_join(g, conf, err));
    m->magic = GROUPI_MAGIC;
    m->groups = gs;
    m->group = g;
    m->conf = *conf;
    if (m->conf.buffer == 0)
        m->conf.buffer = BUFFER_PRESET;
    copy_text(m->name, sizeof m->name, conf->name);
    copy_text(m->from, sizeof m->from, conf->from);
    m->joined_us = gs->env->ops->mono_us(gs->env);
    link_member(g, m);
    must(g->member_count <= GROUP_MEMBERS_MAX);
    *out = (struct group_member *)m;
    m = NULL;
out:
    lock_give(&gs->lock);
    free(m);
    if (rc == 0)
        groupi_wake(gs);
    return rc;
}

void
group_leave(struct group_member *member)
{
    struct member *m = (struct member *)member;
    struct groups *gs;

    if (m == NULL)
        return;
    must(m->magic == GROUPI_MAGIC);
    gs = m->groups;
    lock_take(&gs->lock);
    if (m->group != NULL)
        leave(m, true);
    m->magic = 0;
    lock_give(&gs->lock);
    free(m);
    groupi_wake(gs);
}

void
group_want(struct group_member *member, uint32_t count)
{
    struct member *m = (struct member *)member;
    bool           more;

    must(m->magic == GROUPI_MAGIC);
    lock_take(&m->groups->lock);
    more = m->stalled || count > 0;
    m->want = count;
    m->stalled = false;
    lock_give(&m->groups->lock);
    if (more)
        groupi_wake(m->groups);
}

/* what members say */

static struct item *
find(const struct member *m, const struct group_ref *ref)
{
    for (struct item *it = m->out.head; it != NULL; it = it->q_next)
        if (ref->pos.v != 0 ? it->pos.v == ref->pos.v : id_eq(&it->id, &ref->id))
            return it;
    return NULL;
}

static void
nack_one(struct group *g, struct item *it, enum group_action action, struct slice reason)
{
    switch (action) {
    case GROUP_PARK:
        off_member(g, it);
        groupi_park(g, it, reason.data == NULL ? "" : reason.data, reason.len);
        return;
    case GROUP_RETRY:
    case GROUP_STOP: {
        char text[128] = "refused by its member";

        if (reason.len > 0)
            copy_text(text, sizeof text, reason);
        groupi_take_back(g, it, action == GROUP_RETRY, text);
        return;
    }
    case GROUP_DROP:
        g->skipped++;
        off_member(g, it);
        groupi_settle(g, it);
        return;
    }
}

static int
check_member(const struct member *m, struct err *err)
{
    must(m->magic == GROUPI_MAGIC);
    if (m->group == NULL)
        RETURN_ERR(err, E_GONE, ERR_DATA, "the member was ended: join again");
    return 0;
}

static int
none_known(uint32_t count, struct err *err)
{
    RETURN_ERR(err, E_NOTFOUND, ERR_DATA,
               "none of %" PRIu32 " events is with this member: never delivered to it, settled, or "
               "handed out again after its time",
               count);
}

int
group_ack(struct group_member *member, struct group_ref *refs, uint32_t count, struct err *err)
{
    struct member *m = (struct member *)member;
    uint32_t       known = 0;
    int            rc;

    lock_take(&m->groups->lock);
    TRY(check_member(m, err));
    for (uint32_t i = 0; i < count; i++) {
        struct item *it = find(m, &refs[i]);

        refs[i].known = it != NULL;
        if (it == NULL)
            continue;
        known++;
        off_member(m->group, it);
        groupi_settle(m->group, it);
    }
    m->acked += known;
    m->group->acked += known;
    if (known == 0 && count > 0)
        rc = none_known(count, err);
out:
    lock_give(&m->groups->lock);
    if (known > 0)
        groupi_wake(m->groups);
    return rc;
}

int
group_nack(struct group_member *member, struct group_ref *refs, uint32_t count,
           enum group_action action, struct slice reason, struct err *err)
{
    struct member *m = (struct member *)member;
    struct err     why;
    uint32_t       known = 0;
    int            rc;

    lock_take(&m->groups->lock);
    TRY(check_member(m, err));
    for (uint32_t i = 0; i < count; i++) {
        struct item *it = find(m, &refs[i]);

        refs[i].known = it != NULL;
        if (it == NULL)
            continue;
        known++;
        nack_one(m->group, it, action, reason);
    }
    if (known == 0 && count > 0)
        rc = none_known(count, err);
    if (rc == 0 && action == GROUP_STOP) {
        (void)err_set(&why, __FILE__, __LINE__, E_INTERRUPTED, ERR_DATA,
                      "the member asked to be stopped");
        end_member(m, false, &why);
    }
out:
    lock_give(&m->groups->lock);
    if (known > 0)
        groupi_wake(m->groups);
    return rc;
}
