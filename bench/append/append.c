/*
 * Durable appends over many streams, in process. One mode a run:
 *
 *   append limit DIR SECONDS BYTES           groups of 32 by pwrite + fdatasync, nothing else
 *   append single DIR SECONDS BYTES          the same with one event at a time
 *   append writers DIR SECONDS BYTES N       N writers, one outstanding append each; a writer is
 *                                            called when its append is durable, and appends again
 *   append blocking DIR SECONDS BYTES N      the same with a thread for each writer
 *   append async DIR SECONDS BYTES N         N outstanding, one thread that submits
 *   append fill DIR EVENTS BYTES N           the same until so many are there, index and all
 *
 * Over 1,000,000 streams where no other number follows.
 * Prints one line: appends per second, then p50, p99 and the largest in µs,
 * then how many were appended, events per group, MiB of memory without mapped
 * files, and how many seconds of appends the index is behind at the end; fill prints the
 * most memory there was, in MiB, before all that.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/must.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"

#define SAMPLES 4000000u
#define WRITERS_MAX 4096

static uint32_t        *samples;
static _Atomic uint32_t sample_count;
static _Atomic bool     stop;
static uint8_t          payload[1 << 20];
static uint32_t         streams = 1000000;
static uint64_t         wanted = UINT64_MAX; /* fill: how many events */
static uint64_t         memory_most;         /* fill: MiB */

static void
sample(uint64_t us)
{
    uint32_t i;

    if (wanted != UINT64_MAX)
        return; /* what is kept here would count as the log's memory */
    i = atomic_fetch_add(&sample_count, 1);
    if (i < SAMPLES)
        samples[i] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static int
by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint64_t
now_us(void)
{
    return env_real()->ops->mono_us(env_real());
}

static uint64_t
next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Anonymous resident memory: without mapped files. */
static uint64_t
memory_mib(void)
{
    FILE    *f = fopen("/proc/self/status", "r");
    char     line[256];
    uint64_t kib = 0;

    if (f == NULL)
        return 0;
    while (fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, "RssAnon:", 8) == 0)
            kib = strtoull(line + 8, NULL, 10);
    (void)fclose(f);
    return kib / 1024;
}

static void
report(uint64_t count, uint64_t us, double per_group, double behind_s)
{
    uint32_t n = atomic_load(&sample_count);
    uint64_t mib = memory_mib();

    if (n > SAMPLES)
        n = SAMPLES;
    qsort(samples, n, sizeof *samples, by_value);
    printf("%.0f %u %u %u %" PRIu64 " %.1f %" PRIu64 " %.2f\n", (double)count * 1e6 / (double)us,
           n == 0 ? 0 : samples[n / 2], n == 0 ? 0 : samples[(uint64_t)n * 99 / 100],
           n == 0 ? 0 : samples[n - 1], count, per_group, mib, behind_s);
}

/* the disk's own limit */

static void
limit(const char *dir, uint64_t seconds, size_t bytes, uint32_t events)
{
    const size_t file_bytes = (size_t)256 << 20, group = events * (bytes + 96);
    char         path[4096];
    uint64_t     began, count = 0, at = 0, spent = 0;
    int          fd;

    must(group <= sizeof payload);
    (void)snprintf(path, sizeof path, "%s/limit", dir);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    must(fd >= 0);
    for (size_t i = 0; i < file_bytes; i += sizeof payload)
        must(pwrite(fd, payload, sizeof payload, (off_t)i) == (ssize_t)sizeof payload);
    must(fdatasync(fd) == 0);
    while (spent < seconds * 1000000) {
        began = now_us();
        must(pwrite(fd, payload, group, (off_t)at) == (ssize_t)group);
        must(fdatasync(fd) == 0);
        sample(now_us() - began);
        spent += now_us() - began;
        at += group;
        if (at + group > file_bytes)
            at = 0;
        count += events;
    }
    (void)close(fd);
    (void)unlink(path);
    report(count, spent, events, 0);
}

/* the log */

struct slot {
    struct log_new_event   event;
    struct log_write       write;
    struct log_req         req;
    char                   name[32];
    uint64_t               began;
    uint64_t               random;
    _Atomic(struct slot *) next;
};

static struct log *the_log;
static size_t      event_bytes;

/* "acct-N"; by hand, as snprintf would be a tenth of what is measured. */
static size_t
put_name(char *to, uint64_t number)
{
    char   digits[20];
    size_t n = 0, len = 5;

    memcpy(to, "acct-", 5);
    do
        digits[n++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    while (n > 0)
        to[len++] = digits[--n];
    return len;
}

static void
fill(struct slot *s, uint64_t now)
{
    size_t n = put_name(s->name, next_random(&s->random) % streams);

    s->event = (struct log_new_event){.type = slice_str("Deposited"),
                                      .data = slice_of(payload, event_bytes)};
    s->write = (struct log_write){
        .stream = slice_of(s->name, n), .expected = LOG_ANY, .events = &s->event, .count = 1};
    s->req.writes = &s->write;
    s->req.write_count = 1;
    s->began = now;
}

static _Atomic uint64_t appended;

static void *
writer(void *arg)
{
    struct slot *s = arg;

    while (!atomic_load(&stop)) {
        fill(s, now_us());
        must(log_append(the_log, &s->req) == 0);
        sample(now_us() - s->began);
        atomic_fetch_add(&appended, 1);
    }
    return NULL;
}

/* writers that are called */

static uint64_t         writers_until;
static _Atomic uint32_t writers_left;
static struct ox_gate   writers_gate;

/* Called by the log. All that a writer keeps is its own slot. */
static void
appended_one(struct log_req *req)
{
    struct slot *s = req->arg;
    uint64_t     now = now_us();

    must(req->rc == 0);
    sample(now - s->began);
    atomic_fetch_add_explicit(&appended, 1, memory_order_relaxed);
    if (now < writers_until) {
        fill(s, now);
        log_submit(the_log, &s->req);
    } else if (atomic_fetch_sub(&writers_left, 1) == 1) {
        env_real()->ops->gate_open(env_real(), &writers_gate);
    }
}

static void
writers(struct slot *slots, uint32_t n, uint64_t seconds)
{
    gate_init(&writers_gate);
    writers_until = now_us() + seconds * 1000000;
    atomic_store(&writers_left, n);
    for (uint32_t i = 0; i < n; i++) {
        slots[i].req.done = appended_one;
        slots[i].req.arg = &slots[i];
        fill(&slots[i], now_us());
        log_submit(the_log, &slots[i].req);
    }
    (void)env_real()->ops->gate_wait(env_real(), &writers_gate, UINT64_MAX);
}

static void
blocking(struct slot *slots, uint32_t n, uint64_t seconds)
{
    pthread_t threads[WRITERS_MAX];

    for (uint32_t i = 0; i < n; i++)
        must(pthread_create(&threads[i], NULL, writer, &slots[i]) == 0);
    (void)sleep((unsigned)seconds);
    atomic_store(&stop, true);
    for (uint32_t i = 0; i < n; i++)
        must(pthread_join(threads[i], NULL) == 0);
}

static _Atomic(struct slot *)  finished;
static struct ox_gate *_Atomic gate;

static void
done(struct log_req *req)
{
    struct slot    *s = req->arg, *top = atomic_load(&finished);
    struct ox_gate *g;

    must(req->rc == 0);
    do
        atomic_store(&s->next, top);
    while (!atomic_compare_exchange_weak(&finished, &top, s));
    if (top == NULL) {
        g = atomic_exchange(&gate, NULL);
        if (g != NULL)
            env_real()->ops->gate_open(env_real(), g);
    }
}

/* One came back. True: another one goes out in its place. */
static bool
go_on(uint64_t now, uint64_t until, uint32_t outstanding)
{
    uint64_t all = atomic_fetch_add(&appended, 1) + 1;

    if (wanted != UINT64_MAX && all % 100000 == 0 && memory_mib() > memory_most)
        memory_most = memory_mib();
    return now < until && all + outstanding <= wanted;
}

static void
async(struct slot *slots, uint32_t n, uint64_t seconds)
{
    uint64_t until = now_us() + seconds * 1000000;
    uint32_t outstanding = n;

    for (uint32_t i = 0; i < n; i++) {
        slots[i].req.done = done;
        slots[i].req.arg = &slots[i];
        fill(&slots[i], now_us());
        log_submit(the_log, &slots[i].req);
    }
    while (outstanding > 0) {
        struct ox_gate own, *mine = &own;
        struct slot   *s;

        gate_init(&own);
        atomic_store(&gate, &own);
        s = atomic_exchange(&finished, NULL);
        if (s == NULL || !atomic_compare_exchange_strong(&gate, &mine, NULL))
            (void)env_real()->ops->gate_wait(env_real(), &own, UINT64_MAX);
        for (; s != NULL;) {
            struct slot *next = atomic_load(&s->next);
            uint64_t     now = now_us();

            sample(now - s->began);
            if (go_on(now, until, outstanding)) {
                fill(s, now);
                log_submit(the_log, &s->req);
            } else {
                outstanding--;
            }
            s = next;
        }
    }
}

/* Until the index has all of it. */
static void
settle(struct log_info *info)
{
    do {
        (void)usleep(20000);
        log_get_info(the_log, info);
    } while (info->indexed.v < info->end.v);
}

static void
over_log(const char *mode, const char *dir, uint64_t seconds, uint32_t n)
{
    struct log_conf conf = {.index = &log_index_lmdb};
    struct log_info info;
    struct slot    *slots = calloc(n, sizeof *slots);
    struct err      err;
    uint64_t        began, us;

    must(slots != NULL);
    for (uint32_t i = 0; i < n; i++)
        slots[i].random = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    if (log_open(env_real(), dir, &conf, NULL, &the_log, &err) != 0) {
        (void)fprintf(stderr, "append: %s\n", err.text);
        exit(1);
    }
    began = now_us();
    if (strcmp(mode, "blocking") == 0)
        blocking(slots, n, seconds);
    else if (strcmp(mode, "writers") == 0)
        writers(slots, n, seconds);
    else
        async(slots, n, seconds);
    us = now_us() - began;
    log_get_info(the_log, &info);
    if (wanted != UINT64_MAX) {
        settle(&info);
        printf("%" PRIu64 " ", memory_most);
    }
    report(atomic_load(&appended), us, (double)info.commits / (double)info.groups,
           (double)(info.end.v - info.indexed.v) / (double)info.appended_bytes * (double)us / 1e6);
    log_close(the_log);
    free(slots);
}

int
main(int argc, char **argv)
{
    uint64_t seconds, random = 88172645463325252u;
    uint32_t n = argc > 5 ? (uint32_t)strtoul(argv[5], NULL, 10) : 1;

    (void)mallopt(M_MMAP_THRESHOLD, 1 << 20); /* as `oxbow serve` does */
    if (argc < 5 || n == 0 || n > WRITERS_MAX) {
        (void)fprintf(
            stderr,
            "usage: append limit|single|writers|blocking|async DIR SECONDS BYTES [N [STREAMS]]\n"
            "       append fill DIR EVENTS BYTES N [STREAMS]\n");
        return 2;
    }
    samples = malloc(SAMPLES * sizeof *samples);
    must(samples != NULL);
    for (size_t i = 0; i + 8 <= sizeof payload; i += 8) {
        uint64_t v = next_random(&random);
        memcpy(payload + i, &v, 8);
    }
    seconds = strtoull(argv[3], NULL, 10);
    event_bytes = strtoul(argv[4], NULL, 10);
    must(event_bytes > 0 && event_bytes <= 16384);
    if (argc == 7) {
        streams = (uint32_t)strtoul(argv[6], NULL, 10);
        must(streams > 0);
    }
    if (strcmp(argv[1], "fill") == 0) {
        wanted = seconds;
        seconds = UINT32_MAX;
    }
    if (strcmp(argv[1], "limit") == 0)
        limit(argv[2], seconds, event_bytes, 32);
    else if (strcmp(argv[1], "single") == 0)
        limit(argv[2], seconds, event_bytes, 1);
    else
        over_log(argv[1], argv[2], seconds, n);
    free(samples);
    return 0;
}
