/* One thread accepts, one a connection serves; all end in http_fake_free. */
#include "http_fake.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/must.h"

#define CONNS_MAX 64
#define SCRIPT_MAX 64
#define REQUEST_MAX (20u << 20)

struct step {
    enum fake_mode mode;
    int            status;
    uint32_t       times;
    bool           effect;
    char           headers[512];
    char          *body;
};

struct conn {
    struct http_fake *fake;
    pthread_t         thread;
    int               fd;
    bool              started;
};

struct http_fake {
    fake_fn        *fn;
    void           *arg;
    int             fd;
    uint16_t        port;
    int             stop[2]; /* a pipe: readable for everybody when it is time to go */
    pthread_t       thread;
    pthread_mutex_t mutex;
    struct conn     conns[CONNS_MAX];
    uint32_t        conn_count, count, waiting, at_once;
    struct step     script[SCRIPT_MAX];
    uint32_t        script_at, script_len;
    struct buf      last;
};

/* 1 readable, 0 time to stop. */
static int
wait_for(struct http_fake *f, int fd)
{
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = f->stop[0], .events = POLLIN}};

    while (poll(fds, 2, -1) < 0)
        ;
    return fds[1].revents != 0 ? 0 : 1;
}

static bool
read_more(struct conn *c, struct buf *in)
{
    ssize_t n;

    if (!wait_for(c->fake, c->fd) || !buf_reserve(in, 65536))
        return false;
    n = recv(c->fd, in->data + in->len, 65536, 0);
    if (n <= 0)
        return false;
    in->len += (size_t)n;
    return true;
}

bool
http_fake_header(const struct fake_request *r, const char *name, struct slice *value)
{
    const char *p = r->head.data, *end = p + r->head.len;
    size_t      len = strlen(name);

    while (p < end) {
        const char *eol = memmem(p, (size_t)(end - p), "\r\n", 2);

        if (eol == NULL)
            eol = end;
        if ((size_t)(eol - p) > len && p[len] == ':' && strncasecmp(p, name, len) == 0) {
            p += len + 1;
            while (p < eol && *p == ' ')
                p++;
            *value = slice_of(p, (size_t)(eol - p));
            return true;
        }
        p = eol + 2;
    }
    return false;
}

/* 1 with a request in `in`, whose first *used bytes it is; 0 where the client is gone. */
static int
read_request(struct conn *c, struct buf *in, struct fake_request *r, size_t *used)
{
    struct slice length;
    const char  *head_end, *line_end;
    size_t       head, body = 0;
    char         number[24];

    while (in->len == 0 || (head_end = memmem(in->data, in->len, "\r\n\r\n", 4)) == NULL)
        if (!read_more(c, in))
            return 0;
    line_end = memmem(in->data, in->len, "\r\n", 2);
    must(line_end != NULL);
    head = (size_t)(head_end - (const char *)in->data) + 4;
    r->head = slice_of(line_end + 2, head - (size_t)(line_end - (const char *)in->data) - 2);
    if (http_fake_header(r, "content-length", &length) && length.len < sizeof number) {
        memcpy(number, length.data, length.len);
        number[length.len] = '\0';
        body = (size_t)strtoull(number, NULL, 10);
    }
    while (in->len < head + body)
        if (!read_more(c, in))
            return 0;
    line_end = memmem(in->data, in->len, "\r\n", 2); /* it may have moved */
    r->head = slice_of(line_end + 2, head - (size_t)(line_end - (const char *)in->data) - 2);
    r->body = slice_of(in->data + head, body);
    *used = head + body;
    return sscanf((const char *)in->data, "%15s %2047s HTTP/1.1", r->method, r->path) == 2;
}

static void
send_all(int fd, const void *data, size_t len)
{
    const char *p = data;
    ssize_t     n;

    while (len > 0 && (n = send(fd, p, len, MSG_NOSIGNAL)) > 0) {
        p += n;
        len -= (size_t)n;
    }
}

/* Under the mutex: the script's step, or the function. */
static void
decide(struct http_fake *f, const struct fake_request *r, struct fake_reply *reply)
{
    struct step *step;

    f->count++;
    f->waiting++;
    if (f->waiting > f->at_once)
        f->at_once = f->waiting;
    buf_clear(&f->last);
    buf_printf(&f->last, "%s %s\n%.*s\n%.*s", r->method, r->path, SLICE_FMT(r->head),
               SLICE_FMT(r->body));
    if (f->script_at == f->script_len) {
        if (f->fn != NULL)
            f->fn(f->arg, r, reply);
        else
            reply->status = 404;
        return;
    }
    step = &f->script[f->script_at];
    if (step->effect && f->fn != NULL) {
        f->fn(f->arg, r, reply);
        buf_clear(&reply->body);
    }
    reply->mode = step->mode;
    reply->status = step->status;
    memcpy(reply->headers, step->headers, sizeof reply->headers);
    buf_add_str(&reply->body, step->body);
    if (--step->times == 0) {
        free(step->body);
        f->script_at++;
    }
}

/* False where the connection ends. */
static bool
answer(struct conn *c, struct fake_reply *reply)
{
    struct buf out = {0};
    bool       keep = reply->mode == FAKE_ANSWER;
    int        status = reply->status == 0 ? 200 : reply->status;

    if (reply->mode == FAKE_HANG) {
        struct buf nothing = {0};

        while (read_more(c, &nothing))
            buf_clear(&nothing);
        buf_fini(&nothing);
        return false;
    }
    if (reply->mode == FAKE_CLOSE)
        return false;
    if (reply->mode != FAKE_GARBAGE) {
        buf_printf(&out, "HTTP/1.1 %d Fake\r\n%s", status, reply->headers);
        if (status != 204)
            buf_printf(&out, "Content-Length: %zu\r\n", reply->body.len);
        buf_add_str(&out, "\r\n");
    }
    buf_add_slice(&out, buf_slice(&reply->body));
    send_all(c->fd, out.data, reply->mode == FAKE_HALF ? out.len - reply->body.len / 2 : out.len);
    buf_fini(&out);
    return keep;
}

static void *
serve(void *arg)
{
    struct conn        *c = arg;
    struct http_fake   *f = c->fake;
    struct buf          in;
    struct fake_request request;
    struct fake_reply  *reply = calloc(1, sizeof *reply);
    size_t              used = 0;
    bool                keep = reply != NULL;

    buf_init(&in, REQUEST_MAX);
    while (keep && read_request(c, &in, &request, &used)) {
        reply->status = 0;
        reply->mode = FAKE_ANSWER;
        reply->headers[0] = '\0';
        buf_clear(&reply->body);
        pthread_mutex_lock(&f->mutex);
        decide(f, &request, reply);
        pthread_mutex_unlock(&f->mutex);
        keep = answer(c, reply);
        pthread_mutex_lock(&f->mutex);
        f->waiting--;
        pthread_mutex_unlock(&f->mutex);
        buf_consume(&in, used);
    }
    (void)shutdown(c->fd, SHUT_RDWR);
    if (reply != NULL)
        buf_fini(&reply->body);
    free(reply);
    buf_fini(&in);
    return NULL;
}

static void *
accept_all(void *arg)
{
    struct http_fake *f = arg;

    while (wait_for(f, f->fd)) {
        int          fd = accept(f->fd, NULL, NULL), on = 1;
        struct conn *c = &f->conns[f->conn_count % CONNS_MAX];

        if (fd < 0)
            continue;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (c->started) { /* the oldest is long over in any test */
            (void)shutdown(c->fd, SHUT_RDWR);
            (void)pthread_join(c->thread, NULL);
            (void)close(c->fd);
        }
        c->fake = f;
        c->fd = fd;
        pthread_mutex_lock(&f->mutex);
        f->conn_count++; /* before anything is answered */
        pthread_mutex_unlock(&f->mutex);
        c->started = pthread_create(&c->thread, NULL, serve, c) == 0;
        must(c->started);
    }
    return NULL;
}

struct http_fake *
http_fake_new(fake_fn *fn, void *arg)
{
    struct http_fake  *f = calloc(1, sizeof *f);
    struct sockaddr_in addr = {.sin_family = AF_INET};
    socklen_t          len = sizeof addr;

    must(f != NULL);
    f->fn = fn;
    f->arg = arg;
    pthread_mutex_init(&f->mutex, NULL);
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    f->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(f->fd >= 0);
    must(bind(f->fd, (struct sockaddr *)&addr, sizeof addr) == 0);
    must(listen(f->fd, 64) == 0);
    must(getsockname(f->fd, (struct sockaddr *)&addr, &len) == 0);
    f->port = ntohs(addr.sin_port);
    must(pipe(f->stop) == 0);
    must(pthread_create(&f->thread, NULL, accept_all, f) == 0);
    return f;
}

void
http_fake_free(struct http_fake *f)
{
    if (f == NULL)
        return;
    must(write(f->stop[1], "x", 1) == 1);
    (void)pthread_join(f->thread, NULL);
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        if (!f->conns[i].started)
            continue;
        (void)pthread_join(f->conns[i].thread, NULL);
        (void)close(f->conns[i].fd);
    }
    while (f->script_at < f->script_len)
        free(f->script[f->script_at++].body);
    (void)close(f->fd);
    (void)close(f->stop[0]);
    (void)close(f->stop[1]);
    pthread_mutex_destroy(&f->mutex);
    buf_fini(&f->last);
    free(f);
}

uint16_t
http_fake_port(const struct http_fake *f)
{
    return f->port;
}

void
http_fake_push_many(struct http_fake *f, uint32_t times, bool effect, enum fake_mode mode,
                    int status, const char *headers, const char *body)
{
    struct step *step;

    must(times > 0);
    pthread_mutex_lock(&f->mutex);
    if (f->script_at == f->script_len)
        f->script_at = f->script_len = 0;
    must(f->script_len < SCRIPT_MAX);
    step = &f->script[f->script_len++];
    step->mode = mode;
    step->status = status;
    step->times = times;
    step->effect = effect;
    (void)snprintf(step->headers, sizeof step->headers, "%s", headers == NULL ? "" : headers);
    step->body = strdup(body == NULL ? "" : body);
    must(step->body != NULL);
    pthread_mutex_unlock(&f->mutex);
}

void
http_fake_push(struct http_fake *f, enum fake_mode mode, int status, const char *headers,
               const char *body)
{
    http_fake_push_many(f, 1, false, mode, status, headers, body);
}

static uint32_t
read_counter(struct http_fake *f, const uint32_t *counter)
{
    uint32_t v;

    pthread_mutex_lock(&f->mutex);
    v = *counter;
    pthread_mutex_unlock(&f->mutex);
    return v;
}

uint32_t
http_fake_count(struct http_fake *f)
{
    return read_counter(f, &f->count);
}

uint32_t
http_fake_connections(struct http_fake *f)
{
    return read_counter(f, &f->conn_count);
}

uint32_t
http_fake_at_once(struct http_fake *f)
{
    return read_counter(f, &f->at_once);
}

bool
http_fake_last_has(struct http_fake *f, const char *text)
{
    bool has;

    pthread_mutex_lock(&f->mutex);
    has = f->last.len > 0 && memmem(f->last.data, f->last.len, text, strlen(text)) != NULL;
    pthread_mutex_unlock(&f->mutex);
    return has;
}
