#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/proof/proof_int.h"

bool
proofi_known(void *arg, struct slice name)
{
    return slice_is(name, "id") || slice_is(name, "stream") || slice_is(name, "type") ||
           slice_starts(name, slice_str("data.")) || slice_starts(name, slice_str("metadata."));
}

int
proofi_look_up(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    const struct slice *event = arg;
    struct slice        found;

    if (!json_get_path(*event, name, &found) || json_is_null(found))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "the message has no %.*s", SLICE_FMT(name));
    return template_put_json(found, raw, value, err);
}

static bool
is_digits(const char *from, const char *to)
{
    for (const char *p = from; p < to; p++)
        if (*p < '0' || *p > '9')
            return false;
    return to > from && to - from < 22;
}

bool
proofi_token_read(struct slice text, struct proofi_token *out)
{
    char        all[80];
    const char *first, *second;

    if (text.len == 0 || text.len >= sizeof all)
        return false;
    memcpy(all, text.data, text.len);
    all[text.len] = '\0';
    first = strchr(all, '/');
    second = first == NULL ? NULL : strchr(first + 1, '/');
    if (second == NULL || !is_digits(all, first) || !is_digits(first + 1, second) ||
        !is_digits(second + 1, all + text.len))
        return false;
    (void)snprintf(out->life, sizeof out->life, "%.*s", (int)(second - all), all);
    (void)snprintf(out->system, sizeof out->system, "%.*s", (int)(first - all), all);
    (void)snprintf(out->xid, sizeof out->xid, "%.22s", second + 1);
    out->start = strtoull(first + 1, NULL, 10);
    return true;
}
