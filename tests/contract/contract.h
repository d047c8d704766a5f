/*
 * The contract suites: one for sources, one for sinks, one for stores. Each
 * runs over a table of fixtures, one per driver and a fake; a new driver is a
 * fixture more.
 */
#ifndef OX_TESTS_CONTRACT_H
#define OX_TESTS_CONTRACT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/slice.h"
#include "sink/sink.h"
#include "source/source.h"
#include "store/store.h"

/* What the suites and the fixtures share. */

/* Fails the test with the error's text. */
void contract_ok(int rc, const struct err *err);

/* A tree checked against a schema, from YAML; conf_free it. */
struct conf *contract_conf(const struct conf_type *schema, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* A folder of its own below /tmp, and its removal with what is in it. */
char *contract_folder(void);
void  contract_folder_remove(char *folder);

/* Keys to canonical rows. */
struct fold;
struct fold *fold_new(void);
void         fold_free(struct fold *f);
void         fold_put(struct fold *f, struct slice key, struct slice row); /* made canonical */
void         fold_del(struct fold *f, struct slice key);
const char  *fold_get(const struct fold *f, struct slice key); /* NULL: none */
size_t       fold_count(const struct fold *f);
void
fold_each(const struct fold *f, void (*fn)(void *, const char *key, const char *row), void *arg);
void fold_equal(const struct fold *is, const struct fold *should);

/* Always the same sequence for a seed. */
uint32_t contract_random(uint64_t *state);

/* Sources. */

struct source_fixture {
    const char *name;
    /* A world with some rows in it, prepared; not NULL. */
    void *(*setup)(void);
    void (*teardown)(void *world);
    /* A new instance, opened but not started. Those before it may still be open, abandoned. */
    struct source *(*open)(void *world);
    /* Application transaction number `step`: may insert, update, replace, delete. Another thread.
     */
    void (*mutate)(void *world, unsigned step);
    /* The table as it is. */
    void (*state)(void *world, struct fold *out);
    /* It is sent what happens: what did may still be on its way when it says that nothing comes.
     * Its table only grows. */
    bool pushed;
};

extern const struct source_fixture source_fixture_sqlite, source_fixture_http, source_fixture_fake,
    source_fixture_mariadb, source_fixture_kurrentdb;

/* Sinks. */

struct sink_fixture {
    const char *name;
    void *(*setup)(void);
    void (*teardown)(void *world);
    struct sink *(*open)(void *world);
    /* What the far side holds: key to row. */
    void (*state)(void *world, struct fold *out);
    /* Data that this far side refuses for good; NULL: what is larger than 64 KiB. */
    const char *bad;
};

extern const struct sink_fixture sink_fixture_sqlite, sink_fixture_http, sink_fixture_file;
/* Against servers that run already: their addresses are in the environment. */
extern const struct sink_fixture sink_fixture_kafka, sink_fixture_mariadb, sink_fixture_nats,
    sink_fixture_postgres, sink_fixture_rabbitmq;

/* A message as a row: what a consumer that keeps the last one of each key has afterwards. */
void contract_fold_message(struct fold *f, struct slice key, struct slice type, struct slice data);

/* {"a":"xxx…","b":1}, larger than 64 KiB; the messages of these fixtures have that limit. */
const char *contract_large(void);
/* An address out of the environment; fails the test where it is not there. */
const char *contract_server(const char *name);

/* Stores. */

struct store_fixture {
    const char *name;
    void *(*setup)(void);
    void (*teardown)(void *world);
    struct store *(*open)(void *world);
    /* As an application: 0, or not 0 where it was refused. `row` NULL deletes. */
    int (*app_write)(void *world, const char *key, const char *row);
    /* A row number of the world's own shape: the same for the same n; different for others. */
    void (*row)(void *world, unsigned n, struct buf *out);
    /* The far side always has a guard; removing it lets applications write again. */
    bool keeps_guard;
};

extern const struct store_fixture store_fixture_sqlite, store_fixture_http, store_fixture_fake;

#endif
