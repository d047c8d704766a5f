/*
 * Moves that are too large for one commit: each operation in stages, who writes and reads
 * meanwhile, what cuts one off, and a stream of a million events.
 */
#include <pthread.h>
#include <sched.h>
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
#include "migrate/stream/stream.h"
#include "tests/tmp.h"

#define WAIT_US UINT64_C(100000000)
#define MANY 3000u /* events: some stages of 64 KiB */
#define BATCH 1000u
#define SMALL "\"commit_bytes\":65536"
#define SPLIT                                                                                      \
    "{\"kind\":\"split\",\"category\":\"truck\",\"to\":\"vehicle-{key}\"," SMALL ","               \
    "\"transform\":[{\"when\":{\"type\":\"B\"},\"route\":\"engine-{key}\"}]}"
#define COPY "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\"," SMALL "}"

struct fix {
    char              dir[64];
    struct ox_env     env;
    struct ox_env_ops ops;
    struct log       *log;
    struct log_conf   conf;
    struct surgery   *surgery;
    struct err        err;
};

#define PAD "________________________________" /* a stub has to be shorter than its event */

static atomic_bool disk_full;
static bool        padded;

/* The real disk, until it is full. */
static int
resize(struct ox_env *env, struct ox_file *file, uint64_t size, struct err *err)
{
    if (atomic_load(&disk_full))
        return err_set(err, __FILE__, __LINE__, E_NOSPC, ERR_RETRY, "no space left on the disk");
    return env_real()->ops->file_resize(env, file, size, err);
}

static void
open_log(struct fix *f)
{
    if (log_open(&f->env, f->dir, &f->conf, NULL, &f->log, &f->err) != 0)
        fail_msg("open: %s", f->err.text);
}

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    tmp_dir(f->dir, sizeof f->dir);
    atomic_store(&disk_full, false);
    f->ops = *env_real()->ops;
    f->ops.file_resize = resize;
    f->env.ops = &f->ops;
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

    stream_close(f->surgery);
    log_close(f->log);
    tmp_remove(f->dir);
    free(f);
    return 0;
}

/* So many events to the stream, of types A and B by turns: data has a number from `first` on. */
static void
fill(struct fix *f, const char *stream, unsigned first, unsigned count)
{
    static struct log_new_event events[BATCH];
    static char                 data[BATCH][180];

    while (count > 0) {
        unsigned         n = count < BATCH ? count : BATCH;
        struct log_write w = {
            .stream = slice_str(stream), .expected = LOG_ANY, .events = events, .count = n};
        struct log_req req = {.writes = &w, .write_count = 1};

        for (unsigned i = 0; i < n; i++, first++) {
            (void)snprintf(data[i], sizeof data[i], "{\"n\":%u%s}", first,
                           padded ? ",\"pad\":\"" PAD PAD PAD PAD "\"" : "");
            events[i] = (struct log_new_event){.type = slice_str(first % 2 == 0 ? "A" : "B"),
                                               .data = slice_str(data[i]),
                                               .flags = LOG_JSON};
        }
        if (log_append(f->log, &req) != 0)
            fail_msg("append: %s", req.err.text);
        count -= n;
    }
}

static unsigned
number_of(const struct log_event *e)
{
    char text[24] = "";

    memcpy(text, (const char *)e->data.data + 5, e->data.len - 6 < 20 ? e->data.len - 6 : 20);
    return (unsigned)strtoul(text, NULL, 10);
}

static bool
is_counted(const struct log_event *e)
{
    return slice_is(e->type, "A") || slice_is(e->type, "B");
}

/* The stream has the numbers from `first` on by `step`, `count` of them and no other. */
static void
assert_numbers(struct fix *f, const char *stream, unsigned first, unsigned step, unsigned count)
{
    struct log_read  read = {.stream = slice_str(stream), .resolve = true};
    struct log_iter *it = NULL;
    struct log_event e;
    unsigned         n = 0;
    uint64_t         version = 0;

    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    while (log_iter_next(it, &e, &f->err) == 0) {
        if (version++ == 0)
            assert_true(slice_is(e.type, "MigratedFrom"));
        if (!is_counted(&e))
            continue;
        if (number_of(&e) != first + n * step)
            fail_msg("%s has %u where %u should be", stream, number_of(&e), first + n * step);
        n++;
    }
    log_iter_close(it);
    assert_int_equal(n, count);
}

static void
begin(struct fix *f, const char *name, const char *spec)
{
    stream_close(f->surgery);
    f->surgery = NULL;
    if (stream_begin(&f->env, f->log, slice_str(name), slice_str(spec), &f->surgery, &f->err) != 0)
        fail_msg("begin: %s", f->err.text);
}

static struct stream_status
wait_end(struct fix *f, enum stream_state state)
{
    struct stream_status s;

    stream_wait(f->surgery, WAIT_US);
    stream_get_status(f->surgery, &s);
    if (s.state != state)
        fail_msg("is %s, should be %s: %s", stream_state_name(s.state), stream_state_name(state),
                 s.error);
    return s;
}

static struct stream_status
run(struct fix *f, const char *name, const char *spec)
{
    begin(f, name, spec);
    return wait_end(f, STREAM_DONE);
}

static void
assert_clean(struct fix *f, uint64_t streams, uint64_t copies)
{
    struct stream_audit a;

    if (stream_audit_run(f->surgery, NULL, &a, &f->err) != 0)
        fail_msg("audit: %s", f->err.text);
    if (a.different != 0)
        fail_msg("%llu different: %s", (unsigned long long)a.different, a.first);
    assert_int_equal(a.streams, streams);
    assert_int_equal(a.copies, copies);
    assert_int_equal(a.gone, 0);
}

static bool
was_staged(struct fix *f, const char *stream)
{
    struct log_read  read = {.stream = slice_str(stream), .backwards = true, .from = UINT64_MAX};
    struct log_iter *it = NULL;
    struct log_event e;
    bool             yes;

    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_true(slice_is(e.type, LOG_MOVED_TYPE));
    yes = memmem(e.data.data, e.data.len, "\"staged\":", 9) != NULL;
    log_iter_close(it);
    return yes;
}

static int
append(struct fix *f, const char *stream)
{
    struct log_new_event e = {.type = slice_str("X"), .data = slice_str("1"), .flags = LOG_JSON};
    struct log_write     w = {
            .stream = slice_str(stream), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req req = {.writes = &w, .write_count = 1};

    return log_append(f->log, &req);
}

static void
test_copy(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "a-1", 0, MANY);
    fill(f, "a-2", 0, 3);
    s = run(f, "one", COPY);
    assert_int_equal(s.streams, 2);
    assert_int_equal(s.parked, 0);
    assert_int_equal(s.copies, MANY + 3);
    assert_int_equal(s.events, MANY + 3);
    assert_true(was_staged(f, "a-1"));
    assert_false(was_staged(f, "a-2"));
    assert_numbers(f, "b-1", 0, 1, MANY);
    assert_int_equal(append(f, "a-1"), E_MOVED);
    assert_int_equal(append(f, "b-1"), 0);
    assert_clean(f, 2, MANY + 3);
}

static void
test_split_and_join(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "truck-1", 0, MANY);
    s = run(f, "apart", SPLIT);
    assert_int_equal(s.streams, 1);
    assert_numbers(f, "vehicle-1", 0, 2, MANY / 2);
    assert_numbers(f, "engine-1", 1, 2, MANY / 2);
    assert_clean(f, 1, MANY);
    s = run(f, "together",
            "{\"kind\":\"join\",\"category\":[\"vehicle\",\"engine\"],\"to\":\"lorry-{key}\"," SMALL
            "}");
    assert_int_equal(s.streams, 2);
    assert_true(was_staged(f, "vehicle-1"));
    assert_true(was_staged(f, "engine-1"));
    assert_clean(f, 2, MANY);
    /* Each half stands as the split wrote it. */
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    s = wait_end(f, STREAM_ROLLED_BACK);
    assert_int_equal(s.parked, 0);
    assert_int_equal(append(f, "vehicle-1"), 0);
    assert_int_equal(append(f, "lorry-1"), E_MOVED);
}

static void
test_links(void **state)
{
    struct fix *f = *state;

    fill(f, "a-1", 0, MANY);
    (void)run(f, "linked",
              "{\"kind\":\"copy\",\"stream\":\"a-1\",\"to\":\"b-1\",\"mode\":\"link\"," SMALL "}");
    assert_true(was_staged(f, "a-1"));
    assert_numbers(f, "b-1", 0, 1, MANY);
    assert_clean(f, 1, MANY);
}

/* State across all stages: 30 events into one, which names originals of long before; and drops. */
static void
test_scripts(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "a-1", 0, MANY);
    s = run(f, "merged",
            "{\"kind\":\"copy\",\"stream\":\"a-1\",\"to\":\"b-1\"," SMALL
            ",\"transform\":{\"lua\":\""
            "local sum, from = 0, {}\\n"
            "function event(e)\\n"
            "  if e.data.n % 3 == 0 then return false end\\n"
            "  if e.data.n % 1000 == 1 then sum = sum + e.data.n from[#from + 1] = e.ordinal end\\n"
            "  return e\\n"
            "end\\n"
            "function finish()\\n"
            "  return {type = 'Sum', data = {n = sum}, origins = from}\\n"
            "end\"}}");
    if (s.parked != 0) {
        struct log_read  read = {.stream = slice_str("$surgery-merged-parked")};
        struct log_iter *it = NULL;
        struct log_event e;

        assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
        assert_int_equal(log_iter_next(it, &e, &f->err), 0);
        fail_msg("%.*s", SLICE_FMT(e.data));
    }
    assert_int_equal(s.copies, MANY / 3 * 2 + 1);
    assert_clean(f, 1, s.copies);
}

/* A rewrite in place has no other stream to be filled. */
static void
test_rewrite(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "a-1", 0, MANY);
    s = run(f, "here",
            "{\"kind\":\"rewrite\",\"stream\":\"a-1\"," SMALL
            ",\"transform\":[{\"rename\":\"B\"}]}");
    assert_int_equal(s.streams, 1); /* up to what a commit may have */
    assert_clean(f, 1, MANY);
}

/* writers and readers meanwhile */

struct writer {
    struct fix *f;
    atomic_bool stop;
    unsigned    next; /* the numbers below it were acknowledged */
};

static void *
write_on(void *arg)
{
    struct writer *w = arg;

    while (!atomic_load(&w->stop) && w->next < 2 * MANY) {
        char                 data[24];
        struct log_new_event e = {.flags = LOG_JSON};
        struct log_write     write = {
                .stream = slice_str("a-1"), .expected = LOG_ANY, .events = &e, .count = 1};
        struct log_req req = {.writes = &write, .write_count = 1};

        (void)snprintf(data, sizeof data, "{\"n\":%u}", w->next);
        e.type = slice_str(w->next % 2 == 0 ? "A" : "B");
        e.data = slice_str(data);
        if (log_append(w->f->log, &req) == E_MOVED)
            break;
        if (req.rc != 0)
            fail_msg("append: %s", req.err.text);
        w->next++;
    }
    return NULL;
}

struct follower {
    struct fix *f;
    const char *stream, *category;
    atomic_bool stop;
    unsigned    next;
};

/* Reads b-1 by position, live: each number once, in order. */
static void *
follow(void *arg)
{
    struct follower *r = arg;
    struct log_read  read = {.stream = slice_str(r->stream),
                             .filter.category = slice_str(r->category)};
    struct log_iter *it = NULL;
    struct log_event e;
    struct err       err;
    bool             last = false;

    if (log_iter_open(r->f->log, &read, &it, &err) != 0)
        fail_msg("read: %s", err.text);
    for (;;) {
        int rc = log_iter_next(it, &e, &err);

        if (rc == E_END && last)
            break;
        last = atomic_load(&r->stop);
        if (rc == E_END) {
            (void)sched_yield();
            continue;
        }
        if (rc != 0)
            fail_msg("read: %s", err.text);
        if (!slice_is(e.stream, "b-1") || !is_counted(&e))
            continue;
        if (number_of(&e) != r->next)
            fail_msg("%u where %u should be", number_of(&e), r->next);
        r->next++;
    }
    log_iter_close(it);
    return NULL;
}

static void
test_meanwhile(void **state)
{
    struct fix     *f = *state;
    struct writer   w = {.f = f, .next = MANY};
    struct follower readers[3] = {
        {f, "", "", false, 0}, {f, "", "b", false, 0}, {f, "$ce-b", "", false, 0}};
    pthread_t writer, threads[3];

    fill(f, "a-1", 0, MANY);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, follow, &readers[i]), 0);
    assert_int_equal(pthread_create(&writer, NULL, write_on, &w), 0);
    (void)run(f, "busy", COPY);
    atomic_store(&w.stop, true);
    assert_int_equal(pthread_join(writer, NULL), 0);
    assert_true(was_staged(f, "a-1"));
    assert_numbers(f, "b-1", 0, 1, w.next);
    assert_clean(f, 1, w.next);
    for (int i = 0; i < 3; i++) {
        atomic_store(&readers[i].stop, true);
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(readers[i].next, w.next);
    }
}

/* Each event once for who skips copies, while the originals are there and after they are gone. */
static void
assert_skipped(struct fix *f, unsigned count)
{
    struct log_read  read = {.skip_moved = true};
    struct log_iter *it = NULL;
    struct log_event e;
    unsigned         n = 0;

    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    while (log_iter_next(it, &e, &f->err) == 0) {
        if (!is_counted(&e))
            continue;
        if (number_of(&e) != n)
            fail_msg("%u where %u should be", number_of(&e), n);
        n++;
    }
    log_iter_close(it);
    assert_int_equal(n, count);
}

static void
test_consumers(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;

    padded = true;
    fill(f, "a-1", 0, 5 * MANY);
    padded = false;
    (void)run(f, "one", COPY);
    assert_skipped(f, 5 * MANY);
    assert_int_equal(stream_drop(f->surgery, &f->err), 0);
    (void)wait_end(f, STREAM_DROPPED);
    assert_skipped(f, 5 * MANY);
    fill(f, "pad", 0, 4 * MANY);
    assert_int_equal(log_scavenge_start(f->log, &conf, &f->err), 0);
    do
        log_scavenge_status(f->log, &s);
    while (s.state == LOG_SCAVENGE_RUNNING);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    assert_true(s.events > MANY);
    {
        struct log_read  read = {.skip_moved = true, .filter.category = slice_str("a")};
        struct log_iter *it = NULL;
        struct log_event e;
        unsigned         n = 0;

        assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
        while (log_iter_next(it, &e, &f->err) == 0) {
            assert_int_equal(number_of(&e), n);
            n++;
        }
        log_iter_close(it);
        assert_int_equal(n, 5 * MANY);
    }
}

/* cut off */

static void
test_goes_on(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "truck-1", 0, 10 * MANY);
    for (int i = 0; i < 3; i++) { /* wherever it is */
        if (i == 0)
            begin(f, "cut", SPLIT);
        else
            assert_int_equal(stream_open(&f->env, f->log, slice_str("cut"), &f->surgery, &f->err),
                             0);
        stream_close(f->surgery);
        f->surgery = NULL;
        log_close(f->log);
        open_log(f);
    }
    assert_int_equal(stream_open(&f->env, f->log, slice_str("cut"), &f->surgery, &f->err), 0);
    s = wait_end(f, STREAM_DONE);
    assert_int_equal(s.parked, 0);
    assert_numbers(f, "vehicle-1", 0, 2, 5 * MANY);
    assert_numbers(f, "engine-1", 1, 2, 5 * MANY);
    assert_clean(f, 1, 10 * MANY);
}

static void
test_cancel(void **state)
{
    struct fix       *f = *state;
    struct log_stream info;
    int               rc;

    fill(f, "a-1", 0, 20 * MANY);
    begin(f, "off", COPY);
    rc = stream_cancel(f->surgery, &f->err);
    if (rc != 0) { /* it was done before */
        assert_int_equal(rc, E_STATE);
        return;
    }
    (void)wait_end(f, STREAM_CANCELLED);
    if (log_stream_info(f->log, slice_str("b-1"), &info, &f->err) == 0) {
        assert_clean(f, 1, 20 * MANY);
        return;
    }
    /* Nothing of it has been. */
    assert_int_equal(append(f, "a-1"), 0);
    assert_int_equal(append(f, "b-1"), 0);
}

static void
test_disk_full(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct log_stream    info;

    fill(f, "a-1", 0, 20 * MANY);
    atomic_store(&disk_full, true); /* soon, with segments of 2 MiB */
    begin(f, "full", COPY);
    do
        stream_get_status(f->surgery, &s);
    while (s.error[0] == '\0');
    assert_int_equal(s.state, STREAM_RUNNING);
    assert_non_null(strstr(s.error, "space"));
    assert_int_equal(log_stream_info(f->log, slice_str("b-1"), &info, &f->err), E_NOTFOUND);
    assert_int_equal(log_stream_info(f->log, slice_str("a-1"), &info, &f->err), 0);
    assert_int_equal(info.flags & LOG_STREAM_MOVED, 0);
    atomic_store(&disk_full, false);
    s = wait_end(f, STREAM_DONE);
    assert_int_equal(s.parked, 0);
    assert_numbers(f, "b-1", 0, 1, 20 * MANY);
    assert_clean(f, 1, 20 * MANY);
}

static void
test_target_is_there(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "a-1", 0, MANY);
    assert_int_equal(append(f, "b-1"), 0);
    s = run(f, "there", COPY);
    assert_int_equal(s.parked, 1);
    assert_int_equal(append(f, "a-1"), 0);
}

static void
test_plan(void **state)
{
    struct fix *f = *state;
    struct buf  out = {0};

    fill(f, "truck-1", 0, MANY);
    assert_int_equal(
        stream_plan(&f->env, f->log, slice_str("dry"), slice_str(SPLIT), 0, NULL, &out, &f->err),
        0);
    buf_add_byte(&out, '\0');
    assert_non_null(strstr((char *)out.data, "\"streams\":1,\"targets\":2,\"events_before\":3000,"
                                             "\"events_after\":3000"));
    buf_fini(&out);
}

/* Only what the condition names; what it does not stays where it is. */
static void
test_where(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct log_stream    info;
    struct buf           out = {0};
    const char          *spec = "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\"," SMALL
                       ",\"where\":{\"type\":\"B\",\"data.n\":{\"lt\":2500}}}";

    fill(f, "a-1", 0, MANY);
    fill(f, "a-2", 0, 1); /* an A */
    fill(f, "a-3", 0, 2);
    assert_int_equal(
        stream_plan(&f->env, f->log, slice_str("dry"), slice_str(spec), 0, NULL, &out, &f->err), 0);
    buf_add_byte(&out, '\0');
    assert_non_null(strstr((char *)out.data, "\"streams\":2,\"targets\":2,\"events_before\":1251,"
                                             "\"events_after\":1251"));
    assert_non_null(strstr((char *)out.data, "\"skipped\":1"));
    buf_fini(&out);
    s = run(f, "some", spec);
    assert_int_equal(s.streams, 2);
    assert_int_equal(s.skipped, 1);
    assert_true(was_staged(f, "a-1"));
    assert_numbers(f, "b-1", 1, 2, 1250);
    assert_numbers(f, "b-3", 1, 2, 1);
    assert_int_equal(append(f, "a-1"), E_MOVED);
    assert_int_equal(append(f, "a-2"), 0);
    assert_int_equal(log_stream_info(f->log, slice_str("b-2"), &info, &f->err), E_NOTFOUND);
    assert_clean(f, 2, 1251);
    assert_int_equal(stream_drop(f->surgery, &f->err), E_STATE);
    assert_int_equal(stream_spec_check(slice_str("x"),
                                       slice_str("{\"kind\":\"copy\",\"stream\":\"a\",\"to\":\"b\","
                                                 "\"keep_s\":9,\"where\":{\"type\":\"B\"}}"),
                                       NULL, &f->err),
                     E_SCHEMA);
    assert_int_equal(stream_spec_check(slice_str("x"),
                                       slice_str("{\"kind\":\"copy\",\"stream\":\"a\",\"to\":\"b\","
                                                 "\"where\":{\"colour\":\"B\"}}"),
                                       NULL, &f->err),
                     E_SCHEMA);
    assert_int_equal(f->err.kind, ERR_DATA);
}

/* A rewrite takes a stream whole, where the condition names one of its events. */
static void
test_where_in_place(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "a-1", 0, 4);
    fill(f, "a-2", 0, 1);
    s = run(f, "some",
            "{\"kind\":\"rewrite\",\"category\":\"a\",\"where\":{\"type\":\"B\"},"
            "\"transform\":[{\"when\":{\"type\":\"B\"},\"drop\":true}]}");
    assert_int_equal(s.streams, 1);
    assert_int_equal(s.skipped, 1);
    assert_numbers(f, "a-1", 0, 2, 2);
    assert_clean(f, 1, 2);
}

static void
test_a_million(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "a-1", 0, 1000000);
    s = run(f, "large", "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\"}");
    assert_int_equal(s.streams, 1);
    assert_int_equal(s.copies, 1000000);
    assert_true(was_staged(f, "a-1"));
    assert_numbers(f, "b-1", 0, 1, 1000000);
    assert_clean(f, 1, 1000000);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_split_and_join, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scripts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rewrite, setup, teardown),
        cmocka_unit_test_setup_teardown(test_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_consumers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_target_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plan, setup, teardown),
        cmocka_unit_test_setup_teardown(test_where, setup, teardown),
        cmocka_unit_test_setup_teardown(test_where_in_place, setup, teardown),
    };
    const struct CMUnitTest large[] = {
        cmocka_unit_test_setup_teardown(test_a_million, setup, teardown),
    };

    (void)argv;
    return argc > 1 ? cmocka_run_group_tests_name("stages_large", large, NULL, NULL)
                    : cmocka_run_group_tests_name("stages", tests, NULL, NULL);
}
