/*
 * Stream surgery: each operation from start to end over a log of its own, who writes meanwhile,
 * what cannot be moved, going on after a cut, the audit and the way back.
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

#include "env/env_real.h"
#include "tests/surgery_fix.h"

static int
append_full(struct fix *f, const char *stream, int64_t expected, const char *type, const char *data,
            const char *meta, uint32_t flags)
{
    return append_event(f, stream, expected,
                        &(struct log_new_event){.type = slice_str(type),
                                                .data = slice_str(data),
                                                .meta = slice_str(meta),
                                                .flags = flags});
}

static void
assert_bad(struct fix *f, const char *spec, const char *why)
{
    assert_int_not_equal(begin(f, "bad", spec), 0);
    if (strstr(f->err.text, why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", f->err.text, why);
    assert_null(f->surgery);
}

/* The event's raw metadata, data, and its id. */
static struct ox_id
event_at(struct fix *f, const char *stream, uint64_t version, struct buf *data, struct buf *meta)
{
    struct log_read  read = {.stream = slice_str(stream), .from = version, .raw = true};
    struct log_iter *it = NULL;
    struct log_event e;
    struct ox_id     id;

    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_int_equal(e.version, version);
    buf_clear(data);
    buf_clear(meta);
    buf_add_slice(data, e.data);
    buf_add_slice(meta, e.meta);
    id = e.id;
    log_iter_close(it);
    return id;
}

static void
test_copy(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct buf           data = {0}, meta = {0};
    struct ox_id         before, after;

    fill(f, "a", 3, 3);
    assert_int_equal(append_full(f, "a-1", LOG_ANY, "C", "bytes", "{ \"by\" : \"me\" }", 0), 0);
    s = run(f, "one",
            "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\",\"reason\":\"why\"}");
    assert_int_equal(s.streams, 3);
    assert_int_equal(s.events, 10);
    assert_int_equal(s.copies, 10);
    assert_int_equal(s.parked, 0);
    assert_stream(f, "a-1", "A0 B1 A2 C:bytes StreamMovedTo");
    assert_stream(f, "b-1", "MigratedFrom A0 B1 A2 C:bytes");
    before = event_at(f, "a-1", 3, &data, &meta);
    after = event_at(f, "b-1", 4, &data, &meta);
    assert_true(id_eq(&before, &after));
    assert_non_null(
        memmem(meta.data, meta.len, "{ \"by\" : \"me\",\"$copiedFrom\":[{\"stream\":\"a-1\",", 44));
    (void)event_at(f, "a-1", 4, &data, &meta);
    assert_true(slice_is(buf_slice(&data),
                         "{\"streams\":[\"b-1\"],\"reason\":\"why\",\"surgery\":\"one\"}"));
    (void)event_at(f, "b-1", 0, &data, &meta);
    assert_true(slice_is(buf_slice(&data),
                         "{\"stream\":\"a-1\",\"first\":0,\"last\":3,\"surgery\":\"one\"}"));
    assert_int_equal(append(f, "a-1", "A", "1"), E_MOVED);
    assert_int_equal(append(f, "b-1", "A", "1"), 0);
    assert_clean(f, 3, 10);

    /* Once more: what is carried on is the first original. */
    s = run(f, "two", "{\"kind\":\"copy\",\"category\":\"b\",\"to\":\"c-{key}\"}");
    assert_int_equal(s.copies, 11);
    (void)event_at(f, "c-1", 4, &data, &meta);
    assert_non_null(memmem(meta.data, meta.len, "\"$copiedFrom\":[{\"stream\":\"a-1\",", 31));
    assert_null(memmem(meta.data, meta.len, "\"b-1\"", 5)); /* an id may have b-1 in it */
    assert_clean(f, 3, 11);
    buf_fini(&data);
    buf_fini(&meta);
}

#define SPLIT                                                                                      \
    "{\"kind\":\"split\",\"category\":\"truck\",\"to\":\"vehicle-{key}\",\"transform\":["          \
    "{\"when\":{\"type\":\"B\"},\"route\":\"engine-{key}\"}]}"

/* A list that readers would not take for one does not stand for the original. */
static void
test_copy_of_a_false_copy(void **state)
{
    struct fix *f = *state;
    struct buf  data = {0}, meta = {0};

    assert_int_equal(append_full(f, "a-1", LOG_ANY, "A", "1",
                                 "{\"$copiedFrom\":[{\"nonsense\":1}],\"by\":\"me\"}", 0),
                     0);
    (void)run(f, "one", "{\"kind\":\"copy\",\"stream\":\"a-1\",\"to\":\"b-{key}\"}");
    (void)event_at(f, "b-1", 1, &data, &meta);
    assert_non_null(
        memmem(meta.data, meta.len, "{\"by\":\"me\",\"$copiedFrom\":[{\"stream\":\"a-1\",", 42));
    assert_clean(f, 1, 1);
    buf_fini(&data);
    buf_fini(&meta);
}

static void
test_split_and_join(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "truck", 40, 5);
    s = run(f, "apart", SPLIT);
    assert_int_equal(s.streams, 40);
    assert_int_equal(s.copies, 200);
    assert_stream(f, "vehicle-7", "MigratedFrom A0 A2 A4");
    assert_stream(f, "engine-7", "MigratedFrom B1 B3");
    assert_clean(f, 40, 200);
    s = run(f, "together",
            "{\"kind\":\"join\",\"category\":[\"vehicle\",\"engine\"],\"to\":\"lorry-{key}\"}");
    assert_int_equal(s.streams, 80);
    assert_int_equal(s.copies, 200);
    assert_stream(f, "lorry-7",
                  "MigratedFrom MigratedFrom A0 A2 A4 B1 "
                  "B3");
    assert_clean(f, 80, 200);
}

static void
test_rewrite(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct buf           data = {0}, meta = {0};
    struct log_stream    info;

    fill(f, "a", 2, 3);
    s = run(f, "anew",
            "{\"kind\":\"rewrite\",\"category\":\"a\",\"transform\":["
            "{\"when\":{\"type\":\"B\"},\"drop\":true},{\"rename\":\"Z\"}]}");
    assert_int_equal(s.copies, 4);
    assert_stream(f, "a-0", "MigratedFrom Z0 Z2");
    assert_int_equal(log_stream_info(f->log, slice_str("a-0"), &info, &f->err), 0);
    assert_int_equal(info.first, 4); /* three events, then Invalidated */
    (void)event_at(f, "a-0", 3, &data, &meta);
    assert_true(slice_is(buf_slice(&data),
                         "{\"stream\":\"a-0\",\"first\":0,\"last\":2,\"surgery\":\"anew\"}"));
    assert_int_equal(append(f, "a-0", "A", "1"), 0);
    assert_clean(f, 2, 4);
    buf_fini(&data);
    buf_fini(&meta);
}

/* Three into one, with state across the stream; and scripts that go wrong. */
static void
test_scripts(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct buf           data = {0}, meta = {0};

    fill(f, "a", 2, 7);
    s = run(f, "merged",
            "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\",\"transform\":{\"lua\":\""
            "function begin(state) state.sum = 0 state.n = 0 end\\n"
            "function event(e, state) state.sum = state.sum + e.data.n state.n = state.n + 1\\n"
            "if state.n % 3 ~= 0 then return false end\\n"
            "e.type = 'Z' e.data = {sum = state.sum} return e end\"}}");
    assert_int_equal(s.parked, 0);
    assert_stream(f, "b-1", "MigratedFrom Z:{\"sum\":3} Z:{\"sum\":15}");
    assert_clean(f, 2, 4);

    fill(f, "c", 1, 2);
    s = run(f, "loops",
            "{\"kind\":\"rewrite\",\"category\":\"c\",\"transform\":{\"lua\":\""
            "function event(e) while true do end end\"}}");
    assert_int_equal(s.parked, 1);
    s = run(f, "throws",
            "{\"kind\":\"rewrite\",\"category\":\"c\",\"transform\":{\"lua\":\""
            "function event(e) error('no') end\"}}");
    assert_int_equal(s.parked, 1);
    s = run(f, "grows",
            "{\"kind\":\"rewrite\",\"category\":\"c\",\"transform\":{\"lua\":\""
            "function event(e) local t = {} while true do t[#t + 1] = e.data end end\"}}");
    assert_int_equal(s.parked, 1);
    s = run(f, "nonsense",
            "{\"kind\":\"rewrite\",\"category\":\"c\",\"transform\":{\"lua\":\""
            "function event(e) return 7 end\"}}");
    assert_int_equal(s.parked, 1);
    s = run(f, "astray",
            "{\"kind\":\"rewrite\",\"category\":\"c\",\"transform\":{\"lua\":\""
            "function event(e) e.to = 'elsewhere' return e end\"}}");
    assert_int_equal(s.parked, 1);
    assert_false(there(f, "elsewhere"));
    assert_stream(f, "c-0", "A0 B1");
    buf_fini(&data);
    buf_fini(&meta);
}

static void
test_links(void **state)
{
    struct fix *f = *state;

    fill(f, "a", 1, 2);
    (void)run(f, "linked",
              "{\"kind\":\"copy\",\"stream\":\"a-0\",\"to\":\"b-{key}\",\"mode\":\"link\"}");
    assert_stream(f, "b-0", "MigratedFrom 0@a-0 1@a-0");
    assert_int_equal(append(f, "a-0", "A", "1"), E_MOVED);
    assert_clean(f, 1, 2);
    assert_int_equal(stream_drop(f->surgery, &f->err), E_STATE);
}

static void
test_parks(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    char                 spec[400];

    fill(f, "a", 4, 2);
    fill(f, "b", 1, 1);
    assert_int_equal(append(f, "gone-1", "A", "1"), 0);
    assert_int_equal(change(f, "gone-1", LOG_SET_TOMBSTONE), 0);
    assert_int_equal(append_full(f, "a-3", LOG_ANY, "A", "1", "no json", LOG_JSON), 0);
    s = run(f, "some",
            "{\"kind\":\"split\",\"category\":\"a\",\"to\":\"b-{key}\",\"transform\":["
            "{\"when\":{\"stream\":\"a-1\"},\"route\":\"gone-1\"},"
            "{\"when\":{\"stream\":\"a-2\"},\"route\":\"a-2\"}]}");
    assert_int_equal(s.streams, 0);
    assert_int_equal(s.parked, 4);
    assert_int_equal(append(f, "a-0", "A", "1"), 0);
    assert_stream(f, "$surgery-some-parked", "Parked Parked Parked Parked");
    /* A name of the engine's, and one that is too long. */
    s = run(f, "names", "{\"kind\":\"copy\",\"stream\":\"a-0\",\"to\":\"$x\"}");
    assert_int_equal(s.parked, 1);
    (void)snprintf(spec, sizeof spec,
                   "{\"kind\":\"copy\",\"stream\":\"a-0\",\"to\":\"%0253d-{stream}\"}", 7);
    s = run(f, "long", spec);
    assert_int_equal(s.parked, 1);
    assert_int_equal(append(f, "a-0", "A", "2"), 0);
}

/* Names that a script makes up; and a set that names its streams twice. */
static void
test_bad_names(void **state)
{
    static const struct {
        const char *surgery, *to, *why;
    } bad[] = {
        {"empty", "''", ""},
        {"long", "string.rep('x', 256)", "255"},
        {"system", "'$x'", "the engine's"},
        {"bytes", "'\\\\xff'", "UTF-8"},
        {"number", "7", ""},
        {"itself", "'a-0'", "moved itself"},
    };
    struct fix          *f = *state;
    struct stream_status s;
    char                 spec[400];

    fill(f, "a", 1, 2);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        (void)snprintf(spec, sizeof spec,
                       "{\"kind\":\"split\",\"category\":\"a\",\"transform\":{\"may\":[\"route\"],"
                       "\"lua\":\"function event(e) e.to = %s return e end\"}}",
                       bad[i].to);
        s = run(f, bad[i].surgery, spec);
        assert_int_equal(s.parked, 1);
        assert_parked(f, bad[i].surgery, bad[i].why);
        assert_stream(f, "a-0", "A0 B1");
    }
    s = run(f, "twice", "{\"kind\":\"join\",\"category\":[\"a\",\"a\"],\"to\":\"b-{key}\"}");
    assert_int_equal(s.streams, 2); /* each time that it is named */
    assert_int_equal(s.parked, 0);
    assert_stream(f, "b-0", "MigratedFrom A0 B1");
    s = run(f, "again",
            "{\"kind\":\"copy\",\"streams\":[\"b-0\",\"b-0\",\"none\"],\"to\":\"c-{key}\"}");
    assert_int_equal(s.copies, 2);
    assert_int_equal(s.parked, 0);
    assert_stream(f, "c-0", "MigratedFrom A0 B1");
    assert_clean(f, 2, 4);
}

static void
test_bad_specs(void **state)
{
    struct fix *f = *state;

    fill(f, "a", 1, 1);
    assert_bad(f, "{", "");
    assert_bad(f, "{\"kind\":\"copy\",\"stream\":\"a-0\"}", "needs \"to\"");
    assert_bad(f, "{\"kind\":\"copy\",\"to\":\"b\"}", "needs one of");
    assert_bad(f, "{\"kind\":\"copy\",\"stream\":\"a-0\",\"to\":\"b\",\"other\":1}", "other");
    assert_bad(f, "{\"kind\":\"copy\",\"stream\":\"a-0\",\"to\":\"{nothing}\"}", "{stream}");
    assert_bad(f, "{\"kind\":\"cut\",\"stream\":\"a-0\",\"to\":\"b\"}", "must be copy");
    assert_bad(f, "{\"kind\":\"copy\",\"stream\":\"$x\",\"to\":\"b\"}", "system");
    assert_bad(
        f,
        "{\"kind\":\"join\",\"category\":\"a\",\"to\":\"b-{key}\",\"transform\":[{\"drop\":true}]}",
        "no transform");
    assert_bad(f,
               "{\"kind\":\"split\",\"category\":\"a\",\"to\":\"b-{key}\",\"transform\":["
               "{\"route\":\"c-{key}\",\"rename\":\"X\"}]}",
               "changes none");
    assert_bad(f, "{\"kind\":\"split\",\"category\":\"a\",\"to\":\"b-{key}\"}", "which event");
    assert_bad(f, "{\"kind\":\"join\",\"prefix\":\"a-\",\"to\":\"b-{key}\"}", "one target");
    assert_bad(f, "{\"kind\":\"join\",\"category\":\"a\",\"to\":\"b\"}", "{key}");
    assert_bad(f, "{\"kind\":\"copy\",\"stream\":\"a-0\",\"to\":\"b\",\"old_writers\":\"fence\"}",
               "must be \"reject\"");
    assert_bad(f,
               "{\"kind\":\"copy\",\"stream\":\"a-0\",\"to\":\"b\",\"transform\":[{\"wipe\":1}]}",
               "wipe");
    assert_int_equal(begin(f, "Bad-Name", "{\"kind\":\"copy\",\"stream\":\"a-0\",\"to\":\"b\"}"),
                     E_INVALID);
    (void)run(f, "once", "{\"kind\":\"copy\",\"stream\":\"a-0\",\"to\":\"b\"}");
    assert_int_equal(begin(f, "once", "{\"kind\":\"copy\",\"stream\":\"a-0\",\"to\":\"b\"}"),
                     E_EXISTS);
}

/* A writer that goes on all the while: all that was acknowledged is somewhere, once. */
struct writer {
    struct fix *f;
    atomic_bool stop;
    uint64_t    acked, moved;
};

static void *
write_on(void *arg)
{
    struct writer *w = arg;
    char           name[32], data[32];

    for (unsigned n = 0; !atomic_load(&w->stop); n++) {
        struct log_new_event e = {.type = slice_str("W"), .flags = LOG_JSON};
        struct log_write     write = {.expected = LOG_ANY, .events = &e, .count = 1};
        struct log_req       req = {.writes = &write, .write_count = 1};

        (void)snprintf(name, sizeof name, "truck-%u", n % 20);
        (void)snprintf(data, sizeof data, "{\"w\":%u}", n);
        write.stream = slice_str(name);
        e.data = slice_str(data);
        if (log_append(w->f->log, &req) == 0)
            w->acked++;
        else if (req.rc == E_MOVED)
            w->moved++;
        else
            fail_msg("append: %s", req.err.text);
    }
    return NULL;
}

static int
count_w(struct fix *f, const char *type)
{
    struct log_read  read = {.filter = {.type = slice_str(type)}};
    struct log_iter *it = NULL;
    struct log_event e;
    int              n = 0;

    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    while (log_iter_next(it, &e, &f->err) == 0)
        n += !slice_starts(e.stream, slice_str("truck-"));
    log_iter_close(it);
    return n;
}

static void
test_writers(void **state)
{
    struct fix          *f = *state;
    struct writer        w = {.f = f};
    struct stream_status s;
    pthread_t            thread;

    fill(f, "truck", 20, 4);
    assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
    s = run(f, "busy", SPLIT);
    atomic_store(&w.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(s.streams, 20);
    assert_int_equal(count_w(f, "W"), w.acked);
    assert_clean(f, 20, s.copies);
}

static bool
is_moved_to(struct fix *f, const char *stream, const char *to)
{
    struct buf names = {0};
    bool       yes = log_moved_to(f->log, slice_str(stream), &names, &f->err) == 0 &&
               memmem(names.data, names.len, to, strlen(to)) != NULL;

    buf_fini(&names);
    return yes;
}

/* Two at once over the same streams: each is moved by one of them, whole. */
static void
test_two_at_once(void **state)
{
    struct fix     *f = *state;
    struct surgery *other = NULL;
    char            name[32], to[2][32];

    fill(f, "a", 60, 5);
    assert_int_equal(begin(f, "one", "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\"}"),
                     0);
    assert_int_equal(
        stream_begin(&f->env, f->log, slice_str("two"),
                     slice_str("{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"c-{key}\"}"), &other,
                     &f->err),
        0);
    (void)wait_end(f, STREAM_DONE);
    stream_wait(other, WAIT_US);
    for (unsigned i = 0; i < 60; i++) {
        bool first, second;

        (void)snprintf(name, sizeof name, "a-%u", i);
        (void)snprintf(to[0], sizeof to[0], "b-%u", i);
        (void)snprintf(to[1], sizeof to[1], "c-%u", i);
        first = is_moved_to(f, name, to[0]);
        second = is_moved_to(f, name, to[1]);
        assert_true(first != second);
        assert_int_equal(there(f, to[0]), first);
        assert_int_equal(there(f, to[1]), second);
        assert_stream(f, first ? to[0] : to[1], "MigratedFrom A0 B1 A2 B3 A4");
    }
    stream_close(other);
}

static uint64_t
copies_of(struct fix *f, const char *stream, const char *type)
{
    struct log_read read = {.filter = {.type = slice_str(type)}};
    char            regex[40];
    regex_t         is;
    uint64_t        n;

    (void)snprintf(regex, sizeof regex, "^%s$", stream);
    assert_int_equal(regcomp(&is, regex, REG_EXTENDED | REG_NOSUB), 0);
    read.filter.stream_regex = &is;
    n = count(f, &read);
    regfree(&is);
    return n;
}

/* A surgery's only worker: how often it asked for a rest, after moving something and after not. */
static struct {
    struct fix *f;
    uint64_t (*step)(void *arg);
    void       *arg;
    atomic_uint moved, idle;
} rests;

static uint64_t
watch_rest(void *arg)
{
    uint64_t end = log_end(rests.f->log).v, wait;

    (void)arg;
    wait = rests.step(rests.arg);
    if (wait != ENV_STEP_NOW && wait != ENV_STEP_WAIT)
        (void)atomic_fetch_add(log_end(rests.f->log).v > end ? &rests.moved : &rests.idle, 1);
    return wait;
}

static int
watch_start(struct ox_env *env, const struct ox_task_def *def, struct ox_task **out,
            struct err *err)
{
    struct ox_task_def watched = *def;

    rests.step = def->step;
    rests.arg = def->arg;
    watched.step = watch_rest;
    return env_real()->ops->task_start(env, &watched, out, err);
}

/* A join rests when it moves streams, and not when it is the turn of those that it moved along. */
static void
test_rests_of_a_join(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "a", 4, 2);
    fill(f, "b", 4, 100);
    rests.f = f;
    atomic_store(&rests.moved, 0);
    atomic_store(&rests.idle, 0);
    f->ops.task_start = watch_start;
    s = run(f, "both",
            "{\"kind\":\"join\",\"category\":[\"a\",\"b\"],\"to\":\"c-{key}\","
            "\"workers\":1,\"max_events_per_s\":1000}");
    assert_int_equal(s.events, 408);
    assert_true(atomic_load(&rests.moved) > 0);
    assert_int_equal(atomic_load(&rests.idle), 0);
    f->ops.task_start = env_real()->ops->task_start;
    assert_clean(f, 8, 408);
}

/* Two joins that have a category in common: each of its streams goes into one of them. */
static void
test_joins_that_overlap(void **state)
{
    struct fix          *f = *state;
    struct surgery      *other = NULL;
    struct stream_status s;
    char                 to[2][32];

    fill(f, "a", 40, 3);
    fill(f, "b", 40, 2);
    fill(f, "c", 40, 1);
    assert_int_equal(
        begin(f, "one", "{\"kind\":\"join\",\"category\":[\"b\",\"a\"],\"to\":\"x-{key}\"}"), 0);
    assert_int_equal(
        stream_begin(&f->env, f->log, slice_str("two"),
                     slice_str("{\"kind\":\"join\",\"category\":[\"c\",\"a\"],\"to\":\"y-{key}\"}"),
                     &other, &f->err),
        0);
    (void)wait_end(f, STREAM_DONE);
    stream_wait(other, WAIT_US);
    stream_get_status(other, &s);
    assert_int_equal(s.state, STREAM_DONE);
    assert_int_equal(s.parked, 0);
    for (unsigned i = 0; i < 40; i++) {
        (void)snprintf(to[0], sizeof to[0], "x-%u", i);
        (void)snprintf(to[1], sizeof to[1], "y-%u", i);
        /* a has A B A, b has A B, c has A. */
        assert_int_equal(copies_of(f, to[0], "A") + copies_of(f, to[1], "A"), 4);
        assert_int_equal(copies_of(f, to[0], "B") + copies_of(f, to[1], "B"), 2);
        assert_true(copies_of(f, to[1], "B") == 0 || copies_of(f, to[1], "B") == 1);
    }
    stream_close(other);
}

static void *
write_to_targets(void *arg)
{
    struct writer *w = arg;
    char           name[32];

    for (unsigned n = 0; !atomic_load(&w->stop); n++) {
        struct log_new_event e = {.type = slice_str("X"), .data = slice_str("1")};
        struct log_write     write = {.expected = LOG_ANY, .events = &e, .count = 1};
        struct log_req       req = {.writes = &write, .write_count = 1};

        (void)snprintf(name, sizeof name, "b-%u", n % 40);
        write.stream = slice_str(name);
        if (log_append(w->f->log, &req) != 0)
            fail_msg("append: %s", req.err.text);
        w->acked++;
    }
    return NULL;
}

/* Somebody else writes to the new names meanwhile: before the move they hold it up, after it they
 * append. */
static void
test_target_written_meanwhile(void **state)
{
    struct fix          *f = *state;
    struct writer        w = {.f = f};
    struct stream_status s;
    pthread_t            thread;
    char                 name[32];

    fill(f, "a", 40, 3);
    assert_int_equal(pthread_create(&thread, NULL, write_to_targets, &w), 0);
    s = run(f, "met", "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\"}");
    atomic_store(&w.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(s.streams + s.parked, 40);
    assert_int_equal(count_w(f, "X"), w.acked);
    for (unsigned i = 0; i < 40; i++) {
        struct log_stream info;

        (void)snprintf(name, sizeof name, "a-%u", i);
        assert_int_equal(log_stream_info(f->log, slice_str(name), &info, &f->err), 0);
        if ((info.flags & LOG_STREAM_MOVED) == 0)
            assert_stream(f, name, "A0 B1 A2");
    }
    assert_clean(f, s.streams, s.copies);
}

static void
test_goes_on(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "truck", 30, 2);
    assert_int_equal(begin(f, "cut", SPLIT), 0);
    close_log(f); /* wherever it is */
    open_log(f, true);
    assert_int_equal(again(f, "cut"), 0);
    s = wait_end(f, STREAM_DONE);
    assert_int_equal(s.streams, 30);
    assert_int_equal(s.events, 60);
    assert_int_equal(s.parked, 0);
    assert_clean(f, 30, 60);
    assert_int_equal(again(f, "none"), E_NOTFOUND);
}

static void
test_pause_and_cancel(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    int                  rc;

    fill(f, "truck", 30, 2);
    assert_int_equal(begin(f, "held", SPLIT), 0);
    rc = stream_pause(f->surgery, &f->err);
    stream_get_status(f->surgery, &s);
    if (rc == 0) {
        assert_int_equal(s.state, STREAM_PAUSED);
        assert_int_equal(stream_resume(f->surgery, &f->err), 0);
    } else {
        assert_int_equal(rc, E_STATE); /* it was done before */
    }
    (void)wait_end(f, STREAM_DONE);
    assert_clean(f, 30, 60);
    assert_int_equal(stream_resume(f->surgery, &f->err), E_STATE);
    assert_int_equal(stream_cancel(f->surgery, &f->err), E_STATE);
}

static void
test_rollback(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct buf           name = {0};

    fill(f, "truck", 3, 3);
    (void)run(f, "there", SPLIT);
    assert_int_equal(append(f, "vehicle-1", "A", "9"), 0);
    assert_int_equal(append(f, "engine-1", "B", "8"), 0);
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    s = wait_end(f, STREAM_ROLLED_BACK);
    assert_int_equal(s.parked, 0);
    assert_stream(f, "truck-1",
                  "A0 B1 A2 StreamMovedTo MigratedFrom MigratedFrom A:9 "
                  "B:8");
    assert_int_equal(append(f, "truck-1", "A", "1"), 0);
    assert_int_equal(append(f, "truck-0", "A", "1"), 0);
    assert_int_equal(append(f, "engine-1", "B", "1"), E_MOVED);
    assert_int_equal(log_moved_follow(f->log, slice_str("vehicle-1"), &name, &f->err), 0);
    assert_true(slice_is(buf_slice(&name), "truck-1"));
    buf_fini(&name);
}

static void
test_rollback_of_a_join(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "a", 2, 1);
    fill(f, "b", 2, 1);
    (void)run(f, "both", "{\"kind\":\"join\",\"category\":[\"a\",\"b\"],\"to\":\"c-{key}\"}");
    assert_int_equal(append(f, "c-1", "A", "9"), 0);
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    s = wait_end(f, STREAM_ROLLED_BACK);
    assert_int_equal(s.parked, 2); /* a-1 and b-1: whose is the new event? */
    assert_int_equal(append(f, "a-0", "A", "1"), 0);
    assert_int_equal(append(f, "b-0", "A", "1"), 0);
    assert_int_equal(append(f, "a-1", "A", "1"), E_MOVED);
    assert_int_equal(append(f, "c-0", "A", "1"), E_MOVED);
}

#define ANEW                                                                                       \
    "{\"kind\":\"rewrite\",\"category\":\"a\",\"transform\":["                                     \
    "{\"when\":{\"type\":\"B\"},\"drop\":true},{\"rename\":\"Z\"}]}"

/* In place: the originals again, what came since behind them, under the ids that they had. */
static void
test_rollback_in_place(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;
    struct buf           data = {0}, meta = {0};
    struct ox_id         before, after;

    fill(f, "a", 5, 3);
    assert_int_equal(append(f, "a-9", "A", "{\"n\":7}"), 0);
    (void)run(f, "anew", ANEW);
    assert_int_equal(append(f, "a-1", "A", "9"), 0);
    f->req = (struct log_req){.changes = &(struct log_change){.stream = slice_str("a-2"),
                                                              .expected = LOG_ANY,
                                                              .what = LOG_SET_TRUNCATE,
                                                              .truncate = 6},
                              .change_count = 1};
    assert_int_equal(log_append(f->log, &f->req), 0);
    assert_stream(f, "a-2", "Z2");
    assert_int_equal(change(f, "a-3", LOG_SET_CLOSED), 0);
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    s = wait_end(f, STREAM_ROLLED_BACK);
    assert_int_equal(s.streams, 4);
    assert_int_equal(s.parked, 2);
    assert_parked(f, "anew", "truncated since");
    assert_stream(f, "a-0", "MigratedFrom A0 B1 A2");
    assert_stream(f, "a-1", "MigratedFrom A0 B1 A2 A:9");
    assert_stream(f, "a-2", "Z2");
    assert_stream(f, "a-9", "MigratedFrom A7");
    before = event_at(f, "a-0", 1, &data, &meta);
    after = event_at(f, "a-0", 10, &data, &meta); /* 3, !, ▪, 2, !, ▪, A, B */
    assert_true(id_eq(&before, &after));
    assert_non_null(memmem(meta.data, meta.len, "\"version\":1,", 12));
    (void)event_at(f, "a-0", 8, &data, &meta);
    assert_true(slice_is(
        buf_slice(&data),
        "{\"stream\":\"a-0\",\"first\":0,\"last\":6,\"rollback\":true,\"surgery\":\"anew\"}"));
    assert_int_equal(audit(f).not_moved, 4);
    /* Once more, for those that were parked. */
    assert_int_equal(change(f, "a-3", LOG_SET_OPEN), 0);
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    s = wait_end(f, STREAM_ROLLED_BACK);
    assert_int_equal(s.streams, 1);
    assert_stream(f, "a-3", "MigratedFrom A0 B1 A2");
    assert_stream(f, "a-0", "MigratedFrom A0 B1 A2");
    /* And anew, by another surgery. */
    s = run(f, "anew2", ANEW);
    assert_int_equal(s.streams, 6);
    assert_stream(f, "a-1", "MigratedFrom Z0 Z2 Z:9");
    assert_clean(f, 6, 11);
    buf_fini(&data);
    buf_fini(&meta);
}

/* Who skips copies is given each event once, those too that the rewrite dropped, before and after
 * scavenge; which may also take the originals first, and then nothing comes back. */
static void
test_rollback_in_place_consumers(void **state)
{
    static char         pad[10000], data[10100];
    struct fix         *f = *state;
    struct log_read     read = {.skip_moved = true, .filter.category = slice_str("a")};
    struct stream_audit a;

    memset(pad, 'x', sizeof pad - 1);
    for (unsigned n = 0; n < 8; n++) {
        (void)snprintf(data, sizeof data, "{\"n\":%u,\"pad\":\"%s\"}", n, pad);
        assert_int_equal(append(f, n < 6 ? "a-0" : "a-1", n % 2 == 0 ? "A" : "B", data), 0);
    }
    (void)run(f, "anew", ANEW);
    assert_int_equal(append(f, "a-0", "A", "{\"n\":8}"), 0);
    assert_read(f, &read, "A0 B1 A2 B3 A4 B5 A6 B7 A8");
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    (void)wait_end(f, STREAM_ROLLED_BACK);
    assert_read(f, &read, "A0 B1 A2 B3 A4 B5 A6 B7 A8");
    assert_true(scavenge(f) > 8);
    assert_read(f, &read, "A0 B1 A2 B3 A4 B5 A6 B7 A8");
    assert_stream(f, "a-0", "MigratedFrom A0 B1 A2 B3 A4 B5 A8");
    read.start = read.from = f->req.end.v; /* of what is behind all of it, nothing */
    assert_read(f, &read, "");

    (void)run(f, "anew2", ANEW);
    assert_true(scavenge(f) > 0);
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    assert_int_equal(wait_end(f, STREAM_ROLLED_BACK).parked, 2);
    assert_parked(f, "anew2", "not all there any more");
    assert_int_equal(stream_audit_run(f->surgery, NULL, &a, &f->err), 0);
    assert_int_equal(a.gone, 2);
    assert_int_equal(a.different, 0);
}

/* What a condition took, and links. */
static void
test_rollback_of_some(void **state)
{
    struct fix *f = *state;

    fill(f, "a", 2, 4);
    (void)run(
        f, "some",
        "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\",\"where\":{\"type\":\"B\"}}");
    assert_stream(f, "b-1", "MigratedFrom B1 B3");
    assert_int_equal(append(f, "b-1", "C", "5"), 0);
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    assert_int_equal(wait_end(f, STREAM_ROLLED_BACK).parked, 0);
    assert_stream(f, "a-1", "A0 B1 A2 B3 StreamMovedTo MigratedFrom C:5");
    assert_int_equal(append(f, "a-0", "A", "6"), 0);
    assert_int_equal(append(f, "b-0", "A", "6"), E_MOVED);

    fill(f, "c", 1, 2);
    (void)run(f, "linked", "{\"kind\":\"link\",\"category\":\"c\",\"to\":\"d-{key}\"}");
    assert_int_equal(append(f, "d-0", "C", "5"), 0);
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    assert_int_equal(wait_end(f, STREAM_ROLLED_BACK).parked, 0);
    assert_stream(f, "c-0", "A0 B1 StreamMovedTo MigratedFrom C:5");

    fill(f, "e", 2, 4);
    (void)run(
        f, "here",
        "{\"kind\":\"rewrite\",\"category\":\"e\",\"where\":{\"type\":\"B\",\"data.n\":{\"gt\":2}},"
        "\"transform\":[{\"when\":{\"type\":\"A\"},\"drop\":true}]}");
    assert_stream(f, "e-0", "MigratedFrom B1 B3");
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    assert_int_equal(wait_end(f, STREAM_ROLLED_BACK).streams, 2);
    assert_stream(f, "e-0", "MigratedFrom A0 B1 A2 B3");
}

static void
test_drop(void **state)
{
    struct fix *f = *state;

    fill(f, "truck", 3, 3);
    (void)run(f, "off", SPLIT);
    assert_int_equal(stream_drop(f->surgery, &f->err), 0);
    (void)wait_end(f, STREAM_DROPPED);
    assert_stream(f, "truck-1", "StreamMovedTo");
    assert_int_equal(append(f, "truck-1", "A", "1"), E_MOVED);
    assert_clean(f, 3, 9); /* still on the disk */
}

/* Of what a condition took: the rest stays readable where it was, and comes to nobody twice. */
static void
test_drop_some(void **state)
{
    static char     pad[10000], data[10100];
    struct fix     *f = *state;
    struct log_read read = {.skip_moved = true, .filter.category = slice_str("a")};

    memset(pad, 'x', sizeof pad - 1);
    for (unsigned n = 0; n < 6; n++) {
        (void)snprintf(data, sizeof data, "{\"n\":%u,\"pad\":\"%s\"}", n, pad);
        assert_int_equal(append(f, "a-1", n % 2 == 0 ? "A" : "B", data), 0);
        assert_int_equal(append(f, "a-2", "B", data), 0);
    }
    (void)run(
        f, "some",
        "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\",\"where\":{\"type\":\"B\"}}");
    assert_stream(f, "a-1", "A0 B1 A2 B3 A4 B5 StreamMovedTo");
    assert_int_equal(stream_drop(f->surgery, &f->err), 0);
    assert_int_equal(wait_end(f, STREAM_DROPPED).streams, 2);
    assert_stream(f, "a-1", "MigratedFrom A0 A2 A4 StreamMovedTo");
    assert_stream(f, "a-2", "StreamMovedTo");
    assert_stream(f, "b-1", "MigratedFrom B1 B3 B5");
    assert_int_equal(append(f, "a-1", "A", "1"), E_MOVED);
    assert_true(is_moved_to(f, "a-1", "b-1"));
    assert_clean(f, 2, 9);
    assert_read(f, &read, "A0 B0 B1 B1 A2 B2 B3 B3 A4 B4 B5 B5");
    assert_true(scavenge(f) >= 12);
    assert_read(f, &read, "A0 B0 B1 B1 A2 B2 B3 B3 A4 B4 B5 B5");
    assert_stream(f, "a-1", "MigratedFrom A0 A2 A4 StreamMovedTo");
    assert_true(is_moved_to(f, "a-1", "b-1"));
}

/* Their time is over at once: nobody has to ask. */
static void
test_keep(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    fill(f, "a", 3, 3);
    assert_int_equal(
        begin(f, "brief", "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\",\"keep_s\":0}"),
        0);
    for (unsigned tries = 0; tries < 100000000; tries++) {
        stream_wait(f->surgery, WAIT_US);
        stream_get_status(f->surgery, &s);
        if (s.state == STREAM_DROPPED)
            break;
        (void)sched_yield();
    }
    assert_int_equal(s.state, STREAM_DROPPED);
    assert_stream(f, "a-1", "StreamMovedTo");
    assert_stream(f, "b-1", "MigratedFrom A0 B1 A2");
}

static void
test_plan(void **state)
{
    struct fix *f = *state;

    fill(f, "truck", 3, 3);
    assert_plan(f, SPLIT, 2,
                "\"whole\":false,\"looked_at\":2,\"streams\":2,\"targets\":4,"
                "\"events_before\":6,\"events_after\":6");
    assert_plan(f, SPLIT, 2, "\"streams_selected\":3,");
    assert_plan(f, SPLIT, 1,
                "\"before\":[{\"version\":0,\"type\":\"A\",\"data\":{\"n\":0}},"
                "{\"version\":1,\"type\":\"B\",\"data\":{\"n\":1}},"
                "{\"version\":2,\"type\":\"A\",\"data\":{\"n\":2}}],"
                "\"after\":[{\"stream\":\"vehicle-0\",\"type\":\"A\",\"data\":{\"n\":0}},"
                "{\"stream\":\"engine-0\",\"type\":\"B\",\"data\":{\"n\":1}},"
                "{\"stream\":\"vehicle-0\",\"type\":\"A\",\"data\":{\"n\":2}}]");
    assert_plan(f, SPLIT, 0,
                "\"consumers\":{\"deliver\":{\"copies\":9,\"marks\":9,\"invalidated\":0},"
                "\"skip\":{\"copies\":0}}");
    assert_false(there(f, "vehicle-0"));
    assert_plan(f,
                "{\"kind\":\"rewrite\",\"category\":\"truck\",\"transform\":[{\"when\":{\"type\":"
                "\"B\"},\"drop\":true}]}",
                0, "\"deliver\":{\"copies\":6,\"marks\":3,\"invalidated\":3}");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copy_of_a_false_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_split_and_join, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rewrite, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scripts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_specs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_writers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rests_of_a_join, setup, teardown),
        cmocka_unit_test_setup_teardown(test_joins_that_overlap, setup, teardown),
        cmocka_unit_test_setup_teardown(test_target_written_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pause_and_cancel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rollback, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rollback_of_a_join, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rollback_in_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rollback_in_place_consumers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rollback_of_some, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drop_some, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plan, setup, teardown),
    };

    return cmocka_run_group_tests_name("surgery", tests, NULL, NULL);
}
