/* The table of routes: method and path to handler. */
#include <stdio.h>

#include "base/must.h"
#include "server/access_int.h"

static bool
is_param(struct slice segment)
{
    const char *p = segment.data;

    return segment.len > 2 && p[0] == '{' && p[segment.len - 1] == '}';
}

static bool
find_method(const char *name, enum http1_method *out)
{
    for (int m = 0; m < HTTP1_METHOD_COUNT; m++) {
        if (strcmp(http1_method_name((enum http1_method)m), name) != 0)
            continue;
        *out = (enum http1_method)m;
        return true;
    }
    return false;
}

static int
split(struct route *route, const char *path, struct err *err)
{
    if (*path != '/')
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "route %s: does not begin with '/'", path);
    route->segment_count = 0;
    for (const char *p = path + 1; *p != '\0';) {
        size_t len = strcspn(p, "/");

        if (route->segment_count == URI_SEGMENTS_MAX)
            RETURN_ERR(err, E_LIMIT, ERR_FATAL, "route %s: too many segments", path);
        route->segments[route->segment_count++] = slice_of(p, len);
        p += len;
        if (*p == '/')
            p++;
    }
    return 0;
}

/* Two routes for the same requests, whatever their parameters are called. */
static bool
is_same(const struct route *a, const struct route *b)
{
    if (a->method != b->method || a->segment_count != b->segment_count)
        return false;
    for (unsigned i = 0; i < a->segment_count; i++) {
        bool any = is_param(a->segments[i]);

        if (any != is_param(b->segments[i]))
            return false;
        if (!any && !slice_eq(a->segments[i], b->segments[i]))
            return false;
    }
    return true;
}

int
serveri_route_add(struct server *s, const struct server_route *def, void *arg, struct route **out,
                  struct err *err)
{
    struct route *route = &s->routes[s->route_count];

    if (s->route_count == SERVERI_ROUTES_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "more than %d routes", SERVERI_ROUTES_MAX);
    memset(route, 0, sizeof *route);
    route->def = *def;
    route->arg = arg;
    route->need = (int)serveri_access_need(def->method, def->path);
    if (!find_method(def->method, &route->method))
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "route %s: unknown method %s", def->path,
                   def->method);
    if (split(route, def->path, err) != 0)
        return E_INVALID;
    for (unsigned i = 0; i < s->route_count; i++)
        if (is_same(&s->routes[i], route))
            RETURN_ERR(err, E_EXISTS, ERR_FATAL, "route %s %s: is there already", def->method,
                       def->path);
    s->route_count++;
    if (out != NULL)
        *out = route;
    return 0;
}

static bool
matches(const struct route *route, const struct uri *uri)
{
    if (route->segment_count != uri->segment_count)
        return false;
    /* From the end, where routes differ most. */
    for (unsigned i = route->segment_count; i-- > 0;)
        if (!is_param(route->segments[i]) && !slice_eq(route->segments[i], uri->segments[i]))
            return false;
    return true;
}

/* A literal segment is a better match than a parameter; the first difference decides. */
static bool
is_better(const struct route *a, const struct route *b)
{
    for (unsigned i = 0; i < a->segment_count; i++) {
        bool any = is_param(a->segments[i]);

        if (any != is_param(b->segments[i]))
            return !any;
    }
    return false;
}

const struct route *
serveri_route_find(const struct server *s, enum http1_method method, const struct uri *uri,
                   unsigned *allow)
{
    const struct route *best = NULL;

    *allow = 0;
    for (unsigned i = 0; i < s->route_count; i++) {
        const struct route *route = &s->routes[i];

        if (!matches(route, uri))
            continue;
        *allow |= 1U << route->method;
        if (route->method != method && (route->method != HTTP1_GET || method != HTTP1_HEAD))
            continue;
        if (best == NULL || is_better(route, best))
            best = route;
    }
    return best;
}
