/*
 * HTTP load: a number of keep-alive connections, one outstanding request each,
 * one thread.
 *
 *   http_load append PORT CONNECTIONS SECONDS BYTES STREAMS
 *   http_load read   PORT CONNECTIONS SECONDS 0     STREAMS
 *
 * Appends one event of BYTES bytes of data to a random stream (acct-N), or
 * reads a random stream as JSON. Prints requests per second, p50, p99 and the
 * largest in µs, how many were answered and bytes per answer. Another status
 * than 201 and 200 (404 where a stream was never written) ends it with 1.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "../load.h"
#include "base/must.h"

#define CONNECTIONS_MAX 1024
#define ANSWER_MAX (256u << 10)
#define REQUEST_MAX (64u << 10)
#define DIGITS 7

struct conn {
    int      fd;
    size_t   have;
    uint64_t began;
    char    *part; /* of an answer, while the rest of it is on its way */
};

/* One of each for all connections, so that they stay in the processor's cache. */
static char     request[REQUEST_MAX]; /* all but the stream's number stays as it is */
static char     answer[ANSWER_MAX + 1];
static bool     reading;
static size_t   request_len, number_at, event_bytes;
static unsigned streams;
static uint64_t answered_bytes;

static void
make_request(void)
{
    static const char begin[] = "[{\"type\":\"Deposited\",\"data\":\"", end[] = "\"}]";
    size_t            body = sizeof begin - 1 + event_bytes - 2 + sizeof end - 1;
    int               n;

    if (reading)
        n = snprintf(request, REQUEST_MAX,
                     "GET /v1/streams/acct-%0*d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", DIGITS, 0);
    else
        n = snprintf(request, REQUEST_MAX,
                     "POST /v1/streams/acct-%0*d HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     DIGITS, 0, body, begin);
    must(n > 0 && (size_t)n + event_bytes + sizeof end < REQUEST_MAX);
    request_len = (size_t)n;
    number_at = (size_t)(strstr(request, "acct-") - request) + 5;
    if (reading)
        return;
    /* Data with its two quotes is as long as was asked for. */
    for (size_t i = 0; i + 2 < event_bytes; i++)
        request[request_len++] = (char)('a' + load_random() % 26);
    memcpy(request + request_len, end, sizeof end - 1);
    request_len += sizeof end - 1;
}

static void
ask(struct conn *c, uint64_t now)
{
    uint64_t number = load_random() % streams;
    size_t   sent = 0;

    for (int i = DIGITS - 1; i >= 0; i--, number /= 10)
        request[number_at + (size_t)i] = (char)('0' + number % 10);
    c->have = 0;
    c->began = now;
    while (sent < request_len) {
        ssize_t n = send(c->fd, request + sent, request_len - sent, MSG_NOSIGNAL);
        must(n > 0);
        sent += (size_t)n;
    }
}

/* Bytes of the whole answer; 0: not all of it is there. */
static size_t
answer_len(size_t have)
{
    static const char name[] = "content-length:";
    const char       *end, *at;
    size_t            len = SIZE_MAX;

    end = memmem(answer, have, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    for (at = answer; at < end; at++) {
        at = memchr(at, '\n', (size_t)(end + 2 - at));
        if (at == NULL)
            break;
        if (strncasecmp(at + 1, name, sizeof name - 1) == 0)
            len = strtoul(at + sizeof name, NULL, 10);
    }
    if (len == SIZE_MAX) {
        (void)fprintf(stderr, "http_load: an answer without a length:\n%.400s\n", answer);
        exit(1);
    }
    len += (size_t)(end + 4 - answer);
    return have >= len ? len : 0;
}

static void
check_status(void)
{
    long status = strtol(answer + 9, NULL, 10);

    if (reading ? status == 200 || status == 404 : status == 201)
        return;
    (void)fprintf(stderr, "http_load: refused:\n%.400s\n", answer);
    exit(1);
}

/* True: a whole answer came. */
static bool
pull(struct conn *c, uint64_t *now)
{
    ssize_t n;

    if (c->have > 0)
        memcpy(answer, c->part, c->have);
    n = recv(c->fd, answer + c->have, ANSWER_MAX - c->have, 0);
    if (n <= 0) {
        (void)fprintf(stderr, "http_load: the server closed a connection\n");
        exit(1);
    }
    c->have += (size_t)n;
    must(c->have < ANSWER_MAX);
    answer[c->have] = '\0';
    if (answer_len(c->have) == 0) {
        if (c->part == NULL)
            c->part = malloc(ANSWER_MAX);
        must(c->part != NULL);
        memcpy(c->part, answer, c->have);
        return false;
    }
    check_status();
    *now = load_now_us();
    load_sample(*now - c->began);
    answered_bytes += c->have;
    return true;
}

int
main(int argc, char **argv)
{
    struct epoll_event events[64];
    struct conn       *conns;
    unsigned           n, out;
    uint64_t           began, until;
    int                poll = epoll_create1(0);

    if (argc != 7) {
        (void)fprintf(stderr,
                      "usage: http_load append|read PORT CONNECTIONS SECONDS BYTES STREAMS\n");
        return 2;
    }
    reading = strcmp(argv[1], "read") == 0;
    n = (unsigned)strtoul(argv[3], NULL, 10);
    event_bytes = reading ? 2 : strtoul(argv[5], NULL, 10);
    streams = (unsigned)strtoul(argv[6], NULL, 10);
    must(n > 0 && n <= CONNECTIONS_MAX && event_bytes >= 2 && streams > 0 && poll >= 0);
    conns = calloc(n, sizeof *conns);
    must(conns != NULL);
    for (unsigned i = 0; i < n; i++)
        conns[i].fd = load_connect(poll, (uint16_t)strtoul(argv[2], NULL, 10), &conns[i]);
    make_request();
    began = load_now_us();
    until = began + strtoull(argv[4], NULL, 10) * 1000000;
    for (unsigned i = 0; i < n; i++)
        ask(&conns[i], load_now_us());
    for (out = n; out > 0;) {
        int ready = epoll_wait(poll, events, 64, 10000);
        must(ready > 0);
        for (int i = 0; i < ready; i++) {
            struct conn *c = events[i].data.ptr;
            uint64_t     now;
            if (!pull(c, &now))
                continue;
            if (now < until)
                ask(c, now);
            else
                out--;
        }
    }
    load_report(load_now_us() - began, (double)answered_bytes / (double)load_answered());
    for (unsigned i = 0; i < n; i++)
        free(conns[i].part);
    free(conns);
    return 0;
}
