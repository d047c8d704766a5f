/*
 * Times from outside: whatever is accepted can be written, and what was written is
 * read and written again as the same text. (An offset may lead out of the years 0000
 * to 9999, where writing clamps: so it is the texts that are compared.)
 */
#include "base/rfc3339.h"

#include "base/must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char    text[TIME_TEXT_MAX], text_again[TIME_TEXT_MAX];
    int64_t us;

    if (!time_parse(slice_of(data, size), &us))
        return 0;
    time_format(us, text);
    must(time_parse(slice_str(text), &us));
    time_format(us, text_again);
    must(strcmp(text, text_again) == 0);
    return 0;
}
