/* What a delivery of JetStream's says of itself in its reply subject. */
#include "base/must.h"
#include "source/nats/nats_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct natsi_place place;
    struct buf         text = {0};

    buf_add(&text, data, size);
    buf_add_byte(&text, 0);
    if (!text.failed && natsi_place_parse((const char *)text.data, &place))
        must(place.sequence > 0);
    buf_fini(&text);
    return 0;
}
