#include "sink/table.h"

#include <stdlib.h>

#include "base/json.h"
#include "sink/fill.h"

#define NAMES_MAX 200 /* of one statement */

const char *const      sink_table_modes[] = {"upsert", "append", NULL};
const struct conf_type sink_table_text = {.kind = CONF_STRING, .min = 1, .max = 200};
const struct conf_type sink_table_sql = {.kind = CONF_STRING, .min = 1, .max = 65536};

/* statements */

static int
add_name(struct sink_statement *s, const struct conf *at, struct slice name, struct err *err)
{
    if (s->count == NAMES_MAX)
        return conf_fail(at, err, "more than %d placeholders", NAMES_MAX);
    if (!sink_fill_known(NULL, name))
        return conf_fail(
            at, err, "no placeholder {%.*s}; there are " SINK_PLACEHOLDERS ", and {{ for a brace",
            name.len > 64 ? 64 : (int)name.len, (const char *)name.data);
    s->names[s->count++] = name;
    return 0;
}

/* Pieces of s->copy, in which "{{" and "}}" become one brace each. */
static int
cut(struct sink_statement *s, const struct conf *at, struct err *err)
{
    char *from = s->copy, *to = s->copy, *begin = s->copy, *end;
    int   rc = 0;

    while (*from != '\0') {
        if ((from[0] == '{' || from[0] == '}') && from[1] == from[0]) {
            *to++ = *from;
            from += 2;
        } else if (*from == '{') {
            end = strchr(from, '}');
            if (end == NULL)
                return conf_fail(at, err, "a \"{\" without its \"}\"; {{ stands for a brace");
            s->text[s->count] = slice_of(begin, (size_t)(to - begin));
            TRY(add_name(s, at, slice_of(from + 1, (size_t)(end - from - 1)), err));
            from = begin = to = end + 1;
        } else {
            *to++ = *from++;
        }
    }
    s->text[s->count] = slice_of(begin, (size_t)(to - begin));
out:
    return rc;
}

static int
open_statement(struct sink_statement *s, const struct conf *at, struct err *err)
{
    s->type = strcmp(conf_key(at), "*") == 0 ? NULL : conf_key(at);
    s->copy = strdup(conf_text(at));
    s->text = calloc(NAMES_MAX + 1, sizeof *s->text);
    s->names = calloc(NAMES_MAX, sizeof *s->names);
    if (s->copy == NULL || s->text == NULL || s->names == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
    return cut(s, at, err);
}

int
sink_table_statement(const struct sink_table *t, struct slice type,
                     const struct sink_statement **out, struct err *err)
{
    *out = NULL;
    for (uint32_t i = 0; i < t->statement_count; i++) {
        if (t->statements[i].type != NULL && slice_is(type, t->statements[i].type)) {
            *out = &t->statements[i];
            return 0;
        }
        if (t->statements[i].type == NULL)
            *out = &t->statements[i];
    }
    if (*out == NULL)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "no statement of the sink is for the event's type");
    return 0;
}

void
sink_statement_text(const struct sink_statement *s, char mark, struct buf *out)
{
    for (uint32_t i = 0; i <= s->count; i++) {
        buf_add_slice(out, s->text[i]);
        if (i < s->count)
            buf_printf(out, "%c%u", mark, i + 1);
    }
    buf_add_byte(out, 0);
}

int
sink_statement_value(const struct sink_statement *s, uint32_t i, const struct sink_item *item,
                     struct buf *out, struct err *err)
{
    struct slice name = s->names[i], found;
    bool         data = slice_starts(name, slice_str("data.")), meta = false;

    buf_clear(out);
    if (!data)
        meta = slice_starts(name, slice_str("meta."));
    if (data || meta) {
        struct slice doc = data ? item->data : item->meta;
        struct slice path = slice_of((const char *)name.data + 5, name.len - 5);

        if (doc.len > 0 && (meta || item->json) && json_get_path(doc, path, &found))
            buf_add_slice(out, found);
        else
            buf_add_str(out, "null");
        return 0;
    }
    return sink_fill((void *)(uintptr_t)item, name, true, out, err);
}

/* the table */

int
sink_table_open(struct sink_table *t, const struct conf *conf, struct err *err)
{
    const struct conf *map = conf_child(conf, "columns"), *c;
    const struct conf *deletes = conf_child(conf, "deletes");
    const struct conf *statements = conf_child(conf, "statements");
    int                rc = 0;

    t->name = conf_str(conf, "table");
    t->key = conf_str(conf, "key");
    t->create = conf_bool(conf, "create");
    if ((t->name == NULL) == (statements == NULL))
        return conf_fail(conf, err, "it needs either a table or statements");
    t->items = calloc(SINK_TABLE_GATHER_MAX, sizeof(struct sink_item *));
    t->seen = calloc(SINK_TABLE_SEEN, sizeof t->seen[0]);
    t->deletes = calloc(conf_count(deletes) + 1, sizeof t->deletes[0]);
    t->map = map == NULL ? NULL : calloc(conf_count(map), sizeof t->map[0]);
    t->statements = calloc(conf_count(statements) + 1, sizeof t->statements[0]);
    if (t->items == NULL || t->seen == NULL || t->deletes == NULL || t->statements == NULL ||
        (map != NULL && t->map == NULL))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (c = conf_first(deletes); c != NULL; c = conf_next(c))
        t->deletes[t->delete_count++] = conf_text(c);
    if (deletes == NULL)
        t->deletes[t->delete_count++] = "Deleted";
    for (c = t->map == NULL ? NULL : conf_first(map); c != NULL; c = conf_next(c))
        t->map[t->map_count++] = (struct sink_mapped){conf_key(c), conf_text(c)};
    for (c = conf_first(statements); c != NULL; c = conf_next(c))
        TRY(open_statement(&t->statements[t->statement_count++], c, err));
out:
    return rc;
}

void
sink_table_fini(struct sink_table *t)
{
    for (uint32_t i = 0; i < t->statement_count; i++) {
        free(t->statements[i].copy);
        free(t->statements[i].text);
        free(t->statements[i].names);
    }
    free(t->statements);
    free(t->items);
    free(t->seen);
    free(t->deletes);
    free(t->map);
    memset(t, 0, sizeof *t);
}

bool
sink_table_deletes(const struct sink_table *t, struct slice type)
{
    for (uint32_t i = 0; i < t->delete_count; i++)
        if (slice_is(type, t->deletes[i]))
            return true;
    return false;
}

void
sink_table_gather(struct sink_table *t, struct sink_item *item)
{
    must(t->count < SINK_TABLE_GATHER_MAX);
    t->items[t->count++] = item;
}

/* fields */

static int
give_field(const struct sink_table *t, struct slice column, struct slice value, sink_field_fn *fn,
           void *arg, struct err *err)
{
    if (column.len == 0 || memchr(column.data, 0, column.len) != NULL)
        RETURN_ERR(err, E_REJECTED, ERR_DATA,
                   "a field of the event has a name that no column can have");
    if (slice_is(column, t->key))
        return 0; /* that is the stream's */
    return fn(arg, column, value, err);
}

int
sink_table_fields(const struct sink_table *t, const struct sink_item *item, struct buf *name,
                  sink_field_fn *fn, void *arg, struct err *err)
{
    struct json_iter it;
    struct slice     key, value;
    struct buf       quoted = {0};
    int              rc = 0;

    for (uint32_t i = 0; i < t->map_count; i++)
        if (json_get_path(item->data, slice_str(t->map[i].field), &value))
            TRY(give_field(t, slice_str(t->map[i].column), value, fn, arg, err));
    if (t->map != NULL)
        goto out;
    TRY(json_object_iter(&it, item->data, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        buf_clear(&quoted);
        buf_clear(name);
        buf_add_byte(&quoted, '"');
        buf_add_slice(&quoted, key);
        buf_add_byte(&quoted, '"');
        TRY(json_string_decode(buf_slice(&quoted), name, err));
        TRY(give_field(t, buf_slice(name), value, fn, arg, err));
    }
    if (rc == E_END)
        rc = 0;
out:
    buf_fini(&quoted);
    return rc;
}

/* statements of rows */

void
sink_quote(struct buf *out, char mark, struct slice name)
{
    const char *p = name.data;

    buf_add_byte(out, (uint8_t)mark);
    for (size_t i = 0; i < name.len; i++) {
        if (p[i] == mark)
            buf_add_byte(out, (uint8_t)mark);
        buf_add_byte(out, (uint8_t)p[i]);
    }
    buf_add_byte(out, (uint8_t)mark);
}

void
sink_quote_table(struct buf *out, char mark, const char *name)
{
    const char *dot = strchr(name, '.');

    if (dot != NULL) {
        sink_quote(out, mark, slice_of(name, (size_t)(dot - name)));
        buf_add_byte(out, '.');
        name = dot + 1;
    }
    sink_quote(out, mark, slice_str(name));
    buf_add_byte(out, 0);
}

void
sink_quote_updates(struct buf *out, char mark, struct slice list, const char *before,
                   const char *after)
{
    const char *at = list.data, *end = at + list.len, *glue = "";

    while (at < end) {
        const char  *to = at + 3; /* behind the comma, the space and the mark */
        struct slice column;

        while (*to != mark || (to + 1 < end && to[1] == mark))
            to += *to == mark ? 2 : 1;
        column = slice_of(at + 2, (size_t)(to + 1 - (at + 2)));
        buf_printf(out, "%s%.*s = %s%.*s%s", glue, SLICE_FMT(column), before, SLICE_FMT(column),
                   after);
        glue = ", ";
        at = to + 1;
    }
}

static uint32_t
hash(struct slice key)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < key.len; i++)
        h = (h ^ ((const uint8_t *)key.data)[i]) * 16777619u;
    return h ^ h >> 16;
}

/* Whether an item of the group has the key; else this one has it now. */
static bool
seen_key(const struct sink_table *t, uint32_t i)
{
    struct slice key = t->items[i]->key;
    uint32_t     at = hash(key);

    for (;; at++) {
        uint32_t *slot = &t->seen[at & (SINK_TABLE_SEEN - 1)];

        if (*slot == 0) {
            *slot = i + 1;
            return false;
        }
        if (slice_eq(t->items[*slot - 1]->key, key))
            return true;
    }
}

int
sink_table_group(struct sink *sink, const struct sink_table *t, const struct sink_group *g,
                 sink_row_fn *row, uint32_t from, uint32_t limit, uint32_t *next, struct err *err)
{
    struct buf shape = {0};
    bool       gone = sink_table_deletes(t, t->items[from]->type);
    int        rc = 0;

    if (!t->append && g->keys_once && limit > 1)
        memset(t->seen, 0, SINK_TABLE_SEEN * sizeof t->seen[0]);
    for (*next = from; *next < t->count && *next - from < limit && g->values->len < g->bytes_max;
         ++*next) {
        const struct sink_item *item = t->items[*next];
        size_t                  before = g->values->len;

        if (!t->append && (sink_table_deletes(t, item->type) != gone ||
                           (g->keys_once && limit > 1 && seen_key(t, *next))))
            break;
        if (*next > from)
            buf_add_byte(g->values, ',');
        buf_clear(g->list);
        TRY(row(sink, item, err));
        if (*next == from) {
            buf_add_slice(&shape, buf_slice(g->list));
        } else if (!slice_eq(buf_slice(&shape), buf_slice(g->list))) {
            g->values->len = before;
            break;
        }
    }
    buf_clear(g->list);
    buf_add_slice(g->list, buf_slice(&shape));
    if (g->values->failed || g->list->failed || shape.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a statement");
out:
    buf_fini(&shape);
    return rc;
}

/* deciding */

/* Nothing stays here: the core alone knows what may go in the next transaction. */
static void
hand_back(struct sink *sink, struct sink_table *t, uint32_t except)
{
    uint32_t count = t->count;

    t->count = 0;
    for (uint32_t i = 0; i < count; i++)
        if (i != except)
            sink_back(sink, t->items[i]);
}

int
sink_table_poll(struct sink *sink, struct sink_table *t, sink_table_apply_fn *apply,
                struct log_pos upto, struct err *err)
{
    struct err own;
    uint32_t   bad, count = t->count;
    int        rc = apply(sink, SINK_TABLE_GATHER_MAX, upto, &bad, &own);

    if (rc != 0 && own.kind == ERR_DATA && bad == count && count > 0)
        rc = apply(sink, 1, upto, &bad, &own);
    if (rc == 0) {
        t->count = 0;
        for (uint32_t i = 0; i < count; i++)
            sink_done(sink, t->items[i], 0, NULL);
        return 0;
    }
    if (own.kind == ERR_DATA && bad < count) {
        sink_done(sink, t->items[bad], rc, &own);
        hand_back(sink, t, bad);
        return 0;
    }
    hand_back(sink, t, count);
    if (own.kind == ERR_DATA)
        own.kind = ERR_RETRY; /* of no one item's */
    err_copy(err, &own);
    return rc;
}
