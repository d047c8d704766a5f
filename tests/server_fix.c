#include "server_fix.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/say.h"
#include "tmp.h"

static void
say_nothing(void *arg, const char *line, size_t len)
{
    (void)arg;
    (void)line;
    (void)len;
}

static void *
run(void *arg)
{
    struct fix *f = arg;

    if (server_run(f->server, &f->err) != 0)
        (void)fprintf(stderr, "server: %s\n", f->err.text);
    return NULL;
}

static void
open_all(struct fix *f)
{
    if (log_open(env_real(), f->dir, &f->log_conf, NULL, &f->log, &f->err) != 0)
        fail_msg("log: %s", f->err.text);
    if (server_new(env_real(), f->log, &f->conf, &f->server, &f->err) != 0)
        fail_msg("server: %s", f->err.text);
}

static void
begin(struct fix *f)
{
    assert_int_equal(pthread_create(&f->thread, NULL, run, f), 0);
    f->running = true;
}

static void
end(struct fix *f)
{
    if (f->running) {
        server_stop(f->server);
        (void)pthread_join(f->thread, NULL);
    }
    f->running = false;
    server_free(f->server);
    log_close(f->log);
    f->server = NULL;
    f->log = NULL;
}

void
fix_restart(struct fix *f)
{
    end(f);
    open_all(f);
    begin(f);
}

void
fix_start(struct fix *f, const struct server_route *routes, size_t count, void *arg)
{
    say_to(say_nothing, NULL);
    tmp_dir(f->dir, sizeof f->dir);
    f->log_conf.index = &log_index_lmdb;
    f->log_conf.segment_bytes = UINT64_C(32) << 20;
    open_all(f);
    if (server_add_routes(f->server, routes, count, arg, &f->err) != 0)
        fail_msg("routes: %s", f->err.text);
    begin(f);
}

void
fix_stop(struct fix *f)
{
    end(f);
    tmp_remove(f->dir);
}

int
fix_setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    fix_start(f, NULL, 0, NULL);
    *state = f;
    return 0;
}

int
fix_teardown(void **state)
{
    struct fix *f = *state;

    fix_stop(f);
    free(f);
    return 0;
}

void
client_open(struct client *c, const struct fix *f)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(server_port(f->server))};

    memset(c, 0, sizeof *c);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(c->fd >= 0);
    assert_int_equal(connect(c->fd, (struct sockaddr *)&address, sizeof address), 0);
}

void
client_close(struct client *c)
{
    (void)close(c->fd);
    buf_fini(&c->in);
}

void
client_send_bytes(struct client *c, const void *data, size_t len)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);

        if (n < 0) /* it refused the rest: the answer is on its way */
            return;
        p += n;
        len -= (size_t)n;
    }
}

void
client_send(struct client *c, const char *text)
{
    client_send_bytes(c, text, strlen(text));
}

bool
client_more(struct client *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    ssize_t       n;

    if (c->closed)
        return false;
    if (poll(&p, 1, 60000) != 1)
        fail_msg("nothing came for 60 s");
    assert_true(buf_reserve(&c->in, 65536));
    n = recv(c->fd, c->in.data + c->in.len, 65536, 0);
    if (n <= 0) {
        c->closed = true;
        return false;
    }
    c->in.len += (size_t)n;
    return true;
}

bool
buf_has(const struct buf *b, const char *text)
{
    return b->len != 0 && memmem(b->data, b->len, text, strlen(text)) != NULL;
}

/* Moves everything up to and with `text` to `out`, which may be NULL. */
static void
take_until(struct client *c, const char *text, struct buf *out)
{
    const uint8_t *at;
    size_t         n;

    while (c->in.len == 0 || (at = memmem(c->in.data, c->in.len, text, strlen(text))) == NULL)
        if (!client_more(c))
            fail_msg("closed before \"%s\" came; there is: %.*s", text, (int)c->in.len,
                     (const char *)c->in.data);
    n = (size_t)(at - c->in.data) + strlen(text);
    if (out != NULL)
        buf_add(out, c->in.data, n);
    buf_consume(&c->in, n);
}

void
client_until(struct client *c, const char *text)
{
    take_until(c, text, NULL);
}

static void
take(struct client *c, size_t n, struct buf *out)
{
    while (c->in.len < n)
        if (!client_more(c))
            fail_msg("closed within an answer");
    buf_add(out, c->in.data, n);
    buf_consume(&c->in, n);
}

static void
take_chunks(struct client *c, struct buf *out)
{
    for (;;) {
        struct buf line = {0};
        size_t     n;

        take_until(c, "\r\n", &line);
        buf_add_byte(&line, 0);
        n = strtoul((char *)line.data, NULL, 16);
        buf_fini(&line);
        take(c, n, out);
        take_until(c, "\r\n", NULL);
        if (n == 0)
            return;
    }
}

void
client_answer(struct client *c, struct answer *a, bool has_body)
{
    const char *length;

    memset(a, 0, sizeof *a);
    take_until(c, "\r\n\r\n", &a->head);
    buf_add_byte(&a->head, 0);
    assert_memory_equal(a->head.data, "HTTP/1.1 ", 9);
    a->status = (int)strtol((char *)a->head.data + 9, NULL, 10);
    length = strstr((char *)a->head.data, "Content-Length: ");
    if (!has_body)
        return;
    if (length != NULL)
        take(c, strtoul(length + 16, NULL, 10), &a->body);
    else if (answer_has(a, "Transfer-Encoding: chunked"))
        take_chunks(c, &a->body);
}

void
client_expect_end(struct client *c)
{
    while (client_more(c))
        ;
    assert_int_equal(c->in.len, 0);
}

void
answer_fini(struct answer *a)
{
    buf_fini(&a->head);
    buf_fini(&a->body);
}

bool
answer_has(const struct answer *a, const char *text)
{
    return buf_has(&a->head, text);
}

static int
finish(struct client *c, struct buf *body)
{
    struct answer a;
    int           status;

    client_answer(c, &a, true);
    status = a.status;
    if (body != NULL) {
        buf_clear(body);
        buf_add_slice(body, buf_slice(&a.body));
    }
    answer_fini(&a);
    client_close(c);
    return status;
}

int
ask(const struct fix *f, const char *request, struct buf *body)
{
    struct client c;

    client_open(&c, f);
    client_send(&c, request);
    return finish(&c, body);
}

int
ask_with(const struct fix *f, const char *method, const char *path, const char *fields,
         struct slice content, struct buf *body)
{
    struct client c;
    struct buf    head = {0};

    client_open(&c, f);
    buf_printf(&head, "%s %s HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n%s\r\n", method, path,
               content.len, fields);
    client_send_bytes(&c, head.data, head.len);
    client_send_bytes(&c, content.data, content.len);
    buf_fini(&head);
    return finish(&c, body);
}

int
post(const struct fix *f, const char *path, const char *fields, const char *text, struct buf *body)
{
    return ask_with(f, "POST", path, fields, slice_str(text), body);
}

int
get(const struct fix *f, const char *path, const char *fields, struct buf *body)
{
    char request[512];

    (void)snprintf(request, sizeof request, "GET %s HTTP/1.1\r\n" HOST "%s\r\n", path, fields);
    return ask(f, request, body);
}

void
expect_body(const struct buf *body, const char *text)
{
    if (!buf_has(body, text))
        fail_msg("\"%s\" is not in %.*s", text, (int)body->len, (const char *)body->data);
}

uint64_t
metric(const struct fix *f, const char *name)
{
    struct buf b = {0};
    char       line[80];
    uint64_t   v;

    assert_int_equal(get(f, "/metrics", "", &b), 200);
    buf_add_byte(&b, 0);
    (void)snprintf(line, sizeof line, "\n%s ", name);
    v = strtoull(strstr((char *)b.data, line) + strlen(line), NULL, 10);
    buf_fini(&b);
    return v;
}
