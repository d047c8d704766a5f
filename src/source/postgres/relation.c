/*
 * Tables as the server describes them before their first change and after each
 * that alters them. Their keys: what the configuration names, else the replica
 * identity, else (for FULL and NOTHING) the primary key.
 */
#include <inttypes.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/postgres/postgres_int.h"

uint64_t
postgresi_hash(struct slice bytes)
{
    const uint8_t *p = bytes.data;
    uint64_t       h = UINT64_C(1469598103934665603);

    for (size_t i = 0; i < bytes.len; i++)
        h = (h ^ p[i]) * UINT64_C(1099511628211);
    return h ^ h >> 29;
}

void
postgresi_relation_fini(struct pg_relation *r)
{
    for (uint32_t i = 0; r->fields != NULL && i < r->count; i++) {
        free(r->fields[i].name);
        buf_fini(&r->fields[i].member);
    }
    free(r->fields);
    buf_fini(&r->body);
    *r = (struct pg_relation){0};
}

void
postgresi_relations_fini(struct pg_relations *r)
{
    for (uint32_t i = 0; i < r->count; i++)
        postgresi_relation_fini(&r->at[i]);
    free(r->at);
    *r = (struct pg_relations){0};
}

void
postgresi_relations_forget(struct pg_source *s)
{
    postgresi_relations_fini(&s->relations);
    postgresi_relations_fini(&s->outer);
}

void
postgresi_relations_apart(struct pg_source *s)
{
    must(s->outer.at == NULL);
    s->outer = s->relations;
    s->relations = (struct pg_relations){0};
}

void
postgresi_relations_back(struct pg_source *s)
{
    postgresi_relations_fini(&s->relations);
    s->relations = s->outer;
    s->outer = (struct pg_relations){0};
}

struct pg_relation *
postgresi_relation_find(const struct pg_relations *all, uint32_t oid)
{
    for (uint32_t i = all->count; i > 0; i--)
        if (all->at[i - 1].oid == oid)
            return &all->at[i - 1];
    return NULL;
}

/* A type that is not built in: a domain is what it is made of, an array what is in it. */
int
postgresi_type_find(struct pg_source *s, uint32_t oid, struct pg_type *out, struct err *err)
{
    PGresult *r = NULL;
    uint64_t  base = oid, item = 0;
    char      sql[300], delim = ',';
    bool      array = false;
    int       rc = 0;

    for (int depth = 0; depth < 32; depth++) {
        if (postgresi_type_builtin((uint32_t)base, out))
            goto found;
        TRY(postgresi_need_query(s, err));
        (void)snprintf(sql, sizeof sql,
                       "SELECT t.typbasetype, CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 "
                       "END, e.typdelim FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e "
                       "ON e.oid = t.typelem WHERE t.oid = %" PRIu64,
                       base);
        PQclear(r);
        TRY(postgresi_query(s, s->query, sql, &r, err));
        if (PQntuples(r) == 0 || !postgresi_cell_u64(r, 0, 0, &base) ||
            !postgresi_cell_u64(r, 0, 1, &item))
            break;
        if (base == 0 && (item == 0 || array))
            break;
        if (base == 0) {
            array = true;
            base = item;
            delim = *PQgetvalue(r, 0, 2);
        }
    }
    *out = (struct pg_type){oid, PG_SHAPE_TEXT, array, delim};
    goto out;
found:
    out->oid = oid;
    if (array)
        out->delim = delim;
    out->array = out->array || array;
out:
    PQclear(r);
    return rc;
}

int
postgresi_key_columns(struct pg_source *s, uint32_t want, PGresult **out, struct err *err)
{
    const struct pg_want *w = &s->wants[want];
    struct buf            sql = {0};
    int                   rc;

    *out = NULL;
    TRY(postgresi_need_query(s, err));
    if (w->key != NULL) {
        for (uint32_t i = 0; i < w->key_count; i++) {
            buf_add_str(&sql, i == 0 ? "SELECT * FROM (VALUES (" : "), (");
            postgresi_add_literal(s->query, &sql, w->key[i]);
        }
        buf_add_str(&sql, ")) AS k");
    } else {
        buf_add_str(&sql,
                    "SELECT a.attname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON "
                    "n.oid = c.relnamespace JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND "
                    "CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END, "
                    "LATERAL unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS "
                    "k(num, at) JOIN pg_catalog.pg_attribute a ON a.attnum = k.num WHERE "
                    "a.attrelid = c.oid AND n.nspname = ");
        postgresi_add_literal(s->query, &sql, w->schema);
        buf_add_str(&sql, " AND c.relname = ");
        postgresi_add_literal(s->query, &sql, w->name);
        buf_add_str(&sql, " ORDER BY k.at");
    }
    TRY(postgresi_query_buf(s, s->query, &sql, out, err));
out:
    buf_fini(&sql);
    return rc;
}

static int
add_key(struct pg_source *s, struct pg_relation *r, uint32_t at, struct err *err)
{
    if (r->key_count == POSTGRESI_KEY_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "source %s: table %s: a key of more than %d columns",
                   s->base.instance, s->wants[r->want].table, POSTGRESI_KEY_MAX);
    r->key[r->key_count++] = (uint16_t)at;
    return 0;
}

/* Names of key columns into places, in the order of the fields. */
static int
take_key_names(struct pg_source *s, struct pg_relation *r, struct err *err)
{
    const struct pg_want *w = &s->wants[r->want];
    PGresult             *names = NULL;
    uint32_t              found = 0;
    int                   rc;

    TRY(postgresi_key_columns(s, r->want, &names, err));
    for (uint32_t i = 0; i < r->count; i++)
        for (int k = 0; k < PQntuples(names); k++) {
            if (strcmp(PQgetvalue(names, k, 0), r->fields[i].name) != 0)
                continue;
            if (w->key != NULL && !r->fields[i].key && r->identity != 'n')
                FAIL(
                    err, E_SCHEMA, ERR_FATAL,
                    "source %s: table %s: column %s of its `key` is not in its replica identity, "
                    "so "
                    "deletes would not say it; ALTER TABLE … REPLICA IDENTITY FULL, or USING INDEX",
                    s->base.instance, w->table, r->fields[i].name);
            TRY(add_key(s, r, i, err));
            found++;
        }
    if (found != (uint32_t)PQntuples(names))
        FAIL(err, E_SCHEMA, ERR_FATAL,
             "source %s: table %s: not all columns of its key are published", s->base.instance,
             w->table);
out:
    PQclear(names);
    return rc;
}

static int
take_key(struct pg_source *s, struct pg_relation *r, struct err *err)
{
    if (s->wants[r->want].key != NULL || r->identity == 'f' || r->identity == 'n')
        return take_key_names(s, r, err);
    for (uint32_t i = 0; i < r->count; i++) {
        int rc = r->fields[i].key ? add_key(s, r, i, err) : 0;

        if (rc != 0)
            return rc;
    }
    return 0;
}

static int
take_fields(struct pg_source *s, struct pg_relation *r, const struct pg_message *m, struct err *err)
{
    struct slice     list = m->list;
    struct pg_column c;
    int              rc = 0;

    r->fields = calloc((size_t)m->count + 1, sizeof r->fields[0]);
    if (r->fields == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    while (postgresi_column_next(&list, &c)) {
        struct pg_field *f = &r->fields[r->count++];

        f->name = strndup(c.name.len == 0 ? "" : c.name.data, c.name.len);
        json_put_string(&f->member, c.name);
        buf_add_byte(&f->member, ':');
        if (f->name == NULL || f->member.failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
        f->key = c.key;
        if (r->want < s->want_count)
            TRY(postgresi_type_find(s, c.type, &f->type, err));
    }
out:
    return rc;
}

/* The columns' types as SQL writes them: one row, a cell each. */
static int
type_names(struct pg_source *s, const struct pg_message *m, PGresult **out, struct err *err)
{
    struct slice     list = m->list;
    struct pg_column c;
    struct buf       sql = {0};
    int              rc;

    TRY(postgresi_need_query(s, err));
    buf_add_str(&sql, "SELECT 1");
    while (postgresi_column_next(&list, &c))
        buf_printf(&sql, ", pg_catalog.format_type(%" PRIu32 ", %" PRId32 ")", c.type, c.typmod);
    TRY(postgresi_query_buf(s, s->query, &sql, out, err));
out:
    buf_fini(&sql);
    return rc;
}

/* {"columns":[{"name":…,"type":…,"key":true}…],"identity":"d"} */
static void
put_shape(const struct pg_relation *r, const PGresult *types, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "columns");
    json_out_array(&o);
    for (uint32_t i = 0; i < r->count; i++) {
        bool key = false;

        for (uint32_t k = 0; k < r->key_count; k++)
            key = key || r->key[k] == i;
        json_out_object(&o);
        json_out_key(&o, "name");
        json_out_str(&o, r->fields[i].name);
        json_out_key(&o, "type");
        json_out_string(&o, postgresi_cell(types, 0, (int)i + 1));
        if (key) {
            json_out_key(&o, "key");
            json_out_bool(&o, true);
        }
        json_out_object_end(&o);
    }
    json_out_array_end(&o);
    json_out_key(&o, "identity");
    json_out_string(&o, slice_of(&r->identity, 1));
    json_out_object_end(&o);
}

/* What was told of before the first change that is new. */
static bool
is_past(const struct pg_source *s)
{
    return s->drop || (s->xact.v == s->skip_commit.v && s->number < s->skip_done);
}

static int
check_key(struct pg_source *s, const struct pg_relation *r, struct err *err)
{
    struct pg_key_column *columns = calloc((size_t)r->count + 1, sizeof columns[0]);
    int                   rc = 0;

    if (columns == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (uint32_t i = 0; i < r->count; i++)
        columns[i].name = r->fields[i].name;
    for (uint32_t k = 0; k < r->key_count; k++)
        columns[r->key[k]].key = true;
    if (r->key_count == 0 && r->identity != 'f')
        FAIL(err, E_SCHEMA, ERR_FATAL,
             "source %s: table %s: it has no key any more, and its changes no rows that they are "
             "of; give it a primary key, or REPLICA IDENTITY FULL, then run `oxbow source "
             "unprepare %s`, `prepare`, and `oxbow source snapshot %s --gap`",
             s->base.instance, s->wants[r->want].table, s->base.instance, s->base.instance);
    TRY(postgresi_key_note(s, r->want, columns, r->count, err));
out:
    free(columns);
    return rc;
}

/* Says so where the columns are not those that were seen last. */
static int
compare_shape(struct pg_source *s, const struct pg_relation *r, const struct pg_message *m,
              struct err *err)
{
    PGresult  *types = NULL;
    struct buf json = {0};
    uint64_t   hash;
    int        rc;

    TRY(type_names(s, m, &types, err));
    put_shape(r, types, &json);
    if (json.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    hash = postgresi_hash(buf_slice(&json));
    hash = hash == 0 ? 1 : hash;
    if (s->shapes[r->want] == hash || is_past(s))
        goto out;
    TRY(postgresi_step_shape(s, r, buf_slice(&json), hash, err));
    s->shapes[r->want] = hash;
out:
    PQclear(types);
    buf_fini(&json);
    return rc;
}

static int
place_for(struct pg_relations *all, uint32_t oid, struct pg_relation **out, struct err *err)
{
    uint32_t room = all->room == 0 ? 8 : all->room * 2;

    *out = postgresi_relation_find(all, oid);
    if (*out != NULL)
        return 0;
    if (all->count == all->room) {
        struct pg_relation *more = realloc(all->at, room * sizeof *more);

        if (more == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        all->at = more;
        all->room = room;
    }
    *out = &all->at[all->count++];
    **out = (struct pg_relation){0};
    return 0;
}

static int
keep_body(struct pg_relation *r, struct slice body, struct err *err)
{
    buf_clear(&r->body);
    buf_add_slice(&r->body, body);
    if (r->body.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

int
postgresi_relation_take(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    struct pg_relation r = {.oid = m->relation, .identity = m->identity}, *at;
    int                rc;

    while (r.want < s->want_count && !(slice_is(m->schema, s->wants[r.want].schema) &&
                                       slice_is(m->name, s->wants[r.want].name)))
        r.want++;
    TRY(take_fields(s, &r, m, err));
    if (r.want < s->want_count) {
        TRY(take_key(s, &r, err));
        if (!is_past(s))
            TRY(check_key(s, &r, err));
        TRY(compare_shape(s, &r, m, err));
    }
    TRY(place_for(&s->relations, m->relation, &at, err));
    TRY(keep_body(&r, m->body, err));
    postgresi_relation_fini(at);
    *at = r;
    r = (struct pg_relation){0};
out:
    postgresi_relation_fini(&r);
    return rc;
}

int
postgresi_relation_note(struct pg_relations *all, uint32_t oid, struct slice body, struct err *err)
{
    struct pg_relation *at;
    int                 rc;

    TRY(place_for(all, oid, &at, err));
    at->oid = oid;
    at->fresh = true;
    TRY(keep_body(at, body, err));
out:
    return rc;
}

int
postgresi_relation_use(struct pg_source *s, uint32_t oid, struct pg_relation **out, struct err *err)
{
    struct pg_message m;
    struct buf        message = {0};
    int               rc = 0;

    *out = postgresi_relation_find(&s->relations, oid);
    if (*out == NULL || !(*out)->fresh)
        return 0;
    buf_add_byte(&message, PG_RELATION);
    buf_add_slice(&message, buf_slice(&(*out)->body));
    if (message.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(postgresi_message_parse(buf_slice(&message), false, &m, err));
    TRY(postgresi_relation_take(s, &m, err));
    *out = postgresi_relation_find(&s->relations, oid);
out:
    buf_fini(&message);
    return rc;
}
