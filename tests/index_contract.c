/*
 * The contract of the index (log/index.h), one body for every driver: what was
 * applied is compared with a list of events that is searched from one end to
 * the other. What only one driver can show is in index_only.c.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/index_oracle.h"

static void
test_empty(void **state)
{
    check_some(20);
    check_all_lists();
    check_streams("", "");
    assert_int_equal(ops->sync(ix, &err), 0);
    open_again(log_id);
    check_some(20);
    ops->close(NULL);
}

static void
test_random(void **state)
{
    for (int round = 0; round < 40; round++) {
        apply_random((uint32_t)(1 + pick(round % 10 == 0 ? 3000 : 200)));
        check_some(50);
        if (round % 8 == 3)
            open_again(log_id);
        if (round % 5 == 2)
            assert_int_equal(ops->sync(ix, &err), 0);
    }
    for (uint64_t id = 0; id < STREAMS; id++)
        check_stream(id);
    check_all_lists();
    for (uint64_t id = 0; id < 5; id++) {
        check_positions(id, 0, false, EVENTS_MAX);
        check_positions(id, heads[id].next - 1, true, EVENTS_MAX);
    }
}

/* Every place around the borders of runs, whatever their length is. */
static void
test_one_by_one(void **state)
{
    for (uint32_t i = 0; i < 300; i++) {
        uint32_t from = event_count;

        add_event(7);
        apply_events(from);
        check_positions(7, i, true, 3);
        check_positions(7, i > 2 ? i - 2 : 0, false, 5);
    }
    for (uint32_t from = 0; from < 302; from++) {
        check_positions(7, from, false, 130);
        check_positions(7, from, true, 130);
        check_positions(7, from, true, 1);
        check_positions(7, from, false, 0);
    }
}

static void
test_long_stream(void **state)
{
    for (uint32_t i = 0; i < 20000; i++)
        add_event(3);
    apply_events(0);
    check_stream(3);
    for (int i = 0; i < 30; i++)
        check_positions(3, pick(20002), pick(2) == 0, (uint32_t)(1 + pick(300)));
    check_positions(3, 0, false, 1000);
    check_all_lists();
}

static void
test_streams(void **state)
{
    apply_random(4000);
    check_streams("", "");
    check_streams("a", "");
    check_streams("b-", "");
    check_streams("b-1", "b-15");
    check_streams("b", "a-5");
    check_streams("b", "z");
    check_streams("zzz", "");
    check_streams("", "c");
    for (uint64_t id = 0; id < STREAMS; id += 13) {
        check_streams(stream_name(id), "");
        check_streams("", stream_name(id));
        check_streams("c", stream_name(id));
    }
    for (uint32_t stop = 1; stop < 80; stop += 9) {
        struct listing l = {.stop_after = stop};

        assert_int_equal(ops->streams(ix, slice_str(""), slice_str(""), list_one, &l, &err), E_END);
        assert_int_equal(l.count, stop);
    }
}

static void
check_restricted(void)
{
    uint64_t want[STREAMS], got[STREAMS];
    uint32_t n = 0, count = 0, part;

    for (uint64_t id = 0; id < STREAMS; id++)
        if (index_restricted(&heads[id]))
            want[n++] = id;
    do {
        uint64_t from = count == 0 ? 0 : got[count - 1] + 1;

        assert_int_equal(ops->restricted(ix, from, got + count, 2, &part, &err), 0);
        count += part;
    } while (part > 0);
    assert_int_equal(count, n);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(got[i], want[i]);
}

/* Of its stream: version 0, or what is left in front where that was scavenged. */
static bool
is_first(const struct known *e)
{
    if (e->version == 0)
        return true;
    for (const struct known *k = events; k < e; k++)
        if (k->id == e->id)
            return false;
    return true;
}

/* The streams' first events, from each position on, in both directions. */
static void
check_firsts(uint64_t from, bool backwards)
{
    uint64_t positions[STREAMS], ids[STREAMS];
    uint32_t count, n = 0;

    assert_int_equal(ops->firsts(ix, from, backwards, positions, ids, STREAMS, &count, &err), 0);
    for (uint32_t k = 0; k < event_count; k++) {
        const struct known *e = &events[backwards ? event_count - 1 - k : k];

        if (!is_first(e) || (backwards ? e->pos > from : e->pos < from))
            continue;
        assert_true(n < count);
        assert_int_equal(positions[n], e->pos);
        assert_int_equal(ids[n++], e->id);
    }
    assert_int_equal(count, n);
}

static void
test_firsts(void **state)
{
    check_firsts(0, false);
    check_firsts(UINT64_MAX, true);
    for (int i = 0; i < 4; i++) {
        apply_random(50);
        for (uint32_t k = 0; k < event_count; k += 7) {
            check_firsts(events[k].pos, false);
            check_firsts(events[k].pos, true);
            check_firsts(events[k].pos + 1, false);
            check_firsts(events[k].pos - 1, true);
        }
        check_firsts(0, true);
        check_firsts(UINT64_MAX, false);
    }
}

/* State alone: the positions stay, and events that bring none leave it as it is. */
static void
test_states(void **state)
{
    struct index_update update = {.has_state = true};
    struct index_batch  batch = {.updates = &update, .update_count = 1, .stream_count = STREAMS};

    apply_random(2000);
    for (uint64_t id = 0; id < 5; id++) {
        heads[id].truncate = id;
        heads[id].max_count = id == 3 ? UINT64_C(1) << 60 : 0;
        heads[id].max_age_us = id == 4 ? INT64_MAX : 0;
        update.id = id;
        update.head = heads[id];
        update.head.last = LOG_POS(0); /* not looked at where there are no events */
        batch.covers = LOG_POS(end_pos);
        assert_int_equal(ops->apply(ix, &batch, &err), 0);
        check_stream(id);
        check_restricted();
    }
    apply_random(2000);
    for (uint64_t id = 0; id < 5; id++)
        check_stream(id);
    heads[1].truncate = 0;
    update.id = 1;
    update.head = heads[1];
    batch.covers = LOG_POS(end_pos);
    assert_int_equal(ops->apply(ix, &batch, &err), 0);
    check_stream(1);
    check_restricted();
}

/* A stream that has a state before it has events. */
static void
test_state_first(void **state)
{
    struct index_update update = {.id = 0, .has_state = true, .name = slice_str(stream_name(0))};
    struct index_batch  batch = {.updates = &update, .update_count = 1, .stream_count = STREAMS};
    uint32_t            from = 0;

    heads[0].max_count = 7;
    update.head = heads[0];
    batch.covers = LOG_POS(end_pos);
    assert_int_equal(ops->apply(ix, &batch, &err), 0);
    exists[0] = true;
    check_stream(0);
    check_positions(0, 0, false, 10);
    check_restricted();
    for (uint32_t i = 0; i < 10; i++)
        add_event(0);
    apply_events(from);
    check_stream(0);
    check_positions(0, 0, false, 100);
}

/* Truncation and flags change a head alone. */
static void
test_head_only(void **state)
{
    struct index_update update = {.id = 2, .has_state = true};
    struct index_batch  batch = {.updates = &update, .update_count = 1, .stream_count = STREAMS};

    apply_random(2000);
    heads[2].truncate = 17;
    heads[2].flags = INDEX_DELETED | INDEX_CLOSED;
    update.head = heads[2];
    batch.covers = LOG_POS(end_pos);
    assert_int_equal(ops->apply(ix, &batch, &err), 0);
    check_stream(2);
    check_positions(2, 0, false, 1000);
    apply_random(2000);
    check_stream(2);
    check_positions(2, 0, false, 1000);
}

/* What is read again of a scavenged log may have a state behind events that are gone. */
static void
test_state_behind_a_hole(void **state)
{
    struct index_update update = {.id = 4, .has_state = true};
    struct index_batch  batch = {.updates = &update, .update_count = 1, .stream_count = STREAMS};
    uint32_t            from;

    for (uint32_t i = 0; i < 10; i++)
        add_event(4);
    apply_events(0);
    heads[4].next += 20;
    heads[4].truncate = heads[4].next;
    update.head = heads[4];
    batch.covers = LOG_POS(end_pos);
    assert_int_equal(ops->apply(ix, &batch, &err), 0);
    check_stream(4);
    from = event_count;
    for (uint32_t i = 0; i < 10; i++)
        add_event(4);
    apply_events(from);
    for (uint64_t at = 0; at < 45; at++) {
        check_positions(4, at, false, 100);
        check_positions(4, at, true, 100);
    }
    check_stream(4);
}

/* A log that was scavenged has holes between versions, and streams that do not begin at 0. */
static void
test_holes(void **state)
{
    uint32_t from = 0;

    heads[4].next = 1000;
    for (uint32_t i = 0; i < 100; i++)
        add_event(4);
    apply_events(from);
    from = event_count;
    heads[4].next += 64;
    for (uint32_t i = 0; i < 10; i++)
        add_event(4);
    apply_events(from);
    for (uint64_t at = 990; at < 1180; at++) {
        check_positions(4, at, false, 300);
        check_positions(4, at, true, 300);
    }
    check_positions(4, 0, false, 10);
    check_positions(4, 0, true, 10);
    check_stream(4);
    check_firsts(0, false);
}

/* … or with a state alone, before anything that is left of their events. */
static void
test_first_behind_a_state(void **state)
{
    struct index_update update = {.id = 6, .has_state = true, .name = slice_str(stream_name(6))};
    struct index_batch  batch = {.updates = &update, .update_count = 1, .stream_count = STREAMS};
    uint32_t            from = 0;

    heads[6].next = heads[6].truncate = 50;
    update.head = heads[6];
    batch.covers = LOG_POS(end_pos);
    assert_int_equal(ops->apply(ix, &batch, &err), 0);
    exists[6] = true;
    check_firsts(0, false);
    for (int i = 0; i < 3; i++) {
        add_event(6);
        add_event(5);
        apply_events(from);
        from = event_count;
        check_firsts(0, false);
        check_firsts(UINT64_MAX, true);
    }
    check_stream(6);
    open_again(log_id);
    check_firsts(0, false);
}

static void
test_empty_batch(void **state)
{
    struct index_batch batch = {.stream_count = 5};

    end_pos = batch.covers.v = 1234568;
    assert_int_equal(ops->apply(ix, &batch, &err), 0);
    assert_int_equal(ops->covers(ix).v, 1234568);
    assert_int_equal(ops->stream_count(ix), 5);
    assert_int_equal(ops->apply(ix, &batch, &err), 0);
    open_again(log_id);
    assert_int_equal(ops->covers(ix).v, 1234568);
    assert_int_equal(ops->stream_count(ix), 5);
}

static void
test_reset(void **state)
{
    apply_random(3000);
    assert_int_equal(ops->reset(ix, &err), 0);
    forget_all();
    check_some(100);
    check_all_lists();
    check_streams("", "");
    apply_random(3000);
    check_some(100);
    open_again(log_id);
    check_some(100);
    check_all_lists();
}

static void
test_another_log(void **state)
{
    struct ox_index *reader = NULL;

    apply_random(500);
    ops->close(ix);
    ix = NULL;
    assert_int_equal(ops->open(env, dir, other_id, true, &reader, &err), E_FORMAT);
    assert_null(reader);
    open_again(other_id);
    forget_all();
    check_some(50);
    open_again(log_id);
    apply_random(500);
    check_some(50);
}

static void
test_read_only(void **state)
{
    char none[128];

    apply_random(500);
    ops->close(ix);
    ix = NULL;
    assert_int_equal(ops->open(env, dir, log_id, true, &ix, &err), 0);
    check_some(100);
    check_all_lists();
    ops->close(ix);
    ix = NULL;
    (void)snprintf(none, sizeof none, "%s/none", dir);
    assert_int_equal(ops->open(env, none, log_id, true, &ix, &err), E_NOTFOUND);
    assert_null(ix);
}

#define FRESH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define CONTRACT                                                                                   \
    FRESH(test_empty), FRESH(test_random), FRESH(test_one_by_one), FRESH(test_long_stream),        \
        FRESH(test_streams), FRESH(test_head_only), FRESH(test_states), FRESH(test_firsts),        \
        FRESH(test_state_first), FRESH(test_holes), FRESH(test_state_behind_a_hole),               \
        FRESH(test_first_behind_a_state), FRESH(test_empty_batch), FRESH(test_reset),              \
        FRESH(test_another_log), FRESH(test_read_only)

int
main(void)
{
    const struct CMUnitTest lmdb[] = {
        CONTRACT,
        FRESH(test_map_grows),
        FRESH(test_opened_again),
        FRESH(test_no_room),
        FRESH(test_damage),
        FRESH(test_read_while_applying),
        FRESH(test_killed),
        FRESH(test_reader_process),
    };
    const struct CMUnitTest map[] = {
        CONTRACT,
        FRESH(test_power_cut),
        FRESH(test_refused_calls),
    };
    int failed;

    ops = &log_index_lmdb;
    failed = cmocka_run_group_tests_name("index of LMDB", lmdb, NULL, NULL);
    ops = &sim_index_map;
    failed += cmocka_run_group_tests_name("index as a map", map, NULL, NULL);
    return failed;
}
