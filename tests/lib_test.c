/* The library as its users have it: the header, and the shared object. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <oxbow.h>
#include <pthread.h>
#include <string.h>

#include "tmp.h"

#define WRITERS 8
#define EACH 50

static char dir[64];

static int
setup(void **state)
{
    struct ox_error e;
    struct ox      *db;

    tmp_dir(dir, sizeof dir);
    if (ox_open(dir, NULL, &db, &e) != OX_OK)
        fail_msg("%s", e.text);
    *state = db;
    return 0;
}

static int
teardown(void **state)
{
    ox_close(*state);
    tmp_remove(dir);
    return 0;
}

static void
test_append_and_read(void **state)
{
    struct ox          *db = *state;
    struct ox_new_event ev = {.type = "Opened", .data = "{\"a\":1}", .data_len = 7};
    struct ox_appended  at;
    struct ox_error     e;
    struct ox_reader   *r;
    struct ox_event     got;
    struct ox_read      read = {.size = sizeof read, .stream = "account-1"};
    uint64_t            head;

    assert_int_equal(ox_append(db, "account-1", OX_NO_STREAM, &ev, 1, &at, &e), OX_OK);
    assert_int_equal(at.first_version, 0);
    assert_int_equal(ox_append(db, "account-1", OX_NO_STREAM, &ev, 1, NULL, &e), OX_WRONG_VERSION);
    assert_non_null(strstr(e.text, "account-1"));
    assert_int_equal(ox_head(db, "account-1", &head, &e), OX_OK);
    assert_int_equal(head, 0);
    assert_int_equal(ox_head(db, "account-2", &head, &e), OX_NOT_FOUND);
    read.stream = ""; /* a mistake, not all streams */
    assert_int_equal(ox_read_open(db, &read, &r, &e), OX_INVALID);
    read.stream = "account-1";
    assert_int_equal(ox_read_open(db, &read, &r, &e), OX_OK);
    assert_int_equal(ox_read_next(r, &got, &e), OX_OK);
    assert_string_equal(got.type, "Opened");
    assert_string_equal(got.stream, "account-1");
    assert_memory_equal(got.data, "{\"a\":1}", 7);
    assert_int_equal(ox_read_next(r, &got, &e), OX_END);
    assert_int_equal(ox_read_wait(r, 10, &got, &e), OX_TIMEOUT);
    ox_read_stop(r);
    assert_int_equal(ox_read_wait(r, -1, &got, &e), OX_CLOSED);
    ox_read_close(r);
    assert_int_equal(ox_append(db, "", OX_ANY, &ev, 1, NULL, &e), OX_INVALID);
    ev.id = "nonsense";
    assert_int_equal(ox_append(db, "x", OX_ANY, &ev, 1, NULL, &e), OX_INVALID);
}

static void
test_subject(void **state)
{
    struct ox          *db = *state;
    struct ox_new_event ev = {
        .type = "Bought", .data = "{\"a\":1}", .data_len = 7, .subject = "anna"};
    struct ox_error   e;
    struct ox_reader *r;
    struct ox_event   got;
    struct ox_read    read = {.size = sizeof read, .stream = "account-1"};

    assert_int_equal(ox_subject_erase(db, "anna", &e), OX_NOT_FOUND);
    for (int erased = 0; erased < 2; erased++) {
        assert_int_equal(ox_append(db, "account-1", OX_ANY, &ev, 1, NULL, &e), OX_OK);
        if (erased)
            assert_int_equal(ox_subject_erase(db, "anna", &e), OX_OK);
        assert_int_equal(ox_read_open(db, &read, &r, &e), OX_OK);
        for (int i = 0; i <= erased; i++) {
            assert_int_equal(ox_read_next(r, &got, &e), OX_OK);
            assert_string_equal(got.subject, "anna");
            assert_int_equal(got.erased, erased);
            assert_int_equal(got.data_len, erased ? 0 : 7);
        }
        assert_int_equal(ox_read_next(r, &got, &e), OX_END);
        ox_read_close(r);
    }
    ev.subject = "";
    assert_int_equal(ox_append(db, "account-1", OX_ANY, &ev, 1, NULL, &e), OX_OK);
    ev.subject = "a\n";
    assert_int_equal(ox_append(db, "account-1", OX_ANY, &ev, 1, NULL, &e), OX_INVALID);
}

static void
test_commit(void **state)
{
    struct ox          *db = *state;
    struct ox_new_event ev = {.type = "t", .data = "1", .data_len = 1};
    struct ox_error     e;
    struct ox_write     w[] = {
            {.stream = "c-1", .expected = OX_NO_STREAM, .events = &ev, .count = 1},
            {.stream = "c-2", .expected = OX_EXISTS},
            {.stream = "c-3", .expected = OX_ANY, .events = &ev, .count = 1},
    };

    assert_int_equal(ox_commit(db, w, 3, &e), OX_WRONG_VERSION);
    w[1].expected = OX_NO_STREAM;
    assert_int_equal(ox_commit(db, w, 3, &e), OX_OK);
    assert_int_equal(w[2].appended.last_version, 0);
}

static void *
writer(void *arg)
{
    struct ox          *db = arg;
    struct ox_new_event ev = {.type = "t", .data = "{}", .data_len = 2};

    for (int i = 0; i < EACH; i++)
        if (ox_append(db, "busy", OX_ANY, &ev, 1, NULL, NULL) != OX_OK)
            return arg;
    return NULL;
}

static void
test_many_threads_and_a_live_reader(void **state)
{
    struct ox        *db = *state;
    pthread_t         threads[WRITERS];
    struct ox_read    read = {.size = sizeof read};
    struct ox_reader *r;
    struct ox_event   got;
    void             *failed;

    assert_int_equal(ox_read_open(db, &read, &r, NULL), OX_OK);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, writer, db), 0);
    for (uint64_t i = 0; i < WRITERS * EACH; i++) {
        assert_int_equal(ox_read_wait(r, 60000, &got, NULL), OX_OK);
        assert_int_equal(got.version, i);
    }
    assert_int_equal(ox_read_next(r, &got, NULL), OX_END);
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    ox_read_close(r);
}

static void
add(struct ox *db, const char *stream, const char *type, const char *data, int times)
{
    struct ox_new_event ev = {.type = type, .data = data, .data_len = strlen(data)};
    struct ox_error     e;

    for (int i = 0; i < times; i++)
        if (ox_append(db, stream, OX_ANY, &ev, 1, NULL, &e) != OX_OK)
            fail_msg("%s", e.text);
}

static int
try_add(struct ox *db, const char *stream)
{
    struct ox_new_event ev = {.type = "A", .data = "1", .data_len = 1};

    return ox_append(db, stream, OX_ANY, &ev, 1, NULL, NULL);
}

/* Reads all: the status at the end, how many there were, and the last of them. */
static int
read_all(struct ox *db, const char *stream, unsigned *count, uint64_t *last)
{
    struct ox_read    read = {.size = sizeof read, .stream = stream};
    struct ox_reader *r;
    struct ox_event   got;
    int               status = ox_read_open(db, &read, &r, NULL);

    *count = 0;
    if (status != OX_OK)
        return status;
    while ((status = ox_read_next(r, &got, NULL)) == OX_OK) {
        *last = got.version;
        ++*count;
    }
    ox_read_close(r);
    return status;
}

static void
test_changes(void **state)
{
    struct ox       *db = *state;
    struct ox_change exactly = {.size = sizeof exactly, .expected = 7};
    struct ox_stream info = {.size = sizeof info};
    struct ox_error  e;
    uint64_t         position = 0, last = 0;
    unsigned         count;

    add(db, "chg-1", "A", "1", 3);
    assert_int_equal(ox_delete(db, "chg-0", NULL, NULL, &e), OX_NOT_FOUND);
    assert_int_equal(ox_delete(db, "chg-1", &exactly, NULL, &e), OX_WRONG_VERSION);
    exactly.size = 1;
    assert_int_equal(ox_delete(db, "chg-1", &exactly, NULL, &e), OX_INVALID);
    assert_int_equal(ox_truncate(db, "chg-1", 2, NULL, &position, &e), OX_OK);
    assert_true(position > 0);
    assert_int_equal(read_all(db, "chg-1", &count, &last), OX_END);
    assert_int_equal(count, 1);
    assert_int_equal(ox_set_closed(db, "chg-1", 1, NULL, NULL, &e), OX_OK);
    assert_int_equal(try_add(db, "chg-1"), OX_GONE);
    assert_int_equal(ox_stream_info(db, "chg-1", &info, &e), OX_OK);
    assert_true(info.closed == 1 && info.first == 2 && info.head == 2 && info.count == 1);
    assert_int_equal(ox_set_closed(db, "chg-1", 0, NULL, NULL, &e), OX_OK);
    assert_int_equal(ox_delete(db, "chg-1", NULL, NULL, &e), OX_OK);
    assert_int_equal(read_all(db, "chg-1", &count, &last), OX_NOT_FOUND);
    assert_int_equal(ox_stream_info(db, "chg-1", &info, &e), OX_NOT_FOUND);
    add(db, "chg-1", "A", "1", 1);
    assert_int_equal(read_all(db, "chg-1", &count, &last), OX_END);
    assert_true(count == 1 && last == 3);
    assert_int_equal(ox_tombstone(db, "chg-1", NULL, NULL, &e), OX_OK);
    assert_int_equal(read_all(db, "chg-1", &count, &last), OX_GONE);
    assert_int_equal(try_add(db, "chg-1"), OX_GONE);
    assert_int_equal(ox_delete(db, "$system", NULL, NULL, &e), OX_INVALID);
    info.size = 1;
    assert_int_equal(ox_stream_info(db, "chg-1", &info, &e), OX_INVALID);
}

static void
test_metadata(void **state)
{
    static const char meta[] = "{\"$maxCount\":2}";
    struct ox        *db = *state;
    struct ox_error   e;
    char              json[64];
    size_t            len;
    uint64_t          version, last;
    unsigned          count;

    add(db, "meta-1", "A", "1", 5);
    assert_int_equal(ox_get_metadata(db, "meta-1", json, sizeof json, &len, &version, &e),
                     OX_NOT_FOUND);
    assert_int_equal(ox_set_metadata(db, "meta-1", OX_NO_STREAM, meta, strlen(meta), &version, &e),
                     OX_OK);
    assert_int_equal(version, 0);
    assert_int_equal(ox_get_metadata(db, "meta-1", json, sizeof json, &len, &version, &e), OX_OK);
    assert_string_equal(json, meta);
    assert_int_equal(ox_get_metadata(db, "meta-1", json, 4, &len, &version, &e), OX_INVALID);
    assert_int_equal(len, strlen(meta));
    assert_int_equal(read_all(db, "meta-1", &count, &last), OX_END);
    assert_int_equal(count, 2);
    assert_int_equal(ox_set_metadata(db, "meta-1", OX_ANY, "[]", 2, NULL, &e), OX_INVALID);
    assert_int_equal(ox_set_metadata(db, "meta-1", OX_NO_STREAM, "{}", 2, NULL, &e),
                     OX_WRONG_VERSION);
}

static void
test_links(void **state)
{
    struct ox        *db = *state;
    struct ox_read    read = {.size = sizeof read, .stream = "link-1", .resolve = 1};
    struct ox_reader *r;
    struct ox_event   got;
    struct ox_link    link;
    struct ox_error   e;
    unsigned          count;
    uint64_t          last;

    add(db, "lib-1", "Lib", "1", 2);
    add(db, "link-1", "$>", "1@lib-1", 1);
    add(db, "link-1", "$>", "9@lib-1", 1);
    assert_int_equal(ox_read_open(db, &read, &r, &e), OX_OK);
    assert_int_equal(ox_read_next(r, &got, &e), OX_OK);
    assert_string_equal(got.stream, "lib-1");
    assert_int_equal(ox_read_link(r, &link), 1);
    assert_string_equal(link.stream, "link-1");
    assert_int_equal(link.version, 0);
    assert_int_equal(ox_read_next(r, &got, &e), OX_OK);
    assert_string_equal(got.type, "$>");
    assert_int_equal(ox_read_link(r, NULL), -1);
    ox_read_close(r);
    assert_int_equal(read_all(db, "$ce-lib", &count, &last), OX_END);
    assert_int_equal(count, 2);
    assert_int_equal(read_all(db, "$et-Lib", &count, &last), OX_END);
    assert_int_equal(count, 2);
    /* Programs that were built before links could be followed. */
    read.size = offsetof(struct ox_read, resolve);
    assert_int_equal(ox_read_open(db, &read, &r, &e), OX_OK);
    assert_int_equal(ox_read_next(r, &got, &e), OX_OK);
    assert_string_equal(got.type, "$>");
    assert_int_equal(ox_read_link(r, NULL), 0);
    ox_read_close(r);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_append_and_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_subject, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_threads_and_a_live_reader, setup, teardown),
    };

    return cmocka_run_group_tests_name("lib", tests, NULL, NULL);
}
