/* `shop run`: starts the workers, answers signals, writes the figures. */
#include "shop_run.h"
#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TICK_MS 200
#define STUBBORN_US 2000000
#define GIVE_UP_AFTER_US 10000000

static void
write_stats(struct shop *shop, int64_t started, int64_t orders, bool running)
{
    struct tally *t = &shop->tally;
    int64_t       now = clock_mono_us();
    json_t       *out;
    char         *text;

    if (shop->options->stats == NULL)
        return;
    out =
        json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "running", running, "elapsed_ms",
                  (json_int_t)((now - started) / 1000), "orders", (json_int_t)(orders + t->placed),
                  "placed", (json_int_t)t->placed, "changed", (json_int_t)t->changed, "corrected",
                  (json_int_t)t->corrected, "acked", (json_int_t)(t->acked_old + t->acked_new),
                  "acked_old", (json_int_t)t->acked_old, "acked_new", (json_int_t)t->acked_new);
    (void)json_object_update_new(
        out, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "holding",
                       (json_int_t)t->holding, "holds", (json_int_t)t->holds, "refused_guard",
                       (json_int_t)t->refused_guard, "refused_service",
                       (json_int_t)t->refused_service, "retries", (json_int_t)t->retries,
                       "surprises", (json_int_t)t->surprises, "gave_up", (json_int_t)t->gave_up,
                       "rejected", (json_int_t)t->rejected, "held_max_us",
                       (json_int_t)t->held_max_us, "stubborn", now < shop->stubborn_until));
    text = json_dumps(out, JSON_COMPACT);
    if (text != NULL)
        (void)file_replace(shop->options->stats, text);
    free(text);
    json_decref(out);
}

static int
open_worker(struct shop *shop, struct worker *w, unsigned number)
{
    w->shop = shop;
    w->number = number;
    w->dice.state = (uint64_t)clock_wall_us() * 1000 + number;
    w->books = books_open(shop->options->db);
    w->wire = wire_new();
    return w->books != NULL && w->wire != NULL ? 0 : -1;
}

/* New ids begin above all that are there, each worker's in its own residue. */
static void
share_ids(struct worker *workers, unsigned count)
{
    int64_t max = books_max_id(workers[0].books);

    for (unsigned i = 0; i < count; i++)
        workers[i].next_id = max + count - max % count + i;
}

static void
close_worker(struct worker *w)
{
    for (size_t i = 0; i < w->count; i++)
        part_fini(&w->orders[i].now);
    free(w->orders);
    books_close(w->books);
    wire_free(w->wire);
}

/* Returns when the time is up or a signal says stop. */
static void
mind(struct shop *shop, int64_t started, int64_t orders, const sigset_t *signals)
{
    int64_t               seconds = shop->options->seconds;
    const struct timespec tick = {.tv_nsec = TICK_MS * 1000000L};

    for (;;) {
        int sig = sigtimedwait(signals, NULL, &tick);

        if (sig == SIGTERM || sig == SIGINT)
            break;
        if (sig == SIGUSR1)
            atomic_store(&shop->stubborn_until, clock_mono_us() + STUBBORN_US);
        if (seconds > 0 && clock_mono_us() - started >= seconds * 1000000)
            break;
        write_stats(shop, started, orders, true);
    }
}

static int
run_workers(struct shop *shop, struct worker *workers, int64_t orders, const sigset_t *signals)
{
    int64_t  started = clock_mono_us();
    unsigned running = 0;
    int      rc = 0;

    for (; running < shop->options->workers; running++) {
        if (pthread_create(&workers[running].thread, NULL, work, &workers[running]) != 0) {
            complain("cannot start a thread");
            rc = 3;
            break;
        }
    }
    if (rc == 0)
        mind(shop, started, orders, signals);
    atomic_store(&shop->give_up_at, clock_mono_us() + GIVE_UP_AFTER_US);
    atomic_store(&shop->stop_at, clock_mono_us());
    while (running > 0)
        (void)pthread_join(workers[--running].thread, NULL);
    write_stats(shop, started, orders, false);
    if (rc == 0 && (shop->tally.gave_up > 0 || shop->tally.rejected > 0))
        rc = 1;
    return rc;
}

int
run_shop(const struct run_options *options)
{
    struct shop   *shop = calloc(1, sizeof(*shop));
    struct worker *workers = calloc((size_t)options->workers, sizeof(*workers));
    unsigned       count = (unsigned)options->workers;
    sigset_t       signals;
    int64_t        orders;
    int            rc = 3;

    if (shop == NULL || workers == NULL)
        goto out;
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)sigaddset(&signals, SIGUSR1);
    (void)sigprocmask(SIG_BLOCK, &signals, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
    shop->options = options;
    shop->router = router_new(options->route, options->route_cache_ms);
    shop->journal = journal_open(options->journal, &shop->seq_base);
    if (shop->router == NULL || shop->journal == NULL)
        goto out;
    for (unsigned i = 0; i < count; i++)
        if (open_worker(shop, &workers[i], i) != 0)
            goto out;
    orders = books_count(workers[0].books);
    share_ids(workers, count);
    rc = run_workers(shop, workers, orders, &signals);
out:
    for (unsigned i = 0; workers != NULL && i < count; i++)
        close_worker(&workers[i]);
    free(workers);
    if (shop != NULL) {
        router_free(shop->router);
        journal_close(shop->journal);
    }
    free(shop);
    curl_global_cleanup();
    return rc;
}
