/*
 * The world outside the engine. `log` and `core` make no system calls and
 * start no threads: clock, random, disk, tasks and wake-ups come from here, so
 * that the same code runs on the machine (src/env) and, stepped, under a
 * seeded simulator (sim).
 *
 * A *task* is a thread of the engine in the shape of a step function. The real
 * environment gives each task a thread of its own and steps it whenever it was
 * woken or its time has come; the simulator picks any task that is due. Steps
 * of one task never overlap. A step of the log may block on the disk and on nothing
 * else; a step of a pipeline may block in its driver, for about a second.
 *
 * A *gate* is a one-shot wake-up for a caller that is no task (a library
 * user's thread): it waits until somebody opens the gate.
 */
#ifndef OX_BASE_ENV_H
#define OX_BASE_ENV_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct ox_env;
struct ox_file;
struct ox_task;

enum env_open_flags {
    ENV_READ = 0,   /* read only */
    ENV_WRITE = 1,  /* read and write */
    ENV_CREATE = 2, /* create if missing (with ENV_WRITE) */
    ENV_EXCL = 4,   /* refuse if it is there (with ENV_CREATE) */
};

/* Step again at once, or only when woken. Anything between: in so many µs. */
#define ENV_STEP_NOW 0
#define ENV_STEP_WAIT UINT64_MAX

struct ox_task_def {
    const char *name; /* at most 15 bytes: the thread's name */
    /* Returns after how many µs to step again without a wake-up. */
    uint64_t (*step)(void *arg);
    void *arg;
    bool  background; /* what others wait for comes first, where the machine knows such a thing */
};

struct ox_gate {
    atomic_uint state; /* 0 closed, 1 closed with a waiter, 2 open */
};

/* Called for each entry but "." and "..". */
typedef int env_dir_fn(void *arg, const char *name, struct err *err);

struct ox_env_ops {
    const char *name;

    int64_t (*wall_us)(struct ox_env *);  /* since 1970-01-01 UTC; may step back */
    uint64_t (*mono_us)(struct ox_env *); /* never steps back */
    void (*random)(struct ox_env *, void *out, size_t len);

    int (*file_open)(struct ox_env *, const char *path, unsigned flags, struct ox_file **,
                     struct err *);
    void (*file_close)(struct ox_env *, struct ox_file *); /* no sync; NULL is fine */
    /* Reads up to len bytes; *got < len only at the end of the file. */
    int (*file_read)(struct ox_env *, struct ox_file *, void *out, size_t len, uint64_t at,
                     size_t *got, struct err *);
    /* Writes all of it or fails; a failed write may have written any part. */
    int (*file_write)(struct ox_env *, struct ox_file *, const void *data, size_t len, uint64_t at,
                      struct err *);
    /* Data, and the size where it grew (fdatasync). */
    int (*file_sync)(struct ox_env *, struct ox_file *, struct err *);
    /* Begins to write out what was written there, waits for nothing and promises nothing. */
    int (*file_start)(struct ox_env *, struct ox_file *, uint64_t at, uint64_t len, struct err *);
    int (*file_size)(struct ox_env *, struct ox_file *, uint64_t *, struct err *);
    /* Sets the size; new blocks are allocated now (ENOSPC now, not later) and read as zero. */
    int (*file_resize)(struct ox_env *, struct ox_file *, uint64_t size, struct err *);
    /* Maps the first len bytes for reading. Later writes to the file show in it. */
    int (*file_map)(struct ox_env *, struct ox_file *, size_t len, const uint8_t **, struct err *);
    void (*file_unmap)(struct ox_env *, const uint8_t *, size_t len);
    /* Held until the file is closed or the process ends; E_BUSY where another process holds it. */
    int (*file_lock)(struct ox_env *, struct ox_file *, struct err *);

    int (*dir_make)(struct ox_env *, const char *path, struct err *); /* there already: fine */
    int (*dir_list)(struct ox_env *, const char *path, env_dir_fn *, void *arg, struct err *);
    int (*dir_sync)(struct ox_env *, const char *path, struct err *);
    int (*path_rename)(struct ox_env *, const char *from, const char *to, struct err *);
    int (*path_remove)(struct ox_env *, const char *path, struct err *); /* a file */
    int (*disk_free)(struct ox_env *, const char *path, uint64_t *bytes, struct err *);

    /* The task is in *out before its first step. */
    int (*task_start)(struct ox_env *, const struct ox_task_def *, struct ox_task **, struct err *);
    /* Any thread; cheap when awake. It may come too late, when the task was stopped. */
    void (*task_wake)(struct ox_env *, struct ox_task *);
    /* Returns after the last step; only a late task_wake may have it then. Not from within a step.
     * NULL is fine. */
    void (*task_stop)(struct ox_env *, struct ox_task *);

    /* Waits at most timeout_us (UINT64_MAX: for ever); false when the time ran out. */
    bool (*gate_wait)(struct ox_env *, struct ox_gate *, uint64_t timeout_us);
    void (*gate_open)(struct ox_env *, struct ox_gate *); /* the gate may be gone afterwards */
};

/* Implementations put this first. */
struct ox_env {
    const struct ox_env_ops *ops;
};

static inline void
gate_init(struct ox_gate *gate)
{
    atomic_init(&gate->state, 0);
}

/* Sets the flag and wakes the task, which may end on that and free whatever has the flag at once.
 */
static inline void
env_tell(struct ox_env *env, struct ox_task *task, atomic_bool *flag)
{
    atomic_store(flag, true);
    env->ops->task_wake(env, task);
}

#endif
