/*
 * Commits that stand in more streams than they name: the router says which. The
 * log task hands such a commit on unwritten and takes another one in its place, which
 * checks what the router looked at; the first one is answered by what came of that.
 * A crash leaves all of it or nothing: it is one commit.
 */
#include <stdlib.h>

#include "log/log_int.h"

#define ROUTINGS_MAX 1000u /* of one commit, whose streams change each time */

/* A commit that is on its way in the place of another. */
struct routed {
    struct log     *log;
    struct log_req *in;
    struct log_req  out;
    void           *hold; /* the router's */
};

static void
push(struct log *log, struct log_req *in)
{
    struct log_req *top = atomic_load_explicit(&log->to_route, memory_order_relaxed);

    must(atomic_load(&log->routing) > 0); /* it is counted, so the log is not closed yet */
    must(in->routings < ROUTINGS_MAX);
    do
        in->next = top;
    while (!atomic_compare_exchange_weak(&log->to_route, &top, in));
    log->env->ops->task_wake(log->env, log->router_task);
}

static void
answer(struct log *log, struct log_req *in, int rc, const struct err *err)
{
    struct ox_env *env = log->env;

    must(atomic_load(&log->routing) > 0);
    logi_answer(log, in, rc, err);
    /* The log may be waiting for the last one, and is closed only when its task has seen this. */
    if (atomic_fetch_sub(&log->routing, 1) == 1)
        env->ops->task_wake(env, log->task);
}

/* Which of the caller's streams the refusal is about; NULL: one that the router looked at. */
static const struct slice *
whose(const struct log_req *in, const struct log_req *out)
{
    for (uint32_t i = 0; i < in->write_count; i++)
        if (slice_eq(in->writes[i].stream, out->wrong_stream))
            return out->rc != E_WRONG_VERSION || out->wrong_expected == in->writes[i].expected
                       ? &in->writes[i].stream
                       : NULL;
    for (uint32_t i = 0; i < in->check_count; i++)
        if (slice_eq(in->checks[i].stream, out->wrong_stream) &&
            out->wrong_expected == in->checks[i].expected)
            return &in->checks[i].stream;
    for (uint32_t i = 0; i < in->change_count; i++)
        if (slice_eq(in->changes[i].stream, out->wrong_stream))
            return &in->changes[i].stream;
    return NULL;
}

/* Of the commit that was written in its place, the caller's part. */
static void
take_results(struct log_req *in, const struct log_req *out)
{
    uint64_t last = 0;

    must(out->write_count >= in->write_count);
    for (uint32_t i = 0; i < in->write_count; i++) {
        struct log_write *w = &in->writes[i];

        must(out->writes[i].count >= w->count);
        must_slow(slice_eq(out->writes[i].stream, w->stream));
        w->first_version = out->writes[i].first_version;
        w->last_version = w->first_version + w->count - 1;
        for (uint32_t k = 0; k < w->count && !out->idempotent; k++)
            if (out->writes[i].events[k].place != NULL &&
                out->writes[i].events[k].place->pos > last)
                last = out->writes[i].events[k].place->pos;
    }
    in->pos = out->pos;
    in->last = last != 0 ? LOG_POS(last) : out->last;
    in->end = out->end;
    in->idempotent = out->idempotent;
    must(in->pos.v <= in->last.v);
    must(in->last.v < in->end.v);
}

static void
on_done(struct log_req *out)
{
    struct routed      *r = out->arg;
    struct log         *log = r->log;
    struct log_req     *in = r->in;
    const struct slice *stream = NULL;
    const bool refused = out->rc == E_WRONG_VERSION || out->rc == E_GONE || out->rc == E_MOVED;
    struct err err;
    int        rc = out->rc;

    err_copy(&err, &out->err);
    if (refused)
        stream = whose(in, out);
    if (rc == 0)
        take_results(in, out);
    if (stream != NULL) {
        in->wrong_stream = *stream;
        in->wrong_expected = out->wrong_expected;
        in->wrong_actual = out->wrong_actual;
        in->gone_flags = out->gone_flags;
    }
    log->router.release(log->router.arg, r->hold);
    free(r);
    if (refused && stream == NULL && in->routings < ROUTINGS_MAX) {
        push(log, in);
        return;
    }
    if (refused && stream == NULL)
        rc = err_set(&err, __FILE__, __LINE__, E_BUSY, ERR_RETRY,
                     "stream \"%.*s\" is routed, and where to changed each time: try again",
                     SLICE_FMT(in->write_count > 0 ? in->writes[0].stream : slice_str("")));
    answer(log, in, rc, &err);
}

static void
route(struct log *log, struct log_req *in)
{
    struct routed *r = calloc(1, sizeof *r);
    struct err     err;
    int            rc;

    in->routings++;
    err_clear(&err);
    if (r == NULL) {
        rc = err_set(&err, __FILE__, __LINE__, E_NOMEM, ERR_RETRY, "out of memory for a commit");
        answer(log, in, rc, &err);
        return;
    }
    r->log = log;
    r->in = in;
    rc = log->router.expand(log->router.arg, in, &r->out, &r->hold, &err);
    if (rc != 0) {
        if (r->hold != NULL)
            log->router.release(log->router.arg, r->hold);
        free(r);
        answer(log, in, rc, &err);
        return;
    }
    must(r->out.write_count >= in->write_count);
    must(r->out.check_count >= in->check_count);
    must(r->out.change_count >= in->change_count);
    must(in->write_count > 0);
    r->out.asked = in->write_count;
    r->out.flags = in->flags;
    r->out.time_us = in->time_us;
    r->out.done = on_done;
    r->out.arg = r;
    log_submit(log, &r->out);
}

static uint64_t
step(void *arg)
{
    struct log     *log = arg;
    struct log_req *req, *fifo = NULL;

    must(log->magic == LOGI_MAGIC);
    req = atomic_exchange(&log->to_route, NULL);
    while (req != NULL) {
        struct log_req *next = req->next;

        req->next = fifo;
        fifo = req;
        req = next;
    }
    while (fifo != NULL) {
        struct log_req *next = fifo->next;

        route(log, fifo);
        fifo = next;
    }
    return ENV_STEP_WAIT;
}

void
logi_route(struct log *log, struct log_req *req)
{
    struct slice stream = req->write_count > 0 ? req->writes[0].stream : slice_str("");
    struct err   err;

    must(req->asked == 0); /* a router's own commit names all of its streams */
    if (!atomic_load(&log->has_router)) {
        (void)err_set(&err, __FILE__, __LINE__, E_STATE, ERR_DATA,
                      "stream \"%.*s\": its appends go on to other streams, and nothing here knows "
                      "to which",
                      SLICE_FMT(stream));
        logi_answer(log, req, E_STATE, &err);
        return;
    }
    atomic_fetch_add(&log->routing, 1);
    push(log, req);
}

int
log_set_router(struct log *log, const struct log_router *router, struct err *err)
{
    int rc = 0;

    must(log->magic == LOGI_MAGIC);
    must(!atomic_load(&log->has_router));
    must(router->expand != NULL);
    must(router->release != NULL);
    if (log->conf.read_only)
        return 0;
    log->router = *router;
    TRY(log->env->ops->task_start(
        log->env, &(struct ox_task_def){.name = "ox-route", .step = step, .arg = log},
        &log->router_task, err));
    atomic_store(&log->has_router, true);
out:
    return rc;
}
