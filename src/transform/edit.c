/*
 * Editing JSON as bytes: what is set or taken away is cut in or out, and every
 * other byte of the document stays as it was, its numbers and spaces included.
 */
#include <stdlib.h>

#include "base/must.h"
#include "base/utf8.h"
#include "transform/transform_int.h"

/* paths */

struct root_name {
    const char          *name;
    enum transformi_root root;
    bool                 deep;
};

static const struct root_name roots[] = {
    {"data", TRANSFORMI_DATA, true},          {"metadata", TRANSFORMI_META, true},
    {"type", TRANSFORMI_TYPE, false},         {"stream", TRANSFORMI_STREAM, false},
    {"category", TRANSFORMI_CATEGORY, false}, {NULL, 0, false},
};

/* Cuts at the dots and takes the backslashes out, in place. */
static int
split(struct transformi_path *p, char *text, struct err *err)
{
    char *from = text, *to = text, *step = text;

    for (;; from++) {
        if (*from != '\0' && *from != '.') {
            if (*from == '\\' && (from[1] == '.' || from[1] == '\\'))
                from++;
            *to++ = *from;
            continue;
        }
        if (p->count == TRANSFORMI_STEPS_MAX)
            RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "a path of more than %d steps",
                       TRANSFORMI_STEPS_MAX);
        if (to == step)
            RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "a path with an empty step");
        p->steps[p->count++] = slice_of(step, (size_t)(to - step));
        if (*from == '\0')
            return 0;
        step = ++to;
    }
}

int
transformi_path_init(struct transformi_path *p, struct slice text, bool any, struct err *err)
{
    const struct root_name *r = roots;
    const char             *dot = text.len == 0 ? NULL : memchr(text.data, '.', text.len);
    struct slice            first =
        slice_of(text.data, dot == NULL ? text.len : (size_t)(dot - (const char *)text.data));

    memset(p, 0, sizeof *p);
    if (text.len > TRANSFORMI_PATH_MAX || !utf8_valid(text) ||
        (text.len > 0 && memchr(text.data, '\0', text.len) != NULL))
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL,
                   "a path of more than %d bytes, with a NUL, or not in UTF-8",
                   TRANSFORMI_PATH_MAX);
    while (r->name != NULL && !slice_is(first, r->name))
        r++;
    if (r->name == NULL || (!any && !r->deep) || (!r->deep && dot != NULL))
        RETURN_ERR(
            err, E_SCHEMA, ERR_FATAL,
            any ? "unknown name \"%.*s\"; known are type, stream, category, data, data.PATH, "
                  "metadata, metadata.PATH"
                : "unknown path \"%.*s\"; a path is data, data.PATH, metadata or "
                  "metadata.PATH",
            text.len > 64 ? 64 : (int)text.len, text.len == 0 ? "" : (const char *)text.data);
    p->root = r->root;
    if (dot == NULL)
        return 0;
    p->text = transformi_copy(slice_of(dot + 1, text.len - first.len - 1));
    if (p->text == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for a path");
    return split(p, p->text, err);
}

void
transformi_path_fini(struct transformi_path *p)
{
    free(p->text);
    p->text = NULL;
    p->count = 0;
}

/* looking */

static const uint8_t *
end_of(struct slice s)
{
    return (const uint8_t *)s.data + s.len;
}

/* Where a step leads in an object (the last member of that name) or an array. */
struct spot {
    enum json_type type; /* of the container; not one of the two: no spot */
    bool           found;
    struct slice   value;      /* where found */
    uint64_t       index;      /* of an array: the step's number … */
    uint64_t       count;      /* … and how many elements there are, or members */
    const uint8_t *last_value; /* after the last one, or the opening bracket */
};

static int
look(struct slice box, struct slice step, struct spot *s, struct err *err)
{
    struct json_iter it;
    struct slice     key = {0}, value;
    int              rc;

    memset(s, 0, sizeof *s);
    s->type = json_type(box);
    if (s->type != JSON_OBJECT && s->type != JSON_ARRAY)
        return 0;
    s->last_value = (const uint8_t *)box.data + 1;
    if (s->type == JSON_ARRAY && !json_uint64(step, &s->index))
        s->index = UINT64_MAX;
    rc = s->type == JSON_OBJECT ? json_object_iter(&it, box, err) : json_array_iter(&it, box, err);
    while (rc == 0 && (rc = json_iter_next(&it, &key, &value, err)) == 0) {
        if (s->type == JSON_OBJECT ? json_key_is(key, step) : s->count == s->index) {
            s->found = true;
            s->value = value;
        }
        s->count++;
        s->last_value = end_of(value);
    }
    return rc == E_END ? 0 : rc;
}

bool
transformi_get(struct slice doc, const struct transformi_path *p, struct slice *out)
{
    struct spot s;

    if (json_value(doc, &doc, NULL) != 0)
        return false;
    for (size_t i = 0; i < p->count; i++) {
        if (look(doc, p->steps[i], &s, NULL) != 0 || !s.found)
            return false;
        doc = s.value;
    }
    *out = doc;
    return true;
}

/* setting */

/* The value within the objects that the steps from `i` on name. */
static void
put_nested(const struct transformi_path *p, size_t i, struct slice raw, struct buf *out)
{
    for (size_t k = i; k < p->count; k++) {
        buf_add_byte(out, '{');
        json_put_string(out, p->steps[k]);
        buf_add_byte(out, ':');
    }
    buf_add_slice(out, raw);
    for (size_t k = i; k < p->count; k++)
        buf_add_byte(out, '}');
}

static int
blocked(const struct transformi_path *p, size_t i, const struct spot *s, enum json_type type,
        struct err *err)
{
    if (s->type == JSON_ARRAY)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "step %zu of the path must be a number up to %llu: there is an array", i + 1,
                   (unsigned long long)s->count);
    RETURN_ERR(err, E_SCHEMA, ERR_DATA, "step %zu of the path is not possible: there is %s", i + 1,
               json_type_name(type));
}

int
transformi_set(struct slice doc, const struct transformi_path *p, struct slice raw, struct buf *out,
               struct err *err)
{
    struct slice whole = doc, box;
    struct spot  s = {0};
    size_t       i = 0;
    int          rc = 0;

    buf_clear(out);
    if (doc.len == 0) {
        put_nested(p, 0, raw, out);
        goto done;
    }
    TRY(json_value(doc, &box, err));
    for (i = 0; i < p->count; i++) {
        TRY(look(box, p->steps[i], &s, err));
        if (!s.found)
            break;
        box = s.value;
    }
    if (i < p->count && s.type != JSON_OBJECT && (s.type != JSON_ARRAY || s.index != s.count)) {
        rc = blocked(p, i, &s, json_type(box), err);
        goto out;
    }
    if (i == p->count) {
        buf_add(out, whole.data, (size_t)((const uint8_t *)box.data - (const uint8_t *)whole.data));
        buf_add_slice(out, raw);
        buf_add(out, end_of(box), (size_t)(end_of(whole) - end_of(box)));
        goto done;
    }
    buf_add(out, whole.data, (size_t)(s.last_value - (const uint8_t *)whole.data));
    if (s.count > 0)
        buf_add_byte(out, ',');
    if (s.type == JSON_OBJECT) {
        json_put_string(out, p->steps[i]);
        buf_add_byte(out, ':');
    }
    put_nested(p, i + 1, raw, out);
    buf_add(out, s.last_value, (size_t)(end_of(whole) - s.last_value));
done:
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for an edited document");
    /* What goes in may lie too deep; a scalar beside others cannot. */
    if (i + 1 < p->count || json_type(raw) == JSON_OBJECT || json_type(raw) == JSON_ARRAY)
        TRY(json_check(buf_slice(out), err));
out:
    return rc;
}

/* taking away */

/* All members of that name, or the element, out of one object or array. */
static int
put_without(struct slice box, struct slice step, struct buf *out, struct err *err)
{
    struct json_iter it;
    struct slice     key = {0}, value = {0}, comma = {0};
    const uint8_t   *kept_end = NULL, *last_end = (const uint8_t *)box.data + 1, *start;
    bool             object = json_type(box) == JSON_OBJECT;
    uint64_t         index = UINT64_MAX;
    int              rc;

    if (!object)
        (void)json_uint64(step, &index);
    TRY(object ? json_object_iter(&it, box, err) : json_array_iter(&it, box, err));
    for (uint64_t n = 0; (rc = json_iter_next(&it, &key, &value, err)) == 0; n++) {
        start = object ? (const uint8_t *)key.data - 1 : value.data;
        if (n == 0)
            buf_add(out, box.data, (size_t)(start - (const uint8_t *)box.data));
        if (kept_end == last_end) /* between the last one that was kept and the one after it */
            comma = slice_of(kept_end, (size_t)(start - kept_end));
        last_end = end_of(value);
        if (object ? json_key_is(key, step) : n == index)
            continue;
        if (kept_end != NULL)
            buf_add_slice(out, comma);
        buf_add(out, start, (size_t)(last_end - start));
        kept_end = last_end;
    }
    if (rc != E_END)
        goto out;
    rc = 0;
    buf_add(out, last_end, (size_t)(end_of(box) - last_end));
out:
    return rc;
}

int
transformi_unset(struct slice doc, const struct transformi_path *p, struct buf *out,
                 struct err *err)
{
    struct slice box;
    struct spot  s = {0};
    int          rc = 0;

    buf_clear(out);
    if (doc.len == 0)
        goto out;
    must(p->count > 0);
    TRY(json_value(doc, &box, err));
    for (size_t i = 0; i < p->count; i++) {
        TRY(look(box, p->steps[i], &s, err));
        if (!s.found) {
            buf_add_slice(out, doc);
            goto done;
        }
        if (i + 1 < p->count)
            box = s.value;
    }
    buf_add(out, doc.data, (size_t)((const uint8_t *)box.data - (const uint8_t *)doc.data));
    TRY(put_without(box, p->steps[p->count - 1], out, err));
    buf_add(out, end_of(box), (size_t)(end_of(doc) - end_of(box)));
done:
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for an edited document");
out:
    return rc;
}
