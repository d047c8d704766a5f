/*
 * A foreground over HTTP, at a fixed rate whatever the server does (open loop).
 *
 *   scavenge_load PORT RATE STREAMS HEAD BYTES
 *
 * RATE requests a second over keep-alive connections: in turn an append of one event of BYTES bytes
 * to a random stream (acct-N), with the expected version, and a read of a whole random stream. Each
 * stream's last event has the version HEAD at first. What counts is the time from a request's
 * scheduled time to its answer. For each line of stdin, what came since the line before it:
 * seconds, requests answered a second, appends, p50, p99 and the largest in µs of the appends, then
 * of the reads. At stdin's end, once all are answered: a line "N VERSION" for some streams, first
 * those that were appended to last. An answer other than 200 and 201 ends it with 1.
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
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/must.h"

#define CONNECTIONS 256u
#define IN_MAX (64u << 10)
#define REQUEST_MAX (20u << 10)
#define SAMPLES 8000000u
#define SHOWN 500u

struct conn {
    int      fd;
    bool     busy, appending;
    uint32_t stream;
    size_t   have;
    uint64_t due;
    char     in[IN_MAX + 1];
};

struct times {
    uint32_t us[SAMPLES];
    uint32_t count;
};

static int          poller, timer;
static struct conn *conns[CONNECTIONS], *idle[CONNECTIONS];
static unsigned idle_first, idle_count; /* a ring: each has its turn before the server ends it */
static struct times appends, reads;
static uint32_t    *heads; /* by stream: the version of the last event */
static bool        *taken; /* an append to it is outstanding */
static uint32_t     streams, shown[SHOWN];
static uint64_t     shown_count, rate, began, asked, phase_us;
static size_t       event_bytes;
static char         data[REQUEST_MAX];
static bool         over;
static uint64_t     random_state = 88172645463325252u;

static uint64_t
now_us(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t
next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static int
by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void
watch(int fd, void *what)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = what};

    must(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &ev) == 0);
}

static struct conn *
join(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct conn       *c = calloc(1, sizeof *c);
    int                one = 1;

    must(c != NULL);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0) {
        (void)fprintf(stderr, "scavenge_load: 127.0.0.1:%u: %s\n", port, strerror(errno));
        exit(1);
    }
    must(setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    watch(c->fd, c);
    return c;
}

/* asking */

static void
ask(struct conn *c, uint64_t due, bool appending)
{
    char request[2 * REQUEST_MAX];
    int  n;

    do
        c->stream = (uint32_t)(next_random() % streams);
    while (appending && taken[c->stream]);
    if (appending)
        n = snprintf(request, sizeof request,
                     "POST /v1/streams/acct-%u HTTP/1.1\r\nHost: x\r\nExpected-Version: %u\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n"
                     "[{\"type\":\"Deposited\",\"data\":\"%s\"}]",
                     c->stream, heads[c->stream], event_bytes - 2 + 32, data);
    else
        n = snprintf(request, sizeof request, "GET /v1/streams/acct-%u HTTP/1.1\r\nHost: x\r\n\r\n",
                     c->stream);
    must(n > 0 && (size_t)n < sizeof request);
    taken[c->stream] |= appending;
    c->appending = appending;
    c->busy = true;
    c->due = due;
    c->have = 0;
    must(send(c->fd, request, (size_t)n, MSG_NOSIGNAL) == n);
}

static uint64_t
next_due(void)
{
    return began + asked * 1000000 / rate;
}

/* All that are due, as far as there are connections; the others wait, and their time runs. */
static void
ask_due(void)
{
    struct itimerspec at = {0};
    uint64_t          due;

    if (over)
        return;
    while (idle_count > 0 && (due = next_due()) <= now_us()) {
        struct conn *c = idle[idle_first++ % CONNECTIONS];

        idle_count--;
        ask(c, due, asked % 2 == 0);
        asked++;
    }
    if (idle_count == 0)
        return; /* an answer wakes us */
    due = next_due();
    at.it_value.tv_sec = (time_t)(due / 1000000);
    at.it_value.tv_nsec = (long)(due % 1000000) * 1000;
    must(timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL) == 0);
}

/* answers */

static bool
is_whole(const struct conn *c)
{
    static const char name[] = "content-length:";
    const char       *end = memmem(c->in, c->have, "\r\n\r\n", 4), *at = c->in;

    if (end == NULL)
        return false;
    while ((at = memchr(at, '\n', (size_t)(end + 2 - at))) != NULL && at++ < end)
        if (strncasecmp(at, name, sizeof name - 1) == 0)
            return c->have >= strtoul(at + sizeof name - 1, NULL, 10) + (size_t)(end + 4 - c->in);
    (void)fprintf(stderr, "scavenge_load: an answer without a length:\n%.400s\n", c->in);
    exit(1);
}

static void
note(struct times *t, uint64_t us)
{
    must(t->count < SAMPLES);
    t->us[t->count++] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static void
pull(struct conn *c)
{
    ssize_t n = recv(c->fd, c->in + c->have, IN_MAX - c->have, 0);

    if (n <= 0 || !c->busy) {
        (void)fprintf(stderr, "scavenge_load: the server closed a connection\n");
        exit(1);
    }
    c->have += (size_t)n;
    c->in[c->have] = '\0';
    must(c->have < IN_MAX);
    if (!is_whole(c))
        return;
    if (strtol(c->in + 9, NULL, 10) != (c->appending ? 201 : 200)) {
        (void)fprintf(stderr, "scavenge_load: refused:\n%.600s\n", c->in);
        exit(1);
    }
    note(c->appending ? &appends : &reads, now_us() - c->due);
    if (c->appending) {
        heads[c->stream]++;
        taken[c->stream] = false;
        shown[shown_count++ % SHOWN] = c->stream;
    }
    c->busy = false;
    idle[(idle_first + idle_count++) % CONNECTIONS] = c;
}

/* the figures */

static void
put_times(struct times *t)
{
    uint32_t n = t->count;

    qsort(t->us, n, sizeof *t->us, by_value);
    printf(" %u %u %u %u", n, n == 0 ? 0 : t->us[n / 2], n == 0 ? 0 : t->us[(uint64_t)n * 99 / 100],
           n == 0 ? 0 : t->us[n - 1]);
    t->count = 0;
}

/* A phase's end for each byte that is a line's end; what sorting takes is nobody's. */
static void
command(void)
{
    char    text[64];
    ssize_t n = read(STDIN_FILENO, text, sizeof text);

    must(n >= 0);
    over = n == 0;
    for (ssize_t i = 0; i < n; i++) {
        uint64_t now = now_us(), count = (uint64_t)appends.count + reads.count;

        if (text[i] != '\n')
            continue;
        printf("%.3f %.1f", (double)(now - phase_us) / 1e6,
               (double)count * 1e6 / (double)(now - phase_us));
        put_times(&appends);
        put_times(&reads);
        printf("\n");
        (void)fflush(stdout);
        phase_us = now_us();
        began += phase_us - now;
        for (unsigned j = 0; j < CONNECTIONS; j++)
            conns[j]->due += phase_us - now;
    }
}

static void
show_heads(void)
{
    for (uint64_t i = 0; i < shown_count && i < SHOWN; i++)
        printf("%u %u\n", shown[i], heads[shown[i]]);
    for (unsigned i = 0; i < SHOWN; i++) {
        uint32_t stream = (uint32_t)(next_random() % streams);
        printf("%u %u\n", stream, heads[stream]);
    }
}

static void
start(char **argv)
{
    uint32_t head = (uint32_t)strtoul(argv[4], NULL, 10);

    rate = strtoull(argv[2], NULL, 10);
    streams = (uint32_t)strtoul(argv[3], NULL, 10);
    event_bytes = strtoul(argv[5], NULL, 10);
    must(rate > 0 && streams > CONNECTIONS && event_bytes > 2 && event_bytes < REQUEST_MAX);
    memset(data, 'y', event_bytes - 2);
    heads = malloc(streams * sizeof *heads);
    taken = calloc(streams, sizeof *taken);
    must(heads != NULL && taken != NULL);
    for (uint32_t i = 0; i < streams; i++)
        heads[i] = head;
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    must(poller >= 0 && timer >= 0);
    for (unsigned i = 0; i < CONNECTIONS; i++)
        conns[i] = idle[idle_count++] = join((uint16_t)strtoul(argv[1], NULL, 10));
    watch(timer, &timer);
    watch(STDIN_FILENO, NULL);
}

int
main(int argc, char **argv)
{
    struct epoll_event events[64];

    if (argc != 6) {
        (void)fprintf(stderr, "usage: scavenge_load PORT RATE STREAMS HEAD BYTES\n");
        return 2;
    }
    start(argv);
    began = phase_us = now_us();
    ask_due();
    while (!over || idle_count < CONNECTIONS) {
        int      ready = epoll_wait(poller, events, 64, 60000);
        uint64_t ticks;

        must(ready > 0);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr == &timer)
                (void)!read(timer, &ticks, sizeof ticks);
            else if (events[i].data.ptr != NULL)
                pull(events[i].data.ptr);
            else if (!over)
                command();
        }
        ask_due();
    }
    show_heads();
    for (unsigned i = 0; i < CONNECTIONS; i++)
        free(conns[i]);
    free(heads);
    free(taken);
    return 0;
}
