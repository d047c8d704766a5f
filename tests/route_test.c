/*
 * Old and new software side by side: what is appended to a routed stream and to those that it
 * feeds, in one commit; what consumers get of it, what cannot be routed, and the end of it.
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
#include "log/copied.h"
#include "tests/surgery_fix.h"

#define SPLIT                                                                                      \
    "{\"kind\":\"split\",\"category\":\"truck\",\"to\":\"vehicle-{key}\",\"transform\":["          \
    "{\"when\":{\"type\":\"B\"},\"route\":\"engine-{key}\"}],\"old_writers\":\"route\"}"

static int
append_id(struct fix *f, const char *stream, int64_t expected, const char *type, unsigned id)
{
    char                 data[32] = "";
    struct log_new_event e = {.type = slice_str(type), .flags = LOG_JSON, .id.b = {[15] = 1}};

    (void)snprintf(data, sizeof data, "{\"n\":%u}", id);
    e.data = slice_str(data);
    e.id.b[0] = (uint8_t)id;
    e.id.b[1] = (uint8_t)(id >> 8);
    return append_event(f, stream, expected, &e);
}

static void
put(struct fix *f, const char *stream, const char *type, unsigned id)
{
    if (append_id(f, stream, LOG_ANY, type, id) != 0)
        fail_msg("%s: %s", stream, f->err.text);
}

static void
assert_routed(struct fix *f, uint64_t copies, uint64_t newer)
{
    struct stream_audit a = audit(f);

    assert_int_equal(a.copies, copies);
    assert_int_equal(a.newer, newer);
}

/* truck-1 with A1 B2 A3, split; truck-2 with B4. */
static void
split(struct fix *f)
{
    struct stream_status s;

    put(f, "truck-1", "A", 1);
    put(f, "truck-1", "B", 2);
    put(f, "truck-1", "A", 3);
    put(f, "truck-2", "B", 4);
    s = run(f, "apart", SPLIT);
    assert_int_equal(s.streams, 2);
    assert_int_equal(s.copies, 4);
    assert_int_equal(s.parked, 0);
}

struct origin {
    struct log_pos pos;
    uint64_t       version;
    char           stream[32];
};

static bool
take_origin(void *arg, const struct log_original *o)
{
    struct origin *to = arg;

    to->pos = o->pos;
    to->version = o->version;
    (void)snprintf(to->stream, sizeof to->stream, "%.*s", SLICE_FMT(o->stream));
    return true;
}

/* The last event of `copy` stands for the last one of `stream`, and says so exactly. */
static void
assert_origin(struct fix *f, const char *copy, const char *stream)
{
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event e;
    struct origin    origin = {{0}, 0, ""};
    struct ox_id     id;

    read.stream = slice_str(copy);
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_int_equal(log_copied_from(e.meta, take_origin, &origin, NULL), 1);
    assert_null(memmem(e.meta.data, e.meta.len, " ", 1));
    id = e.id;
    log_iter_close(it);
    read.stream = slice_str(stream);
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_string_equal(origin.stream, stream);
    assert_int_equal(origin.version, e.version);
    assert_int_equal(origin.pos.v, e.pos.v);
    assert_true(id_eq(&id, &e.id));
    log_iter_close(it);
}

static void
test_side_by_side(void **state)
{
    struct fix *f = *state;

    split(f);
    assert_int_equal(flags_of(f, "truck-1"), LOG_STREAM_ROUTED);
    assert_int_equal(flags_of(f, "vehicle-1"), LOG_STREAM_FED);
    assert_stream(f, "truck-1", "A1 B2 A3"); /* nothing was numbered for the move */
    assert_stream(f, "vehicle-1", "MigratedFrom A1 A3");

    /* Old software: its versions hold, and its copies come along. */
    assert_int_equal(append_id(f, "truck-1", 2, "B", 5), 0);
    assert_int_equal(f->version, 3);
    assert_origin(f, "engine-1", "truck-1");
    assert_int_equal(append_id(f, "truck-1", 2, "A", 6), E_WRONG_VERSION);
    assert_int_equal(f->req.wrong_actual, 3);
    assert_true(slice_is(f->req.wrong_stream, "truck-1"));
    assert_int_equal(append_id(f, "truck-1", 3, "A", 6), 0);
    assert_origin(f, "vehicle-1", "truck-1");

    /* New software: the same for the new names, and the old one gets links. */
    assert_int_equal(append_id(f, "vehicle-1", 3, "A", 7), 0);
    assert_int_equal(f->version, 4);
    assert_int_equal(append_id(f, "engine-1", LOG_NO_STREAM, "B", 8), E_WRONG_VERSION);
    put(f, "engine-1", "B", 8);
    put(f, "truck-1", "A", 9);
    assert_stream(f, "truck-1", "A1 B2 A3 B5 A6 4@vehicle-1 3@engine-1 A9");
    assert_stream(f, "vehicle-1", "MigratedFrom A1 A3 A6 A7 A9");
    assert_stream(f, "engine-1", "MigratedFrom B2 B5 B8");
    assert_read(f, &(struct log_read){.stream = slice_str("truck-1"), .resolve = true},
                "A1 B2 A3 B5 A6 A7 B8 A9");
    assert_routed(f, 7, 2);

    /* A retry is one, at the expected version and without one. */
    assert_int_equal(append_id(f, "truck-1", 2, "B", 5), 0);
    assert_true(f->req.idempotent);
    assert_int_equal(f->version, 3);
    put(f, "vehicle-1", "A", 7);
    assert_true(f->req.idempotent);
    assert_stream(f, "vehicle-1", "MigratedFrom A1 A3 A6 A7 A9");
}

/* Who skips what moves copied is given each event once, wherever it began. */
static void
test_consumers(void **state)
{
    struct fix     *f = *state;
    struct log_read read = {.skip_moved = true, .skip_links = true};

    split(f);
    put(f, "truck-1", "B", 5);
    put(f, "vehicle-1", "A", 6);
    put(f, "truck-2", "A", 7); /* a new target */
    assert_read(f, &read, "A1 B2 A3 B4 B5 A6 A7");
    read.filter.category = slice_str("truck");
    assert_read(f, &read, "A1 B2 A3 B4 B5 A7");
    read.filter.category = slice_str("vehicle");
    assert_read(f, &read, "A1 A3 A6 A7");
    read = (struct log_read){.stream = slice_str("truck-1"), .skip_moved = true, .resolve = true};
    assert_read(f, &read, "A1 B2 A3 B5 A6");
    assert_stream(f, "vehicle-2", "A7");
    put(f, "vehicle-2", "A", 8); /* one that came later is linked too */
    assert_stream(f, "truck-2", "B4 A7 1@vehicle-2");
    assert_routed(f, 6, 2);
}

static int
append_two(struct fix *f, const char *a, const char *b, unsigned id)
{
    char                 data[32];
    struct log_new_event e[2] = {{.type = slice_str("A"), .flags = LOG_JSON, .id.b = {1, 1, 1}},
                                 {.type = slice_str("B"), .flags = LOG_JSON, .id.b = {1, 1, 2}}};
    struct log_write     w[2] = {
            {.stream = slice_str(a), .expected = LOG_ANY, .events = e, .count = 2},
            {.stream = slice_str(b), .expected = LOG_ANY, .events = e, .count = 2}};
    int rc;

    (void)snprintf(data, sizeof data, "{\"n\":%u}", id);
    e[0].data = e[1].data = slice_str(data);
    e[0].id.b[3] = e[1].id.b[3] = (uint8_t)id;
    f->req = (struct log_req){.writes = w, .write_count = 2};
    rc = log_append(f->log, &f->req);
    f->err = f->req.err;
    f->version = w[1].last_version;
    return rc;
}

static void
test_commits_of_several(void **state)
{
    struct fix *f = *state;

    split(f);
    assert_int_equal(append_two(f, "other", "truck-1", 5), 0);
    assert_int_equal(f->version, 4);
    assert_stream(f, "other", "A5 B5");
    assert_stream(f, "truck-1", "A1 B2 A3 A5 B5");
    assert_origin(f, "engine-1", "truck-1");
    assert_int_equal(append_two(f, "other", "truck-1", 5), 0);
    assert_true(f->req.idempotent);
    assert_int_equal(f->version, 4);

    /* Both sides in one. */
    assert_int_equal(append_two(f, "vehicle-1", "truck-1", 6), 0);
    assert_stream(f, "vehicle-1", "MigratedFrom A1 A3 A5 A6 B6 A6");
    assert_stream(f, "truck-1", "A1 B2 A3 A5 B5 A6 B6 4@vehicle-1 5@vehicle-1");
    assert_stream(f, "engine-1", "MigratedFrom B2 B5 B6");
}

static int
set_metadata(struct fix *f, const char *stream, const char *json)
{
    char                 name[64];
    struct log_new_event e = {
        .type = slice_str(LOG_META_TYPE), .data = slice_str(json), .flags = LOG_JSON};
    struct log_write w = {.expected = LOG_ANY, .events = &e, .count = 1};

    (void)snprintf(name, sizeof name, "$$%s", stream);
    w.stream = slice_str(name);
    f->req = (struct log_req){.writes = &w, .write_count = 1};
    return log_append(f->log, &f->req);
}

static void
assert_metadata(struct fix *f, const char *stream, const char *should)
{
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event e;
    char             name[64];

    (void)snprintf(name, sizeof name, "$$%s", stream);
    read.stream = slice_str(name);
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    if (!slice_is(e.data, should))
        fail_msg("%s is\n%.*s", name, SLICE_FMT(e.data));
    log_iter_close(it);
}

/* Targets that are deleted, closed, gone for good; an old name that is deleted and comes back. */
static void
test_deleted(void **state)
{
    struct fix *f = *state;

    split(f);
    assert_int_equal(change(f, "vehicle-1", LOG_SET_CLOSED), 0);
    assert_int_equal(append_id(f, "truck-1", LOG_ANY, "A", 5), E_STATE);
    assert_non_null(strstr(f->err.text, "\"vehicle-1\", which takes no events"));
    put(f, "truck-1", "B", 6);
    assert_int_equal(change(f, "vehicle-1", LOG_SET_OPEN), 0);
    assert_int_equal(change(f, "vehicle-1", LOG_SET_DELETED), 0);
    put(f, "truck-1", "A", 7); /* brings it back, as an append does */
    assert_stream(f, "vehicle-1", "A7");
    assert_int_equal(change(f, "vehicle-1", LOG_SET_TOMBSTONE), 0);
    put(f, "truck-1", "A", 8);
    assert_stream(f, "truck-1", "A1 B2 A3 B6 A7 A8");

    assert_int_equal(change(f, "truck-1", LOG_SET_DELETED), 0);
    put(f, "truck-1", "B", 9);
    assert_stream(f, "truck-1", "B9");
    assert_stream(f, "engine-1", "MigratedFrom B2 B6 B9");
    assert_int_equal(change(f, "truck-1", LOG_SET_TOMBSTONE), 0);
    put(f, "engine-1", "B", 10); /* nobody is left to be told */
    assert_stream(f, "engine-1", "MigratedFrom B2 B6 B9 B10");
}

static void
test_metadata(void **state)
{
    struct fix *f = *state;

    put(f, "truck-1", "A", 1);
    assert_int_equal(set_metadata(f, "truck-1", "{\"owner\":\"me\",\"$maxCount\":2}"), 0);
    (void)run(f, "apart", SPLIT);
    assert_metadata(f, "truck-1",
                    "{\"owner\":\"me\",\"$maxCount\":2,\"$routed\":{\"surgery\":\"apart\",\"to\":"
                    "[\"vehicle-1\"]}}");
    assert_metadata(f, "vehicle-1", "{\"$routed\":{\"from\":[\"truck-1\"]}}");
    assert_int_equal(set_metadata(f, "truck-1", "{\"$maxCount\":3,\"$routed\":1}"), 0);
    put(f, "truck-1", "B", 2);
    put(f, "truck-1", "A", 3);
    assert_stream(f, "truck-1", "A1 B2 A3");
    put(f, "truck-1", "A", 4);
    assert_stream(f, "truck-1", "B2 A3 A4");
    assert_metadata(f, "truck-1",
                    "{\"$maxCount\":3,\"$routed\":{\"surgery\":\"apart\",\"to\":[\"vehicle-1\","
                    "\"engine-1\"]}}");
    /* Deleted by its metadata, as old software may do it. */
    assert_int_equal(set_metadata(f, "truck-1", "{\"$tb\":9223372036854775807}"), 0);
    put(f, "truck-1", "A", 5);
    assert_stream(f, "truck-1", "A5");
    assert_stream(f, "vehicle-1", "MigratedFrom A1 A3 A4 A5");
    put(f, "truck-1", "C", 6);
    assert_stream(f, "truck-1", "A5 C6");
    assert_int_equal(set_metadata(f, "vehicle-1", "{\"a\":1}"), 0);
    put(f, "vehicle-1", "A", 7);
    assert_stream(f, "truck-1", "A5 C6 6@vehicle-1");
}

/* Without who knows the rules nothing may pass; what is routed is so after a restart. */
static void
test_restart(void **state)
{
    struct fix *f = *state;

    split(f);
    close_log(f);
    open_log(f, false);
    assert_int_equal(append_id(f, "truck-1", LOG_ANY, "A", 5), E_STATE);
    put(f, "other", "A", 6);
    close_log(f);
    open_log(f, true);
    put(f, "truck-1", "A", 5);
    assert_stream(f, "vehicle-1", "MigratedFrom A1 A3 A5");
}

/* Copies that are changed; and an event that the rules cannot route. */
static void
test_rules(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    put(f, "a-1", "A", 1);
    put(f, "a-1", "B", 2);
    s = run(f, "anew",
            "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\",\"transform\":["
            "{\"when\":{\"type\":\"B\"},\"drop\":true},{\"set\":{\"data.m\":\"{data.n}\"},"
            "\"rename\":\"Z\"}],\"old_writers\":\"route\"}");
    assert_int_equal(s.parked, 0);
    put(f, "a-1", "A", 3);
    put(f, "a-1", "B", 4);
    assert_stream(f, "a-1", "A1 B2 A3 B4");
    assert_stream(f, "b-1", "MigratedFrom Z1 Z3");
    assert_routed(f, 2, 0);

    put(f, "c-1", "A", 5);
    s = run(f, "by_number",
            "{\"kind\":\"split\",\"category\":\"c\",\"transform\":[{\"route\":\"d-{data.n}\"}],"
            "\"old_writers\":\"route\"}");
    assert_int_equal(s.parked, 0);
    put(f, "c-1", "A", 6);
    assert_stream(f, "d-6", "A6");
    {
        struct log_new_event e = {
            .type = slice_str("A"), .data = slice_str("{\"m\":1}"), .flags = LOG_JSON};
        struct log_write w = {
            .stream = slice_str("c-1"), .expected = LOG_ANY, .events = &e, .count = 1};

        f->req = (struct log_req){.writes = &w, .write_count = 1};
        assert_int_equal(log_append(f->log, &f->req), E_SCHEMA);
        assert_non_null(strstr(f->req.err.text, "surgery's rules"));
    }
    /* Two owners: it takes the copies of both, and nobody knows whose its own events are. */
    put(f, "c-2", "A", 7);
    s = run(f, "by_number_too",
            "{\"kind\":\"split\",\"category\":\"c\",\"transform\":[{\"route\":\"d-{data.n}\"}],"
            "\"old_writers\":\"route\"}");
    assert_int_equal(s.streams, 1);
    put(f, "c-2", "A", 6);
    put(f, "d-6", "A", 8);
    assert_stream(f, "d-6", "A6 A6 A8");
    assert_stream(f, "c-1", "A5 A6");
    assert_stream(f, "c-2", "A7 A6");
}

/* Routed on, round in a circle, and what may not be done to a stream that copies come to. */
static void
test_chain(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    split(f);
    s = run(f, "by_force", "{\"kind\":\"copy\",\"category\":\"vehicle\",\"to\":\"car-{key}\"}");
    assert_int_equal(s.parked, 1); /* truck-2 has no vehicle */
    assert_int_equal(s.streams, 0);
    s = run(f, "on",
            "{\"kind\":\"split\",\"category\":\"vehicle\",\"to\":\"car-{key}\",\"transform\":["
            "{\"when\":{\"type\":\"C\"},\"route\":\"truck-{key}\"}],\"old_writers\":\"route\"}");
    assert_int_equal(s.streams, 1);
    put(f, "truck-1", "A", 5);
    put(f, "vehicle-1", "A", 6);
    put(f, "car-1", "A", 7);
    put(f, "truck-1", "C", 8); /* comes back to where it is */
    assert_stream(f, "car-1", "MigratedFrom A1 A3 A5 A6 A7");
    assert_stream(f, "vehicle-1", "MigratedFrom A1 A3 A5 A6 5@car-1 C8");
    assert_stream(f, "truck-1", "A1 B2 A3 A5 4@vehicle-1 5@car-1 C8");
    put(f, "truck-1", "A", 9);
    assert_origin(f, "car-1", "truck-1");
    assert_routed(f, 5, 1);
    /* An event that goes round from the other end. */
    put(f, "vehicle-1", "C", 10);
    assert_stream(f, "truck-1", "A1 B2 A3 A5 4@vehicle-1 5@car-1 C8 A9 C10");
}

static void
test_unroute(void **state)
{
    struct fix *f = *state;

    split(f);
    put(f, "truck-1", "A", 5);
    put(f, "vehicle-1", "A", 6);
    assert_int_equal(stream_drop(f->surgery, &f->err), E_STATE);
    assert_int_equal(stream_end_routing(f->surgery, &f->err), 0);
    assert_int_equal(wait_end(f, STREAM_CLOSED).streams, 2);
    assert_stream(f, "truck-1", "A1 B2 A3 A5 4@vehicle-1 StreamMovedTo");
    assert_int_equal(flags_of(f, "truck-1"), LOG_STREAM_MOVED);
    assert_int_equal(flags_of(f, "vehicle-1"), 0);
    assert_metadata(f, "truck-1", "{}");
    assert_int_equal(append_id(f, "truck-1", LOG_ANY, "A", 7), E_MOVED);
    assert_non_null(strstr(f->err.text, "vehicle-1"));
    assert_int_equal(append_id(f, "truck-1", LOG_ANY, "A", 5), 0); /* a retry of before */
    put(f, "vehicle-1", "A", 7);
    assert_stream(f, "vehicle-1", "MigratedFrom A1 A3 A5 A6 A7");
    assert_routed(f, 5, 2);
    /* And back: what came since is copied. */
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    (void)wait_end(f, STREAM_ROLLED_BACK);
    assert_stream(f, "truck-1", "A1 B2 A3 A5 4@vehicle-1 StreamMovedTo MigratedFrom A7");
    put(f, "truck-1", "A", 8);
    assert_int_equal(append_id(f, "vehicle-1", LOG_ANY, "A", 9), E_MOVED);
}

/* When the old software is gone the old names' events can go too: a consumer that skips copies is
 * given each event once all the same. */
static void
test_drop(void **state)
{
    static char     pad[10000], data[10100];
    struct fix     *f = *state;
    struct log_read read = {.skip_moved = true, .skip_links = true};

    memset(pad, 'x', sizeof pad - 1);
    for (unsigned n = 0; n < 8; n++) {
        (void)snprintf(data, sizeof data, "{\"n\":%u,\"pad\":\"%s\"}", n, pad);
        assert_int_equal(append(f, "truck-1", n % 2 == 0 ? "A" : "B", data), 0);
        if (n == 3)
            (void)run(f, "apart", SPLIT);
    }
    put(f, "vehicle-1", "A", 8);
    assert_int_equal(stream_drop(f->surgery, &f->err), E_STATE);
    assert_non_null(strstr(f->err.text, "unroute"));
    assert_int_equal(stream_end_routing(f->surgery, &f->err), 0);
    (void)wait_end(f, STREAM_CLOSED);
    put(f, "vehicle-1", "A", 9);
    assert_int_equal(stream_drop(f->surgery, &f->err), 0);
    assert_int_equal(wait_end(f, STREAM_DROPPED).events, 9);
    assert_stream(f, "truck-1", "StreamMovedTo");
    assert_stream(f, "vehicle-1", "MigratedFrom A0 A2 A4 A6 A8 A9");
    read.filter.prefix = slice_str("truck");
    assert_read(f, &read, "A0 B1 A2 B3 A4 B5 A6 B7");
    assert_true(scavenge(f) >= 8);
    assert_read(f, &read, "A0 B1 A2 B3 A4 B5 A6 B7");
    read.filter.prefix = slice_str("");
    read.filter.category = slice_str("vehicle");
    assert_read(f, &read, "A0 A2 A4 A6 A8 A9");
    assert_int_equal(stream_rollback(f->surgery, &f->err), E_STATE);
}

/* Their time begins when the routing ends. */
static void
test_keep(void **state)
{
    struct fix          *f = *state;
    struct stream_status s;

    put(f, "a-1", "A", 1);
    (void)run(f, "brief",
              "{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"b-{key}\",\"keep_s\":0,"
              "\"old_writers\":\"route\"}");
    put(f, "a-1", "A", 2);
    assert_stream(f, "a-1", "A1 A2");
    assert_int_equal(stream_end_routing(f->surgery, &f->err), 0);
    do {
        stream_wait(f->surgery, WAIT_US);
        stream_get_status(f->surgery, &s);
        (void)sched_yield();
    } while (s.state == STREAM_CLOSED || s.state == STREAM_CLOSING || s.state == STREAM_DROPPING);
    assert_int_equal(s.state, STREAM_DROPPED);
    assert_stream(f, "a-1", "StreamMovedTo");
    assert_stream(f, "b-1", "MigratedFrom A1 A2");
}

static void
test_rollback(void **state)
{
    struct fix *f = *state;

    split(f);
    put(f, "truck-1", "A", 5);
    put(f, "vehicle-1", "A", 6);
    assert_int_equal(stream_rollback(f->surgery, &f->err), 0);
    (void)wait_end(f, STREAM_ROLLED_BACK);
    assert_stream(f, "truck-1", "A1 B2 A3 A5 4@vehicle-1");
    assert_stream(f, "vehicle-1", "MigratedFrom A1 A3 A5 A6 StreamMovedTo");
    put(f, "truck-1", "A", 7);
    assert_stream(f, "truck-1", "A1 B2 A3 A5 4@vehicle-1 A7");
    assert_stream(f, "vehicle-1", "MigratedFrom A1 A3 A5 A6 StreamMovedTo");
    assert_int_equal(append_id(f, "vehicle-1", LOG_ANY, "A", 8), E_MOVED);
    assert_read(f, &(struct log_read){.stream = slice_str("truck-1"), .resolve = true},
                "A1 B2 A3 A5 A6 A7");
}

static void
test_refused(void **state)
{
    static const struct {
        const char *spec, *why;
    } bad[] = {
        {"{\"kind\":\"join\",\"category\":[\"a\",\"b\"],\"to\":\"c-{key}\",\"old_writers\":"
         "\"route\"}",
         "is for copies and splits"},
        {"{\"kind\":\"rewrite\",\"category\":\"a\",\"transform\":[{\"rename\":\"Z\"}],"
         "\"old_writers\":\"route\"}",
         "is for copies and splits"},
        {"{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"c-{key}\",\"old_writers\":\"route\","
         "\"transform\":{\"lua\":\"function event(e, state) return e end\"}}",
         "no script with state"},
        {"{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"c-{key}\",\"old_writers\":\"route\","
         "\"mode\":\"link\"}",
         "\"link\" closes it"},
        {"{\"kind\":\"copy\",\"category\":\"a\",\"to\":\"c-{key}\",\"old_writers\":\"other\"}",
         "must be \"reject\" or \"route\""},
    };
    struct fix *f = *state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_not_equal(begin(f, "bad", bad[i].spec), 0);
        if (strstr(f->err.text, bad[i].why) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", f->err.text, bad[i].why);
    }
}

/* while it is being split, and after */

#define TRUCKS 8u
#define EVENTS 150u

struct writer {
    struct fix  *f;
    unsigned     number;
    bool         is_new;
    atomic_bool *split;
    unsigned     refused;
};

static void *
write_on(void *arg)
{
    struct writer *w = arg;

    for (unsigned n = 0; n < EVENTS; n++) {
        const char          *type = n % 2 == 0 ? "A" : "B";
        bool                 there = w->is_new && atomic_load(w->split);
        char                 stream[32], data[32];
        struct log_new_event e = {.type = slice_str(type), .flags = LOG_JSON};
        struct log_write     write = {.expected = LOG_ANY, .events = &e, .count = 1};
        struct log_req       req = {.writes = &write, .write_count = 1};

        (void)snprintf(stream, sizeof stream, "%s-%u",
                       !there       ? "truck"
                       : n % 2 == 0 ? "vehicle"
                                    : "engine",
                       n % TRUCKS);
        (void)snprintf(data, sizeof data, "{\"n\":%u,\"by\":%u}", n, w->number);
        write.stream = slice_str(stream);
        e.data = slice_str(data);
        e.id = id_new(env_real());
        if (log_append(w->f->log, &req) != 0)
            w->refused++;
    }
    return NULL;
}

static void
test_meanwhile(void **state)
{
    struct fix         *f = *state;
    struct writer       w[4];
    pthread_t           thread[4];
    atomic_bool         split = false;
    struct stream_audit a;
    uint64_t            old = 0, seen = 0;
    char                name[32];

    for (unsigned i = 0; i < TRUCKS; i++) {
        (void)snprintf(name, sizeof name, "truck-%u", i);
        put(f, name, "A", 2 * i);
        put(f, name, "B", 2 * i + 1);
    }
    for (unsigned i = 0; i < 4; i++) {
        w[i] = (struct writer){f, i, i >= 2, &split, 0};
        assert_int_equal(pthread_create(&thread[i], NULL, write_on, &w[i]), 0);
    }
    (void)run(f, "apart", SPLIT);
    atomic_store(&split, true);
    for (unsigned i = 0; i < 4; i++) {
        (void)pthread_join(thread[i], NULL);
        assert_int_equal(w[i].refused, 0);
    }
    a = audit(f);
    assert_int_equal(a.streams, TRUCKS);
    assert_int_equal(a.copies + a.newer, 2 * TRUCKS + 4 * EVENTS);
    for (unsigned i = 0; i < TRUCKS; i++) {
        (void)snprintf(name, sizeof name, "truck-%u", i);
        old += count(f, &(struct log_read){.stream = slice_str(name)});
    }
    assert_int_equal(old, 2 * TRUCKS + 4 * EVENTS); /* the old names have all of it */
    seen = count(f, &(struct log_read){.skip_moved = true, .skip_links = true});
    assert_int_equal(seen, 2 * TRUCKS + 4 * EVENTS); /* and a consumer each once */
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_side_by_side, setup, teardown),
        cmocka_unit_test_setup_teardown(test_consumers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commits_of_several, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deleted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rules, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unroute, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rollback, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_meanwhile, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
