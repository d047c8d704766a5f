/* Backup and restore on the machine's own files: what is copied, what is refused, and under load.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/must.h"
#include "env/env_real.h"
#include "log/backup.h"
#include "log/backup_int.h"
#include "log/index.h"
#include "log/log.h"
#include "tests/tmp.h"

#define PATH 600

struct fix {
    char                     dir[64];
    char                     data[128], backup[128], other[128];
    struct log              *log;
    struct log_conf          conf;
    struct log_backup_report report;
    struct err               err;
};

static void
open_log(struct fix *f, const char *dir)
{
    if (log_open(env_real(), dir, &f->conf, NULL, &f->log, &f->err) != 0)
        fail_msg("open: %s", f->err.text);
}

static void
close_log(struct fix *f)
{
    log_close(f->log);
    f->log = NULL;
}

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    tmp_dir(f->dir, sizeof f->dir);
    (void)snprintf(f->data, sizeof f->data, "%s/data", f->dir);
    (void)snprintf(f->backup, sizeof f->backup, "%s/backup", f->dir);
    (void)snprintf(f->other, sizeof f->other, "%s/other", f->dir);
    f->conf.index = &log_index_lmdb;
    f->conf.segment_bytes = LOG_SEGMENT_MIN;
    f->conf.recent_events = 1000;
    f->conf.heads_bytes = 4096;
    open_log(f, f->data);
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

static struct log_pos
append(struct fix *f, const char *stream, unsigned number, size_t bytes)
{
    uint8_t             *data = calloc(1, bytes);
    struct log_new_event e = {.type = slice_str("t"), .data = slice_of(data, bytes)};
    struct log_write     w = {
            .stream = slice_str(stream), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req req = {.writes = &w, .write_count = 1};

    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)(i * 31 + number);
    if (log_append(f->log, &req) != 0)
        fail_msg("append: %s", req.err.text);
    free(data);
    return req.end;
}

static void
append_many(struct fix *f, unsigned count, size_t bytes)
{
    char stream[32];

    for (unsigned i = 0; i < count; i++) {
        (void)snprintf(stream, sizeof stream, "s-%u", i % 7);
        (void)append(f, stream, i, bytes);
    }
}

static int
back_up(struct fix *f)
{
    struct log_backup_conf conf = {.dir = f->backup};

    return log_backup(f->log, &conf, &f->report, &f->err);
}

static void
back_up_well(struct fix *f)
{
    if (back_up(f) != 0)
        fail_msg("backup: %s", f->err.text);
}

static int
restore(struct fix *f, const char *to)
{
    struct log_restore_conf conf = {.from = f->backup, .to = to, .log = &f->conf};

    return log_restore(env_real(), &conf, &f->report, &f->err);
}

static void
restore_well(struct fix *f, const char *to)
{
    if (restore(f, to) != 0)
        fail_msg("restore: %s", f->err.text);
}

/* A number over all events up to a position, in order: equal logs have equal ones. */
static uint64_t
print_of(struct fix *f, uint64_t upto, uint64_t *events)
{
    struct log_read  read = {.filter = {.system = true, .quiet = true}};
    struct log_iter *it;
    struct log_event e;
    uint64_t         print = 1, count = 0;

    assert_int_equal(log_iter_open(f->log, &read, &it, &f->err), 0);
    while (log_iter_next(it, &e, &f->err) == 0 && e.pos.v < upto) {
        print = (print ^ e.pos.v) * 0x100000001b3ULL;
        print = (print ^ e.version ^ e.id.b[9] ^ (uint64_t)e.time_us) * 0x100000001b3ULL;
        for (size_t i = 0; i < e.data.len; i += 97)
            print = (print ^ ((const uint8_t *)e.data.data)[i]) * 0x100000001b3ULL;
        count++;
    }
    log_iter_close(it);
    *events = count;
    return print;
}

static int
compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Paths of the copies or segments, in order; the caller's to free. */
static unsigned
files_of(const char *dir, const char *sub, char *out[64])
{
    char           path[PATH];
    struct dirent *e;
    unsigned       n = 0;
    DIR           *d;

    (void)snprintf(path, sizeof path, "%s/%s", dir, sub);
    d = opendir(path);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL)
        if (e->d_name[0] != '.') {
            must(n < 64);
            must(asprintf(&out[n++], "%s/%s", path, e->d_name) > 0);
        }
    (void)closedir(d);
    qsort(out, n, sizeof *out, compare);
    return n;
}

static void
free_files(char *files[64], unsigned n)
{
    while (n > 0)
        free(files[--n]);
}

static void
flip(const char *path, off_t at)
{
    int     fd = open(path, O_RDWR);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    (void)close(fd);
}

static void
comes_back_as_it_was(void **state)
{
    struct fix *f = *state;
    uint64_t    end, print, events, again, print_again;

    append_many(f, 60, 100000);
    (void)append(f, "large", 1, 3 << 20); /* over several frames and segments */
    end = log_end(f->log).v;
    print = print_of(f, UINT64_MAX, &events);
    back_up_well(f);
    assert_int_equal(f->report.end.v, end);
    assert_int_equal(f->report.events, events);
    assert_true(f->report.segments > 3);
    (void)append(f, "later", 1, 10); /* is not in it */
    close_log(f);
    restore_well(f, NULL);
    assert_int_equal(f->report.events, events);
    restore_well(f, f->other);
    assert_int_equal(f->report.end.v, end);
    assert_int_equal(f->report.events, events);
    {
        struct log_report report;

        assert_int_equal(log_open(env_real(), f->other, &f->conf, &report, &f->log, &f->err), 0);
        assert_true(report.clean);
        assert_int_equal(report.replayed, 0); /* its index is there */
    }
    assert_int_equal(log_end(f->log).v, end);
    print_again = print_of(f, UINT64_MAX, &again);
    assert_int_equal(again, events);
    assert_int_equal(print_again, print);
    (void)append(f, "s-1", 1, 10); /* and it goes on */
}

/* How many bytes are written the second time is counted, and less than a segment. */
static void
copies_only_what_is_new(void **state)
{
    struct fix *f = *state;
    uint64_t    end, first_bytes, before, print, print_again, events, again;

    append_many(f, 60, 100000);
    back_up_well(f);
    first_bytes = f->report.copied_bytes;
    assert_int_equal(first_bytes, f->report.bytes);
    end = log_end(f->log).v;

    back_up_well(f);
    assert_int_equal(f->report.copied_bytes, 0);
    assert_int_equal(f->report.copied_segments, 0);
    assert_int_equal(f->report.bytes, first_bytes);

    (void)append(f, "s-1", 1, 1000);
    back_up_well(f);
    assert_int_equal(f->report.copied_bytes, log_end(f->log).v - end);
    assert_int_equal(f->report.copied_segments, 1);
    assert_int_equal(f->report.events, 1);

    before = f->report.bytes;
    append_many(f, 60, 100000);
    print = print_of(f, UINT64_MAX, &events);
    back_up_well(f);
    assert_int_equal(f->report.copied_bytes, f->report.bytes - before);
    close_log(f);
    restore_well(f, f->other);
    open_log(f, f->other);
    print_again = print_of(f, UINT64_MAX, &again);
    assert_int_equal(again, events);
    assert_int_equal(print_again, print);
}

static void
a_log_without_events(void **state)
{
    struct fix *f = *state;

    back_up_well(f);
    assert_int_equal(f->report.segments, 1);
    assert_int_equal(f->report.bytes, 4096);
    close_log(f);
    restore_well(f, f->other);
    assert_int_equal(f->report.events, 0);
    open_log(f, f->other);
    (void)append(f, "s-1", 1, 10);
    assert_int_equal(back_up(f), 0);
    assert_int_equal(f->report.events, 1);
}

static void
damage_is_named_and_harms_no_backup(void **state)
{
    struct fix *f = *state;
    char       *files[64];
    unsigned    n;
    uint64_t    end;

    append_many(f, 30, 100000);
    back_up_well(f);
    end = f->report.end.v;
    append_many(f, 60, 100000);
    n = files_of(f->data, "segments", files);
    assert_true(n >= 4);
    flip(files[3], 4096 + 64 + 72 + 50000);
    free_files(files, n);
    assert_int_equal(back_up(f), E_DAMAGED);
    assert_non_null(strstr(f->err.text, "damaged at position "));
    assert_non_null(strstr(f->err.text, ".seg"));
    restore_well(f, f->other);
    assert_int_equal(f->report.end.v, end);
}

static void
a_damaged_copy_is_named(void **state)
{
    struct fix *f = *state;
    char       *files[64];
    unsigned    n;

    append_many(f, 60, 100000);
    back_up_well(f);
    n = files_of(f->backup, "files", files);
    for (unsigned i = 0; i < n; i++) {
        struct stat st;
        off_t       places[3];

        assert_int_equal(stat(files[i], &st), 0);
        places[0] = 20;   /* the header */
        places[1] = 5000; /* a frame */
        places[2] = 1000; /* of the header what no checksum of its own covers */
        for (int k = 0; k < 3; k++) {
            flip(files[i], places[k]);
            assert_int_equal(restore(f, NULL), E_DAMAGED);
            assert_non_null(strstr(f->err.text, files[i]));
            assert_int_equal(restore(f, f->other), E_DAMAGED);
            flip(files[i], places[k]);
        }
        assert_int_equal(truncate(files[i], st.st_size - 8), 0);
        assert_int_equal(restore(f, NULL), E_DAMAGED);
        assert_int_equal(truncate(files[i], st.st_size), 0);
        assert_int_equal(restore(f, NULL), E_DAMAGED);
        /* A copy that is too short or not there is made again. */
        assert_int_equal(unlink(files[i]), 0);
        assert_int_equal(restore(f, NULL), E_DAMAGED);
        back_up_well(f);
        assert_int_equal(f->report.copied_segments, 1);
        restore_well(f, NULL);
    }
    free_files(files, n);
    restore_well(f, f->other); /* what failed before left nothing behind */
}

static void
a_growing_copy_is_verified_first(void **state)
{
    struct fix *f = *state;
    char       *files[64];
    unsigned    n;

    append_many(f, 3, 100000);
    back_up_well(f);
    n = files_of(f->backup, "files", files);
    assert_int_equal(n, 1);
    flip(files[0], 5000);
    (void)append(f, "s-1", 1, 10);
    back_up_well(f);
    assert_int_equal(f->report.copied_bytes, f->report.bytes); /* made anew */
    restore_well(f, NULL);
    free_files(files, n);
}

static void
write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void
folders_in_use_are_refused(void **state)
{
    struct fix *f = *state;
    char        path[PATH];
    int         fd;

    append_many(f, 5, 1000);
    back_up_well(f);
    /* A log that is open, and closed. */
    assert_int_equal(restore(f, f->data), E_EXISTS);
    close_log(f);
    assert_int_equal(restore(f, f->data), E_EXISTS);
    open_log(f, f->data);
    /* A folder with anything else. */
    assert_int_equal(mkdir(f->other, 0700), 0);
    (void)snprintf(path, sizeof path, "%s/letter", f->other);
    write_file(path, "dear");
    assert_int_equal(restore(f, f->other), E_EXISTS);
    assert_int_equal(unlink(path), 0);
    /* Somebody has it. */
    (void)snprintf(path, sizeof path, "%s/LOCK", f->other);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(restore(f, f->other), E_BUSY);
    (void)close(fd);
    restore_well(f, f->other);
    assert_int_equal(restore(f, f->other), E_EXISTS);
    /* A backup into a data folder, and into one that another backup is writing. */
    {
        struct log_backup_conf conf = {.dir = f->other};

        assert_int_equal(log_backup(f->log, &conf, &f->report, &f->err), E_STATE);
    }
    (void)snprintf(path, sizeof path, "%s/LOCK", f->backup);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(back_up(f), E_BUSY);
    assert_int_equal(restore(f, NULL), E_BUSY);
    (void)close(fd);
    back_up_well(f);
}

static void
another_log_and_another_history_are_refused(void **state)
{
    struct fix *f = *state;
    char        third[PATH];

    append_many(f, 5, 1000);
    back_up_well(f);
    close_log(f);
    /* Another log. */
    open_log(f, f->other);
    append_many(f, 50, 1000);
    assert_int_equal(back_up(f), E_STATE);
    assert_non_null(strstr(f->err.text, "another log"));
    close_log(f);
    /* The same, set back: shorter, and then longer than the backup but otherwise. */
    (void)snprintf(third, sizeof third, "%s/third", f->dir);
    restore_well(f, third);
    open_log(f, f->data);
    append_many(f, 5, 1000);
    back_up_well(f);
    close_log(f);
    open_log(f, third);
    assert_int_equal(back_up(f), E_STATE);
    assert_non_null(strstr(f->err.text, "set back"));
    append_many(f, 50, 1000);
    assert_int_equal(back_up(f), E_STATE);
    assert_non_null(strstr(f->err.text, "another history"));
    close_log(f);
    restore_well(f, NULL); /* and the backup is as it was */
}

static char *
slurp(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = calloc(1, 1 << 20);

    assert_non_null(file);
    assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
    (void)fclose(file);
    return text;
}

static void
manifests_that_are_wrong(void **state)
{
    struct fix *f = *state;
    char        path[PATH], *text;
    size_t      len;

    append_many(f, 60, 100000);
    assert_int_equal(restore(f, NULL), E_NOTFOUND);
    back_up_well(f);
    (void)snprintf(path, sizeof path, "%s/MANIFEST", f->backup);
    text = slurp(path);
    len = strlen(text);
    /* Any one byte. */
    for (size_t i = 0; i < len; i += 7) {
        flip(path, (off_t)i);
        if (restore(f, NULL) != E_DAMAGED && f->err.code != E_FORMAT)
            fail_msg("byte %zu: %d %s", i, f->err.code, f->err.text);
        assert_int_equal(back_up(f) == 0, 0);
        flip(path, (off_t)i);
    }
    /* Cut anywhere. */
    for (size_t i = 0; i < len; i += 5) {
        char c = text[i];

        text[i] = '\0';
        write_file(path, text);
        assert_int_equal(restore(f, NULL), E_DAMAGED);
        text[i] = c;
    }
    write_file(path, text);
    restore_well(f, NULL);
    free(text);
}

/* While others append: a prefix, with every commit that was acknowledged before it began. */
struct writer {
    struct fix      *f;
    unsigned         number;
    atomic_bool     *stop;
    _Atomic uint64_t acknowledged;
};

static void *
write_on(void *arg)
{
    struct writer *w = arg;
    char           stream[32];

    (void)snprintf(stream, sizeof stream, "w-%u", w->number);
    for (unsigned i = 0; !atomic_load(w->stop); i++)
        atomic_store(&w->acknowledged, append(w->f, stream, i, 3000 + i % 5000).v);
    return NULL;
}

static void
beside_appends(void **state)
{
    struct fix   *f = *state;
    atomic_bool   stop;
    struct writer w[3];
    pthread_t     threads[3];
    uint64_t      events, print, again, print_again, before, end;
    char          to[PATH];

    atomic_init(&stop, false);
    for (unsigned i = 0; i < 3; i++) {
        w[i] = (struct writer){.f = f, .number = i, .stop = &stop};
        assert_int_equal(pthread_create(&threads[i], NULL, write_on, &w[i]), 0);
    }
    for (unsigned round = 0; round < 8; round++) {
        uint64_t target = log_end(f->log).v + (1 << 20);

        while (log_end(f->log).v < target)
            (void)sched_yield();
        before = 0;
        for (unsigned i = 0; i < 3; i++)
            if (atomic_load(&w[i].acknowledged) > before)
                before = atomic_load(&w[i].acknowledged);
        back_up_well(f);
        end = f->report.end.v;
        assert_true(end >= before);
        print = print_of(f, end, &events);
        if (round % 3 != 1)
            continue;
        /* Held against the log as it was then, without taking the log's own folder away. */
        (void)snprintf(to, sizeof to, "%s/r%u", f->dir, round);
        restore_well(f, to);
        {
            struct fix g = *f;

            open_log(&g, to);
            assert_int_equal(log_end(g.log).v, end);
            print_again = print_of(&g, UINT64_MAX, &again);
            assert_int_equal(again, events);
            assert_int_equal(print_again, print);
            log_close(g.log);
        }
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 3; i++)
        (void)pthread_join(threads[i], NULL);
}

/* A folder that was opened read-only does as well. */
static void
of_a_folder_at_rest(void **state)
{
    struct fix *f = *state;

    append_many(f, 5, 1000);
    close_log(f);
    f->conf.read_only = true;
    open_log(f, f->data);
    back_up_well(f);
    close_log(f);
    f->conf.read_only = false;
    restore_well(f, f->other);
    assert_int_equal(f->report.events, 5);
}

static int
stop_at_half(void *arg, uint64_t done, uint64_t all)
{
    assert_true(done <= all);
    return done * 2 > all ? E_INTERRUPTED : 0;
}

static void
can_be_stopped(void **state)
{
    struct fix            *f = *state;
    struct log_backup_conf conf = {.dir = f->backup, .fn = stop_at_half};

    append_many(f, 60, 100000);
    assert_int_equal(log_backup(f->log, &conf, &f->report, &f->err), E_INTERRUPTED);
    assert_int_equal(restore(f, NULL), E_NOTFOUND);
    back_up_well(f);
    restore_well(f, f->other);
}

/* A manifest of more is not read, so none is made. */
static void
as_many_copies_as_are_read(void **state)
{
    struct fix         *f = *state;
    struct manifest     m = {0};
    struct manifest_seg s = {.first = FMT_FIRST_POS, .span = 8, .bytes = SEG_HEADER + 8};

    for (; m.count < 1000000; s.first += s.span)
        assert_int_equal(logi_manifest_add(&m, &s, &f->err), 0);
    assert_int_equal(logi_manifest_add(&m, &s, &f->err), E_LIMIT);
    logi_manifest_fini(&m);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(comes_back_as_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_only_what_is_new, setup, teardown),
        cmocka_unit_test_setup_teardown(a_log_without_events, setup, teardown),
        cmocka_unit_test_setup_teardown(damage_is_named_and_harms_no_backup, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_copy_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(a_growing_copy_is_verified_first, setup, teardown),
        cmocka_unit_test_setup_teardown(folders_in_use_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(another_log_and_another_history_are_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(manifests_that_are_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(beside_appends, setup, teardown),
        cmocka_unit_test_setup_teardown(of_a_folder_at_rest, setup, teardown),
        cmocka_unit_test_setup_teardown(can_be_stopped, setup, teardown),
        cmocka_unit_test_setup_teardown(as_many_copies_as_are_read, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
