/* The inside of `shop run`, for shop_run.c and shop_work.c. */
#ifndef ORDERS_SHOP_RUN_H
#define ORDERS_SHOP_RUN_H

#include "shop.h"
#include <pthread.h>
#include <stdatomic.h>

struct tally {
    atomic_llong placed, changed, corrected, acked_old, acked_new, holding, holds, refused_guard,
        refused_service, retries, surprises, gave_up, rejected, held_max_us;
};

struct shop {
    const struct run_options *options;
    struct router            *router;
    struct journal           *journal;
    struct tally              tally;
    atomic_llong              stubborn_until; /* monotonic, by SIGUSR1 */
    atomic_llong              stop_at;        /* monotonic; 0: not yet. New writes end here … */
    atomic_llong              give_up_at;     /* … and waiting ones here */
    int64_t                   seq_base;       /* the last one of earlier runs */
};

/* One order of this worker that still changes. */
struct order {
    int64_t     id;
    int64_t     seq;
    int64_t     seen_epoch; /* of the service, when last known to agree; -1: never */
    struct part now;        /* as last acknowledged */
    bool        has_row;    /* the sale is in the shop's database */
    bool        loaded;     /* from an earlier run: ask the side that has the truth first */
    bool        guessed;    /* asked before the route was known: perhaps the wrong side */
};

struct worker {
    struct shop  *shop;
    struct books *books;
    struct wire  *wire;
    struct dice   dice;
    struct order *orders;
    size_t        count, room;
    int64_t       next_id;
    unsigned      number;
    pthread_t     thread;
};

void *work(void *worker); /* a thread's main function */
bool  shop_stopping(const struct shop *shop);

#endif
