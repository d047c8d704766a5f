/*
 * Editing JSON: the first line is a path, the second a value, the rest a
 * document. What comes out is JSON, has the value where it was set and nothing
 * where it was taken away, and every edit done again changes nothing.
 */
#include "base/must.h"
#include "transform/transform_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
cut_line(struct slice *rest, struct slice *line)
{
    const uint8_t *p = rest->data, *end = rest->len == 0 ? NULL : memchr(p, '\n', rest->len);

    if (end == NULL)
        return false;
    *line = slice_of(p, (size_t)(end - p));
    *rest = slice_of(end + 1, rest->len - line->len - 1);
    return true;
}

/* All but the last step of the path leads to an object with one member of each name. */
static void
set_and_look(struct slice doc, const struct transformi_path *p, struct slice raw)
{
    struct buf   out = {0}, again = {0};
    struct slice found;

    if (transformi_set(doc, p, raw, &out, NULL) == 0) {
        must(json_check(buf_slice(&out), NULL) == 0);
        must(transformi_get(buf_slice(&out), p, &found));
        must(slice_eq(found, raw));
        must(transformi_set(buf_slice(&out), p, raw, &again, NULL) == 0);
        must(slice_eq(buf_slice(&out), buf_slice(&again)));
    }
    buf_fini(&out);
    buf_fini(&again);
}

static void
unset_and_look(struct slice doc, const struct transformi_path *p)
{
    struct buf   out = {0};
    struct slice found;
    bool         there = transformi_get(doc, p, &found);

    if (p->count > 0 && transformi_unset(doc, p, &out, NULL) == 0 && doc.len > 0) {
        must(json_check(buf_slice(&out), NULL) == 0);
        must(there == (out.len < doc.len));
        must(there || slice_eq(buf_slice(&out), doc));
    }
    buf_fini(&out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice           rest = slice_of(data, size), path, value, raw;
    struct transformi_path p = {0};

    if (!cut_line(&rest, &path) || !cut_line(&rest, &value))
        return 0;
    if (transformi_path_init(&p, path, false, NULL) == 0 && json_value(value, &raw, NULL) == 0 &&
        (rest.len == 0 || json_check(rest, NULL) == 0)) {
        set_and_look(rest, &p, raw);
        unset_and_look(rest, &p);
    }
    transformi_path_fini(&p);
    return 0;
}
