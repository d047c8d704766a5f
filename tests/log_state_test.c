/*
 * What holds for a stream beside its events: deletion, tombstone, truncation, limits, metadata;
 * links; the native reads. Each story is told three times: out of memory, out of the index, and
 * after the log was opened again.
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

#define DAY INT64_C(86400000000)

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
    (void)s;
    (void)err;
    *(unsigned *)arg += 1;
    return 0;
}

static unsigned
listed(struct fix *f, const char *prefix)
{
    unsigned n = 0;

    assert_int_equal(log_streams(f->log, slice_str(prefix), slice_str(""), ignore, &n, &f->err), 0);
    return n;
}

/* Between two looks: nothing, into the index, or closed and opened. */
static void
turn(struct fix *f, int round)
{
    if (round == 1)
        (void)listed(f, "");
    if (round == 2) {
        log_close(f->log);
        open_log(f);
    }
}

static int
commit(struct fix *f, struct log_write *w, struct log_change *c)
{
    int rc;

    f->req = (struct log_req){
        .writes = w, .write_count = w != NULL, .changes = c, .change_count = c != NULL};
    rc = log_append(f->log, &f->req);
    f->err = f->req.err;
    return rc;
}

static int
append_typed(struct fix *f, const char *stream, int64_t expected, const char *type,
             const char *data, int64_t created_us)
{
    struct log_new_event e = {.type = slice_str(type),
                              .data = slice_str(data),
                              .created_us = created_us,
                              .flags = LOG_JSON};
    struct log_write     w = {
            .stream = slice_str(stream), .expected = expected, .events = &e, .count = 1};

    return commit(f, &w, NULL);
}

static int
append(struct fix *f, const char *stream, int64_t expected)
{
    return append_typed(f, stream, expected, "t", "1", 0);
}

static void
append_many(struct fix *f, const char *stream, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(append(f, stream, LOG_ANY), 0);
}

static int
change(struct fix *f, const char *stream, int64_t expected, uint32_t what, uint64_t truncate)
{
    struct log_change c = {
        .stream = slice_str(stream), .expected = expected, .what = what, .truncate = truncate};

    return commit(f, NULL, &c);
}

static int
limits(struct fix *f, const char *stream, uint64_t max_count, int64_t max_age_us)
{
    struct log_change c = {.stream = slice_str(stream),
                           .expected = LOG_ANY,
                           .what = LOG_SET_LIMITS,
                           .max_count = max_count,
                           .max_age_us = max_age_us};

    return commit(f, NULL, &c);
}

/* "3,4,5", what open answers where it is not 0, or what ends the read where that is not E_END. */
static const char *
read_with(struct fix *f, struct log_read read)
{
    static char      text[1024];
    struct log_iter *it;
    struct log_event e;
    size_t           n = 0;
    int              rc = log_iter_open(f->log, &read, &it, &f->err);

    text[0] = '\0';
    if (rc != 0)
        return err_name(rc);
    while ((rc = log_iter_next(it, &e, &f->err)) == 0 || rc == E_MORE)
        if (rc == 0)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%llu", n > 0 ? "," : "",
                                  (unsigned long long)e.version);
    log_iter_close(it);
    return rc == E_END ? text : err_name(rc);
}

static const char *
versions(struct fix *f, const char *stream, bool backwards)
{
    return read_with(f, (struct log_read){.stream = slice_str(stream),
                                          .from = backwards ? UINT64_MAX : 0,
                                          .backwards = backwards});
}

static const char *
all_of(struct fix *f, const char *prefix, bool raw)
{
    return read_with(f, (struct log_read){.filter = {.prefix = slice_str(prefix)}, .raw = raw});
}

static void
truncation_hides_at_once(void **state)
{
    struct fix *f = *state;

    for (int round = 0; round < 3; round++) {
        char              name[32];
        struct log_stream info;

        (void)snprintf(name, sizeof name, "cut-%d", round);
        append_many(f, name, 6);
        turn(f, round);
        assert_int_equal(change(f, name, 5, LOG_SET_TRUNCATE, 4), 0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "4,5");
        assert_string_equal(versions(f, name, true), "5,4");
        assert_string_equal(all_of(f, name, false), "4,5");
        assert_string_equal(all_of(f, name, true), "0,1,2,3,4,5");
        assert_int_equal(log_stream_info(f->log, slice_str(name), &info, &f->err), 0);
        assert_int_equal(info.first, 4);
        assert_int_equal(info.head, 5);
        assert_int_not_equal(info.first_pos.v, 0);
        /* It never goes back, and stops at the stream's end. */
        assert_int_equal(change(f, name, LOG_ANY, LOG_SET_TRUNCATE, 1), 0);
        assert_string_equal(versions(f, name, false), "4,5");
        assert_int_equal(change(f, name, LOG_ANY, LOG_SET_TRUNCATE, 100), 0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "");
        assert_string_equal(versions(f, name, true), "");
        assert_int_equal(log_stream_info(f->log, slice_str(name), &info, &f->err), 0);
        assert_int_equal(info.first, 6);
        assert_int_equal(append(f, name, 5), 0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "6");
    }
}

static void
truncation_reaches_a_reader_on_its_way(void **state)
{
    struct fix      *f = *state;
    struct log_read  read = {.stream = slice_str("way-1")};
    struct log_iter *it;
    struct log_event e;

    append_many(f, "way-1", 10);
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_int_equal(e.version, 0);
    assert_int_equal(change(f, "way-1", LOG_ANY, LOG_SET_TRUNCATE, 7), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_int_equal(e.version, 7);
    assert_int_equal(change(f, "way-1", LOG_ANY, LOG_SET_DELETED, 0), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), E_NOTFOUND);
    assert_int_equal(log_iter_next(it, &e, &f->err), E_NOTFOUND);
    assert_int_equal(append(f, "way-1", LOG_NO_STREAM), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_int_equal(e.version, 10);
    assert_int_equal(log_iter_next(it, &e, &f->err), E_END);
    assert_int_equal(change(f, "way-1", LOG_ANY, LOG_SET_TOMBSTONE, 0), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), E_GONE);
    log_iter_close(it);
}

static void
deleted_streams_come_back_and_go_on_numbering(void **state)
{
    struct fix *f = *state;

    for (int round = 0; round < 3; round++) {
        char              name[32];
        struct log_stream info;

        (void)snprintf(name, sizeof name, "gone-%d", round);
        append_many(f, name, 3);
        assert_int_equal(change(f, name, 1, LOG_SET_DELETED, 0), E_WRONG_VERSION);
        turn(f, round);
        assert_int_equal(change(f, name, 2, LOG_SET_DELETED, 0), 0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "not-found");
        assert_string_equal(versions(f, name, true), "not-found");
        assert_string_equal(all_of(f, name, false), "");
        assert_int_equal(log_stream_info(f->log, slice_str(name), &info, &f->err), E_NOTFOUND);
        assert_int_equal(listed(f, name), 0);
        assert_int_equal(append(f, name, LOG_EXISTS), E_WRONG_VERSION);
        assert_int_equal(f->req.wrong_actual, LOG_NO_STREAM);
        turn(f, round);
        assert_int_equal(append(f, name, round == 1 ? 2 : LOG_NO_STREAM), 0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "3");
        assert_string_equal(all_of(f, name, false), "3");
        assert_int_equal(listed(f, name), 1);
        assert_int_equal(append(f, name, 3), 0);
        assert_string_equal(versions(f, name, true), "4,3");
    }
}

static void
tombstones_are_for_good(void **state)
{
    struct fix *f = *state;

    for (int round = 0; round < 3; round++) {
        char              name[32];
        struct log_stream info;

        (void)snprintf(name, sizeof name, "dead-%d", round);
        if (round != 1)
            append_many(f, name, 3);
        assert_int_equal(change(f, name, LOG_ANY, LOG_SET_TOMBSTONE, 0), 0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "gone");
        assert_string_equal(all_of(f, name, false), "");
        assert_int_equal(log_stream_info(f->log, slice_str(name), &info, &f->err), E_GONE);
        assert_int_equal(listed(f, name), 0);
        assert_int_equal(append(f, name, LOG_ANY), E_GONE);
        assert_int_equal(f->req.gone_flags & LOG_STREAM_TOMBSTONE, LOG_STREAM_TOMBSTONE);
        assert_int_equal(append(f, name, LOG_NO_STREAM), E_GONE);
        assert_int_equal(change(f, name, LOG_ANY, LOG_SET_DELETED, 0), E_GONE);
        assert_int_equal(change(f, name, LOG_ANY, LOG_SET_TOMBSTONE, 0), E_GONE);
    }
}

static void
closed_streams_stay_readable(void **state)
{
    struct fix *f = *state;

    append_many(f, "shut-1", 2);
    assert_int_equal(change(f, "shut-1", LOG_ANY, LOG_SET_CLOSED, 0), 0);
    assert_int_equal(append(f, "shut-1", LOG_ANY), E_GONE);
    assert_int_equal(f->req.gone_flags, LOG_STREAM_CLOSED);
    assert_string_equal(versions(f, "shut-1", false), "0,1");
    assert_int_equal(change(f, "shut-1", LOG_ANY, LOG_SET_OPEN, 0), 0);
    assert_int_equal(append(f, "shut-1", 1), 0);
}

static void
limits_hide_what_is_too_many_or_too_old(void **state)
{
    struct fix *f = *state;
    int64_t     now = env_real()->ops->wall_us(env_real());

    for (int round = 0; round < 3; round++) {
        char name[32];

        (void)snprintf(name, sizeof name, "few-%d", round);
        /* Before the stream is there. */
        assert_int_equal(limits(f, name, 2, 0), 0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "not-found");
        assert_int_equal(append(f, name, LOG_NO_STREAM), 0);
        append_many(f, name, 4);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "3,4");
        assert_string_equal(versions(f, name, true), "4,3");
        assert_string_equal(all_of(f, name, false), "3,4");
        assert_int_equal(limits(f, name, 4, 0), 0);
        assert_string_equal(versions(f, name, false), "1,2,3,4");
        assert_int_equal(limits(f, name, 0, 0), 0);
        assert_string_equal(versions(f, name, false), "0,1,2,3,4");
        (void)snprintf(name, sizeof name, "old-%d", round);
        for (int i = 0; i < 4; i++)
            assert_int_equal(append_typed(f, name, LOG_ANY, "t", "1", now - (3 - i) * DAY), 0);
        assert_int_equal(limits(f, name, 0, DAY + DAY / 2), 0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "2,3");
        assert_string_equal(versions(f, name, true), "3,2");
        assert_string_equal(all_of(f, name, false), "2,3");
    }
}

static void
categories_have_a_retention(void **state)
{
    struct fix          *f = *state;
    struct log_retention list[] = {{slice_str("zoo"), 1, 0}, {slice_str("row"), 2, 0}};
    struct log_stream    info;

    append_many(f, "row-1", 4);
    append_many(f, "row", 4);
    append_many(f, "rows-1", 4);
    assert_string_equal(versions(f, "row-1", false), "0,1,2,3");
    assert_int_equal(log_set_retention(f->log, list, 2, &f->err), 0);
    assert_string_equal(versions(f, "row-1", false), "2,3");
    assert_string_equal(all_of(f, "row-", false), "2,3");
    assert_string_equal(versions(f, "row", false), "0,1,2,3");
    assert_string_equal(versions(f, "rows-1", false), "0,1,2,3");
    assert_int_equal(log_stream_info(f->log, slice_str("row-1"), &info, &f->err), 0);
    assert_int_equal(info.first, 2);
    assert_int_equal(info.max_count, 2);
    /* The stream's own comes first. */
    assert_int_equal(limits(f, "row-1", 3, 0), 0);
    assert_string_equal(versions(f, "row-1", false), "1,2,3");
    assert_int_equal(log_set_retention(f->log, NULL, 0, &f->err), 0);
    assert_string_equal(versions(f, "row-1", false), "1,2,3");
    f->conf.retention = list;
    f->conf.retention_count = 2;
    append_many(f, "zoo-1", 3);
    log_close(f->log);
    open_log(f);
    assert_string_equal(versions(f, "zoo-1", false), "2");
}

static void
metadata_makes_the_change(void **state)
{
    struct fix *f = *state;

    for (int round = 0; round < 3; round++) {
        char name[32], meta[34];

        (void)snprintf(name, sizeof name, "meta-%d", round);
        (void)snprintf(meta, sizeof meta, "$$%s", name);
        append_many(f, name, 5);
        assert_int_equal(append_typed(f, meta, LOG_NO_STREAM, LOG_META_TYPE,
                                      "{\"$maxCount\":3,\"mine\":[1]}", 0),
                         0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "2,3,4");
        assert_int_equal(append_typed(f, meta, 0, LOG_META_TYPE, "{\"$tb\":4}", 0), 0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "4");
        assert_string_equal(versions(f, meta, false), "1"); /* the last one counts */
        assert_int_equal(
            append_typed(f, meta, 1, LOG_META_TYPE, "{\"$tb\":9223372036854775807}", 0), 0);
        turn(f, round);
        assert_string_equal(versions(f, name, false), "not-found");
        assert_int_equal(append(f, name, LOG_NO_STREAM), 0);
        assert_string_equal(versions(f, name, false), "5");
    }
}

static void
bad_metadata_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{",
        "{\"$maxCount\":0}",
        "{\"$maxCount\":-1}",
        "{\"$maxCount\":1.5}",
        "{\"$maxCount\":\"3\"}",
        "{\"$maxCount\":9223372036854775808}",
        "{\"$maxAge\":0}",
        "{\"$maxAge\":{}}",
        "{\"$tb\":-1}",
        "{\"$tb\":9223372036854775808}",
        "{\"$cacheControl\":0}",
        "{\"$acl\":[]}",
        "{\"$acl\":{\"$r\":3}}",
        "{\"$acl\":{\"$mw\":[\"a\",1]}}",
        "{\"$tb\":1,\"$tb\":2}",
    };
    struct fix     *f = *state;
    struct log_meta m;
    char           *big = malloc(LOG_META_MAX + 3);

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(append_typed(f, "$$m-1", LOG_ANY, LOG_META_TYPE, bad[i], 0), E_INVALID);
    assert_int_equal(append_typed(f, "$$m-1", LOG_ANY, "other", "{}", 0), E_INVALID);
    assert_int_equal(append_typed(f, "$$$m-1", LOG_ANY, LOG_META_TYPE, "{}", 0), E_INVALID);
    assert_int_equal(append_typed(f, "$$", LOG_ANY, LOG_META_TYPE, "{}", 0), E_INVALID);
    memset(big, ' ', LOG_META_MAX + 2);
    memcpy(big, "{}", 2);
    big[LOG_META_MAX + 2] = '\0';
    assert_int_equal(append_typed(f, "$$m-1", LOG_ANY, LOG_META_TYPE, big, 0), E_LIMIT);
    free(big);
    assert_string_equal(versions(f, "$$m-1", false), "not-found");
    assert_int_equal(log_meta_parse(slice_str("{\"$maxAge\":9223372036854775807,\"$maxCount\":null,"
                                              "\"$acl\":{\"$r\":\"a\",\"$w\":[\"b\"]}}"),
                                    &m, &f->err),
                     0);
    assert_true(m.max_age_us > 0);
    assert_int_equal(m.max_count, 0);
    assert_true(slice_is(m.acl, "{\"$r\":\"a\",\"$w\":[\"b\"]}"));
}

static void
bad_changes_are_refused(void **state)
{
    struct fix          *f = *state;
    struct log_new_event e = {.type = slice_str("t"), .data = slice_str("1")};
    struct log_write     w = {
            .stream = slice_str("b-1"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_change c[2] = {
        {.stream = slice_str("b-1"), .expected = LOG_ANY, .what = LOG_SET_TRUNCATE, .truncate = 1},
        {.stream = slice_str("b-1"), .expected = LOG_ANY, .what = LOG_SET_DELETED}};
    struct log_req req = {
        .writes = &w, .write_count = 1, .changes = c, .change_count = 2, .flags = 0};
    static const char *const taken[] = {"$ce-a", "$et-a", "$streams", "$all"};

    assert_int_equal(log_append(f->log, &req), E_INVALID); /* one stream, two changes */
    assert_int_equal(change(f, "b-1", LOG_ANY, 0, 0), E_INVALID);
    assert_int_equal(change(f, "b-1", LOG_ANY, LOG_SET_OPEN | LOG_SET_CLOSED, 0), E_INVALID);
    assert_int_equal(change(f, "b-1", LOG_ANY, 1u << 20, 0), E_INVALID);
    assert_int_equal(change(f, "", LOG_ANY, LOG_SET_DELETED, 0), E_INVALID);
    assert_int_equal(limits(f, "b-1", 0, -1), E_INVALID);
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        req = (struct log_req){.writes = &w, .write_count = 1, .flags = LOG_SYSTEM};
        w.stream = slice_str(taken[i]);
        assert_int_equal(log_append(f->log, &req), E_INVALID);
    }
    assert_string_equal(all_of(f, "", true), "");
}

/* Events and what holds after them are one commit: here a rewrite in place. */
static void
events_and_change_go_together(void **state)
{
    struct fix          *f = *state;
    struct log_new_event e[2] = {{.type = slice_str("t"), .data = slice_str("1")},
                                 {.type = slice_str("t"), .data = slice_str("2")}};
    struct log_write  w = {.stream = slice_str("place-1"), .expected = 2, .events = e, .count = 2};
    struct log_change c = {
        .stream = slice_str("place-1"), .expected = 2, .what = LOG_SET_TRUNCATE, .truncate = 3};

    append_many(f, "place-1", 3);
    assert_int_equal(commit(f, &w, &c), 0);
    assert_int_equal(w.first_version, 3);
    assert_string_equal(versions(f, "place-1", false), "3,4");
    assert_int_equal(commit(f, &w, &c), E_WRONG_VERSION);
    assert_string_equal(versions(f, "place-1", false), "3,4");
    log_close(f->log);
    open_log(f);
    assert_string_equal(versions(f, "place-1", false), "3,4");
}

/* A commit of which a part is there already is a new one: closed is closed for that part too. */
static void
half_repeated_commits_keep_the_rules(void **state)
{
    struct fix          *f = *state;
    struct log_new_event e[2] = {{.type = slice_str("t"), .data = slice_str("1"), .id = {{1}}},
                                 {.type = slice_str("t"), .data = slice_str("2"), .id = {{2}}}};
    struct log_write     w[2] = {
            {.stream = slice_str("half-1"), .expected = LOG_ANY, .events = &e[0], .count = 1},
            {.stream = slice_str("half-2"), .expected = LOG_NO_STREAM, .events = &e[1], .count = 1}};
    struct log_req both = {.writes = w, .write_count = 2};

    assert_int_equal(commit(f, &w[0], NULL), 0);
    append_many(f, "half-2", 2);
    assert_int_equal(change(f, "half-2", 1, LOG_SET_DELETED, 0), 0);
    assert_int_equal(change(f, "half-1", 0, LOG_SET_CLOSED, 0), 0);
    assert_int_equal(log_append(f->log, &both), E_GONE);
    assert_true(slice_is(both.wrong_stream, "half-1"));
    assert_int_equal(change(f, "half-1", 0, LOG_SET_OPEN, 0), 0);
    /* What stands already is not written twice, and so nothing of it is written. */
    assert_int_equal(log_append(f->log, &both), E_WRONG_VERSION);
    assert_true(slice_is(both.wrong_stream, "half-1"));
    assert_int_equal(both.wrong_actual, 0);
    assert_non_null(strstr(both.err.text, "only a part of these events"));
    assert_string_equal(versions(f, "half-1", false), "0");
    /* The part that is new brings its stream back. */
    assert_int_equal(commit(f, &w[1], NULL), 0);
    assert_string_equal(versions(f, "half-2", false), "2");
    assert_int_equal(change(f, "half-1", 0, LOG_SET_TOMBSTONE, 0), 0);
    e[1].id.b[0] = 3;
    w[1].expected = LOG_ANY;
    assert_int_equal(log_append(f->log, &both), E_GONE);
    assert_string_equal(versions(f, "half-2", false), "2");
}

static void
link_to(struct fix *f, const char *stream, const char *data)
{
    assert_int_equal(append_typed(f, stream, LOG_ANY, "$>", data, 0), 0);
}

static void
links_are_followed_one_step(void **state)
{
    struct fix       *f = *state;
    struct log_read   read = {.stream = slice_str("links"), .resolve = true};
    struct log_iter  *it;
    struct log_event  e;
    static const bool dangles[] = {false, true, true, true, false, true, false};

    append_many(f, "aim-1", 3);
    link_to(f, "links", "1@aim-1");
    link_to(f, "links", "7@aim-1");
    link_to(f, "links", "0@nobody");
    link_to(f, "links", "nonsense");
    link_to(f, "links", "4@links"); /* to itself: given as the link that it is */
    link_to(f, "links", "0@aim-1");
    link_to(f, "links", "2@aim-1");
    assert_int_equal(change(f, "aim-1", LOG_ANY, LOG_SET_TRUNCATE, 1), 0);
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    for (uint64_t i = 0; i < 7; i++) {
        assert_int_equal(log_iter_next(it, &e, &f->err), 0);
        assert_int_equal(e.dangling, dangles[i]);
        if (dangles[i]) {
            assert_int_equal(e.version, i);
            assert_int_equal(e.link.stream.len, 0);
            continue;
        }
        assert_true(slice_is(e.link.stream, "links"));
        assert_int_equal(e.link.version, i);
        assert_true(slice_is(e.stream, i == 4 ? "links" : "aim-1"));
    }
    assert_int_equal(log_iter_next(it, &e, &f->err), E_END);
    log_iter_close(it);
    assert_string_equal(versions(f, "links", false), "0,1,2,3,4,5,6");
}

/* The names and versions that a native read gives, as "a-1/0,b-1/0". */
static const char *
native(struct fix *f, const char *name, uint64_t from, bool backwards, bool resolve)
{
    static char     text[4096];
    struct log_read read = {
        .stream = slice_str(name), .from = from, .backwards = backwards, .resolve = resolve};
    struct log_iter *it;
    struct log_event e;
    size_t           n = 0;
    int              rc;

    text[0] = '\0';
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    while ((rc = log_iter_next(it, &e, &f->err)) == 0)
        n +=
            (size_t)snprintf(text + n, sizeof text - n, "%s%.*s/%llu", n > 0 ? "," : "",
                             SLICE_FMT(slice_is(e.stream, "$streams") ? e.data : e.stream),
                             slice_is(e.stream, "$streams") ? 0ULL : (unsigned long long)e.version);
    assert_int_equal(rc, E_END);
    log_iter_close(it);
    return text;
}

static void
native_reads_go_by_position(void **state)
{
    struct fix *f = *state;

    for (int round = 0; round < 3; round++) {
        uint64_t second;

        if (round == 0) {
            append_many(f, "a-1", 1);
            assert_int_equal(append_typed(f, "b-1", LOG_ANY, "u", "1", 0), 0);
            second = f->req.pos.v;
            append_many(f, "a-2", 2);
            append_many(f, "a", 1);
        }
        turn(f, round);
        assert_string_equal(native(f, "$ce-a", 0, false, false), "a-1/0,a-2/0,a-2/1");
        assert_string_equal(native(f, "$ce-a", UINT64_MAX, true, false), "a-2/1,a-2/0,a-1/0");
        assert_string_equal(native(f, "$ce-nothing", 0, false, false), "");
        assert_string_equal(native(f, "$et-u", 0, false, false), "b-1/0");
        assert_string_equal(native(f, "$et-t", UINT64_MAX, true, false), "a/0,a-2/1,a-2/0,a-1/0");
        assert_string_equal(native(f, "$streams", 0, false, false),
                            "0@a-1/0,0@b-1/0,0@a-2/0,0@a/0");
        assert_string_equal(native(f, "$streams", UINT64_MAX, true, false),
                            "0@a/0,0@a-2/0,0@b-1/0,0@a-1/0");
        assert_string_equal(native(f, "$streams", 0, false, true), "a-1/0,b-1/0,a-2/0,a/0");
        if (round == 0)
            assert_string_equal(native(f, "$streams", second, false, false),
                                "0@b-1/0,0@a-2/0,0@a/0");
    }
    assert_int_equal(change(f, "a-2", LOG_ANY, LOG_SET_TRUNCATE, 1), 0);
    assert_int_equal(change(f, "b-1", LOG_ANY, LOG_SET_DELETED, 0), 0);
    assert_string_equal(native(f, "$ce-a", 0, false, false), "a-1/0,a-2/1");
    assert_string_equal(native(f, "$et-u", 0, false, false), "");
    assert_string_equal(native(f, "$streams", 0, false, false), "0@a-1/0,0@a-2/0,0@a/0");
    append_many(f, "a-3", 1);
    assert_string_equal(native(f, "$ce-a", 0, false, false), "a-1/0,a-2/1,a-3/0");
    assert_string_equal(native(f, "$ce-a", UINT64_MAX, true, false), "a-3/0,a-2/1,a-1/0");
}

/* What the caller filters by and what the name says both hold, out of memory and out of the index.
 */
static void
native_reads_are_filtered(void **state)
{
    struct fix     *f = *state;
    struct log_read read = {.stream = slice_str("$ce-a")};

    assert_string_equal(native(f, "$ce-a", UINT64_MAX, true, false), "");
    assert_string_equal(native(f, "$streams", UINT64_MAX, true, false), "");
    append_many(f, "a-1", 1);
    assert_string_equal(native(f, "$ce-a", UINT64_MAX, true, false), "a-1/0");
    for (int round = 0; round < 3; round++) {
        turn(f, round);
        read.stream = slice_str("$ce-a");
        read.filter = (struct log_filter){.category = slice_str("b")};
        assert_string_equal(read_with(f, read), "");
        read.filter.category = slice_str("a");
        assert_string_equal(read_with(f, read), "0");
        read.stream = slice_str("$et-t");
        read.filter = (struct log_filter){.type = slice_str("u")};
        assert_string_equal(read_with(f, read), "");
        read.stream = slice_str("$streams"); /* links, whatever the type of version 0 */
        read.filter.type = slice_str("t");
        assert_string_equal(read_with(f, read), "");
        read.filter.type = slice_str("$>");
        assert_string_not_equal(read_with(f, read), "");
    }
}

/* A stream that a quiet commit began is listed like any other. */
static void
quiet_streams_are_there(void **state)
{
    struct fix          *f = *state;
    struct log_new_event e = {.type = slice_str("t"), .data = slice_str("1")};
    struct log_write     w = {
            .stream = slice_str("q-1"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req req = {.writes = &w, .write_count = 1, .flags = LOG_QUIET};

    assert_int_equal(log_append(f->log, &req), 0);
    for (int round = 0; round < 3; round++) {
        turn(f, round);
        assert_string_equal(native(f, "$streams", 0, false, false), "0@q-1/0");
        assert_string_equal(native(f, "$ce-q", 0, false, false), "");
    }
}

/* From the list into what is live: no gap, no double. */
static void
native_reads_go_on_live(void **state)
{
    struct fix      *f = *state;
    struct log_read  read = {.stream = slice_str("$ce-live")};
    struct log_iter *it;
    struct log_event e;
    unsigned         got = 0;

    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    for (unsigned i = 0; i < 300; i++) {
        char name[32];

        (void)snprintf(name, sizeof name, "live-%u", i % 7);
        append_many(f, name, 1);
        append_many(f, "other-1", 1);
        if (i % 50 == 49)
            (void)listed(f, "");
        while (i % 20 == 19 && log_iter_next(it, &e, &f->err) == 0) {
            assert_int_equal(e.version, got / 7);
            got++;
        }
    }
    assert_int_equal(got, 300);
    log_iter_close(it);
}

static void
patience_ends_a_long_look(void **state)
{
    struct fix      *f = *state;
    struct log_read  read = {.filter = {.prefix = slice_str("rare-")}, .patience = 4096};
    struct log_iter *it;
    struct log_event e;
    unsigned         more = 0;
    int              rc;

    append_many(f, "often-1", 1000);
    append_many(f, "rare-1", 1);
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    while ((rc = log_iter_next(it, &e, &f->err)) == E_MORE)
        more++;
    assert_int_equal(rc, 0);
    assert_true(slice_is(e.stream, "rare-1"));
    assert_true(more > 10);
    log_iter_close(it);
    read.backwards = true;
    read.from = UINT64_MAX;
    read.filter.prefix = slice_str("none-");
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    for (more = 0; (rc = log_iter_next(it, &e, &f->err)) == E_MORE;)
        more++;
    assert_int_equal(rc, E_END);
    assert_true(more > 10);
    log_iter_close(it);
}

#define STORY(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        STORY(truncation_hides_at_once),
        STORY(truncation_reaches_a_reader_on_its_way),
        STORY(deleted_streams_come_back_and_go_on_numbering),
        STORY(tombstones_are_for_good),
        STORY(closed_streams_stay_readable),
        STORY(limits_hide_what_is_too_many_or_too_old),
        STORY(categories_have_a_retention),
        STORY(metadata_makes_the_change),
        STORY(bad_metadata_is_refused),
        STORY(bad_changes_are_refused),
        STORY(events_and_change_go_together),
        STORY(half_repeated_commits_keep_the_rules),
        STORY(links_are_followed_one_step),
        STORY(native_reads_go_by_position),
        STORY(native_reads_are_filtered),
        STORY(quiet_streams_are_there),
        STORY(native_reads_go_on_live),
        STORY(patience_ends_a_long_look),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
