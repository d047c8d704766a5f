/*
 * The bytes of the log (docs/format.md), reached only by these functions.
 */
#ifndef OX_LOG_LOG_FMT_H
#define OX_LOG_LOG_FMT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/id.h"

#define FMT_VERSION 1u
#define FMT_FIRST_POS UINT64_C(4096)

/* segment header */

#define SEG_HEADER 4096u
#define SEG_HEADER_CRC_END 128u
#define SEG_MAGIC "OXBOWSEG"
#define SEG_PLAIN 0u
#define SEG_SCAVENGED 1u

/* The offset table behind a scavenged segment's frames, and its checksum. */
#define SEG_TABLE_ENTRY 16u
#define SEG_TABLE_END 8u

struct seg_head {
    uint32_t     version, kind;
    struct ox_id log_id;
    uint64_t     first, span, segment_bytes;
    int64_t      created_us;
    uint32_t     generation; /* these three: scavenged only, else 0 */
    uint64_t     table_at, table_count;
};

static inline void
fmt_seg_put(uint8_t *p, const struct seg_head *h)
{
    memset(p, 0, SEG_HEADER);
    memcpy(p, SEG_MAGIC, 8);
    put_u32(p + 12, h->version);
    memcpy(p + 16, h->log_id.b, 16);
    put_u64(p + 32, h->first);
    put_u64(p + 40, h->span);
    put_u64(p + 48, h->segment_bytes);
    put_u64(p + 56, (uint64_t)h->created_us);
    put_u32(p + 64, h->kind);
    put_u32(p + 68, h->generation);
    put_u64(p + 72, h->table_at);
    put_u64(p + 80, h->table_count);
    put_u32(p + 8, crc32c(0, p + 12, SEG_HEADER_CRC_END - 12));
}

/* False: not a whole header. A header of another version is whole. */
static inline bool
fmt_seg_get(const uint8_t *p, struct seg_head *h)
{
    if (memcmp(p, SEG_MAGIC, 8) != 0)
        return false;
    if (get_u32(p + 8) != crc32c(0, p + 12, SEG_HEADER_CRC_END - 12))
        return false;
    h->version = get_u32(p + 12);
    memcpy(h->log_id.b, p + 16, 16);
    h->first = get_u64(p + 32);
    h->span = get_u64(p + 40);
    h->segment_bytes = get_u64(p + 48);
    h->created_us = (int64_t)get_u64(p + 56);
    h->kind = get_u32(p + 64);
    h->generation = get_u32(p + 68);
    h->table_at = get_u64(p + 72);
    h->table_count = get_u64(p + 80);
    return true;
}

/* frames */

#define FRAME_HEADER 64u
#define FRAME_TRAILER 8u
#define FRAME_MIN (FRAME_HEADER + FRAME_TRAILER)
#define FRAME_MAGIC 0x5246584fu     /* "OXFR" */
#define FRAME_END_MAGIC 0x4546584fu /* "OXFE" */

enum frame_flags {
    FRAME_FIRST = 1,
    FRAME_LAST = 2,
    FRAME_QUIET = 4,
    FRAME_PAD = 8,
    FRAME_STAGE = 16,
};

struct frame_head {
    uint64_t pos, commit, durable;
    int64_t  time_us;
    uint32_t length, records, flags, number;
};

/* What every checksum starts with: ties frames and records to their log. */
static inline uint32_t
fmt_seed(const struct ox_id *log_id)
{
    return crc32c(0, log_id->b, sizeof log_id->b);
}

/* Writes header and trailer; the records are in place. */
static inline void
fmt_frame_put(uint8_t *p, const struct frame_head *h, uint32_t seed)
{
    put_u32(p, FRAME_MAGIC);
    put_u64(p + 8, h->pos);
    put_u64(p + 16, h->commit);
    put_u64(p + 24, h->durable);
    put_u64(p + 32, (uint64_t)h->time_us);
    put_u32(p + 40, h->length);
    put_u32(p + 44, h->records);
    put_u32(p + 48, h->flags);
    put_u32(p + 52, h->number);
    put_u64(p + 56, 0);
    put_u32(p + 4, crc32c(seed, p + 8, FRAME_HEADER - 8));
    put_u32(p + h->length - 8, h->length);
    put_u32(p + h->length - 4, FRAME_END_MAGIC);
}

static inline bool
fmt_frame_magic(const uint8_t *p)
{
    return get_u32(p) == FRAME_MAGIC;
}

/* False: not a whole header. The length is not held against anything yet. */
static inline bool
fmt_frame_get(const uint8_t *p, uint32_t seed, struct frame_head *h)
{
    if (!fmt_frame_magic(p) || get_u32(p + 4) != crc32c(seed, p + 8, FRAME_HEADER - 8))
        return false;
    h->pos = get_u64(p + 8);
    h->commit = get_u64(p + 16);
    h->durable = get_u64(p + 24);
    h->time_us = (int64_t)get_u64(p + 32);
    h->length = get_u32(p + 40);
    h->records = get_u32(p + 44);
    h->flags = get_u32(p + 48);
    h->number = get_u32(p + 52);
    return h->length >= FRAME_MIN && h->length % 8 == 0;
}

/* The length that stands at the end of a frame which ends at p; 0: none. */
static inline uint32_t
fmt_frame_length_before(const uint8_t *end)
{
    return get_u32(end - 4) == FRAME_END_MAGIC ? get_u32(end - 8) : 0;
}

/* records */

#define RECORD_HEADER 72u
#define RECORD_TRAILER 8u
#define RECORD_MIN (RECORD_HEADER + RECORD_TRAILER)
#define RECORD_TEXT_MAX 255u /* bytes of its stream's name, or of its type */

enum record_kind {
    RECORD_EVENT = 1,
    RECORD_CONT = 2,
    RECORD_STATE = 3,
    RECORD_STUB = 4,
    RECORD_STAGE = 5,
    RECORD_SUBJECT = 6,
};

enum record_flags {
    RECORD_JSON = 1,
    RECORD_LINK = 2,
    RECORD_NEW_STREAM = 4,
    RECORD_CONTINUED = 8,
    RECORD_ENCRYPTED = 16,
};

struct record {
    uint32_t       length;
    uint8_t        kind, flags;
    uint16_t       name_len, type_len;
    uint64_t       pos, stream_id, version;
    const uint8_t *id; /* 16 bytes */
    int64_t        created_us;
    uint32_t       meta_len, data_len; /* of all fragments */
    uint32_t       frame_off;
    const uint8_t *body;     /* name, type, then payload */
    uint32_t       body_len; /* padding included */
};

/* Everything but the body, which the caller writes at p + RECORD_HEADER before fmt_record_seal. */
static inline void
fmt_record_put(uint8_t *p, const struct record *r)
{
    put_u32(p, r->length);
    p[4] = r->kind;
    p[5] = r->flags;
    put_u16(p + 6, r->name_len);
    put_u64(p + 8, r->pos);
    put_u64(p + 16, r->stream_id);
    put_u64(p + 24, r->version);
    memcpy(p + 32, r->id, 16);
    put_u64(p + 48, (uint64_t)r->created_us);
    put_u16(p + 56, r->type_len);
    put_u16(p + 58, 0);
    put_u32(p + 60, r->meta_len);
    put_u32(p + 64, r->data_len);
    put_u32(p + 68, r->frame_off);
}

static inline void
fmt_record_seal(uint8_t *p, uint32_t length, uint32_t seed)
{
    put_u32(p + length - 8, crc32c(seed, p, length - 8));
    put_u32(p + length - 4, length);
}

/*
 * Reads the record at p, of which `room` bytes may be touched. False: not a
 * whole record. `check` false leaves the checksum out (it was verified before).
 */
static inline bool
fmt_record_get(const uint8_t *p, uint64_t room, uint32_t seed, bool check, struct record *r)
{
    uint32_t names;

    if (room < RECORD_MIN)
        return false;
    r->length = get_u32(p);
    if (r->length < RECORD_MIN || r->length > room || r->length % 8 != 0)
        return false;
    if (get_u32(p + r->length - 4) != r->length)
        return false;
#ifndef OX_BUG_NO_CRC
    if (check && get_u32(p + r->length - 8) != crc32c(seed, p, r->length - 8))
        return false;
#endif
    r->kind = p[4];
    r->flags = p[5];
    r->name_len = get_u16(p + 6);
    r->pos = get_u64(p + 8);
    r->stream_id = get_u64(p + 16);
    r->version = get_u64(p + 24);
    r->id = p + 32;
    r->created_us = (int64_t)get_u64(p + 48);
    r->type_len = get_u16(p + 56);
    r->meta_len = get_u32(p + 60);
    r->data_len = get_u32(p + 64);
    r->frame_off = get_u32(p + 68);
    r->body = p + RECORD_HEADER;
    r->body_len = r->length - RECORD_MIN;
    names = (uint32_t)r->name_len + r->type_len;
    if (r->name_len > RECORD_TEXT_MAX || r->type_len > RECORD_TEXT_MAX || names > r->body_len)
        return false;
    /* Only what goes on in other frames may be longer than the record. */
    return r->kind == RECORD_CONT || (r->flags & RECORD_CONTINUED) != 0 ||
           (uint64_t)r->meta_len + r->data_len <= r->body_len - names;
}

#define LINK_TYPE "$>"

/* a state record's data */

#define STATE_BYTES 32u
#define STATE_BYTES_MIN 16u

struct state_data {
    uint64_t truncate, max_count;
    int64_t  max_age_us;
    uint32_t flags, moved;
};

static inline void
fmt_state_put(uint8_t p[STATE_BYTES], const struct state_data *s)
{
    put_u64(p, s->truncate);
    put_u32(p + 8, s->flags);
    put_u32(p + 12, s->moved);
    put_u64(p + 16, s->max_count);
    put_u64(p + 24, (uint64_t)s->max_age_us);
}

/* 1 + the version of the event that says where the stream went, as the record of `next` has it. */
static inline uint64_t
fmt_state_moved(const struct state_data *s, uint64_t next)
{
    return s->moved == 0 || s->moved > next ? 0 : next - s->moved + 1;
}

/* What goes into a record of `next`. */
static inline uint32_t
fmt_state_moved_put(uint64_t moved, uint64_t next)
{
    return moved == 0 || moved > next || next - moved >= UINT32_MAX ? 0
                                                                    : (uint32_t)(next - moved + 1);
}

/* False: too short to be one. */
static inline bool
fmt_state_get(const uint8_t *p, uint32_t len, struct state_data *s)
{
    if (len < STATE_BYTES_MIN)
        return false;
    memset(s, 0, sizeof *s);
    s->truncate = get_u64(p);
    s->flags = get_u32(p + 8);
    s->moved = get_u32(p + 12);
    if (len >= STATE_BYTES) {
        s->max_count = get_u64(p + 16);
        s->max_age_us = (int64_t)get_u64(p + 24);
    }
    return s->max_age_us >= 0;
}

static_assert(RECORD_HEADER % 8 == 0 && FRAME_HEADER % 8 == 0, "records begin at multiples of 8");

#endif
