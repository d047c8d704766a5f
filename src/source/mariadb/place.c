/*
 * Checkpoints:
 *   {"gtid":"0-1-47","file":F,"position":N,"restart":TEXT,"tables":[T…],"read":[T…],
 *    "part":{"gtid":G,"done":N}|null,"snapshot":{"table":T,"after":[KEY…],"rows":N}|null}
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
    if (p->read == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

void
mariadbi_place_fini(struct my_place *p)
{
    free(p->read);
    buf_fini(&p->after);
    *p = (struct my_place){0};
}

int
mariadbi_place_copy(struct my_place *to, const struct my_place *from, uint32_t wants,
                    struct err *err)
{
    bool      *read = to->read;
    struct buf after = to->after;

    *to = *from;
    to->read = read;
    memcpy(to->read, from->read, wants * sizeof read[0]);
    to->after = after;
    buf_clear(&to->after);
    buf_add_slice(&to->after, buf_slice(&from->after));
    if (to->after.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

void
mariadbi_gtids_write(const struct my_gtid *gtids, uint32_t count, struct buf *out)
{
    for (uint32_t i = 0; i < count; i++)
        buf_printf(out, "%s%u-%u-%" PRIu64, i == 0 ? "" : ",", gtids[i].domain, gtids[i].server,
                   gtids[i].seq);
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
    return 0;
}

void
mariadbi_place_write(const struct my_source *s, const struct my_place *p, struct buf *out)
{
    uint32_t due = s->want_count;

    buf_add_str(out, "{\"gtid\":\"");
    mariadbi_gtids_write(p->gtids, p->gtid_count, out);
    buf_add_str(out, "\",\"file\":");
    json_put_str(out, p->file);
    buf_printf(out, ",\"position\":%" PRIu64 ",\"restart\":", p->position);
    json_put_str(out, s->restart);
    for (int only_read = 0; only_read < 2; only_read++) {
        bool first = true;

        buf_add_str(out, only_read ? "],\"read\":[" : ",\"tables\":[");
        for (uint32_t i = 0; i < s->want_count; i++) {
            if (only_read && !p->read[i]) {
                due = due == s->want_count ? i : due;
                continue;
            }
            if (!first)
                buf_add_byte(out, ',');
            first = false;
            json_put_str(out, s->wants[i].table);
        }
    }
    buf_add_str(out, "],\"part\":");
    if (p->done > 0) {
        buf_add_str(out, "{\"gtid\":\"");
        mariadbi_gtids_write(&p->part, 1, out);
        buf_printf(out, "\",\"done\":%" PRIu64 "}", p->done);
    } else {
        buf_add_str(out, "null");
    }
    buf_add_str(out, ",\"snapshot\":");
    if (p->after.len > 0 && due < s->want_count) {
        buf_add_str(out, "{\"table\":");
        json_put_str(out, s->wants[due].table);
        buf_add_str(out, ",\"after\":");
        buf_add_slice(out, buf_slice(&p->after));
        buf_printf(out, ",\"rows\":%" PRIu64 "}", p->rows);
    } else {
        buf_add_str(out, "null");
    }
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

/* Calls for each table of a list that is wanted; *same: the list is exactly those. */
static int
each_table(struct my_source *s, struct slice list, bool *read, bool *same, struct err *err)
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
    uint64_t     done;
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
out:
    return rc;
}

static void
read_snapshot(struct my_source *s, struct slice snapshot)
{
    struct slice raw, name, after;
    uint32_t     due = 0;

    if (json_type(snapshot) != JSON_OBJECT || !json_get(snapshot, "table", &raw) ||
        !text_of(raw, &s->scratch, &name) || !json_get(snapshot, "after", &after))
        return;
    while (due < s->want_count && s->place.read[due])
        due++;
    /* Another table is first now: this one's snapshot begins again. */
    if (want_named(s, name) != due)
        return;
    buf_add_slice(&s->place.after, after);
    if (json_get(snapshot, "rows", &raw))
        (void)json_uint64(raw, &s->place.rows);
}

int
mariadbi_place_read(struct my_source *s, struct slice checkpoint, bool *anew, struct err *err)
{
    struct json_field f[] = {
        {.name = "gtid", .required = true},   {.name = "restart", .required = true},
        {.name = "tables", .required = true}, {.name = "read", .required = true},
        {.name = "part", .required = true},   {.name = "snapshot", .required = true},
        {.name = "file", .required = true},   {.name = "position", .required = true},
    };
    struct slice text;
    bool         same, ignored;
    int          rc;

    TRY(json_pick(checkpoint, f, sizeof f / sizeof f[0], JSON_PICK_ANY, err));
    *anew = !text_of(f[1].value, &s->scratch, &text) || !slice_is(text, s->restart);
    if (*anew)
        goto out;
    if (!text_of(f[0].value, &s->scratch, &text))
        FAIL(err, E_INVALID, ERR_FATAL, "the checkpoint is not one of a mariadb source");
    TRY(mariadbi_gtids_read(text, s->place.gtids, &s->place.gtid_count, err));
    if (text_of(f[6].value, &s->scratch, &text))
        (void)snprintf(s->place.file, sizeof s->place.file, "%.*s", SLICE_FMT(text));
    (void)json_uint64(f[7].value, &s->place.position);
    TRY(each_table(s, f[2].value, NULL, &same, err));
    TRY(each_table(s, f[3].value, s->place.read, &ignored, err));
    TRY(read_part(s, f[4].value, same, err));
    read_snapshot(s, f[5].value);
    if (s->place.after.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    if (rc != 0)
        err_prefix(err, "source %s", s->base.instance);
    return rc;
}
