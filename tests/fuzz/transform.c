/*
 * A transform, as YAML up to a line "---", then an event's data. What is
 * accepted is the same transform after it was written out and read again,
 * gives the same outputs for the same event twice, and only JSON for JSON. What is
 * refused says where.
 */
#include "base/must.h"
#include "base/utf8.h"
#include "transform/transform_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct transform_opts opts = {.name = "t"};

static int
emit(void *arg, const struct transform_out *o, struct err *err)
{
    struct buf *out = arg;

    must(o->type.len > 0);
    must(o->stream.data == NULL || o->stream.len > 0);
    must(o->origin_count > 0);
    if (o->json)
        must(json_check(o->data, NULL) == 0);
    buf_printf(out, "%.*s|%d|%zu|", SLICE_FMT(o->stream), o->changed, o->origin_count);
    buf_add_slice(out, o->type);
    buf_add_slice(out, o->data);
    buf_add_slice(out, o->meta);
    return 0;
}

static int
apply(const struct transform *t, struct slice data, struct buf *out, struct err *err)
{
    struct transform_event in = {.stream = slice_str("a-1"),
                                 .type = slice_str("A"),
                                 .data = data,
                                 .meta = slice_str("{\"m\":1.0}"),
                                 .json = true};
    struct transform_run  *run = NULL;
    int                    rc;

    TRY(transform_run_new(t, &run, err));
    TRY(transform_begin(run, in.stream, emit, out, err));
    TRY(transform_event(run, &in, err));
    in.version++;
    TRY(transform_event(run, &in, err));
    TRY(transform_end(run, err));
out:
    transform_run_free(run);
    return rc;
}

static void
apply_twice(const struct transform *t, const struct transform *again, struct slice data)
{
    struct buf a = {0}, b = {0};
    struct err err = {0};
    int        rc = apply(t, data, &a, &err);

    must(rc == 0 || err.kind == ERR_DATA || err.kind == ERR_RETRY);
    must(apply(again, data, &b, &err) == rc);
    must(slice_eq(buf_slice(&a), buf_slice(&b)));
    buf_fini(&a);
    buf_fini(&b);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t    *cut = size == 0 ? NULL : memmem(data, size, "\n---\n", 5);
    struct slice      text = slice_of(data, cut == NULL ? size : (size_t)(cut - data));
    struct slice      event = slice_str("{\"a\":{\"b\":1.0},\"l\":[1,2]}");
    struct transform *t = NULL, *again = NULL;
    struct buf        json = {0};
    struct err        err = {0};

    if (cut != NULL)
        event = slice_of(cut + 5, size - text.len - 5);
    if (json_check(event, NULL) != 0)
        return 0;
    if (transform_from_yaml(text, &opts, &t, &err) != 0) {
        must(err.kind == ERR_FATAL);
        must(err.text[0] != '\0');
        return 0;
    }
    transform_put_json(t, &json);
    must(transform_from_json(buf_slice(&json), &opts, &again, &err) == 0);
    must(transform_may(t) == transform_may(again));
    apply_twice(t, again, event);
    transform_free(t);
    transform_free(again);
    buf_fini(&json);
    return 0;
}
