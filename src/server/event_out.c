/*
 * One event as a JSON object on one line, in pieces of any size: an event may
 * be 16 MiB, and what a slow client has not taken yet must not be.
 */
#include "base/base64.h"
#include "base/json.h"
#include "base/rfc3339.h"
#include "server/feed_int.h"

#define LINK_MAX 300          /* bytes of a link's data: a number, an @, a name */
#define HEAD_ROOM 320         /* bytes that the members before the data mostly take */
#define PIECE_MAX (48U << 10) /* a multiple of 3, for base64 */

enum part {
    PART_HEAD,
    PART_DATA,
    PART_MIDDLE,
    PART_META,
    PART_TAIL,
    PART_DONE,
};

void
serveri_event_begin(struct event_out *o, const struct log_event *event)
{
    struct slice raw;

    o->event = *event;
    o->part = PART_HEAD;
    o->at = 0;
    o->data_json = (event->flags & LOG_JSON) != 0 && event->data.len != 0;
    if ((event->flags & LOG_ERASED) != 0) {
        o->event.data = slice_str("null");
        o->data_json = true;
    }
    /* Nothing says what metadata is: JSON where it reads as such. */
    o->meta_json = event->meta.len != 0 && json_value(event->meta, &raw, NULL) == 0;
    if (o->meta_json)
        o->event.meta = raw;
}

/* A link's data is text: "version@stream". */
static bool
is_link(const struct event_out *o)
{
    return (o->event.flags & LOG_LINK) != 0 && o->event.data.len <= LINK_MAX;
}

static void
write_head(const struct event_out *o, struct buf *out)
{
    const struct log_event *e = &o->event;
    char                    id[ID_TEXT_LEN + 1], created[TIME_TEXT_MAX];

    id_format(&e->id, id);
    time_format(e->created_us, created);
    /* The names below have at most 255 bytes each, which rarely grow. */
    (void)buf_reserve(out, HEAD_ROOM);
    buf_add_str(out, "{\"position\":");
    buf_add_u64(out, e->pos.v);
    buf_add_str(out, ",\"stream\":");
    json_put_string(out, e->stream);
    buf_add_str(out, ",\"version\":");
    buf_add_u64(out, e->version);
    buf_add_str(out, ",\"type\":");
    json_put_string(out, e->type);
    buf_add_str(out, ",\"id\":\"");
    buf_add(out, id, ID_TEXT_LEN);
    buf_add_str(out, "\",\"created\":\"");
    buf_add_str(out, created);
    buf_add_byte(out, '"');
    if (e->subject.len > 0) {
        buf_add_str(out, ",\"subject\":");
        json_put_string(out, e->subject);
        buf_add_str(out, (e->flags & LOG_ERASED) != 0 ? ",\"erased\":true" : "");
    }
    buf_add_str(out, o->data_json || is_link(o) ? ",\"data\":" : ",\"data_base64\":\"");
    if (is_link(o))
        json_put_string(out, e->data);
}

static void
write_middle(const struct event_out *o, struct buf *out)
{
    if (!o->data_json && !is_link(o))
        buf_add_byte(out, '"');
    if (o->event.meta.len != 0)
        buf_add_str(out, o->meta_json ? ",\"metadata\":" : ",\"metadata_base64\":\"");
}

static void
write_tail(const struct event_out *o, struct buf *out)
{
    const struct log_link *link = &o->event.link;
    char                   id[ID_TEXT_LEN + 1];

    if (o->event.meta.len != 0 && !o->meta_json)
        buf_add_byte(out, '"');
    if (o->event.dangling)
        buf_add_str(out, ",\"dangling\":true");
    if (link->stream.len != 0) {
        id_format(&link->id, id);
        buf_add_str(out, ",\"link\":{\"stream\":");
        json_put_string(out, link->stream);
        buf_add_str(out, ",\"version\":");
        buf_add_u64(out, link->version);
        buf_add_str(out, ",\"position\":");
        buf_add_u64(out, link->pos.v);
        buf_add_str(out, ",\"id\":\"");
        buf_add(out, id, ID_TEXT_LEN);
        buf_add_str(out, "\"}");
    }
    buf_add_byte(out, '}');
}

/* JSON has line ends between its tokens only, where a space says the same. */
static void
write_json(struct buf *out, struct slice piece)
{
    size_t from = out->len;

    buf_add_slice(out, piece);
    if (out->failed)
        return;
    for (int i = 0; i < 2; i++) {
        uint8_t *p = out->data + from, *end = out->data + out->len;

        while ((p = memchr(p, "\n\r"[i], (size_t)(end - p))) != NULL)
            *p++ = ' ';
    }
}

/* True when all of `bytes` is written. */
static bool
write_piece(struct event_out *o, struct buf *out, struct slice bytes, bool json)
{
    size_t       left = bytes.len - o->at;
    struct slice piece;

    if (left == 0)
        return true;
    piece = slice_of((const uint8_t *)bytes.data + o->at, left < PIECE_MAX ? left : PIECE_MAX);
    if (json)
        write_json(out, piece);
    else
        base64_encode(out, piece);
    o->at += piece.len;
    return piece.len == left;
}

bool
serveri_event_write(struct event_out *o, struct buf *out, size_t room)
{
    size_t from = out->len;

    while (o->part != PART_DONE && out->len - from < room && !out->failed) {
        bool whole = true;

        switch (o->part) {
        case PART_HEAD:
            write_head(o, out);
            break;
        case PART_DATA:
            whole = is_link(o) || write_piece(o, out, o->event.data, o->data_json);
            break;
        case PART_MIDDLE:
            write_middle(o, out);
            break;
        case PART_META:
            whole = write_piece(o, out, o->event.meta, o->meta_json);
            break;
        default:
            write_tail(o, out);
        }
        if (!whole)
            continue;
        o->part++;
        o->at = 0;
    }
    return o->part == PART_DONE;
}
