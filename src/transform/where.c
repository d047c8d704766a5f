/* A condition on its own: which events somebody is about. */
#include <stdlib.h>

#include "transform/transform_int.h"

struct transform_where {
    struct transformi_when *when;
    struct buf              text; /* what it was made of */
};

int
transform_where_new(struct slice json, const char *name, struct transform_where **out,
                    struct err *err)
{
    struct transformi_spec  spec = {.name = name};
    struct transform_where *w = calloc(1, sizeof *w);
    struct slice            raw;
    int                     rc;

    *out = NULL;
    if (w == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for a condition");
    buf_add_slice(&w->text, json);
    if (w->text.failed)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for a condition");
    spec.text = w->text;
    TRY(json_value(buf_slice(&w->text), &raw, err));
    TRY(transformi_when_new(&spec, raw, &w->when, err));
    *out = w;
    w = NULL;
out:
    transform_where_free(w);
    return rc;
}

void
transform_where_free(struct transform_where *w)
{
    if (w == NULL)
        return;
    transformi_when_free(w->when);
    buf_fini(&w->text);
    free(w);
}

int
transform_where_holds(const struct transform_where *w, const struct transform_event *e,
                      struct buf *scratch, bool *out, struct err *err)
{
    buf_clear(scratch);
    return transformi_when_holds(w->when, e, scratch, out, err);
}
