/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "transform_fix.h"

static char last[1 << 16];

static int
emit(void *arg, const struct transform_out *o, struct err *err)
{
    struct buf *out = arg;

    if (o->stream.data != NULL)
        buf_printf(out, "%.*s < ", SLICE_FMT(o->stream));
    buf_printf(out, "%s%.*s %.*s %.*s [", o->changed ? "*" : "", SLICE_FMT(o->type),
               SLICE_FMT(o->data), SLICE_FMT(o->meta));
    for (size_t i = 0; i < o->origin_count; i++)
        buf_printf(out, "%s%llu", i == 0 ? "" : " ", (unsigned long long)o->origins[i]);
    buf_add_str(out, o->json ? "]\n" : "] bytes\n");
    return 0;
}

struct transform_event
fix_event(const struct fix_event *e, uint64_t version)
{
    struct transform_event in = {.stream = slice_str("orders-42"),
                                 .type = slice_str(e->type),
                                 .data = slice_str(e->data),
                                 .meta = slice_str(e->meta),
                                 .version = version,
                                 .position = 1000 + version,
                                 .created_us = 1700000000000000,
                                 .json = !e->bytes};

    in.id.b[15] = (uint8_t)version;
    return in;
}

static const struct transform_opts opts = {.name = "t.yml"};

int
fix_apply(const char *yaml, const struct fix_event *events, size_t count, struct buf *out,
          struct err *err)
{
    struct transform     *t = NULL;
    struct transform_run *run = NULL;
    int                   rc;

    TRY(transform_from_yaml(slice_str(yaml), &opts, &t, err));
    TRY(transform_run_new(t, &run, err));
    TRY(transform_begin(run, slice_str("orders-42"), emit, out, err));
    for (size_t i = 0; i < count; i++) {
        struct transform_event in = fix_event(&events[i], i);

        TRY(transform_event(run, &in, err));
    }
    TRY(transform_end(run, err));
out:
    transform_run_free(run);
    transform_free(t);
    return rc;
}

static const char *
keep(const char *text, size_t len)
{
    assert_true(len < sizeof last);
    if (len > 0)
        memcpy(last, text, len);
    last[len] = '\0';
    return last;
}

const char *
fix_one(const char *yaml, const char *type, const char *data, const char *meta)
{
    struct fix_event e = {type, data, meta, false};
    struct buf       out = {0};
    struct err       err = {0};

    if (fix_apply(yaml, &e, 1, &out, &err) != 0)
        fail_msg("%s", err.text);
    (void)keep((const char *)out.data, out.len);
    buf_fini(&out);
    return last;
}

const char *
fix_fails(const char *yaml, const char *data, int code)
{
    struct fix_event  e = {"Placed", data, "", false};
    struct transform *t = fix_compile(yaml);
    struct buf        out = {0};
    struct err        err = {0};

    transform_free(t);
    assert_int_equal(fix_apply(yaml, &e, 1, &out, &err), code);
    assert_int_equal(err.kind, ERR_DATA);
    buf_fini(&out);
    return keep(err.text, strlen(err.text));
}

const char *
fix_refused(const char *yaml, int code)
{
    struct transform *t = NULL;
    struct err        err = {0};

    assert_int_equal(transform_from_yaml(slice_str(yaml), &opts, &t, &err), code);
    assert_int_equal(err.kind, ERR_FATAL);
    assert_null(t);
    return keep(err.text, strlen(err.text));
}

struct transform *
fix_compile(const char *yaml)
{
    struct transform *t = NULL;
    struct err        err = {0};

    if (transform_from_yaml(slice_str(yaml), &opts, &t, &err) != 0)
        fail_msg("%s", err.text);
    return t;
}
