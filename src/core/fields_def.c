/* What an index on a field is, and which values it finds in an event. */
#include <string.h>

#include "base/must.h"
#include "core/fields_int.h"

#define DEF_JSON_MAX 8192u

/* the path */

/* "~1" is "/", "~0" is "~". */
static int
add_pointer_step(struct fieldsi_path *p, struct slice raw, struct err *err)
{
    const char *s = raw.data;
    size_t      at = p->text.len;

    must(p->count < FIELDS_DEPTH_MAX);
    for (size_t i = 0; i < raw.len; i++) {
        if (s[i] == '~' && (i + 1 == raw.len || (s[i + 1] != '0' && s[i + 1] != '1')))
            RETURN_ERR(err, E_INVALID, ERR_DATA, "path: \"~\" must be \"~0\" or \"~1\"");
        buf_add_byte(&p->text, (uint8_t)(s[i] != '~' ? s[i] : s[++i] == '0' ? '~' : '/'));
    }
    p->steps[p->count++] = slice_of(p->text.data + at, p->text.len - at);
    return 0;
}

static int
add_step(struct fieldsi_path *p, struct slice raw, bool pointer, struct err *err)
{
    size_t at = p->text.len;

    /* What points into the text stays where it is. */
    must(raw.len <= p->text.cap - p->text.len);
    if (p->count == FIELDS_DEPTH_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "path: has more than %d steps", FIELDS_DEPTH_MAX);
    if (pointer)
        return add_pointer_step(p, raw, err);
    if (raw.len == 0)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "path: has an empty step");
    buf_add_slice(&p->text, raw);
    p->steps[p->count++] = slice_of(p->text.data + at, raw.len);
    return 0;
}

static int
path_init(struct fieldsi_path *p, struct slice text, struct err *err)
{
    const char *s = text.data, *end = s + text.len;
    bool        pointer;
    int         rc = 0;

    if (text.len == 0 || text.len > FIELDS_PATH_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "path: must have 1 to %d bytes", FIELDS_PATH_MAX);
    pointer = s[0] == '/';
    if (!buf_reserve(&p->text, text.len)) /* what points into it must stay where it is */
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a path");
    for (s += pointer; rc == 0; s++) {
        const char *cut = memchr(s, pointer ? '/' : '.', (size_t)(end - s));

        cut = cut == NULL ? end : cut;
        rc = add_step(p, slice_of(s, (size_t)(cut - s)), pointer, err);
        s = cut;
        if (s == end)
            break;
    }
    must(rc != 0 || p->count > 0);
    return rc;
}

/* definitions */

static int
check_name(struct slice name, struct err *err)
{
    const char *s = name.data;

    if (name.len == 0 || name.len > FIELDS_NAME_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "an index's name has 1 to %d bytes", FIELDS_NAME_MAX);
    for (size_t i = 0; i < name.len; i++) {
        bool word = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') ||
                    (s[i] >= '0' && s[i] <= '9');

        if (!word && (i == 0 || (s[i] != '_' && s[i] != '-' && s[i] != '.')))
            RETURN_ERR(err, E_INVALID, ERR_DATA,
                       "an index's name has letters, digits, and after the first _, - and .");
    }
    return 0;
}

static int
check_text(struct slice text, const char *name, size_t most, struct err *err)
{
    if (text.len > most)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: has more than %zu bytes", name, most);
    if (text.len > 0 && memchr(text.data, '\0', text.len) != NULL)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: has a NUL", name);
    return 0;
}

int
fields_def_check(const struct fields_def *def, struct err *err)
{
    struct fieldsi_path path = {0};
    int                 rc;

    TRY(check_name(def->name, err));
    TRY(path_init(&path, def->path, err));
    TRY(check_text(def->path, "path", FIELDS_PATH_MAX, err));
    TRY(check_text(def->category, "category", LOG_NAME_MAX, err));
    TRY(check_text(def->prefix, "prefix", LOG_NAME_MAX, err));
    TRY(check_text(def->type, "type", LOG_TYPE_MAX, err));
    if (def->category.len > 0 && memchr(def->category.data, '-', def->category.len) != NULL)
        FAIL(err, E_INVALID, ERR_DATA, "category: has a '-', where a stream's category ends");
out:
    buf_fini(&path.text);
    return rc;
}

static int
read_text(struct slice raw, const char *name, struct slice *out, struct buf *texts, struct err *err)
{
    size_t at = texts->len;
    int    rc = 0;

    if (raw.data == NULL || json_is_null(raw))
        return 0;
    if (json_type(raw) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "%s: must be a string", name);
    TRY(json_string_decode(raw, texts, err));
    *out = slice_of(texts->data + at, texts->len - at);
out:
    return rc;
}

int
fields_def_read(struct slice json, struct fields_def *def, struct buf *texts, struct err *err)
{
    struct json_field f[] = {{.name = "path", .required = true},
                             {.name = "in"},
                             {.name = "category"},
                             {.name = "prefix"},
                             {.name = "type"},
                             {.name = "name"}};
    struct slice      in = {0};
    int               rc = 0;

    if (json.len > DEF_JSON_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "the definition is longer than %u bytes", DEF_JSON_MAX);
    if (!buf_reserve(texts, json.len + 1))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a definition");
    TRY(json_pick(json, f, 6, JSON_PICK_ONLY, err));
    TRY(read_text(f[0].value, "path", &def->path, texts, err));
    TRY(read_text(f[1].value, "in", &in, texts, err));
    TRY(read_text(f[2].value, "category", &def->category, texts, err));
    TRY(read_text(f[3].value, "prefix", &def->prefix, texts, err));
    TRY(read_text(f[4].value, "type", &def->type, texts, err));
    TRY(read_text(f[5].value, "name", &def->name, texts, err));
    def->metadata = slice_is(in, "metadata");
    if (in.len > 0 && !def->metadata && !slice_is(in, "data"))
        FAIL(err, E_INVALID, ERR_DATA, "in: must be data or metadata");
out:
    return rc;
}

static void
keep(struct buf *texts, struct slice *text)
{
    size_t at = texts->len;

    must(text->len <= texts->cap - texts->len);
    buf_add_slice(texts, *text);
    *text = slice_of(texts->data + at, text->len);
}

static bool
is_system(struct slice name)
{
    return name.len > 0 && *(const char *)name.data == '$';
}

int
fieldsi_rule_init(struct fieldsi_rule *r, const struct fields_def *def, struct err *err)
{
    int rc = 0;

    memset(r, 0, sizeof *r);
    r->def = *def;
    if (!buf_reserve(&r->texts, def->name.len + def->path.len + def->category.len +
                                    def->prefix.len + def->type.len + 1))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for an index");
    keep(&r->texts, &r->def.name);
    keep(&r->texts, &r->def.path);
    keep(&r->texts, &r->def.category);
    keep(&r->texts, &r->def.prefix);
    keep(&r->texts, &r->def.type);
    r->system = is_system(def->category) || is_system(def->prefix) || is_system(def->type);
    TRY(path_init(&r->path, def->path, err));
out:
    if (rc != 0)
        fieldsi_rule_fini(r);
    return rc;
}

void
fieldsi_rule_fini(struct fieldsi_rule *r)
{
    buf_fini(&r->texts);
    buf_fini(&r->path.text);
}

/* values */

int
fields_value(struct slice text, struct buf *out, struct err *err)
{
    struct slice   raw;
    enum json_type type;

    buf_clear(out);
    if (json_value(text, &raw, NULL) != 0) {
        struct buf quoted = {0};
        int        rc;

        json_put_string(&quoted, text);
        rc = quoted.failed ? E_NOMEM : json_canonical(buf_slice(&quoted), out, NULL);
        buf_fini(&quoted);
        if (rc != 0)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a value");
    } else {
        type = json_type(raw);
        if (type == JSON_ARRAY || type == JSON_OBJECT)
            RETURN_ERR(err, E_INVALID, ERR_DATA,
                       "value: must be a string, a number, true, false or null");
        if (json_canonical(raw, out, err) != 0)
            return err == NULL ? E_LIMIT : err->code;
    }
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a value");
    if (out->len > FIELDS_VALUE_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "value: longer than %d bytes are not indexed",
                   FIELDS_VALUE_MAX);
    return 0;
}

struct slice
fieldsi_found_at(const struct fieldsi_found *f, uint32_t n)
{
    uint32_t from = n == 0 ? 0 : f->ends[n - 1];

    must(n < f->count);
    must(from <= f->ends[n]);
    return slice_of(f->text.data + from, f->ends[n] - from);
}

void
fieldsi_found_fini(struct fieldsi_found *f)
{
    buf_fini(&f->text);
    buf_fini(&f->scratch);
}

static void
take_scalar(struct slice raw, struct fieldsi_found *f)
{
    buf_clear(&f->scratch);
    if (json_canonical(raw, &f->scratch, NULL) != 0 || f->scratch.len > FIELDS_VALUE_MAX) {
        f->skipped++;
        return;
    }
    for (uint32_t i = 0; i < f->count; i++)
        if (slice_eq(fieldsi_found_at(f, i), buf_slice(&f->scratch)))
            return;
    if (f->count == FIELDS_EACH_MAX) {
        f->skipped++;
        return;
    }
    buf_add_slice(&f->text, buf_slice(&f->scratch));
    must(f->text.len <= (size_t)FIELDS_EACH_MAX * FIELDS_VALUE_MAX);
    f->ends[f->count++] = (uint32_t)f->text.len;
}

static bool
is_scalar(struct slice raw)
{
    enum json_type type = json_type(raw);

    return type != JSON_NONE && type != JSON_ARRAY && type != JSON_OBJECT;
}

/* At the path's end: a scalar, or each scalar of an array. */
static void
take(struct slice raw, struct fieldsi_found *f)
{
    struct json_iter it;
    struct slice     element;

    if (is_scalar(raw)) {
        take_scalar(raw, f);
        return;
    }
    if (json_type(raw) != JSON_ARRAY || json_array_iter(&it, raw, NULL) != 0)
        return;
    while (json_iter_next(&it, NULL, &element, NULL) == 0)
        if (is_scalar(element))
            take_scalar(element, f);
}

/* The last member of this name, as most readers have it. */
static bool
member(struct slice object, struct slice name, struct slice *out)
{
    struct json_iter it;
    struct slice     key, value;
    bool             found = false;

    if (json_object_iter(&it, object, NULL) != 0)
        return false;
    while (json_iter_next(&it, &key, &value, NULL) == 0) {
        if (!json_key_is(key, name))
            continue;
        *out = value;
        found = true;
    }
    return found;
}

/* As deep as the path has steps. */
static void
walk(const struct fieldsi_path *p, unsigned step, struct slice raw, struct fieldsi_found *f)
{
    struct json_iter it;
    struct slice     next;
    uint64_t         number;
    bool             each;

    must(step <= p->count);
    if (step == p->count) {
        take(raw, f);
        return;
    }
    if (json_type(raw) == JSON_OBJECT) {
        if (member(raw, p->steps[step], &next))
            walk(p, step + 1, next, f);
        return;
    }
    each = slice_is(p->steps[step], "*");
    if (json_type(raw) != JSON_ARRAY || (!each && !json_uint64(p->steps[step], &number)) ||
        json_array_iter(&it, raw, NULL) != 0)
        return;
    for (uint64_t i = 0; json_iter_next(&it, NULL, &next, NULL) == 0; i++) {
        if (each || i == number)
            walk(p, step + 1, next, f);
        if (!each && i == number)
            return;
    }
}

static bool
in_category(struct slice stream, struct slice category)
{
    return stream.len > category.len && slice_starts(stream, category) &&
           ((const char *)stream.data)[category.len] == '-';
}

static bool
is_wanted(const struct fieldsi_rule *r, const struct log_event *ev)
{
    const struct fields_def *d = &r->def;

    return (r->system || !is_system(ev->stream)) && slice_starts(ev->stream, d->prefix) &&
           (d->category.len == 0 || in_category(ev->stream, d->category)) &&
           (d->type.len == 0 || slice_eq(ev->type, d->type));
}

int
fieldsi_find(const struct fieldsi_rule *r, const struct log_event *ev, struct fieldsi_found *f,
             struct err *err)
{
    struct slice raw;

    buf_clear(&f->text);
    f->count = f->skipped = 0;
    if (!is_wanted(r, ev))
        return 0;
    if (r->def.metadata) {
        if (json_value(ev->meta, &raw, NULL) == 0)
            walk(&r->path, 0, raw, f);
    } else if (ev->subject.len > 0 || (ev->flags & (LOG_SEALED | LOG_ERASED)) != 0) {
        /* What is under a subject's key must not lie beside it in the clear. */
        f->skipped++;
    } else if ((ev->flags & LOG_JSON) != 0 && json_value(ev->data, &raw, NULL) == 0) {
        walk(&r->path, 0, raw, f);
    }
    if (f->text.failed || f->scratch.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for an index");
    return 0;
}
