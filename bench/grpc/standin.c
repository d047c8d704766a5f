/*
 * What a client's appends cost without a store: HTTP/2 and gRPC as the server speaks them, appends
 * answered at once and forgotten. Prints its port; ends by SIGTERM.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/must.h"
#include "base/pb.h"
#include "server/h2.h"

#define OUT_MAX (256u << 10)

struct conn {
    int        fd;
    struct h2 *h2;
    struct buf out;
};

static uint64_t next_version;

/* ServerFeatures: BatchAppend, so that clients use it. */
static void
features(struct rpc *r, struct slice message)
{
    size_t         mark;
    struct buf    *out = rpc_begin(r, &mark);
    struct pb_mark one = pb_begin(out, 1, 0);

    pb_put_str(out, 1, "batchappend");
    pb_put_str(out, 2, "event_store.client.streams.streams");
    pb_end(out, one);
    pb_put_str(out, 2, "26.1.0");
    rpc_commit(r, mark);
    rpc_end(r, RPC_OK, NULL);
}

/* {1 correlation id, 2 options, 3 events, 4 is it all?} */
static void
append(struct rpc *r, struct slice message)
{
    struct pb_in    in;
    struct pb_field f;
    struct slice    id = {0};
    bool            whole = false;
    size_t          mark;
    struct buf     *out;
    struct pb_mark  success, place;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1))
            id = f.bytes;
        whole = whole || (f.key == PB_VARINT(4) && f.value != 0);
    }
    if (!whole)
        return;
    out = rpc_begin(r, &mark);
    pb_put_bytes(out, 1, id);
    success = pb_begin(out, 3, 20);
    pb_put_varint(out, 1, next_version);
    place = pb_begin(out, 3, 16);
    pb_put_varint(out, 1, ++next_version);
    pb_put_varint(out, 2, next_version);
    pb_end(out, place);
    pb_end(out, success);
    rpc_commit(r, mark);
}

static void
end(struct rpc *r)
{
    rpc_end(r, RPC_OK, NULL);
}

static const struct rpc_method methods[] = {
    {.path = "/event_store.client.server_features.ServerFeatures/GetSupportedMethods",
     .message = features},
    {.path = "/event_store.client.streams.Streams/BatchAppend",
     .many = true,
     .message = append,
     .half_closed = end},
};

static const struct rpc_method *
find(void *arg, struct slice path)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (slice_is(path, methods[i].path))
            return &methods[i];
    return NULL;
}

static uint64_t
now_ms(void *arg)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void
dirty(void *arg)
{
}

static bool
room(void *arg)
{
    return true;
}

static void
begin(int listener, int poll)
{
    struct h2_host     host = {.find = find,
                               .now_ms = now_ms,
                               .dirty = dirty,
                               .room = room,
                               .body_ms_max = 30000,
                               .idle_ms_max = 300000};
    struct conn       *c = calloc(1, sizeof *c);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    int                one = 1;

    must(c != NULL);
    c->fd = accept(listener, NULL, NULL);
    must(c->fd >= 0);
    c->h2 = h2_new(&host);
    must(c->h2 != NULL);
    must(setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    must(epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &ev) == 0);
}

static void
serve(struct conn *c)
{
    static uint8_t bytes[64 << 10];
    ssize_t        n = recv(c->fd, bytes, sizeof bytes, 0);
    int            one = 1;
    size_t         sent = 0;
    bool           goes_on = n > 0 && h2_input(c->h2, slice_of(bytes, (size_t)n));

    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
    buf_clear(&c->out);
    goes_on = h2_output(c->h2, &c->out, OUT_MAX) && goes_on;
    while (goes_on && sent < c->out.len) {
        n = send(c->fd, c->out.data + sent, c->out.len - sent, MSG_NOSIGNAL);
        goes_on = n > 0;
        sent += goes_on ? (size_t)n : 0;
    }
    if (goes_on)
        return;
    (void)close(c->fd);
    h2_free(c->h2);
    buf_fini(&c->out);
    free(c);
}

int
main(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t          len = sizeof at;
    struct epoll_event ready[64], ev = {.events = EPOLLIN};
    int                poll = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM, 0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(poll >= 0 && listener >= 0);
    must(bind(listener, (struct sockaddr *)&at, sizeof at) == 0);
    must(listen(listener, 64) == 0);
    must(getsockname(listener, (struct sockaddr *)&at, &len) == 0);
    must(epoll_ctl(poll, EPOLL_CTL_ADD, listener, &ev) == 0);
    (void)printf("%u\n", ntohs(at.sin_port));
    (void)fflush(stdout);
    for (;;) {
        int n = epoll_wait(poll, ready, 64, -1);

        for (int i = 0; i < n; i++) {
            if (ready[i].data.ptr == NULL)
                begin(listener, poll);
            else
                serve(ready[i].data.ptr);
        }
    }
}
