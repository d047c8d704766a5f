/*
 * The decoders of MariaDB's binary log: every type of column as 10.11 logs it
 * (tests/fuzz/corpus/binlog/all_types: one table, full and minimal images,
 * compressed rows), checksums, and events that are not what they say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "source/mariadb/mariadb_int.h"

#define FILE_MAX 65536

static const char        *path;
static uint8_t            bytes[FILE_MAX];
static size_t             size;
static struct my_charsets charsets;
static struct my_cell     before[MARIADBI_COLUMNS_MAX], after[MARIADBI_COLUMNS_MAX];

static void
ok(int rc, const struct err *err)
{
    if (rc != 0)
        fail_msg("%s", err->text);
}

static int
set_up(void **state)
{
    FILE *f = fopen(path, "rb");

    (void)state;
    if (f == NULL)
        return -1;
    size = fread(bytes, 1, sizeof bytes, f);
    mariadbi_charsets_preset(&charsets);
    return fclose(f);
}

/* The nth event of the file. */
static void
event(unsigned nth, struct my_event *out)
{
    struct err err;
    size_t     at = 0;

    while (nth-- > 0)
        at += get_u32(bytes + at + 9);
    assert_true(at + MARIADBI_HEADER < size);
    ok(mariadbi_event_take(slice_of(bytes + at, get_u32(bytes + at + 9)), false, out, &err), &err);
}

static uint8_t
hint_of(struct slice name)
{
    if (slice_is(name, "js"))
        return MY_HINT_JSON;
    if (slice_is(name, "u"))
        return MY_HINT_UUID;
    if (slice_is(name, "i6"))
        return MY_HINT_INET6;
    return slice_is(name, "i4") ? MY_HINT_INET4 : MY_HINT_NONE;
}

static void
table(unsigned nth, struct my_table *t)
{
    struct my_event e;
    struct err      err;

    event(nth, &e);
    ok(mariadbi_table_take(&e, t, &err), &err);
    for (uint32_t i = 0; i < t->count; i++)
        t->columns[i].hint = hint_of(t->columns[i].name);
}

/* `name=value` lines of what is in an image. */
static void
show(const struct my_table *t, const struct my_cell *row, struct buf *out)
{
    struct buf      scratch = {0}, json = {0};
    struct my_value v;
    struct err      err;

    buf_clear(out);
    for (uint32_t i = 0; i < t->count; i++) {
        if (row[i].state == MY_CELL_ABSENT)
            continue;
        ok(mariadbi_cell_value(&charsets, &t->columns[i], &row[i], &scratch, &v, &err), &err);
        buf_printf(out, "%.*s=", SLICE_FMT(t->columns[i].name));
        buf_clear(&json);
        mariadbi_value_json(&json, &v);
        buf_add_slice(out, buf_slice(&json));
        buf_add_byte(out, '\n');
        buf_clear(&json);
        ok(mariadbi_cell_json(&charsets, &t->columns[i], &row[i], &scratch, &json, &err), &err);
        assert_memory_equal(out->data + out->len - 1 - json.len, json.data, json.len);
        assert_int_equal(out->data[out->len - 2 - json.len], '=');
    }
    buf_add_byte(out, 0);
    buf_fini(&scratch);
    buf_fini(&json);
}

static const char extremes[] =
    "id=1\nt1=-128\nt1u=255\nt2=-32768\nt3=-8388608\nt3u=16777215\nt4u=4294967295\n"
    "t8=-9223372036854775808\nt8u=18446744073709551615\nzf=42\ndc=-12345678901234.567891\n"
    "dc2=99999999999999999999999999999999999.999999999999999999999999999999\ndc3=99999\n"
    "fl=1.5e-10\ndb=1e+308\nbo=1\nbi1=1\nbi9=257\nbi64=18446744073709551615\ny=2155\n"
    "d=\"9999-12-31\"\ntm=\"-838:59:59\"\ntm3=\"-12:34:56.789\"\ntm6=\"-00:00:00.000001\"\n"
    "dt=\"9999-12-31 23:59:59\"\ndt1=\"2024-02-29 12:34:56.7\"\n"
    "dt6=\"2024-02-29 12:34:56.000001\"\nts=\"2038-01-19 03:14:07\"\n"
    "ts2=\"1970-01-01 00:00:01.25\"\nch=\"äö\"\nchl=\"€ÿ\"\nvc=\"ß\"\nvcl=\"‰\"\n"
    "bin={\"$blob\":\"78303178\"}\nvbin={\"$blob\":\"00ff\"}\ntt=\"tiny\"\ntx=\"lätin\"\n"
    "lt=\"a\\\"b\\\\c\\n😀\"\nbl={\"$blob\":\"00ff7f\"}\njs={\"a\": [1, 2.50, \"x\"]}\nen=\"é\"\n"
    "enl=\"é\"\nse=\"r,ü\"\n"
    "pt={\"$blob\":\"000000000101000000000000000000f03f0000000000000040\"}\n"
    "ge={\"$blob\":\"e610000001020000000200000000000000000000000000000000000000000000000000f03f"
    "000000000000f03f\"}\n"
    "u=\"f47ac10b-58cc-4372-a567-0e02b2c3d400\"\ni6=\"2001:db8::\"\ni4=\"10.0.0.0\"\ngv=2\n"
    "gs=2\ninv=7\nasc1=\"asc\"\n";

static const char lows[] =
    "id=2\nt1=127\nt1u=0\nt2=32767\nt3=8388607\nt3u=0\nt4u=0\nt8=9223372036854775807\nt8u=0\n"
    "zf=999999\ndc=0.000001\ndc2=-0.500000000000000000000000000000\ndc3=0\n"
    "fl=3.4028235e+38\ndb=-0.1\nbo=0\nbi1=0\nbi9=0\nbi64=0\ny=0\nd=\"0000-00-00\"\n"
    "tm=\"838:59:59\"\ntm3=\"00:00:00.001\"\ntm6=\"838:59:58.999999\"\n"
    "dt=\"0000-00-00 00:00:00\"\ndt1=\"1000-01-01 00:00:00.1\"\n"
    "dt6=\"0000-00-00 00:00:00.000000\"\nts=\"0000-00-00 00:00:00\"\n"
    "ts2=\"2024-01-01 00:00:00.00\"\nch=\"\"\nchl=\"\"\nvc=\"\"\nvcl=\"\"\n"
    "bin={\"$blob\":\"00000000\"}\nvbin={\"$blob\":\"\"}\ntt=\"\"\ntx=\"\"\nlt=\"\"\n"
    "bl={\"$blob\":\"\"}\njs=[]\nen=\"\"\nenl=\"x\"\nse=\"\"\npt=null\nge=null\n"
    "u=\"00000000-0000-0000-0000-000000000000\"\ni6=\"::\"\ni4=\"0.0.0.0\"\ngv=3\ngs=4\ninv=7\n"
    "asc1=\"\"\n";

static void
every_type(void **state)
{
    struct my_table t = {0};
    struct my_event e;
    struct my_rows  r;
    struct buf      text = {0}, scratch = {0};
    struct err      err;
    uint32_t        nulls = 0;

    (void)state;
    table(0, &t);
    assert_true(slice_is(t.db, "shop"));
    assert_true(slice_is(t.name, "al"));
    assert_int_equal(t.key_count, 1);
    assert_int_equal(t.key[0], 0);
    event(1, &e);
    ok(mariadbi_rows_take(&e, &t, &scratch, &r, &err), &err);
    assert_int_equal(r.op, MY_WRITE_ROWS);
    assert_true(r.last);
    ok(mariadbi_rows_next(&r, before, after, &err), &err);
    show(&t, after, &text);
    assert_string_equal((const char *)text.data, extremes);
    ok(mariadbi_rows_next(&r, before, after, &err), &err);
    show(&t, after, &text);
    assert_string_equal((const char *)text.data, lows);
    ok(mariadbi_rows_next(&r, before, after, &err), &err);
    for (uint32_t i = 0; i < t.count; i++)
        nulls += after[i].state == MY_CELL_NULL;
    assert_int_equal(nulls, t.count - 4); /* the key, two generated ones and a preset */
    assert_int_equal(mariadbi_rows_next(&r, before, after, &err), E_END);
    mariadbi_table_fini(&t);
    buf_fini(&text);
    buf_fini(&scratch);
}

static void
minimal_images(void **state)
{
    struct my_table t = {0};
    struct my_event e;
    struct my_rows  r;
    struct buf      text = {0}, scratch = {0};
    struct err      err;

    (void)state;
    table(2, &t);
    event(3, &e);
    ok(mariadbi_rows_take(&e, &t, &scratch, &r, &err), &err);
    ok(mariadbi_rows_next(&r, before, after, &err), &err);
    show(&t, before, &text);
    assert_string_equal((const char *)text.data, "id=2\n");
    show(&t, after, &text);
    assert_string_equal((const char *)text.data, "t1=5\nen=\"b'c\"\ngs=4\n");
    table(4, &t);
    event(5, &e);
    ok(mariadbi_rows_take(&e, &t, &scratch, &r, &err), &err);
    assert_int_equal(r.op, MY_DELETE_ROWS);
    ok(mariadbi_rows_next(&r, before, after, &err), &err);
    show(&t, before, &text);
    assert_string_equal((const char *)text.data, "id=3\n");
    mariadbi_table_fini(&t);
    buf_fini(&text);
    buf_fini(&scratch);
}

static void
compressed_rows(void **state)
{
    struct my_table t = {0};
    struct my_event e;
    struct my_rows  r;
    struct buf      text = {0}, scratch = {0};
    struct err      err;

    (void)state;
    table(6, &t);
    event(7, &e);
    assert_int_equal(e.type, MY_UPDATE_ROWS_COMPRESSED);
    ok(mariadbi_rows_take(&e, &t, &scratch, &r, &err), &err);
    ok(mariadbi_rows_next(&r, before, after, &err), &err);
    show(&t, before, &text);
    assert_string_equal((const char *)text.data, extremes);
    show(&t, after, &text);
    assert_non_null(strstr((const char *)text.data, "\nvc=\"zip\"\n"));
    assert_int_equal(mariadbi_rows_next(&r, before, after, &err), E_END);
    mariadbi_table_fini(&t);
    buf_fini(&text);
    buf_fini(&scratch);
}

/* One byte less anywhere is refused, and read no further. */
static void
cut_short(void **state)
{
    struct my_table t = {0};
    struct my_event e;
    struct my_rows  r;
    struct buf      scratch = {0};
    struct err      err;
    struct slice    whole;
    unsigned        refused = 0;

    (void)state;
    table(0, &t);
    event(1, &e);
    whole = e.body;
    for (size_t len = 0; len < whole.len; len++) {
        uint8_t *copy = malloc(len + 1);
        int      rc;

        assert_non_null(copy);
        memcpy(copy, whole.data, len);
        e.body = slice_of(copy, len);
        rc = mariadbi_rows_take(&e, &t, &scratch, &r, &err);
        while (rc == 0)
            rc = mariadbi_rows_next(&r, before, after, &err);
        refused += rc != E_END;
        free(copy);
    }
    /* Between two rows it is a shorter event. */
    assert_int_equal(refused, whole.len - 3);
    mariadbi_table_fini(&t);
    buf_fini(&scratch);
}

/* A GTID event, with the checksum of its bytes. */
static const uint8_t gtid[] = {0x00, 0x00, 0x00, 0x00, 0xa2, 0x07, 0x00, 0x00, 0x00, 0x2a, 0x00,
                               0x00, 0x00, 0x2a, 0x01, 0x00, 0x00, 0x08, 0x00, 0x2f, 0x00, 0x00,
                               0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x0c, 0x00,
                               0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};

static void
checksums(void **state)
{
    uint8_t         copy[sizeof gtid];
    struct my_event e;
    struct my_gtid  id;
    struct err      err;
    uint8_t         flags;

    (void)state;
    memcpy(copy, gtid, sizeof gtid);
    assert_int_equal(mariadbi_event_take(slice_of(copy, sizeof copy), true, &e, &err), E_DAMAGED);
    put_u32(copy + sizeof copy - 4, 0xc1732370);
    ok(mariadbi_event_take(slice_of(copy, sizeof copy), true, &e, &err), &err);
    ok(mariadbi_gtid_take(&e, &id, &flags, &err), &err);
    assert_int_equal(id.domain, 3);
    assert_int_equal(id.server, 7);
    assert_int_equal(id.seq, 47);
    assert_int_equal(flags, 0x0c);
    for (size_t i = 0; i < sizeof copy; i++) {
        copy[i] ^= 1;
        assert_int_equal(mariadbi_event_take(slice_of(copy, sizeof copy), true, &e, &err),
                         E_DAMAGED);
        copy[i] ^= 1;
    }
    assert_int_equal(mariadbi_event_take(slice_of(copy, 18), true, &e, &err), E_DAMAGED);
}

static void
keys(void **state)
{
    struct my_value text = {MY_TEXT, slice_str("a|b\\c")},
                    blob = {MY_BYTES, slice_of("\x01\xff", 2)};
    struct buf out = {0};

    (void)state;
    mariadbi_value_key(&out, &text, false);
    mariadbi_value_key(&out, &text, true);
    mariadbi_value_key(&out, &blob, true);
    assert_true(slice_is(buf_slice(&out), "a|b\\ca\\|b\\\\c\\x01ff"));
    buf_fini(&out);
}

static void
answers_of_queries(void **state)
{
    struct buf      scratch = {0};
    struct my_value v;

    (void)state;
    mariadbi_sql_value(MY_SQL_INTEGER, slice_str("000042"), &scratch, &v);
    assert_true(slice_is(v.text, "42"));
    mariadbi_sql_value(MY_SQL_INTEGER, slice_str("000"), &scratch, &v);
    assert_true(slice_is(v.text, "0"));
    mariadbi_sql_value(MY_SQL_INTEGER, slice_str("00.50"), &scratch, &v);
    assert_true(slice_is(v.text, "0.50"));
    mariadbi_sql_value(MY_SQL_FLOAT, slice_str("0.10000000149011612"), &scratch, &v);
    assert_true(slice_is(v.text, "0.1"));
    mariadbi_sql_value(MY_SQL_BIT, slice_of("\x01\x01", 2), &scratch, &v);
    assert_true(slice_is(v.text, "257"));
    mariadbi_sql_value(MY_SQL_JSON, slice_str("{oops"), &scratch, &v);
    assert_int_equal(v.kind, MY_TEXT);
    buf_fini(&scratch);
}

/* A double is written with the fewest digits, 15 or more, that read back as the same. */
static void
same_double(double v, struct buf *scratch)
{
    char            given[40], wanted[40];
    struct my_value out;

    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(wanted, sizeof wanted, "%.*g", digits, v);
        if (strtod(wanted, NULL) == v)
            break;
    }
    (void)snprintf(given, sizeof given, "%.17g", v);
    mariadbi_sql_value(MY_SQL_DOUBLE, slice_str(given), scratch, &out);
    if (!slice_is(out.text, wanted))
        fail_msg("%s: %.*s", wanted, SLICE_FMT(out.text));
}

static void
doubles(void **state)
{
    static const double some[] = {0.0,
                                  -0.0,
                                  1.0,
                                  -1.0,
                                  0.1,
                                  1e-4,
                                  1e-5,
                                  99e-6,
                                  1e14,
                                  1e15,
                                  1e16,
                                  999999999999999.0,
                                  1.5e15,
                                  1e22,
                                  0.3,
                                  1.0 / 3,
                                  9007199254740993.0,
                                  1e300,
                                  -2e-300,
                                  0.1 + 0.2,
                                  123456.789,
                                  999999999999999.9,
                                  0.000123456789012345,
                                  99999999999999.95,
                                  5e-324};
    struct buf          scratch = {0};
    uint64_t            random = 42;

    (void)state;
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++)
        same_double(some[i], &scratch);
    for (int i = 0; i < 100000; i++) {
        double whole, tens = 1;

        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        whole = (double)(random >> (12 + random % 50));
        for (int k = 0; k < i % 20; k++)
            tens *= 10;
        same_double(i % 2 == 0 ? whole / tens : -whole / tens, &scratch);
    }
    buf_fini(&scratch);
}

/* What statements in the log do to shop.orders, while `shop` is the database. */
static void
statements(void **state)
{
    static const struct {
        const char    *sql;
        enum my_effect effect;
    } all[] = {
        {"insert into orders values (1)", MY_EFFECT_ROWS},
        {"/* c */ UPDATE x SET y = 1", MY_EFFECT_ROWS},
        {"/*!50000 delete */ from x", MY_EFFECT_ROWS},
        {"-- c\n# d\nREPLACE x VALUES (1)", MY_EFFECT_ROWS},
        {"TRUNCATE orders", MY_EFFECT_EMPTIED},
        {"truncate table `shop` . `Orders`", MY_EFFECT_EMPTIED},
        {"TRUNCATE TABLE other.orders", MY_EFFECT_NONE},
        {"TRUNCATE TABLE orders2", MY_EFFECT_NONE},
        {"DROP TABLE IF EXISTS `x`,`orders` /* generated by server */", MY_EFFECT_EMPTIED},
        {"DROP TABLE shop.x, y.orders", MY_EFFECT_NONE},
        {"DROP TEMPORARY TABLE orders", MY_EFFECT_NONE},
        {"DROP DATABASE `shop`", MY_EFFECT_EMPTIED},
        {"DROP SCHEMA IF EXISTS other", MY_EFFECT_NONE},
        {"DROP INDEX orders ON x", MY_EFFECT_NONE},
        {"CREATE OR REPLACE TABLE orders (x INT)", MY_EFFECT_EMPTIED},
        {"CREATE TABLE orders (x INT)", MY_EFFECT_NONE},
        {"RENAME TABLE a TO b, orders TO c", MY_EFFECT_LOST},
        {"RENAME TABLE `a` TO `shop`.`orders`", MY_EFFECT_LOST},
        {"RENAME TABLE a WAIT 5 TO b", MY_EFFECT_NONE},
        {"RENAME USER a TO orders", MY_EFFECT_NONE},
        {"ALTER TABLE orders RENAME TO x", MY_EFFECT_LOST},
        {"ALTER TABLE x ADD y INT, RENAME AS orders", MY_EFFECT_LOST},
        {"ALTER TABLE orders RENAME COLUMN a TO b", MY_EFFECT_NONE},
        {"ALTER ONLINE TABLE orders ADD c INT DEFAULT 1", MY_EFFECT_NONE},
        {"ALTER TABLE orders DROP COLUMN c", MY_EFFECT_NONE},
        {"ALTER TABLE orders TRUNCATE PARTITION p", MY_EFFECT_LOST},
        {"ALTER TABLE x EXCHANGE PARTITION p WITH TABLE orders", MY_EFFECT_LOST},
        {"ALTER TABLE x DROP PARTITION p", MY_EFFECT_NONE},
        {"GRANT SELECT ON orders TO x", MY_EFFECT_NONE},
        {"TRUNCATE 'orders", MY_EFFECT_EMPTIED},
        {"DROP TABLE `or``ders`", MY_EFFECT_NONE},
        {"/* no end", MY_EFFECT_NONE},
        {"", MY_EFFECT_NONE},
        {"CREATE TABLE IF NOT EXISTS orders SELECT 1", MY_EFFECT_LOST},
        {"ALTER IGNORE TABLE orders ADD UNIQUE (x)", MY_EFFECT_LOST},
        {"SET STATEMENT max_statement_time=1 FOR UPDATE x SET y=1", MY_EFFECT_ROWS},
        {"SET PASSWORD FOR x = 'y'", MY_EFFECT_NONE},
        {"ANALYZE FORMAT=JSON UPDATE x SET y=1", MY_EFFECT_ROWS},
        {"ANALYZE TABLE orders", MY_EFFECT_NONE},
    };

    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        enum my_effect effect =
            mariadbi_effect(slice_str(all[i].sql), slice_str("shop"), "shop", "orders");

        if (effect != all[i].effect)
            fail_msg("%s: %d", all[i].sql, (int)effect);
    }
}

static void
positions(void **state)
{
    struct my_gtid a[MARIADBI_DOMAINS_MAX], b[MARIADBI_DOMAINS_MAX];
    struct buf     out = {0};
    struct err     err;
    uint32_t       an, bn;

    (void)state;
    ok(mariadbi_gtids_read(slice_str("0-1-47,7-4294967295-18446744073709551615"), a, &an, &err),
       &err);
    assert_int_equal(an, 2);
    mariadbi_gtids_write(a, an, &out);
    assert_true(slice_is(buf_slice(&out), "0-1-47,7-4294967295-18446744073709551615"));
    ok(mariadbi_gtids_read(slice_str("0-9-46"), b, &bn, &err), &err);
    assert_true(mariadbi_gtids_reach(a, an, b, bn));
    assert_false(mariadbi_gtids_reach(b, bn, a, an));
    ok(mariadbi_gtids_read(slice_str(""), b, &bn, &err), &err);
    assert_int_equal(bn, 0);
    assert_true(mariadbi_gtids_reach(a, an, b, bn));
    assert_false(mariadbi_gtids_reach(b, bn, a, an));
    assert_int_equal(mariadbi_gtids_read(slice_str("0-1"), b, &bn, &err), E_INVALID);
    assert_int_equal(mariadbi_gtids_read(slice_str("0-1-"), b, &bn, &err), E_INVALID);
    assert_int_equal(mariadbi_gtids_read(slice_str("4294967296-1-1"), b, &bn, &err), E_INVALID);
    assert_int_equal(mariadbi_gtids_read(slice_str("0-1-1;"), b, &bn, &err), E_INVALID);
    assert_int_equal(mariadbi_gtids_read(slice_str("0-1-18446744073709551616"), b, &bn, &err),
                     E_INVALID);
    buf_fini(&out);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type),         cmocka_unit_test(minimal_images),
        cmocka_unit_test(compressed_rows),    cmocka_unit_test(cut_short),
        cmocka_unit_test(checksums),          cmocka_unit_test(keys),
        cmocka_unit_test(answers_of_queries), cmocka_unit_test(statements),
        cmocka_unit_test(positions),          cmocka_unit_test(doubles),
    };

    path = argc > 1 ? argv[1] : "";
    return cmocka_run_group_tests(tests, set_up, NULL);
}
