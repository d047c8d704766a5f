/*
 * GET /v1/migrations/{name}/route?key=&consumer=&wait_ms=: which side has the
 * key. "hold" is answered at once, or with wait_ms when it is decided or the
 * time is over. With Accept: text/event-stream every change is pushed.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "cli/engine_int.h"
#include "server/call.h"

#define WAIT_MS_MAX 10000
#define LATER_SLACK_MS 5000
#define WAITERS_MAX 10000
#define TEXT_MAX 1024

static void
write_route(const struct tracer_route *r, struct buf *out)
{
    buf_printf(out, "{\"side\":\"%s\",\"epoch\":%llu", tracer_side_name(r->side),
               (unsigned long long)r->epoch);
    if (r->side == TRACER_HOLD)
        buf_printf(out, ",\"retry_after_ms\":%u", r->retry_after_ms);
    buf_add_byte(out, '}');
}

static void
answer_route(struct call *call, const struct tracer_route *route)
{
    struct buf body = {0};

    write_route(route, &body);
    buf_add_byte(&body, '\n');
    if (body.failed)
        call_refuse(call, 503, "out-of-memory", "no memory for the answer");
    else
        call_answer(call, 200, CALL_JSON, buf_slice(&body));
    buf_fini(&body);
}

static void
waiter_free(struct engine *e, struct engine_waiter *w)
{
    e->waiter_count--;
    buf_fini(&w->key);
    buf_fini(&w->consumer);
    free(w);
}

/* NULL: the call was answered. */
static struct engine_waiter *
waiter_new(struct engine *e, struct call *call, struct slice key, struct slice consumer)
{
    struct engine_waiter *w = e->waiter_count < WAITERS_MAX ? calloc(1, sizeof *w) : NULL;

    if (w == NULL) {
        call_refuse(call, 503, "busy", "too many wait for routes; ask again later");
        return NULL;
    }
    e->waiter_count++;
    buf_add_slice(&w->key, key);
    buf_add_slice(&w->consumer, consumer);
    return w;
}

/* Says the route to one of those who are told of changes. False: it is gone. */
static bool
send_route(struct engine_waiter *w, const struct tracer_route *route)
{
    struct buf data = {0};
    char       id[24];
    int        rc;

    if (w->said && w->side == route->side && w->epoch == route->epoch)
        return true;
    write_route(route, &data);
    (void)snprintf(id, sizeof id, "%llu", (unsigned long long)route->epoch);
    rc = data.failed ? E_NOMEM : later_send(w->later, "route", id, buf_slice(&data), NULL);
    buf_fini(&data);
    w->said = true;
    w->side = route->side;
    w->epoch = route->epoch;
    return rc == 0;
}

static void
finish_wait(struct engine_waiter *w, const struct tracer_route *route)
{
    struct buf body = {0};

    write_route(route, &body);
    buf_add_byte(&body, '\n');
    later_answer(w->later, 200, CALL_JSON, buf_slice(&body));
    buf_fini(&body);
}

/* True where the waiter has ended. */
static bool
push_one(struct part *p, struct engine_waiter *w, uint64_t now)
{
    struct tracer_route route;

    tracer_route(p->tracer, buf_slice(&w->key), buf_slice(&w->consumer), &route);
    if (w->stream) {
        if (send_route(w, &route))
            return false;
        later_drop(w->later);
        return true;
    }
    if (route.side == TRACER_HOLD && now < w->until_us)
        return false;
    finish_wait(w, &route);
    return true;
}

uint64_t
enginei_push(struct engine *e)
{
    uint64_t now = e->env->ops->mono_us(e->env), next = ENV_STEP_WAIT;

    for (struct part *p = e->parts; p != NULL; p = p->next) {
        struct engine_waiter **at = &p->waiters;

        while (*at != NULL && p->tracer != NULL) {
            struct engine_waiter *w = *at;

            if (push_one(p, w, now)) {
                *at = w->next;
                waiter_free(e, w);
                continue;
            }
            if (!w->stream && w->until_us - now < next)
                next = w->until_us - now;
            at = &w->next;
        }
    }
    return next;
}

void
enginei_drop_waiters(struct engine *e, struct part *part)
{
    struct engine_waiter *next;

    for (struct engine_waiter *w = part->waiters; w != NULL; w = next) {
        struct err err;

        next = w->next;
        (void)err_set(&err, __FILE__, __LINE__, E_CLOSED, ERR_RETRY, "the migration is stopping");
        if (w->stream)
            later_drop(w->later);
        else
            later_fail(w->later, &err);
        waiter_free(e, w);
    }
    part->waiters = NULL;
}

static void
add_waiter(struct engine *e, struct part *p, struct engine_waiter *w)
{
    w->next = p->waiters;
    p->waiters = w;
    e->env->ops->task_wake(e->env, e->pusher);
}

struct query {
    struct slice key, consumer;
    uint64_t     wait_ms;
    bool         stream;
};

static bool
read_query(struct call *call, struct query *q)
{
    struct slice text;

    *q = (struct query){0};
    (void)call_query(call, "key", &q->key);
    (void)call_query(call, "consumer", &q->consumer);
    q->stream = call_header(call, "accept", &text) &&
                memmem(text.data, text.len, "text/event-stream", 17) != NULL;
    if (call_query(call, "wait_ms", &text) &&
        (!json_uint64(text, &q->wait_ms) || q->wait_ms > WAIT_MS_MAX)) {
        call_refuse(call, 400, "invalid", "wait_ms: must be a number from 0 to 10000");
        return false;
    }
    if (q->key.len > TEXT_MAX || q->consumer.len > TEXT_MAX) {
        call_refuse(call, 400, "invalid", "key, consumer: at most 1024 bytes");
        return false;
    }
    return true;
}

static void
answer_part(struct call *call, struct engine *e, struct part *p, const struct query *q)
{
    struct tracer_route   route;
    struct engine_waiter *w;

    tracer_route(p->tracer, q->key, q->consumer, &route);
    if (!q->stream && (route.side != TRACER_HOLD || q->wait_ms == 0)) {
        answer_route(call, &route);
        return;
    }
    w = waiter_new(e, call, q->key, q->consumer);
    if (w == NULL)
        return;
    w->stream = q->stream;
    w->until_us = e->env->ops->mono_us(e->env) + q->wait_ms * 1000;
    w->later =
        q->stream ? call_stream(call) : call_later(call, (uint32_t)q->wait_ms + LATER_SLACK_MS);
    if (w->later == NULL)
        waiter_free(e, w);
    else
        add_waiter(e, p, w);
}

void
enginei_get_route(struct call *call, void *engine)
{
    struct engine *e = engine;
    struct query   q;
    struct part   *p;

    if (!read_query(call, &q))
        return;
    (void)pthread_mutex_lock(&e->lock);
    p = enginei_find(e, PART_MIGRATION, call_param(call, "name"));
    if (p == NULL)
        call_refuse(call, 404, "not-found", "no such migration is in the configuration");
    else if (p->tracer == NULL)
        call_refuse(call, 503, "not-open", p->error);
    else
        answer_part(call, e, p, &q);
    (void)pthread_mutex_unlock(&e->lock);
}
