/*
 * The source and the store http against a real service that knows nothing of
 * them: the fulfilment service of examples/orders, as its configuration in
 * docs/http.md describes it. Its program is named by FULFILMENT.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "env/env_real.h"
#include "http_drivers.h"
#include "net/http.h"

#define FIELDS "[restaurant, driver, state, note]"
#define ROW_1                                                                                      \
    "{\"driver\":null,\"note\":\"\",\"restaurant\":\"Caf\xc3\xa9 "                                 \
    "\\\"1\\\"\",\"state\":\"placed\"}"
#define ROW_2 "{\"driver\":\"Ann\",\"note\":null,\"restaurant\":\"R\",\"state\":\"ready\"}"

struct world {
    char               folder[64];
    pid_t              pid;
    uint16_t           port;
    struct store      *store;
    struct source     *source;
    struct store_row   row;
    struct net_client *client;
    struct err         err;
    uint32_t           rows;
};

/* NULL where it was not built. */
static const char *
program(void)
{
    const char *path = getenv("FULFILMENT");

    return path == NULL || access(path, X_OK) != 0 ? NULL : path;
}

static uint16_t
wait_for_port(const char *path)
{
    unsigned long   port = 0;
    char            line[16];
    struct timespec pause = {0, 10000000};

    for (int i = 0; i < 6000 && port == 0; i++) {
        FILE *f = fopen(path, "r");

        if (f != NULL && fgets(line, sizeof line, f) != NULL)
            port = strtoul(line, NULL, 10);
        if (f != NULL)
            (void)fclose(f);
        if (port == 0)
            (void)nanosleep(&pause, NULL);
    }
    assert_in_range(port, 1, 65535);
    return (uint16_t)port;
}

static int
set_up(void **state)
{
    struct world  *w = calloc(1, sizeof *w);
    struct net_def def = {60000, 60000, 1, 65536, NULL, NET_AUTO};
    const char    *path = program();
    char           db[96], file[96];

    assert_non_null(w);
    assert_non_null(path);
    (void)snprintf(w->folder, sizeof w->folder, "/tmp/oxbow-http-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    (void)snprintf(db, sizeof db, "%s/db", w->folder);
    (void)snprintf(file, sizeof file, "%s/port", w->folder);
    w->pid = fork();
    assert_true(w->pid >= 0);
    if (w->pid == 0) {
        if (freopen("/dev/null", "w", stdout) == NULL)
            _exit(127);
        (void)execl(path, "fulfilment", "--db", db, "--port", "0", "--port-file", file,
                    "--keep-changes", "50", (char *)NULL);
        _exit(127);
    }
    w->port = wait_for_port(file);
    w->store = http_store(w->port, FIELDS, "version: version\norigin_header: X-Origin\n");
    http_ok(net_client_new(env_real(), &def, &w->client, &w->err), &w->err);
    *state = w;
    return 0;
}

static int
tear_down(void **state)
{
    static const char *const files[] = {"db", "db-wal", "db-shm", "port"};
    struct world            *w = *state;
    char                     path[128];

    source_free(w->source);
    store_free(w->store);
    net_client_free(w->client);
    (void)kill(w->pid, SIGTERM);
    (void)waitpid(w->pid, NULL, 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", w->folder, files[i]);
        (void)unlink(path);
    }
    (void)rmdir(w->folder);
    free(w);
    return 0;
}

static void
fault(struct world *w, const char *mode, unsigned count)
{
    struct net_header  json = {slice_str("Content-Type"), slice_str("application/json")};
    struct net_answer  answer;
    struct net_request r = {.method = "POST", .headers = &json, .header_count = 1};
    char               url[96], body[128];

    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/fault", w->port);
    (void)snprintf(body, sizeof body, "{\"mode\":\"%s\",\"count\":%u,\"on\":\"writes\"}", mode,
                   count);
    r.url = slice_str(url);
    r.body = slice_str(body);
    http_ok(net_call(w->client, &r, &answer, &w->err), &w->err);
    assert_int_equal(answer.status, 200);
}

static int
put(struct world *w, const char *key, const char *fields, enum store_cond_kind cond,
    const char *expect, const char *request_id)
{
    struct store_write write = {.key = slice_str(key),
                                .fields = slice_str(fields),
                                .cond = cond,
                                .expect = slice_str(expect),
                                .epoch = 2,
                                .origin = slice_str("oxbow:m"),
                                .request_id = slice_str(request_id)};

    if (fields == NULL)
        return w->store->ops->del(w->store, &write, &w->err);
    return w->store->ops->put(w->store, &write, &w->err);
}

static int
get(struct world *w, const char *key)
{
    return w->store->ops->get(w->store, slice_str(key), &w->row, &w->err);
}

static void
test_rows(void **state)
{
    struct world *w = *state;
    char          version[32];

    assert_int_equal(get(w, "7"), E_NOTFOUND);
    http_ok(put(w, "7", ROW_1, STORE_ABSENT, "", "a"), &w->err);
    http_ok(put(w, "7", ROW_1, STORE_ABSENT, "", "a"), &w->err); /* the same request */
    assert_int_equal(put(w, "7", ROW_1, STORE_ABSENT, "", "b"), E_WRONG_VERSION);
    http_ok(get(w, "7"), &w->err);
    assert_true(slice_is(w->row.fields, ROW_1));
    (void)snprintf(version, sizeof version, "%.*s", SLICE_FMT(w->row.version));
    http_ok(put(w, "7", ROW_2, STORE_VERSION, version, "c"), &w->err);
    assert_int_equal(put(w, "7", ROW_1, STORE_VERSION, version, "d"), E_WRONG_VERSION);
    assert_int_equal(put(w, "7", ROW_1, STORE_EQUALS, ROW_1, "e"), E_WRONG_VERSION);
    http_ok(put(w, "7", ROW_1, STORE_EQUALS, ROW_2, "f"), &w->err);
    assert_int_equal(put(w, "7", "{\"restaurant\":1}", STORE_ANY, "", "g"), E_REJECTED);
    assert_int_equal(w->err.kind, ERR_DATA);
    assert_int_equal(put(w, "7", NULL, STORE_VERSION, version, "h"), E_WRONG_VERSION);
    http_ok(put(w, "7", NULL, STORE_EQUALS, ROW_1, "i"), &w->err);
    http_ok(put(w, "7", NULL, STORE_EQUALS, ROW_1, "j"), &w->err);
    http_ok(put(w, "7", NULL, STORE_VERSION, version, "k"), &w->err);
    http_ok(put(w, "7", NULL, STORE_ANY, "", "l"), &w->err);
    assert_int_equal(get(w, "7"), E_NOTFOUND);
}

static int
count_row(void *arg, const struct store_row *row, struct err *err)
{
    struct world *w = arg;

    (void)err;
    w->rows++;
    assert_true(row->version.len > 0);
    assert_true(slice_is(row->fields, ROW_1));
    return 0;
}

static void
test_scan_and_feed(void **state)
{
    struct world       *w = *state;
    struct source_batch batch;
    struct buf          head = {0};
    uint32_t            seen = 0;
    char                key[16];

    for (int i = 1; i <= 20; i++) {
        (void)snprintf(key, sizeof key, "%d", i);
        http_ok(put(w, key, ROW_1, STORE_ABSENT, "", key), &w->err);
    }
    http_ok(w->store->ops->scan(w->store, slice_str(""), 0, count_row, w, &w->err), &w->err);
    assert_int_equal(w->rows, 20);
    http_ok(w->store->ops->scan(w->store, slice_str("15"), 0, count_row, w, &w->err), &w->err);
    assert_int_equal(w->rows, 25);
    http_ok(w->store->ops->position(w->store, &head, &w->err), &w->err);
    assert_true(slice_is(buf_slice(&head), "{\"cursor\":20}"));
    w->source = http_source(w->port, false, "fields: " FIELDS "\n");
    http_ok(source_start(w->source, slice_str(""), &w->err), &w->err);
    do {
        http_ok(source_poll(w->source, 6, 200, &batch, &w->err), &w->err);
        for (uint32_t i = 0; i < batch.count; i++) {
            assert_true(slice_is(batch.changes[i].origin, "oxbow:m"));
            assert_true(slice_is(batch.changes[i].after, ROW_1));
        }
        seen += batch.count;
    } while (!batch.caught_up);
    assert_int_equal(seen, 20);
    assert_true(slice_eq(batch.checkpoint, buf_slice(&head)));
    http_ok(put(w, "3", NULL, STORE_ANY, "", "x"), &w->err);
    http_ok(source_poll(w->source, 6, 5000, &batch, &w->err), &w->err);
    assert_int_equal(batch.count, 1);
    assert_int_equal(batch.changes[0].op, CHANGE_DELETE);
    assert_true(slice_is(batch.changes[0].key, "3"));
    buf_fini(&head);
}

/* The feed keeps 50 changes: a cursor from before is a gap; a snapshot is the way out. */
static void
test_gap_and_snapshot(void **state)
{
    struct world       *w = *state;
    struct source_batch batch;
    uint32_t            seen = 0;
    char                key[16];
    int                 rc = 0;

    for (int i = 1; i <= 120; i++) {
        (void)snprintf(key, sizeof key, "%d", i);
        http_ok(put(w, key, ROW_1, STORE_ABSENT, "", key), &w->err);
    }
    w->source = http_source(w->port, false, "");
    http_ok(source_start(w->source, slice_str("{\"cursor\":3}"), &w->err), &w->err);
    do
        rc = source_poll(w->source, 500, 500, &batch, &w->err);
    while (rc == 0 && !batch.caught_up);
    assert_int_equal(rc, E_GONE);
    assert_int_equal(w->err.kind, ERR_FATAL);
    source_free(w->source);
    w->source = http_source(w->port, true, "fields: " FIELDS "\n");
    http_ok(source_start(w->source, slice_str(""), &w->err), &w->err);
    do {
        http_ok(source_poll(w->source, 50, 200, &batch, &w->err), &w->err);
        seen += batch.count;
    } while (!batch.caught_up);
    assert_int_equal(seen, 120);
}

static void
test_fence(void **state)
{
    struct world      *w = *state;
    struct store_guard guard = {.epoch = 1, .writable = false};

    http_ok(w->store->ops->guard_install(w->store, &guard, &w->err), &w->err);
    http_ok(put(w, "7", ROW_1, STORE_ANY, "", "a"), &w->err); /* the migrator's own */
    guard.epoch = 3;
    guard.writable = true;
    http_ok(w->store->ops->guard_set(w->store, &guard, &w->err), &w->err);
    assert_int_equal(put(w, "7", ROW_2, STORE_ANY, "", "b"), E_FENCED); /* epoch 2 */
    assert_int_equal(put(w, "7", ROW_2, STORE_EQUALS, ROW_1, "c"), E_FENCED);
    assert_int_equal(put(w, "7", NULL, STORE_ANY, "", "d"), E_FENCED);
    guard.epoch = 2;
    assert_int_equal(w->store->ops->guard_set(w->store, &guard, &w->err), E_FENCED);
    http_ok(w->store->ops->guard_get(w->store, &guard, &w->err), &w->err);
    assert_int_equal(guard.epoch, 3);
    assert_true(guard.writable);
}

static void
test_faults(void **state)
{
    struct world *w = *state;

    fault(w, "close-halfway", 1); /* done, and half of the answer sent */
    http_ok(put(w, "7", ROW_1, STORE_ABSENT, "", "a"), &w->err);
    fault(w, "garbage", 1); /* done, with its status: what the body says does not matter */
    http_ok(put(w, "7", ROW_2, STORE_EQUALS, ROW_1, "b"), &w->err);
    fault(w, "close-halfway", 9);
    assert_int_equal(put(w, "7", ROW_1, STORE_EQUALS, ROW_2, "c"), E_REMOTE);
    assert_int_equal(w->err.kind, ERR_UNSURE);
    fault(w, "none", 1);
    http_ok(get(w, "7"), &w->err); /* looking tells */
    assert_true(slice_is(w->row.fields, ROW_1));
    fault(w, "500", 1);
    assert_int_equal(put(w, "8", ROW_1, STORE_ABSENT, "", "d"), E_REMOTE);
    assert_int_equal(w->err.kind, ERR_RETRY);
    fault(w, "500-after", 1); /* says 500, and yet it is done */
    assert_int_equal(put(w, "8", ROW_1, STORE_ABSENT, "", "e"), E_REMOTE);
    http_ok(put(w, "8", ROW_1, STORE_ABSENT, "", "e"), &w->err); /* the key knows */
    fault(w, "422", 1);
    assert_int_equal(put(w, "9", ROW_1, STORE_ABSENT, "", "f"), E_REJECTED);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_rows),  TEST(test_scan_and_feed), TEST(test_gap_and_snapshot),
        TEST(test_fence), TEST(test_faults),
    };

    if (program() == NULL)
        return 77; /* skipped */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
