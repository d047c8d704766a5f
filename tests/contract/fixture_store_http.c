/* The store http, over a service in memory that knows its fields. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "contract.h"
#include "env/env_real.h"
#include "http_drivers.h"
#include "http_service.h"
#include "net/http.h"

struct world {
    struct http_service *service;
    struct net_client   *app;
};

static void *
setup(void)
{
    static const char *const members[] = {"a", "b", "c", NULL};
    struct net_def           def = {1000, 10000, 1, 65536, NULL, NET_AUTO};
    struct world            *w = calloc(1, sizeof *w);
    struct err               err;

    assert_non_null(w);
    w->service = http_service_new();
    http_service_only(w->service, members);
    contract_ok(net_client_new(env_real(), &def, &w->app, &err), &err);
    return w;
}

static void
teardown(void *world)
{
    struct world *w = world;

    net_client_free(w->app);
    http_service_free(w->service);
    free(w);
}

static uint16_t
port_of(struct world *w)
{
    return http_fake_port(http_service_fake(w->service));
}

static struct store *
open_one(void *world)
{
    return http_store(port_of(world), "[a, b, c]", "version: version\n");
}

/* As applications do: no mark, no epoch, no condition. */
static int
app_write(void *world, const char *key, const char *row)
{
    struct world      *w = world;
    struct net_request r = {.method = row == NULL ? "DELETE" : "PUT", .body = slice_str(row)};
    struct net_answer  answer;
    struct err         err;
    char               url[96];

    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/orders/%s", port_of(w), key);
    r.url = slice_str(url);
    contract_ok(net_call(w->app, &r, &answer, &err), &err);
    return answer.status < 300 ? 0 : 1;
}

static void
row(void *world, unsigned n, struct buf *out)
{
    static const char *const values[] = {"null", "\"\"",           "\"x\"",
                                         "0.1",  "{\"d\":[1,{}]}", "9007199254740993"};
    struct buf               text = {0};
    struct err               err;

    buf_printf(&text, "{\"a\":\"a%u\\u0000|\",\"b\":%u.5,\"c\":%s}", n, n, values[n % 6]);
    contract_ok(json_canonical(buf_slice(&text), out, &err), &err);
    buf_fini(&text);
}

const struct store_fixture store_fixture_http = {"http",    setup, teardown,           open_one,
                                                 app_write, row,   .keeps_guard = true};
