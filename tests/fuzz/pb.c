/*
 * Messages of Protocol Buffers from outside. Every field lies inside its message; what is written
 * again from the fields reads as the same fields.
 */
#include "base/pb.h"
#include "base/must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
write_again(struct buf *out, const struct pb_field *f)
{
    uint32_t number = f->key >> 3;

    switch (f->key & 7) {
    case PB_WIRE_VARINT:
        pb_put_varint(out, number, f->value);
        break;
    case PB_WIRE_BYTES: {
        struct pb_mark mark = pb_begin(out, number, f->bytes.len / 2);

        buf_add_slice(out, f->bytes);
        pb_end(out, mark);
        break;
    }
    default:
        break;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf      again = {0};
    struct pb_in    in, second;
    struct pb_field f, g;

    pb_in_init(&in, slice_of(data, size));
    while (pb_next(&in, &f)) {
        must(f.key >> 3 != 0);
        if ((f.key & 7) == PB_WIRE_BYTES) {
            must((const uint8_t *)f.bytes.data >= data);
            must((const uint8_t *)f.bytes.data + f.bytes.len <= data + size);
        }
        must(pb_signed(pb_zigzag((int64_t)f.value)) == (int64_t)f.value);
        write_again(&again, &f);
    }
    must(in.bad || in.at == in.end);
    must(!again.failed);
    pb_in_init(&in, slice_of(data, size));
    pb_in_init(&second, buf_slice(&again));
    while (pb_next(&in, &f)) {
        if ((f.key & 7) != PB_WIRE_VARINT && (f.key & 7) != PB_WIRE_BYTES)
            continue;
        must(pb_next(&second, &g));
        must(g.key == f.key);
        must(g.value == f.value);
        must(slice_eq(g.bytes, f.bytes));
    }
    must(!pb_next(&second, &g));
    must(!second.bad);
    buf_fini(&again);
    return 0;
}
