/*
 * Subscribers over HTTP, and what they are to be given.
 *
 *   subscribe_load live    PORT SUBSCRIBERS RATE SECONDS BYTES
 *   subscribe_load idle    PORT SUBSCRIBERS
 *   subscribe_load catchup PORT
 *
 * live: subscribers on $all, each with a filter for one of ten categories or types, beside appends
 * of one event each, sent at their scheduled times whatever the server does (open loop; a
 * connection of its own for each that is outstanding). An event carries its scheduled time; the
 * time until each subscriber has it is what counts. Prints appends per second, deliveries per
 * second, p50, p99 and the largest in µs, deliveries, and p99 of the appends' answers in µs. idle:
 * opens them on as many streams, waits until all have caught up, prints the number, and stays until
 * stdin ends. catchup: reads $all once as NDJSON; prints events per second, events and MB per
 * second.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/must.h"

#define GROUPS 10u
#define WRITERS 512u
#define IN_MAX (256u << 10)
#define TIME_DIGITS 16
#define WARM_US 1000000u

struct conn {
    int      fd;
    bool     writer, busy, ready;
    size_t   have;
    uint64_t due;
    char     in[]; /* IN_MAX for a subscriber, 1024 for a writer */
};

static uint16_t  port;
static int       poller;
static uint32_t *delays, *answers;
static uint64_t  delay_count, delay_max, answer_count, answer_max;
static unsigned  caught_up;
static uint64_t  began;
static char      filler[65536];

static uint64_t
now_us(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static int
by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static struct conn *
join(bool writer, size_t room)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct conn       *c = malloc(sizeof *c + room);
    struct epoll_event ev = {.events = EPOLLIN};
    int                one = 1;

    must(c != NULL);
    memset(c, 0, sizeof *c);
    c->writer = writer;
    ev.data.ptr = c;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0) {
        (void)fprintf(stderr, "subscribe_load: 127.0.0.1:%u: %s\n", port, strerror(errno));
        exit(1);
    }
    must(setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    must(epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &ev) == 0);
    return c;
}

static void
put(const struct conn *c, const char *text, size_t len)
{
    must(send(c->fd, text, len, MSG_NOSIGNAL) == (ssize_t)len);
}

static void
subscribe(const struct conn *c, const char *path)
{
    char request[300];
    int  n = snprintf(request, sizeof request,
                      "GET %s HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n", path);

    put(c, request, (size_t)n);
}

static void
note(uint32_t *list, uint64_t *count, uint64_t max, uint64_t due)
{
    uint64_t now = now_us();

    if (due < began + WARM_US)
        return;
    must(*count < max);
    list[(*count)++] = (uint32_t)(now - due);
}

/* The scheduled times of all whole events; what is left moves to the front. */
static void
take_events(struct conn *c)
{
    char *p = c->in, *end = c->in + c->have, *last = c->in, *found;

    if (!c->ready && memmem(p, c->have, "caught-up", 9) != NULL) {
        c->ready = true;
        caught_up++;
    }
    while ((found = memmem(p, (size_t)(end - p), "{\"t\":\"", 6)) != NULL &&
           found + 6 + TIME_DIGITS <= end) {
        note(delays, &delay_count, delay_max, strtoull(found + 6, NULL, 10));
        p = last = found + 6 + TIME_DIGITS;
    }
    if (found == NULL && end - last > 5)
        last = end - 5;
    c->have = (size_t)(end - last);
    memmove(c->in, last, c->have);
}

static void
pull(struct conn *c, size_t room)
{
    ssize_t n = recv(c->fd, c->in + c->have, room - c->have, 0);

    if (n <= 0) {
        (void)fprintf(stderr, "subscribe_load: the server closed a connection\n");
        exit(1);
    }
    c->have += (size_t)n;
}

/* Answers of appends are small, and come whole. */
static bool
take_answer(struct conn *c)
{
    pull(c, 1024);
    if (memcmp(c->in, "HTTP/1.1 201", 12) != 0) {
        (void)fprintf(stderr, "subscribe_load: refused: %.*s\n", (int)c->have, c->in);
        exit(1);
    }
    if (c->in[c->have - 1] != '\n' || memmem(c->in, c->have, "}\n", 2) == NULL)
        return false;
    note(answers, &answer_count, answer_max, c->due);
    c->have = 0;
    c->busy = false;
    return true;
}

static void
append(struct conn *c, uint64_t number, size_t bytes)
{
    char request[70000], body[66000];
    int  len =
        snprintf(body, sizeof body,
                 "{\"type\":\"Type%u\",\"data\":{\"t\":\"%0*" PRIu64 "\",\"x\":\"%.*s\"}}",
                 (unsigned)(number / GROUPS % GROUPS), TIME_DIGITS, c->due, (int)bytes, filler);
    int n =
        snprintf(request, sizeof request,
                 "POST /v1/streams/cat%u-%u HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s",
                 (unsigned)(number % GROUPS), (unsigned)(number * 7919 % 100000), len, body);

    c->busy = true;
    put(c, request, (size_t)n);
}

static void
wait_caught_up(unsigned count)
{
    struct epoll_event events[256];

    while (caught_up < count) {
        int n = epoll_wait(poller, events, 256, 60000);

        if (n <= 0) {
            (void)fprintf(stderr, "subscribe_load: %u of %u have caught up\n", caught_up, count);
            exit(1);
        }
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;

            pull(c, 4096);
            take_events(c);
        }
    }
}

static void
report(uint64_t appended, double seconds)
{
    must(delay_count > 0 && answer_count > 0);
    qsort(delays, delay_count, sizeof *delays, by_value);
    qsort(answers, answer_count, sizeof *answers, by_value);
    printf("%.0f %.0f %u %u %u %" PRIu64 " %u\n", (double)appended / seconds,
           (double)delay_count / (seconds - 1), delays[delay_count / 2],
           delays[delay_count * 99 / 100], delays[delay_count - 1], delay_count,
           answers[answer_count * 99 / 100]);
}

static int
live(unsigned count, uint64_t rate, uint64_t seconds, size_t bytes)
{
    static struct conn *idle[WRITERS];
    struct epoll_event  events[256];
    unsigned            idle_count = 0;
    uint64_t            sent = 0, all = rate * seconds, answered = 0, per_event = 0;
    char                path[100];

    for (unsigned i = 0; i < count; i++) {
        (void)snprintf(path, sizeof path,
                       i % 2 == 0 ? "/v1/all?from=end&category=cat%u"
                                  : "/v1/all?from=end&type=Type%u",
                       i / 2 % GROUPS);
        subscribe(join(false, IN_MAX), path);
        per_event++;
    }
    per_event = (per_event + GROUPS - 1) / GROUPS;
    delay_max = all * (per_event + 2);
    answer_max = all;
    delays = malloc(delay_max * sizeof *delays);
    answers = malloc(all * sizeof *answers);
    must(delays != NULL && answers != NULL);
    wait_caught_up(count);
    for (; idle_count < WRITERS; idle_count++)
        idle[idle_count] = join(true, 1024);
    began = now_us();
    while (answered < all || delay_count < (all - rate) * count / GROUPS) {
        uint64_t due = sent < all ? began + sent * 1000000 / rate : UINT64_MAX;
        uint64_t now = now_us();
        int      n, wait = due <= now ? 0 : sent == all ? 5000 : (int)((due - now) / 1000);

        while (sent < all && due <= now && idle_count > 0) {
            struct conn *c = idle[--idle_count];

            c->due = due;
            append(c, sent++, bytes);
            due = began + sent * 1000000 / rate;
        }
        n = epoll_wait(poller, events, 256, wait);
        if (n == 0 && wait == 5000)
            break; /* some are missing: the numbers say how many */
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;

            if (!c->writer) {
                pull(c, IN_MAX);
                take_events(c);
            } else if (take_answer(c)) {
                idle[idle_count++] = c;
                answered++;
            }
        }
    }
    report(all, (double)(now_us() - began) / 1e6);
    return 0;
}

static int
be_idle(unsigned count)
{
    char path[100], byte;

    for (unsigned i = 0; i < count; i++) {
        (void)snprintf(path, sizeof path, "/v1/streams/idle-%u", i);
        subscribe(join(false, 4096), path);
        if (i % 256 == 255)
            wait_caught_up(i / 2);
    }
    wait_caught_up(count);
    printf("%u\n", caught_up);
    (void)fflush(stdout);
    return read(STDIN_FILENO, &byte, 1) == 0 ? 0 : 1;
}

static int
catch_up(void)
{
    static const char request[] =
        "GET /v1/all HTTP/1.0\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n";
    static char  in[1 << 20];
    struct conn *c = join(false, 1);
    uint64_t     lines = 0, bytes = 0, from = now_us();
    ssize_t      n;
    double       s;

    put(c, request, sizeof request - 1);
    while ((n = recv(c->fd, in, sizeof in, 0)) > 0) {
        bytes += (uint64_t)n;
        for (char *p = in; (p = memchr(p, '\n', (size_t)(in + n - p))) != NULL; p++)
            lines++;
    }
    must(n == 0);
    s = (double)(now_us() - from) / 1e6;
    /* The head's lines do not count. */
    printf("%.0f %" PRIu64 " %.0f\n", (double)lines / s, lines, (double)bytes / 1e6 / s);
    free(c);
    return 0;
}

int
main(int argc, char **argv)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    poller = epoll_create1(0);
    must(poller >= 0);
    memset(filler, 'x', sizeof filler - 1);
    if (argc > 2)
        port = (uint16_t)strtoul(argv[2], NULL, 10);
    if (argc == 7 && strcmp(argv[1], "live") == 0)
        return live((unsigned)strtoul(argv[3], NULL, 10), strtoull(argv[4], NULL, 10),
                    strtoull(argv[5], NULL, 10), strtoul(argv[6], NULL, 10));
    if (argc == 4 && strcmp(argv[1], "idle") == 0)
        return be_idle((unsigned)strtoul(argv[3], NULL, 10));
    if (argc == 3 && strcmp(argv[1], "catchup") == 0)
        return catch_up();
    (void)fprintf(stderr, "usage: subscribe_load live PORT SUBSCRIBERS RATE SECONDS BYTES\n"
                          "       subscribe_load idle PORT SUBSCRIBERS\n"
                          "       subscribe_load catchup PORT\n");
    return 2;
}
