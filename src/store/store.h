/*
 * A store: one side of a migration. Keyed rows that can be enumerated, read,
 * written on a condition, and guarded. Drivers for SQL tables and for HTTP
 * services pass one contract suite; the tracer write uses nothing else.
 *
 * A row is a JSON object in canonical form (base/json.h json_canonical) of the
 * fields that the migration moves, under the store's own field names. A key is
 * text; `key_order` says how keys sort, the same way on both sides.
 *
 * An instance belongs to one thread at a time and may block; workers open
 * instances of their own.
 */
#ifndef OX_STORE_STORE_H
#define OX_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/must.h"
#include "base/slice.h"

struct conf;
struct conf_type;
struct store;

enum store_key_order {
    STORE_KEY_INTEGER, /* decimal numbers, 64 bits, by value */
    STORE_KEY_TEXT,    /* bytes */
};

/* <0, 0, >0 */
int store_key_cmp(enum store_key_order, struct slice a, struct slice b);

enum store_cond_kind {
    STORE_ANY,     /* whatever is there */
    STORE_ABSENT,  /* only if no such row is there */
    STORE_VERSION, /* only if the row's version is this one */
    STORE_EQUALS,  /* only if the row is this one, field by field (repair, guarded applies) */
};

struct store_write {
    struct slice         key;
    struct slice         fields; /* the row to be; ignored by del */
    enum store_cond_kind cond;
    struct slice         expect; /* version (STORE_VERSION) or canonical fields (STORE_EQUALS) */
    uint64_t             epoch;  /* of the migration; a side that knows a newer one: E_FENCED */
    struct slice         origin; /* the mark that feeds carry: "oxbow:MIGRATION" */
    struct slice         request_id; /* the same for a retry of the same write */
};

struct store_row {
    struct slice key, fields, version; /* valid until the next call; version may be empty */
};

/* Non-zero stops the scan and is returned. */
typedef int store_row_fn(void *arg, const struct store_row *, struct err *);

/* What stands at the authority (DESIGN part 9: the fence lives there, not in a cache). */
struct store_guard {
    uint64_t epoch;
    bool     writable;      /* applications may write the moved subset here */
    char     moved_to[256]; /* said to those who are refused */
};

typedef void store_finding_fn(void *arg, int level, const char *text);

struct store_ops {
    const char             *name; /* in the configuration: `type: NAME` */
    size_t                  size;
    const struct conf_type *schema;

    int (*open)(struct store *, const struct conf *, struct err *);
    void (*close)(struct store *);
    int (*check)(struct store *, store_finding_fn *, void *arg, struct err *);

    /* Rows in key order, those after `after` (empty: from the first), at most limit (0: all). */
    int (*scan)(struct store *, struct slice after, uint32_t limit, store_row_fn *, void *arg,
                struct err *);
    /* E_NOTFOUND where there is none (a row outside of the subset is not there). */
    int (*get)(struct store *, struct slice key, struct store_row *, struct err *);
    /*
     * One row, durable when it returns 0. E_WRONG_VERSION: the condition does
     * not hold; E_FENCED: a newer epoch is known there; E_REJECTED/DATA: refused
     * for good; ERR_RETRY / ERR_UNSURE as in base/err.h.
     */
    int (*put)(struct store *, const struct store_write *, struct err *);
    int (*del)(struct store *, const struct store_write *, struct err *); /* gone already: 0 */

    /*
     * The head of the side's own change feed now, in the terms of its source's
     * checkpoints (JSON). What was written before the call lies at or before it.
     */
    int (*position)(struct store *, struct buf *, struct err *);

    /* The guard. install: again is fine; set: only to a newer epoch, else E_FENCED; in one
     * transaction with whatever enforces it. get: E_NOTFOUND where none is installed. */
    int (*guard_install)(struct store *, const struct store_guard *, struct err *);
    int (*guard_set)(struct store *, const struct store_guard *, struct err *);
    int (*guard_get)(struct store *, struct store_guard *, struct err *);
    int (*guard_remove)(struct store *, struct err *);
};

struct store {
    const struct store_ops *ops;
    struct ox_env          *env;
    const char             *instance;
    enum store_key_order    key_order;     /* the driver sets it in open, and this: */
    bool                    del_keeps_row; /* del empties the fields; the row and its key stay */
};

int  store_new(struct ox_env *, const struct store_ops *, const char *instance, const struct conf *,
               struct store **, struct err *);
void store_free(struct store *); /* NULL is fine */

#endif
