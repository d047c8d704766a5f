/*
 * From an answer's bytes to changes. An answer is taken whole or not at all:
 * the cursor moves only after all of it was read, so that garbage in the
 * middle costs nothing but another try.
 */
#include <stdlib.h>

#include "base/json.h"
#include "base/rfc3339.h"
#include "source/http/http_int.h"

static struct httpi_span
mark(const struct httpi_source *s, size_t from)
{
    struct httpi_span span = {from, s->bytes.len - from};

    return span;
}

static bool
at_path(struct slice in, const char *path, struct slice *out)
{
    *out = slice_of(NULL, 0);
    return path[0] != '\0' && json_get_path(in, slice_str(path), out) && !json_is_null(*out);
}

static int
more_room(struct httpi_source *s, struct err *err)
{
    uint32_t             room = s->room == 0 ? 64 : s->room * 2;
    struct httpi_change *found;
    struct change       *changes;

    if (s->count < s->room)
        return 0;
    found = reallocarray(s->found, room, sizeof *found);
    if (found != NULL)
        s->found = found;
    changes = reallocarray(s->changes, room, sizeof *changes);
    if (changes != NULL)
        s->changes = changes;
    if (found == NULL || changes == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for %u changes", room);
    s->room = room;
    return 0;
}

static int
add_text(struct httpi_source *s, struct slice raw, const char *what, struct httpi_span *span,
         struct err *err)
{
    size_t from = s->bytes.len;
    int    rc = net_text_of(raw, what, &s->bytes, err);

    *span = mark(s, from);
    return rc;
}

static int
add_row(struct httpi_source *s, struct slice raw, struct httpi_span *span, struct err *err)
{
    size_t from = s->bytes.len;
    int    rc = 0;

    if (json_type(raw) != JSON_OBJECT)
        FAIL(err, E_SCHEMA, ERR_RETRY, "a row is %s, not an object",
             json_type_name(json_type(raw)));
    TRY(net_shape_fields(s->shape, raw, &s->bytes, err));
    *span = mark(s, from);
out:
    return rc;
}

static int
read_op(struct httpi_source *s, struct slice change, enum change_op *op, struct err *err)
{
    struct slice raw;
    int          rc = 0;

    (void)at_path(change, s->paths.op, &raw);
    buf_clear(&s->text);
    TRY(net_text_of(raw, "a change's op", &s->text, err));
    for (uint32_t i = 0; i < s->op_count; i++) {
        if (slice_is(buf_slice(&s->text), s->ops[i].word)) {
            *op = s->ops[i].op;
            goto out;
        }
    }
    FAIL(err, E_SCHEMA, ERR_FATAL,
         "an op that \"ops\" does not have: add the service's word for it");
out:
    return rc;
}

static int
read_change(struct httpi_source *s, struct slice raw, uint32_t index, struct slice *cursor,
            struct err *err)
{
    struct httpi_change c = {0};
    struct slice        value;
    int                 rc = 0;

    TRY(more_room(s, err));
    TRY(read_op(s, raw, &c.op, err));
    if (c.op != CHANGE_TRUNCATE) {
        (void)at_path(raw, s->paths.key, &value);
        TRY(add_text(s, value, "a change's key", &c.key, err));
    }
    if (c.op == CHANGE_INSERT || c.op == CHANGE_UPDATE) {
        (void)at_path(raw, s->paths.row, &value);
        TRY(add_row(s, value, &c.after, err));
    }
    if (at_path(raw, s->paths.before, &value))
        TRY(add_row(s, value, &c.before, err));
    if (at_path(raw, s->paths.origin, &value))
        TRY(add_text(s, value, "a change's origin", &c.origin, err));
    if (at_path(raw, s->paths.time, &value)) {
        buf_clear(&s->text);
        TRY(net_text_of(value, "a change's time", &s->text, err));
        if (!time_parse(buf_slice(&s->text), &c.time_us))
            c.time_us = 0;
    }
    if (at_path(raw, s->paths.cursor, cursor)) {
        TRY(add_text(s, *cursor, "a change's cursor", &c.position, err));
    } else if (s->paths.cursor[0] != '\0') {
        FAIL(err, E_SCHEMA, ERR_RETRY, "a change has no \"%s\"", s->paths.cursor);
    } else { /* the cursor of its page, and its place there */
        size_t from = s->bytes.len;

        buf_add_slice(&s->bytes, buf_slice(&s->cursor));
        buf_printf(&s->bytes, "+%u", index);
        c.position = mark(s, from);
    }
    s->found[s->count++] = c;
out:
    return rc;
}

static int
set_raw(struct buf *to, struct slice raw, struct err *err)
{
    buf_clear(to);
    buf_add_slice(to, raw);
    if (to->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a cursor");
    return 0;
}

/* `last` is the cursor of the last change that was taken. */
static int
move_cursor(struct httpi_source *s, struct slice root, struct slice last, bool cut, struct err *err)
{
    struct slice next, head;
    int          rc = 0;

    if (cut && last.data == NULL)
        FAIL(err, E_SCHEMA, ERR_RETRY,
             "more changes than {limit}, and no \"paths: cursor\" to stop between them");
    if (cut || !at_path(root, s->paths.next, &next)) {
        if (s->paths.next[0] != '\0' && !cut)
            FAIL(err, E_SCHEMA, ERR_RETRY, "no cursor at \"%s\"", s->paths.next);
        next = last;
    }
    if (next.data != NULL && json_type(next) != JSON_NUMBER && json_type(next) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_RETRY, "a cursor is %s, not a string or a number",
             json_type_name(json_type(next)));
    if (s->count > 0 && (next.data == NULL || slice_eq(next, buf_slice(&s->cursor))))
        FAIL(err, E_SCHEMA, ERR_RETRY, "changes came, but the cursor stays where it was");
    if (next.data != NULL)
        TRY(set_raw(&s->cursor, next, err));
    if (at_path(root, s->paths.head, &head))
        TRY(set_raw(&s->head, head, err));
    s->caught_up = !cut && (s->head.len > 0 ? slice_eq(buf_slice(&s->cursor), buf_slice(&s->head))
                                            : s->count < s->asked_max);
out:
    return rc;
}

int
sourcei_http_read_feed(struct httpi_source *s, struct slice body, uint32_t max, struct err *err)
{
    struct json_iter it;
    struct slice     root, list, raw, last = {0};
    uint32_t         index = 0;
    bool             cut = false;
    int              rc = 0;

    TRY(json_value(body, &root, err));
    list = root;
    if (s->paths.list[0] != '\0' && !json_get_path(root, slice_str(s->paths.list), &list))
        FAIL(err, E_SCHEMA, ERR_RETRY, "no list at \"%s\"", s->paths.list);
    TRY(json_array_iter(&it, list, err));
    while ((rc = json_iter_next(&it, NULL, &raw, err)) == 0) {
        cut = index == max;
        if (cut)
            break;
        TRY(read_change(s, raw, index, &last, err));
        index++;
    }
    if (rc != 0 && rc != E_END)
        goto out;
    if (s->bytes.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the changes");
    TRY(move_cursor(s, root, last, cut, err));
out:
    if (rc != 0)
        err_prefix(err, "%s: the answer", s->changes_label);
    return rc;
}

int
sourcei_http_read_page(struct httpi_source *s, struct slice body, uint32_t max, struct err *err)
{
    struct net_row row;
    struct slice   raw, key = {0};
    bool           cut = false;
    int            rc = 0;

    TRY(net_scan_open(s->scan, body, err));
    while ((rc = net_scan_next(s->scan, &raw, err)) == 0) {
        struct httpi_change c = {.op = CHANGE_READ};
        size_t              from = s->bytes.len;

        cut = s->count == max;
        if (cut)
            break;
        TRY(more_room(s, err));
        TRY(net_shape_read(s->shape, raw, true, &row, err));
        buf_add_slice(&s->bytes, row.key);
        c.key = mark(s, from);
        from = s->bytes.len;
        buf_add_slice(&s->bytes, row.fields);
        c.after = mark(s, from);
        from = s->bytes.len;
        buf_printf(&s->bytes, "scan:%.*s:%.*s", SLICE_FMT(buf_slice(&s->cursor)),
                   SLICE_FMT(row.key));
        c.position = mark(s, from);
        s->found[s->count++] = c;
    }
    if (rc != E_END)
        TRY(rc);
    rc = 0;
    if (s->bytes.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a page");
    if (s->count > 0)
        key =
            slice_of(s->bytes.data + s->found[s->count - 1].key.at, s->found[s->count - 1].key.len);
    if (s->count > 0 && slice_eq(key, buf_slice(&s->scan_after)))
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s: a page ends where the one before it ended",
             net_scan_label(s->scan));
    s->scanning = cut || net_scan_more(s->scan);
    s->scanned += s->count;
    if (s->count > 0)
        TRY(set_raw(&s->scan_after, key, err));
    s->caught_up = false;
out:
    return rc;
}

static struct slice
get_span(const struct httpi_source *s, struct httpi_span span)
{
    return slice_of(span.len == 0 ? NULL : s->bytes.data + span.at, span.len);
}

int
sourcei_http_give(struct httpi_source *s, struct source_batch *batch, struct err *err)
{
    for (uint32_t i = 0; i < s->count; i++) {
        const struct httpi_change *c = &s->found[i];

        s->changes[i] = (struct change){.op = c->op,
                                        .table = slice_str(s->table),
                                        .key = get_span(s, c->key),
                                        .before = get_span(s, c->before),
                                        .after = get_span(s, c->after),
                                        .origin = get_span(s, c->origin),
                                        .position = get_span(s, c->position),
                                        .time_us = c->time_us};
    }
    batch->changes = s->changes;
    batch->count = s->count;
    batch->caught_up = s->caught_up;
    if (sourcei_http_put_checkpoint(s, err) != 0)
        return E_NOMEM;
    batch->checkpoint = buf_slice(&s->checkpoint);
    return 0;
}

int
sourcei_http_put_checkpoint(struct httpi_source *s, struct err *err)
{
    struct json_out o;

    buf_clear(&s->checkpoint);
    json_out_init(&o, &s->checkpoint);
    json_out_object(&o);
    json_out_key(&o, "cursor");
    json_out_raw(&o, buf_slice(&s->cursor));
    if (s->scanning) {
        json_out_key(&o, "scan_after");
        json_out_string(&o, buf_slice(&s->scan_after));
        json_out_key(&o, "scanned");
        json_out_u64(&o, s->scanned);
    }
    json_out_object_end(&o);
    if (s->checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a checkpoint");
    return 0;
}

int
sourcei_http_get_checkpoint(struct httpi_source *s, struct slice checkpoint, struct err *err)
{
    struct json_field fields[] = {
        {.name = "cursor", .required = true}, {.name = "scan_after"}, {.name = "scanned"}};
    int rc = 0;

    TRY(json_pick(checkpoint, fields, 3, JSON_PICK_ANY, err));
    if (json_type(fields[0].value) != JSON_NUMBER && json_type(fields[0].value) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_FATAL, "its cursor is no string or number");
    TRY(set_raw(&s->cursor, fields[0].value, err));
    s->scanning = fields[1].value.data != NULL;
    buf_clear(&s->scan_after);
    if (s->scanning && s->scan == NULL)
        FAIL(err, E_STATE, ERR_FATAL, "is within a snapshot, which is not configured any more");
    if (s->scanning)
        TRY(net_text_of(fields[1].value, "its scan_after", &s->scan_after, err));
    if (fields[2].value.data == NULL || !json_uint64(fields[2].value, &s->scanned))
        s->scanned = 0;
out:
    if (rc != 0) {
        if (err != NULL)
            err->kind = ERR_FATAL;
        err_prefix(err, "the checkpoint");
    }
    return rc;
}
