/*
 * Memory that was touched, held ready for those who are measured. A virtual machine may get its
 * memory from its host page by page at the first touch, and 1 GB of it then costs seconds of
 * processor: what a benchmark writes would be slow for as long as the file cache grows. Here that
 * is paid before, and as memory is taken elsewhere, as much is given back.
 *
 * usage: bench_reserve MIB     prints how many it has, and ends when its input does
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define LOOK_MS 20

/* A line of /proc/meminfo, in bytes; 0: not known. */
static uint64_t
memory(const char *name)
{
    FILE    *f = fopen("/proc/meminfo", "re");
    char     line[256];
    uint64_t kib = 0;

    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0) {
            kib = strtoull(line + strlen(name), NULL, 10);
            break;
        }
    }
    if (f != NULL)
        (void)fclose(f);
    return kib * KIB;
}

int
main(int argc, char **argv)
{
    uint64_t      want = argc == 2 ? strtoull(argv[1], NULL, 10) * MIB : 0;
    uint64_t      most = memory("MemAvailable:") / 4 * 3 / MIB * MIB, floor, now, part;
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    uint8_t      *all;

    if (want > most)
        want = most;
    if (want == 0)
        return 2;
    all = mmap(NULL, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) {
        perror("bench_reserve");
        return 1;
    }
    for (uint64_t i = 0; i < want; i += 4 * KIB)
        all[i] = 1;
    (void)printf("%" PRIu64 "\n", want / MIB);
    (void)fflush(stdout);
    for (floor = memory("MemFree:"); poll(&in, 1, LOOK_MS) == 0;) {
        now = memory("MemFree:");
        part = now < floor ? (floor - now) / MIB * MIB : 0;
        if (part > want)
            part = want;
        want -= part;
        if (part > 0)
            (void)madvise(all + want, part, MADV_DONTNEED);
    }
    return 0;
}
