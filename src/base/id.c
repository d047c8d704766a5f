#include "base/id.h"

#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"

static void
stamp(struct ox_id *id, uint8_t version)
{
    id->b[6] = (uint8_t)((id->b[6] & 0x0f) | (version << 4));
    id->b[8] = (uint8_t)((id->b[8] & 0x3f) | 0x80);
}

struct ox_id
id_v7(int64_t us, uint64_t random_a, uint64_t random_b)
{
    struct ox_id id;

    put_u64be(id.b, (uint64_t)us / 1000 << 16 | (random_a & 0xffff));
    put_u64be(id.b + 8, random_b);
    stamp(&id, 7);
    return id;
}

struct ox_id
id_new(struct ox_env *env)
{
    uint64_t random[2];

    env->ops->random(env, random, sizeof random);
    return id_v7(env->ops->wall_us(env), random[0], random[1]);
}

struct ox_id
id_of_bytes(struct slice bytes)
{
    struct ox_id       id;
    XXH128_hash_t      hash = XXH3_128bits(bytes.data, bytes.len);
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, hash);
    memcpy(id.b, canonical.digest, sizeof id.b);
    stamp(&id, 8);
    return id;
}

/* Digits, one more than they are worth; 0: none. */
static const uint8_t hex_plus_1[256] = {
    ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
    ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
};

bool
id_parse(struct slice text, struct ox_id *out)
{
    /* Where each byte's two digits stand. */
    static const uint8_t at[16] = {0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34};
    const uint8_t       *p = text.data;
    struct ox_id         id;
    bool                 ok = true;

    if (text.len != ID_TEXT_LEN || p[8] != '-' || p[13] != '-' || p[18] != '-' || p[23] != '-')
        return false;
    for (size_t i = 0; i < 16; i++) {
        unsigned hi = hex_plus_1[p[at[i]]], lo = hex_plus_1[p[at[i] + 1]];

        ok = ok && hi != 0 && lo != 0;
        id.b[i] = (uint8_t)((hi - 1) << 4 | ((lo - 1) & 15));
    }
    if (ok)
        *out = id;
    return ok;
}

void
id_format(const struct ox_id *id, char out[ID_TEXT_LEN + 1])
{
    static const char digits[] = "0123456789abcdef";
    size_t            at = 0;

    for (size_t i = 0; i < sizeof id->b; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            out[at++] = '-';
        out[at++] = digits[id->b[i] >> 4];
        out[at++] = digits[id->b[i] & 15];
    }
    out[at] = '\0';
}

bool
id_is_zero(const struct ox_id *id)
{
    static const struct ox_id zero;
    return memcmp(id, &zero, sizeof zero) == 0;
}

bool
id_eq(const struct ox_id *a, const struct ox_id *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}
