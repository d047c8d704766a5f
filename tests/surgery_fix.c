#include "tests/surgery_fix.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "env/env_real.h"
#include "log/index.h"
#include "tests/tmp.h"

static atomic_bool disk_full;

/* The real disk, until it is full. */
static int
resize(struct ox_env *env, struct ox_file *file, uint64_t size, struct err *err)
{
    if (atomic_load(&disk_full))
        return err_set(err, __FILE__, __LINE__, E_NOSPC, ERR_RETRY, "no space left on the disk");
    return env_real()->ops->file_resize(env, file, size, err);
}

void
set_disk_full(bool full)
{
    atomic_store(&disk_full, full);
}

void
open_log(struct fix *f, bool router)
{
    if (log_open(&f->env, f->dir, &f->conf, NULL, &f->log, &f->err) != 0)
        fail_msg("open: %s", f->err.text);
    if (router)
        assert_int_equal(stream_router_new(&f->env, f->log, &f->router, &f->err), 0);
}

void
close_log(struct fix *f)
{
    stream_close(f->surgery);
    f->surgery = NULL;
    log_close(f->log);
    stream_router_free(f->router);
    f->router = NULL;
}

int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);

    tmp_dir(f->dir, sizeof f->dir);
    set_disk_full(false);
    f->ops = *env_real()->ops;
    f->ops.file_resize = resize;
    f->env.ops = &f->ops;
    f->conf.index = &log_index_lmdb;
    f->conf.segment_bytes = LOG_SEGMENT_MIN;
    open_log(f, true);
    *state = f;
    return 0;
}

int
teardown(void **state)
{
    struct fix *f = *state;

    close_log(f);
    tmp_remove(f->dir);
    free(f);
    return 0;
}

int
append_event(struct fix *f, const char *stream, int64_t expected, const struct log_new_event *e)
{
    struct log_write w = {
        .stream = slice_str(stream), .expected = expected, .events = e, .count = 1};
    int rc;

    f->req = (struct log_req){.writes = &w, .write_count = 1};
    rc = log_append(f->log, &f->req);
    f->err = f->req.err;
    f->version = w.last_version;
    return rc;
}

int
append(struct fix *f, const char *stream, const char *type, const char *data)
{
    return append_event(f, stream, LOG_ANY,
                        &(struct log_new_event){
                            .type = slice_str(type), .data = slice_str(data), .flags = LOG_JSON});
}

void
fill(struct fix *f, const char *category, unsigned streams, unsigned events)
{
    char name[64], data[64];

    for (unsigned i = 0; i < streams; i++) {
        (void)snprintf(name, sizeof name, "%s-%u", category, i);
        for (unsigned n = 0; n < events; n++) {
            (void)snprintf(data, sizeof data, "{\"n\":%u}", n);
            assert_int_equal(append(f, name, n % 2 == 0 ? "A" : "B", data), 0);
        }
    }
}

int
change(struct fix *f, const char *stream, uint32_t what)
{
    struct log_change c = {.stream = slice_str(stream), .expected = LOG_ANY, .what = what};

    f->req = (struct log_req){.changes = &c, .change_count = 1};
    return log_append(f->log, &f->req);
}

uint64_t
scavenge(struct fix *f)
{
    static char              pad[400000];
    struct log_new_event     e = {.type = slice_str("Pad"), .data = slice_of(pad, sizeof pad)};
    struct log_scavenge_conf conf = {.min_share = 1};
    struct log_scavenge      s;

    for (unsigned i = 0; i < 2 * LOG_SEGMENT_MIN / sizeof pad; i++)
        assert_int_equal(append_event(f, "pad", LOG_ANY, &e), 0);
    assert_int_equal(log_scavenge_start(f->log, &conf, &f->err), 0);
    do {
        (void)sched_yield();
        log_scavenge_status(f->log, &s);
    } while (s.state == LOG_SCAVENGE_RUNNING);
    assert_int_equal(s.state, LOG_SCAVENGE_DONE);
    return s.events;
}

int
begin(struct fix *f, const char *name, const char *spec)
{
    stream_close(f->surgery);
    f->surgery = NULL;
    return stream_begin(&f->env, f->log, slice_str(name), slice_str(spec), &f->surgery, &f->err);
}

int
again(struct fix *f, const char *name)
{
    stream_close(f->surgery);
    f->surgery = NULL;
    return stream_open(&f->env, f->log, slice_str(name), &f->surgery, &f->err);
}

struct stream_status
wait_end(struct fix *f, enum stream_state state)
{
    struct stream_status s;

    stream_wait(f->surgery, WAIT_US);
    stream_get_status(f->surgery, &s);
    if (s.state != state)
        fail_msg("is %s, should be %s: %s", stream_state_name(s.state), stream_state_name(state),
                 s.error);
    return s;
}

struct stream_status
run(struct fix *f, const char *name, const char *spec)
{
    if (begin(f, name, spec) != 0)
        fail_msg("begin: %s", f->err.text);
    return wait_end(f, STREAM_DONE);
}

void
assert_plan(struct fix *f, const char *spec, uint64_t sample, const char *has)
{
    struct buf out = {0};

    if (stream_plan(&f->env, f->log, slice_str("dry"), slice_str(spec), sample, NULL, &out,
                    &f->err) != 0)
        fail_msg("plan: %s", f->err.text);
    assert_int_equal(json_check(buf_slice(&out), &f->err), 0);
    if (memmem(out.data, out.len, has, strlen(has)) == NULL)
        fail_msg("%.*s\nhas no\n%s", SLICE_FMT(buf_slice(&out)), has);
    buf_fini(&out);
    assert_false(there(f, "$surgery-dry"));
}

struct stream_audit
audit(struct fix *f)
{
    struct stream_audit a;

    if (stream_audit_run(f->surgery, NULL, &a, &f->err) != 0)
        fail_msg("audit: %s", f->err.text);
    if (a.different != 0)
        fail_msg("%llu different: %s", (unsigned long long)a.different, a.first);
    assert_int_equal(a.gone, 0);
    return a;
}

void
assert_clean(struct fix *f, uint64_t streams, uint64_t copies)
{
    struct stream_audit a = audit(f);

    assert_int_equal(a.streams, streams);
    assert_int_equal(a.copies, copies);
}

bool
there(struct fix *f, const char *stream)
{
    struct log_stream info;

    return log_stream_info(f->log, slice_str(stream), &info, NULL) == 0;
}

uint32_t
flags_of(struct fix *f, const char *stream)
{
    struct log_stream info;

    assert_int_equal(log_stream_info(f->log, slice_str(stream), &info, &f->err), 0);
    return info.flags;
}

uint64_t
count(struct fix *f, const struct log_read *read)
{
    struct log_iter *it = NULL;
    struct log_event e;
    uint64_t         n = 0;

    assert_int_equal(log_iter_open(f->log, read, &it, &f->err), 0);
    while (log_iter_next(it, &e, &f->err) == 0)
        n++;
    log_iter_close(it);
    return n;
}

static void
put_read(struct fix *f, const struct log_read *read, struct buf *is)
{
    struct log_iter *it = NULL;
    struct log_event e;
    struct slice     n;

    if (log_iter_open(f->log, read, &it, &f->err) != 0)
        fail_msg("%s", f->err.text);
    while (log_iter_next(it, &e, &f->err) == 0) {
        if (is->len > 0)
            buf_add_byte(is, ' ');
        if ((e.flags & LOG_LINK) != 0) {
            buf_add_slice(is, e.data);
            continue;
        }
        buf_add_slice(is, e.type);
        if (e.type.len > 2)
            continue;
        if ((e.flags & LOG_JSON) != 0 && json_get(e.data, "n", &n)) {
            buf_add_slice(is, n);
            continue;
        }
        buf_add_byte(is, ':');
        buf_add_slice(is, e.data);
    }
    log_iter_close(it);
}

void
assert_read(struct fix *f, const struct log_read *read, const char *should)
{
    struct buf is = {0};

    put_read(f, read, &is);
    if (!slice_is(buf_slice(&is), should))
        fail_msg("%.*s is\n%.*s\nshould be\n%s", SLICE_FMT(read->stream), SLICE_FMT(buf_slice(&is)),
                 should);
    buf_fini(&is);
}

void
assert_stream(struct fix *f, const char *stream, const char *should)
{
    assert_read(f, &(struct log_read){.stream = slice_str(stream)}, should);
}

void
assert_parked(struct fix *f, const char *surgery, const char *why)
{
    char             stream[80], said[1000];
    struct log_read  read = {0};
    struct log_iter *it = NULL;
    struct log_event e;

    (void)snprintf(stream, sizeof stream, "$surgery-%s-parked", surgery);
    read.stream = slice_str(stream);
    if (log_iter_open(f->log, &read, &it, &f->err) != 0)
        fail_msg("nothing is parked");
    assert_int_equal(log_iter_next(it, &e, &f->err), 0);
    (void)snprintf(said, sizeof said, "%.*s", SLICE_FMT(e.data));
    log_iter_close(it);
    if (strstr(said, why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", said, why);
}
