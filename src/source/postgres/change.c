/*
 * Messages within a transaction become steps. A change's number counts the
 * rows of its transaction, also those of tables that are not wanted; an update
 * that changes the key is two changes, a deletion and an insertion.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/postgres/postgres_int.h"

struct pg_step *
postgresi_step_new(struct pg_source *s, enum pg_step_kind kind)
{
    uint32_t room = s->step_room == 0 ? 1024 : s->step_room * 2;

    if (s->step_count == s->step_room) {
        struct pg_step *more = realloc(s->steps, room * sizeof *more);

        if (more == NULL)
            return NULL;
        s->steps = more;
        s->step_room = room;
    }
    s->steps[s->step_count] = (struct pg_step){.kind = kind, .want = s->want_count};
    return &s->steps[s->step_count++];
}

void
postgresi_steps_drop(struct pg_source *s)
{
    s->step_at = s->step_count = s->waiting = s->ends = 0;
    buf_clear(&s->bytes);
}

struct pg_span
postgresi_span(const struct pg_source *s, size_t at)
{
    return (struct pg_span){at, s->bytes.len - at};
}

static void
add_hex(struct buf *out, uint32_t v)
{
    char text[8];
    int  n = 8;

    do {
        text[--n] = "0123456789ABCDEF"[v & 15];
        v >>= 4;
    } while (v != 0);
    buf_add(out, text + n, (size_t)(8 - n));
}

struct pg_span
postgresi_position(struct pg_source *s, struct pg_lsn at, const char *mark, uint64_t number)
{
    size_t start = s->bytes.len;

    add_hex(&s->bytes, (uint32_t)(at.v >> 32));
    buf_add_byte(&s->bytes, '/');
    add_hex(&s->bytes, (uint32_t)at.v);
    buf_add_byte(&s->bytes, ':');
    buf_add_str(&s->bytes, mark);
    buf_add_u64(&s->bytes, number);
    if (s->place.era > 0) {
        buf_add_byte(&s->bytes, '~');
        buf_add_u64(&s->bytes, s->place.era);
    }
    return postgresi_span(s, start);
}

static int
step_of(struct pg_source *s, enum pg_step_kind kind, enum change_op op, uint32_t want,
        struct pg_step **out, struct err *err)
{
    *out = postgresi_step_new(s, kind);
    if (*out == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    (*out)->op = op;
    (*out)->want = want;
    (*out)->time_us = s->xact_time_us;
    (*out)->lsn = s->xact;
    s->waiting++;
    return 0;
}

int
postgresi_step_shape(struct pg_source *s, const struct pg_relation *r, struct slice json,
                     uint64_t hash, struct err *err)
{
    struct pg_step *step;
    size_t          at;
    int             rc;

    TRY(step_of(s, STEP_SHAPE, CHANGE_SCHEMA, r->want, &step, err));
    at = s->bytes.len;
    buf_add_slice(&s->bytes, json);
    step->after = postgresi_span(s, at);
    step->position = postgresi_position(s, s->xact, "schema", s->number);
    step->number = hash;
out:
    return rc;
}

/* The next number in the transaction; false: that change is done already. */
static bool
is_new(struct pg_source *s, uint64_t *number)
{
    *number = s->number++;
    return !s->drop && !(s->xact.v == s->skip_commit.v && *number < s->skip_done);
}

/* rows */

static int
read_row(struct pg_source *s, const struct pg_relation *r, struct slice bytes, struct pg_cells *out,
         struct err *err)
{
    out->count = postgresi_row_begin(&bytes);
    for (uint32_t i = 0; i < out->count; i++)
        (void)postgresi_value_next(&bytes, &out->values[i]);
    if (out->count != 0 && out->count != r->count)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL, "source %s: a row of %s has %u columns, not %u",
                   s->base.instance, s->wants[r->want].table, out->count, r->count);
    return 0;
}

static void
put_row(struct pg_source *s, const struct pg_relation *r, const struct pg_cells *row, bool key_only,
        struct pg_span *out)
{
    size_t at = s->bytes.len;
    bool   first = true;

    for (uint32_t i = 0; i < row->count; i++) {
        const struct pg_field *f = &r->fields[i];

        if (row->values[i].kind == 'u' || (key_only && !f->key))
            continue;
        buf_add_byte(&s->bytes, first ? '{' : ',');
        first = false;
        buf_add_slice(&s->bytes, buf_slice(&f->member));
        if (row->values[i].kind == 'n')
            buf_add_str(&s->bytes, "null");
        else
            postgresi_value_json(&s->bytes, &f->type, row->values[i].text);
    }
    buf_add_str(&s->bytes, first ? "{}" : "}");
    *out = postgresi_span(s, at);
}

/* ["a","b"]: what was not sent because it did not change. */
static void
put_unchanged(struct pg_source *s, const struct pg_relation *r, const struct pg_cells *row,
              struct pg_span *out)
{
    size_t at = s->bytes.len;

    for (uint32_t i = 0; i < row->count; i++) {
        if (row->values[i].kind != 'u')
            continue;
        buf_add_byte(&s->bytes, s->bytes.len == at ? '[' : ',');
        json_put_str(&s->bytes, r->fields[i].name);
    }
    if (s->bytes.len > at)
        buf_add_byte(&s->bytes, ']');
    *out = postgresi_span(s, at);
}

static void
put_key(struct pg_source *s, const struct pg_relation *r, const struct pg_cells *row,
        struct pg_span *out)
{
    size_t at = s->bytes.len;

    for (uint32_t k = 0; k < r->key_count && row->count > 0; k++) {
        if (k > 0)
            buf_add_byte(&s->bytes, '|');
        postgresi_value_key(&s->bytes, row->values[r->key[k]].text, r->key_count > 1);
    }
    *out = postgresi_span(s, at);
}

static struct slice
text_of(const struct pg_source *s, struct pg_span span)
{
    return span.len == 0 ? slice_of(NULL, 0) : slice_of(s->bytes.data + span.at, span.len);
}

static bool
leaves_out(const struct pg_cells *row)
{
    for (uint32_t i = 0; row != NULL && i < row->count; i++)
        if (row->values[i].kind == 'u')
            return true;
    return false;
}

/* One change with its number; `old` and `now` may be NULL. */
static int
put_change(struct pg_source *s, const struct pg_relation *r, enum change_op op,
           const struct pg_cells *old, bool key_only, const struct pg_cells *now, struct err *err)
{
    struct pg_step *step;
    struct pg_span  key;
    uint64_t        number;
    size_t          at = s->bytes.len;
    bool new = is_new(s, &number);
    int rc = 0;

    put_key(s, r, now == NULL ? old : now, &key);
    if (!s->drop)
        postgresi_snapshot_touch(s, r->want, text_of(s, key), leaves_out(now));
    if (!new) {
        if (!s->bytes.failed)
            s->bytes.len = at;
        return 0;
    }
    TRY(step_of(s, STEP_CHANGE, op, r->want, &step, err));
    step->key = key;
    step->number = number;
    if (old != NULL && old->count > 0)
        put_row(s, r, old, key_only, &step->before);
    if (now != NULL) {
        put_row(s, r, now, false, &step->after);
        put_unchanged(s, r, now, &step->unchanged);
    }
    at = s->bytes.len;
    buf_add_slice(&s->bytes, buf_slice(&s->origin));
    step->origin = postgresi_span(s, at);
    step->position = postgresi_position(s, s->xact, "", number);
out:
    return rc;
}

static bool
same_key(const struct pg_relation *r, const struct pg_cells *a, const struct pg_cells *b)
{
    for (uint32_t k = 0; k < r->key_count; k++)
        if (!slice_eq(a->values[r->key[k]].text, b->values[r->key[k]].text))
            return false;
    return true;
}

/* What the new row leaves out stands in the old one, where that is there as a whole. */
static void
fill_unchanged(const struct pg_relation *r, char old_kind, const struct pg_cells *old,
               struct pg_cells *now)
{
    for (uint32_t i = 0; i < now->count && i < old->count; i++)
        if (now->values[i].kind == 'u' && (old_kind == 'O' || r->fields[i].key))
            now->values[i] = old->values[i];
}

static int
take_row_change(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    struct pg_relation *r;
    bool                key_only = m->old_kind == 'K';
    struct pg_cells    *old = s->old, *now = s->now;
    uint64_t            number;
    int                 rc = 0;

    TRY(postgresi_relation_use(s, m->relation, &r, err));
    if (r == NULL)
        RETURN_ERR(err, E_FORMAT, ERR_FATAL,
                   "source %s: a change of table %u, which was not described", s->base.instance,
                   m->relation);
    if (r->want == s->want_count) {
        (void)is_new(s, &number);
        return 0;
    }
    TRY(read_row(s, r, m->old, old, err));
    TRY(read_row(s, r, m->new, now, err));
    fill_unchanged(r, m->old_kind, old, now);
    if (m->kind == PG_INSERT) {
        TRY(put_change(s, r, CHANGE_INSERT, NULL, false, now, err));
    } else if (m->kind == PG_DELETE) {
        TRY(put_change(s, r, CHANGE_DELETE, old, key_only, NULL, err));
    } else if (old->count == 0 || same_key(r, old, now)) {
        TRY(put_change(s, r, CHANGE_UPDATE, old, key_only, now, err));
    } else {
        TRY(put_change(s, r, CHANGE_DELETE, old, key_only, NULL, err));
        TRY(put_change(s, r, CHANGE_INSERT, NULL, false, now, err));
    }
out:
    return rc;
}

static int
take_truncate(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    struct pg_relation *r;
    struct pg_step     *step;
    struct slice        list = m->list;
    uint32_t            oid;
    uint64_t            number;
    int                 rc = 0;

    while (postgresi_relation_next(&list, &oid)) {
        bool new;

        TRY(postgresi_relation_use(s, oid, &r, err));
        new = is_new(s, &number);
        if (r == NULL || r->want == s->want_count)
            continue;
        if (!s->drop)
            postgresi_snapshot_empty(s, r->want);
        if (!new)
            continue;
        TRY(step_of(s, STEP_CHANGE, CHANGE_TRUNCATE, r->want, &step, err));
        step->number = number;
        step->position = postgresi_position(s, s->xact, "", number);
    }
out:
    return rc;
}

/* {"content":TEXT} or, where it is no UTF-8 text, {"bytes":"hex"}; JSON stays JSON. */
static void
put_content(struct buf *out, struct slice content)
{
    const uint8_t *p = content.data;
    struct slice   raw;
    size_t         at = out->len;

    if (json_value(content, &raw, NULL) == 0) {
        buf_add_str(out, "{\"content\":");
        buf_add_slice(out, raw);
    } else {
        buf_add_str(out, "{\"content\":");
        json_put_string(out, content);
        if (memchr(p, 0, content.len) != NULL ||
            memmem(out->data + at, out->len - at, "\xef\xbf\xbd", 3) != NULL) {
            out->len = at;
            buf_add_str(out, "{\"bytes\":\"");
            for (size_t i = 0; i < content.len; i++)
                buf_printf(out, "%02x", p[i]);
            buf_add_byte(out, '"');
        }
    }
    buf_add_byte(out, '}');
}

static int
take_logical(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    struct pg_step *step;
    uint64_t        number;
    size_t          at;
    int             rc = 0;

    /* One outside of a transaction has no place of its own to go on from. */
    if ((m->flags & 1) == 0 || slice_is(m->name, POSTGRESI_MARK) || !is_new(s, &number) ||
        !s->messages)
        return 0;
    TRY(step_of(s, STEP_CHANGE, CHANGE_MESSAGE, s->want_count, &step, err));
    step->number = number;
    at = s->bytes.len;
    buf_add_slice(&s->bytes, m->name);
    step->key = postgresi_span(s, at);
    at = s->bytes.len;
    put_content(&s->bytes, m->content);
    step->after = postgresi_span(s, at);
    step->position = postgresi_position(s, s->xact, "", number);
out:
    return rc;
}

void
postgresi_xact_begin(struct pg_source *s, uint32_t xid, struct pg_lsn commit, int64_t time_us)
{
    s->in_xact = true;
    s->xid = xid;
    s->xact = commit;
    s->xact_time_us = time_us;
    s->number = 0;
    s->drop = commit.v < s->place.lsn.v;
    buf_clear(&s->origin);
    postgresi_snapshot_streamed(s);
}

int
postgresi_change_take(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    int rc = 0;

    switch (m->kind) {
    case PG_RELATION:
        TRY(postgresi_relation_note(&s->relations, m->relation, m->body, err));
        break;
    case PG_INSERT:
    case PG_UPDATE:
    case PG_DELETE:
        TRY(take_row_change(s, m, err));
        break;
    case PG_TRUNCATE:
        TRY(take_truncate(s, m, err));
        break;
    case PG_MESSAGE:
        TRY(take_logical(s, m, err));
        break;
    case PG_ORIGIN:
        buf_clear(&s->origin);
        buf_add_slice(&s->origin, m->name);
        break;
    case PG_TYPE:
        break;
    default:
        FAIL(err, E_FORMAT, ERR_FATAL, "source %s: a message %c where none can be",
             s->base.instance, m->kind);
    }
    if (s->bytes.failed)
        FAIL(err, E_LIMIT, ERR_FATAL, "source %s: a row is too large", s->base.instance);
out:
    return rc;
}
