/*
 * The keystore, and the log over it: in a world where every call can fail and the machine can
 * stop in any of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "log/log.h"
#include "sim/env_sim.h"
#include "sim/index_map.h"
#include "subject/subject.h"

#define KEYS "/sim/keys"
#define FILE_PATH "/sim/keys/subjects"
#define DIR "/sim/data"

struct story {
    struct sim         *sim;
    struct ox_env      *env;
    struct index_maps  *maps;
    struct subject_conf conf;
    struct ox_subjects *keys;
    struct log_conf     log_conf;
    struct log         *log;
    struct err          err;
};

static const uint8_t master[SUBJECT_KEY_BYTES] = "0123456789abcdef0123456789abcde";

static void
begin(struct story *t, uint64_t seed, bool wrapped)
{
    memset(t, 0, sizeof *t);
    t->sim = sim_new(seed);
    t->env = sim_env(t->sim);
    t->maps = index_maps_new(t->env, NULL, NULL);
    t->conf = (struct subject_conf){.dir = KEYS, .master = wrapped ? master : NULL};
    t->log_conf = (struct log_conf){.index = &sim_index_map,
                                    .segment_bytes = LOG_SEGMENT_MIN,
                                    .heads_bytes = 64 << 10,
                                    .recent_events = 1000};
    assert_int_equal(t->env->ops->dir_make(t->env, "/sim", &t->err), 0);
    assert_int_equal(t->env->ops->dir_sync(t->env, "/", &t->err), 0);
}

static void
open_keys(struct story *t)
{
    if (subject_open(t->env, &t->conf, &t->keys, &t->err) != 0)
        fail_msg("open: %s", t->err.text);
    must(t->keys != NULL);
}

static void
close_keys(struct story *t)
{
    subject_close(t->keys);
    t->keys = NULL;
}

static void
end(struct story *t)
{
    log_close(t->log);
    close_keys(t);
    index_maps_free(t->maps);
    sim_free(t->sim);
}

static const struct ox_id event_id = {{1, 2, 3}};

struct sealed {
    uint8_t bytes[200];
    size_t  len;
};

static int
seal(struct story *t, const char *name, const char *text, struct sealed *out)
{
    struct slice data = slice_str(text);
    int          rc;

    out->len = data.len + SUBJECTS_OVERHEAD;
    assert_true(out->len <= sizeof out->bytes);
    rc = t->keys->ops->seal(t->keys, slice_str(name), &event_id, data, out->bytes, &t->err);
    return rc != 0 ? rc : t->keys->ops->sync(t->keys, &t->err);
}

static int
unseal(struct story *t, const struct sealed *s, const struct ox_id *id, const char *want)
{
    uint8_t plain[200];
    char    name[SUBJECTS_NAME_MAX];
    size_t  name_len;
    int     rc = t->keys->ops->open(t->keys, id, slice_of(s->bytes, s->len), plain, name, &name_len,
                                    &t->err);

    if (rc == 0) {
        assert_int_equal(s->len - SUBJECTS_OVERHEAD, strlen(want));
        assert_memory_equal(plain, want, strlen(want));
    }
    return rc;
}

static int
erase(struct story *t, const char *name)
{
    bool again;

    return subject_erase(t->keys, slice_str(name), &again, &t->err);
}

static void
opens_what_it_sealed(void **state)
{
    for (int wrapped = 0; wrapped < 2; wrapped++) {
        struct story  t;
        struct sealed a, b, empty;
        struct ox_id  other = {{9}};

        begin(&t, 1, wrapped != 0);
        open_keys(&t);
        assert_int_equal(seal(&t, "anna", "what anna bought", &a), 0);
        assert_int_equal(seal(&t, "bert", "what bert bought", &b), 0);
        assert_int_equal(seal(&t, "anna", "", &empty), 0);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(unseal(&t, &a, &event_id, "what anna bought"), 0);
            assert_int_equal(unseal(&t, &b, &event_id, "what bert bought"), 0);
            assert_int_equal(unseal(&t, &empty, &event_id, ""), 0);
            close_keys(&t);
            open_keys(&t);
        }
        /* Bound to the event's id. */
        assert_int_equal(unseal(&t, &a, &other, ""), E_DAMAGED);
        /* Any bit: damage, or a key that is not there, never other text. */
        for (size_t i = 0; i < a.len * 8; i++) {
            int rc;

            a.bytes[i / 8] ^= (uint8_t)(1 << (i % 8));
            rc = unseal(&t, &a, &event_id, "");
            a.bytes[i / 8] ^= (uint8_t)(1 << (i % 8));
            assert_int_equal(rc, i < 128 ? E_NOTFOUND : i / 32 == 7 ? E_FORMAT : E_DAMAGED);
        }
        /* Cut. */
        for (size_t len = 0; len < a.len; len++) {
            struct sealed cut = a;

            cut.len = len;
            assert_int_equal(unseal(&t, &cut, &event_id, ""), E_DAMAGED);
        }
        assert_int_equal(seal(&t, "", "x", &b), E_INVALID);
        assert_int_equal(seal(&t, "a\nb", "x", &b), E_INVALID);
        assert_int_equal(seal(&t, "\xff", "x", &b), E_INVALID);
        end(&t);
    }
}

/* Is this anywhere in the file, as a reader sees it? */
static bool
file_has(struct story *t, const void *what, size_t len)
{
    uint64_t       size;
    const uint8_t *bytes = sim_file_bytes(t->sim, FILE_PATH, &size);

    return bytes != NULL && memmem(bytes, size, what, len) != NULL;
}

/* The key of the first record, from the file. */
static void
first_key(struct story *t, uint8_t out[SUBJECT_KEY_BYTES])
{
    uint64_t       size;
    const uint8_t *bytes = sim_file_bytes(t->sim, FILE_PATH, &size);

    assert_true(size >= 1024);
    memcpy(out, bytes + 512 + 60, SUBJECT_KEY_BYTES);
}

static int
count_key(void *arg, const struct subject_key *key, struct err *err)
{
    unsigned *counts = arg;

    counts[0]++;
    counts[1] += key->erased_us != 0;
    return 0;
}

static void
forgets_what_was_erased(void **state)
{
    struct story  t;
    struct sealed a, b, again;
    uint8_t       key[SUBJECT_KEY_BYTES];
    bool          before;
    unsigned      counts[2];

    begin(&t, 2, false);
    open_keys(&t);
    assert_int_equal(erase(&t, "anna"), E_NOTFOUND);
    assert_int_equal(seal(&t, "anna", "one", &a), 0);
    assert_int_equal(seal(&t, "bert", "two", &b), 0);
    first_key(&t, key);
    assert_true(file_has(&t, key, sizeof key));
    assert_int_equal(erase(&t, "anna"), 0);
    assert_false(file_has(&t, key, sizeof key));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(unseal(&t, &a, &event_id, ""), E_GONE);
        assert_int_equal(unseal(&t, &b, &event_id, "two"), 0);
        close_keys(&t);
        open_keys(&t);
    }
    assert_int_equal(subject_erase(t.keys, slice_str("anna"), &before, &t.err), 0);
    assert_true(before);
    /* Data of the same subject afterwards is under another key, and stays apart. */
    assert_int_equal(seal(&t, "anna", "back", &again), 0);
    assert_int_equal(unseal(&t, &again, &event_id, "back"), 0);
    assert_int_equal(unseal(&t, &a, &event_id, ""), E_GONE);
    memset(counts, 0, sizeof counts);
    assert_int_equal(subject_each(t.keys, slice_str("anna"), count_key, counts, &t.err), 0);
    assert_int_equal(counts[0], 2);
    assert_int_equal(counts[1], 1);
    assert_int_equal(subject_erase(t.keys, slice_str("anna"), &before, &t.err), 0);
    assert_false(before);
    assert_int_equal(unseal(&t, &again, &event_id, ""), E_GONE);
    end(&t);
}

static void
a_missing_store_is_not_an_erased_key(void **state)
{
    struct story  t;
    struct sealed a;

    begin(&t, 3, false);
    open_keys(&t);
    assert_int_equal(seal(&t, "anna", "one", &a), 0);
    close_keys(&t);
    t.conf.dir = "/sim/elsewhere";
    open_keys(&t);
    assert_int_equal(unseal(&t, &a, &event_id, ""), E_NOTFOUND);
    assert_non_null(strstr(t.err.text, "/sim/elsewhere"));
    close_keys(&t);
    t.conf.dir = KEYS;
    /* A record that is damaged. */
    assert_true(sim_damage(t.sim, FILE_PATH, 512 + 70, 1, 0x10));
    open_keys(&t);
    assert_int_equal(unseal(&t, &a, &event_id, ""), E_NOTFOUND);
    assert_non_null(strstr(t.err.text, "damaged records"));
    close_keys(&t);
    assert_true(sim_damage(t.sim, FILE_PATH, 512 + 70, 1, 0x10));
    assert_true(sim_damage(t.sim, FILE_PATH, 20, 1, 0x10));
    assert_int_equal(subject_open(t.env, &t.conf, &t.keys, &t.err), E_DAMAGED);
    assert_true(sim_damage(t.sim, FILE_PATH, 20, 1, 0x10));
    /* Read-only where there is none, and where there is one. */
    t.conf.read_only = true;
    open_keys(&t);
    assert_int_equal(unseal(&t, &a, &event_id, "one"), 0);
    assert_int_equal(seal(&t, "carl", "x", &a), E_RDONLY);
    assert_int_equal(erase(&t, "anna"), E_RDONLY);
    end(&t);
}

static void
the_master_key_has_to_be_right(void **state)
{
    struct story  t;
    struct sealed a;
    uint8_t       other[SUBJECT_KEY_BYTES] = {1};
    uint8_t       key[SUBJECT_KEY_BYTES];

    begin(&t, 4, true);
    open_keys(&t);
    assert_int_equal(seal(&t, "anna", "one", &a), 0);
    close_keys(&t);
    t.conf.master = other;
    assert_int_equal(subject_open(t.env, &t.conf, &t.keys, &t.err), E_AUTH);
    t.conf.master = NULL;
    assert_int_equal(subject_open(t.env, &t.conf, &t.keys, &t.err), E_AUTH);
    t.conf.master = master;
    open_keys(&t);
    assert_int_equal(unseal(&t, &a, &event_id, "one"), 0);
    end(&t);
    assert_true(subject_master_parse(
        slice_str("000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"), key));
    assert_int_equal(key[31], 0x1f);
    assert_false(subject_master_parse(slice_str("00"), key));
    assert_false(subject_master_parse(
        slice_str("x00102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"), key));
}

/* Not erased, or erased for good: and what was told to be is. */
static void
stops_at_every_call_of_an_erasure(void **state)
{
    for (int loss = SIM_LOSS_NONE; loss <= SIM_LOSS_RANDOM; loss++) {
        bool stopped = true;

        for (uint64_t nth = 0; stopped; nth++) {
            for (uint64_t seed = 0; seed < 20; seed++) {
                struct story  t;
                struct sealed a, b;
                uint8_t       key[SUBJECT_KEY_BYTES];
                int           told, rc;

                begin(&t, nth * 100 + seed, seed % 2 != 0);
                open_keys(&t);
                assert_int_equal(seal(&t, "anna", "one", &a), 0);
                assert_int_equal(seal(&t, "bert", "two", &b), 0);
                first_key(&t, key);
                sim_crash_at(t.sim, nth);
                told = erase(&t, "anna");
                stopped = sim_crashed(t.sim);
                close_keys(&t);
                sim_crash(t.sim);
                sim_reboot(t.sim, (enum sim_loss)loss);
                open_keys(&t);
                rc = unseal(&t, &a, &event_id, "one");
                if (told == 0)
                    assert_int_equal(rc, E_GONE);
                else if (rc != 0)
                    assert_int_equal(rc, E_GONE);
                assert_int_equal(unseal(&t, &b, &event_id, "two"), 0);
                if (rc == E_GONE)
                    assert_false(file_has(&t, key, sizeof key));
                assert_int_equal(erase(&t, "anna"), 0);
                assert_int_equal(unseal(&t, &a, &event_id, ""), E_GONE);
                assert_false(file_has(&t, key, sizeof key));
                end(&t);
            }
            assert_true(nth < 100);
        }
    }
}

static void
a_fault_at_every_call_of_an_erasure(void **state)
{
    for (int call = SIM_OPEN; call <= SIM_DIR_SYNC; call++) {
        for (uint64_t nth = 0; nth < 20; nth++) {
            struct story  t;
            struct sealed a;
            uint64_t      before;
            int           told, rc;

            begin(&t, nth, false);
            open_keys(&t);
            assert_int_equal(seal(&t, "anna", "one", &a), 0);
            before = sim_fault_count(t.sim);
            sim_fault_at(t.sim, (enum sim_call)call, SIM_EIO, nth);
            told = erase(&t, "anna");
            before = sim_fault_count(t.sim) - before;
            sim_fault_none(t.sim);
            if (told == 0)
                assert_int_equal(unseal(&t, &a, &event_id, ""), E_GONE);
            close_keys(&t);
            open_keys(&t);
            rc = unseal(&t, &a, &event_id, "one");
            assert_true(rc == E_GONE || (told != 0 && rc == 0));
            assert_int_equal(erase(&t, "anna"), 0);
            assert_int_equal(unseal(&t, &a, &event_id, ""), E_GONE);
            end(&t);
            if (before == 0)
                break;
        }
    }
}

/* the log over it */

static void
open_log(struct story *t)
{
    t->log_conf.subjects = t->keys;
    if (log_open(t->env, DIR, &t->log_conf, NULL, &t->log, &t->err) != 0)
        fail_msg("open: %s", t->err.text);
}

static int
append(struct story *t, const char *stream, const char *subject, struct slice data,
       struct log_new_event *given)
{
    struct log_new_event event = {.type = slice_str("Bought"),
                                  .data = data,
                                  .meta = slice_str("{\"m\":1}"),
                                  .flags = LOG_JSON,
                                  .subject = slice_str(subject)};
    struct log_write     write = {
            .stream = slice_str(stream), .expected = LOG_ANY, .events = &event, .count = 1};
    struct log_req req = {.writes = &write, .write_count = 1};
    int            rc;

    if (given != NULL)
        event = *given;
    rc = log_append(t->log, &req);
    /* What the caller gave is as it was. */
    assert_ptr_equal(write.events, &event);
    assert_true(slice_eq(event.subject, slice_str(given != NULL ? NULL : subject)));
    if (rc != 0)
        err_copy(&t->err, &req.err);
    return rc;
}

struct seen {
    unsigned events, erased, sealed;
    uint64_t bytes;
};

static int
read_all(struct story *t, const struct log_read *read, const char *want, struct seen *seen)
{
    struct log_iter *it;
    struct log_event e;
    int              rc;

    memset(seen, 0, sizeof *seen);
    assert_int_equal(log_iter_open(t->log, read, &it, &t->err), 0);
    while ((rc = log_iter_next(it, &e, &t->err)) == 0) {
        seen->events++;
        if ((e.flags & LOG_ERASED) != 0) {
            assert_int_equal(e.data.len, 0);
            assert_int_equal(e.flags & (LOG_JSON | LOG_SEALED), 0);
            assert_true(slice_is(e.subject, "anna"));
            seen->erased++;
        } else if ((e.flags & LOG_SEALED) != 0) {
            seen->sealed++;
            assert_true(read->sealed);
        } else if (want != NULL) {
            assert_true(slice_eq(e.data, slice_str(want)));
            assert_int_equal(e.flags, LOG_JSON);
        }
        assert_true(slice_eq(e.meta, slice_str("{\"m\":1}")));
        seen->bytes += e.data.len;
    }
    log_iter_close(it);
    return rc;
}

static const char secret[] = "{\"bought\":\"a secret thing\"}";

/* Every way to read gives it, and afterwards none. */
static void
every_reader_opens_it_until_it_is_erased(void **state)
{
    struct log_read reads[] = {
        {.stream = {"s-1", 3}},
        {.stream = {"s-1", 3}, .from = UINT64_MAX, .backwards = true},
        {.from = 0},
        {.from = UINT64_MAX, .backwards = true},
        {.stream = {"s-1", 3}, .at = {1 << 30}},
        {.from = 0, .at = {1 << 30}},
        {.from = 0, .filter = {.category = {"s", 1}}},
        {.from = 0, .filter = {.type = {"Bought", 6}}},
    };
    struct story t;
    struct seen  seen;

    begin(&t, 5, false);
    open_keys(&t);
    open_log(&t);
    for (int i = 0; i < 5; i++)
        assert_int_equal(append(&t, "s-1", "anna", slice_str(secret), NULL), 0);
    for (int round = 0; round < 4; round++) {
        if (round == 2)
            assert_int_equal(erase(&t, "anna"), 0);
        for (size_t i = 0; i < sizeof reads / sizeof reads[0]; i++) {
            assert_int_equal(read_all(&t, &reads[i], secret, &seen), E_END);
            assert_int_equal(seen.events, 5);
            assert_int_equal(seen.erased, round < 2 ? 0 : 5);
            reads[i].sealed = true;
            assert_int_equal(read_all(&t, &reads[i], NULL, &seen), E_END);
            assert_int_equal(seen.sealed, 5);
            reads[i].sealed = false;
        }
        log_close(t.log); /* memory first, then the index */
        open_log(&t);
    }
    /* Nothing of it is on the disk. */
    for (size_t i = 0; sim_file(t.sim, i) != NULL; i++) {
        uint64_t       size;
        const uint8_t *bytes = sim_file_bytes(t.sim, sim_file(t.sim, i), &size);

        assert_null(size == 0 ? NULL : memmem(bytes, size, "secret thing", 12));
    }
    end(&t);
}

static void
large_events_and_edges(void **state)
{
    struct story    t;
    size_t          most = LOG_EVENT_MAX - SUBJECTS_OVERHEAD - 7;
    uint8_t        *data = calloc(1, LOG_EVENT_MAX);
    struct seen     seen;
    struct log_read read = {.from = 0};

    begin(&t, 6, false);
    t.log_conf.segment_bytes = 8 << 20;
    open_keys(&t);
    open_log(&t);
    assert_int_equal(append(&t, "s", "anna", slice_of(data, most), NULL), 0);
    assert_int_equal(append(&t, "s", "anna", slice_of(data, most + 1), NULL), E_LIMIT);
    assert_int_equal(append(&t, "s", "anna", slice_of(data, 3 << 20), NULL), 0);
    assert_int_equal(read_all(&t, &read, NULL, &seen), E_END);
    assert_int_equal(seen.bytes, most + (3 << 20));
    assert_int_equal(append(&t, "s", "a\tb", slice_str("1"), NULL), E_INVALID);
    assert_int_equal(erase(&t, "anna"), 0);
    assert_int_equal(read_all(&t, &read, NULL, &seen), E_END);
    assert_int_equal(seen.erased, 2);
    end(&t);
    free(data);
}

/* A copy under the same id is opened and erased with it; under another id it is damage. */
static void
copies_go_with_the_original(void **state)
{
    struct story         t;
    struct log_read      read = {.stream = {"s-1", 3}, .sealed = true};
    struct log_read      target = {.stream = {"t-1", 3}}, wrong = {.stream = {"u-1", 3}};
    struct log_iter     *it;
    struct log_event     e;
    struct log_new_event copy;
    struct seen          seen;

    begin(&t, 7, false);
    open_keys(&t);
    open_log(&t);
    assert_int_equal(append(&t, "s-1", "anna", slice_str(secret), NULL), 0);
    assert_int_equal(log_iter_open(t.log, &read, &it, &t.err), 0);
    assert_int_equal(log_iter_next(it, &e, &t.err), 0);
    assert_int_equal(e.flags, LOG_JSON | LOG_SEALED);
    copy = (struct log_new_event){
        .id = e.id, .type = e.type, .data = e.data, .meta = e.meta, .flags = e.flags};
    assert_int_equal(append(&t, "t-1", NULL, e.data, &copy), 0);
    copy.id.b[3] ^= 1;
    assert_int_equal(append(&t, "u-1", NULL, e.data, &copy), 0);
    copy.data.len = 40;
    assert_int_equal(append(&t, "v-1", NULL, e.data, &copy), E_INVALID);
    log_iter_close(it);
    assert_int_equal(read_all(&t, &target, secret, &seen), E_END);
    assert_int_equal(read_all(&t, &wrong, NULL, &seen), E_DAMAGED);
    assert_int_equal(erase(&t, "anna"), 0);
    assert_int_equal(read_all(&t, &target, NULL, &seen), E_END);
    assert_int_equal(seen.erased, 1);
    end(&t);
}

static void
without_a_keystore(void **state)
{
    struct story    t;
    struct log_read read = {.from = 0};
    struct seen     seen;

    begin(&t, 8, false);
    open_keys(&t);
    open_log(&t);
    assert_int_equal(append(&t, "s-1", "anna", slice_str(secret), NULL), 0);
    log_close(t.log);
    close_keys(&t);
    open_log(&t);
    assert_int_equal(read_all(&t, &read, NULL, &seen), E_NOTFOUND);
    assert_non_null(strstr(t.err.text, "keystore"));
    assert_int_equal(append(&t, "s-1", "anna", slice_str(secret), NULL), E_STATE);
    assert_int_equal(append(&t, "s-1", NULL, slice_str(secret), NULL), 0);
    end(&t);
}

/* What was acknowledged can be opened after any power cut: the key was durable first. */
static void
keys_are_durable_before_events(void **state)
{
    for (int loss = SIM_LOSS_ALL; loss <= SIM_LOSS_RANDOM; loss++) {
        for (uint64_t nth = 0; nth < 120; nth++) {
            struct story    t;
            struct log_read read = {.from = 0};
            struct seen     seen;
            unsigned        told = 0;
            char            name[16];

            begin(&t, nth + 500, nth % 2 != 0);
            open_keys(&t);
            open_log(&t);
            sim_crash_at(t.sim, nth);
            for (int i = 0; i < 6; i++) {
                (void)snprintf(name, sizeof name, "anna%d", i);
                told += append(&t, "s-1", name, slice_str(secret), NULL) == 0;
            }
            sim_crash(t.sim);
            log_close(t.log);
            t.log = NULL;
            close_keys(&t);
            sim_reboot(t.sim, (enum sim_loss)loss);
            index_maps_crash(t.maps, NULL, NULL);
            open_keys(&t);
            open_log(&t);
            assert_int_equal(read_all(&t, &read, secret, &seen), E_END);
            assert_true(seen.events >= told);
            end(&t);
        }
    }
}

/* Where the keystore's sync fails nothing is acknowledged. */
static void
a_failed_sync_of_the_keys(void **state)
{
    struct story t;

    begin(&t, 9, false);
    open_keys(&t);
    open_log(&t);
    assert_int_equal(append(&t, "s-1", "anna", slice_str(secret), NULL), 0);
    sim_fault_at(t.sim, SIM_SYNC, SIM_EIO, 0);
    assert_int_not_equal(append(&t, "s-1", "bert", slice_str(secret), NULL), 0);
    sim_fault_none(t.sim);
    assert_int_not_equal(append(&t, "s-1", "carl", slice_str(secret), NULL), 0);
    end(&t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_what_it_sealed),
        cmocka_unit_test(forgets_what_was_erased),
        cmocka_unit_test(a_missing_store_is_not_an_erased_key),
        cmocka_unit_test(the_master_key_has_to_be_right),
        cmocka_unit_test(stops_at_every_call_of_an_erasure),
        cmocka_unit_test(a_fault_at_every_call_of_an_erasure),
        cmocka_unit_test(every_reader_opens_it_until_it_is_erased),
        cmocka_unit_test(large_events_and_edges),
        cmocka_unit_test(copies_go_with_the_original),
        cmocka_unit_test(without_a_keystore),
        cmocka_unit_test(keys_are_durable_before_events),
        cmocka_unit_test(a_failed_sync_of_the_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
