/* The other ways through the streams of a surgery that is done: back, closed, dropped. */
#include "base/bytes.h"
#include "migrate/stream/stream_int.h"

int
streami_back_names(struct streami_worker *w, struct err *err)
{
    int rc = 0;

    for (size_t at = 0; at < w->names.len;) {
        struct slice name = slice_of(w->names.data + at + 2, get_u16(w->names.data + at));

        at += 2 + name.len;
        w->counts.seen++;
        TRY(streami_back(w, name, &w->counts, err));
        streami_reset(&w->arena);
    }
out:
    streami_reset(&w->arena);
    return rc;
}

int
streami_close_names(struct streami_worker *w, struct err *err)
{
    int rc = 0;

    for (size_t at = 0; at < w->names.len;) {
        struct slice name = slice_of(w->names.data + at + 2, get_u16(w->names.data + at));

        at += 2 + name.len;
        w->counts.seen++;
        TRY(streami_route_end(w, name, false, &w->counts, err));
    }
out:
    streami_reset(&w->arena);
    return rc;
}
