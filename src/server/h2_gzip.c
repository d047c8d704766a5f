/* Messages that the client has compressed. */
#include <zlib.h>

#include "base/must.h"
#include "server/h2_int.h"

#define GZIP_ONLY (15 + 16) /* zlib: the window's bits, and a gzip head */
#define STEP (64U << 10)

/* False: malformed, or out->failed: more than it may have. */
static bool
inflate_all(z_stream *z, struct buf *out)
{
    int rc = Z_OK;

    while (rc == Z_OK) {
        size_t  room = out->limit - out->len < STEP ? out->limit - out->len : STEP;
        uint8_t spare;

        if (!buf_reserve(out, room))
            return false;
        /* What is full may still be whole: only a byte more says that it is not. */
        z->next_out = room == 0 ? &spare : out->data + out->len;
        z->avail_out = room == 0 ? 1 : (uInt)room;
        rc = inflate(z, Z_NO_FLUSH);
        if (room == 0 && z->avail_out == 0) {
            out->failed = true;
            return false;
        }
        out->len += room == 0 ? 0 : room - z->avail_out;
    }
    return rc == Z_STREAM_END && z->avail_in == 0;
}

bool
h2i_inflate(struct slice in, struct buf *out)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in.data, .avail_in = (uInt)in.len};
    bool     ok;

    must(in.len <= H2_MESSAGE_MAX);
    must(out->limit != 0);
    buf_clear(out);
    if (inflateInit2(&z, GZIP_ONLY) != Z_OK) {
        out->failed = true;
        return false;
    }
    ok = inflate_all(&z, out);
    (void)inflateEnd(&z);
    return ok;
}
