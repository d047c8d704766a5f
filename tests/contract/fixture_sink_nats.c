/* The sink nats: each world is a stream of its own, read back by libnats. */
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "contract.h"
#include "env/env_real.h"
#include "sink/nats/nats.h"

struct world {
    char            name[32], subjects[64];
    struct conf    *conf;
    natsConnection *conn;
    jsCtx          *js;
};

static void
ok(natsStatus st)
{
    if (st != NATS_OK)
        fail_msg("NATS: %s", natsStatus_GetText(st));
}

static void *
setup(void)
{
    static unsigned made;
    struct world   *w = calloc(1, sizeof *w);
    const char     *url = contract_server("NATS_URL"), *subjects[1];
    jsStreamConfig  config;

    assert_non_null(w);
    (void)snprintf(w->name, sizeof w->name, "w%u", made++);
    (void)snprintf(w->subjects, sizeof w->subjects, "%s.*", w->name);
    ok(natsConnection_ConnectTo(&w->conn, url));
    ok(natsConnection_JetStream(&w->js, w->conn, NULL));
    ok(jsStreamConfig_Init(&config));
    subjects[0] = w->subjects;
    config.Name = w->name;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    ok(js_AddStream(NULL, w->js, &config, NULL, NULL));
    w->conf =
        contract_conf(sink_nats_ops.schema,
                      "servers: [%s]\nsubject: '%s.{key}'\nmessage_max: 64KiB\n", url, w->name);
    return w;
}

static void
teardown(void *world)
{
    struct world *w = world;

    jsCtx_Destroy(w->js);
    natsConnection_Destroy(w->conn);
    conf_free(w->conf);
    free(w);
}

static struct sink *
open_one(void *world)
{
    struct world *w = world;
    struct sink  *s;
    struct err    err;

    contract_ok(sink_new(env_real(), &sink_nats_ops, "out", w->conf, &s, &err), &err);
    return s;
}

static void
state(void *world, struct fold *out)
{
    struct world *w = world;
    jsStreamInfo *info;
    natsMsg      *msg;
    uint64_t      last;

    ok(js_GetStreamInfo(&info, w->js, w->name, NULL, NULL));
    last = info->State.LastSeq;
    jsStreamInfo_Destroy(info);
    for (uint64_t seq = 1; seq <= last; seq++) {
        const char *type;

        ok(js_GetMsg(&msg, w->js, w->name, seq, NULL, NULL));
        ok(natsMsgHeader_Get(msg, "ce-type", &type));
        contract_fold_message(out, slice_str(strchr(natsMsg_GetSubject(msg), '.') + 1),
                              slice_str(type),
                              slice_of(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg)));
        natsMsg_Destroy(msg);
    }
}

const struct sink_fixture sink_fixture_nats = {
    .name = "nats", .setup = setup, .teardown = teardown, .open = open_one, .state = state};
