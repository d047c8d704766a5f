/* The text that a transform is made of: one JSON value, whatever it was written in. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "transform/transform_int.h"

/* Of JSON the line and the column are counted; of YAML they are looked up. */
static void
find_place(const struct transformi_spec *spec, size_t offset, uint32_t *line, uint32_t *column)
{
    const struct transformi_place *p = (const struct transformi_place *)(void *)spec->places.data;
    size_t                         low = 0, high = spec->places.len / sizeof *p;

    *line = *column = 1;
    if (high == 0) {
        for (size_t i = 0; i < offset && i < spec->text.len; i++) {
            bool end = spec->text.data[i] == '\n';

            *line += end;
            *column = end ? 1 : *column + ((spec->text.data[i] & 0xc0) != 0x80);
        }
        return;
    }
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (p[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    *line = p[low].line;
    *column = p[low].column;
}

int
transformi_fail(const struct transformi_spec *spec, const void *at, int code, struct err *err,
                const char *fmt, ...)
{
    uint32_t line, column;
    char     text[ERR_TEXT_MAX];
    va_list  ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    find_place(spec, (size_t)((const uint8_t *)at - spec->text.data), &line, &column);
    return err_set(err, __FILE__, __LINE__, code, ERR_FATAL, "%s:%u:%u: %s", spec->name, line,
                   column, text);
}

int
transformi_fail_as(const struct transformi_spec *spec, const void *at, const struct err *why,
                   struct err *err)
{
    return transformi_fail(spec, at, why->code, err, "%s", why->text);
}

char *
transformi_copy(struct slice text)
{
    char *copy = malloc(text.len + 1);

    if (copy == NULL)
        return NULL;
    if (text.len > 0)
        memcpy(copy, text.data, text.len);
    copy[text.len] = '\0';
    return copy;
}

int
transformi_string(const struct transformi_spec *spec, struct slice raw, const char *what,
                  size_t max, char **out, size_t *len, struct err *err)
{
    struct buf text = {0};
    int        rc = 0;

    *out = NULL;
    if (json_type(raw) != JSON_STRING)
        return transformi_fail(spec, raw.data, E_SCHEMA, err, "%s: must be a text, not %s", what,
                               json_type_name(json_type(raw)));
    TRY(json_string_decode(raw, &text, err));
    if (text.len == 0 || text.len > max) {
        rc = transformi_fail(spec, raw.data, E_SCHEMA, err, "%s: must have 1 to %zu bytes", what,
                             max);
        goto out;
    }
    *len = text.len;
    *out = transformi_copy(buf_slice(&text));
    if (*out == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for a transform");
out:
    buf_fini(&text);
    return rc;
}

int
transformi_key(const struct transformi_spec *spec, struct slice raw_key, const char *const *names,
               size_t *out, struct err *err)
{
    struct buf known = {0};
    int        rc;

    for (*out = 0; names[*out] != NULL; (*out)++) {
        if (json_key_is(raw_key, slice_str(names[*out])))
            return 0;
    }
    for (size_t i = 0; i < *out; i++)
        buf_printf(&known, "%s%s", i == 0 ? "" : ", ", names[i]);
    rc = transformi_fail(spec, (const uint8_t *)raw_key.data - 1, E_SCHEMA, err,
                         "unknown key \"%.*s\"; known are %.*s",
                         raw_key.len > 64 ? 64 : (int)raw_key.len, (const char *)raw_key.data,
                         SLICE_FMT(buf_slice(&known)));
    buf_fini(&known);
    return rc;
}
