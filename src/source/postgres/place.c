/*
 * Checkpoints:
 *   {"system":ID,"lsn":"0/1A","xact":{"commit":"0/2B","done":N},
 *    "shapes":{TABLE:"hash"…},"read":[TABLE…],"snapshot":{"table":T,"after":[…],"rows":N}}
 * `xact` only where a transaction is done in part, `snapshot` only within one.
 * `read` has the tables whose snapshots are complete.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/postgres/postgres_int.h"

int
postgresi_place_init(struct pg_source *s, struct err *err)
{
    s->place.shapes = calloc(s->want_count + 1, sizeof s->place.shapes[0]);
    s->place.read = calloc(s->want_count + 1, sizeof s->place.read[0]);
    if (s->place.shapes == NULL || s->place.read == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

void
postgresi_place_fini(struct pg_source *s)
{
    free(s->place.shapes);
    free(s->place.read);
    buf_fini(&s->place.after);
    s->place = (struct pg_place){0};
}

static void
put_lsn(struct json_out *o, const char *key, struct pg_lsn lsn)
{
    char text[PG_LSN_TEXT];

    postgresi_lsn_format(lsn, text);
    json_out_key(o, key);
    json_out_str(o, text);
}

void
postgresi_place_write(const struct pg_source *s, struct buf *out)
{
    const struct pg_place *p = &s->place;
    struct json_out        o;
    char                   hash[20];

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "system");
    json_out_str(&o, p->system);
    put_lsn(&o, "lsn", p->lsn);
    if (p->commit.v != 0) {
        json_out_key(&o, "xact");
        json_out_object(&o);
        put_lsn(&o, "commit", p->commit);
        json_out_key(&o, "done");
        json_out_u64(&o, p->done);
        json_out_object_end(&o);
    }
    json_out_key(&o, "shapes");
    json_out_object(&o);
    for (uint32_t i = 0; i < s->want_count; i++) {
        if (p->shapes[i] == 0)
            continue;
        (void)snprintf(hash, sizeof hash, "%016" PRIx64, p->shapes[i]);
        json_out_key(&o, s->wants[i].table);
        json_out_str(&o, hash);
    }
    json_out_object_end(&o);
    json_out_key(&o, "read");
    json_out_array(&o);
    for (uint32_t i = 0; i < s->want_count; i++)
        if (p->read[i])
            json_out_str(&o, s->wants[i].table);
    json_out_array_end(&o);
    if (p->after.len > 0) {
        json_out_key(&o, "snapshot");
        json_out_object(&o);
        json_out_key(&o, "table");
        json_out_str(&o, s->wants[p->reading].table);
        json_out_key(&o, "after");
        json_out_raw(&o, buf_slice(&p->after));
        json_out_key(&o, "rows");
        json_out_u64(&o, p->rows);
        json_out_object_end(&o);
    }
    json_out_object_end(&o);
}

static struct slice
inside(struct slice raw)
{
    if (json_type(raw) != JSON_STRING)
        return slice_of(NULL, 0);
    return slice_of((const char *)raw.data + 1, raw.len - 2);
}

static uint32_t
want_named(const struct pg_source *s, struct slice raw_key)
{
    uint32_t i = 0;

    while (i < s->want_count && !json_key_is(raw_key, slice_str(s->wants[i].table)))
        i++;
    return i;
}

int
postgresi_place_lsn(struct slice checkpoint, struct pg_lsn *out, struct err *err)
{
    struct slice raw;

    if (!json_get(checkpoint, "lsn", &raw) || !postgresi_lsn_parse(inside(raw), out))
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "the checkpoint is not one of a postgres source");
    return 0;
}

static int
read_tables(struct pg_source *s, struct slice shapes, struct slice read, struct err *err)
{
    struct json_iter it;
    struct slice     key, value;
    char             hash[20];
    uint32_t         at;
    int              rc;

    TRY(json_object_iter(&it, shapes, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        at = want_named(s, key);
        (void)snprintf(hash, sizeof hash, "%.*s", SLICE_FMT(inside(value)));
        if (at < s->want_count)
            s->place.shapes[at] = strtoull(hash, NULL, 16);
    }
    if (rc != E_END)
        goto out;
    TRY(json_array_iter(&it, read, err));
    while ((rc = json_iter_next(&it, NULL, &value, err)) == 0) {
        at = want_named(s, inside(value));
        if (at < s->want_count)
            s->place.read[at] = true;
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

int
postgresi_place_read(struct pg_source *s, struct slice checkpoint, struct err *err)
{
    struct pg_place  *p = &s->place;
    struct json_field f[] = {{.name = "system", .required = true},
                             {.name = "shapes", .required = true},
                             {.name = "read", .required = true},
                             {.name = "xact"},
                             {.name = "snapshot"}};
    struct slice      raw;
    int               rc;

    TRY(json_pick(checkpoint, f, 5, JSON_PICK_ANY, err));
    TRY(postgresi_place_lsn(checkpoint, &p->lsn, err));
    (void)snprintf(p->system, sizeof p->system, "%.*s", SLICE_FMT(inside(f[0].value)));
    TRY(read_tables(s, f[1].value, f[2].value, err));
    if (f[3].value.data != NULL &&
        (!json_get(f[3].value, "commit", &raw) || !postgresi_lsn_parse(inside(raw), &p->commit) ||
         !json_get(f[3].value, "done", &raw) || !json_uint64(raw, &p->done)))
        FAIL(err, E_INVALID, ERR_FATAL, "the checkpoint is not one of a postgres source");
    if (f[4].value.data != NULL && json_get(f[4].value, "table", &raw))
        p->reading = want_named(s, inside(raw));
    if (p->reading < s->want_count && f[4].value.data != NULL &&
        json_get(f[4].value, "after", &raw)) {
        buf_add_slice(&p->after, raw);
        if (json_get(f[4].value, "rows", &raw))
            (void)json_uint64(raw, &p->rows);
    }
    if (p->after.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    if (rc != 0)
        err_prefix(err, "source %s", s->base.instance);
    return rc;
}

void
postgresi_place_step(struct pg_source *s, const struct pg_step *step)
{
    struct pg_place *p = &s->place;

    switch (step->kind) {
    case STEP_CHANGE:
        p->commit = step->lsn;
        p->done = step->number + 1;
        break;
    case STEP_END:
        p->commit.v = 0;
        p->done = 0;
        if (step->lsn.v > p->lsn.v)
            p->lsn = step->lsn;
        break;
    case STEP_SHAPE:
        p->shapes[step->want] = step->number;
        break;
    case STEP_ROW:
        p->reading = step->want;
        buf_clear(&p->after);
        buf_add(&p->after, s->bytes.data + step->place_after.at, step->place_after.len);
        p->rows++;
        break;
    case STEP_READ:
        p->read[step->want] = true;
        buf_clear(&p->after);
        p->rows = 0;
        break;
    }
}
