/*
 * Checkpoints:
 *   {"gtid":"0-1-47","file":F,"position":N,"restart":TEXT,"tables":[T…],"read":[T…],
 *    "again":[T…],"differences":[T…],"shapes":{T:"hash"…},"era":N,
 *    "part":{"gtid":G,"done":N,"parts":N}|null,
 *    "snapshot":{"table":T,"after":[KEY…]|null,"missing":true,"after_key":K,"rows":N}|null}
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "source/mariadb/mariadb_int.h"

int
mariadbi_place_init(struct my_place *p, uint32_t wants, struct err *err)
{
    *p = (struct my_place){0};
    p->read = calloc((size_t)wants + 1, sizeof p->read[0]);
    p->again = calloc((size_t)wants + 1, sizeof p->again[0]);
    p->shapes = calloc((size_t)wants + 1, sizeof p->shapes[0]);
    if (p->read == NULL || p->again == NULL || p->shapes == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

void
mariadbi_place_fini(struct my_place *p)
{
    free(p->read);
    free(p->again);
    free(p->shapes);
    buf_fini(&p->after);
    buf_fini(&p->after_key);
    *p = (struct my_place){0};
}

int
mariadbi_place_copy(struct my_place *to, const struct my_place *from, uint32_t wants,
                    struct err *err)
{
    bool      *read = to->read;
    uint8_t   *again = to->again;
    uint64_t  *shapes = to->shapes;
    struct buf after = to->after, after_key = to->after_key;

    *to = *from;
    to->read = read;
    to->again = again;
    to->shapes = shapes;
    memcpy(to->shapes, from->shapes, wants * sizeof shapes[0]);
    memcpy(to->read, from->read, wants * sizeof read[0]);
    memcpy(to->again, from->again, wants * sizeof again[0]);
    to->after = after;
    buf_clear(&to->after);
    buf_add_slice(&to->after, buf_slice(&from->after));
    to->after_key = after_key;
    buf_clear(&to->after_key);
    buf_add_slice(&to->after_key, buf_slice(&from->after_key));
    if (to->after.failed || to->after_key.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

void
mariadbi_gtids_write(const struct my_gtid *gtids, uint32_t count, struct buf *out)
{
    for (uint32_t i = 0; i < count; i++) {
        if (i > 0)
            buf_add_byte(out, ',');
        buf_add_u64(out, gtids[i].domain);
        buf_add_byte(out, '-');
        buf_add_u64(out, gtids[i].server);
        buf_add_byte(out, '-');
        buf_add_u64(out, gtids[i].seq);
    }
}

static bool
read_number(const char **p, const char *end, uint64_t max, uint64_t *out)
{
    const char *from = *p;

    for (*out = 0; *p < end && **p >= '0' && **p <= '9'; (*p)++) {
        unsigned digit = (unsigned)(**p - '0');

        if (*out > (max - digit) / 10)
            return false;
        *out = *out * 10 + digit;
    }
    return *p > from;
}

int
mariadbi_gtids_read(struct slice text, struct my_gtid *out, uint32_t *count, struct err *err)
{
    const char *p = text.data, *end = p + text.len;
    uint64_t    domain, server, seq;

    *count = 0;
    while (text.len > 0 && p < end) {
        if (*count > 0 && *p++ != ',')
            goto bad;
        if (!read_number(&p, end, UINT32_MAX, &domain) || p == end || *p++ != '-' ||
            !read_number(&p, end, UINT32_MAX, &server) || p == end || *p++ != '-' ||
            !read_number(&p, end, UINT64_MAX, &seq))
            goto bad;
        if (*count == MARIADBI_DOMAINS_MAX)
            RETURN_ERR(err, E_LIMIT, ERR_FATAL, "more than %u GTID domains", MARIADBI_DOMAINS_MAX);
        out[(*count)++] = (struct my_gtid){(uint32_t)domain, (uint32_t)server, seq};
    }
    return 0;
bad:
    RETURN_ERR(err, E_INVALID, ERR_FATAL, "a GTID position cannot be read: %.*s",
               text.len < 100 ? (int)text.len : 100, (const char *)text.data);
}

bool
mariadbi_gtids_reach(const struct my_gtid *a, uint32_t a_count, const struct my_gtid *b,
                     uint32_t b_count)
{
    for (uint32_t i = 0; i < b_count; i++) {
        uint32_t j = 0;

        while (j < a_count && a[j].domain != b[i].domain)
            j++;
        if (j == a_count || a[j].seq < b[i].seq)
            return false;
    }
    return true;
}

int
mariadbi_place_pass(struct my_place *p, const struct my_gtid *gtid, struct err *err)
{
    uint32_t i = 0;

    while (i < p->gtid_count && p->gtids[i].domain != gtid->domain)
        i++;
    if (i == MARIADBI_DOMAINS_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "more than %u GTID domains", MARIADBI_DOMAINS_MAX);
    if (i == p->gtid_count)
        p->gtid_count++;
    p->gtids[i] = *gtid;
    p->done = 0;
    p->parts = 0;
    return 0;
}

/* ,"NAME":[T…] */
static void
put_tables(const struct my_source *s, const char *name, const bool *read, const uint8_t *again,
           uint8_t mark, struct buf *out)
{
    bool first = true;

    buf_printf(out, ",\"%s\":[", name);
    for (uint32_t i = 0; i < s->want_count; i++) {
        if ((read != NULL && !read[i]) || (again != NULL && again[i] != mark))
            continue;
        if (!first)
            buf_add_byte(out, ',');
        first = false;
        json_put_str(out, s->wants[i].table);
    }
    buf_add_byte(out, ']');
}

static void
put_shapes(const struct my_source *s, const struct my_place *p, struct buf *out)
{
    bool first = true;

    buf_add_str(out, ",\"shapes\":{");
    for (uint32_t i = 0; i < s->want_count; i++) {
        if (p->shapes[i] == 0)
            continue;
        if (!first)
            buf_add_byte(out, ',');
        first = false;
        json_put_str(out, s->wants[i].table);
        buf_printf(out, ":\"%016" PRIx64 "\"", p->shapes[i]);
    }
    buf_add_byte(out, '}');
}

static void
put_snapshot(const struct my_source *s, const struct my_place *p, struct buf *out)
{
    if (p->after.len == 0 && !p->missing) {
        buf_add_str(out, "null");
        return;
    }
    buf_add_str(out, "{\"table\":");
    json_put_str(out, s->wants[p->reading].table);
    buf_add_str(out, ",\"after\":");
    buf_add_slice(out, p->after.len == 0 ? slice_str("null") : buf_slice(&p->after));
    if (p->missing) {
        buf_add_str(out, ",\"missing\":true,\"after_key\":");
        json_put_string(out, buf_slice(&p->after_key));
    }
    buf_printf(out, ",\"rows\":%" PRIu64 "}", p->rows);
}

void
mariadbi_place_write(const struct my_source *s, const struct my_place *p, struct buf *out)
{
    buf_add_str(out, "{\"gtid\":\"");
    mariadbi_gtids_write(p->gtids, p->gtid_count, out);
    buf_add_str(out, "\",\"file\":");
    json_put_str(out, p->file);
    buf_printf(out, ",\"position\":%" PRIu64 ",\"restart\":", p->position);
    json_put_str(out, s->restart);
    put_tables(s, "tables", NULL, NULL, 0, out);
    put_tables(s, "read", p->read, NULL, 0, out);
    put_tables(s, "again", NULL, p->again, MY_AGAIN_ROWS, out);
    put_tables(s, "differences", NULL, p->again, MY_AGAIN_DIFFERENCES, out);
    put_shapes(s, p, out);
    buf_printf(out, ",\"era\":%u,\"part\":", p->era);
    if (p->done > 0) {
        buf_add_str(out, "{\"gtid\":\"");
        mariadbi_gtids_write(&p->part, 1, out);
        buf_printf(out, "\",\"done\":%" PRIu64 ",\"parts\":%u}", p->done, p->parts);
    } else {
        buf_add_str(out, "null");
    }
    buf_add_str(out, ",\"snapshot\":");
    put_snapshot(s, p, out);
    buf_add_byte(out, '}');
}

static bool
text_of(struct slice raw, struct buf *scratch, struct slice *out)
{
    return json_type(raw) == JSON_STRING && json_string_view(raw, scratch, out, NULL) == 0;
}

static uint32_t
want_named(const struct my_source *s, struct slice table)
{
    uint32_t i = 0;

    while (i < s->want_count && !slice_is(table, s->wants[i].table))
        i++;
    return i;
}

static int
read_shapes(struct my_source *s, struct slice shapes, struct err *err)
{
    struct json_iter it;
    struct slice     key, raw, text;
    char             hash[20];
    uint32_t         at;
    int              rc;

    if (shapes.data == NULL)
        return 0;
    TRY(json_object_iter(&it, shapes, err));
    while ((rc = json_iter_next(&it, &key, &raw, err)) == 0) {
        for (at = 0; at < s->want_count && !json_key_is(key, slice_str(s->wants[at].table)); at++)
            continue;
        if (at == s->want_count || !text_of(raw, &s->scratch, &text))
            continue;
        (void)snprintf(hash, sizeof hash, "%.*s", SLICE_FMT(text));
        s->place.shapes[at] = strtoull(hash, NULL, 16);
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* Calls for each table of a list that is wanted; *same: the list is exactly those. */
static int
each_table(struct my_source *s, struct slice list, bool *read, uint8_t *again, uint8_t mark,
           bool *same, struct err *err)
{
    struct json_iter it;
    struct slice     raw, name;
    uint32_t         at, found = 0;
    int              rc;

    *same = true;
    TRY(json_array_iter(&it, list, err));
    while ((rc = json_iter_next(&it, NULL, &raw, err)) == 0) {
        at = text_of(raw, &s->scratch, &name) ? want_named(s, name) : s->want_count;
        *same = *same && at < s->want_count;
        found += at < s->want_count;
        if (at < s->want_count && read != NULL)
            read[at] = true;
        if (at < s->want_count && again != NULL)
            again[at] = mark;
    }
    *same = *same && found == s->want_count;
    rc = rc == E_END ? 0 : rc;
out:
    return rc;
}

static int
read_part(struct my_source *s, struct slice part, bool same, struct err *err)
{
    struct slice raw, text;
    uint32_t     one = 0;
    uint64_t     done, parts = 0;
    int          rc = 0;

    if (json_type(part) != JSON_OBJECT)
        return 0;
    if (!json_get(part, "gtid", &raw) || !text_of(raw, &s->scratch, &text))
        FAIL(err, E_INVALID, ERR_FATAL, "the checkpoint is not one of a mariadb source");
    TRY(mariadbi_gtids_read(text, &s->place.part, &one, err));
    if (one != 1 || !json_get(part, "done", &raw) || !json_uint64(raw, &done))
        FAIL(err, E_INVALID, ERR_FATAL, "the checkpoint is not one of a mariadb source");
    if (!same)
        FAIL(err, E_STATE, ERR_FATAL,
             "source %s: a transaction is captured in part: start once with the tables as they "
             "were, then change them",
             s->base.instance);
    s->place.done = done;
    if (json_get(part, "parts", &raw) && json_uint64(raw, &parts))
        s->place.parts = (uint32_t)parts;
out:
    return rc;
}

static void
read_snapshot(struct my_source *s, struct slice snapshot)
{
    struct my_place *p = &s->place;
    struct slice     raw, name;
    uint32_t         at;

    if (json_type(snapshot) != JSON_OBJECT || !json_get(snapshot, "table", &raw) ||
        !text_of(raw, &s->scratch, &name))
        return;
    at = want_named(s, name);
    if (at == s->want_count)
        return;
    p->reading = at;
    if (json_get(snapshot, "after", &raw) && json_type(raw) == JSON_ARRAY)
        buf_add_slice(&p->after, raw);
    if (json_get(snapshot, "missing", &raw) && p->again[at] == MY_AGAIN_DIFFERENCES)
        p->missing = true;
    if (p->missing && json_get(snapshot, "after_key", &raw) && text_of(raw, &s->scratch, &name))
        buf_add_slice(&p->after_key, name);
    if (json_get(snapshot, "rows", &raw))
        (void)json_uint64(raw, &p->rows);
}

static void
begin_again(struct my_place *p, uint32_t want, enum my_again how)
{
    p->read[want] = false;
    p->again[want] = (uint8_t)how;
    if (p->reading == want) {
        buf_clear(&p->after);
        buf_clear(&p->after_key);
        p->missing = false;
        p->rows = 0;
    }
}

void
mariadbi_place_all_again(struct my_source *s, struct my_place *p)
{
    for (uint32_t i = 0; i < s->want_count; i++)
        begin_again(p, i, MY_AGAIN_DIFFERENCES);
}

int
mariadbi_again(struct source *base, const struct source_again *what, struct source_batch *batch,
               struct err *err)
{
    struct my_source *s = (struct my_source *)base;
    struct my_place  *p = &s->place;
    uint32_t          i = 0;
    int               rc = 0;

    while (i < s->want_count && what->table.len > 0 && !slice_is(what->table, s->wants[i].table))
        i++;
    if (i == s->want_count)
        FAIL(err, E_NOTFOUND, ERR_DATA, "source %s has no table %.*s", base->instance,
             what->table.len < 100 ? (int)what->table.len : 100, (const char *)what->table.data);
    if (what->table.len == 0)
        mariadbi_place_all_again(s, p);
    else
        begin_again(p, i, what->differences ? MY_AGAIN_DIFFERENCES : MY_AGAIN_ROWS);
    if (what->gap) {
        TRY(mariadbi_ask_position(s, p->gtids, &p->gtid_count, err));
        p->done = 0;
        p->parts = 0;
        p->era++;
    }
    buf_clear(&s->checkpoint);
    mariadbi_place_write(s, p, &s->checkpoint);
    if (s->checkpoint.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    batch->checkpoint = buf_slice(&s->checkpoint);
out:
    return rc;
}

int
mariadbi_place_read(struct my_source *s, struct slice checkpoint, bool *anew, struct err *err)
{
    struct json_field f[] = {
        {.name = "gtid", .required = true},
        {.name = "restart", .required = true},
        {.name = "tables", .required = true},
        {.name = "read", .required = true},
        {.name = "part", .required = true},
        {.name = "snapshot", .required = true},
        {.name = "file", .required = true},
        {.name = "position", .required = true},
        {.name = "again"},
        {.name = "differences"},
        {.name = "era"},
        {.name = "shapes"},
    };
    uint64_t     era = 0;
    struct slice text;
    bool         same, ignored;
    int          rc;

    TRY(json_pick(checkpoint, f, sizeof f / sizeof f[0], JSON_PICK_ANY, err));
    if (f[10].value.data != NULL && json_uint64(f[10].value, &era))
        s->place.era = (uint32_t)era;
    *anew = !text_of(f[1].value, &s->scratch, &text) || !slice_is(text, s->restart);
    if (*anew) {
        s->place.era++;
        goto out;
    }
    if (!text_of(f[0].value, &s->scratch, &text))
        FAIL(err, E_INVALID, ERR_FATAL, "the checkpoint is not one of a mariadb source");
    TRY(mariadbi_gtids_read(text, s->place.gtids, &s->place.gtid_count, err));
    if (text_of(f[6].value, &s->scratch, &text))
        (void)snprintf(s->place.file, sizeof s->place.file, "%.*s", SLICE_FMT(text));
    (void)json_uint64(f[7].value, &s->place.position);
    TRY(each_table(s, f[2].value, NULL, NULL, 0, &same, err));
    TRY(each_table(s, f[3].value, s->place.read, NULL, 0, &ignored, err));
    if (f[8].value.data != NULL)
        TRY(each_table(s, f[8].value, NULL, s->place.again, MY_AGAIN_ROWS, &ignored, err));
    if (f[9].value.data != NULL)
        TRY(each_table(s, f[9].value, NULL, s->place.again, MY_AGAIN_DIFFERENCES, &ignored, err));
    TRY(read_shapes(s, f[11].value, err));
    TRY(read_part(s, f[4].value, same, err));
    read_snapshot(s, f[5].value);
    if (s->place.after.failed || s->place.after_key.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    if (rc != 0)
        err_prefix(err, "source %s", s->base.instance);
    return rc;
}
