#include "core/upcast.h"

#include <stdlib.h>
#include <string.h>

#define UPCASTERS_MAX 1000

struct upcaster {
    char             *name, *category, *type; /* the last two may be NULL */
    struct transform *transform;
};

struct upcasts {
    struct upcaster *list;
    size_t           count;
};

struct upcast {
    const struct upcasts  *set;
    struct transform_run **runs; /* one for each upcaster, made when it is needed */
};

int
upcast_set_new(struct upcasts **out, struct err *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for upcasters");
    return 0;
}

static void
upcaster_fini(struct upcaster *u)
{
    free(u->name);
    free(u->category);
    free(u->type);
    transform_free(u->transform);
}

void
upcast_set_free(struct upcasts *set)
{
    if (set == NULL)
        return;
    for (size_t i = 0; i < set->count; i++)
        upcaster_fini(&set->list[i]);
    free(set->list);
    free(set);
}

static bool
copy(const char *text, char **out)
{
    *out = text == NULL ? NULL : strdup(text);
    return text == NULL || *out != NULL;
}

int
upcast_set_add(struct upcasts *set, const char *name, const char *category, const char *type,
               struct transform **transform, struct err *err)
{
    struct upcaster u = {.transform = *transform}, *list;
    int             rc = 0;

    *transform = NULL;
    if (set->count == UPCASTERS_MAX)
        FAIL(err, E_LIMIT, ERR_FATAL, "more than %d upcasters", UPCASTERS_MAX);
    rc = transform_upcast_check(u.transform, err);
    if (rc != 0) {
        err_prefix(err, "upcaster %s", name);
        goto out;
    }
    list = reallocarray(set->list, set->count + 1, sizeof *list);
    if (list != NULL)
        set->list = list;
    if (list == NULL || !copy(name, &u.name) || !copy(category, &u.category) ||
        !copy(type, &u.type))
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for upcasters");
    set->list[set->count++] = u;
    memset(&u, 0, sizeof u);
out:
    upcaster_fini(&u);
    return rc;
}

int
upcast_new(const struct upcasts *set, struct upcast **out, struct err *err)
{
    struct upcast *u = calloc(1, sizeof *u);

    *out = NULL;
    if (u != NULL)
        u->runs =
            calloc(set == NULL || set->count == 0 ? 1 : set->count, sizeof(struct transform_run *));
    if (u == NULL || u->runs == NULL) {
        free(u);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for upcasters");
    }
    u->set = set;
    *out = u;
    return 0;
}

void
upcast_free(struct upcast *u)
{
    if (u == NULL)
        return;
    for (size_t i = 0; u->set != NULL && i < u->set->count; i++)
        transform_run_free(u->runs[i]);
    free(u->runs);
    free(u);
}

static struct slice
category_of(struct slice stream)
{
    const char *dash = stream.len == 0 ? NULL : memchr(stream.data, '-', stream.len);

    return dash == NULL ? slice_of(NULL, 0)
                        : slice_of(stream.data, (size_t)(dash - (const char *)stream.data));
}

static bool
is_for(const struct upcaster *u, struct slice category, struct slice type)
{
    return (u->category == NULL || slice_is(category, u->category)) &&
           (u->type == NULL || slice_is(type, u->type));
}

bool
upcast_wants(const struct upcasts *set, const struct log_event *e)
{
    struct slice category;

    if (set == NULL || set->count == 0 || (e->flags & (LOG_LINK | LOG_SEALED | LOG_ERASED)) != 0 ||
        e->stream.len == 0 || *(const char *)e->stream.data == '$')
        return false;
    category = category_of(e->stream);
    for (size_t i = 0; i < set->count; i++) {
        /* One that goes by the type may be wanted by what another makes of it. */
        if (is_for(&set->list[i], category, e->type))
            return true;
    }
    return false;
}

int
upcast_apply(struct upcast *u, struct log_event *e, bool *changed, struct err *err)
{
    struct transform_event in = {.stream = e->stream,
                                 .type = e->type,
                                 .data = e->data,
                                 .meta = e->meta,
                                 .id = e->id,
                                 .version = e->version,
                                 .position = e->pos.v,
                                 .created_us = e->created_us,
                                 .json = (e->flags & LOG_JSON) != 0 && e->data.len > 0};
    struct slice           category = category_of(e->stream);
    struct transform_out   out;
    int                    rc = 0;

    *changed = false;
    if (!upcast_wants(u->set, e))
        return 0;
    for (size_t i = 0; i < u->set->count; i++) {
        const struct upcaster *one = &u->set->list[i];

        if (!is_for(one, category, in.type))
            continue;
        if (u->runs[i] == NULL)
            TRY(transform_run_new(one->transform, &u->runs[i], err));
        rc = transform_upcast(u->runs[i], &in, &out, err);
        if (rc != 0) {
            err_prefix(err, "upcaster %s", one->name);
            goto out;
        }
        if (!out.changed)
            continue;
        *changed = true;
        in.type = out.type;
        in.data = out.data;
        in.meta = out.meta;
        in.json = out.json;
    }
    e->type = in.type;
    e->data = in.data;
    e->meta = in.meta;
    if (*changed)
        e->flags = (e->flags & ~(uint32_t)LOG_JSON) | (in.json ? LOG_JSON : 0);
out:
    return rc;
}
