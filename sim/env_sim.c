/*
 * One thread, one random stream. Every call of the engine is counted, may fail
 * by rate or by script, and may be the one in which the machine stops.
 */
#include "sim/env_sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "base/must.h"
#include "sim/disk_sim.h"

#define START_US INT64_C(1735689600000000) /* the world begins with 2025 */
#define NEST_MAX 3
#define STEPS_MAX UINT64_C(20000000) /* of a wait: more is a livelock */

struct ox_file {
    struct sim       *sim;
    struct disk_file *disk;
    bool              writable, locked;
    char              path[DISK_PATH_MAX];
    struct ox_file   *next;
};

struct map {
    const uint8_t    *at;
    size_t            len;
    struct disk_file *disk;
    struct map       *next;
};

struct ox_task {
    struct ox_task_def def;
    uint64_t           due_us;
    bool               woken, running;
    struct ox_task    *next;
};

struct script {
    bool           set;
    enum sim_call  call;
    enum sim_fault fault;
    uint64_t       left;
};

struct sim {
    struct ox_env   env;
    struct disk    *disk;
    uint64_t        world, picks; /* two streams of random numbers */
    uint64_t        mono_us;
    int64_t         wall_off_us;
    struct ox_file *files;
    struct map     *maps;
    struct ox_task *tasks;
    uint32_t        rate[SIM_CALLS];
    enum sim_fault  kind[SIM_CALLS];
    struct script   script;
    uint64_t        faults, capacity;
    uint64_t        calls, crash_left;
    bool            crash_set, crashed, held;
    enum sim_call   crash_call; /* SIM_CALLS: any */
    unsigned        depth;      /* of steps within steps */
    void (*meanwhile)(void *arg);
    void *meanwhile_arg;
};

static uint64_t
next(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t
world(struct sim *sim, uint64_t below)
{
    must(below > 0);
    return next(&sim->world) % below;
}

static uint64_t
disk_pick(void *arg, uint64_t below)
{
    struct sim *sim = arg;

    return world(sim, below);
}

uint64_t
sim_pick(struct sim *sim, uint64_t below)
{
    must(below > 0);
    return next(&sim->picks) % below;
}

static struct sim *
of(struct ox_env *env)
{
    return (struct sim *)env; /* env comes first */
}

struct sim *
sim_of(struct ox_env *env)
{
    return of(env);
}

static bool
is_ready(const struct sim *sim, const struct ox_task *task)
{
    return !task->running && (task->woken || task->due_us <= sim->mono_us);
}

static struct ox_task *
pick_ready(struct sim *sim)
{
    struct ox_task *task, *found = NULL;
    uint64_t        seen = 0;

    for (task = sim->tasks; task != NULL; task = task->next)
        if (is_ready(sim, task) && world(sim, ++seen) == 0)
            found = task;
    return found;
}

static bool
jump(struct sim *sim, uint64_t upto)
{
    uint64_t first = UINT64_MAX;

    for (struct ox_task *task = sim->tasks; task != NULL; task = task->next)
        if (!task->running && task->due_us < first)
            first = task->due_us;
    if (first == UINT64_MAX || first > upto)
        return false;
    if (first > sim->mono_us)
        sim->mono_us = first;
    return true;
}

static void
run(struct sim *sim, struct ox_task *task)
{
    uint64_t wait;

    must(sim->depth < NEST_MAX + 1);
    task->running = true;
    task->woken = false;
    task->due_us = UINT64_MAX;
    sim->depth++;
    wait = task->def.step(task->def.arg);
    sim->depth--;
    task->running = false;
    if (wait != ENV_STEP_WAIT)
        task->due_us = sim->mono_us + wait;
}

static bool
step_until(struct sim *sim, uint64_t upto)
{
    struct ox_task *task;

    sim->mono_us += world(sim, 20);
    task = pick_ready(sim);
    if ((task == NULL || world(sim, 64) == 0) && !jump(sim, upto) && task == NULL)
        return false;
    task = pick_ready(sim);
    if (task != NULL)
        run(sim, task);
    return true;
}

bool
sim_step(struct sim *sim)
{
    return step_until(sim, UINT64_MAX - 1);
}

uint64_t
sim_run(struct sim *sim, uint64_t max)
{
    uint64_t n = 0;

    while (n < max && sim_step(sim))
        n++;
    return n;
}

void
sim_set_meanwhile(struct sim *sim, void (*fn)(void *arg), void *arg)
{
    sim->meanwhile = fn;
    sim->meanwhile_arg = arg;
}

/*
 * A task is blocked on the disk: others go on, but not into a lock that it
 * holds, which they would wait for.
 */
static void
others(struct sim *sim)
{
    struct ox_task *task;
    uint64_t        turns;

    if (sim->meanwhile == NULL || sim->depth == 0 || sim->depth > NEST_MAX || lock_held())
        return;
    if (world(sim, 3) != 0)
        return;
    for (turns = world(sim, 4); turns > 0; turns--) {
        task = pick_ready(sim);
        if (task != NULL && world(sim, 3) != 0)
            run(sim, task);
        else
            sim->meanwhile(sim->meanwhile_arg);
    }
}

static int
task_start(struct ox_env *env, const struct ox_task_def *def, struct ox_task **out, struct err *err)
{
    struct sim     *sim = of(env);
    struct ox_task *task;

    *out = NULL;
    must(strlen(def->name) <= 15);
    if (sim->crashed)
        RETURN_ERR(err, E_CLOSED, ERR_FATAL, "the machine has stopped");
    task = calloc(1, sizeof *task);
    must(task != NULL);
    task->def = *def;
    task->next = sim->tasks;
    sim->tasks = task;
    *out = task;
    return 0;
}

static void
task_wake(struct ox_env *env, struct ox_task *task)
{
    (void)env;
    task->woken = true;
}

static void
task_stop(struct ox_env *env, struct ox_task *task)
{
    struct ox_task **link = &of(env)->tasks;

    if (task == NULL)
        return;
    must(!task->running);
    while (*link != task) {
        must(*link != NULL);
        link = &(*link)->next;
    }
    *link = task->next;
    free(task);
}

static bool
gate_wait(struct ox_env *env, struct ox_gate *gate, uint64_t timeout_us)
{
    struct sim *sim = of(env);
    uint64_t    end = UINT64_MAX - 1, steps = 0;
    unsigned    closed = 0;

    must(sim->depth == 0); /* a step waits for the disk only */
    if (timeout_us < end - sim->mono_us)
        end = sim->mono_us + timeout_us;
    (void)atomic_compare_exchange_strong(&gate->state, &closed, 1);
    while (atomic_load(&gate->state) != 2) {
        bool stepped = step_until(sim, end);

        must(steps++ < STEPS_MAX); /* the tasks are busy for ever */
        if (atomic_load(&gate->state) == 2)
            break;
        if (sim->mono_us >= end || !stepped) {
            must(timeout_us != UINT64_MAX); /* nothing is left that could open the gate */
            if (sim->mono_us < end)
                sim->mono_us = end;
            return false;
        }
    }
    return true;
}

static void
gate_open(struct ox_env *env, struct ox_gate *gate)
{
    (void)env;
    atomic_store(&gate->state, 2);
}

static int
fail(enum sim_fault fault, const char *path, struct err *err)
{
    switch (fault) {
    case SIM_ENOSPC:
        RETURN_ERR(err, E_NOSPC, ERR_RETRY, "%s: no space left on device (simulated)", path);
    case SIM_EROFS:
        RETURN_ERR(err, E_RDONLY, ERR_FATAL, "%s: read-only file system (simulated)", path);
    case SIM_EIO:
    default:
        RETURN_ERR(err, E_IO, ERR_FATAL, "%s: input/output error (simulated)", path);
    }
}

static int
stopped(const char *path, struct err *err)
{
    RETURN_ERR(err, E_CLOSED, ERR_FATAL, "%s: the machine has stopped (simulated)", path);
}

/* Counts the call; false where it must not happen, *rc then says why. */
static bool
enter(struct sim *sim, enum sim_call call, const char *path, int *rc, struct err *err)
{
    enum sim_fault fault = 0;

    *rc = 0;
    sim->mono_us += world(sim, call == SIM_SYNC ? 1500 : 10);
    if (sim->held && !sim->crashed)
        return true;
    if (!sim->crashed && sim->crash_set &&
        (sim->crash_call == SIM_CALLS || sim->crash_call == call) && sim->crash_left-- == 0)
        sim->crashed = true;
    if (sim->crashed) {
        *rc = stopped(path, err);
        return false;
    }
    sim->calls++;
    if (sim->script.set && sim->script.call == call && sim->script.left-- == 0) {
        sim->script.set = false;
        fault = sim->script.fault;
    } else if (sim->rate[call] > 0 && world(sim, 1000000) < sim->rate[call]) {
        fault = sim->kind[call];
    }
    if (fault == 0)
        return true;
    sim->faults++;
    *rc = fail(fault, path, err);
    return false;
}

void
sim_fault_rate(struct sim *sim, enum sim_call call, enum sim_fault fault, uint32_t per_million)
{
    sim->rate[call] = per_million;
    sim->kind[call] = fault;
}

void
sim_fault_at(struct sim *sim, enum sim_call call, enum sim_fault fault, uint64_t nth)
{
    sim->script = (struct script){.set = true, .call = call, .fault = fault, .left = nth};
}

void
sim_hold(struct sim *sim, bool held)
{
    sim->held = held;
}

void
sim_fault_none(struct sim *sim)
{
    memset(sim->rate, 0, sizeof sim->rate);
    sim->script.set = false;
}

int
sim_touch(struct sim *sim, const char *what, struct err *err)
{
    int rc;

    (void)enter(sim, SIM_OTHER, what, &rc, err);
    return rc;
}

uint64_t
sim_fault_count(const struct sim *sim)
{
    return sim->faults;
}

void
sim_set_capacity(struct sim *sim, uint64_t bytes)
{
    sim->capacity = bytes;
}

static int64_t
wall_us(struct ox_env *env)
{
    struct sim *sim = of(env);

    if (world(sim, 200) == 0)
        sim->wall_off_us += (int64_t)world(sim, 4000000) - 2000000;
    return START_US + (int64_t)sim->mono_us + sim->wall_off_us;
}

static uint64_t
mono_us(struct ox_env *env)
{
    struct sim *sim = of(env);

    sim->mono_us += world(sim, 3);
    return sim->mono_us;
}

static void
random_bytes(struct ox_env *env, void *out, size_t len)
{
    uint8_t *p = out;

    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)world(of(env), 256);
}

static int
file_open(struct ox_env *env, const char *path, unsigned flags, struct ox_file **out,
          struct err *err)
{
    struct sim       *sim = of(env);
    struct disk_file *disk;
    struct ox_file   *file;
    int               rc;

    *out = NULL;
    if (!enter(sim, SIM_OPEN, path, &rc, err))
        return rc;
    if (strlen(path) >= DISK_PATH_MAX || path[0] != '/')
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: not a path here", path);
    disk = disk_find(sim->disk, path);
    if (disk != NULL && (flags & ENV_EXCL) != 0)
        RETURN_ERR(err, E_EXISTS, ERR_DATA, "%s: is there already", path);
    if (disk == NULL && (flags & ENV_CREATE) != 0 && disk_parent_is_dir(sim->disk, path) &&
        !disk_is_dir(sim->disk, path))
        disk = disk_create(sim->disk, path);
    if (disk == NULL)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "%s: no such file", path);
    file = calloc(1, sizeof *file);
    must(file != NULL);
    file->sim = sim;
    file->disk = disk;
    file->writable = (flags & ENV_WRITE) != 0;
    (void)snprintf(file->path, sizeof file->path, "%s", path);
    disk_hold(disk);
    file->next = sim->files;
    sim->files = file;
    *out = file;
    return 0;
}

static void
file_close(struct ox_env *env, struct ox_file *file)
{
    struct sim      *sim = of(env);
    struct ox_file **link = &sim->files;

    if (file == NULL)
        return;
    while (*link != file) {
        must(*link != NULL); /* closed twice */
        link = &(*link)->next;
    }
    *link = file->next;
    disk_drop(file->disk);
    free(file);
}

static int
file_read(struct ox_env *env, struct ox_file *file, void *out, size_t len, uint64_t at, size_t *got,
          struct err *err)
{
    uint64_t       size;
    const uint8_t *bytes;
    int            rc;

    *got = 0;
    others(of(env));
    if (!enter(of(env), SIM_READ, file->path, &rc, err))
        return rc;
    bytes = disk_bytes(file->disk, &size);
    if (at >= size)
        return 0;
    *got = len < size - at ? len : (size_t)(size - at);
    memcpy(out, bytes + at, *got);
    return 0;
}

static uint64_t
room(const struct sim *sim)
{
    uint64_t used = disk_used(sim->disk);

    return used < sim->capacity ? sim->capacity - used : 0;
}

/* A failed or interrupted write has written any part, mostly of its beginning. */
static void
write_part(struct sim *sim, struct ox_file *file, const uint8_t *data, size_t len, uint64_t at)
{
    size_t from = 0, upto = (size_t)world(sim, len + 1);

    if (world(sim, 4) == 0)
        from = (size_t)world(sim, upto + 1);
    disk_write(sim->disk, file->disk, data + from, upto - from, at + from);
}

static int
file_write(struct ox_env *env, struct ox_file *file, const void *data, size_t len, uint64_t at,
           struct err *err)
{
    struct sim *sim = of(env);
    uint64_t    size, grows;
    bool        alive;
    int         rc;

    must(file->writable);
    others(sim);
    alive = !sim->crashed;
    if (!enter(sim, SIM_WRITE, file->path, &rc, err)) {
        if (alive && len > 0)
            write_part(sim, file, data, len, at);
        return rc;
    }
    (void)disk_bytes(file->disk, &size);
    grows = at + len > size ? at + len - size : 0;
    if (grows > 0 && grows > room(sim)) {
        size_t fits = at >= size ? 0 : (size_t)(size - at);

        disk_write(sim->disk, file->disk, data, fits, at);
        return fail(SIM_ENOSPC, file->path, err);
    }
    disk_write(sim->disk, file->disk, data, len, at);
    return 0;
}

static int
file_sync(struct ox_env *env, struct ox_file *file, struct err *err)
{
    struct sim *sim = of(env);
    bool        alive;
    int         rc;

    others(sim);
    alive = !sim->crashed;
    if (!enter(sim, SIM_SYNC, file->path, &rc, err)) {
        if (alive && !sim->crashed)
            disk_sync_failed(sim->disk, file->disk);
        return rc;
    }
    disk_sync(file->disk);
    return 0;
}

/* What may happen to a write without it may happen with it. */
static int
file_start(struct ox_env *env, struct ox_file *file, uint64_t at, uint64_t len, struct err *err)
{
    must(file->writable);
    others(of(env));
    return 0;
}

static int
file_size(struct ox_env *env, struct ox_file *file, uint64_t *size, struct err *err)
{
    int rc;

    *size = 0;
    if (!enter(of(env), SIM_READ, file->path, &rc, err))
        return rc;
    (void)disk_bytes(file->disk, size);
    return 0;
}

static int
file_resize(struct ox_env *env, struct ox_file *file, uint64_t size, struct err *err)
{
    struct sim *sim = of(env);
    uint64_t    old;
    int         rc;

    must(file->writable);
    others(sim);
    if (!enter(sim, SIM_RESIZE, file->path, &rc, err))
        return rc;
    (void)disk_bytes(file->disk, &old);
    if (size > old && size - old > room(sim))
        return fail(SIM_ENOSPC, file->path, err);
    if (size > DISK_FILE_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "%s: larger than the simulated disk takes", file->path);
    disk_resize(sim->disk, file->disk, size);
    return 0;
}

static int
file_map(struct ox_env *env, struct ox_file *file, size_t len, const uint8_t **out, struct err *err)
{
    struct sim *sim = of(env);
    struct map *map;
    uint64_t    size;
    int         rc;

    *out = NULL;
    if (!enter(sim, SIM_MAP, file->path, &rc, err))
        return rc;
    map = calloc(1, sizeof *map);
    must(map != NULL);
    map->at = disk_bytes(file->disk, &size);
    map->len = len;
    map->disk = file->disk;
    must(len <= size); /* reading past the end of a mapped file is a fault */
    disk_hold(file->disk);
    map->next = sim->maps;
    sim->maps = map;
    *out = map->at;
    return 0;
}

static void
file_unmap(struct ox_env *env, const uint8_t *at, size_t len)
{
    struct sim  *sim = of(env);
    struct map **link = &sim->maps, *map;

    while (*link != NULL && ((*link)->at != at || (*link)->len != len))
        link = &(*link)->next;
    map = *link;
    must(map != NULL); /* was never mapped, or with another length */
    *link = map->next;
    disk_drop(map->disk);
    free(map);
}

static int
file_lock(struct ox_env *env, struct ox_file *file, struct err *err)
{
    struct sim *sim = of(env);
    int         rc;

    if (!enter(sim, SIM_OPEN, file->path, &rc, err))
        return rc;
    for (struct ox_file *f = sim->files; f != NULL; f = f->next)
        if (f != file && f->disk == file->disk && f->locked)
            RETURN_ERR(err, E_BUSY, ERR_RETRY, "%s: somebody else has it", file->path);
    file->locked = true;
    return 0;
}

static int
dir_make(struct ox_env *env, const char *path, struct err *err)
{
    struct sim *sim = of(env);
    int         rc;

    if (!enter(sim, SIM_DIR, path, &rc, err))
        return rc;
    if (!disk_parent_is_dir(sim->disk, path))
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "%s: its folder is not there", path);
    if (disk_find(sim->disk, path) != NULL)
        RETURN_ERR(err, E_EXISTS, ERR_DATA, "%s: is a file", path);
    disk_make_dir(sim->disk, path);
    return 0;
}

/* The names first: the function may change the folder. */
static int
dir_list(struct ox_env *env, const char *path, env_dir_fn *fn, void *arg, struct err *err)
{
    struct sim *sim = of(env);
    char      **names = NULL;
    const char *name;
    size_t      count = 0;
    int         rc;

    if (!enter(sim, SIM_DIR, path, &rc, err))
        return rc;
    if (!disk_is_dir(sim->disk, path))
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "%s: no such folder", path);
    while ((name = disk_name(sim->disk, path, count)) != NULL) {
        names = realloc(names, (count + 1) * sizeof *names);
        must(names != NULL);
        names[count] = strdup(name);
        must(names[count] != NULL);
        count++;
    }
    for (size_t i = 0; i < count; i++) { /* in any order */
        size_t j = i + (size_t)world(sim, count - i);
        char  *swap = names[i];

        names[i] = names[j];
        names[j] = swap;
        if (rc == 0)
            rc = fn(arg, names[i], err);
    }
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
    return rc;
}

static int
dir_sync(struct ox_env *env, const char *path, struct err *err)
{
    struct sim *sim = of(env);
    int         rc;

    others(sim);
    if (!enter(sim, SIM_DIR_SYNC, path, &rc, err))
        return rc;
    if (!disk_is_dir(sim->disk, path))
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "%s: no such folder", path);
    disk_sync_dir(sim->disk, path);
    return 0;
}

static int
path_rename(struct ox_env *env, const char *from, const char *to, struct err *err)
{
    struct sim *sim = of(env);
    int         rc;

    if (!enter(sim, SIM_DIR, from, &rc, err))
        return rc;
    if (!disk_rename(sim->disk, from, to))
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "%s: cannot be renamed to %s", from, to);
    return 0;
}

static int
path_remove(struct ox_env *env, const char *path, struct err *err)
{
    struct sim *sim = of(env);
    int         rc;

    if (!enter(sim, SIM_DIR, path, &rc, err))
        return rc;
    if (!disk_remove(sim->disk, path))
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "%s: no such file", path);
    return 0;
}

static int
disk_free_bytes(struct ox_env *env, const char *path, uint64_t *bytes, struct err *err)
{
    struct sim *sim = of(env);

    *bytes = 0;
    if (sim->crashed)
        return stopped(path, err);
    *bytes = room(sim);
    return 0;
}

static const struct ox_env_ops ops = {
    .name = "sim",
    .wall_us = wall_us,
    .mono_us = mono_us,
    .random = random_bytes,
    .file_open = file_open,
    .file_close = file_close,
    .file_read = file_read,
    .file_write = file_write,
    .file_sync = file_sync,
    .file_start = file_start,
    .file_size = file_size,
    .file_resize = file_resize,
    .file_map = file_map,
    .file_unmap = file_unmap,
    .file_lock = file_lock,
    .dir_make = dir_make,
    .dir_list = dir_list,
    .dir_sync = dir_sync,
    .path_rename = path_rename,
    .path_remove = path_remove,
    .disk_free = disk_free_bytes,
    .task_start = task_start,
    .task_wake = task_wake,
    .task_stop = task_stop,
    .gate_wait = gate_wait,
    .gate_open = gate_open,
};

struct sim *
sim_new(uint64_t seed)
{
    struct sim *sim = calloc(1, sizeof *sim);

    must(sim != NULL);
    sim->env.ops = &ops;
    sim->world = seed * 2 + 1;
    sim->picks = ~seed;
    sim->mono_us = 1000000;
    sim->capacity = UINT64_C(1) << 40;
    sim->disk = disk_new(disk_pick, sim);
    return sim;
}

void
sim_free(struct sim *sim)
{
    if (sim == NULL)
        return;
    must(sim->files == NULL);
    must(sim->maps == NULL);
    must(sim->tasks == NULL);
    disk_free(sim->disk);
    free(sim);
}

struct ox_env *
sim_env(struct sim *sim)
{
    return &sim->env;
}

void
sim_crash_in(struct sim *sim, enum sim_call call, uint64_t nth)
{
    sim_crash_at(sim, nth);
    sim->crash_call = call;
}

void
sim_crash_at(struct sim *sim, uint64_t nth)
{
    sim->crash_set = true;
    sim->crash_call = SIM_CALLS;
    sim->crash_left = nth;
}

void
sim_crash(struct sim *sim)
{
    sim->crashed = true;
}

bool
sim_crashed(const struct sim *sim)
{
    return sim->crashed;
}

uint64_t
sim_calls(const struct sim *sim)
{
    return sim->calls;
}

void
sim_reboot(struct sim *sim, enum sim_loss loss)
{
    must(sim->files == NULL);
    must(sim->maps == NULL);
    must(sim->tasks == NULL);
    if (loss == SIM_LOSS_NONE)
        disk_evict(sim->disk);
    else
        disk_lose(sim->disk, loss == SIM_LOSS_ALL);
    sim->crashed = false;
    sim->crash_set = false;
    sim->mono_us += world(sim, 5000000);
}

const char *
sim_file(struct sim *sim, size_t nth)
{
    return disk_name(sim->disk, NULL, nth);
}

const uint8_t *
sim_file_bytes(struct sim *sim, const char *path, uint64_t *size)
{
    struct disk_file *file = disk_find(sim->disk, path);

    *size = 0;
    return file == NULL ? NULL : disk_bytes(file, size);
}

const uint8_t *
sim_file_durable(struct sim *sim, const char *path, uint64_t *size)
{
    *size = 0;
    return disk_durable(sim->disk, path, size);
}

bool
sim_damage(struct sim *sim, const char *path, uint64_t at, uint64_t len, uint8_t mask)
{
    struct disk_file *file = disk_find(sim->disk, path);
    uint64_t          size;

    if (file == NULL)
        return false;
    (void)disk_bytes(file, &size);
    if (at > size || len > size - at)
        return false;
    disk_damage(file, at, len, mask);
    return true;
}

unsigned
sim_open_files(const struct sim *sim)
{
    unsigned n = 0;

    for (const struct ox_file *f = sim->files; f != NULL; f = f->next)
        n++;
    return n;
}

unsigned
sim_open_maps(const struct sim *sim)
{
    unsigned n = 0;

    for (const struct map *m = sim->maps; m != NULL; m = m->next)
        n++;
    return n;
}

unsigned
sim_tasks(const struct sim *sim)
{
    unsigned n = 0;

    for (const struct ox_task *t = sim->tasks; t != NULL; t = t->next)
        n++;
    return n;
}
