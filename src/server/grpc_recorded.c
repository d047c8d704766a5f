/*
 * RecordedEvent: an event on the wire, a million times in a catch-up. Its small fields are put
 * together where their room is known, and go into the answer at once.
 */
#include <assert.h>

#include "base/must.h"
#include "server/grpc_int.h"

/* Key and length of a text, and the text; of a number. */
#define TEXT_MAX(bytes) (12 + (bytes))
#define NUMBER_MAX 11
#define TICKS_MAX 21
#define HEAD_MAX                                                                                   \
    (TEXT_MAX(TEXT_MAX(ID_TEXT_LEN)) + TEXT_MAX(TEXT_MAX(LOG_NAME_MAX)) + 3 * NUMBER_MAX +         \
     TEXT_MAX(TEXT_MAX(4) + TEXT_MAX(LOG_TYPE_MAX)) +                                              \
     TEXT_MAX(TEXT_MAX(7) + TEXT_MAX(TICKS_MAX)) + TEXT_MAX(TEXT_MAX(12) + TEXT_MAX(24)) +         \
     TEXT_MAX(0))

static uint8_t *
put_varint(uint8_t *p, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        *p++ = (uint8_t)(value | 0x80);
    *p++ = (uint8_t)value;
    return p;
}

static uint8_t *
put_number(uint8_t *p, uint32_t number, uint64_t value)
{
    return put_varint(put_varint(p, PB_VARINT(number)), value);
}

static uint8_t *
put_text(uint8_t *p, uint32_t number, const void *text, size_t len)
{
    p = put_varint(put_varint(p, PB_BYTES(number)), len);
    if (len != 0)
        memcpy(p, text, len);
    return p + len;
}

/* A message of one text. */
static uint8_t *
put_in_message(uint8_t *p, uint32_t number, uint32_t inner, const void *text, size_t len)
{
    uint8_t  within[TEXT_MAX(LOG_NAME_MAX)];
    uint8_t *end = put_text(within, inner, text, len);

    return put_text(p, number, within, (size_t)(end - within));
}

/* Of the map: the key is shorter than 128 bytes. */
static uint8_t *
put_pair(uint8_t *p, const char *key, size_t key_len, const void *value, size_t len)
{
    uint8_t  within[TEXT_MAX(12) + TEXT_MAX(LOG_TYPE_MAX)];
    uint8_t *end = put_text(put_text(within, 1, key, key_len), 2, value, len);

    return put_text(p, 6, within, (size_t)(end - within));
}

static uint8_t *
put_uuid(uint8_t *p, const struct ox_id *id, bool as_text)
{
    char     text[ID_TEXT_LEN + 1];
    uint8_t  within[2 * NUMBER_MAX], *end = within;
    uint64_t half[2] = {0, 0};

    if (as_text) {
        id_format(id, text);
        return put_in_message(p, 1, 2, text, ID_TEXT_LEN);
    }
    for (unsigned i = 0; i < 16; i++)
        half[i / 8] = half[i / 8] << 8 | id->b[i];
    end = put_number(put_number(end, 1, half[0]), 2, half[1]);
    return put_in_message(p, 1, 1, within, (size_t)(end - within));
}

/* Ticks of 100 ns. */
static uint8_t *
put_created(uint8_t *p, int64_t us)
{
    uint64_t ticks = us < 0 ? (0 - (uint64_t)us) * 10 : (uint64_t)us * 10;
    char     text[TICKS_MAX];
    size_t   at = sizeof text;

    do {
        text[--at] = (char)('0' + ticks % 10);
        ticks /= 10;
    } while (ticks != 0 && at > 1);
    if (us < 0)
        text[--at] = '-';
    return put_pair(p, "created", 7, text + at, sizeof text - at);
}

static unsigned
varint_len(uint64_t value)
{
    unsigned n = 1;

    for (; value >= 0x80; value >>= 7)
        n++;
    return n;
}

void
grpci_put_recorded(struct buf *out, uint32_t number, const struct grpc_recorded *e, bool text_id)
{
    static const char json[] = "application/json", bytes[] = "application/octet-stream";
    uint8_t           head[HEAD_MAX], key[TEXT_MAX(0)], *p = head, *k;
    size_t            len;

    must(e->stream.len <= LOG_NAME_MAX);
    must(e->type.len <= LOG_TYPE_MAX);
    p = put_uuid(p, &e->id, text_id);
    p = put_in_message(p, 2, 3, e->stream.data, e->stream.len);
    p = put_number(p, 3, e->revision);
    p = put_number(p, 4, e->pos);
    p = put_number(p, 5, e->pos);
    p = put_pair(p, "type", 4, e->type.data, e->type.len);
    p = put_created(p, e->created_us);
    p = put_pair(p, "content-type", 12, e->json ? json : bytes,
                 e->json ? sizeof json - 1 : sizeof bytes - 1);
    p = put_varint(put_varint(p, PB_BYTES(7)), e->meta.len);
    must((size_t)(p - head) <= sizeof head);
    len = (size_t)(p - head) + e->meta.len + 1 + varint_len(e->data.len) + e->data.len;
    k = put_varint(put_varint(key, PB_BYTES(number)), len);
    if (!buf_reserve(out, (size_t)(k - key) + len))
        return;
    buf_add(out, key, (size_t)(k - key));
    buf_add(out, head, (size_t)(p - head));
    buf_add_slice(out, e->meta);
    pb_put_bytes(out, 8, e->data);
}
