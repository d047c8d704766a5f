/*
 * The task behind the indexes: reads the log and writes entries, a bounded
 * transaction at a time. Indexes that cover the same are read for together; the
 * foremost, which people read live, come first, the one that is furthest behind
 * gets the rest of the time, and half of it at most: others use this machine.
 *
 * A transaction has the entries of a piece of the log and the position where the
 * piece ends. A crash leaves the one before it, and the piece is read again.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "core/fields_int.h"

#define PIECE_BYTES (UINT64_C(1) << 20) /* one look at the log */
#define PIECES_MAX 16u                  /* for one transaction */
#define ENTRIES_MAX 8192u
#define ENTRIES_EAGER_MAX 32768u
#define LIVE_US UINT64_C(250000) /* between two transactions at the log's end */
#define PAUSE_US_MAX UINT64_C(500000)
#define RETRY_US UINT64_C(5000000)
#define DEAD_MIN 64u
#define DROP_VALUES 2000u

/* one transaction */

static int
add_entries(struct fields *f, const struct fieldsi_index *ix, uint64_t pos, struct err *err)
{
    struct fieldsi_batch *b = &f->batch;

    for (uint32_t i = 0; i < f->found.count; i++) {
        struct slice value = fieldsi_found_at(&f->found, i);

        if (b->count == b->room) {
            uint32_t             room = b->room == 0 ? 4096 : b->room * 2;
            struct values_entry *more = realloc(b->entries, room * sizeof *more);

            if (more == NULL)
                RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for an index");
            b->entries = more;
            b->room = room;
        }
        must(b->count < b->room);
        /* The text moves while it grows: where each value lies is said at the end. */
        b->entries[b->count++] =
            (struct values_entry){.index = ix->id, .value = slice_of(NULL, value.len), .pos = pos};
        buf_add_slice(&b->text, value);
        if (b->text.failed)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for an index");
    }
    return 0;
}

/* Near pages one after the other. */
static int
order(const void *a, const void *b)
{
    const struct values_entry *x = a, *y = b;
    int                        by = x->index < y->index ? -1 : x->index > y->index;

    if (by == 0)
        by = slice_cmp(x->value, y->value);
    return by != 0 ? by : x->pos < y->pos ? -1 : x->pos > y->pos;
}

static void
finish_batch(struct fieldsi_batch *b)
{
    size_t at = 0;

    for (uint32_t i = 0; i < b->count; i++) {
        b->entries[i].value.data = b->text.data + at;
        at += b->entries[i].value.len;
    }
    must(at == b->text.len);
    if (b->count > 1)
        qsort(b->entries, b->count, sizeof *b->entries, order);
}

static int
take_event(struct fields *f, uint64_t from, const struct log_event *ev, struct values_mark *marks,
           struct err *err)
{
    uint32_t n = 0;
    int      rc = 0;

    for (struct fieldsi_index *ix = f->list; ix != NULL; ix = ix->next) {
        if (ix->state.covers != from)
            continue;
        must(n < FIELDS_MAX);
        TRY(fieldsi_find(&ix->rule, ev, &f->found, err));
        /* One for each such index. NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign) */
        marks[n++].state.skipped += f->found.skipped;
        TRY(add_entries(f, ix, ev->pos.v, err));
    }
out:
    return rc;
}

/* Reads from r->at on until there is enough for a transaction, or no more. */
static int
gather(struct fields *f, struct fieldsi_reader *r, uint64_t from, struct values_mark *marks,
       struct err *err)
{
    struct fieldsi_batch *b = &f->batch;
    struct log_event      ev;
    uint64_t              bytes = 0;
    uint32_t              most = f->eager ? ENTRIES_EAGER_MAX : ENTRIES_MAX;
    int                   rc = 0;

    must(r->it != NULL);
    b->count = 0;
    b->done = false;
    buf_clear(&b->text);
    while (bytes < PIECES_MAX * PIECE_BYTES && b->count < most) {
        ev.link.stream.len = 0;
        rc = log_iter_next(r->it, &ev, err);
        if (rc == E_MORE) {
            bytes += PIECE_BYTES;
            continue;
        }
        b->done = rc == E_END;
        if (b->done)
            break;
        TRY(rc);
        bytes += ev.data.len + ev.meta.len;
        TRY(take_event(f, from, &ev, marks, err));
    }
    b->reached = log_iter_pos(r->it).v;
    if (b->done && r->bound != UINT64_MAX)
        b->reached = r->bound;
    if (b->reached < from)
        b->reached = from;
    finish_batch(b);
    rc = 0;
out:
    return rc;
}

static int
aim(struct fields *f, struct fieldsi_reader *r, uint64_t from, uint64_t bound, struct err *err)
{
    /* Hidden events too: they may be seen again, and what is seen is decided when it is read. */
    struct log_read read = {.from = from,
                            .at = {bound == UINT64_MAX ? 0 : bound - 1},
                            .raw = true,
                            .sealed = true,
                            .patience = PIECE_BYTES,
                            .filter = {.system = true}};

    must(from < bound);
    if (r->it != NULL && r->at == from && r->bound == bound)
        return 0;
    log_iter_close(r->it);
    r->it = NULL;
    r->at = from;
    r->bound = bound;
    return log_iter_open(f->log, &read, &r->it, err);
}

static void
publish(struct fields *f, const struct values_batch *b)
{
    lock_take(&f->lock);
    for (uint32_t i = 0; i < b->mark_count; i++) {
        struct fieldsi_index *ix = fieldsi_numbered(f, b->marks[i].index);

        must(ix != NULL); /* only this task changes the list */
        must(b->marks[i].state.covers >= ix->state.covers);
        ix->state = b->marks[i].state;
    }
    f->error[0] = '\0';
    lock_give(&f->lock);
}

/* One transaction for all that cover `from`. */
static int
advance(struct fields *f, struct fieldsi_reader *r, uint64_t from, uint64_t bound, struct err *err)
{
    uint64_t            end = log_end(f->log).v;
    struct values_mark  marks[FIELDS_MAX];
    struct values_batch b = {.marks = marks};
    int                 rc = 0;

    must(from <= end);
    for (struct fieldsi_index *ix = f->list; ix != NULL; ix = ix->next)
        if (ix->state.covers == from)
            marks[b.mark_count++] = (struct values_mark){.index = ix->id, .state = ix->state};
    TRY(aim(f, r, from, bound, err));
    TRY(gather(f, r, from, marks, err));
    must(b.mark_count > 0);
    must(f->batch.reached >= from);
    for (uint32_t i = 0; i < b.mark_count; i++) {
        marks[i].state.covers = f->batch.reached;
        marks[i].state.built = marks[i].state.built || f->batch.reached >= end;
    }
    b.entries = f->batch.entries;
    b.entry_count = f->batch.count;
    TRY(f->ops->apply(f->values, &b, err));
    r->at = f->batch.reached;
    publish(f, &b);
out:
    if (rc != 0) {
        log_iter_close(r->it); /* it has gone on */
        r->it = NULL;
    }
    return rc;
}

/* whose turn it is */

struct span {
    uint64_t low, next, high; /* covered: the least, the next above it, the most */
    bool     fresh;           /* one was never at the log's end */
};

static struct span
look(const struct fields *f)
{
    struct span s = {UINT64_MAX, UINT64_MAX, 0, false};

    for (const struct fieldsi_index *ix = f->list; ix != NULL; ix = ix->next) {
        uint64_t covers = ix->state.covers;

        if (covers < s.low) {
            s.next = s.low;
            s.low = covers;
        } else if (covers > s.low && covers < s.next) {
            s.next = covers;
        }
        if (covers > s.high)
            s.high = covers;
        s.fresh = s.fresh || !ix->state.built;
    }
    return s;
}

/* How long to leave the machine to others after so much work. */
static uint64_t
pause_us(struct fields *f, uint64_t worked)
{
    struct log_info info;
    uint64_t        pause = worked;

    if (f->eager)
        return ENV_STEP_NOW;
    log_get_info(f->log, &info);
    if (info.commits != f->commits_seen)
        pause *= 3; /* somebody writes */
    f->commits_seen = info.commits;
    return pause < 1000 ? 1000 : pause > PAUSE_US_MAX ? PAUSE_US_MAX : pause;
}

static int
build(struct fields *f, uint64_t *wait, struct err *err)
{
    uint64_t    began = f->env->ops->mono_us(f->env), end;
    struct span s = look(f);
    uint64_t    due = f->front_us + LIVE_US;
    int         rc = 0;

    atomic_store(&f->listening, f->count > 0);
    end = log_end(f->log).v;
    *wait = ENV_STEP_WAIT;
    if (f->count == 0 || (s.low >= end && !s.fresh))
        return 0;
    if (s.low == s.high && !s.fresh && began < due) {
        *wait = due - began; /* at the end of the log: what comes is gathered for a while */
        return 0;
    }
    if (s.low == s.high || (s.high < end && began >= due)) {
        f->front_us = began;
        TRY(advance(f, &f->readers[0], s.high, UINT64_MAX, err));
    } else {
        TRY(advance(f, &f->readers[1], s.low, s.next, err));
    }
    *wait = pause_us(f, f->env->ops->mono_us(f->env) - began);
out:
    return rc;
}

/* what is nobody's */

static int
clean(struct fields *f, struct err *err)
{
    uint64_t ids[FIELDS_MAX + 1];
    uint32_t count;
    int      rc;

    TRY(f->ops->list(f->values, ids, FIELDS_MAX + 1, &count, err));
    must(count <= FIELDS_MAX + 1);
    for (uint32_t i = 0; i < count; i++) {
        if (fieldsi_numbered(f, ids[i]) != NULL)
            continue;
        rc = f->ops->drop(f->values, ids[i], DROP_VALUES, err);
        return rc == E_MORE ? 0 : rc; /* the next one in the next step */
    }
    f->orphans = false;
out:
    return rc;
}

static int
bury(struct fields *f, struct err *err)
{
    struct values_entry dead[FIELDSI_DEAD_MAX];
    struct values_mark  marks[FIELDS_MAX];
    struct values_batch b = {.dead = dead, .marks = marks};
    int                 rc = 0;

    lock_take(&f->lock);
    must(f->dead_count <= FIELDSI_DEAD_MAX);
    for (uint32_t i = 0; i < f->dead_count; i++)
        if (fieldsi_numbered(f, f->dead[i].index) != NULL)
            dead[b.dead_count++] = f->dead[i];
    for (struct fieldsi_index *ix = f->list; ix != NULL; ix = ix->next)
        marks[b.mark_count++] = (struct values_mark){.index = ix->id, .state = ix->state};
    lock_give(&f->lock);
    /* What is added behind these meanwhile is forgotten, and noticed again. */
    if (b.dead_count > 0)
        rc = f->ops->apply(f->values, &b, err);
    if (b.dead_count > 0 && rc == 0)
        publish(f, &b);
    lock_take(&f->lock);
    f->dead_count = 0;
    lock_give(&f->lock);
    return rc;
}

uint64_t
fieldsi_step(void *arg)
{
    struct fields *f = arg;
    struct err     err;
    uint64_t       wait;
    bool           dead;
    int            rc = 0;

    must(f->magic == FIELDSI_MAGIC);
    if (atomic_load(&f->stopping)) {
        fieldsi_refuse(f);
        (void)fieldsi_commands(f);
        if (f->running == NULL)
            f->env->ops->gate_open(f->env, &f->stopped);
        return ENV_STEP_WAIT;
    }
    if (fieldsi_commands(f))
        return ENV_STEP_NOW;
    lock_take(&f->lock);
    dead = f->dead_count >= DEAD_MIN;
    lock_give(&f->lock);
    if (dead)
        rc = bury(f, &err);
    if (rc == 0)
        rc = build(f, &wait, &err);
    if (rc == 0 && f->orphans) {
        rc = clean(f, &err);
        wait = f->eager ? ENV_STEP_NOW : wait < 10000 ? wait : 10000;
    }
    if (rc == 0)
        return wait;
    lock_take(&f->lock);
    (void)memcpy(f->error, err.text, sizeof f->error);
    lock_give(&f->lock);
    return RETRY_US;
}

void
fieldsi_build_fini(struct fields *f)
{
    for (int i = 0; i < 2; i++)
        log_iter_close(f->readers[i].it);
    free(f->batch.entries);
    buf_fini(&f->batch.text);
    fieldsi_found_fini(&f->found);
}

/* the contract */

static void
on_grown(struct log_listener *l)
{
    struct fields *f = l->arg;

    if (atomic_load(&f->listening))
        f->env->ops->task_wake(f->env, f->task);
}

int
fields_open(struct ox_env *env, struct log *log, const struct fields_conf *conf,
            struct fields **out, struct err *err)
{
    struct fields     *f = calloc(1, sizeof *f);
    struct ox_task_def def = {.name = "indexes", .step = fieldsi_step, .arg = f};
    struct log_info    info;
    int                rc = 0;

    *out = NULL;
    if (f == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for indexes");
    f->magic = FIELDSI_MAGIC;
    f->env = env;
    f->log = log;
    f->ops = conf->values;
    f->eager = conf->eager;
    lock_init(&f->lock, LOCK_CORE);
    gate_init(&f->stopped);
    atomic_init(&f->stopping, false);
    f->listener = (struct log_listener){.wake = on_grown, .arg = f};
    f->dead_values = malloc((size_t)FIELDSI_DEAD_MAX * VALUES_BYTES_MAX);
    if (f->dead_values == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for indexes");
    log_get_info(log, &info);
    TRY(f->ops->open(env, conf->dir, info.id.b, &f->values, err));
    TRY(fieldsi_load(f, err));
    TRY(env->ops->task_start(env, &def, &f->task, err));
    log_listen(log, &f->listener);
    *out = f;
    f = NULL;
out:
    fields_close(f); /* it has no task then */
    return rc;
}

void
fields_close(struct fields *f)
{
    if (f == NULL)
        return;
    must(f->magic == FIELDSI_MAGIC);
    if (f->task != NULL) {
        atomic_store(&f->stopping, true);
        f->env->ops->task_wake(f->env, f->task);
        (void)f->env->ops->gate_wait(f->env, &f->stopped, UINT64_MAX);
        log_unlisten(f->log, &f->listener);
        f->env->ops->task_stop(f->env, f->task);
    }
    fieldsi_build_fini(f);
    fieldsi_free_all(f);
    f->ops->close(f->values);
    buf_fini(&f->text);
    free(f->dead_values);
    lock_fini(&f->lock);
    f->magic = 0;
    free(f);
}
