/* Event ids: 16 bytes, written as a UUID (8-4-4-4-12 lower-case hex). */
#ifndef OX_BASE_ID_H
#define OX_BASE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/env.h"
#include "base/slice.h"

struct ox_id {
    uint8_t b[16];
};

#define ID_TEXT_LEN 36

/* A new UUIDv7 (RFC 9562 part 5.7): 48 bits of ms, then random. */
struct ox_id id_new(struct ox_env *env);

/*
 * The same from 10 bytes of the caller's randomness and a time in µs: for those who make a
 * million a second and keep a generator of their own.
 */
struct ox_id id_v7(int64_t us, uint64_t random_a, uint64_t random_b);

/* A UUIDv8 (custom) from a hash of the bytes: the same bytes give the same id. */
struct ox_id id_of_bytes(struct slice bytes);

/* Accepts upper and lower case, exactly 36 characters. */
bool id_parse(struct slice text, struct ox_id *out);

/* Writes 36 characters and a NUL. */
void id_format(const struct ox_id *id, char out[ID_TEXT_LEN + 1]);

bool id_is_zero(const struct ox_id *id);
bool id_eq(const struct ox_id *a, const struct ox_id *b);

#endif
