/* Readers, writers and an erasure at once, on the machine's own files and threads. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/must.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "subject/subject.h"
#include "tests/tmp.h"

#define READERS 3
#define WRITERS 2

static const char secret[] = "{\"a\":\"secret\"}";

struct shared {
    struct log         *log;
    struct ox_subjects *keys;
    atomic_bool         stop, erased; /* erased: subject_erase has returned */
    _Atomic uint64_t    erased_end;   /* the log's end before it was called */
    atomic_uint         rounds;
};

static void
append(struct shared *s, const char *subject)
{
    struct log_new_event e = {.type = slice_str("t"),
                              .data = slice_str(secret),
                              .flags = LOG_JSON,
                              .subject = slice_str(subject)};
    struct log_write     w = {
            .stream = slice_str("s-1"), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req req = {.writes = &w, .write_count = 1};

    must(log_append(s->log, &req) == 0);
}

static void *
write_on(void *arg)
{
    struct shared *s = arg;

    while (!atomic_load(&s->stop))
        append(s, "bert");
    return NULL;
}

/* A read that begins after the erasure has nothing of it; none fails, none gives anything else. */
static void *
read_on(void *arg)
{
    struct shared   *s = arg;
    struct log_event e;

    while (!atomic_load(&s->stop)) {
        uint64_t         end = atomic_load(&s->erased_end); /* first: it goes before `erased` */
        bool             erased = atomic_load(&s->erased);
        struct log_read  read = {.from = 0};
        struct log_iter *it;
        int              rc;

        must(log_iter_open(s->log, &read, &it, NULL) == 0);
        while ((rc = log_iter_next(it, &e, NULL)) == 0) {
            bool gone = (e.flags & LOG_ERASED) != 0;

            must(!gone || e.data.len == 0);
            must(gone || slice_is(e.data, secret));
            must(!gone || slice_is(e.subject, "anna"));
            if (erased && slice_is(e.subject, "anna") && e.pos.v < end)
                must(gone);
        }
        must(rc == E_END);
        log_iter_close(it);
        if (erased)
            atomic_fetch_add(&s->rounds, 1);
    }
    return NULL;
}

static void
an_erasure_among_readers(void **state)
{
    char                dir[64], keys[128];
    struct shared       s = {0};
    struct subject_conf conf = {.dir = keys};
    struct log_conf     log_conf = {.index = &log_index_lmdb, .segment_bytes = LOG_SEGMENT_MIN};
    pthread_t           threads[READERS + WRITERS];
    struct err          err;
    bool                again;

    tmp_dir(dir, sizeof dir);
    (void)snprintf(keys, sizeof keys, "%s/keys", dir);
    assert_int_equal(subject_open(env_real(), &conf, &s.keys, &err), 0);
    log_conf.subjects = s.keys;
    assert_int_equal(log_open(env_real(), dir, &log_conf, NULL, &s.log, &err), 0);
    for (int i = 0; i < 50; i++)
        append(&s, "anna");
    for (int i = 0; i < READERS + WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, i < READERS ? read_on : write_on, &s),
                         0);
    for (int round = 0; round < 5; round++) {
        append(&s, "anna");
        atomic_store(&s.erased, false);
        atomic_store(&s.erased_end, log_end(s.log).v);
        assert_int_equal(subject_erase(s.keys, slice_str("anna"), &again, &err), 0);
        assert_false(again);
        atomic_store(&s.rounds, 0);
        atomic_store(&s.erased, true);
        while (atomic_load(&s.rounds) < 2)
            (void)sched_yield();
    }
    atomic_store(&s.stop, true);
    for (int i = 0; i < READERS + WRITERS; i++)
        (void)pthread_join(threads[i], NULL);
    log_close(s.log);
    subject_close(s.keys);
    tmp_remove(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_erasure_among_readers)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
