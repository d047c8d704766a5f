/*
 * gRPC load: a number of connections, one outstanding append each, one thread.
 *
 *   grpc_load append PORT CONNECTIONS SECONDS BYTES STREAMS
 *   grpc_load batch  PORT CONNECTIONS SECONDS BYTES STREAMS
 *   grpc_load follow PORT 1           0       0     EVENTS
 *
 * append: Streams/Append, a call for each event. batch: Streams/BatchAppend, one call that lasts,
 * each append with an id of its own. Both append one event of BYTES bytes of JSON to a random
 * stream (acct-N) and print appends per second, p50, p99 and the largest in µs, how many and bytes
 * of each request. follow: a subscription to $all from the start until EVENTS have come, each taken
 * apart; prints events per second, microseconds and bytes of an event. Another answer than success
 * ends it with 1.
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
#define DIGITS 7
#define PREFIX 5
#define UUID 36
#define STREAMS "/event_store.client.streams.Streams/"
#define WINDOW (16 << 20)

enum mode { APPEND, BATCH, FOLLOW };

struct conn {
    int              fd;
    nghttp2_session *session;
    int32_t          call; /* the one that is open */
    uint64_t         began;
    bool             asks, ok; /* a request is to be sent; the answer was a success */
    struct buf       out, in;  /* of the call: what is to be sent, what has come */
    size_t           out_at;
};

static enum mode  mode;
static size_t     event_bytes;
static uint64_t   streams, until, events_seen, event_bytes_seen;
static unsigned   open_conns;
static struct buf request, frames; /* all but the numbers stays as it is */
static size_t     number_at, id_at, correlation_at;

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

static ssize_t
read_request(nghttp2_session *session, int32_t id, uint8_t *to, size_t len, uint32_t *flags,
             nghttp2_data_source *source, void *arg)
{
    struct conn *c = arg;
    size_t       left = c->out.len - c->out_at;

    if (left == 0)
        return NGHTTP2_ERR_DEFERRED;
    if (len > left)
        len = left;
    memcpy(to, c->out.data + c->out_at, len);
    c->out_at += len;
    if (len == left && mode != BATCH)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)len;
}

static nghttp2_nv
nv(const char *name, const char *value)
{
    nghttp2_nv pair = {(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
                       strlen(value), NGHTTP2_NV_FLAG_NONE};

    return pair;
}

static void
start_call(struct conn *c)
{
    static const char *const paths[] = {
        [APPEND] = STREAMS "Append", [BATCH] = STREAMS "BatchAppend", [FOLLOW] = STREAMS "Read"};
    nghttp2_nv            head[] = {nv(":method", "POST"),          nv(":scheme", "http"),
                                    nv(":path", paths[mode]),       nv(":authority", "127.0.0.1"),
                                    nv("te", "trailers"),           nv("content-type", "application/grpc"),
                                    nv("user-agent", "oxbow-bench")};
    nghttp2_data_provider body = {.read_callback = read_request};

    c->call =
        nghttp2_submit_request(c->session, NULL, head, sizeof head / sizeof head[0], &body, c);
    must(c->call > 0);
}

/* What is due goes out by one call. */
static void
flush(struct conn *c)
{
    const uint8_t *bytes;
    ssize_t        n;
    size_t         sent = 0;

    buf_clear(&frames);
    while ((n = nghttp2_session_mem_send(c->session, &bytes)) > 0)
        buf_add(&frames, bytes, (size_t)n);
    must(n == 0);
    must(!frames.failed);
    while (sent < frames.len) {
        n = send(c->fd, frames.data + sent, frames.len - sent, MSG_NOSIGNAL);
        if (n <= 0)
            fail("the server closed a connection", (struct slice){0});
        sent += (size_t)n;
    }
}

static void
ask(struct conn *c, uint64_t now)
{
    uint64_t number;

    if (mode != FOLLOW) {
        number = load_random() % streams;
        for (int i = DIGITS - 1; i >= 0; i--, number /= 10)
            request.data[number_at + (size_t)i] = (uint8_t)('0' + number % 10);
        put_uuid(request.data + id_at);
    }
    if (mode == BATCH)
        put_uuid(request.data + correlation_at);
    buf_clear(&c->out);
    buf_add_slice(&c->out, buf_slice(&request));
    c->out_at = 0;
    c->began = now;
    c->ok = c->asks = false;
    if (c->call == 0)
        start_call(c);
    else
        must(nghttp2_session_resume_data(c->session, c->call) == 0);
}

/* Answers. */

static void
answered(struct conn *c)
{
    uint64_t now = load_now_us();

    load_sample(now - c->began);
    if (now < until)
        c->asks = true;
    else
        open_conns--;
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
        open_conns = 0;
}

static void
take_message(struct conn *c, struct slice message)
{
    struct pb_in    in;
    struct pb_field f;
    bool            success = false;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (mode == FOLLOW && f.key == PB_BYTES(1) && open_conns != 0)
            take_event(f.bytes);
        success = success || f.key == PB_BYTES(mode == APPEND ? 1 : 3);
    }
    if (mode == FOLLOW)
        return;
    if (!success)
        fail("refused", message);
    c->ok = true;
    if (mode == BATCH)
        answered(c);
}

static int
on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
        void *arg)
{
    struct conn *c = arg;
    size_t       at = 0;

    buf_add(&c->in, data, len);
    must(!c->in.failed);
    while (c->in.len - at >= PREFIX) {
        const uint8_t *p = c->in.data + at;
        size_t         size = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];

        if (c->in.len - at - PREFIX < size)
            break;
        at += PREFIX + size;
        take_message(c, slice_of(p + PREFIX, size));
    }
    buf_consume(&c->in, at);
    return 0;
}

static int
on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
          size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *arg)
{
    struct slice text = slice_of(value, value_len);

    if ((slice_is(slice_of(name, name_len), "grpc-status") && !slice_is(text, "0")) ||
        (slice_is(slice_of(name, name_len), ":status") && !slice_is(text, "200")))
        fail("refused with status", text);
    return 0;
}

static int
on_close(nghttp2_session *session, int32_t id, uint32_t error, void *arg)
{
    struct conn *c = arg;

    if (mode != APPEND || !c->ok)
        fail("a call ended", (struct slice){0});
    c->call = 0;
    answered(c);
    return 0;
}

static void
join(struct conn *c, int poll, uint16_t port)
{
    static const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW}, {NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
    nghttp2_session_callbacks *callbacks;

    must(nghttp2_session_callbacks_new(&callbacks) == 0);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    must(nghttp2_session_client_new(&c->session, callbacks, c) == 0);
    nghttp2_session_callbacks_del(callbacks);
    must(nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, 2) == 0);
    must(nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, WINDOW) == 0);
    c->fd = load_connect(poll, port, c);
}

static void
pull(struct conn *c)
{
    static uint8_t bytes[256 << 10];
    ssize_t        n = recv(c->fd, bytes, sizeof bytes, 0);

    if (n <= 0)
        fail("the server closed a connection", (struct slice){0});
    if (nghttp2_session_mem_recv(c->session, bytes, (size_t)n) != n)
        fail("against the protocol", (struct slice){0});
    if (c->asks)
        ask(c, load_now_us());
    flush(c);
}

static void
run(int poll)
{
    struct epoll_event ready[64];

    while (open_conns > 0) {
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

    if (argc != 7) {
        (void)fprintf(stderr, "usage: grpc_load append|batch PORT CONNECTIONS SECONDS BYTES "
                              "STREAMS\n       grpc_load follow PORT 1 0 0 EVENTS\n");
        return 2;
    }
    mode = strcmp(argv[1], "append") == 0 ? APPEND : strcmp(argv[1], "batch") == 0 ? BATCH : FOLLOW;
    n = open_conns = (unsigned)strtoul(argv[3], NULL, 10);
    event_bytes = strtoul(argv[5], NULL, 10);
    streams = strtoull(argv[6], NULL, 10);
    must(n > 0 && n <= CONNECTIONS_MAX && streams > 0 && poll >= 0);
    conns = calloc(n, sizeof *conns);
    must(conns != NULL);
    make_request();
    for (unsigned i = 0; i < n; i++)
        join(&conns[i], poll, (uint16_t)strtoul(argv[2], NULL, 10));
    began = load_now_us();
    until = began + strtoull(argv[4], NULL, 10) * 1000000;
    for (unsigned i = 0; i < n; i++) {
        ask(&conns[i], load_now_us());
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
        nghttp2_session_del(conns[i].session);
        buf_fini(&conns[i].in);
        buf_fini(&conns[i].out);
    }
    buf_fini(&request);
    buf_fini(&frames);
    free(conns);
    return 0;
}
