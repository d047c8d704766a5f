/*
 * Metadata and data from outside: a copy has originals, and every one of them is whole; marks
 * are what they say they are.
 */
#include "log/copied.h"
#include "base/must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
count(void *arg, const struct log_original *o)
{
    must(o->stream.len > 0);
    must(o->pos.v != 0);
    ++*(uint64_t *)arg;
    return false;
}

static bool
stop(void *arg, const struct log_original *o)
{
    (void)o;
    ++*(uint64_t *)arg;
    return true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const types[] = {"StreamMovedTo", "MigratedFrom", "Invalidated", "Other"};
    struct slice             text = slice_of(data, size);
    uint64_t                 all = 0, one = 0, first, last, n;
    bool                     stopped;

    n = log_copied_from(text, count, &all, &stopped);
    must(n == all);
    must(!stopped);
    must(log_copied_from(text, NULL, NULL, NULL) == n);
    must(log_copied_from(text, stop, &one, &stopped) == n);
    must(stopped == (n > 0));
    must(one == (n > 0));
    for (size_t i = 0; i < 4; i++) {
        enum log_mark mark = log_mark_of(slice_str(types[i]), text);

        must(i < 3 || mark == LOG_MARK_NONE);
        if (log_mark_from(slice_str(types[i]), text, slice_str("s"), &first, &last)) {
            must(mark == LOG_MARK_FROM);
            must(first <= last);
        }
    }
    return 0;
}
