#include "core/erase.h"

#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "base/rfc3339.h"

#define PROGRESS_EVENTS 4096u
#define DELETE_MAX 10000u /* streams of one request */

void
erase_report_fini(struct erase_report *r)
{
    free(r->keys);
    for (uint32_t i = 0; i < r->stream_count; i++)
        free((void *)(uintptr_t)r->streams[i].name.data);
    free(r->streams);
    free(r->slots);
    buf_fini(&r->text);
    memset(r, 0, sizeof *r);
}

static void
put_u64(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_time(struct json_out *o, const char *key, int64_t us)
{
    char text[TIME_TEXT_MAX];

    time_format(us, text);
    json_out_key(o, key);
    json_out_str(o, us == 0 ? NULL : text);
}

static void
put_keys(struct json_out *o, const struct erase_report *r)
{
    char id[ID_TEXT_LEN + 1];

    json_out_key(o, "keys");
    json_out_array(o);
    for (uint32_t i = 0; i < r->key_count; i++) {
        id_format(&r->keys[i].id, id);
        json_out_object(o);
        json_out_key(o, "key");
        json_out_str(o, id);
        put_time(o, "created", r->keys[i].created_us);
        put_time(o, "erased", r->keys[i].erased_us);
        json_out_object_end(o);
    }
    json_out_array_end(o);
}

void
erase_report_json(const struct erase_report *r, struct slice subject, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "subject");
    json_out_string(&o, subject);
    json_out_key(&o, "erased");
    json_out_bool(&o, r->erased);
    json_out_key(&o, "again");
    json_out_bool(&o, r->again);
    put_keys(&o, r);
    put_u64(&o, "events", r->events);
    json_out_key(&o, "streams");
    json_out_array(&o);
    for (uint32_t i = 0; i < r->stream_count; i++) {
        json_out_object(&o);
        json_out_key(&o, "stream");
        json_out_string(&o, r->streams[i].name);
        put_u64(&o, "events", r->streams[i].events);
        if (r->streams[i].deleted) {
            json_out_key(&o, "deleted");
            json_out_bool(&o, true);
        }
        json_out_object_end(&o);
    }
    json_out_array_end(&o);
    put_u64(&o, "events_in_more_streams", r->more);
    put_u64(&o, "deleted", r->deleted);
    json_out_object_end(&o);
}

/* the subject's keys */

static int
take_key(void *arg, const struct subject_key *key, struct err *err)
{
    struct erase_report *r = arg;
    struct subject_key  *keys = reallocarray(r->keys, r->key_count + 1, sizeof *keys);

    if (keys == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    r->keys = keys;
    keys[r->key_count] = *key;
    keys[r->key_count++].name = slice_of(NULL, 0);
    return 0;
}

static int
take_keys(struct ox_subjects *subjects, struct slice subject, struct erase_report *r,
          struct err *err)
{
    int rc;

    r->key_count = 0;
    r->erased = true;
    TRY(subject_each(subjects, subject, take_key, r, err));
    for (uint32_t i = 0; i < r->key_count; i++)
        if (r->keys[i].erased_us == 0)
            r->erased = false;
    if (r->key_count == 0)
        r->erased = false;
out:
    return rc;
}

/* the streams */

static bool
grow(struct erase_report *r)
{
    uint32_t             room = r->slot_room == 0 ? 256 : r->slot_room * 2;
    struct erase_stream *streams;
    uint32_t            *slots;

    if (r->slot_room > r->stream_count * 2)
        return true;
    streams = reallocarray(r->streams, room, sizeof *streams);
    if (streams == NULL)
        return false;
    r->streams = streams;
    slots = calloc(room, sizeof *slots);
    if (slots == NULL)
        return false;
    free(r->slots);
    r->slots = slots;
    r->slot_room = room;
    must((room & (room - 1)) == 0);
    must(r->stream_count < room);
    for (uint32_t i = 0; i < r->stream_count; i++) {
        uint64_t at = streams[i].id;

        while (slots[at & (room - 1)] != 0)
            at++;
        slots[at & (room - 1)] = i + 1;
    }
    return true;
}

/* The stream's entry; NULL with *full: the report names no more. */
static struct erase_stream *
entry_of(struct erase_report *r, uint64_t id, struct slice name, bool *full)
{
    uint64_t at = id;
    uint32_t slot;
    char    *copy;

    *full = false;
    if (!grow(r))
        return NULL;
    for (; (slot = r->slots[at & (r->slot_room - 1)]) != 0; at++)
        if (r->streams[slot - 1].id == id)
            return &r->streams[slot - 1];
    *full = r->stream_count == ERASE_STREAMS_MAX;
    copy = *full ? NULL : malloc(name.len + 1);
    if (copy == NULL)
        return NULL;
    must(r->stream_count < r->slot_room);
    memcpy(copy, name.data, name.len);
    r->streams[r->stream_count] = (struct erase_stream){.name = slice_of(copy, name.len), .id = id};
    r->slots[at & (r->slot_room - 1)] = ++r->stream_count;
    return &r->streams[r->stream_count - 1];
}

static bool
is_ours(const struct erase_report *r, const struct log_event *e)
{
    struct ox_id id;

    if ((e->flags & LOG_SEALED) == 0 || !subject_key_of(e->data, &id))
        return false;
    for (uint32_t i = 0; i < r->key_count; i++)
        if (id_eq(&r->keys[i].id, &id))
            return true;
    return false;
}

static int
count_event(struct erase_report *r, const struct log_event *e, struct err *err)
{
    struct erase_stream *s;
    bool                 full;

    if (!is_ours(r, e))
        return 0;
    r->events++;
    s = entry_of(r, e->stream_id, e->stream, &full);
    if (s == NULL && !full)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the report");
    if (s != NULL)
        s->events++;
    else
        r->more++;
    return 0;
}

/* All that is on the disk, hidden or not. */
static int
scan(struct log *log, struct erase_report *r, log_progress_fn *fn, void *arg, struct err *err)
{
    struct log_read read = {.sealed = true, .raw = true, .filter = {.system = true, .quiet = true}};
    struct log_iter *it = NULL;
    struct log_event e;
    uint64_t         end = log_end(log).v, n = 0;
    int              rc;

    must(r->key_count > 0);
    TRY(log_iter_open(log, &read, &it, err));
    while ((rc = log_iter_next(it, &e, err)) == 0 && e.pos.v < end) {
        TRY(count_event(r, &e, err));
        if (++n % PROGRESS_EVENTS == 0 && fn != NULL)
            TRY(fn(arg, e.pos.v, end));
    }
    if (rc == E_END)
        rc = 0;
out:
    log_iter_close(it);
    return rc;
}

int
erase_look(struct log *log, struct ox_subjects *subjects, struct slice subject, log_progress_fn *fn,
           void *arg, struct erase_report *out, struct err *err)
{
    int rc;

    memset(out, 0, sizeof *out);
    TRY(subject_name_check(subject, err));
    TRY(take_keys(subjects, subject, out, err));
    if (out->key_count == 0)
        FAIL(err, E_NOTFOUND, ERR_DATA, "there is no subject of this name in the keystore");
    TRY(scan(log, out, fn, arg, err));
out:
    return rc;
}

/* deleting streams */

struct names {
    struct erase_report *report;
    struct log_change   *changes;
    uint32_t             count, cap;
};

static int
add_name(struct names *n, const struct log_stream *stream, struct err *err)
{
    struct erase_stream *s;
    bool                 full;

    must(stream->name.len > 0);
    if (*(const char *)stream->name.data == '$')
        RETURN_ERR(err, E_INVALID, ERR_DATA, "\"%.*s\": system streams are not deleted so",
                   SLICE_FMT(stream->name));
    if (n->count == DELETE_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "more than %u streams at once: name fewer", DELETE_MAX);
    if (n->count == n->cap) {
        uint32_t           cap = n->cap == 0 ? 64 : n->cap * 2;
        struct log_change *changes = reallocarray(n->changes, cap, sizeof *changes);

        if (changes == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        n->changes = changes;
        n->cap = cap;
    }
    must(n->count < n->cap);
    s = entry_of(n->report, stream->id, stream->name, &full);
    if (s == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (s->deleted)
        return 0; /* named twice */
    s->deleted = true;
    n->changes[n->count++] =
        (struct log_change){.stream = s->name, .expected = LOG_ANY, .what = LOG_SET_DELETED};
    return 0;
}

static int
list_one(void *arg, const struct log_stream *stream, struct err *err)
{
    return add_name(arg, stream, err);
}

/* What the list names and is there. */
static int
collect(struct log *log, struct slice list, struct names *n, struct err *err)
{
    const char *p = list.data, *end;
    int         rc = 0;

    if (list.len == 0)
        return 0; /* no list at all has no address either */
    end = p + list.len;
    while (p < end) {
        const char       *comma = memchr(p, ',', (size_t)(end - p));
        struct slice      name = slice_of(p, (size_t)((comma == NULL ? end : comma) - p));
        struct log_stream info;

        p += name.len + 1;
        if (name.len == 0)
            continue;
        if (((const char *)name.data)[name.len - 1] == '*') {
            if (name.len == 1)
                FAIL(err, E_INVALID, ERR_DATA, "\"*\" would be every stream: name a prefix");
            name.len--;
            TRY(log_streams(log, name, slice_of(NULL, 0), list_one, n, err));
            continue;
        }
        rc = log_stream_info(log, name, &info, err);
        if (rc == E_GONE)
            continue; /* done before */
        if (rc == 0)
            rc = add_name(n, &info, err);
        if (rc == E_NOTFOUND)
            continue;
        TRY(rc);
    }
    rc = 0;
out:
    return rc;
}

static int
check_deleted(struct log *log, const struct names *n, struct err *err)
{
    struct log_stream info;

    for (uint32_t i = 0; i < n->count; i++) {
        int rc = log_stream_info(log, n->changes[i].stream, &info, NULL);

        if (rc != E_NOTFOUND && rc != E_GONE)
            RETURN_ERR(err, E_STATE, ERR_DATA, "stream \"%.*s\" is still there",
                       SLICE_FMT(n->changes[i].stream));
    }
    return 0;
}

/* erasing */

/* The same erasure has the same event id, so that it is written once. */
static struct ox_id
audit_id(const struct erase_report *r, const struct names *n)
{
    struct buf   bytes = {0};
    struct ox_id id;

    buf_add_str(&bytes, ERASE_TYPE);
    for (uint32_t i = 0; i < r->key_count; i++)
        buf_add(&bytes, r->keys[i].id.b, sizeof r->keys[i].id.b);
    for (uint32_t i = 0; i < n->count; i++) {
        buf_add_byte(&bytes, 0);
        buf_add_slice(&bytes, n->changes[i].stream);
    }
    id = id_of_bytes(buf_slice(&bytes));
    buf_fini(&bytes);
    return id;
}

static int
write_audit(struct log *log, struct slice subject, struct erase_report *r, const struct names *n,
            struct err *err)
{
    struct log_new_event event = {
        .id = audit_id(r, n), .type = slice_str(ERASE_TYPE), .flags = LOG_JSON};
    struct log_write write = {
        .stream = slice_str(ERASE_STREAM), .expected = LOG_ANY, .events = &event, .count = 1};
    struct log_req  req = {.writes = &write,
                           .write_count = 1,
                           .changes = n->changes,
                           .change_count = n->count,
                           .flags = LOG_SYSTEM};
    struct json_out o;
    int             rc;

    must(r->key_count > 0 || n->count > 0);
    must(n->count <= DELETE_MAX);
    buf_clear(&r->text);
    json_out_init(&o, &r->text);
    json_out_object(&o);
    json_out_key(&o, "subject");
    json_out_string(&o, subject);
    put_keys(&o, r);
    json_out_key(&o, "deleted");
    json_out_array(&o);
    for (uint32_t i = 0; i < n->count; i++)
        json_out_string(&o, n->changes[i].stream);
    json_out_array_end(&o);
    json_out_object_end(&o);
    if (r->text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the record of the erasure");
    event.data = buf_slice(&r->text);
    rc = log_append(log, &req);
    if (rc != 0)
        err_copy(err, &req.err);
out:
    return rc;
}

int
erase_subject(struct log *log, struct ox_subjects *subjects, struct slice subject,
              struct slice streams, log_progress_fn *fn, void *arg, struct erase_report *out,
              struct err *err)
{
    struct names n = {.report = out};
    bool         again = false;
    int          rc;

    memset(out, 0, sizeof *out);
    TRY(subject_name_check(subject, err));
    TRY(collect(log, streams, &n, err));
    rc = subject_erase(subjects, subject, &again, err);
    if (rc == E_NOTFOUND && streams.len > 0)
        rc = 0; /* nothing of it was ever under a key */
    TRY(rc);
    out->again = again;
    TRY(take_keys(subjects, subject, out, err));
    if (out->key_count > 0 || n.count > 0)
        TRY(write_audit(log, subject, out, &n, err));
    TRY(check_deleted(log, &n, err));
    out->deleted = n.count;
    if (out->key_count > 0)
        TRY(scan(log, out, fn, arg, err));
out:
    free(n.changes);
    return rc;
}
