#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "base/must.h"

#define SAMPLES 4000000u

static uint64_t random_state = 88172645463325252u;
static uint32_t samples[SAMPLES];
static uint64_t answered;

uint64_t
load_now_us(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t
load_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

void
load_sample(uint64_t us)
{
    if (answered < SAMPLES)
        samples[answered] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
    answered++;
}

uint64_t
load_answered(void)
{
    return answered;
}

static int
by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void
load_report(uint64_t us, double each)
{
    uint32_t n = answered < SAMPLES ? (uint32_t)answered : SAMPLES;

    must(n > 0);
    qsort(samples, n, sizeof *samples, by_value);
    printf("%.0f %u %u %u %" PRIu64 " %.0f\n", (double)answered * 1e6 / (double)us, samples[n / 2],
           samples[(uint64_t)n * 99 / 100], samples[n - 1], answered, each);
}

int
load_connect(int poll, uint16_t port, void *arg)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = arg};
    int                one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(fd >= 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        (void)fprintf(stderr, "127.0.0.1:%u: %s\n", port, strerror(errno));
        exit(1);
    }
    must(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    must(epoll_ctl(poll, EPOLL_CTL_ADD, fd, &ev) == 0);
    return fd;
}
