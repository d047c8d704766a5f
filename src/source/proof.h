/*
 * A proof: whoever can say whether the transaction that published a message
 * has committed. A driver sees base and this header only; it knows nothing of
 * the log. The core calls it on a task of the part's own, so a driver may block,
 * but at most for some seconds.
 */
#ifndef OX_SOURCE_PROOF_H
#define OX_SOURCE_PROOF_H

#include <stddef.h>
#include <stdint.h>

#include "base/conf.h"
#include "base/env.h"
#include "base/err.h"
#include "base/slice.h"
#include "source/source.h"

struct proof;

enum proof_verdict {
    PROOF_UNKNOWN = 0, /* nothing can be said now: `deadline` counts */
    PROOF_RUNNING,     /* the transaction has not ended: however long that takes */
    PROOF_COMMITTED,
    PROOF_ABORTED,
};

struct proof_item {
    struct slice id;    /* of the message: what the proof is known by */
    struct slice token; /* as the message has it; empty: none */
    struct slice event; /* {"id","stream","type","data","metadata"}: for look-ups */
    int64_t      age_us;
    /* the answer */
    enum proof_verdict verdict;
    const char        *by; /* what told: "status", "proof", … */
};

struct proof_ops {
    const char             *name; /* in the configuration: `type: NAME` */
    size_t                  size; /* of the instance; struct proof comes first */
    const struct conf_type *schema;
    int (*open)(struct proof *, const struct conf *, struct err *);
    void (*close)(struct proof *);
    /* As those of a source. */
    int (*check)(struct proof *, finding_fn *, void *arg, struct err *);
    /* Answers each item. An error answers none of them. */
    int (*ask)(struct proof *, struct proof_item *, uint32_t count, struct err *);
    /* The verdicts on these are durable: their proofs may go. */
    int (*forget)(struct proof *, const struct slice *ids, uint32_t count, struct err *);
};

struct proof {
    const struct proof_ops *ops;
    struct ox_env          *env;
    const char             *instance; /* the name in the configuration */
};

int  source_proof_new(struct ox_env *, const struct proof_ops *, const char *instance,
                      const struct conf *, struct proof **, struct err *);
void source_proof_free(struct proof *); /* NULL is fine */

extern const char *const source_proof_absent_words[];

/* Settings that the core reads; a driver's schema has them. */
#define PROOF_FIELDS                                                                               \
    {.name = "stream",                                                                             \
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},                                          \
     .doc = "where unverified messages come in; $unverified-NAME when not given"},                 \
        {.name = "delay",                                                                          \
         .type = {.kind = CONF_DURATION, .max = INT64_C(86400) * 1000000},                         \
         .preset = "0",                                                                            \
         .doc = "how old a message has to be before it is asked for"},                             \
        {.name = "deadline",                                                                       \
         .type = {.kind = CONF_DURATION, .min = 1000, .max = INT64_C(30) * 86400 * 1000000},       \
         .preset = "10m",                                                                          \
         .doc = "how long nothing may be known of a message"},                                     \
        {.name = "absent",                                                                         \
         .type = {.kind = CONF_ENUM, .values = source_proof_absent_words},                         \
         .preset = "park",                                                                         \
         .doc = "what becomes of it then: park or discard"},                                       \
    {                                                                                              \
        .name = "window", .type = {.kind = CONF_INT, .min = 1, .max = 100000}, .preset = "1000",   \
        .doc = "undecided messages that are looked at at once"                                     \
    }

#endif
