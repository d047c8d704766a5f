/*
 * The log task and the sync task.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "log/log_int.h"

#define GROUP_KEEP (UINT64_C(8) << 20) /* a larger buffer is given back after use */

static void
list_add(struct req_list *list, struct log_req *req)
{
    must(*list->tail == NULL);
    req->next = NULL;
    *list->tail = req;
    list->tail = &req->next;
}

static struct log_req *
list_pop(struct req_list *list)
{
    struct log_req *req = list->head;

    must(req != NULL || list->tail == &list->head);
    if (req == NULL)
        return NULL;
    list->head = req->next;
    if (list->head == NULL)
        list->tail = &list->head;
    return req;
}

/* The stack of what was submitted, oldest first, onto the lists. */
static void
take_incoming(struct log *log)
{
    struct log_req *req = atomic_exchange(&log->incoming, NULL), *fifo = NULL;

    while (req != NULL) {
        struct log_req *next = req->next;
        logi_heads_prefetch_set(log->heads, req->fp);
        req->next = fifo;
        fifo = req;
        req = next;
    }
    while (fifo != NULL) {
        struct log_req *next = fifo->next;
        must(fifo->bytes > 0);
        logi_heads_prefetch(log->heads, fifo->fp);
        list_add((fifo->flags & LOG_BULK) != 0 ? &log->bulk : &log->fifo, fifo);
        fifo = next;
    }
}

void
logi_fail(struct log *log, const struct err *err)
{
    must(err->code != 0);
    lock_take(&log->admin);
    if (!atomic_load(&log->failed)) {
        err_copy(&log->failure, err);
        log->failure.kind = ERR_FATAL;
        atomic_store(&log->failed, true);
    }
    lock_give(&log->admin);
    /* It may wait for `end` to move, and others for it. */
    log->env->ops->task_wake(log->env, log->indexer);
}

/* a group's end */

/* Those that were refused. Where the group failed, what they were refused for may not be. */
static void
answer_late(struct log *log, struct group *g, int rc, const struct err *err)
{
    struct log_req *req = g->late;
    struct err      own;

    g->late = NULL;
    err_clear(&own);
    if (rc != 0) {
        err_copy(&own, err);
        own.kind = ERR_FATAL; /* nothing of theirs was written, that is sure */
    }
    while (req != NULL) {
        struct log_req *next = req->next;

        must(req->rc != 0);
        logi_answer(log, req, rc != 0 ? rc : req->rc, rc != 0 ? &own : NULL);
        req = next;
    }
}

/* Answers all of the group; blocked callers wake each other as a tree. */
static void
answer_group(struct log *log, struct group *g, int rc, const struct err *err)
{
    struct log_req *req = g->reqs, *root = NULL, *parent = NULL, *last = NULL;
    uint64_t        before = g->first;
    unsigned        child = 0;

    must(rc == 0 || err != NULL);
    must(rc != 0 || g->end <= atomic_load(&log->end)); /* durable before confirmed */
    g->reqs = NULL;
    g->tail = &g->reqs;
    while (req != NULL) {
        struct log_req *next = req->next;

        must(req->pos.v >= before);
        must(req->end.v > req->last.v);
        before = req->end.v;
        must(rc != 0 || before <= g->end);
        if (req->gate == NULL) {
            logi_answer(log, req, rc, err);
            req = next;
            continue;
        }
        req->rc = rc;
        if (rc != 0)
            err_copy(&req->err, err);
        logi_note_latency(log, req);
        must(atomic_fetch_sub(&log->queue_bytes, req->bytes) >= req->bytes);
        req->bytes = 0;
        free(req->own);
        req->own = NULL;
        req->next = NULL;
        if (root == NULL) {
            root = parent = req;
        } else {
            must(parent != NULL);
            must(parent->wake[child] == NULL);
            parent->wake[child++] = req;
            last->next = req;
            if (child == 2) {
                parent = parent->next;
                child = 0;
            }
        }
        last = req;
        req = next;
    }
    if (root != NULL)
        log->env->ops->gate_open(log->env, root->gate);
    answer_late(log, g, rc, err);
}

static void
reset_group(struct group *g)
{
    must(g->reqs == NULL); /* all are answered */
    must(g->late == NULL);
    if (g->bytes.cap > GROUP_KEEP)
        buf_fini(&g->bytes);
    buf_clear(&g->bytes);
    g->frames = g->commits = g->events = g->states = 0;
    g->bulk_bytes = 0;
    g->loud = false;
}

/* The only place where `end` moves: what the journal covers, nobody else. */
static void
publish(struct log *log, struct group *g, struct log_pos durable)
{
    must(durable.v == g->end);
    must(g->first < g->end);
    must(g->first == atomic_load(&log->end)); /* groups follow each other without a gap */
    must(g->bytes.len == g->end - g->first);
    must(g->events + g->states > 0);
    must(g->time_us >= atomic_load(&log->end_us));
    atomic_store(&log->end_us, g->time_us);
    atomic_store(&log->end, durable.v);
    if (g->states > 0)
        atomic_fetch_add(&log->state_epoch, 1);
    atomic_fetch_add(&log->commits, g->commits);
    atomic_fetch_add(&log->events, g->events);
    atomic_fetch_add(&log->group_count, 1);
    atomic_fetch_add(&log->appended_bytes, g->bytes.len);
    if (g->loud) {
        lock_take(&log->admin);
        for (struct log_listener *l = log->listeners; l != NULL; l = l->next)
            l->wake(l);
        lock_give(&log->admin);
    }
    if (atomic_exchange(&log->indexer_waits, false))
        log->env->ops->task_wake(log->env, log->indexer);
}

/* GROUP_SYNCING to GROUP_FREE, on whichever task has it. */
static void
commit_group(struct log *log, struct group *g)
{
    struct journal_group jg = {LOG_POS(g->first), LOG_POS(g->end), buf_slice(&g->bytes), g->frames};
    enum journal_verdict verdict;
    struct err           err;
    uint64_t             began, took;

    must(atomic_load(&g->state) == GROUP_SYNCING);
    must(g->commits > 0);
    must(g->frames >= g->commits);
    err_clear(&err);
    if (atomic_load(&log->failed)) {
        lock_take(&log->admin);
        err_copy(&err, &log->failure);
        lock_give(&log->admin);
        answer_group(log, g, err.code, &err);
    } else {
#ifdef OX_BUG_EARLY_ACK
        publish(log, g, LOG_POS(g->end));
        answer_group(log, g, 0, NULL);
#endif
        must(g == &log->groups[log->sync_next]); /* in the order of positions */
        began = log->env->ops->mono_us(log->env);
        verdict = JOURNAL_REFUSED;
        if (log->conf.subjects == NULL || logi_seal_sync(log, &err) == 0)
            verdict = log->conf.journal->commit(log->journal, &jg, &err);
        took = log->env->ops->mono_us(log->env) - began;
        logi_note_sync(log, took);
        hist_add(&log->sync_us, took);
        hist_add(&log->group_commits, g->commits);
        if (verdict == JOURNAL_DURABLE) {
#ifndef OX_BUG_EARLY_ACK
            publish(log, g, LOG_POS(g->end));
            answer_group(log, g, 0, NULL);
#endif
        } else {
            err_prefix(&err, "the log takes no more writes; the last appends may or may not be "
                             "durable");
            logi_fail(log, &err);
            err.kind = ERR_UNSURE;
            answer_group(log, g, err.code, &err);
        }
    }
    reset_group(g);
    log->sync_next = g == &log->groups[0] ? 1 : 0;
    atomic_store(&g->state, GROUP_FREE);
}

uint64_t
logi_sync_step(void *arg)
{
    struct log *log = arg;
    bool        worked = false;

    for (unsigned i = 0; i < 2; i++) {
        struct group *g = &log->groups[i];
        int           ready = GROUP_READY;

        if (!atomic_compare_exchange_strong(&g->state, &ready, GROUP_SYNCING))
            continue;
        /*
         * In the order of positions; what a failed log had prepared is only answered. Whose turn
         * it is may be asked only now that the group is ours: before, the log task could take it
         * back, commit it, and fill it anew behind the other one.
         */
        if (i != log->sync_next && !atomic_load(&log->failed)) {
            atomic_store(&g->state, GROUP_READY);
            continue;
        }
        commit_group(log, g);
        log->env->ops->task_wake(log->env, log->task);
        worked = true;
    }
    return worked ? ENV_STEP_NOW : ENV_STEP_WAIT;
}

/* filling a group */

static bool
refuse_all(struct log *log, struct req_list *list)
{
    struct log_req *req;
    struct err      err;
    bool            some = false;

    lock_take(&log->admin);
    err_copy(&err, &log->failure);
    lock_give(&log->admin);
    while ((req = list_pop(list)) != NULL) {
        logi_answer(log, req, err.code, &err);
        some = true;
    }
    return some;
}

/*
 * Was it refused for a version that is not durable yet? Nobody may be told of
 * one that a crash can still take back.
 */
static bool
refused_early(struct log *log, const struct log_req *req)
{
    struct target     t;
    struct index_head now, then;
    uint64_t          end = atomic_load(&log->end);

    must(log->next_pos >= end);
    if ((req->rc != E_WRONG_VERSION && req->rc != E_GONE && req->rc != E_MOVED) ||
        log->next_pos == end)
        return false;
    if (logi_resolve(log, req->wrong_stream, &t, NULL) != 0)
        return true;
    if (t.is_new)
        return false;
    /* What it was refused for is what differs between prepared and published, if anything does. */
    return logi_head(log, t.id, UINT64_MAX, &now, NULL) != 0 ||
           logi_head(log, t.id, end, &then, NULL) != 0 || now.next != then.next ||
           now.flags != then.flags;
}

/* What fences hold back, once more in front of what came later. */
static void
take_held(struct log *log)
{
    if (log->held.head == NULL)
        return;
    must(log->held.tail != &log->held.head);
    must(*log->held.tail == NULL);
    *log->held.tail = log->fifo.head;
    if (log->fifo.head == NULL)
        log->fifo.tail = log->held.tail;
    log->fifo.head = log->held.head;
    log->held = (struct req_list){NULL, &log->held.head};
}

/* False: the request has to wait (it is at the head of the list again). */
static bool
take_one(struct log *log, struct group *g, struct req_list *list)
{
    struct log_req   *req = list->head;
    enum check_result result;
    struct err        err;

    must(req->bytes > 0); /* it is not answered yet */
    if (logi_fenced(log, req)) {
        list_add(&log->held, list_pop(list));
        return true;
    }
    logi_segs_pin(log->segs, &log->pin);
    result = logi_check(log, req);
    logi_segs_unpin(&log->pin);
    if (result == CHECK_LATER || result == CHECK_NO_ROOM)
        return false;
    if (result == CHECK_ROUTE) {
        logi_route(log, list_pop(list));
        return true;
    }
    if (result == CHECK_ANSWER && refused_early(log, req)) {
        if (g->commits == 0)
            return false; /* the group with the journal has it: its end wakes us */
        (void)list_pop(list);
        req->next = g->late;
        g->late = req;
        return true;
    }
    (void)list_pop(list);
    if (result == CHECK_ANSWER) {
        logi_answer(log, req, req->rc, NULL);
        return true;
    }
    must(result == CHECK_OK);
    if (logi_encode(log, g, req, &err) != 0) {
        /* Half a commit is in the group: nothing of it may reach the disk. */
        logi_fail(log, &err);
        logi_answer(log, req, err.code, &err);
        return true;
    }
    must(*g->tail == NULL);
    req->next = NULL;
    *g->tail = req;
    g->tail = &req->next;
    return true;
}

/* Waits for the index where memory is full; refuses where it cannot be written. */
static bool
memory_full(struct log *log)
{
    if (logi_mem_bytes(log->mem) < log->conf.memory_bytes_max)
        return false;
    atomic_store(&log->flush_wanted, true);
    log->env->ops->task_wake(log->env, log->indexer);
    if (atomic_load(&log->index_stuck)) {
        struct log_req *req;
        struct err      err;

        lock_take(&log->admin);
        err_copy(&err, &log->index_error);
        lock_give(&log->admin);
        if (err.code == 0)
            return true; /* it was written meanwhile, and the mark is about to go */
        req = list_pop(&log->fifo);
        err_prefix(&err, "the index cannot be written");
        if (req == NULL)
            req = list_pop(&log->bulk);
        if (req != NULL)
            logi_answer(log, req, err.code, &err);
    }
    return true;
}

/* Is the other group with the journal, or on its way there? */
static bool
journal_busy(const struct log *log, const struct group *g)
{
    const struct group *other = &log->groups[g == &log->groups[0] ? 1 : 0];
    int                 state = atomic_load(&other->state);

    return state == GROUP_SYNCING || state == GROUP_READY;
}

/* May the first of the bulk commits go into the group? */
static bool
bulk_fits(const struct log *log, const struct group *g)
{
    const struct log_req *head = log->bulk.head;
    bool                  alone = g->bulk_bytes == g->bytes.len;

    must(g->bulk_bytes <= g->bytes.len);
    if (head == NULL || g->bytes.len >= LOGI_GROUP_BYTES)
        return false;
    if ((head->flags & LOG_GENTLE) == 0)
        return alone || g->bulk_bytes == 0 || g->bulk_bytes + head->bytes <= LOGI_BULK_BYTES;
    if (log->passed < LOGI_GENTLE_PASSED && (!alone || journal_busy(log, g)))
        return false; /* who comes now waits for what is synced now, and for nothing behind it */
    return g->bulk_bytes == 0 || g->bulk_bytes + head->bytes <= LOGI_GENTLE_BYTES;
}

/* True: something is left that has to wait for a wake-up. */
static bool
fill(struct log *log, struct group *g)
{
    must(atomic_load(&g->state) == GROUP_FILLING);
    while (log->fifo.head != NULL && g->bytes.len < LOGI_GROUP_BYTES) {
        if (memory_full(log) || !take_one(log, g, &log->fifo))
            return true;
        if (atomic_load(&log->failed))
            return true;
    }
    while (bulk_fits(log, g)) {
        if (memory_full(log) || !take_one(log, g, &log->bulk))
            return true;
        if (atomic_load(&log->failed))
            return true;
    }
    return false;
}

/*
 * The group that the log task may fill now; NULL: the journal has to catch up.
 * Groups take turns, so one that was handed over is not filled again before the
 * other one, except where it is taken back before anybody took it.
 */
static struct group *
own_group(struct log *log)
{
    struct group *g = &log->groups[log->cur], *other = &log->groups[log->cur ^ 1];
    int           ready = GROUP_READY;

    if (log->handed && !log->full &&
        atomic_compare_exchange_strong(&g->state, &ready, GROUP_FILLING)) {
        log->handed = false;
        must(g->first + g->bytes.len == log->next_pos); /* nothing came behind it */
        return g;
    }
    if (log->handed) {
        if (atomic_load(&other->state) != GROUP_FREE)
            return NULL;
        log->cur ^= 1;
        log->handed = log->full = false;
        g = other;
    }
    if (atomic_load(&g->state) == GROUP_FREE) {
        must(g->bytes.len == 0);
        must(g->reqs == NULL);
        atomic_store(&g->state, GROUP_FILLING);
        g->first = log->next_pos;
        g->started_us = log->env->ops->mono_us(log->env);
    }
    must(atomic_load(&g->state) == GROUP_FILLING);
    must(g->first + g->bytes.len == log->next_pos);
    return g;
}

/* Hands the filled group on. Returns what the step returns. */
static uint64_t
hand_over(struct log *log, struct group *g)
{
    must(atomic_load(&g->state) == GROUP_FILLING);
    must(g->reqs != NULL);
    g->end = g->first + g->bytes.len;
    must(g->end == log->next_pos);
    log->passed = g->bulk_bytes > 0 || log->bulk.head == NULL ? 0 : log->passed + 1;
    if (log->conf.sync_delay_us > 0 && !atomic_load(&log->closing)) {
        uint64_t age = log->env->ops->mono_us(log->env) - g->started_us;
        if (age < log->conf.sync_delay_us && g->bytes.len < LOGI_GROUP_BYTES)
            return log->conf.sync_delay_us - age;
    }
    if (!journal_busy(log, g) && g->commits <= LOGI_INLINE_MAX &&
        g->bytes.len <= LOGI_INLINE_BYTES) {
        atomic_store(&g->state, GROUP_SYNCING);
        commit_group(log, g);
        log->cur ^= 1;
        return ENV_STEP_NOW;
    }
    log->full = g->bytes.len >= LOGI_GROUP_BYTES;
    log->handed = true;
    atomic_store(&g->state, GROUP_READY);
    log->env->ops->task_wake(log->env, log->syncer);
    return log->full ? ENV_STEP_NOW : ENV_STEP_WAIT;
}

/* Nothing of a failed log's prepared commits may be written or answered as done. */
static uint64_t
drain_failed(struct log *log, struct group *g)
{
    struct err err;

    must(atomic_load(&log->failed));
    lock_take(&log->admin);
    err_copy(&err, &log->failure);
    lock_give(&log->admin);
    must(err.code != 0);
    if (g != NULL) {
        answer_group(log, g, err.code, &err);
        reset_group(g);
        atomic_store(&g->state, GROUP_FREE);
    }
    (void)refuse_all(log, &log->fifo);
    (void)refuse_all(log, &log->bulk);
    (void)refuse_all(log, &log->held);
    return atomic_load(&log->incoming) != NULL ? ENV_STEP_NOW : ENV_STEP_WAIT;
}

static bool
all_idle(struct log *log)
{
    return atomic_load(&log->incoming) == NULL && log->fifo.head == NULL &&
           log->bulk.head == NULL && log->held.head == NULL && atomic_load(&log->routing) == 0 &&
           atomic_load(&log->groups[0].state) == GROUP_FREE &&
           atomic_load(&log->groups[1].state) == GROUP_FREE;
}

uint64_t
logi_log_step(void *arg)
{
    struct log   *log = arg;
    struct group *g;
    uint64_t      wait = ENV_STEP_WAIT, fences;
    bool          stuck;

    must(log->magic == LOGI_MAGIC);
    must(!log->conf.read_only);
    take_incoming(log);
    take_held(log);
    fences = logi_fences_look(log);
    g = own_group(log);
    if (g == NULL)
        return ENV_STEP_WAIT; /* the sync task wakes us */
    if (atomic_load(&log->failed)) {
        wait = drain_failed(log, g);
    } else {
        stuck = fill(log, g);
        if (atomic_load(&log->failed)) {
            wait = drain_failed(log, g);
        } else if (g->commits > 0) {
            wait = hand_over(log, g);
        } else {
            atomic_store(&g->state, GROUP_FREE);
            if (stuck)
                wait = 10000; /* room or memory: those who make it wake us too */
        }
    }
    if (atomic_load(&log->idle) != NULL && all_idle(log)) {
        must(atomic_load(&log->failed) || log->next_pos == atomic_load(&log->end));
        log->env->ops->gate_open(log->env, atomic_exchange(&log->idle, NULL));
    }
    return wait < fences ? wait : fences;
}
