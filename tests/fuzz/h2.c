/*
 * An HTTP/2 connection from outside, with methods that answer each message with itself. Whatever
 * arrives, and however it is cut into pieces: every call that began ends once, and nothing of a
 * connection stays.
 *
 * The first byte says how long the pieces are and whether the preface and a call come first.
 */
#include <stdlib.h>

#include "base/must.h"
#include "server/h2.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int      open_calls;
static uint64_t clock_ms;

static void
echo(struct rpc *r, struct slice message)
{
    size_t      mark;
    struct buf *out;

    if (rpc_state(r) == NULL) {
        rpc_set_state(r, &open_calls);
        open_calls++;
    }
    out = rpc_begin(r, &mark);
    buf_add_slice(out, message);
    rpc_commit(r, mark);
    if (message.len == 1)
        rpc_pause(r);
    if (message.len == 2)
        rpc_end(r, RPC_ABORTED, "\xff% \n");
}

static void
end(struct rpc *r)
{
    rpc_trailer(r, "exception", slice_str("\x01%"));
    rpc_end(r, RPC_OK, NULL);
}

static void
resume(struct rpc *r)
{
    rpc_resume_soon(r);
}

static void
gone(struct rpc *r)
{
    open_calls -= rpc_state(r) != NULL;
}

static const struct rpc_method methods[] = {
    {.path = "/1", .message = echo, .half_closed = end, .drained = resume, .gone = gone},
    {.path = "/m",
     .many = true,
     .message = echo,
     .half_closed = end,
     .drained = resume,
     .drain = end,
     .gone = gone},
};

static const struct rpc_method *
find(void *arg, struct slice path)
{
    for (int i = 0; i < 2; i++)
        if (slice_is(path, methods[i].path))
            return &methods[i];
    return NULL;
}

static uint64_t
now_ms(void *arg)
{
    return clock_ms += 10;
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

/* SETTINGS, then POST /m as application/grpc on stream 1, all in HPACK's literals. */
static const char hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                            "\0\0\0\4\0\0\0\0\0"
                            "\0\0\x19\1\4\0\0\0\1"
                            "\x83\x86\4\2/m\x0f\x10\x10"
                            "application/grpc";

static bool
feed(struct h2 *h2, const uint8_t *data, size_t size, size_t piece)
{
    struct buf out = {0};
    bool       more = true;

    while (more && size != 0) {
        size_t n = piece < size ? piece : size;

        more = h2_input(h2, slice_of(data, n));
        more = h2_output(h2, &out, 1 << 16) && more;
        buf_clear(&out);
        data += n;
        size -= n;
    }
    buf_fini(&out);
    return more;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct h2_host host = {.find = find,
                           .now_ms = now_ms,
                           .dirty = dirty,
                           .room = room,
                           .body_ms_max = 3000,
                           .idle_ms_max = 3000};
    struct h2     *h2 = h2_new(&host);
    size_t         piece;

    must(h2 != NULL);
    if (size == 0)
        goto out;
    piece = (data[0] & 0x7f) == 0 ? size : data[0] & 0x7f;
    if ((data[0] & 0x80) == 0)
        (void)feed(h2, (const uint8_t *)hello, sizeof hello - 1, sizeof hello);
    (void)feed(h2, data + 1, size - 1, piece);
    (void)h2_tick(h2);
    if ((data[0] & 1) != 0)
        h2_drain(h2);
    (void)feed(h2, data + 1, size - 1, piece);
    (void)h2_is_done(h2);
out:
    h2_free(h2);
    must(open_calls == 0);
    return 0;
}
