/*
 * Commands at a running server, over HTTP. Answers are taken as they come, so a
 * long read costs one event's memory; a live one reconnects where it was.
 */
#include <curl/curl.h>
#include <stdlib.h>
#include <time.h>

#include "base/json.h"
#include "base/must.h"
#include "base/ndjson.h"
#include "base/url.h"
#include "cli/cli_int.h"
#include "log/log.h"

#define LINE_MAX_BYTES (3 * LOG_EVENT_MAX)
#define ANSWER_MAX (64U << 20)
#define CONNECT_MS 5000L
#define STALL_S 60L
#define RECONNECT_MS 500

struct remote {
    struct cli_place place;
    CURL            *curl;
    struct buf       url, answer;
};

/* One request under way. */
struct exchange {
    struct remote *remote;
    struct ndjson  lines;
    cli_line_fn   *fn; /* NULL: the answer is kept whole */
    void          *arg;
    bool           sse, event_named;
    struct buf    *last_id; /* SSE: where it was */
    struct err    *err;
    int            rc;
};

static int
remote_init(struct remote *r, struct err *err)
{
    struct url url;
    int        rc = 0;

    rc = url_parse_http(slice_str(clii_server(r->place.cli)), &url, err);
    if (rc != 0) {
        err_prefix(err, "--server");
        err->code = E_USAGE;
        return E_USAGE;
    }
    buf_init(&r->answer, ANSWER_MAX);
    r->curl = curl_easy_init();
    if (r->curl == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    return rc;
}

static void
remote_fini(struct remote *r)
{
    curl_easy_cleanup(r->curl);
    buf_fini(&r->url);
    buf_fini(&r->answer);
}

static int
remote_open(struct cli_place *place, bool write, struct err *err)
{
    return remote_init((struct remote *)place, err);
}

static void
remote_close(struct cli_place *place)
{
    remote_fini((struct remote *)place);
}

/* The server's address without a "/" at its end, and then the path. */
static void
begin_url(struct remote *r, const char *path)
{
    struct slice base = slice_str(clii_server(r->place.cli));

    while (base.len > 0 && ((const char *)base.data)[base.len - 1] == '/')
        base.len--;
    buf_clear(&r->url);
    buf_add_slice(&r->url, base);
    buf_add_str(&r->url, path);
}

static void
add_query(struct remote *r, const char *name, const char *value)
{
    if (value == NULL)
        return;
    buf_add_byte(&r->url, memchr(r->url.data, '?', r->url.len) == NULL ? '?' : '&');
    buf_printf(&r->url, "%s=", name);
    url_encode(&r->url, slice_str(value));
}

/* One line of server-sent events. */
static int
take_sse(struct exchange *x, struct slice line, struct err *err)
{
    if (slice_starts(line, slice_str("id: "))) {
        buf_clear(x->last_id);
        buf_add(x->last_id, (const char *)line.data + 4, line.len - 4);
    } else if (slice_starts(line, slice_str("event: "))) {
        x->event_named = true;
    } else if (slice_starts(line, slice_str("data: "))) {
        bool event = !x->event_named;

        x->event_named = false;
        if (event)
            return x->fn(x->arg, slice_of((const char *)line.data + 6, line.len - 6), err);
    }
    return 0;
}

static int
take_lines(struct exchange *x, struct slice piece, bool last)
{
    struct slice line;
    uint64_t     number;
    int          rc;

    if (last)
        ndjson_finish(&x->lines);
    else
        ndjson_feed(&x->lines, piece);
    while ((rc = ndjson_next(&x->lines, &line, &number, x->err)) == 0) {
        rc = x->sse ? take_sse(x, line, x->err) : x->fn(x->arg, line, x->err);
        if (rc != 0)
            return rc;
    }
    if (rc != E_END)
        return rc;
    return last ? 0 : x->fn(x->arg, (struct slice){0}, x->err);
}

static size_t
on_body(char *data, size_t one, size_t len, void *arg)
{
    struct exchange *x = arg;
    long             status = 0;

    (void)curl_easy_getinfo(x->remote->curl, CURLINFO_RESPONSE_CODE, &status);
    if (x->fn == NULL || status != 200) {
        buf_add(&x->remote->answer, data, len);
        return x->remote->answer.failed ? 0 : len;
    }
    x->rc = take_lines(x, slice_of(data, len), false);
    return x->rc == 0 ? len : 0;
}

static int
on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    return clii_caught();
}

/* {"error":…,"message":…} as the error that it was over there. */
static int
answer_error(struct remote *r, long status, struct err *err)
{
    struct slice body = buf_slice(&r->answer), raw;
    struct buf   name = {0}, text = {0};
    int          code = status >= 500 ? E_REMOTE : status == 404 ? E_NOTFOUND : E_REJECTED;

    if (json_get(body, "error", &raw) && json_type(raw) == JSON_STRING)
        (void)json_string_decode(raw, &name, NULL);
    if (json_get(body, "message", &raw) && json_type(raw) == JSON_STRING)
        (void)json_string_decode(raw, &text, NULL);
    for (int i = 1; i < E_COUNT; i++)
        if (slice_is(buf_slice(&name), err_name(i)))
            code = i;
    if (text.len > 0)
        (void)err_set(err, __FILE__, __LINE__, code, ERR_DATA, "%.*s", SLICE_FMT(buf_slice(&text)));
    else
        (void)err_set(err, __FILE__, __LINE__, code, ERR_DATA, "the server answered %ld%s%.*s",
                      status, name.len > 0 ? ": " : "", SLICE_FMT(buf_slice(&name)));
    buf_fini(&name);
    buf_fini(&text);
    return code;
}

static int
curl_error(struct remote *r, CURLcode code, bool changes, struct err *err)
{
    const char *server = clii_server(r->place.cli);

    if (clii_caught() != 0)
        return clii_go_on(err);
    if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
        RETURN_ERR(err, E_CONNECT, ERR_RETRY,
                   "%s: %s; is the server running? oxbow serve starts it", server,
                   curl_easy_strerror(code));
    if (code == CURLE_PEER_FAILED_VERIFICATION)
        RETURN_ERR(err, E_CONNECT, ERR_FATAL,
                   "%s: its certificate is not vouched for: set OXBOW_CA to the file that does",
                   server);
    RETURN_ERR(err, code == CURLE_OPERATION_TIMEDOUT ? E_TIMEOUT : E_CONNECT, ERR_UNSURE,
               "%s: %s%s", server, curl_easy_strerror(code),
               changes ? "; it is unknown whether it was done: look before you try again" : "");
}

/* Whom to believe, and who we are: files in PEM. */
static void
set_tls(CURL *curl)
{
    const char *ca = getenv("OXBOW_CA"), *cert = getenv("OXBOW_CERT"), *key = getenv("OXBOW_KEY");

    if (ca != NULL && ca[0] != '\0')
        (void)curl_easy_setopt(curl, CURLOPT_CAINFO, ca);
    if (cert != NULL && cert[0] != '\0')
        (void)curl_easy_setopt(curl, CURLOPT_SSLCERT, cert);
    if (key != NULL && key[0] != '\0')
        (void)curl_easy_setopt(curl, CURLOPT_SSLKEY, key);
}

/* A token, or a name and its password; never from the command line's own words. */
static int
set_user(const struct cli *c, CURL *curl, struct err *err)
{
    const char *token = getenv("OXBOW_TOKEN"), *password = getenv("OXBOW_PASSWORD");
    const char *user = c->opt[OPT_USER] != NULL ? c->opt[OPT_USER] : getenv("OXBOW_USER");

    if (c->opt[OPT_USER] == NULL && token != NULL && token[0] != '\0') {
        (void)curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
        (void)curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, token);
        return 0;
    }
    if (user == NULL || user[0] == '\0')
        return 0;
    if (password == NULL)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "user %s: set OXBOW_PASSWORD to the password", user);
    (void)curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
    (void)curl_easy_setopt(curl, CURLOPT_USERNAME, user);
    (void)curl_easy_setopt(curl, CURLOPT_PASSWORD, password);
    return 0;
}

/* r->url to its answer; the body goes to x->fn, or to r->answer. */
static int
perform(struct exchange *x, const char *method, struct slice body, struct curl_slist *headers,
        struct err *err)
{
    struct remote *r = x->remote;
    CURL          *curl = r->curl;
    CURLcode       code;
    long           status = 0;
    int            rc;

    buf_clear(&r->answer);
    buf_add_byte(&r->url, '\0');
    if (r->url.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    curl_easy_reset(curl);
    (void)curl_easy_setopt(curl, CURLOPT_URL, (const char *)r->url.data);
    (void)curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    (void)curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_PROXY, "");
    set_tls(curl);
    rc = set_user(r->place.cli, curl, err);
    if (rc != 0)
        return rc;
    (void)curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    (void)curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, STALL_S);
    (void)curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    (void)curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, x);
    if (body.data != NULL) {
        (void)curl_easy_setopt(curl, CURLOPT_POSTFIELDS, (const char *)body.data);
        (void)curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.len);
    }
    x->err = err;
    code = curl_easy_perform(curl);
    if (x->rc != 0)
        return x->rc;
    if (code != CURLE_OK)
        return curl_error(r, code, body.data != NULL, err);
    (void)curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 || status > 299)
        return answer_error(r, status, err);
    return 0;
}

static int
get(struct remote *r, struct err *err)
{
    struct exchange x = {.remote = r};

    return perform(&x, "GET", (struct slice){0}, NULL, err);
}

static bool
number_of(struct slice object, const char *name, uint64_t *out)
{
    struct slice raw;

    return json_get(object, name, &raw) && json_uint64(raw, out);
}

static int
remote_append(struct cli_place *place, const char *stream, int64_t expected,
              const struct cli_batch *batch, struct cli_appended *out, struct err *err)
{
    struct remote     *r = (struct remote *)place;
    struct exchange    x = {.remote = r};
    struct curl_slist *headers = NULL;
    struct buf         line = {0};
    struct slice       raw;
    int                rc = 0;

    begin_url(r, "/v1/streams/");
    url_encode(&r->url, slice_str(stream));
    add_query(r, "follow", batch->follow_moves ? "true" : NULL);
    buf_add_str(&line, "Expected-Version: ");
    clii_expected_write(&line, expected);
    buf_add_byte(&line, '\0');
    headers = curl_slist_append(headers, "Content-Type: application/x-ndjson");
    headers = curl_slist_append(headers, (const char *)line.data);
    headers = curl_slist_append(headers, "Expect:");
    TRY(perform(&x, "POST", batch->lines, headers, err));
    if (!number_of(buf_slice(&r->answer), "position", &out->position) ||
        !number_of(buf_slice(&r->answer), "first_version", &out->first_version) ||
        !number_of(buf_slice(&r->answer), "last_version", &out->last_version))
        FAIL(err, E_REMOTE, ERR_UNSURE, "the server's answer is not one of Oxbow's");
    out->idempotent = json_get(buf_slice(&r->answer), "idempotent", &raw);
out:
    curl_slist_free_all(headers);
    buf_fini(&line);
    return rc;
}

static int
stream_url(struct remote *r, const struct cli_read *q, struct err *err)
{
    char limit[24];

    if (q->stream != NULL && q->stream[0] == '\0')
        RETURN_ERR(err, E_INVALID, ERR_DATA, "the stream's name is empty");
    begin_url(r, q->stream == NULL ? "/v1/all" : "/v1/streams/");
    if (q->stream != NULL)
        url_encode(&r->url, slice_str(q->stream));
    add_query(r, "from", q->from);
    add_query(r, "at", q->at);
    if (q->backwards)
        add_query(r, "direction", "backwards");
    if (q->resolve)
        add_query(r, "resolve", "true");
    add_query(r, "moved", q->moved);
    add_query(r, "links", q->links);
    add_query(r, "start", q->start);
    if (q->follow_moves && q->stream != NULL && !clii_is_native(q->stream))
        add_query(r, "follow", "true");
    if (q->raw)
        add_query(r, "raw", "true");
    if (q->stream == NULL || clii_is_native(q->stream)) {
        add_query(r, "prefix", q->prefix);
        add_query(r, "category", q->category);
        add_query(r, "type", q->type);
    }
    (void)snprintf(limit, sizeof limit, "%llu", (unsigned long long)q->limit);
    if (q->limit > 0)
        add_query(r, "limit", limit);
    return 0;
}

static int
exchange_lines(struct remote *r, bool sse, struct buf *last_id, cli_line_fn *fn, void *arg,
               struct err *err)
{
    struct exchange    x = {.remote = r, .fn = fn, .arg = arg, .sse = sse, .last_id = last_id};
    struct curl_slist *headers = NULL;
    struct buf         resume = {0};
    int                rc = 0;

    ndjson_init(&x.lines, LINE_MAX_BYTES);
    headers = curl_slist_append(headers,
                                sse ? "Accept: text/event-stream" : "Accept: application/x-ndjson");
    if (sse && last_id->len > 0) {
        buf_printf(&resume, "Last-Event-ID: %.*s", SLICE_FMT(buf_slice(last_id)));
        buf_add_byte(&resume, '\0');
        headers = curl_slist_append(headers, (const char *)resume.data);
    }
    TRY(perform(&x, "GET", (struct slice){0}, headers, err));
    rc = take_lines(&x, (struct slice){0}, true);
out:
    ndjson_fini(&x.lines);
    curl_slist_free_all(headers);
    buf_fini(&resume);
    return rc;
}

static int
remote_read(struct cli_place *place, const struct cli_read *q, cli_line_fn *fn, void *arg,
            struct err *err)
{
    struct remote  *r = (struct remote *)place;
    struct buf      last_id = {0};
    struct timespec pause = {.tv_nsec = RECONNECT_MS * 1000000L};
    int             rc = 0;
    bool            began = false;

    do {
        TRY(stream_url(r, q, err));
        rc = exchange_lines(r, q->follow, &last_id, fn, arg, err);
        began = began || last_id.len > 0 || rc == 0;
        /* A server that restarts is waited for, once it was there. */
        if (q->follow && began && (rc == 0 || rc == E_CONNECT || rc == E_TIMEOUT)) {
            TRY(clii_go_on(err));
            (void)nanosleep(&pause, NULL);
            rc = 0;
        }
    } while (rc == 0 && q->follow);
out:
    buf_fini(&last_id);
    return rc;
}

/* One page; `after` is the last name, or empty where that was all. */
static int
take_page(struct slice page, cli_line_fn *fn, void *arg, struct buf *after, struct err *err)
{
    struct json_iter it;
    struct slice     list, object, next;
    int              rc = 0;

    buf_clear(after);
    if (!json_get(page, "streams", &list))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    TRY(json_array_iter(&it, list, err));
    while ((rc = json_iter_next(&it, NULL, &object, err)) == 0)
        TRY(fn(arg, object, err));
    if (rc != E_END)
        goto out;
    rc = 0;
    if (json_get(page, "next", &next) && json_type(next) == JSON_STRING)
        TRY(json_string_decode(next, after, err));
out:
    return rc;
}

static int
remote_streams(struct cli_place *place, const char *prefix, cli_line_fn *fn, void *arg,
               struct err *err)
{
    struct remote *r = (struct remote *)place;
    struct buf     after = {0};
    int            rc = 0;

    do {
        begin_url(r, "/v1/streams");
        add_query(r, "prefix", prefix);
        if (after.len > 0) {
            buf_add_byte(&after, '\0');
            add_query(r, "after", (const char *)after.data);
        }
        TRY(get(r, err));
        /* The end of the list is told from the reader's own by its `after`. */
        TRY(take_page(buf_slice(&r->answer), fn, arg, &after, err));
    } while (after.len > 0);
out:
    buf_fini(&after);
    return rc;
}

static int
remote_stream(struct cli_place *place, const char *stream, struct buf *out, struct err *err)
{
    struct remote *r = (struct remote *)place;
    int            rc = 0;

    if (stream[0] == '\0')
        FAIL(err, E_INVALID, ERR_DATA, "the stream's name is empty");
    begin_url(r, "/v1/streams/");
    url_encode(&r->url, slice_str(stream));
    buf_add_str(&r->url, "/info");
    TRY(get(r, err));
    buf_add_slice(out, buf_slice(&r->answer));
out:
    return rc;
}

static int
remote_info(struct cli_place *place, struct buf *out, struct err *err)
{
    struct remote *r = (struct remote *)place;
    struct slice   log;
    int            rc = 0;

    begin_url(r, "/v1/stats");
    TRY(get(r, err));
    if (!json_get(buf_slice(&r->answer), "log", &log))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    buf_add_slice(out, log);
out:
    return rc;
}

static int
stream_path(struct remote *r, const char *stream, const char *rest, struct err *err)
{
    if (stream[0] == '\0')
        RETURN_ERR(err, E_INVALID, ERR_DATA, "the stream's name is empty");
    begin_url(r, "/v1/streams/");
    url_encode(&r->url, slice_str(stream));
    buf_add_str(&r->url, rest);
    return 0;
}

/* r->url with a JSON body, or none, and an expected version. */
static int
send_expected(struct remote *r, const char *method, int64_t expected, bool with_expected,
              struct slice body, struct err *err)
{
    struct exchange    x = {.remote = r};
    struct curl_slist *headers = NULL;
    struct buf         line = {0};
    int                rc = 0;

    headers = curl_slist_append(headers, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Expect:");
    if (with_expected) {
        buf_add_str(&line, "Expected-Version: ");
        clii_expected_write(&line, expected);
        buf_add_byte(&line, '\0');
        headers = curl_slist_append(headers, (const char *)line.data);
    }
    TRY(perform(&x, method, body, headers, err));
out:
    curl_slist_free_all(headers);
    buf_fini(&line);
    return rc;
}

static int
remote_change(struct cli_place *place, const struct cli_change *change, uint64_t *position,
              struct err *err)
{
    static const struct {
        uint32_t    what;
        const char *method, *rest;
    } requests[] = {
        {LOG_SET_DELETED, "DELETE", ""},         {LOG_SET_TOMBSTONE, "DELETE", "?tombstone=true"},
        {LOG_SET_TRUNCATE, "POST", "/truncate"}, {LOG_SET_CLOSED, "POST", "/close"},
        {LOG_SET_OPEN, "POST", "/open"},
    };
    struct remote *r = (struct remote *)place;
    struct buf     body = {0};
    size_t         i = 0;
    int            rc = 0;

    while (requests[i].what != change->what)
        i++;
    if (change->what == LOG_SET_TRUNCATE)
        buf_printf(&body, "{\"before\":%llu}", (unsigned long long)change->truncate);
    TRY(stream_path(r, change->stream, requests[i].rest, err));
    TRY(send_expected(r, requests[i].method, change->expected, !change->unnamed_version,
                      buf_slice(&body), err));
    if (!number_of(buf_slice(&r->answer), "position", position))
        FAIL(err, E_REMOTE, ERR_UNSURE, "the server's answer is not one of Oxbow's");
out:
    buf_fini(&body);
    return rc;
}

static int
remote_metadata(struct cli_place *place, const char *stream, struct buf *out, struct err *err)
{
    struct remote *r = (struct remote *)place;
    int            rc = 0;

    TRY(stream_path(r, stream, "/metadata", err));
    TRY(get(r, err));
    buf_add_slice(out, buf_slice(&r->answer));
out:
    return rc;
}

static int
remote_set_metadata(struct cli_place *place, const char *stream, int64_t expected,
                    struct slice json, struct cli_appended *out, struct err *err)
{
    struct remote *r = (struct remote *)place;
    int            rc = 0;

    memset(out, 0, sizeof *out);
    TRY(stream_path(r, stream, "/metadata", err));
    TRY(send_expected(r, "PUT", expected, true, json, err));
    if (!number_of(buf_slice(&r->answer), "position", &out->position) ||
        !number_of(buf_slice(&r->answer), "version", &out->last_version))
        FAIL(err, E_REMOTE, ERR_UNSURE, "the server's answer is not one of Oxbow's");
out:
    return rc;
}

const struct cli_place_ops clii_remote_ops = {
    .size = sizeof(struct remote),
    .open = remote_open,
    .close = remote_close,
    .append = remote_append,
    .read = remote_read,
    .streams = remote_streams,
    .stream = remote_stream,
    .info = remote_info,
    .change = remote_change,
    .metadata = remote_metadata,
    .set_metadata = remote_set_metadata,
};

int
clii_request(struct cli *c, const char *method, const char *path, struct slice body,
             struct buf *out, struct err *err)
{
    struct remote      r = {.place.cli = c};
    struct exchange    x = {.remote = &r};
    struct curl_slist *headers = NULL;
    int                rc = 0;

    TRY(remote_init(&r, err));
    begin_url(&r, path);
    if (body.data != NULL)
        headers = curl_slist_append(headers, "Content-Type: application/json");
    rc = perform(&x, method, body, headers, err);
    buf_clear(out);
    buf_add_slice(out, buf_slice(&r.answer));
out:
    curl_slist_free_all(headers);
    remote_fini(&r);
    return rc;
}
