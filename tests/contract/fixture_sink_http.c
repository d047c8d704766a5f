/* The sink http, over a service in memory that refuses members it does not know. */
#include <stdio.h>

#include "contract.h"
#include "http_drivers.h"
#include "http_service.h"

#define KEYS 50

static void *
setup(void)
{
    static const char *const members[] = {"a", "b", NULL};
    struct http_service     *s = http_service_new();

    http_service_only(s, members);
    return s;
}

static void
teardown(void *world)
{
    http_service_free(world);
}

static struct sink *
open_one(void *world)
{
    return http_sink(http_fake_port(http_service_fake(world)),
                     "- {type: Deleted, method: DELETE, url: '/orders/{key}'}\n"
                     "- {method: PUT, url: '/orders/{key}'}\n");
}

static void
state(void *world, struct fold *out)
{
    struct buf row = {0};
    char       key[16];

    for (unsigned i = 0; i < KEYS; i++) {
        (void)snprintf(key, sizeof key, "%u", i);
        if (http_service_read(world, key, &row))
            fold_put(out, slice_str(key), buf_slice(&row));
    }
    buf_fini(&row);
}

const struct sink_fixture sink_fixture_http = {"http",   setup, teardown,
                                               open_one, state, "{\"a\":\"x\",\"c\":1}"};
