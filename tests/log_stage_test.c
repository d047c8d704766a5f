/*
 * Stages and fences of the log: what is committed in stages is hidden until the last one, nobody
 * who reads by position passes it, and without an end it has never been. A fence holds others
 * back for a while.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "tests/tmp.h"

struct fix {
    char              dir[64];
    struct log       *log;
    struct log_conf   conf;
    struct log_req    req;
    struct log_stage *stage;
    struct err        err;
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

    if (f->log != NULL)
        log_stage_close(f->log, f->stage);
    log_close(f->log);
    tmp_remove(f->dir);
    free(f);
    return 0;
}

static void
again(struct fix *f)
{
    log_stage_close(f->log, f->stage);
    f->stage = NULL;
    log_close(f->log);
    open_log(f);
}

/* One event of type "E", whose id is `id`. */
static int
append(struct fix *f, const char *stream, int64_t expected, unsigned id, uint32_t flags,
       uint32_t what)
{
    struct log_new_event e = {.type = slice_str("E"), .data = slice_str("x")};
    struct log_change    c = {.stream = slice_str(stream), .expected = LOG_ANY, .what = what};
    struct log_write     w = {
            .stream = slice_str(stream), .expected = expected, .events = &e, .count = 1};

    e.id.b[0] = (uint8_t)id;
    e.id.b[15] = 1;
    f->req = (struct log_req){.writes = &w,
                              .write_count = 1,
                              .changes = &c,
                              .change_count = what != 0,
                              .flags = flags,
                              .stage = (flags & LOG_STAGED) != 0 || what != 0 ? f->stage : NULL};
    (void)log_append(f->log, &f->req);
    f->err = f->req.err;
    return f->req.rc;
}

/* What a reader has next: "STREAM@VERSION …". */
static void
assert_next(struct fix *f, struct log_iter *it, const char *should)
{
    struct log_event e;
    struct buf       is = {0};
    int              rc;

    while ((rc = log_iter_next(it, &e, &f->err)) == 0) {
        if (is.len > 0)
            buf_add_byte(&is, ' ');
        buf_add_slice(&is, slice_is(e.stream, "$streams") ? e.data : e.stream);
        if (!slice_is(e.stream, "$streams"))
            buf_printf(&is, "@%llu", (unsigned long long)e.version);
    }
    assert_int_equal(rc, E_END);
    if (!slice_is(buf_slice(&is), should))
        fail_msg("is \"%.*s\", should be \"%s\"", SLICE_FMT(buf_slice(&is)), should);
    buf_fini(&is);
}

static struct log_iter *
reader(struct fix *f, const char *stream, const char *category)
{
    struct log_read  read = {.stream = slice_str(stream), .filter.category = slice_str(category)};
    struct log_iter *it = NULL;

    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    return it;
}

/* t-1 is being filled: versions 0 and 1, and behind them is u-1@0. */
static void
begin(struct fix *f)
{
    assert_int_equal(log_stage_open(f->log, &f->stage, &f->err), 0);
    assert_int_equal(log_stage_add(f->log, f->stage, slice_str("t-1"), &f->err), 0);
    assert_int_equal(append(f, "t-1", LOG_NO_STREAM, 1, LOG_STAGED, LOG_SET_STAGED), 0);
    assert_int_equal(append(f, "t-1", 0, 2, LOG_STAGED, 0), 0);
    assert_int_equal(append(f, "u-1", LOG_ANY, 100, 0, 0), 0);
}

static void
end(struct fix *f)
{
    assert_int_equal(append(f, "t-1", 1, 3, 0, LOG_SET_UNSTAGED), 0);
    log_stage_close(f->log, f->stage);
    f->stage = NULL;
}

static int
count(void *arg, const struct log_stream *stream, struct err *err)
{
    (void)stream;
    (void)err;
    ++*(unsigned *)arg;
    return 0;
}

static void
test_hidden(void **state)
{
    struct fix       *f = *state;
    struct log_stream info;
    struct log_stage *other;
    struct log_change c = {
        .stream = slice_str("t-1"), .expected = LOG_ANY, .what = LOG_SET_DELETED};
    struct log_read  back = {.backwards = true, .from = UINT64_MAX};
    struct log_iter *it = NULL;
    unsigned         n = 0;

    begin(f);
    assert_int_equal(log_stream_info(f->log, slice_str("t-1"), &info, &f->err), E_NOTFOUND);
    back.stream = slice_str("t-1");
    assert_int_equal(log_iter_open(f->log, &back, &it, &f->err), E_NOTFOUND);
    assert_int_equal(log_streams(f->log, slice_str("t-"), slice_str(""), count, &n, &f->err), 0);
    assert_int_equal(n, 0);
    /* Nobody else writes to it, or changes it. */
    assert_int_equal(append(f, "t-1", LOG_ANY, 1, 0, 0), E_BUSY);
    assert_int_equal(f->err.kind, ERR_RETRY);
    assert_int_equal(append(f, "t-1", LOG_NO_STREAM, 1, 0, 0), E_BUSY);
    assert_int_equal(append(f, "t-1", 1, 50, 0, 0), E_BUSY);
    f->req = (struct log_req){.changes = &c, .change_count = 1};
    assert_int_equal(log_append(f->log, &f->req), E_BUSY);
    assert_int_equal(log_stage_open(f->log, &other, &f->err), 0);
    assert_int_equal(log_stage_add(f->log, other, slice_str("t-1"), &f->err), E_EXISTS);
    log_stage_close(f->log, other);
    /* Who reads backwards has what there is. */
    back.stream = slice_str("");
    assert_int_equal(log_iter_open(f->log, &back, &it, &f->err), 0);
    assert_next(f, it, "u-1@0");
    log_iter_close(it);
    end(f);
    it = reader(f, "t-1", "");
    assert_next(f, it, "t-1@0 t-1@1 t-1@2");
    log_iter_close(it);
    /* An event that was copied is known. */
    assert_int_equal(append(f, "t-1", LOG_ANY, 2, 0, 0), 0);
    assert_true(f->req.idempotent);
}

/* Each kind of reader by position, opened before, during and after; none passes it. */
static void
test_readers_wait(void **state)
{
    static const struct {
        const char *stream, *category, *before, *during, *after;
    } kinds[] = {
        {"", "", "a-1@0", "", "t-1@0 t-1@1 u-1@0 t-1@2"},
        {"", "t", "", "", "t-1@0 t-1@1 t-1@2"},
        {"", "u", "", "u-1@0", ""},
        {"$ce-t", "", "", "", "t-1@0 t-1@1 t-1@2"},
        {"$ce-u", "", "", "u-1@0", ""},
        {"$et-E", "", "a-1@0", "", "t-1@0 t-1@1 u-1@0 t-1@2"},
        {"$streams", "", "0@a-1", "", "0@t-1 0@u-1"},
    };
    struct fix      *f = *state;
    struct log_iter *early[7], *late[7];
    struct buf       all = {0};

    assert_int_equal(append(f, "a-1", LOG_ANY, 99, 0, 0), 0);
    for (int i = 0; i < 7; i++) {
        early[i] = reader(f, kinds[i].stream, kinds[i].category);
        assert_next(f, early[i], kinds[i].before);
    }
    begin(f);
    for (int i = 0; i < 7; i++) {
        struct log_pos pos;

        assert_next(f, early[i], kinds[i].during);
        pos = log_iter_pos(early[i]);
        assert_next(f, early[i], "");
        assert_int_equal(log_iter_pos(early[i]).v, pos.v);
        late[i] = reader(f, kinds[i].stream, kinds[i].category);
        buf_clear(&all);
        buf_printf(&all, "%s%s%s", kinds[i].before,
                   kinds[i].before[0] != 0 && kinds[i].during[0] != 0 ? " " : "", kinds[i].during);
        buf_add_byte(&all, 0);
        assert_next(f, late[i], (const char *)all.data);
    }
    end(f);
    for (int i = 0; i < 7; i++) {
        assert_next(f, early[i], kinds[i].after);
        assert_next(f, late[i], kinds[i].after);
        log_iter_close(early[i]);
        log_iter_close(late[i]);
    }
    buf_fini(&all);
}

/* A reader that waits may be asked for what stands elsewhere meanwhile. */
static void
test_waiting_reader_finds_by_position(void **state)
{
    struct fix      *f = *state;
    struct log_iter *it;
    struct log_event e;
    struct log_pos   a;

    assert_int_equal(append(f, "a-1", LOG_ANY, 99, 0, 0), 0);
    a = f->req.pos;
    begin(f);
    it = reader(f, "", "");
    assert_next(f, it, "a-1@0");
    if (log_iter_at(it, a, &e, &f->err) != 0)
        fail_msg("%s", f->err.text);
    assert_true(slice_is(e.stream, "a-1"));
    assert_next(f, it, "");
    end(f);
    assert_next(f, it, "t-1@0 t-1@1 u-1@0 t-1@2");
    log_iter_close(it);
}

/* From the index's lists, and from a scan: where the index has all of it already. */
static void
test_readers_of_the_index(void **state)
{
    static const char *const streams[] = {"$ce-t", "$et-E", "$streams"};
    static const char *const after[] = {"t-1@0 t-1@1 t-1@2", "t-1@0 t-1@1 u-1@0 t-1@2",
                                        "0@t-1 0@u-1"};
    struct fix              *f = *state;
    struct log_counts        counts;
    struct log_iter         *it[3];

    begin(f);
    assert_int_equal(log_verify(f->log, NULL, NULL, &counts, &f->err), 0); /* writes the index */
    for (int i = 0; i < 3; i++) {
        it[i] = reader(f, streams[i], "");
        assert_next(f, it[i], "");
        assert_next(f, it[i], "");
    }
    end(f);
    assert_int_equal(log_verify(f->log, NULL, NULL, &counts, &f->err), 0);
    assert_int_equal(counts.index_mismatches, 0);
    for (int i = 0; i < 3; i++) {
        assert_next(f, it[i], after[i]);
        log_iter_close(it[i]);
    }
}

/* Closed without an end, or cut off by the end of the process: it has never been. */
static void
without_end(struct fix *f, bool reopen)
{
    struct log_iter  *it = NULL;
    struct log_stream info;

    begin(f);
    if (!reopen)
        it = reader(f, "", "");
    if (reopen) {
        again(f);
        it = reader(f, "", "");
    } else {
        assert_next(f, it, "");
        log_stage_close(f->log, f->stage);
        f->stage = NULL;
    }
    assert_next(f, it, "u-1@0");
    assert_int_equal(log_stream_info(f->log, slice_str("t-1"), &info, &f->err), E_NOTFOUND);
    /* The same ids: what never took effect answers no retry. The numbers go on. */
    assert_int_equal(append(f, "t-1", LOG_NO_STREAM, 1, 0, 0), 0);
    assert_false(f->req.idempotent);
    assert_int_equal(append(f, "t-1", LOG_ANY, 2, 0, 0), 0);
    assert_false(f->req.idempotent);
    assert_next(f, it, "t-1@2 t-1@3");
    log_iter_close(it);
    it = reader(f, "t-1", "");
    assert_next(f, it, "t-1@2 t-1@3");
    log_iter_close(it);
}

static void
test_without_end(void **state)
{
    without_end(*state, false);
}

static void
test_cut_off(void **state)
{
    without_end(*state, true);
}

/* And the same stream is filled once more, with the same ids. */
static void
test_once_more(void **state)
{
    struct fix      *f = *state;
    struct log_iter *it;

    begin(f);
    again(f);
    it = reader(f, "", "t");
    assert_int_equal(log_stage_open(f->log, &f->stage, &f->err), 0);
    assert_int_equal(log_stage_add(f->log, f->stage, slice_str("t-1"), &f->err), 0);
    assert_int_equal(append(f, "t-1", LOG_NO_STREAM, 1, LOG_STAGED, LOG_SET_STAGED), 0);
    assert_false(f->req.idempotent);
    assert_int_equal(append(f, "t-1", 2, 2, LOG_STAGED, 0), 0);
    assert_false(f->req.idempotent);
    assert_next(f, it, "");
    assert_int_equal(append(f, "t-1", 3, 3, 0, LOG_SET_UNSTAGED), 0);
    assert_next(f, it, "t-1@2 t-1@3 t-1@4");
    log_iter_close(it);
}

/* What is left of a stage without an end goes; what is being filled stays. */
static void
test_scavenge(void **state)
{
    static char              pad[600000];
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    struct log_new_event     e = {.type = slice_str("pad"), .data = slice_of(pad, sizeof pad)};
    struct log_write         w = {
                .stream = slice_str("pad"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_iter *it;

    for (int round = 0; round < 2; round++) {
        if (round == 1)
            again(f);
        else
            begin(f);
        for (int i = 0; i < 8; i++) {
            f->req = (struct log_req){.writes = &w, .write_count = 1};
            assert_int_equal(log_append(f->log, &f->req), 0);
        }
        assert_int_equal(log_scavenge_start(f->log, &conf, &f->err), 0);
        do
            log_scavenge_status(f->log, &s);
        while (s.state == LOG_SCAVENGE_RUNNING);
        assert_int_equal(s.state, LOG_SCAVENGE_DONE);
        assert_int_equal(s.events, round); /* all but its last one */
    }
    it = reader(f, "", "t");
    assert_next(f, it, "");
    log_iter_close(it);
}

/* fences */

struct writer {
    struct fix *f;
    atomic_int  started, done;
};

static void *
write_one(void *arg)
{
    struct writer       *w = arg;
    struct log_new_event e = {.type = slice_str("E"), .data = slice_str("y")};
    struct log_write     write = {
            .stream = slice_str("s-1"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req req = {.writes = &write, .write_count = 1};

    atomic_store(&w->started, 1);
    if (log_append(w->f->log, &req) != 0)
        fail_msg("append: %s", req.err.text);
    atomic_store(&w->done, 1);
    return NULL;
}

static void
test_fence(void **state)
{
    struct fix       *f = *state;
    struct log_fence *fence;
    struct slice      name = slice_str("s-1");
    struct writer     w = {.f = f};
    pthread_t         thread;

    assert_int_equal(append(f, "s-1", LOG_ANY, 1, 0, 0), 0);
    assert_int_equal(log_fence(f->log, &name, 1, LOG_FENCE_MAX, &fence, &f->err), 0);
    assert_int_equal(pthread_create(&thread, NULL, write_one, &w), 0);
    while (atomic_load(&w.started) == 0) {
    }
    /* Others are not held back, nor who fences; what it expects holds meanwhile. */
    assert_int_equal(append(f, "u-1", LOG_ANY, 2, 0, 0), 0);
    assert_int_equal(append(f, "s-1", 0, 3, LOG_FENCED_OK, 0), 0);
    log_unfence(f->log, fence);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(atomic_load(&w.done), 1);
    assert_int_equal(append(f, "s-1", 2, 4, 0, 0), 0); /* it was the third one */
    /* One that nobody takes away ends by itself. */
    assert_int_equal(log_fence(f->log, &name, 1, 3000, &fence, &f->err), 0);
    assert_int_equal(append(f, "s-1", LOG_ANY, 5, 0, 0), 0);
    log_unfence(f->log, fence);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hidden, setup, teardown),
        cmocka_unit_test_setup_teardown(test_readers_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_waiting_reader_finds_by_position, setup, teardown),
        cmocka_unit_test_setup_teardown(test_readers_of_the_index, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cut_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_once_more, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scavenge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fence, setup, teardown),
    };

    return cmocka_run_group_tests_name("log_stage", tests, NULL, NULL);
}
