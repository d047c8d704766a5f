/*
 * One range of keys, read at both sides at one cut and compared: what is equal,
 * what differs for certain, and what changed meanwhile and has to be looked at
 * again.
 *
 * The cut: the leader's rows are read; then its feed's position is taken and
 * applied; then the follower's rows are read; then the feed is captured once
 * more. A key without an event between the first and the last moment had one
 * value at the leader all the time, and the follower had been given it before
 * it was read. So for such a key unequal is divergent and equal is equal.
 */
#ifndef OX_MIGRATE_TRACER_RANGE_H
#define OX_MIGRATE_TRACER_RANGE_H

#include "migrate/tracer/keys.h"
#include "migrate/tracer/tracer_int.h"

struct traceri_rows;

enum traceri_kind { KIND_MISSING, KIND_EXTRA, KIND_DIFFERENT, KIND_NULL_EMPTY };

/* `fields`: names as JSON strings with commas; empty but for the last two kinds. */
typedef int traceri_differs_fn(void *arg, struct slice key, enum traceri_kind kind,
                               struct slice fields, struct err *err);
typedef int traceri_hot_fn(void *arg, struct slice key, struct err *err);

struct traceri_range {
    struct tracer      *t;
    struct slice        after;  /* the keys after this one, at most `limit` of the leader's … */
    struct slice        single; /* … or this one alone, where it is not empty */
    uint32_t            limit;
    traceri_differs_fn *differs;
    traceri_hot_fn     *hot;
    void               *arg;
    /* results */
    char     last[TRACERI_KEY_MAX + 1]; /* where the next range begins */
    bool     end;                       /* nothing is left */
    bool     compared;                  /* the fingerprints were not equal */
    uint64_t rows, hash_us;
};

int  traceri_rows_new(struct traceri_rows **, struct err *);
void traceri_rows_free(struct traceri_rows *);
int  traceri_range_verify(struct traceri_rows *, struct traceri_range *, struct err *);

/* Keys with events of either side that are not Oxbow's own, from *from on; *from moves on. */
int traceri_range_changed(struct tracer *, uint64_t *from, struct traceri_keys *, struct err *);

#endif
