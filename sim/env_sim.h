/*
 * A seeded world for the engine: virtual clock, deterministic random, one
 * thread that steps the tasks in any order, and a disk that forgets.
 *
 * The disk keeps what a power cut keeps: bytes that file_sync covered, and
 * directory entries that dir_sync covered. Everything else is at the mercy of
 * the seed: kept, dropped, torn at a sector or within one, or in another order
 * than it was written. Bytes outside of a write are never touched by it. Closing a
 * file syncs nothing. After a failed sync the bytes are no longer dirty: a
 * later sync covers only what was written after it, as on Linux.
 */
#ifndef OX_SIM_ENV_SIM_H
#define OX_SIM_ENV_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"

struct sim;

struct sim *sim_new(uint64_t seed);
void        sim_free(struct sim *sim); /* NULL is fine; no file may be open */

struct ox_env *sim_env(struct sim *sim);
struct sim    *sim_of(struct ox_env *env);

/* A number below `below`, from a stream of its own: asking changes nothing in the world. */
uint64_t sim_pick(struct sim *sim, uint64_t below);

/* Steps one due task, moving the clock if none is due; false when all wait for a wake-up. */
bool sim_step(struct sim *sim);

/* Steps until all wait, at most `max` times; how many steps it took. */
uint64_t sim_run(struct sim *sim, uint64_t max);

/*
 * Called while a task is blocked on the disk, once in a while: what other
 * threads do meanwhile. It may submit and read, not wait. Other tasks are
 * stepped there too. NULL: nothing happens while a task is blocked.
 */
void sim_set_meanwhile(struct sim *sim, void (*fn)(void *arg), void *arg);

enum sim_call {
    SIM_OPEN,
    SIM_READ,
    SIM_WRITE,
    SIM_SYNC,
    SIM_RESIZE,
    SIM_MAP,
    SIM_DIR, /* making, listing, renaming, removing */
    SIM_DIR_SYNC,
    SIM_OTHER, /* sim_touch */
    SIM_CALLS
};

enum sim_fault {
    SIM_EIO = 1,
    SIM_ENOSPC,
    SIM_EROFS,
};

/* How many of a million calls of a kind fail, and how. */
void
sim_fault_rate(struct sim *sim, enum sim_call call, enum sim_fault fault, uint32_t per_million);

/* The nth next call of the kind fails (0: the next one). One script at a time. */
void sim_fault_at(struct sim *sim, enum sim_call call, enum sim_fault fault, uint64_t nth);

/* While held no call fails and none is counted: for checks that are no part of the story. */
void sim_hold(struct sim *sim, bool held);

/* No more faults of any kind. */
void sim_fault_none(struct sim *sim);

/* A call to something else that stands on this world: may fail or stop the machine. */
int sim_touch(struct sim *sim, const char *what, struct err *err);

/* How many faults were injected so far. */
uint64_t sim_fault_count(const struct sim *sim);

/* Bytes of files beyond which there is no space; UINT64_MAX: none. */
void sim_set_capacity(struct sim *sim, uint64_t bytes);

/* The machine stops within the nth next call (0: the next one): it and all later ones fail with
 * E_CLOSED. */
void sim_crash_at(struct sim *sim, uint64_t nth);

/* The same within the nth next call of a kind. */
void sim_crash_in(struct sim *sim, enum sim_call call, uint64_t nth);

/* It stops now. */
void sim_crash(struct sim *sim);

bool sim_crashed(const struct sim *sim);

/* Calls counted by sim_crash_at so far. */
uint64_t sim_calls(const struct sim *sim);

enum sim_loss {
    SIM_LOSS_NONE,   /* only the process ended: everything written is still there */
    SIM_LOSS_ALL,    /* all that was not synced is gone */
    SIM_LOSS_RANDOM, /* the seed decides */
};

/* Starts again after a crash, or after a clean end. No file, mapping or task may be left. */
void sim_reboot(struct sim *sim, enum sim_loss loss);

/* Files in byte order of their paths; NULL after the last. */
const char *sim_file(struct sim *sim, size_t nth);

/* The bytes as a reader sees them; NULL where there is no such file. */
const uint8_t *sim_file_bytes(struct sim *sim, const char *path, uint64_t *size);

/* The bytes that would survive the loss of all that is not synced; NULL where there are none. */
const uint8_t *sim_file_durable(struct sim *sim, const char *path, uint64_t *size);

/* Changes stored bytes behind everybody's back: mask is xored over each byte. */
bool sim_damage(struct sim *sim, const char *path, uint64_t at, uint64_t len, uint8_t mask);

/* Objects that were not given back: 0 after a proper close. */
unsigned sim_open_files(const struct sim *sim);
unsigned sim_open_maps(const struct sim *sim);
unsigned sim_tasks(const struct sim *sim);

#endif
