/*
 * The HTTP client, on a multi handle of libcurl, which is told of each socket that has something:
 * left to look for itself it asks the system about every request in flight, each time. Exchanges
 * are made ahead, one more than may be in flight, because a callback may start the next request
 * while the slices of its own answer are still being read.
 */
#include "net/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/must.h"

#define KEEP_MAX 262144 /* bytes of a buffer that wait for the next request */
#define CUT_AT 65536    /* bytes that are kept of an answer where only its status counts */
#define EVENTS_MAX 64   /* sockets that are looked after at a time */

struct exchange {
    struct net_client *client;
    CURL              *easy;
    struct curl_slist *headers;
    struct buf         url, body, answer;
    void              *tag;
    size_t             answer_max;
    unsigned           retry_ms;
    bool               busy, changes, head_only, cut;
    size_t             etag_len;
    char               etag[NET_ETAG_MAX];
    char               label[192];
};

struct net_client {
    struct ox_env   *env;
    CURLM           *multi;
    struct net_def   def;
    char            *ca_file;
    uint32_t         in_flight, slots;
    struct exchange *exchanges;
    uint32_t  *free, free_count; /* exchanges that are not busy; the last one is taken first */
    struct buf line;             /* a header's */
    int        poller;           /* the sockets that libcurl waits for */
    uint64_t   due_us;           /* when libcurl wants to be called; UINT64_MAX: it does not */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode       once_result;

static void
init_curl(void)
{
    once_result = curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* Retry-After: seconds, or a date (RFC 9110, section 10.2.3). */
static unsigned
read_retry_after(struct ox_env *env, struct slice value)
{
    char    text[64];
    char   *end;
    int64_t ms;
    time_t  date;

    if (value.len == 0 || value.len >= sizeof text)
        return 0;
    memcpy(text, value.data, value.len);
    text[value.len] = '\0';
    if (text[0] >= '0' && text[0] <= '9' && value.len <= 9) {
        ms = (int64_t)strtoll(text, &end, 10) * 1000;
        if (*end != '\0')
            return 0;
    } else {
        date = curl_getdate(text, NULL);
        if (date == -1)
            return 0;
        ms = (int64_t)date * 1000 - env->ops->wall_us(env) / 1000;
    }
    if (ms < 0)
        return 0;
    return ms > NET_RETRY_MS_MAX ? NET_RETRY_MS_MAX : (unsigned)ms;
}

static bool
is_header(struct slice line, const char *name, struct slice *value)
{
    const char *p = line.data;
    size_t      len = strlen(name), end = line.len;

    if (line.len <= len || p[len] != ':' || strncasecmp(p, name, len) != 0)
        return false;
    len++;
    while (end > len && (p[end - 1] == '\r' || p[end - 1] == '\n' || p[end - 1] == ' '))
        end--;
    while (len < end && (p[len] == ' ' || p[len] == '\t'))
        len++;
    *value = slice_of(p + len, end - len);
    return true;
}

static size_t
on_header(char *data, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    struct slice     line = slice_of(data, size * count), value;

    if (slice_starts(line, slice_str("HTTP/"))) { /* of an interim answer, or of the real one */
        x->etag_len = 0;
        x->retry_ms = 0;
    } else if (is_header(line, "etag", &value)) {
        x->etag_len = value.len <= sizeof x->etag ? value.len : 0;
        memcpy(x->etag, value.data, x->etag_len);
    } else if (is_header(line, "retry-after", &value)) {
        x->retry_ms = read_retry_after(x->client->env, value);
    }
    return line.len;
}

static size_t
on_body(char *data, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    size_t           len = size * count, room = x->answer_max - x->answer.len;

    if (len > room) {
        x->cut = true;
        buf_add(&x->answer, data, room);
        return CURL_WRITEFUNC_ERROR;
    }
    buf_add(&x->answer, data, len);
    return x->answer.failed ? CURL_WRITEFUNC_ERROR : len;
}

static void
free_exchange(struct exchange *x)
{
    if (x->easy != NULL) {
        if (x->busy)
            (void)curl_multi_remove_handle(x->client->multi, x->easy);
        curl_easy_cleanup(x->easy);
    }
    curl_slist_free_all(x->headers);
    buf_fini(&x->url);
    buf_fini(&x->body);
    buf_fini(&x->answer);
}

void
net_client_free(struct net_client *c)
{
    if (c == NULL)
        return;
    for (uint32_t i = 0; c->exchanges != NULL && i < c->slots; i++)
        free_exchange(&c->exchanges[i]);
    if (c->multi != NULL)
        (void)curl_multi_cleanup(c->multi);
    if (c->poller >= 0)
        (void)close(c->poller); /* after that, which may still close connections */
    buf_fini(&c->line);
    free(c->free);
    free(c->exchanges);
    free(c->ca_file);
    free(c);
}

/* libcurl's wishes. A socket that cannot be waited for ends with its request's time. */

static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
    struct net_client *c = arg;
    struct epoll_event e = {.data.fd = fd};
    int                op = known == NULL ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        (void)epoll_ctl(c->poller, EPOLL_CTL_DEL, fd, &e);
        return 0;
    }
    e.events = ((what & CURL_POLL_IN) != 0 ? (uint32_t)EPOLLIN : 0) |
               ((what & CURL_POLL_OUT) != 0 ? (uint32_t)EPOLLOUT : 0);
    if (epoll_ctl(c->poller, op, fd, &e) != 0)
        (void)epoll_ctl(c->poller, op == EPOLL_CTL_ADD ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &e);
    if (known == NULL)
        (void)curl_multi_assign(c->multi, fd, c);
    return 0;
}

static int
on_timer(CURLM *multi, long ms, void *arg)
{
    struct net_client *c = arg;

    (void)multi;
    c->due_us = ms < 0 ? UINT64_MAX : c->env->ops->mono_us(c->env) + (uint64_t)ms * 1000;
    return 0;
}

static void
set_multi(struct net_client *c)
{
    (void)curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)c->slots);
    (void)curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    (void)curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    (void)curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    (void)curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
}

int
net_client_new(struct ox_env *env, const struct net_def *def, struct net_client **out,
               struct err *err)
{
    struct net_client *c = NULL;
    int                rc = 0;

    *out = NULL;
    must(def->in_flight_max > 0);
    must(def->in_flight_max <= NET_IN_FLIGHT_MAX);
    (void)pthread_once(&once, init_curl);
    if (once_result != CURLE_OK)
        FAIL(err, E_NOMEM, ERR_FATAL, "libcurl does not start: %s",
             curl_easy_strerror(once_result));
    c = calloc(1, sizeof *c);
    if (c == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for an HTTP client");
    c->env = env;
    c->def = *def;
    c->due_us = UINT64_MAX;
    c->slots = def->in_flight_max + 1;
    c->exchanges = calloc(c->slots, sizeof *c->exchanges);
    c->free = calloc(c->slots, sizeof *c->free);
    c->multi = curl_multi_init();
    c->poller = epoll_create1(EPOLL_CLOEXEC);
    if (def->ca_file != NULL)
        c->ca_file = strdup(def->ca_file);
    if (c->exchanges == NULL || c->free == NULL || c->multi == NULL ||
        (def->ca_file != NULL && c->ca_file == NULL))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for an HTTP client");
    if (c->poller < 0)
        FAIL(err, E_NOMEM, ERR_RETRY, "no more descriptors for an HTTP client");
    for (uint32_t i = 0; i < c->slots; i++) {
        c->exchanges[i].client = c;
        c->free[c->free_count++] = c->slots - 1 - i;
    }
    set_multi(c);
    *out = c;
    c = NULL;
out:
    net_client_free(c);
    return rc;
}

uint32_t
net_in_flight(const struct net_client *c)
{
    return c->in_flight;
}

static bool
is_token(struct slice s)
{
    const uint8_t *p = s.data;

    for (size_t i = 0; i < s.len; i++)
        if (p[i] <= ' ' || p[i] >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", p[i]) != NULL)
            return false;
    return s.len > 0;
}

/* No line ends or other controls: nobody adds a header by a value. */
static bool
is_field_value(struct slice s)
{
    const uint8_t *p = s.data;

    for (size_t i = 0; i < s.len; i++)
        if ((p[i] < ' ' && p[i] != '\t') || p[i] == 0x7f)
            return false;
    return true;
}

static bool
is_url(struct slice s)
{
    const uint8_t *p = s.data;

    if (!slice_starts(s, slice_str("http://")) && !slice_starts(s, slice_str("https://")))
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (p[i] <= ' ' || p[i] >= 0x7f)
            return false;
    return s.len <= 8192;
}

static int
add_header(struct exchange *x, struct slice name, struct slice value, struct err *err)
{
    struct curl_slist *list;
    struct buf        *line = &x->client->line;

    if (!is_token(name) || !is_field_value(value))
        RETURN_ERR(err, E_INVALID, ERR_DATA,
                   "%s: a header has a character that HTTP does not allow", x->label);
    buf_clear(line);
    buf_add_slice(line, name);
    if (value.len == 0) { /* this is how libcurl is told to send an empty one */
        buf_add_byte(line, ';');
    } else {
        buf_add_str(line, ": ");
        buf_add_slice(line, value);
    }
    buf_add_byte(line, '\0');
    list = line->failed ? NULL : curl_slist_append(x->headers, (const char *)line->data);
    if (list == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a header");
    x->headers = list;
    return 0;
}

/* Options that hold for every request of the handle; set_request sets all the others. */
static int
need_handle(struct exchange *x, struct err *err)
{
    const struct net_def *def = &x->client->def;

    if (x->easy != NULL)
        return 0;
    x->easy = curl_easy_init();
    if (x->easy == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for an HTTP request");
    (void)curl_easy_setopt(x->easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(x->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(x->easy, CURLOPT_FOLLOWLOCATION, 0L);
    (void)curl_easy_setopt(x->easy, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(x->easy, CURLOPT_TCP_KEEPALIVE, 1L);
    (void)curl_easy_setopt(x->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)def->connect_ms);
    (void)curl_easy_setopt(x->easy, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(x->easy, CURLOPT_HEADERDATA, x);
    (void)curl_easy_setopt(x->easy, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(x->easy, CURLOPT_WRITEDATA, x);
    (void)curl_easy_setopt(x->easy, CURLOPT_PRIVATE, x);
    (void)curl_easy_setopt(x->easy, CURLOPT_USERAGENT, "oxbow");
    if (def->version == NET_1_1)
        (void)curl_easy_setopt(x->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    else /* many requests on one connection, where the server can */
        (void)curl_easy_setopt(x->easy, CURLOPT_PIPEWAIT, 1L);
    if (x->client->ca_file != NULL)
        (void)curl_easy_setopt(x->easy, CURLOPT_CAINFO, x->client->ca_file);
    return 0;
}

/* One large request must not cost its memory for ever. */
static void
clear_buf(struct buf *b)
{
    if (b->cap > KEEP_MAX)
        buf_fini(b);
    else
        buf_clear(b);
}

static int
set_request(struct exchange *x, const struct net_request *r, struct err *err)
{
    int rc = 0;

    buf_clear(&x->url);
    clear_buf(&x->body);
    clear_buf(&x->answer);
    buf_add_slice(&x->url, r->url);
    buf_add_byte(&x->url, '\0');
    buf_add_slice(&x->body, r->body);
    if (x->url.failed || x->body.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for an HTTP request");
    TRY(need_handle(x, err));
    for (uint32_t i = 0; i < r->header_count; i++)
        TRY(add_header(x, r->headers[i].name, r->headers[i].value, err));
    if (r->body.data != NULL) {
        /* No "100 Continue" first: that would cost every larger write a round trip. */
        struct curl_slist *list = curl_slist_append(x->headers, "Expect:");

        if (list == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a header");
        x->headers = list;
        (void)curl_easy_setopt(x->easy, CURLOPT_POSTFIELDS,
                               x->body.data == NULL ? "" : (const char *)x->body.data);
        (void)curl_easy_setopt(x->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)x->body.len);
    } else {
        (void)curl_easy_setopt(x->easy, CURLOPT_HTTPGET, 1L);
    }
    (void)curl_easy_setopt(x->easy, CURLOPT_CUSTOMREQUEST, r->method);
    (void)curl_easy_setopt(x->easy, CURLOPT_HTTPHEADER, x->headers);
    (void)curl_easy_setopt(x->easy, CURLOPT_TIMEOUT_MS,
                           (long)(r->total_ms != 0 ? r->total_ms : x->client->def.total_ms));
    if (curl_easy_setopt(x->easy, CURLOPT_URL, (const char *)x->url.data) != CURLE_OK)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a URL");
out:
    return rc;
}

static void
set_label(struct exchange *x, const struct net_request *r)
{
    size_t      len = 0, slashes = 0;
    const char *p = r->url.data;

    if (r->label != NULL) {
        (void)snprintf(x->label, sizeof x->label, "%s", r->label);
        return;
    }
    while (len < r->url.len && p[len] != '?' && (slashes += p[len] == '/') < 3)
        len++;
    (void)snprintf(x->label, sizeof x->label, "%s %.*s", r->method, (int)len, p);
}

int
net_start(struct net_client *c, const struct net_request *r, void *tag, struct err *err)
{
    struct exchange *x = NULL;
    int              rc = 0;

    if (c->in_flight >= c->def.in_flight_max)
        RETURN_ERR(err, E_BUSY, ERR_RETRY, "%u requests are in flight already", c->in_flight);
    must(c->free_count > 0);
    x = &c->exchanges[c->free[c->free_count - 1]];
    must(!x->busy);
    set_label(x, r);
    if (!is_url(r->url))
        FAIL(err, E_INVALID, ERR_DATA, "%s: not a URL of http or https", x->label);
    x->tag = tag;
    x->changes = r->changes;
    x->head_only = r->head_only;
    x->answer_max = r->head_only && c->def.answer_max > CUT_AT ? CUT_AT : c->def.answer_max;
    x->cut = false;
    x->etag_len = 0;
    x->retry_ms = 0;
    TRY(set_request(x, r, err));
    if (curl_multi_add_handle(c->multi, x->easy) != CURLM_OK)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for an HTTP request");
    x->busy = true;
    c->in_flight++;
    c->free_count--;
    x = NULL;
out:
    if (x != NULL) {
        curl_slist_free_all(x->headers);
        x->headers = NULL;
    }
    return rc;
}

static void
release(struct exchange *x)
{
    struct net_client *c = x->client;

    must(c->free_count < c->slots);
    curl_slist_free_all(x->headers);
    x->headers = NULL;
    x->busy = false;
    c->free[c->free_count++] = (uint32_t)(x - c->exchanges);
}

/* What came instead of an answer. `sent`: the server may have read the request. */
static int
explain(const struct exchange *x, CURLcode code, bool sent, struct err *err)
{
    enum err_kind lost = sent && x->changes ? ERR_UNSURE : ERR_RETRY;

    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
        RETURN_ERR(err, E_CONNECT, lost, "%s: the name of the host is not known", x->label);
    case CURLE_COULDNT_CONNECT:
        RETURN_ERR(err, E_CONNECT, lost, "%s: cannot connect", x->label);
    case CURLE_OPERATION_TIMEDOUT:
        RETURN_ERR(err, sent ? E_TIMEOUT : E_CONNECT, lost, "%s: no %s in time", x->label,
                   sent ? "answer" : "connection");
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        RETURN_ERR(err, E_REMOTE, lost, "%s: the connection closed before the answer", x->label);
    case CURLE_PARTIAL_FILE:
        RETURN_ERR(err, E_REMOTE, lost, "%s: the connection closed within the answer", x->label);
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
        RETURN_ERR(err, E_SCHEMA, lost, "%s: the answer is not HTTP", x->label);
    case CURLE_URL_MALFORMAT:
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: not a URL of http or https", x->label);
    case CURLE_WRITE_ERROR:
        if (x->cut)
            RETURN_ERR(err, E_LIMIT, lost, "%s: the answer is over the limit of %zu bytes",
                       x->label, x->answer_max);
        RETURN_ERR(err, E_NOMEM, lost, "%s: out of memory for the answer", x->label);
    case CURLE_OUT_OF_MEMORY:
        RETURN_ERR(err, E_NOMEM, lost, "%s: out of memory", x->label);
    default:
        RETURN_ERR(err, sent ? E_REMOTE : E_CONNECT, lost, "%s: %s", x->label,
                   curl_easy_strerror(code));
    }
}

static void
finish(struct exchange *x, CURLcode code, net_done_fn *done, void *arg)
{
    struct net_answer answer = {0};
    struct err        err = {0};
    long              status = 0, sent = 0;
    int               rc = 0;

    (void)curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(x->easy, CURLINFO_REQUEST_SIZE, &sent);
    (void)curl_multi_remove_handle(x->client->multi, x->easy);
    x->client->in_flight--;
    if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && x->cut && x->head_only)) {
        answer.status = (int)status;
        answer.retry_ms = x->retry_ms;
        answer.etag = slice_of(x->etag, x->etag_len);
        answer.body = buf_slice(&x->answer);
    } else {
        rc = explain(x, code, sent > 0, &err);
    }
    clear_buf(&x->body);
    done(arg, x->tag, rc, rc == 0 ? &answer : NULL, &err);
    release(x);
}

static bool
drain(struct net_client *c, net_done_fn *done, void *arg)
{
    CURLMsg *msg;
    int      left;
    bool     any = false;

    while ((msg = curl_multi_info_read(c->multi, &left)) != NULL) {
        struct exchange *x = NULL;

        must(msg->msg == CURLMSG_DONE);
        (void)curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &x);
        must(x != NULL);
        finish(x, msg->data.result, done, arg);
        any = true;
    }
    return any;
}

/* Lets libcurl work on what is due by time. */
static CURLMcode
work_due(struct net_client *c, uint64_t now)
{
    int running;

    if (c->due_us > now)
        return CURLM_OK;
    c->due_us = UINT64_MAX; /* on_timer sets it anew */
    return curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
}

/* On the sockets that have something; waits for the first until `end`, or until something is due.
 * What is wrong with one shows when it is read. */
static CURLMcode
work_sockets(struct net_client *c, uint64_t now, uint64_t end)
{
    struct epoll_event ready[EVENTS_MAX];
    uint64_t           until = c->due_us < end ? c->due_us : end;
    CURLMcode          code = CURLM_OK;
    int                ms = until <= now ? 0 : (int)((until - now + 999) / 1000), running;
    int                n = epoll_wait(c->poller, ready, EVENTS_MAX, ms);

    for (int i = 0; i < n && code == CURLM_OK; i++) {
        uint32_t is = ready[i].events;
        int      what = ((is & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0 ? CURL_CSELECT_IN : 0) |
                   ((is & EPOLLOUT) != 0 ? CURL_CSELECT_OUT : 0);

        code = curl_multi_socket_action(c->multi, ready[i].data.fd, what, &running);
    }
    return code;
}

int
net_poll(struct net_client *c, uint32_t wait_ms, net_done_fn *done, void *arg, struct err *err)
{
    uint64_t now = c->env->ops->mono_us(c->env), end = now + (uint64_t)wait_ms * 1000;

    for (;;) {
        CURLMcode code = work_due(c, now);
        bool      any = drain(c, done, arg);

        if (code == CURLM_OK && c->in_flight > 0) {
            code = work_sockets(c, now, any ? now : end);
            any = drain(c, done, arg) || any;
        }
        if (code != CURLM_OK)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "HTTP: %s", curl_multi_strerror(code));
        now = c->env->ops->mono_us(c->env);
        if (any || c->in_flight == 0 || now >= end)
            return 0;
    }
}

struct call {
    struct net_answer *answer;
    struct err        *err;
    int                rc;
    bool               ended;
};

static void
end_call(void *arg, void *tag, int rc, const struct net_answer *answer, const struct err *err)
{
    struct call *call = arg;

    (void)tag;
    call->rc = rc;
    call->ended = true;
    if (rc == 0)
        *call->answer = *answer;
    else
        err_copy(call->err, err);
}

void
net_drop(struct net_client *c)
{
    for (uint32_t i = 0; i < c->slots; i++) {
        struct exchange *x = &c->exchanges[i];

        if (!x->busy)
            continue;
        (void)curl_multi_remove_handle(c->multi, x->easy);
        release(x);
        c->in_flight--;
    }
}

int
net_call(struct net_client *c, const struct net_request *r, struct net_answer *answer,
         struct err *err)
{
    struct call call = {answer, err, 0, false};
    int         rc = 0;

    must(c->in_flight == 0);
    memset(answer, 0, sizeof *answer);
    TRY(net_start(c, r, NULL, err));
    while (!call.ended)
        TRY(net_poll(c, 1000, end_call, &call, err));
    rc = call.rc;
out:
    if (!call.ended)
        net_drop(c);
    return rc;
}
