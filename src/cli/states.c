/*
 * What streams are beside their events, in an export: a line for each that is deleted, truncated or
 * closed, after all events. Limits need none: the metadata that makes them is among the events.
 *
 *   {"state":{"stream":"a-1","deleted":true,"tombstone":true,"truncate":3,"closed":true}}
 */
#include "cli/states.h"

#include <string.h>

#include "base/json.h"
#include "cli/cli_int.h"
#include "log/log.h"

enum state_field { S_STREAM, S_DELETED, S_TOMBSTONE, S_TRUNCATE, S_CLOSED, S_COUNT };

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
    struct buf  line = {0};
    int         rc = 0;

    if (gone || closed || truncated) {
        buf_add_str(&line, "{\"state\":{\"stream\":");
        json_put_string(&line, s->name);
        if (gone)
            buf_add_str(&line, (s->flags & LOG_STREAM_TOMBSTONE) != 0 ? ",\"tombstone\":true"
                                                                      : ",\"deleted\":true");
        if (truncated)
            buf_printf(&line, ",\"truncate\":%llu", (unsigned long long)s->first);
        if (closed)
            buf_add_str(&line, ",\"closed\":true");
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

int
clii_state_import(struct log *log, struct slice state, struct err *err)
{
    struct json_field f[S_COUNT] = {
        [S_STREAM] = {.name = "stream", .required = true},
        [S_DELETED] = {.name = "deleted"},
        [S_TOMBSTONE] = {.name = "tombstone"},
        [S_TRUNCATE] = {.name = "truncate"},
        [S_CLOSED] = {.name = "closed"},
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
    if (f[S_TRUNCATE].value.data != NULL) {
        change.what |= LOG_SET_TRUNCATE;
        if (!json_uint64(f[S_TRUNCATE].value, &change.truncate))
            FAIL(err, E_SCHEMA, ERR_DATA, "\"truncate\": must be a version");
    }
    change.stream = buf_slice(&name);
    rc = log_append(log, &req);
    if (rc != 0)
        *err = req.err;
out:
    buf_fini(&name);
    return rc;
}
