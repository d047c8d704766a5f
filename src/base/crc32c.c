#include "base/crc32c.h"

#include "base/bytes.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#include <wmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

/* Reflected polynomial 0x1EDC6F41. Slicing by 8; the tables are made at first use. */
#define POLY 0x82f63b78u

static uint32_t table[8][256];

__attribute__((constructor)) static void
make_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = (c & 1) != 0 ? (c >> 1) ^ POLY : c >> 1;
        table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            table[t][i] = (table[t - 1][i] >> 8) ^ table[0][table[t - 1][i] & 0xff];
}

uint32_t
crc32c_portable(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *p = data;

    crc = ~crc;
    for (; len >= 8; len -= 8, p += 8) {
        uint32_t lo = get_u32(p) ^ crc, hi = get_u32(p + 4);
        crc = table[7][lo & 0xff] ^ table[6][(lo >> 8) & 0xff] ^ table[5][(lo >> 16) & 0xff] ^
              table[4][lo >> 24] ^ table[3][hi & 0xff] ^ table[2][(hi >> 8) & 0xff] ^
              table[1][(hi >> 16) & 0xff] ^ table[0][hi >> 24];
    }
    for (; len > 0; len--, p++)
        crc = (crc >> 8) ^ table[0][(crc ^ *p) & 0xff];
    return ~crc;
}

#if defined(__x86_64__)

/*
 * The instruction takes one word a cycle but answers after three, so a long input is three lanes of
 * the same length, side by side. Their registers are put together by carry-less multiplication:
 * to pass a register over k words of zeros is to multiply it by x^(64 k). Multiplying two reflected
 * numbers gains x^1, and taking the product in by the instruction x^32: hence x^(64 k - 33).
 */
#define LANE_WORDS 128u /* at most; 3 KiB in all three */
#define LANE_WORDS_MIN 4u

static uint32_t over[2 * LANE_WORDS + 1]; /* [k]: x^(64 k - 33) mod P, reflected; 0 is not used */

__attribute__((constructor)) static void
make_over(void)
{
    uint32_t c = UINT32_C(1) << 31; /* x^0 */

    for (uint32_t power = 1; power <= 2 * LANE_WORDS * 64 - 33; power++) {
        c = (c & 1) != 0 ? (c >> 1) ^ POLY : c >> 1;
        if ((power + 33) % 64 == 0)
            over[(power + 33) / 64] = c;
    }
}

__attribute__((target("sse4.2,pclmul"))) static uint64_t
pass_over(uint64_t c, uint32_t words)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)c),
                                           _mm_cvtsi32_si128((int)over[words]), 0);

    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

__attribute__((target("sse4.2,pclmul"))) static uint32_t
by_instruction(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t c = (uint32_t)~crc;

    while (len >= (size_t)LANE_WORDS_MIN * 24) {
        uint32_t       words = len / 24 < LANE_WORDS ? (uint32_t)(len / 24) : LANE_WORDS;
        const uint8_t *second = p + (size_t)words * 8, *third = second + (size_t)words * 8;
        uint64_t       c2 = 0, c3 = 0;

        for (size_t i = 0; i < (size_t)words * 8; i += 8) {
            c = _mm_crc32_u64(c, get_u64(p + i));
            c2 = _mm_crc32_u64(c2, get_u64(second + i));
            c3 = _mm_crc32_u64(c3, get_u64(third + i));
        }
        c = pass_over(c, 2 * words) ^ pass_over(c2, words) ^ c3;
        p += (size_t)words * 24;
        len -= (size_t)words * 24;
    }
    for (; len >= 8; len -= 8, p += 8)
        c = _mm_crc32_u64(c, get_u64(p));
    for (; len > 0; len--, p++)
        c = _mm_crc32_u8((uint32_t)c, *p);
    return ~(uint32_t)c;
}

static int has_instruction;

__attribute__((constructor)) static void
probe(void)
{
    __builtin_cpu_init();
    has_instruction =
        __builtin_cpu_supports("sse4.2") != 0 && __builtin_cpu_supports("pclmul") != 0;
}

#elif defined(__aarch64__)

__attribute__((target("+crc"))) static uint32_t
by_instruction(uint32_t crc, const uint8_t *p, size_t len)
{
    uint32_t c = ~crc;

    for (; len >= 8; len -= 8, p += 8)
        c = __crc32cd(c, get_u64(p));
    for (; len > 0; len--, p++)
        c = __crc32cb(c, *p);
    return ~c;
}

static int has_instruction;

__attribute__((constructor)) static void
probe(void)
{
    has_instruction = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}

#endif

uint32_t
crc32c(uint32_t crc, const void *data, size_t len)
{
#if defined(__x86_64__) || defined(__aarch64__)
    if (has_instruction)
        return by_instruction(crc, data, len);
#endif
    return crc32c_portable(crc, data, len);
}
