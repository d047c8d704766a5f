/*
 * What moves of streams hold in memory only: which streams are being filled in
 * stages, and which are fenced. Both end with the process: a stage that nobody has open
 * never took effect, whatever states it left (docs/format.md, Moves).
 *
 * Streams are known as in heads.h, by what nobody can make two names share.
 */
#include <stdlib.h>

#include "log/log_int.h"

/* Names of streams. */
struct names {
    uint64_t (*fps)[2];
    uint32_t count, room;
};

struct log_stage {
    struct names      names;
    struct log_stage *next;
};

struct log_fence {
    struct names      names;
    uint64_t          until_us; /* monotonic */
    uint64_t          upto;     /* what was prepared before it ends here; 0: not seen yet */
    struct ox_gate   *gate;     /* opened when that is durable */
    struct log_fence *next;
};

static bool
has(const struct names *n, const uint64_t fp[2])
{
    for (uint32_t i = 0; i < n->count; i++)
        if (n->fps[i][0] == fp[0] && n->fps[i][1] == fp[1])
            return true;
    return false;
}

static int
add(struct names *n, const uint64_t fp[2], struct err *err)
{
    if (n->count == n->room) {
        uint32_t room = n->room == 0 ? 4 : n->room * 2;
        void    *more = realloc(n->fps, room * sizeof *n->fps);

        must(room > n->room);
        if (more == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a move");
        n->fps = more;
        n->room = room;
    }
    n->fps[n->count][0] = fp[0];
    n->fps[n->count++][1] = fp[1];
    return 0;
}

/* stages */

/* Under `admin`. */
static struct log_stage *
stage_with(struct log *log, const uint64_t fp[2])
{
    struct log_stage *s = log->stages;

    must_slow(lock_held());
    while (s != NULL && !has(&s->names, fp))
        s = s->next;
    return s;
}

int
log_stage_open(struct log *log, struct log_stage **out, struct err *err)
{
    struct log_stage *s = calloc(1, sizeof *s);

    *out = s;
    if (s == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a move");
    lock_take(&log->admin);
    s->next = log->stages;
    log->stages = s;
    atomic_fetch_add(&log->stage_count, 1);
    lock_give(&log->admin);
    return 0;
}

int
log_stage_add(struct log *log, struct log_stage *s, struct slice stream, struct err *err)
{
    struct log_stage *other;
    uint64_t          fp[2];
    int               rc = 0;

    logi_heads_fp(log->heads, stream, fp);
    lock_take(&log->admin);
    other = stage_with(log, fp);
    if (other == NULL)
        rc = add(&s->names, fp, err);
    else if (other != s)
        rc = err_set(err, __FILE__, __LINE__, E_EXISTS, ERR_DATA,
                     "stream \"%.*s\" is being filled by another move", SLICE_FMT(stream));
    lock_give(&log->admin);
    return rc;
}

void
log_stage_close(struct log *log, struct log_stage *s)
{
    struct log_stage **at = &log->stages;

    if (s == NULL)
        return;
    lock_take(&log->admin);
    while (*at != s) {
        must(*at != NULL); /* it is open, and of this log */
        at = &(*at)->next;
    }
    *at = s->next;
    must(atomic_load(&log->stage_count) > 0);
    atomic_fetch_sub(&log->stage_count, 1);
    must((atomic_load(&log->stage_count) == 0) == (log->stages == NULL));
    /* Who waited for its end. */
    for (struct log_listener *l = log->listeners; l != NULL; l = l->next)
        l->wake(l);
    lock_give(&log->admin);
    free(s->names.fps);
    free(s);
}

bool
logi_staging(struct log *log, const uint64_t fp[2], const struct log_stage *mine)
{
    const struct log_stage *s;

    if (atomic_load(&log->stage_count) == 0)
        return false;
    lock_take(&log->admin);
    s = stage_with(log, fp);
    lock_give(&log->admin);
    return s != NULL && s != mine;
}

/* fences */

int
log_fence(struct log *log, const struct slice *streams, uint32_t count, uint64_t us,
          struct log_fence **out, struct err *err)
{
    struct log_fence *f = calloc(1, sizeof *f);
    struct ox_gate    gate;
    int               rc = 0;

    *out = NULL;
    if (f == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a fence");
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        uint64_t fp[2];

        logi_heads_fp(log->heads, streams[i], fp);
        rc = add(&f->names, fp, err);
    }
    if (rc != 0) {
        free(f->names.fps);
        free(f);
        return rc;
    }
    gate_init(&gate);
    f->gate = &gate;
    f->until_us = log->env->ops->mono_us(log->env) + (us < LOG_FENCE_MAX ? us : LOG_FENCE_MAX);
    lock_take(&log->admin);
    f->next = log->fences;
    log->fences = f;
    atomic_fetch_add(&log->fence_count, 1);
    lock_give(&log->admin);
    log->env->ops->task_wake(log->env, log->task);
    (void)log->env->ops->gate_wait(log->env, &gate, UINT64_MAX);
    *out = f;
    return 0;
}

void
log_unfence(struct log *log, struct log_fence *f)
{
    struct log_fence **at = &log->fences;

    if (f == NULL)
        return;
    lock_take(&log->admin);
    while (*at != f) {
        must(*at != NULL); /* it stands, and in this log */
        at = &(*at)->next;
    }
    *at = f->next;
    must(f->gate == NULL); /* who waits at it has gone on */
    must(atomic_load(&log->fence_count) > 0);
    atomic_fetch_sub(&log->fence_count, 1);
    must((atomic_load(&log->fence_count) == 0) == (log->fences == NULL));
    lock_give(&log->admin);
    log->env->ops->task_wake(log->env, log->task);
    free(f->names.fps);
    free(f);
}

/* Under `admin`: is it held back by a fence whose time is not over? */
static bool
fenced(struct log *log, uint64_t now, const uint64_t fp[2])
{
    must_slow(lock_held());
    for (const struct log_fence *f = log->fences; f != NULL; f = f->next)
        if (now < f->until_us && has(&f->names, fp))
            return true;
    return false;
}

bool
logi_fenced(struct log *log, const struct log_req *req)
{
    uint64_t now, fp[2];
    bool     yes = false;

    if (atomic_load(&log->fence_count) == 0 || (req->flags & LOG_FENCED_OK) != 0 ||
        atomic_load(&log->closing))
        return false;
    now = log->env->ops->mono_us(log->env);
    lock_take(&log->admin);
    for (uint32_t i = 0; i < req->write_count && !yes; i++) {
        logi_heads_fp(log->heads, req->writes[i].stream, fp);
        yes = fenced(log, now, fp);
    }
    for (uint32_t i = 0; i < req->own_count && !yes; i++) {
        logi_heads_fp(log->heads, req->own[i].change.stream, fp);
        yes = fenced(log, now, fp);
    }
    lock_give(&log->admin);
    return yes;
}

uint64_t
logi_fences_look(struct log *log)
{
    uint64_t now, end = atomic_load(&log->end), wait = ENV_STEP_WAIT;

    if (atomic_load(&log->fence_count) == 0)
        return wait;
    now = log->env->ops->mono_us(log->env);
    lock_take(&log->admin);
    for (struct log_fence *f = log->fences; f != NULL; f = f->next) {
        if (f->upto == 0)
            f->upto = log->next_pos;
        must(f->upto <= log->next_pos);
        if (f->gate != NULL && (end >= f->upto || atomic_load(&log->failed))) {
            log->env->ops->gate_open(log->env, f->gate);
            f->gate = NULL;
        }
        if (now < f->until_us && f->until_us - now < wait)
            wait = f->until_us - now;
    }
    lock_give(&log->admin);
    return wait;
}
