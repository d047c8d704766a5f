/* Events of another log into ours, with versions: gaps, tombstones, what is refused, what is ours.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "core/capture.h"
#include "core_fake.h"
#include "env/env_real.h"

#define TOMBSTONE UINT64_MAX

/* What the far side has; the batch of an entry begins with it where `cut`. */
struct entry {
    const char *stream;
    uint64_t    version;
    const char *type, *data;
    bool        cut;
};

struct far {
    struct source       base;
    const struct entry *entries;
    uint32_t            at;
    struct change      *changes;
    struct change_event events[16];
    char                positions[16][16], checkpoint[64];
};

struct fix {
    struct fake_log     log;
    struct capture     *c;
    const struct entry *entries;
    uint32_t            count, want;
    struct err          err;
};

static struct fix *opening;

static int
open_far(struct source *s, const struct conf *conf, struct err *err)
{
    struct far *f = (struct far *)s;

    (void)conf;
    (void)err;
    f->entries = opening->entries;
    f->changes = calloc(16, sizeof *f->changes);
    assert_non_null(f->changes);
    return 0;
}

static void
close_far(struct source *s)
{
    free(((struct far *)s)->changes);
}

static int
start_far(struct source *s, struct slice checkpoint, struct err *err)
{
    struct slice raw;
    uint64_t     at = 0;

    (void)err;
    if (json_get(checkpoint, "at", &raw))
        assert_true(json_uint64(raw, &at));
    ((struct far *)s)->at = (uint32_t)at;
    return 0;
}

/* The id tells stream, version and data: the same event everywhere. */
static struct ox_id
id_of(const char *stream, uint64_t version, const char *data)
{
    char text[400];
    int  n =
        snprintf(text, sizeof text, "%s@%llu %.100s", stream, (unsigned long long)version, data);

    return id_of_bytes(slice_of(text, (size_t)n));
}

static int
poll_far(struct source *s, uint32_t max, uint32_t wait_ms, struct source_batch *b, struct err *err)
{
    struct far *f = (struct far *)s;

    (void)wait_ms;
    (void)err;
    for (; f->at < opening->count && b->count < max && b->count < 16; f->at++, b->count++) {
        const struct entry  *e = &f->entries[f->at];
        struct change_event *to = &f->events[b->count];

        if (e->cut && b->count > 0)
            break;
        *to = (struct change_event){
            .stream = slice_str(e->stream),
            .version = e->version,
            .type = slice_str(e->type),
            .data = slice_str(e->data),
            .meta = slice_str("no JSON"),
            .id = id_of(e->stream, e->version, e->data),
            .json = e->data[0] == '{',
            .link = strcmp(e->type, "$>") == 0,
            .tombstone = e->version == TOMBSTONE,
        };
        (void)snprintf(f->positions[b->count], 16, "p%u", f->at);
        f->changes[b->count] = (struct change){.op = CHANGE_EVENT,
                                               .event = to,
                                               .time_us = 1000000 + f->at,
                                               .position = slice_str(f->positions[b->count])};
    }
    (void)snprintf(f->checkpoint, sizeof f->checkpoint, "{\"at\":%u}", f->at);
    b->changes = f->changes;
    b->checkpoint = slice_str(f->checkpoint);
    b->caught_up = f->at == opening->count;
    return 0;
}

static int
check_far(struct source *s, finding_fn *say, void *arg, struct err *err)
{
    return 0;
}

static int
prepare_far(struct source *s, bool dry_run, finding_fn *say, void *arg, struct err *err)
{
    return 0;
}

static int
confirm_far(struct source *s, struct slice checkpoint, struct err *err)
{
    return 0;
}

static int
status_far(struct source *s, struct buf *out, struct err *err)
{
    buf_add_str(out, "{}");
    return 0;
}

static const struct source_ops ops = {
    .name = "far",
    .size = sizeof(struct far),
    .open = open_far,
    .close = close_far,
    .check = check_far,
    .prepare = prepare_far,
    .unprepare = check_far,
    .start = start_far,
    .poll = poll_far,
    .confirm = confirm_far,
    .status = status_far,
};

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    assert_non_null(f);
    fake_log_open(&f->log);
    opening = f;
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    capture_free(f->c);
    fake_log_close(&f->log);
    free(f);
    return 0;
}

static struct capture_status
status(struct fix *f)
{
    struct capture_status s;

    capture_get_status(f->c, &s);
    return s;
}

static bool
is_done(void *arg)
{
    struct fix *f = arg;
    char        want[64];

    if (status(f).state == CAPTURE_FAILED)
        fail_msg("%s", status(f).error);
    (void)snprintf(want, sizeof want, "{\"at\":%u}", f->count);
    return strcmp(status(f).checkpoint, want) == 0;
}

static bool
is_failed(void *arg)
{
    return status(arg).state == CAPTURE_FAILED;
}

static void
start(struct fix *f, const struct entry *entries, uint32_t count)
{
    struct capture_conf conf = {.name = "far"};
    struct source      *source;

    f->entries = entries;
    f->count = count;
    fake_ok(source_new(env_real(), &ops, "far", NULL, &source, &f->err), &f->err);
    fake_ok(capture_new(env_real(), f->log.log, &conf, &source, &f->c, &f->err), &f->err);
    fake_ok(capture_start(f->c, &f->err), &f->err);
}

static void
stop(struct fix *f)
{
    capture_free(f->c);
    f->c = NULL;
}

static void
import(struct fix *f, const struct entry *entries, uint32_t count)
{
    start(f, entries, count);
    fake_until(is_done, f, "all of it was imported");
    stop(f);
}

#define IMPORT(f, entries) import((f), (entries), sizeof(entries) / sizeof((entries)[0]))

/* What can be read of a stream: "first-last types…". */
static void
expect(struct fix *f, const char *stream, const char *should)
{
    struct log_read  read = {.stream = slice_str(stream)};
    struct log_iter *it = NULL;
    struct log_event e = {0};
    struct buf       text = {0};
    int              rc = log_iter_open(f->log.log, &read, &it, &f->err);

    if (rc == E_NOTFOUND)
        buf_add_str(&text, "none");
    if (rc == E_GONE)
        buf_add_str(&text, "gone");
    while (rc == 0 && log_iter_next(it, &e, &f->err) == 0)
        buf_printf(&text, "%s%llu:%.*s", text.len == 0 ? "" : " ", (unsigned long long)e.version,
                   SLICE_FMT(e.type));
    buf_add_byte(&text, '\0');
    assert_false(text.failed);
    assert_string_equal((char *)text.data, should);
    log_iter_close(it);
    buf_fini(&text);
}

static void
test_as_it_is(void **state)
{
    static const struct entry entries[] = {
        {"a-1", 0, "X", "{\"n\":1}", false}, {"b-1", 0, "Y", "bytes", false},
        {"a-1", 1, "Z", "{}", false},        {"l-1", 0, "$>", "1@a-1", false},
        {"a-1", 2, "X", "{}", true},
    };
    struct fix      *f = *state;
    struct log_read  all = {.filter = {.prefix = {0}}};
    struct log_iter *it;
    struct log_event e = {0};

    IMPORT(f, entries);
    expect(f, "a-1", "0:X 1:Z 2:X");
    fake_ok(log_iter_open(f->log.log, &all, &it, &f->err), &f->err);
    for (uint32_t i = 0; i < 5; i++) {
        struct ox_id id = id_of(entries[i].stream, entries[i].version, entries[i].data);

        fake_ok(log_iter_next(it, &e, &f->err), &f->err);
        assert_true(slice_is(e.stream, entries[i].stream));
        assert_int_equal(e.version, entries[i].version);
        assert_true(slice_is(e.type, entries[i].type));
        assert_true(slice_is(e.data, entries[i].data));
        assert_true(slice_is(e.meta, "no JSON"));
        assert_true(id_eq(&e.id, &id));
        assert_int_equal(e.created_us, 1000000 + i);
        assert_int_equal(e.flags & LOG_JSON, entries[i].data[0] == '{' ? LOG_JSON : 0);
        assert_int_equal(e.flags & LOG_LINK, i == 3 ? LOG_LINK : 0);
    }
    assert_int_equal(log_iter_next(it, &e, &f->err), E_END);
    log_iter_close(it);
}

/* Versions that are gone at the front are hidden here too, however many there were. */
static void
test_gaps_at_the_front(void **state)
{
    static const struct entry entries[] = {
        {"a-1", 10000, "X", "{}", false},
        {"b-1", 3, "X", "{}", false},
        {"$$b-1", 7, "$metadata", "{\"$maxCount\":5}", true},
        {"a-1", 10001, "X", "{}", true},
    };
    struct fix       *f = *state;
    struct log_stream info;

    IMPORT(f, entries);
    expect(f, "a-1", "10000:X 10001:X");
    expect(f, "b-1", "3:X");
    expect(f, "$$b-1", "7:$metadata");
    fake_ok(log_stream_info(f->log.log, slice_str("b-1"), &info, &f->err), &f->err);
    assert_int_equal(info.max_count, 5);
    fake_log_reopen(&f->log);
    expect(f, "a-1", "10000:X 10001:X");
}

/* In the middle they are named, since what is before them stays readable. */
static void
test_gap_in_the_middle(void **state)
{
    static const struct entry entries[] = {
        {"a-1", 0, "X", "{}", false},
        {"a-1", 3, "Y", "{}", true},
    };
    struct fix *f = *state;

    IMPORT(f, entries);
    expect(f, "a-1", "0:X 1:$gap 2:$gap 3:Y");
}

static void
test_tombstone_and_deletion(void **state)
{
    static const struct entry entries[] = {
        {"a-1", 0, "X", "{}", false},
        {"b-1", 0, "X", "{}", false},
        {"a-1", TOMBSTONE, "$streamDeleted", "{}", false},
        {"none", TOMBSTONE, "$streamDeleted", "{}", false},
        {"$$b-1", 0, "$metadata", "{\"$tb\":9223372036854775807}", false},
        {"c-1", 0, "X", "{}", false},
        {"b-1", 1, "Y", "{}", true},
        {"$$b-1", 1, "$metadata", "{\"$tb\":1}", false},
    };
    struct fix *f = *state;

    import(f, entries, 6);
    expect(f, "a-1", "gone");
    expect(f, "none", "gone");
    expect(f, "b-1", "none");
    IMPORT(f, entries);
    expect(f, "b-1", "1:Y");
    expect(f, "c-1", "0:X");
}

/* What cannot be an event here is recorded, its place is kept, and the rest flows on. */
static void
test_parked(void **state)
{
    static char               huge[LOG_EVENT_MAX + 2];
    static const struct entry entries[] = {
        {"a-1", 0, "X", "{}", false},
        {"a-1", 1, "X", huge, false},
        {"a-1", 2, "Y", "{}", false},
        {"$ce-a", 0, "X", "{}", false},
        {"$$a-1", 0, "$metadata", "{\"$maxCount\":-1}", false},
    };
    struct fix *f = *state;

    memset(huge, 'h', sizeof huge - 1);
    start(f, entries, 5);
    fake_until(is_done, f, "all of it was imported");
    assert_int_equal(status(f).parked, 3);
    stop(f);
    expect(f, "a-1", "0:X 1:$gap 2:Y");
    expect(f, "$$a-1", "0:$gap");
    expect(f, "$parked-source-far", "0:Parked 1:Parked 2:Parked");
}

/* The same events again are the same; another's are not. */
static void
test_what_is_there(void **state)
{
    static const struct entry entries[] = {
        {"a-1", 0, "X", "{\"n\":1}", false},
        {"a-1", 1, "X", "{\"n\":2}", false},
    };
    static const struct entry other[] = {
        {"a-1", 0, "X", "{\"n\":1}", false},
        {"a-1", 1, "X", "{\"n\":3}", false},
    };
    struct fix      *f = *state;
    struct log_write reset = {.stream = slice_str("$source-far"), .expected = LOG_ANY, .count = 1};
    struct log_new_event none = {.type = slice_str("$checkpoint"),
                                 .data = slice_str("{\"checkpoint\":{\"at\":0}}"),
                                 .flags = LOG_JSON};
    struct log_req       req = {.writes = &reset, .write_count = 1, .flags = LOG_SYSTEM};

    IMPORT(f, entries);
    reset.events = &none;
    fake_ok(log_append(f->log.log, &req), &req.err);
    IMPORT(f, entries);
    expect(f, "a-1", "0:X 1:X");
    fake_ok(log_append(f->log.log, &req), &req.err);
    start(f, other, 2);
    fake_until(is_failed, f, "it stopped");
    assert_non_null(strstr(status(f).error, "\"a-1\" has another event at version 1 here"));
    stop(f);
    expect(f, "a-1", "0:X 1:X");
}

/* A jump that no history makes. */
static void
test_gap_too_large(void **state)
{
    static const struct entry entries[] = {{"a-1", UINT64_C(1) << 40, "X", "{}", false}};
    struct fix               *f = *state;

    start(f, entries, 1);
    fake_until(is_failed, f, "it stopped");
    assert_non_null(strstr(status(f).error, "so much is not filled"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_as_it_is, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gaps_at_the_front, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gap_in_the_middle, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gap_too_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tombstone_and_deletion, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_there, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
