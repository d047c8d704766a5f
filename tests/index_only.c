/* The index: what only one of its drivers can show. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/index_oracle.h"

/* LMDB alone */

static char *
data_path(void)
{
    static char path[128];

    (void)snprintf(path, sizeof path, "%s/data.mdb", dir);
    return path;
}

static uint64_t
data_bytes(void)
{
    struct stat st;

    assert_int_equal(stat(data_path(), &st), 0);
    return (uint64_t)st.st_size;
}

/* `count` new streams of one event each, with long names. Ids and positions go on from *next. */
static int
apply_big(struct ox_index *to, uint64_t *next, uint32_t count, struct err *e)
{
    struct index_update *updates = calloc(count, sizeof *updates);
    struct index_event  *listed = calloc(count, sizeof *listed);
    uint64_t            *positions = calloc(count, sizeof *positions);
    char(*names)[208] = calloc(count, sizeof *names);
    struct index_batch batch = {
        .updates = updates, .update_count = count, .events = listed, .event_count = count};
    int rc;

    assert_true(updates != NULL && listed != NULL && positions != NULL && names != NULL);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t id = *next + i;

        (void)snprintf(names[i], sizeof names[i], "%07llu-%0190d",
                       (unsigned long long)(id * 7919 % 10000019), 0);
        positions[i] = 8 * (id + 1);
        updates[i] = (struct index_update){.id = id,
                                           .name = slice_str(names[i]),
                                           .head = {.next = 1, .last = LOG_POS(positions[i])},
                                           .positions = &positions[i],
                                           .count = 1};
        listed[i] = (struct index_event){.pos = positions[i], .category = slice_str("big")};
    }
    batch.stream_count = *next + count;
    batch.covers = LOG_POS(8 * (batch.stream_count + 1));
    rc = ops->apply(to, &batch, e);
    if (rc == 0)
        *next += count;
    free(updates);
    free(listed);
    free(positions);
    free(names);
    return rc;
}

static void
check_big(struct ox_index *in, uint64_t next)
{
    struct index_head head;
    uint64_t          pos = 0;
    uint32_t          count = 0;

    assert_int_equal(ops->head(in, next - 1, &head, &err), 0);
    assert_int_equal(head.last.v, 8 * next);
    assert_int_equal(ops->head(in, next, &head, &err), E_NOTFOUND);
    assert_int_equal(ops->category(in, slice_str("big"), UINT64_MAX, true, &pos, 1, &count, &err),
                     0);
    assert_int_equal(count, 1);
    assert_int_equal(pos, 8 * next);
}

void
test_map_grows(void **state)
{
    uint64_t before = data_bytes();
    uint64_t next = 0;

    for (int i = 0; i < 3; i++)
        assert_int_equal(apply_big(ix, &next, 40000, &err), 0);
    assert_true(data_bytes() > 2 * before);
    check_big(ix, next);
    open_again(log_id);
    check_big(ix, next);
    assert_int_equal(apply_big(ix, &next, 100, &err), 0);
    check_big(ix, next);
    assert_int_equal(ops->reset(ix, &err), 0);
    next = 0;
    assert_int_equal(apply_big(ix, &next, 40000, &err), 0);
    check_big(ix, next);
}

/* A large batch ends with the file opened again, so that its pages are given back. */
void
test_opened_again(void **state)
{
    uint64_t          next = 0;
    char              away[80];
    struct index_head head;

    assert_int_equal(apply_big(ix, &next, 1000, &err), 0);
    (void)snprintf(away, sizeof away, "%s.away", dir);
    assert_int_equal(rename(dir, away), 0);
    assert_int_equal(apply_big(ix, &next, 1000, &err), 0);
    check_big(ix, next); /* a small one needs no opening */
    assert_int_equal(apply_big(ix, &next, 60000, &err), 0);
    assert_int_equal(ops->covers(ix).v, 8 * (next + 1)); /* it is in all the same */
    assert_int_equal(ops->head(ix, 5, &head, &err), E_BUSY);
    assert_int_not_equal(ops->sync(ix, &err), 0);
    assert_int_not_equal(apply_big(ix, &next, 1, &err), 0);
    assert_int_equal(rename(away, dir), 0);
    assert_int_equal(ops->head(ix, 5, &head, &err), E_BUSY);
    assert_int_equal(apply_big(ix, &next, 1, &err), 0);
    check_big(ix, next);
    assert_int_equal(ops->sync(ix, &err), 0);
    open_again(log_id);
    check_big(ix, next);
}

/* A disk that is full is an error, nothing is half done, and it goes on when there is room. */
void
test_no_room(void **state)
{
    struct rlimit before, low;
    uint64_t      next = 0;
    uint64_t      size = data_bytes();
    int           rc;

    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(apply_big(ix, &next, 1000, &err), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    low = before;
    low.rlim_cur = size + 4096;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    rc = apply_big(ix, &next, 60000, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(rc, E_IO);
    assert_non_null(strstr(err.text, "allocate"));
    assert_int_equal(data_bytes(), size);
    assert_int_equal(ops->covers(ix).v, 8 * (next + 1));
    check_big(ix, next);
    assert_int_equal(apply_big(ix, &next, 60000, &err), 0);
    check_big(ix, next);
}

void
test_damage(void **state)
{
    uint64_t next = 0;
    FILE    *file;

    assert_int_equal(apply_big(ix, &next, 20000, &err), 0);
    ops->close(ix);
    ix = NULL;
    assert_int_equal(truncate(data_path(), 65536), 0);
    assert_int_equal(ops->open(env, dir, log_id, false, &ix, &err), E_DAMAGED);
    assert_null(ix);
    file = fopen(data_path(), "w");
    assert_non_null(file);
    for (int i = 0; i < 10000; i++)
        (void)fputs("nonsense", file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(ops->open(env, dir, log_id, false, &ix, &err), E_DAMAGED);
    assert_null(ix);
    assert_int_equal(unlink(data_path()), 0);
    assert_int_equal(ops->open(env, dir, log_id, false, &ix, &err), 0);
    check_some(5);
}

#define READERS 34 /* more than there are read transactions */
#define BATCH 1000

struct shared {
    atomic_bool stop;
    atomic_uint wrong, reads;
};

static void *
run_reader(void *arg)
{
    struct shared *shared = arg;
    uint64_t      *got = calloc(200000, sizeof *got);
    struct err     e;

    while (got != NULL && !atomic_load(&shared->stop)) {
        uint64_t known = ops->stream_count(ix);
        uint32_t count = 0;
        bool right = ops->category(ix, slice_str("big"), 0, false, got, 200000, &count, &e) == 0;

        /* Whole transactions, none missing that was there before. */
        right = right && count % BATCH == 0 && count >= known;
        for (uint32_t i = 0; right && i < count; i++)
            right = got[i] == 8 * (uint64_t)(i + 1);
        if (!right)
            (void)atomic_fetch_add(&shared->wrong, 1);
        (void)atomic_fetch_add(&shared->reads, 1);
    }
    free(got);
    return NULL;
}

void
test_read_while_applying(void **state)
{
    struct shared shared = {.stop = false};
    pthread_t     threads[READERS];
    uint64_t      next = 0;
    uint64_t      before = data_bytes();

    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_reader, &shared), 0);
    for (int i = 0; i < 40; i++)
        assert_int_equal(apply_big(ix, &next, BATCH, &err), 0);
    while (atomic_load(&shared.reads) < READERS)
        (void)sched_yield();
    atomic_store(&shared.stop, true);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&shared.wrong), 0);
    assert_true(data_bytes() > before);
    check_big(ix, next);
}

/* Applies small transactions for ever; after each it writes how many streams there are. */
static void
run_child(int to)
{
    uint64_t next = 0;

    while (apply_big(ix, &next, 700, &err) == 0) {
        if (write(to, &next, sizeof next) != (ssize_t)sizeof next)
            break;
    }
    _exit(1);
}

/* Killed at any point, the index has all that was reported, whole, and opens as it is. */
void
test_killed(void **state)
{
    for (uint64_t round = 0; round < 6; round++) {
        int      fds[2];
        uint64_t told = 0;
        uint64_t last = 0;
        uint64_t streams;
        pid_t    pid;

        ops->close(ix);
        ix = NULL;
        assert_int_equal(pipe(fds), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            (void)close(fds[0]);
            if (ops->open(env, dir, log_id, false, &ix, &err) != 0 || ops->reset(ix, &err) != 0)
                _exit(2);
            run_child(fds[1]);
        }
        (void)close(fds[1]);
        while (told < 700 * (20 + 5 * round) && read(fds[0], &told, sizeof told) > 0)
            last = told;
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        while (read(fds[0], &told, sizeof told) > 0)
            last = told;
        (void)close(fds[0]);
        assert_true(last > 0);
        open_again(log_id);
        streams = ops->stream_count(ix);
        assert_true(streams >= last);
        assert_true(streams % 700 == 0);
        assert_int_equal(ops->covers(ix).v, 8 * (streams + 1));
        check_big(ix, streams);
    }
}

/* Another process reads while this one's file grows under it. */
void
test_reader_process(void **state)
{
    int      to_reader[2], from_reader[2];
    char     byte = 0;
    uint64_t next = 0;
    int      status = 0;
    pid_t    pid;

    assert_int_equal(apply_big(ix, &next, 1000, &err), 0);
    assert_int_equal(pipe(to_reader), 0);
    assert_int_equal(pipe(from_reader), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct ox_index  *reader = NULL;
        struct index_head head;
        bool              right;

        (void)close(to_reader[1]);
        (void)close(from_reader[0]);
        right = ops->open(env, dir, log_id, true, &reader, &err) == 0 &&
                ops->stream_count(reader) == 1000 && ops->head(reader, 999, &head, &err) == 0;
        (void)!write(from_reader[1], &byte, 1);
        (void)!read(to_reader[0], &byte, 1);
        right = right && ops->head(reader, 60999, &head, &err) == 0 && head.last.v == 8 * 61000 &&
                ops->stream_count(reader) == 61000 && ops->covers(reader).v == 8 * 61001;
        _exit(right ? 0 : 1);
    }
    (void)close(to_reader[0]);
    (void)close(from_reader[1]);
    assert_int_equal(read(from_reader[0], &byte, 1), 1);
    assert_int_equal(apply_big(ix, &next, 60000, &err), 0);
    assert_int_equal(write(to_reader[1], &byte, 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    (void)close(to_reader[1]);
    (void)close(from_reader[0]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* the map alone */

static uint64_t
pick_two(void *arg, uint64_t below)
{
    assert_int_equal(below, 4); /* none, one, two or three are left */
    return 2;
}

void
test_power_cut(void **state)
{
    uint32_t mark = 0;
    uint64_t end = 0;

    apply_random(100);
    assert_int_equal(ops->sync(ix, &err), 0);
    apply_random(100);
    apply_random(100);
    mark = event_count;
    end = end_pos;
    apply_random(100);
    assert_int_equal(index_maps_unsynced(maps, dir), 3);
    ops->close(ix);
    ix = NULL;
    assert_int_equal(index_maps_open(maps), 0);
    index_maps_crash(maps, pick_two, NULL);
    open_again(log_id);
    assert_int_equal(ops->covers(ix).v, end);
    event_count = mark;
    end_pos = end;
    check_all_lists();
    ops->close(ix);
    ix = NULL;
    index_maps_crash(maps, NULL, NULL); /* what a cut has left is on the disk */
    open_again(log_id);
    assert_int_equal(ops->covers(ix).v, end);
    check_all_lists();
    ops->close(ix);
    ix = NULL;
    index_maps_remove(maps, dir);
    open_again(log_id);
    assert_int_equal(ops->covers(ix).v, 0);
}

static int
refuse(void *arg, const char *call, struct err *e)
{
    const char **which = arg;

    if (*which != NULL && strcmp(call, *which) == 0)
        RETURN_ERR(e, E_CLOSED, ERR_FATAL, "stopped");
    return 0;
}

void
test_refused_calls(void **state)
{
    const char        *which = NULL;
    struct index_batch batch = {.covers = {8}, .stream_count = 1};

    ops->close(ix);
    ix = NULL;
    index_maps_free(maps);
    maps = index_maps_new(env, refuse, &which);
    open_again(log_id);
    which = "apply";
    assert_int_equal(ops->apply(ix, &batch, &err), E_CLOSED);
    assert_int_equal(ops->covers(ix).v, 0);
    which = "sync";
    assert_int_equal(ops->apply(ix, &batch, &err), 0);
    assert_int_equal(ops->sync(ix, &err), E_CLOSED);
    assert_int_equal(index_maps_unsynced(maps, dir), 1);
    which = NULL;
    assert_int_equal(ops->sync(ix, &err), 0);
    assert_int_equal(index_maps_unsynced(maps, dir), 0);
}
