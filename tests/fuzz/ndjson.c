/* Lines are the same however the stream is cut. The first two bytes: piece size and line limit. */
#include "base/ndjson.h"

#include "base/must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
split(struct slice input, size_t step, size_t line_max, struct buf *out)
{
    const uint8_t *p = input.data;
    struct ndjson  n;
    struct slice   line;
    uint64_t       number;
    int            rc = E_END;

    ndjson_init(&n, line_max);
    for (size_t at = 0; rc == E_END; at += step) {
        if (at >= input.len)
            ndjson_finish(&n);
        else
            ndjson_feed(&n, slice_of(p + at, step < input.len - at ? step : input.len - at));
        while ((rc = ndjson_next(&n, &line, &number, NULL)) == 0) {
            must(line.len <= line_max);
            buf_add_u64(out, number);
            buf_add_byte(out, ':');
            buf_add_slice(out, line);
            buf_add_byte(out, '\n');
        }
        if (at >= input.len)
            break;
    }
    ndjson_fini(&n);
    return rc;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf   whole = {0}, pieces = {0};
    struct slice input;
    size_t       step, line_max;

    if (size < 2)
        return 0;
    step = (size_t)data[0] + 1;
    line_max = data[1];
    input = slice_of(data + 2, size - 2);
    must(split(input, input.len + 1, line_max, &whole) == split(input, step, line_max, &pieces));
    must(slice_eq(buf_slice(&whole), buf_slice(&pieces)));
    buf_fini(&whole);
    buf_fini(&pieces);
    return 0;
}
