/*
 * Reading a log, in process. One mode a run:
 *
 *   read scan DIR                   every event of $all, every checksum
 *   read plain DIR                  read() of the same bytes, 1 MiB at a time
 *   read forget DIR                 the page cache forgets the log's files
 *   read streams DIR N STREAMS      N random streams from their first event to their last
 *   read open DIR                   opens the log and closes it
 *
 * scan and plain print bytes, events and seconds; streams prints streams per
 * second, events per second, and µs for p50 and p99; open prints seconds,
 * whether the last end was a clean one, events indexed again, bytes that were
 * cut, MiB of memory without mapped files, bytes of the log and streams.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/must.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"

#define CHUNK (1u << 20)
#define PATH_BYTES 4096

static uint64_t
now_us(void)
{
    return env_real()->ops->mono_us(env_real());
}

static struct log *
open_log(const char *dir, struct log_report *report)
{
    struct log_conf conf = {.index = &log_index_lmdb};
    struct log     *log;
    struct err      err;

    if (log_open(env_real(), dir, &conf, report, &log, &err) != 0) {
        (void)fprintf(stderr, "read: %s\n", err.text);
        exit(1);
    }
    return log;
}

static void
die(const struct err *err)
{
    (void)fprintf(stderr, "read: %s\n", err->text);
    exit(1);
}

static void
scan(const char *dir)
{
    struct log      *log = open_log(dir, NULL);
    struct log_read  read = {.filter = {.system = true, .quiet = true}};
    struct log_iter *it;
    struct log_event event;
    struct log_info  info;
    struct err       err;
    uint64_t         events = 0, began = now_us(), us;
    int              rc;

    if (log_iter_open(log, &read, &it, &err) != 0)
        die(&err);
    while ((rc = log_iter_next(it, &event, &err)) == 0)
        events++;
    if (rc != E_END)
        die(&err);
    us = now_us() - began;
    log_get_info(log, &info);
    log_iter_close(it);
    printf("%" PRIu64 " %" PRIu64 " %.6f\n", info.end.v - info.first.v, events, (double)us / 1e6);
    log_close(log);
}

typedef void file_fn(void *arg, const char *path);

static int
by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int
is_segment(const struct dirent *e)
{
    size_t n = strlen(e->d_name);

    return n > 4 && strcmp(e->d_name + n - 4, ".seg") == 0;
}

/* The segments in the order of their positions. */
static void
each_segment(const char *dir, file_fn *fn, void *arg)
{
    struct dirent **list;
    char            path[PATH_BYTES];
    int             n;

    must((size_t)snprintf(path, sizeof path, "%s/segments", dir) < sizeof path);
    n = scandir(path, &list, is_segment, by_name);
    must(n > 0);
    for (int i = 0; i < n; i++) {
        must((size_t)snprintf(path, sizeof path, "%s/segments/%s", dir, list[i]->d_name) <
             sizeof path);
        fn(arg, path);
        free(list[i]);
    }
    free(list);
}

struct plain {
    uint8_t *buffer;
    uint64_t left, done, us;
};

static void
read_file(void *arg, const char *path)
{
    struct plain *p = arg;
    uint64_t      began = now_us();
    int           fd = open(path, O_RDONLY);

    must(fd >= 0);
    while (p->left > 0) {
        ssize_t n = read(fd, p->buffer, p->left < CHUNK ? (size_t)p->left : CHUNK);
        must(n >= 0);
        if (n == 0)
            break;
        p->left -= (uint64_t)n;
        p->done += (uint64_t)n;
    }
    (void)close(fd);
    p->us += now_us() - began;
}

static void
plain(const char *dir)
{
    struct log     *log = open_log(dir, NULL);
    struct log_info info;
    struct plain    p = {.buffer = malloc(CHUNK)};

    must(p.buffer != NULL);
    log_get_info(log, &info);
    log_close(log);
    memset(p.buffer, 1, CHUNK);
    p.left = info.end.v - info.first.v;
    each_segment(dir, read_file, &p);
    printf("%" PRIu64 " 0 %.6f\n", p.done, (double)p.us / 1e6);
    free(p.buffer);
}

static void
forget_file(void *arg, const char *path)
{
    int fd = open(path, O_RDONLY);

    (void)arg;
    must(fd >= 0);
    (void)fdatasync(fd);
    must(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
    (void)close(fd);
}

static int
by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint64_t
read_stream(struct log *log, uint32_t number)
{
    char             name[24];
    int              n = snprintf(name, sizeof name, "acct-%u", number);
    struct log_read  read = {.stream = slice_of(name, (size_t)n)};
    struct log_iter *it;
    struct log_event event;
    struct err       err;
    uint64_t         events = 0;
    int              rc = log_iter_open(log, &read, &it, &err);

    if (rc == E_NOTFOUND)
        return 0; /* chance never chose it */
    if (rc != 0)
        die(&err);
    while ((rc = log_iter_next(it, &event, &err)) == 0)
        events++;
    if (rc != E_END)
        die(&err);
    log_iter_close(it);
    return events;
}

static void
read_streams(const char *dir, uint32_t n, uint32_t streams)
{
    struct log *log = open_log(dir, NULL);
    uint32_t   *took = malloc(n * sizeof *took);
    uint64_t    random = 88172645463325252u, events = 0, began = now_us(), us;

    must(took != NULL && n > 0 && streams > 0);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t start = now_us();

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        events += read_stream(log, (uint32_t)(random % streams));
        took[i] = (uint32_t)(now_us() - start);
    }
    us = now_us() - began;
    log_close(log);
    qsort(took, n, sizeof *took, by_value);
    printf("%.0f %.0f %u %u\n", n * 1e6 / (double)us, (double)events * 1e6 / (double)us,
           took[n / 2], took[(uint64_t)n * 99 / 100]);
    free(took);
}

/* Anonymous resident memory: without mapped files. */
static uint64_t
memory_mib(void)
{
    FILE    *f = fopen("/proc/self/status", "r");
    char     line[256];
    uint64_t kib = 0;

    must(f != NULL);
    while (fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, "RssAnon:", 8) == 0)
            kib = strtoull(line + 8, NULL, 10);
    (void)fclose(f);
    return kib / 1024;
}

static void
open_it(const char *dir)
{
    struct log_report report;
    struct log_info   info;
    uint64_t          began = now_us(), us;
    struct log       *log = open_log(dir, &report);

    us = now_us() - began;
    log_get_info(log, &info);
    printf("%.6f %d %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
           (double)us / 1e6, report.clean, report.replayed, report.cut_bytes, memory_mib(),
           info.end.v, info.streams);
    log_close(log);
}

int
main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "scan") == 0)
        scan(argv[2]);
    else if (argc == 3 && strcmp(argv[1], "plain") == 0)
        plain(argv[2]);
    else if (argc == 3 && strcmp(argv[1], "forget") == 0)
        each_segment(argv[2], forget_file, NULL);
    else if (argc == 5 && strcmp(argv[1], "streams") == 0)
        read_streams(argv[2], (uint32_t)strtoul(argv[3], NULL, 10),
                     (uint32_t)strtoul(argv[4], NULL, 10));
    else if (argc == 3 && strcmp(argv[1], "open") == 0)
        open_it(argv[2]);
    else {
        (void)fprintf(stderr,
                      "usage: read scan|plain|forget|open DIR, read streams DIR N STREAMS\n");
        return 2;
    }
    return 0;
}
