/*
 * The log when what had failed has just begun to work again: nobody is told of an error that is
 * over as if nothing had ever been wrong.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "env/env_real.h"
#include "log/log_int.h"
#include "tests/tmp.h"

struct fix {
    char            dir[64];
    struct log     *log;
    struct log_conf conf;
    struct err      err;
};

/* The machine, but for what a test puts in its place. */
static struct ox_env_ops world_ops;
static struct ox_env     world = {&world_ops};

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    world_ops = *env_real()->ops;
    tmp_dir(f->dir, sizeof f->dir);
    f->conf.index = &log_index_lmdb;
    f->conf.segment_bytes = LOG_SEGMENT_MIN;
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    log_close(f->log);
    tmp_remove(f->dir);
    free(f);
    return 0;
}

static void
open_log(struct fix *f)
{
    if (log_open(&world, f->dir, &f->conf, NULL, &f->log, &f->err) != 0)
        fail_msg("open: %s", f->err.text);
}

static void
pause_ms(long ms)
{
    struct timespec ts = {.tv_nsec = ms * 1000000};

    (void)nanosleep(&ts, NULL);
}

static void
append(struct fix *f)
{
    struct log_new_event e = {.type = slice_str("t"), .data = slice_str("1")};
    struct log_write w = {.stream = slice_str("s"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req   req = {.writes = &w, .write_count = 1};

    if (log_append(f->log, &req) != 0)
        fail_msg("append: %s", req.err.text);
}

static void
count_answer(struct log_req *req)
{
    atomic_fetch_add((atomic_uint *)req->arg, 1);
}

static const char *held_name; /* of the task that takes no step while it is held */
static atomic_bool task_held;
static uint64_t (*held_step)(void *);

static uint64_t
step_when_let(void *arg)
{
    return atomic_load(&task_held) ? 1000 : held_step(arg);
}

static int
start_held(struct ox_env *env, const struct ox_task_def *def, struct ox_task **out, struct err *err)
{
    struct ox_task_def own = *def;

    if (strcmp(def->name, held_name) == 0) {
        held_step = def->step;
        own.step = step_when_let;
    }
    return env_real()->ops->task_start(env, &own, out, err);
}

static void
open_with_held(struct fix *f, const char *task)
{
    held_name = task;
    atomic_store(&task_held, true);
    world_ops.task_start = start_held;
    open_log(f);
}

/* Nothing is answered as done that is not in the log; `asked`: it waits for the held task. */
static void
append_past(struct fix *f, bool (*asked)(struct log *))
{
    struct log_new_event e = {.type = slice_str("t"), .data = slice_str("1")};
    struct log_write w = {.stream = slice_str("s"), .expected = LOG_ANY, .events = &e, .count = 1};
    atomic_uint      answers = 0;
    struct log_req   req = {.writes = &w, .write_count = 1, .done = count_answer, .arg = &answers};

    log_submit(f->log, &req);
    while (atomic_load(&answers) == 0 && !asked(f->log))
        pause_ms(1);
    atomic_store(&task_held, false);
    while (atomic_load(&answers) == 0)
        pause_ms(1);
    assert_int_equal(req.rc, 0);
    assert_true(req.pos.v != 0);
    assert_true(req.end.v <= log_end(f->log).v);
}

static bool
wants_segments(struct log *log)
{
    return atomic_load(&log->want_end) != 0;
}

static bool
wants_index(struct log *log)
{
    return atomic_load(&log->flush_wanted);
}

/* A segment could not be made, and now it was: the reason is gone before the mark is. */
static void
test_segments_grow_again(void **state)
{
    struct fix *f = *state;

    open_with_held(f, "ox-upkeep");
    atomic_store(&f->log->grow_stuck, true);
    append_past(f, wants_segments);
}

/* The same of the index. */
static void
test_index_is_written_again(void **state)
{
    struct fix *f = *state;

    f->conf.memory_bytes_max = 1;
    open_with_held(f, "ox-index");
    append(f);
    atomic_store(&f->log->index_stuck, true);
    append_past(f, wants_index);
}

static struct ox_index_ops    once_failing;
static atomic_uint            applies;
static atomic_bool            let_first, let_rest;
static struct log            *flushed;
static _Thread_local unsigned flush_waits; /* 0: this thread does not flush */

static int
apply_once_failing(struct ox_index *ix, const struct index_batch *batch, struct err *err)
{
    unsigned n = atomic_fetch_add(&applies, 1);

    while (n == 0 && !atomic_load(&let_first))
        pause_ms(1);
    if (n == 0)
        RETURN_ERR(err, E_NOSPC, ERR_RETRY, "no room");
    while (n > 1 && !atomic_load(&let_rest))
        pause_ms(1);
    return log_index_lmdb.apply(ix, batch, err);
}

static bool
index_is_well(void)
{
    bool well;

    lock_take(&flushed->admin);
    well = flushed->index_error.code == 0;
    lock_give(&flushed->admin);
    return well;
}

/* Who flushes goes on only when what it was woken for is over. */
static bool
gate_wait_late(struct ox_env *env, struct ox_gate *gate, uint64_t us)
{
    bool opened;

    if (flush_waits == 2)
        atomic_store(&let_rest, true);
    opened = env_real()->ops->gate_wait(env, gate, us);
    if (flush_waits == 1)
        while (atomic_load(&applies) < 2 || !index_is_well())
            pause_ms(1);
    flush_waits += flush_waits != 0;
    return opened;
}

static void *
flush(void *arg)
{
    bool *covered = arg;

    flush_waits = 1;
    *covered =
        logi_flush(flushed, NULL) == 0 && atomic_load(&flushed->indexed) >= log_end(flushed).v;
    atomic_store(&let_rest, true);
    return NULL;
}

static bool
is_flushing(void)
{
    bool yes;

    lock_take(&flushed->admin);
    yes = flushed->flush_waiters != NULL;
    lock_give(&flushed->admin);
    return yes;
}

/* A flush that was woken because the index could not be written has not been covered by that. */
static void
test_flush_after_an_error(void **state)
{
    struct fix *f = *state;
    pthread_t   flusher;
    bool        covered = false;

    once_failing = log_index_lmdb;
    once_failing.apply = apply_once_failing;
    atomic_store(&applies, 0);
    atomic_store(&let_first, false);
    atomic_store(&let_rest, false);
    world_ops.gate_wait = gate_wait_late;
    f->conf.index = &once_failing;
    open_log(f);
    flushed = f->log;
    append(f);
    while (atomic_load(&applies) == 0)
        pause_ms(1);
    append(f); /* in the next transaction */
    assert_int_equal(pthread_create(&flusher, NULL, flush, &covered), 0);
    while (!is_flushing())
        pause_ms(1);
    atomic_store(&let_first, true);
    assert_int_equal(pthread_join(flusher, NULL), 0);
    assert_true(covered);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_segments_grow_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_index_is_written_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_after_an_error, setup, teardown),
    };

    return cmocka_run_group_tests_name("log_again", tests, NULL, NULL);
}
