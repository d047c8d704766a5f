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

static int
hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool
id_parse(struct slice text, struct ox_id *out)
{
    const char *p = text.data;
    size_t      n = 0;

    if (text.len != ID_TEXT_LEN)
        return false;
    for (size_t i = 0; i < ID_TEXT_LEN;) {
        int hi, lo;

        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (p[i] != '-')
                return false;
            i++;
            continue;
        }
        hi = hex_value(p[i]);
        lo = hex_value(p[i + 1]);
        if (hi < 0 || lo < 0)
            return false;
        out->b[n++] = (uint8_t)(hi << 4 | lo);
        i += 2;
    }
    return true;
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
