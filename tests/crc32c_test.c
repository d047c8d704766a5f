/* CRC-32C: known values, and the instruction held against the portable one at every length. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/crc32c.h"

#define BYTES 20000u

static uint8_t bytes[BYTES];

static int
set_up(void **state)
{
    uint64_t random = 88172645463325252u;

    (void)state;
    for (uint32_t i = 0; i < BYTES; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        bytes[i] = (uint8_t)random;
    }
    return 0;
}

/* RFC 3720, appendix B.4, and the usual check value. */
static void
test_known(void **state)
{
    uint8_t zeros[32] = {0}, ones[32], rising[32];

    (void)state;
    for (uint8_t i = 0; i < 32; i++) {
        ones[i] = 0xff;
        rising[i] = i;
    }
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(0, zeros, 32), 0x8a9136aa);
    assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43);
    assert_int_equal(crc32c(0, rising, 32), 0x46dd794e);
    assert_int_equal(crc32c_portable(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c_portable(0, zeros, 32), 0x8a9136aa);
    assert_int_equal(crc32c(7, zeros, 0), 7);
}

static void
test_same_as_portable(void **state)
{
    (void)state;
    for (size_t len = 0; len < BYTES - 8; len += len < 700 ? 1 : 101)
        for (size_t off = 0; off < 8; off += 3)
            assert_int_equal(crc32c((uint32_t)len, bytes + off, len),
                             crc32c_portable((uint32_t)len, bytes + off, len));
}

/* In two goes, cut anywhere, as in one. */
static void
test_goes_on(void **state)
{
    uint32_t whole = crc32c(1, bytes, 4000);

    (void)state;
    for (size_t cut = 0; cut <= 4000; cut += 7)
        assert_int_equal(crc32c(crc32c(1, bytes, cut), bytes + cut, 4000 - cut), whole);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_same_as_portable),
        cmocka_unit_test(test_goes_on),
    };

    return cmocka_run_group_tests(tests, set_up, NULL);
}
