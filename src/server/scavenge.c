/* /v1/scavenge: begin a scavenge, see how far it is, end it. */
#include "base/json.h"
#include "base/must.h"
#include "log/log.h"
#include "server/server_int.h"

static void
answer_status(struct call *call, int status)
{
    struct server      *s = call->conn->server;
    struct log_scavenge now;

    log_scavenge_status(s->log, &now);
    buf_clear(&s->scratch);
    log_scavenge_json(&now, &s->scratch);
    buf_add_byte(&s->scratch, '\n');
    call_answer(call, status, CALL_JSON, buf_slice(&s->scratch));
}

static void
get_scavenge(struct call *call, void *arg)
{
    answer_status(call, 200);
}

static int
read_number(struct slice raw, const char *name, uint64_t least, uint64_t most, uint64_t *out,
            struct err *err)
{
    if (raw.data == NULL)
        return 0;
    if (!json_uint64(raw, out) || *out < least || *out > most)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: must be a number from %llu to %llu", name,
                   (unsigned long long)least, (unsigned long long)most);
    return 0;
}

static int
read_conf(struct slice body, struct log_scavenge_conf *conf, struct err *err)
{
    enum { DRY, RATE, SHARE, AGE, FIELDS };
    struct json_field f[FIELDS] = {[DRY] = {.name = "dry_run"},
                                   [RATE] = {.name = "rate"},
                                   [SHARE] = {.name = "min_share"},
                                   [AGE] = {.name = "min_age_s"}};
    uint64_t          share = 0, age = 0;
    int               rc = 0;

    if (body.len == 0)
        return 0;
    TRY(json_check(body, err));
    TRY(json_pick(body, f, FIELDS, JSON_PICK_ONLY, err));
    if (f[DRY].value.data != NULL && !json_bool(f[DRY].value, &conf->dry_run))
        FAIL(err, E_INVALID, ERR_DATA, "dry_run: must be true or false");
    TRY(read_number(f[RATE].value, "rate", 0, INT64_MAX, &conf->rate, err));
    TRY(read_number(f[SHARE].value, "min_share", 1, 100, &share, err));
    TRY(read_number(f[AGE].value, "min_age_s", 0, UINT32_MAX, &age, err));
    conf->min_share = (uint32_t)share;
    conf->min_age_us = (int64_t)age * 1000000;
out:
    return rc;
}

static void
post_scavenge(struct call *call, void *arg)
{
    struct log_scavenge_conf conf = {.rate = 0};
    struct err               err;

    if (read_conf(call_body(call), &conf, &err) != 0 ||
        log_scavenge_start(call->conn->server->log, &conf, &err) != 0)
        call_fail(call, &err);
    else
        answer_status(call, 202);
}

static void
delete_scavenge(struct call *call, void *arg)
{
    log_scavenge_stop(call->conn->server->log);
    answer_status(call, 202);
}

int
serveri_scavenge_routes(struct server *s, struct err *err)
{
    static const struct server_route routes[] = {
        {"GET", "/v1/scavenge", get_scavenge, 0},
        {"POST", "/v1/scavenge", post_scavenge, 4096},
        {"DELETE", "/v1/scavenge", delete_scavenge, 0},
    };

    return server_add_routes(s, routes, sizeof routes / sizeof routes[0], NULL, err);
}
