/*
 * The index (log/index.h) as a plain map, for the simulator and as the rule
 * that the real one is held against: no cleverness, no packing.
 *
 * A set of indexes belongs to an environment and outlives every open index, as
 * files do. A transaction takes effect at once and survives a power cut from
 * the next sync on; before that the cut decides how many of them are left,
 * always a whole number and without a hole, because each goes on from the last.
 */
#ifndef OX_SIM_INDEX_MAP_H
#define OX_SIM_INDEX_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "log/index.h"

struct index_maps;

/* Called before every call that can fail; what it returns but 0 is the call's answer. */
typedef int index_maps_fn(void *arg, const char *call, struct err *err);

/* `env` finds its set again: one set at a time for each. `before` may be NULL. */
struct index_maps *index_maps_new(struct ox_env *env, index_maps_fn *before, void *arg);
void               index_maps_free(struct index_maps *maps); /* none may be open */

/* How many transactions of the index in `dir` are not synced. */
uint32_t index_maps_unsynced(const struct index_maps *maps, const char *dir);

/*
 * A power cut: of each index's unsynced transactions the first pick(arg, n + 1)
 * are left; with pick NULL none. No index may be open.
 */
typedef uint64_t index_maps_pick_fn(void *arg, uint64_t below);
void             index_maps_crash(struct index_maps *maps, index_maps_pick_fn *pick, void *arg);

/* Throws the index in `dir` away, as removing its files would. It may not be open. */
void index_maps_remove(struct index_maps *maps, const char *dir);

/* How many are open: 0 after a proper close. */
unsigned index_maps_open(const struct index_maps *maps);

extern const struct ox_index_ops sim_index_map;

#endif
