/*
 * What streams are beside their events, in an export: a line for each that is deleted, truncated,
 * closed, moved or routed, after all events. Limits need none: the metadata that makes them is
 * among the events. `moved` is the version that says where to; where a routed stream goes is in
 * its metadata.
 *
 *   {"state":{"stream":"a-1","deleted":true,"tombstone":true,"truncate":3,"closed":true,"moved":4}}
 */
#include "cli/states.h"

#include <string.h>

#include "base/json.h"
#include "cli/cli_int.h"
#include "log/log.h"

enum state_field {
    S_STREAM,
    S_DELETED,
    S_TOMBSTONE,
    S_TRUNCATE,
    S_CLOSED,
    S_MOVED,
    S_ROUTED,
    S_FED,
    S_COUNT
};

/* Where a limit hides the first events, no truncation has to. */
static bool
is_truncated(const struct log_stream *s)
{
    return s->first > 0 && (s->max_count == 0 || s->first + s->max_count > s->head + 1) &&
           s->max_age_us == 0;
}

/* Called for every stream that the log has heard of. */
static int
put_state(void *arg, const struct log_stream *s, struct err *err)
{
    struct cli *c = arg;
    bool        gone = (s->flags & (LOG_STREAM_DELETED | LOG_STREAM_TOMBSTONE)) != 0;
    bool        closed = (s->flags & LOG_STREAM_CLOSED) != 0 && !gone;
    bool        truncated = !gone && s->head != UINT64_MAX && is_truncated(s);
    bool        moves = (s->flags & LOG_STREAM_TOMBSTONE) == 0 &&
                 (s->flags & (LOG_STREAM_MOVED | LOG_STREAM_ROUTED | LOG_STREAM_FED)) != 0;
    struct buf line = {0};
    int        rc = 0;

    if (gone || closed || truncated || moves) {
        buf_add_str(&line, "{\"state\":{\"stream\":");
        json_put_string(&line, s->name);
        if (gone)
            buf_add_str(&line, (s->flags & LOG_STREAM_TOMBSTONE) != 0 ? ",\"tombstone\":true"
                                                                      : ",\"deleted\":true");
        if (truncated)
            buf_printf(&line, ",\"truncate\":%llu", (unsigned long long)s->first);
        if (closed)
            buf_add_str(&line, ",\"closed\":true");
        if (moves && (s->flags & LOG_STREAM_MOVED) != 0)
            buf_printf(&line, ",\"moved\":%llu", (unsigned long long)s->moved);
        if (moves && (s->flags & LOG_STREAM_ROUTED) != 0)
            buf_add_str(&line, ",\"routed\":true");
        if (moves && (s->flags & LOG_STREAM_FED) != 0)
            buf_add_str(&line, ",\"fed\":true");
        buf_add_str(&line, "}}\n");
        clii_put_buf(c, &line);
    }
    TRY(clii_go_on(err));
    if (c->out_closed)
        TRY(clii_flush(c, err));
out:
    buf_fini(&line);
    return rc;
}

int
clii_states_export(struct cli *c, struct log *log, struct err *err)
{
    return log_streams_all(log, slice_str(""), slice_str(""), put_state, c, err);
}

/* import */

static int
read_flag(struct slice raw, const char *name, uint32_t what, uint32_t *out, struct err *err)
{
    bool yes;

    if (raw.data == NULL)
        return 0;
    if (!json_bool(raw, &yes))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "\"%s\": must be true or false", name);
    *out |= yes ? what : 0;
    return 0;
}

/* The version has to be there, and to say where to. */
static int
read_moved(struct log *log, struct slice raw, struct log_change *change, struct err *err)
{
    struct log_read  read = {.stream = change->stream, .raw = true};
    struct log_iter *it = NULL;
    struct log_event e;
    int              rc = 0;

    if (raw.data == NULL)
        return 0;
    if (!json_uint64(raw, &read.from) || read.from == UINT64_MAX)
        FAIL(err, E_SCHEMA, ERR_DATA, "\"moved\": must be a version");
    TRY(log_iter_open(log, &read, &it, err));
    rc = log_iter_next(it, &e, err);
    if (rc == E_END || (rc == 0 && (e.version != read.from || !slice_is(e.type, LOG_MOVED_TYPE))))
        FAIL(err, E_SCHEMA, ERR_DATA, "\"moved\": version %llu of \"%.*s\" is no " LOG_MOVED_TYPE,
             (unsigned long long)read.from, SLICE_FMT(change->stream));
    change->what |= LOG_SET_MOVED;
    change->moved = read.from + 1;
out:
    log_iter_close(it);
    return rc;
}

int
clii_state_import(struct log *log, struct slice state, struct err *err)
{
    struct json_field f[S_COUNT] = {
        [S_STREAM] = {.name = "stream", .required = true},
        [S_DELETED] = {.name = "deleted"},
        [S_TOMBSTONE] = {.name = "tombstone"},
        [S_TRUNCATE] = {.name = "truncate"},
        [S_CLOSED] = {.name = "closed"},
        [S_MOVED] = {.name = "moved"},
        [S_ROUTED] = {.name = "routed"},
        [S_FED] = {.name = "fed"},
    };
    struct log_change change = {.expected = LOG_ANY};
    struct log_req    req = {.changes = &change, .change_count = 1, .flags = LOG_SYSTEM | LOG_BULK};
    struct buf        name = {0};
    int               rc = 0;

    TRY(json_pick(state, f, S_COUNT, JSON_PICK_ONLY, err));
    if (json_type(f[S_STREAM].value) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "\"stream\": must be a string");
    TRY(json_string_decode(f[S_STREAM].value, &name, err));
    TRY(read_flag(f[S_DELETED].value, "deleted", LOG_SET_DELETED, &change.what, err));
    TRY(read_flag(f[S_TOMBSTONE].value, "tombstone", LOG_SET_TOMBSTONE, &change.what, err));
    TRY(read_flag(f[S_CLOSED].value, "closed", LOG_SET_CLOSED, &change.what, err));
    TRY(read_flag(f[S_ROUTED].value, "routed", LOG_SET_ROUTED, &change.what, err));
    TRY(read_flag(f[S_FED].value, "fed", LOG_SET_FED, &change.what, err));
    if (f[S_TRUNCATE].value.data != NULL) {
        change.what |= LOG_SET_TRUNCATE;
        if (!json_uint64(f[S_TRUNCATE].value, &change.truncate))
            FAIL(err, E_SCHEMA, ERR_DATA, "\"truncate\": must be a version");
    }
    change.stream = buf_slice(&name);
    TRY(read_moved(log, f[S_MOVED].value, &change, err));
    rc = log_append(log, &req);
    if (rc != 0)
        *err = req.err;
out:
    buf_fini(&name);
    return rc;
}
