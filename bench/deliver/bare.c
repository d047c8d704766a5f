/*
 * The far side's own speed, without Oxbow: publishers that do nothing but publish and count the
 * confirms, with the library that the sink has; and an HTTP service that does nothing but answer.
 *
 *   bare rabbit HOST PORT QUEUE EVENTS BYTES WINDOW
 *   bare consume HOST PORT QUEUE EVENTS
 *   bare nats URL SUBJECT EVENTS BYTES WINDOW
 *   bare kafka BROKERS TOPIC EVENTS BYTES
 *   bare http PORT          until it is ended: 204 to every request
 *
 * The publishers print messages confirmed a second. consume takes so many messages of different
 * ids, and prints how many it got twice, and the p50 and p99, in ms, of how long ago the time in
 * their "at" was (0 without it; the first tenth does not count).
 */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <arpa/inet.h>
#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <nats/nats.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BYTES_MAX 65536
#define PEERS_MAX 4096
#define IN_MAX 65536
#define ID_ROOM 37

static char     body[BYTES_MAX];
static uint64_t started_us;

static uint64_t
now_us(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void
check(bool fine, const char *what)
{
    if (fine)
        return;
    (void)fprintf(stderr, "bare: %s failed\n", what);
    exit(1);
}

static void
begin(size_t bytes)
{
    check(bytes >= 2 && bytes < BYTES_MAX, "bytes");
    memset(body, 'x', bytes);
    body[0] = body[bytes - 1] = '"';
    started_us = now_us();
}

static void
say_rate(uint64_t events)
{
    (void)printf("%.0f\n", (double)events * 1e6 / (double)(now_us() - started_us));
}

static void
make_id(uint64_t n, char id[ID_ROOM])
{
    (void)snprintf(id, ID_ROOM, "%08x-0000-7000-8000-0000%08x", (unsigned)n, (unsigned)n);
}

/* RabbitMQ */

static amqp_connection_state_t
rabbit_open(const char *host, int port)
{
    amqp_connection_state_t conn = amqp_new_connection();
    amqp_socket_t          *socket = amqp_tcp_socket_new(conn);

    check(amqp_socket_open(socket, host, port) == AMQP_STATUS_OK, "connect");
    check(
        amqp_login(conn, "/", 1, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type ==
            AMQP_RESPONSE_NORMAL,
        "login");
    (void)amqp_channel_open(conn, 1);
    return conn;
}

static void
rabbit_publish(amqp_connection_state_t conn, const char *queue, uint64_t n, size_t bytes)
{
    amqp_basic_properties_t p = {0};
    char                    id[ID_ROOM];

    make_id(n, id);
    p._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG |
               AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG;
    p.delivery_mode = 2;
    p.message_id = amqp_cstring_bytes(id);
    p.type = amqp_cstring_bytes("Deposited");
    p.timestamp = 1;
    p.content_type = amqp_cstring_bytes("application/json");
    check(amqp_basic_publish(conn, 1, amqp_empty_bytes, amqp_cstring_bytes(queue), 1, 0, &p,
                             (amqp_bytes_t){bytes, body}) == AMQP_STATUS_OK,
          "publish");
}

static void
rabbit(const char *host, int port, const char *queue, uint64_t events, size_t bytes,
       uint64_t window)
{
    amqp_connection_state_t conn = rabbit_open(host, port);
    bool                   *confirmed = calloc(events + 1, 1);
    uint64_t                sent = 0, done = 0, low = 1;

    check(confirmed != NULL, "memory");
    (void)amqp_confirm_select(conn, 1);
    check(amqp_get_rpc_reply(conn).reply_type == AMQP_RESPONSE_NORMAL, "confirm.select");
    begin(bytes);
    while (done < events) {
        amqp_frame_t frame;

        while (sent < events && sent - done < window)
            rabbit_publish(conn, queue, sent++, bytes);
        amqp_maybe_release_buffers(conn);
        check(amqp_simple_wait_frame(conn, &frame) == AMQP_STATUS_OK, "wait");
        check(frame.frame_type == AMQP_FRAME_METHOD &&
                  frame.payload.method.id == AMQP_BASIC_ACK_METHOD,
              "a confirm");
        {
            const amqp_basic_ack_t *ack = frame.payload.method.decoded;
            uint64_t                from = ack->multiple ? low : ack->delivery_tag;

            for (uint64_t tag = from; tag <= ack->delivery_tag; tag++) {
                done += !confirmed[tag];
                confirmed[tag] = true;
            }
            while (low <= events && confirmed[low])
                low++;
        }
    }
    say_rate(events);
    free(confirmed);
    (void)amqp_destroy_connection(conn);
}

/* As the 64-bit FNV-1a hash of each. */
static bool
is_new(uint64_t *seen, size_t room, amqp_bytes_t id)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < id.len; i++)
        hash = (hash ^ ((const uint8_t *)id.bytes)[i]) * UINT64_C(0x100000001b3);
    hash += hash == 0;
    for (size_t at = hash % room;; at = (at + 1) % room) {
        if (seen[at] == hash)
            return false;
        if (seen[at] != 0)
            continue;
        seen[at] = hash;
        return true;
    }
}

static double
late_ms(amqp_bytes_t text)
{
    struct timespec ts;
    char            number[40];
    const char     *at = memmem(text.bytes, text.len, "\"at\":", 5);
    size_t          n;

    if (at == NULL)
        return 0;
    at += 5;
    n = (size_t)((const char *)text.bytes + text.len - at);
    n = n < sizeof number - 1 ? n : sizeof number - 1;
    memcpy(number, at, n);
    number[n] = 0;
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    return ((double)ts.tv_sec + (double)ts.tv_nsec / 1e9 - strtod(number, NULL)) * 1000;
}

static int
by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void
consume(const char *host, int port, const char *queue, uint64_t events)
{
    amqp_connection_state_t conn = rabbit_open(host, port);
    size_t                  room = events * 2 + 1;
    uint64_t *seen = calloc(room, sizeof *seen), got = 0, twice = 0, skip = events / 10;
    double   *late = calloc(events, sizeof *late);

    check(events > 0 && seen != NULL && late != NULL, "memory");
    (void)amqp_basic_qos(conn, 1, 0, 2000, 0);
    (void)amqp_basic_consume(conn, 1, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 0, 0,
                             amqp_empty_table);
    check(amqp_get_rpc_reply(conn).reply_type == AMQP_RESPONSE_NORMAL, "basic.consume");
    while (got < events) {
        amqp_envelope_t e;

        amqp_maybe_release_buffers(conn);
        check(amqp_consume_message(conn, &e, NULL, 0).reply_type == AMQP_RESPONSE_NORMAL,
              "a message");
        if (is_new(seen, room, e.message.properties.message_id))
            late[got++] = late_ms(e.message.body);
        else
            twice++;
        if (got % 500 == 0 || got == events || late[got - 1] > 0)
            check(amqp_basic_ack(conn, 1, e.delivery_tag, 1) == AMQP_STATUS_OK, "ack");
        amqp_destroy_envelope(&e);
    }
    qsort(late + skip, events - skip, sizeof *late, by_size);
    (void)printf("%llu %.3f %.3f\n", (unsigned long long)twice, late[skip + (events - skip) / 2],
                 late[skip + (events - skip) * 99 / 100]);
    free(seen);
    free(late);
    (void)amqp_destroy_connection(conn);
}

/* NATS */

static void
on_nats_error(jsCtx *js, jsPubAckErr *why, void *arg)
{
    check(false, why->ErrText);
}

static void
publish_nats(const char *url, const char *subject, uint64_t events, size_t bytes, int64_t window)
{
    natsConnection *conn = NULL;
    jsCtx          *js = NULL;
    jsOptions       options;

    check(natsConnection_ConnectTo(&conn, url) == NATS_OK, "connect");
    (void)jsOptions_Init(&options);
    options.PublishAsync.MaxPending = window;
    options.PublishAsync.ErrHandler = on_nats_error;
    check(natsConnection_JetStream(&js, conn, &options) == NATS_OK, "JetStream");
    begin(bytes);
    for (uint64_t n = 0; n < events; n++) {
        jsPubOptions each;
        natsMsg     *msg = NULL;
        char         id[ID_ROOM];

        make_id(n, id);
        (void)jsPubOptions_Init(&each);
        each.MsgId = id;
        each.MaxWait = 30000;
        check(natsMsg_Create(&msg, subject, NULL, body, (int)bytes) == NATS_OK, "message");
        check(natsMsgHeader_Set(msg, "Content-Type", "application/json") == NATS_OK, "header");
        check(js_PublishMsgAsync(js, &msg, &each) == NATS_OK, "publish");
    }
    {
        jsPubOptions all;

        (void)jsPubOptions_Init(&all);
        all.MaxWait = 60000;
        check(js_PublishAsyncComplete(js, &all) == NATS_OK, "complete");
    }
    say_rate(events);
    jsCtx_Destroy(js);
    natsConnection_Destroy(conn);
}

/* Kafka */

static uint64_t reports;

static void
on_report(rd_kafka_t *producer, const rd_kafka_message_t *m, void *arg)
{
    check(m->err == RD_KAFKA_RESP_ERR_NO_ERROR, rd_kafka_err2str(m->err));
    reports++;
}

static void
publish_kafka(const char *brokers, const char *topic, uint64_t events, size_t bytes)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_t      *producer;
    char             why[256], key[32];

    (void)rd_kafka_conf_set(conf, "bootstrap.servers", brokers, why, sizeof why);
    (void)rd_kafka_conf_set(conf, "enable.idempotence", "true", why, sizeof why);
    (void)rd_kafka_conf_set(conf, "linger.ms", "2", why, sizeof why);
    rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    check(producer != NULL, why);
    begin(bytes);
    for (uint64_t n = 0; n < events;) {
        static const char   type[] = "application/json";
        rd_kafka_resp_err_t rc;
        rd_kafka_error_t   *wrong;
        int                 len = snprintf(key, sizeof key, "acct-%llu", (unsigned long long)n);
        rd_kafka_headers_t *headers = rd_kafka_headers_new(1);
        rd_kafka_vu_t       v[] = {{.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = topic},
                                   {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {key, (size_t)len}},
                                   {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {body, bytes}},
                                   {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
                                   {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY}};

        (void)rd_kafka_header_add(headers, "content-type", -1, type, -1);
        wrong = rd_kafka_produceva(producer, v, sizeof v / sizeof v[0]);
        rc = rd_kafka_error_code(wrong);
        if (wrong != NULL) {
            rd_kafka_error_destroy(wrong);
            rd_kafka_headers_destroy(headers);
        }
        if (rc == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            (void)rd_kafka_poll(producer, 10);
            continue;
        }
        check(rc == RD_KAFKA_RESP_ERR_NO_ERROR, "produce");
        n++;
        (void)rd_kafka_poll(producer, 0);
    }
    check(rd_kafka_flush(producer, 60000) == RD_KAFKA_RESP_ERR_NO_ERROR, "flush");
    check(reports == events, "reports");
    say_rate(events);
    rd_kafka_destroy(producer);
}

/* HTTP: requests with Content-Length, on connections that stay */

struct peer {
    int    fd;
    size_t have;
    char   in[IN_MAX];
};

/* Bytes of the first request in there; 0: it is not whole. */
static size_t
request_len(const struct peer *p)
{
    static const char name[] = "content-length:";
    const char       *end = memmem(p->in, p->have, "\r\n\r\n", 4);
    size_t            head, len = 0;

    if (end == NULL)
        return 0;
    head = (size_t)(end - p->in) + 4;
    for (const char *at = p->in; at < end; at++)
        if (at[0] == '\n' && strncasecmp(at + 1, name, sizeof name - 1) == 0)
            len = strtoul(at + sizeof name, NULL, 10);
    return p->have >= head + len ? head + len : 0;
}

static bool
serve_peer(struct peer *p)
{
    static const char answer[] = "HTTP/1.1 204 No Content\r\n\r\n";
    ssize_t           n = read(p->fd, p->in + p->have, sizeof p->in - p->have);
    size_t            len;

    if (n <= 0)
        return n < 0 && errno == EAGAIN;
    p->have += (size_t)n;
    while ((len = request_len(p)) > 0) {
        if (write(p->fd, answer, sizeof answer - 1) != (ssize_t)sizeof answer - 1)
            return false;
        p->have -= len;
        memmove(p->in, p->in + len, p->have);
    }
    return p->have < sizeof p->in;
}

static void
accept_peer(int listener, int poller)
{
    struct peer       *p = calloc(1, sizeof *p);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};
    int                on = 1;

    check(p != NULL, "memory");
    p->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    check(p->fd >= 0, "accept");
    (void)setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* The poller has it from here on. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
    check(epoll_ctl(poller, EPOLL_CTL_ADD, p->fd, &e) == 0, "epoll");
}

static void
serve_http(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int                listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    int                poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN}, ready[64];

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    check(bind(listener, (struct sockaddr *)&at, sizeof at) == 0, "bind");
    check(listen(listener, PEERS_MAX) == 0, "listen");
    check(epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e) == 0, "epoll");
    for (;;) {
        int n = epoll_wait(poller, ready, 64, -1);

        for (int i = 0; i < n; i++) {
            struct peer *p = ready[i].data.ptr;

            if (p == NULL) {
                accept_peer(listener, poller);
            } else if (!serve_peer(p)) {
                (void)close(p->fd);
                free(p);
            }
        }
    }
}

int
main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    if (strcmp(what, "rabbit") == 0 && argc == 8)
        rabbit(argv[2], (int)strtol(argv[3], NULL, 10), argv[4], strtoull(argv[5], NULL, 10),
               strtoul(argv[6], NULL, 10), strtoull(argv[7], NULL, 10));
    else if (strcmp(what, "consume") == 0 && argc == 6)
        consume(argv[2], (int)strtol(argv[3], NULL, 10), argv[4], strtoull(argv[5], NULL, 10));
    else if (strcmp(what, "nats") == 0 && argc == 7)
        publish_nats(argv[2], argv[3], strtoull(argv[4], NULL, 10), strtoul(argv[5], NULL, 10),
                     strtoll(argv[6], NULL, 10));
    else if (strcmp(what, "kafka") == 0 && argc == 6)
        publish_kafka(argv[2], argv[3], strtoull(argv[4], NULL, 10), strtoul(argv[5], NULL, 10));
    else if (strcmp(what, "http") == 0 && argc == 3)
        serve_http((uint16_t)strtoul(argv[2], NULL, 10));
    else
        check(false, "rabbit, consume, nats, kafka or http; the head of bare.c has the rest:");
    return 0;
}
