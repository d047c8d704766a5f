/*
 * A backup's manifest: any text, as it is and with the right last line behind
 * it. What is accepted is written again as a text that says the same, and its
 * copies follow each other up to its end.
 */
#include <stdio.h>
#include <xxhash.h>

#include "base/must.h"
#include "log/backup_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
try(struct slice text)
{
    struct manifest m, again;
    struct buf      first = {0}, second = {0};
    uint64_t        next = FMT_FIRST_POS;

    if (logi_manifest_get(text, &m, NULL) != 0)
        return;
    for (uint32_t i = 0; i < m.count; i++) {
        must(m.segs[i].first == next);
        must(logi_manifest_find(&m, next) == &m.segs[i]);
        next += m.segs[i].span;
    }
    must(m.count > 0);
    must(next >= m.end);
    logi_manifest_put(&first, &m);
    must(!first.failed);
    must(logi_manifest_get(buf_slice(&first), &again, NULL) == 0);
    logi_manifest_put(&second, &again);
    must(slice_eq(buf_slice(&first), buf_slice(&second)));
    logi_manifest_fini(&m);
    logi_manifest_fini(&again);
    buf_fini(&first);
    buf_fini(&second);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf         text = {0};
    XXH128_canonical_t sum;

    try(slice_of(data, size));
    XXH128_canonicalFromHash(&sum, XXH3_128bits(data, size));
    buf_add(&text, data, size);
    buf_add_str(&text, "{\"xxh3\":\"");
    for (size_t i = 0; i < sizeof sum.digest; i++)
        buf_printf(&text, "%02x", sum.digest[i]);
    buf_add_str(&text, "\"}\n");
    try(buf_slice(&text));
    buf_fini(&text);
    return 0;
}
