/*
 * Rules: an ordered list, each looked at with what the ones before it made of the
 * event. All templates of one rule read the event as the rule found it.
 */
#include <stdlib.h>

#include "base/must.h"
#include "base/rfc3339.h"
#include "transform/transform_int.h"

#define EDITS_MAX 1000 /* set and unset, of one rule */
#define ROUTES_MAX 100 /* of one rule */

struct edit {
    struct transformi_path path;
    struct template       *value; /* NULL: unset */
};

struct rule {
    struct transformi_when *when;
    struct edit            *edits;
    struct template        *rename;
    struct template       **routes;
    size_t                  edit_count, route_count;
    bool                    drop, stop;
};

struct transformi_rules {
    struct rule *list;
    size_t       count;
    char        *name;
};

/* Two buffers that take turns: an edit reads one and writes the other. */
struct side {
    struct buf bufs[2];
    unsigned   turn;
};

struct transformi_rules_run {
    const struct transformi_rules *rules;
    struct side                    data, meta;
    struct buf                     type, scratch, values, routes;
    struct buf                     value_ends, route_ends; /* size_t, one for each */
};

/* parsing */

static void
rule_fini(struct rule *r)
{
    transformi_when_free(r->when);
    for (size_t i = 0; i < r->edit_count; i++) {
        transformi_path_fini(&r->edits[i].path);
        template_free(r->edits[i].value);
    }
    for (size_t i = 0; i < r->route_count; i++)
        template_free(r->routes[i]);
    template_free(r->rename);
    free(r->edits);
    free(r->routes);
}

void
transformi_rules_free(struct transformi_rules *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < r->count; i++)
        rule_fini(&r->list[i]);
    free(r->list);
    free(r->name);
    free(r);
}

static const char *const place_names[] = {"id",   "version",  "position", "created",
                                          "type", "stream",   "category", "key",
                                          "data", "metadata", NULL};

static bool
known_name(void *arg, struct slice name)
{
    for (size_t i = 0; place_names[i] != NULL; i++) {
        if (slice_is(name, place_names[i]))
            return true;
    }
    return slice_starts(name, slice_str("data.")) || slice_starts(name, slice_str("metadata."));
}

/* A raw string that is nothing but one placeholder. */
static bool
is_placeholder(struct slice raw)
{
    const char *p = raw.data;

    if (raw.len < 5 || p[1] != '{' || p[raw.len - 2] != '}' || p[2] == '{')
        return false;
    for (size_t i = 2; i + 2 < raw.len; i++) {
        if (p[i] == '{' || p[i] == '}' || p[i] == '\\' || p[i] == ' ')
            return false;
    }
    return known_name(NULL, slice_of(p + 2, raw.len - 4));
}

/* The value as a JSON template: a placeholder that is a whole text loses its quotes. */
static int
put_value_template(struct slice raw, struct buf *out, struct err *err)
{
    struct json_reader r;
    enum json_type     token;
    struct slice       piece;
    const uint8_t     *from = raw.data;
    int                rc;

    json_reader_init(&r, raw);
    while ((rc = json_next(&r, &token, &piece, err)) == 0) {
        if (token != JSON_STRING || !is_placeholder(piece))
            continue;
        buf_add(out, from, (size_t)((const uint8_t *)piece.data - from));
        buf_add(out, (const uint8_t *)piece.data + 1, piece.len - 2);
        from = (const uint8_t *)piece.data + piece.len;
    }
    if (rc != E_END)
        return rc;
    buf_add(out, from, (size_t)((const uint8_t *)raw.data + raw.len - from));
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for a template");
    return 0;
}

static int
parse_template(const struct transformi_spec *spec, struct slice raw, const char *what, bool json,
               struct template **out, struct err *err)
{
    struct buf text = {0};
    struct err why = {0};
    int        rc;

    if (!json && json_type(raw) != JSON_STRING)
        return transformi_fail(spec, raw.data, E_SCHEMA, err, "%s: must be a text, not %s", what,
                               json_type_name(json_type(raw)));
    TRY(json ? put_value_template(raw, &text, err) : json_string_decode(raw, &text, err));
    if (text.len == 0) {
        rc = transformi_fail(spec, raw.data, E_SCHEMA, err, "%s: must not be empty", what);
        goto out;
    }
    rc = template_new(buf_slice(&text), json ? TEMPLATE_JSON : TEMPLATE_TEXT, known_name, NULL, out,
                      &why);
    if (rc != 0)
        rc = transformi_fail_as(spec, raw.data, &why, err);
out:
    buf_fini(&text);
    return rc;
}

static int
add_edit(const struct transformi_spec *spec, const void *at, struct slice raw_path,
         struct slice value, struct rule *r, struct err *err)
{
    struct buf   path = {0};
    struct err   why = {0};
    struct edit *edits;
    int          rc;

    if (r->edit_count == EDITS_MAX)
        return transformi_fail(spec, at, E_LIMIT, err, "more than %d changes in one rule",
                               EDITS_MAX);
    edits = reallocarray(r->edits, r->edit_count + 1, sizeof *edits);
    if (edits == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for a rule");
    r->edits = edits;
    edits += r->edit_count++;
    memset(edits, 0, sizeof *edits);
    TRY(json_string_decode(raw_path, &path, err));
    if (transformi_path_init(&edits->path, buf_slice(&path), false, &why) != 0) {
        rc = transformi_fail_as(spec, at, &why, err);
        goto out;
    }
    if (value.data != NULL)
        TRY(parse_template(spec, value, "set", true, &edits->value, err));
    else if (edits->path.count == 0)
        rc = transformi_fail(spec, at, E_SCHEMA, err,
                             "unset: what is taken away needs a path within, as in data.name");
out:
    buf_fini(&path);
    return rc;
}

static int
parse_set(const struct transformi_spec *spec, struct slice raw, struct rule *r, struct err *err)
{
    struct json_iter it;
    struct slice     key = {0}, value;
    int              rc;

    if (json_type(raw) != JSON_OBJECT)
        return transformi_fail(spec, raw.data, E_SCHEMA, err,
                               "set: must be a mapping of paths to values");
    must(json_object_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        const uint8_t *at = (const uint8_t *)key.data - 1;

        TRY(add_edit(spec, at, slice_of(at, key.len + 2), value, r, err));
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

typedef int
item_fn(const struct transformi_spec *spec, struct slice raw, struct rule *r, struct err *err);

/* A list of texts, or one. */
static int
parse_texts(const struct transformi_spec *spec, struct slice raw, const char *what, item_fn *fn,
            struct rule *r, struct err *err)
{
    struct json_iter it;
    struct slice     key, value;
    size_t           n = 0;
    int              rc;

    if (json_type(raw) != JSON_ARRAY)
        return fn(spec, raw, r, err);
    must(json_array_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        TRY(fn(spec, value, r, err));
        n++;
    }
    rc = rc == E_END ? 0 : rc;
    if (rc == 0 && n == 0)
        rc = transformi_fail(spec, raw.data, E_SCHEMA, err, "%s: an empty list", what);
out:
    return rc;
}

static int
unset_item(const struct transformi_spec *spec, struct slice raw, struct rule *r, struct err *err)
{
    if (json_type(raw) != JSON_STRING)
        return transformi_fail(spec, raw.data, E_SCHEMA, err, "unset: must be a list of paths");
    return add_edit(spec, raw.data, raw, slice_of(NULL, 0), r, err);
}

static int
route_item(const struct transformi_spec *spec, struct slice raw, struct rule *r, struct err *err)
{
    struct template **routes;
    int               rc;

    if (r->route_count == ROUTES_MAX)
        return transformi_fail(spec, raw.data, E_LIMIT, err, "route: more than %d streams",
                               ROUTES_MAX);
    routes = reallocarray(r->routes, r->route_count + 1, sizeof(struct template *));
    if (routes == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for a rule");
    r->routes = routes;
    rc = parse_template(spec, raw, "route", false, &routes[r->route_count], err);
    r->route_count += rc == 0;
    return rc;
}

static int
parse_flag(const struct transformi_spec *spec, struct slice raw, const char *what, bool *out,
           struct err *err)
{
    if (!json_bool(raw, out))
        return transformi_fail(spec, raw.data, E_SCHEMA, err, "%s: must be true or false", what);
    return 0;
}

enum rule_key {
    KEY_WHEN,
    KEY_DROP,
    KEY_RENAME,
    KEY_SET,
    KEY_UNSET,
    KEY_ROUTE,
    KEY_STOP,
    KEY_COUNT,
};

static const char *const rule_keys[] = {"when",  "drop",  "rename", "set",
                                        "unset", "route", "stop",   NULL};

static int
parse_member(const struct transformi_spec *spec, size_t which, struct slice raw, struct rule *r,
             struct err *err)
{
    switch (which) {
    case KEY_WHEN:
        return transformi_when_new(spec, raw, &r->when, err);
    case KEY_DROP:
        return parse_flag(spec, raw, "drop", &r->drop, err);
    case KEY_RENAME:
        return parse_template(spec, raw, "rename", false, &r->rename, err);
    case KEY_SET:
        return parse_set(spec, raw, r, err);
    case KEY_UNSET:
        return parse_texts(spec, raw, "unset", unset_item, r, err);
    case KEY_ROUTE:
        return parse_texts(spec, raw, "route", route_item, r, err);
    default:
        return parse_flag(spec, raw, "stop", &r->stop, err);
    }
}

static int
parse_rule(const struct transformi_spec *spec, struct slice raw, struct rule *r, struct err *err)
{
    struct json_iter it;
    struct slice     key = {0}, value, unset = {0};
    bool             seen[KEY_COUNT] = {false};
    size_t           which;
    int              rc;

    if (json_type(raw) != JSON_OBJECT)
        return transformi_fail(spec, raw.data, E_SCHEMA, err, "a rule must be a mapping, not %s",
                               json_type_name(json_type(raw)));
    must(json_object_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        TRY(transformi_key(spec, key, rule_keys, &which, err));
        if (seen[which]) {
            rc = transformi_fail(spec, (const uint8_t *)key.data - 1, E_SCHEMA, err,
                                 "the key \"%s\" comes twice", rule_keys[which]);
            goto out;
        }
        seen[which] = true;
        if (which == KEY_UNSET) { /* what is set is set first, in whatever order they stand */
            unset = value;
            continue;
        }
        TRY(parse_member(spec, which, value, r, err));
    }
    if (rc != E_END)
        goto out;
    rc = unset.data == NULL ? 0 : parse_member(spec, KEY_UNSET, unset, r, err);
    if (rc != 0)
        goto out;
    if (r->drop && (r->edit_count > 0 || r->rename != NULL || r->route_count > 0))
        rc = transformi_fail(spec, raw.data, E_SCHEMA, err,
                             "drop: leaves nothing that the rest of the rule could change");
    else if (!r->drop && !r->stop && r->edit_count == 0 && r->rename == NULL && r->route_count == 0)
        rc = transformi_fail(spec, raw.data, E_SCHEMA, err,
                             "the rule does nothing: it needs drop, rename, set, unset, route or "
                             "stop");
out:
    return rc;
}

int
transformi_rules_new(const struct transformi_spec *spec, struct slice raw,
                     struct transformi_rules **out, struct err *err)
{
    struct transformi_rules *r = calloc(1, sizeof *r);
    struct json_iter         it;
    struct slice             key, value;
    struct rule             *list;
    int                      rc;

    *out = NULL;
    if (r == NULL || (r->name = transformi_copy(slice_str(spec->name))) == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for rules");
    must(json_type(raw) == JSON_ARRAY);
    must(json_array_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        if (r->count == TRANSFORM_RULES_MAX) {
            rc = transformi_fail(spec, value.data, E_LIMIT, err, "more than %d rules",
                                 TRANSFORM_RULES_MAX);
            goto out;
        }
        list = reallocarray(r->list, r->count + 1, sizeof *list);
        if (list == NULL)
            FAIL(err, E_NOMEM, ERR_FATAL, "no memory for rules");
        r->list = list;
        memset(&list[r->count], 0, sizeof *list);
        TRY(parse_rule(spec, value, &list[r->count++], err));
    }
    if (rc != E_END)
        goto out;
    rc = 0;
    *out = r;
    r = NULL;
out:
    transformi_rules_free(r);
    return rc;
}

unsigned
transformi_rules_may(const struct transformi_rules *r)
{
    unsigned may = 0;

    for (size_t i = 0; i < r->count; i++) {
        const struct rule *rule = &r->list[i];

        may |= rule->drop ? TRANSFORM_DROP : 0;
        may |= rule->edit_count > 0 || rule->rename != NULL ? TRANSFORM_CHANGE : 0;
        may |= rule->route_count > 0 ? TRANSFORM_ROUTE : 0;
        may |= rule->route_count > 1 ? TRANSFORM_ADD : 0;
    }
    return may;
}

/* running */

int
transformi_rules_run_new(const struct transformi_rules *r, struct transformi_rules_run **out,
                         struct err *err)
{
    struct transformi_rules_run *run = calloc(1, sizeof *run);

    *out = NULL;
    if (run == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for a run of rules");
    run->rules = r;
    for (int i = 0; i < 2; i++) {
        run->data.bufs[i].limit = TRANSFORM_EVENT_MAX * 2;
        run->meta.bufs[i].limit = TRANSFORM_EVENT_MAX * 2;
    }
    run->values.limit = TRANSFORM_EVENT_MAX * 2;
    *out = run;
    return 0;
}

void
transformi_rules_run_free(struct transformi_rules_run *run)
{
    struct buf *all[10];

    if (run == NULL)
        return;
    all[0] = &run->data.bufs[0];
    all[1] = &run->data.bufs[1];
    all[2] = &run->meta.bufs[0];
    all[3] = &run->meta.bufs[1];
    all[4] = &run->type;
    all[5] = &run->scratch;
    all[6] = &run->values;
    all[7] = &run->routes;
    all[8] = &run->value_ends;
    all[9] = &run->route_ends;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buf_fini(all[i]);
    free(run);
}

/* What a placeholder stands for. */

static int
put_path(const struct transform_event *e, struct slice name, bool raw, struct buf *value,
         struct err *err)
{
    bool         data = slice_starts(name, slice_str("data"));
    size_t       skip = data ? strlen("data") : strlen("metadata");
    struct slice doc = data ? e->data : e->meta, found = {0}, rest;

    rest = slice_of((const char *)name.data + skip, name.len - skip);
    if (rest.len > 0)
        rest = slice_of((const char *)rest.data + 1, rest.len - 1);
    if ((data && !e->json) || json_value(doc, &doc, NULL) != 0 || !json_get_path(doc, rest, &found))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "there is no %.*s", SLICE_FMT(name));
    return template_put_json(found, raw, value, err);
}

static int
lookup(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    const struct transform_event *e = arg;
    struct slice                  text = {0}, category = transformi_category(e->stream);
    char                          id[ID_TEXT_LEN + 1], created[TIME_TEXT_MAX];

    if (slice_starts(name, slice_str("data")) || slice_starts(name, slice_str("metadata")))
        return put_path(e, name, raw, value, err);
    if (slice_is(name, "version") || slice_is(name, "position")) {
        buf_add_u64(value, slice_is(name, "version") ? e->version : e->position);
        return 0;
    }
    if (slice_is(name, "type")) {
        text = e->type;
    } else if (slice_is(name, "stream")) {
        text = e->stream;
    } else if (slice_is(name, "category")) {
        text = category;
    } else if (slice_is(name, "id")) {
        id_format(&e->id, id);
        text = slice_str(id);
    } else if (slice_is(name, "created")) {
        time_format(e->created_us, created);
        text = slice_str(created);
    } else { /* key */
        if (category.len == e->stream.len)
            RETURN_ERR(err, E_SCHEMA, ERR_DATA, "there is no key: the stream's name has no '-'");
        text = slice_of((const char *)e->stream.data + category.len + 1,
                        e->stream.len - category.len - 1);
    }
    if (raw)
        json_put_string(value, text);
    else
        buf_add_slice(value, text);
    return 0;
}

/* For a name, nothing must not stand for something. */
static int
lookup_name(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    size_t before = value->len;
    int    rc = lookup(arg, name, raw, value, err);

    if (rc == 0 && value->len == before && !value->failed)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "%.*s is empty", SLICE_FMT(name));
    return rc;
}

static void
mark_end(struct buf *ends, const struct buf *texts)
{
    size_t at = texts->len;

    buf_add(ends, &at, sizeof at);
}

static struct slice
text_at(const struct buf *texts, const struct buf *ends, size_t i)
{
    size_t from = 0, to;

    if (i > 0)
        memcpy(&from, ends->data + (i - 1) * sizeof from, sizeof from);
    memcpy(&to, ends->data + i * sizeof to, sizeof to);
    return to == from ? slice_of("", 0) : slice_of(texts->data + from, to - from);
}

/* All templates of a rule, before anything of the event changes. */
static int
expand(struct transformi_rules_run *run, const struct rule *r, struct transform_event *e,
       struct err *err)
{
    int rc = 0;

    buf_clear(&run->values);
    buf_clear(&run->value_ends);
    for (size_t i = 0; i < r->edit_count; i++) {
        if (r->edits[i].value != NULL)
            TRY(template_expand(r->edits[i].value, lookup, e, &run->scratch, &run->values, err));
        mark_end(&run->value_ends, &run->values);
    }
    if (r->route_count > 0) {
        buf_clear(&run->routes);
        buf_clear(&run->route_ends);
    }
    for (size_t i = 0; i < r->route_count; i++) {
        TRY(template_expand(r->routes[i], lookup_name, e, &run->scratch, &run->routes, err));
        mark_end(&run->route_ends, &run->routes);
    }
    if (r->rename != NULL) {
        struct buf name = {0};

        rc = template_expand(r->rename, lookup_name, e, &run->scratch, &name, err);
        if (rc == 0) {
            buf_fini(&run->type);
            run->type = name;
        } else {
            buf_fini(&name);
        }
    }
    if (run->value_ends.failed || run->route_ends.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for a rule");
out:
    return rc;
}

static int
apply_edit(struct transformi_rules_run *run, const struct edit *edit, struct slice value,
           struct transform_event *e, struct err *err)
{
    bool          data = edit->path.root == TRANSFORMI_DATA;
    struct side  *side = data ? &run->data : &run->meta;
    struct slice *doc = data ? &e->data : &e->meta;
    struct buf   *to = &side->bufs[side->turn ^ 1];
    bool          whole = edit->path.count == 0;
    int           rc;

    if (data && !e->json && !whole)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "its data is not JSON");
    if (!data && whole && json_type(value) != JSON_OBJECT)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "metadata must be an object, not %s",
                   json_type_name(json_type(value)));
    if (edit->value == NULL)
        rc = transformi_unset(*doc, &edit->path, to, err);
    else
        rc = transformi_set(whole ? slice_of(NULL, 0) : *doc, &edit->path, value, to, err);
    if (rc != 0)
        return rc;
    side->turn ^= 1;
    *doc = buf_slice(to);
    e->json |= data;
    return 0;
}

static int
apply(struct transformi_rules_run *run, const struct rule *r, struct transform_event *e,
      struct err *err)
{
    int rc;

    TRY(expand(run, r, e, err));
    for (size_t i = 0; i < r->edit_count; i++)
        TRY(apply_edit(run, &r->edits[i], text_at(&run->values, &run->value_ends, i), e, err));
    if (r->rename != NULL)
        e->type = buf_slice(&run->type);
out:
    return rc;
}

/* Streams that two templates name are named once. */
static bool
named_before(const struct transformi_rules_run *run, size_t i)
{
    struct slice name = text_at(&run->routes, &run->route_ends, i);

    for (size_t k = 0; k < i; k++) {
        if (slice_eq(name, text_at(&run->routes, &run->route_ends, k)))
            return true;
    }
    return false;
}

static int
emit_all(struct transformi_rules_run *run, const struct transform_event *in,
         const struct transform_event *e, size_t routes, uint64_t ordinal, transform_emit_fn *emit,
         void *arg, struct err *err)
{
    struct transform_out out = {.type = e->type, .data = e->data, .meta = e->meta, .json = e->json};
    int                  rc = 0;

    out.changed = e->json != in->json || !slice_eq(e->type, in->type) ||
                  !slice_eq(e->data, in->data) || !slice_eq(e->meta, in->meta);
    out.origins = &ordinal;
    out.origin_count = 1;
    for (size_t i = 0; i < routes || i == 0; i++) {
        if (routes > 0 && named_before(run, i))
            continue;
        out.stream = routes > 0 ? text_at(&run->routes, &run->route_ends, i) : slice_of(NULL, 0);
        TRY(transformi_out_check(&out, in->type, err));
        TRY(emit(arg, &out, err));
    }
out:
    return rc;
}

int
transformi_rules_event(struct transformi_rules_run *run, const struct transform_event *in,
                       uint64_t ordinal, transform_emit_fn *emit, void *arg, struct err *err)
{
    struct transform_event e = *in;
    size_t                 routes = 0;
    int                    rc = 0;

    for (size_t i = 0; i < run->rules->count; i++) {
        const struct rule *r = &run->rules->list[i];
        bool               holds;

        rc = transformi_when_holds(r->when, &e, &run->scratch, &holds, err);
        if (rc == 0 && holds && !r->drop)
            rc = apply(run, r, &e, err);
        if (rc != 0) {
            err_prefix(err, "%s: rule %zu", run->rules->name, i + 1);
            goto out;
        }
        if (!holds)
            continue;
        if (r->drop)
            goto out;
        if (r->route_count > 0)
            routes = r->route_count;
        if (r->stop)
            break;
    }
    rc = emit_all(run, in, &e, routes, ordinal, emit, arg, err);
out:
    return rc;
}
