/*
 * Load for a consumer group: members over server-sent events, and whoever
 * appends, in one process and one thread.
 *
 *   group_load fill PORT EVENTS STREAMS BYTES
 *   group_load take PORT GROUP MEMBERS BUFFER EVENTS STREAMS
 *   group_load live PORT GROUP MEMBERS BUFFER SECONDS STREAMS BYTES RATE
 *
 * `fill` appends events of BYTES bytes to random streams (acct-N), 500 in a
 * commit. `take` joins the group of $all with MEMBERS members and acknowledges
 * EVENTS events. `live` does so for SECONDS while it appends RATE events a
 * second. Members prove the order: of each stream version 0, 1, 2, … with
 * no hole; what comes again must have come before. Anything else ends with 1.
 * Prints events acknowledged a second, p50, p99 and the largest time from
 * making the append to the event at its member in µs, events, doubles.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/must.h"

#define MEMBERS_MAX 64
#define IN_MAX (1u << 20)
#define OUT_MAX (256u << 10)
#define ACKS_MAX 1000u
#define COMMIT 100u
#define FILL 500u
#define APPENDERS 16u
#define SAMPLES 4000000u
#define STALL_MS 30000

struct peer {
    int    fd;
    char  *in, *out;
    size_t have, len, sent; /* read; to be sent; sent */
};

struct member {
    struct peer events, acks;
    char       *text; /* events, without the framing of chunks */
    size_t      text_len;
    uint64_t    chunk; /* bytes left of the chunk */
    bool        begun, asked;
    char        token[40];
    uint64_t    due[ACKS_MAX * 8];
    unsigned    due_count, in_request;
};

static uint16_t      port;
static unsigned      streams, event_bytes = 256;
static const char   *group = "bench";
static int64_t      *last; /* version of each stream */
static uint32_t      samples[SAMPLES];
static uint64_t      received, acked, doubles, appended;
static uint64_t      random_state = 88172645463325252u;
static struct member members[MEMBERS_MAX];
static struct peer   appenders[APPENDERS];
static unsigned      member_count;

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

static void
die(const char *what, const char *detail)
{
    (void)fprintf(stderr, "group_load: %s: %.600s\n", what, detail);
    exit(1);
}

static void
join(struct peer *p)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int                one = 1;

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    p->fd = socket(AF_INET, SOCK_STREAM, 0);
    must(p->fd >= 0);
    if (connect(p->fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("connect", strerror(errno));
    must(setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    p->in = malloc(IN_MAX + 1);
    p->out = malloc(OUT_MAX);
    must(p->in != NULL);
    must(p->out != NULL);
    p->have = p->len = p->sent = 0;
}

static void
push(struct peer *p)
{
    while (p->sent < p->len) {
        ssize_t n = send(p->fd, p->out + p->sent, p->len - p->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            die("send", strerror(errno));
        p->sent += (size_t)n;
    }
}

/* False: nothing there. */
static bool
pull(struct peer *p)
{
    ssize_t n;

    must(p->have < IN_MAX);
    n = recv(p->fd, p->in + p->have, IN_MAX - p->have, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <= 0)
        die("the server closed a connection", n < 0 ? strerror(errno) : "");
    p->have += (size_t)n;
    return true;
}

/* One whole answer of known length, which is taken off; its status, 0 where it is not all there. */
static long
answer(struct peer *p)
{
    char  *end, *at;
    size_t len;
    long   status;

    p->in[p->have] = '\0';
    end = strstr(p->in, "\r\n\r\n");
    if (end == NULL)
        return 0;
    at = strcasestr(p->in, "\r\ncontent-length:");
    if (at == NULL || at > end)
        die("an answer without a length", p->in);
    len = (size_t)(end + 4 - p->in) + strtoul(at + 17, NULL, 10);
    if (p->have < len)
        return 0;
    status = strtol(p->in + 9, NULL, 10);
    if (status < 200 || status > 299)
        die("refused", p->in);
    memmove(p->in, p->in + len, p->have - len);
    p->have -= len;
    return status;
}

/* appending */

static void
append(struct peer *p, unsigned events)
{
    char    *body = p->out + 256, *to = body;
    uint64_t first = next_random() % streams;
    size_t   len;
    int      head;

    to += sprintf(to, "{\"appends\":[");
    for (unsigned i = 0; i < events; i++) {
        /* A stream may stand in a commit once: those of one commit follow one another. */
        uint64_t number = (first + i) % streams;

        to += sprintf(to,
                      "%s{\"stream\":\"acct-%07" PRIu64
                      "\",\"expected\":\"any\",\"events\":[{\"type\":\"Deposited\",\"data\":{\"t\":"
                      "%" PRIu64 ",\"x\":\"",
                      i > 0 ? "," : "", number, now_us());
        for (int pad = 40; pad < (int)event_bytes; pad++)
            *to++ = 'x';
        to += sprintf(to, "\"}}]}");
    }
    to += sprintf(to, "]}");
    len = (size_t)(to - body);
    must(len + 256 < OUT_MAX);
    head = sprintf(p->in,
                   "POST /v1/commits HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
                   "application/json\r\nContent-Length: %zu\r\n\r\n",
                   len);
    memcpy(body - head, p->in, (size_t)head);
    memmove(p->out, body - head, (size_t)head + len);
    p->len = (size_t)head + len;
    p->sent = 0;
    appended += events;
    push(p);
}

/* members */

static uint64_t
number_after(const char *from, const char *end, const char *name)
{
    const char *at = memmem(from, (size_t)(end - from), name, strlen(name));

    if (at == NULL)
        die("an event without what it must have", from);
    return strtoull(at + strlen(name), NULL, 10);
}

static void
take_event(struct member *m, const char *from, const char *end)
{
    uint64_t pos = strtoull(from + 4, NULL, 10), stream, version, made;

    stream = number_after(from, end, "\"stream\":\"acct-");
    version = number_after(from, end, "\"version\":");
    made = number_after(from, end, "\"data\":{\"t\":");
    must(stream < streams);
    if ((int64_t)version > last[stream] + 1)
        die("out of order", from);
    if ((int64_t)version <= last[stream])
        doubles++;
    else
        last[stream] = (int64_t)version;
    if (received < SAMPLES)
        samples[received] = (uint32_t)(now_us() - made);
    received++;
    must(m->due_count < ACKS_MAX * 8);
    m->due[m->due_count++] = pos;
}

static void
take_text(struct member *m)
{
    char *at = m->text, *end;

    m->text[m->text_len] = '\0';
    while ((end = memmem(at, m->text_len - (size_t)(at - m->text), "\n\n", 2)) != NULL) {
        if (strncmp(at, "id: ", 4) == 0) {
            take_event(m, at, end);
        } else if (strncmp(at, "event: member", 13) == 0) {
            const char *token = strstr(at, "{\"member\":\"");

            must(token != NULL);
            memcpy(m->token, token + 11, 36);
        } else if (*at != ':') {
            die("a member was ended", at);
        }
        at = end + 2;
    }
    m->text_len -= (size_t)(at - m->text);
    memmove(m->text, at, m->text_len);
}

/* The bytes of a chunked body without its framing. */
static void
unchunk(struct member *m)
{
    struct peer *p = &m->events;
    char        *at = p->in, *end = p->in + p->have;

    if (!m->begun) {
        char *body;

        *end = '\0';
        body = strstr(p->in, "\r\n\r\n");
        if (body == NULL)
            return;
        if (strtol(p->in + 9, NULL, 10) != 200)
            die("a member was refused", p->in);
        at = body + 4;
        m->begun = true;
    }
    while (at < end) {
        size_t n = (size_t)(end - at);

        if (m->chunk == 0) { /* its line; before it the end of the last one */
            char *eol = memmem(at, n, "\r\n", 2);

            if (eol == at) {
                at += 2;
                continue;
            }
            if (eol == NULL)
                break;
            m->chunk = strtoull(at, NULL, 16);
            at = eol + 2;
            continue;
        }
        n = n < m->chunk ? n : (size_t)m->chunk;
        must(m->text_len + n <= 4 * IN_MAX);
        memcpy(m->text + m->text_len, at, n);
        m->text_len += n;
        m->chunk -= n;
        at += n;
    }
    p->have = (size_t)(end - at);
    memmove(p->in, at, p->have);
    take_text(m);
}

static void
acknowledge(struct member *m)
{
    struct peer *p = &m->acks;
    char        *body = p->out + 256, *to = body;
    unsigned     n = m->due_count < ACKS_MAX ? m->due_count : ACKS_MAX;
    int          head;
    size_t       len;

    if (m->asked || n == 0)
        return;
    to += sprintf(to, "{\"member\":\"%s\",\"positions\":[", m->token);
    for (unsigned i = 0; i < n; i++)
        to += sprintf(to, "%s%" PRIu64, i > 0 ? "," : "", m->due[i]);
    to += sprintf(to, "]}");
    len = (size_t)(to - body);
    head = sprintf(p->in,
                   "POST /v1/groups/%%24all/%s/ack HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
                   "application/json\r\nContent-Length: %zu\r\n\r\n",
                   group, len);
    memcpy(body - head, p->in, (size_t)head);
    memmove(p->out, body - head, (size_t)head + len);
    p->len = (size_t)head + len;
    p->sent = 0;
    m->asked = true;
    m->in_request = n;
    memmove(m->due, m->due + n, (m->due_count - n) * sizeof *m->due);
    m->due_count -= n;
    push(p);
}

static void
join_group(unsigned count, unsigned buffer)
{
    member_count = count;
    must(count <= MEMBERS_MAX);
    for (unsigned i = 0; i < count; i++) {
        struct member *m = &members[i];

        join(&m->events);
        join(&m->acks);
        m->text = malloc(4 * IN_MAX + 1);
        must(m->text != NULL);
        m->events.len = (size_t)sprintf(
            m->events.out,
            "GET /v1/groups/%%24all/%s/events?buffer=%u HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: "
            "text/event-stream\r\n\r\n",
            group, buffer);
        push(&m->events);
    }
}

/* One turn: all that arrived, what follows from it. */
static void
turn(int wait_ms)
{
    struct pollfd fds[2 * MEMBERS_MAX + APPENDERS];
    unsigned      n = 0;

    for (unsigned i = 0; i < member_count; i++) {
        fds[n++] = (struct pollfd){members[i].events.fd, POLLIN, 0};
        fds[n++] = (struct pollfd){members[i].acks.fd, POLLIN, 0};
    }
    for (unsigned i = 0; i < APPENDERS && appenders[i].in != NULL; i++)
        fds[n++] = (struct pollfd){appenders[i].fd, POLLIN, 0};
    (void)poll(fds, n, wait_ms);
    for (unsigned i = 0; i < member_count; i++) {
        struct member *m = &members[i];

        if (fds[2 * i].revents != 0 && pull(&m->events))
            unchunk(m);
        push(&m->acks);
        if (fds[2 * i + 1].revents != 0 && pull(&m->acks) && answer(&m->acks) != 0) {
            acked += m->in_request;
            m->asked = false;
        }
        acknowledge(m);
    }
}

static int
by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void
report(uint64_t us)
{
    uint32_t n = received < SAMPLES ? (uint32_t)received : SAMPLES;

    must(n > 0);
    qsort(samples, n, sizeof *samples, by_value);
    printf("%.0f %u %u %u %" PRIu64 " %" PRIu64 "\n", (double)acked * 1e6 / (double)us,
           samples[n / 2], samples[(uint64_t)n * 99 / 100], samples[n - 1], acked, doubles);
}

static void
fill(uint64_t events)
{
    struct peer *p = &appenders[0];

    join(p);
    while (appended < events) {
        append(p, FILL);
        while (answer(p) == 0)
            (void)(poll(&(struct pollfd){p->fd, POLLIN, 0}, 1, STALL_MS) == 1 && pull(p));
        p->have = 0;
    }
}

static void
take(uint64_t events)
{
    uint64_t began = now_us(), moved = began, before = 0;

    while (acked < events) {
        turn(1000);
        if (acked != before) {
            before = acked;
            moved = now_us();
        } else if (now_us() - moved > STALL_MS * 1000ull) {
            die("nothing moves", "");
        }
    }
    report(now_us() - began);
}

static void
live(uint64_t us, uint64_t rate)
{
    uint64_t began = now_us(), now, asked[APPENDERS] = {0};

    for (unsigned i = 0; i < APPENDERS; i++)
        join(&appenders[i]);
    while ((now = now_us()) < began + us || acked < appended) {
        bool more = now < began + us;

        for (unsigned i = 0; i < APPENDERS; i++) {
            struct peer *p = &appenders[i];

            push(p);
            if (asked[i] != 0 && pull(p) && answer(p) != 0)
                asked[i] = 0;
            if (asked[i] == 0 && more && appended < (now - began) * rate / 1000000) {
                append(p, COMMIT);
                asked[i] = 1;
            }
        }
        turn(1);
        if (now > began + us + STALL_MS * 1000ull)
            die("not all that was appended came", "");
    }
    report(now_us() - began);
}

int
main(int argc, char **argv)
{
    uint64_t n[10] = {0};

    for (int i = 2; i < argc && i < 10; i++)
        n[i] = strtoull(argv[i], NULL, 10);
    port = (uint16_t)n[2];
    if (argc == 6 && strcmp(argv[1], "fill") == 0) {
        streams = (unsigned)n[4];
        event_bytes = (unsigned)n[5];
        must(streams >= FILL);
        fill(n[3]);
        return 0;
    }
    if ((argc != 8 || strcmp(argv[1], "take") != 0) &&
        (argc != 10 || strcmp(argv[1], "live") != 0)) {
        (void)fprintf(
            stderr,
            "usage: group_load fill PORT EVENTS STREAMS BYTES\n"
            "       group_load take PORT GROUP MEMBERS BUFFER EVENTS STREAMS\n"
            "       group_load live PORT GROUP MEMBERS BUFFER SECONDS STREAMS BYTES RATE\n");
        return 2;
    }
    group = argv[3];
    streams = (unsigned)n[7];
    last = malloc(streams * sizeof *last);
    must(last != NULL);
    memset(last, 0xff, streams * sizeof *last);
    join_group((unsigned)n[4], (unsigned)n[5]);
    if (argc == 8) {
        take(n[6]);
    } else {
        event_bytes = (unsigned)n[8];
        live(n[6] * 1000000, n[9]);
    }
    return 0;
}
