/* What the queues kafka and nats keep between two calls: places of partitions, and the order in
 * which deliveries are handed out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#ifdef OX_SOURCE_KAFKA
#include "source/kafka/kafka_int.h"
#endif
#ifdef OX_SOURCE_NATS
#include "source/nats/nats_int.h"
#endif

#ifdef OX_SOURCE_KAFKA
static void
test_places(void **state)
{
    static const char text[] = "{\"epoch\":2,\"topics\":{\"a.b\":{\"0\":7,\"11\":0},\"c\":{\"3\":"
                               "9223372036854775807}}}";
    struct kafkai_places p = {0};
    struct buf           out = {0};
    struct err           err;

    assert_int_equal(kafkai_places_get(&p, slice_str(text), &err), 0);
    assert_true(kafkai_places_know(&p, "a.b"));
    assert_false(kafkai_places_know(&p, "b"));
    assert_int_equal(kafkai_place(&p, "a.b", 0)->next, 7);
    assert_int_equal(kafkai_place(&p, "c", 3)->durable, INT64_MAX);
    /* One that was not begun is not in it. */
    assert_int_equal(kafkai_place(&p, "a.b", 5)->next, KAFKAI_UNKNOWN);
    assert_int_equal(kafkai_places_put(&p, &out, &err), 0);
    assert_true(slice_is(buf_slice(&out), text));
    /* Another checkpoint forgets what it does not name. */
    assert_int_equal(kafkai_places_get(&p, slice_str("{\"epoch\":0,\"topics\":{}}"), &err), 0);
    assert_false(kafkai_places_know(&p, "c"));
    assert_int_equal(p.epoch, 0);
    buf_fini(&out);
    kafkai_places_fini(&p);
}

static void
test_bad_places(void **state)
{
    static const char *const texts[] = {
        "{}",
        "[]",
        "{\"epoch\":0}",
        "{\"epoch\":-1,\"topics\":{}}",
        "{\"epoch\":0,\"topics\":{\"a\":{\"x\":1}}}",
        "{\"epoch\":0,\"topics\":{\"a\":{\"4294967296\":1}}}",
        "{\"epoch\":0,\"topics\":{\"a\":{\"0\":-1}}}",
        "{\"epoch\":0,\"topics\":{\"a\":{\"0\":9223372036854775808}}}",
        "{\"epoch\":0,\"topics\":{\"a\":7}}",
    };
    struct kafkai_places p = {0};
    struct err           err;

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_int_not_equal(kafkai_places_get(&p, slice_str(texts[i]), &err), 0);
    kafkai_places_fini(&p);
}
#endif

#ifdef OX_SOURCE_NATS
static void
put(struct natsi_hold *h, uint64_t sequence, bool expect_added)
{
    struct natsi_place place = {.sequence = sequence};
    natsMsg           *msg = NULL;
    struct err         err;
    bool               added;

    assert_int_equal(natsMsg_Create(&msg, "s", NULL, "x", 1), NATS_OK);
    assert_int_equal(natsi_hold_put(h, &place, 1, msg, &added, &err), 0);
    assert_int_equal(added, expect_added);
}

static void
expect(const struct natsi_hold *h, uint32_t count, const uint64_t *sequences)
{
    assert_int_equal(h->count, count);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(h->at[i].sequence, sequences[i]);
}

static void
test_order(void **state)
{
    struct natsi_hold h = {0};

    put(&h, 3, true);
    put(&h, 9, true);
    put(&h, 5, true);
    put(&h, 9, false);
    expect(&h, 3, (const uint64_t[]){3, 5, 9});
    h.out = 2;
    /* What was handed out stays where it is; a late one comes next. */
    put(&h, 3, false);
    put(&h, 4, true);
    put(&h, 7, true);
    expect(&h, 5, (const uint64_t[]){3, 5, 4, 7, 9});
    natsi_hold_drop(&h, 0, 2);
    expect(&h, 3, (const uint64_t[]){4, 7, 9});
    assert_int_equal(h.out, 0);
    assert_int_equal(h.last, 9);
    natsi_hold_drop(&h, 1, 2);
    put(&h, 8, true);
    expect(&h, 2, (const uint64_t[]){4, 8});
    natsi_hold_drop(&h, 0, 2);
    assert_int_equal(h.last, 0);
    for (uint64_t i = 1000; i > 0; i--)
        put(&h, i, true);
    assert_int_equal(h.count, 1000);
    assert_int_equal(h.at[0].sequence, 1);
    natsi_hold_fini(&h);
}

static void
test_reply(void **state)
{
    struct natsi_place p;

    assert_true(natsi_place_parse("$JS.ACK.S.C.2.7.9.1733000000123456789.4", &p));
    assert_int_equal(p.delivered, 2);
    assert_int_equal(p.sequence, 7);
    assert_int_equal(p.delivery, 9);
    assert_int_equal(p.time_us, 1733000000123456);
    assert_int_equal(p.pending, 4);
    assert_true(natsi_place_parse("$JS.ACK.hub.HASH.S.C.1.8.9.1733000000123456789.0.x", &p));
    assert_int_equal(p.sequence, 8);
    assert_false(natsi_place_parse(NULL, &p));
    assert_false(natsi_place_parse("", &p));
    assert_false(natsi_place_parse("_INBOX.x", &p));
    assert_false(natsi_place_parse("$JS.ACK.S.C.2.7.9.1", &p));
    assert_false(natsi_place_parse("$JS.ACK.S.C.a.7.9.1.4", &p));
    assert_false(natsi_place_parse("$JS.ACK.S.C.1.0.9.1.4", &p));
    assert_false(natsi_place_parse("$JS.ACK.S.C.1.7x.9.1.4", &p));
    assert_false(natsi_place_parse("$JS.ACK.............................", &p));
}
#endif

int
main(void)
{
    int                     failed;
    const struct CMUnitTest tests[] = {
#ifdef OX_SOURCE_KAFKA
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_bad_places),
#endif
#ifdef OX_SOURCE_NATS
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_reply),
#endif
    };

#ifdef OX_SOURCE_NATS
    (void)nats_Open(-1);
#endif
    failed = cmocka_run_group_tests(tests, NULL, NULL);
#ifdef OX_SOURCE_NATS
    nats_Close();
#endif
    return failed;
}
