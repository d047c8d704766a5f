/* What the server says about itself. */
#include "base/json.h"
#include "base/must.h"
#include "log/log.h"
#include "server/server_int.h"

static void
answer_text(struct call *call, int status, const char *text)
{
    call_answer(call, status, CALL_JSON, slice_str(text));
}

static void
get_root(struct call *call, void *arg)
{
    answer_text(call, 200,
                "{\"name\":\"oxbow\",\"streams\":\"/v1/streams\",\"all\":\"/v1/all\","
                "\"stats\":\"/v1/stats\",\"metrics\":\"/metrics\",\"health\":\"/health/ready\"}\n");
}

static void
get_live(struct call *call, void *arg)
{
    answer_text(call, 200, "{\"status\":\"live\"}\n");
}

static const struct server_route routes[] = {
    {"GET", "/", get_root, 0},
    {"GET", "/health/live", get_live, 0},
};

int
serveri_api_routes(struct server *s, struct err *err)
{
    return server_add_routes(s, routes, sizeof routes / sizeof routes[0], NULL, err);
}
