/*
 * gRPC load: a number of connections, one outstanding append each, or for each of the clients that
 * share one; one thread.
 *
 *   grpc_load append PORT CONNECTIONS SECONDS BYTES STREAMS
 *   grpc_load batch  PORT CONNECTIONS SECONDS BYTES STREAMS [CLIENTS-OF-EACH]
 *   grpc_load follow PORT 1           0       0     EVENTS
 *
 * append: Streams/Append, a call for each event. batch: Streams/BatchAppend, one call that lasts,
 * each append with an id of its own. Both append one event of BYTES bytes of JSON to a random
 * stream (acct-N) and print appends per second, p50, p99 and the largest in µs, how many and bytes
 * of each request. follow: a subscription to $all from the start until EVENTS have come, each taken
 * apart; prints events per second, microseconds and bytes of an event. Another answer than success
 * ends it with 1.
 *
 * HTTP/2 is spoken by hand, as far as this needs it, so that the measured server and not its client
 * has the machine: requests are frames that were made once, headers are compressed (nghttp2's
 * HPACK), answers are taken apart frame by frame. What it does not expect ends it.
 */
#include <inttypes.h>
#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "../load.h"
#include "base/must.h"
#include "base/pb.h"

#define CONNECTIONS_MAX 1024
#define CLIENTS_MAX 64u /* of a connection */
#define DIGITS 7
#define PREFIX 5
#define UUID 36
#define STREAMS "/event_store.client.streams.Streams/"
#define HEAD 9 /* bytes of a frame's */
#define WINDOW_MAX 0x7fffffff
#define GIVE_BACK (1 << 20) /* bytes that came: the far side may send so many more */
#define FRAME_MAX 16384     /* bytes of a frame's payload */

enum frame { F_DATA, F_HEADERS, F_RESET = 3, F_SETTINGS, F_PING = 6, F_GOAWAY, F_WINDOW };
#define END_STREAM 1
#define END_HEADERS 4
#define ACK 1

enum mode { APPEND, BATCH, FOLLOW };

struct conn {
    int                  fd;
    nghttp2_hd_inflater *inflater;
    uint32_t             call;         /* the one that is open; 0: none */
    uint32_t             calls;        /* that were begun */
    int64_t              window;       /* bytes that may be sent, over all calls ... */
    int64_t              call_window;  /* ... and of this one */
    int64_t              first_window; /* of each call */
    bool                 greeted;      /* the far side's settings are here */
    uint64_t             began[CLIENTS_MAX];
    uint64_t             asks;  /* a bit for each client whose request is to be sent */
    bool                 ok;    /* the answer was a success */
    struct buf           in;    /* frames that have come */
    struct buf           body;  /* of the answer: a message that is not whole */
    size_t               taken; /* bytes that were not given back to the far side's window */
};

static enum mode  mode;
static size_t     event_bytes;
static uint64_t   streams, until, events_seen, event_bytes_seen;
static unsigned   open_clients, clients = 1;
static struct buf request, frames; /* all but the numbers stays as it is */
static struct buf first_head,
    head; /* compressed: of a connection's first call, and of each other */
static size_t number_at, id_at, correlation_at;

static void
fail(const char *what, struct slice text)
{
    (void)fprintf(stderr, "grpc_load: %s: %.*s\n", what, SLICE_FMT(text));
    exit(1);
}

/* The request. */

static void
put_uuid(uint8_t *at)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t          a = load_random(), b = load_random();

    for (int i = 0; i < UUID; i++) {
        if (at[i] == '-')
            continue;
        at[i] = (uint8_t)digits[a & 15];
        a = a >> 4 | b << 60;
        b >>= 4;
    }
}

/* Where its prefix is. */
static size_t
begin_message(void)
{
    static const uint8_t zeros[PREFIX];
    size_t               prefix = request.len;

    buf_add(&request, zeros, PREFIX);
    return prefix;
}

static void
end_message(size_t prefix)
{
    size_t len = request.len - prefix - PREFIX;

    for (int i = 0; i < 4; i++)
        request.data[prefix + 1 + (size_t)i] = (uint8_t)(len >> (24 - 8 * i));
}

/* Where the text is in what was written last. */
static size_t
find(const char *text)
{
    const uint8_t *at = NULL, *p = request.data;

    while ((p = memmem(p, (size_t)(request.data + request.len - p), text, strlen(text))) != NULL)
        at = p++;
    must(at != NULL);
    return (size_t)(at - request.data);
}

#define NO_ID "00000000-0000-0000-0000-000000000000"

static void
put_options(uint32_t number)
{
    struct pb_mark options = pb_begin(&request, number, 0), name = pb_begin(&request, 1, 0);

    pb_put_str(&request, 3, "acct-0000000");
    pb_end(&request, name);
    pb_put_empty(&request, 4); /* any version */
    pb_end(&request, options);
}

static void
put_pair(const char *key, const char *value)
{
    struct pb_mark pair = pb_begin(&request, 2, 0);

    pb_put_str(&request, 1, key);
    pb_put_str(&request, 2, value);
    pb_end(&request, pair);
}

static void
put_id(uint32_t number)
{
    struct pb_mark id = pb_begin(&request, number, 0);

    pb_put_str(&request, 2, NO_ID);
    pb_end(&request, id);
}

static void
put_proposed(uint32_t number)
{
    struct pb_mark proposed = pb_begin(&request, number, 0);
    struct buf     data = {0};

    put_id(1);
    put_pair("type", "Deposited");
    put_pair("content-type", "application/json");
    buf_add_byte(&data, '"');
    while (data.len + 1 < event_bytes)
        buf_add_byte(&data, (uint8_t)('a' + load_random() % 26));
    buf_add_byte(&data, '"');
    pb_put_bytes(&request, 4, buf_slice(&data));
    pb_end(&request, proposed);
    buf_fini(&data);
}

static void
make_request(void)
{
    size_t prefix = begin_message();

    if (mode == APPEND) {
        put_options(1);
        end_message(prefix);
        prefix = begin_message();
        put_proposed(2);
    } else if (mode == BATCH) {
        put_id(1);
        correlation_at = find(NO_ID);
        put_options(2);
        put_proposed(3);
        pb_put_varint(&request, 4, 1);
    } else {
        struct pb_mark options = pb_begin(&request, 1, 0), within = pb_begin(&request, 2, 0);

        pb_put_empty(&request, 2); /* from the start */
        pb_end(&request, within);
        pb_put_empty(&request, 6);
        pb_put_empty(&request, 8);
        within = pb_begin(&request, 9, 0);
        pb_put_empty(&request, 1);
        pb_end(&request, within);
        pb_end(&request, options);
    }
    end_message(prefix);
    must(!request.failed);
    if (mode == FOLLOW)
        return;
    id_at = find(NO_ID);
    number_at = find("acct-0000000") + 5;
}

/* Sending. */

static void
put_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

static uint32_t
get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void
put_frame(enum frame type, uint8_t flags, uint32_t call, struct slice payload)
{
    uint8_t h[HEAD] = {(uint8_t)(payload.len >> 16), (uint8_t)(payload.len >> 8),
                       (uint8_t)payload.len, (uint8_t)type, flags};

    must(payload.len <= FRAME_MAX);
    put_u32(h + 5, call);
    buf_add(&frames, h, HEAD);
    buf_add_slice(&frames, payload);
}

static void
put_window(uint32_t call, uint32_t more)
{
    uint8_t bytes[4];

    put_u32(bytes, more);
    put_frame(F_WINDOW, 0, call, slice_of(bytes, sizeof bytes));
}

static nghttp2_nv
nv(const char *name, const char *value)
{
    nghttp2_nv pair = {(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
                       strlen(value), NGHTTP2_NV_FLAG_NONE};

    return pair;
}

/* The second time all of it stands in the table of the far side, and stays there. */
static void
make_heads(void)
{
    static const char *const paths[] = {
        [APPEND] = STREAMS "Append", [BATCH] = STREAMS "BatchAppend", [FOLLOW] = STREAMS "Read"};
    nghttp2_nv           pairs[] = {nv(":method", "POST"),          nv(":scheme", "http"),
                                    nv(":path", paths[mode]),       nv(":authority", "127.0.0.1"),
                                    nv("te", "trailers"),           nv("content-type", "application/grpc"),
                                    nv("user-agent", "oxbow-bench")};
    nghttp2_hd_deflater *deflater;
    struct buf          *to[] = {&first_head, &head};
    uint8_t              bytes[512];

    must(nghttp2_hd_deflate_new(&deflater, 4096) == 0);
    for (int i = 0; i < 2; i++) {
        ssize_t n = nghttp2_hd_deflate_hd(deflater, bytes, sizeof bytes, pairs,
                                          sizeof pairs / sizeof pairs[0]);

        must(n > 0);
        buf_add(to[i], bytes, (size_t)n);
    }
    nghttp2_hd_deflate_del(deflater);
}

/* What is due goes out by one call. */
static void
flush(struct conn *c)
{
    size_t sent = 0;

    must(!frames.failed);
    while (sent < frames.len) {
        ssize_t n = send(c->fd, frames.data + sent, frames.len - sent, MSG_NOSIGNAL);

        if (n <= 0)
            fail("the server closed a connection", (struct slice){0});
        sent += (size_t)n;
    }
    buf_clear(&frames);
}

static void
put_request(struct conn *c)
{
    uint8_t end = mode == BATCH ? 0 : END_STREAM;

    if (c->call == 0) {
        c->call = 2 * c->calls++ + 1;
        must(c->call < WINDOW_MAX);
        c->call_window = c->first_window;
        put_frame(F_HEADERS, END_HEADERS, c->call, buf_slice(c->calls == 1 ? &first_head : &head));
    }
    c->window -= (int64_t)request.len;
    c->call_window -= (int64_t)request.len;
    if (c->window < 0 || c->call_window < 0)
        fail("the server takes too little at once", (struct slice){0});
    for (size_t at = 0, n; at < request.len; at += n) {
        n = request.len - at < FRAME_MAX ? request.len - at : FRAME_MAX;
        put_frame(F_DATA, at + n == request.len ? end : 0, c->call, slice_of(request.data + at, n));
    }
}

static void
ask(struct conn *c, unsigned client, uint64_t now)
{
    uint64_t number;

    if (mode != FOLLOW) {
        number = load_random() % streams;
        for (int i = DIGITS - 1; i >= 0; i--, number /= 10)
            request.data[number_at + (size_t)i] = (uint8_t)('0' + number % 10);
        put_uuid(request.data + id_at);
    }
    if (mode == BATCH) { /* it says whose it is */
        put_uuid(request.data + correlation_at);
        request.data[correlation_at] = (uint8_t)('0' + client / 8);
        request.data[correlation_at + 1] = (uint8_t)('0' + client % 8);
    }
    c->began[client] = now;
    c->ok = false;
    c->asks &= ~(UINT64_C(1) << client);
    put_request(c);
}

/* Answers. */

/* Of BatchAppend. */
static unsigned
whose(struct slice correlation)
{
    struct pb_in    in;
    struct pb_field f;
    unsigned        client = CLIENTS_MAX;

    pb_in_init(&in, correlation);
    while (pb_next(&in, &f))
        if (f.key == PB_BYTES(2) && f.bytes.len == UUID)
            client = (unsigned)((((const uint8_t *)f.bytes.data)[0] - '0') * 8 +
                                ((const uint8_t *)f.bytes.data)[1] - '0');
    must(client < clients);
    return client;
}

static void
answered(struct conn *c, unsigned client)
{
    uint64_t now = load_now_us();

    must(client < CLIENTS_MAX);
    load_sample(now - c->began[client]);
    if (now < until)
        c->asks |= UINT64_C(1) << client;
    else
        open_clients--;
}

/* ReadEvent: taken apart as a client would. */
static void
take_event(struct slice message)
{
    struct pb_in    in, event;
    struct pb_field f, g;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key != PB_BYTES(1))
            continue;
        pb_in_init(&event, f.bytes);
        while (pb_next(&event, &g))
            if (g.key == PB_BYTES(8))
                event_bytes_seen += g.bytes.len;
        must(!event.bad);
    }
    must(!in.bad);
    if (++events_seen == streams)
        open_clients = 0;
}

static void
take_message(struct conn *c, struct slice message)
{
    struct pb_in    in;
    struct pb_field f;
    bool            success = false;
    unsigned        client = 0;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (mode == BATCH && f.key == PB_BYTES(1))
            client = whose(f.bytes);
        if (mode == FOLLOW && f.key == PB_BYTES(1) && open_clients != 0)
            take_event(f.bytes);
        success = success || f.key == PB_BYTES(mode == APPEND ? 1 : 3);
    }
    if (mode == FOLLOW)
        return;
    if (!success)
        fail("refused", message);
    c->ok = true;
    if (mode == BATCH)
        answered(c, client);
}

/* Messages: usually one, in one frame. */
static void
take_data(struct conn *c, struct slice data)
{
    struct slice all = data;
    size_t       at = 0;

    if (c->body.len != 0) {
        buf_add_slice(&c->body, data);
        must(!c->body.failed);
        all = buf_slice(&c->body);
    }
    while (all.len - at >= PREFIX) {
        const uint8_t *p = (const uint8_t *)all.data + at;
        size_t         size = get_u32(p + 1);

        if (all.len - at - PREFIX < size)
            break;
        at += PREFIX + size;
        take_message(c, slice_of(p + PREFIX, size));
    }
    if (c->body.len != 0)
        buf_consume(&c->body, at);
    else
        buf_add(&c->body, (const uint8_t *)data.data + at, data.len - at);
    c->taken += data.len;
    if (c->taken < GIVE_BACK)
        return;
    put_window(0, (uint32_t)c->taken);
    if (mode != APPEND)
        put_window(c->call, (uint32_t)c->taken);
    c->taken = 0;
}

static void
take_headers(struct conn *c, struct slice block)
{
    const uint8_t *p = block.data, *end = p + block.len;
    int            flags = 0;
    nghttp2_nv     pair;

    while ((flags & NGHTTP2_HD_INFLATE_FINAL) == 0) {
        ssize_t n = nghttp2_hd_inflate_hd2(c->inflater, &pair, &flags, p, (size_t)(end - p), 1);

        must(n >= 0);
        p += n;
        if ((flags & NGHTTP2_HD_INFLATE_EMIT) == 0)
            continue;
        if ((slice_is(slice_of(pair.name, pair.namelen), "grpc-status") &&
             !slice_is(slice_of(pair.value, pair.valuelen), "0")) ||
            (slice_is(slice_of(pair.name, pair.namelen), ":status") &&
             !slice_is(slice_of(pair.value, pair.valuelen), "200")))
            fail("refused with status", slice_of(pair.value, pair.valuelen));
    }
    (void)nghttp2_hd_inflate_end_headers(c->inflater);
}

static void
take_settings(struct conn *c, struct slice payload)
{
    const uint8_t *p = payload.data;

    for (size_t at = 0; at + 6 <= payload.len; at += 6) {
        int64_t before = c->first_window;

        if (p[at] != 0 || p[at + 1] != NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE)
            continue;
        c->first_window = get_u32(p + at + 2);
        c->call_window += c->first_window - before;
    }
    c->greeted = true;
    put_frame(F_SETTINGS, ACK, 0, (struct slice){0});
}

static void
take_frame(struct conn *c, const uint8_t *h, struct slice payload)
{
    uint32_t call = get_u32(h + 5);
    bool     ends = h[3] <= F_HEADERS && (h[4] & END_STREAM) != 0;

    switch (h[3]) {
    case F_DATA:
        must((h[4] & ~END_STREAM) == 0);
        take_data(c, payload);
        break;
    case F_HEADERS:
        must((h[4] & ~END_STREAM) == END_HEADERS);
        take_headers(c, payload);
        break;
    case F_SETTINGS:
        if ((h[4] & ACK) == 0)
            take_settings(c, payload);
        break;
    case F_PING:
        if ((h[4] & ACK) == 0)
            put_frame(F_PING, ACK, 0, payload);
        break;
    case F_WINDOW:
        must(payload.len == 4);
        if (call == 0)
            c->window += get_u32(payload.data);
        else if (call == c->call)
            c->call_window += get_u32(payload.data);
        break;
    default:
        fail("a frame that ends a call or the connection", (struct slice){0});
    }
    if (!ends)
        return;
    if (mode != APPEND || !c->ok)
        fail("a call ended", (struct slice){0});
    c->call = 0;
    answered(c, 0);
}

static void
pull(struct conn *c)
{
    static uint8_t bytes[256 << 10];
    struct slice   all;
    size_t         at = 0;
    ssize_t        n = recv(c->fd, bytes, sizeof bytes, 0);

    if (n <= 0)
        fail("the server closed a connection", (struct slice){0});
    all = slice_of(bytes, (size_t)n);
    if (c->in.len != 0) {
        buf_add_slice(&c->in, all);
        must(!c->in.failed);
        all = buf_slice(&c->in);
    }
    while (all.len - at >= HEAD) {
        const uint8_t *h = (const uint8_t *)all.data + at;
        size_t         size = (size_t)h[0] << 16 | (size_t)h[1] << 8 | h[2];

        if (all.len - at - HEAD < size)
            break;
        at += HEAD + size;
        take_frame(c, h, slice_of(h + HEAD, size));
    }
    if (c->in.len != 0)
        buf_consume(&c->in, at);
    else
        buf_add(&c->in, (const uint8_t *)all.data + at, all.len - at);
    while (c->asks != 0)
        ask(c, (unsigned)__builtin_ctzll(c->asks), load_now_us());
    flush(c);
}

/* Connects, and reads until the far side has said how much it takes. */
static void
join(struct conn *c, int poll, uint16_t port)
{
    static const uint8_t settings[] = {
        0, NGHTTP2_SETTINGS_ENABLE_PUSH,         0,    0,    0,    0,
        0, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0x7f, 0xff, 0xff, 0xff};

    must(nghttp2_hd_inflate_new(&c->inflater) == 0);
    c->window = c->call_window = c->first_window = NGHTTP2_INITIAL_WINDOW_SIZE;
    c->fd = load_connect(poll, port, c);
    buf_add(&frames, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
    put_frame(F_SETTINGS, 0, 0, slice_of(settings, sizeof settings));
    put_window(0, WINDOW_MAX - NGHTTP2_INITIAL_WINDOW_SIZE);
    flush(c);
    while (!c->greeted)
        pull(c);
}

static void
run(int poll)
{
    struct epoll_event ready[64];

    while (open_clients > 0) {
        int n = epoll_wait(poll, ready, 64, 10000);

        must(n > 0);
        for (int i = 0; i < n; i++)
            pull(ready[i].data.ptr);
    }
}

int
main(int argc, char **argv)
{
    struct conn *conns;
    unsigned     n;
    uint64_t     began, us;
    int          poll = epoll_create1(0);

    if (argc != 7 && argc != 8) {
        (void)fprintf(stderr,
                      "usage: grpc_load append|batch PORT CONNECTIONS SECONDS BYTES "
                      "STREAMS [CLIENTS-OF-EACH]\n       grpc_load follow PORT 1 0 0 EVENTS\n");
        return 2;
    }
    mode = strcmp(argv[1], "append") == 0 ? APPEND : strcmp(argv[1], "batch") == 0 ? BATCH : FOLLOW;
    n = (unsigned)strtoul(argv[3], NULL, 10);
    if (argc == 8)
        clients = (unsigned)strtoul(argv[7], NULL, 10);
    must(clients > 0 && clients <= (mode == BATCH ? CLIENTS_MAX : 1));
    open_clients = n * clients;
    event_bytes = strtoul(argv[5], NULL, 10);
    streams = strtoull(argv[6], NULL, 10);
    must(n > 0 && n <= CONNECTIONS_MAX && streams > 0 && poll >= 0);
    conns = calloc(n, sizeof *conns);
    must(conns != NULL);
    make_request();
    make_heads();
    for (unsigned i = 0; i < n; i++)
        join(&conns[i], poll, (uint16_t)strtoul(argv[2], NULL, 10));
    began = load_now_us();
    until = began + strtoull(argv[4], NULL, 10) * 1000000;
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < clients; k++)
            ask(&conns[i], k, load_now_us());
        flush(&conns[i]);
    }
    run(poll);
    us = load_now_us() - began;
    if (mode == FOLLOW)
        printf("%.0f %" PRIu64 " %.0f\n", (double)events_seen * 1e6 / (double)us, us,
               (double)event_bytes_seen / (double)events_seen);
    else
        load_report(us, (double)request.len);
    for (unsigned i = 0; i < n; i++) {
        nghttp2_hd_inflate_del(conns[i].inflater);
        buf_fini(&conns[i].in);
        buf_fini(&conns[i].body);
    }
    buf_fini(&request);
    buf_fini(&frames);
    buf_fini(&first_head);
    buf_fini(&head);
    free(conns);
    return 0;
}
