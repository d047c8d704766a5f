/*
 * The log at its edges, on real files: many threads at once, folders that somebody has changed by
 * hand, tasks that start late, and a disk that fails while others wait.
 */
#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "log/log_fmt.h"
#include "tests/tmp.h"

struct fix {
    char            dir[64];
    struct log     *log;
    struct log_conf conf;
    struct err      err;
};

/* The machine, but for what a test puts in its place. */
static struct ox_env_ops world_ops;
static struct ox_env     world = {&world_ops};
static atomic_bool       hold_syncs, fail_syncs;
static atomic_uint       syncs_held;

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    world_ops = *env_real()->ops;
    atomic_store(&hold_syncs, false);
    atomic_store(&fail_syncs, false);
    atomic_store(&syncs_held, 0);
    tmp_dir(f->dir, sizeof f->dir);
    f->conf.index = &log_index_lmdb;
    f->conf.segment_bytes = LOG_SEGMENT_MIN;
    f->conf.recent_events = 1000;
    f->conf.heads_bytes = 4096;
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

static void
open_log(struct fix *f)
{
    if (log_open(&world, f->dir, &f->conf, NULL, &f->log, &f->err) != 0)
        fail_msg("open: %s", f->err.text);
}

static void
close_log(struct fix *f)
{
    log_close(f->log);
    f->log = NULL;
}

static int
append(struct fix *f, const char *stream, int64_t expected, struct slice data, unsigned id)
{
    struct log_new_event e = {.type = slice_str("t"), .data = data};
    struct log_write     w = {
            .stream = slice_str(stream), .expected = expected, .events = &e, .count = 1};
    struct log_req req = {.writes = &w, .write_count = 1};

    memcpy(e.id.b, &id, sizeof id);
    return log_append(f->log, &req);
}

static void
append_bytes(struct fix *f, unsigned events, size_t bytes)
{
    char *data = calloc(1, bytes);

    for (unsigned i = 0; i < events; i++)
        assert_int_equal(append(f, "s", LOG_ANY, slice_of(data, bytes), 0), 0);
    free(data);
}

static int
compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The paths of the segments, in order; the caller's to free. */
static unsigned
segments_of(struct fix *f, char *out[128])
{
    char           path[600];
    struct dirent *e;
    unsigned       n = 0;
    DIR           *dir;

    (void)snprintf(path, sizeof path, "%s/segments", f->dir);
    dir = opendir(path);
    assert_non_null(dir);
    while ((e = readdir(dir)) != NULL) {
        if (strstr(e->d_name, ".seg") == NULL)
            continue;
        (void)snprintf(path, sizeof path, "%s/segments/%s", f->dir, e->d_name);
        assert_true(n < 128);
        out[n++] = strdup(path);
    }
    (void)closedir(dir);
    qsort(out, n, sizeof *out, compare);
    return n;
}

static void
free_paths(char **paths, unsigned n)
{
    while (n > 0)
        free(paths[--n]);
}

static void
pause_ms(long ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    (void)nanosleep(&ts, NULL);
}

/* opening */

/* A task whose first step is over before the next one is started. */
static int
start_at_once(struct ox_env *env, const struct ox_task_def *def, struct ox_task **out,
              struct err *err)
{
    (void)def->step(def->arg);
    return env_real()->ops->task_start(env, def, out, err);
}

/* Upkeep has a segment to make at once, and tells the log's task, which has to be there. */
static void
test_tasks_that_others_wake_are_there_first(void **state)
{
    struct fix *f = *state;
    char       *paths[128];
    unsigned    n;

    open_log(f);
    append_bytes(f, 16, 100000);
    close_log(f);
    n = segments_of(f, paths);
    assert_true(n >= 2);
    for (unsigned i = 1; i < n; i++)
        assert_int_equal(unlink(paths[i]), 0);
    free_paths(paths, n);
    world_ops.task_start = start_at_once;
    open_log(f);
    append_bytes(f, 1, 10);
}

static void
test_missing_first_segment_is_refused(void **state)
{
    struct fix *f = *state;
    struct log *log;
    char       *paths[128];
    unsigned    n;

    open_log(f);
    append_bytes(f, 30, 100000);
    close_log(f);
    n = segments_of(f, paths);
    assert_int_equal(unlink(paths[0]), 0);
    free_paths(paths, n);
    assert_int_equal(log_open(&world, f->dir, &f->conf, NULL, &log, &f->err), E_DAMAGED);
}

/* A folder whose segments are elsewhere (not mounted, say) is no new folder. */
static void
test_missing_segments_are_no_new_log(void **state)
{
    struct fix *f = *state;
    struct log *log;
    char       *paths[128];
    unsigned    n;

    open_log(f);
    append_bytes(f, 1, 10);
    close_log(f);
    n = segments_of(f, paths);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(unlink(paths[i]), 0);
    free_paths(paths, n);
    for (int i = 0; i < 2; i++)
        assert_int_equal(log_open(&world, f->dir, &f->conf, NULL, &log, &f->err), E_DAMAGED);
}

/* Files are sorted by their names; the header says whether that is right. */
static void
test_renamed_segment_is_refused(void **state)
{
    struct fix *f = *state;
    struct log *log;
    char       *paths[128], other[600];
    unsigned    n;

    open_log(f);
    append_bytes(f, 30, 100000);
    close_log(f);
    n = segments_of(f, paths);
    assert_true(n >= 3);
    (void)snprintf(other, sizeof other, "%s/segments/00000000ffffffff.seg", f->dir);
    assert_int_equal(rename(paths[0], other), 0);
    free_paths(paths, n);
    assert_int_equal(log_open(&world, f->dir, &f->conf, NULL, &log, &f->err), E_DAMAGED);
}

/* A header with a checksum, but not of this program's making. */
static void
test_header_that_cannot_be_is_refused(void **state)
{
    struct fix     *f = *state;
    struct log     *log;
    struct seg_head head = {0};
    uint8_t         bytes[SEG_HEADER];
    char           *paths[128];
    unsigned        n;
    FILE           *file;

    open_log(f);
    append_bytes(f, 1, 10);
    close_log(f);
    n = segments_of(f, paths);
    for (int i = 0; i < 2; i++) {
        file = fopen(paths[0], "r+b");
        assert_non_null(file);
        assert_int_equal(fread(bytes, 1, sizeof bytes, file), sizeof bytes);
        assert_true(fmt_seg_get(bytes, &head));
        head.span = i == 0 ? UINT64_MAX - 7 : UINT64_C(1) << 50;
        fmt_seg_put(bytes, &head);
        rewind(file);
        assert_int_equal(fwrite(bytes, 1, sizeof bytes, file), sizeof bytes);
        assert_int_equal(fclose(file), 0);
        assert_int_equal(log_open(&world, f->dir, &f->conf, NULL, &log, &f->err), E_DAMAGED);
    }
    free_paths(paths, n);
}

/* Names that are longer than any is: no record, whatever its checksum says. */
static void
test_names_that_cannot_be_are_refused(void **state)
{
    static const struct {
        unsigned at; /* of the length in the record */
        uint16_t len;
    } names[] = {{6, 256}, {56, 256}};
    struct fix     *f = *state;
    struct seg_head head = {0};
    struct record   r;
    uint8_t         bytes[SEG_HEADER + 1024], *at = bytes + SEG_HEADER + FRAME_HEADER;
    char           *paths[128];
    FILE           *file;

    open_log(f);
    append_bytes(f, 1, 600);
    close_log(f);
    free_paths(paths + 1, segments_of(f, paths) - 1);
    for (int i = 0; i < 2; i++) {
        file = fopen(paths[0], "r+b");
        assert_non_null(file);
        assert_int_equal(fread(bytes, 1, sizeof bytes, file), sizeof bytes);
        assert_true(fmt_seg_get(bytes, &head));
        assert_true(fmt_record_get(at, 1024 - FRAME_HEADER, fmt_seed(&head.log_id), true, &r));
        put_u16(at + names[i].at, names[i].len);
        fmt_record_seal(at, r.length, fmt_seed(&head.log_id));
        rewind(file);
        assert_int_equal(fwrite(bytes, 1, sizeof bytes, file), sizeof bytes);
        assert_int_equal(fclose(file), 0);
        assert_int_equal(log_reindex(&world, f->dir, &f->conf, NULL, &f->err), E_DAMAGED);
        put_u16(at + names[i].at, 1);
        fmt_record_seal(at, r.length, fmt_seed(&head.log_id));
        file = fopen(paths[0], "r+b");
        assert_non_null(file);
        assert_int_equal(fwrite(bytes, 1, sizeof bytes, file), sizeof bytes);
        assert_int_equal(fclose(file), 0);
    }
    assert_int_equal(log_reindex(&world, f->dir, &f->conf, NULL, &f->err), 0);
    free_paths(paths, 1);
}

/* What is not there is not made by one that may not write. */
static void
test_read_only_leaves_the_folder_alone(void **state)
{
    struct fix *f = *state;
    char        path[600];

    open_log(f);
    append_bytes(f, 1, 10);
    close_log(f);
    (void)snprintf(path, sizeof path, "%s/LOCK", f->dir);
    assert_int_equal(unlink(path), 0);
    f->conf.read_only = true;
    open_log(f);
    assert_int_equal(append(f, "s", LOG_ANY, slice_str("1"), 0), E_RDONLY);
    assert_int_equal(access(path, F_OK), -1);
}

/* A folder that was copied without its lock, or somebody's mistake. */
static void
test_reindex_needs_a_log_but_no_lock_file(void **state)
{
    struct fix *f = *state;
    char        path[600];

    assert_int_equal(log_reindex(&world, f->dir, &f->conf, NULL, &f->err), E_NOTFOUND);
    open_log(f);
    append_bytes(f, 3, 10);
    close_log(f);
    (void)snprintf(path, sizeof path, "%s/LOCK", f->dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(log_reindex(&world, f->dir, &f->conf, NULL, &f->err), 0);
}

/* running */

static int
sync_that_may_fail(struct ox_env *env, struct ox_file *file, struct err *err)
{
    if (atomic_load(&hold_syncs)) {
        atomic_fetch_add(&syncs_held, 1);
        while (atomic_load(&hold_syncs))
            pause_ms(1);
    }
    if (atomic_load(&fail_syncs))
        RETURN_ERR(err, E_IO, ERR_FATAL, "sync: the disk failed");
    return env_real()->ops->file_sync(env, file, err);
}

static void *
append_one(void *arg)
{
    struct fix *f = arg;

    (void)append(f, "late", LOG_ANY, slice_str("1"), 0);
    return NULL;
}

static int
ignore_stream(void *arg, const struct log_stream *s, struct err *err)
{
    return 0;
}

static void *
list_streams(void *arg)
{
    struct fix *f = arg;

    (void)log_streams(f->log, slice_str(""), slice_str(""), ignore_stream, NULL, NULL);
    return NULL;
}

/* Whoever waits for the index while the disk fails is answered. */
static void
test_listing_ends_where_the_disk_fails(void **state)
{
    struct fix     *f = *state;
    struct timespec until;
    pthread_t       writer, lister;

    world_ops.file_sync = sync_that_may_fail;
    open_log(f);
    append_bytes(f, 1, 10);
    pause_ms(200); /* upkeep's own syncs are over */
    atomic_store(&hold_syncs, true);
    assert_int_equal(pthread_create(&writer, NULL, append_one, f), 0);
    while (atomic_load(&syncs_held) == 0)
        pause_ms(1);
    assert_int_equal(pthread_create(&lister, NULL, list_streams, f), 0);
    pause_ms(700); /* it stands and waits; where it does not, this proves less */
    atomic_store(&fail_syncs, true);
    atomic_store(&hold_syncs, false);
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &until), 0);
    until.tv_sec += 90;
    assert_int_equal(pthread_timedjoin_np(lister, NULL, &until), 0);
    assert_int_equal(pthread_join(writer, NULL), 0);
}

static void
test_highest_expected_version(void **state)
{
    struct fix *f = *state;

    open_log(f);
    assert_int_equal(append(f, "s", LOG_ANY, slice_str("1"), 1), 0);
    assert_int_equal(append(f, "s", INT64_MAX, slice_str("1"), 1), E_WRONG_VERSION);
    assert_int_equal(append(f, "s", INT64_MAX - 1, slice_str("1"), 1), E_WRONG_VERSION);
    assert_int_equal(append(f, "s", INT64_MIN, slice_str("1"), 1), E_INVALID);
}

static void
test_info_says_when_the_last_commit_was(void **state)
{
    struct fix      *f = *state;
    struct log_info  info;
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it;
    struct log_event e;

    open_log(f);
    append_bytes(f, 1, 10);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
        assert_int_equal(log_iter_next(it, &e, &f->err), 0);
        log_get_info(f->log, &info);
        assert_true(info.last_time_us == e.time_us);
        log_iter_close(it);
        close_log(f);
        open_log(f);
    }
}

/* Positions that clients may give, whatever they are: no damage, and nothing before them. */
static void
test_reads_from_any_position(void **state)
{
    struct fix *f = *state;
    uint64_t    end;

    open_log(f);
    append_bytes(f, 3, 700000); /* padding at a segment's end */
    append_bytes(f, 1, 3000000);
    append_bytes(f, 20, 100);
    end = log_end(f->log).v;
    for (uint64_t from = 0; from<end + 100000; from += from> end - 10000 ? 7 : 4099) {
        for (int backwards = 0; backwards < 2; backwards++) {
            struct log_read  read = {.from = from, .backwards = backwards};
            struct log_iter *it;
            struct log_event e;
            int              rc;

            if (log_iter_open(f->log, &read, &it, &f->err) != 0)
                fail_msg("from %llu: %s", (unsigned long long)from, f->err.text);
            rc = log_iter_next(it, &e, &f->err);
            if (rc != 0 && rc != E_END)
                fail_msg("from %llu: %s", (unsigned long long)from, f->err.text);
            if (rc == 0)
                assert_true(backwards ? e.pos.v <= from : e.pos.v >= from);
            else
                assert_true(backwards ? from < 4096 + 64 : from > end - 200);
            log_iter_close(it);
        }
    }
}

/* The commit's limits: many streams, the longest names, and segments enough for all of it. */
static void
test_largest_commit(void **state)
{
    struct fix          *f = *state;
    uint32_t             n = 100000;
    struct log_new_event e = {.data = slice_str("1")};
    struct log_write    *w = calloc(n, sizeof *w);
    char(*names)[256] = calloc(n, sizeof *names), type[256];
    struct log_req    req = {.writes = w, .write_count = n};
    struct log_stream info;

    memset(type, 't', 255);
    e.type = slice_of(type, 255);
    for (uint32_t i = 0; i < n; i++) {
        memset(names[i], 'n', 255);
        (void)snprintf(names[i], 8, "%07u", i);
        names[i][7] = '-';
        w[i] = (struct log_write){.stream = slice_of(names[i], i % 100 == 0 ? 255 : 16),
                                  .expected = LOG_NO_STREAM,
                                  .events = &e,
                                  .count = 1};
    }
    open_log(f);
    if (log_append(f->log, &req) != 0)
        fail_msg("%s", req.err.text);
    close_log(f);
    open_log(f);
    assert_int_equal(log_stream_info(f->log, w[99900].stream, &info, &f->err), 0);
    assert_int_equal(info.id, 99900);
    free(names);
    free(w);
}

/* As many bytes as a commit may have, over many small segments. */

#define BIG_EVENTS 33
#define BIG_BYTES                                                                                  \
    ((size_t)2000000) /* of data: one event never fits into one segment with another */

static _Atomic unsigned syncs_left;

static int
sync_so_often(struct ox_env *env, struct ox_file *file, struct err *err)
{
    unsigned left = atomic_load(&syncs_left);

    while (left > 0 && !atomic_compare_exchange_weak(&syncs_left, &left, left - 1))
        ;
    if (left == 0)
        RETURN_ERR(err, E_IO, ERR_FATAL, "sync: the disk failed");
    return env_real()->ops->file_sync(env, file, err);
}

static void
fill_big(uint8_t *data, unsigned number)
{
    for (size_t i = 0; i < BIG_BYTES; i++)
        data[i] = (uint8_t)(i * 31 + i / 251 + number);
}

/* 66 MB of data are under 64 MiB, headers included. */
static int
append_big(struct fix *f)
{
    struct log_new_event *events = calloc(BIG_EVENTS, sizeof *events);
    struct log_write w = {.stream = slice_str("big"), .expected = LOG_NO_STREAM, .events = events};
    struct log_req   req = {.writes = &w, .write_count = 1};
    uint8_t         *data = malloc(BIG_EVENTS * BIG_BYTES);
    int              rc;

    w.count = BIG_EVENTS;
    for (unsigned i = 0; i < BIG_EVENTS; i++) {
        fill_big(data + i * BIG_BYTES, i);
        events[i] = (struct log_new_event){.type = slice_str("t"),
                                           .data = slice_of(data + i * BIG_BYTES, BIG_BYTES)};
        memcpy(events[i].id.b, &i, sizeof i);
    }
    rc = log_append(f->log, &req);
    err_copy(&f->err, &req.err);
    free(data);
    free(events);
    return rc;
}

/* All of it, in both directions, or nothing. */
static bool
big_is_there(struct fix *f)
{
    struct log_read  read = {.stream = slice_str("big"), .from = 0};
    struct log_iter *it;
    struct log_event e;
    uint8_t         *want = malloc(BIG_BYTES);
    int              rc;

    for (int backwards = 0; backwards < 2; backwards++) {
        read.backwards = backwards;
        read.from = backwards ? UINT64_MAX : 0;
        rc = log_iter_open(f->log, &read, &it, &f->err);
        if (rc == E_NOTFOUND) {
            assert_int_equal(backwards, 0);
            free(want);
            return false;
        }
        assert_int_equal(rc, 0);
        for (unsigned i = 0; i < BIG_EVENTS; i++) {
            unsigned number = backwards ? BIG_EVENTS - 1 - i : i;

            if (log_iter_next(it, &e, &f->err) != 0)
                fail_msg("%u: %s", number, f->err.text);
            assert_int_equal(e.version, number);
            assert_int_equal(e.data.len, BIG_BYTES);
            fill_big(want, number);
            assert_memory_equal(e.data.data, want, BIG_BYTES);
        }
        assert_int_equal(log_iter_next(it, &e, &f->err), E_END);
        log_iter_close(it);
    }
    free(want);
    return true;
}

static void
big_setup(struct fix *f)
{
    world_ops.file_sync = sync_so_often;
    atomic_store(&syncs_left, 1000000);
    open_log(f);
    append_bytes(f, 1, 100);
}

static void
test_big_commit_over_small_segments(void **state)
{
    struct fix       *f = *state;
    struct log_counts counts;
    char             *paths[128];
    unsigned          n;

    big_setup(f);
    if (append_big(f) != 0)
        fail_msg("%s", f->err.text);
    n = segments_of(f, paths);
    free_paths(paths, n);
    assert_true(n > 30);
    assert_true(big_is_there(f));
    for (int i = 0; i < 2; i++) {
        close_log(f);
        open_log(f);
        assert_true(big_is_there(f));
    }
    if (log_verify(f->log, NULL, NULL, &counts, &f->err) != 0)
        fail_msg("%s", f->err.text);
    assert_int_equal(counts.events, 1 + BIG_EVENTS);
    assert_int_equal(append(f, "s", 0, slice_str("1"), 7), 0);
}

/* The disk fails somewhere in it: after a restart it is there as a whole, or not at all. */
static void
test_big_commit_is_all_or_nothing(void **state)
{
    static const unsigned steps[] = {0, 1, 2, 9, 20, 32};
    struct fix           *f = *state;
    struct log_counts     counts;
    unsigned              failures = 0;

    for (unsigned i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        bool there;

        big_setup(f);
        atomic_store(&syncs_left, steps[i]);
        failures += append_big(f) != 0;
        close_log(f);
        atomic_store(&syncs_left, 1000000);
        open_log(f);
        there = big_is_there(f);
        if (log_verify(f->log, NULL, NULL, &counts, &f->err) != 0)
            fail_msg("%u: %s", steps[i], f->err.text);
        assert_int_equal(counts.events, there ? 1 + BIG_EVENTS : 1);
        assert_int_equal(append(f, "s", 0, slice_str("1"), 7), 0);
        if (!there)
            assert_int_equal(append_big(f), 0);
        assert_true(big_is_there(f));
        close_log(f);
        tmp_remove(f->dir);
        tmp_dir(f->dir, sizeof f->dir);
    }
    assert_true(failures > 0);
}

/* many threads */

#define THREADS 16
#define STEPS 60

struct worker {
    struct fix *f;
    unsigned    number;
    unsigned    written; /* events that were acknowledged */
    pthread_t   thread;
};

static unsigned
write_something(struct worker *w, unsigned i, const char *data)
{
    struct log_new_event e[3];
    struct log_write     wr[3];
    struct log_req       req = {.writes = wr, .write_count = 1 + i % 3};
    static const int64_t expected[] = {LOG_ANY, LOG_NO_STREAM, LOG_EXISTS, 0, 5, 17};
    char                 names[3][32];

    for (unsigned k = 0; k < req.write_count; k++) {
        (void)snprintf(names[k], sizeof names[k], "s-%u", (w->number * 7 + i * 3 + k) % 40);
        e[k] = (struct log_new_event){.type = slice_str("t"),
                                      .data = slice_of(data, i % 8 == 0 ? 60000 : 300)};
        wr[k] = (struct log_write){.stream = slice_str(names[k]),
                                   .expected = k == 0 ? expected[(w->number + i) % 6] : LOG_ANY,
                                   .events = &e[k],
                                   .count = 1};
    }
    req.flags = i % 5 == 0 ? LOG_BULK : i % 7 == 0 ? LOG_QUIET : 0;
    return log_append(w->f->log, &req) == 0 ? req.write_count : 0;
}

static void
read_something(struct worker *w, unsigned i)
{
    struct log_read   read = {.from = i % 2 == 0 ? 0 : UINT64_MAX, .backwards = i % 2 != 0};
    struct log_iter  *it;
    struct log_event  e;
    struct log_info   info;
    struct log_stream s;
    struct err        err;
    struct log_pos    pos;

    if (i % 4 >= 2)
        read.stream = slice_str("s-3");
    log_get_info(w->f->log, &info);
    (void)log_stream_info(w->f->log, slice_str("s-5"), &s, &err);
    (void)log_pos_of_time(w->f->log, info.last_time_us, &pos, &err);
    if (i % 8 == 0)
        (void)log_streams(w->f->log, slice_str(""), slice_str(""), ignore_stream, NULL, &err);
    if (log_iter_open(w->f->log, &read, &it, &err) != 0)
        return;
    for (unsigned k = 0; k < 100; k++) {
        int rc = log_iter_next(it, &e, &err);
        if (rc == E_END)
            break;
        if (rc != 0)
            fail_msg("%s", err.text);
    }
    log_iter_close(it);
}

static void *
work(void *arg)
{
    struct worker *w = arg;
    char          *data = calloc(1, 60000);

    for (unsigned i = 0; i < STEPS; i++) {
        if (w->number % 4 == 3)
            read_something(w, i);
        else
            w->written += write_something(w, i, data);
    }
    free(data);
    return NULL;
}

static void
test_many_threads(void **state)
{
    struct fix       *f = *state;
    struct worker     workers[THREADS];
    struct log_counts counts;
    uint64_t          all = 40;

    open_log(f);
    for (unsigned i = 0; i < 40; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "s-%u", i);
        assert_int_equal(append(f, name, LOG_NO_STREAM, slice_str("1"), 0), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.f = f, .number = i};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
        all += workers[i].written;
    }
    for (int i = 0; i < 2; i++) {
        if (log_verify(f->log, NULL, NULL, &counts, &f->err) != 0)
            fail_msg("%s", f->err.text);
        assert_int_equal(counts.events, all);
        close_log(f);
        open_log(f);
    }
}

static atomic_uint reads;

static int
count_reads(struct ox_env *env, struct ox_file *file, void *out, size_t len, uint64_t at,
            size_t *got, struct err *err)
{
    atomic_fetch_add(&reads, 1);
    return env_real()->ops->file_read(env_real(), file, out, len, at, got, err);
}

#define NEIGHBOURS 1000u
#define HIDDEN 300u

/* Stream i has five events; the data of event n begins with "i.n". */
static void
read_neighbour(struct fix *f, unsigned i, struct log_window *window)
{
    char             name[32], want[32];
    struct log_read  read = {.window = window};
    struct log_iter *it;
    struct log_event e;

    (void)snprintf(name, sizeof name, "n-%u", i);
    read.stream = slice_str(name);
    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    for (unsigned n = 0; n < 5; n++) {
        int len = snprintf(want, sizeof want, "%u.%u", i, n);

        assert_int_equal(log_iter_next(it, &e, &f->err), 0);
        assert_int_equal(e.version, n);
        assert_true(slice_is(e.type, "t"));
        assert_memory_equal(e.data.data, want, (size_t)len);
    }
    assert_int_equal(log_iter_next(it, &e, &f->err), E_END);
    log_iter_close(it);
}

static void
append_neighbours(struct fix *f)
{
    char name[32], *data = calloc(1, 70000);

    for (unsigned i = 0; i < NEIGHBOURS; i++) {
        for (unsigned n = 0; n < 5; n++) {
            (void)snprintf(name, sizeof name, "n-%u", i);
            (void)snprintf(data, 32, "%u.%u", i, n);
            /* Some are longer than a window. */
            assert_int_equal(
                append(f, name, LOG_ANY, slice_of(data, i % 250 == 7 ? 70000 : 200 + i % 50), 0),
                0);
        }
    }
    free(data);
}

/* Streams that stand near each other, read through one window: far fewer reads than events. Where
 * they stand here and there nothing is read ahead, for they are short. */
static void
test_neighbours_through_a_window(void **state)
{
    struct fix        *f = *state;
    struct log_window *window = NULL;

    f->conf.segment_bytes = LOG_SEGMENT_MIN * 4;
    open_log(f);
    append_neighbours(f);
    assert_int_equal(log_window_new(&window, &f->err), 0);
    world_ops.file_read = count_reads;
    atomic_store(&reads, 0);
    for (unsigned i = 0; i < NEIGHBOURS; i++)
        read_neighbour(f, i, window);
    assert_in_range(atomic_load(&reads), 10, NEIGHBOURS / 10);
    atomic_store(&reads, 0);
    for (unsigned i = 0; i < NEIGHBOURS; i++)
        read_neighbour(f, i * 307 % NEIGHBOURS, window);
    assert_in_range(atomic_load(&reads), 0, NEIGHBOURS / 50);
    for (unsigned i = NEIGHBOURS; i-- > 0;)
        read_neighbour(f, i, window);
    log_window_free(window);
    log_window_free(NULL);
}

static void
scavenge(struct fix *f)
{
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;
    struct ox_gate           gate;

    assert_int_equal(log_scavenge_start(f->log, &conf, &f->err), 0);
    gate_init(&gate);
    for (log_scavenge_status(f->log, &s); s.state == LOG_SCAVENGE_RUNNING;
         log_scavenge_status(f->log, &s))
        (void)env_real()->ops->gate_wait(env_real(), &gate, 1000);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    assert_true(s.events > 0);
}

/* What a window holds of a segment that is replaced meanwhile is not given any more. */
static void
test_window_of_a_scavenged_segment(void **state)
{
    struct fix        *f = *state;
    struct log_window *window = NULL;
    struct log_read    raw = {.stream = slice_str("n-149"), .raw = true};
    struct log_change  hide[HIDDEN];
    struct log_req     req = {.changes = hide, .change_count = HIDDEN};
    char               names[HIDDEN][32];
    struct log_iter   *it;
    struct log_event   e;

    f->conf.segment_bytes = LOG_SEGMENT_MIN * 4;
    open_log(f);
    append_neighbours(f);
    assert_int_equal(log_window_new(&window, &f->err), 0);
    for (unsigned i = 0; i < HIDDEN / 2; i++)
        read_neighbour(f, i, window);
    raw.window = window;
    assert_int_equal(log_iter_open(f->log, &raw, &it, &f->err), 0);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_int_equal(e.version, 0);
    for (unsigned i = 0; i < HIDDEN; i++) {
        (void)snprintf(names[i], sizeof names[i], "n-%u", i);
        hide[i] = (struct log_change){.stream = slice_str(names[i]),
                                      .expected = LOG_ANY,
                                      .what = LOG_SET_TRUNCATE,
                                      .truncate = 4};
    }
    assert_int_equal(log_append(f->log, &req), 0);
    append_bytes(f, 40, 250000); /* segments are sealed */
    scavenge(f);
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    assert_int_equal(e.version, 4); /* it knows where the others stood, and the window has them */
    log_iter_close(it);
    for (unsigned i = HIDDEN; i < NEIGHBOURS; i++)
        read_neighbour(f, i, window);
    log_window_free(window);
}

/* Requests in flight when the log is closed are all answered, and before log_close returns. */
static void
count_answer(struct log_req *req)
{
    atomic_fetch_add((atomic_uint *)req->arg, 1);
}

static void
test_close_answers_all(void **state)
{
    struct fix *f = *state;
    enum { N = 5000 };
    struct log_new_event e = {.type = slice_str("t"), .data = slice_str("1")};
    struct log_write    *w = calloc(N, sizeof *w);
    struct log_req      *reqs = calloc(N, sizeof *reqs);
    atomic_uint          answers = 0;

    open_log(f);
    for (unsigned i = 0; i < N; i++) {
        w[i] = (struct log_write){
            .stream = slice_str("s"), .expected = LOG_ANY, .events = &e, .count = 1};
        reqs[i] = (struct log_req){
            .writes = &w[i], .write_count = 1, .done = count_answer, .arg = &answers};
        log_submit(f->log, &reqs[i]);
    }
    close_log(f);
    assert_int_equal(atomic_load(&answers), N);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(reqs[i].rc, 0);
    free(reqs);
    free(w);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tasks_that_others_wake_are_there_first, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_missing_first_segment_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_segments_are_no_new_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_renamed_segment_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_header_that_cannot_be_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_that_cannot_be_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_only_leaves_the_folder_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reindex_needs_a_log_but_no_lock_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_listing_ends_where_the_disk_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_highest_expected_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_info_says_when_the_last_commit_was, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reads_from_any_position, setup, teardown),
        cmocka_unit_test_setup_teardown(test_largest_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_big_commit_over_small_segments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_big_commit_is_all_or_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_threads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_close_answers_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_neighbours_through_a_window, setup, teardown),
        cmocka_unit_test_setup_teardown(test_window_of_a_scavenged_segment, setup, teardown),
    };

    return cmocka_run_group_tests_name("log_edges", tests, NULL, NULL);
}
