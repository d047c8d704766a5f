/*
 * The service's HTTP side: libmicrohttpd, a thread per connection, so that a
 * long poll simply waits. Every answer is JSON; every refusal says in one line
 * what was wrong.
 */
#include "ful.h"
#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTIONS_MAX 256
#define IDLE_S 120
#define KEY_MAX 255
#define ORIGIN_MAX 64
#define LIMIT_MAX 1000
#define WAIT_MS_MAX 30000

struct ful_http {
    struct MHD_Daemon *daemon;
    struct ful_store  *store;
};

/* One request, from its first header to its answer. */
struct call {
    struct MHD_Connection *conn;
    struct ful_store      *store;
    const char            *url, *method;
    char                  *body;
    size_t                 used;
    bool                   too_large;

    unsigned status;
    json_t  *answer;
    int64_t  etag;
    bool     replayed;
};

static void
answer_with(struct call *c, unsigned status, json_t *body)
{
    json_decref(c->answer);
    c->status = status;
    c->answer = body;
}

static void
answer_error(struct call *c, unsigned status, const char *error, const char *message)
{
    answer_with(c, status, json_pack("{s:s, s:s}", "error", error, "message", message));
}

/* A read's result, where NULL is a storage failure. */
static void
answer_read(struct call *c, json_t *body)
{
    if (body != NULL)
        answer_with(c, 200, body);
    else
        answer_error(c, 500, "storage", "the database failed: see the service's log");
}

static const char *
header(struct call *c, const char *name)
{
    return MHD_lookup_connection_value(c->conn, MHD_HEADER_KIND, name);
}

static bool
plain_text(const char *text, size_t max)
{
    size_t n = 0;

    for (; text[n] != '\0'; n++)
        if (text[n] < 0x20 || text[n] > 0x7e || n >= max)
            return false;
    return n > 0;
}

/* False when the header is there but wrong: the call is answered then. */
static bool
take_header(struct call *c, const char *name, size_t max, const char **out)
{
    const char *value = header(c, name);

    if (value == NULL)
        return true;
    if (!plain_text(value, max)) {
        answer_error(c, 400, "bad-header", "a header is empty, too long or not printable ASCII");
        return false;
    }
    *out = value;
    return true;
}

static bool
take_query(struct call *c, const char *name, int64_t max, int64_t otherwise, int64_t *out)
{
    const char *value = MHD_lookup_connection_value(c->conn, MHD_GET_ARGUMENT_KIND, name);

    *out = otherwise;
    if (value == NULL || parse_int(value, 0, max, out))
        return true;
    answer_error(c, 400, "bad-query", "a query parameter is not a number within its limits");
    return false;
}

static bool
take_match(struct call *c, struct ful_job *job)
{
    const char *match = header(c, "If-Match");
    const char *none = header(c, "If-None-Match");
    char        digits[24];
    size_t      len;

    job->if_match = FUL_MATCH_NONE;
    if (none != NULL && strcmp(none, "*") != 0) {
        answer_error(c, 400, "bad-header", "If-None-Match: only * is understood");
        return false;
    }
    job->if_absent = none != NULL;
    if (match == NULL)
        return true;
    if (strcmp(match, "*") == 0) {
        job->if_match = FUL_MATCH_ANY;
        return true;
    }
    len = strlen(match);
    if (len >= 3 && len < sizeof(digits) && match[0] == '"' && match[len - 1] == '"') {
        memcpy(digits, match + 1, len - 2);
        digits[len - 2] = '\0';
        if (parse_int(digits, 1, INT64_MAX, &job->if_match))
            return true;
    }
    answer_error(c, 400, "bad-header", "If-Match: must be * or a version in double quotes");
    return false;
}

static bool
take_job_headers(struct call *c, struct ful_job *job)
{
    const char *epoch = header(c, "Oxbow-Epoch");

    job->epoch = -1;
    if (epoch != NULL && !parse_int(epoch, 0, INT64_MAX, &job->epoch)) {
        answer_error(c, 400, "bad-header", "Oxbow-Epoch: must be a whole number");
        return false;
    }
    if (!take_header(c, "Origin", ORIGIN_MAX, &job->origin) ||
        !take_header(c, "X-Origin", ORIGIN_MAX, &job->origin))
        return false;
    return take_header(c, "Idempotency-Key", KEY_MAX, &job->key) && take_match(c, job);
}

/* The body as a JSON object, or NULL: the call is answered then. */
static json_t *
parse_body(struct call *c)
{
    json_error_t why;
    json_t      *body =
        json_loadb(c->body != NULL ? c->body : "", c->used, JSON_REJECT_DUPLICATES, &why);

    if (body == NULL)
        answer_error(c, 400, "bad-json", "the body is not JSON of one object without duplicates");
    return body;
}

static void
run_job(struct call *c, struct ful_job *job)
{
    ful_store_run(c->store, job);
    if (job->body == NULL) {
        answer_read(c, NULL);
        return;
    }
    answer_with(c, job->status, job->body);
    c->etag = job->etag;
    c->replayed = job->replayed;
}

static void
change_order(struct call *c, int64_t id, enum ful_kind kind)
{
    struct ful_job job = {.kind = kind, .row = {.id = id}};
    json_t        *body = NULL;
    char          *request = NULL;
    const char    *why;

    if (!take_job_headers(c, &job))
        return;
    if (kind == FUL_PUT) {
        body = parse_body(c);
        if (body == NULL)
            return;
        why = ful_row_parse(body, id, &job.row);
        if (why != NULL) {
            answer_error(c, 422, "invalid-row", why);
            goto out;
        }
    }
    if (asprintf(&request, "%s %s\n%.*s", c->method, c->url, (int)c->used,
                 c->body != NULL ? c->body : "") < 0) {
        request = NULL;
        answer_error(c, 500, "memory", "out of memory");
        goto out;
    }
    job.request = request;
    run_job(c, &job);
out:
    free(request);
    ful_row_fini(&job.row);
    json_decref(body);
}

static void
set_epoch(struct call *c)
{
    struct ful_job job = {.kind = FUL_EPOCH};
    json_t        *body = parse_body(c);
    const json_t  *epoch = json_object_get(body, "epoch");

    if (body == NULL)
        return;
    job.authority = json_string_value(json_object_get(body, "authority"));
    if (!json_is_integer(epoch) || json_integer_value(epoch) < 0 || job.authority == NULL ||
        (strcmp(job.authority, "old") != 0 && strcmp(job.authority, "new") != 0) ||
        json_object_size(body) != 2) {
        answer_error(c, 422, "invalid-epoch",
                     "the body must be {\"epoch\":NUMBER,\"authority\":\"old\"|\"new\"}");
    } else {
        job.epoch = json_integer_value(epoch);
        run_job(c, &job);
    }
    json_decref(body);
}

static void
set_fault(struct call *c)
{
    json_t     *body = parse_body(c);
    const char *why;

    if (body == NULL)
        return;
    why = ful_fault_set(body);
    if (why != NULL)
        answer_error(c, 422, "invalid-fault", why);
    else
        answer_with(c, 200, ful_fault_json());
    json_decref(body);
}

static void
get_order(struct call *c, int64_t id)
{
    json_t *row = ful_store_get(c->store, id);

    if (row != NULL && json_is_null(row)) {
        answer_error(c, 404, "not-found", "there is no such row");
        return;
    }
    c->etag = json_integer_value(json_object_get(row, "version"));
    answer_read(c, row);
}

static void
get_orders(struct call *c)
{
    int64_t after, limit;

    if (take_query(c, "after", INT64_MAX, 0, &after) &&
        take_query(c, "limit", LIMIT_MAX, 100, &limit))
        answer_read(c, ful_store_scan(c->store, after, limit > 0 ? limit : 1));
}

static void
get_changes(struct call *c)
{
    int64_t after, limit, wait_ms, head, oldest;

    if (!take_query(c, "after", INT64_MAX, 0, &after) ||
        !take_query(c, "limit", LIMIT_MAX, 100, &limit) ||
        !take_query(c, "wait_ms", WAIT_MS_MAX, 0, &wait_ms))
        return;
    head = ful_store_head(c->store);
    if (after > head)
        head = ful_store_committed(c->store);
    oldest = ful_store_oldest(c->store);
    if (after > head) {
        answer_with(c, 409,
                    json_pack("{s:s, s:s, s:I}", "error", "cursor-ahead", "message",
                              "this cursor was never given out: is it another database?", "head",
                              (json_int_t)head));
        return;
    }
    if (after < oldest - 1) {
        answer_with(c, 410,
                    json_pack("{s:s, s:s, s:I}", "error", "cursor-gone", "message",
                              "changes after this cursor are no longer kept", "oldest",
                              (json_int_t)oldest));
        return;
    }
    if (wait_ms > 0)
        ful_store_wait(c->store, after, wait_ms);
    answer_read(c, ful_store_changes(c->store, after, limit > 0 ? limit : 1));
}

static void
get_position(struct call *c)
{
    answer_with(c, 200, json_pack("{s:I}", "head", (json_int_t)ful_store_head(c->store)));
}

static void
get_health(struct call *c)
{
    json_t *epoch = ful_store_epoch(c->store); /* a real read of the database */

    if (epoch == NULL)
        answer_error(c, 503, "storage", "the database does not answer");
    else
        answer_with(c, 200, json_pack("{s:s}", "status", "ok"));
    json_decref(epoch);
}

static void
route_order(struct call *c)
{
    int64_t id;

    if (!parse_int(c->url + strlen("/orders/"), 1, INT64_MAX, &id))
        answer_error(c, 404, "not-found", "an order's id is a whole number from 1");
    else if (strcmp(c->method, "GET") == 0)
        get_order(c, id);
    else if (strcmp(c->method, "PUT") == 0)
        change_order(c, id, FUL_PUT);
    else if (strcmp(c->method, "DELETE") == 0)
        change_order(c, id, FUL_DELETE);
    else
        answer_error(c, 405, "method", "an order takes GET, PUT and DELETE");
}

static void
route_call(struct call *c)
{
    static const struct {
        const char *method, *url;
        void (*handle)(struct call *);
    } all[] = {
        {"GET", "/orders", get_orders}, {"GET", "/changes", get_changes},
        {"GET", "/epoch", NULL},        {"PUT", "/epoch", set_epoch},
        {"GET", "/health", get_health}, {"GET", "/position", get_position},
        {"POST", "/fault", set_fault},
    };
    bool known = false;

    if (strncmp(c->url, "/orders/", strlen("/orders/")) == 0) {
        route_order(c);
        return;
    }
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (strcmp(all[i].url, c->url) != 0)
            continue;
        known = true;
        if (strcmp(all[i].method, c->method) != 0)
            continue;
        if (all[i].handle != NULL)
            all[i].handle(c);
        else
            answer_read(c, ful_store_epoch(c->store));
        return;
    }
    if (known)
        answer_error(c, 405, "method", "this address takes another method");
    else
        answer_error(c, 404, "not-found", "there is nothing at this address");
}

/* Half of an answer, then the connection breaks. */
static ssize_t
send_half(void *cls, uint64_t pos, char *buf, size_t max)
{
    const char *text = cls;
    size_t      half = strlen(text) / 2;
    size_t      n = half - (size_t)pos;

    if (pos >= half)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    n = n < max ? n : max;
    memcpy(buf, text + pos, n);
    return (ssize_t)n;
}

static enum MHD_Result
send_answer(struct call *c, enum ful_fault fault)
{
    struct MHD_Response *resp = NULL;
    char                 etag[32];
    enum MHD_Result      ok;
    char                *text = fault == FUL_FAULT_GARBAGE ? strdup("<html>\xff{\"not\": json")
                                                           : json_dumps(c->answer, JSON_COMPACT);

    if (text == NULL)
        return MHD_NO;
    if (fault == FUL_FAULT_CLOSE)
        resp = MHD_create_response_from_callback(strlen(text), 4096, send_half, text, free);
    else
        resp = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (resp == NULL) {
        free(text);
        return MHD_NO;
    }
    (void)MHD_add_response_header(resp, "Content-Type", "application/json");
    if (c->etag > 0) {
        (void)snprintf(etag, sizeof(etag), "\"%lld\"", (long long)c->etag);
        (void)MHD_add_response_header(resp, "ETag", etag);
    }
    if (c->replayed)
        (void)MHD_add_response_header(resp, "Idempotent-Replay", "true");
    ok = MHD_queue_response(c->conn, c->status, resp);
    MHD_destroy_response(resp);
    return ok;
}

static enum MHD_Result
handle_call(struct call *c)
{
    int64_t        delay_ms = 0;
    enum ful_fault fault = ful_fault_take(c->method, c->url, &delay_ms);

    if (fault == FUL_FAULT_SLOW)
        nap_us(delay_ms * 1000);
    if (c->too_large)
        answer_error(c, 413, "too-large", "a body has at most 65536 bytes");
    else if (fault == FUL_FAULT_500)
        answer_error(c, 500, "fault", "refused on purpose, nothing was done");
    else if (fault == FUL_FAULT_422)
        answer_error(c, 422, "fault", "refused on purpose, nothing was done");
    else
        route_call(c);
    if (fault == FUL_FAULT_500_AFTER) {
        c->etag = 0;
        answer_error(c, 500, "fault", "failed on purpose after the work was done");
    }
    return send_answer(c, fault);
}

static struct call *
begin_call(struct ful_http *http, struct MHD_Connection *conn, const char *url, const char *method)
{
    struct call *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return NULL;
    c->conn = conn;
    c->store = http->store;
    c->url = url;
    c->method = method;
    return c;
}

static enum MHD_Result
on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
           const char *version, const char *data, size_t *size, void **ctx)
{
    struct call *c = *ctx;
    int64_t      length = 0;
    char        *grown;

    if (c == NULL) {
        *ctx = c = begin_call(cls, conn, url, method);
        if (c == NULL)
            return MHD_NO;
        /* Answered before the body is sent when its length says enough. */
        if (parse_int(header(c, "Content-Length"), FUL_BODY_MAX + 1, INT64_MAX, &length)) {
            c->too_large = true;
            return handle_call(c);
        }
        return MHD_YES;
    }
    if (*size == 0)
        return handle_call(c);
    if (!c->too_large && *size <= FUL_BODY_MAX - c->used) {
        grown = realloc(c->body, c->used + *size);
        if (grown == NULL)
            return MHD_NO;
        memcpy(grown + c->used, data, *size);
        c->body = grown;
        c->used += *size;
    } else {
        c->too_large = true; /* read to its end, kept nowhere */
    }
    *size = 0;
    return MHD_YES;
}

static void
on_completed(void *cls, struct MHD_Connection *conn, void **ctx,
             enum MHD_RequestTerminationCode why)
{
    struct call *c = *ctx;

    if (c == NULL)
        return;
    json_decref(c->answer);
    free(c->body);
    free(c);
    *ctx = NULL;
}

struct ful_http *
ful_http_start(struct ful_store *store, uint16_t port, uint16_t *bound)
{
    struct ful_http            *http = calloc(1, sizeof(*http));
    const union MHD_DaemonInfo *info;
    struct sockaddr_in          addr = {.sin_family = AF_INET, .sin_port = htons(port)};

    if (http == NULL)
        return NULL;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    http->store = store;
    http->daemon = MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, port, NULL,
        NULL, on_request, http, MHD_OPTION_SOCK_ADDR, &addr, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_END);
    info =
        http->daemon != NULL ? MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_BIND_PORT) : NULL;
    if (info == NULL) {
        complain("cannot listen on 127.0.0.1:%u: is the port in use?", port);
        ful_http_stop(http);
        return NULL;
    }
    *bound = info->port;
    return http;
}

void
ful_http_stop(struct ful_http *http)
{
    if (http == NULL)
        return;
    if (http->daemon != NULL)
        MHD_stop_daemon(http->daemon);
    free(http);
}
