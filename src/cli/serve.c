/* oxbow serve: the log behind the network front, and what the configuration has, until a signal. */
#include <arpa/inet.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/conf.h"
#include "base/json.h"
#include "base/say.h"
#include "cli/cli_int.h"
#include "cli/engine_int.h"
#include "cli/jobs_int.h"
#include "cli/surgeries_int.h"
#include "cli/tracing_int.h"
#include "core/fields.h"
#include "core/group.h"
#include "core/upcast.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "migrate/stream/stream.h"
#include "server/fields_front.h"
#include "server/group_front.h"
#include "server/server.h"
#include "user/user.h"

#define HOST_BYTES 256
#define DATA_BYTES 4096

/* "HOST:PORT", ":PORT", "[::1]:PORT". */
static int
read_listen(const char *text, char host[HOST_BYTES], uint16_t *port, struct err *err)
{
    const char *colon = strrchr(text, ':');
    uint64_t    number;
    size_t      len;

    if (colon == NULL || !json_uint64(slice_str(colon + 1), &number) || number > UINT16_MAX)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "listen %s: must be HOST:PORT", text);
    len = (size_t)(colon - text);
    if (len > 1 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    }
    if (len >= HOST_BYTES)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "listen: the host's name is too long");
    memcpy(host, text, len);
    host[len] = '\0';
    *port = (uint16_t)number;
    return 0;
}

/* Which of `auth`'s words the configuration says. */
enum { AUTH_AUTO, AUTH_ON, AUTH_OFF };

/*
 * Where others can reach it there is TLS, and everybody has to say who he is: as a user, or as
 * somebody with a certificate.
 */
static int
check_exposed(const struct cli *c, const struct conf *root, const char *host,
              enum server_auth *mode, struct err *err)
{
    bool            insecure = c->opt[OPT_INSECURE] != NULL || conf_bool(root, "insecure");
    bool            tls = conf_has(root, "tls");
    size_t          word = conf_enum(root, "auth");
    struct in_addr  four;
    struct in6_addr six;
    bool            local = host[0] == '\0' || strcmp(host, "localhost") == 0;

    if (inet_pton(AF_INET, host, &four) == 1)
        local = ntohl(four.s_addr) >> 24 == 127;
    else if (inet_pton(AF_INET6, host, &six) == 1)
        local = IN6_IS_ADDR_LOOPBACK(&six);
    *mode = word == AUTH_OFF                          ? SERVER_AUTH_OFF
            : word == AUTH_ON || !(local || insecure) ? SERVER_AUTH_ON
                                                      : SERVER_AUTH_ASKED;
    if (local || insecure)
        return 0;
    if (!tls)
        RETURN_ERR(err, E_USAGE, ERR_DATA,
                   "listen %s: others could reach it, and passwords and events would go in the "
                   "clear: set tls, use 127.0.0.1 behind a proxy, or say --insecure",
                   host);
    if (word == AUTH_OFF && !conf_has(conf_child(root, "tls"), "client_ca"))
        RETURN_ERR(err, E_USAGE, ERR_DATA,
                   "listen %s: others could reach it, and anybody may do anything there: leave "
                   "auth: off out, set tls.client_ca, or say --insecure",
                   host);
    return 0;
}

static void
say_first(const char *name, const char *made)
{
    if (made[0] != '\0')
        (void)fprintf(stderr, "first start: user %s has the password %s (said this once)\n", name,
                      made);
}

/* admin and ops, where somebody has to say who he is and nobody could. */
static int
first_users(struct users *users, enum server_auth mode, struct err *err)
{
    const char *admin = getenv("OXBOW_ADMIN_PASSWORD"), *ops = getenv("OXBOW_OPS_PASSWORD");
    char        admin_made[USER_SECRET_BYTES] = "", ops_made[USER_SECRET_BYTES] = "";
    int         rc;

    if (user_any(users) || mode == SERVER_AUTH_OFF || (mode == SERVER_AUTH_ASKED && admin == NULL))
        return 0;
    rc = user_first(users, admin, ops, admin_made, ops_made, err);
    if (rc == 0) {
        say_first("admin", admin_made);
        say_first("ops", ops_made);
    }
    memset(admin_made, 0, sizeof admin_made);
    memset(ops_made, 0, sizeof ops_made);
    return rc;
}

static int
open_users(struct server *server, struct log *log, enum server_auth mode, const struct conf *root,
           struct users **out, struct err *err)
{
    int rc = 0;

    TRY(user_open(env_real(), log, out, err));
    TRY(first_users(*out, mode, err));
    TRY(server_set_users(server, *out, mode, err));
    TRY(enginei_permissions(root, server, err));
out:
    return rc;
}

static int
open_log(struct cli *c, const struct conf *root, struct log_report *report, struct log **out,
         struct err *err)
{
    const struct conf    *log = conf_child(root, "log");
    struct log_retention *retention = NULL;
    int                   rc = 0;
    struct log_conf       conf = {.index = &log_index_lmdb,
                                  .segment_bytes = conf_size(log, "segment_bytes"),
                                  .commit_bytes_max = conf_size(log, "commit_bytes_max"),
                                  .free_bytes_min = conf_size(log, "free_bytes_min"),
                                  .sync_delay_us = conf_duration_us(log, "sync_delay")};

    TRY(clii_keys_open(c, true, conf_str(root, "keys"), conf_str(root, "keys_master"), &c->subjects,
                       err));
    conf.subjects = c->subjects;
    TRY(enginei_retention(root, &retention, &conf.retention_count, err));
    conf.retention = retention;
    rc = log_open(env_real(), clii_data(c), &conf, report, out, err);
out:
    free(retention);
    return rc;
}

static void
say_report(const struct cli *c, const struct log_report *report)
{
    struct say_num num[2];

    say(SAY_INFO, report->created ? "log made" : "log opened", "data", clii_data(c), "end",
        say_u64(&num[0], report->end.v), "clean", report->clean || report->created ? "yes" : "no",
        "replayed", say_u64(&num[1], report->replayed), NULL);
    if (report->cut_at.v != 0)
        say(SAY_WARN, "a torn end was cut off, of commits that were never acknowledged", "at",
            say_u64(&num[0], report->cut_at.v), "bytes", say_u64(&num[1], report->cut_bytes), NULL);
}

/* What a reload reaches. */
struct serving {
    struct engine    *engine;
    struct server    *server;
    struct server_tls tls;
    char             *texts[3]; /* of tls: the configuration is not ours for long */
};

static void
on_reload(void *arg)
{
    struct serving *s = arg;
    struct err      err;

    if (s->tls.cert != NULL && server_set_tls(s->server, &s->tls, &err) != 0)
        say(SAY_ERROR, "the certificate stays as it was", "error", err.text, NULL);
    if (s->engine != NULL)
        enginei_reload(s->engine);
}

static int
read_tls(struct serving *s, const struct conf *root, struct err *err)
{
    static const char *const names[3] = {"cert", "key", "client_ca"};
    const char             **to[3] = {&s->tls.cert, &s->tls.key, &s->tls.client_ca};
    const struct conf       *tls = conf_has(root, "tls") ? conf_child(root, "tls") : NULL;

    for (int i = 0; tls != NULL && i < 3; i++) {
        if (!conf_has(tls, names[i]))
            continue;
        *to[i] = s->texts[i] = strdup(conf_str(tls, names[i]));
        if (s->texts[i] == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    }
    return 0;
}

static void
set_limits(const struct conf *limits, struct server_conf *out)
{
    out->connections_max = (uint32_t)conf_int(limits, "connections");
    out->address_connections_max = (uint32_t)conf_int(limits, "connections_per_address");
    out->requests_per_s = (uint32_t)conf_int(limits, "requests_per_s");
}

static void
set_requests(const struct conf *requests, struct server_conf *out)
{
    out->access_log = conf_bool(requests, "log");
    out->slow_ms = (uint32_t)(conf_duration_us(requests, "slow") / 1000);
}

int
clii_serve(struct cli *c, struct err *err)
{
    struct scavenge_plan *plan = NULL;
    struct serving        s = {0};
    struct server_conf    conf = {.signals = true, .reload = on_reload, .reload_arg = &s};
    struct conf          *root = NULL;
    struct jobs          *jobs = NULL;
    struct surgeries     *surgeries = NULL;
    struct log           *log = NULL;
    struct groups        *groups = NULL;
    struct fields        *fields = NULL;
    struct upcasts       *upcasts = NULL;
    struct users         *users = NULL;
    enum server_auth      mode;
    struct tracing       *tracing = NULL;
    struct log_report     report;
    char                  host[HOST_BYTES] = "", data[DATA_BYTES];
    int                   rc = 0;

    /* What one transaction of the index took goes back to the system, instead of into a heap. */
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 20);
    TRY(clii_need_folder(c, err));
    TRY(enginei_config_load(c, c->opt[OPT_CONF], &root, err));
    if (c->opt[OPT_DATA] == NULL && conf_has(root, "data")) {
        (void)snprintf(data, sizeof data, "%s", conf_str(root, "data"));
        c->opt[OPT_DATA] = data;
    }
    TRY(read_listen(c->opt[OPT_LISTEN] != NULL ? c->opt[OPT_LISTEN] : conf_str(root, "listen"),
                    host, &conf.port, err));
    TRY(check_exposed(c, root, host, &mode, err));
    if (host[0] != '\0')
        conf.host = host;
    set_limits(conf_child(root, "limits"), &conf);
    TRY(read_tls(&s, root, err));
    conf.tls = s.tls;
    set_requests(conf_child(root, "requests"), &conf);
    TRY(enginei_upcasts(root, &upcasts, err));
    TRY(tracingi_new(env_real(), root, &tracing, err));
    say_init(env_real(), SAY_INFO);
    c->opening = true;
    TRY(open_log(c, root, &report, &log, err));
    TRY(stream_router_new(env_real(), log, &c->router, err));
    /* The port first: a second server must not touch what a configuration names. */
    TRY(server_new(env_real(), log, &conf, &s.server, err));
    c->opening = false;
    say_report(c, &report);
    TRY(open_users(s.server, log, mode, root, &users, err));
    TRY(group_open(env_real(), log, &groups, err));
    TRY(server_add_groups(s.server, groups, err));
    TRY(clii_fields_open(c, log, false, &fields, err));
    TRY(server_add_fields(s.server, fields, err));
    TRY(enginei_quotas(root, s.server, err));
    TRY(server_set_upcasts(s.server, upcasts, err));
    TRY(enginei_scavenge_new(env_real(), log, root, &plan, err));
    server_set_traces(s.server, tracingi_queue(tracing));
    TRY(enginei_new(c, log, tracingi_queue(tracing), &root, &s.engine, err));
    TRY(enginei_routes(s.engine, s.server, err));
    TRY(jobsi_new(env_real(), log, c->subjects, &jobs, err));
    TRY(jobsi_routes(jobs, s.server, err));
    TRY(surgeriesi_new(env_real(), log, &surgeries, err));
    TRY(surgeriesi_routes(surgeries, s.server, err));
    env_real_prompt();
    rc = server_run(s.server, err);
    clii_catch(); /* the loop gave the signals back */
out:
    enginei_free(s.engine);
    jobsi_free(jobs);
    surgeriesi_free(surgeries);
    enginei_scavenge_free(plan);
    server_free(s.server);
    user_close(users);
    tracingi_free(tracing);
    upcast_set_free(upcasts);
    fields_close(fields);
    group_close(groups);
    clii_log_close(c, log);
    conf_free(root);
    for (int i = 0; i < 3; i++)
        free(s.texts[i]);
    return rc;
}
