/*
 * Checkpoints:
 *   {"system":ID,"lsn":"0/1A","held":"0/0F","xact":{"commit":"0/2B","done":N},
 *    "timeline":N,"shapes":{TABLE:"hash"…},"keys":{TABLE:{COLUMN:place…}…},"read":[TABLE…],"again":[TABLE…],"differences":[TABLE…],"gap":true,
 *    "era":N,"recent":[XID…],
 *    "snapshot":{"table":T,"after":[…],"missing":true,"after_key":K,"rows":N}}
 * `xact` only where a transaction is done in part, `snapshot` only within one, `held` only where
 * prepared transactions wait: the server, asked to begin after one's PREPARE, would send its COMMIT
 * PREPARED without what it changed.
 * `read` has the tables whose snapshots are complete, `again` and `differences` those that are to
 * be read again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/postgres/postgres_int.h"

#define XIDS_KEPT 64

int
postgresi_place_init(struct pg_source *s, struct err *err)
{
    s->place.shapes = calloc(s->want_count + 1, sizeof s->place.shapes[0]);
    s->place.keys = calloc(s->want_count + 1, sizeof s->place.keys[0]);
    s->place.read = calloc(s->want_count + 1, sizeof s->place.read[0]);
    s->place.again = calloc(s->want_count + 1, sizeof s->place.again[0]);
    if (s->place.shapes == NULL || s->place.keys == NULL || s->place.read == NULL ||
        s->place.again == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

void
postgresi_place_fini(struct pg_source *s)
{
    free(s->place.shapes);
    for (uint32_t i = 0; s->place.keys != NULL && i < s->want_count; i++)
        buf_fini(&s->place.keys[i]);
    free(s->place.keys);
    free(s->place.read);
    free(s->place.again);
    buf_fini(&s->place.after);
    buf_fini(&s->place.after_key);
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

static void
put_again(const struct pg_source *s, enum pg_again again, const char *key, struct json_out *o)
{
    bool any = false;

    for (uint32_t i = 0; i < s->want_count; i++) {
        if (s->place.again[i] != again)
            continue;
        if (!any) {
            json_out_key(o, key);
            json_out_array(o);
        }
        any = true;
        json_out_str(o, s->wants[i].table);
    }
    if (any)
        json_out_array_end(o);
}

/* The transactions that were streamed last: a snapshot may not see them yet. */
static void
put_recent(const struct pg_source *s, struct json_out *o)
{
    size_t from = s->recent_count > XIDS_KEPT ? s->recent_count - XIDS_KEPT : 0;

    if (!postgresi_snapshot_due(s) || s->recent_count == 0)
        return;
    json_out_key(o, "recent");
    json_out_array(o);
    for (size_t i = from; i < s->recent_count; i++)
        json_out_u64(o, s->recent[i]);
    json_out_array_end(o);
}

static void
put_keys(const struct pg_source *s, struct json_out *o)
{
    json_out_key(o, "keys");
    json_out_object(o);
    for (uint32_t i = 0; i < s->want_count; i++) {
        if (s->place.keys[i].len == 0)
            continue;
        json_out_key(o, s->wants[i].table);
        json_out_raw(o, buf_slice(&s->place.keys[i]));
    }
    json_out_object_end(o);
}

static int
read_recent(struct pg_source *s, struct slice list, struct err *err)
{
    struct json_iter it;
    struct slice     raw;
    uint64_t         xid;
    int              rc;

    if (list.data == NULL || s->recent_count > 0)
        return 0;
    TRY(json_array_iter(&it, list, err));
    while ((rc = json_iter_next(&it, NULL, &raw, err)) == 0)
        if (json_uint64(raw, &xid))
            postgresi_snapshot_remember(s, (uint32_t)xid);
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

static void
put_snapshot(const struct pg_source *s, struct json_out *o)
{
    const struct pg_place *p = &s->place;

    if (p->after.len == 0 && !p->missing)
        return;
    json_out_key(o, "snapshot");
    json_out_object(o);
    json_out_key(o, "table");
    json_out_str(o, s->wants[p->reading].table);
    if (p->after.len > 0) {
        json_out_key(o, "after");
        json_out_raw(o, buf_slice(&p->after));
    }
    if (p->missing) {
        json_out_key(o, "missing");
        json_out_bool(o, true);
        json_out_key(o, "after_key");
        json_out_string(o, buf_slice(&p->after_key));
    }
    json_out_key(o, "rows");
    json_out_u64(o, p->rows);
    json_out_object_end(o);
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
    if (p->timeline != 0) {
        json_out_key(&o, "timeline");
        json_out_u64(&o, p->timeline);
    }
    if (postgresi_place_from(p).v < p->lsn.v)
        put_lsn(&o, "held", p->held);
    if (p->commit.v != 0) {
        json_out_key(&o, "xact");
        json_out_object(&o);
        put_lsn(&o, "commit", p->commit);
        json_out_key(&o, "done");
        json_out_u64(&o, p->done);
        if (p->parts > 0) {
            json_out_key(&o, "parts");
            json_out_u64(&o, p->parts);
        }
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
    put_keys(s, &o);
    json_out_key(&o, "read");
    json_out_array(&o);
    for (uint32_t i = 0; i < s->want_count; i++)
        if (p->read[i])
            json_out_str(&o, s->wants[i].table);
    json_out_array_end(&o);
    put_again(s, PG_AGAIN_ROWS, "again", &o);
    put_again(s, PG_AGAIN_DIFFERENCES, "differences", &o);
    if (p->gap) {
        json_out_key(&o, "gap");
        json_out_bool(&o, true);
    }
    if (p->era > 0) {
        json_out_key(&o, "era");
        json_out_u64(&o, p->era);
    }
    put_recent(s, &o);
    put_snapshot(s, &o);
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

static bool
get_lsn(struct slice checkpoint, const char *key, struct pg_lsn *out)
{
    struct slice raw;

    return json_get(checkpoint, key, &raw) && postgresi_lsn_parse(inside(raw), out);
}

static int
read_lsns(struct slice checkpoint, struct pg_place *p, struct err *err)
{
    if (!get_lsn(checkpoint, "lsn", &p->lsn))
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "the checkpoint is not one of a postgres source");
    if (!get_lsn(checkpoint, "held", &p->held))
        p->held.v = 0;
    return 0;
}

struct pg_lsn
postgresi_place_from(const struct pg_place *p)
{
    return p->held.v != 0 && p->held.v < p->lsn.v ? p->held : p->lsn;
}

int
postgresi_place_safe(struct slice checkpoint, struct pg_lsn *out, struct err *err)
{
    struct pg_place p = {0};
    int             rc = read_lsns(checkpoint, &p, err);

    *out = postgresi_place_from(&p);
    return rc;
}

/* What was prepared before a position that is new was received before it. */
void
postgresi_place_move(struct pg_source *s, struct pg_lsn lsn)
{
    must(s->place.lsn.v < lsn.v);
    s->place.lsn = lsn;
    s->place.held = postgresi_prepared_first(s);
}

/* The wanted tables of a list. */
static int
each_table(struct pg_source *s, struct slice list, bool *read, uint8_t *again, uint8_t mark,
           struct err *err)
{
    struct json_iter it;
    struct slice     value;
    uint32_t         at;
    int              rc;

    if (list.data == NULL)
        return 0;
    TRY(json_array_iter(&it, list, err));
    while ((rc = json_iter_next(&it, NULL, &value, err)) == 0) {
        at = want_named(s, inside(value));
        if (at < s->want_count && read != NULL)
            read[at] = true;
        if (at < s->want_count && again != NULL)
            again[at] = mark;
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

static int
read_shapes(struct pg_source *s, struct slice shapes, struct err *err)
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
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

static int
read_keys(struct pg_source *s, struct slice keys, struct err *err)
{
    struct json_iter it;
    struct slice     key, value;
    uint32_t         at;
    int              rc;

    if (keys.data == NULL)
        return 0;
    TRY(json_object_iter(&it, keys, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        at = want_named(s, key);
        if (at < s->want_count)
            buf_add_slice(&s->place.keys[at], value);
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

static int
read_snapshot(struct pg_source *s, struct slice snapshot, struct err *err)
{
    struct pg_place *p = &s->place;
    struct slice     raw;
    uint32_t         at = s->want_count;
    int              rc = 0;

    if (snapshot.data != NULL && json_get(snapshot, "table", &raw))
        at = want_named(s, inside(raw));
    if (at == s->want_count)
        return 0;
    p->reading = at;
    if (json_get(snapshot, "after", &raw))
        buf_add_slice(&p->after, raw);
    if (json_get(snapshot, "missing", &raw) && p->again[at] == PG_AGAIN_DIFFERENCES)
        p->missing = true;
    if (p->missing && json_get(snapshot, "after_key", &raw))
        TRY(json_string_decode(raw, &p->after_key, err));
    if (json_get(snapshot, "rows", &raw))
        (void)json_uint64(raw, &p->rows);
out:
    return rc;
}

static bool
read_part(struct pg_place *p, struct slice xact)
{
    struct slice raw;
    uint64_t     parts = 0;

    if (xact.data == NULL)
        return true;
    if (!json_get(xact, "commit", &raw) || !postgresi_lsn_parse(inside(raw), &p->commit) ||
        !json_get(xact, "done", &raw) || !json_uint64(raw, &p->done))
        return false;
    if (json_get(xact, "parts", &raw) && json_uint64(raw, &parts))
        p->parts = (uint32_t)parts;
    return true;
}

int
postgresi_place_read(struct pg_source *s, struct slice checkpoint, struct err *err)
{
    struct pg_place  *p = &s->place;
    struct json_field f[] = {{.name = "system", .required = true},
                             {.name = "shapes", .required = true},
                             {.name = "read", .required = true},
                             {.name = "xact"},
                             {.name = "snapshot"},
                             {.name = "again"},
                             {.name = "differences"},
                             {.name = "gap"},
                             {.name = "era"},
                             {.name = "recent"},
                             {.name = "timeline"},
                             {.name = "keys"}};
    uint64_t          era = 0, timeline = 0;
    int               rc;

    TRY(json_pick(checkpoint, f, sizeof f / sizeof f[0], JSON_PICK_ANY, err));
    TRY(read_lsns(checkpoint, p, err));
    (void)snprintf(p->system, sizeof p->system, "%.*s", SLICE_FMT(inside(f[0].value)));
    TRY(read_shapes(s, f[1].value, err));
    TRY(each_table(s, f[2].value, p->read, NULL, 0, err));
    TRY(each_table(s, f[5].value, NULL, p->again, PG_AGAIN_ROWS, err));
    TRY(each_table(s, f[6].value, NULL, p->again, PG_AGAIN_DIFFERENCES, err));
    if (!read_part(p, f[3].value))
        FAIL(err, E_INVALID, ERR_FATAL, "the checkpoint is not one of a postgres source");
    p->gap = f[7].value.data != NULL;
    if (f[8].value.data != NULL && json_uint64(f[8].value, &era))
        p->era = (uint32_t)era;
    TRY(read_recent(s, f[9].value, err));
    if (f[10].value.data != NULL && json_uint64(f[10].value, &timeline))
        p->timeline = (uint32_t)timeline;
    TRY(read_keys(s, f[11].value, err));
    TRY(read_snapshot(s, f[4].value, err));
    if (p->after.failed || p->after_key.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    if (rc != 0)
        err_prefix(err, "source %s", s->base.instance);
    return rc;
}

static void
begin_again(struct pg_place *p, uint32_t want, enum pg_again how)
{
    p->read[want] = false;
    p->again[want] = (uint8_t)how;
    if (how == PG_AGAIN_DIFFERENCES)
        buf_clear(&p->keys[want]);
    if (p->reading == want) {
        buf_clear(&p->after);
        buf_clear(&p->after_key);
        p->missing = false;
        p->rows = 0;
    }
}

void
postgresi_place_gap(struct pg_source *s)
{
    for (uint32_t i = 0; i < s->want_count; i++)
        begin_again(&s->place, i, PG_AGAIN_DIFFERENCES);
}

int
postgresi_again(struct source *base, const struct source_again *what, struct source_batch *batch,
                struct err *err)
{
    struct pg_source *s = (struct pg_source *)base;
    uint32_t          i = 0;

    while (i < s->want_count && what->table.len > 0 && !slice_is(what->table, s->wants[i].table))
        i++;
    if (i == s->want_count)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "source %s has no table %.*s", base->instance,
                   what->table.len < 100 ? (int)what->table.len : 100,
                   (const char *)what->table.data);
    if (s->place.system[0] == '\0' && !what->gap)
        RETURN_ERR(err, E_STATE, ERR_RETRY, "source %s has not begun yet", base->instance);
    if (what->table.len == 0)
        postgresi_place_gap(s);
    else
        begin_again(&s->place, i, what->differences ? PG_AGAIN_DIFFERENCES : PG_AGAIN_ROWS);
    s->place.gap = s->place.gap || what->gap;
    buf_clear(&s->checkpoint);
    postgresi_place_write(s, &s->checkpoint);
    if (s->checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    batch->checkpoint = buf_slice(&s->checkpoint);
    return 0;
}

static void
end_snapshot(struct pg_place *p, uint32_t want)
{
    p->read[want] = true;
    p->again[want] = PG_AGAIN_NOT;
    p->missing = false;
    buf_clear(&p->after_key);
    p->rows = 0;
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
        p->parts = 0;
        postgresi_prepared_done(s, (uint32_t)step->number);
        if (step->lsn.v > p->lsn.v)
            postgresi_place_move(s, step->lsn);
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
        buf_clear(&p->after);
        p->reading = step->want;
        p->missing = p->again[step->want] == PG_AGAIN_DIFFERENCES;
        if (!p->missing)
            end_snapshot(p, step->want);
        break;
    case STEP_KEY:
        if (step->place_after.len == 0)
            break;
        buf_clear(&p->after_key);
        buf_add(&p->after_key, s->bytes.data + step->place_after.at, step->place_after.len);
        break;
    case STEP_LOOKED:
        end_snapshot(p, step->want);
        break;
    }
}
