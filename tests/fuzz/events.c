/*
 * Events in the body of an append: NDJSON that arrives in two pieces while its
 * buffer moves, and JSON. What comes out lies inside the body, is within its
 * limits, and does not depend on where the pieces were cut.
 *
 * The first byte says where; the rest is the body.
 */
#include <stdlib.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/must.h"
#include "server/append_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
init(struct append *a)
{
    memset(a, 0, sizeof *a);
    a->events = a->few;
    a->cap = SERVERI_EVENTS_FEW;
}

static void
fini(struct append *a)
{
    if (a->events != a->few)
        free(a->events);
    buf_fini(&a->scratch);
}

static void
check_inside(struct slice s, const uint8_t *body, size_t len)
{
    uintptr_t from = (uintptr_t)body, at = (uintptr_t)s.data;

    if (s.len == 0)
        return;
    must(at >= from);
    must(at + s.len <= from + len);
}

/* What is given out again is what came in. */
static void
check_base64(struct slice bytes)
{
    struct buf text = {0};
    size_t     len;

    base64_encode(&text, bytes);
    if (bytes.len == 0) {
        must(text.len == 0);
        return;
    }
    must(base64_decode(text.data, text.len, &len));
    must(slice_eq(slice_of(text.data, len), bytes));
    buf_fini(&text);
}

static void
check_expected(struct slice text)
{
    struct buf out = {0};
    int64_t    expected;

    if (serveri_expected_read(text, &expected)) {
        serveri_expected_write(&out, expected);
        must(out.len > 0);
    }
    buf_fini(&out);
}

static void
check_events(const struct append *a, const uint8_t *body, size_t len)
{
    for (uint32_t i = 0; i < a->count; i++) {
        const struct log_new_event *e = &a->events[i];

        check_inside(e->type, body, len);
        check_inside(e->data, body, len);
        check_inside(e->meta, body, len);
        must(e->type.len > 0);
        must(e->type.len <= LOG_TYPE_MAX);
        if ((e->flags & LOG_JSON) != 0)
            must(json_check(e->data, NULL) == 0);
        else
            check_base64(e->data);
        check_expected(e->type);
    }
}

static uint8_t *
copy(const uint8_t *data, size_t len)
{
    uint8_t *p = malloc(len == 0 ? 1 : len);

    must(p != NULL);
    memcpy(p, data, len);
    return p;
}

/* The code, and the events read until then. */
static int
read_lines(struct append *a, const uint8_t *data, size_t cut, size_t size, uint8_t **body)
{
    uint8_t *first = copy(data, cut);
    int      rc = serveri_lines_read(a, first, cut, false, NULL);

    /* As when a connection's buffer grows: what was read stays as it is now. */
    *body = copy(data, size);
    memcpy(*body, first, cut);
    if (rc == 0)
        rc = serveri_lines_read(a, *body, size, true, NULL);
    else
        a->count = 0;
    free(first);
    return rc;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct append whole, cut;
    uint8_t      *body, *other;
    struct slice  raw;
    size_t        at;

    if (size == 0)
        return 0;
    at = data[0] < size ? data[0] : size - 1;
    data++;
    size--;
    init(&whole);
    init(&cut);
    must(read_lines(&whole, data, 0, size, &body) == read_lines(&cut, data, at, size, &other));
    must(whole.lines == cut.lines);
    check_events(&cut, other, size);
    must(whole.count == cut.count || cut.count == 0);
    for (uint32_t i = 0; i < cut.count; i++) {
        must(slice_eq(whole.events[i].type, cut.events[i].type));
        must(slice_eq(whole.events[i].data, cut.events[i].data));
        must(slice_eq(whole.events[i].meta, cut.events[i].meta));
    }
    fini(&whole);
    fini(&cut);
    free(body);
    free(other);

    init(&whole);
    body = copy(data, size);
    if (json_value(slice_of(body, size), &raw, NULL) == 0)
        (void)serveri_events_read(&whole, raw, NULL);
    check_events(&whole, body, size);
    fini(&whole);
    free(body);
    return 0;
}
