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

/* The originals, but for the event that says where they went. */
int
streami_drop_names(struct streami_worker *w, struct err *err)
{
    struct log *log = w->surgery->log;
    int         rc = 0;

    for (size_t at = 0; at < w->names.len;) {
        struct slice      name = slice_of(w->names.data + at + 2, get_u16(w->names.data + at));
        struct log_stream info;
        struct log_change c = {.stream = name, .expected = LOG_EXISTS, .what = LOG_SET_TRUNCATE};
        struct log_req    req = {.changes = &c, .change_count = 1, .flags = LOG_BULK};
        bool              here = false;
        uint64_t          events = 0;

        at += 2 + name.len;
        w->counts.seen++;
        rc = log_stream_info(log, name, &info, err);
        if (rc == E_NOTFOUND || rc == E_GONE) {
            rc = 0;
            continue;
        }
        if (rc == 0 && (info.flags & LOG_STREAM_MOVED) != 0)
            rc = streami_moved_here(&w->reader, &info, &here, &events, err);
        if (rc != 0)
            goto out;
        if (!here || info.first >= info.moved)
            continue;
        c.truncate = info.moved;
        rc = log_append(log, &req);
        if (rc != 0) {
            err_copy(err, &req.err);
            goto out;
        }
        w->counts.streams++;
        w->counts.events += info.moved - info.first;
    }
out:
    return rc;
}
