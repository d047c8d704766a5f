/* Event ids from outside: whatever is accepted is written back as the same id. */
#include "base/id.h"

#include "base/must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char         text[ID_TEXT_LEN + 1];
    struct ox_id first, again;

    if (!id_parse(slice_of(data, size), &first))
        return 0;
    must(size == ID_TEXT_LEN);
    id_format(&first, text);
    must(id_parse(slice_str(text), &again));
    must(id_eq(&first, &again));
    return 0;
}
