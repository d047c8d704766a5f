/* Ids, names and positions on the wire. */
#include "base/kdb.h"

static void
put_be64(uint8_t *out, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++)
        out[i] = (uint8_t)(v >> (56 - 8 * i));
}

static uint64_t
get_be64(const uint8_t *p)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return v;
}

bool
kdb_read_uuid(struct slice message, struct ox_id *out)
{
    struct pb_in    in, halves;
    struct pb_field f, half;
    bool            ok = false;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_BYTES(2))
            ok = id_parse(f.bytes, out);
        if (f.key != PB_BYTES(1))
            continue;
        memset(out, 0, sizeof *out);
        pb_in_init(&halves, f.bytes);
        while (pb_next(&halves, &half)) {
            if (half.key == PB_VARINT(1))
                put_be64(out->b, half.value);
            else if (half.key == PB_VARINT(2))
                put_be64(out->b + 8, half.value);
        }
        ok = !halves.bad;
    }
    return ok && !in.bad;
}

void
kdb_put_uuid(struct buf *out, uint32_t number, const struct ox_id *id, bool as_text)
{
    struct pb_mark mark = pb_begin(out, number, 0), within;
    char           text[ID_TEXT_LEN + 1];

    if (as_text) {
        id_format(id, text);
        pb_put_str(out, 2, text);
    } else {
        within = pb_begin(out, 1, 0);
        pb_put_varint(out, 1, get_be64(id->b));
        pb_put_varint(out, 2, get_be64(id->b + 8));
        pb_end(out, within);
    }
    pb_end(out, mark);
}

bool
kdb_read_name(struct slice message, struct slice *out)
{
    struct pb_in    in;
    struct pb_field f;

    *out = (struct slice){0};
    pb_in_init(&in, message);
    while (pb_next(&in, &f))
        if (f.key == PB_BYTES(3))
            *out = f.bytes;
    return !in.bad;
}

void
kdb_put_name(struct buf *out, uint32_t number, struct slice name)
{
    struct pb_mark mark = pb_begin(out, number, name.len + 2);

    pb_put_bytes(out, 3, name);
    pb_end(out, mark);
}

bool
kdb_read_position(struct slice message, uint64_t *commit, uint64_t *prepare)
{
    struct pb_in    in;
    struct pb_field f;

    *commit = *prepare = 0;
    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_VARINT(1))
            *commit = f.value;
        else if (f.key == PB_VARINT(2))
            *prepare = f.value;
    }
    return !in.bad;
}

void
kdb_put_position(struct buf *out, uint32_t number, uint64_t pos)
{
    struct pb_mark mark = pb_begin(out, number, 0);

    pb_put_varint(out, 1, pos);
    pb_put_varint(out, 2, pos);
    pb_end(out, mark);
}
