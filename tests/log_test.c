/* The log on the machine's own disk: what the simulator shows for faults, this shows for files. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "tests/tmp.h"

struct fix {
    char            dir[64];
    struct log     *log;
    struct log_conf conf;
    struct err      err;
};

static void
open_log(struct fix *f)
{
    struct log_report report;

    if (log_open(env_real(), f->dir, &f->conf, &report, &f->log, &f->err) != 0)
        fail_msg("open: %s", f->err.text);
}

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    tmp_dir(f->dir, sizeof f->dir);
    f->conf.index = &log_index_lmdb;
    f->conf.segment_bytes = LOG_SEGMENT_MIN;
    f->conf.recent_events = 1000;
    f->conf.heads_bytes = 4096;
    open_log(f);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    log_close(f->log);
    tmp_remove(f->dir);
    free(f);
    return 0;
}

static void
reopen(struct fix *f)
{
    log_close(f->log);
    open_log(f);
}

static struct ox_id
id_of(unsigned n)
{
    struct ox_id id = {{0}};
    memcpy(id.b, &n, sizeof n);
    id.b[15] = 1;
    return id;
}

/* One event with data `text`; id 0: the log's own. */
static int
append(struct fix *f, const char *stream, int64_t expected, const char *text, unsigned id,
       struct log_req *out)
{
    struct log_new_event e = {.type = slice_str("t"), .data = slice_str(text), .flags = LOG_JSON};
    struct log_write     w = {
            .stream = slice_str(stream), .expected = expected, .events = &e, .count = 1};
    struct log_req req = {.writes = &w, .write_count = 1};
    int            rc;

    if (id != 0)
        e.id = id_of(id);
    rc = log_append(f->log, &req);
    f->err = req.err;
    if (out != NULL)
        *out = req;
    return rc;
}

static unsigned
count_all(struct fix *f, bool backwards)
{
    struct log_read  read = {.from = backwards ? UINT64_MAX : 0, .backwards = backwards};
    struct log_iter *it;
    struct log_event e;
    unsigned         n = 0;
    uint64_t         last = backwards ? UINT64_MAX : 0;
    int              rc;

    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    while ((rc = log_iter_next(it, &e, &f->err)) == 0) {
        assert_true(backwards ? e.pos.v < last : e.pos.v > last);
        last = e.pos.v;
        n++;
    }
    assert_int_equal(rc, E_END);
    log_iter_close(it);
    return n;
}

static unsigned
count_stream(struct fix *f, const char *stream, uint64_t from, bool backwards)
{
    struct log_read  read = {.stream = slice_str(stream), .from = from, .backwards = backwards};
    struct log_iter *it;
    struct log_event e;
    unsigned         n = 0;
    int              rc;

    rc = log_iter_open(f->log, &read, &it, &f->err);
    if (rc == E_NOTFOUND)
        return 0;
    assert_int_equal(rc, 0);
    while ((rc = log_iter_next(it, &e, &f->err)) == 0) {
        if (!backwards)
            assert_int_equal(e.version, from + n);
        assert_true(slice_is(e.stream, stream));
        n++;
    }
    assert_int_equal(rc, E_END);
    log_iter_close(it);
    return n;
}

static void
test_expected_versions(void **state)
{
    struct fix    *f = *state;
    struct log_req req;

    assert_int_equal(append(f, "a", LOG_EXISTS, "{}", 0, &req), E_WRONG_VERSION);
    assert_int_equal(req.wrong_actual, LOG_NO_STREAM);
    assert_int_equal(append(f, "a", 0, "{}", 0, NULL), E_WRONG_VERSION);
    assert_int_equal(append(f, "a", LOG_NO_STREAM, "{}", 0, NULL), 0);
    assert_int_equal(append(f, "a", LOG_NO_STREAM, "{}", 0, &req), E_WRONG_VERSION);
    assert_int_equal(req.wrong_actual, 0);
    assert_int_equal(append(f, "a", 0, "{}", 0, NULL), 0);
    assert_int_equal(append(f, "a", LOG_EXISTS, "{}", 0, NULL), 0);
    assert_int_equal(append(f, "a", LOG_ANY, "{}", 0, NULL), 0);
    assert_int_equal(append(f, "a", 2, "{}", 0, &req), E_WRONG_VERSION);
    assert_int_equal(req.wrong_actual, 3);
    for (int i = 0; i < 2; i++, reopen(f)) {
        assert_int_equal(count_stream(f, "a", 0, false), 4);
        assert_int_equal(count_stream(f, "a", 2, false), 2);
        assert_int_equal(count_stream(f, "a", 1, true), 2);
        assert_int_equal(count_all(f, false), 4);
        assert_int_equal(count_all(f, true), 4);
    }
    assert_int_equal(append(f, "a", 3, "{}", 0, NULL), 0);
}

static void
test_same_again_is_answered_alike(void **state)
{
    struct fix    *f = *state;
    struct log_req first, again;

    assert_int_equal(append(f, "a", LOG_NO_STREAM, "{}", 1, &first), 0);
    assert_int_equal(append(f, "a", LOG_ANY, "{}", 2, NULL), 0);
    for (int i = 0; i < 2; i++, reopen(f)) {
        assert_int_equal(append(f, "a", LOG_NO_STREAM, "{}", 1, &again), 0);
        assert_true(again.idempotent);
        assert_int_equal(again.last.v, first.last.v);
        assert_int_equal(append(f, "a", LOG_ANY, "{}", 2, &again), 0);
        assert_true(again.idempotent);
        assert_int_equal(append(f, "a", LOG_NO_STREAM, "{}", 3, NULL), E_WRONG_VERSION);
        assert_int_equal(count_all(f, false), 2);
    }
    /* The same id in another stream is another event. */
    assert_int_equal(append(f, "b", LOG_ANY, "{}", 1, &again), 0);
    assert_false(again.idempotent);
}

static void
test_commit_over_streams_is_all_or_nothing(void **state)
{
    struct fix          *f = *state;
    struct log_new_event e = {.type = slice_str("t"), .data = slice_str("1")};
    struct log_write     w[] = {
            {.stream = slice_str("x-1"), .expected = LOG_NO_STREAM, .events = &e, .count = 1},
            {.stream = slice_str("x-2"), .expected = LOG_NO_STREAM, .events = &e, .count = 1},
    };
    struct log_check check = {slice_str("x-3"), LOG_EXISTS};
    struct log_req   req = {.writes = w, .write_count = 2, .checks = &check, .check_count = 1};

    assert_int_equal(log_append(f->log, &req), E_WRONG_VERSION);
    assert_true(slice_is(req.wrong_stream, "x-3"));
    assert_int_equal(count_all(f, false), 0);
    check.expected = LOG_NO_STREAM;
    assert_int_equal(log_append(f->log, &req), 0);
    assert_int_equal(count_all(f, false), 2);
    w[1].stream = slice_str("x-1");
    assert_int_equal(log_append(f->log, &req), E_INVALID);
}

static void
test_large_events_and_rolling_segments(void **state)
{
    struct fix         *f = *state;
    static const size_t sizes[] = {0, 1, 1000, 1048000, 1048576, 1048577, 3000000, 5000001, 17};
    size_t              n = sizeof sizes / sizeof *sizes;
    uint8_t            *bytes = malloc(6000000);
    struct log_read     read = {.stream = slice_str("big")};
    struct log_iter    *it;
    struct log_event    e;

    for (size_t i = 0; i < 6000000; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t round = 0; round < 3; round++)
        for (size_t i = 0; i < n; i++) {
            struct log_new_event ev = {.type = slice_str("t"),
                                       .data = slice_of(bytes + i, sizes[i]),
                                       .meta = slice_of(bytes + round, 100 * round)};
            struct log_write     w = {
                    .stream = slice_str("big"), .expected = LOG_ANY, .events = &ev, .count = 1};
            struct log_req req = {.writes = &w, .write_count = 1};
            if (log_append(f->log, &req) != 0)
                fail_msg("append: %s", req.err.text);
        }
    for (int again = 0; again < 2; again++, reopen(f)) {
        assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
        for (size_t i = 0; i < 3 * n; i++) {
            if (log_iter_next(it, &e, &f->err) != 0)
                fail_msg("next %zu: %s", i, f->err.text);
            assert_int_equal(e.data.len, sizes[i % n]);
            assert_memory_equal(e.data.data, bytes + i % n, e.data.len);
            assert_int_equal(e.meta.len, 100 * (i / n));
            if (e.meta.len > 0)
                assert_memory_equal(e.meta.data, bytes + i / n, e.meta.len);
        }
        assert_int_equal(log_iter_next(it, &e, &f->err), E_END);
        log_iter_close(it);
        assert_int_equal(count_all(f, false), 3 * n);
        assert_int_equal(count_all(f, true), 3 * n);
    }
    free(bytes);
}

static void
test_time_travel(void **state)
{
    struct fix      *f = *state;
    struct log_req   req[4];
    struct log_read  read = {.stream = slice_str("s"), .from = UINT64_MAX, .backwards = true};
    struct log_iter *it;
    struct log_event e;

    for (int i = 0; i < 4; i++)
        assert_int_equal(append(f, "s", LOG_ANY, "{}", 0, &req[i]), 0);
    for (int i = 0; i < 4; i++) {
        read.at = req[i].last;
        assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
        assert_int_equal(log_iter_next(it, &e, &f->err), 0);
        assert_int_equal(e.version, i);
        log_iter_close(it);
    }
    read.at = LOG_POS(req[0].pos.v - 1);
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), E_NOTFOUND);
}

static void
test_filters(void **state)
{
    struct fix      *f = *state;
    struct log_read  read = {0};
    struct log_iter *it;
    struct log_event e;

    assert_int_equal(append(f, "a-1", LOG_ANY, "1", 0, NULL), 0);
    assert_int_equal(append(f, "ab-1", LOG_ANY, "2", 0, NULL), 0);
    assert_int_equal(append(f, "a-2", LOG_ANY, "3", 0, NULL), 0);
    read.filter.category = slice_str("a");
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_true(slice_is(e.data, "1"));
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_true(slice_is(e.data, "3"));
    assert_int_equal(log_iter_next(it, &e, &f->err), E_END);
    /* It goes on with what comes. */
    assert_int_equal(append(f, "a-2", LOG_ANY, "4", 0, NULL), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_true(slice_is(e.data, "4"));
    log_iter_close(it);
}

static void
test_names_are_checked(void **state)
{
    struct fix *f = *state;
    char        name[302];

    memset(name, 'x', sizeof name);
    name[300] = '\0';
    assert_int_equal(append(f, "", LOG_ANY, "1", 0, NULL), E_INVALID);
    assert_int_equal(append(f, name, LOG_ANY, "1", 0, NULL), E_INVALID);
    assert_int_equal(append(f, "$mine", LOG_ANY, "1", 0, NULL), E_INVALID);
    assert_int_equal(append(f, "\xff", LOG_ANY, "1", 0, NULL), E_INVALID);
    assert_int_equal(append(f, "a", -3, "1", 0, NULL), E_INVALID);
    name[255] = '\0';
    assert_int_equal(append(f, name, LOG_ANY, "1", 0, NULL), 0);
}

static int
count_streams(void *arg, const struct log_stream *s, struct err *err)
{
    unsigned *n = arg;

    (void)err;
    assert_true(s->name.len > 0);
    (*n)++;
    return 0;
}

static void
test_many_streams(void **state)
{
    struct fix       *f = *state;
    unsigned          n = 0;
    struct log_counts counts;
    char              name[32];

    for (unsigned i = 0; i < 600; i++) {
        (void)snprintf(name, sizeof name, "s-%u", i % 200);
        assert_int_equal(append(f, name, (int64_t)(i / 200) - 1, "{\"x\":1}", i + 1, NULL), 0);
    }
    for (int again = 0; again < 2; again++, reopen(f)) {
        n = 0;
        assert_int_equal(
            log_streams(f->log, slice_str("s-"), slice_str(""), count_streams, &n, &f->err), 0);
        assert_int_equal(n, 200);
        assert_int_equal(count_stream(f, "s-7", 0, false), 3);
        if (log_verify(f->log, NULL, NULL, &counts, &f->err) != 0)
            fail_msg("verify: %s", f->err.text);
        assert_int_equal(counts.events, 600);
    }
}

struct flusher {
    struct log *log;
    atomic_bool stop;
    pthread_t   thread;
};

static int
stop_at_once(void *arg, const struct log_stream *s, struct err *err)
{
    return E_END;
}

/* A listing of streams has what is in memory indexed first. */
static void *
run_flusher(void *arg)
{
    struct flusher *flusher = arg;

    while (!atomic_load(&flusher->stop))
        (void)log_streams(flusher->log, slice_str(""), slice_str(""), stop_at_once, NULL, NULL);
    return NULL;
}

/* Heads that the small cache has lost are right also while they go from memory to the index. */
static void
test_heads_while_indexing(void **state)
{
    struct fix       *f = *state;
    struct flusher    flusher = {.log = f->log};
    struct log_stream info;
    char              name[32];

    assert_int_equal(pthread_create(&flusher.thread, NULL, run_flusher, &flusher), 0);
    for (unsigned i = 0; i < 4000; i++) {
        (void)snprintf(name, sizeof name, "s-%u", i % 150);
        assert_int_equal(append(f, name, (int64_t)(i / 150) - 1, "1", 0, NULL), 0);
        assert_int_equal(log_stream_info(f->log, slice_str(name), &info, &f->err), 0);
        assert_int_equal(info.head, i / 150);
    }
    atomic_store(&flusher.stop, true);
    assert_int_equal(pthread_join(flusher.thread, NULL), 0);
}

static void
test_second_owner_is_told(void **state)
{
    struct fix *f = *state;
    struct log *other;

    assert_int_equal(log_open(env_real(), f->dir, &f->conf, NULL, &other, &f->err), E_BUSY);
    assert_null(other);
}

static void
test_reindex(void **state)
{
    struct fix *f = *state;

    for (int i = 0; i < 100; i++)
        assert_int_equal(append(f, i % 2 == 0 ? "a" : "b", LOG_ANY, "1", 0, NULL), 0);
    log_close(f->log);
    f->log = NULL;
    assert_int_equal(log_reindex(env_real(), f->dir, &f->conf, NULL, &f->err), 0);
    open_log(f);
    assert_int_equal(count_stream(f, "a", 0, false), 50);
    assert_int_equal(append(f, "b", 49, "1", 0, NULL), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_expected_versions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_again_is_answered_alike, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commit_over_streams_is_all_or_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_large_events_and_rolling_segments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_time_travel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_filters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_are_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_streams, setup, teardown),
        cmocka_unit_test_setup_teardown(test_heads_while_indexing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_owner_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reindex, setup, teardown),
    };

    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
