/*
 * Two sides of a migration in memory: tables of three texts that may be NULL,
 * each with its feed of changes and its guard. The old one has rows that do not
 * move (state NULL).
 */
#ifndef OX_TESTS_TRACER_FAKE_H
#define OX_TESTS_TRACER_FAKE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/conf.h"
#include "migrate/tracer/tracer.h"
#include "source/source.h"
#include "store/store.h"

#define FAKE_KEYS 20000

enum fake_side { FAKE_OLD, FAKE_NEW };

/* driver, note, state; on the new side driver, memo, status. "" and NULL are two things. */
struct fake_row {
    const char *driver, *note, *state;
};

/* Both sides empty and unguarded; one world at a time. */
void fake_world_new(void);
void fake_world_free(void);

/*
 * What an application does, in a transaction of its own; NULL deletes. On the
 * new side with the epoch that its caller was told. False: refused.
 */
bool fake_write(enum fake_side, uint32_t key, const struct fake_row *, uint64_t epoch);
/* Behind everybody's back: no guard, no feed. */
void fake_damage(enum fake_side, uint32_t key, const struct fake_row *);
/* False where there is none (on the old side: none that moves). The texts are the world's. */
bool     fake_read(enum fake_side, uint32_t key, struct fake_row *);
bool     fake_equal(uint32_t key); /* both sides, in the subset */
uint32_t fake_differing(void);
bool     fake_guarded(enum fake_side);
void     fake_guard(enum fake_side, struct store_guard *);
uint64_t fake_applied(enum fake_side); /* writes of Oxbow's that changed something */

/* From now on the nth call of any store fails, and all after it, and log_append: a crash. */
void     fake_crash_at(uint64_t nth); /* UINT64_MAX: never */
bool     fake_crashed(void);
uint64_t fake_calls(void);
void     fake_forget_applied(bool);            /* the feeds do not get to keep how far they are */
void     fake_feed_stop(enum fake_side, bool); /* its feed says nothing while it stands still */
/* The next so many writes of Oxbow's to this side fail with this kind; ERR_UNSURE: done as well. */
void fake_fail_writes(enum fake_side, uint32_t count, enum err_kind);
/* Called before each put of Oxbow's that inserts into the new side. */
void fake_before_insert(void (*fn)(uint32_t key));
void fake_before_call(void (*fn)(const char *call, enum fake_side));

const struct source_ops *fake_source(void *arg, const char *type);
const struct store_ops  *fake_store(void *arg, const char *type);

/* A checked configuration; `more` are lines of a migration's own. */
struct conf *fake_conf(const char *more);

#endif
