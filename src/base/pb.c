#include "base/pb.h"

#define VARINT_MAX 10

void
pb_in_init(struct pb_in *in, struct slice message)
{
    static const uint8_t nothing;

    in->at = message.data == NULL ? &nothing : message.data;
    in->end = in->at + message.len;
    in->bad = false;
}

static bool
take_varint(struct pb_in *in, uint64_t *out)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < VARINT_MAX && in->at < in->end; i++) {
        uint8_t b = *in->at++;

        v |= (uint64_t)(b & 0x7f) << (7 * i);
        if (b < 0x80) {
            *out = v;
            return i < VARINT_MAX - 1 || b <= 1;
        }
    }
    return false;
}

static bool
take_fixed(struct pb_in *in, unsigned size, uint64_t *out)
{
    *out = 0;
    if ((size_t)(in->end - in->at) < size)
        return false;
    for (unsigned i = 0; i < size; i++)
        *out |= (uint64_t)*in->at++ << (8 * i);
    return true;
}

static bool
take_bytes(struct pb_in *in, struct slice *out)
{
    uint64_t len;

    if (!take_varint(in, &len) || len > (uint64_t)(in->end - in->at))
        return false;
    *out = slice_of(in->at, (size_t)len);
    in->at += len;
    return true;
}

static bool
take_field(struct pb_in *in, struct pb_field *out)
{
    uint64_t key;

    out->value = 0;
    out->bytes = slice_of(in->at, 0);
    if (!take_varint(in, &key) || key > UINT32_MAX || key >> 3 == 0)
        return false;
    out->key = (uint32_t)key;
    switch (key & 7) {
    case PB_WIRE_VARINT:
        return take_varint(in, &out->value);
    case PB_WIRE_FIXED64:
        return take_fixed(in, 8, &out->value);
    case PB_WIRE_BYTES:
        return take_bytes(in, &out->bytes);
    case PB_WIRE_FIXED32:
        return take_fixed(in, 4, &out->value);
    default:
        return false;
    }
}

/* Nearly all fields: key and length, or key and number, of a byte each. */
static bool
take_short(struct pb_in *in, struct pb_field *out)
{
    const uint8_t *p = in->at;
    size_t         left = (size_t)(in->end - p);

    if (left < 2 || p[0] >= 0x80 || p[0] < 8 || p[1] >= 0x80)
        return false;
    out->key = p[0];
    if ((p[0] & 7) == PB_WIRE_BYTES && p[1] <= left - 2) {
        out->value = 0;
        out->bytes = slice_of(p + 2, p[1]);
        in->at = p + 2 + p[1];
        return true;
    }
    if ((p[0] & 7) != PB_WIRE_VARINT)
        return false;
    out->value = p[1];
    out->bytes = slice_of(p, 0);
    in->at = p + 2;
    return true;
}

bool
pb_next(struct pb_in *in, struct pb_field *out)
{
    if (in->bad || in->at == in->end)
        return false;
    if (take_short(in, out))
        return true;
    in->bad = !take_field(in, out);
    return !in->bad;
}

int64_t
pb_signed(uint64_t value)
{
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

uint64_t
pb_zigzag(int64_t value)
{
    return (uint64_t)value << 1 ^ (value < 0 ? UINT64_MAX : 0);
}

/* Writing. */

static unsigned
varint_encode(uint64_t value, uint8_t out[VARINT_MAX])
{
    unsigned n = 0;

    for (; value >= 0x80; value >>= 7)
        out[n++] = (uint8_t)(value | 0x80);
    out[n++] = (uint8_t)value;
    return n;
}

static void
add_varint(struct buf *out, uint64_t value)
{
    uint8_t bytes[VARINT_MAX];

    buf_add(out, bytes, varint_encode(value, bytes));
}

void
pb_put_varint(struct buf *out, uint32_t number, uint64_t value)
{
    add_varint(out, PB_VARINT(number));
    add_varint(out, value);
}

void
pb_put_signed(struct buf *out, uint32_t number, int64_t value)
{
    pb_put_varint(out, number, pb_zigzag(value));
}

void
pb_put_bytes(struct buf *out, uint32_t number, struct slice bytes)
{
    add_varint(out, PB_BYTES(number));
    add_varint(out, bytes.len);
    buf_add_slice(out, bytes);
}

void
pb_put_str(struct buf *out, uint32_t number, const char *text)
{
    pb_put_bytes(out, number, slice_str(text));
}

void
pb_put_empty(struct buf *out, uint32_t number)
{
    pb_put_bytes(out, number, slice_of(NULL, 0));
}

static void
add_fixed(struct buf *out, uint64_t bits, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        buf_add_byte(out, (uint8_t)(bits >> (8 * i)));
}

void
pb_put_float(struct buf *out, uint32_t number, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    add_varint(out, PB_FIXED32(number));
    add_fixed(out, bits, sizeof bits);
}

void
pb_put_double(struct buf *out, uint32_t number, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    add_varint(out, PB_FIXED64(number));
    add_fixed(out, bits, sizeof bits);
}

struct pb_mark
pb_begin(struct buf *out, uint32_t number, size_t about)
{
    static const uint8_t zeros[VARINT_MAX];
    uint8_t              bytes[VARINT_MAX];
    struct pb_mark       mark;

    add_varint(out, PB_BYTES(number));
    mark.at = out->len;
    mark.room = varint_encode(about, bytes);
    buf_add(out, zeros, mark.room);
    return mark;
}

void
pb_end(struct buf *out, struct pb_mark mark)
{
    uint8_t  bytes[VARINT_MAX];
    size_t   from = mark.at + mark.room, len;
    unsigned n;

    if (out->failed)
        return;
    len = out->len - from;
    n = varint_encode(len, bytes);
    if (n > mark.room && !buf_reserve(out, n - mark.room))
        return;
    if (n != mark.room) {
        memmove(out->data + mark.at + n, out->data + from, len);
        out->len = mark.at + n + len;
    }
    memcpy(out->data + mark.at, bytes, n);
}
