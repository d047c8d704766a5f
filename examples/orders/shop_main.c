/* The shop's command line. */
#include "shop.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: shop init DB [--orders N] [--seed S] [--journal FILE]\n"
    "       shop init DB --northwind DIR [--journal FILE]\n"
    "       shop run DB --route URL --service URL [--rate R] [--workers W] [--seconds N]\n"
    "                [--stubborn-file PATH] [--journal FILE] [--stats FILE]\n"
    "                [--route-cache-ms N]\n"
    "\n"
    "A shop with its own SQLite database. `init` makes one with N orders (20000), or with\n"
    "those of the Northwind CSV files in DIR. `run` keeps placing and advancing orders, R a\n"
    "second (200) by W threads (4), for N seconds or until SIGTERM. SIGUSR1 makes one worker\n"
    "ignore its route for 2 s; so does the stubborn file for as long as it exists.\n"
    "\n"
    "exit status: 0 done, 1 a write was given up or refused for good, 2 usage, 3 cannot open\n";

struct init_options {
    const char *db, *northwind, *journal;
    int64_t     orders, seed;
};

/* One option of either command; false when it is unknown or its value is wrong. */
static bool
take_init(struct init_options *o, const char *name, const char *value)
{
    if (strcmp(name, "--northwind") == 0)
        o->northwind = value;
    else if (strcmp(name, "--journal") == 0)
        o->journal = value;
    else if (strcmp(name, "--orders") == 0)
        return parse_int(value, 0, 100000000, &o->orders);
    else if (strcmp(name, "--seed") == 0)
        return parse_int(value, 0, INT64_MAX, &o->seed);
    else
        return false;
    return true;
}

static bool
take_run(struct run_options *o, const char *name, const char *value)
{
    if (strcmp(name, "--route") == 0)
        o->route = value;
    else if (strcmp(name, "--service") == 0)
        o->service = value;
    else if (strcmp(name, "--stubborn-file") == 0)
        o->stubborn_file = value;
    else if (strcmp(name, "--journal") == 0)
        o->journal = value;
    else if (strcmp(name, "--stats") == 0)
        o->stats = value;
    else if (strcmp(name, "--rate") == 0)
        return parse_int(value, 1, 100000, &o->rate);
    else if (strcmp(name, "--workers") == 0)
        return parse_int(value, 1, 64, &o->workers);
    else if (strcmp(name, "--seconds") == 0)
        return parse_int(value, 1, 1000000, &o->seconds);
    else if (strcmp(name, "--route-cache-ms") == 0)
        return parse_int(value, 0, 100, &o->route_cache_ms);
    else
        return false;
    return true;
}

static int
fail_usage(void)
{
    (void)fputs(usage, stderr);
    return 2;
}

static int
fill(const struct init_options *o, struct books *books, struct journal *journal)
{
    int rc = books_begin(books);

    if (rc == 0)
        rc = o->northwind != NULL ? init_northwind(books, journal, o->northwind)
                                  : init_invented(books, journal, o->orders, (uint64_t)o->seed);
    if (rc == 0)
        rc = books_commit(books);
    return rc;
}

static int
command_init(int argc, char **argv)
{
    struct init_options o = {.db = argv[2], .orders = 20000, .seed = 1};
    struct books       *books = NULL;
    struct journal     *journal = NULL;
    int64_t             seq;
    int                 rc = 3;

    for (int i = 3; i < argc; i += 2)
        if (i + 1 == argc || !take_init(&o, argv[i], argv[i + 1]))
            return fail_usage();
    if (books_create(o.db) != 0)
        return 3;
    books = books_open(o.db);
    journal = journal_open(o.journal, &seq);
    if (books != NULL && journal != NULL && fill(&o, books, journal) == 0) {
        (void)printf("%lld orders in %s\n", (long long)books_count(books), o.db);
        rc = 0;
    }
    journal_close(journal);
    books_close(books);
    return rc;
}

static int
command_run(int argc, char **argv)
{
    struct run_options o = {.db = argv[2], .rate = 200, .workers = 4, .route_cache_ms = 100};

    for (int i = 3; i < argc; i += 2)
        if (i + 1 == argc || !take_run(&o, argv[i], argv[i + 1]))
            return fail_usage();
    if (o.route == NULL || o.service == NULL)
        return fail_usage();
    return run_shop(&o);
}

int
main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        (void)fputs(usage, stdout);
        return 0;
    }
    json_object_seed(0);
    if (argc >= 3 && strcmp(argv[1], "init") == 0)
        return command_init(argc, argv);
    if (argc >= 3 && strcmp(argv[1], "run") == 0)
        return command_run(argc, argv);
    return fail_usage();
}
