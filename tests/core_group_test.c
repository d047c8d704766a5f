/* Consumer groups over a log on disk, with members that are only notes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "env/env_real.h"
#include "group_fake.h"
#include "tests/moves_fake.h"

struct home {
    struct fake_log f;
    struct groups  *gs;
};

static void
open_groups(struct home *h)
{
    struct err err;

    fake_ok(group_open(env_real(), h->f.log, &h->gs, &err), &err);
}

static int
setup(void **state)
{
    struct home *h = calloc(1, sizeof *h);

    assert_non_null(h);
    fake_log_open(&h->f);
    open_groups(h);
    *state = h;
    return 0;
}

static int
teardown(void **state)
{
    struct home *h = *state;

    group_close(h->gs);
    fake_log_close(&h->f);
    free(h);
    return 0;
}

static void
reopen(struct home *h)
{
    group_close(h->gs);
    fake_log_reopen(&h->f);
    open_groups(h);
}

static void
fill(struct home *h, const char *prefix, int streams, int each)
{
    for (int n = 0; n < each; n++) {
        for (int s = 0; s < streams; s++) {
            char stream[64], data[32];

            (void)snprintf(stream, sizeof stream, "%s-%d", prefix, s);
            (void)snprintf(data, sizeof data, "%d", n);
            (void)fake_append(&h->f, stream, data);
        }
    }
}

/* Acknowledges what comes until so many were. */
static void
ack_all(struct fake_member **members, int count, uint32_t want)
{
    uint32_t acked = 0;

    while (acked < want) {
        for (int i = 0; i < count; i++) {
            while (members[i]->taken < fake_got(members[i])) {
                struct fake_got got = fake_take(members[i]);
                assert_int_equal(fake_ack(members[i], got.pos), 0);
                acked++;
            }
        }
    }
    assert_int_equal(acked, want);
}

#define BEGIN "\"from\":\"beginning\""

static void
test_round_robin(void **state)
{
    struct home        *h = *state;
    struct fake_member *m[3];

    fill(h, "a", 10, 30);
    fake_create(h->gs, "$all", "g", "{" BEGIN "}");
    for (int i = 0; i < 3; i++)
        m[i] = fake_join(h->gs, "$all", "g", 10, false);
    ack_all(m, 3, 300);
    fake_wait_lag(h->gs, "$all", "g", 0);
    for (int i = 0; i < 3; i++) {
        assert_true(fake_got(m[i]) > 0);
        fake_leave(m[i]);
    }
    /* What was acknowledged does not come again in the next life. */
    reopen(h);
    m[0] = fake_join(h->gs, "$all", "g", 10, false);
    (void)fake_append(&h->f, "b", "7");
    assert_string_equal(fake_take(m[0]).stream, "b");
    fake_leave(m[0]);
}

static void
test_single(void **state)
{
    struct home        *h = *state;
    struct fake_member *a, *b;

    fake_create(h->gs, "s", "g", "{\"strategy\":\"single\"," BEGIN "}");
    a = fake_join(h->gs, "s", "g", 5, false);
    b = fake_join(h->gs, "s", "g", 5, false);
    for (int i = 0; i < 5; i++) {
        (void)fake_append(&h->f, "s", "1");
        assert_int_equal(fake_ack(a, fake_take(a).pos), 0);
    }
    assert_int_equal(fake_got(b), 0);
    /* The next one gets what does not fit. */
    for (int i = 0; i < 7; i++)
        (void)fake_append(&h->f, "s", "1");
    fake_wait(a, 10);
    fake_wait(b, 2);
    fake_leave(a);
    fake_leave(b);
}

static void
check_order(struct fake_member **members, int count)
{
    for (int i = 0; i < count; i++) {
        for (uint32_t k = 0; k < fake_got(members[i]); k++) {
            struct fake_got got = fake_at(members[i], k);

            for (uint32_t j = k; j-- > 0;) {
                struct fake_got before = fake_at(members[i], j);

                if (strcmp(before.stream, got.stream) != 0)
                    continue;
                assert_true(before.version < got.version);
                break;
            }
            for (int o = 0; o < count; o++) /* nobody else has one of its stream */
                for (uint32_t j = 0; o != i && j < fake_got(members[o]); j++)
                    assert_string_not_equal(fake_at(members[o], j).stream, got.stream);
        }
    }
}

static void
test_pinned(void **state)
{
    struct home        *h = *state;
    struct fake_member *m[4];

    /* All are there before the first event, so nobody takes a share over from another. */
    fake_create(h->gs, "$ce-p", "g", "{\"strategy\":\"pinned\"," BEGIN "}");
    for (int i = 0; i < 4; i++)
        m[i] = fake_join(h->gs, "$ce-p", "g", 50, false);
    fill(h, "p", 40, 10);
    ack_all(m, 4, 400);
    check_order(m, 4);
    for (int i = 0; i < 4; i++)
        assert_true(fake_got(m[i]) > 0);
    for (int i = 0; i < 4; i++)
        fake_leave(m[i]);
}

static void
test_pinned_one_at_a_time(void **state)
{
    struct home        *h = *state;
    struct fake_member *a, *b, *first, *second;

    fill(h, "p", 1, 5);
    fake_create(h->gs, "$all", "g", "{\"strategy\":\"pinned\"," BEGIN "}");
    a = fake_join(h->gs, "$all", "g", 50, false);
    fake_wait(a, 1);
    (void)fake_append(&h->f, "q", "x");
    fake_wait(a, 2); /* another stream goes on ... */
    assert_string_equal(fake_at(a, 1).stream, "q");
    assert_int_equal(fake_ack(a, fake_at(a, 0).pos), 0);
    fake_wait(a, 3); /* ... and this one when its first is done */
    assert_int_equal(fake_at(a, 2).version, 1);
    /* A member that leaves gives its work to the others, the same one first. */
    b = fake_join(h->gs, "$all", "g", 50, false);
    first = a;
    second = b;
    fake_leave(first);
    fake_wait(second, 2);
    for (uint32_t i = 0, seen = 0; i < 2; i++) {
        struct fake_got got = fake_at(second, i);

        assert_int_equal(got.retry, 1);
        seen += strcmp(got.stream, "p-0") == 0;
        if (strcmp(got.stream, "p-0") == 0)
            assert_int_equal(got.version, 1);
        assert_true(i == 0 || seen == 1);
    }
    fake_leave(second);
}

static struct log_pos
append_with(struct home *h, const char *stream, const char *type, const char *data,
            const char *meta, uint32_t flags)
{
    struct log_new_event e = {
        .type = slice_str(type), .data = slice_str(data), .meta = slice_str(meta), .flags = flags};
    struct log_write w = {
        .stream = slice_str(stream), .expected = LOG_ANY, .events = &e, .count = 1};
    struct log_req req = {.writes = &w, .write_count = 1, .flags = LOG_SYSTEM};

    fake_ok(log_append(h->f.log, &req), &req.err);
    return req.pos;
}

static void
test_correlation(void **state)
{
    static const char meta[] = "{\"$correlationId\":\"c\\u0031\"}",
                      other[] = "{\"$correlationId\":\"c2\"}";
    struct home        *h = *state;
    struct fake_member *m;

    fake_create(h->gs, "$all", "g", "{\"strategy\":\"PinnedByCorrelation\"," BEGIN "}");
    (void)append_with(h, "x", "t", "1", meta, LOG_JSON);  /* c1 */
    (void)append_with(h, "y", "t", "2", meta, LOG_JSON);  /* behind it by its id */
    (void)append_with(h, "x", "t", "3", other, LOG_JSON); /* behind it by its stream */
    (void)append_with(h, "z", "t", "4", other, LOG_JSON); /* behind that one */
    (void)append_with(h, "w", "t", "5", "{}", LOG_JSON);  /* free */
    m = fake_join(h->gs, "$all", "g", 50, false);
    assert_string_equal(fake_take(m).data, "1");
    assert_string_equal(fake_take(m).data, "5");
    assert_int_equal(fake_info(h->gs, "$all", "g").waiting, 3);
    assert_int_equal(fake_ack(m, fake_at(m, 0).pos), 0);
    fake_wait(m, 4);
    for (uint32_t i = 2; i < 4; i++)
        assert_true(fake_at(m, i).data[0] == '2' || fake_at(m, i).data[0] == '3');
    for (uint32_t i = 2; i < 4; i++)
        assert_int_equal(fake_ack(m, fake_at(m, i).pos), 0);
    assert_string_equal(fake_at(m, 4).data, "4");
    fake_leave(m);
}

static void
test_bad_acks(void **state)
{
    struct home        *h = *state;
    struct fake_member *a, *b;
    struct group_ref    refs[2];
    struct err          err;

    fill(h, "a", 1, 2);
    fake_create(h->gs, "a-0", "g", "{" BEGIN "}");
    a = fake_join(h->gs, "a-0", "g", 1, false);
    b = fake_join(h->gs, "a-0", "g", 1, false);
    fake_wait(a, 1);
    fake_wait(b, 1);
    assert_int_equal(fake_ack(a, LOG_POS(1)), E_NOTFOUND);        /* never delivered */
    assert_int_equal(fake_ack(a, fake_at(b, 0).pos), E_NOTFOUND); /* another's */
    assert_int_equal(fake_nack(a, LOG_POS(1), GROUP_PARK, "no"), E_NOTFOUND);
    refs[0] = (struct group_ref){.id = fake_at(a, 0).id};
    refs[1] = (struct group_ref){.id = {{9}}};
    assert_int_equal(group_ack(a->member, refs, 2, &err), 0); /* one of two is there */
    assert_true(refs[0].known);
    assert_false(refs[1].known);
    assert_int_equal(group_ack(a->member, refs, 1, &err), E_NOTFOUND); /* again */
    assert_non_null(strstr(err.text, "never delivered"));
    fake_leave(a);
    fake_leave(b);
}

/* What is parked, as "version@stream reason;…" */
static int
note_parked(void *arg, const struct log_event *link, struct err *err)
{
    struct buf  *out = arg;
    struct slice reason = {0};

    (void)err;
    (void)json_get(link->meta, "reason", &reason);
    buf_printf(out, "%.*s %.*s;", SLICE_FMT(link->data), SLICE_FMT(reason));
    return 0;
}

static void
assert_parked(struct home *h, const char *source, const char *name, const char *want)
{
    struct buf out = {0};
    uint64_t   next;
    struct err err;

    fake_ok(group_parked(h->gs, slice_str(source), slice_str(name), 0, 100, note_parked, &out,
                         &next, &err),
            &err);
    assert_int_equal(next, 0);
    buf_add_byte(&out, '\0');
    assert_string_equal((char *)out.data, want);
    buf_fini(&out);
}

static void
test_nacks(void **state)
{
    struct home        *h = *state;
    struct fake_member *m, *other;
    struct fake_got     got;
    struct err          err;

    for (int i = 0; i < 4; i++)
        (void)fake_append(&h->f, "s", "1");
    fake_create(h->gs, "s", "g", "{\"max_retry_count\":2," BEGIN "}");
    m = fake_join(h->gs, "s", "g", 1, false);
    for (uint32_t i = 0; i < 3; i++) { /* the first try and two more, then it is parked */
        got = fake_take(m);
        assert_int_equal(got.version, 0);
        assert_int_equal(got.retry, i);
        assert_int_equal(fake_nack(m, got.pos, GROUP_RETRY, "not yet"), 0);
    }
    got = fake_take(m);
    assert_int_equal(got.version, 1);
    assert_int_equal(fake_nack(m, got.pos, GROUP_PARK, "a \"bad\" one"), 0);
    got = fake_take(m);
    assert_int_equal(got.version, 2);
    assert_int_equal(fake_nack(m, got.pos, GROUP_DROP, ""), 0);
    got = fake_take(m);
    assert_int_equal(fake_nack(m, got.pos, GROUP_STOP, ""), 0); /* it goes back, and the member */
    assert_int_equal(fake_ended(m), E_INTERRUPTED);
    assert_int_equal(fake_ack(m, got.pos), E_GONE);
    fake_wait_parked(h->gs, "s", "g", 2);
    assert_parked(h, "s", "g", "0@s \"not yet; 3 attempts\";1@s \"a \\\"bad\\\" one\";");
    other = fake_join(h->gs, "s", "g", 1, false);
    got = fake_take(other);
    assert_int_equal(got.version, 3);
    assert_int_equal(got.retry, 0);
    assert_int_equal(fake_ack(other, got.pos), 0);
    fake_wait_lag(h->gs, "s", "g", 0);
    fake_leave(m);
    fake_leave(other);
    /* Parked events are there in the next life, come again when asked for, and can be given up. */
    reopen(h);
    fake_wait_parked(h->gs, "s", "g", 2);
    fake_ok(fake_command(h->gs, GROUP_REPLAY, "s", "g", NULL, 1, &err), &err);
    m = fake_join(h->gs, "s", "g", 10, false);
    got = fake_take(m);
    assert_int_equal(got.version, 0);
    assert_int_equal(fake_info(h->gs, "s", "g").parked, 2); /* until it is settled */
    assert_int_equal(fake_ack(m, got.pos), 0);
    fake_wait_parked(h->gs, "s", "g", 1);
    assert_parked(h, "s", "g", "1@s \"a \\\"bad\\\" one\";");
    fake_ok(fake_command(h->gs, GROUP_SKIP, "s", "g", NULL, 0, &err), &err);
    assert_parked(h, "s", "g", "");
    assert_int_equal(fake_command(h->gs, GROUP_REPLAY, "s", "g", NULL, 0, &err), E_NOTFOUND);
    assert_int_equal(fake_command(h->gs, GROUP_SKIP, "s", "g", NULL, 0, &err), E_NOTFOUND);
    fake_leave(m);
    reopen(h);
    fake_wait_parked(h->gs, "s", "g", 0);
}

static void
test_replay_fails_again(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;
    struct fake_got     got;
    struct err          err;

    (void)fake_append(&h->f, "s", "1");
    fake_create(h->gs, "s", "g", "{" BEGIN "}");
    m = fake_join(h->gs, "s", "g", 10, false);
    assert_int_equal(fake_nack(m, fake_take(m).pos, GROUP_PARK, "one"), 0);
    fake_wait_parked(h->gs, "s", "g", 1);
    fake_ok(fake_command(h->gs, GROUP_REPLAY, "s", "g", NULL, 0, &err), &err);
    got = fake_take(m);
    assert_int_equal(fake_nack(m, got.pos, GROUP_PARK, "two"), 0);
    fake_wait_parked(h->gs, "s", "g", 1);
    assert_parked(h, "s", "g", "0@s \"two\";");
    /* Being replayed when the life ends: it goes out again in the next. */
    fake_ok(fake_command(h->gs, GROUP_REPLAY, "s", "g", NULL, 0, &err), &err);
    (void)fake_take(m);
    (void)fake_append(&h->f, "s", "2");
    assert_int_equal(fake_ack(m, fake_take(m).pos), 0); /* so that there is a checkpoint */
    fake_leave(m);
    reopen(h);
    m = fake_join(h->gs, "s", "g", 10, false);
    got = fake_take(m);
    assert_int_equal(got.version, 0);
    assert_int_equal(fake_info(h->gs, "s", "g").parked, 1);
    assert_int_equal(fake_ack(m, got.pos), 0);
    fake_wait_parked(h->gs, "s", "g", 0);
    fake_leave(m);
}

static void
test_timeout(void **state)
{
    struct home        *h = *state;
    struct fake_member *a, *b;

    (void)fake_append(&h->f, "s", "1");
    fake_create(h->gs, "s", "g", "{\"message_timeout_ms\":20,\"max_retry_count\":3," BEGIN "}");
    a = fake_join(h->gs, "s", "g", 10, false);
    fake_wait(a, 1);
    b = fake_join(h->gs, "s", "g", 10, false);
    fake_wait_parked(h->gs, "s", "g", 1);
    assert_int_equal(fake_got(a) + fake_got(b), 4);
    assert_int_equal(fake_info(h->gs, "s", "g").timeouts, 4);
    assert_parked(h, "s", "g", "0@s \"not acknowledged in time; 4 attempts\";");
    assert_int_equal(fake_ack(a, fake_at(a, 0).pos), E_NOTFOUND); /* too late */
    fake_leave(a);
    fake_leave(b);
}

static void
test_poison_holds_its_stream(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;
    struct fake_got     got, bad = {0};

    fill(h, "p", 2, 3);
    fake_create(h->gs, "$all", "g", "{\"strategy\":\"pinned\",\"max_retry_count\":5," BEGIN "}");
    m = fake_join(h->gs, "$all", "g", 10, false);
    for (int others = 0; others < 3 || bad.retry < 4;) { /* p-0's first fails, p-1 goes on */
        got = fake_take(m);
        if (strcmp(got.stream, "p-0") == 0) {
            bad = got;
            assert_int_equal(got.version, 0);
            if (got.retry < 4)
                assert_int_equal(fake_nack(m, got.pos, GROUP_RETRY, "poison"), 0);
            continue;
        }
        assert_int_equal(got.version, others++);
        assert_int_equal(fake_ack(m, got.pos), 0);
    }
    assert_int_equal(fake_info(h->gs, "$all", "g").waiting, 2);
    assert_int_equal(fake_nack(m, bad.pos, GROUP_PARK, "poison"), 0);
    for (uint64_t v = 1; v < 3; v++) {
        got = fake_take(m);
        assert_int_equal(got.version, v);
        assert_int_equal(fake_ack(m, got.pos), 0);
    }
    fake_wait_parked(h->gs, "$all", "g", 1);
    fake_leave(m);
}

static void
test_park_behind(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;
    struct fake_got     got;
    struct err          err;

    fill(h, "p", 1, 3);
    fake_create(h->gs, "$all", "g", "{\"strategy\":\"pinned\",\"park_behind\":true," BEGIN "}");
    m = fake_join(h->gs, "$all", "g", 10, false);
    assert_int_equal(fake_nack(m, fake_take(m).pos, GROUP_PARK, "poison"), 0);
    fake_wait_parked(h->gs, "$all", "g", 3);
    (void)fake_append(&h->f, "p-0", "x");
    fake_wait_parked(h->gs, "$all", "g", 4);
    /* The next life knows what it stands behind. */
    fake_leave(m);
    reopen(h);
    fake_wait_parked(h->gs, "$all", "g", 4);
    (void)fake_append(&h->f, "p-0", "y");
    fake_wait_parked(h->gs, "$all", "g", 5);
    m = fake_join(h->gs, "$all", "g", 10, false);
    /* One that fails again takes those behind it with it, in their order. */
    fake_ok(fake_command(h->gs, GROUP_REPLAY, "$all", "g", NULL, 0, &err), &err);
    got = fake_take(m);
    assert_int_equal(got.version, 0);
    assert_int_equal(fake_ack(m, got.pos), 0);
    got = fake_take(m);
    assert_int_equal(got.version, 1);
    assert_int_equal(fake_nack(m, got.pos, GROUP_PARK, "again"), 0);
    fake_wait_parked(h->gs, "$all", "g", 4);
    assert_parked(h, "$all", "g",
                  "1@p-0 \"again\";2@p-0 \"behind a parked event of its stream\";"
                  "3@p-0 \"behind a parked event of its stream\";"
                  "4@p-0 \"behind a parked event of its stream\";");
    assert_int_equal(m->taken, fake_got(m));
    /* All of them done: the stream goes on. */
    fake_ok(fake_command(h->gs, GROUP_REPLAY, "$all", "g", NULL, 0, &err), &err);
    for (uint64_t v = 1; v < 5; v++) {
        got = fake_take(m);
        assert_int_equal(got.version, v);
        assert_int_equal(fake_ack(m, got.pos), 0);
    }
    fake_wait_parked(h->gs, "$all", "g", 0);
    (void)fake_append(&h->f, "p-0", "z");
    got = fake_take(m);
    assert_string_equal(got.data, "z");
    /* Given up, it goes on too. */
    assert_int_equal(fake_nack(m, got.pos, GROUP_PARK, "poison"), 0);
    fake_wait_parked(h->gs, "$all", "g", 1);
    fake_ok(fake_command(h->gs, GROUP_SKIP, "$all", "g", NULL, 0, &err), &err);
    (void)fake_append(&h->f, "p-0", "w");
    assert_string_equal(fake_take(m).data, "w");
    fake_leave(m);
}

static void
test_restart_knows_what_is_settled(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;

    for (int i = 0; i < 20; i++)
        (void)fake_append(&h->f, "s", "1");
    for (int kind = 0; kind < 2; kind++) {
        const char *source = kind == 0 ? "s" : "$all";

        fake_create(h->gs, source, "g", "{" BEGIN "}");
        m = fake_join(h->gs, source, "g", 20, false);
        fake_wait(m, 20);
        for (uint32_t i = 0; i < 20; i++)
            if (i % 3 != 0 || i > 15)
                assert_int_equal(fake_ack(m, fake_at(m, i).pos), 0);
        fake_leave(m);
        reopen(h);
        m = fake_join(h->gs, source, "g", 20, false);
        for (uint64_t v = 0; v <= 15; v += 3)
            assert_int_equal(fake_take(m).version, v);
        (void)fake_append(&h->f, "s", "new");
        assert_string_equal(fake_take(m).data, "new");
        fake_leave(m);
    }
}

static void
test_delete_under_members(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;
    struct err          err;
    struct fake_got     got;

    (void)fake_append(&h->f, "s", "1");
    fake_create(h->gs, "s", "g", "{" BEGIN "}");
    m = fake_join(h->gs, "s", "g", 10, false);
    got = fake_take(m);
    fake_ok(fake_command(h->gs, GROUP_DELETE, "s", "g", NULL, 0, &err), &err);
    assert_int_equal(fake_ended(m), E_GONE);
    assert_int_equal(fake_ack(m, got.pos), E_GONE);
    fake_leave(m);
    assert_int_equal(fake_command(h->gs, GROUP_DELETE, "s", "g", NULL, 0, &err), E_NOTFOUND);
    /* Another of that name knows nothing of the first. */
    fake_create(h->gs, "s", "g", "{" BEGIN "}");
    m = fake_join(h->gs, "s", "g", 10, false);
    assert_int_equal(fake_nack(m, fake_take(m).pos, GROUP_PARK, "x"), 0);
    fake_wait_parked(h->gs, "s", "g", 1);
    fake_leave(m);
    fake_ok(fake_command(h->gs, GROUP_DELETE, "s", "g", NULL, 0, &err), &err);
    fake_create(h->gs, "s", "g", "{}");
    fake_wait_parked(h->gs, "s", "g", 0);
    assert_int_equal(fake_info(h->gs, "s", "g").next, 1);
    reopen(h);
    fake_wait_parked(h->gs, "s", "g", 0);
    assert_int_equal(fake_info(h->gs, "s", "g").next, 1);
}

static void
test_update(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;
    struct err          err;

    fill(h, "a", 2, 2);
    fake_create(h->gs, "$all", "g", "{" BEGIN "}");
    m = fake_join(h->gs, "$all", "g", 10, false);
    assert_int_equal(fake_ack(m, fake_take(m).pos), 0);
    /* What does not touch the order is taken over as it runs. */
    fake_ok(fake_command(h->gs, GROUP_UPDATE, "$all", "g", "{\"max_retry_count\":1}", 0, &err),
            &err);
    assert_int_equal(fake_ended(m), 0);
    /* What does ends the members; what was acknowledged stays so. */
    fake_ok(fake_command(h->gs, GROUP_UPDATE, "$all", "g", "{\"strategy\":\"pinned\"}", 0, &err),
            &err);
    assert_int_equal(fake_ended(m), E_STATE);
    fake_leave(m);
    m = fake_join(h->gs, "$all", "g", 10, false);
    for (int i = 0; i < 2; i++) { /* of a-0 the second, as its first is settled */
        struct fake_got got = fake_take(m);

        assert_int_equal(got.version, strcmp(got.stream, "a-0") == 0 ? 1 : 0);
    }
    assert_int_equal(fake_command(h->gs, GROUP_UPDATE, "$all", "g", "{\"from\":\"end\"}", 0, &err),
                     E_INVALID);
    assert_int_equal(fake_command(h->gs, GROUP_UPDATE, "$all", "no", "{}", 0, &err), E_NOTFOUND);
    fake_leave(m);
    reopen(h);
    assert_int_equal(
        fake_command(h->gs, GROUP_UPDATE, "$all", "g", "{\"filter\":{\"type\":\"x\"}}", 0, &err),
        E_INVALID);
}

static void
test_bad_commands(void **state)
{
    static const struct {
        const char *source, *name, *settings;
        int         code;
    } bad[] = {
        {"s", "", "{}", E_INVALID},
        {"s", "a::b", "{}", E_INVALID},
        {"", "g", "{}", E_INVALID},
        {"$ce-", "g", "{}", E_INVALID},
        {"$persistentsubscription-s::g-parked", "g", "{}", E_INVALID},
        {"s", "g", "{\"strategy\":\"best\"}", E_INVALID},
        {"s", "g", "{\"max_retry_count\":-1}", E_INVALID},
        {"s", "g", "{\"live_buffer_size\":0}", E_INVALID},
        {"s", "g", "{\"from\":\"middle\"}", E_SCHEMA},
        {"s", "g", "{\"form\":1}", E_SCHEMA},
        {"s", "g", "{\"resolve_links\":1}", E_SCHEMA},
        {"s", "g", "{\"links\":\"no\"}", E_SCHEMA},
        {"s", "g", "{\"moved\":true}", E_SCHEMA},
        {"s", "g", "{\"filter\":{\"type\":\"x\"}}", E_INVALID},
        {"s", "g", "{\"park_behind\":true}", E_INVALID},
        {"s", "g", "{\"min_checkpoint_count\":20,\"max_checkpoint_count\":10}", E_INVALID},
        {"$all", "g", "{\"filter\":{\"stream_regex\":\"(\"}}", E_INVALID},
        {"$all", "g", "{\"filter\":{\"colour\":\"x\"}}", E_SCHEMA},
        {"there", "g", "{}", E_EXISTS},
    };
    struct home *h = *state;
    char         name[GROUP_NAME_MAX + 2], source[LOG_NAME_MAX + 1];
    struct err   err;

    fake_create(h->gs, "there", "g", NULL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int rc =
            fake_command(h->gs, GROUP_CREATE, bad[i].source, bad[i].name, bad[i].settings, 0, &err);
        if (rc != bad[i].code)
            fail_msg("%s %s %s: %s", bad[i].source, bad[i].name, bad[i].settings, err_name(rc));
    }
    memset(name, 'g', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(fake_command(h->gs, GROUP_CREATE, "s", name, NULL, 0, &err), E_INVALID);
    memset(source, 's', sizeof source - 1);
    source[sizeof source - 1] = '\0';
    assert_int_equal(fake_command(h->gs, GROUP_CREATE, source, "g", NULL, 0, &err), E_INVALID);
    assert_int_equal(fake_command(h->gs, GROUP_REPLAY, "s", "g", NULL, 0, &err), E_NOTFOUND);
}

static void
test_members_limits(void **state)
{
    struct home             *h = *state;
    struct fake_member      *m;
    struct group_member_conf conf = {.buffer = GROUP_BUFFER_MAX + 1};
    struct group_member     *none;
    struct err               err;

    fake_create(h->gs, "s", "g", "{\"max_subscriber_count\":1}");
    assert_int_equal(group_join(h->gs, slice_str("s"), slice_str("g"), &conf, &none, &err),
                     E_INVALID);
    assert_int_equal(group_join(h->gs, slice_str("s"), slice_str("no"), &conf, &none, &err),
                     E_NOTFOUND);
    m = fake_join(h->gs, "s", "g", 1, false);
    conf.buffer = 1;
    assert_int_equal(group_join(h->gs, slice_str("s"), slice_str("g"), &conf, &none, &err),
                     E_LIMIT);
    assert_null(none);
    fake_leave(m);
}

static void
test_sources(void **state)
{
    static const struct {
        const char *source, *settings, *want;
    } cases[] = {
        {"$all", "{" BEGIN "}", "a-1 b-1 c a-1 "},
        {"$ce-a", "{" BEGIN "}", "a-1 a-1 "},
        {"$et-u", "{" BEGIN "}", "b-1 a-1 "},
        {"a-1", "{" BEGIN "}", "a-1 a-1 "},
        {"a-1", "{\"from\":1}", "a-1 "},
        {"a-1", "{}", ""},
        {"$all", "{}", ""},
        {"$all", "{" BEGIN ",\"filter\":{\"prefix\":\"b\"}}", "b-1 "},
        {"$all", "{" BEGIN ",\"filter\":{\"category\":\"a\",\"type\":\"u\"}}", "a-1 "},
        {"$all", "{" BEGIN ",\"filter\":{\"stream_regex\":\"^[bc]\"}}", "b-1 c "},
        {"$all", "{" BEGIN ",\"filter\":{\"type_regex\":\"^[u]$\"}}", "b-1 a-1 "},
        {"$all", "{" BEGIN ",\"filter\":{\"type_prefix\":\"t\"}}", "a-1 c "},
        {"$all", "{" BEGIN ",\"filter\":{\"system\":true}}", "a-1 b-1 c a-1 $x "},
    };
    struct home *h = *state;
    char         name[16];

    (void)append_with(h, "a-1", "t", "1", "", LOG_JSON);
    (void)append_with(h, "b-1", "u", "1", "", LOG_JSON);
    (void)append_with(h, "c", "t", "1", "", LOG_JSON);
    (void)append_with(h, "a-1", "u", "1", "", LOG_JSON);
    (void)append_with(h, "$x", "v", "1", "", LOG_JSON);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fake_member *m;
        char                got[128] = "";
        uint32_t            n = 0;

        (void)snprintf(name, sizeof name, "g%zu", i);
        fake_create(h->gs, cases[i].source, name, cases[i].settings);
        m = fake_join(h->gs, cases[i].source, name, 10, false);
        for (const char *p = cases[i].want; *p != '\0'; p++)
            n += *p == ' ';
        fake_wait_lag(h->gs, cases[i].source, name, n);
        fake_wait(m, n);
        for (uint32_t k = 0; k < n; k++) {
            struct fake_got one = fake_at(m, k);
            size_t          len = strlen(got);

            (void)snprintf(got + len, sizeof got - len, "%s ", one.stream);
        }
        assert_string_equal(got, cases[i].want);
        assert_int_equal(fake_got(m), n);
        fake_leave(m);
    }
}

static void
test_links(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;
    struct fake_got     got;
    struct log_pos      link;

    (void)fake_append(&h->f, "s", "7");
    link = append_with(h, "l", "$>", "0@s", "", LOG_LINK);
    (void)append_with(h, "l", "$>", "9@s", "", LOG_LINK); /* to nothing */
    (void)append_with(h, "l", "t", "8", "", LOG_JSON);
    fake_create(h->gs, "l", "g", "{\"resolve_links\":true,\"strategy\":\"pinned\"," BEGIN "}");
    m = fake_join(h->gs, "l", "g", 10, false);
    got = fake_take(m);
    assert_string_equal(got.stream, "s");
    assert_int_equal(got.link.v, link.v);
    assert_int_equal(fake_ack(m, got.pos), E_NOTFOUND);
    assert_int_equal(fake_ack(m, link), 0); /* it is known by its link */
    got = fake_take(m);
    assert_string_equal(got.data, "8");
    assert_int_equal(fake_ack(m, got.pos), 0);
    fake_wait_lag(h->gs, "l", "g", 0);
    assert_int_equal(fake_info(h->gs, "l", "g").skipped, 1);
    fake_leave(m);
}

/* Links are passed over unless the settings say otherwise. */
static void
test_links_are_passed_over(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;

    (void)fake_append(&h->f, "s", "7");
    (void)append_with(h, "l", "$>", "0@s", "", LOG_LINK);
    (void)append_with(h, "l", "t", "8", "", LOG_JSON);
    fake_create(h->gs, "l", "g", "{" BEGIN "}");
    fake_create(h->gs, "l", "as-they-are", "{\"links\":\"deliver\"," BEGIN "}");
    m = fake_join(h->gs, "l", "g", 10, false);
    assert_string_equal(fake_take(m).data, "8");
    fake_leave(m);
    m = fake_join(h->gs, "l", "as-they-are", 10, false);
    assert_string_equal(fake_take(m).data, "0@s");
    fake_leave(m);
}

/* Each event once through two moves, over a restart, whatever of it is hidden by then. */
static void
test_moved(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;
    struct fake_got     got;

    (void)fake_append(&h->f, "s-1", "1");
    fake_create(h->gs, "$all", "g", "{\"moved\":\"skip\",\"from\":\"end\"}");
    fake_create(h->gs, "$all", "all", "{\"moved\":\"skip\"," BEGIN "}");
    (void)fake_append(&h->f, "s-1", "2");
    (void)fake_append(&h->f, "s-1", "3");
    m = fake_join(h->gs, "$all", "g", 1, false);
    got = fake_take(m);
    assert_string_equal(got.data, "2");
    moves_fake(h->f.log, "s-1", "s-1"); /* what is out and what waits are hidden now */
    fake_leave(m);
    reopen(h);
    m = fake_join(h->gs, "$all", "g", 1, false);
    for (int want = '2'; want <= '4'; want++) {
        got = fake_take(m);
        assert_int_equal(got.data[0], want == '4' ? '1' : want); /* 1 was before it began */
        assert_int_equal(fake_ack(m, got.pos), 0);
    }
    (void)fake_append(&h->f, "s-1", "5");
    assert_string_equal(fake_take(m).data, "5");
    fake_leave(m);
    m = fake_join(h->gs, "$all", "all", 10, false);
    for (const char *want = "1235"; *want != '\0'; want++)
        assert_int_equal(fake_take(m).data[0], *want);
    fake_leave(m);
}

static void
test_pull(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;

    fill(h, "s", 1, 10);
    fake_create(h->gs, "s-0", "g", "{" BEGIN "}");
    m = fake_join(h->gs, "s-0", "g", 10, true);
    fake_wait_lag(h->gs, "s-0", "g", 10);
    assert_int_equal(fake_got(m), 0);
    group_want(m->member, 3);
    fake_wait(m, 3);
    group_want(m->member, 2);
    fake_wait(m, 5);
    assert_int_equal(fake_info(h->gs, "s-0", "g").in_flight, 5);
    fake_leave(m);
}

/* Who takes no more gets no more, though there is room. */
static void
test_stall(void **state)
{
    struct home        *h = *state;
    struct fake_member *m, *other;

    fake_create(h->gs, "s-0", "g", "{\"strategy\":\"single\"," BEGIN "}");
    m = fake_join(h->gs, "s-0", "g", 10, false);
    m->stall_at = 3;
    other = fake_join(h->gs, "s-0", "g", 10, false);
    fill(h, "s", 1, 5);
    fake_wait(other, 2);
    assert_int_equal(fake_got(m), 3);
    group_want(m->member, 0);
    fill(h, "s", 1, 9); /* the other one is full after eight */
    fake_wait(m, 4);
    m->stall_at = fake_got(m) + 1;
    fill(h, "s", 1, 2);
    fake_wait(m, m->stall_at);
    group_want(m->member, 0); /* nothing else happens meanwhile */
    fake_wait(m, m->stall_at + 1);
    fake_leave(m);
    fake_leave(other);
}

/* A stream that is held up may have many behind it: they take no place of others. */
static void
test_many_behind_one(void **state)
{
    struct home        *h = *state;
    struct fake_member *m;
    struct fake_got     poison;

    fill(h, "p", 1, 1500);
    fake_create(h->gs, "$all", "g",
                "{\"strategy\":\"pinned\",\"live_buffer_size\":10,\"history_buffer_size\":10," BEGIN
                "}");
    m = fake_join(h->gs, "$all", "g", 10, false);
    poison = fake_take(m);
    (void)fake_append(&h->f, "q", "x");
    assert_string_equal(fake_take(m).stream, "q");
    assert_int_equal(fake_info(h->gs, "$all", "g").waiting, 1499);
    assert_int_equal(fake_ack(m, fake_at(m, 1).pos), 0);
    fake_leave(m);
    /* Its checkpoint knows them all. */
    reopen(h);
    m = fake_join(h->gs, "$all", "g", 10, false);
    for (uint64_t v = 0; v < 1500; v++) {
        struct fake_got got = fake_take(m);

        assert_int_equal(got.version, v);
        assert_string_equal(got.stream, poison.stream);
        assert_int_equal(fake_ack(m, got.pos), 0);
    }
    fake_wait_lag(h->gs, "$all", "g", 0);
    fake_leave(m);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_round_robin),
        TEST(test_single),
        TEST(test_pinned),
        TEST(test_pinned_one_at_a_time),
        TEST(test_correlation),
        TEST(test_bad_acks),
        TEST(test_nacks),
        TEST(test_replay_fails_again),
        TEST(test_timeout),
        TEST(test_poison_holds_its_stream),
        TEST(test_park_behind),
        TEST(test_restart_knows_what_is_settled),
        TEST(test_delete_under_members),
        TEST(test_update),
        TEST(test_bad_commands),
        TEST(test_members_limits),
        TEST(test_sources),
        TEST(test_links),
        TEST(test_links_are_passed_over),
        TEST(test_moved),
        TEST(test_pull),
        TEST(test_stall),
        TEST(test_many_behind_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
