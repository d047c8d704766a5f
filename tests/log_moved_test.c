/*
 * Streams that were moved: what their state is, who may append, who is told where to, and that it
 * holds out of memory, out of the index and after the log was opened again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "tests/tmp.h"

#define MOVED "{\"streams\":[\"new-1\",\"new-\\u0032\"],\"reason\":\"r\",\"surgery\":\"s\"}"

struct fix {
    char            dir[64];
    struct log     *log;
    struct log_conf conf;
    struct log_req  req;
    struct err      err;
};

static void
open_log(struct fix *f)
{
    if (log_open(env_real(), f->dir, &f->conf, NULL, &f->log, &f->err) != 0)
        fail_msg("open: %s", f->err.text);
}

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    tmp_dir(f->dir, sizeof f->dir);
    f->conf.index = &log_index_lmdb;
    f->conf.segment_bytes = LOG_SEGMENT_MIN;
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

static int
ignore(void *arg, const struct log_stream *s, struct err *err)
{
    (void)arg;
    (void)s;
    (void)err;
    return 0;
}

static void
turn(struct fix *f, int round)
{
    if (round == 1)
        assert_int_equal(log_streams(f->log, slice_str(""), slice_str(""), ignore, NULL, &f->err),
                         0);
    if (round == 2) {
        log_close(f->log);
        open_log(f);
    }
}

static int
commit(struct fix *f, struct log_write *w, struct log_change *c, uint32_t flags)
{
    int rc;

    f->req = (struct log_req){.writes = w,
                              .write_count = w != NULL,
                              .changes = c,
                              .change_count = c != NULL,
                              .flags = flags};
    rc = log_append(f->log, &f->req);
    f->err = f->req.err;
    return rc;
}

static int
append_as(struct fix *f, const char *stream, int64_t expected, uint8_t id, uint32_t flags)
{
    struct log_new_event e = {
        .id.b[0] = id, .type = slice_str("t"), .data = slice_str("1"), .flags = LOG_JSON};
    struct log_write w = {
        .stream = slice_str(stream), .expected = expected, .events = &e, .count = 1};

    return commit(f, &w, NULL, flags);
}

static int
append(struct fix *f, const char *stream, int64_t expected)
{
    return append_as(f, stream, expected, 0, 0);
}

/* The stream's last event and its state, in one commit. */
static int
move(struct fix *f, const char *stream, int64_t expected, const char *data)
{
    struct log_new_event e = {
        .type = slice_str(LOG_MOVED_TYPE), .data = slice_str(data), .flags = LOG_JSON};
    struct log_write w = {
        .stream = slice_str(stream), .expected = expected, .events = &e, .count = 1};
    struct log_change c = {
        .stream = slice_str(stream), .expected = expected, .what = LOG_SET_MOVED};

    return commit(f, &w, &c, LOG_BULK);
}

static int
change(struct fix *f, const char *stream, uint32_t what, uint64_t truncate)
{
    struct log_change c = {
        .stream = slice_str(stream), .expected = LOG_ANY, .what = what, .truncate = truncate};

    return commit(f, NULL, &c, 0);
}

static void
assert_moved(struct fix *f, uint64_t version, const char *names)
{
    struct log_stream info;
    struct buf        got = {0};

    assert_int_equal(log_stream_info(f->log, slice_str("a"), &info, &f->err), 0);
    assert_int_equal(info.flags, LOG_STREAM_MOVED);
    assert_int_equal(info.moved, version);
    assert_int_equal(log_moved_to(f->log, slice_str("a"), &got, &f->err), 0);
    assert_true(slice_is(buf_slice(&got), names));
    buf_fini(&got);
}

static void
test_refuses(void **state)
{
    struct fix *f = *state;

    assert_int_equal(append_as(f, "a", LOG_NO_STREAM, 7, 0), 0);
    assert_int_equal(append(f, "a", 0), 0);
    assert_int_equal(move(f, "a", 1, MOVED), 0);
    for (int round = 0; round < 3; round++) {
        turn(f, round);
        assert_moved(f, 2, "[\"new-1\",\"new-\\u0032\"]");
        assert_int_equal(append(f, "a", LOG_ANY), E_MOVED);
        assert_non_null(strstr(f->err.text, "\"new-1\""));
        assert_true(slice_is(f->req.wrong_stream, "a"));
        assert_int_equal(f->req.gone_flags, LOG_STREAM_MOVED);
        assert_int_equal(append(f, "a", LOG_EXISTS), E_MOVED);
        assert_int_equal(append(f, "a", 2), E_MOVED);
        assert_int_equal(append(f, "a", 1), E_WRONG_VERSION);
        assert_int_equal(f->req.wrong_actual, 2);
        assert_int_equal(f->req.gone_flags, LOG_STREAM_MOVED);
        assert_int_equal(append(f, "a", LOG_NO_STREAM), E_WRONG_VERSION);
        assert_int_equal(append_as(f, "a", LOG_ANY, 7, 0), 0);
        assert_true(f->req.idempotent);
        assert_int_equal(append_as(f, "a", LOG_NO_STREAM, 7, 0), 0);
        assert_true(f->req.idempotent);
    }
    assert_int_equal(append_as(f, "a", 2, 0, LOG_MOVED_OK), 0);
    assert_int_equal(change(f, "a", LOG_SET_TRUNCATE, 1), 0);
    for (int round = 0; round < 3; round++) {
        turn(f, round);
        assert_moved(f, 2, "[\"new-1\",\"new-\\u0032\"]");
    }
}

static void
test_opens_again(void **state)
{
    struct fix *f = *state;
    struct buf  got = {0};

    assert_int_equal(append(f, "a", LOG_ANY), 0);
    assert_int_equal(move(f, "a", 0, MOVED), 0);
    assert_int_equal(change(f, "a", LOG_SET_UNMOVED, 0), 0);
    for (int round = 0; round < 3; round++) {
        turn(f, round);
        assert_int_equal(append(f, "a", 1 + round), 0);
        assert_int_equal(log_moved_to(f->log, slice_str("a"), &got, &f->err), E_STATE);
    }
    assert_int_equal(move(f, "a", 4, MOVED), 0);
    assert_moved(f, 5, "[\"new-1\",\"new-\\u0032\"]");
    assert_int_equal(log_moved_to(f->log, slice_str("none"), &got, &f->err), E_NOTFOUND);
    buf_fini(&got);
}

static void
test_needs_its_event(void **state)
{
    struct fix *f = *state;

    assert_int_equal(append(f, "a", LOG_ANY), 0);
    assert_int_equal(change(f, "a", LOG_SET_MOVED, 0), E_INVALID);
    assert_int_equal(change(f, "a", LOG_SET_MOVED | LOG_SET_UNMOVED, 0), E_INVALID);
    assert_int_equal(append(f, "a", 0), 0);
    assert_int_equal(move(f, "a", 7, MOVED), E_WRONG_VERSION);
    assert_int_equal(append(f, "a", 1), 0);
}

static void
test_routed(void **state)
{
    struct fix       *f = *state;
    struct log_stream info;

    assert_int_equal(append(f, "a", LOG_ANY), 0);
    assert_int_equal(change(f, "a", LOG_SET_ROUTED, 0), 0);
    for (int round = 0; round < 3; round++) {
        turn(f, round);
        assert_int_equal(append(f, "a", round), E_STATE); /* nobody says where else */
        assert_int_equal(log_stream_info(f->log, slice_str("a"), &info, &f->err), 0);
        assert_int_equal(info.flags, LOG_STREAM_ROUTED);
    }
    assert_int_equal(change(f, "a", LOG_SET_UNMOVED, 0), 0);
    assert_int_equal(log_stream_info(f->log, slice_str("a"), &info, &f->err), 0);
    assert_int_equal(info.flags, 0);
    assert_int_equal(append(f, "a", LOG_ANY), 0);
}

static void
done(struct log_req *req)
{
    (void)req;
}

/* Refused for a move that is not durable yet: the answer names the streams all the same. */
static void
test_waits_for_the_move(void **state)
{
    struct fix          *f = *state;
    struct log_new_event e = {
        .type = slice_str(LOG_MOVED_TYPE), .data = slice_str(MOVED), .flags = LOG_JSON};
    struct log_write  w = {.stream = slice_str("a"), .expected = 0, .events = &e, .count = 1};
    struct log_change c = {.stream = slice_str("a"), .expected = 0, .what = LOG_SET_MOVED};
    struct log_req    moves = {
           .writes = &w, .write_count = 1, .changes = &c, .change_count = 1, .done = done};

    assert_int_equal(append(f, "a", LOG_ANY), 0);
    log_submit(f->log, &moves);
    assert_int_equal(append(f, "a", LOG_ANY), E_MOVED);
    assert_non_null(strstr(f->err.text, "\"new-1\""));
    log_close(f->log);
    assert_int_equal(moves.rc, 0);
    open_log(f);
}

static void
assert_follow(struct fix *f, const char *from, const char *to)
{
    struct buf name = {0};

    assert_int_equal(log_moved_follow(f->log, slice_str(from), &name, &f->err), 0);
    assert_true(slice_is(buf_slice(&name), to));
    buf_fini(&name);
}

static void
test_follows_to_the_end(void **state)
{
    struct fix *f = *state;
    struct buf  name = {0};
    char        here[8], data[64];

    for (int i = 0; i <= LOG_HOPS_MAX; i++) {
        (void)snprintf(here, sizeof here, "h-%d", i);
        (void)snprintf(data, sizeof data, "{\"streams\":[\"h-%d\"]}", i + 1);
        assert_int_equal(append(f, here, LOG_ANY), 0);
        assert_int_equal(move(f, here, 0, data), 0);
    }
    assert_follow(f, "h-1", "h-17");
    assert_follow(f, "none", "none");
    assert_int_equal(log_moved_follow(f->log, slice_str("h-0"), &name, &f->err), E_LIMIT);
    assert_int_equal(append(f, "a", LOG_ANY), 0);
    assert_int_equal(move(f, "a", 0, MOVED), 0);
    assert_int_equal(log_moved_follow(f->log, slice_str("a"), &name, &f->err), E_MOVED);
    assert_non_null(strstr(f->err.text, "new-1"));
    buf_fini(&name);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_opens_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_needs_its_event, setup, teardown),
        cmocka_unit_test_setup_teardown(test_routed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_waits_for_the_move, setup, teardown),
        cmocka_unit_test_setup_teardown(test_follows_to_the_end, setup, teardown),
    };

    return cmocka_run_group_tests_name("log_moved", tests, NULL, NULL);
}
