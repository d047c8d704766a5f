/*
 * Scavenging on real files: what may be read stays where it was, forwards,
 * backwards, by stream, by position and by time, while it runs, afterwards, after
 * another opening and with a new index; what nobody can read gives its disk back.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "log/log_fmt.h"
#include "tests/tmp.h"

#define STREAMS 24u
#define EVENTS_MAX 40000u
#define BIG (UINT64_C(1500) << 10)

struct ev {
    uint64_t pos, commit, version;
    unsigned stream;
    uint32_t sum;
    int64_t  time_us;
    bool     dead;
};

struct fix {
    char            dir[64];
    struct log     *log;
    struct log_conf conf;
    struct err      err;
    struct ev      *evs;
    size_t          count;
    uint64_t        next[STREAMS];
    uint64_t        random;
};

static uint64_t hidden[STREAMS]; /* below which version */
static uint64_t ids[STREAMS];

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    memset(hidden, 0, sizeof hidden);
    memset(ids, 0, sizeof ids);
    tmp_dir(f->dir, sizeof f->dir);
    f->conf.index = &log_index_lmdb;
    f->conf.segment_bytes = LOG_SEGMENT_MIN;
    f->conf.recent_events = 1000;
    f->conf.heads_bytes = 4096;
    f->evs = calloc(EVENTS_MAX, sizeof *f->evs);
    f->random = 7;
    assert_non_null(f->evs);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    log_close(f->log);
    tmp_remove(f->dir);
    free(f->evs);
    free(f);
    return 0;
}

static void
open_log(struct fix *f)
{
    if (log_open(env_real(), f->dir, &f->conf, NULL, &f->log, &f->err) != 0)
        fail_msg("open: %s", f->err.text);
}

static void
close_log(struct fix *f)
{
    log_close(f->log);
    f->log = NULL;
}

static uint64_t
pick(struct fix *f, uint64_t below)
{
    uint64_t x = f->random += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (x ^ (x >> 31)) % below;
}

static void
name_of(unsigned stream, char out[16])
{
    (void)snprintf(out, 16, "s-%u", stream);
}

/* A commit over one to three streams. */
static void
append_some(struct fix *f, uint8_t *bytes)
{
    struct log_write     w[3];
    struct log_new_event e[3][12];
    char                 names[3][16];
    struct log_req       req = {.writes = w};
    uint32_t             first = (uint32_t)pick(f, STREAMS - 3);

    memset(e, 0, sizeof e);
    req.write_count = 1 + (uint32_t)pick(f, 3);
    req.flags = pick(f, 5) == 0 ? LOG_QUIET : 0;
    for (uint32_t i = 0; i < req.write_count; i++) {
        uint32_t n = 1 + (uint32_t)pick(f, 12);

        name_of(first + i, names[i]);
        for (uint32_t k = 0; k < n; k++) {
            uint64_t len = pick(f, 300) == 0 ? BIG + pick(f, 4096) : 20 + pick(f, 900);

            e[i][k].type = slice_str("t");
            e[i][k].data = slice_of(bytes + pick(f, 4096), len);
        }
        w[i] = (struct log_write){
            .stream = slice_str(names[i]), .expected = LOG_ANY, .events = e[i], .count = n};
        f->next[first + i] += n;
    }
    if (log_append(f->log, &req) != 0)
        fail_msg("append: %s", req.err.text);
}

static void
append_all(struct fix *f, unsigned commits)
{
    uint8_t *bytes = malloc(BIG + 16384);

    assert_non_null(bytes);
    for (size_t i = 0; i < BIG + 16384; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251);
    for (unsigned i = 0; i < commits; i++)
        append_some(f, bytes);
    free(bytes);
}

static struct ev
ev_of(const struct log_event *e)
{
    struct ev ev = {.pos = e->pos.v,
                    .commit = e->commit.v,
                    .version = e->version,
                    .sum = crc32c(0, e->data.data, e->data.len),
                    .time_us = e->time_us};

    ev.stream = (unsigned)strtoul((const char *)e->stream.data + 2, NULL, 10);
    ids[ev.stream] = e->stream_id + 1;
    return ev;
}

static void
same(const struct ev *a, const struct ev *b)
{
    assert_int_equal(a->pos, b->pos);
    assert_int_equal(a->commit, b->commit);
    assert_int_equal(a->version, b->version);
    assert_int_equal(a->stream, b->stream);
    assert_int_equal(a->sum, b->sum);
    assert_int_equal(a->time_us, b->time_us);
}

static struct log_iter *
open_iter(struct fix *f, const struct log_read *read)
{
    struct log_iter *it;

    if (log_iter_open(f->log, read, &it, &f->err) != 0)
        fail_msg("open a read: %s", f->err.text);
    return it;
}

static bool
next(struct fix *f, struct log_iter *it, struct ev *out)
{
    struct log_event e;
    int              rc = log_iter_next(it, &e, &f->err);

    if (rc != 0 && rc != E_END)
        fail_msg("read: %s", f->err.text);
    if (rc == 0)
        *out = ev_of(&e);
    return rc == 0;
}

static struct log_read
read_all(uint64_t from, bool backwards)
{
    return (struct log_read){.from = from,
                             .backwards = backwards,
                             .raw = true,
                             .filter = {.system = true, .quiet = true}};
}

static void
note_all(struct fix *f)
{
    struct log_read  read = read_all(0, false);
    struct log_iter *it = open_iter(f, &read);

    for (f->count = 0; next(f, it, &f->evs[f->count]); f->count++)
        assert_true(f->count + 1 < EVENTS_MAX);
    log_iter_close(it);
}

/* From now on nobody may read the first part of most streams. */
static void
hide(struct fix *f, unsigned percent)
{
    for (unsigned i = 0; i < STREAMS; i++) {
        char              name[16];
        struct log_change change = {.expected = LOG_ANY, .what = LOG_SET_TRUNCATE};
        struct log_req    req = {.changes = &change, .change_count = 1};

        name_of(i, name);
        change.stream = slice_str(name);
        hidden[i] = i % 5 == 4 ? f->next[i] : i % 7 == 6 ? 0 : f->next[i] * percent / 100;
        change.truncate = hidden[i];
        if (f->next[i] > 0 && hidden[i] > 0 && log_append(f->log, &req) != 0)
            fail_msg("truncate: %s", req.err.text);
    }
    for (size_t i = 0; i < f->count; i++) {
        struct ev *e = &f->evs[i];

        e->dead = e->version < hidden[e->stream] && e->version + 1 < f->next[e->stream];
    }
}

/* Reads all: what is not dead has to be there, what is dead may be. How many are gone. */
static size_t
check_forwards(struct fix *f, size_t first)
{
    struct log_read  read = read_all(first < f->count ? f->evs[first].pos : UINT64_MAX, false);
    struct log_iter *it = open_iter(f, &read);
    struct ev        ev;
    size_t           i = first, gone = 0;

    while (next(f, it, &ev)) {
        for (; i < f->count && f->evs[i].pos < ev.pos; i++, gone++)
            assert_true(f->evs[i].dead);
        assert_true(i < f->count);
        same(&f->evs[i++], &ev);
    }
    for (; i < f->count; i++, gone++)
        assert_true(f->evs[i].dead);
    log_iter_close(it);
    return gone;
}

static size_t
check_backwards(struct fix *f, size_t last)
{
    struct log_read  read = read_all(f->evs[last].pos, true);
    struct log_iter *it = open_iter(f, &read);
    struct ev        ev;
    size_t           i = last + 1, gone = 0;

    while (next(f, it, &ev)) {
        for (; i > 0 && f->evs[i - 1].pos > ev.pos; i--, gone++)
            assert_true(f->evs[i - 1].dead);
        assert_true(i > 0);
        same(&f->evs[--i], &ev);
    }
    for (; i > 0; i--, gone++)
        assert_true(f->evs[i - 1].dead);
    log_iter_close(it);
    return gone;
}

static void
check_stream(struct fix *f, unsigned stream, bool backwards)
{
    char             name[16];
    struct log_read  read = {.backwards = backwards, .from = backwards ? UINT64_MAX : 0};
    struct log_iter *it;
    struct ev        ev;
    uint64_t         seen = 0, alive = 0;

    name_of(stream, name);
    read.stream = slice_str(name);
    it = open_iter(f, &read);
    while (next(f, it, &ev)) {
        assert_int_equal(ev.stream, stream);
        for (size_t i = 0; i < f->count; i++)
            if (f->evs[i].stream == stream && f->evs[i].version == ev.version) {
                same(&f->evs[i], &ev);
                seen += !f->evs[i].dead && ev.version >= hidden[stream];
            }
    }
    for (size_t i = 0; i < f->count; i++)
        alive +=
            f->evs[i].stream == stream && f->evs[i].version >= hidden[stream] && !f->evs[i].dead;
    assert_int_equal(seen, alive);
    log_iter_close(it);
}

static void
check_times(struct fix *f)
{
    struct log_pos pos;

    for (size_t i = 0; i < f->count; i += 997) {
        size_t last = i;

        while (last + 1 < f->count && f->evs[last + 1].time_us <= f->evs[i].time_us)
            last++;
        assert_int_equal(log_pos_of_time(f->log, f->evs[i].time_us, &pos, &f->err), 0);
        /* Where events are gone any position between those that are left is as good. */
        for (size_t k = 0; k < f->count; k++)
            if (!f->evs[k].dead)
                assert_int_equal(f->evs[k].pos <= pos.v, k <= last);
    }
}

static size_t
check_all(struct fix *f)
{
    size_t gone = check_forwards(f, 0);

    assert_int_equal(check_backwards(f, f->count - 1), gone);
    for (size_t i = 0; i < f->count; i += 1 + f->count / 40) {
        (void)check_forwards(f, i);
        (void)check_backwards(f, i);
    }
    for (unsigned i = 0; i < STREAMS; i++)
        if (f->next[i] > 0) {
            check_stream(f, i, false);
            check_stream(f, i, true);
        }
    check_times(f);
    return gone;
}

static void
verify(struct fix *f, size_t gone)
{
    struct log_counts counts;

    if (log_verify(f->log, NULL, NULL, &counts, &f->err) != 0)
        fail_msg("verify: %s", f->err.text);
    assert_int_equal(counts.events, f->count - gone);
}

/* Runs to its end. */
static struct log_scavenge
scavenge(struct fix *f, const struct log_scavenge_conf *conf)
{
    struct log_scavenge s;
    struct ox_gate      gate;

    gate_init(&gate);
    if (log_scavenge_start(f->log, conf, &f->err) != 0)
        fail_msg("scavenge: %s", f->err.text);
    for (;;) {
        log_scavenge_status(f->log, &s);
        if (s.state != LOG_SCAVENGE_RUNNING)
            return s;
        (void)env_real()->ops->gate_wait(env_real(), &gate, 1000);
    }
}

static uint64_t
disk_bytes(struct fix *f)
{
    struct log_info info;

    log_get_info(f->log, &info);
    return info.disk_bytes;
}

static void
fill(struct fix *f, unsigned percent)
{
    open_log(f);
    append_all(f, 500);
    note_all(f);
    assert_int_equal(check_all(f), 0);
    hide(f, percent);
}

static void
what_may_be_read_stays_where_it_was(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    uint64_t                 before;
    size_t                   gone;

    fill(f, 60);
    before = disk_bytes(f);
    s = scavenge(f, &conf);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    assert_true(s.rewritten > 3);
    assert_true(s.examined >= s.rewritten);
    gone = check_all(f);
    assert_int_equal(gone, s.events);
    assert_true(gone > f->count / 4);
    assert_int_equal(disk_bytes(f), before - s.freed_bytes);
    verify(f, gone);
    close_log(f);
    open_log(f);
    assert_int_equal(check_all(f), gone);
    close_log(f);
    assert_int_equal(log_reindex(env_real(), f->dir, &f->conf, NULL, &f->err), 0);
    open_log(f);
    assert_int_equal(check_all(f), gone);
    verify(f, gone);
    for (unsigned i = 0; i < STREAMS; i++) {
        struct log_stream info;
        char              name[16];

        name_of(i, name);
        if (f->next[i] == 0)
            continue;
        assert_int_equal(log_stream_info(f->log, slice_str(name), &info, &f->err), 0);
        assert_int_equal(info.head + 1, f->next[i]);
        assert_int_equal(info.id + 1, ids[i]);
    }
}

static void
a_dry_run_says_what_a_run_then_frees(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 5, .dry_run = true};
    struct log_scavenge      dry, s;
    uint64_t                 before;

    fill(f, 50);
    before = disk_bytes(f);
    dry = scavenge(f, &conf);
    assert_int_equal(dry.state, LOG_SCAVENGE_DONE);
    assert_true(dry.freed_bytes > 0);
    assert_int_equal(dry.written_bytes, 0);
    assert_int_equal(disk_bytes(f), before);
    assert_int_equal(check_all(f), 0);
    conf.dry_run = false;
    s = scavenge(f, &conf);
    assert_int_equal(s.freed_bytes, dry.freed_bytes);
    assert_int_equal(s.events, dry.events);
    assert_int_equal(s.rewritten, dry.rewritten);
    /* Nothing is left to do. */
    s = scavenge(f, &conf);
    assert_int_equal(s.rewritten, 0);
    assert_int_equal(s.freed_bytes, 0);
}

static void
a_second_run_goes_on_from_the_first(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    size_t                   gone;

    fill(f, 30);
    s = scavenge(f, &conf);
    gone = check_all(f);
    assert_int_equal(gone, s.events);
    hide(f, 80);
    s = scavenge(f, &conf);
    assert_true(s.rewritten > 0);
    assert_int_equal(check_all(f), gone + s.events);
    verify(f, gone + s.events);
}

static void
a_share_that_is_too_small_leaves_the_segments(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 99};
    struct log_scavenge      s;

    fill(f, 50);
    s = scavenge(f, &conf);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    assert_int_equal(s.rewritten, 0);
    assert_int_equal(check_all(f), 0);
    conf.min_share = 1;
    conf.min_age_us = INT64_C(3600) * 1000000;
    s = scavenge(f, &conf);
    assert_int_equal(s.rewritten, 0);
    conf.min_share = 101;
    assert_int_equal(log_scavenge_start(f->log, &conf, &f->err), E_INVALID);
}

/* One that reads on, and one that asked for an event by its position. */
static void
a_reader_keeps_what_it_sees(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    struct log_read          read;
    struct log_iter         *it, *at;
    struct log_event         e, e_at;
    struct ev                ev, first;
    size_t                   i = 0;

    fill(f, 90);
    read = read_all(0, false);
    it = open_iter(f, &read);
    at = open_iter(f, &read);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_int_equal(log_iter_at(at, LOG_POS(f->evs[0].pos), &e_at, &f->err), 0);
    first = ev_of(&e);
    s = scavenge(f, &conf);
    assert_true(s.events > 0);
    /* The event's bytes are still those that were given. */
    ev = ev_of(&e);
    same(&first, &ev);
    same(&f->evs[i++], &ev);
    while (next(f, it, &ev)) {
        for (; f->evs[i].pos < ev.pos; i++)
            assert_true(f->evs[i].dead);
        same(&f->evs[i++], &ev);
    }
    log_iter_close(it);
    ev = ev_of(&e_at);
    same(&first, &ev);
    log_iter_close(at);
    assert_int_equal(check_all(f), s.events);
}

static void
appends_go_on_and_repeats_are_known(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_new_event     e = {.type = slice_str("t"), .data = slice_str("x")};
    struct log_write         w = {
                .stream = slice_str("s-0"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req req = {.writes = &w, .write_count = 1};
    uint64_t       version;

    e.id.b[0] = 9;
    fill(f, 100);
    assert_int_equal(log_append(f->log, &req), 0);
    version = w.first_version;
    assert_int_equal(version, f->next[0]);
    (void)scavenge(f, &conf);
    assert_int_equal(log_append(f->log, &req), 0);
    assert_true(req.idempotent);
    assert_int_equal(w.first_version, version);
    /* An expectation that only a scavenged event could answer is refused as any other. */
    e.id.b[0] = 10;
    w.expected = 2;
    assert_int_equal(log_append(f->log, &req), E_WRONG_VERSION);
    assert_int_equal(req.wrong_actual, (int64_t)version);
}

static void
limit(struct fix *f, unsigned stream, uint64_t max_count, int64_t max_age_us)
{
    char              name[16];
    struct log_change change = {.expected = LOG_ANY,
                                .what = LOG_SET_LIMITS,
                                .max_count = max_count,
                                .max_age_us = max_age_us};
    struct log_req    req = {.changes = &change, .change_count = 1};

    name_of(stream, name);
    change.stream = slice_str(name);
    if (log_append(f->log, &req) != 0)
        fail_msg("limit: %s", req.err.text);
}

static uint64_t
first_of(struct fix *f, unsigned stream)
{
    struct log_stream info;
    char              name[16];

    name_of(stream, name);
    assert_int_equal(log_stream_info(f->log, slice_str(name), &info, &f->err), 0);
    return info.first;
}

/* What a limit hid and the scavenge removed does not come back as a stream with holes. */
static void
what_limits_hide_goes_for_good(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    uint64_t                 low;

    open_log(f);
    append_all(f, 500);
    note_all(f);
    for (unsigned i = 0; i < STREAMS; i++)
        if (f->next[i] > 0)
            limit(f, i, i % 2 == 0 ? 3 : 0, i % 2 == 0 ? 0 : 1);
    s = scavenge(f, &conf);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    assert_true(s.events > f->count / 2);
    for (unsigned i = 0; i < STREAMS; i++) {
        if (f->next[i] == 0)
            continue;
        limit(f, i, 0, 0);
        hidden[i] = first_of(f, i);
        low = i % 2 == 0 ? f->next[i] - 3 : f->next[i] - 1;
        /* Not more than was hidden, and most of it. */
        assert_true(hidden[i] <= low);
        assert_true(hidden[i] > 0);
    }
    for (size_t i = 0; i < f->count; i++)
        f->evs[i].dead = f->evs[i].version < hidden[f->evs[i].stream];
    verify(f, check_all(f));
    close_log(f);
    assert_int_equal(log_reindex(env_real(), f->dir, &f->conf, NULL, &f->err), 0);
    open_log(f);
    verify(f, check_all(f));
}

static unsigned
new_files(struct fix *f)
{
    char           path[100];
    struct dirent *e;
    unsigned       n = 0;
    DIR           *dir;

    (void)snprintf(path, sizeof path, "%s/segments", f->dir);
    dir = opendir(path);
    assert_non_null(dir);
    while ((e = readdir(dir)) != NULL)
        n += strstr(e->d_name, ".new") != NULL;
    (void)closedir(dir);
    return n;
}

static void
what_a_crash_left_is_removed(void **state)
{
    struct fix *f = *state;
    char        path[120];
    FILE       *file;

    open_log(f);
    close_log(f);
    (void)snprintf(path, sizeof path, "%s/segments/0000000000001000.seg.new", f->dir);
    file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs("half", file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(new_files(f), 1);
    open_log(f);
    assert_int_equal(new_files(f), 0);
}

/* Changes a byte of the file that holds the position of event n. */
static void
damage(struct fix *f, uint64_t first, uint64_t at)
{
    char  path[120];
    FILE *file;
    int   c;

    (void)snprintf(path, sizeof path, "%s/segments/%016llx.seg", f->dir, (unsigned long long)first);
    file = fopen(path, "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
    c = fgetc(file);
    assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
    assert_true(fputc(c ^ 0x10, file) != EOF);
    assert_int_equal(fclose(file), 0);
}

static void
header_of(struct fix *f, uint64_t first, struct seg_head *head)
{
    uint8_t bytes[SEG_HEADER];
    char    path[120];
    FILE   *file;

    (void)snprintf(path, sizeof path, "%s/segments/%016llx.seg", f->dir, (unsigned long long)first);
    file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fread(bytes, 1, sizeof bytes, file), sizeof bytes);
    assert_int_equal(fclose(file), 0);
    assert_true(fmt_seg_get(bytes, head));
}

static void
a_damaged_segment_is_told_and_left(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    struct log_counts        counts;
    struct seg_head          head = {0};
    struct log_read          read = read_all(0, false);
    struct log_iter         *it;
    struct log_event         e;
    int                      rc;

    fill(f, 60);
    close_log(f);
    damage(f, FMT_FIRST_POS, 20000);
    open_log(f);
    s = scavenge(f, &conf);
    assert_int_equal(s.state, LOG_SCAVENGE_FAILED);
    assert_int_equal(s.rc, E_DAMAGED);
    assert_non_null(strstr(s.error, "damaged at position"));
    assert_int_equal(new_files(f), 0);
    close_log(f);
    damage(f, FMT_FIRST_POS, 20000);
    open_log(f);
    s = scavenge(f, &conf);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    close_log(f);
    /* The table: nothing that it hides goes unnoticed. */
    header_of(f, FMT_FIRST_POS, &head);
    assert_int_equal(head.kind, SEG_SCAVENGED);
    assert_int_equal(head.generation, 1);
    damage(f, FMT_FIRST_POS, head.table_at + 2);
    open_log(f);
    assert_int_equal(log_verify(f->log, NULL, NULL, &counts, &f->err), E_DAMAGED);
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), E_DAMAGED);
    read = read_all(UINT64_MAX, true);
    it = open_iter(f, &read);
    while ((rc = log_iter_next(it, &e, &f->err)) == 0)
        ;
    assert_int_equal(rc, E_DAMAGED);
    log_iter_close(it);
    s = scavenge(f, &conf);
    assert_int_equal(s.rc, E_DAMAGED);
}

/* An event of so many bytes; where its commit ends. */
static struct log_req
append_bytes(struct fix *f, const char *stream, size_t len)
{
    uint8_t             *bytes = calloc(1, len + 1);
    struct log_new_event e = {.type = slice_str("t"), .data = slice_of(bytes, len)};
    struct log_write     w = {
            .stream = slice_str(stream), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req req = {.writes = &w, .write_count = 1};

    assert_non_null(bytes);
    if (log_append(f->log, &req) != 0)
        fail_msg("append: %s", req.err.text);
    free(bytes);
    return req;
}

static void
truncate_at(struct fix *f, const char *stream, uint64_t version)
{
    struct log_change change = {.stream = slice_str(stream),
                                .expected = LOG_ANY,
                                .what = LOG_SET_TRUNCATE,
                                .truncate = version};
    struct log_req    req = {.changes = &change, .change_count = 1};

    if (log_append(f->log, &req) != 0)
        fail_msg("truncate: %s", req.err.text);
}

/* The log ends where a segment does, all of it is scavenged, and then the machine stops. */
static void
what_ends_with_a_scavenged_segment_opens_after_a_crash(void **state)
{
    const size_t             around = FRAME_MIN + RECORD_MIN + sizeof "s-1" - 1 + sizeof "t" - 1;
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    struct log_req           req;
    char                     path[120];

    open_log(f);
    for (unsigned i = 0; i < 3; i++)
        (void)append_bytes(f, "s-0", 500000);
    truncate_at(f, "s-0", 2);
    req = append_bytes(f, "s-1", 10);
    req = append_bytes(f, "s-1", LOG_SEGMENT_MIN - req.end.v - around);
    assert_int_equal(req.end.v, LOG_SEGMENT_MIN);
    s = scavenge(f, &conf);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    assert_int_equal(s.rewritten, 1);
    close_log(f);
    (void)snprintf(path, sizeof path, "%s/CLEAN", f->dir);
    assert_int_equal(remove(path), 0);
    open_log(f);
    assert_int_equal(log_end(f->log).v, LOG_SEGMENT_MIN);
    (void)append_bytes(f, "s-1", 10);
    note_all(f);
    assert_int_equal(f->count, 4);
}

/* A dry run passes over the rest of an event whose beginning cannot be read, as a run does. */
static void
a_dry_run_believes_no_damaged_beginning(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1, .dry_run = true};
    struct log_scavenge      s;
    struct log_req           req;

    open_log(f);
    req = append_bytes(f, "s-0", 2 * LOG_SEGMENT_MIN);
    (void)append_bytes(f, "s-0", LOG_SEGMENT_MIN);
    close_log(f);
    damage(f, FMT_FIRST_POS, req.pos.v + 1000);
    open_log(f);
    s = scavenge(f, &conf);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    assert_true(s.examined > 1);
    assert_int_equal(s.events, 0);
}

/* What stood first behind the end that a verification goes up to is gone before it comes there. */
static int
scavenge_meanwhile(void *arg, uint64_t done_bytes, uint64_t all_bytes)
{
    struct log_scavenge_conf conf = {.min_share = 1};
    struct fix              *f = arg;

    if (f->count++ > 0)
        return 0;
    assert_true(done_bytes < all_bytes);
    for (unsigned i = 0; i < 5; i++)
        (void)append_bytes(f, "s-1", 500000);
    truncate_at(f, "s-1", 4);
    (void)append_bytes(f, "s-0", 2 * LOG_SEGMENT_MIN);
    assert_true(scavenge(f, &conf).rewritten > 0);
    return 0;
}

static void
a_verification_goes_on_beside_a_run(void **state)
{
    struct fix       *f = *state;
    struct log_counts counts;

    open_log(f);
    while (log_end(f->log).v < 10 * LOG_SEGMENT_MIN)
        (void)append_bytes(f, "s-0", 300000);
    if (log_verify(f->log, scavenge_meanwhile, f, &counts, &f->err) != 0)
        fail_msg("verify: %s", f->err.text);
    assert_true(f->count > 1);
}

#define LIMITED 256u      /* streams: as many as have their `truncate` raised in one commit */
#define SAME_PLACE 14074u /* shares its place in what a run remembers with stream 0 */

/* Events of new streams "NAME-first" and on, one of each, in few commits. */
static void
append_many(struct fix *f, const char *name, unsigned first, unsigned count, size_t len)
{
    static char          names[500][16];
    struct log_write     w[500];
    uint8_t             *bytes = calloc(1, len + 1);
    struct log_new_event e = {.type = slice_str("t"), .data = slice_of(bytes, len)};
    struct log_req       req = {.writes = w};

    assert_non_null(bytes);
    for (unsigned i = 0; i < count; i++) {
        unsigned n = req.write_count++;

        (void)snprintf(names[n], sizeof names[n], "%s-%u", name, first + i);
        w[n] = (struct log_write){
            .stream = slice_str(names[n]), .expected = LOG_ANY, .events = &e, .count = 1};
        if (n + 1 < 500 && i + 1 < count)
            continue;
        if (log_append(f->log, &req) != 0)
            fail_msg("append: %s", req.err.text);
        req.write_count = 0;
    }
    free(bytes);
}

/* One that was forgotten and found again, behind as many as go into one commit. */
static void
a_stream_that_was_found_twice_is_raised_once(void **state)
{
    const struct log_retention keep[] = {
        {.category = slice_str("x"), .max_count = 1},
        {.category = slice_str("old"), .max_age_us = INT64_C(1) << 50}};
    struct fix              *f = *state;
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    struct log_stream        info;
    char                     last[16];

    (void)snprintf(last, sizeof last, "x-%u", SAME_PLACE);
    f->conf.retention = keep;
    f->conf.retention_count = 2;
    open_log(f);
    (void)append_bytes(f, "old-0", 1);
    append_many(f, "x", 1, LIMITED - 1, 1500);
    append_many(f, "x", 1, LIMITED - 1, 1);
    append_many(f, "f", LIMITED, SAME_PLACE - LIMITED, 1);
    (void)append_bytes(f, last, 1500);
    assert_int_equal(log_stream_info(f->log, slice_str(last), &info, &f->err), 0);
    assert_int_equal(info.id, SAME_PLACE);
    (void)append_bytes(f, "old-0", 1);
    (void)append_bytes(f, last, 1);
    (void)append_bytes(f, last, 1);
    assert_true(log_end(f->log).v < LOG_SEGMENT_MIN);
    (void)append_bytes(f, "f-0", LOG_SEGMENT_MIN);
    s = scavenge(f, &conf);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    assert_int_equal(s.events, LIMITED - 1 + 2);
}

static void
one_run_at_a_time_and_it_can_be_stopped(void **state)
{
    struct fix              *f = *state;
    struct log_scavenge_conf slow = {.min_share = 1, .rate = 1}, quick = {.min_share = 1};
    struct log_scavenge      s;
    struct ox_gate           gate;

    fill(f, 60);
    log_scavenge_status(f->log, &s);
    assert_int_equal(s.state, LOG_SCAVENGE_NONE);
    assert_int_equal(log_scavenge_start(f->log, &slow, &f->err), 0);
    assert_int_equal(log_scavenge_start(f->log, &quick, &f->err), E_STATE);
    log_scavenge_stop(f->log);
    gate_init(&gate);
    for (;;) {
        log_scavenge_status(f->log, &s);
        if (s.state != LOG_SCAVENGE_RUNNING)
            break;
        (void)env_real()->ops->gate_wait(env_real(), &gate, 1000);
    }
    assert_int_equal(s.state, LOG_SCAVENGE_STOPPED);
    assert_int_equal(new_files(f), 0);
    assert_int_equal(check_all(f), s.events);
    s = scavenge(f, &quick);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    assert_int_equal(s.run, 2);
    /* A close in the middle of one leaves nothing behind. */
    hide(f, 90);
    assert_int_equal(log_scavenge_start(f->log, &slow, &f->err), 0);
    close_log(f);
    assert_int_equal(new_files(f), 0);
    f->conf.read_only = true;
    open_log(f);
    assert_int_equal(log_scavenge_start(f->log, &quick, &f->err), E_RDONLY);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_may_be_read_stays_where_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(a_dry_run_says_what_a_run_then_frees, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_run_goes_on_from_the_first, setup, teardown),
        cmocka_unit_test_setup_teardown(a_share_that_is_too_small_leaves_the_segments, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_reader_keeps_what_it_sees, setup, teardown),
        cmocka_unit_test_setup_teardown(appends_go_on_and_repeats_are_known, setup, teardown),
        cmocka_unit_test_setup_teardown(what_limits_hide_goes_for_good, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_crash_left_is_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_segment_is_told_and_left, setup, teardown),
        cmocka_unit_test_setup_teardown(what_ends_with_a_scavenged_segment_opens_after_a_crash,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_dry_run_believes_no_damaged_beginning, setup, teardown),
        cmocka_unit_test_setup_teardown(a_verification_goes_on_beside_a_run, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stream_that_was_found_twice_is_raised_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(one_run_at_a_time_and_it_can_be_stopped, setup, teardown),
    };

    return cmocka_run_group_tests_name("scavenge", tests, NULL, NULL);
}
