/* oxbow-sim: runs seeds, each in a world of its own. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/run_int.h"

#define SEED_SECONDS 120u
#define JOBS_MAX 64

struct options {
    uint64_t from, upto;
    uint32_t steps, jobs;
    bool     verbose, must_fail;
};

/* What to say when a seed ends by a signal: made before it begins. */
static char last_words[160];

/* An assertion failed, memory was touched that is not there, or nothing moves. */
static void
on_signal(int number)
{
    (void)number;
    (void)!write(STDERR_FILENO, last_words, strlen(last_words));
    _Exit(1);
}

static int
usage(void)
{
    (void)fprintf(stderr, "usage: oxbow-sim --seed N | --seeds A..B [--steps K] [--jobs J] "
                          "[--verbose] [--must-fail]\n");
    return 2;
}

static bool
number(const char *text, const char **end, uint64_t *out)
{
    char *stop;

    if (text == NULL || *text < '0' || *text > '9')
        return false;
    *out = strtoull(text, &stop, 10);
    *end = stop;
    return true;
}

static bool
parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL, *end;
        uint64_t    n;

        if (strcmp(argv[i], "--verbose") == 0) {
            o->verbose = true;
            continue;
        }
        if (strcmp(argv[i], "--must-fail") == 0) {
            o->must_fail = true;
            continue;
        }
        if (!number(value, &end, &n))
            return false;
        i++;
        if (strcmp(argv[i - 1], "--seeds") == 0) {
            o->from = n;
            if (strncmp(end, "..", 2) != 0 || !number(end + 2, &end, &o->upto))
                return false;
        } else if (strcmp(argv[i - 1], "--seed") == 0) {
            o->from = o->upto = n;
        } else if (strcmp(argv[i - 1], "--steps") == 0 && n > 0 && n <= 1000000) {
            o->steps = (uint32_t)n;
        } else if (strcmp(argv[i - 1], "--jobs") == 0 && n > 0 && n <= JOBS_MAX) {
            o->jobs = (uint32_t)n;
        } else {
            return false;
        }
        if (*end != '\0')
            return false;
    }
    return o->from <= o->upto;
}

static void
run_share(const struct options *o, uint32_t share)
{
    struct run_totals t;

    memset(&t, 0, sizeof t);
    for (uint64_t seed = o->from + share; seed <= o->upto; seed += o->jobs) {
        (void)snprintf(last_words, sizeof last_words,
                       "sim: seed %" PRIu64 " crashed, failed an assertion or hangs; again: "
                       "oxbow-sim --seed %" PRIu64 " --verbose\n",
                       seed, seed);
        (void)alarm(SEED_SECONDS);
        run_seed(seed, o->steps, o->verbose, &t);
        (void)alarm(0);
    }
    (void)printf("sim: %" PRIu64 " seeds, %" PRIu64 " lives, %" PRIu64 " crashes, %" PRIu64
                 " faults, %" PRIu64 " torn tails cut, %" PRIu64 " commits acknowledged, %" PRIu64
                 " refused, %" PRIu64 " unsure, %" PRIu64 " segments scavenged of %" PRIu64
                 " events, %" PRIu64 " backups, %" PRIu64 " times held against the oracle\n",
                 t.seeds, t.lives, t.crashes, t.faults, t.cuts, t.acked, t.refused, t.unsure,
                 t.rewritten, t.gone, t.backups, t.scans);
}

/* Each share in a process of its own; the number of those that failed. */
static int
run_jobs(const struct options *o)
{
    int failed = 0, status;

    for (uint32_t i = 0; i < o->jobs; i++) {
        pid_t pid = fork();

        if (pid < 0) {
            perror("oxbow-sim: fork");
            exit(3);
        }
        if (pid == 0) {
            run_share(o, i);
            exit(0);
        }
    }
    while (wait(&status) > 0)
        failed += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    return failed;
}

int
main(int argc, char **argv)
{
    static const int signals[] = {SIGABRT, SIGALRM, SIGSEGV, SIGBUS};
    struct options   o = {.from = 1, .upto = 100, .steps = 600, .jobs = 1};
    int              failed;

    if (!parse(argc, argv, &o))
        return usage();
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        (void)signal(signals[i], on_signal);
    failed = run_jobs(&o);
    if (o.must_fail) {
        (void)printf("sim: seeds %" PRIu64 "..%" PRIu64 ": the deliberate bug was %s\n", o.from,
                     o.upto, failed > 0 ? "caught" : "NOT caught");
        return failed > 0 ? 0 : 1;
    }
    if (failed > 0)
        return 1;
    (void)printf("sim: seeds %" PRIu64 "..%" PRIu64 ": good\n", o.from, o.upto);
    return 0;
}
