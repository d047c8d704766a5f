/* The source http, over a service in memory. */
#include <stdio.h>

#include "contract.h"
#include "http_drivers.h"
#include "http_service.h"

#define KEYS 50

static void
put(struct http_service *s, unsigned key, unsigned value)
{
    char name[16], row[32];

    (void)snprintf(name, sizeof name, "%u", key + 1);
    (void)snprintf(row, sizeof row, "{\"v\":%u}", value);
    http_service_write(s, name, row);
}

static void *
setup(void)
{
    struct http_service *s = http_service_new();

    for (unsigned i = 0; i < KEYS; i += 2)
        put(s, i, i);
    return s;
}

static void
teardown(void *world)
{
    http_service_free(world);
}

static struct source *
open_one(void *world)
{
    return http_source(http_fake_port(http_service_fake(world)), true, "fields: [v]\n");
}

static void
mutate(void *world, unsigned step)
{
    char name[16];

    if (step % 5 != 0) {
        put(world, step * 7 % KEYS, step);
        return;
    }
    (void)snprintf(name, sizeof name, "%u", step * 7 % KEYS + 1);
    http_service_write(world, name, NULL);
}

static void
state(void *world, struct fold *out)
{
    struct buf row = {0};
    char       name[16];

    for (unsigned i = 0; i < KEYS; i++) {
        (void)snprintf(name, sizeof name, "%u", i + 1);
        if (http_service_read(world, name, &row))
            fold_put(out, slice_str(name), buf_slice(&row));
    }
    buf_fini(&row);
}

const struct source_fixture source_fixture_http = {"http", setup, teardown, open_one,
                                                   mutate, state, false};
