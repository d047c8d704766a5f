/* A surgery's record: the stream `$surgery-NAME`, its spec first, then how far it is. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "migrate/stream/stream_int.h"

#define PREFIX "$surgery-"
#define SPEC_TYPE "Surgery"
#define STATE_TYPE "SurgeryState"
#define PARKED_TYPE "Parked"

static const char *const states[] = {"RUNNING", "PAUSED",       "DONE",        "CANCELLED",
                                     "FAILED",  "ROLLING_BACK", "ROLLED_BACK", "DROPPING",
                                     "DROPPED", "CLOSING",      "CLOSED"};

const char *
stream_state_name(enum stream_state state)
{
    return states[state];
}

static void
stream_of(const char *name, const char *more, char out[LOG_NAME_MAX + 1])
{
    (void)snprintf(out, LOG_NAME_MAX + 1, PREFIX "%s%s", name, more);
}

static void
put(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_record(const struct streami_record *r, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "state");
    json_out_str(&o, states[r->state]);
    json_out_key(&o, "from");
    json_out_str(&o, states[r->from]);
    put(&o, "set", r->set);
    json_out_key(&o, "cursor");
    json_out_string(&o, buf_slice(&r->cursor));
    put(&o, "streams", r->streams);
    put(&o, "events", r->events);
    put(&o, "copies", r->copies);
    put(&o, "skipped", r->skipped);
    put(&o, "parked", r->parked);
    put(&o, "seen", r->seen);
    put(&o, "lost", r->lost);
    put(&o, "started_us", (uint64_t)r->started_us);
    put(&o, "ended_us", (uint64_t)r->ended_us);
    json_out_key(&o, "error");
    json_out_str(&o, r->error);
    json_out_object_end(&o);
}

enum {
    R_STATE,
    R_FROM,
    R_SET,
    R_CURSOR,
    R_STREAMS,
    R_EVENTS,
    R_COPIES,
    R_SKIPPED,
    R_PARKED,
    R_SEEN,
    R_LOST,
    R_STARTED,
    R_ENDED,
    R_ERROR,
    R_COUNT
};

static int
get_state(struct slice raw, enum stream_state *out, struct err *err)
{
    for (unsigned s = 0; s < sizeof states / sizeof states[0]; s++) {
        if (raw.len == strlen(states[s]) + 2 &&
            memcmp((const char *)raw.data + 1, states[s], raw.len - 2) == 0) {
            *out = (enum stream_state)s;
            return 0;
        }
    }
    RETURN_ERR(err, E_FORMAT, ERR_FATAL, "a surgery's record has a state of a newer version");
}

static int
get_record(struct slice json, struct streami_record *r, struct err *err)
{
    struct json_field f[R_COUNT] = {
        [R_STATE] = {.name = "state", .required = true},
        [R_FROM] = {.name = "from", .required = true},
        [R_SET] = {.name = "set", .required = true},
        [R_CURSOR] = {.name = "cursor", .required = true},
        [R_STREAMS] = {.name = "streams", .required = true},
        [R_EVENTS] = {.name = "events", .required = true},
        [R_COPIES] = {.name = "copies", .required = true},
        [R_SKIPPED] = {.name = "skipped", .required = true},
        [R_PARKED] = {.name = "parked", .required = true},
        [R_SEEN] = {.name = "seen", .required = true},
        [R_LOST] = {.name = "lost", .required = true},
        [R_STARTED] = {.name = "started_us", .required = true},
        [R_ENDED] = {.name = "ended_us", .required = true},
        [R_ERROR] = {.name = "error", .required = true},
    };
    uint64_t *const numbers[] = {
        [R_STREAMS] = &r->streams, [R_EVENTS] = &r->events, [R_COPIES] = &r->copies,
        [R_SKIPPED] = &r->skipped, [R_PARKED] = &r->parked, [R_SEEN] = &r->seen,
        [R_LOST] = &r->lost};
    uint64_t   set;
    struct buf text = {0};
    int        rc;

    TRY(json_pick(json, f, R_COUNT, JSON_PICK_ANY, err));
    for (int i = R_STREAMS; i <= R_LOST; i++)
        if (numbers[i] != NULL && !json_uint64(f[i].value, numbers[i]))
            FAIL(err, E_FORMAT, ERR_FATAL, "a number of a surgery's record is none");
    if (!json_uint64(f[R_SET].value, &set) || !json_int64(f[R_STARTED].value, &r->started_us) ||
        !json_int64(f[R_ENDED].value, &r->ended_us))
        FAIL(err, E_FORMAT, ERR_FATAL, "a number of a surgery's record is none");
    r->set = (uint32_t)set;
    buf_clear(&r->cursor);
    TRY(json_string_decode(f[R_CURSOR].value, &r->cursor, err));
    TRY(json_string_decode(f[R_ERROR].value, &text, err));
    (void)snprintf(r->error, sizeof r->error, "%.*s", SLICE_FMT(buf_slice(&text)));
    TRY(get_state(f[R_STATE].value, &r->state, err));
    TRY(get_state(f[R_FROM].value, &r->from, err));
out:
    buf_fini(&text);
    return rc;
}

static int
append(struct log *log, const char *stream, int64_t expected, const struct log_new_event *events,
       uint32_t count, uint32_t flags, uint64_t *version, struct err *err)
{
    struct log_write w = {
        .stream = slice_str(stream), .expected = expected, .events = events, .count = count};
    struct log_req req = {.writes = &w, .write_count = 1, .flags = LOG_SYSTEM | flags};
    int            rc = log_append(log, &req);

    if (rc != 0)
        err_copy(err, &req.err);
    else if (version != NULL)
        *version = w.last_version;
    return rc;
}

int
streami_record_begin(struct log *log, const struct streami_spec *spec, struct streami_record *r,
                     struct err *err)
{
    char                 stream[LOG_NAME_MAX + 1];
    struct buf           state = {0};
    struct log_new_event e[2];
    int                  rc;

    stream_of(spec->name, "", stream);
    put_record(r, &state);
    e[0] = (struct log_new_event){
        .type = slice_str(SPEC_TYPE), .data = buf_slice(&spec->text), .flags = LOG_JSON};
    e[1] = (struct log_new_event){
        .type = slice_str(STATE_TYPE), .data = buf_slice(&state), .flags = LOG_JSON};
    rc = append(log, stream, LOG_NO_STREAM, e, 2, 0, &r->version, err);
    if (rc == E_WRONG_VERSION)
        (void)err_set(err, __FILE__, __LINE__, rc = E_EXISTS, ERR_DATA,
                      "a surgery named \"%s\" was there: take another name", spec->name);
    buf_fini(&state);
    return rc;
}

int
streami_record_load(struct log *log, struct slice name, struct buf *spec, struct streami_record *r,
                    struct err *err)
{
    char             text[STREAM_NAME_MAX + 1], stream[LOG_NAME_MAX + 1];
    struct log_read  read = {0};
    struct log_iter *it = NULL;
    struct log_event e;
    int              rc;

    if (name.len > STREAM_NAME_MAX)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "there is no such surgery");
    memcpy(text, name.data, name.len);
    text[name.len] = '\0';
    stream_of(text, "", stream);
    read.stream = slice_str(stream);
    rc = log_iter_open(log, &read, &it, err);
    if (rc == E_NOTFOUND)
        FAIL(err, E_NOTFOUND, ERR_DATA, "there is no surgery \"%s\"", text);
    if (rc == 0)
        TRY(log_iter_next(it, &e, err));
    if (rc == 0)
        buf_add_slice(spec, e.data);
    log_iter_close(it);
    it = NULL;
    read.backwards = true;
    read.from = UINT64_MAX;
    TRY(log_iter_open(log, &read, &it, err));
    TRY(log_iter_next(it, &e, err));
    r->version = e.version;
    TRY(get_record(e.data, r, err));
out:
    log_iter_close(it);
    return rc;
}

int
streami_record_save(struct log *log, const char *name, struct streami_record *r, bool quiet,
                    struct err *err)
{
    char                 stream[LOG_NAME_MAX + 1];
    struct buf           state = {0};
    struct log_new_event e;
    int                  rc;

    stream_of(name, "", stream);
    put_record(r, &state);
    e = (struct log_new_event){
        .type = slice_str(STATE_TYPE), .data = buf_slice(&state), .flags = LOG_JSON};
    rc = append(log, stream, (int64_t)r->version, &e, 1, quiet ? LOG_QUIET : 0, &r->version, err);
    if (rc == E_WRONG_VERSION)
        (void)err_set(err, __FILE__, __LINE__, rc = E_FENCED, ERR_FATAL,
                      "surgery %s: another process works on it", name);
    buf_fini(&state);
    return rc;
}

int
streami_park(struct surgery *s, struct slice stream, const struct err *why, struct err *err)
{
    char                 to[LOG_NAME_MAX + 1];
    struct buf           data = {0};
    struct log_new_event e;
    int                  rc;

    lock_take(&s->lock);
    (void)snprintf(s->parked_why, sizeof s->parked_why, "%.*s: %s", SLICE_FMT(stream), why->text);
    lock_give(&s->lock);
    stream_of(s->spec->name, "-parked", to);
    buf_add_str(&data, "{\"stream\":");
    json_put_string(&data, stream);
    buf_printf(&data, ",\"error\":\"%s\",\"reason\":", err_name(why->code));
    json_put_str(&data, why->text);
    buf_add_byte(&data, '}');
    e = (struct log_new_event){
        .type = slice_str(PARKED_TYPE), .data = buf_slice(&data), .flags = LOG_JSON};
    rc = append(s->log, to, LOG_ANY, &e, 1, 0, NULL, err);
    buf_fini(&data);
    return rc;
}

/* all of them */

struct each {
    stream_name_fn *fn;
    void           *arg;
};

static int
each_one(void *arg, const struct log_stream *stream, struct err *err)
{
    struct each *each = arg;
    struct slice name = slice_of((const char *)stream->name.data + strlen(PREFIX),
                                 stream->name.len - strlen(PREFIX));

    if (name.len == 0 || memchr(name.data, '-', name.len) != NULL)
        return 0; /* what was parked */
    return each->fn(each->arg, name, err);
}

int
stream_each(struct log *log, stream_name_fn *fn, void *arg, struct err *err)
{
    struct each each = {fn, arg};

    return log_streams(log, slice_str(PREFIX), slice_str(""), each_one, &each, err);
}
