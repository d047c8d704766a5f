/*
 * Where the entries of the indexes on fields are (core/fields.h): for each index
 * the values that it found and the positions of the events that have them.
 * Derived from the log as log/index.h is, in a folder of its own so that its
 * transactions hold up nobody's; thrown away and made again when in doubt.
 *
 * An index is a number that is never used again. One thread applies and drops;
 * any thread reads, and sees whole transactions only.
 */
#ifndef OX_LOG_VALUES_H
#define OX_LOG_VALUES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/slice.h"

struct ox_values;

#define VALUES_BYTES_MAX 256 /* of a value */
#define VALUES_MARKS_MAX 64  /* indexes in a transaction */

/* What is known of one index. */
struct values_state {
    uint64_t covers;  /* everything below this position is in it */
    uint64_t entries; /* values and positions */
    uint64_t skipped; /* values that were not taken */
    bool     built;   /* was at the end of the log once */
};

struct values_entry {
    uint64_t     index;
    struct slice value; /* at most VALUES_BYTES_MAX */
    uint64_t     pos;
};

/* What a transaction makes of an index. */
struct values_mark {
    uint64_t            index;
    struct values_state state; /* entries: out, counted by the store */
};

/* Entries are of indexes that have a mark; one that is there already is taken once. */
struct values_batch {
    const struct values_entry *entries, *dead; /* dead: taken out */
    uint32_t                   entry_count, dead_count;
    struct values_mark        *marks;
    uint32_t                   mark_count;
};

/* Must only note what it is told. */
typedef int values_fn(void *arg, struct slice value, uint64_t count, struct err *err);

struct ox_values_ops {
    const char *name;

    /* As of struct ox_index_ops; one that is damaged, or of another log, begins anew. */
    int (*open)(struct ox_env *env, const char *dir, const uint8_t *log_id, struct ox_values **out,
                struct err *err);
    void (*close)(struct ox_values *); /* NULL is fine */

    /* One transaction: all of the batch or nothing. */
    int (*apply)(struct ox_values *, const struct values_batch *, struct err *err);

    /* Throws at most `most` values of an index away; E_MORE: there are more. */
    int (*drop)(struct ox_values *, uint64_t index, uint32_t most, struct err *err);

    /* E_NOTFOUND, without a text: nothing was ever applied. */
    int (*state)(struct ox_values *, uint64_t index, struct values_state *, struct err *err);

    /* The indexes that there is anything of, at most `most`. */
    int (*list)(struct ox_values *, uint64_t *indexes, uint32_t most, uint32_t *count,
                struct err *err);

    /*
     * Positions of a value's events from the first >= from (backwards: from the last <= from), at
     * most `most`, and what held for the index then. E_NOTFOUND as above.
     */
    int (*positions)(struct ox_values *, uint64_t index, struct slice value, uint64_t from,
                     bool backwards, uint64_t *positions, uint32_t most, uint32_t *count,
                     struct values_state *, struct err *err);

    /* Values in byte order, those after `after` (empty: all), with how many positions each has. */
    int (*values)(struct ox_values *, uint64_t index, struct slice after, values_fn *fn, void *arg,
                  struct err *err);

    uint64_t (*bytes)(struct ox_values *); /* on the disk */
};

/* The store on the machine (src/log/index_lmdb_values.c). */
extern const struct ox_values_ops log_values_lmdb;

#endif
