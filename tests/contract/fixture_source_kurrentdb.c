/* The source kurrentdb, over a server of ours in a thread: each event is a row of its own. */
#include <stdio.h>

#include "base/conf.h"
#include "contract.h"
#include "server_fix.h"
#include "source/kurrentdb/kurrentdb.h"

static void
append(struct fix *f, unsigned step)
{
    char                 stream[32], data[32];
    struct log_new_event event = {.type = slice_str("T"), .flags = LOG_JSON};
    struct log_write     write = {.expected = LOG_ANY, .events = &event, .count = 1};
    struct log_req       req = {.writes = &write, .write_count = 1};

    (void)snprintf(stream, sizeof stream, "order-%u", step * 7 % 50);
    (void)snprintf(data, sizeof data, "{\"v\":%u}", step);
    write.stream = slice_str(stream);
    event.data = slice_str(data);
    contract_ok(log_append(f->log, &req), &req.err);
}

static void *
setup(void)
{
    struct fix *f = calloc(1, sizeof *f);

    assert_non_null(f);
    fix_start(f, NULL, 0, NULL);
    for (unsigned i = 0; i < 25; i++)
        append(f, i);
    return f;
}

static void
teardown(void *world)
{
    fix_stop(world);
    free(world);
}

static struct source *
open_one(void *world)
{
    struct fix  *f = world;
    struct conf *conf =
        contract_conf(source_kurrentdb_ops.schema, "connection: esdb://127.0.0.1:%u?tls=false\n",
                      server_port(f->server));
    struct source *s;
    struct err     err;

    contract_ok(source_new(env_real(), &source_kurrentdb_ops, "old", conf, &s, &err), &err);
    conf_free(conf);
    return s;
}

static void
mutate(void *world, unsigned step)
{
    append(world, step);
}

static void
state(void *world, struct fold *out)
{
    struct fix      *f = world;
    struct log_read  read = {.from = 0};
    struct log_iter *it;
    struct log_event e = {0};
    struct err       err;
    int              rc;

    contract_ok(log_iter_open(f->log, &read, &it, &err), &err);
    while ((rc = log_iter_next(it, &e, &err)) == 0) {
        char key[64];

        (void)snprintf(key, sizeof key, "%.*s@%llu", SLICE_FMT(e.stream),
                       (unsigned long long)e.version);
        fold_put(out, slice_str(key), e.data);
    }
    assert_int_equal(rc, E_END);
    log_iter_close(it);
}

const struct source_fixture source_fixture_kurrentdb = {"kurrentdb", setup, teardown, open_one,
                                                        mutate,      state, true};
