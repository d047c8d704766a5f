/*
 * The contract of the index (log/index.h), one body for every driver: what was
 * applied is compared with a list of events that is searched from one end to
 * the other. What only one driver can show comes at the end.
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

#include "env/env_real.h"
#include "log/index.h"
#include "sim/index_map.h"

#define STREAMS 300
#define EVENTS_MAX 60000
#define LABELS 7

static const uint8_t log_id[16] = "the log's own id";
static const uint8_t other_id[16] = "another log's id";

static const struct ox_index_ops *ops;
static struct ox_env             *env;
static struct index_maps         *maps;
static struct ox_index           *ix;
static char                       dir[64];
static struct err                 err;
static uint64_t                   seed;

static uint64_t
pick(uint64_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (seed >> 33) % below;
}

/* the oracle */

struct known {
    uint64_t id, version, pos;
    uint32_t label; /* of its category; its type is another number of it */
};

static struct known      events[EVENTS_MAX];
static uint32_t          event_count;
static struct index_head heads[STREAMS];
static bool              exists[STREAMS];
static uint64_t          end_pos;

static char *
stream_name(uint64_t id)
{
    static char text[8][300];
    static int  turn;

    turn = (turn + 1) % 8;
    /* Names of many lengths, in no order, some the beginning of others. */
    (void)snprintf(text[turn], sizeof text[turn], "%c-%llu%.*s", (int)('a' + id % 5),
                   (unsigned long long)(id * 7919 % 1000), (int)(id % 40),
                   "-and-so-on-and-so-on-and-so-on-and-so-on");
    return text[turn];
}

static const char *const categories[LABELS] = {"a", "ab", "", "order", "x\xc3\xbc", "z", "order2"};
static const char *const types[LABELS] = {"Made", "a", "order", "", "Gone", "T", "U"};

static void
forget_all(void)
{
    event_count = 0;
    end_pos = 4096;
    memset(heads, 0, sizeof heads);
    memset(exists, 0, sizeof exists);
}

/* A transaction of the oracle's events [from, event_count); the ids' heads are as in `heads`. */
static void
apply_events(uint32_t from)
{
    static uint64_t            positions[EVENTS_MAX];
    static struct index_update updates[STREAMS];
    static struct index_event  listed[EVENTS_MAX];
    struct index_batch         batch = {.updates = updates, .events = listed};
    uint32_t                   used = 0;

    for (uint64_t id = 0; id < STREAMS; id++) {
        struct index_update *u = &updates[batch.update_count];

        *u = (struct index_update){.id = id, .head = heads[id], .positions = positions + used};
        for (uint32_t i = from; i < event_count; i++) {
            if (events[i].id == id)
                positions[used + u->count++] = events[i].pos;
        }
        if (u->count == 0)
            continue;
        used += u->count;
        if (!exists[id])
            u->name = slice_str(stream_name(id));
        exists[id] = true;
        /* The names live in a small ring: as many as stay valid are enough for one at a time. */
        if (u->name.len > 0)
            u->name.data = strdup(u->name.data);
        batch.update_count++;
    }
    for (uint32_t i = from; i < event_count; i++) {
        listed[batch.event_count].pos = events[i].pos;
        listed[batch.event_count].category = slice_str(categories[events[i].label]);
        listed[batch.event_count++].type = slice_str(types[events[i].label]);
    }
    batch.covers = LOG_POS(end_pos);
    batch.stream_count = STREAMS;
    assert_int_equal(ops->apply(ix, &batch, &err), 0);
    for (uint32_t i = 0; i < batch.update_count; i++)
        free((void *)(uintptr_t)updates[i].name.data);
}

static void
add_event(uint64_t id)
{
    struct known *e = &events[event_count++];

    e->id = id;
    e->version = heads[id].next++;
    e->pos = end_pos;
    e->label = (uint32_t)pick(LABELS);
    heads[id].last = LOG_POS(e->pos);
    end_pos += 8 * (1 + pick(pick(10) == 0 ? 1000000 : 100));
}

static void
apply_random(uint32_t count)
{
    uint32_t from = event_count;

    for (uint32_t i = 0; i < count; i++)
        add_event(pick(3) == 0 ? pick(5) : pick(STREAMS));
    apply_events(from);
}

/* what the index says against what the oracle says */

static void
check_head(const struct index_head *head, uint64_t id)
{
    assert_int_equal(head->next, heads[id].next);
    assert_int_equal(head->truncate, heads[id].truncate);
    assert_int_equal(head->last.v, heads[id].last.v);
    assert_int_equal(head->flags, heads[id].flags);
    assert_int_equal(head->max_count, heads[id].max_count);
    assert_int_equal(head->max_age_us, heads[id].max_age_us);
}

static void
check_stream(uint64_t id)
{
    struct index_head head = {.next = 99};
    char              name[256];
    uint64_t          found = 99;
    size_t            len = 0;
    struct slice      want = slice_str(stream_name(id));

    if (!exists[id]) {
        assert_int_equal(ops->find(ix, want, &found, &head, &err), E_NOTFOUND);
        assert_int_equal(ops->head(ix, id, &head, &err), E_NOTFOUND);
        assert_int_equal(ops->name_of(ix, id, name, &len, &err), E_NOTFOUND);
        return;
    }
    assert_int_equal(ops->find(ix, want, &found, &head, &err), 0);
    assert_int_equal(found, id);
    check_head(&head, id);
    assert_int_equal(ops->head(ix, id, &head, &err), 0);
    check_head(&head, id);
    assert_int_equal(ops->name_of(ix, id, name, &len, &err), 0);
    assert_true(slice_eq(slice_of(name, len), want));
}

static const struct known *
event_of(uint64_t id, uint64_t version)
{
    for (uint32_t i = 0; i < event_count; i++) {
        if (events[i].id == id && events[i].version == version)
            return &events[i];
    }
    return NULL;
}

static void
check_positions(uint64_t id, uint64_t from, bool backwards, uint32_t max)
{
    static uint64_t     got[EVENTS_MAX];
    const struct known *e;
    uint32_t            count = 99;
    uint32_t            want = 0;

    assert_int_equal(ops->positions(ix, id, from, backwards, got, max, &count, &err), 0);
    for (e = event_of(id, from); e != NULL && want < max; want++) {
        assert_true(want < count);
        assert_int_equal(got[want], e->pos);
        if (backwards && from == 0) {
            want++;
            break;
        }
        from = backwards ? from - 1 : from + 1;
        e = event_of(id, from);
    }
    assert_int_equal(count, want);
}

static void
check_list(bool by_type, struct slice name, uint64_t from, bool backwards, uint32_t max)
{
    static uint64_t got[EVENTS_MAX];
    uint32_t        count = 99;
    uint32_t        want = 0;

    if (by_type)
        assert_int_equal(ops->type(ix, name, from, backwards, got, max, &count, &err), 0);
    else
        assert_int_equal(ops->category(ix, name, from, backwards, got, max, &count, &err), 0);
    for (uint32_t i = 0; i < event_count && want < max; i++) {
        const struct known *e = &events[backwards ? event_count - 1 - i : i];
        const char         *label = (by_type ? types : categories)[e->label];

        if (!slice_is(name, label) || name.len == 0 || (backwards ? e->pos > from : e->pos < from))
            continue;
        assert_true(want < count);
        assert_int_equal(got[want], e->pos);
        want++;
    }
    assert_int_equal(count, want);
}

static void
check_some(uint32_t rounds)
{
    assert_int_equal(ops->covers(ix).v, event_count == 0 ? 0 : end_pos);
    assert_int_equal(ops->stream_count(ix), event_count == 0 ? 0 : STREAMS);
    for (uint32_t i = 0; i < rounds; i++) {
        uint64_t id = pick(2) == 0 ? pick(5) : pick(STREAMS + 1);
        uint64_t next = id < STREAMS ? heads[id].next : 3;
        uint64_t pos = event_count == 0 ? 0 : events[pick(event_count)].pos;

        if (id < STREAMS)
            check_stream(id);
        check_positions(id, pick(next + 2), pick(2) == 0, (uint32_t)pick(20));
        check_positions(id, pick(next + 2), pick(2) == 0, (uint32_t)(1 + pick(400)));
        check_list(pick(2) == 0, slice_str((pick(2) == 0 ? types : categories)[pick(LABELS)]),
                   pos - pick(2) * 8 + pick(2) * 8, pick(2) == 0, (uint32_t)pick(50));
    }
}

static void
check_all_lists(void)
{
    for (uint32_t i = 0; i < LABELS; i++) {
        check_list(false, slice_str(categories[i]), 0, false, EVENTS_MAX);
        check_list(false, slice_str(categories[i]), UINT64_MAX, true, EVENTS_MAX);
        check_list(true, slice_str(types[i]), 0, false, EVENTS_MAX);
        check_list(true, slice_str(types[i]), UINT64_MAX, true, EVENTS_MAX);
    }
    check_list(true, slice_str("nobody has this"), 0, false, 10);
}

struct listing {
    struct slice prefix, after;
    char         last[300];
    uint32_t     count, stop_after;
};

static int
list_one(void *arg, struct slice name, uint64_t id, const struct index_head *head, struct err *e)
{
    struct listing   *l = arg;
    struct index_head again;
    uint64_t          found = 0;

    assert_true(slice_starts(name, l->prefix));
    assert_true(slice_cmp(name, l->after) > 0 || l->after.len == 0);
    assert_true(slice_cmp(name, slice_str(l->last)) > 0);
    assert_true(slice_is(name, stream_name(id)));
    check_head(head, id);
    /* The index may be asked from within. */
    assert_int_equal(ops->find(ix, name, &found, &again, e), 0);
    assert_int_equal(found, id);
    memcpy(l->last, name.data, name.len);
    l->last[name.len] = '\0';
    return ++l->count == l->stop_after ? E_END : 0;
}

static void
check_streams(const char *prefix, const char *after)
{
    char           both[2][300]; /* stream_name uses its memory again */
    struct listing l = {.stop_after = 0};
    uint32_t       want = 0;

    (void)snprintf(both[0], sizeof both[0], "%s", prefix);
    (void)snprintf(both[1], sizeof both[1], "%s", after);
    l.prefix = slice_str(both[0]);
    l.after = slice_str(both[1]);
    for (uint64_t id = 0; id < STREAMS; id++) {
        struct slice name = slice_str(stream_name(id));

        want += exists[id] && slice_starts(name, l.prefix) &&
                (l.after.len == 0 || slice_cmp(name, l.after) > 0);
    }
    assert_int_equal(ops->streams(ix, l.prefix, l.after, list_one, &l, &err), 0);
    assert_int_equal(l.count, want);
}

static void
open_again(const uint8_t *id)
{
    ops->close(ix);
    ix = NULL;
    assert_int_equal(ops->open(env, dir, id, false, &ix, &err), 0);
}

/* the contract */

static int
remove_one(void *arg, const char *name, struct err *e)
{
    char path[512];

    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return remove(path) == 0 ? 0 : E_IO;
}

static int
set_up(void **state)
{
    env = env_real();
    seed = 42;
    forget_all();
    (void)snprintf(dir, sizeof dir, "/tmp/ox-index-test-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    maps = index_maps_new(env, NULL, NULL);
    return ops->open(env, dir, log_id, false, &ix, &err);
}

static int
tear_down(void **state)
{
    ops->close(ix);
    ix = NULL;
    index_maps_free(maps);
    (void)env->ops->dir_list(env, dir, remove_one, NULL, NULL);
    return rmdir(dir);
}

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

/* The events of version 0, from each position on, in both directions. */
static void
check_firsts(uint64_t from, bool backwards)
{
    uint64_t positions[STREAMS], ids[STREAMS];
    uint32_t count, n = 0;

    assert_int_equal(ops->firsts(ix, from, backwards, positions, ids, STREAMS, &count, &err), 0);
    for (uint32_t k = 0; k < event_count; k++) {
        const struct known *e = &events[backwards ? event_count - 1 - k : k];

        if (e->version != 0 || (backwards ? e->pos > from : e->pos < from))
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

/* LMDB alone */

static char *
data_path(void)
{
    static char path[128];

    (void)snprintf(path, sizeof path, "%s/data.mdb", dir);
    return path;
}

static uint64_t
data_bytes(void)
{
    struct stat st;

    assert_int_equal(stat(data_path(), &st), 0);
    return (uint64_t)st.st_size;
}

/* `count` new streams of one event each, with long names. Ids and positions go on from *next. */
static int
apply_big(struct ox_index *to, uint64_t *next, uint32_t count, struct err *e)
{
    struct index_update *updates = calloc(count, sizeof *updates);
    struct index_event  *listed = calloc(count, sizeof *listed);
    uint64_t            *positions = calloc(count, sizeof *positions);
    char(*names)[208] = calloc(count, sizeof *names);
    struct index_batch batch = {
        .updates = updates, .update_count = count, .events = listed, .event_count = count};
    int rc;

    assert_true(updates != NULL && listed != NULL && positions != NULL && names != NULL);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t id = *next + i;

        (void)snprintf(names[i], sizeof names[i], "%07llu-%0190d",
                       (unsigned long long)(id * 7919 % 10000019), 0);
        positions[i] = 8 * (id + 1);
        updates[i] = (struct index_update){.id = id,
                                           .name = slice_str(names[i]),
                                           .head = {.next = 1, .last = LOG_POS(positions[i])},
                                           .positions = &positions[i],
                                           .count = 1};
        listed[i] = (struct index_event){.pos = positions[i], .category = slice_str("big")};
    }
    batch.stream_count = *next + count;
    batch.covers = LOG_POS(8 * (batch.stream_count + 1));
    rc = ops->apply(to, &batch, e);
    if (rc == 0)
        *next += count;
    free(updates);
    free(listed);
    free(positions);
    free(names);
    return rc;
}

static void
check_big(struct ox_index *in, uint64_t next)
{
    struct index_head head;
    uint64_t          pos = 0;
    uint32_t          count = 0;

    assert_int_equal(ops->head(in, next - 1, &head, &err), 0);
    assert_int_equal(head.last.v, 8 * next);
    assert_int_equal(ops->head(in, next, &head, &err), E_NOTFOUND);
    assert_int_equal(ops->category(in, slice_str("big"), UINT64_MAX, true, &pos, 1, &count, &err),
                     0);
    assert_int_equal(count, 1);
    assert_int_equal(pos, 8 * next);
}

static void
test_map_grows(void **state)
{
    uint64_t before = data_bytes();
    uint64_t next = 0;

    for (int i = 0; i < 3; i++)
        assert_int_equal(apply_big(ix, &next, 40000, &err), 0);
    assert_true(data_bytes() > 2 * before);
    check_big(ix, next);
    open_again(log_id);
    check_big(ix, next);
    assert_int_equal(apply_big(ix, &next, 100, &err), 0);
    check_big(ix, next);
    assert_int_equal(ops->reset(ix, &err), 0);
    next = 0;
    assert_int_equal(apply_big(ix, &next, 40000, &err), 0);
    check_big(ix, next);
}

/* A disk that is full is an error, nothing is half done, and it goes on when there is room. */
static void
test_no_room(void **state)
{
    struct rlimit before, low;
    uint64_t      next = 0;
    uint64_t      size = data_bytes();
    int           rc;

    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(apply_big(ix, &next, 1000, &err), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    low = before;
    low.rlim_cur = size + 4096;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    rc = apply_big(ix, &next, 60000, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(rc, E_IO);
    assert_non_null(strstr(err.text, "allocate"));
    assert_int_equal(data_bytes(), size);
    assert_int_equal(ops->covers(ix).v, 8 * (next + 1));
    check_big(ix, next);
    assert_int_equal(apply_big(ix, &next, 60000, &err), 0);
    check_big(ix, next);
}

static void
test_damage(void **state)
{
    uint64_t next = 0;
    FILE    *file;

    assert_int_equal(apply_big(ix, &next, 20000, &err), 0);
    ops->close(ix);
    ix = NULL;
    assert_int_equal(truncate(data_path(), 65536), 0);
    assert_int_equal(ops->open(env, dir, log_id, false, &ix, &err), E_DAMAGED);
    assert_null(ix);
    file = fopen(data_path(), "w");
    assert_non_null(file);
    for (int i = 0; i < 10000; i++)
        (void)fputs("nonsense", file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(ops->open(env, dir, log_id, false, &ix, &err), E_DAMAGED);
    assert_null(ix);
    assert_int_equal(unlink(data_path()), 0);
    assert_int_equal(ops->open(env, dir, log_id, false, &ix, &err), 0);
    check_some(5);
}

#define READERS 34 /* more than there are read transactions */
#define BATCH 1000

struct shared {
    atomic_bool stop;
    atomic_uint wrong, reads;
};

static void *
run_reader(void *arg)
{
    struct shared *shared = arg;
    uint64_t      *got = calloc(200000, sizeof *got);
    struct err     e;

    while (got != NULL && !atomic_load(&shared->stop)) {
        uint64_t known = ops->stream_count(ix);
        uint32_t count = 0;
        bool right = ops->category(ix, slice_str("big"), 0, false, got, 200000, &count, &e) == 0;

        /* Whole transactions, none missing that was there before. */
        right = right && count % BATCH == 0 && count >= known;
        for (uint32_t i = 0; right && i < count; i++)
            right = got[i] == 8 * (uint64_t)(i + 1);
        if (!right)
            (void)atomic_fetch_add(&shared->wrong, 1);
        (void)atomic_fetch_add(&shared->reads, 1);
    }
    free(got);
    return NULL;
}

static void
test_read_while_applying(void **state)
{
    struct shared shared = {.stop = false};
    pthread_t     threads[READERS];
    uint64_t      next = 0;
    uint64_t      before = data_bytes();

    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_reader, &shared), 0);
    for (int i = 0; i < 40; i++)
        assert_int_equal(apply_big(ix, &next, BATCH, &err), 0);
    while (atomic_load(&shared.reads) < READERS)
        (void)sched_yield();
    atomic_store(&shared.stop, true);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&shared.wrong), 0);
    assert_true(data_bytes() > before);
    check_big(ix, next);
}

/* Applies small transactions for ever; after each it writes how many streams there are. */
static void
run_child(int to)
{
    uint64_t next = 0;

    while (apply_big(ix, &next, 700, &err) == 0) {
        if (write(to, &next, sizeof next) != (ssize_t)sizeof next)
            break;
    }
    _exit(1);
}

/* Killed at any point, the index has all that was reported, whole, and opens as it is. */
static void
test_killed(void **state)
{
    for (uint64_t round = 0; round < 6; round++) {
        int      fds[2];
        uint64_t told = 0;
        uint64_t last = 0;
        uint64_t streams;
        pid_t    pid;

        ops->close(ix);
        ix = NULL;
        assert_int_equal(pipe(fds), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            (void)close(fds[0]);
            if (ops->open(env, dir, log_id, false, &ix, &err) != 0 || ops->reset(ix, &err) != 0)
                _exit(2);
            run_child(fds[1]);
        }
        (void)close(fds[1]);
        while (told < 700 * (20 + 5 * round) && read(fds[0], &told, sizeof told) > 0)
            last = told;
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        while (read(fds[0], &told, sizeof told) > 0)
            last = told;
        (void)close(fds[0]);
        assert_true(last > 0);
        open_again(log_id);
        streams = ops->stream_count(ix);
        assert_true(streams >= last);
        assert_true(streams % 700 == 0);
        assert_int_equal(ops->covers(ix).v, 8 * (streams + 1));
        check_big(ix, streams);
    }
}

/* Another process reads while this one's file grows under it. */
static void
test_reader_process(void **state)
{
    int      to_reader[2], from_reader[2];
    char     byte = 0;
    uint64_t next = 0;
    int      status = 0;
    pid_t    pid;

    assert_int_equal(apply_big(ix, &next, 1000, &err), 0);
    assert_int_equal(pipe(to_reader), 0);
    assert_int_equal(pipe(from_reader), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct ox_index  *reader = NULL;
        struct index_head head;
        bool              right;

        (void)close(to_reader[1]);
        (void)close(from_reader[0]);
        right = ops->open(env, dir, log_id, true, &reader, &err) == 0 &&
                ops->stream_count(reader) == 1000 && ops->head(reader, 999, &head, &err) == 0;
        (void)!write(from_reader[1], &byte, 1);
        (void)!read(to_reader[0], &byte, 1);
        right = right && ops->head(reader, 60999, &head, &err) == 0 && head.last.v == 8 * 61000 &&
                ops->stream_count(reader) == 61000 && ops->covers(reader).v == 8 * 61001;
        _exit(right ? 0 : 1);
    }
    (void)close(to_reader[0]);
    (void)close(from_reader[1]);
    assert_int_equal(read(from_reader[0], &byte, 1), 1);
    assert_int_equal(apply_big(ix, &next, 60000, &err), 0);
    assert_int_equal(write(to_reader[1], &byte, 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    (void)close(to_reader[1]);
    (void)close(from_reader[0]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* the map alone */

static uint64_t
pick_two(void *arg, uint64_t below)
{
    assert_int_equal(below, 4); /* none, one, two or three are left */
    return 2;
}

static void
test_power_cut(void **state)
{
    uint32_t mark = 0;
    uint64_t end = 0;

    apply_random(100);
    assert_int_equal(ops->sync(ix, &err), 0);
    apply_random(100);
    apply_random(100);
    mark = event_count;
    end = end_pos;
    apply_random(100);
    assert_int_equal(index_maps_unsynced(maps, dir), 3);
    ops->close(ix);
    ix = NULL;
    assert_int_equal(index_maps_open(maps), 0);
    index_maps_crash(maps, pick_two, NULL);
    open_again(log_id);
    assert_int_equal(ops->covers(ix).v, end);
    event_count = mark;
    end_pos = end;
    check_all_lists();
    ops->close(ix);
    ix = NULL;
    index_maps_crash(maps, NULL, NULL); /* what a cut has left is on the disk */
    open_again(log_id);
    assert_int_equal(ops->covers(ix).v, end);
    check_all_lists();
    ops->close(ix);
    ix = NULL;
    index_maps_remove(maps, dir);
    open_again(log_id);
    assert_int_equal(ops->covers(ix).v, 0);
}

static int
refuse(void *arg, const char *call, struct err *e)
{
    const char **which = arg;

    if (*which != NULL && strcmp(call, *which) == 0)
        RETURN_ERR(e, E_CLOSED, ERR_FATAL, "stopped");
    return 0;
}

static void
test_refused_calls(void **state)
{
    const char        *which = NULL;
    struct index_batch batch = {.covers = {8}, .stream_count = 1};

    ops->close(ix);
    ix = NULL;
    index_maps_free(maps);
    maps = index_maps_new(env, refuse, &which);
    open_again(log_id);
    which = "apply";
    assert_int_equal(ops->apply(ix, &batch, &err), E_CLOSED);
    assert_int_equal(ops->covers(ix).v, 0);
    which = "sync";
    assert_int_equal(ops->apply(ix, &batch, &err), 0);
    assert_int_equal(ops->sync(ix, &err), E_CLOSED);
    assert_int_equal(index_maps_unsynced(maps, dir), 1);
    which = NULL;
    assert_int_equal(ops->sync(ix, &err), 0);
    assert_int_equal(index_maps_unsynced(maps, dir), 0);
}

#define FRESH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define CONTRACT                                                                                   \
    FRESH(test_empty), FRESH(test_random), FRESH(test_one_by_one), FRESH(test_long_stream),        \
        FRESH(test_streams), FRESH(test_head_only), FRESH(test_states), FRESH(test_firsts),        \
        FRESH(test_state_first), FRESH(test_holes), FRESH(test_empty_batch), FRESH(test_reset),    \
        FRESH(test_another_log), FRESH(test_read_only)

int
main(void)
{
    const struct CMUnitTest lmdb[] = {
        CONTRACT,
        FRESH(test_map_grows),
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
