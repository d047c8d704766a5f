/*
 * A worker: decides what happens next to one of its orders, writes it where
 * the truth is, and notes it in the journal once it is acknowledged.
 */
#include "shop_run.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ORDERS_MAX 20000
#define BACKOFF_MIN_US 2000
#define BACKOFF_MAX_US 200000

/* One write on its way to acknowledgement. */
struct task {
    struct order      *order;
    const struct part *want;
    const struct sale *sale; /* of an order that is being placed */
    const char        *op;
    char               key[96];
    int64_t            start_us, start_mono;
    int64_t            held_from; /* monotonic; 0: not held yet */
    int64_t            backoff_us;
    int64_t            epoch;
    enum side          side;
    int64_t            refusals, retries;
    bool               stubborn, surprise;
    bool               known; /* the side is no guess */
};

bool
shop_stopping(const struct shop *shop)
{
    long long at = atomic_load(&shop->stop_at);

    return at != 0 && clock_mono_us() >= at;
}

static bool
must_give_up(const struct shop *shop)
{
    long long at = atomic_load(&shop->give_up_at);

    return at != 0 && clock_mono_us() >= at;
}

static bool
is_stubborn(const struct worker *w)
{
    const char *path = w->shop->options->stubborn_file;
    struct stat st;

    if (w->number != 0)
        return false;
    return clock_mono_us() < atomic_load(&w->shop->stubborn_until) ||
           (path != NULL && stat(path, &st) == 0);
}

static void
back_off(struct task *t)
{
    nap_us(t->backoff_us);
    t->backoff_us *= 2;
    if (t->backoff_us > BACKOFF_MAX_US)
        t->backoff_us = BACKOFF_MAX_US;
}

static void
note_surprise(struct worker *w, struct task *t)
{
    if (t->surprise)
        return;
    t->surprise = true;
    atomic_fetch_add(&w->shop->tally.surprises, 1);
    complain("order %lld: the %s side does not hold its last acknowledged state",
             (long long)t->order->id, t->side == SIDE_NEW ? "new" : "old");
}

static enum outcome
write_old(struct worker *w, struct task *t)
{
    struct order *o = t->order;
    bool          surprise = false;
    enum outcome  out;

    if (!o->has_row) {
        out = books_insert(w->books, o->id, t->sale, t->want);
        o->has_row = out == DONE;
        return out;
    }
    out = books_update(w->books, o->id, &o->now, t->want, &surprise);
    if (surprise)
        note_surprise(w, t);
    return out;
}

/* Before an order's first write in an epoch: does the service know its last state? */
static enum outcome
look_before(struct worker *w, struct task *t)
{
    struct order *o = t->order;
    struct part   there = {0};
    enum outcome  out = remote_get(w->wire, w->shop->options->service, o->id, &there);

    if (out == DONE) {
        if (!part_equal(&there, &o->now) && !part_equal(&there, t->want))
            note_surprise(w, t);
        o->seen_epoch = t->epoch;
    }
    part_fini(&there);
    return out;
}

static enum outcome
write_new(struct worker *w, struct task *t)
{
    struct order *o = t->order;
    enum outcome  out = DONE;

    /* The sale first: a fulfilment part without a sale could not come back. */
    if (!o->has_row) {
        out = books_insert(w->books, o->id, t->sale, NULL);
        o->has_row = out == DONE;
    }
    if (out == DONE && o->seen_epoch != t->epoch)
        out = look_before(w, t);
    if (out == DONE)
        out = remote_put(w->wire, w->shop->options->service, o->id, t->want, t->epoch, t->key);
    return out;
}

/* Waits as the route says, or leaves the side to write to in the task. */
static bool
choose_side(struct worker *w, struct task *t, bool afresh)
{
    struct tally *tally = &w->shop->tally;
    struct route  route;

    /* Stubborn until refused; then this write follows the route like any other. */
    if (t->refusals == 0 && is_stubborn(w)) {
        t->stubborn = true;
        t->side = SIDE_OLD;
        t->epoch = 0;
        return true;
    }
    router_ask(w->shop->router, w->wire, t->order->id, afresh, &route);
    t->side = route.side;
    t->epoch = route.epoch;
    t->known = route.known;
    if (route.side != SIDE_HOLD)
        return true;
    if (t->held_from == 0)
        t->held_from = clock_mono_us();
    atomic_fetch_add(&tally->holds, 1);
    atomic_fetch_add(&tally->holding, 1);
    nap_us(route.retry_us);
    atomic_fetch_sub(&tally->holding, 1);
    return false;
}

static void
note_refusal(struct worker *w, struct task *t)
{
    t->refusals++;
    if (t->held_from == 0)
        t->held_from = clock_mono_us();
    atomic_fetch_add(
        t->side == SIDE_NEW ? &w->shop->tally.refused_service : &w->shop->tally.refused_guard, 1);
    /* The route is fresh after the first refusal; only if it still names the
     * side that refuses is there a reason to wait. */
    if (t->refusals > 1)
        back_off(t);
}

static enum outcome
write_somewhere(struct worker *w, struct task *t)
{
    bool afresh = false;

    for (;;) {
        enum outcome out;

        if (must_give_up(w->shop))
            return UNSURE;
        if (!choose_side(w, t, afresh)) {
            afresh = true;
            continue;
        }
        /* What it decided on was read where the truth perhaps never was. */
        if (t->order->guessed && t->known)
            return MOVED;
        out = t->side == SIDE_NEW ? write_new(w, t) : write_old(w, t);
        if (out == DONE || out == REJECTED)
            return out;
        if (out == MOVED) {
            note_refusal(w, t);
            if (t->order->guessed)
                return MOVED;
        } else {
            t->retries++;
            atomic_fetch_add(&w->shop->tally.retries, 1);
            back_off(t);
        }
        afresh = true;
    }
}

static void
raise_to(atomic_llong *value, int64_t floor)
{
    long long now = atomic_load(value);

    while (now < floor && !atomic_compare_exchange_weak(value, &now, floor))
        ;
}

static int
note_entry(struct worker *w, struct task *t, bool acked)
{
    struct tally *tally = &w->shop->tally;
    struct entry  e = {
         .id = t->order->id,
         .seq = t->order->seq,
         .op = t->op,
         .acked = acked,
         .side = t->side,
         .epoch = t->epoch,
         .part = t->want,
         .start_us = t->start_us,
         .refusals = t->refusals,
         .retries = t->retries,
         .stubborn = t->stubborn,
         .surprise = t->surprise,
    };
    int64_t now = clock_mono_us();

    e.end_us = t->start_us + (now - t->start_mono);
    e.held_us = t->held_from != 0 ? now - t->held_from : 0;
    if (journal_add(w->shop->journal, &e) != 0)
        return -1;
    if (acked) {
        raise_to(&tally->held_max_us, e.held_us);
        atomic_fetch_add(t->side == SIDE_NEW ? &tally->acked_new : &tally->acked_old, 1);
    }
    return 0;
}

/* Carries one write to its end. The order takes over the state on success. */
static enum outcome
carry_out(struct worker *w, struct order *o, const char *op, const struct sale *sale,
          struct part *want)
{
    struct task t = {
        .order = o,
        .want = want,
        .sale = sale,
        .op = op,
        .start_us = clock_wall_us(),
        .start_mono = clock_mono_us(),
        .backoff_us = BACKOFF_MIN_US,
    };
    enum outcome out;

    o->seq = o->seq < w->shop->seq_base ? w->shop->seq_base + 1 : o->seq + 1;
    (void)snprintf(t.key, sizeof(t.key), "shop-%lld-%lld-%lld", (long long)o->id, (long long)o->seq,
                   (long long)t.start_us);
    out = write_somewhere(w, &t);
    if (out == MOVED) {
        o->loaded = true;
        nap_us(BACKOFF_MIN_US * 5);
        return MOVED;
    }
    if (note_entry(w, &t, out == DONE) != 0)
        out = REJECTED; /* a write that is not in the journal must not count */
    if (out == DONE) {
        part_fini(&o->now);
        o->now = *want;
        o->guessed = false;
        memset(want, 0, sizeof(*want));
    } else {
        atomic_fetch_add(out == REJECTED ? &w->shop->tally.rejected : &w->shop->tally.gave_up, 1);
    }
    return out;
}

/* Room for one more order, or NULL. */
static struct order *
add_order(struct worker *w, int64_t id)
{
    size_t        room = w->room == 0 ? 256 : w->room * 2;
    struct order *grown;

    if (w->count == w->room) {
        grown = reallocarray(w->orders, room, sizeof(*grown));
        if (grown == NULL)
            return NULL;
        w->orders = grown;
        w->room = room;
    }
    grown = &w->orders[w->count++];
    *grown = (struct order){.id = id, .seen_epoch = -1};
    return grown;
}

static void
drop_order(struct worker *w, struct order *o)
{
    part_fini(&o->now);
    *o = w->orders[--w->count];
}

static void
place(struct worker *w)
{
    struct sale   sale = {0};
    struct part   part = {0};
    struct order *o = add_order(w, w->next_id);

    if (o == NULL)
        return;
    w->next_id += w->shop->options->workers;
    if (invent_sale(&w->dice, clock_wall_us(), &sale) == 0 && invent_part(&w->dice, &part) == 0 &&
        carry_out(w, o, "place", &sale, &part) == DONE)
        atomic_fetch_add(&w->shop->tally.placed, 1);
    else
        drop_order(w, o);
    sale_fini(&sale);
    part_fini(&part);
}

static int
set_text(char **to, const char *text)
{
    free(*to);
    *to = strdup(text);
    return *to != NULL ? 0 : -1;
}

/* Moves an order one state along; a driver comes with picking up at the latest. */
static const char *
advance(struct worker *w, struct part *want)
{
    static const char *const next[][2] = {{"placed", "preparing"},
                                          {"preparing", "ready"},
                                          {"ready", "picked_up"},
                                          {"picked_up", "delivered"}};
    int                      rc = 0;

    for (size_t i = 0; i < sizeof(next) / sizeof(next[0]); i++) {
        if (strcmp(want->state, next[i][0]) != 0)
            continue;
        rc = set_text(&want->state, next[i][1]);
        if (i >= 2 && want->driver == NULL)
            rc |= invent_text(&w->dice, "driver", &want->driver);
        break;
    }
    return rc == 0 ? "advance" : NULL;
}

/* Changes `want` in one of the ways in which orders change; NULL: out of memory. */
static const char *
decide(struct worker *w, const struct part *now, struct part *want)
{
    unsigned    roll = dice_below(&w->dice, 100);
    const char *op = NULL;

    if (roll < 10 && invent_text(&w->dice, "driver", &want->driver) == 0)
        op = "driver";
    else if (roll < 28 && invent_text(&w->dice, "note", &want->note) == 0)
        op = "note";
    else if (roll < 33 && set_text(&want->state, "cancelled") == 0)
        op = "cancel";
    if (op == NULL || part_equal(now, want))
        op = advance(w, want);
    return op;
}

static void
change(struct worker *w, struct order *o)
{
    struct part want = {0};
    const char *op = NULL;

    if (part_copy(&o->now, &want) == 0)
        op = decide(w, &o->now, &want);
    if (op != NULL && carry_out(w, o, op, NULL, &want) == DONE) {
        atomic_fetch_add(&w->shop->tally.changed, 1);
        if (part_is_final(&o->now))
            drop_order(w, o);
    }
    part_fini(&want);
}

/* The sale is corrected in the shop's own database, whoever has the fulfilment. */
static void
correct(struct worker *w, const struct order *o)
{
    struct sale  sale = {0};
    enum outcome out = REJECTED;

    if (o->has_row && invent_sale(&w->dice, clock_wall_us(), &sale) == 0)
        out = books_correct(w->books, o->id, &sale);
    if (out == DONE)
        atomic_fetch_add(&w->shop->tally.corrected, 1);
    else if (out != UNSURE)
        atomic_fetch_add(&w->shop->tally.rejected, 1);
    sale_fini(&sale);
}

/* What an order of an earlier run is like now; false: not known yet. */
static bool
refresh(struct worker *w, struct order *o)
{
    struct part  there = {0};
    struct route route;
    enum outcome out;

    router_ask(w->shop->router, w->wire, o->id, false, &route);
    if (route.side == SIDE_HOLD)
        return false;
    out = route.side == SIDE_NEW ? remote_get(w->wire, w->shop->options->service, o->id, &there)
                                 : books_read(w->books, o->id, &there);
    if (out != DONE) {
        part_fini(&there);
        return false;
    }
    part_fini(&o->now);
    o->now = there;
    o->loaded = false;
    o->guessed = !route.known;
    return true;
}

/* A sale that an earlier run left without a fulfilment part. */
static void
finish_placing(struct worker *w, struct order *o)
{
    struct part part = {0};

    if (invent_part(&w->dice, &part) == 0 && carry_out(w, o, "place", NULL, &part) == DONE)
        atomic_fetch_add(&w->shop->tally.placed, 1);
    part_fini(&part);
}

/* One thing that happens to one of the existing orders. */
static void
touch(struct worker *w, struct order *o)
{
    if (o->loaded && !refresh(w, o)) {
        nap_us(BACKOFF_MIN_US);
        return;
    }
    if (o->now.state == NULL)
        finish_placing(w, o);
    else if (part_is_final(&o->now))
        drop_order(w, o);
    else
        change(w, o);
}

static int
take_loaded(void *cls, int64_t id, struct part *part)
{
    struct worker *w = cls;
    struct order  *o = add_order(w, id);

    if (o == NULL) {
        part_fini(part);
        return -1;
    }
    o->now = *part;
    o->has_row = true;
    o->loaded = true;
    return 0;
}

static void
finish_all_placing(struct worker *w)
{
    for (size_t i = 0; i < w->count && !shop_stopping(w->shop);) {
        struct order *o = &w->orders[i];

        if (o->now.state == NULL && o->loaded)
            touch(w, o);
        else
            i++;
    }
}

static void
do_something(struct worker *w)
{
    unsigned roll = dice_below(&w->dice, 100);

    if (w->count == 0 || (roll < 20 && w->count < ORDERS_MAX))
        place(w);
    else if (roll < 25)
        correct(w, &w->orders[dice_below(&w->dice, (unsigned)w->count)]);
    else
        touch(w, &w->orders[dice_below(&w->dice, (unsigned)w->count)]);
}

void *
work(void *cls)
{
    struct worker *w = cls;
    int64_t        pace = 1000000 * w->shop->options->workers / w->shop->options->rate;
    int64_t        due = clock_mono_us();

    if (books_load(w->books, (unsigned)w->shop->options->workers, w->number, take_loaded, w) != 0)
        complain("worker %u cannot load its orders", w->number);
    finish_all_placing(w);
    while (!shop_stopping(w->shop)) {
        int64_t now = clock_mono_us();

        if (now < due) {
            nap_us(due - now < 100000 ? due - now : 100000);
            continue;
        }
        /* What was held for long is not made up for in one burst. */
        due = now - due > 1000000 ? now + pace : due + pace;
        do_something(w);
    }
    return NULL;
}
