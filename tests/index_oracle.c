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

const uint8_t log_id[16] = "the log's own id";
const uint8_t other_id[16] = "another log's id";

const struct ox_index_ops *ops;
struct ox_env             *env;
struct index_maps         *maps;
struct ox_index           *ix;
char                       dir[64];
struct err                 err;
uint64_t                   seed;

uint64_t
pick(uint64_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (seed >> 33) % below;
}

/* the oracle */

struct known      events[EVENTS_MAX];
uint32_t          event_count;
struct index_head heads[STREAMS];
bool              exists[STREAMS];
uint64_t          end_pos;

char *
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

const char *const categories[LABELS] = {"a", "ab", "", "order", "x\xc3\xbc", "z", "order2"};
const char *const types[LABELS] = {"Made", "a", "order", "", "Gone", "T", "U"};

void
forget_all(void)
{
    event_count = 0;
    end_pos = 4096;
    memset(heads, 0, sizeof heads);
    memset(exists, 0, sizeof exists);
}

/* A transaction of the oracle's events [from, event_count); the ids' heads are as in `heads`. */
void
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

void
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

void
apply_random(uint32_t count)
{
    uint32_t from = event_count;

    for (uint32_t i = 0; i < count; i++)
        add_event(pick(3) == 0 ? pick(5) : pick(STREAMS));
    apply_events(from);
}

/* what the index says against what the oracle says */

void
check_head(const struct index_head *head, uint64_t id)
{
    assert_int_equal(head->next, heads[id].next);
    assert_int_equal(head->truncate, heads[id].truncate);
    assert_int_equal(head->last.v, heads[id].last.v);
    assert_int_equal(head->flags, heads[id].flags);
    assert_int_equal(head->max_count, heads[id].max_count);
    assert_int_equal(head->max_age_us, heads[id].max_age_us);
}

void
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

const struct known *
event_of(uint64_t id, uint64_t version)
{
    for (uint32_t i = 0; i < event_count; i++) {
        if (events[i].id == id && events[i].version == version)
            return &events[i];
    }
    return NULL;
}

void
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

void
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

void
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

void
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

int
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

void
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

void
open_again(const uint8_t *id)
{
    ops->close(ix);
    ix = NULL;
    assert_int_equal(ops->open(env, dir, id, false, &ix, &err), 0);
}

/* the contract */

int
remove_one(void *arg, const char *name, struct err *e)
{
    char path[512];

    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return remove(path) == 0 ? 0 : E_IO;
}

int
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

int
tear_down(void **state)
{
    ops->close(ix);
    ix = NULL;
    index_maps_free(maps);
    (void)env->ops->dir_list(env, dir, remove_one, NULL, NULL);
    return rmdir(dir);
}
