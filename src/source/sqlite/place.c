/*
 * Checkpoints:
 *   {"feed":ID,"seq":N,"snapshot":"done"|{"table":T,"capture":C,"after":[KEY…]},"tables":{T:C…}}
 * `tables` has the captures whose snapshots are complete.
 */
#include <stdlib.h>

#include "base/json.h"
#include "source/sqlite/sqlite_int.h"

int
sqlitei_place_init(struct sqlitei_place *p, uint32_t tables, struct err *err)
{
    p->done = calloc(tables + 1, sizeof p->done[0]);
    p->table = tables;
    if (p->done == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

void
sqlitei_place_fini(struct sqlitei_place *p)
{
    free(p->done);
    buf_fini(&p->after);
    *p = (struct sqlitei_place){0};
}

int
sqlitei_place_copy(struct sqlitei_place *to, const struct sqlitei_place *from, uint32_t tables,
                   struct err *err)
{
    to->seq = from->seq;
    to->table = from->table;
    to->capture = from->capture;
    memcpy(to->done, from->done, tables * sizeof to->done[0]);
    buf_clear(&to->after);
    buf_add_slice(&to->after, buf_slice(&from->after));
    if (to->after.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

void
sqlitei_place_write(const struct sqlitei_source *s, const struct sqlitei_place *p, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "feed");
    json_out_str(&o, s->feed);
    json_out_key(&o, "seq");
    json_out_i64(&o, p->seq);
    json_out_key(&o, "snapshot");
    if (p->table == s->want_count) {
        json_out_str(&o, "done");
    } else {
        json_out_object(&o);
        json_out_key(&o, "table");
        json_out_str(&o, s->wants[p->table].name);
        json_out_key(&o, "capture");
        json_out_i64(&o, p->capture);
        json_out_key(&o, "after");
        if (p->after.len == 0)
            json_out_null(&o);
        else
            json_out_raw(&o, buf_slice(&p->after));
        json_out_object_end(&o);
    }
    json_out_key(&o, "tables");
    json_out_object(&o);
    for (uint32_t i = 0; i < s->want_count; i++) {
        if (p->done[i] != 0) {
            json_out_key(&o, s->wants[i].name);
            json_out_i64(&o, p->done[i]);
        }
    }
    json_out_object_end(&o);
    json_out_object_end(&o);
}

int
sqlitei_place_seq(struct slice checkpoint, int64_t *seq, struct err *err)
{
    struct slice raw;

    if (!json_get(checkpoint, "seq", &raw) || !json_int64(raw, seq) || *seq < 0)
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "the checkpoint is not one of a sqlite source");
    return 0;
}

static int
want_named(const struct sqlitei_source *s, struct slice raw_key)
{
    for (uint32_t i = 0; i < s->want_count; i++) {
        if (json_key_is(raw_key, slice_str(s->wants[i].name)))
            return (int)i;
    }
    return -1;
}

static int
read_done(struct sqlitei_source *s, struct slice tables, struct err *err)
{
    struct json_iter it;
    struct slice     key, value;
    int64_t          id;
    int              rc;

    TRY(json_object_iter(&it, tables, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        int at = want_named(s, key);

        if (at >= 0 && json_int64(value, &id))
            s->place.done[at] = id;
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

static void
read_snapshot(struct sqlitei_source *s, struct slice snapshot)
{
    struct slice table, after, capture;
    int          at;

    if (!json_get(snapshot, "table", &table) || !json_get(snapshot, "after", &after) ||
        !json_get(snapshot, "capture", &capture) || json_type(table) != JSON_STRING)
        return;
    at = want_named(s, slice_of((const char *)table.data + 1, table.len - 2));
    if (at < 0 || !json_int64(capture, &s->place.capture))
        return;
    s->place.table = (uint32_t)at;
    if (json_type(after) == JSON_ARRAY)
        buf_add_slice(&s->place.after, after);
}

int
sqlitei_place_read(struct sqlitei_source *s, struct slice checkpoint, struct err *err)
{
    struct json_field f[] = {{.name = "feed", .required = true},
                             {.name = "seq", .required = true},
                             {.name = "snapshot", .required = true},
                             {.name = "tables", .required = true}};
    int               rc;

    TRY(json_pick(checkpoint, f, 4, JSON_PICK_ANY, err));
    TRY(sqlitei_place_seq(checkpoint, &s->place.seq, err));
    TRY(read_done(s, f[3].value, err));
    read_snapshot(s, f[2].value);
    if (s->place.after.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    if (rc != 0)
        err_prefix(err, "source %s", s->base.instance);
    return rc;
}
