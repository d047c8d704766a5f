/* What happens to a group between the beginning of a change and its end: stepped by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "group_fake.h"

struct home {
    struct fake_log f;
    struct groups  *gs;
    bool            changed;
    struct err      err;
};

static int
setup(void **state)
{
    struct home *h = calloc(1, sizeof *h);

    assert_non_null(h);
    fake_log_open(&h->f);
    fake_ok(group_open(fake_hand_env(), h->f.log, &h->gs, &h->err), &h->err);
    *state = h;
    return 0;
}

static int
teardown(void **state)
{
    struct home *h = *state;

    fake_log_hold(false);
    group_close(h->gs);
    fake_log_close(&h->f);
    free(h);
    return 0;
}

static void
note_changed(struct group_command *c)
{
    struct home *h = c->arg;

    fake_ok(c->rc, &c->err);
    h->changed = true;
}

static bool
step_changed(void *arg)
{
    struct home *h = arg;

    fake_hand_step();
    return h->changed;
}

struct wanted {
    struct fake_member *member;
    uint32_t            count;
};

static bool
step_got(void *arg)
{
    struct wanted *w = arg;

    fake_hand_step();
    return fake_got(w->member) >= w->count;
}

static void
until_got(struct fake_member *m, uint32_t count)
{
    struct wanted w = {m, count};

    fake_until(step_got, &w, "the member got them");
}

/* Begins a change of g's strategy, whose commit waits for fake_log_hold(false). */
static void
begin(struct home *h, struct group_command *c, struct group_settings *s,
      enum group_strategy strategy)
{
    group_settings_init(s);
    s->from = GROUP_BEGINNING;
    s->strategy = strategy;
    *c = (struct group_command){.verb = GROUP_UPDATE,
                                .source = slice_str("$all"),
                                .name = slice_str("g"),
                                .settings = s,
                                .done = note_changed,
                                .arg = h};
    h->changed = false;
    fake_log_hold(true);
    group_submit(h->gs, c);
    fake_hand_step();
}

static void
end(struct home *h)
{
    fake_log_hold(false);
    fake_until(step_changed, h, "the group was changed");
}

/* Who joins while the settings change has its share afterwards, and may leave. */
static void
join_between(struct home *h, const char *before, enum group_strategy after)
{
    struct group_settings s;
    struct group_command  c;
    struct fake_member   *m;

    fake_create(h->gs, "$all", "g", before);
    begin(h, &c, &s, after);
    m = fake_join(h->gs, "$all", "g", 10, false);
    end(h);
    for (int i = 0; i < 5; i++) {
        char stream[16];

        (void)snprintf(stream, sizeof stream, "s-%d", i);
        (void)fake_append(&h->f, stream, "1");
    }
    until_got(m, 5);
    fake_leave(m);
}

static void
test_join_while_pinned(void **state)
{
    join_between(*state, "{\"from\":\"beginning\"}", GROUP_PINNED);
}

static void
test_join_while_unpinned(void **state)
{
    join_between(*state, "{\"strategy\":\"pinned\",\"from\":\"beginning\"}", GROUP_ROUND_ROBIN);
}

/* What was parked just before is parked, and not in memory any more when that changes. */
static void
test_park_before(void **state)
{
    struct home          *h = *state;
    struct group_settings s;
    struct group_command  c;
    struct fake_member   *m;

    fake_create(h->gs, "$all", "g", "{\"from\":\"beginning\"}");
    m = fake_join(h->gs, "$all", "g", 10, false);
    for (int i = 0; i < 5; i++)
        (void)fake_append(&h->f, "s", "1");
    until_got(m, 5);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(fake_nack(m, fake_at(m, i).pos, GROUP_PARK, "no"), 0);
    begin(h, &c, &s, GROUP_PINNED);
    end(h);
    fake_leave(m);
    m = fake_join(h->gs, "$all", "g", 10, false);
    until_got(m, 1);
    assert_int_equal(fake_at(m, 0).version, 3);
    assert_int_equal(fake_info(h->gs, "$all", "g").parked, 3);
    fake_leave(m);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_join_while_pinned),
        TEST(test_join_while_unpinned),
        TEST(test_park_before),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
