/*
 * A captured change in Debezium's record layout, as its JSON converter writes it without schemas:
 * before, after, source, op, ts_ms. One record an event: no tombstone follows a deletion.
 */
#include <stdio.h>

#include "base/json.h"
#include "sink/message.h"
#include "sink/message_int.h"

static const struct {
    const char *type, *op;
} ops[] = {
    {"Inserted", "c"}, {"Updated", "u"}, {"Deleted", "d"}, {"Read", "r"}, {"Truncated", "t"}};

static void
put_raw(struct json_out *o, const char *key, struct slice raw)
{
    json_out_key(o, key);
    if (raw.len == 0)
        json_out_null(o);
    else
        json_out_raw(o, raw);
}

static void
put_source(struct json_out *o, const struct sink_item *item, bool snapshot, uint64_t time_us)
{
    static const char *const names[] = {"name", "table", "position", "origin"};
    char                     path[32];
    struct slice             raw;

    json_out_key(o, "source");
    json_out_object(o);
    json_out_key(o, "connector");
    json_out_str(o, "oxbow");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        (void)snprintf(path, sizeof path, "$source.%s", names[i]);
        if (json_get_path(item->meta, slice_str(path), &raw))
            put_raw(o, names[i], raw);
    }
    json_out_key(o, "ts_ms");
    json_out_u64(o, time_us / 1000);
    json_out_key(o, "snapshot");
    json_out_str(o, snapshot ? "true" : "false");
    json_out_object_end(o);
}

int
sinki_put_debezium(const struct sink_item *item, struct buf *out, struct err *err)
{
    struct json_out o;
    struct slice    raw, before = {0}, none = {0}, table;
    uint64_t        time_us = item->created_us < 0 ? 0 : (uint64_t)item->created_us;
    const char     *op = NULL;

    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (slice_is(item->type, ops[i].type))
            op = ops[i].op;
    if (op == NULL || item->meta.len == 0 ||
        !json_get_path(item->meta, slice_str("$source.table"), &table) ||
        (item->data.len > 0 && !item->json))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "the event is no captured change of a row, which format: debezium needs");
    if (json_get_path(item->meta, slice_str("$source.time_us"), &raw))
        (void)json_uint64(raw, &time_us);
    (void)json_get_path(item->meta, slice_str("$source.before"), &before);
    json_out_init(&o, out);
    json_out_object(&o);
    put_raw(&o, "before", before);
    put_raw(&o, "after", op[0] == 'd' || op[0] == 't' ? none : item->data);
    put_source(&o, item, op[0] == 'r', time_us);
    json_out_key(&o, "op");
    json_out_str(&o, op);
    json_out_key(&o, "ts_ms");
    json_out_u64(&o, item->created_us < 0 ? 0 : (uint64_t)item->created_us / 1000);
    json_out_object_end(&o);
    return 0;
}
