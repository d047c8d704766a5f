/* The source postgres without a server: messages, positions, values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/json.h"
#include "source/postgres/postgres_int.h"

static struct buf bytes;

static void
put(const void *data, size_t len)
{
    buf_add(&bytes, data, len);
}

static void
put_n(uint64_t v, int len)
{
    for (int i = len - 1; i >= 0; i--)
        buf_add_byte(&bytes, (uint8_t)(v >> (8 * i)));
}

#define EPOCH_US INT64_C(946684800000000)

static int
parse(bool in_stream, struct pg_message *m)
{
    return postgresi_message_parse(buf_slice(&bytes), in_stream, m, NULL);
}

/* Cut anywhere, or with a byte behind it, it is refused. */
static void
is_exact(bool in_stream)
{
    struct pg_message m;
    struct err        err;

    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(postgresi_message_parse(slice_of(bytes.data, n), in_stream, &m, &err),
                         E_FORMAT);
    buf_add_byte(&bytes, 0);
    assert_int_equal(parse(in_stream, &m), E_FORMAT);
    buf_clear(&bytes);
}

static void
test_begin_commit(void **state)
{
    struct pg_message m;

    put("B", 1);
    put_n(0x16B374D848, 8);
    put_n(1000000, 8);
    put_n(77, 4);
    assert_int_equal(parse(false, &m), 0);
    assert_int_equal(m.kind, PG_BEGIN);
    assert_int_equal(m.commit.v, 0x16B374D848);
    assert_int_equal(m.time_us, EPOCH_US + 1000000);
    assert_int_equal(m.xid, 77);
    is_exact(false);

    put("C\0", 2);
    put_n(10, 8);
    put_n(20, 8);
    put_n(0, 8);
    assert_int_equal(parse(false, &m), 0);
    assert_int_equal(m.commit.v, 10);
    assert_int_equal(m.end.v, 20);
    is_exact(false);

    put("c", 1);
    put_n(5, 4);
    put("\0", 1);
    put_n(10, 8);
    put_n(20, 8);
    put_n(0, 8);
    assert_int_equal(parse(false, &m), 0);
    assert_int_equal(m.kind, PG_STREAM_COMMIT);
    assert_int_equal(m.xid, 5);
    assert_int_equal(m.end.v, 20);
    is_exact(false);
}

static void
put_relation(void)
{
    put_n(16384, 4);
    put("s\0t\0f", 5);
    put_n(2, 2);
    put("\1id\0", 4);
    put_n(23, 4);
    put_n(UINT32_MAX, 4);
    put("\0v\0", 3);
    put_n(1043, 4);
    put_n(12, 4);
}

static void
test_relation(void **state)
{
    struct pg_message m;
    struct pg_column  c;

    put("R", 1);
    put_relation();
    assert_int_equal(parse(false, &m), 0);
    assert_int_equal(m.relation, 16384);
    assert_true(slice_is(m.schema, "s") && slice_is(m.name, "t"));
    assert_int_equal(m.identity, 'f');
    assert_int_equal(m.count, 2);
    assert_true(postgresi_column_next(&m.list, &c));
    assert_true(c.key && slice_is(c.name, "id") && c.type == 23 && c.typmod == -1);
    assert_true(postgresi_column_next(&m.list, &c));
    assert_true(!c.key && slice_is(c.name, "v") && c.type == 1043 && c.typmod == 12);
    assert_false(postgresi_column_next(&m.list, &c));
    is_exact(false);
    put("R", 1);
    put_n(9, 4);
    put_relation();
    assert_int_equal(parse(true, &m), 0);
    assert_int_equal(m.xid, 9);
    assert_int_equal(m.relation, 16384);
    is_exact(true);
}

static void
test_rows(void **state)
{
    struct pg_message m;
    struct pg_value   v;

    put("U", 1);
    put_n(16384, 4);
    put("K", 1);
    put_n(2, 2);
    put("t\0\0\0\1"
        "1"
        "n",
        7);
    put("N", 1);
    put_n(2, 2);
    put("t\0\0\0\0u", 6);
    assert_int_equal(parse(false, &m), 0);
    assert_int_equal(m.old_kind, 'K');
    assert_int_equal(postgresi_row_begin(&m.old), 2);
    assert_true(postgresi_value_next(&m.old, &v) && v.kind == 't' && slice_is(v.text, "1"));
    assert_true(postgresi_value_next(&m.old, &v) && v.kind == 'n');
    assert_false(postgresi_value_next(&m.old, &v));
    assert_int_equal(postgresi_row_begin(&m.new), 2);
    assert_true(postgresi_value_next(&m.new, &v) && v.kind == 't' && v.text.len == 0);
    assert_true(postgresi_value_next(&m.new, &v) && v.kind == 'u');
    is_exact(false);

    put("D", 1);
    put_n(16384, 4);
    put("N", 1);
    put_n(0, 2);
    assert_int_equal(parse(false, &m), E_FORMAT);
    buf_clear(&bytes);
}

static void
test_others(void **state)
{
    struct pg_message m;
    uint32_t          oid;

    put("T", 1);
    put_n(2, 4);
    put("\1", 1);
    put_n(7, 4);
    put_n(8, 4);
    assert_int_equal(parse(false, &m), 0);
    assert_true(postgresi_relation_next(&m.list, &oid) && oid == 7);
    assert_true(postgresi_relation_next(&m.list, &oid) && oid == 8);
    is_exact(false);

    put("M\1", 2);
    put_n(3, 8);
    put("pre\0", 4);
    put_n(2, 4);
    put("ab", 2);
    assert_int_equal(parse(false, &m), 0);
    assert_true(slice_is(m.name, "pre") && slice_is(m.content, "ab") && m.flags == 1);
    is_exact(false);

    put("A", 1);
    put_n(5, 4);
    put_n(6, 4);
    assert_int_equal(parse(false, &m), 0);
    assert_true(m.xid == 5 && m.subxid == 6);
    is_exact(false);

    put("z", 1);
    assert_int_equal(parse(false, &m), E_FORMAT);
    buf_clear(&bytes);
}

static void
test_prepared(void **state)
{
    static const char kinds[] = "bPpK";
    struct pg_message m;

    for (const char *kind = kinds; *kind != '\0'; kind++) {
        put(kind, 1);
        put("\0", *kind == 'b' ? 0 : 1);
        put_n(10, 8);
        put_n(20, 8);
        put_n(7, 8);
        put_n(5, 4);
        put("gid\0", 4);
        assert_int_equal(parse(false, &m), 0);
        assert_true((char)m.kind == *kind && m.commit.v == 10 && m.end.v == 20);
        assert_true(m.time_us == EPOCH_US + 7 && m.xid == 5 && slice_is(m.name, "gid"));
        is_exact(false);
    }
    put("r\0", 2);
    put_n(10, 8);
    put_n(20, 8);
    put_n(7, 8);
    put_n(8, 8);
    put_n(5, 4);
    put("gid\0", 4);
    assert_int_equal(parse(false, &m), 0);
    assert_true(m.end.v == 20 && m.time_us == EPOCH_US + 8 && m.xid == 5);
    is_exact(false);
}

static void
test_envelopes(void **state)
{
    struct pg_envelope e;
    uint8_t            status[PG_STATUS_BYTES];

    put("w", 1);
    put_n(1, 8);
    put_n(2, 8);
    put_n(3, 8);
    put("xyz", 3);
    assert_int_equal(postgresi_envelope_parse(buf_slice(&bytes), &e, NULL), 0);
    assert_true(e.wal_end.v == 2 && slice_is(e.payload, "xyz"));
    assert_int_equal(postgresi_envelope_parse(slice_of(bytes.data, 24), &e, NULL), E_FORMAT);
    buf_clear(&bytes);
    put("k", 1);
    put_n(9, 8);
    put_n(3, 8);
    put("\1", 1);
    assert_int_equal(postgresi_envelope_parse(buf_slice(&bytes), &e, NULL), 0);
    assert_true(e.wal_end.v == 9 && e.reply);
    buf_clear(&bytes);
    put("r", 1);
    put_n(20, 8);
    put_n(10, 8);
    put_n(10, 8);
    put_n(5, 8);
    put("\1", 1);
    postgresi_status_build(status, (struct pg_lsn){20}, (struct pg_lsn){10}, EPOCH_US + 5, true);
    assert_memory_equal(status, bytes.data, sizeof status);
    buf_clear(&bytes);
}

static void
test_positions(void **state)
{
    static const char *const bad[] = {"",    "/",    "1",   "1/", "/1", "123456789/0",
                                      "0/g", "0/0 ", "-1/0"};
    struct pg_lsn            lsn;
    char                     text[PG_LSN_TEXT];

    assert_true(postgresi_lsn_parse(slice_str("16/B374D848"), &lsn));
    assert_int_equal(lsn.v, 0x16B374D848);
    postgresi_lsn_format(lsn, text);
    assert_string_equal(text, "16/B374D848");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(postgresi_lsn_parse(slice_str(bad[i]), &lsn));
}

static void
is_json(uint32_t oid, const char *text, const char *json)
{
    struct pg_type type = {oid, PG_SHAPE_TEXT, false, ','};

    (void)postgresi_type_builtin(oid, &type);
    postgresi_value_json(&bytes, &type, slice_str(text));
    assert_int_equal(json_check(buf_slice(&bytes), NULL), 0);
    buf_add_byte(&bytes, 0);
    assert_string_equal((const char *)bytes.data, json);
    buf_clear(&bytes);
}

static void
test_values(void **state)
{
    is_json(16, "t", "true");
    is_json(16, "f", "false");
    is_json(20, "-9223372036854775808", "-9223372036854775808");
    is_json(1700, "0.1000", "0.1000");
    is_json(1700, "NaN", "\"NaN\"");
    is_json(701, "-Infinity", "\"-Infinity\"");
    is_json(701, "1e-07", "1e-07");
    is_json(25, "a\"\n", "\"a\\\"\\n\"");
    is_json(114, " {\"a\" : 1} ", "{\"a\" : 1}");
    is_json(3802, "null", "null");
    is_json(114, "{", "\"{\"");
    is_json(99999, "1", "\"1\"");
    is_json(1007, "{}", "[]");
    is_json(1007, "{1,NULL}", "[1,null]");
    is_json(1007, "{{1,2},{3,4}}", "[[1,2],[3,4]]");
    is_json(1007, "[0:1]={1,2}", "\"[0:1]={1,2}\"");
    is_json(1009, "{\"NULL\",NULL,\"a\\\"\\\\\",\"\",b}",
            "[\"NULL\",null,\"a\\\"\\\\\",\"\",\"b\"]");
    /* No text of an array stays that text. */
    is_json(1007, "{1", "\"{1\"");
    is_json(1007, "{1}}", "\"{1}}\"");
    is_json(1009, "{\"a", "\"{\\\"a\"");
    is_json(1009, "{a\\", "\"{a\\\\\"");
}

static void
test_keys(void **state)
{
    postgresi_value_key(&bytes, slice_str("a|b\\c"), false);
    buf_add_byte(&bytes, ' ');
    postgresi_value_key(&bytes, slice_str("a|b\\c"), true);
    assert_true(slice_is(buf_slice(&bytes), "a|b\\c a\\|b\\\\c"));
    buf_clear(&bytes);
}

static int
clean(void **state)
{
    buf_fini(&bytes);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begin_commit), cmocka_unit_test(test_relation),
        cmocka_unit_test(test_rows),         cmocka_unit_test(test_others),
        cmocka_unit_test(test_envelopes),    cmocka_unit_test(test_positions),
        cmocka_unit_test(test_values),       cmocka_unit_test(test_keys),
        cmocka_unit_test(test_prepared),
    };

    return cmocka_run_group_tests(tests, NULL, clean);
}
