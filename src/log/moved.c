/*
 * Where moved streams went. A move closes a stream by a state that says which
 * of its events names the streams; only who asks for the names reads it.
 */
#include <inttypes.h>

#include "base/json.h"
#include "log/iter_int.h"

/* The list out of the event's data; *array is part of it. */
static int
names_of(struct slice data, struct slice *array, struct err *err)
{
    struct json_field f[1] = {{.name = "streams", .required = true}};
    struct json_iter  it;
    struct slice      name, raw;
    unsigned          n = 0;
    int               rc;

    TRY(json_value(data, &raw, err));
    TRY(json_pick(raw, f, 1, JSON_PICK_ANY, err));
    TRY(json_array_iter(&it, f[0].value, err));
    while ((rc = json_iter_next(&it, NULL, &name, err)) == 0) {
        if (json_type(name) != JSON_STRING)
            FAIL(err, E_SCHEMA, ERR_DATA, LOG_MOVED_TYPE ": \"streams\" has to hold names only");
        n++;
    }
    if (rc == E_END && n > 0)
        rc = 0;
    else if (rc == E_END)
        FAIL(err, E_SCHEMA, ERR_DATA, LOG_MOVED_TYPE ": \"streams\" names none");
    *array = f[0].value;
out:
    return rc;
}

/* The event's data; `hold` has it where it was in pieces. */
static int
data_of(struct log *log, const struct record *r, const struct frame *f, struct buf *hold,
        struct slice *data, struct err *err)
{
    uint64_t bytes = (uint64_t)r->meta_len + r->data_len;
    int      rc = 0;

    if ((r->flags & RECORD_CONTINUED) == 0) {
        *data = slice_of(r->body + r->name_len + r->type_len + r->meta_len, r->data_len);
        return 0;
    }
    if (bytes > LOG_EVENT_MAX || !buf_reserve(hold, bytes))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the event at %" PRIu64, r->pos);
    TRY(logi_scan_assemble(log->segs, r, f, atomic_load(&log->end), hold->data, err));
    *data = slice_of(hold->data + r->meta_len, r->data_len);
out:
    return rc;
}

int
logi_moved_names(struct log *log, uint64_t id, uint64_t moved, struct buf *array, struct err *err)
{
    uint64_t      end = atomic_load(&log->end), pos = 0;
    struct buf    hold = {0};
    struct slice  data, list;
    struct record r;
    struct frame  f;
    int           rc = 0;

    if (moved != 0)
        TRY(logi_position(log, id, moved - 1, end, &pos, err));
    if (pos == 0 || !logi_scan_record_at(log->segs, pos, end, true, &r, &f) ||
        r.kind != RECORD_EVENT || r.stream_id != id)
        FAIL(err, E_GONE, ERR_DATA, "the event that says where the stream went is gone");
    must(pos < end);
    TRY(data_of(log, &r, &f, &hold, &data, err));
    TRY(names_of(data, &list, err));
    buf_add_slice(array, list);
    if (array->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    buf_fini(&hold);
    return rc;
}

int
log_moved_to(struct log *log, struct slice stream, struct buf *array, struct err *err)
{
    struct seg_pin    pin = {0};
    struct index_head head;
    uint64_t          id;
    int               rc;

    logi_segs_pin_add(log->segs, &pin);
    logi_segs_pin(log->segs, &pin);
    TRY(logi_stream_head(log, stream, atomic_load(&log->end), &id, &head, err));
    if ((head.flags & INDEX_TOMBSTONE) != 0)
        FAIL(err, E_GONE, ERR_DATA, "stream \"%.*s\" was deleted for good", SLICE_FMT(stream));
    if ((head.flags & INDEX_MOVED) == 0)
        FAIL(err, E_STATE, ERR_DATA, "stream \"%.*s\" was not moved", SLICE_FMT(stream));
    TRY(logi_moved_names(log, id, head.moved, array, err));
out:
    logi_segs_unpin(&pin);
    logi_segs_pin_drop(log->segs, &pin);
    return rc;
}

/* The only name of the list, as it is meant. E_MOVED: there are several. */
static int
only_name(struct slice stream, struct slice array, struct buf *name, struct err *err)
{
    struct json_iter it;
    struct slice     first, more;
    int              rc;

    TRY(json_array_iter(&it, array, err));
    TRY(json_iter_next(&it, NULL, &first, err));
    rc = json_iter_next(&it, NULL, &more, err);
    if (rc == 0)
        FAIL(err, E_MOVED, ERR_DATA, "stream \"%.*s\" was moved to several: %.*s",
             SLICE_FMT(stream), SLICE_FMT(array));
    if (rc != E_END)
        goto out;
    buf_clear(name);
    TRY(json_string_decode(first, name, err));
    if (name->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (name->len == 0 || name->len > LOG_NAME_MAX)
        FAIL(err, E_SCHEMA, ERR_DATA, "stream \"%.*s\" was moved to no name", SLICE_FMT(stream));
out:
    return rc;
}

int
log_moved_follow(struct log *log, struct slice stream, struct buf *name, struct err *err)
{
    struct buf array = {0};
    char       at[LOG_NAME_MAX];
    int        rc = 0;

    buf_clear(name);
    if (stream.len > LOG_NAME_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a stream's name has at most %d bytes", LOG_NAME_MAX);
    buf_add_slice(name, stream);
    for (int hops = 0;; hops++) {
        struct slice now = slice_of(at, name->len);

        must(name->len <= sizeof at);
        memcpy(at, name->data, name->len);
        buf_clear(&array);
        rc = log_moved_to(log, now, &array, err);
        if (rc == E_STATE || rc == E_NOTFOUND) {
            rc = 0;
            break;
        }
        if (rc != 0)
            break;
        if (hops == LOG_HOPS_MAX)
            FAIL(err, E_LIMIT, ERR_DATA, "stream \"%.*s\" was moved more than %d times",
                 SLICE_FMT(stream), LOG_HOPS_MAX);
        TRY(only_name(now, buf_slice(&array), name, err));
    }
out:
    buf_fini(&array);
    return rc;
}
