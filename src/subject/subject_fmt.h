/*
 * The bytes of the keystore's file (docs/format.md): a header and records of 512
 * bytes each, so that one lies in one sector.
 */
#ifndef OX_SUBJECT_SUBJECT_FMT_H
#define OX_SUBJECT_SUBJECT_FMT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/id.h"

#define KEYS_RECORD 512u
#define KEYS_VERSION 1u
#define KEYS_MAGIC "OXBOWKEY"
#define KEYS_WRAPPED 1u
#define KEYS_MAGIC_RECORD 0x524b584fu /* "OXKR" */

enum keys_kind {
    KEYS_KEY = 1,    /* a subject's key */
    KEYS_ERASED = 2, /* the key with this id was shredded */
    KEYS_WIPED = 3,  /* what was a KEYS_KEY */
};

/* Header: magic 8, CRC 4, version 4, flags 4, zero 4, store id 16, check: nonce 12, sealed 16, tag
 * 16 */
struct keys_head {
    uint32_t       version, flags;
    struct ox_id   id;
    const uint8_t *nonce, *check, *tag;
};

static inline void
keys_head_put(uint8_t p[KEYS_RECORD], const struct keys_head *h)
{
    memset(p, 0, KEYS_RECORD);
    memcpy(p, KEYS_MAGIC, 8);
    put_u32(p + 12, h->version);
    put_u32(p + 16, h->flags);
    memcpy(p + 24, h->id.b, 16);
    if (h->nonce != NULL) {
        memcpy(p + 40, h->nonce, 12);
        memcpy(p + 52, h->check, 16);
        memcpy(p + 68, h->tag, 16);
    }
    put_u32(p + 8, crc32c(0, p + 12, KEYS_RECORD - 12));
}

static inline bool
keys_head_get(const uint8_t p[KEYS_RECORD], struct keys_head *h)
{
    if (memcmp(p, KEYS_MAGIC, 8) != 0 || get_u32(p + 8) != crc32c(0, p + 12, KEYS_RECORD - 12))
        return false;
    h->version = get_u32(p + 12);
    h->flags = get_u32(p + 16);
    memcpy(h->id.b, p + 24, 16);
    h->nonce = p + 40;
    h->check = p + 52;
    h->tag = p + 68;
    return true;
}

struct keys_record {
    uint32_t     kind;
    struct ox_id id;
    int64_t      time_us;
    uint64_t     of; /* KEYS_ERASED: the number of the record that has the key */
    uint8_t      nonce[12], key[32], tag[16];
    uint8_t      name_len;
    char         name[255];
};

/* `store` and the record's number are in the checksum: a record counts in its place only. */
static inline uint32_t
keys_crc(const uint8_t p[KEYS_RECORD], const struct ox_id *store, uint64_t number)
{
    uint8_t place[8];

    put_u64(place, number);
    return crc32c(crc32c(crc32c(0, store->b, 16), place, 8), p + 8, KEYS_RECORD - 8);
}

static inline void
keys_record_put(uint8_t p[KEYS_RECORD], const struct keys_record *r, const struct ox_id *store,
                uint64_t number)
{
    memset(p, 0, KEYS_RECORD);
    put_u32(p, KEYS_MAGIC_RECORD);
    put_u32(p + 8, r->kind);
    p[12] = r->name_len;
    memcpy(p + 16, r->id.b, 16);
    put_u64(p + 32, (uint64_t)r->time_us);
    put_u64(p + 40, r->of);
    memcpy(p + 48, r->nonce, 12);
    memcpy(p + 60, r->key, 32);
    memcpy(p + 92, r->tag, 16);
    memcpy(p + 128, r->name, r->name_len);
    put_u32(p + 4, keys_crc(p, store, number));
}

static inline bool
keys_record_get(const uint8_t p[KEYS_RECORD], const struct ox_id *store, uint64_t number,
                struct keys_record *r)
{
    if (get_u32(p) != KEYS_MAGIC_RECORD || get_u32(p + 4) != keys_crc(p, store, number))
        return false;
    r->kind = get_u32(p + 8);
    r->name_len = p[12];
    memcpy(r->id.b, p + 16, 16);
    r->time_us = (int64_t)get_u64(p + 32);
    r->of = get_u64(p + 40);
    memcpy(r->nonce, p + 48, 12);
    memcpy(r->key, p + 60, 32);
    memcpy(r->tag, p + 92, 16);
    memcpy(r->name, p + 128, r->name_len);
    return true;
}

static_assert(128 + 255 <= KEYS_RECORD, "the longest name fits");

#endif
