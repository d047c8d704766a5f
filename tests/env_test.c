/* The real environment: files as the contract says, and no wake-up lost. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "env/env_real.h"

/* Far longer than any pause of a loaded machine, far shorter than a hang. */
#define HANG_US (UINT64_C(60) * 1000000)

static char           folder[64];
static struct ox_env *env;

static int
make_folder(void **state)
{
    (void)snprintf(folder, sizeof folder, "/tmp/ox-env-test-XXXXXX");
    env = env_real();
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int
remove_one(void *arg, const char *name, struct err *err)
{
    char path[512];

    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return remove(path) == 0 ? 0 : E_IO;
}

static int
drop_folder(void **state)
{
    (void)env->ops->dir_list(env, folder, remove_one, NULL, NULL);
    return rmdir(folder);
}

static char *
in_folder(const char *name)
{
    static char path[128];

    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void
test_clock_and_random(void **state)
{
    uint8_t  a[300] = {0}, b[300] = {0};
    uint64_t before = env->ops->mono_us(env);

    assert_true(env->ops->wall_us(env) > INT64_C(1600000000000000));
    assert_true(env->ops->mono_us(env) >= before);
    env->ops->random(env, a, sizeof a);
    env->ops->random(env, b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
}

static void
test_file(void **state)
{
    struct err      err = {0};
    struct ox_file *file = NULL;
    struct ox_file *again = NULL;
    const uint8_t  *map = NULL;
    uint8_t         out[64];
    size_t          got = 99;
    uint64_t        size = 0;

    assert_int_equal(env->ops->file_open(env, in_folder("a"), ENV_WRITE, &file, &err), E_NOTFOUND);
    assert_null(file);
    assert_non_null(strstr(err.text, "/a: open: No such file"));
    assert_int_equal(env->ops->file_open(env, in_folder("a"), ENV_WRITE | ENV_CREATE, &file, &err),
                     0);
    assert_int_equal(
        env->ops->file_open(env, in_folder("a"), ENV_WRITE | ENV_CREATE | ENV_EXCL, &again, &err),
        E_EXISTS);

    assert_int_equal(env->ops->file_write(env, file, "hello", 5, 10, &err), 0);
    assert_int_equal(env->ops->file_sync(env, file, &err), 0);
    assert_int_equal(env->ops->file_size(env, file, &size, &err), 0);
    assert_int_equal(size, 15);
    assert_int_equal(env->ops->file_read(env, file, out, sizeof out, 8, &got, &err), 0);
    assert_int_equal(got, 7);
    assert_memory_equal(out, "\0\0hello", 7);
    assert_int_equal(env->ops->file_read(env, file, out, sizeof out, 100, &got, &err), 0);
    assert_int_equal(got, 0);

    /* A map shows what is written later. */
    assert_int_equal(env->ops->file_map(env, file, 15, &map, &err), 0);
    assert_memory_equal(map + 10, "hello", 5);
    assert_int_equal(env->ops->file_write(env, file, "HE", 2, 10, &err), 0);
    assert_memory_equal(map + 10, "HEllo", 5);
    env->ops->file_unmap(env, map, 15);
    assert_int_equal(env->ops->file_map(env, file, 16, &map, &err), E_INVALID);
    assert_null(map);
    env->ops->file_unmap(env, NULL, 0);

    env->ops->file_close(env, file);
    env->ops->file_close(env, NULL);
    assert_int_equal(env->ops->file_open(env, in_folder("a"), ENV_READ, &file, &err), 0);
    env->ops->file_close(env, file);
}

static void
test_resize(void **state)
{
    struct err      err = {0};
    struct ox_file *file = NULL;
    struct stat     st;
    uint8_t         out[8192];
    uint64_t        size = 0;
    size_t          got = 0;

    assert_int_equal(env->ops->file_open(env, in_folder("r"), ENV_WRITE | ENV_CREATE, &file, &err),
                     0);
    assert_int_equal(env->ops->file_write(env, file, "abcdefgh", 8, 0, &err), 0);
    assert_int_equal(env->ops->file_resize(env, file, UINT64_C(1) << 20, &err), 0);
    assert_int_equal(stat(in_folder("r"), &st), 0);
    assert_int_equal(st.st_size, 1 << 20);
    assert_true(st.st_blocks * 512 >= 1 << 20); /* there, not merely promised */
    assert_int_equal(env->ops->file_resize(env, file, 4, &err), 0);
    assert_int_equal(env->ops->file_resize(env, file, 4, &err), 0);
    assert_int_equal(env->ops->file_size(env, file, &size, &err), 0);
    assert_int_equal(size, 4);
    assert_int_equal(env->ops->file_resize(env, file, sizeof out, &err), 0);
    assert_int_equal(env->ops->file_read(env, file, out, sizeof out, 0, &got, &err), 0);
    assert_int_equal(got, sizeof out);
    assert_memory_equal(out, "abcd", 4);
    for (size_t i = 4; i < sizeof out; i++)
        assert_int_equal(out[i], 0);
    env->ops->file_close(env, file);
}

/* Over the limit of the process: refused now, and the size is as it was. */
static void
test_resize_refused(void **state)
{
    struct err      err = {0};
    struct ox_file *file = NULL;
    struct rlimit   before;
    struct rlimit   low;
    uint64_t        size = 0;
    int             rc;

    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    low = before;
    low.rlim_cur = 65536;
    assert_int_equal(env->ops->file_open(env, in_folder("f"), ENV_WRITE | ENV_CREATE, &file, &err),
                     0);
    assert_int_equal(env->ops->file_resize(env, file, 4096, &err), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    rc = env->ops->file_resize(env, file, 1 << 20, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(rc, E_IO);
    assert_non_null(strstr(err.text, "/f: resize: "));
    assert_int_equal(env->ops->file_size(env, file, &size, &err), 0);
    assert_int_equal(size, 4096);
    env->ops->file_close(env, file);
}

static void
test_lock(void **state)
{
    struct err      err = {0};
    struct ox_file *one = NULL;
    struct ox_file *two = NULL;

    assert_int_equal(env->ops->file_open(env, in_folder("l"), ENV_WRITE | ENV_CREATE, &one, &err),
                     0);
    assert_int_equal(env->ops->file_open(env, in_folder("l"), ENV_READ, &two, &err), 0);
    assert_int_equal(env->ops->file_lock(env, one, &err), 0);
    assert_int_equal(env->ops->file_lock(env, two, &err), E_BUSY);
    assert_int_equal(err.kind, ERR_RETRY);
    assert_non_null(strstr(err.text, "in use by another process"));
    env->ops->file_close(env, one);
    assert_int_equal(env->ops->file_lock(env, two, &err), 0);
    env->ops->file_close(env, two);
}

static int
count_one(void *arg, const char *name, struct err *err)
{
    int *count = arg;

    (*count)++;
    return strcmp(name, "stop") == 0 ? E_END : 0;
}

static void
test_folders(void **state)
{
    struct err      err = {0};
    struct ox_file *file = NULL;
    char            sub[128], to[256];
    uint64_t        bytes = 0;
    int             count = 0;

    (void)snprintf(sub, sizeof sub, "%s", in_folder("sub"));
    (void)snprintf(to, sizeof to, "%s/stop", sub);
    assert_int_equal(env->ops->dir_make(env, sub, &err), 0);
    assert_int_equal(env->ops->dir_make(env, sub, &err), 0);
    assert_int_equal(env->ops->dir_list(env, sub, count_one, &count, &err), 0);
    assert_int_equal(count, 0);
    assert_int_equal(env->ops->file_open(env, in_folder("m"), ENV_WRITE | ENV_CREATE, &file, &err),
                     0);
    env->ops->file_close(env, file);
    assert_int_equal(env->ops->dir_make(env, in_folder("m"), &err), E_IO);
    assert_int_equal(env->ops->path_rename(env, in_folder("m"), to, &err), 0);
    assert_int_equal(env->ops->dir_sync(env, sub, &err), 0);
    assert_int_equal(env->ops->dir_list(env, sub, count_one, &count, &err), E_END);
    assert_int_equal(count, 1);
    assert_int_equal(env->ops->path_remove(env, to, &err), 0);
    assert_int_equal(env->ops->path_remove(env, to, &err), E_NOTFOUND);
    assert_int_equal(env->ops->path_rename(env, to, sub, &err), E_NOTFOUND);
    assert_int_equal(env->ops->dir_list(env, to, count_one, &count, &err), E_NOTFOUND);
    assert_int_equal(env->ops->dir_sync(env, to, &err), E_NOTFOUND);
    assert_int_equal(env->ops->disk_free(env, sub, &bytes, &err), 0);
    assert_true(bytes > 0);
    assert_int_equal(env->ops->disk_free(env, to, &bytes, &err), E_NOTFOUND);
}

/* tasks and gates */

static uint64_t
step_never(void *arg)
{
    atomic_uint *steps = arg;

    (void)atomic_fetch_add(steps, 1);
    return ENV_STEP_WAIT;
}

static void
test_task_starts_with_a_step(void **state)
{
    atomic_uint        steps = 0;
    struct ox_task_def def = {.name = "fifteen-letters", .step = step_never, .arg = &steps};
    struct ox_task    *task = NULL;

    assert_int_equal(env->ops->task_start(env, &def, &task, NULL), 0);
    while (atomic_load(&steps) == 0)
        (void)sched_yield();
    env->ops->task_stop(env, task);
    env->ops->task_wake(env, task); /* too late, which does no harm */
    env->ops->task_stop(env, NULL);
}

struct timed {
    struct ox_gate gate;
    unsigned       steps;
    sigset_t       mask;
};

static uint64_t
step_timed(void *arg)
{
    struct timed *timed = arg;

    timed->steps++;
    if (timed->steps < 3)
        return ENV_STEP_NOW;
    if (timed->steps < 6)
        return 100;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &timed->mask);
    env->ops->gate_open(env, &timed->gate);
    return ENV_STEP_WAIT;
}

static void
test_task_by_time(void **state)
{
    struct timed       timed = {.steps = 0};
    struct ox_task_def def = {.name = "timed", .step = step_timed, .arg = &timed};
    struct ox_task    *task = NULL;

    gate_init(&timed.gate);
    assert_int_equal(env->ops->task_start(env, &def, &task, NULL), 0);
    assert_true(env->ops->gate_wait(env, &timed.gate, HANG_US));
    env->ops->task_stop(env, task);
    assert_int_equal(timed.steps, 6);
    assert_int_equal(sigismember(&timed.mask, SIGTERM), 1);
    assert_int_equal(sigismember(&timed.mask, SIGINT), 1);
}

static void
test_gate_alone(void **state)
{
    struct ox_gate gate;

    gate_init(&gate);
    assert_false(env->ops->gate_wait(env, &gate, 0));
    assert_false(env->ops->gate_wait(env, &gate, 1000));
    env->ops->gate_open(env, &gate);
    assert_true(env->ops->gate_wait(env, &gate, 0));
    assert_true(env->ops->gate_wait(env, &gate, UINT64_MAX));
}

/*
 * Clients push work with nothing but a slot of their own and a wake-up, and
 * wait on a gate on their stack; one lost wake-up, of the task or of a gate,
 * and a wait runs into the time-out.
 */
#define CLIENTS 6
#define ROUNDS 20000

struct call {
    struct ox_gate gate;
    unsigned       answer; /* plain on purpose: the wake-ups order it */
};

struct hammer {
    _Atomic(struct call *) slots[CLIENTS];
    struct ox_task        *task;
    atomic_uint            lost;
};

static uint64_t
step_hammer(void *arg)
{
    struct hammer *hammer = arg;

    for (unsigned i = 0; i < CLIENTS; i++) {
        struct call *call = atomic_exchange_explicit(&hammer->slots[i], NULL, memory_order_acq_rel);

        if (call == NULL)
            continue;
        call->answer = i + 1;
        env->ops->gate_open(env, &call->gate);
    }
    return ENV_STEP_WAIT;
}

struct client {
    struct hammer *hammer;
    unsigned       number;
    pthread_t      thread;
};

static void *
run_client(void *arg)
{
    struct client *client = arg;
    struct hammer *hammer = client->hammer;

    for (unsigned i = 0; i < ROUNDS; i++) {
        struct call call = {.answer = 0};

        gate_init(&call.gate);
        atomic_store_explicit(&hammer->slots[client->number], &call, memory_order_release);
        env->ops->task_wake(env, hammer->task);
        if (!env->ops->gate_wait(env, &call.gate, HANG_US) || call.answer != client->number + 1) {
            (void)atomic_fetch_add(&hammer->lost, 1);
            break;
        }
    }
    return NULL;
}

static void
test_no_wake_up_is_lost(void **state)
{
    static struct hammer hammer;
    struct client        clients[CLIENTS];
    struct ox_task_def   def = {.name = "hammer", .step = step_hammer, .arg = &hammer};

    assert_int_equal(env->ops->task_start(env, &def, &hammer.task, NULL), 0);
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i].hammer = &hammer;
        clients[i].number = i;
        assert_int_equal(pthread_create(&clients[i].thread, NULL, run_client, &clients[i]), 0);
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        assert_int_equal(pthread_join(clients[i].thread, NULL), 0);
    assert_int_equal(atomic_load(&hammer.lost), 0);
    env->ops->task_stop(env, hammer.task);
}

/* Two tasks that wake one another in turn: each step's wake-up comes while the other falls asleep.
 */
struct pair {
    struct ox_task *tasks[2];
    atomic_uint     turn;
    unsigned        rounds; /* handed over with the turn */
    struct ox_gate  done;
};

struct side {
    struct pair *pair;
    unsigned     number;
};

static uint64_t
step_side(void *arg)
{
    struct side *side = arg;
    struct pair *pair = side->pair;

    if (atomic_load(&pair->turn) != side->number)
        return ENV_STEP_WAIT;
    if (pair->rounds == ROUNDS) {
        env->ops->gate_open(env, &pair->done);
        return ENV_STEP_WAIT;
    }
    pair->rounds++;
    atomic_store(&pair->turn, 1 - side->number);
    env->ops->task_wake(env, pair->tasks[1 - side->number]);
    return ENV_STEP_WAIT;
}

static void
test_ping_pong(void **state)
{
    struct pair pair = {.turn = 2};
    struct side sides[2] = {{&pair, 0}, {&pair, 1}};

    gate_init(&pair.done);
    for (unsigned i = 0; i < 2; i++) {
        struct ox_task_def def = {.name = "side", .step = step_side, .arg = &sides[i]};

        assert_int_equal(env->ops->task_start(env, &def, &pair.tasks[i], NULL), 0);
    }
    atomic_store(&pair.turn, 0);
    env->ops->task_wake(env, pair.tasks[0]);
    assert_true(env->ops->gate_wait(env, &pair.done, HANG_US));
    env->ops->task_stop(env, pair.tasks[0]);
    env->ops->task_stop(env, pair.tasks[1]);
    assert_int_equal(pair.rounds, ROUNDS);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clock_and_random),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_resize_refused),
        cmocka_unit_test(test_lock),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_task_starts_with_a_step),
        cmocka_unit_test(test_task_by_time),
        cmocka_unit_test(test_gate_alone),
        cmocka_unit_test(test_no_wake_up_is_lost),
        cmocka_unit_test(test_ping_pong),
    };

    return cmocka_run_group_tests_name("env", tests, make_folder, drop_folder);
}
