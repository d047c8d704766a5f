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

#include "tests/surgery_fix.h"

#define MANY 3000u /* events: some stages of 64 KiB */
#define BATCH 1000u
#define SMALL "\"commit_bytes\":65536"
#define SPLIT                                                                                      \
    "{\"kind\":\"split\",\"category\":\"truck\",\"to\":\"vehicle-{key}\"," SMALL ","               \
    "\"transform\":[{\"when\":{\"type\":\"B\"},\"route\":\"engine-{key}\"}]}"
#define COPY "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\"," SMALL "}"

#define PAD "________________________________" /* a stub has to be shorter than its event */

static bool padded;

/* So many events to the stream, of types A and B by turns: data has a number from `first` on. */
static void
fill_one(struct fix *f, const char *stream, unsigned first, unsigned count)
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

static void
test_copy(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill_one(f, "a-1", 0, MANY);
    fill_one(f, "a-2", 0, 3);
    s = run(f, "one", COPY);
    assert_int_equal(s.streams, 2);
    assert_int_equal(s.parked, 0);
    assert_int_equal(s.copies, MANY + 3);
    assert_int_equal(s.events, MANY + 3);
    assert_true(was_staged(f, "a-1"));
    assert_false(was_staged(f, "a-2"));
    assert_numbers(f, "b-1", 0, 1, MANY);
    assert_int_equal(append(f, "a-1", "X", "1"), E_MOVED);
    assert_int_equal(append(f, "b-1", "X", "1"), 0);
    assert_clean(f, 2, MANY + 3);
}

static void
test_split_and_join(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill_one(f, "truck-1", 0, MANY);
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
    assert_int_equal(append(f, "vehicle-1", "X", "1"), 0);
    assert_int_equal(append(f, "lorry-1", "X", "1"), E_MOVED);
}

static void
test_links(void **state)
{
    struct fix *f = *state;

    fill_one(f, "a-1", 0, MANY);
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

    fill_one(f, "a-1", 0, MANY);
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
    if (s.parked != 0)
        assert_parked(f, "merged", "nothing is");
    assert_int_equal(s.copies, MANY / 3 * 2 + 1);
    assert_clean(f, 1, s.copies);
}

/* A rewrite in place has no other stream to be filled. */
static void
test_rewrite(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill_one(f, "a-1", 0, MANY);
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

    fill_one(f, "a-1", 0, MANY);
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

/* Two at once on one large stream: it goes with one of them, whole. */
static void
test_two_at_once(void **state)
{
    struct fix          *f = *state;
    struct surgery      *other = NULL;
    struct stream_status s;
    bool                 first;

    fill_one(f, "truck-1", 0, 5 * MANY);
    assert_int_equal(begin(f, "one", SPLIT), 0);
    assert_int_equal(stream_begin(&f->env, f->log, slice_str("two"),
                                  slice_str("{\"kind\":\"copy\",\"category\":\"truck\","
                                            "\"to\":\"lorry-{key}\"," SMALL "}"),
                                  &other, &f->err),
                     0);
    (void)wait_end(f, STREAM_DONE);
    stream_wait(other, WAIT_US);
    stream_get_status(other, &s);
    assert_int_equal(s.state, STREAM_DONE);
    first = there(f, "vehicle-1");
    assert_int_equal(there(f, "engine-1"), first);
    assert_int_equal(there(f, "lorry-1"), !first);
    assert_int_equal(s.streams, !first);
    if (first) {
        assert_numbers(f, "vehicle-1", 0, 2, 5 * MANY / 2);
        assert_numbers(f, "engine-1", 1, 2, 5 * MANY / 2);
    } else {
        assert_numbers(f, "lorry-1", 0, 1, 5 * MANY);
    }
    stream_close(other);
}

/* Each event once for who skips copies, while the originals are there and after they are gone. */
static void
assert_skipped(struct fix *f, const char *prefix, unsigned count)
{
    struct log_read  read = {.skip_moved = true, .filter.prefix = slice_str(prefix)};
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
    struct fix *f = *state;

    padded = true;
    fill_one(f, "a-1", 0, 5 * MANY);
    padded = false;
    (void)run(f, "one", COPY);
    assert_skipped(f, "", 5 * MANY);
    assert_int_equal(stream_drop(f->surgery, &f->err), 0);
    (void)wait_end(f, STREAM_DROPPED);
    assert_skipped(f, "", 5 * MANY);
    assert_true(scavenge(f) > MANY);
    assert_skipped(f, "a-", 5 * MANY);
    assert_skipped(f, "b-", 5 * MANY); /* who asks for the new streams only */
}

/* How far it is with one large stream, and how long that will take. */
static void
test_progress(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct buf           json = {0};

    fill_one(f, "a-1", 0, 10 * MANY);
    assert_int_equal(begin(f, "slow",
                           "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\"," SMALL
                           ",\"max_events_per_s\":2000}"),
                     0);
    do {
        stream_get_status(f->surgery, &s);
        (void)sched_yield();
    } while (s.left_s == UINT64_MAX);
    assert_string_equal(s.staged, "a-1");
    assert_int_equal(s.staged_all, 10 * MANY);
    assert_in_range(s.staged_events, 1, 10 * MANY - 1);
    assert_in_range(s.left_s, 1, 10 * MANY);
    assert_true(s.events_per_s > 0);
    assert_int_equal(s.events, 0); /* nothing of it is moved yet */
    /* Meanwhile others write to the original, and not to what is being filled. */
    assert_int_equal(append(f, "a-1", "X", "1"), 0);
    assert_int_equal(append(f, "b-1", "X", "1"), E_BUSY);
    assert_false(there(f, "b-1"));
    stream_status_json(&s, &json);
    buf_add_byte(&json, '\0');
    if (strstr((char *)json.data, "\"staged\":{\"stream\":\"a-1\",\"events\":") == NULL)
        fail_msg("%s", (char *)json.data);
    buf_fini(&json);
    stream_throttle(f->surgery, UINT64_MAX, 0);
    s = wait_end(f, STREAM_DONE);
    assert_int_equal(s.events, 10 * MANY + 1);
    assert_int_equal(s.staged_all, 0);
    assert_clean(f, 1, 10 * MANY + 1);
}

/* Three at once, of which a low rate needs one: whoever ends last goes on, needed or not. */
static void
test_needed(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    for (int i = 1; i <= 3; i++) {
        char stream[8];

        (void)snprintf(stream, sizeof stream, "a-%d", i);
        fill_one(f, stream, 0, 5 * MANY);
    }
    assert_int_equal(begin(f, "slow",
                           "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\"," SMALL
                           ",\"max_events_per_s\":900}"),
                     0);
    do {
        stream_get_status(f->surgery, &s);
        (void)sched_yield();
    } while (s.events_per_s == 0);
    stream_throttle(f->surgery, UINT64_MAX, 0);
    s = wait_end(f, STREAM_DONE);
    assert_int_equal(s.events, 15 * MANY);
    assert_clean(f, 3, 15 * MANY);
}

static void
route_on(struct fix *f, const char *stream, unsigned n, const char *type)
{
    char data[24];

    (void)snprintf(data, sizeof data, "{\"n\":%u}", n);
    if (append(f, stream, type, data) != 0)
        fail_msg("append: %s", f->err.text);
}

#define ROUTED                                                                                     \
    "{\"kind\":\"split\",\"category\":\"a\",\"to\":\"b-{key}\"," SMALL                             \
    ",\"transform\":[{\"when\":{\"type\":\"B\"},\"route\":\"c-{key}\"},"                           \
    "{\"when\":{\"type\":\"D\"},\"route\":\"d-{key}\"}],\"old_writers\":\"route\"}"

static void
audit_all(struct fix *f, uint64_t events)
{
    struct stream_audit a = audit(f);

    assert_int_equal(a.streams, 1);
    assert_int_equal(a.copies + a.newer, events);
}

/* The old name goes on: what it has before, meanwhile and after is in the targets too. */
static void
test_routed(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct writer        w = {.f = f, .next = MANY};
    pthread_t            writer;
    unsigned             n;

    fill_one(f, "a-1", 0, MANY);
    assert_int_equal(begin(f, "cut", ROUTED), 0);
    close_log(f); /* wherever it is */
    open_log(f, true);
    assert_int_equal(pthread_create(&writer, NULL, write_on, &w), 0);
    assert_int_equal(again(f, "cut"), 0);
    s = wait_end(f, STREAM_DONE);
    atomic_store(&w.stop, true);
    assert_int_equal(pthread_join(writer, NULL), 0);
    assert_int_equal(s.parked, 0);
    assert_int_equal(s.streams, 1);
    n = w.next + w.next % 2;
    if (n > w.next)
        route_on(f, "a-1", w.next, "B");
    assert_int_equal(flags_of(f, "a-1"), LOG_STREAM_ROUTED);
    assert_int_equal(flags_of(f, "b-1"), LOG_STREAM_FED);
    route_on(f, "a-1", n, "A");
    route_on(f, "c-1", n + 1, "B");
    route_on(f, "a-1", n + 2, "D"); /* a target that is new */
    assert_numbers(f, "b-1", 0, 2, n / 2 + 1);
    assert_numbers(f, "c-1", 1, 2, n / 2 + 1);
    audit_all(f, n + 3);
    assert_skipped(f, "", n + 2);
    assert_int_equal(stream_end_routing(f->surgery, &f->err), 0);
    (void)wait_end(f, STREAM_CLOSED);
    audit_all(f, n + 3);
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    assert_int_equal(wait_end(f, STREAM_ROLLED_BACK).parked, 0);
    assert_int_equal(append(f, "a-1", "A", "1"), 0);
}

/* cut off */

static void
test_goes_on(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill_one(f, "truck-1", 0, 10 * MANY);
    for (int i = 0; i < 3; i++) { /* wherever it is */
        if (i == 0)
            assert_int_equal(begin(f, "cut", SPLIT), 0);
        else
            assert_int_equal(again(f, "cut"), 0);
        close_log(f);
        open_log(f, true);
    }
    assert_int_equal(again(f, "cut"), 0);
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

    fill_one(f, "a-1", 0, 20 * MANY);
    assert_int_equal(begin(f, "off", COPY), 0);
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
    assert_int_equal(append(f, "a-1", "X", "1"), 0);
    assert_int_equal(append(f, "b-1", "X", "1"), 0);
}

static void
test_disk_full(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct log_stream    info;

    fill_one(f, "a-1", 0, 20 * MANY);
    set_disk_full(true); /* soon, with segments of 2 MiB */
    assert_int_equal(begin(f, "full", COPY), 0);
    do
        stream_get_status(f->surgery, &s);
    while (s.error[0] == '\0');
    assert_int_equal(s.state, STREAM_RUNNING);
    assert_non_null(strstr(s.error, "space"));
    assert_int_equal(log_stream_info(f->log, slice_str("b-1"), &info, &f->err), E_NOTFOUND);
    assert_int_equal(log_stream_info(f->log, slice_str("a-1"), &info, &f->err), 0);
    assert_int_equal(info.flags & LOG_STREAM_MOVED, 0);
    set_disk_full(false);
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

    fill_one(f, "a-1", 0, MANY);
    assert_int_equal(append(f, "b-1", "X", "1"), 0);
    s = run(f, "there", COPY);
    assert_int_equal(s.parked, 1);
    assert_int_equal(append(f, "a-1", "X", "1"), 0);
}

static void
test_plan(void **state)
{
    struct fix *f = *state;

    fill_one(f, "truck-1", 0, MANY);
    assert_plan(f, SPLIT, 0,
                "\"streams\":1,\"targets\":2,\"events_before\":3000,\"events_after\":3000");
}

/* Only what the condition names; what it does not stays where it is. */
static void
test_where(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct log_stream    info;
    const char          *spec = "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\"," SMALL
                       ",\"where\":{\"type\":\"B\",\"data.n\":{\"lt\":2500}}}";

    fill_one(f, "a-1", 0, MANY);
    fill_one(f, "a-2", 0, 1); /* an A */
    fill_one(f, "a-3", 0, 2);
    assert_plan(f, spec, 0,
                "\"streams\":2,\"targets\":2,\"events_before\":1251,\"events_after\":1251");
    assert_plan(f, spec, 0, "\"skipped\":1");
    s = run(f, "some", spec);
    assert_int_equal(s.streams, 2);
    assert_int_equal(s.skipped, 1);
    assert_true(was_staged(f, "a-1"));
    assert_numbers(f, "b-1", 1, 2, 1250);
    assert_numbers(f, "b-3", 1, 2, 1);
    assert_int_equal(append(f, "a-1", "X", "1"), E_MOVED);
    assert_int_equal(append(f, "a-2", "X", "1"), 0);
    assert_int_equal(log_stream_info(f->log, slice_str("b-2"), &info, &f->err), E_NOTFOUND);
    assert_clean(f, 2, 1251);
    /* Dropped, the rest comes again, and who skips copies is given all of it once. */
    assert_int_equal(stream_drop(f->surgery, &f->err), 0);
    s = wait_end(f, STREAM_DROPPED);
    assert_int_equal(s.events, 1251);
    assert_int_equal(s.copies, MANY - 1250 + 1);
    assert_stream(f, "a-3", "MigratedFrom A0 StreamMovedTo");
    assert_int_equal(append(f, "a-3", "A", "1"), E_MOVED);
    assert_clean(f, 2, 1251);
    assert_skipped(f, "a-1", MANY);
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

    fill_one(f, "a-1", 0, 4);
    fill_one(f, "a-2", 0, 1);
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

    fill_one(f, "a-1", 0, 1000000);
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
        cmocka_unit_test_setup_teardown(test_two_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_consumers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_progress, setup, teardown),
        cmocka_unit_test_setup_teardown(test_needed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_routed, setup, teardown),
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
