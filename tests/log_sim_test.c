/*
 * What the simulator found in the log, each as a story of its own: they stay
 * when its seeds mean something else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "log/log.h"
#include "sim/env_sim.h"
#include "sim/index_map.h"

#define DIR "/sim/data"
#define CALLS 80

struct story {
    struct sim        *sim;
    struct ox_env     *env;
    struct index_maps *maps;
    struct log_conf    conf;
    struct log        *log;
    struct err         err;
};

static int
touch(void *arg, const char *call, struct err *err)
{
    return sim_touch(arg, call, err);
}

static void
begin(struct story *t, uint64_t seed)
{
    memset(t, 0, sizeof *t);
    t->sim = sim_new(seed);
    t->env = sim_env(t->sim);
    t->maps = index_maps_new(t->env, touch, t->sim);
    /* Small caches: they are cleared at each of many openings. */
    t->conf = (struct log_conf){.index = &sim_index_map,
                                .segment_bytes = LOG_SEGMENT_MIN,
                                .heads_bytes = 64 << 10,
                                .recent_events = 1000};
    assert_int_equal(t->env->ops->dir_make(t->env, "/sim", &t->err), 0);
    assert_int_equal(t->env->ops->dir_sync(t->env, "/", &t->err), 0);
}

static void
open_log(struct story *t)
{
    assert_int_equal(log_open(t->env, DIR, &t->conf, NULL, &t->log, &t->err), 0);
}

static void
end(struct story *t)
{
    log_close(t->log);
    index_maps_free(t->maps);
    sim_free(t->sim);
}

/* The engine is gone, in the way that `loss` says. */
static void
cut_power(struct story *t, enum sim_loss loss)
{
    sim_crash(t->sim);
    log_close(t->log);
    t->log = NULL;
    sim_reboot(t->sim, loss);
    if (loss != SIM_LOSS_NONE)
        index_maps_crash(t->maps, NULL, NULL);
}

struct append {
    struct log_req       req;
    struct log_write     write;
    struct log_new_event event;
    bool                 answered;
};

static void
note(struct log_req *req)
{
    struct append *a = req->arg;

    a->answered = true;
}

static void
prepare(struct append *a, const char *stream, uint8_t id, int64_t expected)
{
    memset(a, 0, sizeof *a);
    a->event.id.b[15] = id;
    a->event.type = slice_str("Done");
    a->event.data = slice_str("{}");
    a->write = (struct log_write){
        .stream = slice_str(stream), .expected = expected, .events = &a->event, .count = 1};
    a->req.writes = &a->write;
    a->req.write_count = 1;
    a->req.arg = a;
}

static int
append(struct story *t, struct append *a, const char *stream, uint8_t id, int64_t expected)
{
    prepare(a, stream, id, expected);
    return log_append(t->log, &a->req);
}

static void
submit(struct story *t, struct append *a, const char *stream, uint8_t id, int64_t expected)
{
    prepare(a, stream, id, expected);
    a->req.done = note;
    log_submit(t->log, &a->req);
}

static uint64_t
events_of(struct story *t, const char *stream)
{
    struct log_stream info;
    int               rc = log_stream_info(t->log, slice_str(stream), &info, &t->err);

    if (rc == E_NOTFOUND || (rc != 0 && sim_crashed(t->sim)))
        return 0;
    assert_int_equal(rc, 0);
    return info.head + 1;
}

static void
repeat_answers_with_the_first_positions(void **state)
{
    static const int64_t expected[] = {LOG_ANY, LOG_NO_STREAM};
    struct story         t;
    struct append        first, other, again;

    begin(&t, 1);
    open_log(&t);
    for (unsigned i = 0; i < 2; i++) {
        const char *stream = i == 0 ? "a-1" : "a-2";

        assert_int_equal(append(&t, &first, stream, (uint8_t)(1 + i), expected[i]), 0);
        assert_int_equal(append(&t, &other, stream, (uint8_t)(11 + i), LOG_ANY), 0);
        assert_int_equal(append(&t, &again, stream, (uint8_t)(1 + i), expected[i]), 0);
        assert_true(again.req.idempotent);
        assert_int_equal(again.req.pos.v, first.req.pos.v);
        assert_int_equal(again.req.last.v, first.req.last.v);
        assert_int_equal(again.req.end.v, first.req.end.v);
        assert_int_equal(again.write.first_version, 0);
    }
    end(&t);
    (void)state;
}

static void
first_append_survives_with_its_folder(void **state)
{
    struct story  t;
    struct append a;

    begin(&t, 1);
    open_log(&t);
    assert_int_equal(append(&t, &a, "a-1", 1, LOG_ANY), 0);
    cut_power(&t, SIM_LOSS_ALL);
    open_log(&t);
    assert_int_equal(events_of(&t, "a-1"), 1);
    end(&t);
    (void)state;
}

/* Made by a process that ended at any call; what the next one acknowledges must last. */
static void
folder_of_a_process_that_ended_is_made_durable(void **state)
{
    for (uint64_t nth = 0; nth < CALLS; nth++) {
        struct story  t;
        struct append a;

        begin(&t, nth);
        sim_crash_at(t.sim, nth);
        if (log_open(t.env, DIR, &t.conf, NULL, &t.log, &t.err) == 0) {
            end(&t);
            break;
        }
        cut_power(&t, SIM_LOSS_NONE);
        open_log(&t);
        assert_int_equal(append(&t, &a, "a-1", 1, LOG_ANY), 0);
        cut_power(&t, SIM_LOSS_ALL);
        open_log(&t);
        assert_int_equal(events_of(&t, "a-1"), 1);
        end(&t);
    }
    (void)state;
}

/* The bytes of a failed sync read well, and are not stored: who shows them has to store them. */
static void
what_was_read_after_a_failed_sync_stays(void **state)
{
    unsigned shown = 0;

    for (uint64_t seed = 0; seed < 60; seed++) {
        struct story  t;
        struct append a, b;
        uint64_t      seen;

        begin(&t, seed);
        open_log(&t);
        assert_int_equal(append(&t, &a, "a-1", 1, LOG_ANY), 0);
        (void)sim_run(t.sim, 200);
        sim_fault_at(t.sim, SIM_SYNC, SIM_EIO, 0);
        assert_int_not_equal(append(&t, &b, "a-1", 2, LOG_ANY), 0);
        assert_int_equal(b.req.err.kind, ERR_UNSURE);
        assert_int_not_equal(append(&t, &b, "a-1", 3, LOG_ANY), 0);
        assert_int_equal(b.req.err.kind, ERR_FATAL);
        cut_power(&t, SIM_LOSS_NONE);
        open_log(&t);
        seen = events_of(&t, "a-1");
        shown += seen == 2;
        assert_true(seen >= 1);
        cut_power(&t, SIM_LOSS_ALL);
        open_log(&t);
        assert_int_equal(events_of(&t, "a-1"), seen);
        end(&t);
    }
    assert_true(shown > 0);
    (void)state;
}

static void
refusal_waits_until_its_reason_is_durable(void **state)
{
    struct story  t;
    struct append a, b;

    begin(&t, 1);
    open_log(&t);
    assert_int_equal(append(&t, &a, "a-2", 1, LOG_ANY), 0); /* the next segment is there */
    (void)sim_run(t.sim, 200);
    submit(&t, &a, "a-1", 1, LOG_ANY);
    submit(&t, &b, "a-1", 2, LOG_NO_STREAM);
    sim_fault_at(t.sim, SIM_SYNC, SIM_EIO, 0);
    (void)sim_run(t.sim, 200);
    assert_true(a.answered);
    assert_true(b.answered);
    assert_int_equal(a.req.err.kind, ERR_UNSURE);
    assert_int_not_equal(b.req.rc, E_WRONG_VERSION);
    assert_int_equal(b.req.err.kind, ERR_FATAL);
    end(&t);
    (void)state;
}

static void
closing_does_not_wait_for_an_index_that_fails(void **state)
{
    struct story  t;
    struct append a;

    begin(&t, 1);
    open_log(&t);
    assert_int_equal(append(&t, &a, "a-1", 1, LOG_ANY), 0);
    sim_fault_rate(t.sim, SIM_OTHER, SIM_EIO, 1000000);
    log_close(t.log);
    sim_fault_none(t.sim);
    sim_reboot(t.sim, SIM_LOSS_NONE);
    open_log(&t);
    assert_int_equal(events_of(&t, "a-1"), 1);
    end(&t);
    (void)state;
}

/* Recovery itself may be interrupted at any call, again and again. */
static void
recovery_may_be_interrupted(void **state)
{
    for (uint64_t nth = 0; nth < CALLS; nth++) {
        struct story  t;
        struct append a;

        begin(&t, nth);
        open_log(&t);
        for (uint8_t id = 1; id < 20; id++)
            assert_int_equal(append(&t, &a, "a-1", id, LOG_ANY), 0);
        submit(&t, &a, "a-1", 20, LOG_ANY);
        cut_power(&t, SIM_LOSS_RANDOM);
        for (unsigned round = 0; round < 3; round++) {
            sim_crash_at(t.sim, nth);
            if (log_open(t.env, DIR, &t.conf, NULL, &t.log, &t.err) == 0)
                assert_true(events_of(&t, "a-1") >= 19 || sim_crashed(t.sim));
            cut_power(&t, SIM_LOSS_RANDOM);
        }
        open_log(&t);
        assert_true(events_of(&t, "a-1") >= 19);
        end(&t);
    }
    (void)state;
}

static void
looking_writes_no_index(void **state)
{
    struct story  t;
    struct append a;
    struct err    err;

    begin(&t, 1);
    t.conf.memory_bytes_max = 512;
    open_log(&t);
    for (uint8_t id = 1; id < 100; id++)
        assert_int_equal(append(&t, &a, "a-1", id, LOG_ANY), 0);
    cut_power(&t, SIM_LOSS_ALL);
    t.conf.read_only = true;
    assert_int_equal(log_open(t.env, DIR, &t.conf, NULL, &t.log, &err), E_LIMIT);
    assert_null(t.log);
    t.conf.memory_bytes_max = 0;
    open_log(&t);
    assert_int_equal(events_of(&t, "a-1"), 99);
    end(&t);
    (void)state;
}

/* What happens to streams in one way or another, an acknowledged step after the other. */
struct step {
    const char *stream, *type, *data; /* an event; type NULL: a change */
    uint32_t    what;
    uint64_t    number; /* truncate, or max_count */
};

static const struct step steps[] = {
    {"a-1", "t", "1", 0, 0},
    {"a-1", "t", "2", 0, 0},
    {"a-1", "t", "3", 0, 0},
    {"b-1", "t", "1", 0, 0},
    {"links", "$>", "1@a-1", 0, 0},
    {"links", "$>", "0@b-1", 0, 0},
    {"$$a-1", "$metadata", "{\"$maxCount\":2}", 0, 0},
    {"a-1", "t", "4", 0, 0},
    {"b-1", NULL, NULL, LOG_SET_DELETED, 0},
    {"$$a-1", "$metadata", "{\"$tb\":1}", 0, 0},
    {"c-1", NULL, NULL, LOG_SET_LIMITS, 1},
    {"b-1", "t", "2", 0, 0},
    {"c-1", "t", "1", 0, 0},
    {"c-1", "t", "2", 0, 0},
    {"a-1", NULL, NULL, LOG_SET_TRUNCATE, 3},
    {"b-1", NULL, NULL, LOG_SET_TOMBSTONE, 0},
    {"d-1", NULL, NULL, LOG_SET_TOMBSTONE, 0},
    {"$$c-1", "$metadata", "{\"$tb\":9223372036854775807}", 0, 0},
    {"a-1", NULL, NULL, LOG_SET_CLOSED, 0},
};

#define STEPS (sizeof steps / sizeof steps[0])
#define LOOK_BYTES 2000

static int
do_step(struct story *t, const struct step *s)
{
    struct log_new_event e = {.flags = LOG_JSON};
    struct log_write     w = {.expected = LOG_ANY, .events = &e, .count = 1};
    struct log_change    c = {.expected = LOG_ANY};
    struct log_req       req = {0};

    if (s->type != NULL) {
        e.type = slice_str(s->type);
        e.data = slice_str(s->data);
        w.stream = slice_str(s->stream);
        req.writes = &w;
        req.write_count = 1;
    } else {
        c.stream = slice_str(s->stream);
        c.what = s->what;
        c.truncate = c.max_count = s->number;
        req.changes = &c;
        req.change_count = 1;
    }
    return log_append(t->log, &req);
}

/* All that a reader can see of these streams, links followed, and whether they take events. */
static void
look(struct story *t, char out[LOOK_BYTES])
{
    static const char *const names[] = {"a-1", "b-1", "c-1", "d-1", "links", "$$a-1", "$ce-a", ""};
    size_t                   n = 0;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct log_read   read = {.stream = slice_str(names[i]), .resolve = true};
        struct log_stream info = {0};
        struct log_iter  *it;
        struct log_event  e;
        int               rc = log_iter_open(t->log, &read, &it, &t->err);

        n += (size_t)snprintf(out + n, LOOK_BYTES - n, "%s:%d", names[i], rc);
        while (rc == 0 && (rc = log_iter_next(it, &e, &t->err)) == 0)
            n += (size_t)snprintf(out + n, LOOK_BYTES - n, " %.*s/%u%s", SLICE_FMT(e.stream),
                                  (unsigned)e.version, e.dangling ? "?" : "");
        log_iter_close(it);
        assert_true(rc == E_END || rc == E_NOTFOUND || rc == E_GONE);
        if (i < 4 && log_stream_info(t->log, slice_str(names[i]), &info, &t->err) == 0)
            n += (size_t)snprintf(out + n, LOOK_BYTES - n, " flags %u", info.flags);
        n += (size_t)snprintf(out + n, LOOK_BYTES - n, "; ");
    }
    assert_true(n < LOOK_BYTES);
}

/* Whatever call the power goes in: each step is there whole or not at all, acknowledged ones are.
 */
static void
states_survive_any_crash(void **state)
{
    static char  after[STEPS + 1][LOOK_BYTES], now[LOOK_BYTES];
    struct story t;
    uint64_t     crashes = 0;

    begin(&t, 1);
    open_log(&t);
    look(&t, after[0]);
    for (size_t i = 0; i < STEPS; i++) {
        assert_int_equal(do_step(&t, &steps[i]), 0);
        look(&t, after[i + 1]);
        if (steps[i].what != LOG_SET_LIMITS) /* of a stream that is not there yet: nobody sees it */
            assert_string_not_equal(after[i], after[i + 1]);
    }
    end(&t);
    for (uint64_t nth = 0; nth < 3 * CALLS; nth++) {
        size_t done = 0;

        begin(&t, nth);
        open_log(&t);
        sim_crash_at(t.sim, nth);
        while (done < STEPS && do_step(&t, &steps[done]) == 0)
            done++;
        crashes += sim_crashed(t.sim);
        cut_power(&t, nth % 3 == 0 ? SIM_LOSS_ALL : SIM_LOSS_RANDOM);
        open_log(&t);
        look(&t, now);
        if (strcmp(now, after[done]) != 0 && (done == STEPS || strcmp(now, after[done + 1]) != 0))
            fail_msg("crash at call %u, behind step %zu: %s; expected %s", (unsigned)nth, done, now,
                     after[done]);
        end(&t);
    }
    assert_true(crashes > CALLS / 2);
    (void)state;
}

static bool no_writes;

static int
touch_or_not(void *arg, const char *call, struct err *err)
{
    if (no_writes && strcmp(call, "apply") == 0)
        RETURN_ERR(err, E_IO, ERR_RETRY, "the index is not written");
    return touch(arg, call, err);
}

static int
add_line(void *arg, const struct log_stream *s, struct err *err)
{
    size_t len = strlen(arg);

    (void)err;
    (void)snprintf((char *)arg + len, 200 - len, "%.*s:%u ", SLICE_FMT(s->name), (unsigned)s->head);
    return 0;
}

static void
check_list(struct story *t, const char *prefix, const char *after, const char *want)
{
    char got[200] = "";

    assert_int_equal(
        log_streams(t->log, slice_str(prefix), slice_str(after), add_line, got, &t->err), 0);
    assert_string_equal(got, want);
}

/* A list of streams does not wait for the index: what is not in it comes from memory. */
static void
listing_does_not_wait_for_the_index(void **state)
{
    struct story  t;
    struct append a;

    begin(&t, 5);
    index_maps_free(t.maps);
    t.maps = index_maps_new(t.env, touch_or_not, t.sim);
    open_log(&t);
    assert_int_equal(append(&t, &a, "b-1", 1, LOG_ANY), 0);
    assert_int_equal(append(&t, &a, "d-1", 1, LOG_ANY), 0);
    log_close(t.log);
    no_writes = true;
    open_log(&t);
    check_list(&t, "", "", "b-1:0 d-1:0 ");
    assert_int_equal(append(&t, &a, "e-1", 1, LOG_ANY), 0);
    assert_int_equal(append(&t, &a, "b-1", 2, LOG_ANY), 0);
    (void)sim_run(t.sim, 3000); /* some is frozen, and stays so */
    assert_int_equal(append(&t, &a, "a-1", 1, LOG_ANY), 0);
    assert_int_equal(append(&t, &a, "e-1", 2, LOG_ANY), 0);
    assert_int_equal(append(&t, &a, "d-2", 1, LOG_ANY), 0);
    check_list(&t, "", "", "a-1:0 b-1:1 d-1:0 d-2:0 e-1:1 ");
    check_list(&t, "d", "", "d-1:0 d-2:0 ");
    check_list(&t, "", "d-1", "d-2:0 e-1:1 ");
    no_writes = false;
    (void)sim_run(t.sim, 3000);
    check_list(&t, "", "", "a-1:0 b-1:1 d-1:0 d-2:0 e-1:1 ");
    end(&t);
    (void)state;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repeat_answers_with_the_first_positions),
        cmocka_unit_test(first_append_survives_with_its_folder),
        cmocka_unit_test(folder_of_a_process_that_ended_is_made_durable),
        cmocka_unit_test(what_was_read_after_a_failed_sync_stays),
        cmocka_unit_test(refusal_waits_until_its_reason_is_durable),
        cmocka_unit_test(closing_does_not_wait_for_an_index_that_fails),
        cmocka_unit_test(recovery_may_be_interrupted),
        cmocka_unit_test(looking_writes_no_index),
        cmocka_unit_test(listing_does_not_wait_for_the_index),
        cmocka_unit_test(states_survive_any_crash),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
