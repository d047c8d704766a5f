/*
 * The log task's caches. Both belong to that one task.
 *
 * heads: stream name → id and next version, as prepared (maybe not durable
 * yet). A name is known by 128 bits of XXH3 with a random secret of this
 * process, so nobody can make two names meet. Bounded: the least used go, and
 * are found again in memory (mem.h) or the index. Two sets of eight may hold a
 * name, so that the cache is nearly full before any has to go.
 *
 * recent: fingerprints of (stream id, event id) of the log's last events, for
 * idempotent appends that expect `any`. A hit is a hint: it is checked in the
 * log.
 */
#ifndef OX_LOG_HEADS_H
#define OX_LOG_HEADS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/slice.h"

struct heads;

struct head {
    uint64_t fp[2];
    uint64_t id;
    uint64_t next; /* version that the next event gets */
    uint64_t truncate;
    uint32_t flags; /* enum index_flags */
};

int  logi_heads_new(struct ox_env *, uint64_t bytes, struct heads **, struct err *);
void logi_heads_free(struct heads *);

/* What a name is known by. Any thread. */
void logi_heads_fp(const struct heads *, struct slice name, uint64_t fp[2]);

/* Hints that this head is wanted soon: first where it may be, some work later the head itself. */
void logi_heads_prefetch_set(const struct heads *, const uint64_t fp[2]);
void logi_heads_prefetch(const struct heads *, const uint64_t fp[2]);
/* … or where a new one will probably be. */
void logi_heads_prefetch_put(const struct heads *, const uint64_t fp[2]);

/* The stream's head, or NULL. Valid until the next heads_put. */
struct head *logi_heads_get(struct heads *, const uint64_t fp[2]);
/* Makes room for the name and returns its head, all zero but fp. */
struct head *logi_heads_put(struct heads *, const uint64_t fp[2]);

/* From now on every stream that there is is put in: there is none yet. */
void logi_heads_begin(struct heads *);
/* Is a stream without a head known not to be? */
bool logi_heads_know(const struct heads *, const uint64_t fp[2]);

struct recent;

int  logi_recent_new(struct ox_env *, uint32_t events, struct recent **, struct err *);
void logi_recent_free(struct recent *);

/* In order of positions; the oldest goes. */
void logi_recent_add(struct recent *, uint64_t stream_id, const uint8_t *event_id, uint64_t pos);
/* A hint: this one will be added or looked for soon. */
void logi_recent_expect(const struct recent *, uint64_t stream_id, const uint8_t *event_id);
/* The newest event with this fingerprint; 0: none. */
uint64_t logi_recent_find(const struct recent *, uint64_t stream_id, const uint8_t *event_id);
uint32_t logi_recent_room(const struct recent *);

#endif
