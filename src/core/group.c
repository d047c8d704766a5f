/*
 * The task of the groups. One step goes round all of them: what their commits
 * brought, whose time is over, what there is to read, what may be handed out,
 * what has to be written. One task for all, as each commit of the log would
 * otherwise wake as many threads as there are groups.
 */
#include "core/group.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "core/group_int.h"

#define HAND_OUT_MAX 256u /* events under the lock at once */
#define RETRY_MIN_US UINT64_C(100000)
#define RETRY_MAX_US UINT64_C(30000000)
#define RATE_US UINT64_C(1000000)

struct group *
groupi_group(struct groups *gs, struct slice source, struct slice name)
{
    for (struct group *g = gs->list; g != NULL; g = g->next)
        if (slice_is(source, g->source) && slice_is(name, g->name))
            return g;
    return NULL;
}

void
groupi_wake(struct groups *gs)
{
    gs->env->ops->task_wake(gs->env, gs->task);
}

/* one group */

static void
failed(struct group *g, const struct err *err)
{
    bool passes = err->kind == ERR_RETRY;

    lock_take(&g->groups->lock);
    (void)snprintf(g->error, sizeof g->error, "%s", err->text);
    if (passes) {
        uint64_t wait = RETRY_MIN_US << (g->failures < 9 ? g->failures : 9);

        g->resume_us = g->groups->now_us + (wait < RETRY_MAX_US ? wait : RETRY_MAX_US);
        g->failures++;
    } else {
        g->state = GROUP_FAILED;
    }
    lock_give(&g->groups->lock);
}

static int
collect(struct group *g, struct err *err)
{
    int rc = 0;

    if (!g->committing || !atomic_load(&g->commit_done))
        return 0;
    lock_take(&g->groups->lock);
    rc = groupi_committed(g, err);
    lock_give(&g->groups->lock);
    return rc;
}

/* A replay of all goes on to what was parked behind others meanwhile. */
static void
extend_replay(struct group *g)
{
    uint64_t end = (uint64_t)(g->parked_version + 1);

    if (!g->pass_all || g->parked_from < g->parked_upto || g->again.count > 0 ||
        g->parking.count > 0 || g->committing)
        return;
    must(g->parked_upto <= end);
    if (g->settings.park_behind && !g->pass_failed && end > g->parked_from)
        g->parked_upto = end;
    else
        g->pass_all = false;
}

static void
measure(struct group *g)
{
    uint64_t now = g->groups->now_us;

    must(g->settled >= g->rate_settled);
    if (now < g->rate_us + RATE_US)
        return;
    g->rate = g->rate_us == 0 ? 0 : (g->settled - g->rate_settled) * 1000000 / (now - g->rate_us);
    g->rate_us = now;
    g->rate_settled = g->settled;
}

/* Reads what there is room for, and hands out what may go. */
static int
work(struct group *g, bool *progress, uint64_t *next_us, struct err *err)
{
    struct groups *gs = g->groups;
    uint64_t       ignored = UINT64_MAX;
    bool           more = false;
    int            rc = 0;

    if (!g->loaded) {
        TRY(groupi_load(g, err));
        *progress = true;
    }
    lock_take(&gs->lock);
    groupi_timeouts(g, &ignored);
    extend_replay(g);
    lock_give(&gs->lock);
    if (!atomic_load(&gs->stopping) && !g->closing && !g->paused) {
        TRY(groupi_replay_read(g, progress, err));
        TRY(groupi_read(g, progress, err));
        lock_take(&gs->lock);
        rc = groupi_hand_out(g, HAND_OUT_MAX, &more, err);
        lock_give(&gs->lock);
        if (rc != 0)
            goto out;
        *progress = *progress || more;
    }
    lock_take(&gs->lock);
    groupi_timeouts(g, next_us); /* of those too that have just gone out */
    measure(g);
    if (groupi_mark_due(g))
        rc = groupi_commit(g, err);
    lock_give(&gs->lock);
out:
    return rc;
}

/* What there is to wait for is a time-out, a checkpoint, or the end of a pause. */
static void
next_time(const struct group *g, uint64_t *next_us)
{
    uint64_t at = g->mark_us + (uint64_t)g->settings.checkpoint_after_ms * 1000;

    if (g->loaded && !g->committing && g->settled != g->mark_settled && at > g->groups->now_us &&
        at < *next_us)
        *next_us = at;
}

static void
run(struct group *g, bool *progress, uint64_t *next_us)
{
    struct err err;

    err_clear(&err);
    if (collect(g, &err) != 0)
        failed(g, &err);
    if (g->state == GROUP_FAILED)
        return;
    if (g->groups->now_us < g->resume_us) {
        *next_us = g->resume_us < *next_us ? g->resume_us : *next_us;
        return;
    }
    if (work(g, progress, next_us, &err) != 0) {
        failed(g, &err);
        *next_us = g->resume_us != 0 && g->resume_us < *next_us ? g->resume_us : *next_us;
        return;
    }
    lock_take(&g->groups->lock);
    if (g->failures > 0) {
        g->failures = 0;
        g->error[0] = '\0';
    }
    g->state = g->at_end ? GROUP_LIVE : GROUP_BEHIND;
    lock_give(&g->groups->lock);
    next_time(g, next_us);
}

/* the step */

/* Each group's checkpoint, as far as it can be had; true: all is said. */
static bool
stop(struct groups *gs)
{
    uint64_t   never = UINT64_MAX;
    struct err why;
    bool       busy = gs->committing, progress = false;

    if (!gs->stopped_said) {
        (void)err_set(&why, __FILE__, __LINE__, E_CLOSED, ERR_RETRY, "the server is stopping");
        gs->stopped_said = true;
        lock_take(&gs->lock);
        for (struct group *g = gs->list; g != NULL; g = g->next)
            groupi_end_members(g, &why);
        lock_give(&gs->lock);
    }
    groupi_refuse_commands(gs);
    for (struct group *g = gs->list; g != NULL; g = g->next) {
        if (g->loaded || g->committing)
            run(g, &progress, &never);
        busy = busy || g->committing;
    }
    return !busy;
}

static uint64_t
step(void *arg)
{
    struct groups *gs = arg;
    uint64_t       next_us = UINT64_MAX;
    bool           progress = false;

    must(gs->magic == GROUPI_MAGIC);
    gs->now_us = gs->env->ops->mono_us(gs->env);
    while (groupi_commands(gs))
        progress = true;
    if (atomic_load(&gs->stopping)) {
        if (stop(gs))
            gs->env->ops->gate_open(gs->env, &gs->stopped);
        return ENV_STEP_WAIT;
    }
    /* Before they look: a group that comes later is looked after in a step of its own. */
    atomic_store(&gs->listening, gs->list != NULL);
    for (struct group *g = gs->list; g != NULL; g = g->next)
        run(g, &progress, &next_us);
    while (groupi_commands(gs))
        progress = true;
    if (progress)
        return ENV_STEP_NOW;
    if (next_us == UINT64_MAX)
        return ENV_STEP_WAIT;
    return next_us > gs->now_us ? next_us - gs->now_us : 1;
}

/* the contract */

static void
wake(struct log_listener *listener)
{
    struct groups *gs = listener->arg;

    if (atomic_load(&gs->listening))
        groupi_wake(gs);
}

int
group_open(struct ox_env *env, struct log *log, struct groups **out, struct err *err)
{
    struct groups     *gs = calloc(1, sizeof *gs);
    struct ox_task_def def = {.name = "ox-groups", .step = step, .arg = gs};
    int                rc = 0;

    *out = NULL;
    if (gs == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory for the groups");
    gs->magic = GROUPI_MAGIC;
    gs->env = env;
    gs->log = log;
    lock_init(&gs->lock, LOCK_CORE);
    gate_init(&gs->stopped);
    TRY(groupi_load_config(gs, err));
    TRY(env->ops->task_start(env, &def, &gs->task, err));
    gs->listener.wake = wake;
    gs->listener.arg = gs;
    log_listen(log, &gs->listener);
    groupi_wake(gs); /* for what came before the listening */
    *out = gs;
    gs = NULL;
out:
    group_close(gs);
    return rc;
}

void
group_close(struct groups *gs)
{
    struct group *next;

    if (gs == NULL)
        return;
    if (gs->task != NULL) {
        atomic_store(&gs->stopping, true);
        groupi_wake(gs);
        (void)gs->env->ops->gate_wait(gs->env, &gs->stopped, UINT64_MAX);
        log_unlisten(gs->log, &gs->listener);
        gs->env->ops->task_stop(gs->env, gs->task);
    }
    must(gs->running == NULL);
    must(!gs->committing);
    for (struct group *g = gs->list; g != NULL; g = next) {
        next = g->next;
        groupi_free(g);
    }
    buf_fini(&gs->text);
    buf_fini(&gs->text_2);
    lock_fini(&gs->lock);
    gs->magic = 0;
    free(gs);
}

/* looking */

static void
put_members(const struct group *g, struct group_member_info *out)
{
    uint64_t now = g->groups->env->ops->mono_us(g->groups->env);

    for (const struct member *m = g->members; m != NULL; m = m->next)
        *out++ = (struct group_member_info){.name = slice_str(m->name),
                                            .from = slice_str(m->from),
                                            .buffer = m->conf.buffer,
                                            .in_flight = m->out.count,
                                            .delivered = m->delivered,
                                            .acked = m->acked,
                                            .pull = m->conf.pull,
                                            .joined_ms = (now - m->joined_us) / 1000};
}

static uint64_t
parked_now(const struct group *g)
{
    if (!g->loaded)
        return 0;
    return (uint64_t)(g->parked_version + 1) - g->parked_from + g->again.count +
           (g->parked_pending_count - g->parked_pending_at);
}

/* Events that are not settled; those that are not read by the average so far. */
static void
put_lag(const struct group *g, int64_t head, struct group_info *out)
{
    const struct item *oldest = g->live.head;
    uint64_t           unread, read = g->next_number - g->read_from;
    int64_t            wall = g->groups->env->ops->wall_us(g->groups->env);

    must(g->next_number >= g->read_from);
    must(g->pending_count >= g->pending_at);
    out->lag_events = g->live.count + (g->pending_count - g->pending_at);
    if (oldest != NULL && wall > oldest->time_us)
        out->lag_ms = (uint64_t)(wall - oldest->time_us) / 1000;
    if (out->lag_events > 0 || !g->at_end)
        out->lag_positions = out->end.v > out->done.v + 1 ? out->end.v - out->done.v - 1 : 0;
    if (g->by_version) {
        uint64_t next = (uint64_t)(head + 1);

        out->lag_events += next > g->next_number ? next - g->next_number : 0;
    } else if (!g->at_end && read > 0) {
        unread = out->end.v > g->next_number ? out->end.v - g->next_number : 0;
        out->lag_events += (uint64_t)((double)unread * (double)g->read_events / (double)read);
    }
}

static void
put_info(const struct group *g, int64_t head, struct group_info *out)
{
    must(g->live.count + g->again.count >= g->ready + g->out + g->parking.count);
    must(g->retrying <= g->ready);
    *out = (struct group_info){
        .source = slice_str(g->source),
        .name = slice_str(g->name),
        .settings = &g->settings,
        .state = g->state,
        .error = g->error[0] == '\0' ? NULL : g->error,
        .member_count = g->member_count,
        .in_flight = g->out,
        .ready = g->ready,
        .waiting = g->live.count + g->again.count - g->ready - g->out - g->parking.count,
        .retrying = g->retrying,
        .delivered = g->delivered,
        .acked = g->acked,
        .retries = g->retries,
        .timeouts = g->timeouts,
        .skipped = g->skipped,
        .settled_per_s = g->rate,
        .parked = parked_now(g),
        .replaying = g->again.count > 0 || g->parked_from < g->parked_upto,
        .done = g->live.head != NULL ? LOG_POS(g->live.head->pos.v - 1)
                : g->by_version || g->next_number == 0
                    ? (g->read_pos.v != 0 ? g->read_pos : g->mark.done)
                    : LOG_POS(g->next_number - 1),
        .checkpoint = g->mark.done,
        .next = g->next_number,
        .numbers_are_versions = g->by_version,
        .end = log_end(g->groups->log),
    };
    if (g->loaded)
        put_lag(g, head, out);
}

static void
give_info(struct group *g, group_info_fn *fn, void *arg)
{
    struct group_member_info *members = NULL;
    struct group_info         info;
    int64_t                   head = LOG_NO_STREAM;

    if (g->by_version)
        (void)groupi_head(g->groups, g->source, &head, NULL);
    if (g->member_count > 0)
        members = calloc(g->member_count, sizeof *members);
    put_info(g, head, &info);
    if (members != NULL)
        put_members(g, members);
    else
        info.member_count = 0;
    info.members = members;
    fn(arg, &info);
    free(members);
}

void
group_each(struct groups *gs, struct slice source, group_info_fn *fn, void *arg)
{
    lock_take(&gs->lock);
    for (struct group *g = gs->list; g != NULL; g = g->next)
        if (source.len == 0 || slice_is(source, g->source))
            give_info(g, fn, arg);
    lock_give(&gs->lock);
}

int
group_get(struct groups *gs, struct slice source, struct slice name, group_info_fn *fn, void *arg,
          struct err *err)
{
    struct group *g;

    lock_take(&gs->lock);
    g = groupi_group(gs, source, name);
    if (g != NULL)
        give_info(g, fn, arg);
    lock_give(&gs->lock);
    if (g == NULL)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "group %.*s of %.*s is not there", SLICE_FMT(name),
                   SLICE_FMT(source));
    return 0;
}

/* Numbers of parked records: one that is being replayed is parked until it is settled. */
static int
parked_numbers(struct groups *gs, struct slice source, struct slice name, uint64_t from,
               uint64_t *out, uint32_t *count, char *stream, struct err *err)
{
    struct group *g;
    uint32_t      most = *count;
    uint64_t      at;
    int           rc = 0;

    *count = 0;
    lock_take(&gs->lock);
    g = groupi_group(gs, source, name);
    if (g == NULL)
        FAIL(err, E_NOTFOUND, ERR_DATA, "group %.*s of %.*s is not there", SLICE_FMT(name),
             SLICE_FMT(source));
    memcpy(stream, g->parked_stream, sizeof g->parked_stream);
    for (const struct item *it = g->again.head; it != NULL && *count < most; it = it->next)
        if (it->parked_version >= from)
            out[(*count)++] = it->parked_version;
    for (uint32_t i = g->parked_pending_at; i < g->parked_pending_count && *count < most; i++)
        if (g->parked_pending[i] >= from)
            out[(*count)++] = g->parked_pending[i];
    for (at = from > g->parked_from ? from : g->parked_from;
         g->loaded && *count < most && at < (uint64_t)(g->parked_version + 1); at++)
        out[(*count)++] = at;
out:
    lock_give(&gs->lock);
    return rc;
}

int
group_parked(struct groups *gs, struct slice source, struct slice name, uint64_t from,
             uint32_t limit, group_parked_fn *fn, void *arg, uint64_t *next, struct err *err)
{
    char             stream[GROUPI_STREAM_MAX];
    struct log_iter *it = NULL;
    struct log_event ev = {0};
    uint64_t        *numbers = calloc((size_t)limit + 1, sizeof *numbers);
    uint32_t         count = limit + 1;
    bool             read = false;
    int              rc = 0;

    *next = 0;
    if (numbers == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for parked events");
    TRY(parked_numbers(gs, source, name, from, numbers, &count, stream, err));
    if (count > limit)
        *next = numbers[limit];
    if (count > 0)
        TRY(log_iter_open(gs->log,
                          &(struct log_read){.stream = slice_str(stream), .from = numbers[0]}, &it,
                          err));
    for (uint32_t i = 0; i < count && i < limit; i++) {
        while (rc == 0 && (!read || ev.version < numbers[i])) {
            rc = log_iter_next(it, &ev, err);
            read = true;
        }
        if (rc == 0 && ev.version == numbers[i])
            rc = fn(arg, &ev, err);
        if (rc != 0)
            break;
    }
    if (rc == E_END)
        rc = 0;
out:
    log_iter_close(it);
    free(numbers);
    return rc;
}
