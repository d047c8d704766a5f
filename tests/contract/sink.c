/* What every sink has to keep. */
#include <stdio.h>
#include <stdlib.h>

#include "contract.h"

#define ITEMS 300

static const struct sink_fixture *const fixtures[] = {
#ifdef CONTRACT_SERVERS /* those that need one running */
#ifdef OX_SINK_KAFKA
    &sink_fixture_kafka,
#endif
#ifdef OX_SINK_NATS
    &sink_fixture_nats,
#endif
#ifdef OX_SINK_MARIADB
    &sink_fixture_mariadb,
#endif
#ifdef OX_SINK_POSTGRES
    &sink_fixture_postgres,
#endif
#ifdef OX_SINK_RABBITMQ
    &sink_fixture_rabbitmq,
#endif
#else
    &sink_fixture_file,
#ifdef OX_SINK_SQLITE
    &sink_fixture_sqlite,
#endif
#ifdef OX_SINK_HTTP
    &sink_fixture_http,
#endif
#endif
};

struct told {
    unsigned          done, parked, again, back_count;
    struct sink_item *back[ITEMS];
};

static void
tell(struct sink *s, struct sink_item *item, int rc, const struct err *err)
{
    struct told *told = s->done_arg;

    if (rc == 0)
        told->done++;
    else if (rc == E_INTERRUPTED)
        told->back[told->back_count++] = item;
    else if (err->kind == ERR_DATA)
        told->parked++;
    else
        told->again++;
}

static struct sink *
begin(const struct sink_fixture *f, void *world, struct told *told)
{
    struct sink *s = f->open(world);

    assert_true(s->credit > 0);
    s->done = tell;
    s->done_arg = told;
    return s;
}

static struct sink_item
item_of(uint64_t pos, const char *key, const char *type, const char *data)
{
    static char     streams[2 * ITEMS][32];
    static unsigned next;
    char           *stream = streams[next++ % (2 * ITEMS)];

    (void)snprintf(stream, sizeof streams[0], "t-%s", key);
    return (struct sink_item){.pos = {pos},
                              .stream = slice_str(stream),
                              .type = slice_str(type),
                              .data = slice_str(data),
                              .key = slice_str(key),
                              .json = data[0] != '\0',
                              .id = {{(uint8_t)(pos >> 8), (uint8_t)pos}}};
}

/* What is handed back is given again, in its order. */
static void
flush(struct sink *s, uint64_t upto)
{
    struct told *told = s->done_arg;
    struct err   err;

    for (int i = 0; i < 1200 && s->in_flight > 0; i++) {
        contract_ok(s->ops->poll(s, true, LOG_POS(upto), 50, &err), &err);
        if (s->ops->transactional)
            assert_int_equal(s->in_flight, 0);
        for (unsigned k = 0, n = told->back_count; k < n; k++)
            contract_ok(sink_submit(s, told->back[k], &err), &err);
        told->back_count = 0;
    }
    assert_int_equal(s->in_flight, 0);
}

static void
same(const struct sink_fixture *f, void *world, const struct fold *should)
{
    struct fold *is = fold_new();

    f->state(world, is);
    fold_equal(is, should);
    fold_free(is);
}

static void
rows_follow_events(void **state)
{
    const struct sink_fixture *f = *state;
    void                      *world = f->setup();
    struct told                told = {0};
    struct sink               *s = begin(f, world, &told);
    struct sink_item           items[ITEMS];
    static char                keys[ITEMS][16], rows[ITEMS][64];
    struct fold               *should = fold_new();
    struct log_pos             pos;
    struct err                 err;

    for (unsigned i = 0; i < ITEMS; i++) {
        bool gone = i % 5 == 4;

        (void)snprintf(keys[i], sizeof keys[i], "%u", i * 7 % 40);
        (void)snprintf(rows[i], sizeof rows[i], "{\"a\":\"x%u\",\"b\":%s}", i,
                       i % 2 == 0 ? "null" : "0.5");
        items[i] = item_of(100 + i, keys[i], gone ? "Deleted" : "Updated", gone ? "" : rows[i]);
        contract_ok(sink_submit(s, &items[i], &err), &err);
        if (gone)
            fold_del(should, slice_str(keys[i]));
        else
            fold_put(should, slice_str(keys[i]), slice_str(rows[i]));
        /* One item of a stream at a time, where items may finish out of order. */
        if (!s->ops->transactional || i % 50 == 49)
            flush(s, 100 + i);
    }
    assert_int_equal(told.done, ITEMS);
    same(f, world, should);
    if (s->ops->transactional) {
        contract_ok(s->ops->checkpoint(s, &pos, &err), &err);
        assert_int_equal(pos.v, 100 + ITEMS - 1);
    }
    sink_free(s);
    fold_free(should);
    f->teardown(world);
}

/* What is refused for good is told once, and stops nothing else. */
static void
bad_ones_part(void **state)
{
    const struct sink_fixture *f = *state;
    const char                *bad = f->bad == NULL ? contract_large() : f->bad;
    void                      *world = f->setup();
    struct told                told = {0};
    struct sink               *s = begin(f, world, &told);
    struct sink_item           items[3] = {item_of(1, "1", "Inserted", "{\"a\":\"x\",\"b\":1}"),
                                           item_of(2, "2", "Inserted", bad),
                                           item_of(3, "3", "Inserted", "{\"a\":\"z\",\"b\":2}")};
    struct fold               *should = fold_new();
    struct err                 err;

    for (unsigned i = 0; i < 3; i++)
        contract_ok(sink_submit(s, &items[i], &err), &err);
    flush(s, 3);
    assert_int_equal(told.done, 2);
    assert_int_equal(told.parked, 1);
    fold_put(should, slice_str("1"), items[0].data);
    fold_put(should, slice_str("3"), items[2].data);
    same(f, world, should);
    sink_free(s);
    fold_free(should);
    f->teardown(world);
}

/* What was not flushed when the sink went away was not done, its checkpoint neither. */
static void
all_or_nothing(void **state)
{
    const struct sink_fixture *f = *state;
    void                      *world = f->setup();
    struct told                told = {0};
    struct sink               *s = begin(f, world, &told);
    struct sink_item           one = item_of(1, "1", "Inserted", "{\"a\":\"x\",\"b\":1}");
    struct sink_item           two = item_of(2, "1", "Updated", "{\"a\":\"y\",\"b\":1}");
    struct fold               *should = fold_new();
    struct log_pos             pos;
    struct err                 err;

    contract_ok(sink_submit(s, &one, &err), &err);
    flush(s, 1);
    if (s->ops->transactional) {
        contract_ok(sink_submit(s, &two, &err), &err);
        sink_free(s);
        s = begin(f, world, &told);
        contract_ok(s->ops->checkpoint(s, &pos, &err), &err);
        assert_int_equal(pos.v, 1);
    }
    fold_put(should, slice_str("1"), one.data);
    same(f, world, should);
    sink_free(s);
    fold_free(should);
    f->teardown(world);
}

int
main(void)
{
    struct CMUnitTest tests[3 * sizeof fixtures / sizeof fixtures[0] + 1];
    char              names[3 * sizeof fixtures / sizeof fixtures[0] + 1][80];
    size_t            n = 0;

    for (size_t i = 0; i < sizeof fixtures / sizeof fixtures[0]; i++) {
        const struct CMUnitTest of_one[] = {
            cmocka_unit_test(rows_follow_events),
            cmocka_unit_test(bad_ones_part),
            cmocka_unit_test(all_or_nothing),
        };

        for (size_t j = 0; j < 3; j++, n++) {
            tests[n] = of_one[j];
            (void)snprintf(names[n], sizeof names[n], "%s: %s", fixtures[i]->name, of_one[j].name);
            tests[n].name = names[n];
            tests[n].initial_state = (void *)(uintptr_t)fixtures[i];
        }
    }
    return _cmocka_run_group_tests("sinks", tests, n, NULL, NULL);
}
