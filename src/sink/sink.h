/*
 * A sink: somewhere events are delivered to. A driver sees base and this header
 * only. Order, retries, backoff, parking and checkpoints are the core's.
 *
 * The core steps a sink on a thread of the sink's own. It submits items while
 * the sink has credit (at most one item of a stream at a time for drivers that
 * finish items out of order) and polls; during poll the driver reports each
 * item by sink_done, every one in bounded time.
 *
 * A driver that is `transactional` keeps the checkpoint on the far side, in the
 * same transaction as the items, which it takes in the order of submitting,
 * many of a stream too. The core polls it with `flush` only, and that poll
 * decides: all items are done, or none. Where the far side refuses one, that
 * one is reported and the others are handed back by sink_back; where the
 * transaction fails, all are handed back and poll says why. So the driver
 * holds nothing when the poll returns, and the core goes on from the far
 * side's checkpoint.
 */
#ifndef OX_SINK_SINK_H
#define OX_SINK_SINK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/id.h"
#include "base/must.h"
#include "base/pos.h"
#include "base/slice.h"

struct conf;
struct conf_type;
struct sink;

/* An event on its way out; the core owns it until sink_done. */
struct sink_item {
    struct log_pos pos;
    uint64_t       version;
    struct slice   stream, type, data, meta;
    struct slice   key; /* the stream's name after its category and '-' */
    struct ox_id   id;
    int64_t        created_us;
    uint32_t       attempt; /* 0: the first */
    uint32_t       run;     /* of a range that is delivered once more; 0: it is not */
    bool           json;    /* the data is JSON: whoever took it in has checked it */
    /* the core's own */
    struct sink_item *next;
    void             *owner;
};

typedef void finding_line_fn(void *arg, int level, const char *text);

struct sink_ops {
    const char             *name; /* in the configuration: `type: NAME` */
    size_t                  size; /* of the instance; struct sink comes first */
    const struct conf_type *schema;
    bool                    transactional;

    int (*open)(struct sink *, const struct conf *, struct err *);
    void (*close)(struct sink *);
    int (*check)(struct sink *, finding_line_fn *, void *arg, struct err *);

    /* Transactional: the checkpoint on the far side, the last position that is done there; 0 for a
     * first start. Others: pos.v = 0. */
    int (*checkpoint)(struct sink *, struct log_pos *, struct err *);

    /* Takes the item; never blocks on the far side, never reports. */
    int (*submit)(struct sink *, struct sink_item *, struct err *);

    /*
     * Works for at most wait_ms and calls sink_done for what was decided.
     * `flush`: nothing more comes for now, so send what was gathered; `upto` is
     * the checkpoint to store with it (transactional only; also without items).
     */
    int (*poll)(struct sink *, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *);
};

struct sink {
    const struct sink_ops *ops;
    struct ox_env         *env;
    const char            *instance;
    uint32_t               credit; /* how many more items it takes; the driver sets it in open */
    uint32_t               in_flight;
    /* It has `transactional`'s order of things: ops->transactional, or by its configuration. Set in
     * open. `whole`: all of that but the checkpoint. */
    bool     transactional, whole;
    bool     once;          /* each event comes once, through all moves of streams; the core's */
    uint64_t not_before_us; /* nothing is submitted before this time of mono_us; the driver's */
    /* The core's: told once for each item. rc 0, or err with its kind: RETRY and UNSURE are sent
     * again (UNSURE: maybe it arrived), DATA parks the event. */
    void (*done)(struct sink *, struct sink_item *, int rc, const struct err *);
    void *done_arg;
};

int  sink_new(struct ox_env *, const struct sink_ops *, const char *instance, const struct conf *,
              struct sink **, struct err *);
void sink_free(struct sink *); /* NULL is fine */

/* For drivers that have no checkpoint on the far side. */
int sink_noop_checkpoint(struct sink *, struct log_pos *, struct err *);

static inline uint64_t
sink_now_us(const struct sink *s)
{
    return s->env->ops->mono_us(s->env);
}

static inline int
sink_submit(struct sink *s, struct sink_item *item, struct err *err)
{
    int rc;

    must(s->credit > 0);
    rc = s->ops->submit(s, item, err);
    if (rc == 0) {
        s->credit--;
        s->in_flight++;
    }
    return rc;
}

/* Driver to core: this item is decided. */
static inline void
sink_done(struct sink *s, struct sink_item *item, int rc, const struct err *err)
{
    must(s->in_flight > 0);
    s->in_flight--;
    s->credit++;
    s->done(s, item, rc, err);
}

/* Driver to core: this item was not tried, or was undone with its transaction; it is not at fault.
 */
static inline void
sink_back(struct sink *s, struct sink_item *item)
{
    struct err err;

    sink_done(s, item, err_set(&err, __FILE__, __LINE__, E_INTERRUPTED, ERR_RETRY, "handed back"),
              &err);
}

#endif
