/*
 * What consumers see of moved streams: each event once with `skip_moved`, wherever the
 * consumer begins and whatever it filters, out of memory, out of the index, after the log was
 * opened again, after what the moves hid was scavenged, and with an index that was made after that.
 * The commits are those of docs/surgery.md.
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

#define EVENTS 16
#define DATA 20000
#define META 2048
#define TEXT 512

struct original {
    char           stream[8];
    uint64_t       version;
    struct log_pos pos;
};

struct fix {
    char            dir[64];
    struct log     *log;
    struct log_conf conf;
    struct log_req  req;
    struct err      err;
    struct original originals[EVENTS];
    unsigned        count, scavenged;
    /* a commit being built */
    struct log_write     w[4];
    struct log_new_event e[4][EVENTS];
    char                 data[4][EVENTS][64], meta[4][EVENTS][META];
    struct log_change    changes[4];
    unsigned             writes, change_count;
    char                 pad[DATA];
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
    memset(f->pad, 'x', sizeof f->pad);
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

/* commits */

static void
commit(struct fix *f)
{
    f->req = (struct log_req){.writes = f->w,
                              .write_count = f->writes,
                              .changes = f->changes,
                              .change_count = f->change_count,
                              .flags = LOG_MOVED_OK};
    if (log_append(f->log, &f->req) != 0)
        fail_msg("append: %s", f->req.err.text);
    f->writes = f->change_count = 0;
    memset(f->e, 0, sizeof f->e);
    memset(f->w, 0, sizeof f->w);
    memset(f->changes, 0, sizeof f->changes);
}

static struct log_new_event *
add(struct fix *f, const char *stream, const char *type, const char *data)
{
    struct log_new_event *e;
    unsigned              i = 0;

    while (i < f->writes && !slice_is(f->w[i].stream, stream))
        i++;
    if (i == f->writes)
        f->w[f->writes++] =
            (struct log_write){.stream = slice_str(stream), .expected = LOG_ANY, .events = f->e[i]};
    e = &f->e[i][f->w[i].count];
    (void)snprintf(f->data[i][f->w[i].count], sizeof f->data[i][0], "%s", data);
    *e = (struct log_new_event){
        .type = slice_str(type), .data = slice_str(f->data[i][f->w[i].count++]), .flags = LOG_JSON};
    return e;
}

/* Events with data and metadata; the first byte of the data is the event's letter. */
static void
put(struct fix *f, const char *stream, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct original *o = &f->originals[f->count];
        struct log_event ev;
        struct log_read  read = {.from = UINT64_MAX, .backwards = true};
        struct log_iter *it;

        (void)add(f, stream, "t", "");
        f->pad[0] = (char)('a' + f->count++);
        f->e[0][0].data = slice_of(f->pad, sizeof f->pad);
        f->e[0][0].flags = 0;
        commit(f);
        assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
        assert_int_equal(log_iter_next(it, &ev, &f->err), 0);
        (void)snprintf(o->stream, sizeof o->stream, "%s", stream);
        o->version = ev.version;
        o->pos = ev.pos;
        log_iter_close(it);
    }
}

/* One event for these originals ("ab": of a and b); its letter is the first one, in upper case. */
static void
copy(struct fix *f, const char *to, const char *letters)
{
    char                  data[2] = {(char)(letters[0] - 'a' + 'A'), '\0'};
    struct log_new_event *e = add(f, to, "t", data);
    size_t                i = 0, at;
    char                 *meta;

    while (!slice_is(f->w[i].stream, to))
        i++;
    meta = f->meta[i][f->w[i].count - 1];
    at = (size_t)snprintf(meta, META, "{\"k\":1,\"$copiedFrom\":[");
    for (const char *l = letters; *l != '\0'; l++) {
        const struct original o = f->originals[*l - 'a'];

        at += (size_t)snprintf(meta + at, META - at,
                               "%s{\"stream\":\"%s\",\"type\":\"t\",\"version\":%u,"
                               "\"position\":%llu,\"created\":\"2026-01-01T00:00:00Z\","
                               "\"id\":\"00000000-0000-0000-0000-000000000000\"}",
                               l == letters ? "" : ",", o.stream, (unsigned)o.version,
                               (unsigned long long)o.pos.v);
    }
    (void)snprintf(meta + at, META - at, "]}");
    e->meta = slice_str(meta);
    e->flags = 0;
}

static void
from(struct fix *f, const char *to, const char *stream, unsigned first, unsigned last)
{
    char text[64];

    (void)snprintf(text, sizeof text,
                   "{\"stream\":\"%s\",\"first\":%u,\"last\":%u,\"surgery\":\"x\"}", stream, first,
                   last);
    (void)add(f, to, "MigratedFrom", text);
}

static void
change(struct fix *f, const char *stream, uint32_t what, uint64_t truncate)
{
    f->changes[f->change_count++] = (struct log_change){
        .stream = slice_str(stream), .expected = LOG_ANY, .what = what, .truncate = truncate};
}

static void
moved_to(struct fix *f, const char *stream, const char *to)
{
    char text[64];

    (void)snprintf(text, sizeof text, "{\"streams\":[%s],\"reason\":\"\",\"surgery\":\"x\"}", to);
    (void)add(f, stream, LOG_MOVED_TYPE, text);
    change(f, stream, LOG_SET_MOVED, 0);
}

static void
truncate_before(struct fix *f, const char *stream, uint64_t version)
{
    change(f, stream, LOG_SET_TRUNCATE, version);
    commit(f);
}

/* reads */

static const char *
letter_of(const struct log_event *ev)
{
    static char one[2];

    if (slice_is(ev->type, "MigratedFrom"))
        return "<";
    if (slice_is(ev->type, LOG_MOVED_TYPE))
        return ">";
    if (slice_is(ev->type, "Invalidated"))
        return "!";
    one[0] = *(const char *)ev->data.data;
    return one;
}

static void
reads(struct fix *f, const struct log_read *read, const char *want, int line)
{
    char             got[TEXT] = "";
    struct log_iter *it;
    struct log_event ev;
    uint64_t         last = 0;
    int              rc;

    if (log_iter_open(f->log, read, &it, &f->err) != 0)
        fail_msg("line %d: %s", line, f->err.text);
    while ((rc = log_iter_next(it, &ev, &f->err)) == 0) {
        struct log_event again;
        char             one = letter_of(&ev)[0];

        assert_true(ev.pos.v > last);
        last = ev.pos.v;
        if (slice_is(ev.stream, "pad"))
            continue;
        (void)snprintf(got + strlen(got), sizeof got - strlen(got), "%c", one);
        if (read->stream.len > 0 || (one < 'a' && f->scavenged))
            continue;
        assert_int_equal(log_iter_at(it, ev.pos, &again, &f->err), 0);
        assert_int_equal(letter_of(&again)[0], one);
    }
    assert_int_equal(rc, E_END);
    log_iter_close(it);
    if (strcmp(got, want) != 0)
        fail_msg("line %d: read \"%s\", not \"%s\"", line, got, want);
}

static void
sees(struct fix *f, const char *category, unsigned start, const char *want, int line)
{
    struct log_read read = {.skip_moved = true, .filter = {.category = slice_str(category)}};

    read.from = read.start =
        start == 0 ? 0 : f->originals[start - 1].pos.v + 1; /* behind so many originals */
    reads(f, &read, want, line);
    if (category[0] != '\0') { /* the same by its native read */
        char name[16];

        (void)snprintf(name, sizeof name, "$ce-%s", category);
        read.filter.category = slice_str("");
        read.stream = slice_str(name);
        reads(f, &read, want, line);
    }
}

#define SEES(category, start, want) sees(f, category, start, want, __LINE__)
#define DELIVERS(want) reads(f, &(struct log_read){0}, want, __LINE__)

static void
scavenge(struct fix *f)
{
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    struct log_counts        counts;
    struct ox_gate           gate;

    for (unsigned i = 0; i < 120; i++) { /* segments are sealed */
        (void)add(f, "pad", "t", "");
        f->pad[0] = 'x';
        f->e[0][0].data = slice_of(f->pad, sizeof f->pad);
        f->e[0][0].flags = 0;
        commit(f);
    }
    assert_int_equal(log_scavenge_start(f->log, &conf, &f->err), 0);
    gate_init(&gate);
    for (;;) {
        log_scavenge_status(f->log, &s);
        if (s.state != LOG_SCAVENGE_RUNNING)
            break;
        (void)env_real()->ops->gate_wait(env_real(), &gate, 1000);
    }
    if (s.state != LOG_SCAVENGE_DONE)
        fail_msg("scavenge: %s", s.error);
    f->scavenged += s.events > 0;
    if (log_verify(f->log, NULL, NULL, &counts, &f->err) != 0)
        fail_msg("verify: %s", f->err.text);
}

static int
ignore(void *arg, const struct log_stream *s, struct err *err)
{
    (void)arg;
    (void)s;
    (void)err;
    return 0;
}

enum turn { IN_MEMORY, IN_INDEX, REOPENED, SCAVENGED, REINDEXED, TURNS };

static void
turn(struct fix *f, enum turn t)
{
    if (t == IN_INDEX)
        assert_int_equal(log_streams(f->log, slice_str(""), slice_str(""), ignore, NULL, &f->err),
                         0);
    if (t == SCAVENGED)
        scavenge(f);
    if (t == REOPENED || t == REINDEXED) {
        log_close(f->log);
        f->log = NULL;
        if (t == REINDEXED)
            assert_int_equal(log_reindex(env_real(), f->dir, &f->conf, NULL, &f->err), 0);
        open_log(f);
    }
}

/* stories */

static void
to_another_stream(void **state)
{
    struct fix *f = *state;

    put(f, "s-1", 3);
    from(f, "t-1", "s-1", 0, 2);
    copy(f, "t-1", "a");
    copy(f, "t-1", "b");
    copy(f, "t-1", "c");
    moved_to(f, "s-1", "\"t-1\"");
    commit(f);
    put(f, "t-1", 1);
    for (enum turn t = 0; t < TURNS; t++) {
        turn(f, t);
        if (t == SCAVENGED) { /* the retention of what was moved is over */
            truncate_before(f, "s-1", 3);
            SEES("", 0, "abcd");
            DELIVERS("<ABC>d");
            scavenge(f);
            assert_int_equal(f->scavenged, 1);
        }
        SEES("", 0, t < SCAVENGED ? "abcd" : "ABCd");
        SEES("", 1, t < SCAVENGED ? "bcAd" : "BCAd");
        SEES("", 3, "ABCd");
        SEES("", 4, "");
        SEES("s", 0, t < SCAVENGED ? "abc" : "ABC");
        SEES("s", 2, t < SCAVENGED ? "c" : "C");
        SEES("t", 0, "ABCd");
        DELIVERS(t < SCAVENGED ? "abc<ABC>d" : "<ABC>d");
        reads(f,
              &(struct log_read){.skip_moved = true, .filter = {.type = slice_str(LOG_MOVED_TYPE)}},
              ">", __LINE__);
    }
}

static void
in_place_twice_and_on(void **state)
{
    struct fix *f = *state;

    put(f, "s-1", 4); /* 0 to 3; the user hides a */
    truncate_before(f, "s-1", 1);
    from(f, "s-1", "s-1", 1, 3); /* 4 */
    copy(f, "s-1", "b");
    copy(f, "s-1", "c"); /* d is dropped */
    change(f, "s-1", LOG_SET_TRUNCATE, 4);
    commit(f);
    put(f, "s-1", 1);            /* 7: e */
    from(f, "s-1", "s-1", 4, 7); /* 8 */
    copy(f, "s-1", "bc");
    copy(f, "s-1", "e");
    change(f, "s-1", LOG_SET_TRUNCATE, 8);
    commit(f);
    DELIVERS("<BE");
    SEES("", 0, "bcde");
    reads(f, &(struct log_read){.stream = slice_str("s-1"), .skip_moved = true}, "bcde", __LINE__);
    reads(f, &(struct log_read){.stream = slice_str("s-1")}, "<BE", __LINE__);
    from(f, "t-1", "s-1", 8, 10);
    copy(f, "t-1", "bc");
    from(f, "u-1", "s-1", 8, 10);
    copy(f, "u-1", "e");
    moved_to(f, "s-1", "\"t-1\",\"u-1\"");
    commit(f);
    for (enum turn t = 0; t < TURNS; t++) {
        turn(f, t);
        if (t == SCAVENGED) {
            SEES("", 0, "BE");
            SEES("", 5, "BEBE");
            change(f, "s-1", LOG_SET_DELETED, 0);
            commit(f);
            SEES("", 0, "BE");
            scavenge(f);
        }
        /* A copy of two stands once for both. */
        SEES("", 0, t < SCAVENGED ? "bcde" : "BE");
        SEES("s", 0, t < SCAVENGED ? "bcde" : "BE");
        SEES("", 2, t < SCAVENGED ? "cde" : "BE");
        SEES("", 5, t < SCAVENGED ? "BEBE" : "BE");
        SEES("t", 0, "B");
        SEES("u", 0, "E");
    }
}

/* Where a copy stood that was copied on, nothing is given. */
static void
scavenged_between(void **state)
{
    struct fix *f = *state;

    put(f, "s-1", 1);
    from(f, "s-1", "s-1", 0, 0);
    copy(f, "s-1", "a");
    f->e[0][1].data = slice_of(f->pad, sizeof f->pad);
    change(f, "s-1", LOG_SET_TRUNCATE, 1);
    commit(f);
    from(f, "t-1", "s-1", 1, 2);
    copy(f, "t-1", "a");
    moved_to(f, "s-1", "\"t-1\"");
    commit(f);
    truncate_before(f, "s-1", 3);
    SEES("s", 0, "a");
    SEES("s", 1, "");
    scavenge(f);
    assert_int_equal(f->scavenged, 1);
    SEES("", 0, "A");
    SEES("s", 0, "A");
    SEES("s", 1, "");
    SEES("t", 0, "A");
    SEES("", 1, "A");
}

static void
hidden_by_its_user(void **state)
{
    struct fix *f = *state;

    put(f, "s-1", 2);
    from(f, "s-1", "s-1", 0, 1);
    copy(f, "s-1", "a");
    copy(f, "s-1", "b");
    change(f, "s-1", LOG_SET_TRUNCATE, 2);
    commit(f);
    put(f, "s-1", 1);
    SEES("", 0, "abc");
    truncate_before(f, "s-1", 4); /* the mark too */
    for (enum turn t = 0; t < TURNS; t++) {
        turn(f, t);
        SEES("", 0, "c");
        SEES("", 2, "Bc");
        DELIVERS("Bc");
    }
    truncate_before(f, "s-1", UINT64_MAX);
    SEES("", 0, "");
}

/* What the user hides in the new stream is not given in the place of the old one either. */
static void
hidden_in_the_new_stream(void **state)
{
    struct fix *f = *state;

    put(f, "s-1", 2);
    from(f, "t-1", "s-1", 0, 1);
    copy(f, "t-1", "a");
    copy(f, "t-1", "b");
    moved_to(f, "s-1", "\"t-1\"");
    commit(f);
    truncate_before(f, "s-1", 2);
    scavenge(f);
    SEES("", 0, "AB");
    truncate_before(f, "t-1", 2);
    SEES("", 0, "B");
    scavenge(f);
    SEES("", 0, "B");
    scavenge(f); /* the stub that leads nowhere goes */
    SEES("", 0, "B");
    turn(f, REINDEXED);
    SEES("", 0, "B");
}

static void
links_are_passed_over(void **state)
{
    struct fix           *f = *state;
    struct log_new_event *e;

    put(f, "s-1", 1);
    e = add(f, "t-1", "$>", "0@s-1");
    e->flags = LOG_LINK;
    commit(f);
    DELIVERS("a0");
    reads(f, &(struct log_read){.skip_links = true}, "a", __LINE__);
    reads(f, &(struct log_read){.resolve = true, .stream = slice_str("t-1")}, "a", __LINE__);
    reads(f, &(struct log_read){.skip_links = true, .stream = slice_str("t-1")}, "", __LINE__);
    reads(f, &(struct log_read){.skip_links = true, .stream = slice_str("$ce-t")}, "", __LINE__);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(to_another_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(in_place_twice_and_on, setup, teardown),
        cmocka_unit_test_setup_teardown(scavenged_between, setup, teardown),
        cmocka_unit_test_setup_teardown(hidden_by_its_user, setup, teardown),
        cmocka_unit_test_setup_teardown(hidden_in_the_new_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(links_are_passed_over, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
