/* What a reader asks for: the parameters of GET /v1/all and GET /v1/streams/{stream}. */
#include "base/json.h"
#include "base/rfc3339.h"
#include "server/access_int.h"
#include "server/append_int.h"
#include "server/feed_int.h"

#define PATIENCE (1U << 20) /* bytes of the log that one call may look through */
#define PAGE 1000           /* events of a JSON document where no limit is given */

void
serveri_query_fini(struct feed_query *q)
{
    buf_fini(&q->texts);
    buf_fini(&q->key[0]);
    buf_fini(&q->key[1]);
    buf_fini(&q->moved);
}

static bool
accepts(const struct call *call, const char *type)
{
    struct slice accept;

    return call_header(call, "accept", &accept) &&
           memmem(accept.data, accept.len, type, strlen(type)) != NULL;
}

static int
check_names_of(const struct call *call, const char *const *more, struct err *err)
{
    static const char *const names[] = {"from", "limit", "direction", "raw", NULL};

    for (unsigned i = 0; i < call->uri.param_count; i++) {
        struct slice name = call->uri.params[i].name;
        bool         known = false;

        for (const char *const *n = names; *n != NULL && !known; n++)
            known = slice_is(name, *n);
        for (const char *const *n = more; *n != NULL && !known; n++)
            known = slice_is(name, *n);
        if (!known)
            RETURN_ERR(err, E_INVALID, ERR_DATA,
                       "an unknown parameter; known are from, limit, direction, raw, %s", more[0]);
    }
    return 0;
}

static int
check_names(const struct call *call, bool all, struct err *err)
{
    static const char *const names[] = {"from",     "limit", "direction", "at",  "resolve",
                                        "moved",    "links", "start",     "raw", "prefix",
                                        "category", "type",  "follow"};
    size_t                   first = all ? 9 : 12, last = all ? 12 : 13;

    for (unsigned i = 0; i < call->uri.param_count; i++) {
        size_t k = 0;

        while (k < last && !slice_is(call->uri.params[i].name, names[k]))
            k = k == 8 ? first : k + 1;
        if (k == last)
            RETURN_ERR(err, E_INVALID, ERR_DATA,
                       "an unknown parameter; known are from, limit, direction, at, resolve, "
                       "moved, links, start, raw, %s",
                       all ? "prefix, category, type" : "follow");
    }
    return 0;
}

/* Keeps a text beyond the request's end: room for all of them was made before. */
static struct slice
keep(struct feed_query *q, struct slice text)
{
    uint8_t *to = q->texts.data + q->texts.len;

    buf_add_slice(&q->texts, text);
    return slice_of(to, text.len);
}

static struct slice
after_prefix(struct slice name, const char *prefix)
{
    size_t len = strlen(prefix);

    if (!slice_starts(name, slice_str(prefix)))
        return (struct slice){0};
    return slice_of((const char *)name.data + len, name.len - len);
}

/* The names of reads that the log serves by position. */
bool
serveri_is_native(struct slice name)
{
    return slice_is(name, "$streams") || slice_starts(name, slice_str("$ce-")) ||
           slice_starts(name, slice_str("$et-"));
}

static bool
is_system(struct slice name)
{
    return name.len != 0 && *(const char *)name.data == '$';
}

static int
read_texts(const struct call *call, bool all, struct feed_query *q, struct err *err)
{
    static const char *const names[] = {"prefix", "category", "type"};
    struct slice *const      slots[] = {&q->read.filter.prefix, &q->read.filter.category,
                                        &q->read.filter.type};
    struct slice             text, stream = {0};
    size_t                   room = 1;

    if (!all)
        stream = call_param(call, "stream");
    if (q->follow) {
        int rc = log_moved_follow(call->conn->server->log, stream, &q->moved, err);

        if (rc != 0)
            return rc;
        stream = buf_slice(&q->moved);
        if (!serveri_may(call->conn->server, call->who, ACCESS_READ, stream))
            return serveri_access_refuse(call->conn->server, call->who, "read", stream, err);
    }
    room += stream.len;
    for (int i = 0; i < 3; i++)
        if (call_query(call, names[i], &text))
            room += text.len;
    if (!buf_reserve(&q->texts, room))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for the query");
    q->read.stream = keep(q, stream);
    for (int i = 0; q->all && i < 3; i++)
        if (call_query(call, names[i], &text))
            *slots[i] = keep(q, text);
    q->category = after_prefix(q->read.stream, "$ce-");
    q->type = after_prefix(q->read.stream, "$et-");
    q->read.filter.system =
        is_system(q->read.filter.prefix) || is_system(q->category) || is_system(q->type);
    q->alone = q->ops != NULL || q->read.resolve || q->stored || q->read.skip_moved ||
               q->read.skip_links || q->limit != 0 || slice_is(q->read.stream, "$streams");
    return 0;
}

static int
read_number(const struct call *call, const char *name, uint64_t *out, struct err *err)
{
    struct slice text;

    if (!call_query(call, name, &text))
        return 0;
    if (!json_uint64(text, out))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: must be a number", name);
    return 0;
}

static int
read_from(const struct call *call, struct feed_query *q, struct err *err)
{
    struct slice text;

    q->read.from = q->read.backwards ? UINT64_MAX : 0;
    if (call_query(call, "from", &text) && slice_is(text, "end")) {
        q->from_end = !q->read.backwards;
        return 0;
    }
    return read_number(call, "from", &q->read.from, err);
}

static int
read_limit(const struct call *call, struct feed_query *q, struct err *err)
{
    struct slice text;
    int          rc = 0;

    q->limit = q->format == FEED_JSON ? PAGE : 0;
    TRY(read_number(call, "limit", &q->limit, err));
    if (call_query(call, "limit", &text) && q->limit == 0)
        FAIL(err, E_INVALID, ERR_DATA, "limit: must be at least 1");
out:
    return rc;
}

static int
read_flag(const struct call *call, const char *name, bool *out, struct err *err)
{
    struct slice text;

    if (!call_query(call, name, &text) || slice_is(text, "false"))
        return 0;
    if (!slice_is(text, "true"))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: must be true or false", name);
    *out = true;
    return 0;
}

/* Whether the parameter is the second of two words; not there: the first one. */
static int
read_word(const struct call *call, const char *name, const char *first, const char *second,
          bool *is_second, bool *there, struct err *err)
{
    struct slice text;

    *is_second = false;
    *there = call_query(call, name, &text);
    if (!*there || slice_is(text, first))
        return 0;
    if (!slice_is(text, second))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: must be %s or %s", name, first, second);
    *is_second = true;
    return 0;
}

/* Behind read_from. */
static int
read_moves(const struct call *call, struct feed_query *q, struct err *err)
{
    struct slice text;
    bool         there, resolve;
    int          rc;

    TRY(read_word(call, "moved", "deliver", "skip", &q->read.skip_moved, &there, err));
    TRY(read_word(call, "links", "ignore", "resolve", &resolve, &there, err));
    q->read.skip_links = there && !resolve;
    q->read.resolve = resolve || (q->read.resolve && !there);
    q->has_start = !q->from_end || q->read.backwards;
    q->read.start = q->read.backwards ? 0 : q->read.from;
    if (!call_query(call, "start", &text))
        return 0;
    if (!q->read.skip_moved)
        FAIL(err, E_INVALID, ERR_DATA, "start: goes with moved=skip only");
    q->has_start = true;
    return read_number(call, "start", &q->read.start, err);
out:
    return rc;
}

static int
read_direction(const struct call *call, struct feed_query *q, struct err *err)
{
    struct slice text;

    if (!call_query(call, "direction", &text) || slice_is(text, "forwards"))
        return 0;
    if (!slice_is(text, "backwards"))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "direction: must be forwards or backwards");
    q->read.backwards = true;
    return 0;
}

static int
read_at(const struct call *call, struct feed_query *q, struct err *err)
{
    struct slice text;
    int64_t      us;
    int          rc = 0;

    if (!call_query(call, "at", &text))
        return 0;
    if (!json_uint64(text, &q->read.at.v)) {
        if (!time_parse(text, &us))
            FAIL(err, E_INVALID, ERR_DATA, "at: must be a position or an RFC 3339 time");
        TRY(log_pos_of_time(call->conn->server->log, us, &q->read.at, err));
    }
    q->nothing = q->read.at.v == 0;
    if (q->nothing && !q->all)
        FAIL(err, E_NOTFOUND, ERR_DATA, "the stream was not there yet");
out:
    return rc;
}

/* The position that a stream of events was last seen at; where it goes on from. */
static int
read_last_id(const struct call *call, struct feed_query *q, struct err *err)
{
    struct slice text;
    const char  *at;

    if (q->format != FEED_SSE || !call_header(call, "last-event-id", &text) || text.len == 0)
        return 0;
    /* Where it once began comes with it: the request need not know. */
    at = q->read.skip_moved ? memchr(text.data, '@', text.len) : NULL;
    if (at != NULL) {
        size_t len = (size_t)(at - (const char *)text.data);

        if (!json_uint64(slice_of(at + 1, text.len - len - 1), &q->read.start))
            RETURN_ERR(err, E_INVALID, ERR_DATA, "Last-Event-ID: must be POSITION@START");
        q->has_start = true;
        text.len = len;
    }
    if (!json_uint64(text, &q->after))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "Last-Event-ID: must be a position");
    q->from_end = false;
    q->read.from = q->all ? q->after + 1 : 0;
    return 0;
}

int
serveri_query_read(struct call *call, bool all, const struct feed_reader_ops *ops, void *arg,
                   struct feed_query *q, struct err *err)
{
    int rc = 0;

    memset(q, 0, sizeof *q);
    q->ops = ops;
    q->ops_arg = arg;
    q->who = call->who;
    q->all = all || serveri_is_native(call_param(call, "stream"));
    q->read.patience = PATIENCE;
    if (accepts(call, "text/event-stream"))
        q->format = FEED_SSE;
    else if (accepts(call, "application/x-ndjson"))
        q->format = FEED_NDJSON;
    TRY(ops != NULL ? check_names_of(call, ops->params, err) : check_names(call, q->all, err));
    TRY(serveri_follow_read(call, &q->follow, err));
    TRY(read_flag(call, "resolve", &q->read.resolve, err));
    TRY(read_flag(call, "raw", &q->stored, err));
    TRY(read_direction(call, q, err));
    TRY(read_from(call, q, err));
    TRY(read_moves(call, q, err));
    TRY(read_limit(call, q, err));
    TRY(read_at(call, q, err));
    TRY(read_last_id(call, q, err));
    if (q->format == FEED_SSE && (q->read.backwards || q->read.at.v != 0 || q->nothing))
        FAIL(err, E_INVALID, ERR_DATA, "a live stream goes forwards, and has no end to be at");
    TRY(read_texts(call, all, q, err));
    if (ops != NULL)
        TRY(ops->prepare(call, arg, q, err));
out:
    return rc;
}
