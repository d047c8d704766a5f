/*
 * The machine's clock, random, tasks and gates.
 *
 * A task is a thread with one word: AWAKE (stepping, nothing new), PENDING
 * (woken since its step began) or ASLEEP. A wake-up always exchanges PENDING
 * in and makes the system call only when it took ASLEEP out; the task
 * exchanges AWAKE in before each step, so whatever a waker wrote before its
 * wake-up is seen by a step that begins later. It must be an exchange even
 * where PENDING is there already: a mere look could pass the waker's own
 * writes, and the wake-up would be lost.
 *
 * FUTEX_WAKE may come after the word's memory was freed (a gate may be gone
 * once it is open): it reads nothing there, and at worst wakes a stranger,
 * which is why every wait looks again. Nor is a task's memory given back: it serves
 * the next task, so that a wake-up may come after the task was stopped.
 */
#include "env/env_real.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/must.h"
#include "env/env_real_int.h"

#define TASK_MAGIC 0x7a5c7a5cU
#define TASK_NAME_MAX 15
#define BACKGROUND_NICE 10 /* more than the program's own */
#define SLICE_NS 100000u

enum task_state { TASK_AWAKE, TASK_PENDING, TASK_ASLEEP };
enum gate_state { GATE_CLOSED, GATE_WAITED, GATE_OPEN };

struct ox_task {
    unsigned           magic;
    atomic_uint        state; /* enum task_state */
    atomic_bool        stop;
    struct ox_task_def def;
    pthread_t          thread;
    struct ox_task    *next; /* of those that were stopped */
};

static struct ox_task *spare;
static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;

static int64_t
wall_us(struct ox_env *env)
{
    struct timespec ts;

    must(clock_gettime(CLOCK_REALTIME, &ts) == 0);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static uint64_t
mono_us(struct ox_env *env)
{
    struct timespec ts;

    must(clock_gettime(CLOCK_MONOTONIC, &ts) == 0);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void
fill_random(struct ox_env *env, void *out, size_t len)
{
    uint8_t *to = out;

    while (len > 0) {
        ssize_t n = getrandom(to, len, 0);

        if (n < 0 && errno == EINTR)
            continue;
        must(n > 0);
        to += n;
        len -= (size_t)n;
    }
}

/* When a time-out that starts now is over; UINT64_MAX: never. */
static uint64_t
deadline_of(uint64_t timeout_us)
{
    uint64_t now;

    if (timeout_us == UINT64_MAX)
        return UINT64_MAX;
    now = mono_us(NULL);
    /* Beyond what a timespec can hold is "never" as well. */
    return timeout_us >= UINT64_MAX / 2 - now ? UINT64_MAX : now + timeout_us;
}

/* False when the deadline has passed; true for any other reason to look again. */
static bool
futex_wait(atomic_uint *word, unsigned expected, uint64_t deadline_us)
{
    struct timespec  ts;
    struct timespec *until = NULL;
    long             rc;

    if (deadline_us != UINT64_MAX) {
        ts.tv_sec = (time_t)(deadline_us / 1000000);
        ts.tv_nsec = (long)(deadline_us % 1000000) * 1000;
        until = &ts;
    }
    rc = syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected, until, NULL,
                 FUTEX_BITSET_MATCH_ANY);
    if (rc == 0)
        return true;
    must(errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT);
    return errno != ETIMEDOUT;
}

static void
futex_wake(atomic_uint *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

/* Until woken or until the time is over; at once where a wake-up came during the step. */
static void
sleep_task(struct ox_task *task, uint64_t timeout_us)
{
    uint64_t deadline = deadline_of(timeout_us);
    unsigned awake = TASK_AWAKE;

    if (!atomic_compare_exchange_strong(&task->state, &awake, TASK_ASLEEP))
        return;
    while (atomic_load(&task->state) == TASK_ASLEEP) {
        if (!futex_wait(&task->state, TASK_ASLEEP, deadline))
            return;
    }
}

/* The calling thread's niceness, and how long it runs before others have their turn; 0: as usual.
 */
static void
set_turn(int nice, uint64_t slice_ns)
{
    struct { /* struct sched_attr of linux/sched/types.h, which does not go with glibc's sched.h */
        uint32_t size, policy;
        uint64_t flags;
        int32_t  nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } a = {.size = sizeof a, .nice = nice, .runtime = slice_ns};

    static_assert(sizeof a == 48, "its first version");
    if (sched_getscheduler(0) == SCHED_OTHER) /* else somebody has chosen better */
        (void)syscall(SYS_sched_setattr, 0, &a, 0);
}

/*
 * Since Linux 6.12 a thread that asks for short slices runs at once when it wakes beside one with
 * longer ones, and not behind that one's slice, which may be 3 ms. Older ones ignore it.
 */
void
env_real_prompt(void)
{
    set_turn(getpriority(PRIO_PROCESS, 0), SLICE_NS);
}

static void *
run_task(void *arg)
{
    struct ox_task *task = arg;

    must(task->magic == TASK_MAGIC);
    if (task->def.background) /* Linux keeps this for each thread */
        set_turn(getpriority(PRIO_PROCESS, 0) + BACKGROUND_NICE, 0);
    else
        env_real_prompt();
    for (;;) {
        uint64_t wait_us;

        (void)atomic_exchange(&task->state, TASK_AWAKE);
        if (atomic_load(&task->stop))
            return NULL;
        wait_us = task->def.step(task->def.arg);
        if (wait_us != ENV_STEP_NOW)
            sleep_task(task, wait_us);
    }
}

/* Signals are for the program's own threads: a task never sees one. */
static int
start_thread(struct ox_task *task)
{
    sigset_t all;
    sigset_t before;
    int      errnum;

    must(sigfillset(&all) == 0);
    must(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    errnum = pthread_create(&task->thread, NULL, run_task, task);
    must(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    return errnum;
}

/* NULL: no memory. */
static struct ox_task *
take_task(void)
{
    struct ox_task *task;

    must(pthread_mutex_lock(&spare_lock) == 0);
    task = spare;
    if (task != NULL)
        spare = task->next;
    must(pthread_mutex_unlock(&spare_lock) == 0);
    if (task != NULL)
        return task;
    task = malloc(sizeof *task);
    if (task != NULL) {
        task->magic = TASK_MAGIC;
        atomic_init(&task->state, TASK_AWAKE);
        atomic_init(&task->stop, false);
    }
    return task;
}

static void
give_task(struct ox_task *task)
{
    must(pthread_mutex_lock(&spare_lock) == 0);
    task->next = spare;
    spare = task;
    must(pthread_mutex_unlock(&spare_lock) == 0);
}

static int
task_start(struct ox_env *env, const struct ox_task_def *def, struct ox_task **out, struct err *err)
{
    struct ox_task *task;
    int             errnum;

    *out = NULL;
    must(def->step != NULL);
    must(strlen(def->name) <= TASK_NAME_MAX);
    task = take_task();
    if (task == NULL)
        return envi_fail(err, def->name, "start task", ENOMEM);
    task->def = *def;
    atomic_store(&task->state, TASK_AWAKE);
    atomic_store(&task->stop, false);
    *out = task; /* its first step may already wake it through this */
    errnum = start_thread(task);
    if (errnum != 0) {
        *out = NULL;
        give_task(task);
        return envi_fail(err, def->name, "start task", errnum);
    }
    (void)pthread_setname_np(task->thread, def->name);
    return 0;
}

static void
task_wake(struct ox_env *env, struct ox_task *task)
{
    must(task->magic == TASK_MAGIC);
    if (atomic_exchange(&task->state, TASK_PENDING) == TASK_ASLEEP)
        futex_wake(&task->state);
}

static void
task_stop(struct ox_env *env, struct ox_task *task)
{
    if (task == NULL)
        return;
    must(task->magic == TASK_MAGIC);
    must(!pthread_equal(task->thread, pthread_self()));
    atomic_store(&task->stop, true);
    task_wake(env, task);
    must(pthread_join(task->thread, NULL) == 0);
    give_task(task);
}

static bool
gate_wait(struct ox_env *env, struct ox_gate *gate, uint64_t timeout_us)
{
    unsigned state = GATE_CLOSED;
    uint64_t deadline;

    if (!atomic_compare_exchange_strong(&gate->state, &state, GATE_WAITED) && state == GATE_OPEN)
        return true;
    deadline = deadline_of(timeout_us);
    while (atomic_load(&gate->state) != GATE_OPEN) {
        if (!futex_wait(&gate->state, GATE_WAITED, deadline))
            return atomic_load(&gate->state) == GATE_OPEN;
    }
    return true;
}

static void
gate_open(struct ox_env *env, struct ox_gate *gate)
{
    if (atomic_exchange(&gate->state, GATE_OPEN) == GATE_WAITED)
        futex_wake(&gate->state);
}

static const struct ox_env_ops real_ops = {
    .name = "real",
    .wall_us = wall_us,
    .mono_us = mono_us,
    .random = fill_random,
    .file_open = envi_file_open,
    .file_close = envi_file_close,
    .file_read = envi_file_read,
    .file_write = envi_file_write,
    .file_sync = envi_file_sync,
    .file_start = envi_file_start,
    .file_size = envi_file_size,
    .file_resize = envi_file_resize,
    .file_map = envi_file_map,
    .file_unmap = envi_file_unmap,
    .file_lock = envi_file_lock,
    .dir_make = envi_dir_make,
    .dir_list = envi_dir_list,
    .dir_sync = envi_dir_sync,
    .path_rename = envi_path_rename,
    .path_remove = envi_path_remove,
    .disk_free = envi_disk_free,
    .task_start = task_start,
    .task_wake = task_wake,
    .task_stop = task_stop,
    .gate_wait = gate_wait,
    .gate_open = gate_open,
};

struct ox_env *
env_real(void)
{
    static struct ox_env env = {.ops = &real_ops};

    return &env;
}
