/*
 * What every source has to keep: the snapshot and the changes after it, folded
 * by key in the order in which they came, are the table; a start from any
 * durable checkpoint loses nothing and gives no change twice.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "contract.h"

#define STEPS 1500
#define OPEN_MAX 200

static const struct source_fixture *const fixtures[] = {
#ifdef CONTRACT_MARIADB /* alone, since it needs a server that is there already */
    &source_fixture_mariadb,
#else
    &source_fixture_fake,
#ifdef OX_SOURCE_SQLITE
    &source_fixture_sqlite,
#endif
#ifdef OX_SOURCE_HTTP
    &source_fixture_http,
#endif
#ifdef OX_SOURCE_KURRENTDB
    &source_fixture_kurrentdb,
#endif
#endif
};

/* A stand-in for the log: what a commit makes durable. */
struct kept {
    struct fold *rows, *positions;
    struct buf   checkpoint;
    unsigned     count;
};

static void
kept_init(struct kept *k)
{
    *k = (struct kept){.rows = fold_new(), .positions = fold_new()};
}

static void
kept_fini(struct kept *k)
{
    fold_free(k->rows);
    fold_free(k->positions);
    buf_fini(&k->checkpoint);
}

static void
keep(struct kept *k, const struct source_batch *b)
{
    for (uint32_t i = 0; i < b->count; i++) {
        const struct change *c = &b->changes[i];

        if (fold_get(k->positions, c->position) != NULL)
            fail_msg("position %.*s came twice", SLICE_FMT(c->position));
        fold_put(k->positions, c->position, slice_str("1"));
        if (c->op == CHANGE_SCHEMA)
            continue;
        assert_true(c->op == CHANGE_EVENT || c->key.len > 0);
        if (c->op == CHANGE_EVENT) {
            char key[300];

            (void)snprintf(key, sizeof key, "%.*s@%llu", SLICE_FMT(c->event->stream),
                           (unsigned long long)c->event->version);
            fold_put(k->rows, slice_str(key), c->event->data);
        } else if (c->op == CHANGE_DELETE) {
            assert_int_equal(c->after.len, 0);
            fold_del(k->rows, c->key);
        } else {
            assert_true(c->after.len > 0);
            fold_put(k->rows, c->key, c->after);
        }
        k->count++;
    }
    if (b->count > 0) {
        buf_clear(&k->checkpoint);
        buf_add_slice(&k->checkpoint, b->checkpoint);
    }
}

static void
poll_one(struct source *s, uint32_t max, struct source_batch *b)
{
    struct err err;

    contract_ok(source_poll(s, max, 5, b, &err), &err);
    assert_true(b->count <= max);
}

static bool
has_come(const struct source_fixture *f, void *world, const struct kept *k)
{
    struct fold *table = fold_new();
    bool         all;

    f->state(world, table);
    all = fold_count(k->rows) >= fold_count(table);
    fold_free(table);
    return all;
}

static void
drain(const struct source_fixture *f, void *world, struct source *s, struct kept *k, uint32_t max)
{
    struct source_batch b = {0};

    for (int i = 0; i < 100000; i++) {
        poll_one(s, max, &b);
        keep(k, &b);
        if (b.caught_up && b.count == 0 && (!f->pushed || has_come(f, world, k)))
            return;
    }
    fail_msg("never caught up");
}

static struct source *
begin(const struct source_fixture *f, void *world, struct slice checkpoint)
{
    struct source *s = f->open(world);
    struct err     err;

    assert_non_null(s);
    contract_ok(source_start(s, checkpoint, &err), &err);
    return s;
}

static void
same_as_table(const struct source_fixture *f, void *world, const struct kept *k)
{
    struct fold *table = fold_new();

    f->state(world, table);
    fold_equal(k->rows, table);
    fold_free(table);
}

/* The rows that are there, then the changes, one at a time and many at a time. */
static void
snapshot_then_changes(void **state)
{
    const struct source_fixture *f = *state;
    void                        *world = f->setup();
    struct kept                  k;
    struct source               *s = begin(f, world, slice_str(""));

    kept_init(&k);
    drain(f, world, s, &k, 1);
    same_as_table(f, world, &k);
    for (unsigned i = 0; i < 200; i++)
        f->mutate(world, i);
    drain(f, world, s, &k, 7);
    same_as_table(f, world, &k);
    for (unsigned i = 200; i < 400; i++)
        f->mutate(world, i);
    drain(f, world, s, &k, 1000);
    same_as_table(f, world, &k);
    source_free(s);
    kept_fini(&k);
    f->teardown(world);
}

struct writer {
    const struct source_fixture *f;
    void                        *world;
    unsigned                     from, to;
};

static void *
write_on(void *arg)
{
    struct writer *w = arg;

    for (unsigned i = w->from; i < w->to; i++)
        w->f->mutate(w->world, i);
    return NULL;
}

/* The application writes all the while. */
static void
snapshot_under_writes(void **state)
{
    const struct source_fixture *f = *state;
    void                        *world = f->setup();
    struct writer                w = {f, world, 0, STEPS};
    struct source_batch          b = {0};
    struct kept                  k;
    struct source               *s = begin(f, world, slice_str(""));
    struct err                   err;
    pthread_t                    thread;

    kept_init(&k);
    assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
    for (int i = 0; i < 300; i++) {
        poll_one(s, 13, &b);
        keep(&k, &b);
        if (i % 10 == 0 && k.checkpoint.len > 0)
            contract_ok(source_confirm(s, buf_slice(&k.checkpoint), &err), &err);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    drain(f, world, s, &k, 100);
    same_as_table(f, world, &k);
    source_free(s);
    kept_fini(&k);
    f->teardown(world);
}

/*
 * Instances are abandoned at any point: after a poll whose batch was not made
 * durable, after one that was, after a confirm.
 */
static void
abandoned_anywhere(void **state)
{
    const struct source_fixture *f = *state;
    void                        *world = f->setup();
    struct source               *all[OPEN_MAX];
    unsigned                     opened = 0, step = 0;
    uint64_t                     seed = 42;
    struct source_batch          b = {0};
    struct kept                  k;
    struct err                   err;

    kept_init(&k);
    while (opened < OPEN_MAX - 1) {
        struct source *s = all[opened++] = begin(f, world, buf_slice(&k.checkpoint));

        for (unsigned n = contract_random(&seed) % 6; n > 0; n--) {
            for (unsigned m = contract_random(&seed) % 10; m > 0; m--)
                f->mutate(world, step++);
            poll_one(s, 1 + contract_random(&seed) % 9, &b);
            if (n == 1 && contract_random(&seed) % 2 == 0)
                break;
            keep(&k, &b);
            if (k.checkpoint.len > 0 && contract_random(&seed) % 3 == 0)
                contract_ok(source_confirm(s, buf_slice(&k.checkpoint), &err), &err);
            if (contract_random(&seed) % 4 == 0) {
                poll_one(s, 3, &b);
                contract_ok(source_start(s, buf_slice(&k.checkpoint), &err), &err);
            }
        }
    }
    all[opened] = begin(f, world, buf_slice(&k.checkpoint));
    drain(f, world, all[opened++], &k, 50);
    same_as_table(f, world, &k);
    assert_true(step > 500);
    while (opened > 0)
        source_free(all[--opened]);
    kept_fini(&k);
    f->teardown(world);
}

/* Nothing there: nothing comes, and it is said. */
static void
idle(void **state)
{
    const struct source_fixture *f = *state;
    void                        *world = f->setup();
    struct source_batch          b = {0};
    struct kept                  k;
    struct buf                   text = {0};
    struct err                   err;
    struct source               *s = begin(f, world, slice_str(""));

    kept_init(&k);
    drain(f, world, s, &k, 100);
    poll_one(s, 10, &b);
    assert_int_equal(b.count, 0);
    assert_true(b.caught_up);
    contract_ok(s->ops->status(s, &text, &err), &err);
    assert_true(text.len > 0);
    contract_ok(source_confirm(s, buf_slice(&k.checkpoint), &err), &err);
    contract_ok(source_confirm(s, buf_slice(&k.checkpoint), &err), &err);
    source_free(s);
    s = begin(f, world, buf_slice(&k.checkpoint));
    poll_one(s, 10, &b);
    assert_int_equal(b.count, 0);
    source_free(s);
    buf_fini(&text);
    kept_fini(&k);
    f->teardown(world);
}

int
main(void)
{
    struct CMUnitTest tests[4 * sizeof fixtures / sizeof fixtures[0]];
    char              names[4 * sizeof fixtures / sizeof fixtures[0]][80];
    size_t            n = 0;

    for (size_t i = 0; i < sizeof fixtures / sizeof fixtures[0]; i++) {
        const struct CMUnitTest of_one[] = {
            cmocka_unit_test(snapshot_then_changes),
            cmocka_unit_test(snapshot_under_writes),
            cmocka_unit_test(abandoned_anywhere),
            cmocka_unit_test(idle),
        };

        for (size_t j = 0; j < 4; j++, n++) {
            tests[n] = of_one[j];
            (void)snprintf(names[n], sizeof names[n], "%s: %s", fixtures[i]->name, of_one[j].name);
            tests[n].name = names[n];
            tests[n].initial_state = (void *)(uintptr_t)fixtures[i];
        }
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
