/* The loop: listening, waking, the order of things in one turn, stopping. */
#include "server/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/must.h"
#include "base/say.h"
#include "log/log.h"
#include "server/access_int.h"
#include "server/server_int.h"

#define TICK_MS_MAX 1000
#define TICK_MS_MIN 20

static const int signal_numbers[3] = {SIGTERM, SIGINT, SIGHUP};

uint64_t
serveri_now_ms(struct server *s)
{
    return uv_now(&s->loop);
}

uint16_t
server_port(const struct server *s)
{
    return s->port;
}

/* Messages from other threads. */

/* Any thread, and signal handlers. */
static void
wake(const struct server *s)
{
    uint64_t one = 1;
    ssize_t  n = write(s->wake_fd, &one, sizeof one);

    must(n == sizeof one || errno == EAGAIN); /* full: it is awake */
}

void
serveri_post(struct server *s, struct message *m)
{
    struct message *head = atomic_load_explicit(&s->inbox, memory_order_relaxed);

    do {
        m->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&s->inbox, &head, m, memory_order_acq_rel,
                                                    memory_order_relaxed));
    /* Whoever found it empty wakes the loop; the others ride along. */
    if (head == NULL)
        wake(s);
}

static void
take_messages(struct server *s)
{
    struct message *m = atomic_exchange_explicit(&s->inbox, NULL, memory_order_acq_rel);
    struct message *first = NULL;

    s->taken_us = m == NULL ? 0 : s->env->ops->mono_us(s->env);
    while (m != NULL) { /* newest first: turn it round */
        struct message *next = m->next;

        m->next = first;
        first = m;
        m = next;
    }
    while (first != NULL) {
        m = first;
        first = m->next;
        m->fn(m); /* it may be gone afterwards */
    }
}

static void
on_log_grew(struct log_listener *listener)
{
    struct server *s = listener->arg;

    if (!atomic_exchange(&s->log_grew, true) && atomic_load(&s->watched))
        wake(s);
}

/* Stopping. */

static void
close_handle(uv_handle_t *handle)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void
drain(struct server *s)
{
    if (s->draining)
        return;
    s->draining = true;
    s->drain_ms = serveri_now_ms(s);
    say(SAY_INFO, "stopping", NULL);
    close_handle((uv_handle_t *)&s->listener);
    for (struct conn *c = s->conns, *next; c != NULL; c = next) {
        next = c->next;
        serveri_conn_drain(c);
    }
}

/* Everything is answered: without handles the loop ends. */
static void
finish(struct server *s)
{
    if (s->closing || !s->draining || s->conn_count != 0 || s->in_flight != 0)
        return;
    s->closing = true;
    /* This one stays until server_free: somebody may still hold an answer. */
    uv_unref((uv_handle_t *)&s->wake);
    close_handle((uv_handle_t *)&s->prepare);
    close_handle((uv_handle_t *)&s->check);
    close_handle((uv_handle_t *)&s->idle);
    close_handle((uv_handle_t *)&s->timer);
    for (size_t i = 0; i < 3; i++)
        close_handle((uv_handle_t *)&s->signals[i]);
}

void
server_stop(struct server *s)
{
    atomic_store(&s->stop, true);
    wake(s);
}

/* One turn of the loop. */

static void
flush(struct server *s)
{
    serveri_append_submit(s);
    serveri_grpc_submit(s);
    while (s->dirty != NULL) {
        struct conn *c = s->dirty;

        s->dirty = c->dirty_next;
        c->dirty = false;
        serveri_conn_flush(c);
    }
    finish(s);
}

static void
take_growth(struct server *s)
{
    if (atomic_exchange(&s->log_grew, false))
        serveri_feeds_wake(s);
}

/* Who grows the log looks at `watched` after it has set `log_grew`: one of the two sees the other.
 */
static void
on_prepare(uv_prepare_t *handle)
{
    struct server *s = handle->data;
    bool           watched;

    flush(s);
    watched = serveri_feeds_wait(s);
    if (watched != atomic_load_explicit(&s->watched, memory_order_relaxed))
        atomic_store(&s->watched, watched);
    if (watched && atomic_load(&s->log_grew))
        take_growth(s);
}

static void
on_check(uv_check_t *handle)
{
    flush(handle->data);
}

static void
on_idle(uv_idle_t *handle)
{
    struct server *s = handle->data;

    if (serveri_live_is_due(s))
        serveri_live_run(s);
    serveri_feeds_run(s);
    serveri_grpc_readers_run(s);
    if (s->runnable == NULL && s->grpc_runnable == NULL && !serveri_live_is_due(s))
        (void)uv_idle_stop(&s->idle);
}

void
serveri_run_soon(struct server *s)
{
    (void)uv_idle_start(&s->idle, on_idle);
}

static void
on_wake(uv_poll_t *handle, int status, int events)
{
    struct server *s = handle->data;
    uint64_t       count;
    ssize_t        n = read(s->wake_fd, &count, sizeof count);

    must(n == sizeof count || errno == EAGAIN);
    take_messages(s);
    take_growth(s);
    if (atomic_load(&s->stop))
        drain(s);
}

static void
set_date(struct server *s)
{
    time_t    now = (time_t)(s->env->ops->wall_us(s->env) / 1000000);
    struct tm tm;

    if (s->date_s == (int64_t)now || gmtime_r(&now, &tm) == NULL)
        return;
    s->date_s = (int64_t)now;
    /* Not strftime: the names must not follow the locale. */
    (void)snprintf(s->date, sizeof s->date, "Date: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\r\n",
                   &"SunMonTueWedThuFriSat"[3 * tm.tm_wday], tm.tm_mday,
                   &"JanFebMarAprMayJunJulAugSepOctNovDec"[3 * tm.tm_mon], tm.tm_year + 1900,
                   tm.tm_hour, tm.tm_min, tm.tm_sec);
    s->created_len = (size_t)snprintf(
        s->created, sizeof s->created,
        "HTTP/1.1 201 Created\r\n%sContent-Type: " CALL_JSON "\r\nContent-Length: ", s->date);
}

static void
on_timer(uv_timer_t *timer)
{
    struct server *s = timer->data;
    uint64_t       now = serveri_now_ms(s);
    bool           late = s->draining && now - s->drain_ms > s->conf.drain_ms_max;

    set_date(s);
    for (struct conn *c = s->conns, *next; c != NULL; c = next) {
        next = c->next;
        if (late)
            serveri_conn_abort(c);
        else
            serveri_conn_tick(c, now);
    }
}

static void
on_signal(uv_signal_t *handle, int number)
{
    struct server *s = handle->data;

    if (number != SIGHUP) {
        drain(s);
        return;
    }
    say(SAY_INFO, "reloading", NULL);
    if (s->conf.reload != NULL)
        s->conf.reload(s->conf.reload_arg);
}

static void
on_connection(uv_stream_t *listener, int status)
{
    if (status != 0) {
        say(SAY_WARN, "cannot accept a connection", "why", uv_strerror(status), NULL);
        return;
    }
    serveri_conn_accept(listener->data);
}

/* Opening. */

static void
set_defaults(struct server_conf *conf)
{
    struct {
        uint32_t *value, fallback;
    } numbers[] = {
        {&conf->connections_max, 1024}, {&conf->head_ms_max, 10000},   {&conf->idle_ms_max, 75000},
        {&conf->body_ms_max, 30000},    {&conf->stall_ms_max, 120000}, {&conf->drain_ms_max, 10000},
        {&conf->keepalive_ms, 15000},
    };

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (*numbers[i].value == 0)
            *numbers[i].value = numbers[i].fallback;
    if (conf->host == NULL || strcmp(conf->host, "localhost") == 0)
        conf->host = "127.0.0.1";
    if (conf->body_bytes_max == 0)
        conf->body_bytes_max = UINT64_C(65) << 20;
    if (conf->memory_bytes_max == 0)
        conf->memory_bytes_max = UINT64_C(256) << 20;
}

static uint64_t
tick_ms(const struct server_conf *conf)
{
    uint32_t limits[] = {conf->head_ms_max,  conf->idle_ms_max,  conf->body_ms_max,
                         conf->stall_ms_max, conf->drain_ms_max, conf->keepalive_ms};
    uint64_t least = TICK_MS_MAX;

    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        if (limits[i] / 4 < least)
            least = limits[i] / 4;
    return least < TICK_MS_MIN ? TICK_MS_MIN : least;
}

static int
uv_fail(struct err *err, int status, const char *what)
{
    RETURN_ERR(err, err_of_errno(-status), ERR_FATAL, "%s: %s", what, uv_strerror(status));
}

#define UV_TRY(call)                                                                               \
    do {                                                                                           \
        int status_ = (call);                                                                      \
        if (status_ != 0) {                                                                        \
            rc = uv_fail(err, status_, #call);                                                     \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

static int
init_handles(struct server *s, struct err *err)
{
    uv_handle_t *handles[] = {
        (uv_handle_t *)&s->listener,   (uv_handle_t *)&s->wake,       (uv_handle_t *)&s->prepare,
        (uv_handle_t *)&s->check,      (uv_handle_t *)&s->idle,       (uv_handle_t *)&s->timer,
        (uv_handle_t *)&s->signals[0], (uv_handle_t *)&s->signals[1], (uv_handle_t *)&s->signals[2],
    };
    int rc = 0;

    UV_TRY(uv_tcp_init(&s->loop, &s->listener));
    UV_TRY(uv_prepare_init(&s->loop, &s->prepare));
    UV_TRY(uv_check_init(&s->loop, &s->check));
    UV_TRY(uv_idle_init(&s->loop, &s->idle));
    UV_TRY(uv_timer_init(&s->loop, &s->timer));
    for (size_t i = 0; i < 3; i++)
        UV_TRY(uv_signal_init(&s->loop, &s->signals[i]));
    s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->wake_fd < 0)
        FAIL(err, err_of_errno(errno), ERR_FATAL, "cannot make an eventfd: %s", strerror(errno));
    UV_TRY(uv_poll_init(&s->loop, &s->wake, s->wake_fd));
    for (size_t i = 0; i < sizeof handles / sizeof handles[0]; i++)
        handles[i]->data = s;
    UV_TRY(uv_poll_start(&s->wake, UV_READABLE, on_wake));
out:
    return rc;
}

static int
start_listening(struct server *s, struct err *err)
{
    struct sockaddr_storage address;
    int                     len = sizeof address, status, rc = 0;

    if (uv_ip4_addr(s->conf.host, s->conf.port, (struct sockaddr_in *)&address) != 0 &&
        uv_ip6_addr(s->conf.host, s->conf.port, (struct sockaddr_in6 *)&address) != 0)
        FAIL(err, E_INVALID, ERR_FATAL, "listen address %s: is no IP address", s->conf.host);
    status = uv_tcp_bind(&s->listener, (const struct sockaddr *)&address, 0);
    if (status == 0)
        status = uv_listen((uv_stream_t *)&s->listener, 1024, on_connection);
    if (status == UV_EADDRINUSE)
        FAIL(err, E_BUSY, ERR_FATAL,
             "port %u on %s is in use: stop the program that has it, or choose another port",
             (unsigned)s->conf.port, s->conf.host);
    if (status != 0)
        FAIL(err, err_of_errno(-status), ERR_FATAL, "cannot listen on %s port %u: %s", s->conf.host,
             (unsigned)s->conf.port, uv_strerror(status));
    UV_TRY(uv_tcp_getsockname(&s->listener, (struct sockaddr *)&address, &len));
    s->port = ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                                 : ((struct sockaddr_in6 *)&address)->sin6_port);
out:
    return rc;
}

int
server_add_routes(struct server *s, const struct server_route *routes, size_t count, void *arg,
                  struct err *err)
{
    int rc = 0;

    for (size_t i = 0; i < count; i++)
        TRY(serveri_route_add(s, &routes[i], arg, NULL, err));
out:
    return rc;
}

void
serveri_extra_add(struct server *s, struct server_extra *extra)
{
    extra->next = s->extras;
    s->extras = extra;
}

int
server_new(struct ox_env *env, struct log *log, const struct server_conf *conf, struct server **out,
           struct err *err)
{
    struct server *s = calloc(1, sizeof *s);
    int            rc = 0;

    *out = NULL;
    if (s == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for the server");
    s->env = env;
    s->log = log;
    s->conf = *conf;
    s->date_s = s->wake_fd = -1;
    set_defaults(&s->conf);
    set_date(s);
    s->started_s = s->date_s;
    env->ops->random(env, &s->instance, sizeof s->instance);
    UV_TRY(uv_loop_init(&s->loop));
    s->loop_ready = true;
    TRY(init_handles(s, err));
    if (conf->tls.cert != NULL) {
        TRY(serveri_tls_context(&conf->tls, &s->tls, err));
        s->tls_in = malloc(SERVERI_TLS_IN);
        if (s->tls_in == NULL)
            FAIL(err, E_NOMEM, ERR_FATAL, "no memory for the server");
    }
    TRY(serveri_append_routes(s, err));
    TRY(serveri_atom_routes(s, err));
    TRY(serveri_feed_routes(s, err));
    TRY(serveri_api_routes(s, err));
    TRY(serveri_stream_routes(s, err));
    TRY(serveri_scavenge_routes(s, err));
    TRY(start_listening(s, err));
    *out = s;
    s = NULL;
out:
    server_free(s);
    return rc;
}

int
server_set_tls(struct server *s, const struct server_tls *tls, struct err *err)
{
    struct tls_context *context;
    int                 rc;

    if (s->tls == NULL)
        RETURN_ERR(err, E_STATE, ERR_DATA, "TLS comes and goes at a start only");
    rc = serveri_tls_context(tls, &context, err);
    if (rc != 0)
        return rc;
    serveri_tls_context_free(s->tls);
    s->tls = context;
    return 0;
}

int
server_set_users(struct server *s, struct users *users, enum server_auth mode, struct err *err)
{
    must(s->users == NULL);
    s->users = users;
    s->auth_mode = mode;
    return serveri_user_routes(s, err);
}

static void
close_walked(uv_handle_t *handle, void *arg)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

void
server_free(struct server *s)
{
    if (s == NULL)
        return;
    if (s->loop_ready) {
        must(s->conns == NULL);
        for (struct server_extra *x = s->extras; x != NULL; x = x->next)
            x->stop(x);
        take_messages(s);
        uv_walk(&s->loop, close_walked, NULL);
        (void)uv_run(&s->loop, UV_RUN_DEFAULT);
        must(uv_loop_close(&s->loop) == 0);
    }
    if (s->wake_fd >= 0)
        (void)close(s->wake_fd);
    while (s->extras != NULL) {
        struct server_extra *next = s->extras->next;

        s->extras->free(s->extras);
        s->extras = next;
    }
    serveri_live_free(s);
    serveri_grpc_spares_free(s);
    serveri_auth_free(s);
    serveri_access_free(s);
    serveri_audit_free(s);
    serveri_rate_free(s);
    serveri_quotas_free(s->quotas);
    serveri_tls_context_free(s->tls);
    free(s->tls_in);
    serveri_upcast_free(s);
    buf_fini(&s->scratch);
    free(s);
}

static int
start_handles(struct server *s, struct err *err)
{
    uint64_t tick = tick_ms(&s->conf);
    int      rc = 0;

    UV_TRY(uv_prepare_start(&s->prepare, on_prepare));
    UV_TRY(uv_check_start(&s->check, on_check));
    UV_TRY(uv_timer_start(&s->timer, on_timer, tick, tick));
    for (size_t i = 0; s->conf.signals && i < 3; i++)
        UV_TRY(uv_signal_start(&s->signals[i], on_signal, signal_numbers[i]));
out:
    return rc;
}

int
server_run(struct server *s, struct err *err)
{
    struct log_listener listener = {.wake = on_log_grew, .arg = s};
    struct say_num      port;
    int                 rc = 0;

    /* A client that goes away must be an error of the write, not the end of the process. */
    (void)signal(SIGPIPE, SIG_IGN);
    TRY(start_handles(s, err));
    say(SAY_INFO, "listening", "address", s->conf.host, "port", say_u64(&port, s->port), "tls",
        s->tls != NULL ? "yes" : NULL, NULL);
    log_listen(s->log, &listener);
    take_messages(s); /* what was set before the first request */
    (void)uv_run(&s->loop, UV_RUN_DEFAULT);
    log_unlisten(s->log, &listener);
    must(s->closing);
    say(SAY_INFO, "stopped", NULL);
out:
    return rc;
}
