/*
 * Logs whose checksums are right and whose records say what cannot be, as a bug of a writer or
 * somebody with an editor leaves them: they are refused with the position, and nothing is read
 * outside of a record.
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
#include "log/log_fmt.h"
#include "tests/tmp.h"

#define RECORD_MAX 4096u

struct fix {
    char            dir[64];
    struct log_conf conf;
    struct err      err;
    uint64_t        pos[4]; /* of the events, then of the state */
};

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

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

    tmp_remove(f->dir);
    free(f);
    return 0;
}

/* Two events of a stream, its state, and an event of another. */
static void
write_log(struct fix *f)
{
    static const char *const streams[] = {"first", "first", "other"};
    struct log_change        change = {
               .stream = slice_str("first"), .expected = LOG_ANY, .what = LOG_SET_LIMITS, .max_count = 10};
    struct log_req set = {.changes = &change, .change_count = 1};
    struct log    *log;

    if (log_open(env_real(), f->dir, &f->conf, NULL, &log, &f->err) != 0)
        fail_msg("open: %s", f->err.text);
    for (unsigned i = 0; i < 3; i++) {
        struct log_new_event e = {
            .type = slice_str("t"), .data = slice_str("\"a\""), .meta = slice_str("{}")};
        struct log_write w = {
            .stream = slice_str(streams[i]), .expected = LOG_ANY, .events = &e, .count = 1};
        struct log_req req = {.writes = &w, .write_count = 1};

        assert_int_equal(log_append(log, &req), 0);
        f->pos[i] = req.pos.v;
        if (i == 1)
            assert_int_equal(log_append(log, &set), 0);
    }
    f->pos[3] = set.pos.v;
    log_close(log);
}

typedef void craft_fn(uint8_t *record);

/* Changes a record of the first segment and puts its checksum right. */
static void
craft(struct fix *f, uint64_t pos, craft_fn *fn)
{
    uint8_t         bytes[SEG_HEADER], record[RECORD_MAX];
    struct seg_head head = {0};
    char            path[120];
    uint32_t        length;
    FILE           *file;

    (void)snprintf(path, sizeof path, "%s/segments/%016llx.seg", f->dir,
                   (unsigned long long)FMT_FIRST_POS);
    file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fread(bytes, 1, sizeof bytes, file), sizeof bytes);
    assert_true(fmt_seg_get(bytes, &head));
    assert_int_equal(head.first, FMT_FIRST_POS); /* a position is an offset in the file */
    assert_int_equal(fseek(file, (long)pos, SEEK_SET), 0);
    assert_int_equal(fread(record, 1, sizeof record, file), sizeof record);
    length = get_u32(record);
    assert_true(length >= RECORD_MIN && length <= sizeof record);
    fn(record);
    fmt_record_seal(record, length, fmt_seed(&head.log_id));
    assert_int_equal(fseek(file, (long)pos, SEEK_SET), 0);
    assert_int_equal(fwrite(record, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static void
no_version(uint8_t *p)
{
    put_u64(p + 24, 0);
}

static void
last_version(uint8_t *p)
{
    put_u64(p + 24, UINT64_MAX);
}

static void
last_stream(uint8_t *p)
{
    put_u64(p + 16, UINT64_MAX);
}

static void
first_of_stream(uint8_t *p)
{
    p[5] |= RECORD_NEW_STREAM;
}

static void
name_of_first(uint8_t *p)
{
    memcpy(p + RECORD_HEADER, "first", 5);
}

static void
no_name(uint8_t *p)
{
    put_u16(p + 6, 0);
}

static void
long_data(uint8_t *p)
{
    put_u32(p + 64, 4096);
}

static void
long_meta(uint8_t *p)
{
    put_u32(p + 60, UINT32_MAX);
}

static void
what_cannot_be_is_refused_when_it_is_read_again(void **state)
{
    static const struct {
        const char *what;
        craft_fn   *fn;
        unsigned    at;
    } cases[] = {{"a version a second time", no_version, 1},
                 {"a version that nothing comes after", last_version, 2},
                 {"a state of before the events", no_version, 3},
                 {"a stream that nothing comes after", last_stream, 2},
                 {"a stream that begins twice", first_of_stream, 1},
                 {"two streams of one name", name_of_first, 2},
                 {"no name", no_name, 0},
                 {"data behind the record's end", long_data, 1},
                 {"metadata behind the record's end", long_meta, 2}};
    struct fix       *f = *state;
    struct log_report report;
    char              text[32];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_log(f);
        assert_int_equal(log_reindex(env_real(), f->dir, &f->conf, &report, &f->err), 0);
        craft(f, f->pos[cases[i].at], cases[i].fn);
        if (log_reindex(env_real(), f->dir, &f->conf, &report, &f->err) != E_DAMAGED)
            fail_msg("%s: %s", cases[i].what, f->err.text);
        (void)snprintf(text, sizeof text, "position %llu", (unsigned long long)f->pos[cases[i].at]);
        if (cases[i].fn != long_data && cases[i].fn != long_meta &&
            strstr(f->err.text, text) == NULL)
            fail_msg("%s: %s", cases[i].what, f->err.text);
        tmp_remove(f->dir);
        tmp_dir(f->dir, sizeof f->dir);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_cannot_be_is_refused_when_it_is_read_again, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
