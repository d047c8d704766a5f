/* Times: µs since 1970-01-01 UTC, written as RFC 3339 with up to 6 digits and Z. */
#ifndef OX_BASE_RFC3339_H
#define OX_BASE_RFC3339_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"

#define TIME_TEXT_MAX 88

/* "2026-11-22T00:02:32.000001Z"; always 6 digits. Years 0000 to 9999, clamped. */
void time_format(int64_t us, char out[TIME_TEXT_MAX]);

/* RFC 3339: "T" or a space, fraction optional, "Z" or an offset; or a date alone. */
bool time_parse(struct slice text, int64_t *us);

#endif
