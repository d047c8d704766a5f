/*
 * Protocol Buffers as bytes, never as trees: one pass over a message's fields, whose texts stay
 * where they lie; and writing into a buffer. Nothing here allocates but into the caller's buffer.
 *
 * Whoever reads switches on a field's key, number and wire type together: a known number with
 * another wire type is skipped like an unknown field. Groups, which nothing writes any more, and
 * field number 0 make a message bad.
 */
#ifndef OX_BASE_PB_H
#define OX_BASE_PB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"

enum pb_wire {
    PB_WIRE_VARINT = 0,
    PB_WIRE_FIXED64 = 1,
    PB_WIRE_BYTES = 2,
    PB_WIRE_FIXED32 = 5,
};

#define PB_VARINT(number) ((uint32_t)(number) << 3 | PB_WIRE_VARINT)
#define PB_FIXED64(number) ((uint32_t)(number) << 3 | PB_WIRE_FIXED64)
#define PB_FIXED32(number) ((uint32_t)(number) << 3 | PB_WIRE_FIXED32)
#define PB_BYTES(number) ((uint32_t)(number) << 3 | PB_WIRE_BYTES)

struct pb_in {
    const uint8_t *at, *end;
    bool           bad; /* the message is none: cut off, or against the rules above */
};

struct pb_field {
    uint32_t     key;   /* PB_VARINT(n), PB_BYTES(n), … */
    uint64_t     value; /* of numbers */
    struct slice bytes; /* of texts and messages; never NULL */
};

void pb_in_init(struct pb_in *in, struct slice message);

/* False: there is no more, or in->bad. */
bool pb_next(struct pb_in *in, struct pb_field *out);

/* Zig-zag (sint64). */
int64_t  pb_signed(uint64_t value);
uint64_t pb_zigzag(int64_t value);

/* Written always, also a zero: in a oneof it says which. */
void pb_put_varint(struct buf *out, uint32_t number, uint64_t value);
void pb_put_signed(struct buf *out, uint32_t number, int64_t value);
void pb_put_bytes(struct buf *out, uint32_t number, struct slice bytes);
void pb_put_str(struct buf *out, uint32_t number, const char *text);
void pb_put_empty(struct buf *out, uint32_t number);
void pb_put_float(struct buf *out, uint32_t number, float value);
void pb_put_double(struct buf *out, uint32_t number, double value);

/*
 * A message within: whatever is written between the two. `about` is how long it will be, as far as
 * is known; when its length takes as many bytes as that one's, nothing is moved.
 */
struct pb_mark {
    size_t   at; /* of the length */
    unsigned room;
};
struct pb_mark pb_begin(struct buf *out, uint32_t number, size_t about);
void           pb_end(struct buf *out, struct pb_mark mark);

#endif
