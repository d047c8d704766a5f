/*
 * Random operations against the log and against a plain model of what streams mean, whose answers
 * have to be the same. A world is one folder; it is driven by the log's own interface or by
 * liboxbow's, turn by turn, closed and opened again on the way.
 *
 *     OPS=100000 model_test            (preset 30000; each world has 5000)
 *     model_test --seed N --ops N      one world again
 *
 * What differs is made as short as can be by leaving steps out, and printed as a list of steps.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/must.h"
#include "tests/model_world.h"
#include "tests/tmp.h"

#define WORLD_OPS 5000
#define SHRINK_SECONDS 60

void
world_differ(struct world *w, const char *fmt, ...)
{
    va_list args;

    if (w->failed)
        return;
    w->failed = true;
    va_start(args, fmt);
    (void)vsnprintf(w->why, sizeof w->why, fmt, args);
    va_end(args);
}

/* Every step has numbers of its own, so that it is the same where others are left out. */
static void
reseed(struct world *w, uint32_t step)
{
    w->rng =
        (w->seed + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (step + 1) * UINT64_C(0xd1342543de82ef95);
    for (int i = 0; i < 4; i++)
        (void)world_random(w);
}

uint64_t
world_random(struct world *w)
{
    w->rng ^= w->rng >> 12;
    w->rng ^= w->rng << 25;
    w->rng ^= w->rng >> 27;
    return w->rng * UINT64_C(2685821657736338717);
}

uint32_t
world_pick(struct world *w, uint32_t below)
{
    return (uint32_t)((world_random(w) >> 33) % below);
}

static void
run_steps(struct world *w, uint32_t ops, const uint8_t *left_out)
{
    for (w->step = 0; w->step < ops && !w->failed; w->step++) {
        if (left_out != NULL && left_out[w->step] != 0)
            continue;
        reseed(w, w->step);
        world_step(w);
    }
    if (!w->failed)
        world_compare_all(w);
}

/* True where it all agreed. */
static bool
run_world(uint64_t seed, uint32_t ops, const uint8_t *left_out, bool say, struct world *w)
{
    memset(w, 0, sizeof *w);
    w->seed = seed;
    w->say = say;
    (void)snprintf(w->dir, sizeof w->dir, "%s/oxbow-model-XXXXXX", world_tmp());
    if (mkdtemp(w->dir) == NULL) {
        perror(w->dir);
        exit(1);
    }
    reseed(w, UINT32_MAX - 1);
    world_begin(w);
    if (!w->failed)
        run_steps(w, ops, left_out);
    world_end(w);
    tmp_remove(w->dir);
    return !w->failed;
}

/* Leaves out ever smaller runs of steps, as long as something still differs. */
static uint32_t
shrink(uint64_t seed, uint32_t ops, uint8_t *left_out, struct world *w)
{
    time_t   until = time(NULL) + SHRINK_SECONDS;
    uint32_t left;

    for (uint32_t len = ops / 2; len > 0; len /= 2)
        for (uint32_t from = 0; from < ops && time(NULL) < until; from += len) {
            uint8_t  before[WORLD_OPS_MAX];
            uint32_t end = from + len < ops ? from + len : ops, was = 0;
            memcpy(before, left_out, ops);
            for (uint32_t i = from; i < end; i++) {
                was += left_out[i] == 0;
                left_out[i] = 1;
            }
            if (was > 0 && run_world(seed, ops, left_out, false, w))
                memcpy(left_out, before, ops);
            else if (was > 0 && w->step + 1 < ops)
                ops = w->step + 1;
        }
    left = ops;
    return left;
}

static void
report(uint64_t seed, uint32_t ops, struct world *w)
{
    uint8_t *left_out = calloc(WORLD_OPS_MAX, 1);

    must(left_out != NULL);
    printf("seed %" PRIu64 ", step %u: %s\n", seed, w->step, w->why);
    printf("again: model_test --seed %" PRIu64 " --ops %u\n", seed, w->step + 1);
    ops = w->step + 1 < ops ? w->step + 1 : ops;
    ops = shrink(seed, ops, left_out, w);
    printf("the shortest that was found:\n");
    (void)run_world(seed, ops, left_out, true, w);
    printf("%s\n", w->why);
    free(left_out);
}

static uint64_t
number(const char *text, uint64_t preset)
{
    return text == NULL ? preset : strtoull(text, NULL, 10);
}

int
main(int argc, char **argv)
{
    uint64_t     ops = number(getenv("OPS"), 30000), seed = number(getenv("SEED"), 1);
    uint64_t     each = WORLD_OPS, done = 0, gone = 0;
    struct world w;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--say") == 0) {
            if (!run_world(number(argv[i + 1], 0), (uint32_t)ops, NULL, true, &w))
                printf("%s\n", w.why);
            return w.failed;
        }
        if (strcmp(argv[i], "--seed") == 0)
            seed = number(argv[i + 1], seed);
        else if (strcmp(argv[i], "--ops") == 0)
            ops = each = number(argv[i + 1], ops);
    }
    if (each > WORLD_OPS_MAX)
        each = WORLD_OPS_MAX;
    while (done < ops) {
        if (!run_world(seed, (uint32_t)each, NULL, false, &w)) {
            report(seed, (uint32_t)each, &w);
            return 1;
        }
        done += w.ops;
        gone += w.gone;
        seed++;
    }
    printf("%" PRIu64 " operations, %" PRIu64 " events scavenged, the last seed %" PRIu64 "\n",
           done, gone, seed - 1);
    return 0;
}
