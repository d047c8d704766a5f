/*
 * What a server answers, and connection strings. What is read of a message lies inside of it, and
 * an event that is taken has a name and a version that streams can have.
 */
#include "base/must.h"
#include "source/kurrentdb/kurrentdb_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
lies_within(struct slice part, struct slice all)
{
    const uint8_t *p = part.data, *from = all.data;

    if (part.len == 0)
        return;
    must(p >= from);
    must(p + part.len <= from + all.len);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice             all = slice_of(data, size);
    struct kurrentdbi_answer a;
    struct kurrentdbi_host   host;
    struct kurrentdbi_where  where;

    if (kurrentdbi_read_answer(all, &a) && a.kind == KURRENTDBI_EVENT) {
        lies_within(a.event.stream, all);
        lies_within(a.event.type, all);
        lies_within(a.event.data, all);
        lies_within(a.event.meta, all);
        must(a.event.stream.len > 0);
        must(a.event.tombstone || a.event.version < INT64_MAX);
    }
    if (kurrentdbi_read_members(all, &host)) {
        must(host.port != 0);
        must(host.name[0] != '\0');
    }
    lies_within(kurrentdbi_read_version(all), all);
    if (kurrentdbi_parse(all, &where, NULL) == 0)
        must(where.host_count > 0);
    kurrentdbi_where_fini(&where);
    return 0;
}
